"""Lossless: an autoregressive model of pixels, in exact integers.  FORMAT.md 8.

Pixels are coded row by row, each from the image so far:

    palette of the image ─► table ──────────────────────────────────────────────┐
    window (6 rows up, 6 columns each way) ─┐                                   │
    values of near pixels ─► embeddings ────┼─► layer ─► h ─► hidden ─► head ─► + ─► softmax ─► rANS
    what earlier pixels add up to ─► sums ──┘                 ▲    │
                                                              └────┘ links, from each layer at a
                          pixel to the next layer at its eastern and southern neighbours

READ ME FIRST
- Encoder and decoder run the same generator, `Pixels.steps`: it yields frequencies, receives
  symbols, and continues. All images of a batch are at the same pixel; only the coder knows which
  images share a lane.
- A pixel is *live* if one of its four earlier neighbours is not 0. For the others, most of an
  image, a small network first predicts whether they are 0, as nearly all are; the big one is only
  used for pixels that are live or turned out not to be 0.
- A palette says in advance which values an image has, or has more often: many pipelines leave such
  a mark (codec/train/lossless/palettes.py).
- An image that this would expand is stored in the same message instead: packed by zstd, or raw.
- The softmax uses only integers: a table of exponentials, one integer division for each pixel.
- `steps` is the reference. With native kernels (codec/kernels), `NativePixels` does its work, coder
  included, for the same bytes.

Sums over the image so far, updated and not computed anew: Larochelle and Murray, NADE, 2011.
Features of earlier pixels as inputs: van den Oord et al., PixelCNN, arXiv:1606.05328. What each
part is worth: weights/README.md.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

import numpy as np

from codec.arrays import I64, PIXELS, SIDE, U8, U32, Bools, Integers
from codec.coding import rans
from codec.coding.lanes import Encoded, checks
from codec.errors import BadModel
from codec.format.constants import GROUP_IMAGES, LOSSLESS_QUALITY, NEAR_LOSSLESS
from codec.kernels import active as native_kernels
from codec.model.bundle import Bundle, Model
from codec.model.grids import rounded, steps_for
from codec.model.pixels_native import MAX_BYTES, NativePixels
from codec.model.pixels_palettes import PaletteChoice
from codec.model.pixels_parts import (
    LIVE_NEIGHBOURS,
    MAX_PALETTE_COST,
    MAX_PALETTES,
    NEIGHBOURS,
    RADIUS,
    Canvas,
    FlagNet,
    Links,
    ValueNet,
)
from codec.model.pixels_symbols import (
    STORED_FREQS,
    PixelSymbols,
    bits_with_heads,
    cheaper_stored,
    pack_lanes,
    read_stored,
)
from codec.parallel import in_threads, num_cores

BATCH_IMAGES = 2048  # the largest batch of one core: 17 KiB of state an image
# The same with native kernels, which reach their speed with 64 (measured: the same from 64 to 512).
NATIVE_BATCH_IMAGES = 256
_BEFORE = np.tri(256, k=-1, dtype=np.uint32)  # row s: 1 for each symbol before s


class Step(NamedTuple):
    """A choice at pixel number `pixel`: one symbol for each of `images` (M,), of frequencies `freq`
    uint32 (M, symbols).

    Two symbols: whether the pixel is not 0. 256: its value.
    """

    pixel: int
    images: I64
    freq: U32


class Pixels(Model):
    """The lossless coder: every pixel from those before it.

    See Coder; qualities are LOSSLESS_QUALITY and, rounded to a grid first, the near-lossless ones.
    """

    ARCHITECTURE = "pixels-3"
    lossless = True

    def _take(self, bundle: Bundle) -> None:
        self._flag = FlagNet(bundle)
        self._flag_multiply_adds = bundle.multiply_adds
        self._value = ValueNet(bundle)
        self._value_multiply_adds = bundle.multiply_adds - self._flag_multiply_adds
        count = self._value.num_palettes
        self._palette_freq = bundle.pop("palette.freq", (count,))
        costs = bundle.pop("palette.costs.table", (count, 256))
        total = self._palette_freq.sum(dtype=np.int64)
        if count > MAX_PALETTES or self._palette_freq.min() < 1 or total != rans.TOTAL:
            raise BadModel(
                f"palette.freq of {count} palettes: wanted at most {MAX_PALETTES}, of sum "
                f"{rans.TOTAL}, no zeros"
            )
        if costs.min() < 0 or costs.max() > MAX_PALETTE_COST:
            raise BadModel(f"palette.costs leaves 0..{MAX_PALETTE_COST}")
        self._choice = PaletteChoice(costs, self._palette_freq)
        self._native: dict[str, NativePixels] = {}

    @property
    def grid_steps(self) -> list[int]:
        """See Coder: those of which it has palettes."""
        return list(self._choice.of_grid)

    def multiply_adds(self, pixels: U8) -> tuple[float, float]:
        """See Model: each network as often as `steps` runs it for these images.

        Without links, which are 6 % more, so that figures can be compared with earlier ones.
        """
        rows, columns = pixels.shape[1:]
        padded = np.pad(pixels > 0, ((0, 0), (1, 0), (1, 1)))
        near = [
            padded[:, 1 + dy :, 1 + dx :][:, :rows, :columns]
            for dy, dx in NEIGHBOURS[:LIVE_NEIGHBOURS]
        ]
        live = near[0] | near[1] | near[2] | near[3]
        asked = np.count_nonzero(~live) / len(pixels)
        valued = np.count_nonzero(live | (pixels > 0)) / len(pixels)
        value = self._value_multiply_adds - self._value.link_multiply_adds
        count = float(asked * self._flag_multiply_adds + valued * value)
        return count, count

    def _natively(self) -> NativePixels | None:
        """The native twin of `steps`, coder included; None: use numpy."""
        kernels = native_kernels()
        if kernels is None:
            return None
        found = self._native.get(kernels.instruction_set)
        if found is None:  # two threads may both make it, which does no harm
            found = NativePixels(self._flag, self._value, kernels)
            self._native[kernels.instruction_set] = found
        return found

    def steps(self, active: Bools, palette: I64) -> Generator[Step, I64, U8]:
        """Yield each choice in order of coding, receive its symbols, return uint8 (N, 28, 28).

        active: bool (N,), the images to code; the others stay 0. palette: int (N,).
        """
        canvas = Canvas(n := len(active))
        flag_sums, value_sums = (
            np.zeros((n, net.sums.outputs), np.int32) for net in (self._flag, self._value)
        )
        links = Links(n, self._value.num_layers, self._value.link_width)
        for pixel in range(PIXELS):
            y, x = divmod(pixel, SIDE)
            if not x:
                links.new_row()
            live = canvas.live(y, x)
            asked = np.flatnonzero(active & ~live)
            flagged = np.zeros(n, np.bool_)
            if len(asked):
                freq = self._flag(pixel, asked, canvas, flag_sums.take(asked, axis=0))
                flagged[asked] = (yield Step(pixel, asked, freq)) > 0
            images = np.flatnonzero(active & live | flagged)
            if not len(images):
                continue
            sums = value_sums.take(images, axis=0)
            freq = self._value(pixel, images, flagged[images], canvas, sums, links, palette[images])
            values = yield Step(pixel, images, freq)
            inked = values > 0
            images, values = images[inked], values[inked]
            canvas.draw(y, x, images, values)
            flag_sums[images] += self._flag.sums.added(pixel, values)
            value_sums[images] += self._value.sums.added(pixel, values)
        return np.ascontiguousarray(canvas.padded[:, RADIUS:, RADIUS:-RADIUS])

    def analyze(self, pixels: U8, quality: int | Integers, effort: int = 1) -> PixelSymbols:
        """See Coder."""
        n = len(pixels)
        max_error = np.broadcast_to(np.asarray(quality) - NEAR_LOSSLESS, n)
        exactly = np.ones(n, np.int64)
        if max_error.max() <= 0:
            return self._analyze_all(pixels, exactly, effort)
        steps = np.where(max_error > 0, steps_for(max_error, self.grid_steps), 1)
        found = self._analyze_all(rounded(pixels, steps), steps, effort)
        if self.grid_steps:
            return found
        # A network that does not know the grid can find the pixels as they are easier to predict.
        exact = self._analyze_all(pixels, exactly, effort)
        fewer = exact.bits < found.bits
        return PixelSymbols.join([found, exact]).of(np.arange(n) + n * fewer)

    def _analyze_all(self, pixels: U8, steps: I64, effort: int) -> PixelSymbols:
        """The symbols of pixels, all of which are kept, batch by batch on all cores.  steps: (N,),
        of the grids that they lie on.
        """
        codes = np.zeros((len(pixels), 2 * PIXELS), np.uint32)  # the batches fill it
        batches = [slice(at, at + size) for at, size in _batches(len(pixels), 1)]
        found = list(
            in_threads(
                lambda some: self._analyze(pixels[some], steps[some], effort, codes[some]), batches
            )
        )
        stored = {
            some.start + i: stream
            for some, (_, of_batch, _) in zip(batches, found, strict=True)
            for i, stream in of_batch.items()
        }
        palettes, _, bits = zip(*found, strict=True)
        return PixelSymbols(pixels, codes, np.concatenate(palettes), stored, np.concatenate(bits))

    def _analyze(
        self, pixels: U8, steps: I64, effort: int, codes: U32
    ) -> tuple[I64, dict[int, bytes], I64]:
        """Fill the codes of a batch -> its palettes, stored bytes and bits: see `PixelSymbols`."""
        native = self._natively()
        encode = self._encode_pixels if native is None else native.encode
        naming = rans.costs().astype(np.int64)[self._palette_freq]
        candidates = self._choice.candidates(pixels, steps)
        palettes = candidates.first.copy()
        bits = encode(pixels, palettes, codes)
        for images, others in candidates.others(effort):
            if not len(images):
                continue
            other_codes = np.zeros((len(images), codes.shape[1]), np.uint32)
            found = encode(pixels[images], others, other_codes)
            fewer = found + naming[others] < bits[images] + naming[palettes[images]]
            images = images[fewer]
            palettes[images], bits[images] = others[fewer], found[fewer]
            codes[images] = other_codes[fewer]
        stored = cheaper_stored(pixels, bits)
        codes[[*stored]] = 0
        return palettes, stored, bits_with_heads(bits, stored, self._palette_freq[palettes])

    def _encode_pixels(self, pixels: U8, palette: I64, codes: U32) -> I64:
        """Code the pixels: see `NativePixels.encode`."""
        n, flat = len(pixels), pixels.reshape(-1, PIXELS)
        bits, cost = np.zeros(n, np.int64), rans.costs()
        network = self.steps(np.ones(n, np.bool_), palette)
        step = next(network)
        while True:
            values = flat[step.images, step.pixel].astype(np.int64)
            is_value = step.freq.shape[1] == 256
            symbols = values if is_value else np.minimum(values, 1)
            freq = step.freq[np.arange(len(symbols)), symbols]
            packed = rans.packed(_start(step.freq, symbols), freq)
            codes[step.images, 2 * step.pixel + is_value] = packed
            bits[step.images] += cost[freq]
            try:
                step = network.send(symbols)
            except StopIteration:
                return bits

    def encode(
        self,
        pixels: U8,
        quality: int = LOSSLESS_QUALITY,
        *,
        group: int | None = None,
        effort: int = 1,
    ) -> Encoded:
        """See Coder."""
        return super().encode(pixels, quality, group=group, effort=effort)

    def pack(self, symbols: PixelSymbols, group: int) -> list[bytes]:
        """See Coder."""
        batches = [
            symbols.of(slice(at, at + size)) for at, size in _batches(len(symbols.pixels), group)
        ]
        packed = in_threads(lambda some: pack_lanes(some, group, self._palette_freq), batches)
        return [message for messages in packed for message in messages]

    def ideal_bits(self, symbols: PixelSymbols) -> float:
        """See Coder."""
        return float(symbols.bits.sum()) / (1 << rans.COST_BITS)

    def decode(
        self,
        messages: list[bytes],
        count: int,
        quality: int = LOSSLESS_QUALITY,
        *,
        group: int | None = None,
    ) -> tuple[U8, Bools]:
        """See Coder."""
        group = group or GROUP_IMAGES
        batches = [
            (messages[at // group : -(-(at + size) // group)], size)
            for at, size in _batches(count, group)
        ]
        decoded = list(in_threads(lambda batch: self._decode_batch(*batch, group), batches))
        pixels, bad = zip(*decoded, strict=True)
        return np.concatenate(pixels), np.concatenate(bad)

    def _decode_batch(self, messages: list[bytes], n: int, group: int) -> tuple[U8, Bools]:
        group = min(group, n)
        decoder = rans.Decoder(messages)
        lanes = np.arange(n) // group
        stored = decoder.decode_each(lanes, np.tile(STORED_FREQS, (n, 1))) > 0
        kept, bad = read_stored(decoder, stored, group)
        palette = np.zeros(n, np.int64)
        names = self._palette_freq.astype(np.uint32)
        palette[~stored] = decoder.decode_each(lanes[~stored], np.tile(names, (n - len(kept), 1)))
        native = self._natively()
        if native is not None and sum(map(len, messages)) < MAX_BYTES:
            pixels, state, used_up = native.decode(decoder, ~stored, palette, group)
        else:
            pixels = self._pixels(decoder, ~stored, palette, lanes)
            state, used_up = decoder.finish()
        pixels[stored] = kept
        return pixels, bad | (state != checks(pixels, group)) | ~used_up

    def _pixels(self, decoder: rans.Decoder, active: Bools, palette: I64, lanes: I64) -> U8:
        """Decode the pixels of the images that are active: see `NativePixels.decode`."""
        network = self.steps(active, palette)
        symbols = None
        while True:
            try:
                step = network.send(symbols)  # type: ignore[arg-type]  # None starts it
            except StopIteration as stop:
                return np.asarray(stop.value)
            symbols = decoder.decode_each(lanes[step.images], step.freq)


def _start(freq: U32, symbols: I64) -> U32:
    """Sum of the frequencies before `symbols` (M,) in each row of `freq` (M, K)."""
    before = _BEFORE[:, : freq.shape[1]].take(symbols, axis=0)
    start: U32 = np.einsum("mk,mk->m", freq, before)  # in half the time of sums of all values
    return start


def _batches(count: int, group: int) -> list[tuple[int, int]]:
    """(first image, images) of each batch: whole groups, as many batches for each core."""
    most, least = (BATCH_IMAGES, 64) if native_kernels() is None else (NATIVE_BATCH_IMAGES, 8)
    cores = min(num_cores(), max(1, count // least))
    rounds = -(-count // (cores * most))
    size = -(-count // (cores * rounds * group)) * group
    return [(at, min(size, count - at)) for at in range(0, count, size)]
