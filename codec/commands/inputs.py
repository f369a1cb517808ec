"""What is asked for: inputs found and ordered, outputs chosen, and the report of what became of
them.

READ ME FIRST
- Everything is planned before anything is written: outputs that would collide or exist are refused
  by name, the rest is done. A failed input never stops the others; it is recorded in
  `Report.failed`.
- The images of a directory are taken in code-point order of their POSIX path below it ("10.png"
  before "2.png"). Files given one by one keep the order given, named relative to their deepest
  common directory.
- A directory of a million files is listed into memory once, as names (`Sources`).

It prints nothing (`Report.say` hears what happens) and follows no links to directories.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal, NamedTuple, cast

from codec import api
from codec.errors import AezError, BitstreamError, ImageError, UsageError
from codec.files import images, urls
from codec.files.atomic import Output, refuse_existing
from codec.files.walk import walk
from codec.format import names


@dataclass
class Report:
    """What was done, what was not and why.

    `say` hears each failure at once, `note` what is no failure.
    """

    say: Callable[[str], None] = lambda line: None
    note: Callable[[str], None] = lambda line: None
    progress: Callable[[int], None] = lambda images: None  # hears how many images are through
    live: bool = False  # progress is on show
    stats: api.CompressStats = field(default_factory=api.CompressStats)
    images: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    # written, or found whole by `test`; planned, in a dry run
    outputs: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    damaged: bool = False
    seen: int = 0

    def fail(self, name: str, error: Exception | str) -> None:
        """Record that `name` failed; a BitstreamError makes the whole run end as
        "damaged stream".
        """
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
    # str() would repeat the name, or show that of a temporary
    if isinstance(error, OSError) and error.strerror:
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
    """Many inputs in order, kept as names below the directories they were found in: 80 bytes an
    image instead of 700.
    """

    def __init__(self) -> None:
        # directory (path or URL), what goes before its names, names
        self._runs: list[tuple[str, str, list[str]]] = []

    def add(self, root: str, prefix: str, found: list[str]) -> None:
        if self._runs and self._runs[-1][:2] == (root, prefix):  # files that were given one by one
            self._runs[-1][2].extend(found)
        else:
            self._runs.append((root, prefix, found))

    def __len__(self) -> int:
        return sum(len(found) for _, _, found in self._runs)

    def __iter__(self) -> Iterator[Source]:
        return iter(self.part(0, len(self)))

    def part(self, start: int, stop: int) -> Iterator[Source]:
        """Inputs number start .. stop - 1."""
        for root, prefix, found in self._runs:
            for name in found[max(0, start) : max(0, stop)]:
                yield Source(below(root, name), prefix + name)
            start, stop = start - len(found), stop - len(found)

    def names(self) -> Iterator[str]:
        """The name of each."""
        return (prefix + name for _, prefix, found in self._runs for name in found)

    def keep(self, wanted: Callable[[Source], bool]) -> None:
        """Forget the others."""
        for root, prefix, found in self._runs:
            found[:] = [name for name in found if wanted(Source(below(root, name), prefix + name))]

    def digest(self) -> str:
        """A digest of all paths and names."""
        digest = hashlib.blake2b(digest_size=16)
        for root, prefix, found in self._runs:
            for text in (root if urls.is_url(root) else os.path.abspath(root), prefix, *found):
                digest.update(os.fsencode(text) + b"\0")
        return digest.hexdigest()


def below(root: str, name: str) -> str:
    return name if root in ("", ".") else f"{root}{'' if root.endswith('/') else '/'}{name}"


class Task(NamedTuple):
    """One output, or of kind "each" one for each source: below the directory `output`, or beside it
    if that is None.
    """

    kind: Literal["image", "each", "images", "array", "stdin"]
    output: Output
    sources: Sources
    label: str

    def output_of(self, source: Source) -> Output:
        """Where the stream of one of its images goes."""
        if self.kind != "each":
            return self.output
        beside = source.label if self.output is None else below(str(self.output), source.name)
        return Path(f"{names.bare(beside)}.aez")

    def outputs(self) -> Iterator[tuple[str, Output]]:
        """Label and output of each stream."""
        if self.kind == "each":
            return ((source.label, self.output_of(source)) for source in self.sources)
        return iter([(self.label, self.output)])


def _alone(source: Source) -> Sources:
    """One input as Sources."""
    sources = Sources()
    if source.path is not None:
        root, _, name = source.path.rpartition("/")
        sources.add(
            root or ("/" if source.path.startswith("/") else "."),
            source.name.removesuffix(name),
            [name],
        )
    return sources


def paths_of(inputs: Sequence[str]) -> list[Path]:
    if "" in inputs:
        # as Path it would mean the current directory
        raise UsageError("the name of an input is empty")
    for alone in (name for name in inputs if name == "-" or urls.is_url(name)):
        if len(set(inputs)) > 1:
            raise UsageError(f"{'- (stdin)' if alone == '-' else alone} must be the only input")
    return list(dict.fromkeys(map(Path, inputs)))


def _base(paths: Sequence[Path]) -> str:
    """The directory to which names are relative: the only input itself,
    else what all inputs share.
    """
    if len(paths) == 1 and paths[0].is_dir():
        return os.path.abspath(paths[0])
    return os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])


def _relative(path: Path, base: str) -> str:
    return Path(os.path.relpath(os.path.abspath(path), base)).as_posix()


def _told(top: str, found: list[str], num_others: int, report: Report) -> list[str]:
    """Say what a directory lacks or has too much."""
    if not found:
        report.fail(
            top, ImageError(f"no images in this directory (files of other kinds: {num_others})")
        )
    elif num_others:
        report.note(f"{top}: skipped what is no image: {num_others} file{'s' * (num_others > 1)}")
    return found


def _images_in(path: Path, report: Report) -> list[str]:
    return _told(str(path), *walk(str(path), images.is_image_file, report.fail), report)


def plan_compress(
    inputs: Sequence[str], out: str | None, separate: bool, report: Report
) -> list[Task]:
    """Say which outputs come from which inputs (design.md 5); what cannot be is recorded as failed
    and left out.

    Raises: UsageError for a request that contradicts itself, AezError when nothing is left to do.
    """
    one_file = out == "-" or (out is not None and out.endswith(".aez"))
    if separate and one_file:
        raise UsageError("--separate writes one file an image: OUT must be a directory")
    if urls.is_url(out) and not one_file:
        raise UsageError(f"OUT is {out}: a URL must name one .aez file")
    target: Output = None if out is None or out == "-" else out if urls.is_url(out) else Path(out)
    all_paths = paths_of(inputs)
    if any(map(urls.is_url, inputs)):
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

    arrays = [
        path
        for path in paths
        if "-" not in inputs and not path.is_dir() and images.is_array_file(path)
    ]
    if arrays and separate:
        raise UsageError(f"{arrays[0]} is an array: --separate is for images and directories")
    if "-" in inputs:
        output = target if one_file or target is None else cast(Path, target) / "stdin.aez"
        tasks.append(Task("stdin", output, _alone(Source(None, "stdin")), "stdin"))
    elif one_file and arrays:
        if len(paths) > 1:
            raise UsageError(
                f"{arrays[0]} is an array, a collection by itself: give it alone, or a directory "
                "as OUT"
            )
        tasks.append(
            Task("array", target, _alone(Source(str(arrays[0]), arrays[0].name)), str(arrays[0]))
        )
    elif one_file:
        sources = Sources()
        for path in paths:
            if path.is_dir():
                prefix = _relative(path, base)
                sources.add(
                    str(path), "" if prefix == "." else f"{prefix}/", _images_in(path, report)
                )
            else:
                sources.add(
                    str(path.parent), _relative(path, base).removesuffix(path.name), [path.name]
                )
        single = len(paths) == 1 and not paths[0].is_dir()
        if len(sources):
            label = str(paths[0]) if len(paths) == 1 else str(out)
            tasks.append(Task("image" if single else "images", target, sources, label))
    else:
        assert not isinstance(target, str)
        each = Task("each", target, Sources(), "")
        for path in paths:
            name = _relative(path, base)
            if path in arrays:
                beside = path.parent if target is None else target / PurePosixPath(name).parent
                output = beside / f"{names.bare_array(path.name)}.aez"
                tasks.append(Task("array", output, _alone(Source(str(path), name)), str(path)))
            elif not path.is_dir():
                each.sources.add(str(path.parent), name.removesuffix(path.name), [path.name])
            elif separate or target:
                each.sources.add(
                    str(path), "" if name == "." else f"{name}/", _images_in(path, report)
                )
            elif found := _images_in(path, report):
                beside = Path(path if path.name not in ("", "..") else os.path.abspath(path))
                if not beside.name:
                    raise UsageError(f"{path} has no name: give OUT")
                sources = Sources()
                sources.add(str(path), "", found)
                tasks.append(
                    Task("images", beside.with_name(beside.name + ".aez"), sources, str(path))
                )
        if len(each.sources):
            tasks.insert(0, each)
    return tasks


def _plan_url(
    url: str, target: Output, one_file: bool, separate: bool, report: Report
) -> list[Task]:
    """A URL is one input: an array, an image, or a directory of images; the output is one file."""
    if separate or (target is not None and not one_file):
        raise UsageError(f"{url} becomes one file: OUT must be an .aez file")
    if url.endswith(".aez"):
        report.note(f"{url}: already compressed, skipped")
        raise AezError("nothing to compress")
    sources = _alone(Source(url, urls.base_name(url)))
    beside = Path(urls.base_name(url))
    if images.is_array_file(beside):
        kind: Literal["image", "images", "array"] = "array"
        bare = names.bare_array(beside.name)
    elif urls.is_directory(url):
        kind, bare, sources = "images", beside.name, Sources()
        everything = urls.find(url)
        found = sorted(name for name in everything if images.is_image_file(name))
        sources.add(url, "", _told(url, found, len(everything) - len(found), report))
    else:
        kind, bare = "image", names.bare(beside.name)
    output = target if one_file else Path(f"{bare}.aez")
    return [Task(kind, output, sources, url)] if len(sources) else []


def refuse(tasks: list[Task], force: bool, report: Report) -> list[Task]:
    """Fail what would be written where something else is, or is to be, and the names that could not
    be restored.
    """

    def planned() -> Iterator[tuple[str, Output]]:
        return (pair for task in tasks for pair in task.outputs())

    def places() -> Iterator[str]:
        for _, output in planned():
            yield (
                output
                if isinstance(output, str)
                else ""
                if output is None
                else os.path.abspath(output)
            )

    others: dict[int, int] = {}  # which output is also that of which other one
    for later, earlier in names.collisions(places):
        others[later] = earlier
        others.setdefault(earlier, later)
    involved = set(others.values())
    labels = {number: label for number, (label, _) in enumerate(planned()) if number in involved}

    def is_free(number: int, label: str, output: Output) -> bool:
        with report.guard(label):
            if number in others:
                raise UsageError(f"{output} would also be the output of {labels[others[number]]}")
            if output is not None:
                refuse_existing(output, force)
            return True
        return False

    free = iter([is_free(number, *pair) for number, pair in enumerate(planned())])
    kept: list[Task] = []
    for task in tasks:
        if task.kind == "each":
            task.sources.keep(lambda source: next(free))
        elif not next(free):
            continue
        with report.guard(task.label):
            if task.kind == "images":
                _keep_restorable(task.sources, report)
            if task.kind == "stdin" or len(task.sources):
                kept.append(task)
    return kept


def _keep_restorable(sources: Sources, report: Report) -> None:
    """Fail and forget inputs whose names are unsafe.

    Raises UsageError if two would be restored as one file.
    """

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
        raise UsageError(
            f"{one.label} and {other.label} would both be restored as {names.restored(other.name)}"
        )


def full_path(path: str) -> str:
    """The path as other processes, and other machines with the same disks, can find it."""
    return path if urls.is_url(path) else os.path.abspath(path)


# Streams


@contextlib.contextmanager
def open_stream(source: Source) -> Iterator[BinaryIO]:
    if source.path is None:
        yield io.BytesIO(sys.stdin.buffer.read())
    else:
        with (
            urls.open_file(source.path)
            if urls.is_url(source.path)
            else open(source.path, "rb") as file
        ):
            yield file


def find_streams(inputs: Sequence[str], report: Report) -> list[Source]:
    """The streams that inputs mean: files as they are, of directories every `.aez` below."""
    paths = paths_of(inputs)
    if "-" in inputs:
        return [Source(None, "stdin")]
    if any(map(urls.is_url, inputs)):
        return [Source(inputs[0], urls.base_name(inputs[0]))]
    base = _base(paths)
    sources: list[Source] = []
    for path in paths:
        if path.is_dir():
            found, _ = walk(str(path), lambda name: name.endswith(".aez"), report.fail)
            if not found:
                report.fail(str(path), UsageError("no .aez files in this directory"))
            prefix = _relative(path, base)
            sources += [Source(below(str(path), name), below(prefix, name)) for name in found]
        else:
            sources.append(Source(str(path), _relative(path, base)))
    return sources
