"""Plots as SVG, in a few lines of our own: axes with ticks, lines or dots, a legend.

Each dot says what it is where a mouse rests on it. All text goes through `escape`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

from codec.encoder.options import DEFAULT_EFFORT

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
# Okabe and Ito's colours, which most colour-blind readers can tell apart; aez is the darkest.
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
OTHER_EFFORTS = "#777777"  # aez at efforts that are not the default

LEFT, RIGHT, BOTTOM = 56, 150, 44  # margins in pixels
LEGEND_LINE = 18  # pixels


def label(codec: str, effort: int | None = None) -> str:
    return LABELS.get(codec, codec) + (f", effort {effort}" if effort is not None else "")


def colour(codec: str, effort: int | None = None) -> str:
    return OTHER_EFFORTS if effort not in (None, DEFAULT_EFFORT) else COLOURS.get(codec, "#333333")


@dataclass
class Series:
    """Points of one codec: x, y, and what the dot says."""

    name: str
    colour: str
    points: list[tuple[float, float, str]] = field(default_factory=list)
    dashed: bool = False
    hollow: bool = False


@dataclass(frozen=True)
class Mark:
    """An upright line at some x."""

    x: float
    name: str
    colour: str


@dataclass(frozen=True)
class Axis:
    """Values from low to high, drawn between two places in pixels."""

    low: float
    high: float
    log: bool
    start: float
    end: float

    @classmethod
    def around(cls, values: Sequence[float], log: bool, start: float, end: float) -> Axis:
        """An axis for these values, with a small margin on both sides."""
        low, high = min(values), max(values)
        if log:
            return cls(low / 1.15, high * 1.15, log, start, end)
        margin = 0.04 * (high - low) or 1.0
        return cls(low - margin, high + margin, log, start, end)

    def place(self, value: float) -> float:
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        return ticks(self.low, self.high, self.log)


def ticks(low: float, high: float, log: bool) -> list[float]:
    """Round numbers from low to high: 1, 2, 5, 10 ... on a logarithmic axis, else about six even
    ones.
    """
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = (1,) if high / low > 1000 else (1, 2, 5)
        found = [step * 10.0**decade for decade in decades for step in steps]
    else:
        step = 10.0 ** math.floor(math.log10((high - low) / 5))
        step *= next(m for m in (1, 2, 5, 10) if m * step >= (high - low) / 7)
        found = [step * i for i in range(math.floor(low / step), math.ceil(high / step) + 1)]
    return [value for value in found if low <= value <= high]


def short(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}"


def plot(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    lines: bool = True,
    title: str = "",
    marks: Sequence[Mark] = (),
    width: int = 640,
    height: int = 380,
) -> str:
    """An SVG picture with a background of its own, legible anywhere; "" without points.

    lines: join the dots of a series, by x. marks: upright lines across the plot.
    """
    series = [s for s in series if s.points]
    if not series:
        return ""
    top, right, bottom = 30 if title else 12, width - RIGHT, height - BOTTOM
    points = [point for s in series for point in s.points]
    all_x = [x for x, _, _ in points] + [mark.x for mark in marks]
    x = Axis.around(all_x, log_x, LEFT, right)
    y = Axis.around([y for _, y, _ in points], log_y, bottom, top)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="12">'
        '<rect width="100%" height="100%" fill="#fff"/>'
    ]
    if title:
        out.append(f'<text x="{LEFT}" y="19" font-size="14">{escape(title)}</text>')
    out += _grid(x, y)
    out.append(_turned((LEFT + right) / 2, height - 8, 0, x_label))
    out.append(_turned(14, (top + bottom) / 2, -90, y_label))
    for number, s in enumerate(series):
        out += _drawn(s, x, y, lines, top + 10 + LEGEND_LINE * number)
    for number, mark in enumerate(marks, len(series)):
        out.append(_marked(mark, x, y, top + 10 + LEGEND_LINE * number))
    return "".join([*out, "</svg>"])


def _grid(x: Axis, y: Axis) -> Iterator[str]:
    """Lines and numbers at the ticks, and the frame."""
    for value in x.ticks():
        at = x.place(value)
        yield f'<path d="M{at:.1f} {y.end}V{y.start}" stroke="#ddd"/>'
        yield f'<text x="{at:.1f}" y="{y.start + 16}" text-anchor="middle">{short(value)}</text>'
    for value in y.ticks():
        at = y.place(value)
        yield f'<path d="M{x.start} {at:.1f}H{x.end}" stroke="#ddd"/>'
        yield f'<text x="{x.start - 6}" y="{at + 4:.1f}" text-anchor="end">{short(value)}</text>'
    size = f'width="{x.end - x.start}" height="{y.start - y.end}"'
    yield f'<rect x="{x.start}" y="{y.end}" {size} fill="none" stroke="#888"/>'


def _turned(x: float, y: float, degrees: int, text: str) -> str:
    place = f'transform="translate({x} {y}) rotate({degrees})"'
    return f'<text {place} text-anchor="middle">{escape(text)}</text>'


def _drawn(series: Series, x: Axis, y: Axis, lines: bool, legend_y: float) -> Iterator[str]:
    """Line, dots, and the line of the legend."""
    dash = ' stroke-dasharray="5 3"' if series.dashed else ""
    stroke = f'stroke="{series.colour}" stroke-width="1.6"{dash}'
    style = f'stroke="{series.colour}" fill="{"#fff" if series.hollow else series.colour}"'
    legend_x = x.end + 12
    if lines:
        places = (f"{x.place(a):.1f},{y.place(b):.1f}" for a, b, _ in sorted(series.points))
        yield f'<polyline points="{" ".join(places)}" fill="none" {stroke}/>'
        yield f'<path d="M{legend_x} {legend_y}h22" {stroke}/>'
    for a, b, text in series.points:
        at = f'cx="{x.place(a):.1f}" cy="{y.place(b):.1f}" r="3"'
        yield f"<circle {at} {style}><title>{escape(text)}</title></circle>"
    yield f'<circle cx="{legend_x + 11}" cy="{legend_y}" r="3" {style}/>'
    yield f'<text x="{legend_x + 28}" y="{legend_y + 4}">{escape(series.name)}</text>'


def _marked(mark: Mark, x: Axis, y: Axis, legend_y: float) -> str:
    style = f'stroke="{mark.colour}" stroke-dasharray="2 3"'
    return (
        f'<path d="M{x.place(mark.x):.1f} {y.end}V{y.start}" {style}/>'
        f'<path d="M{x.end + 12} {legend_y}h22" {style}/>'
        f'<text x="{x.end + 40}" y="{legend_y + 4}">{escape(mark.name)}</text>'
    )
