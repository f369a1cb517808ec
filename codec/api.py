"""Pixels <-> streams: the public functions, and the choice of a model.

Arrays are uint8 (28, 28) for one image and (N, 28, 28) for many; one image becomes a single-image
stream, many become a collection. `model` is "auto" (of the shipped models the one with the lower
cost lambda * SSE + bits), a model's name, or the path of a model file. `lossless=True` and quality
100 mean the same: every image comes back as it was; a single image that no model makes smaller is
stored as it is. `max_bytes` and `min_psnr` choose the quality of each image (`goal`). `effort`, 1
to 9, is how long the encoder searches (`ladder_search`): by default 3, and 1 where the quality is
searched. `guard`: an image that comes out worse than what its quality gives in the model's domain
falls back to a better coding (`choose`).
"""

from __future__ import annotations

import contextlib
import io
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, overload

import numpy as np
import numpy.typing as npt

from codec import metrics
from codec.coding.lanes import Encoded
from codec.collection.border import DecodedBlock, as_block
from codec.collection.models import installed
from codec.collection.open import StreamInfo, info, open_collection, open_stream
from codec.collection.reader import Collection
from codec.collection.single import SingleImage, decode_images
from codec.collection.source import Source
from codec.collection.writer import Writer
from codec.encoder.choose import Plan, Planner
from codec.encoder.goal import Target
from codec.errors import (
    ImageError,
    ModelNotFound,
    UsageError,
)
from codec.format import bitstream
from codec.format.bitstream import LOSSLESS_QUALITY, MAX_BLOCK_IMAGES, STORED_QUALITY, ImageHeader
from codec.format.block import pack_block
from codec.format.index import Part
from codec.model import registry
from codec.model.bundle import BaseModel
from codec.model.ladder_search import DEFAULT_EFFORT, MAX_EFFORT
from codec.model.pixels import stored_bytes

U8 = npt.NDArray[np.uint8]
I16 = npt.NDArray[np.int16]

BLOCK_IMAGES = MAX_BLOCK_IMAGES
DEFAULT_QUALITY = 75
MAX_LISTED = 1000  # images that fell back
NO_EMBEDDING = (
    "min_psnr may need a lossless model as well, which embed_model does not embed: leave one of "
    "the two out"
)
MIN_STORED_BYTES = 11  # of a zstd frame with 784 equal bytes: none is smaller


@dataclass
class CompressStats:
    """What compression did; adds up with `+=`.  payload_bytes: entropy-coded (or stored) bytes
    alone; bytes_out: everything.

    models: images by the name of the model that coded them, "stored" for those that none did;
    qualities: images by quality, as text. fallback: images that fell back, by what to ("mnist q91",
    "mnist-lossless", "stored"); fallback_images: the numbers of the first MAX_LISTED of them, in
    the order of compression.
    """

    images: int = 0
    bytes_out: int = 0
    payload_bytes: int = 0
    squared_error: int = 0
    ideal_bits: float = 0.0
    models: dict[str, int] = field(default_factory=dict)
    qualities: dict[str, int] = field(default_factory=dict)
    fallback: dict[str, int] = field(default_factory=dict)
    fallback_images: list[int] = field(default_factory=list)

    @property
    def bpp(self) -> float:
        """Bits a pixel, of whole files."""
        return metrics.bpp(self.bytes_out, 784 * self.images) if self.images else 0.0

    @property
    def psnr_db(self) -> float | None:
        """From the mean squared error over all pixels; None if there is no error."""
        return metrics.psnr_db(self.squared_error, 784 * self.images)

    @property
    def lossless(self) -> bool:
        """Whether every pixel comes back."""
        return self.squared_error == 0

    def __iadd__(self, other: CompressStats) -> CompressStats:
        room = MAX_LISTED - len(self.fallback_images)
        self.fallback_images += [self.images + i for i in other.fallback_images[:room]]
        self.images += other.images
        self.bytes_out += other.bytes_out
        self.payload_bytes += other.payload_bytes
        self.squared_error += other.squared_error
        self.ideal_bits += other.ideal_bits
        for mine, others in (
            (self.models, other.models),
            (self.qualities, other.qualities),
            (self.fallback, other.fallback),
        ):
            for name, images in others.items():
                mine[name] = mine.get(name, 0) + images
        return self


def _stats(
    name: str, quality: int, pixels: U8, encoded: Encoded, fell_back: npt.NDArray[np.bool_]
) -> CompressStats:
    """Of one part; bytes_out and fallback_images are left to the caller."""
    payload_bytes = sum(map(len, encoded.messages))
    squared_error = metrics.squared_error(pixels, encoded.pixels)
    what = name if quality == LOSSLESS_QUALITY else f"{name} q{quality}"
    fallback = {what: int(fell_back.sum())} if fell_back.any() else {}
    return CompressStats(
        len(pixels),
        0,
        payload_bytes,
        squared_error,
        encoded.ideal_bits,
        {name: len(pixels)},
        {str(quality): len(pixels)},
        fallback,
    )


def _check_pixels(array: Any, ndims: tuple[int, ...]) -> U8:
    pixels: U8 = np.asarray(array)
    if pixels.dtype != np.uint8 or pixels.ndim not in ndims or pixels.shape[-2:] != (28, 28):
        raise ImageError(
            f"pixels are {pixels.dtype} {pixels.shape}, wanted uint8 "
            + " or ".join({2: "(28, 28)", 3: "(N, 28, 28)"}[n] for n in ndims)
        )
    return pixels


def _check_quality(quality: int | None, lossless: bool) -> int:
    if quality is None:
        return LOSSLESS_QUALITY if lossless else DEFAULT_QUALITY
    if not isinstance(quality, int | np.integer) or not 0 <= quality <= LOSSLESS_QUALITY:
        raise UsageError(f"quality {quality!r}, wanted a whole number from 0 to {LOSSLESS_QUALITY}")
    if lossless and quality != LOSSLESS_QUALITY:
        raise UsageError(f"quality {quality} is not lossless: leave it out, or lossless=True")
    return int(quality)


@dataclass(frozen=True)
class Request:
    """What is asked of the encoder.  quality: 100 is lossless; of no meaning where there is a
    target.

    guard: images that come out worse than they should fall back (`choice`).
    """

    quality: int = DEFAULT_QUALITY
    target: Target | None = None
    effort: int = DEFAULT_EFFORT
    guard: bool = True


def request(
    quality: int | None = None,
    lossless: bool = False,
    max_bytes: int | None = None,
    min_psnr: float | None = None,
    effort: int | None = None,
    guard: bool = True,
) -> Request:
    """The options of `compress`, checked.  Raises UsageError."""
    target = None
    if max_bytes is not None or min_psnr is not None:
        if quality is not None or lossless:
            raise UsageError(
                "max_bytes and min_psnr choose the quality: leave quality and lossless out"
            )
        target = Target(max_bytes, min_psnr)
    if effort is None:
        effort = DEFAULT_EFFORT if target is None else 1
    if not isinstance(effort, int | np.integer) or not 1 <= effort <= MAX_EFFORT:
        raise UsageError(f"effort {effort!r}, wanted a whole number from 1 to {MAX_EFFORT}")
    return Request(_check_quality(quality, lossless), target, int(effort), guard)


def candidates(model: str, quality: int) -> list[BaseModel]:
    """The models among which blocks choose: the one named, or with "auto" all shipped ones of the
    kind.

    Raises ModelNotFound, BadModel, UsageError for a model of the other kind.
    """
    lossless = quality == LOSSLESS_QUALITY
    return registry.shipped(lossless) if model == "auto" else [registry.by_name(model, lossless)]


def _lossless(models: list[BaseModel]) -> list[BaseModel]:
    """The lossless models that step in for lossy ones: all shipped ones, and those of their names;
    [] if there is none.
    """
    found: list[BaseModel] = []
    with contextlib.suppress(ModelNotFound):
        found += registry.shipped(lossless=True)
    for model in models:
        with contextlib.suppress(ModelNotFound):
            found.append(registry.by_name(model.name + registry.LOSSLESS, lossless=True))
    return list({model.hash: model for model in found}.values())


def _plan(models: list[BaseModel], pixels: U8, asked: Request, *, as_block: bool) -> Plan:
    planner = Planner(models, lambda: _lossless(models), effort=asked.effort, guard=asked.guard)
    return planner.plan(pixels, asked.quality, asked.target, as_block=as_block)


def compress_images(
    pixels: U8,
    *,
    quality: int | None = None,
    model: str = "auto",
    lossless: bool = False,
    max_bytes: int | None = None,
    min_psnr: float | None = None,
    effort: int | None = None,
    guard: bool = True,
) -> tuple[list[bytes], CompressStats]:
    """uint8 (N, 28, 28) -> N single-image streams, side by side through the network.

    Raises ImageError, also where an image does not fit `max_bytes`; UsageError, ModelError.
    """
    pixels, asked = (
        _check_pixels(pixels, (3,)),
        request(quality, lossless, max_bytes, min_psnr, effort, guard),
    )
    return pack_images(candidates(model, asked.quality), pixels, asked)


def pack_images(
    models: list[BaseModel], pixels: U8, asked: Request
) -> tuple[list[bytes], CompressStats]:
    """What `compress_images` gives if these are the models: of each image the cheapest stream."""
    streams: list[bytes] = []
    stats = CompressStats()
    for i, packed in enumerate(pack_each(models, pixels, asked)):
        if isinstance(packed, ImageError):
            raise ImageError(f"image {i}: {packed}") if len(pixels) > 1 else packed
        streams.append(packed[0])
        stats += packed[1]
    return streams, stats


def pack_each(
    models: list[BaseModel], pixels: U8, asked: Request
) -> list[tuple[bytes, CompressStats] | ImageError]:
    """As `pack_images`, with the figures of each image, or why it cannot be what is asked."""
    if not len(pixels):
        return []
    plan = _plan(models, pixels, asked, as_block=False)
    packed: dict[int, tuple[bytes, CompressStats] | ImageError] = {
        i: ImageError(why) for i, why in plan.missed.items()
    }
    for part, encoded in zip(plan.parts, plan.encode(pixels, 1), strict=True):
        for at, i in enumerate(part.images.tolist()):
            fell_back = bool(plan.fell_back[i])
            if part.model is None or encoded is None:
                packed[i] = _store(pixels[i], fell_back)
            else:
                message, decoded = encoded.messages[at], encoded.pixels[at]
                packed[i] = _pack_one(
                    part.model, pixels[i], part.quality, message, decoded, fell_back
                )
    return [packed[i] for i in range(len(pixels))]


def _pack_one(
    model: BaseModel, pixels: U8, quality: int, message: bytes, decoded: U8, fell_back: bool
) -> tuple[bytes, CompressStats]:
    """One image (28, 28) as a stream of its own; stored if that is shorter than what a lossless
    model made of it.
    """
    model_id = registry.id_of(model)
    header = ImageHeader(model_id, quality, model_hash=b"" if model_id else model.hash)
    stream = bitstream.pack_image(header, message, model.sha256)
    if model.lossless and len(stream) > bitstream.IMAGE.size + MIN_STORED_BYTES:
        stored = _store(pixels, fell_back)
        if len(stored[0]) < len(stream):
            return stored
    return stream, _stats_of_one(
        model.name, quality, pixels, Encoded([message], decoded[None], 0.0), len(stream), fell_back
    )


def _store(pixels: U8, fell_back: bool) -> tuple[bytes, CompressStats]:
    """One image (28, 28) as a stored one."""
    stored = stored_bytes(pixels)
    stream = bitstream.pack_image(ImageHeader(0, STORED_QUALITY), stored, b"")
    encoded = Encoded([stored], pixels[None], 0.0)
    return stream, _stats_of_one(
        "stored", LOSSLESS_QUALITY, pixels, encoded, len(stream), fell_back
    )


def _stats_of_one(
    name: str, quality: int, pixels: U8, encoded: Encoded, num_bytes: int, fell_back: bool
) -> CompressStats:
    stats = _stats(name, quality, pixels[None], encoded, np.array([fell_back]))
    stats.bytes_out, stats.fallback_images = num_bytes, [0] * fell_back
    return stats


def compress_image(
    pixels: U8,
    *,
    quality: int | None = None,
    model: str = "auto",
    lossless: bool = False,
    max_bytes: int | None = None,
    min_psnr: float | None = None,
    effort: int | None = None,
    guard: bool = True,
) -> tuple[bytes, CompressStats]:
    """uint8 (28, 28) -> single-image stream."""
    pixels = _check_pixels(pixels, (2,))[None]
    streams, stats = compress_images(
        pixels,
        quality=quality,
        model=model,
        lossless=lossless,
        max_bytes=max_bytes,
        min_psnr=min_psnr,
        effort=effort,
        guard=guard,
    )
    return streams[0], stats


def encode_block(
    models: list[BaseModel], pixels: U8, asked: Request, names: list[str] | None
) -> tuple[bytes, CompressStats]:
    """uint8 (N, 28, 28), N >= 1 -> a block, and what was done (bytes_out: the block's).

    Raises ImageError naming an image that cannot be what is asked.
    """
    plan = _plan(models, pixels, asked, as_block=True)
    unmodelled = [i for part in plan.parts if part.model is None for i in part.images.tolist()]
    missed = plan.missed | {
        i: "only lossless it would be good enough, and no lossless model is installed"
        for i in unmodelled
    }
    for i, why in sorted(missed.items()):
        raise ImageError(f"{names[i] if names else f'image {i}'}: {why}")
    stats, packed = CompressStats(), []
    for part, encoded in zip(plan.parts, plan.encode(pixels), strict=True):
        assert part.model is not None
        assert encoded is not None
        packed.append((Part(part.model.hash, part.quality, part.images), encoded.messages))
        stats += _stats(
            part.model.name, part.quality, pixels[part.images], encoded, plan.fell_back[part.images]
        )
    block = pack_block(packed, names)
    stats.bytes_out, stats.fallback_images = (
        len(block),
        np.flatnonzero(plan.fell_back)[:MAX_LISTED].tolist(),
    )
    return block, stats


def embeddable(models: list[BaseModel]) -> list[bytes]:
    """The files of the models, to be embedded in a collection.

    Raises UsageError if they are more than its header takes.
    """
    files = [model.stream for model in models]
    if sum(map(len, files)) + 8 * len(files) + 8 > bitstream.MAX_EXTENSION_BYTES:
        raise UsageError(
            f"models of {sum(map(len, files))} bytes are too large to be embedded: name one of them"
        )
    return files


class CollectionWriter:
    """Writes images to a collection in a binary file, keeping no more than one block in memory.

        with CollectionWriter(file, quality=60) as writer:
            writer.write(pixels, names)

    The footer is written on leaving without an exception. All images have names, or none has.
    embed_model: put the models that may be used into the file, so that it can be read where they
    are not installed.
    """

    def __init__(
        self,
        file: BinaryIO,
        *,
        quality: int | None = None,
        model: str = "auto",
        lossless: bool = False,
        max_bytes: int | None = None,
        min_psnr: float | None = None,
        effort: int | None = None,
        guard: bool = True,
        embed_model: bool = False,
    ) -> None:
        self._asked = request(quality, lossless, max_bytes, min_psnr, effort, guard)
        if embed_model and min_psnr is not None:
            raise UsageError(NO_EMBEDDING)
        self._models = candidates(model, self._asked.quality)
        self._writer = Writer(file, embeddable(self._models) if embed_model else None)
        self._pixels: deque[U8] = deque()  # images that wait for their block to be full
        self._names: deque[str] = deque()
        self._waiting = 0
        self._named: bool | None = None
        self.stats = CompressStats()

    def write(self, pixels: U8, names: list[str] | None = None) -> None:
        """Append uint8 (N, 28, 28), any N.  Raises ImageError, UsageError."""
        pixels = _check_pixels(pixels, (3,))
        if names is not None and len(names) != len(pixels):
            raise UsageError(f"{len(names)} names for {len(pixels)} images")
        if self._named not in (None, names is not None):
            raise UsageError("some images of the collection have names and some have none")
        if any("\0" in name for name in names or ()):
            raise UsageError("a name contains NUL")
        self._named = names is not None
        if len(pixels):
            self._pixels.append(pixels)
        self._names += names or []
        self._waiting += len(pixels)
        while self._waiting >= BLOCK_IMAGES:
            self._write_block(BLOCK_IMAGES)
        if len(pixels) and self._pixels:
            # Of the caller's array, which may be large and may change, only what waits is kept.
            self._pixels[-1] = self._pixels[-1].copy()

    def _take(self, count: int) -> U8:
        """The first `count` of the images that wait; all others stay where they are."""
        parts: list[U8] = []
        while count:
            first = self._pixels.popleft()
            parts.append(first[:count])
            if len(first) > count:
                self._pixels.appendleft(first[count:])
            self._waiting -= len(parts[-1])
            count -= len(parts[-1])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _write_block(self, count: int) -> None:
        pixels = self._take(count)
        names = [self._names.popleft() for _ in range(count)] if self._named else None
        block, stats = encode_block(self._models, pixels, self._asked, names)
        self._writer.write(block, len(pixels))
        self.stats += stats

    def __enter__(self) -> CollectionWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()

    def close(self) -> None:
        """Write what is left, and the footer."""
        if self._waiting:
            self._write_block(self._waiting)
        self._writer.finish()
        self.stats.bytes_out = self._writer.num_bytes


def compress(
    pixels: U8,
    *,
    quality: int | None = None,
    model: str = "auto",
    lossless: bool = False,
    max_bytes: int | None = None,
    min_psnr: float | None = None,
    effort: int | None = None,
    guard: bool = True,
    names: list[str] | None = None,
    embed_model: bool = False,
) -> bytes:
    """Compress one image, uint8 (28, 28), or a collection, uint8 (N, 28, 28).

    quality: 0 (smallest) to 99 (best), or 100: lossless; by default 75. lossless: every pixel comes
    back, as by quality 100. max_bytes: of each image the best quality at which it has no more bytes
    of payload (in a collection: would have, by itself). min_psnr: of each image the fewest bytes
    for which it has that many dB; lossless, if nothing less reaches them. effort: 1 (fastest) to 9,
    by default 3, with max_bytes or min_psnr 1: how long to search for fewer bytes and more dB.
    guard: an image that comes out 3 dB worse than its quality gives in the model's domain falls
    back to a better coding. names: of the images of a collection. embed_model: put the model into
    the collection. Raises ImageError, UsageError, ModelNotFound, BadModel.

    >>> stream = compress(np.zeros((28, 28), np.uint8))
    """
    pixels = _check_pixels(pixels, (2, 3))
    if pixels.ndim == 2:
        if names is not None or embed_model:
            raise UsageError(
                "a single image has no name and embeds no model: give (1, 28, 28) for a "
                "collection of one"
            )
        return compress_image(
            pixels,
            quality=quality,
            model=model,
            lossless=lossless,
            max_bytes=max_bytes,
            min_psnr=min_psnr,
            effort=effort,
            guard=guard,
        )[0]
    file = io.BytesIO()
    with CollectionWriter(
        file,
        quality=quality,
        model=model,
        lossless=lossless,
        max_bytes=max_bytes,
        min_psnr=min_psnr,
        effort=effort,
        guard=guard,
        embed_model=embed_model,
    ) as writer:
        writer.write(pixels, names)
    return file.getvalue()


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


def decode_blocks(file: BinaryIO, *, model: str | None = None) -> Iterator[DecodedBlock]:
    """border: goes when commands call `open_stream(...).salvage()`."""
    stream = open_stream(file, model=model, recover=True)
    end, is_single = 0, not isinstance(stream, Collection)
    for decoded in stream.salvage():
        yield (block := as_block(decoded, is_single, end))
        end = block.first + block.count


def recovered(source: Path | BinaryIO, model: str | None) -> Collection | None:
    """border: goes when commands call `open_stream`."""
    stream = open_stream(source, model=model, recover=True)
    return stream if isinstance(stream, Collection) else None


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
    "BLOCK_IMAGES",
    "DEFAULT_QUALITY",
    "Collection",
    "CollectionWriter",
    "CompressStats",
    "DecodedBlock",
    "ModelInfo",
    "Request",
    "StreamInfo",
    "Target",
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
