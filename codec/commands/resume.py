"""Collections and trees that the next run goes on with.

READ ME FIRST
- `atomic` writes a temporary sibling and renames it. `Partial` does so for a collection, under
  names that the next run finds again: `.NAME.aez.partial` is the collection so far,
  `.NAME.aez.journal` says which command makes it and what was found in each finished block.
- The journal's first line pins everything that the bytes depend on (inputs, options, models,
  version). Another command, or a changed input, starts anew; it never goes on with what is there.
- A block counts as finished when its line is in the journal *and* its Checksum holds in the partial
  file; so it does not matter in which order the disk got the two, nor where a kill or a power cut
  struck.
- A tree that is being restored holds a `.NAME.aez.restored`, which lists the finished blocks in the
  same way (`Finished`).
- A run that fails for good (a bad input) or before its first block leaves nothing. One that was
  interrupted, killed, or met a full disk leaves both files, and holds a lock on them as long as it
  lives.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

from codec.collection.reader import Writer, unpack_block
from codec.errors import BitstreamError, ImageError, ModelError, UsageError
from codec.files import urls
from codec.files.atomic import Output, _sync, _sync_directory, refuse_existing
from codec.format import bitstream

_FOR_GOOD = (ImageError, ModelError, UsageError)  # what the same command would meet again
Entry = dict[str, Any]  # what the journal says of a block; "bytes" and "images" are its size


def _lock(file: BinaryIO, path: Path, output: Path) -> None:
    """Hold a lock on a file as long as it is open; the system gives it back if this process is
    killed.
    """
    try:
        import fcntl
    except ImportError:  # Windows, where nobody else can open what is being written
        return
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        # else the other run has just ended
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return
    except OSError:
        pass
    raise UsageError(f"another run of aez is writing {output}")


def _spool(output: Output) -> Path | None:
    """Where a collection lies until it is whole; of a URL a directory of this user, of stdout
    nowhere.
    """
    if output is None:
        return None
    if isinstance(output, str):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "aez")
        return cache / hashlib.sha256(output.encode()).hexdigest()[:32]
    if len(output.name.encode()) < 200:
        return output
    return output.with_name(hashlib.sha256(output.name.encode()).hexdigest()[:32])


class Partial:
    """A collection being written: blocks, then `finish`.  A context manager.

    pins: JSON values on which the bytes depend. finished: the journal's entries of the blocks that
    an earlier run of the same command has made, in order; `keep` says how many of them still hold,
    before anything is added. lasting: whether the same command can be given again, so that what is
    finished is worth keeping.
    """

    def __init__(
        self,
        output: Output,
        pins: dict[str, Any],
        *,
        force: bool,
        models: list[bytes] | None = None,
        lasting: bool = True,
    ) -> None:
        self._output, self._force, self._models, self._lasting = output, force, models, lasting
        self._pins = _digest(pins)
        self._header_bytes = len(bitstream.pack_collection_header(models or ()))
        self.finished: list[Entry] = []
        self._closed = False
        spool = _spool(output)
        if output is not None:
            refuse_existing(output, force)
        if spool is None:
            self._file = cast(BinaryIO, tempfile.TemporaryFile())
            self._journal: BinaryIO | None = None
            self._writer: Writer | None = None
            return
        spool.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._journal_path = (
            spool.with_name(f".{spool.name}.{kind}") for kind in ("partial", "journal")
        )
        self._journal = open(self._journal_path, "a+b", buffering=0)
        try:
            _lock(self._journal, self._journal_path, spool)
            self._path.touch()
            self._file = open(self._path, "r+b")
            self._line_ends: list[int] = []  # of the journal's first line and those of `finished`
            self.finished = self._read_journal()
        except BaseException:
            self._journal.close()
            raise
        self._writer = None

    def _read_journal(self) -> list[Entry]:
        """Entries of this very command whose blocks are in the partial file."""
        assert self._journal is not None
        self._journal.seek(0)
        lines = self._journal.read().split(b"\n")[:-1]  # what has no line end was cut off
        entries: list[Entry] = []
        try:
            if not lines or json.loads(lines[0]) != {"pins": self._pins}:
                return []
            self._line_ends.append(len(lines[0]) + 1)
            header = bitstream.pack_collection_header(self._models or ())
            if self._file.read(len(header)) != header:
                return []
            for line in lines[1:]:
                entry = json.loads(line)
                if (
                    entry["bytes"]
                    and unpack_block(self._file.read(entry["bytes"])).image_count != entry["images"]
                ):
                    break
                entries.append(entry)
                self._line_ends.append(self._line_ends[-1] + len(line) + 1)
        except (ValueError, KeyError, TypeError, BitstreamError):
            pass  # damaged from here on: what came before stands
        return entries

    def keep(self, num_blocks: int) -> None:
        """Go on after so many of the `finished` blocks, and forget the others."""
        self.finished = self.finished[:num_blocks]
        sizes = [(entry["bytes"], entry["images"]) for entry in self.finished if entry["bytes"]]
        end = self._header_bytes + sum(size for size, _ in sizes)
        if self._journal is not None:
            if self._line_ends:
                self._journal.truncate(self._line_ends[num_blocks])
            else:
                self._journal.truncate(0)
                self._journal.write(_line({"pins": self._pins}))
        self._file.truncate(end if sizes else 0)
        self._file.seek(end if sizes else 0)
        self._writer = Writer(self._file, self._models, sizes)

    def write(self, block: bytes, entry: Entry) -> None:
        """Append a block, which may be empty, and its entry: JSON values, to be found in `finished`
        by the next run.
        """
        assert self._writer is not None, "keep comes first"
        entry = {**entry, "bytes": len(block)}
        if block:
            self._writer.write(block, entry["images"])
        self._file.flush()
        self.finished.append(entry)
        if self._journal is not None:
            self._journal.write(_line(entry))

    def finish(self) -> int:
        """Write the footer and let the collection appear; returns its size in bytes."""
        assert self._writer is not None, "keep comes first"
        self._writer.finish()
        if self._output is None:
            self._file.seek(0)
            shutil.copyfileobj(self._file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        else:
            _sync(self._file)
            self._file.close()
            refuse_existing(self._output, self._force)
            if isinstance(self._output, str):
                urls.put(self._path, self._output)
                self._path.unlink()
            else:
                os.replace(self._path, self._output)
                _sync_directory(self._output.parent)
            self._journal_path.unlink(missing_ok=True)
        self._closed = True
        return self._writer.num_bytes

    def discard(self) -> None:
        """Leave nothing."""
        if self._journal is not None and not self._closed:
            self._path.unlink(missing_ok=True)
            self._journal_path.unlink(missing_ok=True)
        self._closed = True

    def is_kept(self, error: BaseException) -> bool:
        """Whether what is finished stays when `error` ends the run."""
        return bool(self.finished) and self._lasting and not isinstance(error, _FOR_GOOD)

    def __enter__(self) -> Partial:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if value is not None and not self.is_kept(value):
            self.discard()
        with contextlib.suppress(OSError):  # what a full disk could not take
            self._file.close()
        if self._journal is not None:
            self._journal.close()


class Finished:
    """Which blocks of a tree have been restored: a file in the tree, removed when the run ends by
    itself.  A context manager.

    pins: JSON values on which the files depend. blocks: number of each block that an earlier run of
    the same command has finished -> bytes of its files; is_begun: whether there was one.
    """

    def __init__(self, path: Path, pins: dict[str, Any]) -> None:
        self._path, self._made = path, not path.parent.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a+b", buffering=0, opener=_no_link)
        try:
            _lock(self._file, path, path.parent)
        except BaseException:
            self._file.close()
            raise
        self._file.seek(0)
        lines, first = self._file.read().splitlines(keepends=True), _line({"pins": _digest(pins)})
        self.is_begun = lines[:1] == [first]
        lines = lines if self.is_begun else []
        self.blocks: dict[int, int] = {}
        # damaged: what came before stands
        with contextlib.suppress(ValueError, KeyError, TypeError):
            for entry in map(json.loads, lines[1:]):
                self.blocks[int(entry["block"])] = int(entry["bytes"])
        self._file.truncate(0)
        self._file.write(
            first
            + b"".join(
                _line({"block": block, "bytes": size}) for block, size in self.blocks.items()
            )
        )

    @staticmethod
    def begun(path: Path, pins: dict[str, Any]) -> bool:
        """Whether a run of this very command was cut short here."""
        try:
            with open(path, "rb") as file:
                return file.readline() == _line({"pins": _digest(pins)})
        except OSError:
            return False

    def add(self, block: int, num_bytes: int) -> None:
        """Note a block whose files are written."""
        self.blocks[block] = num_bytes
        self._file.write(_line({"block": block, "bytes": num_bytes}))

    def __enter__(self) -> Finished:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if value is None or isinstance(value, _FOR_GOOD):
            self._path.unlink(missing_ok=True)
            if self._made:
                with contextlib.suppress(OSError):  # unless something is in it
                    self._path.parent.rmdir()


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _digest(pins: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(pins, sort_keys=True).encode(), digest_size=16).hexdigest()


def _line(entry: Entry) -> bytes:
    return json.dumps(entry).encode() + b"\n"
