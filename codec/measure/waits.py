"""What people wait for, beyond throughput in memory: one image, and whole commands.

    one_image   a random image of a collection; a single-image stream
    commands    `aez compress` and `aez decompress` as processes, with files; the start of a process

All of them yield rows for `speed`, each by every engine.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codec import api, kernels, parallel
from codec.arrays import U8
from codec.errors import AezError
from codec.files.images import pack_idx, pack_png
from codec.measure.points import Row
from codec.measure.reading import random_access_ms, write_pngs
from codec.measure.timing import median_ms, seconds

QUALITIES = (25, 75)
COLD_QUALITY = 75


@dataclass(frozen=True)
class Size:
    """How much is measured.  enough_s: work that took this long is not timed again."""

    images: int = 2048
    of_others: int = 1000
    png_files: int = 6000
    idx_images: int = 10_000
    reads: int = 300
    processes: int = 5
    repeat: int = 2
    enough_s: float = 3.0
    products: int = 20


def engines() -> list[str]:
    """The engine that is active, and numpy if that is another one."""
    active = kernels.active()
    return ["numpy"] if active is None else [f"native-{active.instruction_set}", "numpy"]


def name_of(engine: str) -> str:
    """The name of an engine as results have it."""
    with kernels.use(engine):
        return kernels.description()


def core_counts() -> list[int]:
    """All cores, and one if there are more."""
    return sorted({parallel.num_cores(), 1}, reverse=True)


def per_s(count: float, seconds: float) -> float:
    return float(f"{count / seconds:.4g}")


# One image


def one_image(pixels: U8, data: str, folder: Path, size: Size) -> Iterator[Row]:
    """Milliseconds for one image of a collection, and for a single-image stream after the first.

    pixels: uint8 (N, 28, 28); data: name of the images and of their model.
    """
    single = [api.compress(image, model=data, effort=1) for image in pixels[: size.reads]]
    row: Row = {"what": "one random image of a collection", "data": data}
    for quality in sorted(QUALITIES, reverse=True):
        path = folder / f"{data}-{quality}.aez"
        path.write_bytes(api.compress(pixels, quality=quality, model=data, effort=1))
        for engine in engines():
            with kernels.use(engine):
                ms = random_access_ms(path, size.reads)
            yield {**row, "quality": quality, "engine": name_of(engine), "ms": ms}
    row = {"what": "decompress of one image", "data": data, "quality": api.DEFAULT_QUALITY}
    for engine in engines():
        with kernels.use(engine):
            ms = median_ms([functools.partial(api.decompress, stream) for stream in single])
        yield {**row, "engine": name_of(engine), "ms": ms}


# Whole commands


def aez(*args: object, engine: str) -> None:
    """Run the command line in a process of its own.  Raises AezError if it fails."""
    home = str(Path(api.__file__).parent.parent)
    path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", "codec", *map(str, args)],
        env={**os.environ, "AEZ_ENGINE": engine, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise AezError(f"aez {' '.join(map(str, args))}: {done.stderr.strip()}")


def commands(pixels: U8, folder: Path, size: Size) -> Iterator[Row]:
    """Files to a collection and back by the command line, on all cores and on one; then the start
    of a process.

    pixels: uint8 (N, 28, 28), repeated as often as needed.
    """
    yield from _throughput(pixels, folder, size)
    yield from _cold_start(pixels[0], folder, size)


def _throughput(pixels: U8, folder: Path, size: Size) -> Iterator[Row]:
    tree, idx, back = folder / "png", folder / "images-idx3-ubyte", folder / "back"
    of_tree, of_idx = folder / "png.aez", folder / "idx.aez"
    write_pngs(tree, pixels[np.arange(size.png_files) % len(pixels)])
    idx.write_bytes(pack_idx(pixels[np.arange(size.idx_images) % len(pixels)]))
    measured: list[tuple[str, int, tuple[object, ...]]] = [
        (
            "PNG files to a collection, default",
            size.png_files,
            ("compress", tree, "-o", of_tree),
        ),
        (
            "a collection to PNG files",
            size.png_files,
            ("decompress", of_tree, "-o", back),
        ),
        (
            "IDX to a collection, effort 1",
            size.idx_images,
            ("compress", idx, "-e", 1, "-o", of_idx),
        ),
        (
            "a collection to .npy",
            size.idx_images,
            ("decompress", of_idx, "-o", folder / "back.npy"),
        ),
    ]
    for what, num_images, command in measured:
        for engine in engines():
            # numpy is measured on all cores only
            for cores in core_counts() if engine == engines()[0] else core_counts()[:1]:
                times = []
                for _ in range(min(size.repeat, 2)):
                    shutil.rmtree(back, ignore_errors=True)
                    work = functools.partial(aez, *command, "-f", "-j", cores, engine=engine)
                    times.append(seconds(work))
                yield {
                    "what": what,
                    "images": num_images,
                    "engine": name_of(engine),
                    "cores": cores,
                    "images_per_s": per_s(num_images, min(times)),
                    "seconds": round(min(times), 3),
                }


def _cold_start(image: U8, folder: Path, size: Size) -> Iterator[Row]:
    png, stream, back = (folder / name for name in ("one.png", "one.aez", "one.back.png"))
    png.write_bytes(pack_png(image))
    for engine in engines():
        aez("compress", png, "-q", COLD_QUALITY, "-o", stream, "-f", engine=engine)
        work = functools.partial(aez, "decompress", stream, "-o", back, "-f", engine=engine)
        times = [seconds(work) for _ in range(size.processes)]
        yield {
            "what": "aez decompress one.aez, the whole process",
            "images": 1,
            "engine": name_of(engine),
            "seconds": round(float(np.median(times)), 3),
            "best_seconds": round(min(times), 3),
        }
