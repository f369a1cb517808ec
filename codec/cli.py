"""The command `aez`: parse, call `compress` or `api`, print, exit.

Exit codes: 0 all good; 1 nothing done; 2 usage; 3 finished, some inputs failed (each named on
stderr); 4 a damaged stream; 130 interrupted. Results go to stdout, all else to stderr, one line
each, never a traceback.

READ ME FIRST: numpy, Pillow and the codec are imported inside the commands, so that `aez --help` is
instant, and torch inside `train` alone. typer vendors click, so nothing is imported from click; and
`typer.Exit` is a RuntimeError, so `except Exception` here would turn failure into success.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from codec.errors import AezError, BitstreamError, ModelError, UsageError

if TYPE_CHECKING:
    from codec.commands.decompress import Format
    from codec.commands.inputs import Report

MAX_SHOWN_POINTS = 12
BENCH_FILES = ("results.json", "report.html")


def shown(text: str) -> str:
    """Escape what a terminal would obey: names come from file systems and streams of strangers."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def say(line: str) -> None:
    typer.echo(f"aez: {shown(line)}", err=True)


class Group(TyperGroup):
    """Turns what a command raises into one line and an exit code, here for all of them."""

    def invoke(self, ctx: Any) -> Any:
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:  # `aez info ... | head`: the reader has what it wanted
            # or the flush at exit would complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            say("interrupted")
            raise typer.Exit(130) from None
        except (AezError, OSError) as error:
            say(str(error))
            code = (
                2
                if isinstance(error, UsageError)
                else 4
                if isinstance(error, BitstreamError)
                else 1
            )
            raise typer.Exit(code) from None


app = typer.Typer(
    name="aez",
    cls=Group,
    help=(
        "A learned codec for 28x28 grey images: a few bytes an image, the same pixels on every "
        "machine."
    ),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain text, and rich is slow to import
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class ArrayFormat(enum.StrEnum):
    png = "png"
    npy = "npy"
    idx = "idx"


def _parse_quality(quality: int | None) -> int | None:
    if quality is not None and not 0 <= quality <= 100:
        raise typer.BadParameter(f"{quality} is not in the range 0..100")
    return quality


def _parse_index(text: str | None) -> list[range] | None:
    """`0,5,10-20` -> ranges; 20 included."""
    if text is None:
        return None
    parts = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isdecimal() and (last.isdecimal() if dash else True)) or (
            dash and int(last) < int(first)
        ):
            raise typer.BadParameter(
                f"{part!r} is neither a number nor a range such as 10-20", param_hint="--index"
            )
        parts.append(range(int(first), int(last if dash else first) + 1))
    return parts


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


Inputs = Annotated[
    list[str], typer.Argument(metavar="INPUT", help="Files, directories, or - for stdin.")
]
Streams = Annotated[
    list[str], typer.Argument(metavar="FILE", help=".aez files, directories of them, or -.")
]
Foreign = Annotated[
    str | None,
    typer.Option(
        "-m", "--model", metavar="NAME|FILE", help="The model, if the stream's is not installed."
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option("-j", "--jobs", min=1, metavar="N", help="Cores to use.", show_default="all"),
]
Force = Annotated[bool, typer.Option("-f", "--force", help="Overwrite outputs that exist.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", help="No progress, no notes, no summary; failures are still named."),
]


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

    # an engine that is not there is an error of the call, not of each of its files
    kernels.active()


def _report(quiet: bool) -> Report:
    from codec.commands.inputs import Report

    live = sys.stderr.isatty() and not quiet
    last_shown_s = 0.0

    def progress(num_images: int) -> None:
        nonlocal last_shown_s
        if live and time.monotonic() > last_shown_s + 0.1:
            last_shown_s = time.monotonic()
            sys.stderr.write(f"\r{num_images} images")
            sys.stderr.flush()

    def clear_and(speak: Callable[[str], None]) -> Callable[[str], None]:
        def heard(line: str) -> None:
            if live:
                sys.stderr.write("\r\x1b[K")  # the counter shares the line
            speak(line)

        return heard

    return Report(
        say=clear_and(say),
        note=clear_and((lambda line: None) if quiet else say),
        progress=progress,
        live=live,
    )


def _output(inputs: Sequence[str], out: str | None, as_json: bool) -> str | None:
    """stdin goes to stdout unless OUT says otherwise; stdout takes one thing, and no terminal wants
    it.
    """
    if out == "":
        raise UsageError("the name of OUT is empty")
    if "-" in inputs and out is None:
        out = "-"
    if out == "-" and as_json:
        raise UsageError("--json and the output would both go to stdout")
    if out == "-" and sys.stdout.isatty():
        raise UsageError("the output would go to the terminal: give -o OUT, or redirect it")
    return out


def _finish(
    report: Report,
    started: float,
    figures: dict[str, Any],
    summary: Sequence[str],
    *,
    as_json: bool,
) -> NoReturn:
    if report.live:
        sys.stderr.write("\r\x1b[K")
    if as_json:
        figures["seconds"] = round(time.perf_counter() - started, 3)
        figures["failed"] = [{"name": name, "reason": reason} for name, reason in report.failed]
        typer.echo(json.dumps(figures))
    else:
        for line in summary:
            typer.echo(shown(line))
    raise typer.Exit(report.exit_code)


def _images(num_images: int) -> str:
    return f"{num_images} image{'' if num_images == 1 else 's'}"


def _model(stream: dict[str, Any]) -> str:
    if stream["quality"] == 101:
        return "stored without a model"
    return f"model {stream['model'] or 'unknown'} ({stream['model_hash']})"


def _where(outputs: list[str]) -> str:
    return outputs[0] if len(outputs) == 1 else f"{len(outputs)} files"


@app.command()
def compress(
    inputs: Inputs,
    out: Annotated[
        str | None,
        typer.Option(
            "-o",
            metavar="OUT",
            help="x.aez: one file for all. Else a directory: one an image. -: stdout.",
        ),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(
            "-q",
            "--quality",
            callback=_parse_quality,
            metavar="0..100",
            help="Higher is better, 100 is lossless; by default 75.",
        ),
    ] = None,
    lossless: Annotated[
        bool, typer.Option("--lossless", help="Every pixel comes back; the same as -q 100.")
    ] = False,
    max_bytes: Annotated[
        int | None,
        typer.Option(
            "--max-bytes",
            min=0,
            metavar="N",
            help="The best quality at which no image's payload has more.",
        ),
    ] = None,
    min_psnr: Annotated[
        float | None,
        typer.Option(
            "--min-psnr",
            min=0,
            metavar="DB",
            help="The fewest bytes with which every image has so many dB.",
        ),
    ] = None,
    effort: Annotated[
        int | None,
        typer.Option(
            "-e",
            "--effort",
            min=1,
            max=9,
            metavar="1..9",
            help=(
                "How long to search for fewer bytes; by default 3, with --max-bytes or --min-psnr "
                "1."
            ),
        ),
    ] = None,
    model: Annotated[
        str, typer.Option("-m", "--model", metavar="auto|NAME|FILE", help="See `aez models`.")
    ] = "auto",
    guard: Annotated[
        bool,
        typer.Option(
            help=(
                "An image that comes out worse than -q gives in the model's domain gets a better "
                "coding."
            )
        ),
    ] = True,
    separate: Annotated[
        bool, typer.Option("--separate", help="One file an image, also for a directory.")
    ] = False,
    embed_model: Annotated[
        bool,
        typer.Option(
            "--embed-model",
            help="Put the model into the collection, to be read where it is not installed.",
        ),
    ] = False,
    jobs: Jobs = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler",
            metavar="tcp://HOST:PORT",
            help="Let the workers of a Dask cluster do it.",
        ),
    ] = None,
    force: Force = False,
    remove: Annotated[
        bool,
        typer.Option(
            "--rm", help="Delete each input file once its output is on the disk and has decoded."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be written where; write nothing.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compress images, directories and arrays.

    img.png becomes img.aez beside it. A directory becomes one collection, its images ordered by the
    code points of their names. An array (.npy, .npz, IDX, IDX.gz) becomes one unnamed collection.
    .aez inputs are skipped. A collection that was interrupted is gone on with by the same command.
    INPUT and OUT may be URLs that fsspec knows.
    """
    started = time.perf_counter()
    if lossless and quality not in (None, 100):
        raise typer.BadParameter(
            f"{quality} contradicts --lossless, which is quality 100", param_hint="-q"
        )
    if max_bytes is not None and min_psnr is not None:
        raise typer.BadParameter(
            "contradicts --min-psnr: give one of the two", param_hint="--max-bytes"
        )
    for name, value in (("--max-bytes", max_bytes), ("--min-psnr", min_psnr)):
        if value is not None and (lossless or quality is not None):
            raise typer.BadParameter(
                f"chooses the quality: leave {'--lossless' if lossless else '-q'} out",
                param_hint=name,
            )
    if not dry_run:
        out = _output(inputs, out, as_json)
    from codec import api
    from codec.commands import compress as batch
    from codec.parallel import num_cores as cores

    asked = api.request(quality, lossless, max_bytes, min_psnr, effort, guard)
    report = _report(quiet)
    options = batch.CompressOptions(
        asked, model, jobs or cores(), force, remove, embed_model, scheduler
    )
    try:
        batch.compress(
            inputs, out, separate=separate, dry_run=dry_run, options=options, report=report
        )
    except ModelError as error:
        # without its model nothing can be done, but what was done still counts
        report.fail(model, error)
    if dry_run:
        plan = {"dry_run": True, "images": report.images, "outputs": report.outputs}
        _finish(report, started, plan, report.outputs, as_json=as_json)
    stats = report.stats
    bpp, psnr_db = (round(stats.bpp, 4), stats.psnr_db) if stats.images else (None, None)
    figures: dict[str, Any] = {
        "images": report.images,
        "bytes_in": report.bytes_in,
        "bytes_out": report.bytes_out,
        "payload_bytes": stats.payload_bytes,
        "bpp": bpp,
        "psnr_db": None if psnr_db is None else round(psnr_db, 3),
        "lossless": stats.lossless if stats.images else None,
        "quality": asked.quality if asked.target is None else None,
        "model": ", ".join(stats.models) or None,
        "models": stats.models,
        "fallback": stats.fallback,
        "fallback_images": stats.fallback_images,
    }
    if asked.target is not None or stats.fallback:
        figures["qualities"] = dict(sorted(stats.qualities.items(), key=lambda item: int(item[0])))
    if asked.target is not None:
        figures["quality"] = int(next(iter(stats.qualities))) if len(stats.qualities) == 1 else None
    summary = []
    if stats.images and not quiet and out != "-":
        ratio = report.bytes_in / report.bytes_out
        seen = "lossless" if psnr_db is None else f"{psnr_db:.1f} dB"
        summary.append(
            f"{_images(report.images)}, {report.bytes_in} -> {report.bytes_out} bytes "
            f"({ratio:.1f}x), "
            f"{bpp:.2f} bpp, {seen} -> {_where(report.outputs)}"
        )
        if stats.fallback:
            most = sorted(stats.fallback.items(), key=lambda item: -item[1])[:4]
            what = ", ".join(f"{count} to {name}" for name, count in most)
            more = ", ..." if len(stats.fallback) > 4 else ""
            summary.append(
                f"{_images(sum(stats.fallback.values()))} would have come out badly and fell "
                f"back: {what}{more}"
            )
    _finish(report, started, figures, summary, as_json=as_json)


@app.command()
def decompress(
    inputs: Inputs,
    out: Annotated[
        str | None,
        typer.Option(
            "-o", metavar="OUT", help="A .png, .npy or .idx file, else a directory. -: stdout."
        ),
    ] = None,
    format: Annotated[
        ArrayFormat | None,
        typer.Option(
            "--format", help="Default: png for images with names and single ones, npy for others."
        ),
    ] = None,
    index: Annotated[
        str | None,
        typer.Option(
            "--index", metavar="0,5,10-20", help="Only these images, in this order, from 0."
        ),
    ] = None,
    model: Foreign = None,
    jobs: Jobs = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Restore images, directory trees and arrays.

    INPUT is .aez files, or directories of them. A single image and named images become .png, others
    one .npy. What is damaged is named and left out, all that is intact is written, and the exit
    code is 4.
    """
    started = time.perf_counter()
    ranges = _parse_index(index)
    out = _output(inputs, out, as_json)
    from codec.commands import decompress as restore
    from codec.parallel import num_cores as cores

    report = _report(quiet)
    chosen: Format | None = format.value if format else None
    restore.decompress(
        inputs,
        out,
        format=chosen,
        index=ranges,
        model=model,
        jobs=jobs or cores(),
        force=force,
        report=report,
    )
    figures = {"images": report.images, "bytes_in": report.bytes_in, "bytes_out": report.bytes_out}
    summary = []
    if report.outputs and not quiet and out != "-":
        summary.append(f"{_images(report.images)} -> {_where(report.outputs)}")
    _finish(report, started, figures, summary, as_json=as_json)


@app.command()
def info(files: Streams, as_json: Json = False) -> None:
    """Show what the headers say, without decoding."""
    import dataclasses

    from codec import api
    from codec.commands import inputs as plan

    report = _report(quiet=True)
    found: list[dict[str, Any]] = []
    for source in plan.find_streams(files, report):
        with report.guard(source.label), plan.open_stream(source) as file:
            stream = dataclasses.asdict(api.info(file))
            report.outputs.append(source.label)
            found.append({"file": source.label, **stream})
    if as_json and len(files) > 1:
        failed = [{"name": name, "reason": reason} for name, reason in report.failed]
        typer.echo(json.dumps({"files": found, "failed": failed}))
    for stream in found:
        name = stream.pop("file")
        if not as_json:
            bpp = (
                f", {8 * stream['bytes'] / pixels:.2f} bpp"
                if (pixels := stream["images"] * 784)
                else ""
            )
            typer.echo(
                shown(
                    f"{name}: {_images(stream['images'])} {stream['width']}x{stream['height']}, "
                    f"{_model(stream)},"
                    f" {'lossless' if stream['lossless'] else 'quality ' + str(stream['quality'])}"
                    ", "
                    f"{stream['bytes']} bytes ({stream['payload_bytes']} payload{bpp}), "
                    f"format {stream['format_version']}"
                )
            )
        elif len(files) == 1:
            typer.echo(json.dumps(stream))
    raise typer.Exit(report.exit_code)


@app.command("test")
def check(files: Streams, model: Foreign = None, jobs: Jobs = None, as_json: Json = False) -> None:
    """Decode all, check all, write nothing.

    Exit code 4: something is damaged, and stderr says what.
    """
    started = time.perf_counter()
    from codec.commands import decompress as restore
    from codec.parallel import num_cores as cores

    report = _report(quiet=False)
    whole = restore.check(files, report, model, jobs=jobs or cores())
    figures = {"files": len(whole), "images": report.images}
    summary = [f"{name}: ok, {_images(num_images)}" for name, num_images in whole]
    _finish(report, started, figures, summary, as_json=as_json)


@app.command()
def merge(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT", help="Collections: .aez files.")],
    out: Annotated[
        str, typer.Option("-o", metavar="OUT", help="The .aez file that holds them all.")
    ],
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Join collections into one without encoding anything again.

    All must have names, or none. Two images with one name are an error.
    """
    started = time.perf_counter()
    from codec.commands import decompress as restore

    report = _report(quiet)
    restore.merge(inputs, out, force=force, report=report)
    figures = {"images": report.images, "bytes_in": report.bytes_in, "bytes_out": report.bytes_out}
    summary = [f"{_images(report.images)} -> {out}"] if report.outputs and not quiet else []
    _finish(report, started, figures, summary, as_json=as_json)


@app.command()
def models(as_json: Json = False) -> None:
    """List the models that are installed."""
    import dataclasses

    from codec import api

    found = api.models()
    if as_json:
        typer.echo(
            json.dumps({"models": [dataclasses.asdict(model) for model in found]}, default=str)
        )
        return
    for model in found:
        kind = "lossless" if model.lossless else "lossy"
        typer.echo(shown(f"{model.name}  {kind}  {model.hash}  {model.bytes} bytes  {model.path}"))
        typer.echo(shown(f"    trained on {model.trained_on or 'unknown images'}"))
        if not model.lossless:
            missing = "missing: it decodes, and encodes nothing"
            typer.echo(f"    encoder {model.encoder_hash or missing}")
        curve = model.figures.get("curve")
        points = (
            [point for point in curve if isinstance(point, dict)] if isinstance(curve, list) else []
        )
        for point in points[:MAX_SHOWN_POINTS]:
            quality, num_bytes, psnr_db = (
                point.get(key) for key in ("quality", "bytes", "psnr_db")
            )
            seen = "lossless" if quality == 100 else f"quality {quality}"
            dist = "" if psnr_db is None else f", {psnr_db} dB"
            typer.echo(shown(f"    {seen}: {num_bytes} bytes an image{dist}"))


@app.command()
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
            min=8,
            max=512,
            metavar="N",
            help="Width of a lossless model.",
            show_default=False,
        ),
    ] = None,
    most_palettes: Annotated[
        int | None,
        typer.Option(
            "--palettes",
            min=1,
            max=256,
            metavar="N",
            help="Most palettes in it.",
            show_default=False,
        ),
    ] = None,
    start: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="auto|none|NAME|FILE",
            help="The model to start from; none: from nothing.",
        ),
    ] = "auto",
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes",
            min=0,
            metavar="N",
            help="Stop after this time, if not before.",
            show_default="24",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Train a model of your own images: 10,000 are plenty, half an hour is enough.

    A twelfth of them is held out and measured on, against PNG and WebP, while training goes on; it
    ends early when it no longer gets better. Lossless compression has a model of its own,
    --lossless. Needs torch: pip install "aez[train]".
    """
    if out.exists() and not resume:
        raise AezError(f"output {out} exists, and a model is never overwritten")
    try:
        from codec.train.command import train_command
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise UsageError('aez train needs torch: pip install "aez[train]"') from None
    with _bar(not quiet and sys.stderr.isatty()) as progress:
        train_command(
            data,
            out,
            lossless=lossless,
            hidden=hidden,
            most_palettes=most_palettes,
            start=start,
            minutes=minutes,
            seed=seed,
            resume=resume,
            quiet=quiet,
            progress=progress,
        )


def _parse_numbers(text: str | None, low: int, high: int, option: str) -> tuple[int, ...] | None:
    """`10,50,95` -> numbers, each in low .. high."""
    if text is None:
        return None
    for part in text.split(","):
        if not part.strip().isdecimal() or not low <= int(part) <= high:
            raise typer.BadParameter(
                f"{part!r} is not a whole number in the range {low}..{high}", param_hint=option
            )
    return tuple(dict.fromkeys(map(int, text.split(","))))


@app.command()
def bench(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="DATA", help="What compress takes: files, directories, arrays."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", metavar="DIR", help="Write results.json and report.html into this directory."
        ),
    ] = None,
    model: Annotated[
        str, typer.Option("-m", "--model", metavar="auto|NAME|FILE", help="See `aez models`.")
    ] = "auto",
    qualities: Annotated[
        str | None,
        typer.Option(
            "-q", "--qualities", metavar="Q,Q,...", help="Of aez, 0..99; by default 10,40,70,95."
        ),
    ] = None,
    efforts: Annotated[
        str | None,
        typer.Option("-e", "--efforts", metavar="E,E,...", help="Of aez, 1..9; by default 1,3."),
    ] = None,
    max_images: Annotated[
        int,
        typer.Option(
            "-n",
            "--images",
            min=1,
            max=100_000,
            metavar="N",
            help="Of more images, take so many, evenly spread.",
        ),
    ] = 500,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure this codec and others on your images.

    Bytes, PSNR, SSIM and speed as a table; with -o also as JSON and as one HTML page with plots and
    a contact sheet. JPEG XL, JPEG-LS and BD-rates need: pip install "aez[bench]".
    """
    started = time.perf_counter()
    of_aez = _parse_numbers(qualities, 0, 99, "-q"), _parse_numbers(efforts, 1, 9, "-e")
    if quiet and out is None and not as_json:
        raise UsageError("--quiet, and neither -o nor --json: there would be nothing to see")
    from codec.files.atomic import atomic, refuse_existing
    from codec.measure import bench as ruler
    from codec.measure.page import html

    report = _report(quiet)
    if out is not None:
        if out.exists() and not out.is_dir():
            raise UsageError(f"output {out} is a file, a directory is wanted")
        for name in BENCH_FILES:
            refuse_existing(out / name, force)
    pixels, names, num_images = ruler.read(inputs, max_images, report)
    if num_images > max_images:
        report.note(
            f"{len(pixels)} of {num_images} images are measured, evenly spread; -n takes more"
        )
    with _bar(report.live) as step:
        done = ruler.bench(
            pixels,
            model=model,
            qualities=of_aez[0] or ruler.QUALITIES,
            efforts=of_aez[1] or ruler.EFFORTS,
            step=step,
        )
    results = {"data": [str(name) for name in inputs], "images_in_all": num_images, **done.results}
    report.images = len(pixels)
    if out is None:
        report.outputs.append("-")
    else:
        texts = [json.dumps(results, indent=1) + "\n", html(results, pixels, names, done.decoded)]
        for name, text in zip(BENCH_FILES, texts, strict=True):
            with atomic(out / name, force=force) as file:
                file.write(text.encode())
            report.wrote(out / name, len(text.encode()))
    if not quiet and not as_json:
        _print_tables(results)
    summary = [] if quiet or out is None else [f"-> {' and '.join(report.outputs)}"]
    _finish(report, started, results, summary, as_json=as_json)


@contextlib.contextmanager
def _bar(live: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on stderr; takes what is done next, how many steps are done,
    and of how many.
    """
    if not live:
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    # Lines on stdout go above the bar, unless stdout is a file.
    console, to_terminal = Console(stderr=True), sys.stdout.isatty()
    with Progress(
        *columns, console=console, transient=True, redirect_stdout=to_terminal
    ) as progress:
        task = progress.add_task("", total=None)
        yield lambda what, done, total: progress.update(
            task, description=what, completed=done, total=total
        )


def _print_tables(results: dict[str, Any]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from codec.measure import page as report

    console = Console(width=None if sys.stdout.isatty() else 140)
    models = " and ".join(name for name in results["models"].values() if name)
    title = (
        f"{_images(results['images'])}, model {models}, one core of "
        f"{results['machine']['processor']}"
    )
    for text in (title, report.work_done_by(results)):
        typer.echo(shown(text))
    below = f"Bytes of aez, effort {results['main_effort']}, at equal PSNR (BD-rate, PCHIP)"
    for caption, (heads, rows) in (
        ("", report.table(results["rows"])),
        (below, report.bd_table(results["bd_rates"])),
    ):
        table = Table(
            title=Text(shown(caption)) if caption else None, title_justify="left", box=SIMPLE_HEAD
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
    for text in results["not_measured"]:
        typer.echo(shown(f"not measured: {text}"))


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)  # unwinds, so that temporary files go


def main() -> None:
    """Entry point of `aez`."""
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="aez")
