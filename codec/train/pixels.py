"""The lossless model as a float network: what `codec.pixel_model` computes, for whole images at once, with gradients.

READ ME FIRST
- A batch is images; its rows are their *tokens*: the pixels that the big network sees, live ones and those that turned out
  not to be 0 against all appearances. Of the many other pixels the small network learns from a sample.
- What the coder keeps up to date pixel by pixel is a product here: row i of a lower triangular matrix says which tokens
  come before token i, and times the one-hot values of the tokens that is a histogram, times their table entries a sum.
- The loss has the floor of the integer softmax in it (every value has frequency 1 of 2**16 for nothing), so that the
  network does not pay for tails which it gets anyway.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec import rans
from codec.pixel_model import BRIGHT, CONTEXTS, NEIGHBOURS, NO_INK, PIXELS, RADIUS, SPREAD, WINDOW
from codec.train import data
from codec.train.loop import Trainer
from codec.train.networks import LIMIT, Layer, rectify

PLANE_WIDTH, PLANE_HEIGHT = 28 + 2 * RADIUS, 28 + RADIUS
TOKENS = 11_000  # of a batch
FLAG_SAMPLE = 0.25  # of the pixels that only the small network sees
COUNT_SCALE = 4.0  # a value seen c times weighs log(1 + 4 c): being seen at all is most of it
TABLE_LIMIT = 7.99  # |entry| of a table: int16 in units of 2**-12
SUB_BATCHES = 4
LEARNING_RATE = 2e-3


@dataclass(frozen=True)
class PixelConfig:
    """Sizes of a network.  hidden: the wider, the smaller the files and the slower; 192 for mnist, 112 for fashion."""

    hidden: int = 192
    layers: int = 2
    flag: int = 32


class Tokens:
    """The tokens of images, their contexts, and for any pixel what came before.

    pixels: uint8 (I, 28, 28).  image, pixel, slot, value: int64 (T,); slot counts the tokens of an image.
    """

    def __init__(self, pixels: Tensor, dtype: torch.dtype) -> None:
        self.count = len(pixels)
        padded = F.pad(pixels, (RADIUS, RADIUS, RADIUS, 0))
        self._flat = padded.reshape(-1)
        self._offsets = torch.tensor([dy * PLANE_WIDTH + dx for dy in range(-RADIUS, 1) for dx in range(-RADIUS, RADIUS + 1)])
        near = [padded[:, RADIUS + dy : RADIUS + dy + 28, RADIUS + dx : RADIUS + dx + 28] for dy, dx in NEIGHBOURS]
        self._near = torch.stack([n.reshape(-1, PIXELS) for n in near], 2)
        live = (self._near > 0).any(2)
        values = pixels.reshape(-1, PIXELS)
        token = live | (values > 0)
        self.image, self.pixel = token.nonzero(as_tuple=True)
        self.other_image, self.other_pixel = (~token).nonzero(as_tuple=True)
        self.before = token.cumsum(1) - token.long()  # tokens before each pixel
        self.slot = self.before[self.image, self.pixel]
        self.value = values[self.image, self.pixel].long()
        self.flagged = ~live[self.image, self.pixel]
        self.ink = (self.value > 0).nonzero()[:, 0]
        self.lengths = token.sum(1)
        self.length = int(self.lengths.max())
        one_hot = torch.zeros(self.count, self.length, 256, dtype=dtype)
        one_hot[self.image[self.ink], self.slot[self.ink], self.value[self.ink]] = 1
        self._one_hot = one_hot
        self._earlier = torch.ones(self.length + 1, self.length, dtype=dtype).tril(-1)
        y, x = (torch.full((self.count, self.length + 1), NO_INK) for _ in range(2))
        at = self.image[self.ink], self.slot[self.ink] + 1
        y[at], x[at] = self.pixel[self.ink] // 28, self.pixel[self.ink] % 28
        self._top, self._left = y.cummin(1).values, x.cummin(1).values  # before the token of a slot

    def window(self, image: Tensor, pixel: Tensor, dtype: torch.dtype) -> Tensor:
        """-> (M, 3 * WINDOW), see `pixel_model._features`, with 1.0 for ACTIVATION_UNIT."""
        at = image * (PLANE_WIDTH * PLANE_HEIGHT) + (pixel // 28 + RADIUS) * PLANE_WIDTH + pixel % 28 + RADIUS
        values = self._flat[at[:, None] + self._offsets[:WINDOW]]
        return torch.cat([values.to(dtype) / 128, (values > 0).to(dtype), (values >= BRIGHT).to(dtype)], 1)

    def places(self, image: Tensor, pixel: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """-> index of the sums so far in `sums_before`, rows of the tables `top` and `left`, neighbours (M, 4)."""
        slot = self.before[image, pixel]
        top, left = self._top[image, slot], self._left[image, slot]
        row = torch.where(top == NO_INK, 28, pixel // 28 - top)
        column = torch.where(left == NO_INK, 55, pixel % 28 - left + 27)
        return image * (self.length + 1) + slot, row, column, self._near[image, pixel].long()

    def sums_before(self, added: Tensor) -> Tensor:
        """What each token of `ink` adds (K, Z) -> sums before each slot (I * (length + 1), Z)."""
        z = added.shape[1]
        # Slots outermost: one product for all images.
        spread = torch.zeros(self.length * self.count, z, dtype=self._one_hot.dtype)
        at = self.slot[self.ink] * self.count + self.image[self.ink]
        spread = spread.index_copy(0, at, added.to(spread.dtype)).view(self.length, self.count * z)
        return (self._earlier @ spread).view(self.length + 1, self.count, z).transpose(0, 1).reshape(-1, z)

    def histograms(self) -> Tensor:
        """For each context of `CONTEXTS`: how often the tokens before had each value in it (T, contexts, 256)."""
        west, north = self._near[self.image, self.pixel, 0].long(), self._near[self.image, self.pixel, 1].long()
        contexts = {"image": None, "row": self.pixel // 28, "column": self.pixel % 28, "west": west >> 2, "north": north >> 2}
        parts = []  # images of about the same number of tokens together: the products are of its square
        for part in self.lengths.argsort().chunk(SUB_BATCHES):
            place = torch.full((self.count,), -1)
            place[part] = torch.arange(len(part))
            rows = (place[self.image] >= 0).nonzero()[:, 0]
            parts.append((part, int(self.lengths[part].max()), place[self.image[rows]], rows))
        counts = torch.empty(len(self.image), len(CONTEXTS), 256)
        for k, name in enumerate(CONTEXTS):
            context = contexts[name]
            grid = torch.full((self.count, self.length), -1, dtype=torch.int32)
            if context is not None:
                grid[self.image, self.slot] = context.int()
            for part, length, image, rows in parts:
                mask = self._earlier[:length, :length]
                if context is not None:
                    mask = (grid[part, :length, None] == grid[part, None, :length]).to(mask.dtype) * mask
                counts[rows, k] = (mask @ self._one_hot[part, :length])[image, self.slot[rows]].float()
        return counts


class TrunkNet(nn.Module):
    """The float side of `pixel_model.Trunk`."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.window = Layer("dense", 3 * WINDOW, outputs)
        table = lambda rows, scale: nn.Parameter(torch.randn(rows, outputs) * scale)  # noqa: E731
        self.position, self.top, self.left = table(PIXELS, 0.0), table(29, 0.0), table(56, 0.0)
        self.ink, self.shade = table(PIXELS, 0.02), table(PIXELS, 0.02)
        self.first, self.count = table(256, 0.02), table(256, 0.01)
        self.neighbours = nn.ParameterList(table(256, 0.02) for _ in NEIGHBOURS)

    def added(self, tokens: Tokens, new: Tensor) -> Tensor:
        """What each token of `tokens.ink` adds to the sums (K, outputs)."""
        pixel, value = tokens.pixel[tokens.ink], tokens.value[tokens.ink]
        shade = F.embedding(pixel, self.shade) * (value[:, None] / 128)
        first = F.embedding(value, self.first) * new[:, None]
        return F.embedding(pixel, self.ink) + shade + F.embedding(value, self.count) + first

    def forward(self, tokens: Tokens, sums: Tensor, image: Tensor, pixel: Tensor, dtype: torch.dtype) -> Tensor:
        """-> pre-activations (M, outputs) at pixels of images."""
        before, row, column, near = tokens.places(image, pixel)
        x = self.window(tokens.window(image, pixel, dtype)) + sums[before]
        x = x + F.embedding(pixel, self.position.to(dtype)) + F.embedding(row, self.top.to(dtype))
        x = x + F.embedding(column, self.left.to(dtype))
        for k, table in enumerate(self.neighbours):
            x = x + F.embedding(near[:, k], table.to(dtype))
        return x


class PixelNet(nn.Module):
    """The float side of `pixel_model.PixelModel`."""

    def __init__(self, config: PixelConfig = PixelConfig()) -> None:
        super().__init__()
        self.config, self.dtype = config, torch.float32
        h = config.hidden
        self.flag_trunk, self.value_trunk = TrunkNet(config.flag), TrunkNet(h)
        self.flag = Layer("dense", config.flag, 1, gain=0.3)
        self.flagged = nn.Parameter(torch.zeros(h))
        self.hidden = nn.ModuleList(Layer("dense", h, h, gain=0.7) for _ in range(config.layers))
        self.head = Layer("dense", h, 256, gain=0.3)
        self.gates = Layer("dense", h, len(CONTEXTS), gain=0.1)
        nn.init.constant_(self.flag.bias, -3.0)

    def set_quantized(self, quantized: bool) -> None:
        """Round the weights of every layer to their integer grid, or stop doing so."""
        for module in self.modules():
            if isinstance(module, Layer):
                module.quantized = quantized

    def limit_tables(self) -> None:
        """Keep the tables within what int16 can hold."""
        for name, parameter in self.named_parameters():
            if "_trunk." in name and ".window." not in name:
                parameter.data.clamp_(-TABLE_LIMIT, TABLE_LIMIT)

    def forward(self, pixels: Tensor, *, flag_sample: float = 1.0) -> tuple[Tensor, Tensor]:
        """uint8 (I, 28, 28) -> bits of all flags, of all values of the batch; of the flags only a sample is computed."""
        dtype, tokens = self.dtype, Tokens(pixels, self.dtype)
        histograms = tokens.histograms()
        new = histograms[tokens.ink, 0, tokens.value[tokens.ink]] == 0  # whether a value is the first of its kind in its image
        sums = tokens.sums_before(self.flag_trunk.added(tokens, new))
        image, pixel = tokens.other_image, tokens.other_pixel
        if flag_sample < 1:
            sampled = torch.rand(len(image)) < flag_sample
            image, pixel = image[sampled], pixel[sampled]
        flag_bits = F.softplus(self._flag_logits(tokens, sums, image, pixel)).sum() / flag_sample
        image, pixel = tokens.image[tokens.flagged], tokens.pixel[tokens.flagged]
        flag_bits = flag_bits + F.softplus(-self._flag_logits(tokens, sums, image, pixel)).sum()

        sums = tokens.sums_before(self.value_trunk.added(tokens, new))
        x = self.value_trunk(tokens, sums, tokens.image, tokens.pixel, dtype)
        h = rectify(x + tokens.flagged[:, None].to(dtype) * self.flagged.to(dtype))
        for layer in self.hidden:
            h = F.hardtanh(h + rectify(layer(h)), 0.0, LIMIT)
        log_counts = histograms.mul_(COUNT_SCALE).log1p_()
        logits = self.head(h).float() + torch.bmm(self.gates(h).float()[:, None], log_counts)[:, 0]
        p = torch.exp(-F.cross_entropy(logits, tokens.value, reduction="none"))
        value_bits = -torch.log2(p * (SPREAD / rans.TOTAL) + 1 / rans.TOTAL).sum()
        return flag_bits / math.log(2), value_bits

    def _flag_logits(self, tokens: Tokens, sums: Tensor, image: Tensor, pixel: Tensor) -> Tensor:
        return self.flag(rectify(self.flag_trunk(tokens, sums, image, pixel, self.dtype))).float()[:, 0]


class PixelTrainer(Trainer):
    """Trains a PixelNet; see Trainer.  pixels: uint8 (N, 28, 28), split by `data.split`."""

    max_gradient = 1.0

    def __init__(self, pixels: data.U8, *, seed: int = 0, config: PixelConfig = PixelConfig(), log: Path | None = None) -> None:
        torch.manual_seed(seed)
        self.start(pixels, PixelNet(config), LEARNING_RATE, log)
        tokens = Tokens(self.train[torch.linspace(0, len(self.train) - 1, 200).long()], torch.float32)
        self.batch = min(64, max(8, round(TOKENS / (len(tokens.image) / tokens.count))))

    def loss(self, fraction: float) -> Tensor:
        """Bytes an image."""
        pixels = self.train[torch.randint(len(self.train), (self.batch,))]
        self.net.limit_tables()
        return sum(self.net(pixels, flag_sample=FLAG_SAMPLE)) / (8 * self.batch)

    def figures(self) -> dict[str, object]:
        """Bytes an image of 500 held-out images: ideal, float network."""
        return evaluate(self.net, self.held_out[:500])


@torch.no_grad()
def evaluate(net: PixelNet, pixels: Tensor) -> dict[str, object]:
    """Ideal bytes an image of the float network, for pixels uint8 (N, 28, 28)."""
    dtype, net.dtype = net.dtype, torch.float32
    bits = np.zeros(2)
    for batch in pixels.split(25):
        bits += [float(b) for b in net(batch)]
    net.dtype = dtype
    flags, values = (bits / 8 / len(pixels)).round(3).tolist()
    return {"flag_bytes": flags, "value_bytes": values, "estimated_bytes": round(flags + values, 3)}


