"""The command `aez`: what is said, where it is written, with which exit code."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import re
import stat
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import codec
from codec import api
from codec.cli.app import app
from codec.commands import work
from codec.files import arrays, images
from codec.model import registry

COMPRESS_FIELDS = (
    "images bytes_in bytes_out payload_bytes bpp psnr_db lossless quality max_error model models "
    "fallback fallback_images seconds failed"
).split()
INFO_FIELDS = (
    "format_version images width height model model_hash quality lossless bytes payload_bytes "
    "max_error labels label_kind names qualities models model_number"
).split()
ROOT = Path(codec.__file__).parents[1]
COMMANDS = "compress decompress info ls view test merge models train bench".split()


def aez(*args: str | Path, stdin: bytes | None = None) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args], input=stdin)


def run(*args: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "codec", *map(str, args)]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=60, cwd=ROOT)


def make_pixels(n: int, seed: int = 0) -> np.ndarray:
    """Return uint8 (n, 28, 28): a bright box on black, elsewhere in each image."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((n, 28, 28), np.uint8)
    for image in pixels:
        top, left = rng.integers(2, 16, 2)
        image[top : top + 8, left : left + 8] = rng.integers(100, 255)
    return pixels


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def png(tmp_path: Path) -> Path:
    path = tmp_path / "img.png"
    path.write_bytes(images.pack_png(make_pixels(1)[0]))
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, pixels in zip(
        ["a.png", "0/1.png", "0/2.png", "1/1.png"], make_pixels(4), strict=True
    ):
        path = tmp_path / "digits" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(images.pack_png(pixels))
    return tmp_path / "digits"


@pytest.fixture
def array(tmp_path: Path) -> Path:
    path = tmp_path / "x.npy"
    np.save(path, make_pixels(12))
    return path


@pytest.fixture
def stream(tree: Path) -> Path:
    assert aez("compress", tree).exit_code == 0
    return tree.with_name("digits.aez")


# The round trips of design.md 5


def test_image_goes_beside_and_back(png: Path) -> None:
    assert aez("compress", png).exit_code == 0
    png.unlink()
    assert aez("decompress", png.with_suffix(".aez")).exit_code == 0
    assert images.read_image(png).shape == (28, 28)


def test_directory_becomes_one_file_and_its_tree_comes_back(
    tree: Path, stream: Path, tmp_path: Path
) -> None:
    result = aez("decompress", stream, "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert snapshot(tmp_path / "out").keys() == snapshot(tree).keys()


def test_separate_files_are_what_single_images_give(tree: Path, tmp_path: Path) -> None:
    assert aez("compress", tree, "--separate", "-o", tmp_path / "out").exit_code == 0
    assert aez("compress", tree / "a.png", "-o", tmp_path / "a.aez").exit_code == 0
    files = snapshot(tmp_path / "out")
    assert sorted(files) == ["0/1.aez", "0/2.aez", "1/1.aez", "a.aez"]
    assert files["a.aez"] == (tmp_path / "a.aez").read_bytes()
    assert aez("decompress", tmp_path / "out", "-o", tmp_path / "back").exit_code == 0
    assert snapshot(tmp_path / "back").keys() == snapshot(tree).keys()


def test_array_becomes_one_file_and_comes_back_in_any_format(array: Path, tmp_path: Path) -> None:
    assert aez("compress", array).exit_code == 0
    array.unlink()
    source = tmp_path / "x.aez"
    assert aez("decompress", source).exit_code == 0
    pixels = arrays.read_array(array)
    assert pixels.shape == (12, 28, 28)
    assert aez("decompress", source, "--format", "idx").exit_code == 0
    assert (arrays.read_array(tmp_path / "x.idx") == pixels).all()
    assert aez("decompress", source, "--format", "png").exit_code == 0
    assert sorted(snapshot(tmp_path / "x")) == [f"{i:02}.png" for i in range(12)]
    assert (images.read_image(tmp_path / "x" / "07.png") == pixels[7]).all()


def test_named_collection_comes_as_an_array_when_asked(stream: Path, tmp_path: Path) -> None:
    assert aez("decompress", stream, "-o", tmp_path / "all.npy").exit_code == 0
    assert arrays.read_array(tmp_path / "all.npy").shape == (4, 28, 28)


def test_empty_array_comes_back_empty(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", make_pixels(0))
    assert aez("compress", tmp_path / "x.npy").exit_code == 0
    assert aez("decompress", tmp_path / "x.aez", "-o", tmp_path / "y.npy").exit_code == 0
    assert arrays.read_array(tmp_path / "y.npy").shape == (0, 28, 28)


def test_index_picks_in_order_with_repeats(array: Path, tmp_path: Path) -> None:
    aez("compress", array)
    aez("decompress", tmp_path / "x.aez", "-o", tmp_path / "all.npy")
    pixels = arrays.read_array(tmp_path / "all.npy")
    out = tmp_path / "some.npy"
    assert aez("decompress", tmp_path / "x.aez", "--index", "11,0,3-5,0", "-o", out).exit_code == 0
    assert (arrays.read_array(out) == pixels[[11, 0, 3, 4, 5, 0]]).all()
    assert (
        aez("decompress", tmp_path / "x.aez", "--index", "7", "-o", tmp_path / "7.png").exit_code
        == 0
    )
    assert (images.read_image(tmp_path / "7.png") == pixels[7]).all()
    assert aez("decompress", tmp_path / "x.aez", "--index", "7,7", "--format", "png").exit_code == 0
    assert list(snapshot(tmp_path / "x")) == ["07.png"]


def test_index_out_of_range_is_named_and_writes_nothing(array: Path, tmp_path: Path) -> None:
    aez("compress", array)
    before = snapshot(tmp_path)
    result = aez("decompress", tmp_path / "x.aez", "-f", "--index", "0,12")
    assert (result.exit_code, snapshot(tmp_path)) == (1, before)
    assert "--index 12 is out of range" in result.stderr


@pytest.mark.parametrize("index", ["", "a", "1,", "5-3", "-1", "1-2-3", "²"])
def test_malformed_index_is_a_usage_error(stream: Path, index: str) -> None:
    assert aez("decompress", stream, f"--index={index}").exit_code == 2


def test_many_images_are_no_single_png(stream: Path, tmp_path: Path) -> None:
    result = aez("decompress", stream, "-o", tmp_path / "one.png")
    assert result.exit_code == 1
    assert "one PNG holds one image" in result.stderr


# Lossless


@pytest.mark.usefixtures("shipped_lossless")
@pytest.mark.parametrize(
    "option", [["--lossless"], ["-q", "100"], ["--lossless", "-q", "100"]], ids=len
)
def test_lossless_directory_comes_back_pixel_by_pixel(
    tree: Path, tmp_path: Path, option: list[str]
) -> None:
    for separate in ([], ["--separate"]):
        out = tmp_path / ("out" if separate else "out.aez")
        result = aez("compress", tree, *option, *separate, "-o", out, "--json")
        said = json.loads(result.stdout)
        assert result.exit_code == 0
        assert (said["lossless"], said["quality"], said["psnr_db"], said["images"]) == (
            True,
            100,
            None,
            4,
        )
        assert aez("test", out).exit_code == 0
        back = tmp_path / f"back{len(separate)}"
        assert aez("decompress", out, "-o", back).exit_code == 0
        for path in tree.rglob("*.png"):
            assert (
                images.read_image(back / path.relative_to(tree)) == images.read_image(path)
            ).all()


@pytest.mark.usefixtures("shipped_lossless")
def test_lossless_idx_gz_comes_back_byte_for_byte(tmp_path: Path) -> None:
    pixels = make_pixels(40)
    pixels[3] = np.random.default_rng(0).integers(0, 256, (28, 28))
    idx = struct.pack(">HBB3I", 0, 8, 3, 40, 28, 28) + pixels.tobytes()
    source = tmp_path / "t10k-images-idx3-ubyte.gz"
    source.write_bytes(gzip.compress(idx))
    assert aez("compress", "--lossless", source).exit_code == 0
    assert (
        aez("decompress", "--format", "idx", tmp_path / "t10k-images-idx3-ubyte.aez").exit_code == 0
    )
    assert (tmp_path / "t10k-images-idx3-ubyte").read_bytes() == idx
    packed = aez("compress", "--lossless", "-", stdin=source.read_bytes())
    assert packed.stdout_bytes == (tmp_path / "t10k-images-idx3-ubyte.aez").read_bytes()
    assert aez("decompress", "-", "--format", "idx", stdin=packed.stdout_bytes).stdout_bytes == idx


@pytest.mark.usefixtures("shipped_lossless")
def test_lossless_image_and_array_come_back_in_one_run_and_inputs_may_go(
    png: Path, array: Path
) -> None:
    image, pixels = images.read_image(png), arrays.read_array(array)
    assert aez("compress", "--lossless", "--rm", png, array).exit_code == 0
    assert not png.exists()
    assert not array.exists()
    assert aez("decompress", png.with_suffix(".aez"), array.with_suffix(".aez")).exit_code == 0
    assert (images.read_image(png) == image).all()
    assert (arrays.read_array(array) == pixels).all()


@pytest.mark.usefixtures("shipped_lossless")
def test_info_speaks_of_lossless_and_stored_streams(png: Path, array: Path) -> None:
    png.write_bytes(images.pack_png(np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)))
    assert "lossless" in aez("compress", "--lossless", png, array).stdout
    assert aez("info", png.with_suffix(".aez")).stdout.endswith(
        "/img.aez: 1 image 28x28, stored without a model, lossless, 790 bytes (784 payload, 8.06 "
        "bpp), format 1\n"
    )
    assert "model tiny0-lossless (" in aez("info", array.with_suffix(".aez")).stdout
    said = json.loads(aez("info", png.with_suffix(".aez"), "--json").stdout)
    assert (said["lossless"], said["quality"], said["model"], said["model_hash"]) == (
        True,
        101,
        None,
        "",
    )
    said = json.loads(aez("info", array.with_suffix(".aez"), "--json").stdout)
    assert (said["lossless"], said["quality"], said["model"]) == (True, 100, "tiny0-lossless")


def model_table() -> list[dict[str, str]]:
    """The rows of `aez models`; columns are two spaces apart."""
    table = aez("models").stdout.partition("\n\n")[0]
    heads, *rows = (re.split(r"  +", line.strip()) for line in table.splitlines())
    return [dict(zip(heads, row, strict=True)) for row in rows]


@pytest.mark.usefixtures("shipped_lossless")
def test_models_says_which_are_lossless() -> None:
    kinds = {row["name"]: row["kind"] for row in model_table()}
    assert kinds["tiny0"] == "lossy"
    assert kinds["tiny0-lossless"].startswith("lossless")
    listed = json.loads(aez("models", "--json").stdout)["models"]
    assert {model["name"]: model["lossless"] for model in listed}["tiny0-lossless"] is True


def test_models_tells_the_encoder_or_that_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = helpers.install(tmp_path)
    helpers.install(tmp_path, lossless=True)
    monkeypatch.setenv("AEZ_WEIGHTS", str(tmp_path))

    def listed() -> dict[str, str | None]:
        models = json.loads(aez("models", "--json").stdout)["models"]
        return {model["name"]: model["encoder_hash"] for model in models}

    digest = helpers.tiny_model().encoder.hash.hex()
    assert (listed()["tiny0"], listed()["tiny0-lossless"]) == (digest, None)
    assert {row["encoder"] for row in model_table() if row["name"] == "tiny0"} == {"yes"}
    registry.encoder_path(path).unlink()
    assert listed()["tiny0"] is None
    assert {row["encoder"] for row in model_table() if row["name"] == "tiny0"} == {"missing"}
    registry.encoder_path(path).write_bytes(helpers.tiny_encoder(1))
    assert aez("models").exit_code == 1


def test_compress_without_the_encoder_says_what_is_missing_and_writes_nothing(
    png: Path, tmp_path: Path
) -> None:
    """One image, a collection, and one that is to be resumed; decompress and info do without."""
    model, out, array = (
        helpers.install(tmp_path / "own"),
        tmp_path / "whole.aez",
        tmp_path / "a.npy",
    )
    np.save(array, helpers.drawn(5))
    assert aez("compress", png, "-m", model, "-o", out).exit_code == 0
    registry.encoder_path(model).unlink()
    for source in (png, array):
        result = aez("compress", source, "-m", model, "-o", tmp_path / "no.aez")
        assert result.exit_code == 1
        assert f"{registry.encoder_path(model).name}, is not in {model.parent}" in result.stderr
        assert not (tmp_path / "no.aez").exists()
    assert aez("decompress", out, "-m", model, "-o", tmp_path / "back.png").exit_code == 0


@pytest.mark.usefixtures("foreign")
def test_lossless_takes_a_model_by_name_and_refuses_a_lossy_one(png: Path, tmp_path: Path) -> None:
    for name in ("tiny0", "tiny0-lossless"):
        assert (
            aez("compress", "--lossless", "-m", name, png, "-o", tmp_path / f"{name}.aez").exit_code
            == 0
        )
    assert (tmp_path / "tiny0.aez").read_bytes() == (tmp_path / "tiny0-lossless.aez").read_bytes()
    assert (
        aez(
            "decompress",
            tmp_path / "tiny0.aez",
            "-m",
            "tiny0-lossless",
            "-o",
            tmp_path / "back.png",
        ).exit_code
        == 0
    )
    assert (images.read_image(tmp_path / "back.png") == images.read_image(png)).all()
    result = aez("compress", "--lossless", "-m", "tiny1", png)
    assert (result.exit_code, "give a lossless one" in result.stderr) == (2, True)
    result = aez("compress", "-m", "tiny0-lossless", png)
    assert (result.exit_code, "give a lossy one" in result.stderr) == (2, True)


@pytest.mark.usefixtures("shipped")
def test_lossless_without_a_shipped_model_says_so(png: Path) -> None:
    result = aez("compress", "--lossless", png)
    assert (result.exit_code, "no lossless model is shipped" in result.stderr) == (1, True)
    assert not png.with_suffix(".aez").exists()


# stdin and stdout


def test_pipe_compresses_and_decompresses_an_image(png: Path) -> None:
    packed = run("compress", "-", stdin=png.read_bytes())
    assert (packed.returncode, packed.stderr) == (0, b"")
    restored = run("decompress", "-", stdin=packed.stdout)
    assert restored.returncode == 0
    assert restored.stdout.startswith(b"\x89PNG")


def test_pipe_compresses_and_decompresses_an_array(array: Path, tmp_path: Path) -> None:
    packed = aez("compress", "-", stdin=array.read_bytes())
    restored = aez("decompress", "-", stdin=packed.stdout_bytes)
    (tmp_path / "back.npy").write_bytes(restored.stdout_bytes)
    assert arrays.read_array(tmp_path / "back.npy").shape == (12, 28, 28)
    assert aez("compress", array, "-o", "-").stdout_bytes == packed.stdout_bytes


def test_tree_goes_to_stdout_as_a_collection(tree: Path, stream: Path) -> None:
    assert aez("compress", tree, "-o", "-").stdout_bytes == stream.read_bytes()


def test_merged_collection_goes_to_stdout_and_nothing_else_does(
    array: Path, tmp_path: Path
) -> None:
    aez("compress", array)
    one, out = array.with_suffix(".aez"), tmp_path / "two.aez"
    assert aez("merge", one, one, "-o", out).exit_code == 0
    assert aez("merge", one, one, "-o", "-").stdout_bytes == out.read_bytes()
    assert aez("merge", one, one, "-o", "-", "--json").exit_code == 2


def test_failure_writes_nothing_to_stdout() -> None:
    result = run("compress", "-", stdin=b"no image")
    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr.startswith(b"aez: stdin: ")
    assert result.stderr.count(b"\n") == 1


def test_stdin_stands_alone(png: Path) -> None:
    assert aez("compress", "-", png).exit_code == 2


def test_dashes_end_the_options(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    (tree / "a.png").rename("-q.png")
    assert aez("compress", "--", "-q.png").exit_code == 0
    assert (tree / "-q.aez").exists()


# Nothing is overwritten, touched or lost


def test_existing_output_is_refused_and_the_others_are_done(tree: Path) -> None:
    (tree / "a.aez").write_bytes(b"precious")
    result = aez("compress", tree, "--separate")
    assert result.exit_code == 3
    assert "a.aez exists" in result.stderr
    assert (tree / "a.aez").read_bytes() == b"precious"
    assert (tree / "0" / "1.aez").exists()
    assert aez("compress", tree, "--separate", "-f").exit_code == 0
    assert (tree / "a.aez").read_bytes() != b"precious"


def test_restoring_never_mixes_with_what_is_there(tree: Path, stream: Path) -> None:
    before = snapshot(tree)
    result = aez("decompress", stream)
    assert (result.exit_code, snapshot(tree)) == (1, before)
    assert "exists and is not empty" in result.stderr
    result = aez("decompress", stream, "-o", tree)
    assert (result.exit_code, snapshot(tree)) == (1, before)
    assert result.stderr == f"aez: {tree}: 4 of 4 outputs exist already; -f replaces them\n"
    assert aez("decompress", stream, "-f").exit_code == 0


def test_colliding_outputs_are_refused_naming_both(tree: Path) -> None:
    Image.new("L", (28, 28)).save(tree / "a.jpg")
    result = aez("compress", tree, "--separate", "--json")
    assert result.exit_code == 3
    failed = {entry["name"]: entry["reason"] for entry in json.loads(result.stdout)["failed"]}
    assert failed.keys() == {str(tree / "a.png"), str(tree / "a.jpg")}
    assert str(tree / "a.jpg") in failed[str(tree / "a.png")]
    assert sorted(path.name for path in tree.rglob("*.aez")) == ["1.aez", "1.aez", "2.aez"]


def test_names_that_would_be_restored_alike_are_refused_naming_both(
    tree: Path, tmp_path: Path
) -> None:
    Image.new("L", (28, 28)).save(tree / "a.jpg")
    result = aez("compress", tree)
    assert result.exit_code == 1
    assert "a.jpg and " in result.stderr
    assert "restored as a.png" in result.stderr
    assert not (tmp_path / "digits.aez").exists()


def test_inputs_go_only_when_asked(tree: Path) -> None:
    before = snapshot(tree)
    assert aez("compress", tree).exit_code == 0
    assert snapshot(tree) == before
    assert aez("compress", tree, "-f", "--rm").exit_code == 0
    assert snapshot(tree) == {}
    assert aez("decompress", tree.with_name("digits.aez"), "-f").exit_code == 0
    assert snapshot(tree).keys() == before.keys()


def test_removal_needs_files(png: Path) -> None:
    assert aez("compress", png, "-o", "-", "--rm").exit_code == 2


def test_streams_are_not_compressed_again(tree: Path, stream: Path) -> None:
    result = aez("compress", stream, tree / "a.png")
    assert result.exit_code == 0
    assert "already compressed" in result.stderr
    result = aez("compress", stream)
    assert result.exit_code == 1
    assert "nothing to compress" in result.stderr


def test_dry_run_says_all_and_writes_nothing(tree: Path, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    result = aez("compress", tree, "--dry-run")
    assert (result.exit_code, snapshot(tmp_path)) == (0, before)
    assert result.stdout == f"{tree} (4 images) -> {tree}.aez\n"
    result = aez("compress", tree, "--separate", "--dry-run", "--json")
    assert len(json.loads(result.stdout)["outputs"]) == 4


def test_interruption_exits_130_and_leaves_nothing(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    before = snapshot(tmp_path)
    monkeypatch.setattr(work, "encode_block", interrupt)
    assert aez("compress", tree).exit_code == 130
    assert snapshot(tmp_path) == before


# Bad input


def save_bad_images(folder: Path) -> None:
    """Write every file of issue 2, "Bad input", that is no 28x28 grey image of 8 bits."""
    grey = Image.new("L", (28, 28), 7)
    Image.new("L", (28, 29)).save(folder / "size.png")
    Image.new("RGB", (28, 28), (1, 2, 3)).save(folder / "colour.png")
    Image.fromarray(np.full((28, 28), 1000, np.uint16)).save(folder / "sixteen.png")
    Image.new("LA", (28, 28), (1, 128)).save(folder / "transparent.png")
    grey.save(folder / "animated.gif", save_all=True, append_images=[Image.new("L", (28, 28), 200)])
    (folder / "truncated.png").write_bytes(images.pack_png(make_pixels(1)[0])[:50])
    (folder / "text.png").write_text("no image")
    (folder / "empty.png").write_bytes(b"")
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")


@pytest.mark.parametrize("separate", [False, True])
def test_bad_images_are_named_and_the_rest_is_done(
    tree: Path, tmp_path: Path, separate: bool
) -> None:
    save_bad_images(tree)
    result = aez("compress", tree, "--json", "-o", tmp_path / ("out" if separate else "out.aez"))
    assert result.exit_code == 3
    said = json.loads(result.stdout)
    assert said["images"] == 4
    names = [Path(entry["name"]).name for entry in said["failed"]]
    bad = [
        "size.png",
        "colour.png",
        "sixteen.png",
        "transparent.png",
        "animated.gif",
        "truncated.png",
        "text.png",
    ]
    assert sorted(names) == sorted([*bad, "empty.png", "dangling.png"])
    assert len(result.stderr.splitlines()) == 9
    assert all(line.startswith(f"aez: {tree}/") for line in result.stderr.splitlines())


def test_nothing_is_written_when_no_image_is_good(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    save_bad_images(tmp_path / "bad")
    assert aez("compress", tmp_path / "bad").exit_code == 1
    assert not (tmp_path / "bad.aez").exists()


@pytest.mark.parametrize("name", ["missing.png", "missing.npy", "missing"])
def test_missing_input_is_named_once(tmp_path: Path, name: str) -> None:
    result = aez("compress", tmp_path / name)
    assert (result.exit_code, result.stderr) == (
        1,
        f"aez: {tmp_path / name}: No such file or directory\n",
    )


def test_missing_stream_is_named_once(tmp_path: Path) -> None:
    for command in ("decompress", "info", "test"):
        result = aez(command, tmp_path / "x.aez")
        assert (result.exit_code, result.stderr) == (
            1,
            f"aez: {tmp_path / 'x.aez'}: No such file or directory\n",
        )


def test_directory_without_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert aez("compress", tmp_path / "empty").exit_code == 1
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    result = aez("compress", tmp_path / "empty")
    assert (result.exit_code, "no images" in result.stderr) == (1, True)


def test_bad_array_is_named_and_the_rest_is_done(png: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "bad.npy", np.zeros((3, 5)))
    result = aez("compress", tmp_path / "bad.npy", png)
    assert result.exit_code == 3
    assert result.stderr.startswith(f"aez: {tmp_path}/bad.npy: ")


def test_empty_name_is_not_the_current_directory(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree)
    before = snapshot(tree.parent)
    assert aez("compress", "").exit_code == 2
    assert aez("compress", "a.png", "-o", "").exit_code == 2
    assert snapshot(tree.parent) == before


CHOOSES = "{} chooses the quality itself: leave out {}"


def test_missing_model_is_named(png: Path) -> None:
    result = aez("compress", png, "-m", "no-such-model", "--json")
    assert result.exit_code == 1
    assert re.fullmatch(
        r"aez: no model is called 'no-such-model' \(installed: .*\)\. "
        "For a model file, give its path\n",
        result.stderr,
    )
    (failed,) = json.loads(result.stdout)["failed"]
    assert failed["name"] == "no-such-model"
    assert "no model is called 'no-such-model'" in failed["reason"]
    assert aez("compress", png, "-m", "").stderr.startswith("aez: the name of the model is empty (")
    assert not png.with_suffix(".aez").exists()


@pytest.mark.parametrize("command", ["decompress", "test"])
def test_damage_exits_4_and_the_others_are_done(png: Path, tmp_path: Path, command: str) -> None:
    aez("compress", png)
    good = png.with_suffix(".aez").read_bytes()
    png.unlink()
    damaged = {
        "cut": good[:-2],
        "flipped": good[:-2] + bytes([good[-2] ^ 64, good[-1]]),
        "empty": b"",
        "none": b"\x89P",
    }
    for name, stream in damaged.items():
        (tmp_path / f"{name}.aez").write_bytes(stream)
        result = aez(command, tmp_path / f"{name}.aez")
        assert result.exit_code == 4, name
        assert result.stderr.startswith(f"aez: {tmp_path}/{name}.aez: ")
        assert len(result.stderr.splitlines()) == 1
    assert aez(command, *(tmp_path / f"{name}.aez" for name in [*damaged, "img"])).exit_code == 4
    assert sorted(tmp_path.glob("*.png")) == ([png] if command == "decompress" else [])


def test_check_passes_what_is_whole(stream: Path, array: Path) -> None:
    aez("compress", array)
    result = aez("test", stream, array.with_suffix(".aez"))
    assert result.exit_code == 0
    assert result.stdout == f"{stream}: ok, 4 images\n{array.with_suffix('.aez')}: ok, 12 images\n"
    assert json.loads(aez("test", stream, "--json").stdout)["images"] == 4


def test_cut_collection_is_damage(stream: Path, tmp_path: Path) -> None:
    stream.write_bytes(stream.read_bytes()[:-3])
    for args in (["test", stream], ["decompress", stream, "-o", tmp_path / "out"]):
        result = aez(*args)
        assert (result.exit_code, result.stderr.startswith(f"aez: {stream}: ")) == (4, True)


def test_names_are_shown_without_what_a_terminal_obeys(tmp_path: Path) -> None:
    result = aez("compress", tmp_path / "a\x1b[31m\nb.png")
    assert result.stderr.splitlines() == [
        f"aez: {tmp_path}/a\\x1b[31m\\nb.png: No such file or directory"
    ]


# What is printed


def test_compress_json_has_the_fields_of_the_design(tree: Path) -> None:
    result = aez("compress", tree, "-q", "50", "--json")
    said = json.loads(result.stdout)
    assert list(said) == COMPRESS_FIELDS
    assert (said["images"], said["quality"], said["failed"]) == (4, 50, [])
    assert said["bytes_in"] == sum(map(len, snapshot(tree).values()))
    assert said["bytes_out"] == tree.with_name("digits.aez").stat().st_size
    assert said["bpp"] == pytest.approx(8 * said["bytes_out"] / (4 * 784), abs=1e-3)


def test_info_json_has_the_fields_of_the_design(stream: Path, array: Path) -> None:
    said = json.loads(aez("info", stream, "--json").stdout)
    assert list(said) == INFO_FIELDS
    assert (said["images"], said["quality"], said["bytes"]) == (4, 75, stream.stat().st_size)
    aez("compress", array)
    several = json.loads(aez("info", stream, array.with_suffix(".aez"), "--json").stdout)
    assert [entry["images"] for entry in several["files"]] == [4, 12]
    assert {key: several["files"][0][key] for key in INFO_FIELDS} == said


def test_models_tells_what_each_is_for_and_what_it_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AEZ_WEIGHTS", raising=False)
    rows = {row["name"]: row for row in model_table()}
    assert rows["mnist"]["for"] == rows["mnist-lossless"]["for"] == "digits"
    assert rows["mnist-lossless"]["kind"] == "lossless, near"
    lossy, lossless = rows["mnist"], rows["mnist-lossless"]
    assert 5 < float(lossy["q25"]) < 10 < float(lossy["q75"]) < 40
    assert (lossy["q100"], lossless["q25"], lossless["q75"]) == ("-", "-", "-")
    assert 60 < float(lossless["q100"]) < 90
    assert (lossless["encoder"], lossy["encoder"]) == ("-", "yes")
    assert max(map(len, aez("models").stdout.splitlines())) <= 80
    listed = json.loads(aez("models", "--json").stdout)["models"]
    assert set(listed[0]) == {
        *(field.name for field in dataclasses.fields(api.ModelInfo)),
        *("kind", "near_lossless", "purpose", "image_bytes"),
    }
    by_name = {model["name"]: model for model in listed}
    assert f"{by_name['mnist']['image_bytes']['25']:.1f}" == lossy["q25"]
    assert by_name["mnist-lossless"]["near_lossless"] is True


def test_models_shows_a_model_whose_card_has_no_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helpers.install(tmp_path)
    monkeypatch.setenv("AEZ_WEIGHTS", str(tmp_path))
    (row,) = (row for row in model_table() if row["name"] == "tiny0")
    assert (row["q25"], row["q75"], row["q100"]) == ("-", "-", "-")
    assert row["for"] == "dice"  # what it was trained on


def test_info_and_models_speak_plainly(stream: Path) -> None:
    assert aez("info", stream).stdout.startswith(f"{stream}: 4 images 28x28, model ")
    assert aez("models").exit_code == 0
    names = [model.name for model in api.models()]
    assert [row["name"] for row in model_table()] == names
    assert [
        model["name"] for model in json.loads(aez("models", "--json").stdout)["models"]
    ] == names


def test_decompress_says_one_line(tree: Path, stream: Path) -> None:
    assert aez("decompress", stream, "-f").stdout == f"4 images -> {tree}/\n"


def test_decompress_json_counts(stream: Path, tmp_path: Path) -> None:
    said = json.loads(aez("decompress", stream, "-o", tmp_path / "out", "--json").stdout)
    assert said["images"] == 4
    assert said["bytes_out"] == sum(map(len, snapshot(tmp_path / "out").values()))


def test_compress_says_one_line(tree: Path) -> None:
    result = aez("compress", tree)
    assert len(result.stdout.splitlines()) == 1
    assert result.stdout.startswith("4 images, ")
    assert result.stdout.endswith(f" -> {tree}.aez\n")
    assert result.stderr == ""
    assert aez("compress", tree, "-f", "--quiet").output == ""


def test_json_and_the_output_do_not_share_stdout(tree: Path) -> None:
    assert aez("compress", tree, "-o", "-", "--json").exit_code == 2


@pytest.mark.parametrize("quality", ["-1", "101", "x"])
def test_quality_out_of_range_is_a_usage_error(png: Path, quality: str) -> None:
    assert aez("compress", png, "-q", quality).exit_code == 2


@pytest.mark.parametrize("quality", ["0", "75", "99"])
def test_lossless_with_another_quality_is_a_usage_error(png: Path, quality: str) -> None:
    result = aez("compress", png, "--lossless", "-q", quality)
    assert result.exit_code == 2
    assert "contradicts --lossless" in result.stderr
    assert not png.with_suffix(".aez").exists()


@pytest.mark.parametrize(
    "args",
    [
        ["--separate", "-o", "x.aez"],
        ["-j", "0"],
        ["--nonsense"],
        ["--effort", "0"],
        ["-e", "10"],
        ["--max-bytes", "9", "-q", "50"],
        ["--min-psnr", "30", "--lossless"],
        ["--min-psnr", "30", "--max-bytes", "9"],
        ["--max-bytes", "-1"],
        ["--min-psnr", "900"],
    ],
    ids=lambda args: " ".join(args),
)
def test_wrong_options_of_compress_are_usage_errors(png: Path, args: list[str]) -> None:
    before = snapshot(png.parent)
    assert aez("compress", png, *args).exit_code == 2
    assert snapshot(png.parent) == before


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-q", "abc"], "-q abc: give a whole number from 0 to 100"),
        (["--quality", "101"], "-q 101: give a whole number from 0 to 100"),
        (["-q", "7.5"], "-q 7.5: give a whole number from 0 to 100"),
        (["-e", "x"], "-e x: give a whole number from 1 to 9"),
        (["-j", "0"], "-j 0: give a whole number of at least 1"),
        (["--max-bytes", "-1"], "--max-bytes -1: give a whole number of at least 0"),
        (["--min-psnr", "nan"], "--min-psnr nan: give a number from 0 to 200"),
        (["--min-psnr", "x"], "--min-psnr x: give a number from 0 to 200"),
        (["--max-bytes", "9", "--lossless"], CHOOSES.format("--max-bytes", "--lossless")),
        (["--max-bytes", "9", "-q", "9"], CHOOSES.format("--max-bytes", "-q")),
        (["--min-psnr", "9", "-q", "9"], CHOOSES.format("--min-psnr", "-q")),
        (
            ["--min-psnr", "9", "--max-bytes", "9"],
            "give either --max-bytes or --min-psnr, not both",
        ),
        (["-q", "9", "--lossless"], "-q 9 contradicts --lossless, which is quality 100"),
        (
            ["-o", "-", "--json"],
            "--json and the output would both go to stdout: give -o FILE",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_is_answered_by_one_sentence(png: Path, args: list[str], said: str) -> None:
    result = aez("compress", png, *args)
    assert (result.exit_code, result.stderr) == (2, f"aez: {said}\n")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--format", "gif"], "--format gif: give png, npy, npz, idx, csv or folders"),
        (["--index", "0,a"], "--index 0,a: 'a' is neither a number nor a range like 10-20"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_of_decompress_is_answered_by_one_sentence(
    stream: Path, args: list[str], said: str
) -> None:
    result = aez("decompress", stream, *args)
    assert (result.exit_code, result.stderr) == (2, f"aez: {said}\n")


def test_the_help_says_what_each_verb_does_in_whole_lines() -> None:
    result = aez("-h")
    assert "train       Train a model for your own images.\n" in result.stdout
    assert "..." not in result.stdout.replace("[ARGS]...", "")


@pytest.mark.parametrize(
    "args", [["-o", "x.aez"], ["--format", "gif"], ["-o", "x.png", "--format", "npy"]]
)
def test_wrong_options_of_decompress_are_usage_errors(stream: Path, args: list[str]) -> None:
    assert aez("decompress", stream, *args).exit_code == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_typing_errors_are_answered_briefly(command: str) -> None:
    for args, wanted in (
        ([command[:-1] + "xx"], f"{command[:-1]}xx: aez has no such command; "),
        ([command, "--jsom", "x"], f"--jsom: aez {command} has no such option; "),
    ):
        result = aez(*args)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"aez: {wanted}")
        assert len(result.stderr.splitlines()) == 1


MISUSE = {
    "compres x": "compres: aez has no such command; did you mean compress?",
    "frobnicate": "frobnicate: aez has no such command; aez -h lists all",
    "compress --qualty 3 x": ("--qualty: aez compress has no such option; did you mean --quality?"),
    "compress -Z x": "-Z: aez compress has no such option; aez compress -h lists all",
    "--vesion": "--vesion: aez has no such option; did you mean --version?",
    "compress": "compress needs INPUT: files, directories, or - for stdin",
    "merge a.aez": "merge needs -o OUT: the .aez file that holds them all",
    "compress -q": "-q: give it a value",
    "compress --lossless=3 x": "--lossless: takes no value; leave out the = after it",
    "compress --scale 3 x": "--scale 3: give 1 or 255, the value that is white",
    "compress --round x": "--round needs --scale, which takes fractions",
    "models x": "aez models takes no x; aez models -h lists what it takes",
    "compress -lossless x": (
        "-lossless: aez compress has no such option; did you mean --lossless?"
    ),
    "-version": "-version: aez has no such option; did you mean --version?",
    "train x -o y --rate 3": "--rate 3: give a number from 0.001 to 2",
    "extract x.aez": "extract: aez has no such command; did you mean decompress?",
    "help": "help: aez has no such command; did you mean -h?",
}


@pytest.mark.parametrize(("line", "said"), MISUSE.items())
def test_misuse_is_one_line_that_says_what_to_do(line: str, said: str) -> None:
    result = aez(*line.split())
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"aez: {said}\n")


def test_a_file_in_the_place_of_a_command_is_told_as_such(stream: Path) -> None:
    png = stream.with_suffix(".png")
    png.touch()
    for path, verb in ((png, "compress"), (stream, "decompress")):
        said = f"{path}: this is a file, not a command; did you mean aez {verb} {path}?"
        assert aez(path).stderr == f"aez: {said}\n"


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "models"])
def test_missing_arguments_are_usage_errors(command: str) -> None:
    assert aez(command).exit_code == 2


def test_help_and_version_need_neither_numpy_nor_torch() -> None:
    heavy = "{'numpy', 'PIL', 'torch', 'rich'}"
    code = (
        f"import sys, codec.cli as c\ntry: c.main()\nfinally: assert not {heavy} & set(sys.modules)"
    )
    for args, wanted in (
        (["--help"], b"decompress"),
        (["train", "--help"], b"--minutes"),
        (["--version"], b"aez "),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *args], capture_output=True, timeout=60, cwd=ROOT
        )
        assert (done.returncode, wanted in done.stdout) == (0, True), done.stderr


def test_commands_never_import_torch(png: Path) -> None:
    code = "import sys, codec.cli as c\ntry: c.main()\nfinally: assert 'torch' not in sys.modules"
    for args in ["compress", png, "--quiet"], ["test", png.with_suffix(".aez")], ["models"]:
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, args)], capture_output=True, timeout=60, cwd=ROOT
        )
        assert (done.returncode, done.stderr) == (0, b"")


def test_closed_pipe_is_quiet(png: Path) -> None:
    aez("compress", png)
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "codec", "info", str(png.with_suffix(".aez"))]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=60, cwd=ROOT)
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 1


def test_train_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("codec.train")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torch", None)
    result = aez("train", tmp_path, "-o", tmp_path / "m.safetensors")
    assert (result.exit_code, result.stderr) == (
        2,
        'aez: aez train needs torch: pip install "aez[train]"\n',
    )


def test_train_never_overwrites_a_model(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"precious")
    result = aez("train", tmp_path, "-o", tmp_path / "m.safetensors")
    assert (result.exit_code, "exists" in result.stderr) == (1, True)


def test_outputs_obey_the_umask(png: Path) -> None:
    aez("compress", png)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(png.with_suffix(".aez").stat().st_mode) == 0o666 & ~umask
