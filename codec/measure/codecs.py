"""The codecs that are measured: aez, and others from Pillow, imagecodecs and zstd.

Each `Codec` is one codec at one setting, and is used in two ways: one *file* for each image, and
one file of *all* images. For aez that is `compress --separate`, and an `.aez` collection. The
others have no collections. Theirs is a *sheet*, one picture with all images side by side: it takes
fewer bytes, but no image can be read alone. zstd's is one frame of all pixels.

imagecodecs (JPEG XL, JPEG-LS) is optional, and so is AVIF in Pillow. What cannot be measured here
is appended to `missing`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from PIL import Image, features

from codec import api, zstd
from codec.arrays import PIXELS, SIDE, U8
from codec.encoder.options import Choices
from codec.format.constants import LOSSLESS_QUALITY, NEAR_LOSSLESS, max_error_of
from codec.model.registry import AUTO

WEBP_QUALITIES = (0, 20, 50, 75, 90)
JPEG_QUALITIES = (5, 25, 50, 75, 90)
AVIF_QUALITIES = (0, 40, 70, 90)
AVIF_SHEETS = (20, 55, 80)  # qualities between, at which there are sheets alone
AVIF_SPEED = 6  # Pillow's own; 0 is the slowest
JXL_DISTANCES = (15, 8, 4, 2)
JXL_SHEETS = (1, 0.5)
MAX_ERRORS = (1, 2, 4, 8)  # of JPEG-LS, and of aez
DICTIONARY_BYTES = 112640

OneFile = Literal["collection", "sheet", "frame"]


@dataclass(frozen=True)
class Codec:
    """One codec at one setting.

    encode: uint8 (N, 28, 28) -> N files; decode: its inverse. encode_all: the same images -> one
    file; decode_all: its inverse, given the file and N. one_file: what that one file is; only from
    a collection can an image be read alone.
    payload_bytes: of N files together, without what is the same in each of them.
    quality: of aez. effort: of aez, None for near-lossless. files: whether single files are
    measured.
    """

    name: str
    setting: str
    encode: Callable[[U8], list[bytes]]
    decode: Callable[[list[bytes]], U8]
    encode_all: Callable[[U8], bytes]
    decode_all: Callable[[bytes, int], U8]
    payload_bytes: Callable[[list[bytes]], int]
    one_file: OneFile = "sheet"
    quality: int | None = None
    effort: int | None = None
    files: bool = True


def aez(model: str, quality: int, effort: int, *, files: bool = True) -> Codec:
    """This codec, with one model or AUTO.

    quality: 0 to 99, LOSSLESS_QUALITY, or NEAR_LOSSLESS + N for a largest error of N.
    """
    bound = max_error_of(quality) if quality > NEAR_LOSSLESS else None
    asked: Choices = {"quality": quality} if bound is None else {"max_error": bound}
    asked |= {"effort": effort, "model": model}
    extra = None if model == AUTO else model  # a file that may not be installed

    def encode(pixels: U8) -> list[bytes]:
        return api.compress_images(pixels, **asked)[0]

    if quality == LOSSLESS_QUALITY:
        setting = "lossless"
    else:
        setting = f"q{quality} e{effort}" if bound is None else f"near {bound}"
    return Codec(
        "aez",
        setting,
        encode,
        decode=lambda files: api.decompress_images(files, model=extra),
        encode_all=lambda pixels: api.compress(pixels, **asked),
        decode_all=lambda file, num_images: api.decompress(file, model=extra),
        payload_bytes=lambda files: sum(api.info(file).payload_bytes for file in files),
        one_file="collection",
        quality=quality,
        effort=effort if bound is None else None,
        files=files,
    )


def others(pixels: U8, missing: list[str]) -> Iterator[Codec]:
    """The other codecs that can be measured here, Pillow's PNG first.

    pixels: uint8 (N, 28, 28), of which zstd makes its dictionary.
    """
    yield from of_pillow(missing)
    if len(pixels) > 1:
        yield with_dictionary(pixels)
    else:
        missing.append("zstd with a dictionary: needs a second image to make one from")
    yield from of_imagecodecs(missing)


# Pictures


def sheet(pixels: U8) -> U8:
    """All images side by side in a near-square, unused places black.

    pixels: uint8 (N, 28, 28) -> uint8 (H, W).
    """
    columns = math.isqrt(len(pixels) - 1) + 1
    rows = -(-len(pixels) // columns)
    places = np.zeros((rows * columns, SIDE, SIDE), np.uint8)
    places[: len(pixels)] = pixels
    grid = places.reshape(rows, columns, SIDE, SIDE).swapaxes(1, 2)
    return np.ascontiguousarray(grid.reshape(rows * SIDE, columns * SIDE))


def cut(picture: U8, num_images: int) -> U8:
    """Inverse of `sheet`."""
    rows, columns = picture.shape[0] // SIDE, picture.shape[1] // SIDE
    places = picture.reshape(rows, SIDE, columns, SIDE).swapaxes(1, 2)
    return places.reshape(-1, SIDE, SIDE)[:num_images]


def _of_pictures(
    name: str,
    setting: str,
    encode: Callable[[U8], bytes],
    decode: Callable[[bytes], U8],
    *,
    files: bool = True,
) -> Codec:
    """A codec of pictures, uint8 (H, W).

    Its payload is the file without the bytes that a black image takes at this setting.
    """
    blank = len(encode(np.zeros((SIDE, SIDE), np.uint8)))
    return Codec(
        name,
        setting,
        encode=lambda pixels: [encode(image) for image in pixels],
        decode=lambda files: np.stack([decode(file) for file in files]),
        encode_all=lambda pixels: encode(sheet(pixels)),
        decode_all=lambda file, num_images: cut(decode(file), num_images),
        payload_bytes=lambda files: sum(map(len, files)) - blank * len(files),
        files=files,
    )


def by_pillow(name: str, setting: str, *, files: bool = True, **options: Any) -> Codec:
    """A codec of Pillow.  files: see `Codec`; options: of Pillow's `save`."""

    def encode(picture: U8) -> bytes:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, name.upper(), **options)
        return file.getvalue()

    def decode(file: bytes) -> U8:
        return np.asarray(Image.open(io.BytesIO(file)).convert("L"))  # WebP comes back as RGB

    return _of_pictures(name, setting, encode, decode, files=files)


def png(*, optimize: bool = False) -> Codec:
    return by_pillow("png", "optimize" if optimize else "default", optimize=optimize)


def webp(quality: int | None) -> Codec:
    """WebP at its slowest method; None: lossless.  Needs a Pillow that was built with WebP."""
    if quality is None:
        options: dict[str, Any] = {"lossless": True, "method": 6}
        best = by_pillow("webp", "lossless m6", quality=100, **options)
        # On a sheet the last step takes 15 times as long, for a thousandth of the bytes.
        return replace(best, encode_all=by_pillow("webp", "", quality=90, **options).encode_all)
    return by_pillow("webp", f"q{quality} m6", quality=quality, method=6)


def avif(quality: int | None, speed: int = AVIF_SPEED, *, files: bool = True) -> Codec:
    """AVIF of one grey plane; None: lossless.  Needs a Pillow that was built with AVIF."""
    setting = "lossless" if quality is None else f"q{quality}"
    return by_pillow(
        "avif",
        setting if speed == AVIF_SPEED else f"{setting} speed {speed}",
        files=files,
        quality=100 if quality is None else quality,
        subsampling="4:0:0",
        speed=speed,
        max_threads=1,
    )


def jxl(distance: float | None, *, files: bool = True) -> Codec:
    """JPEG XL at effort 9; None: lossless.  Needs imagecodecs."""
    import imagecodecs as ic

    options: dict[str, Any] = {"lossless": True} if distance is None else {"distance": distance}

    def encode(picture: U8) -> bytes:
        return bytes(ic.jpegxl_encode(picture, effort=9, numthreads=1, **options))

    def decode(file: bytes) -> U8:
        return np.asarray(ic.jpegxl_decode(file, numthreads=1))

    setting = "lossless" if distance is None else f"d{distance:g}"
    return _of_pictures("jxl", f"{setting} e9", encode, decode, files=files)


def jpeg_ls(max_error: int) -> Codec:
    """JPEG-LS; 0: lossless, else no pixel is off by more.  Needs imagecodecs."""
    import imagecodecs as ic

    return _of_pictures(
        "jpeg-ls",
        f"near {max_error}" if max_error else "lossless",
        lambda picture: bytes(ic.jpegls_encode(picture, level=max_error)),
        lambda file: np.asarray(ic.jpegls_decode(file)),
    )


def of_pillow(missing: list[str]) -> Iterator[Codec]:
    """The codecs of Pillow, PNG first."""
    yield png()
    yield png(optimize=True)
    for quality in JPEG_QUALITIES:
        yield by_pillow("jpeg", f"q{quality}", quality=quality, optimize=True)
    if features.check("webp"):
        yield from map(webp, (None, *WEBP_QUALITIES))
    else:
        missing.append("WebP: this Pillow was built without it")
    if features.check("avif"):  # imagecodecs codes grey AVIF only losslessly
        yield avif(None)
        for quality in sorted((*AVIF_QUALITIES, *AVIF_SHEETS)):
            yield avif(quality, files=quality in AVIF_QUALITIES)
    else:
        missing.append("AVIF: this Pillow was built without it")


def of_imagecodecs(missing: list[str]) -> Iterator[Codec]:
    """JPEG XL and JPEG-LS."""
    try:
        import imagecodecs as ic
    except ImportError:
        missing.append("JPEG XL and JPEG-LS: pip install 'aez[bench]'")
        return
    if ic.JPEGXL.available:
        yield jxl(None)
        yield from map(jxl, JXL_DISTANCES)
        for distance in JXL_SHEETS:
            yield jxl(distance, files=False)
    else:
        missing.append("JPEG XL: this imagecodecs was built without it")
    if ic.JPEGLS.available:
        yield from map(jpeg_ls, (0, *MAX_ERRORS))
    else:
        missing.append("JPEG-LS: this imagecodecs was built without it")


# zstd


def with_dictionary(pixels: U8) -> Codec:
    """zstd -19 with a dictionary: even images use one made of the odd ones, and the reverse.

    pixels: uint8 (N, 28, 28), N >= 2.
    """
    dictionaries = [_dictionary(pixels[1::2]), _dictionary(pixels[::2])]
    library, finish = zstd.library(), zstd.library().ZstdCompressor.FLUSH_FRAME
    writers = [library.ZstdCompressor(zstd.LEVEL, zstd_dict=d) for d in dictionaries]
    blanks = [len(writer.compress(bytes(PIXELS), finish)) for writer in writers]

    def encode(images: U8) -> list[bytes]:
        return [writers[i % 2].compress(image.tobytes(), finish) for i, image in enumerate(images)]

    def decode(files: list[bytes]) -> U8:
        read = library.decompress
        return _images_of(b"".join(read(f, dictionaries[i % 2]) for i, f in enumerate(files)))

    return Codec(
        "zstd",
        "19, dictionary",
        encode,
        decode,
        encode_all=lambda images: zstd.pack(images.tobytes()),
        decode_all=lambda file, num_images: _images_of(library.decompress(file)),
        payload_bytes=lambda files: sum(len(file) - blanks[i % 2] for i, file in enumerate(files)),
        one_file="frame",
    )


def _dictionary(pixels: U8) -> Any:
    samples = [image.tobytes() for image in pixels]
    size = min(DICTIONARY_BYTES, pixels.size // 2)
    library = zstd.library()
    try:
        trained = library.train_dict(samples, size)
        return library.finalize_dict(trained, samples, size, zstd.LEVEL)
    except library.ZstdError:  # too few images, or all the same: use their bytes as they are
        return library.ZstdDict(b"".join(samples)[-DICTIONARY_BYTES:], is_raw=True)


def _images_of(pixels: bytes) -> U8:
    """Bytes of pixels in order -> uint8 (N, 28, 28)."""
    return np.frombuffer(pixels, np.uint8).reshape(-1, SIDE, SIDE)
