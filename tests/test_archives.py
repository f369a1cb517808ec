"""ZIP and TAR archives: the images in them come out, or what stands in the way is said."""

from __future__ import annotations

import bz2
import gzip
import io
import random
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterable
from typing import Any

import helpers
import numpy as np
import pytest

from codec.errors import ImageError
from codec.files.archives import MAX_TAR_HEADER_BYTES, open_archive
from codec.files.batch import MAX_CONTENT_BYTES, Reading
from codec.files.images import pack_png
from codec.files.sources import image_of

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
PNGS = [pack_png(pixels) for pixels in PIXELS]
NAMES = ["0/b.png", "0/a.png", "é.png", "1/deep/er/x.PNG", "z z.png"]
FILES = dict(zip(NAMES, PNGS, strict=True))

Pack = Callable[[Iterable[tuple[str, bytes]]], bytes]


def zipped(files: Iterable[tuple[str, bytes]], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", how) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return stream.getvalue()


def stored(files: Iterable[tuple[str, bytes]]) -> bytes:
    return zipped(files, zipfile.ZIP_STORED)


def tarred(
    files: Iterable[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT, **changes: Any
) -> bytes:
    """changes: attributes of the last entry."""
    stream = io.BytesIO()
    files = list(files)
    with tarfile.open(fileobj=stream, mode="w", format=format) as archive:
        for number, (name, content) in enumerate(files):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if number == len(files) - 1:
                for key, value in changes.items():
                    setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def gnu(files: Iterable[tuple[str, bytes]]) -> bytes:
    return tarred(files, tarfile.GNU_FORMAT)


def tgz(files: Iterable[tuple[str, bytes]]) -> bytes:
    return gzip.compress(tarred(files))


PACKS = [zipped, stored, tarred, gnu, tgz]


def read(stream: bytes, size: int = 2, start: int = 0, **reading: Any) -> tuple[list[Any], Any]:
    """The images of an archive, or why there is none, and the source, closed by now."""
    found: list[Any] = []
    with open_archive(io.BytesIO(stream), "x", Reading(**reading)) as source:
        for batch in source.batches(size, start):
            assert batch.contents is not None
            assert len(batch.contents) == len(batch.names or ()) <= size
            for i in range(len(batch.contents)):
                try:
                    found.append(image_of(batch, i, (batch.names or [])[i]))
                except ImageError as error:
                    found.append(str(error))
    return found, source


@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize("size", [1, 2, 100])
def test_images_come_with_their_names_in_the_order_of_the_archive(pack: Pack, size: int) -> None:
    stream = pack(FILES.items())
    found, source = read(stream, size)
    np.testing.assert_array_equal(found, PIXELS)
    assert (source.names, source.num_images) == (NAMES, 5)
    assert (source.left, source.failed, source.notes) == ([], [], [])
    assert (source.num_bytes, source.is_numbered) == (len(stream), False)
    for start in range(1, -(-5 // size)):
        np.testing.assert_array_equal(read(stream, size, start)[0], PIXELS[start * size :])


def test_directories_and_a_leading_dot_are_nothing() -> None:
    """As `tar cf x.tar .` writes it."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in (".", "./0"):
            folder = tarfile.TarInfo(name)
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
        info = tarfile.TarInfo("./0/a.png")
        info.size = len(PNGS[0])
        archive.addfile(info, io.BytesIO(PNGS[0]))
    assert read(stream.getvalue())[1].names == ["0/a.png"]
    assert read(zipped([("0/", b""), ("0/a.png", PNGS[0])]))[1].names == ["0/a.png"]


LITTER = [
    ("._a.png", b"\0\5\x16\7"),
    ("__MACOSX/0/._a.png", b"\0\5\x16\7"),
    ("__MACOSX/b.png", b""),
    ("0/.DS_Store", b"\0\0\0\1Bud1"),
    ("Thumbs.db", b""),
    ("0/desktop.ini", b""),
]


@pytest.mark.parametrize("pack", PACKS)
def test_litter_is_no_failure_and_not_spoken_of(pack: Pack) -> None:
    found, source = read(pack([*LITTER[:3], ("a.png", PNGS[0]), *LITTER[3:]]))
    np.testing.assert_array_equal(found, PIXELS[:1])
    assert (source.failed, source.left) == ([], [])


@pytest.mark.parametrize("pack", PACKS)
def test_other_files_are_named(pack: Pack) -> None:
    others = [("notes.txt", b"x"), ("inner.zip", b"PK"), ("x.npy", b""), ("b.md", b"")]
    source = read(pack([*others, ("a.png", PNGS[0])]))[1]
    assert source.left == [
        "2 files of many images (inner.zip, x.npy), which are taken if you unpack them",
        "2 files of other kinds (notes.txt, b.md)",
    ]
    with pytest.raises(ImageError, match=r"^x: no images in this archive: 2 files of many images"):
        read(pack(others))
    with pytest.raises(ImageError, match=r"^x: no images in this archive: it is empty$"):
        read(pack([]))


@pytest.mark.parametrize("pack", PACKS)
def test_images_without_a_suffix_are_found_on_demand(pack: Pack) -> None:
    files = [("0/one", PNGS[0]), ("two.dat", PNGS[1]), ("notes", b"text"), ("3.png", PNGS[2])]
    few = read(pack(files))[1]
    assert few.names == ["3.png"]
    assert few.left == [
        "3 files of other kinds (0/one, two.dat, notes); --all-files looks for images in files "
        "without a suffix"
    ]
    found, source = read(pack(files), all_files=True)
    np.testing.assert_array_equal(found, PIXELS[:3])
    assert source.names == ["0/one", "two.dat", "3.png"]
    assert source.left == ["1 file of other kinds (notes)"]


@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/etc/a.png", "is absolute"),
        ("../a.png", "has an empty, '.' or '..' component"),
        ("a/../../b.png", "has an empty, '.' or '..' component"),
        ("a//b.png", "has an empty, '.' or '..' component"),
        ("a\\b.png", "holds a NUL or a backslash"),
        ("C:/a.png", "which Windows takes for a drive"),
        ("x" * 300 + ".png", "has a component over 255 bytes"),
    ],
)
def test_an_unsafe_name_is_refused_and_the_others_done(pack: Pack, name: str, said: str) -> None:
    found, source = read(pack([("a.png", PNGS[0]), (name, PNGS[1]), ("c.png", PNGS[2])]))
    np.testing.assert_array_equal(found, PIXELS[[0, 2]])
    ((label, error),) = source.failed
    assert label == f"x/{name}"
    assert said in str(error)


@pytest.mark.parametrize("pack", PACKS)
def test_a_bad_image_is_a_failure_of_its_own(pack: Pack) -> None:
    large = PNGS[3] + bytes(MAX_CONTENT_BYTES)
    files = [("a.png", PNGS[0]), ("b.png", b"no image"), ("c.png", large), ("d.png", PNGS[4])]
    found, source = read(pack(files))
    assert source.names == ["a.png", "b.png", "d.png"]
    assert found[1] == "b.png: is not an image that Pillow can read"
    np.testing.assert_array_equal([found[0], found[2]], PIXELS[[0, 4]])
    ((label, error),) = source.failed
    assert (label, str(error)) == (
        "x/c.png",
        f"has {len(large)} bytes, an image of 28x28 needs at most {MAX_CONTENT_BYTES}",
    )


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a.png", "b.png", "a.png"], "two entries are called a.png"),
        (["0/a.png", "0/a.jpg"], "0/a.png and 0/a.jpg would both be restored as 0/a.png"),
        (
            ["a.bmp", "a.png/b.png"],
            "a.bmp and a.png/b.png would be restored as a.png and as a file below it",
        ),
    ],
)
def test_names_that_cannot_be_restored_together_are_refused(
    pack: Pack, names: list[str], said: str
) -> None:
    with pytest.raises(ImageError) as caught:
        read(pack((name, PNGS[i]) for i, name in enumerate(names)))
    assert str(caught.value) == f"x: {said}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "is a link, aez takes files"),
        ({"type": tarfile.LNKTYPE, "linkname": "a.png"}, "is a link, aez takes files"),
        ({"type": tarfile.CHRTYPE}, "is a device, aez takes files"),
        ({"type": tarfile.BLKTYPE}, "is a device, aez takes files"),
        ({"type": tarfile.FIFOTYPE}, "is a device, aez takes files"),
    ],
)
def test_links_and_devices_are_never_followed(changes: dict[str, Any], said: str) -> None:
    stream = tarred([("a.png", PNGS[0]), ("b.png", b"")], size=0, **changes)
    found, source = read(stream)
    np.testing.assert_array_equal(found, PIXELS[:1])
    assert [(label, str(error)) for label, error in source.failed] == [("x/b.png", said)]
    if changes["type"] == tarfile.SYMTYPE:
        link = zipfile.ZipInfo("b.png")
        link.external_attr = 0o120777 << 16
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("a.png", PNGS[0])
            file.writestr(link, "/etc/passwd")
        ((label, error),) = read(archive.getvalue())[1].failed
        assert (label, str(error)) == ("x/b.png", "is a link or a device, aez takes files")


def sparse(real_size: int) -> bytes:
    """A GNU sparse file: of `real_size` bytes, none of them stored."""
    header = bytearray(tarfile.TarInfo("b.png").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    header[483:495] = b"%011o\0" % real_size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


def test_sparse_files_are_refused() -> None:
    ((label, error),) = read(sparse(1000))[1].failed
    assert (label, str(error)) == ("x/b.png", "is a sparse file, aez takes files")


# Damage


@pytest.mark.parametrize("pack", PACKS)
def test_a_truncated_archive_is_refused(pack: Pack) -> None:
    stream = pack(FILES.items())
    whole = read(stream)[0]
    for length in sorted({0, 1, 5, *range(0, len(stream), 61), len(stream) - 1}):
        try:
            found = read(stream[:length])[0]
        except ImageError as error:
            assert str(error).startswith("x: ")  # noqa: PT017
        else:  # nothing but padding is missing
            assert pack in (tarred, gnu)
            assert length > len(stream) - tarfile.RECORDSIZE
            np.testing.assert_array_equal(found, whole)


def test_an_archive_that_ends_between_two_entries_is_truncated() -> None:
    """`tar` itself says nothing then."""
    stream = tarred([("a.png", PNGS[0]), ("b.png", PNGS[1])])
    for end in (512 + 1024, 2 * (512 + 1024)):
        assert len(PNGS[0]) <= 1024
        for cut in (stream[:end], gzip.compress(stream[:end])):
            with pytest.raises(ImageError, match="the mark of its end is missing"):
                read(cut)


def test_what_follows_the_end_of_an_archive_is_not_ignored() -> None:
    one, other = tarred([("a.png", PNGS[0])]), tarred([("b.png", PNGS[1])])
    for both in (one + other, gzip.compress(one) + gzip.compress(other)):
        with pytest.raises(ImageError, match=r"^x: has more data after its end$"):
            read(both)
    damaged = bytearray(tarred([("a.png", PNGS[0]), ("b.png", PNGS[1])]))
    damaged[512 + 1024 + 3] ^= 1  # in the header of the second entry
    with pytest.raises(ImageError, match=r"^x: is damaged: byte 1536 starts no entry$"):
        read(bytes(damaged))


def test_a_damaged_entry_of_a_zip_is_a_failure_of_its_own() -> None:
    for pack in (stored, zipped):
        stream = bytearray(pack([("a.png", PNGS[0]), ("b.png", PNGS[1]), ("c.png", PNGS[2])]))
        at = stream.index(b"b.png") + len("b.png") + 300
        stream[at] ^= 1
        found, source = read(bytes(stream))
        np.testing.assert_array_equal([found[0], found[2]], PIXELS[[0, 2]])
        assert found[1].startswith("is damaged: ")
        assert source.failed == []


def test_an_encrypted_zip_is_refused() -> None:
    stream = bytearray(zipped([("a.png", PNGS[0]), ("b.png", PNGS[1])]))
    stream[stream.rindex(b"PK\1\2") + 8] |= 1  # the flag in the list
    with pytest.raises(ImageError, match=r"is encrypted \(b\.png\): unpack it first"):
        read(bytes(stream))


def test_other_compressions_of_a_zip_are_taken_and_unknown_ones_are_failures() -> None:
    for how in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        np.testing.assert_array_equal(read(zipped(FILES.items(), how))[0], PIXELS)
    stream = bytearray(stored([("a.png", PNGS[0])]))
    for mark, offset in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        at = stream.index(mark) + offset
        stream[at : at + 2] = struct.pack("<H", 9)  # Deflate64
    assert read(bytes(stream))[0] == ["is damaged: That compression method is not supported"]


@pytest.mark.parametrize("pack", PACKS)
def test_hostile_bytes_end_in_images_or_an_image_error(pack: Pack) -> None:
    stream, rng = pack([("a.png", PNGS[0]), ("b.png", PNGS[1])]), random.Random(3)
    for _ in range(150):
        damaged = bytearray(stream)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            read(bytes(damaged))
        except ImageError:
            pass


# Bombs


def peak(stream: bytes) -> int:
    """Bytes of memory that reading takes at most; it may fail."""
    tracemalloc.start()
    try:
        read(stream)
    except ImageError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


def test_bombs_are_not_unpacked() -> None:
    bomb = bytes(20_000_000)
    for files in ([("a.png", bomb)], [("a.txt", bomb), ("b.png", PNGS[0])]):
        assert peak(zipped(files)) < 8_000_000
        assert peak(tgz(files)) < 8_000_000
    nested = zipped([("inner.zip", zipped([("a.png", bomb)]))])
    with pytest.raises(ImageError, match=r"1 file of many images \(inner\.zip\)"):
        read(nested)


def test_an_entry_that_unpacks_to_more_than_its_size_is_damaged() -> None:
    stream = bytearray(zipped([("a.png", bytes(20_000_000))]))
    at = stream.index(b"PK\1\2") + 24
    stream[at : at + 4] = struct.pack("<I", 1000)
    assert peak(bytes(stream)) < 8_000_000
    assert read(bytes(stream))[0] == ["is damaged: Bad CRC-32 for file 'a.png'"]


def test_a_header_of_tar_that_claims_too_much_is_not_read() -> None:
    info = tarfile.TarInfo("a.png")
    info.type, info.size = tarfile.XHDTYPE, 20_000_000
    stream = info.tobuf() + bytes(20_000_000)
    for packed in (stream, gzip.compress(stream)):
        assert peak(packed) < 8_000_000
        with pytest.raises(ImageError, match=rf"at most {MAX_TAR_HEADER_BYTES} are read"):
            read(packed)


def test_other_archives_are_no_tar() -> None:
    for stream in (
        bz2.compress(tarred(FILES.items())),
        b"Rar!\x1a\7\0" * 100,
        helpers.drawn(1).tobytes(),
    ):
        with pytest.raises(ImageError, match=r"^x: "):
            read(stream)


def test_a_list_of_many_entries_takes_little_memory() -> None:
    """The standard library keeps 600 bytes and more of each."""
    count = 5_000
    files = [(f"train/{i % 10}/{i:07}.png", b"x") for i in range(count)]
    for pack in (stored, tarred):
        stream = pack(files)
        tracemalloc.start()
        try:
            with open_archive(io.BytesIO(stream), "x") as source:
                taken, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert source.num_images == count
        assert taken / count < 200, pack
        assert most / count < 600, pack


def test_utf8_names_of_a_zip_that_does_not_say_so_are_read_as_such() -> None:
    """As the archiver of macOS writes them.  What is no UTF-8 is the code page of DOS."""
    for raw, name in ((b"\xc3\xa9/0.png", "é/0.png"), (b"\x82/0.png", "é/0.png")):
        packed = zipped([("x" * len(raw), PNGS[0]), ("1.png", PNGS[1])])
        packed = packed.replace(b"x" * len(raw), raw)
        found, source = read(packed)
        assert (source.names, source.failed) == ([name, "1.png"], [])
        np.testing.assert_array_equal(found, PIXELS[:2])


def test_what_a_zip_has_besides_its_entries_is_named() -> None:
    stream = io.BytesIO(zipped([("a.png", PNGS[0])]))
    assert read(stream.getvalue() + b"PK junk")[1].left == ["7 bytes after its end"]
    with zipfile.ZipFile(stream, "a") as archive:
        archive.comment = b"made by me"
    assert read(stream.getvalue())[1].left == ["its comment"]
    assert read(stream.getvalue() + b"\0")[1].left == ["its comment", "1 byte after its end"]


def test_a_zip_that_is_cut_short_is_told_so() -> None:
    said = "^x: is truncated or damaged: the list of what is in it, at its end, is missing$"
    for size in (40, 300):
        with pytest.raises(ImageError, match=said):
            read(zipped(FILES.items())[:size])
