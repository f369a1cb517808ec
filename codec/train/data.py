"""Training images: whatever `aez compress` takes, as one array, with a part held out.

READ ME FIRST
- `load` puts the images into an order that is drawn from their pixels. Folders and arrays are often
  sorted by class, and the part held out would be of one class that training never sees. The same
  images come in the same order, whatever their names, and equal ones side by side, so that hardly
  any is on both sides. One IDX file alone keeps its order: published sets are mixed already, and of
  theirs it is the last images that this project has always held out.
- The held-out part is the *last* images: every choice (when to stop, thresholds, which weights are
  best) is made on it, never on a test set.
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codec.errors import ImageError
from codec.files.images import is_array_file, is_image_file, read_array, read_image

MAX_HELD_OUT = 5000
MIN_IMAGES = 100
MAX_NAMED = 5  # files in a message

U8 = npt.NDArray[np.uint8]


def load(sources: list[Path]) -> U8:
    """Files and folders -> uint8 (N, 28, 28), in an order drawn from the pixels.

    Of an .npz file with several arrays of images the one is taken that has "train" in its name.
    Raises ImageError: naming files that are no such images; fewer than MIN_IMAGES, or all the same.
    """
    parts = []
    for source in sources:
        if source.is_dir():
            parts.append(_read_folder(source))
        elif source.suffix.lower() == ".npz":
            parts.append(_read_npz(source))
        elif is_array_file(source):
            parts.append(read_array(source))
        else:
            parts.append(read_image(source)[None])
    pixels = np.concatenate(parts)
    if len(pixels) < MIN_IMAGES:
        raise ImageError(f"{len(pixels)} images are too few to train on, {MIN_IMAGES} are needed")
    if (pixels == pixels[0]).all():
        raise ImageError(f"all {len(pixels)} images are the same one, there is nothing to learn")
    if (
        len(sources) == 1
        and is_array_file(sources[0])
        and sources[0].suffix.lower() not in (".npy", ".npz")
    ):
        return pixels
    keys = [hashlib.sha256(image.tobytes()).digest() for image in pixels]
    return pixels[sorted(range(len(pixels)), key=keys.__getitem__)]


def _read_folder(folder: Path) -> U8:
    files = sorted(p for p in folder.rglob("*") if is_image_file(p))
    if not files:
        raise ImageError(f"{folder}: no images in this folder")
    images, faults = [], []
    for file in files:
        try:
            images.append(read_image(file))
        except ImageError as error:
            faults.append(str(error))
    if faults:
        more = f"; and {len(faults) - MAX_NAMED} more" if len(faults) > MAX_NAMED else ""
        said = "; ".join(faults[:MAX_NAMED])
        raise ImageError(
            f"{folder}: {len(faults)} of {len(files)} files cannot be trained on: {said}{more}"
        )
    return np.stack(images)


def _read_npz(path: Path) -> U8:
    """The one array of images, or of several the one for training: x_train, train_images."""
    try:
        with zipfile.ZipFile(path) as archive:
            wanted = [member for member in archive.namelist() if "train" in member.lower()]
            arrays = [_images_in(archive, member, path) for member in wanted]
    except (OSError, zipfile.BadZipFile):
        arrays = []  # `read_array` has the words for it
    found = [array for array in arrays if array is not None]
    return found[0] if len(found) == 1 else read_array(path)


def _images_in(archive: zipfile.ZipFile, member: str, path: Path) -> U8 | None:
    """The images of a member; None if it holds something else, such as labels."""
    try:
        with archive.open(member) as stream:
            return read_array(stream, f"{path}: {member}")  # type: ignore[arg-type]
    except ImageError:
        return None


def split(pixels: U8) -> tuple[U8, U8]:
    """-> training part, held-out part: the last twelfth, at most MAX_HELD_OUT images."""
    held_out = min(MAX_HELD_OUT, max(10, len(pixels) // 12))
    return pixels[:-held_out], pixels[-held_out:]


def sha256(pixels: U8) -> str:
    """Hash of the pixels in order, hexadecimal: names the training data in a model's card."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
