"""The lossless model as a float network, and its trainer: what `codec.model.pixels` computes, for
whole images at once, with gradients.

READ ME FIRST
- A batch is images; its rows are their *tokens*: the pixels that the big network sees. These are
  the live ones, and the few others that are not 0. The small network, which sees all pixels that
  are not live, learns from a sample of them.
- What the coder updates pixel by pixel is computed here for all tokens at once: sums over the
  tokens before are differences of one running sum, and the links of a neighbour are its row among
  the tokens (zeros if it is not one).
- The loss includes the floor of the integer softmax (every value has frequency 1 of 2**16 for
  free), so that the network does not spend effort on tails that it gets anyway.
- With grids, each image of a batch is rounded to multiples of a step drawn for it (`palettes`);
  most stay as they are.
- Muon trains the matrices, AdamW all else: 2 bytes better than AdamW alone in the same time. The
  learning rate matters more than anything else (Fashion-MNIST, 2.5 minutes: 281 bytes at 0.002, 275
  at 0.004).

Muon: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.arrays import I64, PIXELS
from codec.coding import rans
from codec.model.grids import rounded
from codec.model.pixels_parts import (
    LINKED,
    LIVE_NEIGHBOURS,
    MAX_PALETTES,
    NEIGHBOURS,
    NO_INK,
    RADIUS,
    SPREAD,
    WINDOW,
)
from codec.train import data
from codec.train.layers import Layer, clip, layers_of, rectify
from codec.train.loop import Trainer
from codec.train.lossless import palettes

PLANE_WIDTH, PLANE_HEIGHT = 28 + 2 * RADIUS, 28 + RADIUS
TOKENS = 11_000  # of a batch
FLAG_SAMPLE = 0.25  # of the pixels that only the small network sees
TABLE_LIMIT = 7.99  # |entry| of a table: it becomes an int16 in units of 2**-10, with room to spare
LEARNING_RATE, MUON_LEARNING_RATE = 6e-3, 6e-3
MEASURED_IMAGES = 1000  # held-out ones, at each report
STEPS = (1, *palettes.GRID_STEPS)
# how often an image is rounded to multiples of each of STEPS, in percent
STEP_WEIGHTS = (40, 11, 10, 8, 8, 6, 5, 4, 3, 3, 2)
MEASURED_STEPS = (3, 5, 9, 17, 51)  # held-out images are measured as they are, and on these grids
GRID_IMAGES = 400  # of those that each grid is measured on


@dataclass(frozen=True)
class PixelConfig:
    """Sizes of a network.  hidden: the wider, the smaller the files and the slower."""

    hidden: int = 192
    layers: int = 4
    links: int = 32  # that each layer passes on to later neighbours
    sums: int = 64
    embedding: int = 24  # of a neighbour's value
    flag: int = 32
    weight_bits: int = 16  # in the file, 8 or 16; exact sums leave room for 10 or 11 of them


class Tokens:
    """The tokens of images, and what came before any pixel.

    pixels: uint8 (I, 28, 28).  image, pixel, value: int64 (T,); near: uint8 (I, 784, neighbours).
    """

    def __init__(self, pixels: Tensor) -> None:
        self.count = len(pixels)
        padded = F.pad(pixels, (RADIUS, RADIUS, RADIUS, 0))
        self._flat = padded.reshape(-1)
        offsets = [
            dy * PLANE_WIDTH + dx for dy in range(-RADIUS, 1) for dx in range(-RADIUS, RADIUS + 1)
        ]
        self._offsets = torch.tensor(offsets[:WINDOW], device=pixels.device)
        near = [
            padded[:, RADIUS + dy : RADIUS + dy + 28, RADIUS + dx : RADIUS + dx + 28]
            for dy, dx in NEIGHBOURS
        ]
        self.near = torch.stack([n.reshape(-1, PIXELS) for n in near], 2)
        live = (self.near[..., :LIVE_NEIGHBOURS] > 0).any(2)
        values = pixels.reshape(-1, PIXELS)
        token = live | (values > 0)
        self.image, self.pixel = token.nonzero(as_tuple=True)
        self.other_image, self.other_pixel = (~token).nonzero(as_tuple=True)
        self.value = values[self.image, self.pixel].long()
        self.flagged = ~live[self.image, self.pixel]
        # tokens of the batch before each pixel
        rank = token.flatten().cumsum(0).view(-1, PIXELS) - token.long()
        self._first, self._rank = rank[:, :1], rank
        ink = values > 0
        column = torch.where(ink, torch.arange(PIXELS, device=pixels.device) % 28, NO_INK)
        self._left = F.pad(column, (1, -1), value=NO_INK).cummin(1).values  # before each pixel
        self._top = torch.where(ink.any(1), ink.long().argmax(1) // 28, NO_INK)

    def window(self, image: Tensor, pixel: Tensor) -> Tensor:
        """-> uint8 (M, WINDOW)."""
        at = (
            image * (PLANE_WIDTH * PLANE_HEIGHT)
            + (pixel // 28 + RADIUS) * PLANE_WIDTH
            + pixel % 28
            + RADIUS
        )
        return self._flat[at[:, None] + self._offsets]

    def place_in_ink(self, image: Tensor, pixel: Tensor) -> tuple[Tensor, Tensor]:
        """-> rows of the tables `top` and `left`."""
        left = self._left[image, pixel]
        blank = left == NO_INK
        return torch.where(blank, 28, pixel // 28 - self._top[image]), torch.where(
            blank, 55, pixel % 28 - left + 27
        )

    def sums_before(self, added: Tensor, image: Tensor, pixel: Tensor) -> Tensor:
        """What each token adds (T, S) -> for each pixel the sum over the tokens before it, in its
        image (M, S).
        """
        running = F.pad(added.float().cumsum(0), (0, 0, 1, 0))
        return running[self._rank[image, pixel]] - running[self._first[image, 0]]

    def linked(self) -> Tensor:
        """Rows of the tokens at LINKED offsets (T, links); the number of tokens stands for none."""
        rows = torch.full((self.count, 30, 30), len(self.image), device=self.image.device)
        y, x = self.pixel // 28 + 1, self.pixel % 28 + 1
        rows[self.image, y, x] = torch.arange(len(self.image), device=self.image.device)
        return torch.stack([rows[self.image, y + dy, x + dx] for dy, dx in LINKED], 1)


def _table(rows: int, width: int, scale: float) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, width) * scale)


def _waves(width: int) -> Tensor:
    """First embeddings of the values (256, width): a straight line, then ever shorter cosines.

    Close values are alike, so that what is learned of one holds for the next. Random embeddings
    were 4 bytes worse in the same time.
    """
    value, k = torch.arange(256)[:, None] / 255, torch.arange(width)
    waves = 1.4 * torch.cos(
        math.pi * 2 ** (k // 2 / 2 - 1) * value + 0.3 * k - math.pi / 2 * (k % 2)
    )
    waves[:, 0] = 3 * value[:, 0] - 1
    waves[0] += torch.randn(width)  # no ink is not just a dark value
    return waves


class SumsNet(nn.Module):
    """What a pixel adds to the sums over the image so far, by its place and its value."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.ink, self.shade = _table(PIXELS, outputs, 0.05), _table(PIXELS, outputs, 0.05)
        self.count = _table(256, outputs, 0.05)

    def forward(self, tokens: Tokens) -> Tensor:
        """-> (T, outputs); a pixel of value 0 adds nothing."""
        pixel, value = tokens.pixel, tokens.value
        added = F.embedding(pixel, self.ink) + F.embedding(pixel, self.shade) * (
            value[:, None] / 128
        )
        return (added + F.embedding(value, self.count)) * (value > 0)[:, None]


class FlagNet(nn.Module):
    """The float side of `pixels.FlagNet`."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.sums = SumsNet(hidden)
        self.window = Layer("dense", 2 * WINDOW, hidden)
        self.position, self.top, self.left = (_table(n, hidden, 0.0) for n in (PIXELS, 29, 56))
        self.logit = Layer("dense", hidden, 1, gain=0.3)
        nn.init.constant_(self.logit.bias, -3.0)

    def forward(
        self, tokens: Tokens, image: Tensor, pixel: Tensor, added: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """-> logits (M,) of "not 0" at pixels of images."""
        window = tokens.window(image, pixel)
        x = self.window(torch.cat([window.to(dtype) / 128, (window > 0).to(dtype)], 1)).float()
        x = x + tokens.sums_before(added, image, pixel) + F.embedding(pixel, self.position)
        row, column = tokens.place_in_ink(image, pixel)
        h = rectify(x + F.embedding(row, self.top) + F.embedding(column, self.left))
        return self.logit(h.to(dtype)).float()[:, 0]


class ValueNet(nn.Module):
    """The float side of `pixels.ValueNet`."""

    def __init__(self, config: PixelConfig, tables: palettes.Palettes) -> None:
        super().__init__()
        h = config.hidden
        self.sums = SumsNet(config.sums)
        self.near = nn.Parameter(torch.cat([_waves(config.embedding) for _ in NEIGHBOURS]))
        self.input = Layer("dense", WINDOW + config.sums + len(NEIGHBOURS) * config.embedding, h)
        self.position, self.palette = _table(PIXELS, h, 0.0), _table(len(tables.freq), h, 0.0)
        self.flagged = nn.Parameter(torch.zeros(h))
        self.links = nn.ModuleList(Layer("dense", h, config.links) for _ in range(config.layers))
        self.hidden = nn.ModuleList(
            Layer("dense", h + len(LINKED) * config.links, h, gain=0.7)
            for _ in range(config.layers)
        )
        self.head = Layer("dense", h, 256, gain=0.3)
        self.palette_logits = nn.Parameter(torch.tensor(tables.logits))
        self.register_buffer("possible", torch.tensor(tables.logits > palettes.IMPOSSIBLE))

    def biases(self) -> Tensor:
        """Logits of the palettes (P, 256)."""
        return torch.where(self.possible, self.palette_logits, palettes.IMPOSSIBLE)

    def forward(self, tokens: Tokens, palette: Tensor, dtype: torch.dtype) -> Tensor:
        """palette: int64 (I,) -> logits (T, 256)."""
        image, pixel = tokens.image, tokens.pixel
        sums = tokens.sums_before(self.sums(tokens), image, pixel) / 4
        at = (
            tokens.near[image, pixel].long()
            + torch.arange(len(NEIGHBOURS), device=image.device) * 256
        )
        near = F.embedding(at, self.near).flatten(1)
        x = torch.cat(
            [
                tokens.window(image, pixel).to(dtype) / 128,
                clip(sums).to(dtype),
                clip(near).to(dtype),
            ],
            1,
        )
        x = (
            self.input(x)
            + F.embedding(pixel, self.position.to(dtype))
            + F.embedding(palette[image], self.palette.to(dtype))
        )
        h = clip(x + tokens.flagged[:, None].to(dtype) * self.flagged.to(dtype))
        linked = tokens.linked()
        for link, layer in zip(self.links, self.hidden, strict=True):
            # the last row, of zeros: neighbours that are no tokens
            passed = F.pad(clip(link(rectify(h))), (0, 0, 0, 1))
            h = clip(h + layer(torch.cat([rectify(h), F.embedding(linked, passed).flatten(1)], 1)))
        return self.head(rectify(h)).float() + F.embedding(palette[image], self.biases())


class PixelNet(nn.Module):
    """The float side of `pixels.PixelModel`."""

    def __init__(self, config: PixelConfig, tables: palettes.Palettes) -> None:
        super().__init__()
        self.config, self.tables, self.dtype = config, tables, torch.float32
        self.flag, self.value = FlagNet(config.flag), ValueNet(config, tables)
        for layer in layers_of(self):
            layer.weight_max = 2 ** (config.weight_bits - 1) - 1

    def set_quantized(self, quantized: bool) -> None:
        """Round the weights of every layer to their integer grid, or stop doing so."""
        for layer in layers_of(self):
            layer.quantized = quantized

    def limit_tables(self) -> None:
        """Keep the tables within what int16 can hold."""
        for name, parameter in self.named_parameters():
            if not name.endswith((".weight", ".bias", ".palette_logits")):
                parameter.data.clamp_(-TABLE_LIMIT, TABLE_LIMIT)

    def forward(
        self, pixels: Tensor, palette: Tensor, *, flag_sample: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """uint8 (I, 28, 28), palettes int64 (I,) -> bits of all flags, bits of all values.

        flag_sample: the share of the flags that is computed, and scaled up.
        """
        tokens = Tokens(pixels)
        added = self.flag.sums(tokens)
        image, pixel = tokens.other_image, tokens.other_pixel
        if flag_sample < 1:
            sampled = torch.rand(len(image), device=image.device) < flag_sample
            image, pixel = image[sampled], pixel[sampled]
        flag_bits = (
            F.softplus(self.flag(tokens, image, pixel, added, self.dtype)).sum() / flag_sample
        )
        image, pixel = tokens.image[tokens.flagged], tokens.pixel[tokens.flagged]
        flag_bits = (
            flag_bits + F.softplus(-self.flag(tokens, image, pixel, added, self.dtype)).sum()
        )
        logits = self.value(tokens, palette, self.dtype)
        p = torch.exp(-F.cross_entropy(logits, tokens.value, reduction="none"))
        value_bits = -torch.log2(p * (SPREAD / rans.TOTAL) + 1 / rans.TOTAL).sum()
        return flag_bits / math.log(2), value_bits


class PixelTrainer(Trainer):
    """Trains a PixelNet; see Trainer.

    pixels: uint8 (N, 28, 28), split by `data.split`; most_palettes: how many it has at most.
    grids: train also on images that are rounded to multiples of a step.
    """

    max_gradient = 20.0

    def __init__(
        self,
        pixels: data.U8,
        *,
        seed: int = 0,
        config: PixelConfig = PixelConfig(),
        most_palettes: int = MAX_PALETTES,
        grids: bool = False,
        log: Path | None = None,
    ) -> None:
        torch.manual_seed(seed)
        train, held_out = data.split(pixels)
        tables, self.grids = palettes.learn(train, most_palettes, grids=grids), grids
        net = PixelNet(config, tables)
        matrices = [layer.weight for layer in layers_of(net.value) if layer is not net.value.head]
        self.start(pixels, net, LEARNING_RATE, log, muon=matrices, muon_rate=MUON_LEARNING_RATE)
        self.palette, self.held_out_palette = (
            torch.tensor(tables.choose(p)).to(self.device) for p in (train, held_out)
        )
        self.measured = [(self.held_out[:MEASURED_IMAGES], self.held_out_palette[:MEASURED_IMAGES])]
        if grids:
            some = held_out[:GRID_IMAGES]
            self.measured += [self._rounded(some, np.full(len(some), s)) for s in MEASURED_STEPS]
        tokens = Tokens(self._drawn(torch.linspace(0, len(self.train) - 1, 200).long())[0])
        self.batch = min(64, max(8, round(TOKENS / (len(tokens.image) / tokens.count))))

    def loss(self, fraction: float) -> Tensor:
        """Bytes an image."""
        chosen = torch.randint(len(self.train), (self.batch,), device=self.device)
        self.net.limit_tables()
        return sum(self.net(*self._drawn(chosen), flag_sample=FLAG_SAMPLE)) / (8 * self.batch)

    def _drawn(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Training images of these numbers, with grids each rounded to a random step, and their
        palettes.
        """
        if not self.grids:
            return self.train[chosen], self.palette[chosen]
        weights = torch.tensor(STEP_WEIGHTS).float()
        steps = np.array(STEPS)[torch.multinomial(weights, len(chosen), replacement=True).numpy()]
        return self._rounded(self.train[chosen].cpu().numpy(), steps)

    def _rounded(self, pixels: data.U8, steps: I64) -> tuple[Tensor, Tensor]:
        """uint8 (N, 28, 28) -> the same rounded to multiples of steps (N,), and their palettes."""
        pixels = rounded(pixels, steps)
        palette = self.net.tables.choose(pixels)
        return torch.tensor(pixels).to(self.device), torch.tensor(palette).to(self.device)

    def figures(self) -> dict[str, object]:
        """Ideal bytes an image of the float network, on at most MEASURED_IMAGES held-out images;
        with grids also by step.
        """
        figures, *of_grids = (evaluate(self.net, *measured) for measured in self.measured)
        if of_grids:
            figures["by_step"] = {
                step: row["estimated_bytes"]
                for step, row in zip(MEASURED_STEPS, of_grids, strict=True)
            }
        return figures

    def cost(self, figures: dict[str, Any]) -> float:
        """With grids, the geometric mean of the bytes at all steps, so that every step counts
        the same.
        """
        by_step = figures.get("by_step", {})
        return math.exp(float(np.mean(np.log([figures["estimated_bytes"], *by_step.values()]))))


@torch.no_grad()
def evaluate(net: PixelNet, pixels: Tensor, palette: Tensor) -> dict[str, object]:
    """Ideal bytes an image of the float network, for pixels uint8 (N, 28, 28) of these palettes."""
    dtype, net.dtype = net.dtype, torch.float32
    bits = np.zeros(2)
    for batch, chosen in zip(pixels.split(25), palette.split(25), strict=True):
        bits += [float(b) for b in net(batch, chosen)]
    net.dtype = dtype
    freq = net.tables.freq[palette.cpu().numpy()]
    palette_bytes = float(np.sum(rans.PRECISION - np.log2(freq))) / 8 / len(pixels)
    flags, values = (bits / 8 / len(pixels)).round(3).tolist()
    return {
        "palette_bytes": round(palette_bytes, 3),
        "flag_bytes": flags,
        "value_bytes": values,
        "estimated_bytes": round(palette_bytes + flags + values, 3),
    }
