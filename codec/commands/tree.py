"""Restoring a collection as a directory tree of PNG files.

READ ME FIRST
- Names in a stream are untrusted: `names.safe_parts`, and here the check for links, keep them below
  the root.
- Worker processes decode and write the blocks. A journal in the root lists the finished ones, so
  that the same command resumes a tree that was cut short (`resume.Journal`).
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from codec.commands.events import Done, Event, Events, Existing, Note, Progress
from codec.commands.processes import spread
from codec.commands.resume import Journal, finished, noting
from codec.commands.stream import Restoration, Stream, WriteTask, write_block
from codec.errors import AezError, UsageError
from codec.files import names
from codec.files.atomic import OutputExists, debris
from codec.files.place import Place, below, place


class _Folder:
    """A local directory as the root of a tree: no link in it may lead out of it."""

    def __init__(self, root: Path) -> None:
        self.root, self._real = root, os.path.realpath(root)
        self._folds_case = names.folds_case(root)
        self._checked: set[str] = set()
        self._debris: dict[str, list[str]] = {}
        self.resumed = False  # a run that is resumed may have left temporary files

    def key(self, path: str) -> str:
        """Paths of one file have one key."""
        return names.folded(path) if self._folds_case else path

    def admit(self, path: str, force: bool) -> None:
        """Raise UsageError if a file must not be written; remove what a killed run left of it."""
        folder, _, name = path.rpartition("/")
        if folder not in self._checked:
            real = os.path.realpath(folder)
            if os.path.commonpath([real, self._real]) != self._real:
                raise UsageError(f"{folder} is a link that leads out of {self.root}")
            self._checked.add(folder)
            if self.resumed:
                self._debris |= debris(folder)
        for left in self._debris.pop(f"{folder}/{name[:40]}", ()):
            os.unlink(left)


class _Remote:
    """A URL as the root of a tree."""

    resumed = False

    def key(self, path: str) -> str:
        return path

    def admit(self, path: str, force: bool) -> None:
        if not force and place(path).exists():
            raise OutputExists(path)


class _UnderWay(NamedTuple):
    """A block that is being restored, and the labels of its images in messages."""

    number: int
    names: Sequence[str]
    labels: list[str]


class Tree:
    """Where the images of one stream go.

    given: OUT is this directory, so it can exist; pins: see `Journal`, None if the next run cannot
    resume.
    """

    def __init__(
        self,
        root: Place,
        stream: Stream,
        *,
        given: bool,
        force: bool,
        pins: dict[str, object] | None,
    ) -> None:
        self._root, self._stream, self._force = root, stream, force
        self._digits = len(str(max(stream.num_images - 1, 0)))  # of the name of one without a name
        self._journal: tuple[Path, dict[str, object], Path] | None = None
        self._folder: _Folder | _Remote = _Remote()
        # By hash, as a million paths take 200 MB: two paths collide by chance in one of 10**8 such
        # collections.
        self._taken: dict[int, int] = {}
        self._waiting: deque[Event] = deque()  # events that came up while tasks were made
        if (path := root.path) is not None:
            if path.exists() and not path.is_dir():
                raise UsageError(f"output directory {path} is a file")
            journal = path / f".{place(stream.label).name[:40]}.restored"
            if pins is not None:
                self._journal = (journal, pins, path)
            begun = pins is not None and Journal.begun(journal, pins)
            if not (force or given or begun) and path.is_dir() and _holds_more_than(path, journal):
                raise UsageError(
                    f"output directory {path} exists and is not empty: give -o DIR, or -f to "
                    "overwrite its files"
                )
            self._folder = _Folder(path)

    def write(self, blocks: Iterable[Restoration], jobs: int, num_tasks: int = 1) -> Events:
        """Decode blocks, write their images, and report the damaged ones."""
        return self._run(blocks, jobs, num_tasks, picked=False)

    def write_picked(self, blocks: Iterable[Restoration], jobs: int) -> Events:
        """Write images that are decoded; the damaged ones have been reported."""
        return self._run(blocks, jobs, 1, picked=True)

    def _run(
        self, blocks: Iterable[Restoration], jobs: int, num_tasks: int, *, picked: bool
    ) -> Events:
        self._num_images = self._num_bytes = self._num_paths = 0
        self._existing = Existing()
        if self._journal is None:
            yield from self._write(None, blocks, jobs, num_tasks, picked)
        else:
            with Journal(*self._journal, self._stream.mode) as journal:
                yield from noting(
                    self._write(journal, blocks, jobs, num_tasks, picked),
                    lambda error: (
                        f"{self._root}: {finished(len(journal.entries))}"
                        if journal.is_kept(error)
                        else None
                    ),
                )
        if self._num_images:
            yield Done(
                self._stream.label,
                f"{self._root}/",
                self._num_images,
                self._stream.num_bytes,
                self._num_bytes,
            )

    def _write(
        self,
        journal: Journal | None,
        blocks: Iterable[Restoration],
        jobs: int,
        num_tasks: int,
        picked: bool,
    ) -> Events:
        under_way: deque[_UnderWay] = deque()
        there = _finished(journal)
        self._folder.resumed = again = journal is not None and journal.is_resumed
        if there:
            yield Note(f"{self._root}: resuming, {finished(len(there))}")
        tasks = self._tasks(blocks, there, under_way, again)
        with closing(spread(write_block, tasks, jobs, num_tasks)) as results:
            for verdict, written in results:
                number, called, labels = under_way.popleft()
                yield from self._waited()
                sizes = [result for result in written if isinstance(result, int)]
                if not picked:
                    yield from self._stream.failures(verdict, number, called)
                    yield Progress(len(verdict.images), sum(sizes))
                for label, result in zip(labels, written, strict=True):
                    if isinstance(result, Exception):
                        yield from self._existing.take(label, result)
                self._num_images += len(sizes)
                self._num_bytes += sum(sizes)
                if journal is not None and verdict.fault is None and len(sizes) == len(written) > 0:
                    journal.add({"block": number, "bytes": sum(sizes)})
        yield from self._waited()
        yield from self._existing.told(self._num_paths)

    def _waited(self) -> Iterator[Event]:
        while self._waiting:
            yield self._waiting.popleft()

    def _tasks(
        self,
        blocks: Iterable[Restoration],
        there: dict[int, int],
        under_way: deque[_UnderWay],
        again: bool,
    ) -> Iterator[WriteTask]:
        for number, block in enumerate(blocks):
            numbers = block.block.images.tolist()
            called = block.names or [f"{image:0{self._digits}}" for image in numbers]
            if block.folders:
                called = [f"{folder}/{n}" for folder, n in zip(block.folders, called, strict=True)]
            labels = [f"{self._stream.label}: {name}" for name in called]
            paths = [self._path_of(*image) for image in zip(called, numbers, labels, strict=True)]
            self._num_paths += len(paths)
            if number in there and there[number] == _bytes_of(paths):
                self._num_images += len(paths)
                self._num_bytes += there[number]
                self._waiting.append(Progress(len(paths), there[number]))
                continue
            under_way.append(_UnderWay(number, block.names, labels))
            yield WriteTask(block.block, paths, self._force, again, self._root, self._stream.mode)

    def _path_of(self, name: str, number: int, label: str) -> str | None:
        """The path of an image; None: it cannot be written, as is reported, or it was written."""
        try:
            names.safe_parts(name)
            path = below(str(self._root), names.restored(name))
            key = hash(self._folder.key(path))
            other = self._taken.get(key)
            if other == number:  # --index named it twice
                return None
            if other is not None:
                raise UsageError(f"{path} is also the output of image {other}")
            self._taken[key] = number
            self._folder.admit(path, self._force)
            return path
        except (AezError, OSError) as error:
            self._waiting += self._existing.take(label, error)
            return None


def _holds_more_than(folder: Path, journal: Path) -> bool:
    """Whether there is anything except the journal."""
    return any(path != journal for path in folder.iterdir())


def _finished(journal: Journal | None) -> dict[int, int]:
    """Number of each finished block -> bytes of its files."""
    found: dict[int, int] = {}
    with contextlib.suppress(ValueError, KeyError, TypeError):  # earlier entries are good
        for entry in journal.entries if journal is not None else ():
            found[int(entry["block"])] = int(entry["bytes"])
    return found


def _bytes_of(paths: Sequence[str | None]) -> int | None:
    """Bytes of files together, None unless all are there."""
    try:
        if None in paths:
            return None
        return sum(os.stat(path).st_size for path in paths if path is not None)
    except OSError:
        return None
