"""What was last asked for stays in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """The last `size` results by key; threads may share it."""

    def __init__(self, size: int) -> None:
        self._size, self._kept = size, dict[K, V]()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The result of a key, made if it is not there."""
        if key not in self._kept:
            made = make()
            for old in list(self._kept)[: 1 - self._size]:
                self._kept.pop(old, None)  # another thread may have been here
            self._kept[key] = made
            return made
        return self._kept[key]
