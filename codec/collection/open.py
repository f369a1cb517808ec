"""Opening a stream, one image or a collection, and reading its headers.

    with open_stream(source) as stream:     # a Collection or a SingleImage
        len(stream), stream.pixels()        # all images; an error if anything is damaged
        for decoded in stream.salvage():    # all that is intact, and what is not
            ...

With `recover` a collection opens even if its first bytes are damaged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from codec.arrays import SIDE
from codec.collection.models import installed, name_of
from codec.collection.reader import Collection
from codec.collection.salvage import first_block
from codec.collection.single import SingleImage
from codec.collection.source import ByteSource, Source
from codec.errors import BitstreamError
from codec.format.constants import (
    END_MAGIC,
    MAX_IMAGE_STREAM_BYTES,
    VERSION,
    max_error_of,
)
from codec.format.footer import SMALLEST_COLLECTION
from codec.format.headers import COLLECTION, is_collection


def open_stream(
    source: Source, *, model: str | Path | None = None, recover: bool = False
) -> Collection | SingleImage:
    """Open a stream: one image or a collection.

    source: a path or URL (by fsspec), the bytes, or a seekable binary file, which stays open.
    model: name or file of a model to use if the stream names it. recover: open a collection even if
    its header is damaged. Raises BitstreamError, ModelNotFound, BadModel, OSError.
    """
    find_model = installed(model)
    with _closed_on_error(source) as opened:
        if _is_collection(opened, recover):
            return Collection(opened, find_model, recover=recover)
        stream = opened.read(0, MAX_IMAGE_STREAM_BYTES + 1)
        opened.close()
        return SingleImage(stream, find_model, opened.size)


def open_collection(
    source: Source, *, model: str | Path | None = None, recover: bool = False
) -> Collection:
    """As `open_stream`, but raises BitstreamError for a single image."""
    find_model = installed(model)
    with _closed_on_error(source) as opened:
        return Collection(opened, find_model, recover=recover)


@contextlib.contextmanager
def _closed_on_error(source: Source) -> Iterator[ByteSource]:
    opened = ByteSource(source)
    try:
        yield opened
    except BaseException:
        opened.close()
        raise


def _is_collection(source: ByteSource, recover: bool) -> bool:
    start = source.read(0, COLLECTION.size)
    try:
        if is_collection(start):
            return True
    except BitstreamError:
        if not recover or len(start) < COLLECTION.size:
            raise
        return True  # if its other bytes do not show that, `Collection` raises
    # One flipped bit makes a collection look like a single image; its end is still that of one.
    end = source.read(max(0, source.size - len(END_MAGIC)), len(END_MAGIC))
    return (
        end == END_MAGIC and source.size > SMALLEST_COLLECTION and first_block(source) is not None
    )


@dataclass
class ModelUse:
    """What a model has coded in a stream.

    name: None if the model is neither installed nor embedded; hash: hexadecimal; payload_bytes: of
    the messages of its images.
    """

    name: str | None
    hash: str
    images: int
    payload_bytes: int


@dataclass
class StreamInfo:
    """What the headers of a stream say.

    model, model_hash: several are joined by commas; model is None if none of them is installed or
    embedded. quality: None if there are several; 101 for a stored image, which has no model and no
    model_hash; 128 + N is near-lossless. max_error: how much any pixel can differ from the
    original, 0 if all are lossless; None if there is no bound. bytes: the whole stream;
    payload_bytes: its entropy-coded part. labels: how many different ones there are, label_kind:
    "integers" or "texts"; None if there are none. names: whether images have names. qualities: how
    many images have which, rising; models: the same by model, in order of appearance. model_number:
    of a single image, if this version does not know the number that names its model, which then has
    no hash.
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
    max_error: int | None = None
    labels: int | None = None
    label_kind: str | None = None
    names: bool = False
    qualities: dict[int, int] = field(default_factory=dict)
    models: list[ModelUse] = field(default_factory=list)
    model_number: int | None = None


def info(source: Source) -> StreamInfo:
    """Read the headers and labels of a stream, never its payload.

    source: a path or URL, the bytes, or a seekable binary file. Raises BitstreamError.

    >>> import codec, numpy as np
    >>> codec.info(codec.compress(np.zeros((28, 28), np.uint8))).quality
    75
    """
    with open_stream(source) as stream:
        labels = stream.distinct_labels() if isinstance(stream, Collection) else set()
        kinds = sorted({"texts" if isinstance(label, str) else "integers" for label in labels})
        models, qualities = _shares(stream)
        bounds = [max_error_of(quality) for quality in qualities]
        return StreamInfo(
            format_version=VERSION,
            images=len(stream),
            width=SIDE,
            height=SIDE,
            model=", ".join(model.name for model in models if model.name) or None,
            model_hash=", ".join(model.hash for model in models),
            quality=next(iter(qualities)) if len(qualities) == 1 else None,
            lossless=_largest(bounds) == 0,
            bytes=stream.num_bytes,
            payload_bytes=stream.payload_bytes,
            max_error=_largest(bounds),
            labels=len(labels) or None,
            label_kind=", ".join(kinds) or None,
            names=isinstance(stream, Collection) and stream.has_names,
            qualities=qualities,
            models=models,
            model_number=stream.unknown_model if isinstance(stream, SingleImage) else None,
        )


def _largest(bounds: Sequence[int | None]) -> int | None:
    """Of bounds: None if one of them is."""
    known = [bound for bound in bounds if bound is not None]
    return max(known, default=0) if len(known) == len(bounds) else None


def _shares(stream: Collection | SingleImage) -> tuple[list[ModelUse], dict[int, int]]:
    """What each model has coded, and how many images have each quality."""
    models: dict[bytes, ModelUse] = {}
    qualities: dict[int, int] = {}
    find = name_of if isinstance(stream, SingleImage) else stream.model.name_of
    for model_hash, quality, images, payload_bytes in stream.uses():
        qualities[quality] = qualities.get(quality, 0) + images
        if model_hash:
            if model_hash not in models:
                models[model_hash] = ModelUse(find(model_hash), model_hash.hex(), 0, 0)
            models[model_hash].images += images
            models[model_hash].payload_bytes += payload_bytes
    return list(models.values()), dict(sorted(qualities.items()))
