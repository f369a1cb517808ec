"""Labels: what is one, their bytes, collections that have them, and what a reader refuses."""

from __future__ import annotations

import gzip
import importlib
import io
import json
import os
import pickle
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import codec
from codec import labels as ground
from codec import zstd
from codec.cli.app import app
from codec.collection.open import open_stream
from codec.commands import work
from codec.commands.compress import CompressOptions, compress
from codec.commands.events import Result
from codec.encoder.options import Options
from codec.errors import (
    BitstreamError,
    CorruptPayload,
    LimitExceeded,
    ReservedBitsSet,
    TrailingData,
    Truncated,
    UsageError,
)
from codec.files import images
from codec.format.constants import MAX_LABELS_BYTES
from codec.format.headers import BLOCK, BlockHeader
from codec.format.labels import labels_span, pack_labels, pack_labels_area, unpack_labels
from codec.format.primitives import checksum, pack_varint
from codec.labels import MAX_LABEL, Labels, checked, digest_of, joined, picked

pytestmark = pytest.mark.usefixtures("shipped")
FORMAT = (Path(codec.__file__).parent / "FORMAT.md").read_text("utf-8")
DATA = Path(os.environ.get("AEZ_DATA", Path(codec.__file__).parents[2] / "shared" / "data"))
TEXTS = ["cat", "dog", "cat", "数字"]


def frame(content: bytes) -> bytes:
    """A zstd frame as labels are in."""
    return zstd.pack(content, checksum=True)


def content_of(labels: Labels) -> bytes:
    """What is in the frame."""
    packed = pack_labels(labels)
    return zstd.unpack(packed, zstd.content_size(packed) or 0)


def as_list(labels: Labels | None) -> list[Any]:
    assert labels is not None
    return labels if isinstance(labels, list) else labels.tolist()


def minimal(function: str) -> Callable[..., Any]:
    """A function of the second decoder, written from FORMAT.md."""
    helpers.minimal_decoder()
    found: Callable[..., Any] = getattr(importlib.import_module("minimal_decoder"), function)
    return found


some_texts = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=60)
some_labels = st.one_of(
    st.lists(st.integers(0, MAX_LABEL), min_size=1, max_size=40),
    st.lists(st.integers(0, 9), min_size=1, max_size=300),
    st.lists(some_texts, min_size=1, max_size=40),
    st.lists(st.sampled_from(TEXTS), min_size=1, max_size=300),
)


# ---- what is a label


@given(some_labels)
def test_labels_in_any_sequence_are_what_they_are(labels: list[Any]) -> None:
    for given_as in (labels, tuple(labels), np.array(labels, object), iter(labels)):
        assert as_list(checked(given_as)) == labels
    found = checked(labels, len(labels))
    assert isinstance(found, list) == isinstance(labels[0], str)
    if not isinstance(found, list):
        assert found.dtype == np.int64


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "<u4", ">i8", "<u8"])
def test_arrays_of_any_integers_are_labels(dtype: str) -> None:
    labels = checked(np.arange(100).astype(dtype)[::3], 34)
    assert as_list(labels) == list(range(0, 100, 3))


def test_tensors_and_arrays_of_texts_are_labels() -> None:
    assert as_list(checked(torch.tensor([7, 0]))) == [7, 0]
    assert as_list(checked([torch.tensor(7), np.uint8(3), 4])) == [7, 3, 4]
    texts = checked(np.array(TEXTS))
    assert texts == TEXTS
    assert {type(text) for text in texts} == {str}
    assert as_list(checked([])) == as_list(checked(np.array([]))) == []


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 2, 3], "3 labels for 4 images"),
        ([1, 2, 3, 4, 5], "5 labels for 4 images"),
        (np.arange(5), "5 labels for 4 images"),
        ([], "0 labels for 4 images"),
        ([0, -1, 0, 0], "label 1 is -1, wanted an integer from 0 to 4294967295, or a text"),
        ([0, 0, 2**32, 0], "label 2 is 4294967296, wanted an integer"),
        (np.array([0, 0, 0, -1], np.int8), "label 3 is -1, wanted an integer"),
        (np.array([0, 0, 2**63, 0], np.uint64), f"label 2 is {2**63}, wanted an integer"),
        ([0, 10**30, 0, 0], "label 1 is 1000000000"),
        ([0, 1.5, 0, 0], "label 1 is 1.5, wanted an integer"),
        ([0, 1.0, 0, 0], "label 1 is 1.0, wanted an integer"),
        (np.array([0, 1, 2, 3.0]), "labels are float64, wanted integers or texts"),
        ([0, True, 0, 0], "label 1 is True, wanted an integer"),
        ([0, np.True_, 0, 0], "wanted an integer"),
        (np.zeros(4, bool), "labels are bool, wanted integers or texts"),
        ([0, None, 0, 0], "label 1 is None, wanted an integer"),
        ([b"a", b"b", b"c", b"d"], "label 0 is b'a', wanted an integer"),
        (np.array([b"a", b"b", b"c", b"d"]), r"labels are \|S1, wanted integers or texts"),
        (["a", "", "c", "d"], "label 1, '', is empty"),
        (["a", "b\0", "c", "d"], r"label 1, 'b\\x00', contains NUL"),
        (["a", "b", "\udcff", "d"], "label 2, .* is not UTF-8"),
        (["a", "b", "c", "d" * 256], "label 3, 'dddd.*', has 256 bytes, at most 255 are allowed"),
        (["é" * 128, "b", "c", "d"], "label 0, .*, has 256 bytes"),
        ([1, 2, "c", 4], "label 0 is 1, label 2 is 'c': give integers or texts, not both"),
        (["a", "b", 3, "d"], "label 0 is 'a', label 2 is 3: give integers or texts"),
        (np.zeros((4, 1), int), r"labels are of shape \(4, 1\), wanted one axis"),
        (np.int64(4), r"labels are of shape \(\), wanted one axis"),
        ("abcd", "labels are of type str, wanted a list"),
        (b"abcd", "labels are of type bytes, wanted a list"),
        ({1, 2, 3, 4}, "labels are of type set, wanted a list"),
        (dict.fromkeys("abcd"), "labels are of type dict, wanted a list"),
        (4, "labels are of type int, wanted a list"),
    ],
)
def test_what_is_no_label_is_refused_and_said(labels: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        checked(labels, 4)
    with pytest.raises(UsageError, match=message):
        codec.compress(helpers.drawn(4), labels=labels)


def test_the_longest_text_and_the_largest_integer_are_labels() -> None:
    for labels in (["d" * 255, "é" * 127], [MAX_LABEL, 0]):
        assert as_list(unpack_labels(pack_labels(checked(labels)), 2, 0)) == labels


@given(some_labels, st.randoms(use_true_random=False))
def test_picking_and_joining_keep_the_order(labels: list[Any], random: Any) -> None:
    found = checked(labels)
    which = [random.randrange(len(labels)) for _ in range(5)]
    mask = np.array([random.random() < 0.5 for _ in labels])
    assert as_list(picked(found, which)) == [labels[i] for i in which]
    assert as_list(picked(found, mask)) == [labels[i] for i in np.flatnonzero(mask)]
    assert as_list(picked(found, [])) == []
    cut = random.randrange(len(labels) + 1)
    assert as_list(joined([checked(labels[:cut]), checked(labels[cut:])])) == labels


def test_digests_tell_labels_apart() -> None:
    one = [["1", "2"], np.array([1, 2]), ["12"], ["1", "2", "3"], np.array([2, 1])]
    digests = [digest_of(labels) for labels in one]
    assert len({*digests, digest_of(None)}) == 6
    assert digest_of(np.array([1, 2], np.int32).astype(np.int64)) == digests[1]


# ---- bytes


def test_examples_of_the_document_are_what_is_packed() -> None:
    section = FORMAT[FORMAT.index("### 3.7 Labels") : FORMAT.index("## 4 Footer")]
    examples = re.findall(r"`((?:[0-9a-f]{2} )+[0-9a-f]{2})`", section)
    assert [
        content_of(labels).hex(" ") for labels in (np.array([7, 0, 258]), TEXTS[:3])
    ] == examples


@given(some_labels)
def test_unpacking_inverts_packing_in_both_decoders(labels: list[Any]) -> None:
    packed = pack_labels(checked(labels))
    assert as_list(unpack_labels(packed, len(labels), 0)) == labels
    assert minimal("labels_of")(packed, len(labels)) == labels


@pytest.mark.parametrize(
    ("labels", "width", "size"),
    [
        ([0, 255], 1, 1 + 2),
        ([0, 256], 2, 1 + 4),
        ([65535], 2, 1 + 2),
        ([65536], 4, 1 + 4),
        ([str(i) for i in range(256)], 1, 1 + 2 + 914 + 256),
        ([str(i) for i in range(257)], 2, 1 + 2 + 918 + 2 * 257),
    ],
)
def test_the_least_width_is_taken(labels: list[Any], width: int, size: int) -> None:
    content = content_of(checked(labels))
    assert (content[0] & 0x7F, len(content)) == (width, size)


@pytest.mark.slow
def test_four_thousand_of_the_longest_texts_fit_a_block() -> None:
    labels = [f"{i:0255}" for i in range(4096)]
    assert len(content_of(labels)) < MAX_LABELS_BYTES
    assert unpack_labels(pack_labels(labels), 4096, 0) == labels


@pytest.mark.parametrize("real", [*helpers.slow(False), True])
def test_ten_thousand_labels_of_digits_take_no_more_than_5000_bytes(real: bool) -> None:
    """As the difference of whole collections; random ones cost the most."""
    digits = np.random.default_rng(0).integers(0, 10, 10_000)
    if real:
        path = DATA / "mnist" / "t10k-labels-idx1-ubyte.gz"
        if not path.exists():
            pytest.skip(f"{path} is not there")
        digits = np.frombuffer(gzip.decompress(path.read_bytes())[8:], np.uint8)
    pixels = np.zeros((10_000, 28, 28), np.uint8)
    plain, labelled = (codec.compress(pixels, quality=0, labels=each) for each in (None, digits))
    assert len(labelled) - len(plain) <= 5_000
    assert as_list(codec.open(labelled).labels) == digits.tolist()


@pytest.mark.parametrize(
    ("content", "count", "error"),
    [
        ("01 07 08", 2, None),
        ("", 2, LimitExceeded),  # no kind
        ("00 07 08", 2, ReservedBitsSet),  # a width of 0, 3, 5
        ("03 07 08 00 00 00 00", 2, ReservedBitsSet),
        ("05" + " 00" * 10, 2, ReservedBitsSet),
        ("09 07 08", 2, ReservedBitsSet),  # each reserved bit
        ("11 07 08", 2, ReservedBitsSet),
        ("21 07 08", 2, ReservedBitsSet),
        ("41 07 08", 2, ReservedBitsSet),
        ("01 07", 2, CorruptPayload),  # too few, too many
        ("01", 2, CorruptPayload),
        ("01 07 08 09", 2, CorruptPayload),
        ("81 02 61 00 62 00 00 01", 2, None),
        ("81 82 80 00 61 00 62 00 00 01", 2, None),  # the count in three bytes
        ("81 82 80 80 00 61 00 62 00 00 01", 2, CorruptPayload),  # in four
        ("81", 2, CorruptPayload),  # no count
        ("81 00 00 00", 2, LimitExceeded),
        ("81 03 61 00 62 00 63 00 00 01", 2, LimitExceeded),  # three texts for two images
        ("81 02 61 00 62 00 00 02", 2, CorruptPayload),  # of no text
        ("81 02 61 00 62 00 00", 2, CorruptPayload),  # a number, a zero byte, a text missing
        ("81 02 61 00 62 00 01", 2, CorruptPayload),
        ("81 02 61 00 00 01", 2, CorruptPayload),
        ("81 01 61 00 62 00 00 00", 2, CorruptPayload),  # a text too many
        ("81 02 61 00 62 00 00 01 00", 2, CorruptPayload),  # a byte too many
        ("81 02 61 00 00 00 01", 2, CorruptPayload),  # an empty text
        ("81 01 80 00 00 00", 2, CorruptPayload),  # no UTF-8
        ("81 01 ed a0 80 00 00 00", 2, CorruptPayload),  # a surrogate
        ("81 01" + " 61" * 255 + " 00 00 00", 2, None),
        ("81 01" + " 61" * 256 + " 00 00 00", 2, CorruptPayload),
        ("81 02 61 00 61 00 00 01", 2, None),  # a text twice, a text of no image
        ("81 02 61 00 62 00 01 01", 2, None),
    ],
)
def test_both_decoders_refuse_the_same_contents(
    content: str, count: int, error: type[BitstreamError] | None
) -> None:
    packed = frame(bytes.fromhex(content))
    if error is None:
        found = as_list(unpack_labels(packed, count, 0))
        assert minimal("labels_of")(packed, count) == found
        return
    with pytest.raises(BitstreamError) as caught:
        unpack_labels(packed, count, 1000)
    assert (type(caught.value), caught.value.offset) == (error, 1000)
    with pytest.raises(ValueError, match=r".+"):
        minimal("labels_of")(packed, count)


@given(
    st.builds(
        lambda kind, rest: bytes([kind]) + rest,
        st.sampled_from([0x01, 0x02, 0x04, 0x81, 0x82]) | st.integers(0, 255),
        st.lists(st.sampled_from([0, 1, 2, 3, 0x61, 0x80, 0xC3, 0xA9]), max_size=16).map(bytes),
    ),
    st.integers(1, 4),
)
def test_both_decoders_make_the_same_of_any_content(content: bytes, count: int) -> None:
    packed = frame(content)
    try:
        found: Any = as_list(unpack_labels(packed, count, 0))
    except BitstreamError:
        found = None
    try:
        other = minimal("labels_of")(packed, count)
    except ValueError:
        other = None
    assert found == other


@pytest.mark.parametrize(
    ("packed", "error"),
    [
        (zstd.pack(b"\1\7\7"), CorruptPayload),
        (helpers.zstd_frame(b"\1\7\7", content_size_flag=False, checksum_flag=True), LimitExceeded),
        (frame(bytes(MAX_LABELS_BYTES + 1)), LimitExceeded),
        (frame(b"\1\7\7") + b"\0", CorruptPayload),
        (frame(b"\1\7\7") + frame(b"\1\7\7"), CorruptPayload),
        (b"\x50\x2a\x4d\x18" + bytes(8), LimitExceeded),  # a frame that zstd skips
        (b"no frame of zstd", CorruptPayload),
        (b"", CorruptPayload),
    ],
)
def test_both_decoders_refuse_the_same_frames(packed: bytes, error: type[BitstreamError]) -> None:
    with pytest.raises(error):
        unpack_labels(packed, 2, 0)
    with pytest.raises((ValueError, IndexError)):
        minimal("labels_of")(packed, 2)


@pytest.mark.parametrize("labels", [np.arange(40) % 7, [f"class {i % 7}" for i in range(40)]])
def test_damaged_labels_are_told_by_their_own_checksum(labels: Labels) -> None:
    """Random access does not see the Checksum of the block."""
    packed, harmless = pack_labels(labels), 0
    for damaged in [*helpers.cuts(packed), *helpers.flips(packed)]:
        try:  # a bit that zstd leaves unused may be flipped
            assert as_list(unpack_labels(damaged, 40, 0)) == as_list(labels)
            harmless += 1
        except BitstreamError:
            pass
    assert harmless <= 8


@pytest.mark.parametrize(
    ("start", "names_bytes", "named", "error", "offset"),
    [
        ("05", 6, False, None, 0),
        ("05", 9, True, None, 0),
        ("85 80 80 80 00", 10, False, None, 0),  # a length of five bytes
        ("", 0, False, Truncated, 1000),
        ("85", 1, False, Truncated, 1000),
        ("85 80 80 80 80 00", 11, False, LimitExceeded, 1000),
        ("06", 6, True, LimitExceeded, 1000),  # longer than its area
        ("81 80 80 01", 1 << 24, True, LimitExceeded, 1000),  # longer than any may be
        ("05", 9, False, TrailingData, 1006),  # bytes behind them that are no names
    ],
)
def test_where_labels_lie_is_checked(
    start: str, names_bytes: int, named: bool, error: type[BitstreamError] | None, offset: int
) -> None:
    header = BlockHeader(bytes(8), 75, named, 2, names_bytes, 1, 1, has_labels=True)
    if error is None:
        assert labels_span(bytes.fromhex(start), header, 1000)[1] == 5
        return
    with pytest.raises(BitstreamError) as caught:
        labels_span(bytes.fromhex(start), header, 1000)
    assert (type(caught.value), caught.value.offset) == (error, offset)


# ---- collections


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("labels", [np.arange(50) * 13 % 300, [TEXTS[i % 4] for i in range(50)]])
def test_labels_come_back_with_and_without_names(labels: Labels, named: bool) -> None:
    names = [f"{i}.png" for i in range(50)] if named else None
    for block_images in (4096, 20, 1):
        stream = helpers.collect(50, names, labels=labels, block_images=block_images)
        with codec.open(stream) as collection:
            assert collection.has_labels
            assert as_list(collection.labels) == as_list(labels)
            assert collection.names == (names or [])
            assert [collection.label(i) for i in (0, 33, -1)] == [
                as_list(labels)[i] for i in (0, 33, -1)
            ]
            for wanted in ([40, 3, 3, -1, 22], [], tuple(range(5, 45, 7)), np.array([7, 6])):
                index = list(wanted)
                assert as_list(collection.labels_at(wanted)) == [as_list(labels)[i] for i in index]
            assert as_list(collection.labels_at(slice(None, None, -3))) == as_list(labels)[::-3]
        decoded = helpers.salvage(stream)
        assert [label for each in decoded for label in as_list(each.labels)] == as_list(labels)
        assert all(each.fault is None for each in decoded)
        assert minimal("labels")(stream) == as_list(labels)
        assert minimal("names")(stream) == (names or [None] * 50)
        np.testing.assert_array_equal(
            codec.decompress(stream), codec.decompress(helpers.collect(50))
        )


def test_one_label_is_an_int_or_a_str() -> None:
    assert type(codec.open(helpers.collect(3, labels=np.arange(3))).label(1)) is int
    assert type(codec.open(helpers.collect(3, labels=["a", "b", "c"])).label(1)) is str


def test_without_labels_there_are_none() -> None:
    for count in (3, 0):
        collection = codec.open(helpers.collect(count))
        assert (collection.has_labels, collection.labels, collection.label_kinds[:1]) == (
            False,
            None,
            ["no labels"] * (count > 0),
        )
        assert collection.labels_at([]) is None
    assert collection.distinct_labels() == set()
    with pytest.raises(UsageError, match="image 1 has no label"):
        codec.open(helpers.collect(3)).label(1)
    with pytest.raises(IndexError):
        codec.open(helpers.collect(3)).label(3)
    assert minimal("labels")(helpers.collect(3)) == [None] * 3
    assert minimal("labels")(codec.compress(helpers.drawn(1)[0])) == [None]


def test_an_index_out_of_range_or_of_another_kind_is_refused() -> None:
    collection = codec.open(helpers.collect(5, labels=np.arange(5)))
    for wrong in (5, -6, [0, 5]):
        with pytest.raises(IndexError, match="of 5, the first is 0"):
            collection.labels_at(wrong)
    for other in ([0.5], "1"):
        with pytest.raises(TypeError):
            collection.labels_at(other)  # type: ignore[arg-type]


def test_a_label_is_read_without_the_rest_of_its_block() -> None:
    labels = np.random.default_rng(0).integers(0, 10, 3000)
    names = [f"train/{i}" for i in range(3000)]
    stream = helpers.collect(3000, names, labels=labels, block_images=1000)
    file = helpers.CountingFile(stream)
    collection = codec.open(file)
    header = collection.blocks[1].header
    frame_bytes = len(pack_labels(labels[1000:2000]))
    file.bytes_read = 0
    assert collection.label(1500) == labels[1500]
    assert file.bytes_read == 5 + frame_bytes
    assert frame_bytes < 500
    file.bytes_read = 0
    assert as_list(collection.labels_at([1999, 1000])) == labels[[1999, 1000]].tolist()
    assert file.bytes_read == 0  # they are known by now
    assert collection.name(1500) == "train/1500"
    assert file.bytes_read == 5 + header.names_bytes - len(pack_labels_area(labels[1000:2000]))
    assert len(collection.blocks[1].index.parts) == 1
    file.bytes_read = 0
    collection[1500]
    assert file.bytes_read < 1000


def test_of_a_mixture_each_block_gives_what_it_has() -> None:
    pieces: list[Labels | None] = [np.arange(20), None, ["x"] * 20]
    streams = [helpers.collect(20, labels=labels) for labels in pieces]
    collection = codec.open(helpers.joined(*streams))
    assert [collection.label(i) for i in (3, 45)] == [3, "x"]
    assert as_list(collection.labels_at([19, 0])) == [19, 0]
    assert as_list(collection.labels_at(slice(40, 42))) == ["x", "x"]
    assert collection.label_kinds == ["integers", "no labels", "texts"]
    for ask in (lambda: collection.label(20), lambda: collection.labels_at([0, 25, 22])):
        with pytest.raises(UsageError, match=r"image 2\d has no label, but others have one"):
            ask()
    with pytest.raises(UsageError, match="some labels are integers and some are texts"):
        collection.labels_at([0, 50])
    with pytest.raises(UsageError):
        _ = collection.labels
    info = codec.info(helpers.joined(*streams))
    assert (info.labels, info.label_kind) == (21, "integers, texts")
    assert minimal("labels")(helpers.joined(*streams)) == [*range(20), *[None] * 20, *["x"] * 20]


def test_verdicts_carry_the_labels_of_the_images_that_are_picked() -> None:
    for labels in (np.arange(20), [f"{i}" for i in range(20)]):
        (decoded,) = helpers.salvage(helpers.collect(20, labels=labels))
        which = np.arange(20) % 7 == 3
        for one in (decoded.pick(which), decoded.verdict.pick(which), decoded.pick(which).verdict):
            assert as_list(one.labels) == [as_list(labels)[i] for i in (3, 10, 17)]
        (plain,) = helpers.salvage(helpers.collect(20))
        assert plain.pick(which).labels is None


def relabelled(stream: bytes, at: int, change: int) -> bytes:
    """A collection of one block with a changed byte in its names area, and a right Checksum."""
    header_end = 4 + BLOCK.size
    block = bytearray(stream[4 : len(stream) - 46])
    block[BLOCK.size + at] ^= change
    block[30:46] = checksum(bytes(block[:30]), bytes(block[46:]))
    assert header_end
    return stream[:4] + bytes(block) + stream[len(stream) - 46 :]


@pytest.mark.parametrize("honest", [False, True])
def test_damaged_labels_cost_no_image_and_no_name(honest: bool, tmp_path: Path) -> None:
    """Whether the Checksum tells it or only the labels do."""
    names = [f"{i}.png" for i in range(20)]
    stream = helpers.collect(20, names, labels=np.arange(20) % 3)
    damaged = bytearray(relabelled(stream, 12, 0x10))
    if not honest:
        damaged = bytearray(stream)
        damaged[4 + BLOCK.size + 12] ^= 0x10
    (decoded,) = helpers.salvage(bytes(damaged))
    assert not decoded.lost.any()
    assert "labels" in str(decoded.fault)
    assert decoded.labels is None
    assert decoded.names == names
    with pytest.raises(BitstreamError, match="labels"):
        codec.decompress(bytes(damaged))
    collection = codec.open(bytes(damaged))
    assert collection.names == names
    np.testing.assert_array_equal(collection[:], codec.decompress(stream))
    with pytest.raises(BitstreamError):
        collection.label(3)
    with pytest.raises(BitstreamError):
        codec.info(bytes(damaged))
    path = tmp_path / "x.aez"
    path.write_bytes(damaged)
    tested, restored = (
        CliRunner().invoke(app, [*command, str(path)]) for command in (["test"], ["decompress"])
    )
    assert tested.exit_code == restored.exit_code == 4
    assert "block 0" in tested.output
    assert len(list((tmp_path / "x").iterdir())) == 20


def test_damaged_names_cost_no_label() -> None:
    labels = np.arange(20) % 3
    stream = helpers.collect(20, [f"{i}.png" for i in range(20)], labels=labels)
    damaged = relabelled(stream, len(pack_labels_area(labels)) + 9, 0x10)
    (decoded,) = helpers.salvage(damaged)
    assert decoded.fault is not None
    assert as_list(decoded.labels) == labels.tolist()
    assert decoded.names[3] == "nameless-00000003"
    assert as_list(codec.open(damaged).labels) == labels.tolist()


@pytest.mark.parametrize("at", range(5))
def test_a_wrong_length_of_labels_costs_no_image(at: int) -> None:
    stream = helpers.collect(20, ["x"] * 20, labels=np.arange(20))
    damaged = relabelled(stream, 0, 1 << at)
    (decoded,) = helpers.salvage(damaged)
    assert not decoded.lost.any()
    assert decoded.fault is not None
    assert decoded.labels is None
    with pytest.raises(BitstreamError):
        codec.open(damaged).label(0)
    with pytest.raises(ValueError, match=r".+"):
        minimal("labels")(damaged)


def test_collections_with_labels_are_shared_and_pickled(tmp_path: Path) -> None:
    labels = np.arange(200) % 11
    path = tmp_path / "x.aez"
    path.write_bytes(helpers.collect(200, labels=labels, block_images=20))
    with codec.open(path) as collection, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(collection.label, range(200))) == labels.tolist()
        copy = pickle.loads(pickle.dumps(collection))
        assert as_list(copy.labels) == labels.tolist()
        verdict = pickle.loads(pickle.dumps(next(iter(collection.salvage())).verdict))
        assert as_list(verdict.labels) == labels[:20].tolist()
        found = collection.labels_at([5, 6])
        assert isinstance(found, np.ndarray)
        found[:] = 99  # what was given out is the caller's
        assert as_list(collection.labels_at([5, 6])) == [5, 6]


# ---- the writer


@pytest.mark.parametrize("labels", [np.arange(47) % 5, [TEXTS[i % 4] for i in range(47)]])
def test_the_same_labels_give_the_same_bytes_however_they_arrive(labels: Labels) -> None:
    """In blocks of 20."""
    names = [f"n{i}" for i in range(47)]
    expected = helpers.collect(47, names, labels=labels, block_images=20)
    for pieces in ([47], [1] * 47, [0, 19, 2, 0, 26]):
        file = io.BytesIO()
        with codec.CollectionWriter(file, quality=40, effort=1, block_images=20) as writer:
            at = 0
            for piece in pieces:
                end = at + piece
                writer.write(helpers.drawn(47)[at:end], names[at:end], labels[at:end])
                at = end
        assert file.getvalue() == expected


def test_labels_that_do_not_fit_are_refused_and_nothing_is_written() -> None:
    file = io.BytesIO()
    with codec.CollectionWriter(file, quality=40, effort=1) as writer:
        writer.write(helpers.drawn(3), ["a", "b", "c"], [1, 2, 3])
        with pytest.raises(UsageError, match="some images of the collection have labels and some"):
            writer.write(helpers.drawn(1), ["d"])
        with pytest.raises(
            UsageError, match=r"earlier images .* have integers as labels, .* texts"
        ):
            writer.write(helpers.drawn(1), ["d"], ["x"])
        with pytest.raises(UsageError, match="2 labels for 1 image"):
            writer.write(helpers.drawn(1), ["d"], [1, 2])
        with pytest.raises(UsageError, match="label 0 is -1"):
            writer.write(helpers.drawn(1), ["d"], [-1])
        writer.write(helpers.drawn(1), ["d"], [4])  # the name is still free
    with codec.open(file.getvalue()) as collection:
        assert as_list(collection.labels) == [1, 2, 3, 4]
        assert collection.names == ["a", "b", "c", "d"]
    with codec.CollectionWriter(io.BytesIO()) as writer:
        writer.write(helpers.drawn(1))
        with pytest.raises(UsageError, match="have labels and some have none"):
            writer.write(helpers.drawn(1), labels=[1])


def test_one_image_has_no_room_for_a_label() -> None:
    with pytest.raises(UsageError, match=r"a label .* give pixels of shape \(1, 28, 28\)"):
        codec.compress(helpers.drawn(1)[0], labels=[7])
    assert as_list(codec.open(codec.compress(helpers.drawn(1), labels=[7])).labels) == [7]
    assert as_list(codec.open(codec.compress([helpers.drawn(1)[0]], labels=[7])).labels) == [7]


def test_info_counts_the_labels_that_differ(tmp_path: Path) -> None:
    path = tmp_path / "x.aez"
    for labels, said in (([3, 3, 7], "2 different labels, "), (["a"] * 3, "1 different label, ")):
        path.write_bytes(codec.compress(helpers.drawn(3), labels=labels))
        assert said in CliRunner().invoke(app, ["info", str(path)]).stdout
        told = json.loads(CliRunner().invoke(app, ["info", "--json", str(path)]).stdout)
        kind = "integers" if labels[0] == 3 else "texts"
        assert (told["labels"], told["label_kind"]) == (len(set(labels)), kind)
    for stream in (codec.compress(helpers.drawn(3)), codec.compress(helpers.drawn(1)[0])):
        assert (codec.info(stream).labels, codec.info(stream).label_kind) == (None, None)
        path.write_bytes(stream)
        assert " label" not in CliRunner().invoke(app, ["info", str(path)]).stdout


# ---- merge, and removal of inputs


def merge(folder: Path, *streams: bytes) -> Any:
    paths = []
    for i, stream in enumerate(streams):
        paths.append(folder / f"{i}.aez")
        paths[-1].write_bytes(stream)
    return CliRunner().invoke(app, ["merge", *map(str, paths), "-o", str(folder / "m.aez")])


@pytest.mark.parametrize("labels", [np.arange(5), ["a", "b", "c", "d", "e"]])
def test_merge_keeps_labels(labels: Labels, tmp_path: Path) -> None:
    one = codec.compress(helpers.drawn(5), labels=labels)
    empty = codec.compress(helpers.drawn(5)[:0])
    assert merge(tmp_path, one, empty, one).exit_code == 0
    with codec.open(tmp_path / "m.aez") as collection:
        assert as_list(collection.labels) == 2 * as_list(labels)


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ([1, 2, 3], None, "0.aez has integers, .*1.aez has no labels"),
        (None, ["a", "b", "c"], "0.aez has no labels, .*1.aez has texts"),
        ([1, 2, 3], ["a", "b", "c"], "0.aez has integers, .*1.aez has texts"),
    ],
)
def test_labels_of_two_kinds_are_not_merged(
    one: Any, other: Any, said: str, tmp_path: Path
) -> None:
    result = merge(
        tmp_path, *(codec.compress(helpers.drawn(3), labels=each) for each in (one, other))
    )
    assert result.exit_code == 2
    assert re.search(said, result.output.replace("\n", " "))
    assert not (tmp_path / "m.aez").exists()


def test_damaged_labels_are_not_merged(tmp_path: Path) -> None:
    good = helpers.collect(20, labels=np.arange(20))
    result = merge(tmp_path, good, relabelled(good, 12, 0x10))
    assert (result.exit_code, (tmp_path / "m.aez").exists()) == (4, False)
    assert "1.aez" in result.output


def test_inputs_are_kept_if_the_output_has_other_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i, pixels in enumerate(helpers.drawn(3)):
        (tmp_path / "d").mkdir(exist_ok=True)
        (tmp_path / "d" / f"{i}.png").write_bytes(images.pack_png(pixels))
    monkeypatch.setattr(work, "labels_digest", lambda labels: "another")
    options = CompressOptions(Options(quality=0), remove=True)
    result = Result.of(compress([str(tmp_path / "d")], options=options))
    assert "does not hold the labels of its inputs, which are kept" in result.failed[0][1]
    assert len(list((tmp_path / "d").iterdir())) == 3


# ---- names, which the writer checks as the command line does


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.png"] * 2, "name 1, 'a.png': another image would also be restored as a.png"),
        (["d/a.png", "d/a.jpg"], "name 1, 'd/a.jpg': another image would also be restored as d/a"),
        (
            ["a.bmp", "a.png/b.png"],
            "name 1, 'a.png/b.png': its folder a.png is the file of another",
        ),
        (["x/a.png/b", "x/a"], "name 1, 'x/a': x/a.png is the folder of another image"),
        (["a", "../a.png"], "name 1, '../a.png': unsafe name"),
        (["a", "/a.png"], "name 1, '/a.png': unsafe name: it is absolute"),
        (["", "a"], "name 0, '': unsafe name: it is empty"),
        (["a", "b\0"], "name 1, .*NUL"),
        (["a", "x" * 300], "name 1, 'xxxx.*': unsafe name: .* over 255 bytes"),
        (["a", "\udcff"], "name 1, .*: unsafe name: it is not UTF-8"),
        (["a", 2], "name 1 is 2, not a text"),
        ([1, 2], "name 0 is 1, not a text"),
        (["a", None], "name 1 is None, not a text"),
        ("ab", "names is .ab.: give a list"),
        (7, "names is 7: give a list"),
        (["a"], "1 name for 2 images"),
    ],
)
def test_names_that_could_not_be_restored_are_not_written(names: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        codec.compress(helpers.drawn(2), names=names)


def test_names_are_checked_against_those_of_earlier_writes_and_none_is_kept_of_a_bad_one() -> None:
    file = io.BytesIO()
    with codec.CollectionWriter(file, quality=0) as writer:
        writer.write(helpers.drawn(2), ["a/b.png", "c.png"])
        for wrong in ("a/b.bmp", "c.png/d.png", "c.jpg"):
            with pytest.raises(UsageError, match="name 1"):
                writer.write(helpers.drawn(2), ["new.png", wrong])
        writer.write(helpers.drawn(2), ("new.png", "a/c.png"))
    assert codec.open(file.getvalue()).names == ["a/b.png", "c.png", "new.png", "a/c.png"]


def test_names_too_long_together_are_an_error_of_the_writer() -> None:
    """No reader would take such a block."""
    names = ["/".join([f"{i:04}", *["d" * 250] * 17]) for i in range(4000)]
    with pytest.raises(UsageError, match="the names of a block take 17"):
        codec.compress(np.zeros((4000, 28, 28), np.uint8), quality=0, names=names)


def test_every_word_of_the_ground_is_used_by_the_format() -> None:
    """The limits of the document are those of `codec.labels`."""
    assert (ground.MAX_LABEL, ground.MAX_LABEL_BYTES) == (2**32 - 1, 255)
    assert pack_varint(ground.MAX_LABEL) == bytes.fromhex("ff ff ff ff 0f")
    with open_stream(helpers.collect(3, labels=[*"abc"])) as stream:
        assert stream.distinct_labels() == set("abc")  # type: ignore[union-attr]
