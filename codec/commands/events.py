"""What commands report as they run, and `Result`, the sum of it.

READ ME FIRST: commands are generators. They start with the first `next`, and a caller that stops
early must close the generator, as `Result.of` and the command line do.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TypeVar

from codec.api import CompressStats, StreamInfo
from codec.collection.listing import Entry
from codec.errors import AezError, BitstreamError, counted
from codec.files.atomic import OutputExists

T = TypeVar("T")
MAX_NAMED_OUTPUTS = 3  # that exist


@dataclass(frozen=True)
class Done:
    """An output is written; "-" is stdout.

    images, bytes_in: of its inputs; stats: of compression.
    """

    input: str
    output: str
    images: int
    bytes_in: int
    bytes_out: int
    stats: CompressStats | None = None


@dataclass(frozen=True)
class Planned:
    """An output that would be written, in a dry run; several: it would hold many images; labels:
    where those would come from; there: the number of images that these would be added to.
    """

    input: str
    output: str
    images: int
    several: bool
    labels: str = ""
    there: int | None = None

    def __str__(self) -> str:
        labels = f", labels: {self.labels}" if self.labels else ""
        count = f" ({counted(self.images, 'image')}{labels})" if self.several else ""
        adds = "" if self.there is None else f", added to the {counted(self.there, 'image')} there"
        return f"{self.input}{count} -> {self.output}{adds}"


@dataclass(frozen=True)
class Checked:
    """A stream was decoded.  images: the intact ones; whole: nothing is damaged."""

    input: str
    images: int
    whole: bool


@dataclass(frozen=True)
class Described:
    """What the headers of a stream say."""

    input: str
    info: StreamInfo


@dataclass(frozen=True)
class Listed:
    """Some images of a stream, one by one.  num_images: of the whole stream."""

    input: str
    num_images: int
    entries: list[Entry]


@dataclass(frozen=True)
class Failed:
    """An input, an output or an image failed; damaged: because a stream is damaged; named: the
    reason names it already.
    """

    name: str
    reason: str
    damaged: bool = False
    named: bool = False

    def __str__(self) -> str:
        return self.reason if self.named else f"{self.name}: {self.reason}"

    @staticmethod
    def by(name: str, error: Exception) -> Failed:
        return Failed(name, reason_of(name, error), isinstance(error, BitstreamError))


@dataclass(frozen=True)
class Note:
    """A message that is not a failure."""

    text: str


@dataclass(frozen=True)
class Expected:
    """This many more images are to come than was known; negative: fewer."""

    images: int


@dataclass(frozen=True)
class Progress:
    """This many more images are finished; bytes: of their output; of their stream, if it is read
    only.
    """

    images: int
    bytes: int = 0


Event = Done | Planned | Checked | Described | Listed | Failed | Note | Expected | Progress
Events = Generator[Event, None, None]


def expected(images: int) -> list[Expected]:
    """The event of so many more images, none if it says nothing."""
    return [Expected(images)] if images else []


def reason_of(name: str, error: Exception) -> str:
    """Why `name` failed, without the name."""
    # str() would repeat the name, or name a temporary file
    if isinstance(error, OSError) and error.strerror:
        tried, _, reason = error.strerror.partition(f" {name}: ")
        if tried in ("cannot write", "cannot delete") and reason:
            return f"cannot be {'written' if tried == 'cannot write' else 'deleted'}: {reason}"
        return error.strerror
    return str(error).removeprefix(f"{name}: ")


class Existing:
    """Outputs that exist: a few are named, many are counted in one failure.

    So a command that is run again, after it was interrupted, does not print a page of messages.
    """

    def __init__(self) -> None:
        self._count = 0
        self._named: list[Failed] = []
        self._least = self._most = ""  # in the order of texts: all others share what these two do

    def take(self, name: str, error: Exception) -> list[Failed]:
        """The failure of an input; none if its output exists, as `told` tells that."""
        failure = Failed.by(name, error)
        if not isinstance(error, OutputExists):
            return [failure]
        self._least = min(self._least or error.output, error.output)
        self._most = max(self._most, error.output)
        self._count += 1
        if self._count <= MAX_NAMED_OUTPUTS:
            self._named.append(failure)
        return []

    def told(self, num_outputs: int) -> list[Failed]:
        """What is in the way.  num_outputs: how many the command has in all."""
        if self._count <= MAX_NAMED_OUTPUTS:
            return self._named
        letters = zip(self._least, self._most, strict=False)
        shared = "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], letters))
        folder = shared.rpartition("/")[0]
        said = f"{self._count:,} of {num_outputs:,} outputs exist already; -f replaces them"
        return [Failed(folder or ".", said)]


def guarded(name: str, events: Iterable[Event], existing: Existing | None = None) -> Events:
    """The events of one input; an error becomes a failure, so that other inputs continue.

    existing: takes the failure of an output that exists.
    """
    try:
        yield from events
    except BrokenPipeError:  # nobody reads stdout any more: not a fault of this input
        raise
    except (AezError, OSError) as error:
        yield from [Failed.by(name, error)] if existing is None else existing.take(name, error)


@dataclass
class Result:
    """What a command did, and what failed.

    images, bytes_in, bytes_out: of the inputs that became outputs, and of these. outputs: written,
    or found intact by `test`, or listed, or, in a dry run, planned. failed: names and reasons.
    whole: streams that `test` found intact, with the number of their images; described: by `info`.
    """

    images: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    outputs: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    whole: list[tuple[str, int]] = field(default_factory=list)
    described: list[tuple[str, StreamInfo]] = field(default_factory=list)
    damaged: bool = False
    stats: CompressStats = field(default_factory=CompressStats)

    @staticmethod
    def of(events: Generator[Event, None, T]) -> Result:
        """Run a command to its end.  Raises what it raises."""
        result = Result()
        with closing(events):
            for event in events:
                result.add(event)
        return result

    def add(self, event: Event) -> None:
        match event:
            case Done():
                self.outputs.append(event.output)
                self.images += event.images
                self.bytes_in += event.bytes_in
                self.bytes_out += event.bytes_out
                if event.stats is not None:
                    self.stats += event.stats
            case Planned():
                self.outputs.append(str(event))
                self.images += event.images
            case Checked():
                self.images += event.images
                if event.whole:
                    self.outputs.append(event.input)
                    self.whole.append((event.input, event.images))
            case Described():
                self.outputs.append(event.input)
                self.described.append((event.input, event.info))
            case Listed():
                self.images += len(event.entries)
                if self.outputs[-1:] != [event.input]:
                    self.outputs.append(event.input)
            case Failed():
                self.failed.append((event.name, event.reason))
                self.damaged |= event.damaged
            case Note():
                self.notes.append(event.text)

    @property
    def exit_code(self) -> int:
        """0 all good; 1 nothing done; 3 some inputs failed; 4 a stream is damaged."""
        if self.damaged:
            return 4
        return 0 if not self.failed else 3 if self.outputs else 1
