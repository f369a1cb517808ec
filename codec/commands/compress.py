"""`aez compress`: files, directories, arrays and URLs in, streams out.

READ ME FIRST
- The unit of work is a block, or a shard of images that become files of their own (`work`); this
  file decides which, writes what comes back, and keeps the figures.
- An output appears whole or not at all, and a collection that was interrupted is gone on with
  (`atomic`, `resume`).
- Inputs go only by `remove=True`, after their output was fsynced and decoded again, and, if it is
  lossless, was found to have their very pixels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import secrets
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar

from codec import __version__, api, parallel
from codec.commands import work as pipeline
from codec.commands.inputs import (
    Report,
    Source,
    Sources,
    Task,
    full_path,
    plan_compress,
    reason_of,
    refuse,
)
from codec.commands.resume import Entry, Partial
from codec.commands.work import BlockResult, BlockTask, EachTask
from codec.errors import BitstreamError, UsageError
from codec.files import images, names, urls
from codec.files.atomic import Output, atomic
from codec.format.bitstream import LOSSLESS_QUALITY
from codec.model.bundle import BaseModel

S = TypeVar("S")
R = TypeVar("R")

# npy, npz, gzip, IDX of bytes
_ARRAY_MAGICS = (b"\x93NUMPY", b"PK\x03\x04", b"\x1f\x8b", b"\x00\x00\x08")


@dataclass(frozen=True)
class CompressOptions:
    """jobs: cores to use; scheduler: address of a Dask scheduler whose workers do
    the work instead.
    """

    asked: api.Request = field(default_factory=api.Request)
    model: str = "auto"
    jobs: int = 1
    force: bool = False
    remove: bool = False
    embed_model: bool = False
    scheduler: str | None = None

    def models(self) -> list[BaseModel]:
        return api.candidates(self.model, self.asked.quality)

    def refs(self) -> tuple[pipeline.ModelRef, ...]:
        return tuple(map(pipeline.model_ref, self.models()))

    def spread(
        self, work: Callable[[S], R], tasks: Iterable[S], num_tasks: int
    ) -> Generator[R, None, None]:
        if self.scheduler is None:
            yield from pipeline.spread(work, tasks, self.jobs, num_tasks)
        else:
            from codec.commands import cluster  # Dask takes a second to import

            yield from cluster.spread(self.scheduler, work, tasks)


def compress(
    inputs: Sequence[str],
    out: str | None = None,
    *,
    separate: bool = False,
    dry_run: bool = False,
    options: CompressOptions = CompressOptions(),
    report: Report,
) -> None:
    """Compress files, directories, URLs or stdin ("-") as design.md 5 says; the result is in
    `report`.

    Raises: UsageError for a request that contradicts itself, ModelError; all else is a failure in
    the report.
    """
    if options.remove and (out == "-" or "-" in inputs or any(map(urls.is_url, (out, *inputs)))):
        raise UsageError(
            "--rm needs files on both sides: stdin, stdout and URLs cannot be verified"
        )
    tasks = refuse(plan_compress(inputs, out, separate, report), options.force, report)
    if options.embed_model and any(task.kind in ("image", "each") for task in tasks):
        raise UsageError(
            "--embed-model is for collections: a single image would grow a thousandfold"
        )
    if options.embed_model and options.asked.goal is not None and options.asked.goal.lossless_keeps:
        raise UsageError(api.NO_EMBEDDING)
    if dry_run:
        report.images = sum(len(task.sources) or 1 for task in tasks)
        for task in tasks:
            count = f" ({len(task.sources)} images)" if task.kind == "images" else ""
            report.outputs += [
                f"{label}{count} -> {'-' if output is None else output}"
                for label, output in task.outputs()
            ]
        return
    with parallel.cores(options.jobs):
        for task in tasks:
            if task.kind in ("image", "each"):
                _compress_each(task, options, report)
            else:
                with report.guard(task.label):
                    _compress_collection(task, options, report)


def _compress_each(task: Task, options: CompressOptions, report: Report) -> None:
    """One stream an image, one network pass a shard."""
    refs, size = options.refs(), pipeline.SHARD_IMAGES
    num_shards = -(-len(task.sources) // size)

    def shard(number: int) -> list[tuple[Source, Output]]:
        return [
            (source, task.output_of(source))
            for source in task.sources.part(number * size, (number + 1) * size)
        ]

    work = (
        EachTask(
            [source.label for source, _ in images],
            [None if output is None else str(output) for _, output in images],
            options.asked,
            refs,
            options.force,
            options.remove,
        )
        for images in map(shard, range(num_shards))
    )
    # its files would appear on the machines of the workers
    local = dataclasses.replace(options, scheduler=None)
    with closing(local.spread(pipeline.encode_each, work, num_shards)) as done:
        for number, results in enumerate(done):
            for (source, output), result in zip(shard(number), results, strict=True):
                report.bytes_in += result.bytes_in
                if isinstance(result.stats, Exception):
                    report.fail(source.label, result.stats)
                    continue
                report.wrote(output, result.stats.bytes_out)
                report.stats += result.stats
                report.images += 1
                if options.remove:
                    with report.guard(source.label):
                        _remove([source], output, 1, options, [result.pixels_digest])
            report.tick(len(results))


@dataclass
class _Blocks:
    """What a collection is to be made of.

    inputs: pins them; tasks: from a block on; sources: of a block (none of an array's); identity:
    of a block's inputs now.
    """

    num_blocks: int
    inputs: str
    tasks: Callable[[int], Iterator[BlockTask]]
    sources: Callable[[int], list[Source]] = lambda number: []
    identity: Callable[[int], str] = lambda number: ""
    bytes_in: int = 0
    private: bool = False  # no other process can read the inputs


def _blocks_of_images(sources: Sources, options: CompressOptions) -> _Blocks:
    size, refs = api.BLOCK_IMAGES, options.refs()

    def block(number: int) -> list[Source]:
        return list(sources.part(number * size, (number + 1) * size))

    def paths(number: int) -> list[str]:
        return [full_path(source.label) for source in block(number)]

    def tasks(start: int) -> Iterator[BlockTask]:
        for number in range(start, num_blocks):
            yield BlockTask(
                None, paths(number), [source.name for source in block(number)], options.asked, refs
            )

    num_blocks = -(-len(sources) // size)
    private = urls.is_private(next(iter(sources)).label)
    return _Blocks(
        num_blocks,
        sources.digest(),
        tasks,
        block,
        lambda number: pipeline.identity(paths(number)),
        private=private,
    )


def _blocks_of_array(
    array: images.ArrayFile, inputs: str, num_bytes: int, options: CompressOptions
) -> _Blocks:
    size, refs = api.BLOCK_IMAGES, options.refs()

    def tasks(start: int) -> Iterator[BlockTask]:
        for number, pixels in enumerate(array.blocks(size)):
            if number >= start:
                yield BlockTask(pixels, (), None, options.asked, refs)

    return _Blocks(-(-array.num_images // size), inputs, tasks, bytes_in=num_bytes)


def _compress_collection(task: Task, options: CompressOptions, report: Report) -> None:
    with ExitStack() as stack:
        if task.kind == "images":
            blocks = _blocks_of_images(task.sources, options)
        elif task.kind == "array":
            path = next(iter(task.sources)).label
            source: Path | BinaryIO = (
                stack.enter_context(urls.open_file(path)) if urls.is_url(path) else Path(path)
            )
            array = stack.enter_context(images.open_array(source, name=path))
            num_bytes = urls.size(path) if urls.is_url(path) else os.stat(path).st_size
            blocks = _blocks_of_array(
                array, f"{full_path(path)} {pipeline.identity([path])}", num_bytes, options
            )
        else:
            stream = sys.stdin.buffer.read()
            if not stream.startswith(_ARRAY_MAGICS):
                _compress_stdin_image(stream, task.output, options, report)
                return
            array = stack.enter_context(images.open_array(io.BytesIO(stream), name="stdin"))
            # it will not come again
            blocks = _blocks_of_array(array, secrets.token_hex(), len(stream), options)
        _write_collection(task, blocks, options, report)


def _compress_stdin_image(
    stream: bytes, output: Output, options: CompressOptions, report: Report
) -> None:
    if options.embed_model:
        raise UsageError(
            "--embed-model is for collections: a single image would grow a thousandfold"
        )
    pixels = images.read_image(io.BytesIO(stream), name="stdin")
    (packed,), stats = api.pack_images(options.models(), pixels[None], options.asked)
    with atomic(output, force=options.force) as file:
        file.write(packed)
    report.wrote(output, len(packed))
    report.stats += stats
    report.images += 1
    report.bytes_in += len(stream)


def _write_collection(
    task: Task, blocks: _Blocks, options: CompressOptions, report: Report
) -> None:
    """Make the blocks that an earlier run of this command has not made, and let the collection
    appear.
    """
    models = options.models()
    pins = {
        "aez": __version__,
        "block_images": api.BLOCK_IMAGES,
        "inputs": blocks.inputs,
        "named": task.kind == "images",
        "asked": repr(options.asked),
        "models": [model.hash.hex() for model in models],
        "encoders": [(model.encoder_hash or b"").hex() for model in models],
        "embedded": options.embed_model,
        "output": None if task.output is None else full_path(str(task.output)),
    }
    if blocks.private and options.scheduler is not None:
        raise UsageError(
            f"{task.label} is in the memory of this process, where no cluster can read it"
        )
    stats, digests = api.CompressStats(), []
    unread: set[str] = set()

    def account(number: int, entry: Entry) -> None:
        nonlocal stats
        sources = blocks.sources(number)
        for at, reason in entry["failed"]:
            report.fail(sources[at].label, reason)
            unread.add(sources[at].label)
        stats += api.CompressStats(**entry["stats"])
        report.bytes_in += entry["bytes_in"]
        digests.append(entry["pixels"])
        report.tick(len(sources) or entry["images"])

    embedded = api.embeddable(models) if options.embed_model else None
    lasting = task.output is not None and task.kind != "stdin"
    with Partial(
        task.output, pins, force=options.force, models=embedded, lasting=lasting
    ) as partial:
        entries = partial.finished
        start = next(
            (k for k, entry in enumerate(entries) if entry["inputs"] != blocks.identity(k)),
            len(entries),
        )
        if start < len(entries):  # an input is another one: what comes after it might be too
            report.note(
                f"{task.output}: inputs have changed since the run that was interrupted; starting "
                "anew"
            )
            start = 0
        elif start:
            report.note(f"{task.output}: going on after block {start} of {blocks.num_blocks}")
        partial.keep(start)
        for number, entry in enumerate(partial.finished):
            account(number, entry)
        try:
            num_tasks = 1 if blocks.private else blocks.num_blocks - start
            results = options.spread(pipeline.encode_block, blocks.tasks(start), num_tasks)
            with closing(results) as done:
                for number, result in enumerate(done, start):
                    entry = _entry(result, blocks.sources(number))
                    partial.write(result.block, entry)
                    account(number, entry)
            # not one was readable, and each has been reported
            if task.kind == "images" and not stats.images:
                partial.discard()
                return
            size_bytes = partial.finish()
        except BaseException as error:
            if partial.is_kept(error):
                report.note(
                    f"{task.output}: {len(partial.finished)} of {blocks.num_blocks} blocks are "
                    "kept; "
                    "the same command goes on from there"
                )
            raise
    stats.bytes_out = size_bytes
    report.wrote(task.output, size_bytes)
    report.stats += stats
    report.images += stats.images
    report.bytes_in += blocks.bytes_in
    if options.remove:
        task.sources.keep(lambda source: source.label not in unread)
        _remove(
            task.sources,
            task.output,
            stats.images,
            options,
            [digest for digest in digests if digest],
        )


def _entry(result: BlockResult, sources: list[Source]) -> Entry:
    """What the journal is told of a block; `account` takes it from there, in this run as in the
    next.
    """
    return {
        "images": result.stats.images,
        "stats": dataclasses.asdict(result.stats),
        "bytes_in": result.bytes_in,
        "failed": [
            (at, reason_of(sources[at].label, _without(error, sources[at])))
            for at, error in result.failed
        ],
        "inputs": result.inputs,
        "pixels": result.pixels_digest,
    }


def _without(error: Exception, source: Source) -> Exception | str:
    """A worker knows an input by its full path."""
    return (
        error
        if isinstance(error, OSError)
        else str(error).removeprefix(f"{full_path(source.label)}: ")
    )


def _remove(
    sources: Iterable[Source],
    output: Output,
    num_images: int,
    options: CompressOptions,
    wanted: list[str],
) -> None:
    """Delete inputs whose output is on the disk, once it has decoded in full.

    wanted: BLAKE2b of the pixels of each block; if it is lossless, that is what must come out.
    """
    assert isinstance(output, Path)
    num_decoded, exact = 0, True
    with open(output, "rb") as file:
        for number, block in enumerate(api.decode_blocks(file, model=options.model)):
            if block.error is not None or block.lost or block.pixels is None:
                raise block.error or BitstreamError(
                    f"images {names.ranges(block.lost)} of {output} are damaged"
                )
            num_decoded += block.count
            exact &= (
                hashlib.blake2b(block.pixels.tobytes(), digest_size=16).hexdigest()
                == wanted[number]
            )
    if num_decoded != num_images:
        raise BitstreamError(
            f"{output} holds {num_decoded} images, not {num_images}; the inputs are kept"
        )
    if options.asked.quality == LOSSLESS_QUALITY and not exact:
        raise BitstreamError(f"{output} does not hold the pixels of its inputs, which are kept")
    for source in sources:
        os.unlink(source.label)
