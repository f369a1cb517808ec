"""CSV -> images: a row an image, 784 columns of pixels, and perhaps one of labels (`columns`).

READ ME FIRST
- The file is read twice. The first time finds the rows and takes their labels, the second one the
  pixels.
- Many rows are taken apart at once in numpy. What that does not understand (quotes, spaces,
  fractions, faults) goes through the csv module, row by row, which also says what is wrong.
- Nothing is guessed: a row with another number of columns, or a field that is no whole number
  0..255, is an error that names the line. Empty lines are no rows.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from codec.arrays import PIXELS, U8
from codec.errors import ImageError
from codec.files.batch import (
    ASK_SCALE,
    READING,
    ImageSource,
    Reading,
    exact,
    gunzipped,
    image_errors,
    name_of,
    opened,
)
from codec.files.columns import columns_of
from codec.files.labels import of_texts

MAX_LINE_BYTES = 1 << 18  # of 785 columns, with room for long fractions
CHUNK_ROWS = 512  # taken apart at once
_PIXEL = re.compile(r" *0*(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9]) *")
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_FRACTION = re.compile(r"\s*\+?\d*(\.\d*([eE][+-]?\d+)?|[eE][+-]?\d+)\s*", re.ASCII)

_OTHER_MARKS = {b";": "semicolons", b"\t": "tabs", b"|": "bars"}  # that could separate columns

Row = tuple[int, bytes]  # number of the line, from 1 on, and the line


class TableSource(ImageSource):
    """The images of a CSV file.  file: seekable."""

    def __init__(self, file: BinaryIO, num_bytes: int, name: str, reading: Reading) -> None:
        super().__init__(name)
        self._file, self._scale, self.num_bytes = file, reading.scale, num_bytes
        self._has_header = False
        first = next(self._rows(), None)
        if first is None:
            raise ImageError(f"{name}: is empty, aez takes rows of {PIXELS} pixels")
        fields = self._fields(first)
        if len(fields) == 1:
            marks = [called for mark, called in _OTHER_MARKS.items() if mark in first[1]]
            found = f"line {first[0]} has no comma" + (f", but {marks[0]}" if marks else "")
            raise ImageError(f"{name}: {found}; aez takes columns that commas separate")
        self._has_header, self._count = _is_header(fields), len(fields)
        self._called = (
            [field.strip() for field in fields]
            if self._has_header
            else [f"{i + 1}" for i in range(len(fields))]
        )
        self._columns = columns_of(
            fields if self._has_header else None, len(fields), reading.labels, name
        )
        self.left = [f"column {each}" for each in self._columns.left]
        pixels = self._columns.pixels
        self._order = np.argsort(np.argsort(pixels))
        self._is_plain = self._scale is None and max(pixels) - min(pixels) == PIXELS - 1
        if self._columns.label is None:
            self.num_images = sum(1 for _ in self._whole_rows())
        else:
            texts = list(self._texts(self._columns.label))
            if all(map(_NUMBER.fullmatch, set(texts))):
                texts = [text.strip() for text in texts]
            self.num_images = len(texts)
            if not self._has_header and reading.labels is None:
                self._check_first(texts)
            labels = of_texts(texts, name, lambda i: f"line {self._line(i)}")
            if not self._has_header and reading.labels is None:
                self.notes.append(
                    f"has no names of columns; --labels {self._count} takes labels from the last"
                )
            self.label_with(labels, f"column {self._called[self._columns.label]}")

    def _check_first(self, texts: list[str]) -> None:
        """Raise ImageError if it may be the last column, not the first, that has the labels."""
        last = self._count
        if len(set(texts)) == 1 and len(set(self._texts(last - 1))) > 1:
            raise ImageError(
                f"{self.name}: columns have no names, and column 1 is {texts[0]} everywhere: is it "
                f"the label (--labels 1), or is that the last one (--labels {last})?"
            )

    def _rows(self) -> Iterator[Row]:
        """The lines that are rows, without the one of names."""
        self._file.seek(0)
        number, is_row = 0, not self._has_header
        while line := self._file.readline(MAX_LINE_BYTES + 1):
            if len(line) > MAX_LINE_BYTES:
                raise ImageError(f"{self.name}: line {number + 1} has over {MAX_LINE_BYTES} bytes")
            number += 1
            line = line.strip() if number > 1 else line.removeprefix(BOM_UTF8).strip()
            if line and is_row:
                yield number, line
            is_row |= bool(line)

    def _whole_rows(self) -> Iterator[Row]:
        """The rows, each with as many fields as the first.  Raises ImageError."""
        for row in self._rows():
            if row[1].count(b",") != self._count - 1 or b'"' in row[1]:
                self._checked_fields(row)
            yield row

    def _line(self, row: int) -> int:
        """The number of the line of a row."""
        return next(islice(self._rows(), row, None))[0]

    def _fields(self, row: Row) -> list[str]:
        try:
            return next(csv.reader([row[1].decode()], strict=True))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ImageError(f"{self.name}: line {row[0]} {_in_words(error, row[1])}") from None

    def _checked_fields(self, row: Row) -> list[str]:
        fields = self._fields(row)
        if len(fields) != self._count:
            raise ImageError(
                f"{self.name}: line {row[0]} has {len(fields)} columns, the first one {self._count}"
            )
        return fields

    def _texts(self, column: int) -> Iterator[str]:
        """The fields of one column."""
        behind = self._count - column
        for row in self._whole_rows():
            if b'"' in row[1] or not row[1].isascii():
                field = self._fields(row)[column]
            elif column < behind:
                field = row[1].split(b",", column + 1)[column].decode()
            else:
                field = row[1].rsplit(b",", behind)[-behind].decode()
            # in quotes, spaces belong to a text; equal ones are in memory once
            yield sys.intern(field if b'"' in row[1] else field.strip())

    def _read(self, size: int, start: int) -> Iterator[U8]:
        rows = islice(self._rows(), start * size, None)
        num_images = start * size
        while block := list(islice(rows, size)):
            num_images += len(block)
            chunks = (block[i : i + CHUNK_ROWS] for i in range(0, len(block), CHUNK_ROWS))
            yield np.concatenate([self._pixels(chunk) for chunk in chunks])
        if num_images != self.num_images:
            raise ImageError(f"{self.name}: changed while it was read")

    def _pixels(self, rows: list[Row]) -> U8:
        """-> uint8 (N, 784)."""
        found = self._plain_pixels([line for _, line in rows]) if self._is_plain else None
        if found is not None:
            return found[:, self._order]
        values = np.array([self._values(row) for row in rows])
        return exact(values, self._scale, self.name, lambda i: f"line {rows[i][0]}")

    def _plain_pixels(self, lines: list[bytes]) -> U8 | None:
        """The same of rows of nothing but digits and commas, in the order of the file; else None.

        Other columns may come before or after the pixels.
        """
        before = min(self._columns.pixels)
        behind = self._count - PIXELS - before
        try:
            if before:
                lines = [line.split(b",", before)[before] for line in lines]
            if behind:
                lines = [line.rsplit(b",", behind)[0] for line in lines]
        except IndexError:
            return None
        text = np.frombuffer(b"\n".join(lines) + b"\n", np.uint8)
        ends = np.flatnonzero(text < ord("0"))  # of the fields
        if len(ends) != len(lines) * PIXELS or text.max() > ord("9"):
            return None
        marks = text[ends].reshape(-1, PIXELS)
        sizes = np.diff(ends, prepend=-1) - 1
        is_plain = (marks[:, :-1] == ord(",")).all() and (marks[:, -1] == ord("\n")).all()
        if not is_plain or sizes.min() < 1 or sizes.max() > 3:
            return None
        digits = text - np.uint8(ord("0"))
        values = digits[ends - 1].astype(np.uint16)
        values += (sizes > 1) * digits[ends - 2] * np.uint16(10)
        values += (sizes > 2) * digits[ends - 3] * np.uint16(100)
        return None if values.max() > 255 else values.astype(np.uint8).reshape(-1, PIXELS)

    def _values(self, row: Row) -> list[int] | list[float]:
        """The pixels of one row, in their order: whole numbers, or any for a scale."""
        fields = self._checked_fields(row)
        pixels = [fields[column] for column in self._columns.pixels]
        pattern = _NUMBER if self._scale else _PIXEL
        if not all(map(pattern.fullmatch, pixels)):
            at = next(i for i, field in enumerate(pixels) if not pattern.fullmatch(field))
            wanted = "a number" if self._scale else "a whole number 0..255"
            if _FRACTION.fullmatch(pixels[at]):
                wanted += f"; {ASK_SCALE}"
            column = self._called[self._columns.pixels[at]]
            found = f"line {row[0]}, column {column}: {pixels[at][:40]!r}"
            raise ImageError(f"{self.name}: {found}, aez takes {wanted}")
        return list(map(float, pixels)) if self._scale else list(map(int, pixels))


def _in_words(error: Exception, line: bytes) -> str:
    """Why a line cannot be taken apart."""
    if isinstance(error, UnicodeDecodeError):
        return "is not UTF-8: save the file as UTF-8"
    if b"\r" in line:
        return "has a CR within: lines end in LF or CR LF"
    if "unexpected end" in str(error):
        return "has a quote that is not closed: a row is one line"
    return f"is not CSV: {error}"


def _is_header(fields: list[str]) -> bool:
    """Whether the first row has names: two that are no numbers, or numbers that count up."""
    numbers = [field for field in fields if _NUMBER.fullmatch(field)]
    if len(numbers) < len(fields) - 1:
        return True
    counted = range(len(numbers)), range(1, len(numbers) + 1)
    return len(numbers) >= PIXELS and numbers in [[*map(str, each)] for each in counted]


@contextmanager
def open_table(
    source: Path | BinaryIO, name: str | None = None, reading: Reading = READING
) -> Iterator[TableSource]:
    """Open a CSV file, gzipped or not.  source, name: as for `read_array`.  Raises ImageError.

    reading.labels: the column of the labels, by name or number; see `columns_of`.
    """
    name = name or name_of(source)
    with ExitStack() as stack:
        with image_errors(name):
            file = stack.enter_context(opened(source))
            num_bytes = file.seek(0, io.SEEK_END)
            file.seek(0)
            lines = stack.enter_context(gunzipped(file))
            table = TableSource(lines, num_bytes, name, reading)
        yield table
