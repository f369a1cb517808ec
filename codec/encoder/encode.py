"""Images -> streams and blocks.

encoder = Encoder(Options.of(quality=75))
encoder.images(pixels)                  # each image becomes a stream
encoder.block(pixels, names, labels)    # all of them become one block of a collection
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from codec.arrays import I64, U8, Bools
from codec.encoder.choose import SAMPLING, Sampling, choose, code, guard, meet
from codec.encoder.draft import Draft, pack
from codec.encoder.options import Options
from codec.encoder.scale import coding_of
from codec.encoder.stats import MAX_LISTED, CompressStats
from codec.errors import ImageError, ModelNotFound, UsageError
from codec.format import headers, index
from codec.format.block import pack_block
from codec.format.constants import (
    LOSSLESS_QUALITY,
    MAX_EXTENSION_BYTES,
    MAX_QUALITY,
    STORED_QUALITY,
)
from codec.format.headers import ImageHeader
from codec.labels import Labels
from codec.model import registry
from codec.model.base import Coder
from codec.model.bundle import Model
from codec.model.stored import MIN_STORED_BYTES, STORED


class Packed(NamedTuple):
    """A stream or a block, and its figures; `stats.bytes_out` is the length of `data`."""

    data: bytes
    stats: CompressStats


class Encoder:
    """Encodes with some options.

    models: the models to choose from, all lossy or all lossless; by default the one that the
    options name, or all shipped ones for AUTO. Raises ModelNotFound, BadModel; UsageError for a
    model of the wrong kind.
    """

    def __init__(
        self,
        options: Options,
        models: Sequence[Model] | None = None,
        sampling: Sampling = SAMPLING,
    ) -> None:
        self.options, self._sampling = options, sampling
        self.models = candidates(options) if models is None else list(models)

    def images(self, pixels: U8) -> list[Packed | ImageError]:
        """uint8 (N, 28, 28) -> a single-image stream of each image, or why there is none."""
        if not len(pixels):
            return []
        draft = self._draft(pixels, as_block=False)
        fell_back = self._fell_back(draft)
        found: dict[int, Packed | ImageError] = {
            i: ImageError(reason) for i, reason in draft.refused.items()
        }
        for part in pack(draft, group=1):
            for i, message in zip(part.images.tolist(), part.messages, strict=True):
                error, fell = draft.squared_error[i : i + 1], bool(fell_back[i])
                packed = _single(part.coder, part.quality, error, message, fell)
                # a lossless model can take more bytes than storing
                if part.coder.lossless and len(packed.data) > _LEAST_STORED:
                    packed = min(packed, _stored(pixels[i], fell), key=lambda one: len(one.data))
                found[i] = packed
        return [found[i] for i in range(len(pixels))]

    def block(
        self, pixels: U8, names: list[str] | None = None, labels: Labels | None = None
    ) -> Packed:
        """uint8 (N, 28, 28), N >= 1 -> a block.  names, labels: checked, one for each image.

        Raises ImageError, naming an image that cannot be coded as wanted.
        """
        draft = self._draft(pixels, as_block=True)
        for i in np.flatnonzero(draft.quality == STORED_QUALITY).tolist():
            draft.refused[i] = (
                "only lossless would be good enough, but no lossless model is installed"
            )
        for i, reason in sorted(draft.refused.items()):
            raise ImageError(f"{names[i] if names else f'image {i}'}: {reason}")
        fell_back = self._fell_back(draft)
        stats, parts = CompressStats(), []
        for part in pack(draft):
            images = part.images
            parts.append((index.Part(part.coder.hash, part.quality, images), part.messages))
            stats += CompressStats.of(
                part.coder.name,
                part.quality,
                draft.squared_error[images],
                sum(map(len, part.messages)),
                int(np.count_nonzero(fell_back[images])),
            )
        block = pack_block(parts, names, labels)
        stats.bytes_out = len(block)
        stats.fallback_images = np.flatnonzero(fell_back)[:MAX_LISTED].tolist()
        return Packed(block, stats)

    def model_files(self) -> list[bytes]:
        """The files of the models, to embed them in a collection.

        Raises UsageError if they are too large for its header, or if other models may be used.
        """
        self.options.check_embedding()
        quality = self.options.quality
        near = [m.name for m in self.models if quality <= MAX_QUALITY < coding_of(m, quality)]
        exact = self._exact() if near else []
        partners = [m for m in exact if m.name.removesuffix(registry.LOSSLESS) in near]
        files = [model.stream for model in (*self.models, *partners)]
        size = sum(map(len, files))
        if size + 8 * len(files) + 8 > MAX_EXTENSION_BYTES:
            raise UsageError(
                f"models of {size} bytes together are too large to embed: choose one of them"
            )
        return files

    def _draft(self, pixels: U8, *, as_block: bool) -> Draft:
        """Decide how uint8 (N, 28, 28), N >= 1, are coded."""
        options, goal = self.options, self.options.goal
        draft = Draft.blank(pixels, list(self.models))
        quality = options.quality if goal is None else goal.first_quality(self.models)
        effort = options.effort
        seen = choose(draft, quality, effort, as_block=as_block, sampling=self._sampling)
        if goal is not None:
            meet(draft, goal, quality, effort, seen, self._exact)
            return draft
        code(draft, quality, effort, seen, self._exact)
        if options.guard and not options.by_pixels:
            guard(draft, quality, effort, self._exact)
        return draft

    def _fell_back(self, draft: Draft) -> Bools:
        """Which images fell back: to another quality, or, if there is a goal, to lossless."""
        if self.options.goal is not None:
            return np.isin(draft.quality, (LOSSLESS_QUALITY, STORED_QUALITY))
        return np.asarray(draft.quality != draft.planned)

    def _exact(self) -> list[Model]:
        """The lossless models that replace lossy ones: all shipped ones, and those with the names
        of the lossy ones; [] if there is none.
        """
        return self._exact_models

    @cached_property
    def _exact_models(self) -> list[Model]:
        found: list[Model] = []
        with contextlib.suppress(ModelNotFound):
            found += registry.shipped(lossless=True)
        for model in self.models:
            with contextlib.suppress(ModelNotFound):
                found.append(registry.by_name(model.name + registry.LOSSLESS, lossless=True))
        return list({model.hash: model for model in found}.values())


def candidates(options: Options) -> list[Model]:
    """The models that an encoder with these options chooses from: see `Encoder`."""
    if options.model == registry.AUTO:
        return registry.shipped(options.by_pixels)
    return [registry.by_name(options.model, options.by_pixels)]


# The size of the smallest stored image, as a stream.
_LEAST_STORED = headers.IMAGE.size + MIN_STORED_BYTES


def _single(
    coder: Coder, quality: int, squared_error: I64, message: bytes, fell_back: bool
) -> Packed:
    """One image as a stream of its own.  squared_error: (1,)."""
    model_id = registry.id_of(coder)
    header = ImageHeader(model_id, quality, model_hash=b"" if model_id else coder.hash)
    stream = headers.pack_image(header, message, coder.sha256)
    stats = CompressStats.of(coder.name, quality, squared_error, len(message), int(fell_back))
    stats.bytes_out, stats.fallback_images = len(stream), [0] * fell_back
    return Packed(stream, stats)


def _stored(pixels: U8, fell_back: bool) -> Packed:
    """One image (28, 28) as a stored one."""
    symbols = STORED.analyze(pixels[None], STORED_QUALITY)
    (message,) = STORED.pack(symbols)
    return _single(STORED, STORED_QUALITY, np.zeros(1, np.int64), message, fell_back)
