"""`aez train`: images in, a model file with its card out, and a lossy model's encoder beside it."""

from __future__ import annotations

import functools
import io
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codec.errors import AezError, BadModel, ModelNotFound, UsageError
from codec.files.atomic import atomic
from codec.measure.curve import curve
from codec.model import registry
from codec.model.bundle import BaseModel
from codec.model.ladder import log2_lmbda
from codec.model.pixels import MAX_PALETTES
from codec.model.registry import unpack_model
from codec.train import data, others
from codec.train.loop import VALIDATION_QUALITIES, LadderTrainer, Trainer, cost_of, evaluate
from codec.train.lossless import export as pixels_export
from codec.train.lossless import warm_start
from codec.train.lossless.pixels import PixelConfig, PixelTrainer
from codec.train.lossy.export import export

DEFAULT_MINUTES = 24.0  # with the export, on one core, the whole takes less than half an hour
CALIBRATION_IMAGES = 5000
CARD_QUALITIES = tuple(range(0, 100, 11))
FEW_IMAGES = 1000
START_SAMPLE = 100  # images on which the model to start from is chosen


def train_command(
    sources: list[Path],
    out: Path,
    *,
    lossless: bool = False,
    hidden: int | None = None,
    most_palettes: int | None = None,
    start: str = "auto",
    minutes: float | None,
    seed: int,
    resume: bool,
    quiet: bool,
) -> None:
    """Train on `sources`, write the model to `out`; encoder, checkpoint and log lie beside it.

    lossless: a model of pixels instead of a lossy one; hidden: its width, None for the default;
    most_palettes: how many it has at most, None for as many as there can be. start: the model to
    start
    from: a name, a file, "none", or "auto" for that of the shipped ones which does best on these
    images. minutes: of training, all sessions of a resumed run together.
    Raises ImageError, ModelError, UsageError.
    """
    if out.suffix != ".safetensors":
        raise UsageError(f"{out}: a model file ends in .safetensors")
    if out.name.endswith(registry.ENCODER):
        raise UsageError(f"{out}: the name of an encoder's file, which comes beside the model's")
    checkpoint = checkpoint_of([out] if lossless else [out, registry.encoder_path(out)], resume)
    for option, value in (("--hidden", hidden), ("--palettes", most_palettes)):
        if value is not None and not lossless:
            raise UsageError(f"{option} is for lossless models: add --lossless")
    if hidden is not None and start not in ("auto", "none"):
        raise UsageError(
            "--hidden does not go with --from: the network is as wide as that of the model it "
            "starts from"
        )
    minutes = DEFAULT_MINUTES if minutes is None else minutes
    pixels = data.load(sources)
    train, held_out = data.split(pixels)
    log = out.with_suffix(".log.jsonl")
    parent = starting_model("none" if start == "auto" and hidden else start, train, lossless)
    trainer = trainer_of(
        pixels,
        parent,
        lossless=lossless,
        hidden=hidden,
        most_palettes=most_palettes,
        seed=seed,
        log=log,
    )
    if resume:
        go_on(trainer, checkpoint)
    tell: Callable[[str], None] = (
        (lambda line: None) if quiet else functools.partial(print, flush=True)
    )
    tell(
        f"{len(pixels)} images, {len(train)} to train on, {len(held_out)} held out; "
        f"starting from {'nothing' if parent is None else 'model ' + parent.name}"
    )
    if len(pixels) < FEW_IMAGES:
        tell(f"these are few: with {FEW_IMAGES} and more a model is much better")
    compared = others.measure(held_out)
    tell_others(compared, lossless, tell)
    header(lossless, tell)
    try:
        trainer.run(
            60 * minutes,
            checkpoint=checkpoint,
            progress=not quiet and sys.stderr.isatty(),
            tell=functools.partial(tell_figures, lossless, tell),
        )
    except KeyboardInterrupt:
        tell(f"{checkpoint} holds all there is: the same command with --resume goes on from it")
        raise
    if trainer.flat is not None:
        tell(
            f"no longer getting better after {trainer.flat / 60:.1f} minutes, finished after "
            f"{trainer.seconds / 60:.1f}"
        )
    command = [
        "aez",
        "train",
        *map(str, sources),
        "-o",
        str(out),
        "--minutes",
        f"{minutes:g}",
        "--seed",
        str(seed),
    ]
    command += ["--lossless"] * lossless + (["--hidden", str(hidden)] if hidden else [])
    command += ["--palettes", str(most_palettes)] if most_palettes else []
    command += ["--from", "none" if parent is None else parent.name if start == "auto" else start]
    model = write_model(trainer, pixels, out, out.stem, seed, shlex.join(command), parent)
    checkpoint.unlink(missing_ok=True)
    rows = model.card["figures"]["curve"]
    tell("the model as it was written, on the held-out images:")
    for row in rows:
        error = "every pixel" if row["psnr_db"] is None else f"{row['psnr_db']:.2f} dB"
        tell(f"quality {row['quality']:2d}: {row['bytes']:6.2f} bytes an image, {error}")
    if not lossless:
        for quality, num_bytes, psnr in compared.webp:
            ours = None if psnr is None else bytes_at(rows, psnr)
            if ours is not None:
                tell(
                    f"WebP's {psnr:.1f} dB, {num_bytes:.0f} bytes at its quality {quality}, take "
                    f"{ours:.1f} bytes"
                )
    tell(f"use it with: aez compress {'--lossless ' * lossless}-m {shlex.quote(str(out))} INPUT...")


def checkpoint_of(outputs: list[Path], resume: bool) -> Path:
    """Where the checkpoint of a run lies: beside its first output.

    Raises AezError if an output exists; UsageError if its folder does not, if there is no
    checkpoint to resume from, or one that is not to be resumed from.
    """
    out = outputs[0]
    if not out.parent.is_dir():
        raise UsageError(f"{out.parent}: no such directory")
    for output in outputs:
        if output.exists():  # now, not after an hour of training
            raise AezError(f"output {output} exists, and a model is never overwritten")
    checkpoint = out.with_suffix(".checkpoint.pt")
    if resume and not checkpoint.exists():
        raise UsageError(f"{checkpoint}: no checkpoint to resume from")
    if not resume and checkpoint.exists():
        raise UsageError(f"{checkpoint} is there: go on from it with --resume, or delete it")
    return checkpoint


def starting_model(start: str, pixels: data.U8, lossless: bool) -> BaseModel | None:
    """The model that `start` stands for (see `train_command`); None to start from nothing.

    Raises ModelError, UsageError.
    """
    if start == "none":
        return None
    if start != "auto":
        return registry.by_name(start, lossless)
    sample = pixels[np.linspace(0, len(pixels) - 1, min(START_SAMPLE, len(pixels))).astype(int)]
    try:
        models = registry.shipped(lossless)
    except ModelNotFound:
        return None
    return min(models, key=lambda model: curve_cost(model, sample))


def trainer_of(
    pixels: data.U8,
    parent: BaseModel | None,
    *,
    lossless: bool,
    hidden: int | None = None,
    most_palettes: int | None = None,
    seed: int,
    log: Path,
) -> Trainer:
    """A trainer of the kind wanted, its network that of `parent` if there is one.

    Raises BadModel naming it.
    """
    try:
        if not lossless:
            return LadderTrainer(pixels, seed=seed, log=log, start=parent)
        if parent is not None:
            config = warm_start.config_of(parent.stream)
        else:
            config = PixelConfig() if hidden is None else PixelConfig(hidden=hidden)
        trainer = PixelTrainer(
            pixels, seed=seed, config=config, most_palettes=most_palettes or MAX_PALETTES, log=log
        )
        if parent is None:
            return trainer
        warm_start.fill(trainer.net, parent.stream)
        trainer.warm = True
        return trainer
    except BadModel as error:
        raise BadModel(f"{parent.name}: {error}" if parent else str(error)) from error


def curve_cost(model: BaseModel, pixels: data.U8) -> float:
    """What `model` costs on uint8 (N, 28, 28), over the qualities that training is measured at."""
    rows = curve(model, pixels, VALIDATION_QUALITIES)
    if model.lossless:
        return float(rows[0]["bytes"])
    return cost_of([(row["quality"], row["bytes"], row["psnr_db"]) for row in rows])


def go_on(trainer: Trainer, checkpoint: Path) -> None:
    """Load a checkpoint into `trainer`.  Raises UsageError naming the file."""
    stream = io.BytesIO(checkpoint.read_bytes())
    try:
        # weights_only: a checkpoint is a pickle, and a stranger's pickle is a program.
        state = torch.load(stream, weights_only=True, map_location=trainer.device)
    except Exception as error:  # of many kinds, whatever the file is
        raise UsageError(f"{checkpoint}: no checkpoint, or a damaged one") from error
    try:
        trainer.load(state)
    except UsageError as error:
        raise UsageError(f"{checkpoint} {error}") from error


def tell_others(compared: others.Others, lossless: bool, tell: Callable[[str], None]) -> None:
    """Say what PNG and WebP make of the held-out images."""
    tell("held-out images, bytes of one file each:")
    webp = "" if compared.webp_lossless is None else f", WebP lossless {compared.webp_lossless:.1f}"
    tell(f"  PNG {compared.png:.1f}{webp}")
    if compared.webp and not lossless:
        points = (
            f"q{q} {b:.1f} B {'exact' if psnr is None else f'{psnr:.1f} dB'}"
            for q, b, psnr in compared.webp
        )
        tell("  WebP " + ", ".join(points))


def header(lossless: bool, tell: Callable[[str], None]) -> None:
    """Name the columns of `tell_figures`."""
    columns = ["lossless"] if lossless else [f"quality {q}" for q in VALIDATION_QUALITIES]
    tell("this model, estimated:")
    tell("minutes" + "".join(f"{column:>16}" for column in columns))


def tell_figures(
    lossless: bool, tell: Callable[[str], None], seconds: float, figures: dict[str, Any]
) -> None:
    """One line of a table: bytes and PSNR at each quality."""
    if lossless:
        cells = [f"{figures['estimated_bytes']:.1f} B"]
    else:
        cells = [f"{num_bytes:.1f} B {psnr:.1f} dB" for num_bytes, psnr, _ in figures["curve"]]
    tell(f"{seconds / 60:7.1f}" + "".join(f"{cell:>16}" for cell in cells))


def write_model(
    trainer: Trainer,
    pixels: data.U8,
    out: Path,
    name: str,
    seed: int,
    command: str,
    parent: BaseModel | None = None,
) -> BaseModel:
    """Export what `trainer` holds, with a card of figures on the held-out images.

    out: the model's file; neither it nor that of the encoder beside it must exist.
    """
    train, held_out = data.split(pixels)
    figures: dict[str, Any] = {"on": f"{len(held_out)} held-out images, not trained on"}
    if not isinstance(trainer, PixelTrainer):
        trainer.net.set_quantized(False)
        figures["float_parent"] = float_curve(trainer, held_out)
    trainer.net.set_quantized(True)
    start = parent and f"{parent.name} {parent.hash.hex()}"
    card = card_of(trainer, name, train, seed, command, start)

    def bundles() -> tuple[bytes, bytes | None]:
        if isinstance(trainer, PixelTrainer):
            return pixels_export.export(trainer.net, card), None
        return export(trainer.net, card, train[-CALIBRATION_IMAGES:])

    figures["curve"] = curve(unpack_model(*bundles()), held_out, CARD_QUALITIES)
    card["figures"] = figures
    stream, encoder = bundles()
    if encoder is not None:  # before the model, which is thus never there without it
        with atomic(registry.encoder_path(out), durable=True) as file:
            file.write(encoder)
    with atomic(out, durable=True) as file:
        file.write(stream)
    return unpack_model(stream, encoder)


def card_of(
    trainer: Trainer, name: str, train: data.U8, seed: int, command: str, start: str | None
) -> dict[str, Any]:
    """A card that says how what `trainer` holds was made.

    name: of the model; train: the images trained on; start: name and hash of what it began with.
    """
    training = {
        "steps": trainer.steps,
        "seconds": round(trainer.seconds),
        "seed": seed,
        "torch": torch.__version__,
    }
    if start:
        training["from"] = start
    trained_on = f"{len(train)} images, sha256 {data.sha256(train)}"
    return {"name": name, "trained_on": trained_on, "command": command, "training": training}


def float_curve(trainer: Trainer, pixels: data.U8) -> list[dict[str, Any]]:
    """The network before any rounding of weights: estimated bytes (ideal, no container) and PSNR by
    quality.
    """
    tensor = torch.from_numpy(pixels.copy()).to(trainer.device)
    rows = evaluate(trainer.net, tensor, [log2_lmbda(q) for q in CARD_QUALITIES])
    return [
        {"quality": q, "estimated_bytes": row["estimated_bytes"], "psnr_db": row["psnr_db"]}
        for q, row in zip(CARD_QUALITIES, rows, strict=True)
    ]


def bytes_at(rows: list[dict[str, Any]], psnr_db: float) -> float | None:
    """Bytes at a PSNR, log bytes on the straight line between the two qualities around it; None
    outside the curve.
    """
    points = sorted((row["psnr_db"], row["bytes"]) for row in rows if row["psnr_db"] is not None)
    if not points or not points[0][0] <= psnr_db <= points[-1][0]:
        return None
    return float(np.exp(np.interp(psnr_db, [p[0] for p in points], [np.log(p[1]) for p in points])))
