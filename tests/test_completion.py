"""Completion in the shell: verbs, options and values, and what a request does not import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RUN = "import sys; from codec.cli import main; sys.argv[0] = 'aez'; main()"


def run(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def completed(words: str, shell: str = "bash", code: str = RUN) -> str:
    """What a shell gets for a line, the last word of which is being typed."""
    if shell == "bash":
        variables = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    else:
        action = {"_TYPER_COMPLETE_FISH_ACTION": "get-args"} if shell == "fish" else {}
        variables = {"_TYPER_COMPLETE_ARGS": words, **action}
    return run(code, _AEZ_COMPLETE=f"complete_{shell}", **variables).stdout


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("aez com", ["compress"]),
        ("aez de", ["decompress"]),
        ("aez l", ["ls"]),
        ("aez compress --loss", ["--lossless"]),
        ("aez ls --", ["--index", "--json", "--help"]),
        ("aez decompress --format n", ["npy", "npz"]),
        ("aez compress x", []),  # then the shell completes files
        ("aez --inst", ["--install-completion"]),
    ],
)
def test_completion_of_bash(words: str, wanted: list[str]) -> None:
    assert completed(words).split() == wanted


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_show_help_texts_on_one_line(shell: str) -> None:
    seen = completed("aez decompress --fo", shell)
    assert "--format" in seen
    assert "--force" in seen
    (line,) = (line for line in seen.splitlines() if "--format" in line)
    assert "folders" in line
    assert "in a folder for each label" in line


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_request_imports_nothing_heavy(shell: str) -> None:
    """What takes its time is Python and typer."""
    code = f"""
import sys
try:
    exec({RUN!r})
finally:
    print(sorted({{"numpy", "PIL", "rich", "torch", "backports.zstd"}} & set(sys.modules)))
"""
    assert completed("aez compress --q", shell, code).splitlines()[-1] == "[]"


def test_install_completion_writes_the_script_of_the_shell(tmp_path: Path) -> None:
    variables = {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown = run(RUN, "--show-completion", "bash", **variables)
    assert shown.returncode == 0
    assert "_AEZ_COMPLETE=complete_bash" in shown.stdout
    assert run(RUN, "--install-completion", "bash", **variables).returncode == 0
    script = tmp_path / ".bash_completions" / "aez.sh"
    assert script.read_text().strip() == shown.stdout.strip()
    assert str(script) in (tmp_path / ".bashrc").read_text()
