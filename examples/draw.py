"""Draw the images of `examples/images/`: digits, letters and shapes, 28x28 grey, nobody's data set.

    python examples/draw.py [FOLDER]

Digits are splines of a round pen, a little slanted and shaken, in a 20x20 box at the centre, as
MNIST has them. Shapes are areas with shading, as Fashion-MNIST has them. Only letters use a font,
the one that Pillow ships. Curves are polynomials, the shake is from `random.Random`: no sine, no
BLAS, nothing whose last bit depends on the machine.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 28
BOX = 20  # the ink of a digit or letter fills this, as in MNIST
SEED = 28
WEIGHTS = {"thin": 0.8, "medium": 1.3, "bold": 2.0}  # radius of the pen in pixels

Point = tuple[float, float]

# Strokes in a box of 100x100, y down, as `x,y x,y ... | x,y ...`. Each is one smooth curve, so a
# corner is where two strokes meet; a stroke that ends where it began is a loop.
DIGITS = {
    "0": "50,0 22,16 12,52 24,88 50,100 76,86 88,48 76,14 50,0",
    "1": "30,20 55,0 | 55,0 55,100",
    "2": "14,24 26,5 54,0 80,16 76,42 42,74 10,100 | 10,100 90,100",
    "3": "14,10 46,0 76,12 74,36 40,47 | 40,47 80,60 82,86 48,100 12,90",
    "4": "64,0 8,68 | 8,68 94,68 | 66,36 66,100",
    "5": "84,0 26,0 | 26,0 20,44 | 20,44 52,37 82,54 82,83 50,100 13,90",
    "6": "74,0 36,24 15,66 28,94 58,100 84,82 76,56 46,50 17,72",
    "7": "10,0 90,0 | 90,0 58,46 42,100",
    "8": "50,46 22,28 26,6 50,0 74,6 78,28 50,46 16,68 20,93 50,100 80,93 84,68 50,46",
    "9": "84,24 64,48 32,48 15,25 32,3 64,2 84,24 80,62 60,100",
}
LETTERS = "ABGKRag"

# Outlines in pixels, for things with grey inside.
SHIRT_LEFT = [(14, 26), (8, 26), (8, 11.5), (5, 13.5), (2, 8), (9, 3), (11.5, 5), (14, 5)]
SHIRT = SHIRT_LEFT + [(SIZE - x, y) for x, y in reversed(SHIRT_LEFT)]
BAG = [(2, 12), (26, 12), (24, 25), (4, 25)]
SHOE = [(2, 12), (8, 11), (11, 13), (19, 17), (25, 19), (26, 22), (2, 22)]
SOLE = [(2, 22), (26, 22), (26, 24), (2, 24)]
TRIANGLE = [(14, 4), (25, 23), (3, 23)]

# The middle of each pixel: x, y float64 (28, 28).
Y, X = np.mgrid[0:SIZE, 0:SIZE] + 0.5


def spline(points: list[Point], steps: int = 12) -> list[Point]:
    """Return a polyline along the Catmull-Rom curve through `points`."""
    if points[0] == points[-1]:
        padded = [points[-2], *points, points[1]]
    else:
        padded = [points[0], *points, points[-1]]
    curve = [points[0]]
    for p0, p1, p2, p3 in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        for t in (i / steps for i in range(1, steps + 1)):
            x, y = (
                0.5
                * (
                    2 * b
                    + t * (c - a)
                    + t * t * (2 * a - 5 * b + 4 * c - d)
                    + t * t * t * (3 * b - a - 3 * c + d)
                )
                for a, b, c, d in zip(p0, p1, p2, p3, strict=True)
            )
            curve.append((x, y))
    return curve


def pen(polylines: list[list[Point]], radius: float) -> np.ndarray:
    """Return the ink of a round pen along the lines, in pixels: float64 (28, 28) in 0..1, smooth at
    its edge.
    """
    nearest = np.full((SIZE, SIZE), np.inf)
    for line in polylines:
        for (ax, ay), (bx, by) in pairwise(line):
            dx, dy = bx - ax, by - ay
            t = np.clip(((X - ax) * dx + (Y - ay) * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
            nearest = np.minimum(nearest, (X - ax - t * dx) ** 2 + (Y - ay - t * dy) ** 2)
    return np.clip(0.5 + radius - np.sqrt(nearest), 0, 1)


def area(outline: list[Point], fine: int = 8) -> np.ndarray:
    """Return how much of each pixel lies inside a polygon: float64 (28, 28) in 0..1, by 8x8 samples
    a pixel.
    """
    y, x = (np.mgrid[0 : SIZE * fine, 0 : SIZE * fine] + 0.5) / fine
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(outline, outline[1:] + outline[:1], strict=True):
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * (bx - ax) / (by - ay))
    return inside.reshape(SIZE, fine, SIZE, fine).mean((1, 3))


def disc(radius: float, x: float = 14, y: float = 14) -> np.ndarray:
    return np.clip(0.5 + radius - np.sqrt((X - x) ** 2 + (Y - y) ** 2), 0, 1)


def to_pixels(ink: np.ndarray) -> np.ndarray:
    """Turn ink in 0..1 into uint8 (28, 28), white on black."""
    return np.floor(np.clip(ink, 0, 1) * 255 + 0.5).astype(np.uint8)


def draw_digit(digit: str, radius: float, rng: random.Random) -> np.ndarray:
    slant, shake = rng.uniform(0.0, 0.25), 3.0
    strokes = [stroke.split() for stroke in DIGITS[digit].split("|")]
    moved = {}  # by point, as one where strokes meet must be moved once, not once a stroke
    for point in dict.fromkeys(point for stroke in strokes for point in stroke):
        x, y = map(int, point.split(","))
        moved[point] = (
            x + slant * (50 - y) + rng.uniform(-shake, shake),
            y + rng.uniform(-shake, shake),
        )
    lines = [spline([moved[point] for point in stroke]) for stroke in strokes]
    xs, ys = zip(*(point for line in lines for point in line), strict=True)
    height = BOX - 2 * radius
    scale_y = height / (max(ys) - min(ys))
    scale_x = min(0.75 * scale_y, height / max(max(xs) - min(xs), 1e-9))
    mid_x, mid_y = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    centred = [
        [(14 + (x - mid_x) * scale_x, 14 + (y - mid_y) * scale_y) for x, y in line]
        for line in lines
    ]
    return to_pixels(pen(centred, radius))


def draw_letter(letter: str) -> np.ndarray:
    image = Image.new("L", (SIZE, SIZE))
    font = ImageFont.load_default(24)
    left, top, right, bottom = font.getbbox(letter)
    ImageDraw.Draw(image).text(
        (14 - (left + right) / 2, 14 - (top + bottom) / 2), letter, fill=255, font=font
    )
    return np.array(image)


def draw_shoe() -> np.ndarray:
    body = area(SHOE) * (0.45 + 0.02 * (SIZE - Y)) + area(SOLE) * 0.95
    return body - 0.35 * pen(
        [[(10, 15), (12, 13.5)], [(13, 17), (15, 15)], [(16, 18.5), (18, 16.5)]], 0.5
    )


def draw_shirt() -> np.ndarray:
    folds = 0.12 * ((X // 3) % 2) + 0.008 * np.abs(X - 14)
    return area(SHIRT) * (0.55 + folds) - 0.25 * pen([[(14, 6), (14, 25)]], 0.4) * area(SHIRT)


def draw_bag() -> np.ndarray:
    handle = pen([spline([(9, 12), (9.5, 6), (14, 4), (18.5, 6), (19, 12)])], 0.9)
    body = area(BAG) * (0.85 - 0.02 * (Y - 12)) - 0.3 * pen([[(3, 16), (25, 16)]], 0.5)
    return np.maximum(body, 0.7 * handle) + 0.3 * disc(1.4, 14, 16)


SHAPES: dict[str, Callable[[], np.ndarray]] = {
    "blank": lambda: np.zeros((SIZE, SIZE)),
    "disc": lambda: disc(9),
    "ring": lambda: disc(10) - disc(6),
    "cross": lambda: pen([[(6, 6), (22, 22)], [(22, 6), (6, 22)]], 1.8),
    "triangle": lambda: area(TRIANGLE),
    "gradient": lambda: (X + Y - 1) / (2 * SIZE - 2),
    "checkers": lambda: ((X // 4 + Y // 4) % 2) * 0.8 + 0.1,
    "ball": lambda: disc(10) * (1 - ((X - 10) ** 2 + (Y - 10) ** 2) / 400),
    "shirt": draw_shirt,
    "bag": draw_bag,
    "shoe": draw_shoe,
}


def draw_all() -> dict[str, np.ndarray]:
    """Return every image, uint8 (28, 28), by its path below the folder, such as
    `digits/7-bold.png`.
    """
    rng = random.Random(SEED)
    images = {
        f"digits/{digit}-{weight}.png": draw_digit(digit, radius, rng)
        for weight, radius in WEIGHTS.items()
        for digit in DIGITS
    }
    # Windows and macOS take A.png and a.png for one file.
    for letter in LETTERS:
        images[f"letters/{'upper' if letter.isupper() else 'lower'}-{letter.lower()}.png"] = (
            draw_letter(letter)
        )
    for name, draw in SHAPES.items():
        images[f"shapes/{name}.png"] = to_pixels(draw())
    return images


def main(folder: Path) -> None:
    for name, pixels in draw_all().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images")
