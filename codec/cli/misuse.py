"""A command line that cannot be understood: one line that says what was found and what to do.

typer's own messages take four lines, differ between its versions, and name no nearest option.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from typing import Any

import typer

# typer brings its own click, of which it exports this much: what all misuse is.
Misuse: type[Exception] = typer.BadParameter.__mro__[1]


LIKE = 0.75  # how alike words must be, if one is suggested for the other


def said(error: Any) -> str:
    """An error of class `Misuse` in words."""
    context = error.ctx
    command = "aez" if context is None else context.command_path
    match type(error).__name__:
        case "NoSuchOption":
            options = [] if context is None else _options(context.command)
            fault = f"{error.option_name}: {command} has no such option"
            return f"{fault}; {_nearest(error.option_name, options, f'{command} -h lists all')}"
        case "MissingParameter" if error.param is not None:
            return f"{command.removeprefix('aez ')} needs {_described(error.param)}"
        case "BadOptionUsage":
            is_missing = "requires" in error.message
            return f"{error.option_name}: {'give it a value' if is_missing else 'takes no value'}"
    fault = error.message[:1].lower() + error.message[1:].rstrip(".")
    param = getattr(error, "param", None)
    return f"{param.opts[0] if param is not None else command}: {fault}"


def unknown_command(name: str, known: Iterable[str]) -> str:
    """What to say of a command that there is not."""
    if os.path.exists(name):
        verb = "decompress" if name.endswith(".aez") else "compress"
        return f"{name}: this is a file, not a command; did you mean aez {verb} {name}?"
    return f"{name}: aez has no such command; {_nearest(name, known, 'aez -h lists all')}"


def _nearest(word: str, known: Iterable[str], otherwise: str) -> str:
    found = difflib.get_close_matches(word, known, 1, LIKE)
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
