"""What lies between measured points of rate and distortion.

A curve is measured at a few qualities. `psnr_at` and `bytes_at` read it between two of them,
`bd_rate_percent` compares two curves as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

Row = dict[str, Any]  # figures of one measurement, as they become JSON
Point = tuple[float, float]  # bytes, PSNR in dB
Curve = Iterable[Mapping[str, Any]]  # rows with "bytes" and "psnr_db", None if there is no error


def points_of(curve: Curve) -> list[Point]:
    """The lossy points of a curve, the fewest bytes first."""
    return sorted((row["bytes"], row["psnr_db"]) for row in curve if row["psnr_db"] is not None)


def psnr_at(curve: Curve, num_bytes: float) -> float | None:
    """PSNR in dB at a number of bytes, on the straight line between the two nearest points; None
    outside the curve.
    """
    found = _between(points_of(curve), num_bytes)
    return None if found is None else round(found, 3)


def bytes_at(curve: Curve, psnr_db: float) -> float | None:
    """Bytes at a PSNR, with log bytes on the straight line between the two nearest points; None
    outside the curve.
    """
    found = _between(sorted((db, float(np.log(b))) for b, db in points_of(curve)), psnr_db)
    return None if found is None else float(np.exp(found))


def _between(points: list[Point], x: float) -> float | None:
    """y at `x` on the polyline through points (x, y), in order of x; None outside."""
    if not points or not points[0][0] <= x <= points[-1][0]:
        return None
    return float(np.interp(x, [at for at, _ in points], [value for _, value in points]))


def rising(points: Iterable[Point]) -> list[Point]:
    """The points with more dB than every cheaper one: what the interpolation of BD-rate needs."""
    kept: list[Point] = []
    for num_bytes, psnr_db in sorted(points):
        if not kept or psnr_db > kept[-1][1]:
            kept.append((num_bytes, psnr_db))
    return kept


def bd_rate_percent(
    anchor: Iterable[Point],
    test: Iterable[Point],
    between: Point = (-math.inf, math.inf),
) -> tuple[float | None, str]:
    """BD-rate: how many percent more bytes `test` needs than `anchor` at equal PSNR, by PCHIP.

    Negative: fewer bytes. The mean is over the PSNRs that both curves have and that lie `between`
    two. Returns the percentage, and the PSNRs it is the mean over; or None, and the reason.
    """
    anchor, test = rising(anchor), rising(test)
    if len(anchor) < 2 or len(test) < 2:
        return None, "too few points"
    low = max(anchor[0][1], test[0][1], between[0])
    high = min(anchor[-1][1], test[-1][1], between[1])
    if low >= high:
        ranges = (f"{curve[0][1]:.1f} .. {curve[-1][1]:.1f} dB" for curve in (anchor, test))
        return None, f"no overlap: {' and '.join(ranges)}"
    try:
        import bjontegaard
    except ImportError:
        return None, "pip install 'aez[bench]' (bjontegaard)"
    _, of_anchor, of_test = bjontegaard.bd_rate(  # log10 of bytes by PSNR
        *zip(*anchor, strict=True),
        *zip(*test, strict=True),
        method="pchip",
        require_matching_points=False,
        min_overlap=0,
        interpolators=True,
    )
    gap = (of_test.integrate(low, high) - of_anchor.integrate(low, high)) / (high - low)
    return round(float(100 * (10**gap - 1)), 2), f"{low:.1f} .. {high:.1f} dB"
