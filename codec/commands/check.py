"""`aez test` and `aez info`: read streams, write nothing."""

from __future__ import annotations

from collections.abc import Sequence

from codec import api, parallel
from codec.collection.block import Verdict
from codec.commands.events import Checked, Described, Events, Failed, expected, guarded
from codec.commands.inputs import Input, find_streams
from codec.commands.stream import open_stream


def check(inputs: Sequence[str], model: str | None = None, *, jobs: int = 1) -> Events:
    """Decode every stream in full, and report which ones are intact."""
    sources = yield from find_streams(inputs)
    yield from expected(len(sources))
    for source in sources:
        with parallel.cores(jobs):
            yield from guarded(source.label, _check_one(source, model, jobs))


def _check_one(source: Input, model: str | None, jobs: int) -> Events:
    num_images, whole = 0, True
    with open_stream(source, model) as stream:
        yield from expected(stream.num_images - 1)
        for item in stream.intact(stream.verdicts(jobs)):
            if isinstance(item, Verdict):
                num_images += len(item.images)
                continue
            whole &= not isinstance(item, Failed)
            yield item
    yield Checked(source.label, num_images, whole)


def describe(inputs: Sequence[str]) -> Events:
    """Read the headers of streams, without decoding."""
    for source in (yield from find_streams(inputs)):
        yield from guarded(source.label, _describe_one(source))


def _describe_one(source: Input) -> Events:
    with source.place.open() as file:
        yield Described(source.label, api.info(file))
