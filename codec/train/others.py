"""PNG and WebP on the held-out images: what a model in training is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import features

from codec.arrays import U8, spread
from codec.measure import codecs
from codec.metrics import psnr_db, squared_error

SAMPLE = 500  # images
WEBP_QUALITIES = (0, 20, 50, 80)


@dataclass(frozen=True)
class Others:
    """Bytes an image, as one file each.

    webp: (quality, bytes, PSNR in dB, None if there is no error). webp_lossless is None and webp
    empty if Pillow was built without WebP.
    """

    png: float
    webp_lossless: float | None
    webp: list[tuple[int, float, float | None]]


def measure(pixels: U8) -> Others:
    """Encode at most SAMPLE of uint8 (N, 28, 28), N >= 1, evenly spread."""
    sample = pixels[spread(len(pixels), min(SAMPLE, len(pixels)))]
    png, _ = _measured(codecs.png(optimize=True), sample)
    if not features.check("webp"):
        return Others(png, None, [])
    lossless, _ = _measured(codecs.webp(None), sample)
    lossy = [(quality, *_measured(codecs.webp(quality), sample)) for quality in WEBP_QUALITIES]
    return Others(png, lossless, lossy)


def _measured(codec: codecs.Codec, pixels: U8) -> tuple[float, float | None]:
    """-> bytes an image, PSNR in dB."""
    files = codec.encode(pixels)
    error = squared_error(pixels, codec.decode(files))
    return sum(map(len, files)) / len(pixels), psnr_db(error, pixels.size)
