"""Names, plans, atomic outputs: what `codec.commands.compress` promises apart from the command
line.
"""

from __future__ import annotations

import errno
import io
import os
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codec import api
from codec.commands import compress, decompress, work
from codec.commands.inputs import Report, plan_compress, refuse
from codec.errors import ChecksumMismatch, UsageError
from codec.files import images, names
from codec.files.atomic import atomic
from codec.format import bitstream


def make_pixels(n: int, seed: int = 0) -> np.ndarray:
    """Return uint8 (n, 28, 28): a bright box on black, elsewhere in each image."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((n, 28, 28), np.uint8)
    for image in pixels:
        top, left = rng.integers(2, 16, 2)
        image[top : top + 8, left : left + 8] = rng.integers(100, 255)
    return pixels


def write_png(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(images.pack_png(make_pixels(1, seed)[0]))
    return path


def plan(
    inputs: list[Path], out: str | None = None, separate: bool = False
) -> dict[str, list[str]]:
    """Return output -> names of what goes into it."""
    tasks = plan_compress([str(path) for path in inputs], out, separate, Report())
    found: dict[str, list[str]] = {}
    for task in tasks:
        for source in task.sources:
            found.setdefault(str(task.output_of(source)), []).append(source.name)
    return found


def debris(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for i, name in enumerate(["b/2.png", "b/10.png", "a.png", "é/1.jpg.png"]):
        write_png(tmp_path / "tree" / name, i)
    (tmp_path / "tree" / "notes.txt").write_text("no image")
    return tmp_path / "tree"


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("x.npy", "x"),
        ("x.NPZ", "x"),
        ("x.idx", "x"),
        ("x.idx.gz", "x"),
        ("x.idx3.gz", "x"),
        ("train.idx3-ubyte", "train"),
        ("t10k-images-idx3-ubyte", "t10k-images-idx3-ubyte"),
        ("t10k-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte"),
        (".npy", ".npy"),
    ],
)
def test_array_suffixes_are_stripped_sensibly(name: str, bare: str) -> None:
    assert names.bare_array(name) == bare


@pytest.mark.parametrize(
    ("name", "png"),
    [
        ("a.png", "a.png"),
        ("d/a.JPG", "d/a.png"),
        ("a.1", "a.1.png"),
        ("a", "a.png"),
        ("v1.2/x.bmp", "v1.2/x.png"),
    ],
)
def test_restored_name_replaces_an_image_suffix_and_no_other(name: str, png: str) -> None:
    assert names.restored(name) == png


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../a",
        "a/../../b",
        "/etc/passwd",
        "a//b",
        "a/",
        "./a",
        "C:/a",
        "c:a",
        "a\\b",
        "a\0b",
        "\udc80",
    ],
)
def test_unsafe_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="unsafe name"):
        names.safe_parts(name)


@pytest.mark.parametrize("name", ["x" * 256, "x" * 252, "é" * 128 + "/a"])
def test_names_too_long_once_restored_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="over 255 bytes"):
        names.safe_parts(name)


@pytest.mark.parametrize(
    "name", ["a", "a/b.png", "...", "..a/b", "é" * 125, "12:30.png", "x" * 251 + ".png"]
)
def test_safe_names_are_kept(name: str) -> None:
    assert names.safe_parts(name) == tuple(name.split("/"))


def test_ranges_are_shown_briefly() -> None:
    assert names.ranges([4, 5, 6, 9, 11, 12]) == "4-6, 9, 11-12"
    assert names.ranges([]) == ""


@pytest.mark.parametrize("format", ["npy", "idx"])
@pytest.mark.parametrize("n", [0, 1, 60_000])
def test_array_header_is_that_of_the_packers(format: decompress.Format, n: int) -> None:
    pixels = np.zeros((n, 28, 28), np.uint8)
    packed = (images.pack_npy if format == "npy" else images.pack_idx)(pixels)
    assert packed[: -pixels.nbytes or None] == decompress._array_header(format, n)
    assert len(decompress._array_header(format, n)) == len(decompress._array_header(format, 0))


def test_directory_becomes_one_collection_in_code_point_order(tree: Path) -> None:
    assert plan([tree]) == {str(tree) + ".aez": ["a.png", "b/10.png", "b/2.png", "é/1.jpg.png"]}


def test_directory_suffix_is_kept(tmp_path: Path) -> None:
    write_png(tmp_path / "v1.2" / "a.png")
    assert list(plan([tmp_path / "v1.2"])) == [str(tmp_path / "v1.2.aez")]


def test_current_directory_is_named(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    assert list(plan([Path(".")])) == [str(tree) + ".aez"]


def test_images_become_files_beside_them(tree: Path) -> None:
    assert list(plan([tree / "a.png", tree / "b/2.png"])) == [
        str(tree / "a.aez"),
        str(tree / "b/2.aez"),
    ]


def test_images_with_aez_out_become_one_collection_named_from_what_they_share(tree: Path) -> None:
    assert plan([tree / "b/2.png", tree / "a.png"], "x.aez") == {"x.aez": ["b/2.png", "a.png"]}
    assert plan([tree / "b/2.png", tree / "b/10.png"], "x.aez") == {"x.aez": ["2.png", "10.png"]}


def test_one_image_with_aez_out_becomes_a_single_stream(tree: Path) -> None:
    (task,) = plan_compress([str(tree / "a.png")], "x.aez", False, Report())
    assert (task.kind, task.output) == ("image", Path("x.aez"))


def test_separate_and_directory_out_mirror_the_tree(tree: Path) -> None:
    mirrored = ["out/a.aez", "out/b/10.aez", "out/b/2.aez", "out/é/1.jpg.aez"]
    assert list(plan([tree], "out")) == mirrored
    assert list(plan([tree], "out", separate=True)) == mirrored
    assert list(plan([tree], separate=True)) == [str(tree / name[4:]) for name in mirrored]


def test_arrays_become_collections_of_their_own(tmp_path: Path) -> None:
    inputs = [tmp_path / "x.npy", tmp_path / "t10k-images-idx3-ubyte.gz"]
    assert list(plan(inputs)) == [
        str(tmp_path / "x.aez"),
        str(tmp_path / "t10k-images-idx3-ubyte.aez"),
    ]
    assert list(plan(inputs, "out")) == ["out/x.aez", "out/t10k-images-idx3-ubyte.aez"]
    with pytest.raises(UsageError, match=r"x\.npy is an array"):
        plan(inputs, "x.aez")


@pytest.mark.parametrize("separate", [False, True])
def test_a_large_directory_is_in_memory_once(tmp_path: Path, separate: bool) -> None:
    """A name takes some 80 bytes; a path object alone would take 200, and a list of one's own for
    each file as much.
    """
    for i in range(4000):
        (tmp_path / "d" / f"{i % 4}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / f"{i % 4}" / f"{i:05}.png").touch()
    peaks = []
    # in one of them Python's table of interned strings may grow, which is no part of the plan
    for _ in range(2):
        tracemalloc.start()
        try:
            (task,) = refuse(
                plan_compress([str(tmp_path / "d")], None, separate, Report()), False, Report()
            )
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert len(task.sources) == 4000
        del task
    assert min(peaks) / 4000 < 150


def test_files_whose_output_is_taken_are_refused_by_name_and_the_others_done(
    tmp_path: Path,
) -> None:
    """By another image of the directory, by an array that is given with it, by a file that is
    there.
    """
    folder, out = tmp_path / "d", tmp_path / "out"
    for name in ("a.png", "a.webp", "b.png", "c.png", "e.png"):
        write_png(folder / name)
    np.save(folder / "c.npy", make_pixels(2))
    (out / "d").mkdir(parents=True)
    (out / "d" / "e.aez").write_bytes(b"before")
    report = Report()
    compress.compress([str(folder), str(folder / "c.npy")], str(out), report=report)
    assert sorted(report.failed) == [
        (f"{folder}/a.png", f"{out}/d/a.aez would also be the output of {folder}/a.webp"),
        (f"{folder}/a.webp", f"{out}/d/a.aez would also be the output of {folder}/a.png"),
        (f"{folder}/c.npy", f"{out}/d/c.aez would also be the output of {folder}/c.png"),
        (f"{folder}/c.png", f"{out}/d/c.aez would also be the output of {folder}/c.npy"),
        (f"{folder}/e.png", f"output {out}/d/e.aez exists (-f overwrites it)"),
    ]
    assert (report.images, report.outputs) == (1, [f"{out}/d/b.aez"])
    assert {path.name for path in (out / "d").iterdir()} == {"b.aez", "e.aez"}


def test_links_to_files_are_followed_and_links_to_directories_are_not(tree: Path) -> None:
    (tree / "link.png").symlink_to(tree / "a.png")
    (tree / "loop").symlink_to(tree)
    assert plan([tree])[str(tree) + ".aez"] == [
        "a.png",
        "b/10.png",
        "b/2.png",
        "link.png",
        "é/1.jpg.png",
    ]


def test_pipes_in_a_directory_are_skipped_and_dangling_links_fail(tree: Path) -> None:
    os.mkfifo(tree / "pipe.png")
    (tree / "dangling.png").symlink_to(tree / "nowhere")
    report = Report()
    compress.compress([str(tree)], report=report)
    assert [name for name, _ in report.failed] == [str(tree / "dangling.png")]
    assert report.images == 4


def test_atomic_output_leaves_nothing_when_interrupted(tmp_path: Path) -> None:
    target = tmp_path / "x.aez"
    target.write_bytes(b"before")
    output = atomic(target, force=True)
    output.__enter__().write(b"half")
    assert debris(tmp_path)
    assert not output.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)  # it is not swallowed
    assert target.read_bytes() == b"before"
    assert not debris(tmp_path)


def test_atomic_output_takes_the_longest_name(tmp_path: Path) -> None:
    target = tmp_path / ("é" * 127)
    with atomic(target) as file:
        file.write(b"x")
    assert target.read_bytes() == b"x"


def test_output_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "x.aez"
    output = atomic(target)
    output.__enter__().write(b"mine")
    target.write_bytes(b"theirs")
    with pytest.raises(UsageError, match="exists"):
        output.__exit__(None, None, None)
    assert target.read_bytes() == b"theirs"
    assert not debris(tmp_path)


@pytest.mark.parametrize("separate", [False, True])
def test_full_disk_fails_by_name_and_leaves_all_as_it_was(
    tree: Path, monkeypatch: pytest.MonkeyPatch, separate: bool
) -> None:
    existing = tree / "a.aez" if separate else tree.with_name("tree.aez")
    existing.write_bytes(b"before")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "some.tmp")

    monkeypatch.setattr(os, "replace", full)
    report = Report()
    compress.compress(
        [str(tree)], separate=separate, options=compress.CompressOptions(force=True), report=report
    )
    assert [reason for _, reason in report.failed] == ["No space left on device"] * (
        4 if separate else 1
    )
    assert (report.exit_code, report.images, report.stats.images) == (1, 0, 0)
    assert existing.read_bytes() == b"before"
    assert not debris(tree.parent)


def test_figures_count_what_was_written_alone(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def full_for_one(source: Path, target: Path) -> None:
        if target.name == "10.aez":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full_for_one)
    report = Report()
    compress.compress([str(tree)], separate=True, report=report)
    assert (report.exit_code, report.images, report.stats.images) == (3, 3, 3)
    assert (
        report.stats.bytes_out
        == report.bytes_out
        == sum(path.stat().st_size for path in tree.rglob("*.aez"))
    )


def test_removal_waits_for_an_output_that_decodes(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: object, **__: object) -> Iterator[api.DecodedBlock]:
        raise ChecksumMismatch("the check differs")

    monkeypatch.setattr(api, "decode_blocks", damaged)
    report = Report()
    compress.compress([str(tree)], options=compress.CompressOptions(remove=True), report=report)
    assert report.exit_code == 4
    assert len(list(tree.rglob("*.png"))) == 4


@pytest.mark.parametrize("separate", [False, True])
def test_removal_takes_exactly_the_images_that_are_in_the_output(
    tree: Path, separate: bool
) -> None:
    (tree / "bad.png").write_bytes(b"no image")
    report = Report()
    compress.compress(
        [str(tree)], separate=separate, options=compress.CompressOptions(remove=True), report=report
    )
    assert (report.exit_code, report.images) == (3, 4)
    assert sorted(
        path.name for path in tree.rglob("*") if path.is_file() and path.suffix != ".aez"
    ) == [
        "bad.png",
        "notes.txt",
    ]


@pytest.mark.usefixtures("shipped_lossless")
@pytest.mark.parametrize("separate", [False, True])
def test_removal_after_lossless_waits_for_the_very_pixels(
    tree: Path, monkeypatch: pytest.MonkeyPatch, separate: bool
) -> None:
    """A decoder that gives other pixels without noticing: the inputs are all that is left of the
    images.
    """
    decode_blocks = api.decode_blocks

    def one_pixel_off(*args: Any, **options: Any) -> Iterator[api.DecodedBlock]:
        for block in decode_blocks(*args, **options):
            assert block.pixels is not None
            block.pixels = block.pixels.copy()
            block.pixels[-1, 27, 27] ^= 1
            yield block

    options = compress.CompressOptions(api.request(100), remove=True)
    monkeypatch.setattr(api, "decode_blocks", one_pixel_off)
    report = Report()
    compress.compress([str(tree)], separate=separate, options=options, report=report)
    assert report.exit_code == 4
    assert "does not hold the pixels of its inputs" in report.failed[0][1]
    assert len(list(tree.rglob("*.png"))) == 4
    monkeypatch.setattr(api, "decode_blocks", decode_blocks)
    report = Report()
    compress.compress(
        [str(tree)], separate=separate, options=replace(options, force=True), report=report
    )
    assert (report.exit_code, report.stats.lossless) == (0, True)
    assert not list(tree.rglob("*.png"))


def test_processes_give_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(7):
        write_png(tmp_path / "d" / f"{i}.png", i)
    (tmp_path / "d" / "3.png").write_bytes(b"no image")
    monkeypatch.setattr(work, "SHARD_IMAGES", 2)
    for jobs in (1, 2):
        report = Report()
        options = compress.CompressOptions(jobs=jobs)
        compress.compress(
            [str(tmp_path / "d")], str(tmp_path / f"{jobs}.aez"), options=options, report=report
        )
        assert (report.images, len(report.failed)) == (6, 1)
        decompress.decompress([str(tmp_path / f"{jobs}.aez")], jobs=jobs, report=report)
    assert (tmp_path / "1.aez").read_bytes() == (tmp_path / "2.aez").read_bytes()
    one, two = (
        {p.name: p.read_bytes() for p in (tmp_path / str(jobs)).iterdir()} for jobs in (1, 2)
    )
    assert one == two
    assert len(one) == 6


def hostile(names: list[str]) -> bytes:
    """A collection with these names, which only another writer than `compress` would write."""
    file = io.BytesIO()
    with api.CollectionWriter(file) as writer:
        writer.write(make_pixels(len(names)), names)
    return file.getvalue()


@pytest.mark.parametrize(
    "name", ["../out.png", "/tmp/aez-escaped.png", "a/../../x.png", "C:\\x.png", "a\\..\\x"]
)
def test_names_in_a_stream_never_lead_out_of_the_output(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.aez").write_bytes(hostile([name, "good.png"]))
    report = Report()
    decompress.decompress(
        [str(tmp_path / "in" / "x.aez")], str(tmp_path / "out" / "deep"), report=report
    )
    assert (report.exit_code, report.images) == (3, 1)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")] == [
        "out/deep/good.png"
    ]
    assert not Path("/tmp/aez-escaped.png").exists()
    ((where, why),) = report.failed
    assert where.endswith(f"x.aez: {name}")
    assert why.startswith("unsafe name: ")


def test_links_in_the_output_never_lead_out_of_it(tmp_path: Path) -> None:
    (tmp_path / "x.aez").write_bytes(hostile(["sub/a.png", "b.png"]))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "elsewhere")
    report = Report()
    decompress.decompress([str(tmp_path / "x.aez")], str(tmp_path / "out"), report=report)
    assert report.exit_code == 3
    assert not list((tmp_path / "elsewhere").iterdir())
    assert (tmp_path / "out" / "b.png").exists()


def test_names_of_a_stream_that_would_overwrite_each_other_fail(tmp_path: Path) -> None:
    (tmp_path / "x.aez").write_bytes(hostile(["a.png", "a.jpg"]))
    report = Report()
    decompress.decompress([str(tmp_path / "x.aez")], force=True, report=report)
    assert (report.exit_code, report.images) == (3, 1)
    assert "a.jpg" in report.failed[0][0]
    assert "also the output of image 0" in report.failed[0][1]


def stub_blocks(monkeypatch: pytest.MonkeyPatch, names: list[str]) -> np.ndarray:
    """Let every stream decode to 3 blocks of 2 images: whole, one image lost, all lost."""
    pixels = make_pixels(6)
    error = ChecksumMismatch("the check differs")

    def blocks(*_: object, **__: object) -> Iterator[api.DecodedBlock]:
        shared = {"is_single": False, "count": 2}
        yield api.DecodedBlock(
            first=0, pixels=pixels[:2], names=names[:2], error=None, lost=[], **shared
        )
        half = pixels[2:4] * np.array([1, 0], np.uint8)[:, None, None]
        yield api.DecodedBlock(
            first=2, pixels=half, names=names[2:4], error=error, lost=[1], **shared
        )
        yield api.DecodedBlock(
            first=4, pixels=None, names=names[4:], error=error, lost=[], **shared
        )

    def plans(*_: object) -> Iterator[decompress.Plan]:
        for block in blocks():
            yield decompress.Plan(block, range(block.first, block.first + block.count), block.names)

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(api, "decode_blocks", blocks)
    monkeypatch.setattr(decompress, "_plans_of_places", plans)
    monkeypatch.setattr(api.Collection, "__getitem__", refuse)  # random access meets the damage too
    return pixels


def test_damaged_collection_yields_all_that_is_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{i}.png" for i in range(6)]
    (tmp_path / "x.aez").write_bytes(hostile(names))
    pixels = stub_blocks(monkeypatch, names)
    report = Report()
    decompress.decompress([str(tmp_path / "x.aez")], report=report)
    assert report.exit_code == 4
    assert [reason for _, reason in report.failed] == [
        "block 1, images 3 (3.png): the check differs",
        "block 2, images 4-5 (4.png, 5.png): the check differs",
    ]
    restored = {int(path.stem): images.read_image(path) for path in (tmp_path / "x").iterdir()}
    assert sorted(restored) == [0, 1, 2]
    assert all((restored[i] == pixels[i]).all() for i in restored)


def test_damaged_array_leaves_out_what_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.aez").write_bytes(hostile([f"{i}" for i in range(6)]))
    pixels = stub_blocks(monkeypatch, [])
    for suffix in ("npy", "idx"):
        report = Report()
        decompress.decompress(
            [str(tmp_path / "x.aez")], str(tmp_path / f"x.{suffix}"), report=report
        )
        assert report.exit_code == 4
        assert (images.read_array(tmp_path / f"x.{suffix}") == pixels[:3]).all()


def test_index_reports_the_damage_it_meets_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.aez").write_bytes(hostile([f"{i}" for i in range(6)]))
    pixels = stub_blocks(monkeypatch, [])
    for picks, exit_code, kept in [([2, 0, 2], 0, [2, 0, 2]), ([3, 1], 4, [1])]:
        report = Report()
        index = [range(n, n + 1) for n in picks]
        decompress.decompress(
            [str(tmp_path / "x.aez")],
            str(tmp_path / "x.npy"),
            index=index,
            force=True,
            report=report,
        )
        assert report.exit_code == exit_code
        assert (images.read_array(tmp_path / "x.npy") == pixels[kept]).all()


def test_fault_outside_the_images_is_damage_though_none_is_lost(tmp_path: Path) -> None:
    stream = bytearray(hostile(["a", "b"]))
    # of the Checksum of the block
    stream[bitstream.COLLECTION.size + bitstream.BLOCK.size - 1] ^= 1
    stream[-1] ^= 1  # of End_Magic
    (tmp_path / "x.aez").write_bytes(stream)
    report = Report()
    decompress.decompress([str(tmp_path / "x.aez")], report=report)
    assert (report.exit_code, report.images) == (4, 2)
    block, footer = [reason for _, reason in report.failed]
    assert block.startswith("block 0: ")
    assert "bytes of this block were changed" in block
    assert footer.endswith("cut short")


def test_check_names_every_damaged_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.aez").write_bytes(hostile([f"{i}" for i in range(6)]))
    stub_blocks(monkeypatch, [])
    report = Report()
    assert decompress.check([str(tmp_path / "x.aez")], report) == []
    assert (report.exit_code, report.images, len(report.failed)) == (4, 3, 2)
