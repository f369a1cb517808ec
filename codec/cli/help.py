"""How help looks: what a verb is for in one sentence, three examples, then all else.

READ ME FIRST: the plain help of typer differs between its versions, names types of Python, and has
no place for examples. So its order is made here, of what typer knows: arguments, options in
sections (`rich_help_panel`), the text. Each example is a line that runs as it stands; the tests
run them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from typer.core import TyperCommand

from codec.cli.misuse import whole_words

Examples = Sequence[tuple[str, str]]  # a command line, and what comes of it

OPTIONS = "Options"  # the section of options that have none of their own, the last one


class Verb(TyperCommand):
    """A command that shows its examples."""

    examples: Examples = ()

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with whole_words(args):
            return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """`[OPTIONS] -o OUT INPUT...`"""
        needed = [p for p in self.params if p.param_type_name == "option" and p.required]
        arguments = [p for p in self.params if p.param_type_name == "argument"]
        return [
            "[OPTIONS]",
            *(f"{option.opts[0]} {option.metavar}" for option in needed),
            *(f"{_name(argument)}{'...' * (argument.nargs != 1)}" for argument in arguments),
        ]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        write_plain(self, ctx, formatter)

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        first, _, more = (self.help or "").partition("\n\n")
        _text(formatter, first)
        if self.examples:
            with formatter.section("Examples"):
                for line in lines(self.examples):
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")
        if more:
            _text(formatter, more)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if param.param_type_name == "argument":
                text = getattr(param, "help", None) or ""
                sections.setdefault("Arguments", []).append((_name(param), text))
            elif record := param.get_help_record(ctx):
                panel = getattr(param, "rich_help_panel", None) or OPTIONS
                sections.setdefault(panel, []).append(record)
        for title in sorted(sections, key=lambda title: title == OPTIONS):
            with formatter.section(title):
                formatter.write_dl(sections[title])


def write_plain(command: Any, ctx: Any, formatter: Any) -> None:
    """The help of a command; the first versions of typer would import rich and frame it."""
    ctx.ensure_object(dict)
    command.format_usage(ctx, formatter)
    command.format_help_text(ctx, formatter)
    command.format_options(ctx, formatter)


def lines(examples: Examples) -> list[str]:
    """The examples as lines, with what comes of them as aligned comments."""
    width = max(len(command) for command, _ in examples)
    return [f"{command:{width}}  # {result}" for command, result in examples]


def write_groups(
    formatter: Any, groups: Mapping[str, Iterable[str]], commands: Mapping[str, Any]
) -> None:
    """The commands in groups: what each is for, and its first example."""
    for title, names in groups.items():
        rows = []
        for name in names:
            command = commands[name]
            rows.append((f"{name:10}", command.get_short_help_str(80)))
            rows += [("", f"  {example}") for example, _ in command.examples[:1]]
        with formatter.section(title):
            formatter.write_dl(rows)


def _text(formatter: Any, text: str) -> None:
    formatter.write_paragraph()
    with formatter.indentation():
        formatter.write_text(text)


def _name(argument: Any) -> str:
    return str(argument.metavar or argument.name)
