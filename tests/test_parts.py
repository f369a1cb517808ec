"""Blocks whose images are of several parts, each with a model and a quality of its own."""

from __future__ import annotations

import io

import helpers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec import api
from codec.collection.writer import Writer
from codec.errors import BitstreamError, CorruptPayload, LimitExceeded, ReservedBitsSet, Truncated
from codec.format.block import pack_block
from codec.format.constants import MAX_PARTS, group_images
from codec.format.headers import BLOCK, BlockHeader, unpack_block_header
from codec.format.index import Part, _unpack, pack_index, pack_parts, unpack_index, unpack_parts
from codec.format.primitives import checksum
from codec.model.ladder import Ladder
from codec.model.pixels import Pixels

HASHES = [bytes([k] * 8) for k in range(4)]


def shared_out(owners: np.ndarray) -> list[Part]:
    """Part k has the images that k owns."""
    return [
        Part(HASHES[k % 4], k % 101, np.flatnonzero(owners == k)) for k in range(owners.max() + 1)
    ]


def header_of(parts: list[Part]) -> BlockHeader:
    count = sum(len(part.images) for part in parts)
    return BlockHeader(parts[0].model_hash, parts[0].quality, False, count, 0, 0, 0, has_parts=True)


def same(one: list[Part], other: list[Part]) -> None:
    for a, b in zip(one, other, strict=True):
        assert (a.model_hash, a.quality) == (b.model_hash, b.quality)
        np.testing.assert_array_equal(a.images, b.images)


@given(st.integers(2, 400), st.integers(2, 40), st.integers(0, 10**6))
def test_unpack_inverts_pack(images: int, num_parts: int, seed: int) -> None:
    num_parts = min(images, num_parts)
    rng = np.random.default_rng(seed)
    owners = rng.permutation(
        np.concatenate([np.arange(num_parts), rng.integers(0, num_parts, images - num_parts)])
    )
    parts = shared_out(owners)
    area = pack_parts(parts)
    found, end = unpack_parts(area + b"index", header_of(parts), 0)
    assert end == len(area)
    same(found, parts)


def test_a_block_of_as_many_parts_as_may_be() -> None:
    parts = shared_out(np.arange(4096) % MAX_PARTS)
    area = pack_parts(parts)
    same(unpack_parts(area, header_of(parts), 0)[0], parts)
    # Index_Bytes has room for them and for all lengths
    assert len(area) + 8 * MAX_PARTS + 3 * 4096 // 8 < 1 << 16


def test_pack_parts_has_exact_bytes() -> None:
    """Ten images, 2, 5 and 9 in part 1: n = 3, left = 10, r = 1 as 2**1 <= 3. Gaps 2, 2, 3:
    quotients 1, 1, 1 (01 01 01), then remainders 0, 0, 1: 01010100 1, filled up with zeros. Part 2
    has image 4, of seven left number 3: n = 1, r = 2, gap 3: quotient 0 (1), remainder 11: 111."""
    parts = [
        Part(HASHES[0], 75, np.array([0, 1, 3, 6, 7, 8])),
        Part(HASHES[1], 100, np.array([2, 5, 9])),
        Part(HASHES[0], 90, np.array([4])),
    ]
    area = pack_parts(parts)
    wanted = b"\x01" + HASHES[1] + bytes.fromhex("02  01 64 03 54 80  00 5a 01 e0")
    assert area == wanted + checksum(wanted, size=4)


@pytest.mark.parametrize(("mostly", "bits"), [(0.6, 1.2), (0.9, 0.52), (0.99, 0.12)])
def test_two_parts_take_little_more_bits_than_their_images_have(mostly: float, bits: float) -> None:
    owners = (np.random.default_rng(0).random(4096) > mostly).astype(int)
    assert len(pack_parts(shared_out(owners))) * 8 / 4096 < bits


def test_parts_with_any_byte_changed_are_refused() -> None:
    header = BlockHeader(HASHES[0], 0, False, 8, 0, 0, 0, has_parts=True)
    assert len(unpack_parts(GOOD, header, 0)[0]) == 3
    for damaged in helpers.flips(GOOD):
        with pytest.raises(BitstreamError):
            unpack_parts(damaged, header, 0)


GOOD = pack_parts(shared_out(np.array([0, 1, 0, 2, 0, 0, 1, 0])))


@pytest.mark.parametrize(
    ("area", "error", "message"),
    [
        (b"\x80\x02", LimitExceeded, "256 further models"),
        (b"\x00\x00", LimitExceeded, "0 further parts"),
        (b"\x00\x80\x08", LimitExceeded, "1024 further parts"),
        (b"\x00\x01", Truncated, "inside its parts"),
        (
            b"\x00\x01\x01\x05\x01\x80",
            LimitExceeded,
            "a part has model 1, but the",
        ),
        (b"\x00\x01\x00\x65\x01\x80", ReservedBitsSet, "quality 101"),
        (b"\x00\x01\x00\x05\x00\x80", LimitExceeded, "a part has 0 images"),
        (b"\x00\x01\x00\x05\x08\x80", LimitExceeded, "a part has 8 images, 1 to 7"),
        (b"\x00\x01\x00\x05\x01\x00", Truncated, "too far apart"),
        (b"\x00\x01\x00\x05\x01", Truncated, "inside a list"),
        (b"\x00\x01\x00\x05\x01\x81", LimitExceeded, "not zero"),
        (b"\x00\x01\x00\x05\x03\x54\x00", LimitExceeded, "ends at 8 of 8"),
    ],
)
def test_parts_that_break_the_format_are_refused(
    area: bytes, error: type[BitstreamError], message: str
) -> None:
    header = BlockHeader(HASHES[0], 75, False, 8, 0, 0, 0, has_parts=True)
    with pytest.raises(error, match=message):
        unpack_parts(area, header, 1000)


@given(st.binary(max_size=60), st.integers(0, len(GOOD)), st.integers(1, 4096))
def test_any_bytes_share_out_all_images_or_are_refused(junk: bytes, keep: int, count: int) -> None:
    header = BlockHeader(HASHES[0], 75, False, count, 0, 0, 0, has_parts=True)
    try:
        parts, end = _unpack(GOOD[:keep] + junk, header, 0)
    except BitstreamError:
        return
    assert end <= keep + len(junk)
    assert all(len(part.images) and (np.diff(part.images) > 0).all() for part in parts)
    np.testing.assert_array_equal(
        np.sort(np.concatenate([part.images for part in parts])), np.arange(count)
    )


# ---- lengths


def one_part(quality: int, lengths: list[int]) -> tuple[Part, BlockHeader]:
    """The part and the header of a block that has so many groups, the last one of one image."""
    images = (len(lengths) - 1) * group_images(quality) + 1
    return Part(HASHES[0], quality, np.arange(images)), BlockHeader(
        HASHES[0], quality, False, images, 0, 0, sum(lengths)
    )


@given(
    st.lists(st.integers(0, 70_000), min_size=1, max_size=256),
    st.sampled_from([0, 49, 50, 99, 100]),
)
def test_unpack_index_inverts_pack(lengths: list[int], quality: int) -> None:
    part, header = one_part(quality, lengths)
    parts, found = unpack_index(pack_index([(part, lengths)]), header, 0)
    assert found == lengths
    same(parts, [part])


def test_the_index_of_several_parts_has_their_lengths_in_order() -> None:
    parts = [
        Part(HASHES[0], 75, np.arange(0, 30, 2)),
        Part(HASHES[1], 100, np.arange(1, 40, 2)),
        Part(HASHES[0], 20, np.arange(30, 40, 2)),
    ]
    lengths = [[200, 190, 231], [1300, 600], [77]]
    header = BlockHeader(HASHES[0], 75, False, 40, 0, 0, sum(map(sum, lengths)), has_parts=True)
    found, joined = unpack_index(pack_index(list(zip(parts, lengths, strict=True))), header, 0)
    assert joined == [length for of_part in lengths for length in of_part]
    same(found, parts)


def test_lengths_that_are_much_alike_take_seven_bits() -> None:
    lengths = np.random.default_rng(0).normal(226, 17, 512).astype(int).tolist()
    assert len(pack_index([(one_part(75, lengths)[0], lengths)])) * 8 < 7 * 512


@given(st.binary(max_size=60), st.integers(0, 99), st.integers(1, 40))
def test_any_bytes_are_lengths_or_are_refused(index: bytes, quality: int, groups: int) -> None:
    _, header = one_part(quality, [0] * groups)
    try:
        _, lengths = unpack_index(index, header, 0)
    except BitstreamError:
        return
    assert lengths == [0] * groups


# ---- blocks


def mixed(names: list[str] | None = None) -> tuple[bytes, np.ndarray]:
    """A collection of 60 images in one block: lossy at two qualities and lossless, turn by turn ->
    stream, its pixels.
    """
    lossy, lossless = helpers.tiny_model(), helpers.tiny_pixel_model()
    pixels, kinds = helpers.drawn(60), np.arange(60) % 3
    wanted, coded = pixels.copy(), []
    for kind, (model, quality) in enumerate(((lossy, 40), (lossy, 80), (lossless, 100))):
        images = np.flatnonzero(kinds == kind)
        encoded = model.encode(pixels[images], quality)
        wanted[images] = encoded.pixels
        coded.append((Part(model.hash, quality, images), encoded.messages))
    file = io.BytesIO()
    writer = Writer(file)
    writer.write(pack_block(coded, names), 60)
    writer.finish()
    return file.getvalue(), wanted


@pytest.mark.usefixtures("shipped_lossless")
def test_a_block_of_parts_keeps_the_order_of_images_and_names() -> None:
    names = [f"{i}.png" for i in range(60)]
    stream, wanted = mixed(names)
    np.testing.assert_array_equal(api.decompress(stream), wanted)
    with api.open(stream) as collection:
        assert collection.names == names
        for i in (0, 1, 2, 17, 58, 59):
            np.testing.assert_array_equal(collection[i], wanted[i])
        some = [59, 3, 3, 20, 40, 0]
        np.testing.assert_array_equal(collection[some], wanted[some])
        np.testing.assert_array_equal(collection[10:50], wanted[10:50])
    info = api.info(stream)
    assert (info.quality, info.lossless, info.images) == (None, False, 60)
    assert info.model == "tiny0, tiny0-lossless"


def test_random_access_reads_no_other_part(
    shipped_lossless: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, wanted = mixed()
    decoded = []
    decode = Ladder.decode

    def counted(self: Ladder, messages: list[bytes], count: int, quality: int, **options: int):  # type: ignore[no-untyped-def]
        decoded.append((count, quality))
        return decode(self, messages, count, quality, **options)

    monkeypatch.setattr(Ladder, "decode", counted)
    monkeypatch.setattr(
        Pixels, "decode", lambda *args, **options: pytest.fail("a lossless image was decoded")
    )
    # images 0 and 19 of a part of 20
    np.testing.assert_array_equal(api.open(stream)[[58, 1]], wanted[[58, 1]])
    assert decoded == [(5 + 5, 80)]
    assert shipped_lossless.lossless


@pytest.mark.usefixtures("shipped_lossless")
def test_damage_in_one_part_costs_a_group_of_it_and_nothing_else() -> None:
    stream, wanted = mixed()
    header = unpack_block_header(stream[4:], 4)
    at = 4 + BLOCK.size + header.index_bytes + 5  # in the first group of the first part
    damaged = stream[:at] + bytes([stream[at] ^ 0xFF]) + stream[at + 1 :]
    (block,) = helpers.salvage(damaged)
    assert block.fault is not None
    assert helpers.lost(block) == list(range(0, 48, 3))
    np.testing.assert_array_equal(block.pixels[~block.lost], wanted[~block.lost])
    with pytest.raises(CorruptPayload, match="image 0 and the rest"):
        _ = api.open(damaged)[3]


@pytest.mark.usefixtures("shipped_lossless")
def test_a_flipped_bit_of_the_index_area_is_noticed_and_ends_in_an_error() -> None:
    stream, _ = mixed()
    header = unpack_block_header(stream[4:], 4)
    start = 4 + BLOCK.size
    for at in range(start, start + header.index_bytes):
        damaged = stream[:at] + bytes([stream[at] ^ 1 << at % 8]) + stream[at + 1 :]
        (block,) = helpers.salvage(damaged)
        assert isinstance(block.fault, BitstreamError)
