"""Lanes on the native kernels: the twins of `lanes`, the same messages and symbols, faster.

A kernel trusts its arguments. So every array is made here, or its shape and layout are checked
here.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.arrays import I16, I32, I64, U8, U32, Bools
from codec.coding import rans
from codec.kernels import Kernels


def address(array: npt.NDArray[Any] | None) -> int | None:
    """Where the numbers of an array lie in memory, for a kernel; None of None."""
    if array is None:
        return None
    address: int = array.__array_interface__["data"][0]
    return address


class NativeGroupDecoder:
    """The twin of `lanes.GroupDecoder`."""

    def __init__(self, messages: list[bytes], group: int, kernels: Kernels) -> None:
        self._kernels, self._group = kernels, group
        self._bytes = np.frombuffer(b"".join(messages) + b"\0", np.uint8)
        ends = np.cumsum([len(message) for message in messages], dtype=np.int64)
        if len(self._bytes) > np.iinfo(np.int32).max:
            raise ValueError(f"{len(self._bytes)} bytes of messages at once")
        self._lanes = np.zeros((len(messages), 3), np.int32)  # the structure Lane: state, at, end
        self._lanes[:, 1], self._lanes[:, 2] = np.append(0, ends[:-1]), ends

    def decode(self, table: rans.CdfTable, rows: I32) -> U8:
        """See `GroupDecoder.decode`."""
        steps, n = rows.shape
        if -(-n // self._group) != len(self._lanes) or (
            n and (rows.min() < 0 or rows.max() >= len(table.packed))
        ):
            raise ValueError(
                f"rows of {n} images in groups of {self._group}, {len(self._lanes)} messages"
            )
        rows, codes = np.ascontiguousarray(rows, np.int32), np.empty((steps, n), np.uint8)
        self._kernels.decode_symbols(
            address(table.packed),
            table.packed.shape[1],
            steps,
            n,
            self._group,
            address(rows),
            address(self._lanes),
            address(self._bytes),
            address(codes),
        )
        return codes

    def finish(self) -> tuple[I64, Bools]:
        """See `rans.Decoder.finish`."""
        self._kernels.refill(address(self._lanes), len(self._lanes), address(self._bytes))
        return self._lanes[:, 0].view(np.uint32).astype(np.int64), self._lanes[:, 1] == self._lanes[
            :, 2
        ]


def encode_groups(
    kernels: Kernels,
    cells: U32,
    rows: I16,
    codes: U8,
    group: int,
    checks: I64,
) -> list[bytes]:
    """Code symbols (S, N), `group` neighbouring images sharing a message; row 0 is certain and not
    coded.

    cells: uint32 (rows, symbols, 2), start and freq; rows int16, codes uint8: (S, N); checks:
    (groups,), 0..MAX_CHECK.
    """
    steps, n = rows.shape
    num_lanes = -(-n // group)
    if (
        codes.shape != rows.shape
        or len(checks) != num_lanes
        or (rows.size and rows.max() >= len(cells))
    ):
        raise ValueError(f"rows {rows.shape}, codes {codes.shape}, {len(checks)} checks")
    if rows.size and (rows.min() < 0 or codes.max() >= cells.shape[1]):
        raise ValueError("a row or a code is outside the table")
    rows, codes, first = (
        np.ascontiguousarray(rows),
        np.ascontiguousarray(codes),
        checks.astype(np.uint8),
    )
    capacity = 2 * steps * n + 4 * num_lanes
    messages, ends = np.empty(capacity, np.uint8), np.empty(num_lanes, np.int64)
    kernels.encode_symbols(
        address(cells),
        cells.shape[1],
        steps,
        n,
        group,
        address(rows),
        address(codes),
        address(first),
        address(messages),
        capacity,
        address(ends),
    )
    found = messages[: int(ends[-1]) if num_lanes else 0].tobytes()
    bounds = [0, *ends.tolist()]
    return [found[start:end] for start, end in pairwise(bounds)]
