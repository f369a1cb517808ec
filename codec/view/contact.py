"""Contact sheets for notebooks: the first images of a collection as one picture with a caption.

    class Collection:
        def _repr_html_(self): return contact.sheet(self)

A notebook shows an object whenever it is the last line of a cell. So this takes at most about
MAX_S and MAX_IMAGES, and never raises: what cannot be decoded is hatched, and the caption says why.
"""

from __future__ import annotations

import base64
import html
import io
import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from codec.arrays import SIDE, U8, Bools
from codec.errors import AezError, counted, shown

MAX_IMAGES = 64
MAX_S = 1.0  # for decoding
COLUMNS = 16
ZOOM = 2  # each pixel is drawn so wide
GAP = 1  # between images, before the zoom
BATCH = 16  # images that are decoded at once: a group, or some of them
MAX_WORDS, MAX_WORD = 8, 24  # names and labels in a caption; characters of one
HATCH = (112, 144)  # its grey values


class Pictures(Protocol):
    """What is shown: a `Collection`."""

    @property
    def num_bytes(self) -> int: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: list[int]) -> U8: ...
    def names_at(self, indexes: list[int]) -> list[str]: ...
    def labels_at(self, index: list[int]) -> Any: ...


def sheet(pictures: Pictures, labels: Sequence[object] | None = None) -> str | None:
    """A sheet as HTML; None if there is none, so that a notebook shows the object as text.

    labels: of the first MAX_WORDS + 1 images, if they are not those of the pictures. Raises
    nothing.
    """
    try:
        return _sheet(pictures, labels)
    except Exception:
        return None


def _sheet(pictures: Pictures, labels: Sequence[object] | None) -> str:
    try:
        num_images = len(pictures)
    except AezError as error:
        return _figure("", [_cut(str(error), 200)])
    pixels, lost, reason = _decoded(pictures, min(num_images, MAX_IMAGES))
    said = [f"{counted(num_images, 'image')}, {pictures.num_bytes:,} bytes"]
    if 0 < len(pixels) < num_images:
        said[0] = f"{len(pixels)} of {num_images:,} images, {pictures.num_bytes:,} bytes"
    some = list(range(min(num_images, MAX_WORDS + 1)))
    said += _words("names", [name for name in _or_none(pictures.names_at, some) if name])
    said += _words("labels", _or_none(pictures.labels_at, some) if labels is None else labels)
    if reason:
        said.append(_cut(f"{counted(int(lost.sum()), 'image')} cannot be shown: {reason}", 200))
    return _figure(_image(pixels, lost) if len(pixels) else "", said)


def _decoded(pictures: Pictures, count: int) -> tuple[U8, Bools, str]:
    """The first images, as many as there is time for; which are lost, and why the first one is."""
    end, reason = time.monotonic() + MAX_S, ""
    pixels, lost = np.zeros((count, SIDE, SIDE), np.uint8), np.zeros(count, np.bool_)
    for start in range(0, count, BATCH):
        wanted = list(range(start, min(start + BATCH, count)))
        if start and time.monotonic() > end:
            return pixels[:start], lost[:start], reason
        try:
            pixels[wanted] = pictures[wanted]
        except AezError:
            for number in wanted:  # those of other groups may be intact
                try:
                    pixels[number] = pictures[[number]][0]
                except AezError as error:
                    lost[number], reason = True, reason or str(error)
    return pixels, lost, reason


def _or_none(read: Any, numbers: list[int]) -> list[object]:
    """Names or labels, none if they are damaged."""
    try:
        found = read(numbers)
    except AezError:
        return []
    return [] if found is None else list(found)


def _words(what: str, words: Sequence[object]) -> list[str]:
    if not len(words):
        return []
    some = [_cut(str(word), MAX_WORD) for word in words[:MAX_WORDS]]
    more = ", ..." if len(words) > MAX_WORDS else ""
    return [f"{what}: {', '.join(some)}{more}"]


def _cut(text: str, size: int) -> str:
    """A text from outside: short, visible, escaped, of its own direction."""
    visible = shown(text[: size + 1])
    short = visible if len(visible) <= size else f"{visible[: size - 3]}..."
    return f"<bdi>{html.escape(short)}</bdi>"


def _image(pixels: U8, lost: Bools) -> str:
    picture = picture_of(pixels, lost)
    width, height = picture.shape[1::-1]
    return (
        f'<img alt="{counted(len(pixels), "image")}" width="{width}" height="{height}" '
        f'style="image-rendering: pixelated; max-width: none" '
        f'src="data:image/png;base64,{base64.b64encode(_png(picture)).decode()}">'
    )


def picture_of(pixels: U8, lost: Bools) -> U8:
    """Images side by side: grey and opacity, uint8 (H, W, 2); those that are lost are hatched."""
    rows, columns = -(-len(pixels) // COLUMNS), min(len(pixels), COLUMNS)
    pitch = (SIDE + GAP) * ZOOM
    picture = np.zeros((rows * pitch - GAP * ZOOM, columns * pitch - GAP * ZOOM, 2), np.uint8)
    y, x = np.mgrid[: SIDE * ZOOM, : SIDE * ZOOM]
    hatch = np.where((x + y) // 6 % 2, *HATCH).astype(np.uint8)
    for number, image in enumerate(pixels):
        top, left = number // COLUMNS * pitch, number % COLUMNS * pitch
        cell = picture[top : top + SIDE * ZOOM, left : left + SIDE * ZOOM]
        cell[..., 0] = hatch if lost[number] else image.repeat(ZOOM, 0).repeat(ZOOM, 1)
        cell[..., 1] = 255
    return picture


def _png(picture: U8) -> bytes:
    from PIL import Image  # only notebooks need it

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", optimize=True)
    return file.getvalue()


def _figure(image: str, said: Sequence[str]) -> str:
    caption = " &middot; ".join(said)
    return (
        f'<figure style="margin: 0; overflow-x: auto">{image}'
        f'<figcaption style="font-size: smaller">{caption}</figcaption></figure>'
    )
