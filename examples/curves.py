"""The rate-distortion curves of the shipped models beside those of other codecs:
`weights/curves.json` and its picture.

    python examples/curves.py DATA RESULTS

DATA holds `mnist/t10k-images-idx3-ubyte.gz` and `fashion/...`; RESULTS is the JSON of the other
codecs, rows with `dataset`, `codec`, `setting`, `counted`, `bytes` and `psnr_db`. What
`weights/curves.json` already has of the same model, encoder and images is kept, and it is written
after every quality: run the same command again to resume. `--first mnist:26,50` measures these
qualities at the default effort before all others.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from codec.files.atomic import atomic
from codec.files.images import read_array
from codec.measure import curve as evaluate
from codec.measure.page import Series, colour, label, plot
from codec.model import registry
from codec.model.ladder_search import DEFAULT_EFFORT

ROOT = Path(__file__).resolve().parents[1]
# folders, and models, by the names of the data sets
DATA = {"mnist": "MNIST", "fashion": "Fashion-MNIST"}
# so that a run that is stopped has a curve, if a coarse one
QUALITIES = (50, 25, 90, 70, 10, 80, 35, 60, 0, 99)
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


def curve(points: list[Row], name: str, effort: int) -> list[Row]:
    """One curve, on one set of images: that with most points, and of two such the one with more
    images.
    """
    mine = [point for point in points if (point["data"], point["effort"]) == (name, effort)]
    by_images = [
        [point for point in mine if point["images"] == n]
        for n in sorted({point["images"] for point in mine})
    ]
    return max(reversed(by_images), key=len, default=[])


def measure(
    data: Path,
    points: list[Row],
    out: Path,
    others: list[Row],
    max_images: int | None,
    first: list[tuple[str, int]],
) -> None:
    """Add what is missing to `points`, and write all of it after each quality.

    first: data sets and qualities that are measured at the default effort before all others.
    """
    rest = [(effort, quality, name) for effort in EFFORTS for quality in QUALITIES for name in DATA]
    for effort, quality, name in [
        *((DEFAULT_EFFORT, quality, name) for name, quality in first),
        *rest,
    ]:
        model = registry.by_name(name)
        pixels = read_array(data / name / "t10k-images-idx3-ubyte.gz")
        if max_images is not None and max_images < len(pixels):
            pixels = pixels[np.linspace(0, len(pixels) - 1, max_images).astype(int)]
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
        points[:] = [point for point in points if key(point) != key(same)]
        points.append({**same, **evaluate.curve(model, pixels, [quality], effort)[0]})
        points.sort(key=key)
        write(out, points, others)
        print(json.dumps(points[[key(p) for p in points].index(key(same))]), flush=True)


def named_qualities(text: str) -> list[tuple[str, int]]:
    """ "mnist:26,50" -> [("mnist", 26), ("mnist", 50)]."""
    name, _, qualities = text.partition(":")
    if name not in DATA:
        raise argparse.ArgumentTypeError(f"{name!r}, wanted one of {', '.join(DATA)}")
    return [(name, int(quality)) for quality in qualities.split(",")]


def asked_and_measured(points: list[Row]) -> dict[str, dict[str, dict[str, float | None]]]:
    """PSNR in dB at the default effort, by data set and bytes; None outside the curve."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for name, wanted in ASKED_DB.items():
        ours = curve(points, name, DEFAULT_EFFORT)
        found[name] = {
            str(b): {"asked": db, "measured": evaluate.psnr_at(ours, b)} for b, db in wanted.items()
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
    with atomic(out, force=True) as file:
        file.write((json.dumps(result, indent=1) + "\n").encode())


def draw(name: str, points: list[Row], others: list[Row]) -> str:
    """The picture of one data set, as SVG: PSNR over bytes, and where lossless PNG, WebP and JPEG
    XL stand at the right.
    """
    series: dict[str, Series] = {}
    for effort in reversed(EFFORTS):
        dots = [
            (p["bytes"], p["psnr_db"], f"quality {p['quality']}")
            for p in curve(points, name, effort)
        ]
        series[f"aez {effort}"] = Series(
            label("aez", effort), colour("aez", effort), dots, dashed=effort != DEFAULT_EFFORT
        )
    for row in (r for r in others if r["dataset"] == name and r["psnr_db"] is not None):
        codec = series.setdefault(row["codec"], Series(label(row["codec"]), colour(row["codec"])))
        codec.points.append((row["bytes"], row["psnr_db"], row["setting"]))
    marks = [
        (row["bytes"], f"{label(row['codec'])}, lossless", colour(row["codec"]))
        for row in others
        if row["dataset"] == name and row["psnr_db"] is None
    ]
    title = f"{DATA[name]}, {curve(points, name, DEFAULT_EFFORT)[0]['images']} test images"
    return plot(
        [*series.values()],
        "bytes an image",
        "PSNR in dB",
        log_x=True,
        title=title,
        marks=marks,
        width=PICTURE_WIDTH,
        height=PICTURE_HEIGHT,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Curves of the shipped models: JSON and pictures.")
    parser.add_argument("data", type=Path)
    parser.add_argument("results", type=Path, help="JSON of the other codecs")
    parser.add_argument("-o", dest="out", type=Path, default=ROOT / "weights" / "curves.json")
    parser.add_argument(
        "--pictures", type=Path, default=ROOT / "examples", help="folder of the SVG files"
    )
    parser.add_argument(
        "--first",
        type=named_qualities,
        action="extend",
        default=[],
        metavar="NAME:Q,Q",
        help="measure these qualities at the default effort before all others",
    )
    parser.add_argument(
        "--images", type=int, metavar="N", help="only N images of each set, evenly spread"
    )
    args = parser.parse_args()
    others = [
        row
        for row in json.loads(args.results.read_text())
        if row["codec"] in OTHERS and row["dataset"] in DATA and row["counted"] in ("file", "ideal")
    ]
    points = json.loads(args.out.read_text())["points"] if args.out.exists() else []
    measure(args.data, points, args.out, others, args.images, args.first)
    write(args.out, points, others)
    for name in DATA:
        with atomic(args.pictures / f"curves-{name}.svg", force=True) as file:
            file.write(draw(name, points, others).encode())
    print(json.dumps(asked_and_measured(points), indent=1))


if __name__ == "__main__":
    main()
