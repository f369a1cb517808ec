"""Rising numbers <-> bytes: the gaps between them in a Rice code.  FORMAT.md 3.5."""

from __future__ import annotations

import numpy as np

from codec.arrays import I64, Integers
from codec.errors import LimitExceeded, Truncated


def _parameter(count: int, limit: int) -> int:
    """Bits of the remainder of a gap."""
    return (limit // count).bit_length() - 1


def pack_rice(positions: Integers, limit: int) -> bytes:
    """Rising positions below `limit` -> the quotients of all gaps in unary, then their remainders,
    then zeros up to a whole byte.
    """
    r = _parameter(len(positions), limit)
    gaps = np.diff(positions, prepend=-1) - 1
    quotients = np.zeros(len(gaps) + int((gaps >> r).sum()), np.uint8)
    quotients[np.cumsum((gaps >> r) + 1) - 1] = 1
    remainders = (gaps[:, None] >> np.arange(r)[::-1]) & 1
    return np.packbits(np.concatenate([quotients, remainders.ravel().astype(np.uint8)])).tobytes()


def unpack_rice(index: bytes, at: int, count: int, limit: int, offset: int) -> tuple[I64, int]:
    """Inverse of `pack_rice` -> positions (count,), offset after them.

    offset: of the index area in the file, for messages.  Raises Truncated, LimitExceeded.
    """
    r = _parameter(count, limit)
    longest = count + (limit >> r)
    bits = np.unpackbits(np.frombuffer(index[at : at + -(-(longest + count * r) // 8)], np.uint8))
    ones = np.flatnonzero(bits[:longest])[:count]
    end = int(ones[-1]) + 1 + count * r if len(ones) == count else len(bits) + 1
    if end > len(bits):
        raise Truncated(
            "the index ends inside a list, or its numbers are too far apart", offset + at
        )
    remainders = bits[end - count * r : end].reshape(count, r).astype(np.int64) @ (
        1 << np.arange(r, dtype=np.int64)[::-1]
    )
    positions = np.cumsum(((np.diff(ones, prepend=-1) - 1) << r) + remainders + 1) - 1
    used = -(-end // 8)
    if positions[-1] >= limit or bits[end : 8 * used].any():
        raise LimitExceeded(
            f"a list ends at {positions[-1]} of {limit}, or the bits after it are not zero",
            offset + at,
        )
    return positions, at + used
