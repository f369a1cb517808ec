"""The coder of last resort: the pixels, packed by zstd if that is smaller.  FORMAT.md 2.3.

It has no model and no groups. A lossless model stores images in the same way if it would expand
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from codec import zstd
from codec.arrays import I16, PIXELS, SIDE, U8, Bools, Integers
from codec.errors import CorruptPayload, UsageError
from codec.format.constants import STORED_QUALITY
from codec.model.base import Coder

MIN_STORED_BYTES = 11  # of a zstd frame with 784 equal bytes: none is smaller


@dataclass(frozen=True)
class StoredSymbols:
    """The pixels themselves: see `base.Symbols`."""

    pixels: U8

    def of(self, images: Integers) -> StoredSymbols:
        return StoredSymbols(self.pixels[images])

    @classmethod
    def join(cls, parts: list[StoredSymbols]) -> StoredSymbols:
        return cls(np.concatenate([part.pixels for part in parts]))


class Stored(Coder):
    """See the module's docstring.  Its only quality is STORED_QUALITY, its only group 1."""

    name = "stored"
    lossless = True
    sha256 = b""

    def check_quality(self, quality: int, offset: int) -> None:
        """See Coder."""
        if quality != STORED_QUALITY:
            raise CorruptPayload(f"a stored image has quality {quality}", offset)

    def analyze(self, pixels: U8, quality: int | Integers, effort: int = 1) -> StoredSymbols:
        """See Coder."""
        return StoredSymbols(pixels)

    def pack(self, symbols: StoredSymbols, group: int = 1) -> list[bytes]:
        """See Coder."""
        return [stored_bytes(image) for image in symbols.pixels]

    def decode(
        self, messages: list[bytes], count: int, quality: int, *, group: int | None = None
    ) -> tuple[U8, Bools]:
        """See Coder."""
        pixels, damaged = np.zeros((count, SIDE, SIDE), np.uint8), np.zeros(count, np.bool_)
        for i, message in enumerate(messages):
            try:
                pixels[i] = stored_image(message)
            except CorruptPayload:
                damaged[i] = True
        return pixels, damaged

    def decode_latents(
        self, messages: list[bytes], count: int, quality: int, *, group: int | None = None
    ) -> tuple[U8, I16, Bools]:
        """Raise UsageError: see Coder."""
        raise UsageError("this is a stored image, and only lossy streams have latents")


STORED: Final = Stored()


def stored_bytes(image: U8) -> bytes:
    """uint8 (28, 28) -> its 784 bytes, or a zstd frame of them if that is smaller."""
    raw = image.tobytes()
    packed = zstd.pack(raw)
    return packed if len(packed) < PIXELS else raw


def stored_image(stored: bytes) -> U8:
    """Inverse of `stored_bytes`.  Raises CorruptPayload."""
    if len(stored) > PIXELS:
        raise CorruptPayload(
            f"a stored image has {len(stored)} bytes, at most {PIXELS} are allowed"
        )
    if len(stored) != PIXELS:
        try:
            if zstd.content_size(stored) != PIXELS:
                raise CorruptPayload(f"a stored image does not have {PIXELS} pixels")
            stored = zstd.unpack(stored, PIXELS)
        except zstd.FrameError as error:
            raise CorruptPayload(f"a stored image is damaged ({error})") from error
    return np.frombuffer(stored, np.uint8).reshape(SIDE, SIDE)
