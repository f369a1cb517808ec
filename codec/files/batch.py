"""Files of many images: what their readers have in common.

    source.num_images, source.names, source.labels
    for pixels, contents, names, labels in source.batches(4096): ...

READ ME FIRST
- A source is read in order, and its images are never in memory all at once; their names and labels
  are.
- The images of arrays and tables come as pixels, those of archives as the contents of image files,
  which are for another process to decode.
- Where images have only numbers, one that is at fault fails the whole file: if it were left out,
  all later ones would get other numbers.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from codec.arrays import SIDE, U8
from codec.errors import AezError, ImageError, counted
from codec.labels import Labels

Contents = list[bytes | Exception]  # image files in memory, or why there is none

# What an image file of 28x28 pixels in another file can need, with all that is written into it.
MAX_CONTENT_BYTES = 1 << 16
CHUNK_BYTES = 1 << 20  # read at once


class Scale(NamedTuple):
    """How values become 0..255: `white`, 1 or 255, becomes 255.  rounded: to whole numbers."""

    white: int
    rounded: bool = False


class Reading(NamedTuple):
    """What the user says about how files are to be read.

    array: the name of one array in an .npz file; labels: a file, a column or an array, `folders` or
    `none`; all_files: look for images in files without the suffix of one; grey: take images that
    are nearly grey; of_all: the other arrays of images in the file are taken as well, one by one.
    """

    array: str | None = None
    labels: str | None = None
    scale: Scale | None = None
    all_files: bool = False
    grey: bool = False
    of_all: bool = False


READING = Reading()


class Batch(NamedTuple):
    """Images in order: as `pixels`, uint8 (N, 28, 28), or as `contents`."""

    pixels: U8 | None
    contents: Contents | None
    names: list[str] | None
    labels: Labels | None


class ImageSource(ABC):
    """The images of one file.

    name: of the file, for messages; num_bytes: that the images take in it. names: of the images,
    for archives. labels, labels_from: of all images, and where they come from. left: what else is
    in the file and is not taken. notes: what the user should know. failed: entries that look like
    images and are none.
    """

    num_images: int
    num_bytes: int
    names: list[str] | None = None
    labels: Labels | None = None
    labels_from = ""
    is_numbered = True

    def __init__(self, name: str) -> None:
        self.name = name
        self.left: list[str] = []
        self.notes: list[str] = []
        self.failed: list[tuple[str, Exception]] = []

    def batches(self, size: int, start: int = 0) -> Iterator[Batch]:
        """The images, `size` at a time, from batch number `start` on.

        Raises ImageError, for what follows the last image as well.
        """
        at = start * size
        with image_errors(self.name):
            for found in self._read(size, start):
                end = at + len(found)
                names = None if self.names is None else self.names[at:end]
                labels = None if self.labels is None else self.labels[at:end]
                if isinstance(found, list):
                    yield Batch(None, found, names, labels)
                else:
                    pixels = np.ascontiguousarray(found.reshape(-1, SIDE, SIDE))
                    yield Batch(pixels, None, names, labels)
                at = end

    @abstractmethod
    def _read(self, size: int, start: int) -> Iterator[U8 | Contents]:
        """The images as for `batches`, as pixels of any shape (N, ...) or as contents."""

    def called(self, number: int) -> str:
        """What messages call an image, after the name of the file."""
        return f"image {number}" if self.names is None else self.names[number]

    def label_with(self, labels: Labels, origin: str) -> None:
        """Give the images labels.  Raises ImageError unless there is one for each image."""
        if len(labels) != self.num_images:
            raise ImageError(
                f"{self.name}: {counted(len(labels), 'label')} ({origin}) for "
                f"{counted(self.num_images, 'image')}"
            )
        self.labels, self.labels_from = labels, origin


def exact(
    values: npt.NDArray[Any], scale: Scale | None, name: str, called: Callable[[int], str]
) -> U8:
    """Values (N, ...) of any numeric type -> uint8 of the same shape.

    name: of the file; called: what messages call row number i. Without `scale` values are whole
    numbers 0..255, or False and True, which become 0 and 255. Raises ImageError for the first value
    that is nothing of the kind.
    """
    if values.dtype == np.uint8 and (scale is None or scale.white == 255):
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if scale is None:
        if values.dtype.kind not in "iu":
            raise ImageError(f"{name}: {values.dtype}, aez takes integers; {ASK_SCALE}")
        wrong, result = (values < 0) | (values > 255), values
    else:
        scaled = values.astype(np.float64) * (255 / scale.white)
        result = np.rint(scaled)
        wrong = ~((result >= 0) & (result <= 255))  # NaN too
        if not scale.rounded:
            with np.errstate(invalid="ignore"):  # infinity, which is wrong already
                wrong |= np.abs(scaled - result) > _tolerance(values.dtype)
    if wrong.any():
        at = int(np.argmax(wrong.reshape(len(values), -1).any(axis=1)))
        value = values[at][wrong[at]].flat[0]
        raise ImageError(f"{name}: {called(at)} has the value {value}, {_wanted(scale)}")
    return result.astype(np.uint8)


ASK_SCALE = "--scale 1 takes floats from 0 to 1, --scale 255 floats from 0 to 255"


def _wanted(scale: Scale | None) -> str:
    if scale is None:
        return "aez takes whole numbers 0..255"
    if scale.rounded:
        return f"--scale {scale.white} takes 0..{scale.white}"
    return f"--scale {scale.white} takes 0..{scale.white} in 255 equal steps (--round: any)"


def _tolerance(dtype: np.dtype[Any]) -> float:
    """How far from a whole number of 0..255 a value may be that was one before it was divided."""
    return max(1e-3, 128 * float(np.finfo(dtype).eps)) if dtype.kind == "f" else 1e-3


@contextmanager
def image_errors(name: str) -> Iterator[None]:
    """Turn whatever goes wrong inside into an ImageError that begins with `name`."""
    try:
        yield
    except AezError:
        raise
    except Exception as error:
        # On hostile bytes parsers of images, arrays and archives raise anything. The system's
        # errors have a reason, which is shown.
        reason = error.strerror if isinstance(error, OSError) else None
        said = f"is truncated or damaged: {_in_words(error)}"
        raise ImageError(f"{name}: {reason or said}") from error


# What libraries say of damage, and what that means.
_SAID = {
    "File is not a zip file": "the list of what is in it, at its end, is missing",
    "Not a gzipped file": "something else follows what is compressed",
    "Parquet magic bytes not found in footer": "its end is missing",
}


def _in_words(error: Exception) -> str:
    said = str(error).strip() or type(error).__name__
    return next((words for start, words in _SAID.items() if said.startswith(start)), said)


def name_of(source: Path | BinaryIO) -> str:
    """What messages call a file."""
    return str(source if isinstance(source, Path) else getattr(source, "name", "<stream>"))


def opened(source: Path | BinaryIO) -> closing[BinaryIO] | nullcontext[BinaryIO]:
    """A seekable stream at its beginning; it is closed afterwards only if opened here."""
    if isinstance(source, Path):
        return closing(source.open("rb"))
    if not source.seekable():
        return nullcontext(io.BytesIO(source.read()))
    source.seek(0)
    return nullcontext(source)


@contextmanager
def gunzipped(file: BinaryIO) -> Iterator[BinaryIO]:
    """What is in a gzip file, at its beginning; the same file if it is none."""
    is_packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    if not is_packed:
        yield file
        return
    import gzip

    with gzip.GzipFile(fileobj=file) as unpacked:
        # the lines of a GzipFile itself come slowly
        yield cast(BinaryIO, io.BufferedReader(unpacked, CHUNK_BYTES))


def read_exactly(file: BinaryIO, num_bytes: int) -> bytearray:
    """Read `num_bytes`, or what is left; memory grows with the bytes that come."""
    body = bytearray()
    while len(body) < num_bytes and (chunk := file.read(min(CHUNK_BYTES, num_bytes - len(body)))):
        body += chunk
    return body


def listing(names: Sequence[str], most: int = 8) -> str:
    """`a, b, c, ...`"""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
