"""What falls back: images of the domain that are too hard for their quality, and images that no
model was trained on.

    python examples/unknown.py DATA -o weights/unknown.json    # draws images: needs aez[train]

DATA holds `mnist/train-images-idx3-ubyte.gz` and `fashion/...`, of which the last images are taken:
those that were held out in training. Each set is one collection, of whichever shipped models suit
it (`auto`), at effort 1; `unguarded` is the same without the guard, `by_mnist` that of the model
mnist alone, which falls back from what it does not know, `lossless` without loss.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from codec import api, metrics
from codec.files.atomic import atomic
from codec.files.images import read_array
from codec.train import drawings

IN_DOMAIN, UNKNOWN = 2048, 256  # images of a set
QUALITIES, UNKNOWN_QUALITY = (25, 75), 75


def figures(
    pixels: np.ndarray, quality: int, model: str = "auto", *, guard: bool = True
) -> dict[str, Any]:
    """Return bytes an image, PSNR in dB and what falls back to what, of uint8 (N, 28, 28) as one
    collection.
    """
    file = io.BytesIO()
    with api.CollectionWriter(file, quality=quality, model=model, effort=1, guard=guard) as writer:
        writer.write(pixels)
    psnr_db = metrics.psnr_db(
        metrics.squared_error(pixels, api.decompress(file.getvalue())), pixels.size
    )
    fallback: dict[str, int] = {}
    # "mnist q91" -> "mnist": of qualities there are many
    for what, count in writer.stats.fallback.items():
        name = what.partition(" ")[0]
        fallback[name] = fallback.get(name, 0) + count
    return {
        "bytes": round(len(file.getvalue()) / len(pixels), 2),
        "psnr_db": psnr_db and round(psnr_db, 2),
        "fallback": fallback,
    }


def checkerboards(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return checkerboards of fields of 1 to 10 pixels, shifted, of two greys."""
    y, x = np.mgrid[0:28, 0:28]
    size, dy, dx, low, high = (
        rng.integers(a, b, (count, 1, 1))
        for a, b in ((1, 11), (0, 10), (0, 10), (0, 64), (192, 256))
    )
    return np.where(((y + dy) // size + (x + dx) // size) % 2, high, low).astype(np.uint8)


def crops(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return windows that straddle two drawings."""
    drawn = drawings.draw(2 * count, int(rng.integers(1 << 30)))
    pairs = np.concatenate([drawn[:count], drawn[count:]], axis=2)
    return np.stack(
        [pair[:, at : at + 28] for pair, at in zip(pairs, rng.integers(0, 29, count), strict=True)]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    files = {
        name: options.data / name / "train-images-idx3-ubyte.gz" for name in ("mnist", "fashion")
    }
    held_out = {name: read_array(file)[-IN_DOMAIN:] for name, file in files.items()}
    rng = np.random.default_rng(0)
    unknown: dict[str, Callable[[], np.ndarray]] = {
        "inverted digits": lambda: 255 - held_out["mnist"][:UNKNOWN],
        "crops of drawings": lambda: crops(UNKNOWN, rng),
        "white noise": lambda: rng.integers(0, 256, (UNKNOWN, 28, 28), np.uint8),
        "checkerboards": lambda: checkerboards(UNKNOWN, rng),
    }
    rows: list[dict[str, Any]] = []
    for name, pixels in held_out.items():
        for quality in QUALITIES:
            rows.append(
                {
                    "images": name,
                    "count": len(pixels),
                    "quality": quality,
                    "guarded": figures(pixels, quality),
                    "unguarded": figures(pixels, quality, guard=False),
                }
            )
            print(rows[-1], flush=True)
    for name, make in unknown.items():
        pixels = make()
        rows.append(
            {
                "images": name,
                "count": len(pixels),
                "quality": UNKNOWN_QUALITY,
                "guarded": figures(pixels, UNKNOWN_QUALITY),
                "by_mnist": figures(pixels, UNKNOWN_QUALITY, "mnist"),
                "lossless": figures(pixels, 100),
            }
        )
        print(rows[-1], flush=True)
    with atomic(options.out) as file:
        file.write((json.dumps({"effort": 1, "sets": rows}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
