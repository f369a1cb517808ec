"""Resuming collections and trees that an earlier run of the same command has not finished.

READ ME FIRST
- A `Journal` is a file of JSON lines. The first one pins everything that the output depends on
  (inputs, options, models, version); each other line is a finished part of the work. Another
  command, or a changed input, starts over.
- A run locks its journal. A run that ends, or fails for good (a bad input), removes it; a run that
  was interrupted, killed, or met a full disk leaves it.
- `Partial` is a collection being written: `.NAME.aez.partial` is the collection so far, with
  `.NAME.aez.journal` beside it. A block counts as finished when its line is in the journal *and*
  its Checksum holds in the partial file. So it does not matter in which order the disk got the two,
  or when the run was killed.
- A tree that is being restored holds a `.NAME.aez.restored`, a journal as well (`tree`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

from codec.collection.block import Block
from codec.collection.writer import Writer
from codec.commands.events import Event, Note
from codec.errors import BitstreamError, ImageError, ModelError, UsageError, counted
from codec.files.atomic import make_folder, open_log, open_output, temporary_file
from codec.files.place import Place
from codec.format.block import unpack_block
from codec.format.constants import CHECKSUM_BYTES
from codec.format.headers import BLOCK, pack_collection_header

_FOR_GOOD = (ImageError, ModelError, UsageError)  # the same command would fail again
T = TypeVar("T")
Entry = dict[str, Any]  # of JSON values


def noting(
    events: Generator[Event, None, T], kept: Callable[[BaseException], str | None]
) -> Generator[Event, None, T]:
    """The events of a run; if it is cut short, a note that says what the next run resumes.

    kept: describes what is kept; None: nothing.
    """
    try:
        return (yield from events)
    except GeneratorExit:
        raise  # the caller wants no more events
    except BaseException as error:
        if what := kept(error):
            yield Note(f"{what}; run the same command again to resume")
        raise


def finished(number: int, total: int | None = None) -> str:
    """How far a run has come, for its notes; total: of blocks, if it is known."""
    if not number:
        return "no block is finished yet"
    if total is None:
        return f"{counted(number, 'block')} {'is' if number == 1 else 'are'} finished"
    return f"{number} of {counted(total, 'block')} {'is' if number == 1 else 'are'} finished"


class Journal:
    """The finished parts of an output, as a file.  A context manager.

    pins: JSON values on which the output depends; output: its path, for messages; mode: of the file
    that is read, see `make_folder`. entries: what
    earlier runs of the same command have finished, in order; is_resumed: whether there was one.
    """

    def __init__(
        self, path: Path, pins: dict[str, Any], output: Path, mode: int | None = None
    ) -> None:
        self.path = path
        self._made_folder = not path.parent.exists()
        make_folder(path.parent, mode, path.parent)
        # unbuffered: a line is written at once, or cut off
        self._file = open_log(path, output, _no_link)
        try:
            _lock(self._file, path, output)
            self._read(_first_line(pins))
        except BaseException:
            self._file.close()
            raise

    def _read(self, first: bytes) -> None:
        self._file.seek(0)
        lines = self._file.read().splitlines(keepends=True)
        self.is_resumed = lines[:1] == [first]
        self.entries: list[Entry] = []
        self._ends = [len(first)]  # of the first line, and of each entry
        if self.is_resumed:
            with contextlib.suppress(ValueError):  # damaged from here on; earlier lines are good
                for line in lines[1:]:
                    entry = json.loads(line)
                    if not (isinstance(entry, dict) and line.endswith(b"\n")):
                        break
                    self.entries.append(entry)
                    self._ends.append(self._ends[-1] + len(line))
        else:
            self._file.truncate(0)
            self._file.write(first)
        self.keep(len(self.entries))

    @staticmethod
    def begun(path: Path, pins: dict[str, Any]) -> bool:
        """Whether an earlier run of the same command was cut short here."""
        try:
            with open(path, "rb") as file:
                return file.readline() == _first_line(pins)
        except OSError:
            return False

    def keep(self, number: int) -> None:
        """Keep the first `number` entries, and remove the others."""
        del self.entries[number:], self._ends[number + 1 :]
        self._file.truncate(self._ends[number])

    def add(self, entry: Entry) -> None:
        """Add a finished part: JSON values, which the next run finds in `entries`."""
        line = json.dumps(entry).encode() + b"\n"
        self._file.write(line)
        self.entries.append(entry)
        self._ends.append(self._ends[-1] + len(line))

    def remove(self) -> None:
        """Remove the file, and the directory if it was made for it and is empty."""
        self.path.unlink(missing_ok=True)
        if self._made_folder:
            with contextlib.suppress(OSError):  # unless something is in it
                self.path.parent.rmdir()

    def close(self) -> None:
        self._file.close()

    def is_kept(self, error: BaseException) -> bool:
        """Whether the journal stays when `error` ends the run."""
        return not isinstance(error, _FOR_GOOD)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if value is None or not self.is_kept(value):
            self.remove()  # while it is locked
        self.close()


def _checks(blocks: Sequence[Block]) -> list[str]:
    return [block.header.checksum.hex() for block in blocks]


def _first_line(pins: dict[str, Any]) -> bytes:
    text = json.dumps(pins, sort_keys=True).encode()
    digest = hashlib.blake2b(text, digest_size=16).hexdigest()
    return json.dumps({"pins": digest}).encode() + b"\n"


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _lock(file: BinaryIO, path: Path, output: Path) -> None:
    """Lock a file as long as it is open; the system frees it if this process is killed.

    Raises UsageError if another process holds it.
    """
    try:
        try:
            import fcntl
        except ImportError:  # Windows
            import msvcrt

            file.seek(1 << 30)  # a locked byte cannot be read: take one after all others
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
            return
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        # if the path is another file by now, the other run has just ended
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return
    except OSError:
        pass
    raise UsageError(f"another run of aez is writing {output}")


class Partial:
    """A collection being written: blocks, then `finish`.  A context manager.

    pins: see `Journal`. models: files to embed. lasting: whether the same command can be repeated,
    so that finished blocks are worth keeping. mode: of the file, see `Place.replace`. base: blocks
    that come first, copied from another collection, which may be the one that is replaced.
    finished: the entries of the blocks that earlier runs of the same command have made, in order;
    call `keep` before writing.
    """

    def __init__(
        self,
        output: Place,
        pins: dict[str, Any],
        *,
        force: bool,
        models: list[bytes] | None = None,
        lasting: bool = True,
        mode: int | None = None,
        base: Sequence[Block] = (),
    ) -> None:
        self.output, self._force, self._models, self._lasting = output, force, models, lasting
        self._base = base
        self._header = pack_collection_header(models or ())
        self._writer: Writer | None = None
        self._journal: Journal | None = None
        self._path: Path | None = None
        self.finished: list[Entry] = []
        self._copied: list[Entry] = []  # of the base
        output.check_free(force)
        spool = output.spool()
        if spool is None:
            self._file = temporary_file()
            return
        self._path, journal_path = (
            spool.with_name(f".{spool.name}.{kind}") for kind in ("partial", "journal")
        )
        self._journal = Journal(journal_path, pins, spool)
        try:
            shown = self._path if output.path is None else output
            kind = "r+" if self._path.exists() else "x+"
            self._file = open_output(self._path, kind, shown, mode)
            self.finished = self._intact(self._journal.entries)
        except BaseException:
            self._journal.close()
            raise

    def _intact(self, entries: list[Entry]) -> list[Entry]:
        """The entries whose blocks are in the partial file, up to the first that is not."""
        intact: list[Entry] = []
        if self._file.read(len(self._header)) != self._header:
            return intact
        with contextlib.suppress(ValueError, KeyError, TypeError, BitstreamError):
            for entry in entries:
                if size := entry["bytes"]:
                    if unpack_block(self._file.read(size)).image_count != entry["images"]:
                        break
                intact.append(entry)
        # those of the base come first, if it is still the same
        checks = _checks(self._base)
        is_same = [entry["check"] for entry in intact if entry.get("base")] == checks
        self._copied = intact[: len(checks)] if is_same else []
        return intact[len(checks) :] if is_same else []

    def was_moved(self, num_blocks: int) -> bool:
        """Whether an earlier run of the same command has finished, `num_blocks` and all, but could
        not say so any more: it had a base, and that is now the collection of both.
        """
        if self._journal is None or not self._base:
            return False
        entries = self._journal.entries
        own = [entry for entry in entries if not entry.get("base")]
        checks = [entry["check"] for entry in entries if entry["bytes"]]
        if len(own) != num_blocks or not any(entry["bytes"] for entry in own):
            return False
        if checks != _checks(self._base):
            return False
        self.finished = own
        self._file.close()
        if self._path is not None:
            self._path.unlink()
        self._path = None
        return True

    def keep(self, num_blocks: int) -> None:
        """Keep this many of the `finished` blocks, and continue after them."""
        self.finished = self.finished[:num_blocks]
        kept = self._copied + self.finished
        if self._journal is not None:
            self._journal.keep(len(kept))
        sizes = [(entry["bytes"], entry["images"]) for entry in kept if entry["bytes"]]
        end = len(self._header) + sum(size for size, _ in sizes) if sizes else 0
        self._file.truncate(end)
        self._file.seek(end)
        self._writer = Writer(self._file, self._models, sizes)
        for block in self._base[len(self._copied) :]:
            try:
                content = block.read()
            except BitstreamError as error:
                raise BitstreamError(f"{self.output}: {error}") from None
            self._write(content, {"images": block.count, "base": True})

    def write(self, block: bytes, entry: Entry) -> None:
        """Append a block, which can be empty, and its entry, in which "images" is their number."""
        self.finished.append(self._write(block, entry))

    def _write(self, block: bytes, entry: Entry) -> Entry:
        assert self._writer is not None, "keep comes first"
        entry = {**entry, "bytes": len(block)}
        if block:
            entry["check"] = block[BLOCK.size - CHECKSUM_BYTES : BLOCK.size].hex()
            self._writer.write(block, entry["images"])
        self._file.flush()
        if self._journal is not None:
            self._journal.add(entry)
        return entry

    def finish(self) -> int:
        """Write the footer and move the collection to its place; return its size in bytes.

        With a base the journal stays until all is done: only it can tell that this was.
        """
        assert self._writer is not None, "keep comes first"
        self._writer.finish()
        self.output.receive(self._file, self._path, force=self._force)
        self._path = None
        if not self._base:
            self._end()
        return self._writer.num_bytes

    def _end(self) -> None:
        if self._journal is not None:
            self._journal.remove()
            self._journal.close()
        self._journal = None

    def discard(self) -> None:
        """Remove all files."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        if self._journal is not None:
            self._journal.remove()

    def is_kept(self, error: BaseException) -> bool:
        """Whether finished blocks are kept when `error` ends the run."""
        return bool(self.finished) and self._lasting and not isinstance(error, _FOR_GOOD)

    def __enter__(self) -> Partial:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if value is None and self._path is None:
            self._end()
        elif value is not None and not self.is_kept(value):
            self.discard()
        with contextlib.suppress(OSError):  # a full disk
            self._file.close()
        if self._journal is not None:
            self._journal.close()
