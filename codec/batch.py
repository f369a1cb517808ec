"""Files and directories in, files and directories out: the work behind `aez compress`, `decompress`, `test` and `merge`.

READ ME FIRST
- Everything is planned before anything is written: outputs that would collide or exist are refused by name, the rest
  is done. A failed input never stops the others; it is recorded in `Report.failed`.
- An output appears whole or not at all, and a collection that was interrupted is gone on with (`outputs`). Inputs go only
  by `remove=True`, after their output was fsynced and decoded again, and, if it is lossless, was found to have their very
  pixels.
- The images of a directory are taken in code-point order of their POSIX path below it ("10.png" before "2.png"). Files
  given one by one keep the order given, named relative to their deepest common directory.
- The unit of work is a block, or a shard of images that become files of their own (`pipeline`); this file decides which.
- Names in a stream are data from strangers: `names.safe_parts` and `_Tree` keep them below the output directory.

It prints nothing (`Report.say` hears what happens) and follows no links to directories.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import secrets
import struct
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt

from codec import __version__, api, images, names, outputs, pipeline, remote
from codec.bitstream import LOSSLESS_QUALITY
from codec.collection import Collection, DecodedBlock, Writer
from codec.errors import AezError, BitstreamError, ImageError, UsageError
from codec.outputs import Output, Partial, atomic, refuse_existing, size_of
from codec.pipeline import BlockResult, BlockTask, DecodeTask, EachTask, RestoreTask

Pixels = npt.NDArray[np.uint8]
Format = Literal["png", "npy", "idx"]
S = TypeVar("S")
R = TypeVar("R")

MAX_NAMED = 3  # lost images of a block that are called by name; their numbers are all told
_ARRAY_MAGICS = (b"\x93NUMPY", b"PK\x03\x04", b"\x1f\x8b", b"\x00\x00\x08")  # npy, npz, gzip, IDX of bytes


@dataclass
class Report:
    """What was done, what was not and why. `say` hears each failure at once, `note` what is no failure."""

    say: Callable[[str], None] = lambda line: None
    note: Callable[[str], None] = lambda line: None
    progress: Callable[[int], None] = lambda images: None  # hears how many images are through
    live: bool = False  # progress is on show
    stats: api.CompressStats = field(default_factory=api.CompressStats)
    images: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    outputs: list[str] = field(default_factory=list)  # written, or found whole by `test`; planned, in a dry run
    failed: list[tuple[str, str]] = field(default_factory=list)
    damaged: bool = False
    seen: int = 0

    def fail(self, name: str, error: Exception | str) -> None:
        """Record that `name` failed; a BitstreamError makes the whole run end as "damaged stream"."""
        self.damaged |= isinstance(error, BitstreamError)
        reason = reason_of(name, error)
        self.failed.append((name, reason))
        self.say(f"{name}: {reason}")

    @contextlib.contextmanager
    def guard(self, name: str) -> Iterator[None]:
        """Turn an error of one input into its failure, so that the others go on."""
        try:
            yield
        except BrokenPipeError:  # nobody listens any more: not a fault of this input
            raise
        except (AezError, OSError) as error:
            self.fail(name, error)

    def tick(self, num_images: int) -> None:
        self.seen += num_images
        self.progress(self.seen)

    def wrote(self, output: Output, size_bytes: int) -> None:
        self.outputs.append("-" if output is None else str(output))
        self.bytes_out += size_bytes

    @property
    def exit_code(self) -> int:
        """0 all good; 1 nothing done; 3 some inputs failed; 4 a stream is damaged (design.md 5)."""
        if self.damaged:
            return 4
        return 0 if not self.failed else 3 if self.outputs else 1


def reason_of(name: str, error: Exception | str) -> str:
    """Why `name` failed, without the name."""
    if isinstance(error, OSError) and error.strerror:  # str() would repeat the name, or show that of a temporary
        return error.strerror
    return str(error).removeprefix(f"{name}: ")


# Planning


class Source(NamedTuple):
    path: str | None  # or a URL; None: stdin
    name: str  # POSIX, below the directory it was found in

    @property
    def label(self) -> str:
        return "stdin" if self.path is None else self.path


class Sources:
    """Many inputs in order, kept as names below the directories they were found in: 80 bytes an image instead of 700."""

    def __init__(self) -> None:
        self._runs: list[tuple[str, str, list[str]]] = []  # directory (path or URL), what goes before its names, names

    def add(self, root: str, prefix: str, found: list[str]) -> None:
        self._runs.append((root, prefix, found))

    def __len__(self) -> int:
        return sum(len(found) for _, _, found in self._runs)

    def __iter__(self) -> Iterator[Source]:
        return iter(self.part(0, len(self)))

    def part(self, start: int, stop: int) -> Iterator[Source]:
        """Inputs number start .. stop - 1."""
        for root, prefix, found in self._runs:
            for name in found[max(0, start) : max(0, stop)]:
                yield Source(_below(root, name), prefix + name)
            start, stop = start - len(found), stop - len(found)

    def names(self) -> Iterator[str]:
        """The name of each."""
        return (prefix + name for _, prefix, found in self._runs for name in found)

    def keep(self, wanted: Callable[[Source], bool]) -> None:
        """Forget the others."""
        for root, prefix, found in self._runs:
            found[:] = [name for name in found if wanted(Source(_below(root, name), prefix + name))]

    def digest(self) -> str:
        """A digest of all paths and names."""
        digest = hashlib.blake2b(digest_size=16)
        for root, prefix, found in self._runs:
            for text in (root if remote.is_url(root) else os.path.abspath(root), prefix, *found):
                digest.update(os.fsencode(text) + b"\0")
        return digest.hexdigest()


def _below(root: str, name: str) -> str:
    return name if root in ("", ".") else f"{root}{'' if root.endswith('/') else '/'}{name}"


class Task(NamedTuple):
    kind: Literal["image", "images", "array", "stdin"]
    output: Output
    sources: Sources
    label: str


def _alone(source: Source) -> Sources:
    """One input as Sources."""
    sources = Sources()
    if source.path is not None:
        root, _, name = source.path.rpartition("/")
        sources.add(root or ("/" if source.path.startswith("/") else "."), source.name.removesuffix(name), [name])
    return sources


def _paths(inputs: Sequence[str]) -> list[Path]:
    if "" in inputs:
        raise UsageError("the name of an input is empty")  # as Path it would mean the current directory
    for alone in (name for name in inputs if name == "-" or remote.is_url(name)):
        if len(set(inputs)) > 1:
            raise UsageError(f"{'- (stdin)' if alone == '-' else alone} must be the only input")
    return list(dict.fromkeys(map(Path, inputs)))


def _base(paths: Sequence[Path]) -> str:
    """The directory to which names are relative: the only input itself, else what all inputs share."""
    if len(paths) == 1 and paths[0].is_dir():
        return os.path.abspath(paths[0])
    return os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])


def _relative(path: Path, base: str) -> str:
    return Path(os.path.relpath(os.path.abspath(path), base)).as_posix()


def _walk(top: str, wanted: Callable[[str], bool], report: Report) -> tuple[list[str], int]:
    """Names of the wanted files of a tree, sorted, and the number of others. Links: to files yes, to directories no.

    Each name is in memory once, with its folder before it and nothing else.
    """
    found: list[str] = []
    num_others, folders = 0, [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(_below(top, folder) or top) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(f"{folder}{entry.name}/")
                    elif entry.is_dir():
                        continue
                    # A pipe named x.png would block for ever; a dangling link: reading it says so.
                    elif wanted(entry.name) and (entry.is_file() or not os.path.exists(entry.path)):
                        found.append(folder + entry.name)
                    else:
                        num_others += 1
        except OSError as error:
            report.fail(_below(top, folder).rstrip("/"), error)
    found.sort()
    return found, num_others


def _walk_images(top: str, found: list[str], num_others: int, report: Report) -> list[str]:
    """Say what a directory lacks or has too much."""
    if not found:
        report.fail(top, ImageError(f"no images in this directory (files of other kinds: {num_others})"))
    elif num_others:
        report.note(f"{top}: skipped what is no image: {num_others} file{'s' * (num_others > 1)}")
    return found


def _images_below(path: Path, report: Report) -> list[str]:
    return _walk_images(str(path), *_walk(str(path), images.is_image_file, report), report)


def plan_compress(inputs: Sequence[str], out: str | None, separate: bool, report: Report) -> list[Task]:
    """Say which outputs come from which inputs (design.md 5); what cannot be is recorded as failed and left out.

    Raises: UsageError for a request that contradicts itself, AezError when nothing is left to do.
    """
    one_file = out == "-" or (out is not None and out.endswith(".aez"))
    if separate and one_file:
        raise UsageError("--separate writes one file an image: OUT must be a directory")
    if remote.is_url(out) and not one_file:
        raise UsageError(f"OUT is {out}: a URL must name one .aez file")
    target: Output = None if out is None or out == "-" else out if remote.is_url(out) else Path(out)
    all_paths = _paths(inputs)
    if any(map(remote.is_url, inputs)):
        return _plan_url(inputs[0], target, one_file, separate, report)
    paths = []
    for path in all_paths:
        if path.suffix == ".aez" and not path.is_dir():
            report.note(f"{path}: already compressed, skipped")
        else:
            paths.append(path)
    if not paths:
        raise AezError("nothing to compress")
    base = _base(paths)
    tasks: list[Task] = []

    def add(kind: Literal["image", "array"], path: str, name: str, bare: str) -> None:
        assert not isinstance(target, str)
        beside = Path(path).parent if target is None else target / PurePosixPath(name).parent
        tasks.append(Task(kind, beside / f"{bare}.aez", _alone(Source(path, name)), path))

    arrays = [path for path in paths if "-" not in inputs and not path.is_dir() and images.is_array_file(path)]
    if arrays and separate:
        raise UsageError(f"{arrays[0]} is an array: --separate is for images and directories")
    if "-" in inputs:
        output = target if one_file or target is None else cast(Path, target) / "stdin.aez"
        tasks.append(Task("stdin", output, _alone(Source(None, "stdin")), "stdin"))
    elif one_file and arrays:
        if len(paths) > 1:
            raise UsageError(f"{arrays[0]} is an array, a collection by itself: give it alone, or a directory as OUT")
        tasks.append(Task("array", target, _alone(Source(str(arrays[0]), arrays[0].name)), str(arrays[0])))
    elif one_file:
        sources = Sources()
        for path in paths:
            if path.is_dir():
                prefix = _relative(path, base)
                sources.add(str(path), "" if prefix == "." else f"{prefix}/", _images_below(path, report))
            else:
                sources.add(str(path.parent), _relative(path, base).removesuffix(path.name), [path.name])
        single = len(paths) == 1 and not paths[0].is_dir()
        if len(sources):
            label = str(paths[0]) if len(paths) == 1 else str(out)
            tasks.append(Task("image" if single else "images", target, sources, label))
    else:
        for path in paths:
            if not path.is_dir():
                is_array = path in arrays
                bare = names.bare_array(path.name) if is_array else names.bare(path.name)
                add("array" if is_array else "image", str(path), _relative(path, base), bare)
            elif separate or target:
                prefix = _relative(path, base)
                for name in _images_below(path, report):
                    below = _below(prefix, name)
                    add("image", _below(str(path), name), below, names.bare(PurePosixPath(name).name))
            elif found := _images_below(path, report):
                beside = Path(path if path.name not in ("", "..") else os.path.abspath(path))
                if not beside.name:
                    raise UsageError(f"{path} has no name: give OUT")
                sources = Sources()
                sources.add(str(path), "", found)
                tasks.append(Task("images", beside.with_name(beside.name + ".aez"), sources, str(path)))
    return tasks


def _plan_url(url: str, target: Output, one_file: bool, separate: bool, report: Report) -> list[Task]:
    """A URL is one input: an array, an image, or a directory of images; the output is one file."""
    if separate or (target is not None and not one_file):
        raise UsageError(f"{url} becomes one file: OUT must be an .aez file")
    if url.endswith(".aez"):
        report.note(f"{url}: already compressed, skipped")
        raise AezError("nothing to compress")
    sources = _alone(Source(url, remote.base_name(url)))
    beside = Path(remote.base_name(url))
    if images.is_array_file(beside):
        kind: Literal["image", "images", "array"] = "array"
        bare = names.bare_array(beside.name)
    elif remote.is_directory(url):
        kind, bare, sources = "images", beside.name, Sources()
        everything = remote.find(url)
        found = sorted(name for name in everything if images.is_image_file(name))
        sources.add(url, "", _walk_images(url, found, len(everything) - len(found), report))
    else:
        kind, bare = "image", names.bare(beside.name)
    output = target if one_file else Path(f"{bare}.aez")
    return [Task(kind, output, sources, url)] if len(sources) else []


def _refuse(tasks: list[Task], force: bool, report: Report) -> list[Task]:
    """Fail the tasks whose output is that of another task or exists, and the names that could not be restored."""
    by_output: dict[str, list[Task]] = {}
    for task in tasks:
        key = task.output if isinstance(task.output, str) else "" if task.output is None else os.path.abspath(task.output)
        by_output.setdefault(key, []).append(task)
    kept: list[Task] = []
    for group in by_output.values():
        if len(group) > 1:
            for task in group:
                other = next(other for other in group if other is not task)
                report.fail(task.label, UsageError(f"{task.output} would also be the output of {other.label}"))
            continue
        task = group[0]
        with report.guard(task.label):
            if task.output is not None:
                refuse_existing(task.output, force)
            if task.kind == "images":
                _keep_restorable(task.sources, report)
            if task.kind == "stdin" or len(task.sources):
                kept.append(task)
    return kept


def _keep_restorable(sources: Sources, report: Report) -> None:
    """Fail and forget inputs whose names are unsafe.  Raises UsageError if two would be restored as one file."""

    def is_safe(source: Source) -> bool:
        try:
            names.safe_parts(source.name)
        except UsageError as error:
            report.fail(source.label, error)
            return False
        return True

    sources.keep(is_safe)
    for later, earlier in names.collisions(lambda: map(names.restored, sources.names())):
        one, other = (next(sources.part(number, number + 1)) for number in (earlier, later))
        raise UsageError(f"{one.label} and {other.label} would both be restored as {names.restored(other.name)}")


# Compressing


@dataclass(frozen=True)
class CompressOptions:
    """jobs: cores to use; scheduler: address of a Dask scheduler whose workers do the work instead."""

    quality: int = api.DEFAULT_QUALITY  # 100: lossless
    model: str = "auto"
    jobs: int = 1
    force: bool = False
    remove: bool = False
    embed_model: bool = False
    scheduler: str | None = None

    def models(self) -> list[Any]:
        return api.candidates(self.model, self.quality)

    def refs(self) -> tuple[bytes, ...]:
        return tuple(map(pipeline.model_ref, self.models()))

    def spread(self, work: Callable[[S], R], tasks: Iterable[S], num_tasks: int, extra: int) -> Generator[R, None, None]:
        if self.scheduler is None:
            yield from pipeline.spread(work, tasks, self.jobs, num_tasks, extra=extra)
        else:
            from codec import cluster  # Dask takes a second to import

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
    """Compress files, directories, URLs or stdin ("-") as design.md 5 says; the result is in `report`.

    Raises: UsageError for a request that contradicts itself, ModelError; all else is a failure in the report.
    """
    if options.remove and (out == "-" or "-" in inputs or any(map(remote.is_url, (out, *inputs)))):
        raise UsageError("--rm needs files on both sides: stdin, stdout and URLs cannot be verified")
    tasks = _refuse(plan_compress(inputs, out, separate, report), options.force, report)
    if options.embed_model and any(task.kind == "image" for task in tasks):
        raise UsageError("--embed-model is for collections: a single image would grow a thousandfold")
    if dry_run:
        report.images = sum(len(task.sources) or 1 for task in tasks)
        for task in tasks:
            what = f"{task.label} ({len(task.sources)} images)" if task.kind == "images" else task.label
            report.outputs.append(f"{what} -> {'-' if task.output is None else task.output}")
        return
    _compress_each([task for task in tasks if task.kind == "image"], options, report)
    for task in tasks:
        if task.kind != "image":
            with report.guard(task.label):
                _compress_collection(task, options, report)


def _compress_each(tasks: Sequence[Task], options: CompressOptions, report: Report) -> None:
    """One stream an image, one network pass a shard."""
    if not tasks:
        return
    refs, size = options.refs(), pipeline.SHARD_IMAGES
    shards = [tasks[at : at + size] for at in range(0, len(tasks), size)]
    work = (
        EachTask([task.label for task in shard], [None if task.output is None else str(task.output) for task in shard],
                 options.quality, refs, options.force, options.remove)
        for shard in shards
    )  # fmt: skip
    local = dataclasses.replace(options, scheduler=None)  # its files would appear on the machines of the workers
    with closing(local.spread(pipeline.encode_each, work, len(shards), pipeline.SPARE)) as done:
        for shard, results in zip(shards, done, strict=True):
            for task, result in zip(shard, results, strict=True):
                report.bytes_in += result.bytes_in
                if isinstance(result.stats, Exception):
                    report.fail(task.label, result.stats)
                    continue
                report.wrote(task.output, result.stats.bytes_out)
                report.stats += result.stats
                report.images += 1
                if options.remove:
                    with report.guard(task.label):
                        _remove(task.sources, task.output, 1, options, [result.pixels_digest])
            report.tick(len(shard))


@dataclass
class _Blocks:
    """What a collection is to be made of.

    inputs: pins them; tasks: from a block on; sources: of a block (none of an array's); identity: of a block's inputs now.
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
        return [_full(source.label) for source in block(number)]

    def tasks(start: int) -> Iterator[BlockTask]:
        for number in range(start, num_blocks):
            yield BlockTask(None, paths(number), [source.name for source in block(number)], options.quality, refs)

    num_blocks = -(-len(sources) // size)
    private = remote.is_private(next(iter(sources)).label)
    return _Blocks(num_blocks, sources.digest(), tasks, block, lambda number: pipeline.identity(paths(number)), private=private)


def _full(path: str) -> str:
    """The path as other processes, and other machines with the same disks, can find it."""
    return path if remote.is_url(path) else os.path.abspath(path)


def _blocks_of_array(array: images.ArrayFile, inputs: str, num_bytes: int, options: CompressOptions) -> _Blocks:
    size, refs = api.BLOCK_IMAGES, options.refs()

    def tasks(start: int) -> Iterator[BlockTask]:
        for number, pixels in enumerate(array.blocks(size)):
            if number >= start:
                yield BlockTask(pixels, (), None, options.quality, refs)

    return _Blocks(-(-array.num_images // size), inputs, tasks, bytes_in=num_bytes)


def _compress_collection(task: Task, options: CompressOptions, report: Report) -> None:
    with ExitStack() as stack:
        if task.kind == "images":
            blocks = _blocks_of_images(task.sources, options)
        elif task.kind == "array":
            path = next(iter(task.sources)).label
            source: Path | BinaryIO = stack.enter_context(remote.open_file(path)) if remote.is_url(path) else Path(path)
            array = stack.enter_context(images.open_array(source, name=path))
            num_bytes = remote.size(path) if remote.is_url(path) else os.stat(path).st_size
            blocks = _blocks_of_array(array, f"{_full(path)} {pipeline.identity([path])}", num_bytes, options)
        else:
            stream = sys.stdin.buffer.read()
            if not stream.startswith(_ARRAY_MAGICS):
                _compress_stdin_image(stream, task.output, options, report)
                return
            array = stack.enter_context(images.open_array(io.BytesIO(stream), name="stdin"))
            blocks = _blocks_of_array(array, secrets.token_hex(), len(stream), options)  # it will not come again
        _write_collection(task, blocks, options, report)


def _compress_stdin_image(stream: bytes, output: Output, options: CompressOptions, report: Report) -> None:
    if options.embed_model:
        raise UsageError("--embed-model is for collections: a single image would grow a thousandfold")
    pixels = images.read_image(io.BytesIO(stream), name="stdin")
    packed, stats = api.compress_image(pixels, quality=options.quality, model=options.model)
    with atomic(output, force=options.force) as file:
        file.write(packed)
    report.wrote(output, len(packed))
    report.stats += stats
    report.images += 1
    report.bytes_in += len(stream)


def _write_collection(task: Task, blocks: _Blocks, options: CompressOptions, report: Report) -> None:
    """Make the blocks that an earlier run of this command has not made, and let the collection appear."""
    models = options.models()
    pins = {
        "aez": __version__, "block_images": api.BLOCK_IMAGES, "inputs": blocks.inputs, "named": task.kind == "images",
        "quality": options.quality, "models": [model.hash.hex() for model in models], "embedded": options.embed_model,
        "output": str(task.output),
    }  # fmt: skip
    stats, digests = api.CompressStats(), []
    unread: set[str] = set()

    def account(number: int, entry: outputs.Entry) -> None:
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
    with Partial(task.output, pins, force=options.force, models=embedded) as partial:
        entries = partial.finished
        start = next((k for k, entry in enumerate(entries) if entry["inputs"] != blocks.identity(k)), len(entries))
        if start < len(entries):  # an input is another one: what comes after it might be too
            report.note(f"{task.output}: inputs have changed since the run that was interrupted; starting anew")
            start = 0
        elif start:
            report.note(f"{task.output}: going on after block {start} of {blocks.num_blocks}")
        partial.keep(start)
        for number, entry in enumerate(partial.finished):
            account(number, entry)
        try:
            # Files have to be waited for, so there is a process more than cores; arrays are read here.
            extra = pipeline.SPARE if task.kind == "images" else 0
            num_tasks = 1 if blocks.private else blocks.num_blocks - start
            results = options.spread(pipeline.encode_block, blocks.tasks(start), num_tasks, extra)
            with closing(results) as done:
                for number, result in enumerate(done, start):
                    entry = _entry(result, blocks.sources(number))
                    partial.write(result.block, entry)
                    account(number, entry)
        except (KeyboardInterrupt, OSError):
            if partial.finished and task.output is not None:
                report.note(f"{task.output}: {len(partial.finished)} of {blocks.num_blocks} blocks are kept; "
                            "the same command goes on from there")  # fmt: skip
            raise
        if task.kind == "images" and not stats.images:  # not one was readable, and each has been reported
            partial.discard()
            return
        size_bytes = partial.finish()
    stats.bytes_out = size_bytes
    report.wrote(task.output, size_bytes)
    report.stats += stats
    report.images += stats.images
    report.bytes_in += blocks.bytes_in
    if options.remove:
        task.sources.keep(lambda source: source.label not in unread)
        _remove(task.sources, task.output, stats.images, options, [digest for digest in digests if digest])


def _entry(result: BlockResult, sources: list[Source]) -> outputs.Entry:
    """What the journal is told of a block; `account` takes it from there, in this run as in the next."""
    return {
        "images": result.stats.images, "stats": dataclasses.asdict(result.stats), "bytes_in": result.bytes_in,
        "failed": [(at, reason_of(sources[at].label, _without(error, sources[at]))) for at, error in result.failed],
        "inputs": result.inputs, "pixels": result.pixels_digest,
    }  # fmt: skip


def _without(error: Exception, source: Source) -> Exception | str:
    """A worker knows an input by its full path."""
    return error if isinstance(error, OSError) else str(error).removeprefix(f"{_full(source.label)}: ")


def _remove(
    sources: Iterable[Source], output: Output, num_images: int, options: CompressOptions, wanted: list[str]
) -> None:
    """Delete inputs whose output is on the disk, once it has decoded in full.

    wanted: BLAKE2b of the pixels of each block; if it is lossless, that is what must come out.
    """
    assert isinstance(output, Path)
    num_decoded, exact = 0, True
    with open(output, "rb") as file:
        for number, block in enumerate(api.decode_blocks(file, model=options.model)):
            if block.error is not None or block.lost or block.pixels is None:
                raise block.error or BitstreamError(f"images {names.ranges(block.lost)} of {output} are damaged")
            num_decoded += block.count
            exact &= hashlib.blake2b(block.pixels.tobytes(), digest_size=16).hexdigest() == wanted[number]
    if num_decoded != num_images:
        raise BitstreamError(f"{output} holds {num_decoded} images, not {num_images}; the inputs are kept")
    if options.quality == LOSSLESS_QUALITY and not exact:
        raise BitstreamError(f"{output} does not hold the pixels of its inputs, which are kept")
    for source in sources:
        os.unlink(source.label)


# Decompressing


class Chunk(NamedTuple):
    """Decoded, undamaged images of one block."""

    numbers: Sequence[int]  # positions in the collection
    names: Sequence[str]  # empty for an unnamed collection
    pixels: Pixels  # (n, 28, 28)
    is_single: bool


class Target(NamedTuple):
    """Where the images of one stream go; which of the two it is depends on what the stream turns out to hold."""

    stem: Path | str | None  # of a file, its suffix to come; str: a URL; None: stdout
    tree: Path | str
    exact: bool  # OUT named the very file
    tree_given: bool  # OUT named the very tree, so it may exist

    def file(self, suffix: str) -> Output:
        if self.exact or self.stem is None:
            return self.stem
        return f"{self.stem}.{suffix}" if isinstance(self.stem, str) else self.stem.with_name(f"{self.stem.name}.{suffix}")


@contextlib.contextmanager
def open_stream(source: Source) -> Iterator[BinaryIO]:
    if source.path is None:
        yield io.BytesIO(sys.stdin.buffer.read())
    else:
        with remote.open_file(source.path) if remote.is_url(source.path) else open(source.path, "rb") as file:
            yield file


def find_streams(inputs: Sequence[str], report: Report) -> list[Source]:
    """The streams that inputs mean: files as they are, of directories every `.aez` below."""
    paths = _paths(inputs)
    if "-" in inputs:
        return [Source(None, "stdin")]
    if any(map(remote.is_url, inputs)):
        return [Source(inputs[0], remote.base_name(inputs[0]))]
    base = _base(paths)
    sources: list[Source] = []
    for path in paths:
        if path.is_dir():
            found, _ = _walk(str(path), lambda name: name.endswith(".aez"), report)
            if not found:
                report.fail(str(path), UsageError("no .aez files in this directory"))
            prefix = _relative(path, base)
            sources += [Source(_below(str(path), name), _below(prefix, name)) for name in found]
        else:
            sources.append(Source(str(path), _relative(path, base)))
    return sources


def decompress(
    inputs: Sequence[str],
    out: str | None = None,
    *,
    format: Format | None = None,
    index: Sequence[range] | None = None,
    model: str | None = None,
    jobs: int = 1,
    force: bool = False,
    report: Report,
) -> None:
    """Restore images, trees and arrays from streams; what is damaged is reported, all that is intact is written.

    model: name or file of a model that the streams name but that is not installed.
    Raises: UsageError for a request that contradicts itself; all else is a failure in the report.
    """
    suffix = "" if out is None else PurePosixPath(out).suffix
    if suffix == ".aez":
        raise UsageError(f"OUT is {out}: decompress writes images and arrays, not .aez files")
    exact = suffix in (".png", ".npy", ".idx")
    if exact:
        if format not in (None, suffix[1:]):
            raise UsageError(f"--format {format} contradicts OUT {out}")
        format = cast(Format, suffix[1:])
    elif out is not None and images.is_array_file(Path(out)) and not Path(out).is_dir():
        raise UsageError(f"OUT is {out}: arrays are written as .npy or .idx")
    sources = find_streams(inputs, report)
    if (exact or out == "-") and len(sources) > 1:
        raise UsageError(f"OUT {out} is one file, but there are {len(sources)} inputs")
    one_stream = len(inputs) == 1 and (remote.is_url(inputs[0]) or not Path(inputs[0]).is_dir())
    jobs_by_stem: dict[str, list[tuple[Source, Target]]] = {}
    for source in sources:
        target = _target(source, out, exact, one_stream)
        jobs_by_stem.setdefault(os.path.abspath(target.stem or ""), []).append((source, target))
    for group in jobs_by_stem.values():
        for source, target in group:
            with report.guard(source.label):
                if len(group) > 1:
                    other = next(other for other, _ in group if other is not source)
                    raise UsageError(f"{target.stem} would also be the output of {other.label}")
                _decompress_one(source, target, format, index, model, jobs, force, report)


def _target(source: Source, out: str | None, exact: bool, one_stream: bool) -> Target:
    if out == "-":
        return Target(None, Path(), exact=False, tree_given=False)
    if exact:
        assert out is not None
        file = out if remote.is_url(out) else Path(out)
        return Target(file, file, exact=True, tree_given=False)
    if out is None:
        is_path = source.path is not None and not remote.is_url(source.path)
        beside = Path(source.label if is_path else source.name)
        stem = beside.with_name(beside.name.removesuffix(".aez") or beside.name)
        return Target(stem, stem, exact=False, tree_given=False)
    name = source.name.removesuffix(".aez") or source.name
    if remote.is_url(out):
        return Target(_below(out, name), out if one_stream else _below(out, name), exact=False, tree_given=True)
    stem = Path(out, name)
    return Target(stem, Path(out) if one_stream else stem, exact=False, tree_given=True)


def _decompress_one(
    source: Source,
    target: Target,
    format: Format | None,
    index: Sequence[range] | None,
    model: str | None,
    jobs: int,
    force: bool,
    report: Report,
) -> None:
    with open_stream(source) as file:
        num_bytes, label = size_of(file), source.label
        collection = api.recovered(file, model)
        num_images = 1 if collection is None else sum(place.images for place in collection.places())
        for part in index or ():
            if part[-1] >= num_images:
                raise UsageError(f"--index {part[-1]} is out of range: {num_images} images, the first is 0")
        if collection is None:
            for chunk in decoded(api.decode_blocks(file, model=model), label, report):
                report.bytes_in += num_bytes
                for _ in index or (0,):
                    _write_single(chunk.pixels, target, format or "png", force, report)
            return
        if format is None:
            format = "png" if target.stem is not None and _is_named(collection) else "npy"
        is_tree = format == "png" and target.stem is not None and not target.exact
        tree = _Tree(target, len(str(max(num_images - 1, 0))), force) if is_tree else None
        numbers = None if index is None else list(chain.from_iterable(index))
        shared = None if numbers is not None else _shared(source, model, jobs)
        if tree is not None and shared is not None:  # the workers decode and write: no pixels come here
            tree.write(_plans_of_places(shared), jobs, sum(1 for _ in shared.places()), label, report)
        elif tree is not None and numbers is None:
            tree.write(_plans_of_blocks(api.decode_blocks(file, model=model)), 1, 1, label, report)
        else:
            if numbers is None:
                chunks = decoded(_decoded_blocks(file, shared, model, jobs), label, report)
            else:
                chunks = _pick(file, collection, numbers, label, model, report, named=tree is not None)
            if tree is not None:
                tree.write(map(_plan_of_chunk, chunks), 1, 1, label, report, picked=True)
            elif format == "png":
                if (num_images if numbers is None else len(numbers)) != 1:
                    raise UsageError("one PNG holds one image: pick it by --index, or let OUT be a directory or an array")
                for chunk in chunks:
                    _write_single(chunk.pixels, target, "png", force, report)
            else:
                num_failed = len(report.failed)
                first = next(chunks, None)
                if first is None and len(report.failed) > num_failed:
                    return
                rest = chunks if first is None else chain([first], chunks)
                _write_array(rest, target.file(format), format, force, report)
        report.bytes_in += num_bytes


def _is_named(collection: Collection) -> bool:
    """Whether images have names, by the first block whose header is intact: one block is as the others."""
    for place in collection.places():
        with contextlib.suppress(BitstreamError):
            return collection.header_at(place).has_names
    return False


def _shared(source: Source, model: str | None, jobs: int) -> Collection | None:
    """The collection, if it is one that processes can open for themselves and that has blocks enough for two."""
    if jobs < 2 or source.path is None or remote.is_url(source.path):
        return None
    collection = api.recovered(Path(source.path), model)
    return collection if collection is not None and len(list(islice(collection.places(), 2))) == 2 else None


def _decoded_blocks(file: BinaryIO, shared: Collection | None, model: str | None, jobs: int, keep_pixels: bool = True
                    ) -> Iterator[DecodedBlock]:  # fmt: skip
    if shared is None:
        yield from api.decode_blocks(file, model=model)
        return
    places = list(shared.places())
    tasks = (DecodeTask(shared, place, keep_pixels) for place in places)
    yield from pipeline.spread(pipeline.decode_block, tasks, jobs, len(places))
    if shared.fault is not None:
        yield DecodedBlock(places[-1].first + places[-1].images, 0, None, error=shared.fault)


def _tell_damage(block: DecodedBlock, number: int, names_: Sequence[str], label: str, report: Report,
                 chosen: Iterable[int] | None = None) -> set[int]:  # fmt: skip
    """Report what is wrong with a block (among the images chosen); returns which of its images are gone."""
    gone = set(range(block.count) if block.pixels is None else block.lost)
    lost = [i for i in (range(block.count) if chosen is None else chosen) if i in gone]
    # A fault may lie elsewhere than in the images: in names, index, footer. It counts unless images not chosen explain it.
    if lost or (block.error is not None and not gone):
        where = "" if block.is_single or not block.count else f"block {number}: "
        if where and lost:
            known = [names_[i] for i in lost[:MAX_NAMED]] if names_ else []
            called = f" ({', '.join(known)}{', ...' * (len(lost) > MAX_NAMED)})" if known else ""
            where = f"block {number}, images {names.ranges([block.first + i for i in lost])}{called}: "
        report.fail(label, BitstreamError(f"{where}{block.error or 'damaged'}"))
    return gone


def decoded(
    blocks: Iterator[DecodedBlock], label: str, report: Report, wanted: set[int] | None = None
) -> Iterator[Chunk]:
    """Yield what is intact (and wanted) of blocks, and report the rest as damaged."""
    if wanted is not None and not wanted:
        return
    with report.guard(label):
        for number, block in enumerate(blocks):
            chosen = [i for i in range(block.count) if wanted is None or block.first + i in wanted]
            gone = _tell_damage(block, number, block.names, label, report, chosen)
            keep = [i for i in chosen if i not in gone]
            if keep and block.pixels is not None:
                kept_names = [block.names[i] for i in keep] if block.names else []
                pixels = block.pixels if len(keep) == block.count else block.pixels[keep]
                yield Chunk([block.first + i for i in keep], kept_names, pixels, block.is_single)
            report.tick(block.count)
            if wanted is not None and block.first + block.count > max(wanted):
                return


def _pick(file: BinaryIO, collection: Collection, numbers: list[int], label: str, model: str | None, report: Report,
          *, named: bool) -> Iterator[Chunk]:  # fmt: skip
    """Decode images in the order asked for, repeats included."""
    try:
        pixels = collection[numbers]  # touches the groups wanted, no others
        found_names = collection.names_at(numbers) if named else []
        yield Chunk(numbers, found_names if any(found_names) else [], pixels, is_single=False)
        return
    except BitstreamError:  # go block by block, which tells what is lost
        pass
    found: dict[int, tuple[str | None, Pixels]] = {}
    for chunk in decoded(api.decode_blocks(file, model=model), label, report, set(numbers)):
        for i, number in enumerate(chunk.numbers):
            found[number] = chunk.names[i] if chunk.names else None, chunk.pixels[i]
    there = [number for number in numbers if number in found]
    if there:
        kept_names = [name for number in there if (name := found[number][0]) is not None]
        yield Chunk(there, kept_names, np.stack([found[number][1] for number in there]), is_single=False)


def _write_single(pixels: Pixels, target: Target, format: Format, force: bool, report: Report) -> None:
    packed = {
        "png": lambda: images.pack_png(pixels[0]),
        "npy": lambda: images.pack_npy(pixels[0]),  # the shape that was compressed
        "idx": lambda: images.pack_idx(pixels),
    }[format]()
    path = target.file(format)
    with atomic(path, force=force) as file:
        file.write(packed)
    report.wrote(path, len(packed))
    report.images += 1


def _write_array(chunks: Iterable[Chunk], path: Output, format: Format, force: bool, report: Report) -> None:
    """Write .npy or IDX block by block; the header is put right at the end, when the number of images is known."""
    num_images = 0
    with atomic(path, force=force, durable=True) as file:
        file.write(_array_header(format, 0))
        for chunk in chunks:
            file.write(chunk.pixels.tobytes())
            num_images += len(chunk.pixels)
        file.seek(0)
        file.write(_array_header(format, num_images))
        size_bytes = size_of(file)
    report.wrote(path, size_bytes)
    report.images += num_images


def _array_header(format: Format, num_images: int) -> bytes:
    """Header of uint8 (num_images, 28, 28); its length does not depend on num_images (numpy pads the first axis)."""
    if format == "idx":
        return struct.pack(">4B3I", 0, 0, 8, 3, num_images, 28, 28)
    header = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": (num_images, 28, 28)}
    np.lib.format.write_array_header_1_0(header, fields)
    return header.getvalue()


class Plan(NamedTuple):
    """A block to be restored: decoded already or not, the numbers of its images, and their names, if they have any."""

    block: DecodedBlock | DecodeTask
    numbers: Sequence[int]
    names: Sequence[str]


def _plans_of_blocks(blocks: Iterable[DecodedBlock]) -> Iterator[Plan]:
    for block in blocks:
        yield Plan(block, range(block.first, block.first + block.count), block.names)


def _plans_of_places(collection: Collection) -> Iterator[Plan]:
    end = 0
    for place in collection.places():
        end = place.first + place.images
        yield Plan(DecodeTask(collection, place, True), range(place.first, end), collection.names_or_numbers(place))
    if collection.fault is not None:
        yield Plan(DecodedBlock(end, 0, None, error=collection.fault), (), ())


def _plan_of_chunk(chunk: Chunk) -> Plan:
    return Plan(DecodedBlock(0, len(chunk.pixels), chunk.pixels), chunk.numbers, chunk.names)


class _Tree:
    """A directory into which the images of one collection are restored, and out of which no name leads.

    width: digits in the file name of an image that has no name.
    """

    def __init__(self, target: Target, width: int, force: bool) -> None:
        self.root, self.width, self.force = target.tree, width, force
        if isinstance(self.root, Path):
            if self.root.exists() and not self.root.is_dir():
                raise UsageError(f"output directory {self.root} is a file")
            if not (force or target.tree_given) and self.root.is_dir() and any(self.root.iterdir()):
                raise UsageError(f"output directory {self.root} exists and is not empty (-o or -f)")
            self.real_root = os.path.realpath(self.root)
            self.folds_case = names.folds_case(self.root)
        # By hash, as a million paths take 200 MB: two different ones are taken for one once in 10**8 such collections.
        self._taken: dict[int, int] = {}
        self._checked: set[str] = set()

    def write(self, plans: Iterable[Plan], jobs: int, num_blocks: int, label: str, report: Report, *, picked: bool = False
              ) -> None:  # fmt: skip
        """Restore blocks; picked: their damage has been reported, and they have no numbers."""
        num_images = report.images
        under_way: deque[tuple[Plan, list[str]]] = deque()

        def tasks() -> Iterator[RestoreTask]:
            for plan in plans:
                called = plan.names or [f"{number:0{self.width}}" for number in plan.numbers]
                shown = [f"{label}: {name}" for name in called]
                under_way.append((plan, shown))
                paths = [self._place(*of_image, report) for of_image in zip(called, plan.numbers, shown, strict=True)]
                yield RestoreTask(plan.block, paths, self.force)

        with closing(pipeline.spread(pipeline.restore, tasks(), jobs, num_blocks)) as results:
            for number, (block, written) in enumerate(results):
                plan, shown = under_way.popleft()
                if not picked:
                    _tell_damage(block, number, plan.names, label, report)
                    report.tick(block.count)
                for name, result in zip(shown, written, strict=True):
                    if isinstance(result, Exception):
                        report.fail(name, result)
                    elif result is not None:
                        report.images += 1
                        report.bytes_out += result
        if report.images > num_images:
            report.outputs.append(f"{self.root}/")

    def _place(self, name: str, number: int, shown: str, report: Report) -> str | None:
        """Where an image goes; None: nowhere, as has been reported, or where it has been put already."""
        with report.guard(shown):
            names.safe_parts(name)
            path = _below(str(self.root), names.restored(name))
            if isinstance(self.root, Path):
                self._check_folder(path.rpartition("/")[0])
            key = names.folded(path) if isinstance(self.root, Path) and self.folds_case else path
            other = self._taken.get(hash(key))
            if other == number:  # --index named it twice
                return None
            if other is not None:
                raise UsageError(f"{path} is also the output of image {other}")
            self._taken[hash(key)] = number
            if isinstance(self.root, str) and not self.force and remote.exists(path):
                raise UsageError(f"output {path} exists (-f overwrites it)")
            return path
        return None

    def _check_folder(self, folder: str) -> None:
        """Refuse a directory that a link in OUT leads out of it."""
        if folder not in self._checked:
            real = os.path.realpath(folder)
            if os.path.commonpath([real, self.real_root]) != self.real_root:
                raise UsageError(f"{folder} is a link that leads out of {self.root}")
            self._checked.add(folder)


# Checking and joining


def check(
    inputs: Sequence[str], report: Report, model: str | None = None, *, jobs: int = 1
) -> list[tuple[str, int]]:
    """Decode every stream in full and write nothing; returns the whole ones with their number of images."""
    whole: list[tuple[str, int]] = []
    for source in find_streams(inputs, report):
        with report.guard(source.label), open_stream(source) as file:
            num_failed = len(report.failed)
            api.recovered(file, model)  # what is no stream at all fails here
            shared = _shared(source, model, jobs)
            blocks = _decoded_blocks(file, shared, model, jobs, keep_pixels=False)
            num_images = sum(len(chunk.pixels) for chunk in decoded(blocks, source.label, report))
            report.images += num_images
            if len(report.failed) == num_failed:
                report.outputs.append(source.label)
                whole.append((source.label, num_images))
    return whole


def merge(inputs: Sequence[str], out: str, *, force: bool = False, report: Report) -> None:
    """Join collections into one: their blocks as they are, each verified by its Checksum, in the order given.

    All must have names or none; two images that would be restored as one file are an error, and nothing is written.
    Raises: UsageError; a damaged input is a failure in the report.
    """
    output: Output = None if out == "-" else out if remote.is_url(out) else Path(out)
    if output is not None and not out.endswith(".aez"):
        raise UsageError(f"OUT is {out}: it must be an .aez file")
    if output is not None:
        refuse_existing(output, force)
    if len(inputs) < 2:
        raise UsageError("there is nothing to join: give two collections or more")
    label = out
    try:
        with ExitStack() as stack:
            collections: list[tuple[str, Collection]] = []
            for label in inputs:
                collections.append((label, stack.enter_context(api.open(label))))
            named = {label: collection.has_names for label, collection in collections if len(collection)}
            if len(set(named.values())) > 1:
                one, other = (next(label for label, has in named.items() if has is wanted) for wanted in (True, False))
                raise UsageError(f"the images of {one} have names, those of {other} have none")
            label = out
            if any(named.values()):
                _refuse_collisions(collections)
            models = list(dict.fromkeys(m for _, collection in collections for m in collection.embedded))
            with atomic(output, force=force, durable=True) as file:
                writer = Writer(file, models)
                for label, collection in collections:  # noqa: B007 (what fails is told by its label)
                    for number, place in enumerate(collection.places()):
                        try:
                            header, block = collection.read_block(place)
                        except BitstreamError as error:
                            raise BitstreamError(f"block {number}: {error}") from None
                        writer.write(block, header.image_count)
                        report.tick(header.image_count)
                writer.finish()
                label = out
    except (BitstreamError, OSError) as error:
        report.fail(label, error)
        return
    report.images += sum(len(collection) for _, collection in collections)
    report.bytes_in += sum(collection.num_bytes for _, collection in collections)
    report.wrote(output, writer.num_bytes)


def _refuse_collisions(collections: list[tuple[str, Collection]]) -> None:
    def restored() -> Iterator[str]:
        return (names.restored(name) for _, collection in collections for name in collection.each_name())

    def called(number: int) -> str:
        for label, collection in collections:
            if number < len(collection):
                return f"{label}: {collection.name(number)}"
            number -= len(collection)
        raise AssertionError

    for later, earlier in names.collisions(restored):
        raise UsageError(f"{called(earlier)} and {called(later)} would both be restored as one file")
