"""-q, --max-bytes and --min-psnr: what they promise holds for every image, as decoded."""

from __future__ import annotations

import io
import json
from pathlib import Path

import golden_tool
import helpers
import numpy as np
import pytest
from typer.testing import CliRunner

import codec
from codec import api, metrics
from codec.cli.app import app
from codec.encoder import goal
from codec.encoder.goal import AtLeastPsnr, AtMostBytes, Goal
from codec.encoder.options import DEFAULT_EFFORT
from codec.encoder.search import refine, search
from codec.errors import ImageError, UsageError
from codec.files import images
from codec.format.constants import STORED_QUALITY
from codec.format.headers import unpack_image_header
from codec.model import registry
from codec.model.bundle import unpack_bundle
from codec.model.ladder import Ladder
from codec.model.ladder_symbols import LadderSymbols
from codec.train.lossy.export import pack_encoder

LOSSY = [
    model_hash
    for model_hash in registry.MODEL_IDS.values()
    if "lossless" not in (registry.path_of(bytes.fromhex(model_hash)) or Path("lossless")).name
]


def psnr_of(pixels: np.ndarray, decoded: np.ndarray) -> float:
    error = metrics.psnr_db(metrics.squared_error(pixels, decoded), pixels.size)
    return float("inf") if error is None else error


def payload_bytes(stream: bytes) -> int:
    _, offset = unpack_image_header(stream)
    return len(stream) - offset


def size_at(model: Ladder, image: np.ndarray, quality: int) -> int:
    return len(model.encode(image[None], quality, group=1).messages[0])


# ---- -q


@pytest.mark.parametrize("model_hash", LOSSY)
def test_every_step_of_quality_costs_bytes_and_gains_psnr_with_each_shipped_model(
    model_hash: str,
) -> None:
    """On example images, for the model of digits on the digits among them: on what it does not
    know, it need not.
    """
    model = registry.by_hash(bytes.fromhex(model_hash))
    pixels, names = golden_tool.sources()
    if model.name.startswith("mnist"):
        pixels = pixels[[name.startswith("digits/") for name in names]]
    assert len(pixels) >= 16
    sizes, psnrs = [], []
    for quality in range(0, 100, 5):
        encoded = model.encode(pixels, quality)
        sizes.append(encoded.ideal_bits / 8 / len(pixels))
        psnrs.append(psnr_of(pixels, encoded.pixels))
    assert (np.diff(sizes) > 0).all()
    assert (np.diff(psnrs) > 0).all()
    assert max(np.diff(np.log2(sizes))) < 0.75  # smooth: no step of five costs two thirds more
    assert max(np.diff(psnrs)) < 2


# ---- --max-bytes


@pytest.mark.parametrize("max_bytes", [30, 45, 80])
def test_max_bytes_holds_for_every_image_and_the_next_quality_would_not_fit(
    shipped: Ladder, max_bytes: int
) -> None:
    pixels = helpers.drawn(24)
    fitting = pixels[[size_at(shipped, image, 0) <= max_bytes for image in pixels]]
    assert len(fitting) >= 8
    streams, stats = api.compress_images(fitting, max_bytes=max_bytes)
    qualities = [stream[4] for stream in streams]
    for image, stream, quality in zip(fitting, streams, qualities, strict=True):
        assert payload_bytes(stream) <= max_bytes
        assert quality == 99 or size_at(shipped, image, quality + 1) > max_bytes
    assert stats.qualities == {str(q): qualities.count(q) for q in set(qualities)}
    assert stats.payload_bytes == sum(map(payload_bytes, streams))


def test_an_image_that_does_not_fit_at_quality_0_is_an_error_that_names_it(shipped: Ladder) -> None:
    pixels = helpers.drawn(8)
    sizes = [size_at(shipped, image, 0) for image in pixels]
    worst = int(np.argmax(sizes))
    limit = max(size for i, size in enumerate(sizes) if i != worst)
    assert limit < sizes[worst]
    message = f"takes {sizes[worst]} bytes even at quality 0; max_bytes allows {limit}"
    with pytest.raises(ImageError, match=f"image {worst}: {message}"):
        codec.compress(pixels, max_bytes=limit)
    with pytest.raises(ImageError, match=f"image {worst}: {message}"):
        api.compress_images(pixels, max_bytes=limit)
    with pytest.raises(ImageError, match=f"^{message}"):
        codec.compress(pixels[worst], max_bytes=limit)
    with pytest.raises(ImageError, match=f"name{worst}: {message}"):
        codec.compress(pixels, max_bytes=limit, names=[f"name{i}" for i in range(8)])
    streams = api.compress_images(np.delete(pixels, worst, 0), max_bytes=limit)[0]
    assert max(map(payload_bytes, streams)) == limit


@pytest.mark.parametrize(
    "options", [{"max_bytes": 40}, {"max_bytes": 40, "effort": 3}, {"min_psnr": 0}], ids=str
)
def test_images_of_a_collection_have_the_quality_that_each_would_have_as_a_file(
    shipped_lossless: object, options: dict[str, float]
) -> None:
    pixels = helpers.drawn(24)
    if "min_psnr" in options:
        reached = goal.image_psnr_db(pixels, helpers.tiny_model().encode(pixels, 60).pixels)
        options = {"min_psnr": float(np.median(reached))}
    singles = [codec.compress(image, **options) for image in pixels]  # type: ignore[arg-type]
    stream = codec.compress(pixels, **options)  # type: ignore[arg-type]
    with codec.open(stream) as collection:
        parts = collection.blocks[0].parts
        qualities = np.empty(24, int)
        for part in parts:
            qualities[part.images] = part.quality
        assert len(parts) > 4
        for image, quality, single in zip(collection, qualities.tolist(), singles, strict=True):
            np.testing.assert_array_equal(image, codec.decompress(single))
            assert quality == min(single[4], 100)  # 101: stored, which in a collection is lossless


# ---- --min-psnr


@pytest.mark.parametrize("effort", [1, 4])
def test_min_psnr_holds_for_every_image(shipped: Ladder, effort: int) -> None:
    pixels = helpers.drawn(24)
    reached = sorted(psnr_of(image, shipped.encode(image[None], 60).pixels[0]) for image in pixels)
    wanted = reached[12]
    streams, stats = api.compress_images(pixels, min_psnr=wanted, effort=effort)
    for image, stream in zip(pixels, streams, strict=True):
        decoded = codec.decompress(stream)
        assert psnr_of(image, decoded) >= wanted
        if stream[4] == STORED_QUALITY:
            np.testing.assert_array_equal(decoded, image)
    assert len(stats.models) > 1
    assert stats.models["tiny0"] > 5  # both happen: the tiny model knows these images badly
    assert sum(stats.qualities.values()) == 24


def test_min_psnr_takes_no_more_quality_than_it_needs(shipped: Ladder) -> None:
    pixels = helpers.drawn(24)
    wanted = 5.35  # the tiny model gives hardly more
    found = search(shipped, pixels, AtLeastPsnr(wanted))
    for quality, psnr_db, kept, image in zip(
        found.quality.tolist(), found.psnr_db, found.kept, pixels, strict=True
    ):
        assert psnr_db == pytest.approx(
            psnr_of(image, shipped.encode(image[None], quality).pixels[0])
        )
        assert kept == (psnr_db >= wanted)
        assert (
            quality in (0, 99)
            or psnr_of(image, shipped.encode(image[None], quality - 1).pixels[0]) < wanted
        )
    assert len(np.unique(found.quality)) > 4


def test_min_psnr_beyond_the_lossy_range_falls_back_to_lossless(shipped_lossless: object) -> None:
    pixels = helpers.drawn(10)
    single, stats = api.compress_image(pixels[0], min_psnr=150)
    np.testing.assert_array_equal(codec.decompress(single), pixels[0])
    assert stats.models.keys() <= {"tiny0-lossless", "stored"}
    stream = codec.compress(pixels, min_psnr=150)
    assert api.info(stream).lossless
    np.testing.assert_array_equal(codec.decompress(stream), pixels)


def test_one_image_that_needs_lossless_leaves_the_others_of_its_block_lossy(
    shipped_lossless: object,
) -> None:
    pixels = helpers.drawn(24)
    reached = np.sort(
        [psnr_of(image, helpers.tiny_model().encode(image[None], 60).pixels[0]) for image in pixels]
    )
    stream = codec.compress(pixels, min_psnr=float(reached[12]))
    with codec.open(stream) as collection:
        assert {100} < {part.quality for part in collection.blocks[0].parts}
        assert all(psnr_of(a, b) >= reached[12] for a, b in zip(pixels, collection, strict=True))


# ---- the search


def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(model, quality) of every image that goes through a network from now on."""
    calls: list[tuple[str, int]] = []
    analyze = Ladder.analyze

    def counting(
        model: Ladder, pixels: np.ndarray, quality: int | np.ndarray, effort: int = 1
    ) -> LadderSymbols:
        calls.extend((model.name, int(q)) for q in np.broadcast_to(quality, len(pixels)))
        return analyze(model, pixels, quality, effort)

    monkeypatch.setattr(Ladder, "analyze", counting)
    return calls


@pytest.mark.parametrize(
    "aim", [AtMostBytes(12), AtMostBytes(25), AtLeastPsnr(24), AtLeastPsnr(30)], ids=str
)
def test_a_search_takes_four_to_five_tries_an_image(
    monkeypatch: pytest.MonkeyPatch, aim: Goal
) -> None:
    pixels, names = golden_tool.sources()
    pixels = pixels[[name.startswith("digits/") for name in names]]
    calls = counted(monkeypatch)
    found = search(registry.by_name("mnist"), pixels, aim)
    assert found.kept.mean() > 0.9
    assert len(np.unique(found.quality)) > 5
    assert len(calls) < 4.75 * len(pixels)


def test_what_was_seen_to_choose_a_model_is_not_encoded_again(
    two_shipped: list[Ladder], monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = helpers.drawn(40)
    limit = max(size_at(model, image, 0) for model in two_shipped for image in pixels)
    calls = counted(monkeypatch)
    codec.compress(pixels, max_bytes=limit)
    first = AtMostBytes(limit).first_quality(two_shipped)
    assert [sum(call == (model.name, first) for call in calls) for model in two_shipped] == [40, 40]
    assert len(calls) > 120


def line(figure: str, low: float, high: float) -> list[dict[str, float]]:
    return [{"quality": 0, figure: low}, {"quality": 99, figure: high}]


def carded(curve: list[dict[str, float]]) -> Ladder:
    return helpers.model_of(helpers.tiny_tensors(), {"name": "tiny0", "figures": {"curve": curve}})


def test_the_first_try_is_where_the_curve_in_the_card_meets_the_target() -> None:
    half = carded([*line("psnr_db", 10, 30), {"quality": 40, "psnr_db": 25}])
    assert AtLeastPsnr(25).first_quality([half]) == 40
    assert AtLeastPsnr(17.5).first_quality([half]) == 20
    assert AtLeastPsnr(77).first_quality([half]) == 99
    # the card says nothing of bytes
    assert AtMostBytes(9).first_quality([half]) == goal.FIRST_QUALITY
    others = [carded(line("bytes", 3, 5)), half, carded(line("bytes", 20, 30))]
    assert AtMostBytes(9).first_quality(others) == 50
    # octaves of bits
    assert AtMostBytes(63).first_quality([carded(line("bytes", 7, 255))]) in range(59, 61)


@pytest.mark.parametrize(
    "curve",
    [
        line("bytes", 50, 2) + line("psnr_db", 30, 3),
        line("bytes", 1e308, -1e308) + line("psnr_db", -1e308, 1e308),
        line("bytes", 9, 9) + line("psnr_db", 9, 9),
        [{"quality": -1e308, "bytes": 0}, {"quality": 1e308, "bytes": 1e-300}],
    ],
    ids=["falling", "huge", "flat", "far"],
)
@pytest.mark.parametrize(
    "aim",
    [AtMostBytes(40), AtLeastPsnr(5.35), AtMostBytes(10**30), AtLeastPsnr(150)],
    ids=str,
)
def test_a_curve_that_misleads_costs_tries_but_no_promise(
    curve: list[dict[str, float]], aim: Goal
) -> None:
    pixels = helpers.drawn(16)
    misled, model = carded(curve), helpers.tiny_model()
    found = search(misled, pixels, aim)
    step = 1 if aim.broken_above else -1
    for image, quality, kept in zip(
        pixels, found.quality.tolist(), found.kept.tolist(), strict=True
    ):
        next_one = model.encode(
            image[None], min(max(quality + step * (1 if kept else -1), 0), 99), group=1
        )
        here = model.encode(image[None], quality, group=1)
        holds = [
            bool(
                aim.holds(
                    np.array([len(e.messages[0])]), goal.image_psnr_db(image[None], e.pixels)
                )[0]
            )
            for e in (here, next_one)
        ]
        assert holds[0] == kept
        assert quality in (0, 99) or holds == [True, False]
    assert aim == AtLeastPsnr(150) or found.kept.sum() > 8


@pytest.mark.parametrize("step", [1, 3, 7])
def test_a_coarse_search_finds_the_first_of_its_grid_that_reaches_the_target(step: int) -> None:
    model, pixels = helpers.tiny_model(), helpers.drawn(12)
    grid = [q for q in range(100) if (99 - q) % step == 0]
    every = [goal.image_psnr_db(pixels, model.analyze(pixels, q).pixels) for q in grid]
    wanted = float(np.median(every))
    found = search(model, pixels, AtLeastPsnr(wanted), first=grid[3], step=step)
    assert found.kept.sum() > 8
    assert len(set(found.quality.tolist())) > 2
    for i, (quality, kept) in enumerate(
        zip(found.quality.tolist(), found.kept.tolist(), strict=True)
    ):
        at = grid.index(quality)
        assert kept == (every[at][i] >= wanted)
        assert at == 0 or not kept or every[at - 1][i] < wanted


def test_the_figures_of_a_model_are_those_of_its_encoder_once_that_is_trained_anew() -> None:
    model = carded(line("psnr_db", 10, 30))
    assert AtLeastPsnr(19.9).first_quality([model]) == 49  # nothing of its own
    assert AtLeastPsnr(19.9).first_quality([Ladder(model.stream)]) == 49  # no encoder
    figures = {"curve": line("psnr_db", 20, 69.5)}
    _, tensors, card = unpack_bundle(model.encoder.stream)
    del card["model_hash"]
    encoder = pack_encoder(tensors, model.stream, {**card, "figures": figures})
    better = Ladder(model.stream, encoder)
    assert better.figures == figures
    assert better.hash == model.hash
    assert AtLeastPsnr(30).first_quality([better]) == 20
    assert (
        Ladder(model.stream, pack_encoder(tensors, model.stream, {**card, "figures": 3})).figures
        == model.figures
    )


# ---- effort and requests


def test_effort_with_a_target_keeps_the_promise_and_is_no_worse(shipped: Ladder) -> None:
    pixels = helpers.drawn(24)[[size_at(shipped, image, 0) <= 60 for image in helpers.drawn(24)]]
    one = search(shipped, pixels, AtMostBytes(60))
    more = search(shipped, pixels, AtMostBytes(60))
    refine(more, np.arange(len(pixels)), AtMostBytes(60), 4)
    assert more.kept.all()
    assert (more.num_bytes <= 60).all()
    assert (more.psnr_db >= one.psnr_db).all()
    assert (more.psnr_db > one.psnr_db).any()


def test_more_effort_makes_other_streams_that_decode(shipped: Ladder) -> None:
    pixels = helpers.drawn(20)
    efforts = (1, DEFAULT_EFFORT, DEFAULT_EFFORT + 1, None)
    one, usual, more, default = (
        codec.compress(pixels, quality=40, effort=effort) for effort in efforts
    )
    assert default == usual
    assert len({one, usual, more}) == 3
    for stream in (one, usual, more):
        assert codec.decompress(stream).shape == pixels.shape


@pytest.mark.parametrize(
    "options",
    [
        {"max_bytes": 9, "min_psnr": 30},
        {"max_bytes": 9, "quality": 50},
        {"min_psnr": 30, "lossless": True},
        {"max_bytes": -1},
        {"min_psnr": -1},
        {"min_psnr": float("nan")},
        {"effort": 0},
        {"effort": 10},
        {"effort": 2.5},
    ],
    ids=str,
)
def test_requests_that_contradict_themselves_are_refused(
    shipped: Ladder, options: dict[str, object]
) -> None:
    with pytest.raises(UsageError):
        codec.compress(helpers.drawn(2), **options)  # type: ignore[arg-type]


def test_a_model_to_be_embedded_excludes_min_psnr(shipped: Ladder) -> None:
    with pytest.raises(UsageError, match="lossless"):
        codec.compress(helpers.drawn(2), min_psnr=20, embed_model=True)


def test_the_command_line_searches_each_file_and_reports_qualities(
    shipped: Ladder, tmp_path: Path
) -> None:
    pixels = helpers.drawn(8)
    sizes = [size_at(shipped, image, 0) for image in pixels]
    limit = sorted(sizes)[-2]
    for i, image in enumerate(pixels):
        (tmp_path / f"{i}.png").write_bytes(images.pack_png(image))
    args = [
        "compress",
        *(str(tmp_path / f"{i}.png") for i in range(8)),
        "--max-bytes",
        str(limit),
        "--json",
        "-e",
        "1",
    ]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 3
    figures = json.loads(result.stdout)
    worst = int(np.argmax(sizes))
    assert [failed["name"] for failed in figures["failed"]] == [str(tmp_path / f"{worst}.png")]
    assert f"max_bytes allows {limit}" in figures["failed"][0]["reason"]
    assert sum(figures["qualities"].values()) == 7
    for i in set(range(8)) - {worst}:
        stream = (tmp_path / f"{i}.aez").read_bytes()
        assert payload_bytes(stream) <= limit
        assert str(stream[4]) in figures["qualities"]


def test_parts_of_a_collection_have_the_quality_that_each_needs(shipped: Ladder) -> None:
    pixels = helpers.drawn(16)[[4, 4, 4, 4, 0, 5, 6, 7]]  # four blank ones, four of strokes
    limit = max(size_at(shipped, image, 0) for image in pixels)
    file = io.BytesIO()
    with api.CollectionWriter(file, max_bytes=limit, effort=1, block_images=4) as writer:
        writer.write(pixels)
    with codec.open(file.getvalue()) as collection:
        parts = [part for block in range(2) for part in collection.blocks[block].parts]
    assert len(parts) > 2
    assert len(parts[0].images) == 4  # blank, all alike
    qualities = {
        str(q): sum(len(part.images) for part in parts if part.quality == q)
        for q in {part.quality for part in parts}
    }
    assert writer.stats.qualities == qualities
