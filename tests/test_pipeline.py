"""Work spread over processes: in order, bounded, and over when it is over."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest

from codec import parallel
from codec.commands import processes, work
from codec.commands.processes import spread
from codec.commands.work import BlockTask
from codec.encoder.encode import Encoder
from codec.encoder.options import Options
from codec.errors import AezError, BadModel, EncoderNotFound, ImageError
from codec.files import images
from codec.files.atomic import atomic
from codec.model import registry

ROOT = Path(__file__).resolve().parent.parent


def double(number: int) -> int:
    if number == 3:
        time.sleep(0.05)  # the others overtake it
    return 2 * number


def cores(_: int) -> int:
    return parallel.num_cores()


def die(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail(number: int) -> int:
    if number == 2:
        raise ImageError("image 2")
    time.sleep(0.01)
    return number


def dawdle(number: int) -> int:
    if number:
        time.sleep(60)
    return os.getpid()


def children() -> int:
    return len(multiprocessing.active_children())


def test_results_come_in_order_and_tasks_are_taken_as_they_are_needed() -> None:
    taken: list[int] = []

    def tasks() -> Iterator[int]:
        for number in range(40):
            taken.append(number)
            yield number

    results = []
    for result in spread(double, tasks(), 2, 40):
        results.append(result)
        # three under way, and one that was taken to see whether there is one
        assert len(taken) - len(results) <= 4
    assert results == [2 * number for number in range(40)]
    assert children() == 0


@pytest.mark.parametrize(("jobs", "num_tasks", "expected"), [(1, 3, 1), (5, 1, 5)])
def test_one_worker_is_this_process_and_has_all_the_cores(
    jobs: int, num_tasks: int, expected: int
) -> None:
    assert list(spread(cores, [0], jobs, num_tasks)) == [expected]
    assert parallel.num_cores() == len(os.sched_getaffinity(0))


def test_processes_share_the_cores() -> None:
    assert list(spread(cores, range(4), 5, 4)) == [2, 2, 2, 2]


def test_few_tasks_are_not_worth_processes() -> None:
    assert list(spread(cores, range(3), 5, 3)) == [5, 5, 5]


def blocked(_: int) -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def test_workers_do_not_hear_ctrl_c_from_their_first_moment_on() -> None:
    """Else one that is just starting would print a traceback."""
    assert list(spread(blocked, range(4), 2, 4)) == [True] * 4
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def test_killed_worker_is_an_error_that_says_so() -> None:
    results = spread(die, range(10), 2, 10)
    with pytest.raises(AezError, match="a worker process was killed"):
        list(results)
    assert children() == 0


def test_error_of_a_task_is_raised_here_and_ends_the_others() -> None:
    with pytest.raises(ImageError, match=r"^image 2$"):
        list(spread(fail, range(1000), 2, 1000))
    assert children() == 0


def test_workers_end_at_once_when_nobody_wants_results_any_more() -> None:
    """Else closing would wait for tasks that take minutes."""
    results = spread(dawdle, range(8), 2, 8)
    next(results)
    workers = multiprocessing.active_children()
    results.close()
    assert children() == 0
    assert [worker.exitcode for worker in workers] == [processes.ENDED] * 2  # amid their tasks


def write_slowly(path: Path) -> None:
    """Write an output, whose temporary file is there for a long time."""
    with atomic(path) as file:
        file.write(b"half")
        file.flush()
        time.sleep(0 if path.name == "0" else 60)


def outputs(folder: Path) -> list[str]:
    """The files in a directory, temporary ones as tmp."""
    return sorted(path.suffix or path.name for path in folder.iterdir())


def wait_for(folder: Path, wanted: list[str]) -> None:
    deadline = time.monotonic() + 30
    while outputs(folder) != wanted:
        assert time.monotonic() < deadline, outputs(folder)
        time.sleep(0.02)


def test_workers_that_are_ended_leave_no_temporary_file(tmp_path: Path) -> None:
    results = spread(write_slowly, [tmp_path / str(number) for number in range(8)], 2, 8)
    next(results)
    wait_for(tmp_path, [".tmp", ".tmp", "0"])
    results.close()
    assert outputs(tmp_path) == ["0"]


PARENT = """
import sys
from pathlib import Path
import test_pipeline
from codec.commands.processes import spread
if __name__ == "__main__":
    paths = [Path(sys.argv[1], str(number)) for number in range(8)]
    list(spread(test_pipeline.write_slowly, paths, 2, 8))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, *helpers.slow(signal.SIGINT)])
def test_workers_of_a_parent_that_ends_leave_no_temporary_file(
    tmp_path: Path, number: signal.Signals
) -> None:
    script, folder = tmp_path / "parent.py", tmp_path / "out"
    script.write_text(PARENT)
    folder.mkdir()
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{here.parent}{os.pathsep}{here}"}
    command = [sys.executable, str(script), str(folder)]
    parent = subprocess.Popen(
        command,
        env=environment,
        stderr=subprocess.DEVNULL,
        # whoever runs the tests in the background may have SIGINT ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        wait_for(folder, [".tmp", ".tmp", "0"])
    finally:
        parent.send_signal(number)
    parent.wait(30)
    wait_for(folder, ["0"])


def sent_slowly(number: int) -> bytes:
    """A result that fills the pipe many times, so that a worker is often ended while it sends."""
    return bytes(3_000_000)


@pytest.mark.slow
def test_workers_that_are_ended_while_they_send_do_not_block_the_end() -> None:
    for _ in range(5):
        results = spread(sent_slowly, range(200), 2, 200)
        for _ in range(6):
            next(results)
        begun = time.monotonic()
        results.close()
        assert time.monotonic() - begun < 8
        assert children() == 0


class Stubborn:
    """A worker that does not end when it is told to."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *_: self.calls.append(name) or True


def test_a_worker_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PATIENCE_S", 0)
    worker = Stubborn()
    processes._end({worker})
    assert worker.calls == ["terminate", "join", "is_alive", "kill"]


# Without shared memory


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EROFS, "Read-only file system"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.ENOSYS, "Function not implemented"),
        ImportError("This platform lacks a functioning sem_open implementation"),
    ],
    ids=str,
)
def test_without_semaphores_all_is_done_here_on_all_cores(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    import multiprocessing.synchronize

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", refuse)
    assert list(spread(os_process, range(4), 2, 4)) == [os.getpid()] * 4
    assert list(spread(cores, range(4), 5, 4)) == [5] * 4
    assert children() == 0


def os_process(_: int) -> int:
    return os.getpid()


def may_mount() -> bool:
    mount = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "ro", "none", "/dev/shm"]
    return (
        shutil.which("unshare") is not None
        and not subprocess.run(mount, capture_output=True).returncode
    )


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="this user cannot mount")
def test_a_read_only_dev_shm_changes_no_byte(tmp_path: Path) -> None:
    """13,000 images are enough blocks for two processes."""
    np.save(tmp_path / "x.npy", np.tile(helpers.drawn(8), (1625, 1, 1)))
    mount = 'mount -t tmpfs -o ro none /dev/shm && ! touch /dev/shm/x && exec "$@"'
    command = [sys.executable, "-m", "codec", "compress", "-e", "1", "-q", "20", "--no-guard"]
    command += ["-j", "2", "-m", "mnist", str(tmp_path / "x.npy"), "-o"]
    for prefix, output in ([], "a.aez"), (["unshare", "-m", "sh", "-c", mount, "sh"], "b.aez"):
        run = [*prefix, *command, str(tmp_path / output)]
        done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.aez").read_bytes() == (tmp_path / "b.aez").read_bytes()


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_bytes_do_not_depend_on_jobs(tmp_path: Path, tiny_weights: Path, jobs: int) -> None:
    model = work.model_ref(helpers.tiny_model())
    # no release has it: it travels as files
    assert model == (helpers.tiny_bundle(), helpers.tiny_encoder())
    tasks = [
        BlockTask(helpers.drawn(50)[i : i + 10], (), None, Options(), (model,))
        for i in range(0, 50, 10)
    ]
    blocks = [result.block for result in spread(work.encode_block, tasks, jobs, len(tasks))]
    assert blocks == [
        Encoder(Options(), [helpers.tiny_model()]).block(task.pixels).data for task in tasks
    ]


@pytest.mark.usefixtures("shipped")
def test_shipped_model_travels_as_its_hash() -> None:
    ref = work.model_ref(helpers.tiny_model())
    assert ref == (helpers.tiny_model().hash, helpers.tiny_model().encoder_hash)
    assert work.model_of(ref).stream == helpers.tiny_bundle()


@pytest.mark.usefixtures("shipped")
def test_shipped_model_with_an_encoder_of_its_own_travels_as_its_files(tmp_path: Path) -> None:
    """And where a worker has another encoder, it says so: bytes must not depend on who does the
    work.
    """
    path = helpers.install(tmp_path)
    tensors = helpers.tiny_tensors()
    tensors["squeeze.bias"] += 1
    other = helpers.pack_encoder(tensors, helpers.tiny_bundle())
    registry.encoder_path(path).write_bytes(other)
    ref = work.model_ref(registry.by_name(str(path)))
    assert ref == (helpers.tiny_bundle(), other)
    other_hash = hashlib.sha256(other).digest()[:8]
    assert work.model_of(ref).encoder_hash == other_hash
    with pytest.raises(BadModel, match="model tiny0 has another encoder on this worker"):
        work.model_of(work.ModelRef(helpers.tiny_model().hash, other_hash))


def test_model_travels_between_processes_as_its_files(tmp_path: Path) -> None:
    """As bytes: the other process may be on another machine.

    One that only decodes goes as well.
    """
    size = len(helpers.tiny_bundle()) + len(helpers.tiny_encoder())
    installed = registry.load(helpers.install(tmp_path / "one"))
    packed = [pickle.dumps(model) for model in (helpers.tiny_model(), installed)]
    alone = helpers.install(tmp_path / "two")
    registry.encoder_path(alone).unlink()
    deaf = pickle.loads(pickle.dumps(registry.load(alone)))
    shutil.rmtree(tmp_path / "one")
    pixels = helpers.drawn(3)
    wanted = helpers.tiny_model().encode(pixels, 50)
    for stream in packed:
        assert len(stream) < size + 200
        assert pickle.loads(stream).encode(pixels, 50).messages == wanted.messages
    np.testing.assert_array_equal(deaf.decode(wanted.messages, 3, 50)[0], wanted.pixels)
    said = f"{registry.encoder_path(alone).name}, is not in {tmp_path / 'two'}"
    with pytest.raises(EncoderNotFound, match=said):
        deaf.encode(pixels, 50)


def test_identity_changes_with_size_time_and_existence(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    seen = {work.identity([str(path)])}
    path.write_bytes(b"one")
    seen.add(work.identity([str(path)]))
    path.write_bytes(b"three")
    seen.add(work.identity([str(path)]))
    os.utime(path, ns=(1, 1))
    seen.add(work.identity([str(path)]))
    seen.add(work.identity([str(path), str(path)]))
    assert len(seen) == 5
    os.utime(path, ns=(1, 1))
    assert work.identity([str(path), str(path)]) in seen


@pytest.mark.usefixtures("shipped")
def test_block_of_files_leaves_out_what_cannot_be_read_and_says_what(tmp_path: Path) -> None:
    paths = []
    for i, pixels in enumerate(helpers.drawn(4)):
        paths.append(str(tmp_path / f"{i}.png"))
        Path(paths[-1]).write_bytes(images.pack_png(pixels))
    Path(paths[1]).write_bytes(b"")
    Path(paths[2]).unlink()
    names = [f"{i}" for i in range(4)]
    refs = (work.model_ref(helpers.tiny_model()),)
    result = work.encode_block(BlockTask(None, paths, names, Options(60), refs))
    encoder = Encoder(Options(60), [helpers.tiny_model()])
    block, stats = encoder.block(helpers.drawn(4)[[0, 3]], ["0", "3"])
    assert (result.block, result.stats) == (block, stats)
    assert [(unread.at, unread.name) for unread in result.failed] == [(1, "1"), (2, "2")]
    assert result.bytes_in == sum(Path(paths[i]).stat().st_size for i in (0, 3))
    nothing = work.encode_block(BlockTask(None, paths[1:3], names[1:3], Options(60), refs))
    assert (nothing.block, nothing.stats.images, len(nothing.failed)) == (b"", 0, 2)


def test_block_of_files_in_memory_has_the_names_and_labels_of_those_that_are_images() -> None:
    contents: list[bytes | Exception] = [images.pack_png(pixels) for pixels in helpers.drawn(4)]
    contents[1], contents[2] = b"no image", ImageError("the archive is cut short")
    names, labels = ["a/0", "a/1", "b/2", "b/3"], ["a", "a", "b", "b"]
    refs = (work.model_ref(helpers.tiny_model()),)
    task = BlockTask(None, (), names, Options(60), refs, labels, contents)
    result = work.encode_block(task)
    encoder = Encoder(Options(60), [helpers.tiny_model()])
    some = helpers.drawn(4)[[0, 3]]
    assert result.block == encoder.block(some, ["a/0", "b/3"], ["a", "b"]).data
    assert [(unread.at, unread.name) for unread in result.failed] == [(1, "a/1"), (2, "b/2")]
    assert str(result.failed[1].error) == "the archive is cut short"
    assert result.inputs == ""  # the container is what can change
    assert isinstance(contents[0], bytes)
    assert result.bytes_in == sum(len(contents[i]) for i in (0, 3))
    numbered = work.encode_block(task._replace(names=None, labels=np.arange(4)))
    assert numbered.block == encoder.block(some, None, np.array([0, 3])).data
    assert [unread.name for unread in numbered.failed] == ["image 1", "image 2"]


def test_cores_are_counted_and_limited() -> None:
    whole = parallel.num_cores()
    with parallel.cores(1):
        assert parallel.num_cores() == 1
        assert list(parallel.in_threads(lambda item: item + 1, [1, 2, 3])) == [2, 3, 4]
    assert parallel.num_cores() == whole
    np.testing.assert_array_equal(
        list(parallel.in_threads(lambda item: item + 1, [1, 2, 3])), [2, 3, 4]
    )


def test_threads_stay_for_the_next_call_and_may_ask_for_others() -> None:
    """Each item waits until both cores work; an item that asks for more cores does it by itself."""
    meeting = threading.Barrier(2, timeout=30)

    def work(item: int) -> tuple[int, list[int]]:
        meeting.wait()
        inner = list(parallel.in_threads(lambda _: threading.get_ident(), [1, 2, 3]))
        return threading.get_ident(), inner

    with parallel.cores(2):
        first, second = (list(parallel.in_threads(work, [1, 2])) for _ in range(2))
    assert {thread for thread, _ in first} == {thread for thread, _ in second}
    assert len({thread for thread, _ in first}) == 2
    assert all(inner == [thread] * 3 for thread, inner in first + second)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_has_threads_of_its_own() -> None:
    code = """
import os
from codec import parallel
with parallel.cores(2):
    print(list(parallel.in_threads(abs, [-1, -2])), flush=True)
    child = os.fork()
    if child:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    else:
        print(list(parallel.in_threads(abs, [-3, -4])), flush=True)
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["[1, 2]", "[3, 4]", "0"]
