"""What a generic model is trained on: drawings of every kind, and the mixture."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codec.files.arrays import read_array
from codec.measure import tool
from codec.train.data import split
from codec.train.drawings import draw, mixture, pictures
from codec.train.drawings.__main__ import main


def run(arguments: list[str]) -> int:
    """Run the command line -> its exit code."""
    with pytest.raises(SystemExit) as ended:
        tool.run(main, arguments)
    return int(ended.value.code or 0)


def test_drawings_are_the_same_for_the_same_seed_and_others_for_another() -> None:
    pixels = draw.draw(60, seed=3)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (60, 28, 28)
    assert np.array_equal(pixels, draw.draw(60, seed=3))
    # an image depends on the seed and its number alone
    assert np.array_equal(pixels[:20], draw.draw(20, seed=3))
    assert (pixels != draw.draw(60, seed=4)).any(axis=(1, 2)).mean() > 0.9


def test_every_kind_appears_by_its_share() -> None:
    found = draw.kinds(4000, seed=0)
    assert sum(share for share, _ in draw.KINDS.values()) == pytest.approx(1)
    for kind, (share, _) in draw.KINDS.items():
        assert abs(found.count(kind) / 4000 - share) < 0.03
        assert f"{kind} " in " ".join(str(draw.draw.__doc__).split())
        assert f"{100 * share:.0f} %" in " ".join(str(draw.draw.__doc__).split())


@pytest.mark.parametrize("kind", draw.KINDS)
def test_images_of_a_kind_are_not_blank_and_not_all_the_same(kind: str) -> None:
    images = [draw.KINDS[kind][1](np.random.default_rng((5, i))) for i in range(40)]
    assert all(x.shape == (28, 28) and np.isfinite(x).all() for x in images)
    assert sum(float(np.ptp(x)) > 0.02 for x in images) >= 34
    assert len({x.tobytes() for x in images}) >= 34


def test_the_drawings_vary_in_brightness_contrast_and_greys() -> None:
    pixels = draw.draw(600, seed=1).reshape(600, -1)
    greys = np.array([len(np.unique(image)) for image in pixels])
    assert (greys <= 8).mean() > 0.05
    assert (greys > 60).mean() > 0.3
    assert pixels.mean(axis=1).std() > 50
    dark, light = (pixels.mean(axis=1) < 40).mean(), (pixels.mean(axis=1) > 215).mean()
    assert 0.1 < light < dark < 0.6  # a third is inverted


def plain(grey: int, count: int = 30) -> np.ndarray:
    return np.full((count, 28, 28), grey, np.uint8)


def test_the_training_set_is_a_mixture_that_can_be_trained_on(tmp_path: Path) -> None:
    pixels = mixture.generic_images(plain(120), plain(0), plain(200), 400, seed=0)
    assert pixels.shape == (400, 28, 28)
    again = mixture.generic_images(plain(120), plain(0), plain(200), 400, seed=0)
    assert np.array_equal(pixels, again)
    flat = np.ptp(pixels.reshape(400, -1), axis=1) == 0
    for grey in (0, 200, 255, 55):  # as they are, and inverted
        assert (flat & (pixels[:, 0, 0] == grey)).sum() >= 5
    near = np.abs(pixels.reshape(400, -1).astype(int) - 128).max(axis=1) < 100
    assert 150 <= near.sum() <= 270  # natural ones, with other contrast and noise
    for name, grey in (("natural", 120), ("black", 0), ("white", 200)):
        np.save(tmp_path / f"{name}.npy", plain(grey))
    zipped = tmp_path / "natural.npy.gz"
    zipped.write_bytes(gzip.compress((tmp_path / "natural.npy").read_bytes()))
    (tmp_path / "pictures").mkdir()
    colours = np.full((60, 90, 3), (30, 90, 200), np.uint8)
    Image.fromarray(colours).save(tmp_path / "pictures/blue.png")
    out = tmp_path / "generic.idx"
    arguments = [str(out), "--natural", str(zipped), "--mnist", str(tmp_path / "black.npy")]
    arguments += ["--fashion", str(tmp_path / "white.npy"), "--count", "240"]
    arguments += ["--pictures", str(tmp_path / "pictures")]
    assert run(arguments) == 0
    # the last ones, which training holds out, are of images that each source holds out
    trained, held_out = split(read_array(out))
    pictures = [np.asarray(Image.fromarray(colours).convert("L"))]
    for found, count, seed, some in ((trained, 20, 0, pictures), (held_out, 10, 1, [])):
        greys = (plain(grey, count) for grey in (120, 0, 200))
        expected = mixture.generic_images(*greys, len(found), seed, some)
        assert np.array_equal(found, expected)
    assert run(arguments) == 2  # an output is not overwritten
    assert run(["generic.npy", *arguments[1:]]) == 2  # its order would not be kept


def test_a_picture_gives_windows_from_a_thumbnail_to_its_own_pixels() -> None:
    picture = np.tile(np.uint8([[0, 255], [255, 0]]), (100, 150))
    cut = pictures.windows([picture], 60, np.random.default_rng(0))
    assert cut.shape == (60, 28, 28)
    contrast = np.ptp(cut.reshape(60, -1).astype(int), axis=1)
    assert contrast.min() < 60 < 120 < contrast.max()


def test_a_change_keeps_the_shape_and_does_not_touch_the_original() -> None:
    original = draw.draw(1, seed=9)[0]
    before = original.copy()
    rng = np.random.default_rng(0)
    for change in (mixture.changed, pictures.seen_otherwise):
        results = [change(original, rng) for _ in range(60)]
        assert all(one.shape == (28, 28) and one.dtype == np.uint8 for one in results)
        assert len({one.tobytes() for one in results}) > 15
        assert np.array_equal(original, before)
