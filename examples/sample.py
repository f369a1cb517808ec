"""Images out of nowhere: random symbols, drawn by a model's own frequency tables, decoded.

    python examples/sample.py [-m mnist] [-q 0,25,75] [-n 16] [--seed 0] [-o FILE.png]

A codec knows what its images look like: the better it guesses the next symbol, the fewer bits that
symbol costs. Here there are no bits, only the guess. Each level of latents is drawn from the prior
given the levels before it: that is what the decoder does with a stream of random bits. A row of the
picture is one quality. All rows use the same random numbers, but the priors expect finer and finer
latents.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from codec.coding import rans
from codec.measure import tool
from codec.model import registry
from codec.model.ladder import Ladder
from codec.model.ladder_parts import STEP_UNIT


def draw(model: Ladder, quality: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw images, uint8 (count, 28, 28)."""
    network = model.synthesis(quality, count)  # yields the prior of a level, is sent its latents
    mean, row, _ = next(network)  # int32 (K, count), later (K, 49, count)
    for table in model.tables:
        # each symbol of a row owns as many slots as its frequency
        slot = rng.integers(0, rans.TOTAL, row.shape)
        code = table.lookup[row.astype(np.int64) * rans.TOTAL + slot].astype(np.int32)
        # codes 0, 1, 2, 3 ... stand for 0, -1, 1, -2 ...
        symbol = np.where(code & 1, -(code + 1) // 2, code // 2)
        try:
            mean, row, _ = network.send(symbol * STEP_UNIT + mean)
        except StopIteration as stop:
            pixels: np.ndarray = stop.value
    return pixels


def sheet(rows: list[np.ndarray], scale: int = 2, gap: int = 1) -> Image.Image:
    """Rows of images, each uint8 (N, 28, 28), as one grey picture."""
    cells = np.pad(np.stack(rows), ((0, 0), (0, 0), (0, gap), (0, gap)), constant_values=128)
    r, n, height, width = cells.shape
    picture = Image.fromarray(
        cells.transpose(0, 2, 1, 3).reshape(r * height, n * width)[:-gap, :-gap]
    )
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def main(
    model: Annotated[str, typer.Option("-m", help="Name or file of a lossy model.")] = "mnist",
    qualities: Annotated[str, typer.Option("-q", help="One row each, 0 to 99.")] = "0,25,75",
    count: Annotated[int, typer.Option("-n", help="Images in a row.")] = 16,
    seed: int = 0,
    out: Annotated[Path | None, typer.Option("-o", help="The picture.")] = None,
) -> None:
    """Draw images from a model's own frequency tables."""
    lossy = registry.by_name(model)
    assert isinstance(lossy, Ladder)  # and not a lossless one
    out = out or Path(__file__).parent / "pictures" / f"samples-{lossy.name}.png"
    rows = [
        draw(lossy, quality, count, np.random.default_rng(seed))
        for quality in tool.integers(qualities)
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet(rows).save(out, optimize=True)
    print(f"{out}: {count} images each at qualities {qualities}, {out.stat().st_size} bytes")


if __name__ == "__main__":
    tool.run(main)
