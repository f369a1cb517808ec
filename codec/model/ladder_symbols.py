"""The symbols of a ladder <-> messages.  FORMAT.md 5.3.

A symbol is a whole number of steps from the mean of its latent. It is coded by a row of its level's
CDF table; row 0 is certain: its symbol is 0, and is not coded at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from codec.arrays import F64, I16, I32, I64, U8, U32, Bools, Integers
from codec.coding import rans
from codec.coding.lanes import Compact, GroupDecoder, checks, to_lanes
from codec.coding.native import NativeGroupDecoder, encode_groups
from codec.coding.signed import from_codes
from codec.errors import BadModel
from codec.kernels import active as native_kernels
from codec.model.bundle import Bundle
from codec.model.ladder_parts import MAX_SYMBOLS, NUM_SIGMAS, STEP_UNIT

# Images that numpy codes at once. No byte depends on it.
LANE_IMAGES = 2048
# The symbol of each code, in 256ths of a step.
_RESIDUALS = (STEP_UNIT * from_codes(np.arange(MAX_SYMBOLS))).astype(np.int32)


@dataclass(frozen=True)
class LadderSymbols:
    """The symbols of N images: see `base.Symbols`.

    codes: uint8 (S, N), of all levels; rows: int16 (S, N), rows of the CDF tables, numbered through
    all tables; pixels: uint8 (N, 28, 28).
    """

    codes: U8
    rows: I16
    pixels: U8

    def of(self, images: Integers) -> LadderSymbols:
        # `take` needs a quarter of the time of `codes[:, images]`
        codes, rows = self.codes.take(images, axis=1), self.rows.take(images, axis=1)
        return LadderSymbols(codes, rows, self.pixels[images])

    def put(self, images: Integers, others: LadderSymbols) -> None:
        """Replace the symbols of some images, given by number."""
        self.codes[:, images] = others.codes
        self.rows[:, images] = others.rows
        self.pixels[images] = others.pixels

    @classmethod
    def join(cls, parts: list[LadderSymbols]) -> LadderSymbols:
        return cls(
            np.concatenate([part.codes for part in parts], axis=1),
            np.concatenate([part.rows for part in parts], axis=1),
            np.concatenate([part.pixels for part in parts]),
        )


class SymbolDecoder(Protocol):
    """`GroupDecoder` or its native twin."""

    def decode(self, table: rans.CdfTable, rows: I32) -> U8: ...

    def finish(self) -> tuple[I64, Bools]: ...


class SymbolCoder:
    """Symbols <-> messages, by the CDF tables of all levels."""

    def __init__(self, tables: list[rans.CdfTable]) -> None:
        self.tables = tables

    @cached_property
    def _joined(self) -> tuple[U32, U32]:
        """start and freq of all levels, (rows, symbols): the tables one below the other.

        Row 0 of the first table stands for row 0 of all.
        """
        return (
            np.concatenate([table.start for table in self.tables]),
            np.concatenate([table.freq for table in self.tables]),
        )

    @cached_property
    def _cells(self) -> U32:
        """start and freq for the native coder: (rows, symbols, 2)."""
        return np.ascontiguousarray(np.stack(self._joined, axis=2))

    @cached_property
    def _bits(self) -> F64:
        """Ideal bits of each symbol: (rows, symbols); row 0 costs none."""
        bits: F64 = rans.PRECISION - np.log2(np.maximum(self._joined[1], 1))
        bits[0] = 0
        return bits

    def ideal_bits(self, symbols: LadderSymbols) -> float:
        """See Coder."""
        where = symbols.rows.ravel().astype(np.int32) * self._bits.shape[1] + symbols.codes.ravel()
        return float(self._bits.ravel().take(where).sum())

    def pack_parts(self, parts: list[LadderSymbols], group: int) -> list[list[bytes]]:
        """See Coder.  numpy codes the lanes of all parts at once, as each step has a fixed cost."""
        kernels = native_kernels()
        if kernels is not None:
            return [
                encode_groups(
                    kernels, self._cells, part.rows, part.codes, group, checks(part.pixels, group)
                )
                for part in parts
            ]
        all_checks = [checks(part.pixels, group) for part in parts]
        codes = np.concatenate([to_lanes(part.codes, group, 0) for part in parts], axis=1)
        rows = np.concatenate([to_lanes(part.rows, group, 0) for part in parts], axis=1)
        messages = self._encode_lanes(codes, rows, np.concatenate(all_checks), group)
        ends = np.cumsum([len(each) for each in all_checks]).tolist()
        return [messages[at:end] for at, end in zip([0, *ends], ends, strict=False)]

    def _encode_lanes(self, codes: U8, rows: I16, check: I64, group: int) -> list[bytes]:
        """codes, rows: (steps, lanes); check: (lanes,) -> a message for each lane."""
        start, freq = self._joined
        messages: list[bytes] = []
        lanes_at_once = max(1, LANE_IMAGES // group)
        for at in range(0, len(check), lanes_at_once):
            some = slice(at, at + lanes_at_once)
            where = Compact(rows[:, some] != 0)
            picked = where.take(rows[:, some], 0), where.take(codes[:, some], 0)
            messages += rans.encode(start[picked], freq[picked], check[some])
        return messages

    def decoder(self, messages: list[bytes], group: int) -> SymbolDecoder:
        """A decoder of messages, which decodes level by level."""
        kernels = native_kernels()
        if kernels is None:
            return GroupDecoder(messages, group)
        return NativeGroupDecoder(messages, group, kernels)


def residuals_of(codes: U8) -> I32:
    """Codes -> differences of the latents from their means, in 256ths of a step."""
    return _RESIDUALS[codes]


def tables_of(bundle: Bundle, num_levels: int) -> list[rans.CdfTable]:
    """The CDF tables of a bundle, one for each level."""
    cdf = bundle.pop("cdf")
    fits = cdf.ndim == 3 and cdf.shape[:2] == (num_levels, NUM_SIGMAS)
    if not fits or not 2 <= cdf.shape[2] <= MAX_SYMBOLS + 1:
        wanted = f"({num_levels}, {NUM_SIGMAS}, 2 to {MAX_SYMBOLS + 1})"
        raise BadModel(f"cdf has shape {cdf.shape}, wanted {wanted}")
    freq = np.diff(cdf.astype(np.int64), axis=2)
    used = np.count_nonzero(freq, axis=2)
    tail = np.arange(freq.shape[2]) >= used[..., None]
    ends = (cdf[..., 0] == 0).all() and (cdf[..., -1] == rans.TOTAL).all()
    if not ends or (freq < 0).any() or freq[tail].any():
        raise BadModel("a CDF row does not run from 0 to 2**16, or has a gap")
    if (used % 2 == 0).any() or (used[:, 0] != 1).any():
        raise BadModel("a CDF row has an even number of symbols, or row 0 is not certain")
    return [rans.CdfTable(table) for table in cdf]
