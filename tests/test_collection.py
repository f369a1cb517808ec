"""Collections: whole files, random access, names, damage, overhead."""

from __future__ import annotations

import dataclasses
import io
import multiprocessing
import os
import pickle
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest

from codec import api, zstd
from codec.collection.memory import NameIndex
from codec.collection.models import installed
from codec.collection.open import open_stream
from codec.collection.reader import Collection
from codec.collection.source import ByteSource
from codec.collection.writer import Writer
from codec.commands import decompress
from codec.commands.events import Result
from codec.errors import (
    BadMagic,
    BitstreamError,
    ChecksumMismatch,
    CorruptPayload,
    LimitExceeded,
    ModelNotFound,
    ReservedBitsSet,
    TrailingData,
    Truncated,
)
from codec.format.block import pack_block
from codec.format.constants import (
    CHECKSUM_BYTES,
    FLAG_COLLECTION,
    FLAG_EXTENDED,
    MAGIC,
    MAX_NAMES_BYTES,
    VERSION,
)
from codec.format.footer import FOOTER, FOOTER_END, FOOTER_ENTRY, Footer
from codec.format.headers import (
    BLOCK,
    COLLECTION,
    BlockHeader,
    pack_collection_header,
    unpack_block_header,
)
from codec.format.index import Part, unpack_index
from codec.format.names import pack_names, unpack_names
from codec.format.primitives import checksum, crc8, pack_varint
from codec.model.ladder import Ladder
from codec.model.pixels import Pixels

pytestmark = pytest.mark.usefixtures("shipped")
QUALITY = 40
COUNTS = [0, 1, 15, 16, 17, 100]


def pixels_of(count: int) -> np.ndarray:
    """What `drawn(count)` decodes to."""
    if not count:
        return np.empty((0, 28, 28), np.uint8)
    return helpers.tiny_model().encode(helpers.drawn(count), QUALITY).pixels


def small(count: int, names: list[str] | None = None, quality: int = QUALITY) -> bytes:
    """In blocks of 20 images: a full group of quality 40 and a short one."""
    return helpers.collect(count, names, quality=quality, block_images=20)


def packed(model: Ladder | Pixels, pixels: np.ndarray, quality: int) -> bytes:
    """A block of one part."""
    part = Part(model.hash, quality, np.arange(len(pixels)))
    return pack_block([(part, model.encode(pixels, quality).messages)], None)


# ---- round trips


def test_the_writer_of_the_api_makes_what_these_tests_read() -> None:
    names = [f"{i}.png" for i in range(50)]
    assert helpers.collect(50, names) == api.compress(
        helpers.drawn(50), quality=QUALITY, effort=1, names=names
    )


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("block_images", [4096, 20, 16, 1])
def test_salvage_inverts_packing(count: int, named: bool, block_images: int) -> None:
    if block_images == 1 and count > 17:
        count = 18  # blocks of one image each are slow
    names = [f"{i}.png" for i in range(count)] if named else None
    stream = helpers.collect(count, names, block_images=block_images)
    np.testing.assert_array_equal(api.decompress(stream), pixels_of(count))
    with api.open(stream) as collection:
        assert len(collection) == count
        assert collection.names == (names or [])
        assert [block.header.image_count for block in collection.blocks] == [
            min(block_images, count - at) for at in range(0, count, block_images)
        ]
        parts = list(collection)
    assert len(parts) == count
    np.testing.assert_array_equal(np.array(parts).reshape(-1, 28, 28), pixels_of(count))
    blocks = helpers.salvage(stream)
    assert [b for b in blocks if b.fault or b.lost.any()] == []
    assert [name for b in blocks for name in b.names] == (names or [])
    assert [number for b in blocks for number in b.images] == list(range(count))


def test_an_empty_collection_is_44_bytes_worked_out_by_hand() -> None:
    """Header ae 5a 18 and its CRC-8; footer: magic, 8 + 4 zero bytes, checksum of those 16, length
    40, end magic.
    """
    start = bytes.fromhex("ae5a18")
    footer = b"aezF" + bytes(12)
    expected = (
        start
        + bytes([crc8(start)])
        + footer
        + checksum(footer)
        + (40).to_bytes(4, "little")
        + b"aezE"
    )
    assert helpers.collect(0) == expected
    assert len(expected) == 44


def test_the_same_images_give_the_same_bytes_however_they_arrive() -> None:
    """In blocks of 20."""
    names = [f"n{i}" for i in range(47)]
    for pieces in ([47], [1] * 47, [0, 19, 2, 0, 26]):
        file = io.BytesIO()
        with api.CollectionWriter(file, quality=QUALITY, effort=1, block_images=20) as writer:
            at = 0
            for piece in pieces:
                writer.write(helpers.drawn(47)[at : at + piece], names[at : at + piece])
                at += piece
        assert file.getvalue() == small(47, names)
        assert writer.stats.images == 47
        assert writer.stats.bytes_out == len(file.getvalue())


def test_blocks_of_different_models_and_qualities_live_in_one_file(
    two_shipped: list[Ladder],
) -> None:
    file = io.BytesIO()
    writer = Writer(file)
    expected = []
    for i, (model, quality) in enumerate([(two_shipped[0], 10), (two_shipped[1], 90)]):
        writer.write(packed(model, helpers.drawn(20 + i), quality), 20 + i)
        expected.append(model.encode(helpers.drawn(20 + i), quality).pixels)
    writer.finish()
    assert writer.num_bytes == len(file.getvalue())
    np.testing.assert_array_equal(api.decompress(file.getvalue()), np.concatenate(expected))
    collection = api.open(file.getvalue())
    np.testing.assert_array_equal(collection[[40, 3]], [expected[1][20], expected[0][3]])


# ---- names


@pytest.mark.parametrize(
    "names",
    [
        ["a", "b", "c"],
        ["", "", ""],
        ["ä/ß.png", "数字/7.png", "🙂"],
        ["a\nb", "a\tb", "\\"],
        ["same", "same", "same"],
        ["\udcff\udc80.png", "x" * 5000, "../../etc/passwd"],
    ],
)
def test_names_come_back_exactly(names: list[str]) -> None:
    stream = helpers.collect(3, names)
    assert api.open(stream).names == names
    assert helpers.salvage(stream)[0].names == names


def test_a_collection_without_names_has_an_empty_list() -> None:
    assert api.open(helpers.collect(3)).names == []
    assert api.open(helpers.collect(0, [])).names == []


def test_a_name_with_nul_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        pack_names(["a", "b\0c"])


def test_names_compress_well() -> None:
    names = [f"train/digits/{i % 10}/{i:05d}.png" for i in range(1000)]
    assert unpack_names(pack_names(names), 1000, 0) == names
    assert len(pack_names(names)) < 4 * 1000


@pytest.mark.parametrize("count", [0, 2, 4])
def test_another_number_of_names_is_refused(count: int) -> None:
    with pytest.raises(CorruptPayload, match=f"3 names for {count} images"):
        unpack_names(pack_names(["a", "b", "c"]), count, 0)


def test_names_that_claim_to_be_huge_are_refused_before_they_are_made() -> None:
    bomb = zstd.pack(bytes(MAX_NAMES_BYTES + 1))
    unsized = helpers.zstd_frame(b"a\0", content_size_flag=False)
    for frame in (bomb, unsized):
        with pytest.raises(LimitExceeded, match="at most"):
            unpack_names(frame, 1, 0)


def test_a_damaged_names_frame_is_a_bitstream_error() -> None:
    frame, harmless = pack_names(["seven", "eight"]), 0
    for damaged in [*helpers.cuts(frame), *helpers.flips(frame)]:
        try:  # a bit that zstd leaves unused may be flipped
            assert unpack_names(damaged, 2, 0) == ["seven", "eight"]
            harmless += 1
        except BitstreamError:
            pass
    assert harmless <= 8


# ---- random access


@pytest.mark.parametrize("count", [1, 17, 100])
def test_an_index_gives_what_the_whole_would(count: int) -> None:
    collection, whole = api.open(small(count)), pixels_of(count)
    for i in {0, count // 2, count - 1, -1, -count}:
        np.testing.assert_array_equal(collection[i], whole[i])
    assert collection[0].shape == (28, 28)
    np.testing.assert_array_equal(collection[np.int64(0)], whole[0])
    for s in (
        slice(None),
        slice(3, 60, 7),
        slice(None, None, -1),
        slice(-5, None),
        slice(50, 10),
        slice(10**9, None),
    ):
        np.testing.assert_array_equal(collection[s], whole[s])
    rng = np.random.default_rng(0)
    wanted = rng.integers(-count, count, 30).tolist()  # out of order, with repeats
    np.testing.assert_array_equal(collection[wanted], whole[wanted])
    assert collection[[]].shape == (0, 28, 28)


@pytest.mark.parametrize("wanted", [3, "a.png", np.zeros((28, 28), np.uint8)], ids=str)
def test_whether_an_image_is_in_a_collection_is_no_question(wanted: object) -> None:
    with pytest.raises(TypeError, match=r"ask `name in collection\.names`"):
        assert wanted in api.open(small(2))


def test_an_index_out_of_range_is_an_index_error() -> None:
    collection = api.open(small(41))
    wrong: list[Any] = [41, -42, 10**12, [0, 41], [-42, 3]]
    for index in wrong:
        with pytest.raises(IndexError, match=r"^image -?\d+ of 41, the first is 0$"):
            collection[index]
    with pytest.raises(IndexError, match="image 0 of an empty collection"):
        api.open(small(0))[0]


@pytest.mark.parametrize("index", [1.5, "1", None, [0.5], np.array([3, 1]), (3, 1), [True, False]])
def test_an_index_of_another_kind_is_obeyed_or_refused_but_never_guessed_at(index: Any) -> None:
    """Law L3: c[np.array([3, 1])] is two images or an error, not the first of them."""
    collection, whole = api.open(helpers.collect(17)), pixels_of(17)
    try:
        got = collection[index]
    except (TypeError, IndexError):
        return
    assert isinstance(index, np.ndarray | tuple)
    np.testing.assert_array_equal(got, whole[list(index)])


@pytest.mark.parametrize(("quality", "group"), [(49, 16), (50, 5)])
def test_one_image_is_read_by_its_group_alone(quality: int, group: int) -> None:
    stream = helpers.collect(1000, [f"{i}" for i in range(1000)], quality=quality)
    file = helpers.CountingFile(stream)
    collection = api.open(file)
    header = collection.blocks[0].header
    index_at = COLLECTION.size + BLOCK.size + header.names_bytes
    _, lengths = unpack_index(stream[index_at : index_at + header.index_bytes], header, 0)
    file.bytes_read = 0
    collection[500]
    assert file.bytes_read == header.index_bytes + lengths[500 // group]
    file.bytes_read = 0
    collection[[600, 601, 600, 604]]
    assert file.bytes_read == lengths[600 // group]  # the index is known by now
    assert file.bytes_read < len(stream) // 30


def test_neighbours_of_an_image_come_without_reading_until_others_take_their_place() -> None:
    file, whole = helpers.CountingFile(helpers.collect(100)), pixels_of(100)
    collection = Collection(file, installed(None), kept_groups=2)
    collection[40]
    file.bytes_read = 0
    first = collection[32]
    first[...] = 7  # what was given out is the caller's
    for index in (32, 47, [33, 40, 33], slice(36, 45)):
        np.testing.assert_array_equal(collection[index], whole[index])
    assert file.bytes_read == 0
    collection[60], collection[80]
    assert (read := file.bytes_read) > 0
    np.testing.assert_array_equal(collection[40], whole[40])
    assert file.bytes_read > read


@pytest.mark.parametrize(("quality", "first"), [(QUALITY, 16), (75, 15)])
def test_a_damaged_group_is_an_error_each_time_it_is_asked_for(quality: int, first: int) -> None:
    stream = bytearray(helpers.collect(20, quality=quality))
    stream[-60] ^= 255  # of the last group
    collection = api.open(bytes(stream))
    for wanted in (17, 17, [17], [3, 19]):
        with pytest.raises(
            CorruptPayload, match=f"image {first} and the rest of its group are damaged"
        ):
            collection[wanted]
    np.testing.assert_array_equal(
        collection[3], api.decompress(helpers.collect(20, quality=quality))[3]
    )


def test_damage_costs_small_groups_from_the_middle_of_the_qualities_on() -> None:
    for quality, group in ((49, 16), (50, 5), (99, 5)):
        stream = helpers.collect(40, quality=quality)
        damaged = bytearray(stream)
        damaged[parts_of(stream)["payload"][0] + 3] ^= 0x55
        (block,) = helpers.salvage(bytes(damaged))
        assert helpers.lost(block) == list(range(group))
        np.testing.assert_array_equal(block.pixels[group:], api.decompress(stream)[group:])


def test_an_image_given_out_is_the_callers() -> None:
    collection, whole = api.open(small(30, quality=75)), api.decompress(small(30, quality=75))
    for index in (9, -21, np.int64(9), np.uint8(9), True):
        image = collection[index]
        assert (image.shape, image.dtype, image.flags.writeable) == ((28, 28), np.uint8, True)
        np.testing.assert_array_equal(image, whole[int(index)])
        image[...] = 7


def test_length_and_headers_are_known_without_payload() -> None:
    stream = small(100)
    file = helpers.CountingFile(stream)
    collection = api.open(file)
    assert len(collection) == 100
    assert [block.header.image_count for block in collection.blocks] == [20] * 5
    footer_bytes = FOOTER.size + 5 * FOOTER_ENTRY.size + FOOTER_END.size
    assert file.bytes_read <= COLLECTION.size + 64 + footer_bytes + FOOTER_END.size + 5 * BLOCK.size


def _pixels_at(collection: Collection, index: int) -> np.ndarray:
    return collection[index]


def test_an_opened_path_is_shared_by_forked_and_other_processes(tmp_path: Path) -> None:
    path = tmp_path / "c.aez"
    path.write_bytes(small(100))
    whole = pixels_of(100)
    with api.open(path) as collection:
        np.testing.assert_array_equal(collection[3], whole[3])
        context = multiprocessing.get_context("fork")
        receivers = []
        for i in (50, 99):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(
                target=lambda i=i, s=sender: s.send_bytes(collection[i].tobytes())
            )
            process.start()
            receivers.append((i, receiver, process))
        np.testing.assert_array_equal(collection[70], whole[70])
        for i, receiver, process in receivers:
            assert receiver.poll(60)
            assert receiver.recv_bytes() == whole[i].tobytes()
            process.join(60)
            assert process.exitcode == 0
        copy = pickle.loads(pickle.dumps(collection))
        np.testing.assert_array_equal(copy[98], whole[98])
        np.testing.assert_array_equal(_pixels_at(collection, 1), whole[1])
        copy.close()
    np.testing.assert_array_equal(collection[2], whole[2])  # a closed path opens again
    collection.close()
    collection.close()


def test_many_threads_share_an_opened_path(tmp_path: Path) -> None:
    path = tmp_path / "c.aez"
    path.write_bytes(small(100, [f"{i}.png" for i in range(100)]))
    whole = pixels_of(100)
    with api.open(path) as collection, ThreadPoolExecutor(8) as pool:
        barrier = threading.Barrier(8)  # all begin at once: who opens the file?

        def read(seed: int) -> bool:
            barrier.wait(60)
            rng = np.random.default_rng(seed)
            same = True
            for i in rng.integers(0, 100, 12).tolist():
                same &= bool((collection[i] == whole[i]).all()) and collection.name(i) == f"{i}.png"
                same &= collection.find(f"{i}.png") == i
            return same

        assert all(pool.map(read, range(8)))
        open_files = [
            os.readlink(f"/proc/self/fd/{fd}")
            for fd in os.listdir("/proc/self/fd")
            if os.path.islink(f"/proc/self/fd/{fd}")
        ]
        assert open_files.count(str(path)) == 1


def test_threads_share_an_open_file_object() -> None:
    collection, whole = api.open(io.BytesIO(small(60))), pixels_of(60)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda i: (i, collection[i]), list(range(0, 60, 7)) * 3))
    for i, pixels in results:
        np.testing.assert_array_equal(pixels, whole[i])


# ---- names


def test_find_gives_the_first_image_of_a_name() -> None:
    names = [f"{i % 40}.png" for i in range(70)]
    collection = api.open(small(70, names))
    for name in set(names):
        assert collection.find(name) == names.index(name)
    assert collection.find(np.str_("3.png")) == 3
    for absent in ("70.png", "", "3.PNG"):
        with pytest.raises(KeyError) as caught:
            collection.find(absent)
        assert caught.value.args == (absent,)
    for absent in ("0.png", ""):
        with pytest.raises(KeyError):
            api.open(small(20)).find(absent)


def test_names_whose_hashes_are_alike_are_all_candidates() -> None:
    names = [f"{i % 25}" for i in range(50)]
    assert list(NameIndex(names, hash_of=lambda name: 7).candidates("3")) == list(range(50))
    assert list(NameIndex(names, hash_of=lambda name: int(name) % 5).candidates("3")) == list(
        range(3, 50, 5)
    )
    assert list(NameIndex(names, hash_of=int).candidates("25")) == []
    assert list(NameIndex([]).candidates("x")) == []


def test_a_name_costs_the_names_of_its_block_alone() -> None:
    file = helpers.CountingFile(small(100, [f"{i}.png" for i in range(100)]))
    collection = api.open(file)
    sizes = [block.header.names_bytes for block in collection.blocks]
    file.bytes_read = 0
    assert collection.name(50) == "50.png"
    assert collection.name(-50) == "50.png"
    assert file.bytes_read == sizes[2]
    assert collection.names_at([99, 3, 98, 3, 97]) == [
        "99.png",
        "3.png",
        "98.png",
        "3.png",
        "97.png",
    ]
    assert file.bytes_read == sizes[2] + sizes[4] + sizes[0]
    with pytest.raises(IndexError):
        collection.name(100)


@pytest.mark.parametrize("format", ["npy", "png"])
def test_index_on_the_command_line_reads_what_it_needs_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: decompress.Format
) -> None:
    """A header, the footer, and of each block touched: its header, index, groups, and for file
    names its names.
    """
    stream = helpers.collect(4096, [f"{i}.png" for i in range(4096)], block_images=512)
    (tmp_path / "c.aez").write_bytes(stream)
    read: list[int] = []
    plain = ByteSource.read

    def counted(self: ByteSource, offset: int, size: int) -> bytes:
        part = plain(self, offset, size)
        read.append(len(part))
        return part

    monkeypatch.setattr(ByteSource, "read", counted)
    index = [range(700, 701), range(3000, 3004)]
    report = Result.of(
        decompress.decompress(
            [str(tmp_path / "c.aez")], str(tmp_path / "out"), format=format, index=index
        )
    )
    assert (report.exit_code, report.images) == (0, 5)
    headers = [block.header for block in api.open(stream).blocks]
    footer_bytes = FOOTER.size + 8 * FOOTER_ENTRY.size + FOOTER_END.size
    frame = COLLECTION.size + 5 + footer_bytes + FOOTER_END.size
    touched = [headers[700 // 512], headers[3000 // 512]]
    blocks = sum(
        2 * BLOCK.size + header.index_bytes + 4 * header.payload_bytes // (512 // 16)
        for header in touched
    )
    names = sum(header.names_bytes + BLOCK.size for header in touched) if format == "png" else 0
    assert sum(read) <= frame + BLOCK.size + blocks + names
    assert sum(read) < len(stream) / 20


def test_a_collection_in_memory_cannot_be_pickled() -> None:
    with pytest.raises(TypeError, match="opened from a path"):
        pickle.dumps(api.open(helpers.collect(1)))


# ---- damage


def parts_of(stream: bytes) -> dict[str, tuple[int, int]]:
    """Where the parts of the first block lie."""
    at = COLLECTION.size
    header = unpack_block_header(stream[at:])
    places = {"header": (at, at + BLOCK.size)}
    at += BLOCK.size
    for name, size in (
        ("names", header.names_bytes),
        ("index", header.index_bytes),
        ("payload", header.payload_bytes),
    ):
        places[name] = at, at + size
        at += size
    return places


@pytest.mark.parametrize("part", ["header", "names", "index", "payload"])
@pytest.mark.parametrize("where", [0.0, 0.5, 0.99])
def test_a_damaged_block_costs_no_other(part: str, where: float) -> None:
    names = [f"{i:03d}" for i in range(60)]
    stream, whole = small(60, names), pixels_of(60)
    begin, end = parts_of(stream)[part]
    damaged = bytearray(stream)
    damaged[begin + int(where * (end - begin))] ^= 0x10
    blocks = helpers.salvage(bytes(damaged))
    for block, at in zip(blocks, (0, 20, 40), strict=True):
        assert block.images.tolist() == list(range(at, at + 20))
    assert isinstance(blocks[0].fault, BitstreamError)
    for block in blocks[1:]:
        assert block.fault is None
        assert not block.lost.any()
        assert block.names == [names[i] for i in block.images]
        np.testing.assert_array_equal(block.pixels, whole[block.images])
    with pytest.raises(BitstreamError):
        api.decompress(bytes(damaged))
    first = blocks[0]
    assert not first.pixels[first.lost].any()
    if part in ("names", "payload"):
        kept = ~first.lost
        np.testing.assert_array_equal(first.pixels[kept], whole[:20][kept])
        assert kept.sum() >= 4  # at most the one group that was hit
    if part == "names":
        assert not first.lost.any()
        assert len(first.names) == 20
        assert len(set(first.names) | set(names)) == 60 + 20 * (first.names[0] not in names)
    if part == "payload":
        assert first.lost.sum() in (0, 4, 16)
        assert first.names == names[:20]


def test_random_access_avoids_the_damage() -> None:
    stream, whole = small(60), pixels_of(60)
    begin, _ = parts_of(stream)["payload"]
    damaged = bytearray(stream)
    damaged[begin + 3] ^= 0x55
    collection = api.open(bytes(damaged))
    np.testing.assert_array_equal(collection[[16, 19, 59]], whole[[16, 19, 59]])
    with pytest.raises(CorruptPayload, match="image 0 and the rest of its group are damaged"):
        collection[5]


def test_a_file_cut_anywhere_yields_every_image_before_the_cut() -> None:
    names = [f"{i}" for i in range(50)]
    stream, whole = small(50, names), pixels_of(50)
    collection = api.open(stream)
    headers = [block.header for block in collection.blocks]
    ends = np.cumsum([COLLECTION.size, *(h.block_bytes for h in headers)])
    rng = np.random.default_rng(0)
    cuts = {
        *range(COLLECTION.size, 60, 5),
        *ends.tolist(),
        *(ends - 1).tolist(),
        *rng.integers(60, len(stream), 12).tolist(),
    }
    for cut in sorted(c for c in cuts if COLLECTION.size <= c < len(stream)):
        blocks = helpers.salvage(stream[:cut])
        assert isinstance(blocks[-1].fault, BitstreamError)  # the end is missing: always said
        saved = 0
        for block in blocks:
            np.testing.assert_array_equal(
                block.pixels[~block.lost], whole[block.images[~block.lost]]
            )
            assert block.names == [names[i] for i in block.images] or block.lost.all()
            assert not block.lost.any() or block.fault is not None
            saved += int((~block.lost).sum())
        assert saved >= 20 * int((ends[1:] <= cut).sum()) - 10 * (cut >= ends[-1])
        with pytest.raises(BitstreamError):
            api.decompress(stream[:cut])


def test_a_group_that_is_cut_off_is_lost_and_those_before_it_are_not() -> None:
    stream, whole = helpers.collect(64), pixels_of(64)
    begin, end = parts_of(stream)["payload"]
    (block, fault) = helpers.salvage(stream[: (begin + end) // 2])
    first = helpers.lost(block)[0]
    assert helpers.lost(block) == list(range(first, 64))
    assert first in (16, 32, 48)
    np.testing.assert_array_equal(block.pixels[:first], whole[:first])
    assert block.fault is not None
    assert isinstance(fault.fault, Truncated)


def test_groups_that_are_cut_off_are_lost_even_if_their_check_is_met_by_chance() -> None:
    class Gullible:
        def check_quality(self, quality: int, offset: int) -> None:
            pass

        def decode(
            self, messages: list[bytes], count: int, quality: int
        ) -> tuple[np.ndarray, np.ndarray]:
            return np.ones((count, 28, 28), np.uint8), np.zeros(len(messages), bool)

    stream = helpers.collect(64)
    begin, end = parts_of(stream)["payload"]
    find_model: Any = lambda model_hash: Gullible()  # noqa: E731
    blocks = list(Collection(stream[: end - 1], find_model).salvage())
    assert helpers.lost(blocks[0]) == list(range(48, 64))
    blocks = list(Collection(stream[:begin], find_model).salvage())
    assert helpers.lost(blocks[0]) == list(range(64))
    (whole,) = Collection(stream, find_model).salvage()
    assert not whole.lost.any()


@pytest.mark.parametrize("end_of_footer", [1, 5, 10, 20, 41, 58])
def test_a_damaged_footer_costs_no_image(end_of_footer: int) -> None:
    stream, whole = small(50), pixels_of(50)
    damaged = bytearray(stream)
    damaged[-end_of_footer] ^= 1
    blocks = helpers.salvage(bytes(damaged))
    assert [b.fault is None for b in blocks] == [True, True, True, False]
    np.testing.assert_array_equal(np.concatenate([b.pixels for b in blocks]), whole)
    assert len(blocks[-1].images) == 0
    with pytest.raises(BitstreamError):
        len(api.open(bytes(damaged)))


def test_without_a_footer_blocks_after_a_damaged_header_are_found_again() -> None:
    stream, whole = small(60), pixels_of(60)
    damaged = bytearray(stream[:-10])
    damaged[COLLECTION.size + 9] ^= 4  # header of the first block
    blocks = helpers.salvage(bytes(damaged))
    pixels = [b.pixels for b in blocks if not b.lost.any()]
    np.testing.assert_array_equal(np.concatenate(pixels), whole[20:])
    assert isinstance(blocks[-1].fault, Truncated)


@pytest.mark.parametrize(
    "junk", [b"\n", b"0123456789", b"aezE", b"aezE" * 15, bytes(65_000)], ids=len
)
def test_bytes_after_the_end_are_counted_and_cost_no_image(junk: bytes) -> None:
    stream = small(40)
    number = "1 byte" if len(junk) == 1 else f"{len(junk)} bytes"
    said = f"^byte {len(stream)}: {number} after the end of the collection$"
    with pytest.raises(TrailingData, match=said):
        api.decompress(stream + junk)
    blocks = helpers.salvage(stream + junk)
    assert [len(block.images) for block in blocks] == [20, 20, 0]
    assert isinstance(blocks[-1].fault, TrailingData)
    assert not any(block.lost.any() for block in blocks)


def test_of_two_collections_in_one_file_the_second_comes_after_the_end() -> None:
    stream = small(40)
    with pytest.raises(TrailingData, match=f"^byte {len(stream)}: {len(stream)} bytes after the"):
        api.decompress(stream + stream)


def test_a_collection_that_is_cut_short_has_nothing_after_its_end() -> None:
    """Not even if a magic stands where it was cut, or it ends in many of them."""
    stream = small(40)
    for damaged in (
        stream[:-1],
        stream[:-30] + b"aezE" + bytes(5),
        stream[:-4] + b"aezE" * 20 + b"-",
    ):
        with pytest.raises(Truncated, match="cut short"):
            api.decompress(damaged)


def test_bytes_between_blocks_are_no_silent_loss() -> None:
    stream = small(40)
    first_end = parts_of(stream)["payload"][1]
    for junk in (b"junk", b"aezB", bytes(50)):
        damaged = stream[:first_end] + junk + stream[first_end:]
        blocks = helpers.salvage(damaged)
        assert blocks[-1].fault is not None
        np.testing.assert_array_equal(np.concatenate([b.pixels for b in blocks]), pixels_of(40))
    with pytest.raises(BitstreamError):
        api.decompress(stream + b"x")


def test_a_missing_model_is_named(foreign: Ladder) -> None:
    block = packed(helpers.tiny_model(2), helpers.drawn(3), QUALITY)
    file = io.BytesIO()
    writer = Writer(file)
    writer.write(block, 3)
    writer.finish()
    for call in (lambda: api.decompress(file.getvalue()), lambda: api.open(file.getvalue())[0]):
        with pytest.raises(ModelNotFound) as caught:
            call()
        assert caught.value.model_hash == helpers.tiny_model(2).hash.hex()
    assert len(api.open(file.getvalue())) == 3


def test_a_lossless_and_a_lossy_block_live_in_one_file(shipped_lossless: Pixels) -> None:
    file = io.BytesIO()
    writer = Writer(file)
    for model, quality in ((shipped_lossless, 100), (helpers.tiny_model(), QUALITY)):
        writer.write(packed(model, helpers.drawn(20), quality), 20)
    writer.finish()
    np.testing.assert_array_equal(
        api.decompress(file.getvalue()), np.concatenate([helpers.drawn(20), pixels_of(20)])
    )
    np.testing.assert_array_equal(
        api.open(file.getvalue())[[18, 25]], [helpers.drawn(20)[18], pixels_of(20)[5]]
    )
    info = api.info(file.getvalue())
    assert (info.lossless, info.quality, info.model) == (False, None, "tiny0-lossless, tiny0")


@pytest.mark.usefixtures("shipped_lossless")
def test_a_block_whose_quality_its_model_cannot_have_is_lost_and_the_others_are_not() -> None:
    file = io.BytesIO()
    writer = Writer(file)
    block = packed(helpers.tiny_pixel_model(), helpers.drawn(20), 49)
    for part in (block, packed(helpers.tiny_model(), helpers.drawn(20), QUALITY)):
        writer.write(part, 20)
    writer.finish()
    lost, intact = helpers.salvage(file.getvalue())
    assert isinstance(lost.fault, CorruptPayload)
    assert lost.fault.offset == 4 + 12
    assert lost.lost.all()
    assert intact.fault is None
    np.testing.assert_array_equal(intact.pixels, pixels_of(20))
    with pytest.raises(
        CorruptPayload, match="the quality is 49, but model tiny0-lossless is lossless"
    ):
        api.open(file.getvalue())[3]


# ---- hostile bytes


def hand_made(
    block: bytes, footer: Footer | bytes | None = None, header: bytes | None = None
) -> bytes:
    """A collection from its parts, the footer listing one block of one image if none is given."""
    footer = footer if footer is not None else Footer(((len(block), 1),))
    return (
        (header or pack_collection_header())
        + block
        + (footer if isinstance(footer, bytes) else footer.pack())
    )


def block_header(**changes: Any) -> BlockHeader:
    fields = {
        "model_hash": helpers.tiny_model().hash,
        "quality": 40,
        "has_names": False,
        "image_count": 1,
        "names_bytes": 0,
        "index_bytes": 1,
        "payload_bytes": 0,
    }
    return BlockHeader(**{**fields, **changes})


def refuse(stream: bytes, error: type[BitstreamError], message: str) -> None:
    """Assert that the whole is refused with this error, without much memory."""
    tracemalloc.start()
    try:
        errors = [block.fault for block in helpers.salvage(stream) if block.fault is not None]
        assert any(type(e) is error and message in str(e) for e in errors), errors
        with pytest.raises(BitstreamError):
            api.decompress(stream)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20


def footer_of(
    total: int, entries: list[tuple[int, int]], count: int | None = None, size: int | None = None
) -> bytes:
    """A footer with valid checksum and any claims."""
    start = FOOTER.pack(b"aezF", total, len(entries) if count is None else count)
    start += b"".join(FOOTER_ENTRY.pack(*entry) for entry in entries)
    claimed = len(start) + FOOTER_END.size if size is None else size
    return start + FOOTER_END.pack(checksum(start), claimed, b"aezE")


@pytest.mark.parametrize(
    ("footer", "error", "message"),
    [
        (footer_of(0, [], size=2**32 - 1), LimitExceeded, "the footer claims 4294967295 bytes"),
        (footer_of(0, [], size=0), LimitExceeded, "the footer claims 0 bytes"),
        (footer_of(0, [], count=2**32 - 1), LimitExceeded, "4294967295 blocks do not fit"),
        (footer_of(2**64 - 1, []), LimitExceeded, "claims 18446744073709551615 images"),
        (footer_of(1, [(2**32 - 1, 1)]), Truncated, "but the footer lists 4294967295"),
        (footer_of(0, [(0, 0)] * 3), TrailingData, "but the footer lists 0"),
        (footer_of(0, [])[:-1] + b"X", Truncated, "cut short"),
    ],
)
def test_a_footer_with_absurd_claims_is_refused(
    footer: bytes, error: type[BitstreamError], message: str
) -> None:
    block = packed(helpers.tiny_model(), helpers.drawn(1), QUALITY)
    refuse(hand_made(block, footer), error, message)


@pytest.mark.parametrize(
    ("header", "body", "error", "message"),
    [
        (block_header(image_count=0), b"\0", LimitExceeded, "a block has 0 images"),
        (block_header(image_count=4097), b"\0", LimitExceeded, "a block has 4097 images"),
        (block_header(image_count=65535), b"\0", LimitExceeded, "a block has 65535 images"),
        (
            block_header(payload_bytes=2**32 - 1),
            b"\0",
            LimitExceeded,
            "more bytes than its images can need",
        ),
        (
            block_header(names_bytes=2**32 - 1),
            b"\0",
            LimitExceeded,
            "more bytes than its images can need",
        ),
        (block_header(quality=101), b"\0", ReservedBitsSet, "quality 101"),
        (
            block_header(quality=100),
            b"\0",
            CorruptPayload,
            "the quality is 100, but model tiny0 is lossy",
        ),
        (
            block_header(index_bytes=3, payload_bytes=9),
            b"\0\1\x80" + bytes(9),
            LimitExceeded,
            "the groups have 0 bytes, the payload",
        ),
        (block_header(index_bytes=3), b"\0\2\xc0", LimitExceeded, "a group claims -1 bytes"),
        (block_header(index_bytes=6), b"\0\xff\xff\xff\xff\x0f", Truncated, "inside a list"),
        (block_header(index_bytes=0), b"", Truncated, "inside a number"),
        (
            block_header(index_bytes=3),
            b"\xff\xff\xff",
            LimitExceeded,
            "a number has more than 3 bytes",
        ),
        (block_header(index_bytes=4), b"\0\1\x80\0", TrailingData, "1 bytes follow the index"),
        (
            block_header(index_bytes=3, payload_bytes=1),
            b"\5\1\x80x",
            LimitExceeded,
            "the groups have 5 bytes, the payload 1",
        ),
    ],
)
def test_a_block_with_absurd_claims_is_refused(
    header: BlockHeader, body: bytes, error: type[BitstreamError], message: str
) -> None:
    digest = checksum(header.pack()[:-CHECKSUM_BYTES], body)
    block = dataclasses.replace(header, checksum=digest).pack() + body
    footer = footer_of(header.image_count, [(len(block), header.image_count)])
    refuse(hand_made(block, footer), error, message)


def test_footer_and_block_that_disagree_are_refused() -> None:
    block = packed(helpers.tiny_model(), helpers.drawn(2), QUALITY)
    refuse(
        hand_made(block, Footer(((len(block), 3),))),
        LimitExceeded,
        "disagree about the size of this block",
    )
    two = Footer(((len(block) + 1, 2), (len(block) - 1, 2)))
    refuse(hand_made(block + block, two), LimitExceeded, "disagree about the size of this block")


def test_a_block_of_many_blank_images_from_few_bytes_is_bounded() -> None:
    """4096 images without a payload byte: the format allows it (blank images cost nothing), memory
    is 3 MiB of pixels.
    """
    body = b"\0\x80\2" + b"\xff" * 32  # 256 lengths that are the mean of 0
    header = block_header(image_count=4096, index_bytes=len(body))
    header = dataclasses.replace(header, checksum=checksum(header.pack()[:-16], body))
    stream = hand_made(header.pack() + body, Footer(((BLOCK.size + len(body), 4096),)))
    (block,) = helpers.salvage(stream)
    assert block.pixels.shape == (4096, 28, 28)


def test_a_file_full_of_block_magics_is_searched_once() -> None:
    file = helpers.CountingFile(pack_collection_header() + b"aezB" * (1 << 16))
    (block,) = open_stream(file, recover=True).salvage()
    assert isinstance(block.fault, Truncated)
    assert file.bytes_read < 2 * file.seek(0, os.SEEK_END)


def extended_header(extension: bytes) -> bytes:
    start = MAGIC + bytes([VERSION << 4 | FLAG_COLLECTION | FLAG_EXTENDED])
    return start + bytes([crc8(start + extension)]) + extension


@pytest.mark.parametrize("size", [0, 1, 50, 100, 5000])
def test_an_ignorable_extension_of_the_file_header_is_skipped(size: int) -> None:
    """FORMAT.md 2.2: types of 0x80 and above are skipped, whatever their length."""
    block = packed(helpers.tiny_model(), helpers.drawn(2), QUALITY)
    extension = pack_varint(len(field := b"\x80" + pack_varint(size) + bytes(size))) + field
    stream = hand_made(block, Footer(((len(block), 2),)), extended_header(extension))
    np.testing.assert_array_equal(api.decompress(stream), pixels_of(2))
    assert len(api.open(stream)) == 2


@pytest.mark.parametrize(
    ("start", "error"),
    [
        (b"", Truncated),
        (b"\xae\x5a", Truncated),
        (b"\xae\x5a\x18", Truncated),
        (b"\xae\x5a\x18\x00", ChecksumMismatch),
        (b"\x89PNG", BadMagic),
        (b"\xae\x5a\x19\x00", ReservedBitsSet),
    ],
)
def test_a_start_that_is_no_collection_is_refused(
    start: bytes, error: type[BitstreamError]
) -> None:
    with pytest.raises(error):
        api.open(start)


def test_open_refuses_a_single_image() -> None:
    with pytest.raises(BadMagic, match="this is a single image, not a collection"):
        api.open(api.compress(helpers.drawn(1)[0]))


# ---- size


@pytest.mark.parametrize("named", [False, True])
def test_a_collection_costs_at_most_three_quarters_of_a_byte_an_image_over_the_ideal(
    named: bool,
) -> None:
    pixels = np.concatenate([helpers.drawn(500)] * 2)
    names = [f"{i}.png" for i in range(1000)] if named else None
    file = io.BytesIO()
    with api.CollectionWriter(file, quality=QUALITY, effort=1) as writer:
        writer.write(pixels, names)
    stream = file.getvalue()
    names_bytes = sum(block.header.names_bytes for block in api.open(stream).blocks)
    assert bool(names_bytes) == named
    ideal_bytes = helpers.tiny_model().encode(pixels, QUALITY).ideal_bits / 8
    assert ideal_bytes > 1000 * 20
    fixed = COLLECTION.size + BLOCK.size + FOOTER.size + FOOTER_ENTRY.size + FOOTER_END.size
    assert ideal_bytes - 1 <= len(stream) - names_bytes - fixed <= ideal_bytes + 0.75 * 1000
    assert fixed < 100
