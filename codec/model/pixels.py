"""Lossless: an autoregressive model of pixels, in exact integers.  FORMAT.md 8.

Pixels are coded row by row, each from the image so far:

    palette of the image ─► table ──────────────────────────────────────────────┐
    window (6 rows up, 6 columns each way) ─┐                                   │
    values of near pixels ─► embeddings ────┼─► layer ─► h ─► hidden ─► head ─► + ─► softmax ─► rANS
    what earlier pixels add up to ─► sums ──┘                 ▲    │
                                                              └────┘ links, from each layer at a
                          pixel to the next layer at its eastern and southern neighbours

READ ME FIRST
- Encoder and decoder run the same generator, `PixelModel.steps`: it yields frequencies, is sent
  symbols, and goes on. All images of a part stand at the same pixel; only the coder knows which
  images share a lane.
- A pixel is *live* if one of its four earlier neighbours is not 0. The others, most of an image,
  are first asked by a small network whether they are 0, which they nearly always are; the big one
  only sees what is live or turned out not to be 0.
- A palette says ahead which values an image can have, or favours: many pipelines leave such a mark
  (codec/train/lossless/palettes.py).
- An image that this would expand is stored in the same message instead: packed by zstd, or raw.
- The softmax is integers throughout: a table of exponentials, one integer division for each pixel.
- `steps` is the reference. Where the native kernels are (codec/kernels), `NativePixels` does its
  work, coder included, to the same bytes.

Sums over the image so far, updated and not computed anew: Larochelle and Murray, NADE, 2011.
Features of earlier pixels as inputs: van den Oord et al., PixelCNN, arXiv:1606.05328. What each
part is worth: weights/README.md.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Generator, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from codec.coding import rans
from codec.coding.lanes import U8, Encoded, checks
from codec.coding.rans_native import encode_lanes
from codec.errors import BadModel, CorruptPayload
from codec.format.bitstream import GROUP_IMAGES, LOSSLESS_QUALITY
from codec.kernels import active as native_kernels
from codec.model.bundle import BaseModel, Bundle
from codec.model.layers import ACTIVATION_MAX, ACTIVATION_UNIT, F32, Integers, limit
from codec.model.pixels_native import MAX_BYTES, NativePixels
from codec.parallel import in_threads, num_cores

PIXELS = 784
RADIUS = 6  # of the window
WINDOW = RADIUS * (2 * RADIUS + 1) + RADIUS  # pixels in it
# (row, column) offsets of the neighbours whose values have embeddings, the nearest first.
NEIGHBOURS = (
    (0, -1),
    (-1, 0),
    (-1, -1),
    (-1, 1),
    (0, -2),
    (-2, 0),
    (-1, 2),
    (-2, 1),
    (-2, -1),
    (-1, -2),
    (0, -3),
    (-3, 0),
)
LIVE_NEIGHBOURS = 4  # a pixel is live if one of the first four is not 0
LINKED = NEIGHBOURS[:LIVE_NEIGHBOURS]  # those whose links reach the pixel
_NEIGHBOURS_IN_WINDOW = np.array(
    [(RADIUS + dy) * (2 * RADIUS + 1) + RADIUS + dx for dy, dx in NEIGHBOURS]
)
NO_INK = 28  # row and column of the first ink while there is none
TABLE_BITS = 10  # tables and sums are in units of 2**-10
SUM_SHIFT = 5  # sums become activations: 2**-10 to 1/128, and a quarter of that, since they grow
# first layers are clipped here: far beyond what is left of them after the tables and the next clip
FIRST_MAX = 1 << 22
# what a hidden layer adds to its activations: with more they would be clipped all the same
ADDED_MAX = 2 * ACTIVATION_MAX
LOGIT_UNIT = 32  # logits are in units of 1/32 nat
FLAG_MAX = 511  # largest |logit| of the flag network
LOGIT_MAX = 1 << 15
EXP_ENTRIES = 512  # of the table of exponentials: past 16 nats a value has the least frequency
SPREAD = rans.TOTAL - 256  # each of the 256 values has frequency 1, the rest is shared out
STORED_FREQ = 16  # of 2**16: an image is stored in the message instead of modelled
MAX_PALETTES = 256
MAX_PALETTE_COST = 1023  # of a value, in units of 1 / LOGIT_UNIT nat
PART_IMAGES = 2048  # what one core works on at a time, at most: 17 KiB of state an image
# The same on native kernels, which reach their speed with 64 (measured: the same from 64 to 512).
NATIVE_PART_IMAGES = 256

U32 = npt.NDArray[np.uint32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


def value_counts(pixels: U8) -> F32:
    """uint8 (N, 28, 28) -> how often each image has each value, float32 (N, 256)."""
    every = np.arange(len(pixels))[:, None] * 256 + pixels.reshape(len(pixels), -1)
    return (
        np.bincount(every.ravel(), minlength=256 * len(pixels)).reshape(-1, 256).astype(np.float32)
    )


def choose_palettes(pixels: U8, costs: Integers, freq: Integers) -> I64:
    """The cheapest palette of each image (N,): what its values cost, and naming it.

    costs: (P, 256), 0 to MAX_PALETTE_COST, in units of 1 / LOGIT_UNIT nat; freq: (P,), of sum
    2**16.
    """
    naming = np.rint(-LOGIT_UNIT * np.log(freq / rans.TOTAL)).astype(np.float32)
    # Integers below 784 * 2**10 + 2**9: exact. (A palette is the encoder's choice: another one
    # would decode as well.)
    return np.asarray((value_counts(pixels) @ costs.T.astype(np.float32) + naming).argmin(axis=1))


class Step(NamedTuple):
    """A choice at pixel number `pixel`: one symbol for each of `images` (M,), of frequencies `freq`
    uint32 (M, symbols).

    Two symbols: whether the pixel is not 0. 256: its value.
    """

    pixel: int
    images: I64
    freq: U32


class Canvas:
    """What is known of N images while they are coded: the pixels so far, and where their ink
    begins.

    padded: uint8 (N, 28 + RADIUS, 28 + 2 * RADIUS), zeros around the images; top, left: int (N,),
    row and column of the first ink, or NO_INK.
    """

    def __init__(self, n: int) -> None:
        self.padded = np.zeros((n, 28 + RADIUS, 28 + 2 * RADIUS), np.uint8)
        self.top, self.left = np.full(n, NO_INK), np.full(n, NO_INK)

    def live(self, y: int, x: int) -> npt.NDArray[np.bool_]:
        """Whether the pixel (y, x) is live: bool (N,)."""
        near = [
            self.padded[:, y + RADIUS + dy, x + RADIUS + dx]
            for dy, dx in NEIGHBOURS[:LIVE_NEIGHBOURS]
        ]
        return (near[0] | near[1] | near[2] | near[3]) > 0

    def window(self, y: int, x: int, images: I64) -> U8:
        """(M, WINDOW): values of the pixels of the window around (y, x), row by row."""
        rows = self.padded[:, y : y + RADIUS + 1, x : x + 2 * RADIUS + 1][images].reshape(
            len(images), -1
        )
        return rows[:, :WINDOW]  # what follows in the pixel's own row is not known yet

    def draw(self, y: int, x: int, images: I64, values: I64) -> None:
        """Set the pixel (y, x) of images (M,) to values (M,), 1..255."""
        self.padded[images, y + RADIUS, x + RADIUS] = values
        self.top[images] = np.minimum(self.top[images], y)
        self.left[images] = np.minimum(self.left[images], x)


class Sums:
    """What a pixel adds to the sums of its image, by its place, place times value, and value; in
    units of 2**-TABLE_BITS.
    """

    def __init__(self, bundle: Bundle, name: str, outputs: int | None = None) -> None:
        self._ink = _table(bundle, f"{name}.ink.table", PIXELS, outputs)
        self.outputs = self._ink.shape[1]
        self._shade = _table(bundle, f"{name}.shade.table", PIXELS, self.outputs)
        self._count = _table(bundle, f"{name}.count.table", 256, self.outputs)
        # |sum| <= 784 * 4 * 2**15: far from 2**31, whatever the tables hold.

    def added(self, pixel: int, values: I64) -> I32:
        """What pixels of value `values` (M,), 1..255, add to the sums (M, outputs)."""
        added: I32 = values.astype(np.int32)[:, None] * self._shade[pixel]
        added += 64
        added >>= 7
        added += self._ink[pixel]
        added += self._count.take(values, axis=0)
        return added


class FlagNet:
    """The small network: whether a pixel is 0."""

    LIMITS = FIRST_MAX, FLAG_MAX  # of its first layer and its logit

    def __init__(self, bundle: Bundle) -> None:
        self._layer = bundle.layer("flag.window", "row", 255)
        self.sums = Sums(bundle, "flag.sums", z := self._layer.outputs)
        self._position, self._top, self._left = (
            _table(bundle, f"flag.{part}.table", rows, z).astype(np.float32)
            for part, rows in (("position", PIXELS), ("top", 29), ("left", 56))
        )
        self._logit = bundle.layer("flag.logit", "row")
        if (self._layer.inputs, self._logit.inputs, self._logit.outputs) != (2 * WINDOW, z, 1):
            raise BadModel("the layers of the flag network do not fit together")
        zero = bundle.pop("flag.zero_freq", (2 * FLAG_MAX + 1,))
        if zero.min() < 1 or zero.max() >= rans.TOTAL:
            raise BadModel(f"flag.zero_freq leaves 1..{rans.TOTAL - 1}")
        self._freq = np.stack([zero, rans.TOTAL - zero], axis=1).astype(np.uint32)
        self._blank = self._window(np.zeros((1, WINDOW), np.uint8))

    def __call__(self, pixel: int, images: I64, canvas: Canvas, sums: I32) -> U32:
        """sums: (M, outputs) of the M images -> frequencies (M, 2) of 0 and of anything else at a
        pixel.
        """
        y, x = divmod(pixel, 28)
        window = canvas.window(y, x, images)
        h = np.repeat(self._blank, len(images), axis=0)
        # around most pixels that are asked about there is nothing
        inked = np.flatnonzero(window.any(axis=1))
        h[inked] = self._window(window[inked])
        h += sums.clip(-FIRST_MAX, FIRST_MAX).astype(np.float32)
        h += self._position[pixel]
        top, left = canvas.top[images], canvas.left[images]
        h += self._top.take(np.where(top == NO_INK, 28, y - top), axis=0)
        h += self._left.take(np.where(left == NO_INK, 55, x - left + 27), axis=0)
        logit = self._logit(_activations(h, 0), LOSSLESS_QUALITY, -FLAG_MAX, FLAG_MAX)[:, 0]
        return self._freq.take(logit.astype(np.int64) + FLAG_MAX, axis=0)

    def _window(self, window: U8) -> F32:
        """(M, WINDOW) -> (M, outputs) in units of 2**-TABLE_BITS, from each value and whether it is
        ink.
        """
        x = np.empty((len(window), 2 * WINDOW), np.float32)
        x[:, :WINDOW] = window
        np.multiply(window > 0, np.float32(ACTIVATION_UNIT), out=x[:, WINDOW:])
        return self._layer(x, LOSSLESS_QUALITY, -FIRST_MAX, FIRST_MAX)


class Links:
    """What each layer passes on to later neighbours: of N images,
    the row above and the row so far.
    """

    def __init__(self, n: int, layers: int, width: int) -> None:
        # A column of zeros to either side: there is nothing to pass on from outside, nor from
        # pixels never looked at.
        self._above, self._here = (np.zeros((layers, 30, n, width), np.float32) for _ in range(2))

    def new_row(self) -> None:
        self._above, self._here = self._here, self._above
        self._here[:] = 0

    def read(self, layer: int, x: int, images: I64, out: F32) -> None:
        """What the LINKED neighbours of column x passed on -> out (M, len(LINKED) * width)."""
        width = self._here.shape[3]
        for k, (dy, dx) in enumerate(LINKED):
            row = self._above if dy else self._here
            out[:, k * width : (k + 1) * width] = row[layer, x + 1 + dx].take(images, axis=0)

    def write(self, layer: int, x: int, images: I64, links: F32) -> None:
        """Pass on `links` (M, width) from column x."""
        self._here[layer, x + 1, images] = links


class ValueNet:
    """The big network: which of the 256 values a pixel has."""

    LIMITS = FIRST_MAX, ADDED_MAX, LOGIT_MAX  # of its first layer, of those that add, of its logits
    NUM_LINKED = len(LINKED)

    def __init__(self, bundle: Bundle) -> None:
        self._input = bundle.layer("value.input", "row")
        h = self._input.outputs
        self.sums = Sums(bundle, "value.sums")
        # One below the other, so that one look-up finds those of all neighbours.
        near = bundle.pop("value.near.table")
        if near.ndim != 3 or near.shape[:2] != (len(NEIGHBOURS), 256):
            raise BadModel(
                f"value.near.table has shape {near.shape}, wanted ({len(NEIGHBOURS)}, 256, any)"
            )
        if np.abs(near.astype(np.int64)).max(initial=0) > ACTIVATION_MAX:
            raise BadModel(f"value.near.table leaves -{ACTIVATION_MAX}..{ACTIVATION_MAX}")
        self._near = near.reshape(len(NEIGHBOURS) * 256, -1).astype(np.float32)
        self._near_rows = np.arange(len(NEIGHBOURS)) * 256
        self._position = _table(bundle, "value.position.table", PIXELS, h).astype(np.float32)
        self._flagged = _table(bundle, "value.flagged.table", 1, h).astype(np.float32)
        self._palette = _table(bundle, "value.palette.table", None, h).astype(np.float32)
        self.num_palettes = len(self._palette)
        self._palette_logits = _table(
            bundle, "palette.logits.table", self.num_palettes, 256
        ).astype(np.float32)
        self.num_layers = bundle.count("hidden")
        before_links = bundle.multiply_adds
        self._links = [bundle.layer(f"links.{i}", "row") for i in range(self.num_layers)]
        self.link_multiply_adds = bundle.multiply_adds - before_links
        self._hidden = [bundle.layer(f"hidden.{i}", "row") for i in range(self.num_layers)]
        self._head = bundle.layer("head", "row")
        self.link_width = width = self._links[0].outputs if self._links else 0
        chain = [
            WINDOW + self.sums.outputs + len(NEIGHBOURS) * self._near.shape[1],
            self._input.inputs,
            h,
            self._head.inputs,
            256,
            self._head.outputs,
        ]
        for link, hidden in zip(self._links, self._hidden, strict=True):
            chain += [
                h,
                link.inputs,
                width,
                link.outputs,
                h + len(LINKED) * width,
                hidden.inputs,
                h,
                hidden.outputs,
            ]
        if chain[::2] != chain[1::2]:
            raise BadModel("the layers do not fit together")
        exp = bundle.pop("exp", (EXP_ENTRIES,))
        if exp.min() < 0 or exp.max() > rans.TOTAL or exp[0] != rans.TOTAL:
            raise BadModel(f"exp leaves 0..{rans.TOTAL}, or does not start with it")
        self._exp = exp.astype(np.uint32)

    def __call__(
        self,
        pixel: int,
        images: I64,
        flagged: npt.NDArray[np.bool_],
        canvas: Canvas,
        sums: I32,
        links: Links,
        palette: I64,
    ) -> U32:
        """sums (M, outputs), palette (M,), flagged bool (M,) of the M images -> frequencies (M,
        256) at a pixel.
        """
        y, column = divmod(pixel, 28)
        x = np.empty((len(images), self._input.inputs), np.float32)
        x[:, :WINDOW] = window = canvas.window(y, column, images)
        split = WINDOW + self.sums.outputs
        x[:, WINDOW:split] = ((sums + (1 << SUM_SHIFT - 1)) >> SUM_SHIFT).clip(
            -ACTIVATION_MAX, ACTIVATION_MAX
        )
        x[:, split:] = self._near.take(
            window[:, _NEIGHBOURS_IN_WINDOW] + self._near_rows, axis=0
        ).reshape(len(images), -1)
        a = self._input(x, LOSSLESS_QUALITY, -FIRST_MAX, FIRST_MAX)
        a += self._position[pixel]
        a += self._palette.take(palette, axis=0)
        a[flagged] += self._flagged[0]
        h = _activations(a, -ACTIVATION_MAX)
        size = h.shape[1]
        z = np.empty((len(images), size + len(LINKED) * self.link_width), np.float32)
        rectified = z[:, :size]
        for i, (link, hidden) in enumerate(zip(self._links, self._hidden, strict=True)):
            # twice as fast as np.maximum
            h.clip(np.float32(0), np.float32(ACTIVATION_MAX), out=rectified)
            links.read(i, column, images, z[:, size:])
            links.write(
                i,
                column,
                images,
                link(rectified, LOSSLESS_QUALITY, -ACTIVATION_MAX, ACTIVATION_MAX),
            )
            h += hidden(z, LOSSLESS_QUALITY, -ADDED_MAX, ADDED_MAX)
            limit(h, -ACTIVATION_MAX, ACTIVATION_MAX)
        logits = self._head(limit(h, 0, ACTIVATION_MAX), LOSSLESS_QUALITY, -LOGIT_MAX, LOGIT_MAX)
        logits += self._palette_logits.take(palette, axis=0)
        return self._frequencies(logits)

    def _frequencies(self, logits: F32) -> U32:
        """Logits (M, 256), integers -> frequencies (M, 256), each row of sum 2**16."""
        best = logits.argmax(axis=1)
        every = np.arange(len(best))
        below = logits[every, best][:, None] - logits
        limit(below, 0, EXP_ENTRIES - 1)
        weights = self._exp.take(below.astype(np.int32))
        # one weight is 2**16, so this is < 2**16
        scale = np.uint32(SPREAD << 16) // weights.sum(axis=1, dtype=np.uint32)
        # < 2**32: weights are at most 2**16, each at most its share of the sum
        freq: U32 = weights * scale[:, None]
        freq >>= np.uint32(16)
        freq += np.uint32(1)
        freq[every, best] += np.uint32(rans.TOTAL) - freq.sum(axis=1, dtype=np.uint32)
        return freq


class PixelModel(BaseModel):
    """The lossless model: every pixel from those before it.

    See BaseModel; the only quality is LOSSLESS_QUALITY.
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
        self._palette_costs = bundle.pop("palette.costs.table", (count, 256))
        if (
            count > MAX_PALETTES
            or self._palette_freq.min() < 1
            or self._palette_freq.sum(dtype=np.int64) != rans.TOTAL
        ):
            raise BadModel(
                f"palette.freq of {count} palettes: wanted at most {MAX_PALETTES}, of sum "
                f"{rans.TOTAL}, no zeros"
            )
        if self._palette_costs.min() < 0 or self._palette_costs.max() > MAX_PALETTE_COST:
            raise BadModel(f"palette.costs leaves 0..{MAX_PALETTE_COST}")
        self._native: dict[str, NativePixels] = {}

    def multiply_adds(self, pixels: U8) -> tuple[float, float]:
        """See BaseModel: of each network as often as `steps` asks it for these images.

        Links are left out (they are 6 % more), as they were when speeds were first given that way.
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
        """The native twin of `steps`, coder included; None if numpy is to do the work."""
        kernels = native_kernels()
        if kernels is None:
            return None
        found = self._native.get(kernels.instruction_set)
        if found is None:  # two threads may make it, to the same effect
            found = NativePixels(self._flag, self._value, kernels)
            self._native[kernels.instruction_set] = found
        return found

    def steps(self, active: npt.NDArray[np.bool_], palette: I64) -> Generator[Step, I64, U8]:
        """Yield each choice in the order of coding, take its symbols, return the pixels uint8 (N,
        28, 28).

        active: bool (N,), the images to run; the others stay 0. palette: int (N,).
        """
        canvas = Canvas(n := len(active))
        flag_sums, value_sums = (
            np.zeros((n, net.sums.outputs), np.int32) for net in (self._flag, self._value)
        )
        links = Links(n, self._value.num_layers, self._value.link_width)
        for pixel in range(PIXELS):
            y, x = divmod(pixel, 28)
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

    def encode(
        self,
        pixels: U8,
        quality: int = LOSSLESS_QUALITY,
        *,
        group: int | None = None,
        effort: int = 1,
    ) -> Encoded:
        """See BaseModel."""
        group = group or GROUP_IMAGES
        parts = [pixels[at : at + size] for at, size in _parts(len(pixels), group)]
        coded = list(in_threads(lambda part: self._encode_part(part, group), parts))
        return Encoded(
            [m for messages, _ in coded for m in messages], pixels, sum(bits for _, bits in coded)
        )

    def _encode_part(self, pixels: U8, group: int) -> tuple[list[bytes], float]:
        n = len(pixels)
        group = min(group, n)
        palette = choose_palettes(pixels, self._palette_costs, self._palette_freq)
        native = self._natively()
        encode = self._codes if native is None else native.encode
        codes, bits = encode(pixels, palette, group)
        # zlib at its fastest says where trying zstd, which is slow, has a chance.
        unit = 8 << rans.COST_BITS
        zipped = [ZSTD_GAIN * len(zlib.compress(image, 1)) for image in pixels]
        suspects = [i for i in range(n) if bits[i] > unit * min(PIXELS, zipped[i])]
        alternatives = {i: stored_bytes(pixels[i]) for i in suspects}
        more = STORED_BITS << rans.COST_BITS
        stored = [i for i in suspects if bits[i] > unit * len(alternatives[i]) + more]
        kept = np.ones(n, np.bool_)
        kept[stored] = False
        for i in stored:
            codes[i // group, :, i % group] = 0
        heads = self._heads(kept, {i: alternatives[i] for i in stored}, palette)
        image, start, freq = (np.concatenate(parts) for parts in zip(*heads, strict=True))
        head = rans.packed(start, freq)
        lane = image // group
        lanes = [np.concatenate([head[lane == i], c[c != 0]]) for i, c in enumerate(codes)]
        bits_in_all = int(bits[kept].sum()) + int(rans.costs()[freq].sum(dtype=np.int64))
        kernels, check = native_kernels(), checks(pixels, group)
        if kernels is not None:
            ends = np.cumsum([len(lane) for lane in lanes])
            messages = encode_lanes(kernels, np.concatenate(lanes), ends, check)
        else:
            messages = rans.encode(*rans.unpacked(lanes), check)
        return messages, bits_in_all / (1 << rans.COST_BITS)

    def _codes(self, pixels: U8, palette: I64, group: int) -> tuple[U32, I64]:
        """Code the pixels: see `NativePixels.encode`."""
        n, flat = len(pixels), pixels.reshape(-1, PIXELS)
        codes = np.zeros((-(-n // group), 2 * PIXELS, group), np.uint32)
        bits, cost = np.zeros(n, np.int64), rans.costs()
        network = self.steps(np.ones(n, np.bool_), palette)
        step = next(network)
        while True:
            values = flat[step.images, step.pixel].astype(np.int64)
            is_value = step.freq.shape[1] == 256
            symbols = values if is_value else np.minimum(values, 1)
            freq = step.freq[np.arange(len(symbols)), symbols]
            place = step.images // group, 2 * step.pixel + is_value, step.images % group
            codes[place] = rans.packed(_start(step.freq, symbols), freq)
            bits[step.images] += cost[freq]
            try:
                step = network.send(symbols)
            except StopIteration:
                return codes, bits

    def _heads(
        self, kept: npt.NDArray[np.bool_], stored: dict[int, bytes], palette: I64
    ) -> Iterator[tuple[I64, I64, I64]]:
        """The symbols in front of the pixels, as (image, start, freq).

        For each image whether it is stored, then the bytes of those that are, and the palettes of
        the others.
        """
        everyone, names = np.arange(len(kept)), _STORED_FREQ.astype(np.int64)
        yield everyone, np.where(kept, 0, names[0]), names[(~kept).astype(int)]
        for i, stream in stored.items():
            packed = len(stream).to_bytes(2, "big") + stream
            numbers = np.frombuffer(packed, np.uint8).astype(np.int64)
            yield np.full(len(numbers), i), 256 * numbers, np.full(len(numbers), 256)
        freq = self._palette_freq.astype(np.int64)[palette[kept]]
        yield everyone[kept], np.cumsum(self._palette_freq)[palette[kept]] - freq, freq

    def decode(
        self,
        messages: list[bytes],
        count: int,
        quality: int = LOSSLESS_QUALITY,
        *,
        group: int | None = None,
    ) -> tuple[U8, npt.NDArray[np.bool_]]:
        """See BaseModel."""
        group = group or GROUP_IMAGES
        parts = [
            (messages[at // group : -(-(at + size) // group)], size)
            for at, size in _parts(count, group)
        ]
        decoded = list(in_threads(lambda part: self._decode_part(*part, group), parts))
        return np.concatenate([pixels for pixels, _ in decoded]), np.concatenate(
            [bad for _, bad in decoded]
        )

    def _decode_part(
        self, messages: list[bytes], n: int, group: int
    ) -> tuple[U8, npt.NDArray[np.bool_]]:
        group = min(group, n)
        decoder = rans.Decoder(messages)
        lanes = np.arange(n) // group
        stored = decoder.decode_each(lanes, np.tile(_STORED_FREQ, (n, 1))) > 0
        kept, bad = _decode_stored(decoder, stored, group)
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

    def _pixels(
        self, decoder: rans.Decoder, active: npt.NDArray[np.bool_], palette: I64, lanes: I64
    ) -> U8:
        """Decode the pixels of the images that are active: see `NativePixels.decode`."""
        network = self.steps(active, palette)
        symbols = None
        while True:
            try:
                step = network.send(symbols)  # type: ignore[arg-type]  # None starts it
            except StopIteration as stop:
                return np.asarray(stop.value)
            symbols = decoder.decode_each(lanes[step.images], step.freq)


_BEFORE = np.tri(256, k=-1, dtype=np.uint32)  # row s: 1 for each symbol before s
_STORED_FREQ = np.array([rans.TOTAL - STORED_FREQ, STORED_FREQ], np.uint32)
STORED_BITS = 28  # what storing takes beside the bytes: the flag and two bytes of length
ZSTD_GAIN = 0.7  # of the zlib size: smaller than that zstd at its best hardly ever is
# a zstd compressor takes longer to make than to use, and is for one thread
_compressors = threading.local()


def _activations(a: F32, least: int) -> F32:
    """Integers in units of 2**-TABLE_BITS -> activations, `least`..ACTIVATION_MAX, in place."""
    a *= np.float32(ACTIVATION_UNIT / (1 << TABLE_BITS))
    return limit(np.rint(a, out=a), least, ACTIVATION_MAX)


def _table(bundle: Bundle, name: str, rows: int | None, width: int | None) -> I32:
    """A table of `rows` rows of `width`, None for any number of them but none."""
    table = bundle.pop(name)
    if (
        table.ndim != 2
        or 0 in table.shape
        or rows not in (None, len(table))
        or width not in (None, table.shape[1])
    ):
        raise BadModel(
            f"{name} has shape {table.shape}, wanted ({rows or 'any'}, {width or 'any'})"
        )
    return np.ascontiguousarray(table, np.int32)


def _start(freq: U32, symbols: I64) -> U32:
    """Sum of the frequencies before `symbols` (M,) in each row of `freq` (M, K)."""
    before = _BEFORE[:, : freq.shape[1]].take(symbols, axis=0)
    start: U32 = np.einsum("mk,mk->m", freq, before)  # in half the time of sums of all values
    return start


def _parts(count: int, group: int) -> list[tuple[int, int]]:
    """(first image, images) of the parts that go to the cores: whole groups, as many parts for each
    core, evenly.
    """
    most, least = (PART_IMAGES, 64) if native_kernels() is None else (NATIVE_PART_IMAGES, 8)
    cores = min(num_cores(), max(1, count // least))
    rounds = -(-count // (cores * most))
    size = -(-count // (cores * rounds * group)) * group
    return [(at, min(size, count - at)) for at in range(0, count, size)]


def stored_bytes(image: U8) -> bytes:
    """uint8 (28, 28) -> its 784 bytes, or a zstd frame of them if that is smaller."""
    if not hasattr(_compressors, "zstd"):
        import zstandard

        _compressors.zstd = zstandard.ZstdCompressor(level=19)
    raw = image.tobytes()
    packed: bytes = _compressors.zstd.compress(raw)
    return packed if len(packed) < PIXELS else raw


def stored_image(stored: bytes) -> U8:
    """Inverse of `stored_bytes`.  Raises CorruptPayload."""
    if len(stored) != PIXELS:
        import zstandard

        try:
            if zstandard.get_frame_parameters(stored).content_size != PIXELS:
                raise CorruptPayload("a stored image has another size")
            stored = zstandard.ZstdDecompressor().decompress(
                stored, max_output_size=PIXELS, allow_extra_data=False
            )
        except zstandard.ZstdError as error:
            raise CorruptPayload(f"a stored image is damaged ({error})") from error
    return np.frombuffer(stored, np.uint8).reshape(28, 28)


def _decode_stored(
    decoder: rans.Decoder, stored: npt.NDArray[np.bool_], group: int
) -> tuple[U8, npt.NDArray[np.bool_]]:
    """-> the stored images, in order, uint8 (K, 28, 28), and which lanes are damaged.  stored: bool
    (N,).
    """
    owners = np.flatnonzero(stored)
    lanes = owners // group
    bad = np.zeros(-(-len(stored) // group), np.bool_)
    pixels = np.zeros((len(owners), 28, 28), np.uint8)
    first = np.flatnonzero(np.diff(lanes, prepend=-1))
    counts = np.diff(first, append=len(lanes))

    def one_byte(at: I64) -> I64:
        return decoder.decode_each(lanes[at], np.full((len(at), 256), 256, np.uint32))

    for turn in range(int(counts.max(initial=0))):  # an image of each lane at once
        at = first[counts > turn] + turn
        length = one_byte(at) * 256
        length += one_byte(at)
        bad[lanes[at]] |= length > PIXELS
        length = np.minimum(length, PIXELS)
        columns = np.zeros((len(at), PIXELS), np.uint8)
        for i in range(int(length.max())):
            rows = np.flatnonzero(length > i)
            columns[rows, i] = one_byte(at[rows])
        for k, packed, size in zip(at.tolist(), columns, length.tolist(), strict=True):
            try:
                pixels[k] = stored_image(packed[:size].tobytes())
            except CorruptPayload:
                bad[lanes[k]] = True
    return pixels, bad
