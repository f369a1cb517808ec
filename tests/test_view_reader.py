"""The reader for browsers: streams give the same pixels, names, labels and errors as Python's.

`node` runs tests/view/read_run.mjs, which opens streams; what it says is compared here.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import golden_tool
import helpers
import node
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import codec
from codec import zstd
from codec.collection.open import open_stream
from codec.format.names import pack_names
from codec.model import registry

WEB = Path(codec.__file__).parent / "view" / "web"
GOLDENS: dict[str, dict[str, Any]] = json.loads(golden_tool.LIST.read_text())
pytestmark = node.needs_node


def ask(tmp_path: Path, *requests: dict[str, Any]) -> list[dict[str, Any]]:
    """What the reader for browsers answers: see read_run.mjs."""
    return node.ask("read_run.mjs", tmp_path, list(requests))


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def pixels_of(found: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(found["pixels"]), np.uint8).reshape(-1, 28, 28)


def models_of(stream: bytes | Path) -> list[str]:
    """The installed files of the models that a stream uses."""
    with open_stream(stream) as opened:
        hashes = {model_hash for model_hash, _ in opened.codings if model_hash}
    return [str(path) for path in map(registry.path_of, sorted(hashes)) if path]


def without_images(stream: bytes) -> dict[str, Any]:
    """A request that decodes nothing."""
    return {"stream": text(stream), "ranges": []}


# ---- goldens


def test_every_golden_gives_the_pixels_names_labels_and_sizes_of_python(tmp_path: Path) -> None:
    paths = [golden_tool.GOLDEN / name for name in GOLDENS]
    answers = ask(tmp_path, *({"stream": str(p), "models": models_of(p)} for p in paths))
    for path, found in zip(paths, answers, strict=True):
        with open_stream(path) as stream:
            expected = np.asarray(stream.pixels()).reshape(-1, 28, 28)
            assert found["length"] == len(stream) == len(expected)
            if found["kind"] == "collection":
                assert found["names"] == [stream.name(i) for i in range(len(stream))]
                labels = stream.labels
                wanted = None if labels is None else np.asarray(labels).tolist()
                assert found["labels"] == wanted
                for block in stream.blocks:
                    mine = found["details"][block.first : block.first + block.count]
                    shares = block.index.shares()
                    assert [one["bytes"] for one in mine] == pytest.approx(shares.tolist())
            qualities = sorted({one["quality"] for one in found["details"]})
            assert qualities == sorted({quality for _, quality in stream.codings})
        assert found["damage"] == [], path.name
        assert found["ranges"][0]["errors"] == [None] * len(expected)
        np.testing.assert_array_equal(pixels_of(found["ranges"][0]), expected)


def test_every_damaged_golden_gives_the_error_of_python(tmp_path: Path) -> None:
    paths = sorted(golden_tool.ERRORS.glob("*.aez"))
    files = [
        str(path)
        for path in map(registry.path_of, map(bytes.fromhex, registry.MODEL_IDS.values()))
        if path
    ]
    answers = ask(tmp_path, *({"stream": str(p), "models": files} for p in paths))
    for path, found in zip(paths, answers, strict=True):
        expected = path.name.partition("-")[0]
        kinds = (
            {found["error"]["kind"]}
            if "error" in found
            else {
                error["kind"]
                for error in [*found["damage"], *filter(None, found["ranges"][0]["errors"])]
            }
        )
        assert expected in kinds, (path.name, found)


def test_the_registry_is_that_of_python() -> None:
    listed = re.findall(
        r'(\d+): \{ name: "([\w-]+)", hash: "([0-9a-f]{16})" \}',
        (WEB / "model_files.js").read_text(),
    )
    assert {int(number): model_hash for number, _, model_hash in listed} == registry.MODEL_IDS
    for number, name, _ in listed:
        assert registry.by_id(int(number)).name == name


# ---- sources and ranges


def collection(count: int = 40, **options: Any) -> bytes:
    options = {"model": "mnist", "effort": 1, "guard": False, **options}
    if "max_bytes" in options:
        del options["guard"], options["effort"]
    return codec.compress(helpers.drawn(count), **options)


@pytest.mark.parametrize("via", [*helpers.slow("bytes", "blob", "buffer"), "ranges", "whole"])
def test_any_range_is_the_same_from_every_source(tmp_path: Path, via: str) -> None:
    stream = collection(40, max_bytes=60)
    expected = codec.decompress(stream)
    ranges = [[0, 40], [17, 18], [39, 40], [3, 29], [5, 5]]
    (found,) = ask(
        tmp_path,
        {"stream": text(stream), "via": via, "ranges": ranges, "models": models_of(stream)},
    )
    for (start, end), one in zip(ranges, found["ranges"], strict=True):
        np.testing.assert_array_equal(pixels_of(one), expected[start:end])
        assert one["errors"] == [None] * (end - start)


def test_one_image_of_an_address_reads_little(tmp_path: Path) -> None:
    stream = collection(2000)
    request = {
        "stream": text(stream),
        "via": "ranges",
        "ranges": [[1234, 1235]],
        "imagesOnly": True,
    }
    (found,) = ask(tmp_path, request | {"models": models_of(stream)})
    np.testing.assert_array_equal(pixels_of(found["ranges"][0])[0], codec.decompress(stream)[1234])
    assert found["served"]["bytes"] < len(stream) / 10


def test_an_empty_address_is_an_empty_stream(tmp_path: Path) -> None:
    (found,) = ask(tmp_path, {"stream": text(b""), "via": "ranges"})
    assert found["error"]["kind"] == "Truncated"


# ---- models


def test_models_are_asked_for_by_hash_and_name(tmp_path: Path) -> None:
    stream = collection(3)
    (found,) = ask(tmp_path, {"stream": text(stream), "ask": True, "models": models_of(stream)})
    assert found["asked"] == [["1940d17a82af6b24", "mnist"]]
    np.testing.assert_array_equal(pixels_of(found["ranges"][0]), codec.decompress(stream))


def test_a_missing_model_is_named_and_can_be_added(tmp_path: Path) -> None:
    stream = collection(3)
    (found,) = ask(tmp_path, {"stream": text(stream), "add": models_of(stream)})
    before, after = found["ranges"]
    assert [error["kind"] for error in before["errors"]] == ["ModelNotFound"] * 3
    assert before["errors"][0]["modelHash"] == "1940d17a82af6b24"
    assert "mnist" in before["errors"][0]["message"]
    np.testing.assert_array_equal(pixels_of(after), codec.decompress(stream))
    assert found["damage"] == []


def test_embedded_models_are_used(tmp_path: Path, foreign: Any) -> None:
    path = tmp_path / "x.aez"
    file = str(registry.path_of(foreign.hash))
    with (
        path.open("wb") as out,
        codec.CollectionWriter(out, model=file, embed_model=True) as writer,
    ):
        writer.write(helpers.drawn(20))
    (found,) = ask(tmp_path, {"stream": str(path)})
    np.testing.assert_array_equal(
        pixels_of(found["ranges"][0]), codec.decompress(path.read_bytes())
    )
    assert [(one["hash"], one["embedded"]) for one in found["models"]] == [
        (foreign.hash.hex(), True)
    ]


def test_a_model_that_is_none_is_refused(tmp_path: Path) -> None:
    (found,) = ask(tmp_path, {"stream": text(collection(2)), "ask": True, "models": [__file__]})
    assert [error["kind"] for error in found["ranges"][0]["errors"]] == ["ModelNotFound"] * 2


# ---- names, labels, zstd


def test_bytes_of_names_that_are_not_unicode_are_kept(tmp_path: Path) -> None:
    names = ["b\udcff\udc80x", "\udce4\udcb8", "\ufeffa", "\udced\udca0\udc80", "ä\udcc3"]
    (found,) = ask(tmp_path, {"names": text(pack_names(names)), "count": len(names)})
    assert found["names"] == names


def test_names_and_labels_of_all_kinds(tmp_path: Path) -> None:
    pixels = helpers.drawn(6)
    names = ["a/ä.png", "b", "c/d", "<script>", "日本", "\U0001f600"]
    options = {"names": names, "model": "mnist", "effort": 1}
    streams = [
        codec.compress(pixels, labels=labels, **options)
        for labels in (
            None,
            [0, 1, 2, 255, 3, 4],
            [70_000, 1, 2, 3, 4, 5],
            ["cat", "dög", "cat", "x" * 255, "y", "z"],
        )
    ]
    answers = ask(tmp_path, *map(without_images, streams))
    for stream, found in zip(streams, answers, strict=True):
        assert found["names"] == names
        with codec.open(stream) as opened:
            labels = opened.labels
        assert found["labels"] == (None if labels is None else np.asarray(labels).tolist())


def test_the_check_of_zstd_contents(tmp_path: Path) -> None:
    contents = [bytes(range(1, size + 1)) for size in (1, 3, 4, 8, 15, 31, 32, 33, 100, 200)]
    answers = ask(tmp_path, *({"xxh64": text(content)} for content in contents))
    for content, found in zip(contents, answers, strict=True):
        frame = zstd.pack(content, checksum=True)
        low = int.from_bytes(frame[-4:], "little")
        assert int(found["hash"], 16) & 0xFFFFFFFF == low


# ---- damage


def test_a_damaged_group_costs_its_images_only(tmp_path: Path) -> None:
    stream = bytearray(collection(40))
    with codec.open(bytes(stream)) as opened:
        block = opened.blocks[0]
        at = block.offset + 46 + block.header.names_bytes + block.header.index_bytes
        start, size = block.index.span(3)
    stream[at + start + size // 2] ^= 0x10
    (found,) = ask(tmp_path, {"stream": text(bytes(stream)), "models": models_of(bytes(stream))})
    with codec.open(bytes(stream)) as opened:
        (decoded,) = opened.salvage()
    errors = found["ranges"][0]["errors"]
    assert [error is not None for error in errors] == decoded.lost.tolist()
    assert sum(decoded.lost) == 5
    np.testing.assert_array_equal(pixels_of(found["ranges"][0]), decoded.pixels)
    assert {one["kind"] for one in found["damage"]} == {"ChecksumMismatch", "CorruptPayload"}


@pytest.mark.parametrize("cut", [-1, -30, -200, 500])
def test_without_its_end_a_collection_is_read_as_far_as_it_goes(tmp_path: Path, cut: int) -> None:
    stream = collection(30)[:cut]
    request = {"stream": text(stream), "models": models_of(collection(30))}
    refused, found = ask(tmp_path, request, request | {"recover": True})
    with pytest.raises(codec.BitstreamError) as error:
        codec.decompress(stream)
    assert refused["error"]["kind"] == type(error.value).__name__
    with codec.open(stream) as opened:
        decoded = list(opened.salvage())
    assert found["length"] == sum(len(one.images) for one in decoded) == 30
    np.testing.assert_array_equal(
        pixels_of(found["ranges"][0]), np.concatenate([one.pixels for one in decoded])
    )
    assert found["damage"][0]["kind"] == refused["error"]["kind"]


@settings(max_examples=settings.default.max_examples // 100)
@given(seed=st.integers(0, 2**32 - 1))
def test_damage_anywhere_is_judged_as_python_does(tmp_path_factory: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tmp_path = tmp_path_factory.mktemp("damage")
    whole = [
        codec.compress(
            helpers.drawn(12),
            names=[f"{i}.png" for i in range(12)],
            labels=list(range(12)),
            max_bytes=60,
            model="mnist",
        ),
        codec.compress(helpers.drawn(1)[0], model="mnist"),
    ]
    models = models_of(whole[0]) + models_of(whole[1])
    streams = []
    for _ in range(40):
        stream = bytearray(whole[rng.integers(2)])
        match rng.integers(4):
            case 0:
                stream[rng.integers(len(stream))] ^= 1 << rng.integers(8)
            case 1:
                del stream[rng.integers(len(stream)) :]
            case 2:
                stream[rng.integers(min(60, len(stream)))] = rng.integers(256)
            case 3:
                stream += bytes(rng.integers(0, 256, 3, np.uint8))
        streams.append(bytes(stream))
    answers = ask(tmp_path, *({"stream": text(s), "models": models} for s in streams))
    for stream, found in zip(streams, answers, strict=True):
        try:
            expected = np.asarray(codec.decompress(stream)).reshape(-1, 28, 28)
        except codec.AezError as error:
            kind = type(error).__name__
            kinds = (
                [found["error"]["kind"]]
                if "error" in found
                else [
                    one["kind"]
                    for one in [*found["damage"], *filter(None, found["ranges"][0]["errors"])]
                ]
            )
            assert kind in kinds, (kind, found)
            continue
        assert "error" not in found, found
        np.testing.assert_array_equal(pixels_of(found["ranges"][0]), expected)
