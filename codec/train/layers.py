"""The layer of all networks that are trained here: in float, made to become integers.

READ ME FIRST
- An activation of 1.0 here is the integer ACTIVATION_UNIT in `codec.model.layers`, and every
  activation is clipped to the range of that integer from the first step on: the network never
  learns what its integers cannot hold.
- Once `quantized` is set, the weights are rounded to their integer grid in the forward pass; the
  gradient is that of the unrounded ones (straight-through).
- The rate enters as `basis(log2 lambda)`: a layer marked `film` owns, for each of its channels, a
  small polynomial in log2 lambda that scales it and one that shifts it. Exported, a polynomial
  becomes a row of integers for each quality.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.model.ladder_parts import MAX_LOG2_LMBDA, MIN_LOG2_LMBDA
from codec.model.layers import ACTIVATION_MAX, ACTIVATION_UNIT

LIMIT = ACTIVATION_MAX / ACTIVATION_UNIT  # |activation| <= LIMIT
NUM_BASIS = 5  # Chebyshev polynomials T0..T4 of log2 lambda


def basis(log2_lmbda: Tensor) -> Tensor:
    """log2 lambda (N,) -> Chebyshev polynomials of it, scaled to -1..1 (N, NUM_BASIS)."""
    q = (log2_lmbda - MIN_LOG2_LMBDA) / (MAX_LOG2_LMBDA - MIN_LOG2_LMBDA) * 2 - 1
    rows = [torch.ones_like(q), q]
    while len(rows) < NUM_BASIS:
        rows.append(2 * q * rows[-1] - rows[-2])
    return torch.stack(rows, 1)


class _Round(torch.autograd.Function):
    """Rounding whose gradient is that of the identity."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad


def ste_round(x: Tensor) -> Tensor:
    """round(x) with the gradient of x."""
    return _Round.apply(x)


class Layer(nn.Module):
    """(weight * x + bias + shift(q)) * scale(q): the float side of `layers.Layer`.

    kind: "dense" (N, K) -> (N, O); "point" 1x1 over (N, 7, 7, K); "conv" 3x3 over the same.
    """

    def __init__(
        self,
        kind: str,
        inputs: int,
        outputs: int,
        *,
        gain: float = 1.0,
        film: bool = False,
        position_bias: bool = False,
    ) -> None:
        super().__init__()
        self.kind, self.film, self.quantized = kind, film, False
        self.weight_max = 127  # largest |integer| that a weight may become
        shape = (outputs, inputs, 3, 3) if kind == "conv" else (outputs, inputs)
        self.weight = nn.Parameter(torch.randn(shape) * gain * math.sqrt(2 / math.prod(shape[1:])))
        self.bias = nn.Parameter(torch.zeros((49, outputs) if position_bias else (outputs,)))
        if film:
            self.shift, self.scale = (
                nn.Parameter(torch.zeros(outputs, NUM_BASIS)) for _ in range(2)
            )
        # What the rows of a bundle have beyond the polynomials, (ROWS, O): `warm_start.exact`.
        self.register_buffer("shift_rest", None)
        self.register_buffer("scale_rest", None)

    def rows(self, b: Tensor) -> tuple[Tensor, Tensor]:
        """basis (N, NUM_BASIS) -> shift (N, O), scale (N, O), the latter positive.

        With rests, b is what `warm_start.exact_basis` gives.
        """
        if self.shift_rest is None:
            return b @ self.shift.T, torch.exp(b @ self.scale.T)
        polynomials, rows = b[:, :NUM_BASIS], b[:, NUM_BASIS:]
        return (
            polynomials @ self.shift.T + rows @ self.shift_rest,
            torch.exp(polynomials @ self.scale.T + rows @ self.scale_rest),
        )

    def weight_step(self) -> Tensor:
        """The weight that integer 1 stands for, for each output (O,)."""
        w, bias = self.weight.detach().flatten(1).abs(), self.bias.detach().abs()
        largest = (
            w.sum(1) * ACTIVATION_MAX + (bias.amax(0) if bias.ndim == 2 else bias) * ACTIVATION_UNIT
        )
        # What the file can hold, and no accumulator beyond 2**24, with 10 % left for shifts and
        # roundings.
        return torch.maximum(w.amax(1) / self.weight_max, largest / (0.9 * 2**24)).clamp_min(1e-9)

    def used_weight(self) -> Tensor:
        """The weight, rounded to its integer grid once `quantized` is set."""
        if not self.quantized:
            return self.weight
        step = self.weight_step()
        step = step.view(step.shape + (1,) * (self.weight.ndim - step.ndim))
        return ste_round(self.weight / step) * step

    def forward(self, x: Tensor, b: Tensor | None = None) -> Tensor:
        w, dtype = self.used_weight().to(x.dtype), x.dtype
        if self.kind == "conv":
            y = F.conv2d(
                x.permute(0, 3, 1, 2), w.contiguous(memory_format=torch.channels_last), padding=1
            )
            y = y.permute(0, 2, 3, 1)
        elif self.film or self.bias.ndim == 2:
            y = F.linear(x, w)
        else:
            return F.linear(x, w, self.bias.to(dtype))
        bias = self.bias.view(7, 7, -1) if self.bias.ndim == 2 else self.bias
        if not self.film:
            return y + bias.to(dtype)
        shift, scale = self.rows(b) if x.ndim == 2 else (r[:, None, None] for r in self.rows(b))
        if bias.ndim == 3:
            return (y + bias.to(dtype) + shift.to(dtype)) * scale.to(dtype)
        return torch.addcmul(((bias + shift) * scale).to(dtype), y, scale.to(dtype))


def rectify(x: Tensor) -> Tensor:
    """Clip to 0..LIMIT (hardtanh: its backward is one pass, that of clamp five)."""
    return F.hardtanh(x, 0.0, LIMIT)


def clip(x: Tensor) -> Tensor:
    """Clip to -LIMIT..LIMIT."""
    return F.hardtanh(x, -LIMIT, LIMIT)


def layers_of(net: nn.Module) -> Iterator[Layer]:
    """All layers of a network."""
    return (module for module in net.modules() if isinstance(module, Layer))
