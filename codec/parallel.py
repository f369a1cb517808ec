"""Work on all cores: threads, with BLAS held to one thread in each, and freed memory kept.

Processes are for `codec.commands.work`; each of them gets its share of the cores by `use_cores`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from codec import kernels

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

Item = TypeVar("Item")
Result = TypeVar("Result")

_cores: int | None = None  # None: all
_thread = threading.local()  # is_of_pool


def num_cores() -> int:
    """How many cores this thread may use."""
    if getattr(_thread, "is_of_pool", False):
        return 1
    if _cores is not None:
        return _cores
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_cores(cores: int | None) -> int | None:
    """Let `in_threads` use this many cores from now on (None: all); return the old number."""
    global _cores
    before, _cores = _cores, cores
    return before


@contextlib.contextmanager
def cores(number: int) -> Iterator[None]:
    """Let `in_threads` use this many cores inside the `with` block."""
    before = use_cores(number)
    try:
        yield
    finally:
        use_cores(before)


def in_threads(function: Callable[[Item], Result], items: list[Item]) -> Iterable[Result]:
    """map(function, items) on all cores: numpy releases the interpreter lock while it computes.

    An item that calls this has its own core for it. It must not wait for another thread that does.
    """
    cores = num_cores()
    if len(items) < 2 or cores == 1:
        with one_blas_thread():
            return [function(item) for item in items]
    with one_blas_thread():
        return list(_pool(os.getpid(), cores).map(function, items))


@functools.lru_cache(maxsize=1)
def _pool(process: int, cores: int) -> ThreadPoolExecutor:
    """Threads that stay: new ones would get new memory, and search for a quality asks for them ten
    times a block (with new ones it took a sixth longer).

    process: its number; a process that was forked has none of these threads.
    """
    # with all that it imports, 5 ms that one image does not need
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(cores, initializer=_mark)


def _mark() -> None:
    """A thread of the pool has one core: its own."""
    _thread.is_of_pool = True


def keep_memory(limit: int = 256 << 20) -> None:
    """Tell glibc to keep up to `limit` bytes of freed memory for the next arrays instead of giving
    them back at once.

    Arrays of some hundred KiB come and go by the thousand, and fresh pages cost more than what is
    computed in them (measured with the numpy engine: lossless encoding 32 s without, 19 s with). It
    holds for the whole process and for good, so only the owner of the process calls it: the command
    line, its workers, training. Does nothing with another C library.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD: the most that is allowed
        libc.mallopt(-1, min(limit, 2**31 - 1))  # M_TRIM_THRESHOLD
        libc.mallopt(-2, 16 << 20)  # M_TOP_PAD
    except (OSError, AttributeError):
        pass


class _OneBlasThread:
    """Holds BLAS to one thread while anybody is inside.

    When our own threads keep all cores busy, BLAS threads only wait (measured: five times slower).
    Work too small for several of our threads is too small for several of its own (measured: five
    images take 2.7 ms to decode instead of 4.0).

    The limit holds for the whole process, so those inside are counted; the last one out restores
    the old limit.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._controller: Any = None  # finding the libraries takes a millisecond
        self._limits: Any = None

    def __enter__(self) -> None:
        from threadpoolctl import ThreadpoolController

        with self._lock:
            if not self._inside:
                self._controller = self._controller or ThreadpoolController()
                self._limits = self._controller.limit(limits=1, user_api="blas")
            self._inside += 1

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._limits is not None:
                self._limits.restore_original_limits()


_one_blas_thread = _OneBlasThread()


def one_blas_thread() -> contextlib.AbstractContextManager[None]:
    """A context in which BLAS has one thread; native kernels do not use BLAS and need none."""
    return _one_blas_thread if kernels.active() is None else contextlib.nullcontext()
