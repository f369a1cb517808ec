"""Random reads from whatever holds a stream: a path, a URL, bytes, or an open file."""

from __future__ import annotations

import errno
import io
import os
import threading
from pathlib import Path
from typing import Any, BinaryIO, cast

from codec.errors import UsageError
from codec.files import urls

Source = str | Path | bytes | bytearray | memoryview | BinaryIO


class ByteSource:
    """Random reads by any number of threads.

    A path is opened on first use, and again in a forked child, and read by `pread`, so that readers
    do not share a position; it can be pickled. All other sources are read under a lock. `close`
    closes what was opened here; a file that the caller opened stays open. Raises OSError;
    UsageError for an empty name; TypeError for what is none of these.
    """

    size: int  # bytes

    def __init__(self, source: Source) -> None:
        self._path: Path | None = None
        self._file: BinaryIO | None = None
        self._is_ours = urls.is_url(source)
        if self._is_ours:
            self._file = urls.open_file(cast(str, source))
        elif isinstance(source, str | Path):
            if source == "":
                raise UsageError("the name of the stream is empty")
            self._path = Path(source)
            if self._path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "is a directory, not a stream", str(source))
            self.size = self._path.stat().st_size
        elif hasattr(source, "seek") and not isinstance(source, io.TextIOBase):
            self._file = cast(BinaryIO, source)
        else:
            try:
                self._file = io.BytesIO(memoryview(cast(bytes, source)))
            except TypeError:
                wanted = "bytes, a path, a URL or an open binary file"
                raise TypeError(f"a stream is {wanted}, not {type(source).__name__}") from None
        if self._file is not None:
            self.size = self._file.seek(0, os.SEEK_END)
        self._begin()

    def _begin(self) -> None:
        self._descriptors: dict[int, int] = {}  # by process
        self._lock = threading.Lock()  # of the position of a file

    def read(self, offset: int, size: int) -> bytes:
        """The `size` bytes at `offset`, fewer only at the end."""
        if self._file is not None:
            with self._lock:
                self._file.seek(offset)
                return self._file.read(size)
        descriptor = self._descriptor()
        chunks = []
        while size > 0 and (chunk := self._pread(descriptor, size, offset)):
            chunks.append(chunk)
            offset, size = offset + len(chunk), size - len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _pread(self, descriptor: int, size: int, offset: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(descriptor, size, offset)
        with self._lock:  # Windows
            os.lseek(descriptor, offset, os.SEEK_SET)
            return os.read(descriptor, size)

    def _descriptor(self) -> int:
        process = os.getpid()
        if process not in self._descriptors:
            assert self._path is not None
            opened = os.open(self._path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            # another thread was first (setdefault is atomic)
            if self._descriptors.setdefault(process, opened) != opened:
                os.close(opened)
        return self._descriptors[process]

    def close(self) -> None:
        """Close what was opened here.  A path opens again when it is read again."""
        descriptor = self._descriptors.pop(os.getpid(), None)
        if descriptor is not None:
            os.close(descriptor)
        if self._is_ours and self._file is not None:
            self._file.close()

    def __getstate__(self) -> dict[str, object]:
        if self._path is None:
            raise TypeError("only a collection opened from a path can be pickled")
        return {"path": self._path, "size": self.size}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._path, self.size = state["path"], state["size"]
        self._file, self._is_ours = None, False
        self._begin()
