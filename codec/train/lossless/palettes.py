"""Palettes: which values an image can have, coded ahead of its pixels.

READ ME FIRST
- How images were made leaves marks. Fashion-MNIST's were stretched to full contrast: if the
  brightest value had been M, only the values floor(j * 255 / M) occur. MNIST's were scaled by
  averaging: each scale has its own favourite greys. A network finds out pixel by pixel; one byte
  ahead of the pixels tells it at once (measured: 10 and 9 bytes saved).
- A palette is a row of logits that is added to those of the network, and a row of costs by which
  the encoder chooses.
- 0 and values from WHITE on occur everywhere and tell nothing: they cost nothing in the choice.
- Grids: images whose values were rounded to multiples of a step take fewer bytes if a palette names
  the grid. The palette of a grid holds no other value, so the encoder's choice finds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from codec.arrays import F32, F64, I16, I32, I64, U8, Bools
from codec.coding import rans
from codec.model.grids import MISSING, MISSING_COST, rounded
from codec.model.pixels_palettes import PaletteChoice
from codec.model.pixels_parts import (
    LOGIT_UNIT,
    MAX_PALETTE_COST,
    MAX_PALETTES,
    value_counts,
)

WHITE = 253
IMPOSSIBLE = -16.0  # logit of a value that a palette does not hold
CLUSTERS, ROUNDS = 128, 40
SMOOTHING = 30.0  # pixels of the overall histogram that are mixed into each cluster
STRETCHED_WORTH = 1.0  # bytes an image that stretched palettes must save to be used
# odd, so that the largest error is (step - 1) / 2
GRID_STEPS = (3, 5, 7, 9, 13, 17, 25, 35, 51, 85)
GRIDS_FREQ = 0.3  # share of images on a grid, as far as the cost of naming a palette goes


@dataclass(frozen=True)
class Palettes:
    """logits: float32 (P, 256); costs: int16 (P, 256), in units of 1 / LOGIT_UNIT nat; freq: int32
    (P,), of sum 2**16.
    """

    logits: F32
    costs: I16
    freq: I32

    def choose(self, pixels: U8) -> I64:
        """uint8 (N, 28, 28) -> the likeliest palette of each image (N,)."""
        return self._choice.candidates(pixels, np.ones(len(pixels), np.int64)).first

    @cached_property
    def _choice(self) -> PaletteChoice:
        return PaletteChoice(self.costs, self.freq)


def learn(pixels: U8, most: int = MAX_PALETTES, *, grids: bool = False) -> Palettes:
    """At most `most` palettes of images uint8 (N, 28, 28).

    The most used of the stretched ones, if they save enough; else clusters of their histograms.
    grids: also palettes of the same images rounded to multiples of each of GRID_STEPS: one for each
    step beside stretched palettes, several beside clusters.
    """
    if not grids:
        return _learn(pixels, most)
    if most <= len(GRID_STEPS):
        raise ValueError(f"{most} palettes are too few, the grids alone need {len(GRID_STEPS)}")
    base = _learn(pixels, most - len(GRID_STEPS))
    # one palette of few images, which would be the cheapest for all that is on a grid as well
    if not base.costs.any():
        base = _palettes(base.logits, np.full((1, 256), np.log(256)), np.ones(1))
    spare = most - len(base.freq)
    clustered = len(base.freq) > 1 and bool((base.logits > IMPOSSIBLE).all())
    parts, grid_freq = [], GRIDS_FREQ / len(GRID_STEPS)
    for i, step in enumerate(GRID_STEPS):
        held = np.zeros(256, np.bool_)
        held[np.unique(rounded(np.arange(256, dtype=np.uint8)[None], step))] = True
        clusters = (
            max(1, min(CLUSTERS // step, spare - (len(GRID_STEPS) - 1 - i))) if clustered else 1
        )
        parts.append(_of_grid(pixels, step, held, clusters))
        spare -= len(parts[-1].freq)
    return _joined([base, *parts], [1 - GRIDS_FREQ] + [grid_freq] * len(parts))


def _learn(pixels: U8, most: int) -> Palettes:
    """Palettes of images as they are."""
    counts = value_counts(pixels)
    counts[:, WHITE:] = 0
    clusters = min(CLUSTERS, most)
    if len(pixels) < clusters * 4:
        return _palettes(np.zeros((1, 256), np.float32), np.zeros((1, 256)), np.ones(1))
    stretched = _stretched()
    costs = np.where(stretched, np.log(stretched.sum(axis=1, keepdims=True)), MISSING_COST)
    costs[:, [0, *range(WHITE, 256)]] = 0
    best = (counts @ costs.T.astype(np.float32) + np.log(len(costs))).argmin(axis=1)
    saved = (counts * (costs[-1] - costs[best])).sum(axis=1) - np.log(len(costs))
    if saved.clip(0).mean() > STRETCHED_WORTH * 8 * np.log(2):
        users = np.bincount(best, minlength=len(costs))
        if np.count_nonzero(users) > most:
            users[-1] = len(counts)  # keep the one with all values: it makes any image possible
            users[np.argsort(-users, kind="stable")[most:]] = 0
        used = np.flatnonzero(users)
        best = (counts @ costs[used].T.astype(np.float32)).argmin(axis=1)
        return _palettes(
            np.where(stretched[used], 0, IMPOSSIBLE),
            costs[used],
            np.bincount(best, minlength=len(used)),
        )
    return _clusters(counts, clusters)


def _stretched() -> Bools:
    """Whether a palette holds a value, bool (255, 256): row M - 1 has floor(j * 255 / M) for j in
    0 .. M, so the last row has all.
    """
    held = np.zeros((255, 256), np.bool_)
    for brightest in range(1, 256):
        held[brightest - 1, np.arange(brightest + 1) * 255 // brightest] = True
    return held


def _of_grid(pixels: U8, step: int, held: npt.NDArray[np.bool_], clusters: int) -> Palettes:
    """Palettes of images rounded to multiples of `step`.  held: bool (256,), the values that are
    left.
    """
    counts = value_counts(rounded(pixels, step))
    white = int(rounded(np.full((1, 1, 1), WHITE, np.uint8), step)[0, 0, 0])
    counts[:, white:] = 0
    found = _clusters(counts, clusters, white)
    logits = np.where(held, found.logits, IMPOSSIBLE).astype(np.float32)
    costs = np.where(held, found.costs, MISSING).astype(np.int16)
    return Palettes(logits, costs, found.freq)


def _joined(parts: list[Palettes], shares: list[float]) -> Palettes:
    """All palettes of `parts`, each with its share of the images."""
    logits, costs = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("logits", "costs")
    )
    size = np.concatenate(
        [share * part.freq / rans.TOTAL for part, share in zip(parts, shares, strict=True)]
    )
    return _palettes(logits, costs / LOGIT_UNIT, size)


def _clusters(counts: F32, clusters: int, white: int = WHITE) -> Palettes:
    """At most `clusters` clusters of histograms (N, 256): each image joins the one that codes its
    values best (hard EM of a mixture).

    white: the histograms say nothing of the values from this one on.
    """
    random = np.random.default_rng(0)
    overall = (counts.sum(axis=0) + 0.5) / (counts.sum() + 128)
    centres = counts[random.choice(len(counts), clusters, replace=False)] + SMOOTHING * overall
    size = np.ones(clusters)
    for turn in range(ROUNDS if clusters > 1 else 1):
        log_q = np.log(centres / centres.sum(axis=1, keepdims=True))
        best = (counts @ log_q.T + np.log(size / size.sum()).astype(np.float32)).argmax(axis=1)
        held = np.bincount(best, minlength=clusters)
        members = np.zeros_like(centres)
        np.add.at(members, best, counts)
        centres = members + SMOOTHING * overall
        size = held + 1.0
        if turn < ROUNDS * 3 // 4:  # restart clusters that hardly any image joined
            lonely = np.flatnonzero(held < len(counts) // 4000 + 1)
            centres[lonely] += counts[random.choice(len(counts), len(lonely))]
    log_q = np.log(centres / centres.sum(axis=1, keepdims=True))
    used = np.flatnonzero(held)
    costs = -log_q[used]
    costs[:, [0, *range(white, 256)]] = 0
    logits = log_q[used] - np.log(overall)
    logits[:, [0, *range(white, 256)]] = 0
    return _palettes(logits, costs, size[used])


def _palettes(logits: npt.ArrayLike, costs: F64, size: npt.NDArray[np.number]) -> Palettes:
    freq = np.maximum(1, np.floor(size / size.sum() * (rans.TOTAL - len(size)))).astype(np.int32)
    freq[freq.argmax()] += rans.TOTAL - freq.sum()
    return Palettes(
        np.asarray(logits, np.float32),
        np.rint(costs * LOGIT_UNIT).clip(0, MAX_PALETTE_COST).astype(np.int16),
        freq,
    )
