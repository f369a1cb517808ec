"""Work on one machine: in this process, or in worker processes.

READ ME FIRST
- Results come in the order of the tasks, and only as many tasks are started as the workers need, so
  memory is bounded.
- The processes share the cores. A few threads code a block as fast, if it need not be read first;
  so processes, which take half a second to start, are used only if each gets two blocks or more.
- joblib (loky) was tried instead: it takes all tasks at once however slowly results are used, its
  workers outlive a parent that was killed and print tracebacks at Ctrl-C, and it takes 0.6 s to
  import.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, TypeVar

from codec import kernels, parallel
from codec.errors import AezError

S = TypeVar("S")
R = TypeVar("R")

TASKS_EACH = 2  # at least, for each worker process


def spread(
    work: Callable[[S], R], tasks: Iterable[S], jobs: int, num_tasks: int
) -> Generator[R, None, None]:
    """Map `work` over the tasks in order, on `jobs` cores, in processes if there are many tasks.

    Raises AezError if a worker process was killed; what `work` raises.
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
            with _block_sigint():
                pending.append(pool.submit(work, task))
            if len(pending) > num_workers + 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise AezError("a worker process was killed (out of memory?); try a smaller -j") from None
    except BaseException:
        # Ctrl-C, or an error: the results are not needed any more.
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _block_sigint() -> Iterator[None]:
    """Block SIGINT, also for processes that start inside: Ctrl-C reaches all of them, but only the
    parent handles it, at the end of the `with` block.
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
    if kernels.active() is None:
        parallel.keep_memory()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent is killed; else it would wait for work for ever."""
    from multiprocessing import parent_process

    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
