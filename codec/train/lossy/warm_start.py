"""A model of integers -> the float network that it stands for: the inverse of `export`.

READ ME FIRST
- The network comes back as a function, not as the parameters it once had. The integers do not tell
  how much of a weight is scale, so the scale is assumed to be 1 in the middle of its range. The
  mean image is in the biases, so any will do: that of the new images is used.
- Rows by quality were a polynomial in log2 lambda before they were rounded, and become one again by
  least squares.
- `exact` keeps what the polynomials miss, as rests beside them: the network is then the model's at
  every quality, but for the rounding of activations. This is for training an encoder alone, whose
  decoder must be the shipped one.
- The CDF tables are not used: export calibrates new ones.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from codec.arrays import F64
from codec.errors import BadModel
from codec.model.bundle import Model, unpack_bundle
from codec.model.ladder import Ladder
from codec.model.ladder_parts import (
    DEQUANTIZED_UNIT,
    DEQUANTIZER_BITS,
    MIN_SIGMA,
    NUM_SIGMAS,
    PIXEL_UNIT,
    STEP_UNIT,
    log2_lmbda,
)
from codec.model.layers import ACTIVATION_UNIT, MULTIPLIER_BITS, POSITIONS, ROW_STEP, ROWS, Integers
from codec.train.bundle import set_to
from codec.train.layers import Layer, basis
from codec.train.lossy.export import SIGMA_STEP
from codec.train.lossy.network import Config, LadderNet, Residual

# (ROWS, B)
BASIS: F64 = basis(
    torch.tensor([log2_lmbda(q) for q in range(0, ROWS * ROW_STEP, ROW_STEP)]).double()
).numpy()
FITS = 1000  # rounds of `fit` where rows were clipped


def ladder(model: Model, mean_image: Tensor, *, keep_rests: bool = False) -> LadderNet:
    """The lossy network of a model and its encoder.

    mean_image: (28, 28), 0..255, of the images that it will be trained on. keep_rests: see `exact`.
    Raises EncoderNotFound; BadModel, also if the model is no lossy one, or of sizes that no network
    here can have.
    """
    if not isinstance(model, Ladder):
        raise BadModel(
            f"architecture {model.ARCHITECTURE!r}: training can only start from a lossy model, "
            f"{Ladder.ARCHITECTURE!r}"
        )
    tensors = unpack_bundle(model.stream)[1] | unpack_bundle(model.encoder.stream)[1]
    net = LadderNet(mean_image, _config(tensors))
    try:
        _Bundle(tensors, keep_rests).fill(net)
    except (RuntimeError, KeyError) as error:
        raise BadModel(f"its sizes are those of no network that can be trained: {error}") from error
    return net


class Exact(NamedTuple):
    """A network that is a model's at every quality, and its tables by quality, (ROWS, K) each."""

    net: LadderNet
    log_gains: list[Tensor]  # of each level: steps of quantization in 1.0
    dense_mean: Tensor  # in steps
    dense_row: Tensor


def exact(model: Model, mean_image: Tensor) -> Exact:
    """The lossy network of a model and its encoder, with exactly their rows by quality.

    Its layers need `exact_basis` instead of `basis`. Raises as `ladder`.
    """
    net = ladder(model, mean_image, keep_rests=True)
    tensors = unpack_bundle(model.stream)[1]

    def table(name: str) -> Tensor:
        return torch.tensor(tensors[name].astype(np.float32))

    names = ["dequantizer", *(f"levels.{i}.dequantizer" for i in range(len(net.levels)))]
    return Exact(
        net,
        [torch.tensor(log_gain_of(tensors[name])).float() for name in names],
        table("prior_mean") / STEP_UNIT,
        table("prior_sigma"),
    )


def exact_basis(quality: Tensor) -> Tensor:
    """Basis of log2 lambda and weights of the table rows: (N, B + ROWS).

    quality: (N,), 0..99, not necessarily whole.
    """
    numbers = torch.arange(ROWS, device=quality.device)
    rows = (1 - (quality[:, None] / ROW_STEP - numbers).abs()).clamp_min(0)
    log2 = torch.as_tensor(log2_lmbda(quality))  # type: ignore[arg-type]
    return torch.cat([basis(log2), rows], 1)


def log_gain_of(dequantizer: Integers) -> F64:
    """Dequantizers (ROWS, K) -> log of the steps of quantization that make 1.0."""
    gain: F64 = np.log(DEQUANTIZED_UNIT / STEP_UNIT / (dequantizer / 2**DEQUANTIZER_BITS))
    return gain


def _config(tensors: dict[str, Integers]) -> Config:
    def count(prefix: str) -> int:
        depth = prefix.count(".") + 1
        return len({name.split(".")[depth] for name in tensors if name.startswith(prefix + ".")})

    channels = len(tensors["input.weight"])
    hidden = next((len(w) for name, w in tensors.items() if name.endswith("reduce.weight")), 1)
    levels = [f"levels.{i}" for i in range(count("levels"))]
    return Config(
        channels=channels,
        hidden=hidden,
        head=len(tensors[f"{levels[0]}.posterior0.weight"]) if levels else 1,
        dense_latents=tensors["prior_mean"].shape[1],
        latents=tuple(len(tensors[f"{level}.posterior1.weight"]) for level in levels),
        analysis_residuals=count("analysis"),
        synthesis_residuals=tuple(count(f"synthesis.{i}") for i in range(len(levels) + 1)),
    )


class _Bundle:
    """Tensors of a bundle on their way into a network: `export.integer_tensors`, line by line, in
    reverse.
    """

    def __init__(self, tensors: dict[str, Integers], keep_rests: bool) -> None:
        self._tensors = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
        self._keep_rests = keep_rests

    @torch.no_grad()
    def fill(self, net: LadderNet) -> None:
        # channel, position
        mean = net.mean_image.view(7, 4, 7, 4).permute(1, 3, 0, 2).reshape(16, POSITIONS)
        mean = mean.double().numpy() * (PIXEL_UNIT / ACTIVATION_UNIT)
        self.put("input", net.input)
        net.input.bias += torch.tensor(self.weight @ mean).T  # the bundle's input is not centred
        for i, residual in enumerate(net.analysis):
            self.put_residual(f"analysis.{i}", residual)
        self.put("squeeze", net.squeeze)
        log_gain = self.put_gain("dequantizer", net.gain)
        self.put("posterior0", net.posterior0)
        by_channel = net.posterior0.weight.view(len(net.posterior0.weight), -1, POSITIONS)
        set_to(
            net.posterior0.weight, by_channel.transpose(1, 2).reshape(net.posterior0.weight.shape)
        )
        self.put("posterior1", net.posterior1, unit=STEP_UNIT, extra_log_scale=log_gain)
        set_to(net.prior_mean, fit(self._tensors["prior_mean"] / STEP_UNIT * np.exp(-log_gain)))
        log_sigma = fit(self._tensors["prior_sigma"], 0, NUM_SIGMAS - 1) * SIGMA_STEP
        log_sigma[:, 0] += math.log(MIN_SIGMA)
        set_to(net.prior_sigma, log_sigma - net.gain.double().numpy())
        self.put("start0", net.start0, input_unit=DEQUANTIZED_UNIT)
        self.put("start1", net.start1)
        set_to(net.start1.bias, net.start1.bias.view(-1, POSITIONS).T.reshape(-1))
        by_position = net.start1.weight.view(-1, POSITIONS, net.start1.weight.shape[1]).transpose(
            0, 1
        )
        set_to(net.start1.weight, by_position.reshape(net.start1.weight.shape))
        self.put("widen", net.widen)
        for i, stage in enumerate(net.synthesis):
            for j, residual in enumerate(stage):
                self.put_residual(f"synthesis.{i}.{j}", residual)
        for i, level in enumerate(net.levels):
            log_gain = self.put_gain(f"levels.{i}.dequantizer", level.gain)
            in_steps: dict[str, Any] = {"unit": STEP_UNIT, "extra_log_scale": log_gain}
            self.put(f"levels.{i}.posterior0", level.posterior0)
            self.put(f"levels.{i}.posterior1", level.posterior1, **in_steps)
            self.put(f"levels.{i}.prior0", level.prior0)
            self.put(f"levels.{i}.prior_mean", level.prior_mean, **in_steps)
            self.put(f"levels.{i}.merge", level.merge, input_unit=DEQUANTIZED_UNIT)
            self.put(
                f"levels.{i}.prior_sigma",
                level.prior_sigma,
                unit=1 / SIGMA_STEP,
                extra_shift=log_gain - math.log(MIN_SIGMA),
            )
        self.put("output", net.output, unit=ACTIVATION_UNIT / PIXEL_UNIT)
        net.output.bias -= torch.tensor(mean).T

    def put(
        self,
        name: str,
        layer: Layer,
        *,
        unit: float = ACTIVATION_UNIT,
        input_unit: float = ACTIVATION_UNIT,
        extra_shift: F64 | float = 0.0,
        extra_log_scale: F64 | float = 0.0,
    ) -> None:
        """Fill a layer from the integers under a name.

        extra_...: (ROWS, O), what `export` added to the rows by quality.
        """
        weight, bias, shift, multiplier = (
            self._tensors[f"{name}.{p}"] for p in ("weight", "bias", "shift", "multiplier")
        )
        # of a sum
        log_scale = np.log(multiplier / 2**MULTIPLIER_BITS * (input_unit / unit)) - extra_log_scale
        step = np.exp(log_scale.mean(axis=0))  # (O,): the weight that integer 1 stands for
        per_sum = input_unit / step
        self.weight = weight * step.reshape(-1, *[1] * (weight.ndim - 1))
        set_to(layer.weight, self.weight)
        set_to(layer.bias, (bias / per_sum[:, None]).T if bias.ndim == 2 else bias / per_sum)
        if layer.film:
            log_scale = log_scale - np.log(step)
            set_to(layer.scale, fit(log_scale))
            shift = shift / per_sum - extra_shift / np.exp(log_scale)
            set_to(layer.shift, fit(shift))
            if self._keep_rests:
                layer.shift_rest = rest(shift, layer.shift)
                layer.scale_rest = rest(log_scale, layer.scale)

    def put_residual(self, name: str, residual: Residual) -> None:
        self.put(f"{name}.reduce", residual.reduce)
        self.put(f"{name}.spatial", residual.spatial)
        self.put(f"{name}.restore", residual.restore)

    def put_gain(self, name: str, gain: nn.Parameter) -> F64:
        """-> log gain (ROWS, K) as the network has it now."""
        log_gain = log_gain_of(self._tensors[name])
        # where `export` clips
        widest = math.log(DEQUANTIZED_UNIT / STEP_UNIT / (2**24 / 2**DEQUANTIZER_BITS))
        coefficients = fit(log_gain, low=widest)
        set_to(gain, coefficients)
        rows: F64 = log_gain if self._keep_rests else BASIS @ coefficients.T
        return rows


def fit(rows: F64, low: float = -np.inf, high: float = np.inf) -> F64:
    """Rows by quality (ROWS, K) -> coefficients of `basis` (K, B).

    Rows at `low` or `high` were clipped there: they may have been any smaller, or any larger.
    """
    solve = np.linalg.pinv(BASIS)
    coefficients = solve @ rows
    clipped_low, clipped_high = rows <= low, rows >= high
    if clipped_low.any() or clipped_high.any():
        for _ in range(FITS):
            found = BASIS @ coefficients
            target = np.where(
                clipped_low,
                np.minimum(found, low),
                np.where(clipped_high, np.maximum(found, high), rows),
            )
            coefficients = solve @ target
    return coefficients.T


def rest(rows: F64, coefficients: Tensor) -> Tensor:
    """The rows by quality less the polynomials with these coefficients (K, B): (ROWS, K)."""
    return torch.tensor(rows - BASIS @ coefficients.detach().double().numpy().T).float()
