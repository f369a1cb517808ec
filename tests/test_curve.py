"""The tools that measure aez alone: what lies between measured points, and what the JSON says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import golden_tool
import numpy as np
import pytest

from codec import api
from codec.measure import curve, points, reading, tool

ROWS = [{"bytes": 8.0, "psnr_db": 20.0}, {"bytes": 32.0, "psnr_db": 24.0}]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A file of 20 digits."""
    np.save(tmp_path / "x.npy", golden_tool.sources()[0][:20])
    return tmp_path / "x.npy"


def run(main: Any, *arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        tool.run(main, list(map(str, arguments)))
    return int(ended.value.code or 0)


def test_psnr_between_two_points_lies_on_the_line() -> None:
    assert points.psnr_at(ROWS, 20) == 22.0
    assert points.psnr_at(ROWS[::-1], 20) == 22.0
    assert points.psnr_at(ROWS, 7) is None
    assert points.psnr_at([*ROWS, {"bytes": 99.0, "psnr_db": None}], 40) is None


def test_bytes_at_a_psnr_lie_between_those_of_the_neighbours() -> None:
    """Half way in dB between 8 and 32 bytes: the geometric mean, 16."""
    assert points.bytes_at(ROWS, 22.0) == pytest.approx(16)
    assert points.bytes_at(ROWS, 24.1) is None
    assert points.bytes_at([], 20.0) is None


def test_a_curve_is_written_as_json(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.json"
    options = ("--model", "mnist", "--qualities", "0,99", "-o", out)
    assert run(curve.main, data, *options) == 0
    result = json.loads(out.read_text())
    assert (result["data"], result["images"], result["effort"]) == ("x.npy", 20, 1)
    low, high = result["curve"]
    assert (low["quality"], high["quality"]) == (0, 99)
    assert low["bytes"] < high["bytes"]
    assert low["psnr_db"] < high["psnr_db"]
    assert result["max_overhead_bytes"] == pytest.approx(
        max(row["bytes"] - row["ideal_bytes"] for row in (low, high)), abs=1e-3
    )
    assert run(curve.main, data, *options) == 2  # it exists
    assert run(curve.main, data, *options, "-f", "--last", 5) == 0
    assert json.loads(out.read_text())["images"] == 5


def test_what_is_wrong_is_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.json"
    assert run(curve.main, data, "--model", "nosuch", "-o", out) == 1
    assert capsys.readouterr().err.startswith("no model is called 'nosuch'")
    assert run(curve.main, data, "--model", "mnist", "--qualities", "low", "-o", out) == 2
    assert "'low' is not a list of whole numbers such as 5,10" in capsys.readouterr().err
    assert not out.exists()


def test_a_lossless_model_has_one_point_and_a_size_of_single_files(
    data: Path, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEZ_WEIGHTS", str(tiny_weights))
    out, pixels = tmp_path / "x.json", np.load(data)
    assert run(curve.main, data, "--model", "tiny0-lossless", "-o", out) == 0
    result = json.loads(out.read_text())
    stream = api.compress(pixels, model="tiny0-lossless", lossless=True)
    assert [(row["quality"], row["psnr_db"]) for row in result["curve"]] == [(100, None)]
    assert result["curve"][0]["bytes"] == pytest.approx(len(stream) / 20)
    singles = [api.compress(image, model="tiny0", quality=100) for image in pixels]
    assert result["single_file_bytes"] == pytest.approx(np.mean(list(map(len, singles))), abs=1e-3)


@pytest.mark.parametrize(("model", "quality"), [("tiny0", 75), ("tiny0-lossless", 100)])
def test_files_and_random_access_are_measured(
    data: Path,
    tmp_path: Path,
    tiny_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    quality: int,
) -> None:
    monkeypatch.setenv("AEZ_WEIGHTS", str(tiny_weights))
    out = tmp_path / "x.json"
    assert run(reading.main, data, "--model", model, "-o", out) == 0
    result = json.loads(out.read_text())
    assert (result["images"], result["quality"]) == (20, quality)
    assert len(result["ratio_to_memory"]) == 4
    assert all(ratio > 0 for ratio in result["ratio_to_memory"].values())
    sizes = result["bytes_an_image"]
    assert 0 < sizes["names"] < sizes["names_index_checks"] < sizes["whole"]
    assert result["one_random_image_ms"] > 0
