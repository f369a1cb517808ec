"""The lossy model as a float network that is trained to become an integer one.

READ ME FIRST
- Features are (N, 7, 7, C): one vector for each 4x4 patch of pixels. `codec.model.ladder` holds the
  same network as exact integers in the layout (C, 49, N); `codec.train.lossy.export` carries the
  weights over.
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
from torch import Tensor, nn

from codec.arrays import SIDE
from codec.model.ladder_parts import MAX_LOG2_LMBDA, MAX_SIGMA, MIN_LOG2_LMBDA
from codec.model.layers import ACTIVATION_UNIT
from codec.train.layers import NUM_BASIS, Layer, basis, clip, layers_of, rectify, ste_round

# of a residual in steps: below this, the noise that stands for rounding dominates
MIN_SIGMA = 0.11


@dataclass(frozen=True)
class Config:
    """Sizes of a network; the defaults are those of the shipped models."""

    channels: int = 96
    hidden: int = 48  # channels inside a `Residual`
    head: int = 64  # channels inside a prior or a posterior
    dense_latents: int = 32
    latents: tuple[int, ...] = (4, 6, 8)  # channels of each 7x7 level
    analysis_residuals: int = 3
    synthesis_residuals: tuple[int, ...] = (1, 2, 2, 2)  # before each 7x7 level, after the last


class Residual(nn.Module):
    """t + f(t), f being 1x1 to fewer channels (the rate enters here), 3x3, 1x1 back."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        c, h = config.channels, config.hidden
        self.reduce = Layer("point", c, h, film=True)
        self.spatial = Layer("conv", h, h, position_bias=True)
        self.restore = Layer("point", h, c, gain=0.1)

    def forward(self, t: Tensor, b: Tensor) -> Tensor:
        return clip(t + self.restore(rectify(self.spatial(rectify(self.reduce(t, b))))))


def residuals(count: int, config: Config) -> nn.ModuleList:
    return nn.ModuleList(Residual(config) for _ in range(count))


def normal_bits(v: Tensor, sigma: Tensor) -> Tensor:
    """-log2 of the normal density (0, sigma) integrated over v - 1/2 .. v + 1/2."""
    v = v.abs()
    mass = _normal_below((0.5 - v) / sigma) - _normal_below((-0.5 - v) / sigma)
    return -torch.log2(mass.clamp_min(1e-6))


def _normal_below(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(x * -(2**-0.5))


def quantize(y: Tensor, mean: Tensor, log_sigma: Tensor, hard: bool) -> tuple[Tensor, Tensor]:
    """-> y_hat, bits of each element.

    hard: bits of the rounded latents; else those of y under uniform noise.
    """
    sigma = torch.exp(log_sigma).clamp(MIN_SIGMA, MAX_SIGMA)
    residual = y - mean
    rounded = ste_round(residual)
    v = rounded if hard else residual + torch.rand_like(residual) - 0.5
    return mean + rounded, normal_bits(v, sigma)


class Level(nn.Module):
    """One 7x7 level: a prior from the features so far, a posterior from these and the analysis, and
    the merge of the latents into the features.
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
        mean = self.prior_mean(h, b).float() * gain
        log_sigma = self.prior_sigma(h, b).float() + log_gain
        y = self.posterior1(rectify(self.posterior0(torch.cat([e, t], 3), b)), b).float() * gain
        y_hat, bits = quantize(y, mean, log_sigma, hard)
        return clip(t + self.merge(clip(y_hat / gain).to(t.dtype))), bits.sum((1, 2, 3))


def initial_gain(k: int) -> Tensor:
    """Coefficients (k, NUM_BASIS) of log gain: it grows as lambda**0.35, from 1 at the smallest
    lambda.
    """
    gain = torch.zeros(k, NUM_BASIS)
    gain[:, :2] = 0.35 * math.log(2) * (MAX_LOG2_LMBDA - MIN_LOG2_LMBDA) / 2
    return gain


class LadderNet(nn.Module):
    """Analysis and synthesis transforms with their entropy model.

    mean_image: (28, 28), 0..255, subtracted before analysis and added after synthesis.
    """

    def __init__(self, mean_image: Tensor, config: Config = Config()) -> None:
        super().__init__()
        c, k = config.channels, config.dense_latents
        self.config = config
        self.register_buffer("mean_image", mean_image.float())
        self.dtype = torch.float32
        self.input = Layer("point", 16, c, gain=0.7, position_bias=True)
        self.analysis = residuals(config.analysis_residuals, config)
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
        self.synthesis = nn.ModuleList(
            residuals(count, config) for count in config.synthesis_residuals
        )
        self.levels = nn.ModuleList(Level(n, config) for n in config.latents)
        self.output = Layer("point", c, 16, gain=0.3, position_bias=True)

    def set_quantized(self, quantized: bool) -> None:
        """Round the weights of every layer to their integer grid, or stop doing so."""
        for layer in layers_of(self):
            layer.quantized = quantized

    def forward(
        self, pixels: Tensor, log2_lmbda: Tensor, *, hard: bool, dense_only: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """pixels (N, 28, 28) in 0..255, log2_lmbda (N,) -> x_hat (N, 28, 28) unclipped, and for
        each level its bits (N,).

        hard: count the bits of rounded latents, not of noisy ones. dense_only: skip the 7x7 levels.
        """
        n, b = len(pixels), basis(log2_lmbda)
        x = patches((pixels - self.mean_image) * (4 / ACTIVATION_UNIT)).to(self.dtype)
        e = clip(self.input(x))
        for residual in self.analysis:
            e = residual(e, b)
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
            for residual in stage:
                t = residual(t, b)
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
    return x.view(-1, 7, 7, 4, 4).permute(0, 1, 3, 2, 4).reshape(-1, SIDE, SIDE)
