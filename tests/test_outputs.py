"""Crash and resume: what a killed, interrupted or starved run leaves, and what the next one makes
of it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, TypeVar

import helpers
import numpy as np
import pytest

from codec import api
from codec.commands import compress as batch
from codec.commands import decompress as restore
from codec.commands import resume, stream, work
from codec.commands import tree as tree_of_files
from codec.commands.events import Done, Event, Note, Result
from codec.commands.planning import plan
from codec.commands.resume import Journal, Partial
from codec.commands.run import Run
from codec.encoder.options import Options
from codec.errors import AezError, ImageError, ModelNotFound, UsageError
from codec.files import atomic, images, place
from codec.files.place import Local
from codec.model import registry

T = TypeVar("T")
R = TypeVar("R")
BLOCK_IMAGES = 8
ROOT = Path(batch.__file__).parents[2]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """45 image files (six blocks of 8), of which one is none."""
    for i, pixels in enumerate(helpers.drawn(45)):
        path = tmp_path / "d" / f"{i % 3}" / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(images.pack_png(pixels))
    (tmp_path / "d" / "1" / "16.png").write_bytes(b"no image")  # in block 2
    return tmp_path / "d"


@pytest.fixture
def options(tiny_weights: Path) -> batch.CompressOptions:
    encoding = Options(model=model_file(tiny_weights, 0))
    return batch.CompressOptions(encoding, block_images=BLOCK_IMAGES)


def model_file(weights: Path, seed: int) -> str:
    return str(next(weights.glob(f"tiny{seed}-????????.safetensors")))


def run(tree: Path, options: batch.CompressOptions) -> Result:
    """Compress a tree."""
    return Result.of(batch.compress([str(tree)], options=options))


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.startswith(".")}


def cut_short(monkeypatch: pytest.MonkeyPatch, after: int, error: BaseException) -> list[int]:
    """Let the encoding of blocks raise after so many; returns a list that grows with each one
    encoded.
    """
    encode, encoded = work.encode_block, []

    def encode_block(task: work.BlockTask) -> work.BlockResult:
        if len(encoded) == after:
            raise error
        encoded.append(len(encoded))
        return encode(task)

    monkeypatch.setattr(work, "encode_block", encode_block)
    return encoded


# kill -9


# what writes outputs and what resumes them
FILES = {str(Path(module.__file__ or "")) for module in (atomic, place, resume)}


class KillAt:
    """Trace function that counts the lines run in FILES, and kills this process at number `point`
    of them.
    """

    def __init__(self, point: int | None) -> None:
        self.point, self.lines = point, 0
        self.files: set[str] = set()

    def __call__(self, frame: FrameType, event: str, arg: object) -> KillAt | None:
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            self.files.add(frame.f_code.co_filename)
            self.lines += 1
            if self.lines == self.point:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def traced(events: Generator[Event, None, None], point: int | None, log: Path) -> None:
    """Run a command in this process, which kills itself at line number `point` of those it runs in
    FILES; else write down what it did.
    """
    trace = KillAt(point)
    sys.settrace(trace)
    result = Result.of(events)
    sys.settrace(None)
    assert trace.files == FILES, "a file that was moved or split would not be tested"
    said = {"lines": trace.lines, "exit": result.exit_code, "images": result.images}
    with log.open("a") as file:
        file.write(json.dumps({**said, "bytes": result.bytes_out}) + "\n")


def logged(function: Callable[[T], R], log: Path) -> Callable[[T], R]:
    """A function that writes down each call."""

    def call(task: T) -> R:
        with log.open("a") as file:
            file.write("block\n")
        return function(task)

    return call


def compress_until(
    point: int | None, tree: Path, options: batch.CompressOptions, log: Path
) -> None:
    work.encode_block = logged(work.encode_block, log)  # of this process, which ends
    traced(batch.compress([str(tree)], options=options), point, log)


@pytest.mark.slow
def test_thirty_kills_leave_no_half_file_and_end_in_the_same_bytes(
    tree: Path, options: batch.CompressOptions, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["codec.commands.compress", "codec.cli"])
    log, output = tmp_path / "log", tree.with_name("d.aez")

    def compress(point: int | None) -> int | None:
        process = context.Process(target=compress_until, args=(point, tree, options, log))
        process.start()
        process.join(60)
        return process.exitcode

    assert compress(None) == 0
    *blocks, last = log.read_text().splitlines()
    done = json.loads(last)
    assert (len(blocks), done["exit"]) == (6, 3)  # one input is no image
    assert done["lines"] > 120
    wanted = hashlib.sha256(output.read_bytes()).digest()
    output.unlink()
    rng = random.Random(4)
    kills = resumed = 0
    encoded = 0  # blocks, since the output last appeared
    while kills < 30:
        log.write_text("")
        code = compress(rng.randrange(1, done["lines"]))
        encoded += log.read_text().count("block")
        kills += code == -signal.SIGKILL
        if output.exists():
            assert hashlib.sha256(output.read_bytes()).digest() == wanted
            resumed += encoded < 2 * 6  # what was finished was not made again
            encoded = 0
            output.unlink()
        else:
            assert code == -signal.SIGKILL
    assert compress(None) == 0
    assert hashlib.sha256(output.read_bytes()).digest() == wanted
    assert resumed >= 2
    assert left(tmp_path) == set()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_stopped_command_takes_its_workers_along_and_the_next_one_resumes(
    tmp_path: Path, tiny_weights: Path, number: signal.Signals
) -> None:
    """The real thing, with two worker processes: SIGKILL to the parent alone, or Ctrl-C to all;
    then the same command.
    """
    # seconds of work, so that it still runs when the signal comes
    np.save(tmp_path / "x.npy", np.tile(helpers.drawn(100), (200, 1, 1)))
    environment = {**os.environ, "AEZ_WEIGHTS": str(tiny_weights)}
    code = (
        "from functools import partial; from codec import cli; from codec.commands import compress;"
        "compress.CompressOptions = partial(compress.CompressOptions, block_images=100); cli.main()"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "compress",
        str(tmp_path / "x.npy"),
        "-m",
        "tiny0",
        "-j",
        "2",
    ]
    journal, output = tmp_path / ".x.aez.journal", tmp_path / "x.aez"
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # whoever runs the tests in the background may have SIGINT ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b"\n") < 4:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    workers = children(process.pid)
    if number == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, number)
    said = process.communicate(timeout=60)[1]
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert said.splitlines()[0].endswith("run the same command again to resume")
        assert said.splitlines()[1:] == ["aez: interrupted"]
    assert not output.exists()
    assert len(workers) >= 2
    while any(is_alive(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "resuming, " in done.stderr
    whole = tmp_path / "whole.aez"
    encoding = Options(model=model_file(tiny_weights, 0))
    at_once = batch.CompressOptions(encoding, block_images=100)
    Result.of(batch.compress([str(tmp_path / "x.npy")], str(whole), options=at_once))
    assert output.read_bytes() == whole.read_bytes()
    assert left(tmp_path) == set()


def decompress_until(
    point: int | None, path: Path, out: Path | None, model: str, log: Path
) -> None:
    stream.decode_block = logged(stream.decode_block, log)  # of this process, which ends
    where = None if out is None else str(out)
    traced(restore.decompress([str(path)], where, model=model), point, log)


@pytest.mark.slow
@pytest.mark.parametrize("given", [True, False])
def test_a_tree_whose_restoring_is_killed_again_and_again_is_resumed(
    tree: Path, options: batch.CompressOptions, tmp_path: Path, given: bool
) -> None:
    """Names as long as they may be, too, in the names of temporary files."""
    (tree / "0" / "00.png").rename(tree / "0" / f"{'x' * 200}.png")
    run(tree, options)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["codec.commands.decompress", "codec.cli"])
    log, out = tmp_path / "log", tmp_path / "out" if given else tmp_path / "d"
    tree.rename(tmp_path / "original")

    def decompress(point: int | None) -> int | None:
        arguments = (point, tmp_path / "d.aez", out if given else None, options.encoding.model, log)
        process = context.Process(target=decompress_until, args=arguments)
        process.start()
        process.join(60)
        return process.exitcode

    assert decompress(None) == 0
    *blocks, last = log.read_text().splitlines()
    done = json.loads(last)
    assert (len(blocks), done["exit"], done["images"]) == (6, 0, 44)
    wanted = contents(out)
    assert len(wanted) == 44
    shutil.rmtree(out)
    log.write_text("")
    rng = random.Random(5)
    kills = 0
    while decompress(rng.randrange(1, done["lines"] // 3)) == -signal.SIGKILL:
        kills += 1
        assert all(
            wanted[name] == data
            for name, data in contents(out).items()
            if not name.name.startswith(".")
        )
    *blocks, last = log.read_text().splitlines()
    again = json.loads(last)
    assert {**again, "lines": 0} == {**done, "lines": 0}
    assert kills >= 3
    assert 6 <= len(blocks) <= 6 + kills  # what was finished was not decoded again
    assert contents(out) == wanted  # and nothing else is left


def contents(folder: Path) -> dict[Path, bytes]:
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# Ctrl-C, full disk, inputs that change


def test_interrupted_run_keeps_finished_blocks_and_the_same_command_makes_only_the_others(
    tree: Path, options: batch.CompressOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tree, options)
    wanted = tree.with_name("d.aez").read_bytes()
    tree.with_name("d.aez").unlink()
    with monkeypatch.context() as patch:
        cut_short(patch, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run(tree, options)
    assert left(tree.parent) == {".d.aez.partial", ".d.aez.journal"}
    encoded = cut_short(monkeypatch, 99, KeyboardInterrupt())
    report = run(tree, options)
    assert len(encoded) == 3
    assert report.notes == [f"{tree}.aez: resuming, 3 of 6 blocks are finished"]
    assert (report.images, report.stats.images, report.stats.bytes_out) == (44, 44, len(wanted))
    # What failed in the first run is not forgotten in the second.
    assert [name for name, _ in report.failed] == [str(tree / "1" / "16.png")]
    assert report.exit_code == 3
    assert tree.with_name("d.aez").read_bytes() == wanted
    assert left(tree.parent) == set()


@pytest.mark.parametrize(
    ("after", "error", "kept"),
    [
        (2, AezError("a worker process was killed"), True),
        (0, AezError("a worker process was killed"), False),
        (2, OSError(errno.ENOSPC, "full"), True),
        (2, ImageError("damaged"), False),
        (2, ModelNotFound("no model", "00"), False),
    ],
)
def test_what_is_finished_is_kept_if_the_same_command_may_succeed(
    tree: Path,
    options: batch.CompressOptions,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
    error: Exception,
    kept: bool,
) -> None:
    cut_short(monkeypatch, after, error)
    report = run(tree, options)
    assert report.exit_code == 1
    assert bool(report.notes) is kept
    assert left(tree.parent) == ({".d.aez.partial", ".d.aez.journal"} if kept else set())
    assert not tree.with_name("d.aez").exists()


def test_interrupted_run_from_stdin_leaves_nothing_as_it_cannot_be_given_again(
    tmp_path: Path, options: batch.CompressOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(images.pack_npy(helpers.drawn(45))))
    monkeypatch.setattr(sys, "stdin", stdin)
    cut_short(monkeypatch, 3, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        Result.of(batch.compress(["-"], str(tmp_path / "x.aez"), options=options))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change", ["quality", "model", "encoder", "name", "content", "embed", "block"]
)
def test_another_command_or_changed_inputs_never_go_on(
    tree: Path,
    options: batch.CompressOptions,
    tiny_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    own = helpers.install(tree.parent / "own")
    encoding = Options(model=str(own))
    options = replace(options, encoding=encoding)
    with monkeypatch.context() as patch:
        cut_short(patch, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run(tree, options)
    if change == "encoder":
        tensors = helpers.tiny_tensors()
        tensors["posterior1.bias"] += 30_000
        other = helpers.pack_encoder(tensors, helpers.tiny_bundle())
        registry.encoder_path(own).write_bytes(other)
    changes: dict[str, dict[str, Any]] = {
        "quality": {"encoding": replace(encoding, quality=10)},
        "model": {"encoding": Options(model=model_file(tiny_weights, 1))},
        "embed": {"embed_model": True},
        "block": {"block_images": 16},
    }
    options = replace(options, **changes.get(change, {}))
    if change == "name":
        (tree / "2" / "44.png").rename(tree / "2" / "99.png")
    elif change == "content":
        (tree / "0" / "03.png").write_bytes(images.pack_png(helpers.drawn(60)[59]))
    encoded = cut_short(monkeypatch, 99, KeyboardInterrupt())
    report = run(tree, options)
    assert len(encoded) == (3 if change == "block" else 6)
    assert (len(report.notes) == 1 and "starting over" in report.notes[0]) == (change == "content")
    made = tree.with_name("d.aez").read_bytes()
    run(tree, replace(options, force=True))
    assert tree.with_name("d.aez").read_bytes() == made
    assert report.images == 44


@pytest.mark.parametrize("damage", ["flip", "cut", "torn journal", "junk journal"])
def test_damage_to_what_is_unfinished_costs_work_and_no_image(
    tree: Path, options: batch.CompressOptions, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """A power cut may lose what was written last, in either file."""
    run(tree, options)
    wanted = tree.with_name("d.aez").read_bytes()
    tree.with_name("d.aez").unlink()
    with monkeypatch.context() as patch:
        cut_short(patch, 4, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run(tree, options)
    partial, journal = tree.with_name(".d.aez.partial"), tree.with_name(".d.aez.journal")
    if damage == "flip":
        stream = bytearray(partial.read_bytes())
        stream[len(stream) // 2] ^= 1
        partial.write_bytes(stream)
    elif damage == "cut":
        partial.write_bytes(partial.read_bytes()[:-5])
    elif damage == "torn journal":
        journal.write_bytes(journal.read_bytes()[:-5])
    else:
        journal.write_bytes(journal.read_bytes() + b"\0\0\n")
    encoded = cut_short(monkeypatch, 99, KeyboardInterrupt())
    run(tree, options)
    assert len(encoded) == {"flip": 5, "cut": 3, "torn journal": 3, "junk journal": 2}[damage]
    assert tree.with_name("d.aez").read_bytes() == wanted


def test_full_disk_in_the_middle_keeps_what_is_finished(
    tree: Path, options: batch.CompressOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real limit of the system on the size of a file;
    the signal that comes with it is ignored.
    """
    run(tree, options)
    wanted = tree.with_name("d.aez").read_bytes()
    tree.with_name("d.aez").unlink()
    before, handler = (
        resource.getrlimit(resource.RLIMIT_FSIZE),
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
    )
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(wanted) * 2 // 3, before[1]))
        report = run(tree, options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert report.exit_code == 1
    said = f"cannot write {tree}.aez: {os.strerror(errno.EFBIG)}"
    assert report.failed[-1] == (str(tree), said)
    assert "run the same command again to resume" in report.notes[-1]
    assert not tree.with_name("d.aez").exists()
    encoded = cut_short(monkeypatch, 99, KeyboardInterrupt())
    run(tree, options)
    assert 0 < len(encoded) < 6
    assert tree.with_name("d.aez").read_bytes() == wanted


def test_inputs_that_vanish_or_cannot_be_read_are_named(
    tree: Path, options: batch.CompressOptions
) -> None:
    (tree / "0" / "00.png").unlink()
    (tree / "0" / "00.png").symlink_to(tree / "nowhere")
    (tree / "0" / "03.png").unlink()
    (tree / "0" / "03.png").mkdir()  # not a file any more: it is a directory without images
    told, (job,) = helpers.drained(plan([str(tree)]))
    assert told == []
    (tree / "0" / "06.png").unlink()
    report = Result.of(batch._compress_images(job, Run(options, [job])))
    assert [(Path(name).name, reason) for name, reason in report.failed][:2] == [
        ("00.png", "No such file or directory"),
        ("06.png", "No such file or directory"),
    ]
    assert (report.images, len(report.failed), report.exit_code) == (41, 3, 3)
    with api.open(tree.with_name("d.aez"), model=options.encoding.model) as collection:
        assert len(collection) == 41
        assert "0/06.png" not in collection.names


def test_input_that_turns_out_bad_leaves_nothing(
    tmp_path: Path, options: batch.CompressOptions
) -> None:
    """What a gzip file lacks shows only at its end, when blocks have been made already."""
    import gzip

    path = tmp_path / "x.idx.gz"
    path.write_bytes(gzip.compress(images.pack_idx(helpers.drawn(45)))[:-30])
    report = run(path, options)
    assert report.exit_code == 1
    assert "truncated" in report.failed[0][1]
    assert [path.name for path in tmp_path.iterdir()] == ["x.idx.gz"]


def test_two_runs_never_write_one_collection(tmp_path: Path) -> None:
    with Partial(Local(tmp_path / "x.aez"), {}, force=False) as first:
        first.keep(0)
        with pytest.raises(UsageError, match="another run of aez is writing"):
            Partial(Local(tmp_path / "x.aez"), {}, force=False)
        first.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["x.aez"]


def test_partial_output_has_a_name_that_file_systems_take(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 125 + ".aez")
    with Partial(Local(path), {}, force=False) as partial:
        partial.keep(0)
        assert all(len(name.encode()) < 100 for name in left(tmp_path))
        partial.finish()
    assert path.exists()
    assert left(tmp_path) == set()


def test_journal_is_lines_of_json(tmp_path: Path) -> None:
    """Worked out by hand: pins, then an entry for each block with its size."""
    partial = Partial(Local(tmp_path / "x.aez"), {"quality": 1}, force=False)
    partial.keep(0)
    partial.write(b"", {"images": 0, "inputs": "none"})
    pins = hashlib.blake2b(b'{"quality": 1}', digest_size=16).hexdigest()
    lines = (tmp_path / ".x.aez.journal").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"pins": pins},
        {"images": 0, "inputs": "none", "bytes": 0},
    ]
    partial.discard()
    partial.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


# The journal


def test_journal_keeps_what_came_before_damage_and_forgets_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path, {"a": 1}, tmp_path)
    assert (journal.is_resumed, journal.entries) == (False, [])
    for number in range(3):
        journal.add({"block": number})
    journal.close()
    path.write_bytes(path.read_bytes() + b"[]\n" + b'{"block": 4}\n')
    again = Journal(path, {"a": 1}, tmp_path)
    assert (again.is_resumed, again.entries) == (True, [{"block": k} for k in range(3)])
    again.keep(1)
    again.add({"block": 9})
    again.close()
    third = Journal(path, {"a": 1}, tmp_path)
    assert third.entries == [{"block": 0}, {"block": 9}]
    third.close()
    assert Journal.begun(path, {"a": 1})
    assert not Journal.begun(path, {"a": 2})
    other = Journal(path, {"a": 2}, tmp_path)
    assert (other.is_resumed, other.entries) == (False, [])
    other.close()


@pytest.mark.parametrize(
    ("error", "kept"), [(None, False), (UsageError("no"), False), (OSError(errno.ENOSPC, ""), True)]
)
def test_journal_goes_when_the_run_ends_for_good(
    tmp_path: Path, error: Exception | None, kept: bool
) -> None:
    path = tmp_path / "made" / "journal"
    with contextlib.suppress(UsageError, OSError), Journal(path, {}, tmp_path):
        if error is not None:
            raise error
    assert path.exists() is kept
    assert path.parent.exists() is kept  # it was made for the journal


def test_two_runs_never_write_one_journal_where_locks_are_those_of_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked: set[tuple[int, int]] = set()

    def locking(descriptor: int, mode: int, size: int) -> None:
        assert (mode, size) == (2, 1)
        key = os.fstat(descriptor).st_ino, os.lseek(descriptor, 0, os.SEEK_CUR)
        if key in locked:
            raise PermissionError(errno.EACCES, "locked")
        locked.add(key)

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    with Journal(tmp_path / "journal", {}, tmp_path) as journal:
        with pytest.raises(UsageError, match="another run of aez is writing"):
            Journal(tmp_path / "journal", {}, tmp_path)
        journal.add({"block": 0})
    ((_, position),) = locked
    assert position > 1_000_000  # the locked byte is none of the journal's


@pytest.mark.parametrize("done", [0, 3])
def test_interrupted_tree_keeps_finished_blocks_and_the_same_command_resumes(
    done: int,
    tree: Path,
    options: batch.CompressOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(tree, options)
    tree.rename(tmp_path / "original")
    write, written = stream.write_block, []

    def write_block(task: stream.WriteTask) -> stream.Written:
        if len(written) == done:
            raise KeyboardInterrupt
        written.append(task)
        return write(task)

    told: list[Event] = []

    def decompress() -> None:
        for event in restore.decompress([f"{tree}.aez"], model=options.encoding.model):
            told.append(event)

    with monkeypatch.context() as patch:
        patch.setattr(tree_of_files, "write_block", write_block)
        with pytest.raises(KeyboardInterrupt):
            decompress()
    said = "3 blocks are finished" if done else "no block is finished yet"
    assert told[-1] == Note(f"{tree}: {said}; run the same command again to resume")
    assert left(tree) == {".d.aez.restored"}
    told.clear()
    decompress()
    resumed = [Note(f"{tree}: resuming, 3 blocks are finished")] if done else []
    assert [event for event in told if isinstance(event, Note)] == resumed
    assert isinstance(told[-1], Done)
    assert (told[-1].images, left(tree)) == (44, set())


def test_a_tree_that_was_killed_before_its_first_line_is_begun_again(
    tree: Path, options: batch.CompressOptions, tmp_path: Path
) -> None:
    run(tree, options)
    tree.rename(tmp_path / "original")
    tree.mkdir()
    (tree / ".d.aez.restored").write_bytes(b"")
    done = Result.of(restore.decompress([f"{tree}.aez"], model=options.encoding.model))
    assert (done.exit_code, done.images) == (0, 44)
    assert left(tree) == set()
