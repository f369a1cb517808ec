"""Files at URLs (`s3://`, `gs://`, `memory://` ...), by fsspec.

Everything raises OSError, or UsageError if fsspec or the protocol's own package is missing.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from codec.errors import UsageError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # two letters at least: `C://` is a drive


def is_url(name: object) -> bool:
    """Whether an input or output is a URL rather than a path."""
    return isinstance(name, str) and bool(_URL.match(name))


def base_name(url: str) -> str:
    """`s3://bucket/digits.aez` -> `digits.aez`."""
    return url.rstrip("/").rpartition("/")[2]


def parent(url: str) -> str:
    """`s3://bucket/digits.aez` -> `s3://bucket`."""
    return url.rstrip("/").rpartition("/")[0]


def _file_system(url: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError:
        raise UsageError(f'{url}: URLs need fsspec: pip install "aez[remote]"') from None
    try:
        return fsspec.core.url_to_fs(url)  # type: ignore[no-any-return]
    except (ImportError, ValueError) as error:
        # the protocol's package is missing; no such protocol
        raise UsageError(f"{url}: {error}") from None


def is_private(url: str) -> bool:
    """Whether only this process can see the file: no worker can read from `memory://`."""
    return url.startswith("memory://")


def open_file(url: str) -> BinaryIO:
    """Open for reading, seekable."""
    files, path = _file_system(url)
    return cast(BinaryIO, files.open(path, "rb"))


def size(url: str) -> int:
    """Size in bytes."""
    files, path = _file_system(url)
    return int(files.size(path))


def identity(url: str) -> str:
    """A text that changes when the file does: size, and what the store has of ETag or time."""
    files, path = _file_system(url)
    entry = files.info(path)
    keys = ("size", "ETag", "etag", "mtime", "LastModified", "updated", "created")
    return " ".join(str(entry.get(key)) for key in keys)


def exists(url: str) -> bool:
    """Whether there is a file or a directory."""
    files, path = _file_system(url)
    return bool(files.exists(path))


def is_directory(url: str) -> bool:
    """Whether it has files below it."""
    files, path = _file_system(url)
    return bool(files.isdir(path))


def find(url: str) -> list[str]:
    """Names of all files below, relative, with `/`, in no particular order."""
    files, path = _file_system(url)
    root = path.rstrip("/") + "/"
    return [str(found)[len(root) :] for found in files.find(path)]


def read_many(urls: Sequence[str]) -> list[bytes | Exception]:
    """The bytes of files, or why there are none; fetched together if the store can do that."""
    if not urls:
        return []
    files, _ = _file_system(urls[0])
    paths = [files._strip_protocol(url) for url in urls]
    found = files.cat(paths, on_error="return")
    results: list[bytes | Exception] = []
    for path in paths:
        got = found.get(path, FileNotFoundError(2, os.strerror(2), path))
        results.append(got if isinstance(got, bytes | OSError) else OSError(str(got)))
    return results


def put(local: Path, url: str) -> None:
    """Upload a file; it appears under its name when it is whole."""
    files, path = _file_system(url)
    temporary = f"{parent(path)}/.{secrets.token_hex(8)}.tmp"
    try:
        files.put_file(str(local), temporary)
        files.mv(temporary, path)
    except BaseException:
        if files.exists(temporary):
            files.rm_file(temporary)
        raise


def write(url: str, content: bytes) -> None:
    """Write one small file, which every store does at once."""
    files, path = _file_system(url)
    files.pipe_file(path, content)
