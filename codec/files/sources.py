"""Files of many images, of every kind: arrays, tables and archives.

    with open_source(path) as source:
        for batch in source.batches(4096): ...

The content decides which reader a file gets; a CSV file is known by its name, or by its commas.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from codec.arrays import U8
from codec.errors import ImageError
from codec.files import foreign
from codec.files.arrays import IDX_TYPES, open_array
from codec.files.batch import (
    READING,
    Batch,
    ImageSource,
    Reading,
    gunzipped,
    image_errors,
    name_of,
    opened,
)
from codec.files.images import read_image
from codec.files.kinds import ARRAY_ENDINGS

Opener = Callable[[Path | BinaryIO, str, Reading], AbstractContextManager[ImageSource]]

HEAD_BYTES = 512  # of a file, unzipped: the first header of a TAR archive
MANY_COMMAS = 16  # among so many bytes
ANY_KIND = "a file of many images"
_PROMISED = {  # by the ending of its name
    (".zip",): "a ZIP archive",
    (".tar", ".tar.gz", ".tgz"): "a TAR archive",
    (".parquet",): "a Parquet file",
    (".csv", ".csv.gz"): "a CSV file",
    (".npz",): "an NPZ file",
    (".npy", ".npy.gz"): "an NPY file",
    ARRAY_ENDINGS: "an IDX file",
}


@contextmanager
def open_source(
    source: Path | BinaryIO, name: str | None = None, reading: Reading = READING
) -> Iterator[ImageSource]:
    """Open a file of many images.  Raises ImageError, UsageError.

    source: a path, or a stream, which is read from its beginning; name: of the file in messages, by
    default its path.
    """
    name = name or name_of(source)
    with image_errors(name), opened(source) as file:
        head = _head(file)
    if not head:
        raise ImageError(f"{name}: is empty")
    opener = None if foreign.is_placeholder(head) else _opener(head, name)
    if opener is None:
        lower = name.lower()
        promised = (kind for endings, kind in _PROMISED.items() if lower.endswith(endings))
        raise ImageError(f"{name}: {foreign.instead_of(next(promised, ANY_KIND), head)}")
    with opener(source, name, reading) as found:
        yield found


def image_of(batch: Batch, number: int, name: str) -> U8:
    """One image of a batch, uint8 (28, 28).  name: in messages.  Raises ImageError."""
    if batch.pixels is not None:
        return np.array(batch.pixels[number])
    assert batch.contents is not None
    content = batch.contents[number]
    if isinstance(content, Exception):
        raise content
    return read_image(io.BytesIO(content), name)


def is_source_content(file: BinaryIO) -> bool:
    """Whether a file, by its content alone, has many images."""
    head = _head(file)
    return not foreign.is_placeholder(head) and _opener(head, "") is not None


def _head(file: BinaryIO) -> bytes:
    file.seek(0)
    with gunzipped(file) as unpacked:
        return unpacked.read(HEAD_BYTES)


def _opener(head: bytes, name: str) -> Opener | None:
    """The reader for a file; most are imported only if there is one for them."""
    lower = name.lower()
    is_zip = head.startswith(b"PK")
    is_npz = is_zip and b".npy" in head and not lower.endswith(".zip")
    if is_npz or (is_zip and lower.endswith(".npz")):
        return open_array
    if head.startswith((b"\x93NUM", *(bytes([0, 0, kind]) for kind in IDX_TYPES))):
        return open_array
    if head.startswith(b"PAR1"):
        from codec.files.parquet import open_parquet

        return open_parquet
    is_tar = head[257:262] == b"ustar"
    if is_zip or is_tar or (lower.endswith((".tar", ".tar.gz", ".tgz")) and _is_old_tar(head)):
        from codec.files.archives import open_archive

        return open_archive
    is_known = foreign.named(head) is not None
    if (lower.endswith((".csv", ".csv.gz")) and not is_known) or head.count(b",") >= MANY_COMMAS:
        from codec.files.tables import open_table

        return open_table
    return None


def _is_old_tar(head: bytes) -> bool:
    """Whether a file begins as TAR archives without a magic number do, or as empty ones."""
    import tarfile

    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return not any(head)
    return True
