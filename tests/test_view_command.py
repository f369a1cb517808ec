"""`aez view`: which streams, models and originals a page holds, what is said of the rest, and the
server.  tests/test_view_page.py opens pages in a browser.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import fsspec
import numpy as np
import pytest
import view_pages
from helpers import drawn
from PIL import Image
from typer.testing import CliRunner
from view_pages import blob_of, config_of, scripts

import codec
from codec.cli import bench
from codec.cli.app import app
from codec.collection.source import ByteSource
from codec.commands import compare
from codec.commands import view as command
from codec.errors import UsageError
from codec.model.ladder import Ladder
from codec.view import page
from codec.view.serve import Server, part_of

GOLDEN = Path(__file__).parent / "golden"
NAMED = GOLDEN / "mnist-1940d17a-named40-q60.aez"
PARTS = GOLDEN / "mnist-1940d17a-parts40.aez"
MNIST, MNIST_LOSSLESS = "1940d17a82af6b24", "15d5d40193bf7674"


@pytest.fixture(autouse=True)
def web(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "WEB", view_pages.write_web(tmp_path_factory.mktemp("page") / "web"))


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is opened in the browser."""
    urls: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: urls.append(url) is None)
    return urls


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary pages go."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def view(*arguments: str | Path, stdin: bytes | None = None) -> Any:
    return CliRunner().invoke(app, ["view", *map(str, arguments)], input=stdin)


@pytest.fixture
def page_path(tmp_path: Path) -> Path:
    return tmp_path / "page.html"


PageOf = Callable[..., tuple[dict[str, Any], dict[int, bytes]]]


@pytest.fixture
def page_of(page_path: Path) -> PageOf:
    """The config of the page that a command writes, and its blobs by number.  said: on stderr."""

    def page_of(*arguments: str | Path, said: str = "") -> tuple[dict[str, Any], dict[int, bytes]]:
        result = view(*arguments, "-f", "-o", page_path)
        assert result.exit_code == 0, result.stderr
        assert (said in result.stderr) if said else not result.stderr
        content = page_path.read_bytes()
        blobs = {
            int(name[5:]): blob_of(*element)
            for name, element in scripts(content).items()
            if name.startswith("blob-")
        }
        return config_of(content), blobs

    return page_of


# Streams and models


def test_a_page_holds_the_stream_and_its_models(page_of: PageOf) -> None:
    config, blobs = page_of(PARTS)
    assert config["title"] == PARTS.name
    assert [one["name"] for one in config["streams"]] == [PARTS.name]
    assert blobs[config["streams"][0]["blob"]] == PARTS.read_bytes()
    models = {one["hash"]: (one["name"], one["blob"]) for one in config["models"]}
    used = {use.hash for use in codec.info(PARTS).models}
    assert set(models) == used == {MNIST, MNIST_LOSSLESS}
    assert models[MNIST][0] == "mnist"
    assert hashlib.sha256(blobs[models[MNIST][1]]).hexdigest().startswith(MNIST)
    assert config["compare"] is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", sorted(GOLDEN.glob("*.aez")), ids=lambda path: path.name.removesuffix(".aez")
)
def test_each_golden_gets_just_the_models_that_it_names(path: Path, page_of: PageOf) -> None:
    config, _ = page_of(path)
    hashes = [one["hash"] for one in config["models"]]
    assert sorted(hashes) == sorted({use.hash for use in codec.info(path).models})


def test_several_files_share_a_page_and_their_models(tmp_path: Path, page_of: PageOf) -> None:
    config, blobs = page_of(NAMED, PARTS, GOLDEN / "mnist-1940d17a-image3-q0.aez")
    names = [NAMED.name, PARTS.name, "mnist-1940d17a-image3-q0.aez"]
    assert [one["name"] for one in config["streams"]] == names
    assert config["title"] == f"{NAMED.name} and 2 others"
    assert len(config["models"]) == 2
    assert blobs[config["streams"][1]["blob"]] == PARTS.read_bytes()


def test_a_directory_is_searched_for_streams(tmp_path: Path, page_of: PageOf) -> None:
    (tmp_path / "d/deep").mkdir(parents=True)
    (tmp_path / "d/deep/x.aez").write_bytes(NAMED.read_bytes())
    (tmp_path / "d/other.png").write_bytes(b"")
    config, _ = page_of(tmp_path / "d")
    assert [one["name"] for one in config["streams"]] == ["x.aez"]
    (tmp_path / "d/x.aez").write_bytes(NAMED.read_bytes())
    config, _ = page_of(tmp_path / "d")
    assert [one["name"] for one in config["streams"]] == ["deep/x.aez", "x.aez"]
    result = view(tmp_path, "-f", "-o", tmp_path / "page.html")
    assert result.exit_code == 0
    (tmp_path / "none").mkdir()
    result = view(tmp_path / "none", "-o", tmp_path / "none.html")
    assert result.exit_code == 1
    assert "no .aez files in this directory" in result.stderr
    assert not (tmp_path / "none.html").exists()


def test_streams_come_from_stdin_and_urls(tmp_path: Path, page_path: Path, page_of: PageOf) -> None:
    stream = NAMED.read_bytes()
    result = view("-", "-o", page_path, stdin=stream)
    assert result.exit_code == 0
    assert config_of(page_path.read_bytes())["title"] == "stdin"
    with fsspec.open("memory://view/x.aez", "wb") as file:
        file.write(stream)
    config, blobs = page_of("memory://view/x.aez")
    assert config["streams"][0]["name"] == "x.aez"
    assert blobs[config["streams"][0]["blob"]] == stream


def test_a_model_in_the_stream_is_not_embedded_again(
    foreign: Ladder, tmp_path: Path, page_of: PageOf
) -> None:
    options: Any = {"model": "tiny0", "effort": 1, "guard": False}
    stream = codec.compress(drawn(4), embed_model=True, **options)
    (tmp_path / "with.aez").write_bytes(stream)
    (tmp_path / "without.aez").write_bytes(codec.compress(drawn(4), **options))
    assert page_of(tmp_path / "with.aez")[0]["models"] == []
    config, _ = page_of(tmp_path / "with.aez", tmp_path / "without.aez")
    assert [one["hash"] for one in config["models"]] == [foreign.hash.hex()]


def test_a_model_that_is_nowhere_is_told_and_one_that_is_given_is_embedded(
    foreign: Ladder,
    tmp_path: Path,
    tiny_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    page_of: PageOf,
) -> None:
    stream = tmp_path / "x.aez"
    stream.write_bytes(codec.compress(drawn(4), model="tiny0", effort=1, guard=False))
    (model,) = tiny_weights.glob("tiny0-????????.safetensors")
    monkeypatch.delenv("AEZ_WEIGHTS")
    missing = f"model {foreign.hash.hex()} is not installed"
    assert page_of(stream, said=missing)[0]["models"] == []
    assert view(stream, "-f", "-o", tmp_path / "page.html", "--quiet").stderr == ""
    config, blobs = page_of(stream, "-m", model)
    assert config["models"][0]["name"] == "tiny0"
    assert blobs[config["models"][0]["blob"]] == model.read_bytes()
    config, _ = page_of(NAMED, "-m", model, said="no stream needs model tiny0")
    assert [one["name"] for one in config["models"]] == ["mnist"]
    for wrong in ("tinny0", str(stream), "there/is/none.safetensors"):
        result = view(stream, "-f", "-o", tmp_path / "page.html", "-m", wrong)
        assert result.exit_code == 1
        assert wrong in result.stderr


# Where the page goes


def test_a_page_is_temporary_and_opened_by_default(opened: list[str], temporary: Path) -> None:
    result = view(NAMED)
    assert result.exit_code == 0
    (made,) = temporary.iterdir()
    assert made.suffix == ".html"
    assert made.stat().st_mode & 0o077 == 0
    assert opened == [made.as_uri()]
    assert f"40 images -> {made} (" in result.stdout
    assert config_of(made.read_bytes())["title"] == NAMED.name


def test_a_page_is_not_opened_if_it_has_a_name_or_that_is_not_wanted(
    opened: list[str], page_path: Path
) -> None:
    assert view(NAMED, "-o", page_path).exit_code == 0
    result = view(NAMED, "--no-open")
    assert result.exit_code == 0
    assert re.search(r"-> \S+\.html \(", result.stdout)
    assert opened == []


@pytest.mark.parametrize("fails", [False, True])
def test_no_browser_is_said(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_browser(url: str) -> bool:
        if fails:
            raise webbrowser.Error("could not locate runnable browser")
        return False

    monkeypatch.setattr(webbrowser, "open", no_browser)
    result = view(NAMED)
    assert result.exit_code == 0
    assert "no browser was found here: open file:///" in result.stderr


def test_an_output_that_exists_is_kept(page_path: Path, tmp_path: Path) -> None:
    page_path.write_text("mine")
    result = view(NAMED, "-o", page_path)
    assert result.exit_code == 2
    assert "-f overwrites it" in result.stderr
    assert page_path.read_text() == "mine"
    assert view(NAMED, "-o", page_path, "-f").exit_code == 0
    assert page_path.read_bytes().startswith(b"<!DOCTYPE html>")
    result = view(NAMED, "-o", tmp_path, "-f")
    assert result.exit_code == 2
    assert "is a directory" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "x.aez"], "give a name that ends in .html"),
        (["-o", "x.png"], "give a name that ends in .html"),
        (["-o", "x"], "give a name that ends in .html"),
        (["-o", ""], "empty"),
        (["-o", "-", "--json"], "stdout"),
        (["--port", "8000"], "--port is for --serve"),
        (["--serve", "--port", "0"], "from 1 to 65535"),
        (["--serve", "--port", "http"], "from 1 to 65535"),
        (["--serve", "-o", "x.html"], "leave out -o"),
        (["--serve", "--json"], "leave out one"),
        (["--against", ""], "empty"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments: list[str], said: str) -> None:
    result = view(NAMED, *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "out"),
    [
        ("view x.aez", "x.png"),
        ("view x.aez", "s3://nowhere/x.png"),
        ("compress x.npy", "x.png"),
        ("compress x.npy", "x.html"),
        ("decompress x.aez", "x.aez"),
        ("decompress x.aez", "x.html"),
        ("decompress x.aez", "x.pt"),
        ("merge x.aez", "x.npy"),
        ("train x.npy", "x.png"),
        ("bench x.npy", "x.png"),
        ("bench x.npy", "report.html"),
        ("bench x.npy", ""),
        ("bench x.npy", "-"),
    ],
)
def test_no_command_writes_what_a_name_contradicts(
    command: str, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page called x.png, a folder called report.html: refused before anything is read."""
    if command.startswith("train"):
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", drawn(4))
    Path("x.aez").write_bytes(NAMED.read_bytes())
    result = CliRunner().invoke(app, [*command.split(), "-o", out])
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    assert "give" in result.stderr or "must end in" in result.stderr or "not .aez" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.aez", "x.npy"]


def test_names_that_fit_are_taken(tmp_path: Path) -> None:
    for name in ("x.html", "x.HTML", "a.b.htm"):
        assert view(NAMED, "-o", tmp_path / name).exit_code == 0
    (tmp_path / "v1.0").mkdir()
    assert bench._free(str(tmp_path / "v1.0"), False) == tmp_path / "v1.0"
    assert bench._free(f"{tmp_path}/v1.1/", False) == tmp_path / "v1.1"


def test_figures_for_programs_and_a_page_on_stdout(page_path: Path) -> None:
    result = view(NAMED, "-o", page_path, "--json")
    figures = json.loads(result.stdout)
    assert figures["images"] == 40
    assert figures["page"] == str(page_path)
    assert figures["bytes_in"] == NAMED.stat().st_size
    assert figures["bytes_out"] == page_path.stat().st_size
    assert view(NAMED, "-o", "-").stdout_bytes == page_path.read_bytes()


# Bad inputs


def test_what_cannot_be_shown_is_named_and_the_rest_is_shown(
    tmp_path: Path, page_path: Path
) -> None:
    foreign = tmp_path / "photo.aez"
    foreign.write_bytes(b"\x89PNG")
    result = view(NAMED, foreign, tmp_path / "typo.aez", "-o", page_path)
    assert result.exit_code == 4
    assert re.search(r"photo\.aez: not an \.aez file", result.stderr)
    assert f"{tmp_path / 'typo.aez'}: No such file or directory" in result.stderr
    assert len(config_of(page_path.read_bytes())["streams"]) == 1
    result = view(NAMED, tmp_path / "typo.aez", "-o", page_path, "-f")
    assert result.exit_code == 3
    result = view(tmp_path / "typo.aez", "-o", tmp_path / "other.html")
    assert result.exit_code == 1
    assert not (tmp_path / "other.html").exists()


@pytest.mark.parametrize(
    "path", sorted((GOLDEN / "errors").glob("*.aez")), ids=lambda path: path.stem
)
def test_damaged_streams_give_a_page_or_one_line(path: Path, page_path: Path) -> None:
    result = view(path, "-o", page_path)
    assert result.exit_code in (0, 4)
    assert len(result.stderr.splitlines()) <= 2
    assert page_path.exists() or result.exit_code == 4
    if page_path.exists():
        config = config_of(page_path.read_bytes())
        assert [one["name"] for one in config["streams"]] == [path.name]


def test_a_damaged_end_is_told_and_the_page_has_the_rest(tmp_path: Path, page_path: Path) -> None:
    cut = tmp_path / "cut.aez"
    cut.write_bytes(NAMED.read_bytes()[:-9])
    result = view(cut, "-o", page_path, "--json")
    assert result.exit_code == 4
    assert json.loads(result.stdout)["images"] == 40
    content = page_path.read_bytes()
    assert [one["hash"] for one in config_of(content)["models"]] == [MNIST]


def test_an_empty_collection_and_a_model_of_the_future_have_pages(
    tmp_path: Path, page_of: PageOf
) -> None:
    config, _ = page_of(GOLDEN / "empty-collection.aez")
    assert config["models"] == []
    image = bytearray((GOLDEN / "mnist-1940d17a-image3-q0.aez").read_bytes())
    image[3] = 77  # Model_ID
    (tmp_path / "future.aez").write_bytes(image)
    config, _ = page_of(tmp_path / "future.aez")
    assert config["models"] == []


def test_what_is_too_large_is_refused_before_it_is_read(
    tmp_path: Path, page_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = tmp_path / "large.aez"
    with open(large, "wb") as file:
        file.truncate(5_000_000_000)
    result = view(large, "-o", page_path)
    assert result.exit_code == 2
    assert "5000.0 MB" in result.stderr
    assert "--serve" in result.stderr
    monkeypatch.setattr(command, "MAX_PAGE_BYTES", NAMED.stat().st_size + 1000)
    result = view(NAMED, "-o", page_path)  # with its model
    assert result.exit_code == 2
    assert "--serve" in result.stderr
    assert not page_path.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
@pytest.mark.parametrize("name", ["</title><script>alert(1)", "a\nb", "evil\u202egnp", "\udcff"])
def test_file_names_that_are_markup_are_text(
    name: str, tmp_path: Path, page_path: Path, page_of: PageOf
) -> None:
    path = tmp_path / name.replace("/", "\\")
    path.write_bytes(NAMED.read_bytes())
    config, _ = page_of(path)
    assert config["title"] == path.name
    content = page_path.read_bytes()
    title = content[content.index(b"<title>") + 7 : content.index(b"</title>")]
    assert b"<" not in title
    assert title.decode("ascii").isprintable()


# Originals


@pytest.fixture
def tree(tmp_path: Path, shipped: Ladder) -> Path:
    """Eight images in folders, and x.aez beside them."""
    for k, pixels in enumerate(drawn(8)):
        path = tmp_path / f"tree/{k % 2}/{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    done = CliRunner().invoke(
        app, ["compress", str(tmp_path / "tree"), "-o", str(tmp_path / "x.aez"), "-e", "1"]
    )
    assert done.exit_code == 0
    return tmp_path / "tree"


def originals_in(config: dict[str, Any], blobs: dict[str, Any]) -> np.ndarray:
    compare = config["compare"]
    pixels = np.frombuffer(blobs[compare["blob"]], np.uint8).reshape(-1, 28, 28)
    assert len(pixels) == compare["count"]
    return pixels


def test_originals_of_a_directory_are_found_by_name(tree: Path, page_of: PageOf) -> None:
    stream = tree.parent / "x.aez"
    config, blobs = page_of(tree, "--against", stream)
    assert [one["name"] for one in config["streams"]] == ["x.aez"]
    order = [int(Path(name).stem) for name in codec.open(stream).names]
    assert order == [0, 2, 4, 6, 1, 3, 5, 7]
    assert (originals_in(config, blobs) == drawn(8)[order]).all()
    assert config["compare"]["names"] is None
    assert config["compare"]["numbers"] is None


def test_originals_that_are_missing_are_told(tree: Path, page_of: PageOf) -> None:
    (tree / "0/2.png").unlink()
    Image.fromarray(drawn(1)[0]).save(tree / "0/other.png")
    stream = tree.parent / "x.aez"
    config, blobs = page_of(
        tree, "--against", stream, said="1 of 8 originals have no image in the stream: 0/other.png"
    )
    assert config["compare"]["numbers"] == [0, 2, 3, 4, 5, 6, 7]
    assert (originals_in(config, blobs) == drawn(8)[[0, 4, 6, 1, 3, 5, 7]]).all()
    page_of(tree, "--against", stream, said="of the stream have no original: 0/2.png")


def test_originals_of_an_array_are_compared_in_order(tmp_path: Path, page_of: PageOf) -> None:
    np.save(tmp_path / "images.npy", drawn(17))
    stream = GOLDEN / "mnist-1940d17a-plain17-q85.aez"
    config, blobs = page_of(tmp_path / "images.npy", "--against", stream)
    assert (originals_in(config, blobs) == drawn(17)).all()
    assert config["compare"]["names"][:2] == ["images.npy[0]", "images.npy[1]"]
    np.save(tmp_path / "images.npy", drawn(20))
    said = "3 of 20 originals have no image in the stream: images.npy[17], "
    config, blobs = page_of(tmp_path / "images.npy", "--against", stream, said=said)
    assert config["compare"]["count"] == 17


def test_the_original_of_a_single_image(tmp_path: Path, page_of: PageOf) -> None:
    Image.fromarray(drawn(4)[3]).save(tmp_path / "one.png")
    stream = GOLDEN / "mnist-1940d17a-image3-q0.aez"
    config, blobs = page_of(tmp_path / "one.png", "--against", stream)
    assert (originals_in(config, blobs) == drawn(4)[3]).all()
    assert config["compare"]["names"] == ["one.png"]


def test_pairs_by_hand() -> None:
    paired = compare.paired
    assert paired(["b", "a", "c", "b"], ["a", "b", "b"], 3) == ([1, 0, 0], [0, 1, 2], True)
    assert paired(["x", "y"], [], 3) == ([0, 1], [0, 1], False)
    assert paired(["x", "y"], ["a", "b"], 2) == ([0, 1], [0, 1], False)
    with pytest.raises(UsageError, match="no original has the name of an image, as 'a'"):
        paired(["x", "y", "z"], ["a", "b"], 2)
    with pytest.raises(UsageError, match="no images"):
        paired(["x"], [], 0)


@pytest.mark.parametrize(
    ("originals", "against", "said", "code"),
    [
        (NAMED, NAMED, "before --against stand the originals", 2),
        ("-", NAMED, "not stdin", 2),
        ("typo.png", NAMED, "typo.png: No such file", 1),
        (Path(__file__).parents[1] / "examples/images", "typo.aez", "typo.aez: No such file", 1),
        (Path(__file__).parents[1] / "examples/images", GOLDEN, "give one stream", 2),
        (
            Path(__file__).parents[1] / "examples/images",
            GOLDEN / "empty-collection.aez",
            "no images to compare",
            2,
        ),
    ],
)
def test_originals_that_cannot_be_are_refused(
    originals: str | Path, against: str | Path, said: str, code: int, page_path: Path
) -> None:
    result = view(originals, "--against", against, "-o", page_path)
    assert result.exit_code == code
    assert said in result.stderr
    assert not page_path.exists()


def test_too_many_originals_are_refused(
    tmp_path: Path, page_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "images.npy", drawn(40))
    monkeypatch.setattr(compare, "MAX_ORIGINALS", 30)
    result = view(tmp_path / "images.npy", "--against", NAMED, "-o", page_path)
    assert result.exit_code == 2
    assert "there are 40 images, and at most 30 can be read here" in result.stderr


# The server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "x.aez").write_bytes(bytes(range(200)))
    source = ByteSource(tmp_path / "x.aez")
    with Server(b"<!DOCTYPE html>the page", {"0.aez": source}) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()
    source.close()


def asked(
    server: Server, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    port = server.server_address[1]
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        with connection.getresponse() as answer:
            return answer.status, dict(answer.headers), answer.read()


def test_the_page_and_files_are_served(server: Server) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", server.url)
    status, headers, content = asked(server, "/")
    assert (status, content) == (200, b"<!DOCTYPE html>the page")
    assert headers["Content-Type"] == "text/html; charset=windows-1252"
    status, headers, content = asked(server, "/0.aez?again")
    assert (status, content) == (200, bytes(range(200)))
    assert headers["Accept-Ranges"] == "bytes"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in headers
    assert "Python" not in headers["Server"]


@pytest.mark.parametrize(
    ("wanted", "status", "start", "stop"),
    [
        ("bytes=0-0", 206, 0, 1),
        ("bytes=10-19", 206, 10, 20),
        ("bytes=190-", 206, 190, 200),
        ("bytes=190-999", 206, 190, 200),
        ("bytes=0-", 206, 0, 200),
        ("bytes=-5", 206, 195, 200),
        ("bytes=-999", 206, 0, 200),
        ("bytes=200-", 416, 0, 0),
        ("bytes=900-999", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
        ("bytes=19-10", 200, 0, 200),
        ("bytes=-", 200, 0, 200),
        ("bytes=0-1,5-6", 200, 0, 200),
        ("lines=0-1", 200, 0, 200),
        ("bytes=0-99999999999999999999999999", 200, 0, 200),
        ("bytes=\u00b2-\u00b3", 200, 0, 200),
    ],
)
def test_ranges(server: Server, wanted: str, status: int, start: int, stop: int) -> None:
    found, headers, content = asked(server, "/0.aez", Range=wanted)
    assert (found, content) == (status, bytes(range(start, stop)))
    assert headers["Content-Length"] == str(stop - start)
    said = {206: f"bytes {start}-{stop - 1}/200", 416: "bytes */200"}.get(status)
    assert headers.get("Content-Range") == said


def test_head_is_get_without_content(server: Server) -> None:
    status, headers, content = asked(server, "/0.aez", "HEAD")
    assert (status, headers["Content-Length"], content) == (200, "200", b"")
    status, headers, content = asked(server, "/0.aez", "HEAD", Range="bytes=3-4")
    assert (status, headers["Content-Length"], content) == (206, "2", b"")


@pytest.mark.parametrize(
    "path",
    [
        "/secret",
        "/x.aez",
        "/1.aez",
        "/../secret",
        "/..%2fsecret",
        "/%2e%2e/secret",
        "/0.aez/../secret",
        "/./0.aez",
        "\\secret",
        "http://127.0.0.1/0.aez",
        "*",
    ],
)
def test_nothing_else_is_served(server: Server, path: str) -> None:
    status, _, content = asked(server, path)
    assert status == 404
    assert content != b"secret"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:8000", 200),
        ("LOCALHOST", 200),
        ("[::1]:99", 200),
        ("evil.example", 403),
        ("evil.example:80", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.", 403),
        ("", 403),
    ],
)
def test_other_names_of_the_host_are_refused(server: Server, host: str, status: int) -> None:
    assert asked(server, "/0.aez", Host=host)[0] == status


def test_other_methods_are_refused(server: Server) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert asked(server, "/0.aez", method)[0] == 501


def test_a_file_that_becomes_shorter_is_a_cut_answer(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.aez").write_bytes(b"short")
    with pytest.raises(http.client.IncompleteRead) as caught:
        asked(server, "/0.aez")
    assert caught.value.partial == b"short"
    assert asked(server, "/")[0] == 200


def test_part_of_needs_no_header() -> None:
    assert part_of(None, 10) is None
    assert part_of("bytes=2-3", 10) == range(2, 4)
    assert list(part_of("bytes=2-3", 0) or ()) == []


def test_serve_shows_files_until_it_is_interrupted(tmp_path: Path) -> None:
    """Of any size, as they are read when they are asked for."""
    # a shell starts what runs in its background with Ctrl-C ignored, and so these tests
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    run = f"{heard}; from codec.cli import main; main()"
    arguments = ["aez", "view", str(NAMED), str(PARTS), "--serve", "--no-open"]
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.argv = {arguments!r}; {run}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(codec.__file__).parents[1],
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"80 images at http://127\.0\.0\.1:(\d+)/, until Ctrl-C\n", line)
        assert found, line + process.communicate(timeout=60)[1]
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=20)
        connection.request("GET", "/")
        config = config_of(connection.getresponse().read())
        assert config["streams"] == [
            {"name": path.name, "url": f"/{number}.aez", "bytes": path.stat().st_size}
            for number, path in enumerate((NAMED, PARTS))
        ]
        assert len(config["models"]) == 2
        connection.request("GET", "/1.aez", headers={"Range": "bytes=4-9"})
        assert connection.getresponse().read() == PARTS.read_bytes()[4:10]
        connection.close()
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130
    assert said == "aez: stopped: the page cannot read its files any more\n"


def test_serve_opens_the_page_and_takes_what_is_too_large_for_one(
    tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "MAX_PAGE_BYTES", 10)
    with patch.object(Server, "serve_forever", side_effect=KeyboardInterrupt):
        result = view(NAMED, "--serve")
        assert result.exit_code == 130
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", opened[0])
        assert opened[0] in result.stdout
        result = view("-", "--serve", "--quiet", stdin=NAMED.read_bytes())
        assert (result.exit_code, result.stdout) == (130, "")
        np.save(tmp_path / "images.npy", drawn(40))
        result = view(tmp_path / "images.npy", "--against", NAMED, "--serve")
        assert result.exit_code == 130


def test_serve_says_what_it_cannot(tmp_path: Path, server: Server) -> None:
    result = view(tmp_path / "typo.aez", "--serve")
    assert result.exit_code == 1
    assert "typo.aez: No such file or directory" in result.stderr
    port = server.server_address[1]
    result = view(NAMED, "--serve", "--no-open", "--port", str(port))
    assert result.exit_code == 1
    assert f"cannot listen at port {port}: Address already in use" in result.stderr
