"""Files of labels, and labels by folders: each label as it stands there, or why it is none."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from codec.errors import ImageError
from codec.files.labels import names_beside, of_folders, read_labels, read_labels_of

DATA = Path(os.environ.get("AEZ_DATA", Path(__file__).parents[2] / "shared" / "data"))


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def idx(content: bytes, count: int, magic: int = 0x801) -> bytes:
    return struct.pack(">2I", magic, count) + content


INTEGERS = [
    ("y", idx(bytes([7, 0, 255]), 3)),
    ("y", idx(struct.pack(">3i", 7, 0, 255), 3, 0xC01)),
    ("y", npy(np.array([7, 0, 255]))),
    ("y", npy(np.array([[7], [0], [255]], ">u2"))),
    ("y", npz(arr_0=np.array([7, 0, 255]))),
    ("y.txt", b"7\n0\n255\n"),
    ("y.txt", b"7\r\n0\r\n255"),
    ("y.txt", b"\xef\xbb\xbf7\n0\n255"),
    ("y.csv", b"7\n0\n255\n"),
    ("y.csv", b"label\n7\n0\n255\n"),
    ("y.csv", b'"Class"\n"7"\n"0"\n"255"\n'),
    ("y.csv", b"id,label\na,7\nb,0\nc,255\n"),
    ("y.CSV", b"label,id\n7,a\n 0 ,b\n255,c\n\n"),
]


@pytest.mark.parametrize(("name", "stream"), INTEGERS)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_integers_are_read(name: str, stream: bytes, pack: type) -> None:
    labels = read_labels(io.BytesIO(pack(stream)), name)
    assert isinstance(labels, np.ndarray)
    assert (labels.dtype, labels.tolist()) == (np.int64, [7, 0, 255])


@pytest.mark.parametrize(
    ("name", "stream"),
    [
        ("y", "é\nb b\né".encode()),
        ("y.csv", 'label\né\n"b b"\né\n'.encode()),
        ("y.npy", npy(np.array(["é", "b b", "é"]))),
    ],
)
def test_texts_are_read(name: str, stream: bytes) -> None:
    assert read_labels(io.BytesIO(stream), name) == ["é", "b b", "é"]


def test_numbers_that_would_come_back_otherwise_are_texts() -> None:
    assert read_labels(io.BytesIO(b"007\n1"), "y") == ["007", "1"]
    assert read_labels(io.BytesIO(b"1\nx"), "y") == ["1", "x"]
    assert read_labels(io.BytesIO("a\u2028b\n1\x0c".encode()), "y") == ["a\u2028b", "1\x0c"]
    assert len(read_labels(io.BytesIO(b""), "y")) == 0


REFUSED = [
    ("y", b"7\n-1\n", "line 2: the label is -1, wanted an integer from 0 to 4294967295"),
    ("y", b"7\n1.5\n", "line 2: the label is 1.5, wanted"),
    ("y", b"1.0\n7\n", "line 1: the label is 1.0, wanted"),
    ("y", b"7\nnan\n", "line 2: the label is nan, wanted"),
    ("y", b"7\n4294967296\n", "line 2: the label is 4294967296, wanted"),
    ("y", b"7\n\n8\n", "line 2: the label is empty"),
    ("y", b"a" * 256, "line 1: the label has 256 bytes"),
    ("y", b"a\0b\n", "line 1: the label contains NUL"),
    ("y", b"\xff\n", "line 1 is not UTF-8: save the file as UTF-8"),
    ("y", b"a\nb\n\xe9\n", "line 3 is not UTF-8"),
    ("y", b"<!DOCTYPE html>", "is a web page, not a file of labels: download the file again"),
    ("y", b"PAR1" + bytes(9), "is a Parquet file, not a file of labels"),
    ("y", idx(bytes(9), 3, 0x803), "claims "),
    ("y", struct.pack(">4I", 0x803, 1, 2, 3) + bytes(6), "labels are of shape (1, 2, 3), wanted"),
    ("y", npz(), "has 0 arrays, aez takes one of labels"),
    ("y.csv", b"name\n1\n2\n", "row 1 is 'name' and all others are numbers; a column of labels"),
    ("y.csv", b"a,b\n1,2\n", "2 columns, none is called one of label, labels, class"),
    ("y.csv", b"id,label\na,7\nb\n", "row 3 has 1 columns, not 2"),
    ("y.csv", b"id,label\na,7\nb,\n", "row 3: the label is empty"),
    ("y", npy(np.array([1.5])), "labels are float64, wanted integers or texts"),
    ("y", npy(np.array([7, -1])), "label 1 is -1, wanted"),
    ("y", npy(np.zeros((2, 3), int)), "labels are of shape (2, 3), wanted one axis"),
    ("y", npy(np.array([None])), "object (1,), aez takes integers or texts"),
    ("y", npy(np.arange(9))[:-1], "claims 72 bytes of labels, but has 71"),
    ("y", idx(bytes(5), 4), "claims 4 bytes of labels, but has 5"),
    ("y", idx(bytes(2**16), 2**31), "claims 2147483648 bytes of labels, but has 65536"),
    ("y", npz(a=np.arange(3), b=np.arange(3)), "has 2 arrays, aez takes one of labels"),
    ("y", gzip.compress(b"7\n")[:-4], "is truncated or damaged: Compressed file ended"),
]


@pytest.mark.parametrize(("name", "stream", "said"), REFUSED, ids=[said for _, _, said in REFUSED])
def test_what_is_no_label_is_refused_by_its_line(name: str, stream: bytes, said: str) -> None:
    with pytest.raises(ImageError) as caught:
        read_labels(io.BytesIO(stream), name)
    assert str(caught.value).startswith(f"{name}: {said}")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"y\.npy: No such file or directory$"):
        read_labels(tmp_path / "y.npy")
    with zipfile.ZipFile(tmp_path / "y.npz", "w"):
        pass
    with pytest.raises(ImageError, match=r"y\.npz: "):
        read_labels(tmp_path / "y.npz")


@pytest.mark.parametrize("name", ["mnist", "fashion"])
def test_the_labels_of_a_data_set_are_ten_thousand(name: str) -> None:
    path = DATA / name / "t10k-labels-idx1-ubyte.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there; AEZ_DATA may say where it is")
    labels = read_labels(path)
    assert np.bincount(labels).size == 10
    assert labels.shape == (10_000,)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (
            "train-images-idx3-ubyte.gz",
            ["train-labels-idx1-ubyte.gz", "train-labels-idx1-ubyte"],
        ),
        ("t10k-images.idx3-ubyte", ["t10k-labels.idx1-ubyte", "t10k-labels.idx1-ubyte.gz"]),
        (
            "emnist-letters-test-images-idx3-ubyte",
            [
                "emnist-letters-test-labels-idx1-ubyte",
                "emnist-letters-test-labels-idx1-ubyte.gz",
            ],
        ),
        ("x.idx", ["x-labels.idx", "x-labels.idx.gz"]),
        ("d/images.idx3.gz", ["d/labels.idx1.gz", "d/labels.idx1"]),
        ("x-idx3-ubyte", ["x-labels-idx1-ubyte", "x-labels-idx1-ubyte.gz"]),
        (".idx", []),
        ("images.npy", []),
    ],
)
def test_labels_lie_beside_images_by_the_standard_names(images: str, labels: list[str]) -> None:
    assert names_beside(images) == labels


def test_folders_are_labels() -> None:
    numbers = of_folders(["0/a.png", "x/10/b.png"], "d")
    assert isinstance(numbers, np.ndarray)
    assert numbers.tolist() == [0, 10]
    assert of_folders(["0/a.png", "cats/b.png"], "d") == ["0", "cats"]
    assert of_folders(["00/a.png", "01/b.png"], "d") == ["00", "01"]
    assert of_folders(["-1/a.png", "1/b.png"], "d") == ["-1", "1"]
    with pytest.raises(ImageError, match=r"^d: b\.png is in no folder: --labels folders needs one"):
        of_folders(["0/a.png", "b.png"], "d")


IMAGES = ["a/2.png", "a/10.jpg", "b/03.png"]
BY_NAME = {  # what the column has, of images number 2, 0 and 1
    "path": ["b/03.png", "a/2.png", "a/10.jpg"],
    "file": ["03.png", "2.png", "10.jpg"],
    "stem": ["03", "2", "10"],
    "number": ["3", "2", "10"],
    "path without suffix": ["b/03", "a/2", "a/10"],
}


@pytest.mark.parametrize("values", BY_NAME.values(), ids=BY_NAME)
def test_rows_of_csv_belong_to_the_images_that_they_name(values: list[str]) -> None:
    rows = [f"{i},{value},x{at}" for i, (value, at) in enumerate(zip(values, "201", strict=True))]
    stream = "\n".join([",Id,label", *rows]).encode()
    labels, how = read_labels_of(IMAGES, io.BytesIO(stream), "y.csv")
    assert (labels, how) == (["x0", "x1", "x2"], ", by its column id")
    assert read_labels(io.BytesIO(stream), "y.csv") == ["x2", "x0", "x1"]


def test_rows_that_name_no_images_are_in_order() -> None:
    stream = b"id,label\nq,5\nr,6\ns,7\n"
    labels, how = read_labels_of(IMAGES, io.BytesIO(stream), "y.csv")
    assert (list(labels), how) == ([5, 6, 7], ", in the order of its rows")
    labels, how = read_labels_of(IMAGES, io.BytesIO(b"label\n5\n6\n7\n"), "y.csv")
    assert (list(labels), how) == ([5, 6, 7], "")


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (["03.png", "2.png", "11.jpg"], "has no a/10.jpg"),
        (["03.png", "2.png", "10.jpg", "9.png"], "has more rows than images"),
        (["03.png", "2.png", "10.jpg", "2.png"], "has more rows than images"),
        (["0", "1", "2"], "has no a/10.jpg"),
    ],
)
def test_rows_that_name_only_some_images_are_refused(column: list[str], said: str) -> None:
    stream = "\n".join(["file,label", *(f"{value},7" for value in column)]).encode()
    with pytest.raises(ImageError) as caught:
        read_labels_of(IMAGES, io.BytesIO(stream), "y.csv")
    assert str(caught.value) == (f"y.csv: the column file {said}; aez takes one row for each image")


def test_spaces_in_quotes_belong_to_a_text() -> None:
    assert read_labels(io.BytesIO(b'label\n" a "\nb\n'), "y.csv") == [" a ", "b"]
    assert read_labels(io.BytesIO(b"label\n a \nb\n"), "y.csv") == ["a", "b"]
    assert list(read_labels(io.BytesIO(b'label\n" 7 "\n8\n'), "y.csv")) == [7, 8]
