"""Blocks as units of work: the same functions here, in worker processes, and on a Dask cluster.

READ ME FIRST
- A task is all that a worker needs and nothing more: which images (files to read, or pixels), which
  models. What comes back is a block, done. So bytes do not depend on who did the work, on how many
  there were, or on which of them died.
- Block k of a collection holds input k * BLOCK_IMAGES and those after it. An input that cannot be
  read leaves its block shorter and moves no other image: blocks do not depend on each other.
- Results come in the order of the tasks, and no more tasks are under way than the workers need:
  memory is bounded.
- Each process has its share of the cores. Threads code a block as fast, as long as they are few and
  it need not be read first; so processes, which take half a second to start, are for more than a
  few blocks: two for each, or more.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from codec import api, parallel
from codec.collection.reader import Collection, DecodedBlock, Place
from codec.errors import AezError, BadModel, ModelNotFound
from codec.files import images, urls
from codec.files.atomic import Output, atomic
from codec.format.bitstream import MODEL_HASH_BYTES
from codec.model import registry
from codec.model.bundle import BaseModel
from codec.model.ladder import Model

Pixels = npt.NDArray[np.uint8]
S = TypeVar("S")
R = TypeVar("R")

# Images of a task whose outputs are single files: enough that a worker process pays, and that one
# network pass is large.
SHARD_IMAGES = 512
TASKS_EACH = 2  # at least, for each worker process


# Who does the work


def spread(
    work: Callable[[S], R], tasks: Iterable[S], jobs: int, num_tasks: int
) -> Generator[R, None, None]:
    """Map `work` over the tasks in order, on `jobs` cores, in processes if there are tasks enough.

    Raises: AezError if a worker process was killed; what `work` raises.
    """
    num_workers = max(1, min(jobs, num_tasks // TASKS_EACH))
    if num_workers == 1:
        with parallel.cores(jobs):
            for task in tasks:
                yield work(task)
        return
    import multiprocessing  # 10 ms that one image does not need
    from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor

    # spawn: a fork of a process whose BLAS has threads can hang.
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(num_workers, context, _start_worker, (max(1, jobs // num_workers),))
    pending: deque[Any] = deque()
    try:
        for task in tasks:
            with _deaf_children():
                pending.append(pool.submit(work, task))
            if len(pending) > num_workers + 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise AezError("a worker process was killed (out of memory?); try a smaller -j") from None
    except BaseException:
        # Ctrl-C, or a fault that ends it all: what the workers are at is for nobody.
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _deaf_children() -> Iterator[None]:
    """Let processes that start inside inherit a blocked SIGINT: Ctrl-C reaches the whole group, and
    the parent alone answers it.

    Here it only waits until the end of the block.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(cores: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it could not be blocked
    parallel.use_cores(cores)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed cannot stop its workers, and they would wait for work for ever."""
    from multiprocessing import parent_process

    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


# Models


class ModelRef(NamedTuple):
    """A model and its encoder, None if it is lossless: as their hashes, or as their files."""

    model: bytes
    encoder: bytes | None


def model_ref(model: BaseModel) -> ModelRef:
    """How a task names a model: by hashes if every installation has it, else by its files.

    Raises EncoderNotFound, BadModel.
    """
    encoder = model.encoder if isinstance(model, Model) else None
    if registry.id_of(model):
        with contextlib.suppress(ModelNotFound):  # it was given as a file
            if registry.by_hash(model.hash).encoder_hash == model.encoder_hash:
                return ModelRef(model.hash, model.encoder_hash)
    return ModelRef(model.stream, None if encoder is None else encoder.stream)


@lru_cache(maxsize=8)
def model_of(ref: ModelRef) -> BaseModel:
    """Inverse of `model_ref`.  Raises ModelNotFound, BadModel."""
    if len(ref.model) != MODEL_HASH_BYTES:
        return registry.unpack_model(ref.model, ref.encoder)
    model = registry.by_hash(ref.model)
    if model.encoder_hash != ref.encoder:  # bytes must not depend on who does the work
        raise BadModel(f"model {model.name} has another encoder here than where the work is from")
    return model


# Reading


class ReadImage(NamedTuple):
    """The pixels (28, 28) of an image file, and its size in bytes."""

    pixels: Pixels
    size_bytes: int


def read_images(paths: Sequence[str]) -> list[ReadImage | Exception]:
    """Read image files, paths or URLs, each for itself."""
    streams = urls.read_many(paths) if paths and urls.is_url(paths[0]) else [None] * len(paths)
    return [_read_image(path, stream) for path, stream in zip(paths, streams, strict=True)]


def _read_image(path: str, stream: bytes | Exception | None) -> ReadImage | Exception:
    if isinstance(stream, Exception):
        return stream
    try:
        if stream is not None:
            return ReadImage(images.read_image(io.BytesIO(stream), name=path), len(stream))
        return ReadImage(images.read_image(Path(path)), os.stat(path).st_size)
    except (AezError, OSError) as error:
        return error


def identity(paths: Sequence[str]) -> str:
    """A digest of what tells whether files changed: size and time of each; one that is not there
    counts as such.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        try:
            if urls.is_url(path):
                mark = urls.identity(path)
            else:
                status = os.stat(path)
                mark = f"{status.st_size} {status.st_mtime_ns}"
        except OSError as error:
            mark = f"? {error.errno}"
        digest.update(f"{mark}\n".encode())
    return digest.hexdigest()


# Compressing


class BlockTask(NamedTuple):
    """One block to be made. Either `pixels` (n, 28, 28), or `paths` of image files."""

    pixels: Pixels | None
    paths: Sequence[str]
    names: Sequence[str] | None
    asked: api.Request
    models: tuple[ModelRef, ...]


@dataclass
class BlockResult:
    """A block, b"" if none of its images could be read.

    failed: position in the task and why; inputs: `identity` of the files; pixels_digest: BLAKE2b of
    what was encoded.
    """

    block: bytes = b""
    stats: api.CompressStats = field(default_factory=api.CompressStats)
    failed: list[tuple[int, Exception]] = field(default_factory=list)
    bytes_in: int = 0
    inputs: str = ""
    pixels_digest: str = ""


def encode_block(task: BlockTask) -> BlockResult:
    """Read, if need be, and encode.  Raises ModelNotFound, BadModel."""
    result = BlockResult()
    pixels, names = task.pixels, task.names
    if pixels is None:
        # before reading: a file that changes meanwhile must not look unchanged later
        result.inputs = identity(task.paths)
        good: list[Pixels] = []
        kept: list[str] = []
        for i, read in enumerate(read_images(task.paths)):
            if isinstance(read, Exception):
                result.failed.append((i, read))
                continue
            good.append(read.pixels)
            result.bytes_in += read.size_bytes
            if names is not None:
                kept.append(names[i])
        if not good:
            return result
        pixels, names = np.stack(good), kept if names is not None else None
    models = [model_of(ref) for ref in task.models]
    result.block, result.stats = api.encode_block(
        models, pixels, task.asked, None if names is None else list(names)
    )
    result.pixels_digest = hashlib.blake2b(pixels.tobytes(), digest_size=16).hexdigest()
    return result


class EachTask(NamedTuple):
    """Image files of which each becomes a stream of its own."""

    paths: Sequence[str]
    outputs: Sequence[str | None]  # None: stdout, of a task that stays in this process
    asked: api.Request
    models: tuple[ModelRef, ...]
    force: bool
    durable: bool


class EachResult(NamedTuple):
    """Of one image: the stream's size and figures, or why there is none; pixels_digest: BLAKE2b of
    the image.
    """

    stats: api.CompressStats | Exception
    bytes_in: int
    pixels_digest: str


def encode_each(task: EachTask) -> list[EachResult]:
    """Read, encode in one network pass, write.  Raises ModelNotFound, BadModel."""
    read = read_images(task.paths)
    good = [i for i, image in enumerate(read) if isinstance(image, ReadImage)]
    results: dict[int, EachResult] = {
        i: EachResult(r, 0, "") for i, r in enumerate(read) if isinstance(r, Exception)
    }
    if good:
        pixels = np.stack([image.pixels for image in read if isinstance(image, ReadImage)])
        models = [model_of(ref) for ref in task.models]
        for i, image, packed in zip(
            good, pixels, api.pack_each(models, pixels, task.asked), strict=True
        ):
            found = read[i]
            assert isinstance(found, ReadImage)
            try:
                if isinstance(packed, AezError):
                    raise packed
                stream, stats = packed
                with atomic(
                    output_of(task.outputs[i]), force=task.force, durable=task.durable
                ) as file:
                    file.write(stream)
                outcome: api.CompressStats | Exception = stats
            except (AezError, OSError) as error:
                outcome = error
            results[i] = EachResult(
                outcome,
                found.size_bytes,
                hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest(),
            )
    return [results[i] for i in range(len(read))]


def output_of(name: str | None) -> Output:
    """A path or URL as text -> what `atomic` takes."""
    return name if name is None or urls.is_url(name) else Path(name)


# Decompressing


class DecodeTask(NamedTuple):
    """A block to be decoded."""

    collection: Collection
    place: Place
    keep_pixels: bool


def decode_block(task: DecodeTask) -> DecodedBlock:
    """Decode one block as far as it is intact.  Raises ModelNotFound, BadModel."""
    block = task.collection.decode_block(task.place)
    if not task.keep_pixels and block.pixels is not None:
        block.pixels = np.zeros((block.count, 0, 0), np.uint8)
    return block


class RestoreTask(NamedTuple):
    """Images to be written as PNG files, of a block that is decoded, or is to be.

    paths: of each image of the block, None for one that is not to be written. again: an earlier run
    of the same command was cut short, so a file that is there with the very bytes is taken for
    written.
    """

    block: DecodedBlock | DecodeTask
    paths: Sequence[str | None]
    force: bool
    again: bool = False


class Restored(NamedTuple):
    """block: without its pixels; written: size in bytes of each image's file, why it was not
    written, or None.
    """

    block: DecodedBlock
    written: list[int | Exception | None]


def restore(task: RestoreTask) -> Restored:
    """Decode what is not yet decoded, and write.  Raises ModelNotFound, BadModel."""
    block = decode_block(task.block) if isinstance(task.block, DecodeTask) else task.block
    written: list[int | Exception | None] = [None] * block.count
    lost = set(block.lost)
    if block.pixels is not None:
        for i, path in enumerate(task.paths):
            if path is not None and i not in lost:
                written[i] = _write_png(path, block.pixels[i], task.force, task.again)
    block.pixels, block.names = (
        None if block.pixels is None else np.zeros((block.count, 0, 0), np.uint8),
        [],
    )
    return Restored(block, written)


def _write_png(path: str, pixels: Pixels, force: bool, again: bool) -> int | Exception:
    packed = images.pack_png(pixels)
    try:
        if again and os.path.isfile(path) and Path(path).read_bytes() == packed:
            return len(packed)
        if urls.is_url(path):
            urls.write(path, packed)
        else:
            with atomic(Path(path), force=force) as file:
                file.write(packed)
    except (AezError, OSError) as error:
        return error
    return len(packed)
