"""Images and coder lanes: a group of neighbouring images shares one lane.  FORMAT.md 5.2.

A group is the unit of random access and of damage; its message starts from a check of its pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.arrays import I32, I64, U8, Bools, Integers, distinct
from codec.coding import rans


@dataclass(frozen=True)
class Encoded:
    """messages: one for each group; pixels: what they decode to, uint8 (N, 28, 28); ideal_bits: of
    the symbols coded.
    """

    messages: list[bytes]
    pixels: U8
    ideal_bits: float


def by(values: Integers) -> Iterator[tuple[int, I64]]:
    """Each value of int (N,), in order, and where it stands."""
    for value in distinct(values):
        yield value, np.flatnonzero(values == value)


def checks(pixels: U8, group: int) -> I64:
    """Start states: the low byte of the CRC-32 of each group's pixels, (N, 28, 28) -> (groups,)."""
    groups = (pixels[at : at + group] for at in range(0, len(pixels), group))
    return np.array([zlib.crc32(images.tobytes()) & rans.MAX_CHECK for images in groups], np.int64)


def to_lanes(values: npt.NDArray[Any], group: int, fill: int) -> npt.NDArray[Any]:
    """(S, N) -> (S * group, lanes): symbol s of image i of a group is step s * group + i."""
    s, n = values.shape
    if missing := -n % group:
        values = np.concatenate([values, np.full((s, missing), fill, values.dtype)], axis=1)
    return values.reshape(s, -1, group).transpose(0, 2, 1).reshape(s * group, -1)


def from_lanes(values: npt.NDArray[Any], group: int, count: int) -> npt.NDArray[Any]:
    """Inverse of `to_lanes`: (S * group, lanes) -> (S, count)."""
    by_group = values.reshape(-1, group, values.shape[1]).transpose(0, 2, 1)
    return by_group.reshape(len(values) // group, -1)[:, :count]


class GroupDecoder:
    """Decodes the symbols of images level by level, `group` neighbours sharing a message."""

    def __init__(self, messages: list[bytes], group: int) -> None:
        self._decoder, self._group = rans.Decoder(messages), group

    def decode(self, table: rans.CdfTable, rows: I32) -> U8:
        """Rows int32 (S, N), which code each symbol, row 0 being certain -> codes uint8 (S, N)."""
        lanes = to_lanes(rows, self._group, 0)
        where = Compact(lanes != 0)
        codes = self._decoder.decode(table, where.take(lanes, -1))
        return from_lanes(where.put(codes), self._group, rows.shape[1])

    def finish(self) -> tuple[I64, Bools]:
        """See `rans.Decoder.finish`."""
        return self._decoder.finish()


class Compact:
    """Moves the active steps, bool (steps, lanes), to the front of their lanes."""

    def __init__(self, active: Bools) -> None:
        # Of one lane, the usual case of random access, numbers are faster than a mask.
        self._only = active[:, 0].nonzero()[0] if active.shape[1] == 1 else None
        self._active = active.T  # lane by lane
        if self._only is not None:
            return
        counts = active.sum(axis=0)
        self._filled = np.arange(counts.max(initial=0)) < counts[:, None]

    def take(self, values: npt.NDArray[Any], fill: int) -> npt.NDArray[Any]:
        """(steps, lanes) -> (fewer steps, lanes), short lanes filled up with `fill`."""
        if self._only is not None:
            return values[self._only]
        out = np.full(self._filled.shape, fill, values.dtype)
        out[self._filled] = values.T[self._active]
        return np.ascontiguousarray(out.T)

    def put(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Inverse of `take`, zeros where nothing was taken."""
        out = np.zeros(self._active.shape, values.dtype)
        if self._only is not None:
            out[0, self._only] = values[:, 0]
            return out.T
        out[self._active] = values.T[self._filled]
        return out.T
