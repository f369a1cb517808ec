"""The symbols of the lossless model, and their order in a message.  FORMAT.md 8.6.

A message has, for the images of its group: whether each is stored; the bytes of those that are; the
palettes of the others; then, pixel by pixel, the flags and values of all images in turn.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from codec.arrays import I64, PIXELS, SIDE, U8, U32, Bools, Integers
from codec.coding import rans
from codec.coding.lanes import checks
from codec.coding.native import encode_lanes
from codec.errors import CorruptPayload
from codec.kernels import active as native_kernels
from codec.model.stored import stored_bytes, stored_image

STORED_FREQ = 16  # of 2**16: an image is stored in the message instead of modelled
STORED_FREQS = np.array([rans.TOTAL - STORED_FREQ, STORED_FREQ], np.uint32)
STORED_BITS = 28  # of the flag and the length of a stored image
BYTE_FREQ = rans.TOTAL // 256
ZSTD_GAIN = 0.7  # of the zlib size: the best that zstd nearly always does


@dataclass(frozen=True)
class PixelSymbols:
    """The symbols of N images: see `base.Symbols`.

    pixels: uint8 (N, 28, 28). codes: uint32 (N, 2 * 784), the flag and the value of each pixel by
    `rans.packed`, 0 for what is not coded. palettes: int (N,). stored: the bytes of images
    that are stored instead, by number. bits: int (N,), the cost in units of 2**-COST_BITS bits.
    """

    pixels: U8
    codes: U32
    palettes: I64
    stored: dict[int, bytes]
    bits: I64

    def of(self, images: Integers | slice) -> PixelSymbols:
        numbers = np.arange(len(self.pixels))[images].tolist()
        stored = {at: self.stored[i] for at, i in enumerate(numbers) if i in self.stored}
        return PixelSymbols(
            self.pixels[images],
            self.codes[images],
            self.palettes[images],
            stored,
            self.bits[images],
        )

    @classmethod
    def join(cls, parts: list[PixelSymbols]) -> PixelSymbols:
        if len(parts) == 1:
            return parts[0]
        starts = np.cumsum([0, *(len(part.pixels) for part in parts)]).tolist()
        stored = {
            start + i: stream
            for start, part in zip(starts, parts, strict=False)
            for i, stream in part.stored.items()
        }
        return cls(
            np.concatenate([part.pixels for part in parts]),
            np.concatenate([part.codes for part in parts]),
            np.concatenate([part.palettes for part in parts]),
            stored,
            np.concatenate([part.bits for part in parts]),
        )


def cheaper_stored(pixels: U8, bits: I64) -> dict[int, bytes]:
    """The bytes of the images that take fewer bits if they are stored, by number.

    bits: int (N,), the cost of their pixels in units of 2**-COST_BITS bits.
    """
    # zlib at its fastest says which images to try with zstd, which is slow.
    unit = 8 << rans.COST_BITS
    zipped = [ZSTD_GAIN * len(zlib.compress(image, 1)) for image in pixels]
    suspects = [i for i in range(len(pixels)) if bits[i] > unit * min(PIXELS, zipped[i])]
    alternatives = {i: stored_bytes(pixels[i]) for i in suspects}
    more = STORED_BITS << rans.COST_BITS
    return {i: each for i, each in alternatives.items() if bits[i] > unit * len(each) + more}


def bits_with_heads(bits: I64, stored: dict[int, bytes], palette_freq: Integers) -> I64:
    """The cost of images with their heads.  bits: of pixels; palette_freq: of their palettes."""
    cost = rans.costs().astype(np.int64)
    found: I64 = bits + cost[STORED_FREQS[0]] + cost[palette_freq]
    for i, stream in stored.items():
        found[i] = cost[STORED_FREQ] + (len(stream) + 2) * cost[BYTE_FREQ]
    return found


def pack_lanes(symbols: PixelSymbols, group: int, palette_freq: Integers) -> list[bytes]:
    """The messages of images, `group` neighbours sharing one.  palette_freq: of all palettes."""
    n = len(symbols.pixels)
    num_lanes = -(-n // group)
    image, start, freq = _heads(symbols, palette_freq)
    order = np.argsort(image // group, kind="stable")
    heads = rans.packed(start, freq)[order]
    head_ends = np.cumsum(np.bincount(image // group, minlength=num_lanes))
    codes = symbols.codes
    if missing := -n % group:
        codes = np.concatenate([codes, np.zeros((missing, codes.shape[1]), np.uint32)])
    by_lane = codes.reshape(num_lanes, group, -1).transpose(0, 2, 1).reshape(num_lanes, -1)
    coded = by_lane != 0
    code_ends = np.cumsum(np.count_nonzero(coded, axis=1))
    pieces = zip(
        np.split(heads, head_ends[:-1]), np.split(by_lane[coded], code_ends[:-1]), strict=True
    )
    flat, ends = np.concatenate([p for pair in pieces for p in pair]), head_ends + code_ends
    kernels, check = native_kernels(), checks(symbols.pixels, group)
    if kernels is not None:
        return encode_lanes(kernels, flat, ends, check)
    return rans.encode(*rans.unpacked(np.split(flat, ends[:-1])), check)


def _heads(symbols: PixelSymbols, palette_freq: Integers) -> tuple[I64, I64, I64]:
    """The symbols before the pixels, in order: the image, start and freq of each."""
    n, stored = len(symbols.pixels), symbols.stored
    kept = np.ones(n, np.bool_)
    kept[[*stored]] = False
    names = STORED_FREQS.astype(np.int64)
    found = [(np.arange(n), np.where(kept, 0, names[0]), names[(~kept).astype(int)])]
    for i, stream in stored.items():
        packed = len(stream).to_bytes(2, "big") + stream
        numbers = np.frombuffer(packed, np.uint8).astype(np.int64)
        size = len(numbers)
        found.append((np.full(size, i), BYTE_FREQ * numbers, np.full(size, BYTE_FREQ)))
    palettes = symbols.palettes[kept]
    freq = palette_freq.astype(np.int64)[palettes]
    found.append((np.flatnonzero(kept), np.cumsum(palette_freq)[palettes] - freq, freq))
    image, start, freq = (np.concatenate(column) for column in zip(*found, strict=True))
    return image, start, freq


def read_stored(decoder: rans.Decoder, stored: Bools, group: int) -> tuple[U8, Bools]:
    """Read the stored images at the start of messages.

    stored: bool (N,), which images of all lanes are stored. Returns these, in order, uint8 (K, 28,
    28), and which lanes are damaged, bool.
    """
    owners = np.flatnonzero(stored)
    lanes = owners // group
    bad = np.zeros(-(-len(stored) // group), np.bool_)
    pixels = np.zeros((len(owners), SIDE, SIDE), np.uint8)
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
