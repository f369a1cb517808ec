"""`aez decompress`: streams -> images, trees and arrays.

    for source in find_streams(inputs):
        with open_stream(source) as stream:
            a single image -> PNG;  images with names -> a tree of PNGs (`tree`);  else an array

READ ME FIRST
- Intact images are restored, damaged ones are reported (`stream`).
- Only an open stream shows whether it becomes a file or a tree, so a `Destination` has both places.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, cast

import numpy as np

from codec import __version__, parallel
from codec.arrays import SIDE
from codec.collection.block import Decoded
from codec.commands import work
from codec.commands.events import Done, Events, Existing, Failed, guarded
from codec.commands.inputs import Input, find_streams, places_of
from codec.commands.stream import Found, Restoration, Stream, open_stream
from codec.commands.tree import Tree
from codec.errors import UsageError
from codec.files import images
from codec.files.atomic import size_of
from codec.files.place import STANDARD, Place, below, place

Format = Literal["png", "npy", "idx"]


class Destination(NamedTuple):
    """Where the images of one stream go: a file or a tree, depending on the stream.

    exact: OUT is this file; tree_given: OUT is this directory, so it may exist.
    """

    stem: Place  # of a file, its suffix to come
    tree: Place
    exact: bool = False
    tree_given: bool = False

    def file(self, suffix: str) -> Place:
        return self.stem if self.exact else self.stem.with_suffix(f".{suffix}")


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
    if suffix in (".png", ".npy", ".idx"):
        if format not in (None, suffix[1:]):
            raise UsageError(f"--format {format} contradicts OUT {out}")
        return cast(Format, suffix[1:]), True
    if out is not None and images.is_array_file(Path(out)) and not place(out).is_directory():
        raise UsageError(f"OUT is {out}: arrays are written as .npy or .idx")
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
        format, to_file = asked.format, destination.stem.is_standard or destination.exact
        if stream.collection is None:
            output = destination.file(format or "png")
            output.check_free(asked.force)  # before decoding
            found = stream.intact(stream.decoded())
            yield from _write_single(found, stream, output, format or "png", asked.force)
            return
        if format is None:
            format = "png" if not destination.stem.is_standard and stream.has_names else "npy"
        numbers = None if asked.index is None else list(chain.from_iterable(asked.index))
        if format == "png" and not to_file:
            yield from _write_tree(stream, destination, numbers, asked, source)
            return
        if format == "png" and (stream.num_images if numbers is None else len(numbers)) != 1:
            raise UsageError(
                "one PNG holds one image: pick it with --index, or give a directory or array as OUT"
            )
        if numbers is None:
            found = stream.intact(stream.decoded(asked.jobs))
        else:
            found = stream.pick(numbers, named=False)
        write = _write_single if format == "png" else _write_array
        yield from write(found, stream, destination.file(format), format, asked.force)


def _write_tree(
    stream: Stream,
    destination: Destination,
    numbers: list[int] | None,
    asked: _Asked,
    source: Input,
) -> Events:
    pins = _pins(source, asked.force) if numbers is None else None
    tree = Tree(
        destination.tree, stream, given=destination.tree_given, force=asked.force, pins=pins
    )
    if numbers is None:
        yield from tree.write(stream.restorations(), asked.jobs, stream.num_tasks(asked.jobs))
        return
    picked: list[Restoration] = []
    for item in stream.pick(numbers, named=True):
        if isinstance(item, Decoded):
            picked.append(Restoration(item, item.names))
        else:
            yield item
    yield from tree.write_picked(picked, asked.jobs)


def _pins(source: Input, force: bool) -> dict[str, object] | None:
    """Everything that the files of a tree depend on; None if the stream cannot be read again."""
    path = source.place.path
    if path is None:
        return None
    return {
        "aez": __version__,
        "stream": os.path.abspath(path),
        "identity": work.identity([str(path)]),
        "force": force,
    }


def _write_single(
    found: Iterator[Found],
    stream: Stream,
    output: Place,
    format: Format,
    force: bool,
) -> Events:
    for item in found:
        if not isinstance(item, Decoded):
            yield item
            continue
        pixels = item.pixels
        if format == "idx":
            packed = images.pack_idx(pixels)
        else:  # of the shape (28, 28), as it was compressed
            packed = (images.pack_png if format == "png" else images.pack_npy)(pixels[0])
        with output.replace(force=force) as file:
            file.write(packed)
        yield Done(stream.label, str(output), 1, stream.num_bytes, len(packed))


def _write_array(
    found: Iterator[Found],
    stream: Stream,
    output: Place,
    format: Format,
    force: bool,
) -> Events:
    """Write .npy or IDX block by block, and in the end the header with the number of images.

    Nothing is written if nothing is intact.
    """
    num_images, failed = 0, False
    first: Decoded | None = None
    for item in found:
        if isinstance(item, Decoded):
            first = item
            break
        failed |= isinstance(item, Failed)
        yield item
    if first is None and failed:
        return
    with output.replace(force=force, durable=True) as file:
        file.write(_array_header(format, 0))
        for item in found if first is None else chain([first], found):
            if not isinstance(item, Decoded):
                yield item
                continue
            file.write(item.pixels.tobytes())
            num_images += len(item.pixels)
        file.seek(0)
        file.write(_array_header(format, num_images))
        size_bytes = size_of(file)
    yield Done(stream.label, str(output), num_images, stream.num_bytes, size_bytes)


def _array_header(format: Format, num_images: int) -> bytes:
    """Header of uint8 (num_images, 28, 28), of the same length for any number (numpy pads it)."""
    if format == "idx":
        return struct.pack(">4B3I", 0, 0, 8, 3, num_images, SIDE, SIDE)
    header = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": (num_images, SIDE, SIDE)}
    np.lib.format.write_array_header_1_0(header, fields)
    return header.getvalue()
