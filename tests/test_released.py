"""What was released stays: see released.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import released

import codec


def test_released_files_are_what_they_were() -> None:
    assert released.faults(json.loads(released.LIST.read_text("utf-8")), released.ROOT) == []


def test_a_version_from_1_on_is_listed() -> None:
    """Until then nothing is frozen, and the list is empty."""
    releases = json.loads(released.LIST.read_text("utf-8"))
    if codec.__version__.startswith("0."):
        assert releases == {}
    else:
        assert codec.__version__ in releases


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two models, of which one has an encoder, and two streams."""
    for name in ("weights/a.safetensors", "weights/b.safetensors", "weights/b.encoder.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "tests/golden/errors").mkdir(parents=True)
    for name in ("tests/golden/x.aez", "tests/golden/errors/y.aez"):
        (tmp_path / name).write_text(name)
    return tmp_path


FROZEN = ["tests/golden/errors/y.aez", "tests/golden/x.aez", "weights/a.safetensors"]


@pytest.mark.parametrize("name", FROZEN)
def test_a_released_file_that_changes_or_goes_is_told(project: Path, name: str) -> None:
    releases = released.added({}, "1.0.0", project)
    assert sorted(releases["1.0.0"]) == [*FROZEN, "weights/b.safetensors"]
    assert released.faults(releases, project) == []
    (project / "weights/b.encoder.safetensors").write_text("trained anew")
    (project / "tests/golden/z.aez").write_text("a new one")
    assert released.faults(releases, project) == []
    (project / name).write_text("other content")
    assert released.faults(releases, project) == [f"{name}, released with 1.0.0, was changed"]
    (project / name).unlink()
    assert released.faults(releases, project) == [f"{name}, released with 1.0.0, is gone"]


def test_a_later_release_adds_what_it_brings(project: Path) -> None:
    first = released.added({}, "1.0.0", project)
    shutil.copy(project / "weights/a.safetensors", project / "weights/c.safetensors")
    both = released.added(first, "1.1.0", project)
    assert both["1.0.0"] == first["1.0.0"]
    assert list(both["1.1.0"]) == ["weights/c.safetensors"]
    (project / "weights/a.safetensors").unlink()
    assert released.faults(both, project) == ["weights/a.safetensors, released with 1.0.0, is gone"]


def test_the_list_of_now_has_every_model_and_stream() -> None:
    files = released.frozen(released.ROOT)
    models = [Path(name).name for name in files if name.startswith("weights/")]
    assert len(models) == len(codec.models())
    assert len(files) - len(models) == len(list((released.ROOT / "tests/golden").rglob("*.aez")))
