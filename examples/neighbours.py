"""Look-alikes: the images of a collection whose latents are nearest to those of another image.

    python examples/neighbours.py FOLDER [-m mnist] [-q 75] [-o FILE.png]

FOLDER holds the four files of MNIST or Fashion-MNIST. Some training images are compressed into one
collection, some test images into another. From then on only `codec.latents` is used, and of it only
the dense level, 32 numbers an image. Printed is how often the nearest training image has the label
of the test image, by Euclidean distance of latents and of pixels. The picture shows a test image on
the left, then the nearest by latents, then the nearest by pixels of the originals, with a red frame
where the label is another one.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

import codec
from codec.files.arrays import read_array
from codec.measure import tool

SHOWN, ROWS = 6, 10  # neighbours in a row, by each distance; rows
RED = (220, 40, 40)


def load(folder: Path, part: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Read the first images and labels of a part: uint8 (count, 28, 28), uint8 (count,)."""
    pixels = read_array(folder / f"{part}-images-idx3-ubyte.gz")
    stream = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    return pixels[:count], np.frombuffer(stream, np.uint8, offset=8)[:count]


def nearest(queries: np.ndarray, gallery: np.ndarray, count: int) -> np.ndarray:
    """Return the indexes of the `count` nearest rows of `gallery` for each row of `queries`,
    nearest first.
    """
    q, g = (x.reshape(len(x), -1).astype(np.float64) for x in (queries, gallery))
    distances = (g**2).sum(1) - 2 * q @ g.T  # plus the query's own square, which changes no order
    found = np.argpartition(distances, count, axis=1)[:, :count]
    order = np.take_along_axis(distances, found, 1).argsort(1, kind="stable")
    return np.take_along_axis(found, order, 1)


def cell(pixels: np.ndarray, framed: bool) -> np.ndarray:
    """Return an image with a frame, red or black: uint8 (32, 32, 3)."""
    framing = np.full((32, 32, 3), RED if framed else (0, 0, 0), np.uint8)
    framing[2:-2, 2:-2] = pixels[..., None]
    return framing


def show(
    gallery: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    wanted: np.ndarray,
    found: dict[str, np.ndarray],
) -> Image.Image:
    """Draw a row for each label: one query, then what was found by latents and by pixels."""
    asked = [int(np.flatnonzero(wanted == label)[0]) for label in np.unique(wanted)][:ROWS]
    gap = np.full((32, 12, 3), 255, np.uint8)
    rows = []
    for i in asked:
        columns = [cell(queries[i], False)]
        for indexes in found.values():
            cells = [cell(gallery[k], bool(labels[k] != wanted[i])) for k in indexes[i]]
            columns += [gap, *cells]
        rows.append(np.concatenate(columns, axis=1))
    # 64 colours are enough for a picture, and half the bytes.
    return Image.fromarray(np.concatenate(rows)).quantize(64, dither=Image.Dither.NONE)


def main(
    folder: Annotated[Path, typer.Argument(help="Folder with the four files of MNIST.")],
    model: Annotated[str, typer.Option("-m", help="Name or file of a lossy model.")] = "mnist",
    quality: Annotated[int, typer.Option("-q", min=0, max=99)] = 75,
    gallery: Annotated[int, typer.Option(help="How many training images to search.")] = 10_000,
    queries: Annotated[int, typer.Option(help="How many test images to search for.")] = 2_000,
    out: Annotated[Path | None, typer.Option("-o", help="The picture.")] = None,
) -> None:
    """Find look-alikes by their latents, and draw some of them."""
    out = out or Path(__file__).parent / "pictures" / f"neighbours-{model}.png"
    pixels, labels = load(folder, "train", gallery)
    asked, wanted = load(folder, "t10k", queries)
    # Without the guard: an image that falls back to lossless has no latents.
    streams = [
        codec.compress(x, quality=quality, model=model, effort=1, guard=False)
        for x in (asked, pixels)
    ]
    dense = [codec.latents(stream, levels=True)[0] for stream in streams]
    found = {"latents": nearest(*dense, SHOWN), "pixels": nearest(asked, pixels, SHOWN)}
    for kind, numbers in (("latents", dense[0].shape[1]), ("pixels", 784)):
        accuracy = (labels[found[kind][:, 0]] == wanted).mean()
        print(
            f"nearest of {len(pixels)} by {kind}, {numbers} numbers: {accuracy:.1%} of "
            f"{len(asked)} have the same label"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    show(pixels, labels, asked, wanted, found).save(out, optimize=True)
    print(f"{out}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    tool.run(main)
