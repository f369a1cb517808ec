"""`aez models`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from codec.cli import options as opt
from codec.cli.printing import put
from codec.errors import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from codec.api import ModelInfo

EXAMPLES = (
    ("aez models", "a table"),
    ("aez models --json", "hashes, paths, figures, for programs"),
    ("AEZ_WEIGHTS=my_models aez models", "also those in a folder of yours"),
)
MAX_SHOWN_POINTS = 12


def models(as_json: opt.Json = False) -> None:
    """List the models that are installed."""
    import dataclasses

    from codec import api

    found = api.models()
    if as_json:
        listed = [dataclasses.asdict(model) for model in found]
        put(json.dumps({"models": listed}, default=str))
        return
    for model in found:
        for line in _lines(model):
            put(shown(line))


def _lines(model: ModelInfo) -> Iterator[str]:
    kind = "lossless" if model.lossless else "lossy"
    yield f"{model.name}  {kind}  {model.hash}  {model.bytes} bytes  {model.path}"
    yield f"    trained on {model.trained_on or 'unknown images'}"
    if not model.lossless:
        missing = "missing: this model can only decode"
        yield f"    encoder {model.encoder_hash or missing}"
    curve = model.figures.get("curve")
    points = curve if isinstance(curve, list) else []
    for point in [point for point in points if isinstance(point, dict)][:MAX_SHOWN_POINTS]:
        quality, num_bytes, psnr_db = (point.get(key) for key in ("quality", "bytes", "psnr_db"))
        seen = "lossless" if quality == 100 else f"quality {quality}"
        dist = "" if psnr_db is None else f", {psnr_db} dB"
        yield f"    {seen}: {num_bytes} bytes per image{dist}"
