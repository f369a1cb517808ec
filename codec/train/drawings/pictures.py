"""Natural images: windows and thumbnails of pictures, and how they are seen otherwise."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from codec.arrays import F64, SIDE, U8
from codec.train.drawings.surfaces import Rng


def windows(pictures: Sequence[U8], count: int, rng: Rng) -> U8:
    """Cut `count` images out of grey pictures (H, W), each at a random place and scale: anything
    from a thumbnail to the picture's own pixels -> uint8 (count, 28, 28).
    """
    return np.stack([_window(pictures[rng.integers(len(pictures))], rng) for _ in range(count)])


def _window(picture: U8, rng: Rng) -> U8:
    height, width = picture.shape
    part = math.exp(rng.uniform(math.log(SIDE), math.log(min(height, width))))
    x, y = rng.uniform(0, width - part), rng.uniform(0, height - part)
    cut = Image.fromarray(picture).resize(
        (SIDE, SIDE), Image.Resampling.BOX, (x, y, x + part, y + part)
    )
    return np.asarray(cut)


def seen_otherwise(pixels: U8, rng: Rng) -> U8:
    """One natural image (28, 28), turned and mirrored; perhaps enlarged in part, with other
    contrast, noise, or the marks of JPEG; rarely inverted.
    """
    pixels = np.rot90(pixels, rng.integers(4))
    pixels = np.ascontiguousarray(pixels.T if rng.random() < 0.5 else pixels)
    if rng.random() < 0.1:
        part = int(rng.integers(12, SIDE))
        x, y = rng.integers(0, SIDE - part + 1, 2).tolist()
        box = (x, y, x + part, y + part)
        enlarged = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC, box)
        pixels = np.asarray(enlarged)
    if rng.random() < 0.3:
        x = _contrast(pixels / 255 + rng.uniform(-0.5, 0.5, pixels.shape) / 255, rng)
        if rng.random() < 0.5:
            grain = rng.normal(size=x.shape)
            x = x + grain * math.exp(rng.uniform(math.log(0.002), math.log(0.05)))
        pixels = np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)
    if rng.random() < 0.05:
        jpeg = io.BytesIO()
        Image.fromarray(pixels).save(jpeg, "JPEG", quality=int(rng.integers(20, 95)))
        pixels = np.asarray(Image.open(jpeg))
    return 255 - pixels if rng.random() < 0.05 else pixels


def _contrast(x: F64, rng: Rng) -> F64:
    """Brightness and contrast, about the mean, and a curve."""
    x = np.clip(x, 0, 1) ** math.exp(rng.normal() * 0.3)
    mean = x.mean()
    return (x - mean) * math.exp(rng.uniform(math.log(0.3), math.log(1.5))) + rng.normal(mean, 0.1)
