"""Which engine runs: with no library, a broken one or another's, as $AEZ_ENGINE says, in forks; and
how it is built.
"""

from __future__ import annotations

import ctypes
import importlib.util
import multiprocessing
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
from typer.testing import CliRunner

import codec
from codec import kernels, parallel
from codec.cli.app import app
from codec.errors import UsageError
from codec.kernels import build

PACKAGE = Path(kernels.__file__).parent.parent
COMPILER = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler here")
needs_library = pytest.mark.skipif(not helpers.NATIVE, reason="no library was built")


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the library would be, in a process that has not looked for it yet."""
    path = tmp_path / build.LIBRARY
    monkeypatch.setattr(kernels, "PATH", path)
    monkeypatch.setattr(kernels, "_loaded", {})
    monkeypatch.setattr(kernels, "_why_not", None)
    monkeypatch.delenv("AEZ_ENGINE", raising=False)
    return path


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package without a library."""
    folder = tmp_path_factory.mktemp("bare")
    shutil.copytree(
        PACKAGE,
        folder / "codec",
        ignore=shutil.ignore_patterns(build.LIBRARY, "__pycache__", "train"),
    )
    return folder


def aez(where: Path, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`aez` of the package in `where`."""
    env = {**os.environ, "PYTHONPATH": str(where), **environment}
    return subprocess.run(
        [sys.executable, "-m", "codec", *args],
        env=env,
        capture_output=True,
        text=True,
        cwd=where,
        check=False,
    )


def compile_stub(path: Path, code: str) -> None:
    source = path.with_suffix(".c")
    source.write_text(code)
    subprocess.run([str(COMPILER), "-shared", "-fPIC", "-o", str(path), str(source)], check=True)


# ---- what lies in the place of the library


def test_without_a_library_numpy_works_and_native_is_an_error(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kernels.active() is None
    assert kernels.engines() == ["numpy"]
    assert kernels.description() == "numpy: no library was built"
    assert kernels.source_hash() is None
    for engine in ("native", "native-avx2"):
        monkeypatch.setenv("AEZ_ENGINE", engine)
        with pytest.raises(
            UsageError,
            match=f"AEZ_ENGINE is '{engine}', but no library was built; `python -m codec.kernels`",
        ):
            kernels.active()


@pytest.mark.parametrize("content", [b"", b"no library", b"\x7fELF" + bytes(200)])
def test_a_file_that_is_no_library_leaves_the_work_to_numpy(library: Path, content: bytes) -> None:
    library.write_bytes(content)
    assert kernels.active() is None
    said = kernels.description()
    assert said.startswith(f"numpy: {library} cannot be loaded (")
    assert "\n" not in said


@needs_compiler
def test_a_library_of_others_leaves_the_work_to_numpy(library: Path) -> None:
    compile_stub(library, "int other(void) { return 0; }")
    assert kernels.active() is None
    assert kernels.description() == f"numpy: {library} is not a library of aez"


@needs_compiler
def test_a_library_of_another_version_leaves_the_work_to_numpy(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "int aez_kernels_version(void) { return 999; }\n"
    compile_stub(library, code + 'const char *aez_instruction_sets(void) { return "sse2"; }')
    assert kernels.active() is None
    wanted = f"{library} has version 999, not {kernels.VERSION}: build it again"
    assert kernels.description() == f"numpy: {wanted}"
    monkeypatch.setenv("AEZ_ENGINE", "native")
    with pytest.raises(UsageError, match="has version 999"):
        kernels.active()


@needs_compiler
def test_on_a_processor_without_avx2_the_baseline_runs(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `aez_instruction_sets` of such a processor says is all that there is."""
    code = f"int aez_kernels_version(void) {{ return {kernels.VERSION}; }}\n"
    compile_stub(library, code + 'const char *aez_instruction_sets(void) { return "sse2"; }')
    assert kernels.engines() == ["numpy", "native-sse2"]
    assert kernels.description() == "native sse2"
    monkeypatch.setenv("AEZ_ENGINE", "native-avx2")
    with pytest.raises(
        UsageError, match="AEZ_ENGINE is 'native-avx2', but this processor only has sse2"
    ):
        kernels.active()


def test_with_numpy_forced_no_library_is_loaded(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEZ_ENGINE", "numpy")
    monkeypatch.setattr(ctypes, "CDLL", None)
    library.write_bytes(b"never looked at")
    assert kernels.active() is None
    assert kernels.description() == "numpy"


@pytest.mark.parametrize("engine", ["nonsense", "-avx2", "numpy-avx2", "native-mmx", "Native"])
def test_an_engine_that_does_not_exist_is_a_usage_error(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEZ_ENGINE", engine)
    with pytest.raises(UsageError, match=f"AEZ_ENGINE is '{engine}'"):
        kernels.active()


@pytest.mark.parametrize("engine", helpers.NATIVE)
def test_each_instruction_set_can_be_forced(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEZ_ENGINE", engine)
    found = kernels.active()
    assert found is not None
    assert engine == f"native-{found.instruction_set}"
    assert kernels.description() == engine.replace("-", " ")


# ---- the command line


@needs_library
def test_version_says_the_engine() -> None:
    best = helpers.NATIVE[-1].replace("-", " ")
    done = aez(PACKAGE.parent, "--version", AEZ_ENGINE="")
    assert (done.returncode, done.stdout.rpartition(" (")[2]) == (0, f"{best})\n")
    assert aez(PACKAGE.parent, "--version", AEZ_ENGINE="numpy").stdout.endswith(" (numpy)\n")


def test_version_says_why_numpy_works(bare: Path) -> None:
    done = aez(bare, "--version", AEZ_ENGINE="")
    assert done.stdout.endswith(" (numpy: no library was built)\n")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("engine", ["nonsense", "native", "native-avx2"])
def test_the_command_line_says_in_one_line_that_an_engine_is_not_there(
    bare: Path, tmp_path: Path, engine: str
) -> None:
    image = tmp_path / "x.npy"
    np.save(image, helpers.drawn(2))
    for args in (
        ["--version"],
        ["compress", str(image), "-o", str(tmp_path / "x.aez"), "-m", "tiny0"],
    ):
        done = aez(
            bare,
            *args,
            AEZ_ENGINE=engine,
            AEZ_WEIGHTS=str(helpers.install(tmp_path / "weights").parent),
        )
        assert done.returncode == 2, done.stderr
        assert done.stdout == ""
        assert done.stderr.startswith(f"aez: AEZ_ENGINE is '{engine}'")
        assert done.stderr.count("\n") == 1


def test_a_package_without_library_in_a_read_only_place_works_and_writes_nothing(
    bare: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    place = tmp_path / "site"
    shutil.copytree(bare, place)
    if helpers.NATIVE:
        shutil.copy(kernels.PATH, place / "codec" / "kernels")
    before = sorted(path.name for path in place.rglob("*"))
    folders = [place, *(path for path in place.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        image, out = tmp_path / "x.npy", tmp_path / "x.aez"
        np.save(image, helpers.drawn(3))
        done = aez(
            place,
            "compress",
            str(image),
            "-o",
            str(out),
            "-m",
            "tiny0",
            AEZ_WEIGHTS=str(tiny_weights),
            PYTHONDONTWRITEBYTECODE="1",
        )
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert out.exists()
    assert sorted(path.name for path in place.rglob("*")) == before


# ---- processes


def work(_: int) -> list[bytes]:
    return helpers.tiny_model().encode(helpers.drawn(5), 60, effort=3).messages


@needs_library
# of Python 3.12 on, in a process with threads
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_started_after_the_kernels_were_used_find_the_same(method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    expected = work(0)
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.map_async(work, range(2)).get(timeout=60) == [expected] * 2


# ---- the build


def test_the_library_was_built_from_these_sources() -> None:
    if COMPILER is None and not helpers.NATIVE:
        pytest.skip("no C compiler here, and no library")
    assert helpers.NATIVE, f"{kernels.description()}: run `python -m codec.kernels`"
    assert kernels.source_hash() == build.source_hash(), (
        "the library is not of these sources: run `python -m codec.kernels`"
    )


def test_without_a_compiler_a_build_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(build.BuildError, match="no C compiler was found"):
        build.build(tmp_path / "x.so")
    for compiler, said in (
        ("/nowhere/cc -O1", "/nowhere/cc: No such file or directory"),
        ('"', "CC: No closing quotation"),
    ):
        monkeypatch.setenv("CC", compiler)
        with pytest.raises(build.BuildError, match=said):
            build.build(tmp_path / "x.so")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 3", "exit code 3"),
        (
            "echo notes >&2; echo 'x.c:1: error: no such thing' >&2; echo more >&2; exit 1",
            "x.c:1: error: no such thing",
        ),
        ("printf '\\377\\n' >&2; exit 1", "\N{REPLACEMENT CHARACTER}"),
        ("exit 0", "No such file or directory"),
    ],
)
def test_a_compiler_that_fails_gives_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    compiler, out = tmp_path / "cc", tmp_path / "out"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    out.mkdir()
    monkeypatch.setenv("CC", str(compiler))
    with pytest.raises(build.BuildError) as caught:
        build.build(out / "x.so")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(out.iterdir())


def test_building_by_hand_says_in_one_line_that_it_failed(bare: Path) -> None:
    environment = {**os.environ, "CC": "false", "PYTHONPATH": str(bare)}
    command = [sys.executable, "-m", "codec.kernels"]
    done = subprocess.run(
        command, env=environment, cwd=bare, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert (
        done.stderr
        == "aez: the kernels were not built, numpy will do their work: false failed: exit code 1\n"
    )


def test_flags_of_others_cannot_take_law_l1_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of options that contradict each other the last one counts."""
    commands: list[list[str]] = []
    monkeypatch.setattr(build, "_run", commands.append)
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setenv("CFLAGS", "-Ofast -ffp-contract=fast")
    with pytest.raises(build.BuildError):  # nothing was linked
        build.build(tmp_path / "x.so")
    assert len(commands) == len(build.instruction_sets()) + 2
    for command in commands:
        at = command.index("-Ofast")
        assert {"-O3", "-fno-fast-math", "-ffp-contract=off"} <= set(command[at:])


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[dict[str, Any], list[str]]]:
    """Runs the hook of the package's build for a target, without hatchling -> build data, lines
    shown.
    """
    plugin = types.ModuleType("hatchling.builders.hooks.plugin.interface")
    plugin.BuildHookInterface = object  # type: ignore[attr-defined]
    name = plugin.__name__
    while name:
        monkeypatch.setitem(sys.modules, name, plugin)
        name = name.rpartition(".")[0]
    spec = importlib.util.spec_from_file_location("aez_hook", PACKAGE / "kernels" / "hook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(target: str) -> tuple[dict[str, Any], list[str]]:
        found, shown = module.KernelsHook(), list[str]()
        found.target_name = target
        found.app = types.SimpleNamespace(display_warning=shown.append)
        data: dict[str, Any] = {"artifacts": [], "pure_python": True}
        found.initialize("standard", data)
        return data, shown

    return run


def test_a_wheel_without_compiler_is_made_all_the_same(
    hook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "false")
    data, shown = hook("wheel")
    assert data == {"artifacts": [], "pure_python": True}
    assert shown == [
        "aez: the kernels were not built, numpy will do their work: false failed: exit code 1"
    ]
    assert hook("sdist") == ({"artifacts": [], "pure_python": True}, [])


def test_a_wheel_for_a_mac_is_for_the_family_that_was_compiled_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(build.sysconfig, "get_platform", lambda: "macosx-11.0-universal2")
    monkeypatch.setenv("ARCHFLAGS", "-arch arm64")
    assert build.wheel_tag() == "py3-none-macosx_11_0_arm64"
    assert build.instruction_sets() == {"neon": []}
    monkeypatch.setenv("ARCHFLAGS", "-arch x86_64")
    assert list(build.instruction_sets()) == ["vnni", "avx512", "avx2", "sse2"]


@pytest.mark.parametrize("engine", ["numpy", "native"])
def test_only_the_command_line_changes_how_its_process_keeps_memory(
    engine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_weights: Path
) -> None:
    """A library call must not change malloc for the rest of the process that it is made in."""
    if engine == "native" and not helpers.NATIVE:
        pytest.skip("no native kernels here")
    calls: list[int] = []
    monkeypatch.setattr(parallel, "keep_memory", lambda: calls.append(1))
    monkeypatch.setenv("AEZ_WEIGHTS", str(tiny_weights))
    np.save(tmp_path / "x.npy", helpers.drawn(100))
    with kernels.use(engine):
        codec.decompress(codec.compress(helpers.drawn(100), model="tiny0", effort=1))
        assert calls == []
        done = CliRunner().invoke(
            app, ["compress", str(tmp_path / "x.npy"), "-m", "tiny0", "-j", "1"]
        )
    assert done.exit_code == 0
    assert len(calls) == (engine == "numpy")
