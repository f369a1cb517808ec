"""`aez bench`: aez and other codecs on the same images, measured in the same way.

READ ME FIRST
- Bytes are means over the images, of whole files or of one file of all images, without names. In
  the results the latter is "collection", and "one_file" says what it is: a collection of aez, a
  sheet (a picture with all images side by side) or a frame of zstd, both without random access. The
  payload is a file without its constant part: for aez the header tells; for the others it is the
  file less the bytes that a black image takes at the same setting, which is a little too kind.
- Of many images, single files are made of some alone, evenly spread, by all codecs of the same.
- Speeds are those of one core, in memory, in processor time, so that other load on the machine
  hardly counts; best of a few runs. Pillow's PNG, by which they are divided, is measured in the
  same run. Single files of aez go through the network together, as those of a directory do.
- Efficiency is images/s * multiply-adds an image / G (`timing`), on one core. For encoding it is
  given at effort 1 and lossless, where the multiply-adds are known: higher efforts search. The
  guard takes time that is counted, but its multiply-adds are not.
- PSNR is that of the mean squared error over all images, SSIM the mean over images. BD-rate
  interpolates by PCHIP.
- With "auto", one model is chosen for all images: the one that suits most of them.

Nothing is printed here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from codec import __version__, api, metrics, parallel
from codec.arrays import I64, U8, spread
from codec.encoder.options import DEFAULT_EFFORT
from codec.errors import ModelNotFound, UsageError
from codec.format.constants import LOSSLESS_QUALITY, NEAR_LOSSLESS
from codec.measure import codecs
from codec.measure.codecs import Codec
from codec.measure.page import Outcome
from codec.measure.points import Point, Row, bd_rate_percent
from codec.measure.timing import best_of, efficiency, machine, measured_by
from codec.model import registry

Others = Callable[[U8, list[str]], Iterable[Codec]]
Step = Callable[[str, int, int], None]

QUALITIES = (10, 40, 70, 85, 95)
EFFORTS = (1, DEFAULT_EFFORT)
SAMPLE = 64  # images that choose the model
FILES = 1000  # images that become single files, at most
ENOUGH_S = 0.1  # work that took less is timed again
MAX_RUNS = 5


@dataclass(frozen=True)
class Bench:
    """results: JSON values, as in `results.json`; decoded: what single files of aez decode to, by
    quality, at the main effort; files: the numbers of the images that became single files.
    """

    results: dict[str, Any]
    decoded: dict[int, Outcome]
    files: I64


@dataclass(frozen=True)
class Models:
    """Names (or files) of the models that are measured, None where there is none."""

    lossy: str | None
    lossless: str | None

    def of(self, lossless: bool) -> str | None:
        return self.lossless if lossless else self.lossy


def bench(
    pixels: U8,
    *,
    model: str = "auto",
    qualities: Sequence[int] = QUALITIES,
    efforts: Sequence[int] = EFFORTS,
    max_errors: Sequence[int] = codecs.MAX_ERRORS,
    max_files: int = FILES,
    others: Others = codecs.others,
    enough_s: float = ENOUGH_S,
    step: Step = lambda what, done, total: None,
) -> Bench:
    """Measure all codecs on uint8 (N, 28, 28), N >= 1.

    model: name or file of a model, lossy or lossless, or "auto". qualities: of aez, 0 .. 99.
    efforts: of aez, 1 .. 9; the main effort, at which single files are measured, is DEFAULT_EFFORT
    or else the last one. max_errors: of aez, where the lossless model has learned grids.
    max_files: how many images become single files, at most. others: the other codecs, Pillow's PNG
    first. enough_s: work that took less is timed again. step: is called with what comes next, the
    steps done, and all steps.
    Raises UsageError, ModelError.
    """
    _check(pixels, qualities, efforts)
    main_effort = DEFAULT_EFFORT if DEFAULT_EFFORT in efforts else efforts[-1]
    missing: list[str] = []
    rows: list[Row] = []
    decoded: dict[int, Outcome] = {}
    files = spread(len(pixels), min(max_files, len(pixels)))
    with parallel.cores(1):
        measured = list(others(pixels, missing))
        models = choose_models(model, pixels, missing)
        measured += settings_of_aez(models, sorted(set(qualities)), efforts, main_effort)
        measured += near_lossless(models, max_errors)
        _warm_up(models, pixels)
        for number, codec in enumerate(measured):
            step(f"{codec.name} {codec.setting}", number, len(measured))
            row, outcome = measure(codec, pixels, enough_s, pixels[files])
            rows.append(row)
            if codec.quality is not None and outcome is not None:
                decoded[codec.quality] = outcome
        step("", len(measured), len(measured))
    by = measured_by(1, time.process_time)
    _add_efficiency(rows, models, pixels, by.products_per_s)
    _add_ratios(rows, rows[0]["file"])
    results = {
        "aez": __version__,
        "images": len(pixels),
        "images_as_files": len(files),
        "models": {"lossy": models.lossy, "lossless": models.lossless},
        "main_effort": main_effort,
        "machine": machine(),
        **by._asdict(),
        "rows": rows,
        "bd_rates": list(_bd_rates(rows, main_effort)),
        "not_measured": missing,
    }
    return Bench(results, decoded, files)


def _check(pixels: U8, qualities: Sequence[int], efforts: Sequence[int]) -> None:
    if not len(pixels):
        raise UsageError("no images to measure")
    if not qualities or any(not 0 <= quality < LOSSLESS_QUALITY for quality in qualities):
        given = ", ".join(map(str, qualities)) or "missing"
        raise UsageError(f"qualities are {given}: give some from 0 to 99")
    if not efforts:
        raise UsageError("efforts are missing: give some from 1 to 9")


# The settings of aez


def choose_models(model: str, pixels: U8, missing: list[str]) -> Models:
    """The lossy and the lossless model to measure; adds to `missing` why there is only one.

    Raises ModelError if there is none.
    """
    found: dict[bool, str | None] = {}
    for lossless in (False, True):
        try:
            found[lossless] = choose_model(model, pixels, lossless=lossless)
        except (ModelNotFound, UsageError) as error:
            found[lossless] = None
            missing.append(f"aez, {'lossless' if lossless else 'lossy'}: {error}")
    if not any(found.values()):
        registry.by_name(model, None)  # raises what is wrong with this model
        raise ModelNotFound("no model is installed", model)
    return Models(found[False], found[True])


def choose_model(model: str, pixels: U8, *, lossless: bool) -> str:
    """The name of the model that suits most of the images; a name or file is returned unchanged.

    Raises ModelError, UsageError.
    """
    if model != "auto":
        registry.by_name(model, lossless)
        return model
    sample = pixels[spread(len(pixels), min(SAMPLE, len(pixels)))]
    counts = api.compress_images(sample, lossless=lossless, effort=1, guard=False)[1].models
    return max((name for name in counts if name != "stored"), key=counts.__getitem__, default=model)


def settings_of_aez(
    models: Models, qualities: Sequence[int], efforts: Sequence[int], main_effort: int
) -> Iterator[Codec]:
    """aez at each effort and quality, then lossless.  Single files only at the main effort."""
    if models.lossy:
        for effort in sorted(set(efforts)):
            for quality in qualities:
                yield codecs.aez(models.lossy, quality, effort, files=effort == main_effort)
    if models.lossless:
        yield codecs.aez(models.lossless, LOSSLESS_QUALITY, DEFAULT_EFFORT)


def near_lossless(models: Models, max_errors: Sequence[int]) -> Iterator[Codec]:
    """aez with a largest error, all images in one file, where its model has learned it."""
    steps = registry.by_name(models.lossless, True).grid_steps if models.lossless else ()
    for bound in max_errors:
        if bound and 2 * bound + 1 in steps:
            quality = NEAR_LOSSLESS + bound
            yield codecs.aez(str(models.lossless), quality, DEFAULT_EFFORT, files=False)


def _warm_up(models: Models, pixels: U8) -> None:
    """Load the models, and those that images fall back to, before anything is timed."""
    if models.lossy:
        api.compress(pixels, quality=0, model=models.lossy, effort=1)
    if models.lossless:
        api.compress(pixels[:1], lossless=True, model=models.lossless)


# Figures


def measure(
    codec: Codec, pixels: U8, enough_s: float = ENOUGH_S, as_files: U8 | None = None
) -> tuple[Row, Outcome | None]:
    """The row of one codec, and what its single files decode to, if they are measured.

    as_files: the images that become single files; None: all.
    """
    as_files = pixels if as_files is None else as_files

    def timed(work: Callable[[], Any]) -> tuple[float, Any]:
        return best_of(MAX_RUNS, work, enough_s=enough_s, clock=time.process_time)

    row: Row = {
        "codec": codec.name,
        "setting": codec.setting,
        "quality": codec.quality,
        "effort": codec.effort,
        "one_file": codec.one_file,
        "file": None,
    }
    measured: tuple[list[int], U8] | None = None
    if codec.files:
        encode_s, files = timed(lambda: codec.encode(as_files))
        decode_s, back = timed(lambda: codec.decode(files))
        row["file"] = _figures(as_files, sum(map(len, files)), back, encode_s, decode_s)
        row["file"]["payload_bytes"] = round(codec.payload_bytes(files) / len(files), 3)
        measured = [len(file) for file in files], back
    encode_s, stream = timed(lambda: codec.encode_all(pixels))
    decode_s, back = timed(lambda: codec.decode_all(stream, len(pixels)))
    row["collection"] = _figures(pixels, len(stream), back, encode_s, decode_s)
    row["lossless"] = row["collection"]["psnr_db"] is None
    return row, measured and Outcome(*measured, stream)


def _figures(pixels: U8, num_bytes: int, back: U8, encode_s: float, decode_s: float) -> Row:
    psnr_db = metrics.psnr_db(metrics.squared_error(pixels, back), pixels.size)
    return {
        "bytes": round(num_bytes / len(pixels), 3),
        "bpp": round(metrics.bpp(num_bytes, pixels.size), 4),
        "psnr_db": None if psnr_db is None else round(psnr_db, 3),
        "ssim": round(float(metrics.ssim(pixels, back).mean()), 5),
        "encode_images_per_s": round(len(pixels) / encode_s, 1),
        "decode_images_per_s": round(len(pixels) / decode_s, 1),
    }


def _figures_of(rows: Iterable[Row]) -> Iterator[tuple[Row, Row]]:
    """Each row with each of its figures: those of single files, if any, and of the collection."""
    for row in rows:
        for figures in (row["file"], row["collection"]):
            if figures is not None:
                yield row, figures


def _add_efficiency(rows: list[Row], models: Models, pixels: U8, products_per_s: float) -> None:
    """Add multiply-adds and efficiency to the rows of aez, where they are known."""
    counts: dict[bool, tuple[float, float]] = {}
    for lossless in (False, True):
        if name := models.of(lossless):
            counts[lossless] = registry.by_name(name, None).multiply_adds(pixels)
    for row in rows:
        if row["codec"] == "aez" and row["quality"] <= LOSSLESS_QUALITY:
            lossless = row["quality"] == LOSSLESS_QUALITY
            row["multiply_adds"] = dict(zip(("encode", "decode"), counts[lossless], strict=True))
            if not lossless and row["effort"] != 1:
                del row["multiply_adds"]["encode"]
    for row, figures in _figures_of(rows):
        for way, count in row.get("multiply_adds", {}).items():
            speed = figures[f"{way}_images_per_s"]
            figures[f"{way}_efficiency"] = efficiency(speed, count, products_per_s)


def _add_ratios(rows: list[Row], png: Mapping[str, float]) -> None:
    """Add the speeds as ratios to those of PNG files."""
    for _, figures in _figures_of(rows):
        for way, ratio in (("encode", "encode_per_png_write"), ("decode", "decode_per_png_read")):
            speed = f"{way}_images_per_s"
            figures[ratio] = round(figures[speed] / png[speed], 3)


def _bd_rates(rows: list[Row], main_effort: int) -> Iterator[Row]:
    """aez at the main effort against each other codec, and against its own other efforts."""
    for counted in ("file", "collection"):
        curves = curves_of(rows, counted)
        ours = curves.pop(("aez", main_effort), [])
        curves.pop(("aez", None), None)  # near-lossless, which has no such curve of its own
        for (name, effort), anchor in curves.items():
            percent, where = bd_rate_percent(anchor, ours)
            yield {
                "codec": f"aez e{main_effort}",
                "against": name if effort is None else f"{name} e{effort}",
                "counted": counted,
                "bd_rate_percent": percent,
                "at": where,
            }


def curves_of(rows: Iterable[Row], counted: str) -> dict[tuple[str, int | None], list[Point]]:
    """The lossy points by codec and effort.  counted: "file" or "collection"."""
    curves: dict[tuple[str, int | None], list[Point]] = {}
    for row in rows:
        figures = row[counted]
        if figures is not None and figures["psnr_db"] is not None:
            point = figures["bytes"], figures["psnr_db"]
            curves.setdefault((row["codec"], row["effort"]), []).append(point)
    return curves
