"""rANS: (start, freq) pairs <-> bytes, many lanes at once; knows no images and no models.
FORMAT.md 5.

READ ME FIRST
- Symbols go in last first: `encode` walks its steps backwards so that `Decoder.decode` can walk
  them forwards.
- The state starts at a small number that the caller chooses (a check, 0..255) instead of at
  STATE_LOWER_BOUND, so an almost empty message costs almost no bytes; decoding must end at that
  very number with every byte consumed.
- The first bytes of a message are no special case: they are read by the same rule that reads all
  others, "while the state is below STATE_LOWER_BOUND and bytes remain, shift one in".
- The first symbol of a CDF row starts at 0: while the state is 0, coding it changes nothing and
  costs nothing. Rows therefore put their most probable symbol first.

A lane is one state and its bytes. All lanes take the same number of steps; (start, freq) = (0,
2**PRECISION) is the step that does nothing, used as padding. Duda arXiv:1311.2540, Giesen
arXiv:1402.3392.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import cache, cached_property
from typing import cast

import numpy as np
import numpy.typing as npt

from codec.arrays import I32, I64, U8, U32, Bools, Integers

PRECISION = 16  # bits: the frequencies of a CDF row sum to 2**16
TOTAL = 1 << PRECISION
STATE_LOWER_BOUND = 1 << 23  # once bytes have been written: 2**23 <= state < 2**31
MAX_CHECK = 255
COST_BITS = 10  # costs are in units of 2**-10 bits
SCALAR_LANES = 24  # below this many lanes plain Python integers beat numpy calls

# State of a lane, place of its next byte, end of its last one: Lane of kernels/rans.h.
LANE = np.dtype([("state", np.uint32), ("at", np.int32), ("end", np.int32)])


@cache
def costs() -> I32:
    """What a symbol costs, by its frequency 1..2**PRECISION: int32 (2**PRECISION + 1,).

    In units of 2**-COST_BITS bits. Whole numbers: their sums are the same in any order,
    and so is what they decide.
    """
    table = np.zeros(TOTAL + 1, np.int32)
    table[1:] = np.rint((PRECISION - np.log2(np.arange(1, TOTAL + 1))) * (1 << COST_BITS))
    table.setflags(write=False)
    return table


class CdfTable:
    """Rows of cumulative frequencies, each ending at 2**PRECISION.

    cdf: int (rows, symbols + 1), nondecreasing along a row, from 0 to 2**PRECISION; a symbol of
    frequency 0 cannot be coded.
    """

    def __init__(self, cdf: Integers) -> None:
        self.cdf = np.ascontiguousarray(cdf, np.int64)
        if self.cdf.ndim != 2 or (self.cdf[:, 0] != 0).any() or (self.cdf[:, -1] != TOTAL).any():
            raise ValueError("every CDF row must run from 0 to 2**16")
        freq = np.diff(self.cdf, axis=1)
        if (freq < 0).any():
            raise ValueError("a CDF row decreases")
        self.start: U32 = self.cdf[:, :-1].astype(np.uint32)
        self.freq: U32 = freq.astype(np.uint32)

    @property
    def num_symbols(self) -> int:
        """Symbols in a row, those of frequency 0 included."""
        return int(self.freq.shape[1])

    @cached_property
    def lookup(self) -> U8:
        """uint8 (rows * 2**16,): the symbol at each slot of each row; many lanes need it."""
        symbols = np.tile(np.arange(self.num_symbols, dtype=np.uint8), len(self.freq))
        return np.repeat(symbols, self.freq.ravel())

    @cached_property
    def packed(self) -> U32:
        """Cumulative frequencies for the native kernels: uint32 (rows, symbols + 1)."""
        return np.ascontiguousarray(self.cdf, np.uint32)

    @cached_property
    def rows(self) -> list[list[int]]:
        """Cumulative frequencies of each row, as lists, for the scalar path."""
        return cast(list[list[int]], self.cdf.tolist())

    @cached_property
    def firsts(self) -> list[int]:
        """Frequency of symbol 0 in each row, likewise; then 2**PRECISION, for padding (row -1)."""
        return [*self.cdf[:, 1].tolist(), TOTAL]

    def ideal_bits(self, indexes: Integers, symbols: Integers) -> float:
        """Bits that a perfect coder spends on (row, symbol) pairs: PRECISION - log2(freq)."""
        return float(np.sum(PRECISION - np.log2(self.freq[indexes, symbols])))


def packed(start: Integers, freq: Integers) -> U32:
    """Symbols as one number each; 0 is the one that does nothing, (0, 2**PRECISION)."""
    low = freq.astype(np.uint32) & np.uint32(TOTAL - 1)
    return np.asarray(start.astype(np.uint32) << np.uint32(PRECISION) | low)


def unpacked(lanes: Sequence[U32]) -> tuple[U32, U32]:
    """Lanes of packed symbols -> start, freq (steps, lanes) for `encode`, short lanes filled up."""
    codes = np.zeros((len(lanes), max(map(len, lanes), default=0)), np.uint32)
    for row, lane in zip(codes, lanes, strict=True):
        row[: len(lane)] = lane
    freq = codes & np.uint32(TOTAL - 1)
    freq[codes == 0] = TOTAL
    return np.ascontiguousarray(codes.T >> np.uint32(PRECISION)), np.ascontiguousarray(freq.T)


def encode(start: U32, freq: U32, check: Integers) -> list[bytes]:
    """Encode lanes of steps.

    start, freq: uint32 (steps, lanes), 1 <= freq, start + freq <= 2**PRECISION; check: int
    (lanes,), 0..MAX_CHECK. Returns one message for each lane.
    """
    if start.shape[1] < SCALAR_LANES:
        return [
            _encode_lane(start[:, i].tolist(), freq[:, i].tolist(), int(check[i]))
            for i in range(start.shape[1])
        ]
    steps, lanes = start.shape
    state = check.astype(np.uint32)
    # Grown backwards from the end. Two bytes a step is the worst case; most steps write none, so
    # room is made on demand.
    room = 64
    out = np.zeros((lanes, room), np.uint8)
    at = np.full(lanes, room, np.int64)  # first byte written so far, in each lane
    for step in range(steps - 1, -1, -1):
        f = freq[step]
        # state < limit keeps the next state below 2**31
        limit = f.astype(np.uint64) << np.uint64(31 - PRECISION)
        if at.min() < 8:
            out = np.concatenate([np.zeros((lanes, room), np.uint8), out], axis=1)
            at += room
            room *= 2
        while (full := (state >= limit).nonzero()[0]).size:
            at[full] -= 1
            out[full, at[full]] = state[full]  # numpy keeps the low byte
            state[full] >>= np.uint32(8)
        quotient = state // f
        state = (quotient << np.uint32(PRECISION)) + (state - quotient * f) + start[step]
    return [_state_bytes(int(state[i])) + out[i, at[i] :].tobytes() for i in range(lanes)]


def _encode_lane(start: list[int], freq: list[int], state: int) -> bytes:
    out = bytearray()
    for s, f in zip(reversed(start), reversed(freq), strict=True):
        while state >= f << (31 - PRECISION):
            out.append(state & 255)
            state >>= 8
        state = (state // f << PRECISION) + state % f + s
    out.reverse()
    return _state_bytes(state) + bytes(out)


def _state_bytes(state: int) -> bytes:
    """Big-endian without leading zeros: exactly the bytes that the decoder's reading rule reads.

    A state of 2**24 or more has its upper three bytes below 2**23 (it is below 2**31), so the rule
    reads all four; one of 2**23..2**24 stops it after three; one below 2**23 occurs only when
    nothing follows.
    """
    return state.to_bytes((state.bit_length() + 7) // 8, "big")


class Decoder:
    """The inverse of `encode`, in as many `decode` calls as the caller needs to learn the next
    rows.
    """

    def __init__(self, messages: Sequence[bytes]) -> None:
        self._lanes = len(messages)
        if self._lanes < SCALAR_LANES:
            self._messages = list(messages)
            self._states = [0] * self._lanes
            self._at = [0] * self._lanes
            return
        lengths = np.array([len(m) for m in messages], np.int64)
        # One byte of padding so that a lane at its end may still be read from (and the value
        # ignored).
        self._bytes = np.frombuffer(b"".join(messages) + b"\0", np.uint8)
        self._end = np.cumsum(lengths)
        self._next = self._end - lengths
        self._state = np.zeros(self._lanes, np.uint32)

    def decode(self, table: CdfTable, indexes: Integers) -> U8:
        """Decode one symbol for each step and lane.

        indexes: int (steps, lanes), rows of `table`; -1 marks a padding step, which yields 0.
        Returns symbols: uint8 (steps, lanes). Any bytes at all decode to something; `finish` judges
        them.
        """
        if self._lanes < SCALAR_LANES:
            return self._decode_scalar(table, indexes)
        symbols = np.zeros(indexes.shape, np.uint8)
        lookup, num_symbols = table.lookup, table.num_symbols
        start, freq = table.start.ravel(), table.freq.ravel()
        state, at, end, source = self._state, self._next, self._end, self._bytes
        padded = indexes < 0
        rows = np.where(padded, 0, indexes)
        slot_base = rows.astype(np.int64) << PRECISION
        cell_base = rows.astype(np.int64) * num_symbols
        some_padded: list[bool] = np.any(padded, axis=1).tolist()
        for step in range(len(indexes)):
            # At most three bytes are missing: at the start of a message; later at most two.
            while (low := np.flatnonzero((state < STATE_LOWER_BOUND) & (at < end))).size:
                state[low] = (state[low] << np.uint32(8)) | source[at[low]]
                at[low] += 1
            slot = state & np.uint32(TOTAL - 1)
            symbol = lookup[slot_base[step] + slot]
            cell = cell_base[step] + symbol
            following = freq[cell] * (state >> np.uint32(PRECISION)) + slot - start[cell]
            if some_padded[step]:
                following = np.where(padded[step], state, following)
                symbol = np.where(padded[step], np.uint8(0), symbol)
            state = following
            symbols[step] = symbol
        self._state = state
        return symbols

    def _decode_scalar(self, table: CdfTable, indexes: Integers) -> U8:
        symbols = np.zeros(indexes.shape, np.uint8)
        cdf_rows, firsts = table.rows, table.firsts
        # a tenth faster than global names
        lower_bound, bits, mask = STATE_LOWER_BOUND, PRECISION, TOTAL - 1
        for lane, message in enumerate(self._messages):
            state, at, end = self._states[lane], self._at[lane], len(message)
            column = bytearray(len(indexes))
            for step, row in enumerate(indexes[:, lane].tolist()):
                while state < lower_bound and at < end:
                    state = state << 8 | message[at]
                    at += 1
                slot, first = state & mask, firsts[row]
                # symbol 0, which starts at 0 and is the most probable one: most steps end here
                if slot < first:
                    state = first * (state >> bits) + slot
                    continue
                # Searching beats a table of all slots, 4 MiB for each level: memory is slower.
                cdf = cdf_rows[row]
                end_at = bisect_right(cdf, slot)
                column[step] = end_at - 1
                start = cdf[end_at - 1]
                state = (cdf[end_at] - start) * (state >> bits) + slot - start
            self._states[lane], self._at[lane] = state, at
            symbols[:, lane] = np.frombuffer(column, np.uint8)
        return symbols

    def decode_each(self, lanes: Integers, freq: U32) -> I64:
        """Decode M symbols, of frequencies that only the caller knows -> symbols (M,).

        lanes: int (M,), nondecreasing, the lane of each; freq: uint32 (M, symbols), each row of sum
        2**PRECISION.
        """
        symbols = np.zeros(len(lanes), np.int64)
        cdf = np.cumsum(freq, axis=1, dtype=np.uint32)
        if self._lanes < SCALAR_LANES:
            for i, lane in enumerate(lanes.tolist()):
                state, at = self._refilled(lane)
                slot = state & (TOTAL - 1)
                symbols[i] = symbol = int(np.searchsorted(cdf[i], slot, "right"))
                f = int(freq[i, symbol])
                self._states[lane] = f * (state >> PRECISION) + slot - int(cdf[i, symbol]) + f
                self._at[lane] = at
            return symbols
        if not len(lanes):
            return symbols
        # of the rows of each lane
        ends = np.append((lanes[1:] != lanes[:-1]).nonzero()[0] + 1, len(lanes))
        first = np.append(0, ends[:-1])
        counts = ends - first
        end, source = self._end, self._bytes
        for turn in range(int(counts.max())):
            rows = first[counts > turn] + turn
            lane = lanes[rows]
            state, at, last = self._state[lane], self._next[lane], end[lane]
            while (low := ((state < STATE_LOWER_BOUND) & (at < last)).nonzero()[0]).size:
                state[low] = (state[low] << np.uint32(8)) | source[at[low]]
                at[low] += 1
            slot = state & np.uint32(TOTAL - 1)
            symbols[rows] = symbol = np.count_nonzero(cdf[rows] <= slot[:, None], axis=1)
            f = freq[rows, symbol]
            self._state[lane] = f * (state >> np.uint32(PRECISION)) + slot - (cdf[rows, symbol] - f)
            self._next[lane] = at
        return symbols

    def _refilled(self, lane: int) -> tuple[int, int]:
        """State and position of a lane of the scalar path, the state filled up with bytes."""
        state, at, message = self._states[lane], self._at[lane], self._messages[lane]
        while state < STATE_LOWER_BOUND and at < len(message):
            state, at = state << 8 | message[at], at + 1
        return state, at

    def lanes(self) -> tuple[U8, npt.NDArray[np.void]]:
        """All bytes, and the place of each lane in them, for a native kernel: LANE (lanes,)."""
        if self._lanes < SCALAR_LANES:
            source = np.frombuffer(b"".join(self._messages) + b"\0", np.uint8)
            lengths = np.array([len(m) for m in self._messages], np.int64)
            ends, state = np.cumsum(lengths), np.array(self._states, np.uint32)
            at = ends - lengths + self._at
        else:
            source, ends, state, at = self._bytes, self._end, self._state, self._next
        found = np.empty(self._lanes, LANE)
        found["state"], found["at"], found["end"] = state, at, ends
        return source, found

    def finish(self) -> tuple[I64, Bools]:
        """-> final states int64 (lanes,), which must equal the `check` that was encoded; and
        whether all bytes of each lane were used.
        """
        if self._lanes < SCALAR_LANES:
            ends = [self._refilled(lane) for lane in range(self._lanes)]
            used_up = [at == len(m) for (_, at), m in zip(ends, self._messages, strict=True)]
            return np.array([state for state, _ in ends], np.int64), np.array(used_up, np.bool_)
        state, at = self._state.copy(), self._next.copy()
        while (low := np.flatnonzero((state < STATE_LOWER_BOUND) & (at < self._end))).size:
            state[low] = (state[low] << np.uint32(8)) | self._bytes[at[low]]
            at[low] += 1
        return state.astype(np.int64), at == self._end
