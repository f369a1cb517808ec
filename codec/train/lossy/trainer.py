"""Training of the lossy network: its loss, and the figures by which it is judged.

READ ME FIRST
- One network serves all rates: each image of a batch draws its own lambda, log-uniform over the
  whole range, for lambda * SSE + bits (SSE of pixels in 0..1), divided by (lambda + 1)**0.45 so
  that no rate drowns the others.
- The dense level starts alone, or it would stay empty. Then all levels start at a discount: their
  bits are nearly free, and the price rises to 1 by ANNEALED. At the full price from the start, the
  upper levels, still useless, are silenced for good (measured: 0.0 bytes in two of three). The
  price of the dense level rises later than the others', or they take over its share (measured: 0.0
  bytes in it below 90 bytes).
- Bits are those of latents under uniform noise to the very end. Counting those of rounded latents
  instead looks better in the loss (51 after 82) and is ruinous: latents gather at the edge of
  rounding, and on held-out images 21 bytes fell from 28.6 to 24.9 dB within 900 steps.
- A network that starts from a trained one gets no discount: its levels are already of use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codec import metrics
from codec.arrays import PIXELS
from codec.model.bundle import Model
from codec.model.ladder_parts import MAX_LOG2_LMBDA, MIN_LOG2_LMBDA, log2_lmbda
from codec.train import data
from codec.train.loop import BATCH, Trainer
from codec.train.lossy import warm_start
from codec.train.lossy.network import Config, LadderNet

LEARNING_RATE = 2e-3
DENSE_ONLY_UNTIL, FIRST_PRICE = 0.02, 0.02
ANNEALED, DENSE_ANNEALED = 0.12, 0.2
RATE_EXPONENT = -0.45
VALIDATION_IMAGES = 400
VALIDATION_QUALITIES = (10, 30, 50, 75, 99)


def price(fraction: float, annealed: float) -> float:
    """What a bit costs at `fraction` of the schedule: 1 while the dense level is alone, then
    little, and 1 again from `annealed` on.
    """
    rise = (fraction - DENSE_ONLY_UNTIL) / (annealed - DENSE_ONLY_UNTIL)
    return FIRST_PRICE ** max(0.0, 1 - rise) if rise >= 0 else 1.0


def rate_distortion_loss(
    net: LadderNet, pixels: Tensor, log2_lmbda: Tensor, fraction: float = 1.0
) -> Tensor:
    """Mean over the batch of (lambda * SSE + bits) * (lambda + 1)**RATE_EXPONENT.

    pixels: float (N, 28, 28), 0..255; log2_lmbda: (N,); fraction: of the schedule, 0..1.
    """
    x_hat, rates = net(pixels, log2_lmbda, hard=False, dense_only=fraction < DENSE_ONLY_UNTIL)
    bits = price(fraction, DENSE_ANNEALED) * rates[0] + price(fraction, ANNEALED) * sum(rates[1:])
    lmbda = 2**log2_lmbda
    sse = ((x_hat - pixels) / 255).square().sum((1, 2))
    return ((lmbda * sse + bits) * (lmbda + 1) ** RATE_EXPONENT).mean()


@torch.no_grad()
def evaluate(net: LadderNet, pixels: Tensor, log2_lmbdas: list[float]) -> list[dict[str, Any]]:
    """Measure the float network with rounded latents on pixels (N, 28, 28), at each rate.

    Each row: log2_lmbda, estimated_bytes an image, psnr_db, level_bytes an image.
    """
    dtype, net.dtype = net.dtype, torch.float32
    rows = []
    for value in log2_lmbdas:
        level_bits, squared_error = torch.zeros(1, device=pixels.device), 0.0
        for batch in pixels.split(500):
            rate = torch.full((len(batch),), value, device=batch.device)
            x_hat, rates = net(batch.float(), rate, hard=True)
            level_bits = level_bits + torch.stack([bits.sum() for bits in rates])
            squared_error += float((x_hat.clamp(0, 255).round() - batch).square().sum())
        level_bytes = (level_bits / 8 / len(pixels)).tolist()
        psnr_db = metrics.psnr_db(squared_error, pixels.numel())
        rows.append(
            {
                "log2_lmbda": value,
                "estimated_bytes": round(sum(level_bytes), 2),
                "psnr_db": None if psnr_db is None else round(psnr_db, 2),
                "level_bytes": [round(num_bytes, 1) for num_bytes in level_bytes],
            }
        )
    net.dtype = dtype
    return rows


class LadderTrainer(Trainer):
    """Trains a LadderNet.  pixels: uint8 (N, 28, 28), split by `data.split`.

    start: a lossy model to start from; `config` is then not used.
    """

    def __init__(
        self,
        pixels: data.U8,
        *,
        seed: int = 0,
        config: Config = Config(),  # noqa: B008
        log: Path | None = None,
        start: Model | None = None,
    ) -> None:
        torch.manual_seed(seed)
        train, _ = data.split(pixels)
        mean = torch.tensor(train).float().mean(0)
        net = LadderNet(mean, config) if start is None else warm_start.ladder(start, mean)
        self.warm = start is not None
        self.start(pixels, net, LEARNING_RATE, log)

    def loss(self, fraction: float) -> Tensor:
        batch = self.train[torch.randint(len(self.train), (BATCH,), device=self.device)].float()
        rates = MIN_LOG2_LMBDA + (MAX_LOG2_LMBDA - MIN_LOG2_LMBDA) * torch.rand(
            len(batch), device=self.device
        )
        return rate_distortion_loss(
            self.net, batch, rates, max(fraction, DENSE_ANNEALED) if self.warm else fraction
        )

    def figures(self) -> dict[str, Any]:
        rates = [log2_lmbda(quality) for quality in VALIDATION_QUALITIES]
        rows = evaluate(self.net, self.held_out[:VALIDATION_IMAGES], rates)
        return {"curve": [(r["estimated_bytes"], r["psnr_db"], r["level_bytes"]) for r in rows]}

    def cost(self, figures: dict[str, Any]) -> float:
        points = zip(VALIDATION_QUALITIES, figures["curve"], strict=True)
        return cost_of(
            [(quality, num_bytes, psnr_db) for quality, (num_bytes, psnr_db, _) in points]
        )


def cost_of(points: list[tuple[int, float, float | None]]) -> float:
    """The mean loss of points (quality, bytes, PSNR in dB), with bits at their full price.

    A PSNR of None means no error.
    """
    total = 0.0
    for quality, num_bytes, psnr_db in points:
        lmbda = 2 ** log2_lmbda(quality)
        sse = 0.0 if psnr_db is None else PIXELS * 10 ** (-psnr_db / 10)
        total += (lmbda * sse + 8 * num_bytes) * (lmbda + 1) ** RATE_EXPONENT
    return total / len(points)
