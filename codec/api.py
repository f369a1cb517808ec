"""Pixels <-> streams: the public functions.

Arrays are uint8 (28, 28) for one image and (N, 28, 28) for many; one image becomes a single-image
stream, many become a collection.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Literal, Unpack, cast, overload

import numpy as np

from codec.arrays import I16, PIXELS, U8
from codec.collection.reader import Collection, DecodedBlock
from codec.collection.reader import Writer as Writer  # border
from codec.encoder import encode
from codec.encoder.encode import Encoder
from codec.encoder.options import DEFAULT_QUALITY, Choices, Options
from codec.encoder.options import Options as Request  # border
from codec.encoder.stats import MAX_LISTED as MAX_LISTED  # border
from codec.encoder.stats import CompressStats
from codec.encoder.writer import CollectionWriter, check_pixels
from codec.errors import (
    BitstreamError,
    ChecksumMismatch,
    CorruptPayload,
    ImageError,
    UsageError,
)
from codec.files import urls
from codec.format import bitstream
from codec.format.bitstream import LOSSLESS_QUALITY, MAX_BLOCK_IMAGES, STORED_QUALITY, ImageHeader
from codec.model import registry
from codec.model.bundle import Model
from codec.model.stored import stored_image

BLOCK_IMAGES = MAX_BLOCK_IMAGES
NOT_WHAT_WAS_ENCODED = "the payload does not decode to what was encoded"


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


# border: the names of old, for those who call them; they go when nobody does
def request(
    quality: int | None = None,
    lossless: bool = False,
    max_bytes: int | None = None,
    min_psnr: float | None = None,
    effort: int | None = None,
    guard: bool = True,
) -> Options:  # border: Options.of
    return Options.of(quality, "auto", lossless, max_bytes, min_psnr, effort, guard)


NO_EMBEDDING = "min_psnr may need a lossless model as well, which embed_model does not embed"


def candidates(model: str, quality: int) -> list[Model]:  # border: Encoder(options).models
    return encode.candidates(Options(quality, model))


def encode_block(
    models: list[Model], pixels: U8, asked: Options, names: list[str] | None
) -> tuple[bytes, CompressStats]:  # border: Encoder(options, models).block(pixels, names)
    return Encoder(asked, models).block(pixels, names)


def pack_each(
    models: list[Model], pixels: U8, asked: Options
) -> list[tuple[bytes, CompressStats] | ImageError]:  # border: Encoder(options, models).images
    return [*Encoder(asked, models).images(pixels)]


def pack_images(
    models: list[Model], pixels: U8, asked: Options
) -> tuple[list[bytes], CompressStats]:  # border: Encoder(options, models).images
    streams, stats = [], CompressStats()
    for i, packed in enumerate(Encoder(asked, models).images(pixels)):
        if isinstance(packed, ImageError):
            raise ImageError(f"image {i}: {packed}") if len(pixels) > 1 else packed
        streams.append(packed.data)
        stats += packed.stats
    return streams, stats


def embeddable(models: list[Model]) -> list[bytes]:  # border: Encoder(options).model_files()
    return Encoder(Options(), models).model_files()


def _decode_image(stream: bytes, extra: Model | None) -> U8:
    return _decode_images([stream], extra)[0]


def _decode_images(streams: list[bytes], extra: Model | None) -> list[U8]:
    """Single-image streams -> uint8 (28, 28) each; those of one model and quality side by side
    through the network.
    """
    found: list[U8 | None] = [None] * len(streams)
    together: dict[tuple[bytes, int], list[int]] = {}
    models: dict[bytes, Model] = {}
    offsets = []
    for i, stream in enumerate(streams):
        header, offset, model = _checked_image(stream, extra)
        offsets.append(offset)
        if model is None:
            found[i] = _decode_stored(stream[offset:], offset)
        else:
            models[model.sha256] = model
            together.setdefault((model.sha256, header.quality), []).append(i)
    for (sha256, quality), places in together.items():
        payloads = [streams[i][offsets[i] :] for i in places]
        pixels, bad = models[sha256].decode(payloads, len(payloads), quality, group=1)
        if bad.any():
            raise CorruptPayload(NOT_WHAT_WAS_ENCODED, offsets[places[int(np.argmax(bad))]])
        for i, image in zip(places, pixels, strict=True):
            found[i] = np.asarray(image)
    return cast(list[U8], found)


def _checked_image(stream: bytes, extra: Model | None) -> tuple[ImageHeader, int, Model | None]:
    """Header of a single image whose Check holds, offset of its payload, its model (None: it is
    stored).
    """
    header, offset = bitstream.unpack_image_header(stream)
    model = None
    if header.quality != STORED_QUALITY:
        model = (
            registry.by_hash(header.model_hash, extra)
            if header.model_hash
            else registry.by_id(header.model_id)
        )
    if bitstream.image_check(b"" if model is None else model.sha256, stream) != header.check:
        raise ChecksumMismatch(
            "the stream is damaged: its bytes do not match its check", bitstream.IMAGE.size - 1
        )
    if model is not None:
        model.check_quality(header.quality, 4)
    return header, offset, model


def _decode_stored(payload: bytes, offset: int) -> U8:
    if len(payload) > PIXELS:
        raise CorruptPayload(
            f"{len(payload)} bytes of a stored image, at most {PIXELS} are allowed", offset
        )
    try:
        return stored_image(payload).copy()  # of a frozen array: the others can be written to
    except CorruptPayload as error:
        raise CorruptPayload(error.message, offset) from error


def _extra_model(model: str | None) -> Model | None:
    return None if model is None or model == "auto" else registry.by_name(model, None)


def decompress(stream: bytes, *, model: str | None = None) -> U8:
    """Inverse of `compress`: uint8 (28, 28) or (N, 28, 28).

    model: name or file of a model to use if the stream names it; only needed for one that is not
    installed. Raises BitstreamError (also for a collection of which only a part is damaged),
    ModelNotFound, BadModel.
    """
    if not bitstream.is_collection(stream):
        return _decode_image(stream, _extra_model(model))
    blocks = []
    for block in decode_blocks(io.BytesIO(stream), model=model):
        if block.error is not None:
            raise block.error
        assert block.pixels is not None
        blocks.append(block.pixels)
    return np.concatenate(blocks) if blocks else np.empty((0, 28, 28), np.uint8)


def decompress_images(streams: list[bytes], *, model: str | None = None) -> U8:
    """Inverse of `compress_images`: N single-image streams -> uint8 (N, 28, 28), side by side
    through the network.

    Raises what `decompress` raises, for the first stream that is at fault.
    """
    images = _decode_images(streams, _extra_model(model))
    return np.stack(images) if images else np.empty((0, 28, 28), np.uint8)


@overload
def latents(stream: bytes, *, model: str | None = None, levels: Literal[False] = False) -> I16: ...
@overload
def latents(stream: bytes, *, model: str | None = None, levels: Literal[True]) -> list[I16]: ...
def latents(stream: bytes, *, model: str | None = None, levels: bool = False) -> I16 | list[I16]:
    """The numbers that a lossy stream carries and its pixels are computed from: features of the
    images.

    int16 (K,) for one image, (N, K) for a collection, level after level. levels: one array for each
    level instead, int16 (N, 32) and then (N, C, 7, 7), without N for one image, coarse to fine; the
    sizes are the model's. They are dequantized, so the unit does not depend on the quality:
    -4095..4095, 512 stands for 1. Latents of different models have nothing in common. `model` is as
    for `decompress`; `Collection.with_latents` reads those of some images. Raises UsageError for
    lossless and stored images and for a collection of several models, and what `decompress` raises.

    >>> dense, *grids = latents(compress(np.zeros((28, 28), np.uint8)), levels=True)
    """
    if bitstream.is_collection(stream):
        with open(stream, model=model) as collection:
            flat, shapes = collection.with_latents(slice(None))[1], collection.latent_shapes
    else:
        header, offset, found = _checked_image(stream, _extra_model(model))
        if found is None:
            raise UsageError("a stored image has no latents: those are what a lossy stream has")
        _, several, bad = found.decode_latents([stream[offset:]], 1, header.quality, group=1)
        if bad.any():
            raise CorruptPayload(NOT_WHAT_WAS_ENCODED, offset)
        flat, shapes = several[0], found.latent_shapes
    if not levels:
        return flat
    ends = np.cumsum([0, *map(math.prod, shapes)]).tolist()
    return [
        flat[..., start:end].reshape(*flat.shape[:-1], *shape)
        for shape, (start, end) in zip(shapes, pairwise(ends), strict=True)
    ]


def open(
    source: str | Path | bytes | BinaryIO, *, model: str | None = None, recover: bool = False
) -> Collection:
    """Open a collection for random access: `len(c)`, `c[17]`, `c[[3, 1, 4]]`, `c.names`,
    `c.find("0/1.png")`.

    source: a path or URL (by fsspec), bytes, or a seekable binary file. Threads may share the
    result; from a path, forked processes too, and it can be pickled. recover: go on if the first
    bytes of the file, its header, are damaged. Raises BitstreamError; a single image is no
    collection.
    """
    if urls.is_url(source):
        source = urls.open_file(cast(str, source))
    return Collection(
        Path(source) if isinstance(source, str) else source,
        _Finder(_extra_model(model)),
        recover=recover,
    )


@dataclass(frozen=True)
class _Finder:
    """Model_Hash -> model: a class, so that a Collection can be pickled."""

    extra: Model | None

    def __call__(self, model_hash: bytes) -> Model:
        return registry.by_hash(model_hash, self.extra)


def decode_blocks(file: BinaryIO, *, model: str | None = None) -> Iterator[DecodedBlock]:
    """Decode a stream block by block, damaged ones as far as they go; a single image is one block.

    file: seekable. Raises BitstreamError where the start of the stream is unusable, ModelNotFound,
    BadModel.
    """
    if (collection := recovered(file, model)) is not None:
        yield from collection.decode_blocks()
        return
    file.seek(0)
    stream = file.read(bitstream.MAX_IMAGE_STREAM_BYTES + 1)
    block = DecodedBlock(0, 1, None, is_single=True)
    try:
        block.pixels = _decode_image(stream, _extra_model(model))[None]
    except (ChecksumMismatch, CorruptPayload) as error:
        block.error, block.lost = error, [0]
    yield block


def recovered(source: Path | BinaryIO, model: str | None) -> Collection | None:
    """The collection in a path or seekable file, even if its header is damaged; None: it is a
    single image.

    Raises BitstreamError where the start of the stream is unusable: it is of a later version, or
    nothing here is a block.
    """
    with source.open("rb") if isinstance(source, Path) else contextlib.nullcontext(source) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - len(bitstream.END_MAGIC)))
        end = file.read()
        file.seek(0)
        start = file.read(bitstream.COLLECTION.size)
    try:
        if not bitstream.is_collection(start):
            # One flipped bit makes a collection look like a single image; its end still tells.
            if end == bitstream.END_MAGIC and size > bitstream.SMALLEST_COLLECTION:
                with contextlib.suppress(BitstreamError):
                    return open(source, model=model, recover=True)
            return None
    except BitstreamError:
        if len(start) < bitstream.COLLECTION.size:
            raise
    return open(source, model=model, recover=True)


@dataclass
class StreamInfo:
    """What the headers of a stream say.  bytes: the whole stream; payload_bytes: its entropy-coded
    part.
    """

    format_version: int
    images: int
    width: int
    height: int
    model: str | None
    model_hash: str
    quality: int | None
    lossless: bool
    bytes: int
    payload_bytes: int


def info(source: bytes | BinaryIO) -> StreamInfo:
    """Read the headers of a stream, never its payload.

    model is None if it is not installed; several models or qualities are joined by commas, or None.
    A stored image has quality 101, and neither a model nor a model_hash.
    Raises BitstreamError.
    """
    file = io.BytesIO(source) if isinstance(source, builtins.bytes) else source
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    start = file.read(3)
    if bitstream.is_collection(start):
        collection = open(file)
        headers = list(collection.headers())
        parts = [part for block in range(len(headers)) for part in collection.parts(block)]
        hashes = list(dict.fromkeys(part.model_hash for part in parts))
        qualities = {part.quality for part in parts}
        images, payload_bytes = len(collection), sum(h.payload_bytes for h in headers)
    else:
        file.seek(0)
        header, offset = bitstream.unpack_image_header(
            file.read(bitstream.MAX_IMAGE_STREAM_BYTES + 1)
        )
        known = bytes.fromhex(registry.MODEL_IDS.get(header.model_id, ""))
        hashes, qualities, images, payload_bytes = (
            [header.model_hash or known],
            {header.quality},
            1,
            size - offset,
        )
    lossless = all(quality >= LOSSLESS_QUALITY for quality in qualities)
    return StreamInfo(
        bitstream.VERSION,
        images,
        28,
        28,
        ", ".join(filter(None, map(_name_of, hashes))) or None,
        ", ".join(h.hex() for h in hashes),
        qualities.pop() if len(qualities) == 1 else None,
        lossless,
        size,
        payload_bytes,
    )


def _name_of(model_hash: builtins.bytes) -> str | None:
    """Name of an installed model, from its file name."""
    path = registry.path_of(model_hash) if model_hash else None
    return registry.name_of(path) if path else None


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
    found = []
    for path in registry.files():
        model = registry.load_cached(path)
        trained_on = str(model.card.get("trained_on", ""))
        encoder = model.encoder_hash
        info = ModelInfo(
            name=model.name,
            lossless=model.lossless,
            hash=model.hash.hex(),
            encoder_hash=None if encoder is None else encoder.hex(),
            path=str(path),
            trained_on=trained_on,
            figures=model.figures,
            bytes=model.num_bytes,
        )
        found.append(info)
    return found


__all__ = [
    "BLOCK_IMAGES",
    "DEFAULT_QUALITY",
    "Collection",
    "CollectionWriter",
    "CompressStats",
    "DecodedBlock",
    "ModelInfo",
    "Request",
    "StreamInfo",
    "candidates",
    "compress",
    "compress_image",
    "compress_images",
    "decode_blocks",
    "decompress",
    "embeddable",
    "encode_block",
    "info",
    "latents",
    "models",
    "open",
    "recovered",
    "request",
]
