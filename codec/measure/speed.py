"""The ruler for speed: what people wait for, in one run, beside Pillow's codecs on the same images.

    python -m codec.measure.speed ../shared/data -o weights/speed.json      # --quick: a smoke run

DATA holds `mnist/t10k-images-idx3-ubyte.gz` and `fashion/...`, as for examples/curves.py. Nothing
else should run meanwhile: the load of the machine before the run is in the result.

READ ME FIRST
- The engine is the one that is active ($AEZ_ENGINE chooses it); after it numpy does the same.
- Images in memory go through `codec.compress` and `codec.decompress`, on all cores, and on one
  where the gain of the others is wanted. Models are loaded before. Best of a few runs.
- Pillow's codecs write and read files in memory: on one core in this process, on all cores in
  processes that were started before. A ratio is images/s by images/s; "1 core" and "N cores" say
  how many the other codec had, the row how many aez had.
- Efficiency is images/s * multiply-adds an image / G, G that of the cores used. It is told where
  the multiply-adds are known: named models, effort 1 or lossless, no guard.
- Commands are whole processes: start, imports, workers, files.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from codec import __version__, api, kernels, parallel
from codec.errors import AezError
from codec.files.atomic import atomic
from codec.files.images import pack_idx, pack_png, read_array
from codec.format.bitstream import GROUP_IMAGES, LOSSLESS_QUALITY
from codec.measure import bench
from codec.measure.curve import best_seconds, efficiency, machine, products_per_s
from codec.measure.reading import median_ms, random_access_ms, write_pngs
from codec.model import registry
from codec.model.ladder_search import DEFAULT_EFFORT

U8 = npt.NDArray[np.uint8]
Row = dict[str, Any]
Say = Callable[[Row], None]

DATA = ("mnist", "fashion")  # folders of the images, and names of the models
QUALITIES = (25, 75)
# Those of `bench.of_pillow` that speeds are compared with.
OTHERS = (("png", "default"), ("webp", "q0 m6"), ("webp", "lossless m6"), ("avif", "q40"))
COLD_QUALITY = 75


@dataclass(frozen=True)
class Size:
    """How much is measured.  enough_s: no further run of what took so long already."""

    images: int = 2048
    of_others: int = 1000
    png_files: int = 6000
    idx_images: int = 10_000
    reads: int = 300
    processes: int = 5
    repeat: int = 2
    enough_s: float = 3.0
    products: int = 20


QUICK = Size(64, 16, 60, 128, 20, 1, 1, 0.0, 2)


class Case(NamedTuple):
    """One way through the codec in memory.

    named: by the model of the images, without a guard; else by auto, with it.
    """

    way: str  # "encode" or "decode"
    quality: int
    effort: int
    named: bool

    @property
    def lossless(self) -> bool:
        return self.quality == LOSSLESS_QUALITY

    @property
    def has_efficiency(self) -> bool:
        return self.named and (self.effort == 1 or self.lossless)


CASES = (
    *(Case("decode", quality, 1, True) for quality in QUALITIES),
    *(
        Case("encode", quality, effort, named)
        for effort in (1, DEFAULT_EFFORT)
        for quality in QUALITIES
        for named in (True, False)
    ),
    *(
        Case(way, LOSSLESS_QUALITY, 1, named)
        for way in ("encode", "decode")
        for named in (True, False)
    ),
)


def engines() -> list[str]:
    """The engine that is active, and numpy if that is another."""
    active = kernels.active()
    return ["numpy"] if active is None else [f"native-{active.instruction_set}", "numpy"]


def core_counts() -> list[int]:
    """All cores, and one if that is fewer."""
    return sorted({parallel.num_cores(), 1}, reverse=True)


def _per_s(count: float, seconds: float) -> float:
    return float(f"{count / seconds:.4g}")


# In memory


def in_memory(
    pixels: U8, data: str, cases: tuple[Case, ...], size: Size, say: Say
) -> Iterator[Row]:
    """Rows of uint8 (N, 28, 28), by every engine; on one core too where the efficiency is told."""
    for case in cases:
        model = (data + "-lossless" * case.lossless) if case.named else "auto"
        options: dict[str, Any] = {
            "quality": case.quality,
            "model": model,
            "effort": case.effort,
            "guard": not case.named,
        }
        work: Callable[[], object] = functools.partial(api.compress, pixels, **options)
        if case.way == "decode":
            work = functools.partial(api.decompress, api.compress(pixels, **options))
        for engine in engines():
            for cores in (
                core_counts() if case.has_efficiency and engine != "numpy" else core_counts()[:1]
            ):
                with kernels.use(engine), parallel.cores(cores):
                    api.decompress(api.compress(pixels[:1], **options))  # loads the models
                    seconds = best_seconds(work, size.repeat, size.enough_s)
                    row = {
                        "data": data,
                        **case._asdict(),
                        "model": model,
                        "engine": kernels.description(),
                        "cores": cores,
                        "images_per_s": _per_s(len(pixels), seconds),
                    }
                if case.has_efficiency:
                    counts = registry.by_name(model, None).multiply_adds(pixels)
                    row["multiply_adds"] = counts[case.way == "decode"]
                say(row)
                yield row


# Others


@functools.cache
def _coder(codec: str, setting: str) -> bench.Coder | None:
    found = (
        coder for coder in bench.of_pillow([]) if (coder.codec, coder.setting) == (codec, setting)
    )
    return next(found, None)


def _encode(codec: str, setting: str, pixels: U8) -> list[bytes]:
    coder = _coder(codec, setting)
    assert coder is not None
    return coder.encode(pixels)


def _decode(codec: str, setting: str, files: list[bytes]) -> int:
    coder = _coder(codec, setting)
    assert coder is not None
    return len(coder.decode(files))


def _all(spread: Any, work: Any, inputs: list[Any]) -> list[Any]:
    return list(spread(work, inputs))


def of_others(pixels: U8, data: str, size: Size, say: Say) -> Iterator[Row]:
    """Rows of Pillow's codecs, for uint8 (N, 28, 28)."""
    num_cores = parallel.num_cores()
    parts = np.array_split(pixels, num_cores)
    with ProcessPoolExecutor(num_cores, multiprocessing.get_context("spawn")) as pool:
        for codec, setting in OTHERS:
            if _coder(codec, setting) is None:
                continue
            encode, decode = (
                functools.partial(_encode, codec, setting),
                functools.partial(_decode, codec, setting),
            )
            list(pool.map(encode, parts))  # starts the processes
            files = [encode(part) for part in parts]
            for way, work, inputs in (("encode", encode, parts), ("decode", decode, files)):
                for cores in core_counts():
                    spread = functools.partial(_all, map if cores == 1 else pool.map, work, inputs)
                    seconds = best_seconds(spread, size.repeat, size.enough_s)
                    row = {
                        "data": data,
                        "codec": codec,
                        "setting": setting,
                        "way": way,
                        "cores": cores,
                        "images_per_s": _per_s(len(pixels), seconds),
                    }
                    say(row)
                    yield row


# One image


def waits(pixels: U8, data: str, folder: Path, size: Size, say: Say) -> Iterator[Row]:
    """Milliseconds for one image of a collection, and for a single-image stream after the first."""
    single = [api.compress(image, model=data, effort=1) for image in pixels[: size.reads]]
    for quality in sorted(QUALITIES, reverse=True):
        path = folder / f"{data}-{quality}.aez"
        path.write_bytes(api.compress(pixels, quality=quality, model=data, effort=1))
        for engine in engines():
            with kernels.use(engine):
                row = {
                    "what": "one random image of a collection",
                    "data": data,
                    "quality": quality,
                    "engine": kernels.description(),
                    "ms": random_access_ms(path, size.reads),
                }
            say(row)
            yield row
    for engine in engines():
        with kernels.use(engine):
            works = [functools.partial(api.decompress, stream) for stream in single]
            row = {
                "what": "decompress of one image",
                "data": data,
                "quality": api.DEFAULT_QUALITY,
                "engine": kernels.description(),
                "ms": median_ms(works),
            }
        say(row)
        yield row


# Whole commands


def _aez(*args: object, engine: str) -> None:
    """Run the command line in a process of its own.  Raises AezError."""
    home = str(Path(api.__file__).parent.parent)
    path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "AEZ_ENGINE": engine, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-m", "codec", *map(str, args)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise AezError(f"aez {' '.join(map(str, args))}: {done.stderr.strip()}")


def commands(pixels: U8, folder: Path, size: Size, say: Say) -> Iterator[Row]:
    """Files to a collection and back by the command line, on all cores and on one; a cold file."""
    tree, idx, back = folder / "png", folder / "images-idx3-ubyte", folder / "back"
    pngs = pixels[np.arange(size.png_files) % len(pixels)]
    many = pixels[np.arange(size.idx_images) % len(pixels)]
    write_pngs(tree, pngs)
    idx.write_bytes(pack_idx(many))
    jobs: list[tuple[str, int, tuple[object, ...]]] = [
        (
            "PNG files to a collection, default",
            len(pngs),
            ("compress", tree, "-o", folder / "png.aez"),
        ),
        ("a collection to PNG files", len(pngs), ("decompress", folder / "png.aez", "-o", back)),
        (
            "IDX to a collection, effort 1",
            len(many),
            ("compress", idx, "-e", 1, "-o", folder / "idx.aez"),
        ),
        (
            "a collection to .npy",
            len(many),
            ("decompress", folder / "idx.aez", "-o", folder / "back.npy"),
        ),
    ]
    for what, count, command in jobs:
        for engine in engines():
            # numpy is measured on all cores, which is what users had.
            for cores in core_counts() if engine == engines()[0] else core_counts()[:1]:
                times = []
                for _ in range(min(size.repeat, 2)):
                    shutil.rmtree(back, ignore_errors=True)
                    work = functools.partial(_aez, *command, "-f", "-j", cores, engine=engine)
                    times.append(best_seconds(work, 1))
                with kernels.use(engine):
                    row = {
                        "what": what,
                        "images": count,
                        "engine": kernels.description(),
                        "cores": cores,
                        "images_per_s": _per_s(count, min(times)),
                        "seconds": round(min(times), 3),
                    }
                say(row)
                yield row
    (folder / "one.png").write_bytes(pack_png(pixels[0]))
    one = folder / "one.aez"
    for engine in engines():
        _aez("compress", folder / "one.png", "-q", COLD_QUALITY, "-o", one, "-f", engine=engine)
        work = functools.partial(
            _aez, "decompress", one, "-o", folder / "one.back.png", "-f", engine=engine
        )
        times = [best_seconds(work, 1) for _ in range(size.processes)]
        with kernels.use(engine):
            row = {
                "what": "aez decompress one.aez, the whole process",
                "images": 1,
                "engine": kernels.description(),
                "seconds": round(float(np.median(times)), 3),
                "best_seconds": round(min(times), 3),
            }
        say(row)
        yield row


# What follows from them


def compare(rows: list[Row], others: list[Row], yardsticks: dict[int, float]) -> None:
    """Tell of each row of `in_memory` its efficiency and its ratios.

    yardsticks: G by cores.
    """
    keys = ("data", "way", "quality", "effort", "named", "engine", "cores")
    speeds = {tuple(row[key] for key in keys): row["images_per_s"] for row in rows}
    for row in rows:
        if "multiply_adds" in row:
            row["efficiency"] = efficiency(
                row["images_per_s"], row["multiply_adds"], yardsticks[row["cores"]]
            )
        for other in others:
            if (other["data"], other["way"]) == (row["data"], row["way"]):
                ratios = row.setdefault("ratio_to", {}).setdefault(
                    f"{other['codec']} {other['setting']}", {}
                )
                cores = "1 core" if other["cores"] == 1 else f"{other['cores']} cores"
                ratios[cores] = round(row["images_per_s"] / other["images_per_s"], 3)
        for name, change in (
            ("gain_over_one_core", {"cores": 1}),
            ("ratio_to_numpy", {"engine": "numpy"}),
            ("ratio_to_named", {"named": True}),
        ):
            changed = {**row, **change}
            speed = speeds.get(tuple(changed[key] for key in keys))
            if changed != row and speed is not None:
                row[name] = round(row["images_per_s"] / speed, 3)


def evaluate_speed(
    sets: dict[str, U8],
    folder: Path,
    size: Size = Size(),
    cases: tuple[Case, ...] = CASES,
    say: Say = lambda row: None,
) -> dict[str, Any]:
    """All figures of sets of images, uint8 (N, 28, 28), by the names of their models.

    Files are written below `folder`.
    """
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    num_cores = parallel.num_cores()

    def products() -> tuple[dict[int, float], float]:
        by_cores = {cores: products_per_s(cores, repeat=size.products) for cores in core_counts()}
        return by_cores, products_per_s(num_cores, side_by_side=True, repeat=size.products)

    before = products()
    rows: list[Row] = []
    others: list[Row] = []
    one_image: list[Row] = []
    for data, pixels in sets.items():
        others += of_others(pixels[: size.of_others], data, size, say)
        rows += in_memory(pixels[: size.images], data, cases, size, say)
        one_image += waits(pixels[: size.reads * GROUP_IMAGES], data, folder, size, say)
    whole = list(commands(next(iter(sets.values())), folder, size, say))
    after = products()
    yardsticks = {cores: max(before[0][cores], after[0][cores]) for cores in core_counts()}
    side_by_side = max(before[1], after[1])
    compare(rows, others, yardsticks)
    return {
        "aez": __version__,
        "machine": machine(),
        "load_before": load,
        "engine": kernels.description(),
        "cores_used": num_cores,
        "images": {data: min(len(p), size.images) for data, p in sets.items()},
        "images_of_others": size.of_others,
        "products_per_s": {
            **{str(cores): round(speed) for cores, speed in yardsticks.items()},
            "side_by_side": round(side_by_side),
            "before": {str(cores): round(speed) for cores, speed in before[0].items()},
        },
        "gain_of_products_side_by_side": round(side_by_side / yardsticks[1], 3),
        "gain_of_jobs": gains(whole),
        "in_memory": rows,
        "others": others,
        "one_image": one_image,
        "commands": whole,
    }


def gains(rows: list[Row]) -> dict[str, float]:
    """Of each command of `commands`: how much faster all cores are than one."""
    speeds = {
        (row["what"], row["engine"], row["cores"]): row["images_per_s"]
        for row in rows
        if "cores" in row
    }
    return {
        what: round(speed / speeds[what, engine, 1], 3)
        for (what, engine, cores), speed in speeds.items()
        if cores != 1 and (what, engine, 1) in speeds
    }


def main() -> None:
    """Command line of the ruler; not part of `aez`."""
    parser = argparse.ArgumentParser(
        prog="python -m codec.measure.speed", description="Speed as JSON."
    )
    parser.add_argument("data", type=Path, help="folder of mnist/ and fashion/")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("-f", "--force", action="store_true", help="overwrite OUT")
    parser.add_argument(
        "--quick", action="store_true", help="few images, once: does it run at all?"
    )
    args = parser.parse_args()
    size = QUICK if args.quick else Size()
    sets = {name: read_array(args.data / name / "t10k-images-idx3-ubyte.gz") for name in DATA}
    with tempfile.TemporaryDirectory() as folder:
        result = evaluate_speed(
            sets, Path(folder), size, say=lambda row: print(json.dumps(row), flush=True)
        )
    with atomic(args.out, force=args.force) as file:
        file.write((json.dumps({"quick": args.quick, **result}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
