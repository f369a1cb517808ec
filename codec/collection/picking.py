"""The numbers by which images are picked, and what is wrong with them."""

from __future__ import annotations

import operator
from typing import cast


def no_image(index: int, count: int) -> IndexError:
    """The error of a number that is none of an image."""
    if not count:
        return IndexError(f"image {index} of an empty collection")
    return IndexError(f"image {index} of {count}, the first is 0")


def integer(index: object) -> int:
    """The index of an image as an int.  Raises TypeError for what is no integer."""
    try:
        return operator.index(cast(int, index))
    except TypeError:
        raise TypeError(
            "images are picked by an integer, a slice or a list of integers, not by "
            f"{type(index).__name__} {index!r:.40}"
        ) from None
