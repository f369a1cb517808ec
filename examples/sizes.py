"""Sizes side by side: the same images by this codec and by others, each with its bytes.

    python examples/sizes.py IMAGES... [-o FILE.png]

IMAGES are files of 28x28 images (IDX, .npy, .npz). Of each file one image is shown, number
--number: as PNG, as WebP and as JPEG at their lowest quality, and by aez at three qualities and
lossless. Bytes are those of single files, headers and all.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import codec
from codec.files.images import read_array

SCALE, GAP, TEXT = 4, 10, 34  # of the images shown; around them; height of the two lines below
INK, OURS = (90, 90, 90), (20, 90, 200)

Coded = tuple[int, np.ndarray]


def by_pillow(pixels: np.ndarray, kind: str, **options: object) -> Coded:
    """Bytes of one image (28, 28) as a file that Pillow writes, and what it decodes to."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return len(file.getvalue()), np.asarray(Image.open(file).convert("L"))


def by_aez(pixels: np.ndarray, **options: object) -> Coded:
    """Bytes of one image (28, 28) as an .aez file, and what it decodes to."""
    stream = codec.compress(pixels, **options)  # type: ignore[arg-type]
    return len(stream), codec.decompress(stream)


COLUMNS: dict[str, Callable[[np.ndarray], Coded]] = {
    "PNG": lambda p: by_pillow(p, "PNG", optimize=True),
    "WebP, worst": lambda p: by_pillow(p, "WEBP", quality=0, method=6),
    "JPEG, worst": lambda p: by_pillow(p, "JPEG", quality=1, optimize=True),
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--number", type=int, default=0, help="which image of each file")
    parser.add_argument(
        "-o", "--out", type=Path, default=Path(__file__).parent / "pictures" / "sizes.png"
    )
    options = parser.parse_args()
    picture = draw([read_array(path)[options.number] for path in options.images])
    picture.quantize(64).save(options.out, optimize=True)
    print(f"{options.out}: {options.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
