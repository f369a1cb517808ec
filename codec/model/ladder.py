"""A model bundle made live: transforms and entropy model, all in exact integers.  FORMAT.md 5 to 7.

Signal path (numbers of channels are the bundle's; every arrow is a `layers.Layer`, every t is (C,
49, N)):

    pixels ──► analysis ──► e ──────────┬─────────────────────┬── ... (`Encoder` only)
               (blocks)     │           │ posterior           │ posterior
                            ▼ posterior ▼                     ▼
                       y: dense     y: 7x7 level          y: 7x7 level
                            │           │   ▲                 │   ▲
               round(y - mean) = symbols ──►│ rANS by (mean, row) │ ──► messages
                            │           │   │ prior           │   │ prior
                            ▼           ▼   │                 ▼   │
                   start ──► t ──► blocks ──┴─► t + merge ──► blocks ──┴─► ... ─► output ─► pixels

READ ME FIRST
- Encoder and decoder run the same `Model.synthesis`, a generator: it yields the prior of one level
  (means and rows of the CDF table), is sent that level's latents, and goes on. What the two do
  differently is where the latents come from.
- Latents and means are integers in 256ths of a quantization step; a symbol is a whole number of
  steps from the mean.
- Row 0 of every CDF table is certain: its symbol is 0 and is not coded at all. Most latents of most
  images are such, which is what makes low rates cheap and fast.
- Quality selects rows of integer tables (FiLM shifts and multipliers, dequantizers); there is one
  network.
- The layers that choose the latents are an `Encoder`, in a file of its own: no decoder needs it, so
  a better one may take its place. It is loaded when something is encoded for the first time.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.coding import rans
from codec.coding.lanes import U8, Compact, Encoded, GroupDecoder, by, checks, to_lanes
from codec.coding.lanes_native import NativeGroupDecoder, encode_groups
from codec.errors import BadModel, EncoderNotFound, ModelError
from codec.format.bitstream import MAX_QUALITY, MODEL_HASH_BYTES, group_images
from codec.kernels import Kernels
from codec.kernels import active as native_kernels
from codec.model import ladder_search
from codec.model.bundle import BaseModel, Bundle, read_file, unpack_bundle
from codec.model.ladder_native import NativeLadder
from codec.model.layers import (
    F32,
    POSITIONS,
    ROWS,
    SIDE,
    Integers,
    Layer,
    Trace,
    add,
    clipped,
    interpolate,
    limit,
    rectified,
    traced,
)
from codec.parallel import in_threads, num_cores, one_blas_thread

# quality 0 and MAX_QUALITY; lambda weighs the SSE of pixels in 0..1 against bits
MIN_LOG2_LMBDA, MAX_LOG2_LMBDA = 0.0, 10.0
# Rows of a CDF table: widths of the residual in steps, log-spaced. Row 0 is certain, so the first
# width must be far below what training tells apart (0.11): starting there lost 0.2 dB at quality
# 99, in latents that could not be coded at all.
MIN_SIGMA, MAX_SIGMA, NUM_SIGMAS = 0.045, 64.0, 64
# Latents and means are in 256ths of a quantization step: training gathers latents near the edge of
# rounding, so the coarser the unit, the more of them fall on the wrong side (costs on held-out
# images: in 64ths 1 % more, in 16ths 4 %).
STEP_UNIT = ladder_search.STEP_UNIT
LATENT_MAX = 1 << 17
# Dequantized latents are finer than activations: at the best quality a step is four activation
# units, and rounding to one unit lost 0.15 dB. The integer that stands for 1.0, and the largest:
DEQUANTIZED_UNIT, DEQUANTIZED_MAX = 512, 4095
DEQUANTIZER_BITS = 18  # dequantizers are integers in units of 2**-18
MAX_SYMBOLS = 255
_RESIDUALS = STEP_UNIT * np.array(
    [-(code + 1) // 2 if code & 1 else code // 2 for code in range(MAX_SYMBOLS)], np.int32
)
POSTERIOR_PARTS = ("posterior0", "posterior1")  # layers of a 7x7 level that are the encoder's
PIXEL_UNIT = 4  # a pixel enters the network as 4 * its value, at most 1020
# Coded side by side: all of them wait, with their features or symbols, for the last one. 4,096
# would take 55 MB more to encode and 95 MB more to decode, and save 2 and 4 % of the time. No byte
# depends on it.
PART_IMAGES = 2048
CHUNK_IMAGES = 48  # what one core works on at a time: its features fit the cache

I16 = npt.NDArray[np.int16]
I32 = npt.NDArray[np.int32]
Prior = tuple[I32, I32, F32]  # means (K, ...), rows (K, ...), features t


def log2_lmbda(quality: float) -> float:
    """log2 of the trade-off weight that a quality (0..MAX_QUALITY) stands for."""
    return MIN_LOG2_LMBDA + (MAX_LOG2_LMBDA - MIN_LOG2_LMBDA) * quality / MAX_QUALITY


@dataclass(frozen=True)
class Block:
    """Residual block: 1x1 to fewer channels (the quality enters here), 3x3, 1x1 back."""

    reduce: Layer
    spatial: Layer
    restore: Layer

    def __call__(self, t: F32, quality: int, trace: Trace | None = None) -> F32:
        h = rectified(self.reduce, t, quality, trace)
        h = rectified(self.spatial, h, quality, trace)
        return add(t, clipped(self.restore, h, quality, trace), trace)

    def sizes(self, c: int) -> list[tuple[int, int]]:
        """Sizes that must be equal where t has c channels."""
        return [
            (c, self.reduce.inputs),
            (self.reduce.outputs, self.spatial.inputs),
            (self.spatial.outputs, self.restore.inputs),
            (c, self.restore.outputs),
        ]

    def backward(self, g: F32, quality: int, trace: Trace) -> F32:
        """Gradient of the output -> gradient of t."""
        g = g * trace.pop()
        h = self.restore.transposed(g * trace.pop(), quality)
        h = self.spatial.transposed(h * trace.pop(), quality)
        return g + self.reduce.transposed(h * trace.pop(), quality)


class Dequantizer:
    """Latents in 256ths of a step -> integers in units of 1 / DEQUANTIZED_UNIT, by a table of the
    bundle: (ROWS, K).
    """

    def __init__(self, bundle: Bundle, name: str) -> None:
        self._table = _table(bundle, name)
        if self._table.min() < 1 or self._table.max() > 1 << 24:
            raise BadModel(f"{name} is outside 1..2**24")
        self.channels: int = self._table.shape[1]
        self._multipliers: dict[int, F32] = {}

    def __call__(self, y: I32, quality: int, trace: Trace | None = None) -> F32:
        """y: int32 (K, ...), |y| < 2**24."""
        x = y.astype(np.float32) * _column(self.multiplier(quality), y.ndim)
        np.rint(x, out=x)
        return traced(
            limit(x, -DEQUANTIZED_MAX, DEQUANTIZED_MAX), -DEQUANTIZED_MAX, DEQUANTIZED_MAX, trace
        )

    def backward(self, g: F32, quality: int, trace: Trace) -> F32:
        """Gradient by the result -> gradient by latents."""
        return g * trace.pop() * _column(self.multiplier(quality), g.ndim)

    def multiplier(self, quality: int) -> F32:
        """float32 (K,): what a 256th of a step is at a quality,
        in units of 1 / DEQUANTIZED_UNIT.
        """
        if quality not in self._multipliers:
            multiplier = interpolate(self._table, quality).astype(np.float32) * np.float32(
                2.0**-DEQUANTIZER_BITS
            )
            self._multipliers[quality] = multiplier
        return self._multipliers[quality]


def _column(values: F32, ndim: int) -> F32:
    """(K,) -> (K, 1, ...) of `ndim` axes."""
    return values.reshape((-1,) + (1,) * (ndim - 1))


@dataclass(frozen=True)
class Level:
    """A 7x7 level of latents: prior from t, and the way of the latents back into t."""

    prior0: Layer
    prior_mean: Layer
    prior_sigma: Layer
    merge: Layer
    dequantize: Dequantizer

    def prior(self, t: F32, quality: int, trace: Trace | None = None) -> tuple[I32, I32]:
        """-> means in 256ths, rows of the CDF table: int32 (K, 49, N)."""
        h = rectified(self.prior0, t, quality, trace)
        mean = self.prior_mean(h, quality, -LATENT_MAX, LATENT_MAX)
        row = traced(self.prior_sigma(h, quality, 0, NUM_SIGMAS - 1), 0, NUM_SIGMAS - 1, trace)
        return mean.astype(np.int32), row.astype(np.int32)

    def prior_backward(self, g_mean: F32, g_row: F32, quality: int, trace: Trace) -> F32:
        """Gradients of means and rows -> gradient of t."""
        h = self.prior_sigma.transposed(g_row * trace.pop(), quality) + self.prior_mean.transposed(
            g_mean, quality
        )
        return self.prior0.transposed(h * trace.pop(), quality)


@dataclass(frozen=True)
class Posterior:
    """Latents of a 7x7 level from e and t."""

    posterior0: Layer
    posterior1: Layer

    def __call__(self, e: F32, t: F32, quality: int) -> I32:
        """-> latents in 256ths, int32 (K, 49, N)."""
        h = rectified(self.posterior0, np.concatenate([e, t]), quality)
        return self.posterior1(h, quality, -LATENT_MAX, LATENT_MAX).astype(np.int32)


@dataclass(frozen=True)
class Symbols:
    """What is coded of N images: codes uint8 (S, N), rows int16 (S, N); pixels: what they decode
    to, uint8 (N, 28, 28).
    """

    codes: npt.NDArray[np.uint8]
    rows: npt.NDArray[np.int16]
    pixels: U8

    def put(self, images: npt.NDArray[np.integer], others: Symbols) -> None:
        """Put those of `others` in the place of some images, given by number."""
        self.codes[:, images], self.rows[:, images], self.pixels[images] = (
            others.codes,
            others.rows,
            others.pixels,
        )

    def of(self, images: npt.NDArray[np.integer]) -> Symbols:
        """Those of some images, given by number."""
        return Symbols(self.codes[:, images], self.rows[:, images], self.pixels[images])

    @staticmethod
    def join(parts: list[Symbols]) -> Symbols:
        """Those of all images of all parts."""
        codes, rows = (
            np.concatenate([getattr(part, name) for part in parts], axis=1)
            for name in ("codes", "rows")
        )
        return Symbols(codes, rows, np.concatenate([part.pixels for part in parts]))


class Encoder:
    """What chooses the latents of a lossy model: a file beside the model's.  FORMAT.md 6.5 and 7.4.

    stream: the bytes of its file. e may have another number of channels than t.
    Raises BadModel, also for the encoder of another model than `model`.
    """

    ARCHITECTURE = "ladder-1-encoder"

    def __init__(self, stream: bytes, model: Model) -> None:
        architecture, tensors, self.card = unpack_bundle(stream)
        if architecture != self.ARCHITECTURE:
            raise BadModel(f"architecture {architecture!r}, wanted {self.ARCHITECTURE!r}")
        of_model, wanted = self.card.get("model_hash"), model.hash.hex()
        if of_model != wanted:
            raise BadModel(f"of model {of_model}, wanted is that of {model.name}, {wanted}")
        self.stream = stream
        self.hash = hashlib.sha256(stream).digest()[:MODEL_HASH_BYTES]
        bundle = Bundle(tensors)
        self.input = bundle.layer("input", "point")
        self.analysis = _blocks(bundle, "analysis")
        self.squeeze = bundle.layer("squeeze", "point")
        self.posterior = [bundle.layer("posterior0", "dense"), bundle.layer("posterior1", "dense")]
        latents = [channels for channels, *_ in model.latent_shapes]
        self.levels = [
            Posterior(*(bundle.layer(f"levels.{i}.{part}", "point") for part in POSTERIOR_PARTS))
            for i in range(len(latents) - 1)
        ]
        self.multiply_adds = bundle.multiply_adds
        bundle.finish()
        self._check_channels(model.channels, latents)

    def _check_channels(self, t: int, latents: list[int]) -> None:
        """Raise BadModel unless layers fit together, and to the channels of t and of
        all latents.
        """
        e, dense = self.input.outputs, self.posterior
        sizes = [
            (16, self.input.inputs),
            (e, self.squeeze.inputs),
            (self.squeeze.outputs * POSITIONS, dense[0].inputs),
            (dense[0].outputs, dense[1].inputs),
            (latents[0], dense[1].outputs),
        ]
        for block in self.analysis:
            sizes += block.sizes(e)
        for k, level in zip(latents[1:], self.levels, strict=True):
            sizes += [
                (e + t, level.posterior0.inputs),
                (level.posterior0.outputs, level.posterior1.inputs),
                (k, level.posterior1.outputs),
            ]
        if any(wanted != found for wanted, found in sizes):
            raise BadModel("the layers do not fit together, or not to the model")


class Model(BaseModel):
    """The lossy model: a ladder of latents.  See BaseModel."""

    ARCHITECTURE = "ladder-1"
    LIMITS = LATENT_MAX, NUM_SIGMAS - 1  # of latents and means; of rows of the CDF table
    lossless = False

    def _take(self, bundle: Bundle) -> None:
        self._encoder: Encoder | None = None
        self._encoder_lock = threading.Lock()
        self._start = [
            bundle.layer("start0", "dense", DEQUANTIZED_MAX),
            bundle.layer("start1", "dense"),
        ]
        self._widen, self._output = bundle.layer("widen", "point"), bundle.layer("output", "point")
        self._synthesis = [
            _blocks(bundle, f"synthesis.{i}") for i in range(bundle.count("synthesis"))
        ]
        self._levels = [_level(bundle, f"levels.{i}") for i in range(bundle.count("levels"))]
        if len(self._synthesis) != len(self._levels) + 1:
            raise BadModel(
                f"{len(self._levels)} levels in {len(self._synthesis)} stages of synthesis"
            )
        self._prior_mean, self._prior_sigma = (
            _table(bundle, "prior_mean"),
            _table(bundle, "prior_sigma"),
        )
        self._multiply_adds = bundle.multiply_adds
        # means and rows, (K, 1), of the qualities that were asked for
        self._dense_priors: dict[int, list[I32]] = {}
        self._dequantize = Dequantizer(bundle, "dequantizer")
        for table, low, high in (
            (self._prior_mean, -LATENT_MAX, LATENT_MAX),
            (self._prior_sigma, 0, NUM_SIGMAS - 1),
        ):
            if table.min() < low or table.max() > high:
                raise BadModel(f"the prior of the dense latents leaves {low}..{high}")
        self._check_channels()
        self._native: dict[str, NativeLadder] = {}  # by instruction set
        self.tables = [rans.CdfTable(cdf) for cdf in _cdf(bundle, 1 + len(self._levels))]

    def _check_channels(self) -> None:
        """Raise BadModel unless the output of every layer is what the next one takes."""
        c, k = self.channels, self._dequantize.channels
        start, widen, output = self._start, self._widen, self._output
        sizes = [
            (k, self._prior_mean.shape[1]),
            (k, self._prior_sigma.shape[1]),
            (k, start[0].inputs),
            (start[0].outputs, start[1].inputs),
            (start[1].outputs, widen.inputs * POSITIONS),
            (c, output.inputs),
            (16, output.outputs),
        ]
        for block in (b for stage in self._synthesis for b in stage):
            sizes += block.sizes(c)
        for level in self._levels:
            n = level.dequantize.channels
            sizes += [
                (c, level.prior0.inputs),
                (level.prior0.outputs, level.prior_mean.inputs),
                (level.prior0.outputs, level.prior_sigma.inputs),
                (n, level.prior_mean.outputs),
                (n, level.prior_sigma.outputs),
                (n, level.merge.inputs),
                (c, level.merge.outputs),
            ]
        if any(wanted != found for wanted, found in sizes):
            raise BadModel("the layers do not fit together")

    @property
    def channels(self) -> int:
        """Channels of the features t."""
        return self._widen.outputs

    @property
    def encoder(self) -> Encoder:
        """What it encodes with, loaded when it is first asked for.

        Raises EncoderNotFound; BadModel, both naming its file.
        """
        with self._encoder_lock:
            if self._encoder is None:
                try:
                    self._encoder = Encoder(self._encoder_stream(), self)
                except BadModel as error:
                    path = self._encoder_source
                    where = path if isinstance(path, Path) else f"encoder of {self.name}"
                    raise BadModel(f"{where}: {error}") from error
            return self._encoder

    def _encoder_stream(self) -> bytes:
        source = self._encoder_source
        if isinstance(source, bytes):
            return source
        if source is None:
            raise EncoderNotFound(f"model {self.name} came without its encoder: it only decodes")
        try:
            return read_file(source)
        except FileNotFoundError:
            what = f"model {self.name} only decodes: the file of its encoder, {source.name}"
            raise EncoderNotFound(f"{what}, is not in {source.parent}") from None
        except OSError as error:
            raise BadModel(f"{error.strerror}") from error

    @property
    def encoder_hash(self) -> bytes | None:
        """See BaseModel."""
        try:
            return self.encoder.hash
        except EncoderNotFound:
            return None

    @property
    def figures(self) -> dict[str, Any]:
        """See BaseModel: of the encoder, if its card has any,
        since it may have been trained anew.
        """
        try:
            figures = self.encoder.card.get("figures")
        except EncoderNotFound:
            figures = None
        return figures if isinstance(figures, dict) else super().figures

    def __reduce__(self) -> tuple[type[BaseModel], tuple[bytes, bytes | Path | None]]:
        # With the bytes of its encoder: the other process may be on another machine.
        try:
            return type(self), (self.stream, self._encoder_stream())
        except ModelError:
            return super().__reduce__()

    def transforms(self) -> Any:
        """Who computes `analysis`, `synthesis`, `backward` and `posterior_of`: the native kernels,
        or this class itself.
        """
        kernels = native_kernels()
        if kernels is None:
            return self
        name = kernels.instruction_set
        return self._native.get(name) or self._native.setdefault(name, NativeLadder(self, kernels))

    def analysis(self, pixels: U8, quality: int) -> F32:
        """pixels uint8 (N, 28, 28) -> features e (C, 49, N)."""
        encoder = self.encoder
        e = clipped(encoder.input, patches(pixels), quality)
        for block in encoder.analysis:
            e = block(e, quality)
        return e

    def dense_prior(self, quality: int) -> list[I32]:
        """Means and rows of the dense latents at a quality: int32 (K, 1) each."""
        if quality not in self._dense_priors:
            tables = (self._prior_mean, self._prior_sigma)
            self._dense_priors[quality] = [
                interpolate(table, quality).astype(np.int32)[:, None] for table in tables
            ]
        return self._dense_priors[quality]

    def synthesis(
        self, quality: int, n: int, trace: Trace | None = None
    ) -> Generator[Prior, I32, U8]:
        """Yield each level's (means, rows, features), take its latents in 256ths, return pixels
        uint8 (N, 28, 28).
        """
        k = self._dequantize.channels
        mean, row = (np.repeat(prior, n, axis=1) for prior in self.dense_prior(quality))
        y = yield mean, row, np.empty((k, n), np.float32)
        h = rectified(self._start[0], self._dequantize(y, quality, trace), quality, trace)
        h = rectified(self._start[1], h, quality, trace)
        t = clipped(self._widen, h.reshape(-1, POSITIONS, n), quality, trace)
        for i, stage in enumerate(self._synthesis):
            for block in stage:
                t = block(t, quality, trace)
            if i < len(self._levels):
                level = self._levels[i]
                y = yield *level.prior(t, quality, trace), t
                add(
                    t,
                    clipped(level.merge, level.dequantize(y, quality, trace), quality, trace),
                    trace,
                )
        return unpatches(self._output(t, quality, 0, 255))

    def backward(self, g_pixels: F32, g_rows: list[F32], quality: int, trace: Trace) -> list[F32]:
        """Gradients of a cost by the decoded pixels and by the rows of each 7x7 level -> by the
        latents of each level.

        g_pixels: (N, 28, 28); trace: what `synthesis` left, used up here. Symbols are taken as
        fixed: latents of a level move with their means, which the latents above decide. The
        rounding is taken for none.
        """
        g = self._output.transposed(patches(g_pixels) / np.float32(PIXEL_UNIT), quality)
        g_levels: list[F32] = []
        for i in reversed(range(len(self._synthesis))):
            if i < len(self._levels):
                level = self._levels[i]
                g *= trace.pop()
                g_y = level.merge.transposed(g * trace.pop(), quality)
                g_y = level.dequantize.backward(g_y, quality, trace)
                g_levels.append(g_y)
                g = g + level.prior_backward(g_y, g_rows[i], quality, trace)
            for block in reversed(self._synthesis[i]):
                g = block.backward(g, quality, trace)
        h = self._widen.transposed(g * trace.pop(), quality).reshape(-1, g.shape[2])
        h = self._start[1].transposed(h * trace.pop(), quality)
        h = self._start[0].transposed(h * trace.pop(), quality)
        return [self._dequantize.backward(h, quality, trace), *reversed(g_levels)]

    def posterior_of(self, i: int, e: F32, t: F32, quality: int) -> I32:
        """Latents of level i, as the encoder would have them: int32 (K, 49, N), of the dense level
        (K, N).
        """
        encoder = self.encoder
        if i:
            return encoder.levels[i - 1](e, t, quality)
        h = rectified(encoder.squeeze, e, quality).reshape(-1, e.shape[2])
        h = rectified(encoder.posterior[0], h, quality)
        return encoder.posterior[1](h, quality, -LATENT_MAX, LATENT_MAX).astype(np.int32)

    def quantize(self, pixels: U8, quality: int) -> tuple[list[I32], list[I32], U8]:
        """pixels uint8 (N, 28, 28) -> symbols and rows, int32 (S, N) for each level; decoded
        pixels.
        """
        net, n = self.transforms(), len(pixels)
        found = ladder_search.Attempt(net, self._bits, net.analysis(pixels, quality), n, quality)
        return (
            [x.reshape(-1, n) for x in found.symbols],
            [x.reshape(-1, n) for x in found.rows],
            found.pixels,
        )

    @cached_property
    def _bits(self) -> list[ladder_search.BitTable]:
        return [ladder_search.BitTable(table) for table in self.tables]

    def encode(
        self, pixels: U8, quality: int, *, group: int | None = None, effort: int = 1
    ) -> Encoded:
        """See BaseModel; quality: 0..MAX_QUALITY."""
        group = group or group_images(quality)
        size = PART_IMAGES // group * group
        parts = [
            self.pack(self.symbols(pixels[at : at + size], quality, effort), group)
            for at in range(0, len(pixels), size)
        ]
        messages = [message for part in parts for message in part.messages]
        return Encoded(
            messages,
            np.concatenate([part.pixels for part in parts]),
            sum(part.ideal_bits for part in parts),
        )

    def symbols(
        self, pixels: U8, quality: int | npt.NDArray[np.integer], effort: int = 1
    ) -> Symbols:
        """What is coded of uint8 (N, 28, 28), N >= 1; of an image always the same, whatever the
        others are.

        quality: of all images, or of each: int (N,). Those of one quality go through the network
        together.
        """
        qualities = np.broadcast_to(quality, len(pixels))
        most = _share_of_a_core(len(pixels))
        chunks = [
            part
            for _, images in by(qualities)
            for part in np.array_split(images, -(-len(images) // most))
        ]
        parts = in_threads(
            lambda images: self._coded(pixels[images], int(qualities[images[0]]), effort), chunks
        )
        found = Symbols.join([Symbols(*part) for part in parts])
        return found.of(np.argsort(np.concatenate(chunks))) if np.ndim(quality) else found

    def pack(self, symbols: Symbols, group: int) -> Encoded:
        """Code symbols of N >= 1 images, `group` neighbours sharing a coder state."""
        return self.pack_parts([symbols], group)[0]

    def pack_parts(self, parts: list[Symbols], group: int) -> list[Encoded]:
        """As `pack` of each part, all their lanes side by side: no table depends on the quality,
        and a step costs by itself.
        """
        all_checks = [checks(part.pixels, group) for part in parts]
        kernels = native_kernels()
        if kernels is not None:
            return [
                self._pack_natively(kernels, part, group, check)
                for part, check in zip(parts, all_checks, strict=True)
            ]
        lanes = [
            [to_lanes(getattr(part, name), group, 0) for part in parts]
            for name in ("codes", "rows")
        ]
        codes, rows = (
            each[0] if len(each) == 1 else np.concatenate(each, axis=1) for each in lanes
        )
        # The tables of all levels, one below the other; row 0 of the first stands for all that is
        # certain.
        start, freq = (
            np.concatenate([getattr(table, name) for table in self.tables])
            for name in ("start", "freq")
        )
        check = np.concatenate(all_checks)
        messages: list[bytes] = []
        ideal_bits = np.zeros(len(check))
        for at in range(0, len(check), lanes_at_once := max(1, PART_IMAGES // group)):
            some = slice(at, at + lanes_at_once)
            where = Compact(rows[:, some] != 0)
            picked = where.take(rows[:, some], 0), where.take(codes[:, some], 0)
            chosen = freq[picked]
            messages += rans.encode(start[picked], chosen, check[some])
            ideal_bits[some] = np.sum(rans.PRECISION - np.log2(chosen), axis=0)
        ends = np.cumsum([len(each) for each in all_checks]).tolist()
        return [
            Encoded(messages[at:end], part.pixels, float(ideal_bits[at:end].sum()))
            for part, at, end in zip(parts, [0, *ends], ends, strict=False)
        ]

    def _pack_natively(
        self, kernels: Kernels, part: Symbols, group: int, check: npt.NDArray[np.int64]
    ) -> Encoded:
        cells, bits = self._cells
        messages = encode_groups(kernels, cells, part.rows, part.codes, group, check)
        where = part.rows.ravel().astype(np.int32) * bits.shape[1] + part.codes.ravel()
        return Encoded(messages, part.pixels, float(bits.ravel().take(where).sum()))

    @cached_property
    def _cells(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float64]]:
        """Of each symbol of each row of the tables of all levels: start and freq (rows, symbols,
        2); ideal bits, row 0's none.
        """
        start, freq = (
            np.concatenate([getattr(table, name) for table in self.tables])
            for name in ("start", "freq")
        )
        bits = rans.PRECISION - np.log2(np.maximum(freq, 1))
        bits[0] = 0
        return np.ascontiguousarray(np.stack([start, freq], axis=2)), bits

    def _coded(self, pixels: U8, quality: int, effort: int) -> tuple[U8, npt.NDArray[np.int16], U8]:
        """pixels -> codes (S, N) and rows (S, N) of all levels, a row counted from the first
        level's; decoded pixels.
        """
        net, n = self.transforms(), len(pixels)
        flips, rounds = ladder_search.EFFORTS[effort - 1]
        e = net.analysis(pixels, quality)
        found = ladder_search.Attempt(net, self._bits, e, n, quality)
        refine = ladder_search.Search(net, self._bits, pixels, quality, 2.0 ** log2_lmbda(quality))
        if flips:
            refine.flip(found, e, flips)
        symbols, rows = (
            np.concatenate([x.reshape(-1, n) for x in levels])
            for levels in (found.symbols, found.rows)
        )
        decoded = found.pixels
        if rounds:
            symbols, rows, decoded = refine.refine(symbols, rounds)
        first_row = np.repeat(
            [NUM_SIGMAS * level for level in range(len(found.rows))],
            [x.size // n for x in found.rows],
        )
        codes = np.where(symbols < 0, -2 * symbols - 1, 2 * symbols).astype(np.uint8)
        return codes, np.where(rows, rows + first_row[:, None], 0).astype(np.int16), decoded

    def decode(
        self, messages: list[bytes], count: int, quality: int, *, group: int | None = None
    ) -> tuple[U8, npt.NDArray[np.bool_]]:
        """See BaseModel."""
        pixels, bad, _ = self._decode(
            messages, count, quality, group or group_images(quality), latents=False
        )
        return pixels, bad

    def multiply_adds(self, pixels: U8) -> tuple[float, float]:
        """See BaseModel: all layers of the synthesis, for encoding those of the encoder too."""
        decode = self._multiply_adds
        return decode + self.encoder.multiply_adds, decode

    @property
    def latent_shapes(self) -> tuple[tuple[int, ...], ...]:
        """See BaseModel: (K,), then (K, 7, 7) for each 7x7 level."""
        return (
            (self._dequantize.channels,),
            *((level.dequantize.channels, SIDE, SIDE) for level in self._levels),
        )

    def decode_latents(
        self, messages: list[bytes], count: int, quality: int, *, group: int | None = None
    ) -> tuple[U8, I16, npt.NDArray[np.bool_]]:
        """See BaseModel."""
        pixels, bad, latents = self._decode(
            messages, count, quality, group or group_images(quality), latents=True
        )
        return pixels, latents, bad

    def _decode(
        self, messages: list[bytes], count: int, quality: int, group: int, *, latents: bool
    ) -> tuple[U8, npt.NDArray[np.bool_], I16]:
        """-> pixels, which messages are damaged, dequantized latents int16 (N, all levels'), or (N,
        0) if nobody wants them.

        The coder in numpy needs many lanes side by side, so it takes large parts, whose networks
        share the cores. The native one does not: there each core decodes small parts of its own
        from end to end.
        """
        most = PART_IMAGES if native_kernels() is None else _share_of_a_core(count)
        size = max(most // group, 1)  # messages
        starts = range(0, -(-count // group), size)

        def decode(at: int) -> tuple[U8, npt.NDArray[np.bool_], I16]:
            images = min(size * group, count - at * group)
            return self._decode_part(messages[at : at + size], images, quality, group, latents)

        if native_kernels() is None:
            with one_blas_thread():
                parts = [decode(at) for at in starts]
        else:
            parts = list(in_threads(decode, list(starts)))
        pixels, bad, found = zip(*parts, strict=True)
        return np.concatenate(pixels), np.concatenate(bad), np.concatenate(found)

    def _decode_part(
        self, messages: list[bytes], count: int, quality: int, group: int, latents: bool
    ) -> tuple[U8, npt.NDArray[np.bool_], I16]:
        chunks = _chunks(count)
        networks = [
            self.transforms().synthesis(quality, min(CHUNK_IMAGES, count - at)) for at in chunks
        ]
        priors = list(in_threads(next, networks))
        kernels = native_kernels()
        decoder = (
            GroupDecoder(messages, group)
            if kernels is None
            else NativeGroupDecoder(messages, group, kernels)
        )

        def send(network: Generator[Prior, I32, U8], y: I32) -> Any:
            try:
                return network.send(y)
            except StopIteration as stop:
                return stop.value

        dequantized = [np.empty((count, 0), np.int16)]
        dequantizers = [self._dequantize, *(level.dequantize for level in self._levels)]
        for table, dequantize in zip(self.tables, dequantizers, strict=True):
            rows = [row.reshape(-1, row.shape[-1]) for _, row, _ in priors]
            codes = decoder.decode(
                table, rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)
            )
            ys = [
                _RESIDUALS[codes[:, at : at + CHUNK_IMAGES]].reshape(mean.shape) + mean
                for at, (mean, _, _) in zip(chunks, priors, strict=True)
            ]
            if latents:
                x = np.concatenate([dequantize(y, quality) for y in ys], axis=-1)
                dequantized.append(x.reshape(-1, count).T.astype(np.int16))
            # After the last level these are no priors but the pixels.
            priors = list(
                in_threads(lambda pair: send(*pair), list(zip(networks, ys, strict=True)))
            )
        pixels: U8 = np.concatenate(priors)
        state, used_up = decoder.finish()
        return (
            pixels,
            (state != checks(pixels, group)) | ~used_up,
            np.concatenate(dequantized, axis=1),
        )


def _share_of_a_core(count: int) -> int:
    """How many images one core decodes at a time: a chunk, or less where there are few, so that all
    cores have some.
    """
    return min(CHUNK_IMAGES, -(-count // num_cores()))


def patches(pixels: U8 | F32) -> F32:
    """(N, 28, 28) -> (16, 49, N): channel 4 * y + x of a patch is PIXEL_UNIT times its pixel (y,
    x).
    """
    n = len(pixels)
    cut = pixels.reshape(n, SIDE, 4, SIDE, 4).transpose(2, 4, 1, 3, 0).reshape(16, POSITIONS, n)
    return cut.astype(np.float32) * np.float32(PIXEL_UNIT)


def unpatches(x: F32) -> U8:
    """(16, 49, N) integers 0..255 -> uint8 (N, 28, 28)."""
    n = x.shape[2]
    return (
        x.astype(np.uint8).reshape(4, 4, SIDE, SIDE, n).transpose(4, 2, 0, 3, 1).reshape(n, 28, 28)
    )


def _chunks(count: int) -> list[int]:
    return list(range(0, count, CHUNK_IMAGES))


def _blocks(bundle: Bundle, prefix: str) -> list[Block]:
    return [
        Block(
            bundle.layer(f"{prefix}.{i}.reduce", "point"),
            bundle.layer(f"{prefix}.{i}.spatial", "conv"),
            bundle.layer(f"{prefix}.{i}.restore", "point"),
        )
        for i in range(bundle.count(prefix))
    ]


def _level(bundle: Bundle, prefix: str) -> Level:
    names = ("prior0", "prior_mean", "prior_sigma")
    layers = {name: bundle.layer(f"{prefix}.{name}", "point") for name in names}
    merge = bundle.layer(f"{prefix}.merge", "point", DEQUANTIZED_MAX)
    return Level(**layers, merge=merge, dequantize=Dequantizer(bundle, f"{prefix}.dequantizer"))


def _table(bundle: Bundle, name: str) -> Integers:
    """A table by quality: (ROWS, K)."""
    table = bundle.pop(name)
    if table.ndim != 2 or len(table) != ROWS or not table.shape[1]:
        raise BadModel(f"{name} has shape {table.shape}, wanted ({ROWS}, K)")
    return table


def _cdf(bundle: Bundle, num_levels: int) -> Integers:
    cdf = bundle.pop("cdf")
    if (
        cdf.ndim != 3
        or cdf.shape[:2] != (num_levels, NUM_SIGMAS)
        or not 2 <= cdf.shape[2] <= MAX_SYMBOLS + 1
    ):
        raise BadModel(
            f"cdf has shape {cdf.shape}, wanted ({num_levels}, {NUM_SIGMAS}, 2 to "
            f"{MAX_SYMBOLS + 1})"
        )
    freq = np.diff(cdf.astype(np.int64), axis=2)
    used = np.count_nonzero(freq, axis=2)
    tail = np.arange(freq.shape[2]) >= used[..., None]
    if (
        (cdf[..., 0] != 0).any()
        or (cdf[..., -1] != rans.TOTAL).any()
        or (freq < 0).any()
        or freq[tail].any()
    ):
        raise BadModel("a CDF row does not run from 0 to 2**16, or has a gap")
    if (used % 2 == 0).any() or (used[:, 0] != 1).any():
        raise BadModel("a CDF row has an even number of symbols, or row 0 is not certain")
    return cdf
