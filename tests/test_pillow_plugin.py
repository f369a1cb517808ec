"""Pillow and imageio read and write `.aez` files."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
from PIL import Image, ImageSequence, UnidentifiedImageError

import codec
from codec import pillow_plugin
from codec.errors import (
    BadModel,
    ChecksumMismatch,
    CorruptPayload,
    ImageError,
    ModelNotFound,
    UsageError,
)
from codec.format.headers import BLOCK, COLLECTION
from codec.model.ladder import Ladder

pytestmark = pytest.mark.usefixtures("shipped_lossless")
QUALITY = 40
ONE = helpers.drawn(8)[0]
NAMES = [f"{i % 3}/{i}.png" for i in range(40)]


def grey(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels)


def single(**options: Any) -> bytes:
    return codec.compress(ONE, **({"quality": QUALITY} if not options else options))


def collection(count: int = 40, names: list[str] | None = None, block_images: int = 4096) -> bytes:
    file = io.BytesIO()
    with codec.CollectionWriter(
        file, quality=QUALITY, effort=1, block_images=block_images
    ) as writer:
        writer.write(helpers.drawn(count), names)
    return file.getvalue()


def saved(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "AEZ", **options)
    return file.getvalue()


def frames_of(image: Image.Image) -> np.ndarray:
    return np.stack([np.array(frame) for frame in ImageSequence.Iterator(image)])


@pytest.fixture
def many(tmp_path: Path) -> Path:
    path = tmp_path / "many.aez"
    path.write_bytes(collection(names=NAMES))
    return path


# ---- one image


@pytest.mark.parametrize(
    "options", [{}, {"lossless": True}, {"quality": 100}, {"max_bytes": 60}, {"effort": 1}]
)
def test_an_image_is_saved_as_compress_makes_it_and_opened_as_decompress_does(
    options: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "x.aez"
    grey(ONE).save(path, **options)
    assert path.read_bytes() == codec.compress(ONE, **options)
    with Image.open(path) as image:
        assert (image.format, image.mode, image.size) == ("AEZ", "L", (28, 28))
        assert (image.n_frames, image.is_animated, image.tell()) == (1, False, 0)
        assert image.get_format_mimetype() == "image/x-aez"
        np.testing.assert_array_equal(np.array(image), codec.decompress(path.read_bytes()))


def test_a_model_can_be_named(tiny_weights: Path) -> None:
    assert saved(grey(ONE), model="tiny1") == codec.compress(ONE, model="tiny1")
    path = next(str(path) for path in tiny_weights.glob("tiny1-????????.safetensors"))
    assert saved(grey(ONE), model=path, min_psnr=5) == codec.compress(ONE, model=path, min_psnr=5)


def test_the_suffix_is_registered() -> None:
    assert Image.registered_extensions()[".aez"] == "AEZ"
    assert Image.MIME["AEZ"] == "image/x-aez"
    assert codec.register is pillow_plugin.register
    ids = list(Image.ID)
    codec.register()  # once more changes nothing
    assert ids == Image.ID


def test_opening_decodes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("decoded")

    streams = single(), collection()
    monkeypatch.setattr(Ladder, "decode", refuse)
    for stream in streams:
        image = Image.open(io.BytesIO(stream))
        assert image.size == (28, 28)
        with pytest.raises(AssertionError, match="decoded"):
            image.load()


def test_pixels_can_be_changed_without_a_change_of_the_file(many: Path) -> None:
    with Image.open(many) as image:
        image.putpixel((3, 4), 77)
        assert image.getpixel((3, 4)) == 77
        image.seek(1)
        image.seek(0)
        assert np.array_equal(np.array(image), codec.open(many)[0])


def test_a_file_given_open_is_left_open_and_one_given_by_path_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "x.aez"
    path.write_bytes(single())
    with path.open("rb") as file:
        Image.open(file).load()
        assert not file.closed
    image = Image.open(path)
    opened = image.fp
    image.load()
    assert opened.closed
    image.close()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA", "RGBA"])
def test_grey_in_any_mode_is_saved_exactly(mode: str) -> None:
    plain = grey(ONE if mode != "1" else np.where(ONE > 99, 255, 0).astype(np.uint8))
    assert saved(plain.convert(mode), lossless=True) == saved(plain, lossless=True)


COLOUR = Image.new("RGB", (28, 28), (9, 8, 7))
REFUSED = [
    (Image.new("L", (32, 28)), "32x28 pixels"),
    (COLOUR, "in colour"),
    (Image.new("LA", (28, 28), (5, 100)), "has transparency"),
    (Image.new("I;16", (28, 28)), "16 bits"),
    (Image.new("F", (28, 28)), "32 bits"),
    (Image.new("CMYK", (28, 28)), r"in colour \(CMYK\)"),
]


@pytest.mark.parametrize(("image", "why"), REFUSED)
@pytest.mark.parametrize("save_all", [False, True])
def test_what_is_not_28x28_grey_is_refused_as_pillow_refuses(
    image: Image.Image, why: str, save_all: bool, tmp_path: Path
) -> None:
    with pytest.raises(
        OSError, match=f"cannot write as AEZ: (the image|frame 0): .*{why}"
    ) as caught:
        image.save(tmp_path / "x.aez", save_all=save_all)
    assert isinstance(caught.value.__cause__, ImageError)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_kept_is_an_os_error_and_a_senseless_option_a_value_error() -> None:
    for options, cause in (({"max_bytes": 1}, ImageError), ({"model": "nobody"}, ModelNotFound)):
        with pytest.raises(OSError, match="cannot write as AEZ") as caught:
            saved(grey(helpers.drawn(3)[2]), **options)
        assert isinstance(caught.value.__cause__, cause)
    for options in ({"quality": 101}, {"quality": 30, "lossless": True}, {"effort": 0}):
        with pytest.raises(ValueError, match=r"wanted|not lossless") as wrong:
            saved(grey(ONE), **options)
        assert isinstance(wrong.value, UsageError)


def test_options_of_other_formats_are_ignored() -> None:
    assert saved(grey(ONE), optimize=True, compress_level=9) == saved(grey(ONE))


def test_a_single_image_has_no_second_frame() -> None:
    image = Image.open(io.BytesIO(single()))
    image.seek(0)
    for frame in (1, -1):
        with pytest.raises(EOFError):
            image.seek(frame)
    assert len(list(ImageSequence.Iterator(image))) == 1


# ---- collections


def test_a_collection_is_an_image_of_several_frames(many: Path) -> None:
    expected = codec.decompress(many.read_bytes())
    with Image.open(many) as image:
        assert (image.n_frames, image.is_animated) == (40, True)
        for frame in (0, 17, 39, 3, 3, 16):
            image.seek(frame)
            assert image.tell() == frame
            np.testing.assert_array_equal(np.array(image), expected[frame])
            assert image.info["name"] == NAMES[frame]
        for frame in (40, -1, 1 << 40):
            with pytest.raises(EOFError):
                image.seek(frame)
        assert image.tell() == 16
        np.testing.assert_array_equal(np.array(image), expected[16])
        np.testing.assert_array_equal(frames_of(image), expected)


def test_frames_without_names_have_none_in_their_info() -> None:
    image = Image.open(io.BytesIO(collection(3)))
    assert (image.load() is not None, image.info) == (True, {})


def test_neighbours_are_decoded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    # groups of 16, 4, 16 and 4
    stream, counts, decode = collection(block_images=20), [], Ladder.decode
    image = Image.open(io.BytesIO(stream))

    def counted(
        self: Ladder, messages: list[bytes], count: int, quality: int, **options: Any
    ) -> Any:
        counts.append(count)
        return decode(self, messages, count, quality, **options)

    monkeypatch.setattr(Ladder, "decode", counted)
    frames_of(image)
    assert counts == [16, 4, 16, 4]


def test_a_collection_of_one_is_not_animated_and_one_of_none_is_no_image() -> None:
    image = Image.open(io.BytesIO(collection(1)))
    assert (image.n_frames, image.is_animated) == (1, False)
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(codec.compress(helpers.drawn(1)[:0])))


def test_save_all_writes_a_collection(tmp_path: Path) -> None:
    images = [grey(pixels) for pixels in helpers.drawn(20)]
    path = tmp_path / "all.aez"
    options = {"quality": 70, "effort": 1}
    images[0].save(path, save_all=True, append_images=iter(images[1:]), names=NAMES[:20], **options)
    assert path.read_bytes() == codec.compress(helpers.drawn(20), names=NAMES[:20], **options)
    assert saved(images[0], save_all=True, **options) == codec.compress(
        helpers.drawn(20)[:1], **options
    )
    embedded = saved(images[0], save_all=True, embed_model=True, **options)
    assert embedded == codec.compress(helpers.drawn(20)[:1], embed_model=True, **options)


def test_save_all_takes_all_frames_of_what_it_is_given_and_leaves_them_where_they_were() -> None:
    image = Image.open(io.BytesIO(collection(20)))
    image.seek(7)
    again = saved(image, save_all=True, append_images=[grey(ONE)], lossless=True)
    assert image.tell() == 7
    expected = np.concatenate([codec.decompress(collection(20)), ONE[None]])
    np.testing.assert_array_equal(codec.decompress(again), expected)


def test_save_without_all_takes_the_frame_at_hand() -> None:
    image = Image.open(io.BytesIO(collection()))
    image.seek(7)
    np.testing.assert_array_equal(
        codec.decompress(saved(image, lossless=True)), codec.decompress(collection())[7]
    )


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"], []])
def test_names_must_be_as_many_as_frames(names: list[str], tmp_path: Path) -> None:
    frames = "2 frames" if len(names) > 2 else rf"{len(names) + 1} frames or more"
    for what, given in (("names", names), ("labels", [7] * len(names))):
        with pytest.raises(UsageError, match=rf"{len(names)} {what} for {frames}"):
            grey(ONE).save(
                tmp_path / "x.aez", save_all=True, append_images=[grey(ONE)], **{what: given}
            )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("labels", [[7, 0, 7], ["seven", "zero", "seven"]])
def test_labels_are_saved_and_come_back_with_their_frames(labels: list[int] | list[str]) -> None:
    images = [grey(pixels) for pixels in helpers.drawn(3)]
    options = {"names": ("a", "b", "c"), "labels": labels}
    stream = saved(images[0], save_all=True, append_images=images[1:], **options)
    assert stream == codec.compress(helpers.drawn(3), **options)
    found = []
    for frame in ImageSequence.Iterator(Image.open(io.BytesIO(stream))):
        frame.load()
        found.append((frame.info["name"], frame.info["label"]))
    assert found == list(zip("abc", labels, strict=True))
    plain = Image.open(io.BytesIO(collection(3)))
    plain.load()
    assert "label" not in plain.info
    with pytest.raises(UsageError, match=r"label 1 is 0.5, wanted an integer"):
        saved(images[0], save_all=True, append_images=images[1:], labels=[0, 0.5, 1])
    with pytest.raises(UsageError, match="names are of type str, wanted a list"):
        saved(images[0], save_all=True, append_images=images[1:], names="abc")


def test_a_bad_frame_is_named_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="frame 2: in colour"):
        grey(ONE).save(tmp_path / "x.aez", save_all=True, append_images=[grey(ONE), COLOUR])
    assert not list(tmp_path.iterdir())


# ---- faults


def test_faults_of_a_header_are_syntax_errors_and_the_file_is_unidentified() -> None:
    damaged = [
        single()[:4],
        single()[:2] + b"\x20" + single()[3:],
        collection()[:-1],
        collection()[:60],
    ]
    damaged += [
        (
            Path(__file__).parent / "golden" / "errors" / "UnsupportedVersion-critical-field.aez"
        ).read_bytes()
    ]
    for stream in damaged:
        with pytest.raises(SyntaxError) as caught:
            pillow_plugin.AezImageFile(io.BytesIO(stream))
        assert isinstance(caught.value.__cause__, codec.BitstreamError)
        with pytest.raises(UnidentifiedImageError):
            Image.open(io.BytesIO(stream))


def test_a_damaged_payload_is_an_os_error_each_time_it_is_asked_for() -> None:
    stream = bytearray(single())
    stream[-1] ^= 1
    image = Image.open(io.BytesIO(stream))
    for _ in range(2):
        with pytest.raises(OSError, match="damaged") as caught:
            image.load()
        assert isinstance(caught.value.__cause__, ChecksumMismatch)


def test_damage_in_one_group_of_a_collection_costs_no_other_frame() -> None:
    stream = bytearray(collection())
    header = codec.open(bytes(stream)).blocks[0].header
    payload = COLLECTION.size + header.block_bytes - header.payload_bytes
    stream[payload : payload + 8] = bytes(8)
    image = Image.open(io.BytesIO(stream))
    with pytest.raises(OSError, match="image 0 and the rest of its group are damaged") as caught:
        image.load()
    assert isinstance(caught.value.__cause__, CorruptPayload)
    image.seek(16)
    np.testing.assert_array_equal(np.array(image), codec.decompress(collection())[16])
    image.seek(1)
    with pytest.raises(OSError, match="damaged"):
        image.load()


def test_damaged_names_cost_no_pixels() -> None:
    stream = bytearray(collection(names=NAMES))
    at = COLLECTION.size + BLOCK.size
    stream[at : at + 8] = bytes(8)
    image = Image.open(io.BytesIO(stream))
    np.testing.assert_array_equal(np.array(image), codec.decompress(collection())[0])
    assert image.info == {}


def test_a_missing_model_is_an_os_error_when_pixels_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streams = [codec.compress(ONE, model="tiny1"), codec.compress(ONE[None], model="tiny1")]
    monkeypatch.setenv("AEZ_WEIGHTS", "")
    for stream in streams:
        image = Image.open(io.BytesIO(stream))
        with pytest.raises(OSError, match="is not installed") as caught:
            image.load()
        assert isinstance(caught.value.__cause__, ModelNotFound)


def test_a_damaged_model_is_an_os_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"no model")
    with pytest.raises(OSError, match="cannot write") as caught:
        saved(grey(ONE), model=str(bad))
    assert isinstance(caught.value.__cause__, BadModel)


@pytest.mark.parametrize("stream", [single, lambda: collection(5)], ids=["single", "collection"])
def test_any_damage_is_an_os_error(stream: Any) -> None:
    rng = np.random.default_rng(0)
    whole = stream()
    for at in rng.integers(0, len(whole), 150).tolist():
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(rng.integers(8))
        for candidate in (bytes(damaged), whole[:at]):
            try:
                image = Image.open(io.BytesIO(candidate), formats=["AEZ"])
                for frame in ImageSequence.Iterator(image):
                    frame.load()
            except OSError:  # UnidentifiedImageError is one
                continue
            assert candidate != whole[:at]


# ---- pickling, copies, imageio, start-up


def test_pickling_keeps_the_frame_at_hand(many: Path) -> None:
    expected = codec.decompress(many.read_bytes())
    with Image.open(many) as image:
        image.seek(5)
        kept = pickle.loads(pickle.dumps(image))
        copied = image.copy()
    for each in (kept, copied):
        np.testing.assert_array_equal(np.array(each), expected[5])
    assert (kept.mode, kept.size, kept.info["name"], kept.n_frames, kept.tell()) == (
        "L",
        (28, 28),
        NAMES[5],
        1,
        0,
    )
    kept.seek(0)
    with pytest.raises(EOFError):
        kept.seek(1)
    assert codec.decompress(saved(kept, lossless=True)).shape == (28, 28)
    kept.close()


def test_imageio_reads_and_writes_through_pillow(tmp_path: Path) -> None:
    imageio = pytest.importorskip("imageio.v3")
    one, all_of_them = tmp_path / "one.aez", tmp_path / "all.aez"
    imageio.imwrite(one, ONE, plugin="pillow", quality=QUALITY)
    assert one.read_bytes() == single()
    np.testing.assert_array_equal(imageio.imread(one, plugin="pillow"), codec.decompress(single()))
    imageio.imwrite(
        all_of_them, helpers.drawn(20), plugin="pillow", is_batch=True, quality=QUALITY, effort=1
    )
    assert all_of_them.read_bytes() == collection(20)
    expected = codec.decompress(collection(20))
    np.testing.assert_array_equal(
        imageio.imread(all_of_them, plugin="pillow", index=7), expected[7]
    )
    np.testing.assert_array_equal(imageio.imread(all_of_them, plugin="pillow", index=...), expected)
    np.testing.assert_array_equal(
        np.stack(list(imageio.imiter(all_of_them, plugin="pillow"))), expected
    )


def test_importing_the_codec_leaves_pillow_alone_until_it_is_registered(tiny_weights: Path) -> None:
    code = """
import sys, codec
assert "PIL" not in sys.modules
codec.register()
from PIL import Image
print(Image.registered_extensions()[".aez"], "torch" in sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(codec.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("AEZ False\n", "")
