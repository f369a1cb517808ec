"""Files and directories in, files and directories out: the work behind `aez compress`, `decompress` and `test`.

READ ME FIRST
- Everything is planned before anything is written: outputs that would collide or exist are refused by name, the rest
  is done. A failed input never stops the others; it is recorded in `Report.failed`.
- An output appears whole or not at all (`atomic`). Inputs go only by `remove=True`, after their output was fsynced and
  decoded again, and, if it is lossless, was found to have their very pixels.
- The images of a directory are taken in code-point order of their POSIX path below it ("10.png" before "2.png"). Files
  given one by one keep the order given, named relative to their deepest common directory.
- A collection keeps names with their suffix; `decompress` writes `.png` in its place. So `a.png` and `a.jpg` collide.
- Names in a stream are data from strangers: `safe_parts` and `_Tree` keep them below the output directory.

It prints nothing (`Report.say` hears what happens) and follows no links to directories.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import secrets
import shutil
import signal
import stat
import struct
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt

from codec import api, images
from codec.bitstream import LOSSLESS_QUALITY
from codec.errors import AezError, BitstreamError, ImageError, UsageError

Pixels = npt.NDArray[np.uint8]
Format = Literal["png", "npy", "idx"]
S = TypeVar("S")
R = TypeVar("R")

# Images read, coded and written at a time: enough that a worker process pays, and that one network pass is large.
SHARD_IMAGES = 512
MAX_COMPONENT_BYTES = 255
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
        reason = str(error)
        if isinstance(error, OSError) and error.strerror:  # str() would repeat the name, or show that of a temporary
            reason = error.strerror
        reason = reason.removeprefix(f"{name}: ")
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

    def wrote(self, path: Path | None, size_bytes: int) -> None:
        self.outputs.append("-" if path is None else str(path))
        self.bytes_out += size_bytes

    @property
    def exit_code(self) -> int:
        """0 all good; 1 nothing done; 3 some inputs failed; 4 a stream is damaged (design.md 5)."""
        if self.damaged:
            return 4
        return 0 if not self.failed else 3 if self.outputs else 1


# Writing


@contextlib.contextmanager
def atomic(path: Path | None, *, force: bool = False, durable: bool = False) -> Iterator[BinaryIO]:
    """Open an output that appears under its name whole or not at all; None is stdout, which gets all or nothing too.

    `durable` waits for the disk: needed before an input is deleted, and affordable for a collection; on each small
    file it costs seven eighths of the speed.
    """
    if path is None:
        with tempfile.TemporaryFile() as spool:
            yield spool
            spool.seek(0)
            shutil.copyfileobj(spool, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        return
    _refuse_existing(path, force)
    path.parent.mkdir(parents=True, exist_ok=True)
    # 40 characters of the name: with all of it, a long one would pass the 255 bytes that file systems allow.
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "x+b") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        _refuse_existing(path, force)
        os.replace(temporary, path)
    except BaseException:  # KeyboardInterrupt too: leave no debris
        temporary.unlink(missing_ok=True)
        raise
    if durable and os.name == "posix":
        directory = os.open(path.parent, os.O_RDONLY)  # the new name must reach the disk as well
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _refuse_existing(path: Path, force: bool) -> None:
    if path.is_dir():
        raise UsageError(f"output {path} is a directory")
    if not force and os.path.lexists(path):
        raise UsageError(f"output {path} exists (-f overwrites it)")


def _size(file: BinaryIO) -> int:
    return file.seek(0, os.SEEK_END)


# Processes


def _spread(work: Callable[[S], R], shards: Iterable[S], jobs: int) -> Iterator[R]:
    """Map `work` over the shards in order, in `jobs` processes, with a bounded number of shards under way."""
    if jobs == 1:
        yield from map(work, shards)
        return
    import multiprocessing  # not above: 10 ms that one image does not need
    from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor

    # spawn: a fork of a process whose BLAS has threads can hang.
    context = multiprocessing.get_context("spawn")
    pending: deque[Any] = deque()
    try:
        with ProcessPoolExecutor(jobs, context, initializer=_ignore_interrupt) as pool:
            for shard in shards:
                pending.append(pool.submit(work, shard))
                if len(pending) > 2 * jobs:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
    except BrokenProcessPool:
        raise AezError("a worker process was killed (out of memory?); try a smaller -j") from None


def _ignore_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent alone answers it


# Names


def safe_parts(name: str) -> tuple[str, ...]:
    """Split the name of an image into components that stay below any directory on any system.

    Raises: UsageError for a name that is empty, absolute, climbs, or means something else elsewhere.
    """
    parts = tuple(name.split("/"))
    if not name:
        fault = "is empty"
    elif "\0" in name or "\\" in name:
        fault = "holds a NUL or a backslash"
    elif re.match(r"[A-Za-z]:", name) or name.startswith("/"):
        fault = "is absolute"
    elif any(part in ("", ".", "..") for part in parts):
        fault = "has an empty, '.' or '..' component"
    else:
        try:
            if all(len(part.encode()) <= MAX_COMPONENT_BYTES for part in (*parts[:-1], restored(parts[-1]))):
                return parts
            fault = f"has a component over {MAX_COMPONENT_BYTES} bytes"
        except UnicodeEncodeError:
            fault = "is not UTF-8"
    raise UsageError(f"unsafe name: it {fault}")


def _bare(name: str) -> str:
    """Strip an image suffix, and only that: `1.5` and `1.6` are two names."""
    return str(PurePosixPath(name).with_suffix("")) if images.is_image_file(Path(name)) else name


def restored(name: str) -> str:
    """Return the name under which `decompress` writes the image of this name: `0/1.jpg` -> `0/1.png`."""
    return _bare(name) + ".png"


def _bare_array(name: str) -> str:
    """`x.npy` -> `x`, `x.idx.gz` -> `x`, `t10k-images-idx3-ubyte.gz` -> `t10k-images-idx3-ubyte`."""
    return re.sub(r"(?<=.)(\.npy|\.npz|\.idx3?|\.idx3-ubyte)?(\.gz)?$", "", name, count=1, flags=re.IGNORECASE)


def ranges(numbers: Sequence[int]) -> str:
    """`[4, 5, 6, 9]` -> `4-6, 9`."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


# Planning


class Source(NamedTuple):
    path: Path | None  # None: stdin
    name: str  # POSIX, below the directory it was found in

    @property
    def label(self) -> str:
        return "stdin" if self.path is None else str(self.path)


class Task(NamedTuple):
    kind: Literal["image", "images", "array", "stdin"]
    output: Path | None  # None: stdout
    sources: Sequence[Source]
    label: str


def _paths(inputs: Sequence[str]) -> list[Path]:
    if "" in inputs:
        raise UsageError("the name of an input is empty")  # as Path it would mean the current directory
    if "-" in inputs and len(set(inputs)) > 1:
        raise UsageError("- (stdin) must be the only input")
    return list(dict.fromkeys(map(Path, inputs)))


def _base(paths: Sequence[Path]) -> str:
    """The directory to which names are relative: the only input itself, else what all inputs share."""
    if len(paths) == 1 and paths[0].is_dir():
        return os.path.abspath(paths[0])
    return os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])


def _source(path: Path, base: str) -> Source:
    return Source(path, Path(os.path.relpath(os.path.abspath(path), base)).as_posix())


def _walk(top: Path, base: str, wanted: Callable[[Path], bool], report: Report) -> tuple[list[Source], int]:
    """Find the wanted files of a tree, sorted by name, and count the others. Links: to files yes, to directories no."""
    found: list[Source] = []
    num_others = 0
    for folder, _, files in os.walk(top, onerror=lambda error: report.fail(str(error.filename), error)):
        for file in files:
            path = Path(folder, file)
            try:
                regular = stat.S_ISREG(path.stat().st_mode)  # a pipe named x.png would block for ever
            except OSError:
                regular = True  # a dangling link: reading it says so
            if regular and wanted(path):
                found.append(_source(path, base))
            else:
                num_others += 1
    return sorted(found, key=lambda source: source.name), num_others


def _walk_images(top: Path, base: str, report: Report) -> list[Source]:
    found, num_others = _walk(top, base, images.is_image_file, report)
    if not found:
        report.fail(str(top), ImageError(f"no images in this directory (files of other kinds: {num_others})"))
    elif num_others:
        report.note(f"{top}: skipped what is no image: {num_others} file{'s' * (num_others > 1)}")
    return found


def plan_compress(inputs: Sequence[str], out: str | None, separate: bool, report: Report) -> list[Task]:
    """Say which outputs come from which inputs (design.md 5); what cannot be is recorded as failed and left out.

    Raises: UsageError for a request that contradicts itself, AezError when nothing is left to do.
    """
    one_file = out == "-" or (out is not None and out.endswith(".aez"))
    target = None if out is None or out == "-" else Path(out)
    if separate and one_file:
        raise UsageError("--separate writes one file an image: OUT must be a directory")
    paths = []
    for path in _paths(inputs):
        if path.suffix == ".aez" and not path.is_dir():
            report.note(f"{path}: already compressed, skipped")
        else:
            paths.append(path)
    if not paths:
        raise AezError("nothing to compress")
    base = _base(paths)
    tasks: list[Task] = []

    def add(kind: Literal["image", "array"], path: Path, name: str, bare: str) -> None:
        beside = path.parent if target is None else target / PurePosixPath(name).parent
        tasks.append(Task(kind, beside / f"{bare}.aez", [Source(path, name)], str(path)))

    arrays = [path for path in paths if "-" not in inputs and not path.is_dir() and images.is_array_file(path)]
    if arrays and separate:
        raise UsageError(f"{arrays[0]} is an array: --separate is for images and directories")
    if "-" in inputs:
        output = target if one_file or target is None else target / "stdin.aez"
        tasks.append(Task("stdin", output, [Source(None, "stdin")], "stdin"))
    elif one_file and arrays:
        if len(paths) > 1:
            raise UsageError(f"{arrays[0]} is an array, a collection by itself: give it alone, or a directory as OUT")
        tasks.append(Task("array", target, [Source(arrays[0], arrays[0].name)], str(arrays[0])))
    elif one_file:
        sources: list[Source] = []
        for path in paths:
            sources += _walk_images(path, base, report) if path.is_dir() else [_source(path, base)]
        single = len(paths) == 1 and not paths[0].is_dir()
        if sources:
            label = str(paths[0]) if len(paths) == 1 else str(out)
            tasks.append(Task("image" if single else "images", target, sources, label))
    else:
        for path in paths:
            if not path.is_dir():
                is_array = path in arrays
                name = _source(path, base).name
                bare = _bare_array(path.name) if is_array else _bare(path.name)
                add("array" if is_array else "image", path, name, bare)
            elif separate or target:
                for source in _walk_images(path, base, report):
                    assert source.path is not None
                    add("image", source.path, source.name, _bare(source.path.name))
            elif found := _walk_images(path, os.path.abspath(path), report):
                beside = Path(path if path.name not in ("", "..") else os.path.abspath(path))
                if not beside.name:
                    raise UsageError(f"{path} has no name: give OUT")
                tasks.append(Task("images", beside.with_name(beside.name + ".aez"), found, str(path)))
    return tasks


def _refuse(tasks: list[Task], force: bool, report: Report) -> list[Task]:
    """Fail the tasks whose output is that of another task or exists, and the names that could not be restored."""
    by_output: dict[str, list[Task]] = {}
    for task in tasks:
        by_output.setdefault("" if task.output is None else os.path.abspath(task.output), []).append(task)
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
                _refuse_existing(task.output, force)
            if task.kind == "images":
                task = task._replace(sources=_restorable(task.sources, report))
            if task.sources:
                kept.append(task)
    return kept


def _restorable(sources: Sequence[Source], report: Report) -> list[Source]:
    kept: list[Source] = []
    taken: dict[str, Source] = {}
    for source in sources:
        with report.guard(source.label):
            safe_parts(source.name)
            kept.append(source)
    for source in kept:
        other = taken.setdefault(restored(source.name), source)
        if other is not source:
            raise UsageError(f"{other.label} and {source.label} would both be restored as {restored(source.name)}")
    return kept


# Compressing


@dataclass(frozen=True)
class CompressOptions:
    quality: int = api.DEFAULT_QUALITY  # 100: lossless
    model: str = "auto"
    jobs: int = 1
    force: bool = False
    remove: bool = False


def compress(
    inputs: Sequence[str],
    out: str | None = None,
    *,
    separate: bool = False,
    dry_run: bool = False,
    options: CompressOptions = CompressOptions(),
    report: Report,
) -> None:
    """Compress files, directories or stdin ("-") as design.md 5 says; the result is in `report`.

    Raises: UsageError for a request that contradicts itself, ModelError; all else is a failure in the report.
    """
    if options.remove and (out == "-" or "-" in inputs):
        raise UsageError("--rm needs files on both sides: stdin and stdout cannot be verified")
    tasks = _refuse(plan_compress(inputs, out, separate, report), options.force, report)
    if dry_run:
        report.images = sum(len(task.sources) for task in tasks)
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
    outputs = {task.sources[0]: task.output for task in tasks}
    for sources, pixels in _read_images(list(outputs), options.jobs, report):
        streams, stats = api.compress_images(pixels, quality=options.quality, model=options.model)
        written = []
        for i, (source, stream) in enumerate(zip(sources, streams, strict=True)):
            with report.guard(source.label):
                with atomic(outputs[source], force=options.force, durable=options.remove) as file:
                    file.write(stream)
                report.wrote(outputs[source], len(stream))
                written.append(i)
                if options.remove:
                    _remove([source], outputs[source], 1, options, hashlib.blake2b(pixels[i].tobytes()).digest())
        if 0 < len(written) < len(sources):  # the figures count what was written, no more
            stats = api.compress_images(pixels[written], quality=options.quality, model=options.model)[1]
        if written:
            report.stats += stats
            report.images += len(written)


def _compress_collection(task: Task, options: CompressOptions, report: Report) -> None:
    coding: dict[str, Any] = {"quality": options.quality, "model": options.model}
    batches: Iterator[tuple[Sequence[Source] | None, Pixels]]
    if task.kind == "images":
        batches = iter(_read_images(task.sources, options.jobs, report))
    else:
        is_image, pixels, num_bytes = _read_whole(task.sources[0])
        if is_image:
            stream, stats = api.compress_image(pixels[0], **coding)
            with atomic(task.output, force=options.force) as file:
                file.write(stream)
            report.wrote(task.output, len(stream))
            report.stats += stats
            report.images += 1
            report.bytes_in += num_bytes
            return
        batches = _slices(pixels, report)
        report.bytes_in += num_bytes
    first = next(batches, None)
    if first is None:  # not one was readable, and each has been reported
        return
    done: list[Source] = []
    digest = hashlib.blake2b()
    with atomic(task.output, force=options.force, durable=True) as file:
        with api.CollectionWriter(file, **coding) as writer:
            for sources, pixels in chain([first], batches):
                writer.write(pixels, None if sources is None else [source.name for source in sources])
                done += sources or ()
                if options.remove:
                    digest.update(pixels.tobytes())
        size_bytes = _size(file)
    report.wrote(task.output, size_bytes)
    report.stats += writer.stats
    report.images += writer.stats.images
    if options.remove:
        _remove(done or task.sources, task.output, writer.stats.images, options, digest.digest())


def _slices(pixels: Pixels, report: Report) -> Iterator[tuple[None, Pixels]]:
    for start in range(0, len(pixels) or 1, api.BLOCK_IMAGES):  # no images at all: still one write, of none
        part = pixels[start : start + api.BLOCK_IMAGES]
        yield None, part
        report.tick(len(part))


def _read_whole(source: Source) -> tuple[bool, Pixels, int]:
    """Read an array file, or whatever stdin holds; returns whether it is one image, (N, 28, 28), its size in bytes."""
    if source.path is not None:
        return False, images.read_array(source.path), source.path.stat().st_size
    stream = sys.stdin.buffer.read()
    if stream.startswith(_ARRAY_MAGICS):
        return False, images.read_array(io.BytesIO(stream), name="stdin"), len(stream)
    return True, images.read_image(io.BytesIO(stream), name="stdin")[None], len(stream)


def _read_images(sources: Sequence[Source], jobs: int, report: Report) -> Iterator[tuple[list[Source], Pixels]]:
    """Read image files shard by shard; yields what could be read of each, (n, 28, 28) with n >= 1."""
    shards = [sources[i : i + SHARD_IMAGES] for i in range(0, len(sources), SHARD_IMAGES)]
    paths = ([source.path for source in shard if source.path is not None] for shard in shards)
    for shard, results in zip(shards, _spread(_read_shard, paths, min(jobs, len(shards)) or 1), strict=True):
        good: list[Source] = []
        pixels: list[Pixels] = []
        for source, result in zip(shard, results, strict=True):
            if isinstance(result, Exception):
                report.fail(source.label, result)
                continue
            good.append(source)
            pixels.append(result[0])
            report.bytes_in += result[1]
        report.tick(len(shard))
        if good:
            yield good, np.stack(pixels)


def _read_shard(paths: list[Path]) -> list[tuple[Pixels, int] | Exception]:
    results: list[tuple[Pixels, int] | Exception] = []
    for path in paths:
        try:
            results.append((images.read_image(path), path.stat().st_size))
        except (AezError, OSError) as error:
            results.append(error)
    return results


def _remove(
    sources: Iterable[Source], output: Path | None, num_images: int, options: CompressOptions, wanted: bytes
) -> None:
    """Delete inputs whose output is on the disk, once it has decoded in full; if lossless, to pixels of BLAKE2b `wanted`."""
    assert output is not None
    num_decoded, digest = 0, hashlib.blake2b()
    with open(output, "rb") as file:
        for block in api.decode_blocks(file, model=options.model):
            if block.error is not None or block.lost or block.pixels is None:
                raise block.error or BitstreamError(f"images {ranges(block.lost)} of {output} are damaged")
            num_decoded += block.count
            digest.update(block.pixels.tobytes())
    if num_decoded != num_images:
        raise BitstreamError(f"{output} holds {num_decoded} images, not {num_images}; the inputs are kept")
    if options.quality == LOSSLESS_QUALITY and digest.digest() != wanted:
        raise BitstreamError(f"{output} does not hold the pixels of its inputs, which are kept")
    for source in sources:
        if source.path is not None:
            source.path.unlink()


# Decompressing


class Chunk(NamedTuple):
    """Decoded, undamaged images of one block."""

    numbers: Sequence[int]  # positions in the collection
    names: Sequence[str]  # empty for an unnamed collection
    pixels: Pixels  # (n, 28, 28)
    is_single: bool


class Target(NamedTuple):
    """Where the images of one stream go; which of the two it is depends on what the stream turns out to hold."""

    stem: Path | None  # of a file, its suffix to come; None: stdout
    tree: Path
    exact: bool  # OUT named the very file
    tree_given: bool  # OUT named the very tree, so it may exist

    def file(self, suffix: str) -> Path | None:
        return self.stem if self.exact or self.stem is None else self.stem.with_name(f"{self.stem.name}.{suffix}")


@contextlib.contextmanager
def open_stream(source: Source) -> Iterator[BinaryIO]:
    if source.path is None:
        yield io.BytesIO(sys.stdin.buffer.read())
    else:
        with open(source.path, "rb") as file:
            yield file


def find_streams(inputs: Sequence[str], report: Report) -> list[Source]:
    """The streams that inputs mean: files as they are, of directories every `.aez` below."""
    paths = _paths(inputs)
    if "-" in inputs:
        return [Source(None, "stdin")]
    base = _base(paths)
    sources: list[Source] = []
    for path in paths:
        if path.is_dir():
            found, _ = _walk(path, base, lambda file: file.suffix == ".aez", report)
            if not found:
                report.fail(str(path), UsageError("no .aez files in this directory"))
            sources += found
        else:
            sources.append(_source(path, base))
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
    suffix = "" if out is None else Path(out).suffix
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
    one_stream = len(inputs) == 1 and not Path(inputs[0]).is_dir()
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
        return Target(Path(out), Path(out), exact=True, tree_given=False)
    if out is None:
        beside = Path("stdin") if source.path is None else source.path
        stem = beside.with_name(beside.name.removesuffix(".aez") or beside.name)
        return Target(stem, stem, exact=False, tree_given=False)
    stem = Path(out, source.name.removesuffix(".aez") or source.name)
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
        num_bytes = _size(file)
        file.seek(0)
        num_images = _count(file) if index is None else api.info(file).images
        file.seek(0)
        for part in index or ():
            if part[-1] >= num_images:
                raise UsageError(f"--index {part[-1]} is out of range: {num_images} images, the first is 0")
        num_failed = len(report.failed)
        numbers = None if index is None else list(chain.from_iterable(index))
        if numbers is None:
            chunks = decoded(file, source.label, model, report)
        else:
            chunks = _pick(file, numbers, source.label, model, report)
        first = next(chunks, None)
        if first is None and len(report.failed) > num_failed:
            return
        report.bytes_in += num_bytes
        if first is not None and first.is_single:
            _write_single(first.pixels, target, format or "png", force, report)
            return
        if format is None:
            format = "png" if first is not None and first.names and target.stem is not None else "npy"
        rest = chunks if first is None else chain([first], chunks)
        if format != "png":
            _write_array(rest, target.file(format), format, force, report)
        elif target.exact or target.stem is None:
            if (num_images if numbers is None else len(numbers)) != 1:
                raise UsageError("one PNG holds one image: pick it by --index, or let OUT be a directory or an array")
            for chunk in rest:
                _write_single(chunk.pixels, target, "png", force, report)
        else:
            if target.tree.exists() and not target.tree.is_dir():
                raise UsageError(f"output directory {target.tree} is a file")
            if not (force or target.tree_given) and target.tree.is_dir() and any(target.tree.iterdir()):
                raise UsageError(f"output directory {target.tree} exists and is not empty (-o or -f)")
            width = len(str(max(num_images - 1, 0)))
            jobs = min(jobs, num_images // SHARD_IMAGES) or 1
            _Tree(target.tree, width, force).write(rest, source.label, jobs, report)


def _count(file: BinaryIO) -> int:
    """Number of images, to lay out the output by; when even the header is damaged, what follows reports that."""
    try:
        return api.info(file).images
    except BitstreamError:
        return 100_000


def decoded(
    file: BinaryIO, label: str, model: str | None, report: Report, wanted: set[int] | None = None
) -> Iterator[Chunk]:
    """Decode block by block; yields what is intact (and wanted), and reports the rest as damaged."""
    if wanted is not None and not wanted:
        return
    with report.guard(label):
        for number, block in enumerate(api.decode_blocks(file, model=model)):
            chosen = [i for i in range(block.count) if wanted is None or block.first + i in wanted]
            gone = set(range(block.count) if block.pixels is None else block.lost)
            lost = [block.first + i for i in chosen if i in gone]
            # A fault may lie elsewhere than in the images: in names, index, footer. It counts unless images not
            # wanted explain it.
            if lost or (block.error is not None and not gone):
                where = "" if block.is_single or not block.count else f"block {number}: "
                if where and lost:
                    where = f"block {number}, images {ranges(lost)}: "
                report.fail(label, BitstreamError(f"{where}{block.error or 'damaged'}"))
            keep = [i for i in chosen if i not in gone]
            if keep and block.pixels is not None:
                names = [block.names[i] for i in keep] if block.names else []
                yield Chunk([block.first + i for i in keep], names, block.pixels[keep], block.is_single)
            report.tick(block.count)
            if wanted is not None and block.first + block.count > max(wanted):
                return


def _pick(file: BinaryIO, numbers: list[int], label: str, model: str | None, report: Report) -> Iterator[Chunk]:
    """Decode images in the order asked for, repeats included."""
    try:
        collection = api.open(file, model=model)  # touches the groups wanted, no others
        names = collection.names
        yield Chunk(numbers, [names[n] for n in numbers] if names else [], collection[numbers], is_single=False)
        return
    except BitstreamError:  # a single image, or damage: go block by block, which tells what is lost
        file.seek(0)
    found: dict[int, tuple[str | None, Pixels]] = {}
    is_single = False
    for chunk in decoded(file, label, model, report, set(numbers)):
        is_single = chunk.is_single
        for i, number in enumerate(chunk.numbers):
            found[number] = chunk.names[i] if chunk.names else None, chunk.pixels[i]
    there = [number for number in numbers if number in found]
    if there:
        kept_names = [name for number in there if (name := found[number][0]) is not None]
        yield Chunk(there, kept_names, np.stack([found[number][1] for number in there]), is_single)


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


def _write_array(chunks: Iterable[Chunk], path: Path | None, format: Format, force: bool, report: Report) -> None:
    """Write .npy or IDX block by block; the header is put right at the end, when the number of images is known."""
    num_images = 0
    with atomic(path, force=force, durable=True) as file:
        file.write(_array_header(format, 0))
        for chunk in chunks:
            file.write(chunk.pixels.tobytes())
            num_images += len(chunk.pixels)
        file.seek(0)
        file.write(_array_header(format, num_images))
        size_bytes = _size(file)
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


class _Tree:
    """A directory into which the images of one collection are restored, and out of which no name leads."""

    def __init__(self, root: Path, width: int, force: bool) -> None:
        self.root = root
        self.real_root = os.path.realpath(root)
        self.width = width  # digits in the file name of an image that has no name
        self.force = force
        self.taken: dict[Path, int] = {}
        self.checked: set[Path] = set()

    def write(self, chunks: Iterable[Chunk], label: str, jobs: int, report: Report) -> None:
        shards: deque[list[str]] = deque()

        def planned() -> Iterator[tuple[list[Path], list[Pixels], bool]]:
            for chunk in chunks:
                ready = []
                for i, number in enumerate(chunk.numbers):
                    name = chunk.names[i] if chunk.names else f"{number:0{self.width}}"
                    shown = f"{label}: {name}"
                    with report.guard(shown):
                        path = self._place(name)
                        other = self.taken.get(path)
                        if other is None:
                            self.taken[path] = number
                            ready.append((shown, path, chunk.pixels[i]))
                        elif other != number:  # the same number again: --index named it twice
                            raise UsageError(f"{path} is also the output of image {other}")
                for start in range(0, len(ready), SHARD_IMAGES):
                    part = ready[start : start + SHARD_IMAGES]
                    shards.append([shown for shown, _, _ in part])
                    yield [path for _, path, _ in part], [pixels for _, _, pixels in part], self.force

        num_images = report.images
        for results in _spread(_write_shard, planned(), jobs):
            for shown, result in zip(shards.popleft(), results, strict=True):
                if isinstance(result, Exception):
                    report.fail(shown, result)
                else:
                    report.images += 1
                    report.bytes_out += result
        if report.images > num_images:
            report.outputs.append(f"{self.root}{os.sep}")

    def _place(self, name: str) -> Path:
        safe_parts(name)
        path = self.root / restored(name)
        if path.parent not in self.checked:
            # A directory in OUT may be a link that leads out of it.
            real = os.path.realpath(path.parent)
            if os.path.commonpath([real, self.real_root]) != self.real_root:
                raise UsageError(f"{path.parent} is a link that leads out of {self.root}")
            self.checked.add(path.parent)
        return path


def _write_shard(shard: tuple[list[Path], list[Pixels], bool]) -> list[int | Exception]:
    paths, pixels, force = shard
    results: list[int | Exception] = []
    for path, image in zip(paths, pixels, strict=True):
        try:
            packed = images.pack_png(image)
            with atomic(path, force=force) as file:
                file.write(packed)
            results.append(len(packed))
        except (AezError, OSError) as error:
            results.append(error)
    return results


# Checking


def check(inputs: Sequence[str], report: Report, model: str | None = None) -> list[tuple[str, int]]:
    """Decode every stream in full and write nothing; returns the whole ones with their number of images."""
    whole: list[tuple[str, int]] = []
    for source in find_streams(inputs, report):
        with report.guard(source.label), open_stream(source) as file:
            num_failed = len(report.failed)
            num_images = sum(len(chunk.pixels) for chunk in decoded(file, source.label, model, report))
            report.images += num_images
            if len(report.failed) == num_failed:
                report.outputs.append(source.label)
                whole.append((source.label, num_images))
    return whole
