"""`aez compress`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from codec.cli import options as opt
from codec.cli.printing import Screen, images, where
from codec.errors import UsageError
from codec.format.constants import MAX_ERROR

if TYPE_CHECKING:
    from codec.commands.events import Result

EXAMPLES = (
    ("aez compress digits/", "-> digits.aez, one file"),
    ("aez compress img.png -q 90", "-> img.aez, beside it"),
    ("aez compress mnist.npz --lossless -o exact.aez", "every pixel comes back"),
)
MAX_SHOWN_FALLBACKS = 4

# Sections of the help.
QUALITY, READ, WRITTEN = "Quality and bytes", "What is read", "What is written"


def _bound(param: typer.CallbackParam, value: str | None) -> int | None:
    if value == "0":
        raise UsageError("--max-error 0 would keep every pixel: that is --lossless")
    found: int | None = opt.whole(1, MAX_ERROR)(param, value)
    return found


def _scale(value: str | None) -> int | None:
    if value not in (None, "1", "255"):
        raise UsageError(f"--scale {value}: give 1 or 255, the value that is white")
    return None if value is None else int(value)


def compress(
    inputs: opt.Inputs,
    quality: Annotated[
        int | None,
        typer.Option(
            "-q",
            "--quality",
            parser=str,
            callback=opt.whole(0, 100),
            metavar="0..100",
            rich_help_panel=QUALITY,
            help="Higher is better, 100 is lossless; by default 75.",
        ),
    ] = None,
    lossless: Annotated[
        bool,
        typer.Option(
            "--lossless", rich_help_panel=QUALITY, help="Keep every pixel; the same as -q 100."
        ),
    ] = False,
    max_error: Annotated[
        int | None,
        typer.Option(
            "--max-error",
            parser=str,
            callback=_bound,
            metavar="1..64",
            rich_help_panel=QUALITY,
            help="Near-lossless: no pixel of any image is off by more than this.",
        ),
    ] = None,
    max_bytes: Annotated[
        int | None,
        typer.Option(
            "--max-bytes",
            parser=str,
            callback=opt.whole(0),
            metavar="N",
            rich_help_panel=QUALITY,
            help="The best quality at which no image takes more than N bytes (of payload).",
        ),
    ] = None,
    min_psnr: Annotated[
        float | None,
        typer.Option(
            "--min-psnr",
            parser=str,
            callback=opt.real(0, 200),
            metavar="DB",
            rich_help_panel=QUALITY,
            help="The fewest bytes at which every image has at least DB decibels.",
        ),
    ] = None,
    effort: Annotated[
        int | None,
        typer.Option(
            "-e",
            "--effort",
            parser=str,
            callback=opt.whole(1, 9),
            metavar="1..9",
            rich_help_panel=QUALITY,
            help=(
                "How long to search for fewer bytes; by default 3, or 1 with --max-bytes or "
                "--min-psnr."
            ),
        ),
    ] = None,
    model: opt.Model = "auto",
    guard: Annotated[
        bool,
        typer.Option(
            rich_help_panel=QUALITY,
            help=(
                "Give an image a better coding if it comes out much worse than -q gives for images "
                "like those that the model was trained on."
            ),
        ),
    ] = True,
    out: Annotated[
        str | None,
        typer.Option(
            "-o",
            metavar="OUT",
            rich_help_panel=WRITTEN,
            help="x.aez: one file for all. A directory: one file for each image. -: stdout.",
        ),
    ] = None,
    separate: Annotated[
        bool,
        typer.Option(
            "--separate",
            rich_help_panel=WRITTEN,
            help="One file for each image, also of a directory.",
        ),
    ] = False,
    embed_model: Annotated[
        bool,
        typer.Option(
            "--embed-model",
            rich_help_panel=WRITTEN,
            help="Put the model into the collection, so that it can be read anywhere.",
        ),
    ] = False,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            metavar="FILE|COLUMN|folders|none",
            rich_help_panel=READ,
            help=(
                "Where the labels are: a file (IDX1, .npy, .csv, or text, one a line), a column or "
                "an array, the folders of the images. By default what belongs to INPUT by its name."
            ),
        ),
    ] = None,
    array: Annotated[
        str | None,
        typer.Option(
            "--array",
            metavar="NAME",
            rich_help_panel=READ,
            help="The only array, or column, of images to take.",
        ),
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option(
            "--scale",
            parser=str,
            metavar="1|255",
            callback=_scale,
            rich_help_panel=READ,
            help="Take fractions in arrays and tables: the value that is white.",
        ),
    ] = None,
    rounded: Annotated[
        bool,
        typer.Option(
            "--round",
            rich_help_panel=READ,
            help="With --scale: round what is no whole number of 255.",
        ),
    ] = False,
    grey: Annotated[
        bool,
        typer.Option(
            "--grey",
            rich_help_panel=READ,
            help="Take the luma of images whose channels differ by 2 steps at most.",
        ),
    ] = False,
    all_files: Annotated[
        bool,
        typer.Option(
            "--all-files",
            rich_help_panel=READ,
            help="Look for images in files without the suffix of one.",
        ),
    ] = False,
    append: Annotated[
        bool,
        typer.Option(
            "--append", rich_help_panel=WRITTEN, help="Add to the collection OUT, if it is there."
        ),
    ] = False,
    jobs: opt.Jobs = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler",
            metavar="tcp://HOST:PORT",
            help="Let the workers of a Dask cluster do the work.",
        ),
    ] = None,
    force: opt.Force = False,
    remove: Annotated[
        bool,
        typer.Option(
            "--rm",
            rich_help_panel=WRITTEN,
            help="Delete each input file once its output is on the disk and decodes.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", rich_help_panel=WRITTEN, help="Only say what would be written, and where."
        ),
    ] = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Compress images, directories and data sets.

    img.png becomes img.aez beside it. A directory or an archive (.zip, .tar, .tar.gz) becomes one
    collection, the images of a directory ordered by the code points of their names. An array or a
    table (.npy, .npz, IDX, .csv, any of them in .gz, .parquet) becomes one collection, with its
    labels and without names; an .npz of several arrays becomes several. .aez inputs are skipped. If
    a collection was interrupted, run the same command again to resume. INPUT and OUT may be URLs
    that fsspec knows.
    """
    screen = Screen(quiet)
    _check_goal(quality, lossless, max_error, max_bytes, min_psnr)
    if not dry_run:
        out = opt.output(inputs, out, as_json)
    from codec.commands import compress as command
    from codec.encoder.options import Options
    from codec.files.batch import Reading, Scale

    if rounded and scale is None:
        raise UsageError("--round needs --scale, which takes fractions")
    reading = Reading(array, labels, Scale(scale, rounded) if scale else None, all_files, grey)
    encoding = Options.of(quality, model, lossless, max_bytes, min_psnr, effort, guard, max_error)
    options = command.CompressOptions(
        encoding,
        opt.cores(jobs),
        force,
        remove,
        embed_model,
        scheduler,
        reading=reading,
        append=append,
    )
    result = screen.run(
        command.compress(inputs, out, separate=separate, dry_run=dry_run, options=options)
    )
    if dry_run:
        planned = {"dry_run": True, "images": result.images, "outputs": result.outputs}
        screen.finish(result, planned, result.outputs, as_json=as_json)
    summary = _summary(result) if out != "-" else []
    screen.finish(result, _figures(result, encoding), summary, as_json=as_json)


def _check_goal(
    quality: int | None,
    lossless: bool,
    max_error: int | None,
    max_bytes: int | None,
    min_psnr: float | None,
) -> None:
    if lossless and quality not in (None, 100):
        raise UsageError(f"-q {quality} contradicts --lossless, which is quality 100")
    if max_bytes is not None and min_psnr is not None:
        raise UsageError("give either --max-bytes or --min-psnr, not both")
    others = {"--lossless": lossless or None, "-q": quality, "--max-error": max_error}
    for name, value in (("--max-bytes", max_bytes), ("--min-psnr", min_psnr)):
        for other, given in others.items():
            if value is not None and given is not None:
                raise UsageError(f"{name} chooses the quality itself: leave out {other}")
    for other in ("--lossless", "-q"):
        if max_error is not None and others[other] is not None:
            raise UsageError(f"--max-error stands for a quality: leave out {other}")


def _figures(result: Result, encoding: Any) -> dict[str, Any]:
    stats = result.stats
    bpp, psnr_db = (stats.bpp, stats.psnr_db) if stats.images else (None, None)
    figures: dict[str, Any] = {
        "images": result.images,
        "bytes_in": result.bytes_in,
        "bytes_out": result.bytes_out,
        "payload_bytes": stats.payload_bytes,
        "bpp": None if bpp is None else round(bpp, 4),
        "psnr_db": None if psnr_db is None else round(psnr_db, 3),
        "lossless": stats.lossless if stats.images else None,
        "quality": encoding.quality if encoding.quality <= 100 and encoding.goal is None else None,
        "max_error": encoding.max_error,
        "model": ", ".join(stats.models) or None,
        "models": stats.models,
        "fallback": stats.fallback,
        "fallback_images": stats.fallback_images,
    }
    if encoding.goal is not None or stats.fallback:
        figures["qualities"] = dict(sorted(stats.qualities.items(), key=lambda item: int(item[0])))
    if encoding.goal is not None:
        figures["quality"] = int(next(iter(stats.qualities))) if len(stats.qualities) == 1 else None
    return figures


def _summary(result: Result) -> list[str]:
    stats = result.stats
    if not stats.images:
        return [f"no images -> {where(result.outputs)}"] if result.outputs else []
    ratio = result.bytes_in / result.bytes_out
    seen = "lossless" if stats.psnr_db is None else f"{stats.psnr_db:.1f} dB"
    lines = [
        f"{images(result.images)}, {result.bytes_in} -> {result.bytes_out} bytes ({ratio:.1f}x), "
        f"{stats.bpp:.2f} bpp, {seen} -> {where(result.outputs)}"
    ]
    if stats.fallback:
        most = sorted(stats.fallback.items(), key=lambda item: -item[1])[:MAX_SHOWN_FALLBACKS]
        what = ", ".join(f"{count} to {name}" for name, count in most)
        more = ", ..." if len(stats.fallback) > len(most) else ""
        lines.append(
            f"{images(sum(stats.fallback.values()))} would have come out badly and fell back: "
            f"{what}{more}"
        )
    return lines
