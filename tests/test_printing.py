"""What the command line prints of the events of a command."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from codec.cli.printing import Screen
from codec.commands.events import Done, Event, Failed, Note, Progress, Result
from codec.errors import shown

DONE = Done("a", "a.aez", 2, 100, 50)


def test_failures_and_notes_are_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    result = Screen().run(iter_of(Note("skipped"), Failed("b", "no image"), Progress(2), DONE))
    assert capsys.readouterr() == ("", "aez: skipped\naez: b: no image\n")
    assert (result.images, result.failed, result.exit_code) == (2, [("b", "no image")], 3)


def test_quiet_leaves_failures(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(quiet=True).run(iter_of(Note("skipped"), Failed("b", "no image")))
    assert capsys.readouterr().err == "aez: b: no image\n"


def iter_of(*events: Event):
    yield from events


def test_a_command_is_closed_when_printing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    def command() -> Iterator[Event]:
        try:
            yield DONE
        finally:
            closed.append(True)

    def fail(self: Result, event: Event) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(Result, "add", fail)
    with pytest.raises(BrokenPipeError):
        Screen().run(command())
    assert closed == [True]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), SystemExit(143)])
def test_interrupt_while_an_event_is_printed_is_answered_by_the_command(
    interrupt: BaseException,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It says what it keeps, wherever Ctrl-C struck."""
    add = Result.add

    def command() -> Iterator[Event]:
        try:
            yield DONE
        except type(interrupt):
            yield Note("one block is kept")
            raise

    def struck(self: Result, event: Event) -> None:
        if event is DONE:
            raise interrupt
        add(self, event)

    monkeypatch.setattr(Result, "add", struck)
    with pytest.raises(type(interrupt)):
        Screen().run(command())
    assert capsys.readouterr().err == "aez: one block is kept\n"


def test_control_characters_are_escaped() -> None:
    assert shown("a\x1b[31m\nb\udc80é") == "a\\x1b[31m\\nb\\udc80é"
