"""Coders, the draft that the encoder fills in, and the options."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest

import codec
from codec.encoder.choose import GUARD_DB
from codec.encoder.draft import Draft, pack
from codec.encoder.encode import Encoder
from codec.encoder.goal import AtLeastPsnr, AtMostBytes, image_psnr_db
from codec.encoder.options import Choices, Options
from codec.encoder.search import better
from codec.errors import CorruptPayload, ImageError, UsageError
from codec.format.headers import unpack_image_header
from codec.model.base import Coder
from codec.model.ladder import Ladder
from codec.model.pixels import Pixels
from codec.model.stored import STORED, stored_bytes

CODERS: dict[str, tuple[Coder, int]] = {
    "ladder": (helpers.tiny_model(), 40),
    "pixels": (helpers.tiny_pixel_model(), 100),
}


def mixed(count: int) -> np.ndarray:
    """Drawings, and noise, which a lossless model stores."""
    noise = np.random.default_rng(1).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    pixels = helpers.drawn(count).copy()
    pixels[::5] = noise[::5]
    return pixels


# ---- coders


@pytest.mark.parametrize("group", [1, 5, 16])
@pytest.mark.parametrize("name", CODERS)
def test_symbols_found_once_give_the_messages_of_every_group(name: str, group: int) -> None:
    coder, quality = CODERS[name]
    pixels = mixed(37)
    symbols = coder.analyze(pixels, quality)
    messages = coder.pack(symbols, group)
    assert messages == coder.encode(pixels, quality, group=group).messages
    decoded, damaged = coder.decode(messages, 37, quality, group=group)
    np.testing.assert_array_equal(decoded, symbols.pixels)
    assert not damaged.any()


@pytest.mark.parametrize("name", [*CODERS, "stored"])
def test_symbols_can_be_picked_and_joined_as_the_images_can(name: str) -> None:
    coder, quality = CODERS.get(name, (STORED, 101))
    pixels, order = mixed(20), np.array([3, 19, 0, 5, 5, 10])
    first, second = coder.analyze(pixels[:8], quality), coder.analyze(pixels[8:], quality)
    picked = type(first).join([first, second]).of(order)
    wanted = coder.analyze(pixels[order], quality)
    assert coder.pack(picked, 1) == coder.pack(wanted, 1)
    assert coder.ideal_bits(picked) == coder.ideal_bits(wanted)
    np.testing.assert_array_equal(picked.pixels, wanted.pixels)


def test_a_stored_image_is_its_bytes_and_comes_back() -> None:
    pixels = mixed(10)
    messages = STORED.pack(STORED.analyze(pixels, 101))
    assert messages == [stored_bytes(image) for image in pixels]
    decoded, damaged = STORED.decode([*messages, b"", bytes(785)], 12, 101)
    np.testing.assert_array_equal(decoded[:10], pixels)
    assert damaged.tolist() == 10 * [False] + 2 * [True]
    STORED.check_quality(101, 0)
    with pytest.raises(CorruptPayload):
        STORED.check_quality(100, 4)
    with pytest.raises(UsageError, match="this is a stored image, and only lossy streams"):
        STORED.decode_latents(messages, 10, 101)


def test_a_coder_that_has_no_latents_says_so() -> None:
    with pytest.raises(UsageError, match="tiny0-lossless is lossless, and only lossy streams"):
        helpers.tiny_pixel_model().decode_latents([b""], 1, 100)


# ---- the draft


def draft_of(coder: list[int], quality: list[int], turn: list[int]) -> Draft:
    """A draft whose images have these coders (0 and 1 are ladders), qualities and turns."""
    n = len(coder)
    draft = Draft.blank(helpers.drawn(n), [helpers.tiny_model(0), helpers.tiny_model(1)])
    for i in reversed(range(n)):  # rows of the tables are not in the order of the images
        symbols = draft.coders[coder[i]].analyze(draft.pixels[i : i + 1], quality[i])
        draft.put(np.array([i]), coder[i], quality[i], symbols)
    draft.turn[:] = turn
    return draft


def test_parts_share_out_the_images_by_coder_and_quality_the_largest_first() -> None:
    draft = draft_of([0, 1, 0, 1, 0, 0], [9, 9, 9, 50, 30, 9], [0] * 6)
    parts = pack(draft, group=1)
    assert [(part.coder.name, part.quality, part.images.tolist()) for part in parts] == [
        ("tiny0", 9, [0, 2, 5]),
        ("tiny1", 9, [1]),
        ("tiny0", 30, [4]),
        ("tiny1", 50, [3]),
    ]
    for part in parts:
        pixels = draft.pixels[part.images]
        wanted = part.coder.encode(pixels, part.quality, group=1)
        assert part.messages == wanted.messages
        np.testing.assert_array_equal(draft.decoded[part.images], wanted.pixels)


def test_parts_of_equal_size_stand_in_the_order_of_their_turns() -> None:
    draft = draft_of([0, 1, 0, 1], [9, 9, 30, 30], [3, 2, 0, 1])
    found = [(part.coder.name, part.quality) for part in pack(draft)]
    assert found == [("tiny0", 30), ("tiny1", 30), ("tiny1", 9), ("tiny0", 9)]


def test_refused_images_are_in_no_part() -> None:
    draft = draft_of([0, 0, 1], [9, 9, 9], [0, 0, 0])
    draft.refused[1] = "too large"
    assert [part.images.tolist() for part in pack(draft)] == [[0], [2]]
    draft.refused.update({0: "too large", 2: "too large"})
    assert pack(draft) == []


def test_a_try_that_keeps_a_goal_is_better_than_one_that_does_not() -> None:
    def tries(kept: list[bool], num_bytes: list[int], psnr_db: list[float]) -> Draft:
        draft = Draft.blank(helpers.drawn(4), [helpers.tiny_model()])
        draft.kept, draft.num_bytes = np.array(kept), np.array(num_bytes)
        draft.psnr_db = np.array(psnr_db)
        return draft

    one = tries([False, True, True, True], [9, 9, 9, 9], [30, 30, 30, 30])
    other = tries([True, False, True, True], [99, 1, 9, 8], [1, 99, 31, 30])
    assert better(AtMostBytes(9), one, other).tolist() == [True, False, True, True]
    assert better(AtLeastPsnr(9), one, other).tolist() == [True, False, True, True]
    dearer = tries([True] * 4, [10, 9, 8, 9], [31, 30, 29, 29])
    assert better(AtMostBytes(9), one, dearer).tolist() == [True, False, False, False]
    assert better(AtLeastPsnr(9), one, dearer).tolist() == [True, False, True, False]


# ---- the encoder


def test_an_image_that_cannot_be_what_is_asked_leaves_the_others_alone(shipped: Ladder) -> None:
    pixels = helpers.drawn(12)
    sizes = [len(shipped.encode(image[None], 0, group=1).messages[0]) for image in pixels]
    limit = sorted(sizes)[-2]
    found = Encoder(Options.of(max_bytes=limit)).images(pixels)
    worst = int(np.argmax(sizes))
    for i, packed in enumerate(found):
        assert isinstance(packed, ImageError) == (i == worst)
        if not isinstance(packed, ImageError):
            assert packed.data == codec.compress(pixels[i], max_bytes=limit)
            assert packed.stats.bytes_out == len(packed.data)
    assert Encoder(Options()).images(pixels[:0]) == []


def test_a_lossless_network_looks_at_each_image_of_a_small_block_once(
    shipped_lossless: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To choose a model all images are coded by themselves; the block takes the same symbols."""
    seen = 0
    analyze = Pixels._analyze

    def counting(model: Pixels, pixels: np.ndarray, *rest: Any) -> Any:
        nonlocal seen
        seen += len(pixels)
        return analyze(model, pixels, *rest)

    monkeypatch.setattr(Pixels, "_analyze", counting)
    other = Pixels(helpers.tiny_pixel_bundle(1))
    block = Encoder(Options.of(lossless=True), [shipped_lossless, other]).block(helpers.drawn(40))
    assert block.stats.images == 40
    assert seen == 2 * 40


def test_what_fell_back_is_what_has_another_quality_than_asked(shipped_lossless: Pixels) -> None:
    pixels = mixed(20)
    reached = image_psnr_db(pixels, helpers.tiny_model().encode(pixels, 50).pixels)
    middle = float(np.median(reached)) + GUARD_DB
    curve = [{"quality": quality, "psnr_db": middle} for quality in (0, 99)]
    card = {"name": "tiny0", "figures": {"curve": curve}}
    models = [helpers.model_of(helpers.tiny_tensors(seed), card) for seed in (0, 1)]
    encoder = Encoder(Options(50, effort=2), models)
    draft = encoder._draft(pixels, as_block=True)
    stats = encoder.block(pixels).stats
    assert stats.fallback_images == np.flatnonzero(draft.quality != 50).tolist()
    assert sum(stats.fallback.values()) == len(stats.fallback_images) > 3
    assert sum(stats.qualities.values()) == 20
    assert stats.qualities["50"] == 20 - len(stats.fallback_images)


def test_models_that_may_be_joined_by_others_are_not_embedded(shipped: Ladder) -> None:
    assert Encoder(Options()).model_files() == [shipped.stream]
    with pytest.raises(UsageError, match="leave out one of the two"):
        Encoder(Options.of(min_psnr=20)).model_files()


# ---- options


def test_options_are_what_the_choices_mean() -> None:
    assert Options.of() == Options(75, "auto", None, 3, True)
    assert Options.of(lossless=True) == Options.of(quality=100)
    assert Options.of(lossless=True).lossless
    assert Options.of(max_bytes=9) == Options(75, "auto", AtMostBytes(9), 1, True)
    assert Options.of(min_psnr=9, effort=4).effort == 4
    assert not Options.of(min_psnr=9).lossless
    assert str(Options.of(min_psnr=30.5).goal) == "min_psnr asks for 30.5 dB"
    assert str(Options.of(max_bytes=30).goal) == "max_bytes allows 30"
    assert Options.of(model=None) == Options.of()
    assert Options.of(model=Path("mine")).model == os.path.join(".", "mine")  # a file
    assert Options.of(model=Path("d", "mine")).model == os.path.join("d", "mine")


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"quality": True}, "quality is True: give a whole number from 0 to 100"),
        ({"quality": 75.0}, "quality is 75.0: give a whole number from 0 to 100"),
        ({"effort": True}, "effort is True: give a whole number from 1 to 9"),
        ({"max_bytes": 20.5}, "max_bytes is 20.5: give a whole number of at least 0"),
        ({"max_bytes": "20"}, "max_bytes is '20': give a whole number of at least 0"),
        ({"max_bytes": True}, "max_bytes is True: give a whole number of at least 0"),
        ({"max_bytes": -1}, "max_bytes is -1: give a whole number of at least 0"),
        ({"min_psnr": "30"}, "min_psnr is '30': give a number of dB from 0 to 200"),
        ({"min_psnr": True}, "min_psnr is True: give a number of dB from 0 to 200"),
        ({"min_psnr": 200}, "min_psnr is 200: give a number of dB from 0 to 200"),
        ({"model": 3}, "model is 3: give the name of a model or the path of its file"),
        ({"max_bytes": 9, "min_psnr": 9}, "give either max_bytes or min_psnr, not both"),
        (
            {"max_bytes": 9, "quality": 9},
            "max_bytes and min_psnr choose the quality themselves: leave out quality and lossless",
        ),
    ],
    ids=str,
)
def test_a_choice_that_cannot_be_is_a_usage_error_that_says_what_can(
    choices: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        Options.of(**choices)
    assert str(caught.value) == said


def test_numbers_of_numpy_are_numbers() -> None:
    assert Options.of(quality=np.int64(30)) == Options.of(quality=30)  # type: ignore[arg-type]
    assert Options.of(max_bytes=np.uint8(30)) == Options.of(max_bytes=30)  # type: ignore[arg-type]
    assert Options.of(min_psnr=np.float32(30)) == Options.of(min_psnr=30)  # type: ignore[arg-type]


def test_every_choice_is_an_argument_of_options_and_of_compress(shipped: Ladder) -> None:
    choices: Choices = {"quality": 30, "model": "tiny0", "effort": 1, "guard": False}
    others = {"lossless", "max_error", "max_bytes", "min_psnr"}
    assert {*choices} | others == set(Choices.__annotations__)
    one = codec.compress(helpers.drawn(1)[0], **choices)
    assert one[4] == 30
    assert unpack_image_header(one)[0].model_id == 1
    for pixels in (helpers.drawn(1), helpers.drawn(1)[0]):
        with pytest.raises(TypeError, match=r"unknown option 'qualitty'; the options are quality,"):
            codec.compress(pixels, qualitty=30)  # type: ignore[call-arg]
