"""The lossless model (`codec.model.pixels`) on the native kernels: the same bytes, faster.

`NativePixels` runs all pixels of a batch in one call; for decoding that includes the coder. Heads
of messages, stored images and the choice of palettes stay in Python.

READ ME FIRST
- The structures mirror those of kernels/pixels.h, field by field; kernels/version.h is raised when
  they change.
- A kernel trusts its arguments: arrays are made here, or their shape, layout and range are checked
  here. `FlagNet` and `ValueNet` check the model's tables; these and weights fit int16, as they have
  no wider type in a bundle.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.arrays import I32, I64, PIXELS, SIDE, U8, U32, Bools
from codec.coding import rans
from codec.coding.native import address
from codec.format.constants import LOSSLESS_QUALITY
from codec.kernels import Kernels
from codec.model.layers import ACTIVATION_MAX
from codec.model.native_layers import NativeLayer, Packer, padded

MAX_BYTES = 1 << 31  # of messages: their places are 32-bit numbers


class _Sums(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("ink", "shade", "count")),
        ("outputs", ctypes.c_int32),
    ]


class _FlagNet(ctypes.Structure):
    _fields_ = [
        ("window", NativeLayer),
        ("logit", NativeLayer),
        ("sums", _Sums),
        *((name, ctypes.c_void_p) for name in ("position", "top", "left", "zero_freq")),
    ]


class _ValueNet(ctypes.Structure):
    _fields_ = [
        ("input", NativeLayer),
        ("head", NativeLayer),
        ("links", ctypes.c_void_p),
        ("hidden", ctypes.c_void_p),
        ("sums", _Sums),
        *(
            (name, ctypes.c_void_p)
            for name in ("near", "position", "flagged", "palette", "logits", "exp")
        ),
        ("num_layers", ctypes.c_int32),
        ("near_width", ctypes.c_int32),
    ]


class _PixelModel(ctypes.Structure):
    _fields_ = [("flag", _FlagNet), ("value", _ValueNet)]


class NativePixels:
    """The networks of a lossless model.  Thread-safe: nothing changes after construction."""

    def __init__(self, flag: Any, value: Any, kernels: Kernels) -> None:
        self._kernels, self._packer = kernels, Packer(kernels)
        self._num_palettes: int = value.num_palettes
        # kept alive, as a structure points at them
        self._links = (NativeLayer * max(value.num_layers, 1))()
        self._hidden = (NativeLayer * max(value.num_layers, 1))()
        self._model = _PixelModel(self._flag_net(flag), self._value_net(value))

    def _flag_net(self, net: Any) -> _FlagNet:
        first_max, logit_max = net.LIMITS
        return _FlagNet(
            self._packer.layer(net._layer, LOSSLESS_QUALITY, -first_max, first_max),
            self._packer.layer(net._logit, LOSSLESS_QUALITY, -logit_max, logit_max),
            self._sums(net.sums),
            *map(self._table, (net._position, net._top, net._left)),
            self._packer.keep(net._freq[:, 0].astype(np.int32)),
        )

    def _value_net(self, net: Any) -> _ValueNet:
        first_max, added_max, logit_max = net.LIMITS
        layer, h, link = self._packer.layer, net._input.outputs, net.link_width
        # z: h, then the links of each neighbour, each of them padded.
        of_links = padded(h) + np.arange(net.NUM_LINKED)[:, None] * padded(link) + np.arange(link)
        columns = np.concatenate([np.arange(h), of_links.ravel()])
        for i in range(net.num_layers):
            self._links[i] = layer(net._links[i], LOSSLESS_QUALITY, -ACTIVATION_MAX, ACTIVATION_MAX)
            self._hidden[i] = layer(
                net._hidden[i], LOSSLESS_QUALITY, -added_max, added_max, columns=columns
            )
        return _ValueNet(
            layer(net._input, LOSSLESS_QUALITY, -first_max, first_max),
            layer(net._head, LOSSLESS_QUALITY, -logit_max, logit_max),
            ctypes.addressof(self._links),
            ctypes.addressof(self._hidden),
            self._sums(net.sums),
            *map(
                self._table,
                (net._near, net._position, net._flagged, net._palette, net._palette_logits),
            ),
            self._packer.keep(net._exp),
            net.num_layers,
            net._near.shape[1],
        )

    def _table(self, table: npt.NDArray[Any]) -> int:
        return self._packer.vector(table, padded(table.shape[1]), np.int16)

    def _sums(self, sums: Any) -> _Sums:
        return _Sums(*map(self._table, (sums._ink, sums._shade, sums._count)), sums.outputs)

    def encode(self, pixels: U8, palette: I64, codes: U32) -> I64:
        """Code uint8 (N, 28, 28): fill in the flag and the value of each pixel, see `rans.packed`.

        codes: uint32 (N, 2 * 784), zeros, which stay where nothing is coded. Returns the cost of
        each image, int64 (N,), see `rans.costs`.
        """
        n = len(pixels)
        pixels = np.ascontiguousarray(pixels)
        if pixels.dtype != np.uint8 or pixels.shape != (n, SIDE, SIDE):
            raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}")
        contiguous = codes.flags.c_contiguous and codes.flags.writeable
        if codes.dtype != np.uint32 or codes.shape != (n, 2 * PIXELS) or not contiguous:
            raise ValueError(f"codes are {codes.dtype} {codes.shape}")
        cost, bits = rans.costs(), np.zeros(n, np.int64)
        palettes, active = self._palettes(palette, n), np.ones(n, np.bool_)
        self._kernels.encode_pixels(
            ctypes.addressof(self._model),
            n,
            1,  # image in a group: codes lie image by image
            *map(address, (pixels, active, palettes, cost, codes, bits)),
        )
        return bits

    def decode(
        self, decoder: rans.Decoder, active: Bools, palette: I64, group: int
    ) -> tuple[U8, I64, Bools]:
        """Decode the pixels of images that are active, bool (N,), behind the heads of messages.

        Returns pixels uint8 (N, 28, 28), zeros where not active, and what `rans.Decoder.finish`
        would.
        """
        n = len(active)
        source, lanes = decoder.lanes()
        if len(lanes) != -(-n // group) or len(source) >= MAX_BYTES:
            raise ValueError(f"{len(lanes)} lanes, {len(source)} bytes for {n} images")
        palettes, active = self._palettes(palette, n), np.ascontiguousarray(active)
        pixels = np.empty((n, SIDE, SIDE), np.uint8)
        self._kernels.decode_pixels(
            ctypes.addressof(self._model),
            n,
            group,
            *map(address, (active, palettes, source, lanes, pixels)),
        )
        return pixels, lanes["state"].astype(np.int64), lanes["at"] == lanes["end"]

    def _palettes(self, palette: I64, n: int) -> I32:
        inside = palette.min(initial=0) >= 0 and palette.max(initial=0) < self._num_palettes
        if palette.shape != (n,) or not inside:
            raise ValueError("there is no such palette")
        return palette.astype(np.int32)
