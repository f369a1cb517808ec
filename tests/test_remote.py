"""Inputs and outputs that are URLs, with the store that fsspec keeps in memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import helpers
import numpy as np
import pytest

from codec import api
from codec.commands import compress as batch
from codec.commands import decompress as restore
from codec.commands.check import check
from codec.commands.events import Checked, Expected, Progress, Result
from codec.encoder.options import Options
from codec.errors import UsageError
from codec.files import images, urls

pytestmark = pytest.mark.usefixtures("shipped")


@pytest.fixture
def store() -> Iterator[fsspec.AbstractFileSystem]:
    files = fsspec.filesystem("memory")
    yield files
    files.rm("/", recursive=True)


@pytest.fixture
def tree(store: fsspec.AbstractFileSystem) -> str:
    for i, pixels in enumerate(helpers.drawn(9)):
        store.pipe_file(f"/in/d/{i % 2}/{i}.png", images.pack_png(pixels))
    store.pipe_file("/in/d/notes.txt", b"no image")
    return "memory://in/d"


def compress(*inputs: str, out: str | None = None, **options: Any) -> Result:
    if "model" in options:
        options["encoding"] = Options(model=options.pop("model"))
    made = batch.CompressOptions(**options)
    return Result.of(batch.compress(list(inputs), out, options=made))


def decompress(*inputs: str, out: str | None = None, jobs: int = 2, force: bool = False) -> Result:
    return Result.of(restore.decompress(list(inputs), out, jobs=jobs, force=force))


def test_tree_at_a_url_becomes_the_collection_that_the_same_tree_on_disk_becomes(
    store: fsspec.AbstractFileSystem, tree: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store.get("/in/d", str(tmp_path / "d"), recursive=True)
    store.pipe_file("/in/d/0/bad.png", b"no image")
    report = compress(tree, out="memory://out/d.aez", jobs=2, block_images=4)
    assert report.failed == [("memory://in/d/0/bad.png", "is not an image that Pillow can read")]
    store.rm_file("/in/d/0/bad.png")
    again = compress(tree, out="memory://out/d.aez", jobs=2, force=True, block_images=4)
    assert again.exit_code == 0
    local = compress(str(tmp_path / "d"), out=str(tmp_path / "local.aez"), block_images=4)
    assert local.exit_code == 0
    assert store.cat_file("/out/d.aez") == (tmp_path / "local.aez").read_bytes()
    assert store.ls("/out", detail=False) == ["/out/d.aez"]
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    with api.open("memory://out/d.aez") as collection:
        assert collection.names[:2] == ["0/0.png", "0/2.png"]


def test_collection_at_a_url_is_restored_to_disk_and_to_a_url(
    store: fsspec.AbstractFileSystem, tree: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    compress(tree, out="memory://out/d.aez")
    assert decompress("memory://out/d.aez", out=str(tmp_path / "d")).exit_code == 0
    assert decompress("memory://out/d.aez", out="memory://out/tree").exit_code == 0
    for i in range(9):
        png = (tmp_path / "d" / f"{i % 2}" / f"{i}.png").read_bytes()
        assert store.cat_file(f"/out/tree/{i % 2}/{i}.png") == png
    again = decompress("memory://out/d.aez", out="memory://out/tree")
    said = "9 of 9 outputs exist already; -f replaces them"
    assert (again.images, again.failed, again.exit_code) == (0, [("memory://out/tree", said)], 1)
    assert decompress("memory://out/d.aez", out="memory://out/tree", force=True).exit_code == 0
    assert decompress("memory://out/d.aez", out="memory://out/d.npy").exit_code == 0
    assert len(np.load(urls.open_file("memory://out/d.npy"))) == 9
    with api.open("memory://out/d.aez") as collection:
        (block,) = collection.blocks
    assert list(check(["memory://out/d.aez"], jobs=2)) == [
        Expected(1),
        Expected(8),
        Progress(9, block.size),
        Checked("memory://out/d.aez", 9, whole=True),
    ]


def test_array_and_image_at_a_url_become_files_here(
    store: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store.pipe_file("/in/x.npy", images.pack_npy(helpers.drawn(5)))
    store.pipe_file("/in/a.png", images.pack_png(helpers.drawn(1)[0]))
    assert compress("memory://in/x.npy").outputs == ["x.aez"]
    assert compress("memory://in/a.png").outputs == ["a.aez"]
    assert len(api.open(tmp_path / "x.aez")) == 5
    assert api.decompress((tmp_path / "a.aez").read_bytes()).shape == (28, 28)


def test_interrupted_upload_leaves_nothing_and_is_resumed(
    store: fsspec.AbstractFileSystem, tree: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def fail(*_: object, **__: object) -> None:
        raise OSError(104, "Connection reset by peer")

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "mv", fail)
        report = compress(tree, out="memory://out/d.aez")
    said = "cannot write memory://out/d.aez: Connection reset by peer"
    assert report.failed == [(tree, said)]
    assert not store.exists("/out") or store.ls("/out") == []
    again = compress(tree, out="memory://out/d.aez")
    assert (again.images, again.exit_code) == (9, 0)
    assert "memory://out/d.aez: resuming, 1 of 1 block is finished" in again.notes


def test_existing_and_impossible_outputs_are_refused(
    store: fsspec.AbstractFileSystem, tree: str, tmp_path: Path
) -> None:
    store.pipe_file("/out/d.aez", b"there")
    report = compress(tree, out="memory://out/d.aez")
    assert report.exit_code == 1
    assert "exists" in report.failed[0][1]
    for inputs, out, message in [
        ([tree], "memory://out", r"must name an \.aez file"),
        ([tree], str(tmp_path), r"give an \.aez file as OUT"),
        ([tree, tree + "2"], None, "must be the only input"),
    ]:
        with pytest.raises(UsageError, match=message):
            compress(*inputs, out=out)
    report = compress(tree, out=str(tmp_path / "x.aez"), scheduler="tcp://127.0.0.1:9")
    assert [(name, "a cluster cannot read it" in reason) for name, reason in report.failed] == [
        (tree, True)
    ]
    with pytest.raises(UsageError, match="--rm needs files"):
        compress(tree, out=str(tmp_path / "x.aez"), remove=True)
    assert store.cat_file("/out/d.aez") == b"there"


def test_names_in_a_stream_never_lead_out_of_a_url(
    store: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    stream = helpers.collect(2, ["../out.png", "good.png"])
    (tmp_path / "x.aez").write_bytes(stream)
    report = decompress(str(tmp_path / "x.aez"), out="memory://out/deep")
    assert report.exit_code == 3
    assert store.find("/") == ["/out/deep/good.png"]


def test_without_fsspec_or_the_protocol_the_message_says_so(
    tree: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="nosuch"):
        compress("nosuch://a/b.png")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(UsageError, match=r"aez\[remote\]"):
        compress(tree)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("s3://b/x", True),
        ("memory://x", True),
        ("C://x", False),
        ("a/b", False),
        ("-", False),
        (None, False),
    ],
)
def test_urls_are_told_from_paths(name: str | None, expected: bool) -> None:
    assert urls.is_url(name) is expected
