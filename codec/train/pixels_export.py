"""A trained `PixelNet` -> a bundle of integers (FORMAT.md 7)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec import rans
from codec.integer_net import ACTIVATION_UNIT, MULTIPLIER_BITS
from codec.pixel_model import EXP_ENTRIES, FLAG_MAX, GATE_UNIT, LOG_UNIT, LOGIT_UNIT, MAX_COUNT, TABLE_BITS, PixelModel
from codec.train.export import Tensors, integers, pack_bundle
from codec.train.networks import Layer
from codec.train.pixels import COUNT_SCALE, PixelNet, TrunkNet


def export(net: PixelNet, card: dict[str, Any]) -> bytes:
    """-> bundle bytes."""
    return pack_bundle(integer_tensors(net), card, PixelModel.ARCHITECTURE)


@torch.no_grad()
def integer_tensors(net: PixelNet) -> Tensors:
    """All tensors of the bundle."""
    net = net.float().cpu()
    tensors: Tensors = {}
    for name, trunk in (("flag", net.flag_trunk), ("value", net.value_trunk)):
        tensors |= {f"{name}.{part}": tensor for part, tensor in _trunk(trunk).items()}
    tensors |= _layer("flag.logit", net.flag, LOGIT_UNIT) | _layer("head", net.head, LOGIT_UNIT)
    tensors |= _layer("gates", net.gates, GATE_UNIT)
    for i, layer in enumerate(net.hidden):
        tensors |= _layer(f"hidden.{i}", layer, ACTIVATION_UNIT)
    tensors["value.flagged.table"] = _table(net.flagged)
    # Everything that is not linear, as tables.
    logits = np.arange(-FLAG_MAX, FLAG_MAX + 1) / LOGIT_UNIT
    zero_freq = np.rint(rans.TOTAL / (1 + np.exp(logits))).clip(1, rans.TOTAL - 1)
    exp = np.rint(rans.TOTAL * np.exp(-np.arange(EXP_ENTRIES) / LOGIT_UNIT))
    log_count = np.rint(LOG_UNIT * np.log1p(COUNT_SCALE * np.arange(MAX_COUNT + 1)))
    for name, values in (("flag.zero_freq", zero_freq), ("exp", exp), ("log_count", log_count)):
        tensors[name] = values.astype(np.int32)
    return tensors


def _trunk(trunk: TrunkNet) -> Tensors:
    tensors = _layer("window", trunk.window, 1 << TABLE_BITS)
    for part in ("position", "ink", "shade", "count", "first", "top", "left"):
        tensors[f"{part}.table"] = _table(getattr(trunk, part))
    tensors["neighbours.table"] = np.stack([_table(table) for table in trunk.neighbours])
    return tensors


def _table(table: Tensor) -> Any:
    return integers(torch.round(table * 2**TABLE_BITS), np.int16)


def _layer(name: str, layer: Layer, unit: float) -> Tensors:
    """Integer layer whose 1.0 is ACTIVATION_UNIT going in and `unit` coming out."""
    step = layer.weight_step()
    multiplier = torch.round(step * (unit / ACTIVATION_UNIT) * 2**MULTIPLIER_BITS)
    if multiplier.max() > 2**MULTIPLIER_BITS:
        raise ValueError(f"{name}: a multiplier of {multiplier.max() / 2**MULTIPLIER_BITS:.2f} is more than 1")
    return {
        f"{name}.weight": integers(torch.round(layer.weight / step[:, None]), np.int8),
        f"{name}.bias": integers(torch.round(layer.bias * ACTIVATION_UNIT / step), np.int32),
        f"{name}.shift": np.zeros((1, len(step)), np.int32),
        f"{name}.multiplier": integers(multiplier.clamp_min(1), np.int32)[None],
    }
