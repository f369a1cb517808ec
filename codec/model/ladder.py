"""The lossy coder: a ladder of latents, all in exact integers.  FORMAT.md 5 to 7.

Signal path (numbers of channels are the bundle's; every arrow is a `layers.Layer`, every t is (C,
49, N)):

    pixels ──► analysis ──► e ──────────┬─────────────────────┬── ... (encoder only)
               (stage)      │           │ posterior           │ posterior
                            ▼ posterior ▼                     ▼
                       y: dense     y: 7x7 level          y: 7x7 level
                            │           │   ▲                 │   ▲
               round(y - mean) = symbols ──►│ rANS by (mean, row) │ ──► messages
                            │           │   │ prior           │   │ prior
                            ▼           ▼   │                 ▼   │
                   start ──► t ──► stage ───┴─► t + merge ──► stage ───┴─► ... ─► output ─► pixels

READ ME FIRST
- Encoder and decoder run the same `Ladder.synthesis`, a generator: it yields the prior of one level
  (means and rows of the CDF table), receives that level's latents, and continues. The two differ
  only in where the latents come from.
- Latents and means are integers in 256ths of a quantization step; a symbol is a whole number of
  steps from the mean.
- Row 0 of every CDF table is certain: its symbol is 0 and is not coded at all. That holds for most
  latents of most images, which makes low rates cheap and fast.
- Quality selects rows of integer tables (FiLM shifts and multipliers, dequantizers); there is one
  network.
- The layers that choose the latents are a `LadderEncoder`, a separate file, which is loaded when
  something is encoded for the first time.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from codec.arrays import F32, I16, I32, I64, U8, Bools, Integers
from codec.coding.lanes import by, checks
from codec.coding.signed import to_codes
from codec.errors import BadModel, EncoderNotFound, ModelError
from codec.format.constants import group_images
from codec.kernels import active as native_kernels
from codec.model import bundle as bundles
from codec.model import ladder_search
from codec.model.bundle import Bundle
from codec.model.ladder_encoder import LadderEncoder, load_encoder, read_encoder
from codec.model.ladder_native import NativeLadder
from codec.model.ladder_parts import (
    DEQUANTIZED_MAX,
    LATENT_MAX,
    NUM_SIGMAS,
    PIXEL_UNIT,
    Dequantizer,
    level_of,
    log2_lmbda,
    patches,
    residuals,
    table_of,
    unpatches,
)
from codec.model.ladder_symbols import LadderSymbols, SymbolCoder, residuals_of, tables_of
from codec.model.layers import GRID, POSITIONS, Trace, add, clipped, interpolate, rectified
from codec.parallel import in_threads, num_cores, one_blas_thread

# Decoded as one batch by numpy. 4,096 would take 95 MB more, and save 4 % of the time. No byte
# depends on it.
BATCH_IMAGES = 2048
CORE_IMAGES = 48  # the batch of one core: its features fit the cache

Prior = tuple[I32, I32, F32]  # means (K, ...), rows (K, ...), features t


class Ladder(bundles.Model):
    """The lossy coder: a ladder of latents.  See Coder.

    Its qualities are 0..MAX_QUALITY.
    """

    ARCHITECTURE = "ladder-1"
    LIMITS = LATENT_MAX, NUM_SIGMAS - 1  # of latents and means; of rows of the CDF table
    lossless = False

    def _take(self, bundle: Bundle) -> None:
        self._encoder: LadderEncoder | None = None
        self._encoder_lock = threading.Lock()
        first = bundle.layer("start0", "dense", DEQUANTIZED_MAX)
        self._start = [first, bundle.layer("start1", "dense")]
        self._widen, self._output = bundle.layer("widen", "point"), bundle.layer("output", "point")
        self._synthesis = [
            residuals(bundle, f"synthesis.{i}") for i in range(bundle.count("synthesis"))
        ]
        self._levels = [level_of(bundle, f"levels.{i}") for i in range(bundle.count("levels"))]
        if len(self._synthesis) != len(self._levels) + 1:
            found = f"{len(self._levels)} levels in {len(self._synthesis)} stages of synthesis"
            raise BadModel(found)
        self._prior_mean = table_of(bundle, "prior_mean")
        self._prior_sigma = table_of(bundle, "prior_sigma")
        self._multiply_adds = bundle.multiply_adds
        # means and rows, (K, 1), of the qualities used so far
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
        self.tables = tables_of(bundle, 1 + len(self._levels))
        self._coder = SymbolCoder(self.tables)

    def _check_channels(self) -> None:
        """Raise BadModel unless the output of every layer is what the next one takes."""
        c, k = self.channels, self._dequantize.channels
        for table in (self._prior_mean, self._prior_sigma):
            if table.shape[1] != k:
                raise BadModel(
                    f"a prior of {table.shape[1]} dense latents, wanted {k}: "
                    "the layers do not fit together"
                )
        self._start[0].check(k)
        self._start[1].check(self._start[0].outputs, self._widen.inputs * POSITIONS)
        for stage in self._synthesis:
            for residual in stage:
                residual.check(c)
        for level in self._levels:
            level.check(c)
        self._output.check(c, 16)

    @property
    def channels(self) -> int:
        """Channels of the features t."""
        return self._widen.outputs

    @property
    def encoder(self) -> LadderEncoder:
        """Its encoder, loaded when first used.  Raises EncoderNotFound, BadModel (naming it)."""
        with self._encoder_lock:
            if self._encoder is None:
                latents = [shape[0] for shape in self.latent_shapes]
                self._encoder = load_encoder(
                    self._encoder_source, self.name, self.hash, self.channels, latents
                )
            return self._encoder

    @property
    def encoder_stream(self) -> bytes:
        """See Model."""
        return self.encoder.stream

    @property
    def encoder_hash(self) -> bytes | None:
        """See Model."""
        try:
            return self.encoder.hash
        except EncoderNotFound:
            return None

    @property
    def figures(self) -> dict[str, Any]:
        """See Model: those of the encoder, if its card has some, as it may be newer."""
        try:
            figures = self.encoder.card.get("figures")
        except EncoderNotFound:
            figures = None
        return figures if isinstance(figures, dict) else super().figures

    def __reduce__(self) -> tuple[type[bundles.Model], tuple[bytes, bytes | Path | None]]:
        # With the bytes of its encoder, as the other process may be on another machine.
        try:
            return type(self), (self.stream, read_encoder(self._encoder_source, self.name))
        except ModelError:
            return super().__reduce__()

    def transforms(self) -> Any:
        """Computes `analysis`, `synthesis`, `backward`, `posterior_of`: kernels or this class."""
        kernels = native_kernels()
        if kernels is None:
            return self
        name = kernels.instruction_set
        return self._native.get(name) or self._native.setdefault(name, NativeLadder(self, kernels))

    def analysis(self, pixels: U8, quality: int) -> F32:
        """pixels uint8 (N, 28, 28) -> features e (C, 49, N)."""
        encoder = self.encoder
        e = clipped(encoder.input, patches(pixels), quality)
        for residual in encoder.analysis:
            e = residual(e, quality)
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
        """Yield (means, rows, features) of each level, receive its latents in 256ths, return the
        pixels, uint8 (N, 28, 28).
        """
        k = self._dequantize.channels
        mean, row = (np.repeat(prior, n, axis=1) for prior in self.dense_prior(quality))
        y = yield mean, row, np.empty((k, n), np.float32)
        h = rectified(self._start[0], self._dequantize(y, quality, trace), quality, trace)
        h = rectified(self._start[1], h, quality, trace)
        t = clipped(self._widen, h.reshape(-1, POSITIONS, n), quality, trace)
        for i, stage in enumerate(self._synthesis):
            for residual in stage:
                t = residual(t, quality, trace)
            if i < len(self._levels):
                level = self._levels[i]
                y = yield *level.prior(t, quality, trace), t
                x = level.dequantize(y, quality, trace)
                add(t, clipped(level.merge, x, quality, trace), trace)
        return unpatches(self._output(t, quality, 0, 255))

    def backward(self, g_pixels: F32, g_rows: list[F32], quality: int, trace: Trace) -> list[F32]:
        """Gradients of a cost by the decoded pixels and by the rows of each 7x7 level -> gradients
        by the latents of each level.

        g_pixels: (N, 28, 28); trace: from `synthesis`, used up here. Symbols stay fixed: latents of
        a level move with their means, which depend on the latents above. Rounding is ignored.
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
            for residual in reversed(self._synthesis[i]):
                g = residual.backward(g, quality, trace)
        h = self._widen.transposed(g * trace.pop(), quality).reshape(-1, g.shape[2])
        h = self._start[1].transposed(h * trace.pop(), quality)
        h = self._start[0].transposed(h * trace.pop(), quality)
        return [self._dequantize.backward(h, quality, trace), *reversed(g_levels)]

    def posterior_of(self, i: int, e: F32, t: F32, quality: int) -> I32:
        """Latents of level i by the encoder: int32 (K, 49, N), of the dense level (K, N)."""
        encoder = self.encoder
        if i:
            return encoder.levels[i - 1](e, t, quality)
        h = rectified(encoder.squeeze, e, quality).reshape(-1, e.shape[2])
        h = rectified(encoder.posterior[0], h, quality)
        return encoder.posterior[1](h, quality, -LATENT_MAX, LATENT_MAX).astype(np.int32)

    def quantize(self, pixels: U8, quality: int) -> tuple[list[I32], list[I32], U8]:
        """uint8 (N, 28, 28) -> symbols and rows, int32 (S, N) for each level; decoded pixels."""
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

    def analyze(self, pixels: U8, quality: int | Integers, effort: int = 1) -> LadderSymbols:
        """See Coder.  Images of one quality go through the network together."""
        qualities = np.broadcast_to(quality, len(pixels))
        most = _batch_of_a_core(len(pixels))
        batches: list[I64] = []
        for _, images in by(qualities):
            batches += np.array_split(images, -(-len(images) // most))
        batches.sort(key=len, reverse=True)  # the smallest last: all cores end at the same time
        analyzed = in_threads(
            lambda some: self._analyze(pixels[some], int(qualities[some[0]]), effort), batches
        )
        found = LadderSymbols.join(list(analyzed))
        return found.of(np.argsort(np.concatenate(batches))) if np.ndim(quality) else found

    def _analyze(self, pixels: U8, quality: int, effort: int) -> LadderSymbols:
        """The symbols of a batch, at one quality."""
        net, n = self.transforms(), len(pixels)
        flips, rounds = ladder_search.EFFORTS[effort - 1]
        e = net.analysis(pixels, quality)
        found = ladder_search.Attempt(net, self._bits, e, n, quality)
        search = ladder_search.Search(net, self._bits, pixels, quality, 2.0 ** log2_lmbda(quality))
        if flips:
            search.flip(found, e, flips)
        symbols, rows, decoded = found.flat_symbols, found.flat_rows, found.pixels
        if rounds:
            symbols, rows, decoded = search.refine(symbols, rounds)
        first_row = np.repeat(
            [NUM_SIGMAS * level for level in range(len(found.rows))],
            [x.size // n for x in found.rows],
        )
        rows = np.where(rows, rows + first_row[:, None], 0)
        return LadderSymbols(to_codes(symbols).astype(np.uint8), rows.astype(np.int16), decoded)

    def pack(self, symbols: LadderSymbols, group: int) -> list[bytes]:
        """See Coder."""
        return self.pack_parts([symbols], group)[0]

    def pack_parts(self, parts: list[LadderSymbols], group: int) -> list[list[bytes]]:
        """See Coder."""
        return self._coder.pack_parts(parts, group)

    def ideal_bits(self, symbols: LadderSymbols) -> float:
        """See Coder."""
        return self._coder.ideal_bits(symbols)

    def decode(
        self, messages: list[bytes], count: int, quality: int, *, group: int | None = None
    ) -> tuple[U8, Bools]:
        """See Coder."""
        pixels, bad, _ = self._decode(
            messages, count, quality, group or group_images(quality), latents=False
        )
        return pixels, bad

    def multiply_adds(self, pixels: U8) -> tuple[float, float]:
        """See Model: all layers of the synthesis, and for encoding also those of the encoder."""
        decode = self._multiply_adds
        return decode + self.encoder.multiply_adds, decode

    @property
    def latent_shapes(self) -> tuple[tuple[int, ...], ...]:
        """See Coder: (K,), then (K, 7, 7) for each 7x7 level."""
        return (
            (self._dequantize.channels,),
            *((level.dequantize.channels, GRID, GRID) for level in self._levels),
        )

    def decode_latents(
        self, messages: list[bytes], count: int, quality: int, *, group: int | None = None
    ) -> tuple[U8, I16, Bools]:
        """See Coder."""
        pixels, bad, latents = self._decode(
            messages, count, quality, group or group_images(quality), latents=True
        )
        return pixels, latents, bad

    def _decode(
        self, messages: list[bytes], count: int, quality: int, group: int, *, latents: bool
    ) -> tuple[U8, Bools, I16]:
        """-> pixels, which messages are damaged, dequantized latents int16 (N, K), or (N, 0) if
        they are not wanted.

        numpy's coder needs many lanes at once, so it gets large batches, whose networks share the
        cores. The native coder does not: there each core decodes small batches.
        """
        most = BATCH_IMAGES if native_kernels() is None else _batch_of_a_core(count)
        size = max(most // group, 1)  # messages
        starts = range(0, -(-count // group), size)

        def decode(at: int) -> tuple[U8, Bools, I16]:
            images = min(size * group, count - at * group)
            return self._decode_batch(messages[at : at + size], images, quality, group, latents)

        if native_kernels() is None:
            with one_blas_thread():
                batches = [decode(at) for at in starts]
        else:
            batches = list(in_threads(decode, list(starts)))
        pixels, bad, found = zip(*batches, strict=True)
        return np.concatenate(pixels), np.concatenate(bad), np.concatenate(found)

    def _decode_batch(
        self, messages: list[bytes], count: int, quality: int, group: int, latents: bool
    ) -> tuple[U8, Bools, I16]:
        starts = range(0, count, CORE_IMAGES)
        networks = [
            self.transforms().synthesis(quality, min(CORE_IMAGES, count - at)) for at in starts
        ]
        priors = list(in_threads(next, networks))
        decoder = self._coder.decoder(messages, group)

        def send(network: Generator[Prior, I32, U8], y: I32) -> Any:
            try:
                return network.send(y)
            except StopIteration as stop:
                return stop.value

        dequantized = [np.empty((count, 0), np.int16)]
        dequantizers = [self._dequantize, *(level.dequantize for level in self._levels)]
        for table, dequantize in zip(self.tables, dequantizers, strict=True):
            rows = [row.reshape(-1, row.shape[-1]) for _, row, _ in priors]
            codes = decoder.decode(table, np.concatenate(rows, axis=1))
            ys = [
                residuals_of(codes[:, at : at + CORE_IMAGES]).reshape(mean.shape) + mean
                for at, (mean, _, _) in zip(starts, priors, strict=True)
            ]
            if latents:
                x = np.concatenate([dequantize(y, quality) for y in ys], axis=-1)
                dequantized.append(x.reshape(-1, count).T.astype(np.int16))
            # After the last level these are not priors but the pixels.
            pairs = list(zip(networks, ys, strict=True))
            priors = list(in_threads(lambda pair: send(*pair), pairs))
        pixels: U8 = np.concatenate(priors)
        state, used_up = decoder.finish()
        damaged = (state != checks(pixels, group)) | ~used_up
        return pixels, damaged, np.concatenate(dequantized, axis=1)


def _batch_of_a_core(count: int) -> int:
    """How many images one core works on at a time: fewer than CORE_IMAGES if that leaves no core
    without work.
    """
    return min(CORE_IMAGES, -(-count // num_cores()))
