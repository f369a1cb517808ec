"""The quality at which an image keeps a goal.

READ ME FIRST
- For `AtMostBytes` the result is a quality that fits while the next one does not; for `AtLeastPsnr`
  one that reaches while the one before does not. Bytes and PSNR of a single image need not be
  monotone in the quality, so a better one may exist elsewhere.
- Nothing is estimated but the quality to try next, so a goal that cannot be kept comes out as such.
- Images are tried side by side: in each pass all that still look for their quality, those of one
  quality together.
- The next try lies where the curve in the model's card, moved to pass through the last try, meets
  what is wanted; once the quality is enclosed, on the straight line between both sides. The slope
  is not learned from the tries: from one quality to the next, bytes and PSNR of an image jump by
  more than they rise. It takes 4 tries an image, two of them for the result and its neighbour.
- Which quality is found depends on the image, the goal, the coder and the first try alone, never on
  other images.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from codec.arrays import F64, I64, U8, Bools
from codec.encoder.draft import Draft
from codec.encoder.goal import Goal, image_psnr_db, sizes
from codec.format.constants import MAX_QUALITY
from codec.model.base import Coder

# of an image; then the rest is halved: the most that a curve with kinks can take is 15
GUESSED_TRIES = 8


def weigh(coder: Coder, pixels: U8, quality: I64, symbols: Any, goal: Goal) -> Draft:
    """The draft of uint8 (N, 28, 28), N >= 1, that symbols make, and whether they keep a goal."""
    draft = Draft.blank(pixels, [coder])
    draft.put(np.arange(len(pixels)), 0, quality, symbols)
    draft.num_bytes = sizes(coder.pack(symbols, 1))
    draft.psnr_db = image_psnr_db(pixels, symbols.pixels)
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
    """Of each image, uint8 (N, 28, 28), N >= 1, its own quality that suits the goal; `kept` is
    False where none does.

    All is tried at effort 1. first: the quality to try first; symbols: what the coder makes of the
    images at that quality, if this is known. step: of the qualities only MAX_QUALITY, MAX_QUALITY -
    step .. are tried, but for the first.
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
        take = keeps | ~kept[waiting]  # the last that keeps the goal, or the last of all
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
    """Between which qualities the one looked for lies, for each of N images."""

    def __init__(self, goal: Goal, coder: Coder, n: int, step: int) -> None:
        self._goal, self._step, self._tries = goal, step, 0
        self._wanted, self._curve = goal.wanted, goal.curve(coder)
        # too low or just right; too high or just right; and their values
        self._low, self._high = np.full(n, -1), np.full(n, MAX_QUALITY + 1)
        self._low_value, self._high_value = np.zeros(n), np.zeros(n)

    def narrow(self, images: I64, qualities: I64, values: F64, keeps: Bools) -> None:
        """Take in the values that a try gave, and whether they keep the goal."""
        self._tries += 1
        rises = keeps == self._goal.broken_above
        up, down = images[rises], images[~rises]
        self._low[up], self._low_value[up] = qualities[rises], values[rises]
        self._high[down], self._high_value[down] = qualities[~rises], values[~rises]

    def is_open(self, images: I64) -> Bools:
        """For each image, whether a quality is left to be tried."""
        return np.asarray(self._grid_above(self._low[images]) < self._high[images])

    def next_quality(self, images: I64, qualities: I64, values: F64) -> I64:
        """What to try next of images that are open.  qualities, values: of the last try."""
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
    """Put into a draft what `effort` makes of images, of one coder, at their qualities, where that
    suits the goal better.
    """
    number = int(draft.coder[images[0]])
    coder, pixels, quality = draft.coders[number], draft.pixels[images], draft.quality[images]
    more = weigh(coder, pixels, quality, coder.analyze(pixels, quality, effort), goal)
    take = better(goal, draft.of(images), more)
    if take.any():
        draft.take(images[take], number, more.of(take))


def better(goal: Goal, one: Draft, other: Draft) -> Bools:
    """For each image, whether the other of two drafts suits the goal better; not if they are
    equal.
    """

    def badness(draft: Draft) -> list[tuple[bool, float, float]]:
        first, second = goal.order(draft.num_bytes, draft.psnr_db)
        return list(zip((~draft.kept).tolist(), first, second, strict=True))

    return np.array([b < a for a, b in zip(badness(one), badness(other), strict=True)], np.bool_)
