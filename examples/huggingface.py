"""Hugging Face's parquet files and datasets: into a collection, back, and images as .aez bytes.

    python examples/huggingface.py train-00000-of-00001.parquet -o digits.aez

A parquet file of a data set of images has a column of structs, the bytes of an image file and its
path, and a column of labels. `aez compress x.parquet` packs it too; here it is done step by step:

    parquet --(Pillow, row group by row group)--> collection            pack
    collection ----------------------------------> datasets.Dataset     unpack
    Dataset with .aez bytes in place of PNG ones: datasets.Image decodes them by Pillow's plugin
                                                                        shrink

Needs: pip install datasets. Nothing is downloaded.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
import pyarrow.parquet
import typer
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PillowImage

import codec
from codec.api import compress_images
from codec.dataset import AezDataset
from codec.measure import tool

IMAGE, LABEL = "image", "label"  # names of the columns
BATCH = 4096

codec.register()  # so that Pillow, and what builds on it, reads .aez


def rows(parquet: Path) -> Iterator[tuple[np.ndarray, list[int]]]:
    """The images, uint8 (N, 28, 28), and labels of a parquet file, some rows at a time."""
    with pyarrow.parquet.ParquetFile(parquet) as file:
        for batch in file.iter_batches(BATCH, columns=[IMAGE, LABEL]):
            pixels = [
                np.asarray(PillowImage.open(io.BytesIO(image["bytes"])))
                for image in batch[IMAGE].to_pylist()
            ]
            yield np.stack(pixels), batch[LABEL].to_pylist()


def pack(parquet: Path, out: BinaryIO, **choices: Any) -> None:
    """A parquet file -> a collection with labels, in bounded memory."""
    with codec.CollectionWriter(out, **choices) as writer:
        for pixels, labels in rows(parquet):
            writer.write(pixels, labels=labels)


def unpack(collection: Path | bytes) -> Dataset:
    """A collection with labels -> a Dataset whose items are {"image": PIL image, "label": int}."""
    labelled = AezDataset(collection)
    texts = [name for name in labelled.classes if not name.isdecimal()]
    label = ClassLabel(names=labelled.classes) if texts else Value("int64")
    assert labelled.targets is not None, "the images have no labels"
    with codec.open(collection) as images:
        columns = {
            IMAGE: [PillowImage.fromarray(pixels) for pixels in images],
            LABEL: labelled.targets.tolist(),
        }
    return Dataset.from_dict(columns, Features({IMAGE: Image(), LABEL: label}))


def shrink(dataset: Dataset, **choices: Any) -> Dataset:
    """The same images as single .aez streams: `datasets.Image` decodes them as it does PNG."""

    def shrunk(items: dict[str, list[Any]]) -> dict[str, list[Any]]:
        pixels = np.stack([np.asarray(image) for image in items[IMAGE]])
        streams, _ = compress_images(pixels, **choices)
        return {**items, IMAGE: [{"bytes": stream, "path": None} for stream in streams]}

    return dataset.map(
        shrunk, batched=True, batch_size=BATCH, features=dataset.features, keep_in_memory=True
    )


def image_bytes(dataset: Dataset) -> int:
    """Bytes of the image files in a data set."""
    column = dataset.cast_column(IMAGE, Image(decode=False))[IMAGE]
    return sum(len(image["bytes"]) for image in column)


def main(
    parquet: Annotated[Path, typer.Argument(help="With columns image and label.")],
    out: Annotated[Path, typer.Option("-o", help="The collection.")],
    quality: int = 75,
) -> None:
    """Pack a parquet file, unpack it again, and say what the images take."""
    with out.open("wb") as file:
        pack(parquet, file, quality=quality)
    dataset = unpack(out)
    small = shrink(dataset, quality=quality)
    print(dataset)
    print(f"{parquet}: {parquet.stat().st_size} bytes; {out}: {out.stat().st_size} bytes")
    print(f"as PNG: {image_bytes(dataset)} bytes of images; as .aez: {image_bytes(small)}")
    first = small[0]
    print(f"the first: {first[IMAGE].format} {first[IMAGE].size}, label {first[LABEL]}")


if __name__ == "__main__":
    tool.run(main)
