"""The inputs of a collection, block by block: image files, or the images of one file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from codec.commands import work
from codec.commands.events import reason_of
from codec.commands.inputs import Input, Inputs
from codec.commands.work import BlockTask, ModelRef, Unread
from codec.encoder.options import Options
from codec.errors import ImageError
from codec.files.batch import ImageSource
from codec.labels import Labels, digest_of


class Blocks(ABC):
    """The inputs of a collection.

    inputs: a digest of their names; named: whether images have names; labels: of all images;
    private: no other process can read the inputs; bytes_in: their size, if that of a block is not
    known; left: what else is in them.
    """

    inputs: str
    num_images: int
    named = False
    labels: Labels | None = None
    private = False
    bytes_in = 0
    left: tuple[str, ...] = ()

    def __init__(self, size: int, grey: bool) -> None:
        self._size, self._grey = size, grey

    @property
    def num_blocks(self) -> int:
        return -(-self.num_images // self._size)

    @property
    def pins(self) -> dict[str, object]:
        """What the bytes of the collection depend on."""
        return {
            "block_images": self._size,
            "inputs": self.inputs,
            "named": self.named,
            "labels": digest_of(self.labels),
            "grey": self._grey,
        }

    @abstractmethod
    def tasks(
        self, start: int, options: Options, refs: tuple[ModelRef, ...]
    ) -> Iterator[BlockTask]:
        """The blocks, from number `start` on.  Raises ImageError."""

    @abstractmethod
    def names(self) -> Iterator[str]:
        """The names of all images, none if they have none."""

    @abstractmethod
    def failure(self, number: int, unread: Unread) -> tuple[str, str]:
        """What the user calls an image of a block that could not be read, and the reason.

        Raises ImageError if the collection cannot do without it.
        """

    def identity(self, number: int) -> str:
        """A text that changes when the inputs of a block do."""
        return ""


class FileBlocks(Blocks):
    """Image files."""

    named = True

    def __init__(self, files: Inputs, labels: Labels | None, size: int, grey: bool) -> None:
        super().__init__(size, grey)
        self._files, self.labels = files, labels
        self.inputs, self.num_images = files.digest(), len(files)
        self.private = next(iter(files)).place.is_private

    def _of(self, number: int) -> list[Input]:
        return list(self._files.part(number * self._size, (number + 1) * self._size))

    def _paths(self, number: int) -> list[str]:
        return [image.place.full() for image in self._of(number)]

    def tasks(
        self, start: int, options: Options, refs: tuple[ModelRef, ...]
    ) -> Iterator[BlockTask]:
        for number in range(start, self.num_blocks):
            called = [image.name for image in self._of(number)]
            first = number * self._size
            labels = None if self.labels is None else self.labels[first : first + len(called)]
            task = BlockTask(None, self._paths(number), called, options, refs, labels)
            yield task._replace(grey=self._grey)

    def failure(self, number: int, unread: Unread) -> tuple[str, str]:
        image = next(self._files.part(number * self._size + unread.at, self.num_images))
        # workers call it by its full path
        reason = reason_of(image.label, unread.error).removeprefix(f"{image.place.full()}: ")
        return image.label, reason

    def names(self) -> Iterator[str]:
        return self._files.names()

    def identity(self, number: int) -> str:
        return work.identity(self._paths(number))


class SourceBlocks(Blocks):
    """A file of many images.  identity: changes when the file does."""

    def __init__(self, source: ImageSource, identity: str, size: int, grey: bool) -> None:
        super().__init__(size, grey)
        self._source, self.inputs = source, identity
        self.num_images, self.bytes_in = source.num_images, source.num_bytes
        self.named, self.labels = source.names is not None, source.labels
        self.left = (*source.left, *(name for name, _ in source.failed))

    def tasks(
        self, start: int, options: Options, refs: tuple[ModelRef, ...]
    ) -> Iterator[BlockTask]:
        for pixels, contents, names, labels in self._source.batches(self._size, start):
            task = BlockTask(pixels, (), names, options, refs, labels, contents)
            yield task._replace(grey=self._grey)

    def names(self) -> Iterator[str]:
        return iter(self._source.names or ())

    def failure(self, number: int, unread: Unread) -> tuple[str, str]:
        source = self._source
        called = source.called(number * self._size + unread.at)
        reason = reason_of(called, unread.error).removeprefix(f"{unread.name}: ")
        if source.is_numbered:
            raise ImageError(f"{source.name}: {called}: {reason}")
        return f"{source.name}/{called}", reason
