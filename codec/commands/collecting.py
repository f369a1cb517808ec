"""The blocks of a job -> a collection, which can be resumed, or grow.

READ ME FIRST
- Whether blocks are made now or by an earlier run of the same command makes no difference: both
  come from their entries in the journal (`resume`).
- `append` puts the blocks of the collection that is there first, and replaces it as a whole. So the
  old collection is there until the new one is, and the bytes are those of `merge`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import chain, count, islice
from typing import NamedTuple

from codec import __version__, api
from codec.collection.block import Block
from codec.collection.reader import Collection
from codec.commands import work
from codec.commands.blocks import Blocks
from codec.commands.events import Done, Event, Events, Failed, Note, Progress, expected
from codec.commands.jobs import Collecting, Images
from codec.commands.resume import Entry, Partial, finished, noting
from codec.commands.run import CompressOptions, Run
from codec.commands.work import BlockResult
from codec.encoder.encode import Encoder
from codec.encoder.stats import CompressStats
from codec.errors import BitstreamError, UsageError
from codec.files import names
from codec.files.place import Place
from codec.labels import kind_of
from codec.model.bundle import Model


class _Account:
    """The sum of the blocks of a collection, with those of an earlier run."""

    def __init__(self, blocks: Blocks) -> None:
        self.stats, self.bytes_in = CompressStats(), blocks.bytes_in
        self.digests: list[tuple[str, str]] = []  # of the pixels and labels of each block
        self.unread: set[str] = set()
        self.partial: set[int] = set()  # numbers of the inputs that say more than is stored
        self._num_inputs = 0

    def add(self, entry: Entry, run: Run) -> Events:
        for label, reason in entry["failed"]:
            self.unread.add(label)
            yield Failed(label, reason)
        self.stats += CompressStats(**entry["stats"])
        self.bytes_in += entry["bytes_in"]
        run.drop(entry["dropped"])
        if entry["pixels"]:
            self.digests.append((entry["pixels"], entry["labels"]))
        images = entry["images"] + len(entry["failed"])
        self.partial.update(self._num_inputs + at for at in entry["partial"])
        self._num_inputs += images
        yield Progress(images, entry["stats"]["bytes_out"])

    def add_all(self, entries: Sequence[Entry], run: Run) -> Events:
        for entry in entries:
            yield from self.add(entry, run)


class _Base(NamedTuple):
    """The collection that grows: its blocks and models, and how it is known again."""

    blocks: Sequence[Block] = ()
    models: Sequence[bytes] = ()
    identity: str = ""

    @staticmethod
    def of(output: Place, blocks: Blocks, label: str, stack: ExitStack) -> _Base:
        """Open it.  Raises UsageError if `blocks`, of the input `label`, do not fit to it;
        BitstreamError, OSError.
        """
        identity = output.identity()
        try:
            collection = stack.enter_context(api.open(str(output)))
            _check_fit(collection, str(output), blocks, label)
            return _Base(collection.blocks, collection.embedded, identity)
        except BitstreamError as error:
            raise BitstreamError(f"{output}: {error}") from None


def _check_fit(base: Collection, output: str, blocks: Blocks, label: str) -> None:
    """Raise UsageError unless the images of both can be in one collection."""
    if not len(base):
        return
    if base.has_names != blocks.named:
        one, other = (output, label) if base.has_names else (label, output)
        raise UsageError(f"the images of {one} have names, those of {other} have none")
    there, more = base.label_kinds, kind_of(blocks.labels)
    if there != [more]:
        raise UsageError(
            f"the labels of all images must be of one kind: {output} has {' and '.join(there)}, "
            f"{label} has {more}"
        )

    def called() -> Iterator[str]:
        return chain(base.each_name() if blocks.named else (), blocks.names())

    if clash := names.clash(called):
        *numbers, what = clash
        one, other = (next(islice(called(), number, None)) for number in numbers)
        if one == other:
            raise UsageError(f"{output} has an image {one} already")
        first, second = (output if number < len(base) else label for number in numbers)
        raise UsageError(f"{one} of {first} and {other} of {second} {what}")


def check_append(output: Place, blocks: Blocks, label: str) -> int:
    """The number of images in the collection that is there.

    Raises UsageError if `blocks` cannot be added to it, BitstreamError, OSError.
    """
    with ExitStack() as opened:
        return sum(block.count for block in _Base.of(output, blocks, label, opened).blocks)


def write_collection(job: Collecting, blocks: Blocks, run: Run) -> Events:
    """Make the blocks that an earlier run of this command has not finished, then the collection."""
    options, output, account = run.options, job.output, _Account(blocks)
    if blocks.private and options.scheduler is not None:
        raise UsageError(f"{job.label} is in the memory of this process: a cluster cannot read it")
    yield from expected(blocks.num_images - job.num_images)
    encoder, grows = Encoder(options.encoding), options.append and output.exists()
    models = encoder.model_files() if options.embed_model else []
    pins = _pins(output, blocks, encoder.models, options)
    with ExitStack() as opened:
        base = _Base.of(output, blocks, job.label, opened) if grows else _Base()
        with Partial(
            output,
            pins,
            force=options.force or grows,
            models=list(dict.fromkeys([*base.models, *models])),
            lasting=job.lasting,
            mode=output.mode() if grows else job.mode,
            base=base.blocks,
        ) as partial:
            if grows and output.identity() != base.identity:
                raise UsageError(f"{output} was changed by another program")
            first = len(base.blocks)
            if partial.was_moved(blocks.num_blocks):
                yield Note(f"{output}: an interrupted run of this command had finished")
                yield from account.add_all(partial.finished, run)
                own = [entry["bytes"] for entry in partial.finished if entry["bytes"]]
                num_bytes, first = sum(own), first - len(own)
            else:
                start = yield from _resume(partial, output, blocks)
                opened.close()  # all of it is copied, and some systems replace no open file
                yield from account.add_all(partial.finished, run)
                num_bytes = yield from _write_blocks(partial, start, blocks, run, account)
                num_bytes -= sum(block.size for block in base.blocks)
            if num_bytes <= 0:
                return
            stats = account.stats
            stats.bytes_out = num_bytes
            run.use(stats.models)
            yield Done(job.label, str(output), stats.images, account.bytes_in, num_bytes, stats)
            if options.remove:
                yield from _remove(job, blocks, run, account, first)


def _write_blocks(
    partial: Partial, start: int, blocks: Blocks, run: Run, account: _Account
) -> Generator[Event, None, int]:
    """Make the blocks from number `start` on, and the collection; return its size in bytes.

    There is none, and 0 is returned, if images should have names and none of them could be read.
    """

    def kept(error: BaseException) -> str | None:
        done = finished(len(partial.finished), blocks.num_blocks)
        return f"{partial.output}: {done}" if partial.is_kept(error) else None

    def made() -> Generator[Event, None, int]:
        options = run.options
        tasks = blocks.tasks(start, options.encoding, options.refs())
        num_tasks = 1 if blocks.private else blocks.num_blocks - start
        with closing(options.spread(work.encode_block, tasks, num_tasks)) as results:
            for number, result in enumerate(results, start):
                entry = _entry(number, result, blocks)
                partial.write(result.block, entry)
                yield from account.add(entry, run)
        if blocks.named and not account.stats.images:
            partial.discard()
            return 0
        return partial.finish()

    return (yield from noting(made(), kept))


def _remove(job: Collecting, blocks: Blocks, run: Run, account: _Account, first: int) -> Events:
    """Delete the inputs, if all that is in them is in the collection from block `first` on."""
    if isinstance(job, Images):
        numbers = count()
        job.inputs.keep(
            lambda source: (
                next(numbers) not in account.partial and source.label not in account.unread
            )
        )
        run.keep(len(account.partial))
    elif blocks.left or account.unread or account.partial or run.options.is_rounding:
        yield from run.note(f"{job.label}: kept, as not all of it is stored")
        return
    run.remove(job.inputs, job.output, account.stats.images, account.digests, first)


def _pins(
    output: Place, blocks: Blocks, models: Sequence[Model], options: CompressOptions
) -> dict[str, object]:
    """Everything that the bytes of a collection depend on."""
    return {
        "aez": __version__,
        **blocks.pins,
        "encoding": repr(options.encoding),
        "models": [model.hash.hex() for model in models],
        "encoders": [(model.encoder_hash or b"").hex() for model in models],
        "embedded": options.embed_model,
        "output": output.full(),
        "append": options.append,
    }


def _resume(partial: Partial, output: Place, blocks: Blocks) -> Generator[Note, None, int]:
    """Keep the blocks whose inputs are still the same; returns how many there are."""
    entries = partial.finished
    start = next(
        (k for k, entry in enumerate(entries) if entry["inputs"] != blocks.identity(k)),
        len(entries),
    )
    if start < len(entries):  # an input has changed, so later ones may have changed too
        yield Note(f"{output}: inputs have changed since the interrupted run; starting over")
        start = 0
    elif start:
        yield Note(f"{output}: resuming, {finished(start, blocks.num_blocks)}")
    partial.keep(start)
    return start


def _entry(number: int, result: BlockResult, blocks: Blocks) -> Entry:
    """A block in the journal, from which `_Account` adds it up, in this run and the next.

    Raises ImageError if the collection cannot do without an image that could not be read.
    """
    return {
        "images": result.stats.images,
        "stats": dataclasses.asdict(result.stats),
        "bytes_in": 0 if blocks.bytes_in else result.bytes_in,
        "failed": [blocks.failure(number, unread) for unread in result.failed],
        "inputs": result.inputs,
        "pixels": result.pixels_digest,
        "labels": result.labels_digest,
        "dropped": result.dropped,
        "partial": result.partial,
    }
