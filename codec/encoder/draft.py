"""A draft: how N images will be coded, filled in step by step.

draft = Draft.blank(pixels, coders)
choose(draft, ...)      # coder
code(draft, ...)        # quality, symbols
guard(draft, ...)       # another quality, or coder, where an image came out badly
pack(draft)             # -> parts with their messages
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from codec.arrays import F64, I64, U8, Bools, Integers
from codec.format.constants import LOSSLESS_QUALITY, group_images
from codec.metrics import squared_errors
from codec.model.base import Coder


@dataclass
class Draft:
    """N images, column by column.

    pixels: uint8 (N, 28, 28).
    coder: int (N,), the number of its coder in `coders`; quality: int (N,), in the stream;
    planned: int (N,), that quality before the guard.
    decoded: the decoded pixels, uint8 (N, 28, 28); squared_error: int (N,), of them.
    tables: the symbols that each coder found; row: int (N,), the row of an image in the table of
    its coder.
    turn: int (N,), the step in which the image got its coder and quality; only the order of parts
    of equal size depends on it.
    num_bytes, psnr_db: of the image coded alone; kept: whether it keeps its goal. All three are
    known only after a search.
    refused: why an image cannot be coded as wanted, by its number.
    """

    pixels: U8
    coders: list[Coder]
    coder: I64
    quality: I64
    planned: I64
    row: I64
    turn: I64
    decoded: U8
    squared_error: I64
    num_bytes: I64
    psnr_db: F64
    kept: Bools
    refused: dict[int, str] = field(default_factory=dict)
    tables: dict[int, list[Any]] = field(default_factory=dict)

    @classmethod
    def blank(cls, pixels: U8, coders: list[Coder]) -> Draft:
        """An empty draft, in which all images have the first coder."""
        n = len(pixels)
        coder, quality, planned, row, turn, squared_error, num_bytes = np.zeros((7, n), np.int64)
        kept = np.zeros(n, np.bool_)
        decoded, psnr_db = np.empty_like(pixels), np.zeros(n)
        columns = (coder, quality, planned, row, turn, decoded, squared_error, num_bytes, psnr_db)
        return cls(pixels, coders, *columns, kept)

    def number_of(self, coder: Coder) -> int:
        """The number of a coder, which joins the others if it is new."""
        if coder not in self.coders:
            self.coders.append(coder)
        return self.coders.index(coder)

    def put(self, images: I64, coder: int, quality: int | I64, symbols: Any) -> None:
        """Fill in the coder, the quality and the symbols of some images."""
        table = self.tables.setdefault(coder, [])
        start = sum(len(some.pixels) for some in table)
        table.append(symbols)
        self.row[images] = start + np.arange(len(images))
        self.coder[images], self.quality[images] = coder, quality
        self.decoded[images] = symbols.pixels
        self.squared_error[images] = squared_errors(self.pixels[images], symbols.pixels)

    def take(self, images: I64, coder: int, one: Draft) -> None:
        """Copy a draft of these images; `coder` is the number that its only coder has here."""
        self.put(images, coder, one.quality, one.symbols(np.arange(len(images))))
        self.num_bytes[images], self.psnr_db[images] = one.num_bytes, one.psnr_db
        self.kept[images] = one.kept

    def of(self, images: Integers | Bools) -> Draft:
        """The draft of some images, given by number or by a mask."""
        every = vars(self).items()
        columns: dict[str, Any] = {k: v[images] for k, v in every if isinstance(v, np.ndarray)}
        return replace(self, **columns, refused={})

    def symbols(self, images: I64) -> Any:
        """The symbols of images that have the same coder."""
        table = self.tables[int(self.coder[images[0]])]
        if len(table) > 1:
            table[:] = [type(table[0]).join(table)]
        rows, all_rows = self.row[images], np.arange(len(table[0].pixels))
        return table[0] if np.array_equal(rows, all_rows) else table[0].of(rows)


class Part(NamedTuple):
    """Images of one coder and quality, int64, rising; messages: one for each group."""

    coder: Coder
    quality: int
    images: I64
    messages: list[bytes]


def pack(draft: Draft, group: int | None = None) -> list[Part]:
    """The parts of a draft, the largest first.

    group: images in a group; None: as many as a collection has at the part's quality.
    """
    numbers = _images_of_parts(draft)
    together: dict[tuple[int, int], list[int]] = {}
    for at, images in enumerate(numbers):
        quality = int(draft.quality[images[0]])
        key = int(draft.coder[images[0]]), group or group_images(quality)
        together.setdefault(key, []).append(at)
    parts: dict[int, Part] = {}
    for (number, size), mine in together.items():
        coder = draft.coders[number]
        symbols = [draft.symbols(numbers[at]) for at in mine]
        messages = coder.pack_parts(symbols, size)
        for at, packed in zip(mine, messages, strict=True):
            parts[at] = Part(coder, int(draft.quality[numbers[at][0]]), numbers[at], packed)
    return [parts[at] for at in range(len(numbers))]


def _images_of_parts(draft: Draft) -> list[I64]:
    """The images of each part, the parts in order."""
    left = np.ones(len(draft.pixels), np.bool_)
    left[[*draft.refused]] = False
    images = np.flatnonzero(left)
    keys = draft.coder[images] << 8 | draft.quality[images]
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=-1))
    parts = np.split(images[order], starts[1:]) if len(images) else []

    def rank(part: I64) -> tuple[int, ...]:
        """Largest first; of equal ones lossy, lossless, stored, and then as they were made."""
        turn, quality = draft.turn[part], int(draft.quality[part[0]])
        kind = max(quality, LOSSLESS_QUALITY - 1)
        first = int(np.argmin(turn))
        return -len(part), kind, int(turn[first]), quality, int(part[first])

    return sorted(parts, key=rank)
