"""The decoder for browsers, models and messages: the same pixels and verdicts as Python's.

`node` runs tests/view/model_run.mjs, which answers requests; what it says is compared here.
"""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path
from typing import Any

import golden_tool
import helpers
import node
import numpy as np
import pytest
import test_kernels
import test_native_pixels
from node import NODE, needs_node

from codec.coding import rans
from codec.format.constants import group_images
from codec.model import registry
from codec.model.bundle import Model
from codec.model.pixels import Pixels
from codec.view.wasm import build

SHIPPED = [bytes.fromhex(name) for name in registry.MODEL_IDS.values()]


def ask(tmp_path: Path, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the decoder for browsers answers to requests: see model_run.mjs."""
    return node.ask("model_run.mjs", tmp_path, requests)


def as_text(data: bytes | np.ndarray) -> str:
    return base64.b64encode(data if isinstance(data, bytes) else data.tobytes()).decode()


class Decoding:
    """Messages of one model, to be decoded by both: requests for the browser's, and a comparison.

    raw: pixels of damaged messages are compared, too.
    """

    def __init__(self, tmp_path: Path, *, raw: bool = False) -> None:
        self._path, self._raw = tmp_path, raw
        self._requests: list[dict[str, Any]] = []
        self._expected: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, model: Model, messages: list[bytes], n: int, quality: int, group: int) -> None:
        """Messages of n images, `group` to each."""
        file = self._path / f"{model.hash.hex()}.safetensors"
        file.write_bytes(model.stream)
        counts = [min(group, n - at) for at in range(0, n, group)]
        self._requests.append(
            {
                "decode": str(file),
                "raw": self._raw,
                "quality": quality,
                "counts": counts,
                "messages": [as_text(message) for message in messages],
            }
        )
        pixels, bad = model.decode(messages, n, quality, group=group)
        self._expected.append((pixels, bad, np.repeat(bad, counts)))

    def encoded(self, model: Model, pixels: np.ndarray, quality: int, group: int) -> None:
        """The messages of images."""
        encoded = model.encode(pixels, quality, group=group)
        self.add(model, encoded.messages, len(pixels), quality, group)

    def check(self) -> list[list[str | None]]:
        """Assert that both say the same; -> what is wrong with the messages of each request."""
        answers = ask(self._path, self._requests)
        for answer, (pixels, bad, lost) in zip(answers, self._expected, strict=True):
            assert "error" not in answer, answer
            errors = answer["errors"]
            assert [error is not None for error in errors] == bad.tolist(), errors
            found = np.frombuffer(base64.b64decode(answer["pixels"]), np.uint8)
            found = found.reshape(pixels.shape)
            if not self._raw:
                pixels = np.where(lost[:, None, None], np.uint8(0), pixels)
            np.testing.assert_array_equal(found, pixels)
        return [answer["errors"] for answer in answers]


# ---- the file


def test_the_compiler_makes_the_file_of_the_repository_again(tmp_path: Path) -> None:
    try:
        version = build.compiler_version()
        if version != build.COMPILER:
            pytest.skip(f"kernels.wasm was made by clang {build.COMPILER}, this is {version}")
        made = build.build(tmp_path / "kernels.wasm")
    except build.BuildError as error:
        pytest.skip(f"kernels.wasm cannot be built here: {error}")
    same = made.read_bytes() == build.WASM.read_bytes()
    assert same, "a kernel has changed: run python -m codec.view.wasm"


def test_the_file_is_small() -> None:
    assert build.WASM.stat().st_size < 30_000


@needs_node
def test_a_browser_without_simd_or_webassembly_is_told_so() -> None:
    module = (node.HERE / "../../codec/view/web/kernels.js").resolve().as_uri()
    script = f"""
        const {{ supported, loadKernels }} = await import({module!r});
        console.log(supported());
        WebAssembly.validate = () => false;
        console.log(supported());
        globalThis.WebAssembly = undefined;
        console.log(supported());
        await loadKernels(new Uint8Array()).catch((error) => console.log(error.message));
    """
    assert NODE is not None
    command = [NODE, "--input-type=module", "--eval", script]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0] == "null"
    assert "no SIMD" in said[1]
    assert "no WebAssembly" in said[2]
    assert said[3] == said[2]


# ---- messages


@needs_node
@pytest.mark.parametrize("name", test_kernels.MODELS)
def test_lossy_models_of_any_widths_decode_alike(name: str, tmp_path: Path) -> None:
    decoding = Decoding(tmp_path)
    for bound in (False, True):
        model = test_kernels.model_of(name, bound)
        for n, quality, group in ((1, 0, 1), (7, 99, 1), (53, 50, 5), (19, 61, 16), (16, 98, 16)):
            decoding.encoded(model, helpers.drawn(n), quality, group)
    assert not any(error for errors in decoding.check() for error in errors)


@pytest.mark.slow
@needs_node
@pytest.mark.parametrize("model_hash", SHIPPED, ids=bytes.hex)
def test_shipped_models_decode_alike(model_hash: bytes, tmp_path: Path) -> None:
    model, decoding = registry.by_hash(model_hash), Decoding(tmp_path)
    pixels = np.concatenate([golden_tool.sources()[0], helpers.drawn(20)])
    for quality in (100, 129, 136) if model.lossless else (0, 31, 50, 75, 99):
        decoding.encoded(model, pixels, quality, group_images(quality))
    decoding.encoded(model, pixels[:3], quality, 1)
    assert not any(error for errors in decoding.check() for error in errors)


@needs_node
@pytest.mark.parametrize("group", [1, 5, 16])
def test_lossless_models_decode_every_kind_of_image_alike(group: int, tmp_path: Path) -> None:
    decoding = Decoding(tmp_path)
    noise = np.random.default_rng(1).integers(0, 256, (9, 28, 28), np.uint8)
    pixels = np.concatenate([test_native_pixels.kinds(), noise, helpers.drawn(130)])
    for seed in (0, 1):
        decoding.encoded(helpers.tiny_pixel_model(seed), pixels, 100, group)
    assert not any(error for errors in decoding.check() for error in errors)


@needs_node
def test_lossless_models_of_any_sizes_decode_alike(tmp_path: Path) -> None:
    decoding = Decoding(tmp_path)
    pixels = np.concatenate([helpers.drawn(24), test_native_pixels.kinds()[-16:]])
    for sizes in (
        {},
        {"layers": 0},
        {"flag": 1, "sums": 1, "h": 1, "near": 1, "link": 1, "layers": 1},
        {"flag": 16, "sums": 16, "h": 16, "near": 16, "link": 16, "layers": 2, "palettes": 256},
        {"flag": 33, "sums": 31, "h": 49, "near": 2, "link": 17, "layers": 3, "palettes": 3},
        {"flag": 8, "sums": 70, "h": 300, "near": 7, "link": 3, "layers": 1, "palettes": 2},
    ):
        decoding.encoded(test_native_pixels.odd_model(**sizes), pixels, 100, 5)
    assert not any(error for errors in decoding.check() for error in errors)


@needs_node
def test_groups_of_mixed_sizes_are_decoded_in_one_call(tmp_path: Path) -> None:
    """As single images of one model and quality, beside groups."""
    model, pixels = helpers.tiny_model(), helpers.drawn(60)
    counts = [5, 5, 1, 16, 3, 1, 1, 5, 5, 2, 16]
    messages, expected, at = [], [], 0
    for count in counts:
        encoded = model.encode(pixels[at : at + count], 40, group=16)
        messages += encoded.messages
        expected.append(encoded.pixels)
        at += count
    (tmp_path / "m").write_bytes(model.stream)
    request = {"decode": str(tmp_path / "m"), "quality": 40, "counts": counts}
    (answer,) = ask(tmp_path, [{**request, "messages": [as_text(m) for m in messages]}])
    assert answer["errors"] == [None] * len(counts)
    assert base64.b64decode(answer["pixels"]) == np.concatenate(expected).tobytes()


@needs_node
def test_what_no_message_can_be_is_refused(tmp_path: Path) -> None:
    paths = [tmp_path / "lossy", tmp_path / "lossless"]
    paths[0].write_bytes(helpers.tiny_bundle())
    paths[1].write_bytes(helpers.tiny_pixel_bundle())
    wrong = [(0, 100, 1), (0, -1, 1), (0, 1.5, 1), (0, 50, 0), (0, 50, 17), (0, 50, 2**31)]
    wrong += [(1, 99, 1), (1, 128, 1), (1, 193, 1), (1, 100, 17), (1, 100, -1)]
    requests = [
        {"decode": str(paths[i]), "quality": quality, "counts": [count], "messages": [""]}
        for i, quality, count in wrong
    ]
    for answer in ask(tmp_path, requests):
        assert answer["kind"] == "RangeError", answer


@needs_node
def test_products_are_rounded_before_they_are_rounded_to_integers(tmp_path: Path) -> None:
    """Law L1, in the last layer: its sums and multipliers tell whether a product was rounded."""
    decoding = Decoding(tmp_path, raw=True)
    sums, multipliers = map(np.abs, test_kernels.telling_sums(1 << 10))
    once = np.rint(sums * multipliers / 2**24)  # the product is exact in float64
    some = np.resize(np.flatnonzero(once < 255), 16)  # those that fit a pixel, one for each output
    tensors = helpers.tiny_tensors()
    tensors["output.weight"][:] = 0
    tensors["output.bias"] = sums[some].astype(np.int32)
    tensors["output.shift"][:] = 0
    tensors["output.multiplier"][:] = multipliers[some]
    model = helpers.model_of(tensors)
    pixels, _ = model.decode([b""], 1, 50, group=1)
    assert (pixels[0, :4, :4].ravel() != once[some]).all()
    decoding.add(model, [b""], 1, 50, 1)
    decoding.check()


# ---- damage


def damaged(message: bytes, count: int, seed: int) -> list[bytes]:
    """Some of the ways to damage a message by one bit, or by cutting it."""
    every = [*helpers.cuts(message), *helpers.flips(message)]
    order = np.random.default_rng(seed).permutation(len(every))
    return [every[i] for i in order[:count]]


def random_messages(seed: int) -> list[bytes]:
    rng = np.random.default_rng(seed)
    found = [rng.bytes(int(size)) for size in rng.integers(0, 1500, 30)]
    found += [b"", b"\0", bytes(5000), b"\xff" * 3000, b"\xff\xff\xff" + rng.bytes(3000)]
    # valid, but for the leading zeros, or for the bytes behind it
    (message,) = helpers.tiny_model().encode(helpers.drawn(1), 50, group=1).messages
    return [*found, bytes(100_000) + message, message + bytes(100_000), b"\1" * 100_000]


@needs_node
@pytest.mark.parametrize("group", [1, 5])
def test_damaged_lossy_messages_are_what_python_makes_of_them(group: int, tmp_path: Path) -> None:
    decoding, model = Decoding(tmp_path, raw=True), helpers.tiny_model()
    (message,) = model.encode(helpers.drawn(9)[:group], 75, group=group).messages
    # Longer ones are not decoded at all.
    short = [message[:500] for message in random_messages(group)]
    for messages in (damaged(message, 80, group), short):
        decoding.add(model, messages, len(messages) * group - (group > 1), 75, group)
    assert any(error for errors in decoding.check() for error in errors)


@needs_node
@pytest.mark.parametrize("group", [*helpers.slow(1), 16])
def test_verdicts_on_any_messages_are_those_of_python(group: int, tmp_path: Path) -> None:
    decoding, messages = Decoding(tmp_path), random_messages(group)
    # Images that the lossless models do not store: zstd frames are not for kernels.
    lossless = [helpers.tiny_pixel_model(seed) for seed in (0, 1)]
    pixels = helpers.drawn(64)
    stored = [i for model in lossless for i in model.analyze(pixels, 100).stored]
    pixels = np.delete(pixels, stored, axis=0)[-group:]
    for model, quality in (
        (helpers.tiny_model(0), 50),
        (lossless[0], 100),
        (lossless[1], 192),
    ):
        (message,) = model.encode(pixels, quality, group=group).messages
        every = [*messages, *damaged(message, 60, group), message]
        decoding.add(model, every, len(every) * group - (group > 1), quality, group)
    odd = test_native_pixels.odd_model()
    decoding.add(odd, messages, len(messages) * group, 100, group)
    found = decoding.check()
    assert any("final state" in (error or "") for errors in found for error in errors)
    assert any("left over" in (error or "") for errors in found for error in errors)
    assert any("stored" in (error or "") for errors in found for error in errors)


# ---- the softmax


@needs_node
def test_frequencies_are_those_of_numpy(tmp_path: Path) -> None:
    rng, tensors = np.random.default_rng(0), helpers.tiny_pixel_tensors()
    nets = [helpers.tiny_pixel_model()._value, test_native_pixels.odd_model()._value]
    for exp in (np.full(512, rans.TOTAL), rans.TOTAL - 128 * rng.permutation(512)):
        tensors["exp"][1:] = exp[1:]
        nets.append(Pixels(helpers.pack(tensors, architecture=Pixels.ARCHITECTURE))._value)
    every = [rows.astype(np.int32) for rows in test_native_pixels.logits()]
    cases = [(net, rows) for net in nets for rows in every]
    requests = [{"frequencies": as_text(rows), "exp": as_text(net._exp)} for net, rows in cases]
    for (net, rows), answer in zip(cases, ask(tmp_path, requests), strict=True):
        freq = np.frombuffer(base64.b64decode(answer["freq"]), np.uint32).reshape(rows.shape)
        np.testing.assert_array_equal(freq, net._frequencies(rows.astype(np.float32)))
