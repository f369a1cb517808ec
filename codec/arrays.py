"""Names of array types, and the size of an image.

U8 I16 I32 I64   integers of this many bits, U unsigned
F32 F64          floats
Bools            a mask
Integers         integers of any width
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
I16 = npt.NDArray[np.int16]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.integer]

SIDE = 28  # rows, and columns, of an image
PIXELS = SIDE * SIDE


def distinct(values: Integers) -> list[int]:
    """The different values of an array, ascending.

    np.unique would import np.ma at its first call: a hundredth of a second of each command.
    """
    return sorted(set(values.ravel().tolist()))


def spread(count: int, size: int) -> I64:
    """`size` numbers out of 0..count-1, evenly spread, the first and the last included."""
    return np.linspace(0, count - 1, size).astype(np.int64)
