"""Blocks on a Dask cluster: a real scheduler and real workers on loopback,
of which one is killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import helpers
import numpy as np
import pytest

from codec import parallel
from codec.commands import cluster, compress
from codec.commands.events import Progress, Result
from codec.encoder.options import Options
from codec.errors import AezError, UsageError
from codec.files import images

ROOT = Path(compress.__file__).parents[2]
BLOCK_IMAGES = 400
# or the one that is killed might have nothing to do
DASK = {"DASK_DISTRIBUTED__SCHEDULER__WORK_STEALING": "false"}


@pytest.fixture
def dask(tmp_path: Path, tiny_weights: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Address of a scheduler, and its two workers, which are ready."""
    from distributed import Client

    file = tmp_path / "scheduler.json"
    common = ["--scheduler-file", str(file)]
    environment = {**os.environ, **DASK, "AEZ_WEIGHTS": str(tiny_weights), "PYTHONPATH": str(ROOT)}
    started: list[subprocess.Popen[bytes]] = []

    def start(kind: str, *args: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            f"distributed.cli.dask_{kind}",
            "--no-dashboard",
            "--host",
            "127.0.0.1",
        ]
        process = subprocess.Popen(
            [*command, *common, *args],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        started.append(process)
        return process

    try:
        start("scheduler", "--port", "0")
        options = ["--nthreads", "1", "--no-nanny", "--local-directory", str(tmp_path)]
        workers = [start("worker", *options) for _ in range(2)]
        deadline = time.monotonic() + 60
        while not file.exists() or not file.read_text().endswith("}"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        address = json.loads(file.read_text())["address"]
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield address, workers
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()


@pytest.mark.slow
def test_cluster_gives_the_bytes_of_the_local_run_though_a_worker_is_killed(
    dask: tuple[str, list[subprocess.Popen[bytes]]],
    tmp_path: Path,
    tiny_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    array = tmp_path / "x.npy"
    np.save(array, np.tile(helpers.drawn(100), (96, 1, 1)))
    for i, pixels in enumerate(helpers.drawn(30)):
        (tmp_path / "d").mkdir(exist_ok=True)
        (tmp_path / "d" / f"{i}.png").write_bytes(images.pack_png(pixels))
    (tmp_path / "d" / "7.png").write_bytes(b"no image")
    encoding = Options(model=str(next(tiny_weights.glob("tiny0-????????.safetensors"))))
    for name in ("x.npy", "d"):
        options = compress.CompressOptions(encoding, block_images=BLOCK_IMAGES)
        out = str(tmp_path / f"local-{name}.aez")
        result = Result.of(compress.compress([str(tmp_path / name)], out, options=options))
        assert result.images == (9600 if name == "x.npy" else 29)
    scheduler, workers = dask
    remote = compress.CompressOptions(encoding, scheduler=scheduler, block_images=BLOCK_IMAGES)
    killed, result = False, Result()
    num_images = 0
    out = str(tmp_path / "cluster-x.npy.aez")
    for event in compress.compress([str(array)], out, options=remote):
        result.add(event)
        num_images += event.images if isinstance(event, Progress) else 0
        # as blocks come in: of 24 blocks some are on the worker that dies
        if num_images >= 5 * BLOCK_IMAGES and not killed:
            killed = True
            os.kill(workers[0].pid, signal.SIGKILL)
    assert (result.exit_code, result.images, killed) == (0, 9600, True)
    assert workers[0].wait(60) == -signal.SIGKILL
    assert workers[1].poll() is None
    monkeypatch.chdir(tmp_path)  # the workers are elsewhere: they need the whole path
    result = Result.of(compress.compress(["d"], str(tmp_path / "cluster-d.aez"), options=remote))
    assert [(name, "can read" in reason) for name, reason in result.failed] == [("d/7.png", True)]
    for name in ("x.npy", "d"):
        assert (tmp_path / f"local-{name}.aez").read_bytes() == (
            tmp_path / f"cluster-{name}.aez"
        ).read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_scheduler_that_does_not_answer_is_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_S", 0.2)
    np.save(tmp_path / "x.npy", helpers.drawn(3))
    options = compress.CompressOptions(scheduler="tcp://127.0.0.1:9")
    result = Result.of(compress.compress([str(tmp_path / "x.npy")], options=options))
    assert result.exit_code == 1
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in result.failed[0][1]
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


def test_without_dask_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"aez\[dask\]"):
        list(cluster.spread("tcp://127.0.0.1:9", len, ["a"]))


def test_worker_of_another_version_is_an_error() -> None:
    assert cluster._one_core(cluster.__version__, len, "abc") == 3  # type: ignore[arg-type]
    try:
        with pytest.raises(AezError, match=r"a worker has aez .*, this machine has 0\.0\.0"):
            cluster._one_core("0.0.0", len, "abc")  # type: ignore[arg-type]
    finally:
        parallel.use_cores(None)
