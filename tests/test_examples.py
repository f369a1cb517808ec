"""The examples that draw pictures, on little data."""

from __future__ import annotations

import gzip
import json
import re
import runpy
import struct
from pathlib import Path
from types import SimpleNamespace

import helpers
import numpy as np
import pytest
from PIL import Image

import codec
from codec.measure import tool
from codec.model import registry
from codec.model.ladder import Ladder

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
draw, neighbours, sample, sizes = (
    SimpleNamespace(**runpy.run_path(str(EXAMPLES / f"{name}.py")))
    for name in ("draw", "neighbours", "sample", "sizes")
)


def run(script: SimpleNamespace, *arguments: object) -> None:
    """Run a script with these arguments, and see that it ends well."""
    with pytest.raises(SystemExit) as ended:
        tool.run(script.main, list(map(str, arguments)))
    assert ended.value.code in (0, None)


def test_samples_are_drawn_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    for file, seed in zip(files, (1, 1, 2), strict=True):
        run(sample, "-m", "fashion", "-q", "10,90", "-n", 3, "--seed", seed, "-o", file)
    with Image.open(files[0]) as picture:
        assert (picture.mode, picture.size) == ("L", (2 * (3 * 29 - 1), 2 * (2 * 29 - 1)))
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()


def test_samples_cost_the_model_few_bits() -> None:
    """What is drawn from the prior is what the model expects: it costs far fewer bytes than the
    same pixels shuffled.
    """
    model = registry.by_name("mnist")
    assert isinstance(model, Ladder)
    pixels = sample.draw(model, 50, 16, np.random.default_rng(0))
    assert (pixels.dtype, pixels.shape) == (np.uint8, (16, 28, 28))
    assert len(np.unique(pixels, axis=0)) == 16
    shuffled = (
        np.random.default_rng(0).permutation(pixels.reshape(16, 784), axis=1).reshape(pixels.shape)
    )
    assert 4 * model.encode(pixels, 50).ideal_bits < model.encode(shuffled, 50).ideal_bits


def test_nearest_finds_what_a_full_sort_finds() -> None:
    rng = np.random.default_rng(0)
    gallery, queries = (
        rng.integers(0, 256, (60, 4, 5)).astype(np.uint8),
        rng.integers(0, 256, (9, 4, 5)).astype(np.uint8),
    )
    distances = ((queries[:, None].astype(int) - gallery) ** 2).sum(axis=(2, 3))
    np.testing.assert_array_equal(
        neighbours.nearest(queries, gallery, 5), distances.argsort(axis=1)[:, :5]
    )


def test_look_alikes_of_drawn_digits_have_their_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = {
        name: pixels for name, pixels in draw.draw_all().items() if name.startswith("digits/")
    }
    pixels, labels = np.stack(list(digits.values())), [int(name[len("digits/")]) for name in digits]
    # which a guard would have coded without latents
    pixels[-1] = np.random.default_rng(0).integers(0, 256, (28, 28))
    for part in ("train", "t10k"):
        images = struct.pack(">4I", 0x803, len(pixels), 28, 28) + pixels.tobytes()
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(
            gzip.compress(struct.pack(">2I", 0x801, 30) + bytes(labels))
        )
    out = tmp_path / "x.png"
    run(neighbours, tmp_path, "-o", out)
    printed = capsys.readouterr().out
    # Each image is in the gallery itself, at no distance.
    found = re.findall(r"by (\w+), (\d+) numbers: (\S+) of 30", printed)
    assert found == [("latents", "32", "100.0%"), ("pixels", "784", "100.0%")]
    with Image.open(out) as picture:
        columns = 1 + 2 * neighbours.SHOWN
        assert picture.size == (32 * columns + 2 * 12, 320)


def test_sizes_are_those_of_files_and_the_pictures_what_they_decode_to() -> None:
    pixels = next(iter(draw.draw_all().values()))
    coded = {name: code(pixels) for name, code in sizes.COLUMNS.items()}
    assert coded["aez lossless"][0] == len(codec.compress(pixels, lossless=True)) < coded["PNG"][0]
    for name in ("PNG", "aez lossless"):
        np.testing.assert_array_equal(coded[name][1], pixels)
    picture = np.asarray(sizes.draw([pixels, pixels]))
    corner = sizes.GAP  # of the first image, the PNG
    shown = picture[
        corner : corner + 28 * sizes.SCALE : sizes.SCALE,
        corner : corner + 28 * sizes.SCALE : sizes.SCALE,
        0,
    ]
    np.testing.assert_array_equal(shown, pixels)


# Data sets of others


def digits() -> tuple[np.ndarray, list[int]]:
    """The drawn digits, uint8 (30, 28, 28), and what they show."""
    drawn = {name: pixels for name, pixels in draw.draw_all().items() if name.startswith("digits/")}
    return np.stack(list(drawn.values())), [int(name[len("digits/")]) for name in drawn]


@pytest.mark.slow
def test_classifier_learns_from_collections_with_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classify = SimpleNamespace(**runpy.run_path(str(EXAMPLES / "classify.py")))
    pixels, labels = digits()
    train, test = tmp_path / "train.aez", tmp_path / "test.aez"
    train.write_bytes(codec.compress(pixels, labels=labels, quality=90, effort=1))
    test.write_bytes(codec.compress(pixels[::-1], labels=labels[::-1], quality=50, effort=1))
    run(classify, train, test, "--epochs", 25, "--batch", 10)
    *epochs, last = capsys.readouterr().out.splitlines()
    assert len(epochs) == 25
    found = re.fullmatch(r"30 images to train on, ([\d.]+) % of 30 others right", last)
    assert found is not None
    assert float(found[1]) > 90


def test_classifier_needs_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classify = SimpleNamespace(**runpy.run_path(str(EXAMPLES / "classify.py")))
    path = tmp_path / "x.aez"
    path.write_bytes(codec.compress(digits()[0], effort=1))
    with pytest.raises(SystemExit) as ended:
        tool.run(classify.main, [str(path), str(path)])
    assert ended.value.code == 2
    assert "has no labels" in capsys.readouterr().err


def test_plain_autoencoder_learns_and_counts_all_bytes(tmp_path: Path) -> None:
    plain = SimpleNamespace(**runpy.run_path(str(EXAMPLES / "plain_autoencoder.py")))
    pixels = helpers.drawn(64)
    first, learned = (plain.measure(pixels, pixels, epochs=epochs) for epochs in (1, 40))
    assert learned["psnr_db"] > first["psnr_db"] + 1
    assert 5 < learned["bytes"] <= 128 + 1
    mse = 10 ** (-learned["psnr_db"] / 10)
    assert learned["test_mse"] == pytest.approx(mse, rel=0.01)
    np.save(tmp_path / "x.npy", pixels)
    out = tmp_path / "x.json"
    run(plain, tmp_path / "x.npy", tmp_path / "x.npy", "-o", out, "--epochs", 1)
    assert json.loads(out.read_text())["bytes"] == first["bytes"]


@pytest.fixture
def hugging(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """The script, which must not ask the network for anything."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    pytest.importorskip("datasets")
    return SimpleNamespace(**runpy.run_path(str(EXAMPLES / "huggingface.py")))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:datasets.*")
def test_parquet_of_hugging_face_goes_into_a_collection_and_back(
    hugging: SimpleNamespace, tmp_path: Path
) -> None:
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    pixels, labels = digits()
    features = Features({"image": ImageFeature(), "label": ClassLabel(num_classes=10)})
    columns = {"image": [Image.fromarray(image) for image in pixels], "label": labels}
    parquet, collection = tmp_path / "train.parquet", tmp_path / "x.aez"
    Dataset.from_dict(columns, features).to_parquet(str(parquet))
    with collection.open("wb") as file:
        hugging.pack(parquet, file, lossless=True)
    with codec.open(collection) as stream:
        assert stream.labels.tolist() == labels
        np.testing.assert_array_equal(stream[:], pixels)
    back = hugging.unpack(collection)
    assert back["label"] == labels
    for image, item in zip(pixels, back, strict=True):
        np.testing.assert_array_equal(np.asarray(item["image"]), image)


def test_images_of_a_data_set_are_decoded_from_aez_bytes(
    hugging: SimpleNamespace, tmp_path: Path
) -> None:
    pixels, labels = digits()
    dataset = hugging.unpack(codec.compress(pixels, labels=[f"d{i}" for i in labels], effort=1))
    assert dataset.features["label"].names == [f"d{i}" for i in range(10)]
    small = hugging.shrink(dataset, lossless=True)
    assert small[3]["image"].format == "AEZ"
    for before, after in zip(dataset, small, strict=True):
        np.testing.assert_array_equal(np.asarray(after["image"]), np.asarray(before["image"]))
        assert after["label"] == before["label"]
    assert 2 * hugging.image_bytes(small) < hugging.image_bytes(dataset)


def test_the_script_for_hugging_face_says_what_the_images_take(
    hugging: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parquet, out = tmp_path / "x.parquet", tmp_path / "x.aez"
    hugging.unpack(codec.compress(digits()[0], labels=digits()[1], effort=1)).to_parquet(parquet)
    run(hugging, parquet, "-o", out)
    said = capsys.readouterr().out
    assert "num_rows: 30" in said
    assert f"{out}: {out.stat().st_size} bytes" in said
    assert "the first: AEZ (28, 28), label 0" in said
