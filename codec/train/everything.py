"""Train all models that are shipped, at the same time: for a machine with a GPU or many cores.

    python -m codec.train.everything DATA OUT --minutes 25 [--only NAME ...]

READ ME FIRST
- DATA has mnist, fashion and natural, as `../shared/data` does. The mixture of the generic models
  is drawn first, unless OUT holds it already.
- Every model starts from the shipped one of its name, at a low rate.
- Each is one process, `aez train`, with a log of its own in OUT. To go on after a time limit or
  Ctrl-C, run the same command again: it resumes where checkpoints lie and leaves finished models.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from codec.measure import tool

MNIST, FASHION = (f"{name}/train-images-idx3-ubyte.gz" for name in ("mnist", "fashion"))
NATURAL, GENERIC = "natural/train.npy.gz", "generic.idx"
COUNT = 400_000  # images of the mixture
LOSSLESS = ("--lossless", "--grids")
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "generic-lossless": (GENERIC, (*LOSSLESS, "--rate", "0.5")),
    "fashion-lossless": (FASHION, (*LOSSLESS, "--rate", "0.2")),
    "mnist-lossless": (MNIST, (*LOSSLESS, "--rate", "0.4")),
    "generic": (GENERIC, ("--rate", "0.5")),
    "fashion": (FASHION, ("--rate", "0.3")),
    "mnist": (MNIST, ("--rate", "0.3")),
}


def main(
    data: Annotated[Path, typer.Argument(help="The folder of mnist, fashion and natural.")],
    out: Annotated[Path, typer.Argument(help="The folder of models, logs and the mixture.")],
    minutes: Annotated[float, typer.Option(help="Of training, each model.")],
    only: Annotated[list[str] | None, typer.Option(help="Only this model; repeat it.")] = None,
    seed: int = 0,
) -> None:
    """Train the shipped models further, all at once."""
    out.mkdir(parents=True, exist_ok=True)
    names = only or list(RUNS)
    if any(RUNS[name][0] == GENERIC for name in names) and not (out / GENERIC).exists():
        mixture = ["codec.train.drawings", str(out / GENERIC), "--natural", str(data / NATURAL)]
        mixture += ["--mnist", str(data / MNIST), "--fashion", str(data / FASHION)]
        mixture += ["--count", str(COUNT), "--seed", str(seed)]
        subprocess.run([sys.executable, "-m", *mixture], check=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    running = {}
    for name in names:
        source, options = RUNS[name]
        model = out / f"{name}.safetensors"
        if model.exists():
            continue
        images = out / source if source == GENERIC else data / source
        command = [sys.executable, "-m", "codec", "train", str(images), "-o", str(model), *options]
        command += ["--from", name, "--minutes", f"{minutes:g}", "--seed", str(seed)]
        command += ["--resume"] * model.with_suffix(".checkpoint.pt").exists()
        with model.with_suffix(".log").open("ab") as log:
            running[name] = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    for name, process in running.items():  # Ctrl-C reaches them all: they save, then end
        print(f"{name}: exit {process.wait()}", flush=True)


if __name__ == "__main__":
    tool.run(main)
