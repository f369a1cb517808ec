"""The bar on a terminal: what it shows, when, and that nothing else gets it."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import helpers
import numpy as np
import pytest

import codec
from codec.cli import progress
from codec.cli.printing import Screen
from codec.cli.progress import ImageBar, clock, is_terminal
from codec.collection.open import open_collection
from codec.commands import check, compress, decompress, merge
from codec.commands.events import Done, Event, Events, Expected, Progress

ROOT = Path(__file__).resolve().parent.parent

# A command of a second: 4,096 images at once, then a message, then the rest.
COMMAND = """
import sys, time
import typer
from codec.cli.printing import Screen
from codec.commands.events import Done, Expected, Failed, Progress

def command():
    yield Expected(1)
    yield Expected(9_999)
    if "quick" not in sys.argv:
        time.sleep(1.2)
    yield Progress(4_096, 95_000)
    yield Failed("a", "[red]no image[/red] " + "x" * 100)
    if "quick" not in sys.argv:
        time.sleep(0.5)
    yield Progress(5_904, 105_000)
    yield Done("a", "b", 10_000, 7, 8)

screen = Screen(quiet="quiet" in sys.argv)
result = screen.run(command())
print("rich" in sys.modules)
try:
    screen.finish(result, {}, ["the summary"], as_json=False)
except typer.Exit as end:
    sys.exit(end.exit_code)
"""


def in_terminal(*arguments: str, piped: str = "") -> tuple[str, int]:
    """What a program prints to a terminal of 80 columns, and its exit code.  piped: "stderr" or
    "stdout", which then are none.
    """
    parent, child = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "80"}
    streams = {name: subprocess.PIPE if name == piped else child for name in ("stdout", "stderr")}
    with subprocess.Popen(
        [sys.executable, *arguments], env=environment, stdin=child, **streams
    ) as run:
        os.close(child)
        seen = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while part := os.read(parent, 1 << 16):
                seen += part
        os.close(parent)
        others = [stream.read() for stream in (run.stdout, run.stderr) if stream is not None]
        assert not any(b"\x1b" in other for other in others)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode()), run.returncode


def test_bar_shows_images_done_of_all_speed_time_left_and_bytes() -> None:
    seen, code = in_terminal("-c", COMMAND)
    lines = re.split(r"[\r\n]+", seen)
    assert code == 3
    assert any(re.fullmatch(r"━+ 0 of 10,000 images", line) for line in lines)
    assert any(
        re.fullmatch(r"━+[╸╺]━+ 4,096 of 10,000 images, [\d,]+ images/s, 0:0\d left, 95.0 kB", line)
        for line in lines
    )
    assert any("10,000 of 10,000 images" in line and "200.0 kB" in line for line in lines)
    assert max(map(len, (line for line in lines if "━" in line))) <= 80
    # a message stands on lines of its own, as it is; a terminal breaks it, rich does not
    assert "aez: a: [red]no image[/red] " + "x" * 100 in lines
    assert lines[-3:-1] == ["True", "the summary"]


@pytest.mark.parametrize("mode", ["quick", "quiet"])
def test_no_bar_and_no_rich_for_a_quick_or_a_quiet_command(mode: str) -> None:
    seen, code = in_terminal("-c", COMMAND, mode)
    assert code == 3
    assert "━" not in seen
    assert "False" in seen
    assert ("the summary" in seen) == (mode == "quick")


@pytest.mark.slow
def test_no_bar_when_stderr_is_piped() -> None:
    seen, _ = in_terminal("-c", COMMAND, piped="stderr")
    assert "━" not in seen
    assert "False" in seen


@pytest.mark.slow
def test_bar_of_a_command_whose_output_is_piped() -> None:
    seen, code = in_terminal("-c", COMMAND, piped="stdout")
    assert ("4,096 of 10,000 images" in seen, code) == (True, 3)
    assert "the summary" not in seen


def test_bar_is_removed_when_the_command_is_interrupted() -> None:
    interrupted = COMMAND.replace("yield Progress(5_904, 105_000)", "raise KeyboardInterrupt")
    seen, _ = in_terminal("-c", f"import traceback\n{interrupted}")
    assert "KeyboardInterrupt" in seen
    assert "━" not in seen[seen.index("Traceback") :]


STEPS = """
import time
from codec.cli.printing import Screen
with Screen().bar() as step:
    step(" s, step 3, 12 images/s, [red]", 0, 40)
    time.sleep(0.2)
    step(" s, step 4, 12 images/s, [red]", 10, 40)
    time.sleep(0.2)
    step(" s, step 5, 13 images/s, [red]", 20, 40)
    print("a table")
    time.sleep(0.5)
"""


def test_bar_of_steps_says_what_is_done_in_them() -> None:
    seen, code = in_terminal("-c", STEPS)
    lines = re.split(r"[\r\n]+", seen)
    assert code == 0
    assert "a table" in lines
    wanted = r"━+[╸╺]━+ 20 of 40 s, 0:0\d left, step 5, 13 images/s, \[red\]"
    assert any(re.fullmatch(wanted, line) for line in lines)
    assert "━" not in in_terminal("-c", STEPS, piped="stderr")[0]


def test_bar_that_ends_while_rich_is_imported_does_not_appear(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bar = ImageBar()
    with bar:
        bar.expect(3)
        bar.add(1, 2)
        assert not bar.print("nobody shows this")
    bar._appear()
    assert bar._progress is None
    assert capsys.readouterr() == ("", "")


def test_more_images_than_expected_are_all_of_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "QUICK_S", 0)
    with ImageBar() as bar:
        deadline = time.monotonic() + 20
        while bar._progress is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        bar.expect(2)
        bar.add(5, 0)
        (task,) = bar._progress.tasks
        assert (task.completed, task.total) == (5, 5)


def test_time_left_is_short() -> None:
    assert [clock(s) for s in (0, 7.4, 61, 3600, 36_061)] == [
        "0:00",
        "0:07",
        "1:01",
        "1:00:00",
        "10:01:01",
    ]


def test_closed_streams_are_no_terminals() -> None:
    assert not is_terminal(None)
    assert not Screen()._live


# What commands tell of their progress


@pytest.fixture
def inputs(tmp_path: Path, shipped: object, monkeypatch: pytest.MonkeyPatch) -> Path:
    """x.npy, x.aez and y.aez of 7 images in blocks of 3; d of 5 images, d.aez; e.aez, one image."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", helpers.drawn(7))
    for name in "xy":
        Path(f"{name}.aez").write_bytes(helpers.collect(7, block_images=3))
    Path("d.aez").write_bytes(helpers.collect(5, [f"{i}.png" for i in range(5)], block_images=2))
    list(decompress.decompress(["d.aez"]))
    Path("e.aez").write_bytes(codec.compress(helpers.drawn(1)[0]))
    return tmp_path


def told(events: Events) -> tuple[int, int, int, list[Event]]:
    """Images expected, images and bytes done, and the other events."""
    found = list(events)
    expected = sum(event.images for event in found if isinstance(event, Expected))
    done = [event for event in found if isinstance(event, Progress)]
    others = [event for event in found if not isinstance(event, Expected | Progress)]
    return expected, sum(e.images for e in done), sum(e.bytes for e in done), others


def block_bytes(path: str) -> int:
    with open_collection(path) as collection:
        return sum(block.size for block in collection.blocks)


OPTIONS = compress.CompressOptions(block_images=3, shard_images=2)


def test_compress_tells_images_and_bytes_of_its_blocks(inputs: Path) -> None:
    for source in ("x.npy", "d"):
        expected, images, num_bytes, (done,) = told(
            compress.compress([source], "out.aez", options=OPTIONS)
        )
        assert expected == images == {"x.npy": 7, "d": 5}[source]
        assert num_bytes == block_bytes("out.aez")
        assert isinstance(done, Done)
        Path("out.aez").unlink()
    expected, images, num_bytes, _ = told(compress.compress(["d"], "out", options=OPTIONS))
    assert (expected, images) == (5, 5)
    assert num_bytes == sum(path.stat().st_size for path in Path("out").iterdir()) > 0
    expected, images, _, _ = told(compress.compress(["x.npy", "d"], options=OPTIONS))
    assert expected == images == 0  # both outputs exist


def test_decompress_tells_images_and_bytes_of_its_outputs(inputs: Path) -> None:
    assert told(decompress.decompress(["x.aez"], "x2.npy"))[:3] == (
        7,
        7,
        Path("x2.npy").stat().st_size,
    )
    expected, images, num_bytes, _ = told(decompress.decompress(["d.aez"], "d2"))
    assert (expected, images) == (5, 5)
    assert num_bytes == sum(path.stat().st_size for path in Path("d2").iterdir())
    some = [range(1, 3), range(0, 1)]
    assert told(decompress.decompress(["x.aez"], "x3.npy", index=some))[0] == 3
    assert told(decompress.decompress(["e.aez"], "e2.png"))[:2] == (1, 1)


def test_test_and_merge_tell_images_and_bytes_of_the_blocks(inputs: Path) -> None:
    blocks = block_bytes("x.aez")
    assert told(check.check(["x.aez", "y.aez", "e.aez"]))[:3] == (
        15,
        15,
        2 * blocks + Path("e.aez").stat().st_size,
    )
    assert told(merge.merge(["x.aez", "y.aez"], "z.aez"))[:3] == (14, 14, 2 * blocks)


def test_bytes_of_a_damaged_stream_cost_no_second_search(inputs: Path) -> None:
    Path("x.aez").write_bytes(Path("x.aez").read_bytes()[:-1])
    assert told(check.check(["x.aez"]))[:3] == (7, 7, 0)
