"""`aez train`: images in, a model file with its card out."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from codec.bundle import BaseModel
from codec.errors import AezError, UsageError
from codec.evaluate import curve
from codec.model import log2_lmbda
from codec.registry import unpack_model
from codec.train import data, pixels_export
from codec.train.export import export
from codec.train.loop import LadderTrainer, Trainer, evaluate
from codec.train.pixels import PixelConfig, PixelTrainer

DEFAULT_MINUTES = 24.0  # with the export, on one core, the whole takes less than half an hour
CALIBRATION_IMAGES = 5000
CARD_QUALITIES = tuple(range(0, 100, 11))


def train_command(
    sources: list[Path],
    out: Path,
    *,
    lossless: bool = False,
    hidden: int | None = None,
    minutes: float | None,
    seed: int,
    resume: bool,
    quiet: bool,
) -> None:
    """Train on `sources`, write the model to `out`; the checkpoint and the log lie beside it until then.

    lossless: a model of pixels instead of a lossy one; hidden: its width, None for the default. minutes: of training, all
    sessions of a resumed run together.
    Raises ImageError, UsageError.
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
    if lossless:
        config = PixelConfig() if hidden is None else PixelConfig(hidden=hidden)
        trainer: Trainer = PixelTrainer(pixels, seed=seed, config=config, log=log)
    elif hidden is not None:
        raise UsageError("--hidden is for lossless models: add --lossless")
    else:
        trainer = LadderTrainer(pixels, seed=seed, log=log)
    if resume:
        # weights_only: a checkpoint is a pickle, and a stranger's pickle is a program.
        trainer.load(torch.load(checkpoint, weights_only=True, map_location=trainer.device))
    trainer.run(60 * minutes, checkpoint=checkpoint, progress=not quiet and sys.stderr.isatty())
    command = ["aez", "train", *map(str, sources), "-o", str(out), "--minutes", f"{minutes:g}", "--seed", str(seed)]
    command += ["--lossless"] * lossless + (["--hidden", str(hidden)] if hidden else [])
    model = write_model(trainer, pixels, out, out.stem, seed, shlex.join(command))
    checkpoint.unlink(missing_ok=True)
    if not quiet:
        for row in model.card["figures"]["curve"]:
            error = "lossless" if row["psnr_db"] is None else f"{row['psnr_db']:.2f} dB"
            print(f"quality {row['quality']:2d}: {row['bytes']:6.2f} bytes an image, {error}")
        print(f"use it with: aez compress {'--lossless ' * lossless}-m {shlex.quote(str(out))} INPUT...")


def write_model(trainer: Trainer, pixels: data.U8, out: Path, name: str, seed: int, command: str) -> BaseModel:
    """Export what `trainer` holds, with a card of figures on the held-out images, to `out`, which must not exist."""
    train, held_out = data.split(pixels)
    figures: dict[str, Any] = {"on": f"{len(held_out)} held-out images, not trained on"}
    if not isinstance(trainer, PixelTrainer):
        trainer.net.set_quantized(False)
        figures["float_parent"] = float_curve(trainer, held_out)
    trainer.net.set_quantized(True)
    card: dict[str, Any] = {
        "name": name,
        "trained_on": f"{len(train)} images, sha256 {data.sha256(train)}",
        "command": command,
        "training": {"steps": trainer.steps, "seconds": round(trainer.seconds), "seed": seed, "torch": torch.__version__},
    }

    def bundle() -> bytes:
        if isinstance(trainer, PixelTrainer):
            return pixels_export.export(trainer.net, card)
        return export(trainer.net, card, train[-CALIBRATION_IMAGES:])

    figures["curve"] = curve(unpack_model(bundle()), held_out, CARD_QUALITIES)
    card["figures"] = figures
    stream = bundle()
    with out.open("xb") as file:
        file.write(stream)
    return unpack_model(stream)


def float_curve(trainer: Trainer, pixels: data.U8) -> list[dict[str, Any]]:
    """The network before any rounding of weights: estimated bytes (ideal, no container) and PSNR by quality."""
    tensor = torch.from_numpy(pixels.copy()).to(trainer.device)
    rows = evaluate(trainer.net, tensor, [log2_lmbda(q) for q in CARD_QUALITIES])
    return [
        {"quality": q, "estimated_bytes": row["estimated_bytes"], "psnr_db": row["psnr_db"]}
        for q, row in zip(CARD_QUALITIES, rows, strict=True)
    ]
