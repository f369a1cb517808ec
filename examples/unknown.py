"""What falls back: images that are too hard for their quality, and images unlike those that the
models were trained on.

    python examples/unknown.py DATA -o weights/unknown.json    # draws images: needs aez[train]

DATA holds `mnist/train-images-idx3-ubyte.gz` and `fashion/...`. Their last images are used: those
that were held out in training. Each set becomes one collection, with whichever shipped models suit
it (`auto`), at effort 1. `unguarded` is the same without the guard, `by_mnist` with the model mnist
alone, which falls back for images it does not know, `lossless` is lossless.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from codec import api, metrics
from codec.files.arrays import read_array
from codec.measure import tool
from codec.train.drawings.draw import draw

IN_DOMAIN = 2048  # images of a set
UNKNOWN_QUALITY = 75


def figures(
    pixels: np.ndarray, quality: int, model: str = "auto", *, guard: bool = True
) -> dict[str, Any]:
    """Compress uint8 (N, 28, 28) as one collection: bytes an image, PSNR in dB, and how many images
    fall back to which model.
    """
    file = io.BytesIO()
    with api.CollectionWriter(file, quality=quality, model=model, effort=1, guard=guard) as writer:
        writer.write(pixels)
    error = metrics.squared_error(pixels, api.decompress(file.getvalue()))
    psnr_db = metrics.psnr_db(error, pixels.size)
    fallback: dict[str, int] = {}
    for what, count in writer.stats.fallback.items():
        name = what.partition(" ")[0]  # "mnist q91" -> "mnist", as there are many qualities
        fallback[name] = fallback.get(name, 0) + count
    return {
        "bytes": round(len(file.getvalue()) / len(pixels), 2),
        "psnr_db": None if psnr_db is None else round(psnr_db, 2),
        "fallback": fallback,
    }


def checkerboards(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return shifted checkerboards of two greys, with fields of 1 to 10 pixels."""
    y, x = np.mgrid[0:28, 0:28]
    size, dy, dx, low, high = (
        rng.integers(a, b, (count, 1, 1))
        for a, b in ((1, 11), (0, 10), (0, 10), (0, 64), (192, 256))
    )
    return np.where(((y + dy) // size + (x + dx) // size) % 2, high, low).astype(np.uint8)


def crops(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return windows that straddle two drawings."""
    drawn = draw(2 * count, int(rng.integers(1 << 30)))
    pairs = np.concatenate([drawn[:count], drawn[count:]], axis=2)
    return np.stack(
        [pair[:, at : at + 28] for pair, at in zip(pairs, rng.integers(0, 29, count), strict=True)]
    )


def measure(data: Path, qualities: Sequence[int], num_unknown: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each set of images."""
    held_out = {
        name: read_array(data / name / "train-images-idx3-ubyte.gz")[-IN_DOMAIN:]
        for name in ("mnist", "fashion")
    }
    for name, pixels in held_out.items():
        for quality in qualities:
            yield {
                "images": name,
                "count": len(pixels),
                "quality": quality,
                "guarded": figures(pixels, quality),
                "unguarded": figures(pixels, quality, guard=False),
            }
    rng = np.random.default_rng(0)
    unknown = {
        "inverted digits": 255 - held_out["mnist"][:num_unknown],
        "crops of drawings": crops(num_unknown, rng),
        "white noise": rng.integers(0, 256, (num_unknown, 28, 28), np.uint8),
        "checkerboards": checkerboards(num_unknown, rng),
    }
    for name, pixels in unknown.items():
        yield {
            "images": name,
            "count": len(pixels),
            "quality": UNKNOWN_QUALITY,
            "guarded": figures(pixels, UNKNOWN_QUALITY),
            "by_mnist": figures(pixels, UNKNOWN_QUALITY, "mnist"),
            "lossless": figures(pixels, 100),
        }


def main(
    data: Annotated[Path, typer.Argument(help="Folder of mnist/ and fashion/.")],
    out: tool.Out,
    qualities: Annotated[str, typer.Option(help="For images of the domain.")] = "25,75",
    unknown: Annotated[int, typer.Option(help="Images of each unknown set.")] = 256,
) -> None:
    """Measure which images fall back, and to what."""
    rows = []
    for row in measure(data, tool.integers(qualities), unknown):
        print(row, flush=True)
        rows.append(row)
    tool.write_json(out, {"effort": 1, "sets": rows})


if __name__ == "__main__":
    tool.run(main)
