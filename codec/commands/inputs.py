"""The inputs of a command: files, directories and URLs, in order.

READ ME FIRST
- The images of a directory are in code-point order of their POSIX path below it ("10.png" before
  "2.png"). Files given one by one keep their order, and their names are relative to the deepest
  directory that they share.
- A directory of a million files is listed into memory once, as names (`Inputs`).
- Links to directories are not followed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from codec.commands.events import Event, Failed, Note
from codec.errors import ImageError, UsageError
from codec.files import images, kinds
from codec.files.place import STANDARD, Local, Place, below, given, place


class Input(NamedTuple):
    """A file to read: where it is, and its POSIX name below the directory it was found in."""

    path: str | None  # or a URL; None: stdin
    name: str

    @property
    def label(self) -> str:
        return "stdin" if self.path is None else self.path

    @property
    def place(self) -> Place:
        return STANDARD if self.path is None else place(self.path)


class Inputs:
    """Many inputs in order, kept as names below their directories: 80 bytes an image, not 700."""

    def __init__(self) -> None:
        # directory (path or URL), prefix of its names, names
        self._runs: list[tuple[str, str, list[str]]] = []

    @staticmethod
    def directory(top: Place, found: list[str], prefix: str = "") -> Inputs:
        inputs = Inputs()
        inputs.add(str(top), prefix, found)
        return inputs

    def add(self, root: str, prefix: str, found: list[str]) -> None:
        if self._runs and self._runs[-1][:2] == (root, prefix):  # files that were given one by one
            self._runs[-1][2].extend(found)
        elif found:
            self._runs.append((root, prefix, found))

    def add_file(self, path: Path, name: str) -> None:
        self.add(str(path.parent), name.removesuffix(path.name), [path.name])

    def __len__(self) -> int:
        return sum(len(found) for _, _, found in self._runs)

    def __iter__(self) -> Iterator[Input]:
        return iter(self.part(0, len(self)))

    def part(self, start: int, stop: int) -> Iterator[Input]:
        """Inputs number start .. stop - 1."""
        for root, prefix, found in self._runs:
            for name in found[max(0, start) : max(0, stop)]:
                yield Input(below(root, name), prefix + name)
            start, stop = start - len(found), stop - len(found)

    def names(self) -> Iterator[str]:
        """The name of each."""
        return (prefix + name for _, prefix, found in self._runs for name in found)

    def keep(self, wanted: Callable[[Input], bool]) -> None:
        """Keep only the inputs that are wanted."""
        for root, prefix, found in self._runs:
            found[:] = [name for name in found if wanted(Input(below(root, name), prefix + name))]

    def digest(self) -> str:
        """A digest of all paths and names."""
        digest = hashlib.blake2b(digest_size=16)
        for root, prefix, found in self._runs:
            for text in (place(root).full(), prefix, *found):
                digest.update(os.fsencode(text) + b"\0")
        return digest.hexdigest()


def places_of(inputs: Sequence[str]) -> list[Place]:
    """What the user gave, each once: local files and directories, or stdin or a URL alone."""
    if "" in inputs:
        # as a path it would mean the current directory
        raise UsageError("the name of an input is empty")
    places = list(dict.fromkeys(map(given, inputs)))
    for one in places:
        if one.path is None and len(places) > 1:
            raise UsageError(f"{'- (stdin)' if one is STANDARD else one} must be the only input")
    return places


def base_of(paths: Sequence[Path]) -> str:
    """The directory to which names are relative: the only input, or what all inputs share."""
    if len(paths) == 1 and paths[0].is_dir():
        return os.path.abspath(paths[0])
    return os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])


def relative(path: Path, base: str) -> str:
    return Path(os.path.relpath(os.path.abspath(path), base)).as_posix()


def images_in(top: Place, all_files: bool = False) -> Generator[Event, None, list[str]]:
    """Names of the image files below a directory; reports if there are none or others.

    all_files: look at what is in files without the suffix of an image.
    """
    found, others, unread = top.walk(images.is_image_file)
    yield from (Failed.by(name, error) for name, error in unread)
    found = [name for name in found if not kinds.is_litter(name)]
    others = [name for name in others if not kinds.is_litter(name)]
    if all_files:
        more = {name for name in others if _is_image(top.below(name))}
        found = sorted([*found, *more])
        others = [name for name in others if name not in more]
    skipped = "; ".join(kinds.others_of(others, seen=all_files))
    if not found:
        yield Failed.by(
            str(top), ImageError(f"no images in this directory: {skipped or 'it is empty'}")
        )
    elif skipped:
        yield Note(f"{top}: skipped {skipped}")
    return found


def _is_image(file: Place) -> bool:
    """Whether a file is an image by its content; what is no file, such as a pipe, is not opened."""
    if file.path is not None and not file.path.is_file():
        return False
    try:
        with file.open() as stream:
            return images.is_image_content(stream.read(images.HEAD_BYTES))
    except OSError:
        return False


def find_streams(inputs: Sequence[str]) -> Generator[Event, None, list[Input]]:
    """The streams in inputs: files, and every `.aez` below a directory."""
    places = places_of(inputs)
    if places[0].path is None:
        return [Input(None if places[0] is STANDARD else str(places[0]), places[0].name)]
    paths = [one.path for one in places if one.path is not None]
    base = base_of(paths)
    streams: list[Input] = []
    for path in paths:
        name = relative(path, base)
        if not path.is_dir():
            streams.append(Input(str(path), name))
            continue
        found, _, unread = Local(path).walk(lambda name: name.endswith(".aez"))
        yield from (Failed.by(folder, error) for folder, error in unread)
        if not found:
            yield Failed.by(str(path), UsageError("no .aez files in this directory"))
        streams += [Input(below(str(path), each), below(name, each)) for each in found]
    return streams
