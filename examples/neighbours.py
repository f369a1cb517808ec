"""Look-alikes: the images of a collection whose latents are nearest to those of another image.

    python examples/neighbours.py FOLDER [-m mnist] [-q 75] [-o FILE.png]

FOLDER holds the four files of MNIST or Fashion-MNIST. Some training images are compressed into one
collection, some test images into another; all that is looked at after that is `codec.latents`, and
of those only the dense level, 32 numbers an image. Printed is how often the nearest image has the
label of the one that was asked for, by Euclidean distance of latents and of pixels. In the picture
the column on the left is asked for; then come the nearest by latents and, after a gap, the nearest
by pixels of the originals, framed in red where the label is another one.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
from PIL import Image

import codec
from codec.files.images import read_array

SHOWN, ROWS = 6, 10  # neighbours in a row, by either distance; rows
RED = (220, 40, 40)


def load(folder: Path, part: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Read the first images and labels of a part: uint8 (count, 28, 28), uint8 (count,)."""
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())[8:]
    return read_array(folder / f"{part}-images-idx3-ubyte.gz")[:count], np.frombuffer(
        labels, np.uint8
    )[:count]


def nearest(queries: np.ndarray, gallery: np.ndarray, count: int) -> np.ndarray:
    """Return the indexes of the `count` nearest rows of `gallery` for each row of `queries`,
    nearest first.
    """
    q, g = (x.reshape(len(x), -1).astype(np.float64) for x in (queries, gallery))
    distances = (g**2).sum(1) - 2 * q @ g.T  # plus the query's own square, which changes no order
    found = np.argpartition(distances, count, axis=1)[:, :count]
    return np.take_along_axis(
        found, np.take_along_axis(distances, found, 1).argsort(1, kind="stable"), 1
    )


def cell(pixels: np.ndarray, framed: bool) -> np.ndarray:
    """Return an image with a frame, red or black: uint8 (32, 32, 3)."""
    framing = np.full((32, 32, 3), RED if framed else (0, 0, 0), np.uint8)
    framing[2:-2, 2:-2] = pixels[..., None]
    return framing


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("-m", "--model", default="mnist", help="name or file of a lossy model")
    parser.add_argument("-q", "--quality", type=int, default=75)
    parser.add_argument(
        "--gallery", type=int, default=10_000, help="how many training images to look among"
    )
    parser.add_argument(
        "--queries", type=int, default=2_000, help="how many test images to look for"
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        help="by default neighbours-MODEL.png beside this script, in pictures/",
    )
    options = parser.parse_args()
    gallery, labels = load(options.folder, "train", options.gallery)
    queries, wanted = load(options.folder, "t10k", options.queries)

    # Without the guard: an image that falls back to lossless has no latents.
    streams = [
        codec.compress(x, quality=options.quality, model=options.model, effort=1, guard=False)
        for x in (queries, gallery)
    ]
    dense = [codec.latents(stream, levels=True)[0] for stream in streams]
    found = {"latents": nearest(*dense, SHOWN), "pixels": nearest(queries, gallery, SHOWN)}
    for kind, numbers in (("latents", dense[0].shape[1]), ("pixels", 784)):
        accuracy = (labels[found[kind][:, 0]] == wanted).mean()
        print(
            f"nearest of {len(gallery)} by {kind}, {numbers} numbers: {accuracy:.1%} of "
            f"{len(queries)} have the same label"
        )

    asked = [int(np.flatnonzero(wanted == label)[0]) for label in np.unique(wanted)][:ROWS]
    gap = np.full((32, 12, 3), 255, np.uint8)
    rows = []
    for i in asked:
        columns = [cell(queries[i], False)]
        for kind in ("latents", "pixels"):
            columns += [
                gap,
                *(cell(gallery[k], bool(labels[k] != wanted[i])) for k in found[kind][i]),
            ]
        rows.append(np.concatenate(columns, axis=1))
    out = options.out or Path(__file__).parent / "pictures" / f"neighbours-{options.model}.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    # 64 colours are enough for a picture, and half the bytes.
    Image.fromarray(np.concatenate(rows)).quantize(64, dither=Image.Dither.NONE).save(
        out, optimize=True
    )
    print(f"{out}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
