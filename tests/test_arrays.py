"""codec.files.arrays: arrays of any layout and numeric type are taken exactly; everything else is
an ImageError that begins with the file's name.
"""

from __future__ import annotations

import gzip
import io
import os
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.errors import ImageError
from codec.files.arrays import images_of_npz, open_array, part_name, read_array
from codec.files.batch import Reading, Scale
from codec.files.images import pack_idx, pack_npy, pack_png

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("AEZ_DATA", ROOT.parent / "shared" / "data"))
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
GREY = PIXELS[0]


def npz(compressed: bool = True, **arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **arrays)
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def idx_header(*shape: int, magic: int = 0x803) -> bytes:
    return struct.pack(f">{1 + len(shape)}I", magic, *shape)


# Arrays, taken exactly


@pytest.mark.parametrize(
    "array",
    [
        PIXELS,
        PIXELS[:0],
        PIXELS[:1],
        PIXELS[0],
        PIXELS[:, None],
        PIXELS[..., None],
        PIXELS.reshape(5, 784),
        np.asfortranarray(PIXELS),
        np.asfortranarray(PIXELS.reshape(5, 784)),
    ],
    ids=lambda array: f"{array.shape}{'F' * array.flags.fnc}",
)
def test_read_array_takes_npy_and_npz_of_every_layout(array: np.ndarray) -> None:
    expected = array.reshape(-1, 28, 28)
    other = np.arange(len(array))
    for stream in (npy(array), npz(x=array), npz(False, x=array), npz(images=array, labels=other)):
        pixels = read_array(io.BytesIO(stream))
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("num_images", [0, 1, 5])
def test_read_array_inverts_pack(num_images: int, tmp_path: Path) -> None:
    pixels = PIXELS[:num_images]
    for stream in (pack_idx(pixels), gzip.compress(pack_idx(pixels)), pack_npy(pixels)):
        path = tmp_path / "x"  # the content decides, not the name
        path.write_bytes(stream)
        np.testing.assert_array_equal(read_array(path), pixels)


@pytest.mark.parametrize("name", ["mnist", "fashion"])
def test_pack_idx_gives_back_the_bytes_of_a_data_set(name: str) -> None:
    path = DATA / name / "t10k-images-idx3-ubyte.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there; AEZ_DATA may say where it is")
    pixels = read_array(path)
    assert pixels.shape == (10_000, 28, 28)
    assert pack_idx(pixels) == gzip.decompress(path.read_bytes())
    with pytest.raises(ImageError, match="holds IDX labels, not images"):
        read_array(path.with_name("t10k-labels-idx1-ubyte.gz"))


def source(stream: bytes, **reading: Any) -> tuple[np.ndarray, Any]:
    """The pixels of an array file, read in batches of 2, and the source, closed by now."""
    with open_array(io.BytesIO(stream), "x", Reading(**reading)) as opened:
        batches = [batch.pixels for batch in opened.batches(2)]
    return np.concatenate(batches), opened


@pytest.mark.parametrize("dtype", ["|i1", "<i2", ">i2", "<u4", ">i4", "<i8", ">u8"])
@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray])
def test_any_integers_that_fit_are_taken_in_any_byte_order_and_layout(
    dtype: str, layout: Any
) -> None:
    wanted = PIXELS >> 1 if dtype == "|i1" else PIXELS
    for shape in ((5, 28, 28), (5, 784), (5, 1, 28, 28), (5, 28, 28, 1)):
        array = layout(wanted.astype(dtype).reshape(shape))
        for stream in (npy(array), gzip.compress(npy(array)), npz(x=array)):
            pixels, opened = source(stream)
            np.testing.assert_array_equal(pixels, wanted)
            assert opened.notes == [f"{np.dtype(dtype)} {shape} comes back as uint8 (5, 28, 28)"]


def test_an_idx_file_of_any_integers_that_fit_is_taken() -> None:
    for magic, dtype in ((0x903, ">i1"), (0xB03, ">i2"), (0xC03, ">i4")):
        stream = idx_header(5, 28, 28, magic=magic) + (PIXELS >> 1).astype(dtype).tobytes()
        np.testing.assert_array_equal(read_array(io.BytesIO(stream)), PIXELS >> 1)
    stream = idx_header(5, 1, 28, 28, magic=0x804) + PIXELS.tobytes()
    np.testing.assert_array_equal(read_array(io.BytesIO(stream)), PIXELS)


def test_truth_values_are_black_and_white() -> None:
    pixels, opened = source(npy(PIXELS > 99))
    np.testing.assert_array_equal(pixels, np.where(PIXELS > 99, 255, 0))
    assert opened.notes == ["bool (5, 28, 28) comes back as uint8 (5, 28, 28)"]


def test_nothing_is_said_of_what_comes_back_as_it_was() -> None:
    assert source(npy(PIXELS))[1].notes == []
    assert source(npy(PIXELS.reshape(5, 784)))[1].notes == [
        "uint8 (5, 784) comes back as uint8 (5, 28, 28)"
    ]
    assert source(npy(GREY))[1].notes == ["uint8 (28, 28) comes back as uint8 (1, 28, 28)"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_fractions_that_were_divided_by_255_are_exact(dtype: Any) -> None:
    """Whatever they were divided in: the division rounds, by half a unit in the last place."""
    for array in (PIXELS.astype(dtype) / dtype(255), (PIXELS / 255).astype(dtype)):
        np.testing.assert_array_equal(source(npy(array), scale=Scale(1))[0], PIXELS)
    array = PIXELS.astype(dtype)
    np.testing.assert_array_equal(source(npy(array), scale=Scale(255))[0], PIXELS)
    images = source(npz(x=array / dtype(255), y=np.arange(5)), scale=Scale(1))
    np.testing.assert_array_equal(images[0], PIXELS)


@pytest.mark.parametrize(
    ("value", "scale", "said"),
    [
        (0.3, Scale(1), "the value 0.3, --scale 1 takes 0..1 in 255 equal steps (--round: any)"),
        (1.01, Scale(1), "the value 1.01, --scale 1 takes 0..1"),
        (-0.01, Scale(1), "the value -0.01, --scale 1 takes 0..1"),
        (np.nan, Scale(1), "the value nan, --scale 1 takes 0..1"),
        (np.inf, Scale(255), "the value inf, --scale 255 takes 0..255"),
        (3.7, Scale(255), "the value 3.7, --scale 255 takes 0..255 in 255 equal steps"),
        (np.nan, Scale(1, True), "the value nan, --scale 1 takes 0..1"),
        (1.01, Scale(1, True), "the value 1.01, --scale 1 takes 0..1"),
    ],
)
def test_fractions_that_are_no_grey_level_are_refused_by_value(
    value: float, scale: Scale, said: str
) -> None:
    array = np.zeros((5, 28, 28))
    array[3, 4, 5] = value
    with pytest.raises(ImageError) as caught:
        source(npy(array), scale=scale)
    assert str(caught.value).startswith(f"x: image 3 has {said}")


def test_fractions_are_rounded_if_asked_for() -> None:
    array = np.full((1, 28, 28), 0.3)
    assert (source(npy(array), scale=Scale(1, True))[0] == 76).all()  # 76.5, to even
    assert (source(npy(array * 12.5), scale=Scale(255, True))[0] == 4).all()  # 3.75
    # integers too: 1 is white
    assert (source(npy(np.ones((1, 28, 28), int)), scale=Scale(1))[0] == 255).all()
    with pytest.raises(ImageError, match="has the value 2, --scale 1 takes"):
        source(npy(np.full((1, 28, 28), 2)), scale=Scale(1))


@pytest.mark.parametrize("start", range(4))
@pytest.mark.parametrize(
    "stream",
    [
        pack_idx(PIXELS),
        gzip.compress(npy(PIXELS.astype("<i2"))),
        npy(np.asfortranarray(PIXELS)),
        npz(x=np.asfortranarray(PIXELS.reshape(5, 784))),
    ],
    ids=["idx", "npy.gz", "fortran", "npz"],
)
def test_batches_can_be_skipped(stream: bytes, start: int) -> None:
    with open_array(io.BytesIO(stream), "x") as opened:
        batches = list(opened.batches(2, start))
    assert [len(batch.pixels) for batch in batches] == [2, 2, 1][start:]
    for batch, wanted in zip(batches, [PIXELS[:2], PIXELS[2:4], PIXELS[4:]][start:], strict=True):
        np.testing.assert_array_equal(batch.pixels, wanted)


def test_an_array_in_fortran_order_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    array = np.zeros((20_000, 28, 28), np.uint8, order="F")
    array[:, 3, 5] = np.arange(20_000) % 256
    np.save(path, array)
    del array
    tracemalloc.start()
    try:
        with open_array(path) as opened:
            for number, batch in enumerate(opened.batches(1000)):
                assert (batch.pixels[:, 3, 5] == np.arange(1000) + 1000 * number & 255).all()
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


# NPZ


def test_labels_of_an_npz_file_belong_to_images_by_their_names() -> None:
    """As Keras, MedMNIST and everybody else calls them."""
    y, z = np.array([7, 9, 7, 1, 2**32 - 1]), np.arange(5, dtype=np.uint8)[:, None]
    for arrays, wanted in (
        ({"x_train": PIXELS, "y_train": y, "x_test": PIXELS[:2], "y_test": y[:2]}, "y_train"),
        ({"test_images": PIXELS[:2], "train_images": PIXELS, "train_labels": y}, "train_labels"),
        ({"trainX": PIXELS, "testX": PIXELS[:2], "trainY": y, "testY": y[:2]}, "trainY"),
        ({"X": PIXELS, "y": y}, "y"),
        ({"images": PIXELS, "labels": y}, "labels"),
        ({"images_a": PIXELS, "labels": y}, "labels"),
    ):
        name = next(name for name, array in arrays.items() if array is PIXELS)
        pixels, opened = source(npz(**arrays), array=name)
        np.testing.assert_array_equal(pixels, PIXELS)
        assert opened.labels_from == f"array {wanted}"
        np.testing.assert_array_equal(opened.labels, y)
    column = source(npz(train_images=PIXELS, train_labels=z))[1]
    np.testing.assert_array_equal(column.labels, np.arange(5))
    texts = source(npz(x=PIXELS, y=np.array(["a", "é", "b", "a", "c"])))[1]
    assert texts.labels == ["a", "é", "b", "a", "c"]


def test_arrays_of_an_npz_file_that_are_not_taken_are_left() -> None:
    y = np.arange(5)
    arrays = {"x_train": PIXELS, "y_train": y, "x_test": PIXELS[:2], "mean": np.zeros((28, 28))}
    kept = npz(**arrays, y_fine=y, classes=np.array(["a", "b"]))
    assert images_of_npz(io.BytesIO(kept), "x", Reading()) == ["x_train", "x_test"]
    by_default = source(kept, array="x_train", of_all=True)[1]
    assert (by_default.labels_from, list(by_default.labels)) == ("array y_train", [0, 1, 2, 3, 4])
    assert by_default.left == [
        "mean float64 (28, 28)",
        "y_fine int64 (5,)",
        "classes <U1 (2,)",
    ]
    assert source(kept, array="x_train")[1].left == ["x_test uint8 (2, 28, 28)", *by_default.left]
    chosen = source(kept, array="x_train", labels="y_fine")[1]
    assert chosen.labels_from == "array y_fine"
    assert "y_train int64 (5,)" in chosen.left
    none = source(kept, array="x_train", labels="none")[1]
    assert none.labels is None
    assert "y_train int64 (5,)" in none.left
    # of several labels a sample, none is the label
    many = source(npz(x=PIXELS, y=np.zeros((5, 14), int)))[1]
    assert (many.labels, many.left) == (None, ["y int64 (5, 14)"])
    assert images_of_npz(io.BytesIO(kept), "x", Reading(array="x_test")) == ["x_test"]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.arange(4), "x: 4 labels (array y) for 5 images"),
        (np.arange(6), "x: 6 labels (array y) for 5 images"),
        (np.array([0, 1, -1, 2, 3]), "x: y: label 2 is -1, wanted an integer from 0 to 4294967295"),
        (np.array([0, 1, 1.5, 2, 3]), "x: y: labels are float64, wanted integers or texts"),
        (np.array(["a", "", "b", "c", "d"]), "x: y: label 1, '', is empty"),
        (np.array([True] * 5), "x: y: labels are bool, wanted integers or texts"),
        (np.array(["a" * 300] * 5), "x: y: is <U300, wanted integers or short texts"),
    ],
)
def test_labels_of_an_npz_file_that_are_none_are_refused(labels: np.ndarray, said: str) -> None:
    with pytest.raises(ImageError) as caught:
        source(npz(x=PIXELS, y=labels))
    assert str(caught.value).startswith(said)
    assert (source(npz(x=PIXELS, y=labels), labels="none")[0] == PIXELS).all()


def test_an_array_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(ImageError, match=r"^x: has no array z; it holds x uint8 \(5, 28, 28\)$"):
        source(npz(x=PIXELS), array="z")
    with pytest.raises(ImageError, match=r"^x: shape \(5,\), aez takes \(N, 28, 28\)"):
        source(npz(x=PIXELS, y=np.arange(5)), array="y")
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as archive:
        archive.writestr("x.npy", npy(PIXELS))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x.npy", npy(PIXELS[:1]))
    with pytest.raises(ImageError, match="has two arrays with the name x"):
        source(twice.getvalue())


@pytest.mark.parametrize(
    ("array", "part"),
    [
        ("x_train", "train"),
        ("train_images", "train"),
        ("testX", "test"),
        ("images", "images"),
        ("../a b", "a_b"),
        ("arr_0", "arr_0"),
    ],
)
def test_the_output_of_an_array_is_called_after_its_set(array: str, part: str) -> None:
    assert part_name(array) == part


# Arrays, refused


def one_off(value: int, dtype: str) -> np.ndarray:
    """Images of zeros, number 2 with one pixel that does not fit."""
    array = np.zeros((5, 28, 28), dtype)
    array[2, 3, 4] = value
    return array


IDX = pack_idx(PIXELS)
NO_ARRAY = "has no array of images, aez takes one, of whole numbers (N, 28, 28)"
ARRAYS_REFUSED = {
    "is truncated: claims 3920 bytes of pixels, but has at most 3919": IDX[:-1],
    "is truncated: claims 3920 bytes of pixels, but has 3919": gzip.compress(IDX[:-1]),
    "is truncated: has 10 of the 16 bytes of an IDX header": IDX[:10],
    "is truncated: claims 3367254359280 bytes": idx_header(2**32 - 1, 28, 28) + IDX[16:],
    "is truncated: claims 3367254359280 byte": gzip.compress(
        idx_header(2**32 - 1, 28, 28) + IDX[16:]
    ),
    "is truncated: claims 3920 bytes": npy(PIXELS)[:-1],
    "has more data after its last pixel": IDX + b"\0",
    "has more data after its last pixe": gzip.compress(IDX + b"\0"),
    "has more data after its last pix": gzip.compress(IDX) * 2,
    "has more data after its last pi": npy(PIXELS) + b"\0",
    "is truncated or damaged: Compressed file ended": gzip.compress(IDX)[:-9],
    "is truncated or damaged: CRC check failed": gzip.compress(IDX)[:-8]
    + bytes(4)
    + gzip.compress(IDX)[-4:],
    "is truncated or damaged: ": npz(x=PIXELS)[:-9],
    "is truncated or damaged: EOF": npy(PIXELS)[:40],
    "is truncated or damaged: NPY version (4, 0)": b"\x93NUMPY\4\0" + npy(PIXELS)[8:],
    "holds IDX labels, not images": idx_header(5, magic=0x801) + bytes(5),
    "32x30 pixels, aez takes 28x28": idx_header(1, 30, 32) + bytes(960),
    "is not an NPY, NPZ or IDX file: it starts with the bytes 89 50 4e 47": pack_png(GREY),
    "is a web page, not an NPY, NPZ or IDX file: download the file again": b" <HTML><body>404",
    "is empty": b"",
    "is not an NPY, NPZ or IDX file: it starts with 'text'": gzip.compress(b"text"),
    "dtype float32, aez takes integers; --scale 1 takes floats from 0 to 1": npy(
        PIXELS.astype(np.float32)
    ),
    "dtype >f8, aez takes integers; --scale 1 takes": idx_header(5, 28, 28, magic=0xE03)
    + bytes(5 * 784 * 8),
    "dtype complex128, aez takes integers": npy(PIXELS.astype(complex)),
    "image 2 has the value 256, aez takes whole numbers 0..255": npy(one_off(256, "<i2")),
    "image 2 has the value -1, aez takes whole numbers": npy(one_off(-1, ">i8")),
    "image 2 has the value -1, aez takes whole": idx_header(5, 28, 28, magic=0xB03)
    + one_off(-1, ">i2").tobytes(),
    "image 2 has the value 18446744073709551615, aez": npy(one_off(2**64 - 1, "<u8")),
    "dtype object, aez takes integers": npy(np.array([GREY, None], object)),
    "shape (5, 32, 32), aez takes (N, 28, 28)": npy(np.zeros((5, 32, 32), np.uint8)),
    "shape (784,), aez takes (N, 28, 28)": npy(np.zeros(784, np.uint8)),
    f"{NO_ARRAY}; it holds y int64 (5,)": npz(y=np.arange(5)),
    (
        "has 2 arrays of images, aez takes one, of whole numbers (N, 28, 28); it holds "
        "a uint8 (5, 28, 28), b uint8 (28, 28); --array NAME takes one of them"
    ): npz(a=PIXELS, b=GREY),
    "holds no arrays at all, aez takes one, of whole numbers (N, 28, 28)": npz(),
    f"{NO_ARRAY}; it holds x float32 (5, 28, 28); --scale 1": npz(x=PIXELS.astype(np.float32)),
}


@pytest.mark.parametrize(("said", "stream"), ARRAYS_REFUSED.items(), ids=ARRAYS_REFUSED)
def test_read_array_says_what_it_refuses(said: str, stream: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        read_array(io.BytesIO(stream), "x.idx")
    assert str(caught.value).startswith(f"x.idx: {said}")


def test_read_array_lists_what_is_no_array_in_a_zip() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("readme.txt", "text")
    with pytest.raises(ImageError, match=r"it holds readme\.txt \(no array\)$"):
        read_array(stream, "x.npz")


def test_read_array_reads_no_more_of_a_gzip_bomb_than_a_buffer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bomb = gzip.compress(idx_header(1, 28, 28) + bytes(20_000_000))
    taken, read = [], gzip.GzipFile.read
    monkeypatch.setattr(
        gzip.GzipFile, "read", lambda self, size: taken.append(size) or read(self, size)
    )
    with pytest.raises(ImageError, match="has more data after its last pixel"):
        read_array(io.BytesIO(bomb))
    assert sum(taken) <= 1 << 20


@pytest.mark.parametrize(
    "stream", [IDX, gzip.compress(IDX), npy(PIXELS), npz(x=PIXELS)], ids=["idx", "gz", "npy", "npz"]
)
def test_read_array_refuses_every_truncation(stream: bytes) -> None:
    lengths = {*range(min(len(stream), 200)), *range(200, len(stream), 41), len(stream) - 1}
    for length in sorted(lengths):
        with pytest.raises(ImageError):
            read_array(io.BytesIO(stream[:length]))


@given(
    st.sampled_from([IDX, gzip.compress(IDX), npy(PIXELS), npz(x=PIXELS)]),
    st.integers(0, 300),
    st.binary(min_size=1),
)
@settings(deadline=None, max_examples=200)
def test_read_array_ends_in_pixels_or_image_error_on_hostile_heads(
    stream: bytes, place: int, patch: bytes
) -> None:
    try:
        pixels = read_array(io.BytesIO(stream[:place] + patch + stream[place + len(patch) :]))
        assert pixels.shape[1:] == (28, 28)
    except ImageError:
        pass
