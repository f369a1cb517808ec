"""The labels of a block's images <-> a zstd frame.  FORMAT.md 3.7.

    area = pack_labels_area(labels)         # Labels_Bytes, then the frame; names follow
    at, size = labels_span(area, header)    # where the frame lies in it
    labels = unpack_labels(frame, count, offset)

Integers lie in planes: all lowest bytes first, then the next ones. Texts are listed once;
their numbers in the list are what the planes hold.
"""

from __future__ import annotations

import numpy as np

from codec import zstd
from codec.arrays import I64, Integers
from codec.errors import (
    BitstreamError,
    CorruptPayload,
    LimitExceeded,
    ReservedBitsSet,
    TrailingData,
)
from codec.format.constants import LABELS_TEXTS, LABELS_WIDTH, MAX_LABELS_BYTES
from codec.format.headers import BlockHeader
from codec.format.primitives import pack_varint, unpack_varint
from codec.labels import Labels, fault_of

WIDTHS = (1, 2, 4)  # bytes of a number


def pack_labels(labels: Labels) -> bytes:
    """Labels that `codec.labels.checked` has passed -> a zstd frame."""
    if isinstance(labels, list):
        ranks = {text: rank for rank, text in enumerate(dict.fromkeys(labels))}
        numbers = np.array([ranks[text] for text in labels], np.int64)
        texts = "".join(text + "\0" for text in ranks).encode()
        kind, listed = LABELS_TEXTS, pack_varint(len(ranks)) + texts
    else:
        numbers, kind, listed = labels, 0, b""
    width = next(width for width in WIDTHS if int(numbers.max(initial=0)) < 1 << 8 * width)
    content = bytes([kind | width]) + listed + _planes(numbers, width)
    return zstd.pack(content, checksum=True)


def pack_labels_area(labels: Labels | None) -> bytes:
    """What stands before the names of a block: nothing without labels."""
    if labels is None:
        return b""
    frame = pack_labels(labels)
    return pack_varint(len(frame)) + frame


def labels_span(start: bytes, header: BlockHeader, offset: int) -> tuple[int, int]:
    """Where the frame of the labels lies in the names area: at, and its size in bytes.

    start: the first bytes of the area, 5 are enough; offset: of the area in the file, for messages.
    Raises LimitExceeded, TrailingData, Truncated.
    """
    size, at = unpack_varint(start, 0, base=offset)
    left = header.names_bytes - at
    if size > MAX_LABELS_BYTES or size > left:
        most = min(left, MAX_LABELS_BYTES)
        raise LimitExceeded(f"labels of {size} bytes, at most {most} have room", offset)
    if size < left and not header.has_names:
        raise TrailingData(f"{left - size} bytes follow the labels", offset + at + size)
    return at, size


def unpack_labels(frame: bytes, count: int, offset: int) -> Labels:
    """-> the labels of `count` images.  offset: of the frame in the file, for messages.

    Raises BitstreamError.
    """
    content = _content(frame, offset)
    kind = content[0]
    width = kind & LABELS_WIDTH
    if kind & ~(LABELS_TEXTS | LABELS_WIDTH) or width not in WIDTHS:
        raise ReservedBitsSet(f"labels of kind 0x{kind:02x}", offset)
    end = len(content) - count * width
    if not kind & LABELS_TEXTS:
        if end != 1:
            found = f"{len(content) - 1} bytes for {count} labels of {width} each"
            raise CorruptPayload(found, offset)
        return _numbers(content[1:], width)
    texts = _texts(content, end, count, offset)
    numbers = _numbers(content[end:], width)
    if numbers.max() >= len(texts):
        raise CorruptPayload(f"label text {numbers.max()} of {len(texts)}", offset)
    return [texts[number] for number in numbers.tolist()]


def _content(frame: bytes, offset: int) -> bytes:
    """What is in the frame: at least one byte, protected by a check of its own."""
    try:
        size = zstd.content_size(frame)
        if size is None or not 1 <= size <= MAX_LABELS_BYTES:
            found = "an unknown number of" if size is None else size
            raise LimitExceeded(
                f"labels of {found} bytes, 1 to {MAX_LABELS_BYTES} are allowed", offset
            )
        if not zstd.has_checksum(frame):
            raise CorruptPayload("the labels have no check", offset)
        return zstd.unpack(frame, size)
    except zstd.FrameError as error:
        raise CorruptPayload(f"the labels are damaged ({error})", offset) from error


def _texts(content: bytes, end: int, count: int, offset: int) -> list[str]:
    """The texts listed before `end`."""
    try:
        number, at = unpack_varint(content, 1, max_bytes=3)
    except BitstreamError as error:
        raise CorruptPayload(f"the number of label texts: {error.message}", offset) from error
    if not 1 <= number <= count:
        raise LimitExceeded(f"{number} label texts for {count} images", offset)
    listed = content[at:end] if at < end else b""
    if listed.count(b"\0") != number or not listed.endswith(b"\0"):
        raise CorruptPayload(f"{listed.count(0)} label texts of {number}, or no end", offset)
    try:
        texts = listed[:-1].decode().split("\0")
    except UnicodeDecodeError as error:
        raise CorruptPayload("a label text is not UTF-8", offset) from error
    for text in texts:
        if fault := fault_of(text):
            raise CorruptPayload(f"a label text {fault}", offset)
    return texts


def _planes(numbers: Integers, width: int) -> bytes:
    """Numbers below 256**width -> all lowest bytes, then the next ones."""
    return b"".join((numbers >> 8 * i).astype(np.uint8).tobytes() for i in range(width))


def _numbers(planes: bytes, width: int) -> I64:
    """Inverse of `_planes`."""
    bytes_of = np.frombuffer(planes, np.uint8).reshape(width, -1).astype(np.int64)
    return np.asarray((bytes_of << (8 * np.arange(width))[:, None]).sum(axis=0))
