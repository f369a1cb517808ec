"""`aez train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codec.cli import options as opt
from codec.cli.printing import Screen
from codec.errors import AezError, UsageError

EXAMPLES = (
    ("aez train my_images/ -o my.safetensors", "then compress -m"),
    ("aez train my_images/ -o exact.safetensors --lossless", "for every pixel"),
    ("aez train my_images/ -o my.safetensors --resume", "after Ctrl-C"),
)


def train(
    data: Annotated[
        list[Path], typer.Argument(metavar="DATA", help="Directories, .npy, .npz or IDX files.")
    ],
    out: Annotated[
        Path, typer.Option("-o", metavar="FILE", help="The model: a .safetensors file.")
    ],
    lossless: Annotated[
        bool, typer.Option("--lossless", help="A lossless model instead of a lossy one.")
    ] = False,
    hidden: Annotated[
        int | None,
        typer.Option(
            "--hidden",
            parser=str,
            callback=opt.whole(8, 512),
            metavar="N",
            help="Width of a lossless model; with --from, at least as wide.",
            show_default=False,
        ),
    ] = None,
    most_palettes: Annotated[
        int | None,
        typer.Option(
            "--palettes",
            parser=str,
            callback=opt.whole(1, 256),
            metavar="N",
            help="Palettes of a lossless model, at most.",
            show_default=False,
        ),
    ] = None,
    grids: Annotated[
        bool,
        typer.Option(
            "--grids", help="With --lossless: also learn images rounded to multiples of 3 to 85."
        ),
    ] = False,
    start: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="auto|none|NAME|FILE",
            help="The model to start from; none: from nothing.",
        ),
    ] = "auto",
    rate: Annotated[
        float,
        typer.Option(
            "--rate",
            parser=str,
            callback=opt.real(0.001, 2),
            metavar="X",
            help="Times the usual learning rate, 1: lower for a model that is good already.",
            show_default=False,
        ),
    ] = 1.0,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes",
            parser=str,
            callback=opt.real(0),
            metavar="N",
            help="Stop after this time at the latest; by default 24.",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            parser=str,
            callback=opt.whole(0),
            metavar="N",
            help="Another number gives another model.",
        ),
    ] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the last checkpoint.")
    ] = False,
    quiet: opt.Quiet = False,
) -> None:
    """Train a model for your own images.

    10,000 images are plenty, and half an hour is enough. A twelfth of them is held out, and the
    model is measured on it, against PNG and WebP, as it trains; training ends early when it no
    longer gets better. Lossless compression has a model of its own: --lossless. Needs torch:
    pip install "aez[train]".
    """
    if out.exists() and not resume:
        raise AezError(f"output {out} exists, and a model is never overwritten: give another -o")
    try:
        from codec.train.command import train_command
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise UsageError('aez train needs torch: pip install "aez[train]"') from None
    with Screen(quiet).bar() as progress:
        train_command(
            data,
            out,
            lossless=lossless,
            hidden=hidden,
            most_palettes=most_palettes,
            grids=grids,
            start=start,
            rate=rate,
            minutes=minutes,
            seed=seed,
            resume=resume,
            quiet=quiet,
            progress=progress,
        )
