"""`aez train`: images in, a model file with its card out, and a lossy model's encoder beside it.

pixels = data.load(sources)                    # some of them are held out
trainer = trainer_of(pixels, starting_model)   # lossy or lossless
trainer.run(minutes)                           # until it is flat, or the time is over
model = write_model(trainer)                   # integers, measured on the held-out images
"""

from __future__ import annotations

import functools
import math
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from codec.arrays import spread
from codec.errors import AezError, BadModel, ModelNotFound, UsageError
from codec.files.atomic import atomic
from codec.measure.curve import curve
from codec.measure.points import bytes_at
from codec.model import registry
from codec.model.bundle import Model
from codec.model.ladder_parts import log2_lmbda
from codec.model.pixels_parts import MAX_PALETTES
from codec.model.registry import unpack_model
from codec.train import data, others
from codec.train.loop import Progress, Trainer
from codec.train.loop import resume as resume_from
from codec.train.lossless import export as pixels_export
from codec.train.lossless import warm_start
from codec.train.lossless.palettes import GRID_STEPS
from codec.train.lossless.pixels import PixelConfig, PixelTrainer
from codec.train.lossy.export import export
from codec.train.lossy.trainer import VALIDATION_QUALITIES, LadderTrainer, cost_of, evaluate

Tell = Callable[[str], None]

DEFAULT_MINUTES = 24.0  # with the export, less than half an hour on one core
CALIBRATION_IMAGES = 5000
CARD_QUALITIES = tuple(range(0, 100, 11))
FEW_IMAGES = 1000
START_SAMPLE = 100  # images that decide which model to start from


def train_command(
    sources: list[Path],
    out: Path,
    *,
    lossless: bool = False,
    hidden: int | None = None,
    most_palettes: int | None = None,
    grids: bool = False,
    start: str = "auto",
    rate: float = 1.0,
    minutes: float | None,
    seed: int,
    resume: bool,
    quiet: bool,
    progress: Progress = lambda what, spent, total: None,
) -> None:
    """Train on `sources`, write the model to `out`; encoder, checkpoint and log lie beside it.

    lossless: a lossless model instead of a lossy one; hidden: its width, at least that of the model
    to start from, None for the same or the default;
    most_palettes: how many palettes it has at most, None for no limit; grids: it also learns images
    that are rounded to multiples of a step. start: the model to start from: a name, a file, "none",
    or "auto" for the shipped one that is best on these images. rate: the learning rate, as a share
    of the usual one. minutes: of training, over all sessions of a resumed run. progress: see
    `Trainer.run`.
    Raises ImageError, ModelError, UsageError; AezError if an output exists.
    """
    if out.suffix != ".safetensors":
        raise UsageError(f"{out}: the name of a model file must end in .safetensors")
    if out.name.endswith(registry.ENCODER):
        raise UsageError(f"{out}: this name is for the encoder, which is written beside the model")
    checkpoint = checkpoint_of([out] if lossless else [out, registry.encoder_path(out)], resume)
    for option, value in (
        ("--hidden", hidden),
        ("--palettes", most_palettes),
        ("--grids", grids or None),
    ):
        if value is not None and not lossless:
            raise UsageError(f"{option} is for lossless models: add --lossless")
    if grids and most_palettes is not None and most_palettes <= len(GRID_STEPS):
        raise UsageError(
            f"--grids takes {len(GRID_STEPS)} palettes, exact images one: "
            f"at least --palettes {len(GRID_STEPS) + 1}"
        )
    minutes = DEFAULT_MINUTES if minutes is None else minutes
    pixels = data.load(sources)
    train, held_out = data.split(pixels)
    parent = starting_model("none" if start == "auto" and hidden else start, train, lossless)
    trainer = trainer_of(
        pixels,
        parent,
        lossless=lossless,
        hidden=hidden,
        most_palettes=most_palettes,
        grids=grids,
        seed=seed,
        log=out.with_suffix(".log.jsonl"),
    )
    trainer.rate = rate
    if rate < 1:  # it gains slowly, and less than the start for long: it takes all its time
        trainer.flat_gain = -math.inf
    if resume:
        resume_from(trainer, checkpoint)
    tell: Tell = (lambda line: None) if quiet else functools.partial(print, flush=True)
    tell_start(len(train), len(held_out), parent, tell)
    compared = others.measure(held_out)
    tell_others(compared, lossless, tell)
    header(lossless, tell)
    try:
        trainer.run(
            60 * minutes,
            checkpoint=checkpoint,
            progress=progress,
            tell=functools.partial(tell_figures, lossless, tell),
        )
    except KeyboardInterrupt:
        tell(f"all is saved in {checkpoint}: run the same command with --resume to continue")
        raise
    if trainer.flat is not None:
        tell(
            f"no longer getting better after {trainer.flat / 60:.1f} minutes, finished after "
            f"{trainer.seconds / 60:.1f}"
        )
    command = ["aez", "train", *map(str, sources), "-o", str(out)]
    command += ["--minutes", f"{minutes:g}", "--seed", str(seed)]
    command += ["--lossless"] * lossless + (["--hidden", str(hidden)] if hidden else [])
    command += ["--palettes", str(most_palettes)] if most_palettes else []
    command += ["--grids"] * grids
    command += ["--rate", f"{rate:g}"] if rate != 1 else []
    command += ["--from", "none" if parent is None else parent.name if start == "auto" else start]
    model = write_model(trainer, pixels, out, out.stem, seed, shlex.join(command), parent)
    checkpoint.unlink(missing_ok=True)
    tell_result(model.card["figures"]["curve"], [] if lossless else compared.webp, tell)
    tell(f"use it with: aez compress {'--lossless ' * lossless}-m {shlex.quote(str(out))} INPUT...")


def checkpoint_of(outputs: list[Path], resume: bool) -> Path:
    """The path of the checkpoint of a run, beside its first output.

    Raises AezError if an output exists; UsageError if its folder does not, or if there is no
    checkpoint to resume from, or one without `resume`.
    """
    out = outputs[0]
    if not out.parent.is_dir():
        raise UsageError(f"{out.parent}: no such directory")
    for output in outputs:
        if output.exists():  # now, not after an hour of training
            raise AezError(f"output {output} exists, and a model is never overwritten")
    checkpoint = out.with_suffix(".checkpoint.pt")
    if resume and not checkpoint.exists():
        raise UsageError(f"{checkpoint}: no such checkpoint to resume from")
    if not resume and checkpoint.exists():
        raise UsageError(f"{checkpoint} exists: add --resume to continue from it, or delete it")
    return checkpoint


def starting_model(start: str, pixels: data.U8, lossless: bool) -> Model | None:
    """The model to start from (see `train_command`); None to start from nothing.

    Raises ModelError, UsageError.
    """
    if start == "none":
        return None
    if start != "auto":
        return registry.by_name(start, lossless)
    sample = pixels[spread(len(pixels), min(START_SAMPLE, len(pixels)))]
    try:
        models = registry.shipped(lossless)
    except ModelNotFound:
        return None
    return min(models, key=lambda model: curve_cost(model, sample))


def trainer_of(
    pixels: data.U8,
    parent: Model | None,
    *,
    lossless: bool,
    hidden: int | None = None,
    most_palettes: int | None = None,
    grids: bool = False,
    seed: int,
    log: Path,
) -> Trainer:
    """A trainer of a lossy or a lossless model; `parent`, if any, is the model it starts from.

    Raises BadModel naming the parent.
    """
    try:
        if not lossless:
            return LadderTrainer(pixels, seed=seed, log=log, start=parent)
        if parent is not None:
            bits = PixelConfig.weight_bits  # whatever the parent's were
            config = replace(warm_start.config_of(parent.stream), weight_bits=bits)
            if hidden is not None and hidden < config.hidden:
                raise UsageError(
                    f"--hidden {hidden}: model {parent.name} has {config.hidden} hidden units, and "
                    f"training can only add to them; give more, or --from none"
                )
            config = replace(config, hidden=hidden or config.hidden)
        else:
            config = PixelConfig() if hidden is None else PixelConfig(hidden=hidden)
        trainer = PixelTrainer(
            pixels,
            seed=seed,
            config=config,
            most_palettes=most_palettes or MAX_PALETTES,
            grids=grids,
            log=log,
        )
        if parent is None:
            return trainer
        warm_start.fill(trainer.net, parent.stream)
        trainer.warm = True
        return trainer
    except BadModel as error:
        raise BadModel(f"{parent.name}: {error}" if parent else str(error)) from error


def curve_cost(model: Model, pixels: data.U8) -> float:
    """The cost of `model` on uint8 (N, 28, 28), by which models are compared: as in training."""
    rows = curve(model, pixels, VALIDATION_QUALITIES)
    if model.lossless:
        return float(rows[0]["bytes"])
    return cost_of([(row["quality"], row["bytes"], row["psnr_db"]) for row in rows])


def tell_start(num_train: int, num_held_out: int, parent: Model | None, tell: Tell) -> None:
    start = "nothing" if parent is None else f"model {parent.name}"
    num_images = num_train + num_held_out
    tell(
        f"{num_images} images, {num_train} to train on, {num_held_out} held out; "
        f"starting from {start}"
    )
    if num_images < FEW_IMAGES:
        tell(f"these are few: with {FEW_IMAGES} or more the model gets much better")


def tell_others(compared: others.Others, lossless: bool, tell: Tell) -> None:
    """Bytes of PNG and WebP on the held-out images."""
    tell("held-out images, bytes of one file each:")
    webp = "" if compared.webp_lossless is None else f", WebP lossless {compared.webp_lossless:.1f}"
    tell(f"  PNG {compared.png:.1f}{webp}")
    if compared.webp and not lossless:
        points = (
            f"q{quality} {num_bytes:.1f} B {_decibels(psnr_db)}"
            for quality, num_bytes, psnr_db in compared.webp
        )
        tell("  WebP " + ", ".join(points))


def header(lossless: bool, tell: Tell) -> None:
    """The columns of `tell_figures`."""
    columns = ["lossless"] if lossless else [f"quality {q}" for q in VALIDATION_QUALITIES]
    tell("this model, estimated:")
    tell("minutes" + "".join(f"{column:>16}" for column in columns))


def tell_figures(lossless: bool, tell: Tell, seconds: float, figures: dict[str, Any]) -> None:
    """One line of a table: bytes and PSNR at each quality."""
    if lossless:
        cells = [f"{figures['estimated_bytes']:.1f} B"]
    else:
        cells = [
            f"{num_bytes:.1f} B {_decibels(psnr_db)}" for num_bytes, psnr_db, _ in figures["curve"]
        ]
    tell(f"{seconds / 60:7.1f}" + "".join(f"{cell:>16}" for cell in cells))


def tell_result(
    rows: list[dict[str, Any]], webp: list[tuple[int, float, float | None]], tell: Tell
) -> None:
    """The curve of the model that was written, and its bytes at the PSNRs of WebP."""
    tell("the model as it was written, on the held-out images:")
    for row in rows:
        error = "every pixel" if row["psnr_db"] is None else f"{row['psnr_db']:.2f} dB"
        tell(f"quality {row['quality']:2d}: {row['bytes']:6.2f} bytes an image, {error}")
    for quality, num_bytes, psnr_db in webp:
        ours = None if psnr_db is None else bytes_at(rows, psnr_db)
        if ours is not None:
            tell(
                f"the {psnr_db:.1f} dB of WebP at quality {quality}, {num_bytes:.0f} bytes, take "
                f"{ours:.1f} bytes"
            )


def _decibels(psnr_db: float | None) -> str:
    return "exact" if psnr_db is None else f"{psnr_db:.1f} dB"


def write_model(
    trainer: Trainer,
    pixels: data.U8,
    out: Path,
    name: str,
    seed: int,
    command: str,
    parent: Model | None = None,
) -> Model:
    """Export the network of `trainer`, with a card of figures on the held-out images.

    out: the model's file; a lossy model's encoder is written beside it. Neither may exist.
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
    if encoder is not None:  # first, so that the model is never there without it
        with atomic(registry.encoder_path(out), durable=True) as file:
            file.write(encoder)
    with atomic(out, durable=True) as file:
        file.write(stream)
    return unpack_model(stream, encoder)


def card_of(
    trainer: Trainer, name: str, train: data.U8, seed: int, command: str, start: str | None
) -> dict[str, Any]:
    """How the network of `trainer` was made.

    name: of the model; train: the images trained on; start: name and hash of the model it started
    from.
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
    """The network before its weights are rounded: ideal bytes without container, and PSNR, by
    quality.
    """
    tensor = torch.from_numpy(pixels.copy()).to(trainer.device)
    rows = evaluate(trainer.net, tensor, [log2_lmbda(q) for q in CARD_QUALITIES])
    return [
        {"quality": q, "estimated_bytes": row["estimated_bytes"], "psnr_db": row["psnr_db"]}
        for q, row in zip(CARD_QUALITIES, rows, strict=True)
    ]
