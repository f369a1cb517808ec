"""Restoring a stream: a single image or a collection, from a file, URL or stdin.

READ ME FIRST
- Intact images are decoded; damaged ones are reported, by number, and by name if it is known.
- Worker processes decode the blocks, and open the file themselves, if there are enough blocks. From
  stdin and URLs this process decodes them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import repeat
from typing import NamedTuple, TypeVar

import numpy as np

from codec.arrays import I64, U8
from codec.collection import open as opening
from codec.collection.block import Block, Decoded, Verdict, all_lost
from codec.collection.reader import Collection
from codec.collection.single import SingleImage
from codec.commands.events import Failed, Progress
from codec.commands.inputs import Input
from codec.commands.processes import spread
from codec.errors import AezError, BitstreamError, UsageError, counted
from codec.files import images, names
from codec.files.atomic import make_folder
from codec.files.place import Place, place
from codec.labels import Labels, joined, one_by_one, picked

V = TypeVar("V", bound=Verdict)

Found = Decoded | Failed | Progress  # what decoding yields
MAX_NAMED = 3  # lost images of a block that are reported by name; all are reported by number


def decode_block(block: Block) -> Decoded:
    """Decode a block as far as it is intact.  Raises ModelNotFound, BadModel."""
    return block.salvage()


def check_block(block: Block) -> Verdict:
    """As `decode_block`, without the pixels."""
    return block.salvage().verdict


class WriteTask(NamedTuple):
    """Images to write as PNG files; the block is decoded or not.

    paths: of each image, None: do not write it. again: an earlier run of the same command was cut
    short, so a file that has the right bytes counts as written. root: of all paths; mode: see
    `Stream`.
    """

    block: Block | Decoded
    paths: Sequence[str | None]
    force: bool
    again: bool
    root: Place
    mode: int | None


class Written(NamedTuple):
    """verdict: without names; written: for each image the size of its file in bytes, or why it was
    not written, or None.
    """

    verdict: Verdict
    written: list[int | Exception | None]


def write_block(task: WriteTask) -> Written:
    """Decode the block, if needed, and write images.  Raises ModelNotFound, BadModel."""
    decoded = decode_block(task.block) if isinstance(task.block, Block) else task.block
    written: list[int | Exception | None] = [None] * len(decoded.images)
    for i, path in enumerate(task.paths):
        if path is not None and not decoded.lost[i]:
            written[i] = _write_png(path, decoded.pixels[i], task)
    return Written(replace(decoded.verdict, names=[]), written)


def _write_png(path: str, pixels: U8, task: WriteTask) -> int | Exception:
    packed, output = images.pack_png(pixels), place(path)
    try:
        if output.path is not None and not os.path.isdir(output.path.parent):
            output.check_free(task.force)
            make_folder(output.path.parent, task.mode, task.root.path)
        if not (task.again and output.holds(packed)):
            output.write(packed, force=task.force, mode=task.mode)
    except (AezError, OSError) as error:
        return error
    return len(packed)


class Restoration(NamedTuple):
    """A block to restore, decoded or not, the names of its images, empty if they have none, and the
    folders that they go to, empty if they go to none.
    """

    block: Block | Decoded
    names: Sequence[str]
    folders: Sequence[str] = ()


LABELLESS = "labelless"  # the folder of images whose labels are damaged


def folders_of(labels: Labels | None, count: int) -> list[str]:
    """The folder of each image by its label."""
    return [LABELLESS] * count if labels is None else list(map(str, one_by_one(labels)))


class Stream:
    """An open stream: a `collection` or a `single` image; the other is None.  label: in messages;
    mode: who may read it, see `Place.mode`.
    """

    def __init__(self, source: Input, opened: Collection | SingleImage) -> None:
        self.label, self.num_bytes, self._opened = source.label, opened.num_bytes, opened
        self.mode = source.place.mode()
        self._is_shared = source.place.path is not None  # workers can open it
        self.collection = opened if isinstance(opened, Collection) else None
        self.single = opened if isinstance(opened, SingleImage) else None

    @property
    def num_images(self) -> int:
        """Images in it, those of damaged blocks included."""
        return 1 if self.collection is None else sum(block.count for block in self.blocks())

    @property
    def has_names(self) -> bool:
        """Whether images have names, by the first block with an intact header."""
        for block in self.blocks():
            with contextlib.suppress(BitstreamError):
                return block.header.has_names
        return False

    @property
    def has_labels(self) -> bool:
        """Whether images of any block with an intact header have labels."""
        for block in self.blocks():
            with contextlib.suppress(BitstreamError):
                if block.header.has_labels:
                    return True
        return False

    @property
    def texts(self) -> list[str]:
        """What images have beside pixels: "names", "labels"."""
        return ["names"] * self.has_names + ["labels"] * self.has_labels

    def check_folders(self, root: Place) -> None:
        """Raise UsageError unless each label can be a folder below `root`."""
        if not self.has_labels:
            raise UsageError("--format folders needs labels, and the images have none")
        labels: set[str] = set()
        for block in self.blocks():
            with contextlib.suppress(BitstreamError):
                labels.update(folders_of(block.labels(), 0) if block.header.has_labels else ())
        for label in sorted(labels):
            try:
                safe = len(names.safe_parts(f"{label}/x")) == 2
            except UsageError:
                safe = False
            if not safe:
                raise UsageError(
                    f"label {label!r} cannot be the name of a folder: --format npz or csv restores "
                    "it"
                )
        if root.path is not None and len(set(map(names.folded, labels))) < len(labels):
            if names.folds_case(root.path):
                raise UsageError(
                    "two labels differ only in case, and would be one folder here: --format npz or "
                    "csv restores them"
                )

    def check_index(self, index: Sequence[range] | None) -> None:
        """Raise UsageError if one of these images is not there."""
        for part in index or ():
            if part[-1] >= (number := self.num_images):
                there = "is" if number == 1 else "are"
                has = f"{counted(number, 'image')}, the first is 0" if number else "no images"
                raise UsageError(f"--index {part[-1]} is out of range: there {there} {has}")

    def num_tasks(self, jobs: int) -> int:
        """How many blocks worker processes can decode; 1 if they cannot open the stream."""
        return sum(1 for _ in self.blocks()) if self._is_shared and jobs > 1 else 1

    def blocks(self) -> Iterator[Block]:
        """The blocks of a collection, those that can be found if its footer is damaged."""
        return iter(()) if self.collection is None else self.collection.intact_blocks()

    def faults(self) -> Iterator[Decoded]:
        """What is wrong with header or footer, as a `Decoded` without images."""
        if self.collection is not None and self.collection.fault is not None:
            yield all_lost(np.empty(0, np.int64), self.collection.fault)

    def _by(self, work: Callable[[Block], V], jobs: int) -> Iterator[V]:
        with closing(spread(work, self.blocks(), jobs, self.num_tasks(jobs))) as results:
            yield from results

    def decoded(self, jobs: int = 1) -> Iterator[Decoded]:
        """All blocks, as far as they are intact; a last `Decoded`, without images, has the fault of
        header or footer.  Raises ModelNotFound, BadModel.
        """
        if self.collection is None:
            yield from self._opened.salvage()
            return
        yield from self._by(decode_block, jobs)
        yield from self.faults()

    def verdicts(self, jobs: int = 1) -> Iterator[Verdict]:
        """As `decoded`, without pixels."""
        if self.collection is None:
            yield from self._opened.salvage()
            return
        yield from self._by(check_block, jobs)
        yield from self.faults()

    def restorations(self, in_folders: bool = False) -> Iterator[Restoration]:
        """The blocks of a collection, to decode and write.  in_folders: a folder a label."""
        for block in self.blocks():
            folders: Sequence[str] = ()
            if in_folders:
                labels = None
                with contextlib.suppress(BitstreamError):
                    labels = block.labels()
                folders = folders_of(labels, block.count)
            yield Restoration(block, block.names_or_numbers(), folders)
        yield from (Restoration(fault, ()) for fault in self.faults())

    def _sizes(self) -> Iterator[int]:
        """Bytes of each block, then zeros; also if they are not known without a search."""
        if self.collection is None:
            yield self.num_bytes
        elif self.collection.fault is None:
            yield from (block.size for block in self.blocks())
        yield from repeat(0)

    def intact(
        self, blocks: Iterable[V], wanted: I64 | None = None
    ) -> Iterator[V | Failed | Progress]:
        """The intact (and wanted) images of decoded blocks or verdicts; the rest is reported."""
        if wanted is not None and not wanted.size:
            return
        sizes = self._sizes()
        try:
            for number, block in enumerate(blocks):
                picked = block if wanted is None else block.pick(np.isin(block.images, wanted))
                if not block.lost.any() or picked.lost.any():  # the fault is not in other images
                    yield from self.failures(picked, number)
                found = picked.pick(~picked.lost)
                if found.images.size:
                    yield found
                yield Progress(len(block.images), next(sizes))
                if wanted is not None and block.images.size and block.images[-1] >= wanted.max():
                    return
        except BrokenPipeError:
            raise
        except (AezError, OSError) as error:
            yield Failed.by(self.label, error)

    def labelled(self, found: Iterable[Found]) -> Iterator[Found]:
        """Only images that have labels; others are reported."""
        for item in found:
            if isinstance(item, Decoded) and item.labels is None:
                yield self._left_out(item.images.tolist())
            else:
                yield item

    def _left_out(self, numbers: list[int]) -> Failed:
        said = f"images {names.ranges(numbers)} have no labels that can be read, and are left out"
        return Failed(self.label, f"{said}; --format npy or png restores them")

    def pick(self, numbers: list[int], *, named: bool, labelled: bool = False) -> Iterator[Found]:
        """Images of a collection in the order of `numbers`, which can repeat."""
        assert self.collection is not None
        wanted = np.array(numbers, np.int64)
        try:
            pixels = self.collection[numbers]  # reads only the groups of these images
            called = self.collection.names_at(numbers) if named else []
            labels = self.collection.labels_at(numbers) if labelled else None
        except BitstreamError:  # block by block, to find what is lost
            found: dict[int, Decoded] = {}
            for item in self.intact(self.decoded(), wanted):
                if not isinstance(item, Decoded):
                    yield item
                    continue
                found |= {number: item for number in item.images.tolist()}
            there = [(number, found[number]) for number in numbers if number in found]
            bare = [number for number, block in there if labelled and block.labels is None]
            if bare:
                yield self._left_out(bare)
            there = [(number, block) for number, block in there if number not in bare]
            if not there:
                return
            at = [int(block.images.searchsorted(number)) for number, block in there]
            wanted = np.array([number for number, _ in there], np.int64)
            pixels = np.stack([block.pixels[i] for i, (_, block) in zip(at, there, strict=True)])
            called = [
                block.names[i] for i, (_, block) in zip(at, there, strict=True) if block.names
            ]
            labels = None
            if labelled:
                labels = joined(
                    [
                        picked(block.labels, [i])
                        for i, (_, block) in zip(at, there, strict=True)
                        if block.labels is not None
                    ]
                )
        lost = np.zeros(len(wanted), np.bool_)
        called = called if any(called) else []
        yield Decoded(images=wanted, lost=lost, names=called, labels=labels, pixels=pixels)

    def failures(
        self, verdict: Verdict, number: int, called: Sequence[str] = ()
    ) -> Iterator[Failed]:
        """What is wrong with a block: one failure, or none.  called: the names of its images, if
        the verdict has none.
        """
        if verdict.fault is None:
            return
        lost, known, where = np.flatnonzero(verdict.lost).tolist(), verdict.names or called, ""
        if self.collection is not None and verdict.images.size:
            where = f"block {number}"
            if lost:
                plural = "s" if len(lost) > 1 else ""
                where += f", image{plural} {names.ranges(verdict.images[lost].tolist())}"
            if lost and known:
                some = ", ".join(known[i] for i in lost[:MAX_NAMED])
                where += f" ({some}{', ...' * (len(lost) > MAX_NAMED)})"
            where += ": "
        yield Failed.by(self.label, BitstreamError(f"{where}{verdict.fault}"))


@contextlib.contextmanager
def open_stream(source: Input, model: str | None = None) -> Iterator[Stream]:
    """Open a stream, even if it is damaged.  model: name or file of one that is not installed.

    Raises BitstreamError if its start is unusable, ModelNotFound, BadModel, OSError.
    """
    with ExitStack() as stack:
        file = source.place.path or stack.enter_context(source.place.open())
        opened = opening.open_stream(file, model=model, recover=True)
        stack.callback(opened.close)
        yield Stream(source, opened)
