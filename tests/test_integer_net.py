"""Exact layers: against plain int64 arithmetic, at the ends of their ranges, and at the bound."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import helpers
import numpy as np
import pytest

from codec.errors import BadModel
from codec.model.layers import (
    ACTIVATION_MAX,
    EXACT_LIMIT,
    MULTIPLIER_BITS,
    POSITIONS,
    ROWS,
    Layer,
    add,
    clipped,
    interpolate,
    limit,
    rectified,
)

SHAPES = {"dense": (3, 128), "point": (3, 128), "conv": (3, 14, 3, 3)}
ONE = 1 << MULTIPLIER_BITS


def layer_of(parts: dict[str, Any], kind: str) -> Layer:
    return Layer("probe", kind, parts["weight"], parts["bias"], parts["shift"], parts["multiplier"])


def random_parts(
    rng: np.random.Generator, kind: str, *, film: bool, by_position: bool
) -> dict[str, np.ndarray]:
    """A layer whose sums reach to within 1 % of the bound."""
    shape = SHAPES[kind]
    rows = ROWS if film else 1
    weight = rng.integers(-127, 128, shape)
    weight[0] = 127
    weight[1] = -127
    room = EXACT_LIMIT - 1 - np.abs(weight).reshape(3, -1).sum(axis=1).max() * ACTIVATION_MAX
    bias = rng.integers(-room // 2, room // 2, (3, POSITIONS) if by_position else 3)
    return {
        "weight": weight.astype(np.int8),
        "bias": bias.astype(np.int32),
        "shift": rng.integers(-room // 2, room // 2, (rows, 3)).astype(np.int32),
        "multiplier": rng.integers(1, 1 << 15, (rows, 3)).astype(np.int32),
    }


def one(bias: int = 0, shift: int = 0, multiplier: int = ONE, weight: int = 1) -> Layer:
    """One input, one output, at one place."""
    return Layer(
        "one",
        "dense",
        np.array([[weight]]),
        np.array([bias]),
        np.array([[shift]]),
        np.array([[multiplier]]),
    )


@pytest.mark.parametrize(
    ("kind", "by_position"),
    [("dense", False), *((k, p) for k in ("point", "conv") for p in (False, True))],
)
@pytest.mark.parametrize("film", [False, True])
def test_a_layer_equals_int64_arithmetic_up_to_extreme_inputs(
    kind: str, film: bool, by_position: bool
) -> None:
    rng = np.random.default_rng([film, by_position])
    parts = random_parts(rng, kind, film=film, by_position=by_position)
    layer = layer_of(parts, kind)
    inputs = SHAPES[kind][1]
    x = rng.integers(
        -ACTIVATION_MAX, ACTIVATION_MAX + 1, (inputs, 49, 4) if kind != "dense" else (inputs, 4)
    )
    x[..., 0], x[..., 1] = ACTIVATION_MAX, -ACTIVATION_MAX
    signs = np.sign(parts["weight"][2].reshape(inputs, -1)[:, 0]).astype(int)
    # the largest sum of output 2
    x[..., 2] = ACTIVATION_MAX * signs.reshape(-1, *[1] * (x.ndim - 2))
    for quality in (0, 1, 50, 98, 99):
        for low, high in ((-(2**23), 2**23), (-50, 70), (0, 255)):
            y = layer(x.astype(np.float32), quality, low, high)
            assert y.dtype == np.float32
            np.testing.assert_array_equal(
                y, helpers.reference_layer(parts, kind, x, quality, low, high)
            )


@pytest.mark.parametrize("kind", SHAPES)
def test_the_images_beside_it_do_not_change_an_image(kind: str) -> None:
    rng = np.random.default_rng(4)
    layer = layer_of(random_parts(rng, kind, film=True, by_position=False), kind)
    shape = (SHAPES[kind][1], 33) if kind == "dense" else (SHAPES[kind][1], 49, 33)
    x = rng.integers(-ACTIVATION_MAX, ACTIVATION_MAX + 1, shape).astype(np.float32)
    whole = clipped(layer, x, 40)
    for part in (slice(0, 1), slice(5, 12), slice(31, 33)):
        np.testing.assert_array_equal(
            clipped(layer, np.ascontiguousarray(x[..., part]), 40), whole[..., part]
        )


@pytest.mark.parametrize(
    ("x", "y"), [(1, 0), (3, 2), (5, 2), (7, 4), (-1, 0), (-3, -2), (-5, -2), (2, 1), (-4, -2)]
)
def test_halves_round_to_even(x: int, y: int) -> None:
    """Multiplier 2**23 / 2**24 = 1/2: 1/2 -> 0, 3/2 -> 2, 5/2 -> 2, 7/2 -> 4,
    and the same below 0.
    """
    assert one(multiplier=ONE // 2)(np.array([[x]], np.float32), 0, -100, 100).tolist() == [[y]]


def test_the_product_is_rounded_to_24_bits_before_it_is_rounded_to_an_integer() -> None:
    """A product of 47 bits, say, is first rounded to a multiple of 2**23: that is IEEE 754 at work,
    and now and then the result differs from rounding once. Exact fractions tell which of the two
    the layer does."""
    rng = np.random.default_rng(7)
    sums = rng.integers(1 << 22, 1 << 24, 3000)
    multipliers = rng.integers(1, ONE + 1, 3000)
    expected, differs = [], 0
    for s, m in zip(sums.tolist(), multipliers.tolist(), strict=True):
        product = s * m
        unit = 1 << max(0, product.bit_length() - 24)
        # `round` ties to even
        expected.append(round(Fraction(round(Fraction(product, unit)) * unit, ONE)))
        differs += expected[-1] != round(Fraction(product, ONE))
    assert differs  # rounding once gives other results: the two steps matter
    np.testing.assert_array_equal(helpers.requantize(sums, multipliers, MULTIPLIER_BITS), expected)
    for s, m, y in zip(sums[:500].tolist(), multipliers[:500].tolist(), expected, strict=False):
        layer = one(bias=s - 1023, multiplier=m)
        assert layer(np.array([[1023]], np.float32), 0, -EXACT_LIMIT, EXACT_LIMIT).tolist() == [[y]]


def test_a_sum_just_within_the_bound_is_taken_and_exact() -> None:
    most = EXACT_LIMIT - 1 - 2 * ACTIVATION_MAX
    for sign in (1, -1):
        layer = one(weight=2 * sign, bias=sign * (most - 7), shift=sign * 7)
        y = layer(np.array([[ACTIVATION_MAX]], np.float32), 0, -EXACT_LIMIT, EXACT_LIMIT)
        assert y.tolist() == [[sign * (EXACT_LIMIT - 1)]]


@pytest.mark.parametrize(
    ("weight", "bias", "shift"),
    [(2, 8, 0), (2, 1, 7), (2, -1, 7), (-2, 1, -7), (-2, -8, 0), (2, 0, -8)],
)
def test_a_sum_one_beyond_the_bound_is_refused(weight: int, bias: int, shift: int) -> None:
    most = EXACT_LIMIT - 1 - 2 * ACTIVATION_MAX - 7
    bias = bias + most if bias >= 0 else bias - most
    with pytest.raises(BadModel, match=f"one: a sum could reach {EXACT_LIMIT}"):
        one(weight=weight, bias=bias, shift=shift)


def test_the_bound_is_that_of_the_worst_output_position_and_quality() -> None:
    weight, bias = np.ones((2, 1), int), np.zeros((2, POSITIONS), int)
    shift, multiplier = np.zeros((ROWS, 2), int), np.ones((ROWS, 2), int)
    Layer("fits", "point", weight, bias, shift, multiplier)
    bias[1, 48] = -(EXACT_LIMIT - ACTIVATION_MAX) // 2
    shift[33, 1] = (EXACT_LIMIT - ACTIVATION_MAX) // 2
    with pytest.raises(BadModel, match="broken: a sum could reach"):
        Layer("broken", "point", weight, bias, shift, multiplier)


@pytest.mark.parametrize("part", ["bias", "shift"])
@pytest.mark.parametrize("value", [-(2**31), 2**31 - 1])
def test_the_proof_of_the_bound_does_not_wrap_around(part: str, value: int) -> None:
    """abs(-2**31) in int32 is -2**31 again, and its sum with another wraps; the proof takes more
    bits.
    """
    parts = {"bias": np.zeros(1, np.int32), "shift": np.zeros((1, 1), np.int32)}
    parts[part][...] = value
    with pytest.raises(BadModel, match="wide: a sum could reach"):
        Layer(
            "wide", "dense", np.ones((1, 4), np.int8), **parts, multiplier=np.ones((1, 1), np.int32)
        )
    with pytest.raises(BadModel, match=f"deep: a sum could reach {200 * 128 * ACTIVATION_MAX}"):
        Layer(
            "deep",
            "dense",
            np.full((1, 200), -128, np.int8),
            np.zeros(1, np.int32),
            np.zeros((1, 1), np.int32),
            np.ones((1, 1), np.int32),
        )


@pytest.mark.parametrize("multiplier", [0, -1, ONE + 1])
def test_a_multiplier_out_of_range_is_refused(multiplier: int) -> None:
    with pytest.raises(BadModel, match="one: a multiplier is outside"):
        one(multiplier=multiplier)


@pytest.mark.parametrize(
    ("kind", "weight", "bias", "shift", "multiplier"),
    [
        ("dense", (2,), (2,), (1, 2), (1, 2)),
        ("dense", (), (), (1, 1), (1, 1)),
        ("dense", (2, 3, 1), (2,), (1, 2), (1, 2)),
        ("conv", (2, 3), (2,), (1, 2), (1, 2)),
        ("conv", (2, 3, 3, 2), (2,), (1, 2), (1, 2)),
        ("point", (2, 3, 3, 3), (2,), (1, 2), (1, 2)),
        ("point", (0, 3), (0,), (1, 0), (1, 0)),
        ("point", (3, 0), (3,), (1, 3), (1, 3)),
        ("point", (2, 3), (3,), (1, 2), (1, 2)),
        ("point", (2, 3), (2, 48), (1, 2), (1, 2)),
        ("point", (2, 3), (2,), (2, 2), (2, 2)),
        ("point", (2, 3), (2,), (1, 2), (ROWS, 2)),
        ("point", (2, 3), (2,), (ROWS, 3), (ROWS, 3)),
        ("point", (2, 3), (2,), (2,), (2,)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    kind: str, weight: Any, bias: Any, shift: Any, multiplier: Any
) -> None:
    with pytest.raises(BadModel, match=f"odd: no {kind} layer has weight"):
        Layer("odd", kind, *(np.ones(shape, int) for shape in (weight, bias, shift, multiplier)))


def test_dense_layers_have_no_bias_by_position() -> None:
    """There is no position to add it at: (O, 49) would broadcast over the images."""
    with pytest.raises(BadModel):
        Layer(
            "odd",
            "dense",
            np.ones((2, 3), int),
            np.ones((2, POSITIONS), int),
            np.ones((1, 2), int),
            np.ones((1, 2), int),
        )


def test_interpolate_takes_thirds_with_halves_up() -> None:
    """Rows 0: 0, -10; 1: 10, 1; 2: -1, -1. Quality 1: (2 * 0 + 10) / 3 = 3.33 -> 3, (2 * -10 + 1) /
    3 = -6.33 -> -6; quality 2: 6.67 -> 7, (-10 + 2) / 3 = -2.67 -> -3; quality 4: (20 - 1) / 3 =
    6.33 -> 6, (2 - 1) / 3 -> 0; quality 5: (10 - 2) / 3 = 2.67 -> 3, (1 - 2) / 3 = -0.33 -> 0."""
    table = np.zeros((ROWS, 2), np.int32)
    table[:3] = [[0, -10], [10, 1], [-1, -1]]
    got = [interpolate(table, quality).tolist() for quality in range(7)]
    assert got == [[0, -10], [3, -6], [7, -3], [10, 1], [6, 0], [3, 0], [-1, -1]]
    np.testing.assert_array_equal(interpolate(np.arange(ROWS)[:, None], 99), [33])


def test_interpolate_agrees_with_exact_fractions() -> None:
    rng = np.random.default_rng(0)
    table = rng.integers(-(2**31), 2**31, (ROWS, 20))
    for quality in range(100):
        row, rest = divmod(quality, 3)
        above = table[min(row + 1, ROWS - 1)]
        exact = [
            Fraction(int(a) * (3 - rest) + int(b) * rest, 3)
            for a, b in zip(table[row], above, strict=True)
        ]
        assert interpolate(table, quality).tolist() == [(2 * f + 1) // 2 for f in exact]


def test_a_table_of_one_row_is_the_same_at_all_qualities() -> None:
    table = np.array([[5, -7]], np.int8)
    assert [interpolate(table, quality).tolist() for quality in (0, 1, 99)] == [[5, -7]] * 3


def test_rectified_clipped_and_add_keep_to_their_ranges() -> None:
    layer = Layer(
        "both",
        "dense",
        np.array([[5], [-5]]),
        np.zeros(2, int),
        np.zeros((1, 2), int),
        np.full((1, 2), ONE),
    )
    x = np.array([[ACTIVATION_MAX]], np.float32)
    assert rectified(layer, x, 0).tolist() == [[ACTIVATION_MAX], [0]]
    assert clipped(layer, x, 0).tolist() == [[ACTIVATION_MAX], [-ACTIVATION_MAX]]
    assert x.tolist() == [[ACTIVATION_MAX]]  # inputs stay as they were
    t = np.array([1000, -1000, 3], np.float32)
    assert add(t, np.array([100, -100, -5], np.float32)) is t
    assert t.tolist() == [ACTIVATION_MAX, -ACTIVATION_MAX, -2]
    assert limit(np.array([-9, 4, 300], np.float32), 0, 255).tolist() == [0, 4, 255]
