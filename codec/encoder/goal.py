"""Goals: limits that every image must keep, at whatever quality.

    AtMostBytes    a limit of payload bytes (`--max-bytes`): the best quality that fits
    AtLeastPsnr    a limit of dB (`--min-psnr`): the lowest quality that reaches it

Both are checked on what was really encoded: the bytes of messages, and the PSNR of decoded pixels.
How a quality is found: `search`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from codec import metrics
from codec.arrays import F64, I64, PIXELS, U8, Bools
from codec.format.constants import MAX_QUALITY
from codec.model import card
from codec.model.base import Coder

NO_ERROR_DB = 200.0  # stands for the PSNR of an image without error
FIRST_QUALITY = 50  # to try with a model whose card has no curve
# What one step of quality does by such a model: octaves of bytes, dB.
OCTAVES_A_QUALITY, DB_A_QUALITY = 0.04, 0.18
MOST_DB = 99.0  # more is as good for a guess


class Goal(ABC):
    """A limit that each image must keep; `str` says which, for messages.

    The *value* of an image, dB or octaves of bits, grows with its quality, evenly enough to guess
    the next quality from it. lossless_keeps: whether an image coded without loss keeps the goal;
    broken_above: whether too high qualities break it, rather than too low ones.
    """

    lossless_keeps: bool
    broken_above: bool

    @abstractmethod
    def holds(self, num_bytes: I64, psnr_db: F64) -> Bools:
        """For each image, whether it keeps the goal."""

    @abstractmethod
    def order(self, num_bytes: I64, psnr_db: F64) -> tuple[list[float], list[float]]:
        """Two numbers for each image: of two tries that keep the goal, the better one has the lower
        first number, or, if they are equal, the lower second one.
        """

    @abstractmethod
    def values(self, coder: Coder, pixels: U8, symbols: Any) -> tuple[F64, Bools]:
        """For each image, the value that a try gave, and whether it keeps the goal."""

    @property
    @abstractmethod
    def wanted(self) -> float:
        """The value at which the goal is just kept."""

    @abstractmethod
    def _curve(self, coder: Coder) -> tuple[F64, F64]:
        """Qualities, and the values that they give by the coder's card."""

    _a_quality: float  # of value, if the card says nothing

    def curve(self, coder: Coder) -> F64:
        """The values that the qualities 0..MAX_QUALITY give by the coder's card, rising."""
        qualities, values = self._curve(coder)
        steps = np.arange(MAX_QUALITY + 1.0)
        if not len(qualities):
            return np.asarray(self.wanted + self._a_quality * (steps - FIRST_QUALITY), np.float64)
        return np.maximum.accumulate(np.interp(steps, qualities, values)) + 1e-6 * steps

    def first_quality(self, coders: Sequence[Coder]) -> int:
        """The quality to try first: by their cards, the median of what the coders need."""
        steps = np.arange(MAX_QUALITY + 1)
        found = sorted(np.interp(self.wanted, self.curve(coder), steps) for coder in coders)
        return round(found[len(found) // 2])


@dataclass(frozen=True)
class AtMostBytes(Goal):
    """At most `max_bytes` bytes of payload."""

    max_bytes: int

    lossless_keeps = False
    broken_above = True
    _a_quality = OCTAVES_A_QUALITY

    def __str__(self) -> str:
        return f"max_bytes allows {self.max_bytes}"

    def holds(self, num_bytes: I64, psnr_db: F64) -> Bools:
        return np.asarray(num_bytes <= self.max_bytes)

    def order(self, num_bytes: I64, psnr_db: F64) -> tuple[list[float], list[float]]:
        return (-psnr_db).tolist(), num_bytes.tolist()

    def values(self, coder: Coder, pixels: U8, symbols: Any) -> tuple[F64, Bools]:
        messages = coder.pack(symbols, 1)
        # A message is a number without leading zeros: its size in bits is finer than in bytes.
        bits = np.array([int.from_bytes(message, "big").bit_length() for message in messages])
        return _octaves(bits / 8), self.holds(sizes(messages), np.zeros(0))

    @property
    def wanted(self) -> float:
        return float(_octaves(self.max_bytes))

    def _curve(self, coder: Coder) -> tuple[F64, F64]:
        qualities, values = card.curve(coder.figures, "bytes")
        return qualities, _octaves(values)


@dataclass(frozen=True)
class AtLeastPsnr(Goal):
    """At least `min_psnr` dB."""

    min_psnr: float

    lossless_keeps = True
    broken_above = False
    _a_quality = DB_A_QUALITY

    def __str__(self) -> str:
        return f"min_psnr asks for {self.min_psnr:g} dB"

    def holds(self, num_bytes: I64, psnr_db: F64) -> Bools:
        return np.asarray(psnr_db >= self.min_psnr)

    def order(self, num_bytes: I64, psnr_db: F64) -> tuple[list[float], list[float]]:
        return num_bytes.tolist(), (-psnr_db).tolist()

    def values(self, coder: Coder, pixels: U8, symbols: Any) -> tuple[F64, Bools]:
        psnr_db = image_psnr_db(pixels, symbols.pixels)
        return np.minimum(psnr_db, MOST_DB), self.holds(np.zeros(0, np.int64), psnr_db)

    @property
    def wanted(self) -> float:
        return min(self.min_psnr, MOST_DB)

    def _curve(self, coder: Coder) -> tuple[F64, F64]:
        qualities, values = card.curve(coder.figures, "psnr_db")
        return qualities, np.clip(values, 0, MOST_DB)


def image_psnr_db(pixels: U8, decoded: U8) -> F64:
    """PSNR of each image, uint8 (N, 28, 28); NO_ERROR_DB where there is no error."""
    return psnr_of_errors(metrics.squared_errors(pixels, decoded))


def psnr_of_errors(squared_errors: I64) -> F64:
    """The same, from the squared error of each image."""
    found = (metrics.psnr_db(error, PIXELS) for error in squared_errors.tolist())
    return np.array([NO_ERROR_DB if db is None else db for db in found])


def sizes(messages: list[bytes]) -> I64:
    """Bytes of each message."""
    return np.array([len(message) for message in messages], np.int64)


def _octaves(num_bytes: npt.ArrayLike) -> F64:
    return np.log2(8 * np.clip(num_bytes, 0, 1e6) + 1.0)
