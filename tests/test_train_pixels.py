"""Training of the lossless model: the float network is the integer one, and what it needs of the
image is only the past.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import codec  # noqa: E402
from codec.errors import BadModel, UsageError  # noqa: E402
from codec.model.bundle import unpack_bundle  # noqa: E402
from codec.model.pixels import Pixels, Step  # noqa: E402
from codec.model.pixels_parts import LOGIT_UNIT  # noqa: E402
from codec.train import command  # noqa: E402
from codec.train.loop import save  # noqa: E402
from codec.train.lossless import export, palettes, warm_start  # noqa: E402
from codec.train.lossless.pixels import (  # noqa: E402
    MEASURED_STEPS,
    PixelConfig,
    PixelNet,
    PixelTrainer,
    Tokens,
    evaluate,
)

CONFIG = PixelConfig(hidden=16, layers=2, links=4, sums=6, embedding=3, flag=4)


# Two palettes: any value at all, and none but the multiples of 3.
TABLES = palettes.Palettes(
    np.stack([np.zeros(256), np.where(np.arange(256) % 3, palettes.IMPOSSIBLE, 0)]).astype(
        np.float32
    ),
    np.stack([np.full(256, 30), np.where(np.arange(256) % 3, 355, 0)]).astype(np.int16),
    np.array([40000, 25536], np.int32),
)


def random_net(seed: int) -> PixelNet:
    """A network far from its start: every parameter is moved, so that every part of it matters."""
    torch.manual_seed(seed)
    net = PixelNet(CONFIG, TABLES)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter += torch.randn_like(parameter) * (0.002 if ".sums." in name else 0.05)
    net.set_quantized(True)
    return net


def symbols_of(step: Step, pixels: np.ndarray) -> np.ndarray:
    values = pixels.reshape(len(pixels), -1)[step.images, step.pixel].astype(np.int64)
    return values if step.freq.shape[1] == 256 else np.minimum(values, 1)


def ideal_bytes(model: Pixels, pixels: np.ndarray) -> float:
    """Bytes an image by the model's frequencies, whether or not storing would be better."""
    palette = TABLES.choose(pixels)
    network, bits = (
        model.steps(np.ones(len(pixels), np.bool_), palette),
        float(np.sum(16 - np.log2(TABLES.freq[palette]))),
    )
    step = next(network)
    try:
        while True:
            symbols = symbols_of(step, pixels)
            bits += float(np.sum(16 - np.log2(step.freq[np.arange(len(symbols)), symbols])))
            step = network.send(symbols)
    except StopIteration as stop:
        np.testing.assert_array_equal(stop.value, pixels)
    return bits / 8 / len(pixels)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_integer_model_codes_in_the_bits_that_the_network_counts(seed: int) -> None:
    pixels, net = helpers.drawn(20), random_net(seed)
    model = Pixels(export.export(net, {"name": "any-lossless"}))
    # Half a percent is for activations in 1/128; a wrong context or table costs far more.
    palette = torch.tensor(TABLES.choose(pixels))
    assert set(palette.tolist()) == {0, 1}
    expected = evaluate(net, torch.tensor(pixels), palette)["estimated_bytes"]
    assert ideal_bytes(model, pixels) == pytest.approx(expected, rel=0.005)


def test_the_sums_are_those_of_a_plain_loop() -> None:
    pixels = helpers.drawn(3)
    tokens, sums = Tokens(torch.tensor(pixels)), random_net(0).value.sums
    image, pixel = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([0, 500, 783, 300, 301])
    found = tokens.sums_before(sums(tokens), image, pixel)
    for i, p, row in zip(image.tolist(), pixel.tolist(), found, strict=True):
        expected = torch.zeros(CONFIG.sums)
        for q in np.flatnonzero(pixels[i].ravel()[:p]).tolist():
            value = int(pixels[i].flat[q])
            expected += (sums.ink[q] + sums.shade[q] * value / 128 + sums.count[value]).detach()
        np.testing.assert_allclose(row.detach(), expected, atol=1e-3)


def test_links_come_from_the_neighbours_that_are_tokens() -> None:
    pixels = np.zeros((2, 28, 28), np.uint8)
    pixels[1, 3, 4:7] = 9
    tokens = Tokens(torch.tensor(pixels))
    where = {int(p): t for t, p in enumerate(tokens.pixel)}
    # those three and what sees them
    assert set(where) == {3 * 28 + x for x in range(4, 8)} | {4 * 28 + x for x in range(3, 8)}
    at = 4 * 28 + 5
    assert tokens.linked()[where[at]].tolist() == [
        where[at - 1],
        where[at - 28],
        where[at - 29],
        where[at - 27],
    ]
    assert tokens.linked()[where[3 * 28 + 4]].tolist() == [len(where)] * 4


@pytest.mark.parametrize("brightest", [60, 100, 177])
def test_stretched_images_are_given_their_palette(brightest: int) -> None:
    """600 images of which each has the values floor(j * 255 / M) only: M one of three."""
    random = np.random.default_rng(brightest)
    many = [random.integers(0, m + 1, (200, 28, 28)) * 255 // m for m in (60, 100, 177)]
    learned = palettes.learn(np.concatenate(many).astype(np.uint8))
    assert len(learned.freq) == 3
    mine = random.integers(0, brightest + 1, (5, 28, 28)) * 255 // brightest
    (palette,) = set(learned.choose(mine.astype(np.uint8)).tolist())
    assert learned.costs.min() >= 0
    held = np.flatnonzero(learned.logits[palette] == 0)
    assert held.tolist() == sorted({j * 255 // brightest for j in range(brightest + 1)})


def test_images_of_two_kinds_fall_into_clusters() -> None:
    random = np.random.default_rng(0)
    dark, bright = (
        random.choice(values, (400, 28, 28)).astype(np.uint8)
        for values in ([0, 3, 31, 59], [0, 201, 230, 244])
    )
    learned = palettes.learn(np.concatenate([dark, bright]))
    chosen = learned.choose(dark[:50]), learned.choose(bright[:50])
    assert not set(chosen[0].tolist()) & set(chosen[1].tolist())
    assert learned.freq.sum() == 1 << 16
    assert learned.freq.min() >= 1


@pytest.mark.parametrize(
    ("most", "sizes"), [(1, [256]), (2, [61, 256]), (3, [61, 101, 256]), (4, [61, 101, 178, 256])]
)
def test_there_are_no_more_palettes_than_wanted(most: int, sizes: list[int]) -> None:
    """Of stretched palettes with 300, 200, 100 and 50 images the most used are kept, and that of
    all values.
    """
    random = np.random.default_rng(0)
    many = [
        random.integers(0, m + 1, (n, 28, 28)) * 255 // m
        for m, n in ((60, 300), (100, 200), (177, 100), (255, 50))
    ]
    learned = palettes.learn(np.concatenate(many).astype(np.uint8), most)
    assert np.count_nonzero(learned.logits == 0, axis=1).tolist() == sizes
    assert learned.freq.sum() == 1 << 16


def test_few_images_have_one_palette() -> None:
    learned = palettes.learn(helpers.drawn(60))
    assert (learned.freq.tolist(), learned.logits.any(), learned.costs.any()) == (
        [1 << 16],
        False,
        False,
    )


def test_rounding_goes_to_the_nearest_multiple_and_never_past_white() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    for step in palettes.GRID_STEPS:
        error = palettes.rounded(values, step).astype(int) - values
        assert np.abs(error).max() == (step - 1) // 2
    both = palettes.rounded(
        np.stack([np.full((2, 2), v, np.uint8) for v in (100, 100, 255)]), np.array([1, 7, 13])
    )
    assert both[:, 0, 0].tolist() == [100, 98, 255]  # 20 * 13 = 260 is past white


def images_of_two_lattices() -> np.ndarray:
    """600 stretched images: half have the values floor(j * 255 / 100),
    half floor(j * 255 / 177).
    """
    random = np.random.default_rng(1)
    return np.concatenate(
        [random.integers(0, m + 1, (300, 28, 28)) * 255 // m for m in (100, 177)]
    ).astype(np.uint8)


def images_of_three_inks() -> np.ndarray:
    """600 images, each of one of three sets of 50 greys."""
    random = np.random.default_rng(2)
    sets = [random.choice(256, 50, replace=False) for _ in range(3)]
    return np.concatenate([random.choice(values, (200, 28, 28)) for values in sets]).astype(
        np.uint8
    )


@pytest.mark.parametrize("images", [images_of_two_lattices, images_of_three_inks])
def test_a_rounded_image_is_given_a_palette_of_its_own_grid(
    images: Callable[[], np.ndarray],
) -> None:
    """And one that is not rounded keeps the palette that it has without grids, named at little more
    cost.
    """
    pixels = images()
    plain, learned = palettes.learn(pixels), palettes.learn(pixels, grids=True)
    count = len(plain.freq)
    assert len(learned.freq) >= count + len(palettes.GRID_STEPS)
    np.testing.assert_array_equal(learned.costs[:count], plain.costs)
    np.testing.assert_array_equal(learned.logits[:count], plain.logits)
    np.testing.assert_array_equal(learned.choose(pixels), plain.choose(pixels))
    assert learned.freq.sum() == 1 << 16
    assert learned.freq[:count].sum() == pytest.approx(
        (1 - palettes.GRIDS_FREQ) * (1 << 16), rel=0.01
    )
    for step in palettes.GRID_STEPS:
        rounded = palettes.rounded(pixels[::50], step)
        held = learned.logits[learned.choose(rounded)] > palettes.IMPOSSIBLE
        # its own grid, or one that happens to hold its values and fewer others
        assert held.sum(axis=1).max() <= 255 // step + 2
        assert held[np.arange(len(held))[:, None], rounded.reshape(len(held), -1)].all()


def test_grids_of_a_few_images_are_found_as_well() -> None:
    pixels = images_of_two_lattices()[::10]
    learned = palettes.learn(pixels, grids=True)
    assert len(learned.freq) == 1 + len(palettes.GRID_STEPS)
    assert set(learned.choose(palettes.rounded(pixels, 5)).tolist()) == {
        1 + palettes.GRID_STEPS.index(5)
    }
    assert not learned.choose(pixels).any()


def test_the_palettes_of_grids_are_not_more_than_wanted() -> None:
    pixels = images_of_three_inks()
    assert len(palettes.learn(pixels, 12, grids=True).freq) <= 12
    with pytest.raises(ValueError, match="10 palettes are too few"):
        palettes.learn(pixels, 10, grids=True)


@pytest.mark.slow
def test_a_trainer_with_grids_learns_rounded_images_beside_the_others() -> None:
    trainer = PixelTrainer(helpers.drawn(200), seed=3, config=CONFIG, grids=True)
    torch.manual_seed(0)
    images, palette = trainer._drawn(torch.zeros(400, dtype=torch.long))
    rounded = (images.numpy() == trainer.train[0].numpy()).all(axis=(1, 2))
    assert 0.3 < rounded.mean() < 0.5
    np.testing.assert_array_equal(palette, trainer.net.tables.choose(images.numpy()))
    assert len(set(palette.tolist())) > 8
    before = trainer.figures()
    assert list(before["by_step"]) == list(MEASURED_STEPS)
    trainer.batch = 12
    for _ in range(60):
        trainer.step(0.3)
    after = trainer.figures()
    assert after["by_step"][17] < 0.9 * before["by_step"][17]
    assert trainer.cost(after) < trainer.cost(before)


def test_a_grid_starts_as_the_average_of_the_bundle_without_the_values_between(
    tmp_path: Path,
) -> None:
    """The bundle's two palettes are chosen as 40000 to 25536."""
    parent = random_net(4)
    model = Pixels(export.export(parent, {"name": "any-lossless"}))
    trainer = command.trainer_of(
        helpers.drawn(200).copy(), model, lossless=True, grids=True, seed=0, log=tmp_path / "log"
    )
    assert isinstance(trainer, PixelTrainer)
    of_nine = 1 + palettes.GRID_STEPS.index(9)
    table = parent.value.palette.detach().numpy()
    np.testing.assert_allclose(
        trainer.net.value.palette.detach()[of_nine],
        (40000 * table[0] + 25536 * table[1]) / 65536,
        atol=1e-3,
    )
    bias = trainer.net.value.biases().detach()[of_nine].numpy()
    assert (bias[np.arange(256) % 9 != 0] == palettes.IMPOSSIBLE).all()
    assert np.abs(bias[np.arange(256) % 9 == 0]).max() < 4


def test_nothing_of_the_rest_of_the_image_is_seen() -> None:
    """Bits of the pixels up to a row do not change with what follows."""
    pixels = helpers.drawn(4)
    changed = pixels.copy()
    changed[:, 15:] = 255 - changed[:, 15:]
    model = Pixels(export.export(random_net(2), {"name": "any-lossless"}))
    every = np.ones(4, np.bool_)
    networks = model.steps(every, np.zeros(4, np.int64)), model.steps(every, np.zeros(4, np.int64))
    steps = [next(network) for network in networks]
    while steps[0].pixel < 15 * 28:
        np.testing.assert_array_equal(steps[0].freq, steps[1].freq)
        symbols = [symbols_of(step, p) for step, p in zip(steps, (pixels, changed), strict=True)]
        steps = [network.send(s) for network, s in zip(networks, symbols, strict=True)]


@pytest.mark.slow
def test_a_trainer_learns_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    pixels = helpers.drawn(200).copy()
    first = PixelTrainer(pixels, seed=3, config=CONFIG, log=tmp_path / "log")
    before = evaluate(first.net, first.held_out, first.held_out_palette)["estimated_bytes"]
    first.batch = 12  # enough for this, and a fifth of the time
    for _ in range(60):
        first.step(0.3)
    assert (
        evaluate(first.net, first.held_out, first.held_out_palette)["estimated_bytes"]
        < 0.9 * before
    )
    save(first.state(), tmp_path / "checkpoint.pt")
    expected = [first.step(0.3), first.step(0.8)]
    second = PixelTrainer(pixels, seed=9, config=CONFIG)
    second.batch = 12
    second.load(torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    assert [second.step(0.3), second.step(0.8)] == expected
    first.report(1.0)
    assert '"estimated_bytes"' in (tmp_path / "log").read_text()


def palettes_of(stream: bytes) -> palettes.Palettes:
    """The palettes of a lossless model."""
    tensors = unpack_bundle(stream)[1]
    return palettes.Palettes(
        (tensors["palette.logits.table"] / LOGIT_UNIT).astype(np.float32),
        tensors["palette.costs.table"].astype(np.int16),
        tensors["palette.freq"].astype(np.int32),
    )


def test_a_network_from_a_bundle_is_the_one_that_was_exported() -> None:
    """To a tenth of a percent: activations are the only thing that was finer."""
    net, pixels = random_net(4), helpers.drawn(30)
    stream = export.export(net, {"name": "any-lossless"})
    tables = palettes_of(stream)
    back = PixelNet(warm_start.config_of(stream), tables)
    warm_start.fill(back, stream)
    assert back.config == CONFIG
    palette = torch.tensor(TABLES.choose(pixels))
    np.testing.assert_array_equal(tables.choose(pixels), palette)
    ours, its = (evaluate(n, torch.tensor(pixels), palette) for n in (net, back))
    assert its == pytest.approx(ours, rel=1e-3)
    again = unpack_bundle(export.export(back, {"name": "any-lossless"}))[1]
    for name, tensor in unpack_bundle(stream)[1].items():
        np.testing.assert_allclose(again[name], tensor, rtol=1e-3, atol=1, err_msg=name)


def test_palettes_that_a_bundle_has_start_as_they_are_there() -> None:
    """Here its second one, which is the first of the two that are wanted."""
    parent = random_net(4)
    stream = export.export(parent, {"name": "any-lossless"})
    other = palettes.Palettes(
        TABLES.logits[::-1].copy(),
        np.stack([TABLES.costs[1] + 1, TABLES.costs[0] + 3]),
        TABLES.freq,
    )
    net = PixelNet(CONFIG, other)
    warm_start.fill(net, stream)
    table, its = (n.value.palette.detach().numpy() for n in (net, parent))
    np.testing.assert_allclose(table[0], its[1], atol=1e-3)
    np.testing.assert_allclose(
        net.value.biases().detach()[0], parent.value.biases().detach()[1], atol=0.02
    )
    assert not net.value.palette_logits.detach()[1].any()
    assert np.abs(table[1] - its[0]).max() > 0.01


@pytest.mark.slow
def test_a_network_that_starts_from_a_bundle_keeps_the_palettes_of_its_own_images(
    tmp_path: Path,
) -> None:
    """Each starts as the average of the bundle's two, which are chosen as 40000 to 25536."""
    parent = random_net(4)
    model = Pixels(export.export(parent, {"name": "any-lossless"}))
    pixels = helpers.drawn(200).copy()
    trainer = command.trainer_of(pixels, model, lossless=True, seed=0, log=tmp_path / "log")
    assert isinstance(trainer, PixelTrainer)
    assert trainer.net.config == CONFIG
    assert trainer.net.tables.freq.tolist() == [1 << 16]
    table = parent.value.palette.detach().numpy()
    np.testing.assert_allclose(
        trainer.net.value.palette.detach()[0],
        (40000 * table[0] + 25536 * table[1]) / 65536,
        atol=1e-3,
    )
    np.testing.assert_allclose(
        trainer.net.value.head.weight.detach(), parent.value.head.used_weight().detach(), rtol=5e-3
    )


def test_a_wider_network_starts_as_the_same_function_and_can_learn_more() -> None:
    stream = export.export(random_net(4), {"name": "any-lossless"})
    narrow, wide = (
        PixelNet(dataclasses.replace(warm_start.config_of(stream), hidden=hidden), TABLES)
        for hidden in (16, 24)
    )
    pixels = torch.tensor(helpers.drawn(30))
    palette = torch.tensor(TABLES.choose(pixels.numpy()))
    for net in (narrow, wide):
        warm_start.fill(net, stream)
    ours = evaluate(narrow, pixels, palette)
    assert evaluate(wide, pixels, palette) == pytest.approx(ours, rel=1e-6)
    tokens = Tokens(pixels)
    wide.value(tokens, palette, torch.float32).square().sum().backward()
    assert wide.value.head.weight.grad[:, 16:].abs().max() > 0
    assert wide.value.input.weight.detach()[16:].abs().max() > 0


def test_only_a_lossless_model_whose_layers_fit_is_started_from() -> None:
    with pytest.raises(BadModel, match="training can only start from a lossless model"):
        warm_start.config_of(helpers.tiny_bundle())
    stream = export.export(random_net(4), {"name": "any-lossless"})
    other = PixelNet(dataclasses.replace(CONFIG, links=5), TABLES)
    with pytest.raises(BadModel, match="its sizes are those of no network"):
        warm_start.fill(other, stream)


@pytest.mark.slow
def test_aez_train_lossless_makes_a_model_that_gives_every_pixel_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_file, out = tmp_path / "strokes.npy", tmp_path / "strokes.safetensors"
    np.save(data_file, helpers.drawn(120))
    options: dict[str, Any] = {
        "start": "none",
        "lossless": True,
        "hidden": 16,
        "minutes": 0.01,
        "seed": 3,
        "resume": False,
        "quiet": False,
    }
    with pytest.raises(UsageError, match="add --lossless"):
        command.train_command([data_file], out, **{**options, "lossless": False})
    with pytest.raises(UsageError, match="--grids is for lossless models"):
        command.train_command(
            [data_file], out, **{**options, "lossless": False, "hidden": None, "grids": True}
        )
    with pytest.raises(UsageError, match="--palettes is for lossless models"):
        command.train_command(
            [data_file], out, **{**options, "lossless": False, "hidden": None, "most_palettes": 3}
        )
    command.train_command([data_file], out, **options)
    with pytest.raises(UsageError, match="has 16 hidden units, and training can only add"):
        command.train_command(
            [data_file],
            tmp_path / "other.safetensors",
            **{**options, "start": str(out), "hidden": 8},
        )
    wider = tmp_path / "wider.safetensors"
    command.train_command(
        [data_file], wider, **{**options, "start": str(out), "hidden": 24, "quiet": True}
    )
    assert warm_start.config_of(wider.read_bytes()).hidden == 24
    printed = capsys.readouterr().out
    assert re.search(r"^  PNG \d+\.\d, WebP lossless \d+\.\d\nthis model", printed, re.MULTILINE)
    assert "quality 100" in printed
    assert f"aez compress --lossless -m {out}" in printed
    pixels = helpers.drawn(5)
    stream = codec.compress(pixels, lossless=True, model=str(out))
    np.testing.assert_array_equal(codec.decompress(stream, model=str(out)), pixels)
    child = tmp_path / "child.safetensors"
    with pytest.raises(UsageError, match="at least --palettes 11"):
        command.train_command(
            [data_file], child, **{**options, "hidden": None, "most_palettes": 10, "grids": True}
        )
    command.train_command(
        [data_file],
        child,
        **{**options, "hidden": None, "most_palettes": 1, "start": str(out), "rate": 0.5},
    )
    card = unpack_bundle(child.read_bytes())[2]
    assert card["training"]["from"] == f"strokes {Pixels(out.read_bytes()).hash.hex()}"
    assert card["command"].endswith(f"--lossless --palettes 1 --rate 0.5 --from {out}")
    with_grids = tmp_path / "grids.safetensors"
    command.train_command(
        [data_file], with_grids, **{**options, "hidden": None, "grids": True, "start": str(out)}
    )
    coarse = palettes.rounded(pixels, 25)
    stream = codec.compress(coarse, lossless=True, model=str(with_grids))
    np.testing.assert_array_equal(codec.decompress(stream, model=str(with_grids)), coarse)
    assert unpack_bundle(with_grids.read_bytes())[2]["command"].endswith(
        f"--lossless --grids --from {out}"
    )
