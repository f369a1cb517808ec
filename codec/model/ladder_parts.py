"""Parts of a ladder: what its networks are made of, and how each is read from a bundle.

FORMAT.md 6 and 7.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from codec.arrays import F32, I32, SIDE, U8, Integers
from codec.errors import BadModel
from codec.format.constants import MAX_QUALITY
from codec.model.bundle import Bundle
from codec.model.layers import (
    GRID,
    POSITIONS,
    ROWS,
    Layer,
    Trace,
    add,
    clipped,
    interpolate,
    limit,
    rectified,
    traced,
)

# quality 0 and MAX_QUALITY; lambda weighs the SSE of pixels in 0..1 against bits
MIN_LOG2_LMBDA, MAX_LOG2_LMBDA = 0.0, 10.0
# Rows of a CDF table: widths of the residual in steps, log-spaced. Row 0 is certain, so the first
# width must be far below what training tells apart (0.11): starting there lost 0.2 dB at quality
# 99, in latents that could not be coded at all.
MIN_SIGMA, MAX_SIGMA, NUM_SIGMAS = 0.045, 64.0, 64
# Latents and means are in 256ths of a quantization step: training gathers latents near the edge of
# rounding, so the coarser the unit, the more of them fall on the wrong side (costs on held-out
# images: in 64ths 1 % more, in 16ths 4 %).
STEP_UNIT, STEP_BITS = 256, 8
LATENT_MAX = 1 << 17
# Dequantized latents are finer than activations: at the best quality a step is four activation
# units, and rounding to one unit lost 0.15 dB. The integer that stands for 1.0, and the largest:
DEQUANTIZED_UNIT, DEQUANTIZED_MAX = 512, 4095
DEQUANTIZER_BITS = 18  # dequantizers are integers in units of 2**-18
MAX_SYMBOLS = 255
PIXEL_UNIT = 4  # a pixel enters the network as 4 * its value, at most 1020


def log2_lmbda(quality: float) -> float:
    """log2 of the trade-off weight that a quality (0..MAX_QUALITY) stands for."""
    return MIN_LOG2_LMBDA + (MAX_LOG2_LMBDA - MIN_LOG2_LMBDA) * quality / MAX_QUALITY


@dataclass(frozen=True)
class Residual:
    """Residual block: 1x1 to fewer channels (the quality enters here), 3x3, 1x1 back."""

    reduce: Layer
    spatial: Layer
    restore: Layer

    def __call__(self, t: F32, quality: int, trace: Trace | None = None) -> F32:
        h = rectified(self.reduce, t, quality, trace)
        h = rectified(self.spatial, h, quality, trace)
        return add(t, clipped(self.restore, h, quality, trace), trace)

    def check(self, c: int) -> None:
        """Raise BadModel unless it takes c channels and gives as many."""
        self.reduce.check(c)
        self.spatial.check(self.reduce.outputs)
        self.restore.check(self.spatial.outputs, c)

    def backward(self, g: F32, quality: int, trace: Trace) -> F32:
        """Gradient of the output -> gradient of t."""
        g = g * trace.pop()
        h = self.restore.transposed(g * trace.pop(), quality)
        h = self.spatial.transposed(h * trace.pop(), quality)
        return g + self.reduce.transposed(h * trace.pop(), quality)


class Dequantizer:
    """Latents in 256ths of a step -> integers in units of 1 / DEQUANTIZED_UNIT, by a table (ROWS,
    K) of the bundle.
    """

    def __init__(self, bundle: Bundle, name: str) -> None:
        self._table = table_of(bundle, name)
        if self._table.min() < 1 or self._table.max() > 1 << 24:
            raise BadModel(f"{name} is outside 1..2**24")
        self.channels: int = self._table.shape[1]
        self._multipliers: dict[int, F32] = {}

    def __call__(self, y: I32, quality: int, trace: Trace | None = None) -> F32:
        """y: int32 (K, ...), |y| < 2**24."""
        x = y.astype(np.float32) * _column(self.multiplier(quality), y.ndim)
        np.rint(x, out=x)
        limit(x, -DEQUANTIZED_MAX, DEQUANTIZED_MAX)
        return traced(x, -DEQUANTIZED_MAX, DEQUANTIZED_MAX, trace)

    def backward(self, g: F32, quality: int, trace: Trace) -> F32:
        """Gradient by the result -> gradient by latents."""
        return g * trace.pop() * _column(self.multiplier(quality), g.ndim)

    def multiplier(self, quality: int) -> F32:
        """A 256th of a step at a quality, in units of 1 / DEQUANTIZED_UNIT: float32 (K,)."""
        if quality not in self._multipliers:
            multiplier = interpolate(self._table, quality).astype(np.float32)
            self._multipliers[quality] = multiplier * np.float32(2.0**-DEQUANTIZER_BITS)
        return self._multipliers[quality]


def _column(values: F32, ndim: int) -> F32:
    """(K,) -> (K, 1, ...) of `ndim` axes."""
    return values.reshape((-1,) + (1,) * (ndim - 1))


@dataclass(frozen=True)
class Level:
    """A 7x7 level of latents: the prior from t, and how its latents change t."""

    prior0: Layer
    prior_mean: Layer
    prior_sigma: Layer
    merge: Layer
    dequantize: Dequantizer

    def check(self, c: int) -> None:
        """Raise BadModel unless its layers fit together, and fit c channels of t."""
        self.prior0.check(c)
        self.prior_mean.check(self.prior0.outputs, self.dequantize.channels)
        self.prior_sigma.check(self.prior0.outputs, self.dequantize.channels)
        self.merge.check(self.dequantize.channels, c)

    def prior(self, t: F32, quality: int, trace: Trace | None = None) -> tuple[I32, I32]:
        """-> means in 256ths, rows of the CDF table: int32 (K, 49, N)."""
        h = rectified(self.prior0, t, quality, trace)
        mean = self.prior_mean(h, quality, -LATENT_MAX, LATENT_MAX)
        row = traced(self.prior_sigma(h, quality, 0, NUM_SIGMAS - 1), 0, NUM_SIGMAS - 1, trace)
        return mean.astype(np.int32), row.astype(np.int32)

    def prior_backward(self, g_mean: F32, g_row: F32, quality: int, trace: Trace) -> F32:
        """Gradients of means and rows -> gradient of t."""
        h = self.prior_sigma.transposed(g_row * trace.pop(), quality)
        h = h + self.prior_mean.transposed(g_mean, quality)
        return self.prior0.transposed(h * trace.pop(), quality)


def patches(pixels: U8 | F32) -> F32:
    """(N, 28, 28) -> (16, 49, N): channel 4 * y + x is PIXEL_UNIT times pixel (y, x) of a patch."""
    n = len(pixels)
    cut = pixels.reshape(n, GRID, 4, GRID, 4).transpose(2, 4, 1, 3, 0).reshape(16, POSITIONS, n)
    return cut.astype(np.float32) * np.float32(PIXEL_UNIT)


def unpatches(x: F32) -> U8:
    """(16, 49, N) integers 0..255 -> uint8 (N, 28, 28)."""
    cut = x.astype(np.uint8).reshape(4, 4, GRID, GRID, -1)
    return cut.transpose(4, 2, 0, 3, 1).reshape(-1, SIDE, SIDE)


def residuals(bundle: Bundle, prefix: str) -> list[Residual]:
    """The residual blocks whose names start with `prefix`, in order."""
    return [
        Residual(
            bundle.layer(f"{prefix}.{i}.reduce", "point"),
            bundle.layer(f"{prefix}.{i}.spatial", "conv"),
            bundle.layer(f"{prefix}.{i}.restore", "point"),
        )
        for i in range(bundle.count(prefix))
    ]


def level_of(bundle: Bundle, prefix: str) -> Level:
    """The 7x7 level whose names start with `prefix`."""
    names = ("prior0", "prior_mean", "prior_sigma")
    layers = {name: bundle.layer(f"{prefix}.{name}", "point") for name in names}
    merge = bundle.layer(f"{prefix}.merge", "point", DEQUANTIZED_MAX)
    return Level(**layers, merge=merge, dequantize=Dequantizer(bundle, f"{prefix}.dequantizer"))


def table_of(bundle: Bundle, name: str) -> Integers:
    """A table by quality: (ROWS, K)."""
    table = bundle.pop(name)
    if table.ndim != 2 or len(table) != ROWS or not table.shape[1]:
        raise BadModel(f"{name} has shape {table.shape}, wanted ({ROWS}, K)")
    return table
