"""Files of labels -> labels: IDX1, NPY, NPZ of one array, CSV, or text of one label a line.

Each can be gzipped; the content decides, but for CSV, which is told from text by its name.

The labels stand in the order of the images. Of a CSV file that has a column with the names of the
images, the order does not matter: each image gets the label in the row of its name.
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

from codec.errors import ImageError, UsageError, counted
from codec.files import foreign
from codec.files.arrays import IDX_TYPES, idx_header, npy_header
from codec.files.batch import gunzipped, image_errors, name_of, opened, read_exactly
from codec.files.names import bare
from codec.labels import MAX_LABEL, WANTED, Labels, checked, fault_of

# What a column of labels is called, in lower case.
COLUMN_NAMES = ("label", "labels", "class", "target", "y", "digit")
MAX_BYTES = 1 << 28  # of a file of labels
IDX_ENDING = "-idx3-ubyte"  # of names of IDX files that have no suffix
_NUMBER = re.compile(
    r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)", re.IGNORECASE | re.ASCII
)

_INTEGER = re.compile(r"0|[1-9][0-9]{0,9}")
_ZEROS = re.compile(r"0[0-9]+")


def read_labels(source: Path | BinaryIO, name: str | None = None) -> Labels:
    """Read a file of labels.  source, name: as for `read_array`.  Raises ImageError."""
    return read_labels_of(None, source, name)[0]


def read_labels_of(
    images: Sequence[str] | None, source: Path | BinaryIO, name: str | None = None
) -> tuple[Labels, str]:
    """As `read_labels`, of images with these names, if they have any.

    Also returns how the labels were found, to be said after the name of the file.
    """
    name = name or name_of(source)
    with image_errors(name), opened(source) as packed, gunzipped(packed) as file:
        content = bytes(read_exactly(file, MAX_BYTES + 1))
        if len(content) > MAX_BYTES:
            raise ImageError(f"{name}: has over {MAX_BYTES} bytes, too many for labels")
        if content.startswith(b"PK"):
            content = _only_array(content, name)
        if content.startswith((b"\x93NUM", *(bytes([0, 0, kind]) for kind in IDX_TYPES))):
            try:
                return _array(content, name), ""
            except UsageError as error:
                raise ImageError(f"{name}: {error}") from None
        if foreign.named(head := content[: foreign.HEAD_BYTES]):
            raise ImageError(f"{name}: {foreign.instead_of('a file of labels', head)}")
        text = _decoded(content, name)
        if name.lower().removesuffix(".gz").endswith(".csv"):
            return _column(text, name, images)
        # not `splitlines`, which takes more than ends of lines for such
        texts = text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []
        return of_texts(texts, name, lambda i: f"line {i + 1}"), ""


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ImageError(f"{name}: line {line} is not UTF-8: save the file as UTF-8") from None


def labels_name(images: str) -> str:
    """What the IDX file of labels is called beside one of images: `t10k-images-idx3-ubyte` ->
    `t10k-labels-idx1-ubyte`, `x.idx` -> `x-labels.idx`.
    """
    before, found, after = images.rpartition("images")
    if not found:
        at = images.rfind(IDX_ENDING)
        at = images.rfind(".") if at < 0 else at
        before, after = images[:at] + "-", images[at:]
    return f"{before}labels{after.replace('idx3', 'idx1')}"


def names_beside(images: str) -> list[str]:
    """What the file of labels beside an IDX file would be called, gzipped or not.

    `train-images-idx3-ubyte.gz` -> `train-labels-idx1-ubyte.gz`, `train-labels-idx1-ubyte`
    """
    found = re.fullmatch(r"(.+(?:\.idx3?|[-.]idx3-ubyte))(\.gz)?", images)
    if found is None:
        return []
    stem, packed = found.groups()
    labels = labels_name(stem)
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
        members = archive.infolist()
        if len(members) != 1:
            raise ImageError(
                f"{name}: has {counted(len(members), 'array')}, aez takes one of labels"
            )
        with archive.open(members[0]) as file:
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


def _column(text: str, name: str, images: Sequence[str] | None) -> tuple[Labels, str]:
    """The column of a CSV file that is called as labels are, or the only one."""
    rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    names = [field.strip().lower() for field in rows[0]] if rows else []
    column = next((names.index(each) for each in COLUMN_NAMES if each in names), None)
    if column is None and len(names) > 1:
        known = ", ".join(COLUMN_NAMES)
        raise ImageError(f"{name}: {len(names)} columns, none is called one of {known}")
    first = 0 if column is None else 1
    for number, row in enumerate(rows[first:], first + 1):
        if len(row) != len(names):
            raise ImageError(f"{name}: row {number} has {len(row)} columns, not {len(names)}")
    texts = [row[column or 0] for row in rows[first:]]
    if '"' not in text or all(_NUMBER.fullmatch(each.strip()) for each in texts):
        texts = [each.strip() for each in texts]  # in quotes, spaces belong to a text
    _check_first(texts, name, has_name=column is not None)
    numbers, how = list(range(len(texts))), ""
    if images is not None and len(names) > 1:
        others = {
            called or f"number {n + 1}": [row[n].strip() for row in rows[1:]]
            for n, called in enumerate(names)
            if n != column
        }
        numbers, how = _rows_of(images, others, name)
        texts = [texts[number] for number in numbers]
    return of_texts(texts, name, lambda i: f"row {numbers[i] + first + 1}"), how


def _check_first(texts: list[str], name: str, *, has_name: bool) -> None:
    """Raise ImageError if the first label of a column without a name looks like a name."""
    if has_name or len(texts) < 2 or _NUMBER.fullmatch(texts[0]):
        return
    if all(map(_NUMBER.fullmatch, texts[1:])):
        raise ImageError(
            f"{name}: row 1 is {texts[0][:40]!r} and all others are numbers; a column of labels is "
            f"called one of {', '.join(COLUMN_NAMES)}, or has no name"
        )


# How a column may name images: by path, file or stem; 7 for 00007.png.
_KEYS: tuple[Callable[[str], str], ...] = (
    str,
    lambda image: image.rpartition("/")[2],
    bare,
    lambda image: bare(image).rpartition("/")[2],
    lambda image: bare(image).rpartition("/")[2].lstrip("0") or "0",
)


def _rows_of(
    images: Sequence[str], columns: dict[str, list[str]], file: str
) -> tuple[list[int], str]:
    """The row of each image, by the column that has their names; else the rows as they are.

    columns: those beside the labels, by name. Raises ImageError if a column names some of the
    images.
    """
    fault = ""
    for called, values in columns.items():
        rows = {value: number for number, value in enumerate(values)}
        for key in _KEYS:
            wanted = [key(image) for image in images]
            missing = [at for at, each in enumerate(wanted) if each not in rows]
            if len(missing) == len(images) or len(set(wanted)) < len(wanted):
                continue
            if not missing and len(values) == len(wanted):
                return [rows[each] for each in wanted], f", by its column {called}"
            found = f"has no {images[missing[0]]}" if missing else "has more rows than images"
            fault = fault or f"{file}: the column {called} {found}"
    if fault:
        raise ImageError(f"{fault}; aez takes one row for each image")
    return list(range(len(next(iter(columns.values()))))), ", in the order of its rows"


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
