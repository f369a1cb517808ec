"""The footer of a collection <-> bytes: the table of its blocks.  FORMAT.md 4."""

from __future__ import annotations

from dataclasses import dataclass

from codec.errors import BadMagic, ChecksumMismatch, LimitExceeded, TrailingData, Truncated
from codec.format.constants import END_MAGIC, FOOTER_MAGIC
from codec.format.headers import COLLECTION
from codec.format.primitives import checksum, layout_of

FOOTER_FIELDS = (("Footer_Magic", "4s"), ("Total_Images", "Q"), ("Block_Count", "I"))
FOOTER_ENTRY_FIELDS = (("Block_Bytes", "I"), ("Block_Images", "H"))
FOOTER_END_FIELDS = (("Checksum", "16s"), ("Footer_Bytes", "I"), ("End_Magic", "4s"))

FOOTER, FOOTER_ENTRY = layout_of(FOOTER_FIELDS), layout_of(FOOTER_ENTRY_FIELDS)
FOOTER_END = layout_of(FOOTER_END_FIELDS)
SMALLEST_COLLECTION = COLLECTION.size + FOOTER.size + FOOTER_END.size


@dataclass(frozen=True)
class Footer:
    """The table of blocks at the end of a collection: (Block_Bytes, Block_Images) of each."""

    blocks: tuple[tuple[int, int], ...]

    @property
    def total_images(self) -> int:
        """Images in the collection."""
        return sum(images for _, images in self.blocks)

    def pack(self) -> bytes:
        """-> footer bytes, End_Magic last."""
        start = FOOTER.pack(FOOTER_MAGIC, self.total_images, len(self.blocks))
        start += b"".join(FOOTER_ENTRY.pack(*entry) for entry in self.blocks)
        return start + FOOTER_END.pack(checksum(start), len(start) + FOOTER_END.size, END_MAGIC)


def unpack_footer_end(tail: bytes, stream_bytes: int) -> int:
    """-> Footer_Bytes, from the last FOOTER_END.size bytes of a stream of `stream_bytes` bytes.

    Raises Truncated, LimitExceeded.
    """
    if len(tail) < FOOTER_END.size:
        raise Truncated("the collection ends before its footer", stream_bytes)
    _, footer_bytes, magic = FOOTER_END.unpack(tail[-FOOTER_END.size :])
    if magic != END_MAGIC:
        raise Truncated(
            "the file does not end as a collection does: it is cut short or its end is damaged"
        )
    if not FOOTER.size + FOOTER_END.size <= footer_bytes <= stream_bytes - COLLECTION.size:
        raise LimitExceeded(
            f"the footer claims {footer_bytes} bytes of a stream of {stream_bytes}",
            stream_bytes - 8,
        )
    return int(footer_bytes)


def unpack_footer(footer: bytes, offset: int, blocks_bytes: int | None) -> Footer:
    """Unpack a whole footer.  Raises BitstreamError.

    offset: of the footer in the file; blocks_bytes: bytes between file header and footer, None if
    the header is damaged.
    """
    magic, total, count = FOOTER.unpack_from(footer)
    if magic != FOOTER_MAGIC:
        start = f"it begins with {magic.hex(' ')}, not {FOOTER_MAGIC.hex(' ')}"
        raise BadMagic(f"there is no footer here: {start}", offset)
    if FOOTER.size + count * FOOTER_ENTRY.size + FOOTER_END.size != len(footer):
        raise LimitExceeded(
            f"{count} blocks do not fit into a footer of {len(footer)} bytes", offset + 12
        )
    if checksum(footer[: -FOOTER_END.size]) != footer[-FOOTER_END.size : -8]:
        raise ChecksumMismatch("the footer is damaged", offset)
    found = Footer(tuple(FOOTER_ENTRY.iter_unpack(footer[FOOTER.size : -FOOTER_END.size])))
    if found.total_images != total:
        raise LimitExceeded(
            f"the footer claims {total} images, but its blocks hold {found.total_images}",
            offset + 4,
        )
    claimed = sum(size for size, _ in found.blocks)
    if blocks_bytes is None:
        blocks_bytes = min(claimed, offset - COLLECTION.size)
    if claimed != blocks_bytes:
        error = TrailingData if claimed < blocks_bytes else Truncated
        raise error(f"the blocks take {blocks_bytes} bytes, but the footer lists {claimed}", offset)
    return found
