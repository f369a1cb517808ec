"""The project's ruler: rate, distortion and speed of a model on a set of images, as JSON.

    python -m codec.measure.curve ../shared/data/mnist/t10k-images-idx3-ubyte.gz \\
        --model mnist -o mnist.json

Bytes are whole collection files divided by the number of images (no names). PSNR is that of the
mean squared error over all pixels; a lossless model has one point, quality 100, without a PSNR.
Speeds are images a second from arrays in memory, best of --repeat, and as a ratio to Pillow writing
and reading the same images as PNG in memory, in the same run; the machine and the engine are named,
and G, by which efficiency is told. `--collections` measures files and collections instead
(`evaluate_collections`); `evaluate_speed` all that people wait for. Nothing here is a test.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codec import api, kernels, metrics, parallel
from codec.collection.reader import pack_block
from codec.files.images import read_array
from codec.format.bitstream import (
    LOSSLESS_QUALITY,
    MAX_BLOCK_IMAGES,
    Footer,
    pack_collection_header,
)
from codec.measure.reading import evaluate_collections
from codec.model import registry
from codec.model.bundle import BaseModel

U8 = npt.NDArray[np.uint8]

TARGET_BYTES = (8, 16, 24, 40, 64)
PNG_IMAGES = 2000
YARDSTICK = (1024, 784, 512)  # a product as large as those of a network
PRODUCTS = 4  # timed at once


def curve(
    model: BaseModel, pixels: U8, qualities: Iterable[int], effort: int = 1
) -> list[dict[str, Any]]:
    """Rate and distortion of uint8 (N, 28, 28) at each quality that the model has: whole-collection
    bytes, ideal bytes, PSNR.
    """
    rows = []
    for quality in _qualities(model, qualities):
        num_bytes, ideal_bits, squared_error, sizes = len(pack_collection_header()), 0.0, 0, []
        for at in range(0, len(pixels), MAX_BLOCK_IMAGES):
            block_pixels = pixels[at : at + MAX_BLOCK_IMAGES]
            block, encoded = pack_block(model, block_pixels, quality, None, effort)
            sizes.append((len(block), len(block_pixels)))
            ideal_bits += encoded.ideal_bits
            squared_error += metrics.squared_error(block_pixels, encoded.pixels)
        num_bytes += sum(size for size, _ in sizes) + len(Footer(tuple(sizes)).pack())
        psnr_db = metrics.psnr_db(squared_error, pixels.size)
        rows.append(
            {
                "quality": quality,
                "bytes": round(num_bytes / len(pixels), 3),
                "ideal_bytes": round(ideal_bits / 8 / len(pixels), 3),
                "psnr_db": None if psnr_db is None else round(psnr_db, 3),
            }
        )
    return rows


def _qualities(model: BaseModel, qualities: Iterable[int]) -> Iterable[int]:
    return [LOSSLESS_QUALITY] if model.lossless else qualities


def psnr_at(rows: list[dict[str, Any]], num_bytes: float) -> float | None:
    """PSNR in dB at a rate, on the straight line between the two qualities around it; None outside
    the curve.
    """
    points = sorted((row["bytes"], row["psnr_db"]) for row in rows if row["psnr_db"] is not None)
    if not points or not points[0][0] <= num_bytes <= points[-1][0]:
        return None
    return round(float(np.interp(num_bytes, [p[0] for p in points], [p[1] for p in points])), 3)


def best_seconds(
    work: Callable[[], object],
    repeat: int,
    enough_s: float = float("inf"),
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """The least that `work` took of `repeat` runs, at least one;
    no further run after `enough_s`.
    """
    times: list[float] = []
    while not times or (len(times) < repeat and sum(times) < enough_s):
        begun = clock()
        work()
        times.append(clock() - begun)
    return max(min(times), 1e-9)


def products_per_s(
    cores: int,
    *,
    side_by_side: bool = False,
    repeat: int = 20,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """G: multiply-adds a second of numpy's float32 product 1024x784x512, by BLAS on so many cores.

    side_by_side: instead each core has a product of its own, as the workers of aez have.
    """
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(0)
    m, k, n = YARDSTICK
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((m, k), (k, n)))
    num_products = cores if side_by_side else 1
    outs = [np.empty((m, n), np.float32) for _ in range(num_products)]

    def work(out: npt.NDArray[np.float32]) -> None:
        for _ in range(PRODUCTS):
            np.matmul(a, b, out=out)

    with threadpool_limits(1 if side_by_side else cores, "blas"):
        if num_products == 1:
            seconds = best_seconds(lambda: work(outs[0]), repeat, clock=clock)
        else:
            with ThreadPoolExecutor(num_products) as pool:
                seconds = best_seconds(lambda: list(pool.map(work, outs)), repeat, clock=clock)
    return num_products * PRODUCTS * m * k * n / seconds


def efficiency(images_per_s: float, multiply_adds: float, products_per_s: float) -> float:
    """Multiply-adds a second of a model, as a share of those of numpy's product (G), to four
    digits.
    """
    return float(f"{images_per_s * multiply_adds / products_per_s:.4g}")


def speeds(
    model: BaseModel,
    pixels: U8,
    qualities: Iterable[int],
    repeat: int,
    effort: int = 1,
    yardstick: float | None = None,
) -> list[dict[str, Any]]:
    """Images a second of encoding and decoding uint8 (N, 28, 28) in memory, and ratios to Pillow's
    PNG.

    yardstick: G, by default measured here; the efficiency of encoding is told of effort 1 only,
    whose products are known.
    """
    from PIL import Image

    pngs: list[bytes] = []

    def write_png() -> None:
        pngs.clear()
        for image in pixels[:PNG_IMAGES]:
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            pngs.append(file.getvalue())

    def read_png() -> None:
        for png in pngs:
            Image.open(io.BytesIO(png)).load()

    num_pngs = len(pixels[:PNG_IMAGES])
    png_write, png_read = (
        num_pngs / best_seconds(write_png, repeat),
        num_pngs / best_seconds(read_png, repeat),
    )
    if yardstick is None:
        yardstick = products_per_s(parallel.num_cores())
    of_encode, of_decode = model.multiply_adds(pixels)
    rows = []
    for quality in _qualities(model, qualities):
        messages = model.encode(pixels, quality).messages
        encode_all = functools.partial(model.encode, pixels, quality, effort=effort)
        decode_all = functools.partial(model.decode, messages, len(pixels), quality)
        encode = len(pixels) / best_seconds(encode_all, repeat)
        decode = len(pixels) / best_seconds(decode_all, repeat)
        rows.append(
            {
                "quality": quality,
                "encode_images_per_s": round(encode),
                "decode_images_per_s": round(decode),
                "encode_per_png_write": round(encode / png_write, 3),
                "decode_per_png_read": round(decode / png_read, 3),
                "decode_efficiency": efficiency(decode, of_decode, yardstick),
            }
        )
        if effort == 1 or model.lossless:
            rows[-1]["encode_efficiency"] = efficiency(encode, of_encode, yardstick)
    return rows


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [
            line.split(":", 1)[1].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith("model name")
        ]
        name = models[0] if models else name
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def engine_and_yardstick(
    cores: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Any]:
    """What did the work, and G, on so many cores: both belong beside every figure of speed."""
    speed = products_per_s(cores, clock=clock)
    return {"engine": kernels.description(), "cores_used": cores, "products_per_s": round(speed)}


def evaluate(
    model: BaseModel,
    pixels: U8,
    *,
    qualities: Iterable[int],
    speed_qualities: Iterable[int] = (),
    repeat: int = 3,
    speed_images: int = 4096,
    effort: int = 1,
) -> dict[str, Any]:
    """All figures of one model on one set of images; of a lossless one at quality 100, whatever
    `qualities` says.
    """
    rows = curve(model, pixels, qualities, effort)
    encoder_hash = None if model.encoder_hash is None else model.encoder_hash.hex()
    result: dict[str, Any] = {
        "model": model.name,
        "model_hash": model.hash.hex(),
        "encoder_hash": encoder_hash,
        "lossless": model.lossless,
        "images": len(pixels),
        "effort": effort,
        "machine": machine(),
        "curve": rows,
    }
    if model.lossless:
        _, stats = api.pack_images([model], pixels, api.request(LOSSLESS_QUALITY))
        result["single_file_bytes"] = round(stats.bytes_out / stats.images, 3)
    else:
        result["psnr_db_at_bytes"] = {str(target): psnr_at(rows, target) for target in TARGET_BYTES}
    result["max_overhead_bytes"] = round(max(row["bytes"] - row["ideal_bytes"] for row in rows), 3)
    if speed_qualities:
        result["measured_by"] = engine_and_yardstick(parallel.num_cores())
        yardstick = result["measured_by"]["products_per_s"]
        result["speed"] = speeds(
            model, pixels[:speed_images], speed_qualities, repeat, effort, yardstick
        )
    return result


def main() -> None:
    """Command line of the ruler; not part of `aez`."""
    parser = argparse.ArgumentParser(
        prog="python -m codec.measure.curve", description="Rate, distortion and speed as JSON."
    )
    parser.add_argument("data", type=Path, help="IDX, .npy or .npz file")
    parser.add_argument("--model", required=True, help="name or file of a model")
    parser.add_argument(
        "--qualities", default="0,5,10,15,20,25,30,35,40,45,50,55,60,65,70,75,80,85,90,95,99"
    )
    parser.add_argument(
        "--speed", default="", metavar="Q,Q", help="also measure speed at these qualities"
    )
    parser.add_argument(
        "--effort", type=int, default=1, metavar="1..9", help="of the encoder (default 1)"
    )
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--last", type=int, metavar="N", help="only the last N images")
    parser.add_argument(
        "--collections",
        type=int,
        nargs="?",
        const=75,
        metavar="Q",
        help="instead: files to collections and back, at this quality (default 75)",
    )
    parser.add_argument(
        "-o", dest="out", type=Path, help="write the JSON here instead of to stdout"
    )
    args = parser.parse_args()
    numbers = [[int(q) for q in text.split(",") if q] for text in (args.qualities, args.speed)]
    pixels = read_array(args.data)[-(args.last or 0) :]
    model = registry.by_name(args.model, None)
    if args.collections is None:
        result = evaluate(
            model,
            pixels,
            qualities=numbers[0],
            speed_qualities=numbers[1],
            repeat=args.repeat,
            effort=args.effort,
        )
    else:
        with tempfile.TemporaryDirectory() as folder:
            quality = LOSSLESS_QUALITY if model.lossless else args.collections
            result = {
                "machine": machine(),
                **evaluate_collections(model, pixels, quality, Path(folder)),
            }
    text = json.dumps({"data": args.data.name, **result}, indent=1) + "\n"
    if args.out:
        args.out.write_text(text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
