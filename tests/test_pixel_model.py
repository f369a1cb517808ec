"""The lossless model: every image comes back, damage is noticed, and a bundle that breaks a bound
is refused.
"""

from __future__ import annotations

from collections.abc import Callable

import golden_tool
import helpers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec import kernels, parallel
from codec.coding import rans
from codec.errors import BadModel, CorruptPayload
from codec.model import pixels as pixel_model
from codec.model.grids import MISSING
from codec.model.pixels import Pixels
from codec.model.pixels_palettes import TRIED, Candidates, PaletteChoice
from codec.model.stored import stored_bytes, stored_image


@pytest.fixture
def model() -> Pixels:
    return helpers.tiny_pixel_model()


def single_pixels() -> np.ndarray:
    """One pixel each, in every corner and in the middle, faint and bright."""
    pixels = np.zeros((10, 28, 28), np.uint8)
    for i, (y, x) in enumerate([(0, 0), (0, 27), (27, 0), (27, 27), (14, 14)] * 2):
        pixels[i, y, x] = 1 if i < 5 else 255
    return pixels


def checkerboards() -> np.ndarray:
    even = (np.indices((28, 28)).sum(axis=0) % 2).astype(np.uint8)
    return np.stack([even * 255, (1 - even) * 255, even * 7 + 1])


def kinds() -> np.ndarray:
    """Drawn digits and shapes, their negatives, noise, flat and alternating images: uint8 (N, 28,
    28).
    """
    examples, _ = golden_tool.sources()
    noise = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    flat = np.stack([np.full((28, 28), value, np.uint8) for value in (0, 255, 1, 128)])
    return np.concatenate(
        [
            examples[::3],
            255 - examples[::6],
            noise,
            flat,
            single_pixels(),
            checkerboards(),
            noise // 64,
        ]
    )


def check_round_trip(model: Pixels, pixels: np.ndarray, group: int) -> list[bytes]:
    encoded = model.encode(pixels, group=group)
    assert len(encoded.messages) == -(-len(pixels) // group)
    np.testing.assert_array_equal(encoded.pixels, pixels)
    decoded, bad = model.decode(encoded.messages, len(pixels), group=group)
    np.testing.assert_array_equal(decoded, pixels)
    assert decoded.dtype == np.uint8
    assert bad.tolist() == [False] * len(encoded.messages)
    return encoded.messages


# ---- coding


@pytest.mark.parametrize("group", [1, 16])
def test_every_kind_of_image_comes_back_exactly(model: Pixels, group: int) -> None:
    check_round_trip(model, kinds(), group)


@pytest.mark.parametrize("group", [1, 16])
@pytest.mark.parametrize("count", [1, 7, 40, 130])
def test_decode_inverts_encode(model: Pixels, count: int, group: int) -> None:
    check_round_trip(model, helpers.drawn(count), group)


def test_another_model_codes_too() -> None:
    check_round_trip(helpers.tiny_pixel_model(1), kinds()[::3], 16)


@pytest.mark.parametrize("group", [1, 16])
def test_the_other_images_of_a_batch_change_no_byte(model: Pixels, group: int) -> None:
    pixels = np.concatenate([kinds(), helpers.drawn(130)])
    whole = model.encode(pixels, group=group).messages
    for first in (0, 3, 7):
        part = slice(first * group, (first + 1) * group)
        assert model.encode(pixels[part], group=group).messages == [whole[first]]
        np.testing.assert_array_equal(
            model.decode([whole[first]], group, group=group)[0], pixels[part]
        )
    assert model.encode(pixels[: 5 * group], group=group).messages == whole[:5]
    picked = [whole[5], whole[2]]
    decoded, bad = model.decode(picked, 2 * group, group=group)
    assert not bad.any()
    np.testing.assert_array_equal(
        decoded, np.concatenate([pixels[g * group : (g + 1) * group] for g in (5, 2)])
    )


def test_work_is_split_by_the_cores_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    for cores in (1, 2, 5):
        with parallel.cores(cores), kernels.use("numpy"):
            assert len(pixel_model._batches(640, 16)) == cores


def test_batches_of_any_size_give_the_same_bytes(
    model: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = helpers.drawn(130)
    whole = model.encode(pixels).messages
    monkeypatch.setattr(pixel_model, "BATCH_IMAGES", 20)
    assert check_round_trip(model, pixels, 16) == whole


def test_encode_is_a_function_of_its_input(model: Pixels) -> None:
    pixels = helpers.drawn(20).copy()
    assert (
        model.encode(pixels).messages == Pixels(helpers.tiny_pixel_bundle()).encode(pixels).messages
    )
    np.testing.assert_array_equal(pixels, helpers.drawn(20))


def test_ideal_bits_are_about_the_payload(model: Pixels) -> None:
    """It may be a little less: the blank end of an image is coded first, while the state is small
    and zeros are free.
    """
    encoded = model.encode(kinds())
    coded = 8 * sum(map(len, encoded.messages))
    assert (
        0.98 * encoded.ideal_bits
        <= coded
        <= 1.005 * encoded.ideal_bits + 24 * len(encoded.messages)
    )


def test_the_frequencies_of_every_step_are_a_distribution(model: Pixels) -> None:
    pixels = kinds().reshape(-1, 784)
    network, step, symbols = (
        model.steps(np.ones(len(pixels), np.bool_), np.arange(len(pixels)) % 3),
        None,
        None,
    )
    seen = {2: 0, 256: 0}
    while True:
        try:
            step = network.send(symbols)
        except StopIteration as stop:
            np.testing.assert_array_equal(stop.value.reshape(-1, 784), pixels)
            break
        assert step.freq.min() >= 1
        assert (step.freq.sum(axis=1, dtype=np.int64) == rans.TOTAL).all()
        seen[step.freq.shape[1]] += len(step.images)
        values = pixels[step.images, step.pixel].astype(np.int64)
        symbols = values if step.freq.shape[1] == 256 else np.minimum(values, 1)
    assert seen[2] > len(pixels)
    assert seen[256] > len(pixels)


# ---- stored images


def test_what_the_model_would_expand_is_stored(model: Pixels) -> None:
    """Both kinds are in the images here, else the tests above prove little; and no message is much
    longer than stored.
    """
    pixels = kinds()
    sizes = [len(m) for m in model.encode(pixels, group=1).messages]
    stored = [len(stored_bytes(image)) for image in pixels]
    assert all(size <= limit + 6 for size, limit in zip(sizes, stored, strict=True))
    assert sum(size < limit for size, limit in zip(sizes, stored, strict=True)) > 10
    assert sum(size > limit for size, limit in zip(sizes, stored, strict=True)) > 10


def test_a_group_of_stored_images_and_others_comes_back(model: Pixels) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (40, 28, 28), np.uint8)
    messages = check_round_trip(model, noise, 16)
    assert [len(m) for m in messages] == pytest.approx(
        [784 * n + 4 * n for n in (16, 16, 8)], abs=10
    )
    mixed = np.where(np.arange(40)[:, None, None] % 3 == 0, noise, helpers.drawn(40))
    check_round_trip(model, mixed.astype(np.uint8), 16)


@pytest.mark.parametrize("image", [0, 1, 2, 3])
def test_stored_image_inverts_stored_bytes(image: int) -> None:
    pixels = helpers.drawn(8)[image]
    assert len(stored_bytes(pixels)) <= 784
    np.testing.assert_array_equal(stored_image(stored_bytes(pixels)), pixels)


@given(st.binary(max_size=60))
def test_any_stored_bytes_are_an_image_or_corrupt(stream: bytes) -> None:
    for start in (b"", b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\xfd\x60\x10\x02"):
        try:
            assert stored_image(start + stream).shape == (28, 28)
        except CorruptPayload:
            pass


# ---- damage


@pytest.mark.parametrize("group", [1, 4])
def test_damaged_messages_are_flagged_and_their_neighbours_are_not(
    model: Pixels, group: int
) -> None:
    """All in one call: the message as it was before and after each damaged one."""
    pixels = np.concatenate([golden_tool.sources()[0][:2], helpers.drawn(8)[1:3]])[:group]
    (message,) = model.encode(pixels, group=group).messages
    damaged = [*helpers.cuts(message), *helpers.flips(message)]
    rng = np.random.default_rng(group)
    damaged = [damaged[i] for i in rng.permutation(len(damaged))[: 400 // group]]
    messages = [m for stream in damaged for m in (stream, message)]
    decoded, bad = model.decode(messages, len(messages) * group, group=group)
    assert not bad[1::2].any()
    np.testing.assert_array_equal(
        decoded.reshape(len(messages), group, 28, 28)[1::2], np.stack([pixels] * len(damaged))
    )
    missed = np.count_nonzero(~bad[::2])
    assert missed <= 1 + len(damaged) // 50  # a hash of 8 bits: 1 in 256 is what chance allows


def test_random_messages_decode_to_pixels_and_are_mostly_flagged(model: Pixels) -> None:
    rng = np.random.default_rng(0)
    messages = [rng.bytes(int(size)) for size in rng.integers(0, 2000, 60)]
    # the first state says "stored"
    messages += [b"\xff" * 5000, bytes(5000), b"\xff\xff\xff" + rng.bytes(3000)]
    for group in (1, 16):
        count = len(messages) * group - (group > 1)
        pixels, bad = model.decode(messages, count, group=group)
        assert pixels.shape == (count, 28, 28)
        assert bad.mean() > 0.9


@settings(max_examples=25)
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=9), st.sampled_from([1, 2]))
def test_any_messages_decode_to_some_pixels(messages: list[bytes], group: int) -> None:
    count = group * len(messages) - (group == 2)
    pixels, bad = helpers.tiny_pixel_model().decode(messages, count, group=group)
    assert pixels.shape == (count, 28, 28)
    assert bad.shape == (len(messages),)


# ---- bundles


def refuse(tensors: helpers.Tensors, message: str | None = None) -> None:
    with pytest.raises(BadModel, match=message):
        Pixels(helpers.pack(tensors, architecture=Pixels.ARCHITECTURE))


def test_a_model_names_itself_and_its_kind(model: Pixels) -> None:
    assert (model.name, model.lossless, model.kind) == ("tiny0-lossless", True, "lossless")
    assert model.hash == model.sha256[:8]


@pytest.mark.parametrize("name", sorted(helpers.tiny_pixel_tensors()))
@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: None,
        lambda tensor: tensor[:-1],
        lambda tensor: np.concatenate([tensor, tensor]),
        lambda tensor: tensor[..., None],
        lambda tensor: tensor.astype(np.int64),
    ],
    ids=["missing", "shorter", "longer", "one more axis", "wider"],
)
def test_a_tensor_that_is_not_as_it_should_be_is_refused(
    name: str, change: Callable[[np.ndarray], np.ndarray | None]
) -> None:
    tensors = helpers.tiny_pixel_tensors()
    changed = change(tensors.pop(name))
    refuse(tensors if changed is None else {**tensors, name: changed})


def test_an_unknown_tensor_is_refused() -> None:
    refuse({**helpers.tiny_pixel_tensors(), "extra": np.zeros(3, np.int32)}, "unknown tensor extra")


@pytest.mark.parametrize(
    ("name", "at", "value", "message"),
    [
        ("flag.zero_freq", 5, 0, r"flag\.zero_freq leaves"),
        ("flag.zero_freq", 5, 1 << 16, r"flag\.zero_freq leaves"),
        ("exp", 0, (1 << 16) - 1, "exp leaves"),
        ("exp", 7, (1 << 16) + 1, "exp leaves"),
        ("exp", 7, -1, "exp leaves"),
        ("palette.freq", 0, 0, r"palette\.freq of 3 palettes"),
        ("palette.freq", 0, 30001, r"palette\.freq of 3 palettes"),
        ("palette.costs.table", 9, -1, r"palette\.costs leaves"),
        ("palette.costs.table", 9, 1024, r"palette\.costs leaves"),
        ("value.near.table", 9, 1024, r"value\.near\.table leaves"),
        ("head.bias", 9, 1 << 24, "head: a sum could reach"),
        ("value.input.bias", 3, 1 << 24, r"value\.input: a sum could reach"),
        ("flag.logit.multiplier", 0, 0, r"flag\.logit: a multiplier"),
    ],
)
def test_a_number_out_of_range_is_refused(name: str, at: int, value: int, message: str) -> None:
    tensors = helpers.tiny_pixel_tensors()
    tensors[name].flat[at] = value
    refuse(tensors, message)


def test_layers_that_do_not_fit_together_are_refused() -> None:
    tensors = helpers.tiny_pixel_tensors()
    for part in ("weight", "bias", "shift", "multiplier"):
        tensors[f"links.0.{part}"] = np.concatenate(
            [tensors[f"links.0.{part}"]] * 2, axis=0 if part in ("weight", "bias") else 1
        )
    refuse(tensors, "do not fit together")


@pytest.mark.parametrize("seed", [0, 1])
def test_extreme_tables_still_give_every_image_back(seed: int) -> None:
    """Every table at the ends of its range: sums stay within 32 bits, frequencies stay a
    distribution.
    """
    rng = np.random.default_rng(seed)
    tensors = helpers.tiny_pixel_tensors()
    for name, tensor in tensors.items():
        if tensor.dtype == np.int16:
            ends = {"palette.costs.table": (0, 1023), "value.near.table": (-1023, 1023)}.get(
                name, (-(1 << 15), (1 << 15) - 1)
            )
            tensors[name] = rng.choice(np.array(ends, np.int16), tensor.shape)
        elif name.startswith(("links", "head")) and name.endswith("multiplier"):
            tensor[:] = 1 << 24
    check_round_trip(
        Pixels(helpers.pack(tensors, architecture=Pixels.ARCHITECTURE)), kinds()[::2], 16
    )


# ---- palettes


def of_values(*values: int) -> np.ndarray:
    """Images of one value each."""
    return np.stack([np.full((28, 28), value, np.uint8) for value in values])


def exactly(pixels: np.ndarray) -> np.ndarray:
    return np.ones(len(pixels), np.int64)


def test_the_palette_of_an_image_is_the_cheapest() -> None:
    """Worked by hand: 784 pixels of value 2 cost 17,248, 0 and 7,840 in palettes 0, 1 and 2, of
    value 3 17,248, 278,320 and 7,840, of value 100 17,248, 0 and 31,360; naming a palette costs 25,
    25 and 79."""
    tensors = helpers.tiny_pixel_tensors()
    flat = of_values(2, 3, 100, 101)
    choice = PaletteChoice(tensors["palette.costs.table"], tensors["palette.freq"])
    assert choice.candidates(flat, exactly(flat)).first.tolist() == [1, 2, 1, 0]


def tried(candidates: Candidates, effort: int) -> list[tuple[list[int], list[int]]]:
    return [(a.tolist(), b.tolist()) for a, b in candidates.others(effort)]


def test_an_image_on_a_grid_is_tried_with_a_palette_of_that_grid_if_it_is_close() -> None:
    """Palette 0 holds all values; 1 and 2 those of the grid of step 85, which cost more."""
    costs = np.full((3, 256), 20)
    costs[1:] = MISSING
    costs[1, ::85], costs[2, ::85] = 24, 23  # 784 * 3 / 32 nats: 13.2 bytes more
    costs[1, 255], costs[2, 255] = 24, 30  # 784 * 4 / 32 nats: 17.7 bytes more, and 44
    choice = PaletteChoice(costs, np.full(3, rans.TOTAL // 3))
    assert choice.of_grid[85].tolist() == [1, 2]
    flat = of_values(85, 170, 85, 255)
    candidates = choice.candidates(flat, np.array([85, 85, 1, 85]))
    assert candidates.first.tolist() == [0, 0, 0, 0]
    assert tried(candidates, 1) == [([0, 1, 3], [2, 2, 1])]
    costs[1:, 85] = 26  # 26.5 bytes more
    choice = PaletteChoice(costs, np.full(3, rans.TOTAL // 3))
    steps = np.array([85, 85, 1, 17])  # 17: a grid that the model does not know
    assert tried(choice.candidates(flat, steps), 1) == [([1], [2])]
    assert tried(choice.candidates(flat, steps), 5)[0] == ([0, 1], [1, 2])


def test_the_next_palette_is_one_within_the_margin_that_favours_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    costs = np.zeros((4, 256), np.int64)
    costs[1] = 1  # 784 / 32 nats for a flat image: 4.4 bytes
    costs[2] = costs[3] = 2
    costs[2, 9] = 3
    costs[3, 9], costs[3, 8] = 3, 20
    choice = PaletteChoice(costs, np.full(4, rans.TOTAL // 4))
    flat = of_values(7, 8, 7)
    candidates = choice.candidates(flat, exactly(flat))
    assert candidates.first.tolist() == [0, 0, 0]
    monkeypatch.setitem(TRIED, 5, (4, 9.0, 9.0))
    # 1 and 0 favour no value; 3 costs an 8 far more
    assert tried(candidates, 6) == [([], []), ([], []), ([0, 1, 2], [2, 2, 2]), ([0, 2], [3, 3])]


def popping(palette: int) -> Callable[[Candidates], tuple[np.ndarray, np.ndarray]]:
    """What makes a palette the likeliest of all images."""
    return lambda self: (np.full(len(self._costs), palette), self._costs[:, palette])


def test_an_effort_tries_more_palettes_and_keeps_the_cheapest(
    monkeypatch: pytest.MonkeyPatch, model: Pixels
) -> None:
    pixels = np.concatenate([helpers.drawn(12), of_values(3, 4)])
    by_palette = []
    for palette in range(3):
        monkeypatch.setattr(Candidates, "_pop", popping(palette))
        by_palette.append(model.analyze(pixels, 100).bits)
    monkeypatch.undo()
    monkeypatch.setitem(TRIED, 5, (3, 1e6, 0.0))
    monkeypatch.setattr(model._choice, "_favours", np.ones(3, np.bool_))
    found = [model.analyze(pixels, 100, effort) for effort in (1, 5, 9)]
    assert (found[1].bits == np.min(by_palette, axis=0)).all()
    assert found[1].bits.sum() < found[0].bits.sum()
    assert (found[2].bits == found[1].bits).all()
    for each in found:
        messages = model.pack(each, 3)
        decoded, bad = model.decode(messages, len(pixels), group=3)
        assert not bad.any()
        assert (decoded == pixels).all()


def test_a_value_outside_the_palette_is_coded_all_the_same(
    monkeypatch: pytest.MonkeyPatch, model: Pixels
) -> None:
    odd = np.where(helpers.drawn(4) > 0, np.uint8(77), np.uint8(0))
    monkeypatch.setattr(Candidates, "_pop", popping(1))
    check_round_trip(model, odd, 1)


def test_a_palette_has_no_frequency_to_spare_for_what_it_lacks(model: Pixels) -> None:
    """Palette 1 knows even values only: the odd ones keep the least frequency, the even ones share
    what palette 0 gave them.
    """
    networks = [model.steps(np.ones(3, np.bool_), np.full(3, palette)) for palette in (0, 1)]
    steps = [next(network) for network in networks]
    while steps[0].freq.shape[1] == 2:  # until pixel 0 turned out not to be 0
        steps = [network.send(np.ones(3, np.int64)) for network in networks]
    assert (steps[1].freq[:, 1::2] == 1).all()
    assert (steps[0].freq[:, 1::2] > 1).any()
    assert (steps[1].freq[:, ::2] >= steps[0].freq[:, ::2]).all()
