"""Sizes side by side: the same images by this codec and by others, each with its bytes.

    python examples/sizes.py IMAGES... [-o FILE.png]

IMAGES are files of 28x28 images (IDX, .npy, .npz). One image of each file is shown: as PNG, as WebP
and JPEG at their lowest quality, and by aez at three qualities and lossless. Bytes are those of
single files, header included.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image, ImageDraw, ImageFont

import codec
from codec.files.arrays import read_array
from codec.measure import codecs, tool

SCALE, GAP, TEXT = 4, 10, 34  # of the images shown; around them; height of the two lines below
INK, OURS = (90, 90, 90), (20, 90, 200)

Coded = tuple[int, np.ndarray]


def by_pillow(pixels: np.ndarray, other: codecs.Codec) -> Coded:
    """Bytes of one image (28, 28) as a file that Pillow writes, and what it decodes to."""
    files = other.encode(pixels[None])
    return len(files[0]), other.decode(files)[0]


def by_aez(pixels: np.ndarray, **options: object) -> Coded:
    """Bytes of one image (28, 28) as an .aez file, and what it decodes to."""
    stream = codec.compress(pixels, **options)  # type: ignore[arg-type]
    return len(stream), codec.decompress(stream)


COLUMNS: dict[str, Callable[[np.ndarray], Coded]] = {
    "PNG": lambda p: by_pillow(p, codecs.png(optimize=True)),
    "WebP, worst": lambda p: by_pillow(p, codecs.webp(0)),
    "JPEG, worst": lambda p: by_pillow(p, codecs.by_pillow("jpeg", "q1", quality=1, optimize=True)),
    "aez -q 25": lambda p: by_aez(p, quality=25),
    "aez -q 50": lambda p: by_aez(p, quality=50),
    "aez -q 75": lambda p: by_aez(p, quality=75),
    "aez lossless": lambda p: by_aez(p, lossless=True),
}


def draw(images: list[np.ndarray]) -> Image.Image:
    """A row for each image, a column for each way to keep it."""
    side = 28 * SCALE
    picture = Image.new(
        "RGB", ((side + GAP) * len(COLUMNS) + GAP, (side + TEXT + GAP) * len(images) + GAP), "white"
    )
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    for row, pixels in enumerate(images):
        for column, (name, code) in enumerate(COLUMNS.items()):
            num_bytes, decoded = code(pixels)
            x, y = GAP + column * (side + GAP), GAP + row * (side + TEXT + GAP)
            picture.paste(
                Image.fromarray(decoded).resize((side, side), Image.Resampling.NEAREST), (x, y)
            )
            colour = OURS if name.startswith("aez") else INK
            for line, text in enumerate((name, f"{num_bytes} bytes")):
                pen.text((x + side / 2, y + side + 2 + 16 * line), text, colour, font, anchor="ma")
    return picture


def main(
    images: Annotated[list[Path], typer.Argument(help="IDX, .npy or .npz files.")],
    number: Annotated[int, typer.Option(help="Which image of each file.")] = 0,
    out: tool.Out = Path(__file__).parent / "pictures" / "sizes.png",
) -> None:
    """Draw the same images by several codecs, each with its bytes."""
    picture = draw([read_array(path)[number] for path in images])
    picture.quantize(64).save(out, optimize=True)
    print(f"{out}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    tool.run(main)
