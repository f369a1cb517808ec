"""Training an encoder alone: the cost falls, the decoder does not move."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import helpers
import numpy as np
import pytest
import torch
from test_train import CARD, small_net

from codec.bundle import unpack_bundle
from codec.model import Model, log2_lmbda
from codec.train import encoder
from codec.train.encoder import Encoder, EncoderTrainer
from codec.train.export import export
from codec.train.loop import save

ENCODER = ("input", "analysis", "squeeze", "posterior0", "posterior1")


@pytest.fixture(autouse=True)
def one_seed() -> Iterator[None]:
    """Start each test from the same random state, on one thread."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def stream() -> bytes:
    net = small_net()
    net.set_quantized(True)
    return export(net, CARD, helpers.drawn(40, any_ink=True))


def batch(count: int) -> torch.Tensor:
    return torch.from_numpy(helpers.drawn(count, any_ink=True).copy()).float()


def cost(model: Model, pixels: np.ndarray, quality: int) -> float:
    encoded = model.encode(pixels, quality)
    error = np.square((pixels.astype(float) - encoded.pixels) / 255).sum()
    return (2.0 ** log2_lmbda(quality) * error + encoded.ideal_bits) / len(pixels)


@pytest.mark.parametrize("quality", [0, 20, 40, 75, 99])
def test_its_cost_is_that_of_the_integer_model(stream: bytes, quality: int) -> None:
    pixels = batch(64)
    net = Encoder(stream, pixels.mean(0))
    costs = net(pixels, torch.full((64,), float(quality)), 0.02, drawn=1e-9)[1]
    found = costs.mean().item() / (2 ** log2_lmbda(quality) + 1) ** encoder.EXPONENT
    assert found == pytest.approx(
        cost(Model(stream), pixels.numpy().astype(np.uint8), quality), rel=0.01
    )


def test_every_tensor_of_the_decoder_is_kept_and_the_encoder_as_it_was_comes_back(
    stream: bytes,
) -> None:
    pixels = batch(64)
    before = unpack_bundle(stream)[1]
    after = unpack_bundle(Encoder(stream, pixels.mean(0)).bundle(CARD))[1]
    assert after.keys() == before.keys()
    for name in before:
        size = np.abs(before[name]).max()
        assert np.abs(after[name].astype(np.int64) - before[name]).max() <= 1 + 0.002 * size, name
        if name.split(".")[0] not in ENCODER and "posterior" not in name:
            np.testing.assert_array_equal(after[name], before[name], name)


def test_only_the_encoder_learns_and_the_cost_of_a_batch_falls(stream: bytes) -> None:
    pixels, quality = batch(64), torch.linspace(20, 90, 64)
    net = Encoder(stream, pixels.mean(0))
    frozen = {name: p.clone() for name, p in net.named_parameters() if not p.requires_grad}
    learning = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learning, 1e-3)
    costs = []
    for _ in range(40):
        loss, cost = net(pixels, quality, 0.05)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in learning)
        optimizer.step()
        costs.append(cost.mean().item())
    assert np.mean(costs[-5:]) < 0.98 * np.mean(costs[:5])
    for name, p in net.named_parameters():
        if name in frozen:
            assert p.grad is None
            assert torch.equal(p, frozen[name]), name


def test_the_height_of_an_edge_is_the_difference_of_costs_on_its_two_sides(
    stream: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One latent of the last level drawn in each image, against the exact cost of that change."""
    model, quality = Model(stream), 80
    pixels = helpers.drawn(64, any_ink=True)
    net = Encoder(stream, torch.from_numpy(pixels.copy()).float().mean(0))
    predicted, measured = [], []
    for turn in range(30):
        drawn = torch.from_numpy(
            np.random.default_rng(turn).permuted(np.tile(np.arange(147), (64, 1)), axis=1)[:, :1]
        )

        def rand_like(x: torch.Tensor, drawn: torch.Tensor = drawn) -> torch.Tensor:
            """Chance that draws one latent of the last level, if it is near an edge."""
            if x.shape[1:] != (7, 7, 3):
                return torch.ones_like(x)
            return torch.ones(64, 147).scatter(1, drawn, 0.3).view(x.shape)

        monkeypatch.setattr(torch, "rand_like", rand_like)
        levels = net.coded(
            torch.from_numpy(pixels.copy()).float(), torch.full((64,), float(quality)), 0.2, 1.0
        )[0]
        heights = [level.height.flatten(1) for level in levels]
        assert all((height == 0).all() for height in heights[:-1])
        sides = levels[-1].sides.flatten(1).gather(1, drawn)[:, 0].numpy()
        symbols, rows, decoded = model.quantize(pixels, quality)
        position, channel = drawn[:, 0].numpy() // 3, drawn[:, 0].numpy() % 3
        at = 49 * channel + position, np.arange(64)
        moved = symbols[-1].copy()
        moved[at] += sides
        steps = model.synthesis(quality, 64)
        mean, _, _ = next(steps)
        for each in (*symbols[:-1], moved):
            try:
                mean, _, _ = steps.send((each.reshape(mean.shape) * 256 + mean).astype(np.int32))
            except StopIteration as stop:
                changed = stop.value
        bits = model._bits[-1]
        rise = (bits(rows[-1], moved) - bits(rows[-1], symbols[-1]))[at] / 256
        sse = [
            np.square((pixels.astype(float) - each) / 255).sum(axis=(1, 2))
            for each in (decoded, changed)
        ]
        exact = 2.0 ** log2_lmbda(quality) * (sse[1] - sse[0]) + rise
        measured += list(exact[sides != 0])
        predicted += list(heights[-1].gather(1, drawn)[:, 0].detach().numpy()[sides != 0])
    assert len(measured) > 100
    assert (
        np.corrcoef(measured, predicted)[0, 1] > 0.75
    )  # pixels are clipped and rounded, in so small a network often


def test_two_steps_of_a_trainer_a_checkpoint_and_the_same_decoder(
    stream: bytes, tmp_path: Path
) -> None:
    pixels = helpers.drawn(120, any_ink=True).copy()
    trainer = EncoderTrainer(pixels, stream, log=tmp_path / "log", learning_rate=1e-3)
    trainer.report(None)
    trainer.step(0.3)
    save(trainer.state(), tmp_path / "checkpoint.pt")
    expected = trainer.step(0.9)
    again = EncoderTrainer(pixels, stream, seed=9, learning_rate=1e-3)
    again.load(torch.load(tmp_path / "checkpoint.pt"))
    assert again.step(0.9) == expected
    trainer.report(1.0)
    assert (tmp_path / "log").read_text().count('"costs"') == 2
    better = trainer.bundle()
    before, after = (unpack_bundle(each)[1] for each in (stream, better))
    kept = [
        name for name in before if name.split(".")[0] not in ENCODER and "posterior" not in name
    ]
    assert len(kept) > 40
    for name in kept:
        np.testing.assert_array_equal(after[name], before[name], name)
    encoded = Model(better).encode(pixels[:20], 60)
    np.testing.assert_array_equal(Model(stream).decode(encoded.messages, 20, 60)[0], encoded.pixels)


def test_the_command_writes_a_model_with_the_same_decoder(
    stream: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    np.save(tmp_path / "x.npy", helpers.drawn(120, any_ink=True))
    (tmp_path / "old.safetensors").write_bytes(stream)
    command = ["encoder", str(tmp_path / "x.npy"), "--of", str(tmp_path / "old.safetensors"), "-o",
               str(tmp_path / "new.safetensors"), "--minutes", "1e-9"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", command)
    encoder.main()
    assert "minutes: cost" in capsys.readouterr().out
    assert Model((tmp_path / "new.safetensors").read_bytes()).card["encoder"]["images"] == 110
