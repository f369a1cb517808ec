"""The scripts that make figures for the README, on a few drawn images."""

from __future__ import annotations

import gzip
import json
import struct
import sys
from pathlib import Path

import helpers
import numpy as np
import pytest

from codec import kernels
from codec.files.images import pack_idx
from codec.model.ladder_search import DEFAULT_EFFORT, EFFORTS

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


def test_curves_are_measured_once_and_drawn(tmp_path, monkeypatch):
    import curves

    for name in curves.DATA:
        write_set(tmp_path / name, "t10k", helpers.drawn(3), np.zeros(3, np.uint8))
    others = [
        {
            "dataset": "mnist",
            "codec": "webp",
            "setting": f"q{db}",
            "counted": "file",
            "bytes": 3.0 * db,
            "psnr_db": db,
        }
        for db in (20, 30)
    ] + [
        {
            "dataset": "mnist",
            "codec": "png",
            "setting": "",
            "counted": "file",
            "bytes": 267.8,
            "psnr_db": None,
        }
    ]
    (tmp_path / "results.json").write_text(json.dumps(others))
    out = tmp_path / "curves.json"
    monkeypatch.setattr(curves, "QUALITIES", (0, 99))
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "curves",
            str(tmp_path),
            str(tmp_path / "results.json"),
            "-o",
            str(out),
            "--pictures",
            str(tmp_path),
        ],
    )
    curves.main()
    first = json.loads(out.read_text())
    assert [(p["data"], p["effort"], p["quality"]) for p in first["points"]] == [
        (name, effort, q)
        for name in ("fashion", "mnist")
        for effort in curves.EFFORTS
        for q in (0, 99)
    ]
    found = 0
    for name, wanted in curves.ASKED_DB.items():
        ends = [
            (p["bytes"], p["psnr_db"])
            for p in first["points"]
            if (p["data"], p["effort"]) == (name, DEFAULT_EFFORT)
        ]
        (b0, db0), (b1, db1) = ends
        for size, asked in wanted.items():
            on_line = (
                round(db0 + (db1 - db0) * (size - b0) / (b1 - b0), 3) if b0 <= size <= b1 else None
            )
            assert first["psnr_db_at_bytes"][name][str(size)] == {
                "asked": asked,
                "measured": on_line,
            }
            found += on_line is not None
    assert found > 1
    picture = (tmp_path / "curves-mnist.svg").read_text()
    assert ">WebP</text>" in picture
    assert ">PNG, lossless</text>" in picture
    monkeypatch.setattr(curves.evaluate, "curve", None)  # a second run has nothing to measure
    curves.main()
    assert json.loads(out.read_text()) == first


def test_curves_are_measured_where_they_are_wanted_first(tmp_path, monkeypatch, capsys):
    import curves

    for name in curves.DATA:
        write_set(tmp_path / name, "t10k", helpers.drawn(20), np.zeros(20, np.uint8))
    (tmp_path / "results.json").write_text("[]")
    monkeypatch.setattr(curves, "QUALITIES", (99,))
    command = [
        "curves",
        str(tmp_path),
        str(tmp_path / "results.json"),
        "-o",
        str(tmp_path / "curves.json"),
        "--pictures",
        str(tmp_path),
        "--first",
        "fashion:40,33",
        "--first",
        "mnist:99",
    ]
    monkeypatch.setattr(sys, "argv", command)
    curves.main()
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
    monkeypatch.setattr(sys, "argv", [*command, "--first", "kmnist:3"])
    with pytest.raises(SystemExit):
        curves.main()
    assert "kmnist" in capsys.readouterr().err


@pytest.mark.slow
def test_more_effort_takes_fewer_bytes_and_more_time(tmp_path, monkeypatch):
    pytest.importorskip("bjontegaard")
    import efforts

    for name in efforts.IMAGES:
        write_set(tmp_path / name, "train", helpers.drawn(8), np.zeros(8, np.uint8))
    monkeypatch.setattr(efforts, "QUALITIES", (30, 60, 90))
    monkeypatch.setattr(efforts, "IMAGES", {"mnist": 8})
    out = tmp_path / "efforts.json"
    monkeypatch.setattr(sys, "argv", ["efforts", str(tmp_path), "-o", str(out), "--efforts", "4"])
    efforts.main()
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


def test_what_falls_back_is_told_for_each_set(tmp_path, monkeypatch):
    import unknown

    for name in ("mnist", "fashion"):
        write_set(tmp_path / name, "train", helpers.drawn(8), np.zeros(8, np.uint8))
    monkeypatch.setattr(unknown, "UNKNOWN", 3)
    monkeypatch.setattr(unknown, "QUALITIES", (50,))
    out = tmp_path / "unknown.json"
    monkeypatch.setattr(sys, "argv", ["unknown", str(tmp_path), "-o", str(out)])
    unknown.main()
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
def test_accuracy_is_told_for_each_quality(tmp_path, monkeypatch, capsys):
    import accuracy

    labels = np.arange(256).astype(np.uint8) % 2
    pixels = np.zeros((256, 28, 28), np.uint8)
    # a stroke, or nothing: two classes that nobody can mistake
    pixels[labels == 1, 8:20, 12:16] = 255
    write_set(tmp_path / "x", "train", pixels, labels)
    write_set(tmp_path / "x", "t10k", pixels[:64], labels[:64])
    monkeypatch.setattr(accuracy, "QUALITIES", (50, 90))
    monkeypatch.setattr(accuracy, "TRAINED_ON", (50,))
    out = tmp_path / "accuracy.json"
    monkeypatch.setattr(
        sys, "argv", ["accuracy", str(tmp_path / "x"), "-o", str(out), "--epochs", "10"]
    )
    accuracy.main()
    result = json.loads(out.read_text())
    assert result["original_percent"] == 100
    assert [(row["quality"], row["tested_on_decoded_percent"]) for row in result["qualities"]] == [
        (50, 100),
        (90, 100),
    ]
    assert [row["trained_on_decoded_percent"] for row in result["qualities"]] == [100, None]
    assert "100.00 %" in capsys.readouterr().out
