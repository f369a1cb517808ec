"""Files of many images that `aez decompress` writes: NPY, NPZ, IDX and CSV, block by block.

    sink = SINKS[format](files, expected)
    for decoded in ...:
        sink.add(decoded)        # images, and their names and labels, if the format holds them
    sink.finish()                # only now is the number of images known

READ ME FIRST
- Headers come first and hold the number of images. So they are written for the number that is
  expected, and again in the end, at the same length, if damaged images were left out.
- `files` are open for reading and writing, at their beginning: one, or two for IDX with labels.
"""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

import numpy as np
import numpy.typing as npt

from codec.arrays import PIXELS, SIDE, U8
from codec.collection.block import Decoded
from codec.commands.events import Done, Events, Failed, Progress
from codec.commands.stream import Found, Stream
from codec.errors import UsageError
from codec.files.atomic import size_of
from codec.files.place import Place
from codec.labels import Labels, joined, kind_of, one_by_one

if TYPE_CHECKING:
    from zipfile import ZipInfo

CHUNK_BYTES = 1 << 20
TEXTS_IN_IDX = "the labels are texts, and IDX holds integers: --format npz or csv restores them"


class Sink(ABC):
    """Takes images, uint8 (N, 28, 28), a block at a time.  keeps: what the format holds of them."""

    keeps: ClassVar[tuple[str, ...]] = ()

    def __init__(self, files: Sequence[BinaryIO], expected: int) -> None:
        self._file, self._labels_file = files[0], files[1] if len(files) > 1 else None
        self._expected, self.num_images = expected, 0
        self._kind: str | None = None  # of labels

    def add(self, decoded: Decoded) -> None:
        """Write images.  Raises UsageError if the format cannot hold their labels, OSError."""
        kind = self._kind if decoded.labels is None else kind_of(decoded.labels)
        if self._kind not in (None, kind):
            raise UsageError(
                "some labels are integers and some are texts, which one file does not hold: "
                "--format folders, npy or png restores the images"
            )
        self._kind = kind
        self.write(decoded)
        self.num_images += len(decoded.images)

    @abstractmethod
    def write(self, decoded: Decoded) -> None:
        """Write images after those before."""

    @abstractmethod
    def finish(self) -> None:
        """Write what depends on all images."""

    def close(self) -> None:
        """End what is written, finished or not; the files stay open."""
        self._file.flush()


class Npy(Sink):
    """An array, uint8 (N, 28, 28)."""

    def __init__(self, files: Sequence[BinaryIO], expected: int) -> None:
        super().__init__(files, expected)
        self._file.write(npy_header(expected))

    def write(self, decoded: Decoded) -> None:
        self._file.write(decoded.pixels.tobytes())

    def finish(self) -> None:
        if self.num_images != self._expected:
            self._file.seek(0)
            self._file.write(npy_header(self.num_images))


def npy_header(num_images: int) -> bytes:
    """Header of uint8 (num_images, 28, 28), of the same length for any number (numpy pads it)."""
    header = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": (num_images, SIDE, SIDE)}
    np.lib.format.write_array_header_1_0(header, fields)
    return header.getvalue()


class Npz(Sink):
    """The arrays `images`, and `labels` and `names` if there are any, not compressed.

    Their bytes depend on nothing else: all times are those that zip begins with.
    """

    keeps = ("names", "labels")

    def __init__(self, files: Sequence[BinaryIO], expected: int) -> None:
        super().__init__(files, expected)
        from zipfile import ZipFile  # 10 ms that other formats do not need

        self._archive = ZipFile(self._file, "w")
        self._member = _member("images")
        self._images = self._archive.open(self._member, "w", force_zip64=True)
        self._images.write(npy_header(expected))
        self._labels: list[Labels] = []
        self._names: list[str] = []

    def write(self, decoded: Decoded) -> None:
        self._images.write(decoded.pixels.tobytes())
        self._names += decoded.names
        if decoded.labels is not None:
            self._labels.append(decoded.labels)

    def finish(self) -> None:
        self._images.close()
        if self.num_images != self._expected:
            self._correct_header()
        if self._labels:
            labels = joined(self._labels)
            self._save("labels", np.array(labels) if isinstance(labels, list) else labels)
        if self._names:
            self._save("names", np.array(self._names))
        self._archive.close()

    def close(self) -> None:
        self._images.close()
        self._archive.close()

    def _save(self, name: str, array: npt.NDArray[Any]) -> None:
        with self._archive.open(_member(name), "w", force_zip64=True) as file:
            np.lib.format.write_array(file, array, allow_pickle=False)

    def _correct_header(self) -> None:
        """Write the number of images again, and the CRC-32 that depends on it."""
        member, header = self._member, npy_header(self.num_images)
        start = member.header_offset + len(member.FileHeader(zip64=True))
        end = start + member.file_size
        self._file.seek(start)
        self._file.write(header)
        crc = zlib.crc32(header)
        while (left := end - self._file.tell()) > 0:
            crc = zlib.crc32(self._file.read(min(CHUNK_BYTES, left)), crc)
        member.CRC = crc
        self._file.seek(member.header_offset)
        self._file.write(member.FileHeader(zip64=True))
        self._file.seek(end)


def _member(name: str) -> ZipInfo:
    from zipfile import ZipInfo

    return ZipInfo(f"{name}.npy")


class Idx(Sink):
    """The file of MNIST, and a second one for labels."""

    keeps = ("labels",)

    def __init__(self, files: Sequence[BinaryIO], expected: int) -> None:
        super().__init__(files, expected)
        self._file.write(_idx_header(expected))
        self._labels: list[Labels] = []

    def write(self, decoded: Decoded) -> None:
        if self._labels_file is not None and decoded.labels is not None:
            if isinstance(decoded.labels, list):
                raise UsageError(TEXTS_IN_IDX)
            self._labels.append(decoded.labels)
        self._file.write(decoded.pixels.tobytes())

    def finish(self) -> None:
        if self.num_images != self._expected:
            self._file.seek(0)
            self._file.write(_idx_header(self.num_images))
        if self._labels_file is not None:
            self._labels_file.write(pack_idx_labels(joined(self._labels)))


def _idx_header(num_images: int) -> bytes:
    return struct.pack(">4B3I", 0, 0, 8, 3, num_images, SIDE, SIDE)


def pack_idx_labels(labels: Labels) -> bytes:
    """Integers -> an IDX1 file: of bytes, as MNIST's, or of 32 bits if one is above 255.

    Raises UsageError for one that is above what IDX holds.
    """
    assert not isinstance(labels, list)
    highest = int(labels.max(initial=0))
    if highest >= 1 << 31:
        raise UsageError(
            f"label {highest} is above 2147483647, the highest in IDX: --format npz or csv "
            "restores it"
        )
    kind, packed = (8, labels.astype(np.uint8)) if highest < 256 else (12, labels.astype(">i4"))
    return struct.pack(">4BI", 0, 0, kind, 1, len(labels)) + packed.tobytes()


class Csv(Sink):
    """A line an image: its label, if it has one, and its pixels, as Kaggle's digits come."""

    keeps = ("labels",)
    _NUMBERS = tuple(str(value) for value in range(256))

    def write(self, decoded: Decoded) -> None:
        labels = None if decoded.labels is None else list(map(_cell, one_by_one(decoded.labels)))
        if not self.num_images:
            self._write_heads(labels is not None)
        rows = map(self._row, decoded.pixels)
        lines = rows if labels is None else map(",".join, zip(labels, rows, strict=True))
        self._file.write("".join(line + "\n" for line in lines).encode())

    def _write_heads(self, labelled: bool) -> None:
        heads = ["label"] * labelled + [f"pixel{i}" for i in range(PIXELS)]
        self._file.write((",".join(heads) + "\n").encode())

    def _row(self, image: U8) -> str:
        return ",".join(map(self._NUMBERS.__getitem__, image.tobytes()))

    def finish(self) -> None:
        if not self.num_images:
            self._write_heads(False)


def _cell(label: int | str) -> str:
    """A label as a cell of CSV."""
    text = str(label)
    if any(c in text for c in '",\r\n') or text != text.strip():
        return '"' + text.replace('"', '""') + '"'
    return text


SINKS: dict[str, type[Sink]] = {"npy": Npy, "npz": Npz, "idx": Idx, "csv": Csv}


def _close(sink: Sink) -> None:
    with contextlib.suppress(OSError):  # of a full disk, which has been told
        sink.close()


def write_array(
    found: Iterator[Found],
    stream: Stream,
    outputs: Sequence[Place],
    format: str,
    expected: int,
    force: bool,
) -> Events:
    """Write images as one file, and for IDX with labels a second one, both or none.

    Nothing is written if nothing is intact.
    """
    first: Decoded | None = None
    failed = False
    for item in found:
        if isinstance(item, Decoded):
            first = item
            break
        failed |= isinstance(item, Failed)
        yield item
    if first is None and failed:
        return
    with ExitStack() as stack:
        files = [
            stack.enter_context(output.replace(force=force, durable=True, mode=stream.mode))
            for output in outputs
        ]
        sink = SINKS[format](files, expected)
        stack.callback(_close, sink)
        written = 0
        for item in found if first is None else chain([first], found):
            if isinstance(item, Decoded):
                sink.add(item)
            elif isinstance(item, Progress):  # of all outputs together
                written, before = sum(file.tell() for file in files), written
                yield Progress(item.images, written - before)
            else:
                yield item
        sink.finish()
        sizes = list(map(size_of, files))
    counts = [(sink.num_images, stream.num_bytes)] + [(0, 0)] * (len(outputs) - 1)
    for output, size, (images, bytes_in) in zip(outputs, sizes, counts, strict=True):
        yield Done(stream.label, str(output), images, bytes_in, size)
