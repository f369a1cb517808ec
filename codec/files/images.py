"""Image files -> uint8 arrays: PNG and what else Pillow reads; and the packing of arrays.

READ ME FIRST: nothing here converts. A file that is not exactly 28x28, 8-bit, grey and one frame is
an `ImageError` that says what the file is. Grey stored as something else (a palette, equal RGB
channels, an opaque alpha) is taken, as that loses nothing. Formats which Pillow reduces to 8 bits
without saying so (AVIF, colour JPEG 2000) cannot be caught.

Pixels are taken as they are stored, in every format: a tag that says how to turn the image is not
followed. It is reported (`Examined.dropped`), as are gamma, ICC profile, EXIF and texts,
and the colour of an image that `grey` makes grey.

No size that a file claims is trusted: headers are checked before any pixel is decoded, and memory
grows with the bytes that are really there. What damage Pillow overlooks is found by `damage`. EPS
(which runs a program) and ICO (which Pillow decodes before it gives the size) are left out. Pillow
is imported with the first image, to start fast; PNG is written here, for the same reason.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.lib import format as npy_format

from codec.arrays import SIDE, U8
from codec.errors import ImageError
from codec.files import damage, foreign
from codec.files.batch import image_errors, name_of, opened
from codec.files.kinds import SOURCES

if TYPE_CHECKING:
    from PIL import Image

# Most common first; TGA last: it has no magic number, and Pillow takes nearly anything for one.
PILLOW_FORMATS = tuple("PNG BMP GIF JPEG PPM TIFF WEBP JPEG2000 AVIF QOI PCX SGI TGA".split())
IMAGE_SUFFIXES = frozenset(
    ".png .apng .bmp .gif .jpg .jpeg .jpe .jfif .pbm .pgm .ppm .pnm .tif .tiff .webp .jp2 .j2k "
    ".j2c .jpc .jpf .jpx .avif .avifs .qoi .pcx .sgi .bw .rgb .rgba .tga .icb .vda .vst".split()
)
# 8-bit grey may hide in these
EXACT_MODES = frozenset({"L", "1", "P", "PA", "LA", "RGB", "RGBA", "RGBa"})
IDX_IMAGES = 0x00000803  # type 8 (uint8), 3 dimensions
MAX_FILE_BYTES = 1 << 20  # of 28x28 pixels, with all that programs write into a file
GREY_STEPS = 2  # by which channels may differ for `grey`: lossy WebP of grey has 1
HEAD_BYTES = 16  # of a file, enough for `is_image_content`
ORIENTATION = 274  # the number of the tag
# The first bytes of image files, those that tell: TGA and PCX have none.
_MAGICS = (
    *(b"\x89PNG\r\n\x1a\n", b"GIF8", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"qoif", b"\x01\xda"),
    *(b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "),
)


def is_image_file(path: Path | str) -> bool:
    """Tell by its suffix, in any case, whether a file is for `read_image`."""
    name = path.name if isinstance(path, Path) else path[path.rfind("/") + 1 :]
    dot = name.rfind(".")
    return dot > 0 and name[dot:].lower() in IMAGE_SUFFIXES


def is_image_content(head: bytes) -> bool:
    """Tell by the first 16 bytes of a file, as far as they do, whether it is for `read_image`."""
    return (
        head.startswith(_MAGICS)
        or (head[:2] == b"BM" and head[6:10] == bytes(4))
        or (head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace())
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"))
    )


class Examined(NamedTuple):
    """An image (28, 28), the size of its file, and what of the file is not in the pixels."""

    pixels: U8
    num_bytes: int
    dropped: tuple[str, ...] = ()


def read_image(source: Path | BinaryIO, name: str | None = None, *, grey: bool = False) -> U8:
    """Read one image file exactly -> uint8 (28, 28).

    source: a path, or a stream, which is read from its beginning; name: of the file in messages, by
    default its path; grey: take the luma of an image whose channels differ by GREY_STEPS at most.
    Raises ImageError: the file is missing, damaged, not an image, or not 28x28 grey of 8 bits and
    one frame.
    """
    return examine(source, name, grey=grey).pixels


def examine(source: Path | BinaryIO, name: str | None = None, *, grey: bool = False) -> Examined:
    """As `read_image`, and what else the file says."""
    from PIL import Image, UnidentifiedImageError

    name = name or name_of(source)
    with image_errors(name), opened(source) as file:
        content = file.read(MAX_FILE_BYTES + 1)
        if not content:
            raise ImageError(f"{name}: is empty")
        is_small = len(content) <= MAX_FILE_BYTES
        # An open file, not its path: for a path Pillow may import all of its plugins.
        try:
            image = Image.open(io.BytesIO(content) if is_small else file, formats=PILLOW_FORMATS)
        except UnidentifiedImageError as error:
            raise ImageError(f"{name}: {_no_image(content, name)}") from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ImageError(f"{name}: far more than {SIDE}x{SIDE} pixels: {error}") from error
        num_frames = getattr(image, "n_frames", 1)
        if image.size == (SIDE, SIDE) and num_frames > 1:
            if image.format in ("TIFF", "MPO"):
                raise ImageError(f"{name}: has {num_frames} pages")
            raise ImageError(f"{name}: is animated ({num_frames} frames)")
        _check_header(image, name)
        if not is_small:
            raise ImageError(f"{name}: has over {MAX_FILE_BYTES} bytes for {SIDE}x{SIDE} pixels")
        if fault := damage.fault_of(content, image):
            raise ImageError(f"{name}: is truncated or damaged: {fault}")
        # Pillow follows the tag only in TIFF, as it loads the pixels.
        turned = image.format == "TIFF" and image.getexif().pop(ORIENTATION, 1) != 1
        pixels = pixels_of(image, name, grey=grey)
        dropped = _dropped(image, turned)
        if grey and (np.asarray(image.convert("RGB")) != pixels[..., None]).any():
            dropped += ("colour",)
        return Examined(pixels, len(content), dropped)


def _no_image(content: bytes, name: str) -> str:
    """Why Pillow cannot read a file."""
    head = content[: foreign.HEAD_BYTES]
    if foreign.is_placeholder(head):
        return foreign.instead_of("an image", head)
    found = foreign.named(head)
    said = f"is {found}, not an image" if found else "is not an image that Pillow can read"
    if "." in name.rpartition("/")[2] and not is_image_file(name):
        said += f"; files of many images are taken as {SOURCES}"
    return said


def _dropped(image: Image.Image, turned: bool) -> tuple[str, ...]:
    """What the file of a loaded image says besides its pixels."""
    info = image.info
    has_xmp = "xmp" in info or "XML:com.adobe.xmp" in info
    if "exif" in info or has_xmp:
        turned |= image.getexif().get(ORIENTATION, 1) != 1
    found = {
        "orientation": turned,
        "gamma": "gamma" in info,
        "ICC profile": "icc_profile" in info,
        "EXIF": "exif" in info,
        "XMP": has_xmp,
        "texts": bool("comment" in info or getattr(image, "text", None)),
    }
    return tuple(each for each, is_there in found.items() if is_there)


def pixels_of(image: Image.Image, name: str, *, grey: bool = False) -> U8:
    """The pixels of the current frame of a Pillow image, exactly: uint8 (28, 28).

    grey: as for `read_image`.
    Raises ImageError if it is not 28x28 grey of 8 bits, and Pillow's own errors.
    """
    _check_header(image, name)
    image.load()
    if image.mode == "L" and "transparency" not in image.info:
        return np.array(image)
    return _grey_of(image, name, grey)


def _check_header(image: Image.Image, name: str) -> None:
    """Refuse whatever can be refused before a pixel is decoded."""
    if image.size != (SIDE, SIDE):
        raise ImageError(f"{name}: {image.width}x{image.height} pixels, aez takes {SIDE}x{SIDE}")
    tile = getattr(image, "tile", ())  # of an image that comes from a file and is not yet decoded
    if image.mode.startswith("I;16") or _is_16_bit(tile):
        raise ImageError(f"{name}: 16 bits a pixel, aez takes 8")
    if image.mode in ("I", "F"):
        raise ImageError(f"{name}: 32 bits a pixel, aez takes 8")
    if image.mode not in EXACT_MODES:
        raise ImageError(f"{name}: in colour ({image.mode}), aez takes grey")
    if "transparency" in image.info and tile and tile[0][3] in ("L;2", "L;4"):
        # Pillow scales these pixels to 0..255 but not the transparent value: it would match none.
        raise ImageError(f"{name}: has transparency")


def _is_16_bit(tile: Sequence[Any]) -> bool:
    """Whether Pillow would drop low bytes: only its tiles say so, unless the image is grey."""
    for decoder, _, _, args in tile:
        # (raw mode, ...), for PPM (raw mode, largest value)
        args = args if isinstance(args, tuple) else (args,)
        if str(args[0]).endswith((";16B", ";16L", ";16N")) or (
            decoder.startswith("ppm") and args[-1] > 255
        ):
            return True
    return False


def _grey_of(image: Image.Image, name: str, grey: bool) -> U8:
    rgba = np.array(image.convert("RGBA"))  # (28, 28, 4); exact from every one of EXACT_MODES
    if (rgba[..., 3] < 255).any():
        raise ImageError(f"{name}: has transparency")
    steps = int(np.ptp(rgba[..., :3], axis=-1).max())
    if steps > GREY_STEPS or (steps and not grey):
        remedy = "; --grey takes the luma" if steps <= GREY_STEPS else ""
        found = f"channels differ by up to {steps} step{'s' * (steps > 1)}{remedy}"
        raise ImageError(f"{name}: in colour, aez takes grey ({found})")
    if steps:
        return np.array(image.convert("RGB").convert("L"))
    return np.ascontiguousarray(rgba[..., 0])


def pack_png(pixels: U8) -> bytes:
    """Pack one image, uint8 (H, W), as an 8-bit grey PNG."""
    height, width = pixels.shape
    # column 0: filter type 0, the best one for drawings
    rows = np.zeros((height, 1 + width), np.uint8)
    rows[:, 1:] = pixels
    # 8 bits, grey, deflate, adaptive, not interlaced
    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def pack_idx(pixels: U8) -> bytes:
    """Pack images, uint8 (N, H, W), as the IDX file that MNIST comes as (not gzipped)."""
    return struct.pack(">4I", IDX_IMAGES, *pixels.shape) + pixels.tobytes()


def pack_npy(pixels: U8) -> bytes:
    """Pack an array, uint8 of any shape, as an NPY file of version 1.0."""
    stream = io.BytesIO()
    npy_format.write_array(stream, np.ascontiguousarray(pixels), version=(1, 0), allow_pickle=False)
    return stream.getvalue()
