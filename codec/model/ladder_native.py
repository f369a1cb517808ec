"""The networks of `codec.model.ladder` on the native kernels: the same integers, several times as
fast.

`NativeLadder` is the twin of the transforms in `Model`: the same functions, the same results bit
for bit. What it hands on between them, features and traces, is its own business: features are int16
(N, 49, channels padded to PAD).

READ ME FIRST
- The structures here mirror those of kernels/*.h, field by field; kernels/version.h is raised when
  they change.
- A kernel trusts its arguments. So every array is made here, or its shape and layout are checked
  here.
- Weights are packed once; biases and multipliers once for each quality that is asked for.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Generator
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from codec.coding.lanes_native import I16, I32, U8, _address
from codec.kernels import Kernels
from codec.model.layers import ACTIVATION_MAX, F32, POSITIONS, Layer

U16 = npt.NDArray[np.uint16]
PAD = 16  # rows of features are a multiple of it long
T = TypeVar("T")
NativeTrace = list[U16]  # the masks of each stage, in the order of the forward pass


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("inputs", "outputs", "taps", "bias_step")),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "multiplier", "low", "high")),
    ]


class _Residual(ctypes.Structure):
    _fields_ = [(name, _Layer) for name in ("reduce", "spatial", "restore")]


class _Level(ctypes.Structure):
    _fields_ = [
        *((name, _Layer) for name in ("posterior0", "posterior1", "prior0", "prior", "merge")),
        ("dequantizer", ctypes.c_void_p),
        ("channels", ctypes.c_int32),
    ]


class _Start(ctypes.Structure):
    _fields_ = [
        *((name, _Layer) for name in ("start0", "start1", "widen")),
        ("dequantizer", ctypes.c_void_p),
        ("channels", ctypes.c_int32),
    ]


class _Transposed(ctypes.Structure):
    _fields_ = [("layer", _Layer), ("multiplier", ctypes.c_void_p), ("bits", ctypes.c_int32)]


class _ResidualBack(ctypes.Structure):
    _fields_ = [(name, _Transposed) for name in ("reduce", "spatial", "restore")]


class _LevelBack(ctypes.Structure):
    _fields_ = [
        *((name, _Transposed) for name in ("prior0", "mean", "sigma", "merge")),
        ("dequantizer", ctypes.c_void_p),
        ("channels", ctypes.c_int32),
        ("both", ctypes.c_int32),
    ]


class _StartBack(ctypes.Structure):
    _fields_ = [
        *((name, _Transposed) for name in ("start0", "start1", "widen")),
        ("dequantizer", ctypes.c_void_p),
        ("channels", ctypes.c_int32),
    ]


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
        """The address of an array that lives as long as this."""
        array = np.ascontiguousarray(array)
        self._kept.append(array)
        return cast(int, _address(array))

    def weight(self, key: Any, weight: npt.NDArray[np.integer]) -> int:
        """Address of a weight (O, K) or (O, K, 3, 3), packed; of one key it is always the same."""
        if key not in self._packed:
            taps = 9 if weight.ndim == 4 else 1
            source = np.ascontiguousarray(weight, np.int16)
            packed = np.empty(taps * -(-weight.shape[1] // 2) * padded(len(weight)), np.int32)
            self._kernels.pack(
                _address(source), len(weight), weight.shape[1], taps, _address(packed)
            )
            self._packed[key] = packed
        return cast(int, _address(self._packed[key]))

    def vector(
        self,
        values: Any,
        size: int,
        dtype: type[np.generic],
        order: npt.NDArray[np.int64] | None = None,
    ) -> int:
        """Address of numbers (..., O), padded with zeros to (..., size),
        at the places of `order`.
        """
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
        columns: npt.NDArray[np.int64] | None = None,
        places: npt.NDArray[np.int64] | None = None,
    ) -> _Layer:
        """The structure of a layer at a quality, its results clipped to low..high.

        columns: at which place of its input row each input lies; places: at which of its output row
        each output is wanted. By default in their order.
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
        columns: npt.NDArray[np.int64] | None = None,
        places: npt.NDArray[np.int64] | None = None,
    ) -> _Layer:
        """One structure for layers of the same inputs, side by side."""
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
        return _Layer(
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
        columns: npt.NDArray[np.int64] | None = None,
        places: npt.NDArray[np.int64] | None = None,
    ) -> _Transposed:
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
        return _Transposed(
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


class NativeLadder:
    """The transforms of a lossy model (`codec.model.ladder.Model`), at all qualities.

    Thread-safe, as the model is.
    """

    def __init__(self, model: Any, kernels: Kernels) -> None:
        self.tables = model.tables
        self._model, self._kernels = model, kernels
        self._channels: int = model._widen.outputs
        self._step = padded(self._channels)
        self._qualities: dict[int, _Quality] = {}
        self._encoders: dict[int, _EncoderQuality] = {}
        self._gradients: dict[int, _GradientQuality] = {}
        self._packer, self._lock = Packer(kernels), threading.Lock()

    def _at(self, found: dict[int, T], make: Callable[[Any, Packer, int], T], quality: int) -> T:
        """What was made for a quality; made once, whatever threads ask for it."""
        if quality not in found:
            with self._lock:
                if quality not in found:
                    found[quality] = make(self._model, self._packer, quality)
        return found[quality]

    def analysis(self, pixels: U8, quality: int) -> I16:
        """See `Model.analysis`; the features are (N, 49, channels)."""
        at, n = self._at(self._encoders, _EncoderQuality, quality), len(pixels)
        pixels = np.ascontiguousarray(pixels)
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (28, 28):
            raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}")
        e = np.empty((n, POSITIONS, at.input.outputs), np.int16)
        self._kernels.patches(ctypes.addressof(at.input), n, _address(pixels), _address(e))
        self._kernels.residuals(ctypes.addressof(at.analysis), at.num_blocks, n, _address(e), None)
        return e

    def posterior_of(self, i: int, e: I16, t: I16, quality: int) -> I32:
        """See `Model.posterior_of`: latents of level i, int32 (K, 49, N),
        of the dense one (K, N).
        """
        at, n = self._at(self._encoders, _EncoderQuality, quality), len(e)
        if not i:
            y = np.empty((at.dense_channels, n), np.int32)
            squeeze, posterior0, posterior1 = map(
                ctypes.addressof, (at.squeeze, at.posterior0, at.posterior1)
            )
            self._kernels.dense_posterior(
                squeeze, posterior0, posterior1, n, _address(e), len(y), _address(y)
            )
            return y
        level = at.levels[i - 1]
        y = np.empty((level.channels, POSITIONS, n), np.int32)
        self._kernels.posterior(
            ctypes.addressof(level),
            n,
            _address(e),
            at.channels,
            _address(t),
            self._channels,
            _address(y),
        )
        return y

    def synthesis(
        self, quality: int, n: int, trace: NativeTrace | None = None
    ) -> Generator[tuple[I32, I32, I16], I32, U8]:
        """See `Model.synthesis`; features are (N, 49, channels), and a trace is a list of this
        class's own.
        """
        at, kernels, model = (
            self._at(self._qualities, _Quality, quality),
            self._kernels,
            self._model,
        )
        t = np.empty((n, POSITIONS, self._step), np.int16)

        def masks(numbers: int) -> int | None:
            if trace is None:
                return None
            trace.append(np.empty(n * numbers // kernels.lanes, np.uint16))
            return _address(trace[-1])

        mean, row = (np.repeat(prior, n, axis=1) for prior in model.dense_prior(quality))
        y = yield mean, row, t
        y = _latents(y, mean.shape)
        kernels.start(
            ctypes.addressof(at.start), n, _address(y), _address(t), masks(at.start_numbers)
        )
        for i, (stage, count, numbers) in enumerate(at.stages):
            kernels.residuals(ctypes.addressof(stage), count, n, _address(t), masks(numbers))
            if i == len(at.levels):
                break
            level, (prior_numbers, merge_numbers) = at.levels[i], at.level_numbers[i]
            mean, row = np.empty((2, level.channels, POSITIONS, n), np.int32)
            address = ctypes.addressof(level)
            kernels.prior(
                address, n, _address(t), _address(mean), _address(row), masks(prior_numbers)
            )
            y = yield mean, row, t
            y = _latents(y, mean.shape)
            kernels.merge(address, n, _address(y), _address(t), masks(merge_numbers))
        pixels = np.empty((n, 28, 28), np.uint8)
        kernels.unpatches(ctypes.addressof(at.output), n, _address(t), _address(pixels))
        return pixels

    def backward(
        self, g_pixels: F32, g_rows: list[F32], quality: int, trace: NativeTrace
    ) -> list[F32]:
        """See `Model.backward`; the trace stays as it is."""
        at, kernels, n = (
            self._at(self._gradients, _GradientQuality, quality),
            self._kernels,
            len(g_pixels),
        )
        g_pixels = np.ascontiguousarray(g_pixels, np.float32)
        g = np.empty((n, POSITIONS, self._step), np.float32)
        kernels.unpatches_backward(ctypes.addressof(at.output), n, _address(g_pixels), _address(g))
        slopes: list[F32] = []
        masks = list(trace)
        for i in reversed(range(len(at.stages))):
            if i < len(at.levels):
                level, merge_masks, prior_masks = at.levels[i], masks.pop(), masks.pop()
                g_row = np.ascontiguousarray(g_rows[i], np.float32)
                if g_row.shape != (level.channels, POSITIONS, n):
                    raise ValueError(f"gradients of rows are {g_row.shape}")
                slopes.append(np.empty(g_row.shape, np.float32))
                kernels.level_backward(
                    ctypes.addressof(level),
                    n,
                    _address(g),
                    _address(g_row),
                    _address(prior_masks),
                    _address(merge_masks),
                    _address(slopes[-1]),
                )
            stage, count = at.stages[i]
            kernels.residuals_backward(
                ctypes.addressof(stage), count, n, _address(g), _address(masks.pop())
            )
        slopes.append(np.empty((at.start.channels, n), np.float32))
        kernels.start_backward(
            ctypes.addressof(at.start), n, _address(g), _address(masks.pop()), _address(slopes[-1])
        )
        return slopes[::-1]


def _latents(y: npt.NDArray[Any], shape: tuple[int, ...]) -> I32:
    """Latents as the kernels read them, contiguous int32.

    Raises ValueError unless they have that shape.
    """
    if y.shape != shape:
        raise ValueError(f"latents are {y.shape}, wanted {shape}")
    return np.ascontiguousarray(y, np.int32)


def _rows_places(channels: int) -> npt.NDArray[np.int64]:
    """Where channel c at position p, number c * 49 + p for numpy, lies in rows (49, channels
    padded).
    """
    c, p = np.divmod(np.arange(channels * POSITIONS), POSITIONS)
    return p * padded(channels) + c


def _blocks(blocks: list[Any], packer: Packer, quality: int) -> Any:
    found = (_Residual * max(len(blocks), 1))()
    for i, block in enumerate(blocks):
        found[i] = _Residual(
            packer.layer(block.reduce, quality, 0, ACTIVATION_MAX),
            packer.layer(block.spatial, quality, 0, ACTIVATION_MAX),
            packer.layer(block.restore, quality, -ACTIVATION_MAX, ACTIVATION_MAX),
        )
    return found


class _Quality:
    """What synthesis needs at one quality."""

    def __init__(self, model: Any, packer: Packer, quality: int) -> None:
        latent_max, last_row = model.LIMITS
        places = _rows_places(model._widen.inputs)
        self.start = _Start(
            packer.layer(model._start[0], quality, 0, ACTIVATION_MAX),
            packer.layer(model._start[1], quality, 0, ACTIVATION_MAX, places=places),
            packer.layer(model._widen, quality, -ACTIVATION_MAX, ACTIVATION_MAX),
            _dequantizer(model._dequantize, packer, quality),
            model._dequantize.channels,
        )
        channels = self.start.widen.outputs
        hidden = self.start.start0.outputs + self.start.start1.outputs
        self.start_numbers = padded(self.start.channels) + hidden + POSITIONS * channels
        # blocks, how many, masks that they leave for an image
        self.stages: list[tuple[Any, int, int]] = []
        for stage in model._synthesis:
            widths = (
                padded(block.reduce.outputs) + padded(block.spatial.outputs) for block in stage
            )
            numbers = sum(POSITIONS * (width + 2 * channels) for width in widths)
            self.stages.append((_blocks(stage, packer, quality), len(stage), numbers))
        self.levels: list[_Level] = []
        self.level_numbers: list[tuple[int, int]] = []
        for level in model._levels:
            mean, sigma = level.prior_mean, level.prior_sigma
            parts = [
                (
                    layer.weight,
                    layer.rows(quality)[0][..., 0],
                    layer.rows(quality)[1][:, 0],
                    low,
                    high,
                )
                for layer, low, high in ((mean, -latent_max, latent_max), (sigma, 0, last_row))
            ]
            found = _Level(
                prior0=packer.layer(level.prior0, quality, 0, ACTIVATION_MAX),
                prior=packer.layers(parts, (mean.name, sigma.name)),
                merge=packer.layer(level.merge, quality, -ACTIVATION_MAX, ACTIVATION_MAX),
                dequantizer=_dequantizer(level.dequantize, packer, quality),
                channels=level.dequantize.channels,
            )
            self.levels.append(found)
            self.level_numbers.append(
                (
                    POSITIONS * (found.prior0.outputs + found.prior.outputs),
                    POSITIONS * (padded(found.channels) + 2 * channels),
                )
            )
        self.output = packer.layer(model._output, quality, 0, 255)


class _EncoderQuality:
    """What analysis and the posteriors need at one quality."""

    def __init__(self, model: Any, packer: Packer, quality: int) -> None:
        latent_max, _ = model.LIMITS
        encoder = model.encoder
        self.input = packer.layer(encoder.input, quality, -ACTIVATION_MAX, ACTIVATION_MAX)
        self.channels: int = encoder.input.outputs
        self.analysis, self.num_blocks = (
            _blocks(encoder.analysis, packer, quality),
            len(encoder.analysis),
        )
        self.squeeze = packer.layer(encoder.squeeze, quality, 0, ACTIVATION_MAX)
        columns = _rows_places(encoder.squeeze.outputs)
        self.posterior0 = packer.layer(
            encoder.posterior[0], quality, 0, ACTIVATION_MAX, columns=columns
        )
        self.posterior1 = packer.layer(encoder.posterior[1], quality, -latent_max, latent_max)
        self.dense_channels: int = model._dequantize.channels
        self.levels = [
            _Level(
                posterior0=packer.layer(posterior.posterior0, quality, 0, ACTIVATION_MAX),
                posterior1=packer.layer(posterior.posterior1, quality, -latent_max, latent_max),
                channels=level.dequantize.channels,
            )
            for level, posterior in zip(model._levels, encoder.levels, strict=True)
        ]


class _GradientQuality:
    """What the way back through the synthesis needs at one quality."""

    def __init__(self, model: Any, packer: Packer, quality: int) -> None:
        places = _rows_places(model._widen.inputs)
        self.output = packer.transposed(model._output, quality)
        self.stages: list[tuple[Any, int]] = []
        for stage in model._synthesis:
            blocks = (_ResidualBack * max(len(stage), 1))()
            for i, block in enumerate(stage):
                layers = (
                    packer.transposed(layer, quality)
                    for layer in (block.reduce, block.spatial, block.restore)
                )
                blocks[i] = _ResidualBack(*layers)
            self.stages.append((blocks, len(stage)))
        self.levels = [
            _LevelBack(
                packer.transposed(level.prior0, quality),
                packer.transposed(level.prior_mean, quality),
                packer.transposed(level.prior_sigma, quality),
                packer.transposed(level.merge, quality),
                _dequantizer(level.dequantize, packer, quality),
                level.dequantize.channels,
                padded(2 * level.dequantize.channels),
            )
            for level in model._levels
        ]
        self.start = _StartBack(
            packer.transposed(model._start[0], quality),
            packer.transposed(model._start[1], quality, places=places),
            packer.transposed(model._widen, quality),
            _dequantizer(model._dequantize, packer, quality),
            model._dequantize.channels,
        )


def _dequantizer(dequantize: Any, packer: Packer, quality: int) -> int:
    return packer.vector(dequantize.multiplier(quality), padded(dequantize.channels), np.float32)
