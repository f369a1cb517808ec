"""Train a small classifier from collections: AezDataset in place of torchvision.datasets.MNIST.

    aez compress train-images-idx3-ubyte.gz -o mnist-train.aez     # labels come with it
    aez compress t10k-images-idx3-ubyte.gz -o mnist-test.aez
    python examples/classify.py mnist-train.aez mnist-test.aez     # needs torch: aez[train]

These lines of a program for torchvision

    dataset = torchvision.datasets.MNIST("data", train=True, transform=ToTensor())

become

    dataset = AezDataset("mnist-train.aez", transform=to_tensor)

and the rest stays: items are (image, label), and `targets`, `classes` and `class_to_idx` are there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn
from torch.utils.data import DataLoader

from codec.dataset import AezDataset
from codec.measure import tool


def to_tensor(image: torch.Tensor) -> torch.Tensor:
    """uint8 (1, 28, 28) -> float32 in 0..1, as torchvision's ToTensor gives it."""
    return image.float() / 255


def network(num_classes: int) -> nn.Module:
    """(N, 1, 28, 28) -> (N, num_classes)."""
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
        nn.Linear(64, num_classes),
    )


def train(net: nn.Module, batches: DataLoader, epochs: int) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    for epoch in range(epochs):
        total = 0.0
        for images, labels in batches:
            loss = nn.functional.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total / len(batches):.4f}", flush=True)


@torch.no_grad()
def accuracy_percent(net: nn.Module, batches: DataLoader) -> float:
    right = [net(images).argmax(1) == labels for images, labels in batches]
    return 100 * torch.cat(right).float().mean().item()


def main(
    train_set: Annotated[Path, typer.Argument(help="A collection with labels.")],
    test_set: Annotated[Path, typer.Argument(help="Another one, with the same labels.")],
    epochs: int = 3,
    batch: int = 128,
    seed: int = 0,
) -> None:
    """Train on one collection, and print the accuracy on another one."""
    torch.manual_seed(seed)
    # preload: the images fit into memory, and are read in another order in each epoch
    ours, others = (
        AezDataset(path, transform=to_tensor, preload=True) for path in (train_set, test_set)
    )
    if ours.targets is None or others.targets is None:
        raise typer.BadParameter("a collection has no labels: see aez info")
    num_classes = 1 + int(max(ours.targets.max(), others.targets.max()))
    net = network(num_classes)
    train(net, DataLoader(ours, batch, shuffle=True), epochs)
    percent = accuracy_percent(net, DataLoader(others, 1000))
    print(f"{len(ours)} images to train on, {percent:.2f} % of {len(others)} others right")


if __name__ == "__main__":
    tool.run(main)
