"""The help of `aez`: every example runs as it stands, every typing error leads back."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import webbrowser
from itertools import pairwise
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from codec.cli import app as cli
from codec.cli import misuse
from codec.files import images

ROOT = Path(__file__).resolve().parent.parent
COMMANDS: dict[str, Any] = typer.main.get_command(cli.app).commands
EXAMPLES = [line for command in COMMANDS.values() for line, _ in command.examples]
# Added to an example that would take long. What it stands for is measured in test_bench.py.
CHEAP = {"bench": "-n 2 --files 2 -q 50 -e 1 --max-errors 0"}
SLOW = [line for line, _ in COMMANDS["bench"].examples[1:]]
# Minutes even for one step, and test_train.py runs the command: these lines are only parsed.
PARSED = ("train",)


def aez(*args: str) -> Any:
    return CliRunner().invoke(cli.app, args, terminal_width=80)


def help_of(*args: str) -> str:
    result = aez(*args, "--help")
    assert (result.exit_code, result.stderr) == (0, "")
    return str(result.stdout)


@pytest.fixture(scope="module")
def files_of_examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all files that the examples name."""
    folder = tmp_path_factory.mktemp("examples")
    pixels = helpers.drawn(24)
    for name in ("digits", "my_images"):
        for i, image in enumerate(pixels):
            path = folder / name / str(i % 2) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(images.pack_png(image))
    (folder / "img.png").write_bytes(images.pack_png(pixels[0]))
    np.savez(folder / "mnist.npz", x=pixels)
    for name in ("results", "my_models"):
        (folder / name).mkdir()
    helpers.install(folder / "my_models")
    for source, names in (
        ("digits", ["digits.aez", "results/one.aez"]),
        ("mnist.npz", ["a.aez", "b.aez"]),
    ):
        for name in names:
            made = aez("compress", str(folder / source), "-o", str(folder / name), "--quiet")
            assert made.exit_code == 0
    return folder


@pytest.fixture
def place(files_of_examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of these files, where the command runs."""
    shutil.copytree(files_of_examples, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files() -> set[str]:
    return {str(path) for path in Path().rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, marks=[pytest.mark.slow] * (line in SLOW))
        for line in EXAMPLES
        if line.split()[1] not in PARSED
    ],
)
@pytest.mark.usefixtures("place")
def test_example_of_the_help_runs_as_it_stands(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    words = shlex.split(line)
    while "=" in words[0]:
        monkeypatch.setenv(*words.pop(0).split("=", 1))
    program, verb, *_ = words
    assert program == "aez"
    if words[1:3] == ["compress", "digits/"]:
        Path("digits.aez").unlink()
    if words[1:] == ["decompress", "digits.aez"]:
        Path("digits").rename("originals")  # they would be overwritten
    result = aez(*words[1:], *CHEAP.get(verb, "").split())
    assert result.exit_code == 0
    assert result.stdout
    assert not result.stderr or verb in CHEAP  # which says what it left out
    named = re.findall(r"-o (\S+)", line)
    assert all(Path(name).exists() for name in named)
    assert bool(opened) == (verb == "view" and not named)
    if "my_models" in line:
        assert "tiny0" in result.stdout


@pytest.mark.parametrize("line", EXAMPLES)
def test_example_of_the_help_is_understood(line: str) -> None:
    verb, *words = shlex.split(line[line.index("aez ") + 4 :])
    COMMANDS[verb].make_context(verb, words)


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_of_a_command_begins_with_a_sentence_and_three_examples(verb: str) -> None:
    text = help_of(verb)
    usage, sentence, examples, *_ = text.split("\n\n")
    assert usage.startswith(f"Usage: aez {verb} [OPTIONS]")
    assert re.fullmatch(r"  [A-Z][^.]*\.", sentence)
    title, *lines = examples.splitlines()
    assert title == "Examples:"
    assert len(lines) == 3
    for line, (command, said) in zip(lines, COMMANDS[verb].examples, strict=True):
        assert line.startswith(f"  {command} ")
        assert line.endswith(f"  # {said}")
        assert f"aez {verb}" in command
    assert len({line.index("  # ") for line in lines}) == 1
    assert max(map(len, text.splitlines())) <= 80
    assert "list[" not in text  # no types of Python
    assert "(" not in "".join(re.findall(r"\[default: (.*?)\]", text))


def test_help_shows_the_commands_in_groups_with_an_example_each() -> None:
    text = help_of()
    places = [text.index(f"\n{title}:\n") for title in cli.GROUPS]
    assert places == sorted(places)
    for (title, verbs), (start, end) in zip(
        cli.GROUPS.items(), pairwise([*places, text.index("\nOptions:\n")]), strict=True
    ):
        lines = text[start:end].strip().splitlines()
        assert lines[0] == f"{title}:"
        assert [line.split()[0] for line in lines[1::2]] == list(verbs)
        for line, verb in zip(lines[2::2], verbs, strict=True):
            assert line.strip() == COMMANDS[verb].examples[0][0]
    assert max(map(len, text.splitlines())) <= 80


def test_every_verb_is_in_one_group() -> None:
    modules = {path.stem for path in (ROOT / "codec" / "cli").glob("*.py")}
    functions = [cli.FUNCTIONS.get(verb, verb) for verb in COMMANDS]
    assert len(functions) == len(set(functions))
    assert set(functions) == {
        stem
        for stem in modules
        if "\nEXAMPLES = (" in (ROOT / "codec" / "cli" / f"{stem}.py").read_text()
    }


@pytest.mark.parametrize("args", [["--help"], ["compress", "--help"], ["compress", "--qualty"]])
def test_help_and_misuse_import_nothing_heavy(args: list[str]) -> None:
    code = (
        "import sys, codec.cli as c\n"
        "heavy = {'numpy', 'PIL', 'torch', 'rich', 'backports.zstd'}\n"
        "try: c.main()\n"
        "finally: print(sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]"


def typos(word: str) -> list[str]:
    """A letter missing, doubled, or in the place of its neighbour."""
    dashes = "-" * (len(word) - len(word.lstrip("-")))
    letters = word.lstrip("-")
    places = range(len(letters))
    found = [letters[:i] + letters[i + 1 :] for i in places]
    found += [letters[:i] + letters[i] + letters[i:] for i in places]
    found += [
        letters[:i] + letters[i + 1] + letters[i] + letters[i + 2 :]
        for i in places[: len(letters) - 1]
    ]
    return sorted({dashes + typo for typo in found if typo} - {word})


def options_of(verb: str) -> list[str]:
    params = COMMANDS[verb].params
    names = [name for param in params for name in (*param.opts, *param.secondary_opts)]
    return [name for name in names if name.startswith("--")]


# Short words, of which a letter less can be that of another one.
AMBIGUOUS = {("ls", "s")}


@pytest.mark.parametrize("verb", COMMANDS)
def test_typing_error_in_a_command_suggests_it(verb: str) -> None:
    for typo in typos(verb):
        if typo in COMMANDS or (verb, typo) in AMBIGUOUS:
            continue
        result = aez(typo)
        wanted = f"aez: {typo}: aez has no such command; did you mean {verb}?\n"
        assert (result.exit_code, result.stderr) == (2, wanted)


@pytest.mark.parametrize("verb", COMMANDS)
def test_typing_error_in_an_option_suggests_it(verb: str) -> None:
    options = [*options_of(verb), "--help"]
    for option in options:
        wrong = [typo for typo in typos(option) if typo not in options]
        for typo in wrong:
            assert misuse.nearest(typo, options, "") == f"did you mean {option}?", typo
        result = aez(verb, wrong[0])
        wanted = f"aez: {wrong[0]}: aez {verb} has no such option; did you mean {option}?\n"
        assert (result.exit_code, result.stderr) == (2, wanted)


@pytest.mark.parametrize("verb", COMMANDS)
def test_option_with_one_dash_suggests_that_with_two(verb: str) -> None:
    """Unless its first letter is an option itself, which then has the rest as its value."""
    letters = {name[1] for param in COMMANDS[verb].params for name in param.opts if name[1] != "-"}
    for option in options_of(verb):
        if option[2] not in letters | {"h"}:
            result = aez(verb, option[1:])
            assert f"did you mean {option}?" in result.stderr, option


def test_other_words_lead_to_what_there_is() -> None:
    for word, meant in misuse.OTHER_WORDS.items():
        assert word not in COMMANDS
        assert meant in COMMANDS or meant in ("-h", "--version")
        assert aez(word).stderr.endswith(f"did you mean {meant}?\n")


def test_capital_letters_are_a_typing_error() -> None:
    assert "did you mean compress?" in aez("Compress").stderr
    assert "did you mean --lossless?" in aez("compress", "--LOSSLESS").stderr
