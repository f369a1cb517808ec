"""The quality that keeps a promise: at most so many bytes of payload (`--max-bytes`), or at least
so many dB (`--min-psnr`).

READ ME FIRST
- What counts is what was encoded: bytes of the messages that the coder wrote, PSNR of the pixels
  that the decoder shows. Nothing is estimated but the quality to try next, so a promise that cannot
  be kept comes out as such.
- For `max_bytes` the result is a quality that fits while the next one does not; for `min_psnr` one
  that reaches while the one before does not. Bytes and PSNR of a single image need not be monotone
  in the quality, so a better one may exist elsewhere.
- Images are tried side by side: in each pass all that still look for their quality, those of one
  quality together.
- The next try lies where the curve in the model's card, moved to pass through the last try, meets
  what is wanted; once the quality is enclosed, on the straight line between both sides. The slope
  is not learned from the tries: from one quality to the next, bytes and PSNR of an image jump by
  more than they rise. It takes 4 tries an image, two of them for the result and its neighbour.
- Which quality is found depends on the image, the target, the models and the first try alone, never
  on other images.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codec.coding.lanes import U8
from codec.errors import UsageError
from codec.format.bitstream import MAX_QUALITY
from codec.model.bundle import BaseModel
from codec.model.ladder import Model, Symbols

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

FIRST_QUALITY = 50  # to try with a model whose card has no curve
# What one step of quality does by such a model: octaves of bytes, dB.
OCTAVES_A_QUALITY, DB_A_QUALITY = 0.04, 0.18
MOST_DB = 99.0  # more is as good for a guess
NO_ERROR_DB = 200.0  # stands for the PSNR of an image without error
# of an image; then the rest is halved: the most that a curve with kinks can take is 15
GUESSED_TRIES = 8


@dataclass(frozen=True)
class Target:
    """What each image must keep; one of the two is set.  max_bytes: of payload; min_psnr: in dB."""

    max_bytes: int | None = None
    min_psnr: float | None = None

    def __post_init__(self) -> None:
        if (self.max_bytes is None) == (self.min_psnr is None):
            raise UsageError("max_bytes and min_psnr exclude each other")
        if self.max_bytes is not None and self.max_bytes < 0:
            raise UsageError(f"max_bytes {self.max_bytes} is negative")
        if self.min_psnr is not None and not 0 <= self.min_psnr < NO_ERROR_DB:
            raise UsageError(f"min_psnr {self.min_psnr!r}, wanted dB from 0 to {NO_ERROR_DB:g}")

    def holds(self, num_bytes: npt.NDArray[np.integer], psnr_db: F64) -> npt.NDArray[np.bool_]:
        """For each image, whether the promise is kept."""
        if self.min_psnr is not None:
            return np.asarray(psnr_db >= self.min_psnr)
        return np.asarray(num_bytes <= (self.max_bytes or 0))

    def __str__(self) -> str:
        return (
            f"at least {self.min_psnr:g} dB"
            if self.max_bytes is None
            else f"at most {self.max_bytes} bytes"
        )


@dataclass
class Coded:
    """N images, each encoded for itself.

    qualities: int (N,); messages: N; psnr_db: float (N,); kept: bool (N,), whether they keep the
    promise.
    """

    qualities: I64
    symbols: Symbols
    messages: list[bytes]
    psnr_db: F64
    kept: Bools

    @property
    def num_bytes(self) -> I64:
        """Of each message."""
        return _sizes(self.messages)

    def of(self, images: npt.NDArray[np.integer]) -> Coded:
        """Those of some images, given by number."""
        messages = [self.messages[i] for i in images.tolist()]
        return Coded(
            self.qualities[images],
            self.symbols.of(images),
            messages,
            self.psnr_db[images],
            self.kept[images],
        )


def image_psnr_db(pixels: U8, decoded: U8) -> F64:
    """PSNR of each image, uint8 (N, 28, 28); NO_ERROR_DB where there is no error."""
    sse = np.square(pixels.astype(np.int32) - decoded).sum(axis=(1, 2))
    return np.array([10 * math.log10(255**2 * 784 / e) if e else NO_ERROR_DB for e in sse.tolist()])


def coded(model: Model, pixels: U8, qualities: I64, symbols: Symbols, target: Target) -> Coded:
    """What comes of symbols of uint8 (N, 28, 28), N >= 1."""
    messages, psnr_db = model.pack(symbols, 1).messages, image_psnr_db(pixels, symbols.pixels)
    return Coded(qualities, symbols, messages, psnr_db, target.holds(_sizes(messages), psnr_db))


def _sizes(messages: list[bytes]) -> I64:
    return np.array([len(message) for message in messages], np.int64)


def card_curve(model: BaseModel, figure: str) -> tuple[list[float], list[float]]:
    """Qualities, increasing, and what each gives by the curve in the model's card; both empty if
    that does not say enough.
    """
    rows = model.figures.get("curve")
    points = {}
    for row in rows if isinstance(rows, list) else ():
        at, value = (row.get("quality"), row.get(figure)) if isinstance(row, dict) else (None, None)
        if (
            isinstance(at, int | float)
            and isinstance(value, int | float)
            and math.isfinite(at)
            and math.isfinite(value)
        ):
            points[float(at)] = float(value)  # a card is a stranger's text
    qualities = sorted(points) if len(points) > 1 else []
    return qualities, [points[at] for at in qualities]


def _octaves(num_bytes: npt.ArrayLike) -> F64:
    return np.log2(8 * np.clip(num_bytes, 0, 1e6) + 1.0)


def _curve(model: BaseModel, target: Target) -> tuple[float, F64]:
    """What is wanted, and what the qualities 0..MAX_QUALITY give by the model's card, never
    falling: in dB or octaves of bits.
    """
    if target.min_psnr is not None:
        qualities, values = card_curve(model, "psnr_db")
        wanted, curve, slope = (
            min(target.min_psnr, MOST_DB),
            np.clip(values, 0, MOST_DB),
            DB_A_QUALITY,
        )
    else:
        qualities, values = card_curve(model, "bytes")
        wanted, curve, slope = (
            float(_octaves(target.max_bytes or 0)),
            _octaves(values),
            OCTAVES_A_QUALITY,
        )
    steps = np.arange(MAX_QUALITY + 1.0)
    if not qualities:
        return wanted, np.asarray(wanted + slope * (steps - FIRST_QUALITY), np.float64)
    return wanted, np.maximum.accumulate(np.interp(steps, qualities, curve)) + 1e-6 * steps


def first_quality(models: Sequence[BaseModel], target: Target) -> int:
    """Where the search begins if one of several models may suit an image: what most images would
    need, in the median of them.
    """
    wanted = [np.interp(*_curve(model, target), np.arange(MAX_QUALITY + 1)) for model in models]
    return round(sorted(wanted)[len(wanted) // 2])


def _values(model: Model, pixels: U8, symbols: Symbols, target: Target) -> tuple[F64, Bools]:
    """What a try gave, in dB or octaves of bits; whether it keeps the promise."""
    if target.min_psnr is not None:
        psnr_db = image_psnr_db(pixels, symbols.pixels)
        return np.minimum(psnr_db, MOST_DB), target.holds(np.zeros(0, np.int64), psnr_db)
    messages = model.pack(symbols, 1).messages
    # A message is a number without leading zeros: its size in bits tells more than its bytes.
    bits = np.array([int.from_bytes(message, "big").bit_length() for message in messages])
    return _octaves(bits / 8), target.holds(_sizes(messages), np.zeros(0))


def search(
    model: BaseModel,
    pixels: U8,
    target: Target,
    first: int | None = None,
    symbols: Symbols | None = None,
    step: int = 1,
) -> Coded:
    """Of each image, uint8 (N, 28, 28), N >= 1, its own quality that suits the target; `kept` is
    False where none does.

    All is tried at effort 1. first: the quality to try first; symbols: what the model makes of the
    images at that quality, if this is known. step: of the qualities only MAX_QUALITY, MAX_QUALITY -
    step .. are tried, but for the first.
    """
    assert isinstance(model, Model)
    # more: with higher qualities promises are broken, not kept
    n, more = len(pixels), target.max_bytes is not None
    wanted, curve = _curve(model, target)
    # too low or just right; too high or just right
    low, high = np.full(n, -1), np.full(n, MAX_QUALITY + 1)
    low_value, high_value = np.zeros(n), np.zeros(n)
    qualities = np.full(n, first_quality([model], target) if first is None else first)
    waiting, kept = np.arange(n), np.zeros(n, np.bool_)
    found_qualities = qualities.copy()
    tried = model.symbols(pixels, qualities) if symbols is None else symbols
    found = tried.of(waiting)
    for tries in itertools.count(1):
        values, keeps = _values(model, pixels[waiting], tried, target)
        take = keeps | ~kept[waiting]  # the last that keeps the promise, or the last of all
        found.put(waiting[take], tried.of(np.flatnonzero(take)))
        found_qualities[waiting[take]] = qualities[take]
        kept[waiting] |= keeps
        rises = keeps == more
        for bound, bound_value, some in ((low, low_value, rises), (high, high_value, ~rises)):
            bound[waiting[some]], bound_value[waiting[some]] = qualities[some], values[some]
        going = (_grid_above(low, step) < high)[waiting]
        waiting, qualities, values = waiting[going], qualities[going], values[going]
        if not len(waiting):
            return coded(model, pixels, found_qualities, found, target)
        below, above = low[waiting], high[waiting]
        if tries < GUESSED_TRIES:
            guess = np.interp(curve[qualities] + wanted - values, curve, np.arange(MAX_QUALITY + 1))
            enclosed = (below >= 0) & (above <= MAX_QUALITY)
            rise = np.maximum(high_value[waiting] - low_value[waiting], 1e-6)
            line = below + (wanted - low_value[waiting]) / rise * (above - below)
            guess = np.rint(np.where(enclosed, line, guess))
        else:
            guess = (below + above) // 2
        guess = MAX_QUALITY - step * np.rint((MAX_QUALITY - guess) / step)
        qualities = np.clip(guess, _grid_above(below, step), _grid_below(above, step)).astype(
            np.int64
        )
        tried = model.symbols(pixels[waiting], qualities)
    raise AssertionError


def _grid_above(quality: I64, step: int) -> I64:
    """The lowest of MAX_QUALITY, MAX_QUALITY - step .. that is above a quality."""
    return quality + 1 + (MAX_QUALITY - quality - 1) % step


def _grid_below(quality: I64, step: int) -> I64:
    """The highest of them that is below it."""
    return quality - 1 - (quality - 1 - MAX_QUALITY) % step


def refine(model: BaseModel, pixels: U8, found: Coded, target: Target, effort: int) -> Coded:
    """What `effort` makes of uint8 (N, 28, 28), N >= 1, at the qualities found, where that suits
    the target better.
    """
    assert isinstance(model, Model)
    more = coded(
        model, pixels, found.qualities, model.symbols(pixels, found.qualities, effort), target
    )
    take = np.flatnonzero(better(target, found, more))
    symbols = found.symbols.of(np.arange(len(pixels)))
    symbols.put(take, more.symbols.of(take))
    return coded(model, pixels, found.qualities, symbols, target)


def better(target: Target, one: Coded, other: Coded) -> Bools:
    """For each image, whether the other of two suits the target better; not if they are equal."""

    def badness(coded: Coded) -> list[tuple[bool, float, float]]:
        sizes, losses = coded.num_bytes.tolist(), (-coded.psnr_db).tolist()
        first, second = (losses, sizes) if target.max_bytes is not None else (sizes, losses)
        return list(zip((~coded.kept).tolist(), first, second, strict=True))

    return np.array([b < a for a, b in zip(badness(one), badness(other), strict=True)], np.bool_)
