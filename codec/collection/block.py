"""One block of a collection: reading the bytes that are needed, and decoding them.

    block.decode([7])      random access: header, index, the message of group 7 -> its images
    block.salvage()        everything in one read, as far as it is intact, and what is wrong

Both return `Decoded`; a `Verdict` is the same without the pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np

from codec.arrays import I16, I64, SIDE, U8, Bools
from codec.collection.models import FindModel
from codec.collection.source import ByteSource
from codec.errors import BitstreamError, CorruptPayload, LimitExceeded, Truncated
from codec.format.block import fault_of, unpack_block
from codec.format.constants import BLOCK_QUALITY_AT
from codec.format.headers import BLOCK, BlockHeader, unpack_block_header
from codec.format.index import Index, Part, only_part, unpack_index
from codec.format.labels import labels_span, unpack_labels
from codec.format.names import unpack_names
from codec.format.primitives import MAX_VARINT_BYTES
from codec.labels import Labels, picked

Read = Callable[[int, int], bytes]  # (offset in the block, size) -> bytes, fewer only at the end


class Use(NamedTuple):
    """What a model has coded at a quality: how many images, and the bytes of their messages."""

    model_hash: bytes
    quality: int
    images: int
    payload_bytes: int


@dataclass(kw_only=True, eq=False)
class Verdict:
    """Which of some images of a stream are intact.

    images: their numbers in the stream, int64 (N,), rising; lost: which of them do not decode, bool
    (N,); names: one each, empty if they have none; labels: one each, None if they have none; fault:
    what is wrong, None: nothing. There can be a fault without a lost image: in names, labels,
    footer, or bytes whose change was harmless.
    """

    images: I64
    lost: Bools
    names: list[str] = field(default_factory=list)
    labels: Labels | None = None
    fault: BitstreamError | None = None

    def pick(self, which: Bools) -> Self:
        """Some of the images, bool (N,); the fault stays."""
        if which.all():
            return self
        changes: dict[str, Any] = {
            k: array[which] for k, array in vars(self).items() if isinstance(array, np.ndarray)
        }
        if self.names:
            changes["names"] = [self.names[i] for i in np.flatnonzero(which)]
        if self.labels is not None:
            changes["labels"] = picked(self.labels, which)
        return replace(self, **changes)


@dataclass(kw_only=True, eq=False)
class Decoded(Verdict):
    """A Verdict with the pixels, uint8 (N, 28, 28), zeros where lost; and the latents, int16 (N,
    K), None if they were not wanted.
    """

    pixels: U8
    latents: I16 | None = None

    @property
    def verdict(self) -> Verdict:
        """The same without the pixels: what a worker process has to send."""
        return Verdict(
            images=self.images,
            lost=self.lost,
            names=self.names,
            labels=self.labels,
            fault=self.fault,
        )


def all_lost(images: I64, fault: BitstreamError) -> Decoded:
    """Images that cannot be decoded, and why."""
    nothing = np.zeros((len(images), SIDE, SIDE), np.uint8)
    return Decoded(images=images, lost=np.ones(len(images), np.bool_), fault=fault, pixels=nothing)


def _joined(parts: list[Decoded]) -> Decoded:
    """Images decoded part by part, now in their order in the block."""
    if len(parts) == 1:
        return parts[0]
    images = np.sort(np.concatenate([part.images for part in parts]))
    pixels, lost = np.empty((len(images), SIDE, SIDE), np.uint8), np.empty(len(images), np.bool_)
    latents = [part.latents for part in parts if part.latents is not None]
    joined = np.empty((len(images), latents[0].shape[1]), np.int16) if latents else None
    for part in parts:
        at = images.searchsorted(part.images)
        pixels[at], lost[at] = part.pixels, part.lost
        if joined is not None and part.latents is not None:
            joined[at] = part.latents
    fault = next((part.fault for part in parts if part.fault is not None), None)
    return Decoded(images=images, lost=lost, fault=fault, pixels=pixels, latents=joined)


class Block:
    """One block of a collection.  Nothing is read before it is needed.

    offset: of the block in the file; first: the number of its first image; count: how many images
    it has, size: its bytes, both by the footer. Raises BitstreamError if it is damaged or
    contradicts the footer; ModelNotFound, BadModel.
    """

    def __init__(
        self,
        source: ByteSource,
        find_model: FindModel,
        *,
        offset: int,
        first: int,
        count: int,
        size: int,
    ) -> None:
        self._source, self._find_model = source, find_model
        self.offset, self.first, self.count, self.size = offset, first, count, size

    @property
    def images(self) -> I64:
        """The numbers of its images in the collection."""
        return np.arange(self.first, self.first + self.count)

    @cached_property
    def header(self) -> BlockHeader:
        """Its header, checked against the footer."""
        return self._checked(unpack_block_header(self._read(0, BLOCK.size), self.offset))

    def _checked(self, header: BlockHeader) -> BlockHeader:
        if header.image_count != self.count or header.block_bytes != self.size:
            raise LimitExceeded(
                "block and footer disagree about the size of this block", self.offset
            )
        return header

    @cached_property
    def index(self) -> Index:
        """Its groups and their messages."""
        return self._index(self._read)

    @property
    def parts(self) -> list[Part]:
        """Its parts.  The header describes the only part of most blocks: no more is read then."""
        return self.index.parts if self.header.has_parts else [only_part(self.header)]

    def uses(self) -> list[Use]:
        """Its parts, in figures; of most blocks the header has them all."""
        if not self.header.has_parts:
            sizes = [self.header.payload_bytes]
        else:
            sizes = self.index.part_bytes()
        return [
            Use(part.model_hash, part.quality, len(part.images), size)
            for part, size in zip(self.parts, sizes, strict=True)
        ]

    def names(self) -> list[str]:
        """Names of its images, empty if they have none."""
        return self._names(self._read)

    def labels(self) -> Labels | None:
        """Labels of its images, None if they have none."""
        return self._labels(self._read)

    def names_or_numbers(self) -> list[str]:
        """As `names`; damaged ones are replaced by `nameless-` and the number of the image."""
        try:
            return self.names()
        except BitstreamError:
            return self._numbered()

    def _numbered(self) -> list[str]:
        return [f"nameless-{number:08d}" for number in range(self.first, self.first + self.count)]

    def read(self) -> bytes:
        """The bytes of the block, its Checksum verified, to copy it into another collection."""
        block = self._read(0, self.size)
        self._checked(unpack_block(block, self.offset))
        return block

    def decode(self, groups: Sequence[int], *, latents: bool = False) -> Decoded:
        """The images of some groups, in rising order; no other message is read.

        latents: whether to return them. Raises CorruptPayload, Truncated if an image is lost.
        """
        decoded = self._decode(self._read, self.index, groups, latents)
        if decoded.fault is not None:
            raise decoded.fault
        return decoded

    def salvage(self) -> Decoded:
        """All images, as far as they are intact.  Raises ModelNotFound, BadModel, no other."""
        try:
            header, block = self.header, self._read(0, self.size)

            def read(at: int, size: int) -> bytes:
                return block[at : at + size]

            index = self._index(read)
        except BitstreamError as error:
            return all_lost(self.images, error)
        fault = fault_of(header, block, self.offset)
        try:
            names = self._names(read)
        except BitstreamError as error:
            fault, names = error, self._numbered()
        labels = None
        try:
            labels = self._labels(read)
        except BitstreamError as error:
            fault = error
        decoded = self._decode(read, index, None, False)
        return replace(decoded, names=names, labels=labels, fault=fault or decoded.fault)

    # The body of the block; read: reads from the file, or from the block in memory

    def _read(self, at: int, size: int) -> bytes:
        return self._source.read(self.offset + at, size)

    def _area(self, read: Read, at: int, size: int) -> bytes:
        area = read(at, size)
        if len(area) != size:
            raise Truncated("the stream ends inside a block", self.offset)
        return area

    def _names(self, read: Read) -> list[str]:
        if not self.header.has_names:
            return []
        at, end = sum(self._labels_span(read)), BLOCK.size + self.header.names_bytes
        return unpack_names(self._area(read, at, end - at), self.count, self.offset + at)

    def _labels(self, read: Read) -> Labels | None:
        if not self.header.has_labels:
            return None
        at, size = self._labels_span(read)
        return unpack_labels(self._area(read, at, size), self.count, self.offset + at)

    def _labels_span(self, read: Read) -> tuple[int, int]:
        """Where the frame of the labels lies, and its size; names follow."""
        if not self.header.has_labels:
            return BLOCK.size, 0
        start = self._area(read, BLOCK.size, min(MAX_VARINT_BYTES, self.header.names_bytes))
        at, size = labels_span(start, self.header, self.offset + BLOCK.size)
        return BLOCK.size + at, size

    def _index(self, read: Read) -> Index:
        at = BLOCK.size + self.header.names_bytes
        area = self._area(read, at, self.header.index_bytes)
        return Index(*unpack_index(area, self.header, self.offset + at))

    def _decode(
        self, read: Read, index: Index, groups: Sequence[int] | None, latents: bool
    ) -> Decoded:
        return _joined([self._decode_part(read, index, *p, latents) for p in index.by_part(groups)])

    def _decode_part(
        self,
        read: Read,
        index: Index,
        part: Part,
        groups: Sequence[int],
        images: I64,
        latents: bool,
    ) -> Decoded:
        model, numbers, found = self._find_model(part.model_hash), self.first + images, None
        try:
            model.check_quality(part.quality, self.offset + BLOCK_QUALITY_AT)
        except BitstreamError as error:
            return all_lost(numbers, error)
        payload_at = BLOCK.size + self.header.names_bytes + self.header.index_bytes
        spans = [index.span(group) for group in groups]
        messages = [read(payload_at + start, size) for start, size in spans]
        if latents:
            pixels, found, damaged = model.decode_latents(messages, len(images), part.quality)
        else:
            pixels, damaged = model.decode(messages, len(images), part.quality)
        # A message cut off by the end of the file decodes to garbage, which its check can miss.
        cut_off = [len(m) < size for m, (_, size) in zip(messages, spans, strict=True)]
        if any(cut_off):
            damaged = damaged | cut_off
        # All groups but a part's last are full, and the last one comes last here too.
        lost, fault = np.repeat(damaged, part.group_images)[: len(images)], None
        if lost.any():
            pixels[lost] = 0
            first = f"image {numbers[np.argmax(lost)]} and the rest of its group are damaged"
            fault = CorruptPayload(first, self.offset)
        return Decoded(images=numbers, lost=lost, fault=fault, pixels=pixels, latents=found)
