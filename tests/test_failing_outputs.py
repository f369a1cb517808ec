"""What is said when an output cannot be written, an input not deleted, or a standard stream is
closed: the output is named, and what was tried with it.
"""

from __future__ import annotations

import errno
import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import helpers
import numpy as np
import pytest

import codec
from codec.collection.single import SingleImage
from codec.commands import compress, decompress, merge
from codec.commands.events import Events, Existing, Failed, Result
from codec.errors import AezError, UsageError
from codec.files import atomic, images
from codec.files.atomic import OutputExists
from codec.files.place import STANDARD

ROOT = Path(codec.__file__).parents[1]
pytestmark = pytest.mark.usefixtures("shipped")


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """No file can be longer than `size` bytes; the signal that comes with it is ignored."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


FULL = os.strerror(errno.EFBIG)


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: w.png; t/a.png and t/b.png, which t.aez has too; x.npy and x.aez."""
    monkeypatch.chdir(tmp_path)
    pixels = helpers.drawn(3)
    Path("t").mkdir()
    for name, image in zip(("w.png", "t/a.png", "t/b.png"), pixels, strict=True):
        Path(name).write_bytes(images.pack_png(image))
    np.save("x.npy", pixels)
    assert Result.of(compress.compress(["t"], "t.aez")).exit_code == 0
    assert Result.of(compress.compress(["x.npy"])).exit_code == 0
    return tmp_path


# what fails, and the output that the message names
COMMANDS: dict[str, tuple[Callable[[], Events], dict[str, str]]] = {
    "image": (lambda: compress.compress(["w.png"]), {"w.png": "w.aez"}),
    "images": (
        lambda: compress.compress(["t"], "out"),
        {"t/a.png": "out/a.aez", "t/b.png": "out/b.aez"},
    ),
    "collection": (lambda: compress.compress(["t"], "out.aez"), {"t": "out.aez"}),
    "array": (lambda: compress.compress(["x.npy"], "out.aez"), {"x.npy": "out.aez"}),
    "merged": (lambda: merge.merge(["x.aez", "x.aez"], "out.aez"), {"out.aez": "out.aez"}),
    "tree": (
        lambda: decompress.decompress(["t.aez"], "out"),
        {"t.aez: a.png": "out/a.png", "t.aez: b.png": "out/b.png"},
    ),
    "npz": (lambda: decompress.decompress(["x.aez"], "out.npz"), {"x.aez": "out.npz"}),
    "csv": (lambda: decompress.decompress(["x.aez"], "out.csv"), {"x.aez": "out.csv"}),
    "restored": (lambda: decompress.decompress(["x.aez"], "out.npy"), {"x.aez": "out.npy"}),
}


@pytest.mark.parametrize("kind", COMMANDS)
def test_full_disk_is_that_of_the_output(inputs: Path, kind: str) -> None:
    run, outputs = COMMANDS[kind]
    with small_disk(50 if kind == "tree" else 4):  # a tree begins with a journal of one line
        found = Result.of(run())
    tried = "cannot be written" if kind == "merged" else "cannot write {}"
    assert found.failed == [
        (name, f"{tried.format(output)}: {FULL}") for name, output in outputs.items()
    ]
    assert found.exit_code == 1
    assert not any((inputs / output).exists() for output in outputs.values())


@pytest.mark.parametrize("kind", ["images", "tree"])
def test_a_file_in_the_place_of_the_output_directory_is_named(inputs: Path, kind: str) -> None:
    (inputs / "out").write_bytes(b"mine")
    run, _ = COMMANDS[kind]
    found = Result.of(run())
    assert {reason for _, reason in found.failed} == {"output directory out is a file"}
    assert (inputs / "out").read_bytes() == b"mine"
    found = Result.of(compress.compress(["t"], "out/below/x.aez"))
    assert found.failed == [("t", "output directory out is a file")]
    (inputs / "out").unlink()
    (inputs / "out").symlink_to("nowhere")
    found = Result.of(compress.compress(["w.png"], "out/x.aez"))
    assert found.failed == [("w.png", "output directory out is no directory")]


@pytest.mark.parametrize("kind", [kind for kind in COMMANDS if kind != "image"])
def test_a_directory_that_cannot_be_made_is_named(
    inputs: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    run, outputs = COMMANDS[kind]
    found = Result.of(run())
    if kind in ("images", "tree"):
        said = "cannot make the directory out: Permission denied"
    else:
        said = "cannot make the directory .: Permission denied"
    assert {reason for _, reason in found.failed} == {said}
    assert not any((inputs / output).exists() for output in outputs.values())


def test_a_directory_that_takes_no_files_is_no_fault_of_the_input(
    inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = atomic.open_output

    def refuse(path: Path, *options: Any) -> Any:
        return opened(Path("/proc/self/nothing"), *options)

    monkeypatch.setattr(atomic, "open_output", refuse)
    found = Result.of(compress.compress(["w.png"]))
    assert found.failed == [("w.png", "cannot write w.aez: No such file or directory")]


def test_input_that_cannot_be_deleted_is_named(
    inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.name == "b.png":
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    options = compress.CompressOptions(remove=True)
    found = Result.of(compress.compress(["t"], "out.aez", options=options))
    assert found.failed == [("t", "cannot delete t/b.png: Operation not permitted")]
    assert sorted(path.name for path in Path("t").iterdir()) == ["b.png"]
    found = Result.of(compress.compress(["t/b.png"], "b.aez", options=options))
    assert found.failed == [("t/b.png", "cannot be deleted: Operation not permitted")]


def test_an_error_of_reading_does_not_name_the_output(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="input/output") as caught:
        with atomic.atomic(tmp_path / "x"):
            raise OSError(errno.EIO, "input/output error")
    assert caught.value.strerror == "input/output error"
    assert list(tmp_path.iterdir()) == []


def test_named_errors_keep_their_class_and_number() -> None:
    with pytest.raises(BrokenPipeError) as caught, atomic.naming("cannot write x"):
        raise OSError(errno.EPIPE, "Broken pipe")
    assert caught.value.errno == errno.EPIPE
    assert caught.value.strerror == "cannot write x: Broken pipe"


def test_temporary_file_names_its_directory() -> None:
    with small_disk(8), atomic.temporary_file() as file:
        file.write(bytes(8))
        file.flush()
        file.write(bytes(8))
        with pytest.raises(OSError, match="cannot write a temporary file in /"):
            file.flush()
        with pytest.raises(OSError, match="File too large"):
            file.close()


# Outputs that exist


def numbered(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i, pixels in enumerate(helpers.drawn(count)):
        (folder / f"{i}.png").write_bytes(images.pack_png(pixels))
    return folder


def test_the_same_command_makes_what_an_interrupted_one_has_not_made(tmp_path: Path) -> None:
    """Single files need no journal: what exists is whole."""
    source, out = numbered(tmp_path / "d", 6), tmp_path / "out"

    def run(force: bool = False) -> Result:
        options = compress.CompressOptions(force=force)
        return Result.of(compress.compress([str(source)], str(out), options=options))

    assert run().exit_code == 0
    wanted = {path.name: path.read_bytes() for path in out.iterdir()}
    for name in ("1.aez", "4.aez"):
        (out / name).unlink()
    (out / "0.aez").write_bytes(b"mine")
    done = run()
    assert done.failed == [(str(out), "4 of 6 outputs exist already; -f replaces them")]
    assert (done.images, done.exit_code) == (2, 3)
    (out / "0.aez").write_bytes(wanted["0.aez"])
    assert {path.name: path.read_bytes() for path in out.iterdir()} == wanted
    assert (run().exit_code, run(force=True).exit_code) == (1, 0)


def test_a_few_outputs_that_exist_are_named(tmp_path: Path) -> None:
    source = numbered(tmp_path / "d", 6)
    (source / "5.aez").write_bytes(b"mine")
    (source / "3.aez").write_bytes(b"mine")
    done = Result.of(compress.compress([str(source)], separate=True))
    assert done.failed == [
        (f"{source}/{i}.png", f"output {source}/{i}.aez exists (-f overwrites it)") for i in (3, 5)
    ]


def test_restoring_again_tells_in_one_line_what_exists_and_decodes_none_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out, back = numbered(tmp_path / "d", 5), tmp_path / "out", tmp_path / "back"
    Result.of(compress.compress([str(source)], str(out)))
    assert Result.of(decompress.decompress([str(out)], str(back))).exit_code == 0
    (back / "2.png").unlink()
    decoded: list[int] = []
    pixels = SingleImage.pixels
    monkeypatch.setattr(SingleImage, "pixels", lambda one: decoded.append(1) or pixels(one))
    done = Result.of(decompress.decompress([str(out)], str(back)))
    assert done.failed == [(str(back), "4 of 5 outputs exist already; -f replaces them")]
    assert (done.images, done.exit_code, decoded) == (1, 3, [1])


def test_restoring_a_tree_again_tells_in_one_line_what_exists(tmp_path: Path) -> None:
    source, out = numbered(tmp_path / "d", 5), tmp_path / "out"
    Result.of(compress.compress([str(source)]))
    assert Result.of(decompress.decompress([f"{source}.aez"], str(out))).exit_code == 0
    (out / "2.png").unlink()
    done = Result.of(decompress.decompress([f"{source}.aez"], str(out)))
    assert done.failed == [(str(out), "4 of 5 outputs exist already; -f replaces them")]
    assert (done.images, done.exit_code) == (1, 3)


def test_outputs_of_many_folders_are_those_of_what_they_share() -> None:
    existing = Existing()
    for path in ("out/0/a.aez", "out/01/b.aez", "out/0/c.aez", "out/5/d.aez"):
        assert existing.take("x", pickle.loads(pickle.dumps(OutputExists(path)))) == []
    said = "4 of 60,000 outputs exist already; -f replaces them"
    assert existing.told(60_000) == [Failed("out", said)]
    assert existing.take("x", UsageError("other")) == [Failed("x", "other")]


# Standard streams


def aez(*args: str, closed: str = "", stdin: bytes | None = None) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in a shell that closes streams."""
    line = f'exec "$@" {closed}'
    command = ["sh", "-c", line, "sh", sys.executable, "-m", "codec", *args]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=60, env=environment)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize("closed", [*helpers.slow("2>&-", ">&-", "<&-"), "<&- >&- 2>&-"])
def test_closed_streams_that_are_not_needed_change_nothing(inputs: Path, closed: str) -> None:
    wanted, _, _ = aez("compress", "w.png", "-o", "wanted.aez")
    code, out, err = aez("compress", "w.png", closed=closed)
    assert (wanted, code, err) == (0, 0, "")
    assert Path("w.aez").read_bytes() == Path("wanted.aez").read_bytes()
    assert ("-> w.aez" in out) == (closed in ("2>&-", "<&-"))
    assert aez("info", "w.aez", closed=closed)[0] == 0
    assert aez("ls", "w.aez", closed=closed)[0] == 0
    code, _, err = aez("info", "none.aez", closed=closed)
    assert code == 1
    assert ("none.aez: No such file" in err) == ("2>" not in closed)


@pytest.mark.parametrize(
    ("args", "closed", "said"),
    [
        (["compress", "-", "-o", "y.aez"], "<&-", "aez: stdin: stdin is closed\n"),
        (["decompress", "-", "-o", "y.png"], "<&-", "aez: stdin: stdin is closed\n"),
        (["compress", "w.png", "-o", "-"], ">&-", "aez: w.png: stdout is closed\n"),
        (["decompress", "x.aez", "-o", "-"], ">&-", "aez: x.aez: stdout is closed\n"),
    ],
)
def test_a_closed_stream_that_is_needed_is_one_line(
    inputs: Path, args: list[str], closed: str, said: str
) -> None:
    assert aez(*args, closed=closed) == (1, "", said)
    assert not Path("y.aez").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is full")
@pytest.mark.parametrize("args", [["info", "x.aez"], ["compress", "w.png", "-o", "-"]], ids=len)
def test_stdout_that_is_full_is_one_line(inputs: Path, args: list[str]) -> None:
    code, _, err = aez(*args, closed=">/dev/full")
    assert code == 1
    assert err.startswith("aez: ")
    assert err.endswith("cannot write to stdout: No space left on device\n")
    assert err.count("\n") == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is full")
def test_messages_that_nobody_can_read_are_no_failure(inputs: Path) -> None:
    assert aez("compress", "none.png", "w.png", closed="2>/dev/full") == (3, ANY, "")
    assert Path("w.aez").exists()


def test_standard_streams_of_a_program_without_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in pythonw of Windows."""
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(UsageError, match="stdin is closed"), STANDARD.open():
        pass
    with pytest.raises(AezError, match="stdout is closed"), STANDARD.replace():
        pass
