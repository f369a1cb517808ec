"""`aez merge`: collections -> one collection, without encoding again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from codec import api
from codec.collection.reader import Collection
from codec.collection.writer import Writer
from codec.commands.events import Done, Events, Failed, Progress, expected
from codec.errors import BitstreamError, UsageError
from codec.files import names
from codec.files.place import Place, common_mode, given, place


def merge(inputs: Sequence[str], out: str, *, force: bool = False) -> Events:
    """Join collections, in this order: their blocks are verified by their Checksum and copied.

    All must have names or none, and labels of one kind or none; if two images would be restored as
    one file, nothing is written.
    Raises UsageError; a damaged input is a failure.
    """
    output = given(out)
    if not (output.is_standard or out.endswith(".aez")):
        raise UsageError(f"OUT is {out}: give the name of an .aez file")
    output.check_free(force)
    if "-" in inputs:
        raise UsageError("merge reads files and URLs, not stdin")
    if len(inputs) < 2:
        raise UsageError("give at least two collections")
    with ExitStack() as stack:
        joined: list[tuple[str, Collection]] = []
        labelled: list[tuple[str, str]] = []
        for label in inputs:
            try:
                collection = stack.enter_context(api.open(label))
                # are they intact?
                deque(collection.each_name() if collection.has_names else (), 0)
                kinds = collection.label_kinds
            except (BitstreamError, OSError) as error:
                yield Failed.by(label, error)
                return
            joined.append((label, collection))
            labelled += [(label, kind) for kind in kinds]
        _check_names(joined)
        _check_labels(labelled)
        yield from _write(joined, output, force)


def _write(joined: list[tuple[str, Collection]], output: Place, force: bool) -> Events:
    models = list(dict.fromkeys(m for _, collection in joined for m in collection.embedded))
    label = str(output)
    yield from expected(sum(len(collection) for _, collection in joined))
    try:
        mode = common_mode(place(each) for each, _ in joined)
        with output.replace(force=force, durable=True, mode=mode) as file:
            writer = Writer(file, models)
            for label, collection in joined:  # noqa: B007 (it names what fails)
                for number, block in enumerate(collection.blocks):
                    try:
                        writer.write(block.read(), block.count)
                    except BitstreamError as error:
                        raise BitstreamError(f"block {number}: {error}") from None
                    yield Progress(block.count, block.size)
            label = str(output)
            writer.finish()
    except (BitstreamError, OSError) as error:
        yield Failed.by(label, error)
        return
    num_images = sum(len(collection) for _, collection in joined)
    num_bytes = sum(collection.num_bytes for _, collection in joined)
    yield Done(
        ", ".join(label for label, _ in joined),
        str(output),
        num_images,
        num_bytes,
        writer.num_bytes,
    )


def _check_labels(labelled: list[tuple[str, str]]) -> None:
    """Raise UsageError if not all labels are of one kind.  labelled: inputs, kinds in each."""
    for label, kind in labelled:
        first, other = labelled[0]
        if kind != other:
            raise UsageError(
                f"the labels of all images must be of one kind: {first} has {other}, "
                f"{label} has {kind}"
            )


def _check_names(joined: list[tuple[str, Collection]]) -> None:
    """Raise UsageError if some images have names and others none, or two would be one file."""
    named = {label: collection.has_names for label, collection in joined if len(collection)}
    if len(set(named.values())) > 1:
        one, other = (
            next(label for label, has in named.items() if has is wanted) for wanted in (True, False)
        )
        raise UsageError(f"the images of {one} have names, those of {other} have none")

    def each_name() -> Iterator[str]:
        return (name for _, collection in joined for name in collection.each_name())

    def called(number: int) -> tuple[str, str]:
        for label, collection in joined:
            if number < len(collection):
                return label, collection.name(number)
            number -= len(collection)
        raise AssertionError

    if any(named.values()) and (clash := names.clash(each_name)) is not None:
        earlier, later, why = clash
        (label, name), (other, same) = called(later), called(earlier)
        if label != other and place(label).full() == place(other).full():
            label = other
        if label == other and name == same:
            raise UsageError(f"{label} is given twice: it would have two images {name}")
        raise UsageError(f"{other}: {same} and {label}: {name} {why}")
