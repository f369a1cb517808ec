"""A better encoder for a lossy model whose decoder stays as it is, to the last bit.

    python -m codec.train.lossy.encoder IMAGES... --of mnist --minutes 30 \\
        -o better.encoder.safetensors

A stream names the model that decodes it, not the encoder. So the encoder of a shipped model may get
better at any time. This tool writes the file of an encoder: put it beside the model, in place of
the old one (FORMAT.md 7.4).

READ ME FIRST
- Training of the whole network (`trainer`) uses noise for rounding: its loss is more than twice the
  cost of what is coded. Here the loss is the true cost: images are coded as they will be, with
  rounded latents and the bits of the tables.
- The cost has a step where a latent crosses an edge of rounding. Its slope is the height of that
  step times the density there: that of a logistic of width WIDTHS around the latent.
- The height: some latents near an edge are drawn at random and decoded half way between the symbols
  on both sides; a backward pass through the decoder gives the slope of the distortion there. In the
  middle of a step that is its height up to third order (correlation with the true one: 0.92 to
  0.98). Measured at the symbol itself, with a mean curvature for the rest, it was 0.5, and training
  with that was ruinous: where the curvature is too small, latents are pulled to the edge.
- The width must be as small as the distances at which the network works: it gathers latents within
  hundredths of a step from an edge. Widths of 0.1 to 0.15 made the cost 7 to 60 % higher.
- One step of the optimizer is mostly noise: the weights that count are averages.
- The decoder runs in float here, on the integers of its weights and rows (`warm_start.exact`);
  only the rounding of activations is missing. What is reported is the cost of the integer model on
  held-out images.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from torch import Tensor, nn

from codec.errors import UsageError
from codec.files.atomic import atomic
from codec.format.constants import MAX_QUALITY
from codec.measure import tool
from codec.measure.curve import curve
from codec.metrics import squared_error
from codec.model import ladder_search, registry
from codec.model.bundle import Model
from codec.model.ladder import Ladder
from codec.model.ladder_parts import NUM_SIGMAS, STEP_UNIT, log2_lmbda
from codec.model.ladder_search import DEAD_ZONE
from codec.model.layers import ACTIVATION_UNIT, ROW_STEP, ROWS
from codec.train import data
from codec.train.command import CARD_QUALITIES, card_of, checkpoint_of
from codec.train.layers import Layer, clip, layers_of, rectify
from codec.train.loop import Trainer
from codec.train.loop import resume as resume_from
from codec.train.lossy import warm_start
from codec.train.lossy.export import encoder_tensors, pack_encoder, row_of
from codec.train.lossy.network import patches, unpatches
from codec.train.lossy.trainer import VALIDATION_IMAGES, VALIDATION_QUALITIES

LEARNING_RATE = 5e-5
WIDTHS = 0.025, 0.015  # of the logistic, in steps: at the beginning, in the end
DRAWN = 0.3  # of the latents at an edge
EXPONENT = -0.36  # of lambda + 1: with it images of all qualities cost about the same
MOST_BITS = 64.0  # that one change may count
AVERAGED = 0.997  # share of the average that is kept at each step


class CodedLevel(NamedTuple):
    """One level of latents of a batch."""

    latents: Tensor  # in steps, of the encoder
    sides: Tensor  # on which side of the symbol the edge is: -1 or 1; 0 if it was not drawn
    height: Tensor  # what the step over that edge costs; 0 if it was not drawn


class EncoderNet(nn.Module):
    """The network of a lossy model, of which only the encoder learns.

    mean_image: (28, 28), 0..255, of the images that it learns on. Raises as `warm_start.exact`.
    """

    def __init__(self, model: Model, mean_image: Tensor) -> None:
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
        """The layers that learn."""
        net = self.ladder
        of_levels = [
            layer for level in net.levels for layer in (level.posterior0, level.posterior1)
        ]
        analysis = [net.input, *layers_of(net.analysis), net.squeeze]
        return [*analysis, net.posterior0, net.posterior1, *of_levels]

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
        """-> loss, of which only the gradient means anything; cost of each image (N,), weighted.

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
    ) -> tuple[list[CodedLevel], Tensor, Tensor]:
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
        for residual in net.analysis:
            e = residual(e, b)
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
            for residual in stage:
                t = residual(t, b)
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
        levels = [CodedLevel(*each) for each in zip(latents_of, sides, heights, strict=True)]
        return levels, error.square().sum((1, 2)), bits


class EncoderTrainer(Trainer):
    """Trains the encoder of a lossy model.  pixels: uint8 (N, 28, 28), split by `data.split`.

    Raises as `warm_start.exact`.
    """

    max_gradient = math.inf
    warm = True
    # bfloat16 would be 1.5 times as fast; at high qualities it is off by a tenth of a step.
    dtype = torch.float32
    flat_gain = 0.0  # there are only a few percent to gain

    def __init__(
        self,
        pixels: data.U8,
        model: Model,
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
        """A context with the averages in place of the weights."""
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
        model = Ladder(whole.stream, self.net.bundle({"name": whole.name}))
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
        raise UsageError(f"{out}: the name of an encoder file must end in {registry.ENCODER}")
    checkpoint = checkpoint_of([out], resume)
    model = registry.by_name(of, lossless=False)
    pixels = data.load(sources)
    log = out.with_suffix(".log.jsonl")
    trainer = EncoderTrainer(pixels, model, seed=seed, log=log, learning_rate=rate)
    if resume:
        resume_from(trainer, checkpoint)
    trainer.run(60 * minutes, checkpoint=checkpoint, tell=tell)
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


def tell(seconds: float, figures: dict[str, Any]) -> None:
    """One line: the cost of held-out images at each quality."""
    costs = ", ".join(
        f"{cost:.2f} at {q}" for q, cost in zip(VALIDATION_QUALITIES, figures["costs"], strict=True)
    )
    print(f"{seconds / 60:5.1f} minutes: cost {costs}", flush=True)


def main(
    sources: Annotated[list[Path], typer.Argument(help="Images to train on, as for `aez train`.")],
    of: Annotated[str, typer.Option(metavar="MODEL", help="Name or file of a lossy model.")],
    out: tool.Out,
    minutes: Annotated[float, typer.Option(help="Of training, over all resumed runs.")] = 30.0,
    seed: int = 0,
    rate: Annotated[float, typer.Option(help="The highest learning rate.")] = LEARNING_RATE,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint.")] = False,
) -> None:
    """Train a better encoder for a lossy model whose decoder stays as it is."""
    train_encoder(sources, of, out, minutes=minutes, seed=seed, rate=rate, resume=resume)


if __name__ == "__main__":
    tool.run(main)
