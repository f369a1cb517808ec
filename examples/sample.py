"""Images out of nowhere: symbols drawn by a model's own frequency tables, decoded.

    python examples/sample.py [-m mnist] [-q 0,25,75] [-n 16] [--seed 0] [-o FILE.png]

A codec knows what its images look like: the better it guesses the next symbol, the fewer bits the
symbol costs. Here the guess takes the place of the bits. Each level of latents is drawn from the
prior that the levels before it lead to, which is what the decoder does with a stream of random
bits. A row of the picture is one quality: the same random numbers, but priors that expect finer and
finer latents.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from codec.coding import rans
from codec.model import registry
from codec.model.ladder import STEP_UNIT, Model


def draw(model: Model, quality: int, count: int, rng: np.random.Generator) -> np.ndarray:
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-m", "--model", default="mnist", help="name or file of a lossy model")
    parser.add_argument("-q", "--qualities", default="0,25,75", help="one row each, 0 to 99")
    parser.add_argument("-n", type=int, default=16, help="images a row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        help="by default samples-MODEL.png beside this script, in pictures/",
    )
    options = parser.parse_args()
    model = registry.by_name(options.model)
    assert isinstance(model, Model)  # and not a lossless one
    out = options.out or Path(__file__).parent / "pictures" / f"samples-{model.name}.png"
    qualities = [int(quality) for quality in options.qualities.split(",")]
    rows = [
        draw(model, quality, options.n, np.random.default_rng(options.seed))
        for quality in qualities
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet(rows).save(out, optimize=True)
    print(
        f"{out}: {options.n} images each at qualities {', '.join(map(str, qualities))}, "
        f"{out.stat().st_size} bytes"
    )


if __name__ == "__main__":
    main()
