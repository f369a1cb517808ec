"""Speed: what people wait for, in one run, beside Pillow's codecs on the same images.

    python -m codec.measure.speed ../shared/data -o weights/speed.json      # --quick: does it run?

DATA holds `mnist/t10k-images-idx3-ubyte.gz` and `fashion/...`. Nothing else should run meanwhile:
the load of the machine before the run is in the result.

READ ME FIRST
- The engine is the one that is active ($AEZ_ENGINE chooses it); after it numpy does the same.
- Images in memory go through `codec.compress` and `codec.decompress` on all cores, and where the
  gain by more cores is of interest also on one. Models are loaded before. Best of a few runs.
- Other codecs write and read files in memory: on one core in this process, on all cores in
  processes that were started before. A ratio is images/s by images/s; "1 core" and "N cores" are
  the cores of the other codec, those of aez are in the row.
- Efficiency is images/s * multiply-adds an image / G (`timing`), with G of the cores that are used.
  It is given where the multiply-adds are known: named models at effort 1, no guard.
- One image and whole commands: `waits`.
"""

from __future__ import annotations

import functools
import itertools
import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

from codec import __version__, api, kernels, metrics, parallel
from codec.arrays import U8
from codec.encoder.options import DEFAULT_EFFORT
from codec.files.arrays import read_array
from codec.format.constants import GROUP_IMAGES, LOSSLESS_QUALITY
from codec.measure import codecs, tool, waits
from codec.measure.points import Row
from codec.measure.timing import best_of, efficiency, machine, products_per_s
from codec.measure.waits import QUALITIES, Size, core_counts, engines, per_s
from codec.model import registry

Say = Callable[[Row], None]

DATA = ("mnist", "fashion")  # folders of the images, and names of their models
# Those of `codecs.of_pillow` and `codecs.of_imagecodecs` that aez is compared with.
OTHERS = (
    ("png", "default"),
    ("png", "optimize"),
    ("webp", "q0 m6"),
    ("webp", "lossless m6"),
    ("avif", "q40"),
    ("jxl", "lossless e9"),
)
FULL, QUICK = Size(), Size(64, 16, 60, 128, 20, 1, 1, 0.0, 2)


class Case(NamedTuple):
    """One way through the codec in memory.

    named: with the model of the images, without the guard; else with "auto" and the guard.
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
        return self.named and self.effort == 1


CASES = (
    *(Case("decode", quality, 1, True) for quality in QUALITIES),
    *(
        Case("encode", quality, effort, named)
        for effort in (1, DEFAULT_EFFORT)
        for quality in (*QUALITIES, LOSSLESS_QUALITY)
        for named in (True, False)
    ),
    *(Case("decode", LOSSLESS_QUALITY, 1, named) for named in (True, False)),
)


# aez in memory


def in_memory(pixels: U8, data: str, cases: tuple[Case, ...], size: Size) -> Iterator[Row]:
    """Rows of uint8 (N, 28, 28) by every engine; also on one core where efficiency is given.

    data: name of the images and of their model.
    """
    for case in cases:
        model = (data + "-lossless" * case.lossless) if case.named else "auto"
        options: dict[str, Any] = {
            "quality": case.quality,
            "model": model,
            "effort": case.effort,
            "guard": not case.named,
        }
        work: Callable[[], object] = functools.partial(api.compress, pixels, **options)
        stream = api.compress(pixels, **options)
        if case.way == "decode":
            work = functools.partial(api.decompress, stream)
        row: Row = {"data": data, **case._asdict(), "model": model}
        row |= quality_of(pixels, api.decompress(stream), len(stream))
        if case.has_efficiency:
            counts = registry.by_name(model, None).multiply_adds(pixels)
            row["multiply_adds"] = counts[case.way == "decode"]
        for engine in engines():
            on_one = case.has_efficiency and engine != "numpy"
            for cores in core_counts() if on_one else core_counts()[:1]:
                with kernels.use(engine), parallel.cores(cores):
                    api.decompress(api.compress(pixels[:1], **options))  # loads the models
                    best_s, _ = best_of(size.repeat, work, enough_s=size.enough_s)
                yield {
                    **row,
                    "engine": waits.name_of(engine),
                    "cores": cores,
                    "images_per_s": per_s(len(pixels), best_s),
                }


def quality_of(pixels: U8, decoded: U8, num_bytes: int) -> Row:
    """Bytes an image, and PSNR in dB; None if it is exact."""
    psnr_db = metrics.psnr_db(metrics.squared_error(pixels, decoded), pixels.size)
    return {
        "bytes_per_image": round(num_bytes / len(pixels), 2),
        "psnr_db": None if psnr_db is None else round(psnr_db, 2),
    }


# Other codecs


@functools.cache
def _codec(name: str, setting: str) -> codecs.Codec | None:
    """One of the other codecs; None if it cannot be measured here."""
    every = itertools.chain(codecs.of_pillow([]), codecs.of_imagecodecs([]))
    return next((c for c in every if (c.name, c.setting) == (name, setting)), None)


# Workers find the codec by its name, as its functions cannot be sent to them.
def _encode(name: str, setting: str, pixels: U8) -> list[bytes]:
    codec = _codec(name, setting)
    return codec.encode(pixels) if codec else []


def _decode(name: str, setting: str, files: list[bytes]) -> int:
    codec = _codec(name, setting)
    return len(codec.decode(files)) if codec else 0


def of_others(pixels: U8, data: str, size: Size) -> Iterator[Row]:
    """Rows of other codecs, for uint8 (N, 28, 28), on all cores and on one."""
    num_cores = parallel.num_cores()
    shares = np.array_split(pixels, num_cores)
    with ProcessPoolExecutor(num_cores, multiprocessing.get_context("spawn")) as pool:
        for name, setting in OTHERS:
            codec = _codec(name, setting)
            if codec is None:
                continue
            encode = functools.partial(_encode, name, setting)
            decode = functools.partial(_decode, name, setting)
            files = list(pool.map(encode, shares))  # also starts the processes
            every = [file for some in files for file in some]
            found = quality_of(pixels, codec.decode(every), sum(map(len, every)))
            ways: tuple[tuple[str, Any, list[Any]], ...] = (
                ("encode", encode, shares),
                ("decode", decode, files),
            )
            for way, work, inputs in ways:
                for cores in core_counts():
                    spread: Any = map if cores == 1 else pool.map
                    run = functools.partial(_run, spread, work, inputs)
                    best_s, _ = best_of(size.repeat, run, enough_s=size.enough_s)
                    yield {
                        "data": data,
                        "codec": name,
                        "setting": setting,
                        "way": way,
                        **found,
                        "cores": cores,
                        "images_per_s": per_s(len(pixels), best_s),
                    }


def _run(spread: Any, work: Any, inputs: list[Any]) -> list[Any]:
    return list(spread(work, inputs))


# Ratios and efficiency


def compare(rows: list[Row], others: list[Row], yardsticks: dict[int, float]) -> None:
    """Add efficiency and ratios to each row of `in_memory`.

    others: rows of `of_others`; yardsticks: G by the number of cores.
    """
    keys = ("data", "way", "quality", "effort", "named", "engine", "cores")
    speeds = {tuple(row[key] for key in keys): row["images_per_s"] for row in rows}
    for row in rows:
        speed = row["images_per_s"]
        if "multiply_adds" in row:
            yardstick = yardsticks[row["cores"]]
            row["efficiency"] = efficiency(speed, row["multiply_adds"], yardstick)
        for other in others:
            if (other["data"], other["way"]) == (row["data"], row["way"]):
                ratios = row.setdefault("ratio_to", {})
                of_codec = ratios.setdefault(f"{other['codec']} {other['setting']}", {})
                cores = "1 core" if other["cores"] == 1 else f"{other['cores']} cores"
                of_codec[cores] = round(speed / other["images_per_s"], 3)
        for name, change in (
            ("gain_over_one_core", {"cores": 1}),
            ("ratio_to_numpy", {"engine": "numpy"}),
            ("ratio_to_named", {"named": True}),
        ):
            changed = {**row, **change}
            reference = speeds.get(tuple(changed[key] for key in keys))
            if changed != row and reference is not None:
                row[name] = round(speed / reference, 3)


def gains(rows: list[Row]) -> dict[str, float]:
    """How much faster each command of `waits.commands` is on all cores than on one."""
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


# All of it


class Yardsticks(NamedTuple):
    """G by the number of cores, and with a product of its own on each core."""

    by_cores: dict[int, float]
    side_by_side: float

    @classmethod
    def measure(cls, repeat: int) -> Yardsticks:
        return cls(
            {cores: products_per_s(cores, repeat=repeat) for cores in core_counts()},
            products_per_s(parallel.num_cores(), side_by_side=True, repeat=repeat),
        )

    def best(self, other: Yardsticks) -> Yardsticks:
        by_cores = {cores: max(g, other.by_cores[cores]) for cores, g in self.by_cores.items()}
        return Yardsticks(by_cores, max(self.side_by_side, other.side_by_side))


def evaluate_speed(
    sets: dict[str, U8],
    folder: Path,
    size: Size = FULL,
    cases: tuple[Case, ...] = CASES,
    say: Say = lambda row: None,
) -> dict[str, Any]:
    """All figures of sets of images, uint8 (N, 28, 28), by the names of their models.

    folder: files are written below it; say: is called with each row once it is measured.
    """
    load = os.getloadavg() if hasattr(os, "getloadavg") else None

    def shown(rows: Iterable[Row]) -> list[Row]:
        found = []
        for row in rows:
            say(row)
            found.append(row)
        return found

    before = Yardsticks.measure(size.products)
    rows: list[Row] = []
    others: list[Row] = []
    one_image: list[Row] = []
    for data, pixels in sets.items():
        others += shown(of_others(pixels[: size.of_others], data, size))
        rows += shown(in_memory(pixels[: size.images], data, cases, size))
        of_reads = pixels[: size.reads * GROUP_IMAGES]
        one_image += shown(waits.one_image(of_reads, data, folder, size))
    commands = shown(waits.commands(next(iter(sets.values())), folder, size))
    best = before.best(Yardsticks.measure(size.products))
    compare(rows, others, best.by_cores)
    return {
        "aez": __version__,
        "machine": machine(),
        "load_before": load,
        "engine": kernels.description(),
        "cores_used": parallel.num_cores(),
        "images": {data: min(len(p), size.images) for data, p in sets.items()},
        "images_of_others": size.of_others,
        "products_per_s": {
            **{str(cores): round(g) for cores, g in best.by_cores.items()},
            "side_by_side": round(best.side_by_side),
            "before": {str(cores): round(g) for cores, g in before.by_cores.items()},
        },
        "gain_of_products_side_by_side": round(best.side_by_side / best.by_cores[1], 3),
        "gain_of_jobs": gains(commands),
        "in_memory": rows,
        "others": others,
        "one_image": one_image,
        "commands": commands,
    }


def main(
    data: Annotated[Path, typer.Argument(help="Folder of mnist/ and fashion/.")],
    out: tool.Out,
    force: tool.Force = False,
    quick: Annotated[bool, typer.Option("--quick", help="Few images, once: does it run?")] = False,
) -> None:
    """Measure all speeds, and write them as JSON."""
    sets = {name: read_array(data / name / "t10k-images-idx3-ubyte.gz") for name in DATA}
    with tempfile.TemporaryDirectory() as folder:
        figures = evaluate_speed(
            sets,
            Path(folder),
            QUICK if quick else FULL,
            say=lambda row: print(json.dumps(row), flush=True),
        )
    tool.write_json(out, {"quick": quick, **figures}, force=force)


if __name__ == "__main__":
    tool.run(main)
