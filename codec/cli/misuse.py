"""A command line that cannot be understood: one line that says what was found and what to do.

typer's own messages take four lines, differ between its versions, and name no nearest option.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import typer

# typer brings its own click, of which it exports this much: what all misuse is.
Misuse: type[Exception] = typer.BadParameter.__mro__[1]


LIKE = 0.75  # how alike words must be, if one is suggested for the other
# Words of other programs for what a command does.
OTHER_WORDS = {
    "benchmark": "bench",
    "cat": "merge",
    "check": "test",
    "concat": "merge",
    "decode": "decompress",
    "encode": "compress",
    "extract": "decompress",
    "help": "-h",
    "join": "merge",
    "list": "ls",
    "open": "view",
    "pack": "compress",
    "restore": "decompress",
    "show": "view",
    "unpack": "decompress",
    "verify": "test",
    "version": "--version",
}


def said(error: Any) -> str:
    """An error of class `Misuse` in words."""
    context = error.ctx
    command = "aez" if context is None else context.command_path
    match type(error).__name__:
        case "NoSuchOption":
            options = [] if context is None else _options(context.command)
            fault = f"{error.option_name}: {command} has no such option"
            return f"{fault}; {nearest(error.option_name, options, f'{command} -h lists all')}"
        case "MissingParameter" if error.param is not None:
            return f"{command.removeprefix('aez ')} needs {_described(error.param)}"
        case "BadOptionUsage":
            is_missing = "requires" in error.message
            remedy = "give it a value" if is_missing else "takes no value; leave out the = after it"
            return f"{error.option_name}: {remedy}"
    if surplus := re.search(r"unexpected extra arguments?(?:\(s\))? \((.*)\)", error.message):
        return f"{command} takes no {surplus[1]}; {command} -h lists what it takes"
    fault = error.message[:1].lower() + error.message[1:].rstrip(".")
    param = getattr(error, "param", None)
    return f"{param.opts[0] if param is not None else command}: {fault}"


@contextlib.contextmanager
def whole_words(args: Sequence[str]) -> Iterator[None]:
    """Let an error name the whole word that is no option: of "-lossless", typer has read "-l"."""
    words = list(args)  # typer takes them out of the list
    try:
        yield
    except Misuse as error:
        read = getattr(error, "option_name", "")
        if type(error).__name__ == "NoSuchOption" and len(read) == 2:
            given = words[: words.index("--")] if "--" in words else words
            error.option_name = next(  # type: ignore[attr-defined]
                (word for word in given if word.startswith(read)), read
            )
        raise


def unknown_command(name: str, known: Iterable[str]) -> str:
    """What to say of a command that there is not."""
    if os.path.exists(name):
        verb = "decompress" if name.endswith(".aez") else "compress"
        return f"{name}: this is a file, not a command; did you mean aez {verb} {name}?"
    meant = OTHER_WORDS.get(name.lower())
    remedy = f"did you mean {meant}?" if meant else nearest(name, known, "aez -h lists all")
    return f"{name}: aez has no such command; {remedy}"


def nearest(word: str, known: Iterable[str], otherwise: str) -> str:
    """Ask for the known word that looks like this one: much alike, or it begins so, or it has the
    same letters.
    """
    words, small = list(known), word.lower()
    if small.startswith("-") and len(small) > 2:  # "-lossless" for "--lossless"
        small = f"--{small.lstrip('-')}"
    found = difflib.get_close_matches(small, words, 1, LIKE)
    if small.strip("-"):
        found += [other for other in words if other.startswith(small)]
    found += [other for other in words if sorted(other) == sorted(small)]
    return f"did you mean {found[0]}?" if found else otherwise


def _options(command: Any) -> list[str]:
    params = [param for param in command.params if param.param_type_name == "option"]
    return ["--help", *(name for param in params for name in (*param.opts, *param.secondary_opts))]


def _described(param: Any) -> str:
    """`-o OUT: the .aez file that holds them all`"""
    help_text = (getattr(param, "help", None) or "").rstrip(".")
    what = f": {help_text[:1].lower()}{help_text[1:]}" if help_text else ""
    if param.param_type_name == "argument":
        return f"{param.metavar or param.name}{what}"
    return f"{param.opts[0]} {param.metavar or ''}".rstrip() + what
