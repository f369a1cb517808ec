"""From tensors of torch to the integers and bytes of a bundle (FORMAT.md 7), and back.

Equal weights give equal bytes: tensors sorted by name, little-endian, the card as sorted JSON.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from torch import Tensor, nn

from codec.arrays import F64, Integers

Tensors = dict[str, Integers]


def integers(x: Tensor, dtype: type[np.integer[Any]]) -> Integers:
    """Round-valued tensor -> integers.  Raises ValueError if one does not fit."""
    values = x.double().numpy()
    if not (np.abs(values) <= np.iinfo(dtype).max).all():
        raise ValueError(f"a value of {np.abs(values).max()} does not fit {np.dtype(dtype)}")
    return values.astype(dtype)


def set_to(parameter: nn.Parameter, values: F64 | Tensor) -> None:
    """Set a parameter.  Raises RuntimeError if the shape is another one."""
    tensor = torch.as_tensor(values)
    if tensor.shape != parameter.shape:
        wanted = tuple(parameter.shape)
        raise RuntimeError(f"a tensor has shape {tuple(tensor.shape)}, the network needs {wanted}")
    parameter.data = tensor.to(parameter.device, parameter.dtype).clone()


def pack_bundle(tensors: Tensors, card: dict[str, Any], architecture: str) -> bytes:
    """Tensors and card -> safetensors bytes, the same for the same input."""
    metadata = {"architecture": architecture, "card": json.dumps(card, sort_keys=True)}
    stream = safetensors.numpy.save(
        {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}, metadata
    )
    # The library writes the metadata in random order: put it in ours, in the same bytes.
    end = 8 + int.from_bytes(stream[:8], "little")
    header = json.loads(stream[8:end])
    text = json.dumps(
        {**header, "__metadata__": metadata}, separators=(",", ":"), ensure_ascii=False
    ).encode()
    return stream[:8] + text.ljust(end - 8) + stream[end:]
