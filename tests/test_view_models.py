"""The decoder for browsers takes the model files that Python takes, and no others.

What a hostile model could do: make a kernel read or write outside, make a sum inexact, or take all
memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
from node import needs_node
from test_view_kernels import Decoding, as_text, ask

from codec.errors import BadModel
from codec.model.bundle import architecture_of
from codec.model.ladder import Ladder
from codec.model.pixels import Pixels


def verdict(stream: bytes) -> str | None:
    """The hash of a model that Python takes; None: it refuses it."""
    try:
        kind = {each.ARCHITECTURE: each for each in (Ladder, Pixels)}[architecture_of(stream)]
        return kind(stream).hash.hex()
    except (BadModel, KeyError):
        return None


def spoilt(tensors: helpers.Tensors, rng: np.random.Generator) -> Iterator[helpers.Tensors]:
    """The tensors, each of them changed in several ways; some of the changes do no harm."""
    yield {**tensors, "extra": np.zeros(3, np.int32)}
    for name, tensor in tensors.items():
        others = {key: other for key, other in tensors.items() if key != name}
        yield others
        for changed in (
            np.concatenate([tensor, tensor]),
            tensor[..., :-1],
            tensor[None],
            tensor.T,
            tensor[:0],
            tensor.reshape(-1)[0],
            tensor.astype(np.int64),
            tensor.astype(np.float32),
            tensor.astype(np.int16),
            tensor.astype(np.int8),
        ):
            yield {**others, name: np.ascontiguousarray(changed)}
        ends = np.iinfo(tensor.dtype)
        near = [-(1 << 24), (1 << 24) + 1, 0, 1, -1, 1023, 1024, -1024, 64, 65535, 65536, 65537]
        near += [1 << 17, (1 << 17) + 1, ends.min, ends.max]
        for value in near:
            if ends.min <= value <= ends.max:
                copy = tensor.copy()
                copy.flat[rng.integers(copy.size)] = value
                yield {**others, name: copy}


def check_verdicts(streams: list[bytes], tmp_path: Path) -> int:
    """Assert that both readers take the same files; -> how many are taken."""
    paths = [tmp_path / f"{i}" for i in range(len(streams))]
    for path, stream in zip(paths, streams, strict=True):
        path.write_bytes(stream)
    answers = ask(tmp_path, [{"load": str(path)} for path in paths])
    for i, (stream, answer) in enumerate(zip(streams, answers, strict=True)):
        assert answer.get("kind", "BadModel") == "BadModel", answer
        assert answer.get("hash") == verdict(stream), (i, answer)
    return sum("hash" in answer for answer in answers)


@pytest.mark.slow
@needs_node
@pytest.mark.parametrize("architecture", [Ladder.ARCHITECTURE, Pixels.ARCHITECTURE])
def test_models_that_break_a_rule_are_refused(architecture: str, tmp_path: Path) -> None:
    lossy = architecture == Ladder.ARCHITECTURE
    every = helpers.tiny_tensors() if lossy else helpers.tiny_pixel_tensors()
    tensors = {name: each for name, each in every.items() if not helpers.of_encoder(name)}
    rng = np.random.default_rng(0)
    changed = spoilt(tensors, rng)
    streams = [helpers.pack(each, architecture=architecture) for each in changed]
    streams = [streams[i] for i in rng.permutation(len(streams))[:400]]
    taken = check_verdicts(streams, tmp_path)
    assert 0 < taken < len(streams) // 2


@needs_node
def test_damaged_model_files_are_judged_as_by_python(tmp_path: Path) -> None:
    rng, streams = np.random.default_rng(0), [b"", b"{}", bytes(8), b"\xff" * 100]
    for stream in (helpers.tiny_bundle(), helpers.tiny_pixel_bundle()):
        size = 8 + int.from_bytes(stream[:8], "little")
        for at in [*rng.integers(size, size=100), *rng.integers(len(stream), size=20)]:
            flipped = bytearray(stream)
            flipped[at] ^= 1 << int(rng.integers(8))
            streams.append(bytes(flipped))
        streams += [stream[: int(cut)] for cut in rng.integers(len(stream), size=8)]
        streams += [stream + b"\0", stream[:-1], stream, stream[:size]]
        header = json.loads(stream[8:size])
        for change in HEADERS:
            copy = json.loads(json.dumps(header))
            packed = json.dumps(change(copy) or copy).encode()
            streams.append(len(packed).to_bytes(8, "little") + packed + stream[size:])
    check_verdicts(streams, tmp_path)


def wide_model(hidden: int, blocks: int = 1) -> Ladder:
    """A model with blocks of `hidden` channels inside them, whose memory grows with both."""
    tensors = helpers.tiny_tensors(0, helpers.Sizes(1, 1, (1,) * blocks, 1, 1, 1, 1, ()))
    for i in range(blocks):
        reduce, spatial = f"synthesis.0.{i}.reduce", f"synthesis.0.{i}.spatial.weight"
        for part, axis in (("weight", 0), ("bias", 0), ("shift", 1), ("multiplier", 1)):
            one = tensors[f"{reduce}.{part}"]
            tensors[f"{reduce}.{part}"] = (one[:1] if axis else one).repeat(hidden, axis)
        tensors[spatial] = tensors[spatial].repeat(hidden, 1)
        tensors[spatial][:, 20:] = 0  # for the bound of sums
    return Ladder(*helpers.pack_pair(tensors))


@needs_node
def test_models_that_need_much_memory_get_it_or_are_refused(tmp_path: Path) -> None:
    decoding = Decoding(tmp_path)
    decoding.encoded(wide_model(3000), helpers.drawn(50), 60, 5)
    assert not any(error for errors in decoding.check() for error in errors)
    (tmp_path / "wide").write_bytes(wide_model(200_000).stream)
    (answer,) = ask(tmp_path, [{"load": str(tmp_path / "wide")}])
    assert answer == {"error": "the model needs more memory than there is", "kind": "BadModel"}


@pytest.mark.slow
@needs_node
def test_memory_that_is_used_up_is_an_error_and_nothing_else(tmp_path: Path) -> None:
    """Each of the models stays in memory; in the end there is none, and no decoding is wrong."""
    model = wide_model(50_000, 8)
    (message,) = model.encode(helpers.drawn(1), 60, group=1).messages
    request = {"quality": 60, "counts": [1], "messages": [as_text(message)]}
    requests = []
    for i in range(12):
        file = tmp_path / f"{i}"
        file.write_bytes(model.stream)
        requests.append({**request, "decode": str(file)})
    answers = ask(tmp_path, requests)
    kinds = [answer.get("kind") for answer in answers]
    assert None in kinds
    assert set(kinds) == {None, "OutOfMemory"}
    assert all(answer["errors"] == [None] for answer in answers if "kind" not in answer)


def _first(header: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = header[next(name for name in header if name != "__metadata__")]
    return entry


HEADERS: list[Callable[[dict[str, Any]], Any]] = [
    lambda header: None,
    lambda header: header.pop("__metadata__") and None,
    lambda header: header["__metadata__"].update(card="[]"),
    lambda header: header["__metadata__"].update(card='"name"'),
    lambda header: header["__metadata__"].update(card='{"name": 5}'),
    lambda header: header["__metadata__"].update(card="{"),
    lambda header: header["__metadata__"].update(card=5),
    lambda header: header["__metadata__"].update(more={}),
    lambda header: header["__metadata__"].update(architecture="ladder-1-encoder"),
    lambda header: header["__metadata__"].update(architecture="constructor"),
    lambda header: header["__metadata__"].pop("architecture") and None,
    lambda header: header.update({"a.constructor": header.pop("exp", None)}),
    lambda header: header.update({"__proto__": _first(header)}),
    lambda header: header.update(more=None),
    lambda header: header.update(more=[1]),
    lambda header: _first(header).update(shape=[1 << 62, 4]),
    lambda header: _first(header).update(shape=[1 << 31, 1 << 33]),
    lambda header: _first(header).update(shape=[-1, -4]),
    lambda header: _first(header).update(shape="4"),
    lambda header: _first(header).update(shape=[1.5]),
    lambda header: _first(header).update(shape=None),
    lambda header: _first(header).update(dtype="I128"),
    lambda header: _first(header).update(dtype="toString"),
    lambda header: _first(header).update(dtype=7),
    lambda header: _first(header).update(data_offsets=[0, 1 << 60]),
    lambda header: _first(header).update(data_offsets=[8, 4]),
    lambda header: _first(header).update(data_offsets=[0, 4, 8]),
    lambda header: _first(header).update(data_offsets={"0": 0, "1": 4}),
    lambda header: _first(header).pop("data_offsets") and None,
    lambda header: [1, 2],
    lambda header: 5,
]
