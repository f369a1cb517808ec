"""Outlines: characters of fonts, strokes, shapes, edges.

Each function draws one image of its kind: float64 (28, 28), about 0..1.
"""

from __future__ import annotations

import math
import os
from functools import cache, lru_cache

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from codec.arrays import F64, SIDE
from codec.train.drawings.surfaces import Rng, X, Y, noise_field

FINE = 4  # outlines are drawn this many times larger, then averaged
FONT_DIRECTORIES = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.fonts",
    "~/.local/share/fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "~/Library/Fonts",
    "C:/Windows/Fonts",
)
ASCII = "".join(map(chr, range(33, 127)))


# Fonts


@cache
def font_files() -> tuple[str, ...]:
    """Scalable fonts of the system and of matplotlib, one for each file name, in order of name."""
    found: dict[str, str] = {}
    for directory in (os.path.join(matplotlib.get_data_path(), "fonts", "ttf"), *FONT_DIRECTORIES):
        for folder, _, names in os.walk(os.path.expanduser(directory)):
            for name in names:
                if name.lower().endswith((".ttf", ".otf", ".ttc")):
                    found.setdefault(name, os.path.join(folder, name))
    return tuple(found[name] for name in sorted(found) if _characters(found[name]))


@cache
def _characters(path: str) -> str:
    """The visible characters of a font, in order; none if it cannot be read."""
    try:
        codes = sorted(FT2Font(path).get_charmap())
        ImageFont.truetype(path, 20)
    except (OSError, RuntimeError):
        return ""
    return "".join(c for c in map(chr, codes) if c.isprintable() and not c.isspace())


@lru_cache(maxsize=2000)
def _font(path: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size)


def _text(rng: Rng) -> tuple[str, str]:
    """A font, and one to three of its characters, from the same part of its alphabet.

    The font is its path, or "" for the one that Pillow ships.
    """
    fonts = ("", *font_files())
    path = fonts[rng.integers(len(fonts))]
    characters = _characters(path) if path else ASCII
    if rng.random() < 0.4:  # most fonts have thousands of others
        characters = "".join(c for c in characters if c in ASCII) or characters
    at = int(rng.integers(len(characters)))
    part = characters[max(0, at - 20) : at + 20]
    length = int(rng.choice([1, 1, 1, 2, 3]))
    return path, characters[at] + "".join(part[i] for i in rng.integers(len(part), size=length - 1))


def glyphs(rng: Rng) -> F64:
    """Characters of a random font: upright with the font's own hints, or turned, sheared,
    stretched, fat.
    """
    path, text = _text(rng)
    if rng.random() < 0.25:  # small and sharp, some without grey
        image = Image.new("L", (SIDE, SIDE))
        pen = ImageDraw.Draw(image)
        pen.fontmode = "1" if rng.random() < 0.3 else "L"
        place = (14 + rng.normal() * 3, 14 + rng.normal() * 3)
        pen.text(place, text, fill=255, font=_font(path, int(rng.integers(8, 34))), anchor="mm")
        return np.asarray(image) / 255
    image = Image.new("L", (128, 128))
    fat = int(rng.choice([0, 0, 0, 1, 2, 4]))
    ImageDraw.Draw(image).text(
        (64, 64), text, fill=255, font=_font(path, 64), anchor="mm", stroke_width=fat
    )
    left, top, right, bottom = image.getbbox() or (32, 32, 96, 96)
    # Output pixels, twice as fine -> pixels of `image`.
    scale = max(right - left, bottom - top) / (
        2 * rng.uniform(10, 34 if rng.random() < 0.3 else 26)
    )
    turn = rng.normal() * 0.2 if rng.random() < 0.8 else rng.uniform(-math.pi, math.pi)
    stretch, shear = math.exp(rng.normal() * 0.2), rng.normal() * 0.2
    c, s = math.cos(turn) * scale, math.sin(turn) * scale
    a, b, d, e = c * stretch, c * shear + s, -s * stretch, c - s * shear
    x, y = 28 + rng.normal() * 4, 28 + rng.normal() * 4
    place = ((left + right) / 2 - a * x - b * y, (top + bottom) / 2 - d * x - e * y)
    matrix = (a, b, place[0], d, e, place[1])
    turned = image.transform(
        (2 * SIDE, 2 * SIDE), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC
    )
    return np.asarray(turned.reduce(2)) / 255


# Lines and areas


def _canvas() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("L", (FINE * SIDE, FINE * SIDE))
    return image, ImageDraw.Draw(image)


def _curve(points: F64, steps: int) -> F64:
    """Catmull-Rom curve through (P, 2) points, P >= 2 -> ((P - 1) * steps, 2)."""
    p = np.concatenate([points[:1], points, points[-1:]])
    t = (np.arange(steps) / steps)[None, :, None]
    a, b, c, d = p[:-3, None], p[1:-2, None], p[2:-1, None], p[3:, None]
    curve = 0.5 * (
        2 * b + t * (c - a) + t**2 * (2 * a - 5 * b + 4 * c - d) + t**3 * (3 * b - a - 3 * c + d)
    )
    return curve.reshape(-1, 2)


def strokes(rng: Rng) -> F64:
    """One to five smooth curves of a round pen, whose width varies."""
    image, pen = _canvas()
    spread, widest = rng.uniform(0.4, 1.2), rng.choice([1.0, 2.0, 3.0, 5.0])
    for _ in range(rng.integers(1, 6)):
        count = int(rng.integers(2, 6))
        if rng.random() < 0.5:  # runs on, rather than to and fro
            points = (
                np.cumsum(rng.normal(size=(count, 2)) * 0.45, axis=0) + rng.normal(size=2) * 0.3
            )
            points = (points - points.mean(0)) * spread
        else:
            points = rng.uniform(-spread, spread, (count, 2))
        curve = (_curve(points, 10) + 1) * (FINE * SIDE / 2)
        radius = (
            np.interp(np.arange(len(curve)), np.linspace(0, len(curve), 4), rng.uniform(0.3, 1, 4))
            * widest
            * FINE
            / 2
        )
        ink = int(rng.choice([255, 255, rng.integers(60, 256)]))
        pen.line(curve.ravel().tolist(), fill=ink, width=max(1, int(2 * radius.min())))
        for (x, y), r in zip(curve.tolist(), radius.tolist(), strict=True):
            pen.ellipse((x - r, y - r, x + r, y + r), fill=ink)
    return np.asarray(image.reduce(FINE)) / 255


def shapes(rng: Rng) -> F64:
    """One to seven discs, rings, boxes and polygons, filled or outlined, in few or many greys, one
    over the other.
    """
    fine = 1 if rng.random() < 0.25 else FINE  # 1: hard edges
    size = SIDE * fine
    image = Image.new("L", (size, size), int(rng.choice([0, 0, rng.integers(256)])))
    pen = ImageDraw.Draw(image)
    greys = (
        rng.integers(0, 256, int(rng.integers(1, 5)))
        if rng.random() < 0.5
        else rng.integers(0, 256, 8)
    )
    for _ in range(rng.integers(1, 8)):
        grey, width = int(rng.choice(greys)), int(rng.integers(1, 4)) * fine
        style = {"fill": grey} if rng.random() < 0.6 else {"outline": grey, "width": width}
        x, y = rng.uniform(0, size, 2)
        w, h = np.exp(rng.uniform(math.log(2), math.log(20), 2)) * fine / 2
        match rng.integers(4):
            case 0:
                r = max(w, h) if rng.random() < 0.5 else w
                pen.ellipse((x - r, y - max(r, h), x + r, y + max(r, h)), **style)
            case 1:
                pen.rectangle((x - w, y - h, x + w, y + h), **style)
            case 2:
                # smaller ones have no room for their corners
                w, h = max(w, 4 * fine), max(h, 4 * fine)
                pen.rounded_rectangle((x - w, y - h, x + w, y + h), radius=min(w, h) / 2, **style)
            case _:
                angles = np.sort(rng.uniform(0, 2 * math.pi, rng.integers(3, 8)))
                reach = max(w, h) * rng.uniform(0.5, 1.2, len(angles))
                corners = np.stack([x + reach * np.cos(angles), y + reach * np.sin(angles)], axis=1)
                pen.polygon(corners.ravel().tolist(), **style)
    return np.asarray(image.reduce(fine) if fine > 1 else image) / 255


def edges(rng: Rng) -> F64:
    """Areas of one grey each with a straight, round or wild border, hard or soft."""
    match rng.integers(3):
        case 0:
            turn = rng.uniform(0, 2 * math.pi)
            height = X * math.cos(turn) + Y * math.sin(turn) - rng.uniform(-0.7, 0.7)
        case 1:
            height = np.hypot(X - rng.normal() * 0.7, Y - rng.normal() * 0.7) - rng.uniform(
                0.3, 1.5
            )
        case _:
            height = noise_field(rng, rng.uniform(1.2, 2.5)) - 0.5
    softness = math.exp(rng.uniform(math.log(0.004), math.log(0.5)))
    return 0.5 + 0.5 * np.clip(height / softness, -1, 1)
