"""The jobs of `aez compress`: some inputs, and the outputs made of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from codec.commands.events import Event, Failed
from codec.commands.inputs import Input, Inputs
from codec.errors import ImageError, UsageError, counted
from codec.files import names
from codec.files.batch import READING, ImageSource, Reading
from codec.files.labels import of_folders, read_labels_of
from codec.files.place import Place, below, place
from codec.files.sources import open_source
from codec.labels import Labels


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

    @property
    def mode(self) -> int | None:
        """Who may read all that the user gave, if that is known: see `Place.replace`."""
        return None


@dataclass
class Images(Collecting):
    """Image files become one collection, in which they have names.

    wanted: which labels are asked for, see `labels_for`; permissions: of what the user gave.
    """

    wanted: str | None = None
    permissions: int | None = None

    @property
    def mode(self) -> int | None:
        return self.permissions

    def labels(self) -> tuple[Labels, str] | None:
        """The labels, and where they come from.  Raises ImageError, UsageError, OSError."""
        found = labels_for(self.wanted, list(self.inputs.names()), self.label)
        if found is not None and len(found[0]) != len(self.inputs):
            raise UsageError(
                f"{found[1]}: {counted(len(found[0]), 'label')} for "
                f"{counted(len(self.inputs), 'image')}"
            )
        return found

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
        if clash := names.clash(self.inputs.names):
            *numbers, what = clash
            one, other = (next(self.inputs.part(number, number + 1)).label for number in numbers)
            raise UsageError(f"{one} and {other} {what}")
        return len(self.inputs) > 0


@dataclass
class Source(Collecting):
    """A file of many images becomes one collection.

    labels: the file of their labels, which lies beside it or is given with it.
    """

    reading: Reading = READING
    labels: Place | None = None

    @property
    def source(self) -> Input:
        return next(iter(self.inputs))

    @property
    def mode(self) -> int | None:
        return self.source.place.mode()

    @contextmanager
    def open(self) -> Iterator[ImageSource]:
        """Raises ImageError, UsageError, OSError."""
        where = self.source.place
        with ExitStack() as stack:
            # a path is opened by `open_source`, whose errors name it
            file = where.path or stack.enter_context(where.open())
            source = stack.enter_context(open_source(file, str(where), self.reading))
            if self.labels is not None:
                source.label_with(*_labels_at(self.labels, source.names))
            else:
                give_labels(source, self.reading.labels)
            yield source


def give_labels(source: ImageSource, wanted: str | None) -> None:
    """Give images the labels that are asked for, unless they have them from their own file.

    Raises ImageError, UsageError, OSError.
    """
    if not source.labels_from and (found := labels_for(wanted, source.names, source.name)):
        source.label_with(*found)


def labels_for(
    wanted: str | None, names: Sequence[str] | None, images: str
) -> tuple[Labels, str] | None:
    """The labels that are asked for, and where they come from; None: none are.

    wanted: "folders", "none", or a file; names: of the images, if they have any; images: where they
    are, for messages. Raises ImageError, UsageError, OSError.
    """
    if wanted in (None, "none"):
        return None
    if wanted == "folders":
        if names is None:
            raise UsageError(f"--labels folders: the images of {images} are in no folders")
        return of_folders(names, images), "folder names"
    if not wanted:
        raise UsageError("the name after --labels is empty")
    where = place(wanted)
    if not where.exists():
        raise UsageError(f"--labels {wanted} is no file, and no column or array of {images}")
    return _labels_at(where, names)


def _labels_at(where: Place, names: Sequence[str] | None) -> tuple[Labels, str]:
    """Labels in a file, and what they are said to be from.  names: of the images, if any."""
    try:
        with where.open() as file:
            labels, how = read_labels_of(names, file, str(where))
    except OSError as error:
        raise ImageError(f"labels in {where}: {error.strerror or error}") from None
    return labels, f"{where}{how}"


class Stdin(Collecting):
    """Standard input becomes one stream: its content says whether it is an image or an array."""

    lasting = False
