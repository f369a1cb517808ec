"""Options that several verbs share, and their parsing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from codec.cli.progress import is_terminal
from codec.errors import UsageError


def _number(
    kind: type[int] | type[float], unit: str, low: float, high: float | None
) -> Callable[[typer.CallbackParam, Any], Any]:
    """A callback that turns the text of an option into a number and checks it.

    Options with it have `parser=str`: the messages of typer depend on its version, and some are for
    programmers.
    """
    allowed = f"{unit} of at least {low}" if high is None else f"{unit} from {low} to {high}"

    def parse(param: typer.CallbackParam, value: Any) -> Any:
        if value is None or not isinstance(value, str):  # the default
            return value
        try:
            number = kind(value)
        except ValueError:
            number = None
        if number is None or not low <= number or (high is not None and number > high):
            raise UsageError(f"{param.opts[0]} {value}: give {allowed}")
        return number

    return parse


def whole(low: int, high: int | None = None) -> Any:
    """A callback for a whole number; see `_number`."""
    return _number(int, "a whole number", low, high)


def real(low: float, high: float | None = None) -> Any:
    """A callback for any number; see `_number`."""
    return _number(float, "a number", low, high)


def one_of(*words: str) -> dict[str, Any]:
    """Arguments of an option that is one of some words; see `_number`."""

    def parse(param: typer.CallbackParam, value: str | None) -> str | None:
        if value not in (None, *words):
            raise UsageError(
                f"{param.opts[0]} {value}: give {', '.join(words[:-1])} or {words[-1]}"
            )
        return value

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return {
        "parser": str,
        "callback": parse,
        "metavar": "|".join(words),
        "autocompletion": complete,
    }


Inputs = Annotated[
    list[str], typer.Argument(metavar="INPUT", help="Files, directories, or - for stdin.")
]
Streams = Annotated[
    list[str], typer.Argument(metavar="FILE", help=".aez files, directories of them, or -.")
]
Index = Annotated[
    str | None,
    typer.Option("--index", metavar="0,5,10-20", help="Only these images, in this order, from 0."),
]
Foreign = Annotated[
    str | None,
    typer.Option(
        "-m",
        "--model",
        metavar="NAME|FILE",
        help="The model of the stream, if it is not installed.",
    ),
]
Model = Annotated[
    str,
    typer.Option("-m", "--model", metavar="auto|NAME|FILE", help="`aez models` lists them."),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "-j",
        "--jobs",
        parser=str,
        callback=whole(1),
        metavar="N",
        help="Cores to use; by default all.",
    ),
]
Force = Annotated[bool, typer.Option("-f", "--force", help="Overwrite outputs that exist.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", help="No progress, no notes, no summary; failures are still named."),
]


def ranges(text: str | None) -> list[range] | None:
    """`0,5,10-20` -> ranges; 20 included."""
    if text is None:
        return None
    found = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isdecimal() and (last.isdecimal() if dash else True)) or (
            dash and int(last) < int(first)
        ):
            raise UsageError(f"--index {text}: {part!r} is neither a number nor a range like 10-20")
        found.append(range(int(first), int(last if dash else first) + 1))
    return found


def numbers(text: str | None, low: int, high: int, option: str) -> tuple[int, ...] | None:
    """`10,50,95` -> numbers, each in low .. high, each once."""
    if text is None:
        return None
    for part in text.split(","):
        if not part.strip().isdecimal() or not low <= int(part) <= high:
            raise UsageError(
                f"{option} {text}: {part!r} is not a whole number from {low} to {high}"
            )
    return tuple(dict.fromkeys(map(int, text.split(","))))


def output(inputs: Sequence[str], out: str | None, as_json: bool) -> str | None:
    """OUT, by default "-" for stdin.  Raises UsageError if it cannot be written."""
    if out == "":
        raise UsageError("the name after -o is empty: give a file or a directory")
    if "-" in inputs and out is None:
        out = "-"
    if out == "-" and as_json:
        raise UsageError("--json and the output would both go to stdout: give -o FILE")
    if out == "-" and is_terminal(sys.stdout):
        raise UsageError("the output would go to the terminal: give -o FILE, or redirect it")
    return out


def cores(jobs: int | None) -> int:
    """How many cores to use, by default all that this process may use."""
    from codec.parallel import num_cores

    return jobs or num_cores()
