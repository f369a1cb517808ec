"""What is printed: events as they come, then a summary for people or JSON for programs."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import typer

from codec.cli.progress import ImageBar, Step, is_terminal, step_bar
from codec.errors import counted, shown

if TYPE_CHECKING:
    from collections.abc import Generator

    from codec.commands.events import Event, Result

T = TypeVar("T")


def put(text: str, nl: bool = True) -> None:
    """Write to stdout, if it is open.  Raises OSError."""
    try:
        typer.echo(text, nl=nl)
    except OSError as error:
        raise stdout_error(error) from error


def stdout_error(error: OSError) -> OSError:
    """An error of stdout that says so.  If nobody reads any more, that is no error to be told."""
    if error.errno is None or isinstance(error, BrokenPipeError):
        return error
    return OSError(error.errno, f"cannot write to stdout: {error.strerror}")


def say(line: str) -> None:
    """Write a message to stderr, if it can be written to."""
    with contextlib.suppress(OSError):
        typer.echo(message(line), err=True)


def message(line: str) -> str:
    """A line for stderr."""
    return f"aez: {shown(line)}"


def images(number: int) -> str:
    """`no images`, `1 image`, `2 images`."""
    return counted(number, "image") if number else "no images"


def where(outputs: Sequence[str]) -> str:
    """`x.idx and x-labels.idx`, `3 files`."""
    return " and ".join(outputs) if 0 < len(outputs) < 3 else f"{len(outputs)} files"


class Screen:
    """What the user sees of one command.  quiet: only failures."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet, self._started = quiet, time.perf_counter()
        self._live = is_terminal(sys.stderr) and not quiet
        self._bar: ImageBar | None = None

    def run(
        self,
        events: Generator[Event, None, Any],
        result: Result | None = None,
        show: Callable[[Event], None] | None = None,
    ) -> Result:
        """Run a command, and print its events as they come; `show` prints those of its own."""
        from codec.commands.events import Result

        result = Result() if result is None else result
        self.value_of(events, result, show)
        return result

    def value_of(
        self,
        events: Generator[Event, None, T],
        result: Result,
        show_more: Callable[[Event], None] | None = None,
    ) -> T:
        """As `run`: add the events to a result, and return what the generator returns."""

        def show(event: Event) -> None:
            result.add(event)
            self._show(event)
            if show_more is not None:
                show_more(event)

        with contextlib.ExitStack() as stack:
            stack.callback(events.close)
            if self._live:
                self._bar = stack.enter_context(ImageBar())
            while True:
                try:
                    event = next(events)
                except StopIteration as end:
                    value: T = end.value
                    return value
                try:
                    show(event)
                except (KeyboardInterrupt, SystemExit) as interrupt:
                    # the command handles it, and may report what it keeps
                    show(events.throw(interrupt))
                    raise

    def _show(self, event: Event) -> None:
        from codec.commands.events import Expected, Failed, Note, Progress

        match event:
            case Failed():
                self._say(str(event))
            case Note():
                self.note(event.text)
            case Expected() if self._bar is not None:
                self._bar.expect(event.images)
            case Progress() if self._bar is not None:
                self._bar.add(event.images, event.bytes)

    def _say(self, line: str) -> None:
        if self._bar is None or not self._bar.print(message(line)):
            say(line)

    def note(self, text: str) -> None:
        if not self._quiet:
            self._say(text)

    @contextlib.contextmanager
    def bar(self) -> Iterator[Step]:
        """A progress bar, on a terminal."""
        if self._live:
            with step_bar() as step:
                yield step
        else:
            yield lambda what, done, total: None

    def finish(
        self, result: Result, figures: dict[str, Any], summary: Sequence[str], *, as_json: bool
    ) -> NoReturn:
        """Print the result and exit."""
        if as_json:
            figures["seconds"] = round(time.perf_counter() - self._started, 3)
            figures["failed"] = failures(result)
            put(json.dumps(figures))
        elif not self._quiet:
            for line in summary:
                put(shown(line))
        raise typer.Exit(result.exit_code)


def failures(result: Result) -> list[dict[str, str]]:
    """For JSON."""
    return [{"name": name, "reason": reason} for name, reason in result.failed]
