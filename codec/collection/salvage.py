"""Finding the blocks of a damaged collection.  FORMAT.md 9.

The footer lists the blocks. Without it a reader goes from block to block, and searches for the next
Block_Magic after damage, so that every intact block is found.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from codec.collection.source import ByteSource
from codec.errors import BitstreamError, TrailingData
from codec.format.constants import BLOCK_MAGIC, END_MAGIC
from codec.format.footer import FOOTER_END, Footer, unpack_footer, unpack_footer_end
from codec.format.headers import BLOCK, COLLECTION, BlockHeader, unpack_block_header

WINDOW_BYTES = 1 << 20  # searched at a time
TRAILING_BYTES, MAX_ENDS = 1 << 16, 16  # searched for an earlier end; ends tried


def read_footer(source: ByteSource, start: int | None) -> tuple[Footer, int]:
    """The footer, and its offset.  start: where the blocks start, None if the header is damaged.

    Raises BitstreamError.
    """
    try:
        return _footer_that_ends_at(source.size, source, start)
    except BitstreamError as error:
        raise _trailing_data(source, start) or error from None


def _footer_that_ends_at(end: int, source: ByteSource, start: int | None) -> tuple[Footer, int]:
    tail_at = max(0, end - FOOTER_END.size)
    footer_bytes = unpack_footer_end(source.read(tail_at, end - tail_at), end)
    at = end - footer_bytes
    blocks_bytes = None if start is None else at - start
    return unpack_footer(source.read(at, footer_bytes), at, blocks_bytes), at


def _trailing_data(source: ByteSource, start: int | None) -> TrailingData | None:
    """The error of a collection that is whole, but does not end with the file."""
    searched_at = max(0, source.size - TRAILING_BYTES)
    searched = source.read(searched_at, TRAILING_BYTES)
    end = len(searched) - 1
    for _ in range(MAX_ENDS):
        at = searched.rfind(END_MAGIC, 0, end)
        if at < 0:
            break
        end = at + len(END_MAGIC) - 1  # the next one lies before
        last = searched_at + at + len(END_MAGIC)
        with contextlib.suppress(BitstreamError):
            _footer_that_ends_at(last, source, start)
            number = source.size - last
            plural = "s" if number > 1 else ""
            return TrailingData(f"{number} byte{plural} after the end of the collection", last)
    return None


def first_block(source: ByteSource) -> int | None:
    """Where the blocks start, without the header: by an intact footer, or the first block that can
    be found; None: there is none.
    """
    try:
        footer, at = read_footer(source, None)
    except BitstreamError:
        return None if next_block(source, COLLECTION.size) is None else COLLECTION.size
    return at - sum(size for size, _ in footer.blocks)


def walk(source: ByteSource, start: int) -> Iterator[tuple[int, BlockHeader]]:
    """Offset and header of each block that can be found from `start` on, without the footer."""
    while (found := next_block(source, start)) is not None:
        yield found
        start = found[0] + found[1].block_bytes


def next_block(source: ByteSource, offset: int) -> tuple[int, BlockHeader] | None:
    """The first block header at or after `offset` that is intact; every byte is searched once."""
    for start in range(offset, source.size, WINDOW_BYTES):
        searched = source.read(start, WINDOW_BYTES + BLOCK.size - 1)
        at = searched.find(BLOCK_MAGIC)
        while 0 <= at < WINDOW_BYTES:
            try:
                header = unpack_block_header(searched[at : at + BLOCK.size], start + at)
                return start + at, header
            except BitstreamError:
                at = searched.find(BLOCK_MAGIC, at + 1)
    return None
