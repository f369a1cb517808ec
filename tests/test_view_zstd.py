"""zstd in the reader for browsers: every frame that libzstd writes is read, and none takes long."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import helpers
import numpy as np
import pytest
from node import needs_node
from test_view_reader import ask, text

from codec import zstd

pytestmark = needs_node
MAX_S = 10.0  # without bounds they took minutes
HEADER = b"\x28\xb5\x2f\xfd\xa0"  # one segment, the content size in 4 bytes, no check


def frame(size: int, block: bytes) -> bytes:
    """A frame of one block that is its last one, and packed."""
    start = len(block) << 3 | 2 << 1 | 1
    return HEADER + size.to_bytes(4, "little") + start.to_bytes(3, "little") + block


def contents(rng: np.random.Generator) -> list[bytes]:
    numbered = b"".join(b"train/%05d.png\0" % i for i in range(30_000))
    words = [rng.bytes(5) for _ in range(300)]
    return [
        b"a",
        b"ab" * 200_000,
        numbered[:300],
        numbered,
        rng.bytes(200_000),
        bytes(rng.integers(97, 101, 150_000, np.uint8)),
        b"".join(words[i] for i in rng.geometric(0.02, 40_000) % 300),
        bytes(300_000),
    ]


@pytest.mark.parametrize("level", [*helpers.slow(-5, 1, 3, 9, 22), 19])
def test_every_frame_of_libzstd_is_read(tmp_path: Path, level: int) -> None:
    wanted = contents(np.random.default_rng(level + 10))
    found = ask(tmp_path, *({"frame": text(helpers.zstd_frame(one, level))} for one in wanted))
    assert [base64.b64decode(one["content"]) for one in found] == wanted


def test_a_damaged_frame_is_never_read_as_another_one(tmp_path: Path) -> None:
    """libzstd lets some damaged Huffman streams pass; the reader for browsers none."""
    rng = np.random.default_rng(1)
    frames = []
    for content in contents(rng):
        whole = helpers.zstd_frame(content[:5000], 9)
        for _ in range(60):
            damaged = bytearray(whole)
            damaged[rng.integers(min(len(whole), 60))] ^= 1 << rng.integers(8)
            frames.append(bytes(damaged))
    for one, found in zip(
        frames, ask(tmp_path, *({"frame": text(f)} for f in frames)), strict=True
    ):
        if "content" in found:
            content = zstd.library().ZstdDecompressor().decompress(one, 1 << 24)
            assert base64.b64decode(found["content"]) == content
        else:
            assert found["kind"] in ("CorruptPayload", "LimitExceeded")


@pytest.mark.parametrize(
    ("size", "block", "why"),
    [
        # 98,047 copies of 65,539 bytes and more, whose bits are not there
        (1 << 24, b"\x00\xff\xff\xff\x54\x00\x00\x34\x01", "cut off"),
        # 98,047 copies of 34 bytes, each without a bit, of a first byte
        (1 << 24, b"\x08a\xff\xff\xff\x54\x01\x00\x1f\x01", "reads what is not there"),
        # one copy, from before the content
        (34, b"\x00\x01\x54\x00\x00\x1f\x01", "reads what is not there"),
        # weights of a Huffman table that need no bits: they have no end
        (100, b"\x22\x43\x01\x04\xf0\x03\xff\xff\x00\x00", "too many weights"),
        # less than the frame says
        (100, b"\x08a\x00", "less than"),
    ],
)
def test_a_hostile_frame_is_refused_at_once(
    tmp_path: Path, size: int, block: bytes, why: str
) -> None:
    began = time.monotonic()
    (found,) = ask(tmp_path, {"frame": text(frame(size, block))})
    assert found["kind"] == "CorruptPayload"
    assert why in found["error"]
    assert time.monotonic() - began < MAX_S
