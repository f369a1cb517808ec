"""The scripts that make figures for the README, on a few drawn images."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import golden_tool
import helpers
import numpy as np
import pytest

from codec import kernels
from codec.encoder.options import DEFAULT_EFFORT
from codec.files.images import pack_idx
from codec.measure import tool
from codec.model.ladder_search import EFFORTS

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(autouse=True)
def _examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


def write_set(folder: Path, part: str, pixels: np.ndarray, labels: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(pack_idx(pixels)))
    (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(
        gzip.compress(struct.pack(">2I", 0x801, len(labels)) + labels.tobytes())
    )


def run(script: Any, *arguments: object) -> int:
    """Run a script with these arguments -> its exit code."""
    with pytest.raises(SystemExit) as ended:
        tool.run(script.main, list(map(str, arguments)))
    return int(ended.value.code or 0)


def test_curves_are_measured_once_and_drawn(tmp_path, monkeypatch):
    import curves

    for name in curves.DATA:
        write_set(tmp_path / name, "t10k", helpers.drawn(3), np.zeros(3, np.uint8))
    row = {"dataset": "mnist", "counted": "file"}
    others = [
        {**row, "codec": "webp", "setting": "q20", "bytes": 60.0, "psnr_db": 20},
        {**row, "codec": "webp", "setting": "q30", "bytes": 90.0, "psnr_db": 30},
        {**row, "codec": "png", "setting": "", "bytes": 267.8, "psnr_db": None},
    ]
    results, out = tmp_path / "results.json", tmp_path / "curves.json"
    results.write_text(json.dumps(others))
    options = ("-o", out, "--pictures", tmp_path, "--qualities", "0,99")
    assert run(curves, tmp_path, results, *options) == 0
    first = json.loads(out.read_text())
    assert [(p["data"], p["effort"], p["quality"]) for p in first["points"]] == [
        (name, effort, q)
        for name in ("fashion", "mnist")
        for effort in curves.EFFORTS
        for q in (0, 99)
    ]
    found = 0
    for name, wanted in curves.ASKED_DB.items():
        (b0, db0), (b1, db1) = (
            (p["bytes"], p["psnr_db"])
            for p in first["points"]
            if (p["data"], p["effort"]) == (name, DEFAULT_EFFORT)
        )
        for size, asked in wanted.items():
            on_line = (
                round(db0 + (db1 - db0) * (size - b0) / (b1 - b0), 3) if b0 <= size <= b1 else None
            )
            measured = first["psnr_db_at_bytes"][name][str(size)]
            assert measured == {"asked": asked, "measured": on_line}
            found += on_line is not None
    assert found > 1
    picture = (tmp_path / "curves-mnist.svg").read_text()
    assert ">WebP</text>" in picture
    assert ">PNG, lossless</text>" in picture
    monkeypatch.setattr(curves, "curve", None)  # a second run has nothing to measure
    assert run(curves, tmp_path, results, *options) == 0
    assert json.loads(out.read_text()) == first


def test_curves_are_measured_where_they_are_wanted_first(tmp_path, capsys):
    import curves

    for name in curves.DATA:
        write_set(tmp_path / name, "t10k", helpers.drawn(20), np.zeros(20, np.uint8))
    results = tmp_path / "results.json"
    results.write_text("[]")
    options = ["-o", tmp_path / "curves.json", "--pictures", tmp_path, "--qualities", "99"]
    options += ["--first", "fashion:40,33", "--first", "mnist:99"]
    assert run(curves, tmp_path, results, *options) == 0
    measured = [
        json.loads(line)
        for line in capsys.readouterr().out.splitlines()
        if line.startswith('{"data"')
    ]
    default = DEFAULT_EFFORT
    assert [(point["data"], point["effort"], point["quality"]) for point in measured] == [
        ("fashion", default, 40),
        ("fashion", default, 33),
        ("mnist", default, 99),
        ("mnist", 1, 99),
        ("fashion", 1, 99),
        ("fashion", default, 99),
    ]
    assert run(curves, tmp_path, results, *options, "--first", "kmnist:3") == 2
    assert "--first kmnist:3: 'kmnist' is not one of mnist, fashion" in capsys.readouterr().err


@pytest.mark.slow
def test_more_effort_takes_fewer_bytes(tmp_path):
    pytest.importorskip("bjontegaard")
    import efforts

    write_set(tmp_path / "mnist", "train", helpers.drawn(8), np.zeros(8, np.uint8))
    out = tmp_path / "efforts.json"
    options = ("--set", "mnist", "--efforts", 4, "--qualities", "30,60,90")
    assert run(efforts, tmp_path, "-o", out, *options) == 0
    result = json.loads(out.read_text())
    assert result["engine"] == kernels.description()
    one, four = result["efforts"]
    assert [(row["effort"], row["flips"], row["rounds"]) for row in (one, four)] == [
        (1, *EFFORTS[0]),
        (4, *EFFORTS[3]),
    ]
    assert one["bytes_at_equal_psnr_percent"] == 0
    assert four["speed_by_effort_1"] == pytest.approx(
        four["encode_images_per_s"] / one["encode_images_per_s"], abs=1e-3
    )
    assert four["bytes_at_equal_psnr_percent"] < -1
    assert [len(row["curve"]) for row in (one, four)] == [3, 3]


@pytest.mark.slow
def test_what_falls_back_is_measured_for_each_set(tmp_path):
    import unknown

    for name in ("mnist", "fashion"):
        write_set(tmp_path / name, "train", helpers.drawn(8), np.zeros(8, np.uint8))
    out = tmp_path / "unknown.json"
    assert run(unknown, tmp_path, "-o", out, "--unknown", 3, "--qualities", 50) == 0
    sets = {row["images"]: row for row in json.loads(out.read_text())["sets"]}
    assert [(name, row["count"]) for name, row in sets.items()] == [
        ("mnist", 8),
        ("fashion", 8),
        ("inverted digits", 3),
        ("crops of drawings", 3),
        ("white noise", 3),
        ("checkerboards", 3),
    ]
    noise = sets["white noise"]
    assert noise["by_mnist"] == {
        "bytes": noise["lossless"]["bytes"],
        "psnr_db": None,
        "fallback": {"mnist-lossless": 3},
    }
    assert noise["guarded"]["fallback"]
    assert not sets["fashion"]["unguarded"]["fallback"]
    assert sets["checkerboards"]["lossless"]["psnr_db"] is None


@pytest.mark.slow
def test_accuracy_is_measured_at_each_quality(tmp_path, capsys):
    import accuracy

    labels = np.arange(256).astype(np.uint8) % 2
    pixels = np.zeros((256, 28, 28), np.uint8)
    # a stroke, or nothing: two classes that nobody can mistake
    pixels[labels == 1, 8:20, 12:16] = 255
    write_set(tmp_path / "x", "train", pixels, labels)
    write_set(tmp_path / "x", "t10k", pixels[:64], labels[:64])
    out = tmp_path / "accuracy.json"
    options = ("--epochs", 10, "--qualities", "50,90", "--trained-on", 50)
    assert run(accuracy, tmp_path / "x", "-o", out, *options) == 0
    result = json.loads(out.read_text())
    assert result["original_percent"] == 100
    assert [(row["quality"], row["tested_on_decoded_percent"]) for row in result["qualities"]] == [
        (50, 100),
        (90, 100),
    ]
    assert [row["trained_on_decoded_percent"] for row in result["qualities"]] == [100, None]
    assert "100.00 %" in capsys.readouterr().out


def test_own_data_measures_one_model_against_another(tmp_path, capsys):
    import own_data

    np.save(tmp_path / "x.npy", golden_tool.sources()[0][:21])  # digits
    options = ("--model", "mnist", "--lossless", "mnist-lossless", "--against", "fashion")
    more = ("--last", 20, "--qualities", "5,35,65,95")
    assert run(own_data, tmp_path / "x.npy", *options, *more) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["data"] == "x.npy"
    assert result["lossy"]["images"] == result["lossless"]["images"] == 20
    assert [result["lossy"][who]["model"] for who in ("model", "against")] == ["mnist", "fashion"]
    assert -90 < result["lossy"]["bd_rate_percent"] < -10
    ours, theirs = (result["lossless"][who]["curve"][0]["bytes"] for who in ("model", "against"))
    assert result["lossless"]["bytes_percent"] == pytest.approx(100 * (ours / theirs - 1), abs=0.01)
    assert run(own_data, tmp_path / "x.npy", "--against", "fashion") == 2
    assert "give --model, --lossless or both" in capsys.readouterr().err
