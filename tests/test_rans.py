"""The coder alone: bytes, states, lanes, and what damage does to them."""

from __future__ import annotations

import helpers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.coding import rans

# plain integers, then numpy
LANES = [0, 1, 2, rans.SCALAR_LANES - 1, rans.SCALAR_LANES, rans.SCALAR_LANES + 1, 100]

# Row 0: symbol 0 in 3/4 of the range, symbol 1 in the rest. Row 1: symbol 1 is the last slot alone.
HAND = rans.CdfTable(np.array([[0, 49152, 65536], [0, 65535, 65536]]))


def random_message(
    lanes: int, steps: int, seed: int = 0, padding: float = 0.0
) -> tuple[rans.CdfTable, np.ndarray, np.ndarray, np.ndarray]:
    """-> table, indexes, symbols, check."""
    rng = np.random.default_rng([seed, lanes, steps])
    table = helpers.random_table(rng, rows=5, symbols=9)
    indexes = np.where(rng.random((steps, lanes)) < padding, -1, rng.integers(0, 5, (steps, lanes)))
    return (
        table,
        indexes,
        helpers.random_symbols(rng, table, indexes),
        rng.integers(0, rans.MAX_CHECK + 1, lanes),
    )


def judge(
    table: rans.CdfTable, message: bytes, indexes: np.ndarray, check: int
) -> tuple[bool, np.ndarray]:
    """Decode one lane -> whether its final state lets it pass, symbols."""
    decoder = rans.Decoder([message])
    symbols = decoder.decode(table, indexes)
    return not wrong_lanes(decoder, np.array([check])), symbols


def wrong_lanes(decoder: rans.Decoder, check: np.ndarray) -> list[int]:
    """Lanes that do not end at their check, or not with every byte used up."""
    state, used_up = decoder.finish()
    return np.flatnonzero((state != check) | ~used_up).tolist()


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("steps", [0, 1, 2, 200])
def test_decode_inverts_encode(lanes: int, steps: int) -> None:
    helpers.check_round_trip(*random_message(lanes, steps))


@pytest.mark.parametrize("lanes", LANES)
def test_padding_steps_cost_nothing_and_decode_to_zero(lanes: int) -> None:
    table, indexes, symbols, check = random_message(lanes, 60, padding=0.4)
    messages = helpers.check_round_trip(table, indexes, symbols, check)
    for lane in range(lanes):
        real = indexes[:, lane] >= 0
        assert [messages[lane]] == helpers.encode(
            table, indexes[real, lane, None], symbols[real, lane, None], check[lane, None]
        )


def test_scalar_and_vector_paths_write_and_read_the_same() -> None:
    table, indexes, symbols, check = random_message(40, 300, padding=0.1)
    together = helpers.encode(table, indexes, symbols, check)
    alone = [
        helpers.encode(table, indexes[:, i, None], symbols[:, i, None], check[i, None])[0]
        for i in range(40)
    ]
    assert together == alone
    rng = np.random.default_rng(1)
    # any bytes decode alike, damaged ones too
    damaged = [rng.bytes(rng.integers(0, 60)) for _ in range(40)]
    vector = rans.Decoder(damaged)
    seen = vector.decode(table, indexes)
    scalars = [rans.Decoder([message]) for message in damaged]
    for i, scalar in enumerate(scalars):
        np.testing.assert_array_equal(scalar.decode(table, indexes[:, i, None])[:, 0], seen[:, i])
    state, used_up = vector.finish()
    assert [(int(s.finish()[0][0]), bool(s.finish()[1][0])) for s in scalars] == list(
        zip(state.tolist(), used_up.tolist(), strict=True)
    )


@pytest.mark.parametrize("lanes", [1, rans.SCALAR_LANES])
def test_encode_writes_the_bytes_worked_out_by_hand(lanes: int) -> None:
    """Rows 0 0 0 and symbols 1 0 1, check 5; x -> x // freq * 65536 + x % freq + start, last symbol
    first:

    step 3, symbol 1 (start 49152, freq 16384):  5      -> 0 * 65536 + 5 + 49152 = 49157
    step 2, symbol 0 (start 0, freq 49152):      49157  -> 1 * 65536 + 5 + 0     = 65541
    step 1, symbol 1:                            65541  -> 4 * 65536 + 5 + 49152 = 311301 = 0x04c005

    One step more in front, row 1, symbol 1 (start 65535, freq 1): the state must be below 1 << 15
    before it, so the low byte 0x05 is written and 0x04c0 stays; 0x04c0 -> 0x04c0 * 65536 + 0 +
    65535 = 0x04c0ffff, bytes 04 c0 ff ff, then 05.
    """
    rows, symbols = np.array([[1], [0], [0], [0]]), np.array([[1], [1], [0], [1]], np.uint8)
    wide = [np.repeat(a, lanes, axis=1) for a in (rows, symbols)]
    check = np.full(lanes, 5)
    assert (
        helpers.check_round_trip(HAND, wide[0][1:], wide[1][1:], check)
        == [bytes.fromhex("04c005")] * lanes
    )
    assert helpers.check_round_trip(HAND, *wide, check) == [bytes.fromhex("04c0ffff05")] * lanes


@pytest.mark.parametrize("lanes", [1, rans.SCALAR_LANES])
def test_no_steps_leave_the_check_alone_in_the_message(lanes: int) -> None:
    rows, symbols = np.zeros((0, lanes), int), np.zeros((0, lanes), np.uint8)
    assert helpers.check_round_trip(HAND, rows, symbols, np.full(lanes, 0)) == [b""] * lanes
    assert helpers.check_round_trip(HAND, rows, symbols, np.full(lanes, 255)) == [b"\xff"] * lanes


@pytest.mark.parametrize("lanes", [1, rans.SCALAR_LANES])
def test_most_probable_symbols_cost_nothing_at_a_small_state(lanes: int) -> None:
    """With start 0 a state x below freq stays x: x // freq * 65536 + x % freq + 0."""
    rows, symbols = np.zeros((1000, lanes), int), np.zeros((1000, lanes), np.uint8)
    assert helpers.check_round_trip(HAND, rows, symbols, np.full(lanes, 0)) == [b""] * lanes
    assert helpers.check_round_trip(HAND, rows, symbols, np.full(lanes, 255)) == [b"\xff"] * lanes
    # coded first: now the state is above freq, and every symbol costs its log2(4 / 3) bits
    symbols[-1] = 1
    assert 40 < len(helpers.check_round_trip(HAND, rows, symbols, np.full(lanes, 0))[0]) < 60


@pytest.mark.parametrize("lanes", [1, rans.SCALAR_LANES - 1, 64])
@pytest.mark.parametrize("frequency", [1, 2, 65535])
def test_extreme_frequencies_come_back(lanes: int, frequency: int) -> None:
    table = rans.CdfTable(np.array([[0, 65536 - frequency, 65536]]))
    rng = np.random.default_rng(frequency)
    symbols = rng.integers(0, 2, (200, lanes)).astype(np.uint8)
    helpers.check_round_trip(
        table, np.zeros((200, lanes), int), symbols, rng.integers(0, 256, lanes)
    )


def test_a_row_of_one_certain_symbol_is_coded_in_no_bits() -> None:
    table = rans.CdfTable(np.array([[0, 65536, 65536], [0, 40000, 65536]]))
    rng = np.random.default_rng(3)
    indexes = rng.integers(0, 2, (100, 7))
    symbols = helpers.random_symbols(rng, table, indexes)
    messages = helpers.check_round_trip(table, indexes, symbols, np.arange(7))
    for lane, message in enumerate(messages):
        coded = indexes[:, lane] == 1
        assert [message] == helpers.encode(
            table, indexes[coded, lane, None], symbols[coded, lane, None], np.array([lane])
        )


@pytest.mark.parametrize("lanes", [1, rans.SCALAR_LANES - 1, 100])
@pytest.mark.parametrize("scale", [0.3, 1.0, 6.0])
@pytest.mark.parametrize("steps", [50, 3000])
def test_coded_bits_stay_near_the_ideal(lanes: int, scale: float, steps: int) -> None:
    """ideal - 1 <= coded <= 1.005 * ideal + flush; the flush of a lane is its check (8 bits), whole
    bytes (up to 7) and the first steps, which a small state codes coarsely: 24 bits in all."""
    rng = np.random.default_rng([lanes, steps])
    pmf = np.exp(-np.arange(40) / scale)
    freq = np.maximum(1, np.floor(pmf / pmf.sum() * (rans.TOTAL - 40))).astype(int)
    freq[0] += rans.TOTAL - freq.sum()
    table = rans.CdfTable(np.concatenate([[0], np.cumsum(freq)])[None])
    indexes = np.zeros((steps, lanes), int)
    symbols = helpers.random_symbols(rng, table, indexes)
    messages = helpers.encode(table, indexes, symbols, rng.integers(128, 256, lanes))
    ideal = table.ideal_bits(indexes, symbols)
    entropy = -(freq / rans.TOTAL * np.log2(freq / rans.TOTAL)).sum() * symbols.size
    assert ideal == pytest.approx(entropy, rel=0.5)  # the ideal itself is no fiction
    assert ideal - 1 <= 8 * sum(map(len, messages)) <= 1.005 * ideal + 24 * lanes


def test_what_ends_right_is_the_encoding_of_what_was_decoded() -> None:
    """Decoding is one-to-one: bytes that are used up, with the state they end in, are what `encode`
    writes for the symbols they decode to, but for zeros in front. So damage that ends right has
    changed symbols, for whose check (a hash, at the caller's) it is still unlikely; and no damage
    yields the same symbols with the same check."""
    table, indexes, symbols, check = random_message(1, 60, seed=2)
    (message,) = helpers.encode(table, indexes, symbols, check)
    damaged = [*helpers.flips(message), *helpers.cuts(message)]
    passed = 0
    for stream in damaged:
        passes, seen = judge(table, stream, indexes, int(check[0]))
        if passes:
            passed += 1
            assert helpers.encode(table, indexes, seen, check) == [stream.lstrip(b"\0")]
            assert (seen != symbols).any()
    assert judge(table, message, indexes, int(check[0]))[0]
    assert len(damaged) > 100
    assert passed <= len(damaged) // 20  # the start state by itself catches most


@pytest.mark.parametrize("lanes", [1, 6])
def test_nearly_every_bit_flip_ends_wrong_and_other_lanes_stay_whole(lanes: int) -> None:
    """The check is a hash of the symbols, as it is in a stream: one in a few hundred flips finds it
    by chance (which is why streams have a stronger check besides)."""

    def hashed(symbols: np.ndarray) -> np.ndarray:
        return (symbols.astype(np.int64) * (np.arange(len(symbols)) * 37 + 11)[:, None]).sum(
            axis=0
        ) % 251

    table, indexes, symbols, _ = random_message(lanes, 100, seed=5)
    messages = helpers.check_round_trip(table, indexes, symbols, hashed(symbols))
    missed = count = 0
    for damaged in helpers.flips(messages[0]):
        decoder = rans.Decoder([damaged, *messages[1:]])
        seen = decoder.decode(table, indexes)
        np.testing.assert_array_equal(seen[:, 1:], symbols[:, 1:])
        count += 1
        wrong = wrong_lanes(decoder, hashed(seen))
        assert wrong in ([], [0])
        missed += not wrong
    assert count > 150
    assert missed <= count // 50


@pytest.mark.parametrize("lanes", [1, 7])
def test_the_lane_whose_bytes_are_left_over_ends_wrong(lanes: int) -> None:
    table, indexes, symbols, check = random_message(lanes, 30)
    messages = helpers.encode(table, indexes, symbols, check)
    decoder = rans.Decoder([*messages[:-1], messages[-1] + b"\x17\x2a\x99\x01\x02"])
    decoder.decode(table, indexes)
    assert wrong_lanes(decoder, check) == [lanes - 1]


def test_another_check_is_noticed() -> None:
    table, indexes, symbols, check = random_message(1, 30)
    decoder = rans.Decoder(helpers.encode(table, indexes, symbols, check))
    decoder.decode(table, indexes)
    assert wrong_lanes(decoder, check) == []
    assert wrong_lanes(decoder, check + 1) == [0]


@pytest.mark.parametrize("lanes", [1, 5, 6, 40])
@pytest.mark.parametrize("symbols", [2, 256])
def test_decode_each_takes_any_number_of_symbols_of_each_lane(lanes: int, symbols: int) -> None:
    """Frequencies of each symbol on their own; in a call a lane has none, one or several, in their
    order.
    """
    rng = np.random.default_rng([lanes, symbols])
    calls = [np.sort(rng.integers(0, lanes, size)) for size in (0, 1, lanes, 3 * lanes, 2)] * 8
    lane = np.concatenate(calls)
    freq = (
        rng.multinomial(
            rans.TOTAL - symbols, rng.dirichlet(np.full(symbols, 0.1), len(lane))
        ).astype(np.uint32)
        + 1
    )
    wanted = np.array([rng.choice(symbols, p=row / rans.TOTAL) for row in freq])
    every = np.arange(len(lane))
    steps = np.bincount(lane, minlength=lanes)
    starts, freqs = (
        np.zeros((steps.max(), lanes), np.uint32),
        np.full((steps.max(), lanes), rans.TOTAL, np.uint32),
    )
    for i in range(lanes):
        mine = every[lane == i]
        starts[: len(mine), i] = (np.cumsum(freq, axis=1) - freq)[mine, wanted[mine]]
        freqs[: len(mine), i] = freq[mine, wanted[mine]]
    check = rng.integers(0, 256, lanes)
    decoder = rans.Decoder(rans.encode(starts, freqs, check))
    ends = np.cumsum([len(call) for call in calls])
    seen = [
        decoder.decode_each(call, freq[end - len(call) : end])
        for call, end in zip(calls, ends, strict=True)
    ]
    np.testing.assert_array_equal(np.concatenate(seen), wanted)
    assert wrong_lanes(decoder, check) == []


@given(st.lists(st.binary(max_size=40), max_size=9), st.integers(0, 60), st.integers(0, 2**32 - 1))
def test_any_bytes_decode_and_those_used_up_encode_back(
    messages: list[bytes], steps: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    table = helpers.random_table(np.random.default_rng(0), 4, 6)
    indexes = rng.integers(-1, 4, (steps, len(messages)))
    decoder = rans.Decoder(messages)
    symbols = decoder.decode(table, indexes)
    state, used_up = decoder.finish()
    assert (symbols < 6).all()
    assert (symbols[indexes < 0] == 0).all()
    assert ((state >= 0) & (state < 1 << 31)).all()
    for i in np.flatnonzero(used_up):
        again = helpers.encode(table, indexes[:, i, None], symbols[:, i, None], state[i, None])
        assert again == [messages[i].lstrip(b"\0")]


@given(st.integers(0, 12), st.integers(0, 80), st.integers(0, 2**32 - 1))
def test_decode_inverts_encode_for_drawn_tables(lanes: int, steps: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = helpers.random_table(rng, rows=3, symbols=int(rng.integers(2, 12)))
    indexes = rng.integers(-1, 3, (steps, lanes))
    helpers.check_round_trip(
        table, indexes, helpers.random_symbols(rng, table, indexes), rng.integers(0, 256, lanes)
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1, 40000, 65536], "from 0 to"),
        ([0, 40000, 65535], "from 0 to"),
        ([0, 50000, 40000, 65536], "decreases"),
    ],
)
def test_a_table_that_is_none_is_refused(row: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rans.CdfTable(np.array([row]))


def test_ideal_bits_are_those_of_the_frequencies() -> None:
    """Symbol 1 of row 0 has a quarter: 2 bits; symbol 1 of row 1 one slot of 2**16: 16 bits."""
    assert HAND.ideal_bits(np.array([0, 1, 0]), np.array([1, 1, 1])) == pytest.approx(20.0)
