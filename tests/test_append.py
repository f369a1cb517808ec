"""`aez compress --append`: a collection grows as by `merge`, and a kill never harms it."""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
from test_outputs import FILES, KillAt

from codec import api
from codec.commands import work
from codec.commands.compress import CompressOptions, compress
from codec.commands.events import Result
from codec.commands.merge import merge
from codec.encoder.options import Options
from codec.errors import UsageError
from codec.files.batch import Reading
from codec.files.images import pack_npy, pack_png
from codec.files.place import Local

PIXELS = helpers.drawn(21)


@pytest.fixture
def options(tiny_weights: Path) -> CompressOptions:
    model = next(tiny_weights.glob("tiny0-lossless-????????.safetensors"))
    return CompressOptions(Options.of(100, str(model), True), block_images=4)


def add(source: Path, output: Path, options: CompressOptions, **changes: Any) -> Result:
    reading = Reading(labels=changes.pop("labels", None))
    made = replace(options, append=True, reading=reading, **changes)
    return Result.of(compress([str(source)], str(output), options=made))


def new(source: Path, output: Path, options: CompressOptions, **changes: Any) -> Path:
    reading = Reading(labels=changes.pop("labels", None))
    made = replace(options, reading=reading, force=True, **changes)
    assert Result.of(compress([str(source)], str(output), options=made)).exit_code == 0
    return output


def write_tree(top: Path, names: list[str], first: int = 0) -> Path:
    for i, name in enumerate(names):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(pack_png(PIXELS[first + i]))
    return top


def write_array(path: Path, first: int, count: int) -> Path:
    path.write_bytes(pack_npy(PIXELS[first : first + count]))
    return path


def arrays(folder: Path) -> tuple[Path, Path]:
    return write_array(folder / "a.npy", 0, 6), write_array(folder / "b.npy", 6, 11)


def trees(folder: Path) -> tuple[Path, Path]:
    one = write_tree(folder / "one", [f"0/{i}.png" for i in range(6)])
    return one, write_tree(folder / "two", [f"1/{i:02}.png" for i in range(11)], 6)


@pytest.mark.parametrize("made", [arrays, trees])
@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("jobs", [1, 2])
def test_the_bytes_are_those_of_a_merge(
    made: Callable[[Path], tuple[Path, Path]],
    labels: bool,
    jobs: int,
    tmp_path: Path,
    options: CompressOptions,
) -> None:
    one, other = made(tmp_path)
    asked: list[dict[str, Any]] = [{}, {}]
    if labels:
        for number, count in enumerate((6, 11)):
            path = tmp_path / f"{number}.txt"
            path.write_text("".join(f"{i}\n" for i in range(count)))
            asked[number]["labels"] = str(path)
    x, y = (
        new(source, tmp_path / f"{name}.aez", options, **more)
        for name, source, more in zip("xy", (one, other), asked, strict=True)
    )
    wanted = tmp_path / "wanted.aez"
    assert Result.of(merge([str(x), str(y)], str(wanted))).exit_code == 0
    before = x.stat().st_size
    result = add(other, x, options, jobs=jobs, **asked[1])
    assert (result.failed, result.images, result.outputs) == ([], 11, [str(x)])
    assert x.read_bytes() == wanted.read_bytes()
    assert 0 < result.bytes_out < x.stat().st_size - before + 1000
    with api.open(x, model=options.encoding.model) as collection:
        np.testing.assert_array_equal(collection[:], PIXELS[:17])
        if labels:
            assert collection.labels.tolist() == [*range(6), *range(11)]
    # and once more
    more = (
        write_array(tmp_path / "c.npy", 17, 4)
        if made is arrays
        else write_tree(tmp_path / "three", [f"2/{i}.png" for i in range(4)], 17)
    )
    if not labels:
        assert add(more, x, options).exit_code == 0
        with api.open(x, model=options.encoding.model) as collection:
            np.testing.assert_array_equal(collection[:], PIXELS)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_collection_that_is_not_there_begins(tmp_path: Path, options: CompressOptions) -> None:
    one, other = trees(tmp_path)
    x = tmp_path / "x.aez"
    assert add(one, x, options).images == 6
    assert x.read_bytes() == new(one, tmp_path / "y.aez", options).read_bytes()
    assert add(other, x, options).images == 11


def test_one_image_is_added_with_its_name(tmp_path: Path, options: CompressOptions) -> None:
    one, _ = trees(tmp_path)
    x = new(one, tmp_path / "x.aez", options)
    single = write_tree(tmp_path, ["more.png"], 20) / "more.png"
    assert add(single, x, options).images == 1
    with api.open(x, model=options.encoding.model) as collection:
        assert collection.names[-1] == "more.png"
        np.testing.assert_array_equal(collection[6], PIXELS[20])


def test_what_does_not_fit_is_refused_and_nothing_changes(
    tmp_path: Path, options: CompressOptions
) -> None:
    one, other = trees(tmp_path)
    array, _ = arrays(tmp_path)
    (tmp_path / "n.txt").write_text("1\n" * 11)
    (tmp_path / "t.txt").write_text("a\n" * 11)
    numbers, texts = str(tmp_path / "n.txt"), str(tmp_path / "t.txt")
    x = new(one, tmp_path / "x.aez", options)
    y = new(other, tmp_path / "y.aez", options, labels=numbers)
    inside = write_tree(tmp_path / "three", ["0/1.png/a.png"])
    for base, source, labels, said in (
        (x, array, None, f"the images of {x} have names, those of {array} have none"),
        (x, one, None, f"{x} has an image 0/0.png already"),
        (
            x,
            inside,
            None,
            f"0/1.png of {x} and 0/1.png/a.png of {inside} would be restored as 0/1.png and as a "
            "file below it",
        ),
        (
            x,
            other,
            numbers,
            f"the labels of all images must be of one kind: {x} has no labels, {other} has "
            "integers",
        ),
        (
            y,
            other,
            texts,
            f"the labels of all images must be of one kind: {y} has integers, {other} has texts",
        ),
    ):
        before = base.read_bytes()
        result = add(source, base, options, labels=labels)
        assert result.failed == [(str(source), said)]
        assert base.read_bytes() == before
    for out in (None, "-", str(tmp_path / "folder")):
        with pytest.raises(UsageError, match="--append needs files as INPUT, and a collection"):
            Result.of(compress([str(one)], out, options=replace(options, append=True)))
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_is_no_collection_is_not_added_to(tmp_path: Path, options: CompressOptions) -> None:
    one, other = trees(tmp_path)
    single = write_tree(tmp_path, ["a.png"]) / "a.png"
    x = new(single, tmp_path / "x.aez", options)
    said = f"{x}: this is a single image, not a collection"
    assert add(other, x, options).failed == [(str(other), said)]
    (tmp_path / "y.aez").write_bytes(b"what")
    assert add(other, tmp_path / "y.aez", options).exit_code == 4
    z = new(one, tmp_path / "z.aez", options)
    damaged = bytearray(z.read_bytes())
    damaged[200] ^= 1
    z.write_bytes(damaged)
    result = add(other, z, options)
    assert (result.exit_code, z.read_bytes()) == (4, bytes(damaged))
    assert result.failed[0][1].startswith(f"{z}: byte ")
    assert (tmp_path / "y.aez").read_bytes() == b"what"


def test_inputs_are_removed_once_they_are_in_it(tmp_path: Path, options: CompressOptions) -> None:
    one, other = trees(tmp_path)
    x = new(one, tmp_path / "x.aez", options)
    assert add(other, x, options, remove=True).failed == []
    assert not list(other.rglob("*.png"))
    assert len(list(one.rglob("*.png"))) == 6


def test_embedded_models_stay_and_are_added(tmp_path: Path, options: CompressOptions) -> None:
    one, other = trees(tmp_path)
    for base, more in ((True, False), (False, True), (True, True)):
        x = new(one, tmp_path / "x.aez", options, embed_model=base)
        y = new(other, tmp_path / "y.aez", options, embed_model=more)
        wanted = tmp_path / "wanted.aez"
        Result.of(merge([str(x), str(y)], str(wanted), force=True))
        assert add(other, x, options, embed_model=more).exit_code == 0
        assert x.read_bytes() == wanted.read_bytes()


def test_a_dry_run_says_to_what_is_added(tmp_path: Path, options: CompressOptions) -> None:
    for first, other in (arrays(tmp_path), trees(tmp_path)):
        x = tmp_path / "x.aez"
        made, before = replace(options, append=True), 0
        for source, there in ((first, ""), (other, ", added to the {} images there")):
            planned = Result.of(compress([str(source)], str(x), dry_run=True, options=made))
            count = planned.images
            said = f"{source} ({count} images) -> {x}{there.format(before)}"
            assert planned.outputs == [said]
            assert add(source, x, options).exit_code == 0
            before = count
        x.unlink()


def test_a_private_collection_stays_private(tmp_path: Path, options: CompressOptions) -> None:
    one, other = trees(tmp_path)
    x = new(one, tmp_path / "x.aez", options)
    x.chmod(0o600)
    assert add(other, x, options).exit_code == 0
    assert x.stat().st_mode & 0o777 == 0o600


def test_a_collection_that_changes_meanwhile_is_not_replaced(
    tmp_path: Path, options: CompressOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = trees(tmp_path)
    x = new(one, tmp_path / "x.aez", options)
    seen = iter(["old", "new"])
    monkeypatch.setattr(Local, "identity", lambda self: next(seen, "new"))
    before = x.read_bytes()
    result = add(other, x, options)
    assert result.failed == [(str(other), f"{x} was changed by another program")]
    assert x.read_bytes() == before


# Kills


def interrupted(patch: pytest.MonkeyPatch, after: int) -> list[int]:
    """Let the encoding of blocks be interrupted after so many; returns a list that grows."""
    encode, encoded = work.encode_block, list[int]()

    def encode_block(task: work.BlockTask) -> work.BlockResult:
        if len(encoded) == after:
            raise KeyboardInterrupt
        encoded.append(0)
        return encode(task)

    patch.setattr(work, "encode_block", encode_block)
    return encoded


def test_an_interrupted_command_is_resumed(
    tmp_path: Path, options: CompressOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = trees(tmp_path)
    x = new(one, tmp_path / "x.aez", options)
    before = x.read_bytes()
    add(other, x, options)
    wanted = x.read_bytes()
    x.write_bytes(before)
    with monkeypatch.context() as patch:
        interrupted(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            add(other, x, options)
    assert x.read_bytes() == before
    encoded = interrupted(monkeypatch, 99)
    result = add(other, x, options)
    assert (len(encoded), result.images) == (1, 11)
    assert f"{x}: resuming, 2 of 3 blocks are finished" in result.notes
    assert x.read_bytes() == wanted


def test_an_interrupted_command_starts_over_if_the_collection_has_changed(
    tmp_path: Path, options: CompressOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = trees(tmp_path)
    x = new(one, tmp_path / "x.aez", options)
    with monkeypatch.context() as patch:
        interrupted(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            add(other, x, options)
    new(write_tree(tmp_path / "zero", ["9.png"], 20), x, options)
    encoded = interrupted(monkeypatch, 99)
    assert add(other, x, options).images == 11
    assert len(encoded) == 3
    with api.open(x, model=options.encoding.model) as collection:
        np.testing.assert_array_equal(collection[:], PIXELS[[20, *range(6, 17)]])


def traced(source: str, output: str, options: CompressOptions, point: int | None, log: str) -> None:
    """Add in this process, which kills itself at line number `point` of those that write."""
    trace = KillAt(point)
    sys.settrace(trace)
    result = Result.of(compress([source], output, options=replace(options, append=True)))
    sys.settrace(None)
    assert trace.files == FILES
    said = {"lines": trace.lines, "exit": result.exit_code, "notes": result.notes}
    Path(log).write_text(json.dumps({**said, "images": result.images}))


@pytest.mark.slow
@pytest.mark.parametrize("removed", [False, True])
def test_a_kill_at_any_moment_leaves_the_old_or_the_new_collection(
    tmp_path: Path, options: CompressOptions, removed: bool
) -> None:
    """And the same command, again and again, adds the images once: they have no names by which
    twice would be noticed.
    """
    one, other = arrays(tmp_path)
    x = new(one, tmp_path / "x.aez", options)
    old = x.read_bytes()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["codec.commands.compress", "test_append"])
    log = tmp_path / "log"
    made = replace(options, remove=removed)

    def run(point: int | None) -> int | None:
        arguments = (str(other), str(x), made, point, str(log))
        process = context.Process(target=traced, args=arguments)
        process.start()
        process.join(60)
        return process.exitcode

    kept = tmp_path / "kept.npy"
    shutil.copy(other, kept)
    assert run(None) == 0
    wanted, done = x.read_bytes(), json.loads(log.read_text())
    assert (done["exit"], done["images"]) == (0, 11)
    rng, kills, finished = random.Random(7), 0, 0
    points = [*range(done["lines"] - 40, done["lines"] + 1, 2)]
    points += [rng.randrange(1, done["lines"]) for _ in range(17)]
    for point in points:
        x.write_bytes(old)
        shutil.copy2(kept, other)
        code = run(point)
        kills += code == -signal.SIGKILL
        is_new = x.read_bytes() == wanted
        assert is_new or x.read_bytes() == old
        if is_new and not other.exists():
            continue  # nothing is left to do
        is_over = is_new and not list(tmp_path.glob(".x.aez.*"))
        if code == -signal.SIGKILL and not is_over:
            finished += is_new
            assert run(None) == 0
            said = json.loads(log.read_text())
            assert (said["exit"], said["images"]) == (0, 11)
            assert ("had finished" in "".join(said["notes"])) is is_new
        assert x.read_bytes() == wanted
        assert not list(tmp_path.glob(".x.aez.*"))
    assert kills >= 20
    assert finished >= 1
