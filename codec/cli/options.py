"""Options that several verbs share, and their parsing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from codec.cli.progress import is_terminal
from codec.errors import UsageError

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
        "-m", "--model", metavar="NAME|FILE", help="The model, if the stream's is not installed."
    ),
]
Model = Annotated[
    str, typer.Option("-m", "--model", metavar="auto|NAME|FILE", help="See `aez models`.")
]
Jobs = Annotated[
    int | None,
    typer.Option("-j", "--jobs", min=1, metavar="N", help="Cores to use.", show_default="all"),
]
Force = Annotated[bool, typer.Option("-f", "--force", help="Overwrite outputs that exist.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", help="No progress, no notes, no summary; failures are still named."),
]


def quality_in_range(quality: int | None) -> int | None:
    if quality is not None and not 0 <= quality <= 100:
        raise typer.BadParameter(f"{quality} is not in the range 0..100")
    return quality


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
            raise typer.BadParameter(
                f"{part!r} is neither a number nor a range such as 10-20", param_hint="--index"
            )
        found.append(range(int(first), int(last if dash else first) + 1))
    return found


def numbers(text: str | None, low: int, high: int, option: str) -> tuple[int, ...] | None:
    """`10,50,95` -> numbers, each in low .. high, each once."""
    if text is None:
        return None
    for part in text.split(","):
        if not part.strip().isdecimal() or not low <= int(part) <= high:
            raise typer.BadParameter(
                f"{part!r} is not a whole number in the range {low}..{high}", param_hint=option
            )
    return tuple(dict.fromkeys(map(int, text.split(","))))


def output(inputs: Sequence[str], out: str | None, as_json: bool) -> str | None:
    """OUT, by default "-" for stdin.  Raises UsageError if it cannot be written."""
    if out == "":
        raise UsageError("the name of OUT is empty")
    if "-" in inputs and out is None:
        out = "-"
    if out == "-" and as_json:
        raise UsageError("--json and the output would both go to stdout")
    if out == "-" and is_terminal(sys.stdout):
        raise UsageError("the output would go to the terminal: give -o OUT, or redirect it")
    return out


def cores(jobs: int | None) -> int:
    """How many cores to use, by default all that this process may use."""
    from codec.parallel import num_cores

    return jobs or num_cores()
