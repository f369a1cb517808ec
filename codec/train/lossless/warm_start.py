"""A lossless model of integers -> the float network that it stands for: the inverse of `export`.

Palettes belong to a data set, not to a network: a network that is trained on other images has its
own. Palettes that the bundle has as well start as they are there, the others as the average of the
bundle's. A wider network starts as the same function: nothing reads its new hidden units yet.
"""

from __future__ import annotations

import numpy as np
import torch

from codec.arrays import F64
from codec.errors import BadModel
from codec.model.bundle import unpack_bundle
from codec.model.layers import ACTIVATION_UNIT, MULTIPLIER_BITS, Integers
from codec.model.pixels import Pixels
from codec.model.pixels_parts import LOGIT_UNIT, TABLE_BITS
from codec.train.bundle import set_to
from codec.train.layers import Layer
from codec.train.lossless.pixels import PixelConfig, PixelNet

SAME_COSTS = 2  # the costs of one palette may differ by this: clusters are found in floating point


def config_of(stream: bytes) -> PixelConfig:
    """Sizes of the network of a bundle.  Raises BadModel if it is not a lossless model."""
    tensors = _tensors(stream)
    return PixelConfig(
        hidden=tensors["head.weight"].shape[1],
        layers=sum(name.startswith("hidden.") and name.endswith(".weight") for name in tensors),
        links=len(tensors["links.0.weight"]),
        sums=tensors["value.sums.ink.table"].shape[1],
        embedding=tensors["value.near.table"].shape[2],
        flag=tensors["flag.sums.ink.table"].shape[1],
        weight_bits=8 * tensors["head.weight"].dtype.itemsize,
    )


@torch.no_grad()
def fill(net: PixelNet, stream: bytes) -> None:
    """Give `net` the weights of a bundle; its palettes stay its own.

    net: of the sizes that `config_of` gives, or wider. Raises BadModel.
    """
    tensors = {name: tensor.astype(np.float64) for name, tensor in _tensors(stream).items()}
    _widen(tensors, net.config.hidden)
    flag, value = net.flag, net.value
    try:
        _fill_layer(flag.window, tensors, "flag.window", 1 << TABLE_BITS)
        _fill_layer(flag.logit, tensors, "flag.logit", LOGIT_UNIT)
        _fill_layer(value.input, tensors, "value.input", 1 << TABLE_BITS)
        _fill_layer(value.head, tensors, "head", LOGIT_UNIT)
        for i, (link, hidden) in enumerate(zip(value.links, value.hidden, strict=True)):
            _fill_layer(link, tensors, f"links.{i}", ACTIVATION_UNIT)
            _fill_layer(hidden, tensors, f"hidden.{i}", ACTIVATION_UNIT)
        for name, sums in (("flag", flag.sums), ("value", value.sums)):
            for part in ("ink", "shade", "count"):
                set_to(getattr(sums, part), tensors[f"{name}.sums.{part}.table"] / 2**TABLE_BITS)
        for part in ("position", "top", "left"):
            set_to(getattr(flag, part), tensors[f"flag.{part}.table"] / 2**TABLE_BITS)
        set_to(value.position, tensors["value.position.table"] / 2**TABLE_BITS)
        set_to(value.flagged, tensors["value.flagged.table"][0] / 2**TABLE_BITS)
        set_to(value.near, tensors["value.near.table"].reshape(value.near.shape) / ACTIVATION_UNIT)
        _fill_palettes(net, tensors)
    except (RuntimeError, KeyError, ValueError) as error:
        raise BadModel(f"its sizes are those of no network that can be trained: {error}") from error


def _widen(tensors: dict[str, F64], hidden: int) -> None:
    """Add hidden units up to `hidden`, which nothing reads.

    Each reads what some other one reads, in another order: so its weights are of a usual size.
    """
    old = tensors["head.weight"].shape[1]
    more, rng = max(hidden - old, 0), np.random.default_rng(0)
    layers = [name for name in tensors if name.endswith(".weight")]
    for name in layers:
        if name == "head.weight" or name.startswith(("links.", "hidden.")):  # it reads the units
            tensors[name] = np.insert(tensors[name], [old] * more, 0, axis=1)
    for name in layers:
        if name == "value.input.weight" or name.startswith("hidden."):  # it writes them
            rows = tensors[name][rng.integers(0, old, more)]
            tensors[name] = np.concatenate([tensors[name], rng.permuted(rows, axis=1)])
            bias = name.replace(".weight", ".bias")
            tensors[bias] = np.pad(tensors[bias], (0, more))
            step = name.replace(".weight", ".multiplier")
            tensors[step] = np.pad(tensors[step], ((0, 0), (0, more)), mode="mean")
    for part in ("position", "palette", "flagged"):
        table = f"value.{part}.table"
        tensors[table] = np.pad(tensors[table], ((0, 0), (0, more)))


def _fill_palettes(net: PixelNet, tensors: dict[str, F64]) -> None:
    table = tensors["value.palette.table"] / 2**TABLE_BITS  # (P, H)
    freq, logits = tensors["palette.freq"], net.value.palette_logits.double().numpy()
    rows = np.repeat((freq @ table / freq.sum())[None], len(logits), axis=0)
    for p, costs in enumerate(net.tables.costs):
        distance = np.abs(tensors["palette.costs.table"] - costs).max(axis=1)
        if distance.min() <= SAME_COSTS:
            rows[p] = table[distance.argmin()]
            logits[p] = tensors["palette.logits.table"][distance.argmin()] / LOGIT_UNIT
    set_to(net.value.palette, rows)
    set_to(net.value.palette_logits, logits)


def _tensors(stream: bytes) -> dict[str, Integers]:
    architecture, tensors, _ = unpack_bundle(stream)
    if architecture != Pixels.ARCHITECTURE:
        raise BadModel(
            f"architecture {architecture!r}: training can only start from a lossless model, "
            f"{Pixels.ARCHITECTURE!r}"
        )
    Pixels(stream)  # raises BadModel if anything is wrong with it
    return tensors


def _fill_layer(layer: Layer, tensors: dict[str, F64], name: str, unit: float) -> None:
    """Fill a layer whose 1.0 is ACTIVATION_UNIT going in and `unit` coming out."""
    step = tensors[f"{name}.multiplier"][0] / 2**MULTIPLIER_BITS * (ACTIVATION_UNIT / unit)
    set_to(layer.weight, tensors[f"{name}.weight"] * step[:, None])
    set_to(layer.bias, tensors[f"{name}.bias"] * step / ACTIVATION_UNIT)
