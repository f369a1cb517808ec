"""Parquet -> images: a column of image files or of pixels, or 784 columns of pixels.

READ ME FIRST
- A column of image files is what Hugging Face writes: structs of `bytes` and `path`, or plain
  bytes. A column of pixels has lists, of 784 values or of 28 lists of 28; of a table, 784 columns
  are called as in CSV (`columns`).
- Rows are read as they are needed, page by page; the labels and names of all of them are in memory.
- `path` gives the images names if every row has a good one of its own.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from codec.arrays import PIXELS, SIDE, U8
from codec.errors import ImageError, UsageError
from codec.files.batch import (
    CHUNK_BYTES,
    MAX_CONTENT_BYTES,
    READING,
    Contents,
    ImageSource,
    Reading,
    exact,
    image_errors,
    listing,
    name_of,
    opened,
)
from codec.files.columns import columns_of, pixel_columns
from codec.files.labels import COLUMN_NAMES
from codec.files.names import Claims
from codec.labels import checked

# pyarrow is imported only where it is needed
Type: TypeAlias = Any
Schema: TypeAlias = Any
Column: TypeAlias = Any
RecordBatch: TypeAlias = Any

READ_ROWS = 4096  # at once, of names and labels
IMAGE_NAMES = ("image", "img", "images", "pixels", "png")  # of several such columns, the first one


class ParquetSource(ImageSource):
    """The images of a Parquet file.  file: seekable."""

    def __init__(self, file: BinaryIO, num_bytes: int, name: str, reading: Reading) -> None:
        import pyarrow.parquet

        super().__init__(name)
        # page by page, instead of whole row groups ahead of time
        self._parquet = pyarrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=CHUNK_BYTES)
        self._scale, self.num_bytes = reading.scale, num_bytes
        self.num_images = self._parquet.metadata.num_rows
        schema = self._parquet.schema_arrow
        image = _image_column(schema, reading.array, name)
        if image is None:
            if not pixel_columns(schema.names):
                raise ImageError(f"{name}: has no images; {_holding(schema)}")
            found = columns_of(schema.names, len(schema.names), reading.labels, name)
            self._columns = [schema.names[i] for i in found.pixels]
            label = None if found.label is None else schema.names[found.label]
        else:
            self._columns, label = [image], _label_column(schema, reading.labels)
            if _is_file_struct(schema.field(image).type):
                self._take_names(image)
        self.left += [
            f"column {each}" for each in schema.names if each not in (label, *self._columns)
        ]
        if label is not None:
            self._take_labels(label)

    def called(self, number: int) -> str:
        return f"row {number}"

    def _take_names(self, image: str) -> None:
        """Name the images by their paths; without `Claims`, say that these are not stored."""
        paths: list[Any] = []
        for batch in self._batches([f"{image}.path"], 0, READ_ROWS):
            paths += _field(batch.column(0), "path").to_pylist()
        if not any(paths):
            return
        try:
            if not all(paths):
                raise UsageError("some rows have none")
            Claims().add(paths)
            self.names = paths
        except UsageError as error:
            self.left.append(f"{image}.path ({error})")

    def _take_labels(self, label: str) -> None:
        """Raises ImageError."""
        found: list[Any] = []
        row = 0
        for batch in self._batches([label], 0, READ_ROWS):
            column = batch.column(0)
            _check_nulls(column, row, f"{self.name}: column {label}")
            row += len(column)
            # equal texts are in memory once
            found += [
                sys.intern(text) if isinstance(text, str) else text for text in column.to_pylist()
            ]
        try:
            self.label_with(checked(found), f"column {label}")
        except UsageError as error:
            raise ImageError(
                f"{self.name}: column {label}: {error}; --labels none leaves labels out"
            ) from None
        classes = _class_names(self._parquet.schema_arrow, label)
        if classes != [str(i) for i in range(len(classes))]:
            self.left.append(f"the names of the classes in {label} ({listing(classes)})")

    def _batches(self, columns: list[str], start: int, size: int) -> Iterator[RecordBatch]:
        """The rows from number `start` on, at most `size` at a time."""
        groups: list[int] = []
        metadata = self._parquet.metadata
        for number in range(metadata.num_row_groups):
            num_rows = metadata.row_group(number).num_rows
            if groups or start < num_rows:
                groups.append(number)
            else:
                start -= num_rows
        for batch in self._parquet.iter_batches(size, groups, columns):
            skipped = min(start, batch.num_rows)
            start -= skipped
            if skipped < batch.num_rows:
                yield batch.slice(skipped)

    def _read(self, size: int, start: int) -> Iterator[U8 | Contents]:
        row = start * size
        waiting: Any = None
        for batch in self._batches(self._columns, row, size):
            found = self._images(batch, row)
            row += batch.num_rows
            if waiting is None or not len(waiting):
                waiting = found
            else:
                waiting = (
                    waiting + found if isinstance(found, list) else np.concatenate([waiting, found])
                )
            while len(waiting) >= size:
                yield waiting[:size]
                waiting = waiting[size:]
        if waiting is not None and len(waiting):
            yield waiting

    def _images(self, batch: RecordBatch, row: int) -> U8 | Contents:
        """The images of a batch, whose first row has the number `row`."""
        if len(self._columns) > 1:
            for column in batch.columns:
                _check_nulls(column, row, self.name)
            columns = [column.to_numpy(zero_copy_only=False) for column in batch.columns]
            values = np.stack(
                [columns[batch.schema.get_field_index(each)] for each in self._columns], 1
            )
        elif _is_list(batch.column(0).type):
            values = self._flat(batch.column(0), row)
        else:
            return self._contents(batch.column(0), row)
        return exact(values, self._scale, self.name, lambda i: f"row {row + i}")

    def _contents(self, column: Column, row: int) -> Contents:
        if _is_file_struct(column.type):
            paths, column = _field(column, "path"), _field(column, "bytes")
            if column.null_count:
                at = _first_null(column)
                path = paths[at].as_py()
                there = "it is null" if path is None else f"only the path {path[:80]!r}"
                said = f"row {row + at} has no image, {there}"
                raise ImageError(f"{self.name}: {said}; aez takes the bytes of image files")
        _check_nulls(column, row, self.name)
        contents = column.to_pylist()
        for i, content in enumerate(contents):
            if len(content) > MAX_CONTENT_BYTES:
                raise ImageError(
                    f"{self.name}: row {row + i} has {len(content)} bytes, "
                    f"an image of {SIDE}x{SIDE} needs at most {MAX_CONTENT_BYTES}"
                )
        return contents  # type: ignore[no-any-return]

    def _flat(self, column: Column, row: int) -> Any:
        """Lists, or lists of lists -> (N, 784)."""
        import pyarrow.compute

        num_rows, per_row = len(column), 1
        while _is_list(column.type):
            lengths = pyarrow.compute.list_value_length(column).to_numpy(zero_copy_only=False)
            other = lengths != lengths[0]  # null is NaN, and differs from itself
            if other.any():
                at = row + int(np.argmax(other)) // per_row
                raise ImageError(f"{self.name}: row {at} has another number of pixels, or none")
            per_row *= int(lengths[0])
            column = column.flatten()
        if per_row != PIXELS:
            raise ImageError(f"{self.name}: row {row} has {per_row} pixels, aez takes {PIXELS}")
        _check_nulls(column, row, self.name, per_row)
        return column.to_numpy(zero_copy_only=False).reshape(num_rows, PIXELS)


def _field(column: Column, field: str) -> Any:
    import pyarrow.compute

    return pyarrow.compute.struct_field(column, field)


def _check_nulls(column: Column, row: int, name: str, per_row: int = 1) -> None:
    if column.null_count:
        raise ImageError(f"{name}: row {row + _first_null(column) // per_row} is null")


def _first_null(column: Column) -> int:
    return int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))


def _is_binary(type_: Type) -> bool:
    from pyarrow import types

    return bool(types.is_binary(type_) or types.is_large_binary(type_))


def _is_file_struct(type_: Type) -> bool:
    """Whether this is what Hugging Face writes for images."""
    from pyarrow import types

    if not types.is_struct(type_) or type_.get_field_index("bytes") < 0:
        return False
    return _is_binary(type_.field("bytes").type) and type_.get_field_index("path") >= 0


def _is_list(type_: Type) -> bool:
    from pyarrow import types

    kinds = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    return any(is_kind(type_) for is_kind in kinds)


def _are_pixels(type_: Type) -> bool:
    """Whether this is a list of numbers, or a list of such."""
    from pyarrow import types

    while _is_list(type_):
        type_ = type_.value_type
        if types.is_integer(type_) or types.is_floating(type_) or types.is_boolean(type_):
            return True
    return False


def _image_column(schema: Schema, wanted: str | None, name: str) -> str | None:
    """The column of images; None: each pixel has a column.  Raises ImageError."""
    files = [
        field.name for field in schema if _is_binary(field.type) or _is_file_struct(field.type)
    ]
    found = files or [field.name for field in schema if _are_pixels(field.type)]
    if wanted is not None:
        if wanted not in schema.names:
            raise ImageError(f"{name}: has no column {wanted}; it holds {listing(schema.names)}")
        type_ = schema.field(wanted).type
        if not (_is_binary(type_) or _is_file_struct(type_) or _are_pixels(type_)):
            raise ImageError(
                f"{name}: column {wanted} is {type_}; aez takes image files in bytes, and lists of "
                "pixels"
            )
        return wanted
    if len(found) > 1:
        named = [each for each in IMAGE_NAMES if each in found]
        if not named:
            raise ImageError(f"{name}: images in {listing(found)}? --array NAME takes one of them")
        return named[0]
    return found[0] if found else None


def _holding(schema: Schema) -> str:
    """What is taken, and what is there instead."""
    there = listing([f"{field.name} ({field.type})" for field in schema]) or "nothing"
    return (
        "aez takes a column of image files (as bytes) or of lists of pixels, or "
        f"{PIXELS} columns pixel0, pixel1, ...; it holds {there}"
    )


def _label_column(schema: Schema, labels: str | None) -> str | None:
    if labels is not None:
        return labels if labels in schema.names else None
    lower = {each.lower(): each for each in reversed(schema.names)}
    return next((lower[each] for each in COLUMN_NAMES if each in lower), None)


def _class_names(schema: Schema, label: str) -> list[str]:
    """What Hugging Face says the integers of a column stand for; [] if it does not."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [str(each) for each in features[label]["names"]]
    except (KeyError, TypeError, ValueError):
        return []


@contextmanager
def open_parquet(
    source: Path | BinaryIO, name: str | None = None, reading: Reading = READING
) -> Iterator[ParquetSource]:
    """Open a Parquet file.  source, name: as for `read_array`.  Raises ImageError, UsageError.

    reading.array: the column of images, if there are several; reading.labels: that of their labels.
    """
    name = name or name_of(source)
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise UsageError(f'{name}: Parquet needs pyarrow: pip install "aez[parquet]"') from None
    with ExitStack() as stack:
        with image_errors(name):
            file = stack.enter_context(opened(source))
            num_bytes = file.seek(0, io.SEEK_END)
            parquet = ParquetSource(file, num_bytes, name, reading)
        yield parquet
