"""`aez view`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated, Any, NoReturn

import typer

from codec.cli import options as opt
from codec.cli.printing import Screen, images, put, say
from codec.errors import UsageError, shown

EXAMPLES = (
    ("aez view digits.aez", "in your browser"),
    ("aez view digits.aez -o digits.html", "a page to keep or to share"),
    ("aez view digits/ --against digits.aez", "beside the originals, worst first"),
)


def view(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE", help=".aez files, directories of them, or -; with --against, originals."
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option("-o", metavar="PAGE.html", help="Write the page there, and do not open it."),
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Only say where the page is.")] = False,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="x.aez",
            help="Compare this stream with its originals: FILE is what compress takes.",
        ),
    ] = None,
    serve: Annotated[
        bool,
        typer.Option(
            "--serve",
            help="Show files of any size: serve them and the page to this machine, until Ctrl-C.",
        ),
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            parser=str,
            callback=opt.whole(1, 65535),
            metavar="N",
            help="Of --serve; by default a free one.",
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "-m",
            "--model",
            metavar="NAME|FILE",
            help="A model of the streams, if it is not installed; can be repeated.",
        ),
    ] = None,
    force: opt.Force = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Look at images in a browser.

    The page holds the streams, the models that they need, and the decoder: it needs no network, and
    whoever gets it sees the same pixels. Images are matched with originals by name, else in order.
    """
    screen = Screen(quiet)
    if against is not None and against == "":
        raise UsageError("the name after --against is empty: give a stream")
    out = opt.output([], out, as_json)
    from codec.commands.view import Wanted
    from codec.commands.view import view as command

    wanted = Wanted(inputs, against, models or [])
    if serve:
        if out is not None:
            raise UsageError("--serve writes no page: leave out -o")
        _serve(screen, wanted, port or 0, no_open, as_json, quiet)
    if port is not None:
        raise UsageError("--port is for --serve: add it, or leave out --port")
    result = screen.run(command(wanted, out, force=force))
    if result.outputs and out is None and not no_open:
        from pathlib import Path

        _open(screen, Path(result.outputs[0]).as_uri())
    figures = {
        "images": result.images,
        "bytes_in": result.bytes_in,
        "bytes_out": result.bytes_out,
        "page": result.outputs[0] if result.outputs else None,
    }
    summary = []
    if result.outputs and out != "-":
        size = f"{result.bytes_out / 1e6:.1f} MB"
        summary.append(f"{images(result.images)} -> {result.outputs[0]} ({size})")
    screen.finish(result, figures, summary, as_json=as_json)


def _serve(
    screen: Screen, wanted: Any, port: int, no_open: bool, as_json: bool, quiet: bool
) -> NoReturn:
    """Serve until Ctrl-C."""
    from codec.commands.events import Result
    from codec.commands.view import serve as command

    if as_json:
        raise UsageError("--json prints figures at the end, and --serve has none: leave out one")
    result = Result()
    with ExitStack() as stack:
        server = screen.value_of(command(wanted, port, stack), result)
        if server is None:
            raise typer.Exit(result.exit_code)
        if not quiet or no_open:
            put(shown(f"{images(result.images)} at {server.url}, until Ctrl-C"))
        if not no_open:
            _open(screen, server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("stopped: the page cannot read its files any more")
    raise typer.Exit(130)


def _open(screen: Screen, url: str) -> None:
    """Show a page in the browser, or say that there is none."""
    import webbrowser

    try:
        is_open = webbrowser.open(url)
    except webbrowser.Error:
        is_open = False
    if not is_open:
        screen.note(f"no browser was found here: open {url}")
