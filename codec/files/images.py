"""Image files <-> uint8 arrays: PNG and what else Pillow reads, NPY, NPZ, IDX.

READ ME FIRST: nothing here converts. A file that is not exactly 28x28, 8-bit, grey and one frame is
an `ImageError` that says what the file is. Grey stored as something else (a palette, equal RGB
channels, an opaque alpha) is taken, as that loses nothing. Formats which Pillow reduces to 8 bits
without saying so (AVIF, colour JPEG 2000) cannot be caught.

No size that a file claims is believed: headers are checked before any pixel is decoded, and memory
grows with the bytes that are really there. EPS (which runs a program) and ICO (which Pillow decodes
before it tells the size) are left out. Pillow is imported on the first image, not before, as
start-up counts; PNG is written here, for the same reason.
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

from codec.errors import ImageError

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

    Pixels = npt.NDArray[np.uint8]

WIDTH = HEIGHT = 28

# Most common first; TGA last, as it has no magic number and takes nearly anything for its own.
PILLOW_FORMATS = (
    "PNG",
    "BMP",
    "GIF",
    "JPEG",
    "PPM",
    "TIFF",
    "WEBP",
    "JPEG2000",
    "AVIF",
    "QOI",
    "PCX",
    "SGI",
    "TGA",
)
IMAGE_SUFFIXES = frozenset(
    ".png .apng .bmp .gif .jpg .jpeg .jpe .jfif .pbm .pgm .ppm .pnm .tif .tiff .webp .jp2 .j2k "
    ".j2c .jpc .jpf .jpx "
    ".avif .avifs .qoi .pcx .sgi .bw .rgb .rgba .tga .icb .vda .vst".split()
)
ARRAY_ENDINGS = (".npy", ".npz", ".idx", ".idx3", "-ubyte", ".idx.gz", ".idx3.gz", "-ubyte.gz")

# 8-bit grey may hide in these
EXACT_MODES = frozenset({"L", "1", "P", "PA", "LA", "RGB", "RGBA", "RGBa"})
IDX_IMAGES = 0x00000803  # type 8 (uint8), 3 dimensions
IDX_LABELS = 0x00000801
# 258 bytes take at least 2 bits; so 1 compressed byte yields at most this many
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


def read_image(source: Path | BinaryIO, name: str | None = None) -> Pixels:
    """Read one image file, exactly.

    A stream is read from its beginning. `name` stands for the file in messages; by default it is
    the path. Returns: pixels: uint8 (28, 28).
    Raises: ImageError: the file is missing, damaged, no image, or not 28x28 grey of 8 bits and one
    frame.
    """
    from PIL import Image, UnidentifiedImageError

    name = name or _name(source)
    with _image_errors(name):
        # An open file, not its path: with a path Pillow imports one plugin by suffix, and all when
        # PNG is not the one.
        with _open(source) as file:
            try:
                image = Image.open(file, formats=PILLOW_FORMATS)
            except UnidentifiedImageError as error:
                raise ImageError(f"{name}: is not an image that Pillow can read") from error
            except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
                raise ImageError(
                    f"{name}: far more than {WIDTH}x{HEIGHT} pixels: {error}"
                ) from error
            num_frames = getattr(image, "n_frames", 1)
            if image.size == (WIDTH, HEIGHT) and num_frames > 1:
                if image.format in ("TIFF", "MPO"):
                    raise ImageError(f"{name}: has {num_frames} pages")
                raise ImageError(f"{name}: is animated ({num_frames} frames)")
            return pixels_of(image, name)


def pixels_of(image: Image.Image, name: str) -> Pixels:
    """The pixels of a Pillow image, exactly; of one with several frames, those of the frame at
    hand.

    Returns: pixels: uint8 (28, 28).
    Raises: ImageError: it is not 28x28 grey of 8 bits. Pillow's own errors, if it cannot be
    decoded.
    """
    _check_header(image, name)
    image.load()
    if image.mode == "L" and "transparency" not in image.info:
        return np.array(image)
    return _grey_of(image, name)


def _check_header(image: Image.Image, name: str) -> None:
    """Refuse all that can be refused before a pixel is decoded."""
    if image.size != (WIDTH, HEIGHT):
        raise ImageError(f"{name}: {image.width}x{image.height} pixels, aez takes {WIDTH}x{HEIGHT}")
    tile = getattr(image, "tile", ())  # of an image that comes from a file and is not yet decoded
    if image.mode.startswith("I;16") or _is_16_bit(tile):
        raise ImageError(f"{name}: 16 bits a pixel, aez takes 8")
    if image.mode in ("I", "F"):
        raise ImageError(f"{name}: 32 bits a pixel, aez takes 8")
    if image.mode not in EXACT_MODES:
        raise ImageError(f"{name}: in colour ({image.mode}), aez takes grey")
    if "transparency" in image.info and tile and tile[0][3] in ("L;2", "L;4"):
        # Pillow spreads these pixels over 0..255 but not the transparent value, so that it would
        # find no pixel.
        raise ImageError(f"{name}: has transparency")


def _is_16_bit(tile: Sequence[Any]) -> bool:
    """Tell whether Pillow would drop low bytes: it has no 16-bit mode but grey, so only its plan of
    decoding says.
    """
    for decoder, _, _, args in tile:
        # (raw mode, ...), for PPM (raw mode, largest value)
        args = args if isinstance(args, tuple) else (args,)
        if str(args[0]).endswith((";16B", ";16L", ";16N")) or (
            decoder.startswith("ppm") and args[-1] > 255
        ):
            return True
    return False


def _grey_of(image: Image.Image, name: str) -> Pixels:
    rgba = np.array(image.convert("RGBA"))  # (28, 28, 4); exact from every one of EXACT_MODES
    if (rgba[..., 3] < 255).any():
        raise ImageError(f"{name}: has transparency")
    if (rgba[..., :2] != rgba[..., 1:3]).any():
        raise ImageError(f"{name}: in colour, aez takes grey")
    return np.ascontiguousarray(rgba[..., 0])


def read_array(source: Path | BinaryIO, name: str | None = None) -> Pixels:
    """Read a file of many images: NPY, NPZ with one array of images, IDX (MNIST), gzipped IDX; the
    content decides.

    Taken are uint8 arrays of shape (N, 28, 28), (28, 28), (N, 1, 28, 28), (N, 28, 28, 1) and (N,
    784). A stream is read from its beginning. `name` stands for the file in messages; by default it
    is the path. Returns: pixels: uint8 (N, 28, 28), C order.
    Raises: ImageError: the file is missing, damaged, too short, too long, or holds something else.
    """
    with open_array(source, name) as array:
        body = bytearray().join(array.chunks(CHUNK_BYTES // (HEIGHT * WIDTH)))
        return np.frombuffer(body, np.uint8).reshape(-1, HEIGHT, WIDTH)


class ArrayFile:
    """The images of an array file, to be read once, from the first to the last; the memory taken is
    that of a chunk.
    """

    def __init__(
        self, num_images: int, read: Callable[[int], bytes | bytearray], name: str
    ) -> None:
        self.num_images, self._read, self._name = num_images, read, name

    def chunks(self, num_images: int) -> Iterator[bytes | bytearray]:
        """The pixels, `num_images` at a time.

        Raises ImageError, for what follows the last one as well.
        """
        image_bytes = HEIGHT * WIDTH
        with _image_errors(self._name):
            for at in range(0, self.num_images, num_images):
                wanted = min(num_images, self.num_images - at) * image_bytes
                chunk = self._read(wanted)
                if len(chunk) < wanted:
                    there = at * image_bytes + len(chunk)
                    raise ImageError(
                        f"{self._name}: is truncated: claims {self.num_images * image_bytes} "
                        f"bytes of pixels, {there} are there"
                    )
                yield chunk
            # One byte more than wanted shows whether there is more, and makes gzip and zip
            # verify their checksums.
            if self._read(1):
                raise ImageError(
                    f"{self._name}: has more data after its last pixel "
                    f"({self.num_images * image_bytes} bytes of pixels)"
                )

    def blocks(self, num_images: int) -> Iterator[Pixels]:
        """The images, uint8 (`num_images`, 28, 28) at a time, the last time what is left.

        Raises ImageError.
        """
        for chunk in self.chunks(num_images):
            yield np.frombuffer(chunk, np.uint8).reshape(-1, HEIGHT, WIDTH)


@contextmanager
def open_array(source: Path | BinaryIO, name: str | None = None) -> Iterator[ArrayFile]:
    """Open what `read_array` reads, to be read chunk by chunk.

    Raises ImageError for what its header says.
    """
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
        raise ImageError(f"{name}: IDX labels, not images")
    if len(head) < 4 or magic != IDX_IMAGES:
        if len(head) >= 4 and magic >> 16 == 0 and 0x08 <= magic >> 8 <= 0x0E:
            raise ImageError(
                f"{name}: IDX with magic 0x{magic:08x}, aez takes images, 0x{IDX_IMAGES:08x}"
            )
        raise ImageError(f"{name}: is no NPY, NPZ or IDX file")
    if len(head) < 16:
        raise ImageError(f"{name}: is truncated: {len(head)} bytes of an IDX header of 16")
    num_images, height, width = struct.unpack(">3I", head[4:])
    if (width, height) != (WIDTH, HEIGHT):
        raise ImageError(f"{name}: {width}x{height} pixels, aez takes {WIDTH}x{HEIGHT}")
    _check_size(num_images, max_bytes - 16, name)
    return ArrayFile(num_images, lambda size: _read_exactly(file, size), name)


def _open_npy(file: BinaryIO, max_bytes: int, name: str) -> ArrayFile:
    shape, fortran_order, dtype, offset = _read_npy_header(file)
    if dtype != np.uint8:
        raise ImageError(f"{name}: dtype {dtype}, aez takes uint8")
    num_images = _num_images(shape)
    if num_images is None:
        raise ImageError(f"{name}: shape {shape}, aez takes (N, {HEIGHT}, {WIDTH})")
    file.seek(offset)
    _check_size(num_images, max_bytes - offset, name)
    array = ArrayFile(num_images, lambda size: _read_exactly(file, size), name)
    if not fortran_order or num_images == 0:
        return array
    # Column by column, an image's pixels are everywhere: this one has to be in memory as a whole.
    body = bytearray().join(array.chunks(CHUNK_BYTES // (HEIGHT * WIDTH)))
    pixels = np.ascontiguousarray(np.frombuffer(body, np.uint8).reshape(shape, order="F"))
    return ArrayFile(num_images, io.BytesIO(pixels.tobytes()).read, name)


def _read_npy_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[np.generic], int]:
    """Return (shape, fortran_order, dtype, offset of the first element)."""
    head = io.BytesIO(file.read(MAX_NPY_HEADER_BYTES))
    version = npy_format.read_magic(head)
    if version > (3, 0):
        raise ValueError(f"NPY version {version}")
    # 3.0 differs from 2.0 in the names of fields alone, and an array with fields is refused either
    # way.
    read = (
        npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    )
    return *read(head), head.tell()


def _num_images(shape: tuple[int, ...]) -> int | None:
    """Return how many images an array of this shape holds; None: they are not images of 28x28."""
    if shape == (HEIGHT, WIDTH):
        return 1
    one_image = {(HEIGHT, WIDTH), (1, HEIGHT, WIDTH), (HEIGHT, WIDTH, 1), (HEIGHT * WIDTH,)}
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
        wanted = f"aez takes one uint8 (N, {HEIGHT}, {WIDTH})"
        raise ImageError(f"{name}: {len(arrays)} arrays of images, {wanted}; it holds {listing}")
    return _open_npy(stack.enter_context(archive.open(arrays[0])), max_bytes, name)  # type: ignore[arg-type]


def _check_size(num_images: int, max_bytes: int, name: str) -> None:
    if num_images * HEIGHT * WIDTH > max_bytes:
        claim = f"claims {num_images * HEIGHT * WIDTH} bytes of pixels"
        raise ImageError(f"{name}: is truncated: {claim}, at most {max_bytes} are there")


def _read_exactly(file: BinaryIO | io.BufferedIOBase, num_bytes: int) -> bytearray:
    """Read `num_bytes`, or what is left; memory grows with the bytes that come, whatever a header
    claims.
    """
    body = bytearray()
    while len(body) < num_bytes and (chunk := file.read(min(CHUNK_BYTES, num_bytes - len(body)))):
        body += chunk
    return body


def pack_png(pixels: Pixels) -> bytes:
    """Pack one image, uint8 (H, W), as an 8-bit grey PNG; the bytes depend on the pixels and the
    zlib in use alone.
    """
    height, width = pixels.shape
    # column 0: filter type 0, which is the best one for drawings
    rows = np.zeros((height, 1 + width), np.uint8)
    rows[:, 1:] = pixels
    # 8 bits, grey, deflate, adaptive, not interlaced
    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def pack_idx(pixels: Pixels) -> bytes:
    """Pack images, uint8 (N, H, W), as the IDX file that MNIST comes as (not gzipped)."""
    return struct.pack(">4I", IDX_IMAGES, *pixels.shape) + pixels.tobytes()


def pack_npy(pixels: Pixels) -> bytes:
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
        # on hostile bytes Pillow's plugins and NumPy's parser raise anything
        # the system's word; Pillow's errors have none
        reason = error.strerror if isinstance(error, OSError) else None
        said = f"is truncated or damaged: {str(error) or type(error).__name__}"
        raise ImageError(f"{name}: {reason or said}") from error
