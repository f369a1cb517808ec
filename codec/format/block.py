"""A whole block <-> bytes: its header, then labels and names, index, payload.  FORMAT.md 3.2.

    block = pack_block(parts with their messages, names, labels)    # the writer
    header = unpack_block(block)                                    # to copy it
    fault_of(header, block, offset)                                 # what is wrong, or None

Nothing is decoded here: `collection.block` does that.
"""

from __future__ import annotations

from dataclasses import replace

from codec.errors import BitstreamError, ChecksumMismatch, Truncated
from codec.format.constants import CHECKSUM_BYTES, MAX_NAMES_BYTES
from codec.format.headers import BLOCK, BlockHeader, unpack_block_header
from codec.format.index import Part, pack_index
from codec.format.labels import pack_labels_area
from codec.format.names import names_too_large, pack_names
from codec.format.primitives import checksum
from codec.labels import Labels


def pack_block(
    parts: list[tuple[Part, list[bytes]]], names: list[str] | None, labels: Labels | None = None
) -> bytes:
    """Parts, with the messages of their groups, and the names and labels of all images, or None ->
    a block.

    The parts divide the images of the block among them. Raises UsageError if names and labels take
    too many bytes.
    """
    texts = pack_labels_area(labels) + (pack_names(names) if names is not None else b"")
    if len(texts) > MAX_NAMES_BYTES:
        raise names_too_large(len(texts))
    count = sum(len(part.images) for part, _ in parts)
    assert all(len(each) == count for each in (names, labels) if each is not None)
    messages = [message for _, of_part in parts for message in of_part]
    index = pack_index([(part, [len(message) for message in of_part]) for part, of_part in parts])
    payload = b"".join(messages)
    first = parts[0][0]
    header = BlockHeader(
        first.model_hash,
        first.quality,
        has_names=names is not None,
        image_count=count,
        names_bytes=len(texts),
        index_bytes=len(index),
        payload_bytes=len(payload),
        has_parts=len(parts) > 1,
        has_labels=labels is not None,
    )
    body = texts + index + payload
    return replace(header, checksum=_checksum(header.pack(), body)).pack() + body


def _checksum(header: bytes, body: bytes) -> bytes:
    return checksum(header[: BLOCK.size - CHECKSUM_BYTES], body)


def fault_of(header: BlockHeader, block: bytes, offset: int) -> BitstreamError | None:
    """What is wrong with the bytes of a block; None: nothing.

    header: its header, which gives its size; offset: of the block in the file, for messages.
    """
    if len(block) < header.block_bytes:
        found = f"{len(block)} of {header.block_bytes} bytes"
        return Truncated(f"the stream ends inside this block: {found}", offset)
    if _checksum(block[: BLOCK.size], block[BLOCK.size :]) != header.checksum:
        return ChecksumMismatch("bytes of this block were changed", offset)
    return None


def unpack_block(block: bytes, offset: int = 0) -> BlockHeader:
    """The header of a whole block whose Checksum holds.  Raises BitstreamError."""
    header = unpack_block_header(block[: BLOCK.size], offset)
    if (fault := fault_of(header, block, offset)) is not None:
        raise fault
    return header
