"""The test vectors of FORMAT.md 12, and the one command that writes them.

    python tests/vectors.py

writes the blocks `dump`, `coder` and `values` of the document anew, and the SHA-256 after each
dump. A stream of the document that still decodes stays as it is; one that does not, as its model
was replaced, is encoded anew. (So is one whose dump was emptied by hand.) The values are those of
the minimal decoder in `examples/`: `Trace` is its `Group` and writes down what it computes.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import sys
import zlib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import helpers
import numpy as np

from codec import zstd
from codec.collection.writer import Writer
from codec.format.block import pack_block
from codec.format.footer import FOOTER_END_FIELDS, FOOTER_ENTRY_FIELDS, FOOTER_FIELDS
from codec.format.headers import (
    BLOCK_FIELDS,
    COLLECTION_FIELDS,
    IMAGE_FIELDS,
    ImageHeader,
    image_check,
    pack_extension,
    pack_image,
)
from codec.format.index import Part
from codec.labels import checked
from codec.model import registry, stored

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "codec" / "FORMAT.md"
MINIMAL = helpers.minimal_decoder()
LOSSY, LOSSLESS = 1, 3  # Model_ID of the models of the vectors

# The pixels

Y, X = np.mgrid[:28, :28]
A = (255 * ((Y >= 4) & (Y < 24) & (X >= 12) & (X < 16))).astype(np.uint8)
B = A.T
C = np.maximum(0, 255 - 10 * ((Y - 15) ** 2 + (X - 12) ** 2)).astype(np.uint8)
D = (9 * X).astype(np.uint8)
BARS = np.stack([np.roll(A, 3 * k - 8, axis=1) for k in range(6)])  # the first at column 4
NAMES = list("012345")
TEXTS = ["left"] * 3 + ["right"] * 3
PIXELS = {
    "image": A,
    "lossless": A,
    "near-lossless": C,
    "stored": D,
    "hash": A,
    "collection": np.stack([A, B]),
    "parts": BARS,
}  # by kind of vector, in the order of the document


# The streams


def encoded(kind: str) -> bytes:
    """The stream of a vector, made by the encoder."""
    lossy, lossless = registry.by_id(LOSSY), registry.by_id(LOSSLESS)
    pixels = PIXELS[kind]
    if kind == "stored":
        return pack_image(ImageHeader(0, 101), stored.stored_bytes(pixels), b"")
    if pixels.ndim == 2:
        number, quality = {
            "image": (LOSSY, 75),
            "lossless": (LOSSLESS, 100),
            "near-lossless": (LOSSLESS, 132),
        }[kind]
        model = registry.by_id(number)
        (message,) = model.encode(pixels[None], quality, group=1).messages
        return pack_image(ImageHeader(number, quality), message, model.sha256)
    if kind == "collection":
        parts, names, labels = [Part(lossy.hash, 75, np.arange(2))], ["a", "b"], None
    else:
        parts = [
            Part(lossy.hash, 75, np.array([0, 2, 3, 5])),
            Part(lossless.hash, 100, np.array([1, 4])),
        ]
        names, labels = NAMES, checked(TEXTS)
    coded = [
        (part, registry.by_hash(part.model_hash).encode(pixels[part.images], part.quality).messages)
        for part in parts
    ]
    file = io.BytesIO()
    writer = Writer(file)
    writer.write(pack_block(coded, names, labels), len(pixels))
    writer.finish()
    return file.getvalue()


def hashed(image: bytes) -> bytes:
    """The single image with a Model_Hash instead of its Model_ID, and a field to be skipped."""
    model = registry.by_id(LOSSY)
    fields = pack_extension({0x01: model.hash, 0xC0: b"aez"})
    stream = image[:2] + b"\x14\0" + image[4:6] + fields + image[6:]
    return stream[:5] + bytes([image_check(model.sha256, stream)]) + stream[6:]


# The dumps


class Fields:
    """Takes a stream apart: `found` has the name of each field, with a note, and its bytes."""

    def __init__(self, stream: bytes) -> None:
        self.cursor, self.found = MINIMAL.Cursor(stream), []
        self.start = 0

    def put(self, name: str, note: object = "") -> None:
        """The bytes read since the last field are this one."""
        value = self.cursor.data[self.start : self.cursor.at]
        self.found.append((f"{name}: {note}" if note != "" else name, value))
        self.start = self.cursor.at

    def take(self, name: str, size: int, note: object = "") -> bytes:
        value = self.cursor.take(size)
        if size:
            self.put(name, note)
        return value

    def varint(self, name: str) -> int:
        value = self.cursor.varint()
        self.put(name, value)
        return value

    def table(self, fields: Iterable[tuple[str, str]]) -> dict[str, Any]:
        """Fields of a fixed size; those of a number have it as note, flags and checks have none."""
        values = {}
        for name, code in fields:
            size = struct.calcsize("<" + code)
            (values[name],) = struct.unpack_from("<" + code, self.cursor.data, self.cursor.at)
            bare = code[-1] == "s" or name in ("Version_And_Flags", "Check")
            self.take(name, size, "" if bare else values[name])
        return values

    def frame(self, name: str, size: int) -> None:
        """A zstd frame: its content is the note."""
        frame = self.cursor.data[self.cursor.at : self.cursor.at + size]
        content = zstd.unpack(frame, zstd.content_size(frame) or 0)
        self.take(name, size, f"content {content.hex(' ')}")

    def image(self) -> None:
        header = self.table(IMAGE_FIELDS)
        if header["Version_And_Flags"] & 4:
            end = self.varint("Extension_Bytes") + self.cursor.at
            while self.cursor.at < end:
                name = {1: "Model_Hash"}.get(self.take_type(), "to be skipped")
                self.take("Value", self.varint("Field_Bytes"), name)
        self.take("Payload", len(self.cursor.data) - self.cursor.at)

    def take_type(self) -> int:
        kind = self.cursor.take(1)[0]
        self.put("Field_Type", f"{kind:#04x}")
        return kind

    def collection(self) -> None:
        self.table(COLLECTION_FIELDS)
        entries = MINIMAL.entries_of(self.cursor.data, self.cursor.at)
        for _ in entries:
            self.block()
        self.table(FOOTER_FIELDS)
        for _ in entries:
            self.table(FOOTER_ENTRY_FIELDS)
        self.table(FOOTER_END_FIELDS)

    def block(self) -> None:
        header = self.table(BLOCK_FIELDS)
        flags, end = header["Block_Flags"], self.cursor.at + header["Names_Bytes"]
        if flags & 4:
            self.frame("Labels", self.varint("Labels_Bytes"))
        if flags & 1:
            self.frame("Names", end - self.cursor.at)
        parts = [(header["Quality"], header["Image_Count"])]
        if flags & 2:
            parts = self.parts(*parts[0])
        messages = []
        for i, (quality, count) in enumerate(parts):
            groups = -(-count // MINIMAL.group_images(quality))
            for g, size in enumerate(self.lengths(quality, groups)):
                place = f"part {i}, group {g}" if len(parts) > 1 else f"group {g}"
                messages.append((size, place if len(parts) > 1 or groups > 1 else ""))
        for size, place in messages:
            self.take("Payload", size, place)

    def parts(self, quality: int, count: int) -> list[tuple[int, int]]:
        """-> quality and number of images of each part."""
        self.take("Model_Hashes", 8 * self.varint("Model_Count"))
        left, found = count, []
        for _ in range(self.varint("Part_Count")):
            self.take("Model", 1, self.cursor.data[self.cursor.at])
            quality_of_part = self.take("Quality", 1, self.cursor.data[self.cursor.at])[0]
            images = self.varint("Part_Images")
            gaps = self.cursor.rice(images, left)
            positions = ", ".join(map(str, np.cumsum(gaps) - 1))
            self.put("Images", f"positions {positions} of {left}")
            left -= images
            found.append((quality_of_part, images))
        self.take("Parts_Check", 4)
        return [(quality, left), *found]

    def lengths(self, quality: int, groups: int) -> list[int]:
        """The lengths of the messages of a part."""
        if quality >= 100:
            return [self.varint("Length") for _ in range(groups)]
        start = self.cursor.at
        found = MINIMAL.lengths_of(self.cursor, quality, groups)
        self.cursor.at = start
        self.varint("Mean")
        gaps = self.cursor.rice(groups, self.varint("Limit"))
        gaps, lengths = (", ".join(map(str, numbers)) for numbers in (gaps, found))
        self.put("Lengths", f"gaps {gaps}; lengths {lengths}")
        return found


def fields_of(stream: bytes) -> list[tuple[str, bytes]]:
    """(name with a note, bytes) of every field of a stream, in file order."""
    fields = Fields(stream)
    fields.collection() if MINIMAL.is_collection(stream) else fields.image()
    return fields.found


def dump(stream: bytes) -> str:
    """Lines of `offset  bytes  field`, 16 bytes to a line at most; only the first line of a field
    names it.
    """
    lines, at = [], 0
    for name, value in fields_of(stream):
        for i in range(0, len(value), 16):
            line = f"{at + i:04x}  {value[i : i + 16].hex(' '):<47}  {'' if i else name}"
            lines.append(line.rstrip())
        at += len(value)
    return "\n".join(lines) + "\n"


def parse_dump(lines: str) -> bytes:
    """The stream of a dump."""
    stream = b""
    for line in lines.splitlines():
        match = re.fullmatch(r"([0-9a-f]{4})  ((?:[0-9a-f]{2} )*[0-9a-f]{2}) *(?:  \w+.*)?", line)
        if not match or int(match[1], 16) != len(stream):
            raise ValueError(f"not a line of a dump: {line!r}")
        stream += bytes.fromhex(match[2])
    return stream


# The trace of the minimal decoder


class Step(NamedTuple):
    """A choice of the coder: what is asked, bytes read and state before, frequency and number,
    state after.
    """

    asked: tuple[Any, ...]
    at: int
    before: int
    freq: int
    code: int
    after: int


class Trace(MINIMAL.Group):  # type: ignore[name-defined, misc]
    """A group that writes down its choices, and by name what its network computes."""

    def decode(self) -> np.ndarray:
        self.steps: list[Step] = []
        self.asked: tuple[Any, ...] = ("palette", "")
        self.values: dict[str, np.ndarray] = {}
        self.pixel = -1  # of a lossless image, whose values are named after it
        self.pixels = super().decode()
        return self.pixels

    def put(self, name: str, value: np.ndarray) -> None:
        """The values of image 0."""
        self.values[f"{name} {self.pixel}" if self.pixel >= 0 else name] = value[0].copy()

    def choose(self, table: list[int]) -> int:
        self.refill()
        before, c = self.state, super().choose(table)
        asked = ("stored", "") if len(self.steps) < self.count else self.asked
        self.steps.append(Step(asked, self.at, before, table[c + 1] - table[c], c, self.state))
        return c

    def byte(self) -> int:
        self.asked = ("byte", "")
        found = super().byte()
        self.asked = ("palette", "")
        return found

    def layer(self, name: str, x: np.ndarray, *limits: int, **named: int) -> np.ndarray:
        found = super().layer(name, x, *limits, **named)
        if len(x):  # else there is no image whose flag is asked
            self.put(f"in {name}", x)
            self.put(name, found)
        return found

    # lossy

    def residual(self, name: str, t: np.ndarray) -> np.ndarray:
        found = super().residual(name, t)
        self.put(f"t {name.rsplit('.', 1)[0]}", found)  # of the last block
        return found

    def latents(self, level: int, name: str, rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
        self.level = level
        found = super().latents(level, name, rows, mean)
        self.put(f"mean {level}", np.broadcast_to(mean, rows.shape))
        self.put(f"x {level}", found)
        return found

    def symbols(self, level: int, rows: np.ndarray) -> np.ndarray:
        first = len(self.steps)
        found = super().symbols(level, rows)
        by_image = rows.reshape(self.count, -1)
        for k, (s, i) in enumerate(np.argwhere(by_image.T).tolist(), first):
            asked = (level, s, i, int(by_image[i, s]))
            self.steps[k] = self.steps[k]._replace(asked=asked)
        self.put(f"row {level}", rows)
        self.put(f"symbols {level}", found)
        return found

    # lossless: of a single image

    def first(self, name: str, x: np.ndarray, added: np.ndarray, low: int = 0) -> np.ndarray:
        found = super().first(name, x, added, low)
        if len(x):
            self.put(f"added {name}", np.broadcast_to(added, found.shape[:2]))
            self.put(f"h {name}", found)
        return found

    def flag_logits(self, p: int, images: np.ndarray) -> np.ndarray:
        self.pixel, self.asked = p, ("flag", p)
        rows, columns = np.nonzero(self.seen[0, 6:, 6:-6])
        top = p // 28 - rows.min() if len(rows) else 28
        left = p % 28 - columns.min() + 27 if len(rows) else 55
        self.put("T L", np.array([[top, left]]))
        return super().flag_logits(p, images)

    def frequencies(self, p: int, images: np.ndarray, live: np.ndarray) -> np.ndarray:
        self.pixel, self.asked = p, ("value", p)
        found = super().frequencies(p, images, live)
        self.put("logit", self.values[f"head {p}"].T + self.palette_logits())
        self.put("freq", found)
        return found

    def palette_logits(self) -> np.ndarray:
        return self.model["palette.logits.table"][self.palette[:1]]


class Traced(NamedTuple):
    """A decoded stream: its pixels, and the trace of each message."""

    pixels: np.ndarray
    groups: list[Trace]


@cache
def traced(stream: bytes) -> Traced:
    """Decode with the minimal decoder.  Raises ValueError."""
    groups: list[Trace] = []

    def group(*parts: Any) -> Trace:
        groups.append(Trace(*parts))
        return groups[-1]

    plain, MINIMAL.Group = MINIMAL.Group, group
    try:
        return Traced(MINIMAL.decode(stream, ROOT / "weights"), groups)
    finally:
        MINIMAL.Group = plain


# The tables of values


def aligned(rows: list[list[object]], left: tuple[int, ...] = ()) -> str:
    """Rows as lines of columns, to the right but for those in `left`."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = []
    for row in cells:
        padded = [
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip() + "\n")
    return "".join(lines)


def crc(values: np.ndarray, dtype: str = "<i4") -> str:
    """CRC-32 of the values as little-endian int32, or as what is said."""
    return f"{zlib.crc32(np.ascontiguousarray(values, dtype).tobytes()):08x}"


def sample(values: np.ndarray, shown: int = 10) -> str:
    """The first values; if only a few are not 0, these, each after its place."""
    flat = values.ravel().tolist()
    inked = [f"{k}:{v}" for k, v in enumerate(flat) if v]
    if len(inked) <= shown and len(inked) < len(flat) // 4:
        return " ".join(inked) or "all 0"
    return " ".join(map(str, flat[:shown])) + (" ..." if len(flat) > shown else "")


def row_of(name: str, values: np.ndarray, shown: int = 10) -> list[object]:
    """The line of a table of values."""
    values = values.squeeze() if values.size > 1 else values.ravel()
    return [name, "x".join(map(str, values.shape)), crc(values), sample(values, shown)]


def values_of(rows: list[list[object]], most: int = 16) -> str:
    """The table, with at most so many values in a line."""
    lines: list[list[object]] = [["name", "shape", "CRC-32", "values"]]
    for *start, values in rows:
        words = str(values).split(" ")
        for k in range(0, len(words), most):
            lines.append([*(start if k == 0 else [""] * 3), " ".join(words[k : k + most])])
    return aligned(lines, left=(0, 3))


def state(number: int) -> str:
    return f"{number:08x}"


def coder_of(group: Trace, numbers: Iterable[int], head: list[str], cells: Callable) -> str:
    """The chosen steps of a message, and its end; `cells` are those of what is asked."""
    rows: list[list[object]] = [
        ["step", *head, "read", "state", "slot", "freq", "code", "state after"]
    ]
    for k in sorted({*numbers, len(group.steps) - 1}):
        step = group.steps[k]
        places = [step.at, state(step.before), step.before & 0xFFFF, step.freq, step.code]
        rows.append([k, *cells(step), *places, state(step.after)])
    end = [len(group.message), state(group.state), "", "", "", ""]
    rows.append(["end", *[""] * len(head), *end])
    return aligned(rows)


def lossy_coder(group: Trace, first: int = 8, later: int = 2) -> str:
    """The first steps of a lossy message, and the first ones of later levels."""
    numbers = list(range(min(first, len(group.steps))))
    levels = [step.asked[0] for step in group.steps]
    for level in sorted(set(levels)):
        at = levels.index(level)
        numbers += [k for k in range(at, at + later) if k < len(levels) and levels[k] == level]
    return coder_of(group, numbers, ["level", "s", "image", "row"], lambda step: step.asked)


def lossy_values(group: Trace) -> str:
    """What the network computes of a lossy image, in the order of 6.4."""
    found, rows = group.values, []

    def put(name: str, key: str, shown: int = 10) -> None:
        rows.append(row_of(name, found[key], shown))

    def level(i: int, prefix: str, shown: int) -> None:
        for name in ("mean", "row", "symbols"):
            put(f"{prefix}{name}", f"{name} {i}", shown)
        y = 256 * found[f"symbols {i}"] + found[f"mean {i}"]
        rows.append(row_of(f"{prefix}y", y, shown))
        put(f"{prefix}dequantize", f"x {i}", shown)

    level(0, "", 32)
    for name in ("start0", "start1", "widen"):
        put(name, name)
    stages = len(group.model["cdf"])
    for i in range(stages):
        if i == 0:
            for name in ("reduce", "spatial", "restore"):
                put(f"synthesis.0.0.{name}", f"synthesis.0.0.{name}")
        put(f"t after synthesis.{i}", f"t synthesis.{i}")
        if i < stages - 1:
            put(f"levels.{i}.prior0", f"levels.{i}.prior0")
            level(i + 1, f"levels.{i} ", 10)
            first = f"in synthesis.{i + 1}.0.reduce"
            put(f"t after levels.{i}.merge", first)
    put("z, output", "output")
    return values_of(rows) + "\n" + pixel_lines(group.pixels)


def pixel_lines(pixels: np.ndarray) -> str:
    """CRC-32 of the pixels and their first row with ink."""
    y = int(np.flatnonzero(pixels[0].any(axis=1))[0])
    row = " ".join(map(str, pixels[0, y].tolist()))
    return f"CRC-32 of the {pixels.size} bytes of pixels: {crc(pixels, 'u1')}\nrow {y}: {row}\n"


def valued(group: Trace) -> list[int]:
    """Pixels of a lossless image to look at: the first that has a value, the next one, and the
    first not 0 in the row below.
    """
    (inked,) = np.nonzero(group.pixels.ravel())
    first = int(inked[0])
    return [first, first + 1, int(inked[inked // 28 > first // 28][0])]


def lossless_coder(group: Trace) -> str:
    """The first steps of a lossless message, and those around the first value."""
    value = next(k for k, step in enumerate(group.steps) if step.asked[0] == "value")
    numbers = [*range(5), *range(value - 1, value + 7)]
    return coder_of(group, numbers, ["choice", "p"], lambda step: step.asked)


def stored_coder(group: Trace) -> str:
    """The first steps of a lossless message that holds a stored image, and those behind its
    bytes.
    """
    palette = next(k for k, step in enumerate(group.steps) if step.asked[0] == "palette")
    numbers = [*range(6), *range(palette - 1, palette + 3)]
    return coder_of(group, numbers, ["choice", "p"], lambda step: step.asked)


def flags_of(group: Trace) -> str:
    """Flags: the first two that are asked, that of the first value, and the next ones."""
    steps = [step for step in group.steps if step.asked[0] == "flag"]
    value = next(k for k, step in enumerate(steps) if step.code)
    rows: list[list[object]] = [
        ["p", "T", "L", "CRC of x", "CRC of added", "CRC of h", "logit", "z", "flag"]
    ]
    for step in [*steps[:2], *steps[value : value + 4]]:
        p = step.asked[1]
        logit = int(group.values[f"flag.logit {p}"].item())
        keys = ("in flag.window", "added flag.window", "h flag.window")
        checks = [crc(group.values[f"{key} {p}"]) for key in keys]
        zero = group.model["flag.zero_freq"][logit + 511]
        rows.append([p, *group.values[f"T L {p}"], *checks, logit, zero, step.code])
    return aligned(rows)


def lossless_values(group: Trace) -> str:
    """What the network computes for some pixels of a lossless image, in the order of 8.5."""
    sums = 84 + group.model["value.sums.ink.table"].shape[1]
    layers = sum(name.startswith("links.") for name in group.model) // 4
    parts = [
        ("f", "in value.input", slice(84)),
        ("clip((S.value + 16) >> 5)", "in value.input", slice(84, sums)),
        ("value.near.table", "in value.input", slice(sums, None)),
        ("added", "added value.input", slice(None)),
        ("h", "h value.input", slice(None)),
        *(
            (f"{name}.{j}",) * 2 + (slice(None),)
            for j in range(layers)
            for name in ("links", "hidden")
        ),
        ("max(h, 0)", "in head", slice(None)),
        ("logit", "logit", slice(None)),
        ("freq", "freq", slice(None)),
    ]
    tables = [flags_of(group)]
    for p in valued(group):
        found = {name: group.values[f"{key} {p}"].ravel()[part] for name, key, part in parts}
        logit, freq = found["logit"], found["freq"]
        best, value = int(logit.argmax()), int(group.pixels.ravel()[p])
        title = (
            f"p = {p}: best = {best}, logit[best] = {logit[best]}, freq[best] = {freq[best]}, "
            f"value {value}\n"
        )
        tables.append(title + values_of([row_of(name, x) for name, x in found.items()]))
    return "\n".join([*tables, pixel_lines(group.pixels)])


# The document


def other_form(pixels: np.ndarray) -> str:
    """The other form of a stored image."""
    stream = pack_image(ImageHeader(0, 101), pixels.tobytes(), b"")
    return f"the pixels themselves as payload: {len(stream)} bytes, Check {stream[5]:02x}\n"


def near_lossless_values(group: Trace) -> str:
    """Less than of a lossless image."""
    return flags_of(group) + "\n" + pixel_lines(group.pixels)


def group_lines(groups: list[Trace]) -> str:
    """The messages of a block, and the first steps of the second, which holds a stored image."""
    rows: list[list[object]] = [
        ["message", "images", "bytes", "steps", "first state", "final state"]
    ]
    for k, group in enumerate(groups):
        first = state(group.steps[0].before)
        sizes = [group.count, len(group.message), len(group.steps)]
        rows.append([k, *sizes, first, state(group.state)])
    return aligned(rows) + "\nmessage 1:\n" + stored_coder(groups[1])


TABLES: dict[tuple[str, str], Callable[[Traced], str]] = {
    ("coder", "image"): lambda found: lossy_coder(found.groups[0]),
    ("values", "image"): lambda found: lossy_values(found.groups[0]),
    ("coder", "lossless"): lambda found: lossless_coder(found.groups[0]),
    ("values", "lossless"): lambda found: lossless_values(found.groups[0]),
    ("coder", "near-lossless"): lambda found: lossless_coder(found.groups[0]),
    ("values", "near-lossless"): lambda found: near_lossless_values(found.groups[0]),
    ("values", "stored"): lambda found: other_form(found.pixels),
    ("coder", "collection"): lambda found: lossy_coder(found.groups[0], 6, 1),
    ("coder", "parts"): lambda found: group_lines(found.groups),
}  # the blocks beside the dump: of which sort, of which vector


def pattern_of(sort: str, kind: str) -> re.Pattern[str]:
    """What finds the lines of a block, or the digits behind a dump."""
    if sort == "pixels":
        dump = rf"^```dump {kind}\n(?:(?!```).*\n)*```\n\nPixels: "
        return re.compile(rf"({dump})([0-9a-f]*)(?=\n)", re.MULTILINE)
    return re.compile(rf"(^```{sort} {kind}\n)((?:(?!```).*\n)*)(?=```$)", re.MULTILINE)


def block_of(text: str, sort: str, kind: str) -> str:
    """The lines of a block of the document.  Raises ValueError unless there is just one."""
    ((_, lines),) = pattern_of(sort, kind).findall(text)
    return str(lines)


def stream_of(text: str, kind: str) -> bytes:
    """The stream of a dump in the document.  Raises ValueError."""
    return parse_dump(block_of(text, "dump", kind))


def blocks_of(kind: str, stream: bytes) -> dict[str, str]:
    """Sort of block -> what it must say.  Raises ValueError if the stream does not decode."""
    found = traced(stream)
    return {
        "dump": dump(stream),
        "pixels": hashlib.sha256(found.pixels.tobytes()).hexdigest(),
        **{sort: make(found) for (sort, of), make in TABLES.items() if of == kind},
    }


def written(text: str) -> str:
    """The document, with streams that decode and blocks that say what they give."""
    image = b""
    for kind in PIXELS:
        try:
            stream = hashed(image) if kind == "hash" else stream_of(text, kind)
            blocks = blocks_of(kind, stream)
        except ValueError:
            print(f"{kind}: its stream does not decode, made anew", file=sys.stderr)
            blocks = blocks_of(kind, stream := encoded(kind))
        image = image or stream  # the first one
        for sort, lines in blocks.items():
            text = pattern_of(sort, kind).sub(lambda m, new=lines: m[1] + new, text)
    return text


def main() -> None:
    """Write the blocks."""
    DOCUMENT.write_text(written(DOCUMENT.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
