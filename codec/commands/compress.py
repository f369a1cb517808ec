"""`aez compress`: files, directories, arrays and URLs -> streams.

READ ME FIRST
- The unit of work is a block, or a shard of images that become single files (`work`); this file
  makes the tasks, writes the results, and adds up the figures.
- An output appears whole or not at all (`Place.replace`), and the same command resumes a collection
  that was interrupted (`resume`).
- Only `remove=True` deletes inputs, after their output was fsynced and decoded again, and, if it is
  lossless, has exactly their pixels.
"""

from __future__ import annotations

import dataclasses
import io
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from codec import __version__, parallel
from codec.commands import processes, work
from codec.commands.events import (
    Done,
    Events,
    Failed,
    Note,
    Planned,
    Progress,
    expected,
    guarded,
    reason_of,
)
from codec.commands.inputs import Input, Inputs
from codec.commands.jobs import Array, Collecting, Images, Job, Singles, Stdin, plan, refuse
from codec.commands.resume import Entry, Partial, finished, noting
from codec.commands.stream import open_stream
from codec.commands.work import BlockResult, BlockTask, EachResult, EachTask
from codec.encoder.encode import Encoder
from codec.encoder.options import Options
from codec.encoder.stats import CompressStats
from codec.errors import BitstreamError, ModelError, UsageError, counted
from codec.files import images
from codec.files.atomic import remove
from codec.files.place import STANDARD, Place, place
from codec.format.constants import MAX_BLOCK_IMAGES
from codec.labels import digest_of
from codec.model.bundle import Model

S = TypeVar("S")
R = TypeVar("R")

# npy, npz, gzip, IDX of bytes
_ARRAY_MAGICS = (b"\x93NUMPY", b"PK\x03\x04", b"\x1f\x8b", b"\x00\x00\x08")
_NO_SINGLES = "--embed-model is for collections: a single image would grow a thousandfold"


@dataclass(frozen=True)
class CompressOptions:
    """encoding: options of the encoder; jobs: cores to use; scheduler: address of a Dask scheduler
    whose workers do the work instead; block_images: of a collection, shard_images: of a task of
    single files.
    """

    encoding: Options = field(default_factory=Options)
    jobs: int = 1
    force: bool = False
    remove: bool = False
    embed_model: bool = False
    scheduler: str | None = None
    block_images: int = MAX_BLOCK_IMAGES
    shard_images: int = work.SHARD_IMAGES

    def refs(self) -> tuple[work.ModelRef, ...]:
        return tuple(map(work.model_ref, Encoder(self.encoding).models))

    def spread(
        self, task: Callable[[S], R], tasks: Iterable[S], num_tasks: int
    ) -> Generator[R, None, None]:
        if self.scheduler is None:
            return processes.spread(task, tasks, self.jobs, num_tasks)
        from codec.commands import cluster  # Dask takes a second to import

        return cluster.spread(self.scheduler, task, tasks)


def compress(
    inputs: Sequence[str],
    out: str | None = None,
    *,
    separate: bool = False,
    dry_run: bool = False,
    options: CompressOptions = CompressOptions(),
) -> Events:
    """Compress files, directories, URLs or stdin ("-"); see `jobs` for which outputs that gives.

    Raises UsageError for options that contradict each other; all else is a failure of its input.
    """
    if options.remove and (out == "-" or any(_cannot_be_verified(name) for name in (out, *inputs))):
        raise UsageError(
            "--rm needs files as INPUT and OUT: it cannot verify stdin, stdout or URLs"
        )
    jobs = yield from plan(inputs, out, separate)
    jobs = yield from refuse(jobs, options.force)
    if options.embed_model and any(isinstance(job, Singles) for job in jobs):
        raise UsageError(_NO_SINGLES)
    if options.embed_model:
        options.encoding.check_embedding()
    if dry_run:
        for job in jobs:
            several, outputs = isinstance(job, Images), list(job.outputs())
            for label, output in outputs:
                yield Planned(label, str(output), job.num_images // len(outputs), several)
        return
    yield from expected(sum(job.num_images for job in jobs))
    try:
        with parallel.cores(options.jobs):
            for job in jobs:
                yield from _run(job, options)
    except ModelError as error:
        # nothing more can be done without the model, but finished outputs count
        yield Failed(options.encoding.model, str(error), named=True)


def _cannot_be_verified(name: str | None) -> bool:
    return name is not None and (name == "-" or place(name).path is None)


def _run(job: Job, options: CompressOptions) -> Events:
    match job:
        case Singles():
            return _compress_singles(job, options)
        case Images():
            return guarded(job.label, _compress_images(job, options))
        case Array():
            return guarded(job.label, _compress_array(job, options))
        case Stdin():
            return guarded(job.label, _compress_stdin(job, options))
    raise AssertionError(job)


# Single files


def _compress_singles(job: Singles, options: CompressOptions) -> Events:
    """One stream for each image, one network pass for each shard."""
    refs, size = options.refs(), options.shard_images
    starts = range(0, len(job.inputs), size)

    def shard(start: int) -> list[tuple[Input, Place]]:
        return [(image, job.output_of(image)) for image in job.inputs.part(start, start + size)]

    tasks = (
        EachTask(
            [image.label for image, _ in pairs],
            [output for _, output in pairs],
            options.encoding,
            refs,
            options.force,
            options.remove,
        )
        for pairs in map(shard, starts)
    )
    # not on a cluster: the files would be written on the machines of the workers
    results = processes.spread(work.encode_each, tasks, options.jobs, len(starts))
    with closing(results) as done:
        for start, shard_results in zip(starts, done, strict=True):
            for (image, output), result in zip(shard(start), shard_results, strict=True):
                yield from guarded(image.label, _single(image, output, result, options))
            sizes = [r.stats.bytes_out for r in shard_results if isinstance(r.stats, CompressStats)]
            yield Progress(len(shard_results), sum(sizes))


def _single(image: Input, output: Place, result: EachResult, options: CompressOptions) -> Events:
    if isinstance(result.stats, Exception):
        yield Failed.by(image.label, result.stats)
        return
    stats = result.stats
    yield Done(image.label, str(output), 1, result.bytes_in, stats.bytes_out, stats)
    if options.remove:
        _remove([image], output, 1, options, [(result.pixels_digest, "")])


# Collections


class Blocks(ABC):
    """The inputs of a collection, block by block.

    inputs: a digest of their names; named: whether images have names; labels: a digest of all
    labels, or of where they come from; private: no other process can read the inputs; bytes_in:
    their size, if that of a block is not known.
    """

    inputs: str
    num_images: int
    num_blocks: int
    named = False
    labels = ""
    private = False
    bytes_in = 0

    @abstractmethod
    def tasks(self, start: int) -> Iterator[BlockTask]:
        """The blocks, from number `start` on."""

    def of(self, number: int) -> list[Input]:
        """The input files of a block, none of an array's."""
        return []

    def identity(self, number: int) -> str:
        """A text that changes when the inputs of a block do."""
        return ""


class ImageBlocks(Blocks):
    """Image files."""

    named = True

    def __init__(self, files: Inputs, options: CompressOptions) -> None:
        self._files, self._options, self._size = files, options, options.block_images
        self.inputs, self.num_images = files.digest(), len(files)
        self.num_blocks = -(-len(files) // self._size)
        self.private = next(iter(files)).place.is_private

    def of(self, number: int) -> list[Input]:
        return list(self._files.part(number * self._size, (number + 1) * self._size))

    def _paths(self, number: int) -> list[str]:
        return [image.place.full() for image in self.of(number)]

    def tasks(self, start: int) -> Iterator[BlockTask]:
        refs = self._options.refs()
        for number in range(start, self.num_blocks):
            called = [image.name for image in self.of(number)]
            yield BlockTask(None, self._paths(number), called, self._options.encoding, refs)

    def identity(self, number: int) -> str:
        return work.identity(self._paths(number))


class ArrayBlocks(Blocks):
    """An array, which is read once, in order."""

    def __init__(
        self, array: images.ArrayFile, inputs: str, num_bytes: int, options: CompressOptions
    ) -> None:
        self._array, self._options, self._size = array, options, options.block_images
        self.inputs, self.bytes_in = inputs, num_bytes
        self.num_images = array.num_images
        self.num_blocks = -(-array.num_images // self._size)

    def tasks(self, start: int) -> Iterator[BlockTask]:
        refs = self._options.refs()
        for number, pixels in enumerate(self._array.blocks(self._size)):
            if number >= start:
                yield BlockTask(pixels, (), None, self._options.encoding, refs)


def _compress_images(job: Images, options: CompressOptions) -> Events:
    return _write_collection(job, ImageBlocks(job.inputs, options), options)


def _compress_array(job: Array, options: CompressOptions) -> Events:
    source = job.source.place
    inputs = f"{source.full()} {work.identity([str(source)])}"
    with job.open() as array:
        blocks = ArrayBlocks(array, inputs, source.size(), options)
        yield from _write_collection(job, blocks, options)


def _compress_stdin(job: Stdin, options: CompressOptions) -> Events:
    with STANDARD.open() as file:
        content = file.read()
    if content.startswith(_ARRAY_MAGICS):
        with images.open_array(io.BytesIO(content), name="stdin") as array:
            # a random pin: stdin cannot be read again
            blocks = ArrayBlocks(array, secrets.token_hex(), len(content), options)
            yield from _write_collection(job, blocks, options)
        return
    if options.embed_model:
        raise UsageError(_NO_SINGLES)
    packed = work.encode_one(content, options.encoding, job.label)
    job.output.write(packed.data, force=options.force)
    yield Done(job.label, str(job.output), 1, len(content), len(packed.data), packed.stats)


class _Account:
    """The sum of the blocks of a collection, with those of an earlier run."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self.stats, self.bytes_in = CompressStats(), blocks.bytes_in
        self.digests: list[tuple[str, str]] = []  # of the pixels and labels of each block
        self.unread: set[str] = set()

    def add(self, number: int, entry: Entry) -> Events:
        files = self._blocks.of(number)
        for at, reason in entry["failed"]:
            self.unread.add(files[at].label)
            yield Failed(files[at].label, reason)
        self.stats += CompressStats(**entry["stats"])
        self.bytes_in += entry["bytes_in"]
        if entry["pixels"]:
            self.digests.append((entry["pixels"], entry["labels"]))
        yield Progress(len(files) or entry["images"], entry["stats"]["bytes_out"])


def _write_collection(job: Collecting, blocks: Blocks, options: CompressOptions) -> Events:
    """Make the blocks that an earlier run of this command has not finished, then the collection."""
    if blocks.private and options.scheduler is not None:
        raise UsageError(f"{job.label} is in the memory of this process: a cluster cannot read it")
    yield from expected(blocks.num_images - job.num_images)
    output, account, encoder = job.output, _Account(blocks), Encoder(options.encoding)
    embedded = encoder.model_files() if options.embed_model else None
    pins = _pins(output, blocks, encoder.models, options)
    with Partial(
        output, pins, force=options.force, models=embedded, lasting=job.lasting
    ) as partial:
        start = yield from _resume(partial, output, blocks)
        for number, entry in enumerate(partial.finished):
            yield from account.add(number, entry)
        made = _write_blocks(partial, start, blocks, options, account)
        yield from noting(
            made,
            lambda error: (
                f"{output}: {finished(len(partial.finished), blocks.num_blocks)}"
                if partial.is_kept(error)
                else None
            ),
        )
    stats = account.stats
    if not stats.bytes_out:
        return
    yield Done(job.label, str(output), stats.images, account.bytes_in, stats.bytes_out, stats)
    if options.remove:
        job.inputs.keep(lambda source: source.label not in account.unread)
        _remove(job.inputs, output, stats.images, options, account.digests)


def _write_blocks(
    partial: Partial, start: int, blocks: Blocks, options: CompressOptions, account: _Account
) -> Events:
    """Make the blocks from number `start` on, and the collection, unless it should have named
    images and none of them could be read.
    """
    num_tasks = 1 if blocks.private else blocks.num_blocks - start
    results = options.spread(work.encode_block, blocks.tasks(start), num_tasks)
    with closing(results) as done:
        for number, result in enumerate(done, start):
            entry = _entry(result, blocks.of(number))
            partial.write(result.block, entry)
            yield from account.add(number, entry)
    if blocks.named and not account.stats.images:
        partial.discard()
        account.stats.bytes_out = 0
    else:
        account.stats.bytes_out = partial.finish()


def _pins(
    output: Place, blocks: Blocks, models: Sequence[Model], options: CompressOptions
) -> dict[str, object]:
    """Everything that the bytes of a collection depend on."""
    return {
        "aez": __version__,
        "block_images": options.block_images,
        "inputs": blocks.inputs,
        "named": blocks.named,
        "labels": blocks.labels,
        "encoding": repr(options.encoding),
        "models": [model.hash.hex() for model in models],
        "encoders": [(model.encoder_hash or b"").hex() for model in models],
        "embedded": options.embed_model,
        "output": output.full(),
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


def _entry(result: BlockResult, files: list[Input]) -> Entry:
    """A block in the journal, from which `_Account` adds it up, in this run and the next."""
    return {
        "images": result.stats.images,
        "stats": dataclasses.asdict(result.stats),
        "bytes_in": result.bytes_in,
        "failed": [(at, _reason(files[at], error)) for at, _, error in result.failed],
        "inputs": result.inputs,
        "pixels": result.pixels_digest,
        "labels": result.labels_digest,
    }


def _reason(source: Input, error: Exception) -> str:
    """Why an input failed, without its full path, by which workers call it."""
    return reason_of(source.label, error).removeprefix(f"{source.place.full()}: ")


def _remove(
    files: Iterable[Input],
    output: Place,
    num_images: int,
    options: CompressOptions,
    wanted: list[tuple[str, str]],
) -> None:
    """Delete inputs whose output is on the disk, once it has decoded in full.

    wanted: of each block the digest of its pixels, which a lossless output must have, and of its
    labels.
    """
    num_decoded, exact, labelled = 0, True, True
    with open_stream(Input(str(output), output.name), options.encoding.model) as stream:
        for number, block in enumerate(stream.decoded(options.jobs)):
            if block.fault is not None:
                raise block.fault
            num_decoded += len(block.images)
            pixels, labels = wanted[number]
            exact &= work.digest_of(block.pixels) == pixels
            labelled &= digest_of(block.labels) == labels
    if num_decoded != num_images:
        raise BitstreamError(
            f"{output} holds {counted(num_decoded, 'image')}, not {num_images}; the inputs are kept"
        )
    if options.encoding.lossless and not exact:
        raise BitstreamError(f"{output} does not hold the pixels of its inputs, which are kept")
    if not labelled:
        raise BitstreamError(f"{output} does not hold the labels of its inputs, which are kept")
    for source in files:
        remove(Path(source.label))
