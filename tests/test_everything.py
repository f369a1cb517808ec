"""Training all shipped models in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codec.measure import tool
from codec.model import registry
from codec.train import everything


def run(arguments: list[str]) -> int:
    """Run the command line -> its exit code."""
    with pytest.raises(SystemExit) as ended:
        tool.run(everything.main, arguments)
    return int(ended.value.code or 0)


def test_every_shipped_model_is_trained() -> None:
    names = {model.name for lossless in (False, True) for model in registry.shipped(lossless)}
    assert names == set(everything.RUNS)


def test_each_model_is_one_process_which_resumes_and_is_not_trained_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    class Process:
        def __init__(self, command: list[str], **_: Any) -> None:
            started.append(command[3:])

        def wait(self) -> int:
            return 0

    def mixed(command: list[str], check: bool) -> None:
        started.append(command[2:])

    monkeypatch.setattr(everything.subprocess, "Popen", Process)
    monkeypatch.setattr(everything.subprocess, "run", mixed)
    (tmp_path / "mnist.safetensors").touch()
    (tmp_path / "fashion.checkpoint.pt").touch()
    assert run(["data", str(tmp_path), "--minutes", "9"]) == 0
    assert started[0][:2] == ["codec.train.drawings", str(tmp_path / "generic.idx")]
    models = {Path(command[3]).stem: command for command in started[1:]}
    assert set(models) == set(everything.RUNS) - {"mnist"}
    assert models["generic"][1] == str(tmp_path / "generic.idx")
    assert "--grids" in models["fashion-lossless"]
    assert [name for name, command in models.items() if "--resume" in command] == ["fashion"]
    assert all(command[command.index("--from") + 1] == name for name, command in models.items())
