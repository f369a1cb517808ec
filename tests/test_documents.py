"""What README and the guides say is true: commands parse, code runs, links lead somewhere, figures
are those that were measured; and examples in docstrings run.
"""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import io
import json
import re
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import golden_tool
import helpers
import numpy as np
import pytest
import typer
from PIL import Image, ImageSequence
from typer.testing import CliRunner

import codec
from codec.cli.app import app
from codec.files.images import read_image
from codec.model import registry

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text("utf-8")
    for path in (
        ROOT / "README.md",
        ROOT / "examples" / "README.md",
        ROOT / "weights" / "README.md",
        ROOT / "codec" / "README.md",
        ROOT / "codec" / "view" / "README.md",
        ROOT / "codec" / "FORMAT.md",
        ROOT / "codec" / "train" / "EXPERIMENTS.md",
    )
}
README, GUIDES, FIGURES = (
    DOCUMENTS[name] for name in ("README.md", "examples/README.md", "weights/README.md")
)
COMMANDS = typer.main.get_command(app).commands


def blocks(text: str, language: str) -> list[str]:
    """The code of a document in a language, block by block."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


# Words


def test_readme_is_one_page_with_two_commands_on_the_first_screen() -> None:
    first_screen = "\n".join(README.splitlines()[:25])
    install, test = blocks(first_screen, "sh")
    assert "aez compress examples/images" in install
    assert "pytest" in test
    assert 5_500 < len(README.encode()) < 8_192


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    extract = next(line for line in script.splitlines() if line.startswith("test_command="))
    run = subprocess.run(
        ["bash", "-c", f'{extract}; echo "$test_command"'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == blocks(README, "sh")[1]
    assert 'bash -euo pipefail -c "$test_command"' in script


def command_lines(text: str) -> Iterator[list[str]]:
    """Each call of aez in the shell blocks of a document, as words."""
    for line in "".join(blocks(text, "sh")).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        if words and words[0].split("/")[-1] == "aez":
            yield words[1:]


def parse(words: list[str]) -> None:
    """Raises what the command line would say if it did not understand these words."""
    COMMANDS[words[0]].make_context(words[0], words[1:])


@pytest.mark.parametrize(
    "words",
    [words for text in DOCUMENTS.values() for words in command_lines(text)],
    ids=" ".join,
)
def test_command_line_of_a_document_is_one_that_aez_understands(words: list[str]) -> None:
    parse(words)


def test_documents_show_every_command() -> None:
    shown = {words[0] for text in (README, GUIDES) for words in command_lines(text)}
    assert shown == set(COMMANDS)


@pytest.mark.parametrize(
    "line", ["compress --sepa d", "compress -r d", "decompress --format gif x", "info -o y x"]
)
def test_a_command_line_with_an_unknown_option_or_value_is_noticed(line: str) -> None:
    with pytest.raises(Exception, match=r"No such option|--format gif: give png"):
        parse(line.split())


def test_options_that_the_text_names_exist() -> None:
    known = {"--help"} | {
        option
        for command in (typer.main.get_command(app), *COMMANDS.values())
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    for name in ("README.md", "examples/README.md"):
        text = re.sub(r"^```.*?^```$", "", DOCUMENTS[name], flags=re.DOTALL | re.MULTILINE)
        quoted = re.findall(r"`([^`\n]+)`", text)
        named = {
            word
            for words in quoted
            if not words.startswith(("python", "pip"))
            for word in words.split()
            if re.fullmatch(r"--?[a-z][a-z-]*", word)
        }
        assert len(named) > 8
        assert named <= known, name


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere_and_files_that_are_named_exist(name: str) -> None:
    text, here = DOCUMENTS[name], (ROOT / name).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if path.startswith("http"):
            continue
        found = here / path if path else ROOT / name
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)", found.read_text("utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings}
            assert anchor in slugs, target
    for path in re.findall(r"`((?:codec|weights|examples|tests)/[\w/.-]*)`", text):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"python -m\s+(codec[\w.]*)", text):
        assert importlib.util.find_spec(module), module
    for path in re.findall(r"python (examples/\w+\.py)", text):
        assert (ROOT / path).exists(), path


def test_weights_readme_has_every_shipped_model() -> None:
    assert registry.MODEL_IDS
    for model_hash in registry.MODEL_IDS.values():
        path = registry.path_of(bytes.fromhex(model_hash))
        assert path is not None
        assert f"| `{path.name}` | {registry.name_of(path)} | {path.stat().st_size:,} |" in FIGURES
        limit = 6_000_000 if registry.name_of(path).endswith("-lossless") else 3_000_000
        assert path.stat().st_size <= limit


def test_every_picture_and_script_is_shown_in_a_document() -> None:
    for path in (ROOT / "examples" / "pictures").iterdir():
        assert path.stat().st_size < 40_000
        assert f"pictures/{path.name})" in README + GUIDES, path
    for path in (ROOT / "examples").glob("*.py"):
        assert f"| `examples/{path.name}` |" in GUIDES, path


# Code


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with `examples/images`, as in a checkout."""
    shutil.copytree(ROOT / "examples" / "images", tmp_path / "examples" / "images")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_first_commands_of_the_readme_bring_the_images_back(home: Path) -> None:
    for words in command_lines("```sh\n" + blocks(README, "sh")[0] + "```\n"):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
    originals = sorted((home / "examples" / "images").rglob("*.png"))
    restored = sorted((home / "restored").rglob("*.png"))
    assert [p.relative_to(home / "restored") for p in restored] == [
        p.relative_to(home / "examples" / "images") for p in originals
    ]
    for a, b in zip(originals, restored, strict=True):
        assert np.mean((read_image(a).astype(float) - read_image(b)) ** 2) < 255**2 / 10**2.2


def test_python_of_the_readme_runs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels, names = golden_tool.sources()
    Path("examples.aez").write_bytes(codec.compress(pixels, names=names))
    for block in blocks(README, "python"):
        given = {"pixels": pixels[:3]}
        exec(block, given)
        assert given["pixels"].shape == (3, 28, 28)
    assert capsys.readouterr().out == f"{len(pixels)} (28, 28) {names[17]}\n"


def guide_names() -> dict[str, Any]:
    """What the blocks of the guides take for granted."""
    pixels = helpers.drawn(8)
    picture = Image.fromarray(pixels[0])
    return {
        "codec": codec,
        "pixels": pixels,
        "Image": Image,
        "ImageSequence": ImageSequence,
        "image": picture,
        "first": picture,
        "rest": [Image.fromarray(image) for image in pixels[1:]],
    }


def prepare_guides(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`digits.aez` and shards in the working directory; models that are quick."""
    monkeypatch.setenv("AEZ_WEIGHTS", str(weights))
    digits = np.tile(helpers.drawn(50), (5, 1, 1))
    names = [f"{i // 100}/{i:05}.png" for i in range(len(digits))]
    Path("digits.aez").write_bytes(codec.compress(digits, model="tiny0", effort=1, names=names))
    stream = codec.compress(digits[0], model="tiny0", effort=1)
    for shard in range(16):
        with tarfile.open(f"shard-{shard:03}.tar", "w") as tar:
            for name, content in (("0.aez", stream), ("0.cls", b"7")):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


# webdataset leaves its shards open
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("number", range(len(blocks(GUIDES, "python"))))
def test_python_of_the_guides_runs(
    number: int, home: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = blocks(GUIDES, "python")[number]
    given = guide_names()
    prepare_guides(tiny_weights, monkeypatch)
    if "DataLoader" in block:
        given["DataLoader"] = pytest.importorskip("torch.utils.data").DataLoader
    if "datasets." in block:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        given["datasets"] = pytest.importorskip("datasets")
        block = block.replace("num_workers=2", "num_workers=0")
    if "webdataset" in block:
        given["webdataset"] = pytest.importorskip("webdataset")
        block = block.replace('.tar")', '.tar", shardshuffle=False)') + "read = list(pairs)\n"
    exec(block, given)
    if "webdataset" in block:
        assert [(pixels.shape, label) for pixels, label in given["read"]] == [((28, 28), 7)] * 16


def test_examples_in_docstrings_run() -> None:
    found = 0
    for path in sorted((ROOT / "codec").rglob("*.py")):
        if ">>>" in path.read_text("utf-8"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            result = doctest.testmod(importlib.import_module(name))
            assert result.failed == 0, name
            found += result.attempted
    assert found >= 2


# Figures


def read(name: str) -> Any:
    return json.loads((ROOT / "weights" / name).read_text())


def table(text: str, start: str) -> dict[str, list[str]]:
    """The table whose first line begins so: the cells of each line behind its first cell."""
    lines = text[text.index("\n" + start) + 1 :].split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in cells if not row[0].startswith("---")}


def shown(row: dict[str, Any]) -> str:
    return f"{row['bytes']:.1f} B, {row['psnr_db']:.1f} dB"


TITLES = {"mnist": "MNIST", "fashion": "Fashion-MNIST"}


@pytest.mark.parametrize("data", TITLES)
def test_figures_of_qualities_are_those_measured(data: str) -> None:
    points = {
        (point["quality"], point["effort"]): point
        for point in read("curves.json")["points"]
        if point["data"] == data
    }
    by_quality = table(FIGURES, "| quality | 0 | 10 | 25 | 50 | 75 | 90 | 99 |")
    qualities = by_quality["quality"]
    assert qualities == ["0", "10", "25", "50", "75", "90", "99"]
    for quality, cell in zip(qualities, by_quality[TITLES[data]], strict=True):
        if quality != "75":  # no point of it is in the JSON, but its neighbours are
            assert cell == shown(points[int(quality), 3])
    default = by_quality[TITLES[data]][qualities.index("75")]
    num_bytes, psnr_db = (float(word) for word in re.findall(r"[0-9.]+", default))
    for key, value in (("bytes", num_bytes), ("psnr_db", psnr_db)):
        assert points[70, 3][key] < value < points[80, 3][key]
    first = table(README, "| | MNIST | Fashion-MNIST |")
    column = list(TITLES).index(data)
    for label, quality in (
        ("aez, quality 25, all images in one file", "25"),
        ("aez, quality 75 (the default), all in one file", "75"),
    ):
        cell = by_quality[TITLES[data]][qualities.index(quality)]
        assert first[label][column] == cell.replace(" B, ", " (") + ")"
    by_bytes = table(FIGURES, "| PSNR in dB at |")
    measured = read("curves.json")["psnr_db_at_bytes"][data]
    label = f"{TITLES[data]}, aez -m {data}, effort 3, the default"
    sizes = [size.removesuffix(" bytes") for size in by_bytes["PSNR in dB at"]]
    wanted = [f"{measured[n]['measured']:.1f}" if n in measured else "–" for n in sizes]
    assert by_bytes[label] == wanted


@pytest.mark.parametrize("data", TITLES)
def test_points_of_a_lossy_model_are_those_measured(data: str) -> None:
    rows = table(FIGURES[FIGURES.index(f"### {data}\n") :], "| quality | bytes | ideal bytes |")
    assert list(rows.items())[1:] == [
        (str(p["quality"]), [f"{p[key]:.2f}" for key in ("bytes", "ideal_bytes", "psnr_db")])
        for p in read(f"{data}-t10k.json")["curve"]
    ]


def test_lossless_figures_and_those_of_other_codecs_are_those_measured() -> None:
    lossless = [read(f"{data}-lossless-t10k.json") for data in TITLES]
    others = {
        (row["dataset"], row["codec"], row["setting"], row["counted"]): row
        for row in read("curves.json")["others"]
    }

    def other(*key: str) -> list[str]:
        rows = [others[data, *key] for data in TITLES]
        return [
            f"{row['bytes']:.1f}" + (f" ({row['psnr_db']:.1f} dB)" if row["psnr_db"] else "")
            for row in rows
        ]

    collection = [f"{found['curve'][0]['bytes']:.1f}" for found in lossless]
    single = [f"{found['single_file_bytes']:.1f}" for found in lossless]
    first = table(README, "| | MNIST | Fashion-MNIST |")
    assert first["aez, lossless, all in one file"][:2] == collection
    assert first["aez, lossless, a file per image"][:2] == single
    assert first["WebP at its lowest quality, a file per image"][:2] == other(
        "webp", "q0 m6", "file"
    )
    assert first["WebP, lossless, a file per image"][:2] == other("webp", "lossless m6", "file")
    assert first["PNG, a file per image"][:2] == other("png", "optimize", "file")
    assert first["JPEG XL, lossless, a file per image"][:2] == other("jxl", "lossless e9", "file")
    text = FIGURES[FIGURES.index("**Lossless**") :]
    for label, cells in (
        ("| aez --lossless | {} | {} | collection |", collection),
        ("| aez --lossless | {} | {} | file |", single),
        ("| WebP, lossless | {} | {} | file |", other("webp", "lossless m6", "file")),
        ("| JPEG XL -e9 | {} | {} | file |", other("jxl", "lossless e9", "file")),
        ("| PNG, optimized | {} | {} | file |", other("png", "optimize", "file")),
    ):
        assert label.format(*cells) in text


def test_near_lossless_figures_are_those_measured() -> None:
    rows = table(FIGURES, "| largest error | MNIST | Fashion-MNIST |")
    for column, data in enumerate(TITLES):
        found = read(f"{data}-near-t10k.json")
        assert found["model_hash"] == registry.by_name(data, lossless=True).hash.hex()
        for row in found["curve"]:
            assert rows[str(row["quality"] - 128)][column] == shown(row)


def test_figures_of_the_plain_autoencoder_are_those_measured() -> None:
    first = table(README, "| | MNIST | Fashion-MNIST |")
    rows = table(FIGURES[FIGURES.index("**Where this field starts**") :], "| | MNIST |")
    quality = table(FIGURES, "| quality | 0 | 10 | 25 | 50 | 75 | 90 | 99 |")
    column_of_50 = quality["quality"].index("50")
    label = next(label for label in first if label.startswith("the textbook's [plain autoencoder]"))
    for column, data in enumerate(TITLES):
        found = read(f"{data}-plain-t10k.json")
        assert (found["test_set"], found["epochs"]) == ("t10k-images-idx3-ubyte.gz", 10)
        assert first[label][column] == shown(found).replace(" B, ", " (") + ")"
        assert rows["plain autoencoder, all images in one file"][column] == shown(found)
        assert rows["plain autoencoder, test error"][column] == f"{found['test_mse']:.5f}"
        aez = rows["aez, quality 50, all in one file"][column]
        assert aez == quality[TITLES[data]][column_of_50]


def test_figures_of_efforts_are_those_measured() -> None:
    rows = table(FIGURES, "| effort | 1 | 2 | 3 |")
    for data, title in TITLES.items():
        measured = {
            str(row["effort"]): row
            for row in read("efforts.json")["efforts"]
            if row["data"] == data
        }
        assert rows["effort"] == list(measured)
        percents = [measured[e]["bytes_at_equal_psnr_percent"] for e in rows["effort"]]
        speeds = [measured[e]["encode_images_per_s"] for e in rows["effort"]]
        assert rows[f"{title}, bytes at equal PSNR"] == [
            f"{p:.1f} %".replace("-", "−") if p else "0 %" for p in percents
        ]
        assert rows[f"{title}, images/s to encode"] == [f"{s:,.0f}" for s in speeds]


def test_speeds_are_those_measured() -> None:
    speed = read("speed.json")
    rows = table(FIGURES, "| images/s | MNIST | efficiency |")
    in_memory = {
        (row["data"], row["way"], row["quality"], row["effort"], row["named"]): row
        for row in speed["in_memory"]
        if row["cores"] == 2 and row["engine"] == speed["engine"]
    }
    for label, key in {
        "decode, quality 75": ("decode", 75, 1, True),
        "encode, quality 75, effort 1, named model, no guard": ("encode", 75, 1, True),
        "encode, quality 75, as it comes (effort 3, auto, guard)": ("encode", 75, 3, False),
        "encode, quality 25, as it comes": ("encode", 25, 3, False),
        "lossless encode, named model": ("encode", 100, 1, True),
        "lossless encode, as it comes": ("encode", 100, 3, False),
        "lossless decode": ("decode", 100, 1, True),
    }.items():
        cells = [in_memory[data, *key] for data in TITLES]
        assert [rows[label][0], rows[label][3]] == [f"{c['images_per_s']:,.0f}" for c in cells]
        assert [rows[label][2], rows[label][5]] == [f"{c['ratio_to_numpy']:.1f}" for c in cells]
    others = {
        (row["data"], row["codec"], row["setting"], row["way"]): f"{row['images_per_s']:,.0f}"
        for row in speed["others"]
        if row["cores"] == 2
    }
    both = {
        label: [
            " / ".join(others[data, *key, way] for way in ("encode", "decode")) for data in TITLES
        ]
        for label, key in {
            "Pillow, PNG: encode / decode": ("png", "default"),
            "Pillow, WebP q0: encode / decode": ("webp", "q0 m6"),
            "Pillow, WebP lossless: encode / decode": ("webp", "lossless m6"),
            "Pillow, AVIF q40: encode / decode": ("avif", "q40"),
        }.items()
    }
    for label, cells in both.items():
        assert [rows[label][0], rows[label][3]] == cells
    first = table(README, "| | MNIST | Fashion-MNIST |")
    for label, quality in {
        "aez, quality 25, all images in one file": 25,
        "aez, quality 75 (the default), all in one file": 75,
        "aez, lossless, all in one file": 100,
    }.items():
        cells = [
            f"{in_memory['mnist', *key]['images_per_s']:,.0f}"
            for key in (("encode", quality, 3, False), ("decode", quality, 1, True))
        ]
        assert first[label][2] == " / ".join(cells)
    for label, key in {
        "PNG, a file per image": ("png", "optimize"),
        "WebP at its lowest quality, a file per image": ("webp", "q0 m6"),
        "WebP, lossless, a file per image": ("webp", "lossless m6"),
        "AVIF at quality 40, a file per image": ("avif", "q40"),
        "JPEG XL, lossless, a file per image": ("jxl", "lossless e9"),
    }.items():
        cells = [others["mnist", *key, way] for way in ("encode", "decode")]
        assert first[label][2] == " / ".join(cells)
    sizes = {
        row["data"]: f"{row['bytes_per_image']:.1f} ({row['psnr_db']:.1f} dB)"
        for row in speed["others"]
        if row["codec"] == "avif"
    }
    assert first["AVIF at quality 40, a file per image"][:2] == [sizes[data] for data in TITLES]


def test_figures_of_a_classifier_and_of_what_falls_back_are_those_measured() -> None:
    rows = table(FIGURES, "| quality | 0 | 10 | 25 | 50 | 75 | 99 |")
    measured = json.loads((ROOT / "examples" / "accuracy.json").read_text())["qualities"]
    assert rows["quality"] == [str(row["quality"]) for row in measured]
    assert rows["bytes per image, with the guard"] == [f"{row['bytes']:.1f}" for row in measured]
    for label, key in (
        ("tested on decoded images", "tested_on_decoded_percent"),
        ("trained on decoded images", "trained_on_decoded_percent"),
    ):
        assert rows[label] == [f"{row[key]:.2f} %" if row[key] else "" for row in measured]
    sets = {(row["images"], row["quality"]): row for row in read("unknown.json")["sets"]}
    hard = table(GUIDES, "| | fall back |")
    for data, title in TITLES.items():
        for quality in (25, 75):
            row = sets[data, quality]
            share = sum(row["guarded"]["fallback"].values()) / row["count"]
            more = row["guarded"]["bytes"] / row["unguarded"]["bytes"] - 1
            cells = hard[f"{title}, quality {quality}"]
            assert cells[:2] == [f"{100 * share:.1f} %", f"+{100 * more:.1f} %"]
    strange = table(GUIDES, "| | bytes | PSNR |")
    for label, images in (
        ("inverted digits", "inverted digits"),
        ("windows that straddle two drawings", "crops of drawings"),
        ("white noise", "white noise"),
        ("checkerboards", "checkerboards"),
    ):
        row = sets[images, 75]["guarded"]
        wanted = [row["bytes"], row["psnr_db"]]
        cells = [float(cell.removesuffix(" dB")) for cell in strange[label][:2]]
        assert cells == [pytest.approx(wanted[0], abs=0.5), pytest.approx(wanted[1], abs=0.06)]
