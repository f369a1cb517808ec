"""Training: data, loss, checkpoints, and that the exported integers are the network that was
trained.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import golden_tool
import helpers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

import codec
from codec.cli.app import app
from codec.errors import AezError, BadModel, EncoderNotFound, ImageError, ModelNotFound, UsageError
from codec.files import images
from codec.model import registry
from codec.model.bundle import unpack_bundle
from codec.model.ladder import Ladder
from codec.model.ladder_parts import (
    DEQUANTIZED_MAX,
    DEQUANTIZER_BITS,
    LATENT_MAX,
    NUM_SIGMAS,
    STEP_UNIT,
    log2_lmbda,
)
from codec.model.layers import ACTIVATION_MAX, MULTIPLIER_BITS, interpolate
from codec.train import command, data, loop, others
from codec.train.bundle import pack_bundle
from codec.train.loop import is_flat, resume, save, schedule
from codec.train.lossy import network, warm_start
from codec.train.lossy.export import export, integer_tensors, normal_cdf, pack_model, pmf_to_cdf
from codec.train.lossy.network import Config, LadderNet
from codec.train.lossy.trainer import LadderTrainer, evaluate, price, rate_distortion_loss

pytestmark = pytest.mark.usefixtures("one_seed")
CONFIG = Config(
    channels=8,
    hidden=4,
    head=6,
    dense_latents=4,
    latents=(2, 3),
    analysis_residuals=1,
    synthesis_residuals=(1, 1, 1),
)
CARD: dict[str, Any] = {"name": "probe", "trained_on": "strokes"}
Pair = tuple[bytes, bytes]  # the file of a model, and that of its encoder


def small_net(seed: int = 0) -> LadderNet:
    """A network with every parameter stirred, as after some training: initial zeros would hide
    exchanged rows.
    """
    torch.manual_seed(seed)
    pixels = torch.from_numpy(helpers.drawn(64, any_ink=True).copy()).float()
    net = LadderNet(pixels.mean(0).round(), CONFIG)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            scale = 0.3 if name.endswith("gain") else 0.1
            parameter += torch.randn_like(parameter) * (
                scale if parameter.ndim == 2 and "weight" not in name else 0.02
            )
    return net


@pytest.fixture(scope="module")
def exported() -> tuple[LadderNet, Pair]:
    """A small network with its weights on the integer grid, and its two bundles."""
    net = small_net()
    net.set_quantized(True)
    return net, export(net, CARD, helpers.drawn(40, any_ink=True))


# ---- the integers are the network


class TorchSynthesis:
    """The decoder of a bundle run by torch in float32, in the layout (N, C, 7, 7): a second opinion
    on `integer_net`.
    """

    def __init__(self, tensors: helpers.Tensors) -> None:
        self._tensors = tensors

    def layer(self, name: str, x: torch.Tensor, quality: int, low: int, high: int) -> torch.Tensor:
        weight, bias, shift, multiplier = (
            self._tensors[f"{name}.{p}"] for p in ("weight", "bias", "shift", "multiplier")
        )
        w = torch.from_numpy(weight.astype(np.float32))
        y = (
            F.linear(x, w)
            if x.ndim == 2
            else F.conv2d(x, w if w.ndim == 4 else w[:, :, None, None], padding=w.ndim // 4)
        )
        added = bias.astype(np.int64) + (
            interpolate(shift, quality)[:, None] if bias.ndim == 2 else interpolate(shift, quality)
        )
        b = torch.from_numpy(added.astype(np.float32))
        m = torch.from_numpy(
            interpolate(multiplier, quality).astype(np.float32) * np.float32(2.0**-MULTIPLIER_BITS)
        )
        if x.ndim == 4:
            b, m = b.view(-1, 7, 7) if b.ndim == 2 else b[:, None, None], m[:, None, None]
        return torch.round((y + b) * m).clamp(low, high)

    def _relu(self, name: str, x: torch.Tensor, quality: int) -> torch.Tensor:
        return self.layer(name, x, quality, 0, ACTIVATION_MAX)

    def _clip(self, name: str, x: torch.Tensor, quality: int) -> torch.Tensor:
        return self.layer(name, x, quality, -ACTIVATION_MAX, ACTIVATION_MAX)

    def residual(self, name: str, t: torch.Tensor, quality: int) -> torch.Tensor:
        h = self._relu(f"{name}.spatial", self._relu(f"{name}.reduce", t, quality), quality)
        return (t + self._clip(f"{name}.restore", h, quality)).clamp(
            -ACTIVATION_MAX, ACTIVATION_MAX
        )

    def dequantize(self, name: str, y: torch.Tensor, quality: int) -> torch.Tensor:
        row = interpolate(self._tensors[name], quality).astype(np.float32) * np.float32(
            2.0**-DEQUANTIZER_BITS
        )
        multiplier = torch.from_numpy(row).view(1, -1, *[1] * (y.ndim - 2))
        return torch.round(y * multiplier).clamp(-DEQUANTIZED_MAX, DEQUANTIZED_MAX)

    def pixels(self, symbols: list[np.ndarray], quality: int) -> np.ndarray:
        n = symbols[0].shape[1]
        mean = torch.from_numpy(
            interpolate(self._tensors["prior_mean"], quality).astype(np.float32)
        )
        y = torch.from_numpy(symbols[0].T.astype(np.float32)) * STEP_UNIT + mean
        h = self._relu(
            "start1",
            self._relu("start0", self.dequantize("dequantizer", y, quality), quality),
            quality,
        )
        t = self._clip("widen", h.view(n, -1, 7, 7), quality)
        for i in range(len(symbols)):
            t = self.residual(f"synthesis.{i}.0", t, quality)
            if i == len(symbols) - 1:
                break
            name = f"levels.{i}"
            h = self._relu(f"{name}.prior0", t, quality)
            means = self.layer(f"{name}.prior_mean", h, quality, -LATENT_MAX, LATENT_MAX)
            y = (
                torch.from_numpy(symbols[i + 1].reshape(-1, 49, n).astype(np.float32))
                .permute(2, 0, 1)
                .reshape(n, -1, 7, 7)
            )
            merged = self._clip(
                f"{name}.merge",
                self.dequantize(f"{name}.dequantizer", y * STEP_UNIT + means, quality),
                quality,
            )
            t = (t + merged).clamp(-ACTIVATION_MAX, ACTIVATION_MAX)
        out = self.layer("output", t, quality, 0, 255)
        # channel 4 * y + x, as in a patch
        return F.pixel_shuffle(out, 4)[:, 0].numpy().astype(np.uint8)


@torch.no_grad()
def twin(
    net: LadderNet,
    pixels: np.ndarray,
    quality: int,
    symbols: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> tuple:
    """The float network with the latents that `symbols` stand for -> x_hat (N, 28, 28), distance of
    its own symbols.
    """
    n, own = len(pixels), []

    def quantize(
        y: torch.Tensor, mean: torch.Tensor, log_sigma: torch.Tensor, hard: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        given = torch.from_numpy(symbols[len(own)].astype(np.float32))
        given = given.T if y.ndim == 2 else given.view(-1, 49, n).permute(2, 1, 0).reshape(y.shape)
        difference = (torch.round(y - mean) - given).abs()
        own.append(
            (
                difference.T
                if y.ndim == 2
                else difference.flatten(1, 2).permute(2, 1, 0).reshape(-1, n)
            ).numpy()
        )
        return mean + given, torch.zeros_like(y)

    monkeypatch.setattr(network, "quantize", quantize)
    x_hat, _ = net(
        torch.from_numpy(pixels.copy()).float(), torch.full((n,), log2_lmbda(quality)), hard=True
    )
    return x_hat.numpy(), own


@pytest.mark.parametrize("quality", [0, 40, 75, 99])
def test_torch_on_the_integers_gives_the_same_pixels_bit_for_bit(
    exported: tuple[LadderNet, Pair], quality: int
) -> None:
    for model in (Ladder(*exported[1]), helpers.tiny_model()):
        symbols, _, pixels = model.quantize(helpers.drawn(24, any_ink=True), quality)
        np.testing.assert_array_equal(
            TorchSynthesis(unpack_bundle(model.stream)[1]).pixels(symbols, quality), pixels
        )
        assert np.ptp(pixels, axis=0).max() > 10


@pytest.mark.parametrize("quality", [0, 39, 75, 99])
def test_the_float_network_agrees_with_its_integers(
    exported: tuple[LadderNet, Pair], quality: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not bit for bit: activations are rounded to 1/128, latents and means to 1/256 of a step.

    Fed the same symbols, pixels are those of the float network rounded (mean error 1/4), nearly all
    within two levels. Most symbols are the same, the others neighbours (but for those at the end of
    their row).
    """
    net, streams = exported
    pixels = helpers.drawn(24, any_ink=True)
    model = Ladder(*streams)
    symbols, rows, decoded = model.quantize(pixels, quality)
    x_hat, differences = twin(net, pixels, quality, symbols, monkeypatch)
    error = np.abs(np.clip(x_hat, 0, 255) - decoded)
    assert np.mean(error <= 2) >= (0.999 if quality else 0.95)
    assert error.mean() < (0.3 if quality else 0.8)
    assert decoded.std() > 30
    assert min(np.abs(s).max() for s in symbols) >= 2
    for table, given, row, difference in zip(model.tables, symbols, rows, differences, strict=True):
        free = np.abs(given) < (np.count_nonzero(table.freq, axis=1) // 2)[row]
        assert free.mean() > 0.3
        assert np.mean(difference[free] == 0) > 0.9
        assert np.mean(difference[free] <= 1) > 0.99


def test_weights_on_the_grid_are_the_integers_of_the_bundle(
    exported: tuple[LadderNet, Pair],
) -> None:
    net, _ = exported
    tensors = integer_tensors(net)
    layer = net.levels[1].merge
    np.testing.assert_allclose(
        tensors["levels.1.merge.weight"] * layer.weight_step().numpy()[:, None],
        layer.used_weight().detach().numpy(),
        rtol=1e-5,
        atol=1e-9,
    )
    for name, tensor in tensors.items():
        if name.endswith(".weight"):
            assert tensor.dtype == np.int8
            sums = np.abs(tensor.astype(int)).reshape(len(tensor), -1).sum(axis=1) * ACTIVATION_MAX
            largest = np.abs(tensor.astype(int)).reshape(len(tensor), -1).max(axis=1)
            # int8 or the accumulator is used to the full
            assert ((largest == 127) | (sums > 0.85 * 2**24)).all(), name
            assert (sums < 0.95 * 2**24).all(), name


def test_export_gives_the_same_bytes_for_the_same_network(exported: tuple[LadderNet, Pair]) -> None:
    net, streams = exported
    assert export(net, CARD, helpers.drawn(40, any_ink=True)) == streams
    again = small_net()
    again.set_quantized(True)
    assert export(again, CARD, helpers.drawn(40, any_ink=True)) == streams


def test_what_decoding_needs_makes_the_model_and_all_else_its_encoder(
    exported: tuple[LadderNet, Pair],
) -> None:
    net, streams = exported
    both = [set(unpack_bundle(stream)[1]) for stream in streams]
    assert both[0] | both[1] == {*integer_tensors(net), "cdf"}
    assert all(
        not {"posterior0", "posterior1", "input", "analysis", "squeeze"} & set(name.split("."))
        for name in both[0]
    )
    assert unpack_bundle(streams[1])[2] == {**CARD, "model_hash": Ladder(*streams).hash.hex()}


@pytest.mark.slow
def test_a_bundle_is_packed_alike_every_time_and_in_every_process() -> None:
    """A model is named by the hash of its bytes: equal weights must give equal bytes."""
    code = """
import hashlib, numpy as np
from codec.train.bundle import pack_bundle
t = {"b": np.arange(3, dtype=np.int8), "a": np.ones((2, 2), np.int32)}
card = {"name": "x", "a": [1]}
packed = [pack_bundle(dict(sorted(t.items(), reverse=i % 2)), card, "ladder-1") for i in range(40)]
print({hashlib.sha256(stream).hexdigest() for stream in packed})
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(codec.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    tensors = {"a": np.ones((2, 2), np.int32), "b": np.arange(3, dtype=np.int8)}
    here = {
        hashlib.sha256(pack_bundle(tensors, {"a": [1], "name": "x"}, "ladder-1")).hexdigest()
        for _ in range(40)
    }
    assert done.stderr == ""
    assert len(here) == 1
    assert done.stdout.strip() == str(here)


def test_an_exported_model_codes_images_and_carries_its_card(
    exported: tuple[LadderNet, Pair],
) -> None:
    model = Ladder(*exported[1])
    assert model.card == CARD
    for quality in (0, 75):
        encoded = model.encode(helpers.drawn(20, any_ink=True), quality)
        pixels, bad = model.decode(encoded.messages, 20, quality)
        assert not bad.any()
        np.testing.assert_array_equal(pixels, encoded.pixels)


def test_calibrated_tables_cost_no_more_than_normal_ones_on_their_images(
    exported: tuple[LadderNet, Pair],
) -> None:
    net, streams = exported
    plain = Ladder(*pack_model({**integer_tensors(net), "cdf": np.stack([normal_cdf()] * 3)}, CARD))
    calibrated = Ladder(*streams)
    pixels = helpers.drawn(40, any_ink=True)
    bits = {
        m: sum(m.encode(pixels, q).ideal_bits for q in (15, 45, 75)) for m in (plain, calibrated)
    }
    assert bits[calibrated] < bits[plain]


def test_cdf_rows_worked_out_by_hand() -> None:
    """pmf 1/2 1/4 1/4: of 65536 - 3 a half is 32766, a quarter 16383; the first takes what is left:
    32770. An impossible symbol keeps a frequency of 1."""
    assert pmf_to_cdf(np.array([0.5, 0.25, 0.25])).tolist() == [0, 32770, 49153, 65536]
    assert pmf_to_cdf(np.array([1.0, 0.0, 0.0])).tolist() == [0, 65534, 65535, 65536]
    table = normal_cdf()
    assert table.shape == (NUM_SIGMAS, 256)
    freq = np.diff(table, axis=1)
    assert (freq >= 0).all()
    assert (freq[:, 0] == freq.max(axis=1)).all()
    assert (np.diff(freq[:, 0]) <= 0).all()  # wider and wider
    assert (np.diff(freq[12:, 0]) < 0).all()  # below, all but 0 has the least frequency


# ---- and back


def test_a_network_from_a_bundle_is_the_one_that_was_exported(
    exported: tuple[LadderNet, Pair],
) -> None:
    """Whatever mean image it is given: bytes within a percent, PSNR within 0.1 dB; a wrong sign or
    order costs far more.
    """
    net, streams = exported
    back = warm_start.ladder(Ladder(*streams), torch.full((28, 28), 100.0))
    assert back.config == CONFIG
    back.set_quantized(True)
    pixels = torch.from_numpy(helpers.drawn(60, any_ink=True).copy())
    for ours, its in zip(
        *(evaluate(n, pixels, [0.0, 3.3, 7.0, 10.0]) for n in (net, back)), strict=True
    ):
        assert its["estimated_bytes"] == pytest.approx(ours["estimated_bytes"], rel=0.01)
        assert its["psnr_db"] == pytest.approx(ours["psnr_db"], abs=0.1)
        assert its["level_bytes"] == pytest.approx(ours["level_bytes"], rel=0.02, abs=0.1)


def test_a_network_from_a_bundle_exports_to_nearly_the_same_integers(
    exported: tuple[LadderNet, Pair],
) -> None:
    tensors = unpack_bundle(exported[1][0])[1] | unpack_bundle(exported[1][1])[1]
    again = integer_tensors(warm_start.ladder(Ladder(*exported[1]), exported[0].mean_image))
    for name in again:
        assert again[name].shape == tensors[name].shape
        size = np.abs(tensors[name]).max()
        assert np.abs(again[name].astype(np.int64) - tensors[name]).max() <= max(2, 0.02 * size), (
            name
        )


def test_rows_that_were_clipped_are_fitted_as_beyond_the_clip() -> None:
    """A line from 0 to 10, clipped at 8, and one clipped at both ends; and one that is clipped
    everywhere.
    """
    lines = np.linspace(0, 10, 34)[:, None] * [1.0, 2.0] - [0.0, 5.0]
    clipped = lines.clip(0, 8)
    found = warm_start.BASIS @ warm_start.fit(clipped, 0, 8).T
    free = (clipped > 0) & (clipped < 8)
    np.testing.assert_allclose(found[free], lines[free], atol=0.1)
    assert (np.abs(found.clip(0, 8) - clipped) < 0.1).all()
    np.testing.assert_allclose(
        warm_start.BASIS @ warm_start.fit(np.full((34, 1), 8.0), 0, 8).T, 8, atol=1e-9
    )


def test_only_a_lossy_model_that_can_be_trained_is_started_from() -> None:
    with pytest.raises(BadModel, match="training can only start from a lossy model, 'ladder-1'"):
        warm_start.ladder(helpers.tiny_pixel_model(), torch.zeros(28, 28))
    # it squeezes to 2 channels, not 16
    with pytest.raises(BadModel, match="its sizes are those of no network that can be trained"):
        warm_start.ladder(helpers.tiny_model(), torch.zeros(28, 28))
    with pytest.raises(EncoderNotFound, match="tiny0 came without its encoder"):
        warm_start.ladder(Ladder(helpers.tiny_bundle()), torch.zeros(28, 28))


def test_a_trainer_that_starts_from_a_model_is_at_once_as_good_and_stays_so_when_resumed(
    exported: tuple[LadderNet, Pair],
) -> None:
    pixels = helpers.drawn(120, any_ink=True).copy()
    cold, warm = (
        LadderTrainer(pixels, config=CONFIG),
        LadderTrainer(pixels, start=Ladder(*exported[1])),
    )
    parent = Ladder(*exported[1])
    assert warm.net.config == CONFIG
    assert warm.cost(warm.figures()) == pytest.approx(
        command.curve_cost(parent, warm.held_out.numpy()), rel=0.05
    )
    # no level silent or at a discount
    assert warm.loss(0.0).item() == pytest.approx(warm.loss(0.5).item(), rel=0.2)
    cold.load(warm.state())
    assert cold.warm


def test_where_training_makes_a_model_worse_the_one_it_started_from_is_kept(
    exported: tuple[LadderNet, Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = scripted([10.0, *range(11, 40)], monkeypatch, start=Ladder(*exported[1]))
    before = trainer.net.gain.detach().clone()
    told: list[float] = []
    trainer.run(100, tell=lambda seconds, figures: told.append(seconds))
    assert told[0] == 0
    assert trainer.steps > 100
    assert torch.equal(trainer.net.gain, before)


# ---- the loop


def test_loss_falls_on_one_repeated_batch() -> None:
    net = LadderNet(torch.zeros(28, 28), CONFIG)
    batch = torch.from_numpy(helpers.drawn(16, any_ink=True).copy()).float()
    log2 = torch.linspace(2, 10, 16)
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    losses = []
    for _ in range(8):
        loss = rate_distortion_loss(net, batch, log2, 0.7)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.5, 0.65, 0.9])
def test_every_parameter_in_use_gets_a_gradient(fraction: float) -> None:
    net = small_net()
    net.set_quantized(fraction >= 0.75)
    pixels = torch.from_numpy(helpers.drawn(16, any_ink=True).copy()).float()
    rate_distortion_loss(net, pixels, torch.full((16,), 5.0), fraction).backward()
    silent = {
        name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    }
    assert {name.split(".")[0] for name in silent} == ({"levels"} if fraction == 0 else set())
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_bits_start_cheap_and_reach_their_full_price() -> None:
    prices = [price(fraction, 0.12) for fraction in (0.02, 0.05, 0.1, 0.12, 0.5, 1.0)]
    assert prices[0] == pytest.approx(0.02)
    assert prices == sorted(prices)
    assert prices[3:] == pytest.approx([1, 1, 1])


def test_a_trainer_goes_on_from_its_checkpoint_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    pixels = helpers.drawn(120, any_ink=True).copy()
    first = LadderTrainer(pixels, seed=3, config=CONFIG)
    first.step(0.3)
    save(first.state(), tmp_path / "checkpoint.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]
    expected = [first.step(0.3), first.step(0.8)]
    second = LadderTrainer(pixels, seed=99, config=CONFIG)
    second.load(torch.load(tmp_path / "checkpoint.pt"))
    assert second.steps == 1
    assert [second.step(0.3), second.step(0.8)] == expected
    for name, tensor in first.net.state_dict().items():
        assert torch.equal(tensor, second.net.state_dict()[name]), name


def test_the_same_seed_trains_the_same_network_and_another_does_not() -> None:
    losses = [
        LadderTrainer(helpers.drawn(120, any_ink=True).copy(), seed=seed, config=CONFIG).step(0.5)
        for seed in (1, 1, 2)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_two_steps_of_training_export_and_decode(tmp_path: Path) -> None:
    trainer = LadderTrainer(
        helpers.drawn(120, any_ink=True).copy(), config=CONFIG, log=tmp_path / "log"
    )
    trainer.run(1e-9, checkpoint=tmp_path / "checkpoint.pt")
    assert trainer.steps == 1  # one step takes longer than that
    assert torch.load(tmp_path / "checkpoint.pt")["steps"] == 1
    trainer.step(1.0)
    trainer.report(1.5)
    # an epoch of these few images is one step
    assert (tmp_path / "log").read_text().count('"loss"') == 2
    model = Ladder(*export(trainer.net, CARD, helpers.drawn(20, any_ink=True)))
    encoded = model.encode(helpers.drawn(20, any_ink=True), 75)
    np.testing.assert_array_equal(model.decode(encoded.messages, 20, 75)[0], encoded.pixels)
    curve = evaluate(trainer.net, trainer.held_out, [0.0, 10.0])
    assert [row["log2_lmbda"] for row in curve] == [0.0, 10.0]
    assert all(row["estimated_bytes"] > 0 and len(row["level_bytes"]) == 3 for row in curve)


def test_the_schedule_runs_over_the_budget_or_once_flat_over_a_part_of_the_time_spent() -> None:
    """Flat after 100 of 1000 s, at a tenth of the schedule: the other nine tenths take 30 s.

    After 900 s: the 100 s left.
    """
    assert [schedule(s, 1000) for s in (0, 250, 1000, 1100)] == [0, 0.25, 1, 1]
    assert [schedule(s, 1000, 100) for s in (100, 110, 130, 131)] == pytest.approx([0.1, 0.4, 1, 1])
    assert [schedule(s, 1000, 900) for s in (900, 950, 1000)] == pytest.approx([0.9, 0.95, 1])
    assert schedule(1000, 1000, 1000) == schedule(900, 800, 850) == 1
    assert schedule(0, 0) == 1  # --minutes 0: the model that it starts from, as it is


def test_costs_are_flat_when_the_last_quarter_of_the_time_won_less_than_half_a_percent() -> None:
    falling = [(s, 100 * math.exp(-s / 1000)) for s in range(10, 101, 10)]
    assert not is_flat(falling, 100)
    # 93.2 after 70 s; 92.8 is within half a percent
    assert is_flat([*falling[:7], (80, 93.0), (90, 92.9), (100, 92.8)], 100)
    assert not is_flat([*falling[:7], (80, 93.0), (90, 92.7), (100, 93.0)], 100)
    assert is_flat([*falling[:7], (80, 95.0), (90, 97.0), (100, 99.0)], 100)  # it rose
    assert not is_flat([(50, 93.0)], 60)
    assert not is_flat([], 10)


def scripted(
    costs: list[float], monkeypatch: pytest.MonkeyPatch, start: Ladder | None = None
) -> Any:
    """A trainer whose steps take 0.1 s each by its clock, do nothing, and whose costs on held-out
    images are these in turn.
    """
    trainer: Any = LadderTrainer(
        helpers.drawn(120, any_ink=True).copy(), config=CONFIG, start=start
    )
    now, left = [0.0], list(costs)

    def step(fraction: float) -> float:
        trainer.fractions.append(fraction)
        trainer.steps += 1
        now[0] += 0.1
        with torch.no_grad():
            trainer.net.gain.fill_(float(trainer.steps))
        return 1.0

    trainer.fractions = []
    monkeypatch.setattr(trainer, "step", step)
    monkeypatch.setattr(
        trainer, "figures", lambda: {"estimated_bytes": left.pop(0) if len(left) > 1 else left[0]}
    )
    monkeypatch.setattr(trainer, "cost", lambda figures: figures["estimated_bytes"])
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    return trainer


def test_training_that_is_flat_cools_down_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = scripted([100.0 - i for i in range(10)] + [91.0] * 30, monkeypatch)
    told: list[float] = []
    trainer.run(100, tell=lambda seconds, figures: told.append(seconds))
    assert trainer.flat is not None
    assert 35 < trainer.flat < 60
    assert trainer.seconds == pytest.approx(trainer.flat * 1.3, abs=0.2)
    assert trainer.fractions == sorted(trainer.fractions)
    assert trainer.fractions[-1] > 0.95
    assert 5 <= len(told) <= 13


def test_training_that_gets_better_uses_all_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = scripted([100.0 * 0.97**i for i in range(60)], monkeypatch)
    trainer.run(100)
    assert trainer.flat is None
    assert trainer.seconds == pytest.approx(100, abs=0.2)
    assert trainer.net.gain.max() == trainer.steps  # the last weights


def test_where_the_cost_rises_the_best_weights_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = scripted([50.0, 40.0, 30.0, *range(31, 91)], monkeypatch)
    trainer.run(100)
    assert trainer.flat is not None
    best = [seconds for seconds, cost in trainer.costs if cost == 30]
    # a validation belongs to the step before it
    assert trainer.net.gain.max().item() == pytest.approx(best[0] * 10 + 1)


def test_interrupted_training_leaves_a_checkpoint_of_its_last_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = scripted([1.0], monkeypatch)
    step = trainer.step

    def interrupted(fraction: float) -> float:
        if trainer.steps == 7:
            raise KeyboardInterrupt
        return step(fraction)

    monkeypatch.setattr(trainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.run(100, checkpoint=tmp_path / "checkpoint.pt")
    assert torch.load(tmp_path / "checkpoint.pt")["steps"] == 7


def test_interrupted_aez_train_says_how_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: LadderTrainer, fraction: float) -> float:
        raise KeyboardInterrupt

    np.save(tmp_path / "strokes.npy", helpers.drawn(120, any_ink=True))
    monkeypatch.setattr(command, "LadderTrainer", functools.partial(LadderTrainer, config=CONFIG))
    monkeypatch.setattr(LadderTrainer, "step", interrupted)
    command_line = [
        "train",
        str(tmp_path / "strokes.npy"),
        "-o",
        str(tmp_path / "own.safetensors"),
        "--from",
        "none",
    ]
    result = CliRunner().invoke(app, command_line)
    assert result.exit_code == 130
    assert result.stdout.endswith(
        "own.checkpoint.pt: run the same command with --resume to continue\n"
    )
    assert (tmp_path / "own.checkpoint.pt").exists()
    assert not (tmp_path / "own.safetensors").exists()
    assert (
        CliRunner()
        .invoke(app, [*command_line, "--lossless", "--resume"])
        .stderr.endswith("own.checkpoint.pt is of a LadderTrainer, not of a PixelTrainer\n")
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": "0" * 64}, "checkpoint.pt is of other images"),
        ({"kind": "PixelTrainer"}, "checkpoint.pt is of a PixelTrainer, not of a LadderTrainer"),
        ({"net": {}}, "checkpoint.pt is of a network of another size"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    trainer = LadderTrainer(helpers.drawn(120, any_ink=True).copy(), config=CONFIG)
    save({**trainer.state(), **change}, tmp_path / "checkpoint.pt")
    with pytest.raises(UsageError, match=said):
        resume(trainer, tmp_path / "checkpoint.pt")


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    trainer = LadderTrainer(helpers.drawn(120, any_ink=True).copy(), config=CONFIG)
    save(trainer.state(), tmp_path / "whole.pt")
    for stream in (b"", b"no checkpoint", (tmp_path / "whole.pt").read_bytes()[:5000]):
        (tmp_path / "checkpoint.pt").write_bytes(stream)
        with pytest.raises(UsageError, match=r"checkpoint\.pt: not a checkpoint, or a damaged one"):
            resume(trainer, tmp_path / "checkpoint.pt")


# ---- data


def test_data_loads_folders_arrays_and_idx_in_an_order_of_its_own(tmp_path: Path) -> None:
    pixels = helpers.drawn(130, any_ink=True)
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    for i in range(6):
        (folder / ("deep" if i > 3 else ".") / f"{i}.png").write_bytes(images.pack_png(pixels[i]))
    (folder / "notes.txt").write_text("no image")
    (tmp_path / "a.npy").write_bytes(images.pack_npy(pixels[6:100]))
    (tmp_path / "b.idx").write_bytes(images.pack_idx(pixels[100:129]))
    (tmp_path / "c.png").write_bytes(images.pack_png(pixels[129]))
    loaded = data.load([folder, tmp_path / "a.npy", tmp_path / "b.idx", tmp_path / "c.png"])
    by_hash = sorted(
        (hashlib.sha256(image.tobytes()).digest(), image.tobytes()) for image in pixels
    )
    assert loaded.tobytes() == b"".join(image for _, image in by_hash)
    assert data.sha256(loaded) == hashlib.sha256(loaded.tobytes()).hexdigest()


def test_one_idx_file_keeps_its_order(tmp_path: Path) -> None:
    pixels = helpers.drawn(120, any_ink=True)
    (tmp_path / "a-idx3-ubyte").write_bytes(images.pack_idx(pixels))
    np.testing.assert_array_equal(data.load([tmp_path / "a-idx3-ubyte"]), pixels)


def test_what_is_held_out_does_not_depend_on_the_order_of_the_images_and_equal_ones_stay_together(
    tmp_path: Path,
) -> None:
    """240 images sorted by class, each there twice: a twelfth, 20, is held out."""
    dark, bright = helpers.drawn(60, any_ink=True) // 4, helpers.drawn(60, any_ink=True)
    pixels = np.concatenate([dark, dark, bright, bright])
    (tmp_path / "sorted.npy").write_bytes(images.pack_npy(pixels))
    (tmp_path / "other.npy").write_bytes(images.pack_npy(pixels[::-1].copy()))
    train, held_out = data.split(data.load([tmp_path / "sorted.npy"]))
    np.testing.assert_array_equal(data.load([tmp_path / "other.npy"])[-20:], held_out)
    assert {image.max() > 64 for image in held_out} == {False, True}
    shared = {image.tobytes() for image in held_out} & {image.tobytes() for image in train}
    assert len(shared) <= 1  # at the cut


def test_of_an_npz_file_with_several_arrays_that_for_training_is_taken(tmp_path: Path) -> None:
    pixels = helpers.drawn(150, any_ink=True)
    labels = np.zeros(120, np.uint8)
    np.savez_compressed(
        tmp_path / "keras.npz",
        x_train=pixels[:120],
        y_train=labels,
        x_test=pixels[120:],
        y_test=labels[:30],
    )
    np.savez(tmp_path / "one.npz", anything=pixels[:120], labels=labels)
    np.savez(tmp_path / "two.npz", a=pixels[:120], b=pixels[120:])
    np.savez(tmp_path / "colour.npz", train_images=np.zeros((120, 28, 28, 3), np.uint8))
    np.testing.assert_array_equal(
        data.load([tmp_path / "keras.npz"]), data.load([tmp_path / "one.npz"])
    )
    with pytest.raises(ImageError, match=r"two\.npz: has 2 arrays of images"):
        data.load([tmp_path / "two.npz"])
    with pytest.raises(
        ImageError,
        match=r"colour\.npz: has no array of images.*train_images uint8 \(120, 28, 28, 3\)",
    ):
        data.load([tmp_path / "colour.npz"])
    (tmp_path / "no.npz").write_bytes(b"PK nothing")
    with pytest.raises(ImageError, match=r"no\.npz: is truncated or damaged"):
        data.load([tmp_path / "no.npz"])


def test_files_that_cannot_be_trained_on_are_named(tmp_path: Path) -> None:
    for i, image in enumerate(helpers.drawn(110, any_ink=True)):
        (tmp_path / f"{i:03}.png").write_bytes(images.pack_png(image))
    (tmp_path / "big.png").write_bytes(images.pack_png(np.zeros((32, 30), np.uint8)))
    (tmp_path / "cut.png").write_bytes((tmp_path / "000.png").read_bytes()[:60])
    with pytest.raises(
        ImageError, match=r"2 of 112 files cannot be read: .*big\.png: 30x32 pixels.*; .*cut\.png: "
    ) as caught:
        data.load([tmp_path])
    assert "more" not in str(caught.value)
    for i in range(7):
        (tmp_path / f"text{i}.png").write_text("no image")
    with pytest.raises(ImageError, match=r"9 of 119 files .*; and 4 more"):
        data.load([tmp_path])
    with pytest.raises(ImageError, match="No such file"):
        data.load([tmp_path / "missing.npy"])


def test_too_few_images_equal_ones_and_empty_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "few.npy").write_bytes(images.pack_npy(helpers.drawn(99, any_ink=True)))
    with pytest.raises(ImageError, match="99 images are too few"):
        data.load([tmp_path / "few.npy"])
    np.save(tmp_path / "blank.npy", np.full((200, 28, 28), 7, np.uint8))
    with pytest.raises(ImageError, match="all 200 images are the same"):
        data.load([tmp_path / "blank.npy"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="empty: no images"):
        data.load([tmp_path / "empty"])


@pytest.mark.parametrize(
    ("count", "held_out"), [(100, 10), (240, 20), (10_000, 833), (60_000, 5000), (70_000, 5000)]
)
def test_the_last_images_are_held_out(count: int, held_out: int) -> None:
    pixels = np.arange(count, dtype=np.int64)[:, None, None]
    train, held = data.split(pixels)  # type: ignore[arg-type]
    assert len(held) == held_out
    np.testing.assert_array_equal(np.concatenate([train, held]), pixels)


def test_aez_train_makes_a_model_that_compresses_and_resumes_only_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data_file, out = tmp_path / "strokes.npy", tmp_path / "strokes.safetensors"
    np.save(data_file, helpers.drawn(120, any_ink=True))
    monkeypatch.setattr(command, "CARD_QUALITIES", (0, 99))
    monkeypatch.setattr(command, "LadderTrainer", functools.partial(LadderTrainer, config=CONFIG))
    options: dict[str, Any] = {
        "start": "none",
        "minutes": 0.01,
        "seed": 3,
        "resume": False,
        "quiet": False,
    }
    with pytest.raises(UsageError, match="no such checkpoint"):
        command.train_command([data_file], out, **{**options, "resume": True})
    encoder = tmp_path / "strokes.encoder.safetensors"
    with pytest.raises(UsageError, match="this name is for the encoder"):
        command.train_command([data_file], encoder, **options)
    encoder.write_bytes(b"precious")
    with pytest.raises(AezError, match=f"{encoder} exists, and a model is never overwritten"):
        command.train_command([data_file], out, **options)
    encoder.unlink()
    command.train_command([data_file], out, **options)
    printed = capsys.readouterr().out
    assert (
        "120 images, 110 to train on, 10 held out; starting from nothing\nthese are few" in printed
    )
    assert re.search(r"^  PNG \d+\.\d, WebP lossless \d+\.\d$", printed, re.MULTILINE)
    assert re.search(r"^  WebP q0 \d+\.\d B \d+\.\d dB, q20 ", printed, re.MULTILINE)
    assert printed.endswith(f"use it with: aez compress -m {out} INPUT...\n")
    assert max(map(len, printed.splitlines()[:-1])) <= 100
    pixels = helpers.drawn(5, any_ink=True)
    assert (
        codec.decompress(codec.compress(pixels, model=str(out)), model=str(out)).shape
        == pixels.shape
    )
    card = unpack_bundle(out.read_bytes())[2]
    assert card["command"] == f"aez train {data_file} -o {out} --minutes 0.01 --seed 3 --from none"
    assert [row["quality"] for row in card["figures"]["curve"]] == [0, 99]
    about = unpack_bundle(encoder.read_bytes())[2]
    assert about["model_hash"] == hashlib.sha256(out.read_bytes()).hexdigest()[:16]
    assert {**card, **about} == {**card, "model_hash": about["model_hash"]}
    assert about.keys() >= {"name", "trained_on", "command", "training"}
    assert not list(tmp_path.glob("*.checkpoint.pt"))
    with pytest.raises(AezError, match="never overwritten"):
        command.train_command([data_file], out, **options)
    out.rename(tmp_path / "other.safetensors")
    encoder.rename(tmp_path / "other.encoder.safetensors")
    trainer = LadderTrainer(data.load([data_file]), config=CONFIG)
    save(trainer.state(), out.with_suffix(".checkpoint.pt"))
    with pytest.raises(UsageError, match="--resume"):
        command.train_command([data_file], out, **options)
    command.train_command([data_file], out, **{**options, "resume": True, "quiet": True})
    assert out.exists()


def test_streams_of_a_model_of_your_own_name_it_by_hash_and_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From `aez train` to `aez decompress`: with -m, from $AEZ_WEIGHTS, and what is said where
    neither helps.
    """
    monkeypatch.setattr(command, "CARD_QUALITIES", (0, 99))
    monkeypatch.setattr(command, "LadderTrainer", functools.partial(LadderTrainer, config=CONFIG))
    monkeypatch.delenv("AEZ_WEIGHTS", raising=False)

    def aez(*args: str | Path) -> Any:
        return CliRunner().invoke(app, [*map(str, args)])

    strokes, own = tmp_path / "strokes.npy", tmp_path / "models" / "own.safetensors"
    own.parent.mkdir()
    np.save(strokes, helpers.drawn(120, any_ink=True))
    trained = aez("train", strokes, "-o", own, "--from", "none", "--minutes", "0.005", "--quiet")
    assert (trained.exit_code, trained.stdout) == (0, "")
    assert aez("compress", strokes, "-m", own, "-e", "1", "--no-guard").exit_code == 0
    stream, model = tmp_path / "strokes.aez", Ladder(own.read_bytes())
    expected = codec.decompress(stream.read_bytes(), model=str(own))
    said = json.loads(aez("info", "--json", stream).stdout)
    assert said["model_hash"] == model.hash.hex()
    failed = aez("decompress", stream, "-o", tmp_path / "no.npy", "--format", "npy")
    assert failed.exit_code == 1
    assert f"model {model.hash.hex()} is not installed: give its file with -m FILE" in failed.stderr
    assert "$AEZ_WEIGHTS" in failed.stderr
    assert not (tmp_path / "no.npy").exists()
    assert (
        aez(
            "decompress", stream, "-o", tmp_path / "given.npy", "--format", "npy", "-m", own
        ).exit_code
        == 0
    )
    monkeypatch.setenv("AEZ_WEIGHTS", str(own.parent))
    assert aez("decompress", stream, "-o", tmp_path / "found.npy", "--format", "npy").exit_code == 0
    for name in ("given.npy", "found.npy"):
        np.testing.assert_array_equal(np.load(tmp_path / name), expected)


def test_auto_starts_from_the_shipped_model_that_does_best(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = np.concatenate([golden_tool.sources()[0][:21]] * 2)
    both = [registry.by_name("fashion"), registry.by_name("mnist")]
    monkeypatch.setattr(registry, "shipped", lambda lossless: both)
    assert command.starting_model("auto", digits, False) is both[1]
    assert command.starting_model("none", digits, False) is None
    assert command.starting_model("fashion", digits, False) is both[0]
    with pytest.raises(UsageError, match="model fashion-lossless is lossless; give a lossy one"):
        command.starting_model("fashion-lossless", digits, False)
    with pytest.raises(ModelNotFound, match="no model is called 'nist'"):
        command.starting_model("nist", digits, False)

    def none(lossless: bool) -> list[Any]:
        raise ModelNotFound("no model is shipped", "auto")

    monkeypatch.setattr(registry, "shipped", none)
    assert command.starting_model("auto", digits, False) is None


@pytest.mark.slow
def test_others_are_measured_as_single_files() -> None:
    """White and black images alike: one file of each, whatever their number; no codec is off by
    much, and none by nothing.
    """
    pixels = np.repeat(helpers.drawn(2, any_ink=True), 300, axis=0)
    found, two = others.measure(pixels), others.measure(pixels[[0, -1]])
    assert found.png == pytest.approx(two.png)
    assert found.webp_lossless is not None
    assert found.webp_lossless < found.png < 784
    assert [point[0] for point in found.webp] == list(others.WEBP_QUALITIES)
    sizes, psnrs = zip(*((num_bytes, psnr) for _, num_bytes, psnr in found.webp), strict=True)
    assert list(sizes) == sorted(sizes)
    assert list(psnrs) == sorted(psnrs)
    assert 15 < psnrs[0] < 40
