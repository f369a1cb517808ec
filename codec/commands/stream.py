"""A stream to be decoded: a single image or a collection, from a file, a URL or stdin.

READ ME FIRST
- What is intact is decoded, what is damaged is reported: by number, by name if it is known, and
  with the fault.
- Blocks are decoded by worker processes, which open the file for themselves, if there are blocks
  enough; from stdin and URLs by this process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import BinaryIO, NamedTuple

import numpy as np

from codec.arrays import U8, Bools
from codec.collection.block import Block, Decoded, Verdict, all_lost
from codec.collection.open import open_stream as open_source
from codec.collection.reader import Collection
from codec.commands.events import Failed, Progress
from codec.commands.inputs import Input
from codec.commands.processes import spread
from codec.errors import AezError, BitstreamError
from codec.files import images, names
from codec.files.atomic import size_of
from codec.files.place import place

MAX_NAMED = 3  # lost images of a block that are named; the numbers of all are given

# What reading a stream yields: images that are intact, without their pixels if those are not
# wanted; what is damaged; and how far it is.
Found = Verdict | Failed | Progress


def decode_block(block: Block) -> Decoded:
    """Decode a block as far as it is intact.  Raises ModelNotFound, BadModel."""
    return block.salvage()


def check_block(block: Block) -> Verdict:
    """As `decode_block`, without the pixels.  Raises ModelNotFound, BadModel."""
    return block.salvage().verdict


class WriteTask(NamedTuple):
    """Images to be written as PNG files, of a block that is decoded, or is to be.

    paths: of each image of the block, None for one that is not to be written. again: an earlier run
    of the same command was cut short, so a file that exists with the same bytes counts as
    written.
    """

    block: Block | Decoded
    paths: Sequence[str | None]
    force: bool
    again: bool = False


class Written(NamedTuple):
    """verdict: on the block, without names; written: size in bytes of each image's file, why it was
    not written, or None.
    """

    verdict: Verdict
    written: list[int | Exception | None]


def write_block(task: WriteTask) -> Written:
    """Decode what is not yet decoded, and write.  Raises ModelNotFound, BadModel."""
    block = task.block.salvage() if isinstance(task.block, Block) else task.block
    written: list[int | Exception | None] = [None] * len(block.images)
    for i in np.flatnonzero(~block.lost).tolist():
        if (path := task.paths[i]) is not None:
            written[i] = _write_png(path, block.pixels[i], task.force, task.again)
    return Written(Verdict(images=block.images, lost=block.lost, fault=block.fault), written)


def _write_png(path: str, pixels: U8, force: bool, again: bool) -> int | Exception:
    packed, output = images.pack_png(pixels), place(path)
    try:
        if not (again and output.holds(packed)):
            output.write(packed, force=force)
    except (AezError, OSError) as error:
        return error
    return len(packed)


class Restoration(NamedTuple):
    """A block to be restored, decoded already or not, and the names of its images, if they have
    any.
    """

    block: Block | Decoded
    names: Sequence[str]


class Stream:
    """An open stream.  collection: None if it is a single image; path: of a file that processes can
    open for themselves.
    """

    def __init__(self, source: Input, file: BinaryIO, model: str | None) -> None:
        self.label, self.path, self.num_bytes = source.label, source.place.path, size_of(file)
        self._opened = open_source(self.path or file, model=model, recover=True)
        self.collection = self._opened if isinstance(self._opened, Collection) else None

    def close(self) -> None:
        self._opened.close()

    @property
    def num_images(self) -> int:
        if self.collection is None:
            return 1
        return sum(block.count for block in self.collection.intact_blocks())

    @property
    def has_names(self) -> bool:
        """By the first block whose header is intact: one block is as the others."""
        if self.collection is not None:
            for block in self.collection.intact_blocks():
                with contextlib.suppress(BitstreamError):
                    return block.header.has_names
        return False

    def num_tasks(self, jobs: int) -> int:
        """Blocks that can be decoded elsewhere than in this process: all, or as good as none."""
        if jobs < 2 or self.path is None or self.collection is None:
            return 1
        return sum(1 for _ in self.collection.intact_blocks())

    def decoded(self, jobs: int = 1) -> Iterator[Decoded]:
        """All blocks, as far as they are intact; a last one of no images has the fault of the
        frame.

        Raises ModelNotFound, BadModel.
        """
        if self.collection is None:
            yield from self._opened.salvage()
            return
        blocks = self.collection.intact_blocks()
        with closing(spread(decode_block, blocks, jobs, self.num_tasks(jobs))) as results:
            yield from results
        yield from self._fault()

    def checked(self, jobs: int = 1) -> Iterator[Verdict]:
        """As `decoded`, without the pixels."""
        if self.collection is None:
            yield from (decoded.verdict for decoded in self._opened.salvage())
            return
        blocks = self.collection.intact_blocks()
        with closing(spread(check_block, blocks, jobs, self.num_tasks(jobs))) as results:
            yield from results
        yield from self._fault()

    def _fault(self) -> Iterator[Decoded]:
        if self.collection is not None and self.collection.fault is not None:
            yield all_lost(np.empty(0, np.int64), self.collection.fault)

    def restorations(self) -> Iterator[Restoration]:
        """The blocks of a collection, to be decoded and written in one go."""
        assert self.collection is not None
        for block in self.collection.intact_blocks():
            yield Restoration(block, block.names_or_numbers())
        yield from (Restoration(fault, ()) for fault in self._fault())

    def intact(
        self, blocks: Iterator[Verdict], wanted: Sequence[int] | None = None
    ) -> Iterator[Found]:
        """Of the blocks that `decoded` or `checked` gives, what is intact (and wanted); the rest is
        reported as damaged.
        """
        try:
            for number, block in enumerate(blocks):
                picked = (
                    np.ones(len(block.images), np.bool_)
                    if wanted is None
                    else np.isin(block.images, wanted)
                )
                yield from self.failures(block, number, block.names, picked)
                if (keep := picked & ~block.lost).any():
                    yield block.pick(keep)
                yield Progress(len(block.images))
                if wanted is not None and (block.images >= max(wanted)).any():
                    return
        except BrokenPipeError:
            raise
        except (AezError, OSError) as error:
            yield Failed.by(self.label, error)

    def pick(self, numbers: list[int], *, named: bool) -> Iterator[Found]:
        """Images of a collection in the order asked for, repeats included."""
        assert self.collection is not None
        try:
            pixels = self.collection[numbers]  # touches the groups wanted, no others
            found_names = self.collection.names_at(numbers) if named else []
            yield _picked(numbers, found_names if any(found_names) else [], pixels)
            return
        except BitstreamError:  # go block by block, which finds what is lost
            pass
        found: dict[int, tuple[str | None, U8]] = {}
        for item in self.intact(self.decoded(), numbers) if numbers else ():
            if not isinstance(item, Decoded):
                yield item
                continue
            for i, number in enumerate(item.images.tolist()):
                found[number] = item.names[i] if item.names else None, item.pixels[i]
        there = [number for number in numbers if number in found]
        if there:
            kept_names = [name for number in there if (name := found[number][0]) is not None]
            yield _picked(there, kept_names, np.stack([found[number][1] for number in there]))

    def failures(
        self, block: Verdict, number: int, names_: Sequence[str], picked: Bools | None = None
    ) -> Iterator[Failed]:
        """What is wrong with a block, among the images picked, bool (N,): one failure, or none."""
        lost = np.flatnonzero(block.lost if picked is None else block.lost & picked).tolist()
        # A fault may lie elsewhere than in the images: in names, index, footer. It counts unless
        # images not picked explain it.
        if not lost and (block.fault is None or block.lost.any()):
            return
        where = "" if self.collection is None or not len(block.images) else f"block {number}: "
        if where and lost:
            known = [names_[i] for i in lost[:MAX_NAMED]] if names_ else []
            called = f" ({', '.join(known)}{', ...' * (len(lost) > MAX_NAMED)})" if known else ""
            where = f"block {number}, images {names.ranges(block.images[lost].tolist())}{called}: "
        yield Failed.by(self.label, BitstreamError(f"{where}{block.fault or 'damaged'}"))


def _picked(numbers: list[int], names_: list[str], pixels: U8) -> Decoded:
    """Images that are intact, in any order."""
    lost = np.zeros(len(numbers), np.bool_)
    return Decoded(images=np.array(numbers, np.int64), lost=lost, names=names_, pixels=pixels)


@contextlib.contextmanager
def open_stream(source: Input, model: str | None = None) -> Iterator[Stream]:
    """Open a stream.  model: name or file of one that is not installed.

    Raises BitstreamError where the start is unusable, ModelNotFound, BadModel, OSError.
    """
    with source.place.open() as file, closing(Stream(source, file, model)) as stream:
        yield stream
