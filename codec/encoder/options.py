"""The options of the encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from codec.encoder.goal import NO_ERROR_DB, AtLeastPsnr, AtMostBytes, Goal
from codec.errors import UsageError
from codec.format.constants import LOSSLESS_QUALITY, MAX_ERROR, NEAR_LOSSLESS, max_error_of
from codec.model.ladder_search import MAX_EFFORT
from codec.model.registry import AUTO, name_or_file

DEFAULT_QUALITY = 75
DEFAULT_EFFORT = 3


class Choices(TypedDict, total=False):
    """The keyword arguments of `compress`; see there."""

    quality: int | None
    model: str | Path | None
    lossless: bool
    max_bytes: int | None
    min_psnr: float | None
    effort: int | None
    guard: bool
    max_error: int | None


OPTIONS = tuple(Choices.__annotations__)


@dataclass(frozen=True)
class Options:
    """Choices, checked.

    quality: LOSSLESS_QUALITY is lossless, NEAR_LOSSLESS + N near-lossless; not used if there is a
    goal. model: AUTO, a name or a
    file. guard: whether images that come out badly fall back.
    """

    quality: int = DEFAULT_QUALITY
    model: str = AUTO
    goal: Goal | None = None
    effort: int = DEFAULT_EFFORT
    guard: bool = True

    @classmethod
    def of(
        cls,
        quality: int | None = None,
        model: str | Path | None = AUTO,
        lossless: bool = False,
        max_bytes: int | None = None,
        min_psnr: float | None = None,
        effort: int | None = None,
        guard: bool = True,
        max_error: int | None = None,
        **unknown: Any,
    ) -> Options:
        """Check choices, and fill in the defaults.  Raises UsageError, TypeError (unknown ones)."""
        for name in unknown:
            raise TypeError(f"unknown option {name!r}; the options are {', '.join(OPTIONS)}")
        goal: Goal | None = None
        if max_bytes is not None:
            goal = AtMostBytes(whole("max_bytes", max_bytes, 0))
        if min_psnr is not None:
            if goal is not None:
                raise UsageError("give either max_bytes or min_psnr, not both")
            goal = AtLeastPsnr(_decibels("min_psnr", min_psnr))
        if goal is not None and (quality is not None or lossless):
            raise UsageError(
                "max_bytes and min_psnr choose the quality themselves: leave out quality and "
                "lossless"
            )
        if max_error is not None and (goal is not None or quality is not None or lossless):
            raise UsageError(
                "max_error stands for a quality: "
                "leave out quality, lossless, max_bytes and min_psnr"
            )
        if effort is None:
            effort = DEFAULT_EFFORT if goal is None else 1
        effort = whole("effort", effort, 1, MAX_EFFORT)
        coded = _checked_quality(quality, lossless) if max_error is None else _near(max_error)
        return cls(coded, name_or_file(model), goal, effort, guard)

    def check_embedding(self) -> None:
        """Raise UsageError if models may be used that are not embedded."""
        if self.goal is not None and self.goal.lossless_keeps:
            raise UsageError(
                "min_psnr may need a lossless model as well, which embed_model does not embed: "
                "leave out one of the two"
            )

    @property
    def lossless(self) -> bool:
        """Whether every pixel has to come back."""
        return self.goal is None and self.quality == LOSSLESS_QUALITY

    @property
    def by_pixels(self) -> bool:
        """Whether lossless models do the work: lossless or near-lossless."""
        return self.goal is None and self.quality >= LOSSLESS_QUALITY

    @property
    def max_error(self) -> int | None:
        """How much any pixel may differ; None: there is no bound."""
        return max_error_of(self.quality) if self.goal is None else None


def _checked_quality(quality: int | None, lossless: bool) -> int:
    if quality is None:
        return LOSSLESS_QUALITY if lossless else DEFAULT_QUALITY
    quality = whole("quality", quality, 0, LOSSLESS_QUALITY)
    if lossless and quality != LOSSLESS_QUALITY:
        raise UsageError(f"quality {quality} is not lossless: leave out quality or lossless=True")
    return quality


def _near(max_error: Any) -> int:
    """The near-lossless quality of a bound."""
    if max_error == 0 and not isinstance(max_error, bool):
        raise UsageError("max_error 0 keeps every pixel: that is lossless=True")
    return NEAR_LOSSLESS + whole("max_error", max_error, 1, MAX_ERROR)


def whole(name: str, value: Any, low: int, high: int | None = None) -> int:
    """The value of an option that is a whole number, of Python or numpy.  Raises UsageError."""
    is_number = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if is_number and low <= value and (high is None or value <= high):
        return int(value)
    allowed = f"of at least {low}" if high is None else f"from {low} to {high}"
    raise UsageError(f"{name} is {value!r}: give a whole number {allowed}")


def _decibels(name: str, value: Any) -> float:
    is_number = isinstance(value, int | float | np.integer | np.floating)
    if is_number and not isinstance(value, bool) and 0 <= value < NO_ERROR_DB:
        return float(value)
    raise UsageError(f"{name} is {value!r}: give a number of dB from 0 to {NO_ERROR_DB:g}")
