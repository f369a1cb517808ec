"""Files of labels -> labels: IDX1, NPY, NPZ of one array, CSV, or text of one label a line.

Each can be gzipped; the content decides, but for CSV, which is told from text by its name.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from codec.errors import ImageError, UsageError
from codec.files.arrays import idx_header, npy_header
from codec.files.batch import gunzipped, image_errors, name_of, opened, read_exactly
from codec.labels import MAX_LABEL, WANTED, Labels, checked, fault_of

# What a column of labels is called, in lower case.
COLUMN_NAMES = ("label", "labels", "class", "target", "y", "digit")
MAX_BYTES = 1 << 28  # of a file of labels
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)", re.IGNORECASE)

_INTEGER = re.compile(r"0|[1-9][0-9]{0,9}")
_ZEROS = re.compile(r"0[0-9]+")


def read_labels(source: Path | BinaryIO, name: str | None = None) -> Labels:
    """Read a file of labels.  source, name: as for `read_array`.  Raises ImageError."""
    name = name or name_of(source)
    with image_errors(name), opened(source) as packed, gunzipped(packed) as file:
        content = bytes(read_exactly(file, MAX_BYTES + 1))
        if len(content) > MAX_BYTES:
            raise ImageError(f"{name}: has over {MAX_BYTES} bytes, too many for labels")
        if content.startswith(b"PK"):
            content = _only_array(content, name)
        try:
            if content.startswith(b"\x93NUM") or (content[:2] == b"\0\0" and content[3:4] == b"\1"):
                return _array(content, name)
        except UsageError as error:
            raise ImageError(f"{name}: {error}") from None
        text = content.decode("utf-8-sig")
        if name.lower().removesuffix(".gz").endswith(".csv"):
            return _column(text, name)
        # not `splitlines`, which takes more than ends of lines for such
        texts = text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []
        return of_texts(texts, name, lambda i: f"line {i + 1}")


def names_beside(images: str) -> list[str]:
    """What the file of labels beside a file of images would be called, by the standard names.

    `train-images-idx3-ubyte.gz` -> `train-labels-idx1-ubyte.gz`, `train-labels-idx1-ubyte`
    """
    found = re.fullmatch(r"(.*)images([-.])idx3-ubyte(\.gz)?", images)
    if found is None:
        return []
    stem, mark, packed = found.groups()
    labels = f"{stem}labels{mark}idx1-ubyte"
    return [f"{labels}.gz", labels] if packed else [labels, f"{labels}.gz"]


def of_folders(names: Sequence[str], file: str) -> Labels:
    """The folder that each image is in as its label: integers if all are written as such.

    Raises ImageError if one is in none.
    """
    folders = [name.rpartition("/")[0].rpartition("/")[2] for name in names]
    if "" in folders:
        at = folders.index("")
        raise ImageError(
            f"{file}: {names[at]} is in no folder: --labels folders needs one an image"
        )
    if all(_INTEGER.fullmatch(folder) and int(folder) <= MAX_LABEL for folder in set(folders)):
        return np.array([int(folder) for folder in folders], np.int64)
    return folders


def _only_array(content: bytes, name: str) -> bytes:
    import zipfile

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        (*others, member) = archive.infolist()
        if others:
            raise ImageError(f"{name}: {len(others) + 1} arrays, aez takes one of labels")
        with archive.open(member) as file:
            return bytes(read_exactly(cast(BinaryIO, file), MAX_BYTES))


def _array(content: bytes, name: str) -> Labels:
    file = io.BytesIO(content)
    header = npy_header(file) if content[0] else idx_header(file, name)
    if header.dtype.hasobject:
        raise ImageError(f"{name}: {header}, aez takes integers or texts")
    if header.offset + header.num_bytes != len(content):
        there = len(content) - header.offset
        raise ImageError(f"{name}: claims {header.num_bytes} bytes of labels, but has {there}")
    values = np.frombuffer(content, header.dtype, math.prod(header.shape), header.offset)
    return checked(values if header.shape[1:] == (1,) else values.reshape(header.shape))


def _column(text: str, name: str) -> Labels:
    """The column of a CSV file that is called as labels are, or the only one."""
    rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    names = [field.strip().lower() for field in rows[0]] if rows else []
    column = next((names.index(each) for each in COLUMN_NAMES if each in names), None)
    if column is None and len(names) > 1:
        known = ", ".join(COLUMN_NAMES)
        raise ImageError(f"{name}: {len(names)} columns, none is called one of {known}")
    first = 0 if column is None else 1
    texts = []
    for number, row in enumerate(rows[first:], first + 1):
        if len(row) != len(names):
            raise ImageError(f"{name}: row {number} has {len(row)} columns, not {len(names)}")
        texts.append(row[column or 0].strip())
    return of_texts(texts, name, lambda i: f"row {i + first + 1}")


def of_texts(texts: Sequence[str], name: str, called: Callable[[int], str]) -> Labels:
    """Labels as they stand in a text: integers if all of them are, else texts.

    name: of the file; called: what messages call label number i. `007` is a text: as an integer it
    would come back as 7. Raises ImageError for labels that are numbers but no integers from 0 on,
    and for texts that are no labels.
    """
    distinct = dict.fromkeys(texts)
    if all(map(_NUMBER.fullmatch, distinct)):
        wrong = {
            text: f"is {text}, wanted {WANTED}"
            for text in distinct
            if not _ZEROS.fullmatch(text)
            and not (_INTEGER.fullmatch(text) and int(text) <= MAX_LABEL)
        }
    else:
        wrong = {text: fault for text in distinct if (fault := fault_of(text))}
    if wrong:
        at = next(i for i, text in enumerate(texts) if text in wrong)
        raise ImageError(f"{name}: {called(at)}: the label {wrong[texts[at]]}")
    if all(map(_INTEGER.fullmatch, distinct)):
        return np.array([int(text) for text in texts], np.int64)
    return list(texts)
