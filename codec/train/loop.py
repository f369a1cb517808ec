"""The training loop: loss, schedule, checkpoints, log.

READ ME FIRST
- One network serves all rates: each image of a batch draws its own lambda, log-uniform over the whole range, for
  lambda * SSE + bits (SSE of pixels in 0..1), divided by (lambda + 1)**0.45 so that no rate drowns the others.
- The schedule runs over the *fraction* of the time budget that is spent. The dense level goes alone at first, or it would
  stay empty. Then all levels start at a discount, their bits nearly free, the price rising to 1 by ANNEALED: at the full
  price from the start the upper levels, still useless, are silenced for good (measured: 0.0 bytes in two of three). The
  dense level rises later than the others, or they take over its share (measured: 0.0 bytes in it below 90 bytes).
- Bits are those of latents under uniform noise to the very end. Counting those of rounded latents instead looks better in
  the loss (51 after 82) and is ruin: latents gather at the edge of rounding, and on held-out images 21 bytes fell from 28.6
  to 24.9 dB within 900 steps.
- From QUANTIZED_FROM on the weights are on the integer grid.
- A checkpoint holds everything; `--resume` goes on from it, with the time already spent counted.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codec.metrics import psnr_db
from codec.model import MAX_LOG2_LMBDA, MIN_LOG2_LMBDA
from codec.parallel import keep_memory
from codec.train import data
from codec.train.networks import Config, Ladder

BATCH = 128
LEARNING_RATE, WARM_UP_STEPS = 2e-3, 200
DENSE_ONLY_UNTIL, FIRST_PRICE = 0.02, 0.02
ANNEALED, DENSE_ANNEALED = 0.12, 0.2
QUANTIZED_FROM = 0.75
RATE_EXPONENT = -0.45
CHECKPOINT_SECONDS = 120.0


def price(fraction: float, annealed: float) -> float:
    """What a bit costs at `fraction` of the schedule: 1 while the dense level is alone and from `annealed` on."""
    rise = (fraction - DENSE_ONLY_UNTIL) / (annealed - DENSE_ONLY_UNTIL)
    return FIRST_PRICE ** max(0.0, 1 - rise) if rise >= 0 else 1.0


def rate_distortion_loss(net: Ladder, pixels: Tensor, log2_lmbda: Tensor, fraction: float = 1.0) -> Tensor:
    """Mean over the batch of (lambda * SSE + bits) * (lambda + 1)**RATE_EXPONENT, at `fraction` (0..1) of the schedule.

    pixels: float (N, 28, 28), 0..255; log2_lmbda: (N,).
    """
    x_hat, rates = net(pixels, log2_lmbda, hard=False, dense_only=fraction < DENSE_ONLY_UNTIL)
    bits = price(fraction, DENSE_ANNEALED) * rates[0] + price(fraction, ANNEALED) * sum(rates[1:])
    lmbda = 2**log2_lmbda
    sse = ((x_hat - pixels) / 255).square().sum((1, 2))
    return ((lmbda * sse + bits) * (lmbda + 1) ** RATE_EXPONENT).mean()


@torch.no_grad()
def evaluate(net: Ladder, pixels: Tensor, log2_lmbdas: list[float]) -> list[dict[str, Any]]:
    """Float network, rounded latents: [{log2_lmbda, estimated_bytes, psnr_db, level_bytes}] for pixels (N, 28, 28)."""
    dtype, net.dtype = net.dtype, torch.float32
    rows = []
    for value in log2_lmbdas:
        level_bits, squared_error = None, 0.0
        for batch in pixels.split(500):
            x_hat, rates = net(batch.float(), torch.full((len(batch),), value, device=batch.device), hard=True)
            bits = torch.stack([r.sum() for r in rates])
            level_bits = bits if level_bits is None else level_bits + bits
            squared_error += float((x_hat.clamp(0, 255).round() - batch).square().sum())
        level_bytes = (level_bits / 8 / len(pixels)).tolist()
        rows.append({"log2_lmbda": value, "estimated_bytes": round(sum(level_bytes), 2),
                     "psnr_db": round(psnr_db(squared_error, pixels.numel()) or 99.0, 2),
                     "level_bytes": [round(b, 1) for b in level_bytes]})  # fmt: skip
    net.dtype = dtype
    return rows


class Trainer:
    """A network, its optimizer, the random state and the seconds spent so far: all that a checkpoint holds.

    A subclass calls `start` and has `loss` and `figures`.
    """

    max_gradient = 20.0  # norm to which gradients are clipped

    def start(self, pixels: data.U8, net: nn.Module, learning_rate: float, log: Path | None, *,
              muon: Sequence[nn.Parameter] = (), muon_rate: float = 0.0) -> None:  # fmt: skip
        """pixels: uint8 (N, 28, 28), split by `data.split`; log: file that `report` appends to; muon: what Muon trains."""
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.train, self.held_out = (torch.tensor(p).to(self.device) for p in data.split(pixels))
        self.net: Any = net.to(self.device)
        self.net.dtype = torch.bfloat16
        ours = {id(parameter) for parameter in muon}
        others = [parameter for parameter in net.parameters() if id(parameter) not in ours]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, learning_rate, betas=(0.9, 0.98), weight_decay=1e-3)
        ]
        if muon:
            self.optimizers.append(torch.optim.Muon(muon, muon_rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"))
        self._rates = [group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups]
        self.seconds, self.steps, self.log = 0.0, 0, log
        self.batch = BATCH

    def loss(self, fraction: float) -> Tensor:
        """Loss of one random batch at `fraction` (0..1) of the schedule."""
        raise NotImplementedError

    def figures(self) -> dict[str, object]:
        """What `report` logs: figures on held-out images."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        return {"net": self.net.state_dict(), "optimizers": [o.state_dict() for o in self.optimizers],
                "seconds": self.seconds, "steps": self.steps, "random": torch.get_rng_state()}  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.seconds, self.steps = state["seconds"], state["steps"]
        torch.set_rng_state(state["random"])

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

    def run(self, seconds: float, *, checkpoint: Path | None = None, progress: bool = False) -> None:
        """Train until `seconds` are spent in all, checkpointing and logging once an epoch."""
        keep_memory(1 << 31)
        epoch_steps = max(1, len(self.train) // self.batch)
        saved, losses = time.monotonic(), []
        while self.seconds < seconds:
            begun = time.monotonic()
            losses.append(self.step(self.seconds / seconds))
            self.seconds += time.monotonic() - begun
            if self.steps % epoch_steps == 0:
                self.report(float(np.mean(losses[-epoch_steps:])))
            if checkpoint and time.monotonic() - saved > CHECKPOINT_SECONDS:
                save(self.state(), checkpoint)
                saved = time.monotonic()
            if progress and self.steps % 10 == 0:
                done = int(30 * self.seconds / seconds)
                print(f"\r[{'#' * done}{'.' * (30 - done)}] {self.seconds:.0f}/{seconds:.0f} s, step {self.steps}, "
                      f"loss {np.mean(losses[-50:]):.2f} ", end="", file=sys.stderr, flush=True)  # fmt: skip
        if progress:
            print(file=sys.stderr)
        self.net.set_quantized(True)
        if checkpoint:
            save(self.state(), checkpoint)

    def report(self, loss: float) -> None:
        """Append one line of JSON to the log."""
        if self.log:
            row = {"steps": self.steps, "seconds": round(self.seconds), "loss": round(loss, 3), **self.figures()}
            with self.log.open("a") as f:
                f.write(json.dumps(row) + "\n")


class LadderTrainer(Trainer):
    """Trains a Ladder.  pixels: uint8 (N, 28, 28), split by `data.split`."""

    def __init__(self, pixels: data.U8, *, seed: int = 0, config: Config = Config(), log: Path | None = None) -> None:  # noqa: B008
        torch.manual_seed(seed)
        train, _ = data.split(pixels)
        self.start(pixels, Ladder(torch.tensor(train).float().mean(0), config), LEARNING_RATE, log)

    def loss(self, fraction: float) -> Tensor:
        batch = self.train[torch.randint(len(self.train), (BATCH,), device=self.device)].float()
        log2_lmbda = MIN_LOG2_LMBDA + (MAX_LOG2_LMBDA - MIN_LOG2_LMBDA) * torch.rand(len(batch), device=self.device)
        return rate_distortion_loss(self.net, batch, log2_lmbda, fraction)

    def figures(self) -> dict[str, object]:
        curve = evaluate(self.net, self.held_out[:500], [0, 2, 4, 6, 8, 10])
        return {"curve": [(r["estimated_bytes"], r["psnr_db"], r["level_bytes"]) for r in curve]}


def save(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)
