"""Where bytes come from and go to: local files, URLs, and the standard streams.

    place("digits.aez").open()                  # a file to read
    with place("s3://bucket/x.aez").replace() as file:
        file.write(stream)                      # appears as a whole or not at all

READ ME FIRST
- Code that reads or writes uses the methods of `Place`, and never asks which kind of place it is.
- `replace` and `receive` make an output appear under its name when it is whole. `receive` takes a
  finished file, such as a collection that was resumed; `replace` also creates that file.
- "-" means a standard stream only where the user wrote it: `given`, not `place`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import operator
import os
import shutil
import stat
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from codec.errors import UsageError
from codec.files import urls
from codec.files.atomic import (
    OutputExists,
    atomic,
    naming,
    open_output,
    publish,
    refuse_existing,
    sync,
    sync_directory,
    temporary_file,
)

MAX_NAME_BYTES = 200  # of an output whose unfinished files bear its name: 255 with what is added


class Listing(NamedTuple):
    """What a directory holds: names of the wanted files below it, in code-point order, those of the
    other files, and which directories could not be read.
    """

    found: list[str]
    others: list[str]
    unread: list[tuple[str, OSError]]


class Place(ABC):
    """A file or a directory, which need not exist; `str` is what the user calls it."""

    path: Path | None = None  # of a local file: other processes can open it, and open it again
    is_private = False  # no other process can read what is here
    is_standard = False  # a stream: read once, written once, and no directory

    @property
    @abstractmethod
    def name(self) -> str:
        """The last component: `digits.aez`."""

    @abstractmethod
    def full(self) -> str:
        """The path as other processes, and other machines with the same disks, can find it."""

    @abstractmethod
    def exists(self) -> bool:
        """Whether there is a file or a directory."""

    @abstractmethod
    def is_directory(self) -> bool:
        """Whether this is a directory; at a URL, whether there are files below it."""

    @abstractmethod
    def open(self) -> AbstractContextManager[BinaryIO]:
        """Open for reading, seekable.  Raises OSError."""

    @abstractmethod
    def size(self) -> int:
        """Size in bytes.  Raises OSError."""

    @abstractmethod
    def identity(self) -> str:
        """A text that changes when the file does: size, and time or tag.  Raises OSError."""

    def mode(self) -> int | None:
        """Who may read what is here, as permission bits; None where that is not known."""
        return None

    @abstractmethod
    def walk(self, wanted: Callable[[str], bool]) -> Listing:
        """The files below the directory whose own name is wanted.

        Links to files are followed, links to directories are not.
        """

    @abstractmethod
    def replace(
        self, *, force: bool = False, durable: bool = False, mode: int | None = None
    ) -> AbstractContextManager[BinaryIO]:
        """Open a file to be written that appears here whole, or not at all if the block raises.

        force: replace a file that exists; durable: wait for the disk; mode: of the file, by default
        what the system gives new ones. Raises UsageError, OSError.
        """

    @abstractmethod
    def receive(self, file: BinaryIO, path: Path | None, *, force: bool = False) -> None:
        """Move a finished file here and wait for the disk: `file` is open, and lies at `path`.

        Raises UsageError, OSError.
        """

    @abstractmethod
    def spool(self) -> Path | None:
        """The path next to which an output lies until it is whole; None: it cannot be resumed."""

    def write(self, content: bytes, *, force: bool = False, mode: int | None = None) -> None:
        """Write one small file; see `replace`.  Raises UsageError, OSError."""
        with self.replace(force=force, mode=mode) as file:
            file.write(content)

    def holds(self, content: bytes) -> bool:
        """Whether a local file is here with this very content."""
        return False

    @abstractmethod
    def check_free(self, force: bool) -> None:
        """Raise UsageError if a directory is here, or, without force, a file."""

    def below(self, name: str) -> Place:
        """The place of a relative name in this directory."""
        return place(below(str(self), name))

    def with_suffix(self, suffix: str) -> Place:
        """`digits` -> `digits.npy`: appends, and replaces nothing."""
        return place(f"{self}{suffix}")


@dataclass(frozen=True)
class Local(Place):
    """A file or directory of this machine."""

    path: Path = field()

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        return self.path.name

    def full(self) -> str:
        return os.path.abspath(self.path)

    def exists(self) -> bool:
        return os.path.lexists(self.path)

    def is_directory(self) -> bool:
        return self.path.is_dir()

    def open(self) -> BinaryIO:
        return open(self.path, "rb")

    def size(self) -> int:
        return os.stat(self.path).st_size

    def identity(self) -> str:
        status = os.stat(self.path)
        return f"{status.st_size} {status.st_mtime_ns}"

    def mode(self) -> int | None:
        with contextlib.suppress(OSError):
            mode = os.stat(self.path).st_mode
            # who cannot enter a directory cannot read the files in it
            return mode & 0o777 & (((mode & 0o111) << 2 | 0o733) if stat.S_ISDIR(mode) else 0o777)
        return None

    def walk(self, wanted: Callable[[str], bool]) -> Listing:
        top, folders = str(self.path), [""]
        found: list[str] = []  # each name is in memory once, as one string
        unread: list[tuple[str, OSError]] = []
        others: list[str] = []
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(os.path.join(top, folder)) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(f"{folder}{entry.name}/")
                        elif entry.is_dir():
                            continue
                        elif wanted(entry.name) and _can_be_read(entry):
                            found.append(folder + entry.name)
                        else:
                            others.append(folder + entry.name)
            except OSError as error:
                unread.append((os.path.join(top, folder).rstrip("/"), error))
        found.sort()
        others.sort()
        return Listing(found, others, unread)

    def replace(
        self, *, force: bool = False, durable: bool = False, mode: int | None = None
    ) -> AbstractContextManager[BinaryIO]:
        return atomic(self.path, force=force, durable=durable, mode=mode)

    def receive(self, file: BinaryIO, path: Path | None, *, force: bool = False) -> None:
        assert path is not None
        sync(file, self)
        file.close()
        publish(path, self.path, force)
        sync_directory(self.path.parent)

    def spool(self) -> Path:
        name = self.path.name.encode()
        if len(name) < MAX_NAME_BYTES:
            return self.path
        return self.path.with_name(hashlib.sha256(name).hexdigest()[:32])

    def holds(self, content: bytes) -> bool:
        return self.path.is_file() and self.path.read_bytes() == content

    def check_free(self, force: bool) -> None:
        refuse_existing(self.path, force)


def _can_be_read(entry: os.DirEntry[str]) -> bool:
    """A pipe named x.png would block for ever.  A dangling link fails when it is read."""
    return entry.is_file() or not os.path.exists(entry.path)


@dataclass(frozen=True)
class Url(Place):
    """A file or directory that fsspec knows."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        return urls.base_name(self.url)

    @property
    def is_private(self) -> bool:  # type: ignore[override]
        return urls.is_private(self.url)

    def full(self) -> str:
        return self.url

    def exists(self) -> bool:
        return urls.exists(self.url)

    def is_directory(self) -> bool:
        return urls.is_directory(self.url)

    def open(self) -> BinaryIO:
        return urls.open_file(self.url)

    def size(self) -> int:
        return urls.size(self.url)

    def identity(self) -> str:
        return urls.identity(self.url)

    def walk(self, wanted: Callable[[str], bool]) -> Listing:
        found: list[str] = []
        others: list[str] = []
        for name in sorted(urls.find(self.url)):
            (found if wanted(name.rpartition("/")[2]) else others).append(name)
        return Listing(found, others, [])

    @contextlib.contextmanager
    def replace(
        self, *, force: bool = False, durable: bool = False, mode: int | None = None
    ) -> Iterator[BinaryIO]:
        self.check_free(force)
        with tempfile.TemporaryDirectory(prefix="aez-") as folder:
            spool = Path(folder, "spool")
            with open_output(spool, "x+", spool) as file:
                yield file
            self.check_free(force)
            with naming(f"cannot write {self.url}"):
                urls.put(spool, self.url)

    def receive(self, file: BinaryIO, path: Path | None, *, force: bool = False) -> None:
        assert path is not None
        file.close()
        self.check_free(force)
        with naming(f"cannot write {self.url}"):
            urls.put(path, self.url)
        path.unlink()

    def spool(self) -> Path:
        """In the cache directory of this user."""
        from platformdirs import user_cache_path  # only uploads need it

        return user_cache_path("aez", False) / hashlib.sha256(self.url.encode()).hexdigest()[:32]

    def write(self, content: bytes, *, force: bool = False, mode: int | None = None) -> None:
        """In one request, which every store does as a whole; `force` is not checked again."""
        with naming(f"cannot write {self.url}"):
            urls.write(self.url, content)

    def check_free(self, force: bool) -> None:
        if self.is_directory():
            raise UsageError(f"output {self.url} is a directory")
        if not force and self.exists():
            raise OutputExists(self.url)


@dataclass(frozen=True)
class Standard(Place):
    """Standard input when it is read, standard output when it is written, all or nothing."""

    is_private = True
    is_standard = True
    name = "stdin"

    def __str__(self) -> str:
        return "-"

    def full(self) -> str:
        return ""

    def exists(self) -> bool:
        return False

    def is_directory(self) -> bool:
        return False

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        if sys.stdin is None:
            raise UsageError("stdin is closed")
        yield io.BytesIO(sys.stdin.buffer.read())

    def size(self) -> int:
        raise io.UnsupportedOperation("stdin has no size until it is read")

    def identity(self) -> str:
        raise io.UnsupportedOperation("stdin can be read only once")

    def walk(self, wanted: Callable[[str], bool]) -> Listing:
        return Listing([], [], [])

    @contextlib.contextmanager
    def replace(
        self, *, force: bool = False, durable: bool = False, mode: int | None = None
    ) -> Iterator[BinaryIO]:
        self.check_free(force)
        with temporary_file() as spool:
            yield spool
            self.receive(spool, None)

    def receive(self, file: BinaryIO, path: Path | None, *, force: bool = False) -> None:
        file.seek(0)
        with naming("cannot write to stdout"):
            shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()

    def spool(self) -> None:
        return None

    def check_free(self, force: bool) -> None:
        """Nothing is ever here, but stdout can be closed."""
        if sys.stdout is None:
            raise UsageError("stdout is closed")

    def below(self, name: str) -> Place:
        return self

    def with_suffix(self, suffix: str) -> Place:
        return self


STANDARD = Standard()


def place(name: str | Path) -> Place:
    """The place that a path or a URL names."""
    return Url(str(name)) if urls.is_url(name) else Local(Path(name))


def given(name: str) -> Place:
    """The place that a user names, "-" for a standard stream."""
    return STANDARD if name == "-" else place(name)


def common_mode(places: Iterable[Place]) -> int | None:
    """Who may read all of these places; None where that is not known."""
    modes = [mode for one in places if (mode := one.mode()) is not None]
    return functools.reduce(operator.and_, modes) if modes else None


def below(root: str, name: str) -> str:
    """`d`, `0/1.png` -> `d/0/1.png`, of paths and URLs."""
    return name if root in ("", ".") else f"{root}{'' if root.endswith('/') else '/'}{name}"


def read_many(places: Sequence[Place]) -> list[bytes | Exception | None]:
    """The contents of files at URLs, fetched together: bytes, or why there are none; None for local
    files.  All places are of one kind.
    """
    remote = [str(one) for one in places if one.path is None]
    return list(urls.read_many(remote)) if remote else [None] * len(places)
