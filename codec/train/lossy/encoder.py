"""A better encoder for a lossy model whose decoder stays as it is, to the last bit.

    python -m codec.train.lossy.encoder IMAGES... --of mnist --minutes 30 \\
        -o better.encoder.safetensors

A stream names the model that decodes it, not the encoder. So the encoder of a shipped model may get
better at any time. What is written is the file of an encoder: put it beside the model, in the place
of the old one (FORMAT.md 7.4).

READ ME FIRST
- Training of the whole network (`loop`) takes noise for rounding: its loss is more than twice the
  cost of what is coded. Here it is the true cost: images are coded as they will be, with rounded
  latents and the bits of the tables.
- The cost has a step where a latent crosses an edge of rounding. Its slope is the height of that
  step times the density there: that of a logistic of width WIDTHS around the latent.
- The height: some latents near an edge are drawn, decoded half way between the symbols on its two
  sides, and a backward pass through the decoder gives the slope of the distortion there. In the
  middle of a step that is its height but for third order (correlation with the true one: 0.92 to
  0.98). Taken at the symbol itself, with a mean curvature for the rest, it was 0.5, and training
  with that was ruin: where the curvature is too small, latents are pulled to the edge.
- The width must be as small as the distances at which the network works: it gathers latents within
  hundredths of a step from an edge. Widths of 0.1 to 0.15 made the cost 7 to 60 % higher.
- Levels below a drawn latent are coded as the encoder does, but the gradient takes their symbols
  for fixed.
- What one step of the optimizer does is mostly noise: the weights that count are averages.
- The decoder runs in float here, on the integers of its weights and rows (`warm_start.exact`);
  only roundings of activations are missing. What is reported is the cost of the integer model on
  held-out images.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from codec.errors import AezError, UsageError
from codec.files.atomic import atomic
from codec.measure.curve import curve
from codec.metrics import squared_error
from codec.model import ladder_search, registry
from codec.model.bundle import BaseModel
from codec.model.ladder import MAX_QUALITY, NUM_SIGMAS, Model, log2_lmbda
from codec.model.ladder_search import DEAD_ZONE, STEP_UNIT
from codec.model.layers import ACTIVATION_UNIT, ROW_STEP, ROWS
from codec.train import data
from codec.train.command import CARD_QUALITIES, card_of, checkpoint_of, go_on
from codec.train.loop import VALIDATION_IMAGES, VALIDATION_QUALITIES, Trainer
from codec.train.lossy import warm_start
from codec.train.lossy.export import encoder_tensors, pack_encoder, row_of
from codec.train.networks import Layer, clip, patches, rectify, unpatches

LEARNING_RATE = 5e-5
WIDTHS = 0.025, 0.015  # of the logistic, in steps: at the beginning, in the end
DRAWN = 0.3  # of the latents at an edge
EXPONENT = -0.36  # of lambda + 1: with it images of all qualities cost about the same
MOST_BITS = 64.0  # that one change is counted for
AVERAGED = 0.997  # of the average is kept at each step


class Level(NamedTuple):
    """One level of latents of a batch, coded."""

    latents: Tensor  # in steps, of the encoder
    sides: Tensor  # of the symbol the edge is on: -1 or 1; 0 of latents that were not drawn
    height: Tensor  # of that edge: what the step over it costs; 0 of latents that were not drawn


class EncoderNet(nn.Module):
    """The network of a lossy model, of which only the encoder learns.

    mean_image: (28, 28), 0..255, of the images that it learns on. Raises as `warm_start.exact`.
    """

    def __init__(self, model: BaseModel, mean_image: Tensor) -> None:
        super().__init__()
        exact = warm_start.exact(model, mean_image)
        self.model = model
        self.ladder = exact.net
        self.dtype = torch.float32
        tables = [ladder_search.BitTable(table) for table in model.tables]
        self.limits = [table.limit for table in tables]
        held = {"dense_mean": exact.dense_mean, "dense_row": exact.dense_row}
        for i, (log_gain, table) in enumerate(zip(exact.log_gains, tables, strict=True)):
            held[f"log_gain{i}"] = log_gain
            held[f"highest{i}"] = torch.tensor(table.highest).long()
            bits = torch.tensor(table.bits / ladder_search.BIT_UNIT).float()
            held[f"bits{i}"] = bits.clamp_max(MOST_BITS)
        for name, tensor in held.items():
            self.register_buffer(name, tensor, persistent=False)
        self.requires_grad_(False)
        for layer in self.layers():
            layer.requires_grad_(True)

    def layers(self) -> list[Layer]:
        """Those that learn."""
        net = self.ladder
        blocks = [layer for layer in net.analysis.modules() if isinstance(layer, Layer)]
        posteriors = [
            layer for level in net.levels for layer in (level.posterior0, level.posterior1)
        ]
        return [net.input, *blocks, net.squeeze, net.posterior0, net.posterior1, *posteriors]

    def set_quantized(self, quantized: bool) -> None:
        """Round the weights that learn to their integer grid, or stop doing so."""
        for layer in self.layers():
            layer.quantized = quantized

    def bundle(self, card: dict[str, Any]) -> bytes:
        """The file of the encoder as it is now; card: see `pack_encoder`."""
        b = warm_start.exact_basis(torch.arange(0, ROWS * ROW_STEP, ROW_STEP).float())
        log_gains = [getattr(self, f"log_gain{i}").cpu() for i in range(len(self.limits))]
        tensors = encoder_tensors(self.ladder.cpu(), b, log_gains)
        return pack_encoder(tensors, self.model.stream, card)

    def bits_of(self, level: int, rows: Tensor, symbols: Tensor) -> Tensor:
        """What symbols cost, by the rows of the CDF table of a level."""
        limit = self.limits[level]
        found: Tensor = getattr(self, f"bits{level}")[
            rows, symbols.clamp(-limit - 1, limit + 1) + limit + 1
        ]
        return found

    def forward(
        self, pixels: Tensor, quality: Tensor, width: float, drawn: float = DRAWN
    ) -> tuple[Tensor, Tensor]:
        """-> loss, whose value means nothing; cost of each image (N,), weighted as in the loss.

        Arguments: see `coded`.
        """
        levels, sse, bits = self.coded(pixels, quality, width, drawn)
        lmbda = 2 ** log2_lmbda(quality)  # type: ignore[arg-type]
        weights = (lmbda + 1) ** EXPONENT
        each = sum(
            (level.sides * level.height * level.latents).flatten(1).sum(1) for level in levels
        )
        return (each * weights).mean() / (4 * width * drawn), (lmbda * sse + bits) * weights

    def coded(
        self, pixels: Tensor, quality: Tensor, width: float, drawn: float
    ) -> tuple[list[Level], Tensor, Tensor]:
        """Code images -> levels of latents; SSE of pixels in 0..1 and bits of each image (N,).

        pixels: (N, 28, 28), 0..255; quality: (N,), 0..99, not necessarily whole.
        width: of the logistic, in steps; drawn: of the latents at an edge.
        """
        net, n = self.ladder, len(pixels)
        b = warm_start.exact_basis(quality)
        rows = b[:, -ROWS:]
        lmbda = 2 ** log2_lmbda(quality)  # type: ignore[arg-type]
        latents_of, sides, steps, moves = [], [], [], []
        bits = torch.zeros(n, device=pixels.device)
        row_costs: list[Tensor] = []

        def code(latents: Tensor, mean: Tensor, row: Tensor) -> Tensor:
            """Latents and prior, in steps -> what is decoded, with `moves` added."""
            i = len(moves)
            with torch.no_grad():
                whole = row.round().clamp(0, NUM_SIGMAS - 1).long()
                highest = getattr(self, f"highest{i}")[whole]
                residual = latents - mean
                size = (residual.abs() + (0.5 - DEAD_ZONE / STEP_UNIT)).floor().long()
                symbols = residual.sign().long() * torch.minimum(size, highest)
                offset = residual - symbols
                side = torch.where(offset < 0, -1, 1)
                beside = torch.sigmoid((0.5 - offset.abs()) / width)
                chosen = torch.rand_like(offset) < drawn * 4 * beside * (1 - beside)
                side *= chosen & (whole > 0) & ((symbols + side).abs() <= highest)
                now = self.bits_of(i, whole, symbols)
                bits.add_(now.flatten(1).sum(1))
                step = self.bits_of(i, whole, symbols + side) - now
                above, below = (whole + 1).clamp_max(NUM_SIGMAS - 1), (whole - 1).clamp_min(1)
                rise = self.bits_of(i, above, symbols) - self.bits_of(i, below, symbols)
                rise = rise / (above - below).clamp_min(1) * ((row > 0) & (row < NUM_SIGMAS - 1))
            if row.requires_grad:
                row_costs.append((rise * row).sum())
            moves.append(torch.zeros_like(offset, requires_grad=True))
            latents_of.append(latents)
            sides.append(side)
            steps.append(step)
            return symbols + side / 2 + mean + moves[-1]

        e = clip(
            net.input(patches((pixels - net.mean_image) * (4 / ACTIVATION_UNIT)).to(self.dtype))
        )
        for block in net.analysis:
            e = block(e, b)
        h = rectify(net.posterior0(rectify(net.squeeze(e)).reshape(n, -1), b))
        log_gain = rows @ self.log_gain0
        y = code(
            net.posterior1(h, b).float() * torch.exp(log_gain),
            rows @ self.dense_mean,
            rows @ self.dense_row,
        )
        h = rectify(
            net.start1(rectify(net.start0(clip(y * torch.exp(-log_gain)).to(self.dtype), b)))
        )
        t = clip(net.widen(h.view(n, 7, 7, 16)))
        for i, stage in enumerate(net.synthesis):
            for block in stage:
                t = block(t, b)
            if i < len(net.levels):
                level = net.levels[i]
                log_gain = (rows @ getattr(self, f"log_gain{i + 1}"))[:, None, None]
                gain = torch.exp(log_gain)
                h = rectify(level.prior0(t))
                mean = level.prior_mean(h, b).float() * gain
                row = row_of(level.prior_sigma(h, b).float() + log_gain)
                h = rectify(level.posterior0(torch.cat([e, t.detach()], 3), b))
                y = code(level.posterior1(h, b).float() * gain, mean, row)
                t = clip(t + level.merge(clip(y / gain).to(t.dtype)))
        x_hat = unpatches(net.output(t).float() * (ACTIVATION_UNIT / 4)) + net.mean_image
        error = (x_hat.detach().clamp(0, 255) - pixels) / 255
        distortion = (2 * lmbda[:, None, None] * error * x_hat / 255).sum()
        slopes = torch.autograd.grad(distortion + sum(row_costs), moves)
        heights = [
            (step + side * slope).clamp(-MOST_BITS, MOST_BITS) * side.abs()
            for step, side, slope in zip(steps, sides, slopes, strict=True)
        ]
        levels = [Level(*each) for each in zip(latents_of, sides, heights, strict=True)]
        return levels, error.square().sum((1, 2)), bits


class EncoderTrainer(Trainer):
    """Trains the encoder of a lossy model.  pixels: uint8 (N, 28, 28), split by `data.split`.

    Raises as `warm_start.exact`.
    """

    max_gradient = math.inf
    warm = True
    # bfloat16 would be 1.5 times as fast; at high qualities it is off by a tenth of a step.
    dtype = torch.float32
    flat_gain = 0.0  # all there is to gain is a few percent

    def __init__(
        self,
        pixels: data.U8,
        model: BaseModel,
        *,
        seed: int = 0,
        log: Path | None = None,
        learning_rate: float = LEARNING_RATE,
    ) -> None:
        torch.manual_seed(seed)
        train, _ = data.split(pixels)
        net = EncoderNet(model, torch.tensor(train).float().mean(0))
        self.start(pixels, net, learning_rate, log)
        self.average = [p.detach().clone() for p in self.learning()]

    def learning(self) -> list[nn.Parameter]:
        return [p for p in self.net.parameters() if p.requires_grad]

    def loss(self, fraction: float) -> Tensor:
        chosen = torch.randint(len(self.train), (self.batch,), device=self.device)
        batch = self.train[chosen].float()
        quality = MAX_QUALITY * torch.rand(len(batch), device=self.device)
        loss: Tensor = self.net(batch, quality, WIDTHS[0] * (WIDTHS[1] / WIDTHS[0]) ** fraction)[0]
        return loss

    def step(self, fraction: float) -> float:
        loss = super().step(fraction)
        kept = min(AVERAGED, self.steps / (self.steps + 10))
        for average, p in zip(self.average, self.learning(), strict=True):
            average.lerp_(p.detach(), 1 - kept)
        return loss

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """With the averages in the place of the weights."""
        for average, p in zip(self.average, self.learning(), strict=True):
            average.data, p.data = p.data, average.data
        try:
            yield
        finally:
            for average, p in zip(self.average, self.learning(), strict=True):
                average.data, p.data = p.data, average.data

    def report(self, loss: float | None) -> dict[str, Any]:
        with self.averaged():
            return super().report(loss)

    def figures(self) -> dict[str, Any]:
        whole = self.net.model
        model = Model(whole.stream, self.net.bundle({"name": whole.name}))
        pixels = self.held_out[:VALIDATION_IMAGES].cpu().numpy()
        self.net.to(self.device)
        rows = []
        for quality in VALIDATION_QUALITIES:
            encoded = model.encode(pixels, quality)
            error = squared_error(pixels, encoded.pixels) / 255**2
            lmbda = 2 ** log2_lmbda(quality)
            rows.append((lmbda * error + encoded.ideal_bits) / len(pixels))
        return {"costs": rows}

    def cost(self, figures: dict[str, Any]) -> float:
        weights = [(2 ** log2_lmbda(quality) + 1) ** EXPONENT for quality in VALIDATION_QUALITIES]
        return float(np.dot(weights, figures["costs"]))

    def bundle(self, card: dict[str, Any]) -> bytes:
        """The file of the best encoder that a report has seen; card: see `pack_encoder`."""
        if self.best:
            self.net.load_state_dict(self.best)
        self.net.set_quantized(True)
        stream: bytes = self.net.bundle(card)
        self.net.to(self.device)
        return stream

    def state(self) -> dict[str, Any]:
        return {**super().state(), "average": self.average, "model": self.net.model.hash.hex()}

    def load(self, state: dict[str, Any]) -> None:
        wanted = self.net.model.hash.hex()
        if (found := state.get("model", wanted)) != wanted:
            raise UsageError(f"is of the encoder of model {found}, not of {wanted}")
        super().load(state)
        self.average = state["average"]


def train_encoder(
    sources: list[Path], of: str, out: Path, *, minutes: float, seed: int, rate: float, resume: bool
) -> None:
    """Train the encoder of the model `of` on `sources` and write it to `out`.

    Checkpoint and log lie beside it. For the arguments see `main`.  Raises ImageError, ModelError,
    UsageError; AezError if `out` exists.
    """
    if not out.name.endswith(registry.ENCODER):
        raise UsageError(f"{out}: the file of an encoder ends in {registry.ENCODER}")
    checkpoint = checkpoint_of([out], resume)
    model = registry.by_name(of, lossless=False)
    pixels = data.load(sources)
    log = out.with_suffix(".log.jsonl")
    trainer = EncoderTrainer(pixels, model, seed=seed, log=log, learning_rate=rate)
    if resume:
        go_on(trainer, checkpoint)
    trainer.run(60 * minutes, checkpoint=checkpoint, progress=sys.stderr.isatty(), tell=tell)
    command = ["python", "-m", "codec.train.lossy.encoder", *map(str, sources), "--of", of]
    command += ["-o", str(out), "--minutes", f"{minutes:g}", "--seed", str(seed)]
    command += [] if rate == LEARNING_RATE else ["--rate", f"{rate:g}"]
    start = f"{model.name} {model.encoder_hash.hex()}"
    train, held_out = data.split(pixels)
    card = card_of(trainer, model.name, train, seed, shlex.join(command), start)
    better = registry.unpack_model(model.stream, trainer.bundle(card))
    card["figures"] = {
        "on": f"{len(held_out)} held-out images, not trained on",
        "curve": curve(better, held_out, CARD_QUALITIES),
    }
    with atomic(out, durable=True) as file:
        file.write(trainer.bundle(card))
    checkpoint.unlink(missing_ok=True)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m codec.train.lossy.encoder",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("sources", nargs="+", type=Path, help="images to train on: as for `aez train`")
    add("--of", required=True, metavar="MODEL", help="a lossy model: its name, or its file")
    add("-o", "--out", required=True, type=Path, help="the better encoder, .encoder.safetensors")
    add("--minutes", type=float, default=30.0, help="of training, with those of a resumed run")
    add("--seed", type=int, default=0)
    add("--rate", type=float, default=LEARNING_RATE, help="the highest learning rate")
    add("--resume", action="store_true", help="go on from the checkpoint beside the output")
    try:
        train_encoder(**vars(parser.parse_args(arguments)))
    except AezError as error:
        parser.error(str(error))


def tell(seconds: float, figures: dict[str, Any]) -> None:
    """One line: the cost of held-out images at each quality."""
    costs = ", ".join(
        f"{cost:.2f} at {q}" for q, cost in zip(VALIDATION_QUALITIES, figures["costs"], strict=True)
    )
    print(f"{seconds / 60:5.1f} minutes: cost {costs}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
