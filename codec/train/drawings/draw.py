"""One drawing after the other: a kind by its share, then a finish.

`KINDS` says what is drawn, and how much of it. Then every image gets its contrast and its finish
(blur, noise, few grey levels, dither, JPEG), and a third of all is inverted. An image depends only
on the seed and its number, given the fonts of this machine (`outlines.font_files`), its Pillow and
its numpy: another machine draws other images.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from codec.arrays import F64, SIDE, U8
from codec.train.drawings.outlines import edges, glyphs, shapes, strokes
from codec.train.drawings.surfaces import (
    Rng,
    blobs,
    cells,
    fields,
    gradients,
    noise,
    scans,
    speckles,
    spectrograms,
    textures,
)

INVERTED = 1 / 3

SURFACES: tuple[Callable[[Rng], F64], ...] = (gradients, textures, fields, blobs, noise)
MASKS: tuple[Callable[[Rng], F64], ...] = (glyphs, strokes, shapes, edges)


def cuttings(rng: Rng) -> F64:
    """An outline filled with a surface, on a background that may be another surface."""
    mask = MASKS[rng.integers(len(MASKS))](rng)
    front = rng.uniform(0.3, 1) * SURFACES[rng.integers(len(SURFACES))](rng) + rng.uniform(0, 0.5)
    back = (
        rng.uniform(0.2, 0.8) * SURFACES[rng.integers(len(SURFACES))](rng)
        if rng.random() < 0.5
        else 0.0
    )
    return mask * front + (1 - mask) * back


KINDS: dict[str, tuple[float, Callable[[Rng], F64]]] = {
    "glyphs": (0.24, glyphs),
    "strokes": (0.12, strokes),
    "shapes": (0.12, shapes),
    "cuttings": (0.13, cuttings),
    "textures": (0.08, textures),
    "blobs": (0.06, blobs),
    "fields": (0.04, fields),
    "gradients": (0.05, gradients),
    "edges": (0.03, edges),
    "noise": (0.02, noise),
    "scans": (0.03, scans),
    "speckles": (0.03, speckles),
    "cells": (0.02, cells),
    "spectrograms": (0.03, spectrograms),
}


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
    """The kind of each image that `draw` draws."""
    shares = [share for share, _ in KINDS.values()]
    return (
        np.random.default_rng((seed, 0))
        .choice(list(KINDS), count, p=np.array(shares) / sum(shares))
        .tolist()
    )


def draw(count: int, seed: int) -> U8:
    """Draw images -> uint8 (count, 28, 28); the same for the same seed on one machine.

    Shares: glyphs 24 %, cuttings (an outline filled with a surface) 13 %, strokes 12 %,
    shapes 12 %, textures 8 %, blobs 6 %, gradients 5 %, fields (1/f noise) 4 %, edges 3 %,
    scans 3 %, speckles 3 %, spectrograms 3 %, cells 2 %, noise 2 %. A third of each is inverted.
    """
    pixels = np.empty((count, SIDE, SIDE), np.uint8)
    for i, kind in enumerate(kinds(count, seed)):
        rng = np.random.default_rng((seed, 1, i))
        pixels[i] = finish(KINDS[kind][1](rng), rng)
    return pixels
