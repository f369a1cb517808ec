"""The training set of a generic model: MNIST, Fashion-MNIST and drawings, mixed."""

from __future__ import annotations

import numpy as np
from PIL import Image

from codec.arrays import SIDE, U8
from codec.train.drawings.draw import draw
from codec.train.drawings.surfaces import Rng

MNIST_SHARE, FASHION_SHARE = 0.25, 0.25  # the rest is drawn
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


def generic_images(mnist: U8, fashion: U8, count: int, seed: int) -> U8:
    """The training set of a generic model, shuffled: uint8 (count, 28, 28).

    mnist, fashion: uint8 (N, 28, 28), training images only. A quarter of the result comes from
    each, without repetition as long as there are enough, and 60 % of these are changed (`changed`).
    The other half is drawn (`draw`).
    """
    rng = np.random.default_rng((seed, 2))
    sources = ((mnist, MNIST_SHARE), (fashion, FASHION_SHARE))
    parts = [_from(source, int(count * share), rng) for source, share in sources]
    parts.append(draw(count - sum(map(len, parts)), seed))
    pixels = np.concatenate(parts)
    return pixels[rng.permutation(count)]


def _from(source: U8, count: int, rng: Rng) -> U8:
    """`count` images of a source in random order, most of them changed."""
    if not count:
        return source[:0]
    turns = -(-count // len(source))
    order = np.concatenate([rng.permutation(len(source)) for _ in range(turns)])[:count]
    return np.stack([changed(one, rng) if rng.random() < CHANGED else one for one in source[order]])
