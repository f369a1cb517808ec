"""Hostile bytes end in pixels or in an AezError, within bounded time; damage never ends in other
pixels unnoticed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import helpers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec import api
from codec.errors import AezError, BadMagic, BitstreamError, ModelNotFound
from codec.format.constants import CHECKSUM_BYTES, MAGIC
from codec.format.footer import Footer
from codec.format.headers import BlockHeader, ImageHeader, pack_collection_header, pack_image
from codec.format.primitives import checksum
from codec.model import registry

pytestmark = pytest.mark.usefixtures("shipped")
QUALITY = 75


@pytest.fixture
def single() -> bytes:
    return api.compress(helpers.drawn(1)[0], quality=QUALITY)


@pytest.fixture
def collection() -> bytes:
    return api.compress(
        helpers.drawn(3), quality=QUALITY, names=["a", "b", "c"], labels=[7, 0, 258]
    )


def refused(streams: Iterable[bytes]) -> int:
    """Assert that each stream is refused by every reader; -> how many there were."""
    count = 0
    for stream in streams:
        with pytest.raises((BitstreamError, ModelNotFound)):
            api.decompress(stream)
        count += 1
    return count


def test_every_truncation_of_a_single_image_is_refused(single: bytes) -> None:
    assert refused(helpers.cuts(single)) == len(single) > 20


def test_every_bit_flip_of_a_single_image_is_refused(single: bytes) -> None:
    assert refused(helpers.flips(single)) == 8 * len(single)


def test_every_bit_flip_and_truncation_of_a_foreign_single_image_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "MODEL_IDS", {})
    stream = api.compress(helpers.drawn(1)[0], quality=QUALITY, model="tiny0")
    assert stream[3] == 0
    assert refused(helpers.cuts(stream)) + refused(helpers.flips(stream)) == 9 * len(stream)


def test_two_flipped_bits_of_a_single_image_are_refused(single: bytes) -> None:
    """CRC-8 0x2F catches any two within 119 bits; farther apart the coder's own check helps."""
    rng = np.random.default_rng(0)
    for _ in range(400):
        first = int(rng.integers(0, 8 * len(single)))
        second = (first + int(rng.integers(1, 100))) % (8 * len(single))
        damaged = bytearray(single)
        for bit in (first, second):
            damaged[bit // 8] ^= 1 << bit % 8
        if abs(first - second) < 119:
            assert refused([bytes(damaged)])


def test_bytes_after_a_single_image_are_refused(single: bytes) -> None:
    for extra in (b"\0", b"\xff", b"x" * 100, single):
        assert refused([single + extra])
    assert refused([single + bytes(1 << 20)])


def check_salvage(stream: bytes, whole: np.ndarray) -> None:
    """Assert that what is salvaged is right wherever no fault is told, and that a fault is told."""
    try:
        blocks = helpers.salvage(stream)
    except AezError:
        return
    intact = [block for block in blocks if block.fault is None]
    assert len(intact) < len(blocks) or sum(map(len, (b.images for b in intact))) == len(whole)
    for block in intact:
        assert not block.lost.any()
        np.testing.assert_array_equal(block.pixels, whole[block.images])


def test_every_truncation_of_a_collection_is_refused(collection: bytes) -> None:
    whole = api.decompress(collection)
    assert refused(helpers.cuts(collection)) == len(collection)
    for stream in helpers.cuts(collection):
        check_salvage(stream, whole)


def test_every_bit_flip_of_a_collection_is_refused(collection: bytes) -> None:
    whole = api.decompress(collection)
    assert len(collection) < 400
    assert refused(helpers.flips(collection)) == 8 * len(collection)
    for stream in list(helpers.flips(collection))[::5]:
        check_salvage(stream, whole)


def test_every_bit_flip_of_a_collection_leaves_random_access_right_or_refused(
    collection: bytes,
) -> None:
    """The payload is guarded by a check of 8 bits for each group: 1 flip in some hundreds may pass
    it.
    """
    whole = api.decompress(collection)
    wrong = count = 0
    for stream in list(helpers.flips(collection))[::3]:
        count += 1
        try:
            wrong += not np.array_equal(api.open(stream)[1], whole[1])
        except AezError:
            pass
    assert wrong <= count // 50


@given(st.binary(max_size=80), st.integers(0, 99))
def test_any_payload_after_a_valid_header_is_pixels_or_an_error(
    payload: bytes, quality: int
) -> None:
    stream = pack_image(ImageHeader(1, quality), payload, helpers.tiny_model().sha256)
    try:
        pixels = api.decompress(stream)
    except AezError:
        return
    assert pixels.shape == (28, 28)


@given(st.binary(max_size=80))
def test_any_stored_payload_is_pixels_or_an_error(payload: bytes) -> None:
    # zstd; zstd of 784 bytes
    for start in (b"", b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\xfd\x60\x10\x02"):
        try:
            pixels = api.decompress(pack_image(ImageHeader(0, 101), start + payload, b""))
        except BitstreamError:
            continue
        assert pixels.shape == (28, 28)


@given(st.binary(max_size=120))
def test_any_bytes_are_pixels_or_an_error(stream: bytes) -> None:
    for start in (
        b"",
        MAGIC,
        MAGIC + b"\x10",
        MAGIC + b"\x14",
        pack_collection_header(),
    ):
        for reader in (api.decompress, api.info):
            try:
                reader(start + stream)
            except AezError:
                pass
        try:
            helpers.salvage(start + stream)
        except AezError:
            pass


@given(
    st.binary(max_size=60),
    st.integers(0, 99),
    st.integers(1, 40),
    st.booleans(),
    st.lists(st.integers(0, 30), min_size=3, max_size=3),
)
def test_any_body_in_a_block_with_valid_checks_is_pixels_or_an_error(
    body: bytes, quality: int, count: int, has_names: bool, cuts: list[int]
) -> None:
    names_bytes, index_bytes = min(cuts[0], len(body)), min(cuts[1], max(0, len(body) - cuts[0]))
    sizes = (count, names_bytes, index_bytes, len(body) - names_bytes - index_bytes)
    header = BlockHeader(helpers.tiny_model().hash, quality, has_names, *sizes)
    digest = checksum(header.pack()[:-CHECKSUM_BYTES], body)
    block = BlockHeader(helpers.tiny_model().hash, quality, has_names, *sizes, digest).pack() + body
    stream = pack_collection_header() + block + Footer(((len(block), count),)).pack()
    for reader in (api.decompress, lambda s: api.open(s)[0], lambda s: api.open(s).names, api.info):
        try:
            reader(stream)
        except AezError:
            pass


@given(st.data())
def test_a_stream_with_a_changed_slice_is_refused_or_unchanged(data: st.DataObject) -> None:
    stream = api.compress(helpers.drawn(3), quality=QUALITY)
    begin = data.draw(st.integers(0, len(stream)))
    end = data.draw(st.integers(begin, min(len(stream), begin + 40)))
    damaged = stream[:begin] + data.draw(st.binary(max_size=40)) + stream[end:]
    try:
        pixels = api.decompress(damaged)
    except AezError:
        return
    np.testing.assert_array_equal(pixels, api.decompress(stream))
    assert damaged == stream


def test_large_junk_is_refused_at_one_reading() -> None:
    rng = np.random.default_rng(0)
    junk = rng.bytes(1 << 21)
    header = BlockHeader(bytes(8), 0, False, 1, 0, 1, 0).pack()
    for stream in (
        junk,
        pack_collection_header() + junk,
        pack_collection_header() + header[:20] * (len(junk) // 20),
    ):
        assert refused([stream])
        file = helpers.CountingFile(stream)
        with contextlib.suppress(BadMagic):
            (fault,) = helpers.salvage(file)
            assert isinstance(fault.fault, BitstreamError)
        assert file.bytes_read < 3 * len(stream)
