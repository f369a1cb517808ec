"""What a quality stands for: a row of a lossy model's tables, or a largest error.

READ ME FIRST
- Up to the default a quality is the row of the same number: lossy images decode many times faster.
- Above, 99 is a largest error of 1, and the qualities between go there in equal steps of octaves of
  bytes. Each is the row or the bound that gives the most PSNR for its bytes, by the figures on the
  card of the encoder: of the lossy model and of the lossless one with its name.
- A card without figures of the lossless model leaves the rows as they are.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from codec.format.constants import MAX_ERROR, MAX_QUALITY, NEAR_LOSSLESS
from codec.model import card
from codec.model.base import Coder

LAST_ROW = 75  # the qualities after it may be near-lossless
LEAST_GAIN = 1.0  # dB an octave of bytes: rows gain 4 to 5


class Coding(NamedTuple):
    """A quality in a stream, and what an image takes and gives at it."""

    quality: int
    num_bytes: float
    psnr_db: float


def codings(figures: dict[str, Any]) -> list[int]:
    """The quality in a stream of each of the qualities 0 .. MAX_QUALITY.  figures: of a card."""
    rows = list(range(MAX_QUALITY + 1))
    near = [
        Coding(NEAR_LOSSLESS + bound, num_bytes, psnr_db)
        for bound, num_bytes, psnr_db in card.near_lossless(figures)
        if 1 <= bound <= MAX_ERROR and num_bytes > 0
    ]
    (qualities, sizes), psnr_curve = card.curve(figures, "bytes"), card.curve(figures, "psnr_db")
    if not near or not len(qualities) or not len(psnr_curve[0]) or sizes.min() <= 0:
        return rows
    above = np.arange(LAST_ROW, MAX_QUALITY + 1)
    octaves = np.interp(above, qualities, np.log2(sizes))
    psnr_db = np.interp(above, *psnr_curve)
    lossy = map(Coding, above.tolist(), np.exp2(octaves).tolist(), psnr_db.tolist())
    first, *others = lossy
    useful = [first]
    for coding in sorted([*others, *near], key=lambda one: (one.num_bytes, -one.psnr_db)):
        more = np.log2(coding.num_bytes / useful[-1].num_bytes)
        if more > 0 and coding.psnr_db > useful[-1].psnr_db + LEAST_GAIN * more:
            useful.append(coding)
    sizes = np.log2([coding.num_bytes for coding in useful])
    wanted = np.linspace(sizes[0], sizes[-1], len(above))[1:]
    nearest = np.abs(sizes[:, None] - wanted).argmin(axis=0)
    return rows[: LAST_ROW + 1] + [useful[at].quality for at in accumulate(nearest.tolist(), max)]


def coding_of(coder: Coder, quality: int) -> int:
    """The quality in a stream that a quality stands for, if `coder` was chosen."""
    if LAST_ROW < quality <= MAX_QUALITY:
        return codings(coder.figures)[quality]
    return quality
