"""Array files -> images: NPY, NPZ, IDX, each gzipped or not; the content decides.

READ ME FIRST
- Arrays of images have the shape (N, 28, 28), (N, 784), (N, 1, 28, 28), (N, 28, 28, 1) or (28, 28),
  any byte order, C or Fortran order. Integers must be 0..255; floats need a `Scale`; False and True
  become 0 and 255.
- An NPZ file has arrays with names. Those of labels belong to those of images by their names
  (`Npz.labels_of`): y_train to x_train, train_labels to train_images.
- No size that a file claims is trusted: memory grows with the bytes that are really there.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

import numpy as np
from numpy.lib import format as npy_format

from codec.arrays import PIXELS, SIDE, U8
from codec.errors import ImageError, UsageError
from codec.files import foreign
from codec.files.batch import (
    ASK_SCALE,
    READING,
    ImageSource,
    Reading,
    Scale,
    exact,
    gunzipped,
    image_errors,
    listing,
    name_of,
    opened,
    read_exactly,
)
from codec.files.kinds import ARRAY_ENDINGS
from codec.labels import MAX_LABEL_BYTES, Labels, checked

if TYPE_CHECKING:
    from zipfile import ZipFile, ZipInfo

    import numpy.typing as npt

    Array = npt.NDArray[Any]

# of the types that an IDX file can have
IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
# 258 bytes take at least 2 bits, so 1 compressed byte yields at most this many
MAX_DEFLATE_RATIO = 1032
MAX_NPY_HEADER_BYTES = 12 + 10_000  # NumPy's own limit, applied before reading rather than after
READ_IMAGES = 4096  # at once

# Words in the names of the arrays of an NPZ file, which tell labels from images; the other words
# tell which labels belong to which images.
LABEL_WORDS = frozenset("y label labels target targets class classes".split())
IMAGE_WORDS = frozenset("x image images img imgs data".split())


def is_array_file(path: Path) -> bool:
    """Tell by its name, in any case, whether a file is for `read_array`: `x.npy`, `x.idx.gz`,
    `t10k-idx3-ubyte`.
    """
    return path.name.lower().endswith(ARRAY_ENDINGS)


def read_array(source: Path | BinaryIO, name: str | None = None, *, array: str | None = None) -> U8:
    """Read a file of many images -> uint8 (N, 28, 28), C order.

    NPY, NPZ, IDX (MNIST), gzipped or not; the content decides. source: a path, or a stream, which
    is read from its beginning; name: of the file in messages, by default its path; array: the one
    to read of an NPZ file, if it has several of images. Raises ImageError: the file is missing,
    damaged, too short, too long, or holds something else.
    """
    with open_array(source, name, Reading(array, labels="none")) as opened_array:
        batches = opened_array.batches(READ_IMAGES)
        blocks = [batch.pixels for batch in batches if batch.pixels is not None]
    return np.concatenate(blocks) if blocks else np.empty((0, SIDE, SIDE), np.uint8)


class Header(NamedTuple):
    """What an array file says first; offset: of the first element."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int

    @property
    def num_images(self) -> int | None:
        """How many images such an array holds; None: not images of 28x28."""
        if self.shape == (SIDE, SIDE):
            return 1
        one_image = {(SIDE, SIDE), (1, SIDE, SIDE), (SIDE, SIDE, 1), (PIXELS,)}
        return self.shape[0] if self.shape[1:] in one_image and self.shape[0] >= 0 else None

    @property
    def is_one_each(self) -> bool:
        """Whether there is one value for each image, as of labels."""
        return len(self.shape) == 1 or (len(self.shape) == 2 and self.shape[1] == 1)

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


class ArraySource(ImageSource):
    """The images of an array.  file: seekable."""

    def __init__(
        self, file: BinaryIO, header: Header, max_bytes: int, name: str, scale: Scale | None
    ) -> None:
        super().__init__(name)
        num_images = header.num_images
        if header.dtype.kind not in "buif":
            raise ImageError(f"{name}: dtype {header.dtype}, aez takes integers")
        if header.dtype.kind == "f" and scale is None:
            raise ImageError(f"{name}: dtype {header.dtype}, aez takes integers; {ASK_SCALE}")
        if num_images is None:
            raise ImageError(f"{name}: shape {header.shape}, aez takes (N, {SIDE}, {SIDE})")
        if header.num_bytes > max_bytes - header.offset:
            most = f"but has at most {max_bytes - header.offset}"
            raise ImageError(
                f"{name}: is truncated: claims {header.num_bytes} bytes of pixels, {most}"
            )
        self._file, self._header, self._scale = file, header, scale
        self.num_images = num_images
        self._end = self.num_bytes = header.offset + header.num_bytes
        back = (num_images, SIDE, SIDE)
        if header.shape != back or header.dtype != np.uint8:
            self.notes.append(f"{header} comes back as uint8 {back}")

    def _read(self, size: int, start: int) -> Iterator[U8]:
        for first in range(start * size, self.num_images, size):
            yield self._images(first, min(size, self.num_images - first))
        # One byte more than wanted shows whether there is more, and makes gzip and zip verify their
        # checksums.
        self._file.seek(self._end)
        if self._file.read(1):
            raise ImageError(
                f"{self.name}: has more data after its last pixel ({self._header.num_bytes} bytes)"
            )

    def _images(self, first: int, count: int) -> U8:
        """Images number `first` and so on, (count, 784)."""
        values = (self._columns if self._header.fortran else self._rows)(first, count)
        values = values.reshape(count, PIXELS)
        return exact(values, self._scale, self.name, lambda i: f"image {first + i}")

    def _rows(self, first: int, count: int) -> Array:
        """Their values, from an array in C order."""
        size = PIXELS * self._header.dtype.itemsize
        self._file.seek(self._header.offset + first * size)
        return np.frombuffer(self._bytes(count * size), self._header.dtype)

    def _columns(self, first: int, count: int) -> Array:
        """The same in Fortran order, where the first pixels of all images come first."""
        header, item = self._header, self._header.dtype.itemsize
        found = np.empty((PIXELS, count), header.dtype)
        for number in range(PIXELS):
            self._file.seek(header.offset + (number * self.num_images + first) * item)
            found[number] = np.frombuffer(self._bytes(count * item), header.dtype)
        if header.shape[1:] == (PIXELS,):
            return np.ascontiguousarray(found.T)
        # [column, row, image] -> [image, row, column]
        return np.ascontiguousarray(found.reshape(SIDE, SIDE, count).T)

    def _bytes(self, size: int) -> bytearray:
        found = read_exactly(self._file, size)
        if len(found) < size:
            there = self._file.tell() - self._header.offset
            raise ImageError(
                f"{self.name}: is truncated: claims {self._header.num_bytes} bytes of pixels, "
                f"but has {there}"
            )
        return found


@contextmanager
def open_array(
    source: Path | BinaryIO, name: str | None = None, reading: Reading = READING
) -> Iterator[ImageSource]:
    """Open what `read_array` reads, to read it batch by batch.  Raises ImageError.

    reading.array: which array of an NPZ file, if it has several; reading.labels: the name of the
    array of its labels, "none", or None for the one that belongs to it.
    """
    name = name or name_of(source)
    with ExitStack() as stack:
        with image_errors(name):
            file = stack.enter_context(opened(source))
            max_bytes = file.seek(0, io.SEEK_END)
            file.seek(0)
            unpacked = stack.enter_context(gunzipped(file))
            is_packed = unpacked is not file
            if is_packed:
                file, max_bytes = unpacked, max_bytes * MAX_DEFLATE_RATIO
            magic = file.read(4)
            file.seek(0)
            if magic[:2] == b"PK":
                array = _open_npz(stack.enter_context(_zip_file(file, name)), name, stack, reading)
            else:
                is_npy = magic == b"\x93NUM"
                header = npy_header(file) if is_npy else idx_header(file, name)
                if not is_npy:
                    _check_idx(header.shape, name)
                array = _source(file, header, max_bytes, name, reading.scale, is_packed=is_packed)
        yield array


def _source(
    file: BinaryIO,
    header: Header,
    max_bytes: int,
    name: str,
    scale: Scale | None,
    *,
    is_packed: bool,
) -> ArraySource:
    if header.fortran and is_packed:  # where to seek is to unpack all that lies before
        file.seek(0)
        file = io.BytesIO(read_exactly(file, min(max_bytes, header.offset + header.num_bytes) + 1))
    return ArraySource(file, header, max_bytes, name, scale)


def npy_header(file: BinaryIO) -> Header:
    head = io.BytesIO(file.read(MAX_NPY_HEADER_BYTES))
    version = npy_format.read_magic(head)
    if version > (3, 0):
        raise ValueError(f"NPY version {version}")
    # 3.0 differs from 2.0 only in the names of fields, and arrays with fields are refused anyway.
    if version == (1, 0):
        return Header(*npy_format.read_array_header_1_0(head), head.tell())
    return Header(*npy_format.read_array_header_2_0(head), head.tell())


def idx_header(file: BinaryIO, name: str) -> Header:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in IDX_TYPES:
        head += file.read(foreign.HEAD_BYTES)
        wanted = "an NPY, NPZ or IDX file"
        raise ImageError(f"{name}: {foreign.instead_of(wanted, head) if head else 'is empty'}")
    sizes = file.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        there, size = 4 + len(sizes), 4 + 4 * head[3]
        raise ImageError(f"{name}: is truncated: has {there} of the {size} bytes of an IDX header")
    shape = tuple(np.frombuffer(sizes, ">u4").tolist())
    return Header(shape, False, np.dtype(IDX_TYPES[head[2]]), 4 + len(sizes))


def _check_idx(shape: tuple[int, ...], name: str) -> None:
    if len(shape) == 1:
        raise ImageError(
            f"{name}: holds IDX labels, not images; --labels takes them with the images"
        )
    if len(shape) == 3 and shape[1:] != (SIDE, SIDE):
        raise ImageError(f"{name}: {shape[2]}x{shape[1]} pixels, aez takes {SIDE}x{SIDE}")


# NPZ


class Npz(NamedTuple):
    """The arrays of an NPZ file, and which of them are images."""

    arrays: dict[str, tuple[ZipInfo, Header | None]]  # None: no array
    images: list[str]

    @staticmethod
    def of(archive: ZipFile, scale: Scale | None, name: str) -> Npz:
        arrays: dict[str, tuple[ZipInfo, Header | None]] = {}
        for member in archive.infolist():
            called = member.filename.removesuffix(".npy")
            if called in arrays:
                raise ImageError(f"{name}: has two arrays with the name {called}")
            with archive.open(member) as stream:
                try:
                    arrays[called] = member, npy_header(cast(BinaryIO, stream))
                except ValueError:
                    arrays[called] = member, None
        images = [each for each, (_, header) in arrays.items() if _are_images(header, scale)]
        return Npz(arrays, images)

    def labels_of(self, array: str) -> str | None:
        """The array of the labels of an array of images, by its name; None: none, or several."""
        found = self.perhaps_labels(array)
        return found[0] if len(found) == 1 else None

    def perhaps_labels(self, array: str) -> list[str]:
        """The arrays that could be the labels of an array of images, by their names."""
        named = [
            each
            for each, (_, header) in self.arrays.items()
            if _is_label(each) and header is not None and header.is_one_each
        ]
        same = [each for each in named if _set(each) == _set(array)]
        return named if not same and len(self.images) == 1 else same

    def described(self, arrays: list[str]) -> str:
        """`x uint8 (5, 28, 28), y int64 (5,)`"""
        return listing([f"{each} {self.arrays[each][1] or '(no array)'}" for each in arrays])


def _are_images(header: Header | None, scale: Scale | None) -> bool:
    kinds = "buif" if scale else "bui"
    return header is not None and header.num_images is not None and header.dtype.kind in kinds


def _words(array: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+", array)]


def _is_label(array: str) -> bool:
    return not LABEL_WORDS.isdisjoint(_words(array))


def _set(array: str) -> list[str]:
    """Which set of images an array is of: `x_train`, `train_labels` -> `train`."""
    return [word for word in _words(array) if word not in LABEL_WORDS | IMAGE_WORDS]


def part_name(array: str) -> str:
    """What the output for an array is called after the file: `x_train` -> `train`."""
    return "_".join(_set(array)) or re.sub(r"[^\w-]", "_", array)


@contextmanager
def _zip_file(file: BinaryIO, name: str) -> Iterator[ZipFile]:
    import zipfile

    head = file.read(foreign.HEAD_BYTES)
    file.seek(0)
    if not head:
        raise ImageError(f"{name}: is empty")
    if not head.startswith(b"PK"):
        raise ImageError(f"{name}: {foreign.instead_of('an NPZ file', head)}")
    with zipfile.ZipFile(file) as archive:
        yield archive


def images_of_npz(source: Path | BinaryIO, name: str, reading: Reading) -> list[str]:
    """Names of the arrays of images that are taken from an NPZ file.  Raises ImageError."""
    with (
        image_errors(name),
        opened(source) as packed,
        gunzipped(packed) as file,
        _zip_file(file, name) as archive,
    ):
        npz = Npz.of(archive, reading.scale, name)
        return [_chosen(npz, reading, name)] if reading.array or len(npz.images) < 2 else npz.images


def _chosen(npz: Npz, reading: Reading, name: str) -> str:
    """The array that is asked for, or the only one of images."""
    wanted = f"aez takes one, of whole numbers (N, {SIDE}, {SIDE})"
    if not npz.arrays:
        raise ImageError(f"{name}: holds no arrays at all, {wanted}")
    if reading.array is None:
        if len(npz.images) == 1:
            return npz.images[0]
        holds = npz.described(list(npz.arrays))
        are_floats = any(_are_images(header, Scale(1)) for _, header in npz.arrays.values())
        choose = "--array NAME takes one of them"
        if not npz.images:
            choose = ASK_SCALE if are_floats else ""
        found = (
            f"has {len(npz.images) or 'no'} array{'s' * (len(npz.images) > 1)} of images, {wanted}"
        )
        raise ImageError(f"{name}: {'; '.join(filter(None, (found, f'it holds {holds}', choose)))}")
    if reading.array not in npz.arrays:
        holds = npz.described(list(npz.arrays))
        raise ImageError(f"{name}: has no array {reading.array}; it holds {holds}")
    return reading.array


def _open_npz(archive: ZipFile, name: str, stack: ExitStack, reading: Reading) -> ArraySource:
    npz = Npz.of(archive, reading.scale, name)
    array = _chosen(npz, reading, name)
    info, header = npz.arrays[array]
    if header is None:
        raise ImageError(f"{name}: {array} is no array")
    file = cast(BinaryIO, stack.enter_context(archive.open(info)))
    max_bytes = min(info.file_size, info.compress_size * MAX_DEFLATE_RATIO)
    called = name if len(npz.images) < 2 else f"{name}: {array}"
    source = _source(file, header, max_bytes, called, reading.scale, is_packed=True)
    source.num_bytes = info.compress_size
    wanted = npz.labels_of(array) if reading.labels is None else reading.labels
    if wanted in npz.arrays:
        found = _npz_labels(archive, *npz.arrays[wanted], f"{name}: {wanted}")
        source.label_with(found, f"array {wanted}")
    elif wanted is None and (perhaps := npz.perhaps_labels(array)):
        source.notes.append(f"labels in {' or '.join(perhaps)}? --labels NAME takes one of them")
    stored = set(npz.images) if reading.of_all else {array}
    used = {npz.labels_of(each) for each in stored} if reading.labels is None else {wanted}
    left = [each for each in npz.arrays if each not in stored | used]
    source.left = [npz.described([each]) for each in left]
    return source


def _npz_labels(archive: ZipFile, info: ZipInfo, header: Header | None, name: str) -> Labels:
    """One array of labels, of shape (N,) or (N, 1).  Raises ImageError."""
    try:
        if header is None or not header.is_one_each:
            raise UsageError(f"is {header or 'no array'}, wanted a label an image")
        if header.dtype.hasobject or header.dtype.itemsize > 4 * MAX_LABEL_BYTES:
            raise UsageError(f"is {header.dtype}, wanted integers or short texts")
        with archive.open(info) as file:
            file.seek(header.offset)
            body = read_exactly(cast(BinaryIO, file), header.num_bytes)
        return checked(np.frombuffer(body, header.dtype).reshape(header.shape[0]))
    except UsageError as error:
        raise ImageError(f"{name}: {error}; --labels none leaves labels out") from None
