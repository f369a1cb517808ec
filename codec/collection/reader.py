"""Many images in one file: random access, names, labels.  FORMAT.md 3, 4 and 9.

READ ME FIRST
- A collection is a header, blocks, a footer. A block names its model, quality and sizes, so blocks
  are copied between collections unchanged, and damage to one does not affect the others.
- A group of neighbours shares one coder state (`constants.group_images` says how many); it is the
  unit of random access and of damage.
- Nothing is read before it is needed: for an image, the header and index of its block and the
  message of its group; for a name or label, the names or labels of its block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any, overload

import numpy as np

from codec.arrays import I16, I64, SIDE, U8, Integers, distinct
from codec.collection import salvage
from codec.collection.block import Block, Decoded, Use, all_lost
from codec.collection.memory import NameIndex, Recent
from codec.collection.models import FindModel, Models, latent_shapes_of, read_start
from codec.collection.picking import integer, no_image
from codec.collection.source import ByteSource, Source
from codec.errors import BitstreamError, UsageError
from codec.format.headers import is_intact, unpack_collection_header
from codec.labels import Labels, joined, kind_of, picked

KEPT_NAMES = 4  # blocks whose names, and labels, stay in memory
# decoded groups that stay in memory, 12.5 KB each: the next image is often a neighbour
KEPT_GROUPS = 64


class Collection:
    """A collection opened for reading: `len`, indexing by integer, slice or list, iteration,
    `names`, `find`, `labels`.

    source: path or URL, bytes, or seekable binary file. Headers are read when first needed; an
    image is decoded only with the others of its group. Threads can share it; if it was opened from
    a path, forked processes can too, and it can be pickled. recover: treat a damaged header as a
    `fault` if a footer or a block shows that this is a collection. kept_groups: how many decoded
    groups stay in memory. Raises BitstreamError, ModelNotFound, BadModel.
    """

    def __init__(
        self,
        source: Source | ByteSource,
        find_model: FindModel,
        *,
        recover: bool = False,
        kept_groups: int = KEPT_GROUPS,
    ) -> None:
        self._source = source if isinstance(source, ByteSource) else ByteSource(source)
        self._header_fault: BitstreamError | None = None
        self._start = self._find_start(recover)
        self.model = Models(find_model, self._source, self._header_fault is None)
        self._kept_groups = kept_groups
        self._forget()

    def _find_start(self, recover: bool) -> int:
        """Where the blocks start."""
        header = b""
        try:
            header = read_start(self._source)
            return unpack_collection_header(header)
        except BitstreamError as error:
            # A header whose Check holds is intact: it is of a later version, or of an unknown kind.
            if not recover or is_intact(header):
                raise
            start = salvage.first_block(self._source)
            if start is None:
                raise
            self._header_fault = error
            return start

    def _forget(self) -> None:
        # by number of a block, and of a group in it
        self._names: Recent[int, list[str]] = Recent(KEPT_NAMES)
        self._labels: Recent[int, Labels | None] = Recent(KEPT_NAMES)
        self._groups: Recent[tuple[int, int], Decoded] = Recent(self._kept_groups)

    def __getstate__(self) -> dict[str, object]:
        kept = ("_source", "_header_fault", "_start", "model", "_kept_groups")
        return {name: vars(self)[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def __enter__(self) -> Collection:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; no other thread may be reading.  A path is opened again when needed."""
        self._source.close()

    @property
    def num_bytes(self) -> int:
        """Size of the whole file."""
        return self._source.size

    def _repr_html_(self) -> str | None:
        """The first images, for notebooks.  Raises nothing."""
        from codec.view import contact  # only notebooks pay for its start-up

        return contact.sheet(self)

    # Blocks

    @cached_property
    def blocks(self) -> list[Block]:
        """All blocks, from the footer.  Raises BitstreamError if it is damaged."""
        footer, _ = salvage.read_footer(self._source, self._start)
        blocks, offset, first = [], self._start, 0
        for size, count in footer.blocks:
            blocks.append(self._block(offset, first, count, size))
            offset, first = offset + size, first + count
        return blocks

    def _block(self, offset: int, first: int, count: int, size: int) -> Block:
        return Block(self._source, self.model, offset=offset, first=first, count=count, size=size)

    @cached_property
    def fault(self) -> BitstreamError | None:
        """What is wrong with header or footer; None: nothing.  Blocks have their own faults."""
        try:
            _ = self.blocks
        except BitstreamError as error:
            return self._header_fault or error
        return self._header_fault

    def intact_blocks(self) -> Iterator[Block]:
        """The blocks in order; if the footer is damaged, those that can be found."""
        try:
            yield from self.blocks
            return
        except BitstreamError:
            pass
        first = 0
        for offset, header in salvage.walk(self._source, self._start):
            yield self._block(offset, first, header.image_count, header.block_bytes)
            first += header.image_count

    def salvage(self) -> Iterator[Decoded]:
        """Decode all blocks in turn, each as far as it is intact; a last `Decoded`, without images,
        has the fault of header or footer.

        Raises only ModelNotFound, BadModel.
        """
        for block in self.intact_blocks():
            yield block.salvage()
        if self.fault is not None:
            yield all_lost(np.empty(0, np.int64), self.fault)

    def pixels(self) -> U8:
        """All images, uint8 (N, 28, 28).  Raises BitstreamError if anything is damaged."""
        if self.fault is not None:
            raise self.fault
        decoded = []
        for block in self.blocks:
            found = block.salvage()
            if found.fault is not None:
                raise found.fault
            decoded.append(found.pixels)
        return np.concatenate(decoded) if decoded else np.empty((0, SIDE, SIDE), np.uint8)

    @cached_property
    def _firsts(self) -> I64:
        return np.array([block.first for block in self.blocks], np.int64)

    def _blocks_of(self, images: I64) -> I64:
        """The blocks of images, by number."""
        return self._firsts.searchsorted(images, "right") - 1

    def __len__(self) -> int:
        return self.blocks[-1].first + self.blocks[-1].count if self.blocks else 0

    # What was coded how

    @property
    def codings(self) -> list[tuple[bytes, int]]:
        """Hash of the model and quality of all parts, each pair once, in order of appearance."""
        parts = (part for block in self.blocks for part in block.parts)
        return list(dict.fromkeys((part.model_hash, part.quality) for part in parts))

    def uses(self) -> list[Use]:
        """What each model has coded at each quality, in order of appearance."""
        found: dict[tuple[bytes, int], Use] = {}
        for use in (use for block in self.blocks for use in block.uses()):
            before = found.get(use[:2], Use(*use[:2], 0, 0))
            images = before.images + use.images
            found[use[:2]] = Use(*use[:2], images, before.payload_bytes + use.payload_bytes)
        return list(found.values())

    @property
    def payload_bytes(self) -> int:
        """Bytes of all messages."""
        return sum(block.header.payload_bytes for block in self.blocks)

    @property
    def embedded(self) -> list[bytes]:
        """The model files embedded in the collection.  Raises BitstreamError."""
        return self.model.embedded

    # Names

    @property
    def names(self) -> list[str]:
        """Names of all images, "" for one without; empty if no image has a name."""
        return list(self.each_name()) if self.has_names else []

    @property
    def has_names(self) -> bool:
        """Whether any image has a name."""
        return any(block.header.has_names for block in self.blocks)

    def each_name(self) -> Iterator[str]:
        """All names in turn, "" for an image without one, block by block."""
        for number, block in enumerate(self.blocks):
            yield from self._names_of(number) or [""] * block.count

    def _names_of(self, block: int) -> list[str]:
        return self._names.get(block, self.blocks[block].names)

    def name(self, index: int) -> str:
        """Name of one image, "" if it has none; reads only the names of its block.

        Raises IndexError.
        """
        return self.names_at([integer(index)])[0]

    def names_at(self, indexes: list[int]) -> list[str]:
        """Names of some images, "" for one without; reads only the names of their blocks.

        Raises IndexError.
        """
        numbers = self._numbers(np.array(indexes, np.int64))
        found = [""] * len(indexes)
        blocks = self._blocks_of(numbers)
        for at in np.argsort(blocks, kind="stable").tolist():  # block by block, whatever the order
            block = int(blocks[at])
            if names := self._names_of(block):
                found[at] = names[int(numbers[at]) - self.blocks[block].first]
        return found

    @cached_property
    def _name_index(self) -> NameIndex:
        return NameIndex(self.each_name() if self.has_names else ())

    def find(self, name: str) -> int:
        """Index of the first image with this name.  Raises KeyError.

        The first call reads all names; later calls read those of one block.
        """
        for image in self._name_index.candidates(name):
            if self.name(image) == name:
                return image
        raise KeyError(name)

    # Labels

    @property
    def has_labels(self) -> bool:
        """Whether any image has a label."""
        return any(block.header.has_labels for block in self.blocks)

    @property
    def labels(self) -> Labels | None:
        """Labels of all images: int64 (N,), or a list of N texts; None if no image has a label.

        Raises UsageError if only some images have one, or some are integers and some texts.
        """
        return self.labels_at(slice(None))

    def label(self, index: int) -> int | str:
        """Label of one image; reads only the labels of its block.

        Raises IndexError; UsageError if it has none.
        """
        labels = self.labels_at([integer(index)])
        if labels is None:
            raise UsageError(f"image {index} has no label, and no other image has one")
        label = labels[0]
        return label if isinstance(label, str) else int(label)

    def labels_at(self, index: int | slice | list[int]) -> Labels | None:
        """Labels of some images, as `labels` has those of all; reads only those of their blocks.

        Raises IndexError, TypeError; UsageError as `labels` does.
        """
        numbers, _ = self._wanted(index)
        blocks = self._blocks_of(numbers)
        order = np.argsort(blocks, kind="stable")  # block by block, whatever the order
        in_order, starts = np.unique(blocks[order], return_index=True)
        pieces: list[Labels] = []
        for number, at in zip(in_order.tolist(), np.split(order, starts[1:]), strict=False):
            wanted = numbers[at]
            labels = self._labels_of(number)
            if labels is None and not self.has_labels:
                return None
            if labels is None:
                raise UsageError(f"image {wanted[0]} has no label, but others have one")
            if pieces and kind_of(pieces[0]) != kind_of(labels):
                raise UsageError(
                    "some labels are integers and some are texts: "
                    "ask for them one by one, with label(index)"
                )
            pieces.append(picked(labels, wanted - self.blocks[number].first))
        if not pieces and not self.has_labels:
            return None
        return picked(joined(pieces), np.argsort(order))

    @property
    def label_kinds(self) -> list[str]:
        """What the labels of the blocks are: "integers", "texts", "no labels", each once."""
        return list(dict.fromkeys(kind_of(labels) for labels in self._each_labels()))

    def distinct_labels(self) -> set[int | str]:
        """The labels that occur."""
        found: set[int | str] = set()
        for labels in self._each_labels():
            if labels is not None:
                found.update(labels if isinstance(labels, list) else np.unique(labels).tolist())
        return found

    def _each_labels(self) -> Iterator[Labels | None]:
        return map(self._labels_of, range(len(self.blocks)))

    def _labels_of(self, block: int) -> Labels | None:
        return self._labels.get(block, self.blocks[block].labels)

    # Images

    @overload
    def __getitem__(self, index: int) -> U8: ...
    @overload
    def __getitem__(self, index: slice | list[int]) -> U8: ...
    def __getitem__(self, index: int | slice | list[int]) -> U8:
        """Image uint8 (28, 28), or images (N, 28, 28) in the order of `index`.

        Raises IndexError, TypeError; BitstreamError if one of them is damaged.
        """
        if not isinstance(index, slice | list | tuple | np.ndarray):
            return self._image(integer(index))
        return self._decode(self._wanted(index)[0])

    def __contains__(self, wanted: object) -> bool:
        """Raises TypeError: an image has a number and may have a name, so it is not clear what
        would be looked for.
        """
        raise TypeError("`in` does not work with a collection: ask `name in collection.names`")

    def __iter__(self) -> Iterator[U8]:
        for block in self.blocks:
            yield from self[block.first : block.first + block.count]

    def _image(self, index: int) -> U8:
        """One image (28, 28), faster than by `_decode`.  Raises IndexError."""
        n = len(self)
        if not -n <= index < n:
            raise no_image(index, n)
        image = np.array(index % n)
        number = int(self._blocks_of(image))
        group = int(self.blocks[number].index.groups_of(image - self.blocks[number].first))
        decoded = self._group(number, group)
        pixels: U8 = decoded.pixels[decoded.images.searchsorted(image)].copy()
        return pixels

    def _group(self, block: int, group: int) -> Decoded:
        """One group, which stays in memory for a while."""
        return self._groups.get((block, group), lambda: self.blocks[block].decode([group]))

    def _decode(self, wanted: I64, latents: I16 | None = None) -> U8:
        """Images (N, 28, 28).  latents: int16 (N, K), to be filled; None: not wanted."""
        pixels = np.empty((len(wanted), SIDE, SIDE), np.uint8)
        blocks = self._blocks_of(wanted)
        for number in distinct(blocks):
            block, at = self.blocks[number], np.flatnonzero(blocks == number)
            groups = distinct(block.index.groups_of(wanted[at] - block.first))
            if len(groups) == 1 and latents is None:
                decoded = self._group(number, groups[0])
            else:
                decoded = block.decode(groups, latents=latents is not None)
            found = decoded.images.searchsorted(wanted[at])
            pixels[at] = decoded.pixels[found]
            if latents is not None and decoded.latents is not None:
                latents[at] = decoded.latents[found]
        return pixels

    def _wanted(self, index: int | slice | list[int]) -> tuple[I64, bool]:
        """An index -> numbers of images, from 0, and whether it means an array of images."""
        if isinstance(index, slice):
            return np.arange(*index.indices(len(self)), dtype=np.int64), True
        several = isinstance(index, list | tuple | np.ndarray)
        wanted = np.asarray(index) if several else np.array([integer(index)])
        if wanted.ndim != 1 or (wanted.size and not np.issubdtype(wanted.dtype, np.integer)):
            raise TypeError(
                "images are picked by an integer, a slice or a list of integers, not by an array "
                f"of {wanted.dtype} {wanted.shape}"
            )
        return self._numbers(wanted), several

    def _numbers(self, wanted: Integers) -> I64:
        """Indexes -> numbers of images, from 0.  Raises IndexError."""
        wanted, n = wanted.astype(np.int64), len(self)
        outside = wanted[(wanted < -n) | (wanted >= n)]
        if outside.size:
            raise no_image(int(outside[0]), n)
        return np.where(wanted < 0, wanted + n, wanted)

    # Latents

    @property
    def latent_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of the latents of one image, level by level, such as ((32,), (8, 7, 7)); () if
        there are no images.

        Raises UsageError unless all images are of one lossy model.
        """
        models = [self.model(each) for each in dict.fromkeys(h for h, _ in self.codings)]
        return latent_shapes_of(models)

    def latents(self) -> I16:
        """Latents of all images, int16 (N, K).  Raises UsageError as `latent_shapes` does."""
        return self.with_latents(slice(None))[1]

    def with_latents(self, index: int | slice | list[int]) -> tuple[U8, I16]:
        """Pixels, as by indexing, and their latents: int16 (K,) or (N, K), see `codec.latents`.

        Raises IndexError, UsageError as `latent_shapes` does.
        """
        wanted, several = self._wanted(index)
        latents = np.empty((len(wanted), sum(map(math.prod, self.latent_shapes))), np.int16)
        pixels = self._decode(wanted, latents)
        return (pixels, latents) if several else (np.asarray(pixels[0]), np.asarray(latents[0]))
