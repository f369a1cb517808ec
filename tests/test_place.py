"""Places: files, URLs and standard streams, with one way to ask and to write."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from codec.errors import UsageError
from codec.files.place import STANDARD, Local, Place, Url, below, given, place, read_many


@pytest.fixture(params=["local", "url"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An empty directory, of each kind."""
    if request.param == "local":
        yield place(tmp_path)
        return
    store = fsspec.filesystem("memory")
    yield place("memory://root")
    store.rm("/", recursive=True)


def read(where: Place) -> bytes:
    with where.open() as file:
        return file.read()


def test_a_name_is_a_path_or_a_url_and_a_dash_only_where_it_was_given() -> None:
    assert place("d/x.aez") == Local(Path("d/x.aez"))
    assert place("s3://b/x.aez") == Url("s3://b/x.aez")
    assert given("-") is STANDARD
    assert place("-") == given("./-") == Local(Path("-"))
    assert [str(one) for one in map(given, ("a//b", "s3://b/x", "-"))] == ["a/b", "s3://b/x", "-"]
    assert [one.name for one in map(given, ("a/b.c", "s3://b/x", "-"))] == ["b.c", "x", "stdin"]


def write_half(output: Place) -> None:
    with output.replace(force=True) as file:
        file.write(b"half")
        raise KeyboardInterrupt


def test_names_below_a_root() -> None:
    assert [below(root, "0/1.png") for root in ("", ".", "d", "/", "s3://b")] == [
        "0/1.png",
        "0/1.png",
        "d/0/1.png",
        "/0/1.png",
        "s3://b/0/1.png",
    ]
    assert place("d").below("a").with_suffix(".npy") == Local(Path("d/a.npy"))
    assert STANDARD.below("a").with_suffix(".npy") is STANDARD


def test_what_is_written_is_there_whole_and_is_replaced_by_force_alone(root: Place) -> None:
    output = root.below("a/x.bin")
    assert not output.exists()
    with output.replace() as file:
        file.write(b"one")
        assert not output.exists()
    assert (read(output), output.size()) == (b"one", 3)
    with pytest.raises(UsageError, match=r"x\.bin exists \(-f overwrites it\)"):
        output.replace().__enter__()
    seen = output.identity()
    with output.replace(force=True, durable=True) as file:
        file.write(b"three")
    assert read(output) == b"three"
    assert output.identity() != seen
    assert root.walk(lambda name: True).found == ["a/x.bin"]


def test_a_write_that_fails_leaves_what_was_there(root: Place) -> None:
    output = root.below("x.bin")
    output.write(b"before")
    with pytest.raises(KeyboardInterrupt):
        write_half(output)
    assert read(output) == b"before"
    assert root.walk(lambda name: True).found == ["x.bin"]


def test_a_directory_is_never_replaced(root: Place) -> None:
    root.below("d/x").write(b"x")
    assert root.below("d").is_directory()
    for force in (False, True):
        with pytest.raises(UsageError, match="d is a directory"):
            root.below("d").check_free(force)


def test_a_finished_file_is_received(root: Place, tmp_path: Path) -> None:
    path = tmp_path / ".partial"
    path.write_bytes(b"finished")
    with open(path, "r+b") as file:
        root.below("x.bin").receive(file, path)
    assert read(root.below("x.bin")) == b"finished"
    assert not path.exists()


def test_walk_lists_what_is_wanted_in_code_point_order_and_counts_the_rest(root: Place) -> None:
    for name in ("10.png", "2.png", "d/é.png", "d/notes.txt", "A.png"):
        root.below(name).write(b"x")
    found, others, unread = root.walk(lambda name: name.endswith(".png"))
    assert (found, others, unread) == (["10.png", "2.png", "A.png", "d/é.png"], ["d/notes.txt"], [])


def test_walk_names_a_directory_that_cannot_be_read(tmp_path: Path) -> None:
    ((name, error),) = place(tmp_path / "nowhere").walk(lambda name: True).unread
    assert (name, error.errno) == (str(tmp_path / "nowhere"), errno.ENOENT)


def test_many_files_at_a_url_are_read_at_once_and_each_may_fail(root: Place) -> None:
    places = [root.below("a"), root.below("nowhere")]
    places[0].write(b"a")
    one, none = read_many(places)
    if root.path is not None:
        assert (one, none) == (None, None)  # each is opened by itself
    else:
        assert one == b"a"
        assert isinstance(none, FileNotFoundError)


def test_stdout_gets_all_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stdout))
    with pytest.raises(KeyboardInterrupt):
        write_half(STANDARD)
    assert stdout.getvalue() == b""
    with STANDARD.replace() as file:
        file.write(b"?")
        file.seek(0)
        file.write(b"whole")  # as the header of an array is put right at the end
        assert stdout.getvalue() == b""
    assert stdout.getvalue() == b"whole"
    monkeypatch.undo()


def test_what_is_unfinished_lies_beside_a_file_or_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert place(tmp_path / "x.aez").spool() == tmp_path / "x.aez"
    long = place(tmp_path / ("é" * 125 + ".aez")).spool()
    assert long is not None
    assert (long.parent, len(long.name)) == (tmp_path, 32)
    one, other = (place(f"memory://{name}/x.aez").spool() for name in "ab")
    assert one is not None
    assert one.parent == tmp_path / "cache" / "aez"
    assert one != other
    assert STANDARD.spool() is None


def test_only_this_process_sees_memory_and_stdin() -> None:
    assert place("memory://x").is_private
    assert STANDARD.is_private
    assert not place("s3://b/x").is_private
    assert not place("x").is_private


def test_the_same_file_has_one_full_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert place("a/../x").full() == place("./x").full() == os.path.join(tmp_path, "x")
    assert place("s3://b/x").full() == "s3://b/x"
