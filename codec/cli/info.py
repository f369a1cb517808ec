"""`aez info`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from codec.cli import options as opt
from codec.cli.printing import Screen, failures, images, shown

if TYPE_CHECKING:
    from codec.api import StreamInfo


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
            typer.echo(shown(f"{name}: {_line(stream)}"))
    elif len(files) > 1:
        found = [{"file": name, **dataclasses.asdict(stream)} for name, stream in result.described]
        typer.echo(json.dumps({"files": found, "failed": failures(result)}))
    else:
        for _, stream in result.described:
            typer.echo(json.dumps(dataclasses.asdict(stream)))
    raise typer.Exit(result.exit_code)


def _line(stream: StreamInfo) -> str:
    num_pixels = stream.width * stream.height * stream.images
    bpp = f", {8 * stream.bytes / num_pixels:.2f} bpp" if num_pixels else ""
    return (
        f"{images(stream.images)} {stream.width}x{stream.height}, {_model(stream)}, "
        f"{'lossless' if stream.lossless else f'quality {stream.quality}'}, "
        f"{_labels(stream)}{stream.bytes} bytes ({stream.payload_bytes} payload{bpp}), "
        f"format {stream.format_version}"
    )


def _labels(stream: StreamInfo) -> str:
    if stream.labels is None:
        return ""
    return f"{stream.labels} different label{'s' * (stream.labels > 1)}, "


def _model(stream: StreamInfo) -> str:
    if stream.quality == 101:
        return "stored without a model"
    return f"model {stream.model or 'unknown'} ({stream.model_hash})"
