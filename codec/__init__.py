"""aez: a learned image codec for 28x28 images.

    stream = codec.compress(pixels, quality=75)      # uint8 (28, 28) or (N, 28, 28) -> bytes
    pixels = codec.decompress(stream)                # the shape that was compressed
    with codec.open("digits.aez") as c:              # random access
        len(c), c[17], c[[3, 1, 4]], c.names

Names are loaded when first used: `aez --help` and `aez --version` start without numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "codec.api": (
        "compress",
        "decompress",
        "info",
        "latents",
        "models",
        "open",
        "CollectionWriter",
    ),
    "codec.collection.reader": ("Collection",),
    "codec.pillow_plugin": ("register",),
    "codec.errors": (
        "AezError",
        "BitstreamError",
        "BadMagic",
        "UnsupportedVersion",
        "ReservedBitsSet",
        "Truncated",
        "TrailingData",
        "LimitExceeded",
        "ChecksumMismatch",
        "CorruptPayload",
        "ModelError",
        "ModelNotFound",
        "EncoderNotFound",
        "BadModel",
        "ImageError",
        "UsageError",
    ),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE_OF)

if TYPE_CHECKING:
    from codec.api import CollectionWriter, compress, decompress, info, latents, models, open
    from codec.collection.reader import Collection
    from codec.errors import (
        AezError,
        BadMagic,
        BadModel,
        BitstreamError,
        ChecksumMismatch,
        CorruptPayload,
        EncoderNotFound,
        ImageError,
        LimitExceeded,
        ModelError,
        ModelNotFound,
        ReservedBitsSet,
        TrailingData,
        Truncated,
        UnsupportedVersion,
        UsageError,
    )
    from codec.pillow_plugin import register


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'codec' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
