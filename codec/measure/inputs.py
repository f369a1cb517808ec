"""Which images `aez bench` measures: those that `aez compress` would read, or a sample of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from codec.arrays import U8, spread
from codec.commands import inputs as commands
from codec.commands.inputs import Report, Task
from codec.errors import AezError, UsageError
from codec.files import images

READ_IMAGES = 4096  # of an array, at once


class Images(NamedTuple):
    pixels: U8  # (N, 28, 28)
    names: list[str]
    total: int  # how many images there are, measured or not


def read(inputs: Sequence[str], max_images: int, report: Report) -> Images:
    """Read files, directories, arrays and URLs, in the order of `aez compress`.

    Of more than `max_images` images, only a sample of that many, evenly spread, is read. What
    cannot be read is a failure in the report. Raises UsageError; AezError if no image is left.
    """
    if "-" in inputs:
        raise UsageError("bench reads files, directories and URLs, not stdin")
    tasks = commands.plan_compress(inputs, None, False, report)
    sizes = [_num_images(task, report) for task in tasks]
    total = sum(sizes)
    sample = spread(total, min(max_images, total))
    pixels: list[U8] = []
    names: list[str] = []
    first = 0
    for task, size in zip(tasks, sizes, strict=True):
        wanted = (sample[(sample >= first) & (sample < first + size)] - first).tolist()
        first += size
        with report.guard(task.label):
            for name, image in _read(task, wanted, report):
                names.append(name)
                pixels.append(image)
    if not pixels:
        raise AezError("no image could be read: nothing to measure")
    return Images(np.stack(pixels), names, total)


def _num_images(task: Task, report: Report) -> int:
    """Images of one input; 0, and a failure in the report, if it cannot be read."""
    if task.kind != "array":
        return len(task.sources)
    source = next(iter(task.sources))
    with (
        report.guard(task.label),
        commands.open_stream(source) as file,
        images.open_array(file, source.label) as array,
    ):
        return int(array.num_images)
    return 0


def _read(task: Task, wanted: list[int], report: Report) -> Iterator[tuple[str, U8]]:
    """Name and pixels of the images of one input, by their numbers in order."""
    if not wanted:
        return
    if task.kind == "array":
        yield from _read_array(next(iter(task.sources)), wanted)
        return
    for number in wanted:
        source = next(task.sources.part(number, number + 1))
        with report.guard(source.label):
            with commands.open_stream(source) as file:
                image = images.read_image(file, source.label)
            yield source.name, image


def _read_array(source: commands.Source, wanted: list[int]) -> Iterator[tuple[str, U8]]:
    base, first = source.name.rpartition("/")[2], 0
    with commands.open_stream(source) as file, images.open_array(file, source.label) as array:
        for pixels in array.blocks(READ_IMAGES):
            for number in wanted:
                if first <= number < first + len(pixels):
                    yield f"{base}[{number}]", pixels[number - first].copy()
            first += len(pixels)
