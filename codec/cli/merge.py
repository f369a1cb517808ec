"""`aez merge`."""

from __future__ import annotations

from typing import Annotated

import typer

from codec.cli import options as opt
from codec.cli.printing import Screen, images

EXAMPLES = (
    ("aez merge a.aez b.aez -o both.aez", "first the images of a, then of b"),
    ("aez merge a.aez b.aez -o both.aez -f", "replaces both.aez"),
    ("aez merge a.aez b.aez -o both.aez --json", "with figures for programs"),
)


def merge(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT", help="Collections: .aez files.")],
    out: Annotated[
        str, typer.Option("-o", metavar="OUT", help="The .aez file that holds them all.")
    ],
    force: opt.Force = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Join collections into one without encoding anything again.

    Either all images have names, or none has. Two images with the same name are an error.
    """
    screen = Screen(quiet)
    from codec.commands import merge as command

    opt.output(inputs, out, as_json)
    result = screen.run(command.merge(inputs, out, force=force))
    figures = {"images": result.images, "bytes_in": result.bytes_in, "bytes_out": result.bytes_out}
    summary = [f"{images(result.images)} -> {out}"] if result.outputs and out != "-" else []
    screen.finish(result, figures, summary, as_json=as_json)
