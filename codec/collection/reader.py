"""Many images in one file: blocks, names, index, random access.  FORMAT.md 3, 4 and 9.

READ ME FIRST
- A collection is a header, blocks, a footer. A block is complete in itself (it names its model,
  quality and sizes), so blocks are copied between collections as they are, and one damaged block
  costs no other.
- A group of neighbours shares one coder state, `bitstream.group_images` says how many; it is the
  unit of random access and of damage.
- The footer lists the blocks. Without it a reader walks from block to block, and past damage looks
  for the next Block_Magic; nothing that is intact is given up.
- Nothing is read before it is needed: an image costs the reading of its block's header, index and
  group, a name that of its block's names.

It knows models only through a function from Model_Hash to `BaseModel`, and never chooses one.
"""

from __future__ import annotations

import hashlib
import io
import math
import operator
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast, overload

import numpy as np
import numpy.typing as npt

from codec.coding.lanes import Encoded
from codec.errors import (
    BitstreamError,
    ChecksumMismatch,
    CorruptPayload,
    LimitExceeded,
    ModelNotFound,
    Truncated,
    UsageError,
)
from codec.format import bitstream
from codec.format.bitstream import BLOCK, COLLECTION, FOOTER_END, BlockHeader
from codec.format.index import Part, only_part, pack_index, unpack_index
from codec.model import registry
from codec.model.bundle import BaseModel

U8 = npt.NDArray[np.uint8]
I16 = npt.NDArray[np.int16]
FindModel = Callable[[bytes], BaseModel]

NAMES_LEVEL = 19  # of zstd: names are a few KiB a block, and a collection is written once
KEPT_NAMES = 4  # blocks whose names stay in memory
# decoded groups that stay in memory, 12.5 KB each: whoever wants one image often wants its
# neighbour next
KEPT_GROUPS = 64


def pack_names(names: list[str]) -> bytes:
    """Names -> zstd frame of their UTF-8, each followed by NUL.

    Raises ValueError for a name with NUL in it.
    """
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
            raise LimitExceeded(
                f"names of {size} bytes, at most {bitstream.MAX_NAMES_BYTES} are allowed", offset
            )
        joined = zstandard.ZstdDecompressor().decompress(frame, max_output_size=size)
    except zstandard.ZstdError as error:
        raise CorruptPayload(f"the names are damaged ({error})", offset) from error
    names = joined.decode("utf-8", "surrogateescape").split("\0")
    if len(names) != count + 1 or names[-1]:
        raise CorruptPayload(f"{len(names) - 1} names for {count} images", offset)
    return names[:-1]


def pack_block(
    model: BaseModel, pixels: U8, quality: int, names: list[str] | None, effort: int = 1
) -> tuple[bytes, Encoded]:
    """pixels: uint8 (N, 28, 28), 1 <= N <= MAX_BLOCK_IMAGES -> block bytes,
    and what was encoded.
    """
    encoded = model.encode(pixels, quality, effort=effort)
    return pack_encoded(
        [(Part(model.hash, quality, np.arange(len(pixels))), encoded.messages)], names
    ), encoded


def pack_encoded(parts: list[tuple[Part, list[bytes]]], names: list[str] | None) -> bytes:
    """Parts that share out the images of a block, with the messages of their groups
    -> block bytes.
    """
    frame = pack_names(names) if names is not None else b""
    messages = [message for _, of_part in parts for message in of_part]
    index = pack_index([(part, [len(message) for message in of_part]) for part, of_part in parts])
    payload = b"".join(messages)
    first, count = parts[0][0], sum(len(part.images) for part, _ in parts)
    header = BlockHeader(
        first.model_hash,
        first.quality,
        names is not None,
        count,
        len(frame),
        len(index),
        len(payload),
        has_parts=len(parts) > 1,
    )
    body = frame + index + payload
    digest = bitstream.checksum(header.pack()[: -bitstream.CHECKSUM_BYTES], body)
    return replace(header, checksum=digest).pack() + body


class Layout:
    """What an index area says: the parts of a block and where the messages of their groups lie.

    ends: where the messages of the groups of all parts end in the payload, with 0 in front, int64
    (groups + 1,). Raises BitstreamError; `offset` is that of the area in the file, for messages.
    """

    def __init__(self, header: BlockHeader, index: bytes, offset: int) -> None:
        self.parts, lengths = unpack_index(index, header, offset)
        self._first_groups = np.cumsum([0, *(part.num_groups for part in self.parts)])
        self.ends = np.cumsum([0, *lengths])

    def groups_of(self, number: int) -> slice:
        """The groups of a part, by its number."""
        return slice(int(self._first_groups[number]), int(self._first_groups[number + 1]))

    @cached_property
    def _order(self) -> npt.NDArray[np.int64]:
        order = np.empty((2, sum(len(part.images) for part in self.parts)), np.int64)
        for number, part in enumerate(self.parts):
            order[:, part.images] = np.full(len(part.images), number), np.arange(len(part.images))
        return order

    def locate(
        self, images: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Numbers of images in the block -> the part of each, its number in that part."""
        if len(self.parts) == 1:
            return np.zeros_like(images), images
        return self._order[0, images], self._order[1, images]


def unpack_block(block: bytes, offset: int = 0) -> BlockHeader:
    """Header of a whole block whose Checksum holds; nothing is decoded.  Raises BitstreamError."""
    header = bitstream.unpack_block_header(block[: BLOCK.size], offset)
    if len(block) != header.block_bytes:
        raise Truncated(f"{len(block)} bytes of a block of {header.block_bytes}", offset)
    if (
        bitstream.checksum(block[: BLOCK.size - bitstream.CHECKSUM_BYTES], block[BLOCK.size :])
        != header.checksum
    ):
        raise ChecksumMismatch("bytes of this block were changed", offset)
    return header


class Writer:
    """Writes a collection block by block to a binary file, which it does not close.

    models: model files to embed. resumed: (Block_Bytes, Block_Images) of blocks that the file has
    already, header before them; its position is behind the last one.
    """

    def __init__(
        self,
        file: BinaryIO,
        models: list[bytes] | None = None,
        resumed: list[tuple[int, int]] | None = None,
    ) -> None:
        self._file = file
        self._blocks = list(resumed or ())
        header = bitstream.pack_collection_header(models or ())
        if not self._blocks:
            self._file.write(header)
        self.num_bytes = len(header) + sum(size for size, _ in self._blocks)

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
    """Random reads from a path, bytes or a seekable file, by any number of threads.

    A path is opened on first use and again in a forked child, and read by `pread`, so that no two
    readers share a position.
    """

    def __init__(self, source: Path | bytes | BinaryIO) -> None:
        self._path = source if isinstance(source, Path) else None
        self._file = (
            io.BytesIO(source)
            if isinstance(source, bytes)
            else None
            if isinstance(source, Path)
            else source
        )
        self._descriptors: dict[int, int] = {}  # of each process its own
        self._lock = threading.Lock()  # of the position of a file that was given open
        if self._path is not None:
            self.size = self._path.stat().st_size
        else:
            assert self._file is not None
            self.size = self._file.seek(0, os.SEEK_END)

    def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset`."""
        if self._path is None:
            assert self._file is not None
            with self._lock:
                self._file.seek(offset)
                return self._file.read(size)
        descriptor = self._descriptor()
        parts = []
        while size > 0 and (part := os.pread(descriptor, size, offset)):
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _descriptor(self) -> int:
        process = os.getpid()
        if process not in self._descriptors:
            assert self._path is not None
            opened = os.open(self._path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            # another thread was first (setdefault is atomic)
            if self._descriptors.setdefault(process, opened) != opened:
                os.close(opened)
        return self._descriptors[process]

    def close(self) -> None:
        descriptor = self._descriptors.pop(os.getpid(), None)
        if descriptor is not None:
            os.close(descriptor)

    def __getstate__(self) -> dict[str, object]:
        if self._path is None:
            raise TypeError("only a collection opened from a path can be pickled")
        return {"path": self._path, "size": self.size}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._path, self.size, self._file = state["path"], state["size"], None
        self._descriptors, self._lock = {}, threading.Lock()


@dataclass
class DecodedBlock:
    """One block, decoded as far as it is intact.

    first: index of its first image; count: its images; pixels: uint8 (count, 28, 28), zeros where
    lost, or None if the whole block is; names: one each, empty if the collection has none; lost:
    indexes within the block; error: the fault.
    """

    first: int
    count: int
    pixels: U8 | None
    names: list[str] = field(default_factory=list)
    error: BitstreamError | None = None
    is_single: bool = False
    lost: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """Where a block lies: offset in the file, index of its first image, its images and bytes as the
    footer says.
    """

    offset: int
    first: int
    images: int
    size: int


class Collection:
    """A collection opened for reading: `len`, indexing by integer, slice or list, iteration,
    `names`, `find`.

    source: path, bytes, or seekable binary file. Headers are read when first needed; an image is
    decoded with the other images of its group only. Threads may share it; from a path, forked
    processes may, too, and it can be pickled. recover: take a damaged header for a `fault`, as long
    as a footer or a block shows that this is a collection. Raises BitstreamError for faults,
    ModelNotFound, BadModel.
    """

    def __init__(
        self, source: Path | bytes | BinaryIO, find_model: FindModel, *, recover: bool = False
    ) -> None:
        self._source, self._find_model = _Source(source), find_model
        self._header_fault: BitstreamError | None = None
        self._forget()
        start = b""
        try:
            start = self._read_start()
            self._start = bitstream.unpack_collection_header(start)
        except BitstreamError as error:
            # A header whose Check holds means what it says: a later version, or something this
            # reader does not know.
            if not recover or bitstream.is_intact(start) or not self._recoverable():
                raise
            self._header_fault = error

    def _forget(self) -> None:
        self._headers: dict[int, BlockHeader] = {}
        self._layouts: dict[int, Layout] = {}  # a tenth of the work of reading one image
        self._models: dict[bytes, BaseModel] = {}
        self._names: dict[int, list[str]] = {}  # of the blocks last asked for, by offset
        # those last decoded alone, by block, part and number in it
        self._groups: dict[tuple[int, int, int], U8] = {}

    def __getstate__(self) -> dict[str, object]:
        return {
            "source": self._source,
            "find_model": self._find_model,
            "start": self._start,
            "fault": self._header_fault,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._source, self._find_model = state["source"], state["find_model"]
        self._start, self._header_fault = state["start"], state["fault"]
        self._forget()

    def _read_start(self) -> bytes:
        """The stream header with its extension area, whose length is in the first bytes of it."""
        start = self._source.read(0, COLLECTION.size + 5)
        if len(start) > COLLECTION.size and start[2] & bitstream.FLAG_EXTENDED:
            size, end = bitstream.unpack_varint(start, COLLECTION.size)
            start = self._source.read(0, end + min(size, bitstream.MAX_EXTENSION_BYTES))
        return start

    def _recoverable(self) -> bool:
        """Find the first block without the header: before a valid footer, else by search."""
        try:
            size, footer_bytes = self._footer_size()
            at = size - footer_bytes
            footer = bitstream.unpack_footer(self._source.read(at, footer_bytes), at, None)
            self._start = at - sum(block_bytes for block_bytes, _ in footer.blocks)
            return True
        except BitstreamError:
            self._start = COLLECTION.size
            return self._next_block(self._start) is not None

    def __enter__(self) -> Collection:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, which no other thread may be reading; a later read opens it again."""
        self._source.close()

    @property
    def num_bytes(self) -> int:
        """Size of the whole file."""
        return self._source.size

    # Blocks

    def _footer_size(self) -> tuple[int, int]:
        size = self._source.size
        tail = self._source.read(max(0, size - FOOTER_END.size), FOOTER_END.size)
        return size, bitstream.unpack_footer_end(tail, size)

    @cached_property
    def _places(self) -> list[Place]:
        size, footer_bytes = self._footer_size()
        at = size - footer_bytes
        footer = bitstream.unpack_footer(self._source.read(at, footer_bytes), at, at - self._start)
        places, offset, first = [], self._start, 0
        for block_bytes, images in footer.blocks:
            places.append(Place(offset, first, images, block_bytes))
            offset, first = offset + block_bytes, first + images
        return places

    @cached_property
    def _firsts(self) -> npt.NDArray[np.int64]:
        return np.array([place.first for place in self._places], np.int64)

    @cached_property
    def fault(self) -> BitstreamError | None:
        """What is wrong with the header or the footer, None if both are intact; blocks have faults
        of their own.
        """
        try:
            _ = self._places
        except BitstreamError as error:
            return self._header_fault or error
        return self._header_fault

    def places(self) -> Iterator[Place]:
        """Where the blocks lie, in order; with a damaged footer those that can be found."""
        try:
            return iter(self._places)
        except BitstreamError:
            return self._walk()

    def __len__(self) -> int:
        return self._places[-1].first + self._places[-1].images if self._places else 0

    def header(self, block: int) -> BlockHeader:
        """Header of a block, by number."""
        if block not in self._headers:
            self._headers[block] = self.header_at(self._places[block])
        return self._headers[block]

    def headers(self) -> Iterator[BlockHeader]:
        """Headers of all blocks."""
        return map(self.header, range(len(self._places)))

    def header_at(self, place: Place) -> BlockHeader:
        """Header of the block at a place.

        Raises BitstreamError if it is damaged, or is not what the footer says.
        """
        header = bitstream.unpack_block_header(
            self._source.read(place.offset, BLOCK.size), place.offset
        )
        if header.image_count != place.images or header.block_bytes != place.size:
            raise LimitExceeded("block and footer disagree about the block's size", place.offset)
        return header

    def _body(self, place: Place, header: BlockHeader, start: int, size: int) -> bytes:
        body = self._source.read(place.offset + BLOCK.size + start, size)
        if len(body) != size:
            raise Truncated("the stream ends inside a block", place.offset)
        return body

    def read_block(self, place: Place) -> tuple[BlockHeader, bytes]:
        """A block as it stands, its Checksum verified, to be copied into another collection."""
        block = self._source.read(place.offset, place.size)
        header = unpack_block(block, place.offset)
        if header.image_count != place.images:
            raise LimitExceeded("block and footer disagree about the block's size", place.offset)
        return header, block

    # Models

    @property
    def embedded(self) -> list[bytes]:
        """The model files that the collection carries with it.  Raises BitstreamError."""
        return [] if self._header_fault else bitstream.unpack_models(self._read_start())

    def model(self, model_hash: bytes) -> BaseModel:
        """The model of a block: an installed one, else the one embedded here."""
        if model_hash not in self._models:
            try:
                self._models[model_hash] = self._find_model(model_hash)
            except ModelNotFound:
                found = [
                    m for m in self.embedded if hashlib.sha256(m).digest().startswith(model_hash)
                ]
                if not found:
                    raise
                self._models[model_hash] = registry.unpack_model(found[0])
        return self._models[model_hash]

    # Names

    @property
    def names(self) -> list[str]:
        """Names of all images, empty if the collection has none; an image without one among others
        has the name "".
        """
        return list(self.each_name()) if self.has_names else []

    @property
    def has_names(self) -> bool:
        """Whether any image has a name."""
        return any(header.has_names for header in self.headers())

    def each_name(self) -> Iterator[str]:
        """All names in turn, "" for an image without one; in memory are those of one block."""
        for place in self._places:
            yield from self.block_names(place) or [""] * place.images

    def block_names(self, place: Place) -> list[str]:
        """Names of the images of one block, empty if it has none.  Raises BitstreamError."""
        names = self._names.get(place.offset)
        if names is None:
            header, names = self.header_at(place), []
            if header.has_names:
                frame = self._body(place, header, 0, header.names_bytes)
                names = unpack_names(frame, header.image_count, place.offset + BLOCK.size)
            for old in list(self._names)[: 1 - KEPT_NAMES]:
                self._names.pop(old, None)  # another thread may have been here
            self._names[place.offset] = names
        return names

    def names_or_numbers(self, place: Place) -> list[str]:
        """As `block_names`; names that are damaged are replaced by `nameless-` and the number of
        the image.
        """
        try:
            return self.block_names(place)
        except BitstreamError:
            return [f"nameless-{place.first + i:08d}" for i in range(place.images)]

    def name(self, index: int) -> str:
        """Name of one image, "" if it has none; reads the names of its block alone.

        Raises IndexError.
        """
        return self.names_at([operator.index(index)])[0]

    def names_at(self, indexes: list[int]) -> list[str]:
        """Names of some images, "" for one without; reads the names of their blocks alone.

        Raises IndexError.
        """
        numbers = self._numbers(np.array(indexes, np.int64))
        found = [""] * len(indexes)
        blocks = np.searchsorted(self._firsts, numbers, "right") - 1
        for at in np.argsort(blocks, kind="stable").tolist():  # block by block, whatever the order
            place = self._places[int(blocks[at])]
            if names := self.block_names(place):
                found[at] = names[int(numbers[at]) - place.first]
        return found

    @cached_property
    def _name_order(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Hashes of all names in order of size, and the images they belong to: 16 bytes an image,
        whatever the names.
        """
        hashes = np.fromiter(map(hash, self.each_name() if self.has_names else ()), np.int64)
        order = np.argsort(hashes, kind="stable")
        return hashes[order], order

    def find(self, name: str) -> int:
        """Index of the first image of a name.  Raises KeyError.

        The first call reads all names; later ones read those of one block.
        """
        hashes, order = self._name_order
        at = int(np.searchsorted(hashes, hash(name)))
        while at < len(hashes) and hashes[at] == hash(name):
            if self.name(int(order[at])) == name:
                return int(order[at])
            at += 1
        raise KeyError(name)

    # Images

    @overload
    def __getitem__(self, index: int) -> U8: ...
    @overload
    def __getitem__(self, index: slice | list[int]) -> U8: ...
    def __getitem__(self, index: int | slice | list[int]) -> U8:
        """Image (28, 28), or images (N, 28, 28) in the order asked for.  Raises IndexError."""
        if not isinstance(index, slice | list | tuple | np.ndarray):
            return self._image(operator.index(index))
        return self._decode_at(self._wanted(index)[0])

    def _image(self, index: int) -> U8:
        """One image (28, 28), without the arrays that sort many into their blocks, parts and
        groups.  Raises IndexError.
        """
        n = len(self)
        if not -n <= index < n:
            raise IndexError(f"image {index} of a collection of {n}")
        block = int(np.searchsorted(self._firsts, index % n, "right")) - 1
        layout = self.layout(block)
        number, local = map(int, layout.locate(np.array(index % n - self._places[block].first)))
        group, at = divmod(local, layout.parts[number].group_images)
        image: U8 = self._decode_group(block, number, group)[at].copy()
        return image

    @property
    def latent_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of the latents of one image, level by level, such as ((32,), (8, 7, 7)); () if
        there are no images.

        Raises UsageError unless all images are of one lossy model: only then do they have latents
        that mean the same.
        """
        shapes: tuple[tuple[int, ...], ...] = ()
        hashes = dict.fromkeys(
            part.model_hash for block in range(len(self._places)) for part in self.parts(block)
        )
        for model in map(self.model, hashes):
            if not model.latent_shapes:
                raise UsageError(
                    f"model {model.name} is {model.kind}: latents are what a lossy stream has, "
                    "and guard=False keeps all images lossy"
                )
            shapes = model.latent_shapes
        if len(hashes) > 1:
            names = " and ".join(self.model(model_hash).name for model_hash in hashes)
            raise UsageError(
                f"the images are of models {names}, whose latents have nothing in common: "
                "compress with one of them"
            )
        return shapes

    def with_latents(self, index: int | slice | list[int]) -> tuple[U8, I16]:
        """Pixels as by indexing, and the latents from which they were decoded: int16 (K,) or (N,
        K), see `api.latents`.

        Raises IndexError, UsageError as `latent_shapes` does.
        """
        wanted, several = self._wanted(index)
        latents = np.empty((len(wanted), sum(map(math.prod, self.latent_shapes))), np.int16)
        pixels = self._decode_at(wanted, latents)
        return (pixels, latents) if several else (np.asarray(pixels[0]), np.asarray(latents[0]))

    def _wanted(self, index: int | slice | list[int]) -> tuple[npt.NDArray[np.int64], bool]:
        """What indexing asks for: indexes from 0 on, and whether the result is an
        array of images.
        """
        if isinstance(index, slice):
            return np.arange(*index.indices(len(self)), dtype=np.int64), True
        several = isinstance(index, list | tuple | np.ndarray)
        wanted = np.asarray(index) if several else np.array([operator.index(cast(int, index))])
        if wanted.ndim != 1 or (wanted.size and not np.issubdtype(wanted.dtype, np.integer)):
            raise TypeError(
                f"images are picked by integer, slice or list of integers, not by {wanted.dtype} "
                f"{wanted.shape}"
            )
        return self._numbers(wanted), several

    def _numbers(self, wanted: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Indexes -> indexes from 0 on.  Raises IndexError."""
        wanted, n = wanted.astype(np.int64), len(self)
        if wanted.size and not (-n <= wanted.min() and wanted.max() < n):
            raise IndexError(
                f"image {wanted[(wanted < -n) | (wanted >= n)][0]} of a collection of {n}"
            )
        return np.where(wanted < 0, wanted + n, wanted)

    def _decode_at(self, wanted: npt.NDArray[np.int64], latents: I16 | None = None) -> U8:
        """Images (N, 28, 28); their latents into `latents`, int16 (N, K), if it is there."""
        pixels = np.empty((len(wanted), 28, 28), np.uint8)
        blocks = np.searchsorted(self._firsts, wanted, "right") - 1
        for block in np.unique(blocks).tolist():
            layout, mine = self.layout(block), np.flatnonzero(blocks == block)
            numbers, local = layout.locate(wanted[mine] - self._places[block].first)
            for number in np.unique(numbers).tolist():
                at = np.flatnonzero(numbers == number)
                size = layout.parts[number].group_images
                groups, inverse = np.unique(local[at] // size, return_inverse=True)
                picked, at = inverse * size + local[at] % size, mine[at]
                if latents is not None:
                    decoded, found = self._decode_groups(
                        block, number, groups.tolist(), latents=True
                    )
                    pixels[at], latents[at] = decoded[picked], found[picked]
                elif len(groups) == 1:
                    pixels[at] = self._decode_group(block, number, int(groups[0]))[picked]
                else:
                    pixels[at] = self._decode_groups(block, number, groups.tolist())[0][picked]
        return pixels

    def _decode_group(self, block: int, number: int, group: int) -> U8:
        """The images of one group of a part, which are remembered: (N, 28, 28).

        Raises CorruptPayload.
        """
        key = block, number, group
        decoded = self._groups.get(key)
        if decoded is None:
            decoded, _ = self._decode_groups(block, number, [group])
            for old in list(self._groups)[: 1 - KEPT_GROUPS]:
                self._groups.pop(old, None)  # another thread may have been here
            self._groups[key] = decoded
        return decoded

    def _decode_groups(
        self, block: int, number: int, groups: list[int], *, latents: bool = False
    ) -> tuple[U8, I16]:
        """All images of some groups of a part, in rising order (N, 28, 28), and their latents (N,
        K), K = 0 unless asked for.

        Raises CorruptPayload.
        """
        place, header, layout = self._places[block], self.header(block), self.layout(block)
        part, ends, payload_at = (
            layout.parts[number],
            layout.ends,
            header.names_bytes + header.index_bytes,
        )
        first = layout.groups_of(number).start
        spans = [(int(ends[first + g]), int(ends[first + g + 1])) for g in groups]
        messages = [
            self._body(place, header, payload_at + start, end - start) for start, end in spans
        ]
        # All groups but a part's last are full, and the last one comes last here too.
        size = part.group_images
        count = sum(min(size, len(part.images) - g * size) for g in groups)
        model = self.model(part.model_hash)
        model.check_quality(part.quality, place.offset + bitstream.BLOCK_QUALITY_AT)
        if latents:
            decoded, found, bad = model.decode_latents(messages, count, part.quality)
        else:
            decoded, bad = model.decode(messages, count, part.quality)
            found = np.empty((count, 0), np.int16)
        if bad.any():
            image = place.first + int(part.images[groups[int(np.argmax(bad))] * size])
            raise CorruptPayload(f"images {image} and on are damaged", place.offset)
        return decoded, found

    def parts(self, block: int) -> list[Part]:
        """The parts of a block, by number; of a block that has but one its header tells, and no
        more is read.
        """
        header = self.header(block)
        return self.layout(block).parts if header.has_parts else [only_part(header)]

    def layout(self, block: int) -> Layout:
        """Parts and groups of a block, by number."""
        if block not in self._layouts:
            place, header = self._places[block], self.header(block)
            index = self._body(place, header, header.names_bytes, header.index_bytes)
            self._layouts[block] = Layout(
                header, index, place.offset + BLOCK.size + header.names_bytes
            )
        return self._layouts[block]

    def __iter__(self) -> Iterator[U8]:
        for place in self._places:
            yield from self[place.first : place.first + place.images]

    # Whatever is intact

    def decode_blocks(self) -> Iterator[DecodedBlock]:
        """Decode all blocks in turn, damaged ones as far as they go; a last one of no images has
        the fault of the frame.

        Raises ModelNotFound and BadModel only.
        """
        end = 0
        for place in self.places():
            end = place.first + place.images
            yield self.decode_block(place)
        if self.fault is not None:
            yield DecodedBlock(end, 0, None, error=self.fault)

    def _walk(self) -> Iterator[Place]:
        """Blocks found without a footer: from one to the next, past damage to the next Block_Magic
        that leads a header.
        """
        offset, first = self._start, 0
        while (found := self._next_block(offset)) is not None:
            offset, header = found
            yield Place(offset, first, header.image_count, header.block_bytes)
            offset, first = offset + header.block_bytes, first + header.image_count

    def _next_block(self, offset: int) -> tuple[int, BlockHeader] | None:
        """The first valid block header at or after `offset`; every byte is searched once."""
        window = 1 << 20
        for start in range(offset, self._source.size, window):
            searched = self._source.read(start, window + BLOCK.size - 1)
            at = searched.find(bitstream.BLOCK_MAGIC)
            while 0 <= at < window:
                try:
                    return start + at, bitstream.unpack_block_header(
                        searched[at : at + BLOCK.size], start + at
                    )
                except BitstreamError:
                    at = searched.find(bitstream.BLOCK_MAGIC, at + 1)
        return None

    def decode_block(self, place: Place) -> DecodedBlock:
        """Decode one block as far as it is intact.  Raises ModelNotFound and BadModel only."""
        result = DecodedBlock(place.first, place.images, None)
        try:
            header = self.header_at(place)
            body = self._source.read(place.offset + BLOCK.size, header.body_bytes)
            if len(body) < header.names_bytes + header.index_bytes:
                raise Truncated("the stream ends inside a block", place.offset)
            start = self._source.read(place.offset, BLOCK.size - bitstream.CHECKSUM_BYTES)
            if len(body) < header.body_bytes:
                result.error = Truncated("the stream ends inside this block", place.offset)
            elif bitstream.checksum(start, body) != header.checksum:
                result.error = ChecksumMismatch("bytes of this block were changed", place.offset)
            index_end = header.names_bytes + header.index_bytes
            layout = Layout(
                header,
                body[header.names_bytes : index_end],
                place.offset + BLOCK.size + header.names_bytes,
            )
        except BitstreamError as error:
            result.error = error
            return result
        if header.has_names:
            try:
                result.names = unpack_names(
                    body[: header.names_bytes], header.image_count, place.offset + BLOCK.size
                )
            except BitstreamError as error:
                result.error = error
                result.names = self.names_or_numbers(place)
        ends = layout.ends + index_end
        pixels, lost = (
            np.zeros((header.image_count, 28, 28), np.uint8),
            np.zeros(header.image_count, np.bool_),
        )
        for number, part in enumerate(layout.parts):
            groups = layout.groups_of(number)
            starts, stops = ends[groups], ends[groups.start + 1 : groups.stop + 1]
            messages = [body[a:b] for a, b in zip(starts.tolist(), stops.tolist(), strict=True)]
            model = self.model(part.model_hash)
            try:
                model.check_quality(part.quality, place.offset + bitstream.BLOCK_QUALITY_AT)
            except BitstreamError as error:
                result.error = result.error or error
                return result
            decoded, bad = model.decode(messages, len(part.images), part.quality)
            # A group cut off by the end of the file decodes to garbage, which its check may fail to
            # see.
            bad |= stops > len(body)
            bad_images = np.repeat(bad, part.group_images)[: len(part.images)]
            decoded[bad_images] = 0
            pixels[part.images], lost[part.images] = decoded, bad_images
        result.pixels, result.lost = pixels, np.flatnonzero(lost).tolist()
        if result.lost and result.error is None:
            result.error = CorruptPayload("coder states end wrong", place.offset)
        return result
