"""A trained `LadderNet` -> the files of model and encoder (FORMAT.md 7), CDF tables calibrated.

Every number that decoding depends on is made here, once, and stored. `warm_start` is the inverse.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec.arrays import F64, I32, U8
from codec.coding import rans
from codec.coding.signed import to_codes
from codec.format.constants import MODEL_HASH_BYTES
from codec.model.ladder import Ladder
from codec.model.ladder_encoder import LadderEncoder
from codec.model.ladder_parts import (
    DEQUANTIZED_UNIT,
    DEQUANTIZER_BITS,
    MAX_SIGMA,
    MAX_SYMBOLS,
    MIN_SIGMA,
    NUM_SIGMAS,
    PIXEL_UNIT,
    STEP_UNIT,
    log2_lmbda,
)
from codec.model.layers import ACTIVATION_UNIT, MULTIPLIER_BITS, POSITIONS, ROW_STEP, ROWS
from codec.train.bundle import Tensors, integers, pack_bundle
from codec.train.layers import Layer, basis
from codec.train.lossy.network import LadderNet, Residual

# of log sigma, from one row of a CDF table to the next
SIGMA_STEP = math.log(MAX_SIGMA / MIN_SIGMA) / (NUM_SIGMAS - 1)
PRIOR_COUNT = 200.0  # calibration: the normal density counts as this many observed symbols
# Parts of the names of an encoder's tensors; keys of a model's card that its encoder's has as well.
ENCODER_PARTS = {"input", "analysis", "squeeze", "posterior0", "posterior1"}
ENCODER_CARD = ("name", "trained_on", "command", "training")


def sigmas() -> F64:
    """The widths (64,) in quantization steps that the rows of a CDF table stand for."""
    return MIN_SIGMA * np.exp(SIGMA_STEP * np.arange(NUM_SIGMAS))


def export(net: LadderNet, card: dict[str, Any], pixels: U8) -> tuple[bytes, bytes]:
    """-> bytes of the model file and of its encoder's.

    pixels: uint8 (N, 28, 28), training images on which the CDF tables are calibrated.
    """
    tensors = integer_tensors(net)
    tables = np.stack([normal_cdf() for _ in range(1 + len(net.levels))])
    model = Ladder(*pack_model({**tensors, "cdf": tables}, card))
    return pack_model({**tensors, "cdf": calibrated_cdf(model, pixels)}, card)


def pack_model(tensors: Tensors, card: dict[str, Any]) -> tuple[bytes, bytes]:
    """All tensors of a lossy model and its card -> bytes of the model file and of its encoder's."""
    encoder = {name: tensor for name, tensor in tensors.items() if of_encoder(name)}
    decoder = {name: tensors[name] for name in tensors.keys() - encoder.keys()}
    stream = pack_bundle(decoder, card, Ladder.ARCHITECTURE)
    return stream, pack_encoder(encoder, stream, {k: card[k] for k in ENCODER_CARD if k in card})


def pack_encoder(tensors: Tensors, model: bytes, card: dict[str, Any]) -> bytes:
    """Tensors of an encoder -> bytes of its file.

    model: bytes of the file of its model; card: its `name`, and how the encoder was made.
    """
    model_hash = hashlib.sha256(model).hexdigest()[: 2 * MODEL_HASH_BYTES]
    return pack_bundle(tensors, {**card, "model_hash": model_hash}, LadderEncoder.ARCHITECTURE)


def of_encoder(name: str) -> bool:
    """Whether a tensor is the encoder's, as `input.weight` and `levels.1.posterior0.bias` are."""
    parts = name.split(".")
    return (parts[2] if parts[0] == "levels" else parts[0]) in ENCODER_PARTS


@torch.no_grad()
def integer_tensors(net: LadderNet) -> Tensors:
    """All tensors of both bundles but the CDF tables."""
    net = net.float().cpu()
    # (ROWS, NUM_BASIS)
    b = basis(torch.tensor([log2_lmbda(q) for q in range(0, ROWS * ROW_STEP, ROW_STEP)]))
    gains = [net.gain, *(level.gain for level in net.levels)]
    log_gain, *log_gains = (b @ gain.T for gain in gains)
    tensors = encoder_tensors(net, b, [log_gain, *log_gains])

    def put(name: str, layer: Layer, **options: Any) -> None:
        tensors.update(layer_tensors(name, layer, b, **options))

    def put_dequantizer(name: str, log_gain: Tensor) -> None:
        # A step so wide that this would pass 2**24 is wider than the range of the latents, which it
        # only switches off.
        step = torch.round(
            DEQUANTIZED_UNIT / STEP_UNIT * torch.exp(-log_gain) * 2**DEQUANTIZER_BITS
        )
        tensors[name] = integers(step.clamp(1, 2**24), np.int32)

    tensors["prior_mean"] = integers(
        torch.round(STEP_UNIT * (b @ net.prior_mean.T) * torch.exp(log_gain)), np.int32
    )
    tensors["prior_sigma"] = integers(
        torch.round(row_of(b @ net.prior_sigma.T + log_gain)).clamp(0, NUM_SIGMAS - 1), np.int32
    )
    put_dequantizer("dequantizer", log_gain)
    put("start0", net.start0, input_unit=DEQUANTIZED_UNIT)
    put("start1", _rows_by_channel(net.start1))
    put("widen", net.widen)
    for i, stage in enumerate(net.synthesis):
        for j, residual in enumerate(stage):
            tensors.update(_residual_tensors(f"synthesis.{i}.{j}", residual, b))
    for i, (level, log_gain) in enumerate(zip(net.levels, log_gains, strict=True)):
        put(f"levels.{i}.prior0", level.prior0)
        put(f"levels.{i}.merge", level.merge, input_unit=DEQUANTIZED_UNIT)
        put(f"levels.{i}.prior_mean", level.prior_mean, unit=STEP_UNIT, extra_log_scale=log_gain)
        put(
            f"levels.{i}.prior_sigma",
            level.prior_sigma,
            unit=1 / SIGMA_STEP,
            extra_shift=log_gain - math.log(MIN_SIGMA),
        )
        put_dequantizer(f"levels.{i}.dequantizer", log_gain)
    put("output", net.output, unit=ACTIVATION_UNIT / PIXEL_UNIT, offset=_mean_of_patches(net))
    return tensors


@torch.no_grad()
def encoder_tensors(net: LadderNet, b: Tensor, log_gains: list[Tensor]) -> Tensors:
    """The tensors of an encoder.

    b: the basis at each row; log_gains: log gain of each level, (ROWS, K).
    """
    tensors: Tensors = {}

    def put(name: str, layer: Layer, **options: Any) -> None:
        tensors.update(layer_tensors(name, layer, b, **options))

    centre = net.input.used_weight() @ _mean_of_patches(net)  # the bundle's input is not centred
    put("input", net.input, offset=-centre)
    for i, residual in enumerate(net.analysis):
        tensors.update(_residual_tensors(f"analysis.{i}", residual, b))
    put("squeeze", net.squeeze)
    put("posterior0", _columns_by_channel(net.posterior0))
    put("posterior1", net.posterior1, unit=STEP_UNIT, extra_log_scale=log_gains[0])
    for i, (level, log_gain) in enumerate(zip(net.levels, log_gains[1:], strict=True)):
        put(f"levels.{i}.posterior0", level.posterior0)
        put(f"levels.{i}.posterior1", level.posterior1, unit=STEP_UNIT, extra_log_scale=log_gain)
    return tensors


def layer_tensors(
    name: str,
    layer: Layer,
    b: Tensor,
    *,
    unit: float = ACTIVATION_UNIT,
    input_unit: float = ACTIVATION_UNIT,
    extra_shift: Tensor | None = None,
    extra_log_scale: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensors:
    """Integer layer whose 1.0 is the integer `input_unit` going in and `unit` coming out.

    See `train.layers.Layer`.
    """
    step = layer.weight_step()  # (O,)
    weight = torch.round(layer.weight / step.view(-1, *[1] * (layer.weight.ndim - 1)))
    per_sum = input_unit / step  # integer sums for 1.0
    shift, scale = torch.zeros(1, len(step)), torch.ones(1, len(step))
    if layer.film:
        shift, scale = layer.rows(b)
    if extra_log_scale is not None:
        scale = scale * torch.exp(extra_log_scale)
    if extra_shift is not None:  # is added after the scale
        shift = shift + extra_shift / scale
    bias = layer.bias.T if layer.bias.ndim == 2 else layer.bias
    if offset is not None:
        bias = bias + offset
    column = per_sum[:, None] if bias.ndim == 2 else per_sum
    multiplier = torch.round(scale * unit / per_sum * 2**MULTIPLIER_BITS)
    if (most := multiplier.max() / 2**MULTIPLIER_BITS) > 1:
        raise ValueError(f"{name}: a multiplier of {most:.2f} is more than 1")
    return {
        f"{name}.weight": integers(weight, np.int8),
        f"{name}.bias": integers(torch.round(bias * column), np.int32),
        f"{name}.shift": integers(torch.round(shift * per_sum), np.int32),
        f"{name}.multiplier": integers(multiplier.clamp_min(1), np.int32),
    }


def _residual_tensors(name: str, residual: Residual, b: Tensor) -> Tensors:
    return (
        layer_tensors(f"{name}.reduce", residual.reduce, b)
        | layer_tensors(f"{name}.spatial", residual.spatial, b)
        | layer_tensors(f"{name}.restore", residual.restore, b)
    )


def _mean_of_patches(net: LadderNet) -> Tensor:
    """The mean image by channel and position, as in the bundle, as an activation."""
    mean = net.mean_image.view(7, 4, 7, 4).permute(1, 3, 0, 2).reshape(16, POSITIONS)
    return mean * (PIXEL_UNIT / ACTIVATION_UNIT)


def row_of(log_sigma: Tensor) -> Tensor:
    """log sigma -> (fractional) row of a CDF table."""
    return (log_sigma - math.log(MIN_SIGMA)) / SIGMA_STEP


def _columns_by_channel(layer: Layer) -> Layer:
    """The network flattens (7, 7, C) position by position, the bundle channel by channel."""
    twin = Layer("dense", layer.weight.shape[1], len(layer.weight), film=layer.film)
    twin.bias, twin.shift, twin.scale = layer.bias, layer.shift, layer.scale
    twin.shift_rest, twin.scale_rest = layer.shift_rest, layer.scale_rest
    twin.weight.data = (
        layer.weight.view(len(layer.weight), POSITIONS, -1)
        .transpose(1, 2)
        .reshape(len(layer.weight), -1)
    )
    return twin


def _rows_by_channel(layer: Layer) -> Layer:
    twin = Layer("dense", layer.weight.shape[1], len(layer.weight), film=layer.film)
    twin.weight.data = (
        layer.weight.view(POSITIONS, -1, layer.weight.shape[1])
        .transpose(0, 1)
        .reshape(layer.weight.shape)
    )
    twin.bias.data = layer.bias.view(POSITIONS, -1).T.reshape(-1)
    return twin


def pmf_to_cdf(pmf: F64) -> I32:
    """Probabilities (symbols,), the first the largest -> cumulative frequencies (symbols + 1,),
    each at least 1.
    """
    freq = np.maximum(1, np.floor(pmf / pmf.sum() * (rans.TOTAL - len(pmf)))).astype(np.int64)
    freq[0] += rans.TOTAL - freq.sum()  # the most probable symbol can spare or take the rest
    return np.concatenate([[0], np.cumsum(freq)]).astype(np.int32)


def symbol_limit(sigma: float) -> int:
    """Largest |symbol| that a row codes: far enough out that clipping is rarer than 1 in 10**8."""
    return min((MAX_SYMBOLS - 1) // 2, math.ceil(6 * sigma + 2))


def normal_pmf(sigma: float) -> F64:
    """Normal density over -limit..limit steps, in the order 0, -1, 1, -2, 2 ...
    of FORMAT.md 5.3.
    """

    def below(x: float) -> float:
        return 0.5 * math.erfc(-x / sigma / math.sqrt(2))

    values = [0] + [s for n in range(1, symbol_limit(sigma) + 1) for s in (-n, n)]
    return np.array([max(below(v + 0.5) - below(v - 0.5), 1e-12) for v in values])


def _pad(cdf: I32) -> I32:
    return np.pad(cdf, (0, MAX_SYMBOLS + 1 - len(cdf)), mode="edge")


def normal_cdf() -> I32:
    """A table (NUM_SIGMAS, MAX_SYMBOLS + 1) of normal densities; row 0 is certain."""
    certain = np.array([0, rans.TOTAL], np.int32)
    rows = [certain, *(pmf_to_cdf(normal_pmf(sigma)) for sigma in sigmas()[1:])]
    return np.stack([_pad(row) for row in rows])


def calibrated_cdf(model: Ladder, pixels: U8) -> I32:
    """Tables (levels, NUM_SIGMAS, MAX_SYMBOLS + 1) of how often each symbol really occurs in each
    row, over all qualities.
    """
    counts = np.zeros((len(model.tables), NUM_SIGMAS, MAX_SYMBOLS))
    for share, quality in zip(np.array_split(pixels, 10), range(5, 100, 10), strict=True):
        for at in range(0, len(share), 100):
            symbols, rows, _ = model.quantize(share[at : at + 100], quality)
            for level, (s, r) in enumerate(zip(symbols, rows, strict=True)):
                np.add.at(counts[level], (r.ravel(), to_codes(s).ravel()), 1)
    tables = np.stack([table.cdf for table in model.tables]).astype(np.int32)
    for level in range(len(tables)):
        for i, sigma in enumerate(sigmas()):
            if i:
                pmf = normal_pmf(sigma)
                observed = counts[level, i, : len(pmf)] + PRIOR_COUNT * pmf / pmf.sum()
                if observed.argmax() == 0:  # the coder wants its most probable symbol first
                    tables[level, i] = _pad(pmf_to_cdf(observed))
    return tables
