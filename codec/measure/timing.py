"""How long work takes, and on what: the timers, the machine, and the yardstick G.

G is the speed of numpy's own float32 matrix product on the same cores in the same run, in
multiply-adds a second. *Efficiency* divides the multiply-adds a second of a network by G, so that
figures of different machines can be compared.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from codec import kernels
from codec.arrays import F32

T = TypeVar("T")
Clock = Callable[[], float]

YARDSTICK = (1024, 784, 512)  # (M, K, N) of the product: as large as those of a network
PRODUCTS = 4  # timed at once


def seconds(work: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    """Seconds that one run of `work` takes."""
    return best_of(1, work, clock=clock)[0]


def best_of(
    runs: int,
    work: Callable[[], T],
    *,
    enough_s: float = float("inf"),
    clock: Clock = time.perf_counter,
) -> tuple[float, T]:
    """Run `work` up to `runs` times, at least once -> the fewest seconds it took, and its result.

    enough_s: stop once all runs together have taken this long.
    """
    times: list[float] = []
    while True:
        begun = clock()
        result = work()
        times.append(clock() - begun)
        if len(times) >= runs or sum(times) >= enough_s:
            return max(min(times), 1e-9), result


def median_ms(works: Sequence[Callable[[], object]]) -> float:
    """Milliseconds that one of `works` takes: the median, without the first tenth."""
    times = [seconds(work) for work in works]
    return round(float(np.median(times[-(-len(times) // 10) :] or times)) * 1000, 3)


def products_per_s(
    cores: int,
    *,
    side_by_side: bool = False,
    repeat: int = 20,
    clock: Clock = time.perf_counter,
) -> float:
    """G: multiply-adds a second of numpy's float32 product 1024x784x512, by BLAS on `cores` cores.

    side_by_side: each core computes a product of its own, as the workers of aez do.
    """
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(0)
    m, k, n = YARDSTICK
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((m, k), (k, n)))
    num_products = cores if side_by_side else 1
    outs = [np.empty((m, n), np.float32) for _ in range(num_products)]

    def multiply(out: F32) -> None:
        for _ in range(PRODUCTS):
            np.matmul(a, b, out=out)

    with threadpool_limits(1 if side_by_side else cores, "blas"):
        if num_products == 1:
            best_s, _ = best_of(repeat, lambda: multiply(outs[0]), clock=clock)
        else:
            with ThreadPoolExecutor(num_products) as pool:
                best_s, _ = best_of(repeat, lambda: list(pool.map(multiply, outs)), clock=clock)
    return num_products * PRODUCTS * m * k * n / best_s


def efficiency(images_per_s: float, multiply_adds: float, products_per_s: float) -> float:
    """Multiply-adds a second of a model divided by G, to four digits.

    multiply_adds: of one image; products_per_s: G.
    """
    return float(f"{images_per_s * multiply_adds / products_per_s:.4g}")


class MeasuredBy(NamedTuple):
    """What every figure of speed depends on."""

    engine: str
    cores_used: int
    products_per_s: int  # G


def measured_by(cores: int, clock: Clock = time.perf_counter) -> MeasuredBy:
    """Name the engine that is active, and measure G on `cores` cores."""
    return MeasuredBy(kernels.description(), cores, round(products_per_s(cores, clock=clock)))


def machine() -> dict[str, Any]:
    """Processor, cores, and versions, as JSON values."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        name = models[0] if models else name
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
