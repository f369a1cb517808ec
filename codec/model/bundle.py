"""Model files: safetensors of integers with a card, and the base class of models.

FORMAT.md 7.
"""

from __future__ import annotations

import hashlib
import json
import struct
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import safetensors
import safetensors.numpy

from codec.arrays import U8, Integers
from codec.errors import BadModel
from codec.format.constants import MAX_MODEL_BYTES
from codec.model.base import Coder
from codec.model.layers import ACTIVATION_MAX, Layer

# The types that a tensor can have, by the last part of its name; all others are int32.
DTYPES = {"weight": (np.int8, np.int16), "table": (np.int16,)}


class Bundle:
    """The tensors of a file, each of which must be taken exactly once.

    multiply_adds: of one image, in all layers that were taken so far.
    """

    def __init__(self, tensors: dict[str, Integers]) -> None:
        self._tensors = tensors
        self._names = sorted(tensors)
        self.multiply_adds = 0

    def pop(self, name: str, shape: tuple[int, ...] | None = None) -> Integers:
        """The tensor of a name.  Raises BadModel if it is missing, or not of the `shape` wanted."""
        if name not in self._tensors:
            raise BadModel(f"tensor {name} is missing")
        tensor = self._tensors.pop(name)
        if shape is not None and tensor.shape != shape:
            raise BadModel(f"{name} has shape {tensor.shape}, wanted {shape}")
        return tensor

    def count(self, prefix: str) -> int:
        """How many numbered layers, or groups of layers, have names below `prefix`."""
        depth = prefix.count(".") + 1
        return len({n.split(".")[depth] for n in self._names if n.startswith(f"{prefix}.")})

    def layer(self, name: str, kind: str, input_max: int = ACTIVATION_MAX) -> Layer:
        """The layer of a name, made of its four tensors.  Raises BadModel."""
        parts = [self.pop(f"{name}.{part}") for part in ("weight", "bias", "shift", "multiplier")]
        layer = Layer(name, kind, *parts, input_max=input_max)
        self.multiply_adds += layer.multiply_adds
        return layer

    def finish(self) -> None:
        """Raise BadModel if a tensor is left."""
        if self._tensors:
            raise BadModel(f"unknown tensor {min(self._tensors)}")


class Model(Coder):
    """A coder made from a model file.  After construction only caches change.

    stream: the bytes of a safetensors file. encoder: of a lossy model, the bytes of its encoder
    file, or the file, which is read when something is encoded; None: it can only decode. Raises
    BadModel.
    """

    ARCHITECTURE: ClassVar[str]

    def __init__(self, stream: bytes, encoder: bytes | Path | None = None) -> None:
        architecture, tensors, self.card = unpack_bundle(stream)
        if architecture != self.ARCHITECTURE:
            raise BadModel(f"architecture {architecture!r}, wanted {self.ARCHITECTURE!r}")
        self.name = str(self.card["name"])
        self.stream = stream
        self.sha256 = hashlib.sha256(stream).digest()
        self.num_bytes = len(stream)
        self._encoder_source = encoder
        bundle = Bundle(tensors)
        self._take(bundle)
        bundle.finish()

    def __reduce__(self) -> tuple[type[Model], tuple[bytes, bytes | Path | None]]:
        # Pickled as its files, which are far smaller than its arrays.
        return type(self), (self.stream, self._encoder_source)

    @abstractmethod
    def _take(self, bundle: Bundle) -> None:
        """Make layers and tables from the bundle.  Raises BadModel."""

    @property
    def encoder_stream(self) -> bytes | None:
        """The bytes of its encoder file; None: it needs none.  Raises EncoderNotFound, BadModel."""
        return None

    @property
    def encoder_hash(self) -> bytes | None:
        """The hash of its encoder file, as `hash`; None: it has none.  Raises BadModel."""
        return None

    @property
    def figures(self) -> dict[str, Any]:
        """See Coder."""
        figures = self.card.get("figures")
        return figures if isinstance(figures, dict) else {}

    @abstractmethod
    def multiply_adds(self, pixels: U8) -> tuple[float, float]:
        """Multiply-adds an image to encode uint8 (N, 28, 28) at effort 1, and to decode them."""


def read_file(path: Path) -> bytes:
    """The bytes of a model file, at most one more than is allowed.  Raises OSError."""
    with path.open("rb") as file:
        return file.read(MAX_MODEL_BYTES + 1)


_MALFORMED = (
    safetensors.SafetensorError,
    ValueError,
    KeyError,
    TypeError,
    struct.error,
    RecursionError,
)


@contextmanager
def _bad_model() -> Iterator[None]:
    """Turn errors of a malformed bundle into BadModel."""
    try:
        yield
    except _MALFORMED as error:
        raise BadModel(f"not a model file: {type(error).__name__}: {error}") from error


def _metadata(stream: bytes) -> dict[str, Any]:
    (header_bytes,) = struct.unpack_from("<Q", stream)
    metadata: dict[str, Any] = json.loads(stream[8 : 8 + header_bytes])["__metadata__"]
    return metadata


def architecture_of(stream: bytes) -> str:
    """The architecture that a bundle names; its tensors are not read.  Raises BadModel."""
    with _bad_model():
        return str(_metadata(stream)["architecture"])


def unpack_bundle(stream: bytes) -> tuple[str, dict[str, Integers], dict[str, Any]]:
    """safetensors bytes -> architecture, integer tensors by name, model card.

    Raises BadModel for anything but a well-formed bundle.
    """
    with _bad_model():
        tensors = safetensors.numpy.load(stream)
        metadata = _metadata(stream)
        architecture, card = metadata["architecture"], json.loads(metadata["card"])
        name = card["name"]
    if not isinstance(name, str):
        raise BadModel(f"the model's name is {name!r}, not a text")
    for key, tensor in tensors.items():
        wanted = DTYPES.get(key.rsplit(".", 1)[-1], (np.int32,))
        if tensor.dtype not in wanted:
            types = " or ".join(np.dtype(each).name for each in wanted)
            raise BadModel(f"tensor {key} is {tensor.dtype}, wanted {types}")
    return architecture, tensors, card
