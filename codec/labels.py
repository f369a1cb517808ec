"""Labels of images: integers or texts.

READ ME FIRST
- `Labels` are those of some images, in their order: int64 (N,), or a list of N texts.  All are of
  one kind.
- A text has at least one character and no NUL, and is UTF-8.  1.0, True and "" are no labels.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np

from codec.arrays import I64, Bools, Integers
from codec.errors import UsageError, counted

Labels = I64 | list[str]
Given = Sequence[int] | Sequence[str] | Integers  # what `checked` takes

MAX_LABEL = 0xFFFFFFFF
MAX_LABEL_BYTES = 255  # of a text, in UTF-8
WANTED = f"an integer from 0 to {MAX_LABEL}, or a text"


def checked(labels: Any, count: int | None = None) -> Labels:
    """Labels, given as any sequence or array, one for each of `count` images (None: any number).

    Raises UsageError, which names the first label that is none.
    """
    found = _from_array(labels) if hasattr(labels, "__array__") else _from_sequence(labels)
    if count is not None and len(found) != count:
        raise UsageError(f"{counted(len(found), 'label')} for {counted(count, 'image')}")
    return found


def _from_array(labels: Any) -> Labels:
    array = np.asarray(labels)
    if array.ndim != 1:
        raise UsageError(f"labels are of shape {array.shape}, wanted one axis: a label an image")
    if not np.issubdtype(array.dtype, np.integer):
        if array.size == 0 or array.dtype.kind in "OU":
            return _from_sequence(array.tolist())
        raise UsageError(f"labels are {array.dtype}, wanted integers or texts")
    if array.size and not 0 <= int(array.min()) <= int(array.max()) <= MAX_LABEL:
        outside = (array < 0) | (array > MAX_LABEL)
        at = int(np.argmax(outside))
        raise UsageError(f"label {at} is {array[at]}, wanted {WANTED}")
    return array.astype(np.int64)


def _from_sequence(labels: Any) -> Labels:
    if isinstance(labels, str | bytes | Mapping | Set) or not isinstance(labels, Iterable):
        raise UsageError(f"labels are of type {type(labels).__name__}, wanted a list: one an image")
    found = [_checked(at, label) for at, label in enumerate(labels)]
    texts = [label for label in found if isinstance(label, str)]
    if texts and len(texts) < len(found):
        is_text = isinstance(found[0], str)
        other = next(at for at, label in enumerate(found) if isinstance(label, str) != is_text)
        raise UsageError(
            f"label 0 is {found[0]!r}, label {other} is {found[other]!r}: "
            "give integers or texts, not both"
        )
    return texts or np.array(found, np.int64)


def _checked(at: int, label: Any) -> int | str:
    if isinstance(label, str):
        if fault := fault_of(label):
            raise UsageError(f"label {at}, {label[:40]!r}, {fault}")
        return str(label)
    try:
        if isinstance(label, bool | np.bool_):
            raise TypeError
        number = operator.index(label)
        if 0 <= number <= MAX_LABEL:
            return number
    except TypeError:
        pass
    raise UsageError(f"label {at} is {repr(label)[:40]}, wanted {WANTED}")


def fault_of(text: str) -> str | None:
    """Why a text is no label; None: it is one."""
    if not text:
        return "is empty"
    if "\0" in text:
        return "contains NUL"
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return "is not UTF-8"
    if size > MAX_LABEL_BYTES:
        return f"has {size} bytes, at most {MAX_LABEL_BYTES} are allowed"
    return None


def kind_of(labels: Labels | None) -> str:
    """What labels are, in words."""
    if labels is None:
        return "no labels"
    return "texts" if isinstance(labels, list) else "integers"


def picked(labels: Labels, which: Sequence[int] | I64 | Bools) -> Labels:
    """Some of the labels, by number or mask, in the order of `which`."""
    if not isinstance(labels, list):
        return np.asarray(labels[np.asarray(which, None if len(which) else np.int64)])
    numbers = np.asarray(which)
    if numbers.dtype == np.bool_:
        numbers = np.flatnonzero(numbers)
    return [labels[i] for i in numbers.tolist()]


def one_by_one(labels: Labels) -> Sequence[int | str]:
    """Labels as ints or strs of Python."""
    if isinstance(labels, list):
        return labels
    numbers: list[int] = labels.tolist()
    return numbers


def joined(pieces: Sequence[Labels]) -> Labels:
    """The labels of several runs of images, all of one kind."""
    texts = [label for piece in pieces if isinstance(piece, list) for label in piece]
    numbers = [piece for piece in pieces if not isinstance(piece, list)]
    return texts or np.concatenate([np.empty(0, np.int64), *numbers])


def digest_of(labels: Labels | None) -> str:
    """A digest of labels and their kind, "" without any."""
    if labels is None:
        return ""
    digest = hashlib.blake2b(kind_of(labels).encode() + b"\0", digest_size=16)
    if isinstance(labels, list):
        digest.update("".join(label + "\0" for label in labels).encode())
    else:
        digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()
