"""Exact integer layers on numpy, independent of the codec.  FORMAT.md 6.

READ ME FIRST
- All numbers are small integers held in float32, so that a matrix product runs at BLAS speed and is
  still exact: while every partial sum stays below 2**24 in size, float32 adds integers without
  rounding, in any order, with or without fused multiply-add, on any number of threads. `Layer`
  checks that bound with its weights.
- Features lie as (channels, positions, images), images innermost: every layer is one product over
  all images of a batch, a 3x3 neighbour is a contiguous run, and no axis is ever moved.
- After each product: rint(float32(sum + bias) * multiplier). The float32 product rounds once, to 24
  bits, and rint once more, to a whole number, ties to even; both are defined by IEEE 754, and there
  is no addition beside the product to be fused with.

Integer-only networks as the cure for decoding differences: Balle, Johnston, Minnen, ICLR 2019.
"""

from __future__ import annotations

import threading
from functools import cached_property

import numpy as np

from codec.arrays import F32, I64, Bools, Integers
from codec.errors import BadModel

GRID = 7  # positions lie on a 7x7 grid, row by row
POSITIONS = GRID * GRID
ACTIVATION_UNIT = 128  # the integer that stands for 1.0
ACTIVATION_MAX = 1023  # activations are clipped to -1023..1023
EXACT_LIMIT = 1 << 24  # float32 holds every integer up to here
ROWS, ROW_STEP = 34, 3  # tables that depend on the quality have a row for quality 0, 3, ... 99
MULTIPLIER_BITS = 24  # multipliers are integers in units of 2**-24, at most 2**24
MOST_GRADIENT_BITS = 14  # 2**14 is a number of 16 bits
# gradients below 2**-64 are as good as none, and their scale would leave float32
LEAST_EXPONENT = -64
# For so few images, a bias by position is first repeated for each: adding it takes 8 times as long
# otherwise.
_FEW_IMAGES = 16
# Numbers in numpy's buffer while a column is applied to all images. If two rows fit into it, numpy
# (2.3 and later) first copies the column to their length, which takes as long as the work itself
# (16 images) or twice as long (48). Smaller arrays take less time than changing the buffer.
_BUFFER, _BUFFERED = 64, 1 << 16


class Layer:
    """round((weight * x + bias) * multiplier), the weight applied as `kind` says.

    kind    weight          x (K, P, N)          meaning
    dense   (O, K)          (K, N) -> (O, N)     a matrix
    point   (O, K)          (K, 49, N)           the same matrix at each position
    conv    (O, K, 3, 3)    (K, 49, N)           3x3 with zeros around the grid
    row     (O, K)          (N, K) -> (N, O)     the matrix of `dense`, one image a row

    bias: int (O,) or (O, 49); shift: int (R, O), added to it; multiplier: int (R, O), in units of
    2**-MULTIPLIER_BITS. R is 1, or ROWS: then a quality has the row that `interpolate` gives.
    input_max: bound of |x|. Raises BadModel if a partial sum could reach 2**24 or a shape does not
    fit.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        weight: Integers,
        bias: Integers,
        shift: Integers,
        multiplier: Integers,
        *,
        input_max: int = ACTIVATION_MAX,
    ) -> None:
        outputs = weight.shape[0] if weight.ndim else 0
        kernel = (3, 3) if kind == "conv" else ()
        biases = [(outputs,), (outputs, POSITIONS)][: 2 if kind in ("point", "conv") else 1]
        fits = weight.ndim >= 2 and weight.size and weight.shape[2:] == kernel
        fits = fits and bias.shape in biases and shift.shape == multiplier.shape
        if not fits or shift.shape not in ((1, outputs), (ROWS, outputs)):
            raise BadModel(
                f"{name}: no {kind} layer has weight {weight.shape}, bias {bias.shape}, "
                f"shift {shift.shape}, multiplier {multiplier.shape}"
            )
        if multiplier.min() < 1 or multiplier.max() > 1 << MULTIPLIER_BITS:
            raise BadModel(f"{name}: a multiplier is outside 1..2**{MULTIPLIER_BITS}")
        # In float64, which does not wrap: exact up to 2**53, and what lies beyond is refused all
        # the same.
        size_of_weight, size_of_bias, size_of_shift = (
            np.abs(a.astype(np.float64)) for a in (weight, bias, shift)
        )
        offset = size_of_bias.reshape(outputs, -1).max(axis=1) + size_of_shift.max(axis=0)
        reach = int((size_of_weight.reshape(outputs, -1).sum(axis=1) * input_max + offset).max())
        if reach >= EXACT_LIMIT:
            raise BadModel(
                f"{name}: a sum could reach {reach}, exact arithmetic ends at {EXACT_LIMIT}"
            )
        self.name, self.kind, self.outputs, self.inputs = name, kind, outputs, weight.shape[1]
        self.weight = weight  # as it is in the file
        if kind == "conv":
            # (3 * O, 3 * K): rows of the 3x3, its columns
            weight = weight.transpose(2, 0, 3, 1).reshape(3 * outputs, -1)
        self._weight = np.ascontiguousarray(weight, np.float32)
        self._bias, self._shift, self._multiplier = (
            a.astype(np.int64) for a in (bias, shift, multiplier)
        )
        self._rows: dict[int, tuple[F32, F32]] = {}
        self._spread: tuple[int, int, F32] | None = None

    @property
    def multiply_adds(self) -> int:
        """Products of one image."""
        return int(self.weight.size) * (POSITIONS if self.kind in ("point", "conv") else 1)

    def check(self, inputs: int, outputs: int | None = None) -> None:
        """Raise BadModel unless it takes `inputs` numbers and gives `outputs`."""
        for what, found, wanted in (
            ("takes", self.inputs, inputs),
            ("gives", self.outputs, outputs),
        ):
            if wanted not in (None, found):
                raise BadModel(
                    f"{self.name} {what} {found} numbers, wanted {wanted}: "
                    "the layers do not fit together"
                )

    def rows(self, quality: int) -> tuple[F32, F32]:
        """-> bias (O, 1) or (O, 49, 1), multiplier (O, 1) at a quality."""
        if quality not in self._rows:
            shift = interpolate(self._shift, quality)
            bias = self._bias + (shift[:, None] if self._bias.ndim == 2 else shift)
            # 1..2**24 in units of 2**-24: exact in float32.
            multiplier = interpolate(self._multiplier, quality).astype(np.float32)
            multiplier *= np.float32(2.0**-MULTIPLIER_BITS)
            self._rows[quality] = bias[..., None].astype(np.float32), multiplier[..., None]
        return self._rows[quality]

    def __call__(self, x: F32, quality: int, low: int, high: int) -> F32:
        """x: integers in float32, |x| <= input_max -> integers in float32, clipped to low..high."""
        if self.kind == "row":
            bias, multiplier = self.rows(quality)
            y = x @ self._weight.T
            y += bias.T
            y *= multiplier.T
            return limit(np.rint(y, out=y), low, high)
        y = self._product(self._weight, x)  # (O, 49 * N), dense: (O, N)
        bias, multiplier = self.rows(quality)
        if bias.ndim == 3:
            if x.shape[-1] <= _FEW_IMAGES:
                y += self._spread_bias(bias, quality, x.shape[-1])
            else:
                by_position = y.reshape(self.outputs, POSITIONS, -1)
                by_position += bias
        before = np.setbufsize(_BUFFER) if y.size >= _BUFFERED else None
        try:
            if bias.ndim == 2:
                y += bias  # |y| < 2**24, exact
            y *= multiplier
        finally:
            if before is not None:
                np.setbufsize(before)
        np.rint(y, out=y)
        return limit(y, low, high).reshape(self.outputs, *x.shape[1:])

    def _spread_bias(self, bias: F32, quality: int, images: int) -> F32:
        """bias (O, 49, 1) -> (O, 49 * images); the last one is kept for random access."""
        spread = self._spread
        if spread is None or spread[:2] != (quality, images):
            self._spread = spread = quality, images, np.repeat(bias[..., 0], images, axis=1)
        return spread[2]

    def _product(self, weight: F32, x: F32) -> F32:
        """The weight, as it is kept, applied to x."""
        if self.kind != "conv":
            return weight @ x.reshape(weight.shape[1], -1)
        # Each row of the 3x3 alone, and shifted afterwards: that needs three copies of x, not nine.
        above, y, below = (weight @ _columns(x)).reshape(3, len(weight) // 3, -1)
        row = x.shape[-1] * GRID  # numbers of a channel in one row of the grid
        y[:, row:] += above[:, :-row]
        y[:, :-row] += below[:, row:]
        return y

    def transposed(self, g: F32, quality: int) -> F32:
        """Gradient by the output -> gradient by the input; rounding is ignored.  Not for "row".

        The gradient of each image (the last axis) is rounded to so many bits that all sums are
        exact: the result is the same in any order, and does not depend on other images.
        """
        g = g * self.rows(quality)[1].reshape((-1,) + (1,) * (g.ndim - 1))
        size = np.abs(g).max(axis=tuple(range(g.ndim - 1)))
        weight, bits = self._transposed, self.gradient_bits
        exponent = np.maximum(np.frexp(size)[1], LEAST_EXPONENT)
        scale = np.ldexp(np.float32(1), bits - exponent)  # |g| * scale <= 2**bits
        g *= scale
        np.rint(g, out=g)
        y = self._product(weight, g).reshape(self.inputs, *g.shape[1:])
        y /= scale
        return y

    @cached_property
    def gradient_bits(self) -> int:
        """Bits of the integers in `transposed`: no sum reaches EXACT_LIMIT, and each fits int16."""
        weight = np.abs(self.weight.astype(np.int64)).reshape(self.outputs, self.inputs, -1)
        reach = int(weight.sum(axis=(0, 2)).max())
        return min((EXACT_LIMIT // max(reach, 1)).bit_length() - 2, MOST_GRADIENT_BITS)

    @cached_property
    def _transposed(self) -> F32:
        """The matrix of `transposed`."""
        weight = self._weight.T
        if self.kind == "conv":  # (3 * O, 3 * K) -> (3 * K, 3 * O), turned by 180 degrees
            turned = self._weight.reshape(3, self.outputs, 3, self.inputs)[::-1, :, ::-1]
            weight = turned.transpose(0, 3, 2, 1).reshape(3 * self.inputs, -1)
        return np.ascontiguousarray(weight)


def interpolate(table: Integers, quality: int) -> I64:
    """Row of a table (R, O) at a quality, linear between the two nearest rows, halves rounded up;
    from 99 on the last row.
    """
    if len(table) == 1:
        return np.array(table[0], np.int64)
    row, rest = divmod(quality, ROW_STEP)
    above = table[min(row + 1, ROWS - 1)].astype(np.int64)
    thirds: I64 = table[row].astype(np.int64) * (ROW_STEP - rest) + above * rest
    return np.floor_divide(2 * thirds + ROW_STEP, 2 * ROW_STEP)


class _Scratch(threading.local):
    """The array of `_columns`, kept by each thread: fresh pages for megabytes cost more than
    filling them.
    """

    columns = np.zeros((3, 0, GRID, GRID, 0), np.float32)

    def of_shape(self, k: int, n: int) -> F32:
        if self.columns.shape[1::3] != (k, n):
            self.columns = np.zeros((3, k, GRID, GRID, n), np.float32)
        return self.columns


_scratch = _Scratch()


def _columns(x: F32) -> F32:
    """(K, 49, N) -> (3 * K, 49 * N): the grid shifted to the right, unchanged, and to the left.

    The next call in the same thread overwrites the result.
    """
    k, _, n = x.shape
    columns, grid = _scratch.of_shape(k, n), x.reshape(k, GRID, GRID, n)
    columns[0, :, :, 1:] = grid[:, :, :-1]  # the zeros beside it stay
    columns[1] = grid
    columns[2, :, :, :-1] = grid[:, :, 1:]
    return columns.reshape(3 * k, -1)


def limit(x: F32, low: int, high: int) -> F32:
    """Clip x in place; return x.  (Seven times as fast as np.minimum and np.maximum.)"""
    return x.clip(np.float32(low), np.float32(high), out=x)


# For the backward pass: which numbers were not clipped, at each clipping, in order.
Trace = list[Bools]


def traced(x: F32, low: int, high: int, trace: Trace | None) -> F32:
    """Return x, which has been clipped to low..high; add to the trace which numbers were not."""
    if trace is not None:
        trace.append((x > low) & (x < high))
    return x


def rectified(layer: Layer, x: F32, quality: int, trace: Trace | None = None) -> F32:
    """`layer` clipped to 0..ACTIVATION_MAX."""
    return traced(layer(x, quality, 0, ACTIVATION_MAX), 0, ACTIVATION_MAX, trace)


def clipped(layer: Layer, x: F32, quality: int, trace: Trace | None = None) -> F32:
    """`layer` clipped to -ACTIVATION_MAX..ACTIVATION_MAX."""
    low, high = -ACTIVATION_MAX, ACTIVATION_MAX
    return traced(layer(x, quality, low, high), low, high, trace)


def add(x: F32, y: F32, trace: Trace | None = None) -> F32:
    """x += y, clipped to -ACTIVATION_MAX..ACTIVATION_MAX; returns x."""
    x += y
    return traced(limit(x, -ACTIVATION_MAX, ACTIVATION_MAX), -ACTIVATION_MAX, ACTIVATION_MAX, trace)
