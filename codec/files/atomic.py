"""Local files that appear whole or not at all: a temporary sibling is written, then renamed."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from codec.errors import UsageError

_TEMPORARY = re.compile(r"\.(.{1,40})\.[0-9a-f]{8}\.tmp", re.DOTALL)  # see `atomic`


@contextlib.contextmanager
def atomic(path: Path, *, force: bool = False, durable: bool = False) -> Iterator[BinaryIO]:
    """Open a file that appears under its name whole, or not at all if the block raises.

    durable: wait for the disk, as is needed before an input is deleted. For a collection that costs
    little; for small files it takes seven eighths of the speed. Raises UsageError, OSError.
    """
    refuse_existing(path, force)
    path.parent.mkdir(parents=True, exist_ok=True)
    # 40 characters of the name, as file systems allow 255 bytes.
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "x+b") as file:
            yield file
            if durable:
                sync(file)
        refuse_existing(path, force)
        os.replace(temporary, path)
    except BaseException:  # KeyboardInterrupt too: leave no debris
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)


def refuse_existing(path: Path, force: bool) -> None:
    """Raise UsageError if an output exists, unless it may be replaced; a directory never is."""
    if path.is_dir():
        raise UsageError(f"output {path} is a directory")
    if not force and os.path.lexists(path):
        raise UsageError(f"output {path} exists (-f overwrites it)")


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


def sync(file: BinaryIO) -> None:
    """Wait until a file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk, where systems do not see to that."""
    if os.name == "posix":
        directory = os.open(path, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
