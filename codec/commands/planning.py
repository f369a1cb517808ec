"""Which outputs come from which inputs of `aez compress`.

READ ME FIRST: everything is planned before anything is written. `plan` finds the outputs of each
input; `refuse` then drops, by name, outputs that exist or collide, and inputs that could not be
restored. The rest is done.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from codec.commands.events import Event, Existing, Failed, Note
from codec.commands.inputs import Inputs, base_of, images_in, places_of, relative
from codec.commands.jobs import Images, Job, Singles, Source, Stdin
from codec.errors import AezError, UsageError
from codec.files import kinds, names
from codec.files.arrays import images_of_npz, part_name
from codec.files.batch import READING, Reading, listing
from codec.files.labels import names_beside
from codec.files.place import STANDARD, Local, Place, below, common_mode, given, place

Planning = Generator[Event, None, list[Job]]


def plan(
    inputs: Sequence[str],
    out: str | None = None,
    separate: bool = False,
    reading: Reading = READING,
    append: bool = False,
) -> Planning:
    """Find the outputs of each input; what cannot be done is reported and skipped.

    append: to the collection `out`, so that one image is a collection as well. Raises UsageError
    for options that contradict each other, AezError if there is nothing to do.
    """
    one_file, folder = _output(out)
    if separate and one_file is not None:
        raise UsageError("--separate writes a file for each image: give a directory as OUT")
    if append and (one_file is None or one_file.is_standard or "-" in inputs):
        raise UsageError("--append needs files as INPUT, and a collection to add them to: -o x.aez")
    places = places_of(inputs)
    if places[0] is STANDARD:
        return [Stdin(one_file or (folder and folder.below("stdin.aez")) or STANDARD, "stdin")]
    if places[0].path is None and (separate or folder is not None):
        raise UsageError(f"{places[0]} becomes one file: give an .aez file as OUT")
    kept: list[Place] = []
    for one in places:
        if one.name.endswith(".aez") and not one.is_directory():
            yield Note(f"{one}: already compressed, skipped")
        else:
            kept.append(one)
    if not kept:
        raise AezError("nothing to compress")
    planner = _Planner(kept, reading, append)
    if kept[0].path is None:
        return (yield from planner.url(kept[0], one_file))
    if one_file is not None:
        return (yield from planner.one(one_file))
    return (yield from planner.many(folder, separate))


def _output(out: str | None) -> tuple[Place | None, Place | None]:
    """OUT as one file, or as a directory.  Raises UsageError if it is not clear which one."""
    if out is None:
        return None, None
    if out == "-" or out.endswith(".aez"):
        return given(out), None
    folder = place(out)
    if folder.path is None:
        raise UsageError(f"OUT is {out}: a URL as OUT must name an .aez file")
    if folder.path.suffix and not out.endswith(("/", os.sep)) and not folder.is_directory():
        raise UsageError(f"OUT is {out}: it must end in .aez, or in / if it is a directory")
    return None, folder


class _Planner:
    """Finds the jobs for some places, which are local, or one URL."""

    def __init__(self, places: Sequence[Place], reading: Reading, append: bool) -> None:
        self._reading, self._append, self._given = reading, append, places
        self._labels = _label_files(places) if reading.labels is None else {}
        taken = set(self._labels.values())
        self._places = [one for one in places if one not in taken]
        self._paths = [one.path for one in self._places if one.path is not None]

    def url(self, url: Place, output: Place | None) -> Planning:
        """A source, an image, or a directory at a URL becomes one file, by default here."""
        root, _, last = str(url).rpartition("/")
        alone = Inputs()
        alone.add(root, "", [last])
        if kinds.is_source_file(url.name):
            return (yield from self._sources(url, alone, output, ""))
        if url.is_directory():
            found = yield from images_in(url, self._reading.all_files)
            listed = Inputs.directory(url, found)
            output = output or place(f"{url.name}.aez")
            return [self._images([url], listed, output, str(url))] if found else []
        output = output or place(f"{names.bare(url.name)}.aez")
        if self._append:
            return [self._images([url], alone, output, str(url))]
        return [self._single(alone, output, str(url))]

    def one(self, output: Place) -> Planning:
        """Everything becomes one file."""
        sources = [one for one in self._places if _is_source(one)]
        if sources and len(self._places) > 1:
            raise UsageError(
                f"{sources[0]} becomes a collection: give it alone, or give a directory as OUT"
            )
        base, inputs = base_of(self._paths), Inputs()
        for path in self._paths:
            name = relative(path, base)
            if path.is_dir():
                found = yield from images_in(Local(path), self._reading.all_files)
                inputs.add(str(path), "" if name == "." else f"{name}/", found)
            else:
                inputs.add_file(path, name)
        if sources:
            return (yield from self._sources(sources[0], inputs, output, ""))
        if len(self._paths) == 1 and not self._paths[0].is_dir() and not self._append:
            return [self._single(inputs, output, "")]
        label = str(self._paths[0] if len(self._paths) == 1 else output)
        return [self._images(self._places, inputs, output, label)] if len(inputs) else []

    def many(self, folder: Place | None, separate: bool) -> Planning:
        """Each source and each directory becomes a collection, each image a stream, next to it or
        below `folder`.  separate, or a folder: each image of a directory becomes a stream.
        """
        base, singles = base_of(self._paths), Singles(folder=folder)
        collections: list[Job] = []
        for one, path in zip(self._places, self._paths, strict=True):
            name = relative(path, base)
            if _is_source(one):
                if separate:
                    raise UsageError(
                        f"{one} becomes a collection: --separate is only for images and directories"
                    )
                inputs = Inputs()
                inputs.add_file(path, name)
                beside = str(path.parent if folder is None else Path(str(folder), name).parent)
                collections += yield from self._sources(one, inputs, None, beside)
            elif not path.is_dir():
                singles.inputs.add_file(path, name)
            else:
                found = yield from images_in(one, self._reading.all_files)
                if separate or folder is not None:
                    singles.inputs.add(str(path), "" if name == "." else f"{name}/", found)
                elif found:
                    listed = Inputs.directory(one, found)
                    collections.append(self._images([one], listed, _beside(path), str(path)))
        if not len(singles.inputs):
            return collections
        self._check_single()
        return [singles, *collections]

    def _sources(self, one: Place, inputs: Inputs, output: Place | None, folder: str) -> Planning:
        """One collection, or one for each array of images in an NPZ file.

        folder: where they go if no `output` is given.
        """
        label, stem = str(one), below(folder, names.bare_source(one.name))
        is_npz = one.name.lower().endswith(".npz")
        if self._reading.array and not (is_npz or one.name.lower().endswith(".parquet")):
            raise UsageError(f"{label}: --array is for .npz and .parquet")
        labels = self._labels.get(one)
        if labels in self._given and labels is not None and labels.path is not None:
            inputs.add_file(labels.path, labels.name)
        arrays: list[str] = []
        if is_npz:
            try:
                with one.open() as file:
                    arrays = images_of_npz(file, label, self._reading)
            except (AezError, OSError) as error:
                yield Failed.by(label, error)
                return []
        if not is_npz or (len(arrays) < 2 and not self._reading.array):
            output = output or place(f"{stem}.aez")
            return [Source(output, label, inputs, self._reading, labels)]
        if output is not None and len(arrays) > 1:
            raise UsageError(
                f"{label} has the arrays {listing(arrays)}: --array NAME takes one of them; "
                f"{'without OUT' if one.path is None else 'with a directory as OUT'} all are taken"
            )
        return [
            Source(
                output or place(f"{stem}.{part_name(array)}.aez"),
                f"{label}: {array}",
                inputs,
                self._reading._replace(array=array, of_all=self._reading.array is None),
            )
            for array in arrays
        ]

    def _images(self, given: Sequence[Place], inputs: Inputs, output: Place, label: str) -> Job:
        return Images(output, label, inputs, self._reading.labels, common_mode(given))

    def _single(self, inputs: Inputs, output: Place, label: str) -> Job:
        self._check_single()
        return Singles(inputs, output, label=label)

    def _check_single(self) -> None:
        if self._reading.labels not in (None, "none"):
            raise UsageError("--labels is for collections: an image in a file of its own has none")


def _is_source(one: Place) -> bool:
    return kinds.is_source_file(one.name) and not one.is_directory()


def _label_files(places: Sequence[Place]) -> dict[Place, Place]:
    """The files of labels that belong to files of images: given with them, or beside them."""
    found: dict[Place, Place] = {}
    for one in places:
        for name in names_beside(one.name):
            beside = place(str(one).removesuffix(one.name) + name)
            is_there = beside in places or (beside.exists() and not beside.is_directory())
            if one not in found and is_there:
                found[one] = beside
    return found


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
