"""The training set of a generic model: natural images, MNIST, Fashion-MNIST and drawings, mixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from codec.arrays import SIDE, U8
from codec.train.drawings.draw import draw
from codec.train.drawings.pictures import seen_otherwise, windows
from codec.train.drawings.surfaces import Rng

NATURAL_SHARE, MNIST_SHARE, FASHION_SHARE = 0.46, 0.1, 0.1  # the rest is drawn
PICTURES_SHARE = 0.02  # of pictures, if there are any: a part of the natural ones
CHANGED = 0.6  # of the images of MNIST and Fashion-MNIST


def changed(pixels: U8, rng: Rng) -> U8:
    """One image (28, 28), perhaps flipped or turned, enlarged in part or shifted, inverted."""
    if rng.random() < 0.5:
        pixels = np.rot90(pixels, rng.integers(4))
        pixels = pixels.T if rng.random() < 0.5 else pixels
    match rng.integers(4):
        case 0:
            part = int(rng.integers(10, SIDE))
            y, x = rng.integers(0, SIDE - part + 1, 2).tolist()
            cut = Image.fromarray(np.ascontiguousarray(pixels[y : y + part, x : x + part]))
            pixels = np.asarray(cut.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        case 1:
            pixels = np.roll(pixels, rng.integers(-8, 9, 2), (0, 1))
    return 255 - pixels if rng.random() < 0.4 else pixels


def _mostly_changed(pixels: U8, rng: Rng) -> U8:
    return changed(pixels, rng) if rng.random() < CHANGED else pixels


def generic_images(
    natural: U8, mnist: U8, fashion: U8, count: int, seed: int, pictures: Sequence[U8] = ()
) -> U8:
    """The training set of a generic model, shuffled: uint8 (count, 28, 28).

    natural, mnist, fashion: uint8 (N, 28, 28), training images only; pictures: grey ones (H, W),
    of which windows are cut. 46 % of the result is natural, each image seen otherwise
    (`seen_otherwise`); a tenth comes from MNIST and a tenth from Fashion-MNIST, 60 % of them
    changed (`changed`). The rest is drawn (`draw`). Images are repeated, as evenly as can be, where
    there are too few.
    """
    rng = np.random.default_rng((seed, 2))
    cut = int(count * PICTURES_SHARE) if pictures else 0
    parts = [
        _from(natural, int(count * NATURAL_SHARE) - cut, seen_otherwise, rng),
        _from(mnist, int(count * MNIST_SHARE), _mostly_changed, rng),
        _from(fashion, int(count * FASHION_SHARE), _mostly_changed, rng),
    ]
    if cut:
        parts.append(_from(windows(pictures, cut, rng), cut, seen_otherwise, rng))
    parts.append(draw(count - sum(map(len, parts)), seed))
    pixels = np.concatenate(parts)
    return pixels[rng.permutation(count)]


def _from(source: U8, count: int, change: Callable[[U8, Rng], U8], rng: Rng) -> U8:
    """`count` images of a source in random order, each with `change`."""
    if not count:
        return source[:0]
    turns = -(-count // len(source))
    order = np.concatenate([rng.permutation(len(source)) for _ in range(turns)])[:count]
    return np.stack([change(one, rng) for one in source[order]])
