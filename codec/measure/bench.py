"""`aez bench`: this codec and others on the same images, by one ruler.

Each `Coder` is a codec at one setting, measured twice: one *file* an image, and all images as one
*collection*. Of aez that is what `--separate` writes, and its `.aez` collection. The others have no
collections: theirs is one picture with all images side by side, which costs fewer bytes but gives
no image back alone; zstd's is one frame.

READ ME FIRST
- Bytes are means an image, of whole files or of the whole collection, without names. The payload is
  what is left of a file without its constant part: of aez what the header says; of the others the
  file less what the same codec at the same setting needs for a black image, which is a little too
  kind to them.
- Speeds are those of one core, in memory, by processor time, so that what else the machine does
  hardly counts; best of a few runs. Pillow's PNG, by which they are divided, is measured in the
  same run. Single files of aez go through the network side by side, as a directory does.
- Efficiency is what aez makes of the processor: images/s * multiply-adds an image / G, G being
  numpy's own product, on one core of this run. Of encoding it is told at effort 1 and without loss,
  where the products are known: others depend on the search. What the guard does takes time that is
  counted, but its products are not.
- PSNR is that of the mean squared error over all images, SSIM the mean over images. BD-rate
  interpolates by PCHIP.
- "auto" is settled once: the model is the one that `aez compress` would take for all images
  together.

imagecodecs (JPEG XL, JPEG-LS) and bjontegaard are optional; what is missing is named in the result.
Nothing is printed here.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import zstandard
from PIL import Image, features

from codec import __version__, api, metrics, parallel
from codec.commands.events import Event, Failed
from codec.commands.jobs import Array, Job, plan
from codec.errors import AezError, ModelNotFound, UsageError
from codec.files import images
from codec.format.bitstream import LOSSLESS_QUALITY
from codec.measure.curve import efficiency, engine_and_yardstick, machine
from codec.measure.page import Decoded
from codec.model import registry
from codec.model.ladder_search import DEFAULT_EFFORT

U8 = npt.NDArray[np.uint8]
T = TypeVar("T")
Row = dict[str, Any]

QUALITIES = (10, 40, 70, 95)
EFFORTS = (1, DEFAULT_EFFORT)
MAX_IMAGES = 500  # by default: two or three minutes
SETTINGS = {  # of the lossy codecs that come with Pillow and imagecodecs
    "webp": (0, 20, 50, 75, 90),
    "jpeg": (5, 25, 50, 75, 90),
    "avif": (0, 40, 70, 90),
    "jxl": (15, 8, 4, 2),  # distances, not qualities
}
DICTIONARY_BYTES = 112640
ENOUGH_S = 0.1  # of timing: what takes less is run again
SETTLING_SAMPLE = 64  # images that say which model suits most of them
MAX_RUNS = 5
READ_IMAGES = 4096  # of an array, at once


@dataclass(frozen=True)
class Coder:
    """One codec at one setting.

    encode: uint8 (N, 28, 28) -> a file each; decode: the inverse. encode_all, decode_all: the same
    for one file in all. payload_bytes: of files, in all. files: whether single files are measured.
    """

    codec: str
    setting: str
    encode: Callable[[U8], list[bytes]]
    decode: Callable[[list[bytes]], U8]
    encode_all: Callable[[U8], bytes]
    decode_all: Callable[[bytes, int], U8]
    payload_bytes: Callable[[list[bytes]], int]
    quality: int | None = None
    effort: int | None = None
    files: bool = True


@dataclass(frozen=True)
class Bench:
    """results: JSON values, as in `results.json`; decoded: of aez at the effort that single files
    are measured at, by quality.
    """

    results: dict[str, Any]
    decoded: dict[int, Decoded]


# Images


def read(
    inputs: Sequence[str], max_images: int
) -> Generator[Event, None, tuple[U8, list[str], int]]:
    """What `aez compress` would take -> pixels uint8 (N, 28, 28), their names, and how many there
    are in all.

    If there are more than `max_images`, so many are taken, evenly spread. What cannot be read is
    told as failed. Raises UsageError, AezError if no image is left.
    """
    if "-" in inputs:
        raise UsageError("bench reads files, directories and URLs, not stdin")
    jobs = yield from plan(inputs)
    pixels: list[U8] = []
    names: list[str] = []
    sizes = []
    for job in jobs:
        sizes.append((yield from _num_images(job)))
    total = sum(sizes)
    chosen = np.linspace(0, total - 1, min(total, max_images)).astype(int)
    first = 0
    for job, size in zip(jobs, sizes, strict=True):
        wanted = (chosen[(chosen >= first) & (chosen < first + size)] - first).tolist()
        first += size
        for found in _read(job, wanted):
            if isinstance(found, Failed):
                yield found
            else:
                names.append(found[0])
                pixels.append(found[1])
    if not pixels:
        raise AezError("no image could be read: nothing to measure")
    return np.stack(pixels), names, total


def _num_images(job: Job) -> Generator[Event, None, int]:
    if not isinstance(job, Array):
        return job.num_images
    try:
        with job.open() as array:
            return array.num_images
    except (AezError, OSError) as error:
        yield Failed.by(job.label, error)
        return 0


def _read(job: Job, wanted: list[int]) -> Iterator[tuple[str, U8] | Failed]:
    if wanted and isinstance(job, Array):
        try:
            yield from _read_array(job, wanted)
        except (AezError, OSError) as error:
            yield Failed.by(job.label, error)
        return
    for number in wanted:
        source = next(job.inputs.part(number, number + 1))
        try:
            with source.place.open() as file:
                yield source.name, images.read_image(file, name=source.label)
        except (AezError, OSError) as error:
            yield Failed.by(source.label, error)


def _read_array(job: Array, wanted: list[int]) -> Iterator[tuple[str, U8]]:
    first = 0
    with job.open() as array:
        for block in array.blocks(READ_IMAGES):
            for i in wanted:
                if first <= i < first + len(block):
                    yield f"{job.source.place.name}[{i}]", block[i - first].copy()
            first += len(block)


# Codecs


def sheet(pixels: U8) -> U8:
    """All images side by side, as square as can be, the last places black: uint8 (N, 28, 28) -> (H,
    W).
    """
    columns = math.isqrt(len(pixels) - 1) + 1
    rows = -(-len(pixels) // columns)
    places = np.zeros((rows * columns, 28, 28), np.uint8)
    places[: len(pixels)] = pixels
    return np.ascontiguousarray(
        places.reshape(rows, columns, 28, 28).swapaxes(1, 2).reshape(28 * rows, 28 * columns)
    )


def cut(picture: U8, num_images: int) -> U8:
    """Inverse of `sheet`."""
    rows, columns = picture.shape[0] // 28, picture.shape[1] // 28
    return picture.reshape(rows, 28, columns, 28).swapaxes(1, 2).reshape(-1, 28, 28)[:num_images]


def _picture_coder(
    codec: str, setting: str, encode: Callable[[U8], bytes], decode: Callable[[bytes], U8]
) -> Coder:
    """A codec of pictures, uint8 (H, W)."""
    blank = len(encode(np.zeros((28, 28), np.uint8)))
    return Coder(
        codec,
        setting,
        encode=lambda pixels: [encode(image) for image in pixels],
        decode=lambda files: np.stack([decode(file) for file in files]),
        encode_all=lambda pixels: encode(sheet(pixels)),
        decode_all=lambda file, num_images: cut(decode(file), num_images),
        payload_bytes=lambda files: sum(map(len, files)) - blank * len(files),
    )


def pillow_coder(codec: str, setting: str, **options: Any) -> Coder:
    """A codec of Pillow; options: of its `save`."""

    def encode(picture: U8) -> bytes:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, codec.upper(), **options)
        return file.getvalue()

    def decode(file: bytes) -> U8:
        return np.asarray(Image.open(io.BytesIO(file)).convert("L"))  # WebP comes back as RGB

    return _picture_coder(codec, setting, encode, decode)


def _imagecodecs(missing: list[str]) -> Iterator[Coder]:
    try:
        import imagecodecs as ic
    except ImportError:
        missing.append("JPEG XL and JPEG-LS: pip install 'aez[bench]'")
        return
    if ic.JPEGXL.available:

        def jxl(setting: str, **options: Any) -> Coder:
            def encode(picture: U8) -> bytes:
                return bytes(ic.jpegxl_encode(picture, effort=9, numthreads=1, **options))

            return _picture_coder(
                "jxl",
                f"{setting} e9",
                encode,
                lambda file: np.asarray(ic.jpegxl_decode(file, numthreads=1)),
            )

        yield jxl("lossless", lossless=True)
        yield from (jxl(f"d{distance}", distance=distance) for distance in SETTINGS["jxl"])
    else:
        missing.append("JPEG XL: this build of imagecodecs is without it")
    if ic.JPEGLS.available:
        yield _picture_coder(
            "jpeg-ls",
            "lossless",
            lambda picture: bytes(ic.jpegls_encode(picture)),
            lambda file: np.asarray(ic.jpegls_decode(file)),
        )
    else:
        missing.append("JPEG-LS: this build of imagecodecs is without it")


def _zstd(pixels: U8) -> Coder:
    """zstd -19.

    Of two halves, every other image, each is coded with a dictionary made of the other one.
    """

    def dictionary(half: U8) -> zstandard.ZstdCompressionDict:
        samples = [image.tobytes() for image in half]
        try:
            return zstandard.train_dictionary(
                min(DICTIONARY_BYTES, half.size // 2), samples, level=19
            )
        except zstandard.ZstdError:  # too few, or all the same: what they hold serves as it is
            return zstandard.ZstdCompressionDict(
                b"".join(samples)[-DICTIONARY_BYTES:], zstandard.DICT_TYPE_RAWCONTENT
            )

    dictionaries = [dictionary(pixels[1::2]), dictionary(pixels[::2])]
    writers = [zstandard.ZstdCompressor(level=19, dict_data=d) for d in dictionaries]
    readers = [zstandard.ZstdDecompressor(dict_data=d) for d in dictionaries]
    whole = zstandard.ZstdCompressor(level=19)

    def encode(images_: U8) -> list[bytes]:
        return [writers[i % 2].compress(image.tobytes()) for i, image in enumerate(images_)]

    def decode(files: list[bytes]) -> U8:
        return _as_images(b"".join(readers[i % 2].decompress(file) for i, file in enumerate(files)))

    blanks = [len(writer.compress(bytes(784))) for writer in writers]
    return Coder(
        "zstd",
        "19, dictionary",
        encode,
        decode,
        encode_all=lambda images_: whole.compress(images_.tobytes()),
        decode_all=lambda file, num_images: _as_images(zstandard.decompress(file)),
        payload_bytes=lambda files: sum(len(file) - blanks[i % 2] for i, file in enumerate(files)),
    )


def _as_images(pixels: bytes) -> U8:
    return np.frombuffer(pixels, np.uint8).reshape(-1, 28, 28)


def of_pillow(missing: list[str]) -> Iterator[Coder]:
    """The codecs of Pillow, PNG first; `missing` is told which cannot be measured here, and why."""
    yield pillow_coder("png", "default")
    yield pillow_coder("png", "optimize", optimize=True)
    yield from (pillow_coder("jpeg", f"q{q}", quality=q, optimize=True) for q in SETTINGS["jpeg"])
    if features.check("webp"):
        yield pillow_coder("webp", "lossless m6", lossless=True, quality=100, method=6)
        yield from (pillow_coder("webp", f"q{q} m6", quality=q, method=6) for q in SETTINGS["webp"])
    else:
        missing.append("WebP: this build of Pillow is without it")
    if features.check("avif"):  # imagecodecs codes grey AVIF without loss only
        yield from (
            pillow_coder("avif", f"q{q}", quality=q, subsampling="4:0:0", max_threads=1)
            for q in SETTINGS["avif"]
        )
    else:
        missing.append("AVIF: this build of Pillow is without it")


def others(pixels: U8, missing: list[str]) -> Iterator[Coder]:
    """The other codecs that can be measured here, Pillow's PNG first; `missing` is told which
    cannot, and why.
    """
    yield from of_pillow(missing)
    if len(pixels) > 1:
        yield _zstd(pixels)
    else:
        missing.append("zstd with a dictionary: that takes a second image to make one of")
    yield from _imagecodecs(missing)


def aez(model: str, quality: int, effort: int, files: bool) -> Coder:
    """This codec."""

    def encode(pixels: U8) -> list[bytes]:
        return api.compress_images(pixels, quality=quality, effort=effort, model=model)[0]

    return Coder(
        "aez",
        "lossless" if quality == LOSSLESS_QUALITY else f"q{quality} e{effort}",
        encode,
        decode=lambda files: api.decompress_images(files, model=model),
        encode_all=lambda pixels: api.compress(pixels, quality=quality, effort=effort, model=model),
        decode_all=lambda file, num_images: api.decompress(file, model=model),
        payload_bytes=lambda files: sum(api.info(file).payload_bytes for file in files),
        quality=quality,
        effort=effort,
        files=files,
    )


def settle(model: str, pixels: U8, lossless: bool) -> str:
    """The model that a collection of these images is made with: its name, or the file if that is
    what was given.
    """
    if model != "auto":
        registry.by_name(model, lossless)
        return model
    sample = pixels[np.linspace(0, len(pixels) - 1, min(SETTLING_SAMPLE, len(pixels))).astype(int)]
    models = api.compress_images(sample, lossless=lossless, effort=1, guard=False)[1].models
    return max((name for name in models if name != "stored"), key=models.__getitem__, default=model)


# Figures


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    """Best processor time in seconds, and what came out."""
    best, spent, result = math.inf, 0.0, None
    for _ in range(MAX_RUNS):
        begun = time.process_time()
        result = work()
        took = time.process_time() - begun
        best, spent = min(best, took), spent + took
        if spent > ENOUGH_S:
            break
    return max(best, 1e-9), result  # type: ignore[return-value]


def _figures(pixels: U8, num_bytes: int, decoded: U8, encode_s: float, decode_s: float) -> Row:
    n = len(pixels)
    psnr_db = metrics.psnr_db(metrics.squared_error(pixels, decoded), pixels.size)
    return {
        "bytes": round(num_bytes / n, 3),
        "bpp": round(metrics.bpp(num_bytes, pixels.size), 4),
        "psnr_db": None if psnr_db is None else round(psnr_db, 3),
        "ssim": round(float(metrics.ssim(pixels, decoded).mean()), 5),
        "encode_images_per_s": round(n / encode_s, 1),
        "decode_images_per_s": round(n / decode_s, 1),
    }


def measure(coder: Coder, pixels: U8) -> tuple[Row, Decoded | None]:
    """The row of one coder, and what its files decode to."""
    row: Row = {
        "codec": coder.codec,
        "setting": coder.setting,
        "quality": coder.quality,
        "effort": coder.effort,
        "file": None,
    }
    decoded = None
    if coder.files:
        encode_s, files = _timed(lambda: coder.encode(pixels))
        decode_s, back = _timed(lambda: coder.decode(files))
        row["file"] = _figures(pixels, sum(map(len, files)), back, encode_s, decode_s)
        row["file"]["payload_bytes"] = round(coder.payload_bytes(files) / len(pixels), 3)
        decoded = Decoded([len(file) for file in files], back)
    encode_s, stream = _timed(lambda: coder.encode_all(pixels))
    decode_s, back = _timed(lambda: coder.decode_all(stream, len(pixels)))
    row["collection"] = _figures(pixels, len(stream), back, encode_s, decode_s)
    row["lossless"] = row["collection"]["psnr_db"] is None
    return row, decoded


def bd_rate_percent(
    anchor: list[tuple[float, float]], test: list[tuple[float, float]]
) -> tuple[float | None, str]:
    """Bytes that `test` takes at equal PSNR, against `anchor`, in percent (negative: fewer), by
    PCHIP; or None, and why.

    anchor, test: points (bytes, PSNR in dB).
    """
    anchor, test = _rising(anchor), _rising(test)
    if len(anchor) < 2 or len(test) < 2:
        return None, "too few points"
    low, high = max(anchor[0][1], test[0][1]), min(anchor[-1][1], test[-1][1])
    if low >= high:
        return (
            None,
            (
                f"no overlap: {anchor[0][1]:.1f} .. {anchor[-1][1]:.1f} dB and {test[0][1]:.1f} .. "
                f"{test[-1][1]:.1f} dB"
            ),
        )
    try:
        import bjontegaard
    except ImportError:
        return None, "pip install 'aez[bench]' (bjontegaard)"
    value = bjontegaard.bd_rate(
        *zip(*anchor, strict=True),
        *zip(*test, strict=True),
        method="pchip",
        require_matching_points=False,
        min_overlap=0,
    )
    return round(float(value), 2), f"{low:.1f} .. {high:.1f} dB"


def _rising(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that have more dB than all cheaper ones, which is what interpolation needs."""
    rising: list[tuple[float, float]] = []
    for num_bytes, psnr_db in sorted(points):
        if not rising or psnr_db > rising[-1][1]:
            rising.append((num_bytes, psnr_db))
    return rising


def curves(
    rows: Iterable[Row], counted: str
) -> dict[tuple[str, int | None], list[tuple[float, float]]]:
    """(bytes, PSNR in dB) of the lossy rows, by codec and effort.  counted:
    "file" or "collection".
    """
    found: dict[tuple[str, int | None], list[tuple[float, float]]] = {}
    for row in rows:
        figures = row[counted]
        if figures is not None and figures["psnr_db"] is not None:
            found.setdefault((row["codec"], row["effort"]), []).append(
                (figures["bytes"], figures["psnr_db"])
            )
    return found


def _bd_rates(rows: list[Row], main_effort: int) -> list[Row]:
    found = []
    for counted in ("file", "collection"):
        points = curves(rows, counted)
        ours = points.pop(("aez", main_effort), [])
        for (codec, effort), anchor in points.items():
            value, where = bd_rate_percent(anchor, ours)
            found.append(
                {
                    "codec": f"aez e{main_effort}",
                    "against": codec if effort is None else f"{codec} e{effort}",
                    "counted": counted,
                    "bd_rate_percent": value,
                    "at": where,
                }
            )
    return found


def _add_efficiency(
    rows: list[Row], models: Mapping[str, str | None], pixels: U8, yardstick: float
) -> None:
    """Tell of each row of aez the multiply-adds an image, and what they make of G, as far as they
    are known.
    """
    by_kind = {
        kind: registry.by_name(name, None).multiply_adds(pixels)
        for kind, name in models.items()
        if name
    }
    for row in rows:
        if row["codec"] != "aez":
            continue
        encode, decode = by_kind["lossless" if row["quality"] == LOSSLESS_QUALITY else "lossy"]
        known = {"encode": encode, "decode": decode}
        if row["quality"] != LOSSLESS_QUALITY and row["effort"] != 1:
            del known["encode"]
        row["multiply_adds"] = known
        for figures in filter(None, (row["file"], row["collection"])):
            for way, count in known.items():
                speed = figures[f"{way}_images_per_s"]
                figures[f"{way}_efficiency"] = efficiency(speed, count, yardstick)


def bench(
    pixels: U8,
    *,
    model: str = "auto",
    qualities: Sequence[int] = QUALITIES,
    efforts: Sequence[int] = EFFORTS,
    step: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Bench:
    """Measure all codecs on uint8 (N, 28, 28), N >= 1.

    model: name or file of a model, lossy or lossless, or "auto". qualities: of aez, 0 .. 99;
    efforts: 1 .. 9; single files are measured at DEFAULT_EFFORT, or else at the last effort. step:
    hears what comes next, how many steps are done, of how many.
    Raises UsageError, ModelError.
    """
    if not len(pixels):
        raise UsageError("no images to measure")
    if not qualities or any(not 0 <= q < LOSSLESS_QUALITY for q in qualities):
        raise UsageError(
            f"qualities {', '.join(map(str, qualities)) or 'missing'}, wanted some of 0 .. 99"
        )
    if not efforts:
        raise UsageError("efforts are missing, wanted some of 1 .. 9")
    main_effort = DEFAULT_EFFORT if DEFAULT_EFFORT in efforts else efforts[-1]
    missing: list[str] = []
    models: dict[str, str | None] = {}
    rows: list[Row] = []
    decoded: dict[int, Decoded] = {}
    with parallel.cores(1):
        coders = list(others(pixels, missing))
        for kind in ("lossy", "lossless"):
            try:
                models[kind] = settle(model, pixels, kind == "lossless")
            except (ModelNotFound, UsageError) as error:
                models[kind] = None
                missing.append(f"aez, {kind}: {error}")
        if not any(models.values()):
            registry.by_name(model, None)  # says what is wrong with it
            raise ModelNotFound("no model is installed", model)
        if models["lossy"]:
            coders += [
                aez(models["lossy"], q, e, e == main_effort)
                for e in sorted(set(efforts))
                for q in sorted(set(qualities))
            ]
        if models["lossless"]:
            coders.append(aez(models["lossless"], LOSSLESS_QUALITY, DEFAULT_EFFORT, True))
        # Before anything is timed: loads the models, and those that images fall back to.
        for name, some, quality in (
            (models["lossy"], pixels, 0),
            (models["lossless"], pixels[:1], LOSSLESS_QUALITY),
        ):
            if name:
                api.compress(some, quality=quality, model=name, effort=1)
        for number, coder in enumerate(coders):
            step(f"{coder.codec} {coder.setting}", number, len(coders))
            row, back = measure(coder, pixels)
            rows.append(row)
            if (
                coder.codec == "aez"
                and coder.files
                and back is not None
                and coder.quality is not None
            ):
                decoded[coder.quality] = back
        step("", len(coders), len(coders))
    measured_by = engine_and_yardstick(1, time.process_time)
    _add_efficiency(rows, models, pixels, measured_by["products_per_s"])
    png = rows[0]["file"]
    for row in rows:
        for figures in filter(None, (row["file"], row["collection"])):
            for way, of in (("encode", "encode_per_png_write"), ("decode", "decode_per_png_read")):
                figures[of] = round(figures[f"{way}_images_per_s"] / png[f"{way}_images_per_s"], 3)
    results = {
        "aez": __version__,
        "images": len(pixels),
        "models": models,
        "main_effort": main_effort,
        "machine": machine(),
        **measured_by,
        "rows": rows,
        "bd_rates": _bd_rates(rows, main_effort),
        "not_measured": missing,
    }
    return Bench(results, decoded)
