"""`aez train`: images in, a model file with its card out."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from codec.errors import AezError, UsageError
from codec.evaluate import curve
from codec.model import Model, log2_lmbda
from codec.train import data
from codec.train.export import export
from codec.train.loop import Trainer, evaluate

DEFAULT_MINUTES = 30.0
CALIBRATION_IMAGES = 5000
CARD_QUALITIES = tuple(range(0, 100, 11))


def train_command(
    sources: list[Path], out: Path, *, minutes: float | None, seed: int, resume: bool, quiet: bool, name: str | None = None
) -> None:
    """Train on `sources`, write the model to `out`; the checkpoint and the log lie beside it until then.

    minutes: of training, all sessions of a resumed run together.  Raises ImageError, UsageError.
    """
    if out.suffix != ".safetensors":
        raise UsageError(f"{out}: a model file ends in .safetensors")
    if not out.parent.is_dir():
        raise UsageError(f"{out.parent}: no such directory")
    if out.exists():  # now, not after an hour of training
        raise AezError(f"output {out} exists, and a model is never overwritten")
    checkpoint, log = out.with_suffix(".checkpoint.pt"), out.with_suffix(".log.jsonl")
    if resume and not checkpoint.exists():
        raise UsageError(f"{checkpoint}: no checkpoint to resume from")
    if not resume and checkpoint.exists():
        raise UsageError(f"{checkpoint} is there: go on from it with --resume, or delete it")
    minutes = DEFAULT_MINUTES if minutes is None else minutes
    pixels = data.load(sources)
    trainer = Trainer(pixels, seed=seed, log=log)
    if resume:
        # weights_only: a checkpoint is a pickle, and a stranger's pickle is a program.
        trainer.load(torch.load(checkpoint, weights_only=True, map_location=trainer.device))
    trainer.run(60 * minutes, checkpoint=checkpoint, progress=not quiet and sys.stderr.isatty())
    command = shlex.join(["aez", "train", *map(str, sources), "-o", str(out), "--minutes", f"{minutes:g}", "--seed", str(seed)])
    model = write_model(trainer, pixels, out, name or out.stem, seed, command)
    checkpoint.unlink(missing_ok=True)
    if not quiet:
        for row in model.card["figures"]["curve"]:
            print(f"quality {row['quality']:2d}: {row['bytes']:6.2f} bytes an image, {row['psnr_db']:.2f} dB")
        print(f"use it with: aez compress -m {shlex.quote(str(out))} INPUT...")


def write_model(trainer: Trainer, pixels: data.U8, out: Path, name: str, seed: int, command: str) -> Model:
    """Export what `trainer` holds, with a card of figures on the held-out images, to `out`, which must not exist."""
    train, held_out = data.split(pixels)
    trainer.net.set_quantized(False)
    parent = float_curve(trainer, held_out)
    trainer.net.set_quantized(True)
    card: dict[str, Any] = {
        "name": name,
        "trained_on": f"{len(train)} images, sha256 {data.sha256(train)}",
        "command": command,
        "training": {"steps": trainer.steps, "seconds": round(trainer.seconds), "seed": seed, "torch": torch.__version__},
    }
    model = Model(export(trainer.net, card, train[-CALIBRATION_IMAGES:]))
    card["figures"] = {
        "on": f"{len(held_out)} held-out images, not trained on",
        "curve": curve(model, held_out, CARD_QUALITIES),
        "float_parent": parent,
    }
    stream = export(trainer.net, card, train[-CALIBRATION_IMAGES:])
    with out.open("xb") as file:
        file.write(stream)
    return Model(stream)


def float_curve(trainer: Trainer, pixels: data.U8) -> list[dict[str, Any]]:
    """The network before any rounding of weights: estimated bytes (ideal, no container) and PSNR by quality."""
    tensor = torch.from_numpy(pixels.copy()).to(trainer.device)
    rows = evaluate(trainer.net, tensor, [log2_lmbda(q) for q in CARD_QUALITIES])
    return [
        {"quality": q, "estimated_bytes": row["estimated_bytes"], "psnr_db": row["psnr_db"]}
        for q, row in zip(CARD_QUALITIES, rows, strict=True)
    ]
