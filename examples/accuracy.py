"""What a classifier still sees: a small network on MNIST, before and after compression.

    python examples/accuracy.py DATA -o examples/accuracy.json     # needs torch: aez[train]

DATA is a folder with the four files of MNIST. One network is trained on original images, and tested
on the test images decoded at each quality. For some qualities another one is trained on decoded
images, and tested on original ones. All networks have the same start, the same order of images and
the same number of steps: only the images differ. Compression is `codec.compress` at effort 1.
Test images are used only for testing; nothing is chosen by them.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from torch import nn

import codec
from codec import metrics
from codec.files.arrays import read_array
from codec.measure import tool

BATCH = 128
SEED = 0


class Set(NamedTuple):
    """Images and what they show."""

    pixels: np.ndarray  # uint8 (N, 28, 28)
    labels: np.ndarray  # int64 (N,), 0..9


def read(folder: Path, part: str, count: int) -> Set:
    """The first images of a part of MNIST, "train" or "t10k"."""
    stream = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    labels = np.frombuffer(stream, np.uint8, offset=8).astype(np.int64)
    return Set(read_array(folder / f"{part}-images-idx3-ubyte.gz")[:count], labels[:count])


def network() -> nn.Module:
    """(N, 1, 28, 28) -> (N, 10): 105,866 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def to_input(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.astype(np.float32) / 255)[:, None]


def train(pixels: np.ndarray, labels: np.ndarray, epochs: int) -> nn.Module:
    """uint8 (N, 28, 28), int64 (N,) -> a trained network, the same for the same arguments."""
    torch.manual_seed(SEED)
    net, x, y = network(), to_input(pixels), torch.from_numpy(labels)
    steps = epochs * (len(x) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()
            schedule.step()
    return net


@torch.no_grad()
def accuracy_percent(net: nn.Module, pixels: np.ndarray, labels: np.ndarray) -> float:
    batches = np.array_split(pixels, len(pixels) // 1000 + 1)
    guesses = torch.cat([net(to_input(batch)).argmax(1) for batch in batches])
    return round(100 * float((guesses.numpy() == labels).mean()), 2)


def decoded(pixels: np.ndarray, quality: int) -> tuple[np.ndarray, float]:
    """-> the decoded images, and bytes an image of the collection."""
    stream = codec.compress(pixels, quality=quality, model="mnist", effort=1)
    return codec.decompress(stream), len(stream) / len(pixels)


def measure(
    net: nn.Module, train_set: Set, test_set: Set, quality: int, *, retrain: bool, epochs: int
) -> dict[str, Any]:
    """One row: a quality, and the accuracy on images decoded at it.

    net: trained on originals. retrain: also train another one on decoded images, and test it on
    originals.
    """
    back, num_bytes = decoded(test_set.pixels, quality)
    error = metrics.squared_error(test_set.pixels, back)
    psnr_db = metrics.psnr_db(error, test_set.pixels.size)
    trained_on_decoded = None
    if retrain:
        other = train(decoded(train_set.pixels, quality)[0], train_set.labels, epochs)
        trained_on_decoded = accuracy_percent(other, test_set.pixels, test_set.labels)
    return {
        "quality": quality,
        "bytes": round(num_bytes, 2),
        "psnr_db": None if psnr_db is None else round(psnr_db, 2),
        "tested_on_decoded_percent": accuracy_percent(net, back, test_set.labels),
        "trained_on_decoded_percent": trained_on_decoded,
    }


def print_row(row: dict[str, Any]) -> None:
    psnr_db = "exact" if row["psnr_db"] is None else f"{row['psnr_db']:.1f}"
    trained = row["trained_on_decoded_percent"]
    print(
        f"{row['quality']:7d} {row['bytes']:6.1f} {psnr_db:>5} "
        f"{row['tested_on_decoded_percent']:17.2f} % "
        f"{'' if trained is None else f'{trained:18.2f} %'}",
        flush=True,
    )


def main(
    data: Annotated[Path, typer.Argument(help="Folder with the four files of MNIST.")],
    out: tool.Out,
    train_images: Annotated[int, typer.Option(help="The first N of 60,000.")] = 10_000,
    test_images: int = 10_000,
    epochs: int = 5,
    qualities: Annotated[str, typer.Option(help="To test on.")] = "0,10,25,50,75,99",
    trained_on: Annotated[str, typer.Option(help="Those to train on as well.")] = "0,10,25,50",
) -> None:
    """Measure the accuracy of a small classifier before and after compression."""
    train_set, test_set = read(data, "train", train_images), read(data, "t10k", test_images)
    net = train(train_set.pixels, train_set.labels, epochs)
    result: dict[str, Any] = {
        "train_images": len(train_set.pixels),
        "test_images": len(test_set.pixels),
        "epochs": epochs,
        "torch": torch.__version__,
        "original_percent": accuracy_percent(net, test_set.pixels, test_set.labels),
        "qualities": [],
    }
    print(f"trained and tested on originals: {result['original_percent']:.2f} %")
    print("quality  bytes    dB   tested on decoded   trained on decoded", flush=True)
    retrained = tool.integers(trained_on)
    for quality in tool.integers(qualities):
        retrain = quality in retrained
        row = measure(net, train_set, test_set, quality, retrain=retrain, epochs=epochs)
        result["qualities"].append(row)
        print_row(row)
    tool.write_json(out, result, force=True)


if __name__ == "__main__":
    tool.run(main)
