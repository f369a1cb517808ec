"""CSV and Parquet: every row becomes its image and label, or the file is refused with the row, what
was found and what is taken.
"""

from __future__ import annotations

import builtins
import csv
import gzip
import io
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from codec.errors import ImageError, UsageError
from codec.files.batch import MAX_CONTENT_BYTES, Reading, Scale
from codec.files.images import pack_png
from codec.files.parquet import open_parquet
from codec.files.sources import image_of, open_source
from codec.files.tables import CHUNK_ROWS, MAX_LINE_BYTES, open_table

COUNT = 5
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 28, 28), np.uint8)
LABELS = np.array([7, 0, 4294967295, 7, 12])
NAMES = [f"pixel{i}" for i in range(784)]
ROWS = PIXELS.reshape(COUNT, 784).tolist()
LABELLED = [[label, *row] for label, row in zip(LABELS.tolist(), ROWS, strict=True)]


def table(rows: Iterable[Iterable[Any]], end: str = "\n") -> bytes:
    return "".join(",".join(map(str, row)) + end for row in rows).encode()


PLAIN = table([["label", *NAMES], *LABELLED])


def read(stream: bytes, size: int = 2, start: int = 0, **reading: Any) -> tuple[np.ndarray, Any]:
    """The pixels of a CSV file, read in batches, and the source, closed by now."""
    with open_table(io.BytesIO(stream), "x.csv", Reading(**reading)) as source:
        batches = list(source.batches(size, start))
    assert [len(batch.pixels) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    pixels = [batch.pixels for batch in batches]
    return np.concatenate(pixels) if pixels else np.empty((0, 28, 28), np.uint8), source


def quoted(rows: Iterable[Iterable[Any]], quoting: int = csv.QUOTE_ALL) -> bytes:
    text = io.StringIO()
    csv.writer(text, quoting=quoting).writerows(rows)  # type: ignore[arg-type]
    return text.getvalue().encode()


LABEL_LAST = [[*NAMES, "class"], *([*row[1:], row[0]] for row in LABELLED)]
LABEL_INSIDE = [
    [*NAMES[:300], "y", *NAMES[300:]],
    *([*row[1:301], row[0], *row[301:]] for row in LABELLED),
]
BY_TEXT = sorted(range(784), key=NAMES.__getitem__)  # pixel0, pixel1, pixel10, pixel100 ...
SHUFFLED = [
    ["label", *(NAMES[i] for i in BY_TEXT)],
    *([row[0], *(row[1 + i] for i in BY_TEXT)] for row in LABELLED),
]
WITH_ID = [["id", "Label", *NAMES], *([f"n{i}", *row] for i, row in enumerate(LABELLED))]
IN_ROWS = [["label", *(f"{i}x{j}" for i in range(1, 29) for j in range(1, 29))], *LABELLED]
FROM_ONE = [["label", *range(1, 785)], *LABELLED]
INDEXED = [["", *range(784)], *([i, *row] for i, row in enumerate(ROWS))]


def test_pixels_are_in_c_order() -> None:
    """Else success would depend on the images: those that are stored are not taken otherwise."""
    for rows in (LABELLED, SHUFFLED):
        with open_table(io.BytesIO(table(rows)), "x.csv") as source:
            assert all(batch.pixels.flags.c_contiguous for batch in source.batches(2))


@pytest.mark.parametrize(
    ("stream", "label"),
    [
        (PLAIN, "label"),
        (table(LABELLED), "1"),
        (table(LABEL_LAST), "class"),
        (table(LABEL_INSIDE), "y"),
        (table(SHUFFLED), "label"),
        (table(IN_ROWS), "label"),
        (table(FROM_ONE), "label"),
        (table(LABELLED, "\r\n"), "1"),
        (PLAIN.replace(b"\n", b"\r\n"), "label"),
        (b"\xef\xbb\xbf" + PLAIN, "label"),
        (b"\xef\xbb\xbf" + table(LABELLED), "1"),
        (PLAIN.rstrip(), "label"),
        (PLAIN + b"\n\n", "label"),
        (PLAIN.replace(b"\n", b"\n\n"), "label"),
        (quoted([["label", *NAMES]]) + table(LABELLED), "label"),
        (quoted([["label", *NAMES], *LABELLED]), "label"),
        (PLAIN.replace(b",", b", "), "label"),
        (gzip.compress(PLAIN), "label"),
        (table(SHUFFLED).replace(b",", b" ,"), "label"),
    ],
    ids=lambda value: "",
)
def test_rows_become_images_with_labels(stream: bytes, label: str) -> None:
    pixels, source = read(stream)
    np.testing.assert_array_equal(pixels, PIXELS)
    np.testing.assert_array_equal(source.labels, LABELS)
    assert (source.num_images, source.labels_from, source.left) == (COUNT, f"column {label}", [])
    said = ["has no names of columns; --labels 785 takes labels from the last"]
    assert source.notes == (said if label == "1" else [])
    assert (source.names, source.num_bytes) == (None, len(stream))
    for start in range(1, 3):
        np.testing.assert_array_equal(read(stream, 2, start)[0], PIXELS[2 * start :])


@pytest.mark.parametrize(
    "stream", [table(ROWS), table([NAMES, *ROWS]), table([range(784), *ROWS])], ids=len
)
def test_rows_of_784_pixels_have_no_labels(stream: bytes) -> None:
    pixels, source = read(stream)
    np.testing.assert_array_equal(pixels, PIXELS)
    assert (source.labels, source.labels_from) == (None, "")


def test_texts_are_labels_too_and_a_row_with_one_is_no_header() -> None:
    rows = [[label, *row] for label, row in zip("abcab", ROWS, strict=True)]
    for stream in (table(rows), table([["label", *NAMES], *rows]), quoted(rows)):
        pixels, source = read(stream)
        np.testing.assert_array_equal(pixels, PIXELS)
        assert source.labels == list("abcab")
    commas = read(quoted([[f'a,"{i}"', *row] for i, row in enumerate(ROWS)]))[1]
    assert commas.labels == [f'a,"{i}"' for i in range(COUNT)]
    zeros = read(table([[f"00{i}", *row] for i, row in enumerate(ROWS)]))[1]
    assert zeros.labels == [f"00{i}" for i in range(COUNT)]


def test_other_columns_are_named_and_can_be_the_label() -> None:
    pixels, source = read(table(WITH_ID))
    np.testing.assert_array_equal(pixels, PIXELS)
    assert (source.labels_from, source.left) == ("column Label", ["column id"])
    by_id = read(table(WITH_ID), labels="id")[1]
    assert (by_id.labels, by_id.left) == ([f"n{i}" for i in range(COUNT)], ["column Label"])
    none = read(table(WITH_ID), labels="none")[1]
    assert (none.labels, none.left) == (None, ["column id", "column Label"])
    index = read(table(INDEXED))[1]  # as pandas writes it
    assert (index.labels, index.left) == (None, ["column number 1"])


def test_the_last_column_is_the_label_if_that_is_said() -> None:
    rows = table(LABEL_LAST[1:])
    pixels, source = read(rows, labels="785")
    np.testing.assert_array_equal(pixels, PIXELS)
    np.testing.assert_array_equal(source.labels, LABELS)
    assert source.labels_from == "column 785"


def test_a_first_column_that_tells_nothing_is_not_taken_for_the_label() -> None:
    """It is the corner of images whose label comes last, or there is one class."""
    pixels = PIXELS.copy()
    pixels[:, 0, 0] = 0
    rows = pixels.reshape(COUNT, 784).tolist()
    last = table([*row, label] for row, label in zip(rows, range(COUNT), strict=True))
    with pytest.raises(ImageError) as caught:
        read(last)
    assert str(caught.value) == (
        "x.csv: columns have no names, and column 1 is 0 everywhere: is it the label (--labels 1), "
        "or is that the last one (--labels 785)?"
    )
    found, source = read(last, labels="785")
    np.testing.assert_array_equal(found, pixels)
    assert source.labels.tolist() == [*range(COUNT)]
    one_class = table([3, *row] for row in ROWS)
    np.testing.assert_array_equal(read(one_class, labels="1")[0], PIXELS)
    pixels[:, -1, -1] = 0
    dark = table([3, *row] for row in pixels.reshape(COUNT, 784).tolist())
    assert read(dark)[1].labels.tolist() == [3] * COUNT  # neither tells anything
    assert read(one_class.splitlines(keepends=True)[0])[1].labels.tolist() == [3]


def test_many_rows_are_the_same_as_few() -> None:
    """Rows are taken apart many at a time."""
    count = 2 * CHUNK_ROWS + 7
    pixels = np.random.default_rng(1).integers(0, 256, (count, 28, 28), np.uint8)
    rows = [[i % 10, *row] for i, row in enumerate(pixels.reshape(count, 784).tolist())]
    for size in (count, CHUNK_ROWS, 100):
        found, source = read(table(rows), size)
        np.testing.assert_array_equal(found, pixels)
        np.testing.assert_array_equal(source.labels, np.arange(count) % 10)


def test_fractions_are_taken_by_their_scale() -> None:
    for scale, rows in (
        (Scale(1), (PIXELS / 255).reshape(COUNT, 784)),
        (Scale(255), PIXELS.reshape(COUNT, 784).astype(float)),
    ):
        stream = table([["label", *NAMES], *([3, *row] for row in rows.tolist())])
        pixels, source = read(stream, scale=scale)
        np.testing.assert_array_equal(pixels, PIXELS)
        assert source.labels.tolist() == [3] * COUNT
        with pytest.raises(ImageError, match=r"column pixel\d+: .* aez takes a whole number"):
            read(stream)
    with pytest.raises(ImageError, match=r"^x\.csv: line 2 has the value 0\.3, --scale 1 takes"):
        read(table([["1"] * 784, ["0.3"] * 784]), scale=Scale(1))
    with pytest.raises(ImageError, match=r"^x\.csv: line 1, column 1: 'nan', aez takes a number"):
        read(table([["nan", *["1"] * 783]]), scale=Scale(1))
    rounded = read(table([["0.3"] * 784]), scale=Scale(1, True))[0]
    assert (rounded == 76).all()


def changed(row: int, column: int, text: str) -> bytes:
    """PLAIN with another field, of rows and columns from 0 on, the header being a row."""
    rows = [["label", *NAMES], *([*row] for row in LABELLED)]
    rows[row][column] = text
    return table(rows)


REFUSED = {
    "line 4 has 784 columns, the first one 785": PLAIN.replace(
        table([LABELLED[2]]), table([LABELLED[2][:-1]])
    ),
    "line 4 has 786 columns, the first one 785": PLAIN.replace(
        table([LABELLED[2]]), table([[*LABELLED[2], 1]])
    ),
    "is empty, aez takes rows": b"\n \r\n\n",
    "783 columns, aez takes 784 of pixels, and one more of labels": table(row[1:] for row in ROWS),
    "line 1 has no comma; aez takes columns that commas separate": b"hello\n",
    "line 1 has no comma, but semicolons; aez takes": PLAIN.replace(b",", b";"),
    "line 2 has no comma, but tabs; aez takes": b"\n" + PLAIN.replace(b",", b"\t"),
    "columns have no names, and column 1 is 0 everywhere: is it the label (--labels 1), or is that "
    "the last one (--labels 785)?": table(
        [*([0, *row[1:], label] for label, row in zip(LABELS, ROWS, strict=True))]
    ),
    "no 784 columns are called pixel0, pixel1, ... or 1x1, 1x2, ...; there are 3: a, b, c": (
        b"a,b,c\n1,2,3\n"
    ),
    "no 784 columns are called pixel0": table([["label", *NAMES[:-1], "other"], *LABELLED]),
    "line 3, column pixel9: '256', aez takes a whole number 0..255": changed(2, 10, "256"),
    "line 3, column pixel9: '-1', aez takes a whole number 0..255": changed(2, 10, "-1"),
    "line 3, column pixel9: '3.7', aez takes a whole number 0..255; --scale": changed(2, 10, "3.7"),
    "line 6, column pixel0: '', aez takes a whole number 0..255": changed(5, 1, ""),
    "line 6, column pixel783: 'abc', aez takes": changed(5, 784, "abc"),
    "line 6, column pixel783: '1_0', aez takes": changed(5, 784, "1_0"),
    "line 6, column pixel783: '٣', aez takes": changed(5, 784, "٣"),
    "line 6, column pixel783: '1e2', aez takes": changed(5, 784, "1e2"),
    "line 6, column pixel783: '99999999999999999999', aez takes": changed(5, 784, "9" * 20),
    "line 5: the label is -1, wanted an integer from 0 to 4294967295": changed(4, 0, "-1"),
    "line 5: the label is 1.5, wanted an integer": changed(4, 0, "1.5"),
    "line 5: the label is 4294967296, wanted": changed(4, 0, "4294967296"),
    "line 5: the label is empty": changed(4, 0, ""),
    "line 2 is not UTF-8: save the file as UTF-8": PLAIN.replace(b"\n7,", b'\n"\xff",'),
    "line 1 is not UTF-8": PLAIN.decode().encode("utf-16"),
    "line 4 has a quote that is not closed: a row is one line": changed(3, 0, '"7'),
    "line 1 has a CR within: lines end in LF or CR LF": PLAIN.replace(b"\n", b"\r"),
    "line 2 is not UTF-8": PLAIN.replace(b"\n7,", b"\n\xe9,"),
    f"line 2 has over {MAX_LINE_BYTES} bytes": table(ROWS[:1]) + b"1," * MAX_LINE_BYTES,
    "is truncated or damaged: Compressed file ended": gzip.compress(PLAIN)[:-20],
}


@pytest.mark.parametrize(("said", "stream"), REFUSED.items(), ids=REFUSED)
def test_a_bad_row_is_named_with_what_was_found_and_what_is_taken(said: str, stream: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        read(stream)
    assert str(caught.value).startswith(f"x.csv: {said}")


def test_lines_are_counted_as_editors_count_them() -> None:
    """With the header, and with empty lines."""
    stream = b"\n\n" + changed(2, 10, "256").replace(b"\n", b"\n\n")
    with pytest.raises(ImageError, match="line 7, column pixel9: '256'"):
        read(stream)


def test_a_file_that_changes_while_it_is_read_is_an_error() -> None:
    file = io.BytesIO(PLAIN)
    with open_table(file, "x.csv") as source:
        file.truncate(len(PLAIN) - len(table(LABELLED[-1:])))
        with pytest.raises(ImageError, match=r"^x\.csv: changed while it was read$"):
            list(source.batches(2))


def test_labels_that_are_a_column_of_pixels_are_refused() -> None:
    with pytest.raises(ImageError, match="column pixel3 has pixels, not labels"):
        read(PLAIN, labels="pixel3")


# Parquet

HF_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def parquet(columns: dict[str, Any], row_group_size: int = 2, **options: Any) -> bytes:
    stream = io.BytesIO()
    made = pa.table(columns)
    if "features" in options:
        info = {"info": {"features": options.pop("features")}}
        made = made.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(made, stream, row_group_size=row_group_size, **options)
    return stream.getvalue()


def hugging_face(contents: list[bytes | None], paths: list[str | None] | None = None) -> pa.Array:
    paths = [None] * len(contents) if paths is None else paths
    pairs = zip(contents, paths, strict=True)
    return pa.array([{"bytes": content, "path": path} for content, path in pairs], HF_TYPE)


PNGS = [pack_png(pixels) for pixels in PIXELS]
IMAGES = hugging_face(PNGS)


def rows_of(stream: bytes, size: int = 2, start: int = 0, **reading: Any) -> tuple[Any, Any]:
    """The images of a Parquet file, and the source, closed by now."""
    with open_parquet(io.BytesIO(stream), "x.parquet", Reading(**reading)) as source:
        batches = list(source.batches(size, start))
    lengths = [
        len(batch.contents or () if batch.pixels is None else batch.pixels) for batch in batches
    ]
    assert lengths[:-1] == [size] * (len(batches) - 1)
    found = [
        image_of(batch, i, "x")
        for batch, length in zip(batches, lengths, strict=True)
        for i in range(length)
    ]
    return np.stack(found) if found else np.empty((0, 28, 28), np.uint8), source


LISTS = [pixels.tolist() for pixels in PIXELS]
COLUMNS = (
    {name: column.tolist() for name, column in zip(NAMES, zip(*ROWS, strict=True), strict=True)}
    if False
    else {name: np.array(ROWS)[:, i] for i, name in enumerate(NAMES)}
)


@pytest.mark.parametrize(
    "images",
    [
        {"image": IMAGES},
        {"other": IMAGES},
        {"image": pa.array(PNGS, pa.binary())},
        {"img": pa.array(PNGS, pa.large_binary())},
        {"image": pa.array(LISTS)},
        {"image": pa.array(LISTS, pa.list_(pa.list_(pa.uint8(), 28), 28))},
        {"pixels": pa.array(ROWS)},
        {"pixels": pa.array(ROWS, pa.large_list(pa.int16()))},
        {"pixels": pa.array(ROWS, pa.list_(pa.uint8(), 784))},
        COLUMNS,
        dict(sorted(COLUMNS.items())),
    ],
    ids=lambda images: f"{next(iter(images))}",
)
@pytest.mark.parametrize("size", [2, 3, 100])
def test_rows_of_parquet_become_images_with_labels(images: dict[str, Any], size: int) -> None:
    stream = parquet({**images, "label": LABELS})
    pixels, source = rows_of(stream, size)
    np.testing.assert_array_equal(pixels, PIXELS)
    np.testing.assert_array_equal(source.labels, LABELS)
    assert (source.num_images, source.labels_from, source.left) == (COUNT, "column label", [])
    assert source.names is None
    for start in range(1, -(-COUNT // size)):
        np.testing.assert_array_equal(rows_of(stream, size, start)[0], PIXELS[size * start :])


def test_a_table_of_no_rows_has_no_images() -> None:
    pixels, source = rows_of(parquet({"image": IMAGES[:0], "label": LABELS[:0]}))
    assert (len(pixels), source.num_images, len(source.labels)) == (0, 0, 0)


def test_texts_of_any_encoding_are_labels() -> None:
    for texts in (pa.array(list("abcab")), pa.array(list("abcab")).dictionary_encode()):
        assert rows_of(parquet({"image": IMAGES, "label": texts}))[1].labels == list("abcab")


def test_columns_that_are_not_taken_are_named() -> None:
    features = {"y": {"names": ["T-shirt", "boot"], "_type": "ClassLabel"}}
    columns = {"image": IMAGES, "y": [0, 1, 0, 1, 0], "fine": [1] * 5, "meta": [{"a": 1}] * 5}
    source = rows_of(parquet(columns, features=features))[1]
    assert source.left == [
        "column fine",
        "column meta",
        "the names of the classes in y (T-shirt, boot)",
    ]
    digits = {"y": {"names": ["0", "1"], "_type": "ClassLabel"}}
    source = rows_of(parquet({"image": IMAGES, "y": [0, 1, 0, 1, 0]}, features=digits))[1]
    assert source.left == []
    fine = rows_of(parquet(columns, features=features), labels="fine")[1]
    assert (fine.labels_from, fine.left) == ("column fine", ["column y", "column meta"])
    assert rows_of(parquet(columns), labels="none")[1].labels is None


def test_one_of_several_columns_of_images_is_chosen() -> None:
    other = hugging_face([pack_png(255 - pixels) for pixels in PIXELS])
    columns = {"mask": other, "image": IMAGES}
    assert (rows_of(parquet(columns))[0] == PIXELS).all()  # by its name
    assert (rows_of(parquet(columns), array="mask")[0] == 255 - PIXELS).all()
    with pytest.raises(ImageError, match=r"images in a, b\? --array NAME takes one of them"):
        rows_of(parquet({"a": IMAGES, "b": other}))
    with pytest.raises(ImageError, match="has no column z; it holds a"):
        rows_of(parquet({"a": IMAGES}), array="z")


def test_paths_are_names_if_all_rows_have_good_ones() -> None:
    paths = [f"{i % 2}/{i}.png" for i in range(COUNT)]
    source = rows_of(parquet({"image": hugging_face(PNGS, paths)}))[1]
    assert (source.names, source.left) == (paths, [])
    for bad, why in (
        (["a.png"] * 5, "would also be restored as a.png"),
        (["../a.png", "b", "c", "d", "e"], "unsafe name"),
        (["a.png", None, "c", "d", "e"], "some rows have none"),
    ):
        source = rows_of(parquet({"image": hugging_face(PNGS, bad)}))[1]
        assert source.names is None
        assert len(source.left) == 1
        assert source.left[0].startswith("image.path (")
        assert why in source.left[0]


def test_fractions_in_parquet_are_taken_by_their_scale() -> None:
    rows = (PIXELS / 255).reshape(COUNT, 784)
    for images in ({"image": rows.tolist()}, {name: rows[:, i] for i, name in enumerate(NAMES)}):
        assert (rows_of(parquet(images), scale=Scale(1))[0] == PIXELS).all()
        with pytest.raises(ImageError, match=r"float64, aez takes integers; --scale"):
            rows_of(parquet(images))


NULL_LABEL = pa.array([1, None, 3, 4, 5])
PARQUET_REFUSED: dict[str, dict[str, Any]] = {
    "has no images; aez takes a column of image files (as bytes) or of lists of pixels, or 784 "
    "columns pixel0, pixel1, ...; it holds a (int64), label (int64)": {
        "a": [1] * 5,
        "label": LABELS,
    },
    "row 3 has no image, it is null; aez takes the bytes of image files": {
        "image": hugging_face([*PNGS[:3], None, PNGS[4]])
    },
    "row 1 has no image, only the path 'a.png'; aez takes the bytes of image files": {
        "image": pa.array([{"bytes": p, "path": "a.png"} for p in (PNGS[0], None)], HF_TYPE),
        "label": LABELS[:2],
    },
    "row 1 is nul": {"image": pa.array([PNGS[0], None, *PNGS[2:]], pa.binary())},
    "row 4 has no image, it is null": {"image": pa.array([*IMAGES.to_pylist()[:4], None], HF_TYPE)},
    "row 4 has another number of pixels, or none": {"image": pa.array([*LISTS[:4], None])},
    "row 3 has another number of pixels, or none": {"image": [*ROWS[:3], ROWS[3][1:], ROWS[4]]},
    "row 3 has another number of pixels, or": {
        "image": [*LISTS[:3], [*LISTS[3][:5], LISTS[3][5][1:], *LISTS[3][6:]], LISTS[4]]
    },
    "row 0 has 783 pixels, aez takes 784": {"image": [row[1:] for row in ROWS]},
    "row 3 is nul": {"image": [*ROWS[:3], [None, *ROWS[3][1:]], ROWS[4]]},
    "row 2 has the value 256, aez takes whole numbers": {
        "image": [*ROWS[:2], [256, *ROWS[2][1:]], *ROWS[3:]]
    },
    "row 1 has the value -1, aez takes whole numbers": {**COLUMNS, "pixel9": [0, -1, 0, 0, 0]},
    "row 2 is null": {**COLUMNS, "pixel9": [0, 1, None, 0, 0]},
    "column label: row 1 is null": {"image": IMAGES, "label": NULL_LABEL},
    "column label: label 2 is -1, wanted an integer": {"image": IMAGES, "label": [1, 2, -1, 3, 4]},
    "column label: label 0 is 1.0, wanted an integer": {
        "image": IMAGES,
        "label": [1.0, 2, 3, 4, 5],
    },
    "column label: label 3, '', is empty": {"image": IMAGES, "label": ["a", "b", "c", "", "d"]},
    f"row 2 has {MAX_CONTENT_BYTES + 1} bytes, an image of 28x28 needs at most": {
        "image": hugging_face([*PNGS[:2], bytes(MAX_CONTENT_BYTES + 1), *PNGS[3:]])
    },
}


@pytest.mark.parametrize(("said", "columns"), PARQUET_REFUSED.items(), ids=PARQUET_REFUSED)
@pytest.mark.parametrize("size", [2, 100])
def test_a_bad_row_of_parquet_is_named(said: str, columns: dict[str, Any], size: int) -> None:
    with pytest.raises(ImageError) as caught:
        rows_of(parquet(columns, row_group_size=4), size)
    assert str(caught.value).startswith(f"x.parquet: {said}")


def test_damaged_parquet_is_an_error_everywhere() -> None:
    stream = parquet({"image": IMAGES, "label": LABELS}, write_page_checksum=True)
    for length in (0, 3, 100, len(stream) // 2, len(stream) - 9, len(stream) - 1):
        with pytest.raises(ImageError, match=r"^x\.parquet: is truncated or damaged"):
            rows_of(stream[:length])
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(stream), 100).tolist():
        damaged = bytearray(stream)
        damaged[at] ^= 1 << int(rng.integers(8))
        try:
            rows_of(bytes(damaged))
        except ImageError:
            pass


def test_without_pyarrow_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def no_pyarrow(name: str, *args: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return imported(name, *args)

    monkeypatch.setattr(builtins, "__import__", no_pyarrow)
    with (
        pytest.raises(UsageError, match=r'pip install "aez\[parquet\]"'),
        open_source(io.BytesIO(b"PAR1"), "x.parquet"),
    ):
        pass
