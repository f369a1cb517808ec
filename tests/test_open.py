"""What a stream is opened from and as what: paths, URLs, files and bytes; one image or many."""

from __future__ import annotations

import inspect
import io
import os
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import fsspec
import helpers
import numpy as np
import pytest

import codec
from codec.collection.block import Block, Decoded
from codec.collection.open import open_stream
from codec.collection.reader import Collection
from codec.collection.single import SingleImage
from codec.collection.source import ByteSource
from codec.errors import BadMagic, BitstreamError, ChecksumMismatch, UnsupportedVersion
from codec.files import urls

pytestmark = pytest.mark.usefixtures("shipped")
NAMES = [f"{i}.png" for i in range(50)]
KINDS = ["str", "Path", "url", "bytes", "bytearray", "memoryview", "file", "buffer"]


@pytest.fixture
def many() -> bytes:
    return helpers.collect(50, NAMES, block_images=20)


@pytest.fixture
def one() -> bytes:
    return codec.compress(helpers.drawn(1)[0], quality=40)


@pytest.fixture
def store() -> Iterator[fsspec.AbstractFileSystem]:
    files = fsspec.filesystem("memory")
    yield files
    files.rm("/", recursive=True)


def source_of(kind: str, stream: bytes, folder: Path) -> Any:
    """A stream as something that can be opened."""
    path = folder / "x.aez"
    path.write_bytes(stream)
    if kind == "url":
        fsspec.filesystem("memory").pipe_file("/x.aez", stream)
    makers: dict[str, Any] = {
        "str": lambda: str(path),
        "Path": lambda: path,
        "url": lambda: "memory://x.aez",
        "bytes": lambda: stream,
        "bytearray": lambda: bytearray(stream),
        "memoryview": lambda: memoryview(stream),
        "file": lambda: path.open("rb"),
        "buffer": lambda: io.BytesIO(stream),
    }
    return makers[kind]()


# ---- sources


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("kind", KINDS)
def test_all_functions_take_whatever_holds_a_stream(
    kind: str, many: bytes, one: bytes, tmp_path: Path
) -> None:
    for stream in (many, one):
        source = source_of(kind, stream, tmp_path)
        np.testing.assert_array_equal(codec.decompress(source), codec.decompress(stream))
        np.testing.assert_array_equal(codec.latents(source), codec.latents(stream))
        assert codec.info(source) == codec.info(stream)
        if stream is many:
            with codec.open(source) as collection:
                assert collection.names == NAMES
        if kind == "file":
            source.close()  # it was not closed before: it is the caller's


def test_what_was_opened_for_a_path_or_url_is_closed_and_nothing_else(
    many: bytes, one: bytes, tmp_path: Path, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    plain = urls.open_file  # of files in memory, whose `close` does nothing

    def open_file(url: str) -> io.BytesIO:
        opened.append(io.BytesIO(plain(url).read()))
        return opened[-1]

    monkeypatch.setattr(urls, "open_file", open_file)
    for stream in (many, one, many[:-9], b"no stream at all"):
        source = source_of("url", stream, tmp_path)
        path, file = source_of("Path", stream, tmp_path), source_of("buffer", stream, tmp_path)
        for call in (codec.decompress, codec.info, codec.latents, codec.open):
            for each in (source, path, file):
                try:
                    found = call(each)
                    if isinstance(found, Collection):
                        found.close()
                except BitstreamError:
                    pass
        assert not file.closed
    assert len(opened) == 16  # one for each call: a stream is opened once
    assert all(file.closed for file in opened)
    left = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    assert str(tmp_path / "x.aez") not in left


def test_a_path_is_read_where_there_is_no_pread(
    many: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pread")
    np.testing.assert_array_equal(
        codec.decompress(source_of("Path", many, tmp_path)), codec.decompress(many)
    )


def test_a_source_gives_what_there_is(tmp_path: Path) -> None:
    for kind in ("Path", "bytes"):
        source = ByteSource(source_of(kind, b"0123456789", tmp_path))
        assert source.size == 10
        assert [source.read(*span) for span in ((0, 3), (8, 5), (10, 1), (99, 4), (4, 0))] == [
            b"012",
            b"89",
            b"",
            b"",
            b"",
        ]


def test_a_path_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    for call in (codec.decompress, codec.info, codec.latents, codec.open):
        with pytest.raises(FileNotFoundError):
            call(tmp_path / "none.aez")


# ---- one image or many


def test_a_stream_is_opened_as_what_it_holds(many: bytes, one: bytes) -> None:
    with open_stream(many) as stream:
        assert isinstance(stream, Collection)
        assert (len(stream), stream.num_bytes) == (50, len(many))
        assert stream.payload_bytes == sum(block.header.payload_bytes for block in stream.blocks)
        assert stream.codings == [(helpers.tiny_model().hash, 40)]
        assert stream.name(49) == "49.png"
    with open_stream(one) as stream:
        assert isinstance(stream, SingleImage)
        assert (len(stream), stream.num_bytes, stream.payload_bytes) == (1, len(one), len(one) - 6)
        assert stream.codings == [(helpers.tiny_model().hash, 40)]
        assert stream.name(0) == ""
        np.testing.assert_array_equal(stream[0], codec.decompress(one))
        with pytest.raises(IndexError):
            stream[1]


@pytest.mark.parametrize("recover", [False, True])
def test_a_collection_whose_flag_is_damaged_is_no_single_image(many: bytes, recover: bool) -> None:
    damaged = bytearray(many)
    damaged[2] ^= 8
    if not recover:
        with pytest.raises(BadMagic, match="this is a single image, not a collection"):
            open_stream(bytes(damaged))
        return
    with open_stream(bytes(damaged), recover=True) as stream:
        *blocks, last = stream.salvage()
    np.testing.assert_array_equal(
        np.concatenate([block.pixels for block in blocks]), codec.decompress(many)
    )
    assert isinstance(last.fault, BadMagic)


def test_a_single_image_that_ends_as_a_collection_does_is_one(one: bytes) -> None:
    with open_stream(one + bytes(80) + b"aezE") as stream:
        assert isinstance(stream, SingleImage)


def test_what_no_reader_knows_is_refused_even_by_recovery(many: bytes) -> None:
    for stream, error in (
        (b"\x89PNG" + many[4:9], BadMagic),
        (b"\xae\x5a\x20", UnsupportedVersion),
    ):
        with pytest.raises(error):
            open_stream(stream, recover=True)


# ---- verdicts


def test_a_single_image_is_salvaged_as_a_block_of_one(one: bytes) -> None:
    (intact,) = helpers.salvage(one)
    assert (intact.images.tolist(), helpers.lost(intact), intact.fault) == ([0], [], None)
    np.testing.assert_array_equal(intact.pixels[0], codec.decompress(one))
    (damaged,) = helpers.salvage(one[:-1] + bytes([one[-1] ^ 1]))
    assert helpers.lost(damaged) == [0]
    assert isinstance(damaged.fault, ChecksumMismatch)
    assert not damaged.pixels.any()


def test_a_verdict_is_all_but_the_pixels_and_some_can_be_picked(many: bytes) -> None:
    decoded = helpers.salvage(many)[1]
    verdict = decoded.verdict
    assert not isinstance(verdict, Decoded)
    assert (verdict.images, verdict.lost, verdict.names) == (
        decoded.images,
        decoded.lost,
        decoded.names,
    )
    some = decoded.pick(decoded.images % 3 == 0)
    assert some.images.tolist() == [21, 24, 27, 30, 33, 36, 39]
    assert some.names == [f"{i}.png" for i in some.images]
    np.testing.assert_array_equal(some.pixels, codec.decompress(many)[some.images])
    assert decoded.pick(~decoded.lost) is decoded
    assert verdict.pick(decoded.images % 3 == 0).names == some.names


def test_a_block_goes_to_another_process_by_its_path(many: bytes, tmp_path: Path) -> None:
    with open_stream(source_of("Path", many, tmp_path)) as stream:
        assert isinstance(stream, Collection)
        wanted = [block.salvage() for block in stream.intact_blocks()]
        packed = [pickle.dumps(block) for block in stream.intact_blocks()]
    assert max(map(len, packed)) < 2000
    for one, other in zip(wanted, map(pickle.loads, packed), strict=True):
        assert isinstance(other, Block)
        np.testing.assert_array_equal(one.pixels, other.salvage().pixels)


# ---- the way of a pixel


def called(function: Callable[[], object]) -> list[str]:
    """The functions of codec that a call of this one calls, in order of their first calls."""
    found: dict[str, None] = {}

    def watch(frame: FrameType, event: str, _: object) -> None:
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.startswith("codec."):
            found[f"{module.removeprefix('codec.')}.{frame.f_code.co_qualname}"] = None

    function()  # what is loaded once is not of the way
    sys.setprofile(watch)
    try:
        function()
    finally:
        sys.setprofile(None)
    return list(found)


@pytest.mark.usefixtures("two_shipped")
@pytest.mark.parametrize(
    ("trip", "function", "given"),
    [
        (0, codec.compress, "drawn"),
        (1, codec.compress, "image"),
        (2, codec.decompress, "many"),
        (3, codec.decompress, "one"),
    ],
)
def test_pixels_take_the_way_that_the_package_tells(
    trip: int, function: Callable[[Any], object], given: str, many: bytes, one: bytes
) -> None:
    story = inspect.cleandoc(codec.__doc__ or "").split("\n\n")
    trips = [part.splitlines() for part in story if part.startswith("    api.")]
    told = [line.split()[0] for line in trips[trip]]
    arguments = {"drawn": helpers.drawn(20), "image": helpers.drawn(1)[0], "many": many, "one": one}
    way = called(lambda: function(arguments[given]))
    assert [name for name in way if name in told] == told
    assert len(told) <= 20
    assert len({re.sub(r"\.([A-Z]\w+\.)?\w+$", "", name) for name in told}) <= 6


# ---- what a stream can be given as


@pytest.mark.parametrize("kind", [bytearray, memoryview, lambda b: np.frombuffer(b, np.uint8)])
def test_any_buffer_is_a_stream(kind: Callable[[bytes], Any], many: bytes) -> None:
    np.testing.assert_array_equal(codec.decompress(kind(many)), codec.decompress(many))


@pytest.mark.parametrize("function", [codec.decompress, codec.info, codec.latents, codec.open])
def test_what_cannot_be_a_stream_is_refused_by_name(
    function: Callable[[Any], object], tmp_path: Path
) -> None:
    for wrong in (None, 3.5, ["x.aez"], io.StringIO("text")):
        with pytest.raises(
            TypeError, match="a stream is bytes, a path, a URL or an open binary file, not "
        ):
            function(wrong)
    with pytest.raises(codec.AezError, match="the name of the stream is empty"):
        function("")
    with pytest.raises(IsADirectoryError, match=re.escape(str(tmp_path))):
        function(tmp_path)
