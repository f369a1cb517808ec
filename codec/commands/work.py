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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from codec.arrays import U8
from codec.encoder.encode import Encoder, Packed
from codec.encoder.options import Options
from codec.encoder.stats import CompressStats
from codec.errors import AezError, BadModel, ImageError, ModelNotFound
from codec.files import images
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


class ReadImage(NamedTuple):
    """The pixels (28, 28) of an image file, and its size in bytes."""

    pixels: U8
    size_bytes: int


def read_images(paths: Sequence[str]) -> list[ReadImage | Exception]:
    """Read image files, paths or URLs: each image, or why there is none."""
    places = [place(path) for path in paths]
    return [_read_image(*pair) for pair in zip(places, read_many(places), strict=True)]


def _read_image(where: Place, content: bytes | Exception | None) -> ReadImage | Exception:
    if content is not None:
        return _decoded(content, str(where))
    assert where.path is not None
    try:
        return ReadImage(images.read_image(where.path), where.size())
    except (AezError, OSError) as error:
        return error


def _decoded(content: bytes | Exception, name: str) -> ReadImage | Exception:
    """An image file in memory -> its image, or why there is none."""
    if isinstance(content, Exception):
        return content
    try:
        return ReadImage(images.read_image(io.BytesIO(content), name=name), len(content))
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
    `contents`, image files in memory or why they could not be read.
    """

    pixels: U8 | None
    paths: Sequence[str]
    names: Sequence[str] | None
    options: Options
    models: tuple[ModelRef, ...]
    labels: Labels | None = None
    contents: Sequence[bytes | Exception] | None = None


class Unread(NamedTuple):
    """An image of a task that could not be read: its position, its name (path, if it has none)."""

    at: int
    name: str
    error: Exception


@dataclass
class BlockResult:
    """A block, b"" if none of its images could be read.

    failed: the images that could not be read; inputs: `identity` of the files; pixels_digest:
    BLAKE2b of the encoded pixels; labels_digest: of their labels.
    """

    block: bytes = b""
    stats: CompressStats = field(default_factory=CompressStats)
    failed: list[Unread] = field(default_factory=list)
    bytes_in: int = 0
    inputs: str = ""
    pixels_digest: str = ""
    labels_digest: str = ""


def encode_block(task: BlockTask) -> BlockResult:
    """Read, if need be, and encode.  Raises ModelNotFound, BadModel."""
    result = BlockResult()
    pixels, names, labels = task.pixels, task.names, task.labels
    if pixels is None:
        if task.contents is None:
            # before reading: a file that changes meanwhile must not look unchanged later
            result.inputs = identity(task.paths)
        good: dict[int, ReadImage] = {}
        for i, (called, read) in enumerate(_read(task)):
            if isinstance(read, Exception):
                result.failed.append(Unread(i, called, read))
            else:
                good[i] = read
        if not good:
            return result
        result.bytes_in = sum(image.size_bytes for image in good.values())
        pixels = np.stack([image.pixels for image in good.values()])
        names = None if names is None else [names[i] for i in good]
        labels = None if labels is None else picked(labels, list(good))
    encoder = Encoder(task.options, [model_of(ref) for ref in task.models])
    named = None if names is None else list(names)
    result.block, result.stats = encoder.block(pixels, named, labels)
    result.pixels_digest, result.labels_digest = digest_of(pixels), labels_digest(labels)
    return result


def _read(task: BlockTask) -> Iterator[tuple[str, ReadImage | Exception]]:
    """What the images of a task without pixels are called, and each image, or why there is none."""
    if task.contents is None:
        return zip(task.names or task.paths, read_images(task.paths), strict=True)
    called = task.names or [f"image {i}" for i in range(len(task.contents))]
    return zip(called, map(_decoded, task.contents, called), strict=True)


class EachTask(NamedTuple):
    """Image files, each of which becomes a stream."""

    paths: Sequence[str]
    outputs: Sequence[Place]
    options: Options
    models: tuple[ModelRef, ...]
    force: bool
    durable: bool


class EachResult(NamedTuple):
    """Of one image: the figures of its stream, or why there is none; pixels_digest: its BLAKE2b."""

    stats: CompressStats | Exception
    bytes_in: int = 0
    pixels_digest: str = ""


def encode_each(task: EachTask) -> list[EachResult]:
    """Read, encode in one network pass, write.  Raises ModelNotFound, BadModel."""
    read = read_images(task.paths)
    good = [image.pixels for image in read if isinstance(image, ReadImage)]
    encoder = Encoder(task.options, [model_of(ref) for ref in task.models])
    streams = iter(encoder.images(np.stack(good)) if good else ())
    results = []
    for image, output in zip(read, task.outputs, strict=True):
        if isinstance(image, Exception):
            results.append(EachResult(image))
            continue
        try:
            packed = next(streams)
            if isinstance(packed, ImageError):
                raise packed
            with output.replace(force=task.force, durable=task.durable) as file:
                file.write(packed.data)
            results.append(EachResult(packed.stats, image.size_bytes, digest_of(image.pixels)))
        except (AezError, OSError) as error:
            results.append(EachResult(error))
    return results


def encode_one(content: bytes, options: Options, name: str) -> Packed:
    """An image file in memory -> a stream.  Raises ImageError, ModelNotFound, BadModel."""
    pixels = images.read_image(io.BytesIO(content), name=name)
    (packed,) = Encoder(options).images(pixels[None])
    if isinstance(packed, ImageError):
        raise packed
    return packed
