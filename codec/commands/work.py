"""Blocks as units of work: the same functions here, in worker processes, and on a Dask cluster.

READ ME FIRST
- A task has all that a worker needs: the images (files to read, or pixels), options and models. The
  result is a finished block. So bytes do not depend on the workers, on how many there are, or on
  which of them died.
- Block k of a collection has the inputs from k * `block_images` on. If an input cannot be read, its
  block is shorter, and the other blocks are the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from codec.arrays import U8
from codec.encoder.encode import Encoder, Packed
from codec.encoder.options import Options
from codec.encoder.stats import CompressStats
from codec.errors import AezError, BadModel, ImageError, ModelNotFound
from codec.files import images
from codec.files.images import Examined
from codec.files.place import Place, place, read_many
from codec.format.constants import MODEL_HASH_BYTES
from codec.labels import Labels, picked
from codec.labels import digest_of as labels_digest
from codec.model import registry
from codec.model.bundle import Model

# Images of a task whose outputs are single files: enough for a worker and for a large batch.
SHARD_IMAGES = 512


# Models


class ModelRef(NamedTuple):
    """A model and its encoder, None if it is lossless: as their hashes, or as their files."""

    model: bytes
    encoder: bytes | None


def model_ref(model: Model) -> ModelRef:
    """How a task names a model: by hashes if every installation has it, else by its files.

    Raises EncoderNotFound, BadModel.
    """
    if registry.id_of(model):
        with contextlib.suppress(ModelNotFound):  # it was given as a file
            if registry.by_hash(model.hash).encoder_hash == model.encoder_hash:
                return ModelRef(model.hash, model.encoder_hash)
    return ModelRef(model.stream, model.encoder_stream)


@lru_cache(maxsize=8)
def model_of(ref: ModelRef) -> Model:
    """Inverse of `model_ref`.  Raises ModelNotFound, BadModel."""
    if len(ref.model) != MODEL_HASH_BYTES:
        return registry.unpack_model(ref.model, ref.encoder)
    model = registry.by_hash(ref.model)
    if model.encoder_hash != ref.encoder:  # bytes must not depend on who does the work
        raise BadModel(f"model {model.name} has another encoder on this worker")
    return model


# Reading


def read_images(paths: Sequence[str], grey: bool = False) -> list[Examined | Exception]:
    """Read image files, paths or URLs: each image, or why there is none."""
    places = [place(path) for path in paths]
    pairs = zip(places, read_many(places), strict=True)
    return [
        _examined(where.path if content is None else content, str(where), grey)
        for where, content in pairs
    ]


def _examined(
    content: Path | bytes | Exception | None, name: str, grey: bool
) -> Examined | Exception:
    """An image file -> its image, or why there is none."""
    if isinstance(content, Exception):
        return content
    assert content is not None
    source = io.BytesIO(content) if isinstance(content, bytes) else content
    try:
        return images.examine(source, name, grey=grey)
    except (AezError, OSError) as error:
        return error


def identity(paths: Sequence[str]) -> str:
    """A digest of the size and time of each file, or of its error; it changes when a file does."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        try:
            mark = place(path).identity()
        except OSError as error:
            mark = f"? {error.errno}"
        digest.update(f"{mark}\n".encode())
    return digest.hexdigest()


def digest_of(pixels: U8) -> str:
    """BLAKE2b of pixels, in hexadecimal."""
    return hashlib.blake2b(pixels.tobytes(), digest_size=16).hexdigest()


# Compressing


class BlockTask(NamedTuple):
    """One block to make, of `pixels`, uint8 (N, 28, 28), or of `paths`, image files, or of
    `contents`, image files in memory or why they could not be read; grey: see `read_image`.
    """

    pixels: U8 | None
    paths: Sequence[str]
    names: Sequence[str] | None
    options: Options
    models: tuple[ModelRef, ...]
    labels: Labels | None = None
    contents: Sequence[bytes | Exception] | None = None
    grey: bool = False


class Unread(NamedTuple):
    """An image of a task that could not be read: its position, its name (path, if it has none)."""

    at: int
    name: str
    error: Exception


@dataclass
class BlockResult:
    """A block, b"" if none of its images could be read.

    failed: the images that could not be read; inputs: `identity` of the files; pixels_digest:
    BLAKE2b of the encoded pixels; labels_digest: of their labels; dropped: what files say besides
    their pixels (`Examined`), and how many of them; partial: the positions of those that do.
    """

    block: bytes = b""
    stats: CompressStats = field(default_factory=CompressStats)
    failed: list[Unread] = field(default_factory=list)
    bytes_in: int = 0
    inputs: str = ""
    pixels_digest: str = ""
    labels_digest: str = ""
    dropped: dict[str, int] = field(default_factory=dict)
    partial: list[int] = field(default_factory=list)


def encode_block(task: BlockTask) -> BlockResult:
    """Read, if need be, and encode.  Raises ModelNotFound, BadModel."""
    result = BlockResult()
    pixels, names, labels = task.pixels, task.names, task.labels
    if pixels is None:
        if task.contents is None:
            # before reading: a file that changes meanwhile must not look unchanged later
            result.inputs = identity(task.paths)
        good: dict[int, Examined] = {}
        for i, (called, read) in enumerate(_read(task)):
            if isinstance(read, Exception):
                result.failed.append(Unread(i, called, read))
            else:
                good[i] = read
        if not good:
            return result
        result.bytes_in = sum(image.num_bytes for image in good.values())
        result.dropped = Counter(what for image in good.values() for what in image.dropped)
        result.partial = [i for i, image in good.items() if image.dropped]
        pixels = np.stack([image.pixels for image in good.values()])
        names = None if names is None else [names[i] for i in good]
        labels = None if labels is None else picked(labels, list(good))
    encoder = Encoder(task.options, [model_of(ref) for ref in task.models])
    named = None if names is None else list(names)
    result.block, result.stats = encoder.block(pixels, named, labels)
    result.pixels_digest, result.labels_digest = digest_of(pixels), labels_digest(labels)
    return result


def _read(task: BlockTask) -> Iterator[tuple[str, Examined | Exception]]:
    """What the images of a task without pixels are called, and each image, or why there is none."""
    if task.contents is None:
        found = read_images(task.paths, task.grey)
        return zip(task.names or task.paths, found, strict=True)
    called = task.names or [f"image {i}" for i in range(len(task.contents))]
    pairs = zip(task.contents, called, strict=True)
    return ((name, _examined(content, name, task.grey)) for content, name in pairs)


class EachTask(NamedTuple):
    """Image files, each of which becomes a stream."""

    paths: Sequence[str]
    outputs: Sequence[Place]
    options: Options
    models: tuple[ModelRef, ...]
    force: bool
    durable: bool
    grey: bool = False


class EachResult(NamedTuple):
    """Of one image: the figures of its stream, or why there is none; pixels_digest: its BLAKE2b;
    dropped: see `Examined`.
    """

    stats: CompressStats | Exception
    bytes_in: int = 0
    pixels_digest: str = ""
    dropped: tuple[str, ...] = ()


def encode_each(task: EachTask) -> list[EachResult]:
    """Read, encode in one network pass, write.  Raises ModelNotFound, BadModel."""
    read = read_images(task.paths, task.grey)
    good = [image.pixels for image in read if isinstance(image, Examined)]
    encoder = Encoder(task.options, [model_of(ref) for ref in task.models])
    streams = iter(encoder.images(np.stack(good)) if good else ())
    results = []
    for path, image, output in zip(task.paths, read, task.outputs, strict=True):
        if isinstance(image, Exception):
            results.append(EachResult(image))
            continue
        try:
            packed = next(streams)
            if isinstance(packed, ImageError):
                raise packed
            mode = place(path).mode()
            with output.replace(force=task.force, durable=task.durable, mode=mode) as file:
                file.write(packed.data)
            results.append(
                EachResult(packed.stats, image.num_bytes, digest_of(image.pixels), image.dropped)
            )
        except (AezError, OSError) as error:
            results.append(EachResult(error))
    return results


def encode_one(image: Examined, options: Options) -> Packed:
    """One image -> a stream.  Raises ImageError, ModelNotFound, BadModel."""
    (packed,) = Encoder(options).images(image.pixels[None])
    if isinstance(packed, ImageError):
        raise packed
    return packed
