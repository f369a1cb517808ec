"""Training an encoder alone: the cost falls, the decoder does not move."""

from __future__ import annotations

import hashlib
from pathlib import Path

import helpers
import numpy as np
import pytest
import torch
from test_train import CARD, Pair, small_net

from codec.errors import EncoderNotFound, UsageError
from codec.measure import tool
from codec.model import registry
from codec.model.bundle import unpack_bundle
from codec.model.ladder import Ladder
from codec.model.ladder_parts import log2_lmbda
from codec.train import data
from codec.train.command import CARD_QUALITIES
from codec.train.loop import save
from codec.train.lossy import encoder
from codec.train.lossy.encoder import EncoderNet, EncoderTrainer
from codec.train.lossy.export import export

pytestmark = pytest.mark.usefixtures("one_seed")


@pytest.fixture(scope="module")
def files() -> Pair:
    """The file of a small model, and that of its encoder."""
    net = small_net()
    net.set_quantized(True)
    return export(net, CARD, helpers.drawn(40, any_ink=True))


@pytest.fixture
def model(files: Pair) -> Ladder:
    return Ladder(*files)


def batch(count: int) -> torch.Tensor:
    return torch.from_numpy(helpers.drawn(count, any_ink=True).copy()).float()


def cost(model: Ladder, pixels: np.ndarray, quality: int) -> float:
    encoded = model.encode(pixels, quality)
    error = np.square((pixels.astype(float) - encoded.pixels) / 255).sum()
    return (2.0 ** log2_lmbda(quality) * error + encoded.ideal_bits) / len(pixels)


@pytest.mark.parametrize("quality", [0, 20, 40, 75, 99])
def test_its_cost_is_that_of_the_integer_model(model: Ladder, quality: int) -> None:
    pixels = batch(64)
    net = EncoderNet(model, pixels.mean(0))
    costs = net(pixels, torch.full((64,), float(quality)), 0.02, drawn=1e-9)[1]
    found = costs.mean().item() / (2 ** log2_lmbda(quality) + 1) ** encoder.EXPONENT
    expected = cost(model, pixels.numpy().astype(np.uint8), quality)
    assert found == pytest.approx(expected, rel=0.01)


def test_an_encoder_that_learned_nothing_comes_back_as_it_was(model: Ladder, files: Pair) -> None:
    """Its tensors and no others, within roundings, for the same model."""
    architecture, before, card = unpack_bundle(files[1])
    found = unpack_bundle(EncoderNet(model, batch(64).mean(0)).bundle(CARD))
    assert (found[0], found[2]) == (architecture, card)
    after = found[1]
    assert after.keys() == before.keys()
    for name in before:
        size = np.abs(before[name]).max()
        assert np.abs(after[name].astype(np.int64) - before[name]).max() <= 1 + 0.002 * size, name


def test_only_the_encoder_learns_and_the_cost_of_a_batch_falls(model: Ladder) -> None:
    pixels, quality = batch(64), torch.linspace(20, 90, 64)
    net = EncoderNet(model, pixels.mean(0))
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
    model: Ladder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One latent of the last level drawn in each image, against the exact cost of that change."""
    quality, pixels = 80, helpers.drawn(64, any_ink=True)
    net = EncoderNet(model, torch.from_numpy(pixels.copy()).float().mean(0))
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


def test_two_steps_of_a_trainer_a_checkpoint_and_an_encoder_for_the_same_decoder(
    model: Ladder, files: Pair, tmp_path: Path
) -> None:
    pixels = helpers.drawn(120, any_ink=True).copy()
    rate = 0.5  # the first steps are at a 200th of it
    trainer = EncoderTrainer(pixels, model, log=tmp_path / "log", learning_rate=rate)
    trainer.report(None)
    trainer.step(0.3)
    save(trainer.state(), tmp_path / "checkpoint.pt")
    expected = trainer.step(0.9)
    again = EncoderTrainer(pixels, model, seed=9, learning_rate=rate)
    again.load(torch.load(tmp_path / "checkpoint.pt"))
    assert again.step(0.9) == expected
    trainer.report(1.0)
    assert (tmp_path / "log").read_text().count('"costs"') == 2
    with trainer.averaged():
        better = trainer.net.bundle(CARD)
    before, after = (unpack_bundle(each)[1] for each in (files[1], better))
    assert after.keys() == before.keys()
    assert any((after[name] != before[name]).any() for name in before)
    encoded = Ladder(files[0], better).encode(pixels[:20], 60)
    assert encoded.messages != model.encode(pixels[:20], 60).messages
    decoded, bad = Ladder(files[0]).decode(encoded.messages, 20, 60)
    assert not bad.any()
    np.testing.assert_array_equal(decoded, encoded.pixels)


def test_a_checkpoint_of_the_encoder_of_another_model_is_refused(model: Ladder) -> None:
    trainer = EncoderTrainer(helpers.drawn(120, any_ink=True).copy(), model)
    other = {**trainer.state(), "model": "0" * 16}
    with pytest.raises(UsageError, match=f"of model 0{{16}}, not of {model.hash.hex()}"):
        trainer.load(other)


def test_without_an_encoder_there_is_nothing_to_train(files: Pair) -> None:
    with pytest.raises(EncoderNotFound, match="probe came without its encoder"):
        EncoderTrainer(helpers.drawn(120, any_ink=True).copy(), Ladder(files[0]))


def run(command: list[str]) -> int:
    """Run the command line -> its exit code."""
    with pytest.raises(SystemExit) as ended:
        tool.run(encoder.main, command)
    return int(ended.value.code or 0)


@pytest.fixture
def command(files: Pair, tmp_path: Path) -> list[str]:
    """A command line that trains for next to no time; model and encoder are old.*, in a folder."""
    np.save(tmp_path / "x.npy", helpers.drawn(120, any_ink=True))
    old = tmp_path / "old.safetensors"
    for path, stream in zip((old, registry.encoder_path(old)), files, strict=True):
        path.write_bytes(stream)
    out = tmp_path / "new.encoder.safetensors"
    return [str(tmp_path / "x.npy"), "--of", str(old), "-o", str(out), "--minutes", "1e-09"]


def test_the_command_writes_an_encoder_and_nothing_else(
    command: list[str], files: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    assert run(command) == 0
    assert "minutes: cost" in capsys.readouterr().out
    made = {path.name for path in tmp_path.iterdir()} - before
    assert made == {"new.encoder.safetensors", "new.encoder.log.jsonl"}
    assert (tmp_path / "old.safetensors").read_bytes() == files[0]
    card = Ladder(files[0], (tmp_path / "new.encoder.safetensors").read_bytes()).encoder.card
    train, _ = data.split(data.load([tmp_path / "x.npy"]))
    old = hashlib.sha256(files[1]).hexdigest()[:16]
    assert card == {
        "name": "probe",
        "model_hash": hashlib.sha256(files[0]).hexdigest()[:16],
        "trained_on": f"110 images, sha256 {data.sha256(train)}",
        "command": f"python -m codec.train.lossy.encoder {' '.join(command)} --seed 0",
        "training": {**card["training"], "steps": 1, "seed": 0, "from": f"probe {old}"},
        "figures": {"on": "10 held-out images, not trained on", "curve": card["figures"]["curve"]},
    }
    rows = card["figures"]["curve"]
    assert [row["quality"] for row in rows] == list(CARD_QUALITIES)
    assert rows[0]["bytes"] < rows[-1]["bytes"]
    assert rows[0]["psnr_db"] < rows[-1]["psnr_db"]
    assert card["training"].keys() == {"steps", "seconds", "seed", "torch", "from"}


def test_the_model_may_be_given_by_name(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEZ_WEIGHTS", str(tmp_path))
    assert run([*command, "--of", "old"]) == 0
    assert (tmp_path / "new.encoder.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (
            ["-o", "new.safetensors"],
            2,
            "the name of an encoder file must end in .encoder.safetensors",
        ),
        (["-o", "OLD"], 1, "exists, and a model is never overwritten"),
        (["--of", "mnist-lossless"], 2, "is lossless; give a lossy one"),
        (["--resume"], 2, "no such checkpoint to resume from"),
    ],
)
def test_what_cannot_be_done_is_said_before_training(
    command: list[str],
    options: list[str],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = str(registry.encoder_path(Path(command[2])))
    assert run([*command, *(old if each == "OLD" else each for each in options)]) == code
    assert said in capsys.readouterr().err
