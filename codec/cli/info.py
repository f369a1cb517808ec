"""`aez info`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from codec.cli import options as opt
from codec.cli.printing import Screen, failures, images, put
from codec.errors import shown
from codec.format.constants import NEAR_LOSSLESS

if TYPE_CHECKING:
    from codec.collection.open import ModelUse, StreamInfo

EXAMPLES = (
    ("aez info digits.aez", "how many images, which models, how many bytes"),
    ("aez info results/", "a line for each stream in a folder"),
    ("aez info digits.aez --json", "the same for programs"),
)
MAX_SHOWN_QUALITIES = 12


def info(files: opt.Streams, as_json: opt.Json = False) -> None:
    """Show what the headers say, without decoding."""
    import dataclasses

    from codec.commands.check import describe
    from codec.commands.events import Result

    result = Result()
    screen = Screen(quiet=True)
    screen.run(describe(files), result)
    if not as_json:
        for name, stream in result.described:
            first, *more = _lines(stream)
            for line in (f"{name}: {first}", *more):
                put(shown(line))
    elif len(files) > 1:
        found = [{"file": name, **dataclasses.asdict(stream)} for name, stream in result.described]
        put(json.dumps({"files": found, "failed": failures(result)}))
    else:
        for _, stream in result.described:
            put(json.dumps(dataclasses.asdict(stream)))
    raise typer.Exit(result.exit_code)


def _lines(stream: StreamInfo) -> Iterator[str]:
    """What is said of a stream: one line, and more if its images are not all coded alike."""
    if not stream.images:
        yield f"no images, {stream.bytes} bytes, format {stream.format_version}"
        return
    bpp = 8 * stream.bytes / (stream.width * stream.height * stream.images)
    yield (
        f"{images(stream.images)} {stream.width}x{stream.height}, {_model(stream)}, "
        f"{_quality(stream)}, {_labels(stream)}{stream.bytes} bytes ({stream.payload_bytes} "
        f"payload, {bpp:.2f} bpp), format {stream.format_version}"
    )
    if len(stream.models) > 1:
        for model in sorted(stream.models, key=lambda model: -model.images):
            size = f"{images(model.images)}, {model.payload_bytes} bytes of payload"
            yield f"    {_called(model)}: {size}"
    if len(stream.qualities) > 1:
        yield f"    {_qualities(stream.qualities)}"


def _labels(stream: StreamInfo) -> str:
    if stream.labels is None:
        return ""
    return f"{stream.labels} different label{'s' * (stream.labels > 1)}, "


def _model(stream: StreamInfo) -> str:
    if stream.model_number is not None:
        return f"model number {stream.model_number}, which only a later version of aez may know"
    if not stream.models:
        return "stored without a model"
    return _called(stream.models[0]) if len(stream.models) == 1 else f"{len(stream.models)} models"


def _called(model: ModelUse) -> str:
    if model.name is None:
        return f"model {model.hash}, which is not installed"
    return f"model {model.name} ({model.hash})"


def _quality(stream: StreamInfo) -> str:
    if stream.lossless:
        return "lossless"
    if stream.max_error is not None:
        return f"largest error {stream.max_error}"
    lowest, highest = min(stream.qualities), max(stream.qualities)
    return f"quality {lowest}" if lowest == highest else f"qualities {lowest} to {highest}"


def _qualities(counts: dict[int, int]) -> str:
    """How many images have which quality; those of few images together, if there are many."""
    most = sorted(counts, key=lambda quality: -counts[quality])[:MAX_SHOWN_QUALITIES]
    said = [f"{_named(quality)}: {images(counts[quality])}" for quality in sorted(most)]
    if others := sum(counts[quality] for quality in counts if quality not in most):
        said.append(f"{len(counts) - len(most)} others: {images(others)}")
    return ", ".join(said)


def _named(quality: int) -> str:
    if quality > NEAR_LOSSLESS:
        return f"largest error {quality - NEAR_LOSSLESS}"
    return "lossless" if quality >= 100 else f"quality {quality}"
