"""Grids of values: what near-lossless coding rounds to.  FORMAT.md 8.7.

With every value at the nearest multiple of an odd step, no pixel differs by more than half a step.
What is left is coded without loss, in far fewer bytes if a palette of the model holds the values of
that grid and no other.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from codec.arrays import I64, U8, Integers
from codec.coding import rans
from codec.model.pixels_parts import LOGIT_UNIT

# cost of a value that a palette lacks, in nats: 16 bits more than any value of a palette of all
MISSING_COST = np.log(256 * rans.TOTAL)
MISSING = round(MISSING_COST * LOGIT_UNIT)  # the same, in units of costs
MAX_STEP = 129  # at most 64 off


def rounded(pixels: U8, step: int | npt.NDArray[np.integer]) -> U8:
    """Images uint8 (N, 28, 28) with each value at the nearest multiple of `step`, an odd number or
    one for each image (N,); 255 takes the place of a multiple above it.
    """
    steps = np.asarray(step, np.int16).reshape(-1, 1, 1)
    return ((pixels + steps // 2) // steps * steps).clip(0, 255).astype(np.uint8)


def palettes_of(costs: Integers) -> dict[int, I64]:
    """The palettes that hold a grid and no other value, by its step, rising.  costs: (P, 256)."""
    held = costs < MISSING
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    found = {}
    for step in range(3, MAX_STEP + 1, 2):
        on_grid = np.zeros(256, np.bool_)
        on_grid[rounded(every, step).ravel()] = True
        if len(same := np.flatnonzero((held == on_grid).all(axis=1))):
            found[step] = same
    return found


def steps_for(max_error: Integers, steps: list[int]) -> I64:
    """The step for each bound, int (N,): the largest of `steps` that keeps it, and 2 * bound + 1 if
    there is none.
    """
    widest = 2 * np.asarray(max_error, np.int64) + 1
    if not steps:
        return widest
    at = np.searchsorted(steps, widest, side="right")
    return np.where(at, np.array(steps)[np.maximum(at, 1) - 1], widest)
