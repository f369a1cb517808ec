"""The tools that measure aez alone: what lies between measured points, and what the JSON says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import golden_tool
import numpy as np
import pytest
from PIL import ImageFont

from codec import api
from codec.errors import ModelNotFound
from codec.measure import curve, glyphs, points, reading, sheets, tool
from codec.model import registry

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


# Against sheets


def test_aez_against_sheets_is_written_as_json(data: Path, tmp_path: Path) -> None:
    """mnist has one row that nobody beats; its lossless twin is asked for a bound as well."""
    out = tmp_path / "x.json"
    options = ("--qualities", "40,90", "--max-errors", "4", "-m", "mnist", "-e", 1)
    assert run(sheets.main, data, "-o", out, *options, "--between", "20,30") == 0
    result = json.loads(out.read_text())
    ours = [row for row in result["rows"] if row["codec"] == "aez"]
    assert [row["setting"] for row in ours] == ["q40 e1", "q90 e1", "near 4", "lossless"]
    avif = [row for row in result["rows"] if row["codec"] == "avif"]
    assert len(avif) == len(sheets.AVIF_QUALITIES)
    percent = points.bd_rate_percent(
        points.points_of(avif), points.points_of(ours), between=(20, 30)
    )
    assert (result["at_equal_psnr_against_avif_percent"], result["at"]) == percent
    exact = result["lossless_bytes"]
    assert exact["aez"] == ours[-1]["bytes"]
    assert result["lossless_against_jxl_percent"] == pytest.approx(
        100 * (exact["aez"] / exact["jxl"] - 1), abs=0.01
    )


def test_of_several_models_the_best_counts_and_each_is_measured_where_it_can_be(
    data: Path, tmp_path: Path
) -> None:
    pixels = np.load(data)[:4]
    files = [str(registry.path_of(registry.by_name("mnist", kind).hash)) for kind in (False, True)]
    rows = sheets.of_aez(files, (90, 128 + 4, 100), 1, pixels)
    assert [Path(row["model"]).name[:7] for row in rows[:1]] == ["mnist-1"]
    assert {row["setting"] for row in rows if row["model"] == files[1]} == {"near 4", "lossless"}
    with pytest.raises(ModelNotFound, match="none of the qualities"):
        sheets.of_aez(files[1:], (90,), 1, pixels)


def test_between_is_two_numbers(data: Path, tmp_path: Path) -> None:
    assert run(sheets.main, data, "-o", tmp_path / "x.json", "--between", "28") == 2
    assert not (tmp_path / "x.json").exists()


def test_glyphs_are_letters_and_digits_each_once(tmp_path: Path) -> None:
    font = ImageFont.load_default(20)
    assert isinstance(font, ImageFont.FreeTypeFont)
    (tmp_path / "fonts" / "some").mkdir(parents=True)
    font.path.seek(0)
    (tmp_path / "fonts" / "some" / "a.ttf").write_bytes(font.path.read())
    (tmp_path / "fonts" / "broken.otf").write_bytes(b"<html>")
    out = tmp_path / "glyphs.npy"
    assert run(glyphs.main, tmp_path / "fonts", "-o", out, "--count", 500) == 0
    drawn = np.load(out)
    assert drawn.shape == (62, 28, 28)
    assert drawn.reshape(62, -1).any(axis=1).all()
    assert run(glyphs.main, tmp_path / "fonts", "-o", out, "--count", 5, "-f") == 0
    assert (np.load(out) == drawn[:5]).all()
    assert run(glyphs.main, tmp_path, "-o", out, "-f", "--seed", 1) == 0
    assert not (np.load(out) == drawn).all()


def test_a_folder_without_fonts_is_an_error(tmp_path: Path) -> None:
    assert run(glyphs.main, tmp_path, "-o", tmp_path / "x.npy") == 1
