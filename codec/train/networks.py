"""The ladder of latents as a float network that is trained to become an integer one.

READ ME FIRST
- Features are (N, 7, 7, C): one vector for each 4x4 patch of pixels. `codec.model.ladder` holds the
  same network as exact integers in the layout (C, 49, N); `codec.train.lossy.export` carries the
  weights over.
- An activation of 1.0 here is the integer ACTIVATION_UNIT there, and every activation is clipped to
  the range that the integer can hold, from the first step on: the integers are no surprise to the
  network.
- The rate enters as `basis(log2 lambda)`: every layer marked `film` owns, for each of its channels,
  a small polynomial in log2 lambda that scales and shifts it. Exported, a polynomial becomes a row
  of integers for each quality.
- Latents are coded as round(y - mean) in units of 1 / gain: one network, every rate.

Ladder of latents with priors from the levels above: Kingma et al. arXiv:1606.04934, Duan et al.
arXiv:2208.13056; gains for variable rate: Cui et al. arXiv:2003.02012; noise as quantization: Balle
et al. arXiv:1611.01704; straight-through rounding for the synthesis: Minnen and Singh
arXiv:2007.08739.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.model.ladder import MAX_LOG2_LMBDA, MAX_SIGMA, MIN_LOG2_LMBDA
from codec.model.layers import ACTIVATION_MAX, ACTIVATION_UNIT

LIMIT = ACTIVATION_MAX / ACTIVATION_UNIT  # |activation| <= LIMIT
NUM_BASIS = 5  # Chebyshev polynomials T0..T4 of log2 lambda
# of a residual in steps: below, the noise that stands for rounding is all there is
MIN_SIGMA = 0.11


@dataclass(frozen=True)
class Config:
    """Sizes of a network; the defaults are those of the shipped models."""

    channels: int = 96
    hidden: int = 48  # channels inside a block
    head: int = 64  # channels inside a prior or a posterior
    dense_latents: int = 32
    latents: tuple[int, ...] = (4, 6, 8)  # channels of each 7x7 level
    analysis_blocks: int = 3
    synthesis_blocks: tuple[int, ...] = (1, 2, 2, 2)  # before each 7x7 level and after the last


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


class Block(nn.Module):
    """Residual block: 1x1 to fewer channels (the rate enters here), 3x3, 1x1 back."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        c, h = config.channels, config.hidden
        self.reduce = Layer("point", c, h, film=True)
        self.spatial = Layer("conv", h, h, position_bias=True)
        self.restore = Layer("point", h, c, gain=0.1)

    def forward(self, t: Tensor, b: Tensor) -> Tensor:
        return clip(t + self.restore(rectify(self.spatial(rectify(self.reduce(t, b))))))


def blocks(count: int, config: Config) -> nn.ModuleList:
    return nn.ModuleList(Block(config) for _ in range(count))


def normal_bits(v: Tensor, sigma: Tensor) -> Tensor:
    """-log2 of the normal density (0, sigma) integrated over v - 1/2 .. v + 1/2."""
    v = v.abs()
    half_erfc = lambda x: 0.5 * torch.erfc(x * -(2**-0.5))  # noqa: E731
    mass = half_erfc((0.5 - v) / sigma) - half_erfc((-0.5 - v) / sigma)
    return -torch.log2(mass.clamp_min(1e-6))


def quantize(y: Tensor, mean: Tensor, log_sigma: Tensor, hard: bool) -> tuple[Tensor, Tensor]:
    """-> y_hat, bits (of each element).  hard: the bits of what is coded; else those of y under
    uniform noise.
    """
    sigma = torch.exp(log_sigma).clamp(MIN_SIGMA, MAX_SIGMA)
    residual = y - mean
    rounded = ste_round(residual)
    v = rounded if hard else residual + torch.rand_like(residual) - 0.5
    return mean + rounded, normal_bits(v, sigma)


class Level(nn.Module):
    """One 7x7 level: prior from the features so far, posterior from those and the analysis, merge
    of the latents.
    """

    def __init__(self, k: int, config: Config) -> None:
        super().__init__()
        c, hidden = config.channels, config.head
        self.posterior0 = Layer("point", 2 * c, hidden, film=True)
        self.posterior1 = Layer("point", hidden, k, gain=0.3, film=True, position_bias=True)
        self.prior0 = Layer("point", c, hidden, position_bias=True)
        self.prior_mean = Layer("point", hidden, k, gain=0.1, film=True, position_bias=True)
        self.prior_sigma = Layer("point", hidden, k, gain=0.1, film=True, position_bias=True)
        self.merge = Layer("point", k, c, gain=0.5)
        self.gain = nn.Parameter(initial_gain(k))

    def forward(self, e: Tensor, t: Tensor, b: Tensor, hard: bool) -> tuple[Tensor, Tensor]:
        log_gain = (b @ self.gain.T)[:, None, None]
        gain = torch.exp(log_gain)
        h = rectify(self.prior0(t))
        mean, log_sigma = (
            self.prior_mean(h, b).float() * gain,
            self.prior_sigma(h, b).float() + log_gain,
        )
        y = self.posterior1(rectify(self.posterior0(torch.cat([e, t], 3), b)), b).float() * gain
        y_hat, bits = quantize(y, mean, log_sigma, hard)
        return clip(t + self.merge(clip(y_hat / gain).to(t.dtype))), bits.sum((1, 2, 3))


def initial_gain(k: int) -> Tensor:
    """Coefficients (k, NUM_BASIS) of log gain: it grows as lambda**0.35,
    1 at the smallest lambda.
    """
    gain = torch.zeros(k, NUM_BASIS)
    gain[:, :2] = 0.35 * math.log(2) * (MAX_LOG2_LMBDA - MIN_LOG2_LMBDA) / 2
    return gain


class Ladder(nn.Module):
    """Analysis and synthesis transforms with their entropy model.

    mean_image: int (28, 28), 0..255, subtracted before analysis and added after synthesis.
    """

    def __init__(self, mean_image: Tensor, config: Config = Config()) -> None:
        super().__init__()
        c, k = config.channels, config.dense_latents
        self.config = config
        self.register_buffer("mean_image", mean_image.float())
        self.dtype = torch.float32
        self.input = Layer("point", 16, c, gain=0.7, position_bias=True)
        self.analysis = blocks(config.analysis_blocks, config)
        self.squeeze = Layer("point", c, 16)
        self.posterior0 = Layer("dense", 16 * 49, 256, film=True)
        self.posterior1 = Layer("dense", 256, k, film=True)
        self.prior_mean, self.prior_sigma = (
            nn.Parameter(torch.zeros(k, NUM_BASIS)) for _ in range(2)
        )
        self.gain = nn.Parameter(initial_gain(k))
        self.start0 = Layer("dense", k, 256, film=True)
        self.start1 = Layer("dense", 256, 16 * 49)
        self.widen = Layer("point", 16, c, position_bias=True)
        self.synthesis = nn.ModuleList(blocks(count, config) for count in config.synthesis_blocks)
        self.levels = nn.ModuleList(Level(n, config) for n in config.latents)
        self.output = Layer("point", c, 16, gain=0.3, position_bias=True)

    def set_quantized(self, quantized: bool) -> None:
        """Round the weights of every layer to their integer grid, or stop doing so."""
        for module in self.modules():
            if isinstance(module, Layer):
                module.quantized = quantized

    def forward(
        self, pixels: Tensor, log2_lmbda: Tensor, *, hard: bool, dense_only: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """pixels (N, 28, 28) in 0..255, log2_lmbda (N,) -> x_hat (N, 28, 28) unclipped, bits (N,)
        of each level.

        hard: count the bits of rounded latents, not of noisy ones. dense_only: the 7x7 levels stay
        silent.
        """
        n, b = len(pixels), basis(log2_lmbda)
        x = patches((pixels - self.mean_image) * (4 / ACTIVATION_UNIT)).to(self.dtype)
        e = clip(self.input(x))
        for block in self.analysis:
            e = block(e, b)
        h = rectify(self.squeeze(e)).reshape(n, -1)
        y = self.posterior1(rectify(self.posterior0(h, b)), b).float()
        log_gain = b @ self.gain.T
        gain = torch.exp(log_gain)
        y_hat, bits = quantize(
            y * gain, b @ self.prior_mean.T * gain, b @ self.prior_sigma.T + log_gain, hard
        )
        rates = [bits.sum(1)]
        h = rectify(self.start0(clip(y_hat / gain).to(self.dtype), b))
        t = clip(self.widen(rectify(self.start1(h)).view(n, 7, 7, 16)))
        for i, stage in enumerate(self.synthesis):
            for block in stage:
                t = block(t, b)
            if i < len(self.levels) and not dense_only:
                t, bits = self.levels[i](e, t, b, hard)
                rates.append(bits)
        x_hat = self.output(t).float() * (ACTIVATION_UNIT / 4)
        return unpatches(x_hat) + self.mean_image, rates


def patches(x: Tensor) -> Tensor:
    """(N, 28, 28) -> (N, 7, 7, 16): channel 4 * y + x of a patch is its pixel (y, x)."""
    return x.view(-1, 7, 4, 7, 4).permute(0, 1, 3, 2, 4).reshape(-1, 7, 7, 16)


def unpatches(x: Tensor) -> Tensor:
    """Inverse of `patches`."""
    return x.view(-1, 7, 7, 4, 4).permute(0, 1, 3, 2, 4).reshape(-1, 28, 28)
