"""`codec.latents`: what a lossy stream carries, as features."""

from __future__ import annotations

from pathlib import Path

import helpers
import numpy as np
import pytest

import codec
from codec.commands.events import Result
from codec.commands.merge import merge
from codec.errors import BitstreamError, ChecksumMismatch, UsageError
from codec.model import ladder
from codec.model.bundle import Bundle
from codec.model.ladder import Ladder
from codec.model.ladder_parts import DEQUANTIZED_MAX, STEP_UNIT, Dequantizer

QUALITY = 40
SHAPES = ((helpers.K,), *((k, 7, 7) for k in helpers.LEVELS))
NUM_LATENTS = helpers.K + 49 * sum(helpers.LEVELS)


def latents_of(pixels: np.ndarray, quality: int = QUALITY) -> np.ndarray:
    """What `pixels`, uint8 (N, 28, 28), have as latents: the encoder's symbols, through the
    decoder's network.
    """
    tiny, n = helpers.tiny_model(), len(pixels)
    all_symbols, _, _ = tiny.quantize(pixels, quality)
    network = tiny.synthesis(quality, n)
    levels, tensors = [], helpers.tiny_tensors()
    mean, _, _ = next(network)
    for i, symbols in enumerate(all_symbols):
        y = symbols.reshape(mean.shape) * STEP_UNIT + mean
        dequantize = Dequantizer(
            Bundle(dict(tensors)), "dequantizer" if i == 0 else f"levels.{i - 1}.dequantizer"
        )
        levels.append(dequantize(y, quality).reshape(-1, n).T)
        try:
            mean, _, _ = network.send(y)
        except StopIteration:
            break
    return np.concatenate(levels, axis=1)


def collect(count: int, quality: int = QUALITY) -> bytes:
    return codec.compress(helpers.drawn(count), quality=quality, effort=1, model="tiny0")


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("quality", [0, 99])
@pytest.mark.parametrize("count", [1, 16, 50])
def test_latents_of_a_collection_are_those_that_the_encoder_chose(quality: int, count: int) -> None:
    found = codec.latents(collect(count, quality))
    assert (found.dtype, found.shape) == (np.int16, (count, NUM_LATENTS))
    assert 0 < np.abs(found.astype(int)).max() <= DEQUANTIZED_MAX
    np.testing.assert_array_equal(found, latents_of(helpers.drawn(count), quality))


@pytest.mark.usefixtures("shipped")
def test_latents_of_one_image_are_a_row_of_its_own() -> None:
    images = helpers.drawn(8)
    found = [codec.latents(codec.compress(image, quality=QUALITY, effort=1)) for image in images]
    np.testing.assert_array_equal(np.stack(found), latents_of(images))


@pytest.mark.usefixtures("shipped")
def test_latents_do_not_depend_on_parts_chunks_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = collect(70)
    whole = codec.latents(stream)
    monkeypatch.setattr(ladder, "BATCH_IMAGES", 32)
    monkeypatch.setattr(ladder, "CORE_IMAGES", 5)
    np.testing.assert_array_equal(codec.latents(stream), whole)
    blocks = helpers.collect(70, quality=QUALITY, block_images=20)
    assert len(codec.open(blocks).blocks) == 4
    np.testing.assert_array_equal(codec.latents(blocks), whole)


@pytest.mark.usefixtures("shipped")
def test_levels_are_the_latents_in_the_shapes_of_the_model() -> None:
    many, one = collect(20), codec.compress(helpers.drawn(20)[0], quality=QUALITY, effort=1)
    for stream, leading in ((many, (20,)), (one, ())):
        levels = codec.latents(stream, levels=True)
        assert [level.shape for level in levels] == [(*leading, *shape) for shape in SHAPES]
        joined = np.concatenate([level.reshape(*leading, -1) for level in levels], axis=-1)
        np.testing.assert_array_equal(joined, codec.latents(stream))


@pytest.mark.usefixtures("shipped")
def test_a_collection_gives_pixels_and_latents_of_some_images() -> None:
    stream = collect(50)
    whole = codec.latents(stream)
    with codec.open(stream) as collection:
        assert collection.latent_shapes == SHAPES
        for index in ([3, 49, 3, -1], slice(14, 18), [], 17, -2):
            pixels, found = collection.with_latents(index)
            np.testing.assert_array_equal(found, whole[index])
            np.testing.assert_array_equal(pixels, collection[index])
        with pytest.raises(IndexError):
            collection.with_latents(50)


@pytest.mark.usefixtures("shipped")
def test_a_collection_without_images_has_no_latents() -> None:
    empty = codec.compress(helpers.drawn(1)[:0])
    assert codec.latents(empty).shape == (0, 0)
    assert codec.latents(empty, levels=True) == []


@pytest.mark.usefixtures("shipped_lossless")
def test_lossless_and_stored_images_have_no_latents() -> None:
    noise = helpers.drawn(3)[2]
    stored = codec.compress(noise, lossless=True)
    assert codec.info(stored).quality == 101
    lossless = (
        codec.compress(helpers.drawn(3), lossless=True),
        codec.compress(helpers.drawn(3)[0], lossless=True),
    )
    for stream in (stored, *lossless):
        with pytest.raises(UsageError, match="only lossy streams have latents"):
            codec.latents(stream)


@pytest.mark.usefixtures("two_shipped")
def test_a_collection_of_two_models_has_no_latents_in_common(tmp_path: Path) -> None:
    paths = []
    for name in ("tiny0", "tiny1"):
        path = tmp_path / f"{name}.aez"
        path.write_bytes(codec.compress(helpers.drawn(5), quality=QUALITY, effort=1, model=name))
        paths.append(path)
        codec.latents(path.read_bytes())  # alone it has
    Result.of(merge([str(path) for path in paths], str(tmp_path / "both.aez")))
    with pytest.raises(UsageError, match="models tiny0 and tiny1"):
        codec.latents((tmp_path / "both.aez").read_bytes())


def test_a_model_that_is_given_serves_what_names_it(
    foreign: Ladder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stream, image = collect(5), codec.compress(helpers.drawn(5)[0], model="tiny0", effort=1)
    monkeypatch.delenv("AEZ_WEIGHTS")
    path = helpers.install(tmp_path)
    with pytest.raises(codec.ModelNotFound):
        codec.latents(stream)
    assert codec.latents(stream, model=str(path)).shape == (5, NUM_LATENTS)
    assert codec.latents(image, model=str(path)).shape == (NUM_LATENTS,)


@pytest.mark.usefixtures("shipped")
def test_damage_is_an_error() -> None:
    image = codec.compress(helpers.drawn(1)[0], quality=QUALITY, effort=1)
    for damaged in helpers.flips(image):
        with pytest.raises((BitstreamError, codec.ModelNotFound)):
            codec.latents(damaged)
    with pytest.raises(ChecksumMismatch):
        codec.latents(image + b"more")
    for cut in helpers.cuts(collect(3)):
        with pytest.raises(BitstreamError):
            codec.latents(cut)
