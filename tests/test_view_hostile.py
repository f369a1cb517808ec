"""Small streams that ask much of the reader for browsers: it stays small and quick.

Node gets little memory here, so that what a stream could take without bound ends it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from node import needs_node
from test_view_reader import ask, text

from codec import zstd
from codec.format.footer import Footer
from codec.format.headers import BLOCK, BlockHeader, pack_collection_header
from codec.format.index import only_part, pack_index
from codec.format.names import pack_names
from codec.format.primitives import pack_varint

pytestmark = needs_node
MEMORY_MB = 128
MAX_S = 10.0  # it takes one or two; without bounds it took minutes
HASH = bytes.fromhex("1940d17a82af6b24")
NAMES_BYTES = 1 << 24


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_OPTIONS", f"--max-old-space-size={MEMORY_MB}")


def read(tmp_path: Path, stream: bytes, **options: Any) -> dict[str, Any]:
    """What the reader says of a stream without decoding images, in a time that is bounded."""
    path = tmp_path / "hostile.aez"
    path.write_bytes(stream)
    began = time.monotonic()
    (found,) = ask(tmp_path, {"stream": str(path), "ranges": [], **options})
    assert time.monotonic() - began < MAX_S
    return found


def sizes(names: bytes = b"", index: bytes = b"") -> dict[str, int]:
    return {"names_bytes": len(names), "index_bytes": len(index), "payload_bytes": 0}


def collection(images: int, names: bytes = b"", labels: bytes = b"") -> bytes:
    """A collection of one block with this names frame, or this labels frame."""
    area = pack_varint(len(labels)) + labels if labels else names
    flags = {"has_names": bool(names), "has_labels": bool(labels)}
    part = only_part(BlockHeader(HASH, 60, image_count=images, **sizes(), **flags))
    index = pack_index([(part, [0] * part.num_groups)])
    header = BlockHeader(HASH, 60, image_count=images, **sizes(area, index), **flags)
    block = header.pack() + area + index
    return pack_collection_header() + block + Footer(((len(block), images),)).pack()


def test_millions_of_names_are_not_made(tmp_path: Path) -> None:
    frame = zstd.pack(bytes(NAMES_BYTES))
    found = read(tmp_path, collection(4096, names=frame))
    assert found["names"] == [""] * 4096
    assert "more names for 4096 images" in found["damage"][0]["message"]


def test_millions_of_label_texts_are_not_made(tmp_path: Path) -> None:
    content = b"\x81\x02" + bytes((1 << 21) - 12) + bytes(10)
    frame = zstd.pack(content, checksum=True)
    found = read(tmp_path, collection(10, labels=frame))
    assert found["labels"] is None
    assert "not the 2 that are stated" in found["damage"][0]["message"]


def test_a_long_name_that_is_no_unicode_is_read_at_once(tmp_path: Path) -> None:
    frame = zstd.pack(b"\xff" * ((1 << 20) - 1) + b"\0")
    assert read(tmp_path, collection(1, names=frame))["names"] == ["\udcff" * ((1 << 20) - 1)]


def test_every_sequence_of_bytes_becomes_the_text_of_python(tmp_path: Path) -> None:
    """All pairs of a first and a second byte, with what may follow: the bounds of UTF-8."""
    followers = [b"", b"\x80", b"\x80\x80", b"\xbf\xbf\xbf", b"\x80\xc0", b"a", b"\xff"]
    names = [
        (bytes([first, second]) + rest).decode("utf-8", "surrogateescape")
        for first in [0x41, *range(0x80, 0x100)]
        for second in (0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF)
        for rest in followers
    ]
    (found,) = ask(tmp_path, {"names": text(pack_names(names)), "count": len(names)})
    assert found["names"] == names


@pytest.mark.slow
def test_millions_of_empty_models_are_left_out(tmp_path: Path) -> None:
    header = pack_collection_header([b""] * 4_000_000)
    found = read(tmp_path, header + Footer(()).pack())
    assert (found["length"], found["models"]) == (0, [])


def test_a_search_among_false_headers_ends(tmp_path: Path) -> None:
    false = b"aezB" + bytes(8) + b"\x3c\0\1\0"
    assert len(false) < BLOCK.size
    found = read(tmp_path, pack_collection_header() + false * 500_000, recover=True)
    assert (found["length"], found["damage"][0]["kind"]) == (0, "Truncated")
