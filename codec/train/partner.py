"""What the lossless model of a name gives near-lossless, onto the card of the lossy one's encoder.

    python -m codec.train.partner DATA --of fashion -o weights/fashion-X.encoder.safetensors -f

`encoder.scale` finds there from which quality on that is better than the lossy model. Only the card
changes: the encoder computes what it did.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from codec.arrays import U8
from codec.files.atomic import atomic
from codec.format.constants import NEAR_LOSSLESS
from codec.measure import tool
from codec.measure.curve import curve
from codec.model import registry
from codec.model.bundle import Model, unpack_bundle
from codec.model.ladder_encoder import LadderEncoder
from codec.train import data
from codec.train.bundle import pack_bundle


def near_lossless(model: Model, pixels: U8) -> list[dict[str, Any]]:
    """Bytes and PSNR of uint8 (N, 28, 28) at each bound that a grid of the model just keeps."""
    bounds = [step // 2 for step in model.grid_steps]
    rows = curve(model, pixels, [NEAR_LOSSLESS + bound for bound in bounds])
    return [
        {"max_error": bound, "bytes": row["bytes"], "psnr_db": row["psnr_db"]}
        for bound, row in zip(bounds, rows, strict=True)
    ]


def main(
    sources: Annotated[list[Path], typer.Argument(help="Images as for `aez train`.")],
    of: Annotated[str, typer.Option(metavar="MODEL", help="Name of a lossy model.")],
    out: tool.Out,
    force: tool.Force = False,
) -> None:
    """Put figures of the lossless model onto the card of the lossy model's encoder."""
    lossy, lossless = registry.by_name(of, False), registry.by_name(of, True)
    held_out = data.split(data.load(sources))[1]
    _, tensors, card = unpack_bundle(lossy.encoder_stream)
    figures = dict(card.get("figures", {}))
    figures["near_lossless"] = near_lossless(lossless, held_out)
    figures["near_lossless_model"] = lossless.hash.hex()
    stream = pack_bundle(
        {name: np.asarray(tensor) for name, tensor in tensors.items()},
        {**card, "figures": figures},
        LadderEncoder.ARCHITECTURE,
    )
    with atomic(out, force=force, durable=True) as file:
        file.write(stream)


if __name__ == "__main__":
    tool.run(main)
