"""The native kernels against numpy, on every engine that this processor has: the same numbers,
bytes and verdicts.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import threading
from collections.abc import Iterator
from functools import cache
from typing import Any

import golden_tool
import helpers
import numpy as np
import pytest
from helpers import Sizes

from codec import api, kernels
from codec.coding import rans
from codec.coding.lanes import Compact, GroupDecoder, to_lanes
from codec.coding.native import NativeGroupDecoder, address, encode_groups
from codec.kernels import build
from codec.model.ladder import Ladder
from codec.model.ladder_native import NativeLadder, _Level, _residuals
from codec.model.ladder_parts import DEQUANTIZED_MAX, Residual
from codec.model.layers import ACTIVATION_MAX, EXACT_LIMIT, MULTIPLIER_BITS, POSITIONS, ROWS, Layer
from codec.model.native_layers import Packer, padded

ONE = 1 << MULTIPLIER_BITS
TELLING = 40
GOLDEN = json.loads(golden_tool.LIST.read_text())
# Widths on both sides of multiples of 4, 8 and 16; several widths in one stage; one channel; no 7x7
# level, and three.
MODELS = {
    "one of each": Sizes(1, 1, (1,), 1, 1, 1, 1, (1,)),
    "tiny": Sizes(),
    "several widths": Sizes(17, 5, (3, 20, 9), 15, 3, 33, 7, (2, 18)),
    "wide": Sizes(47, 70, (31, 16), 49, 2, 65, 40, (16, 1, 33)),
    "full rows": Sizes(32, 16, (16, 16), 48, 1, 16, 16, (16,)),
    "other widths behind the 3x3": Sizes(9, 20, (3, 40, 18), 6, 1, 9, 3, (2, 5), (35, 2, 17)),
    "dense alone": Sizes(12, 4, (5,), 3, 2, 11, 6, ()),
}


@pytest.fixture(params=helpers.NATIVE_PARAMS)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    with kernels.use(request.param):
        yield request.param


def native() -> kernels.Kernels:
    found = kernels.active()
    assert found is not None
    return found


# ---- single layers and blocks


def random_layer(
    rng: np.random.Generator,
    kind: str,
    outputs: int,
    inputs: int,
    *,
    film: bool = False,
    by_position: bool = False,
    result: float = 500.0,
) -> Layer:
    """A layer whose sums reach to the bound itself, its results about `result` in size at most."""
    taps = 9 if kind == "conv" else 1
    most = min(127, (EXACT_LIMIT // 2) // (inputs * taps * ACTIVATION_MAX))
    shape = (outputs, inputs, 3, 3) if kind == "conv" else (outputs, inputs)
    weight = rng.integers(-most, most + 1, shape)
    weight[0] = most
    weight[-1] = -most
    reach = np.abs(weight).reshape(outputs, -1).sum(axis=1) * ACTIVATION_MAX
    shift = rng.integers(-1000, 1001, (ROWS if film else 1, outputs))
    room = EXACT_LIMIT - 1 - reach - np.abs(shift).max(axis=0)
    bias = np.rint(
        rng.uniform(-1, 1, (POSITIONS, outputs) if by_position else outputs) * room
    ).astype(np.int64)
    # all inputs at their end: the sum is 2**24 - 1
    bias[..., 0], bias[..., -1] = room[0], -room[-1]
    middle = ONE * result / EXACT_LIMIT
    multiplier = rng.uniform(middle / 2, middle * 2, shift.shape).clip(1, ONE).astype(np.int64)
    return Layer("probe", kind, weight, bias.T, shift, multiplier)


def identity(channels: int) -> Layer:
    nothing = np.zeros((1, channels), int)
    return Layer(
        "identity", "point", np.eye(channels, dtype=int), nothing[0], nothing, nothing + ONE
    )


def natively(layer: Layer, x: np.ndarray, quality: int, low: int, high: int) -> np.ndarray:
    """`layer` of kind "point" on x (K, 49, N), |x| <= ACTIVATION_MAX, by a kernel: behind a layer
    that changes nothing.
    """
    channels, _, n = x.shape
    packer = Packer(native())
    first = packer.layer(identity(channels), quality, -ACTIVATION_MAX, ACTIVATION_MAX)
    second = packer.layer(layer, quality, low, high)
    level = _Level(posterior0=first, posterior1=second, channels=layer.outputs)
    rows = as_rows(x)
    y = np.empty((layer.outputs, POSITIONS, n), np.int32)
    native().posterior(
        ctypes.addressof(level), n, address(rows), channels, address(rows), 0, address(y)
    )
    return y


def as_rows(x: np.ndarray) -> np.ndarray:
    """(C, 49, N) -> int16 (N, 49, C padded)."""
    rows = np.zeros((x.shape[2], POSITIONS, padded(len(x))), np.int16)
    rows[..., : len(x)] = x.transpose(2, 1, 0)
    return rows


def extremes(rng: np.random.Generator, channels: int, n: int) -> np.ndarray:
    """(C, 49, N) of any numbers that inputs may have; the first two images are at their ends."""
    x = rng.integers(-ACTIVATION_MAX, ACTIVATION_MAX + 1, (channels, POSITIONS, n))
    x[..., 0] = ACTIVATION_MAX
    x[..., -1] = -ACTIVATION_MAX
    return x.astype(np.float32)


@pytest.mark.parametrize("by_position", [False, True])
@pytest.mark.parametrize("film", [False, True])
def test_layers_of_any_shape_are_those_of_numpy_up_to_the_bound(
    engine: str, film: bool, by_position: bool
) -> None:
    rng = np.random.default_rng([film, by_position])
    largest = 0
    for _ in range(12):
        outputs, inputs = rng.integers(1, 71, 2).tolist()
        layer = random_layer(
            rng, "point", outputs, inputs, film=film, by_position=by_position, result=2.0**23
        )
        x = extremes(rng, inputs, 3)
        for quality, low, high in ((0, -EXACT_LIMIT, EXACT_LIMIT), (50, -1023, 1023), (98, 0, 63)):
            expected = layer(x, quality, low, high)
            np.testing.assert_array_equal(natively(layer, x, quality, low, high), expected)
            largest = max(largest, int(np.abs(expected).max()))
    assert largest > 1 << 22


def test_sums_at_the_bound_and_sums_of_each_size_are_exact(engine: str) -> None:
    sums = np.concatenate(
        [np.arange(EXACT_LIMIT - 1025, EXACT_LIMIT - 1023), 2 ** np.arange(23), [0]]
    )
    sums = np.concatenate([sums, -sums])
    nothing = np.zeros((1, len(sums)), int)
    layer = Layer("sums", "point", np.sign(sums)[:, None] | 1, sums, nothing, nothing + ONE)
    x = np.full((1, POSITIONS, 2), ACTIVATION_MAX, np.float32)
    found = natively(layer, x, 0, -EXACT_LIMIT, EXACT_LIMIT)
    np.testing.assert_array_equal(found[:, 0, 0], sums + (np.sign(sums) | 1) * ACTIVATION_MAX)
    assert np.abs(found).max() == EXACT_LIMIT - 1


def test_halves_round_to_even(engine: str) -> None:
    halves = np.arange(-300, 301)
    nothing = np.zeros((1, len(halves)), int)
    layer = Layer(
        "halves", "point", np.ones((len(halves), 1), int), halves, nothing, nothing + ONE // 2
    )
    found = natively(layer, np.zeros((1, POSITIONS, 1), np.float32), 0, -1000, 1000)
    # `round` ties to even
    np.testing.assert_array_equal(found[:, 7, 0], [round(h / 2) for h in halves.tolist()])


@cache
def telling_sums(largest: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums and multipliers, in units of 2**-24, up to `largest`, whose result depends on the
    product being rounded to 24 bits before it is rounded to a whole number: a compiler that keeps
    more bits of it, or fuses it with a sum, gives another one."""
    rng = np.random.default_rng(0)
    sums = rng.integers(1 << 22, EXACT_LIMIT - 1, 4_000_000)
    multipliers = rng.integers(largest // 4, largest, len(sums))
    twice = np.rint(
        sums.astype(np.float32)
        * (multipliers.astype(np.float32) * np.float32(2.0**-MULTIPLIER_BITS))
    )
    product = sums * multipliers  # below 2**48, exact
    whole, rest = product >> MULTIPLIER_BITS, product & (ONE - 1)
    once = whole + ((rest > ONE // 2) | ((rest == ONE // 2) & (whole & 1 == 1)))
    telling = np.flatnonzero(twice != once)
    assert len(telling) >= TELLING
    return sums[telling][:TELLING] * (-1) ** np.arange(TELLING), multipliers[telling][:TELLING]


@pytest.mark.parametrize("largest", [1 << 10, 1 << 16, 1 << 23])
def test_products_are_rounded_before_they_are_rounded_to_integers(
    engine: str, largest: int
) -> None:
    """Law L1: see `telling_sums`, which proves that each of these numbers would notice."""
    sums, multipliers = telling_sums(largest)
    layer = Layer(
        "law",
        "point",
        np.zeros((TELLING, 3), int),
        sums,
        np.zeros((1, TELLING), int),
        multipliers[None],
    )
    x = np.zeros((3, POSITIONS, 2), np.float32)
    expected = layer(x, 0, -EXACT_LIMIT, EXACT_LIMIT)[:, :, :1]
    exact = helpers.requantize(sums, multipliers, MULTIPLIER_BITS)  # in integers
    np.testing.assert_array_equal(expected[:, 0, 0], exact)
    assert (exact != np.rint(sums * multipliers / ONE)).all()  # in float64 the product is exact
    np.testing.assert_array_equal(
        natively(layer, x, 0, -EXACT_LIMIT, EXACT_LIMIT)[:, :, :1], expected
    )


def test_a_product_is_not_fused_with_what_is_added_to_it(engine: str) -> None:
    """Law L1 where a sum follows: t + rint(product), not rint(t + product)."""
    sums, multipliers = telling_sums(1 << 10)
    nothing = np.zeros((1, TELLING), int)
    small = Layer(
        "reduce",
        "point",
        np.zeros((1, TELLING), int),
        np.zeros(1, int),
        nothing[:, :1],
        nothing[:, :1] + 1,
    )
    spatial = Layer(
        "spatial",
        "conv",
        np.zeros((1, 1, 3, 3), int),
        np.zeros(1, int),
        nothing[:, :1],
        nothing[:, :1] + 1,
    )
    restore = Layer(
        "restore", "point", np.zeros((TELLING, 1), int), sums, nothing, multipliers[None]
    )
    t = np.random.default_rng(1).integers(-300, 301, (TELLING, POSITIONS, 4)).astype(np.float32)
    product = helpers.requantize(sums, multipliers, MULTIPLIER_BITS)
    expected = np.clip(
        t + np.clip(product, -ACTIVATION_MAX, ACTIVATION_MAX)[:, None, None],
        -ACTIVATION_MAX,
        ACTIVATION_MAX,
    )
    fused = np.rint(t.astype(np.float64) + (sums * multipliers / ONE)[:, None, None])
    assert (expected != fused).mean() > 0.5
    check_blocks([Residual(small, spatial, restore)], t, expected)


def check_blocks(blocks: list[Residual], t: np.ndarray, expected: np.ndarray) -> None:
    """Assert what blocks make of t (C, 49, N) at quality 50."""
    packer, rows = Packer(native()), as_rows(t)
    packed = _residuals(blocks, packer, 50)
    native().residuals(ctypes.addressof(packed), len(blocks), t.shape[2], address(rows), None)
    np.testing.assert_array_equal(rows[..., : len(t)].transpose(2, 1, 0), expected)
    assert not rows[..., len(t) :].any()


@pytest.mark.parametrize("seed", range(6))
def test_blocks_of_any_widths_are_those_of_numpy_up_to_the_bound(engine: str, seed: int) -> None:
    """3x3 layers with a bias of each position, and other widths from block to block."""
    rng = np.random.default_rng(seed)
    channels = int(rng.integers(1, 71))
    blocks = []
    for i in range(4):
        width = int(rng.integers(1, 71))
        inner = width if i % 2 else int(rng.integers(1, 71))
        reduce = random_layer(
            rng, "point", width, channels, film=True, by_position=i == 2, result=1200
        )
        spatial = random_layer(rng, "conv", inner, width, by_position=bool(i % 2), result=1200)
        restore = random_layer(rng, "point", channels, inner, by_position=i == 1, result=700)
        for k, layer in enumerate((reduce, spatial, restore)):
            layer.name = f"{i}.{k}"
        blocks.append(Residual(reduce, spatial, restore))
    x = extremes(rng, channels, 3)
    expected = x.copy()
    for block in blocks:
        expected = block(expected, 50)
    check_blocks(blocks, x, expected)


# ---- whole models


def to_the_bound(tensors: helpers.Tensors, seed: int) -> helpers.Tensors:
    """The same layers, of numbers as large as a model may have: a sum may be 2**24 - 1, and much is
    clipped.
    """
    rng = np.random.default_rng(seed)
    for name in [name.removesuffix(".weight") for name in tensors if name.endswith(".weight")]:
        weight, bias, shift = (tensors[f"{name}.{part}"] for part in ("weight", "bias", "shift"))
        input_max = (
            DEQUANTIZED_MAX if name == "start0" or name.endswith("merge") else ACTIVATION_MAX
        )
        size = weight[0].size
        most = max(1, min(127, EXACT_LIMIT * 3 // 4 // (size * input_max)))
        weight[...] = rng.choice([-most, most], weight.shape) * (rng.random(weight.shape) < 0.9)
        room = (
            EXACT_LIMIT
            - 1
            - np.abs(weight.astype(int)).reshape(len(weight), -1).sum(axis=1) * input_max
        )
        shift[...] = rng.integers(-1, 2, shift.shape) * np.minimum(room // 2, 100)
        room -= np.abs(shift).max(axis=0)
        sign = rng.choice([-1, 0, 1], bias.shape)
        bias[...] = (
            sign * (room[:, None] if bias.ndim == 2 else room) // rng.integers(1, 30, bias.shape)
        )
        multiplier = tensors[f"{name}.multiplier"]
        multiplier[...] = np.clip(multiplier * rng.uniform(0.5, 40, multiplier.shape), 1, ONE)
    return tensors


@cache
def model_of(name: str, bound: bool) -> Ladder:
    tensors = helpers.tiny_tensors(3, MODELS[name])
    return helpers.model_of(to_the_bound(tensors, 4) if bound else tensors)


@cache
def walked(name: str, bound: bool, n: int, quality: int) -> list[np.ndarray]:
    with kernels.use("numpy"):
        return list(walk(model_of(name, bound), n, quality))


def walk(model: Ladder, n: int, quality: int) -> Iterator[np.ndarray]:
    """What each transform of a model says, features as (C, 49, N)."""
    rng = np.random.default_rng([n, quality])
    net, pixels = model.transforms(), helpers.drawn(n)
    channels = {"e": model.encoder.input.outputs, "t": model.channels}

    def features(x: np.ndarray, which: str) -> np.ndarray:
        return (
            x if net is model else x[..., : channels[which]].transpose(2, 1, 0).astype(np.float32)
        )

    e = net.analysis(pixels, quality)
    yield features(e, "e").copy()
    trace: list[np.ndarray] = []
    steps = net.synthesis(quality, n, trace)
    mean, row, t = next(steps)
    shapes = []
    for i in range(len(model.tables)):
        y = net.posterior_of(i, e, t, quality)
        yield from (y, mean, row)
        if i:
            yield features(t, "t").copy()
        shapes.append(row.shape)
        far = rng.integers(-(1 << 12), 1 << 12, y.shape) * (rng.random(y.shape) < 0.1)
        try:
            mean, row, t = steps.send((y + far).astype(np.int32))
        except StopIteration as stop:
            yield stop.value
    g_pixels = rng.standard_normal((n, 28, 28)).astype(np.float32) * 10.0 ** rng.integers(
        -6, 4, (n, 1, 1)
    ).astype(np.float32)
    g_pixels[0] = 0
    g_rows = [rng.standard_normal(shape).astype(np.float32) for shape in shapes[1:]]
    yield from net.backward(g_pixels, g_rows, quality, trace)


@pytest.mark.parametrize("n", [1, 2, 5, 16, 48, 53])
@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_transforms_and_gradients_are_those_of_numpy(
    engine: str, name: str, bound: bool, n: int
) -> None:
    quality = {1: 0, 2: 99}.get(n, 50 + n // 2)
    expected = walked(name, bound, n, quality)
    found = list(walk(model_of(name, bound), n, quality))
    assert len(found) == len(expected) >= 6
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        np.testing.assert_array_equal(one, other)
    assert isinstance(model_of(name, bound).transforms(), NativeLadder)


@cache
def coded(name: str, bound: bool, n: int, effort: int, group: int) -> tuple[Any, ...]:
    with kernels.use("numpy"):
        model, quality = model_of(name, bound), 7 * n % 100
        encoded = model.encode(helpers.drawn(n), quality, effort=effort, group=group)
        return encoded, model.quantize(helpers.drawn(n), quality), quality


CODED = [
    ("tiny", False),
    ("several widths", True),
    ("wide", False),
    ("other widths behind the 3x3", False),
    ("dense alone", False),
]


@pytest.mark.parametrize(
    ("n", "effort", "group"),
    [(1, 7, 1), (2, 5, 16), (5, 2, 5), (16, 6, 16), (48, 4, 1), (53, 3, 5), (53, 1, 16)],
)
@pytest.mark.parametrize(("name", "bound"), CODED)
def test_messages_and_what_they_decode_to_are_those_of_numpy(
    engine: str, name: str, bound: bool, n: int, effort: int, group: int
) -> None:
    expected, quantized, quality = coded(name, bound, n, effort, group)
    model = model_of(name, bound)
    encoded = model.encode(helpers.drawn(n), quality, effort=effort, group=group)
    assert encoded.messages == expected.messages
    assert encoded.ideal_bits == pytest.approx(expected.ideal_bits)
    np.testing.assert_array_equal(encoded.pixels, expected.pixels)
    for one, other in zip(model.quantize(helpers.drawn(n), quality), quantized, strict=True):
        np.testing.assert_array_equal(np.concatenate(one), np.concatenate(other))
    pixels, bad = model.decode(expected.messages, n, quality, group=group)
    assert not bad.any()
    np.testing.assert_array_equal(pixels, expected.pixels)
    latents = model.decode_latents(expected.messages, n, quality, group=group)
    with kernels.use("numpy"):
        for one, other in zip(
            latents, model.decode_latents(expected.messages, n, quality, group=group), strict=True
        ):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("group", [1, 5, 16])
def test_damaged_and_random_messages_get_the_verdict_of_numpy(engine: str, group: int) -> None:
    model, n, rng = helpers.tiny_model(), 53, np.random.default_rng(group)
    messages = model.encode(helpers.drawn(n), 60, group=group).messages
    for attempt in range(12):
        damaged = list(messages)
        for lane in range(len(damaged)):
            kind = int(rng.integers(0, 6))
            body = bytearray(damaged[lane])
            if kind == 0:
                body = bytearray()
            elif kind == 1:
                body = body[: int(rng.integers(0, len(body) + 1))]
            elif kind == 2:
                body += rng.bytes(int(rng.integers(1, 300)))
            elif kind == 3:
                body = bytearray(rng.bytes(int(rng.integers(0, 200))))
            elif kind == 4 and body:
                body[int(rng.integers(0, len(body)))] ^= 1 << int(rng.integers(0, 8))
            elif attempt % 2:
                body = bytearray([255 * (attempt % 4 // 2)] * 400)
            damaged[lane] = bytes(body)
        pixels, bad = model.decode(damaged, n, 60, group=group)
        with kernels.use("numpy"):
            expected, verdict = model.decode(damaged, n, 60, group=group)
        np.testing.assert_array_equal(bad, verdict)
        np.testing.assert_array_equal(pixels, expected)
        assert bad.any()


# ---- the coder


def coder_case(
    rng: np.random.Generator, n: int, steps: int
) -> tuple[rans.CdfTable, np.ndarray, np.ndarray]:
    """A table whose row 0 is certain; rows and codes (steps, n), half of them of row 0."""
    symbols = int(rng.integers(2, 256))
    table = helpers.random_table(rng, 9, symbols)
    cdf = table.cdf.copy()
    cdf[0, 1:] = rans.TOTAL
    table = rans.CdfTable(cdf)
    rows = rng.integers(0, 9, (steps, n)) * rng.integers(0, 2, (steps, n))
    return table, rows, helpers.random_symbols(rng, table, rows)


def lanes_by_numpy(
    table: rans.CdfTable, rows: np.ndarray, codes: np.ndarray, group: int, check: np.ndarray
) -> list[bytes]:
    rows, codes = to_lanes(rows, group, 0), to_lanes(codes, group, 0)
    where = Compact(rows != 0)
    picked = where.take(rows, 0), where.take(codes, 0)
    return rans.encode(table.start[picked], table.freq[picked], check)


@pytest.mark.parametrize("n", [1, 2, 5, 16, 33, 53])
@pytest.mark.parametrize("group", [1, 5, 16])
def test_the_coder_is_that_of_numpy(engine: str, group: int, n: int) -> None:
    """Last groups are short, messages of certain symbols empty; and what was damaged decodes to the
    same codes as well.
    """
    rng = np.random.default_rng([group, n])
    for steps in (2, 7, 90):
        table, rows, codes = coder_case(rng, n, steps)
        rows[:, : n // 3] = codes[:, : n // 3] = 0
        check = rng.integers(0, 256, -(-n // group)) * rng.integers(0, 2, -(-n // group))
        cells = np.ascontiguousarray(np.stack([table.start, table.freq], axis=2))
        messages = encode_groups(native(), cells, rows.astype(np.int16), codes, group, check)
        assert messages == lanes_by_numpy(table, rows, codes, group, check)
        random = [rng.bytes(int(rng.integers(0, 40))) for _ in messages]
        cut = [message[: len(message) // 2] for message in messages]
        for given in (messages, random, cut, [b"\xff" * 99] * len(messages), [b""] * len(messages)):
            one, other = NativeGroupDecoder(given, group, native()), GroupDecoder(given, group)
            for part in (rows[: steps // 2], rows[steps // 2 :]):
                expected = other.decode(table, part.astype(np.int32))
                np.testing.assert_array_equal(one.decode(table, part.astype(np.int32)), expected)
            for found, wanted in zip(one.finish(), other.finish(), strict=True):
                np.testing.assert_array_equal(found, wanted)
            if given is messages:
                np.testing.assert_array_equal(one.finish()[0], check)
                assert one.finish()[1].all()


def test_the_dearest_symbols_fit_the_room_for_messages(engine: str) -> None:
    """A symbol of frequency 1 costs 2 bytes."""
    cdf = np.array([[0, rans.TOTAL, rans.TOTAL], [0, rans.TOTAL - 1, rans.TOTAL]])
    table, rows, codes = rans.CdfTable(cdf), np.ones((300, 7), int), np.ones((300, 7), np.uint8)
    cells = np.ascontiguousarray(np.stack([table.start, table.freq], axis=2))
    for group in (1, 3, 7):
        check = np.full(-(-7 // group), 255)
        messages = encode_groups(native(), cells, rows.astype(np.int16), codes, group, check)
        assert messages == lanes_by_numpy(table, rows, codes, group, check)
        assert 2 * 7 * 300 <= sum(map(len, messages)) <= 2 * 7 * 300 + 4 * len(messages)


@pytest.mark.parametrize(
    "fault", ["row", "negative row", "code", "checks", "shape", "no frequency"]
)
def test_what_would_leave_the_table_is_refused(engine: str, fault: str) -> None:
    table, rows, codes = coder_case(np.random.default_rng(0), 5, 6)
    rows[2, 3], codes[2, 3] = 1, 0
    check = np.zeros(5, np.int64)
    cells = np.ascontiguousarray(np.stack([table.start, table.freq], axis=2))
    if fault == "row":
        rows[2, 3] = len(cells)
    elif fault == "negative row":
        rows[2, 3] = -1
    elif fault == "code":
        cells, codes[2, 3] = np.ascontiguousarray(cells[:, :1]), 1
    elif fault == "checks":
        check = check[:4]
    elif fault == "shape":
        codes = codes[:5]
    else:
        cells[1, 0, 1] = 0
    with pytest.raises(ValueError):  # noqa: PT011
        encode_groups(native(), cells, rows.astype(np.int16), codes, 1, check)
    if "row" in fault:
        with pytest.raises(ValueError, match="rows of 5 images"):
            NativeGroupDecoder([b""] * 5, 1, native()).decode(table, rows.astype(np.int32))


@pytest.mark.parametrize("messages", [[], [b""] * 4, [b""] * 6])
def test_messages_that_are_not_as_many_as_the_lanes_are_refused(
    engine: str, messages: list[bytes]
) -> None:
    table, rows, _ = coder_case(np.random.default_rng(0), 5, 6)
    with pytest.raises(ValueError, match="rows of 5 images"):
        NativeGroupDecoder(messages, 1, native()).decode(table, rows.astype(np.int32))


# ---- one result, whoever computes it


@pytest.mark.parametrize(
    ("any_engine", "name"),
    [
        # test_golden.py has the engine that is chosen here; to search many images takes numpy long
        pytest.param(any_engine, name, marks=[pytest.mark.slow] * (native or "parts40" in name))
        for any_engine in kernels.engines()
        for native in [any_engine != "numpy"]
        for name in GOLDEN
    ],
)
def test_goldens_decode_and_encode_to_the_listed_bytes(any_engine: str, name: str) -> None:
    with kernels.use(any_engine):
        pixels = api.decompress((golden_tool.GOLDEN / name).read_bytes())
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == GOLDEN[name]["pixels_sha256"]
        stream = golden_tool.make(GOLDEN[name])
        assert hashlib.sha256(stream).hexdigest() == GOLDEN[name]["stream_sha256"]


def test_threads_share_a_model_from_the_first_call_on(engine: str) -> None:
    """The first calls of a quality build what it needs: they all get the same,
    whoever comes first.
    """
    pixels, tensors, rounds = helpers.drawn(6), helpers.tiny_tensors(0, MODELS["several widths"]), 4
    stream, encoder = helpers.pack_pair(tensors)
    expected = {
        quality: Ladder(stream, encoder).encode(pixels, quality, effort=6).messages
        for quality in (10, 70)
    }
    for _ in range(rounds):
        model, start = Ladder(stream, encoder), threading.Barrier(6)
        found: list[tuple[int, list[bytes], np.ndarray]] = []

        def work(
            quality: int,
            model: Ladder = model,
            start: threading.Barrier = start,
            found: list[Any] = found,
        ) -> None:
            start.wait()
            messages = model.encode(pixels, quality, effort=6).messages
            found.append((quality, messages, model.decode(messages, len(pixels), quality)[1]))

        threads = [threading.Thread(target=work, args=(quality,)) for quality in (10, 70) * 3]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 6
        for quality, messages, bad in found:
            assert messages == expected[quality]
            assert not bad.any()


def test_what_is_built_for_a_quality_is_built_once(engine: str) -> None:
    ladder, calls = NativeLadder(helpers.tiny_model(), native()), []
    start = threading.Barrier(8)
    made: list[object] = []

    def make(*of: object) -> object:
        calls.append(of)
        threading.Event().wait(0.02)
        return object()

    def ask() -> None:
        start.wait()
        made.append(ladder._at(found, make, 5))

    found: dict[int, object] = {}
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len({id(each) for each in made}) == 1


def test_the_compiler_is_told_to_keep_to_law_l1() -> None:
    assert "-ffp-contract=off" in build.FLAGS
    assert "-fno-fast-math" in build.FLAGS
    flags = {
        *build.FLAGS,
        *(flag for flags in build.X86.values() for flag in flags),
        *build.SANITIZERS,
    }
    assert not flags & {
        "-ffast-math",
        "-Ofast",
        "-funsafe-math-optimizations",
        "-fassociative-math",
        "-march=native",
    }
