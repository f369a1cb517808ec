"""Effort: symbols of a lower cost for the same decoder, the same on every machine."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import helpers
import numpy as np
import pytest

from codec.model.ladder import Ladder
from codec.model.ladder_parts import log2_lmbda
from codec.model.ladder_search import EFFORTS, BitTable, Search, Trial


@pytest.fixture
def model() -> Ladder:
    return helpers.tiny_model()


def costs(model: Ladder, pixels: np.ndarray, quality: int, effort: int) -> np.ndarray:
    """lambda * SSE + bits of each image."""
    results = []
    for image in pixels:
        encoded = model.encode(image[None], quality, group=1, effort=effort)
        sse = np.square((image.astype(float) - encoded.pixels[0]) / 255).sum()
        results.append(2.0 ** log2_lmbda(quality) * sse + encoded.ideal_bits)
    return np.array(results)


def search_of(model: Ladder, pixels: np.ndarray, quality: int) -> tuple[Search, np.ndarray]:
    symbols, _, _ = model.quantize(pixels, quality)
    search = Search(
        model,
        [BitTable(table) for table in model.tables],
        pixels,
        quality,
        2.0 ** log2_lmbda(quality),
    )
    return search, np.concatenate(symbols)


@pytest.mark.parametrize("quality", [20, 90])
def test_more_effort_never_costs_an_image_more_and_saves_in_all(
    model: Ladder, quality: int
) -> None:
    """Flips go on where those of a lower effort ended, so none costs more; rounds follow them, and
    begin where they ended.
    """
    pixels = helpers.drawn(16)
    found = {effort: costs(model, pixels, quality, effort) for effort in range(1, 8)}
    tolerance = 0.2  # the search counts bits in 256ths
    flips_alone = [effort for effort in found if not EFFORTS[effort - 1].rounds]
    last = flips_alone[-1]
    assert flips_alone == [1, 2, 3, 4, 5]
    for less, more in [
        *pairwise(flips_alone),
        *((last, effort) for effort in found if effort > last),
    ]:
        assert (found[more] <= found[less] + tolerance).all()
        assert found[more].sum() < found[less].sum() - 10
    assert found[last].sum() < found[1].sum() * 0.994
    assert found[7].sum() < found[last].sum() * 0.98


@pytest.mark.parametrize("quality", [0, 50, 99])
def test_what_was_refined_decodes_to_the_pixels_that_were_judged(
    model: Ladder, quality: int
) -> None:
    encoded = model.encode(helpers.drawn(20), quality, effort=4)
    pixels, bad = model.decode(encoded.messages, 20, quality)
    assert not bad.any()
    np.testing.assert_array_equal(pixels, encoded.pixels)


def test_refinement_of_an_image_does_not_depend_on_the_others(model: Ladder) -> None:
    pixels = helpers.drawn(53)
    whole = model.encode(pixels, 60, group=1, effort=4)
    for part in (slice(0, 1), slice(5, 8), slice(40, 53), slice(None, None, -1)):
        assert model.encode(pixels[part], 60, group=1, effort=4).messages == whole.messages[part]


def test_refinement_gives_the_same_bytes_with_every_kernel() -> None:
    """Of BLAS and of numpy: other orders of summation, with and without fused multiply-add."""
    code = """
import hashlib, helpers
encoded = helpers.tiny_model().encode(helpers.drawn(20), 60, effort=5)
print(hashlib.sha256(b"".join(encoded.messages)).hexdigest())
"""
    plain = {
        "OPENBLAS_CORETYPE": "Prescott",
        "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 X86_V3 AVX512F AVX512_SKX X86_V4",
    }
    digests = set()
    for settings in ({}, plain):
        environment = {**os.environ, **settings, "PYTHONPATH": str(Path(__file__).parent)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(done.stdout)
    assert len(digests) == 1


def test_a_model_without_7x7_levels_is_refined_too() -> None:
    tensors = {
        name: tensor
        for name, tensor in helpers.tiny_tensors().items()
        if not name.startswith(("levels.", "synthesis.1", "synthesis.2"))
    }
    tensors["cdf"] = tensors["cdf"][:1]
    model = helpers.model_of(tensors)
    encoded = model.encode(helpers.drawn(20), 20, effort=3)
    np.testing.assert_array_equal(model.decode(encoded.messages, 20, 20)[0], encoded.pixels)


def test_the_cost_of_a_trial_is_that_of_its_symbols(model: Ladder) -> None:
    pixels = helpers.drawn(9)
    search, symbols = search_of(model, pixels, 40)
    trial = Trial(search, symbols)
    np.testing.assert_array_equal(trial.symbols, symbols)
    np.testing.assert_allclose(trial.cost, costs(model, pixels, 40, 1), atol=0.2)


def test_symbols_that_their_row_cannot_code_are_brought_into_reach(model: Ladder) -> None:
    search, symbols = search_of(model, helpers.drawn(5), 40)
    trial = Trial(search, symbols * 0 + 1000)
    assert (trial.cost < 1e6).all()
    assert (trial.symbols[trial.rows == 0] == 0).all()


def test_the_slope_is_that_of_the_pixels(model: Ladder) -> None:
    """A backward pass against differences: latents of the last level moved by an
    eighth of a step.
    """
    quality, n = 60, 12
    pixels = helpers.drawn(n)
    symbols, _, _ = model.quantize(pixels, quality)
    rng = np.random.default_rng(0)
    direction = rng.standard_normal((n, 28, 28)).astype(np.float32)
    moves = rng.integers(-1, 2, (symbols[-1].size // n, n)) * 32

    def decoded(sign: int, trace: list[np.ndarray] | None = None) -> np.ndarray:
        steps = model.synthesis(quality, n, trace)
        mean, _, _ = next(steps)
        for i, s in enumerate(symbols):
            moved = sign * moves if i == len(symbols) - 1 else 0
            try:
                mean, _, _ = steps.send(
                    ((s * 256 + moved).reshape(mean.shape) + mean).astype(np.int32)
                )
            except StopIteration as stop:
                pixels = stop.value
        return np.asarray(pixels, float)

    trace: list[np.ndarray] = []
    decoded(0, trace)
    flat = [np.zeros((s.size // n // 49, 49, n), np.float32) for s in symbols[1:]]
    slopes = model.backward(direction, flat, quality, trace)
    assert trace == []
    predicted = (slopes[-1].reshape(moves.shape) * moves).sum(axis=0)
    measured = ((decoded(1) - decoded(-1)) / 2 * direction).sum(axis=(1, 2))
    # pixels are whole numbers and clipped, hence not 1
    assert np.corrcoef(predicted, measured)[0, 1] > 0.8


def test_the_gradient_of_a_layer_is_its_matrix_turned_around(model: Ladder) -> None:
    """<g, W x> = <W^T g, x> for each kind, up to the rounding of g to some ten bits."""
    rng = np.random.default_rng(1)
    block = model._synthesis[0][0]
    for layer, shape in (
        (block.reduce, (49, 5)),
        (block.spatial, (49, 5)),
        (model._start[1], (5,)),
    ):
        x = rng.integers(-40, 40, (layer.inputs, *shape)).astype(np.float32)
        g = rng.standard_normal((layer.outputs, *shape)).astype(np.float32)
        forward = layer(x, 30, -(1 << 23), 1 << 23) - layer(0 * x, 30, -(1 << 23), 1 << 23)
        axes = tuple(range(x.ndim - 1))
        one, other = (g * forward).sum(axis=axes), (layer.transposed(g, 30) * x).sum(axis=axes)
        np.testing.assert_allclose(
            one, other, atol=0.02 * np.abs(one).max() + 3 * np.sqrt(g[..., 0].size)
        )


def test_gradients_are_whole_multiples_that_add_up_exactly(model: Ladder) -> None:
    """The order of the outputs does not matter, as it would for sums that round."""
    layer = model._synthesis[0][0].restore
    g = np.random.default_rng(2).standard_normal((layer.outputs, 49, 7)).astype(np.float32)
    weight, bits = layer._transposed, layer.gradient_bits
    assert np.abs(weight).sum(axis=1).max() * 2**bits < 2**24
    shuffled = np.random.default_rng(3).permutation(layer.outputs)
    scaled = g * layer.rows(30)[1][..., None]
    scale = np.ldexp(1.0, bits - np.frexp(np.abs(scaled).max(axis=(0, 1)))[1])
    rounded = np.rint(scaled.astype(np.float64) * scale).astype(np.int64)
    exact = np.tensordot(weight.astype(np.int64)[:, shuffled], rounded[shuffled], axes=1) / scale
    np.testing.assert_array_equal(layer.transposed(g, 30), exact.astype(np.float32))


def test_every_effort_has_its_rounds() -> None:
    assert len(EFFORTS) == 9
    assert EFFORTS[0] == (0, 0)
    for less, more in pairwise(EFFORTS):
        assert less.flips <= more.flips
        assert less.rounds <= more.rounds
        assert less != more
