"""Bundles made live: what they code and decode, what is refused."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import helpers
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from codec.coding import rans
from codec.errors import BadModel, EncoderNotFound
from codec.model.bundle import unpack_bundle
from codec.model.ladder import Ladder
from codec.model.ladder_parts import LATENT_MAX, NUM_SIGMAS, log2_lmbda, patches, unpatches
from codec.model.layers import ROWS

QUALITIES = (0, 1, 50, 75, 99)


@pytest.fixture
def model() -> Ladder:
    return helpers.tiny_model()


# ---- coding


def test_the_tiny_model_is_a_fair_subject(model: Ladder) -> None:
    """Symbols of many sizes and rows, row 0 among them, and pixels that follow them; else the tests
    below prove little.
    """
    symbols, rows, pixels = model.quantize(helpers.drawn(40), 40)
    assert len(symbols) == len(rows) == 3
    assert all((s.min() < 0) and (s.max() > 0) for s in symbols)
    assert all((r == 0).any() and len(np.unique(r)) > 5 for r in rows[1:])
    assert pixels.std() > 30
    assert np.ptp(pixels, axis=0).mean() > 20


@pytest.mark.parametrize("group", [1, 16])
def test_coding_batch_by_batch_changes_nothing(
    model: Ladder, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = helpers.drawn(83)
    encoded = model.encode(pixels, 60, group=group)
    messages = [*encoded.messages[:-1], encoded.messages[-1] + b"x"]
    wanted, bad = model.decode(messages, 83, 60, group=group)
    assert bad[-1]
    monkeypatch.setattr("codec.model.ladder.BATCH_IMAGES", 32)
    got, bad_in_batches = model.decode(messages, 83, 60, group=group)
    np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(bad_in_batches, bad)
    again = model.encode(pixels, 60, group=group)
    assert again.messages == encoded.messages
    np.testing.assert_array_equal(again.pixels, encoded.pixels)
    assert again.ideal_bits == pytest.approx(encoded.ideal_bits)


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("group", [1, 16])
@pytest.mark.parametrize("count", [1, 7, 16, 17, 40])
def test_decode_inverts_encode(model: Ladder, count: int, group: int, quality: int) -> None:
    encoded = model.encode(helpers.drawn(count), quality, group=group)
    assert len(encoded.messages) == -(-count // group)
    pixels, bad = model.decode(encoded.messages, count, quality, group=group)
    np.testing.assert_array_equal(pixels, encoded.pixels)
    assert pixels.dtype == np.uint8
    assert bad.tolist() == [False] * len(encoded.messages)


@pytest.mark.parametrize("quality", [0, 60])
def test_the_other_images_of_a_batch_change_neither_pixels_nor_bytes(
    model: Ladder, quality: int
) -> None:
    pixels = helpers.drawn(70)
    whole = model.encode(pixels, quality, group=1)
    for part in (slice(0, 1), slice(3, 10), slice(30, 70), slice(None, None, -1)):
        alone = model.encode(pixels[part], quality, group=1)
        np.testing.assert_array_equal(alone.pixels, whole.pixels[part])
        assert alone.messages == whole.messages[part]
    together = model.encode(pixels, quality, group=16)
    np.testing.assert_array_equal(together.pixels, whole.pixels)
    assert together.ideal_bits == pytest.approx(whole.ideal_bits)
    second, _ = model.decode(together.messages[1:2], 16, quality, group=16)
    np.testing.assert_array_equal(second, whole.pixels[16:32])


def test_encode_is_a_function_of_its_input(model: Ladder) -> None:
    pixels = helpers.drawn(33).copy()
    first = model.encode(pixels, 70)
    assert (
        first.messages
        == Ladder(helpers.tiny_bundle(), helpers.tiny_encoder()).encode(pixels, 70).messages
    )
    np.testing.assert_array_equal(pixels, helpers.drawn(33))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("quality", QUALITIES)
def test_synthesis_equals_the_same_network_in_int64(seed: int, quality: int) -> None:
    symbols, rows, pixels = helpers.tiny_model(seed).quantize(helpers.drawn(24), quality)
    reference = helpers.Reference(helpers.tiny_tensors(seed))
    expected, expected_rows = reference.synthesize([s.astype(np.int64) for s in symbols], quality)
    np.testing.assert_array_equal(pixels, expected)
    for row, expected_row in zip(rows, expected_rows, strict=True):
        np.testing.assert_array_equal(row, expected_row)


def test_analysis_equals_the_same_network_in_int64(model: Ladder) -> None:
    reference = helpers.Reference(helpers.tiny_tensors())
    pixels = helpers.drawn(16)
    for quality in QUALITIES:
        e = reference.layer("input", "point", helpers.reference_input(pixels), quality, -1023, 1023)
        np.testing.assert_array_equal(
            model.analysis(pixels, quality), reference.blocks("analysis", e, quality)
        )


@pytest.mark.parametrize("effort", [1, 3])
def test_images_side_by_side_at_qualities_of_their_own_are_coded_as_each_alone(
    model: Ladder, effort: int
) -> None:
    pixels, qualities = helpers.drawn(60), np.resize([7, 90, 7, 33, 7, 90], 60)
    qualities[:3] = 0, 99, 50  # of these one image each
    found = model.analyze(pixels, qualities, effort)
    for i in (0, 1, 2, 3, 4, 58, 59):
        alone = model.analyze(pixels[i : i + 1], int(qualities[i]), effort)
        for ours, theirs in ((found.codes, alone.codes), (found.rows, alone.rows)):
            np.testing.assert_array_equal(ours[:, i], theirs[:, 0])
        np.testing.assert_array_equal(found.pixels[i], alone.pixels[0])


@pytest.mark.parametrize("group", [1, 16])
def test_parts_packed_side_by_side_give_the_messages_of_each_alone(
    model: Ladder, group: int
) -> None:
    pixels = helpers.drawn(60)
    parts = [
        model.analyze(pixels[at:end], quality)
        for at, end, quality in ((0, 33, 20), (33, 34, 99), (34, 60, 60))
    ]
    together = model.pack_parts(parts, group)
    for part, messages in zip(parts, together, strict=True):
        assert messages == model.pack(part, group)
        assert len(messages) == -(-len(part.pixels) // group)


def test_symbols_are_the_nearest_that_their_row_can_code(model: Ladder) -> None:
    symbols, rows, _ = model.quantize(helpers.drawn(40), 30)
    for table, s, r in zip(model.tables, symbols, rows, strict=True):
        codes = np.where(s < 0, -2 * s - 1, 2 * s)
        assert (table.freq[r, codes] > 0).all()
        assert (s[r == 0] == 0).all()


def test_ideal_bits_are_a_little_less_than_the_payload(model: Ladder) -> None:
    encoded = model.encode(helpers.drawn(64), 50)
    coded = 8 * sum(map(len, encoded.messages))
    assert (
        encoded.ideal_bits - 1 <= coded <= 1.005 * encoded.ideal_bits + 24 * len(encoded.messages)
    )
    assert encoded.ideal_bits > 64 * 40


def test_rows_that_are_certain_without_being_row_0_cost_nothing_and_come_back() -> None:
    """The encoder skips steps of frequency 2**16, the decoder those of row 0: the two must still
    agree.
    """
    tensors = helpers.tiny_tensors()
    tensors["cdf"][:, 1:12, 1:] = rans.TOTAL
    model = helpers.model_of(tensors)
    encoded = model.encode(helpers.drawn(40), 40)
    pixels, bad = model.decode(encoded.messages, 40, 40)
    assert not bad.any()
    np.testing.assert_array_equal(pixels, encoded.pixels)
    assert encoded.ideal_bits < helpers.tiny_model().encode(helpers.drawn(40), 40).ideal_bits


def test_a_model_without_7x7_levels_still_codes() -> None:
    tensors = {
        name: tensor
        for name, tensor in helpers.tiny_tensors().items()
        if not name.startswith(("levels.", "synthesis.1", "synthesis.2"))
    }
    tensors["cdf"] = tensors["cdf"][:1]
    model = helpers.model_of(tensors)
    encoded = model.encode(helpers.drawn(20), 20)
    np.testing.assert_array_equal(model.decode(encoded.messages, 20, 20)[0], encoded.pixels)


def test_a_model_codes_the_same_from_many_threads(model: Ladder) -> None:
    """More images than one chunk run on several threads; the caches of a fresh model fill up under
    them.
    """
    fresh, pixels = helpers.model_of(helpers.tiny_tensors()), helpers.drawn(200)
    assert fresh.encode(pixels, 33).messages == model.encode(pixels, 33).messages


# ---- damage


@pytest.mark.parametrize("group", [1, 16])
def test_damaged_messages_are_flagged_and_their_neighbours_are_not(
    model: Ladder, group: int
) -> None:
    count, quality = 3 * group, 30
    encoded = model.encode(helpers.drawn(count), quality, group=group)
    rng = np.random.default_rng(group)
    tried = missed = 0
    damaged = [*helpers.cuts(encoded.messages[1]), *helpers.flips(encoded.messages[1])]
    for stream in [damaged[i] for i in rng.permutation(len(damaged))[: 150 if group == 1 else 50]]:
        pixels, bad = model.decode(
            [encoded.messages[0], stream, encoded.messages[2]], count, quality, group=group
        )
        assert bad[[0, 2]].tolist() == [False, False]
        np.testing.assert_array_equal(pixels[:group], encoded.pixels[:group])
        np.testing.assert_array_equal(pixels[2 * group :], encoded.pixels[2 * group :])
        tried += 1
        missed += not bad[1]
    assert missed <= 1 + tried // 50  # a hash of 8 bits: 1 in 256 is what chance allows


@given(
    st.lists(st.binary(max_size=60), min_size=1, max_size=9),
    st.sampled_from(QUALITIES),
    st.sampled_from([1, 2]),
)
def test_any_messages_decode_to_some_pixels(
    messages: list[bytes], quality: int, group: int
) -> None:
    messages = messages[: 16 // group]  # one chunk: threads take time to start
    count = group * len(messages) - (group == 2)
    pixels, bad = helpers.tiny_model().decode(messages, count, quality, group=group)
    assert pixels.shape == (count, 28, 28)
    assert bad.shape == (len(messages),)


# ---- bundles


def test_a_model_names_itself_by_its_bytes(model: Ladder) -> None:
    stream = helpers.tiny_bundle()
    assert model.sha256 == hashlib.sha256(stream).digest()
    assert model.hash == model.sha256[:8]
    assert model.name == model.card["name"] == "tiny0"
    assert model.num_bytes == len(stream)


@pytest.mark.parametrize("name", sorted(helpers.tiny_tensors()))
def test_a_missing_tensor_is_refused(name: str) -> None:
    tensors = helpers.tiny_tensors()
    del tensors[name]
    with pytest.raises(BadModel):
        helpers.model_of(tensors)


@pytest.mark.parametrize(
    "name",
    [
        "extra",
        "input.weight2",
        "levels.0.more",
        "levels.9.merge.weight",
        "synthesis.0.0.reduce.gain",
        "",
    ],
)
def test_an_unknown_tensor_is_refused(name: str) -> None:
    with pytest.raises(BadModel):
        helpers.model_of({**helpers.tiny_tensors(), name: np.zeros(3, np.int8)})


@pytest.mark.parametrize("name", sorted(helpers.tiny_tensors()))
@pytest.mark.parametrize("change", ["longer", "one channel more", "transposed", "empty", "scalar"])
def test_a_tensor_of_another_shape_is_refused(name: str, change: str) -> None:
    tensors = helpers.tiny_tensors()
    tensor = tensors[name]
    changes: dict[str, Callable[[], np.ndarray]] = {
        "longer": lambda: np.concatenate([tensor, tensor]),
        "one channel more": lambda: (
            np.concatenate([tensor, tensor[:, :1]], axis=1) if tensor.ndim > 1 else tensor[:-1]
        ),
        "transposed": lambda: tensor[None] if tensor.T.shape == tensor.shape else tensor.T,
        "empty": lambda: tensor[:0],
        "scalar": lambda: np.array(7, tensor.dtype),
    }
    tensors[name] = changes[change]()
    if change == "one channel more" and name == "cdf":
        return  # rows of levels: not a channel
    with pytest.raises(BadModel):
        helpers.model_of(tensors)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.bool_])
def test_a_tensor_that_holds_no_integers_is_refused(dtype: Any) -> None:
    tensors = helpers.tiny_tensors()
    tensors["output.bias"] = tensors["output.bias"].astype(dtype)
    with pytest.raises(BadModel, match=r"tensor output\.bias is "):
        helpers.model_of(tensors)


@pytest.mark.parametrize(
    "name",
    [
        "output.weight",
        "output.bias",
        "output.shift",
        "output.multiplier",
        "cdf",
        "prior_mean",
        "dequantizer",
    ],
)
@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_integers_of_another_width_are_refused(name: str, dtype: Any) -> None:
    """The bounds are proven in int64: what is wider could wrap around there, and there is one
    spelling of a model only.
    """
    tensors = helpers.tiny_tensors()
    tensors[name] = tensors[name].astype(dtype)
    with pytest.raises(BadModel, match=f"tensor {name} is {np.dtype(dtype)}, wanted int"):
        helpers.model_of(tensors)


@pytest.mark.parametrize(
    "name", [n.removesuffix(".bias") for n in sorted(helpers.tiny_tensors()) if n.endswith(".bias")]
)
def test_a_layer_that_breaks_the_exactness_bound_is_refused_by_name(name: str) -> None:
    tensors = helpers.tiny_tensors()
    tensors[f"{name}.bias"].flat[-1] = 1 << 24
    with pytest.raises(BadModel, match=f"(^|^encoder of tiny: ){name}: a sum could reach"):
        helpers.model_of(tensors)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("dequantizer", 0, "dequantizer is outside"),
        ("dequantizer", (1 << 24) + 1, "dequantizer is outside"),
        ("levels.1.dequantizer", -1, r"levels\.1\.dequantizer is outside"),
        ("prior_sigma", -1, "prior of the dense latents"),
        ("prior_sigma", NUM_SIGMAS, "prior of the dense latents"),
        ("prior_mean", LATENT_MAX + 1, "prior of the dense latents"),
        ("prior_mean", -LATENT_MAX - 1, "prior of the dense latents"),
        ("prior_mean", -(2**31), "prior of the dense latents"),
        ("start0.multiplier", 0, "start0: a multiplier"),
    ],
)
def test_a_table_out_of_range_is_refused(name: str, value: int, message: str) -> None:
    tensors = helpers.tiny_tensors()
    tensors[name].flat[3] = value
    with pytest.raises(BadModel, match=message):
        helpers.model_of(tensors)


def _row(*values: int) -> Callable[[np.ndarray], None]:
    def change(cdf: np.ndarray) -> None:
        cdf[1, 5] = rans.TOTAL
        cdf[1, 5, : len(values)] = values

    return change


def _first_row(cdf: np.ndarray) -> None:
    cdf[2, 0, 1:3] = 5, 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_row(1, 2, 3), "does not run from 0"),
        (lambda cdf: cdf[:, :, -1].__isub__(1), "does not run from 0"),
        (_row(0, 100, 50, 200), "does not run from 0"),
        (_row(0, 100, 100, 200), "has a gap"),
        (_row(0, 0, 100), "has a gap"),
        (_row(0, 100), "even number of symbols"),
        (_first_row, "row 0 is not certain"),
        (lambda cdf: cdf.__imul__(-1), "does not run from 0"),
    ],
)
def test_a_cdf_row_that_cannot_be_coded_is_refused(
    change: Callable[[np.ndarray], None], message: str
) -> None:
    tensors = helpers.tiny_tensors()
    change(tensors["cdf"])
    with pytest.raises(BadModel, match=message):
        helpers.model_of(tensors)


@pytest.mark.parametrize(
    "shape", [(2, 64, 64), (3, 63, 64), (3, 64, 1), (3, 64, 300), (3, 64), (3, 64, 64, 1)]
)
def test_cdf_tables_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadModel, match="cdf has shape"):
        helpers.model_of({**helpers.tiny_tensors(), "cdf": np.zeros(shape, np.int32)})


def test_layers_that_do_not_fit_together_are_refused() -> None:
    tensors = helpers.tiny_tensors()
    for part in ("weight", "bias", "shift", "multiplier"):
        tensors[f"start0.{part}"] = np.concatenate(
            [tensors[f"start0.{part}"]] * 2, axis=0 if part in ("weight", "bias") else 1
        )
    with pytest.raises(BadModel, match=r"start1 takes \d+ numbers, wanted \d+: the layers do"):
        helpers.model_of(tensors)


def test_a_dense_layer_with_a_bias_by_position_is_refused() -> None:
    tensors = helpers.tiny_tensors()
    tensors["start0.bias"] = np.repeat(tensors["start0.bias"][:, None], 49, axis=1)
    with pytest.raises(BadModel):
        helpers.model_of(tensors)


def test_stages_that_do_not_fit_the_levels_are_refused() -> None:
    tensors = {
        name: tensor
        for name, tensor in helpers.tiny_tensors().items()
        if not name.startswith("synthesis.2")
    }
    with pytest.raises(BadModel, match="2 levels in 2 stages"):
        helpers.model_of(tensors)


def _with_header(change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The tiny bundle with its JSON header changed."""
    stream = helpers.tiny_bundle()
    (size,) = struct.unpack_from("<Q", stream)
    header = json.loads(stream[8 : 8 + size])
    changed = change(header)
    packed = json.dumps(header if changed is None else changed).encode()
    packed += b" " * (-len(packed) % 8)
    return struct.pack("<Q", len(packed)) + packed + stream[8 + size :]


def test_another_architecture_is_refused_and_named() -> None:
    with pytest.raises(BadModel, match=r"architecture 'ladder-2', wanted 'ladder-1'"):
        Ladder(helpers.pack(helpers.tiny_tensors(), architecture="ladder-2"))


@pytest.mark.parametrize("card", [5, None, [], "name", {}, {"name": 5}, {"name": None}])
def test_a_card_without_a_name_is_refused(card: Any) -> None:
    def change(header: dict[str, Any]) -> None:
        header["__metadata__"]["card"] = json.dumps(card)

    with pytest.raises(BadModel):
        Ladder(_with_header(change))


@pytest.mark.parametrize("text", ["", "{", "nan", "[" * 100_000, '{"name": "x"', "\ud800"])
def test_a_card_that_is_no_json_is_refused(text: str) -> None:
    def change(header: dict[str, Any]) -> None:
        header["__metadata__"]["card"] = text

    with pytest.raises(BadModel):
        Ladder(_with_header(change))


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.__delitem__("__metadata__"),
        lambda header: header["__metadata__"].__delitem__("card"),
        lambda header: header["__metadata__"].__delitem__("architecture"),
        lambda header: header["cdf"].update(shape=[1 << 62, 4]),
        lambda header: header["cdf"].update(data_offsets=[0, 1 << 60]),
        lambda header: header["cdf"].update(data_offsets=[8, 4]),
        lambda header: [1, 2],
        lambda header: {},
    ],
)
def test_a_damaged_header_is_refused(change: Callable[[dict[str, Any]], Any]) -> None:
    with pytest.raises(BadModel):
        Ladder(_with_header(change))


@pytest.mark.parametrize(
    "dtype",
    ["BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "F6_E2M3", "U16", "U64", "C64", "BOOL", "X9"],
)
def test_a_tensor_whose_type_is_renamed_ends_in_bad_model_or_a_model(dtype: str) -> None:
    sizes = {"BF16": 2, "U16": 2, "U64": 8, "C64": 8, "F4": 0.5, "F6_E2M3": 0.75}

    def change(header: dict[str, Any]) -> None:
        entry = header["cdf"]
        begin, end = entry["data_offsets"]
        entry.update(dtype=dtype, shape=[int((end - begin) / sizes.get(dtype, 1))])

    with pytest.raises(BadModel):
        Ladder(_with_header(change))


def test_a_bundle_cut_anywhere_is_refused() -> None:
    stream = helpers.tiny_bundle()
    sizes = [*range(20), *np.linspace(20, len(stream) - 1, 150).astype(int).tolist()]
    for size in sizes:
        with pytest.raises(BadModel):
            Ladder(stream[:size])
    with pytest.raises(BadModel):
        Ladder(stream + b"\0")


def test_a_bundle_with_flipped_bits_is_refused_or_another_model() -> None:
    stream = helpers.tiny_bundle()
    (header_bytes,) = struct.unpack_from("<Q", stream)
    rng = np.random.default_rng(0)
    bits = [
        *range(64),
        *rng.integers(64, 64 + 8 * header_bytes, 300),
        *rng.integers(0, 8 * len(stream), 100),
    ]
    models = refused = 0
    for bit in map(int, bits):
        damaged = bytearray(stream)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert Ladder(bytes(damaged)).hash != helpers.tiny_model().hash
            models += 1
        except BadModel:
            refused += 1
    assert models > 5
    assert refused > 100


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_as_a_model(stream: bytes) -> None:
    with pytest.raises(BadModel, match="not a model file"):
        Ladder(stream)
    with pytest.raises(BadModel, match="not a model file"):
        unpack_bundle(struct.pack("<Q", len(stream)) + stream)


def test_packing_what_was_unpacked_gives_the_same_bytes() -> None:
    architecture, tensors, card = unpack_bundle(helpers.tiny_bundle())
    assert helpers.pack(tensors, card, architecture=architecture) == helpers.tiny_bundle()
    assert safetensors.numpy.load(helpers.tiny_bundle()).keys() == tensors.keys()


# ---- encoders


def test_features_of_an_encoder_may_have_more_channels_than_those_of_the_model() -> None:
    """One channel more, which nothing reads: the same symbols."""
    tensors = helpers.tiny_tensors()

    def more(name: str, axis: int, at: int = helpers.C, value: int = 0) -> None:
        tensors[name] = np.insert(tensors[name], at, value, axis=axis)

    for name in ("input", "analysis.0.restore"):
        for part, axis, value in (
            ("weight", 0, 1),
            ("bias", 0, 5),
            ("shift", 1, 3),
            ("multiplier", 1, 9),
        ):
            more(f"{name}.{part}", axis, value=value)
    for name in ("analysis.0.reduce", "squeeze", "levels.0.posterior0", "levels.1.posterior0"):
        more(f"{name}.weight", 1)
    stream = helpers.pack_encoder(tensors, helpers.tiny_bundle())
    wider, pixels = Ladder(helpers.tiny_bundle(), stream), helpers.drawn(20)
    assert wider.analysis(pixels, 50).shape == (helpers.C + 1, 49, 20)
    assert wider.encode(pixels, 50).messages == helpers.tiny_model().encode(pixels, 50).messages


@pytest.mark.parametrize("name", ["input.weight", "levels.0.posterior1.bias", "posterior0.shift"])
def test_a_model_with_a_tensor_of_an_encoder_is_refused(name: str) -> None:
    tensors = helpers.tiny_tensors()
    decoder = {key: tensor for key, tensor in tensors.items() if not helpers.of_encoder(key)}
    with pytest.raises(BadModel, match=f"unknown tensor {name}"):
        Ladder(helpers.pack({**decoder, name: tensors[name]}))


def test_an_encoder_with_a_tensor_of_a_model_or_the_card_of_another_is_refused() -> None:
    stream, tensors = helpers.tiny_bundle(), helpers.tiny_tensors()
    own = {name: tensor for name, tensor in tensors.items() if helpers.of_encoder(name)}
    card = {"name": "tiny", "model_hash": helpers.tiny_model().hash.hex()}
    good = {"architecture": "ladder-1-encoder"}
    assert Ladder(stream, helpers.pack(own, card, **good)).encoder.card == card
    for parts, wrong, kind, said in [
        ({**own, "cdf": tensors["cdf"]}, card, good, "unknown tensor cdf"),
        (own, {"name": "tiny"}, good, "the encoder of model None, not of tiny0"),
        (own, {**card, "model_hash": [1]}, good, r"the encoder of model \[1\], not of tiny0"),
        (own, {"model_hash": card["model_hash"]}, good, "not a model file: KeyError"),
        (own, card, {}, "architecture 'ladder-1', wanted 'ladder-1-encoder'"),
    ]:
        with pytest.raises(BadModel, match=f"^encoder of tiny0: {said}"):
            _ = Ladder(stream, helpers.pack(parts, wrong, **kind)).encoder
    with pytest.raises(EncoderNotFound, match="tiny0 came without its encoder"):
        Ladder(stream).encode(helpers.drawn(1), 50)


# ---- small parts


def test_patches_and_unpatches_are_inverse_and_lie_as_they_say() -> None:
    """Pixel (y, x) = (9, 14): patch row 2, column 3 -> position 17; inside it (1, 2)
    -> channel 6.
    """
    pixels = helpers.drawn(3)
    x = patches(pixels)
    np.testing.assert_array_equal(x, helpers.reference_input(pixels))
    assert x[6, 17, 2] == 4 * pixels[2, 9, 14]
    np.testing.assert_array_equal(unpatches(x / 4), pixels)


def test_quality_runs_over_the_whole_range_of_lambda() -> None:
    assert [log2_lmbda(q) for q in (0, 49.5, 99)] == [0.0, 5.0, 10.0]
    assert ROWS == 34


def test_encoding_in_threads_gives_the_same_bytes_and_leaves_blas_as_it_was(
    foreign: Ladder,
) -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 28, 28), np.uint8)
    wanted = foreign.encode(pixels, 50).messages
    with threadpoolctl.threadpool_limits(2, "blas"):
        before = [
            (lib["filepath"], lib["num_threads"])
            for lib in threadpoolctl.threadpool_info()
            if lib["user_api"] == "blas"
        ]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: foreign.encode(pixels, 50).messages, range(16)))
        after = [
            (lib["filepath"], lib["num_threads"])
            for lib in threadpoolctl.threadpool_info()
            if lib["user_api"] == "blas"
        ]
    assert found == [wanted] * 16
    assert after == before
