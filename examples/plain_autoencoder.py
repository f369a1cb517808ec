"""Where this field starts: the plain autoencoder of the textbooks, as a codec.

    python examples/plain_autoencoder.py TRAIN TEST -o result.json     # needs torch: aez[train]

784 pixels, 128 numbers, 784 pixels; ReLU, then a sigmoid; trained for ten epochs by gradient
descent on the mean squared error. The 128 numbers of each image are rounded to 8 bits, and those of
all test images are packed together by zstd. It learns no probabilities, so zstd can use little more
than zeros.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn

from codec import metrics, zstd
from codec.arrays import PIXELS, U8
from codec.files.arrays import read_array
from codec.measure import tool

HIDDEN, EPOCHS, BATCH, RATE, MOMENTUM = 128, 10, 32, 1.0, 0.9


def train(encoder: nn.Module, decoder: nn.Module, pixels: U8, epochs: int) -> float:
    """Train on uint8 (N, 28, 28); returns the last epoch's mean squared error, pixels in 0..1."""
    data = torch.from_numpy(pixels.reshape(-1, PIXELS).astype(np.float32) / 255)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.SGD(parameters, RATE, momentum=MOMENTUM)
    total = torch.zeros(())
    for _ in range(epochs):
        total = torch.zeros(())
        for some in torch.randperm(len(data)).split(BATCH):
            loss = (decoder(encoder(data[some])) - data[some]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(some)
    return float(total) / len(data)


@torch.no_grad()
def code(encoder: nn.Module, decoder: nn.Module, pixels: U8) -> tuple[int, U8]:
    """uint8 (N, 28, 28) -> bytes of all images together, and what comes back."""
    data = torch.from_numpy(pixels.reshape(-1, PIXELS).astype(np.float32) / 255)
    numbers: Tensor = encoder(data)
    step = numbers.amax() / 255  # one for all; ReLU leaves nothing below 0
    rounded = (numbers / step).round().to(torch.uint8)
    back = (decoder(rounded * step) * 255).round().to(torch.uint8).numpy()
    # all values of one number, then those of the next: zstd finds more in that order
    packed = zstd.pack(rounded.numpy().T.tobytes())
    return len(packed), back.reshape(-1, 28, 28)


def measure(train_pixels: U8, test_pixels: U8, *, epochs: int = EPOCHS, seed: int = 0) -> Any:
    """Figures of the codec on the test images."""
    torch.manual_seed(seed)
    encoder = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU())
    decoder = nn.Sequential(nn.Linear(HIDDEN, PIXELS), nn.Sigmoid())
    train_error = train(encoder, decoder, train_pixels, epochs)
    num_bytes, back = code(encoder, decoder, test_pixels)
    squared_error = metrics.squared_error(test_pixels, back)
    psnr_db = metrics.psnr_db(squared_error, test_pixels.size)
    return {
        "epochs": epochs,
        "train_mse": round(train_error, 5),
        "test_mse": round(squared_error / test_pixels.size / 255**2, 5),
        "bytes": round(num_bytes / len(test_pixels), 2),
        "psnr_db": None if psnr_db is None else round(psnr_db, 2),
    }


def main(
    train_set: Annotated[Path, typer.Argument(help="Images to train on: IDX, .npy or .npz.")],
    test_set: Annotated[Path, typer.Argument(help="Images to measure on.")],
    out: tool.Out,
    epochs: int = EPOCHS,
    seed: int = 0,
    force: tool.Force = False,
) -> None:
    """Train the plain autoencoder, and write bytes and PSNR of an image as JSON."""
    found = measure(read_array(train_set), read_array(test_set), epochs=epochs, seed=seed)
    tool.write_json(out, {"test_set": test_set.name, **found}, force=force)
    print(found)


if __name__ == "__main__":
    tool.run(main)
