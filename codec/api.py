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
from codec.errors import (
    ImageError,
    UsageError,
)
from codec.model import registry


def compress(
    pixels: U8,
    *,
    names: list[str] | None = None,
    embed_model: bool = False,
    **choices: Unpack[Choices],
) -> bytes:
    """Compress one image, uint8 (28, 28), or a collection, uint8 (N, 28, 28).

    quality: int, 0 (smallest) to 99 (best), or 100: lossless; by default 75.
    model: "auto", by default: of the shipped models the cheapest; or a name, or a model file.
    lossless: bool, every pixel comes back, as by quality 100.
    max_bytes: int, of each image the best quality at which it has no more bytes of payload (in a
    collection: would have, by itself).
    min_psnr: float, of each image the fewest bytes for which it has that many dB; lossless, if
    nothing less reaches them.
    effort: int, 1 (fastest) to 9, by default 3, with max_bytes or min_psnr 1: how long to search
    for fewer bytes and more dB.
    guard: bool, by default True: an image that comes out 3 dB worse than its quality gives in the
    model's domain falls back to a better coding.
    names: of the images of a collection. embed_model: put the model into the collection.

    Raises ImageError, UsageError, ModelNotFound, EncoderNotFound, BadModel.

    >>> stream = compress(np.zeros((28, 28), np.uint8))
    """
    pixels = check_pixels(pixels, (2, 3))
    if pixels.ndim == 3:
        file = io.BytesIO()
        with CollectionWriter(file, embed_model=embed_model, **choices) as writer:
            writer.write(pixels, names)
        return file.getvalue()
    if names is not None or embed_model:
        raise UsageError(
            "a single image has no name and embeds no model: give (1, 28, 28) for a collection of "
            "one"
        )
    return compress_image(pixels, **choices)[0]


def compress_image(pixels: U8, **choices: Unpack[Choices]) -> tuple[bytes, CompressStats]:
    """uint8 (28, 28) -> single-image stream, and what was done.  See `compress`."""
    streams, stats = compress_images(check_pixels(pixels, (2,))[None], **choices)
    return streams[0], stats


def compress_images(pixels: U8, **choices: Unpack[Choices]) -> tuple[list[bytes], CompressStats]:
    """uint8 (N, 28, 28) -> N single-image streams, side by side through the network, and what was
    done.  See `compress`.

    Raises ImageError also where an image does not fit `max_bytes`.
    """
    pixels, streams, stats = check_pixels(pixels, (3,)), [], CompressStats()
    for i, packed in enumerate(Encoder(Options.of(**choices)).images(pixels)):
        if isinstance(packed, ImageError):
            raise ImageError(f"image {i}: {packed}") if len(pixels) > 1 else packed
        streams.append(packed.data)
        stats += packed.stats
    return streams, stats


def decompress(stream: Source, *, model: str | None = None) -> U8:
    """Inverse of `compress`: uint8 (28, 28) or (N, 28, 28).

    stream: its bytes, a path or URL (by fsspec), or a seekable binary file. model: name or file of
    a model to use if the stream names it; only needed for one that is not installed. Raises
    BitstreamError (also for a collection of which only a part is damaged), ModelNotFound, BadModel.

    >>> decompress(compress(np.zeros((2, 28, 28), np.uint8))).shape
    (2, 28, 28)
    """
    with open_stream(stream, model=model) as opened:
        return opened.pixels()


def decompress_images(streams: Sequence[bytes], *, model: str | None = None) -> U8:
    """Inverse of `compress_images`: N single-image streams -> uint8 (N, 28, 28), side by side
    through the network.

    Raises what `decompress` raises, for the first stream that is at fault.
    """
    find_model = installed(model)
    return decode_images([SingleImage(stream, find_model) for stream in streams])


@overload
def latents(stream: Source, *, model: str | None = None, levels: Literal[False] = False) -> I16: ...
@overload
def latents(stream: Source, *, model: str | None = None, levels: Literal[True]) -> list[I16]: ...
def latents(stream: Source, *, model: str | None = None, levels: bool = False) -> I16 | list[I16]:
    """The numbers that a lossy stream carries and its pixels are computed from: features of the
    images.

    int16 (K,) for one image, (N, K) for a collection, level after level. levels: one array for each
    level instead, int16 (N, 32) and then (N, C, 7, 7), without N for one image, coarse to fine; the
    sizes are the model's. They are dequantized, so the unit does not depend on the quality:
    -4095..4095, 512 stands for 1. Latents of different models have nothing in common. `stream` and
    `model` are as for `decompress`; `Collection.with_latents` reads those of some images. Raises
    UsageError for lossless and stored images and for a collection of several models, and what
    `decompress` raises.

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


def open(source: Source, *, model: str | None = None, recover: bool = False) -> Collection:
    """Open a collection for random access: `len(c)`, `c[17]`, `c[[3, 1, 4]]`, `c.names`,
    `c.find("0/1.png")`.

    source: a path or URL (by fsspec), bytes, or a seekable binary file. Threads may share the
    result; from a path, forked processes too, and it can be pickled. recover: go on if the first
    bytes of the file, its header, are damaged. Raises BitstreamError; a single image is no
    collection.
    """
    return open_collection(source, model=model, recover=recover)


@dataclass
class ModelInfo:
    """An installed model and its card.

    encoder_hash: of the file that a lossy model encodes with, None where that is missing; a
    lossless model is one file and has None, too.
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
