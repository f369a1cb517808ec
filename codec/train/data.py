"""Training images: whatever `aez compress` takes, as one array, with a part held out.

The held-out part is the *last* images, as they come: every choice (length of training, thresholds, which weights are
best) is made on it, never on a test set.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codec.errors import ImageError
from codec.images import is_array_file, is_image_file, read_array, read_image

MAX_HELD_OUT = 5000
MIN_IMAGES = 100

U8 = npt.NDArray[np.uint8]


def load(sources: list[Path]) -> U8:
    """Files and folders -> uint8 (N, 28, 28), in the order given, folders sorted by path.  Raises ImageError."""
    parts = []
    for source in sources:
        if source.is_dir():
            files = sorted(p for p in source.rglob("*") if is_image_file(p))
            if not files:
                raise ImageError(f"{source}: no images in this folder")
            parts.append(np.stack([read_image(p) for p in files]))
        elif is_array_file(source):
            parts.append(read_array(source))
        else:
            parts.append(read_image(source)[None])
    pixels = np.concatenate(parts)
    if len(pixels) < MIN_IMAGES:
        raise ImageError(f"{len(pixels)} images are too few to train on, {MIN_IMAGES} are needed")
    return pixels


def split(pixels: U8) -> tuple[U8, U8]:
    """-> training part, held-out part: the last twelfth, at most MAX_HELD_OUT images."""
    held_out = min(MAX_HELD_OUT, max(10, len(pixels) // 12))
    return pixels[:-held_out], pixels[-held_out:]


def sha256(pixels: U8) -> str:
    """Hash of the pixels in order, hexadecimal: names the training data in a model's card."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
