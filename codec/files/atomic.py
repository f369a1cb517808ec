"""Outputs that appear whole or not at all.

`atomic` writes a temporary sibling and renames it; to a URL it uploads what is whole, and stdout
gets all or nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from codec.errors import UsageError
from codec.files import urls

Output = Path | str | None  # str: a URL; None: stdout
_TEMPORARY = re.compile(r"\.(.{1,40})\.[0-9a-f]{8}\.tmp", re.DOTALL)  # see `atomic`


@contextlib.contextmanager
def atomic(path: Output, *, force: bool = False, durable: bool = False) -> Iterator[BinaryIO]:
    """Open an output that appears under its name whole or not at all; None is stdout, which gets
    all or nothing too.

    `durable` waits for the disk: needed before an input is deleted, and affordable for a
    collection; on each small file it costs seven eighths of the speed.
    """
    if path is None:
        with tempfile.TemporaryFile() as spool:
            yield cast(BinaryIO, spool)
            spool.seek(0)
            shutil.copyfileobj(spool, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        return
    refuse_existing(path, force)
    if isinstance(path, str):
        with tempfile.TemporaryDirectory(prefix="aez-") as folder:
            with open(Path(folder, "spool"), "x+b") as file:
                yield file
            refuse_existing(path, force)
            urls.put(Path(folder, "spool"), path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # 40 characters of the name: with all of it, a long one would pass the 255 bytes that file
    # systems allow.
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "x+b") as file:
            yield file
            if durable:
                _sync(file)
        refuse_existing(path, force)
        os.replace(temporary, path)
    except BaseException:  # KeyboardInterrupt too: leave no debris
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        _sync_directory(path.parent)


def refuse_existing(path: Path | str, force: bool) -> None:
    """Raise UsageError if an output is there, unless it may be overwritten;
    a directory never is.
    """
    if isinstance(path, str):
        if urls.is_directory(path):
            raise UsageError(f"output {path} is a directory")
        if not force and urls.exists(path):
            raise UsageError(f"output {path} exists (-f overwrites it)")
        return
    if path.is_dir():
        raise UsageError(f"output {path} is a directory")
    if not force and os.path.lexists(path):
        raise UsageError(f"output {path} exists (-f overwrites it)")


def debris(folder: str) -> dict[str, list[str]]:
    """Temporary files that `atomic` left in a directory when it was killed: the output, its name
    cut off -> their paths.
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


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    if os.name == "posix":
        directory = os.open(path, os.O_RDONLY)  # a new name must reach the disk as well
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
