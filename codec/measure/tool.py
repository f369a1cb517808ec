"""Command lines of the other tools: `python -m codec.measure.curve`, the examples, ...

def main(data: Path, out: Out) -> None:
    \"\"\"What `--help` says.\"\"\"

if __name__ == "__main__":
    tool.run(main)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from codec.errors import AezError, UsageError
from codec.files.atomic import atomic

Out = Annotated[Path, typer.Option("-o", "--out", help="The file to write.")]
Force = Annotated[bool, typer.Option("-f", "--force", help="Overwrite an output that exists.")]


def run(main: Callable[..., None], arguments: Sequence[str] | None = None) -> None:
    """Run a function as a command line, by its annotations; by default with `sys.argv`.

    Always ends in SystemExit: 0; 1 after an error, which is one line on stderr; 2 if it was used in
    the wrong way.
    """
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(main)
    try:
        app(arguments)
    except (AezError, OSError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(2 if isinstance(error, UsageError) else 1) from None


def integers(text: str) -> tuple[int, ...]:
    """ "5,10,95" -> (5, 10, 95)."""
    try:
        return tuple(int(part) for part in text.split(",") if part)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of whole numbers such as 5,10") from None


def write_json(path: Path, value: Any, *, force: bool = False) -> None:
    """Raises AezError if the file exists."""
    with atomic(path, force=force) as file:
        file.write((json.dumps(value, indent=1) + "\n").encode())
