"""Collections as PyTorch data sets.

    dataset = AezDataset("digits.aez", transform=lambda image: image.float() / 255)
    for images, labels in DataLoader(dataset, batch_size=128, shuffle=True, num_workers=2): ...

READ ME FIRST
- torch is imported with the first item, so this is not a subclass of `torch.utils.data.Dataset`.
  `DataLoader`, `Subset` and `ConcatDataset` need only `len` and indexing.
- The images of a batch are decoded together (`__getitems__`), each with the others of its group, of
  5 or 16 (`codec.format.constants.group_images`): in random order an image takes up to that many
  times as long as in order. `preload=True` decodes everything once.
- Each worker, forked or spawned, opens the collection itself; the workers share the cores.

Single images in the shards of WebDataset need no class:

    shards = webdataset.WebDataset("shard-{000..015}.tar")
    shards = shards.decode(webdataset.handle_extension("aez", codec.decompress))
    pairs = shards.to_tuple("aez", "cls")  # uint8 (28, 28), int
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codec import api, parallel
from codec.arrays import I64
from codec.collection.picking import no_image
from codec.collection.reader import Collection
from codec.errors import AezError, UsageError
from codec.labels import Given, Labels, checked
from codec.view import contact


class AezDataset:
    """The images of a collection, by index: `(image, label)`, or only the image without labels.

    image: torch.uint8 (1, 28, 28). label: an int: the collection's label, if it is an integer, as
    torchvision's MNIST has it; if it is a text, its number among the sorted ones. In a collection
    without labels, the number of the folder that the image's name starts with, as torchvision's
    ImageFolder counts them: `7/00001.png` is of class "7". Without folders there are no labels.
    source: path or URL of a collection, or its bytes. transform, target_transform: applied to image
    and label. labels: others, an int or a str for each image. return_latents: items are `(image,
    latents, label)`, latents: torch.int16 (K,), see `codec.latents`. preload: decode all images
    now, 784 bytes of memory each (and 2 K of latents). model: as for `codec.open`.
    Raises BitstreamError, ModelNotFound, BadModel; UsageError unless there is one label for each
    image, or if there are no latents.

    classes: sorted: the texts, the folders, or the integers that occur as texts; class_to_idx: the
    label of each; targets: int64 (N,), the labels, None if there are none.
    """

    def __init__(
        self,
        source: str | Path | bytes,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        *,
        labels: Given | None = None,
        return_latents: bool = False,
        preload: bool = False,
        model: str | Path | None = None,
    ) -> None:
        if not isinstance(source, str | Path | bytes):
            raise UsageError(
                f"source is of type {type(source).__name__}: give a path, a URL or bytes, which "
                "each worker can open"
            )
        self.source, self.transform, self.target_transform = source, transform, target_transform
        self.return_latents, self.model = return_latents, model
        self._opened: tuple[int, Collection] | None = None
        collection = self._collection()
        self._count = len(collection)
        # of one image, level by level
        self.latent_shapes = collection.latent_shapes if return_latents else ()
        found = collection.labels if labels is None else _given(labels, self._count)
        if found is None:
            found = _folders(collection)
        self.class_to_idx, self.targets = _classes(found)
        self.classes = list(self.class_to_idx)
        self._decoded = self._decode(slice(None)) if preload else None

    def _collection(self) -> Collection:
        """The collection, opened by this process."""
        process = os.getpid()
        if self._opened is None or self._opened[0] != process:
            self._opened = process, api.open(self.source, model=self.model)
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": None}

    def __len__(self) -> int:
        return self._count

    def _repr_html_(self) -> str | None:
        """The first images with their classes, before any transform, for notebooks.  Raises
        nothing.
        """
        try:
            collection = self._collection()
        except (AezError, OSError):
            return None
        if self.targets is None:
            return contact.sheet(collection)
        names = {number: name for name, number in self.class_to_idx.items()}
        some = self.targets[: contact.MAX_WORDS + 1].tolist()
        return contact.sheet(collection, [names.get(label, label) for label in some])

    def __getitem__(self, index: int) -> Any:
        """One item.  Raises IndexError."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indexes: Sequence[int]) -> list[Any]:
        """A batch of items, decoded together.  Raises IndexError."""
        import torch

        worker = torch.utils.data.get_worker_info()
        if worker is not None:
            parallel.use_cores(None)
            parallel.use_cores(max(1, parallel.num_cores() // worker.num_workers))
        wanted = np.array([operator.index(i) for i in indexes], np.int64)
        outside = wanted[(wanted < -self._count) | (wanted >= self._count)]
        if outside.size:
            raise no_image(int(outside[0]), self._count)
        if self._decoded is None:
            arrays = self._decode(wanted.tolist())
        else:
            arrays = [array[wanted] for array in self._decoded]
        images, *latents = map(torch.from_numpy, arrays)
        items = []
        for i, number in enumerate(wanted.tolist()):
            image = images[i, None]
            item = [image if self.transform is None else self.transform(image)]
            item += [each[i] for each in latents]
            if self.targets is not None:
                label = int(self.targets[number])
                item.append(
                    label if self.target_transform is None else self.target_transform(label)
                )
            items.append(tuple(item) if len(item) > 1 else item[0])
        return items

    def _decode(self, index: slice | list[int]) -> list[npt.NDArray[Any]]:
        """-> pixels (N, 28, 28), and latents (N, K) if they are wanted."""
        collection = self._collection()
        return list(collection.with_latents(index)) if self.return_latents else [collection[index]]


def _given(labels: Any, count: int) -> Labels:
    """Labels that the caller gives: texts, or any integers, such as -1 for an unknown class."""
    array = np.asarray(labels)
    if array.shape != (count,) or not np.issubdtype(array.dtype, np.integer):
        if array.shape == (count,) and array.dtype.kind in "OU":
            return checked(array.tolist())
        found = f"{array.dtype} {array.shape}"
        raise UsageError(f"labels are {found}: give integers or texts ({count},), one an image")
    return array.astype(np.int64)


def _folders(collection: Collection) -> list[str] | None:
    """The folder that the name of each image starts with; None: there are no folders."""
    if not collection.has_names:
        return None
    once: dict[str, str] = {}  # a folder is kept once, not once an image
    found = [
        once.setdefault(folder, folder)
        for name in collection.each_name()
        for folder in (name.partition("/")[0] if "/" in name else "",)
    ]
    if set(once) == {""}:
        return None
    if "" in once:
        at = found.index("")
        raise UsageError(
            f"image {at}, {collection.name(at)!r}, is in no folder, but others are: give `labels`"
        )
    return found


def _classes(labels: Labels | None) -> tuple[dict[str, int], I64 | None]:
    """Class -> its number, sorted, and the number of each image."""
    if labels is None:
        return {}, None
    if isinstance(labels, list):
        ranks = {text: rank for rank, text in enumerate(sorted(set(labels)))}
        return ranks, np.array([ranks[text] for text in labels], np.int64)
    return {str(label): label for label in np.unique(labels).tolist()}, labels
