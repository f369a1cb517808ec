"""The figures of a model's card.  They are not checked: any of them can be missing or wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from codec.arrays import F64


def curve(figures: dict[str, Any], figure: str) -> tuple[F64, F64]:
    """Qualities, increasing, and the `figure` ("bytes", "psnr_db") that each gives; both empty
    where the card has fewer than two.
    """
    rows = figures.get("curve")
    points = dict(
        (float(row["quality"]), float(row[figure]))
        for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, dict) and _is_number(row.get("quality")) and _is_number(row.get(figure))
    )
    qualities = sorted(points) if len(points) > 1 else []
    return np.array(qualities, np.float64), np.array([points[q] for q in qualities], np.float64)


def psnr_db(figures: dict[str, Any], quality: int) -> float | None:
    """PSNR in dB that a quality gives on images like the training images; None: not in the card."""
    qualities, values = curve(figures, "psnr_db")
    return float(np.interp(quality, qualities, values)) if len(qualities) else None


def near_lossless(figures: dict[str, Any]) -> list[tuple[int, float, float]]:
    """(largest error, bytes, dB) of each near-lossless coding by the lossless model with its name;
    [] if the card has none.
    """
    rows = figures.get("near_lossless")
    return [
        (int(row["max_error"]), float(row["bytes"]), float(row["psnr_db"]))
        for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, dict)
        and all(_is_number(row.get(key)) for key in ("max_error", "bytes", "psnr_db"))
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
