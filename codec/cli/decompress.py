"""`aez decompress`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from codec.cli import options as opt
from codec.cli.printing import Screen, images, where

if TYPE_CHECKING:
    from codec.commands.decompress import Format

EXAMPLES = (
    ("aez decompress digits.aez", "-> digits/, as it was"),
    ("aez decompress digits.aez -o digits.npz", "-> one array"),
    ("aez decompress digits.aez --index 0,5,10-20 -o few", "-> some PNG files"),
)


def decompress(
    inputs: opt.Inputs,
    out: Annotated[
        str | None,
        typer.Option(
            "-o",
            metavar="OUT",
            help="A .png, .npy, .npz, .idx or .csv file, else a directory. -: stdout.",
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            **opt.one_of("png", "npy", "npz", "idx", "csv", "folders"),
            help=(
                "By default png for images with names and single ones, npz for others with labels, "
                "else npy. folders: PNG files, in a folder for each label."
            ),
        ),
    ] = None,
    index: opt.Index = None,
    model: opt.Foreign = None,
    jobs: opt.Jobs = None,
    force: opt.Force = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Restore images, directory trees and arrays.

    INPUT is .aez files, or directories of them. A single image and images with names become .png
    files, others one .npz or .npy. IDX with labels becomes two files, x.idx and x-labels.idx. What
    a format does not hold, of names and labels, is said. What is damaged is named and left out, all
    that is intact is written, and the exit code is 4. The figures of --json are of what was
    written.
    """
    screen = Screen(quiet)
    ranges = opt.ranges(index)
    out = opt.output(inputs, out, as_json)
    from codec.commands import decompress as command

    result = screen.run(
        command.decompress(
            inputs,
            out,
            format=cast("Format | None", format),
            index=ranges,
            model=model,
            jobs=opt.cores(jobs),
            force=force,
        )
    )
    figures = {"images": result.images, "bytes_in": result.bytes_in, "bytes_out": result.bytes_out}
    summary = []
    if result.outputs and out != "-":
        summary.append(f"{images(result.images)} -> {where(result.outputs)}")
    screen.finish(result, figures, summary, as_json=as_json)
