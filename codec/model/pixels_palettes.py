"""Which palette an image gets: the encoder's choice, as any palette decodes.

READ ME FIRST
- How often an image has each value says nearly always which palette is best, at no cost. What the
  network makes of it is only known when the pixels are coded.
- Rounded to a grid, an image may have a palette that looks cheaper by its values than the one of
  that grid, and costs twice the bytes, as the network hardly saw it on such images. So both are
  tried where they are close (measured: 0.5 % of the bytes of Fashion-MNIST at step 9 and 17).
- From effort 3 on, palettes that are nearly as likely are tried, too. On MNIST the second one, for
  the fifth of the images where it is within 0.6 bytes, saves half a percent.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from codec.arrays import F32, I64, U8, Bools, Integers
from codec.coding import rans
from codec.model.grids import MISSING, palettes_of
from codec.model.pixels_parts import LOGIT_UNIT, value_counts

# effort from which on -> palettes that are tried for an image, and how many bytes more than the
# likeliest they can cost by its values; the same for the likeliest one of its grid
TRIED = {1: (1, 0.0, 20.0), 3: (2, 0.6, 20.0), 5: (4, 2.0, 120.0)}
_BYTE = 8 * np.log(2) * LOGIT_UNIT  # in units of costs


class PaletteChoice:
    """Ranks the palettes of a model for images.

    costs: of values (P, 256), 0 to MAX_PALETTE_COST, in units of 1 / LOGIT_UNIT nat; freq: (P,), of
    sum 2**16.
    """

    def __init__(self, costs: Integers, freq: Integers) -> None:
        self.freq = freq
        self.of_grid = palettes_of(costs)
        self._costs = costs.T.astype(np.float32)
        self._naming = np.rint(-LOGIT_UNIT * np.log(freq / rans.TOTAL)).astype(np.float32)
        self._favours = np.array([len({*row.tolist()} - {0, MISSING}) > 1 for row in costs])

    def candidates(self, pixels: U8, steps: Integers) -> Candidates:
        """Of images uint8 (N, 28, 28), on the grids of steps (N,); 1: on none."""
        # Integers below 784 * 2**10 + 2**9: exact
        costs = value_counts(pixels) @ self._costs + self._naming
        of_grid = np.full(len(pixels), -1)
        for step, palettes in self.of_grid.items():
            images = np.flatnonzero(steps == step)
            of_grid[images] = palettes[costs[np.ix_(images, palettes)].argmin(axis=1)]
        return Candidates(costs, of_grid, self._favours)


class Candidates:
    """The palettes of N images.

    costs: float32 (N, P), of values and of the palette's name, is changed. of_grid: int (N,), the
    likeliest palette of the image's grid, -1: it is on none. favours: bool (P,), whether a palette
    favours some of its values. first: int (N,), the likeliest palette of each image.
    """

    def __init__(self, costs: F32, of_grid: I64, favours: Bools) -> None:
        self._costs, self._of_grid, self._favours = costs, of_grid, favours
        self.first, self._least = self._pop()

    def others(self, effort: int) -> Iterator[tuple[I64, I64]]:
        """Which images (M,) should be tried with which other palettes (M,), again and again."""
        tried, margin, margin_of_grid = TRIED[max(least for least in TRIED if least <= effort)]
        yield self._on_grid(margin_of_grid)
        for _ in range(1, tried):
            yield self._next(margin)

    def _on_grid(self, margin_bytes: float) -> tuple[I64, I64]:
        """The images whose first palette is not the one of their grid, which is close."""
        images = np.flatnonzero((self._of_grid >= 0) & (self._of_grid != self.first))
        found = self._of_grid[images]
        near = self._costs[images, found] <= self._least[images] + _units(margin_bytes)
        images, found = images[near], found[near]
        self._costs[images, found] = np.inf
        return images, found

    def _next(self, margin_bytes: float) -> tuple[I64, I64]:
        """The likeliest palette of those that are left, of the images where it is close.

        Left out: one that favours no value after one that favours none. Both only say which values
        there are, and bytes hardly differ.
        """
        found, cost = self._pop()
        near = cost <= self._least + _units(margin_bytes)
        images = np.flatnonzero(near & (self._favours[found] | self._favours[self.first]))
        return images, found[images]

    def _pop(self) -> tuple[I64, F32]:
        """The likeliest palette of those that are left, and its cost: both (N,)."""
        found: I64 = self._costs.argmin(axis=1)
        each = np.arange(len(found))
        cost = self._costs[each, found]
        self._costs[each, found] = np.inf
        return found, cost


def _units(num_bytes: float) -> np.float32:
    return np.float32(num_bytes * _BYTE)
