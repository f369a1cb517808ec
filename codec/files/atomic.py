"""Local files that appear whole or not at all: a temporary sibling is written, then renamed.

A process that is killed leaves the sibling. Its name follows from that of the output and its writer
holds a lock, so whoever writes the same output next finds it, sees that nobody writes it any more,
and removes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from codec.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

Opener = Callable[[str, int], int]

_TEMPORARY = re.compile(r"\.(.{1,40})\.[0-9a-f]{8}\.tmp", re.DOTALL)  # see `atomic`


class OutputExists(UsageError):
    """There is a file in the place of an output, a path or URL."""

    def __init__(self, output: str) -> None:
        super().__init__(f"output {output} exists (-f overwrites it)")
        self.output = output

    def __reduce__(self) -> tuple[type[OutputExists], tuple[str]]:
        return type(self), (self.output,)


@contextlib.contextmanager
def naming(tried: str) -> Iterator[None]:
    """Let OSErrors of the block say what was tried, as in "cannot write x.aez: ...".

    A command calls a failure by its input, and the reason alone would be taken for that of the
    input.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, f"{tried}: {error.strerror}") from error


class _OutputFile(io.FileIO):
    """A file whose errors in writing name the output that it becomes."""

    def __init__(
        self, file: Path | int, mode: str, output: object, opener: Opener | None = None
    ) -> None:
        self._tried = f"cannot write {output}"
        with naming(self._tried):
            super().__init__(file, mode, opener=opener)

    def write(self, content: ReadableBuffer, /) -> int:
        with naming(self._tried):
            return super().write(content)

    def truncate(self, size: int | None = None, /) -> int:
        with naming(self._tried):
            return super().truncate(size)


def open_output(path: Path, mode: str, output: object, permissions: int | None = None) -> BinaryIO:
    """Open a file in mode "x+" or "r+"; OSErrors, also of later writes, name the output.

    permissions: those of the file that a new one is made from: nobody else may read it.
    """
    return io.BufferedRandom(_OutputFile(path, mode, output, _creator(permissions)))


def _creator(permissions: int | None) -> Opener | None:
    """What creates a file that this user can write, and that others can use as `permissions` say;
    None: as the system does.
    """
    if permissions is None:
        return None
    return lambda path, flags: os.open(path, flags, 0o600 | (permissions & 0o066))


def open_log(path: Path, output: object, opener: Opener) -> BinaryIO:
    """Open a file to append to it, unbuffered; OSErrors, also of later writes, name the output."""
    return cast(BinaryIO, _OutputFile(path, "a+", output, opener))


def temporary_file() -> BinaryIO:
    """A file without a name, in the system's directory for such files, which OSErrors name."""
    output = f"a temporary file in {tempfile.gettempdir()}"
    with naming(f"cannot write {output}"), tempfile.TemporaryFile(buffering=0) as file:
        descriptor = os.dup(file.fileno())
    return io.BufferedRandom(_OutputFile(descriptor, "r+", output))


def make_folder(folder: Path, permissions: int | None = None, top: Path | None = None) -> None:
    """Make a directory for outputs, and those above it.  Raises UsageError, OSError.

    permissions: those of the file that the outputs are made from: nobody else may look into a new
    directory, nor into those above it up to `top`.
    """
    if permissions is None:
        mode = 0o777
    else:  # who can read can list
        mode = 0o700 | (permissions & 0o066) | ((permissions & 0o044) >> 2)
    if top is not None and folder != top and not os.path.isdir(folder.parent):
        make_folder(folder.parent, permissions, top)
    try:
        with naming(f"cannot make the directory {folder}"):
            folder.mkdir(mode, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        what = "is a file" if there.is_file() else "is no directory"
        raise UsageError(f"output directory {there} {what}") from None


def remove(path: Path) -> None:
    """Delete an input.  Raises OSError."""
    with naming(f"cannot delete {path}"):
        path.unlink()


@contextlib.contextmanager
def atomic(
    path: Path, *, force: bool = False, durable: bool = False, mode: int | None = None
) -> Iterator[BinaryIO]:
    """Open a file that appears under its name whole, or not at all if the block raises.

    durable: wait for the disk, as is needed before an input is deleted. For a collection that costs
    little; for small files it takes seven eighths of the speed. mode: see
    `open_output`. Raises UsageError, OSError.
    """
    refuse_existing(path, force)
    make_folder(path.parent)
    with contextlib.ExitStack() as lock:
        file, temporary = _created(path, mode, lock)
        try:
            with file:
                yield file
                if durable:
                    sync(file, path)
            publish(temporary, path, force)
        except BaseException:  # KeyboardInterrupt too: leave no debris
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    if durable:
        sync_directory(path.parent)


def _created(path: Path, mode: int | None, lock: contextlib.ExitStack) -> tuple[BinaryIO, Path]:
    """A new temporary file for an output, open, and its path; the lock lasts beyond its closing."""
    # 40 characters of the name, as file systems allow 255 bytes
    start = f".{path.name[:40]}."
    own = hashlib.blake2b(os.fsencode(path.name), digest_size=4).hexdigest()
    temporary = path.with_name(f"{start}{own}.tmp")
    if _is_free(temporary):
        with contextlib.suppress(FileExistsError):  # another process was faster
            file = open_output(temporary, "x+", path, mode)
            descriptor = os.dup(file.fileno())
            lock.callback(os.close, descriptor)
            try:
                is_mine = _is_locked(descriptor, temporary)
            except OSError:  # a file system without locks, where nobody removes it
                is_mine = True
            if is_mine:
                return file, temporary
            file.close()  # another process takes it for debris, and removes it
    temporary = path.with_name(f"{start}{secrets.token_hex(4)}.tmp")
    return open_output(temporary, "x+", path, mode), temporary


def _is_free(temporary: Path) -> bool:
    """Whether nobody writes a temporary file; removes what a killed process left of it."""
    try:
        import fcntl  # noqa: F401 (not on Windows, which renames no file that is open for a lock)

        # no link is followed, and no pipe waited for, that somebody else put there
        descriptor = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return True
    except (ImportError, OSError):
        return False
    try:
        if is_free := _is_locked(descriptor, temporary):
            temporary.unlink(missing_ok=True)
        return is_free
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int, path: Path) -> bool:
    """Lock a file until all its descriptors are closed, as the system does when a process is
    killed; False: another one holds it, or the path is another file by now.  Raises OSError.
    """
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except (BlockingIOError, FileNotFoundError):
        return False


def publish(temporary: Path, path: Path, force: bool) -> None:
    """Give a finished file its name.  Raises UsageError, OSError."""
    refuse_existing(path, force)
    with naming(f"cannot write {path}"):
        os.replace(temporary, path)


def refuse_existing(path: Path, force: bool) -> None:
    """Raise UsageError if an output exists, unless it may be replaced; a directory never is."""
    with naming(f"cannot write {path}"):
        if path.is_dir():
            raise UsageError(f"output {path} is a directory")
        if not force and os.path.lexists(path):
            raise OutputExists(str(path))


def debris(folder: str) -> dict[str, list[str]]:
    """Temporary files that `atomic` left in a directory when it was killed: path of the output (its
    name cut to 40 characters) -> their paths.
    """
    found: dict[str, list[str]] = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(folder or ".") as entries:
        for entry in entries:
            if match := _TEMPORARY.fullmatch(entry.name):
                found.setdefault(f"{folder}/{match[1]}", []).append(entry.path)
    return found


def size_of(file: BinaryIO) -> int:
    """Size of an open file; leaves it at its end."""
    return file.seek(0, os.SEEK_END)


def sync(file: BinaryIO, output: object) -> None:
    """Wait until a file, which becomes this output, is on the disk."""
    file.flush()
    with naming(f"cannot write {output}"):
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk, where systems do not see to that."""
    if os.name == "posix":
        with naming(f"cannot write into {path}"):
            directory = os.open(path, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
