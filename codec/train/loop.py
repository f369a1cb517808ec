"""The training loop: loss, schedule, checkpoints, log.

READ ME FIRST
- One network serves all rates: each image of a batch draws its own lambda, log-uniform over the
  whole range, for lambda * SSE + bits (SSE of pixels in 0..1), divided by (lambda + 1)**0.45 so
  that no rate drowns the others.
- The schedule runs over the *fraction* of the time budget that is spent. The dense level goes alone
  at first, or it would stay empty. Then all levels start at a discount, their bits nearly free, the
  price rising to 1 by ANNEALED: at the full price from the start the upper levels, still useless,
  are silenced for good (measured: 0.0 bytes in two of three). The dense level rises later than the
  others, or they take over its share (measured: 0.0 bytes in it below 90 bytes).
- Bits are those of latents under uniform noise to the very end. Counting those of rounded latents
  instead looks better in the loss (51 after 82) and is ruin: latents gather at the edge of
  rounding, and on held-out images 21 bytes fell from 28.6 to 24.9 dB within 900 steps.
- From QUANTIZED_FROM on the weights are on the integer grid.
- When the cost on held-out images has become flat, what is left of the schedule is run through in a
  part of the time spent so far: the learning rate still falls to its end, the weights still come
  onto the grid. If the cost rose instead (few images, learned by heart), the best weights are taken
  in the end.
- A network that starts from a trained one has its dense level, and its upper levels are of use: no
  discount.
- A checkpoint holds everything; `--resume` goes on from it, with the time already spent counted.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codec.errors import UsageError
from codec.metrics import psnr_db
from codec.model.bundle import BaseModel
from codec.model.ladder import MAX_LOG2_LMBDA, MIN_LOG2_LMBDA, log2_lmbda
from codec.parallel import keep_memory
from codec.train import data
from codec.train.lossy import warm_start
from codec.train.networks import Config, Ladder

BATCH = 128
LEARNING_RATE, WARM_UP_STEPS = 2e-3, 200
DENSE_ONLY_UNTIL, FIRST_PRICE = 0.02, 0.02
ANNEALED, DENSE_ANNEALED = 0.12, 0.2
QUANTIZED_FROM = 0.75
RATE_EXPONENT = -0.45
CHECKPOINT_SECONDS = 120.0
# in the time budget, as many as that, in no more than this part of it
VALIDATIONS, VALIDATION_SHARE = 30, 0.1
# Flat: over the last quarter of the time spent the cost on held-out images fell by less than half a
# percent.
FLAT_SHARE, FLAT_GAIN = 0.25, 0.005
# of the schedule: before, the price of bits is rising, and the cost may rise with it
FLAT_FROM = 0.3
COOL_DOWN = 0.3  # of the time spent until then, for what is left of the schedule
VALIDATION_IMAGES = 400
PIXELS = 28 * 28
VALIDATION_QUALITIES = (10, 30, 50, 75, 99)


def price(fraction: float, annealed: float) -> float:
    """What a bit costs at `fraction` of the schedule: 1 while the dense level is alone and from
    `annealed` on.
    """
    rise = (fraction - DENSE_ONLY_UNTIL) / (annealed - DENSE_ONLY_UNTIL)
    return FIRST_PRICE ** max(0.0, 1 - rise) if rise >= 0 else 1.0


def schedule(spent: float, budget: float, flat: float | None = None) -> float:
    """Fraction (0..1) of the schedule after `spent` of `budget` seconds; flat: when the cost had
    become flat.
    """
    if budget <= 0:  # no training: what it starts from is written
        return 1.0
    if flat is None:
        return min(1.0, spent / budget)
    left = min(budget - flat, COOL_DOWN * flat)
    at = flat / budget
    return min(1.0, at + (1 - at) * (spent - flat) / left) if left > 0 else 1.0


def is_flat(costs: list[tuple[float, float]], seconds: float, gain: float = FLAT_GAIN) -> bool:
    """Tell whether costs, [(seconds, cost)] in order of time, have stopped falling by `gain`.

    seconds: spent by now.
    """
    since = (1 - FLAT_SHARE) * seconds
    before = [cost for at, cost in costs if at <= since]
    after = [cost for at, cost in costs if at > since]
    return bool(before and after) and min(after) > (1 - gain) * min(before)


def rate_distortion_loss(
    net: Ladder, pixels: Tensor, log2_lmbda: Tensor, fraction: float = 1.0
) -> Tensor:
    """Mean over the batch of (lambda * SSE + bits) * (lambda + 1)**RATE_EXPONENT, at `fraction`
    (0..1) of the schedule.

    pixels: float (N, 28, 28), 0..255; log2_lmbda: (N,).
    """
    x_hat, rates = net(pixels, log2_lmbda, hard=False, dense_only=fraction < DENSE_ONLY_UNTIL)
    bits = price(fraction, DENSE_ANNEALED) * rates[0] + price(fraction, ANNEALED) * sum(rates[1:])
    lmbda = 2**log2_lmbda
    sse = ((x_hat - pixels) / 255).square().sum((1, 2))
    return ((lmbda * sse + bits) * (lmbda + 1) ** RATE_EXPONENT).mean()


@torch.no_grad()
def evaluate(net: Ladder, pixels: Tensor, log2_lmbdas: list[float]) -> list[dict[str, Any]]:
    """Float network, rounded latents: [{log2_lmbda, estimated_bytes, psnr_db, level_bytes}] for
    pixels (N, 28, 28).
    """
    dtype, net.dtype = net.dtype, torch.float32
    rows = []
    for value in log2_lmbdas:
        level_bits, squared_error = None, 0.0
        for batch in pixels.split(500):
            x_hat, rates = net(
                batch.float(), torch.full((len(batch),), value, device=batch.device), hard=True
            )
            bits = torch.stack([r.sum() for r in rates])
            level_bits = bits if level_bits is None else level_bits + bits
            squared_error += float((x_hat.clamp(0, 255).round() - batch).square().sum())
        level_bytes = (level_bits / 8 / len(pixels)).tolist()
        rows.append(
            {
                "log2_lmbda": value,
                "estimated_bytes": round(sum(level_bytes), 2),
                "psnr_db": round(psnr_db(squared_error, pixels.numel()) or 99.0, 2),
                "level_bytes": [round(b, 1) for b in level_bytes],
            }
        )
    net.dtype = dtype
    return rows


class Trainer:
    """A network, its optimizer, the random state and the seconds spent so far: all that a
    checkpoint holds.

    A subclass calls `start` and has `loss` and `figures`.
    """

    max_gradient = 20.0  # norm to which gradients are clipped
    warm = False  # whether the network started from a trained one
    dtype = torch.bfloat16  # of activations
    flat_gain = FLAT_GAIN  # see `is_flat`

    def start(
        self,
        pixels: data.U8,
        net: nn.Module,
        learning_rate: float,
        log: Path | None,
        *,
        muon: Sequence[nn.Parameter] = (),
        muon_rate: float = 0.0,
    ) -> None:
        """pixels: uint8 (N, 28, 28), split by `data.split`; log: file that `report` appends to;
        muon: what Muon trains.
        """
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.train, self.held_out = (torch.tensor(p).to(self.device) for p in data.split(pixels))
        self.net: Any = net.to(self.device)
        self.net.dtype = self.dtype
        ours = {id(parameter) for parameter in muon}
        others = [parameter for parameter in net.parameters() if id(parameter) not in ours]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, learning_rate, betas=(0.9, 0.98), weight_decay=1e-3)
        ]
        if muon:
            self.optimizers.append(
                torch.optim.Muon(muon, muon_rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
            )
        self._rates = [
            group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups
        ]
        self.seconds, self.steps, self.log = 0.0, 0, log
        self.data = data.sha256(pixels)
        self.costs: list[tuple[float, float]] = []  # seconds, cost on held-out images
        self.flat: float | None = None  # seconds until that had become flat
        self.best: dict[str, Tensor] = {}  # the weights of the lowest of them
        self.batch = BATCH

    def loss(self, fraction: float) -> Tensor:
        """Loss of one random batch at `fraction` (0..1) of the schedule."""
        raise NotImplementedError

    def figures(self) -> dict[str, Any]:
        """What `report` logs: figures on held-out images."""
        raise NotImplementedError

    def cost(self, figures: dict[str, Any]) -> float:
        """The one figure by which two networks are compared: the lower, the better."""
        return float(figures["estimated_bytes"])

    def state(self) -> dict[str, Any]:
        return {
            "kind": type(self).__name__,
            "data": self.data,
            "net": self.net.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "seconds": self.seconds,
            "steps": self.steps,
            "costs": self.costs,
            "flat": self.flat,
            "best": self.best,
            "warm": self.warm,
            "random": torch.get_rng_state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave.

        Raises UsageError if that is of other images or another kind of network.
        """
        if state.get("kind") != type(self).__name__:
            raise UsageError(f"is of a {state.get('kind')}, not of a {type(self).__name__}")
        if state["data"] != self.data:
            raise UsageError(
                f"is of other images: sha256 {state['data'][:16]}..., these have "
                f"{self.data[:16]}..."
            )
        try:
            self.net.load_state_dict(state["net"])
        except RuntimeError as error:
            raise UsageError("is of a network of another size") from error
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.seconds, self.steps = state["seconds"], state["steps"]
        self.costs, self.flat, self.best, self.warm = (
            state["costs"],
            state["flat"],
            state["best"],
            state["warm"],
        )
        torch.set_rng_state(state["random"].cpu())

    def step(self, fraction: float) -> float:
        """One batch at `fraction` (0..1) of the schedule -> its loss."""
        warm = min(1.0, (self.steps + 1) / WARM_UP_STEPS)
        factor = warm * (0.01 + 0.99 * (1 + math.cos(math.pi * fraction)) / 2)
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate * factor
        self.net.set_quantized(fraction >= QUANTIZED_FROM)
        loss = self.loss(fraction)
        self.net.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), self.max_gradient)
        for optimizer in self.optimizers:
            optimizer.step()
        self.steps += 1
        return float(loss.detach())

    def run(
        self,
        seconds: float,
        *,
        checkpoint: Path | None = None,
        progress: bool = False,
        tell: Callable[[float, dict[str, Any]], None] = lambda seconds, figures: None,
    ) -> None:
        """Train until `seconds` are spent in all, or the cost on held-out images is flat and the
        learning rate has come down.

        A checkpoint is written every few minutes, at the end and when training is interrupted.
        tell: is called with the seconds spent and `figures` now and then, a dozen times in all.
        """
        keep_memory(1 << 31)
        saved, losses = time.monotonic(), []
        validated = told = self.seconds
        wait = seconds / VALIDATIONS
        # what it starts from: to be seen, and to be kept if training makes it worse
        if self.warm and not self.costs:
            tell(self.seconds, self.report(None))
        try:
            while (fraction := schedule(self.seconds, seconds, self.flat)) < 1:
                begun = time.monotonic()
                losses = [*losses[-499:], self.step(fraction)]
                if self.seconds - validated > wait:
                    validated, validating = self.seconds, time.monotonic()
                    figures = self.report(float(np.mean(losses)))
                    wait = max(wait, (time.monotonic() - validating) / VALIDATION_SHARE)
                    flat = is_flat(self.costs, self.seconds, self.flat_gain)
                    if self.flat is None and fraction > FLAT_FROM and flat:
                        self.flat = self.seconds
                    if self.seconds - told > seconds / 12 or len(self.costs) == 1:
                        told = self.seconds
                        if progress:
                            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
                        tell(self.seconds, figures)
                self.seconds += time.monotonic() - begun
                if checkpoint and time.monotonic() - saved > CHECKPOINT_SECONDS:
                    save(self.state(), checkpoint)
                    saved = time.monotonic()
                if progress and self.steps % 10 == 0:
                    done = int(30 * fraction)
                    note = ", flat: cooling down" if self.flat else ""
                    print(
                        f"\r[{'#' * done}{'.' * (30 - done)}] {self.seconds:.0f}/{seconds:.0f} s, "
                        f"step {self.steps}, "
                        f"loss {np.mean(losses[-50:]):.2f}{note} ",
                        end="",
                        file=sys.stderr,
                        flush=True,
                    )
        finally:
            if progress:
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            if checkpoint:
                save(self.state(), checkpoint)
        self.net.set_quantized(True)
        figures = self.report(float(np.mean(losses)) if losses else None)
        if self.best and self.cost(figures) > min(cost for _, cost in self.costs):
            self.net.load_state_dict(self.best)

    def report(self, loss: float | None) -> dict[str, Any]:
        """Measure on held-out images, keep the weights if they are the best so far, append one line
        of JSON to the log.
        """
        self.net.set_quantized(True)  # as it would be shipped; the next step decides anew
        figures = self.figures()
        cost = self.cost(figures)
        if not self.costs or cost < min(c for _, c in self.costs):
            self.best = {name: tensor.clone() for name, tensor in self.net.state_dict().items()}
        self.costs.append((self.seconds, cost))
        if self.log:
            row = {
                "steps": self.steps,
                "seconds": round(self.seconds),
                "loss": loss and round(loss, 3),
                **figures,
            }
            with self.log.open("a") as f:
                f.write(json.dumps(row) + "\n")
        return figures


class LadderTrainer(Trainer):
    """Trains a Ladder.  pixels: uint8 (N, 28, 28), split by `data.split`.

    start: a lossy model to start from, instead of from nothing; then `config` is its.
    """

    def __init__(
        self,
        pixels: data.U8,
        *,
        seed: int = 0,
        config: Config = Config(),  # noqa: B008
        log: Path | None = None,
        start: BaseModel | None = None,
    ) -> None:
        torch.manual_seed(seed)
        train, _ = data.split(pixels)
        mean = torch.tensor(train).float().mean(0)
        self.warm = start is not None
        self.start(
            pixels,
            Ladder(mean, config) if start is None else warm_start.ladder(start, mean),
            LEARNING_RATE,
            log,
        )

    def loss(self, fraction: float) -> Tensor:
        batch = self.train[torch.randint(len(self.train), (BATCH,), device=self.device)].float()
        rates = MIN_LOG2_LMBDA + (MAX_LOG2_LMBDA - MIN_LOG2_LMBDA) * torch.rand(
            len(batch), device=self.device
        )
        return rate_distortion_loss(
            self.net, batch, rates, max(fraction, DENSE_ANNEALED) if self.warm else fraction
        )

    def figures(self) -> dict[str, Any]:
        curve = evaluate(
            self.net,
            self.held_out[:VALIDATION_IMAGES],
            [log2_lmbda(q) for q in VALIDATION_QUALITIES],
        )
        return {"curve": [(r["estimated_bytes"], r["psnr_db"], r["level_bytes"]) for r in curve]}

    def cost(self, figures: dict[str, Any]) -> float:
        return cost_of(
            [
                (q, row[0], row[1])
                for q, row in zip(VALIDATION_QUALITIES, figures["curve"], strict=True)
            ]
        )


def cost_of(points: list[tuple[int, float, float | None]]) -> float:
    """The loss of points (quality, bytes, PSNR in dB or None for no error), mean over them; bits at
    their full price.
    """
    total = 0.0
    for quality, num_bytes, psnr in points:
        lmbda = 2 ** log2_lmbda(quality)
        sse = 0.0 if psnr is None else PIXELS * 10 ** (-psnr / 10)
        total += (lmbda * sse + 8 * num_bytes) * (lmbda + 1) ** RATE_EXPONENT
    return total / len(points)


def save(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)
