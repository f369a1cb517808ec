"""The quality that keeps a promise: at most so many bytes of payload (`--max-bytes`), or at least so many dB (`--min-psnr`).

READ ME FIRST
- What counts is what was encoded: bytes of the messages that the coder wrote, PSNR of the pixels that the decoder shows.
  Nothing is estimated but the quality to try next, so a promise that cannot be kept comes out as such.
- For `max_bytes` the result is a quality that fits while the next one does not; for `min_psnr` one that reaches while the one
  before does not. Bytes and PSNR of a single image need not be monotone in the quality, so a better one may exist elsewhere.
- Images are tried side by side, those of one quality in one pass of the network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from codec.bitstream import MAX_QUALITY
from codec.bundle import BaseModel
from codec.errors import UsageError
from codec.groups import U8, Encoded

F64 = npt.NDArray[np.float64]

FIRST_QUALITY = 50
# What one step of quality does, before two tries of an image have told: octaves of bytes, dB.
OCTAVES_A_QUALITY, DB_A_QUALITY = 0.04, 0.18
NO_ERROR_DB = 200.0  # stands for the PSNR of an image without error


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
        return f"at least {self.min_psnr:g} dB" if self.max_bytes is None else f"at most {self.max_bytes} bytes"


class Coded(NamedTuple):
    """One image encoded for itself."""

    quality: int
    message: bytes
    pixels: U8  # (28, 28), decoded
    psnr_db: float
    kept: bool


def image_psnr_db(pixels: U8, decoded: U8) -> F64:
    """PSNR of each image, uint8 (N, 28, 28); NO_ERROR_DB where there is no error."""
    sse = np.square(pixels.astype(np.int32) - decoded).sum(axis=(1, 2))
    return np.array([10 * math.log10(255**2 * 784 / e) if e else NO_ERROR_DB for e in sse.tolist()])


def code(model: BaseModel, pixels: U8, quality: int, target: Target, effort: int = 1) -> list[Coded]:
    """Encode each image of uint8 (N, 28, 28), N >= 1, for itself."""
    return coded(pixels, model.encode(pixels, quality, group=1, effort=effort), quality, target)


def coded(pixels: U8, encoded: Encoded, quality: int, target: Target) -> list[Coded]:
    """What was made of each image of uint8 (N, 28, 28), N >= 1; `encoded` has one image a group."""
    psnr_db = image_psnr_db(pixels, encoded.pixels)
    kept = target.holds(np.array([len(message) for message in encoded.messages]), psnr_db)
    return [Coded(quality, *one) for one in zip(encoded.messages, encoded.pixels, psnr_db.tolist(), kept.tolist(), strict=True)]


class _Bracket:
    """The search of one quality: the nearest ones known to keep the promise and to break it, and the next to try."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._slope = DB_A_QUALITY if target.max_bytes is None else OCTAVES_A_QUALITY
        self._low, self._high = -1, MAX_QUALITY + 1  # too low in quality or just right; too high or just right
        self._last: tuple[int, float] | None = None
        self._tries = 0
        self.best: Coded | None = None  # the last that keeps it
        self.worst: Coded | None = None  # the last that does not
        self.next = FIRST_QUALITY

    @property
    def done(self) -> bool:
        return self._high - self._low <= 1

    def take(self, tried: Coded) -> None:
        """Learn from a try at quality `next`."""
        max_bytes, quality, kept = self._target.max_bytes, tried.quality, tried.kept
        if kept:
            self.best = tried
        else:
            self.worst = tried
        if kept == (max_bytes is not None):  # with room for more
            self._low = quality
        else:
            self._high = quality
        if max_bytes is None:
            value, wanted = min(tried.psnr_db, 99.0), float(self._target.min_psnr or 0)
        else:
            value, wanted = math.log2(len(tried.message) + 0.5), math.log2(max_bytes + 0.5)
        if self._last is not None and self._last[0] != quality:
            slope = (value - self._last[1]) / (quality - self._last[0])
            self._slope = min(max(slope, self._slope / 3), self._slope * 3)
        self._last = quality, value
        self._tries += 1
        step = (wanted - value) / self._slope
        guess = quality + (math.floor(step) if max_bytes is not None else math.ceil(step))
        if self._tries > 4:  # the curve has a kink: halve what is left
            guess = (self._low + self._high) // 2
        self.next = min(max(guess, self._low + 1), self._high - 1)


def search(model: BaseModel, pixels: U8, target: Target, effort: int) -> list[Coded]:
    """Of each image, uint8 (N, 28, 28), its own quality that suits the target, encoded; `kept` is False where none does.

    The quality is searched at effort 1. What `effort` gives at that quality is taken where it keeps the promise and is better.
    """
    brackets = [_Bracket(target) for _ in pixels]
    waiting = list(range(len(pixels)))
    while waiting:
        by_quality: dict[int, list[int]] = {}
        for i in waiting:
            by_quality.setdefault(brackets[i].next, []).append(i)
        for quality, chosen in by_quality.items():
            for i, tried in zip(chosen, code(model, pixels[chosen], quality, target), strict=True):
                brackets[i].take(tried)
        waiting = [i for i in waiting if not brackets[i].done]
    results = [bracket.best or bracket.worst for bracket in brackets]
    found = [one for one in results if one is not None]
    assert len(found) == len(pixels)
    if effort > 1:
        for quality in sorted({one.quality for one in found if one.kept}):
            chosen = [i for i, one in enumerate(found) if one.kept and one.quality == quality]
            for i, refined in zip(chosen, code(model, pixels[chosen], quality, target, effort), strict=True):
                found[i] = better(target, found[i], refined)
    return found


def better(target: Target, one: Coded, other: Coded) -> Coded:
    """The one of two that suits the target better; the first if they are equal."""
    def badness(coded: Coded) -> tuple[bool, float, float]:
        size = len(coded.message)
        return (not coded.kept, -coded.psnr_db, size) if target.max_bytes is not None else (not coded.kept, size, -coded.psnr_db)

    return min(one, other, key=badness)

