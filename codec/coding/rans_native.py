"""rANS on the native kernels: the same messages as those of `codec.coding.rans`."""

from __future__ import annotations

import numpy as np

from codec.arrays import I64, U32, Integers
from codec.coding.lanes_native import address
from codec.kernels import Kernels


def encode_lanes(kernels: Kernels, codes: U32, ends: I64, check: Integers) -> list[bytes]:
    """As `rans.encode`, of lanes of any lengths.

    codes: uint32 (all steps,), lane by lane, of `rans.packed`; ends: int (lanes,), where each lane
    ends; check: int (lanes,).
    """
    codes, ends = np.ascontiguousarray(codes, np.uint32), np.ascontiguousarray(ends, np.int64)
    checks = np.ascontiguousarray(check, np.int32)
    if not len(ends):
        return []
    if (
        codes.ndim != 1
        or ends[0] < 0
        or ends[-1] != len(codes)
        or (np.diff(ends) < 0).any()
        or checks.shape != ends.shape
    ):
        raise ValueError("lanes do not fit their codes")
    out = np.empty(2 * len(codes) + 4 * len(ends), np.uint8)
    begins = np.empty(len(ends), np.int64)
    kernels.encode(
        address(codes),
        len(ends),
        address(ends),
        address(checks),
        address(out),
        address(begins),
    )
    last = 2 * ends + 4 * np.arange(1, len(ends) + 1)
    return [out[at:end].tobytes() for at, end in zip(begins.tolist(), last.tolist(), strict=True)]
