"""Untrusted names: nothing is written outside the output directory, and no image over another."""

from __future__ import annotations

import os
import re
from pathlib import Path

import helpers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec import api
from codec.commands import decompress
from codec.commands.events import Result
from codec.errors import UsageError
from codec.files import images, names

pytestmark = pytest.mark.usefixtures("shipped")


def extract(
    tmp_path: Path,
    called: list[str],
    *,
    out: str = "out",
    force: bool = False,
    jobs: int = 1,
    block_images: int = 4096,
) -> Result:
    """Restore a collection with these names, which no writer of ours would take, into
    tmp_path/`out`.
    """
    stream = tmp_path / "x.aez"
    stream.write_bytes(helpers.collect(len(called), called, block_images=block_images))
    return Result.of(
        decompress.decompress([str(stream)], str(tmp_path / out), force=force, jobs=jobs)
    )


def written(tmp_path: Path) -> set[str]:
    return {
        str(path.relative_to(tmp_path))
        for path in tmp_path.rglob("*")
        if not path.is_dir() and path.name != "x.aez"
    }


HOSTILE = [
    "../out.png",
    "a/../../x.png",
    "/abs.png",
    "//abs.png",
    "C:\\x.png",
    "C:x.png",
    "c:/x.png",
    "a\\..\\x.png",
    "\\\\host\\x.png",
    "..",
    ".",
    "",
    "a//b.png",
    "./a.png",
    "a/.",
    "~/../x/../../y.png",
    "x" * 300,
    "é" * 200 + "/a.png",
    "\udcff.png",
]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("jobs", [1, 2])
def test_hostile_name_is_refused_by_name_and_costs_no_other(
    tmp_path: Path, name: str, jobs: int
) -> None:
    report = extract(tmp_path, ["first.png", name, "last.png"], jobs=jobs)
    assert written(tmp_path) == {"out/first.png", "out/last.png"}
    assert (report.images, len(report.failed), report.exit_code) == (2, 1, 3)
    assert "unsafe name" in report.failed[0][1]


def test_processes_refuse_the_same_names(tmp_path: Path, tiny_weights: Path) -> None:
    """Blocks enough for two processes: the names are judged before the work is given away."""
    called = ["a.png", "../b.png", "c.png", "d/e.png", "a.png", "f.png"]
    report = extract(tmp_path, called, jobs=2, block_images=1)
    assert written(tmp_path) == {"out/a.png", "out/c.png", "out/d/e.png", "out/f.png"}
    assert [reason.split(":")[0] for _, reason in report.failed] == [
        "unsafe name",
        f"{tmp_path}/out/a.png is also the output of image 0",
    ]


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("c:colon.png", "starts with 'c:', which Windows takes for a drive"),
        ("/x.png", "is absolute: it starts with '/'"),
        ("", "is empty"),
        ("a/../b", "has an empty, '.' or '..' component"),
    ],
)
def test_message_says_what_is_wrong_with_a_name(name: str, fault: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(f'unsafe name: it {fault}')}$"):
        names.safe_parts(name)


def test_nul_cannot_be_in_a_name() -> None:
    """It ends a name in a stream; so one with NUL is two, and their number gives it away."""
    with pytest.raises(UsageError, match="NUL"):
        api.compress(helpers.drawn(1), names=["a\0b"])
    with pytest.raises(UsageError, match="unsafe name"):
        names.safe_parts("a\0b")


def test_name_too_deep_for_the_system_fails_by_name(tmp_path: Path) -> None:
    report = extract(tmp_path, ["/".join(["d" * 200] * 30) + "/x.png", "good.png"])
    assert written(tmp_path) == {"out/good.png"}
    path = tmp_path / "out" / "/".join(["d" * 200] * 30) / "x.png"
    reason = f"cannot write {path}: File name too long"
    assert [reason for _, reason in report.failed] == [reason]


def test_file_in_the_place_of_a_directory_fails_by_name(tmp_path: Path) -> None:
    report = extract(tmp_path, ["a.png", "a.png/b.png", "c/d", "c/d.png/e.png"])
    assert written(tmp_path) == {"out/a.png", "out/c/d.png"}
    assert len(report.failed) == 2
    assert report.exit_code == 3


@pytest.mark.parametrize(
    "where", ["folder", "deep folder", "root", "file", "dangling file", "loop"]
)
@pytest.mark.parametrize("force", [False, True])
def test_links_in_the_target_tree_lead_nowhere(tmp_path: Path, where: str, force: bool) -> None:
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    (elsewhere / "b.png").write_bytes(b"precious")
    if where == "root":  # OUT itself is what the caller named: a link there is meant
        out.symlink_to(elsewhere)
    else:
        out.mkdir()
    if where == "folder":
        (out / "sub").symlink_to(elsewhere)
    elif where == "deep folder":
        (out / "sub").mkdir()
        (out / "sub" / "deep").symlink_to("../../elsewhere")
    elif where == "file":
        (out / "sub").mkdir()
        (out / "sub" / "b.png").symlink_to(elsewhere / "b.png")
    elif where == "dangling file":
        (out / "sub").mkdir()
        (out / "sub" / "b.png").symlink_to(elsewhere / "nothing.png")
    elif where == "loop":
        (out / "sub").symlink_to("sub")
    report = extract(tmp_path, ["sub/b.png", "sub/deep/b.png", "good.png"], force=force)
    assert (elsewhere / "b.png").read_bytes() == b"precious"
    assert {path.name for path in elsewhere.iterdir()} == (
        {"b.png", "sub", "good.png"} if where == "root" else {"b.png"}
    )
    assert (out / "good.png").is_file()
    if where in ("file", "dangling file"):
        link = out / "sub" / "b.png"
        assert link.is_symlink() is not force  # -f replaces the link, never what it leads to
        assert report.exit_code == (0 if force else 3)
    elif where != "root":
        assert report.exit_code == 3


def test_names_that_differ_in_case_are_two_files_where_the_system_says_so(tmp_path: Path) -> None:
    assert not names.folds_case(tmp_path), "this file system folds case: the test below covers it"
    report = extract(tmp_path, ["a.png", "A.png", "Straße.png", "STRASSE.png"])
    assert (report.exit_code, report.images) == (0, 4)


def test_names_that_differ_in_case_fail_where_the_system_takes_them_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "folds_case", lambda directory: True)
    called = [
        "a.png",
        "A.png",
        "d/x.png",
        "D/x.png",
        "Straße.png",
        "STRASSE.png",
        "\u00e9.png",
        "e\u0301.png",
    ]
    report = extract(tmp_path, called, force=True)
    assert written(tmp_path) == {f"out/{name}" for name in called[::2]}
    assert [name.rpartition(": ")[2] for name, _ in report.failed] == called[1::2]
    assert "also the output of image 0" in report.failed[0][1]


@pytest.mark.parametrize("folds", [False, True])
def test_case_is_probed_without_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folds: bool
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(os.path, "exists", lambda path: asked.append(path) or folds)
    assert names.folds_case(tmp_path / "not" / "there") is folds
    assert [path.parent for path in asked] == [tmp_path]
    assert asked[0].name == asked[0].name.upper() != asked[0].name.lower()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "aux",
        "AUX.png",
        "d/nul.tar.png",
        "com1",
        "LPT9.x",
        "con .png",
        "a.",
        "a ",
        "d./x.png",
        "ab:c",
        "a*b",
        "a\x01b",
        'a"b',
    ],
)
def test_names_that_windows_does_not_take_are_refused_there_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert names.safe_parts(name) == tuple(name.split("/"))
    monkeypatch.setattr(names, "ON_WINDOWS", True)
    with pytest.raises(UsageError, match="Windows"):
        names.safe_parts(name)


@pytest.mark.parametrize("name", ["auxiliary", "com10.png", "a.b", "console", ".hidden", "nul1"])
def test_names_like_those_are_taken_on_windows_too(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "ON_WINDOWS", True)
    assert names.safe_parts(name) == (name,)


@settings(max_examples=60)
@given(
    called=st.lists(
        st.text(st.sampled_from("ab./\\:~é\udc80C"), max_size=8), min_size=1, max_size=6
    ),
    force=st.booleans(),
)
def test_any_names_stay_below_the_output(
    tmp_path_factory: pytest.TempPathFactory, called: list[str], force: bool
) -> None:
    folder = tmp_path_factory.mktemp("any")
    report = extract(folder, called, out="deep/er/out", force=force)
    assert all(name.startswith("deep/er/out/") for name in written(folder))
    assert len(written(folder)) == report.images
    assert report.images + len(report.failed) == len(called)


@given(st.lists(st.sampled_from("abc"), max_size=8))
def test_collisions_are_all_found_and_nothing_else(keys: list[str]) -> None:
    expected = [(i, keys.index(key)) for i, key in enumerate(keys) if keys.index(key) != i]
    assert list(names.collisions(lambda: keys)) == expected


@given(st.text(max_size=12))
def test_restored_name_is_that_of_pathlib_with_png(name: str) -> None:
    """The quick way for names that end in .png gives what the slow one does."""
    if "/" not in name and name not in ("", ".", ".."):
        assert (
            names.restored(name)
            == (str(Path(name).with_suffix("")) if images.is_image_file(Path(name)) else name)
            + ".png"
        )
        assert images.is_image_file(name) == images.is_image_file(Path(name))
