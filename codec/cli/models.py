"""`aez models`."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from codec.cli import options as opt
from codec.cli.printing import put
from codec.errors import shown

if TYPE_CHECKING:
    from codec.api import ModelInfo

EXAMPLES = (
    ("aez models", "a table"),
    ("aez models --json", "hashes, paths, figures, for programs"),
    ("AEZ_WEIGHTS=my_models aez models", "also those in a folder of yours"),
)

QUALITIES = (25, 75, 100)
# What the shipped models are for, by name without "-lossless"; of others the card says how many
# images they know.
PURPOSES = {"mnist": "digits", "fashion": "clothes", "generic": "all others"}
HEADS = ("name", "kind", "for", *(f"q{quality}" for quality in QUALITIES), "MB", "encoder")
TO_THE_RIGHT = (*(f"q{quality}" for quality in QUALITIES), "MB")
NONE = "-"
MAX_COLUMN = 30  # characters that a name or a purpose can take before it moves the others
LEGEND = """
q25, q75, q100: about how many bytes an image takes at this -q, if it is like
  those that the model was trained on; 100 is lossless.
near: also near-lossless, --max-error. encoder: without it a model can only
  decode; a lossless model needs none.
aez compress picks a model itself; -m NAME takes this one.
Hashes, paths and all figures: aez models --json
"""


def models(as_json: opt.Json = False) -> None:
    """List the models that are installed.

    They are part of aez, or in the directories that $AEZ_WEIGHTS names.
    """
    from codec import api

    found = [_described(model) for model in api.models()]
    if as_json:
        put(json.dumps({"models": found}, default=str))
        return
    rows = [HEADS, *(_row(model) for model in found)]
    widths = [
        max(len(cell) for cell in column if len(cell) <= MAX_COLUMN)
        for column in zip(*rows, strict=True)
    ]
    for row in rows:
        cells = (
            cell.rjust(width) if head in TO_THE_RIGHT else cell.ljust(width)
            for head, cell, width in zip(HEADS, row, widths, strict=True)
        )
        put("  ".join(cells).rstrip())
    put(LEGEND, nl=False)


def _described(model: ModelInfo) -> dict[str, Any]:
    """What there is to say of a model, for programs."""
    from pathlib import Path

    from codec.model import registry

    name = model.name.removesuffix(registry.LOSSLESS)
    is_shipped = model.hash in registry.MODEL_IDS.values()
    return {
        **dataclasses.asdict(model),
        "kind": "lossless" if model.lossless else "lossy",
        "near_lossless": bool(registry.load_cached(Path(model.path)).grid_steps),
        "purpose": PURPOSES.get(name) if is_shipped else None,
        "image_bytes": {str(quality): _bytes_at(model, quality) for quality in QUALITIES},
    }


def _bytes_at(model: ModelInfo, quality: int) -> float | None:
    """Bytes an image at a quality, between those of the card; None if it does not say."""
    import numpy as np

    from codec.model import card

    if (quality == 100) != model.lossless:
        return None
    figures = dict(model.figures)
    if model.lossless and isinstance(points := figures.get("curve"), list):
        figures["curve"] = [{"quality": 0, "bytes": 0}, *points]  # a curve has two points
    qualities, sizes = card.curve(figures, "bytes")
    if not len(qualities) or not qualities[0] <= quality <= qualities[-1]:
        return None
    return round(float(np.interp(quality, qualities, sizes)), 2)


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    encoder = "yes" if model["encoder_hash"] else "missing"
    purpose = model["purpose"] or str(model["trained_on"]).partition(",")[0]
    sizes = model["image_bytes"].values()
    return (
        shown(model["name"]),
        f"{model['kind']}{', near' * model['near_lossless']}",
        shown(purpose) or "unknown",
        *(NONE if size is None else f"{size:.1f}" for size in sizes),
        f"{model['bytes'] / 1e6:.1f}",
        NONE if model["lossless"] else encoder,
    )
