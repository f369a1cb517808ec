"""Damage anywhere in a collection: what is lost is told, all else comes back, and nothing false
does.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import helpers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from codec import api
from codec.cli.app import app
from codec.collection.open import open_stream
from codec.encoder.encode import Encoder
from codec.encoder.options import Options
from codec.errors import AezError, BadMagic, BitstreamError, ChecksumMismatch, UnsupportedVersion
from codec.files import arrays, images
from codec.format.constants import EXTENSION_MODELS
from codec.format.headers import (
    COLLECTION,
    pack_collection_header,
    pack_extension,
    unpack_block_header,
    unpack_collection_header,
    unpack_models,
)
from codec.format.primitives import crc8, pack_varint

pytestmark = pytest.mark.usefixtures("shipped")
# Blocks of a full group and a short one. Not quality 40: there, with the hash of this tiny model,
# the 8 bits of the Check hold by chance where one flipped flag makes the header go on into the
# block.
QUALITY, BLOCK_IMAGES, COUNT = 41, 20, 70


def aez(*args: str | Path) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def stream() -> bytes:
    names = [f"{i}.png" for i in range(COUNT)]
    return helpers.collect(COUNT, names, quality=QUALITY, block_images=BLOCK_IMAGES)


@pytest.fixture
def whole() -> np.ndarray:
    return helpers.tiny_model().encode(helpers.drawn(COUNT), QUALITY).pixels


def told(failed: list[dict[str, str]]) -> set[int]:
    """Numbers of the images that the messages name as lost."""
    lost: set[int] = set()
    for one in failed:
        if found := re.match(r"block \d+, images ([\d, -]+)", one["reason"]):
            for part in found[1].split(", "):
                first, _, last = part.strip().partition("-")
                lost |= set(range(int(first), int(last or first) + 1))
    return lost


def check_everything(damaged: bytes, whole: np.ndarray, folder: Path) -> tuple[set[int], set[int]]:
    """Run `aez test` and `aez decompress`; returns the images that came back and those named as
    lost.

    What came back must be what was there, whatever happened to the file.
    """
    path = folder / "x.aez"
    path.write_bytes(damaged)
    tested = aez("test", path, "--json", "-j", "1")
    restored = aez("decompress", path, "-o", folder / "out", "-f", "--json", "-j", "1")
    assert tested.exit_code == restored.exit_code == 4, (tested.output, restored.output)
    assert not isinstance(restored.exception, BitstreamError)
    back, false = set(), set()
    for png in folder.glob("out/*.png"):
        number = int(png.stem.removeprefix("nameless-"))
        if (images.read_image(png) != whole[number]).any():
            false.add(number)
        back.add(number)
        png.unlink()
    figures = json.loads(tested.stdout)
    # A group has a check of 8 bits: of 256 that are damaged, one passes. Its block is told as
    # damaged all the same.
    assert len({(number // BLOCK_IMAGES, number % BLOCK_IMAGES // 16) for number in false}) <= 1
    assert not false or any(
        "bytes of this block were changed" in one["reason"] for one in figures["failed"]
    )
    lost = told(figures["failed"])
    assert lost == told(json.loads(restored.stdout)["failed"])
    assert figures["images"] == json.loads(restored.stdout)["images"] == len(back)
    return back, lost


@pytest.mark.parametrize("labelled", [*helpers.slow(False), True])
@settings(max_examples=60)
@given(data=st.data())
def test_flipped_byte_anywhere_costs_what_is_named_and_no_more(
    data: st.DataObject,
    labelled: bool,
    stream: bytes,
    whole: np.ndarray,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """With a footer that holds, every image is either back or named; with none, images are found
    again by the walk.
    """
    if labelled:
        stream = helpers.collect(
            COUNT,
            api.open(stream).names,
            labels=np.arange(COUNT) % 10,
            quality=QUALITY,
            block_images=BLOCK_IMAGES,
        )
    at = data.draw(
        st.one_of(
            st.integers(0, len(stream) - 1),
            st.integers(0, 60),
            st.integers(len(stream) - 80, len(stream) - 1),
        )
    )
    damaged = bytearray(stream)
    damaged[at] ^= data.draw(st.integers(1, 255))
    back, lost = check_everything(bytes(damaged), whole, tmp_path_factory.mktemp("flip"))
    assert back | lost == set(range(COUNT))
    assert not back & lost
    assert len(lost) <= BLOCK_IMAGES
    if at < COLLECTION.size or at >= len(stream) - 64:
        assert not lost  # header and footer hold no image


@settings(max_examples=60)
@given(data=st.data())
def test_file_cut_anywhere_gives_back_what_came_before_the_cut(
    data: st.DataObject, stream: bytes, whole: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first = unpack_block_header(stream[4:]).block_bytes + COLLECTION.size
    cut = data.draw(st.integers(60, len(stream) - 1))
    back, lost = check_everything(stream[:cut], whole, tmp_path_factory.mktemp("cut"))
    if cut >= first:
        assert set(range(BLOCK_IMAGES)) <= back
    assert not back & lost
    assert back == set(range(len(back)))


@settings(max_examples=60)
@given(data=st.data())
def test_bytes_lost_in_the_middle_cost_a_block_or_two(
    data: st.DataObject, stream: bytes, whole: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Without its place no image has its number, so only pixels can be compared; all blocks not
    touched are there.
    """
    start = data.draw(st.integers(COLLECTION.size, len(stream) - 100))
    size = data.draw(st.integers(1, 60))
    path = tmp_path_factory.mktemp("gap") / "x.aez"
    path.write_bytes(stream[:start] + stream[start + size :])
    result = aez("decompress", path, "-o", path.with_suffix(".npy"), "--json")
    assert result.exit_code == 4
    there = {image.tobytes() for image in whole}
    back = arrays.read_array(path.with_suffix(".npy"))
    assert all(image.tobytes() in there for image in back)
    assert len(back) >= COUNT - 2 * BLOCK_IMAGES


# The header


@pytest.mark.parametrize("at", range(COLLECTION.size))
@pytest.mark.parametrize("footer", [True, False])
def test_damaged_header_costs_no_image_and_is_told(
    stream: bytes, whole: np.ndarray, at: int, footer: bool
) -> None:
    for bit in range(8):
        if (at, bit, footer) == (2, 3, False):
            # without its footer *and* with the flag of a single image, nothing says that this is a
            # collection
            continue
        damaged = bytearray(stream if footer else stream[:-30])
        damaged[at] ^= 1 << bit
        with pytest.raises(BitstreamError):
            api.open(bytes(damaged))
        collection = api.open(bytes(damaged), recover=True)
        *blocks, last = collection.salvage()
        np.testing.assert_array_equal(np.concatenate([block.pixels for block in blocks]), whole)
        assert last.fault is collection.fault
        assert collection.fault is not None
        with open_stream(damaged, recover=True) as opened:
            assert len(list(opened.salvage())) == len(blocks) + 1
        with pytest.raises(AezError):
            api.decompress(bytes(damaged))


def test_header_that_holds_is_obeyed_even_by_recovery(stream: bytes) -> None:
    """A later version, and a critical field that is unknown, with the Check that fits: no damage,
    so no recovery.
    """
    for start, area in [
        (b"\xae\x5a\x28", b""),
        (b"\xae\x5a\x1c", pack_extension({0x02: b"28x29"})),
    ]:
        later = start + bytes([crc8(start + area)]) + area + stream[COLLECTION.size :]
        with pytest.raises(UnsupportedVersion):
            api.open(later, recover=True)


def test_recovery_finds_nothing_where_nothing_is(stream: bytes) -> None:
    for other in (
        b"\x89PNG\r\n\x1a\n" + bytes(2000),
        b"aezB" * 500,
        stream[:4][::-1] + b"aezB" + stream[8:40],
    ):
        with pytest.raises(BadMagic):
            api.open(other, recover=True)


# Merging, embedding


def merge(folder: Path, *streams: bytes, out: str = "m.aez") -> Any:
    paths = []
    for i, one in enumerate(streams):
        paths.append(folder / f"{i}.aez")
        paths[-1].write_bytes(one)
    return aez("merge", *paths, "-o", folder / out, "--json")


def test_merged_collection_holds_the_blocks_as_they_were(
    stream: bytes, whole: np.ndarray, tmp_path: Path
) -> None:
    other = api.compress(helpers.drawn(5), quality=90, names=[f"b/{i}" for i in range(5)])
    empty = api.compress(helpers.drawn(1)[:0], quality=90)
    result = merge(tmp_path, stream, empty, other)
    assert (result.exit_code, json.loads(result.stdout)["images"]) == (0, COUNT + 5)
    merged = (tmp_path / "m.aez").read_bytes()
    first, second = (api.open(one) for one in (stream, other))
    joined = api.open(merged)
    assert [block.read() for block in joined.blocks] == [
        block.read() for block in (*first.blocks, *second.blocks)
    ]
    assert joined.names == first.names + second.names
    np.testing.assert_array_equal(api.decompress(merged)[:COUNT], whole)
    assert json.loads(result.stdout)["bytes_out"] == len(merged)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["3.png"], "1.aez: 3.png would both be restored as 3.png"),
        (["3.png/x"], "1.aez: 3.png/x would be restored as 3.png and as a file below it"),
        (["3.jpg"], "would both be restored"),
        (None, "have none"),
    ],
)
def test_collections_that_do_not_fit_are_not_merged(
    stream: bytes, names: list[str] | None, message: str, tmp_path: Path
) -> None:
    result = merge(tmp_path, stream, api.compress(helpers.drawn(1), quality=1, names=names))
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "m.aez").exists()


@pytest.mark.parametrize("at", [0, 100, 200, -30])
def test_damaged_collection_is_not_merged(stream: bytes, at: int, tmp_path: Path) -> None:
    damaged = bytearray(stream)
    damaged[at] ^= 1
    result = merge(tmp_path, api.compress(helpers.drawn(1), names=["x"]), bytes(damaged))
    assert result.exit_code == 4
    assert "1.aez" in result.output
    assert not (tmp_path / "m.aez").exists()


def test_merge_refuses_what_makes_no_sense(stream: bytes, tmp_path: Path) -> None:
    alone = merge(tmp_path, stream)
    assert (alone.exit_code, "give at least two collections" in alone.output) == (2, True)
    twice = aez("merge", tmp_path / "0.aez", tmp_path / "0.aez", "-o", tmp_path / "m.aez")
    said = f"{tmp_path / '0.aez'} is given twice: it would have two images 0.png"
    assert (twice.exit_code, said in twice.output) == (2, True), twice.output
    assert merge(tmp_path, stream, stream, out="m.npy").exit_code == 2
    single = merge(tmp_path, stream, api.compress(helpers.drawn(1)[0]))
    assert single.exit_code == 4
    assert ": this is a single image, not a collection" in single.output
    (tmp_path / "m.aez").write_bytes(b"there")
    assert merge(tmp_path, stream, stream).exit_code == 2
    assert (tmp_path / "m.aez").read_bytes() == b"there"


def test_embedded_model_makes_a_collection_readable_where_it_is_not_installed(
    whole: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = api.compress(helpers.drawn(COUNT), quality=QUALITY, effort=1)
    np.save(tmp_path / "x.npy", helpers.drawn(COUNT))
    assert (
        aez("compress", tmp_path / "x.npy", "-q", QUALITY, "-e", 1, "--embed-model").exit_code == 0
    )
    stream = (tmp_path / "x.aez").read_bytes()
    assert stream == api.compress(helpers.drawn(COUNT), quality=QUALITY, effort=1, embed_model=True)
    assert unpack_models(stream) == [helpers.tiny_bundle()]  # and not its encoder
    assert stream[unpack_collection_header(stream) :] == plain[COLLECTION.size :]
    monkeypatch.setenv("AEZ_WEIGHTS", str(tmp_path / "none"))
    with pytest.raises(api.registry.ModelNotFound):
        api.decompress(plain)
    np.testing.assert_array_equal(api.decompress(stream), whole)
    np.testing.assert_array_equal(api.open(stream)[[3, 1]], whole[[3, 1]])
    merged = merge(tmp_path, stream, stream)  # each model once
    assert merged.exit_code == 0
    assert (
        len((tmp_path / "m.aez").read_bytes()) < 2 * len(stream) - len(helpers.tiny_bundle()) + 100
    )
    np.testing.assert_array_equal(api.decompress((tmp_path / "m.aez").read_bytes())[COUNT:], whole)


def test_embedded_model_is_believed_only_under_its_own_hash(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = api.compress(helpers.drawn(3), quality=QUALITY, effort=1)
    other = pack_collection_header([helpers.tiny_bundle(1)]) + plain[COLLECTION.size :]
    monkeypatch.setenv("AEZ_WEIGHTS", str(tmp_path))
    with pytest.raises(api.registry.ModelNotFound):
        api.decompress(other)


def test_flipped_bit_in_an_embedded_model_is_found_by_the_check_of_the_header(
    whole: np.ndarray,
) -> None:
    stream = bytearray(
        api.compress(helpers.drawn(COUNT), quality=QUALITY, effort=1, embed_model=True)
    )
    stream[len(helpers.tiny_bundle()) // 2] ^= 16
    with pytest.raises(ChecksumMismatch, match="header"):
        api.open(bytes(stream))
    blocks = list(api.open(bytes(stream), recover=True).salvage())  # the installed model does
    np.testing.assert_array_equal(blocks[0].pixels, whole)


@pytest.mark.parametrize(
    ("area", "error"),
    [
        (pack_varint(1 << 25) + b"x", "at most 16777216"),
        (pack_varint(9) + b"x", "1 are left"),
        (b"\x80", "ends inside a number"),
        (b"\x80\x80\x80\x80\x80\x80", "more than 5 bytes"),
    ],
)
def test_absurd_embedded_models_are_refused_before_they_are_taken(area: bytes, error: str) -> None:
    start = b"\xae\x5a\x1c"
    extension = pack_extension({EXTENSION_MODELS: area})
    header = start + bytes([crc8(start + extension)]) + extension
    # ignorable: of no concern until a model is missing
    assert unpack_collection_header(header) == len(header)
    with pytest.raises(BitstreamError, match=error):
        unpack_models(header)


def test_models_too_large_to_embed_are_refused() -> None:
    model: Any = SimpleNamespace(stream=bytes(1 << 24))
    with pytest.raises(api.UsageError, match="too large to embed"):
        Encoder(Options.of(), [model]).model_files()


def test_single_image_embeds_no_model(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(images.pack_png(helpers.drawn(1)[0]))
    result = aez("compress", tmp_path / "a.png", "--embed-model")
    assert result.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
