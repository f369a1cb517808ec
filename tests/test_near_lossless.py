"""Near-lossless: no pixel is off by more than the bound, whatever the image and the model."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import golden_tool
import helpers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import aez
from test_pixel_model import kinds

import codec
from codec import api
from codec.encoder.goal import AtMostBytes
from codec.encoder.near import nearest
from codec.encoder.options import Options
from codec.encoder.scale import codings
from codec.errors import ImageError, UsageError
from codec.files.images import pack_png
from codec.format.constants import max_error_of
from codec.model import registry
from codec.model.grids import MISSING, palettes_of, rounded, steps_for
from codec.model.pixels import Pixels


def farthest(pixels: np.ndarray, decoded: np.ndarray) -> int:
    return int(np.abs(pixels.astype(int) - decoded).max())


# ---- the grid


@pytest.mark.parametrize("step", [3, 5, 13, 127, 129])
def test_every_value_goes_to_the_nearest_multiple_and_never_out_of_range(step: int) -> None:
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    found = rounded(values, step).astype(int)
    assert np.abs(found - values).max() == step // 2
    assert all(value % step == 0 or value == 255 for value in found.ravel().tolist())
    for value, near in zip(values.ravel().tolist(), found.ravel().tolist(), strict=True):
        wanted = min(range(0, 300, step), key=lambda multiple: abs(multiple - value))
        assert near == min(wanted, 255)


def test_each_image_can_have_a_step_of_its_own() -> None:
    pixels = np.full((3, 28, 28), 7, np.uint8)
    assert rounded(pixels, np.array([1, 3, 5]))[:, 0, 0].tolist() == [7, 6, 5]


def test_the_steps_of_a_model_are_those_of_which_a_palette_holds_exactly_the_grid() -> None:
    costs = np.full((4, 256), MISSING)
    costs[0] = 5  # all values
    costs[1, ::9] = 3  # 252 is the last multiple of 9
    costs[2, ::13] = costs[2, 255] = 3  # 260 is beyond
    costs[3, ::7] = costs[3, 1] = 3  # one value too many
    assert {step: found.tolist() for step, found in palettes_of(costs).items()} == {9: [1], 13: [2]}


def test_the_step_of_a_bound_is_the_widest_that_keeps_it() -> None:
    assert steps_for(np.array([1, 3, 4, 5, 64]), [5, 9, 85]).tolist() == [3, 5, 9, 9, 85]
    assert steps_for(np.array([1, 64]), []).tolist() == [3, 129]


# ---- streams


@pytest.mark.parametrize("bound", [1, 8, 64, *helpers.slow(2, 4, 5, 33)])
@pytest.mark.parametrize("name", [*helpers.slow("fashion", "mnist"), "auto"])
def test_no_pixel_of_any_kind_of_image_is_off_by_more_than_the_bound(name: str, bound: int) -> None:
    pixels = kinds()
    stream = api.compress(pixels, max_error=bound, model=name)
    assert farthest(pixels, api.decompress(stream)) <= bound
    for image in pixels[::7]:
        assert farthest(image, api.decompress(api.compress(image, max_error=bound))) <= bound


@settings(max_examples=30)
@given(bound=st.integers(1, 64), seed=st.integers(0, 2**32 - 1), levels=st.integers(1, 256))
def test_noise_keeps_any_bound(
    shipped_lossless: object, bound: int, seed: int, levels: int
) -> None:
    random = np.random.default_rng(seed)
    pixels = random.choice(random.integers(0, 256, levels), (5, 28, 28)).astype(np.uint8)
    stream = api.compress(pixels, max_error=bound)
    with codec.open(stream) as collection:
        assert farthest(pixels, collection[:]) <= bound
        assert (collection[3] == api.decompress(stream)[3]).all()


def test_a_model_that_knows_grids_takes_fewer_bytes_the_wider_the_bound() -> None:
    pixels = helpers.drawn(64)
    sizes = [len(api.compress(pixels, max_error=bound, model="fashion")) for bound in (1, 4, 12)]
    exact = len(api.compress(pixels, lossless=True, model="fashion"))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] < exact


@pytest.mark.usefixtures("shipped_lossless")
def test_a_model_without_grids_never_takes_more_bytes_than_without_loss() -> None:
    pixels = helpers.drawn(32)
    exact = len(api.compress(pixels, lossless=True))
    assert len(api.compress(pixels, max_error=2)) <= exact


def test_the_stream_says_what_it_promises() -> None:
    pixels = helpers.drawn(40)
    stream = api.compress(pixels, max_error=3, model="fashion")
    with codec.open(stream) as collection:
        assert [part.quality for part in collection.blocks[0].parts] == [131]
    assert [max_error_of(quality) for quality in (0, 99, 100, 101, 131, 192)] == [
        None,
        None,
        0,
        0,
        3,
        64,
    ]
    near, exact = api.info(stream), api.info(api.compress(pixels, lossless=True))
    assert (near.max_error, near.lossless) == (3, False)
    assert (exact.max_error, exact.lossless) == (0, True)
    assert api.info(api.compress(pixels)).max_error is None


@pytest.mark.slow
def test_the_second_decoder_reads_it() -> None:
    weights = Path(registry.__file__).parents[2] / "weights"
    pixels = helpers.drawn(20)
    for stream in (
        api.compress(pixels, max_error=6, model="fashion"),
        api.compress(pixels[3], max_error=6, model="fashion"),
    ):
        assert (helpers.minimal_decode(stream, weights) == api.decompress(stream)).all()


def test_pillow_saves_it() -> None:
    from PIL import Image

    import codec.pillow_plugin  # noqa: F401

    pixels, file = helpers.drawn(1)[0], io.BytesIO()
    Image.fromarray(pixels).save(file, "AEZ", max_error=5)
    assert farthest(pixels, np.asarray(Image.open(file))) <= 5
    assert api.info(file.getvalue()).max_error == 5


# ---- options


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"max_error": 0}, "lossless=True"),
        ({"max_error": 65}, "from 1 to 64"),
        ({"max_error": -1}, "from 1 to 64"),
        ({"max_error": 1.5}, "whole number"),
        ({"max_error": True}, "whole number"),
        ({"max_error": 4, "quality": 80}, "leave out"),
        ({"max_error": 4, "lossless": True}, "leave out"),
        ({"max_error": 4, "max_bytes": 90}, "leave out"),
        ({"max_error": 4, "min_psnr": 30}, "leave out"),
    ],
)
def test_what_contradicts_the_bound_is_refused(choices: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Options.of(**choices)  # type: ignore[arg-type]


def test_the_command_line_takes_it_and_says_what_is_wrong(tmp_path: Path) -> None:
    pixels, path = helpers.drawn(1)[0], tmp_path / "a.png"
    path.write_bytes(pack_png(pixels))
    done = aez("compress", str(path), "--max-error", "4", "--json")
    assert done.exit_code == 0, done.output
    assert '"max_error": 4' in done.output
    assert farthest(pixels, api.decompress((tmp_path / "a.aez").read_bytes())) <= 4
    for wrong, said in (
        (["0"], "--lossless"),
        (["65"], "from 1 to 64"),
        (["-1"], "from 1 to 64"),
        (["4", "-q", "80"], "leave out -q"),
        (["4", "--lossless"], "leave out --lossless"),
        (["4", "--max-bytes", "80"], "leave out --max-error"),
    ):
        refused = aez("compress", str(path), "-f", "--max-error", *wrong)
        assert refused.exit_code == 2
        assert said in refused.output


@pytest.mark.usefixtures("shipped_lossless")
def test_a_model_that_has_learned_no_grids_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(pack_png(helpers.drawn(1)[0]))
    done = aez("compress", str(path), "--max-error", "4")
    assert "tiny0-lossless has learned no grids" in done.output


def test_only_models_that_coded_an_image_are_named_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if `generic-lossless` had learned no grids."""
    steps = registry.by_name("mnist", lossless=True).grid_steps
    none_of_generic = property(lambda model: [] if model.name.startswith("generic") else steps)
    monkeypatch.setattr(Pixels, "grid_steps", none_of_generic)
    path = tmp_path / "a.png"
    every, names = golden_tool.sources()
    path.write_bytes(pack_png(every[names.index("digits/3-medium.png")]))  # `auto`: by mnist
    for model, is_named in (("generic", True), ("mnist", False), ("auto", False)):
        done = aez("compress", str(path), "--max-error", "4", "-m", model, "-f")
        assert (done.exit_code, "no grids" in done.output) == (0, is_named)


# ---- qualities and goals


def fashion_like() -> np.ndarray:
    """What is good for the model: images that it has drawn."""
    return registry.by_name("fashion").encode(helpers.drawn(60), 90).pixels


def psnr_of(pixels: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    error = np.square(decoded - pixels.astype(float)).mean(axis=(1, 2))
    return 10 * np.log10(255**2 / np.maximum(error, 1e-9))


def test_every_quality_goes_on_from_the_one_before_to_a_largest_error_of_one() -> None:
    every, names = golden_tool.sources()
    pixels = every[[name.startswith("digits") for name in names]]
    sizes, psnr_db = [], []
    for quality in range(75, 100):
        stream = api.compress(pixels, quality=quality, model="mnist", effort=1, guard=False)
        decoded = api.decompress(stream)
        sizes.append(len(stream))
        psnr_db.append(float(psnr_of(pixels.reshape(1, -1, 28), decoded.reshape(1, -1, 28))[0]))
    assert farthest(pixels, decoded) == 1
    assert sizes == sorted(sizes)
    # these digits are not those that the figures on the card are of
    assert all(b > a - 0.1 for a, b in pairwise(psnr_db))
    assert psnr_db[-1] > psnr_db[0] + 15
    assert len(set(sizes)) > 10
    assert max(b / a for a, b in pairwise(sizes)) < 1.4  # no hole


def test_up_to_the_default_a_quality_is_a_row() -> None:
    figures = registry.by_name("fashion").figures
    assert codings(figures)[:76] == list(range(76))
    assert codings(figures)[99] == 129
    assert codings({"curve": figures["curve"]}) == list(range(100))
    assert codings({}) == list(range(100))


def test_a_quality_is_what_gives_most_for_its_bytes() -> None:
    """The bounds 2 and 8 are better than rows, 30 is not: 8 gives more in fewer bytes."""
    rows = [{"quality": q, "bytes": 10.0 * 1.04 ** (q - 75), "psnr_db": q / 3} for q in (0, 75, 99)]
    near = [
        {"max_error": 8, "bytes": 100.0, "psnr_db": 40.0},
        {"max_error": 2, "bytes": 1000.0, "psnr_db": 50.0},
        {"max_error": 30, "bytes": 300.0, "psnr_db": 39.0},
        {"max_error": 1, "bytes": "many", "psnr_db": 60.0},
    ]
    found = codings({"curve": rows, "near_lossless": near})
    assert set(found[76:]) <= {*range(76, 100), 130, 136}
    assert found[76:] == sorted(found[76:], key=lambda code: {136: 200, 130: 201}.get(code, code))
    assert found[99] == 130


@pytest.mark.parametrize("wanted", [30.0, 36.0, 42.0, 47.0, 60.0])
def test_a_limit_of_decibels_is_kept_in_no_more_bytes_than_without_loss(wanted: float) -> None:
    pixels = fashion_like()[:40]
    stream = api.compress(pixels, min_psnr=wanted, model="fashion")
    assert (psnr_of(pixels, api.decompress(stream)) >= wanted).all()
    assert len(stream) <= len(api.compress(pixels, lossless=True, model="fashion")) + 300


def test_a_limit_of_bytes_takes_the_finest_grid_that_fits() -> None:
    pixels = fashion_like()[:24]
    coder = registry.by_name("fashion", lossless=True)
    found = nearest(coder, pixels, AtMostBytes(60))
    assert 4 < found.kept.sum()
    for i, image in enumerate(pixels):
        tried = {}
        for step in coder.grid_steps:
            encoded = coder.encode(image[None], 128 + step // 2, group=1)
            psnr_db = psnr_of(image[None], encoded.pixels)[0]
            tried[128 + step // 2] = len(encoded.messages[0]), psnr_db
        quality, fits = found.quality[i], [q for q, (size, _) in tried.items() if size <= 60]
        assert found.kept[i] == bool(fits)
        if fits:
            assert quality in fits
            finer = max((q for q in tried if q < quality), default=quality)
            assert finer == quality or tried[finer][0] > 60 or tried[finer][1] <= tried[quality][1]


def test_goals_use_bounds_where_they_take_fewer_bytes() -> None:
    pixels = fashion_like()[:40]
    qualities = api.info(api.compress(pixels, min_psnr=42, model="fashion")).qualities
    assert any(quality > 128 for quality in qualities)
    qualities = api.info(api.compress(pixels, max_bytes=110, model="fashion")).qualities
    assert any(quality > 128 for quality in qualities)


def test_an_image_that_fits_at_no_quality_is_refused_with_its_fewest_bytes() -> None:
    with pytest.raises(ImageError, match=r"takes \d+ bytes even at quality 0; max_bytes"):
        api.compress(helpers.drawn(1)[0], max_bytes=1, model="mnist")


@pytest.mark.parametrize(
    "figures",
    [
        {"curve": [{"quality": 0, "bytes": 0.0}, {"quality": 99, "bytes": 9.0}]},
        {"curve": [{"quality": 0, "bytes": 2.0}, {"quality": 99, "bytes": 9.0}]},
        {"curve": [{"quality": q, "bytes": -1.0, "psnr_db": 9.0} for q in (0, 99)]},
    ],
)
def test_a_card_with_wrong_figures_leaves_the_rows(figures: dict[str, object]) -> None:
    near = [{"max_error": 1, "bytes": b, "psnr_db": 50.0} for b in (0.0, 100.0)]
    assert codings({**figures, "near_lossless": near}) == list(range(100))
