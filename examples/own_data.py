"""Is a model of your own better than another one on your images?  Prints JSON.

    python examples/own_data.py held_out.npy --model my.safetensors --against generic \\
        --lossless my-lossless.safetensors

The images must be none that the model was trained on: give a file of their own, or --last N of a
file whose other images were. Bytes are those of a whole collection (no names) divided by the number
of images, PSNR is from the mean squared error. Of the lossy models the BD-rate is told: the mean
difference of bytes in percent at equal PSNR, where both curves have it, negative where --model
takes fewer; interpolation is PCHIP over log bytes. Needs: pip install bjontegaard
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from codec.files.images import read_array
from codec.measure import bench
from codec.measure.curve import curve
from codec.model import registry

QUALITIES = (5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)


def bd_rate_percent(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> float | None:
    """Mean difference of bytes at equal PSNR, of two curves as `codec.measure.curve.curve` gives
    them; negative: ours are fewer.

    None if there is no PSNR that both have.
    """
    anchor, test = ([(row["bytes"], row["psnr_db"]) for row in rows] for rows in (theirs, ours))
    return bench.bd_rate_percent(anchor, test)[0]


def measure(
    model: str, against: str, data: Path, last: int | None, lossless: bool
) -> dict[str, Any]:
    """Both models on the images of a file: their curves, and how many percent fewer bytes `model`
    takes.
    """
    pixels = read_array(data)[-(last or 0) :]
    models = [registry.by_name(name, lossless) for name in (model, against)]
    ours, theirs = (curve(m, pixels, QUALITIES) for m in models)
    if lossless:
        percent = round(100 * (ours[0]["bytes"] / theirs[0]["bytes"] - 1), 2)
    else:
        percent = bd_rate_percent(ours, theirs)
    name = "bytes_percent" if lossless else "bd_rate_percent"
    both = [
        {"model": m.name, "model_hash": m.hash.hex(), "curve": rows}
        for m, rows in zip(models, (ours, theirs), strict=True)
    ]
    return {"images": len(pixels), name: percent, "model": both[0], "against": both[1]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="A model of your own against another one, as JSON."
    )
    parser.add_argument(
        "data", type=Path, help="IDX, .npy or .npz file of images that were not trained on"
    )
    parser.add_argument("--model", help="name or file of a lossy model")
    parser.add_argument("--lossless", help="name or file of a lossless model")
    parser.add_argument(
        "--against", required=True, help="name of the models to compare with, such as fashion"
    )
    parser.add_argument("--last", type=int, metavar="N", help="only the last N images")
    args = parser.parse_args()
    if not (args.model or args.lossless):
        parser.error("give --model, --lossless or both")
    result: dict[str, Any] = {"data": args.data.name}
    for kind, model in (("lossy", args.model), ("lossless", args.lossless)):
        if model:
            result[kind] = measure(model, args.against, args.data, args.last, kind == "lossless")
    json.dump(result, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
