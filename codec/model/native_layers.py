"""Layers for the native kernels.

READ ME FIRST
- The structures mirror those of kernels/*.h, field by field; kernels/version.h is raised when they
  change.
- A kernel trusts its arguments. So every array is made here, or its shape and layout are checked
  here.
- Weights are packed once; biases and multipliers once for each quality that is used.
"""

from __future__ import annotations

import ctypes
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from codec.arrays import I32, I64, Integers
from codec.coding.native import address
from codec.kernels import Kernels
from codec.model.layers import POSITIONS, Layer

PAD = 16  # rows of features are a multiple of it long


class NativeLayer(ctypes.Structure):
    """Layer of kernels/layers.h."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("inputs", "outputs", "taps", "bias_step")),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "multiplier", "low", "high")),
    ]


class NativeTransposed(ctypes.Structure):
    """A layer that takes gradients back."""

    _fields_ = [("layer", NativeLayer), ("multiplier", ctypes.c_void_p), ("bits", ctypes.c_int32)]


def padded(n: int) -> int:
    """n rounded up to a multiple of PAD."""
    return -(-n // PAD) * PAD


class Packer:
    """Makes the structures of layers, and keeps alive the arrays they point at."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self._packed: dict[Any, I32] = {}  # by what it was packed for
        self._kept: list[npt.NDArray[Any]] = []

    def keep(self, array: npt.NDArray[Any]) -> int:
        """The address of an array, which is kept alive."""
        array = np.ascontiguousarray(array)
        self._kept.append(array)
        return cast(int, address(array))

    def weight(self, key: Any, weight: Integers) -> int:
        """Address of a packed weight (O, K) or (O, K, 3, 3), packed once for each key."""
        if key not in self._packed:
            taps = 9 if weight.ndim == 4 else 1
            source = np.ascontiguousarray(weight, np.int16)
            packed = np.empty(taps * -(-weight.shape[1] // 2) * padded(len(weight)), np.int32)
            self._kernels.pack(address(source), len(weight), weight.shape[1], taps, address(packed))
            self._packed[key] = packed
        return cast(int, address(self._packed[key]))

    def vector(
        self,
        values: Any,
        size: int,
        dtype: type[np.generic],
        order: I64 | None = None,
    ) -> int:
        """Address of numbers (..., O), at the places of `order`, zeros up to (..., size)."""
        values = np.asarray(values)
        out = np.zeros((*values.shape[:-1], size), dtype)
        out[..., slice(values.shape[-1]) if order is None else order] = values
        return self.keep(out)

    def layer(
        self,
        layer: Layer,
        quality: int,
        low: int,
        high: int,
        *,
        columns: I64 | None = None,
        places: I64 | None = None,
    ) -> NativeLayer:
        """The structure of a layer at a quality, its results clipped to low..high.

        columns: the place of each input in its row; places: the place of each output in its row.
        By default they are in order.
        """
        bias, multiplier = layer.rows(quality)  # (O, 1) or (O, 49, 1), (O, 1)
        return self.layers(
            [(layer.weight, bias[..., 0], multiplier[:, 0], low, high)],
            (layer.name,),
            columns,
            places,
        )

    def layers(
        self,
        parts: list[tuple[Any, Any, Any, int, int]],
        key: tuple[str, ...],
        columns: I64 | None = None,
        places: I64 | None = None,
    ) -> NativeLayer:
        """One structure for several layers with the same inputs."""
        weight = np.concatenate([part[0] for part in parts])
        bias = _joined([np.asarray(part[1]) for part in parts])
        outputs, inputs = weight.shape[:2]
        if columns is not None:
            spread = np.zeros((outputs, int(columns.max()) + 1), weight.dtype)
            spread[:, columns] = weight
            weight, inputs = spread, spread.shape[1]
        if places is not None:
            spread = np.zeros((int(places.max()) + 1, inputs), weight.dtype)
            spread[places] = weight
            weight, outputs = spread, len(spread)
        size = padded(outputs)
        low, high = (
            np.concatenate([np.full(len(part[0]), part[i]) for part in parts]) for i in (3, 4)
        )
        multiplier = np.concatenate([part[2] for part in parts])
        return NativeLayer(
            inputs,
            size,
            9 if weight.ndim == 4 else 1,
            size if bias.ndim == 2 else 0,
            self.weight(key, weight),
            self.vector(bias.T, size, np.int32, places),
            self.vector(multiplier, size, np.float32, places),
            self.vector(low, size, np.int32, places),
            self.vector(high, size, np.int32, places),
        )

    def transposed(
        self,
        layer: Layer,
        quality: int,
        *,
        columns: I64 | None = None,
        places: I64 | None = None,
    ) -> NativeTransposed:
        """The structure that takes gradients back through a layer; columns, places: those of the
        layer itself.
        """
        weight = layer.weight if layer.weight.ndim == 2 else layer.weight[:, :, ::-1, ::-1]
        weight = weight.swapaxes(0, 1)
        nothing = np.zeros(len(weight))
        multiplier = layer.rows(quality)[1][:, 0]
        found = self.layers(
            [(weight, nothing, nothing, 0, 0)], ("transposed", layer.name), places, columns
        )
        return NativeTransposed(
            found,
            self.vector(multiplier, padded(found.inputs), np.float32, places),
            layer.gradient_bits,
        )


def _joined(biases: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Biases (O,) or (O, 49) of several layers, one below the other: (O, 49) if one of them is."""
    if any(bias.ndim == 2 for bias in biases):
        biases = [
            bias if bias.ndim == 2 else np.repeat(bias[:, None], POSITIONS, axis=1)
            for bias in biases
        ]
    return np.concatenate(biases)
