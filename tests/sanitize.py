"""The kernels under AddressSanitizer and UndefinedBehaviorSanitizer, in one command:

    python tests/sanitize.py [--short]

builds them with both into a copy of the package in a temporary folder, and runs the tests of
kernels and the fuzz tests there. The first thing that is found ends the run with exit code 1.
--short: a part of them, in less than 90 seconds.

It is a copy since a library with sanitizers ends every Python that does not preload them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from codec.kernels import build

ROOT = Path(__file__).resolve().parent.parent
TESTS = [
    "tests/test_kernels.py",
    "tests/test_native_pixels.py",
    "tests/test_fuzz.py",
    "tests/test_damage.py",
]
SHORT = (
    "not goldens and not 48 and not 16 and not wide and not any_number and not every_kind and not "
    "threads "
    "and not test_damage and not every_bit_flip"
)


def main() -> None:
    """Build, test, and say what was found."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("codec", "tests", "examples"):
            ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.dylib", ".hypothesis")
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        for name in ("weights", "README.md", "pyproject.toml"):
            (copy / name).symlink_to(ROOT / name)
        try:
            build.build(copy / "codec" / "kernels" / build.LIBRARY, options=build.SANITIZERS)
        except build.BuildError as error:
            sys.exit(f"the kernels cannot be built with sanitizers: {error}")
        compiler = shutil.which("cc") or "gcc"
        preload = [
            subprocess.run(
                [*os.environ.get("CC", compiler).split(), f"-print-file-name={name}.so"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
            for name in ("libasan", "libubsan")
        ]
        environment = {
            **os.environ,
            "PYTHONPATH": str(copy),
            "LD_PRELOAD": " ".join(preload),
            # pytest would keep it to itself
            "ASAN_OPTIONS": f"detect_leaks=0:log_path={copy}/report",
            "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={copy}/report",
            "PYTHONMALLOC": "malloc",  # or small objects lie in blocks that it does not see into
            "AEZ_ENGINE": "",
        }
        check = (
            "from codec import kernels; print(kernels.PATH, kernels.description()); assert "
            "kernels.active()"
        )
        subprocess.run([sys.executable, "-c", check], env=environment, cwd=copy, check=True)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *TESTS]
        if "--short" in sys.argv[1:]:
            command += ["-k", SHORT]
        code = subprocess.run(command, env=environment, cwd=copy, check=False).returncode
        for report in copy.glob("report.*"):
            print(report.read_text()[:5000], file=sys.stderr)
        sys.exit(code)


if __name__ == "__main__":
    main()
