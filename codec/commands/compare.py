"""The originals of a stream, for the page that compares them with what it decodes to.

An original belongs to the image of its name. Where one side has no names, or none is on both, they
are compared in order. What belongs to nothing is said, and left out.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import NamedTuple

from codec.arrays import SIDE
from codec.commands import sample
from codec.commands.events import Event, Note
from codec.errors import UsageError, counted
from codec.view.page import MAX_PAGE_BYTES, Originals

MAX_ORIGINALS = MAX_PAGE_BYTES // SIDE**2
MAX_NAMED = 3  # of those that belong to nothing


class Pairs(NamedTuple):
    """Which originals belong to which images, in the order of the images."""

    originals: list[int]
    images: list[int]
    by_name: bool


def originals_of(
    names: Sequence[str], num_images: int, inputs: Sequence[str]
) -> Generator[Event, None, Originals]:
    """Read the originals of a stream: whatever `aez compress` takes.

    names: of its images, empty if they have none. Raises UsageError if they cannot be those of the
    stream; AezError if none can be read.
    """
    if any(name.endswith(".aez") for name in inputs):
        raise UsageError("before --against stand the originals: images, a directory or an array")
    found = yield from sample.read(inputs, MAX_ORIGINALS, whole=True)
    pairs = paired(found.names, names, num_images)
    yield from _left(found.names, pairs.originals, "originals have no image in the stream")
    called = names or [f"image {number}" for number in range(num_images)]
    yield from _left(called, pairs.images, "images of the stream have no original")
    in_order = pairs.images == list(range(len(pairs.images)))
    return Originals(
        found.pixels[pairs.originals].tobytes(),
        None if pairs.by_name else [found.names[number] for number in pairs.originals],
        None if in_order else pairs.images,
    )


def paired(originals: Sequence[str], images: Sequence[str], num_images: int) -> Pairs:
    """Pair originals and images by their names.  images: empty if they have none.

    Raises UsageError if nothing can be paired.
    """
    if not num_images:
        raise UsageError("the stream has no images to compare the originals with")
    at = {name: number for number, name in reversed(list(enumerate(originals)))}
    pairs = [(at[name], number) for number, name in enumerate(images) if name in at]
    if pairs:
        found, numbers = zip(*pairs, strict=True)
        return Pairs(list(found), list(numbers), True)
    if len(originals) != num_images and any(images):
        raise UsageError(
            f"no original has the name of an image, as {images[0]!r}; and {len(originals)} "
            f"originals are not {counted(num_images, 'image')} in order"
        )
    both = list(range(min(len(originals), num_images)))
    return Pairs(both, both, False)


def _left(names: Sequence[str], taken: Sequence[int], what: str) -> Generator[Event, None, None]:
    """Say which ones belong to nothing."""
    kept = set(taken)
    left = [name for number, name in enumerate(names) if number not in kept]
    if left:
        more = ", ..." if len(left) > MAX_NAMED else ""
        yield Note(f"{len(left)} of {len(names)} {what}: {', '.join(left[:MAX_NAMED])}{more}")
