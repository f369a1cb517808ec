"""The names of a block's images <-> a zstd frame.  FORMAT.md 3.3."""

from __future__ import annotations

from codec.errors import CorruptPayload, LimitExceeded, UsageError
from codec.format.constants import MAX_NAMES_BYTES

NAMES_LEVEL = 19  # of zstd: names are a few KiB a block, and a collection is written once


def pack_names(names: list[str]) -> bytes:
    """Names -> zstd frame of their UTF-8, each followed by NUL.

    Raises ValueError for a name with NUL in it, UsageError if they take too many bytes.
    """
    import zstandard  # only named collections pay for its start-up

    if any("\0" in name for name in names):
        raise ValueError("a name contains NUL")
    joined = "".join(name + "\0" for name in names).encode("utf-8", "surrogateescape")
    if len(joined) > MAX_NAMES_BYTES:
        raise names_too_large(len(joined))
    return zstandard.ZstdCompressor(level=NAMES_LEVEL, write_checksum=True).compress(joined)


def names_too_large(size: int) -> UsageError:
    """The error of names, and labels, that no block has room for."""
    return UsageError(
        f"the names of a block take {size} bytes, at most {MAX_NAMES_BYTES} have room"
    )


def unpack_names(frame: bytes, count: int, offset: int) -> list[str]:
    """-> `count` names.  offset: of the frame in the file, for messages.

    Raises CorruptPayload, LimitExceeded.
    """
    import zstandard

    try:
        size = zstandard.get_frame_parameters(frame).content_size
        if size > MAX_NAMES_BYTES:  # also when the frame does not say
            raise LimitExceeded(
                f"the names have {size} bytes, at most {MAX_NAMES_BYTES} are allowed", offset
            )
        joined = zstandard.ZstdDecompressor().decompress(frame, max_output_size=size)
    except zstandard.ZstdError as error:
        raise CorruptPayload(f"the names are damaged ({error})", offset) from error
    names = joined.decode("utf-8", "surrogateescape").split("\0")
    if len(names) != count + 1 or names[-1]:
        raise CorruptPayload(f"{len(names) - 1} names for {count} images", offset)
    return names[:-1]
