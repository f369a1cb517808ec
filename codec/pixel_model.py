"""Lossless: an autoregressive model of pixels, in exact integers.  FORMAT.md 8.

Pixels are coded row by row, each from the image so far:

    window (6 rows up, 6 columns to either side) ─► layer ─┐
    what earlier pixels add up to ─► sums ─────────────────┼─► h ─► hidden layers ─┬─► head ─► logits ─┐
    position, place in the ink, neighbours ─► tables ──────┘                       └─► gates ─┐        │
    values seen so far in the image, row, column, after the same neighbours ─► log counts ─► times ─► plus ─► softmax ─► rANS

READ ME FIRST
- Encoder and decoder run the same generator, `PixelModel.steps`: it yields frequencies, is sent symbols, and goes on. All
  images of a part stand at the same pixel; only the coder knows which images share a lane.
- A pixel is *live* if one of its four earlier neighbours is not 0. The others, most of an image, are first asked by a
  small network whether they are 0, which they nearly always are; the big one only sees what is live or turned out not to be 0.
- An image that this would expand is stored in the same message instead: packed by zstd, or raw.
- The softmax is integers throughout: a table of exponentials, one integer division for each pixel.

Sums over the image so far, updated and not computed anew: Larochelle and Murray, NADE, 2011. Histories of contexts whose
counts are added to logits: Mahoney, PAQ. What each part is worth: weights/README.md.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Generator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from codec import rans
from codec.bitstream import GROUP_IMAGES, LOSSLESS_QUALITY
from codec.bundle import BaseModel, Bundle
from codec.errors import BadModel, CorruptPayload
from codec.groups import U8, Encoded, checks
from codec.integer_net import ACTIVATION_MAX, ACTIVATION_UNIT, EXACT_LIMIT, F32
from codec.parallel import in_threads

PIXELS = 784
RADIUS = 6  # of the window
WINDOW = RADIUS * (2 * RADIUS + 1) + RADIUS  # pixels in it
BRIGHT = 250  # from here on a pixel also counts as bright
NEIGHBOURS = ((0, -1), (-1, 0), (-1, -1), (-1, 1))  # (row, column) offsets of west, north, northwest, northeast
NO_INK = 28  # row and column of the first ink while there is none
TABLE_BITS = 12  # tables and sums are in units of 2**-12
LOGIT_UNIT = 32  # logits are in units of 1/32 nat
FLAG_MAX = 511  # largest |logit| of the flag network
LOGIT_MAX = 1 << 15
GATE_UNIT = 64
LOG_UNIT = 256  # of log_count
MAX_LOG = 3071
MAX_COUNT = 255
EXP_ENTRIES = 512  # of the table of exponentials: past 16 nats a value has the least frequency
SPREAD = rans.TOTAL - 256  # each of the 256 values has frequency 1, the rest is shared out
STORED_FREQ = 16  # of 2**16: an image is stored in the message instead of modelled
# Which earlier pixels a histogram counts, and how many rows it has: all, those of this row, of this column, those that had
# the same western and those that had the same northern neighbour as this pixel, neighbours told apart in steps of 4.
CONTEXTS = {"image": 1, "row": 28, "column": 28, "west": 64, "north": 64}
HISTOGRAMS = sum(CONTEXTS.values())
_FIRST_ROWS = np.cumsum([0, *CONTEXTS.values()])[:-1]
PART_IMAGES = 2048  # what one core works on at a time, at most: 95 KiB of state an image

U32 = npt.NDArray[np.uint32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


class Step(NamedTuple):
    """A choice at pixel number `pixel`: one symbol for each of `images` (M,), of frequencies `freq` uint32 (M, symbols).

    Two symbols: whether the pixel is not 0. 256: its value.
    """

    pixel: int
    images: I64
    freq: U32


class Canvas:
    """What is known of N images while they are coded: the pixels so far, where their ink begins, the histograms.

    padded: uint8 (N, 28 + RADIUS, 28 + 2 * RADIUS), zeros around the images; top, left: int (N,), row and column of the
    first ink, or NO_INK; near: uint8 (N, 4), the neighbours of the pixel that was looked at last.
    """

    def __init__(self, n: int) -> None:
        self.padded = np.zeros((n, 28 + RADIUS, 28 + 2 * RADIUS), np.uint8)
        self.top, self.left = np.full(n, NO_INK), np.full(n, NO_INK)
        self.near = np.zeros((n, len(NEIGHBOURS)), np.uint8)
        self._logs = np.zeros((n * HISTOGRAMS, 256), np.int16)  # of all counts: the histograms of an image one below the other

    def look(self, y: int, x: int) -> npt.NDArray[np.bool_]:
        """Set `near` for the pixel (y, x) -> whether it is live: bool (N,)."""
        for k, (dy, dx) in enumerate(NEIGHBOURS):
            self.near[:, k] = self.padded[:, y + RADIUS + dy, x + RADIUS + dx]
        return np.asarray(self.near.any(axis=1))

    def window(self, y: int, x: int, images: I64) -> U8:
        """(M, WINDOW): values of the pixels of the window around (y, x), row by row."""
        rows = self.padded[:, y : y + RADIUS + 1, x : x + 2 * RADIUS + 1][images].reshape(len(images), -1)
        return rows[:, :WINDOW]  # what follows in the pixel's own row is not known yet

    def contexts(self, pixel: int, images: I64) -> I64:
        """Rows (M, contexts) of the histograms that a pixel is counted in, among those of one image."""
        y, x = divmod(pixel, 28)
        rows = np.empty((len(images), len(CONTEXTS)), np.int64)
        rows[:, 0], rows[:, 1], rows[:, 2] = 0, y, x
        rows[:, 3:] = self.near[images, :2] >> 2  # west, north
        rows += _FIRST_ROWS
        return rows

    def log_counts(self, pixel: int, images: I64) -> F32:
        """(M, contexts, 256): how often each value was seen in each context of a pixel, as `log_count` has it."""
        rows = self.contexts(pixel, images) + images[:, None] * HISTOGRAMS
        return self._logs.take(rows, axis=0).astype(np.float32)

    def draw(self, pixel: int, images: I64, values: I64, log_after: npt.NDArray[np.int16]) -> npt.NDArray[np.bool_]:
        """Set a pixel of images (M,) to values (M,), 1..255 -> whether each value is the first of its kind in its image."""
        y, x = divmod(pixel, 28)
        self.padded[images, y + RADIUS, x + RADIUS] = values
        self.top[images] = np.minimum(self.top[images], y)
        self.left[images] = np.minimum(self.left[images], x)
        cells = (self.contexts(pixel, images) + images[:, None] * HISTOGRAMS) * 256 + values[:, None]
        before = self._logs.ravel().take(cells)
        self._logs.ravel()[cells] = log_after.take(before)
        return np.asarray(before[:, 0] == 0)


class Trunk:
    """First layer of a network: window, sums over the image so far and tables -> activations (M, Z)."""

    def __init__(self, bundle: Bundle, name: str) -> None:
        self._layer = bundle.layer(f"{name}.window", "row", 255)
        self.outputs = z = self._layer.outputs
        if self._layer.inputs != 3 * WINDOW:
            raise BadModel(f"{name}.window takes {self._layer.inputs} inputs, wanted {3 * WINDOW}")
        self._blank = self._window(np.zeros((1, 3 * WINDOW), np.float32))

        def table(part: str, *rows: int) -> I32:
            return np.ascontiguousarray(bundle.pop(f"{name}.{part}.table", (*rows, z)), np.int32)

        self._position, self._ink, self._shade = (table(part, PIXELS) for part in ("position", "ink", "shade"))
        self._count, self._first = (table(part, 256) for part in ("count", "first"))
        self._top, self._left = table("top", 29), table("left", 56)
        self._neighbours = table("neighbours", len(NEIGHBOURS), 256)
        # |sum| <= 784 * 4 * 2**15 and the other entries: far from 2**31, whatever the tables hold.

    def __call__(self, pixel: int, images: I64, canvas: Canvas, sums: I32) -> F32:
        """sums: (M, Z) of the M images -> activations (M, Z) at a pixel, 0..ACTIVATION_MAX."""
        y, x = divmod(pixel, 28)
        window = canvas.window(y, x, images)
        inked = np.flatnonzero(window.any(axis=1))
        if len(inked) == len(window):
            h = self._window(_features(window))
            h += sums
        else:  # around most pixels that the small network is asked about there is nothing
            h = sums + self._blank
            h[inked] += self._window(_features(window[inked])) - self._blank
        h += self._position[pixel]
        top, left, near = canvas.top[images], canvas.left[images], canvas.near[images]
        h += self._top.take(np.where(top == NO_INK, 28, y - top), axis=0)
        h += self._left.take(np.where(left == NO_INK, 55, x - left + 27), axis=0)
        for k, table in enumerate(self._neighbours):
            h += table.take(near[:, k], axis=0)
        h += 1 << TABLE_BITS - 8
        h >>= TABLE_BITS - 7  # to units of 1 / ACTIVATION_UNIT
        return h.clip(0, ACTIVATION_MAX, out=h).astype(np.float32)

    def _window(self, features: F32) -> I32:
        """(M, 3 * WINDOW) -> (M, outputs) in units of 2**-TABLE_BITS."""
        return self._layer(features, LOSSLESS_QUALITY, 1 - EXACT_LIMIT, EXACT_LIMIT - 1).astype(np.int32)

    def seen(self, pixel: int, values: I64, new: npt.NDArray[np.bool_]) -> I32:
        """What pixels of value `values` (M,), 1..255, add to the sums; new: the first of that value in its image."""
        shade: I32 = values.astype(np.int32)[:, None] * self._shade[pixel]
        shade += 64
        shade >>= 7
        shade += self._ink[pixel]
        shade += self._count.take(values, axis=0)
        shade[new] += self._first.take(values[new], axis=0)
        return shade


class PixelModel(BaseModel):
    """The lossless model: every pixel from those before it.  See BaseModel; the only quality is LOSSLESS_QUALITY."""

    ARCHITECTURE = "pixels-1"
    lossless = True

    def _take(self, bundle: Bundle) -> None:
        self._flag_trunk, self._value_trunk = Trunk(bundle, "flag"), Trunk(bundle, "value")
        self._flag = bundle.layer("flag.logit", "row")
        self._flagged = bundle.pop("value.flagged.table", (self._value_trunk.outputs,)).astype(np.int32)
        self._hidden = [bundle.layer(f"hidden.{i}", "row") for i in range(bundle.count("hidden"))]
        self._head, self._gates = bundle.layer("head", "row"), bundle.layer("gates", "row")
        h = self._value_trunk.outputs
        chain = [self._flag_trunk.outputs, self._flag.inputs, 1, self._flag.outputs, h, self._head.inputs, 256,
                 self._head.outputs, h, self._gates.inputs, len(CONTEXTS), self._gates.outputs]  # fmt: skip
        chain += [n for layer in self._hidden for n in (h, layer.inputs, h, layer.outputs)]
        if chain[::2] != chain[1::2]:
            raise BadModel("the layers do not fit together")
        zero = bundle.pop("flag.zero_freq", (2 * FLAG_MAX + 1,))
        if zero.min() < 1 or zero.max() >= rans.TOTAL:
            raise BadModel(f"flag.zero_freq leaves 1..{rans.TOTAL - 1}")
        self._flag_freq = np.stack([zero, rans.TOTAL - zero], axis=1).astype(np.uint32)
        exp = bundle.pop("exp", (EXP_ENTRIES,))
        if exp.min() < 0 or exp.max() > rans.TOTAL or exp[0] != rans.TOTAL:
            raise BadModel(f"exp leaves 0..{rans.TOTAL}, or does not start with it")
        self._exp = exp.astype(np.uint32)
        log_count = bundle.pop("log_count", (MAX_COUNT + 1,))
        if log_count[0] or (np.diff(log_count) < 1).any() or log_count[-1] > MAX_LOG:
            raise BadModel(f"log_count does not rise from 0 to at most {MAX_LOG}")
        # A count is known by its logarithm: the one after each.
        self._log_after = np.zeros(MAX_LOG + 1, np.int16)
        self._log_after[log_count] = np.append(log_count[1:], log_count[-1])

    def steps(self, active: npt.NDArray[np.bool_]) -> Generator[Step, I64, U8]:
        """Yield each choice in the order of coding, take its symbols, return the pixels uint8 (N, 28, 28).

        active: bool (N,), the images to run; the others stay 0.
        """
        canvas = Canvas(len(active))
        flag_sums, value_sums = (np.zeros((len(active), t.outputs), np.int32) for t in (self._flag_trunk, self._value_trunk))
        for pixel in range(PIXELS):
            live = canvas.look(*divmod(pixel, 28))
            asked = np.flatnonzero(active & ~live)
            flagged = np.zeros(len(active), np.bool_)
            if len(asked):
                h = self._flag_trunk(pixel, asked, canvas, flag_sums.take(asked, axis=0))
                logit = self._flag(h, LOSSLESS_QUALITY, -FLAG_MAX, FLAG_MAX)[:, 0].astype(np.int64)
                flagged[asked] = (yield Step(pixel, asked, self._flag_freq[logit + FLAG_MAX])) > 0
            images = np.flatnonzero(active & live | flagged)
            if not len(images):
                continue
            sums = value_sums.take(images, axis=0)
            sums[flagged[images]] += self._flagged
            h = self._value_trunk(pixel, images, canvas, sums)
            values = yield Step(pixel, images, self._frequencies(h, canvas.log_counts(pixel, images)))
            inked = values > 0
            images, values = images[inked], values[inked]
            new = canvas.draw(pixel, images, values, self._log_after)
            flag_sums[images] += self._flag_trunk.seen(pixel, values, new)
            value_sums[images] += self._value_trunk.seen(pixel, values, new)
        return np.ascontiguousarray(canvas.padded[:, RADIUS:, RADIUS:-RADIUS])

    def _frequencies(self, h: F32, logs: F32) -> U32:
        """h (M, Z), log counts (M, contexts, 256) -> frequencies of the 256 values (M, 256), each row of sum 2**16."""
        for layer in self._hidden:
            h = np.minimum(h + layer(h, LOSSLESS_QUALITY, 0, ACTIVATION_MAX), np.float32(ACTIVATION_MAX))
        logits = self._head(h, LOSSLESS_QUALITY, -LOGIT_MAX, LOGIT_MAX)
        gates = self._gates(h, LOSSLESS_QUALITY, -ACTIVATION_MAX, ACTIVATION_MAX)
        added = (gates[:, None] @ logs)[:, 0]  # |added| <= 5 * 1023 * 3071 < 2**24, exact
        added *= np.float32(LOGIT_UNIT / (GATE_UNIT * LOG_UNIT))
        logits += np.rint(added, out=added)
        best = logits.argmax(axis=1)
        every = np.arange(len(best))
        below = np.minimum(logits[every, best][:, None] - logits, np.float32(EXP_ENTRIES - 1))
        weights = self._exp.take(below.astype(np.int32))
        scale = np.uint32(SPREAD << 16) // weights.sum(axis=1, dtype=np.uint32)  # one weight is 2**16, so this is < 2**16
        freq: U32 = weights * scale[:, None]  # < 2**32: weights are at most 2**16, each at most its share of the sum
        freq >>= np.uint32(16)
        freq += np.uint32(1)
        freq[every, best] += np.uint32(rans.TOTAL) - freq.sum(axis=1, dtype=np.uint32)
        return freq

    def encode(self, pixels: U8, quality: int = LOSSLESS_QUALITY, *, group: int = GROUP_IMAGES) -> Encoded:
        """See BaseModel."""
        parts = [pixels[at : at + size] for at, size in _parts(len(pixels), group)]
        coded = list(in_threads(lambda part: self._encode_part(part, group), parts))
        return Encoded([m for messages, _ in coded for m in messages], pixels, sum(bits for _, bits in coded))

    def _encode_part(self, pixels: U8, group: int) -> tuple[list[bytes], float]:
        n, flat = len(pixels), pixels.reshape(-1, PIXELS)
        everyone = np.arange(n)
        network = self.steps(np.ones(n, np.bool_))
        images, starts, freqs, bits = [], [], [], np.zeros(n)
        step = next(network)
        while True:
            values = flat[step.images, step.pixel].astype(np.int64)
            symbols = values if step.freq.shape[1] == 256 else np.minimum(values, 1)
            freq = step.freq[np.arange(len(symbols)), symbols]
            images.append(step.images)
            freqs.append(freq)
            starts.append(_start(step.freq, symbols))
            bits[step.images] += rans.PRECISION - np.log2(freq)
            try:
                step = network.send(symbols)
            except StopIteration:
                break
        # zlib at its fastest says where trying zstd, which is slow, has a chance.
        suspects = [i for i in range(n) if bits[i] > 8 * min(PIXELS, ZSTD_GAIN * len(zlib.compress(pixels[i], 1)))]
        alternatives = {i: stored_bytes(pixels[i]) for i in suspects}
        stored = [i for i, alternative in alternatives.items() if bits[i] > 8 * len(alternative) + STORED_BITS]
        kept = np.ones(n, np.bool_)
        kept[stored] = False
        keep = kept[np.concatenate(images)]
        image, start, freq = (np.concatenate(parts)[keep] for parts in (images, starts, freqs))
        # In front of the pixels: for each image whether it is stored, then the bytes of those that are.
        packed = [np.frombuffer(len(b).to_bytes(2, "big") + b, np.uint8) for b in map(alternatives.__getitem__, stored)]
        owner = np.repeat(np.array(stored, np.int64), [len(b) for b in packed])
        head = np.concatenate([*packed, np.empty(0, np.uint8)]).astype(np.uint32)
        flag = _STORED_FREQ[(~kept).astype(int)]
        image = np.concatenate([everyone, owner, image])
        start = np.concatenate([np.where(kept, 0, _STORED_FREQ[0]), head * 256, start]).astype(np.uint32)
        freq = np.concatenate([flag, np.full(len(head), 256), freq]).astype(np.uint32)
        messages = rans.encode(*_lanes(image // group, start, freq, -(-n // group)), checks(pixels, group))
        return messages, float(np.sum(rans.PRECISION - np.log2(freq)))

    def decode(
        self, messages: list[bytes], count: int, quality: int = LOSSLESS_QUALITY, *, group: int = GROUP_IMAGES
    ) -> tuple[U8, npt.NDArray[np.bool_]]:
        """See BaseModel."""
        parts = [(messages[at // group : -(-(at + size) // group)], size) for at, size in _parts(count, group)]
        decoded = list(in_threads(lambda part: self._decode_part(*part, group), parts))
        return np.concatenate([pixels for pixels, _ in decoded]), np.concatenate([bad for _, bad in decoded])

    def _decode_part(self, messages: list[bytes], n: int, group: int) -> tuple[U8, npt.NDArray[np.bool_]]:
        decoder = rans.Decoder(messages)
        lanes = np.arange(n) // group
        stored = decoder.decode_each(lanes, np.tile(_STORED_FREQ, (n, 1))) > 0
        kept, bad = _decode_stored(decoder, stored, group)
        network = self.steps(~stored)
        symbols = None
        while True:
            try:
                step = network.send(symbols)  # type: ignore[arg-type]  # None starts it
            except StopIteration as stop:
                pixels: U8 = stop.value
                break
            symbols = decoder.decode_each(lanes[step.images], step.freq)
        pixels[stored] = kept
        state, used_up = decoder.finish()
        return pixels, bad | (state != checks(pixels, group)) | ~used_up


_STORED_FREQ = np.array([rans.TOTAL - STORED_FREQ, STORED_FREQ], np.uint32)
STORED_BITS = 28  # what storing takes beside the bytes: the flag and two bytes of length
ZSTD_GAIN = 0.7  # of the zlib size: smaller than that zstd at its best hardly ever is
_compressors = threading.local()  # a zstd compressor takes longer to make than to use, and is for one thread


def _features(window: U8) -> F32:
    """(M, WINDOW) -> (M, 3 * WINDOW): value, whether it is ink, whether it is bright, in units of 1 / ACTIVATION_UNIT."""
    features = np.empty((len(window), 3 * WINDOW), np.float32)
    features[:, :WINDOW] = window
    np.multiply(window > 0, np.float32(ACTIVATION_UNIT), out=features[:, WINDOW : 2 * WINDOW])
    np.multiply(window >= BRIGHT, np.float32(ACTIVATION_UNIT), out=features[:, 2 * WINDOW :])
    return features


def _start(freq: U32, symbols: I64) -> U32:
    """Sum of the frequencies before `symbols` (M,) in each row of `freq` (M, K)."""
    cdf = np.cumsum(freq, axis=1, dtype=np.uint32)
    every = np.arange(len(symbols))
    start: U32 = cdf[every, symbols] - freq[every, symbols]
    return start


def _parts(count: int, group: int) -> list[tuple[int, int]]:
    """(first image, images) of the parts that go to the cores: whole groups, as many parts for each core, evenly."""
    cores = min(os.cpu_count() or 1, max(1, count // 64))
    rounds = -(-count // (cores * PART_IMAGES))
    size = -(-count // (cores * rounds * group)) * group
    return [(at, min(size, count - at)) for at in range(0, count, size)]


def _lanes(lane: I64, start: U32, freq: U32, num_lanes: int) -> tuple[U32, U32]:
    """Symbols in order, with their lanes -> start, freq (steps, lanes), short lanes filled up with steps that do nothing."""
    order = np.argsort(lane, kind="stable")
    counts = np.bincount(lane, minlength=num_lanes)
    step = np.arange(len(lane)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (int(counts.max()), num_lanes)
    starts, freqs = np.zeros(shape, np.uint32), np.full(shape, rans.TOTAL, np.uint32)
    starts[step, lane[order]] = start[order]
    freqs[step, lane[order]] = freq[order]
    return starts, freqs


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
            stored = zstandard.ZstdDecompressor().decompress(stored, max_output_size=PIXELS, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise CorruptPayload(f"a stored image is damaged ({error})") from error
    return np.frombuffer(stored, np.uint8).reshape(28, 28)


def _decode_stored(decoder: rans.Decoder, stored: npt.NDArray[np.bool_], group: int) -> tuple[U8, npt.NDArray[np.bool_]]:
    """-> the stored images, in order, uint8 (K, 28, 28), and which lanes are damaged.  stored: bool (N,)."""
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
