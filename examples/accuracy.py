"""What is left for a classifier: a small network on MNIST, before and after compression.  Needs
torch: aez[train].

    python examples/accuracy.py DATA -o examples/accuracy.json

DATA is a folder with the four files of MNIST. One network is trained on original images and tested
on the test images decoded at each quality. For some qualities another one is trained on decoded
images and tested on original ones. All have the same start, the same order of images and as many
steps, so that only the images differ. Compression is that of `codec.compress` at effort 1. Test
images are used for testing alone; nothing is chosen by them.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import codec
from codec import metrics
from codec.files.atomic import atomic
from codec.files.images import read_array

QUALITIES = (0, 10, 25, 50, 75, 99)
TRAINED_ON = (0, 10, 25, 50)  # qualities
BATCH = 128
SEED = 0


def read_labels(path: Path) -> np.ndarray:
    """IDX labels, gzipped -> int64 (N,)."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=8).astype(np.int64)


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
    """uint8 (N, 28, 28), int64 (N,) -> a trained network; the same one for the same arguments on
    one machine.
    """
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
    guesses = torch.cat(
        [net(to_input(part)).argmax(1) for part in np.array_split(pixels, len(pixels) // 1000 + 1)]
    )
    return round(100 * float((guesses.numpy() == labels).mean()), 2)


def decoded(pixels: np.ndarray, quality: int) -> tuple[np.ndarray, float]:
    """-> what comes back, and bytes an image of the collection."""
    stream = codec.compress(pixels, quality=quality, model="mnist", effort=1)
    return codec.decompress(stream), len(stream) / len(pixels)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Accuracy of a small classifier before and after compression."
    )
    parser.add_argument("data", type=Path, help="folder with the files of MNIST")
    parser.add_argument("-o", dest="out", type=Path, help="write the JSON here as well")
    parser.add_argument(
        "--train-images", type=int, default=10_000, metavar="N", help="of the 60,000, the first N"
    )
    parser.add_argument("--test-images", type=int, default=10_000, metavar="N")
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()
    pixels = read_array(args.data / "train-images-idx3-ubyte.gz")[: args.train_images]
    labels = read_labels(args.data / "train-labels-idx1-ubyte.gz")[: args.train_images]
    test = read_array(args.data / "t10k-images-idx3-ubyte.gz")[: args.test_images]
    test_labels = read_labels(args.data / "t10k-labels-idx1-ubyte.gz")[: args.test_images]

    net = train(pixels, labels, args.epochs)
    result: dict[str, Any] = {
        "train_images": len(pixels),
        "test_images": len(test),
        "epochs": args.epochs,
        "torch": torch.__version__,
        "original_percent": accuracy_percent(net, test, test_labels),
        "qualities": [],
    }
    print(f"trained and tested on originals: {result['original_percent']:.2f} %")
    print("quality  bytes    dB   tested on decoded   trained on decoded", flush=True)
    for quality in QUALITIES:
        back, num_bytes = decoded(test, quality)
        psnr_db = metrics.psnr_db(metrics.squared_error(test, back), test.size)
        row = {
            "quality": quality,
            "bytes": round(num_bytes, 2),
            "psnr_db": None if psnr_db is None else round(psnr_db, 2),
            "tested_on_decoded_percent": accuracy_percent(net, back, test_labels),
            "trained_on_decoded_percent": None,
        }
        if quality in TRAINED_ON:
            other = train(decoded(pixels, quality)[0], labels, args.epochs)
            row["trained_on_decoded_percent"] = accuracy_percent(other, test, test_labels)
        result["qualities"].append(row)
        trained = row["trained_on_decoded_percent"]
        print(
            f"{quality:7d} {num_bytes:6.1f} {psnr_db or 0:5.1f} "
            f"{row['tested_on_decoded_percent']:17.2f} % "
            f"{'' if trained is None else f'{trained:18.2f} %'}",
            flush=True,
        )
    if args.out:
        with atomic(args.out, force=True) as file:
            file.write((json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
