"""The rate-distortion curves of the shipped models beside those of other codecs:
`weights/curves.json` and its pictures.

    python examples/curves.py DATA RESULTS

DATA holds `mnist/t10k-images-idx3-ubyte.gz` and `fashion/...`. RESULTS is the JSON of the other
codecs: rows with `dataset`, `codec`, `setting`, `counted`, `bytes` and `psnr_db`. Points that
`weights/curves.json` already has for the same model, encoder and images are kept, and it is written
after every new one: run the same command again to resume. `--first mnist:26,50` measures these
qualities at the default effort before all others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from codec.arrays import spread
from codec.encoder.options import DEFAULT_EFFORT
from codec.errors import UsageError
from codec.files.arrays import read_array
from codec.files.atomic import atomic
from codec.measure import tool
from codec.measure.curve import curve
from codec.measure.plot import Mark, Series, colour, label, plot
from codec.measure.points import psnr_at
from codec.model import registry

ROOT = Path(__file__).resolve().parents[1]
# folders, and models, by the names of the data sets
DATA = {"mnist": "MNIST", "fashion": "Fashion-MNIST"}
QUALITIES = "50,25,90,70,10,80,35,60,0,99"  # in this order, a stopped run has a coarse curve
EFFORTS = (1, DEFAULT_EFFORT)
ASKED_DB = {  # at the default effort, by bytes an image
    "mnist": {8: 22.0, 16: 26.0, 24: 29.0, 40: 32.0},
    "fashion": {8: 19.3, 16: 21.8, 24: 23.5, 40: 25.8, 64: 28.2},
}
OTHERS = ("png", "webp", "jpeg", "jxl", "klt")
PICTURE_WIDTH, PICTURE_HEIGHT = 560, 330

Row = dict[str, Any]


def key(row: Row) -> tuple[str, int, int, int]:
    return row["data"], row["effort"], row["images"], row["quality"]


def longest_curve(points: list[Row], name: str, effort: int) -> list[Row]:
    """The points on one set of images: the set with most points, and of two such the larger one."""
    mine = [point for point in points if (point["data"], point["effort"]) == (name, effort)]
    by_images = [
        [point for point in mine if point["images"] == num_images]
        for num_images in sorted({point["images"] for point in mine}, reverse=True)
    ]
    return max(by_images, key=len, default=[])


def measure(
    data: Path, points: list[Row], wanted: Iterable[tuple[str, int, int]], max_images: int
) -> Iterator[Row]:
    """Measure what is missing in `points`; each new point is yielded after it was added.

    wanted: data set, effort and quality, in the order of measurement.
    """
    for name, effort, quality in wanted:
        model = registry.by_name(name)
        pixels = read_array(data / name / "t10k-images-idx3-ubyte.gz")
        pixels = pixels[spread(len(pixels), min(max_images, len(pixels)))]
        same = {
            "data": name,
            "model_hash": model.hash.hex(),
            "encoder_hash": model.encoder_hash.hex(),
            "effort": effort,
            "quality": quality,
            "images": len(pixels),
        }
        if any(all(point.get(k) == v for k, v in same.items()) for point in points):
            continue
        new = {**same, **curve(model, pixels, [quality], effort)[0]}
        points[:] = sorted([new, *(p for p in points if key(p) != key(new))], key=key)
        yield new


def in_order(first: Iterable[str], qualities: Sequence[int]) -> Iterator[tuple[str, int, int]]:
    """Data set, effort and quality of all that is measured: `first`, such as "mnist:26,50", at the
    default effort, then all qualities.
    """
    for text in first:
        name, _, numbers = text.partition(":")
        if name not in DATA:
            raise UsageError(f"--first {text}: {name!r} is not one of {', '.join(DATA)}")
        for quality in tool.integers(numbers):
            yield name, DEFAULT_EFFORT, quality
    for effort in EFFORTS:
        for quality in qualities:
            for name in DATA:
                yield name, effort, quality


def asked_and_measured(points: list[Row]) -> dict[str, dict[str, dict[str, float | None]]]:
    """PSNR in dB at the default effort, by data set and bytes; None outside the curve."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for name, wanted in ASKED_DB.items():
        ours = longest_curve(points, name, DEFAULT_EFFORT)
        found[name] = {
            str(num_bytes): {"asked": db, "measured": psnr_at(ours, num_bytes)}
            for num_bytes, db in wanted.items()
        }
    return found


def write(out: Path, points: list[Row], others: list[Row]) -> None:
    result = {
        "counted": (
            "bytes of a whole collection / images, without names; of other codecs as they say"
        ),
        "psnr_db_at_bytes": asked_and_measured(points),
        "points": points,
        "others": others,
    }
    tool.write_json(out, result, force=True)


def draw(name: str, points: list[Row], others: list[Row]) -> str:
    """One data set as SVG: PSNR over bytes, and marks where the lossless codecs stand."""
    series: dict[str, Series] = {}
    for effort in reversed(EFFORTS):
        ours = Series(label("aez", effort), colour("aez", effort), dashed=effort != DEFAULT_EFFORT)
        for point in longest_curve(points, name, effort):
            text = f"quality {point['quality']}"
            ours.points.append((point["bytes"], point["psnr_db"], text))
        series[ours.name] = ours
    marks = []
    for row in others:
        codec, psnr_db = row["codec"], row["psnr_db"]
        if row["dataset"] != name:
            continue
        if psnr_db is None:
            marks.append(Mark(row["bytes"], f"{label(codec)}, lossless", colour(codec)))
        else:
            other = series.setdefault(codec, Series(label(codec), colour(codec)))
            other.points.append((row["bytes"], psnr_db, row["setting"]))
    num_images = longest_curve(points, name, DEFAULT_EFFORT)[0]["images"]
    return plot(
        [*series.values()],
        "bytes an image",
        "PSNR in dB",
        log_x=True,
        title=f"{DATA[name]}, {num_images} test images",
        marks=marks,
        width=PICTURE_WIDTH,
        height=PICTURE_HEIGHT,
    )


def main(
    data: Annotated[Path, typer.Argument(help="Folder of mnist/ and fashion/.")],
    results: Annotated[Path, typer.Argument(help="JSON of the other codecs.")],
    out: tool.Out = ROOT / "weights" / "curves.json",
    pictures: Annotated[Path, typer.Option(help="Folder of the SVG files.")] = ROOT / "examples",
    first: Annotated[
        list[str], typer.Option(metavar="NAME:Q,Q", help="Measure these before all others.")
    ] = [],  # noqa: B006
    images: Annotated[int, typer.Option(help="Of each set at most, evenly spread.")] = 10_000,
    qualities: str = QUALITIES,
) -> None:
    """Measure the curves of the shipped models, and draw them beside those of other codecs."""
    others = [
        row
        for row in json.loads(results.read_text())
        if row["codec"] in OTHERS and row["dataset"] in DATA and row["counted"] in ("file", "ideal")
    ]
    points = json.loads(out.read_text())["points"] if out.exists() else []
    wanted = list(in_order(first, tool.integers(qualities)))
    for point in measure(data, points, wanted, images):
        write(out, points, others)
        print(json.dumps(point), flush=True)
    write(out, points, others)
    for name in DATA:
        with atomic(pictures / f"curves-{name}.svg", force=True) as file:
            file.write(draw(name, points, others).encode())
    print(json.dumps(asked_and_measured(points), indent=1))


if __name__ == "__main__":
    tool.run(main)
