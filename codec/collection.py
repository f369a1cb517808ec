"""Many images in one file: blocks, names, index, random access.  FORMAT.md 3, 4 and 9.

READ ME FIRST
- A collection is a header, blocks, a footer. A block is complete in itself (it names its model, quality and sizes), so
  blocks are copied between collections as they are, and one damaged block costs no other.
- GROUP_IMAGES neighbours share one coder state; the group is the unit of random access and of damage.
- The footer lists the blocks. Without it a reader walks from block to block, and past damage looks for the next
  Block_Magic; nothing that is intact is given up.

It knows models only through a function from Model_Hash to `BaseModel`, and never chooses one.
"""

from __future__ import annotations

import io
import operator
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, cast, overload

import numpy as np
import numpy.typing as npt

from codec import bitstream
from codec.bitstream import BLOCK, COLLECTION, FOOTER_END, GROUP_IMAGES, BlockHeader
from codec.bundle import BaseModel
from codec.errors import BitstreamError, ChecksumMismatch, CorruptPayload, LimitExceeded, Truncated
from codec.groups import Encoded

U8 = npt.NDArray[np.uint8]
FindModel = Callable[[bytes], BaseModel]

NAMES_LEVEL = 19  # of zstd: names are a few KiB a block, and a collection is written once


def pack_names(names: list[str]) -> bytes:
    """Names -> zstd frame of their UTF-8, each followed by NUL.  Raises ValueError for a name with NUL in it."""
    import zstandard  # only named collections pay for its start-up

    if any("\0" in name for name in names):
        raise ValueError("a name contains NUL")
    joined = "".join(name + "\0" for name in names).encode("utf-8", "surrogateescape")
    return zstandard.ZstdCompressor(level=NAMES_LEVEL, write_checksum=True).compress(joined)


def unpack_names(frame: bytes, count: int, offset: int) -> list[str]:
    """-> `count` names.  Raises BitstreamError."""
    import zstandard

    try:
        size = zstandard.get_frame_parameters(frame).content_size
        if size > bitstream.MAX_NAMES_BYTES:  # also when the frame does not say
            raise LimitExceeded(f"names of {size} bytes, at most {bitstream.MAX_NAMES_BYTES} are allowed", offset)
        joined = zstandard.ZstdDecompressor().decompress(frame, max_output_size=size)
    except zstandard.ZstdError as error:
        raise CorruptPayload(f"the names are damaged ({error})", offset) from error
    names = joined.decode("utf-8", "surrogateescape").split("\0")
    if len(names) != count + 1 or names[-1]:
        raise CorruptPayload(f"{len(names) - 1} names for {count} images", offset)
    return names[:-1]


def pack_block(model: BaseModel, pixels: U8, quality: int, names: list[str] | None) -> tuple[bytes, Encoded]:
    """pixels: uint8 (N, 28, 28), 1 <= N <= MAX_BLOCK_IMAGES -> block bytes, and what was encoded."""
    encoded = model.encode(pixels, quality)
    frame = pack_names(names) if names is not None else b""
    index = bitstream.pack_index([len(m) for m in encoded.messages])
    payload = b"".join(encoded.messages)
    sizes = (len(pixels), len(frame), len(index), len(payload))
    header = BlockHeader(model.hash, quality, names is not None, *sizes)
    body = frame + index + payload
    digest = bitstream.checksum(header.pack()[: -bitstream.CHECKSUM_BYTES], body)
    return BlockHeader(model.hash, quality, names is not None, *sizes, digest).pack() + body, encoded


class Writer:
    """Writes a collection block by block to a binary file, which it does not close."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._blocks: list[tuple[int, int]] = []
        self.num_bytes = self._file.write(bitstream.pack_collection_header())

    def write(self, block: bytes, images: int) -> None:
        """Append a packed block."""
        self._file.write(block)
        self._blocks.append((len(block), images))
        self.num_bytes += len(block)

    def finish(self) -> None:
        """Write the footer."""
        footer = bitstream.Footer(tuple(self._blocks)).pack()
        self._file.write(footer)
        self.num_bytes += len(footer)


class _Source:
    """Random reads from a path, bytes or a seekable file.

    A path is opened on first use and again in a forked child, so that processes never share a file position.
    """

    def __init__(self, source: Path | bytes | BinaryIO) -> None:
        self._path = source if isinstance(source, Path) else None
        self._file = io.BytesIO(source) if isinstance(source, bytes) else None if isinstance(source, Path) else source
        self._descriptor, self._pid = -1, -1
        if self._path is not None:
            self.size = self._path.stat().st_size
        else:
            assert self._file is not None
            self.size = self._file.seek(0, os.SEEK_END)

    def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset`."""
        if self._path is None:
            assert self._file is not None
            self._file.seek(offset)
            return self._file.read(size)
        if self._pid != os.getpid():
            self._descriptor, self._pid = os.open(self._path, os.O_RDONLY), os.getpid()
        parts = []
        while size > 0 and (part := os.pread(self._descriptor, size, offset)):
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts)

    def close(self) -> None:
        if self._path is not None and self._pid == os.getpid():
            os.close(self._descriptor)
            self._pid = -1

    def __getstate__(self) -> dict[str, object]:
        if self._path is None:
            raise TypeError("only a collection opened from a path can be pickled")
        return {**self.__dict__, "_descriptor": -1, "_pid": -1}


@dataclass
class DecodedBlock:
    """One block, decoded as far as it is intact.

    first: index of its first image; count: its images; pixels: uint8 (count, 28, 28), zeros where lost, or None if the
    whole block is; names: one each, empty if the collection has none; lost: indexes within the block; error: the fault.
    """

    first: int
    count: int
    pixels: U8 | None
    names: list[str] = field(default_factory=list)
    error: BitstreamError | None = None
    is_single: bool = False
    lost: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _Place:
    """Where a block lies: offset in the file, index of its first image, its images and bytes as the footer says."""

    offset: int
    first: int
    images: int
    size: int


class Collection:
    """A collection opened for reading: `len`, indexing by integer, slice or list, iteration, `names`.

    source: path, bytes, or seekable binary file. Headers are read when first needed; an image is decoded with the other
    images of its group only. Raises BitstreamError for faults, ModelNotFound.
    """

    def __init__(self, source: Path | bytes | BinaryIO, find_model: FindModel) -> None:
        self._source, self._find_model = _Source(source), find_model
        self._start = bitstream.unpack_collection_header(self._read_start())
        self._headers: dict[int, BlockHeader] = {}

    def _read_start(self) -> bytes:
        """The stream header with its extension area, whose length is in the first bytes of it."""
        start = self._source.read(0, COLLECTION.size + 5)
        if len(start) > COLLECTION.size and start[2] & bitstream.FLAG_EXTENDED:
            size, end = bitstream.unpack_varint(start, COLLECTION.size)
            start = self._source.read(0, end + min(size, bitstream.MAX_EXTENSION_BYTES))
        return start

    def __enter__(self) -> Collection:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        self._source.close()

    @cached_property
    def _places(self) -> list[_Place]:
        size = self._source.size
        footer_bytes = bitstream.unpack_footer_end(self._source.read(max(0, size - FOOTER_END.size), FOOTER_END.size), size)
        at = size - footer_bytes
        footer = bitstream.unpack_footer(self._source.read(at, footer_bytes), at, at - self._start)
        places, offset, first = [], self._start, 0
        for block_bytes, images in footer.blocks:
            places.append(_Place(offset, first, images, block_bytes))
            offset, first = offset + block_bytes, first + images
        return places

    @cached_property
    def _firsts(self) -> npt.NDArray[np.int64]:
        return np.array([place.first for place in self._places], np.int64)

    def __len__(self) -> int:
        return self._places[-1].first + self._places[-1].images if self._places else 0

    def header(self, block: int) -> BlockHeader:
        """Header of a block, by number."""
        if block not in self._headers:
            self._headers[block] = self._read_header(self._places[block])
        return self._headers[block]

    def headers(self) -> Iterator[BlockHeader]:
        """Headers of all blocks."""
        return map(self.header, range(len(self._places)))

    def _read_header(self, place: _Place) -> BlockHeader:
        header = bitstream.unpack_block_header(self._source.read(place.offset, BLOCK.size), place.offset)
        if header.image_count != place.images or header.block_bytes != place.size:
            raise LimitExceeded("block and footer disagree about the block's size", place.offset)
        return header

    def _body(self, place: _Place, header: BlockHeader, start: int, size: int) -> bytes:
        body = self._source.read(place.offset + BLOCK.size + start, size)
        if len(body) != size:
            raise Truncated("the stream ends inside a block", place.offset)
        return body

    @cached_property
    def names(self) -> list[str]:
        """Names of all images, empty if the collection has none; an image without one among others has the name ""."""
        names: list[str] = []
        for place, header in zip(self._places, self.headers(), strict=True):
            if header.has_names:
                frame = self._body(place, header, 0, header.names_bytes)
                names += unpack_names(frame, header.image_count, place.offset + BLOCK.size)
            else:
                names += [""] * header.image_count
        return names if any(header.has_names for header in self.headers()) else []

    @overload
    def __getitem__(self, index: int) -> U8: ...
    @overload
    def __getitem__(self, index: slice | list[int]) -> U8: ...
    def __getitem__(self, index: int | slice | list[int]) -> U8:
        """Image (28, 28), or images (N, 28, 28) in the order asked for.  Raises IndexError."""
        if isinstance(index, slice):
            return self._decode_at(np.arange(*index.indices(len(self)), dtype=np.int64))
        several = isinstance(index, list | tuple | np.ndarray)
        wanted = np.asarray(index) if several else np.array([operator.index(cast(int, index))])
        if wanted.ndim != 1 or (wanted.size and not np.issubdtype(wanted.dtype, np.integer)):
            raise TypeError(f"images are picked by integer, slice or list of integers, not by {wanted.dtype} {wanted.shape}")
        wanted, n = wanted.astype(np.int64), len(self)
        if wanted.size and not (-n <= wanted.min() and wanted.max() < n):
            raise IndexError(f"image {wanted[(wanted < -n) | (wanted >= n)][0]} of a collection of {n}")
        pixels = self._decode_at(np.where(wanted < 0, wanted + n, wanted))
        return pixels if several else np.asarray(pixels[0])

    def _decode_at(self, wanted: npt.NDArray[np.int64]) -> U8:
        pixels = np.empty((len(wanted), 28, 28), np.uint8)
        blocks = np.searchsorted(self._firsts, wanted, "right") - 1
        for block in np.unique(blocks).tolist():
            place, header = self._places[block], self.header(block)
            mine = np.flatnonzero(blocks == block)
            local = wanted[mine] - place.first
            groups, inverse = np.unique(local // GROUP_IMAGES, return_inverse=True)
            index_at = header.names_bytes
            index = self._body(place, header, index_at, header.index_bytes)
            lengths = bitstream.unpack_index(index, header.num_groups, header.payload_bytes, place.offset + BLOCK.size + index_at)
            ends = np.cumsum(lengths)
            payload_at = index_at + header.index_bytes
            messages = [self._body(place, header, payload_at + int(ends[g]) - lengths[g], lengths[g]) for g in groups]
            # All groups but a block's last are full, and the last one comes last here too.
            count = sum(min(GROUP_IMAGES, header.image_count - int(g) * GROUP_IMAGES) for g in groups)
            model = self._find_model(header.model_hash)
            model.check_quality(header.quality, place.offset + bitstream.BLOCK_QUALITY_AT)
            decoded, bad = model.decode(messages, count, header.quality)
            if bad.any():
                raise CorruptPayload(f"images {place.first + int(groups[bad][0]) * GROUP_IMAGES} and on are damaged",
                                     place.offset)  # fmt: skip
            pixels[mine] = decoded[inverse * GROUP_IMAGES + local % GROUP_IMAGES]
        return pixels

    def __iter__(self) -> Iterator[U8]:
        for place in self._places:
            yield from self[place.first : place.first + place.images]

    def decode_blocks(self) -> Iterator[DecodedBlock]:
        """Decode all blocks in turn, damaged ones as far as they go.  Raises ModelNotFound and BadModel only."""
        try:
            places: Iterator[_Place] = iter(self._places)
            fault = None
        except BitstreamError as error:
            places, fault = self._walk(), error
        end = 0
        for place in places:
            end = place.first + place.images
            yield self._decode_block(place)
        if fault is not None:
            yield DecodedBlock(end, 0, None, error=fault)

    def _walk(self) -> Iterator[_Place]:
        """Blocks found without a footer: from one to the next, past damage to the next Block_Magic that leads a header."""
        offset, first = self._start, 0
        while (found := self._next_block(offset)) is not None:
            offset, header = found
            yield _Place(offset, first, header.image_count, header.block_bytes)
            offset, first = offset + header.block_bytes, first + header.image_count

    def _next_block(self, offset: int) -> tuple[int, BlockHeader] | None:
        """The first valid block header at or after `offset`; every byte is searched once."""
        window = 1 << 20
        for start in range(offset, self._source.size, window):
            searched = self._source.read(start, window + BLOCK.size - 1)
            at = searched.find(bitstream.BLOCK_MAGIC)
            while 0 <= at < window:
                try:
                    return start + at, bitstream.unpack_block_header(searched[at : at + BLOCK.size], start + at)
                except BitstreamError:
                    at = searched.find(bitstream.BLOCK_MAGIC, at + 1)
        return None

    def _decode_block(self, place: _Place) -> DecodedBlock:
        result = DecodedBlock(place.first, place.images, None)
        try:
            header = self._read_header(place)
            body = self._source.read(place.offset + BLOCK.size, header.body_bytes)
            if len(body) < header.names_bytes + header.index_bytes:
                raise Truncated("the stream ends inside a block", place.offset)
            start = self._source.read(place.offset, BLOCK.size - bitstream.CHECKSUM_BYTES)
            if len(body) < header.body_bytes:
                result.error = Truncated("the stream ends inside this block", place.offset)
            elif bitstream.checksum(start, body) != header.checksum:
                result.error = ChecksumMismatch("bytes of this block were changed", place.offset)
            index_end = header.names_bytes + header.index_bytes
            lengths = bitstream.unpack_index(body[header.names_bytes : index_end], header.num_groups, header.payload_bytes,
                                             place.offset + BLOCK.size + header.names_bytes)  # fmt: skip
        except BitstreamError as error:
            result.error = error
            return result
        if header.has_names:
            try:
                result.names = unpack_names(body[: header.names_bytes], header.image_count, place.offset + BLOCK.size)
            except BitstreamError as error:
                result.error = error
                result.names = [f"nameless-{place.first + i:08d}" for i in range(header.image_count)]
        ends = np.cumsum([0, *lengths]) + index_end
        messages = [body[a:b] for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]
        model = self._find_model(header.model_hash)
        try:
            model.check_quality(header.quality, place.offset + bitstream.BLOCK_QUALITY_AT)
        except BitstreamError as error:
            result.error = result.error or error
            return result
        result.pixels, bad = model.decode(messages, header.image_count, header.quality)
        # A group cut off by the end of the file decodes to garbage, which its check may fail to see.
        bad |= ends[1:] > len(body)
        bad_images = np.repeat(bad, GROUP_IMAGES)[: header.image_count]
        result.pixels[bad_images] = 0
        result.lost = np.flatnonzero(bad_images).tolist()
        if result.lost and result.error is None:
            result.error = CorruptPayload("coder states end wrong", place.offset)
        return result

