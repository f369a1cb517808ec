"""The test vectors of FORMAT.md 12 say what the decoders compute.

All numbers of the document are compared with those of the minimal decoder, which `vectors` traces;
its pixels, the values of its networks and its frequencies with those of the package.
"""

import re
from collections.abc import Iterator

import golden_tool
import numpy as np
import pytest
import vectors
from vectors import PIXELS, Trace, traced

import codec
from codec.model import registry

TEXT = vectors.DOCUMENT.read_text("utf-8")
BLOCKS = re.findall(r"^```(dump|coder|values) (\S+)$", TEXT, re.MULTILINE)


def stream_of(kind: str) -> bytes:
    return vectors.stream_of(TEXT, kind)


def faults(text: str, kind: str) -> Iterator[str]:
    """The sorts of blocks of a vector that say something else than the decoder."""
    try:
        blocks = vectors.blocks_of(kind, vectors.stream_of(text, kind))
    except ValueError:
        yield "dump"
        return
    for sort, lines in blocks.items():
        if vectors.block_of(text, sort, kind) != lines:
            yield sort


@pytest.mark.parametrize("kind", PIXELS)
def test_blocks_say_what_the_decoder_computes(kind: str) -> None:
    """If not: `python tests/vectors.py` writes them anew."""
    assert list(faults(TEXT, kind)) == []


def test_every_block_is_checked() -> None:
    wanted = {("dump", kind) for kind in PIXELS} | set(vectors.TABLES)
    assert sorted(BLOCKS) == sorted(wanted)
    assert len(re.findall("^Pixels: ", TEXT, re.MULTILINE)) == len(PIXELS)


@pytest.mark.parametrize(("sort", "kind"), [*BLOCKS, *(("pixels", kind) for kind in PIXELS)])
def test_a_changed_digit_is_noticed(sort: str, kind: str) -> None:
    lines = vectors.block_of(TEXT, sort, kind)
    places = [match.start() for match in re.finditer("[0-9]", lines)]
    for at in (places[0], places[len(places) // 2], places[-1]):
        other = lines[:at] + str((int(lines[at]) + 1) % 10) + lines[at + 1 :]
        text = vectors.pattern_of(sort, kind).sub(lambda m, new=other: m[1] + new, TEXT)
        assert sort in faults(text, kind), f"digit {at} of {lines!r}"


def test_writing_leaves_what_is_right_and_mends_what_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert vectors.written(TEXT) == TEXT
    digest = vectors.block_of(TEXT, "pixels", "stored")
    empty = vectors.pattern_of("values", "image").sub(r"\1", TEXT.replace(digest, "0"))
    assert vectors.written(empty) == TEXT
    assert capsys.readouterr().err == ""
    lost = vectors.pattern_of("dump", "stored").sub(r"\1", TEXT)
    assert list(faults(vectors.written(lost), "stored")) == []
    assert "stored: its stream does not decode" in capsys.readouterr().err


# The streams


@pytest.mark.parametrize("kind", PIXELS)
def test_package_decodes_the_same_pixels(kind: str) -> None:
    stream = stream_of(kind)
    pixels = codec.decompress(stream)
    np.testing.assert_array_equal(pixels, traced(stream).pixels)
    error = np.abs(pixels.astype(int) - PIXELS[kind])
    if kind in ("lossless", "stored"):
        assert error.max() == 0
    elif kind == "near-lossless":
        assert 0 < error.max() <= 4
        assert not np.any(pixels % 9)
    else:  # it shows what the text says it shows
        assert error.mean() < 16
    if kind == "parts":
        assert error[[1, 4]].max() == 0 < error.max()


def test_every_kind_of_stream_has_a_vector() -> None:
    described = {kind: golden_tool.described(stream_of(kind)) for kind in PIXELS}
    kinds = [(entry["container"], *entry["coding"]) for entry in described.values()]
    single = {("single", coding) for coding in ("lossy", "lossless", "near-lossless", "stored")}
    assert set(kinds) == {*single, ("collection", "lossy"), ("collection", "lossless", "lossy")}
    assert described["collection"]["names"] == ["a", "b"]
    assert described["collection"]["labels"] is None
    assert described["parts"]["names"] == vectors.NAMES
    assert described["parts"]["labels"] == vectors.TEXTS
    assert described["parts"]["parts"] == len(described["parts"]["models"]) == 2


def test_text_says_what_the_streams_hold() -> None:
    image = stream_of("image")
    assert stream_of("hash")[-len(image[6:]) :] == image[6:]
    assert stream_of("hash") == vectors.hashed(image)
    steps = traced(stream_of("parts")).groups[1].steps  # bar 1 is stored, bar 4 is not
    assert [step.code for step in steps[:2]] == [1, 0]
    (group,) = traced(image).groups
    assert group.steps[-1].before < 1 << 23
    assert [vectors.LOSSY, vectors.LOSSLESS] == [1, 3]  # as it says


@pytest.mark.parametrize("kind", PIXELS)
def test_parse_dump_inverts_dump(kind: str) -> None:
    stream = stream_of(kind)
    fields = vectors.fields_of(stream)
    assert b"".join(value for _, value in fields) == stream
    assert vectors.parse_dump(vectors.dump(stream)) == stream


@pytest.mark.parametrize("line", ["0001  ae", "0000 ae", "0000  ae 5", "0000  ae  :", "0000"])
def test_parse_dump_raises(line: str) -> None:
    with pytest.raises(ValueError, match="not a line of a dump"):
        vectors.parse_dump(line)


# The values


def test_values_of_a_lossy_image_are_those_of_the_package() -> None:
    (group,) = traced(stream_of("image")).groups
    found, model = group.values, registry.by_id(vectors.LOSSY)
    network, y = model.synthesis(group.quality, 1), None
    for level in range(len(group.model["cdf"])):
        mean, row, t = (np.squeeze(x) for x in network.send(y))
        np.testing.assert_array_equal(mean, found[f"mean {level}"].squeeze())
        np.testing.assert_array_equal(row, found[f"row {level}"].squeeze())
        if level:
            np.testing.assert_array_equal(t, found[f"t synthesis.{level - 1}"])
        y = 256 * found[f"symbols {level}"] + found[f"mean {level}"]
        y = y.reshape(-1, 1) if level == 0 else y.reshape(-1, 49, 1)
        y = y.astype(np.int32)
    with pytest.raises(StopIteration) as stop:
        network.send(y)
    np.testing.assert_array_equal(stop.value.value, group.pixels)


@pytest.mark.parametrize("kind", ["lossless", "near-lossless"])
def test_frequencies_of_a_lossless_image_are_those_of_the_package(kind: str) -> None:
    (group,) = traced(stream_of(kind)).groups
    palette = np.array([group.steps[1].code])
    network = registry.by_id(vectors.LOSSLESS).steps(np.ones(1, bool), palette)
    code = None
    for step in group.steps[2:]:
        asked = network.send(code)
        assert step.asked == ("value" if asked.freq.shape[1] == 256 else "flag", asked.pixel)
        assert step.freq == asked.freq[0, step.code]
        if step.asked[0] == "value":
            freq = group.values[f"freq {asked.pixel}"]
            np.testing.assert_array_equal(asked.freq[0], freq)
        code = np.array([step.code])
    with pytest.raises(StopIteration) as stop:
        network.send(code)
    np.testing.assert_array_equal(stop.value.value, group.pixels)


def test_top_and_left_of_the_trace_are_those_that_the_decoder_used() -> None:
    """They are computed for the trace alone: all that is added at a flag must follow from them."""
    (group,) = traced(stream_of("lossless")).groups
    for p in (step.asked[1] for step in group.steps if step.asked[0] == "flag"):
        top, left = group.values[f"T L {p}"]
        added = flag_sums(group, p)
        for name, at in (("position", p), ("top", top), ("left", left)):
            added = added + group.model[f"flag.{name}.table"][at]
        np.testing.assert_array_equal(added, group.values[f"added flag.window {p}"])


def flag_sums(group: Trace, p: int) -> np.ndarray:
    """S.flag at pixel p, from the pixels before it (8.2)."""
    shade, ink, count = (
        group.model[f"flag.sums.{name}.table"] for name in ("shade", "ink", "count")
    )
    flat = group.pixels.ravel()[:p].astype(np.int64)
    (inked,) = np.nonzero(flat)
    v = flat[inked][:, None]
    return (((v * shade[inked] + 64) >> 7) + ink[inked] + count[flat[inked]]).sum(axis=0)
