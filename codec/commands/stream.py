"""A stream to be decoded: a single image or a collection, from a file, a URL or stdin.

READ ME FIRST
- What is intact is decoded, what is damaged is reported: by number, by name if it is known, and
  with the fault.
- Blocks are decoded by worker processes, which open the file for themselves, if there are blocks
  enough; from stdin and URLs by this process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from codec import api
from codec.collection.reader import Collection, DecodedBlock
from codec.collection.reader import Place as BlockPlace
from codec.commands.events import Failed, Progress
from codec.commands.inputs import Input
from codec.commands.processes import spread
from codec.errors import AezError, BitstreamError
from codec.files import images, names
from codec.files.atomic import size_of
from codec.files.place import place

Pixels = npt.NDArray[np.uint8]

MAX_NAMED = 3  # lost images of a block that are named; the numbers of all are given


class Chunk(NamedTuple):
    """Decoded, undamaged images of one block."""

    numbers: Sequence[int]  # positions in the collection
    names: Sequence[str]  # empty for an unnamed collection
    pixels: Pixels  # (n, 28, 28)


Found = Chunk | Failed | Progress  # what decoding yields


class DecodeTask(NamedTuple):
    """A block to be decoded."""

    collection: Collection
    place: BlockPlace
    keep_pixels: bool


def decode_block(task: DecodeTask) -> DecodedBlock:
    """Decode one block as far as it is intact.  Raises ModelNotFound, BadModel."""
    block = task.collection.decode_block(task.place)
    if not task.keep_pixels and block.pixels is not None:
        block.pixels = np.zeros((block.count, 0, 0), np.uint8)
    return block


class WriteTask(NamedTuple):
    """Images to be written as PNG files, of a block that is decoded, or is to be.

    paths: of each image of the block, None for one that is not to be written. again: an earlier run
    of the same command was cut short, so a file that exists with the same bytes counts as
    written.
    """

    block: DecodedBlock | DecodeTask
    paths: Sequence[str | None]
    force: bool
    again: bool = False


class Written(NamedTuple):
    """block: without its pixels; written: size in bytes of each image's file, why it was not
    written, or None.
    """

    block: DecodedBlock
    written: list[int | Exception | None]


def write_block(task: WriteTask) -> Written:
    """Decode what is not yet decoded, and write.  Raises ModelNotFound, BadModel."""
    block = decode_block(task.block) if isinstance(task.block, DecodeTask) else task.block
    written: list[int | Exception | None] = [None] * block.count
    lost = set(block.lost)
    if block.pixels is not None:
        for i, path in enumerate(task.paths):
            if path is not None and i not in lost:
                written[i] = _write_png(path, block.pixels[i], task.force, task.again)
        block.pixels = np.zeros((block.count, 0, 0), np.uint8)
    block.names = []
    return Written(block, written)


def _write_png(path: str, pixels: Pixels, force: bool, again: bool) -> int | Exception:
    packed, output = images.pack_png(pixels), place(path)
    try:
        if not (again and output.holds(packed)):
            output.write(packed, force=force)
    except (AezError, OSError) as error:
        return error
    return len(packed)


class Restoration(NamedTuple):
    """A block to be restored: decoded already or not, the numbers of its images, and their names,
    if they have any.
    """

    block: DecodedBlock | DecodeTask
    numbers: Sequence[int]
    names: Sequence[str]

    @staticmethod
    def of(chunk: Chunk) -> Restoration:
        block = DecodedBlock(0, len(chunk.pixels), chunk.pixels)
        return Restoration(block, chunk.numbers, chunk.names)


class Stream:
    """An open stream.  collection: None if it is a single image; path: of a file that processes can
    open for themselves.
    """

    def __init__(self, source: Input, file: BinaryIO, model: str | None) -> None:
        self.label, self.path, self._file, self._model = (
            source.label,
            source.place.path,
            file,
            model,
        )
        self.num_bytes = size_of(file)
        self.collection = api.recovered(self.path or file, model)

    def close(self) -> None:
        if self.collection is not None:
            self.collection.close()

    @property
    def num_images(self) -> int:
        if self.collection is None:
            return 1
        return sum(block.images for block in self.collection.places())

    @property
    def has_names(self) -> bool:
        """By the first block whose header is intact: one block is as the others."""
        if self.collection is not None:
            for block in self.collection.places():
                with contextlib.suppress(BitstreamError):
                    return self.collection.header_at(block).has_names
        return False

    def num_tasks(self, jobs: int) -> int:
        """Blocks that can be decoded elsewhere than in this process: all, or as good as none."""
        if jobs < 2 or self.path is None or self.collection is None:
            return 1
        return sum(1 for _ in self.collection.places())

    def decoded(
        self, jobs: int = 1, *, keep_pixels: bool = True, here: bool = False
    ) -> Iterator[DecodedBlock]:
        """All blocks, as far as they are intact; a last one of no images has the fault of the
        frame.

        here: in this process.  Raises ModelNotFound, BadModel.
        """
        if self.collection is None:
            yield from api.decode_blocks(self._file, model=self._model)
            return
        blocks = (DecodeTask(self.collection, block, keep_pixels) for block in self._places())
        num_tasks = 1 if here else self.num_tasks(jobs)
        with closing(spread(decode_block, blocks, jobs, num_tasks)) as results:
            yield from results
        yield from self._fault()

    def _places(self) -> Iterator[BlockPlace]:
        return iter(()) if self.collection is None else self.collection.places()

    def _fault(self) -> Iterator[DecodedBlock]:
        if self.collection is not None and self.collection.fault is not None:
            end = max((block.first + block.images for block in self._places()), default=0)
            yield DecodedBlock(end, 0, None, error=self.collection.fault)

    def restorations(self) -> Iterator[Restoration]:
        """The blocks of a collection, to be decoded and written in one go."""
        assert self.collection is not None
        for block in self._places():
            yield Restoration(
                DecodeTask(self.collection, block, True),
                range(block.first, block.first + block.images),
                self.collection.names_or_numbers(block),
            )
        yield from (Restoration(fault, (), ()) for fault in self._fault())

    def intact(
        self, jobs: int = 1, wanted: set[int] | None = None, *, keep_pixels: bool = True
    ) -> Iterator[Found]:
        """What is intact (and wanted), block by block; the rest is reported as damaged."""
        if wanted is not None and not wanted:
            return
        try:
            blocks = self.decoded(jobs, keep_pixels=keep_pixels, here=wanted is not None)
            for number, block in enumerate(blocks):
                picked = [
                    i for i in range(block.count) if wanted is None or block.first + i in wanted
                ]
                yield from failures(block, number, block.names, self.label, picked)
                gone = lost_of(block)
                keep = [i for i in picked if i not in gone]
                if keep and block.pixels is not None:
                    kept_names = [block.names[i] for i in keep] if block.names else []
                    pixels = block.pixels if len(keep) == block.count else block.pixels[keep]
                    yield Chunk([block.first + i for i in keep], kept_names, pixels)
                yield Progress(block.count)
                if wanted is not None and block.first + block.count > max(wanted):
                    return
        except BrokenPipeError:
            raise
        except (AezError, OSError) as error:
            yield Failed.by(self.label, error)

    def pick(self, numbers: list[int], jobs: int, *, named: bool) -> Iterator[Found]:
        """Images of a collection in the order asked for, repeats included."""
        assert self.collection is not None
        try:
            pixels = self.collection[numbers]  # touches the groups wanted, no others
            found_names = self.collection.names_at(numbers) if named else []
            yield Chunk(numbers, found_names if any(found_names) else [], pixels)
            return
        except BitstreamError:  # go block by block, which finds what is lost
            pass
        found: dict[int, tuple[str | None, Pixels]] = {}
        for item in self.intact(jobs, set(numbers)):
            if not isinstance(item, Chunk):
                yield item
                continue
            for i, number in enumerate(item.numbers):
                found[number] = item.names[i] if item.names else None, item.pixels[i]
        there = [number for number in numbers if number in found]
        if there:
            kept_names = [name for number in there if (name := found[number][0]) is not None]
            yield Chunk(there, kept_names, np.stack([found[number][1] for number in there]))


@contextlib.contextmanager
def open_stream(source: Input, model: str | None = None) -> Iterator[Stream]:
    """Open a stream.  model: name or file of one that is not installed.

    Raises BitstreamError where the start is unusable, ModelNotFound, BadModel, OSError.
    """
    with source.place.open() as file, closing(Stream(source, file, model)) as stream:
        yield stream


def lost_of(block: DecodedBlock) -> set[int]:
    """Which images of a block are gone."""
    return set(range(block.count) if block.pixels is None else block.lost)


def failures(
    block: DecodedBlock,
    number: int,
    names_: Sequence[str],
    label: str,
    picked: Iterable[int] | None = None,
) -> Iterator[Failed]:
    """What is wrong with a block, among the images picked: one failure, or none."""
    gone = lost_of(block)
    lost = [i for i in (range(block.count) if picked is None else picked) if i in gone]
    # A fault may lie elsewhere than in the images: in names, index, footer. It counts unless images
    # not picked explain it.
    if not lost and (block.error is None or gone):
        return
    where = "" if block.is_single or not block.count else f"block {number}: "
    if where and lost:
        known = [names_[i] for i in lost[:MAX_NAMED]] if names_ else []
        called = f" ({', '.join(known)}{', ...' * (len(lost) > MAX_NAMED)})" if known else ""
        where = f"block {number}, images {names.ranges([block.first + i for i in lost])}{called}: "
    yield Failed.by(label, BitstreamError(f"{where}{block.error or 'damaged'}"))
