"""Better symbols for the same decoder: how the encoder uses more time (`--effort`).

The cost of an image is lambda * SSE + bits, both exact: SSE of the pixels that the decoder will
show, bits by the rows of the CDF tables. Two kinds of search lower it. No image ever costs more
than before.

**Flips** come first. The encoder rounds each latent to a whole number of steps. If a latent is near
the edge of rounding, the other whole number is as good a choice; all later levels are then encoded
again, from what the decoder has so far. So a flip is one more encoding of the image, by chance
better or worse, and the better one is kept. The upper latents change most, so they are tried first,
those nearest to an edge before others.

**Rounds** follow at high efforts. One backward pass through the synthesis predicts how each change
of one symbol by one would change the cost, with all other symbols kept:

    change = bits(row, symbol + d) - bits(row, symbol)  +  slope * d  +  curvature     d = -1 or 1

Each round makes the most promising changes of each image at once, decodes, and keeps them if the
exact cost fell. The next round tries more changes if so, else fewer.

READ ME FIRST
- Why flips are worth so much: a change of an upper latent with the symbols below kept costs 20 to
  40 bits; encoded anew, 0.5 to 3.5 on average, with a wide spread, and a third to a half of the
  flips are gains. One flip gives more than nine rounds.
- The curvature makes the prediction of a round good: without it (or with one constant for
  all) rounds found nothing above 25 bytes. It is the squared length of the pixels' derivative by a
  latent, estimated with backward passes of random signs: the expectation of (J^T v)**2 is the
  diagonal of J^T J (Hutchinson's estimator; Bekas, Kokiopoulou, Saad 2007).
- All that is summed is integer, so the result is the same on every machine: gradients are rounded
  so that the products are exact (`Layer.transposed`), bits are in units of 1 / BIT_UNIT, signs come
  from a generator that is frozen. The search of an image does not depend on the others of its
  batch.
- In rounds symbols stay as they are when those above them change: their latents move with the
  means.

It does not know model files or bytes; `Transforms` is the part of a model that it uses.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from codec.arrays import F32, F64, I32, I64, SIDE, U8, Bools
from codec.coding import rans
from codec.coding.signed import to_codes
from codec.metrics import squared_errors
from codec.model.ladder_parts import STEP_BITS, STEP_UNIT
from codec.model.layers import Trace

T = TypeVar("T", np.int32, np.float32)
Prior = tuple[I32, I32, F32]  # means (K, ...), rows (K, ...), features t


class Effort(NamedTuple):
    """How many flips are tried of each image, and how many rounds of changes follow."""

    flips: int
    rounds: int


EFFORTS = (
    Effort(0, 0),  # effort 1
    Effort(1, 0),
    Effort(2, 0),
    Effort(4, 0),
    Effort(8, 0),
    Effort(8, 4),
    Effort(12, 9),
    Effort(16, 25),
    Effort(24, 100),  # effort 9
)
MAX_EFFORT = len(EFFORTS)
# weights of the distance from the middle of rounding, by level: upper levels are tried first
FLIP_WEIGHTS = (10, 8, 6)
PROBES = 8  # backward passes for the curvature
CURVATURE = 0.75  # of the estimate: a change follows where it bends less than on average
FIRST_CHANGES = 4  # made at once in the first round
MOST_CHANGES = 64
BIT_UNIT = 256  # of bits
IMPOSSIBLE = 1 << 20  # more bits than any image: of symbols without a code
# a latent this little beyond the edge of rounding still goes to the mean: up to 1 % less cost
DEAD_ZONE = 2


class Transforms(Protocol):
    """The part of a model that the search uses: see `Ladder`."""

    tables: list[rans.CdfTable]

    def analysis(self, pixels: U8, quality: int) -> Any: ...

    def posterior_of(self, i: int, e: Any, t: Any, quality: int) -> I32: ...

    def synthesis(
        self, quality: int, n: int, trace: Trace | None = None
    ) -> Generator[Prior, I32, U8]: ...

    def backward(
        self, g_pixels: F32, g_rows: list[F32], quality: int, trace: Trace
    ) -> list[F32]: ...


class BitTable:
    """Bits of each symbol in each row of a CDF table, in units of 1 / BIT_UNIT."""

    def __init__(self, table: rans.CdfTable) -> None:
        self.limit = (table.freq.shape[1] - 1) // 2
        symbols = np.arange(-self.limit - 1, self.limit + 2)
        codes = np.minimum(to_codes(symbols), table.freq.shape[1] - 1)
        freq = np.where(np.abs(symbols) > self.limit, 0, table.freq[:, codes])
        bits = rans.PRECISION - np.log2(np.maximum(freq, 1))
        # (rows, symbols)
        self.bits = np.where(freq > 0, np.rint(BIT_UNIT * bits), IMPOSSIBLE).astype(np.int32)
        # |symbol| of each row
        self.highest = ((np.count_nonzero(freq, axis=1) - 1) // 2).astype(np.int32)

    def __call__(self, rows: I32, symbols: I32) -> I32:
        """Bits of symbols in their rows, in units of 1 / BIT_UNIT; IMPOSSIBLE where there is no
        code.
        """
        width, most = self.bits.shape[1], self.limit + 1
        found: I32 = self.bits.ravel().take(rows * width + symbols.clip(-most, most) + most)
        return found


class Attempt:
    """One encoding of N images: for each level symbols, rows and offsets, int32 (K, ...); and the
    decoded pixels.  Offsets are the distances of latents from symbols, in 256ths of a step.

    e: the features of the images; flips: for each level -1, 0 or 1, to add to its symbols; dense:
    `posterior_of` of level 0, if it is known.
    """

    def __init__(
        self,
        ladder: Transforms,
        bits: Sequence[BitTable],
        e: Any,
        n: int,
        quality: int,
        flips: Sequence[I32] = (),
        dense: I32 | None = None,
    ) -> None:
        steps = ladder.synthesis(quality, n)
        mean, row, t = next(steps)
        self.symbols: list[I32] = []
        self.rows: list[I32] = []
        self.offsets: list[I32] = []
        self.dense = ladder.posterior_of(0, e, t, quality) if dense is None else dense
        self._tables, self._n = bits, n
        for i, table in enumerate(bits):
            residual = (ladder.posterior_of(i, e, t, quality) if i else self.dense) - mean
            size = (np.abs(residual) + (STEP_UNIT // 2 - DEAD_ZONE)) >> STEP_BITS
            most = table.highest.take(row)
            symbols: I32 = np.where(residual < 0, -1, 1).astype(np.int32) * np.minimum(size, most)
            self.offsets.append(residual - (symbols << STEP_BITS))
            if i < len(flips):
                symbols = np.clip(symbols + flips[i], -most, most)
            self.symbols.append(symbols)
            self.rows.append(row)
            try:
                mean, row, t = steps.send((symbols << STEP_BITS) + mean)
            except StopIteration as stop:
                self.pixels: U8 = stop.value

    @cached_property
    def bits(self) -> I64:
        """Of each image, (N,), in units of 1 / BIT_UNIT.  At effort 1 nobody asks."""
        levels = zip(self._tables, self.rows, self.symbols, strict=True)
        found = (table(row, symbols).reshape(-1, self._n) for table, row, symbols in levels)
        bits: I64 = np.stack([each.sum(axis=0, dtype=np.int64) for each in found]).sum(axis=0)
        return bits

    @property
    def flat_symbols(self) -> I32:
        """(S, N), of all levels."""
        return _flat(self.symbols)

    @property
    def flat_rows(self) -> I32:
        """(S, N), of all levels."""
        return _flat(self.rows)

    def take(self, images: Bools, other: Attempt) -> None:
        """Copy some images of another attempt."""
        self.bits[images] = other.bits[images]
        mine = (*self.symbols, *self.rows, *self.offsets)
        for one, better in zip(mine, (*other.symbols, *other.rows, *other.offsets), strict=True):
            np.copyto(one, better, where=images)
        self.pixels[images] = other.pixels[images]


class Trial:
    """One decoding of symbols (S, N) of all levels: their cost, and what changes would do to it."""

    def __init__(self, search: Search, symbols: I32) -> None:
        n = symbols.shape[1]
        self._search, self._trace = search, Trace()
        steps = search.ladder.synthesis(search.quality, n, self._trace)
        mean, row, _ = next(steps)
        self._symbols: list[I32] = []
        self._rows: list[I32] = []
        at, bits = 0, np.zeros(n, np.int64)
        for table in search.bits:
            end = at + row.size // n
            highest = table.highest[row]
            # a change above can change the row
            chosen = np.clip(symbols[at:end].reshape(row.shape), -highest, highest)
            bits += table(row, chosen).reshape(-1, n).sum(axis=0, dtype=np.int64)
            self._symbols.append(chosen)
            self._rows.append(row)
            at = end
            try:
                mean, row, _ = steps.send(chosen * STEP_UNIT + mean)
            except StopIteration as stop:
                self.pixels: U8 = stop.value
        self._error = self.pixels.astype(np.int32) - search.pixels
        self.cost = search.cost(self.pixels, bits)

    @property
    def symbols(self) -> I32:
        """(S, N), of all levels."""
        return _flat(self._symbols)

    @property
    def rows(self) -> I32:
        """(S, N), of all levels."""
        return _flat(self._rows)

    def curvature(self) -> list[F32]:
        """The estimated second-order change of distortion by one step, in bits, for each level."""
        signs = np.random.RandomState(0)  # its stream is frozen
        flat = [np.zeros(row.shape, np.float32) for row in self._rows[1:]]
        total = [np.zeros(row.shape, np.float32) for row in self._rows]
        ladder, quality = self._search.ladder, self._search.quality
        for _ in range(PROBES):
            probe = 2 * signs.randint(0, 2, (SIDE, SIDE)) - 1
            v = np.broadcast_to(probe, self.pixels.shape).astype(np.float32)
            gradients = ladder.backward(v, flat, quality, list(self._trace))
            for sum_, g in zip(total, gradients, strict=True):
                sum_ += np.square(g)
        scale = np.float32(CURVATURE * self._search.weight * STEP_UNIT**2 / PROBES)
        total = [sum_ * scale for sum_ in total]
        # In 7x7 levels half of it is the mean of the channel, as estimates are noisy. Sums are of
        # whole 16ths: exact in any order.
        channels = [
            np.rint(sum_ * 16).sum(axis=1, dtype=np.float64)[:, None] / (16 * sum_[0].shape[0])
            for sum_ in total[1:]
        ]
        halves = [
            (sum_ + channel.astype(np.float32)) / 2
            for sum_, channel in zip(total[1:], channels, strict=True)
        ]
        return [total[0], *halves]

    def changes(self, curvature: list[F32]) -> tuple[F32, I32]:
        """-> change of the cost by the better step of each symbol, and that step: (S, N)."""
        search = self._search
        g_rows: list[F32] = []
        for table, row, s in zip(search.bits[1:], self._rows[1:], self._symbols[1:], strict=True):
            above, below = np.minimum(row + 1, len(table.bits) - 1), np.maximum(row - 1, 1)
            high, low = (np.minimum(table(each, s), 64 * BIT_UNIT) for each in (above, below))
            slope = (high - low) / BIT_UNIT / np.maximum(above - below, 1)
            g_rows.append(np.where(row > 0, slope, 0).astype(np.float32))
        g_pixels = (2 * search.weight * self._error).astype(np.float32)
        slopes = search.ladder.backward(g_pixels, g_rows, search.quality, self._trace)
        predicted: list[F32] = []
        steps: list[I32] = []
        for table, row, s, slope, bend in zip(
            search.bits, self._rows, self._symbols, slopes, curvature, strict=True
        ):
            now = table(row, s)
            down = (table(row, s - 1) - now) / np.float32(BIT_UNIT) - slope * STEP_UNIT
            up = (table(row, s + 1) - now) / np.float32(BIT_UNIT) + slope * STEP_UNIT
            change = np.where(row == 0, np.float32(IMPOSSIBLE), np.minimum(down, up) + bend)
            predicted.append(change.astype(np.float32))
            steps.append(np.where(down < up, -1, 1).astype(np.int32))
        return _flat(predicted), _flat(steps)


class Search:
    """Refinement of one batch of images, uint8 (N, 28, 28), at one quality.

    lmbda: weight of the SSE of pixels in 0..1 against bits.
    """

    def __init__(
        self, ladder: Transforms, bits: list[BitTable], pixels: U8, quality: int, lmbda: float
    ) -> None:
        self.ladder, self.bits, self.pixels, self.quality = ladder, bits, pixels, quality
        # rounded: the last bit of a power is not the same everywhere
        self.weight = float(np.float32(lmbda / 255**2))

    def cost(self, pixels: U8, bits: I64) -> F64:
        """lambda * SSE + bits of each image, from decoded pixels, and bits in 1 / BIT_UNIT."""
        found: F64 = self.weight * squared_errors(pixels, self.pixels) + bits / BIT_UNIT
        return found

    def flip(self, attempt: Attempt, e: Any, count: int) -> None:
        """Try `count` flips of each image of an attempt, and keep the best.  e: their features."""
        n, every = len(self.pixels), np.arange(len(self.pixels))
        shapes = [attempt.symbols[i].shape for i in range(min(len(FLIP_WEIGHTS), len(self.bits)))]
        ends = np.cumsum([0, *(math.prod(shape[:-1]) for shape in shapes)])
        weights = np.repeat(FLIP_WEIGHTS[: len(shapes)], np.diff(ends)).astype(np.int32)[:, None]
        flips, untried = np.zeros((ends[-1], n), np.int32), np.ones((ends[-1], n), np.int32)
        cost = self.cost(attempt.pixels, attempt.bits)
        for _ in range(count):
            offsets = _flat(attempt.offsets[: len(shapes)])
            rows = _flat(attempt.rows[: len(shapes)])
            # Each flip is tried once; row 0 has no other symbol.
            chosen = (np.abs(offsets) * weights * untried * (rows > 0)).argmax(axis=0), every
            untried[chosen] = 0
            tried = flips.copy()
            tried[chosen] += np.where(offsets[chosen] < 0, -1, 1)
            by_level = [
                tried[a:b].reshape(shape)
                for a, b, shape in zip(ends, ends[1:], shapes, strict=False)
            ]
            other = Attempt(self.ladder, self.bits, e, n, self.quality, by_level, attempt.dense)
            its_cost = self.cost(other.pixels, other.bits)
            better = its_cost < cost
            attempt.take(better, other)
            cost, flips = np.where(better, its_cost, cost), np.where(better, tried, flips)

    def refine(self, symbols: I32, rounds: int) -> tuple[I32, I32, U8]:
        """Symbols (S, N) of all levels -> better ones, their rows, decoded pixels."""
        trial = Trial(self, symbols)
        symbols, rows, pixels, cost = trial.symbols, trial.rows, trial.pixels, trial.cost
        curvature = trial.curvature()
        predicted, steps = trial.changes(curvature)
        num_changes = np.full(len(pixels), FIRST_CHANGES)
        for number in range(rounds):
            wanted = np.minimum(num_changes, min(MOST_CHANGES, len(predicted))) - 1
            edge = np.take_along_axis(np.sort(predicted, axis=0), wanted[None], axis=0)
            chosen = (predicted <= edge) & (predicted < IMPOSSIBLE / 2)
            trial = Trial(self, symbols + np.where(chosen, steps, 0))
            better = trial.cost < cost
            made = chosen.sum(axis=0)
            # a single change without a gain is not tried again
            predicted[chosen & (~better & (made <= 1))] = IMPOSSIBLE
            symbols = np.where(better, trial.symbols, symbols)
            rows = np.where(better, trial.rows, rows)
            pixels = np.where(better[:, None, None], trial.pixels, pixels)
            cost = np.where(better, trial.cost, cost)
            num_changes = np.where(
                better, made + np.maximum(made // 2, 1), np.maximum(made // 2, 1)
            )
            if number < rounds - 1:
                again, steps_again = trial.changes(curvature)
                predicted = np.where(better, again, predicted)
                steps = np.where(better, steps_again, steps)
        return symbols, rows, pixels


def _flat(levels: Sequence[npt.NDArray[T]]) -> npt.NDArray[T]:
    return np.concatenate([level.reshape(-1, level.shape[-1]) for level in levels])
