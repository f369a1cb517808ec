"""border: the names of before; goes when commands, measure and their tests have landed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from codec.arrays import PIXELS, U8, Bools
from codec.coding.lanes import Encoded
from codec.collection.block import Block, Decoded
from codec.errors import BitstreamError, CorruptPayload, UsageError
from codec.format import block as format_block
from codec.format.headers import BlockHeader
from codec.format.index import Part
from codec.model.bundle import BaseModel
from codec.model.pixels import stored_image


@dataclass
class DecodedBlock:
    first: int
    count: int
    pixels: U8 | None
    names: list[str] = field(default_factory=list)
    error: BitstreamError | None = None
    is_single: bool = False
    lost: list[int] = field(default_factory=list)


def as_block(decoded: Decoded, is_single: bool = False, first: int = 0) -> DecodedBlock:
    count = len(decoded.images)
    return DecodedBlock(
        int(decoded.images[0]) if count else first,
        count,
        None if decoded.lost.all() else decoded.pixels,
        decoded.names,
        decoded.fault,
        is_single,
        np.flatnonzero(decoded.lost).tolist(),
    )


@dataclass(frozen=True)
class Place:
    offset: int
    first: int
    images: int
    size: int


def pack_block(
    model: BaseModel, pixels: U8, quality: int, names: list[str] | None, effort: int = 1
) -> tuple[bytes, Encoded]:
    encoded = model.encode(pixels, quality, effort=effort)
    part = Part(model.hash, quality, np.arange(len(pixels)))
    return format_block.pack_block([(part, encoded.messages)], names), encoded


class OldCollection:
    """The methods of before."""

    def _at(self: Any, place: Place) -> Block:
        block: Block = self._block(place.offset, place.first, place.images, place.size)
        return block

    def places(self: Any) -> Iterator[Place]:
        for b in self.intact_blocks():
            yield Place(b.offset, b.first, b.count, b.size)

    def header_at(self, place: Place) -> BlockHeader:
        return self._at(place).header

    def headers(self: Any) -> Iterator[BlockHeader]:
        return (block.header for block in self.blocks)

    def parts(self: Any, block: int) -> list[Part]:
        found: list[Part] = self.blocks[block].parts
        return found

    def names_or_numbers(self, place: Place) -> list[str]:
        return self._at(place).names_or_numbers()

    def read_block(self, place: Place) -> tuple[BlockHeader, bytes]:
        block = self._at(place)
        found = block.read()
        return block.header, found

    def decode_block(self, place: Place) -> DecodedBlock:
        return as_block(self._at(place).salvage(), first=place.first)

    def decode_blocks(self: Any) -> Iterator[DecodedBlock]:
        end = 0
        for decoded in self.salvage():
            yield (block := as_block(decoded, first=end))
            end = block.first + block.count


class Stored:
    """Until there is codec.model.stored: images as they are."""

    name, kind, sha256 = "stored", "lossless", b""
    latent_shapes: tuple[tuple[int, ...], ...] = ()

    def check_quality(self, quality: int, offset: int) -> None:
        pass

    def decode(
        self, messages: list[bytes], count: int, quality: int, *, group: int | None = None
    ) -> tuple[U8, Bools]:
        pixels, damaged = np.zeros((count, 28, 28), np.uint8), np.zeros(count, np.bool_)
        for i, message in enumerate(messages):
            try:
                if len(message) > PIXELS:
                    raise CorruptPayload("too long")
                pixels[i] = stored_image(message)
            except CorruptPayload:
                damaged[i] = True
        return pixels, damaged

    def decode_latents(self, *args: Any, **options: Any) -> Any:
        raise UsageError("a stored image has no latents: those are what a lossy stream has")
