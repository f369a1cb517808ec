"""Which outputs come from which inputs of `aez compress`.

READ ME FIRST: everything is planned before anything is written. `plan` finds the outputs of each
input; `refuse` then drops, by name, outputs that exist or collide, and inputs that could not be
restored. The rest is done.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from codec.commands.events import Event, Existing, Failed, Note
from codec.commands.inputs import Input, Inputs, base_of, images_in, places_of, relative
from codec.errors import AezError, UsageError
from codec.files import images, names
from codec.files.place import STANDARD, Local, Place, below, given, place


class Job(ABC):
    """Some inputs, and the outputs made of them.  label: what the user calls them."""

    label: str
    inputs: Inputs

    @abstractmethod
    def outputs(self) -> Iterator[tuple[str, Place]]:
        """Label and place of each output."""

    @property
    def num_images(self) -> int:
        """How many images the inputs have, as far as known; an array counts as 1."""
        return 1

    def keep(self, free: Iterator[bool]) -> bool:
        """Drop the outputs that are not free; return whether any is left."""
        return next(free)

    def keep_restorable(self) -> Generator[Event, None, bool]:
        """Drop inputs whose names could not be restored; return whether any is left.

        Raises UsageError if two would be restored as one file.
        """
        return True
        yield


@dataclass
class Singles(Job):
    """Each image becomes a stream: `output`, or a file below `folder`, or next to the image."""

    inputs: Inputs = field(default_factory=Inputs)
    output: Place | None = None
    folder: Place | None = None
    label: str = ""

    def output_of(self, image: Input) -> Place:
        if self.output is not None:
            return self.output
        stem = image.label if self.folder is None else below(str(self.folder), image.name)
        return place(f"{names.bare(stem)}.aez")

    def outputs(self) -> Iterator[tuple[str, Place]]:
        return ((image.label, self.output_of(image)) for image in self.inputs)

    @property
    def num_images(self) -> int:
        return len(self.inputs)

    def keep(self, free: Iterator[bool]) -> bool:
        self.inputs.keep(lambda image: next(free))
        return len(self.inputs) > 0


@dataclass
class Collecting(Job):
    """The inputs become one stream.  lasting: the same command can be repeated."""

    output: Place
    label: str
    inputs: Inputs = field(default_factory=Inputs)

    def outputs(self) -> Iterator[tuple[str, Place]]:
        return iter([(self.label, self.output)])

    @property
    def lasting(self) -> bool:
        return not self.output.is_standard


class Images(Collecting):
    """Image files become one collection, in which they have names."""

    @property
    def num_images(self) -> int:
        return len(self.inputs)

    def keep_restorable(self) -> Generator[Event, None, bool]:
        unsafe: list[Failed] = []

        def is_safe(image: Input) -> bool:
            try:
                names.safe_parts(image.name)
            except UsageError as error:
                unsafe.append(Failed.by(image.label, error))
                return False
            return True

        self.inputs.keep(is_safe)
        yield from unsafe
        for later, earlier in names.collisions(lambda: map(names.restored, self.inputs.names())):
            one, other = (
                next(self.inputs.part(number, number + 1)).label for number in (earlier, later)
            )
            name = names.restored(next(self.inputs.part(later, later + 1)).name)
            raise UsageError(f"{one} and {other} would both be restored as {name}")
        return len(self.inputs) > 0


class Array(Collecting):
    """An array file, `source`, becomes one collection without names."""

    @property
    def source(self) -> Input:
        return next(iter(self.inputs))

    @contextmanager
    def open(self) -> Iterator[images.ArrayFile]:
        """Raises ImageError, OSError."""
        where = self.source.place
        with ExitStack() as stack:
            # a path is opened by `open_array`, whose errors name it
            file = where.path or stack.enter_context(where.open())
            yield stack.enter_context(images.open_array(file, name=str(where)))


class Stdin(Collecting):
    """Standard input becomes one stream: its content says whether it is an image or an array."""

    lasting = False


Planning = Generator[Event, None, list[Job]]


def plan(inputs: Sequence[str], out: str | None = None, separate: bool = False) -> Planning:
    """Find the outputs of each input; what cannot be done is reported and skipped.

    Raises UsageError for options that contradict each other, AezError if there is nothing to do.
    """
    one_file = given(out) if out == "-" or (out is not None and out.endswith(".aez")) else None
    folder = place(out) if out is not None and one_file is None else None
    if separate and one_file is not None:
        raise UsageError("--separate writes a file for each image: give a directory as OUT")
    if folder is not None and folder.path is None:
        raise UsageError(f"OUT is {out}: a URL as OUT must name an .aez file")
    places = places_of(inputs)
    if places[0] is STANDARD:
        return [Stdin(one_file or (folder and folder.below("stdin.aez")) or STANDARD, "stdin")]
    if places[0].path is None:
        if separate or folder is not None:
            raise UsageError(f"{places[0]} becomes one file: give an .aez file as OUT")
        return (yield from _plan_url(places[0], one_file))
    paths: list[Path] = []
    for one in places:
        assert one.path is not None
        if one.path.suffix == ".aez" and not one.is_directory():
            yield Note(f"{one}: already compressed, skipped")
        else:
            paths.append(one.path)
    if not paths:
        raise AezError("nothing to compress")
    arrays = [path for path in paths if not path.is_dir() and images.is_array_file(path)]
    if arrays and separate:
        raise UsageError(f"{arrays[0]} is an array: --separate is only for images and directories")
    if one_file is not None:
        return (yield from _plan_one(paths, arrays, one_file))
    return (yield from _plan_many(paths, arrays, folder, separate))


def _plan_url(url: Place, output: Place | None) -> Planning:
    """An array, an image, or a directory of images at a URL becomes one file, by default here."""
    name = Path(url.name)
    if name.suffix == ".aez":
        yield Note(f"{url}: already compressed, skipped")
        raise AezError("nothing to compress")
    root, _, last = str(url).rpartition("/")
    alone = Inputs()
    alone.add(root, "", [last])
    if images.is_array_file(name):
        return [Array(output or place(f"{names.bare_array(name.name)}.aez"), str(url), alone)]
    if url.is_directory():
        found = yield from images_in(url)
        listed = Inputs.directory(url, found)
        return [Images(output or place(f"{name.name}.aez"), str(url), listed)] if found else []
    return [Singles(alone, output or place(f"{names.bare(name.name)}.aez"), label=str(url))]


def _plan_one(paths: list[Path], arrays: list[Path], output: Place) -> Planning:
    """Everything becomes one file."""
    if arrays and len(paths) > 1:
        raise UsageError(f"{arrays[0]} is an array: give it alone, or give a directory as OUT")
    base, inputs = base_of(paths), Inputs()
    for path in paths:
        name = relative(path, base)
        if path.is_dir():
            found = yield from images_in(Local(path))
            inputs.add(str(path), "" if name == "." else f"{name}/", found)
        else:
            inputs.add_file(path, name)
    label = str(paths[0] if len(paths) == 1 else output)
    if arrays:
        return [Array(output, label, inputs)]
    if len(paths) == 1 and not paths[0].is_dir():
        return [Singles(inputs, output)]
    return [Images(output, label, inputs)] if len(inputs) else []


def _plan_many(
    paths: list[Path], arrays: list[Path], folder: Place | None, separate: bool
) -> Planning:
    """Each array and each directory becomes a collection, each image a stream, next to it or below
    `folder`.  separate, or a folder: each image of a directory becomes a stream.
    """
    base, singles, collections = base_of(paths), Singles(folder=folder), list[Job]()
    for path in paths:
        name = relative(path, base)
        if path in arrays:
            beside = (
                path.parent if folder is None else Path(str(folder), PurePosixPath(name).parent)
            )
            array = Array(Local(beside / f"{names.bare_array(path.name)}.aez"), str(path))
            array.inputs.add_file(path, name)
            collections.append(array)
        elif not path.is_dir():
            singles.inputs.add_file(path, name)
        else:
            found = yield from images_in(Local(path))
            if separate or folder is not None:
                singles.inputs.add(str(path), "" if name == "." else f"{name}/", found)
            elif found:
                output = _beside(path)
                listed = Inputs.directory(Local(path), found)
                collections.append(Images(output, str(path), listed))
    return [singles, *collections] if len(singles.inputs) else collections


def _beside(folder: Path) -> Place:
    """`d` -> `d.aez`, for `.` and `..` as well."""
    named = Path(folder if folder.name not in ("", "..") else os.path.abspath(folder))
    if not named.name:
        raise UsageError(f"{folder} has no name: give one with -o")
    return Local(named.with_name(named.name + ".aez"))


def refuse(jobs: list[Job], force: bool) -> Planning:
    """Fail outputs that exist or collide, and inputs that cannot be restored; return the rest."""

    def outputs() -> Iterator[tuple[str, Place]]:
        return (pair for job in jobs for pair in job.outputs())

    others: dict[int, int] = {}  # of each output that collides: another one at the same place
    for later, earlier in names.collisions(lambda: (output.full() for _, output in outputs())):
        others[later] = earlier
        others.setdefault(earlier, later)
    involved = set(others.values())
    labels = {number: label for number, (label, _) in enumerate(outputs()) if number in involved}
    free, existing = list[bool](), Existing()
    for number, (label, output) in enumerate(outputs()):
        try:
            if number in others:
                raise UsageError(f"{output} would also be the output of {labels[others[number]]}")
            output.check_free(force)
            free.append(True)
        except (AezError, OSError) as error:
            yield from existing.take(label, error)
            free.append(False)
    yield from existing.told(len(free))
    kept: list[Job] = []
    is_free = iter(free)
    for job in [job for job in jobs if job.keep(is_free)]:
        try:
            if (yield from job.keep_restorable()):
                kept.append(job)
        except UsageError as error:
            yield Failed.by(job.label, error)
    return kept
