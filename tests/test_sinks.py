"""`aez decompress` to files of many images and to folders, with labels and names: what comes back,
and what is said of what does not.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest

import codec
from codec.collection.open import open_collection
from codec.commands import decompress
from codec.commands.compress import compress
from codec.commands.decompress import labels_place
from codec.commands.events import Note, Progress, Result
from codec.commands.sinks import SINKS, npy_header, pack_idx_labels
from codec.errors import UsageError
from codec.files import arrays, images
from codec.files.place import place
from codec.format.headers import BLOCK
from codec.labels import Labels

pytestmark = pytest.mark.usefixtures("shipped")
ROOT = Path(__file__).resolve().parent.parent
NAMES = [f"d/{i}.png" for i in range(7)]
INTEGERS = np.array([7, 2, 1, 0, 4, 1, 255])
TEXTS = ["cat", "dog", 'a "b", c', "é", "cat", "x\ny", " z"]
BLOCK_IMAGES = 3  # so blocks of 3, 3 and 1


@pytest.fixture
def pixels() -> np.ndarray:
    return codec.decompress(helpers.collect(7))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def collection(
    names: list[str] | None = None, labels: Labels | None = None, path: str = "x.aez"
) -> None:
    stream = helpers.collect(7, names, block_images=BLOCK_IMAGES, labels=labels)
    Path(path).write_bytes(stream)


def run(out: str | None = None, **options: Any) -> Result:
    return Result.of(decompress.decompress([options.pop("path", "x.aez")], out, **options))


def files() -> list[str]:
    return sorted(
        str(path) for path in Path().rglob("*") if path.is_file() and path.suffix != ".aez"
    )


def read_csv(path: str) -> tuple[list[str], list[list[str]]]:
    with open(path, newline="") as file:
        heads, *rows = csv.reader(file)
    return heads, rows


# Headers


@pytest.mark.parametrize("format", ["npy", "idx"])
@pytest.mark.parametrize("n", [0, 1, 60_000])
def test_header_is_that_of_the_packers(format: str, n: int) -> None:
    pixels = np.zeros((n, 28, 28), np.uint8)
    packed = (images.pack_npy if format == "npy" else images.pack_idx)(pixels)
    file = io.BytesIO()
    SINKS[format]([file], n)
    assert file.getvalue() == packed[: -pixels.nbytes or None]
    assert len(npy_header(n)) == len(npy_header(0))


def test_idx_labels_have_exact_bytes() -> None:
    """Bytes as MNIST's: magic 0, 0, type 8, 1 dimension; above 255, 32 bits, the highest first."""
    assert pack_idx_labels(INTEGERS[:2]) == bytes.fromhex("00000801 00000002 07 02")
    packed = pack_idx_labels(np.array([1, 256, 2**31 - 1]))
    assert packed == bytes.fromhex("00000c01 00000003 00000001 00000100 7fffffff")
    assert pack_idx_labels(np.empty(0, np.int64)) == bytes.fromhex("00000801 00000000")
    with pytest.raises(UsageError, match=r"label 2147483648 is above 2147483647.*--format npz"):
        pack_idx_labels(np.array([2**31]))


# NPZ


@pytest.mark.parametrize("labels", [INTEGERS, TEXTS], ids=["integers", "texts"])
def test_npz_has_images_and_labels_and_is_the_default_for_those_without_names(
    labels: Labels, pixels: np.ndarray
) -> None:
    collection(labels=labels)
    done = run()
    assert (done.outputs, done.notes, done.images, done.exit_code) == (["x.npz"], [], 7, 0)
    with np.load("x.npz") as found:
        assert sorted(found) == ["images", "labels"]
        np.testing.assert_array_equal(found["images"], pixels)
        assert found["images"].dtype == np.uint8
        assert found["labels"].tolist() == list(labels)


def test_npz_has_names_too(pixels: np.ndarray) -> None:
    collection(NAMES, INTEGERS)
    assert run(format="npz").notes == []
    with np.load("x.npz") as found:
        assert found["names"].tolist() == NAMES
        assert found["labels"].tolist() == INTEGERS.tolist()
        assert found["labels"].dtype == np.int64
    first = Path("x.npz").read_bytes()
    assert run(out="again.npz").exit_code == 0
    assert Path("again.npz").read_bytes() == first  # no time is in it
    collection(NAMES)
    run(format="npz", force=True)
    assert sorted(np.load("x.npz")) == ["images", "names"]


def test_npz_of_one_image_and_of_none(pixels: np.ndarray) -> None:
    Path("x.aez").write_bytes(codec.compress(helpers.drawn(1)[0]))
    assert run(format="npz").images == 1
    assert np.load("x.npz")["images"].shape == (1, 28, 28)
    Path("y.aez").write_bytes(codec.compress(np.zeros((0, 28, 28), np.uint8)))
    assert run(path="y.aez", format="npz").exit_code == 0
    assert {name: array.shape for name, array in np.load("y.npz").items()} == {
        "images": (0, 28, 28)
    }


# IDX


def test_idx_is_a_pair_of_files_with_the_names_of_mnist(pixels: np.ndarray) -> None:
    collection(labels=INTEGERS, path="t10k-images-idx3-ubyte.aez")
    done = run(path="t10k-images-idx3-ubyte.aez", format="idx")
    assert done.outputs == files() == ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
    assert (done.images, done.notes) == (7, [])
    assert Path(done.outputs[0]).read_bytes() == images.pack_idx(pixels)
    wanted = struct.pack(">2I", 0x801, 7) + bytes(INTEGERS.tolist())
    assert Path(done.outputs[1]).read_bytes() == wanted
    assert done.bytes_out == sum(Path(path).stat().st_size for path in done.outputs)


@pytest.mark.parametrize(
    ("output", "labels"),
    [
        ("x.idx", "x-labels.idx"),
        ("d.1/x.idx", "d.1/x-labels.idx"),
        ("images/x.idx", "images/x-labels.idx"),
        ("train-images.idx", "train-labels.idx"),
        ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
        ("d/emnist-letters-train-images-idx3-ubyte", "d/emnist-letters-train-labels-idx1-ubyte"),
        ("my-idx3-ubyte", "my-labels-idx1-ubyte"),
        ("memory://b/x.idx", "memory://b/x-labels.idx"),
    ],
)
def test_labels_of_an_idx_file_lie_beside_it(output: str, labels: str) -> None:
    assert str(labels_place(place(output))) == labels


def test_idx_without_labels_is_one_file_and_out_can_name_it(pixels: np.ndarray) -> None:
    collection()
    assert run("my-images-idx3-ubyte").outputs == ["my-images-idx3-ubyte"]
    assert Path("my-images-idx3-ubyte").read_bytes() == images.pack_idx(pixels)
    collection(labels=INTEGERS)
    assert run("y.idx").outputs == ["y.idx", "y-labels.idx"]


def test_idx_writes_both_files_or_none() -> None:
    collection(labels=INTEGERS)
    Path("x-labels.idx").write_bytes(b"mine")
    done = run(format="idx")
    assert done.failed == [("x.aez", "output x-labels.idx exists (-f overwrites it)")]
    assert files() == ["x-labels.idx"]
    assert run(format="idx", force=True).exit_code == 0
    collection(labels=TEXTS)
    before = {path: Path(path).read_bytes() for path in files()}
    done = run(format="idx", force=True)
    assert done.failed == [
        (
            "x.aez",
            "the labels are texts, and IDX holds integers: --format npz or csv restores them",
        )
    ]
    assert {path: Path(path).read_bytes() for path in files()} == before


@pytest.mark.slow
def test_mnist_comes_back_as_its_two_files_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ROOT.parent / "shared" / "data" / "mnist"
    if not data.exists():
        pytest.skip("no MNIST here")
    monkeypatch.undo()  # the shipped models
    monkeypatch.chdir(tmp_path)
    pair = ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
    pixels, labels = (gzip.decompress((data / f"{name}.gz").read_bytes()) for name in pair)
    stream = codec.compress(
        np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 28, 28),
        labels=np.frombuffer(labels, np.uint8, offset=8),
        lossless=True,
    )
    Path(f"{pair[0]}.aez").write_bytes(stream)
    assert run(path=f"{pair[0]}.aez", format="idx", jobs=2).outputs == pair
    assert Path(pair[0]).read_bytes() == pixels
    assert Path(pair[1]).read_bytes() == labels


# CSV


@pytest.mark.parametrize("labels", [INTEGERS, TEXTS, None], ids=["integers", "texts", "none"])
def test_csv_has_a_line_an_image(labels: Labels | None, pixels: np.ndarray) -> None:
    collection(labels=labels)
    done = run("x.csv")
    assert (done.images, done.notes, done.outputs) == (7, [], ["x.csv"])
    heads, rows = read_csv("x.csv")
    width = 0 if labels is None else 1
    assert heads == ["label"][:width] + [f"pixel{i}" for i in range(784)]
    found = np.array([row[width:] for row in rows]).astype(np.uint8).reshape(-1, 28, 28)
    np.testing.assert_array_equal(found, pixels)
    assert [row[0] for row in rows if width] == ([] if labels is None else list(map(str, labels)))


def test_csv_has_exact_bytes() -> None:
    collection(labels=["a,b", *TEXTS[1:]])
    run("x.csv", index=[range(1)])
    heads = ",".join(f"pixel{i}" for i in range(784))
    with codec.open("x.aez") as stream:
        row = ",".join(map(str, stream[0].ravel().tolist()))
    assert Path("x.csv").read_bytes() == f'label,{heads}\n"a,b",{row}\n'.encode()


# Folders


@pytest.mark.parametrize("jobs", [1, 2])
def test_folders_hold_the_images_of_a_label(jobs: int, pixels: np.ndarray) -> None:
    collection(labels=INTEGERS)
    done = run(format="folders", jobs=jobs)
    wanted = [f"x/{label}/{i}.png" for i, label in enumerate(INTEGERS.tolist())]
    assert files() == sorted(wanted)
    assert (done.outputs, done.images, done.notes, done.exit_code) == (["x/"], 7, [], 0)
    for image, path in zip(pixels, wanted, strict=True):
        np.testing.assert_array_equal(images.read_image(Path(path)), image)


def test_folders_keep_names_and_take_a_part() -> None:
    collection(NAMES, ["cat", "dog"] * 3 + ["cat"])
    assert run("out", format="folders", index=[range(5, 7), range(0, 1)]).images == 3
    assert files() == ["out/cat/d/0.png", "out/cat/d/6.png", "out/dog/d/5.png"]


@pytest.mark.parametrize("label", ["a/b", "..", ".", "/x", "a\\b", "c:", "x" * 251 + "/"])
def test_label_that_is_no_folder_is_refused_before_anything_is_written(label: str) -> None:
    collection(labels=["cat"] * 6 + [label])
    done = run(format="folders")
    ((_, said),) = done.failed
    assert said.startswith(f"label {label!r} cannot be the name of a folder: --format npz or csv")
    assert files() == []


def test_labels_that_differ_in_case_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    from codec.files import names

    collection(labels=["a", "A"] * 3 + ["b"])
    monkeypatch.setattr(names, "folds_case", lambda folder: True)
    ((_, said),) = run(format="folders").failed
    assert "two labels differ only in case" in said
    monkeypatch.setattr(names, "folds_case", lambda folder: False)
    assert run(format="folders").exit_code == 0


def test_folders_need_labels_and_a_directory() -> None:
    collection(NAMES)
    ((_, said),) = run(format="folders").failed
    assert said == "--format folders needs labels, and the images have none"
    with pytest.raises(UsageError, match=r"--format folders contradicts OUT y\.npz"):
        run("y.npz", format="folders")
    Path("x.aez").write_bytes(codec.compress(helpers.drawn(1)[0]))
    ((_, said),) = run(format="folders").failed
    assert said == "--format folders needs a directory as OUT, and images with labels"


def test_folders_and_a_tree_of_names_do_not_resume_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from codec.commands import tree

    collection(NAMES, INTEGERS)
    write, count = tree.write_block, []

    def write_block(task: Any) -> Any:
        if len(count) == 1:
            raise KeyboardInterrupt
        count.append(1)
        return write(task)

    with monkeypatch.context() as patch:
        patch.setattr(tree, "write_block", write_block)
        with pytest.raises(KeyboardInterrupt):
            run("out", format="folders")
    done = run("out")
    assert (done.exit_code, done.images) == (0, 7)
    assert not any("resuming" in note for note in done.notes)


# What is not restored is said


@pytest.mark.parametrize(
    ("names", "labels", "format", "said"),
    [
        (True, False, "npy", "names are not in x.npy; --format npz or png restores them"),
        (True, False, "idx", "names are not in x.idx; --format npz or png restores them"),
        (True, False, "csv", "names are not in x.csv; --format npz or png restores them"),
        (True, True, "csv", "names are not in x.csv; --format npz or png restores them"),
        (True, True, "npy", "names and labels are not in x.npy; --format npz restores them"),
        (False, True, "npy", "labels are not in x.npy; --format npz, csv or folders restores them"),
        (True, True, None, "labels are not in x/; --format npz, csv or folders restores them"),
        (False, True, "png", "labels are not in x/; --format npz, csv or folders restores them"),
        (True, False, None, None),
        (True, True, "folders", None),
        (True, True, "npz", None),
        (False, True, "idx", None),
        (False, False, "csv", None),
    ],
)
def test_what_is_not_restored_is_said(
    names: bool, labels: bool, format: decompress.Format | None, said: str | None
) -> None:
    collection(NAMES if names else None, INTEGERS if labels else None)
    done = run(format=format)
    assert done.exit_code == 0
    assert done.notes == ([] if said is None else [f"x.aez: {said}"])


def test_one_picked_image_is_what_was_asked_for() -> None:
    collection(NAMES, INTEGERS)
    assert run("7.png", index=[range(6, 7)]).notes == []


def test_labels_do_not_fit_into_stdout_as_idx(capfdbinary: Any) -> None:
    collection(labels=INTEGERS)
    done = run("-", format="idx")
    assert done.notes == ["x.aez: labels are not in -; --format npz, csv or folders restores them"]
    assert capfdbinary.readouterr().out[:4] == bytes.fromhex("00000803")
    run("-")
    with np.load(io.BytesIO(capfdbinary.readouterr().out)) as found:
        assert found["labels"].tolist() == INTEGERS.tolist()


# A part, and damage


@pytest.mark.parametrize("format", ["npz", "csv", "idx"])
def test_index_picks_images_with_their_labels(format: decompress.Format) -> None:
    collection(labels=INTEGERS)
    assert run(f"y.{format}", index=[range(6, 7), range(0, 2), range(6, 7)]).images == 4
    if format == "npz":
        found = np.load("y.npz")["labels"].tolist()
    elif format == "csv":
        found = [int(row[0]) for row in read_csv("y.csv")[1]]
    else:
        found = list(Path("y-labels.idx").read_bytes()[8:])
    assert found == [255, 7, 2, 255]


def damage(block: int, at: int) -> None:
    """Flip a bit, `at` bytes after the header of a block; before its end, if negative."""
    stream = bytearray(Path("x.aez").read_bytes())
    with open_collection(bytes(stream)) as opened:
        found = opened.blocks[block]
        stream[found.offset + (BLOCK.size + at if at >= 0 else found.size + at)] ^= 0x40
    Path("x.aez").write_bytes(stream)


def restored(format: str) -> tuple[np.ndarray, list[int]]:
    if format == "npz":
        with zipfile.ZipFile("y.npz") as archive:
            assert archive.testzip() is None
        with np.load("y.npz") as found:
            return found["images"], found["labels"].tolist()
    if format == "csv":
        rows = np.array(read_csv("y.csv")[1]).astype(int)
        return rows[:, 1:].astype(np.uint8).reshape(-1, 28, 28), rows[:, 0].tolist()
    labels = Path("y-labels.idx").read_bytes()
    assert labels[:8] == struct.pack(">2I", 0x801, len(labels) - 8)
    return arrays.read_array(Path("y.idx")), list(labels[8:])


@pytest.mark.parametrize("format", ["npz", "csv", "idx"])
@pytest.mark.parametrize("index", [None, [range(7)]], ids=["all", "index"])
def test_damaged_images_are_left_out_with_their_labels(
    format: str, index: list[range] | None, pixels: np.ndarray
) -> None:
    collection(NAMES, INTEGERS)
    damage(1, -1)  # the payload of images 3 to 5
    done = run(f"y.{format}", index=index)
    assert (done.images, done.exit_code) == (4, 4)
    found, labels = restored(format)
    np.testing.assert_array_equal(found, pixels[[0, 1, 2, 6]])
    assert labels == INTEGERS[[0, 1, 2, 6]].tolist()


@pytest.mark.parametrize("format", ["npz", "csv", "idx"])
@pytest.mark.parametrize("index", [None, [range(7)]], ids=["all", "index"])
def test_images_whose_labels_are_damaged_are_left_out_and_named(
    format: str, index: list[range] | None, pixels: np.ndarray
) -> None:
    collection(NAMES, INTEGERS)
    damage(1, 8)  # the labels of images 3 to 5
    done = run(f"y.{format}", index=index)
    assert (done.images, done.exit_code) == (4, 4)
    said = [reason for _, reason in done.failed]
    assert any("labels" in reason and "block 1" in reason for reason in said)
    left_out = "images 3-5 have no labels that can be read, and are left out; "
    assert f"{left_out}--format npy or png restores them" in said
    found, labels = restored(format)
    np.testing.assert_array_equal(found, pixels[[0, 1, 2, 6]])
    assert labels == INTEGERS[[0, 1, 2, 6]].tolist()
    assert run("all.npy").images == 7


def test_images_whose_labels_are_damaged_have_a_folder_of_their_own() -> None:
    collection(labels=INTEGERS)
    damage(1, 8)
    done = run(format="folders")
    assert (done.images, done.exit_code) == (7, 4)
    assert [path for path in files() if "labelless" in path] == [
        f"x/labelless/{i}.png" for i in (3, 4, 5)
    ]


def test_blocks_without_labels_among_others_are_named() -> None:
    """No writer makes them, but a reader may meet them."""
    Path("x.aez").write_bytes(
        helpers.joined(helpers.collect(3, labels=INTEGERS[:3]), helpers.collect(2))
    )
    done = run()
    assert (done.images, done.exit_code) == (3, 3)
    ((_, said),) = done.failed
    assert said.startswith("images 3-4 have no labels that can be read")
    assert np.load("x.npz")["labels"].tolist() == [7, 2, 1]


def test_labels_of_two_kinds_are_an_error_and_nothing_is_written() -> None:
    integers, texts = (helpers.collect(2, labels=labels) for labels in (INTEGERS[:2], ["a", "b"]))
    Path("x.aez").write_bytes(helpers.joined(integers, texts))
    done = run()
    ((_, said),) = done.failed
    assert "some labels are integers and some are texts" in said
    assert files() == []


def test_notes_come_before_the_work(pixels: np.ndarray) -> None:
    collection(NAMES)
    events = [type(event) for event in decompress.decompress(["x.aez"], "x.npy")]
    assert events.index(Note) < events.index(Progress)


# Who may read the outputs


def modes(top: str) -> dict[str, str]:
    paths = [Path(top), *Path(top).rglob("*")] if Path(top).is_dir() else [Path(top)]
    return {str(path): oct(path.stat().st_mode & 0o777) for path in paths}


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX")
@pytest.mark.parametrize(
    ("mode", "file", "folder"),
    [
        (0o600, 0o600, 0o700),
        (0o400, 0o600, 0o700),
        (0o640, 0o640, 0o750),
        (0o604, 0o604, 0o705),
        (0o644, 0o644, 0o755),
        (0o666, 0o644, 0o755),
    ],
)
@pytest.mark.parametrize("jobs", [1, 2])
def test_outputs_of_a_private_stream_are_private(
    mode: int, file: int, folder: int, jobs: int
) -> None:
    before = os.umask(0o022)
    try:
        collection(None, INTEGERS)
        collection(["e/f/" + name for name in NAMES], INTEGERS, "y.aez")
        Path("z.aez").write_bytes(codec.compress(np.zeros((28, 28), np.uint8)))
        for stream in ("x.aez", "y.aez", "z.aez"):
            Path(stream).chmod(mode)
        for format in ("npy", "npz", "idx", "csv"):
            assert run(f"out/a.{format}", format=format, jobs=jobs).exit_code == 0
        assert run("out/b.png", path="z.aez").exit_code == 0
        assert run("out/b.npy", path="z.aez").exit_code == 0
        found = modes("out")
        assert len(found) == 8
        assert found.pop("out") == "0o755"  # for outputs of other streams, too
        assert set(found.values()) == {oct(file)}
        assert run("t/u", path="y.aez", jobs=jobs).exit_code == 0
        assert run("t/v", format="folders", jobs=jobs).exit_code == 0
        assert run("t/w", path="y.aez", index=[range(2)]).exit_code == 0
        found = modes("t")
        assert found.pop("t") == "0o755"
        for path, seen in found.items():
            assert seen == oct(folder if Path(path).is_dir() else file), path
        assert len(found) == 3 * 1 + 3 + 7 + 6 + 7 + 3 + 2
    finally:
        os.umask(before)


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX")
def test_the_mode_of_a_directory_that_is_there_stays() -> None:
    collection(["e/" + name for name in NAMES])
    Path("x.aez").chmod(0o600)
    Path("t/e").mkdir(parents=True)
    for path in ("t", "t/e"):
        Path(path).chmod(0o755)
    assert run("t").exit_code == 0
    found = modes("t")
    assert (found["t"], found["t/e"], found["t/e/d"]) == ("0o755", "0o755", "0o700")


# What comes back from files that this program wrote


@pytest.mark.parametrize("format", ["npz", "idx", "csv"])
@pytest.mark.parametrize("labels", [INTEGERS, INTEGERS * 9, TEXTS, [" ", "7 ", "a,b"] * 2 + ["'"]])
@pytest.mark.parametrize("names", [None, NAMES])
def test_labels_survive_the_way_to_another_format_and_back(
    format: str, labels: Labels, names: list[str] | None
) -> None:
    if isinstance(labels, list) and format == "idx":
        return  # refused, as is tested above
    if labels is TEXTS and format == "csv":
        labels = [label.replace("\n", " ") for label in TEXTS]  # a row is one line
    collection(names, labels)
    assert run(f"y.{format}").exit_code == 0
    assert Result.of(compress([f"y.{format}"], "z.aez")).exit_code == 0
    with open_collection(Path("z.aez")) as back:
        assert list(back.labels_at(list(range(7)))) == list(labels)


def test_a_tree_of_no_images_is_not_written_in_silence() -> None:
    np.save("e.npy", np.empty((0, 28, 28), np.uint8))
    assert Result.of(compress(["e.npy"])).exit_code == 0
    result = run("t", path="e.aez", format="png")
    assert (result.exit_code, result.outputs) == (0, [])
    assert result.notes == ["e.aez: holds no images"]
