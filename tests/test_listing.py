"""`aez ls` and `aez info`: what headers, names and index say of the images, without decoding."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
from typer.testing import CliRunner

import codec
from codec.cli.app import app
from codec.cli.printing import images
from codec.collection.block import Block
from codec.collection.open import open_collection
from codec.collection.writer import Writer
from codec.errors import UsageError
from codec.format.block import pack_block
from codec.format.headers import BLOCK, ImageHeader, pack_image
from codec.format.index import Part
from codec.labels import Labels
from codec.model import registry

GOLDEN = Path(__file__).parent / "golden"
HASHES = [bytes([k] * 8) for k in (0x11, 0x22)]
Parts = list[tuple[Part, list[bytes]]]


def aez(*args: str | Path) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def collection(*blocks: tuple[Parts, list[str] | None]) -> bytes:
    file = io.BytesIO()
    writer = Writer(file)
    for parts, names in blocks:
        writer.write(pack_block(parts, names), sum(len(part.images) for part, _ in parts))
    writer.finish()
    return file.getvalue()


def two_parts() -> Parts:
    """Nine images, of which 1 and 3 are lossless.

    Quality 75: groups of five, so that the other seven are five that share 50 bytes and two that
    share 9. Lossless: groups of 16; the two share 300.
    """
    others = np.array([0, 2, 4, 5, 6, 7, 8])
    return [
        (Part(HASHES[0], 75, others), [bytes(50), bytes(9)]),
        (Part(HASHES[1], 100, np.array([1, 3])), [bytes(300)]),
    ]


def one_part(count: int) -> Parts:
    """`count` <= 5 images of quality 60, which share 10 bytes."""
    return [(Part(HASHES[0], 60, np.arange(count)), [bytes(10)])]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A block of two parts, and one with one part.  No message of them could be decoded."""
    path = tmp_path / "mixed.aez"
    names = [f"{i}.png" for i in range(9)]
    path.write_bytes(collection((two_parts(), names), (one_part(4), ["a", "b", "c c", "d\n"])))
    return path


LINES = """\
 0    10.0  75 1111111111111111 - 0.png
 1   150.0 100 2222222222222222 - 1.png
 2    10.0  75 1111111111111111 - 2.png
 3   150.0 100 2222222222222222 - 3.png
 4    10.0  75 1111111111111111 - 4.png
 5    10.0  75 1111111111111111 - 5.png
 6    10.0  75 1111111111111111 - 6.png
 7     4.5  75 1111111111111111 - 7.png
 8     4.5  75 1111111111111111 - 8.png
 9     2.5  60 1111111111111111 - a
10     2.5  60 1111111111111111 - b
11     2.5  60 1111111111111111 - c c
12     2.5  60 1111111111111111 - d\\n
"""


# ls


def test_a_line_an_image_with_its_share_of_the_bytes(mixed: Path) -> None:
    result = aez("ls", mixed)
    assert (result.exit_code, result.stdout, result.stderr) == (0, LINES, "")


def test_json_is_one_object_a_line(mixed: Path) -> None:
    found = [json.loads(line) for line in aez("ls", "--json", mixed).stdout.splitlines()]
    assert [line["number"] for line in found] == list(range(13))
    assert found[7] == {
        "file": str(mixed),
        "number": 7,
        "name": "7.png",
        "label": None,
        "model": "11" * 8,
        "quality": 75,
        "bytes": 4.5,
    }
    assert found[12]["name"] == "d\n"


def test_index_picks_lines_in_order_with_repeats_and_reads_each_block_once(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    names = Block.names
    monkeypatch.setattr(Block, "names", lambda block: read.append(block.first) or names(block))
    lines = LINES.splitlines(keepends=True)
    result = aez("ls", mixed, "--index", "12,7-10,0,7")
    assert result.stdout == "".join(lines[i] for i in (12, 7, 8, 9, 10, 0, 7))
    assert read == [9, 0]
    read.clear()
    assert aez("ls", mixed, "--index", "9").stdout == lines[9]
    assert read == [9]
    result = aez("ls", mixed, "--index", "0,13")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "--index 13 is out of range: there are 13 images, the first is 0" in result.stderr
    assert aez("ls", mixed, "--index", "5-3").exit_code == 2


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.aez")), ids=lambda path: path.stem)
def test_shares_of_all_images_are_the_payload(path: Path) -> None:
    """And their number, names, models and qualities are what the other ways to them say."""
    found = [json.loads(line) for line in aez("ls", "--json", path).stdout.splitlines()]
    info = codec.info(path)
    assert len(found) == info.images
    assert sum(line["bytes"] for line in found) == pytest.approx(info.payload_bytes, abs=0.3)
    assert {line["model"] for line in found} == set((info.model or "").split(", ")) - {""}
    qualities = [line["quality"] for line in found]
    assert {quality: qualities.count(quality) for quality in qualities} == info.qualities
    if info.names:
        with codec.open(path) as stream:
            assert [line["name"] for line in found] == stream.names


def test_lines_of_several_files_begin_with_the_file(mixed: Path) -> None:
    image = mixed.with_name("one.aez")
    image.write_bytes(pack_image(ImageHeader(0, 30, model_hash=HASHES[0]), bytes(7), b""))
    line = "0     7.0  30 1111111111111111 - -\n"
    assert aez("ls", image).stdout == line
    assert aez("ls", image, "--index", "0,0").stdout == 2 * line
    wanted = [f"{mixed}: {each}" for each in LINES.splitlines()] + [f"{image}: {line.strip()}"]
    assert aez("ls", mixed.parent).stdout.splitlines() == wanted
    result = aez("ls", image, mixed.with_name("none.aez"))
    assert (result.exit_code, result.stdout) == (3, f"{image}: {line}")
    assert result.stderr == f"aez: {mixed.with_name('none.aez')}: No such file or directory\n"


def test_images_without_a_model_or_of_an_unknown_one(tmp_path: Path) -> None:
    path = tmp_path / "x.aez"
    path.write_bytes(pack_image(ImageHeader(0, 101), bytes(784), b""))
    assert aez("ls", path).stdout == "0   784.0 101 - - -\n"
    path.write_bytes(pack_image(ImageHeader(200, 30), bytes(7), b""))
    assert aez("ls", path).stdout == "0     7.0  30 number 200 - -\n"
    result = aez("ls", GOLDEN / "empty-collection.aez")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("index", [None, "0-12", "12,0-3,10"])
def test_damaged_block_is_named_and_the_others_are_listed(mixed: Path, index: str | None) -> None:
    stream = bytearray(mixed.read_bytes())
    with open_collection(bytes(stream)) as opened:
        first = opened.blocks[0]
        at = first.offset + BLOCK.size + first.header.names_bytes
    stream[at] ^= 0x80  # of the index of the first block
    mixed.write_bytes(stream)
    result = aez("ls", mixed, *(() if index is None else ("--index", index)))
    wanted = {None: [9, 10, 11, 12], "0-12": [9, 10, 11, 12], "12,0-3,10": [12, 10]}[index]
    assert result.stdout.splitlines() == [LINES.splitlines()[i] for i in wanted]
    assert result.exit_code == 4
    (said,) = result.stderr.splitlines()
    assert said.startswith(f"aez: {mixed}: block 0, images 0-8 (0.png, 1.png, 2.png, ...): ")


def test_damaged_names_are_replaced_as_decompress_replaces_them(mixed: Path) -> None:
    stream = bytearray(mixed.read_bytes())
    with open_collection(bytes(stream)) as opened:
        stream[opened.blocks[1].offset + BLOCK.size + 5] ^= 0x80
    mixed.write_bytes(stream)
    result = aez("ls", mixed)
    assert result.exit_code == 4
    assert result.stdout.splitlines()[:9] == LINES.splitlines()[:9]
    assert result.stdout.splitlines()[9] == LINES.splitlines()[9][:-1] + "nameless-00000009"
    assert f"aez: {mixed}: block 1: " in result.stderr
    assert "names" in result.stderr


def test_without_a_footer_what_is_found_is_listed(mixed: Path) -> None:
    mixed.write_bytes(mixed.read_bytes()[:-4])
    result = aez("ls", mixed)
    assert (result.exit_code, result.stdout) == (4, LINES)
    assert "cut short" in result.stderr


@pytest.mark.parametrize(
    ("labels", "shown", "listed"),
    [
        (np.array([7, 300, 9, 7]), ["7  ", "300", "9  ", "7  "], [7, 300, 9, 7]),
        (["b b", "a", "a", "é"], ["b b", "a  ", "a  ", "é  "], ["b b", "a", "a", "é"]),
    ],
    ids=["integers", "texts"],
)
def test_labels_have_a_column(
    tmp_path: Path, labels: Labels, shown: list[str], listed: list[int | str]
) -> None:
    path = tmp_path / "x.aez"
    block = pack_block(one_part(4), ["w", "x", "y", "z"], labels)
    file = io.BytesIO()
    writer = Writer(file)
    writer.write(block, 4)
    writer.finish()
    path.write_bytes(file.getvalue())
    assert aez("ls", path).stdout == "".join(
        f"{i}     2.5  60 1111111111111111 {text} {'wxyz'[i]}\n" for i, text in enumerate(shown)
    )
    found = [json.loads(line)["label"] for line in aez("ls", "--json", path).stdout.splitlines()]
    assert found == listed
    stream = bytearray(path.read_bytes())
    with open_collection(bytes(stream)) as opened:
        stream[opened.blocks[0].offset + BLOCK.size + 8] ^= 0x80  # of the frame of the labels
    path.write_bytes(stream)
    result = aez("ls", path)
    assert result.exit_code == 4
    assert [line.split()[4:] for line in result.stdout.splitlines()] == [
        ["-", name] for name in "wxyz"
    ]
    assert f"aez: {path}: block 0: " in result.stderr
    assert "labels" in result.stderr


# info


def test_info_of_a_mixed_collection_says_how_many_images_have_what(mixed: Path) -> None:
    size = mixed.stat().st_size
    assert aez("info", mixed).stdout.splitlines() == [
        f"{mixed}: 13 images 28x28, 2 models, qualities 60 to 100, {size} bytes (369 payload, "
        f"{8 * size / (13 * 784):.2f} bpp), format 1",
        "    model 1111111111111111, which is not installed: 11 images, 69 bytes of payload",
        "    model 2222222222222222, which is not installed: 2 images, 300 bytes of payload",
        "    quality 60: 4 images, quality 75: 7 images, lossless: 2 images",
    ]
    said = json.loads(aez("info", "--json", mixed).stdout)
    assert (said["quality"], said["lossless"]) == (None, False)
    assert said["qualities"] == {"60": 4, "75": 7, "100": 2}
    assert said["models"] == [
        {"name": None, "hash": "11" * 8, "images": 11, "payload_bytes": 69},
        {"name": None, "hash": "22" * 8, "images": 2, "payload_bytes": 300},
    ]


def test_info_of_many_qualities_tells_the_most_frequent_ones(tmp_path: Path) -> None:
    parts: Parts = [(Part(HASHES[0], q, np.array([q])), [b"1"]) for q in range(20)]
    parts[4] = (Part(HASHES[0], 4, np.array([4, 20])), [b"1"])
    path = tmp_path / "x.aez"
    path.write_bytes(collection((parts, None)))
    first, second = aez("info", path).stdout.splitlines()
    assert ", qualities 0 to 19, " in first
    assert second == (
        "    "
        + ", ".join(f"quality {q}: {images(1 + (q == 4))}" for q in range(12))
        + ", 8 others: 8 images"
    )


def test_info_of_a_collection_without_images_says_so() -> None:
    path = GOLDEN / "empty-collection.aez"
    assert aez("info", path).stdout == f"{path}: no images, 44 bytes, format 1\n"
    assert json.loads(aez("info", "--json", path).stdout)["models"] == []


def test_empty_array_is_compressed_tested_and_restored_in_words(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((0, 28, 28), np.uint8))
    path = tmp_path / "x.aez"
    assert aez("compress", tmp_path / "x.npy").stdout == f"no images -> {path}\n"
    assert aez("test", path).stdout == f"{path}: ok, no images\n"
    assert aez("decompress", path, "-f").stdout == f"no images -> {tmp_path / 'x.npy'}\n"
    result = aez("decompress", path, "--index", "0", "-f")
    assert (result.exit_code, "there are no images" in result.stderr) == (1, True)


def test_info_of_an_unknown_model_number_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.aez"
    path.write_bytes(pack_image(ImageHeader(200, 30), bytes(7), b""))
    assert aez("info", path).stdout == (
        f"{path}: 1 image 28x28, model number 200, which only a later version of aez may know, "
        "quality 30, 13 bytes (7 payload, 0.13 bpp), format 1\n"
    )
    said = json.loads(aez("info", "--json", path).stdout)
    assert (said["model"], said["model_hash"], said["model_number"]) == (None, "", 200)
    path.write_bytes(pack_image(ImageHeader(1, 30), bytes(7), b""))
    assert codec.info(path).model_number is None


def test_embedded_model_is_called_by_its_name(
    tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEZ_WEIGHTS", str(tiny_weights))
    path = tmp_path / "x.aez"
    path.write_bytes(codec.compress(helpers.drawn(3), model="tiny0", embed_model=True))
    monkeypatch.delenv("AEZ_WEIGHTS")
    assert registry.path_of(helpers.tiny_model().hash) is None
    assert codec.info(path).model == "tiny0"
    assert aez("ls", path, "--index", "1").stdout.split()[3] == "tiny0"


def test_out_of_range_is_a_usage_error_of_the_stream(mixed: Path) -> None:
    from codec.commands.inputs import Input
    from codec.commands.stream import open_stream

    with open_stream(Input(str(mixed), mixed.name)) as stream:
        stream.check_index([range(12, 13)])
        with pytest.raises(UsageError, match="--index 13 is out of range: there are 13 images"):
            stream.check_index([range(0, 2), range(5, 14)])
