"""`aez decompress`: streams -> images, trees and arrays.

    for source in find_streams(inputs):
        with open_stream(source) as stream:
            a single image -> PNG;  images with names -> a tree of PNGs (`tree`)
            images with labels -> NPZ;  else an array (`sinks`)

READ ME FIRST
- Intact images are restored, damaged ones are reported (`stream`).
- Only an open stream shows whether it becomes a file or a tree, so a `Destination` has both places.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, cast

from codec import __version__, parallel
from codec.collection.block import Decoded
from codec.commands import work
from codec.commands.events import Done, Events, Existing, Failed, Note, expected, guarded
from codec.commands.inputs import Input, find_streams, places_of
from codec.commands.sinks import SINKS, write_array
from codec.commands.stream import Found, Restoration, Stream, folders_of, open_stream
from codec.commands.tree import Tree
from codec.errors import UsageError
from codec.files import arrays, images
from codec.files.labels import IDX_ENDING, labels_name
from codec.files.place import STANDARD, Place, below, place

Format = Literal["png", "npy", "npz", "idx", "csv", "folders"]
FILE_FORMATS = ("png", "npy", "npz", "idx", "csv")  # and their suffixes


class Destination(NamedTuple):
    """Where the images of one stream go: a file or a tree, depending on the stream.

    exact: OUT is this file; tree_given: OUT is this directory, so it may exist.
    """

    stem: Place  # of a file, its suffix to come
    tree: Place
    exact: bool = False
    tree_given: bool = False

    def file(self, suffix: str) -> Place:
        if self.exact or (suffix == "idx" and self.stem.name.endswith(IDX_ENDING)):
            return self.stem
        return self.stem.with_suffix(f".{suffix}")


def labels_place(images_place: Place) -> Place:
    """Where the labels of an IDX file go."""
    name = images_place.name
    return place(str(images_place).removesuffix(name) + labels_name(name))


@dataclass(frozen=True)
class _Asked:
    format: Format | None
    index: Sequence[range] | None
    model: str | None
    jobs: int
    force: bool


def decompress(
    inputs: Sequence[str],
    out: str | None = None,
    *,
    format: Format | None = None,
    index: Sequence[range] | None = None,
    model: str | None = None,
    jobs: int = 1,
    force: bool = False,
) -> Events:
    """Restore images, trees and arrays from streams: write all intact images, report the others.

    index: only these images, in this order. model: name or file of a model that the streams name
    but that is not installed. Raises UsageError for options that contradict each other; all else is
    a failure of its input.
    """
    format, exact = _checked_format(out, format)
    asked = _Asked(format, index, model, jobs, force)
    sources = yield from find_streams(inputs)
    if (exact or out == "-") and len(sources) > 1:
        raise UsageError(f"OUT {out} is one file, but there are {len(sources)} streams")
    first = places_of(inputs)[0]
    alone = len(inputs) == 1 and (first.path is None or not first.is_directory())
    by_stem: dict[str, list[tuple[Input, Destination]]] = {}
    for source in sources:
        destination = _destination(source, out, exact, alone)
        by_stem.setdefault(destination.stem.full(), []).append((source, destination))
    existing = Existing()
    yield from expected(len(sources))
    for group in by_stem.values():
        for source, destination in group:
            others = [other for other, _ in group if other is not source]
            if others:
                said = f"{destination.stem} would also be the output of {others[0].label}"
                yield Failed(source.label, said)
                continue
            with parallel.cores(jobs):
                yield from guarded(
                    source.label, _decompress_one(source, destination, asked), existing
                )
    yield from existing.told(len(sources))


def _checked_format(out: str | None, format: Format | None) -> tuple[Format | None, bool]:
    """The format of the output, if it is known yet, and whether OUT names the file itself."""
    suffix = "" if out is None else PurePosixPath(out).suffix
    if suffix == ".aez":
        raise UsageError(f"OUT is {out}: decompress writes images and arrays, not .aez files")
    implied = "idx" if suffix == ".idx3" or suffix.endswith("idx3-ubyte") else suffix[1:]
    if out is not None and out.endswith(IDX_ENDING):
        implied = "idx"
    if implied in FILE_FORMATS:
        if format not in (None, implied):
            raise UsageError(f"--format {format} contradicts OUT {out}")
        return cast(Format, implied), True
    if out is not None and arrays.is_array_file(Path(out)) and not place(out).is_directory():
        raise UsageError(f"OUT is {out}: arrays are written as .npy, .npz, .idx or .csv")
    if suffix and out is not None and not out.endswith(("/", os.sep)):
        folder = place(out)
        if folder.path is not None and not folder.is_directory():
            endings = ", ".join(f".{each}" for each in FILE_FORMATS)
            raise UsageError(
                f"OUT is {out}: it must end in {endings}, or in / if it is a directory"
            )
    return format, False


def _destination(source: Input, out: str | None, exact: bool, alone: bool) -> Destination:
    """Where the images of a stream go.  alone: the only input, so OUT can be its directory."""
    if out == "-":
        return Destination(STANDARD, STANDARD)
    if exact:
        assert out is not None
        return Destination(place(out), place(out), exact=True)
    if out is None:  # beside the stream, or here
        path = source.place.path
        stem = place(_bare(source.name if path is None else str(path)))
        return Destination(stem, stem)
    stem = place(below(out, _bare(source.name)))
    return Destination(stem, place(out) if alone else stem, tree_given=True)


def _bare(name: str) -> str:
    """`d/x.aez` -> `d/x`; `.aez` is all of a name that is nothing else."""
    return name if name.rpartition("/")[2] == ".aez" else name.removesuffix(".aez")


def _decompress_one(source: Input, destination: Destination, asked: _Asked) -> Events:
    with open_stream(source, asked.model) as stream:
        stream.check_index(asked.index)
        to_file = destination.stem.is_standard or destination.exact
        format = asked.format or _default_format(stream, destination)
        numbers = None if asked.index is None else list(chain.from_iterable(asked.index))
        num_images = stream.num_images if numbers is None else len(numbers)
        yield from expected(num_images - 1)
        if stream.collection is not None and format in ("png", "folders") and not to_file:
            yield from _write_tree(stream, destination, format, numbers, asked, source)
            return
        if format == "folders":
            raise UsageError("--format folders needs a directory as OUT, and images with labels")
        if format == "png" and num_images != 1:
            raise UsageError(
                "one PNG holds one image: pick it with --index, or give a directory or array as OUT"
            )
        output = destination.file(format)
        outputs = [output]
        if format == "idx" and stream.has_labels and not output.is_standard:
            outputs.append(labels_place(output))
        for each in outputs:
            each.check_free(asked.force)  # before decoding
        keeps = SINKS[format].keeps if format != "png" else ("names", "labels")
        lacking = [what for what in stream.texts if what not in keeps]
        if format == "idx" and len(outputs) == 1 and stream.has_labels:
            lacking.append("labels")
        if lacking:
            yield _not_restored(stream, lacking, str(output))
        found = _found(stream, numbers, keeps, asked.jobs)
        if format == "png" or (format == "npy" and stream.single is not None):
            yield from _write_single(found, stream, output, format, asked.force)
        else:
            yield from write_array(found, stream, outputs, format, num_images, asked.force)


def _default_format(stream: Stream, destination: Destination) -> Format:
    if stream.single is not None or (stream.has_names and not destination.stem.is_standard):
        return "png"
    return "npz" if stream.has_labels else "npy"


def _found(
    stream: Stream, numbers: list[int] | None, keeps: Sequence[str], jobs: int
) -> Iterator[Found]:
    """The intact images, all or those of these numbers, with the names and labels to keep."""
    labelled = stream.has_labels and "labels" in keeps
    if numbers is not None and stream.collection is not None:
        return stream.pick(numbers, named="names" in keeps, labelled=labelled)
    found = stream.intact(stream.decoded(jobs))
    return stream.labelled(found) if labelled else found


def _not_restored(stream: Stream, lacking: list[str], output: str) -> Note:
    """What of a stream is not in an output, and how to get it."""
    if lacking == ["names"]:
        ways = "npz or png"
    else:
        ways = "npz" if "names" in lacking else "npz, csv or folders"
    what = " and ".join(lacking)
    return Note(f"{stream.label}: {what} are not in {output}; --format {ways} restores them")


def _write_tree(
    stream: Stream,
    destination: Destination,
    format: Format,
    numbers: list[int] | None,
    asked: _Asked,
    source: Input,
) -> Events:
    in_folders = format == "folders"
    if in_folders:
        stream.check_folders(destination.tree)
    if not stream.num_images:
        yield Note(f"{stream.label}: holds no images")
    pins = _pins(source, format, asked.force) if numbers is None else None
    tree = Tree(
        destination.tree, stream, given=destination.tree_given, force=asked.force, pins=pins
    )
    if stream.has_labels and not in_folders:
        yield _not_restored(stream, ["labels"], f"{destination.tree}/")
    if numbers is None:
        blocks = stream.restorations(in_folders)
        yield from tree.write(blocks, asked.jobs, stream.num_tasks(asked.jobs))
        return
    picked: list[Restoration] = []
    for item in stream.pick(numbers, named=True, labelled=in_folders):
        if isinstance(item, Decoded):
            folders = folders_of(item.labels, len(item.images)) if in_folders else ()
            picked.append(Restoration(item, item.names, folders))
        else:
            yield item
    yield from tree.write_picked(picked, asked.jobs)


def _pins(source: Input, format: Format, force: bool) -> dict[str, object] | None:
    """Everything that the files of a tree depend on; None if the stream cannot be read again."""
    path = source.place.path
    if path is None:
        return None
    return {
        "aez": __version__,
        "stream": os.path.abspath(path),
        "identity": work.identity([str(path)]),
        "format": format,
        "force": force,
    }


def _write_single(
    found: Iterator[Found], stream: Stream, output: Place, format: Format, force: bool
) -> Events:
    """Write one image, of the shape (28, 28), as it was compressed."""
    for item in found:
        if not isinstance(item, Decoded):
            yield item
            continue
        pack = images.pack_png if format == "png" else images.pack_npy
        packed = pack(item.pixels[0])
        output.write(packed, force=force, mode=stream.mode)
        yield Done(stream.label, str(output), 1, stream.num_bytes, len(packed))
