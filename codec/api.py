"""Pixels <-> streams: the public functions.

Arrays are uint8 (28, 28) for one image and (N, 28, 28) for many; one image becomes a single-image
stream, many become a collection.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Unpack, overload

import numpy as np

from codec.arrays import I16, U8
from codec.collection.models import installed
from codec.collection.open import StreamInfo, info, open_collection, open_stream
from codec.collection.reader import Collection
from codec.collection.single import SingleImage, decode_images
from codec.collection.source import Source
from codec.encoder.encode import Encoder
from codec.encoder.options import DEFAULT_QUALITY, Choices, Options
from codec.encoder.stats import CompressStats
from codec.encoder.writer import CollectionWriter, check_pixels
from codec.errors import ImageError, UsageError
from codec.labels import Given
from codec.model import registry


def compress(
    pixels: U8,
    *,
    names: Sequence[str] | None = None,
    labels: Given | None = None,
    embed_model: bool = False,
    **choices: Unpack[Choices],
) -> bytes:
    """Compress one image, uint8 (28, 28), or a collection, uint8 (N, 28, 28).

    quality: int, 0 (smallest) to 99 (best), or 100: lossless; by default 75.
    model: "auto", the default, picks the cheapest of the shipped models; or a name, or the path of
    a file.
    lossless: bool, keep every pixel, the same as quality 100.
    max_error: int, 1 to 64: no pixel differs by more (near-lossless); instead of a quality.
    max_bytes: int, the best quality at which each image takes no more bytes of payload (in a
    collection: as many as it would take as a file).
    min_psnr: float, the fewest bytes for which each image has at least so many dB; lossless if no
    quality is good enough.
    effort: int, 1 (fastest) to 9: how long to search for fewer bytes and more dB; by default 3;
    1 with max_bytes or min_psnr.
    guard: bool, by default True: an image that comes out 3 dB worse than images like the model's
    training images do falls back to a better coding.
    names: of the images of a collection, as relative paths; no two may be restored as one file.
    labels: of the images of a collection: ints from 0 to 2**32 - 1, or strs of at most 255 bytes.
    embed_model: put the model into the collection.

    Raises ImageError, UsageError, ModelNotFound, EncoderNotFound, BadModel; TypeError for an option
    that does not exist.

    >>> stream = compress(np.zeros((28, 28), np.uint8))
    """
    pixels = check_pixels(pixels, (2, 3))
    if pixels.ndim == 3:
        file = io.BytesIO()
        with CollectionWriter(file, embed_model=embed_model, **choices) as writer:
            writer.write(pixels, names, labels)
        return file.getvalue()
    if names is not None or labels is not None or embed_model:
        raise UsageError(
            "a single image cannot have a name, a label or a model in it: "
            "give pixels of shape (1, 28, 28) for a collection of one image"
        )
    return compress_image(pixels, **choices)[0]


def compress_image(pixels: U8, **choices: Unpack[Choices]) -> tuple[bytes, CompressStats]:
    """uint8 (28, 28) -> single-image stream, and its figures.  See `compress`."""
    streams, stats = compress_images(check_pixels(pixels, (2,))[None], **choices)
    return streams[0], stats


def compress_images(pixels: U8, **choices: Unpack[Choices]) -> tuple[list[bytes], CompressStats]:
    """uint8 (N, 28, 28) -> N single-image streams, encoded as one batch, and their figures.

    See `compress`. Also raises ImageError if an image does not fit `max_bytes`.
    """
    pixels, streams, stats = check_pixels(pixels, (3,)), [], CompressStats()
    for i, packed in enumerate(Encoder(Options.of(**choices)).images(pixels)):
        if isinstance(packed, ImageError):
            raise ImageError(f"image {i}: {packed}") if len(pixels) > 1 else packed
        streams.append(packed.data)
        stats += packed.stats
    return streams, stats


def decompress(stream: Source, *, model: str | Path | None = None) -> U8:
    """Inverse of `compress`: uint8 (28, 28) or (N, 28, 28).

    stream: its bytes, a path or URL (by fsspec), or a seekable binary file. model: name or file of
    a model to use if the stream names it; only needed for one that is not installed. Raises
    BitstreamError (even if only a part of a collection is damaged), ModelNotFound, BadModel.

    >>> decompress(compress(np.zeros((2, 28, 28), np.uint8))).shape
    (2, 28, 28)
    """
    with open_stream(stream, model=model) as opened:
        return opened.pixels()


def decompress_images(streams: Sequence[bytes], *, model: str | Path | None = None) -> U8:
    """Inverse of `compress_images`: N single-image streams -> uint8 (N, 28, 28), as one batch.

    Raises what `decompress` raises, for the first stream that is at fault.
    """
    find_model = installed(model)
    return decode_images([SingleImage(stream, find_model) for stream in streams])


@overload
def latents(
    stream: Source, *, model: str | Path | None = None, levels: Literal[False] = False
) -> I16: ...
@overload
def latents(
    stream: Source, *, model: str | Path | None = None, levels: Literal[True]
) -> list[I16]: ...
def latents(
    stream: Source, *, model: str | Path | None = None, levels: bool = False
) -> I16 | list[I16]:
    """The latents of a lossy stream, from which its pixels are computed: features of the images.

    int16 (K,) for one image, (N, K) for a collection, level after level. levels: one array for each
    level instead, coarse to fine, int16 (N, 32) and then (N, C, 7, 7), without N for one image; the
    sizes depend on the model. They are dequantized, so the unit does not depend on the quality:
    -4095..4095, 512 stands for 1. Latents of different models cannot be compared. stream, model: as
    for `decompress`; `Collection.with_latents` reads the latents of some images. Raises UsageError
    for lossless and stored images and for a collection of several models, and what `decompress`
    raises.

    >>> dense, *grids = latents(compress(np.zeros((28, 28), np.uint8)), levels=True)
    """
    with open_stream(stream, model=model) as opened:
        flat, shapes = opened.latents(), opened.latent_shapes
    if not levels:
        return flat
    ends = np.cumsum([0, *map(math.prod, shapes)]).tolist()
    return [
        flat[..., start:end].reshape(*flat.shape[:-1], *shape)
        for shape, (start, end) in zip(shapes, pairwise(ends), strict=True)
    ]


def open(source: Source, *, model: str | Path | None = None, recover: bool = False) -> Collection:
    """Open a collection for random access: `len(c)`, `c[17]`, `c[[3, 1, 4]]`, `c.names`,
    `c.find("0/1.png")`.

    source: a path or URL (by fsspec), bytes, or a seekable binary file. Threads can share the
    result; if it is opened from a path, forked processes can too, and it can be pickled. recover:
    open it even if its header, the first bytes of the file, is damaged. Raises BitstreamError, also
    for a single image; ModelNotFound, BadModel, OSError.
    """
    return open_collection(source, model=model, recover=recover)


@dataclass
class ModelInfo:
    """An installed model and its card.

    encoder_hash: of the encoder file of a lossy model, None if it is missing; a lossless model has
    no such file. bytes: size of the model file.
    """

    name: str
    lossless: bool
    hash: str
    encoder_hash: str | None
    path: str
    trained_on: str
    figures: dict[str, Any]
    bytes: int


def models() -> list[ModelInfo]:
    """The models that are installed.  Raises BadModel if one, or its encoder, is damaged."""
    return [
        ModelInfo(
            name=model.name,
            lossless=model.lossless,
            hash=model.hash.hex(),
            encoder_hash=None if model.encoder_hash is None else model.encoder_hash.hex(),
            path=str(path),
            trained_on=str(model.card.get("trained_on", "")),
            figures=model.figures,
            bytes=model.num_bytes,
        )
        for path in registry.files()
        for model in (registry.load_cached(path),)
    ]


__all__ = [
    "DEFAULT_QUALITY",
    "Collection",
    "CollectionWriter",
    "CompressStats",
    "ModelInfo",
    "StreamInfo",
    "compress",
    "compress_image",
    "compress_images",
    "decompress",
    "info",
    "latents",
    "models",
    "open",
]
