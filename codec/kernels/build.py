"""Compile the kernels: by the package's own build (a hook of hatchling), or by hand:

    python -m codec.kernels [--sanitize]

READ ME FIRST
- The C files are plain C11 without Python's headers, so one library serves every Python; it is loaded by ctypes.
- `kernels.c` is compiled once for each instruction set of the processor family, and all of them go into one library;
  which of them runs is decided when it is loaded.
- No compiler, or one that fails, is no error: the package works without the library, with numpy, only slower.

$CC names the compiler, $CFLAGS adds to its options.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIBRARY = {"win32": "aez_kernels.dll", "darwin": "aez_kernels.dylib"}.get(sys.platform, "aez_kernels.so")
# Law L1: a product is rounded before anything is added to it. The sums of the kernels are integers; no flag may say that
# floats could be reordered, and no compiler may fuse their products and sums.
FLAGS = ["-std=c11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-fvisibility=default", "-Wall", "-Wextra"]
X86 = {"avx512": ["-mavx512f", "-mavx512bw"], "avx2": ["-mavx2"], "sse2": []}
SANITIZERS = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


class BuildError(Exception):
    """The kernels cannot be compiled here; says why in one line."""


def instruction_sets() -> dict[str, list[str]]:
    """The instruction sets to compile for, each with the compiler's options for it."""
    machine = (os.environ.get("ARCHFLAGS", "").rpartition(" ")[2] or platform.machine()).lower()
    if machine in ("x86_64", "amd64"):
        return X86
    return {"neon": []} if machine in ("aarch64", "arm64") else {"plain": []}


def build(library: Path | None = None, *, options: list[str] | None = None) -> Path:
    """Compile and link the kernels.  Raises BuildError.

    library: the file to write, by default beside this one; it appears whole or not at all.
    """
    library = library or HERE / LIBRARY
    found = (path for name in ("cc", "gcc", "clang") if (path := shutil.which(name)))
    compiler = shlex.split(os.environ.get("CC", "")) or [*found][:1]
    if not compiler:
        raise BuildError("no C compiler was found (cc, gcc, clang, or $CC)")
    flags = [*compiler, *FLAGS, *shlex.split(os.environ.get("CFLAGS", "")), *(options or [])]
    with tempfile.TemporaryDirectory() as folder:
        commands, objects = [], []
        for name, more in instruction_sets().items():
            objects.append(f"{folder}/{name}.o")
            commands.append([*flags, *more, f"-DISA={name}", "-c", str(HERE / "kernels.c"), "-o", objects[-1]])
        objects.append(f"{folder}/cpu.o")
        commands.append([*flags, "-c", str(HERE / "cpu.c"), "-o", objects[-1]])
        made = library.with_name(f"{library.name}.{os.getpid()}.tmp")
        link = [*flags, "-shared", *objects, "-o", str(made), *([] if sys.platform == "win32" else ["-lm"])]
        try:
            for command in [*commands, link]:
                _run(command)
            os.replace(made, library)
        finally:
            made.unlink(missing_ok=True)
    return library


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["no message"]
        raise BuildError(f"{command[0]} failed: {lines[0]}")


def main() -> None:
    """Build beside this file; exit code 1 and one line if that fails."""
    options = SANITIZERS if "--sanitize" in sys.argv[1:] else []
    try:
        print(build(options=options))
    except BuildError as error:
        sys.exit(f"aez: the kernels were not built, numpy will do their work: {error}")


if __name__ == "__main__":
    main()
