"""What CHANGELOG.md says of commands, names and exit codes is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import codec
from codec import cli
from codec.cli.app import VERBS

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CHANGELOG.md").read_text("utf-8")


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def test_unreleased_fits_on_a_screen_and_is_in_the_usual_form() -> None:
    assert TEXT.startswith("# Change")
    assert "### Added" in section("Unreleased")
    assert len(section("Unreleased").splitlines()) < 45


def test_commands_and_names_of_python_exist() -> None:
    (line,) = re.findall(r"^- \*\*The command line\*\*: (.*?)\. ", TEXT, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", line)) == set(VERBS)
    (line,) = re.findall(r"^- \*\*Python\*\*: (.*?);", TEXT, re.MULTILINE)
    named = {name.removeprefix("codec.") for name in re.findall(r"`([\w.]+)`", line)}
    assert named == {"compress", "decompress", "open", "info", "latents", "models"}
    assert named <= set(codec.__all__)


def test_exit_codes_are_those_of_the_command_line() -> None:
    covered = section("What a version number covers")
    (line,) = re.findall(r"^\| exit codes \| (.*?) \|", covered, re.MULTILINE)
    said = " ".join(str(cli.__doc__).split())
    for code, meaning in re.findall(r"(\d+) ([a-z ]+)", line):
        short = " ".join(meaning.split()[-1:])
        assert re.search(rf"\b{code} [^;.]*{short}", said), (code, meaning)
