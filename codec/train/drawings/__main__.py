"""Write the training set of a generic model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codec.files.arrays import read_array
from codec.files.atomic import atomic
from codec.files.images import pack_npy
from codec.measure import tool
from codec.train.data import split
from codec.train.drawings.mixture import generic_images


def main(
    out: Annotated[Path, typer.Argument(help="The .npy file to write.")],
    mnist: Annotated[Path, typer.Option(help="Training images of MNIST.")],
    fashion: Annotated[Path, typer.Option(help="Training images of Fashion-MNIST.")],
    count: Annotated[int, typer.Option(help="How many images to write.")],
    seed: int = 0,
) -> None:
    """Write a generic training set: a quarter MNIST, a quarter Fashion-MNIST, half drawings."""
    parts = (split(read_array(path))[0] for path in (mnist, fashion))  # without those held out
    pixels = generic_images(*parts, count, seed)
    with atomic(out) as file:
        file.write(pack_npy(pixels))


if __name__ == "__main__":
    tool.run(main)
