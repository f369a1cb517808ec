"""Names, plans, atomic outputs: what `codec.commands.compress` promises apart from the command
line.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import drained

from codec import api
from codec.collection.block import Decoded
from codec.collection.writer import Writer
from codec.commands import check, compress, decompress, jobs, planning
from codec.commands.events import (
    Checked,
    Done,
    Event,
    Expected,
    Failed,
    Note,
    Planned,
    Progress,
    Result,
    guarded,
)
from codec.commands.stream import Stream
from codec.encoder.encode import Encoder
from codec.encoder.options import Options
from codec.errors import ChecksumMismatch, UsageError
from codec.files import arrays, images, names
from codec.files.atomic import atomic
from codec.files.place import Local
from codec.format.headers import BLOCK, COLLECTION


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
    _, planned = drained(planning.plan([str(path) for path in inputs], out, separate))
    found: dict[str, list[str]] = {}
    for job in planned:
        for source in job.inputs:
            output = job.output_of(source) if isinstance(job, jobs.Singles) else job.output
            found.setdefault(str(output), []).append(source.name)
    return found


def remove(tree: Path, separate: bool = False, **options: Any) -> Result:
    made = compress.CompressOptions(remove=True, **options)
    return Result.of(compress.compress([str(tree)], separate=separate, options=made))


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
    assert names.bare_source(name) == bare


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
    told, (job,) = drained(planning.plan([str(tree / "a.png")], "x.aez"))
    assert (told, type(job), job.output) == ([], jobs.Singles, Local(Path("x.aez")))


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
    with pytest.raises(UsageError, match=r"x\.npy becomes a collection: give it alone"):
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
            _, planned = drained(planning.plan([str(tmp_path / "d")], None, separate))
            told, (job,) = drained(planning.refuse(planned, False))
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert (told, job.num_images) == ([], 4000)
        del planned, job
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
    report = Result.of(compress.compress([str(folder), str(folder / "c.npy")], str(out)))
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
    report = Result.of(compress.compress([str(tree)]))
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


def killed_while_writing(target: Path) -> None:
    """Let a process be killed in the midst of an output."""
    code = (
        "import os, signal, sys; from pathlib import Path; from codec.files.atomic import atomic; "
        "output = atomic(Path(sys.argv[1]), force=True); output.__enter__().write(b'half'); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(compress.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(target)], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL


def test_what_a_killed_process_left_of_an_output_goes_with_the_next_one(tmp_path: Path) -> None:
    target, other = tmp_path / "x.aez", tmp_path / "y.aez"
    for _ in range(3):
        killed_while_writing(target)
        assert len(debris(tmp_path)) == 1
    killed_while_writing(other)
    with atomic(target) as file:
        file.write(b"whole")
        assert len(debris(tmp_path)) == 2  # this one, and that of the other output
    assert target.read_bytes() == b"whole"
    assert len(debris(tmp_path)) == 1


def test_a_temporary_file_that_is_being_written_stays(tmp_path: Path) -> None:
    target = tmp_path / "x.aez"
    with atomic(target, force=True) as first:
        first.write(b"first")
        with atomic(target) as second:
            second.write(b"second")
            assert len(debris(tmp_path)) == 2
        assert target.read_bytes() == b"second"
    assert target.read_bytes() == b"first"
    assert not debris(tmp_path)


def test_no_link_in_the_place_of_a_temporary_file_is_followed_and_no_pipe_waited_for(
    tmp_path: Path,
) -> None:
    target, precious = tmp_path / "x.aez", tmp_path / "precious"
    killed_while_writing(target)
    (temporary,) = debris(tmp_path)
    precious.write_bytes(b"precious")
    temporary.unlink()
    temporary.symlink_to(precious)
    with atomic(target) as file:
        file.write(b"x")
    assert debris(tmp_path) == [temporary]
    temporary.unlink()
    os.mkfifo(temporary)
    with atomic(target, force=True) as file:
        file.write(b"y")
    assert (target.read_bytes(), precious.read_bytes()) == (b"y", b"precious")


def test_without_locks_outputs_are_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On some network file systems, and on Windows."""
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    for missing in (False, True):
        target = tmp_path / f"{missing}.aez"
        killed_while_writing(target)
        if missing:
            monkeypatch.setitem(sys.modules, "fcntl", None)
        for each in (target, tmp_path / f"{missing}-new.aez"):
            with atomic(each) as file:
                file.write(b"x")
            assert each.read_bytes() == b"x"
    assert len(debris(tmp_path)) == 2


@pytest.mark.parametrize("separate", [False, True])
def test_full_disk_fails_by_name_and_leaves_all_as_it_was(
    tree: Path, monkeypatch: pytest.MonkeyPatch, separate: bool
) -> None:
    existing = tree / "a.aez" if separate else tree.with_name("tree.aez")
    existing.write_bytes(b"before")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "some.tmp")

    monkeypatch.setattr(os, "replace", full)
    report = Result.of(
        compress.compress(
            [str(tree)], separate=separate, options=compress.CompressOptions(force=True)
        )
    )
    names = ("a", "b/10", "b/2", "é/1.jpg")
    outputs = {f"{tree}/{name}.png": f"{tree}/{name}.aez" for name in names}
    assert report.failed == [
        (name, f"cannot write {output}: No space left on device")
        for name, output in (outputs if separate else {str(tree): f"{tree}.aez"}).items()
    ]
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
    report = Result.of(compress.compress([str(tree)], separate=True))
    assert (report.exit_code, report.images, report.stats.images) == (3, 3, 3)
    assert (
        report.stats.bytes_out
        == report.bytes_out
        == sum(path.stat().st_size for path in tree.rglob("*.aez"))
    )


def test_removal_waits_for_an_output_that_decodes(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: object, **__: object) -> Iterator[Decoded]:
        raise ChecksumMismatch("the check differs")

    monkeypatch.setattr(Stream, "decoded", damaged)
    report = remove(tree)
    assert report.exit_code == 4
    assert len(list(tree.rglob("*.png"))) == 4


@pytest.mark.parametrize("separate", [False, True])
def test_removal_takes_exactly_the_images_that_are_in_the_output(
    tree: Path, separate: bool
) -> None:
    (tree / "bad.png").write_bytes(b"no image")
    report = remove(tree, separate)
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
    decoded = Stream.decoded

    def one_pixel_off(*args: Any, **options: Any) -> Iterator[Decoded]:
        for block in decoded(*args, **options):
            pixels = block.pixels.copy()
            pixels[-1, 27, 27] ^= 1
            yield replace(block, pixels=pixels)

    encoding = Options(100)
    monkeypatch.setattr(Stream, "decoded", one_pixel_off)
    report = remove(tree, separate, encoding=encoding)
    assert report.exit_code == 4
    assert "does not hold the pixels of its inputs" in report.failed[0][1]
    assert len(list(tree.rglob("*.png"))) == 4
    monkeypatch.setattr(Stream, "decoded", decoded)
    report = remove(tree, separate, encoding=encoding, force=True)
    assert (report.exit_code, report.stats.lossless) == (0, True)
    assert not list(tree.rglob("*.png"))


def test_processes_give_the_same_result(tmp_path: Path) -> None:
    for i in range(7):
        write_png(tmp_path / "d" / f"{i}.png", i)
    (tmp_path / "d" / "3.png").write_bytes(b"no image")
    for cores in (1, 2):
        options = compress.CompressOptions(jobs=cores, shard_images=2, block_images=2)
        whole, singles = tmp_path / f"{cores}.aez", tmp_path / f"{cores}-singles"
        for out in (whole, singles):
            report = Result.of(compress.compress([str(tmp_path / "d")], str(out), options=options))
            assert (report.images, len(report.failed)) == (6, 1)
        Result.of(decompress.decompress([str(whole)], jobs=cores))
    assert (tmp_path / "1.aez").read_bytes() == (tmp_path / "2.aez").read_bytes()
    for suffix in ("", "-singles"):
        one, two = (
            {p.name: p.read_bytes() for p in (tmp_path / f"{cores}{suffix}").iterdir()}
            for cores in (1, 2)
        )
        assert one == two
        assert len(one) == 6


def hostile(names: list[str]) -> bytes:
    """A collection with these names, which only another writer than `compress` would write."""
    file = io.BytesIO()
    writer = Writer(file)
    block = Encoder(Options(effort=1)).block(make_pixels(len(names)), names)
    writer.write(block.data, len(names))
    writer.finish()
    return file.getvalue()


@pytest.mark.parametrize(
    "name", ["../out.png", "/tmp/aez-escaped.png", "a/../../x.png", "C:\\x.png", "a\\..\\x"]
)
def test_names_in_a_stream_never_lead_out_of_the_output(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.aez").write_bytes(hostile([name, "good.png"]))
    report = Result.of(
        decompress.decompress([str(tmp_path / "in" / "x.aez")], str(tmp_path / "out" / "deep"))
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
    report = Result.of(decompress.decompress([str(tmp_path / "x.aez")], str(tmp_path / "out")))
    assert report.exit_code == 3
    assert not list((tmp_path / "elsewhere").iterdir())
    assert (tmp_path / "out" / "b.png").exists()


def test_names_of_a_stream_that_would_overwrite_each_other_fail(tmp_path: Path) -> None:
    (tmp_path / "x.aez").write_bytes(hostile(["a.png", "a.jpg"]))
    report = Result.of(decompress.decompress([str(tmp_path / "x.aez")], force=True))
    assert (report.exit_code, report.images) == (3, 1)
    assert "a.jpg" in report.failed[0][0]
    assert "also the output of image 0" in report.failed[0][1]


def write_damaged(path: Path, names: list[str] | None = None) -> np.ndarray:
    """A collection of 3 blocks of 20 images, groups of 5: one whole, one whose last group is
    damaged, one whose index is.  Returns its pixels before the damage, (60, 28, 28).
    """
    file, encoder = io.BytesIO(), Encoder(Options(model="mnist", effort=1, guard=False))
    writer = Writer(file)
    for first in range(0, 60, 20):
        called = None if names is None else names[first : first + 20]
        writer.write(encoder.block(make_pixels(20, first), called).data, 20)
    writer.finish()
    stream = bytearray(file.getvalue())
    with api.open(bytes(stream)) as collection:
        pixels = collection[:]
        _, second, third = collection.blocks
        names_bytes = third.header.names_bytes
    stream[second.offset + second.size - 1] ^= 1
    stream[third.offset + BLOCK.size + names_bytes] ^= 255
    path.write_bytes(stream)
    return pixels


def test_damaged_collection_yields_all_that_is_intact(tmp_path: Path) -> None:
    pixels = write_damaged(tmp_path / "x.aez", [f"{i}.png" for i in range(60)])
    for cores in (1, 4):
        report = Result.of(decompress.decompress([str(tmp_path / "x.aez")], jobs=cores, force=True))
        assert report.exit_code == 4
        (one, two) = (reason for _, reason in report.failed)
        assert one.startswith("block 1, images 35-39 (35.png, 36.png, 37.png, ...): byte ")
        assert two.startswith("block 2, images 40-59 (40.png, 41.png, 42.png, ...): byte ")
        restored = {int(path.stem): images.read_image(path) for path in (tmp_path / "x").iterdir()}
        assert sorted(restored) == list(range(35))
        assert all((restored[i] == pixels[i]).all() for i in restored)


def test_damaged_array_leaves_out_what_is_lost(tmp_path: Path) -> None:
    pixels = write_damaged(tmp_path / "x.aez")
    for suffix in ("npy", "idx"):
        report = Result.of(
            decompress.decompress([str(tmp_path / "x.aez")], str(tmp_path / f"x.{suffix}"))
        )
        assert report.exit_code == 4
        assert (arrays.read_array(tmp_path / f"x.{suffix}") == pixels[:35]).all()


def test_index_reports_the_damage_it_meets_and_no_other(tmp_path: Path) -> None:
    pixels = write_damaged(tmp_path / "x.aez")
    out = str(tmp_path / "x.npy")
    for picks, exit_code, kept in [
        ([2, 0, 2], 0, [2, 0, 2]),
        ([22, 1], 0, [22, 1]),
        ([39, 22, 1], 4, [22, 1]),
        ([2, 50], 4, [2]),
    ]:
        index = [range(n, n + 1) for n in picks]
        report = Result.of(
            decompress.decompress([str(tmp_path / "x.aez")], out, index=index, force=True)
        )
        assert (report.exit_code, len(report.failed)) == (exit_code, exit_code // 4)
        assert (arrays.read_array(tmp_path / "x.npy") == pixels[kept]).all()


def test_stream_of_which_nothing_is_intact_gives_no_array(tmp_path: Path) -> None:
    stream = bytearray(hostile(["a", "b"]))
    stream[COLLECTION.size + BLOCK.size + 1] ^= 255
    for at in range(COLLECTION.size + BLOCK.size, len(stream) - 40):
        stream[at] ^= 255
    (tmp_path / "x.aez").write_bytes(stream)
    report = Result.of(decompress.decompress([str(tmp_path / "x.aez")], str(tmp_path / "x.npy")))
    assert report.exit_code == 4
    assert not (tmp_path / "x.npy").exists()


def test_fault_outside_the_images_is_damage_though_none_is_lost(tmp_path: Path) -> None:
    stream = bytearray(hostile(["a", "b"]))
    # of the Checksum of the block
    stream[COLLECTION.size + BLOCK.size - 1] ^= 1
    stream[-1] ^= 1  # of End_Magic
    (tmp_path / "x.aez").write_bytes(stream)
    report = Result.of(decompress.decompress([str(tmp_path / "x.aez")]))
    assert (report.exit_code, report.images) == (4, 2)
    block, footer = [reason for _, reason in report.failed]
    assert block.startswith("block 0: ")
    assert "this block is damaged" in block
    assert footer.endswith("it is cut short or its end is damaged")


def test_check_names_every_damaged_block(tmp_path: Path) -> None:
    path = str(tmp_path / "x.aez")
    write_damaged(tmp_path / "x.aez")
    for cores in (1, 4):
        *told, last = check.check([path], jobs=cores)
        assert told[:2] == [Expected(1), Expected(59)]
        assert [type(event) for event in told[2:]] == [
            Progress,
            Failed,
            Progress,
            Failed,
            Progress,
        ]
        assert last == Checked(path, 35, whole=False)
        result = Result.of(check.check([path], jobs=cores))
        assert (result.exit_code, result.images, len(result.failed)) == (4, 35, 2)


# Events


def test_compress_tells_what_it_does_as_events(tree: Path) -> None:
    """Nothing is done before the first is asked for."""
    (tree / "b" / "2.png").write_bytes(b"no image")
    events = compress.compress([str(tree)], options=compress.CompressOptions(block_images=3))
    assert not tree.with_name("tree.aez").exists()
    *told, done = events
    with api.open(tree.with_name("tree.aez")) as collection:
        sizes = [block.size for block in collection.blocks]
    assert told == [
        Note(f"{tree}: skipped 1 file of other kinds (notes.txt)"),
        Expected(4),
        Failed(f"{tree}/b/2.png", "is not an image that Pillow can read"),
        Progress(3, sizes[0]),
        Progress(1, sizes[1]),
    ]
    assert isinstance(done, Done)
    size = tree.with_name("tree.aez").stat().st_size
    assert (done.input, done.output, done.images) == (str(tree), f"{tree}.aez", 3)
    assert (done.bytes_out, done.stats and done.stats.images) == (size, 3)


def test_events_that_nobody_asks_for_any_more_leave_what_is_finished(tree: Path) -> None:
    """To close the generator is to interrupt the command."""
    options = compress.CompressOptions(block_images=1)
    events = compress.compress([str(tree)], options=options)
    assert [type(next(events)) for _ in range(4)] == [Note, Expected, Progress, Progress]
    events.close()
    left = sorted(path.name for path in tree.parent.iterdir())
    assert left == [".tree.aez.journal", ".tree.aez.partial", "tree"]
    notes = Result.of(compress.compress([str(tree)], options=options)).notes
    assert f"{tree}.aez: resuming, 2 of 4 blocks are finished" in notes


def test_dry_run_tells_what_would_be_written(tree: Path) -> None:
    events = list(compress.compress([str(tree)], dry_run=True))[1:]
    assert events == [Planned(str(tree), f"{tree}.aez", 4, several=True)]
    assert str(events[0]) == f"{tree} (4 images) -> {tree}.aez"


@pytest.mark.parametrize(
    ("events", "exit_code"),
    [
        ([], 0),
        ([Failed("a", "why")], 1),
        ([Failed("a", "why"), Done("b", "b.aez", 1, 78, 20)], 3),
        ([Failed("a", "why", damaged=True), Done("b", "b.png", 1, 20, 78)], 4),
    ],
)
def test_exit_code_is_what_the_events_add_up_to(events: list[Event], exit_code: int) -> None:
    result = Result()
    for event in events:
        result.add(event)
    assert result.exit_code == exit_code


def test_error_of_one_input_is_its_failure_and_a_reader_that_is_gone_is_not() -> None:
    def raising(error: Exception) -> Iterator[Event]:
        yield Progress(1)
        raise error

    assert list(guarded("a", raising(ChecksumMismatch("a: bad")))) == [
        Progress(1),
        Failed("a", "bad", damaged=True),
    ]
    assert list(guarded("a", raising(FileNotFoundError(2, "No such file")))) == [
        Progress(1),
        Failed("a", "No such file"),
    ]
    with pytest.raises(BrokenPipeError):
        list(guarded("a", raising(BrokenPipeError())))
