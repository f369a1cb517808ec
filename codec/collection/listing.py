"""What the images of a stream are, one by one, from headers, names and index: no pixel is decoded.

    for entry in entries_of_block(block, names, name_of):    # of a collection
        entry.number, entry.name, entry.label, entry.model, entry.quality, entry.bytes

Images are coded in groups, so the bytes of an image are its share of its group's message. All
shares together are `payload_bytes`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from codec.collection.block import Block
from codec.collection.single import SingleImage
from codec.labels import Labels, one_by_one

NameOf = Callable[[bytes], str]  # what to call the model of a hash


class Entry(NamedTuple):
    """One image.  name, label: None if there is none; model: its name, None if it is stored."""

    number: int
    name: str | None
    label: int | str | None
    model: str | None
    quality: int
    bytes: float


def entries_of_block(
    block: Block, names: Sequence[str], labels: Labels | None, name_of: NameOf
) -> list[Entry]:
    """The images of a block.  names: one each, or none.  Raises BitstreamError."""
    parts = block.parts
    codings = [(name_of(part.model_hash), part.quality) for part in parts]
    part_of = np.zeros(block.count, np.int64)
    for k, part in enumerate(parts[1:], 1):
        part_of[part.images] = k
    coded = [codings[k] for k in part_of.tolist()]
    called: Sequence[str | None] = names or [None] * block.count
    labelled: Sequence[int | str | None] = (
        [None] * block.count if labels is None else one_by_one(labels)
    )
    return [
        Entry(number, name, label, model, quality, size)
        for number, name, label, (model, quality), size in zip(
            range(block.first, block.first + block.count),
            called,
            labelled,
            coded,
            block.index.shares().tolist(),
            strict=True,
        )
    ]


def entry_of_image(image: SingleImage, name_of: NameOf) -> Entry:
    """The one image of a stream that is not a collection."""
    (model_hash, quality), *_ = image.codings
    model = None if image.is_stored else name_of(model_hash)
    return Entry(0, None, None, model, quality, float(image.payload_bytes))
