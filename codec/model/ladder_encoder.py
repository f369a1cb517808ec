"""The encoder of a ladder: the layers that choose its latents.  FORMAT.md 6.5 and 7.4.

It is a separate file, since no decoder needs it: a better one can replace it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codec.arrays import F32, I32
from codec.errors import BadModel, EncoderNotFound
from codec.format.constants import MODEL_HASH_BYTES
from codec.model.bundle import Bundle, read_file, unpack_bundle
from codec.model.ladder_parts import LATENT_MAX, residuals
from codec.model.layers import POSITIONS, Layer, rectified


@dataclass(frozen=True)
class Posterior:
    """Latents of a 7x7 level from e and t."""

    posterior0: Layer
    posterior1: Layer

    def __call__(self, e: F32, t: F32, quality: int) -> I32:
        """-> latents in 256ths, int32 (K, 49, N)."""
        h = rectified(self.posterior0, np.concatenate([e, t]), quality)
        return self.posterior1(h, quality, -LATENT_MAX, LATENT_MAX).astype(np.int32)


class LadderEncoder:
    """The encoder of a lossy model, from its file.  FORMAT.md 6.5 and 7.4.

    stream: the bytes of its file. name, model_hash: of its model; t: channels of the model's
    features; latents: channels of each of its levels. The number of channels of e can be another.
    Raises BadModel, also for the encoder of another model.
    """

    ARCHITECTURE = "ladder-1-encoder"

    def __init__(
        self, stream: bytes, name: str, model_hash: bytes, t: int, latents: list[int]
    ) -> None:
        architecture, tensors, self.card = unpack_bundle(stream)
        if architecture != self.ARCHITECTURE:
            raise BadModel(f"architecture {architecture!r}, wanted {self.ARCHITECTURE!r}")
        of_model, wanted = self.card.get("model_hash"), model_hash.hex()
        if of_model != wanted:
            raise BadModel(f"the encoder of model {of_model}, not of {name}, {wanted}")
        self.stream = stream
        self.hash = hashlib.sha256(stream).digest()[:MODEL_HASH_BYTES]
        bundle = Bundle(tensors)
        self.input = bundle.layer("input", "point")
        self.analysis = residuals(bundle, "analysis")
        self.squeeze = bundle.layer("squeeze", "point")
        self.posterior = [bundle.layer("posterior0", "dense"), bundle.layer("posterior1", "dense")]
        self.levels: list[Posterior] = []
        for i in range(len(latents) - 1):
            names = (f"levels.{i}.posterior0", f"levels.{i}.posterior1")
            self.levels.append(Posterior(*(bundle.layer(each, "point") for each in names)))
        self.multiply_adds = bundle.multiply_adds
        bundle.finish()
        self._check_channels(t, latents)

    def _check_channels(self, t: int, latents: list[int]) -> None:
        """Raise BadModel unless layers fit together, and fit the channels of t and all latents."""
        e, (dense0, dense1) = self.input.outputs, self.posterior
        self.input.check(16)
        for residual in self.analysis:
            residual.check(e)
        self.squeeze.check(e)
        dense0.check(self.squeeze.outputs * POSITIONS)
        dense1.check(dense0.outputs, latents[0])
        for k, level in zip(latents[1:], self.levels, strict=True):
            level.posterior0.check(e + t)
            level.posterior1.check(level.posterior0.outputs, k)


def load_encoder(
    source: bytes | Path | None, name: str, model_hash: bytes, t: int, latents: list[int]
) -> LadderEncoder:
    """The encoder of a model; see `LadderEncoder`.  source: its bytes, its file, or None.

    Raises EncoderNotFound; BadModel, both naming its file.
    """
    try:
        return LadderEncoder(read_encoder(source, name), name, model_hash, t, latents)
    except BadModel as error:
        where = source if isinstance(source, Path) else f"encoder of {name}"
        raise BadModel(f"{where}: {error}") from error


def read_encoder(source: bytes | Path | None, name: str) -> bytes:
    """The bytes of the encoder of a model.  Raises EncoderNotFound, BadModel."""
    if isinstance(source, bytes):
        return source
    if source is None:
        raise EncoderNotFound(f"model {name} came without its encoder: it can only decode")
    try:
        return read_file(source)
    except FileNotFoundError:
        raise EncoderNotFound(
            f"model {name} can only decode: its encoder file, {source.name}, "
            f"is not in {source.parent}"
        ) from None
    except OSError as error:
        raise BadModel(f"{error.strerror}") from error
