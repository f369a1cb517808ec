"""Which palette an image gets: the encoder's choice, as any palette decodes.

READ ME FIRST
- How often an image has each value says nearly always which palette is best, at no cost. What the
  network makes of it is only known when the pixels are coded.
- Rounded to a grid, an image gets a palette of that grid. Others can look cheaper by its values
  alone and still cost twice the bytes (measured: 1 % of all bytes of Fashion-MNIST at step 9).
- From effort 3 on, palettes that are nearly as likely are tried, too. On MNIST the second one, for
  the fifth of the images where it is within 0.6 bytes, saves half a percent.
"""

from __future__ import annotations

import numpy as np

from codec.arrays import F32, I64, U8, Bools, Integers
from codec.coding import rans
from codec.model.grids import MISSING, palettes_of
from codec.model.pixels_parts import LOGIT_UNIT, value_counts

# effort from which on -> palettes that are tried for an image, and how many bytes more than the
# likeliest they can cost by its values
TRIED = {1: (1, 0.0), 3: (2, 0.6), 5: (4, 2.0)}
_BYTE = 8 * np.log(2) * LOGIT_UNIT  # in units of costs


def tries(effort: int) -> tuple[int, float]:
    """How many palettes an effort tries, and their margin in bytes."""
    return TRIED[max(least for least in TRIED if least <= effort)]


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
        for step, palettes in self.of_grid.items():
            others = np.ones(len(self.freq), np.bool_)
            others[palettes] = False
            costs[np.ix_(steps == step, others)] = np.inf
        return Candidates(costs, self._favours)


class Candidates:
    """The palettes of N images, the likeliest first.

    costs: float32 (N, P), of values and of the palette's name, is changed. favours: bool (P,),
    whether a palette favours some of its values.
    """

    def __init__(self, costs: F32, favours: Bools) -> None:
        self._costs, self._favours = costs, favours
        self._least = costs.min(axis=1)

    def first(self) -> I64:
        """The likeliest palette of each image (N,)."""
        self._first = self._pop()[0]
        return self._first.copy()

    def next(self, margin_bytes: float) -> tuple[I64, I64]:
        """The images (M,) that have another palette within a margin, and that palette.

        Left out: one that favours no value after one that favours none. Both only say which values
        there are, and bytes hardly differ.
        """
        found, cost = self._pop()
        near = cost <= self._least + np.float32(margin_bytes * _BYTE)
        images = np.flatnonzero(near & (self._favours[found] | self._favours[self._first]))
        return images, found[images]

    def _pop(self) -> tuple[I64, F32]:
        """The likeliest palette of those that are left, and its cost: both (N,)."""
        found: I64 = self._costs.argmin(axis=1)
        each = np.arange(len(found))
        cost = self._costs[each, found]
        self._costs[each, found] = np.inf
        return found, cost
