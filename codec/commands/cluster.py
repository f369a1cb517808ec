"""Tasks on a Dask cluster that runs already: `aez compress ... --scheduler tcp://host:8786`.

Scheduler and workers need this version of aez, and the workers need the inputs at the same paths,
or at URLs. They run `work`, as worker processes do, so the bytes are the same. If a worker dies,
the scheduler gives its task to another; a task that kills several workers is an error. Dask is
imported with the first task.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from codec import __version__, parallel
from codec.errors import AezError, UsageError

S = TypeVar("S")
R = TypeVar("R")

CONNECT_S = 20  # for the scheduler to answer, and for a first worker to be there
AHEAD = 2  # tasks for each thread of a worker: one running, one waiting


def spread(scheduler: str, work: Callable[[S], R], tasks: Iterable[S]) -> Generator[R, None, None]:
    """Map `work` over the tasks in order, on the workers of `scheduler`, a few tasks at a time.

    Raises UsageError if Dask is not installed or the scheduler does not answer, AezError if the
    cluster is lost; what `work` raises.
    """
    try:
        import distributed
    except ImportError:
        raise UsageError('--scheduler needs Dask: pip install "aez[dask]"') from None
    # workers that die are not worth a message
    logging.getLogger("distributed").setLevel(logging.ERROR)
    try:
        client = distributed.Client(scheduler, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise UsageError(f"no Dask scheduler answers at {scheduler}: {error}") from None
    pending: deque[Any] = deque()
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_S)
            for task in tasks:
                pending.append(client.submit(_one_core, __version__, work, task, pure=False))
                if len(pending) >= AHEAD * max(1, sum(client.nthreads().values())):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except distributed.KilledWorker as error:
            raise AezError(
                f"gave up on a block after {error.allowed_failures} workers died while making it"
            ) from None
        except (distributed.client.FutureCancelledError, OSError, TimeoutError) as error:
            raise AezError(f"the cluster at {scheduler} is lost: {error}") from None
        except (ImportError, RuntimeError) as error:
            # Dask could not unpickle a task
            raise AezError(
                f"the cluster at {scheduler} cannot run aez; is it installed there? {error}"
            ) from None
        finally:
            client.cancel(list(pending))


def _one_core(version: str, work: Callable[[S], R], task: S) -> R:
    if version != __version__:  # the bytes may differ
        raise AezError(f"a worker has aez {__version__}, this machine has {version}")
    parallel.use_cores(1)  # each thread of a worker has a task of its own
    return work(task)
