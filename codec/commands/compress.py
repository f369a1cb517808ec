"""`aez compress`: files, directories, arrays, tables, archives and URLs -> streams.

READ ME FIRST
- Everything is planned first (`planning`); a job makes a collection (`collecting`) or single files.
- The unit of work is a block, or a shard of images that become single files (`work`).
- An output appears whole or not at all (`Place.replace`), and the same command resumes a collection
  that was interrupted (`resume`).
- Only `remove=True` deletes inputs, after their output was fsynced and decoded again, and, if it is
  lossless, has exactly their pixels; and none of which something is not stored.
"""

from __future__ import annotations

import io
import secrets
from collections.abc import Sequence
from contextlib import closing

from codec import parallel
from codec.commands import processes, work
from codec.commands.blocks import Blocks, FileBlocks, SourceBlocks
from codec.commands.collecting import check_append, write_collection
from codec.commands.events import Done, Events, Failed, Planned, Progress, expected, guarded
from codec.commands.inputs import Input
from codec.commands.jobs import Collecting, Images, Job, Singles, Source, Stdin, give_labels
from codec.commands.planning import plan, refuse
from codec.commands.run import DEFAULTS, Run
from codec.commands.run import CompressOptions as CompressOptions
from codec.commands.work import EachResult, EachTask
from codec.encoder.stats import CompressStats
from codec.errors import ModelError, UsageError
from codec.files import images
from codec.files.batch import ImageSource, image_errors
from codec.files.place import STANDARD, Place, place
from codec.files.sources import is_source_content, open_source

_NO_SINGLES = "--embed-model is for collections: a single image would grow a thousandfold"


def compress(
    inputs: Sequence[str],
    out: str | None = None,
    *,
    separate: bool = False,
    dry_run: bool = False,
    options: CompressOptions = DEFAULTS,
) -> Events:
    """Compress files, directories, URLs or stdin ("-"); see `planning` for the outputs.

    Raises UsageError for options that contradict each other; all else is a failure of its input.
    """
    if options.remove and (out == "-" or any(_cannot_be_verified(name) for name in (out, *inputs))):
        raise UsageError(
            "--rm needs files as INPUT and OUT: it cannot verify stdin, stdout or URLs"
        )
    planned = yield from plan(inputs, out, separate, options.reading, options.append)
    run = Run(options, planned)
    jobs = yield from refuse(planned, options.force or options.append)
    if options.embed_model and any(isinstance(job, Singles) for job in jobs):
        raise UsageError(_NO_SINGLES)
    if options.embed_model:
        options.encoding.check_embedding()
    if dry_run:
        for job in jobs:
            yield from guarded(job.label, _planned(job, run))
        return
    yield from expected(sum(job.num_images for job in jobs))
    try:
        with parallel.cores(options.jobs):
            for job in jobs:
                yield from _done(job, run)
    except ModelError as error:
        # nothing more can be done without the model, but finished outputs count
        yield Failed(options.encoding.model, str(error), named=True)
    yield from run.notes()


def _cannot_be_verified(name: str | None) -> bool:
    return name is not None and (name == "-" or place(name).path is None)


def _planned(job: Job, run: Run) -> Events:
    """What a job would do."""
    match job:
        case Source():
            with job.open() as source:
                yield from _said(job.label, str(job.source.place), source, run)
                labels = source.labels_from
                there = _there(job, SourceBlocks(source, "", 1, run.options.reading.grey), run)
                yield Planned(job.label, str(job.output), source.num_images, True, labels, there)
        case Images():
            found, labels = job.labels() or (None, "")
            there = _there(job, FileBlocks(job.inputs, found, 1, run.options.reading.grey), run)
            yield Planned(job.label, str(job.output), job.num_images, True, labels, there)
        case _:
            for label, output in job.outputs():
                yield Planned(label, str(output), 1, False)


def _there(job: Collecting, blocks: Blocks, run: Run) -> int | None:
    """How many images the output has already; None: it is a new one."""
    if not (run.options.append and job.output.exists()):
        return None
    return check_append(job.output, blocks, job.label)


def _done(job: Job, run: Run) -> Events:
    match job:
        case Singles():
            return _compress_singles(job, run)
        case Images():
            return guarded(job.label, _compress_images(job, run))
        case Source():
            return guarded(job.label, _compress_source(job, run))
        case Stdin():
            return guarded(job.label, _compress_stdin(job, run))
    raise AssertionError(job)


# Single files


def _compress_singles(job: Singles, run: Run) -> Events:
    """One stream for each image, one network pass for each shard."""
    options = run.options
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
            options.reading.grey,
        )
        for pairs in map(shard, starts)
    )
    # not on a cluster: the files would be written on the machines of the workers
    results = processes.spread(work.encode_each, tasks, options.jobs, len(starts))
    with closing(results) as done:
        for start, shard_results in zip(starts, done, strict=True):
            for (image, output), result in zip(shard(start), shard_results, strict=True):
                yield from guarded(image.label, _single(image, output, result, run))
            sizes = [r.stats.bytes_out for r in shard_results if isinstance(r.stats, CompressStats)]
            yield Progress(len(shard_results), sum(sizes))


def _single(image: Input, output: Place, result: EachResult, run: Run) -> Events:
    if isinstance(result.stats, Exception):
        yield Failed.by(image.label, result.stats)
        return
    stats = result.stats
    run.use(stats.models)
    yield Done(image.label, str(output), 1, result.bytes_in, stats.bytes_out, stats)
    run.drop(dict.fromkeys(result.dropped, 1))
    if run.options.remove and result.dropped:
        run.keep(1)
    elif run.options.remove:
        run.remove([image], output, 1, [(result.pixels_digest, "")])


# Collections


def _compress_images(job: Images, run: Run) -> Events:
    options = run.options
    labels, origin = job.labels() or (None, "")
    if origin:
        yield from run.note(f"{job.label}: labels from {origin}")
    blocks = FileBlocks(job.inputs, labels, options.block_images, options.reading.grey)
    yield from write_collection(job, blocks, run)


def _compress_source(job: Source, run: Run) -> Events:
    where = job.source.place
    # with which array of the file it is
    identity = f"{where.full()} {job.reading} {work.identity([str(where)])}"
    with job.open() as source:
        yield from _said(job.label, str(where), source, run)
        blocks = SourceBlocks(source, identity, run.options.block_images, run.options.reading.grey)
        yield from write_collection(job, blocks, run)


def _said(label: str, file: str, source: ImageSource, run: Run) -> Events:
    """What is to be said of many images in one file before they are compressed."""
    for name, error in source.failed:
        yield Failed.by(name, error)
    for note in source.notes:
        yield from run.note(f"{label}: {note}")
    if source.labels_from:
        yield from run.note(f"{label}: labels from {source.labels_from}")
    if source.left:
        yield from run.note(f"{file}: not stored: {'; '.join(source.left)}")
    if not source.num_images:
        yield from run.note(f"{label}: holds no images")


def _compress_stdin(job: Stdin, run: Run) -> Events:
    options = run.options
    with STANDARD.open() as file:
        content = file.read()
    with image_errors(job.label):
        has_many = is_source_content(io.BytesIO(content))
    if has_many:
        with open_source(io.BytesIO(content), job.label, options.reading) as source:
            give_labels(source, options.reading.labels)
            yield from _said(job.label, job.label, source, run)
            # a random pin: stdin cannot be read again
            blocks = SourceBlocks(
                source, secrets.token_hex(), options.block_images, options.reading.grey
            )
            yield from write_collection(job, blocks, run)
        return
    if options.embed_model:
        raise UsageError(_NO_SINGLES)
    image = images.examine(io.BytesIO(content), job.label, grey=options.reading.grey)
    packed = work.encode_one(image, options.encoding)
    job.output.write(packed.data, force=options.force)
    run.drop(dict.fromkeys(image.dropped, 1))
    run.use(packed.stats.models)
    yield Done(job.label, str(job.output), 1, len(content), len(packed.data), packed.stats)
