"""What `--effort` buys: payload bytes at equal PSNR (BD-rate against effort 1, PCHIP), and what it
costs: images a second.

    python examples/efforts.py DATA -o weights/efforts.json    # needs aez[bench] for the BD-rate

DATA holds `mnist/train-images-idx3-ubyte.gz` and `fashion/...`, each for the model of its name. The
last images are used, which were held out in training: the efforts are chosen by these figures.
Bytes are those of the messages, each image on its own. Speeds are of one core, in processor time,
at quality 75, by the engine that the JSON names beside G.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from codec import metrics, parallel
from codec.errors import UsageError
from codec.files.arrays import read_array
from codec.measure import tool
from codec.measure.points import Point, bd_rate_percent
from codec.measure.timing import best_of, machine, measured_by
from codec.model import registry
from codec.model.ladder_search import EFFORTS

DATA = ("mnist", "fashion")
SPEED_QUALITY = 75


def point(name: str, pixels: np.ndarray, quality: int, effort: int) -> Point:
    """Return bytes an image and PSNR in dB of uint8 (N, 28, 28)."""
    encoded = registry.by_name(name).encode(pixels, quality, group=1, effort=effort)
    squared_error = metrics.squared_error(pixels, encoded.pixels)
    psnr_db = metrics.psnr_db(squared_error, pixels.size)
    if psnr_db is None:
        raise UsageError(f"quality {quality} of {name} has no error at all: these have no curve")
    return sum(map(len, encoded.messages)) / len(pixels), psnr_db


def images_per_s(name: str, pixels: np.ndarray, effort: int) -> float:
    """Return the speed of encoding on one core, in processor time."""
    model = registry.by_name(name)
    with parallel.cores(1):
        model.encode(pixels[:1], SPEED_QUALITY, effort=effort)  # makes what is made only once
        best_s, _ = best_of(
            5,
            lambda: model.encode(pixels, SPEED_QUALITY, effort=effort),
            enough_s=1,
            clock=time.process_time,
        )
        return len(pixels) / best_s


def measure(
    name: str, pixels: np.ndarray, qualities: Sequence[int], efforts: Sequence[int]
) -> Iterator[dict[str, object]]:
    """Yield a row for each effort, the first of which is 1.  name: of images and model."""
    anchor: list[Point] = []
    slowest = 0.0
    for effort in efforts:
        curve = [point(name, pixels, quality, effort) for quality in qualities]
        anchor = anchor or curve
        percent, reason = (0.0, "") if effort == 1 else bd_rate_percent(anchor, curve)
        if percent is None:
            raise UsageError(f"no BD-rate of {name} at effort {effort}: {reason}")
        speed = images_per_s(name, pixels, effort)
        slowest = slowest or speed
        yield {
            "data": name,
            "images": len(pixels),
            "effort": effort,
            **EFFORTS[effort - 1]._asdict(),
            "bytes_at_equal_psnr_percent": percent,
            "encode_images_per_s": round(speed, 1),
            "speed_by_effort_1": round(speed / slowest, 4),
            "curve": [[round(b, 3), round(db, 3)] for b, db in curve],
        }


def main(
    data: Annotated[Path, typer.Argument(help="Folder of mnist/ and fashion/.")],
    out: tool.Out,
    force: tool.Force = False,
    efforts: Annotated[str, typer.Option(help="Beside 1; all by default.")] = "2,3,4,5,6,7,8,9",
    qualities: str = "10,25,40,55,70,85,99",
    sets: Annotated[list[str], typer.Option("--set", help="Of images.")] = list(DATA),  # noqa: B006
    images: Annotated[int, typer.Option(help="Of each set.")] = 480,
) -> None:
    """Measure what each effort saves in bytes, and what it costs in speed."""
    by = measured_by(1, time.process_time)
    rows = []
    for name in sets:
        pixels = read_array(data / name / "train-images-idx3-ubyte.gz")[-images:]
        wanted = sorted({1, *tool.integers(efforts)})
        for row in measure(name, pixels, tool.integers(qualities), wanted):
            print({key: value for key, value in row.items() if key != "curve"}, flush=True)
            rows.append(row)
    result = {
        "machine": machine(),
        **by._asdict(),
        "quality_of_speed": SPEED_QUALITY,
        "efforts": rows,
    }
    tool.write_json(out, result, force=force)


if __name__ == "__main__":
    tool.run(main)
