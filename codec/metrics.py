"""Rate and distortion figures. One meaning each: bytes are whole files, PSNR is that of the mean squared error."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]


def squared_error(x: U8, x_hat: U8) -> int:
    """Sum over all pixels of (x - x_hat)**2, exact.  x, x_hat: uint8 of one shape."""
    difference = x.astype(np.int32) - x_hat
    return int(np.einsum("i,i->", difference.ravel(), difference.ravel(), dtype=np.int64))


def psnr_db(squared_error: float, num_pixels: int) -> float | None:
    """Peak signal-to-noise ratio of 8-bit pixels in dB, from a summed squared error; None if there is no error."""
    return 10 * math.log10(255**2 * num_pixels / squared_error) if squared_error else None


def bpp(num_bytes: int, num_pixels: int) -> float:
    """Bits a pixel. `num_bytes` is the whole file, header included."""
    return 8 * num_bytes / num_pixels
