"""`aez decompress`, `test` and `merge`: streams in; images, trees, arrays or a verdict out.

READ ME FIRST
- Whatever is intact is restored, whatever is not is told: by number, by name where that is known,
  and as an error.
- Blocks are decoded, and trees written, by processes that open the stream for themselves; from
  stdin, URLs and for `--index` it is done here.
- A tree whose restoring was cut short is gone on with by the same command (`resume.Finished`):
  finished blocks are neither decoded nor written again.
- Names in a stream are data from strangers: `names.safe_parts` and `_Tree` keep them below the
  output directory.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from codec import __version__, api, parallel
from codec.collection.reader import Collection, DecodedBlock, Writer
from codec.commands import work
from codec.commands.inputs import Report, Source, below, find_streams, full_path, open_stream
from codec.commands.resume import Finished
from codec.commands.work import DecodeTask, RestoreTask
from codec.errors import BitstreamError, UsageError
from codec.files import images, names, urls
from codec.files.atomic import Output, atomic, debris, refuse_existing, size_of

Pixels = npt.NDArray[np.uint8]
Format = Literal["png", "npy", "idx"]

MAX_NAMED = 3  # lost images of a block that are called by name; their numbers are all told


class Chunk(NamedTuple):
    """Decoded, undamaged images of one block."""

    numbers: Sequence[int]  # positions in the collection
    names: Sequence[str]  # empty for an unnamed collection
    pixels: Pixels  # (n, 28, 28)
    is_single: bool


class Target(NamedTuple):
    """Where the images of one stream go; which of the two it is depends on what the stream turns
    out to hold.
    """

    stem: Path | str | None  # of a file, its suffix to come; str: a URL; None: stdout
    tree: Path | str
    exact: bool  # OUT named the very file
    tree_given: bool  # OUT named the very tree, so it may exist

    def file(self, suffix: str) -> Output:
        if self.exact or self.stem is None:
            return self.stem
        return (
            f"{self.stem}.{suffix}"
            if isinstance(self.stem, str)
            else self.stem.with_name(f"{self.stem.name}.{suffix}")
        )


def decompress(
    inputs: Sequence[str],
    out: str | None = None,
    *,
    format: Format | None = None,
    index: Sequence[range] | None = None,
    model: str | None = None,
    jobs: int = 1,
    force: bool = False,
    report: Report,
) -> None:
    """Restore images, trees and arrays from streams; what is damaged is reported, all that is
    intact is written.

    model: name or file of a model that the streams name but that is not installed.
    Raises: UsageError for a request that contradicts itself; all else is a failure in the report.
    """
    suffix = "" if out is None else PurePosixPath(out).suffix
    if suffix == ".aez":
        raise UsageError(f"OUT is {out}: decompress writes images and arrays, not .aez files")
    exact = suffix in (".png", ".npy", ".idx")
    if exact:
        if format not in (None, suffix[1:]):
            raise UsageError(f"--format {format} contradicts OUT {out}")
        format = cast(Format, suffix[1:])
    elif out is not None and images.is_array_file(Path(out)) and not Path(out).is_dir():
        raise UsageError(f"OUT is {out}: arrays are written as .npy or .idx")
    sources = find_streams(inputs, report)
    if (exact or out == "-") and len(sources) > 1:
        raise UsageError(f"OUT {out} is one file, but there are {len(sources)} inputs")
    one_stream = len(inputs) == 1 and (urls.is_url(inputs[0]) or not Path(inputs[0]).is_dir())
    jobs_by_stem: dict[str, list[tuple[Source, Target]]] = {}
    for source in sources:
        target = _target(source, out, exact, one_stream)
        jobs_by_stem.setdefault(os.path.abspath(target.stem or ""), []).append((source, target))
    for group in jobs_by_stem.values():
        for source, target in group:
            with report.guard(source.label):
                if len(group) > 1:
                    other = next(other for other, _ in group if other is not source)
                    raise UsageError(f"{target.stem} would also be the output of {other.label}")
                with parallel.cores(jobs):
                    _decompress_one(source, target, format, index, model, jobs, force, report)


def _target(source: Source, out: str | None, exact: bool, one_stream: bool) -> Target:
    if out == "-":
        return Target(None, Path(), exact=False, tree_given=False)
    if exact:
        assert out is not None
        file = out if urls.is_url(out) else Path(out)
        return Target(file, file, exact=True, tree_given=False)
    if out is None:
        is_path = source.path is not None and not urls.is_url(source.path)
        beside = Path(source.label if is_path else source.name)
        stem = beside.with_name(beside.name.removesuffix(".aez") or beside.name)
        return Target(stem, stem, exact=False, tree_given=False)
    name = source.name.removesuffix(".aez") or source.name
    if urls.is_url(out):
        return Target(
            below(out, name), out if one_stream else below(out, name), exact=False, tree_given=True
        )
    stem = Path(out, name)
    return Target(stem, Path(out) if one_stream else stem, exact=False, tree_given=True)


def _decompress_one(
    source: Source,
    target: Target,
    format: Format | None,
    index: Sequence[range] | None,
    model: str | None,
    jobs: int,
    force: bool,
    report: Report,
) -> None:
    with open_stream(source) as file:
        num_bytes, label = size_of(file), source.label
        collection = api.recovered(file, model)
        num_images = 1 if collection is None else sum(place.images for place in collection.places())
        for part in index or ():
            if part[-1] >= num_images:
                raise UsageError(
                    f"--index {part[-1]} is out of range: {num_images} images, the first is 0"
                )
        if collection is None:
            for chunk in decoded(api.decode_blocks(file, model=model), label, report):
                report.bytes_in += num_bytes
                _write_single(chunk.pixels, target, format or "png", force, report)
            return
        if format is None:
            format = "png" if target.stem is not None and _is_named(collection) else "npy"
        is_tree = format == "png" and target.stem is not None and not target.exact
        pins = _pins(source, force) if index is None else None
        tree = (
            _Tree(target, source, len(str(max(num_images - 1, 0))), force, pins)
            if is_tree
            else None
        )
        numbers = None if index is None else list(chain.from_iterable(index))
        shared = None if numbers is not None else _shared(source, model, jobs)
        # decoded where it is written: by the workers, if it can be shared with them
        if tree is not None and numbers is None:
            num_blocks = 1 if shared is None else sum(1 for _ in shared.places())
            tree.write(_plans_of_places(shared or collection), jobs, num_blocks, label, report)
        else:
            if numbers is None:
                chunks = decoded(_decoded_blocks(file, shared, model, jobs), label, report)
            else:
                chunks = _pick(
                    file, collection, numbers, label, model, report, named=tree is not None
                )
            if tree is not None:
                tree.write(map(_plan_of_chunk, chunks), jobs, 1, label, report, picked=True)
            elif format == "png":
                if (num_images if numbers is None else len(numbers)) != 1:
                    raise UsageError(
                        "one PNG holds one image: pick it by --index, or let OUT be a directory "
                        "or an array"
                    )
                for chunk in chunks:
                    _write_single(chunk.pixels, target, "png", force, report)
            else:
                num_failed = len(report.failed)
                first = next(chunks, None)
                if first is None and len(report.failed) > num_failed:
                    return
                rest = chunks if first is None else chain([first], chunks)
                _write_array(rest, target.file(format), format, force, report)
        report.bytes_in += num_bytes


def _pins(source: Source, force: bool) -> dict[str, object] | None:
    """What the files of a tree depend on, None if the stream will not come again."""
    if source.path is None or urls.is_url(source.path):
        return None
    return {
        "aez": __version__,
        "stream": full_path(source.path),
        "identity": work.identity([source.path]),
        "force": force,
    }


def _is_named(collection: Collection) -> bool:
    """Whether images have names, by the first block whose header is intact: one block is as the
    others.
    """
    for place in collection.places():
        with contextlib.suppress(BitstreamError):
            return collection.header_at(place).has_names
    return False


def _shared(source: Source, model: str | None, jobs: int) -> Collection | None:
    """The collection, if it is one that processes can open for themselves and that has blocks
    enough for two.
    """
    if jobs < 2 or source.path is None or urls.is_url(source.path):
        return None
    collection = api.recovered(Path(source.path), model)
    return (
        collection
        if collection is not None and len(list(islice(collection.places(), 2))) == 2
        else None
    )


def _decoded_blocks(
    file: BinaryIO,
    shared: Collection | None,
    model: str | None,
    jobs: int,
    keep_pixels: bool = True,
) -> Iterator[DecodedBlock]:
    if shared is None:
        yield from api.decode_blocks(file, model=model)
        return
    places = list(shared.places())
    tasks = (DecodeTask(shared, place, keep_pixels) for place in places)
    yield from work.spread(work.decode_block, tasks, jobs, len(places))
    if shared.fault is not None:
        yield DecodedBlock(places[-1].first + places[-1].images, 0, None, error=shared.fault)


def _tell_damage(
    block: DecodedBlock,
    number: int,
    names_: Sequence[str],
    label: str,
    report: Report,
    chosen: Iterable[int] | None = None,
) -> set[int]:
    """Report what is wrong with a block (among the images chosen); returns which of its images are
    gone.
    """
    gone = set(range(block.count) if block.pixels is None else block.lost)
    lost = [i for i in (range(block.count) if chosen is None else chosen) if i in gone]
    # A fault may lie elsewhere than in the images: in names, index, footer. It counts unless images
    # not chosen explain it.
    if lost or (block.error is not None and not gone):
        where = "" if block.is_single or not block.count else f"block {number}: "
        if where and lost:
            known = [names_[i] for i in lost[:MAX_NAMED]] if names_ else []
            called = f" ({', '.join(known)}{', ...' * (len(lost) > MAX_NAMED)})" if known else ""
            where = (
                f"block {number}, images {names.ranges([block.first + i for i in lost])}{called}: "
            )
        report.fail(label, BitstreamError(f"{where}{block.error or 'damaged'}"))
    return gone


def decoded(
    blocks: Iterator[DecodedBlock], label: str, report: Report, wanted: set[int] | None = None
) -> Iterator[Chunk]:
    """Yield what is intact (and wanted) of blocks, and report the rest as damaged."""
    if wanted is not None and not wanted:
        return
    with report.guard(label):
        for number, block in enumerate(blocks):
            chosen = [i for i in range(block.count) if wanted is None or block.first + i in wanted]
            gone = _tell_damage(block, number, block.names, label, report, chosen)
            keep = [i for i in chosen if i not in gone]
            if keep and block.pixels is not None:
                kept_names = [block.names[i] for i in keep] if block.names else []
                pixels = block.pixels if len(keep) == block.count else block.pixels[keep]
                yield Chunk([block.first + i for i in keep], kept_names, pixels, block.is_single)
            report.tick(block.count)
            if wanted is not None and block.first + block.count > max(wanted):
                return


def _pick(
    file: BinaryIO,
    collection: Collection,
    numbers: list[int],
    label: str,
    model: str | None,
    report: Report,
    *,
    named: bool,
) -> Iterator[Chunk]:
    """Decode images in the order asked for, repeats included."""
    try:
        pixels = collection[numbers]  # touches the groups wanted, no others
        found_names = collection.names_at(numbers) if named else []
        yield Chunk(numbers, found_names if any(found_names) else [], pixels, is_single=False)
        return
    except BitstreamError:  # go block by block, which tells what is lost
        pass
    found: dict[int, tuple[str | None, Pixels]] = {}
    for chunk in decoded(api.decode_blocks(file, model=model), label, report, set(numbers)):
        for i, number in enumerate(chunk.numbers):
            found[number] = chunk.names[i] if chunk.names else None, chunk.pixels[i]
    there = [number for number in numbers if number in found]
    if there:
        kept_names = [name for number in there if (name := found[number][0]) is not None]
        yield Chunk(
            there, kept_names, np.stack([found[number][1] for number in there]), is_single=False
        )


def _write_single(
    pixels: Pixels, target: Target, format: Format, force: bool, report: Report
) -> None:
    packed = {
        "png": lambda: images.pack_png(pixels[0]),
        "npy": lambda: images.pack_npy(pixels[0]),  # the shape that was compressed
        "idx": lambda: images.pack_idx(pixels),
    }[format]()
    path = target.file(format)
    with atomic(path, force=force) as file:
        file.write(packed)
    report.wrote(path, len(packed))
    report.images += 1


def _write_array(
    chunks: Iterable[Chunk], path: Output, format: Format, force: bool, report: Report
) -> None:
    """Write .npy or IDX block by block; the header is put right at the end, when the number of
    images is known.
    """
    num_images = 0
    with atomic(path, force=force, durable=True) as file:
        file.write(_array_header(format, 0))
        for chunk in chunks:
            file.write(chunk.pixels.tobytes())
            num_images += len(chunk.pixels)
        file.seek(0)
        file.write(_array_header(format, num_images))
        size_bytes = size_of(file)
    report.wrote(path, size_bytes)
    report.images += num_images


def _array_header(format: Format, num_images: int) -> bytes:
    """Header of uint8 (num_images, 28, 28); its length does not depend on num_images (numpy pads
    the first axis).
    """
    if format == "idx":
        return struct.pack(">4B3I", 0, 0, 8, 3, num_images, 28, 28)
    header = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": (num_images, 28, 28)}
    np.lib.format.write_array_header_1_0(header, fields)
    return header.getvalue()


class Plan(NamedTuple):
    """A block to be restored: decoded already or not, the numbers of its images, and their names,
    if they have any.
    """

    block: DecodedBlock | DecodeTask
    numbers: Sequence[int]
    names: Sequence[str]


def _plans_of_places(collection: Collection) -> Iterator[Plan]:
    end = 0
    for place in collection.places():
        end = place.first + place.images
        yield Plan(
            DecodeTask(collection, place, True),
            range(place.first, end),
            collection.names_or_numbers(place),
        )
    if collection.fault is not None:
        yield Plan(DecodedBlock(end, 0, None, error=collection.fault), (), ())


def _plan_of_chunk(chunk: Chunk) -> Plan:
    return Plan(DecodedBlock(0, len(chunk.pixels), chunk.pixels), chunk.numbers, chunk.names)


class _Tree:
    """A directory into which the images of one collection are restored, and out of which no name
    leads.

    width: digits in the file name of an image that has no name; pins: see `Finished`, None where
    the next run cannot go on.
    """

    def __init__(
        self,
        target: Target,
        source: Source,
        width: int,
        force: bool,
        pins: dict[str, object] | None,
    ) -> None:
        self.root, self.width, self.force = target.tree, width, force
        self._journal: tuple[Path, dict[str, object]] | None = None
        self._debris: dict[str, list[str]] | None = None  # of the run that is gone on with
        if isinstance(self.root, Path):
            if self.root.exists() and not self.root.is_dir():
                raise UsageError(f"output directory {self.root} is a file")
            if pins is not None:
                self._journal = (
                    self.root / f".{PurePosixPath(source.name).name[:40]}.restored",
                    pins,
                )
            begun = self._journal is not None and Finished.begun(*self._journal)
            if (
                not (force or target.tree_given or begun)
                and self.root.is_dir()
                and any(self.root.iterdir())
            ):
                raise UsageError(f"output directory {self.root} exists and is not empty (-o or -f)")
            self.real_root = os.path.realpath(self.root)
            self.folds_case = names.folds_case(self.root)
        # By hash, as a million paths take 200 MB: two different ones are taken for one once in
        # 10**8 such collections.
        self._taken: dict[int, int] = {}
        self._checked: set[str] = set()

    def write(
        self,
        plans: Iterable[Plan],
        jobs: int,
        num_blocks: int,
        label: str,
        report: Report,
        *,
        picked: bool = False,
    ) -> None:
        """Restore blocks; picked: their damage has been reported, and they have no numbers."""
        num_images = report.images
        under_way: deque[tuple[int, Plan, list[str]]] = deque()
        with ExitStack() as stack:
            finished = (
                None if self._journal is None else stack.enter_context(Finished(*self._journal))
            )
            again = finished is not None and finished.is_begun
            self._debris = {} if again else None
            if finished is not None and finished.blocks:
                report.note(
                    f"{self.root}: going on, blocks that are finished: {len(finished.blocks)}"
                )

            def tasks() -> Iterator[RestoreTask]:
                for number, plan in enumerate(plans):
                    called = plan.names or [f"{number:0{self.width}}" for number in plan.numbers]
                    shown = [f"{label}: {name}" for name in called]
                    paths = [
                        self._place(*of_image, report)
                        for of_image in zip(called, plan.numbers, shown, strict=True)
                    ]
                    if (
                        finished is not None
                        and (num_bytes := finished.blocks.get(number)) is not None
                    ):
                        if num_bytes == _bytes_of(paths):
                            report.images += len(paths)
                            report.bytes_out += num_bytes
                            report.tick(len(paths))
                            continue
                    under_way.append((number, plan, shown))
                    yield RestoreTask(plan.block, paths, self.force, again)

            results = stack.enter_context(
                closing(work.spread(work.restore, tasks(), jobs, num_blocks))
            )
            for block, written in results:
                number, plan, shown = under_way.popleft()
                if not picked:
                    _tell_damage(block, number, plan.names, label, report)
                    report.tick(block.count)
                for name, result in zip(shown, written, strict=True):
                    if isinstance(result, Exception):
                        report.fail(name, result)
                    elif result is not None:
                        report.images += 1
                        report.bytes_out += result
                sizes = [result for result in written if isinstance(result, int)]
                if finished is not None and block.error is None and len(sizes) == len(written) > 0:
                    finished.add(number, sum(sizes))
        if report.images > num_images:
            report.outputs.append(f"{self.root}/")

    def _place(self, name: str, number: int, shown: str, report: Report) -> str | None:
        """Where an image goes; None: nowhere, as has been reported, or where it has been put
        already.
        """
        with report.guard(shown):
            names.safe_parts(name)
            path = below(str(self.root), names.restored(name))
            if isinstance(self.root, Path):
                folder, _, file_name = path.rpartition("/")
                self._check_folder(folder)
                for left in (self._debris or {}).pop(f"{folder}/{file_name[:40]}", ()):
                    os.unlink(left)
            key = names.folded(path) if isinstance(self.root, Path) and self.folds_case else path
            other = self._taken.get(hash(key))
            if other == number:  # --index named it twice
                return None
            if other is not None:
                raise UsageError(f"{path} is also the output of image {other}")
            self._taken[hash(key)] = number
            if isinstance(self.root, str) and not self.force and urls.exists(path):
                raise UsageError(f"output {path} exists (-f overwrites it)")
            return path
        return None

    def _check_folder(self, folder: str) -> None:
        """Refuse a directory that a link in OUT leads out of it."""
        if folder not in self._checked:
            real = os.path.realpath(folder)
            if os.path.commonpath([real, self.real_root]) != self.real_root:
                raise UsageError(f"{folder} is a link that leads out of {self.root}")
            self._checked.add(folder)
            if self._debris is not None:
                self._debris |= debris(folder)


def _bytes_of(paths: Sequence[str | None]) -> int | None:
    """Bytes of files together, None unless all are there."""
    try:
        return (
            sum(os.stat(path).st_size for path in paths if path is not None)
            if None not in paths
            else None
        )
    except OSError:
        return None


# Checking and joining


def check(
    inputs: Sequence[str], report: Report, model: str | None = None, *, jobs: int = 1
) -> list[tuple[str, int]]:
    """Decode every stream in full and write nothing; returns the whole ones with their number of
    images.
    """
    whole: list[tuple[str, int]] = []
    for source in find_streams(inputs, report):
        with report.guard(source.label), open_stream(source) as file, parallel.cores(jobs):
            num_failed = len(report.failed)
            api.recovered(file, model)  # what is no stream at all fails here
            shared = _shared(source, model, jobs)
            blocks = _decoded_blocks(file, shared, model, jobs, keep_pixels=False)
            num_images = sum(len(chunk.pixels) for chunk in decoded(blocks, source.label, report))
            report.images += num_images
            if len(report.failed) == num_failed:
                report.outputs.append(source.label)
                whole.append((source.label, num_images))
    return whole


def merge(inputs: Sequence[str], out: str, *, force: bool = False, report: Report) -> None:
    """Join collections into one: their blocks as they are, each verified by its Checksum, in the
    order given.

    All must have names or none; two images that would be restored as one file are an error, and
    nothing is written. Raises: UsageError; a damaged input is a failure in the report.
    """
    output: Output = None if out == "-" else out if urls.is_url(out) else Path(out)
    if output is not None and not out.endswith(".aez"):
        raise UsageError(f"OUT is {out}: it must be an .aez file")
    if output is not None:
        refuse_existing(output, force)
    if len(inputs) < 2:
        raise UsageError("there is nothing to join: give two collections or more")
    label = out
    try:
        with ExitStack() as stack:
            collections: list[tuple[str, Collection]] = []
            for label in inputs:
                collections.append((label, stack.enter_context(api.open(label))))
            named = {
                label: collection.has_names for label, collection in collections if len(collection)
            }
            if len(set(named.values())) > 1:
                one, other = (
                    next(label for label, has in named.items() if has is wanted)
                    for wanted in (True, False)
                )
                raise UsageError(f"the images of {one} have names, those of {other} have none")
            for label, collection in collections:  # noqa: B007 (damaged names are told by the input they are in)
                deque(collection.each_name(), 0)
            label = out
            if any(named.values()):
                _refuse_collisions(collections)
            models = list(
                dict.fromkeys(m for _, collection in collections for m in collection.embedded)
            )
            with atomic(output, force=force, durable=True) as file:
                writer = Writer(file, models)
                for label, collection in collections:  # noqa: B007 (what fails is told by its label)
                    for number, place in enumerate(collection.places()):
                        try:
                            header, block = collection.read_block(place)
                        except BitstreamError as error:
                            raise BitstreamError(f"block {number}: {error}") from None
                        writer.write(block, header.image_count)
                        report.tick(header.image_count)
                writer.finish()
                label = out
    except (BitstreamError, OSError) as error:
        report.fail(label, error)
        return
    report.images += sum(len(collection) for _, collection in collections)
    report.bytes_in += sum(collection.num_bytes for _, collection in collections)
    report.wrote(output, writer.num_bytes)


def _refuse_collisions(collections: list[tuple[str, Collection]]) -> None:
    def restored() -> Iterator[str]:
        return (
            names.restored(name) for _, collection in collections for name in collection.each_name()
        )

    def called(number: int) -> str:
        for label, collection in collections:
            if number < len(collection):
                return f"{label}: {collection.name(number)}"
            number -= len(collection)
        raise AssertionError

    for later, earlier in names.collisions(restored):
        raise UsageError(
            f"{called(earlier)} and {called(later)} would both be restored as one file"
        )
