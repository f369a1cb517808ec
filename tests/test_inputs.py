"""`aez compress` of what people have: data sets in one file, with labels, in folders, at URLs; and
what it says of the rest.
"""

from __future__ import annotations

import gzip
import io
import os
import random
import struct
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import helpers
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner

from codec import api
from codec.cli.app import app
from codec.commands import resume, work
from codec.commands.compress import CompressOptions, compress
from codec.commands.decompress import decompress
from codec.commands.events import Result
from codec.commands.merge import merge
from codec.commands.sample import read as read_for_bench
from codec.encoder.options import Options
from codec.errors import UsageError
from codec.files.batch import Reading, Scale
from codec.files.images import ORIENTATION, pack_idx, pack_npy, pack_png
from codec.files.kinds import SOURCES

COUNT = 9
PIXELS = helpers.drawn(COUNT)
LABELS = np.arange(COUNT) % 4
NAMES = [f"{i % 3}/{i}.png" for i in range(COUNT)]
PNGS = [pack_png(pixels) for pixels in PIXELS]


@pytest.fixture
def options(tiny_weights: Path) -> CompressOptions:
    """Lossless, in blocks of 4, so that all pixels can be compared."""
    model = next(tiny_weights.glob("tiny0-lossless-????????.safetensors"))
    return CompressOptions(Options.of(100, str(model), True), block_images=4)


def run(
    inputs: Any, options: CompressOptions, out: Any = None, dry_run: bool = False, **changes: Any
) -> Result:
    reading = {key: changes.pop(key) for key in Reading._fields if key in changes}
    made = replace(options, reading=Reading(**reading), **changes)
    inputs = [str(one) for one in (inputs if isinstance(inputs, list) else [inputs])]
    where = None if out is None else str(out)
    return Result.of(compress(inputs, where, dry_run=dry_run, options=made))


def opened(path: Path, options: CompressOptions) -> api.Collection:
    return api.open(path, model=options.encoding.model)


def csv_of(pixels: np.ndarray, labels: Any = LABELS) -> bytes:
    head = ["label", *(f"pixel{i}" for i in range(784))]
    rows = [[label, *row] for label, row in zip(labels, pixels.reshape(-1, 784), strict=True)]
    return "".join(",".join(map(str, row)) + "\n" for row in [head, *rows]).encode()


def parquet_of(labels: Any = LABELS, contents: list[bytes] = PNGS) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table({"image": contents, "label": labels}), stream, row_group_size=5)
    return stream.getvalue()


def npz_of(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def zip_of(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tar_of(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def colour() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (28, 28), (9, 209, 9)).save(stream, "PNG")
    return stream.getvalue()


IDX1 = struct.pack(">2I", 0x801, COUNT) + LABELS.astype(np.uint8).tobytes()
FILES = dict(zip(NAMES, PNGS, strict=True))
# name of a file, its content, and whether its images have names and labels
SETS: list[tuple[str, bytes, bool, bool]] = [
    ("x.csv", csv_of(PIXELS), False, True),
    ("x.csv.gz", gzip.compress(csv_of(PIXELS)), False, True),
    ("x.parquet", parquet_of(), False, True),
    ("x.npz", npz_of(images=PIXELS, labels=LABELS), False, True),
    ("x.npy", pack_npy(PIXELS.reshape(COUNT, 784)), False, False),
    ("x.npy.gz", gzip.compress(pack_npy(PIXELS)), False, False),
    ("x.idx.gz", gzip.compress(pack_idx(PIXELS)), False, False),
    ("x.zip", zip_of(FILES), True, False),
    ("x.tar", tar_of(FILES), True, False),
    ("x.tar.gz", gzip.compress(tar_of(FILES)), True, False),
    ("x.tgz", gzip.compress(tar_of(FILES)), True, False),
]
each_set = pytest.mark.parametrize(
    ("name", "stream", "named", "labelled"), SETS, ids=[name for name, *_ in SETS]
)


def check_set(path: Path, options: CompressOptions, named: bool, labelled: bool) -> None:
    with opened(path, options) as collection:
        np.testing.assert_array_equal(collection[:], PIXELS)
        assert collection.names == (NAMES if named else [])
        assert collection.has_labels is labelled
        if labelled:
            np.testing.assert_array_equal(collection.labels, LABELS)


@each_set
def test_a_data_set_in_one_file_becomes_one_collection(
    name: str,
    stream: bytes,
    named: bool,
    labelled: bool,
    tmp_path: Path,
    options: CompressOptions,
) -> None:
    path = tmp_path / name
    path.write_bytes(stream)
    planned = run(path, options, dry_run=True)
    labels = {"x.npz": ", labels: array labels"}.get(name, ", labels: column label" * labelled)
    assert planned.outputs == [f"{path} ({COUNT} images{labels}) -> {tmp_path}/x.aez"]
    assert [file.name for file in tmp_path.iterdir()] == [name]
    result = run(path, options, remove=True)
    assert (result.failed, result.exit_code, result.images) == ([], 0, COUNT)
    assert (result.outputs, result.bytes_in > 0) == ([str(tmp_path / "x.aez")], True)
    check_set(tmp_path / "x.aez", options, named, labelled)
    assert [file.name for file in tmp_path.iterdir()] == ["x.aez"]


@each_set
@pytest.mark.parametrize("after", [1, 2])
def test_it_is_resumed_and_its_bytes_do_not_depend_on_that(
    name: str,
    stream: bytes,
    named: bool,
    labelled: bool,
    after: int,
    tmp_path: Path,
    options: CompressOptions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, output = tmp_path / name, tmp_path / "x.aez"
    path.write_bytes(stream)
    run(path, options)
    wanted = output.read_bytes()
    output.unlink()
    encode, encoded = work.encode_block, list[int]()

    def encode_block(task: work.BlockTask) -> work.BlockResult:
        if len(encoded) == after:
            raise KeyboardInterrupt
        encoded.append(0)
        return encode(task)

    with monkeypatch.context() as patch:
        patch.setattr(work, "encode_block", encode_block)
        with pytest.raises(KeyboardInterrupt):
            run(path, options)
    encoded.clear()
    after = -1
    monkeypatch.setattr(work, "encode_block", encode_block)
    result = run(path, options)
    assert f"{output}: resuming, {resume.finished(3 - len(encoded), 3)}" in result.notes
    assert output.read_bytes() == wanted
    # with other labels it is another collection, and nothing is resumed
    if labelled:
        with monkeypatch.context() as patch:
            encoded.clear()
            after = 1
            with pytest.raises(KeyboardInterrupt):
                run(path, options, force=True)
        after = -1
        result = run(path, options, labels="none", force=True)
        assert not any("resuming" in note for note in result.notes)
        check_set(output, options, named, False)


@each_set
def test_it_can_be_at_a_url(
    name: str,
    stream: bytes,
    named: bool,
    labelled: bool,
    tmp_path: Path,
    options: CompressOptions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = fsspec.filesystem("memory")
    monkeypatch.chdir(tmp_path)
    try:
        store.pipe_file(f"/in/{name}", stream)
        result = run(f"memory://in/{name}", options)
        assert (result.failed, result.outputs) == ([], ["x.aez"])
        check_set(tmp_path / "x.aez", options, named, labelled)
    finally:
        store.rm("/", recursive=True)


@each_set
def test_it_can_come_from_stdin(
    name: str,
    stream: bytes,
    named: bool,
    labelled: bool,
    tmp_path: Path,
    options: CompressOptions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stream)))
    result = run("-", options, tmp_path / "x.aez")
    assert (result.failed, any("labels from" in note for note in result.notes)) == ([], labelled)
    check_set(tmp_path / "x.aez", options, named, labelled)
    np.save(tmp_path / "y.npy", LABELS)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stream)))
    labels = str(tmp_path / "y.npy")
    assert run("-", options, tmp_path / "y.aez", labels=labels).failed == []
    check_set(tmp_path / "y.aez", options, named, True)


@each_set
def test_it_can_be_measured(
    name: str, stream: bytes, named: bool, labelled: bool, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(stream)
    told, images = helpers.drained(read_for_bench([str(tmp_path / name)], 4))
    assert told == []
    np.testing.assert_array_equal(images.pixels, PIXELS[[0, 2, 5, 8]])
    assert images.names == [NAMES[i] if named else f"{name}[{i}]" for i in (0, 2, 5, 8)]
    assert images.total == COUNT


# NPZ of several arrays


@pytest.fixture
def keras(tmp_path: Path) -> Path:
    path = tmp_path / "mnist.npz"
    path.write_bytes(npz_of(x_train=PIXELS, y_train=LABELS, x_test=PIXELS[:2], y_test=LABELS[:2]))
    return path


def test_each_array_of_images_becomes_a_collection(keras: Path, options: CompressOptions) -> None:
    planned = run(keras, options, dry_run=True)
    assert planned.outputs == [
        f"{keras}: x_train (9 images, labels: array y_train) -> {keras.parent}/mnist.train.aez",
        f"{keras}: x_test (2 images, labels: array y_test) -> {keras.parent}/mnist.test.aez",
    ]
    result = run(keras, options, remove=True)
    assert (result.failed, result.images) == ([], COUNT + 2)
    assert result.notes == [
        f"{keras}: x_train: labels from array y_train",
        f"{keras}: x_test: labels from array y_test",
    ]
    assert sorted(path.name for path in keras.parent.iterdir()) == [
        "mnist.test.aez",
        "mnist.train.aez",
    ]
    check_set(keras.parent / "mnist.train.aez", options, False, True)


def test_a_file_of_which_an_array_fails_is_kept(keras: Path, options: CompressOptions) -> None:
    (keras.parent / "mnist.test.aez").write_bytes(b"there")
    result = run(keras, options, remove=True)
    assert result.exit_code == 3
    assert result.failed == [
        (f"{keras}: x_test", f"output {keras.parent}/mnist.test.aez exists (-f overwrites it)")
    ]
    assert keras.exists()


def test_one_array_is_chosen_by_its_name(keras: Path, options: CompressOptions) -> None:
    result = run(keras, options, array="x_test", remove=True)
    assert (result.outputs, result.exit_code) == ([f"{keras.parent}/mnist.test.aez"], 0)
    left = "x_train uint8 (9, 28, 28); y_train int64 (9,)"
    assert f"{keras}: not stored: {left}" in result.notes
    assert result.notes[-1] == f"{keras}: x_test: kept, as not all of it is stored"
    assert keras.exists()
    assert run(keras, options, keras.parent / "one.aez", array="x_train").exit_code == 0
    with pytest.raises(UsageError, match="has the arrays x_train, x_test: --array NAME takes one"):
        run(keras, options, keras.parent / "all.aez")
    missing = run(keras, options, array="z")
    assert missing.failed == [(str(keras), _text_of_missing())]


def _text_of_missing() -> str:
    return (
        "has no array z; it holds x_train uint8 (9, 28, 28), y_train int64 (9,), "
        "x_test uint8 (2, 28, 28), y_test int64 (2,)"
    )


def test_what_is_left_in_an_npz_file_keeps_it(tmp_path: Path, options: CompressOptions) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(npz_of(images=PIXELS, labels=LABELS, mean=np.zeros(3)))
    result = run(path, options, remove=True)
    assert f"{path}: not stored: mean float64 (3,)" in result.notes
    assert path.exists()
    assert run(path, options, array="images", force=True).exit_code == 0
    (tmp_path / "x.csv").write_bytes(csv_of(PIXELS))
    with pytest.raises(UsageError, match=r"x\.csv: --array is for \.npz and \.parquet"):
        run(tmp_path / "x.csv", options, array="images")


# Labels


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    images, labels = tmp_path / "t-images-idx3-ubyte", tmp_path / "t-labels-idx1-ubyte"
    images.write_bytes(pack_idx(PIXELS))
    labels.write_bytes(IDX1)
    return images, labels


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_an_idx_file_of_labels_goes_with_its_images(
    pair: tuple[Path, Path], options: CompressOptions, given: bool, packed: bool
) -> None:
    images, labels = pair
    if packed:
        labels = labels.with_name(labels.name + ".gz")
        labels.write_bytes(gzip.compress(pair[1].read_bytes()))
        pair[1].unlink()
    result = run([labels, images] if given else images, options, remove=True)
    output = images.with_name("t-images-idx3-ubyte.aez")
    assert (result.failed, result.outputs) == ([], [str(output)])
    assert result.notes == [f"{images}: labels from {labels}"]
    check_set(output, options, False, True)
    # what was not given is not deleted
    assert (images.exists(), labels.exists()) == (False, not given)


def test_a_pair_of_idx_files_comes_back_byte_for_byte(
    pair: tuple[Path, Path], options: CompressOptions
) -> None:
    before = [path.read_bytes() for path in pair]
    assert run(list(pair), options, pair[0].with_name("x.aez"), remove=True).exit_code == 0
    made = decompress([str(pair[0].with_name("x.aez"))], str(pair[0]), model=options.encoding.model)
    assert Result.of(made).failed == []
    assert [path.read_bytes() for path in pair] == before


def test_labels_beside_images_can_be_left_out(
    pair: tuple[Path, Path], options: CompressOptions
) -> None:
    images, labels = pair
    result = run(images, options, labels="none")
    assert result.notes == []
    check_set(images.with_name("t-images-idx3-ubyte.aez"), options, False, False)
    alone = run(labels, options)
    assert alone.failed == [
        (str(labels), "holds IDX labels, not images; --labels takes them with the images")
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (struct.pack(">2I", 0x801, 8) + bytes(8), "8 labels ({labels}) for 9 images"),
        (struct.pack(">2I", 0x801, 10) + bytes(10), "10 labels ({labels}) for 9 images"),
        (IDX1[:-1], "{labels}: claims 9 bytes of labels, but has 8"),
        (b"what", "{labels}: 1 labels"),
    ],
)
def test_labels_that_do_not_fit_are_an_error(
    pair: tuple[Path, Path], options: CompressOptions, content: bytes, said: str
) -> None:
    images, labels = pair
    labels.write_bytes(content)
    ((name, reason),) = run(images, options).failed
    assert name == str(images)
    assert reason.startswith(said.format(labels=labels)) or "1 labels" in said
    assert not images.with_name("t-images-idx3-ubyte.aez").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [("y.txt", "\n".join(map(str, LABELS)).encode()), ("y.npy", None), ("y", IDX1)],
)
def test_labels_come_from_a_file(
    tmp_path: Path, options: CompressOptions, name: str, content: bytes | None
) -> None:
    if content is None:
        np.save(tmp_path / name, LABELS)
    else:
        (tmp_path / name).write_bytes(content)
    (tmp_path / "x.npy").write_bytes(pack_npy(PIXELS))
    (tmp_path / "x.tar").write_bytes(tar_of(FILES))
    for source, named in (("x.npy", False), ("x.tar", True)):
        result = run(tmp_path / source, options, labels=str(tmp_path / name), force=True)
        assert result.notes == [f"{tmp_path / source}: labels from {tmp_path / name}"]
        check_set(tmp_path / "x.aez", options, named, True)


def test_labels_that_are_neither_a_file_nor_a_column_are_an_error(
    tmp_path: Path, options: CompressOptions
) -> None:
    (tmp_path / "x.csv").write_bytes(csv_of(PIXELS))
    ((_, reason),) = run(tmp_path / "x.csv", options, labels="Label").failed
    assert reason == f"--labels Label is no file, and no column or array of {tmp_path / 'x.csv'}"
    ((_, reason),) = run(tmp_path / "x.csv", options, labels="folders").failed
    assert reason == f"--labels folders: the images of {tmp_path / 'x.csv'} are in no folders"


def write_tree(top: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, content in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return top


def test_folders_are_labels_on_demand(tmp_path: Path, options: CompressOptions) -> None:
    tree = write_tree(tmp_path / "x")
    (tmp_path / "y.tar").write_bytes(tar_of(FILES))
    assert run(tree, options, labels="folders").notes == [f"{tree}: labels from folder names"]
    assert run(tmp_path / "y.tar", options, labels="folders").failed == []
    with opened(tmp_path / "x.aez", options) as one, opened(tmp_path / "y.aez", options) as other:
        assert one.names == sorted(NAMES)
        assert one.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert other.labels.tolist() == [0, 1, 2] * 3
    planned = run(tree, options, dry_run=True, labels="folders")
    assert planned.outputs == []  # it is there
    planned = run(tree, options, tmp_path / "z.aez", dry_run=True, labels="folders")
    assert planned.outputs == [f"{tree} (9 images, labels: folder names) -> {tmp_path}/z.aez"]


def test_a_bad_image_takes_its_label_along(tmp_path: Path, options: CompressOptions) -> None:
    tree = write_tree(tmp_path / "x", {**FILES, NAMES[5]: b"no image"})
    order = sorted(range(COUNT), key=NAMES.__getitem__)
    (tmp_path / "y.txt").write_text("".join(f"{LABELS[i]}\n" for i in order))
    result = run(tree, options, labels=str(tmp_path / "y.txt"))
    assert (result.exit_code, result.images) == (3, COUNT - 1)
    with opened(tmp_path / "x.aez", options) as collection:
        for name, label, pixels in zip(
            collection.names, collection.labels, collection[:], strict=True
        ):
            number = NAMES.index(name)
            assert label == LABELS[number]
            np.testing.assert_array_equal(pixels, PIXELS[number])
    (tmp_path / "y.txt").write_text("1\n2\n")
    ((_, reason),) = run(tree, options, labels=str(tmp_path / "y.txt"), force=True).failed
    assert reason == f"{tmp_path / 'y.txt'}: 2 labels for 9 images"


def test_an_image_in_a_file_of_its_own_has_no_label(
    tmp_path: Path, options: CompressOptions
) -> None:
    (tmp_path / "a.png").write_bytes(PNGS[0])
    with pytest.raises(UsageError, match="--labels is for collections"):
        run(tmp_path / "a.png", options, labels="folders")


# Archives


def test_a_bad_entry_is_a_failure_and_the_archive_is_kept(
    tmp_path: Path, options: CompressOptions
) -> None:
    path = tmp_path / "x.tar"
    files = {**FILES, NAMES[5]: b"no image", "../a.png": PNGS[0], "large.png": bytes(1 << 17)}
    path.write_bytes(tar_of(files))
    result = run(path, options, remove=True)
    assert (result.exit_code, result.images) == (3, COUNT - 1)
    assert result.failed == [
        (f"{path}/../a.png", "unsafe name: it has an empty, '.' or '..' component"),
        (f"{path}/large.png", "has 131072 bytes, an image of 28x28 needs at most 65536"),
        (f"{path}/{NAMES[5]}", "is not an image that Pillow can read"),
    ]
    assert result.notes == [f"{path}: kept, as not all of it is stored"]
    with opened(tmp_path / "x.aez", options) as collection:
        assert collection.names == [name for name in NAMES if name != NAMES[5]]
    assert path.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no image", "is not an image that Pillow can read"),
        (colour(), "in colour, aez takes grey (channels differ by up to 200 steps)"),
        (PNGS[6][:-1], "is truncated or damaged: "),
    ],
)
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_bad_row_of_parquet_is_named_and_nothing_is_written(
    content: bytes, said: str, jobs: int, tmp_path: Path, options: CompressOptions
) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(parquet_of(contents=[*PNGS[:6], content, *PNGS[7:]]))
    ((name, reason),) = run(path, options, remove=True, jobs=jobs).failed
    assert name == str(path)
    assert reason.startswith(f"row 6: {said}")
    assert [file.name for file in tmp_path.iterdir()] == ["x.parquet"]


def test_an_archive_of_which_nothing_can_be_read_gives_no_collection(
    tmp_path: Path, options: CompressOptions
) -> None:
    (tmp_path / "x.zip").write_bytes(zip_of({"a.png": b"no", "b.png": b"image"}))
    result = run(tmp_path / "x.zip", options)
    assert (result.exit_code, len(result.failed)) == (1, 2)
    assert [file.name for file in tmp_path.iterdir()] == ["x.zip"]


def test_the_bytes_of_an_archive_are_those_of_its_folder(
    tmp_path: Path, options: CompressOptions
) -> None:
    """If its images are in the same order."""
    tree = write_tree(tmp_path / "x")
    (tmp_path / "y.tar").write_bytes(tar_of(dict(sorted(FILES.items()))))
    run([tree], options)
    for jobs in (1, 2):
        run([tmp_path / "y.tar"], options, jobs=jobs, force=True)
        assert (tmp_path / "x.aez").read_bytes() == (tmp_path / "y.aez").read_bytes()


# Directories


def test_litter_is_no_failure_and_others_are_named(
    tmp_path: Path, options: CompressOptions
) -> None:
    more = {"._a.png": b"\0\5\x16\7", ".DS_Store": b"", "__MACOSX/b.png": b"", "0/Thumbs.db": b""}
    tree = write_tree(tmp_path / "x", {**FILES, **more})
    result = run(tree, options)
    assert (result.exit_code, result.notes, result.images) == (0, [], COUNT)
    write_tree(tree, {"notes.txt": b"x", "0/x.npy": b"", "y.csv": b"", "z.tar": b""})
    assert run(tree, options, force=True).notes == [
        f"{tree}: skipped 3 files of many images (0/x.npy, y.csv, z.tar), which are taken if given "
        "by name; 1 file of other kinds (notes.txt)"
    ]


def test_images_without_a_suffix_are_taken_on_demand(
    tmp_path: Path, options: CompressOptions
) -> None:
    tree = write_tree(
        tmp_path / "x", {"0/a": PNGS[0], "b.dat": PNGS[1], "c.png": PNGS[2], "d": b""}
    )
    os.mkfifo(tree / "pipe")
    assert run(tree, options).images == 1
    result = run(tree, options, all_files=True, force=True)
    assert (result.images, result.failed) == (3, [])
    assert result.notes == [f"{tree}: skipped 2 files of other kinds (d, pipe)"]
    with opened(tmp_path / "x.aez", options) as collection:
        assert collection.names == ["0/a", "b.dat", "c.png"]
        np.testing.assert_array_equal(collection[:], PIXELS[:3])


def test_a_file_that_is_the_folder_of_another_is_refused(
    tmp_path: Path, options: CompressOptions
) -> None:
    bmp = io.BytesIO()
    Image.fromarray(PIXELS[0]).save(bmp, "BMP")
    tree = write_tree(tmp_path / "t", {"a.bmp": bmp.getvalue(), "a.png/b.png": PNGS[1]})
    result = run(tree, options, remove=True)
    said = f"{tree}/a.bmp and {tree}/a.png/b.png would be restored as a.png and as a file below it"
    assert result.failed == [(str(tree), said)]
    assert (tree / "a.bmp").exists()
    assert (tree / "a.png" / "b.png").exists()
    # without the suffix the folder is in nobody's way
    deep = write_tree(
        tmp_path / "u", {"a.png": PNGS[0], "a/b.png": PNGS[1], "a.bmp/c.png": PNGS[2]}
    )
    assert run(deep, options).exit_code == 0


@pytest.mark.parametrize("out", ["plain.bin", "y.jpg", "y.zip", "v1.2"])
def test_an_output_that_is_neither_a_collection_nor_a_directory_is_an_error(
    tmp_path: Path, options: CompressOptions, out: str
) -> None:
    tree = write_tree(tmp_path / "x")
    with pytest.raises(UsageError) as caught:
        run(tree, options, tmp_path / out)
    said = f"OUT is {tmp_path / out}: it must end in .aez, or in / if it is a directory"
    assert str(caught.value) == said
    assert not (tmp_path / out).exists()
    assert run(tree, options, f"{tmp_path / out}/").images == COUNT
    (tmp_path / out / "0" / "0.aez").unlink()
    assert run(tree, options, tmp_path / out).images == 1  # it is there


@pytest.mark.parametrize("out", ["plain.bin", "y.jpg", "y.zip", "v1.2"])
def test_images_are_restored_to_nothing_else_than_a_directory(
    tmp_path: Path, options: CompressOptions, out: str
) -> None:
    run(write_tree(tmp_path / "x"), options)

    def restored(where: Any) -> Result:
        model = options.encoding.model
        return Result.of(decompress([str(tmp_path / "x.aez")], str(where), model=model))

    with pytest.raises(UsageError) as caught:
        restored(tmp_path / out)
    said = "it must end in .png, .npy, .npz, .idx, .csv, or in / if it is a directory"
    assert str(caught.value) == f"OUT is {tmp_path / out}: {said}"
    assert not (tmp_path / out).exists()
    assert restored(f"{tmp_path / out}/").images == COUNT


@pytest.mark.parametrize("index", ["a", None, 1.0])
def test_an_image_is_picked_by_an_integer(
    tmp_path: Path, options: CompressOptions, index: Any
) -> None:
    run(write_tree(tmp_path / "x"), options)
    with opened(tmp_path / "x.aez", options) as collection:
        for pick in (collection.__getitem__, collection.name, collection.label):
            with pytest.raises(TypeError, match=r"images are picked by an integer.*, not by "):
                pick(index)


def test_an_empty_array_is_said_to_be_empty(tmp_path: Path, options: CompressOptions) -> None:
    (tmp_path / "x.npy").write_bytes(pack_npy(PIXELS[:0]))
    result = run(tmp_path / "x.npy", options)
    assert (result.notes, result.exit_code) == ([f"{tmp_path / 'x.npy'}: holds no images"], 0)
    (tmp_path / "y.csv").write_bytes(csv_of(PIXELS[:0], []))
    assert run(tmp_path / "y.csv", options).notes[-1] == f"{tmp_path / 'y.csv'}: holds no images"


# What files say besides pixels


def tagged(number: int) -> bytes:
    """A PNG with an orientation, gamma and a text."""
    tags, info, stream = Image.Exif(), PngInfo(), io.BytesIO()
    tags[ORIENTATION] = 6
    info.add(b"gAMA", struct.pack(">I", 45455))
    info.add_text("Author", "nobody")
    Image.fromarray(PIXELS[number]).save(stream, "PNG", exif=tags, pnginfo=info)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["collection", "separate", "tar", "stdin"])
def test_what_is_not_pixels_is_said_once_with_a_count(
    kind: str, tmp_path: Path, options: CompressOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {**FILES, "0/0.png": tagged(0), "2/8.png": tagged(8)}
    images, have = "2 images", "have"
    if kind == "tar":
        (tmp_path / "x.tar").write_bytes(tar_of(files))
        result = run(tmp_path / "x.tar", options)
    elif kind == "stdin":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(tagged(0))))
        result = run("-", options, tmp_path / "x.aez")
        images, have = "1 image", "has"
    else:
        tree = write_tree(tmp_path / "x", files)
        result = run(tree, options, tmp_path / "out" if kind == "separate" else None)
    assert result.failed == []
    assert result.notes == [
        f"{images} {have} a tag that turns the picture; pixels are stored as they are",
        f"not stored, as it is not pixels: gamma of {images}, EXIF of {images}, texts of {images}",
    ]
    if kind in ("collection", "tar"):
        with opened(tmp_path / "x.aez", options) as collection:
            np.testing.assert_array_equal(collection[collection.find("0/0.png")], PIXELS[0])


@pytest.mark.parametrize("kind", ["collection", "separate", "tar"])
def test_a_file_that_says_more_than_is_stored_is_not_removed(
    kind: str, tmp_path: Path, options: CompressOptions
) -> None:
    files = {**FILES, "0/0.png": tagged(0), "2/8.png": tagged(8)}
    if kind == "tar":
        path = tmp_path / "x.tar"
        path.write_bytes(tar_of(files))
        result = run(path, options, remove=True)
        assert f"{path}: kept, as not all of it is stored" in result.notes
        assert path.exists()
        return
    path = write_tree(tmp_path / "x", files)
    result = run(path, options, tmp_path / "out" if kind == "separate" else None, remove=True)
    assert result.notes[-1] == "2 files are kept, as not all of it is stored"
    left = [str(file.relative_to(path)) for file in path.rglob("*.png")]
    assert sorted(left) == ["0/0.png", "2/8.png"]


def test_an_image_made_grey_is_said_to_lose_its_colour_and_kept(
    tmp_path: Path, options: CompressOptions
) -> None:
    colour = np.repeat(PIXELS[0][..., None], 3, 2)
    colour[3, 3, 0] ^= 1
    path = tmp_path / "x.png"
    Image.fromarray(colour).save(path)
    result = run(path, options, remove=True, grey=True)
    assert result.notes == [
        "not stored, as it is not pixels: colour of 1 image",
        "1 file is kept, as not all of it is stored",
    ]
    assert path.exists()


def test_an_array_that_is_rounded_is_kept(tmp_path: Path, options: CompressOptions) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.full((2, 28, 28), 0.3))
    run(path, options, remove=True, scale=Scale(1, True))
    assert path.exists()


@pytest.mark.parametrize("column", ["image", "imag", "label"])
def test_a_column_of_parquet_is_chosen_by_its_name(
    tmp_path: Path, options: CompressOptions, column: str
) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(parquet_of())
    result = run(path, options, array=column)
    said = {
        "image": [],
        "imag": [(str(path), "has no column imag; it holds image, label")],
        "label": [
            (
                str(path),
                "column label is int64; aez takes image files in bytes, and lists of pixels",
            )
        ],
    }
    assert (result.failed, result.images) == (said[column], COUNT * (column == "image"))


def test_a_dry_run_finds_what_cannot_be_appended(tmp_path: Path, options: CompressOptions) -> None:
    (tmp_path / "x.npy").write_bytes(pack_npy(PIXELS))
    tree, out = write_tree(tmp_path / "t"), tmp_path / "x.aez"
    run(tmp_path / "x.npy", options)
    events = compress([str(tree)], str(out), dry_run=True, options=replace(options, append=True))
    assert Result.of(events).failed == [
        (str(tree), f"the images of {tree} have names, those of {out} have none")
    ]


@pytest.mark.parametrize("ending", [".zip", ".parquet", ".csv", ".npy", ".tar", ".png"])
def test_an_empty_file_is_said_to_be_empty(
    tmp_path: Path, options: CompressOptions, ending: str
) -> None:
    path = tmp_path / f"x{ending}"
    path.touch()
    assert run(path, options).failed == [(str(path), "is empty")]


def test_what_is_not_what_its_name_says_is_told_so(
    tmp_path: Path, options: CompressOptions
) -> None:
    page = "is a web page, not {}: download the file again"
    pointer = "is a pointer of Git LFS, not {}: git lfs pull fetches the file"
    kinds = {
        "x.zip": "a ZIP archive",
        "x.tar": "a TAR archive",
        "x.tar.gz": "a TAR archive",
        "x.parquet": "a Parquet file",
        "x.csv": "a CSV file",
        "x.npz": "an NPZ file",
        "x.npy": "an NPY file",
        "x.npy.gz": "an NPY file",
        "train-images-idx3-ubyte.gz": "an IDX file",
        "x.png": "an image",
        "x.dat": "an image",
    }
    html = b"\n<!doctype HTML><title>404, not found, sorry, %s</title>" % (b"," * 99)
    lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    for name, kind in kinds.items():
        path = tmp_path / name
        for content, reason in ((html, page), (gzip.compress(html), page), (lfs, pointer)):
            if content[:2] == b"\x1f\x8b" and kind == "an image":
                continue
            path.write_bytes(content)
            assert run(path, options).failed == [(str(path), reason.format(kind))]


FOREIGN = {
    "x.zip": (
        b"hello world, this is text",
        "is not a ZIP archive: it starts with 'hello world, this is tex'",
    ),
    "x.tar": (b"\xfd7zXZ\0\1", "is an xz file, not a TAR archive"),
    "x.tar.gz": (b"BZh91AY", "is a bzip2 file, not a TAR archive"),
    "x.tgz": (b"junk" * 200, "is not a TAR archive: it starts with 'junkjunkjunkjunkjunkjunk'"),
    "x.parquet": (
        bytes(9),
        "is not a Parquet file: it starts with the bytes 00 00 00 00 00 00 00 00",
    ),
    "x.npz": (b"\x80\4\x95", "is a pickle of Python, not an NPZ file"),
    "x.npy": (b"\x89HDF\r\n", "is an HDF5 file, not an NPY file"),
    "x.csv": (b"\x28\xb5\x2f\xfd", "is a zstd file, not a CSV file"),
    "x.png": (b"PK\3\4", "is a ZIP archive, not an image"),
    "x.7z": (
        b"7z\xbc\xaf\x27\x1c",
        f"is a 7z archive, not an image; files of many images are taken as {SOURCES}",
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_aez_does_not_take_is_named(
    tmp_path: Path, options: CompressOptions, name: str
) -> None:
    content, reason = FOREIGN[name]
    (tmp_path / name).write_bytes(content)
    assert run(tmp_path / name, options).failed == [(str(tmp_path / name), reason)]


def test_a_damaged_image_is_never_taken_and_never_removed(
    tmp_path: Path, options: CompressOptions
) -> None:
    damaged = bytearray(PNGS[2])
    damaged[damaged.index(b"IDAT") + 40] ^= 1
    for separate in (False, True):
        tree = write_tree(tmp_path / f"x{separate}", {**FILES, "2/8.png": bytes(damaged)})
        made = replace(options, remove=True)
        result = Result.of(compress([str(tree)], separate=separate, options=made))
        assert result.failed == [
            (
                f"{tree}/2/8.png",
                "is truncated or damaged: the check of its chunk IDAT differs",
            )
        ]
        assert [path.name for path in tree.rglob("*.png")] == ["8.png"]


def test_nearly_grey_images_are_taken_on_demand(tmp_path: Path, options: CompressOptions) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.dstack([PIXELS[2]] * 3)).save(stream, "WEBP", quality=80)
    files = {"a.webp": stream.getvalue(), "b.png": PNGS[0]}
    tree = write_tree(tmp_path / "x", files)
    (tmp_path / "y.tar").write_bytes(tar_of(files))
    for source in (tree, tmp_path / "y.tar"):
        result = run(source, options)
        ((_, reason),) = result.failed
        assert reason.endswith("(channels differ by up to 1 step; --grey takes the luma)")
        assert run(source, options, grey=True, force=True).images == 2
    assert run(tree / "a.webp", options, grey=True).images == 1


# Labels that are not what they seem


def test_rows_of_csv_label_the_images_that_they_name(
    tmp_path: Path, options: CompressOptions
) -> None:
    tree = write_tree(tmp_path / "t")
    (tmp_path / "t.tar").write_bytes(tar_of(FILES))
    rows = [f"{name},{LABELS[i]}" for i, name in enumerate(NAMES)]
    random.Random(1).shuffle(rows)
    table = tmp_path / "y.csv"
    table.write_text("\n".join(["file,label", *rows]))
    for source in (tree, tmp_path / "t.tar"):
        result = run(source, options, tmp_path / "x.aez", labels=str(table), force=True)
        assert f"{source}: labels from {table}, by its column file" in result.notes
        with opened(tmp_path / "x.aez", options) as collection:
            for number in range(COUNT):
                label = LABELS[NAMES.index(collection.name(number))]
                assert collection.labels_at([number])[0] == label


def test_labels_in_a_directory_or_nowhere_are_named(
    tmp_path: Path, options: CompressOptions
) -> None:
    images = tmp_path / "a-images-idx3-ubyte"
    images.write_bytes(pack_idx(PIXELS))
    folder = tmp_path / "a-labels-idx1-ubyte"
    folder.mkdir()
    assert run(images, options).failed == []  # not taken for a file of labels
    images.with_suffix(".aez").unlink()
    for labels, said in (
        (str(folder), f"labels in {folder}: Is a directory"),
        ("", "the name after --labels is empty"),
        ("nix", f"--labels nix is no file, and no column or array of {images}"),
    ):
        assert run(images, options, labels=labels).failed == [(str(images), said)]


NPZ_LABELS = {
    "labels: is object, wanted integers or short texts": np.array([None, "a", 1] * 3),
    "labels: is int64 (9, 2), wanted a label an image": np.zeros((9, 2), int),
    "labels: is int64 (), wanted a label an image": np.array(3),
}


@pytest.mark.parametrize(("said", "labels"), NPZ_LABELS.items(), ids=NPZ_LABELS)
def test_arrays_that_are_no_labels_are_told_so_or_left_out(
    tmp_path: Path, options: CompressOptions, said: str, labels: np.ndarray
) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, images=PIXELS, labels=labels)
    wanted = f"{said}; --labels none leaves labels out"
    assert run(path, options, labels="labels").failed == [(str(path), wanted)]
    result = run(path, options)
    if labels.dtype == object:
        assert result.failed == [(str(path), wanted)]
    else:
        left = f"{path}: not stored: labels {labels.dtype} {labels.shape}"
        assert (result.failed, result.notes) == ([], [left])


def test_two_arrays_that_could_be_labels_are_named(
    tmp_path: Path, options: CompressOptions
) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, images=PIXELS, labels=LABELS, targets=LABELS)
    result = run(path, options, remove=True)
    assert f"{path}: labels in labels or targets? --labels NAME takes one of them" in result.notes
    assert path.exists()  # as labels are not stored


def test_a_zip_with_more_than_its_entries_is_kept(tmp_path: Path, options: CompressOptions) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", PNGS[0])
        archive.comment = b"made by me"
    result = run(path, options, remove=True)
    assert result.notes == [
        f"{path}: not stored: its comment",
        f"{path}: kept, as not all of it is stored",
    ]
    assert path.exists()


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o400, 0o777])
def test_what_is_private_stays_private(tmp_path: Path, options: CompressOptions, mode: int) -> None:
    before = os.umask(0o022)
    try:
        for name, content in (("a.png", PNGS[0]), ("x.npy", pack_npy(PIXELS)), ("y.csv", None)):
            path = tmp_path / name
            path.write_bytes(csv_of(PIXELS) if content is None else content)
            path.chmod(mode)
            assert run(path, options).exit_code == 0
            made = path.with_suffix(".aez").stat().st_mode & 0o777
            assert oct(made) == oct(0o600 | mode & 0o044)
    finally:
        os.umask(before)


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX")
@pytest.mark.parametrize("mode", [0o700, 0o750, 0o755, 0o711])
def test_a_collection_of_a_private_directory_is_private(
    tmp_path: Path, options: CompressOptions, mode: int
) -> None:
    before = os.umask(0o022)
    try:
        tree = write_tree(tmp_path / "t")
        tree.chmod(mode)
        assert run(tree, options).exit_code == 0
        made = (tmp_path / "t.aez").stat().st_mode & 0o777
        assert oct(made) == oct({0o750: 0o640, 0o755: 0o644}.get(mode, 0o600))
        (tmp_path / "x.npy").write_bytes(pack_npy(PIXELS))
        (tmp_path / "x.npy").chmod(0o644)
        assert run(tmp_path / "x.npy", options).exit_code == 0
        assert run(tmp_path / "x.npy", options, tmp_path / "y.aez").exit_code == 0
        pair = [str(tmp_path / "x.aez"), str(tmp_path / "y.aez")]
        (tmp_path / "y.aez").chmod(0o600)
        assert Result.of(merge(pair, str(tmp_path / "z.aez"))).exit_code == 0
        assert (tmp_path / "z.aez").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


# The command line


def aez(*args: Any) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_the_options_of_the_command_line_arrive(
    tmp_path: Path, options: CompressOptions, tiny_weights: Path
) -> None:
    model = options.encoding.model
    (tmp_path / "f.npy").write_bytes(b"")
    np.save(tmp_path / "f.npy", PIXELS / 255)
    refused = aez("compress", tmp_path / "f.npy", "-m", model, "--lossless")
    assert refused.exit_code == 1
    assert "dtype float64, aez takes integers; --scale 1 takes floats from 0 to 1" in refused.stderr
    assert (
        aez("compress", tmp_path / "f.npy", "-m", model, "--lossless", "--scale", 1).exit_code == 0
    )
    with opened(tmp_path / "f.aez", options) as collection:
        np.testing.assert_array_equal(collection[:], PIXELS)
    np.save(tmp_path / "g.npy", np.full((2, 784), 0.3))
    rounded = aez(
        "compress", tmp_path / "g.npy", "-m", model, "--scale", 1, "--round", "--lossless"
    )
    assert rounded.exit_code == 0
    assert "float64 (2, 784) comes back as uint8 (2, 28, 28)" in rounded.stderr
    for wrong in (["--scale", 2], ["--round"]):
        assert aez("compress", tmp_path / "g.npy", *wrong).exit_code == 2
    (tmp_path / "k.npz").write_bytes(npz_of(x_a=PIXELS, x_b=PIXELS, l_a=LABELS))
    chosen = aez(
        *("compress", tmp_path / "k.npz", "--array", "x_a", "--labels", "l_a"),
        *("-m", model, "--lossless", "--dry-run"),
    )
    assert chosen.stdout.strip().endswith(
        f"k.npz: x_a (9 images, labels: array l_a) -> {tmp_path}/k.a.aez"
    )
