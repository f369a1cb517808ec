"""The options of the encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from codec.encoder.goal import AtLeastPsnr, AtMostBytes, Goal
from codec.errors import UsageError
from codec.format.constants import LOSSLESS_QUALITY, MAX_ERROR, NEAR_LOSSLESS, max_error_of
from codec.model.ladder_search import MAX_EFFORT

AUTO = "auto"  # the name that stands for all shipped models
DEFAULT_QUALITY = 75
DEFAULT_EFFORT = 3


class Choices(TypedDict, total=False):
    """The keyword arguments of `compress`; see there."""

    quality: int | None
    model: str
    lossless: bool
    max_bytes: int | None
    min_psnr: float | None
    effort: int | None
    guard: bool
    max_error: int | None


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
        model: str = AUTO,
        lossless: bool = False,
        max_bytes: int | None = None,
        min_psnr: float | None = None,
        effort: int | None = None,
        guard: bool = True,
        max_error: int | None = None,
    ) -> Options:
        """Check choices, and fill in the defaults.  Raises UsageError."""
        goal: Goal | None = None
        if max_bytes is not None:
            goal = AtMostBytes(max_bytes)
        if min_psnr is not None:
            if goal is not None:
                raise UsageError("give max_bytes or min_psnr, not both")
            goal = AtLeastPsnr(min_psnr)
        if goal is not None and (quality is not None or lossless):
            raise UsageError(
                "max_bytes and min_psnr choose the quality: leave out quality and lossless"
            )
        if max_error is not None:
            if goal is not None or quality is not None or lossless:
                raise UsageError(
                    "max_error stands for a quality: leave out quality, lossless, max_bytes and "
                    "min_psnr"
                )
            return cls(_near(max_error), model, None, _checked_effort(effort, 1), guard=False)
        effort = _checked_effort(effort, DEFAULT_EFFORT if goal is None else 1)
        return cls(_checked_quality(quality, lossless), model, goal, effort, guard)

    def check_embedding(self) -> None:
        """Raise UsageError if models may be used that are not embedded."""
        if self.goal is not None and self.goal.lossless_keeps:
            raise UsageError(
                "min_psnr may need a lossless model as well, which embed_model does not embed: "
                "leave one of the two out"
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
    if not isinstance(quality, int | np.integer) or not 0 <= quality <= LOSSLESS_QUALITY:
        raise UsageError(f"quality {quality!r}, wanted a whole number from 0 to {LOSSLESS_QUALITY}")
    if lossless and quality != LOSSLESS_QUALITY:
        raise UsageError(f"quality {quality} is not lossless: leave out quality or lossless=True")
    return int(quality)


def _checked_effort(effort: int | None, default: int) -> int:
    if effort is None:
        return default
    if not isinstance(effort, int | np.integer) or not 1 <= effort <= MAX_EFFORT:
        raise UsageError(f"effort {effort!r}, wanted a whole number from 1 to {MAX_EFFORT}")
    return int(effort)


def _near(max_error: int) -> int:
    """The near-lossless quality of a bound."""
    if isinstance(max_error, bool) or not isinstance(max_error, int | np.integer):
        raise UsageError(f"max_error {max_error!r}, wanted a whole number from 1 to {MAX_ERROR}")
    if max_error == 0:
        raise UsageError("max_error 0 keeps every pixel: that is lossless=True")
    if not 1 <= max_error <= MAX_ERROR:
        raise UsageError(f"max_error {max_error}, wanted 1 to {MAX_ERROR}")
    return NEAR_LOSSLESS + int(max_error)
