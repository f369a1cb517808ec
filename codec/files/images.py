"""Image files <-> uint8 arrays: PNG and what else Pillow reads, NPY, NPZ, IDX.

READ ME FIRST: nothing here converts. A file that is not exactly 28x28, 8-bit, grey and one frame is
an `ImageError` that says what the file is. Grey stored as something else (a palette, equal RGB
channels, an opaque alpha) is taken, as that loses nothing. Formats which Pillow reduces to 8 bits
without saying so (AVIF, colour JPEG 2000) cannot be caught.

No size that a file claims is trusted: headers are checked before any pixel is decoded, and memory
grows with the bytes that are really there. EPS (which runs a program) and ICO (which Pillow decodes
before it gives the size) are left out. Pillow is imported with the first image, to start fast; PNG
is written here, for the same reason.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format

from codec.arrays import PIXELS, SIDE, U8
from codec.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

# Most common first; TGA last: it has no magic number, and Pillow takes nearly anything for one.
PILLOW_FORMATS = tuple("PNG BMP GIF JPEG PPM TIFF WEBP JPEG2000 AVIF QOI PCX SGI TGA".split())
IMAGE_SUFFIXES = frozenset(
    ".png .apng .bmp .gif .jpg .jpeg .jpe .jfif .pbm .pgm .ppm .pnm .tif .tiff .webp .jp2 .j2k "
    ".j2c .jpc .jpf .jpx .avif .avifs .qoi .pcx .sgi .bw .rgb .rgba .tga .icb .vda .vst".split()
)
ARRAY_ENDINGS = (".npy", ".npz", ".idx", ".idx3", "-ubyte", ".idx.gz", ".idx3.gz", "-ubyte.gz")

# 8-bit grey may hide in these
EXACT_MODES = frozenset({"L", "1", "P", "PA", "LA", "RGB", "RGBA", "RGBa"})
IDX_IMAGES = 0x00000803  # type 8 (uint8), 3 dimensions
IDX_LABELS = 0x00000801
# 258 bytes take at least 2 bits, so 1 compressed byte yields at most this many
MAX_DEFLATE_RATIO = 1032
MAX_NPY_HEADER_BYTES = 12 + 10_000  # NumPy's own limit, applied before reading rather than after
CHUNK_BYTES = 1 << 20


def is_image_file(path: Path | str) -> bool:
    """Tell by its suffix, in any case, whether a file is for `read_image`."""
    name = path.name if isinstance(path, Path) else path[path.rfind("/") + 1 :]
    dot = name.rfind(".")
    return dot > 0 and name[dot:].lower() in IMAGE_SUFFIXES


def is_array_file(path: Path) -> bool:
    """Tell by its name, in any case, whether a file is for `read_array`: `x.npy`, `x.idx.gz`,
    `t10k-idx3-ubyte`.
    """
    return path.name.lower().endswith(ARRAY_ENDINGS)


def read_image(source: Path | BinaryIO, name: str | None = None) -> U8:
    """Read one image file exactly -> uint8 (28, 28).

    source: a path, or a stream, which is read from its beginning; name: of the file in messages, by
    default its path. Raises ImageError: the file is missing, damaged, not an image, or not 28x28
    grey of 8 bits and one frame.
    """
    from PIL import Image, UnidentifiedImageError

    name = name or _name(source)
    with _image_errors(name):
        # An open file, not its path: for a path Pillow may import all of its plugins.
        with _open(source) as file:
            try:
                image = Image.open(file, formats=PILLOW_FORMATS)
            except UnidentifiedImageError as error:
                raise ImageError(f"{name}: is not an image that Pillow can read") from error
            except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
                raise ImageError(f"{name}: far more than {SIDE}x{SIDE} pixels: {error}") from error
            num_frames = getattr(image, "n_frames", 1)
            if image.size == (SIDE, SIDE) and num_frames > 1:
                if image.format in ("TIFF", "MPO"):
                    raise ImageError(f"{name}: has {num_frames} pages")
                raise ImageError(f"{name}: is animated ({num_frames} frames)")
            return pixels_of(image, name)


def pixels_of(image: Image.Image, name: str) -> U8:
    """The pixels of the current frame of a Pillow image, exactly: uint8 (28, 28).

    Raises ImageError if it is not 28x28 grey of 8 bits, and Pillow's own errors.
    """
    _check_header(image, name)
    image.load()
    if image.mode == "L" and "transparency" not in image.info:
        return np.array(image)
    return _grey_of(image, name)


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


def _grey_of(image: Image.Image, name: str) -> U8:
    rgba = np.array(image.convert("RGBA"))  # (28, 28, 4); exact from every one of EXACT_MODES
    if (rgba[..., 3] < 255).any():
        raise ImageError(f"{name}: has transparency")
    if (rgba[..., :2] != rgba[..., 1:3]).any():
        raise ImageError(f"{name}: in colour, aez takes grey")
    return np.ascontiguousarray(rgba[..., 0])


def read_array(source: Path | BinaryIO, name: str | None = None) -> U8:
    """Read a file of many images -> uint8 (N, 28, 28), C order.

    NPY, NPZ with one array of images, IDX (MNIST) or gzipped IDX; the content decides. Arrays are
    uint8 of shape (N, 28, 28), (28, 28), (N, 1, 28, 28), (N, 28, 28, 1) or (N, 784). source, name:
    as for `read_image`. Raises ImageError: the file is missing, damaged, too short, too long, or
    holds something else.
    """
    with open_array(source, name) as array:
        return np.frombuffer(array.read_all(), np.uint8).reshape(-1, SIDE, SIDE)


class ArrayFile:
    """The images of an array file, read once, in order, chunk by chunk."""

    def __init__(
        self, num_images: int, read: Callable[[int], bytes | bytearray], name: str
    ) -> None:
        self.num_images, self._read, self._name = num_images, read, name

    def chunks(self, num_images: int) -> Iterator[bytes | bytearray]:
        """The pixels, `num_images` at a time.

        Raises ImageError, for what follows the last one as well.
        """
        with _image_errors(self._name):
            for at in range(0, self.num_images, num_images):
                wanted = min(num_images, self.num_images - at) * PIXELS
                chunk = self._read(wanted)
                if len(chunk) < wanted:
                    there = at * PIXELS + len(chunk)
                    raise ImageError(
                        f"{self._name}: is truncated: claims {self.num_images * PIXELS} "
                        f"bytes of pixels, but has {there}"
                    )
                yield chunk
            # One byte more than wanted shows whether there is more, and makes gzip and zip
            # verify their checksums.
            if self._read(1):
                raise ImageError(
                    f"{self._name}: has more data after its last pixel "
                    f"({self.num_images * PIXELS} bytes of pixels)"
                )

    def read_all(self) -> bytearray:
        """All pixels.  Raises ImageError."""
        return bytearray().join(self.chunks(CHUNK_BYTES // PIXELS))

    def blocks(self, num_images: int) -> Iterator[U8]:
        """The images, uint8 (`num_images`, 28, 28) at a time.  Raises ImageError."""
        for chunk in self.chunks(num_images):
            yield np.frombuffer(chunk, np.uint8).reshape(-1, SIDE, SIDE)


@contextmanager
def open_array(source: Path | BinaryIO, name: str | None = None) -> Iterator[ArrayFile]:
    """Open what `read_array` reads, to read it chunk by chunk.  Raises ImageError."""
    name = name or _name(source)
    with ExitStack() as stack:
        with _image_errors(name):
            file = stack.enter_context(_open(source))
            num_bytes = file.seek(0, io.SEEK_END)
            file.seek(0)
            magic = file.read(4)
            file.seek(0)
            if magic == b"\x93NUM":
                array = _open_npy(file, num_bytes, name)
            elif magic[:2] == b"PK":
                array = _open_npz(file, num_bytes * MAX_DEFLATE_RATIO, name, stack)
            elif magic[:2] == b"\x1f\x8b":
                import gzip

                unzipped = stack.enter_context(gzip.GzipFile(fileobj=file))
                array = _open_idx(unzipped, num_bytes * MAX_DEFLATE_RATIO, name)
            else:
                array = _open_idx(file, num_bytes, name)
        yield array


def _open_idx(file: BinaryIO | io.BufferedIOBase, max_bytes: int, name: str) -> ArrayFile:
    head = file.read(16)
    magic = int.from_bytes(head[:4], "big")
    if magic == IDX_LABELS:
        raise ImageError(f"{name}: holds IDX labels, not images")
    if len(head) < 4 or magic != IDX_IMAGES:
        if len(head) >= 4 and magic >> 16 == 0 and 0x08 <= magic >> 8 <= 0x0E:
            raise ImageError(
                f"{name}: IDX with magic 0x{magic:08x}, aez takes images, 0x{IDX_IMAGES:08x}"
            )
        raise ImageError(f"{name}: is not an NPY, NPZ or IDX file")
    if len(head) < 16:
        raise ImageError(f"{name}: is truncated: has {len(head)} of the 16 bytes of an IDX header")
    num_images, height, width = struct.unpack(">3I", head[4:])
    if (width, height) != (SIDE, SIDE):
        raise ImageError(f"{name}: {width}x{height} pixels, aez takes {SIDE}x{SIDE}")
    _check_size(num_images, max_bytes - 16, name)
    return ArrayFile(num_images, lambda size: _read_exactly(file, size), name)


def _open_npy(file: BinaryIO, max_bytes: int, name: str) -> ArrayFile:
    shape, fortran_order, dtype, offset = _read_npy_header(file)
    if dtype != np.uint8:
        raise ImageError(f"{name}: dtype {dtype}, aez takes uint8")
    num_images = _num_images(shape)
    if num_images is None:
        raise ImageError(f"{name}: shape {shape}, aez takes (N, {SIDE}, {SIDE})")
    file.seek(offset)
    _check_size(num_images, max_bytes - offset, name)
    array = ArrayFile(num_images, lambda size: _read_exactly(file, size), name)
    if not fortran_order or num_images == 0:
        return array
    # Column by column, the pixels of an image are far apart: the whole array has to be in memory.
    pixels = np.frombuffer(array.read_all(), np.uint8).reshape(shape, order="F")
    return ArrayFile(num_images, io.BytesIO(pixels.tobytes()).read, name)


def _read_npy_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[np.generic], int]:
    """Return (shape, fortran_order, dtype, offset of the first element)."""
    head = io.BytesIO(file.read(MAX_NPY_HEADER_BYTES))
    version = npy_format.read_magic(head)
    if version > (3, 0):
        raise ValueError(f"NPY version {version}")
    # 3.0 differs from 2.0 only in the names of fields, and arrays with fields are refused anyway.
    if version == (1, 0):
        return *npy_format.read_array_header_1_0(head), head.tell()
    return *npy_format.read_array_header_2_0(head), head.tell()


def _num_images(shape: tuple[int, ...]) -> int | None:
    """How many images an array of this shape holds; None: not images of 28x28."""
    if shape == (SIDE, SIDE):
        return 1
    one_image = {(SIDE, SIDE), (1, SIDE, SIDE), (SIDE, SIDE, 1), (PIXELS,)}
    return shape[0] if shape[1:] in one_image and shape[0] >= 0 else None


def _open_npz(file: BinaryIO, max_bytes: int, name: str, stack: ExitStack) -> ArrayFile:
    import zipfile

    archive = stack.enter_context(zipfile.ZipFile(file))
    arrays, contents = [], []
    for member in archive.infolist():
        label = member.filename.removesuffix(".npy")
        with archive.open(member) as stream:
            try:
                shape, _, dtype, _ = _read_npy_header(stream)  # type: ignore[arg-type]
            except ValueError:
                contents.append(f"{label} (no array)")
                continue
        contents.append(f"{label} {dtype} {shape}")
        if dtype == np.uint8 and _num_images(shape) is not None:
            arrays.append(member)
    if len(arrays) != 1:
        listing = ", ".join(contents[:8]) + (", ..." if len(contents) > 8 else "") or "nothing"
        found = f"{len(arrays)} arrays" if arrays else "no array"
        wanted = f"aez takes one, uint8 (N, {SIDE}, {SIDE})"
        raise ImageError(f"{name}: has {found} of images, {wanted}; it holds {listing}")
    return _open_npy(stack.enter_context(archive.open(arrays[0])), max_bytes, name)  # type: ignore[arg-type]


def _check_size(num_images: int, max_bytes: int, name: str) -> None:
    if num_images * PIXELS > max_bytes:
        claim = f"claims {num_images * PIXELS} bytes of pixels"
        raise ImageError(f"{name}: is truncated: {claim}, but has at most {max_bytes}")


def _read_exactly(file: BinaryIO | io.BufferedIOBase, num_bytes: int) -> bytearray:
    """Read `num_bytes`, or what is left; memory grows with the bytes that come."""
    body = bytearray()
    while len(body) < num_bytes and (chunk := file.read(min(CHUNK_BYTES, num_bytes - len(body)))):
        body += chunk
    return body


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


def _name(source: Path | BinaryIO) -> str:
    return str(source if isinstance(source, Path) else getattr(source, "name", "<stream>"))


def _open(source: Path | BinaryIO) -> closing[BinaryIO] | nullcontext[BinaryIO]:
    """Return a seekable stream at its beginning; it is closed afterwards only if opened here."""
    if isinstance(source, Path):
        return closing(source.open("rb"))
    if not source.seekable():
        return nullcontext(io.BytesIO(source.read()))
    source.seek(0)
    return nullcontext(source)


@contextmanager
def _image_errors(name: str) -> Iterator[None]:
    """Turn whatever goes wrong inside into an ImageError that begins with `name`."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        # On hostile bytes Pillow's plugins and NumPy's parser raise anything. The system's errors
        # have a reason, which is shown.
        reason = error.strerror if isinstance(error, OSError) else None
        said = f"is truncated or damaged: {str(error) or type(error).__name__}"
        raise ImageError(f"{name}: {reason or said}") from error
