"""aez: a learned image codec for 28x28 images.

    stream = codec.compress(pixels, quality=75)      # uint8 (28, 28) or (N, 28, 28) -> bytes
    pixels = codec.decompress(stream)                # the shape that was compressed
    with codec.open("digits.aez") as c:              # random access
        len(c), c[17], c[[3, 1, 4]], c.names, c.labels

Modules are loaded when first used: `aez --help` and `aez --version` start without numpy.

The trips of pixels, function by function, each below the one that calls it:

    api.compress                                codec.compress(pixels), many images
    encoder.writer.CollectionWriter.write           block by block:
    encoder.encode.Encoder.block
    encoder.encode.Encoder._draft                       how each image is coded:
    encoder.choose.choose                                   its coder; those of a sample are tried
    model.ladder.Ladder.analyze                                 pixels -> symbols
    model.ladder.Ladder.pack_parts                              symbols -> messages
    encoder.choose.code                                     its quality, its symbols
    encoder.choose.guard                                    another quality or coder, if needed
    encoder.draft.pack                                  images of one coder and quality: messages

    api.compress                                codec.compress(pixels), one image
    api.compress_images
    encoder.encode.Encoder.images
    encoder.encode.Encoder._draft                       as above
    encoder.choose.choose
    model.ladder.Ladder.analyze
    model.ladder.Ladder.pack_parts
    encoder.choose.code
    encoder.choose.guard
    encoder.draft.pack
    encoder.encode._single                              header and message

    api.decompress                              codec.decompress(stream), a collection
    collection.open.open_stream                     one image or a collection?
    collection.reader.Collection.pixels             for each block that the footer lists:
    collection.block.Block.salvage                      header, Checksum, names, index
    collection.block.Block._decode                      for each part:
    collection.block.Block._decode_part                     the messages of its groups
    collection.models.Models.__call__                       the model that it names
    model.ladder.Ladder.decode                              messages -> pixels

    api.decompress                              codec.decompress(stream), one image
    collection.open.open_stream                     one image or a collection?
    collection.single.SingleImage.pixels
    collection.single.decode_images                 those of one model and quality together:
    collection.single.SingleImage.model                 the model that it names; Check
    model.ladder.Ladder.decode                          message -> pixels

On the way, `format` unpacks fields and `collection.source` reads bytes.
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
