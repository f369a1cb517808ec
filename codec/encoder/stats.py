"""Figures of compression."""

from __future__ import annotations

from dataclasses import dataclass, field

from codec import metrics
from codec.arrays import I64, PIXELS
from codec.format.constants import LOSSLESS_QUALITY, NEAR_LOSSLESS

MAX_LISTED = 1000  # images that fell back


@dataclass
class CompressStats:
    """Figures of compression; they add up with `+=`.

    payload_bytes: entropy-coded (or stored) bytes only; bytes_out: all bytes. squared_error: sum
    over all pixels. models: images by the name of their model, "stored" for those without one;
    qualities: images by quality, as text. fallback: images that fell back, by their new coding
    ("mnist q91", "mnist-lossless", "stored"); fallback_images: the numbers of the first MAX_LISTED
    of them, in order of compression.
    """

    images: int = 0
    bytes_out: int = 0
    payload_bytes: int = 0
    squared_error: int = 0
    models: dict[str, int] = field(default_factory=dict)
    qualities: dict[str, int] = field(default_factory=dict)
    fallback: dict[str, int] = field(default_factory=dict)
    fallback_images: list[int] = field(default_factory=list)

    @classmethod
    def of(
        cls, name: str, quality: int, squared_error: I64, payload_bytes: int, fell_back: int
    ) -> CompressStats:
        """Of images coded by one coder at one quality; `fell_back` of them fell back to it.

        squared_error: of each image.
        """
        near = quality - NEAR_LOSSLESS
        key = f"max error {near}" if near > 0 else str(min(quality, LOSSLESS_QUALITY))
        what = name if quality >= LOSSLESS_QUALITY else f"{name} q{quality}"
        return cls(
            images=len(squared_error),
            payload_bytes=payload_bytes,
            squared_error=int(squared_error.sum()),
            models={name: len(squared_error)},
            qualities={key: len(squared_error)},
            fallback={what: fell_back} if fell_back else {},
        )

    @property
    def bpp(self) -> float:
        """Bits per pixel, of whole files."""
        return metrics.bpp(self.bytes_out, PIXELS * self.images) if self.images else 0.0

    @property
    def psnr_db(self) -> float | None:
        """From the mean squared error over all pixels; None if there is no error."""
        return metrics.psnr_db(self.squared_error, PIXELS * self.images)

    @property
    def lossless(self) -> bool:
        """Whether every pixel comes back."""
        return self.squared_error == 0

    def __iadd__(self, other: CompressStats) -> CompressStats:
        room = MAX_LISTED - len(self.fallback_images)
        self.fallback_images += [self.images + i for i in other.fallback_images[:room]]
        self.images += other.images
        self.bytes_out += other.bytes_out
        self.payload_bytes += other.payload_bytes
        self.squared_error += other.squared_error
        for counts in ("models", "qualities", "fallback"):
            mine = getattr(self, counts)
            for name, images in getattr(other, counts).items():
                mine[name] = mine.get(name, 0) + images
        return self
