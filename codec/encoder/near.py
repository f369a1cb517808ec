"""The near-lossless coding of an image that keeps a goal.

READ ME FIRST: a goal looks beyond the rows of a lossy model where these do not keep it, or only
above the default quality: there a largest error may take fewer bytes (`scale`). The PSNR of a bound
is known before anything is coded; for a limit of bytes the bounds are bisected.
"""

from __future__ import annotations

import numpy as np

from codec.arrays import I64, U8
from codec.encoder.draft import Draft
from codec.encoder.goal import Goal, image_psnr_db
from codec.encoder.search import better, weigh
from codec.format.constants import NEAR_LOSSLESS
from codec.model.base import Coder
from codec.model.grids import rounded


def nearest(coder: Coder, pixels: U8, goal: Goal) -> Draft:
    """Draft of uint8 (N, 28, 28), N >= 1, at the bound that suits the goal best, by a lossless
    coder that has learned grids; `kept` is False where no bound keeps it.
    """
    steps = np.array(coder.grid_steps)[::-1]  # the finer, the more bytes and dB
    n, last = len(pixels), len(steps) - 1
    if goal.lossless_keeps:  # a limit of dB: the coarsest step that keeps it
        psnr_db = np.array([image_psnr_db(pixels, rounded(pixels, int(step))) for step in steps])
        keeps = goal.holds(np.zeros(psnr_db.shape, np.int64), psnr_db)
        first = np.where(keeps.any(axis=0), keeps.argmax(axis=0), last)
        return _at(coder, pixels, goal, steps[first])
    # a limit of bytes: the finest that keeps it, if the coarsest does
    low, high = np.zeros(n, np.int64), np.full(n, last)
    found = _at(coder, pixels, goal, steps[low])
    high[~found.kept] = 0
    while len(images := np.flatnonzero(low < high)):
        middle = (low[images] + high[images] + 1) // 2
        tried = _at(coder, pixels[images], goal, steps[middle])
        low[images] = np.where(tried.kept, middle, low[images])
        high[images] = np.where(tried.kept, high[images], middle - 1)
        moves = better(goal, found.of(images), tried)
        if moves.any():
            found.take(images[moves], 0, tried.of(moves))
    return found


def _at(coder: Coder, pixels: U8, goal: Goal, steps: I64) -> Draft:
    quality = NEAR_LOSSLESS + steps // 2
    return weigh(coder, pixels, quality, coder.analyze(pixels, quality), goal)
