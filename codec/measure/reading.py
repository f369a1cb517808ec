"""Speeds of `aez compress` and `aez decompress` with files, as ratios to the same images in memory.

    python -m codec.measure.reading ../shared/data/mnist/train-images-idx3-ubyte.gz \\
        --model mnist -o reading.json

Everything runs as `aez` runs it, on all cores, start of the worker processes included. The disk is
that of the temporary folder, and its cache is as it was left by writing the input files.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from codec import api, parallel
from codec.arrays import U8
from codec.commands import compress, decompress
from codec.commands.events import Result
from codec.encoder.options import Options
from codec.errors import AezError
from codec.files import arrays, images
from codec.format.constants import GROUP_IMAGES, LOSSLESS_QUALITY
from codec.measure import tool
from codec.measure.timing import best_of, machine, median_ms, seconds
from codec.model import registry

RANDOM_READS = 300


def measure(model: str, pixels: U8, quality: int, folder: Path) -> dict[str, Any]:
    """Speeds, overhead of names and index, and random access, of uint8 (N, 28, 28), as JSON values.

    model: its name; folder: files are written below it, some 2 KiB an image.
    """
    tree, idx = folder / "png", folder / "images-idx3-ubyte"
    from_tree, from_idx = folder / "png.aez", folder / "idx.aez"
    write_pngs(tree, pixels)
    idx.write_bytes(images.pack_idx(pixels))
    encode_s, stream = best_of(
        1, lambda: api.compress(pixels, quality=quality, model=model, effort=1)
    )
    to_collection = {
        "png_to_collection": seconds(lambda: to_file(tree, from_tree, model, quality)),
        "idx_to_collection": seconds(lambda: to_file(idx, from_idx, model, quality)),
    }
    decode_s = seconds(lambda: api.decompress(stream))
    to_images = {
        "collection_to_png": seconds(lambda: from_file(from_tree, folder / "restored")),
        "collection_to_npy": seconds(lambda: from_file(from_idx, folder / "restored.npy")),
    }
    if from_idx.read_bytes() != stream:
        raise AezError(f"{from_idx}: not the bytes that codec.compress gives for these images")
    all_s = {
        "encode_in_memory": encode_s,
        **to_collection,
        "decode_in_memory": decode_s,
        **to_images,
    }
    return {
        "model": model,
        "quality": quality,
        "images": len(pixels),
        "cores": parallel.num_cores(),
        "images_per_s": {name: round(len(pixels) / s) for name, s in all_s.items()},
        "ratio_to_memory": {
            **{name: round(encode_s / s, 3) for name, s in to_collection.items()},
            **{name: round(decode_s / s, 3) for name, s in to_images.items()},
        },
        "bytes_an_image": overhead(from_tree),
        "one_random_image_ms": random_access_ms(from_tree),
    }


def to_file(source: Path, out: Path, model: str, quality: int) -> None:
    """`aez compress` at effort 1.  Raises AezError if anything failed."""
    encoding = Options.of(quality, model, effort=1)
    options = compress.CompressOptions(encoding, parallel.num_cores(), force=True)
    _whole(Result.of(compress.compress([str(source)], str(out), options=options)))


def from_file(stream: Path, out: Path) -> None:
    """`aez decompress`.  Raises AezError if anything failed."""
    jobs = parallel.num_cores()
    _whole(Result.of(decompress.decompress([str(stream)], str(out), jobs=jobs, force=True)))


def _whole(result: Result) -> None:
    if result.failed:
        name, reason = result.failed[0]
        raise AezError(f"{name}: {reason}")


def write_pngs(folder: Path, pixels: U8) -> None:
    """Write the images as `0/00001.png` ..., each into one of ten folders at random, as MNIST's
    digits would be.
    """
    labels = np.random.default_rng(0).integers(0, 10, len(pixels)).tolist()
    for label in range(10):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
    for i, (label, image) in enumerate(zip(labels, pixels, strict=True)):
        (folder / str(label) / f"{i:05d}.png").write_bytes(images.pack_png(image))


def overhead(path: Path) -> dict[str, float]:
    """Bytes an image of a collection: whole; its names; names, index and checks."""
    with api.open(path) as collection:
        headers = [block.header for block in collection.blocks]
        num_images = len(collection)
        num_bytes = {
            "whole": collection.num_bytes,
            "names": sum(header.names_bytes for header in headers),
            "names_index_checks": collection.num_bytes
            - sum(header.payload_bytes for header in headers),
        }
    return {name: round(count / num_images, 3) for name, count in num_bytes.items()}


def random_access_ms(path: Path, reads: int = RANDOM_READS) -> float:
    """Milliseconds to read one random image: the median of many, without the first ones."""
    with api.open(path) as collection:
        numbers = random_numbers(len(collection), reads)
        return median_ms([lambda n=n: collection[n] for n in numbers])  # type: ignore[misc]


def random_numbers(num_images: int, reads: int) -> list[int]:
    """Numbers of at most `reads` random images, no two of which share a group: groups that were
    decoded are remembered.
    """
    num_groups = -(-num_images // GROUP_IMAGES)
    groups = np.random.default_rng(1).permutation(num_groups)[:reads]
    numbers = np.minimum(groups * GROUP_IMAGES + GROUP_IMAGES // 2, num_images - 1)
    return [int(number) for number in numbers]


def main(
    data: Annotated[Path, typer.Argument(help="IDX, .npy or .npz file.")],
    out: tool.Out,
    model: Annotated[str, typer.Option(help="Name of a model.")],
    quality: Annotated[int, typer.Option("-q", "--quality", min=0, max=99)] = 75,
    force: tool.Force = False,
) -> None:
    """Measure files to collections and back, and write the speeds as JSON."""
    if registry.by_name(model, None).lossless:
        quality = LOSSLESS_QUALITY
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(model, arrays.read_array(data), quality, Path(folder))
    tool.write_json(out, {"data": data.name, "machine": machine(), **figures}, force=force)


if __name__ == "__main__":
    tool.run(main)
