"""A stream of one image: six bytes of header, then one message.  FORMAT.md 2."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from codec.arrays import I16, SIDE, U8
from codec.collection.block import Decoded, Use, all_lost
from codec.collection.models import FindModel
from codec.errors import ChecksumMismatch, CorruptPayload
from codec.format.constants import STORED_QUALITY
from codec.format.headers import IMAGE, image_check, unpack_image_header
from codec.model import registry
from codec.model.base import Coder
from codec.model.stored import STORED

QUALITY_AT = 4  # of Quality in the header


class SingleImage:
    """A single image opened for reading, with the same methods as a `Collection`.

    stream: its bytes; num_bytes: its size, if `stream` is only its start. Raises BitstreamError;
    ModelNotFound, BadModel as soon as the model is needed.
    """

    def __init__(self, stream: bytes, find_model: FindModel, num_bytes: int | None = None) -> None:
        self.header, self._payload_at = unpack_image_header(stream)
        self._stream, self._find_model = stream, find_model
        self.num_bytes = len(stream) if num_bytes is None else num_bytes

    def __enter__(self) -> SingleImage:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Do nothing: no file is open."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> U8:
        """The image, of index 0, uint8 (28, 28).  Raises IndexError."""
        self._check_index(index)
        return self.pixels()

    def name(self, index: int) -> str:
        """The name "", as it has none.  Raises IndexError."""
        self._check_index(index)
        return ""

    def _check_index(self, index: int) -> None:
        if index not in (0, -1):
            raise IndexError(f"image {index} of a stream of one image, which is 0")

    @property
    def payload_bytes(self) -> int:
        """Bytes of its message."""
        return self.num_bytes - self._payload_at

    @property
    def codings(self) -> list[tuple[bytes, int]]:
        """Hash of its model, b"" if it is unknown or there is none, and its quality."""
        known = bytes.fromhex(registry.MODEL_IDS.get(self.header.model_id, ""))
        return [(self.header.model_hash or known, self.header.quality)]

    @property
    def is_stored(self) -> bool:
        """Whether the image is kept as it is, without a model."""
        return self.header.quality == STORED_QUALITY

    @property
    def unknown_model(self) -> int | None:
        """The number of its model, if this version does not know it."""
        model_id = self.header.model_id
        return model_id if model_id and model_id not in registry.MODEL_IDS else None

    def uses(self) -> list[Use]:
        """As `Collection.uses`."""
        (model_hash, quality), *_ = self.codings
        return [Use(model_hash, quality, 1, self.payload_bytes)]

    @cached_property
    def model(self) -> Coder:
        """Its model, or `STORED`.  The Check of the stream is verified.

        Raises ChecksumMismatch, CorruptPayload, ModelNotFound, BadModel.
        """
        header = self.header
        if self.is_stored:
            model: Coder = STORED
        elif header.model_hash:
            model = self._find_model(header.model_hash)
        else:
            model = registry.by_id(header.model_id)
        if image_check(model.sha256, self._stream) != header.check:
            found = "the stream is damaged: its Check does not match its bytes"
            raise ChecksumMismatch(found, IMAGE.size - 1)
        model.check_quality(header.quality, QUALITY_AT)
        return model

    @property
    def message(self) -> bytes:
        """The bytes that its model decodes."""
        return self._stream[self._payload_at :]

    def pixels(self) -> U8:
        """The image, uint8 (28, 28).  Raises BitstreamError if anything is damaged."""
        image: U8 = decode_images([self])[0]
        return image

    def salvage(self) -> Iterator[Decoded]:
        """As `Collection.salvage`.  Raises BitstreamError (header), ModelNotFound, BadModel."""
        number = np.zeros(1, np.int64)
        try:
            pixels = self.pixels()[None]
        except (ChecksumMismatch, CorruptPayload) as error:
            yield all_lost(number, error)
        else:
            yield Decoded(images=number, lost=np.zeros(1, np.bool_), pixels=pixels)

    @property
    def latent_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of its latents, level by level; () if it has none."""
        return self.model.latent_shapes

    def latents(self) -> I16:
        """Its latents, int16 (K,).  Raises UsageError if it has none."""
        _, latents, damaged = self.model.decode_latents(
            [self.message], 1, self.header.quality, group=1
        )
        if damaged.any():
            raise self.damaged
        row: I16 = latents[0]
        return row

    @property
    def damaged(self) -> CorruptPayload:
        """The error of a damaged payload."""
        return CorruptPayload("the payload does not decode to what was encoded", self._payload_at)


def decode_images(images: Sequence[SingleImage]) -> U8:
    """-> uint8 (N, 28, 28); images of one model and quality are decoded as one batch.

    Raises what `SingleImage.pixels` raises, for the first one that is at fault.
    """
    pixels = np.empty((len(images), SIDE, SIDE), np.uint8)
    together: dict[tuple[bytes, int], list[int]] = {}
    for i, image in enumerate(images):
        together.setdefault((image.model.sha256, image.header.quality), []).append(i)
    for (_, quality), numbers in together.items():
        messages = [images[i].message for i in numbers]
        model = images[numbers[0]].model
        decoded, damaged = model.decode(messages, len(messages), quality, group=1)
        if damaged.any():
            raise images[numbers[int(np.argmax(damaged))]].damaged
        pixels[numbers] = decoded
    return pixels
