"""The coder of each image, and the guard.

READ ME FIRST
- Of several models, the one with the lowest cost lambda * SSE + bits is used. An image that becomes
  a file is tried with all of them. For a block, one model is used if a sample says that this costs
  hardly more; else each image is tried with the models that some image of the sample prefers. If a
  goal chooses the quality, costs are those at the first quality of the search.
- **The guard.** A model's card says what PSNR a quality gives on images like its training images.
  An image that comes out GUARD_DB worse *falls back*: to the lowest quality at which it does not,
  or to a lossless model if no quality is good enough or if that takes fewer bytes. A generic model,
  which is used for images that the others do not know, is compared with the others' cards. A model
  whose card does not give PSNR has no guard.
- A goal replaces the guard: it chooses the quality of each image.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from codec.arrays import F64, I64, U8, Bools, distinct, spread
from codec.coding.lanes import by
from codec.encoder.draft import Draft
from codec.encoder.goal import AtLeastPsnr, Goal, psnr_of_errors, sizes
from codec.encoder.near import nearest
from codec.encoder.scale import LAST_ROW, coding_of
from codec.encoder.search import better, refine, search
from codec.format.constants import LOSSLESS_QUALITY, MAX_QUALITY, STORED_QUALITY
from codec.model import card
from codec.model.base import Coder
from codec.model.ladder_parts import log2_lmbda
from codec.model.registry import GENERIC, LOSSLESS
from codec.model.stored import STORED

GUARD_DB = 3.0
# Between the qualities to which images fall back: fewer tries, and fewer parts of more images each
# (at 1 and effort 1, quality 25 of Fashion-MNIST takes a quarter longer; at 3 it takes 1 % more
# bytes and has 0.03 dB more).
FALLBACK_STEP = 3
# Trying without loss takes half as long as everything else. An image of fewer bytes, or less than
# this share of its size by zlib, hardly ever gets smaller without loss (measured: the median of
# lossless sizes is 0.54 of zlib's for Fashion-MNIST, MNIST and `generic`'s mixture; with 0.35 here
# no byte was saved, of 2,048 images each at qualities 30, 50, 75 and 90).
LOSSLESS_BYTES, LOSSLESS_SHARE = 64, 0.45


class Sampling(NamedTuple):
    """How large the sample is that chooses the models of a block, and when it agrees on one.

    The sample is one image in `one_of`, so that trying all models costs little, but `least` to
    `most` images (without loss at most `most_lossless`: models differ more there, and more images
    take twice as long). Of `small` images or fewer it has all.

    agreed: one model is used for the whole block if choosing for each image of the sample would
    lower the cost by no more than this share. In blocks of one kind that is 0 to 2 %, for which
    two models would have to encode all images.
    """

    one_of: int = 64
    least: int = 16
    most: int = 32
    most_lossless: int = 16
    small: int = 64
    agreed: float = 0.02

    def size(self, n: int, lossless: bool) -> int:
        """Images of a sample of n."""
        most = self.most_lossless if lossless else self.most
        return n if n <= self.small else min(max(n // self.one_of, self.least), most)


SAMPLING = Sampling()
Exact = Callable[[], Sequence[Coder]]  # gives the lossless coders that step in for lossy ones


# Choosing


class Seen(NamedTuple):
    """Symbols that were found while choosing: of some images, int64, rising, by number of the
    coder.
    """

    images: I64
    symbols: dict[int, Any]

    def of(self, coder: int, images: I64) -> Any:
        """Its symbols of images that are all among these."""
        return self.symbols[coder].of(np.searchsorted(self.images, images))


def choose(
    draft: Draft,
    quality: int,
    effort: int = 1,
    *,
    as_block: bool,
    sampling: Sampling = SAMPLING,
) -> Seen:
    """Give each image the coder with the lowest cost at a quality.

    effort: of lossless coders, which takes little longer; lossy ones have 1. as_block: the images
    become one block, so that a sample can decide. Returns what the coders found.
    """
    if quality < LOSSLESS_QUALITY:
        effort = 1
    n, coders = len(draft.pixels), draft.coders
    every = np.arange(n)
    if len(coders) == 1:
        return Seen(every, {})
    size = sampling.size(n, quality >= LOSSLESS_QUALITY) if as_block else n
    sample = spread(n, size) if size < n else every
    seen, dear = _see(coders, range(len(coders)), draft.pixels[sample], quality, effort)
    best = int(dear.sum(axis=1).argmin())
    if as_block and dear[best].sum() <= (1 + sampling.agreed) * dear.min(axis=0).sum():
        draft.coder[:] = best
        return Seen(sample, seen)
    if size < n:  # without the coders that no image of the sample prefers
        preferred = distinct(dear.argmin(axis=0))
        seen, dear = _see(coders, preferred, draft.pixels, quality, effort)
    draft.coder[:] = np.array([*seen])[dear.argmin(axis=0)]
    return Seen(every, seen)


def _see(
    coders: list[Coder], numbers: Sequence[int], pixels: U8, quality: int, effort: int
) -> tuple[dict[int, Any], F64]:
    """Let some coders try images -> the symbols by coder, and the costs (coders, N)."""
    seen = {k: coders[k].analyze(pixels, quality, effort) for k in numbers}
    packed = ((found.pixels, coders[k].pack(found, 1)) for k, found in seen.items())
    return seen, np.array([costs(pixels, *each, quality) for each in packed])


def costs(pixels: U8, decoded: U8, messages: list[bytes], quality: int) -> F64:
    """lambda * SSE + bits of each image, float64 (N,), the SSE of pixels in 0..1; bits alone if
    the quality is not lossy.

    pixels, decoded: uint8 (N, 28, 28); messages: one for each image.
    """
    if quality >= LOSSLESS_QUALITY:
        return np.asarray(8.0 * sizes(messages))
    sse = np.square((pixels.astype(np.float64) - decoded) / 255).sum(axis=(1, 2))
    return np.asarray(2.0 ** log2_lmbda(quality) * sse + 8.0 * sizes(messages))


# A quality for all


def code(draft: Draft, quality: int, effort: int, seen: Seen, exact: Exact) -> None:
    """Give all images the quality in the stream that a quality stands for, and the symbols of their
    coders.

    seen: what `choose` returned, at effort 1 for a lossy quality.
    """
    for k, images in by(draft.coder):
        coder, coded = draft.coders[k], coding_of(draft.coders[k], quality)
        if quality <= MAX_QUALITY < coded:
            partner = _partner(coder, exact)
            coder, coded = (coder, quality) if partner is None else (partner, coded)
        known = np.zeros(len(images), np.bool_)
        if coded == quality and (effort == 1 or quality >= LOSSLESS_QUALITY):
            known |= np.isin(images, seen.images) & (k in seen.symbols)
        number, left = draft.number_of(coder), images[~known]
        if known.any():
            draft.put(images[known], number, coded, seen.of(k, images[known]))
        if len(left):
            draft.put(left, number, coded, coder.analyze(draft.pixels[left], coded, effort))
        draft.turn[images] = k - len(draft.coders)
    draft.planned[:] = draft.quality


def guard(draft: Draft, quality: int, effort: int, exact: Exact) -> None:
    """Find another quality or coder for the images that came out badly."""
    rows = [min(coding_of(coder, quality), MAX_QUALITY) for coder in draft.coders]
    floors = {k: floor_db(draft.coders, c, rows[k]) for k, c in enumerate(draft.coders)}
    used = distinct(draft.coder)
    order = [*used, *(k for k in floors if k not in used)]
    goals: dict[int, Goal] = {
        k: AtLeastPsnr(floor) for k in order if (floor := floors[k]) is not None
    }
    least = np.array([-1.0 if floor is None else floor for floor in floors.values()])
    stopped = psnr_of_errors(draft.squared_error) < least[draft.coder]
    images = np.flatnonzero(stopped)
    if not len(images):
        return
    tried = {}
    if effort == 1:
        tried = {k: draft.symbols(images[at]) for k, at in by(draft.coder[images])}
    _reach(draft, images, goals, rows, tried, FALLBACK_STEP)
    _fall_back(draft, images, exact, compare=True)
    _refine(draft, images, goals, effort)


def floor_db(coders: Sequence[Coder], coder: Coder, quality: int) -> float | None:
    """PSNR in dB below which an image falls back, if `coder` was chosen among `coders`; None: it
    never does.
    """
    others = [other for other in coders if other is not coder] if coder.name == GENERIC else []
    found = (card.psnr_db(one.figures, quality) for one in others or [coder])
    known = [psnr_db for psnr_db in found if psnr_db is not None]
    return max(min(known) - GUARD_DB, 0.0) if known else None


# A goal


def meet(draft: Draft, goal: Goal, first: int, effort: int, seen: Seen, exact: Exact) -> None:
    """Give each image the quality at which it keeps a goal, or another coder that keeps it.

    first: the quality to try first, at which `choose` saw images.
    """
    images = np.arange(len(draft.pixels))
    goals = dict.fromkeys(range(len(draft.coders)), goal)
    tried = {}
    if len(seen.images) == len(images):  # not only a sample
        tried = {k: seen.of(k, some) for k, some in by(draft.coder) if k in seen.symbols}
    _reach(draft, images, goals, [first] * len(draft.coders), tried)
    _go_near(draft, goal, exact)
    if goal.lossless_keeps:
        _fall_back(draft, images, exact)
    for i in np.flatnonzero(~draft.kept).tolist():
        found = f"{draft.num_bytes[i]} bytes even at quality {draft.quality[i]}"
        draft.refused[i] = f"takes {found}; {goal}"
    _refine(draft, images[draft.kept], goals, effort)


def _go_near(draft: Draft, goal: Goal, exact: Exact) -> None:
    """Code near-lossless the images for which that suits the goal better: see `near`."""
    for k, images in by(draft.coder):
        images = images[~draft.kept[images] | (draft.quality[images] > LAST_ROW)]
        partner = _partner(draft.coders[k], exact) if len(images) else None
        if partner is None or not partner.grid_steps:
            continue
        one = nearest(partner, draft.pixels[images], goal)
        moves = better(goal, draft.of(images), one) & one.kept
        if moves.any():
            draft.take(images[moves], draft.number_of(partner), one.of(moves))
            draft.turn[images[moves]] += 1 << 48  # after all others


def _partner(coder: Coder, exact: Exact) -> Coder | None:
    """The lossless model with the name of a lossy one."""
    return next((other for other in exact() if other.name == coder.name + LOSSLESS), None)


def _reach(
    draft: Draft,
    images: I64,
    goals: dict[int, Goal],
    first: list[int],
    tried: dict[int, Any],
    step: int = 1,
) -> None:
    """Search for the quality at which each of some images keeps its goal; if its own coder fails,
    try the others.

    goals: by number of the coder; first: the quality to try first, by number of the coder; tried:
    symbols of the images of a coder at that quality, where they are known. step: see `search`.
    """
    chosen = draft.coder.copy()
    for turn, (k, at) in enumerate(by(chosen[images])):
        some = images[at]
        one = search(draft.coders[k], draft.pixels[some], goals[k], first[k], tried.get(k), step)
        draft.take(some, k, one)
        draft.turn[some] = turn
    for k, goal in goals.items():
        failed = images[~draft.kept[images] & (chosen[images] != k)]
        if not len(failed):
            continue
        other = search(draft.coders[k], draft.pixels[failed], goal, first[k], None, step)
        moves = better(goal, draft.of(failed), other)
        moved = failed[moves]
        if len(moved):
            draft.take(moved, k, other.of(moves))
            draft.turn[moved] += draft.turn[images].max() + 1
    draft.turn[images] += draft.coder[images] << 32  # coder by coder


def _fall_back(draft: Draft, images: I64, exact: Exact, *, compare: bool = False) -> None:
    """Code without loss the images that do not keep their goal, each by the model that takes the
    fewest bytes; store them if there is no model.

    compare: also images that take fewer bytes without loss.
    """
    wanted = ~draft.kept[images]
    if compare:
        wanted |= _large(draft.of(images))
    images = images[wanted]
    if not len(images):
        return
    pixels = draft.pixels[images]
    fewest = np.where(draft.kept[images], draft.num_bytes[images], np.iinfo(np.int64).max)
    for coder in exact():
        symbols = coder.analyze(pixels, LOSSLESS_QUALITY)
        num_bytes = sizes(coder.pack(symbols, 1))
        fewer = np.flatnonzero(num_bytes < fewest)
        if len(fewer):
            _put_exact(draft, images[fewer], coder, LOSSLESS_QUALITY, symbols.of(fewer))
            fewest[fewer] = num_bytes[fewer]
    left = np.flatnonzero(~draft.kept[images])
    if len(left):
        symbols = STORED.analyze(pixels[left], STORED_QUALITY)
        _put_exact(draft, images[left], STORED, STORED_QUALITY, symbols)


def _put_exact(draft: Draft, images: I64, coder: Coder, quality: int, symbols: Any) -> None:
    draft.put(images, draft.number_of(coder), quality, symbols)
    draft.kept[images] = True


def _large(draft: Draft) -> Bools:
    """For each image, whether it could be smaller without loss."""
    large = draft.num_bytes > LOSSLESS_BYTES
    packed = np.array([len(zlib.compress(image, 1)) for image in draft.pixels[large]])
    large[large] = draft.num_bytes[large] > LOSSLESS_SHARE * packed
    return np.asarray(large)


def _refine(draft: Draft, images: I64, goals: dict[int, Goal], effort: int) -> None:
    """Search longer for those of the images that are still lossy."""
    if effort > 1:
        for k, at in by(draft.coder[images]):
            if k in goals:
                refine(draft, images[at], goals[k], effort)
