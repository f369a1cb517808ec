"""The ruler for collections: files in and out, as ratios to the same images in memory, measured in
the same run.

    python -m codec.measure.curve ../shared/data/mnist/train-images-idx3-ubyte.gz \\
        --collections --model mnist

Everything runs as `aez` runs it, on all cores, start of the worker processes included; the disk is
that of `folder`, its cache as the writing of the input files left it. Nothing here is a test.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codec import api, parallel
from codec.commands import compress as batch
from codec.commands import decompress as restore
from codec.commands.events import Result
from codec.errors import AezError
from codec.files import images
from codec.format.bitstream import GROUP_IMAGES
from codec.model.bundle import BaseModel

U8 = npt.NDArray[np.uint8]

RANDOM_READS = 300


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _whole(result: Result) -> None:
    if result.failed:
        raise AezError(f"{result.failed[0][0]}: {result.failed[0][1]}")


def write_pngs(folder: Path, pixels: U8) -> None:
    """The images as `0/00001.png` ..., each in one of ten folders that is drawn for it, as the
    digits of MNIST are.
    """
    labels = np.random.default_rng(0).integers(0, 10, len(pixels)).tolist()
    for label in range(10):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
    for i, (label, image) in enumerate(zip(labels, pixels, strict=True)):
        (folder / str(label) / f"{i:05d}.png").write_bytes(images.pack_png(image))


def evaluate_collections(
    model: BaseModel, pixels: U8, quality: int, folder: Path
) -> dict[str, Any]:
    """Speeds, ratios, overhead and random access with uint8 (N, 28, 28); writes some 2 KiB an image
    below `folder`.
    """
    jobs, asked = parallel.num_cores(), api.request(quality, effort=1)
    options = batch.CompressOptions(asked, model.name, jobs, force=True)
    tree, idx, out = folder / "png", folder / "images-idx3-ubyte", folder / "restored"
    write_pngs(tree, pixels)
    idx.write_bytes(images.pack_idx(pixels))
    stream = b""

    def encode() -> None:
        nonlocal stream
        stream = api.compress(pixels, quality=quality, model=model.name, effort=1)

    def compress(source: Path) -> None:
        out = str(folder / f"{source.name}.aez")
        _whole(Result.of(batch.compress([str(source)], out, options=options)))

    def decompress(name: str, target: Path) -> None:
        stream = str(folder / name)
        _whole(Result.of(restore.decompress([stream], str(target), jobs=jobs, force=True)))

    seconds = {
        "encode_in_memory": _seconds(encode),
        "png_to_collection": _seconds(lambda: compress(tree)),
        "idx_to_collection": _seconds(lambda: compress(idx)),
        "decode_in_memory": _seconds(lambda: api.decompress(stream)),
        "collection_to_png": _seconds(lambda: decompress("png.aez", out)),
        "collection_to_npy": _seconds(
            lambda: decompress("images-idx3-ubyte.aez", folder / "restored.npy")
        ),
    }
    assert (folder / "images-idx3-ubyte.aez").read_bytes() == stream
    encode_s, decode_s = seconds["encode_in_memory"], seconds["decode_in_memory"]
    with api.open(folder / "png.aez") as named:
        headers = list(named.headers())
        overhead = named.num_bytes - sum(header.payload_bytes for header in headers)
        return {
            "model": model.name,
            "quality": quality,
            "images": len(pixels),
            "cores": jobs,
            "images_per_s": {name: round(len(pixels) / s) for name, s in seconds.items()},
            "ratio_to_memory": {
                "png_to_collection": round(encode_s / seconds["png_to_collection"], 3),
                "idx_to_collection": round(encode_s / seconds["idx_to_collection"], 3),
                "collection_to_png": round(decode_s / seconds["collection_to_png"], 3),
                "collection_to_npy": round(decode_s / seconds["collection_to_npy"], 3),
            },
            "bytes_an_image": {
                "whole": round(named.num_bytes / len(pixels), 3),
                "names": round(sum(header.names_bytes for header in headers) / len(pixels), 3),
                "names_index_checks": round(overhead / len(pixels), 3),
            },
            "one_random_image_ms": random_access_ms(folder / "png.aez"),
        }


def random_access_ms(path: Path, reads: int = RANDOM_READS) -> float:
    """Milliseconds that one random image takes: the median of many, the first ones left out.

    No two of them share a group, since a group that was decoded is remembered.
    """
    with api.open(path) as collection:
        groups = np.random.default_rng(1).permutation(-(-len(collection) // GROUP_IMAGES))[:reads]
        numbers = np.minimum(
            groups * GROUP_IMAGES + GROUP_IMAGES // 2, len(collection) - 1
        ).tolist()
        return median_ms([lambda number=number: collection[number] for number in numbers])  # type: ignore[misc]


def median_ms(works: Sequence[Callable[[], object]]) -> float:
    """Milliseconds that one of them takes: the median, the first tenth left out."""
    times = [_seconds(work) for work in works]
    return round(float(np.median(times[-(-len(times) // 10) :] or times)) * 1000, 3)
