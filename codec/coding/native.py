"""Lanes on the native kernels: the same messages and symbols as by `lanes` and `rans`, faster.

A kernel trusts its arguments: every array is made here, or its shape and layout are checked here.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.arrays import I16, I32, I64, U8, U32, Bools, Integers
from codec.coding import rans
from codec.kernels import Kernels


def address(array: npt.NDArray[Any] | None) -> int | None:
    """The address of an array's numbers, for a kernel; None of None."""
    return None if array is None else int(array.__array_interface__["data"][0])


def addresses(*arrays: npt.NDArray[Any] | None) -> Iterator[int | None]:
    """The addresses of several arrays."""
    return map(address, arrays)


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
        inside = not n or (rows.min() >= 0 and rows.max() < len(table.packed))
        if -(-n // self._group) != len(self._lanes) or not inside:
            raise ValueError(
                f"rows of {n} images in groups of {self._group}, {len(self._lanes)} messages"
            )
        rows, codes = np.ascontiguousarray(rows, np.int32), np.empty((steps, n), np.uint8)
        self._kernels.decode_symbols(
            address(table.packed),
            table.packed.shape[1],
            *(steps, n, self._group),
            *addresses(rows, self._lanes, self._bytes, codes),
        )
        return codes

    def finish(self) -> tuple[I64, Bools]:
        """See `rans.Decoder.finish`."""
        self._kernels.refill(address(self._lanes), len(self._lanes), address(self._bytes))
        state, at, end = self._lanes.T
        return state.view(np.uint32).astype(np.int64), at == end


def encode_groups(
    kernels: Kernels, cells: U32, rows: I16, codes: U8, group: int, checks: I64
) -> list[bytes]:
    """Code symbols (S, N), `group` neighbouring images sharing a message; row 0 is certain and not
    coded.

    cells: uint32 (rows, symbols, 2), start and freq; rows int16, codes uint8: (S, N); checks:
    (groups,), 0..MAX_CHECK.
    """
    steps, n = rows.shape
    num_lanes = -(-n // group)
    if codes.shape != rows.shape or len(checks) != num_lanes:
        raise ValueError(f"rows {rows.shape}, codes {codes.shape}, {len(checks)} checks")
    outside = rows.size and (rows.min() < 0 or rows.max() >= len(cells))
    if outside or codes.max(initial=0) >= cells.shape[1]:
        raise ValueError("a row or a code is outside the table")
    rows = np.ascontiguousarray(rows)
    codes = np.ascontiguousarray(codes)
    first = checks.astype(np.uint8)
    capacity = 2 * steps * n + 4 * num_lanes
    messages, ends = np.empty(capacity, np.uint8), np.empty(num_lanes, np.int64)
    kernels.encode_symbols(
        address(cells),
        cells.shape[1],
        *(steps, n, group),
        *addresses(rows, codes, first, messages),
        capacity,
        address(ends),
    )
    found = messages[: int(ends[-1]) if num_lanes else 0].tobytes()
    bounds = [0, *ends.tolist()]
    return [found[start:end] for start, end in pairwise(bounds)]


def encode_lanes(kernels: Kernels, codes: U32, ends: I64, check: Integers) -> list[bytes]:
    """As `rans.encode`, of lanes of any lengths.

    codes: uint32 (all steps,), lane by lane, of `rans.packed`; ends: int (lanes,), where each lane
    ends; check: int (lanes,).
    """
    codes, ends = np.ascontiguousarray(codes, np.uint32), np.ascontiguousarray(ends, np.int64)
    checks = np.ascontiguousarray(check, np.int32)
    if not len(ends):
        return []
    fits = codes.ndim == 1 and ends[0] >= 0 and ends[-1] == len(codes)
    if not fits or (np.diff(ends) < 0).any() or checks.shape != ends.shape:
        raise ValueError("lanes do not fit their codes")
    out = np.empty(2 * len(codes) + 4 * len(ends), np.uint8)
    begins = np.empty(len(ends), np.int64)
    kernels.encode(address(codes), len(ends), *addresses(ends, checks, out, begins))
    last = 2 * ends + 4 * np.arange(1, len(ends) + 1)
    return [out[at:end].tobytes() for at, end in zip(begins.tolist(), last.tolist(), strict=True)]
