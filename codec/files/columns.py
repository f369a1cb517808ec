"""Which columns of a table are pixels, which one has the labels, and what is left.

Columns of pixels are called by a number (`pixel0` .. `pixel783`, `1` .. `784`) or by row and column
(`1x1` .. `28x28`), and are taken in that order, whatever theirs is. Without names, 784 columns are
pixels, and of 785 the first one has the labels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from codec.arrays import PIXELS, SIDE
from codec.errors import ImageError
from codec.files.batch import listing
from codec.files.labels import COLUMN_NAMES

_NUMBERED = re.compile(r"(.*?)(\d{1,3})")
_IN_ROWS = re.compile(r"(.*?)(\d{1,2})[xX_,:-](\d{1,2})")


class Columns(NamedTuple):
    """Positions of the pixels, in their order, and of the label; names of the other columns."""

    pixels: list[int]
    label: int | None
    left: list[str]


def columns_of(names: Sequence[str] | None, count: int, labels: str | None, file: str) -> Columns:
    """Find out what `count` columns are; names: None if they have none.

    labels: the column of the labels, by name or by number from 1 on; None: the one that is called
    as labels are; anything else: none. file: for messages. Raises ImageError.
    """
    if names is None:
        if count not in (PIXELS, PIXELS + 1):
            raise ImageError(
                f"{file}: {count} columns, aez takes {PIXELS} of pixels, and one more of labels"
            )
        called = [str(number) for number in range(1, count + 1)]
        default = "1" if count > PIXELS else None
        label = _position(called, labels or default)
        pixels = [i for i in range(count) if i != label][-PIXELS:]
    else:
        called = [name.strip() for name in names]
        pixels = pixel_columns(called)
        if not pixels:
            raise ImageError(
                f"{file}: no {PIXELS} columns are called pixel0, pixel1, ... or 1x1, 1x2, ...; "
                f"there are {count}: {listing(called)}"
            )
        lower = [name.lower() for name in called]
        default = next((called[lower.index(each)] for each in COLUMN_NAMES if each in lower), None)
        label = _position(called, labels or default)
    if label in pixels:
        raise ImageError(f"{file}: column {called[label]} has pixels, not labels")
    taken = {label, *pixels}
    left = [called[i] or f"number {i + 1}" for i in range(count) if i not in taken]
    return Columns(pixels, label, left)


def _position(called: list[str], label: str | None) -> int | None:
    return called.index(label) if label in called else None


def pixel_columns(called: Sequence[str]) -> list[int]:
    """Positions of the columns of pixels, in the order of the pixels; [] if there are none."""
    for pattern, starts in ((_IN_ROWS, ((0, 0), (1, 1))), (_NUMBERED, ((0,), (1,)))):
        families: dict[str, dict[tuple[int, ...], int]] = {}
        for position, name in enumerate(called):
            if found := pattern.fullmatch(name):
                prefix, *numbers = found.groups()
                families.setdefault(prefix, {})[tuple(map(int, numbers))] = position
        for family in families.values():
            for start in starts:
                if sorted(family) == _numbers(start):
                    return [family[number] for number in sorted(family)]
    return []


def _numbers(start: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The numbers of all pixels, if those of the first one are `start`."""
    if len(start) == 1:
        return [(start[0] + i,) for i in range(PIXELS)]
    return [(start[0] + i, start[1] + j) for i in range(SIDE) for j in range(SIDE)]
