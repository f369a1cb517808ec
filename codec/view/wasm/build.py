"""Compile the decoding kernels to WebAssembly:

    python -m codec.view.wasm

READ ME FIRST
- The sources are those of the native kernels, by `kernels.c` beside this file: no second code that
  could compute something else.
- SIMD, but not the relaxed one, whose results may differ between browsers. No C library; the module
  imports nothing.
- The same compiler makes the same bytes. COMPILER is the version that made those in the repository;
  a test compares where it is installed.
- `-O2`: `-O3` is 4 KB larger and no faster.

$AEZ_CLANG names the compiler; its linker is wasm-ld (Debian: packages clang and lld).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
WASM = HERE.parent / "web" / "kernels.wasm"
COMPILER = "14.0.6"
# As codec/kernels/build.py says: nothing may reorder floats, or fuse a product and a sum.
FLAGS = [
    "--target=wasm32",
    "-std=c11",
    "-O2",
    "-fno-fast-math",
    "-ffp-contract=off",
    "-msimd128",
    "-mbulk-memory",
    "-ffreestanding",
    "-nostdlib",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
]
# C's own stack lies first, so that running over its end is an error instead of damage.
LINKER_FLAGS = [
    "--no-entry",
    "--strip-all",
    "--stack-first",
    "-z",
    "stack-size=65536",
    f"--max-memory={1 << 30}",  # MOST of kernels.c
]
EXPORTS = [
    "malloc",
    "free",
    "pack",
    "start",
    "residuals",
    "prior",
    "merge",
    "unpatches",
    "decode_symbols",
    "decode_pixels",
    "refill",
    "frequencies",  # for tests
]


class BuildError(Exception):
    """The kernels cannot be compiled here; the message says why in one line."""


def compiler() -> str:
    """The path of clang.  Raises BuildError."""
    found = shutil.which(os.environ.get("AEZ_CLANG", "clang"))
    if found is None:
        raise BuildError("clang was not found ($AEZ_CLANG names it)")
    return found


def compiler_version() -> str:
    """Such as "14.0.6".  Raises BuildError."""
    said = _run([compiler(), "--version"])
    version = re.search(r"clang version (\d+\.\d+\.\d+)", said)
    if version is None:
        raise BuildError(f"{compiler()} does not say its version")
    return version[1]


def build(wasm: Path = WASM) -> Path:
    """Compile and link; the file appears complete or not at all.  Raises BuildError."""
    linker = [f"-Wl,{flag}" for flag in LINKER_FLAGS]
    exports = [f"-Wl,--export={name}" for name in EXPORTS]
    with tempfile.TemporaryDirectory(dir=wasm.parent) as folder:
        made = Path(folder) / wasm.name
        # In this folder, by relative names: no path of this machine can get into the file.
        command = [compiler(), *FLAGS, "-Iinclude", "kernels.c", *linker, *exports]
        _run([*command, "-o", str(made)])
        made.chmod(0o644)
        os.replace(made, wasm)
    return wasm


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, cwd=HERE, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise BuildError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "error" in line]
        reason = (said or [f"exit code {done.returncode}"])[0]
        raise BuildError(f"{command[0]} failed: {reason.strip()}")
    return done.stdout


def main() -> None:
    """Build; if that fails, exit with code 1 and one line."""
    try:
        made = build()
    except BuildError as error:
        sys.exit(f"aez: kernels.wasm was not built: {error}")
    print(f"{made}: {made.stat().st_size} bytes by clang {compiler_version()}")


if __name__ == "__main__":
    main()
