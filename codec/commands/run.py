"""One run of `aez compress`: its options, and what its jobs share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

from codec.commands import processes, work
from codec.commands.events import Events, Note
from codec.commands.inputs import Input
from codec.commands.jobs import Job, Source
from codec.commands.stream import open_stream
from codec.encoder.encode import Encoder
from codec.encoder.options import Options
from codec.errors import BitstreamError, counted
from codec.files.atomic import remove
from codec.files.batch import READING, Reading
from codec.files.place import Place
from codec.format.constants import MAX_BLOCK_IMAGES
from codec.labels import digest_of

S = TypeVar("S")
R = TypeVar("R")


@dataclass(frozen=True)
class CompressOptions:
    """encoding: options of the encoder; jobs: cores to use; scheduler: address of a Dask scheduler
    whose workers do the work instead; block_images: of a collection, shard_images: of a task of
    single files; reading: how files are read; append: to a collection that is there.
    """

    encoding: Options = field(default_factory=Options)
    jobs: int = 1
    force: bool = False
    remove: bool = False
    embed_model: bool = False
    scheduler: str | None = None
    block_images: int = MAX_BLOCK_IMAGES
    shard_images: int = work.SHARD_IMAGES
    reading: Reading = READING
    append: bool = False

    @property
    def is_rounding(self) -> bool:
        """Whether values may be stored that are not those of the input, though lossless."""
        return self.reading.scale is not None and self.reading.scale.rounded

    def refs(self) -> tuple[work.ModelRef, ...]:
        return tuple(map(work.model_ref, Encoder(self.encoding).models))

    def spread(
        self, task: Callable[[S], R], tasks: Iterable[S], num_tasks: int
    ) -> Generator[R, None, None]:
        if self.scheduler is None:
            return processes.spread(task, tasks, self.jobs, num_tasks)
        from codec.commands import cluster  # Dask takes a second to import

        return cluster.spread(self.scheduler, task, tasks)


DEFAULTS = CompressOptions()


class Run:
    """What has been noted and counted so far, and which inputs are still needed."""

    def __init__(self, options: CompressOptions, jobs: list[Job]) -> None:
        self.options = options
        self._said: set[str] = set()
        self._dropped: Counter[str] = Counter()
        self._models: set[str] = set()
        self._kept = 0
        # Several jobs may read one file: it can go when the last of them is done.
        self._needed = Counter(
            source.label for job in jobs if isinstance(job, Source) for source in job.inputs
        )

    def note(self, text: str) -> Events:
        """Say something, once a run."""
        if text not in self._said:
            self._said.add(text)
            yield Note(text)

    def use(self, models: Iterable[str]) -> None:
        """Keep in mind which models have coded images, by name."""
        self._models.update(models)

    def drop(self, what: Mapping[str, int]) -> None:
        """Count what files say besides their pixels: see `Examined`."""
        self._dropped.update(what)

    def keep(self, number: int) -> None:
        """Count image files that `--rm` does not delete, as they say more than is stored."""
        self._kept += number

    def notes(self) -> Events:
        """What is to be said at the end."""
        encoding = self.options.encoding
        for model in Encoder(encoding).models if encoding.max_error and self._models else ():
            if model.name in self._models and not model.grid_steps:
                yield Note(f"model {model.name} has learned no grids: its images take more bytes")
        dropped = dict(self._dropped)
        if turned := dropped.pop("orientation", 0):
            have = "has" if turned == 1 else "have"
            yield Note(
                f"{counted(turned, 'image')} {have} a tag that turns the picture; pixels are "
                "stored as they are"
            )
        if dropped:
            listed = ", ".join(
                f"{what} of {counted(number, 'image')}" for what, number in dropped.items()
            )
            yield Note(f"not stored, as it is not pixels: {listed}")
        if self._kept:
            are = "is" if self._kept == 1 else "are"
            yield Note(f"{counted(self._kept, 'file')} {are} kept, as not all of it is stored")

    def remove(
        self,
        files: Iterable[Input],
        output: Place,
        num_images: int,
        wanted: list[tuple[str, str]],
        first: int = 0,
    ) -> None:
        """Delete inputs whose output is on the disk, once it has decoded in full.

        wanted: of each block, from number `first` on, the digest of its pixels, which a lossless
        output must have, and of its labels. Raises BitstreamError, OSError.
        """
        options = self.options
        num_decoded, exact, labelled = 0, True, True
        with open_stream(Input(str(output), output.name), options.encoding.model) as stream:
            blocks = islice(stream.decoded(options.jobs), first, None)
            for number, block in enumerate(blocks):
                if block.fault is not None:
                    raise block.fault
                num_decoded += len(block.images)
                pixels, labels = wanted[number]
                exact &= work.digest_of(block.pixels) == pixels
                labelled &= digest_of(block.labels) == labels
        if num_decoded != num_images:
            raise BitstreamError(
                f"{output} holds {counted(num_decoded, 'image')}, not {num_images}; "
                "the inputs are kept"
            )
        if options.encoding.lossless and not exact:
            raise BitstreamError(f"{output} does not hold the pixels of its inputs, which are kept")
        if not labelled:
            raise BitstreamError(f"{output} does not hold the labels of its inputs, which are kept")
        for source in files:
            if source.label in self._needed:
                self._needed[source.label] -= 1
            if not self._needed[source.label]:
                remove(Path(source.label))
