"""Training of the lossless model: the float network is the integer one, and what it needs of the image is only the past."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import codec  # noqa: E402
from codec.errors import UsageError  # noqa: E402
from codec.pixel_model import CONTEXTS, RADIUS, Canvas, PixelModel, Step  # noqa: E402
from codec.train import command, pixels_export  # noqa: E402
from codec.train.loop import save  # noqa: E402
from codec.train.pixels import PixelConfig, PixelNet, PixelTrainer, Tokens, evaluate  # noqa: E402

CONFIG = PixelConfig(hidden=16, layers=1, flag=4)


def random_net(seed: int) -> PixelNet:
    """A network far from its start: every parameter is moved, so that every part of it matters."""
    torch.manual_seed(seed)
    net = PixelNet(CONFIG)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter += torch.randn_like(parameter) * (0.002 if name.endswith((".ink", ".shade", ".count")) else 0.05)
    net.set_quantized(True)
    return net


def symbols_of(step: Step, pixels: np.ndarray) -> np.ndarray:
    values = pixels.reshape(len(pixels), -1)[step.images, step.pixel].astype(np.int64)
    return values if step.freq.shape[1] == 256 else np.minimum(values, 1)


def ideal_bytes(model: PixelModel, pixels: np.ndarray) -> float:
    """Bytes an image by the model's frequencies, whether or not storing would be better."""
    network, bits = model.steps(np.ones(len(pixels), np.bool_)), 0.0
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
    model = PixelModel(pixels_export.export(net, {"name": "any-lossless"}))
    # Half a percent is for activations in 1/128; a wrong context or table costs far more.
    expected = evaluate(net, torch.tensor(pixels))["estimated_bytes"]
    assert ideal_bytes(model, pixels) == pytest.approx(expected, rel=0.005)


def test_the_histograms_are_those_of_a_plain_count() -> None:
    pixels = helpers.drawn(3)
    tokens = Tokens(torch.tensor(pixels), torch.float32)
    histograms = tokens.histograms().numpy()
    canvas = Canvas(3)
    canvas.padded[:, RADIUS:, RADIUS:-RADIUS] = pixels
    for t in range(0, len(tokens.image), 7):
        image, pixel = int(tokens.image[t]), int(tokens.pixel[t])

        def rows(p: int, image: int = image) -> np.ndarray:
            canvas.look(*divmod(p, 28))
            return canvas.contexts(p, np.array([image]))[0]

        expected = np.zeros((len(CONTEXTS), 256))
        for earlier in range(pixel):
            value = pixels[image].flat[earlier]
            if value:
                expected[rows(earlier) == rows(pixel), value] += 1
        np.testing.assert_array_equal(histograms[t], expected)


def test_nothing_of_the_rest_of_the_image_is_seen() -> None:
    """Bits of the pixels up to a row do not change with what follows."""
    pixels = helpers.drawn(4)
    changed = pixels.copy()
    changed[:, 15:] = 255 - changed[:, 15:]
    model = PixelModel(pixels_export.export(random_net(2), {"name": "any-lossless"}))
    every = np.ones(4, np.bool_)
    networks = model.steps(every), model.steps(every)
    steps = [next(network) for network in networks]
    while steps[0].pixel < 15 * 28:
        np.testing.assert_array_equal(steps[0].freq, steps[1].freq)
        symbols = [symbols_of(step, p) for step, p in zip(steps, (pixels, changed), strict=True)]
        steps = [network.send(s) for network, s in zip(networks, symbols, strict=True)]


def test_a_trainer_learns_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    pixels = helpers.drawn(200).copy()
    first = PixelTrainer(pixels, seed=3, config=CONFIG, log=tmp_path / "log")
    before = evaluate(first.net, first.held_out)["estimated_bytes"]
    first.batch = 12  # enough for this, and a fifth of the time
    for _ in range(30):
        first.step(0.3)
    assert evaluate(first.net, first.held_out)["estimated_bytes"] < 0.9 * before
    save(first.state(), tmp_path / "checkpoint.pt")
    expected = [first.step(0.3), first.step(0.8)]
    second = PixelTrainer(pixels, seed=9, config=CONFIG)
    second.batch = 12
    second.load(torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    assert [second.step(0.3), second.step(0.8)] == expected
    first.report(1.0)
    assert '"estimated_bytes"' in (tmp_path / "log").read_text()


def test_aez_train_lossless_makes_a_model_that_gives_every_pixel_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_file, out = tmp_path / "strokes.npy", tmp_path / "strokes.safetensors"
    np.save(data_file, helpers.drawn(120))
    options: dict[str, Any] = {"lossless": True, "hidden": 16, "minutes": 0.01, "seed": 3, "resume": False, "quiet": False}
    with pytest.raises(UsageError, match="add --lossless"):
        command.train_command([data_file], out, **{**options, "lossless": False})
    command.train_command([data_file], out, **options)
    printed = capsys.readouterr().out
    assert "quality 100" in printed
    assert f"aez compress --lossless -m {out}" in printed
    pixels = helpers.drawn(5)
    stream = codec.compress(pixels, lossless=True, model=str(out))
    np.testing.assert_array_equal(codec.decompress(stream, model=str(out)), pixels)
