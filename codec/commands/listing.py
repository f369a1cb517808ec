"""`aez ls`: the images of streams, one by one.  Headers, names and index are read, no pixel."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

from codec.collection.block import Block, Verdict, all_lost
from codec.collection.listing import Entry, entries_of_block, entry_of_image
from codec.collection.memory import Recent
from codec.collection.models import name_of
from codec.commands.events import Event, Events, Listed, guarded
from codec.commands.inputs import Input, find_streams
from codec.commands.stream import Stream, open_stream
from codec.errors import BitstreamError

KEPT_BLOCKS = 4  # whose entries stay in memory, for an index that comes back to them


def list_images(inputs: Sequence[str], index: Sequence[range] | None = None) -> Events:
    """List the images of streams.  index: only these, in this order.

    Images whose entries are damaged are reported, as decompress reports them, and left out.
    """
    for source in (yield from find_streams(inputs)):
        yield from guarded(source.label, _list_one(source, index))


def _list_one(source: Input, index: Sequence[range] | None) -> Events:
    with open_stream(source) as stream:
        stream.check_index(index)
        yield Listed(stream.label, stream.num_images, [])  # also if there are none
        lister = _Lister(stream)
        yield from lister.all() if index is None else lister.some(index)


class _Lister:
    """Lists the images of an open stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream, self._num_images = stream, stream.num_images
        self._name_of = cache(self._find_name)
        self._kept: Recent[int, list[Event]] = Recent(KEPT_BLOCKS)
        self._told: set[int] = set()  # blocks whose faults are reported

    def _find_name(self, model_hash: bytes) -> str:
        collection, single = self._stream.collection, self._stream.single
        if single is not None and not model_hash:
            return f"number {single.header.model_id}"
        find = name_of if collection is None else collection.model.name_of
        return find(model_hash) or model_hash.hex()

    def _listed(self, entries: list[Entry]) -> Listed:
        return Listed(self._stream.label, self._num_images, entries)

    def all(self) -> Iterator[Event]:
        """All images, block by block."""
        stream = self._stream
        if stream.single is not None:
            yield self._listed([entry_of_image(stream.single, self._name_of)])
        for number, block in enumerate(stream.blocks()):
            yield from self._block(number, block)
        for fault in stream.faults():
            yield from stream.failures(fault, 0)

    def some(self, index: Sequence[range]) -> Iterator[Event]:
        """Images by number.  Each fault of their blocks is reported once."""
        if self._stream.single is not None:
            for _ in index:
                yield from self.all()
            return
        blocks = list(self._stream.blocks())
        firsts = [block.first for block in blocks]
        for part in index:
            start = part.start
            while start < part.stop:
                number = bisect_right(firsts, start) - 1
                block = blocks[number]
                stop = min(part.stop, block.first + block.count)
                yield from self._pick(number, block, range(start, stop))
                start = stop

    def _pick(self, number: int, block: Block, wanted: range) -> Iterator[Event]:
        for event in self._kept.get(number, lambda: list(self._block(number, block))):
            if isinstance(event, Listed):
                first = block.first
                yield self._listed(event.entries[wanted.start - first : wanted.stop - first])
            elif number not in self._told:
                yield event
        self._told.add(number)

    def _block(self, number: int, block: Block) -> Iterator[Event]:
        """The images of a block, and what is wrong with it."""
        verdict = Verdict(images=block.images, lost=np.zeros(block.count, np.bool_))
        try:
            names = block.names()
        except BitstreamError as error:
            verdict.fault, names = error, block.names_or_numbers()
        labels = None
        try:
            labels = block.labels()
        except BitstreamError as error:
            verdict.fault = error
        try:
            yield self._listed(entries_of_block(block, names, labels, self._name_of))
        except BitstreamError as error:
            verdict = all_lost(block.images, error)
        yield from self._stream.failures(verdict, number, names)
