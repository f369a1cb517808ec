"""Which image has a name: 16 bytes an image, whatever the names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np


class NameIndex:
    """Finds the images whose names have a hash.  Names are not kept: whoever asks compares."""

    def __init__(self, names: Iterable[str], hash_of: Callable[[str], int] = hash) -> None:
        hashes = np.fromiter(map(hash_of, names), np.int64)
        self._order = np.argsort(hashes, kind="stable")
        self._hashes, self._hash_of = hashes[self._order], hash_of

    def candidates(self, name: str) -> Iterator[int]:
        """Images that may have this name, in rising order; all that have it are among them."""
        first, end = (
            int(np.searchsorted(self._hashes, self._hash_of(name), side))
            for side in ("left", "right")
        )
        return map(int, self._order[first:end])
