"""What `aez bench` shows: the rows of its tables, plots as SVG, and one HTML file that needs no
other and runs no script.

Everything that comes from outside (names of images, of models) goes through `escape`. Plots are
drawn by `plot`, a few lines of our own: axes with ticks, lines or dots, a legend; each dot says
what it is where a mouse rests on it.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from codec import metrics
from codec.files.images import pack_png
from codec.model.ladder_search import DEFAULT_EFFORT

U8 = npt.NDArray[np.uint8]
Row = dict[str, Any]

SHEET_IMAGES = 32
SHEET_QUALITIES = 4
LABELS = {
    "aez": "aez",
    "png": "PNG",
    "webp": "WebP",
    "jpeg": "JPEG",
    "avif": "AVIF",
    "jxl": "JPEG XL",
    "jpeg-ls": "JPEG-LS",
    "zstd": "zstd",
    "klt": "KLT",
}
# Okabe and Ito's colours, told apart by most colour-blind readers too; ours is the darkest.
COLOURS = {
    "aez": "#000000",
    "png": "#0072b2",
    "webp": "#d55e00",
    "jpeg": "#e69f00",
    "avif": "#009e73",
    "jxl": "#cc79a7",
    "jpeg-ls": "#56b4e9",
    "zstd": "#999999",
    "klt": "#56b4e9",
}


@dataclass(frozen=True)
class Decoded:
    """What became of each image at one quality: bytes of its file, and the pixels it decodes to,
    uint8 (N, 28, 28).
    """

    file_bytes: list[int]
    pixels: U8


# Tables


def label(codec: str, effort: int | None = None) -> str:
    return LABELS.get(codec, codec) + (f", effort {effort}" if effort is not None else "")


def colour(codec: str, effort: int | None = None) -> str:
    return "#777777" if effort not in (None, DEFAULT_EFFORT) else COLOURS.get(codec, "#333333")


def table(rows: Iterable[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the main table, aez first.

    Without single files, speed is that of the collection.
    """
    heads = [
        "codec",
        "setting",
        "B/image\nfile",
        "\npayload",
        "\ncollection",
        "PSNR\ndB",
        "SSIM",
        "encode\nimages/s",
        "decode\nimages/s",
        "encode\n/ PNG",
        "decode\n/ PNG",
        "encode\n/ G",
        "decode\n/ G",
    ]
    cells = []
    for row in sorted(rows, key=lambda row: (row["codec"] != "aez", bool(row["lossless"]))):
        file, collection = row["file"], row["collection"]
        shown = file or collection
        cells.append(
            [
                label(row["codec"]),
                row["setting"],
                f"{file['bytes']:.1f}" if file else "–",
                f"{file['payload_bytes']:.1f}" if file else "–",
                f"{collection['bytes']:.1f}",
                "lossless" if shown["psnr_db"] is None else f"{shown['psnr_db']:.1f}",
                f"{shown['ssim']:.3f}",
                f"{shown['encode_images_per_s']:.0f}",
                f"{shown['decode_images_per_s']:.0f}",
                f"{shown['encode_per_png_write']:.2g}",
                f"{shown['decode_per_png_read']:.2g}",
                *(
                    f"{shown[way]:.2f}" if way in shown else "–"
                    for way in ("encode_efficiency", "decode_efficiency")
                ),
            ]
        )
    return heads, cells


def work_done_by(results: Mapping[str, Any]) -> str:
    """The engine of aez, and what its efficiency is measured by."""
    billions = results["products_per_s"] / 1e9
    return (
        f"engine {results['engine']}; G, numpy's own product: {billions:.1f} billion "
        "multiply-adds a second"
    )


def bd_table(bd_rates: Iterable[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells: bytes at equal PSNR, one row for each codec that is compared with."""
    by_codec: dict[str, dict[str, str]] = {}
    for entry in bd_rates:
        value = entry["bd_rate_percent"]
        text = entry["at"] if value is None else f"{value:+.1f} % ({entry['at']})"
        by_codec.setdefault(entry["against"], {})[entry["counted"]] = text
    cells = [
        [LABELS.get(c, c), texts.get("file", "–"), texts.get("collection", "–")]
        for c, texts in by_codec.items()
    ]
    return ["against", "single files", "collection"], cells


# Plots


@dataclass
class Series:
    """points: x, y, and what the dot says."""

    name: str
    colour: str
    points: list[tuple[float, float, str]] = field(default_factory=list)
    dashed: bool = False
    hollow: bool = False


def ticks(low: float, high: float, log: bool) -> list[float]:
    """Round numbers from low to high: 1, 2, 5, 10 ... if the axis is logarithmic, else about six
    even ones.
    """
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [m * 10.0**d for d in decades for m in (1, 2, 5)]
        if high / low > 1000:
            found = [10.0**d for d in decades]
    else:
        step = 10.0 ** math.floor(math.log10((high - low) / 5))
        step *= next(m for m in (1, 2, 5, 10) if m * step >= (high - low) / 7)
        found = [step * i for i in range(math.floor(low / step), math.ceil(high / step) + 1)]
    return [value for value in found if low <= value <= high]


def short(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}"


def _span(values: Sequence[float], log: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if log:
        return low / 1.15, high * 1.15
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


def plot(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    lines: bool = True,
    title: str = "",
    marks: Sequence[tuple[float, str, str]] = (),
    width: int = 640,
    height: int = 380,
) -> str:
    """An SVG picture, with its own background, so that it is legible anywhere.

    marks: upright lines at some x, with a name and a colour.
    """
    series = [s for s in series if s.points]
    if not series:
        return ""
    left, right, top, bottom = 56, 150, 30 if title else 12, 44
    points = [point for s in series for point in s.points]
    spans = [
        _span([x for x, _, _ in points] + [x for x, _, _ in marks], log_x),
        _span([y for _, y, _ in points], log_y),
    ]

    def place(value: float, axis: int) -> float:
        (low, high), log = spans[axis], (log_x, log_y)[axis]
        share = (
            math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)
        )
        return (
            left + share * (width - left - right)
            if axis == 0
            else height - bottom - share * (height - top - bottom)
        )

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
    ]
    if title:
        out.append(f'<text x="{left}" y="19" font-size="14">{escape(title)}</text>')
    for value in ticks(*spans[0], log_x):
        x = place(value, 0)
        out.append(
            f'<path d="M{x:.1f} {top}V{height - bottom}" stroke="#ddd"/>'
            f'<text x="{x:.1f}" y="{height - bottom + 16}" '
            f'text-anchor="middle">{short(value)}</text>'
        )
    for value in ticks(*spans[1], log_y):
        y = place(value, 1)
        out.append(
            f'<path d="M{left} {y:.1f}H{width - right}" stroke="#ddd"/>'
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{short(value)}</text>'
        )
    frame = (
        f'<rect x="{left}" y="{top}" width="{width - left - right}" '
        f'height="{height - top - bottom}"'
    )
    out.append(f'{frame} fill="none" stroke="#888"/>')
    for x, y, turn, text in (
        ((left + width - right) / 2, height - 8, 0, x_label),
        (14, (top + height - bottom) / 2, -90, y_label),
    ):
        out.append(
            f'<text transform="translate({x} {y}) rotate({turn})" '
            f'text-anchor="middle">{escape(text)}</text>'
        )
    for number, s in enumerate(series):
        dash = ' stroke-dasharray="5 3"' if s.dashed else ""
        style = f'stroke="{s.colour}" fill="{"#fff" if s.hollow else s.colour}"'
        if lines:
            path = " ".join(f"{place(x, 0):.1f},{place(y, 1):.1f}" for x, y, _ in sorted(s.points))
            out.append(
                f'<polyline points="{path}" fill="none" stroke="{s.colour}" '
                f'stroke-width="1.6"{dash}/>'
            )
        for x, y, text in s.points:
            at = f'cx="{place(x, 0):.1f}" cy="{place(y, 1):.1f}" r="3"'
            out.append(f"<circle {at} {style}><title>{escape(text)}</title></circle>")
        y = top + 10 + 18 * number
        edge = width - right + 12
        line = (
            f'<path d="M{edge} {y}h22" stroke="{s.colour}" stroke-width="1.6"{dash}/>'
            if lines
            else ""
        )
        out.append(
            f'{line}<circle cx="{edge + 11}" cy="{y}" r="3" {style}/>'
            f'<text x="{edge + 28}" y="{y + 4}">{escape(s.name)}</text>'
        )
    for number, (value, name, ink) in enumerate(marks, len(series)):
        x, y, style = (
            place(value, 0),
            top + 10 + 18 * number,
            f'stroke="{ink}" stroke-dasharray="2 3"',
        )
        out.append(
            f'<path d="M{x:.1f} {top}V{height - bottom}" {style}/><path d="M{width - right + 12} '
            f'{y}h22" {style}/>'
            f'<text x="{width - right + 40}" y="{y + 4}">{escape(name)}</text>'
        )
    out.append("</svg>")
    return "".join(out)


def rate_distortion(rows: Iterable[Row], counted: str) -> str:
    """PSNR over bytes.  counted: "file" or "collection"."""
    found: dict[str, Series] = {}
    for row in rows:
        figures = row[counted]
        if figures is None or figures["psnr_db"] is None:
            continue
        codec, effort = row["codec"], row["effort"]
        name = label(codec, effort)
        series = found.setdefault(
            name, Series(name, colour(codec, effort), dashed=effort not in (None, DEFAULT_EFFORT))
        )
        said = (
            f"{label(codec)} {row['setting']}: {figures['bytes']:.1f} B, {figures['psnr_db']:.2f} "
            "dB"
        )
        series.points.append((figures["bytes"], figures["psnr_db"], said))
    return plot(
        sorted(found.values(), key=lambda s: not s.name.startswith("aez")),
        "bytes an image",
        "PSNR in dB",
        log_x=True,
    )


def speeds(rows: Iterable[Row]) -> str:
    """Decoding over encoding speed, a dot for each setting; collections of aez, files of the
    others.
    """
    found: dict[str, Series] = {}
    for row in rows:
        codec, effort = row["codec"], None if row["lossless"] else row["effort"]
        figures = row["collection"] if codec == "aez" else row["file"]
        name = label(codec, effort) + ", lossless" * (
            row["lossless"] and codec in ("aez", "webp", "jxl")
        )
        series = found.setdefault(
            name, Series(name, colour(codec, effort), hollow=bool(row["lossless"]))
        )
        encode, decode = figures["encode_images_per_s"], figures["decode_images_per_s"]
        said = (
            f"{label(codec)} {row['setting']}: {encode:.0f} images/s to encode, {decode:.0f} to "
            "decode"
        )
        series.points.append((encode, decode, said))
    return plot(
        sorted(found.values(), key=lambda s: not s.name.startswith("aez")),
        "images/s to encode",
        "images/s to decode",
        log_x=True,
        log_y=True,
        lines=False,
    )


# The contact sheet


def _image(pixels: U8, said: str) -> str:
    uri = base64.b64encode(pack_png(pixels)).decode()
    return f'<img src="data:image/png;base64,{uri}" alt="{escape(said)}" title="{escape(said)}">'


def error_picture(pixels: U8, decoded: U8) -> U8:
    """Mid-grey where nothing changed, brighter where the decoded pixel is brighter, twice as much;
    uint8 of one shape.
    """
    shown: U8 = np.clip(128 + 2 * (decoded.astype(np.int32) - pixels), 0, 255).astype(np.uint8)
    return shown


def worst_first(pixels: U8, decoded: Mapping[int, Decoded]) -> list[int]:
    """Numbers of the images by their PSNR, the mean over the qualities, lowest first."""
    total = np.zeros(len(pixels))
    for one in decoded.values():
        squared = (
            np.square(pixels.astype(np.int32) - one.pixels).reshape(len(pixels), -1).sum(axis=1)
        )
        total += np.log1p(squared)
    return [int(i) for i in np.argsort(-total, kind="stable")]


def contact_sheet(pixels: U8, names: Sequence[str], decoded: Mapping[int, Decoded]) -> str:
    """A table: original, then at several qualities the decoded image, its error and bytes; the
    worst images first.
    """
    lossy = sorted(quality for quality in decoded if quality < 100)
    if not lossy:
        return "<p>No lossy model: every image decodes to itself.</p>"
    shown = [
        lossy[i]
        for i in sorted(
            {round(i) for i in np.linspace(0, len(lossy) - 1, min(len(lossy), SHEET_QUALITIES))}
        )
    ]
    order = worst_first(pixels, {quality: decoded[quality] for quality in shown})[:SHEET_IMAGES]
    head = "<th>image<th>original" + "".join(
        f'<th colspan="3">quality {quality}' for quality in shown
    )
    rows = []
    for i in order:
        cells = [f"<td>{escape(names[i])}<td>{_image(pixels[i], 'original')}"]
        for quality in shown:
            one = decoded[quality]
            psnr_db = metrics.psnr_db(
                metrics.squared_error(pixels[i], one.pixels[i]), pixels[i].size
            )
            error = "no error" if psnr_db is None else f"{psnr_db:.1f} dB"
            cells.append(
                f"<td>{_image(one.pixels[i], f'decoded, quality {quality}')}"
                "<td>"
                f"{_image(error_picture(pixels[i], one.pixels[i]), f'error, quality {quality}')}"
                f"<td>{one.file_bytes[i]} B<br>{error}"
            )
        rows.append(f"<tr>{''.join(cells)}")
    return f'<table class="sheet"><thead><tr>{head}<tbody>{"".join(rows)}</table>'


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
    results: Mapping[str, Any], pixels: U8, names: Sequence[str], decoded: Mapping[int, Decoded]
) -> str:
    """The whole report.  results: of `bench`; pixels: uint8 (N, 28, 28), with their names."""
    rows, machine = results["rows"], results["machine"]
    models = " and ".join(escape(str(name)) for name in results["models"].values() if name) or "no"
    of_all = (
        f" of {results['images_in_all']}"
        if results.get("images_in_all", 0) > results["images"]
        else ""
    )
    missing = "".join(f"<li>{escape(text)}" for text in results["not_measured"])
    return f"""<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>aez bench: {results["images"]} images</title><style>{_STYLE}</style>
<h1>{results["images"]} images{of_all}</h1>
<p>aez {escape(results["aez"])} with the models {models}; one core of
{escape(machine["processor"])}, Python {escape(machine["python"])},
numpy {escape(machine["numpy"])}; {escape(work_done_by(results))}.</p>
<h2>Rate and distortion, one file an image</h2>{rate_distortion(rows, "file")}
<h2>Rate and distortion, all images in one file</h2>{rate_distortion(rows, "collection")}
<p class="note">The one file of aez is a collection, from which any image can be read alone. The
others have none: theirs is one picture with all images side by side.</p>
<h2>Bytes of aez at equal PSNR (BD-rate, PCHIP), effort {results["main_effort"]}</h2>
{_html_table(*bd_table(results["bd_rates"]))}
<h2>Speed</h2>{speeds(rows)}
<p class="note">Collections of aez, single files of the others, in memory, on one core. Hollow dots
are lossless.</p>
<h2>All figures</h2>{_html_table(*table(rows))}
<p class="note">Bytes are means an image. File: a whole file for each image. Collection: one file
for all of them (zstd: one frame, without a dictionary). Payload: a file without its constant part;
of aez what its header says, of the others the file less what the same codec needs for a black
image. The dictionary of zstd, made of other images of this set, and the models of aez are not
counted. PSNR, SSIM (windows of 7x7) and speed are those of the files, or of the collection where
files were not measured. Speed is by processor time, on one core; "/ PNG": as a ratio to Pillow
writing or reading PNG in this run; "/ G": efficiency, images/s times the multiply-adds that the
networks of aez take for an image, divided by G, those a second of numpy's float32 product
1024x784x512 on one core in this run; of lossy encoding it is known for effort 1 alone.</p>
{f"<p>Not measured:</p><ul>{missing}</ul>" if missing else ""}
<h2>Contact sheet</h2>
<p class="note">The worst images first, by their mean PSNR. Error: grey where nothing changed,
brighter where the decoded image is brighter, doubled. Bytes are those of a single file.</p>
{contact_sheet(pixels, names, decoded)}
</html>
"""
