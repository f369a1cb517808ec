"""A trained `PixelNet` -> the file of the model (FORMAT.md 8).  `warm_start` is the inverse."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec.coding import rans
from codec.model.layers import ACTIVATION_MAX, ACTIVATION_UNIT, MULTIPLIER_BITS
from codec.model.pixels import Pixels
from codec.model.pixels_parts import EXP_ENTRIES, FLAG_MAX, LOGIT_UNIT, NEIGHBOURS, TABLE_BITS
from codec.train.bundle import Tensors, integers, pack_bundle
from codec.train.layers import Layer
from codec.train.lossless.pixels import PixelNet, SumsNet


def export(net: PixelNet, card: dict[str, Any]) -> bytes:
    """-> bundle bytes."""
    return pack_bundle(integer_tensors(net), card, Pixels.ARCHITECTURE)


@torch.no_grad()
def integer_tensors(net: PixelNet) -> Tensors:
    """All tensors of the bundle."""
    net = net.float().cpu()
    flag, value = net.flag, net.value
    tensors: Tensors = _layer("flag.window", flag.window, 1 << TABLE_BITS) | _layer(
        "flag.logit", flag.logit, LOGIT_UNIT
    )
    tensors |= _layer("value.input", value.input, 1 << TABLE_BITS) | _layer(
        "head", value.head, LOGIT_UNIT
    )
    for i, (link, hidden) in enumerate(zip(value.links, value.hidden, strict=True)):
        tensors |= _layer(f"links.{i}", link, ACTIVATION_UNIT) | _layer(
            f"hidden.{i}", hidden, ACTIVATION_UNIT
        )
    tensors |= _sums("flag.sums", flag.sums) | _sums("value.sums", value.sums)
    for part in ("position", "top", "left"):
        tensors[f"flag.{part}.table"] = _table(getattr(flag, part))
    for part in ("position", "palette"):
        tensors[f"value.{part}.table"] = _table(getattr(value, part))
    tensors["value.flagged.table"] = _table(value.flagged[None])
    near = torch.round(value.near * ACTIVATION_UNIT).clamp(-ACTIVATION_MAX, ACTIVATION_MAX)
    tensors["value.near.table"] = integers(near.view(len(NEIGHBOURS), 256, -1), np.int16)
    tensors["palette.logits.table"] = integers(torch.round(value.biases() * LOGIT_UNIT), np.int16)
    tensors["palette.costs.table"] = net.tables.costs
    tensors["palette.freq"] = net.tables.freq
    # Everything that is not linear, as tables.
    logits = np.arange(-FLAG_MAX, FLAG_MAX + 1) / LOGIT_UNIT
    zero_freq = np.rint(rans.TOTAL / (1 + np.exp(logits))).clip(1, rans.TOTAL - 1)
    exp = np.rint(rans.TOTAL * np.exp(-np.arange(EXP_ENTRIES) / LOGIT_UNIT))
    for name, values in (("flag.zero_freq", zero_freq), ("exp", exp)):
        tensors[name] = values.astype(np.int32)
    return tensors


def _sums(name: str, sums: SumsNet) -> Tensors:
    return {
        f"{name}.{part}.table": _table(getattr(sums, part)) for part in ("ink", "shade", "count")
    }


def _table(table: Tensor) -> Any:
    return integers(torch.round(table * 2**TABLE_BITS), np.int16)


def _layer(name: str, layer: Layer, unit: float) -> Tensors:
    """Integer layer whose 1.0 is ACTIVATION_UNIT going in and `unit` coming out."""
    step = layer.weight_step()
    multiplier = torch.round(step * (unit / ACTIVATION_UNIT) * 2**MULTIPLIER_BITS)
    if multiplier.max() > 2**MULTIPLIER_BITS:
        raise ValueError(
            f"{name}: a multiplier of {multiplier.max() / 2**MULTIPLIER_BITS:.2f} is more than 1"
        )
    return {
        f"{name}.weight": integers(
            torch.round(layer.weight / step[:, None]),
            np.int8 if layer.weight_max < 128 else np.int16,
        ),
        f"{name}.bias": integers(torch.round(layer.bias * ACTIVATION_UNIT / step), np.int32),
        f"{name}.shift": np.zeros((1, len(step)), np.int32),
        f"{name}.multiplier": integers(multiplier.clamp_min(1), np.int32)[None],
    }
