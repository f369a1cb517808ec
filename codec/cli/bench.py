"""`aez bench`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from codec.cli import options as opt
from codec.cli.printing import Screen, images, put
from codec.cli.progress import is_terminal
from codec.errors import UsageError, shown
from codec.format.constants import MAX_ERROR

EXAMPLES = (
    ("aez bench my_images/", "a table: aez, PNG, WebP, JPEG, ..."),
    ("aez bench my_images/ -o report", "and pages with plots and pictures"),
    ("aez bench mnist.npz -n 100 -q 50,90", "less, and faster"),
)
FILES = ("results.json", "report.html", "compare.html")


def bench(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="DATA", help="What compress takes: files, directories, arrays."),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            "-o",
            metavar="DIR",
            help="Write results.json, report.html and compare.html into this directory.",
        ),
    ] = None,
    model: opt.Model = "auto",
    qualities: Annotated[
        str | None,
        typer.Option(
            "-q",
            "--qualities",
            metavar="Q,Q,...",
            help="Of aez, 0 to 99; by default 10,40,70,85,95.",
        ),
    ] = None,
    efforts: Annotated[
        str | None,
        typer.Option("-e", "--efforts", metavar="E,E,...", help="Of aez, 1 to 9; by default 1,3."),
    ] = None,
    max_errors: Annotated[
        str | None,
        typer.Option(
            "--max-errors",
            metavar="N,N,...",
            help="Of aez, near-lossless, 1 to 64; by default 1,2,4,8; 0: none, faster.",
        ),
    ] = None,
    max_images: Annotated[
        int,
        typer.Option(
            "-n",
            "--images",
            parser=str,
            callback=opt.whole(1, 100_000),
            metavar="N",
            help="Measure at most N images, evenly spread.",
        ),
    ] = 500,
    max_files: Annotated[
        int,
        typer.Option(
            "--files",
            parser=str,
            callback=opt.whole(1, 100_000),
            metavar="N",
            help="Make single files of at most N of them.",
        ),
    ] = 1000,
    force: opt.Force = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Measure this codec and others on your images.

    Bytes, PSNR, SSIM and speed as a table; with -o also as JSON, as one HTML page with plots and a
    contact sheet, and as one with all images beside their originals. The others are measured as
    files and on one sheet of all images, a file without random access. JPEG XL, JPEG-LS and
    BD-rates need: pip install "aez[bench]".
    """
    screen = Screen(quiet)
    settings = opt.numbers(qualities, 0, 99, "-q"), opt.numbers(efforts, 1, 9, "-e")
    bounds = opt.numbers(max_errors, 0, MAX_ERROR, "--max-errors")
    if quiet and out is None and not as_json:
        raise UsageError("--quiet would show nothing: add -o DIR or --json")
    from codec.commands.events import Result
    from codec.commands.sample import read
    from codec.measure import bench as ruler
    from codec.measure import codecs

    folder = None if out is None else _free(out, force)
    result = Result()
    pixels, names, num_images = screen.value_of(read(inputs, max_images), result)
    if num_images > max_images:
        screen.note(
            f"measuring {len(pixels)} of {num_images} images, evenly spread; -n measures more"
        )
    with screen.bar() as step:
        done = ruler.bench(
            pixels,
            model=model,
            qualities=settings[0] or ruler.QUALITIES,
            efforts=settings[1] or ruler.EFFORTS,
            max_errors=bounds or codecs.MAX_ERRORS,
            max_files=max_files,
            step=lambda what, done, total: step(f" codecs, {what}", done, total),
        )
    results = {"data": [str(name) for name in inputs], "images_in_all": num_images, **done.results}
    result.images = len(pixels)
    if folder is None:
        result.outputs.append("-")
    else:
        result.outputs += _write(folder, force, results, pixels, names, done)
    if not quiet and not as_json:
        _print_tables(results)
    summary = [] if folder is None else [f"-> {' and '.join(result.outputs)}"]
    screen.finish(result, results, summary, as_json=as_json)


def _free(out: str, force: bool) -> Path:
    """The directory of the files.

    Raises UsageError now, rather than after minutes, if they cannot be written, or if OUT looks
    like the name of a file.
    """
    from codec.files.atomic import refuse_existing

    folder = Path(out)
    if out in ("", "-"):
        raise UsageError(f"-o {out!r}: three files are written, give a directory")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"output {out} is a file: give a directory")
    if folder.suffix and not folder.is_dir() and not out.endswith(("/", os.sep)):
        raise UsageError(f"-o {out}: bench writes a directory; give its name with / at the end")
    for name in FILES:
        refuse_existing(folder / name, force)
    return folder


def _write(
    out: Path, force: bool, results: dict[str, Any], pixels: Any, names: list[str], done: Any
) -> list[str]:
    """Write the files, and return their paths."""
    from codec.files.atomic import atomic
    from codec.measure.compare import compare
    from codec.measure.page import html

    figures, report, compared = FILES
    page = compare(results, pixels, names, done.decoded)
    of_files = pixels[done.files], [names[i] for i in done.files.tolist()]
    report_page = html(results, *of_files, done.decoded, compared if page else "")
    contents = {figures: (json.dumps(results, indent=1) + "\n").encode()}
    contents |= {report: report_page.encode()} | ({compared: page} if page else {})
    for name, content in contents.items():
        with atomic(out / name, force=force) as file:
            file.write(content)
    return [str(out / name) for name in contents]


def _print_tables(results: dict[str, Any]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from codec.measure import page

    console = Console(width=None if is_terminal(sys.stdout) else 140)
    models = " and ".join(name for name in results["models"].values() if name)
    processor = results["machine"]["processor"]
    title = f"{images(results['images'])}, model {models}, one core of {processor}"
    for text in filter(None, (title, page.work_done_by(results), page.sampled(results).strip())):
        put(shown(text))
    below = f"Bytes of aez, effort {results['main_effort']}, at equal PSNR (BD-rate, PCHIP)"
    for caption, (heads, rows) in (
        ("", page.table(results["rows"])),
        (below, page.bd_table(results["bd_rates"])),
    ):
        table = Table(
            title=Text(shown(caption)) if caption else None,
            title_justify="left",
            box=SIMPLE_HEAD,
            collapse_padding=True,
            pad_edge=False,
        )
        for head in heads:
            table.add_column(
                head, justify="left" if head in ("codec", "setting", "against") else "right"
            )
        for row in rows:
            table.add_row(
                *(Text(shown(cell)) for cell in row), style="bold" if row[0] == "aez" else None
            )
        if rows:
            console.print(table)
    put(shown(page.ABOUT_SHEETS))
    for text in results["not_measured"]:
        put(shown(f"not measured: {text}"))
