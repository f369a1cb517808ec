"""README, examples and pinned rates are tests too."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import golden_tool
import numpy as np
import pytest
from typer.testing import CliRunner

from codec import api
from codec.cli import app
from codec.measure import curve
from codec.model import registry

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_readme_sets_up_with_two_commands_on_the_first_screen():
    first_screen = "\n".join(README.splitlines()[:24])
    commands = re.findall(r"```sh\n(.*?)\n```", first_screen, re.DOTALL)
    assert len(commands) == 2
    assert "examples/images" in commands[0]
    assert "pytest" in commands[1]


def test_ci_runs_the_test_command_of_the_readme():
    script = ROOT / ".ci" / "run"
    extract = next(
        line for line in script.read_text().splitlines() if line.startswith("test_command=")
    )
    run = subprocess.run(
        ["bash", "-c", f'{extract}; echo "$test_command"'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() in README
    assert run.stdout.strip().endswith("pytest")


def test_every_command_line_in_the_readme_names_a_command_and_options_that_exist():
    lines = [line.split("#")[0].split() for line in README.splitlines() if line.startswith("aez ")]
    assert len(lines) >= 8
    for words in lines:
        shown = CliRunner().invoke(app, [words[1], "--help"])
        assert shown.exit_code == 0, words
        for option in (word for word in words if re.match(r"-{1,2}[a-z]", word)):
            assert option in shown.output, (words, option)


def test_files_that_the_readme_names_exist():
    for name in re.findall(r"`((?:codec|weights|examples)/[\w/.]*)`", README):
        assert (ROOT / name).exists(), name


def test_roundtrip_example_runs():
    run = subprocess.run(
        [sys.executable, ROOT / "examples" / "roundtrip.py"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(run.stdout.splitlines()) == 6


def test_weights_readme_has_every_shipped_model():
    text = (ROOT / "weights" / "README.md").read_text()
    assert registry.MODEL_IDS
    for model_hash in registry.MODEL_IDS.values():
        path = registry.path_of(bytes.fromhex(model_hash))
        assert path is not None
        assert path.name in text
        assert path.stat().st_size <= (
            6_000_000 if registry.name_of(path).endswith("-lossless") else 3_000_000
        )


def rates() -> list[list[str]]:
    """Model, quality, total bytes of a collection of the example images; of what the model does to
    all of them, no guard.
    """
    pixels, _ = golden_tool.sources()
    models = sorted((registry.by_id(i) for i in registry.MODEL_IDS), key=lambda model: model.name)
    return [
        [
            model.name,
            str(q),
            str(len(api.compress(pixels, quality=q, model=model.name, effort=1, guard=False))),
        ]
        for model in models
        for q in ([100] if model.lossless else range(0, 100, 33))
    ]


def test_total_bytes_are_those_in_rates_csv():
    # Sizes under version control: a change of rate must show up in review. (python
    # tests/test_readme.py rewrites it.)
    with (ROOT / "tests" / "rates.csv").open(newline="") as file:
        assert list(csv.reader(file)) == rates()


def test_higher_quality_costs_more_bytes_and_has_less_error():
    # On digits and letters. On shapes, which no model was trained on, the error of `mnist` is not
    # promised to fall with every step: at quality 66 it is greater than at 55.
    pixels, names = golden_tool.sources()
    pixels = pixels[[not name.startswith("shapes") for name in names]]
    for model in registry.shipped():
        rows = curve.curve(model, pixels, range(0, 100, 11))
        assert [r["bytes"] for r in rows] == sorted(r["bytes"] for r in rows)
        assert [r["psnr_db"] for r in rows] == sorted(r["psnr_db"] for r in rows)


def test_collection_costs_at_most_three_quarters_of_a_byte_an_image_over_the_ideal():
    pixels = np.tile(golden_tool.sources()[0], (25, 1, 1))[:1000]
    model = registry.shipped()[0]
    for row in curve.curve(model, pixels, (10, 75)):
        assert row["ideal_bytes"] < row["bytes"] <= row["ideal_bytes"] + 0.75


def test_psnr_between_two_points_lies_on_the_line():
    rows = [{"bytes": 10.0, "psnr_db": 20.0}, {"bytes": 20.0, "psnr_db": 24.0}]
    assert curve.psnr_at(rows, 15) == 22.0
    assert curve.psnr_at(rows, 9) is None


def test_evaluate_prints_json(tmp_path, monkeypatch):
    data, out = tmp_path / "x.npy", tmp_path / "x.json"
    np.save(data, golden_tool.sources()[0][:20])
    name = registry.shipped()[0].name
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "evaluate",
            str(data),
            "--model",
            name,
            "--qualities",
            "0,99",
            "--speed",
            "50",
            "--repeat",
            "1",
            "-o",
            str(out),
        ],
    )
    curve.main()
    result = json.loads(out.read_text())
    assert result["images"] == 20
    assert result["speed"][0]["decode_images_per_s"] > 0


def test_evaluate_measures_collections(tmp_path, tiny_weights, monkeypatch):
    data, out = tmp_path / "x.npy", tmp_path / "x.json"
    np.save(data, golden_tool.sources()[0][:20])
    monkeypatch.setenv("AEZ_WEIGHTS", str(tiny_weights))
    monkeypatch.setattr(
        sys, "argv", ["evaluate", str(data), "--model", "tiny0", "--collections", "-o", str(out)]
    )
    curve.main()
    result = json.loads(out.read_text())
    assert (result["images"], result["quality"]) == (20, 75)
    assert len(result["ratio_to_memory"]) == 4
    assert all(ratio > 0 for ratio in result["ratio_to_memory"].values())
    assert (
        result["bytes_an_image"]["names"]
        < result["bytes_an_image"]["names_index_checks"]
        < result["bytes_an_image"]["whole"]
    )


def test_a_lossless_model_has_one_point_and_a_size_of_single_files(
    tmp_path, tiny_weights, monkeypatch
):
    data, out, pixels = tmp_path / "x.npy", tmp_path / "x.json", golden_tool.sources()[0][:20]
    np.save(data, pixels)
    monkeypatch.setenv("AEZ_WEIGHTS", str(tiny_weights))
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "evaluate",
            str(data),
            "--model",
            "tiny0-lossless",
            "--speed",
            "50",
            "--repeat",
            "1",
            "-o",
            str(out),
        ],
    )
    curve.main()
    result = json.loads(out.read_text())
    stream = api.compress(pixels, model="tiny0-lossless", lossless=True)
    assert [(row["quality"], row["psnr_db"]) for row in result["curve"]] == [(100, None)]
    assert result["curve"][0]["bytes"] == pytest.approx(len(stream) / 20)
    assert [row["quality"] for row in result["speed"]] == [100]
    singles = [api.compress(image, model="tiny0", quality=100) for image in pixels]
    assert result["single_file_bytes"] == pytest.approx(
        np.mean([len(single) for single in singles]), abs=1e-3
    )


@pytest.mark.parametrize("model_hash", registry.MODEL_IDS.values())
def test_shipped_model_lies_in_a_file_named_for_its_content(model_hash):
    path = registry.path_of(bytes.fromhex(model_hash))
    model = registry.load_cached(path)
    assert path.name == f"{model.name}-{model.sha256.hex()[:8]}.safetensors"
    assert model.card["figures"]["curve"]


if __name__ == "__main__":
    with (ROOT / "tests" / "rates.csv").open("w", newline="") as out_file:
        csv.writer(out_file).writerows(rates())
