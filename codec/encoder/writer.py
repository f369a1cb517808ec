"""Writing a collection, image by image or array by array."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, BinaryIO, Self, Unpack

import numpy as np

from codec.arrays import SIDE, U8
from codec.collection.writer import Writer
from codec.encoder.encode import Encoder
from codec.encoder.options import Choices, Options
from codec.encoder.stats import CompressStats
from codec.errors import ImageError, UsageError
from codec.files.names import Claims
from codec.format.constants import MAX_BLOCK_IMAGES
from codec.labels import Given, checked, kind_of


def check_pixels(array: Any, ndims: tuple[int, ...]) -> U8:
    """The array, if it holds images, in C order: uint8 (28, 28) or (N, 28, 28).

    ndims: the allowed numbers of axes. Raises ImageError.
    """
    pixels: U8 = np.asarray(array)
    good = pixels.dtype == np.uint8 and pixels.ndim in ndims
    if not good or pixels.shape[-2:] != (SIDE, SIDE):
        wanted = " or ".join({2: "(28, 28)", 3: "(N, 28, 28)"}[n] for n in ndims)
        raise ImageError(f"pixels are {pixels.dtype} {pixels.shape}, wanted uint8 {wanted}")
    return np.ascontiguousarray(pixels)


def check_names(names: Any, count: int | None = None) -> list[str]:
    """Names, given as any sequence of str, one for each of `count` images (None: any number).

    Raises UsageError.
    """
    if isinstance(names, str | bytes) or not isinstance(names, Iterable):
        raise UsageError(f"names are of type {type(names).__name__}, wanted a list: one an image")
    found = list(names)
    if count is not None and len(found) != count:
        raise UsageError(f"{len(found)} names for {count} images")
    for at, name in enumerate(found):
        if not isinstance(name, str):
            raise UsageError(f"name {at} is {name!r}, wanted a str")
    return found


class CollectionWriter:
    """Writes images to a collection in a binary file, keeping no more than one block in memory.

        with CollectionWriter(file, quality=60) as writer:
            writer.write(pixels, names, labels)

    Leaving the `with` block without an exception writes the footer. All images have names, or none
    has; all have labels of one kind, or none has. embed_model: put the models that may be used into
    the file, so that it can be read where they are not installed. All other options are those of
    `compress`. stats: figures of all blocks written so far. block_images: images in a block; less
    than MAX_BLOCK_IMAGES is for tests.
    """

    def __init__(
        self,
        file: BinaryIO,
        *,
        embed_model: bool = False,
        block_images: int = MAX_BLOCK_IMAGES,
        **choices: Unpack[Choices],
    ) -> None:
        self._encoder = Encoder(Options.of(**choices))
        self._writer = Writer(file, self._encoder.model_files() if embed_model else None)
        self._block_images = block_images
        self._pixels: deque[U8] = deque()  # images that wait for their block to be full
        self._names: deque[str] = deque()
        self._labels: deque[int | str] = deque()
        self._waiting = 0
        self._claims = Claims()
        self._named: bool | None = None
        self._label_kind: str | None = None
        self.stats = CompressStats()

    def write(
        self,
        pixels: U8,
        names: Sequence[str] | None = None,
        labels: Given | None = None,
    ) -> None:
        """Append uint8 (N, 28, 28), any N, and the name and label of each, if they have any.

        Nothing is appended if one of them is at fault. Raises ImageError, UsageError.
        """
        pixels = check_pixels(pixels, (3,))
        called = None if names is None else check_names(names, len(pixels))
        if self._named not in (None, called is not None):
            raise UsageError("some images of the collection have names and some have none")
        found = None if labels is None else checked(labels, len(pixels))
        kind = kind_of(found)
        if len(pixels) and self._label_kind not in (None, kind):
            raise UsageError(
                f"earlier images of the collection have {self._label_kind} as labels, these have "
                f"{kind}"
                if "no labels" not in (kind, self._label_kind)
                else "some images of the collection have labels and some have none"
            )
        self._claims.add(called or ())
        self._named = called is not None
        if len(pixels):
            self._pixels.append(pixels)
            self._label_kind = kind
        self._names += called or ()
        self._labels += (
            () if found is None else found if isinstance(found, list) else found.tolist()
        )
        self._waiting += len(pixels)
        while self._waiting >= self._block_images:
            self._write_block(self._block_images)
        if len(pixels) and self._pixels:
            # Keep only the images that wait, not the caller's array, which may be large or change.
            self._pixels[-1] = self._pixels[-1].copy()

    def _take(self, count: int) -> U8:
        """Remove the first `count` of the images that wait, and return them."""
        pieces: list[U8] = []
        while count:
            first = self._pixels.popleft()
            pieces.append(first[:count])
            if len(first) > count:
                self._pixels.appendleft(first[count:])
            self._waiting -= len(pieces[-1])
            count -= len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _write_block(self, count: int) -> None:
        pixels = self._take(count)
        names = [self._names.popleft() for _ in range(count)] if self._named else None
        labels = None
        if self._labels:
            labels = checked([self._labels.popleft() for _ in range(count)])
        block, stats = self._encoder.block(pixels, names, labels)
        self._writer.write(block, len(pixels))
        self.stats += stats

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()

    def close(self) -> None:
        """Write what is left, and the footer."""
        if self._waiting:
            self._write_block(self._waiting)
        self._writer.finish()
        self.stats.bytes_out = self._writer.num_bytes
