"""The lossless model on native kernels: messages, pixels and marks of damage are those of numpy."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import golden_tool
import helpers
import numpy as np
import pytest

from codec import kernels, parallel
from codec.coding import rans
from codec.coding.native import encode_lanes
from codec.model import pixels as pixel_model
from codec.model import pixels_parts
from codec.model.layers import ACTIVATION_MAX, MULTIPLIER_BITS
from codec.model.pixels import Pixels

pytestmark = pytest.mark.skipif(not helpers.NATIVE, reason="no library was built")


@pytest.fixture(params=helpers.NATIVE_PARAMS or ["none"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def native() -> kernels.Kernels:
    found = kernels.active()
    assert found is not None
    return found


def kinds() -> np.ndarray:
    """Drawn images, negatives, noise, blank, flat and nearly blank ones: uint8 (N, 28, 28)."""
    rng = np.random.default_rng(0)
    examples, _ = golden_tool.sources()
    noise = rng.integers(0, 256, (4, 28, 28), np.uint8)
    flat = np.stack([np.full((28, 28), value, np.uint8) for value in (0, 255, 1, 128)])
    single = np.zeros((6, 28, 28), np.uint8)
    for i, (y, x) in enumerate([(0, 0), (0, 27), (27, 0), (27, 27), (14, 14), (13, 0)]):
        single[i, y, x] = 255 if i % 2 else 1
    return np.concatenate([examples[::5], 255 - examples[::10], noise, flat, single, noise // 64])


def odd_model(
    *,
    flag: int = 5,
    sums: int = 3,
    h: int = 17,
    link: int = 1,
    near: int = 1,
    layers: int = 1,
    palettes: int = 1,
    seed: int = 0,
) -> Pixels:
    """A lossless model of any sizes, of random numbers that use the whole range of each layer."""
    rng, tensors = np.random.default_rng(seed), dict[str, np.ndarray]()

    def layer(name: str, inputs: int, outputs: int, scale: float) -> None:
        most = max(1, min(900, 12_000_000 // (ACTIVATION_MAX * inputs)))
        tensors[f"{name}.weight"] = rng.integers(-most, most + 1, (outputs, inputs)).astype(
            np.int16
        )
        tensors[f"{name}.bias"] = rng.integers(-100_000, 100_001, outputs).astype(np.int32)
        tensors[f"{name}.shift"] = rng.integers(-1000, 1001, (1, outputs)).astype(np.int32)
        middle = scale / (most * 150 * np.sqrt(inputs)) * 2**MULTIPLIER_BITS
        tensors[f"{name}.multiplier"] = (
            rng.uniform(middle / 2, middle * 2, (1, outputs)).clip(1, 2**24).astype(np.int32)
        )

    def table(name: str, *shape: int, most: int = 1500) -> None:
        tensors[f"{name}.table"] = rng.integers(-most, most + 1, shape).astype(np.int16)

    layer("flag.window", 2 * pixels_parts.WINDOW, flag, 1500)
    layer("flag.logit", flag, 1, 300)
    layer("value.input", pixels_parts.WINDOW + sums + len(pixel_model.NEIGHBOURS) * near, h, 2000)
    for net, width, outputs in (("flag", flag, flag), ("value", h, sums)):
        for part, rows in (("ink", 784), ("shade", 784), ("count", 256)):
            table(f"{net}.sums.{part}", rows, outputs, most=200)
        table(f"{net}.position", 784, width)
    table("flag.top", 29, flag)
    table("flag.left", 56, flag)
    table("value.near", len(pixel_model.NEIGHBOURS), 256, near, most=ACTIVATION_MAX)
    table("value.flagged", 1, h)
    table("value.palette", palettes, h)
    table("palette.logits", palettes, 256, most=60)
    for i in range(layers):
        layer(f"links.{i}", h, link, 300)
        layer(f"hidden.{i}", h + link * len(pixels_parts.LINKED), h, 400)
    layer("head", h, 256, 100)
    tensors["palette.costs.table"] = rng.integers(0, 1024, (palettes, 256)).astype(np.int16)
    freq = np.full(palettes, rans.TOTAL // palettes)
    freq[0] += rans.TOTAL - freq.sum()
    tensors["palette.freq"] = freq.astype(np.int32)
    tensors["flag.zero_freq"] = rng.integers(1, rans.TOTAL, 1023).astype(np.int32)
    tensors["exp"] = np.rint(rans.TOTAL * np.exp(-np.arange(512) / 32)).astype(np.int32)
    card = {"name": "odd-lossless", "trained_on": "dice"}
    return Pixels(helpers.pack(tensors, card, architecture=Pixels.ARCHITECTURE))


_wanted: dict[object, Any] = {}  # what numpy gives, for all engines


def numpy_gives(
    name: str, model: Pixels, source: np.ndarray | list[bytes], *arguments: int, group: int
) -> Any:
    key = (
        name,
        model.sha256,
        source.tobytes() if isinstance(source, np.ndarray) else tuple(source),
        arguments,
        group,
    )
    if key not in _wanted:
        with kernels.use("numpy"):
            _wanted[key] = getattr(model, name)(source, *arguments, group=group)
    return _wanted[key]


def check_same(model: Pixels, pixels: np.ndarray, group: int, engine: str) -> list[bytes]:
    wanted = numpy_gives("encode", model, pixels, group=group)
    with kernels.use(engine):
        encoded = model.encode(pixels, group=group)
        assert encoded.messages == wanted.messages
        assert encoded.ideal_bits == wanted.ideal_bits
        decoded, bad = model.decode(encoded.messages, len(pixels), group=group)
    np.testing.assert_array_equal(decoded, pixels)
    assert not bad.any()
    return encoded.messages


def check_same_damage(
    model: Pixels, messages: list[bytes], count: int, group: int, engine: str
) -> None:
    wanted, wanted_bad = numpy_gives("decode", model, messages, count, group=group)
    with kernels.use(engine):
        pixels, bad = model.decode(messages, count, group=group)
    np.testing.assert_array_equal(bad, wanted_bad)
    np.testing.assert_array_equal(pixels, wanted)


# ---- messages and pixels


@pytest.mark.parametrize("group", [1, 5, 16])
def test_messages_are_those_of_numpy_for_every_kind_of_image(engine: str, group: int) -> None:
    pixels = kinds()
    assert len(pixels) % group or group == 1
    check_same(helpers.tiny_pixel_model(), pixels, group, engine)


@pytest.mark.parametrize("count", [1, 2, 7, 33, 70, 130])
def test_messages_are_those_of_numpy_for_any_number_of_images(engine: str, count: int) -> None:
    check_same(helpers.tiny_pixel_model(1), helpers.drawn(count), 16, engine)


def test_a_group_may_be_larger_than_the_images_are_many(engine: str) -> None:
    check_same(helpers.tiny_pixel_model(), kinds()[:5], 1000, engine)


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"layers": 0},
        {"flag": 1, "sums": 1, "h": 1, "near": 1, "link": 1, "layers": 1},
        {"flag": 16, "sums": 16, "h": 16, "near": 16, "link": 16, "layers": 2, "palettes": 256},
        {"flag": 33, "sums": 31, "h": 49, "near": 2, "link": 17, "layers": 3, "palettes": 3},
        {"flag": 8, "sums": 70, "h": 300, "near": 7, "link": 3, "layers": 1, "palettes": 2},
    ],
)
def test_models_of_any_sizes_give_the_messages_of_numpy(engine: str, sizes: dict[str, int]) -> None:
    pixels = np.concatenate([helpers.drawn(24), kinds()[-16:]])
    check_same(odd_model(**sizes), pixels, 5, engine)


@pytest.mark.parametrize("seed", [0, 1])
def test_extreme_tables_give_the_messages_of_numpy(engine: str, seed: int) -> None:
    """Sums at the ends of their clipping, logits at the ends of theirs."""
    rng, tensors = np.random.default_rng(seed), helpers.tiny_pixel_tensors()
    for name, tensor in tensors.items():
        if tensor.dtype == np.int16:
            ends = {"palette.costs.table": (0, 1023), "value.near.table": (-1023, 1023)}.get(
                name, (-(1 << 15), (1 << 15) - 1)
            )
            tensors[name] = rng.choice(np.array(ends, np.int16), tensor.shape)
        elif name.startswith(("links", "head", "value.input", "flag.window")) and name.endswith(
            "multiplier"
        ):
            tensor[:] = 1 << 24
    model = Pixels(helpers.pack(tensors, architecture=Pixels.ARCHITECTURE))
    check_same(model, kinds()[::2], 16, engine)


@pytest.mark.parametrize("sign", [-1, 1])
def test_sums_of_the_flag_network_are_clipped(engine: str, sign: int) -> None:
    """They pass 2**22, and so does the window the other way: what is left are the tables."""
    tensors = helpers.tiny_pixel_tensors()
    for part in ("ink", "shade", "count"):
        tensors[f"flag.sums.{part}.table"][:] = sign * 32767
    tensors["flag.window.weight"][:] = 0
    tensors["flag.window.bias"][:] = -sign * ((1 << 24) - 1)
    tensors["flag.window.multiplier"][:] = 1 << 24
    tensors["value.flagged.table"][:] = 0
    model = Pixels(helpers.pack(tensors, architecture=Pixels.ARCHITECTURE))
    check_same(model, helpers.drawn(9), 4, engine)


def test_stored_images_are_the_same_ones(engine: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (40, 28, 28), np.uint8)
    mixed = np.where(np.arange(40)[:, None, None] % 3 == 0, noise, helpers.drawn(40)).astype(
        np.uint8
    )
    messages = check_same(helpers.tiny_pixel_model(), mixed, 16, engine)
    assert len(messages[0]) > 5 * 784


def test_threads_and_batches_change_no_byte(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_model, "NATIVE_BATCH_IMAGES", 32)
    with parallel.cores(3):
        check_same(helpers.tiny_pixel_model(), helpers.drawn(200), 16, engine)


def test_threads_may_share_a_fresh_model(engine: str) -> None:
    pixels, model, found = (
        helpers.drawn(20),
        Pixels(helpers.tiny_pixel_bundle()),
        list[list[bytes]](),
    )
    with kernels.use(engine):
        threads = [
            threading.Thread(target=lambda: found.append(model.encode(pixels).messages))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with kernels.use("numpy"):
        assert found == [model.encode(pixels).messages] * 6


# ---- damage


@pytest.mark.parametrize("group", [1, 4])
def test_damaged_messages_decode_to_what_numpy_makes_of_them(engine: str, group: int) -> None:
    model, pixels = (
        helpers.tiny_pixel_model(),
        np.concatenate([golden_tool.sources()[0][:2], helpers.drawn(8)[1:3]])[:group],
    )
    (message,) = model.encode(pixels, group=group).messages
    damaged = [*helpers.cuts(message), *helpers.flips(message)]
    damaged = [
        damaged[i] for i in np.random.default_rng(group).permutation(len(damaged))[: 200 // group]
    ]
    check_same_damage(
        model,
        [m for stream in damaged for m in (stream, message)],
        2 * group * len(damaged),
        group,
        engine,
    )


@pytest.mark.parametrize("group", [1, 5])
@pytest.mark.parametrize("lanes", [3, 40])
def test_random_messages_decode_to_what_numpy_makes_of_them(
    engine: str, lanes: int, group: int
) -> None:
    """Lanes: a few are decoded in another way by numpy than many."""
    rng = np.random.default_rng(lanes)
    messages = [rng.bytes(int(size)) for size in rng.integers(0, 1500, lanes - 3)]
    messages += [
        b"",
        b"\xff" * 3000,
        b"\xff\xff\xff" + rng.bytes(3000),
    ]  # the first state says "stored"
    rng.shuffle(messages)
    for model in (helpers.tiny_pixel_model(), odd_model()):
        check_same_damage(model, messages, lanes * group - (group > 1), group, engine)


# ---- softmax


def logits() -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    yield rng.integers(-200, 1, (50, 256))
    yield rng.integers(-(1 << 16), (1 << 16) + 1, (50, 256))
    yield rng.integers(-1, 2, (50, 256))  # many are the largest: the first counts
    yield np.zeros((1, 256))
    yield np.full((1, 256), -(1 << 16))
    yield np.eye(256) * (1 << 17) - (1 << 16)
    yield np.repeat(np.array([[0], [-511], [-510], [-512]]), 256, axis=1) * (np.arange(256) != 77)


def test_frequencies_are_those_of_numpy(engine: str) -> None:
    for model in (helpers.tiny_pixel_model(), odd_model()):
        net = model._value
        for rows in logits():
            rows = np.ascontiguousarray(rows, np.int32)
            freq = np.empty(rows.shape, np.uint32)
            with kernels.use(engine):
                native().frequencies(
                    net._exp.ctypes.data, len(rows), rows.ctypes.data, freq.ctypes.data
                )
            np.testing.assert_array_equal(freq, net._frequencies(rows.astype(np.float32)))
            assert (freq.sum(axis=1, dtype=np.int64) == rans.TOTAL).all()


def test_frequencies_of_a_table_that_does_not_fall_are_those_of_numpy(engine: str) -> None:
    """The largest sum of weights there is, 256 times 2**16; and every entry another one."""
    rng, tensors = np.random.default_rng(0), helpers.tiny_pixel_tensors()
    rows = rng.integers(-600, 1, (20, 256)).astype(np.int32)
    for exp in (np.full(512, rans.TOTAL), rans.TOTAL - 128 * rng.permutation(512)):
        tensors["exp"][1:] = exp[1:]
        net = Pixels(helpers.pack(tensors, architecture=Pixels.ARCHITECTURE))._value
        freq = np.empty(rows.shape, np.uint32)
        address = net._exp.ctypes.data
        with kernels.use(engine):
            native().frequencies(address, len(rows), rows.ctypes.data, freq.ctypes.data)
        np.testing.assert_array_equal(freq, net._frequencies(rows.astype(np.float32)))


# ---- coder


@pytest.mark.parametrize("lanes", [1, 3, 30])
def test_messages_of_random_lanes_are_those_of_rans(engine: str, lanes: int) -> None:
    """Lanes of any lengths, none included; frequencies from 1 to all there is."""
    rng = np.random.default_rng(lanes)
    for longest in (0, 1, 2, 60):
        codes = []
        for _ in range(lanes):
            bits = rng.integers(0, 17, rng.integers(0, longest + 1))
            freq = np.minimum(rng.integers(1 << bits, (2 << bits) + 1), rans.TOTAL)
            codes.append(rans.packed(rng.integers(0, rans.TOTAL - freq + 1), freq))
        check = rng.choice([0, 1, 255], lanes)
        with kernels.use(engine):
            found = encode_lanes(
                native(), np.concatenate(codes), np.cumsum([len(lane) for lane in codes]), check
            )
        assert found == rans.encode(*rans.unpacked(codes), check)


def test_the_dearest_symbols_fit_the_room_for_messages(engine: str) -> None:
    codes = rans.packed(np.full(1000, rans.TOTAL - 1), np.ones(1000, np.int64))
    with kernels.use(engine):
        (message,) = encode_lanes(native(), codes, np.array([1000]), np.array([255]))
    assert [message] == rans.encode(*rans.unpacked([codes]), np.array([255]))
    assert 2000 <= len(message) <= 2004


def test_no_lanes_are_no_messages(engine: str) -> None:
    with kernels.use(engine):
        assert (
            encode_lanes(
                native(), np.zeros(0, np.uint32), np.zeros(0, np.int64), np.zeros(0, np.int64)
            )
            == []
        )


@pytest.mark.parametrize("ends", [[3, 4], [5, 4], [-1, 5], [2, 6], [5]])
def test_lanes_that_do_not_fit_their_codes_are_refused(engine: str, ends: list[int]) -> None:
    with kernels.use(engine), pytest.raises(ValueError, match="do not fit"):
        encode_lanes(native(), np.zeros(5, np.uint32), np.array(ends), np.zeros(2, np.int64))


def test_unpacked_inverts_packed() -> None:
    """By hand: 0 is the symbol that does nothing."""
    codes = rans.packed(np.array([0, 7, 65535]), np.array([65536, 9, 1]))
    assert codes.tolist() == [0, 7 << 16 | 9, 65535 << 16 | 1]
    start, freq = rans.unpacked([codes, codes[:1]])
    assert start.tolist() == [[0, 0], [7, 0], [65535, 0]]
    assert freq.tolist() == [[65536, 65536], [9, 65536], [1, 65536]]


def test_costs_are_whole_1024ths_of_a_bit() -> None:
    assert rans.costs()[[1, 2, 3, 1 << 15, 1 << 16]].tolist() == [16384, 15360, 14761, 1024, 0]


# ---- arguments


def test_wrong_arguments_are_refused(engine: str) -> None:
    model = helpers.tiny_pixel_model()
    with kernels.use(engine):
        twin = model._natively()
        assert twin is not None
        one, codes = np.zeros((1, 28, 28), np.uint8), np.zeros((1, 2 * 784), np.uint32)
        for pixels in (np.zeros((1, 28, 27), np.uint8), np.zeros((1, 28, 28), np.int16)):
            with pytest.raises(ValueError, match="pixels are"):
                twin.encode(pixels, np.zeros(1, np.int64), codes)
        for palette in (np.array([3]), np.array([-1]), np.array([0, 0])):
            with pytest.raises(ValueError, match="no such palette"):
                twin.encode(one, palette, codes)
        for wrong in (codes[:, 1:], codes[:0], codes.astype(np.int64), codes[:, ::-1]):
            with pytest.raises(ValueError, match="codes are"):
                twin.encode(one, np.array([0]), wrong)
        with pytest.raises(ValueError, match="2 lanes"):
            twin.decode(rans.Decoder([b"", b""]), np.ones(3, np.bool_), np.zeros(3, np.int64), 1)


def test_only_the_images_asked_for_are_decoded(engine: str) -> None:
    """The others stay 0, and take nothing from the message."""
    model, pixels = helpers.tiny_pixel_model(), kinds()[:3]
    active, palette = np.array([True, False, True]), np.zeros(3, np.int64)
    with kernels.use(engine):
        twin = model._natively()
        assert twin is not None
        codes = np.zeros((3, 2 * 784), np.uint32)
        twin.encode(pixels, palette, codes)
        codes[1] = 0
        messages = encode_lanes(native(), codes.T.ravel(), np.array([codes.size]), np.array([9]))
        decoded, state, used_up = twin.decode(rans.Decoder(messages), active, palette, 3)
    np.testing.assert_array_equal(decoded, pixels * active[:, None, None].astype(np.uint8))
    assert (state.tolist(), used_up.tolist()) == ([9], [True])
