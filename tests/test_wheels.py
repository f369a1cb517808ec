"""What packages are built for: pyproject.toml, the workflow, and what the kernels know agree."""

from __future__ import annotations

import re
import sys
import tomllib

import pytest
import wheels

from codec.kernels import build

TOOL = tomllib.loads((wheels.ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["cibuildwheel"]
PLATFORMS = {"linux": "linux", "macos": "darwin", "windows": "win32"}


def test_a_wheel_is_built_for_each_platform_with_kernels_of_its_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ARCHFLAGS", raising=False)
    found = {(name, arch) for name in PLATFORMS for arch in TOOL[name]["archs"]}
    assert found == {
        ("linux", "x86_64"),
        ("linux", "aarch64"),
        ("macos", "x86_64"),
        ("macos", "arm64"),
        ("windows", "AMD64"),
    }
    for name, arch in found:
        monkeypatch.setattr(sys, "platform", PLATFORMS[name])
        monkeypatch.setattr(build.platform, "machine", lambda arch=arch: arch)
        assert "plain" not in build.instruction_sets()


def test_the_workflow_runs_all_that_is_configured() -> None:
    text = (wheels.ROOT / ".github" / "workflows" / "wheels.yml").read_text("utf-8")
    runs = {
        (system, arch)
        for system, archs in re.findall(r"os: (\w+)-.*archs: ([\w ]+?) }", text)
        for arch in archs.split()
    }
    systems = {"linux": "ubuntu", "macos": "macos", "windows": "windows"}
    assert runs == {(systems[name], arch) for name in PLATFORMS for arch in TOOL[name]["archs"]}


def test_the_wheels_are_tested_with_each_python_that_is_allowed() -> None:
    least = wheels.least_python()
    assert TOOL["build"] == [f"cp3{minor}-*" for minor in range(least, wheels.NEWEST + 1)]


def test_each_dependency_has_a_lower_bound() -> None:
    """`oldest` exits if one has none: then nobody knows what works."""
    assert len(wheels.oldest()) == len(wheels.PROJECT["dependencies"])


@pytest.mark.parametrize(("compiler", "is_gcc"), [("gcc", True), ("clang", False)])
def test_gcc_on_windows_moves_no_vector_as_if_the_stack_were_aligned(
    compiler: str, is_gcc: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: wheels.Path
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(build, "_run", commands.append)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(build.BuildError):  # nothing was linked
        build.build(tmp_path / "x.dll")
    assert commands
    for command in commands:
        assert (set(build.WINDOWS_GCC) <= set(command)) == is_gcc


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("codec/kernels/aez_kernels.so", True),
        ("build/lib/codec/api.py", True),
        ("codec/__pycache__/api.cpython-311.pyc", True),
        (".venv/bin/python", True),
        ("codec/kernels/build.py", False),
        ("codec/view/web/page.html", False),
    ],
)
def test_what_a_build_leaves_is_known(name: str, expected: bool) -> None:
    assert wheels.leftover(name) == expected
