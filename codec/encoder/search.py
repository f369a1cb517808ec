"""The quality at which an image keeps a goal.

READ ME FIRST
- For `AtMostBytes` the result is a quality that fits while the next one does not; for `AtLeastPsnr`
  one that reaches while the one before does not. Bytes and PSNR of a single image need not be
  monotone in the quality, so a better one may exist elsewhere.
- Only the next quality to try is estimated, so a goal that cannot be kept is always noticed.
- Images are tried in passes: each pass tries all images that still need a quality, those at one
  quality as one batch.
- The next try is where the curve in the model's card, moved to pass through the last try, reaches
  the goal; once the quality is enclosed, on the straight line between both sides. The slope is not
  learned from the tries: from one quality to the next, bytes and PSNR of an image jump by more than
  they rise. It takes 4 tries an image, two of them for the result and its neighbour.
- The quality that is found depends only on the image, the goal, the coder and the first try, never
  on other images.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from codec.arrays import F64, I64, U8, Bools
from codec.encoder.draft import Draft
from codec.encoder.goal import Goal, psnr_of_errors, sizes
from codec.format.constants import MAX_QUALITY
from codec.model.base import Coder

# of an image; after them the interval is halved, so that no curve needs more than 15 tries
GUESSED_TRIES = 8


def weigh(coder: Coder, pixels: U8, quality: I64, symbols: Any, goal: Goal) -> Draft:
    """The draft of uint8 (N, 28, 28), N >= 1, with these symbols; `kept`: which keep the goal."""
    draft = Draft.blank(pixels, [coder])
    draft.put(np.arange(len(pixels)), 0, quality, symbols)
    draft.num_bytes = sizes(coder.pack(symbols, 1))
    draft.psnr_db = psnr_of_errors(draft.squared_error)
    draft.kept = goal.holds(draft.num_bytes, draft.psnr_db)
    return draft


def search(
    coder: Coder,
    pixels: U8,
    goal: Goal,
    first: int | None = None,
    symbols: Any = None,
    step: int = 1,
) -> Draft:
    """Find the quality at which each image, uint8 (N, 28, 28), N >= 1, keeps the goal; `kept` is
    False where none does.

    All tries are at effort 1. first: the quality to try first; symbols: of all images at that
    quality, if they are known. step: after the first, only the qualities MAX_QUALITY, MAX_QUALITY -
    step .. are tried.
    """
    n = len(pixels)
    bracket = _Bracket(goal, coder, n, step)
    waiting, kept = np.arange(n), np.zeros(n, np.bool_)
    qualities = np.full(n, goal.first_quality([coder]) if first is None else first)
    found_qualities = qualities.copy()
    tried = coder.analyze(pixels, qualities) if symbols is None else symbols
    found = tried.of(waiting)
    while True:
        values, keeps = goal.values(coder, pixels[waiting], tried)
        take = keeps | ~kept[waiting]  # the last try that keeps the goal, else the last of all
        found.put(waiting[take], tried.of(np.flatnonzero(take)))
        found_qualities[waiting[take]] = qualities[take]
        kept[waiting] |= keeps
        bracket.narrow(waiting, qualities, values, keeps)
        going = bracket.is_open(waiting)
        waiting, qualities, values = waiting[going], qualities[going], values[going]
        if not len(waiting):
            return weigh(coder, pixels, found_qualities, found, goal)
        qualities = bracket.next_quality(waiting, qualities, values)
        tried = coder.analyze(pixels[waiting], qualities)


class _Bracket:
    """The qualities between which the wanted one lies, for each of N images."""

    def __init__(self, goal: Goal, coder: Coder, n: int, step: int) -> None:
        self._goal, self._step, self._tries = goal, step, 0
        self._wanted, self._curve = goal.wanted, goal.curve(coder)
        # too low or just right; too high or just right; and their values
        self._low, self._high = np.full(n, -1), np.full(n, MAX_QUALITY + 1)
        self._low_value, self._high_value = np.zeros(n), np.zeros(n)

    def narrow(self, images: I64, qualities: I64, values: F64, keeps: Bools) -> None:
        """Use the values that a try gave, and whether they keep the goal."""
        self._tries += 1
        rises = keeps == self._goal.broken_above
        up, down = images[rises], images[~rises]
        self._low[up], self._low_value[up] = qualities[rises], values[rises]
        self._high[down], self._high_value[down] = qualities[~rises], values[~rises]

    def is_open(self, images: I64) -> Bools:
        """For each image, whether there is a quality left to try."""
        return np.asarray(self._grid_above(self._low[images]) < self._high[images])

    def next_quality(self, images: I64, qualities: I64, values: F64) -> I64:
        """The next quality of images that are open.  qualities, values: of the last try."""
        below, above = self._low[images], self._high[images]
        if self._tries < GUESSED_TRIES:
            steps = np.arange(MAX_QUALITY + 1)
            guess = np.interp(self._curve[qualities] + self._wanted - values, self._curve, steps)
            rise = np.maximum(self._high_value[images] - self._low_value[images], 1e-6)
            line = below + (self._wanted - self._low_value[images]) / rise * (above - below)
            enclosed = (below >= 0) & (above <= MAX_QUALITY)
            guess = np.rint(np.where(enclosed, line, guess))
        else:
            guess = (below + above) // 2
        guess = MAX_QUALITY - self._step * np.rint((MAX_QUALITY - guess) / self._step)
        found = np.clip(guess, self._grid_above(below), self._grid_below(above))
        return np.asarray(found.astype(np.int64))

    def _grid_above(self, quality: I64) -> I64:
        """The lowest of MAX_QUALITY, MAX_QUALITY - step .. that is above a quality."""
        return quality + 1 + (MAX_QUALITY - quality - 1) % self._step

    def _grid_below(self, quality: I64) -> I64:
        """The highest of them that is below it."""
        return quality - 1 - (quality - 1 - MAX_QUALITY) % self._step


def refine(draft: Draft, images: I64, goal: Goal, effort: int) -> None:
    """Search longer, at their qualities, for symbols of images that have the same coder; keep those
    that suit the goal better.
    """
    number = int(draft.coder[images[0]])
    coder, pixels, quality = draft.coders[number], draft.pixels[images], draft.quality[images]
    more = weigh(coder, pixels, quality, coder.analyze(pixels, quality, effort), goal)
    take = better(goal, draft.of(images), more)
    if take.any():
        draft.take(images[take], number, more.of(take))


def better(goal: Goal, one: Draft, other: Draft) -> Bools:
    """For each image, whether the other of two drafts suits the goal better."""

    def badness(draft: Draft) -> list[tuple[bool, float, float]]:
        first, second = goal.order(draft.num_bytes, draft.psnr_db)
        return list(zip((~draft.kept).tolist(), first, second, strict=True))

    return np.array([b < a for a, b in zip(badness(one), badness(other), strict=True)], np.bool_)
