"""What `--effort` buys: payload bytes at equal PSNR, and images a second, for the models mnist and fashion.

    python examples/efforts.py DATA -o weights/efforts.json    # needs aez[bench] for the BD-rate

DATA holds `mnist/train-images-idx3-ubyte.gz` and `fashion/...`, of which the last images are taken: those that were held out in
training, since efforts are a matter of choice. Bytes are those of the messages, each image by itself; speeds are of one core, in
processor time, at quality 75.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from codec import evaluate, metrics, parallel, registry
from codec.bench import bd_rate_percent
from codec.images import read_array
from codec.outputs import atomic

EFFORTS = (1, 3, 5, 7, 9)
QUALITIES = (10, 25, 40, 55, 70, 85, 99)
SPEED_QUALITY = 75
IMAGES = {"mnist": 144, "fashion": 96}  # effort 9 takes a tenth of a second for each, at each quality


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
        model.encode(pixels[:1], SPEED_QUALITY)  # what is made once
        begun = time.process_time()
        model.encode(pixels, SPEED_QUALITY, effort=effort)
        return len(pixels) / (time.process_time() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    rows = []
    for name, count in IMAGES.items():
        pixels = read_array(options.data / name / "train-images-idx3-ubyte.gz")[-count:]
        anchor: list[tuple[float, float]] = []
        for effort in EFFORTS:
            curve = [point(name, pixels, quality, effort) for quality in QUALITIES]
            anchor = anchor or curve
            percent, what = (0.0, "") if effort == EFFORTS[0] else bd_rate_percent(anchor, curve)
            if percent is None:
                parser.error(what)
            rows.append({"data": name, "images": count, "effort": effort, "bytes_at_equal_psnr_percent": percent,
                         "encode_images_per_s": round(images_per_s(name, pixels, effort), 1),
                         "curve": [[round(b, 3), round(db, 3)] for b, db in curve]})  # fmt: skip
            print({key: value for key, value in rows[-1].items() if key != "curve"}, flush=True)
    with atomic(options.out) as file:
        file.write((json.dumps({"machine": evaluate.machine(), "efforts": rows}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
