"""Hostile streams for the reader for browsers: all checks hold, and the numbers are wrong.

Random damage seldom gets past the first check. Here blocks are built with any numbers and right
checks; the reader must judge each of them as Python does, and take no more time or memory for it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
from node import NODE, needs_node
from test_view_reader import ask, pixels_of, text

import codec
from codec import zstd
from codec.collection.open import open_stream
from codec.collection.reader import Collection
from codec.errors import BitstreamError
from codec.format import index as indexes
from codec.format.constants import (
    BLOCK_MAGIC,
    EXTENSION_MODELS,
    FLAG_COLLECTION,
    FLAG_EXTENDED,
    MAGIC,
    VERSION,
)
from codec.format.footer import Footer
from codec.format.headers import (
    BLOCK,
    COLLECTION,
    BlockHeader,
    pack_collection_header,
    pack_extension,
    unpack_block_header,
)
from codec.format.names import pack_names
from codec.format.primitives import checksum, crc8, pack_varint
from codec.model import registry

pytestmark = needs_node
MODELS = [registry.by_name("mnist"), registry.by_name("mnist", lossless=True)]
FILES = [str(registry.path_of(model.hash)) for model in MODELS]
COUNT = 12
START = pack_collection_header()


def block_of(
    texts: bytes,
    index: bytes,
    payload: bytes,
    *,
    flags: int,
    count: int,
    quality: int,
    model: bytes,
) -> bytes:
    """A block whose checks hold, whatever is in it."""
    sizes = len(texts), len(index), len(payload)
    start = BLOCK.pack(BLOCK_MAGIC, model, quality, flags, count, *sizes, b"", b"")[:26]
    start += checksum(start, size=4)
    body = texts + index + payload
    return start + checksum(start, body) + body


def collection_of(*blocks: bytes, entries: list[tuple[int, int]] | None = None) -> bytes:
    found = [(len(block), unpack_block_header(block).image_count) for block in blocks]
    return START + b"".join(blocks) + Footer(tuple(entries or found)).pack()


# ---- any numbers


def any_index(rng: np.random.Generator, lengths: dict[int, list[int]]) -> tuple[bytes, int, int]:
    """An index area, nearly right -> the area, flags and quality for the header.

    lengths: of the messages of all images at a quality.
    """
    quality = int(rng.choice(list(lengths)))
    area = helpers_index(quality, lengths[quality])
    parts = rng.random() < 0.6
    if parts:
        area = any_parts(rng, quality) + area
    for _ in range(rng.integers(3)):
        at = int(rng.integers(len(area) + 1))
        match rng.integers(3):
            case 0:
                area = area[:at] + bytes([rng.integers(256)]) + area[at + 1 :]
            case 1:
                area = area[:at]
            case 2:
                area = area[:at] + rng.bytes(rng.integers(1, 4)) + area[at:]
    return area, 2 * parts, quality


def helpers_index(quality: int, lengths: list[int]) -> bytes:
    part = indexes.Part(b"", quality, np.arange(COUNT))
    return indexes.pack_index([(part, lengths)])


def any_parts(rng: np.random.Generator, quality: int) -> bytes:
    """A parts area with its check, which a reader meets last."""
    models = int(rng.choice([0, 1, 1, 2, 255, 256]))
    parts = int(rng.choice([0, 1, 1, 1, 2, 1023, 1024]))
    area = pack_varint(models) + MODELS[rng.integers(2)].hash * models + pack_varint(parts)
    for _ in range(min(parts, 3)):
        coded = int(rng.choice([quality, 60, 100, 101, 128, 140, 192, 193]))
        count = int(rng.choice([0, 1, 2, 5, 11, 12]))
        area += bytes([rng.integers(3), coded]) + pack_varint(count)
        if count and rng.random() < 0.8:
            left = 12
            area += indexes.pack_rice(np.sort(rng.choice(left, count, replace=False)), left)
        else:
            area += rng.bytes(rng.integers(4))
    header = BlockHeader(bytes(8), quality, False, COUNT, 0, 0, 0)
    try:
        _, end = indexes._unpack(area + bytes(4), header, 0)
    except BitstreamError:
        end = len(area)
    return area[:end] + checksum(area[:end], size=4)


def any_labels(rng: np.random.Generator) -> bytes:
    """The content of labels, nearly right."""
    width, texts = int(rng.choice([1, 2, 4, 3, 0])), rng.random() < 0.5
    content = bytes([width | 0x80 * texts | int(rng.choice([0, 0, 0, 8]))])
    if texts:
        listed = [b"cat", b"d\xc3\xb6g", b"", b"x" * 255, b"y" * 256, b"\xff", b"\xef\xbb\xbfa"]
        some = [listed[k] for k in rng.choice([0, 0, 1, 2, 3, 4, 5, 6], rng.integers(1, 5))]
        number = len(some) + int(rng.choice([0, 0, 0, 1, -1, 500]))
        content += pack_varint(max(0, number)) + b"".join(one + b"\0" for one in some)
    content += bytes(rng.integers(0, 2, COUNT * width, np.uint8))
    return content[: len(content) - int(rng.choice([0, 0, 0, 1]))]


def any_texts(rng: np.random.Generator) -> tuple[bytes, int]:
    """The names area, and the flags for the header."""
    labels, names = rng.random() < 0.5, rng.random() < 0.6
    area = b""
    if labels:
        frame = zstd.pack(any_labels(rng), checksum=rng.random() < 0.9) + bytes(
            rng.choice([0, 0, 0, 2])
        )
        claim = len(frame) + int(rng.choice([0, 0, 0, 1, -1, 1 << 22]))
        area = pack_varint(max(0, claim)) + frame
    if names:
        count = COUNT + int(rng.choice([0, 0, 0, 1, -1]))
        some = [f"a/{k}.png" for k in range(count - 1)] + ["b\udcff\ufeff"]
        area += pack_names(some)
    area += bytes(rng.choice([0, 0, 0, 1]))
    return area, 4 * labels | names


def any_collection(rng: np.random.Generator, messages: dict[int, list[bytes]]) -> bytes:
    """Two blocks, one of which is whole, or a header or footer that is not."""
    lengths = {quality: [len(one) for one in each] for quality, each in messages.items()}
    index, flags, quality = any_index(rng, lengths)
    texts, more = any_texts(rng)
    if rng.random() < 0.3:
        index, flags = helpers_index(quality, lengths[quality]), 0
    payload = b"".join(messages[quality]) + bytes(rng.choice([0, 0, 0, 1]))
    count = COUNT + int(rng.choice([0, 0, 0, 0, 1, -COUNT]))
    bad = block_of(
        texts,
        index,
        payload,
        flags=flags | more | int(rng.choice([0, 0, 0, 0, 0, 8])),
        count=count,
        quality=quality if rng.random() < 0.9 else int(rng.choice([101, 128, 193, 99, 192])),
        model=MODELS[quality >= 100].hash,
    )
    good = block_of(
        b"",
        helpers_index(100, lengths[100]),
        b"".join(messages[100]),
        flags=0,
        count=COUNT,
        quality=100,
        model=MODELS[1].hash,
    )
    entries = [(len(bad), count), (len(good), COUNT)]
    if rng.random() < 0.1:
        entries[0] = (len(bad) - 1, count)
    if rng.random() < 0.1:
        entries = [(len(bad) + len(good), count)]
    if rng.random() < 0.1:
        entries.append((0, 65535))
    stream = START + bad + good + Footer(tuple(entries)).pack()
    return any_header(rng) + stream[len(START) :] if rng.random() < 0.2 else stream


def any_header(rng: np.random.Generator) -> bytes:
    """A collection header whose Check holds."""
    flags = FLAG_COLLECTION | FLAG_EXTENDED | int(rng.choice([0, 0, 0, 1]))
    fields = {
        EXTENSION_MODELS: rng.bytes(3),
        0xC0: bytes(200),
        int(rng.choice([0x01, 0x02, 0x7F, 0x81])): bytes(rng.choice([7, 8])),
    }
    some = {kind: fields[kind] for kind in fields if rng.random() < 0.4}
    area = pack_extension(some)
    if rng.random() < 0.2:
        area = pack_varint(int(rng.choice([0, 1 << 25, 300, 2**35 - 1])))[:5] + area[1:]
    start = MAGIC + bytes([VERSION << 4 | flags])
    return start + bytes([crc8(start + area)]) + area


# ---- what Python says


def result_or_fault(find: Callable[[], Any]) -> Any:
    try:
        return find()
    except BitstreamError as error:
        return error


def open_stream_or_fault(stream: bytes, recover: bool = False) -> Collection | BitstreamError:
    """A collection whose header and footer are intact, or need not be."""

    def find() -> Collection:
        opened = open_stream(stream, recover=recover)
        assert isinstance(opened, Collection)
        if not recover:
            _ = opened.blocks
        return opened

    found: Collection | BitstreamError = result_or_fault(find)
    return found


def kind_of(error: BaseException) -> str:
    return type(error).__name__


def check(stream: bytes, found: dict[str, Any]) -> None:
    """Compare what the reader for browsers says of a collection with what Python says."""
    opened = open_stream_or_fault(stream)
    if isinstance(opened, BitstreamError):
        assert found["error"]["kind"] == kind_of(opened)
        return
    assert "error" not in found, found
    assert found["length"] == len(opened)
    kinds = [(one["from"], one["kind"]) for one in found["damage"]]
    errors, pixels = found["ranges"][0]["errors"], pixels_of(found["ranges"][0])
    for block in opened.blocks:
        if block.count == 65535:  # an entry without a block
            continue
        if block.count == 0:
            assert (block.first, "LimitExceeded") in kinds
            continue
        mine = slice(block.first, block.first + block.count)
        decoded = block.salvage()
        assert [error is not None for error in errors[mine]] == decoded.lost.tolist()
        np.testing.assert_array_equal(pixels[mine], decoded.pixels)
        for what, none in ((block.names, ""), (block.labels, None), (lambda b=block: b.index, 0)):
            value = result_or_fault(what)
            if isinstance(value, BitstreamError):
                assert (block.first, kind_of(value)) in kinds, (value, found["damage"])
                continue
            if none == 0:
                continue
            told = found["names" if none == "" else "labels"]
            empty = value is None or len(value) == 0
            expected = [none] * block.count if empty else np.asarray(value).tolist()
            assert (told or [None] * len(errors))[mine] == expected


@pytest.mark.parametrize("seed", [0, *helpers.slow(*range(1, 40))])
def test_any_numbers_in_blocks_are_judged_as_python_does(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = helpers.drawn(COUNT)
    messages = {
        quality: MODELS[quality >= 100].encode(pixels, quality).messages
        for quality in (40, 60, 100, 140)
    }
    streams = [any_collection(rng, messages) for _ in range(25)]
    requests = []
    for stream in streams:
        # an entry of 65535 images without a block comes last: those are left out
        length = sum(count for _, count in entries_of(stream) if count < 65535)
        request = {"stream": text(stream), "models": FILES, "ranges": [[0, length]]}
        requests.append(request)
    for stream, found in zip(streams, ask(tmp_path, *requests), strict=True):
        check(stream, found)


def entries_of(stream: bytes) -> list[tuple[int, int]]:
    opened = open_stream_or_fault(stream)
    return (
        [(block.size, block.count) for block in opened.blocks] if hasattr(opened, "blocks") else []
    )


# ---- each by itself


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Node's objects have 100 MB."""
    monkeypatch.setenv("NODE_OPTIONS", "--max-old-space-size=100")


def texts_only(texts: bytes, flags: int) -> dict[str, Any]:
    """A request for names and labels of a block of COUNT images."""
    options = {"count": COUNT, "quality": 100, "model": MODELS[1].hash}
    stream = collection_of(block_of(texts, b"\0", b"", flags=flags, **options))
    return {"stream": text(stream), "ranges": []}


@pytest.mark.usefixtures("little_memory")
def test_millions_of_empty_texts_take_no_memory(tmp_path: Path) -> None:
    names, labels = (
        zstd.pack(bytes(1 << 24)),
        zstd.pack(b"\x81\x01" + bytes((1 << 21) - 20), checksum=True),
    )
    requests = [texts_only(names, 1), texts_only(pack_varint(len(labels)) + labels, 4)]
    for found in ask(tmp_path, *requests):
        assert [one["kind"] for one in found["damage"]] == ["CorruptPayload"]
        assert found["names"] == [""] * COUNT
        assert found["labels"] is None


@pytest.mark.usefixtures("little_memory")
def test_long_names_that_are_not_unicode_take_no_time(tmp_path: Path) -> None:
    names = ["\udcff" * 400_000 + f"\U0001f600ä{k}" for k in range(COUNT)]
    (found,) = ask(tmp_path, texts_only(pack_names(names), 1))
    assert found["names"] == names


@pytest.mark.usefixtures("little_memory")
def test_millions_of_images_that_are_only_claimed_take_no_memory(tmp_path: Path) -> None:
    stream = collection_of(entries=[(0, 65535)] * 1000)
    last = 1000 * 65535
    request = {"stream": text(stream), "ranges": [[last - 1, last]], "imagesOnly": True}
    (found,) = ask(tmp_path, request)
    assert found["length"] == last
    assert [error["kind"] for error in found["ranges"][0]["errors"]] == ["BadMagic"]
    path = tmp_path / "x.aez"
    path.write_bytes(stream)
    assert "at most 16777216 at a time" in serve(path, "whole")["error"]


def test_embedded_models_that_are_malformed_matter_only_if_they_are_needed(tmp_path: Path) -> None:
    area = pack_extension({EXTENSION_MODELS: b"\xff\xff"})
    start = MAGIC + bytes([VERSION << 4 | FLAG_COLLECTION | FLAG_EXTENDED])
    whole = codec.compress(helpers.drawn(3), model="mnist", guard=False, effort=1)
    names = pack_collection_header()
    stream = start + bytes([crc8(start + area)]) + area + whole[len(names) :]
    with_model, without = ask(
        tmp_path,
        {"stream": text(stream), "models": FILES},
        {"stream": text(stream)},
    )
    np.testing.assert_array_equal(pixels_of(with_model["ranges"][0]), codec.decompress(whole))
    assert [error["kind"] for error in without["ranges"][0]["errors"]] == ["Truncated"] * 3


def test_only_damaged_headers_are_recovered(tmp_path: Path) -> None:
    """A header whose Check holds is of a later version: FORMAT.md 9."""
    whole = bytearray(codec.compress(helpers.drawn(3), model="mnist", guard=False, effort=1))
    cases = []
    for flipped in (0x20, 0x08, 0x04, 0x01):
        for right in (False, True):
            stream = bytearray(whole)
            stream[2] ^= flipped
            if right:
                stream[3] = crc8(bytes(stream[:3]))
            cases.append(bytes(stream))
    requests = [
        {"stream": text(stream), "models": FILES, "recover": recover}
        for stream in cases
        for recover in (False, True)
    ]
    answers = iter(ask(tmp_path, *requests))
    for stream in cases:
        for recover in (False, True):
            found = next(answers)
            opened = open_stream_or_fault(stream, recover)
            if isinstance(opened, BitstreamError):
                assert found["error"]["kind"] == kind_of(opened), (stream[:4], recover)
                continue
            assert found["length"] == len(opened) == 3
            assert found["damage"][0]["kind"] == kind_of(opened.fault)
            np.testing.assert_array_equal(
                pixels_of(found["ranges"][0]), codec.decompress(bytes(whole))
            )


def test_all_images_of_a_damaged_group_are_known_as_damaged(tmp_path: Path) -> None:
    pixels = helpers.drawn(COUNT)
    (message,) = MODELS[1].encode(pixels[::2], 100).messages
    (other,) = MODELS[1].encode(pixels[1::2], 140).messages
    parts = [
        (indexes.Part(MODELS[1].hash, quality, np.arange(first, COUNT, 2)), [len(one)])
        for first, quality, one in ((0, 100, message), (1, 140, other))
    ]
    damaged = message[:-1] + bytes([message[-1] ^ 1])
    options = {"flags": 2, "count": COUNT, "quality": 100, "model": MODELS[1].hash}
    block = block_of(b"", indexes.pack_index(parts), damaged + other, **options)
    (found,) = ask(tmp_path, {"stream": text(collection_of(block)), "models": FILES})
    spans = [(one["from"], one["to"], one["kind"]) for one in found["damage"]]
    assert spans == [(k, k + 1, "CorruptPayload") for k in range(0, COUNT, 2)]
    errors = found["ranges"][0]["errors"]
    assert [error is not None for error in errors] == [k % 2 == 0 for k in range(COUNT)]


def test_more_blocks_than_are_kept_in_memory_are_read(tmp_path: Path) -> None:
    block = codec.compress(helpers.drawn(2), model="mnist", guard=False, effort=1)
    block = block[COLLECTION.size : COLLECTION.size + open_blocks(block)[0].size]
    stream = collection_of(*[block] * 150)
    ranges = [[0, 300], [0, 3], [297, 300]]
    (found,) = ask(tmp_path, {"stream": text(stream), "models": FILES, "ranges": ranges})
    expected = codec.decompress(stream)
    for (start, end), one in zip(ranges, found["ranges"], strict=True):
        np.testing.assert_array_equal(pixels_of(one), expected[start:end])


def open_blocks(stream: bytes) -> Any:
    opened = open_stream(stream)
    assert isinstance(opened, Collection)
    return opened.blocks


# ---- servers


def serve(path: Path, kind: str) -> dict[str, Any]:
    """What is read of a stream from a server of this kind: see read_servers.mjs."""
    command = [str(NODE), str(Path(__file__).parent / "view" / "read_servers.mjs"), str(path), kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture
def named(tmp_path: Path) -> Path:
    path = tmp_path / "x.aez"
    options = {"names": ["a", "b"], "model": "mnist", "effort": 1, "guard": False}
    path.write_bytes(codec.compress(helpers.drawn(2), **options))
    return path


def test_a_server_whose_sizes_are_hidden_is_read_whole(named: Path) -> None:
    assert serve(named, "hidden") == {"names": ["a", "b"], "requests": ["bytes=0-0", ""]}


@pytest.mark.parametrize("kind", ["growing", "forgetful", "short"])
def test_a_stream_that_changes_while_it_is_read_is_refused(named: Path, kind: str) -> None:
    assert "has changed or cannot be read" in serve(named, kind)["error"]


def test_an_address_without_a_stream_is_an_error(named: Path) -> None:
    assert "cannot be read: 404" in serve(named, "gone")["error"]
