"""The names of a block's images <-> a zstd frame.  FORMAT.md 3.3."""

from __future__ import annotations

from codec import zstd
from codec.errors import CorruptPayload, LimitExceeded, UsageError
from codec.format.constants import MAX_NAMES_BYTES


def pack_names(names: list[str]) -> bytes:
    """Names -> zstd frame of their UTF-8, each followed by NUL.

    Raises ValueError for a name with NUL in it, UsageError if they take too many bytes.
    """
    if any("\0" in name for name in names):
        raise ValueError("a name contains NUL")
    joined = "".join(name + "\0" for name in names).encode("utf-8", "surrogateescape")
    if len(joined) > MAX_NAMES_BYTES:
        raise names_too_large(len(joined))
    return zstd.pack(joined, checksum=True)


def names_too_large(size: int) -> UsageError:
    """The error of names, and labels, that no block has room for."""
    return UsageError(
        f"the names of a block take {size} bytes, at most {MAX_NAMES_BYTES} have room"
    )


def unpack_names(frame: bytes, count: int, offset: int) -> list[str]:
    """-> `count` names.  offset: of the frame in the file, for messages.

    Raises CorruptPayload, LimitExceeded.
    """
    try:
        size = zstd.content_size(frame)
        if size is None or size > MAX_NAMES_BYTES:
            found = "an unknown number of" if size is None else size
            raise LimitExceeded(
                f"the names have {found} bytes, at most {MAX_NAMES_BYTES} are allowed", offset
            )
        joined = zstd.unpack(frame, size, alone=False)
    except zstd.FrameError as error:
        raise CorruptPayload(f"the names are damaged ({error})", offset) from error
    names = joined.decode("utf-8", "surrogateescape").split("\0")
    if len(names) != count + 1 or names[-1]:
        raise CorruptPayload(f"{len(names) - 1} names for {count} images", offset)
    return names[:-1]
