"""The rate-distortion curve of one model on a set of images, as JSON.

    python -m codec.measure.curve ../shared/data/mnist/t10k-images-idx3-ubyte.gz \\
        --model mnist -o mnist.json

Bytes are whole collection files divided by the number of images, without names. PSNR is that of the
mean squared error over all pixels. A lossless model has one point, quality 100, without a PSNR.
For speeds see `speed` and `bench`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from codec import metrics
from codec.arrays import U8
from codec.encoder.encode import Encoder, Packed
from codec.encoder.options import Options
from codec.files.arrays import read_array
from codec.format.block import pack_block
from codec.format.constants import LOSSLESS_QUALITY, MAX_BLOCK_IMAGES, NEAR_LOSSLESS
from codec.format.footer import Footer
from codec.format.headers import pack_collection_header
from codec.format.index import Part
from codec.measure import tool
from codec.measure.points import Row, psnr_at
from codec.measure.timing import machine
from codec.model import registry
from codec.model.bundle import Model

TARGET_BYTES = (8, 16, 24, 40, 64)
QUALITIES = "0,5,10,15,20,25,30,35,40,45,50,55,60,65,70,75,80,85,90,95,99"


def curve(
    model: Model, pixels: U8, qualities: Iterable[int], effort: int = 1
) -> list[dict[str, Any]]:
    """Measure uint8 (N, 28, 28) at each quality that the model has; a lossless one also at those of
    near-lossless.

    Each row: quality, bytes and ideal_bytes an image, psnr_db.
    """
    if model.lossless:
        near = [quality for quality in qualities if quality > NEAR_LOSSLESS]
        qualities = near or [LOSSLESS_QUALITY]
    return [_point(model, pixels, quality, effort) for quality in qualities]


def _point(model: Model, pixels: U8, quality: int, effort: int) -> Row:
    ideal_bits, squared_error, blocks = 0.0, 0, []
    for at in range(0, len(pixels), MAX_BLOCK_IMAGES):
        of_block = pixels[at : at + MAX_BLOCK_IMAGES]
        encoded = model.encode(of_block, quality, effort=effort)
        part = Part(model.hash, quality, np.arange(len(of_block)))
        block = pack_block([(part, encoded.messages)], None)
        blocks.append((len(block), len(of_block)))
        ideal_bits += encoded.ideal_bits
        squared_error += metrics.squared_error(of_block, encoded.pixels)
    num_bytes = len(pack_collection_header()) + len(Footer(tuple(blocks)).pack())
    num_bytes += sum(size for size, _ in blocks)
    psnr_db = metrics.psnr_db(squared_error, pixels.size)
    return {
        "quality": quality,
        "bytes": round(num_bytes / len(pixels), 3),
        "ideal_bytes": round(ideal_bits / 8 / len(pixels), 3),
        "psnr_db": None if psnr_db is None else round(psnr_db, 3),
    }


def evaluate(
    model: Model, pixels: U8, *, qualities: Iterable[int], effort: int = 1
) -> dict[str, Any]:
    """All figures of one model on uint8 (N, 28, 28), as JSON values.

    A lossless model is measured at quality 100, whatever `qualities` says.
    """
    rows = curve(model, pixels, qualities, effort)
    result: dict[str, Any] = {
        "model": model.name,
        "model_hash": model.hash.hex(),
        "encoder_hash": None if model.encoder_hash is None else model.encoder_hash.hex(),
        "lossless": model.lossless,
        "images": len(pixels),
        "effort": effort,
        "machine": machine(),
        "curve": rows,
    }
    if model.lossless:
        packed = Encoder(Options(LOSSLESS_QUALITY), [model]).images(pixels)
        num_bytes = [len(one.data) for one in packed if isinstance(one, Packed)]
        result["single_file_bytes"] = round(sum(num_bytes) / len(pixels), 3)
    else:
        result["psnr_db_at_bytes"] = {str(target): psnr_at(rows, target) for target in TARGET_BYTES}
    result["max_overhead_bytes"] = round(max(row["bytes"] - row["ideal_bytes"] for row in rows), 3)
    return result


def main(
    data: Annotated[Path, typer.Argument(help="IDX, .npy or .npz file.")],
    out: tool.Out,
    model: Annotated[str, typer.Option(help="Name or file of a model.")],
    qualities: Annotated[str, typer.Option(metavar="Q,Q,...")] = QUALITIES,
    effort: Annotated[int, typer.Option(min=1, max=9, help="Of the encoder.")] = 1,
    last: Annotated[int, typer.Option(metavar="N", help="Only the last N images; 0: all.")] = 0,
    force: tool.Force = False,
) -> None:
    """Measure the rate-distortion curve of a model, and write it as JSON."""
    pixels = read_array(data)[-last:]
    figures = evaluate(
        registry.by_name(model, None),
        pixels,
        qualities=tool.integers(qualities),
        effort=effort,
    )
    tool.write_json(out, {"data": data.name, **figures}, force=force)


if __name__ == "__main__":
    tool.run(main)
