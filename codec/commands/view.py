"""`aez view`: a page that shows streams, and decodes them by itself.

READ ME FIRST
- The streams go into the page as they are. Only their headers are looked at here, for the models
  that they need; what is damaged in them the page finds, and shows as damaged.
- A model is embedded if it is given or installed, unless each stream that needs it has it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from codec.collection import open as opening
from codec.collection.reader import Collection
from codec.collection.single import SingleImage
from codec.collection.source import ByteSource, Source
from codec.commands.compare import originals_of
from codec.commands.events import Done, Event, Events, Failed, Note, guarded
from codec.commands.inputs import Input, find_streams
from codec.errors import BitstreamError, UsageError, counted
from codec.files.place import Place, given
from codec.format.constants import MODEL_HASH_BYTES
from codec.model import registry
from codec.view import page
from codec.view.page import MAX_PAGE_BYTES, Model, Originals
from codec.view.serve import Server


@dataclass
class Exhibit:
    """A stream to show: its bytes, how many images it has, the hashes of the models that it names
    and does not hold, and the names of its images, empty if they have none.
    """

    source: Input
    content: ByteSource
    num_images: int
    needs: list[bytes]
    names: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Wanted:
    """What the user wants to see.

    inputs: streams; with `against`, a stream, they are its originals, and the page compares it with
    them. models: names or files of models that are not installed.
    """

    inputs: Sequence[str]
    against: str | None = None
    models: Sequence[str] = ()


def view(wanted: Wanted, out: str | None = None, *, force: bool = False) -> Events:
    """Write a page.  out: by default a temporary file, which stays.

    Raises UsageError if it is too much for one page; AezError, OSError.
    """
    output = None if out is None else _output(out, force)
    with ExitStack() as stack:
        exhibits, models, originals = yield from _collect(wanted, True, stack)
        if not exhibits:
            return
        sizes = [one.content.size for one in exhibits] + [len(one.content) for one in models]
        _check_size(sum(sizes) + (len(originals.pixels) if originals else 0))
        streams = [
            page.Stream(name, one.content.read(0, one.content.size))
            for name, one in zip(_names(exhibits), exhibits, strict=True)
        ]
        content = page.build(_title(exhibits), streams, models, originals)
    if output is None:
        name = _write_temporary(content)
    else:
        with output.replace(force=force) as file:
            file.write(content)
        name = str(output)
    yield _done(exhibits, name, content)


def serve(wanted: Wanted, port: int, stack: ExitStack) -> Generator[Event, None, Server | None]:
    """Listen at a port, 0 is a free one; return the server of a page and its streams, which are
    read as they are asked for; None if there is none to show.  stack: closes them.

    Raises AezError, OSError.
    """
    exhibits, models, originals = yield from _collect(wanted, False, stack)
    if not exhibits:
        return None
    files = {f"{number}.aez": one.content for number, one in enumerate(exhibits)}
    streams = [
        page.Stream(name, url=f"/{file}", num_bytes=one.content.size)
        for name, file, one in zip(_names(exhibits), files, exhibits, strict=True)
    ]
    content = page.build(_title(exhibits), streams, models, originals)
    try:
        server = stack.enter_context(Server(content, files, port))
    except OSError as error:
        raise OSError(error.errno, f"cannot listen at port {port}: {error.strerror}") from error
    yield _done(exhibits, server.url, content)
    return server


def _collect(
    wanted: Wanted, embed: bool, stack: ExitStack
) -> Generator[Event, None, tuple[list[Exhibit], list[Model], Originals | None]]:
    """All that a page shows: streams, none if there is nothing to show, models, originals."""
    inputs = wanted.inputs if wanted.against is None else [wanted.against]
    exhibits = yield from _find(inputs, embed, stack)
    if wanted.against is not None and len(exhibits) > 1:
        raise UsageError(f"--against {wanted.against}: give one stream")
    models, originals = list[Model](), None
    if exhibits:
        models = yield from _models(exhibits, wanted.models)
        if wanted.against is not None:
            (one,) = exhibits
            originals = yield from originals_of(one.names, one.num_images, wanted.inputs)
    return exhibits, models, originals


def _done(exhibits: Sequence[Exhibit], output: str, content: bytes) -> Done:
    num_images = sum(one.num_images for one in exhibits)
    num_bytes = sum(one.content.size for one in exhibits)
    return Done(_title(exhibits), output, num_images, num_bytes, len(content))


def _names(exhibits: Sequence[Exhibit]) -> list[str]:
    """What the page calls the streams: with their folders if that is needed to tell them apart."""
    names = [one.source.name.rpartition("/")[2] for one in exhibits]
    return names if len(set(names)) == len(names) else [one.source.name for one in exhibits]


def _title(exhibits: Sequence[Exhibit]) -> str:
    first, *others = _names(exhibits)
    return f"{first} and {counted(len(others), 'other')}" if others else first


def page_of(
    title: str, contents: Mapping[str, bytes], models: Sequence[str], originals: Originals
) -> bytes:
    """A page of streams that are in memory, by name, as `view` makes it.

    Raises BitstreamError, ModelNotFound, BadModel.
    """
    exhibits = []
    for name, content in contents.items():
        with opening.open_stream(content) as stream:
            exhibits.append(Exhibit(Input(None, name), ByteSource(content), *_needs(stream)))
    found, given = list[Model](), _given(models)
    for model_hash in _needed(exhibits):
        if model := _model(model_hash, given):
            found.append(model)
    streams = [page.Stream(name, content) for name, content in contents.items()]
    return page.build(title, streams, found, originals)


def _output(out: str, force: bool) -> Place:
    """Where the page goes.  Raises UsageError if it cannot go there."""
    output = given(out)
    is_folder = output.path is not None and output.path.is_dir()  # refused below
    is_page = output.name.lower().endswith((".html", ".htm"))
    if not (output.is_standard or is_folder or is_page):
        raise UsageError(f"-o {out}: a page is written, give a name that ends in .html")
    output.check_free(force)
    return output


def _write_temporary(content: bytes) -> str:
    """Write a page that only this user can read."""
    file, name = tempfile.mkstemp(prefix="aez-", suffix=".html")
    with os.fdopen(file, "wb") as opened:
        opened.write(content)
    return name


def _check_size(num_bytes: int) -> None:
    if num_bytes > MAX_PAGE_BYTES:
        raise UsageError(
            f"the page would hold {num_bytes / 1e6:.1f} MB, and more than "
            f"{MAX_PAGE_BYTES / 1e6:.0f} make browsers slow: --serve shows files of any size"
        )


# Streams


def _find(
    inputs: Sequence[str], embed: bool, stack: ExitStack
) -> Generator[Event, None, list[Exhibit]]:
    """Look at the streams; those that cannot be shown are reported.

    embed: read them into memory, and raise UsageError if they are too large for a page.
    """
    sources = yield from find_streams(inputs)
    if embed:
        _check_size(sum(map(_size_of, sources)))
    exhibits: list[Exhibit] = []
    for source in sources:
        yield from guarded(source.label, _look_at(source, embed, exhibits, stack))
    return exhibits


def _size_of(source: Input) -> int:
    """As far as it is known before it is read."""
    with contextlib.suppress(OSError):
        return source.place.size()
    return 0


def _look_at(source: Input, embed: bool, exhibits: list[Exhibit], stack: ExitStack) -> Events:
    where = source.place
    opened: Source
    if embed:
        with where.open() as file:
            opened = file.read()
    else:
        opened = where.path or stack.enter_context(where.open())
    content = ByteSource(opened)
    stack.callback(content.close)
    with opening.open_stream(opened, recover=True) as stream:
        exhibit = Exhibit(source, content, *_needs(stream))
        with contextlib.suppress(BitstreamError):
            exhibit.names = stream.names if isinstance(stream, Collection) else []
        if isinstance(stream, Collection) and stream.fault is not None:
            yield Failed.by(source.label, stream.fault)
    exhibits.append(exhibit)


def _needs(stream: Collection | SingleImage) -> tuple[int, list[bytes]]:
    """How many images there are, and the hashes of the models that intact headers name, without
    those that the stream holds.
    """
    if isinstance(stream, SingleImage):
        return 1, [use.model_hash for use in stream.uses() if use.model_hash]
    num_images, hashes = 0, list[bytes]()
    for block in stream.intact_blocks():
        num_images += block.count
        with contextlib.suppress(BitstreamError):
            hashes += [use.model_hash for use in block.uses() if use.model_hash]
    held = set[bytes]()
    with contextlib.suppress(BitstreamError):
        held = {hashlib.sha256(model).digest()[:MODEL_HASH_BYTES] for model in stream.embedded}
    return num_images, [each for each in dict.fromkeys(hashes) if each not in held]


# Models


def _models(
    exhibits: Sequence[Exhibit], names: Sequence[str]
) -> Generator[Event, None, list[Model]]:
    """The models that the streams need; says which ones are nowhere.

    names: of models that are given. Raises ModelNotFound, BadModel if one of them is none.
    """
    given, needed = _given(names), _needed(exhibits)
    for model_hash, model in given.items():
        if model_hash not in needed:
            yield Note(f"no stream needs model {model.name} ({model.hash}): it is left out")
    found: list[Model] = []
    for model_hash in needed:
        if (wanted := _model(model_hash, given)) is not None:
            found.append(wanted)
        else:
            yield Note(
                f"model {model_hash.hex()} is not installed, and its images are not shown: give "
                "its file with -m FILE, or drop it onto the page"
            )
    return found


def _needed(exhibits: Sequence[Exhibit]) -> list[bytes]:
    """The hash of each model that is needed, once."""
    return list(dict.fromkeys(each for one in exhibits for each in one.needs))


def _given(names: Sequence[str]) -> dict[bytes, Model]:
    """Models by their names or files.  Raises ModelNotFound, BadModel."""
    models = [registry.by_name(name, None) for name in names]
    return {each.hash: Model(each.name, each.hash.hex(), each.stream) for each in models}


def _model(model_hash: bytes, given: Mapping[bytes, Model]) -> Model | None:
    """A model that is given or installed."""
    path = registry.path_of(model_hash)
    if model_hash in given or path is None:
        return given.get(model_hash)
    return Model(registry.name_of(path), model_hash.hex(), path.read_bytes())
