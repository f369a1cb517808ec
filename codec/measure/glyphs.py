"""Glyphs of fonts as images, to measure on characters that no model was trained on.

    pip install --no-deps --target build/fonts font-amatic-sc font-caladea font-fredoka-one \\
        font-hanken-grotesk font-intuitive font-lato font-manrope font-roboto \\
        font-source-sans-pro font-source-serif-pro
    python -m codec.measure.glyphs build/fonts -o build/glyphs.npy
    python -m codec.measure.sheets build/glyphs.npy -o build/glyphs.json

The folder has fonts that are not installed: those of /usr/share/fonts, of matplotlib and of Pillow
are used in training (`codec/train/drawings`). Each image is one letter or digit of ASCII in white
on black, centred, with the font at a size of 16 to 32 pixels. No two images show the same character
of the same font.
"""

from __future__ import annotations

import io
import string
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image, ImageDraw, ImageFont

from codec.arrays import SIDE, U8
from codec.errors import AezError
from codec.files.atomic import atomic
from codec.measure import tool

CHARACTERS = string.ascii_letters + string.digits
NO_CHARACTER = "\uffff"  # no font has it: what a font shows for all that it lacks
SIZES = (16, 33)  # pixels
ENDINGS = (".ttf", ".otf", ".ttc")


def fonts_in(folder: Path) -> list[Path]:
    """The fonts in a folder and below it that can be read, in order."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
    return [path for path in paths if _is_font(path)]


def _is_font(path: Path) -> bool:
    try:
        ImageFont.truetype(path, SIZES[0])
    except OSError:
        return False
    return True


def glyph(path: Path, character: str, size: int) -> U8 | None:
    """One character, uint8 (28, 28); None if the font has it not, or shows nothing."""
    font = ImageFont.truetype(path, size)
    if bytes(font.getmask(character)) == bytes(font.getmask(NO_CHARACTER)):
        return None
    image = Image.new("L", (SIDE, SIDE))
    place = (SIDE / 2, SIDE / 2)
    ImageDraw.Draw(image).text(place, character, fill=255, font=font, anchor="mm")
    pixels = np.asarray(image)
    return pixels if pixels.any() else None


def glyphs(paths: list[Path], count: int, seed: int) -> U8:
    """At most `count` glyphs, uint8 (N, 28, 28).  Raises AezError if there are none."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(paths) * len(CHARACTERS))
    sizes = rng.integers(*SIZES, len(order))
    found: list[U8] = []
    for number, size in zip(order.tolist(), sizes.tolist(), strict=True):
        if len(found) == count:
            break
        pixels = glyph(paths[number // len(CHARACTERS)], CHARACTERS[number % len(CHARACTERS)], size)
        if pixels is not None:
            found.append(pixels)
    if not found:
        raise AezError("no font shows a letter or digit")
    return np.stack(found)


def main(
    fonts: Annotated[Path, typer.Argument(help="Folder with fonts, also in folders of it.")],
    out: tool.Out,
    count: Annotated[int, typer.Option(min=1, help="How many images.")] = 3000,
    seed: int = 0,
    force: tool.Force = False,
) -> None:
    """Draw glyphs, and write them as one NPY file."""
    paths = fonts_in(fonts)
    file = io.BytesIO()
    np.save(file, glyphs(paths, count, seed))
    with atomic(out, force=force) as written:
        written.write(file.getvalue())
    print(f"{len(paths)} fonts -> {out}")


if __name__ == "__main__":
    tool.run(main)
