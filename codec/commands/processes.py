"""Work on one machine: in this process, or in worker processes.

READ ME FIRST
- Results come in the order of the tasks, and only as many tasks are started as the workers need, so
  memory is bounded.
- The processes share the cores. A few threads code a block as fast, if it need not be read first;
  so processes, which take half a second to start, are used only if each gets two blocks or more.
- A worker that is ended, as by Ctrl-C, unwinds its task first, so that no temporary file stays.
- Without shared memory for processes (a read-only /dev/shm) all is done in this one.
- joblib (loky) was tried instead: it takes all tasks at once however slowly results are used, its
  workers outlive a parent that was killed and print tracebacks at Ctrl-C, and it takes 0.6 s to
  import.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from codec import kernels, parallel
from codec.errors import AezError

if TYPE_CHECKING:
    from concurrent.futures.process import ProcessPoolExecutor

S = TypeVar("S")
R = TypeVar("R")

TASKS_EACH = 2  # at least, for each worker process
PATIENCE_S = 10  # for a worker that was told to end, and removes what it was writing
SENDING_S = 0.2  # for a result that is on its way
ENDED = 128 + signal.SIGTERM  # exit code of such a worker


def spread(
    work: Callable[[S], R], tasks: Iterable[S], jobs: int, num_tasks: int
) -> Generator[R, None, None]:
    """Map `work` over the tasks in order, on `jobs` cores, in processes if there are many tasks.

    Raises AezError if a worker process was killed; what `work` raises.
    """
    num_workers = max(1, min(jobs, num_tasks // TASKS_EACH))
    pool = None if num_workers == 1 else _pool(num_workers, max(1, jobs // num_workers))
    if pool is None:
        with parallel.cores(jobs):
            for task in tasks:
                yield work(task)
        return
    import multiprocessing
    from concurrent.futures.process import BrokenProcessPool

    others = set(multiprocessing.active_children())
    pending: deque[Any] = deque()
    try:
        for task in tasks:
            with _block_sigint():
                pending.append(pool.submit(_worked, work, task))
            if len(pending) > num_workers + 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise AezError("a worker process was killed (out of memory?); try a smaller -j") from None
    except BaseException:
        # Ctrl-C, or an error: the results are not needed any more.
        _end(set(multiprocessing.active_children()) - others)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(num_workers: int, cores: int) -> ProcessPoolExecutor | None:
    """Processes with so many cores each; None where the system has no shared memory for them."""
    import multiprocessing  # 10 ms that one image does not need
    from concurrent.futures.process import ProcessPoolExecutor

    # spawn: a fork of a process whose BLAS has threads can hang.
    context = multiprocessing.get_context("spawn")
    try:
        return ProcessPoolExecutor(num_workers, context, _start_worker, (cores,))
    except (OSError, ImportError, NotImplementedError):  # /dev/shm is missing, read-only or full
        return None


def _end(workers: set[Any]) -> None:
    """End workers, after they have removed what they were writing."""
    for worker in workers:
        worker.terminate()
    deadline = time.monotonic() + PATIENCE_S
    for worker in workers:
        worker.join(max(0, deadline - time.monotonic()))
        if worker.is_alive():
            worker.kill()


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


# In a worker


class _State:
    """is_busy: a task is under way; is_over: no other may begin."""

    is_busy = is_over = False


def _worked(work: Callable[[S], R], task: S) -> R:
    """The result of a task."""
    try:
        _State.is_busy = True
        if _State.is_over:
            sys.exit()
        return work(task)
    except SystemExit:  # by `_terminate`; the pool would send it as the result, and go on
        os._exit(ENDED)
    finally:
        _State.is_busy = False


def _terminate(number: int, frame: FrameType | None) -> None:
    """End this process; first the task, which removes the temporary file of its output.

    Between tasks it may be sending a result, half of which the parent would wait for for ever.
    """
    if _State.is_busy:
        sys.exit()
    _State.is_over = True
    last = threading.Timer(SENDING_S, os._exit, (ENDED,))
    last.daemon = True
    last.start()


def _start_worker(cores: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it could not be blocked
    signal.signal(signal.SIGTERM, _terminate)
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
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE_S)
        os._exit(ENDED)
