"""Parts of the lossless model: its two networks, and their inputs.  FORMAT.md 8.

All work on N images that are at the same pixel.
"""

from __future__ import annotations

import numpy as np

from codec.arrays import F32, I32, I64, PIXELS, SIDE, U8, U32, Bools
from codec.coding import rans
from codec.errors import BadModel
from codec.format.constants import LOSSLESS_QUALITY
from codec.model.bundle import Bundle
from codec.model.layers import ACTIVATION_MAX, ACTIVATION_UNIT, limit

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
NO_INK = SIDE  # row and column of the first ink while there is none
TABLE_BITS = 10  # tables and sums are in units of 2**-10
SUM_SHIFT = 5  # sums become activations: 2**-10 to 1/128, and a quarter of that, since they grow
# first layers are clipped here, far beyond the range that is left after the next clip
FIRST_MAX = 1 << 22
# the most that a hidden layer adds to its activations: more would be clipped anyway
ADDED_MAX = 2 * ACTIVATION_MAX
LOGIT_UNIT = 32  # logits are in units of 1/32 nat
FLAG_MAX = 511  # largest |logit| of the flag network
LOGIT_MAX = 1 << 15
EXP_ENTRIES = 512  # of the table of exponentials: past 16 nats a value has the least frequency
SPREAD = rans.TOTAL - 256  # each of the 256 values has frequency 1, the rest is divided among them
MAX_PALETTES = 256
MAX_PALETTE_COST = 1023  # of a value, in units of 1 / LOGIT_UNIT nat


def value_counts(pixels: U8) -> F32:
    """uint8 (N, 28, 28) -> how often each image has each value, float32 (N, 256)."""
    every = np.arange(len(pixels))[:, None] * 256 + pixels.reshape(len(pixels), -1)
    counts = np.bincount(every.ravel(), minlength=256 * len(pixels))
    return counts.reshape(-1, 256).astype(np.float32)


class Canvas:
    """The known part of N images while they are coded: the pixels so far, and where ink begins.

    padded: uint8 (N, 28 + RADIUS, 28 + 2 * RADIUS), zeros around the images; top, left: int (N,),
    row and column of the first ink, or NO_INK.
    """

    def __init__(self, n: int) -> None:
        self.padded = np.zeros((n, SIDE + RADIUS, SIDE + 2 * RADIUS), np.uint8)
        self.top, self.left = np.full(n, NO_INK), np.full(n, NO_INK)

    def live(self, y: int, x: int) -> Bools:
        """Whether the pixel (y, x) is live: bool (N,)."""
        near = [
            self.padded[:, y + RADIUS + dy, x + RADIUS + dx]
            for dy, dx in NEIGHBOURS[:LIVE_NEIGHBOURS]
        ]
        return (near[0] | near[1] | near[2] | near[3]) > 0

    def window(self, y: int, x: int, images: I64) -> U8:
        """(M, WINDOW): values of the pixels of the window around (y, x), row by row."""
        rows = self.padded[:, y : y + RADIUS + 1, x : x + 2 * RADIUS + 1][images]
        return rows.reshape(len(images), -1)[:, :WINDOW]  # the rest is not known yet

    def draw(self, y: int, x: int, images: I64, values: I64) -> None:
        """Set the pixel (y, x) of images (M,) to values (M,), 1..255."""
        self.padded[images, y + RADIUS, x + RADIUS] = values
        self.top[images] = np.minimum(self.top[images], y)
        self.left[images] = np.minimum(self.left[images], x)


class Sums:
    """The sums of an image: each pixel adds numbers by its place, by place times value, and by
    value, in units of 2**-TABLE_BITS.
    """

    def __init__(self, bundle: Bundle, name: str, outputs: int | None = None) -> None:
        self._ink = table_of(bundle, f"{name}.ink.table", PIXELS, outputs)
        self.outputs = self._ink.shape[1]
        self._shade = table_of(bundle, f"{name}.shade.table", PIXELS, self.outputs)
        self._count = table_of(bundle, f"{name}.count.table", 256, self.outputs)
        # |sum| <= 784 * 4 * 2**15: far from 2**31, whatever the tables hold.

    def added(self, pixel: int, values: I64) -> I32:
        """What pixels of these values (M,), 1..255, add to the sums: (M, outputs)."""
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
            table_of(bundle, f"flag.{part}.table", rows, z).astype(np.float32)
            for part, rows in (("position", PIXELS), ("top", 29), ("left", 56))
        )
        self._logit = bundle.layer("flag.logit", "row")
        self._layer.check(2 * WINDOW)
        self._logit.check(z, 1)
        zero = bundle.pop("flag.zero_freq", (2 * FLAG_MAX + 1,))
        if zero.min() < 1 or zero.max() >= rans.TOTAL:
            raise BadModel(f"flag.zero_freq leaves 1..{rans.TOTAL - 1}")
        self._freq = np.stack([zero, rans.TOTAL - zero], axis=1).astype(np.uint32)
        self._blank = self._window(np.zeros((1, WINDOW), np.uint8))

    def __call__(self, pixel: int, images: I64, canvas: Canvas, sums: I32) -> U32:
        """sums: (M, outputs) of the M images -> frequencies (M, 2) of 0 and of anything else at a
        pixel.
        """
        y, x = divmod(pixel, SIDE)
        window = canvas.window(y, x, images)
        h = np.repeat(self._blank, len(images), axis=0)
        # the window of most of these pixels is empty
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
    """What each layer passes on to later neighbours, in the row above and the row so far."""

    def __init__(self, n: int, layers: int, width: int) -> None:
        # A column of zeros on both sides: nothing comes from outside, or from skipped pixels.
        self._above, self._here = (
            np.zeros((layers, SIDE + 2, n, width), np.float32) for _ in range(2)
        )

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
        # One table below the other, so that one look-up serves all neighbours.
        near = bundle.pop("value.near.table")
        if near.ndim != 3 or near.shape[:2] != (len(NEIGHBOURS), 256):
            raise BadModel(
                f"value.near.table has shape {near.shape}, wanted ({len(NEIGHBOURS)}, 256, any)"
            )
        if np.abs(near.astype(np.int64)).max(initial=0) > ACTIVATION_MAX:
            raise BadModel(f"value.near.table leaves -{ACTIVATION_MAX}..{ACTIVATION_MAX}")
        self._near = near.reshape(len(NEIGHBOURS) * 256, -1).astype(np.float32)
        self._near_rows = np.arange(len(NEIGHBOURS)) * 256
        self._position = table_of(bundle, "value.position.table", PIXELS, h).astype(np.float32)
        self._flagged = table_of(bundle, "value.flagged.table", 1, h).astype(np.float32)
        self._palette = table_of(bundle, "value.palette.table", None, h).astype(np.float32)
        self.num_palettes = len(self._palette)
        self._palette_logits = table_of(
            bundle, "palette.logits.table", self.num_palettes, 256
        ).astype(np.float32)
        self.num_layers = bundle.count("hidden")
        before_links = bundle.multiply_adds
        self._links = [bundle.layer(f"links.{i}", "row") for i in range(self.num_layers)]
        self.link_multiply_adds = bundle.multiply_adds - before_links
        self._hidden = [bundle.layer(f"hidden.{i}", "row") for i in range(self.num_layers)]
        self._head = bundle.layer("head", "row")
        self.link_width = self._links[0].outputs if self._links else 0
        self._check_layers()
        exp = bundle.pop("exp", (EXP_ENTRIES,))
        if exp.min() < 0 or exp.max() > rans.TOTAL or exp[0] != rans.TOTAL:
            raise BadModel(f"exp leaves 0..{rans.TOTAL}, or does not start with it")
        self._exp = exp.astype(np.uint32)

    def _check_layers(self) -> None:
        """Raise BadModel unless the output of every layer is what the next one takes."""
        h, width = self._input.outputs, self.link_width
        self._input.check(WINDOW + self.sums.outputs + len(NEIGHBOURS) * self._near.shape[1])
        for link, hidden in zip(self._links, self._hidden, strict=True):
            link.check(h, width)
            hidden.check(h + len(LINKED) * width, h)
        self._head.check(h, 256)

    def __call__(
        self,
        pixel: int,
        images: I64,
        flagged: Bools,
        canvas: Canvas,
        sums: I32,
        links: Links,
        palette: I64,
    ) -> U32:
        """sums (M, outputs), palette (M,), flagged bool (M,) of the M images -> frequencies (M,
        256) at a pixel.
        """
        y, column = divmod(pixel, SIDE)
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
            passed = link(rectified, LOSSLESS_QUALITY, -ACTIVATION_MAX, ACTIVATION_MAX)
            links.write(i, column, images, passed)
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


def _activations(a: F32, least: int) -> F32:
    """Integers in units of 2**-TABLE_BITS -> activations, `least`..ACTIVATION_MAX, in place."""
    a *= np.float32(ACTIVATION_UNIT / (1 << TABLE_BITS))
    return limit(np.rint(a, out=a), least, ACTIVATION_MAX)


def table_of(bundle: Bundle, name: str, rows: int | None, width: int | None) -> I32:
    """A table (rows, width); None: any number but 0."""
    table = bundle.pop(name)
    fits = table.ndim == 2 and 0 not in table.shape and rows in (None, len(table))
    if not fits or width not in (None, table.shape[1]):
        wanted = f"({rows or 'any'}, {width or 'any'})"
        raise BadModel(f"{name} has shape {table.shape}, wanted {wanted}")
    return np.ascontiguousarray(table, np.int32)
