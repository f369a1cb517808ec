"""The native kernels: C functions that give numpy's results, bit for bit, and faster.

    with a library: rans, ladder, ladder_search, pixels ──► native twin ──► aez_kernels.so
    without:                                            ──► numpy

READ ME FIRST
- The library changes nothing but the speed. numpy's code is the reference; tests compare both.
- $AEZ_ENGINE: "numpy" or "native" forces one; "native-avx2" also forces an instruction set. The
  default is the fastest available. `description()` says which one runs, and why the native one
  does not.
- ctypes releases the interpreter lock during a call, so threads run side by side.
- The functions trust their arguments: callers check lengths (`codec.model.ladder_native`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codec.errors import UsageError

VERSION = 2  # of the functions' arguments and structures, as in version.h
# The same as `build.LIBRARY`: importing the build module takes longer than loading the library.
LIBRARY = "aez_kernels" + {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
PATH = Path(__file__).resolve().parent / LIBRARY
ENGINES = "numpy, native, native-vnni, native-avx512, native-avx2, native-sse2 or native-neon"


class Kernels:
    """The functions of one instruction set: `kernels.prior(...)` is the C function `prior_avx2`.

    Each takes addresses and whole numbers, as SIGNATURES says, and raises MemoryError.
    """

    def __init__(self, library: ctypes.CDLL, instruction_set: str) -> None:
        self.instruction_set = instruction_set
        self._library = library
        self.lanes = {"vnni": 16, "avx512": 16, "avx2": 8}.get(instruction_set, 4)

    def __getattr__(self, name: str) -> Any:
        if name not in SIGNATURES:
            raise AttributeError(name)
        function = getattr(self._library, f"{name}_{self.instruction_set}")
        function.argtypes = [_KINDS[kind] for kind in SIGNATURES[name]]
        function.restype, function.errcheck = ctypes.c_int, _check
        setattr(self, name, function)
        return function


_KINDS = {"p": ctypes.c_void_p, "i": ctypes.c_int, "l": ctypes.c_int64}
# The arguments of each function: p is an address, i an int, l an int64.
SIGNATURES = {
    "pack": "piiip",
    "patches": "pipp",
    "residuals": "piipp",
    "unpatches": "pipp",
    "start": "pippp",
    "prior": "pipppp",
    "merge": "pippp",
    "dense_posterior": "pppipip",
    "posterior": "pipipip",
    "unpatches_backward": "pipp",
    "residuals_backward": "piipp",
    "level_backward": "pippppp",
    "start_backward": "pippp",
    "decode_symbols": "piiiipppp",
    "refill": "pip",
    "encode_symbols": "piiiipppplp",
    "encode": "pipppp",
    "frequencies": "pipp",
    "encode_pixels": "piipppppp",
    "decode_pixels": "piippppp",
}


def _check(result: int, function: Any, arguments: Any) -> int:
    if result == -1:
        raise MemoryError("no memory for a native kernel")
    if result == -2:
        raise ValueError("a symbol has no frequency")
    return result


_loaded: dict[str, Kernels] = {}
_why_not: str | None = None  # why there is no library, after the first try
_forced: str | None = None  # by `use`


def _load() -> str | None:
    """Load the library, once; return why it cannot be loaded, or None."""
    global _why_not
    if _loaded or _why_not:
        return _why_not
    try:
        library = ctypes.CDLL(str(PATH))
        version = library.aez_kernels_version()
        library.aez_instruction_sets.restype = ctypes.c_char_p
        names = library.aez_instruction_sets().decode().split()
    except OSError as error:
        _why_not = (
            "no library was built" if not PATH.exists() else f"{PATH} cannot be loaded ({error})"
        )
    except AttributeError:
        _why_not = f"{PATH} is not a library of aez"
    else:
        if version == VERSION:
            _loaded.update({name: Kernels(library, name) for name in names})
        else:
            _why_not = f"{PATH} has version {version}, not {VERSION}: build it again"
    return _why_not


def active() -> Kernels | None:
    """The kernels to use; None: use numpy.  Raises UsageError if $AEZ_ENGINE cannot be used."""
    engine = _forced if _forced is not None else os.environ.get("AEZ_ENGINE", "")
    if engine == "numpy":
        return None
    why_not = _load()
    kind, _, instruction_set = engine.partition("-")
    if kind not in ("", "native") or (engine and not kind):
        raise UsageError(f"AEZ_ENGINE is {engine!r}: set it to {ENGINES}")
    if why_not is not None:
        if engine:
            raise UsageError(
                f"AEZ_ENGINE is {engine!r}, but {why_not}; `python -m codec.kernels` builds the "
                "library"
            )
        return None
    if not instruction_set:
        return next(iter(_loaded.values()))
    if instruction_set not in _loaded:
        raise UsageError(
            f"AEZ_ENGINE is {engine!r}, but this processor only has {', '.join(_loaded)}"
        )
    return _loaded[instruction_set]


def source_hash() -> str | None:
    """`build.source_hash` of the C files that the library was compiled from; None: no library."""
    if _load() is not None:
        return None
    library = next(iter(_loaded.values()))._library
    library.aez_kernels_source.restype = ctypes.c_char_p
    return str(library.aez_kernels_source().decode())


def engines() -> list[str]:
    """Every engine that can run here: "numpy", then "native-..." by instruction set, best last."""
    _load()
    return ["numpy", *(f"native-{name}" for name in reversed(_loaded))]


def description() -> str:
    """For people: `native avx2`, `numpy`, or `numpy: no library was built`.  Raises as `active`."""
    if (kernels := active()) is not None:
        return f"native {kernels.instruction_set}"
    return "numpy" if _why_not is None else f"numpy: {_why_not}"


@contextlib.contextmanager
def use(engine: str) -> Iterator[None]:
    """Use one of `engines()` inside the `with` block, in all threads."""
    global _forced
    before, _forced = _forced, engine
    try:
        active()
        yield
    finally:
        _forced = before
