"""The index area of a block: its parts, and the lengths of messages.  FORMAT.md 3.4, 3.5.

The images of a part share a model and a quality. Most blocks have one part, which their header
describes. If there are more, the index starts with the images of each part but the first, which has
the rest: their positions among the images that no earlier part has, as gaps in a Rice code. That is
a bitmap for parts of half the images, and about a byte an image for rare ones. The lengths of lossy
messages are similar: their differences from the mean go into the same code, in six or seven bits.

`Index` says which group an image is in, which images are in a group, and where its message lies.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise

import numpy as np

from codec.arrays import F64, I64
from codec.coding.signed import from_codes, to_codes
from codec.errors import ChecksumMismatch, LimitExceeded, TrailingData, Truncated
from codec.format.constants import (
    LOSSLESS_QUALITY,
    MAX_PART_MODELS,
    MAX_PARTS,
    MODEL_HASH_BYTES,
    PARTS_CHECK_BYTES,
    group_images,
)
from codec.format.headers import BlockHeader, check_quality
from codec.format.primitives import checksum, pack_varint, unpack_varint
from codec.format.rice import pack_rice, unpack_rice


@dataclass(frozen=True)
class Part:
    """Images of one model and quality, coded in groups of their own.

    images: their numbers in the block, int64, rising.
    """

    model_hash: bytes
    quality: int
    images: I64

    @property
    def group_images(self) -> int:
        """Images in each of its groups but the last."""
        return group_images(self.quality)

    @property
    def num_groups(self) -> int:
        """How many groups it has."""
        return -(-len(self.images) // self.group_images)


def only_part(header: BlockHeader) -> Part:
    """The part of a block that has only one."""
    return Part(header.model_hash, header.quality, np.arange(header.image_count))


def pack_index(parts: list[tuple[Part, list[int]]]) -> bytes:
    """The parts of a block, with the lengths of the messages of their groups -> the index area."""
    area = pack_parts([part for part, _ in parts]) if len(parts) > 1 else b""
    return area + b"".join(_pack_lengths(part, lengths) for part, lengths in parts)


def unpack_index(index: bytes, header: BlockHeader, offset: int) -> tuple[list[Part], list[int]]:
    """Inverse of `pack_index`: the parts, and the lengths of all messages, part after part.

    offset: of the index area in the file, for messages.
    Raises ChecksumMismatch, LimitExceeded, ReservedBitsSet, TrailingData, Truncated.
    """
    parts, at = [only_part(header)], 0
    if header.has_parts:
        parts, at = unpack_parts(index, header, offset)
    lengths: list[int] = []
    for part in parts:
        of_part, at = _unpack_lengths(part, index, at, offset)
        lengths += of_part
    if at != len(index):
        raise TrailingData(f"{len(index) - at} bytes follow the index", offset + at)
    if sum(lengths) != header.payload_bytes:
        claim = f"the groups have {sum(lengths)} bytes, the payload {header.payload_bytes}"
        raise LimitExceeded(claim, offset)
    return parts, lengths


def _pack_lengths(part: Part, lengths: list[int]) -> bytes:
    if part.quality >= LOSSLESS_QUALITY:
        return b"".join(map(pack_varint, lengths))
    mean = round(sum(lengths) / len(lengths))
    positions = np.cumsum(to_codes(np.array(lengths) - mean) + 1) - 1
    limit = int(positions[-1]) + 1
    return pack_varint(mean) + pack_varint(limit) + pack_rice(positions, limit)


def _unpack_lengths(part: Part, index: bytes, at: int, offset: int) -> tuple[list[int], int]:
    """-> the lengths of a part's messages, and the offset after them."""
    if part.quality >= LOSSLESS_QUALITY:
        lengths = []
        for _ in range(part.num_groups):
            length, at = unpack_varint(index, at, max_bytes=3, base=offset)
            lengths.append(length)
        return lengths, at
    start = at
    mean, at = unpack_varint(index, at, max_bytes=3, base=offset)
    limit, at = unpack_varint(index, at, base=offset)
    if limit < part.num_groups:
        raise LimitExceeded(
            f"{part.num_groups} lengths do not fit below their limit, {limit}", offset + at
        )
    positions, at = unpack_rice(index, at, part.num_groups, limit, offset)
    found = mean + from_codes(np.diff(positions, prepend=-1) - 1)
    if found.min() < 0:
        raise LimitExceeded(f"a group claims {found.min()} bytes", offset + start)
    return found.tolist(), at


def pack_parts(parts: list[Part]) -> bytes:
    """The parts of a block, 2 to MAX_PARTS of them -> the parts area."""
    hashes = list(dict.fromkeys(part.model_hash for part in parts))
    area = pack_varint(len(hashes) - 1) + b"".join(hashes[1:]) + pack_varint(len(parts) - 1)
    left = np.sort(np.concatenate([part.images for part in parts]))
    for part in parts[1:]:
        at = np.searchsorted(left, part.images)
        area += bytes([hashes.index(part.model_hash), part.quality])
        area += pack_varint(len(at)) + pack_rice(at, len(left))
        left = np.delete(left, at)
    return area + checksum(area, size=PARTS_CHECK_BYTES)


def unpack_parts(index: bytes, header: BlockHeader, offset: int) -> tuple[list[Part], int]:
    """The parts at the start of an index area -> parts, and the offset after them.

    offset: of the index area in the file, for messages.
    Raises ChecksumMismatch, LimitExceeded, ReservedBitsSet, Truncated.
    """
    parts, at = _unpack(index, header, offset)
    end = at + PARTS_CHECK_BYTES
    if checksum(index[:at], size=PARTS_CHECK_BYTES) != index[at:end]:
        raise ChecksumMismatch("the parts of a block are damaged", offset)
    return parts, end


def _unpack(index: bytes, header: BlockHeader, offset: int) -> tuple[list[Part], int]:
    """As `unpack_parts`, without the check."""
    hashes = [header.model_hash]
    num_models, at = unpack_varint(index, 0, max_bytes=3, base=offset)
    if num_models >= MAX_PART_MODELS:
        raise LimitExceeded(
            f"a block has {num_models} further models, at most {MAX_PART_MODELS - 1} are allowed",
            offset,
        )
    for _ in range(num_models):
        hashes.append(index[at : at + MODEL_HASH_BYTES])
        at += MODEL_HASH_BYTES
    num_parts, at = unpack_varint(index, at, max_bytes=3, base=offset)
    if not 1 <= num_parts < MAX_PARTS:
        raise LimitExceeded(
            f"a block has {num_parts} further parts, 1 to {MAX_PARTS - 1} are allowed", offset
        )
    left, parts = np.arange(header.image_count), []
    for _ in range(num_parts):
        if at + 2 > len(index):
            raise Truncated("the index ends inside its parts", offset + at)
        number, quality = index[at], index[at + 1]
        if number >= len(hashes):
            raise LimitExceeded(
                f"a part has model {number}, but the block only {len(hashes)}, the first is 0",
                offset + at,
            )
        check_quality(quality, offset + at + 1)
        count, end = unpack_varint(index, at + 2, max_bytes=3, base=offset)
        if not 1 <= count < len(left):  # at least one image is left for the first part
            raise LimitExceeded(
                f"a part has {count} images, 1 to {len(left) - 1} are possible", offset + at
            )
        positions, at = unpack_rice(index, end, count, len(left), offset)
        parts.append(Part(hashes[number], quality, left[positions]))
        left = np.delete(left, positions)
    return [Part(header.model_hash, header.quality, left), *parts], at


class Index:
    """The groups of a block, numbered part after part.  lengths: of their messages, in bytes."""

    def __init__(self, parts: list[Part], lengths: list[int]) -> None:
        self.parts = parts
        self._firsts = np.cumsum([0, *(part.num_groups for part in parts)]).tolist()
        self._ends = np.cumsum([0, *lengths])

    def span(self, group: int) -> tuple[int, int]:
        """The message of a group: its offset in the payload, and its size in bytes."""
        start = int(self._ends[group])
        return start, int(self._ends[group + 1]) - start

    def part_bytes(self) -> list[int]:
        """Bytes of the messages of each part."""
        sizes: list[int] = np.diff(self._ends[self._firsts]).tolist()
        return sizes

    def shares(self) -> F64:
        """Bytes of each image of the block: its share of the message of its group, float64 (N,)."""
        sizes = np.diff(self._ends)
        shares = np.empty(sum(len(part.images) for part in self.parts))
        for part, groups, images in self.by_part():
            counts = np.full(len(groups), part.group_images)
            counts[-1] -= part.group_images * len(groups) - len(images)  # the last is not full
            shares[images] = np.repeat(sizes[np.asarray(groups)] / counts, counts)
        return shares

    def groups_of(self, images: I64) -> I64:
        """The group of each image; both int64 (N,), numbered in the block."""
        if len(self.parts) == 1:
            return images // self.parts[0].group_images
        return self._groups[images]

    @cached_property
    def _groups(self) -> I64:
        groups = np.empty(sum(len(part.images) for part in self.parts), np.int64)
        for part, (first, _) in zip(self.parts, pairwise(self._firsts), strict=True):
            groups[part.images] = first + np.arange(len(part.images)) // part.group_images
        return groups

    def by_part(
        self, groups: Sequence[int] | None = None
    ) -> Iterator[tuple[Part, Sequence[int], I64]]:
        """Part after part: the part, those of the groups that it has, and their images.

        groups: in rising order, None: all. Images are numbered in the block, and rising.
        """
        if groups is None:
            for part, (first, end) in zip(self.parts, pairwise(self._firsts), strict=True):
                yield part, range(first, end), part.images
            return
        for number, found in groupby(groups, lambda group: bisect_right(self._firsts, group) - 1):
            part, mine = self.parts[number], list(found)
            size = part.group_images
            starts = [(group - self._firsts[number]) * size for group in mine]
            images = [part.images[start : start + size] for start in starts]
            yield part, mine, images[0] if len(images) == 1 else np.concatenate(images)
