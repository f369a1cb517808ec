"""A collection of aez against one sheet of all images, by AVIF and JPEG XL, as JSON.

    python -m codec.measure.sheets ../shared/data/natural/heldout.npy.gz -o natural.json
    ... -m new.safetensors -m new-lossless.safetensors -m auto    # the best of these

READ ME FIRST
- aez is measured at every kind of quality that the models have: `-q` of lossy ones, largest errors
  of lossless ones. Of these points those count that no other one beats in bytes and in dB.
- "at equal PSNR" is the BD-rate against AVIF: the mean of log bytes between two PSNRs, by PCHIP.
  `at` says between which: those of both curves, at most those that were asked for.
- Lossless is compared with JPEG XL at effort 9.
- Bytes are those of the one file, divided by the number of images. Images of a collection can be
  read alone, those of a sheet cannot.

Needs aez[bench], and a Pillow that was built with AVIF.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import features

from codec import metrics
from codec.arrays import U8, spread
from codec.encoder.options import DEFAULT_EFFORT
from codec.errors import ModelNotFound, UsageError
from codec.files.arrays import read_array
from codec.format.constants import LOSSLESS_QUALITY, NEAR_LOSSLESS
from codec.measure import codecs, tool
from codec.measure.codecs import AVIF_SPEED, Codec
from codec.measure.points import Row, bd_rate_percent, points_of
from codec.measure.timing import machine
from codec.model.registry import AUTO

QUALITIES = "40,50,60,70,75,80,85,90,95,99"
MAX_ERRORS = "1,2,3,4,6,8,12,17,25"
AVIF_QUALITIES = (10, 25, 40, 50, 60, 70, 80, 90, 95)
BETWEEN = "28,46"


def point(codec: Codec, pixels: U8) -> Row:
    """Bytes and PSNR of all images, uint8 (N, 28, 28), in one file."""
    file = codec.encode_all(pixels)
    back = codec.decode_all(file, len(pixels))
    psnr_db = metrics.psnr_db(metrics.squared_error(pixels, back), pixels.size)
    return {
        "codec": codec.name,
        "setting": codec.setting,
        "bytes": round(len(file) / len(pixels), 3),
        "psnr_db": None if psnr_db is None else round(psnr_db, 3),
    }


def of_aez(models: Iterable[str], qualities: Sequence[int], effort: int, pixels: U8) -> list[Row]:
    """The points of each model at those qualities that it has.  Raises ModelError."""
    rows = []
    for model in models:
        mine = list(_of_model(model, qualities, effort, pixels))
        if not mine:
            raise ModelNotFound("none of the qualities can be measured with this model", model)
        rows += mine
    return rows


def _of_model(model: str, qualities: Sequence[int], effort: int, pixels: U8) -> Iterator[Row]:
    for quality in qualities:
        try:
            row = point(codecs.aez(model, quality, effort), pixels)
        except (ModelNotFound, UsageError):  # a lossless model has no lossy quality, and so on
            continue
        yield told({**row, "model": model})


def told(row: Row) -> Row:
    print(row, flush=True)
    return row


def others(speed: int) -> Iterator[Codec]:
    """AVIF at many qualities, and JPEG XL without loss."""
    yield codecs.jxl(None)
    for quality in AVIF_QUALITIES:
        yield codecs.avif(quality, speed)


def compare(rows: Sequence[Row], between: tuple[float, float]) -> dict[str, Any]:
    """aez against the others, in percent of their bytes."""
    by_codec = {name: [row for row in rows if row["codec"] == name] for name in ("aez", "avif")}
    anchor, ours = points_of(by_codec["avif"]), points_of(by_codec["aez"])
    percent, where = bd_rate_percent(anchor, ours, between)
    exact = {
        name: min((row["bytes"] for row in rows if is_exact(row, name)), default=None)
        for name in ("aez", "jxl")
    }
    lossless = (
        round(100 * (exact["aez"] / exact["jxl"] - 1), 2) if exact["aez"] and exact["jxl"] else None
    )
    return {
        "at_equal_psnr_against_avif_percent": percent,
        "at": where,
        "lossless_bytes": exact,
        "lossless_against_jxl_percent": lossless,
    }


def is_exact(row: Row, codec: str) -> bool:
    return bool(row["codec"] == codec and row["psnr_db"] is None)


def main(
    data: Annotated[Path, typer.Argument(help="IDX, .npy or .npz file.")],
    out: tool.Out,
    model: Annotated[
        list[str], typer.Option("-m", "--model", help="Name or file; several: the best of all.")
    ] = [AUTO],  # noqa: B006
    qualities: Annotated[str, typer.Option(metavar="Q,Q,...", help="Lossy.")] = QUALITIES,
    max_errors: Annotated[str, typer.Option(metavar="N,N,...", help="Near.")] = MAX_ERRORS,
    effort: Annotated[int, typer.Option("-e", min=1, max=9)] = DEFAULT_EFFORT,
    between: Annotated[str, typer.Option(metavar="DB,DB", help="PSNRs.")] = BETWEEN,
    images: Annotated[int, typer.Option(help="At most so many, evenly spread.")] = 100_000,
    avif_speed: Annotated[int, typer.Option(min=0, max=10, help="0: slowest.")] = AVIF_SPEED,
    force: tool.Force = False,
) -> None:
    """Measure aez, AVIF and JPEG XL on all images as one file, and write the figures as JSON."""
    low_high = tool.integers(between)
    if len(low_high) != 2:
        raise typer.BadParameter(f"--between {between}: give two numbers such as {BETWEEN}")
    if not features.check("avif"):
        raise UsageError("this Pillow was built without AVIF")
    pixels = read_array(data)
    pixels = pixels[spread(len(pixels), min(images, len(pixels)))]
    near = [NEAR_LOSSLESS + bound for bound in tool.integers(max_errors)]
    wanted = [*tool.integers(qualities), *near, LOSSLESS_QUALITY]
    rows = [told(point(codec, pixels)) for codec in others(avif_speed)]
    rows += of_aez(model, wanted, effort, pixels)
    figures = compare(rows, (low_high[0], low_high[1]))
    found = {"data": data.name, "images": len(pixels), "models": model, "effort": effort}
    tool.write_json(out, {**found, **figures, "machine": machine(), "rows": rows}, force=force)
    print(figures)


if __name__ == "__main__":
    tool.run(main)
