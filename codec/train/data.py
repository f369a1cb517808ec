"""Training images: files and folders of images as one array, with a part held out.

READ ME FIRST
- `load` puts the images into an order by a hash of their pixels. Folders and arrays are often
  sorted by class, and then the part held out would be of a class that training never sees. The same
  images come in the same order, whatever their names. Equal images come side by side, so that
  hardly any is in both parts. Only a single IDX file keeps its order: published sets are shuffled
  already, and this project has always held out their last images.
- The held-out part is the *last* images. Every choice (when to stop, thresholds, which weights are
  best) is made on it, never on a test set.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from codec.arrays import U8
from codec.errors import ImageError
from codec.files.arrays import images_of_npz, is_array_file, read_array
from codec.files.batch import READING
from codec.files.images import is_image_file, read_image
from codec.files.place import Local

MAX_HELD_OUT = 5000
MIN_IMAGES = 100
MAX_NAMED = 5  # files in a message


def load(sources: list[Path]) -> U8:
    """Files and folders -> uint8 (N, 28, 28), in an order by their pixels.

    Of an .npz file with several arrays of images, the one with "train" in its name is used.
    Raises ImageError: naming files that are no such images; for fewer than MIN_IMAGES images, or
    equal ones only.
    """
    pixels = np.concatenate([_read(source) for source in sources])
    if len(pixels) < MIN_IMAGES:
        raise ImageError(f"{len(pixels)} images are too few to train on; {MIN_IMAGES} are needed")
    if (pixels == pixels[0]).all():
        raise ImageError(f"all {len(pixels)} images are the same; there is nothing to learn")
    if len(sources) == 1 and _is_idx(sources[0]):
        return pixels
    keys = [hashlib.sha256(image.tobytes()).digest() for image in pixels]
    return pixels[sorted(range(len(pixels)), key=keys.__getitem__)]


def _is_idx(path: Path) -> bool:
    return is_array_file(path) and path.suffix.lower() not in (".npy", ".npz")


def _read(source: Path) -> U8:
    if source.is_dir():
        return _read_folder(source)
    if source.suffix.lower() == ".npz":
        return _read_npz(source)
    return read_array(source) if is_array_file(source) else read_image(source)[None]


def _read_folder(folder: Path) -> U8:
    images: list[U8] = []
    names, _, unread = Local(folder).walk(is_image_file)
    faults = [f"{path}: {error.strerror}" for path, error in unread]
    if not names and not faults:
        raise ImageError(f"{folder}: no images in this directory")
    for name in names:
        try:
            images.append(read_image(folder / name))
        except ImageError as error:
            faults.append(str(error))
    if faults:
        shown = "; ".join(faults[:MAX_NAMED])
        more = f"; and {len(faults) - MAX_NAMED} more" if len(faults) > MAX_NAMED else ""
        raise ImageError(
            f"{folder}: {len(faults)} of {len(names)} files cannot be read: {shown}{more}"
        )
    return np.stack(images)


def _read_npz(path: Path) -> U8:
    """The one array of images; of several, the one for training: x_train, train_images."""
    arrays = images_of_npz(path, str(path), READING)
    wanted = [array for array in arrays if "train" in array.lower()]
    return read_array(path, array=wanted[0] if len(wanted) == 1 else None)


def split(pixels: U8) -> tuple[U8, U8]:
    """-> the images to train on, and those held out: the last twelfth, at most MAX_HELD_OUT."""
    held_out = min(MAX_HELD_OUT, max(10, len(pixels) // 12))
    return pixels[:-held_out], pixels[-held_out:]


def sha256(pixels: U8) -> str:
    """Hash of the pixels in order, hexadecimal: names the training data in a model's card."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
