"""Compile the kernels: during the package's build (a hook of hatchling), or by hand:

    python -m codec.kernels

READ ME FIRST
- The C files are plain C11 without Python's headers, so one library works with every Python; ctypes
  loads it.
- `kernels.c` is compiled once for each instruction set of the processor family, all into one
  library. Which of them runs is decided at load time.
- Without a working compiler there is no library, and the package uses numpy, only slower.
- The package's build loads this file by its path, so it imports nothing from `codec`.

$CC names the compiler, $CFLAGS goes before its options. The library remembers `source_hash()`. On
Windows the compiler is gcc (MinGW-w64): Microsoft's does not know these options.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIBRARY = {"win32": "aez_kernels.dll", "darwin": "aez_kernels.dylib"}.get(
    sys.platform, "aez_kernels.so"
)
# Law L1: a product is rounded before anything is added to it. The sums of the kernels are integers;
# no flag may allow reordering floats, and no compiler may fuse their products and sums. These flags
# come after $CFLAGS, so they win.
FLAGS = [
    "-std=c11",
    "-O3",
    "-fno-fast-math",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fPIC",
    "-fvisibility=default",
    "-Wall",
    "-Wextra",
]
# On Windows a stack is aligned to 16 bytes only, but gcc stores longer vectors there as if it were
# more (its bug 54412): so the assembler makes these moves unaligned. And no DLL of gcc is needed.
WINDOWS_GCC = ["-Wa,-muse-unaligned-vector-move", "-static-libgcc"]
AVX512 = ["-mavx512f", "-mavx512bw"]
X86 = {"vnni": [*AVX512, "-mavx512vnni"], "avx512": AVX512, "avx2": ["-mavx2"], "sse2": []}
# see tests/sanitize.py
SANITIZERS = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


class BuildError(Exception):
    """The kernels cannot be compiled here; the message says why in one line."""


def machine() -> str:
    """The processor family to compile for. On a Mac, $ARCHFLAGS decides ("-arch arm64"; the
    last one counts).
    """
    wanted = os.environ.get("ARCHFLAGS", "").split() if sys.platform == "darwin" else []
    return (wanted[-1] if wanted else platform.machine()).lower()


def instruction_sets() -> dict[str, list[str]]:
    """The instruction sets to compile for, each with its compiler options."""
    if machine() in ("x86_64", "amd64"):
        return X86
    return {"neon": []} if machine() in ("aarch64", "arm64") else {"plain": []}


def wheel_tag() -> str:
    """The tag of a wheel that holds the library: this platform, every Python 3."""
    system = sysconfig.get_platform()
    # a Python for two families says "universal2", but the library is for one
    if sys.platform == "darwin":
        system = f"{system.rpartition('-')[0]}-{machine()}"
    return f"py3-none-{system.replace('-', '_').replace('.', '_')}"


def source_hash() -> str:
    """A hash of the C files beside this one: 16 hexadecimal digits."""
    files = sorted(path for path in HERE.iterdir() if path.suffix in (".c", ".h"))
    parts = (part for path in files for part in (path.name.encode(), path.read_bytes()))
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def build(library: Path | None = None, *, options: list[str] | None = None) -> Path:
    """Compile and link the kernels.  Raises BuildError.

    library: the file to write, by default beside this one; it appears complete or not at all.
    """
    library = library or HERE / LIBRARY
    found = (path for name in ("cc", "gcc", "clang") if (path := shutil.which(name)))
    compiler = _words("CC") or [*found][:1]
    if not compiler:
        raise BuildError("no C compiler was found (cc, gcc, clang, or $CC)")
    flags = [*compiler, *_words("CFLAGS"), *FLAGS, *(options or [])]
    if sys.platform == "darwin":
        flags += ["-arch", machine()]
    if sys.platform == "win32" and "clang" not in compiler[0]:
        flags += WINDOWS_GCC
    made = library.with_name(f"{library.name}.{os.getpid()}.tmp")
    try:
        with tempfile.TemporaryDirectory() as folder:
            objects = []
            for name, more in instruction_sets().items():
                objects.append(f"{folder}/{name}.o")
                source = f"-DISA={name}"
                _run([*flags, *more, source, "-c", str(HERE / "kernels.c"), "-o", objects[-1]])
            objects.append(f"{folder}/cpu.o")
            source = f'-DAEZ_SOURCE="{source_hash()}"'
            _run([*flags, source, "-c", str(HERE / "cpu.c"), "-o", objects[-1]])
            linked = f"{folder}/{LIBRARY}"
            libraries = [] if sys.platform == "win32" else ["-lm"]
            _run([*flags, "-shared", *objects, "-o", linked, *libraries])
            try:
                shutil.copy(linked, made)
                os.replace(made, library)
            finally:
                made.unlink(missing_ok=True)
    except OSError as error:
        raise BuildError(f"{error.filename or library}: {error.strerror or error}") from error
    return library


def _words(name: str) -> list[str]:
    try:
        return shlex.split(os.environ.get(name, ""))
    except ValueError as error:
        raise BuildError(f"${name}: {error}") from error


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as error:
        raise BuildError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        said = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        errors = [line for line in said if "error" in line]
        reason = (errors or said or [f"exit code {done.returncode}"])[0]
        raise BuildError(f"{command[0]} failed: {reason.strip()}")


def main() -> None:
    """Build beside this file; if that fails, exit with code 1 and one line."""
    try:
        print(build())
    except BuildError as error:
        sys.exit(f"aez: the kernels were not built, numpy will do their work: {error}")


if __name__ == "__main__":
    main()
