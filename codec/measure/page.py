"""What `aez bench` shows: tables, plots, and one HTML page that needs no other file and no script.

Everything that comes from outside (names of images, of models) goes through `escape`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from codec import metrics
from codec.arrays import U8, spread
from codec.encoder.options import DEFAULT_EFFORT
from codec.files.images import pack_png
from codec.format.constants import LOSSLESS_QUALITY
from codec.measure.plot import Series, colour, label, plot
from codec.measure.points import Row

SHEET_IMAGES = 32
SHEET_QUALITIES = 4
HEADINGS = (
    "codec",
    "setting",
    "B/image\nfile",
    "\npayload",
    "\ncollection",
    "\nsheet (dB)",
    "PSNR\ndB",
    "SSIM",
    "encode\nimages/s",
    "decode\nimages/s",
    "encode\n/ PNG",
    "decode\n/ PNG",
    "encode\n/ G",
    "decode\n/ G",
)
NONE = "–"  # in a cell
ABOUT_SHEETS = (
    "near N: no pixel is off by more than N. sheet: one file, no random access: a picture of all "
    "images side by side, in as many rows as columns or one less (zstd: one frame); its own dB"
)


@dataclass(frozen=True)
class Outcome:
    """What images become at one quality: the bytes of each file, the pixels they decode to, uint8
    (N, 28, 28), and all of them in one file.
    """

    file_bytes: list[int]
    pixels: U8
    collection: bytes


# Tables


def table(rows: Iterable[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the main table, aez first."""
    ordered = sorted(rows, key=lambda row: (row["codec"] != "aez", bool(row["lossless"])))
    return list(HEADINGS), [_cells(row) for row in ordered]


def _cells(row: Row) -> list[str]:
    """One row of the main table; without single files, PSNR and speed are those of one file."""
    file, together = row["file"], row["collection"]
    shown, is_collection = file or together, row["one_file"] == "collection"
    of_all = f"{together['bytes']:.1f}"
    its_psnr = "" if is_collection or row["lossless"] else f" ({together['psnr_db']:.1f})"
    return [
        label(row["codec"]),
        row["setting"],
        f"{file['bytes']:.1f}" if file else NONE,
        f"{file['payload_bytes']:.1f}" if file else NONE,
        of_all if is_collection else NONE,
        NONE if is_collection else of_all + its_psnr,
        "lossless" if shown["psnr_db"] is None else f"{shown['psnr_db']:.1f}",
        f"{shown['ssim']:.3f}",
        f"{shown['encode_images_per_s']:.0f}",
        f"{shown['decode_images_per_s']:.0f}",
        f"{shown['encode_per_png_write']:.2g}",
        f"{shown['decode_per_png_read']:.2g}",
        f"{shown['encode_efficiency']:.2f}" if "encode_efficiency" in shown else NONE,
        f"{shown['decode_efficiency']:.2f}" if "decode_efficiency" in shown else NONE,
    ]


def work_done_by(results: Mapping[str, Any]) -> str:
    """The engine of aez, and what its efficiency is measured by."""
    billions = results["products_per_s"] / 1e9
    return (
        f"engine {results['engine']}; G, numpy's own product: {billions:.1f} billion "
        "multiply-adds a second"
    )


def sampled(results: Mapping[str, Any]) -> str:
    """Says of how many images single files were made, if not of all; else ""."""
    count = results["images_as_files"]
    return "" if count == results["images"] else f" Single files: {count} images, evenly spread."


def bd_table(bd_rates: Iterable[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells: bytes at equal PSNR, a row for each codec that aez is compared with."""
    by_codec: dict[str, dict[str, str]] = {}
    for entry in bd_rates:
        value = entry["bd_rate_percent"]
        text = entry["at"] if value is None else f"{value:+.1f} % ({entry['at']})"
        by_codec.setdefault(entry["against"], {})[entry["counted"]] = text
    cells = [
        [label(codec), texts.get("file", NONE), texts.get("collection", NONE)]
        for codec, texts in by_codec.items()
    ]
    return ["against", "single files", "collection against sheet"], cells


# Plots


def series_name(row: Row, *, sheets: bool = False) -> str:
    """What the legend calls the series of a row.  sheets: of one file of all images."""
    if row["codec"] == "aez" and row["effort"] is None:
        return "aez, near-lossless"
    return label(row["codec"], row["effort"]) + ", sheet" * (sheets and row["one_file"] == "sheet")


def rate_distortion(rows: Iterable[Row], counted: str) -> str:
    """PSNR over bytes.  counted: "file" or "collection"; dots of sheets are hollow."""
    found: dict[str, Series] = {}
    for row in rows:
        codec, effort, figures = row["codec"], row["effort"], row[counted]
        if figures is None or figures["psnr_db"] is None:
            continue
        name = series_name(row, sheets=counted == "collection")
        num_bytes, psnr_db = figures["bytes"], figures["psnr_db"]
        series = found.setdefault(
            name,
            Series(
                name,
                colour(codec, effort),
                dashed=codec == "aez" and effort != DEFAULT_EFFORT,
                hollow=name.endswith("sheet"),
            ),
        )
        text = f"{label(codec)} {row['setting']}: {num_bytes:.1f} B, {psnr_db:.2f} dB"
        series.points.append((num_bytes, psnr_db, text))
    return plot(_ours_first(found), "bytes an image", "PSNR in dB", log_x=True)


def speeds(rows: Iterable[Row]) -> str:
    """Decoding speed over encoding speed, a dot for each setting: collections of aez, single files
    of the others.
    """
    found: dict[str, Series] = {}
    for row in rows:
        codec, lossless = row["codec"], bool(row["lossless"])
        effort = None if lossless else row["effort"]
        figures = row["collection"] if codec == "aez" else row["file"]
        if figures is None:
            continue
        name = series_name(row)
        if lossless:
            name = label(codec) + ", lossless" * (codec not in ("png", "zstd"))
        series = found.setdefault(name, Series(name, colour(codec, effort), hollow=lossless))
        encode, decode = figures["encode_images_per_s"], figures["decode_images_per_s"]
        speed = f"{encode:.0f} images/s to encode, {decode:.0f} to decode"
        series.points.append((encode, decode, f"{label(codec)} {row['setting']}: {speed}"))
    labels = "images/s to encode", "images/s to decode"
    return plot(_ours_first(found), *labels, log_x=True, log_y=True, lines=False)


def _ours_first(series: Mapping[str, Series]) -> list[Series]:
    return sorted(series.values(), key=lambda s: not s.name.startswith("aez"))


# The contact sheet


def _image(pixels: U8, text: str) -> str:
    uri = base64.b64encode(pack_png(pixels)).decode()
    return f'<img src="data:image/png;base64,{uri}" alt="{escape(text)}" title="{escape(text)}">'


def error_picture(pixels: U8, decoded: U8) -> U8:
    """Mid-grey where nothing changed, brighter where the decoded pixel is brighter, doubled; uint8
    of the same shape.
    """
    shown: U8 = np.clip(128 + 2 * (decoded.astype(np.int32) - pixels), 0, 255).astype(np.uint8)
    return shown


def worst_first(pixels: U8, decoded: Iterable[U8]) -> list[int]:
    """Numbers of the images, the worst first: by the mean of their PSNR over all of `decoded`."""
    total = np.zeros(len(pixels))
    for back in decoded:
        error = pixels.astype(np.int32) - back
        total += np.log1p(np.square(error).reshape(len(pixels), -1).sum(axis=1))
    return [int(i) for i in np.argsort(-total, kind="stable")]


def contact_sheet(pixels: U8, names: Sequence[str], decoded: Mapping[int, Outcome]) -> str:
    """A table, worst images first: the original, then at a few qualities the decoded image, its
    error and its bytes.
    """
    lossy = sorted(quality for quality in decoded if quality < LOSSLESS_QUALITY)
    if not lossy:
        return "<p>No lossy model: every image decodes to itself.</p>"
    some = spread(len(lossy), min(SHEET_QUALITIES, len(lossy)))
    shown = {lossy[i]: decoded[lossy[i]] for i in some}
    order = worst_first(pixels, [one.pixels for one in shown.values()])[:SHEET_IMAGES]
    head = "".join(f'<th colspan="3">quality {quality}' for quality in shown)
    rows = []
    for i in order:
        cells = [_sheet_cells(pixels[i], one, i, quality) for quality, one in shown.items()]
        start = f"<tr><td>{escape(names[i])}<td>{_image(pixels[i], 'original')}"
        rows.append(start + "".join(cells))
    head = f"<thead><tr><th>image<th>original{head}"
    return f'<table class="sheet">{head}<tbody>{"".join(rows)}</table>'


def _sheet_cells(pixels: U8, outcome: Outcome, number: int, quality: int) -> str:
    """Decoded image, error, bytes and PSNR of one image (28, 28) at one quality."""
    decoded = outcome.pixels[number]
    psnr_db = metrics.psnr_db(metrics.squared_error(pixels, decoded), pixels.size)
    error = "no error" if psnr_db is None else f"{psnr_db:.1f} dB"
    return (
        f"<td>{_image(decoded, f'decoded, quality {quality}')}"
        f"<td>{_image(error_picture(pixels, decoded), f'error, quality {quality}')}"
        f"<td>{outcome.file_bytes[number]} B<br>{error}"
    )


# The page

_STYLE = """
body { font: 15px/1.5 sans-serif; color: #222; background: #fff;
       max-width: 1100px; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; font-size: 13px; margin: 1em 0 }
th, td { padding: 3px 9px; text-align: right; border-bottom: 1px solid #ddd; white-space: pre-line }
th { position: sticky; top: 0; background: #fff; vertical-align: bottom }
td:first-child, td:nth-child(2), thead th:first-child, thead th:nth-child(2) { text-align: left }
.sheet td { white-space: nowrap; padding: 3px 4px } .sheet th { text-align: center }
.sheet td:first-child { white-space: normal; max-width: 15em; overflow-wrap: anywhere }
.sheet img { width: 84px; height: 84px; image-rendering: pixelated; display: block }
svg { max-width: 100%; height: auto } .note { color: #555; font-size: 13px }
"""


def _html_table(heads: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(text)}" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}" for text in row) for row in cells)
    return f"<table><thead><tr>{head}<tbody>{body}</table>"


def html(
    results: Mapping[str, Any],
    pixels: U8,
    names: Sequence[str],
    decoded: Mapping[int, Outcome],
    compared: str = "",
) -> str:
    """The whole report.

    results: of `bench`; pixels: the images that became single files, uint8 (N, 28, 28), with their
    names; decoded: see `Bench`; compared: the address of the page of `compare`, if there is one.
    """
    rows, machine = results["rows"], results["machine"]
    models = " and ".join(escape(str(name)) for name in results["models"].values() if name) or "no"
    of_all = (
        f" of {results['images_in_all']}"
        if results.get("images_in_all", 0) > results["images"]
        else ""
    )
    missing = "".join(f"<li>{escape(text)}" for text in results["not_measured"])
    link = f'<p><a href="{escape(compared)}">All images beside their originals</a></p>'
    return f"""<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>aez bench: {results["images"]} images</title><style>{_STYLE}</style>
<h1>{results["images"]} images{of_all}</h1>
<p>aez {escape(results["aez"])} with the models {models}; one core of
{escape(machine["processor"])}, Python {escape(machine["python"])},
numpy {escape(machine["numpy"])}; {escape(work_done_by(results))}.{escape(sampled(results))}</p>
<h2>Rate and distortion, one file an image</h2>{rate_distortion(rows, "file")}
<h2>Rate and distortion, all images in one file</h2>{rate_distortion(rows, "collection")}
<p class="note">The one file of aez is a collection, from which any image can be read alone. The
other codecs have none. Theirs is a sheet: one file, no random access. It shows all images side by
side, in as many rows as columns or one less.</p>
<h2>Bytes of aez at equal PSNR (BD-rate, PCHIP), effort {results["main_effort"]}</h2>
{_html_table(*bd_table(results["bd_rates"]))}
<h2>Speed</h2>{speeds(rows)}
<p class="note">Collections of aez, single files of the others, in memory, on one core. Hollow dots
are lossless.</p>
<h2>All figures</h2>{_html_table(*table(rows))}
<p class="note">Bytes are means over the images. File: one file for each image. Collection and
sheet: one file for all of them; a sheet (zstd: one frame, without a dictionary) has no random
access. Behind the bytes of a sheet stands its own PSNR. Payload: a file without its constant part;
for aez the header tells, for the others it is the file less the bytes of a black image. Near N: no
pixel is off by more than N. Not counted: the dictionary of zstd, which is made of other images of
this set, and the models of aez. PSNR, SSIM (7x7 windows) and speed are those of the files, or of
the one file where files were not measured. Speed is in processor time, on one core. "/ PNG":
divided by the speed of Pillow's PNG in this run. "/ G": efficiency, images/s times the
multiply-adds of an image in the networks of aez, divided by G, the multiply-adds a second of
numpy's float32 product 1024x784x512 on one core in this run; for lossy encoding it is known at
effort 1 only.</p>
{f"<p>Not measured:</p><ul>{missing}</ul>" if missing else ""}
<h2>Contact sheet</h2>
<p class="note">The worst images first, by their mean PSNR. Error: grey where nothing changed,
brighter where the decoded image is brighter, doubled. Bytes are those of a single file.</p>
{contact_sheet(pixels, names, decoded)}
{link if compared else ""}
</html>
"""
