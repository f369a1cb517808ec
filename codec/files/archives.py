"""ZIP and TAR archives -> the contents of their image files, in the order of the archive.

READ ME FIRST
- An archive is like a folder: its image files are known by their names, a bad one is reported, and
  the others are done. Two of one name are refused, as one of them could not be restored.
- An archive is read twice: first its list, then the contents. Nothing is unpacked to the disk, and
  of an entry no more is read than an image of 28x28 can need.
- Links and devices are never followed.
"""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from codec.arrays import SIDE
from codec.errors import ImageError, UsageError, counted
from codec.files import images, kinds, names
from codec.files.batch import (
    CHUNK_BYTES,
    MAX_CONTENT_BYTES,
    READING,
    Contents,
    ImageSource,
    Reading,
    gunzipped,
    image_errors,
    name_of,
    opened,
    read_exactly,
)

MAX_TAR_HEADER_BYTES = 1 << 20  # of names and other properties, which are read at once
TAR_BLOCK = 512
ZIP_END_BYTES = 22  # of the record at the end of a ZIP archive, without a comment


class Entry(NamedTuple):
    """One entry; where: numbers by which it is found again; fault: why it is no file."""

    name: str
    size: int
    where: tuple[int, ...]
    fault: str | None = None


class ArchiveSource(ImageSource):
    """The image files of an archive."""

    is_numbered = False

    def __init__(self, num_bytes: int, name: str, reading: Reading) -> None:
        super().__init__(name)
        self.num_bytes = num_bytes
        self.names: list[str] = []
        self._where = array("Q")  # of all entries, one after the other
        others: list[str] = []
        for entry in self._entries():
            if kinds.is_litter(entry.name):
                continue
            if not self._is_image(entry, reading.all_files):
                others.append(entry.name)
                continue
            try:
                _check(entry)
            except (ImageError, UsageError) as error:
                self.failed.append((f"{name}/{entry.name}", error))
            else:
                self.names.append(entry.name)
                self._where.extend(entry.where)
        self.num_images = len(self.names)
        self.left = kinds.others_of(others, packed=True, seen=reading.all_files)
        if not self.num_images and not self.failed:
            raise ImageError(
                f"{name}: no images in this archive: {'; '.join(self.left) or 'it is empty'}"
            )
        self._check_names()

    def _check_names(self) -> None:
        """Raise ImageError if two images would be restored as one file."""
        if clash := names.clash(lambda: self.names):
            one, other, what = self.names[clash[0]], self.names[clash[1]], clash[2]
            said = f"two entries are called {one}" if one == other else f"{one} and {other} {what}"
            raise ImageError(f"{self.name}: {said}")

    @abstractmethod
    def _entries(self) -> Iterator[Entry]:
        """All entries but directories.  Raises ImageError, and anything for damaged bytes."""

    @abstractmethod
    def _content(self, name: str, where: tuple[int, ...], size: int) -> bytes:
        """The first `size` bytes of an entry."""

    def _is_image(self, entry: Entry, look: bool) -> bool:
        """Whether an entry is an image by its name, or, if we are to look, by its content."""
        if images.is_image_file(entry.name) or not look or entry.fault:
            return images.is_image_file(entry.name)
        return images.is_image_content(self._content(entry.name, entry.where, images.HEAD_BYTES))

    def _read(self, size: int, start: int) -> Iterator[Contents]:
        width = len(self._where) // max(1, self.num_images)
        for first in range(start * size, self.num_images, size):
            numbers = range(first, min(first + size, self.num_images))
            yield [self._image(n, tuple(self._where[n * width : (n + 1) * width])) for n in numbers]

    def _image(self, number: int, where: tuple[int, ...]) -> bytes | Exception:
        """One image file, or why there is none.  Raises ImageError, OSError."""
        try:
            return self._content(self.names[number], where, MAX_CONTENT_BYTES)
        except ImageError:
            raise
        except Exception as error:  # of zipfile, and of the libraries that it unpacks with
            if isinstance(error, OSError) and error.errno:
                raise
            return ImageError(f"is damaged: {error}")


def _check(entry: Entry) -> None:
    """Raise ImageError or UsageError if an entry cannot be an image."""
    names.safe_parts(entry.name)
    if entry.fault:
        raise ImageError(f"is {entry.fault}, aez takes files")
    if entry.size > MAX_CONTENT_BYTES:
        raise ImageError(
            f"has {entry.size} bytes, an image of {SIDE}x{SIDE} needs at most {MAX_CONTENT_BYTES}"
        )


class ZipSource(ArchiveSource):
    """A ZIP archive."""

    def __init__(self, file: BinaryIO, num_bytes: int, name: str, reading: Reading) -> None:
        self._listed, self._numbers = list[str](), array("Q")
        self._archive = _Zip(file, self._take)
        super().__init__(num_bytes, name, reading)
        self.left += _beside_entries(file, self._archive.comment)
        del self._listed, self._numbers

    def _take(self, info: zipfile.ZipInfo) -> None:
        if info.flag_bits & 1:
            raise ImageError(f"is encrypted ({info.filename}): unpack it first")
        name = _utf8_name(info)
        info.flag_bits |= RECODED * (name != info.orig_filename)
        self._listed.append(name)
        self._numbers.extend(getattr(info, each) for each in ZIP_NUMBERS)

    def _entries(self) -> Iterator[Entry]:
        width = len(ZIP_NUMBERS)
        for number, name in enumerate(self._listed):
            if not name.endswith("/"):
                where = tuple(self._numbers[number * width : (number + 1) * width])
                kind = stat.S_IFMT(where[1] >> 16)  # of Unix, 0 if there is none
                fault = None if kind in (0, stat.S_IFREG) else "a link or a device"
                yield Entry(name, where[0], where, fault)

    def _content(self, name: str, where: tuple[int, ...], size: int) -> bytes:
        with self._archive.open(_zip_info(name, where)) as file:
            return file.read(size)


ZIP_NUMBERS = (
    "file_size external_attr header_offset compress_size compress_type flag_bits CRC".split()
)


ZIP_UTF8 = 1 << 11  # among the flags: the name is UTF-8
RECODED = 1 << 16  # which no flag of a file is: the name is UTF-8, though it does not say so


def _utf8_name(info: zipfile.ZipInfo) -> str:
    """The name of an entry: of those without the flag, many are UTF-8 nevertheless."""
    name = info.orig_filename
    if name.isascii() or info.flag_bits & ZIP_UTF8:
        return name
    try:
        return name.encode("cp437").decode()
    except UnicodeError:
        return name


def _zip_info(name: str, numbers: Iterable[int]) -> zipfile.ZipInfo:
    named = dict(zip(ZIP_NUMBERS, numbers, strict=True))
    if named["flag_bits"] & RECODED:
        named["flag_bits"] ^= RECODED
        name = name.encode().decode("cp437")  # as zipfile compares it
    info = zipfile.ZipInfo(name)
    for each, number in named.items():
        setattr(info, each, number)
    return info


def _beside_entries(file: BinaryIO, comment: bytes) -> list[str]:
    """What a ZIP archive has besides its entries."""
    size = file.seek(0, io.SEEK_END)
    at = max(0, size - ZIP_END_BYTES - 0xFFFF)
    file.seek(at)
    end = file.read().rfind(b"PK\5\6")
    after = size - (at + end + ZIP_END_BYTES + len(comment))
    trailing = [f"{counted(after, 'byte')} after its end"] if after else []
    return ["its comment"] * bool(comment) + trailing


class _Entries:
    """What looks like an empty list to which `take` is appended."""

    def __init__(self, take: Callable[[zipfile.ZipInfo], None]) -> None:
        self.append = take

    def __iter__(self) -> Iterator[zipfile.ZipInfo]:
        return iter(())


class _Zip(zipfile.ZipFile):
    """Gives each entry to `take` as it is listed, and keeps none: they take 600 bytes each."""

    def __init__(self, file: BinaryIO, take: Callable[[zipfile.ZipInfo], None]) -> None:
        self._take = take
        super().__init__(file)

    @property
    def filelist(self) -> Any:
        return _Entries(self._take)

    @filelist.setter
    def filelist(self, entries: Any) -> None:
        pass

    @property
    def NameToInfo(self) -> Any:
        return {}

    @NameToInfo.setter
    def NameToInfo(self, entries: Any) -> None:
        pass


class TarSource(ArchiveSource):
    """A TAR archive, perhaps in gzip.  file: seekable."""

    def __init__(self, file: BinaryIO, num_bytes: int, name: str, reading: Reading) -> None:
        self._file = file
        super().__init__(num_bytes, name, reading)

    def _entries(self) -> Iterator[Entry]:
        with tarfile.open(
            None, "r:", cast(BinaryIO, _Bounded(self._file)), encoding="utf-8"
        ) as tar:
            while (member := tar.next()) is not None:
                cast(Any, tar).members.clear()  # else it keeps them all
                if not member.isdir():
                    name = member.name.removeprefix("./")
                    where = (member.offset_data, member.size)
                    yield Entry(name, member.size, where, _tar_fault(member))
            end = tar.offset
        self._check_end(end)

    def _check_end(self, end: int) -> None:
        """Raise ImageError unless nothing but zeros follows: tarfile stops at damage in silence."""
        self._file.seek(end)
        block = self._file.read(TAR_BLOCK)
        if any(block):
            raise ImageError(f"{self.name}: is damaged: byte {end} starts no entry")
        if len(block) < TAR_BLOCK:
            raise ImageError(f"{self.name}: is truncated: the mark of its end is missing")
        while chunk := self._file.read(CHUNK_BYTES):
            if any(chunk):
                raise ImageError(f"{self.name}: has more data after its end")

    def _content(self, name: str, where: tuple[int, ...], size: int) -> bytes:
        offset, size_bytes = where
        self._file.seek(offset)
        content = bytes(read_exactly(self._file, min(size, size_bytes)))
        if len(content) < min(size, size_bytes):
            raise ImageError(f"{self.name}: is truncated in {name}")
        return content


def _tar_fault(member: tarfile.TarInfo) -> str | None:
    """Why an entry is no file; None: it is one."""
    if member.isreg():
        return "a sparse file" if member.issparse() else None
    return "a link" if member.islnk() or member.issym() else "a device"


class _Bounded:
    """A file from which tarfile reads no header of any size that is claimed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > MAX_TAR_HEADER_BYTES:
            raise ImageError(
                f"a header claims {size} bytes, at most {MAX_TAR_HEADER_BYTES} are read"
            )
        return self._file.read(size)


@contextmanager
def open_archive(
    source: Path | BinaryIO, name: str | None = None, reading: Reading = READING
) -> Iterator[ArchiveSource]:
    """Open a ZIP or TAR archive, or a gzipped TAR; the content decides.  Raises ImageError.

    source, name: as for `read_array`.
    """
    name = name or name_of(source)
    with ExitStack() as stack:
        with image_errors(name):
            file = stack.enter_context(opened(source))
            num_bytes = file.seek(0, io.SEEK_END)
            file.seek(0)
            is_zip = file.read(2) == b"PK"
            file.seek(0)
            kind = ZipSource if is_zip else TarSource
            archive = kind(stack.enter_context(gunzipped(file)), num_bytes, name, reading)
        yield archive
