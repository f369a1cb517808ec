"""The training loop: schedule, checkpoints, log.

    while (fraction := schedule(...)) < 1:
        loss = trainer.step(fraction)       # one batch; learning rate and rounding by `fraction`
        now and then: trainer.report(loss)  # measure on held-out images, keep the best weights
        now and then: save(trainer.state(), checkpoint)

READ ME FIRST
- The schedule runs over the *fraction* of the time budget that is spent, not over steps.
- From QUANTIZED_FROM on, the weights are on the integer grid.
- Once the cost on held-out images is flat, the rest of the schedule runs in a share of the time
  spent so far: the learning rate still falls to its end, and the weights still come onto the grid.
  If the cost rises instead (few images, learned by heart), the best weights are used in the end.
- A checkpoint holds everything; `--resume` continues from it and counts the time already spent.
"""

from __future__ import annotations

import io
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codec.errors import UsageError
from codec.parallel import keep_memory
from codec.train import data

BATCH = 128
WARM_UP_STEPS = 200
QUANTIZED_FROM = 0.75
CHECKPOINT_S = 120.0
# Validations in the time budget: this many, in no more than this share of it.
VALIDATIONS, VALIDATION_SHARE = 30, 0.1
TELLS = 12  # calls of `tell` in the time budget
# Flat: in the last quarter of the time spent, the cost on held-out images fell by less than half a
# percent. Before FLAT_FROM of the schedule the price of bits still rises, and the cost may with it.
FLAT_SHARE, FLAT_GAIN, FLAT_FROM = 0.25, 0.005, 0.3
COOL_DOWN = 0.3  # of the time spent until then, for the rest of the schedule
KEPT_BYTES = 1 << 31  # of freed memory

Tell = Callable[[float, dict[str, Any]], None]  # seconds spent, figures
Progress = Callable[[str, int, int], None]  # the state in words, seconds spent, all seconds


def schedule(spent: float, budget: float, flat: float | None = None) -> float:
    """Fraction (0..1) of the schedule after `spent` of `budget` seconds.

    flat: the seconds spent when the cost became flat, if it did.
    """
    if budget <= 0:  # no training at all
        return 1.0
    if flat is None:
        return min(1.0, spent / budget)
    left = min(budget - flat, COOL_DOWN * flat)
    at = flat / budget
    return min(1.0, at + (1 - at) * (spent - flat) / left) if left > 0 else 1.0


def is_flat(costs: list[tuple[float, float]], seconds: float, gain: float = FLAT_GAIN) -> bool:
    """Whether the cost has stopped falling by `gain`.

    costs: (seconds, cost) in order of time; seconds: spent by now.
    """
    since = (1 - FLAT_SHARE) * seconds
    before = [cost for at, cost in costs if at <= since]
    after = [cost for at, cost in costs if at > since]
    return bool(before and after) and min(after) > (1 - gain) * min(before)


class Trainer:
    """A network, its optimizers, the random state and the seconds spent so far.

    A subclass calls `start`, and has `loss` and `figures`.
    """

    max_gradient = 20.0  # norm to which gradients are clipped
    warm = False  # whether the network started from a trained one
    rate = 1.0  # learning rates, as a share of the usual ones
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
        """pixels: uint8 (N, 28, 28), split by `data.split`; log: the file that `report` appends
        to; muon: what Muon trains instead of AdamW.
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
        """Figures on held-out images, which `report` logs."""
        raise NotImplementedError

    def cost(self, figures: dict[str, Any]) -> float:
        """The figure by which networks are compared: the lower, the better."""
        return float(figures["estimated_bytes"])

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
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
        """Continue from a `state`.

        Raises UsageError if it is of other images or of another network.
        """
        if state.get("kind") != type(self).__name__:
            raise UsageError(f"is of a {state.get('kind')}, not of a {type(self).__name__}")
        if state["data"] != self.data:
            found, wanted = state["data"][:16], self.data[:16]
            raise UsageError(f"is of other images: sha256 {found}..., these have {wanted}...")
        try:
            self.net.load_state_dict(state["net"])
        except RuntimeError as error:
            raise UsageError("is of a network of another size") from error
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for name in ("seconds", "steps", "costs", "flat", "best", "warm"):
            setattr(self, name, state[name])
        torch.set_rng_state(state["random"].cpu())

    def step(self, fraction: float) -> float:
        """Train on one batch at `fraction` (0..1) of the schedule -> its loss."""
        warm = min(1.0, (self.steps + 1) / WARM_UP_STEPS)
        factor = self.rate * warm * (0.01 + 0.99 * (1 + math.cos(math.pi * fraction)) / 2)
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
        progress: Progress = lambda what, spent, total: None,
        tell: Tell = lambda seconds, figures: None,
    ) -> None:
        """Train until `seconds` are spent, over all runs, or until the cost on held-out images is
        flat and the learning rate has come down.

        A checkpoint is written every few minutes, at the end, and when training is interrupted.
        tell: is called about TELLS times with the seconds spent and `figures`; progress: after each
        step.
        """
        keep_memory(KEPT_BYTES)
        losses: list[float] = []
        # Measure the start, which is kept if training makes it worse.
        if self.warm and not self.costs:
            tell(self.seconds, self.report(None))
        saved = time.monotonic()
        validated = last_tell = self.seconds
        wait = seconds / VALIDATIONS
        try:
            while (fraction := schedule(self.seconds, seconds, self.flat)) < 1:
                begun = time.monotonic()
                losses = [*losses[-499:], self.step(fraction)]
                if self.seconds - validated > wait:
                    validated, validating = self.seconds, time.monotonic()
                    figures = self.report(float(np.mean(losses)))
                    wait = max(wait, (time.monotonic() - validating) / VALIDATION_SHARE)
                    self._notice_flat(fraction)
                    if self.seconds - last_tell > seconds / TELLS or len(self.costs) == 1:
                        last_tell = self.seconds
                        tell(self.seconds, figures)
                self.seconds += time.monotonic() - begun
                if checkpoint and time.monotonic() - saved > CHECKPOINT_S:
                    save(self.state(), checkpoint)
                    saved = time.monotonic()
                rate = self.steps * self.batch / self.seconds
                what = f" s, step {self.steps:,}, {rate:,.0f} images/s"
                what += f", loss {np.mean(losses[-50:]):.2f}"
                what += ", flat: cooling down" * (self.flat is not None)
                progress(what, round(self.seconds), round(seconds))
        finally:
            if checkpoint:
                save(self.state(), checkpoint)
        self._keep_best(float(np.mean(losses)) if losses else None)

    def _notice_flat(self, fraction: float) -> None:
        flat = is_flat(self.costs, self.seconds, self.flat_gain)
        if self.flat is None and fraction > FLAT_FROM and flat:
            self.flat = self.seconds

    def _keep_best(self, loss: float | None) -> None:
        """Go back to the best weights of all reports if those of now are worse."""
        figures = self.report(loss)
        if self.best and self.cost(figures) > min(cost for _, cost in self.costs):
            self.net.load_state_dict(self.best)

    def report(self, loss: float | None) -> dict[str, Any]:
        """Measure on held-out images, remember the weights if they are the best so far, append one
        line of JSON to the log.
        """
        self.net.set_quantized(True)  # as it would be exported; the next step sets it again
        figures = self.figures()
        cost = self.cost(figures)
        if not self.costs or cost < min(c for _, c in self.costs):
            self.best = {name: tensor.clone() for name, tensor in self.net.state_dict().items()}
        self.costs.append((self.seconds, cost))
        if self.log:
            row = {
                "steps": self.steps,
                "seconds": round(self.seconds),
                "loss": None if loss is None else round(loss, 3),
                **figures,
            }
            with self.log.open("a") as f:
                f.write(json.dumps(row) + "\n")
        return figures


def save(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def resume(trainer: Trainer, checkpoint: Path) -> None:
    """Load a checkpoint into `trainer`.  Raises UsageError naming the file."""
    stream = io.BytesIO(checkpoint.read_bytes())
    try:
        # weights_only: a checkpoint is a pickle, and a stranger's pickle is a program.
        state = torch.load(stream, weights_only=True, map_location=trainer.device)
    except Exception as error:  # of many kinds, whatever the file is
        raise UsageError(f"{checkpoint}: not a checkpoint, or a damaged one") from error
    try:
        trainer.load(state)
    except UsageError as error:
        raise UsageError(f"{checkpoint} {error}") from error
