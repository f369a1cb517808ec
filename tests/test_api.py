"""The public functions: pixels <-> bytes, statistics, headers, the choice of a model."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest

import codec
from codec import api, metrics
from codec.collection.open import ModelUse
from codec.encoder.encode import Encoder, Packed
from codec.encoder.options import DEFAULT_EFFORT
from codec.encoder.stats import CompressStats
from codec.errors import (
    AezError,
    BadMagic,
    BadModel,
    BitstreamError,
    CorruptPayload,
    ImageError,
    ModelNotFound,
    Truncated,
    UnsupportedVersion,
    UsageError,
)
from codec.format.footer import Footer
from codec.format.headers import (
    BLOCK,
    COLLECTION,
    ImageHeader,
    pack_collection_header,
    pack_image,
    unpack_image_header,
)
from codec.model.ladder import Ladder
from codec.model.ladder_parts import log2_lmbda
from codec.model.pixels import Pixels
from codec.model.stored import stored_bytes


def decoded(pixels: np.ndarray, quality: int, model: Ladder) -> np.ndarray:
    return model.encode(
        pixels.reshape(-1, 28, 28), quality, group=1, effort=DEFAULT_EFFORT
    ).pixels.reshape(pixels.shape)


# ---- round trips


@pytest.mark.parametrize("shape", [(28, 28), (1, 28, 28), (0, 28, 28), (19, 28, 28)])
@pytest.mark.parametrize("quality", [0, 75, 99])
def test_decompress_inverts_compress_in_shape_and_pixels(
    shape: tuple[int, ...], quality: int, shipped: Ladder
) -> None:
    pixels = helpers.drawn(max(1, *shape[:-2]) if len(shape) == 3 else 1)[: shape[0]].reshape(shape)
    result = codec.decompress(codec.compress(pixels, quality=quality))
    assert result.shape == shape
    assert result.dtype == np.uint8
    if pixels.size:
        np.testing.assert_array_equal(result, decoded(pixels, quality, shipped))


def test_the_default_quality_is_75(shipped: Ladder) -> None:
    image = helpers.drawn(1)[0]
    assert (
        codec.compress(image)
        == codec.compress(image, quality=75)
        != codec.compress(image, quality=30)
    )
    assert codec.compress(image, quality=np.int64(75)) == codec.compress(image)  # type: ignore[arg-type]


@pytest.mark.usefixtures("shipped")
def test_arrays_in_any_memory_layout_are_taken() -> None:
    pixels = helpers.drawn(20)
    assert api.compress(np.asfortranarray(pixels)) == api.compress(pixels)
    assert api.compress(
        np.ascontiguousarray(pixels.transpose(0, 2, 1)).transpose(0, 2, 1)
    ) == api.compress(pixels)
    assert api.compress(np.repeat(pixels, 2, axis=0)[::2]) == api.compress(pixels)


@pytest.mark.usefixtures("shipped")
def test_compress_images_equals_compress_image_one_by_one() -> None:
    pixels = helpers.drawn(20)
    streams, stats = api.compress_images(pixels, quality=50)
    singles = [api.compress_image(image, quality=50) for image in pixels]
    assert streams == [stream for stream, _ in singles]
    total = CompressStats()
    for _, one in singles:
        total += one
    assert total == stats
    assert api.compress_images(pixels[:0]) == ([], CompressStats())


@pytest.mark.usefixtures("shipped")
def test_a_single_image_costs_six_bytes_over_its_payload() -> None:
    for image in helpers.drawn(8):
        stream, stats = api.compress_image(image)
        assert len(stream) == stats.bytes_out == stats.payload_bytes + 6


@pytest.mark.usefixtures("shipped")
def test_names_are_for_collections() -> None:
    assert api.open(api.compress(helpers.drawn(1), names=["a"])).names == ["a"]
    with pytest.raises(UsageError, match="a single image cannot have a name"):
        api.compress(helpers.drawn(1)[0], names=["a"])
    with pytest.raises(UsageError, match="2 names for 3 images"):
        api.compress(helpers.drawn(3), names=["a", "b"])
    with pytest.raises(UsageError, match=r"^1 name for 3 images$"):
        api.compress(helpers.drawn(3), names=["a"])
    with pytest.raises(UsageError, match="NUL"):
        api.compress(helpers.drawn(1), names=["a\0"])


@pytest.mark.usefixtures("shipped")
def test_names_are_a_list_of_texts() -> None:
    for wrong, said in (
        ([1, 2], "name 0 is 1, not a text"),
        (["a", None], "name 1 is None, not a text"),
        ("ab", "names is 'ab': give a list with a name for each image"),
    ):
        with pytest.raises(UsageError, match=f"^{said}$"):
            api.compress(helpers.drawn(2), names=wrong)  # type: ignore[arg-type]
    for good in (("a", "b"), np.array(["a", "b"]), iter(["a", "b"])):
        assert api.open(api.compress(helpers.drawn(2), names=good)).names == ["a", "b"]  # type: ignore[arg-type]


NOISE = np.random.default_rng(5).integers(0, 256, (3, 28, 28)).astype(np.uint8)


@pytest.mark.usefixtures("shipped_lossless")
@pytest.mark.parametrize(
    "strided",
    [
        NOISE.transpose(0, 2, 1),
        NOISE[:, :, ::-1],
        NOISE[::-1, ::-1],
        np.asfortranarray(NOISE),
        np.broadcast_to(NOISE[:1], (3, 28, 28)),
        np.repeat(np.repeat(NOISE, 2, 1), 2, 2)[:, ::2, ::2],
    ],
    ids=["transposed", "mirrored", "reversed", "fortran", "broadcast", "every second"],
)
@pytest.mark.parametrize(
    "options", [{}, {"lossless": True}, {"max_bytes": 999}, {"min_psnr": 90}], ids=str
)
def test_strides_of_an_array_do_not_matter(strided: np.ndarray, options: dict[str, Any]) -> None:
    plain = strided.copy(order="C")
    assert api.compress(strided, **options) == api.compress(plain, **options)
    assert api.compress(strided[0], **options) == api.compress(plain[0], **options)


@pytest.mark.parametrize("file", [None, "x.aez"])
def test_a_writer_needs_a_file(file: Any) -> None:
    with pytest.raises(TypeError, match=f"is written to a binary file, not to {file!r}"):
        api.CollectionWriter(file)


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("first", [["a"], None])
def test_all_images_of_a_collection_have_names_or_none_has(first: list[str] | None) -> None:
    writer = api.CollectionWriter(io.BytesIO())
    writer.write(helpers.drawn(1), first)
    with pytest.raises(UsageError, match="some images"):
        writer.write(helpers.drawn(1), None if first else ["a"])


@pytest.mark.usefixtures("shipped")
def test_a_writer_left_by_an_exception_writes_no_footer() -> None:
    file = io.BytesIO()

    def write() -> None:
        with api.CollectionWriter(file) as writer:
            writer.write(helpers.drawn(2))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    with pytest.raises(BitstreamError):
        api.decompress(file.getvalue())


# ---- what is refused


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((28, 28), np.float32),
        np.zeros((28, 28), np.int8),
        np.zeros((28, 28), np.uint16),
        np.zeros((28, 28), bool),
        np.zeros((27, 28), np.uint8),
        np.zeros((28, 28, 3), np.uint8),
        np.zeros((2, 1, 28, 28), np.uint8),
        np.zeros(784, np.uint8),
        np.zeros((), np.uint8),
        [[0] * 28] * 28,
        None,
        "pixels",
    ],
)
def test_pixels_of_another_type_or_shape_are_an_image_error(pixels: Any) -> None:
    with pytest.raises(ImageError, match=r"pixels are .*; give uint8 \(28, 28\) or \(N, 28, 28\)"):
        api.compress(pixels)
    with pytest.raises(ImageError, match="pixels are"):
        api.compress_image(pixels)
    with pytest.raises(ImageError, match="pixels are"):
        api.compress_images(pixels)


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("quality", [-1, 101, 1000, 75.0, 0.5, "75"])
def test_a_quality_out_of_range_is_a_usage_error(quality: Any) -> None:
    with pytest.raises(UsageError, match="give a whole number from 0 to 100"):
        api.compress(helpers.drawn(1)[0], quality=quality)
    with pytest.raises(UsageError):
        api.compress(helpers.drawn(1), quality=quality)


# ---- statistics


@pytest.mark.usefixtures("shipped")
def test_statistics_are_those_of_the_whole_file() -> None:
    pixels, file = helpers.drawn(50), io.BytesIO()
    with api.CollectionWriter(file, quality=30) as writer:
        writer.write(pixels[:20])
        writer.write(pixels[20:])
    stats, stream = writer.stats, file.getvalue()
    x_hat = api.decompress(stream)
    mse = np.square(pixels.astype(float) - x_hat).mean()
    assert stats.images == 50
    assert stats.bytes_out == len(stream)
    assert stats.payload_bytes == api.open(stream).payload_bytes
    assert stats.squared_error == np.square(pixels.astype(int) - x_hat).sum()
    assert stats.bpp == pytest.approx(8 * len(stream) / (50 * 784))
    assert stats.psnr_db == pytest.approx(10 * np.log10(255**2 / mse))
    assert stats.models == {"tiny0": 50}
    assert not stats.lossless


def test_statistics_of_nothing_and_of_perfection() -> None:
    assert CompressStats().bpp == 0.0
    assert CompressStats(images=3).psnr_db is None
    assert CompressStats(images=3).lossless
    total = CompressStats(1, 10, 4, 5, {"a": 1})
    total += CompressStats(2, 20, 6, 7, {"a": 1, "b": 1})
    assert total == CompressStats(3, 30, 10, 12, {"a": 2, "b": 1})


def test_metrics_worked_out_by_hand() -> None:
    """Two pixels off by 255 and 1: squared error 65026.

    One of four pixels off by 255: mean 255**2 / 4, 6.02 dB.
    """
    assert metrics.squared_error(np.array([255, 0], np.uint8), np.array([0, 1], np.uint8)) == 65026
    assert metrics.psnr_db(255**2, 4) == pytest.approx(6.0206, abs=1e-4)
    assert metrics.psnr_db(0, 4) is None
    assert metrics.bpp(98, 784) == 1.0
    many = np.full((2000, 28, 28), 255, np.uint8)
    assert metrics.squared_error(many, np.zeros_like(many)) == 2000 * 784 * 65025  # beyond 32 bits
    many[1, 0, 0], many[2] = 1, 0
    wanted = np.full(2000, 784 * 65025)
    wanted[1:3] = 783 * 65025 + 1, 0
    assert (metrics.squared_errors(many, np.zeros_like(many)) == wanted).all()


# ---- the choice of a model


def test_auto_takes_the_cheaper_model_for_each_single_image(two_shipped: list[Ladder]) -> None:
    pixels, quality = helpers.drawn(24), 60
    costs = []
    for model in two_shipped:
        encoded = model.encode(pixels, quality, group=1, effort=DEFAULT_EFFORT)
        sse = np.square((pixels - encoded.pixels.astype(float)) / 255).sum(axis=(1, 2))
        costs.append(
            2 ** log2_lmbda(quality) * sse + 8 * np.array([len(m) for m in encoded.messages])
        )
    cheaper = np.argmin(costs, axis=0)
    assert len(set(cheaper.tolist())) == 2  # both are of use: the test can fail
    streams, stats = api.compress_images(pixels, quality=quality)
    assert [stream[3] for stream in streams] == (cheaper + 1).tolist()
    assert stats.models == {f"tiny{i}": int((cheaper == i).sum()) for i in (0, 1)}


def test_auto_takes_the_cheaper_model_for_a_block(two_shipped: list[Ladder]) -> None:
    sizes = {}
    for name in ("tiny0", "tiny1", "auto"):
        file = io.BytesIO()
        # lambda 1: cost is SSE and bits as they are
        with api.CollectionWriter(file, quality=0, model=name) as writer:
            writer.write(helpers.drawn(30))
        sizes[name] = (
            writer.stats.squared_error / 255**2 + 8 * writer.stats.payload_bytes,
            file.getvalue(),
        )
    assert sizes["auto"][0] == min(sizes["tiny0"][0], sizes["tiny1"][0])
    assert sizes["tiny0"][0] != sizes["tiny1"][0]


@pytest.mark.usefixtures("foreign")
def test_auto_without_shipped_models_says_so() -> None:
    with pytest.raises(ModelNotFound, match="no model is shipped"):
        api.compress(helpers.drawn(1)[0])


def test_a_foreign_model_is_named_by_its_hash(foreign: Ladder) -> None:
    image = helpers.drawn(1)[0]
    stream, stats = api.compress_image(image, model="tiny0")
    header, offset = unpack_image_header(stream)
    assert (header.model_id, header.model_hash) == (0, foreign.hash)
    assert len(stream) == offset + stats.payload_bytes == 6 + 11 + stats.payload_bytes
    np.testing.assert_array_equal(api.decompress(stream), decoded(image, 75, foreign))


def test_a_foreign_model_decodes_where_it_is_given_and_nowhere_else(
    foreign: Ladder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = helpers.install(tmp_path / "elsewhere")
    for pixels in (helpers.drawn(1)[0], helpers.drawn(3)):
        monkeypatch.delenv("AEZ_WEIGHTS")
        stream = api.compress(pixels, model=str(path))
        expected = decoded(pixels, 75, foreign)
        with pytest.raises(ModelNotFound, match=foreign.hash.hex()) as caught:
            api.decompress(stream)
        assert caught.value.model_hash == foreign.hash.hex()
        np.testing.assert_array_equal(api.decompress(stream, model=str(path)), expected)
        monkeypatch.setenv("AEZ_WEIGHTS", str(path.parent))
        np.testing.assert_array_equal(api.decompress(stream), expected)
        np.testing.assert_array_equal(api.decompress(stream, model="tiny0"), expected)
        if pixels.ndim == 3:
            np.testing.assert_array_equal(api.open(stream, model=str(path))[1], expected[1])


def test_a_given_model_is_not_forced_on_a_stream_of_another(two_shipped: list[Ladder]) -> None:
    image = helpers.drawn(1)[0]
    stream = api.compress(image, model="tiny0")
    np.testing.assert_array_equal(
        api.decompress(stream, model="tiny1"), decoded(image, 75, two_shipped[0])
    )


def test_a_missing_or_damaged_model_is_a_model_error(shipped: Ladder, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no model is called 'nist' \(installed: .*tiny0"):
        api.compress(helpers.drawn(1), model="nist")
    with pytest.raises(ModelNotFound, match="No such file"):
        api.compress(helpers.drawn(1), model=str(tmp_path / "none.safetensors"))
    (tmp_path / "bad.safetensors").write_bytes(b"no model")
    with pytest.raises(BadModel, match=r"bad\.safetensors: not a model file"):
        api.compress(helpers.drawn(1), model=str(tmp_path / "bad.safetensors"))
    stream = bytearray(api.compress(helpers.drawn(1)[0]))
    stream[3] = 200
    with pytest.raises(ModelNotFound, match="model number 200 is unknown"):
        api.decompress(bytes(stream))


# ---- lossless


@pytest.mark.usefixtures("shipped_lossless")
@pytest.mark.parametrize("shape", [(28, 28), (1, 28, 28), (0, 28, 28), (40, 28, 28)])
def test_lossless_gives_every_pixel_back_and_is_quality_100(shape: tuple[int, ...]) -> None:
    pixels = helpers.drawn(40)[: shape[0]] if len(shape) == 3 else helpers.drawn(40)[0]
    stream = codec.compress(pixels, lossless=True)
    np.testing.assert_array_equal(codec.decompress(stream), pixels)
    assert (
        stream
        == codec.compress(pixels, quality=100)
        == codec.compress(pixels, quality=100, lossless=True)
    )
    info = codec.info(stream)
    assert (info.lossless, info.quality) == (True, 100 if pixels.size else None)


def test_lossless_figures_are_those_of_the_file(shipped_lossless: Pixels) -> None:
    file = io.BytesIO()
    with api.CollectionWriter(file, lossless=True) as writer:
        writer.write(helpers.drawn(40))
    stats = writer.stats
    assert (stats.images, stats.bytes_out, stats.squared_error) == (40, len(file.getvalue()), 0)
    assert (stats.lossless, stats.psnr_db, stats.models) == (True, None, {"tiny0-lossless": 40})
    info = api.info(file.getvalue())
    assert (info.model, info.model_hash) == ("tiny0-lossless", shipped_lossless.hash.hex())
    with api.open(file.getvalue()) as collection:
        np.testing.assert_array_equal(collection[[39, 2, 17]], helpers.drawn(40)[[39, 2, 17]])


@pytest.mark.usefixtures("shipped_lossless")
def test_a_single_image_that_no_model_makes_smaller_is_stored_in_at_most_790_bytes() -> None:
    pixels = helpers.drawn(16)
    streams, stats = api.compress_images(pixels, lossless=True)
    for image, stream in zip(pixels, streams, strict=True):
        np.testing.assert_array_equal(api.decompress(stream), image)
        assert len(stream) <= 6 + len(stored_bytes(image)) <= 790
        assert stream[4] == 100 or stream == pack_image(
            ImageHeader(0, 101), stored_bytes(image), b""
        )
    kinds = [stream[4] for stream in streams]
    assert stats.models == {"tiny0-lossless": kinds.count(100), "stored": kinds.count(101)}
    assert kinds.count(100) > 2
    noise = helpers.drawn(16)[2]
    assert streams[2][6:] == noise.tobytes()
    info = api.info(streams[2])
    assert (info.lossless, info.quality, info.model, info.model_hash) == (True, 101, None, "")
    assert (info.bytes, info.payload_bytes) == (790, 784)


def test_a_stored_image_needs_no_model(
    shipped_lossless: Pixels, monkeypatch: pytest.MonkeyPatch, ship: Callable[..., None]
) -> None:
    noise = helpers.drawn(16)[2]
    stream = api.compress(noise, lossless=True)
    monkeypatch.delenv("AEZ_WEIGHTS")
    ship({})
    decoded_noise = api.decompress(stream)
    np.testing.assert_array_equal(decoded_noise, noise)
    assert decoded_noise.flags.writeable


@pytest.mark.usefixtures("foreign")
def test_a_foreign_lossless_model_never_makes_an_image_longer_than_stored() -> None:
    for image in helpers.drawn(8):
        stream = api.compress(image, model="tiny0", lossless=True)
        np.testing.assert_array_equal(api.decompress(stream), image)
        assert len(stream) <= 6 + len(stored_bytes(image))


@pytest.mark.parametrize(
    "payload", [b"", b"x", bytes(783), bytes(785), stored_bytes(np.zeros((28, 28), np.uint8))[:-1]]
)
def test_a_stored_payload_of_no_image_is_corrupt(payload: bytes) -> None:
    with pytest.raises(CorruptPayload) as caught:
        api.decompress(pack_image(ImageHeader(0, 101), payload, b""))
    assert caught.value.offset == 6


@pytest.mark.usefixtures("shipped_lossless")
def test_every_bit_flip_and_truncation_of_lossless_single_images_is_refused() -> None:
    pixels = helpers.drawn(16)
    for image in (pixels[0], pixels[1]):
        stream = api.compress(image, lossless=True)
        for damaged in [*helpers.flips(stream), *helpers.cuts(stream)]:
            with pytest.raises((BitstreamError, ModelNotFound)):
                api.decompress(damaged)


def test_a_quality_that_the_model_cannot_have_is_corrupt(shipped_lossless: Pixels) -> None:
    for model, number, quality in ((helpers.tiny_model(), 1, 100), (shipped_lossless, 3, 99)):
        stream = pack_image(ImageHeader(number, quality), b"", model.sha256)
        with pytest.raises(
            CorruptPayload,
            match=f"the quality is {quality}, but model {model.name} is {model.kind}",
        ) as caught:
            api.decompress(stream)
        assert caught.value.offset == 4


@pytest.mark.usefixtures("shipped_lossless")
def test_a_request_that_contradicts_itself_is_a_usage_error() -> None:
    for pixels in (helpers.drawn(1), helpers.drawn(1)[0]):
        with pytest.raises(UsageError, match="quality 75 is not lossless"):
            api.compress(pixels, quality=75, lossless=True)
        with pytest.raises(UsageError, match="model tiny0-lossless is lossless; give a lossy one"):
            api.compress(pixels, model="tiny0-lossless")
        with pytest.raises(UsageError, match="model tiny1 is lossy; give a lossless one"):
            api.compress(pixels, model="tiny1", lossless=True)


@pytest.mark.usefixtures("shipped")
def test_lossless_without_a_shipped_model_says_so() -> None:
    with pytest.raises(ModelNotFound, match="no lossless model is shipped"):
        api.compress(helpers.drawn(1), lossless=True)


def test_auto_takes_the_smaller_of_two_lossless_models(
    shipped_lossless: Pixels,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ship: Callable[..., None],
) -> None:
    models = [shipped_lossless, helpers.tiny_pixel_model(1)]
    monkeypatch.setenv("AEZ_WEIGHTS", str(helpers.install(tmp_path, 0, lossless=True).parent))
    helpers.install(tmp_path, 1, lossless=True)
    ship(dict(enumerate(models, 3)))
    pixels = helpers.drawn(24)
    sizes = np.array([[len(m) for m in model.encode(pixels, group=1).messages] for model in models])
    streams, _ = api.compress_images(pixels, lossless=True)
    seen = [stream[3] for stream in streams]
    assert {3, 4} <= set(seen)
    assert all(number in (0, 3 + size.argmin()) for number, size in zip(seen, sizes.T, strict=True))
    stream = api.compress(pixels, lossless=True)
    for part in api.open(stream).blocks[0].parts:
        k = [model.hash for model in models].index(part.model_hash)
        np.testing.assert_array_equal(sizes[k, part.images], sizes.min(axis=0)[part.images])
    np.testing.assert_array_equal(api.decompress(stream), pixels)


@pytest.mark.usefixtures("shipped_lossless")
def test_decompress_takes_a_lossless_model_by_name_or_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ship: Callable[..., None]
) -> None:
    path = helpers.install(tmp_path, lossless=True)
    monkeypatch.delenv("AEZ_WEIGHTS")
    ship({})
    pixels = helpers.drawn(20)
    stream = api.compress(pixels, lossless=True, model=str(path))
    with pytest.raises(ModelNotFound):
        api.decompress(stream)
    np.testing.assert_array_equal(api.decompress(stream, model=str(path)), pixels)


# ---- info


def test_info_of_a_single_image_reads_no_payload(shipped: Ladder) -> None:
    header = ImageHeader(1, 33).pack()
    info = api.info(header + b"garbage!")
    assert info == api.StreamInfo(
        *(1, 1, 28, 28, "tiny0", shipped.hash.hex(), 33, False, len(header) + 8, 8),
        qualities={33: 1},
        models=[ModelUse("tiny0", shipped.hash.hex(), 1, 8)],
    )
    assert api.info(io.BytesIO(header + b"garbage!")) == info
    with pytest.raises(AezError):
        api.decompress(header + b"garbage!")


def test_info_of_a_collection_reads_no_payload(shipped: Ladder) -> None:
    stream = api.compress(helpers.drawn(30), quality=20)
    header = api.open(stream).blocks[0].header
    at = COLLECTION.size + BLOCK.size
    garbage = stream[:at] + bytes(header.body_bytes) + stream[at + header.body_bytes :]
    info = api.info(garbage)
    assert info == api.info(stream)
    assert (info.images, info.model, info.quality, info.bytes) == (30, "tiny0", 20, len(stream))
    assert info.payload_bytes == header.payload_bytes > 0
    assert info.model_hash == shipped.hash.hex()


def test_info_of_an_empty_collection_has_no_model() -> None:
    info = api.info(pack_collection_header() + Footer(()).pack())
    assert (info.images, info.model, info.model_hash, info.quality, info.payload_bytes) == (
        0,
        None,
        "",
        None,
        0,
    )


def test_info_works_without_the_model(foreign: Ladder, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = [
        api.compress(pixels, quality=5, model="tiny0")
        for pixels in (helpers.drawn(1)[0], helpers.drawn(2))
    ]
    monkeypatch.delenv("AEZ_WEIGHTS")
    for stream in streams:
        info = api.info(stream)
        assert (info.model, info.model_hash, info.quality) == (None, foreign.hash.hex(), 5)


@pytest.mark.parametrize(
    ("stream", "error"),
    [
        (b"", Truncated),
        (b"\xae\x5a", Truncated),
        (b"GIF89a", BadMagic),
        (b"\xae\x5a\x20aaaaa", UnsupportedVersion),
    ],
)
def test_what_is_no_stream_is_refused_by_all_readers(
    stream: bytes, error: type[BitstreamError]
) -> None:
    readers: list[Any] = [
        api.info,
        api.decompress,
        api.open,
        helpers.salvage,
    ]
    for reader in readers:
        with pytest.raises(error):
            reader(stream)


# ---- damage to one image


def test_a_payload_that_passes_the_check_but_not_the_coder_is_corrupt(shipped: Ladder) -> None:
    header = ImageHeader(1, 75)
    for payload in (bytes(5), b"\xff" * 40):
        with pytest.raises(CorruptPayload):
            api.decompress(pack_image(header, payload, shipped.sha256))


def test_models_lists_what_is_installed(shipped: Ladder, tiny_weights: Path) -> None:
    assert {m.name: m.lossless for m in api.models()}.items() >= {
        "tiny0": False,
        "tiny0-lossless": True,
    }.items()
    (found,) = [m for m in api.models() if m.hash == shipped.hash.hex()]
    assert (found.name, found.trained_on, found.figures) == ("tiny0", "dice", {"psnr_db": 1.5})
    assert Path(found.path).parent == tiny_weights
    assert found.bytes == Path(found.path).stat().st_size


@pytest.mark.parametrize("figures", [5, [1], "text", None])
def test_models_takes_a_card_with_odd_figures_or_says_it_is_bad(
    figures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = helpers.pack_pair(helpers.tiny_tensors(), {"name": "odd", "figures": figures})
    (tmp_path / "odd.safetensors").write_bytes(model)
    monkeypatch.setenv("AEZ_WEIGHTS", str(tmp_path))
    try:
        assert "odd" in [m.name for m in api.models()]
    except BadModel:
        pass


# ---- the writer


@pytest.mark.parametrize("step", [1000, 1, 7])
def test_a_writer_copies_each_image_a_fixed_number_of_times(
    step: int, monkeypatch: pytest.MonkeyPatch, shipped: Ladder
) -> None:
    """Whatever the images come in: all at once, one by one. It was quadratic: 50 times each."""
    pixels = np.arange(1000 * 784, dtype=np.uint32).astype(np.uint8).reshape(1000, 28, 28)
    blocks: list[tuple[np.ndarray, list[str]]] = []
    copied = 0
    real = np.concatenate

    def block(encoder: Encoder, some: np.ndarray, names: Any, labels: Any) -> Packed:
        blocks.append((some, names))
        return Packed(b"block", CompressStats())

    def concatenate(arrays: Any, *args: Any, **options: Any) -> np.ndarray:
        nonlocal copied
        whole = real(arrays, *args, **options)
        copied += len(whole)
        return whole

    monkeypatch.setattr(Encoder, "block", block)
    monkeypatch.setattr(np, "concatenate", concatenate)
    writer = api.CollectionWriter(io.BytesIO(), block_images=10)
    names = [str(i) for i in range(len(pixels))]
    for at in range(0, 995, step):
        end = min(at + step, 995)
        writer.write(pixels[at:end], names[at:end])
        writer.write(pixels[:0], [])
    writer.close()
    monkeypatch.undo()
    assert [len(some) for some, _ in blocks] == [10] * 99 + [5]
    np.testing.assert_array_equal(np.concatenate([some for some, _ in blocks]), pixels[:995])
    assert [name for _, some in blocks for name in some] == names[:995]
    assert copied <= 1000


def test_what_waits_in_a_writer_is_not_the_callers_array(shipped: Ladder) -> None:
    pixels = helpers.drawn(5).copy()
    file = io.BytesIO()
    with api.CollectionWriter(file, effort=1) as writer:
        writer.write(pixels)
        pixels[:] = 7
    assert file.getvalue() == api.compress(helpers.drawn(5), effort=1)


# ---- the public names


def test_the_public_names_are_these() -> None:
    functions = ["compress", "decompress", "info", "latents", "models", "open"]
    errors = [
        "AezError",
        "BadMagic",
        "BadModel",
        "BitstreamError",
        "ChecksumMismatch",
        "CorruptPayload",
        "EncoderNotFound",
        "ImageError",
        "LimitExceeded",
        "ModelError",
        "ModelNotFound",
        "ReservedBitsSet",
        "TrailingData",
        "Truncated",
        "UnsupportedVersion",
        "UsageError",
    ]
    assert sorted(codec.__all__) == sorted(
        [*functions, *errors, "Collection", "CollectionWriter", "register"]
    )
    assert {"__version__", *codec.__all__} <= set(dir(codec))
    for name in functions:
        assert getattr(codec, name) is getattr(api, name)
    for name in codec.__all__:
        assert getattr(codec, name).__doc__, name
    with pytest.raises(AttributeError, match="'codec' has no attribute 'nothing'"):
        _ = codec.nothing


def test_every_error_is_in_the_tree_and_survives_pickling() -> None:
    import pickle

    for name in codec.__all__:
        kind = getattr(codec, name)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            continue
        assert issubclass(kind, AezError)
        more = ["who"] if kind is ModelNotFound else [7] if issubclass(kind, BitstreamError) else []
        error = kind("what", *more)
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), vars(copy)) == (kind, str(error), vars(error))
    assert str(Truncated("cut", 7)) == "byte 7: cut"
    assert issubclass(BitstreamError, ValueError)
    assert issubclass(ImageError, ValueError)
