"""Coders: what turns images into messages, and messages into images.

    symbols = coder.analyze(pixels, quality, effort)    # slow: the network
    messages = coder.pack(symbols, group)               # fast: rANS, `group` images to a message
    pixels, damaged = coder.decode(messages, count, quality, group)

There are three: `Ladder`, the lossy one, `Pixels`, the lossless one, and `Stored`, which keeps the
pixels. The encoder and the readers of streams know only this interface.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol, Self

from codec.arrays import I16, U8, Bools, Integers
from codec.coding.lanes import Encoded
from codec.errors import CorruptPayload, UsageError
from codec.format.constants import LOSSLESS_QUALITY, MODEL_HASH_BYTES, group_images


class Symbols(Protocol):
    """The symbols of N images, as arrays with one row or column for each image.

    pixels: what they decode to, uint8 (N, 28, 28).
    """

    @property
    def pixels(self) -> U8: ...

    def of(self, images: Integers) -> Self:
        """The symbols of some images, given by number."""

    @classmethod
    def join(cls, parts: list[Any]) -> Self:
        """The symbols of all images, one table after the other."""


class Coder(ABC):
    """See the module's docstring.  Thread-safe.

    name: as in figures. lossless: whether it can keep every pixel. sha256: of the model file, b""
    if there is none.
    """

    name: str
    lossless: bool
    sha256: bytes

    @property
    def hash(self) -> bytes:
        """The name of the model in streams: the first MODEL_HASH_BYTES bytes of its SHA-256."""
        return self.sha256[:MODEL_HASH_BYTES]

    @property
    def kind(self) -> str:
        """ "lossless" or "lossy", for messages."""
        return "lossless" if self.lossless else "lossy"

    @property
    def figures(self) -> dict[str, Any]:
        """The figures of its card, which are not checked; {} if there are none."""
        return {}

    @property
    def latent_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of the latents of one image, level by level; () for a coder that has none."""
        return ()

    def check_quality(self, quality: int, offset: int) -> None:
        """Raise CorruptPayload unless streams of this coder can have this quality.

        offset: of the quality in the stream, for the message.
        """
        if (quality >= LOSSLESS_QUALITY) != self.lossless:
            raise CorruptPayload(
                f"the quality is {quality}, but model {self.name} is {self.kind}", offset
            )

    @property
    def grid_steps(self) -> list[int]:
        """Steps of the grids that it has learned, for near-lossless coding."""
        return []

    @abstractmethod
    def analyze(self, pixels: U8, quality: int | Integers, effort: int = 1) -> Any:
        """The `Symbols` of uint8 (N, 28, 28), N >= 1.

        quality: of all images, or of each: int (N,). effort: 1 to MAX_EFFORT, how long the coder
        searches for symbols of a lower cost; decoding is the same. The symbols of an image do not
        depend on the other images.
        """

    @abstractmethod
    def pack(self, symbols: Any, group: int) -> list[bytes]:
        """The messages of N >= 1 images, one for each `group` of neighbours.

        symbols: from `analyze` of the same coder.
        """

    def pack_parts(self, parts: list[Any], group: int) -> list[list[bytes]]:
        """The messages of each part, as by `pack`."""
        return [self.pack(symbols, group) for symbols in parts]

    def ideal_bits(self, symbols: Any) -> float:
        """Bits that a perfect coder would spend on symbols."""
        return 0.0

    @abstractmethod
    def decode(
        self, messages: list[bytes], count: int, quality: int, *, group: int | None = None
    ) -> tuple[U8, Bools]:
        """Inverse of `pack`: -> pixels uint8 (count, 28, 28); which messages are damaged, bool.

        group: images in a group, by default as in a collection. Pixels of damaged groups are
        meaningless; damaged messages raise nothing, and take no longer.
        """

    def decode_latents(
        self, messages: list[bytes], count: int, quality: int, *, group: int | None = None
    ) -> tuple[U8, I16, Bools]:
        """As `decode`, with the dequantized latents of all levels: -> pixels, latents int16 (count,
        K), |.| < 2**12, which messages are damaged.

        Raises UsageError for a coder that has none.
        """
        raise UsageError(f"model {self.name} is {self.kind}, and only lossy streams have latents")

    def encode(
        self, pixels: U8, quality: int, *, group: int | None = None, effort: int = 1
    ) -> Encoded:
        """`analyze` and `pack` uint8 (N, 28, 28), N >= 1.  group: see `decode`."""
        symbols = self.analyze(pixels, quality, effort)
        messages = self.pack(symbols, group or group_images(quality))
        return Encoded(messages, symbols.pixels, self.ideal_bits(symbols))
