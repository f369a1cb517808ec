"""Images that the project draws itself, and the mixture on which a `generic` model is trained.

    python -m codec.train.drawings OUT.npy --mnist IMAGES --fashion IMAGES --count N --seed S

`KINDS` says what is drawn and how much of it. Whatever it is then gets its contrast and its finish
(blur, noise, few grey levels, dither, JPEG), and a third of all is inverted. An image depends on
the seed and its number alone, given the fonts that this machine has (`font_files`), its Pillow and
its numpy: on another machine other images come out.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from codec.errors import AezError
from codec.files.atomic import atomic
from codec.files.images import pack_npy, read_array
from codec.train.data import split

U8 = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]
Rng = np.random.Generator

SIZE = 28
FINE = 4  # outlines are drawn this many times larger, then averaged
INVERTED = 1 / 3
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
# Of the training set: how much is MNIST, Fashion-MNIST, drawings; and how much of the first two is
# changed.
MNIST_SHARE, FASHION_SHARE = 0.25, 0.25
CHANGED = 0.6

# The middle of each pixel, -1 .. 1.
Y, X = (np.mgrid[0:SIZE, 0:SIZE] + 0.5) / (SIZE / 2) - 1
_FREQUENCY = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None])
_FREQUENCY[0, 0] = 1 / SIZE


# Fonts


@cache
def font_files() -> tuple[str, ...]:
    """Scalable fonts of the system and of matplotlib, one of each file name, in order of name."""
    found: dict[str, str] = {}
    for directory in (os.path.join(matplotlib.get_data_path(), "fonts", "ttf"), *FONT_DIRECTORIES):
        for folder, _, names in os.walk(os.path.expanduser(directory)):
            for name in names:
                if name.lower().endswith((".ttf", ".otf", ".ttc")):
                    found.setdefault(name, os.path.join(folder, name))
    return tuple(found[name] for name in sorted(found) if _characters(found[name]))


@cache
def _characters(path: str) -> str:
    """The characters of a font that can be seen, in order; none if it cannot be read."""
    try:
        codes = sorted(FT2Font(path).get_charmap())
        ImageFont.truetype(path, 20)
    except (OSError, RuntimeError):
        return ""
    return "".join(c for c in map(chr, codes) if c.isprintable() and not c.isspace())


@lru_cache(maxsize=2000)
def _font(path: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size)


ASCII = "".join(map(chr, range(33, 127)))


def _text(rng: Rng) -> tuple[str, str]:
    """A font's path, "" for the one that Pillow ships, and one to three of its characters, of one
    part of its alphabet.
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
    """Characters of a random font: upright as the font's own hints have them, or turned, sheared,
    stretched, fat.
    """
    path, text = _text(rng)
    if rng.random() < 0.25:  # small and sharp, at times without grey
        image = Image.new("L", (SIZE, SIZE))
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
        (2 * SIZE, 2 * SIZE), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC
    )
    return np.asarray(turned.reduce(2)) / 255


# Lines and areas


def _canvas() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("L", (FINE * SIZE, FINE * SIZE))
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
        if rng.random() < 0.5:  # goes on, rather than to and fro
            points = (
                np.cumsum(rng.normal(size=(count, 2)) * 0.45, axis=0) + rng.normal(size=2) * 0.3
            )
            points = (points - points.mean(0)) * spread
        else:
            points = rng.uniform(-spread, spread, (count, 2))
        curve = (_curve(points, 10) + 1) * (FINE * SIZE / 2)
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
    size = SIZE * fine
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
            height = _field(rng, rng.uniform(1.2, 2.5)) - 0.5
    softness = math.exp(rng.uniform(math.log(0.004), math.log(0.5)))
    return 0.5 + 0.5 * np.clip(height / softness, -1, 1)


# Areas of grey


def _stretched(x: F64) -> F64:
    low, high = x.min(), x.max()
    return (x - low) / max(high - low, 1e-9)


def _field(rng: Rng, power: float) -> F64:
    """Noise of amplitude 1 / frequency**power, 0..1; 1 is that of natural images."""
    spectrum = (
        rng.normal(size=_FREQUENCY.shape) + 1j * rng.normal(size=_FREQUENCY.shape)
    ) / _FREQUENCY**power
    return _stretched(np.fft.irfft2(spectrum, (SIZE, SIZE)))


def fields(rng: Rng) -> F64:
    """Clouds: noise with the spectrum of natural images, rougher or smoother, at times with ridges
    or terraces.
    """
    field = _field(rng, rng.uniform(0.5, 2.0))
    match rng.integers(4):
        case 0:
            return np.abs(2 * field - 1)
        case 1:
            return np.maximum(field, _field(rng, 1.0))
        case _:
            return field


def gradients(rng: Rng) -> F64:
    """A ramp: straight, round, or around a point; bent, at times repeated or with noise."""
    x, y = rng.normal(size=2) * 0.6
    turn = rng.uniform(0, 2 * math.pi)
    match rng.integers(3):
        case 0:
            ramp = _stretched(X * math.cos(turn) + Y * math.sin(turn))
        case 1:
            ramp = _stretched(np.hypot((X - x) * math.exp(rng.normal() * 0.4), Y - y))
        case _:
            ramp = (np.arctan2(Y - y, X - x) + turn) / (2 * math.pi) % 1
    ramp = ramp ** math.exp(rng.normal() * 0.5)
    if rng.random() < 0.2:
        ramp = ramp * rng.integers(2, 5) % 1
    return ramp + rng.normal(size=ramp.shape) * rng.choice([0, 0, 0.02, 0.06])


def _waves(rng: Rng, x: F64, period: float) -> F64:
    """A periodic profile along `x`: sine, saw, or bars of any duty."""
    phase = (x / period + rng.random()) % 1
    match rng.integers(3):
        case 0:
            return 0.5 + 0.5 * np.sin(2 * math.pi * phase)
        case 1:
            return phase if rng.random() < 0.5 else np.abs(2 * phase - 1)
        case _:
            return (phase < rng.uniform(0.2, 0.8)).astype(np.float64)


def textures(rng: Rng) -> F64:
    """What repeats: stripes, checkerboards, dots, weaves, tiles, of any period, phase and
    direction.
    """
    turn = rng.choice([0, math.pi / 2, math.pi / 4, rng.uniform(0, math.pi)])
    pixels_x, pixels_y = 14 * (X + 1) - 0.5, 14 * (Y + 1) - 0.5
    u = pixels_x * math.cos(turn) + pixels_y * math.sin(turn)
    v = pixels_y * math.cos(turn) - pixels_x * math.sin(turn)
    period = (
        float(rng.integers(2, 15))
        if rng.random() < 0.6
        else math.exp(rng.uniform(math.log(2), math.log(20)))
    )
    match rng.integers(6):
        case 0:
            return _waves(rng, u, period)
        case 1:
            px, py = rng.integers(1, 11, 2) if rng.random() < 0.3 else [rng.integers(1, 11)] * 2
            board = (pixels_x + rng.integers(20)) // px + (pixels_y + rng.integers(20)) // py
            return board % 2
        case 2:
            return (np.floor(u / period + rng.random()) + np.floor(v / period + rng.random())) % 2
        case 3:
            return 0.5 * (
                _waves(rng, u, period) + _waves(rng, v, period * rng.choice([1, 1, 2, 0.5]))
            )
        case 4:
            tile = rng.random((int(rng.integers(2, 9)), int(rng.integers(2, 9))))
            if rng.random() < 0.4:
                tile = np.round(tile)
            times = (SIZE // tile.shape[0] + 1, SIZE // tile.shape[1] + 1)
            return np.tile(tile, times)[:SIZE, :SIZE]
        case _:
            bent = u + rng.uniform(1, 8) * _field(rng, 1.5)
            return _waves(rng, bent, period)


def noise(rng: Rng) -> F64:
    """What sensors add, alone: white, of specks, of lines, of blocks."""
    match rng.integers(5):
        case 0:
            return rng.random((SIZE, SIZE))
        case 1:
            return 0.5 + rng.normal(size=(SIZE, SIZE)) * rng.uniform(0.02, 0.3)
        case 2:
            return (rng.random((SIZE, SIZE)) < rng.uniform(0.01, 0.5)) * rng.uniform(
                0.3, 1, (SIZE, SIZE)
            )
        case 3:
            lines = np.broadcast_to(rng.random((SIZE, 1)), (SIZE, SIZE))
            return lines.T if rng.random() < 0.5 else lines
        case _:
            block = int(rng.choice([2, 4, 7]))
            return np.kron(rng.random((SIZE // block, SIZE // block)), np.ones((block, block)))


def blobs(rng: Rng) -> F64:
    """Smooth bodies that shine through each other, as X-rays and cells have them, at times with
    ribs and grain.
    """
    x = np.zeros((SIZE, SIZE))
    for _ in range(rng.integers(1, 9)):
        turn = rng.uniform(0, math.pi)
        dx, dy = X - rng.normal() * 0.5, Y - rng.normal() * 0.5
        u, v = dx * math.cos(turn) + dy * math.sin(turn), dy * math.cos(turn) - dx * math.sin(turn)
        a, b = np.exp(rng.uniform(math.log(0.08), math.log(1.2), 2))
        far = (u / a) ** 2 + (v / b) ** 2
        body = np.exp(-far) if rng.random() < 0.6 else 1 / (1 + far ** rng.uniform(1, 5))
        x += rng.choice([1, 1, -0.7]) * rng.uniform(0.3, 1) * body
    if rng.random() < 0.25:
        arc = (
            np.hypot(X * rng.uniform(0.7, 1.4), Y - rng.choice([-1, 1]) * rng.uniform(0.5, 2)) * 14
        )
        x += rng.uniform(0.05, 0.3) * (0.5 + 0.5 * np.sin(arc * 2 * math.pi / rng.uniform(3, 7)))
    if rng.random() < 0.5:
        x += rng.uniform(0.05, 0.6) * _field(rng, rng.uniform(0.7, 1.6))
    return _stretched(x)


SURFACES: tuple[Callable[[Rng], F64], ...] = (gradients, textures, fields, blobs, noise)
MASKS: tuple[Callable[[Rng], F64], ...] = (glyphs, strokes, shapes, edges)


def cuttings(rng: Rng) -> F64:
    """The outline of one kind filled with the surface of another, before a third."""
    mask = MASKS[rng.integers(len(MASKS))](rng)
    front = rng.uniform(0.3, 1) * SURFACES[rng.integers(len(SURFACES))](rng) + rng.uniform(0, 0.5)
    back = (
        rng.uniform(0.2, 0.8) * SURFACES[rng.integers(len(SURFACES))](rng)
        if rng.random() < 0.5
        else 0.0
    )
    return mask * front + (1 - mask) * back


KINDS: dict[str, tuple[float, Callable[[Rng], F64]]] = {
    "glyphs": (0.25, glyphs),
    "strokes": (0.13, strokes),
    "shapes": (0.13, shapes),
    "cuttings": (0.15, cuttings),
    "textures": (0.10, textures),
    "blobs": (0.08, blobs),
    "fields": (0.06, fields),
    "gradients": (0.05, gradients),
    "edges": (0.03, edges),
    "noise": (0.02, noise),
}


# Finish


def finish(x: F64, rng: Rng) -> U8:
    """Contrast, blur, noise, few greys, dither or JPEG, inversion: (28, 28) about 0..1 -> uint8."""
    if rng.random() < 0.3:
        low, high = np.sort(rng.random(2))
        x = low + np.clip(x, 0, 1) * max(high - low, 0.08)
    if rng.random() < 0.15:
        x = np.clip(x, 0, 1) ** math.exp(rng.normal() * 0.5)
    if rng.random() < 0.15:
        x = _blurred(x, int(rng.integers(1, 4)))
    if rng.random() < 0.15:
        grain = rng.normal(size=x.shape) * math.exp(rng.uniform(math.log(0.008), math.log(0.15)))
        x = x + (grain if rng.random() < 0.7 else grain * np.sqrt(np.clip(x, 0, 1)))
    pixels = np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)
    match rng.integers(16):
        case 0:
            levels = int(rng.integers(2, 9))
            pixels = (np.rint(pixels / 255 * (levels - 1)) * (255 / (levels - 1))).astype(np.uint8)
        case 1:
            pixels = np.asarray(Image.fromarray(pixels).convert("1").convert("L"))
        case 2 | 3:
            jpeg = io.BytesIO()
            Image.fromarray(pixels).save(jpeg, "JPEG", quality=int(rng.integers(10, 80)))
            pixels = np.asarray(Image.open(jpeg))
    return 255 - pixels if rng.random() < INVERTED else pixels


def _blurred(x: F64, times: int) -> F64:
    for _ in range(times):
        wide = np.pad(x, 1, "edge")
        wide = (wide[:-2] + 2 * wide[1:-1] + wide[2:]) / 4
        x = (wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]) / 4
    return x


def kinds(count: int, seed: int) -> list[str]:
    """What `draw` draws: the kind of each image."""
    shares = [share for share, _ in KINDS.values()]
    return (
        np.random.default_rng((seed, 0))
        .choice(list(KINDS), count, p=np.array(shares) / sum(shares))
        .tolist()
    )


def draw(count: int, seed: int) -> U8:
    """Draw images -> uint8 (count, 28, 28); the same for the same seed on one machine.

    Shares: glyphs 25 %, cuttings (an outline filled with a surface) 15 %, strokes 13 %, shapes 13
    %, textures 10 %, blobs 8 %, fields (1/f noise) 6 %, gradients 5 %, edges 3 %, noise 2 %. A
    third of each is inverted.
    """
    pixels = np.empty((count, SIZE, SIZE), np.uint8)
    for i, kind in enumerate(kinds(count, seed)):
        rng = np.random.default_rng((seed, 1, i))
        pixels[i] = finish(KINDS[kind][1](rng), rng)
    return pixels


# The training set


def changed(pixels: U8, rng: Rng) -> U8:
    """One image (28, 28) flipped or turned, a part of it enlarged or it shifted, inverted: each or
    none of it.
    """
    if rng.random() < 0.5:
        pixels = np.rot90(pixels, rng.integers(4))
        pixels = pixels.T if rng.random() < 0.5 else pixels
    match rng.integers(4):
        case 0:
            part = int(rng.integers(10, SIZE))
            y, x = rng.integers(0, SIZE - part + 1, 2).tolist()
            cut = Image.fromarray(np.ascontiguousarray(pixels[y : y + part, x : x + part]))
            pixels = np.asarray(cut.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        case 1:
            pixels = np.roll(pixels, rng.integers(-8, 9, 2), (0, 1))
    return 255 - pixels if rng.random() < 0.4 else pixels


def generic_images(mnist: U8, fashion: U8, count: int, seed: int) -> U8:
    """The training set of a generic model, shuffled: uint8 (count, 28, 28).

    mnist, fashion: uint8 (N, 28, 28), training images alone. A quarter of the result is of each,
    taken without repetition as long as there are enough, 60 % of these changed (`changed`); the
    other half is drawn (`draw`).
    """
    rng = np.random.default_rng((seed, 2))
    parts = []
    for source, share in ((mnist, MNIST_SHARE), (fashion, FASHION_SHARE)):
        wanted = int(count * share)
        turns = -(-wanted // len(source))
        chosen = (
            source[np.concatenate([rng.permutation(len(source)) for _ in range(turns)])[:wanted]]
            if wanted
            else source[:0]
        )
        parts.append(
            np.stack([changed(one, rng) if rng.random() < CHANGED else one for one in chosen])
            if wanted
            else chosen
        )
    parts.append(draw(count - sum(map(len, parts)), seed))
    pixels = np.concatenate(parts)
    return pixels[rng.permutation(count)]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m codec.train.drawings", description="Write a generic training set."
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--fashion", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        # none that is held out
        mnist, fashion = (split(read_array(path))[0] for path in (options.mnist, options.fashion))
        pixels = generic_images(mnist, fashion, options.count, options.seed)
        with atomic(options.out) as file:
            file.write(pack_npy(pixels))
    except AezError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
