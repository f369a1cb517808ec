"""Reading the images that `aez compress` would read, or a sample of them, into memory: for `aez
bench` and `aez view --against`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from codec.arrays import U8, spread
from codec.commands.events import Event, Failed
from codec.commands.jobs import Job, Source
from codec.commands.planning import plan
from codec.errors import AezError, ImageError, UsageError
from codec.files import images
from codec.files.sources import image_of

READ_IMAGES = 4096  # of an array, at once


class Images(NamedTuple):
    pixels: U8  # (N, 28, 28)
    names: list[str]
    total: int  # how many images there are, measured or not


def read(
    inputs: Sequence[str], max_images: int, whole: bool = False
) -> Generator[Event, None, Images]:
    """Read files, directories, arrays and URLs, in the order of `aez compress`.

    Of more than `max_images` images, only a sample of that many, evenly spread, is read. What
    cannot be read is reported as failed. whole: more images are an error, and all have the names
    that they have in one collection. Raises UsageError; AezError if no image is left.
    """
    if "-" in inputs:
        raise UsageError("images are read from files, directories and URLs here, not stdin")
    jobs = yield from plan(inputs, "-" if whole else None)
    sizes = []
    for job in jobs:
        sizes.append((yield from _num_images(job)))
    total = sum(sizes)
    if whole and total > max_images:
        raise UsageError(f"there are {total} images, and at most {max_images} can be read here")
    sample = spread(total, min(max_images, total))
    pixels: list[U8] = []
    names: list[str] = []
    first = 0
    for job, size in zip(jobs, sizes, strict=True):
        wanted = (sample[(sample >= first) & (sample < first + size)] - first).tolist()
        first += size
        for found in _read(job, wanted):
            if isinstance(found, Failed):
                yield found
            else:
                names.append(found[0])
                pixels.append(found[1])
    if not pixels:
        raise AezError("no image could be read")
    return Images(np.stack(pixels), names, total)


def _num_images(job: Job) -> Generator[Event, None, int]:
    """Images of one input; 0, reported as failed, if it cannot be read."""
    if not isinstance(job, Source):
        return job.num_images
    try:
        with job.open() as source:
            return source.num_images
    except (AezError, OSError) as error:
        yield Failed.by(job.label, error)
        return 0


def _read(job: Job, wanted: list[int]) -> Iterator[tuple[str, U8] | Failed]:
    """Name and pixels of the images of one input, by their numbers in order."""
    if wanted and isinstance(job, Source):
        try:
            yield from _read_source(job, wanted)
        except (AezError, OSError) as error:
            yield Failed.by(job.label, error)
        return
    for number in wanted:
        source = next(job.inputs.part(number, number + 1))
        try:
            with source.place.open() as file:
                yield source.name, images.read_image(file, name=source.label)
        except (AezError, OSError) as error:
            yield Failed.by(source.label, error)


def _read_source(job: Source, wanted: list[int]) -> Iterator[tuple[str, U8] | Failed]:
    first = 0
    with job.open() as source:
        for batch in source.batches(READ_IMAGES):
            size = len(batch.contents or () if batch.pixels is None else batch.pixels)
            for number in wanted:
                if first <= number < first + size:
                    called = f"{job.source.place.name}[{number}]"
                    if batch.names is not None:
                        called = batch.names[number - first]
                    try:
                        yield called, image_of(batch, number - first, called)
                    except ImageError as error:
                        yield Failed.by(called, error)
            first += size
