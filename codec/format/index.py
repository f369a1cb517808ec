"""The index area of a block: its parts, which share a model and a quality, and the lengths of
messages.  FORMAT.md 3.4, 3.5.

Most blocks have one part, which their header describes. A block of several says in front of its
index which images are in which: each part but the first lists its own among those that no part
before it has, by the gaps between them in a Rice code; the first has the rest. That is a bitmap for
parts of half the images, and a byte or so an image for rare ones. The lengths of lossy messages are
much alike: what each differs from their mean goes into the same code, in six or seven bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codec.errors import ChecksumMismatch, LimitExceeded, ReservedBitsSet, TrailingData, Truncated
from codec.format.bitstream import (
    LOSSLESS_QUALITY,
    MAX_PART_MODELS,
    MAX_PARTS,
    MODEL_HASH_BYTES,
    PARTS_CHECK_BYTES,
    BlockHeader,
    checksum,
    group_images,
    pack_varint,
    unpack_varint,
)

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """images: their numbers in the block, rising; they are coded in groups of their own."""

    model_hash: bytes
    quality: int
    images: I64

    @property
    def group_images(self) -> int:
        """Images in each of its groups but the last."""
        return group_images(self.quality)

    @property
    def num_groups(self) -> int:
        """Coder states of the part."""
        return -(-len(self.images) // self.group_images)


def only_part(header: BlockHeader) -> Part:
    """The part that a block without others has."""
    return Part(header.model_hash, header.quality, np.arange(header.image_count))


def pack_index(parts: list[tuple[Part, list[int]]]) -> bytes:
    """Parts that share out the images of a block, with the lengths of the messages of their groups
    -> the index area.
    """
    area = pack_parts([part for part, _ in parts]) if len(parts) > 1 else b""
    return area + b"".join(_pack_lengths(part, lengths) for part, lengths in parts)


def unpack_index(index: bytes, header: BlockHeader, offset: int) -> tuple[list[Part], list[int]]:
    """Inverse of `pack_index`, the lengths of all parts one behind the other; they add up to the
    payload.

    offset: of the index area in the file, for messages.
    Raises ChecksumMismatch, LimitExceeded, ReservedBitsSet, TrailingData, Truncated.
    """
    parts, at = (
        unpack_parts(index, header, offset) if header.has_parts else ([only_part(header)], 0)
    )
    lengths: list[int] = []
    for part in parts:
        of_part, at = _unpack_lengths(part, index, at, offset)
        lengths += of_part
    if at != len(index):
        raise TrailingData(f"{len(index) - at} bytes follow the index", offset + at)
    if sum(lengths) != header.payload_bytes:
        raise LimitExceeded(
            f"groups of {sum(lengths)} bytes in a payload of {header.payload_bytes}", offset
        )
    return parts, lengths


def _pack_lengths(part: Part, lengths: list[int]) -> bytes:
    if part.quality == LOSSLESS_QUALITY:
        return b"".join(map(pack_varint, lengths))
    mean = round(sum(lengths) / len(lengths))
    signed = np.array(lengths) - mean
    # gaps 0, 1, 2, ... for 0, -1, 1, ...
    positions = np.cumsum(np.where(signed < 0, -2 * signed, 2 * signed + 1)) - 1
    limit = int(positions[-1]) + 1
    return pack_varint(mean) + pack_varint(limit) + _pack_rice(positions, limit)


def _unpack_lengths(part: Part, index: bytes, at: int, offset: int) -> tuple[list[int], int]:
    """-> the lengths of a part's messages, offset behind them."""
    if part.quality == LOSSLESS_QUALITY:
        lengths = []
        for _ in range(part.num_groups):
            length, at = unpack_varint(index, at, max_bytes=3, base=offset)
            lengths.append(length)
        return lengths, at
    start = at
    mean, at = unpack_varint(index, at, max_bytes=3, base=offset)
    limit, at = unpack_varint(index, at, base=offset)
    if limit < part.num_groups:
        raise LimitExceeded(f"{part.num_groups} lengths below a limit of {limit}", offset + at)
    positions, at = _unpack_rice(index, at, part.num_groups, limit, offset)
    gaps = np.diff(positions, prepend=-1) - 1
    found = mean + np.where(gaps & 1, -(gaps + 1) // 2, gaps // 2)
    if found.min() < 0:
        raise LimitExceeded(f"a group of {found.min()} bytes", offset + start)
    return found.tolist(), at


def pack_parts(parts: list[Part]) -> bytes:
    """Two parts or more, at most MAX_PARTS, that share out the images of a block
    -> the parts area.
    """
    hashes = list(dict.fromkeys(part.model_hash for part in parts))
    area = pack_varint(len(hashes) - 1) + b"".join(hashes[1:]) + pack_varint(len(parts) - 1)
    left = np.sort(np.concatenate([part.images for part in parts]))
    for part in parts[1:]:
        at = np.searchsorted(left, part.images)
        area += (
            bytes([hashes.index(part.model_hash), part.quality])
            + pack_varint(len(at))
            + _pack_rice(at, len(left))
        )
        left = np.delete(left, at)
    return area + checksum(area, size=PARTS_CHECK_BYTES)


def unpack_parts(index: bytes, header: BlockHeader, offset: int) -> tuple[list[Part], int]:
    """The parts at the start of the index area of a block that has some -> parts, and where the
    index goes on.

    offset: of the index area in the file, for messages.
    Raises ChecksumMismatch, LimitExceeded, ReservedBitsSet, Truncated.
    """
    parts, at = _unpack(index, header, offset)
    end = at + PARTS_CHECK_BYTES
    if checksum(index[:at], size=PARTS_CHECK_BYTES) != index[at:end]:
        raise ChecksumMismatch("the parts of a block are damaged", offset)
    return parts, end


def _unpack(index: bytes, header: BlockHeader, offset: int) -> tuple[list[Part], int]:
    """As `unpack_parts`, but for the check."""
    hashes = [header.model_hash]
    num_models, at = unpack_varint(index, 0, max_bytes=3, base=offset)
    if num_models >= MAX_PART_MODELS:
        raise LimitExceeded(
            f"{num_models} further models in a block, at most {MAX_PART_MODELS - 1} are allowed",
            offset,
        )
    for _ in range(num_models):
        hashes.append(index[at : at + MODEL_HASH_BYTES])
        at += MODEL_HASH_BYTES
    num_parts, at = unpack_varint(index, at, max_bytes=3, base=offset)
    if not 1 <= num_parts < MAX_PARTS:
        raise LimitExceeded(
            f"{num_parts} further parts in a block, 1 to {MAX_PARTS - 1} are allowed", offset
        )
    left, parts = np.arange(header.image_count), []
    for _ in range(num_parts):
        if at + 2 > len(index):
            raise Truncated("the index ends inside its parts", offset + at)
        number, quality = index[at], index[at + 1]
        if number >= len(hashes):
            raise LimitExceeded(f"model {number} of a block of {len(hashes)} models", offset + at)
        if quality > LOSSLESS_QUALITY:
            raise ReservedBitsSet(
                f"quality {quality}, this reader knows 0 to {LOSSLESS_QUALITY}", offset + at + 1
            )
        count, end = unpack_varint(index, at + 2, max_bytes=3, base=offset)
        if not 1 <= count < len(left):  # the first part has what is left, one image at least
            raise LimitExceeded(
                f"{count} images in a part, 1 to {len(left) - 1} are possible", offset + at
            )
        positions, at = _unpack_rice(index, end, count, len(left), offset)
        parts.append(Part(hashes[number], quality, left[positions]))
        left = np.delete(left, positions)
    return [Part(header.model_hash, header.quality, left), *parts], at


def _parameter(count: int, limit: int) -> int:
    """Bits of a gap that are written as they are."""
    return (limit // count).bit_length() - 1


def _pack_rice(positions: I64, limit: int) -> bytes:
    """Rising positions below `limit` -> quotients of all gaps in unary, then their remainders,
    filled up with zeros.
    """
    r = _parameter(len(positions), limit)
    gaps = np.diff(positions, prepend=-1) - 1
    quotients = np.zeros(len(gaps) + int((gaps >> r).sum()), np.uint8)
    quotients[np.cumsum((gaps >> r) + 1) - 1] = 1
    remainders = (gaps[:, None] >> np.arange(r)[::-1]) & 1
    return np.packbits(np.concatenate([quotients, remainders.ravel().astype(np.uint8)])).tobytes()


def _unpack_rice(index: bytes, at: int, count: int, limit: int, offset: int) -> tuple[I64, int]:
    """Inverse of `_pack_rice` -> positions (count,), offset behind them."""
    r = _parameter(count, limit)
    longest = count + (limit >> r)
    bits = np.unpackbits(np.frombuffer(index[at : at + -(-(longest + count * r) // 8)], np.uint8))
    ones = np.flatnonzero(bits[:longest])[:count]
    end = int(ones[-1]) + 1 + count * r if len(ones) == count else len(bits) + 1
    if end > len(bits):
        raise Truncated(
            "the index ends inside a list, or its numbers are too far apart", offset + at
        )
    remainders = bits[end - count * r : end].reshape(count, r).astype(np.int64) @ (
        1 << np.arange(r, dtype=np.int64)[::-1]
    )
    positions = np.cumsum(((np.diff(ones, prepend=-1) - 1) << r) + remainders + 1) - 1
    used = -(-end // 8)
    if positions[-1] >= limit or bits[end : 8 * used].any():
        raise LimitExceeded(
            f"a list goes on to {positions[-1]} of {limit}, or the bits behind it are not zero",
            offset + at,
        )
    return positions, at + used
