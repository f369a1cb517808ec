"""Finding the blocks of a damaged collection.  FORMAT.md 9.

The footer lists the blocks. Without it a reader goes from block to block, and searches for the next
Block_Magic after damage, so that every intact block is found.
"""

from __future__ import annotations

from collections.abc import Iterator

from codec.collection.source import ByteSource
from codec.errors import BitstreamError
from codec.format.constants import BLOCK_MAGIC
from codec.format.footer import FOOTER_END, Footer, unpack_footer, unpack_footer_end
from codec.format.headers import BLOCK, COLLECTION, BlockHeader, unpack_block_header

WINDOW_BYTES = 1 << 20  # searched at a time


def read_footer(source: ByteSource, start: int | None) -> tuple[Footer, int]:
    """The footer, and its offset.  start: where the blocks start, None if the header is damaged.

    Raises BitstreamError.
    """
    tail = source.read(max(0, source.size - FOOTER_END.size), FOOTER_END.size)
    footer_bytes = unpack_footer_end(tail, source.size)
    at = source.size - footer_bytes
    blocks_bytes = None if start is None else at - start
    return unpack_footer(source.read(at, footer_bytes), at, blocks_bytes), at


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
