"""The app: its verbs, and how errors become one line and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
import typer.main
from typer.core import TyperGroup

from codec.cli import misuse
from codec.cli.help import OPTIONS, Verb, write_groups, write_plain
from codec.cli.misuse import Misuse
from codec.cli.printing import say, stdout_error
from codec.errors import AezError, BitstreamError, UsageError

# In the order of the help.
GROUPS = {
    "Compress and restore": ("compress", "decompress", "merge"),
    "Look at streams": ("info", "ls", "view"),
    "Check and measure": ("test", "bench"),
    "Models": ("models", "train"),
}
# Each verb is a function in a module, both of its name, or of this one.
FUNCTIONS = {"test": "check"}
VERBS = [verb for group in GROUPS.values() for verb in group]


class Verbs(Mapping[str, Any]):
    """Name -> command; a verb is imported when it is first used."""

    def __init__(self) -> None:
        self._built: dict[str, Any] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(VERBS)

    def __len__(self) -> int:
        return len(VERBS)

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            if name not in VERBS:
                raise KeyError(name)
            function = FUNCTIONS.get(name, name)
            module = import_module(f"codec.cli.{function}")
            alone = typer.Typer(
                add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
            )
            alone.command(name, cls=Verb)(getattr(module, function))
            command: Any = typer.main.get_command(alone)
            command.examples = module.EXAMPLES
            self._built[name] = command
        return self._built[name]


class Group(TyperGroup):
    """Turns the errors of all verbs into one line and an exit code."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        self.commands = Verbs()  # type: ignore[assignment]  # nothing is added to it

    def make_context(self, *args: Any, **extra: Any) -> Any:
        try:
            return super().make_context(*args, **extra)
        except Misuse as error:
            if type(error).__name__ == "NoArgsIsHelpError":
                raise
            say(misuse.said(error))
            raise typer.Exit(2) from None

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with misuse.whole_words(args):
            return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        write_plain(self, ctx, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        write_groups(formatter, GROUPS, self.commands)
        records = (param.get_help_record(ctx) for param in self.get_params(ctx))
        with formatter.section(OPTIONS):
            formatter.write_dl([record for record in records if record])
        formatter.write_paragraph()
        formatter.write_text("More examples, and all options: aez COMMAND --help")

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in VERBS and not ctx.resilient_parsing:
            raise UsageError(misuse.unknown_command(args[0], VERBS))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            try:
                return super().invoke(ctx)
            except Misuse as error:
                raise UsageError(misuse.said(error)) from None
            finally:
                _flush()
        except BrokenPipeError:  # `aez info ... | head`: the reader has what it wanted
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            say("interrupted")
            raise typer.Exit(130) from None
        except (AezError, OSError) as error:
            say(_said(error))
            usage, damaged = isinstance(error, UsageError), isinstance(error, BitstreamError)
            raise typer.Exit(2 if usage else 4 if damaged else 1) from None


def _flush() -> None:
    """Write what is buffered for stdout, if it is open.  Raises OSError."""
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except OSError as error:
            # or the flush at exit would fail as well
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise stdout_error(error) from error


def _said(error: Exception) -> str:
    """An error in words, without its number."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return str(error)


app = typer.Typer(
    name="aez",
    cls=Group,
    help=(
        "A learned codec for 28x28 grey images: a few bytes per image, the same pixels on every "
        "machine."
    ),
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,  # plain text, and rich is slow to import
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from codec import __version__, kernels

        try:
            engine = kernels.description()
        except UsageError as error:  # outside of `Group.invoke`
            say(str(error))
            raise typer.Exit(2) from None
        typer.echo(f"aez {__version__} ({engine})")
        raise typer.Exit()


@app.callback()
def _aez(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    from codec import kernels

    # a missing engine is one error, not one for each file
    if kernels.active() is None:
        from codec.parallel import keep_memory

        keep_memory()


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)  # unwinds, so that temporary files go


def _occupy_standard_streams() -> None:
    """Open the null device for standard streams that are closed.  Else the next file that is opened
    would get the number of one, and what a library writes to stderr.  In Python they stay None.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _complete_without_rich() -> None:
    """Let completion show help texts as they are: typer renders them by rich, which takes a tenth
    of a second, and breaks them into lines.
    """
    from typer import _completion_classes as classes

    if hasattr(classes, "_sanitize_help_text"):
        classes._sanitize_help_text = lambda text: text


def main() -> None:
    """Entry point of `aez`."""
    signal.signal(signal.SIGTERM, _terminate)
    if "_AEZ_COMPLETE" in os.environ:  # the shell asks what may come next
        _complete_without_rich()
    _occupy_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="aez")
