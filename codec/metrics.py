"""Rate and distortion.

Bytes are those of whole files, header included. PSNR is that of the mean squared error; where there
is no error it is None.
"""

from __future__ import annotations

import math

import numpy as np

from codec.arrays import F64, I64, U8

# pixels along a side: 28x28 is too small for MS-SSIM, or for a Gaussian window of 11
SSIM_WINDOW = 7


def squared_error(x: U8, x_hat: U8) -> int:
    """Sum over all pixels of (x - x_hat)**2, exact.  x, x_hat: uint8 of one shape."""
    difference = x.astype(np.int32) - x_hat
    return int(np.einsum("i,i->", difference.ravel(), difference.ravel(), dtype=np.int64))


def squared_errors(x: U8, x_hat: U8) -> I64:
    """The same of each image, int64 (N,), in half the time.  x, x_hat: (N, H, W), W up to 256."""
    # Exact: the sum of a row stays below 2**24.
    difference = np.subtract(x, x_hat, dtype=np.int16).astype(np.float32)
    rows = np.einsum("nij,nij->ni", difference, difference)
    errors: I64 = rows.astype(np.int64).sum(axis=1)
    return errors


def psnr_db(squared_error: float, num_pixels: int) -> float | None:
    """PSNR of 8-bit pixels in dB, from their summed squared error; None if there is no error."""
    return 10 * math.log10(255**2 * num_pixels / squared_error) if squared_error else None


def bpp(num_bytes: int, num_pixels: int) -> float:
    """Bits per pixel of a whole file."""
    return 8 * num_bytes / num_pixels


def ssim(x: U8, x_hat: U8) -> F64:
    """Structural similarity of each image, -1 .. 1: float64 (N,), the mean over all 7x7 windows
    inside the image.

    x, x_hat: uint8 (N, H, W), H and W at least 7. Windows are uniform, variances unbiased, K1 =
    0.01, K2 = 0.03, range 255 (Wang, Bovik, Sheikh, Simoncelli, 2004; most libraries use a uniform
    window at this size).
    """
    a, b = x.astype(np.int64), x_hat.astype(np.int64)
    n = SSIM_WINDOW**2
    sum_a, sum_b, sum_aa, sum_bb, sum_ab = map(_window_sums, (a, b, a * a, b * b, a * b))
    mean_a, mean_b = sum_a / n, sum_b / n
    var_a, var_b, covariance = (
        (n * s - p) / (n * (n - 1))
        for s, p in ((sum_aa, sum_a**2), (sum_bb, sum_b**2), (sum_ab, sum_a * sum_b))
    )
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    similarity /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    means: F64 = similarity.mean(axis=(1, 2))
    return means


def _window_sums(values: I64) -> I64:
    """Sum of each window: (N, H, W) -> (N, H - 6, W - 6)."""
    for axis in (1, 2):
        size = values.shape[axis] - SSIM_WINDOW + 1
        values = np.sum([values.take(range(i, i + size), axis) for i in range(SSIM_WINDOW)], axis=0)
    return values
