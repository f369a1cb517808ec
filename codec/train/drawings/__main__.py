"""Write the training set of a generic model."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from codec.arrays import U8
from codec.errors import UsageError
from codec.files.arrays import read_array
from codec.files.atomic import atomic
from codec.files.images import is_image_file, pack_idx
from codec.measure import tool
from codec.train.data import MAX_HELD_OUT, split
from codec.train.drawings.mixture import generic_images


def main(
    out: Annotated[Path, typer.Argument(help="The .idx file to write: training keeps its order.")],
    natural: Annotated[Path, typer.Option(help="Natural grey images, 28x28.")],
    mnist: Annotated[Path, typer.Option(help="Training images of MNIST.")],
    fashion: Annotated[Path, typer.Option(help="Training images of Fashion-MNIST.")],
    count: Annotated[int, typer.Option(help="How many images to write.")],
    pictures: Annotated[
        Path | None, typer.Option(help="A folder of pictures to cut windows from.")
    ] = None,
    seed: int = 0,
) -> None:
    """Write a generic training set: natural images, MNIST, Fashion-MNIST and drawings.

    The last images, at most 5,000, which `aez train` holds out, are made of images that are held
    out of each source, and of other drawings.
    """
    if out.suffix != ".idx":
        raise UsageError(f"{out}: the name must end in .idx")
    sources = [split(_images(path)) for path in (natural, mnist, fashion)]
    trained, held_out = zip(*sources, strict=True)
    some = [] if pictures is None else [p for p in sorted(pictures.iterdir()) if is_image_file(p)]
    grey = [np.asarray(Image.open(path).convert("L")) for path in some]
    num_held_out = min(MAX_HELD_OUT, max(10, count // 12))
    pixels = np.concatenate(
        [
            generic_images(*trained, count - num_held_out, seed, grey),
            generic_images(*held_out, num_held_out, seed + 1),
        ]
    )
    with atomic(out) as file:
        file.write(pack_idx(pixels))


def _images(path: Path) -> U8:
    """Images of an array file, which may be gzipped."""
    if path.suffix != ".gz":
        return read_array(path)
    with gzip.open(path) as file:
        return read_array(file, str(path))  # type: ignore[arg-type]


if __name__ == "__main__":
    tool.run(main)
