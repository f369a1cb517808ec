"""Which model decodes a block: an installed one, else one embedded in the collection."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from codec.collection.source import ByteSource
from codec.errors import BadModel, BitstreamError, ModelNotFound, UsageError
from codec.format.constants import FLAG_EXTENDED, MAX_EXTENSION_BYTES
from codec.format.headers import COLLECTION, unpack_models
from codec.format.primitives import unpack_varint
from codec.model import registry
from codec.model.bundle import Model

FindModel = Callable[[bytes], Model]  # from its hash; raises ModelNotFound, BadModel


def installed(model: str | Path | None) -> FindModel:
    """Finds installed models, and the one of this name or file; None, AUTO: only installed ones.

    Raises ModelNotFound, BadModel, UsageError.
    """
    name = registry.name_or_file(model)
    extra = None if name == registry.AUTO else registry.by_name(name, None)
    return partial(registry.by_hash, extra=extra)


def read_start(source: ByteSource) -> bytes:
    """The header of a collection and its extension area, which starts with its length."""
    start = source.read(0, COLLECTION.size + 5)
    if len(start) > COLLECTION.size and start[2] & FLAG_EXTENDED:
        size, end = unpack_varint(start, COLLECTION.size)
        start = source.read(0, end + min(size, MAX_EXTENSION_BYTES))
    return start


def name_of(model_hash: bytes) -> str | None:
    """Name of an installed model, from its file name; None: it is not installed."""
    path = registry.path_of(model_hash) if model_hash else None
    return registry.name_of(path) if path else None


def latent_shapes_of(models: list[Model]) -> tuple[tuple[int, ...], ...]:
    """The shapes of the latents that models have in common, () of no models.

    Raises UsageError unless it is one lossy model.
    """
    for model in models:
        if not model.latent_shapes:
            raise UsageError(
                f"model {model.name} is {model.kind}, and only lossy streams have latents; "
                "compress with guard=False to keep all images lossy"
            )
    if len(models) > 1:
        raise UsageError(
            f"the images are of models {' and '.join(model.name for model in models)}, whose "
            "latents cannot be compared: compress with one of them"
        )
    return models[0].latent_shapes if models else ()


class Models:
    """Finds the models of a collection, each only once.

    find_model: where to look first. has_header: whether the header of the collection is intact, so
    that its embedded models can be trusted.
    """

    def __init__(self, find_model: FindModel, source: ByteSource, has_header: bool) -> None:
        self._find_model, self._source, self._has_header = find_model, source, has_header
        self._found: dict[bytes, Model] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_found": {}}  # large, and easy to find again

    @property
    def embedded(self) -> list[bytes]:
        """The model files embedded in the collection.  Raises BitstreamError."""
        return unpack_models(read_start(self._source)) if self._has_header else []

    def name_of(self, model_hash: bytes) -> str | None:
        """Name of a model that is installed or embedded; None: it is neither."""
        if name := name_of(model_hash):
            return name
        with contextlib.suppress(BadModel, BitstreamError):
            if stream := self._embedded(model_hash):
                return registry.unpack_model(stream).name
        return None

    def _embedded(self, model_hash: bytes) -> bytes | None:
        return next(
            (s for s in self.embedded if hashlib.sha256(s).digest().startswith(model_hash)), None
        )

    def __call__(self, model_hash: bytes) -> Model:
        """The model of a hash.  Raises ModelNotFound, BadModel."""
        if model_hash not in self._found:
            self._found[model_hash] = self._find(model_hash)
        return self._found[model_hash]

    def _find(self, model_hash: bytes) -> Model:
        try:
            return self._find_model(model_hash)
        except ModelNotFound:
            if stream := self._embedded(model_hash):
                return registry.unpack_model(stream)
            raise
