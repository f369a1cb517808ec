"""Is a model of your own better than another one on your images?  Prints JSON.

    python examples/own_data.py held_out.npy --model my.safetensors --against generic \\
        --lossless my-lossless.safetensors

The model must not have been trained on these images: give a file of their own, or with --last N the
end of a file. Bytes are those of a whole collection, without names, divided by the number of
images. PSNR is that of the mean squared error. For lossy models there is the BD-rate: the mean
difference of bytes in percent at equal PSNR, over the PSNRs that both have, by PCHIP over log
bytes. Negative means that --model needs fewer. Needs: pip install bjontegaard
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from codec.files.arrays import read_array
from codec.measure import tool
from codec.measure.curve import curve
from codec.measure.points import bd_rate_percent, points_of
from codec.model import registry


def measure(
    model: str, against: str, pixels: np.ndarray, qualities: Sequence[int], *, lossless: bool
) -> dict[str, Any]:
    """Both models on uint8 (N, 28, 28): their curves, and how many percent more bytes `model`
    needs; negative: fewer.
    """
    models = [registry.by_name(name, lossless) for name in (model, against)]
    ours, theirs = (curve(m, pixels, qualities) for m in models)
    if lossless:
        percent = round(100 * (ours[0]["bytes"] / theirs[0]["bytes"] - 1), 2)
    else:
        percent, _ = bd_rate_percent(points_of(theirs), points_of(ours))
    both = [
        {"model": m.name, "model_hash": m.hash.hex(), "curve": rows}
        for m, rows in zip(models, (ours, theirs), strict=True)
    ]
    name = "bytes_percent" if lossless else "bd_rate_percent"
    return {"images": len(pixels), name: percent, "model": both[0], "against": both[1]}


def main(
    data: Annotated[Path, typer.Argument(help="Images that were not trained on.")],
    against: Annotated[str, typer.Option(help="The models to compare with, such as fashion.")],
    model: Annotated[str | None, typer.Option(help="Name or file of a lossy model.")] = None,
    lossless: Annotated[str | None, typer.Option(help="The same, lossless.")] = None,
    last: Annotated[int, typer.Option(help="Only the last images; 0: all.")] = 0,
    qualities: str = "5,10,20,30,40,50,60,70,80,90,99",
) -> None:
    """Compare a model of your own with another one, and print JSON."""
    if not (model or lossless):
        raise typer.BadParameter("give --model, --lossless or both")
    pixels = read_array(data)[-last:]
    result: dict[str, Any] = {"data": data.name}
    for kind, name in (("lossy", model), ("lossless", lossless)):
        if name:
            wanted = tool.integers(qualities)
            result[kind] = measure(name, against, pixels, wanted, lossless=kind == "lossless")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    tool.run(main)
