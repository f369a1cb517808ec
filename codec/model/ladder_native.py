"""The networks of `codec.model.ladder` on the native kernels: the same integers, much faster.

`NativeLadder` has the transforms of `Ladder`, with the same results bit for bit. Only features and
traces, which it passes between its own methods, differ: features are int16 (N, 49, channels padded
to PAD).

How layers are passed to a kernel: `native_layers`.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from codec.arrays import F32, I16, I32, I64, SIDE, U8, U16
from codec.coding.native import address, addresses
from codec.kernels import Kernels
from codec.model.layers import ACTIVATION_MAX, POSITIONS
from codec.model.native_layers import NativeLayer, NativeTransposed, Packer, padded

T = TypeVar("T")
NativeTrace = list[U16]  # the masks of each stage, in the order of the forward pass


class _Residual(ctypes.Structure):
    _fields_ = [(name, NativeLayer) for name in ("reduce", "spatial", "restore")]


class _Level(ctypes.Structure):
    _fields_ = [
        *((name, NativeLayer) for name in ("posterior0", "posterior1", "prior0", "prior", "merge")),
        ("dequantizer", ctypes.c_void_p),
        ("channels", ctypes.c_int32),
    ]


class _Start(ctypes.Structure):
    _fields_ = [
        *((name, NativeLayer) for name in ("start0", "start1", "widen")),
        ("dequantizer", ctypes.c_void_p),
        ("channels", ctypes.c_int32),
    ]


class _ResidualBack(ctypes.Structure):
    _fields_ = [(name, NativeTransposed) for name in ("reduce", "spatial", "restore")]


class _LevelBack(ctypes.Structure):
    _fields_ = [
        *((name, NativeTransposed) for name in ("prior0", "mean", "sigma", "merge")),
        ("dequantizer", ctypes.c_void_p),
        ("channels", ctypes.c_int32),
        ("both", ctypes.c_int32),
    ]


class _StartBack(ctypes.Structure):
    _fields_ = [
        *((name, NativeTransposed) for name in ("start0", "start1", "widen")),
        ("dequantizer", ctypes.c_void_p),
        ("channels", ctypes.c_int32),
    ]


class NativeLadder:
    """The transforms of a lossy model (`codec.model.ladder.Ladder`), at all qualities.

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
        """The structures of a quality; made only once, even by several threads."""
        if quality not in found:
            with self._lock:
                if quality not in found:
                    found[quality] = make(self._model, self._packer, quality)
        return found[quality]

    def analysis(self, pixels: U8, quality: int) -> I16:
        """See `Ladder.analysis`; the features are (N, 49, channels)."""
        at, n = self._at(self._encoders, _EncoderQuality, quality), len(pixels)
        pixels = np.ascontiguousarray(pixels)
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (SIDE, SIDE):
            raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}")
        e = np.empty((n, POSITIONS, at.input.outputs), np.int16)
        self._kernels.patches(ctypes.addressof(at.input), n, address(pixels), address(e))
        self._kernels.residuals(
            ctypes.addressof(at.analysis), at.num_residuals, n, address(e), None
        )
        return e

    def posterior_of(self, i: int, e: I16, t: I16, quality: int) -> I32:
        """See `Ladder.posterior_of`."""
        at, n = self._at(self._encoders, _EncoderQuality, quality), len(e)
        if not i:
            y = np.empty((at.dense_channels, n), np.int32)
            squeeze, posterior0, posterior1 = map(
                ctypes.addressof, (at.squeeze, at.posterior0, at.posterior1)
            )
            self._kernels.dense_posterior(
                squeeze, posterior0, posterior1, n, address(e), len(y), address(y)
            )
            return y
        level = at.levels[i - 1]
        y = np.empty((level.channels, POSITIONS, n), np.int32)
        features = address(e), at.channels, address(t), self._channels
        self._kernels.posterior(ctypes.addressof(level), n, *features, address(y))
        return y

    def synthesis(
        self, quality: int, n: int, trace: NativeTrace | None = None
    ) -> Generator[tuple[I32, I32, I16], I32, U8]:
        """See `Ladder.synthesis`; features are (N, 49, channels)."""
        at = self._at(self._qualities, _Quality, quality)
        kernels = self._kernels
        model = self._model
        t = np.empty((n, POSITIONS, self._step), np.int16)

        def masks(numbers: int) -> int | None:
            if trace is None:
                return None
            trace.append(np.empty(n * numbers // kernels.lanes, np.uint16))
            return address(trace[-1])

        mean, row = (np.repeat(prior, n, axis=1) for prior in model.dense_prior(quality))
        y = yield mean, row, t
        y = _latents(y, mean.shape)
        kernels.start(
            ctypes.addressof(at.start), n, address(y), address(t), masks(at.start_numbers)
        )
        for i, (stage, count, numbers) in enumerate(at.stages):
            kernels.residuals(ctypes.addressof(stage), count, n, address(t), masks(numbers))
            if i == len(at.levels):
                break
            level, (prior_numbers, merge_numbers) = at.levels[i], at.level_numbers[i]
            mean, row = np.empty((2, level.channels, POSITIONS, n), np.int32)
            here = ctypes.addressof(level)
            kernels.prior(here, n, address(t), address(mean), address(row), masks(prior_numbers))
            y = yield mean, row, t
            y = _latents(y, mean.shape)
            kernels.merge(here, n, address(y), address(t), masks(merge_numbers))
        pixels = np.empty((n, SIDE, SIDE), np.uint8)
        kernels.unpatches(ctypes.addressof(at.output), n, address(t), address(pixels))
        return pixels

    def backward(
        self, g_pixels: F32, g_rows: list[F32], quality: int, trace: NativeTrace
    ) -> list[F32]:
        """See `Ladder.backward`; the trace is not used up."""
        at = self._at(self._gradients, _GradientQuality, quality)
        kernels = self._kernels
        n = len(g_pixels)
        g_pixels = np.ascontiguousarray(g_pixels, np.float32)
        g = np.empty((n, POSITIONS, self._step), np.float32)
        kernels.unpatches_backward(ctypes.addressof(at.output), n, address(g_pixels), address(g))
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
                    *addresses(g, g_row, prior_masks, merge_masks, slopes[-1]),
                )
            stage, count = at.stages[i]
            kernels.residuals_backward(
                ctypes.addressof(stage), count, n, address(g), address(masks.pop())
            )
        slopes.append(np.empty((at.start.channels, n), np.float32))
        kernels.start_backward(
            ctypes.addressof(at.start), n, address(g), address(masks.pop()), address(slopes[-1])
        )
        return slopes[::-1]


def _latents(y: npt.NDArray[Any], shape: tuple[int, ...]) -> I32:
    """Latents as the kernels read them, contiguous int32.

    Raises ValueError unless they have that shape.
    """
    if y.shape != shape:
        raise ValueError(f"latents are {y.shape}, wanted {shape}")
    return np.ascontiguousarray(y, np.int32)


def _rows_places(channels: int) -> I64:
    """Where channel c at position p, number c * 49 + p for numpy, lies in rows (49, channels
    padded).
    """
    c, p = np.divmod(np.arange(channels * POSITIONS), POSITIONS)
    return p * padded(channels) + c


def _residuals(stage: list[Any], packer: Packer, quality: int) -> Any:
    """The structures of the residual blocks of a stage."""
    found = (_Residual * max(len(stage), 1))()
    for i, residual in enumerate(stage):
        found[i] = _Residual(
            packer.layer(residual.reduce, quality, 0, ACTIVATION_MAX),
            packer.layer(residual.spatial, quality, 0, ACTIVATION_MAX),
            packer.layer(residual.restore, quality, -ACTIVATION_MAX, ACTIVATION_MAX),
        )
    return found


class _Quality:
    """The structures for synthesis at one quality."""

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
        # residuals, how many, masks that they leave for an image
        self.stages: list[tuple[Any, int, int]] = []
        for stage in model._synthesis:
            widths = (padded(r.reduce.outputs) + padded(r.spatial.outputs) for r in stage)
            numbers = sum(POSITIONS * (width + 2 * channels) for width in widths)
            self.stages.append((_residuals(stage, packer, quality), len(stage), numbers))
        self.levels: list[_Level] = []
        self.level_numbers: list[tuple[int, int]] = []
        for level in model._levels:
            mean, sigma = level.prior_mean, level.prior_sigma
            parts = [
                (layer.weight, bias[..., 0], multiplier[:, 0], low, high)
                for layer, low, high in ((mean, -latent_max, latent_max), (sigma, 0, last_row))
                for bias, multiplier in (layer.rows(quality),)
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
    """The structures for analysis and posteriors at one quality."""

    def __init__(self, model: Any, packer: Packer, quality: int) -> None:
        latent_max, _ = model.LIMITS
        encoder = model.encoder
        self.input = packer.layer(encoder.input, quality, -ACTIVATION_MAX, ACTIVATION_MAX)
        self.channels: int = encoder.input.outputs
        self.analysis = _residuals(encoder.analysis, packer, quality)
        self.num_residuals = len(encoder.analysis)
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
    """The structures for the backward pass at one quality."""

    def __init__(self, model: Any, packer: Packer, quality: int) -> None:
        places = _rows_places(model._widen.inputs)
        self.output = packer.transposed(model._output, quality)
        self.stages: list[tuple[Any, int]] = []
        for stage in model._synthesis:
            residuals = (_ResidualBack * max(len(stage), 1))()
            for i, residual in enumerate(stage):
                layers = (
                    packer.transposed(layer, quality)
                    for layer in (residual.reduce, residual.spatial, residual.restore)
                )
                residuals[i] = _ResidualBack(*layers)
            self.stages.append((residuals, len(stage)))
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
