"""Palettes: which values an image can have, coded ahead of its pixels.

READ ME FIRST
- How images were made leaves marks. Fashion-MNIST's were stretched to full contrast: if the
  brightest value had been M, only the values floor(j * 255 / M) occur. MNIST's were scaled by
  averaging: each scale has its own favourite greys. A network finds out pixel by pixel; one byte
  ahead of the pixels tells it at once (measured: 10 and 9 bytes saved).
- A palette is a row of logits that is added to those of the network, and a row of costs by which
  the encoder chooses.
- 0 and values from WHITE on occur everywhere and tell nothing: they cost nothing in the choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codec.arrays import F32, F64, I16, I32, I64, U8, Bools
from codec.coding import rans
from codec.model.pixels_parts import (
    LOGIT_UNIT,
    MAX_PALETTE_COST,
    MAX_PALETTES,
    choose_palettes,
    value_counts,
)

WHITE = 253
IMPOSSIBLE = -16.0  # logit of a value that a palette does not hold
# nats of a value that a palette lacks: 16 bits more than any value of a palette of all
MISSING_COST = np.log(256 * rans.TOTAL)
CLUSTERS, ROUNDS = 128, 40
SMOOTHING = 30.0  # pixels of the overall histogram that are mixed into each cluster
STRETCHED_WORTH = 1.0  # bytes an image that stretched palettes must save to be used


@dataclass(frozen=True)
class Palettes:
    """logits: float32 (P, 256); costs: int16 (P, 256), in units of 1 / LOGIT_UNIT nat; freq: int32
    (P,), of sum 2**16.
    """

    logits: F32
    costs: I16
    freq: I32

    def choose(self, pixels: U8) -> I64:
        """uint8 (N, 28, 28) -> palette of each image (N,)."""
        return choose_palettes(pixels, self.costs, self.freq)


def learn(pixels: U8, most: int = MAX_PALETTES) -> Palettes:
    """At most `most` palettes of images uint8 (N, 28, 28).

    The most used of the stretched ones, if they save enough; else clusters of their histograms.
    """
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


def _clusters(counts: F32, clusters: int) -> Palettes:
    """At most `clusters` clusters of histograms (N, 256): each image joins the one that codes its
    values best (hard EM of a mixture).
    """
    random = np.random.default_rng(0)
    overall = (counts.sum(axis=0) + 0.5) / (counts.sum() + 128)
    centres = counts[random.choice(len(counts), clusters, replace=False)] + SMOOTHING * overall
    size = np.ones(clusters)
    for turn in range(ROUNDS):
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
    costs[:, [0, *range(WHITE, 256)]] = 0
    logits = log_q[used] - np.log(overall)
    logits[:, [0, *range(WHITE, 256)]] = 0
    return _palettes(logits, costs, size[used])


def _palettes(logits: npt.ArrayLike, costs: F64, size: npt.NDArray[np.number]) -> Palettes:
    freq = np.maximum(1, np.floor(size / size.sum() * (rans.TOTAL - len(size)))).astype(np.int32)
    freq[freq.argmax()] += rans.TOTAL - freq.sum()
    return Palettes(
        np.asarray(logits, np.float32),
        np.rint(costs * LOGIT_UNIT).clip(0, MAX_PALETTE_COST).astype(np.int16),
        freq,
    )
