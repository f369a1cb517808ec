"""`aez ls`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from codec.cli import options as opt
from codec.cli.printing import Screen, put
from codec.errors import shown
from codec.format.constants import NEAR_LOSSLESS

if TYPE_CHECKING:
    from codec.commands.events import Event, Listed

EXAMPLES = (
    ("aez ls digits.aez", "all images"),
    ("aez ls digits.aez --index 0-9", "the first ten"),
    ("aez ls digits.aez --json", "the same for programs"),
)
T = TypeVar("T")

NONE = "-"  # in place of a name, a label or a model
MAX_COLUMN = 24  # characters that are reserved for a label or a model


def ls(
    files: opt.Streams,
    index: opt.Index = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """List the images, one a line, without decoding them.

    A line has the number of an image, its bytes, quality, model, label and name; "-" stands for
    none. Quality e4 is near-lossless with a largest error of 4 (in JSON 128 + 4). Neighbouring
    images are coded together: the bytes are an image's share of what they take, without headers and
    names. With several FILEs, each line begins with its file. What is damaged is named and left
    out, all else is listed, and the exit code is 4.
    """
    ranges = opt.ranges(index)
    from codec.commands.events import Listed
    from codec.commands.listing import list_images

    several = len(files) > 1 or os.path.isdir(files[0])
    lines = _json_lines if as_json else _Columns(several).lines

    def show(event: Event) -> None:
        if isinstance(event, Listed):
            put("".join(lines(event)), nl=False)

    result = Screen(quiet=True).run(list_images(files, ranges), show=show)
    raise typer.Exit(result.exit_code)


def _json_lines(listed: Listed) -> Iterator[str]:
    start = f'{{"file": {json.dumps(listed.input)}, "number": '
    # a million lines: what many of them share is written once
    models = {entry.model: json.dumps(entry.model) for entry in listed.entries}
    labels = {entry.label: json.dumps(entry.label) for entry in listed.entries}
    for number, name, label, model, quality, size in listed.entries:
        called = "null" if name is None else encode_basestring_ascii(name)
        yield (
            f'{start}{number}, "name": {called}, "label": {labels[label]}, '
            f'"model": {models[model]}, "quality": {quality}, "bytes": {size:.2f}}}\n'
        )


class _Columns:
    """Lines whose columns are aligned, as far as the lines before show how wide they get."""

    def __init__(self, several: bool) -> None:
        self._several, self._model, self._label = several, 1, 1

    def lines(self, listed: Listed) -> Iterator[str]:
        entries, digits = listed.entries, len(str(max(listed.num_images - 1, 0)))
        models, self._model = _column({entry.model for entry in entries}, self._model)
        labels, self._label = _column({entry.label for entry in entries}, self._label)
        start = f"{shown(listed.input)}: " if self._several else ""
        for number, name, label, model, quality, size in entries:
            yield (
                f"{start}{number:{digits}} {size:7.1f} {_quality(quality)} {models[model]} "
                f"{labels[label]} {_text(name)}\n"
            )


def _column(values: Iterable[T], width: int) -> tuple[dict[T, str], int]:
    """The texts of values, and the width of their column, which was so wide before."""
    texts = {value: _text(value) for value in values}
    width = max([width, *(min(len(text), MAX_COLUMN) for text in texts.values())])
    return {value: text.ljust(width) for value, text in texts.items()}, width


def _quality(quality: int) -> str:
    near = quality - NEAR_LOSSLESS
    return f"e{near:<2}" if near > 0 else f"{quality:3}"


def _text(value: object) -> str:
    return NONE if value is None else shown(str(value))
