"""Which model codes an image, and what becomes of images that no model knows."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import golden_tool
import helpers
import numpy as np
import pytest
from typer.testing import CliRunner

import codec
from codec import api
from codec.cli.app import app
from codec.collection.writer import Writer
from codec.commands import work
from codec.commands.processes import spread
from codec.commands.work import BlockTask
from codec.encoder import choose, goal
from codec.encoder.choose import Sampling, floor_db
from codec.encoder.draft import Draft
from codec.encoder.encode import Encoder, candidates
from codec.encoder.options import DEFAULT_EFFORT, Options
from codec.encoder.search import search
from codec.encoder.stats import MAX_LISTED, CompressStats
from codec.errors import ImageError
from codec.files import images
from codec.format.block import pack_block
from codec.format.constants import STORED_QUALITY
from codec.format.headers import unpack_block_header
from codec.format.index import Part
from codec.model import card, registry
from codec.model.ladder import Ladder

Foreign = Callable[[], np.ndarray]


def examples(folder: str) -> np.ndarray:
    pixels, names = golden_tool.sources()
    return pixels[[name.startswith(folder) for name in names]]


def checkerboards() -> np.ndarray:
    y, x = np.mgrid[0:28, 0:28]
    return np.stack(
        [((y + p) // p + (x + k) // p) % 2 * 255 for k, p in enumerate((1, 2, 3, 5, 7, 10))]
    ).astype(np.uint8)


def crops() -> np.ndarray:
    """Windows that straddle two drawings."""
    rng, pixels = np.random.default_rng(3), golden_tool.sources()[0]
    pairs = [np.concatenate(pixels[rng.integers(len(pixels), size=2)], axis=1) for _ in range(8)]
    return np.stack(
        [pair[:, at : at + 28] for pair, at in zip(pairs, rng.integers(0, 29, 8), strict=True)]
    )


FOREIGN: dict[str, Foreign] = {
    "inverted digits": lambda: 255 - examples("digits/")[:6],
    "checkerboards": checkerboards,
    "crops": crops,
    "noise": lambda: np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8),
}


# ---- the guard, with the shipped models


@pytest.mark.parametrize(("quality", "model"), [(20, "auto"), (75, "auto"), (75, "mnist")])
@pytest.mark.parametrize("kind", FOREIGN)
def test_what_no_model_knows_comes_out_as_its_quality_promises_or_falls_back(
    kind: str, quality: int, model: str
) -> None:
    pixels = FOREIGN[kind]()
    models = candidates(Options(quality, model))
    promised = min(floor for one in models if (floor := floor_db(models, one, quality)) is not None)
    file = io.BytesIO()
    with api.CollectionWriter(file, quality=quality, model=model, effort=1) as writer:
        writer.write(pixels)
    decoded = codec.decompress(file.getvalue())
    assert (goal.image_psnr_db(pixels, decoded) >= promised).all()
    with codec.open(file.getvalue()) as collection:
        others = {
            i
            for part in collection.blocks[0].parts
            if part.quality != quality
            for i in part.images.tolist()
        }
    assert others == set(writer.stats.fallback_images)
    assert sum(writer.stats.fallback.values()) == len(others)
    if model != "auto":  # there `generic` may know what the others do not
        unguarded = codec.decompress(
            codec.compress(pixels, quality=quality, model=model, effort=1, guard=False)
        )
        assert others
        assert (goal.image_psnr_db(pixels, unguarded) < promised).any()
    pixels = pixels[:2]
    streams, stats = api.compress_images(pixels, quality=quality, model=model, effort=1)
    for image, stream in zip(pixels, streams, strict=True):
        assert goal.image_psnr_db(image[None], codec.decompress(stream)[None])[0] >= promised
    assert stats.fallback_images == [i for i, stream in enumerate(streams) if stream[4] != quality]


def test_images_that_fall_back_do_not_change_how_the_others_of_their_block_are_coded() -> None:
    pixels = np.concatenate(
        [examples("digits/")[:20], FOREIGN["noise"](), examples("digits/")[20:]]
    )
    stream = codec.compress(
        pixels, quality=50, model="mnist", names=[str(i) for i in range(len(pixels))]
    )
    with codec.open(stream) as collection:
        first = collection.blocks[0].parts[0]
        assert first.quality == 50
        assert len(first.images) > 20
        assert not set(first.images) & set(range(20, 24))
        encoded = registry.by_name("mnist").encode(pixels[first.images], 50, effort=DEFAULT_EFFORT)
        np.testing.assert_array_equal(collection[first.images.tolist()], encoded.pixels)
        assert collection.names == [str(i) for i in range(len(pixels))]


def test_streams_do_not_depend_on_who_made_the_blocks_when_images_fall_back() -> None:
    pixels = np.concatenate([examples("digits/")[:6], crops()[:4]])
    refs = tuple(work.model_ref(model) for model in candidates(Options(40)))
    tasks = [
        BlockTask(np.roll(pixels, k, axis=0), (), None, Options(40, effort=1), refs)
        for k in range(4)
    ]
    alone, together = (
        [r.block for r in spread(work.encode_block, tasks, jobs, len(tasks))] for jobs in (1, 2)
    )
    assert alone == together
    assert any(unpack_block_header(block).has_parts for block in alone)


def test_a_higher_effort_keeps_the_promise_too() -> None:
    pixels = crops()
    models = candidates(Options(60))
    promised = min(floor for one in models if (floor := floor_db(models, one, 60)) is not None)
    decoded = codec.decompress(codec.compress(pixels, quality=60, effort=4))
    assert (goal.image_psnr_db(pixels, decoded) >= promised).all()


def test_the_json_says_which_images_fell_back_and_to_what(tmp_path: Path) -> None:
    pixels = np.concatenate([examples("digits/")[:3], FOREIGN["noise"]()[:2]])
    for i, image in enumerate(pixels):
        (tmp_path / f"{i}.png").write_bytes(images.pack_png(image))
    args = [
        "compress",
        str(tmp_path),
        "-o",
        str(tmp_path / "x.aez"),
        "-q",
        "75",
        "-e",
        "1",
        "-m",
        "mnist",
    ]
    said = json.loads(CliRunner().invoke(app, [*args, "--json"]).stdout)
    assert set(said["fallback_images"]) >= {3, 4}
    assert sum(said["fallback"].values()) == len(said["fallback_images"])
    assert any("lossless" in what for what in said["fallback"])
    assert sum(said["models"].values()) == sum(said["qualities"].values()) == 5
    assert said["qualities"]["100"] >= 2
    assert "fell back" in CliRunner().invoke(app, [*args, "-f"]).output
    unguarded = json.loads(CliRunner().invoke(app, [*args, "--no-guard", "-f", "--json"]).stdout)
    assert (unguarded["fallback"], unguarded["fallback_images"], unguarded["models"]) == (
        {},
        [],
        {"mnist": 5},
    )


# ---- the promise


def carded(curve: object, name: str = "tiny0", seed: int = 0) -> Ladder:
    """A tiny model whose card has a curve."""
    return helpers.model_of(helpers.tiny_tensors(seed), {"name": name, "figures": {"curve": curve}})


LINE = [
    {"quality": 0, "psnr_db": 10.0},
    {"quality": 50, "psnr_db": 20.0},
    {"quality": 99, "psnr_db": 30.0},
]


def test_the_promise_lies_on_the_curve_in_the_card() -> None:
    model = carded(LINE[::-1])
    assert card.psnr_db(model.figures, 25) == 15.0
    assert card.psnr_db(model.figures, 99) == 30.0
    assert floor_db([model], model, 25) == 12.0


@pytest.mark.parametrize(
    "curve",
    [
        None,
        [],
        7,
        [{}],
        [3, None],
        [{"quality": 0, "psnr_db": None}, {"quality": "x", "psnr_db": 3}],
        [{"quality": 5, "psnr_db": 10}],
        {"quality": [], "psnr_db": []},
    ],
    ids=str,
)
def test_a_model_whose_card_says_nothing_has_no_guard(curve: object) -> None:
    model = carded(curve)
    assert card.psnr_db(model.figures, 50) is None
    assert floor_db([model], model, 50) is None
    pixels = helpers.drawn(24)
    block, stats = Encoder(Options(40, effort=2), [model]).block(pixels)
    encoded = model.encode(pixels, 40, effort=2)
    part = Part(model.hash, 40, np.arange(24))
    assert block == pack_block([(part, encoded.messages)], None)
    assert (stats.fallback, stats.fallback_images) == ({}, [])


def test_every_shipped_lossy_model_says_what_it_gives() -> None:
    for model in registry.shipped():
        curve = [card.psnr_db(model.figures, quality) for quality in range(100)]
        assert None not in curve
        assert curve == sorted(curve)  # type: ignore[type-var]


def test_a_generic_model_is_measured_by_the_others_it_was_chosen_among() -> None:
    high, low = (
        carded(LINE),
        carded([{**row, "psnr_db": row["psnr_db"] - 4} for row in LINE], seed=1),
    )
    generic = carded([{**row, "psnr_db": 5.0} for row in LINE], registry.GENERIC, seed=2)
    models = [high, low, generic]
    assert [floor_db(models, model, 50) for model in models] == [17.0, 13.0, 13.0]
    assert floor_db([generic], generic, 50) == 2.0


@pytest.mark.usefixtures("shipped_lossless")
def test_only_images_below_the_promise_fall_back_and_to_the_least_that_keeps_it() -> None:
    pixels = helpers.drawn(32)
    psnr_db = goal.image_psnr_db(pixels, helpers.tiny_model().encode(pixels, 50).pixels)
    floor = float(np.sort(psnr_db)[10])
    model = carded([{"quality": q, "psnr_db": floor + choose.GUARD_DB} for q in (0, 99)])
    file = io.BytesIO()
    block, stats = Encoder(Options(50, effort=1), [model]).block(pixels)
    writer = Writer(file)
    writer.write(block, 32)
    writer.finish()
    assert stats.fallback_images == np.flatnonzero(psnr_db < floor).tolist()
    step = choose.FALLBACK_STEP
    # 50 is tried already
    found = search(model, pixels, goal.AtLeastPsnr(floor), 50, step=step)
    with codec.open(file.getvalue()) as collection:
        parts = collection.blocks[0].parts
    for part in parts[1:]:
        for i in part.images.tolist():
            if part.quality != 100:
                assert part.quality == found.quality[i]
            else:
                assert not found.kept[i] or found.num_bytes[i] > choose.LOSSLESS_BYTES
    assert {50, 100} <= {part.quality for part in parts}


def test_without_loss_is_tried_where_it_may_take_fewer_bytes() -> None:
    """zlib makes of noise more than 784 bytes, 45 % of which are 353 and more, and of a black image
    a dozen.
    """
    noise = np.random.default_rng(0).integers(0, 256, (2, 28, 28)).astype(np.uint8)
    pixels = np.concatenate([noise, np.zeros((2, 28, 28), np.uint8)])
    draft = Draft.blank(pixels, [])
    draft.num_bytes = np.array([350, 380, 64, 65])
    assert choose._large(draft).tolist() == [False, True, False, True]


def test_without_a_lossless_model_a_single_image_is_stored_and_a_block_is_an_error_that_names_it(
    shipped: Ladder,
) -> None:
    model = carded([{"quality": q, "psnr_db": 90.0} for q in (0, 99)], "orphan")
    encoder = Encoder(Options(50), [model])
    ((stream, stats),) = encoder.images(helpers.drawn(1))
    assert stream[4] == STORED_QUALITY
    assert stats.fallback == {"stored": 1}
    with pytest.raises(ImageError, match=r"^seven: .*no lossless model"):
        encoder.block(helpers.drawn(1), ["seven"])
    assert shipped.card


# ---- auto


def costs_of(models: list[Ladder], pixels: np.ndarray, quality: int) -> np.ndarray:
    encoded = [model.encode(pixels, quality, group=1) for model in models]
    return np.array([choose.costs(pixels, one.pixels, one.messages, quality) for one in encoded])


def test_auto_takes_for_each_image_of_a_mixed_block_the_model_with_the_lower_cost(
    two_shipped: list[Ladder],
) -> None:
    pixels = helpers.drawn(40)
    cheaper = costs_of(two_shipped, pixels, 45).argmin(axis=0)
    assert 0.05 < cheaper.mean() < 0.95
    # the tiny models differ by less than what is worth a second look
    encoder, file = Encoder(Options(45), sampling=Sampling(agreed=0.0)), io.BytesIO()
    writer = Writer(file)
    writer.write(encoder.block(pixels).data, 40)
    writer.finish()
    with codec.open(file.getvalue()) as collection:
        parts = collection.blocks[0].parts
        decoded = collection[:]
    assert len(parts) == 2
    for part in parts:
        k = [model.hash for model in two_shipped].index(part.model_hash)
        np.testing.assert_array_equal(part.images, np.flatnonzero(cheaper == k))
        alone = two_shipped[k].encode(pixels[part.images], 45, effort=DEFAULT_EFFORT)
        np.testing.assert_array_equal(decoded[part.images], alone.pixels)


def test_auto_takes_one_model_for_a_block_of_which_few_images_prefer_another(
    two_shipped: list[Ladder],
) -> None:
    pixels = helpers.drawn(40)
    cheaper = costs_of(two_shipped, pixels, 45).argmin(axis=0)
    kind = int(cheaper.mean() > 0.5)
    alike, other = pixels[cheaper == kind], pixels[cheaper != kind]
    many = np.concatenate([np.resize(alike, (60, 28, 28)), other[:1]])
    stats = Encoder(Options(45, effort=1), two_shipped).block(many).stats
    assert stats.models == {f"tiny{kind}": 61}


def test_a_model_that_none_of_a_sample_prefers_is_not_asked_about_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # of equal costs the first model has the image
    models = [carded(None), carded(None, "tiny1", 1), carded(None, "twin")]
    asked = dict.fromkeys((model.name for model in models), 0)
    analyze = Ladder.analyze

    def counting(model: Ladder, pixels: np.ndarray, quality: int, effort: int = 1) -> object:
        asked[model.name] += len(pixels)
        return analyze(model, pixels, quality, effort)

    monkeypatch.setattr(Ladder, "analyze", counting)
    # the tiny models differ by less than what is worth a second look
    sampling = Sampling(least=64, most=64, agreed=0.0)
    many = np.resize(helpers.drawn(40), (120, 28, 28))
    stats = Encoder(Options(45, effort=1), models, sampling).block(many).stats
    assert stats.models.keys() == {"tiny0", "tiny1"}
    assert asked == {"tiny0": 64 + 120, "tiny1": 64 + 120, "twin": 64}


def test_stats_add_up_with_the_numbers_of_images_that_fell_back() -> None:
    one = CompressStats(images=5, fallback={"a q9": 2}, fallback_images=[1, 4])
    one += CompressStats(images=3, fallback={"a q9": 1, "stored": 1}, fallback_images=[0, 2])
    assert one.fallback == {"a q9": 3, "stored": 1}
    assert one.fallback_images == [1, 4, 5, 7]
    many = CompressStats(images=MAX_LISTED + 9, fallback_images=list(range(MAX_LISTED)))
    many += one
    assert many.fallback_images == list(range(MAX_LISTED))
