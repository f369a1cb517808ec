"""Blocks -> a collection, one after the other."""

from __future__ import annotations

from typing import BinaryIO

from codec.format.footer import Footer
from codec.format.headers import pack_collection_header


class Writer:
    """Writes a collection block by block to a binary file, which it does not close.

    models: model files to embed. resumed: (Block_Bytes, Block_Images) of the blocks that the file
    has already, after a header; its position is after the last one.
    """

    def __init__(
        self,
        file: BinaryIO,
        models: list[bytes] | None = None,
        resumed: list[tuple[int, int]] | None = None,
    ) -> None:
        self._file = file
        self._blocks = list(resumed or ())
        header = pack_collection_header(models or ())
        if not self._blocks:
            self._file.write(header)
        self.num_bytes = len(header) + sum(size for size, _ in self._blocks)

    def write(self, block: bytes, images: int) -> None:
        """Append a packed block."""
        self._file.write(block)
        self._blocks.append((len(block), images))
        self.num_bytes += len(block)

    def finish(self) -> None:
        """Write the footer."""
        footer = Footer(tuple(self._blocks)).pack()
        self._file.write(footer)
        self.num_bytes += len(footer)
