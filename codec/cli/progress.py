"""Progress on a terminal: a line on stderr that is removed at the end.

    ━━━━━━━╸━━━━━━━━━━ 24,576 of 60,000 images, 2,210 images/s, 0:16 left, 664.1 kB

READ ME FIRST
- rich takes a tenth of a second to import. So it is imported only when a command has run for a
  moment, and by another thread, as the first event of a command can take minutes.
- Messages go through `ImageBar.print`, above the bar.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, Task

BAR_WIDTH = 18  # with the text beside it, a line of 80 columns
QUICK_S = 0.5  # a command that ends before shows nothing
Step = Callable[[str, int, int], None]  # the next step, how many steps are done, of how many


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a standard stream, None if it is closed, is a terminal."""
    return stream is not None and stream.isatty()


class ImageBar:
    """Images done of all, images a second, time left, bytes so far.  A context manager."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._progress: Progress | None = None
        self._images = self._bytes = self._total = 0
        self._rate = 0.0  # images a second since the start
        self._is_over, self._started = False, time.monotonic()
        self._timer = threading.Timer(QUICK_S, self._appear)
        self._timer.daemon = True

    def __enter__(self) -> ImageBar:
        self._timer.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._timer.cancel()
        with self._lock:
            self._is_over = True
            if self._progress is not None:
                self._progress.stop()

    def expect(self, images: int) -> None:
        """So many more images will come; fewer, if it is negative."""
        with self._lock:
            self._total += images
            self._update()

    def add(self, images: int, num_bytes: int) -> None:
        """So many more are done."""
        with self._lock:
            self._images, self._bytes = self._images + images, self._bytes + num_bytes
            self._rate = self._images / (time.monotonic() - self._started)
            self._update()

    def print(self, line: str) -> bool:
        """Print a line above the bar; False: there is no bar yet, so that anybody can print it."""
        with self._lock:
            if self._progress is None or self._is_over:
                return False
            self._progress.console.out(line, highlight=False)
            return True

    def _appear(self) -> None:
        progress = _progress(_image_columns())
        with self._lock:
            if self._is_over:
                return
            self._task = progress.add_task("", total=None, bytes=0, rate=0.0)
            self._progress = progress
            self._update()
            progress.start()

    def _update(self) -> None:
        if self._progress is not None:
            self._progress.update(
                self._task,
                completed=self._images,
                total=max(self._total, self._images) or None,
                bytes=self._bytes,
                rate=self._rate,
            )


def _progress(columns: list[ProgressColumn], redirect_stdout: bool = False) -> Progress:
    from rich.console import Console
    from rich.progress import Progress

    return Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=redirect_stdout,
        redirect_stderr=redirect_stdout,
    )


def _column(render: Callable[[Task], str]) -> ProgressColumn:
    """A column of text."""
    from rich.progress import ProgressColumn
    from rich.text import Text

    class Column(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(render(task), no_wrap=True)

    return Column()


def _bar() -> ProgressColumn:
    from rich.progress import BarColumn

    return BarColumn(bar_width=BAR_WIDTH)


def _image_columns() -> list[ProgressColumn]:
    from rich.filesize import decimal

    def said(task: Task) -> str:
        done = int(task.completed)
        speed = task.speed or task.fields["rate"]  # at first there is no speed
        of = "" if task.total is None else f" of {int(task.total):,}"
        parts = [f"{done:,}{of} images"]
        if speed:
            parts.append(f"{speed:,.0f} images/s")
            if task.remaining is not None:
                parts.append(f"{clock(task.remaining / speed)} left")
        if task.fields["bytes"]:
            parts.append(decimal(task.fields["bytes"]))
        return ", ".join(parts)

    return [_bar(), _column(said)]


def clock(seconds: float) -> str:
    """`0:07`, `1:02:03`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


@contextlib.contextmanager
def step_bar() -> Iterator[Step]:
    """A bar of steps, and what is done in each."""

    def said(task: Task) -> str:
        if task.total is None:
            return task.description
        unit, comma, more = task.description.partition(",")  # the first word is the unit
        left = "" if task.time_remaining is None else f", {clock(task.time_remaining)} left"
        return f"{int(task.completed):,} of {int(task.total):,}{unit}{left}{comma}{more}"

    # On a terminal, lines on stdout appear above the bar; else stdout can be the output itself.
    with _progress([_bar(), _column(said)], redirect_stdout=is_terminal(sys.stdout)) as progress:
        task = progress.add_task("", total=None)
        yield lambda what, done, total: progress.update(
            task, description=what, completed=done, total=total or None
        )
