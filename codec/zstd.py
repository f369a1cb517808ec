"""Content <-> one zstd frame (RFC 8878): names, labels and stored images.

The library is Python's own `compression.zstd`, which Python before 3.14 has as `backports.zstd`. It
is imported late: only names, labels and stored images pay for its start-up.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

LEVEL = 19  # the content is a few KiB, and is written once
HAS_CHECKSUM = 0x04  # in the second byte after the magic number
MAGIC_BYTES = 4


class FrameError(ValueError):
    """This is not one zstd frame of the content that it states."""


@functools.cache
def library() -> Any:
    """The module that packs and unpacks."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def pack(content: bytes, *, checksum: bool = False) -> bytes:
    """Content -> one frame, which states the content's size.

    checksum: whether the frame ends with a check of the content.
    """
    zstd = library()
    parameter = zstd.CompressionParameter
    options = {parameter.compression_level: LEVEL, parameter.checksum_flag: int(checksum)}
    packed: bytes = zstd.compress(content, options=options)
    return packed


def content_size(frame: bytes) -> int | None:
    """How many bytes of content the frame states; None if it does not say.  Raises FrameError."""
    zstd = library()
    try:
        size: int | None = zstd.get_frame_info(frame).decompressed_size
    except zstd.ZstdError as error:
        raise FrameError(str(error)) from error
    return size


def has_checksum(frame: bytes) -> bool:
    """Whether the frame has a check of its content, which `unpack` then verifies."""
    return len(frame) > MAGIC_BYTES and bool(frame[MAGIC_BYTES] & HAS_CHECKSUM)


def unpack(frame: bytes, size: int, *, alone: bool = True) -> bytes:
    """The content of a frame that states `size` bytes: ask `content_size` first.

    alone: nothing may follow the frame.
    No more memory is taken than the content needs, whatever window the frame asks for.
    Raises FrameError.
    """
    zstd = library()
    parameter = zstd.DecompressionParameter.window_log_max
    reader = zstd.ZstdDecompressor(options={parameter: parameter.bounds()[1]})
    try:
        content: bytes = reader.decompress(frame, size + 1)
    except zstd.ZstdError as error:
        raise FrameError(str(error)) from error
    if not reader.eof:
        raise FrameError("the frame is cut")
    if len(content) != size:
        raise FrameError(f"{len(content)} bytes of content instead of {size}")
    if alone and reader.unused_data:
        raise FrameError(f"{len(reader.unused_data)} bytes follow the frame")
    return content
