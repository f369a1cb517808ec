"""PNG and WebP on the held-out images: what a model in training is compared with.

Bytes are those of single files.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, features

from codec.metrics import psnr_db, squared_error

U8 = npt.NDArray[np.uint8]

SAMPLE = 500  # images
WEBP_QUALITIES = (0, 20, 50, 80)


@dataclass(frozen=True)
class Others:
    """Bytes an image.  webp_lossless is None and webp empty where Pillow was built without WebP.

    webp: (quality, bytes, PSNR in dB, None where not a pixel is off).
    """

    png: float
    webp_lossless: float | None
    webp: list[tuple[int, float, float | None]]


def measure(pixels: U8) -> Others:
    """Code at most SAMPLE of uint8 (N, 28, 28), N >= 1, spread over all of them."""
    sample = pixels[np.linspace(0, len(pixels) - 1, min(SAMPLE, len(pixels))).astype(int)]
    png, _ = _coded(sample, format="PNG", optimize=True)
    if not features.check("webp"):
        return Others(png, None, [])
    return Others(
        png,
        _coded(sample, format="WEBP", lossless=True, quality=100, method=6)[0],
        [(q, *_coded(sample, format="WEBP", quality=q, method=6)) for q in WEBP_QUALITIES],
    )


def _coded(pixels: U8, **options: object) -> tuple[float, float | None]:
    """-> bytes an image, PSNR."""
    num_bytes, error = 0, 0
    for image in pixels:
        file = io.BytesIO()
        Image.fromarray(image).save(file, **options)  # type: ignore[arg-type]
        num_bytes += len(file.getvalue())
        error += squared_error(image, np.array(Image.open(file).convert("L")))
    return num_bytes / len(pixels), psnr_db(error, pixels.size)
