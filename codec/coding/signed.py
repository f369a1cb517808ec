"""Signed symbols as codes, small ones first: 0, -1, 1, -2, 2 ... are 0, 1, 2, 3, 4 ...

FORMAT.md 5.3. So a code fits a byte, and the most probable symbol, 0, stands first in its CDF row.
"""

from __future__ import annotations

import numpy as np

from codec.arrays import Integers


def to_codes(symbols: Integers) -> Integers:
    """Signed whole numbers -> their codes."""
    return np.where(symbols < 0, -2 * symbols - 1, 2 * symbols)


def from_codes(codes: Integers) -> Integers:
    """Inverse of `to_codes`.  codes: signed integers, not uint8, which has no negative ones."""
    return np.where(codes & 1, -(codes + 1) // 2, codes // 2)
