"""What several test files share: a tiny model, drawn images, damage, and an integer reference of
the network.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import math
import struct
import sys
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pytest

from codec import kernels, zstd
from codec.coding import rans
from codec.collection.block import Decoded, Verdict
from codec.collection.open import open_collection, open_stream
from codec.collection.writer import Writer
from codec.format.block import pack_block
from codec.format.index import Part
from codec.labels import Labels
from codec.model import pixels as pixel_model
from codec.model import pixels_parts
from codec.model.ladder import Ladder
from codec.model.ladder_encoder import LadderEncoder
from codec.model.ladder_parts import (
    DEQUANTIZED_MAX,
    DEQUANTIZER_BITS,
    LATENT_MAX,
    MAX_SIGMA,
    MIN_SIGMA,
    NUM_SIGMAS,
    PIXEL_UNIT,
    STEP_UNIT,
)
from codec.model.layers import ACTIVATION_MAX, MULTIPLIER_BITS, POSITIONS, ROW_STEP, ROWS
from codec.model.pixels import Pixels

Tensors = dict[str, np.ndarray]
DTYPES = {
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint32": "U32",
    "uint64": "U64",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "bool": "BOOL",
}

# Sizes of the tiny model: channels, inside a block, inside a prior, squeezed, inside the dense
# part, latents.
C, HIDDEN, HEAD, SQUEEZED, DENSE, K = 6, 4, 5, 2, 8, 5
LEVELS = (2, 3)  # channels of each 7x7 level
MAX_SYMBOL = 31
Z = 8  # activations in the tiny lossless model
PALETTES = 3  # in it
INKS = (121, 200, 255)  # of strokes that are drawn, and what it expects


def minimal_decode(stream: bytes, weights: Path) -> np.ndarray:
    """What the second decoder, written from FORMAT.md, makes of a stream."""
    return minimal_decoder().decode(stream, weights)


def minimal_decoder() -> Any:
    """The second decoder, as a module."""
    examples = str(Path(__file__).resolve().parents[1] / "examples")
    if examples not in sys.path:
        sys.path.append(examples)
    return importlib.import_module("minimal_decoder")


# ---- the tiny model


def pack(tensors: Tensors, card: Any = None, *, architecture: str = Ladder.ARCHITECTURE) -> bytes:
    """Tensors and card -> safetensors bytes, always the same ones: tensors and keys in order of
    name.
    """
    card_text = json.dumps({"name": "tiny"} if card is None else card, sort_keys=True)
    header: dict[str, Any] = {"__metadata__": {"architecture": architecture, "card": card_text}}
    parts, at = [], 0
    for name in sorted(tensors):
        part = np.ascontiguousarray(tensors[name]).tobytes()
        entry = {
            "dtype": DTYPES[tensors[name].dtype.name],
            "shape": tensors[name].shape,
            "data_offsets": [at, at + len(part)],
        }
        header[name] = entry
        parts.append(part)
        at += len(part)
    packed = json.dumps(header).encode()
    packed += b" " * (-len(packed) % 8)
    return struct.pack("<Q", len(packed)) + packed + b"".join(parts)


def normal_cdf(max_symbol: int = MAX_SYMBOL) -> np.ndarray:
    """int32 (NUM_SIGMAS, 2 * max_symbol + 2): normal densities in the order 0, -1, 1, -2, 2 ...;
    row 0 is certain.
    """
    rows = [[0] + [rans.TOTAL] * (2 * max_symbol + 1)]
    for sigma in np.geomspace(MIN_SIGMA, MAX_SIGMA, NUM_SIGMAS)[1:]:
        limit = min(max_symbol, math.ceil(6 * sigma + 2))
        values = np.array([0] + [s for n in range(1, limit + 1) for s in (-n, n)])
        pmf = np.exp(-0.5 * (values / sigma) ** 2)
        freq = np.maximum(1, np.floor(pmf / pmf.sum() * (rans.TOTAL - len(pmf)))).astype(int)
        freq[0] += rans.TOTAL - freq.sum()
        row = [0, *np.cumsum(freq).tolist()]
        rows.append(row + [rans.TOTAL] * (2 * max_symbol + 2 - len(row)))
    return np.array(rows, np.int32)


class Sizes(NamedTuple):
    """Numbers of channels: of t and e, inside each block of a stage, inside a prior, squeezed,
    inside the dense part; latents.
    """

    t: int = C
    e: int = C
    hidden: tuple[int, ...] = (HIDDEN,)
    head: int = HEAD
    squeezed: int = SQUEEZED
    dense: int = DENSE
    k: int = K
    levels: tuple[int, ...] = LEVELS
    inner: tuple[int, ...] = ()  # behind the 3x3 of each block; by default as many as before it


TINY = Sizes()


@cache
def _tiny_tensors(seed: int, sizes: Sizes = TINY) -> Tensors:
    rng = np.random.default_rng(seed)
    tensors: Tensors = {}

    def layer(
        name: str,
        shape: tuple[int, ...],
        scale: float,
        *,
        film: bool = False,
        by_position: bool = False,
        centre: float = 0,
        x: float = 250.0,
    ) -> None:
        """Random integers whose output is about `centre` plus or minus `scale` where inputs are
        about `x` in size.
        """
        outputs = shape[0]
        weight = np.clip(np.rint(rng.standard_normal(shape) * 40), -127, 127)
        typical = 40 * x * math.sqrt(math.prod(shape[1:]))
        rows = ROWS if film else 1
        multiplier = np.rint(
            2**MULTIPLIER_BITS * scale / typical * rng.uniform(0.8, 1.25, (rows, outputs))
        )
        bias = (
            rng.standard_normal((outputs, POSITIONS) if by_position else outputs) * typical / 4
            + centre / scale * typical
        )
        shift = rng.standard_normal((rows, outputs)) * typical / 8 * film
        tensors[f"{name}.weight"] = weight.astype(np.int8)
        tensors[f"{name}.bias"] = np.rint(bias).astype(np.int32)
        tensors[f"{name}.shift"] = np.rint(shift).astype(np.int32)
        tensors[f"{name}.multiplier"] = multiplier.astype(np.int32)

    def blocks(name: str, c: int) -> None:
        for i, (hidden, inner) in enumerate(
            zip(sizes.hidden, sizes.inner or sizes.hidden, strict=True)
        ):
            layer(f"{name}.{i}.reduce", (hidden, c), 300, film=True, by_position=bool(sizes.inner))
            layer(f"{name}.{i}.spatial", (inner, hidden, 3, 3), 300, by_position=True)
            layer(f"{name}.{i}.restore", (c, inner), 120, by_position=bool(sizes.inner))

    def dequantizer(name: str, k: int) -> None:
        fall = np.geomspace(2, 0.75, ROWS)[:, None] * rng.uniform(0.7, 1.4, k)
        tensors[name] = np.rint(fall * 2**DEQUANTIZER_BITS).astype(np.int32)

    t, e, _, head, squeezed, dense, dense_k, levels, _ = sizes
    layer("input", (e, 16), 250, by_position=True, x=500)
    blocks("analysis", e)
    layer("squeeze", (squeezed, e), 250)
    layer("posterior0", (dense, squeezed * POSITIONS), 250, film=True)
    layer("posterior1", (dense_k, dense), 960, film=True)
    tensors["prior_mean"] = rng.integers(-40, 40, (ROWS, dense_k)).astype(np.int32)
    tensors["prior_sigma"] = np.sort(rng.integers(0, 40, (ROWS, dense_k)), axis=0).astype(np.int32)
    dequantizer("dequantizer", dense_k)
    layer("start0", (dense, dense_k), 300, film=True, x=1000)
    layer("start1", (squeezed * POSITIONS, dense), 300)
    layer("widen", (t, squeezed), 300, by_position=True)
    for i, k in enumerate(levels):
        blocks(f"synthesis.{i}", t)
        layer(f"levels.{i}.posterior0", (head, e + t), 250, film=True)
        layer(f"levels.{i}.posterior1", (k, head), 400, film=True, by_position=True)
        layer(f"levels.{i}.prior0", (head, t), 250, by_position=True)
        layer(f"levels.{i}.prior_mean", (k, head), 240, film=True, by_position=True)
        layer(f"levels.{i}.prior_sigma", (k, head), 12, film=True, by_position=True, centre=-5)
        layer(f"levels.{i}.merge", (t, k), 200, x=1000)
        dequantizer(f"levels.{i}.dequantizer", k)
    blocks(f"synthesis.{len(levels)}", t)
    layer("output", (16, t), 80, by_position=True, centre=110)
    tensors["cdf"] = np.stack([normal_cdf()] * (1 + len(levels)))
    return tensors


def tiny_tensors(seed: int = 0, sizes: Sizes = TINY) -> Tensors:
    """A fresh dict of the tensors of tiny model and encoder; the arrays are copies too."""
    return {name: tensor.copy() for name, tensor in _tiny_tensors(seed, sizes).items()}


def of_encoder(name: str) -> bool:
    """Whether a tensor belongs into the encoder's file; of all others the model's."""
    parts = {"input", "analysis", "squeeze", "posterior0", "posterior1"}
    first, *others = name.split(".")
    return (others[1] if first == "levels" and len(others) > 1 else first) in parts


def pack_pair(tensors: Tensors, card: Any = None) -> tuple[bytes, bytes]:
    """All tensors of a lossy model, and its card -> bytes of the model file and of
    its encoder's.
    """
    stream = pack({name: tensor for name, tensor in tensors.items() if not of_encoder(name)}, card)
    return stream, pack_encoder(tensors, stream)


def pack_encoder(tensors: Tensors, model: bytes, **card: Any) -> bytes:
    """Those of the tensors that are an encoder's -> its file, to go with the model file."""
    card = {"name": "tiny", "model_hash": hashlib.sha256(model).hexdigest()[:16], **card}
    own = {name: tensor for name, tensor in tensors.items() if of_encoder(name)}
    return pack(own, card, architecture=LadderEncoder.ARCHITECTURE)


def model_of(tensors: Tensors, card: Any = None) -> Ladder:
    """The lossy model of all its tensors, its encoder loaded and therefore checked."""
    model = Ladder(*pack_pair(tensors, card))
    assert model.encoder.card["model_hash"] == model.hash.hex()
    return model


@cache
def _tiny_pair(seed: int) -> tuple[bytes, bytes]:
    card = {"name": f"tiny{seed}", "trained_on": "dice", "figures": {"psnr_db": 1.5}}
    return pack_pair(_tiny_tensors(seed), card)


def tiny_bundle(seed: int = 0) -> bytes:
    """A small but complete model file, drawn by chance:
    it codes everything and resembles nothing.
    """
    return _tiny_pair(seed)[0]


def tiny_encoder(seed: int = 0) -> bytes:
    """The file of its encoder."""
    return _tiny_pair(seed)[1]


@cache
def tiny_model(seed: int = 0) -> Ladder:
    return Ladder(tiny_bundle(seed), tiny_encoder(seed))


# ---- the tiny lossless model


@cache
def _tiny_pixel_tensors(seed: int) -> Tensors:
    rng = np.random.default_rng(seed)
    tensors: Tensors = {}

    def layer(
        name: str, inputs: int, outputs: int, scale: float, *, centre: Any = 0, x: float = 250.0
    ) -> None:
        """Random integers whose output is about `centre` plus or minus `scale` where inputs are
        about `x` in size.
        """
        typical = 20 * x * math.sqrt(inputs)
        tensors[f"{name}.weight"] = np.clip(
            np.rint(rng.standard_normal((outputs, inputs)) * 20), -127, 127
        ).astype(np.int8)
        tensors[f"{name}.bias"] = np.rint(
            np.broadcast_to(centre, outputs) / scale * typical
        ).astype(np.int32)
        tensors[f"{name}.shift"] = np.zeros((1, outputs), np.int32)
        tensors[f"{name}.multiplier"] = np.full(
            (1, outputs), round(2**MULTIPLIER_BITS * scale / typical), np.int32
        )

    def table(name: str, *shape: int, scale: float = 1500) -> None:
        tensors[f"{name}.table"] = np.rint(rng.standard_normal(shape) * scale).astype(np.int16)

    layer("flag.window", 2 * pixels_parts.WINDOW, Z, 1200, centre=500, x=100)
    layer(
        "value.input",
        pixels_parts.WINDOW + Z + len(pixel_model.NEIGHBOURS) * 3,
        Z,
        1200,
        centre=500,
    )
    for net in ("flag", "value"):
        for part in ("ink", "shade"):
            table(f"{net}.sums.{part}", pixel_model.PIXELS, Z, scale=40)
        table(f"{net}.sums.count", 256, Z, scale=40)
        table(f"{net}.position", pixel_model.PIXELS, Z, scale=400)
    table("flag.top", 29, Z, scale=400)
    table("flag.left", 56, Z, scale=400)
    table("value.near", len(pixel_model.NEIGHBOURS), 256, 3, scale=200)
    table("value.flagged", 1, Z, scale=400)
    table("value.palette", PALETTES, Z, scale=400)
    layer("flag.logit", Z, 1, 20, centre=-130)
    for i in range(2):
        layer(f"links.{i}", Z, 4, 100)
        layer(f"hidden.{i}", Z + 4 * len(pixels_parts.LINKED), Z, 100)
    layer(
        "head",
        Z,
        256,
        10,
        centre=np.where(np.isin(np.arange(256), INKS), 120, 180 * (np.arange(256) == 0)),
    )
    # Palette 0 favours nothing, palette 1 knows even values only, palette 2 favours the dark ones.
    odd, bright = np.arange(256) % 2, np.arange(256) > 99
    tensors["palette.logits.table"] = np.stack([0 * odd, -512 * odd, -80 * bright]).astype(np.int16)
    tensors["palette.costs.table"] = np.stack([0 * odd + 22, 355 * odd, 10 + 30 * bright]).astype(
        np.int16
    )
    tensors["palette.freq"] = np.array([30000, 30000, rans.TOTAL - 60000], np.int32)
    logits = np.arange(-pixels_parts.FLAG_MAX, pixels_parts.FLAG_MAX + 1) / pixels_parts.LOGIT_UNIT
    tensors["flag.zero_freq"] = np.clip(
        np.rint(rans.TOTAL / (1 + np.exp(logits))), 1, rans.TOTAL - 1
    ).astype(np.int32)
    below = np.arange(pixels_parts.EXP_ENTRIES) / pixels_parts.LOGIT_UNIT
    tensors["exp"] = np.rint(rans.TOTAL * np.exp(-below)).astype(np.int32)
    return tensors


def tiny_pixel_tensors(seed: int = 0) -> Tensors:
    """A fresh dict of the tensors of `tiny_pixel_bundle`; the arrays are copies too."""
    return {name: tensor.copy() for name, tensor in _tiny_pixel_tensors(seed).items()}


@cache
def tiny_pixel_bundle(seed: int = 0) -> bytes:
    """A small but complete lossless model, drawn by chance; only 0 and INKS are cheap."""
    card = {"name": f"tiny{seed}-lossless", "trained_on": "dice"}
    return pack(_tiny_pixel_tensors(seed), card, architecture=Pixels.ARCHITECTURE)


@cache
def tiny_pixel_model(seed: int = 0) -> Pixels:
    return Pixels(tiny_pixel_bundle(seed))


def install(directory: Path, seed: int = 0, *, lossless: bool = False) -> Path:
    """Write a tiny model into a directory under the name that the registry looks for; -> its path.

    The encoder of a lossy one comes beside it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    stream = tiny_pixel_bundle(seed) if lossless else tiny_bundle(seed)
    name = f"tiny{seed}-lossless" if lossless else f"tiny{seed}"
    path = directory / f"{name}-{hashlib.sha256(stream).hexdigest()[:8]}.safetensors"
    path.write_bytes(stream)
    if not lossless:
        path.with_name(f"{path.stem}.encoder.safetensors").write_bytes(tiny_encoder(seed))
    return path


# ---- images and damage


@cache
def _drawn(count: int, any_ink: bool) -> np.ndarray:
    rng = np.random.default_rng(count)
    pixels = np.zeros((count, 28, 28), np.uint8)
    for i, image in enumerate(pixels):
        kind = i % 8
        if kind == 1:
            image[:] = 255
        elif kind == 2:
            image[:] = rng.integers(0, 256, (28, 28))
        elif kind == 3:
            image[:] = np.arange(28)[:, None] * 9
        elif kind != 4:  # a few strokes; 4 stays blank
            for _ in range(3):
                (y0, x0), (y1, x1) = rng.uniform(3, 25, (2, 2))
                along = np.linspace(0, 1, 60)
                ink = rng.integers(120, 256) if any_ink else rng.choice(INKS)
                image[
                    (y0 + (y1 - y0) * along).astype(int), (x0 + (x1 - x0) * along).astype(int)
                ] = ink
    pixels.setflags(write=False)
    return pixels


def drawn(count: int, *, any_ink: bool = False) -> np.ndarray:
    """uint8 (count, 28, 28): strokes (in INKS, or any from 120 on), blank, full, noise, gradient,
    in turn.  Read-only.
    """
    return _drawn(count, any_ink)


def drained(events: Generator[Any, None, Any]) -> tuple[list[Any], Any]:
    """What a command tells, and what it returns."""
    told = []
    while True:
        try:
            told.append(next(events))
        except StopIteration as end:
            return told, end.value


def flips(stream: bytes) -> Iterator[bytes]:
    """Every stream that differs in one bit."""
    for bit in range(8 * len(stream)):
        damaged = bytearray(stream)
        damaged[bit // 8] ^= 1 << bit % 8
        yield bytes(damaged)


def cuts(stream: bytes) -> Iterator[bytes]:
    """Every shorter beginning."""
    for size in range(len(stream)):
        yield stream[:size]


# ---- coder


def random_table(rng: np.random.Generator, rows: int, symbols: int) -> rans.CdfTable:
    """Rows of random frequencies, the first symbol the most probable."""
    freq = rng.dirichlet(np.full(symbols, 0.5), rows) * (rans.TOTAL - symbols)
    freq = -np.sort(-np.floor(freq).astype(int), axis=1) + 1
    freq[:, 0] += rans.TOTAL - freq.sum(axis=1)
    return rans.CdfTable(
        np.concatenate([np.zeros((rows, 1), int), np.cumsum(freq, axis=1)], axis=1)
    )


def random_symbols(
    rng: np.random.Generator, table: rans.CdfTable, indexes: np.ndarray
) -> np.ndarray:
    """One symbol for each row in `indexes`, drawn by the table's own probabilities; 0 where the row
    is -1.
    """
    slots = rng.integers(0, rans.TOTAL, indexes.shape)
    symbols = (table.cdf[np.maximum(indexes, 0)] <= slots[..., None]).sum(axis=-1) - 1
    return np.where(indexes < 0, 0, symbols).astype(np.uint8)


def encode(
    table: rans.CdfTable, indexes: np.ndarray, symbols: np.ndarray, check: np.ndarray
) -> list[bytes]:
    """Encode symbols by their rows; a row of -1 is the padding step."""
    rows = np.maximum(indexes, 0)
    start = np.where(indexes < 0, 0, table.start[rows, symbols]).astype(np.uint32)
    freq = np.where(indexes < 0, rans.TOTAL, table.freq[rows, symbols]).astype(np.uint32)
    return rans.encode(start, freq, check)


def check_round_trip(
    table: rans.CdfTable, indexes: np.ndarray, symbols: np.ndarray, check: np.ndarray
) -> list[bytes]:
    """Assert that symbols come back, in one `decode` call or in two, and the start states with
    them; -> the messages.
    """
    messages = encode(table, indexes, symbols, check)
    assert len(messages) == indexes.shape[1]
    for cut in (0, len(indexes) // 2):
        decoder = rans.Decoder(messages)
        parts = [decoder.decode(table, part) for part in (indexes[:cut], indexes[cut:])]
        np.testing.assert_array_equal(np.concatenate(parts), symbols)
        state, used_up = decoder.finish()
        np.testing.assert_array_equal(state, check)
        assert used_up.all()
    return messages


# ---- the network once more, in int64 alone


def _shift_to_even(values: np.ndarray, bits: np.ndarray | int) -> np.ndarray:
    """values / 2**bits, rounded to the nearest integer, ties to even; values >= 0."""
    bits = np.asarray(bits, np.int64)
    whole, rest, half = values >> bits, values & ((1 << bits) - 1), (1 << bits) >> 1
    up = (rest > half) | ((rest == half) & (whole & 1 == 1))
    return whole + (up & (bits > 0))


def requantize(sums: np.ndarray, multiplier: np.ndarray, bits: int) -> np.ndarray:
    """FORMAT.md 6 in integers: sums * multiplier to 24 significant bits, then / 2**bits; both to
    nearest, ties to even.
    """
    product = np.abs(sums) * multiplier  # below 2**48
    length = np.frexp(product.astype(np.float64))[1]  # exact: float64 holds 53 bits
    excess = np.maximum(0, length - 24).astype(np.int64)
    return np.sign(sums) * _shift_to_even(_shift_to_even(product, excess) << excess, bits)


def interpolated(table: np.ndarray, quality: int) -> np.ndarray:
    """Row of a table at a quality by exact rational arithmetic, halves up."""
    if len(table) == 1:
        return table[0].astype(np.int64)
    row, rest = divmod(quality, ROW_STEP)
    below, above = table[row].astype(np.int64), table[min(row + 1, ROWS - 1)].astype(np.int64)
    # x.5 does not occur in thirds
    return (below * (ROW_STEP - rest) + above * rest + 1) // ROW_STEP


def reference_layer(
    parts: Tensors, kind: str, x: np.ndarray, quality: int, low: int, high: int
) -> np.ndarray:
    """One layer in int64, the convolution by explicit loops.  x: (K, N) or (K, 49, N)."""
    weight = parts["weight"].astype(np.int64)
    if kind == "conv":
        n = x.shape[-1]
        grid = x.reshape(len(x), 7, 7, n)
        y = np.zeros((len(weight), 7, 7, n), np.int64)
        for row in range(7):
            for column in range(7):
                for dy in (-1, 0, 1):
                    for dx in (-1, 0, 1):
                        if 0 <= row + dy < 7 and 0 <= column + dx < 7:
                            tap = weight[:, :, dy + 1, dx + 1]
                            y[:, row, column] += (
                                tap[:, :, None] * grid[None, :, row + dy, column + dx]
                            ).sum(axis=1)
        y = y.reshape(-1, POSITIONS, n)
    else:
        y = (weight.reshape(len(weight), -1, *[1] * (x.ndim - 1)) * x[None]).sum(axis=1)
    trailing = (1,) * (y.ndim - 1)
    bias = parts["bias"].astype(np.int64)
    bias = bias[..., None] if bias.ndim == 2 else bias.reshape(-1, *trailing)
    y = y + bias + interpolated(parts["shift"], quality).reshape(-1, *trailing)
    multiplier = interpolated(parts["multiplier"], quality).reshape(-1, *trailing)
    return np.clip(requantize(y, multiplier, MULTIPLIER_BITS), low, high)


class Reference:
    """The decoder of a bundle in int64: symbols -> pixels, and the rows they are coded in."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self.levels = len({name.split(".")[1] for name in tensors if name.startswith("levels.")})

    def layer(
        self, name: str, kind: str, x: np.ndarray, quality: int, low: int, high: int
    ) -> np.ndarray:
        parts = {
            part: self._tensors[f"{name}.{part}"]
            for part in ("weight", "bias", "shift", "multiplier")
        }
        return reference_layer(parts, kind, x, quality, low, high)

    def _relu(self, name: str, kind: str, x: np.ndarray, quality: int) -> np.ndarray:
        return self.layer(name, kind, x, quality, 0, ACTIVATION_MAX)

    def _clip(self, name: str, kind: str, x: np.ndarray, quality: int) -> np.ndarray:
        return self.layer(name, kind, x, quality, -ACTIVATION_MAX, ACTIVATION_MAX)

    def _dequantize(self, name: str, y: np.ndarray, quality: int) -> np.ndarray:
        multiplier = interpolated(self._tensors[name], quality).reshape(-1, *[1] * (y.ndim - 1))
        return np.clip(
            requantize(y, multiplier, DEQUANTIZER_BITS), -DEQUANTIZED_MAX, DEQUANTIZED_MAX
        )

    def blocks(self, prefix: str, t: np.ndarray, quality: int) -> np.ndarray:
        for i in range(
            len(
                {
                    name.split(".")[prefix.count(".") + 1]
                    for name in self._tensors
                    if name.startswith(prefix + ".")
                }
            )
        ):
            h = self._relu(f"{prefix}.{i}.reduce", "point", t, quality)
            h = self._relu(f"{prefix}.{i}.spatial", "conv", h, quality)
            t = np.clip(
                t + self._clip(f"{prefix}.{i}.restore", "point", h, quality),
                -ACTIVATION_MAX,
                ACTIVATION_MAX,
            )
        return t

    def synthesize(
        self, symbols: list[np.ndarray], quality: int
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Symbols (S, N) of each level -> pixels uint8 (N, 28, 28), rows (S, N) of each level."""
        n = symbols[0].shape[1]
        mean, row = (
            interpolated(self._tensors[name], quality)[:, None]
            for name in ("prior_mean", "prior_sigma")
        )
        all_rows = [np.repeat(row, n, axis=1)]
        h = self._dequantize("dequantizer", symbols[0] * STEP_UNIT + mean, quality)
        h = self._relu("start1", "dense", self._relu("start0", "dense", h, quality), quality)
        t = self._clip("widen", "point", h.reshape(-1, POSITIONS, n), quality)
        for i in range(self.levels):
            t = self.blocks(f"synthesis.{i}", t, quality)
            name = f"levels.{i}"
            h = self._relu(f"{name}.prior0", "point", t, quality)
            mean = self.layer(f"{name}.prior_mean", "point", h, quality, -LATENT_MAX, LATENT_MAX)
            all_rows.append(
                self.layer(f"{name}.prior_sigma", "point", h, quality, 0, NUM_SIGMAS - 1).reshape(
                    -1, n
                )
            )
            y = symbols[i + 1].reshape(mean.shape) * STEP_UNIT + mean
            merged = self._clip(
                f"{name}.merge",
                "point",
                self._dequantize(f"{name}.dequantizer", y, quality),
                quality,
            )
            t = np.clip(t + merged, -ACTIVATION_MAX, ACTIVATION_MAX)
        t = self.blocks(f"synthesis.{self.levels}", t, quality)
        out = self.layer("output", "point", t, quality, 0, 255)
        pixels = np.zeros((n, 28, 28), np.uint8)
        for channel in range(16):
            for position in range(POSITIONS):
                y, x = 4 * (position // 7) + channel // 4, 4 * (position % 7) + channel % 4
                pixels[:, y, x] = out[channel, position]
        return pixels, all_rows


def reference_input(pixels: np.ndarray) -> np.ndarray:
    """uint8 (N, 28, 28) -> int64 (16, 49, N), pixel by pixel."""
    x = np.zeros((16, POSITIONS, len(pixels)), np.int64)
    for y_at in range(28):
        for x_at in range(28):
            x[4 * (y_at % 4) + x_at % 4, 7 * (y_at // 4) + x_at // 4] = pixels[
                :, y_at, x_at
            ] * np.int64(PIXEL_UNIT)
    return x


# ---- collections


def collect(
    count: int,
    names: list[str] | None = None,
    *,
    quality: int = 40,
    block_images: int = 4096,
    pixels: np.ndarray | None = None,
    labels: Labels | None = None,
) -> bytes:
    """`drawn(count)`, or other pixels, as a collection of tiny model 0 at effort 1, in blocks of so
    many images.  names, labels: whatever they are, they are not checked.
    """
    pixels = drawn(count) if pixels is None else pixels
    file = io.BytesIO()
    writer = Writer(file)
    for at in range(0, count, block_images):
        some = pixels[at : at + block_images]
        encoded = tiny_model().encode(some, quality, effort=1)
        part = Part(tiny_model().hash, quality, np.arange(len(some)))
        named = None if names is None else names[at : at + block_images]
        labelled = None if labels is None else labels[at : at + block_images]
        writer.write(pack_block([(part, encoded.messages)], named, labelled), len(some))
    writer.finish()
    return file.getvalue()


def joined(*streams: bytes) -> bytes:
    """Collections as one, whatever they hold."""
    file = io.BytesIO()
    writer = Writer(file)
    for stream in streams:
        with open_collection(stream) as collection:
            for block in collection.blocks:
                writer.write(block.read(), block.count)
    writer.finish()
    return file.getvalue()


class CountingFile(io.BytesIO):
    def __init__(self, stream: bytes) -> None:
        super().__init__(stream)
        self.bytes_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        part = super().read(size)
        self.bytes_read += len(part)
        return part


def salvage(stream: bytes | BinaryIO) -> list[Decoded]:
    """All that can be had of a stream, block by block."""
    with open_stream(stream, recover=True) as opened:
        return list(opened.salvage())


def lost(decoded: Verdict) -> list[int]:
    """Which of the images of a block are lost, numbered in the block."""
    return np.flatnonzero(decoded.lost).tolist()


def zstd_frame(content: bytes, level: int = zstd.LEVEL, **flags: bool) -> bytes:
    """A zstd frame of any kind.  flags: names of zstd's parameters, such as content_size_flag."""
    library = zstd.library()
    parameter = library.CompressionParameter
    options = {parameter.compression_level: level}
    options |= {parameter[name]: int(value) for name, value in flags.items()}
    frame: bytes = library.compress(content, options=options)
    return frame


def slow(*values: object) -> list[Any]:
    """Parameters whose tests are left to `-m slow`."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


NATIVE = [engine for engine in kernels.engines() if engine != "numpy"]
# This processor would choose the last of them.
NATIVE_PARAMS = [*slow(*NATIVE[:-1]), *NATIVE[-1:]]
