"""Speed: what is measured, and that ratios are those of what was measured."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest

from codec import api, kernels, parallel
from codec.encoder.options import DEFAULT_EFFORT
from codec.errors import AezError
from codec.files import arrays, images
from codec.measure import reading, speed, tool, waits
from codec.measure.speed import Case
from codec.measure.waits import Size

TINY = Size(
    images=8,
    of_others=4,
    png_files=6,
    idx_images=9,
    reads=3,
    processes=1,
    repeat=1,
    enough_s=0,
    products=1,
)
ROW = {
    "data": "mnist",
    "way": "encode",
    "quality": 75,
    "effort": 1,
    "named": True,
    "engine": "native avx2",
    "cores": 2,
}


def test_ratios_and_efficiency_are_worked_out_from_the_speeds():
    """5,000 images/s of 18 M multiply-adds are 90 G/s: 1.5 times numpy's 60 G/s on two cores."""
    rows: list[dict[str, Any]] = [
        {**ROW, "images_per_s": 5000.0, "multiply_adds": 18e6},
        {**ROW, "images_per_s": 2500.0, "multiply_adds": 18e6, "cores": 1},
        {**ROW, "images_per_s": 1000.0, "multiply_adds": 18e6, "engine": "numpy"},
        {**ROW, "images_per_s": 4000.0, "named": False},
    ]
    png = {"codec": "png", "setting": "default", "data": "mnist"}
    others = [
        {**png, "way": "encode", "cores": 1, "images_per_s": 10_000.0},
        {**png, "way": "encode", "cores": 2, "images_per_s": 20_000.0},
        {**png, "way": "decode", "cores": 1, "images_per_s": 1.0},
        {**png, "data": "fashion", "way": "encode", "cores": 1, "images_per_s": 1.0},
    ]
    speed.compare(rows, others, {1: 36e9, 2: 60e9})
    found = [
        {
            key: value
            for key, value in row.items()
            if key not in {*ROW, "images_per_s", "multiply_adds"}
        }
        for row in rows
    ]
    assert found == [
        {
            "efficiency": 1.5,
            "ratio_to": {"png default": {"1 core": 0.5, "2 cores": 0.25}},
            "gain_over_one_core": 2.0,
            "ratio_to_numpy": 5.0,
        },
        {"efficiency": 1.25, "ratio_to": {"png default": {"1 core": 0.25, "2 cores": 0.125}}},
        {"efficiency": 0.3, "ratio_to": {"png default": {"1 core": 0.1, "2 cores": 0.05}}},
        {"ratio_to": {"png default": {"1 core": 0.4, "2 cores": 0.2}}, "ratio_to_named": 0.8},
    ]


def test_gain_of_a_command_is_that_of_all_cores_over_one_by_the_same_engine():
    row = {"what": "a", "engine": "native avx2"}
    rows = [
        {**row, "cores": 2, "images_per_s": 1900.0},
        {**row, "cores": 1, "images_per_s": 1000.0},
        {**row, "engine": "numpy", "cores": 2, "images_per_s": 10.0},
        {"what": "b", "engine": "numpy", "seconds": 1.0},
    ]
    assert speed.gains(rows) == {"a": 1.9}


def test_cases_are_those_that_people_wait_for_and_efficiency_is_told_where_products_are_known():
    named = {(case.way, case.quality, case.effort) for case in speed.CASES if case.has_efficiency}
    assert named == {
        ("decode", 25, 1),
        ("decode", 75, 1),
        ("encode", 25, 1),
        ("encode", 75, 1),
        ("encode", 100, 1),
        ("decode", 100, 1),
    }
    default = {
        case.quality for case in speed.CASES if case.effort == DEFAULT_EFFORT and not case.named
    }
    assert default == {25, 75, 100}


def test_each_engine_does_the_same_work_in_memory(shipped_lossless):
    cases = (
        Case("encode", 50, 1, True),
        Case("encode", 50, DEFAULT_EFFORT, False),
        Case("decode", 100, 1, True),
    )
    rows = list(speed.in_memory(helpers.drawn(8), "tiny0", cases, TINY))
    engines = [engine.replace("-", " ") for engine in waits.engines()]
    assert [engine for engine in dict.fromkeys(row["engine"] for row in rows)] == engines
    for case in cases:
        mine = [
            row
            for row in rows
            if (row["way"], row["effort"], row["quality"]) == (case.way, case.effort, case.quality)
        ]
        assert [row["engine"] for row in mine if row["cores"] == parallel.num_cores()] == engines
        counted = {row.get("multiply_adds") for row in mine}
        model = shipped_lossless if case.lossless else helpers.tiny_model()
        counts = model.multiply_adds(helpers.drawn(8))
        assert counted == {counts[case.way == "decode"] if case.has_efficiency else None}
        options = {"quality": case.quality, "effort": case.effort, "guard": not case.named}
        stream = api.compress(helpers.drawn(8), model=mine[0]["model"], **options)
        assert {row["bytes_per_image"] for row in mine} == {round(len(stream) / 8, 2)}
        assert {row["psnr_db"] is None for row in mine} == {case.lossless}


def test_other_codecs_are_measured_both_ways_on_one_core_and_on_all():
    rows = list(speed.of_others(helpers.drawn(4), "mnist", TINY))
    found = {(row["codec"], row["setting"], row["way"], row["cores"]) for row in rows}
    assert found == {
        (*name, way, cores)
        for name in speed.OTHERS
        for way in ("encode", "decode")
        for cores in waits.core_counts()
    }
    exact = {(row["codec"], row["setting"]) for row in rows if row["psnr_db"] is None}
    assert exact == {
        ("png", "default"),
        ("png", "optimize"),
        ("webp", "lossless m6"),
        ("jxl", "lossless e9"),
    }
    bytes_of = {(row["codec"], row["setting"]): row["bytes_per_image"] for row in rows}
    assert bytes_of["webp", "q0 m6"] < bytes_of["webp", "lossless m6"]


@pytest.mark.parametrize("group", [5, 16])
def test_random_images_share_no_group(group):
    """A group that was decoded is remembered: reading from it again would take no time."""
    numbers = reading.random_numbers(100, 300)
    assert len(numbers) == 7
    assert all(0 <= number < 100 for number in numbers)
    assert len({number // group for number in numbers}) == 7
    assert numbers != sorted(numbers)
    assert reading.random_numbers(100, 3) == numbers[:3]


def test_commands_take_and_give_every_image_and_a_failing_one_is_an_error(tmp_path, monkeypatch):
    ran: list[tuple[list[str], str]] = []

    def run(command: list[str], env: dict[str, str], **options: Any) -> Any:
        ran.append((command[3:], env["AEZ_ENGINE"]))
        return type("Done", (), {"returncode": 0, "stderr": ""})

    monkeypatch.setattr(waits.subprocess, "run", run)
    rows = list(waits.commands(helpers.drawn(4), tmp_path, TINY))
    assert len(list((tmp_path / "png").rglob("*.png"))) == 6
    assert len(arrays.read_array(tmp_path / "images-idx3-ubyte")) == 9
    assert [row["images"] for row in rows[:: len(rows) // 4]][:4] == [6, 6, 9, 9]
    best, cores = waits.engines()[0], waits.core_counts()
    first = [
        (command[-1], engine) for command, engine in ran if command[1] == str(tmp_path / "png")
    ]
    wanted = [(str(n), best) for n in cores] + [(str(cores[0]), "numpy")] * (best != "numpy")
    assert first == wanted
    assert [command[0] for command, _ in ran[-2:]] == ["compress", "decompress"]


def test_a_command_runs_by_the_engine_that_is_asked_for(tmp_path):
    (tmp_path / "one.aez").write_bytes(api.compress(helpers.drawn(1)[0], model="mnist", effort=1))
    with pytest.raises(AezError, match="AEZ_ENGINE is 'abacus'"):
        waits.aez("decompress", tmp_path / "one.aez", engine="abacus")


@pytest.mark.slow
def test_the_result_has_engine_and_g_and_tells_each_row(tmp_path, shipped_lossless, monkeypatch):
    monkeypatch.setattr(speed, "of_others", lambda *args: iter([]))
    monkeypatch.setattr(waits, "commands", lambda *args: iter([]))
    told: list[dict[str, Any]] = []
    result = speed.evaluate_speed({"tiny0": helpers.drawn(20)}, tmp_path, TINY, say=told.append)
    assert told == result["in_memory"] + result["one_image"]
    assert (result["engine"], result["cores_used"]) == (kernels.description(), parallel.num_cores())
    rows = [row for row in result["in_memory"] if "efficiency" in row]
    assert len(rows) >= 6
    for row in rows:
        products_per_s = result["products_per_s"][str(row["cores"])]
        images_per_s = row["efficiency"] * products_per_s / row["multiply_adds"]
        assert images_per_s == pytest.approx(row["images_per_s"], rel=1e-3)
    assert result["products_per_s"][str(result["cores_used"])] > 1e8


def test_main_writes_one_json(tmp_path, monkeypatch):
    for name in speed.DATA:
        (tmp_path / name).mkdir()
        (tmp_path / name / "t10k-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(images.pack_idx(helpers.drawn(4)))
        )
    sizes: list[Any] = []

    def evaluate(sets: dict[str, np.ndarray], folder: Path, size: Size, say: Any) -> dict[str, Any]:
        sizes.append(size)
        return {"images": {name: len(pixels) for name, pixels in sets.items()}}

    monkeypatch.setattr(speed, "evaluate_speed", evaluate)
    out = tmp_path / "speed.json"
    with pytest.raises(SystemExit, match="0"):
        tool.run(speed.main, [str(tmp_path), "-o", str(out), "--quick"])
    assert json.loads(out.read_text()) == {"quick": True, "images": {"mnist": 4, "fashion": 4}}
    assert sizes == [speed.QUICK]


def test_one_image_is_waited_for_by_each_engine(shipped, tmp_path):
    rows = list(waits.one_image(helpers.drawn(20), "tiny0", tmp_path, TINY))
    engines = [engine.replace("-", " ") for engine in waits.engines()]
    assert [row["engine"] for row in rows] == 3 * engines
    assert all(np.isfinite(row["ms"]) and row["ms"] > 0 for row in rows)
    assert {path.name for path in Path(tmp_path).iterdir()} == {"tiny0-25.aez", "tiny0-75.aez"}
