"""What an open collection keeps in memory: recent results, and an index of names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

import numpy as np

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """The last `size` results by key; threads may share it."""

    def __init__(self, size: int) -> None:
        self._size, self._kept = size, dict[K, V]()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The result of a key; `make` makes it if it is not kept."""
        if key not in self._kept:
            made = make()
            for old in list(self._kept)[: 1 - self._size]:
                self._kept.pop(old, None)  # another thread may have been here
            self._kept[key] = made
            return made
        return self._kept[key]


class NameIndex:
    """Finds images by the hash of their names, 16 bytes an image.  The caller compares names."""

    def __init__(self, names: Iterable[str], hash_of: Callable[[str], int] = hash) -> None:
        hashes = np.fromiter(map(hash_of, names), np.int64)
        self._order = np.argsort(hashes, kind="stable")
        self._hashes, self._hash_of = hashes[self._order], hash_of

    def candidates(self, name: str) -> Iterator[int]:
        """Images that can have this name, in rising order; all that have it are among them."""
        first, end = (
            int(np.searchsorted(self._hashes, self._hash_of(name), side))
            for side in ("left", "right")
        )
        return map(int, self._order[first:end])
