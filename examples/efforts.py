"""What `--effort` buys: payload bytes at equal PSNR (BD-rate against effort 1, PCHIP), and images a
second.

    python examples/efforts.py DATA -o weights/efforts.json    # needs aez[bench] for the BD-rate

DATA holds `mnist/train-images-idx3-ubyte.gz` and `fashion/...`, each for the model of its name. The
last images are taken: those that were held out in training, since efforts are a matter of choice.
Bytes are those of the messages, each image by itself; speeds are of one core, in processor time, at
quality 75, by the engine that the JSON names beside G.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from codec import metrics, parallel
from codec.files.atomic import atomic
from codec.files.images import read_array
from codec.measure import curve as evaluate
from codec.measure.bench import bd_rate_percent
from codec.model import registry
from codec.model.ladder_search import EFFORTS

QUALITIES = (10, 25, 40, 55, 70, 85, 99)
SPEED_QUALITY = 75
IMAGES = {"mnist": 480, "fashion": 480}  # of the 5,000 that were held out


def point(name: str, pixels: np.ndarray, quality: int, effort: int) -> tuple[float, float]:
    """Return bytes an image and PSNR in dB of uint8 (N, 28, 28)."""
    encoded = registry.by_name(name).encode(pixels, quality, group=1, effort=effort)
    squared_error = metrics.squared_error(pixels, encoded.pixels)
    psnr_db = metrics.psnr_db(squared_error, pixels.size)
    assert psnr_db is not None, "no error at all: these images have no curve"
    return sum(map(len, encoded.messages)) / len(pixels), psnr_db


def images_per_s(name: str, pixels: np.ndarray, effort: int) -> float:
    """Return the speed of encoding, as if with one core, by processor time."""
    model = registry.by_name(name)
    with parallel.cores(1):
        model.encode(pixels[:1], SPEED_QUALITY, effort=effort)  # what is made once
        seconds = evaluate.best_seconds(
            lambda: model.encode(pixels, SPEED_QUALITY, effort=effort),
            repeat=5,
            enough_s=1,
            clock=time.process_time,
        )
        return len(pixels) / seconds


def measure(data: Path, efforts: list[int]) -> Iterable[dict[str, object]]:
    """Yield a row for each set of images and each effort, 1 first; tell of each."""
    for name, count in IMAGES.items():
        pixels = read_array(data / name / "train-images-idx3-ubyte.gz")[-count:]
        anchor: list[tuple[float, float]] = []
        fastest = 0.0
        for effort in efforts:
            curve = [point(name, pixels, quality, effort) for quality in QUALITIES]
            anchor = anchor or curve
            percent, what = (0.0, "") if effort == 1 else bd_rate_percent(anchor, curve)
            if percent is None:
                raise SystemExit(what)
            speed = images_per_s(name, pixels, effort)
            fastest = fastest or speed
            row = {
                "data": name,
                "images": len(pixels),
                "effort": effort,
                **EFFORTS[effort - 1]._asdict(),
                "bytes_at_equal_psnr_percent": percent,
                "encode_images_per_s": round(speed, 1),
                "speed_by_effort_1": round(speed / fastest, 4),
                "curve": [[round(b, 3), round(db, 3)] for b, db in curve],
            }
            print({key: value for key, value in row.items() if key != "curve"}, flush=True)
            yield row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument(
        "--efforts",
        type=int,
        nargs="+",
        default=range(1, len(EFFORTS) + 1),
        metavar="E",
        help="default: all",
    )
    parser.add_argument("-f", "--force", action="store_true", help="overwrite OUT")
    options = parser.parse_args()
    efforts = sorted({1, *options.efforts})  # 1 is what the others are compared with
    measured_by = evaluate.engine_and_yardstick(1, time.process_time)
    rows = list(measure(options.data, efforts))
    with atomic(options.out, force=options.force) as file:
        result = {
            "machine": evaluate.machine(),
            **measured_by,
            "quality_of_speed": SPEED_QUALITY,
            "efforts": rows,
        }
        file.write((json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
