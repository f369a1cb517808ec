"""Every error that aez raises on purpose.

    AezError
    ├── BitstreamError (also ValueError): the bytes are at fault; carries .offset
    │   ├── BadMagic            not an aez stream at all
    │   ├── UnsupportedVersion  a format version, or a critical field, from the future
    │   ├── ReservedBitsSet     a bit that must be zero is not
    │   ├── Truncated           the stream ends too early
    │   ├── TrailingData        bytes follow the end of the stream
    │   ├── LimitExceeded       a claimed size or count is absurd
    │   ├── ChecksumMismatch    a check says that bytes were changed
    │   └── CorruptPayload      the entropy-coded symbols do not decode to what was encoded
    ├── ModelError
    │   ├── ModelNotFound       carries .model_hash (hexadecimal)
    │   ├── EncoderNotFound     a lossy model is installed without the file of its encoder
    │   └── BadModel            a model file that is damaged or breaks a bound
    ├── ImageError (also ValueError): unsupported size, mode, depth or file
    └── UsageError (also ValueError): a request that cannot be met, such as an output that exists

A message says where and what was found, and what to do: `byte 2: version 7, this reader knows 1`.
"""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """`1 image`, `2 images`: for messages."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def shown(text: str) -> str:
    """Escape control characters, as names come from untrusted files and streams."""
    if text.isprintable():  # most are
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


class AezError(Exception):
    """Root of the tree; catch this to catch everything that aez raises on purpose."""


class BitstreamError(AezError, ValueError):
    """The bytes of a stream are at fault; offset: where, in bytes, None: all of it."""

    def __init__(self, message: str, offset: int | None = None) -> None:
        # "byte 0" says nothing: what is wrong there is wrong with the whole stream
        super().__init__(f"byte {offset}: {message}" if offset else message)
        self.message = message
        self.offset = offset

    def __reduce__(self) -> tuple[type[BitstreamError], tuple[str, int | None]]:
        # Exceptions cross process boundaries by pickle, which would prefix the offset twice.
        return type(self), (self.message, self.offset)


class BadMagic(BitstreamError):
    """The stream does not start as an aez stream does."""


class UnsupportedVersion(BitstreamError):
    """The stream has a later format version, or a critical field that this reader does not know."""


class ReservedBitsSet(BitstreamError):
    """A bit or value that version 1 reserves is in use."""


class Truncated(BitstreamError):
    """The stream ends before its last field."""


class TrailingData(BitstreamError):
    """Bytes follow the end of the stream."""


class LimitExceeded(BitstreamError):
    """A count or size is larger than the format allows or than the bytes present could hold."""


class ChecksumMismatch(BitstreamError):
    """A stored check differs from the one computed."""


class CorruptPayload(BitstreamError):
    """The entropy-coded symbols do not decode to what was encoded."""


class ModelError(AezError):
    """A model is missing or unusable."""


class ModelNotFound(ModelError):
    """The model that a stream names is not installed; model_hash: which one, in hexadecimal, or its
    name.
    """

    def __init__(self, message: str, model_hash: str) -> None:
        super().__init__(message)
        self.message = message
        self.model_hash = model_hash

    def __reduce__(self) -> tuple[type[ModelNotFound], tuple[str, str]]:
        return type(self), (self.message, self.model_hash)


class EncoderNotFound(ModelError):
    """The encoder of a lossy model is missing: the model can decode but not encode."""


class BadModel(ModelError):
    """A model file is damaged, malformed, or breaks the exactness bound."""


class ImageError(AezError, ValueError):
    """An input is not an image that this codec takes: unsupported size, mode, depth, or file."""


class UsageError(AezError, ValueError):
    """A request that cannot be met: the output exists, names collide, options contradict."""
