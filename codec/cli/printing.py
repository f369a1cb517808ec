"""What is printed: events as they come, then a summary for people or JSON for programs."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeVar

import typer

from codec.errors import counted

if TYPE_CHECKING:
    from collections.abc import Generator

    from codec.commands.events import Event, Result

T = TypeVar("T")

QUICK_S = 2.0  # before that a command shows no counter, and does not import rich
Step = Callable[[str, int, int], None]  # the next step, how many steps are done, of how many


def shown(text: str) -> str:
    """Escape control characters, as names come from untrusted files and streams."""
    if text.isprintable():  # most are
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


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
        typer.echo(f"aez: {shown(line)}", err=True)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a standard stream, None if it is closed, is a terminal."""
    return stream is not None and stream.isatty()


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
        self._counter: Step | None = None
        self._images = 0

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
            self._show(event, stack)
            if show_more is not None:
                show_more(event)

        with contextlib.ExitStack() as stack:
            stack.callback(events.close)
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

    def _show(self, event: Event, stack: contextlib.ExitStack) -> None:
        from codec.commands.events import Failed, Note, Progress

        match event:
            case Failed():
                say(str(event))
            case Note():
                self.note(event.text)
            case Progress():
                self._images += event.images
                if self._live and time.perf_counter() > self._started + QUICK_S:
                    if self._counter is None:
                        self._counter = stack.enter_context(progress_bar(counts=True))
                    self._counter("images", self._images, 0)

    def note(self, text: str) -> None:
        if not self._quiet:
            say(text)

    @contextlib.contextmanager
    def bar(self) -> Iterator[Step]:
        """A progress bar, on a terminal."""
        if self._live:
            with progress_bar() as step:
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


@contextlib.contextmanager
def progress_bar(*, counts: bool = False) -> Iterator[Step]:
    """A line on stderr that is removed at the end.  counts: only count, the total is not known."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        [TextColumn("{task.completed} {task.description}", markup=False), TimeElapsedColumn()]
        if counts
        else [
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
        ]
    )
    # On a terminal, lines on stdout appear above the bar; else stdout can be the output itself.
    console, to_terminal = Console(stderr=True), is_terminal(sys.stdout)
    with Progress(
        *columns, console=console, transient=True, redirect_stdout=to_terminal
    ) as progress:
        task = progress.add_task("", total=None)
        yield lambda what, done, total: progress.update(
            task, description=what, completed=done, total=total or None
        )
