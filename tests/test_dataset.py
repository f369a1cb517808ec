"""Collections as PyTorch data sets, and single images in shards of WebDataset."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import tarfile
from itertools import chain
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset

import codec
from codec import parallel
from codec.dataset import AezDataset
from codec.errors import BitstreamError, CorruptPayload, UsageError
from codec.model.ladder import Ladder

pytestmark = [
    pytest.mark.usefixtures("shipped"),
    # Of a machine with one core, and of Python 3.12 and on where a process with threads forks, as
    # PyTorch's do.
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
COUNT = 50
FOLDERS = ["seven", "1", "Two"]  # as they appear; sorted: 1, Two, seven
NAMES = [f"{FOLDERS[i % 3]}/part/{i}.png" for i in range(COUNT)]
LABELS = [[2, 0, 1][i % 3] for i in range(COUNT)]


def collect(names: list[str] | None = NAMES) -> bytes:
    return codec.compress(helpers.drawn(COUNT), quality=40, effort=1, names=names)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "x.aez"
    path.write_bytes(collect())
    return path


def halved(image: torch.Tensor) -> torch.Tensor:
    return image.float() / 2


def negated(label: int) -> int:
    return -label


# ---- items


def test_items_are_images_and_the_numbers_of_their_folders(path: Path) -> None:
    dataset, expected = AezDataset(path), codec.decompress(path.read_bytes())
    assert len(dataset) == COUNT
    assert dataset.classes == ["1", "Two", "seven"]
    assert dataset.class_to_idx == {"1": 0, "Two": 1, "seven": 2}
    assert dataset.targets is not None
    assert dataset.targets.tolist() == LABELS
    for i in (0, 17, 49, -1, np.int64(3), torch.tensor(5)):
        image, label = dataset[i]
        assert (image.dtype, tuple(image.shape), label) == (
            torch.uint8,
            (1, 28, 28),
            LABELS[int(i)],
        )
        np.testing.assert_array_equal(image[0].numpy(), expected[int(i)])


def test_a_batch_is_decoded_in_one_go(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, decode = [], Ladder.decode

    def counted(
        self: Ladder, messages: list[bytes], count: int, quality: int, **options: Any
    ) -> Any:
        calls.append(count)
        return decode(self, messages, count, quality, **options)

    monkeypatch.setattr(Ladder, "decode", counted)
    dataset = AezDataset(path)
    items = dataset.__getitems__([40, 3, 3, -1, 4])
    assert calls == [16 + 16 + 2]
    for (image, label), i in zip(items, [40, 3, 3, 49, 4], strict=True):
        assert torch.equal(image, dataset[i][0])
        assert label == LABELS[i]
    assert dataset.__getitems__([]) == []


def test_indexes_past_the_end_are_index_errors_also_when_preloaded(path: Path) -> None:
    for dataset in (AezDataset(path), AezDataset(path, preload=True)):
        for index in (COUNT, -COUNT - 1):
            with pytest.raises(IndexError, match=rf"^image {index} of 50, the first is 0$"):
                dataset[index]
        assert len(list(dataset)) == COUNT  # iteration ends by it


def test_transforms_are_applied(path: Path) -> None:
    image, label = AezDataset(path, halved, negated)[2]
    plain = AezDataset(path)[2]
    assert torch.equal(image, plain[0].float() / 2)
    assert label == -plain[1] == -1


@pytest.mark.parametrize("preload", [False, True])
def test_latents_come_with_the_images_if_they_are_wanted(path: Path, preload: bool) -> None:
    dataset, latents = (
        AezDataset(path, return_latents=True, preload=preload),
        codec.latents(path.read_bytes()),
    )
    assert sum(int(np.prod(shape)) for shape in dataset.latent_shapes) == latents.shape[1]
    for (image, found, label), i in zip(dataset.__getitems__([9, 33]), [9, 33], strict=True):
        assert found.dtype == torch.int16
        np.testing.assert_array_equal(found.numpy(), latents[i])
        assert (tuple(image.shape), label) == ((1, 28, 28), LABELS[i])


def test_a_preloaded_set_decodes_no_more(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, dataset = AezDataset(path), AezDataset(path, preload=True)
    expected = plain.__getitems__([9, 33])
    monkeypatch.setattr(Ladder, "decode", None)
    for (image, label), (wanted, number) in zip(
        dataset.__getitems__([9, 33]), expected, strict=True
    ):
        assert torch.equal(image, wanted)
        assert label == number
    image.zero_()  # a copy: the next one to ask finds it as it was
    assert torch.equal(dataset[33][0], wanted)


@pytest.mark.parametrize(
    "names", [None, [f"{i}.png" for i in range(COUNT)]], ids=["unnamed", "no folders"]
)
def test_without_folders_there_are_no_labels_unless_they_are_given(names: list[str] | None) -> None:
    stream = collect(names)
    dataset = AezDataset(stream)
    assert (dataset.classes, dataset.class_to_idx, dataset.targets) == ([], {}, None)
    assert tuple(dataset[3].shape) == (1, 28, 28)
    labels = np.arange(COUNT) % 7
    labelled = AezDataset(stream, labels=labels)
    assert [labelled[i][1] for i in (3, 8)] == [3, 1]


def test_labels_must_be_integers_one_for_each_image() -> None:
    for labels in ([1, 2], [0.5] * COUNT, np.zeros((COUNT, 1), int)):
        with pytest.raises(UsageError, match=r"give integers or texts \(50,\), one an image"):
            AezDataset(collect(None), labels=labels)  # type: ignore[arg-type]


def test_labels_of_a_collection_are_the_targets_as_mnist_has_them() -> None:
    labels = [(7, 0, 260)[i % 3] for i in range(COUNT)]
    stream = codec.compress(helpers.drawn(COUNT), quality=40, effort=1, names=NAMES, labels=labels)
    dataset = AezDataset(stream)
    assert dataset.targets is not None
    assert dataset.targets.tolist() == labels
    assert dataset.classes == ["0", "7", "260"]
    assert dataset.class_to_idx == {"0": 0, "7": 7, "260": 260}
    assert [dataset[i][1] for i in (0, 2, -1)] == [7, 260, labels[-1]]
    assert AezDataset(stream, labels=LABELS)[0][1] == LABELS[0]


def test_labels_that_are_texts_are_numbered_in_their_order() -> None:
    labels = [FOLDERS[i % 3] for i in range(COUNT)]
    stream = codec.compress(helpers.drawn(COUNT), quality=40, effort=1, labels=labels)
    for dataset in (AezDataset(stream), AezDataset(collect(), labels=labels)):
        assert dataset.classes == ["1", "Two", "seven"]
        assert dataset.class_to_idx == {"1": 0, "Two": 1, "seven": 2}
        assert dataset.targets is not None
        assert dataset.targets.tolist() == LABELS
    copy = pickle.loads(pickle.dumps(dataset))
    assert (copy.classes, copy[4][1]) == (dataset.classes, LABELS[4])


def test_a_collection_of_which_a_part_has_labels_needs_others() -> None:
    streams = [helpers.collect(20, labels=np.arange(20)), helpers.collect(20)]
    mixed = helpers.joined(*streams)
    with pytest.raises(UsageError, match="image 20 has no label, but others have one"):
        AezDataset(mixed)
    assert AezDataset(mixed, labels=range(40))[30][1] == 30


def test_an_image_outside_all_folders_is_an_error_that_names_it() -> None:
    names = [*NAMES[:7], "lost.png", *NAMES[8:]]
    with pytest.raises(UsageError, match=r"image 7, 'lost.png', is in no folder"):
        AezDataset(collect(names))
    assert AezDataset(collect(names), labels=LABELS)[7][1] == LABELS[7]


def test_lossless_collections_have_images_but_no_latents(shipped_lossless: Any) -> None:
    stream = codec.compress(helpers.drawn(20), lossless=True)
    np.testing.assert_array_equal(AezDataset(stream)[3][0].numpy(), helpers.drawn(20)[3])
    with pytest.raises(UsageError, match="latents"):
        AezDataset(stream, return_latents=True)


def test_an_open_file_is_refused(path: Path) -> None:
    with path.open("rb") as file, pytest.raises(UsageError, match="give a path, a URL or bytes"):
        AezDataset(file)  # type: ignore[arg-type]


def test_single_images_and_garbage_are_refused(path: Path) -> None:
    for stream in (codec.compress(helpers.drawn(1)[0]), b"garbage", path.read_bytes()[:-1]):
        with pytest.raises(BitstreamError):
            AezDataset(stream)


# ---- workers


@pytest.mark.parametrize("given", ["path", "text", "url", "bytes"])
@pytest.mark.parametrize("preload", [False, True])
def test_a_data_set_can_be_pickled(given: str, preload: bool, path: Path) -> None:
    source = {"path": path, "text": str(path), "url": f"file://{path}", "bytes": path.read_bytes()}[
        given
    ]
    dataset = AezDataset(source, halved, return_latents=True, preload=preload)
    wanted = dataset[20]
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.classes == dataset.classes
    for mine, other in zip(wanted[:2], copy[20][:2], strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("context", ["fork", *helpers.slow("spawn")])
def test_workers_read_what_one_process_reads(context: str, path: Path) -> None:
    dataset = AezDataset(path, halved, return_latents=True)
    dataset[0]  # opened before the workers start
    subset = Subset(dataset, list(range(COUNT - 1, -1, -1)))
    expected = dataset.__getitems__(subset.indices)
    loader = DataLoader(subset, batch_size=8, num_workers=2, multiprocessing_context=context)
    batches = list(loader)
    assert [len(labels) for _, _, labels in batches] == [8] * 6 + [2]
    for k, name in enumerate(("images", "latents")):
        assert torch.equal(
            torch.cat([batch[k] for batch in batches]), torch.stack([item[k] for item in expected])
        ), name
    assert torch.cat([batch[2] for batch in batches]).tolist() == LABELS[::-1]


def test_workers_share_the_cores_and_leave_those_of_the_parent(path: Path) -> None:
    before = parallel.num_cores()
    workers = DataLoader(
        AezDataset(path, cores_seen), batch_size=10, num_workers=2, multiprocessing_context="fork"
    )
    seen = {int(cores) for batch, _ in workers for cores in batch}
    assert seen == {max(1, before // 2)}
    assert parallel.num_cores() == before


def cores_seen(image: torch.Tensor) -> int:
    return parallel.num_cores()


def test_damage_reaches_the_loader_as_the_error_that_it_is(path: Path) -> None:
    stream = bytearray(path.read_bytes())
    stream[-60:-54] = bytes(6)
    damaged = bytes(stream)
    with pytest.raises(CorruptPayload, match="are damaged"):
        for _ in DataLoader(
            AezDataset(damaged), batch_size=10, num_workers=1, multiprocessing_context="fork"
        ):
            pass


def test_importing_loads_no_torch() -> None:
    code = "import codec.dataset, sys; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(codec.__file__).parent.parent,
    )
    assert (done.stdout, done.stderr) == ("False\n", "")


# ---- WebDataset


# webdataset leaves its shards open
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_webdataset_decodes_single_images_by_one_handler(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    shard, images = tmp_path / "shard-000.tar", helpers.drawn(5)
    streams = [codec.compress(image, effort=1) for image in images]
    with tarfile.open(shard, "w") as tar:
        for i, stream in enumerate(streams):
            for ending, content in (("aez", stream), ("cls", b"%d" % (i % 3))):
                member = tarfile.TarInfo(f"{i:04d}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    shards = webdataset.WebDataset(str(shard), shardshuffle=False)
    pairs = list(
        shards.decode(webdataset.handle_extension("aez", codec.decompress)).to_tuple("aez", "cls")
    )
    assert [label for _, label in pairs] == [0, 1, 2, 0, 1]
    for (pixels, _), stream in zip(pairs, streams, strict=True):
        np.testing.assert_array_equal(pixels, codec.decompress(stream))


# ---- torchdata


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_stateful_loader_resumes_in_the_middle_of_an_epoch(
    path: Path, num_workers: int, shuffle: bool
) -> None:
    """What comes after a state is what would have come after it, and then another epoch."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader")
    pixels = torch.from_numpy(codec.decompress(path))

    def loader() -> Any:
        torch.manual_seed(7)
        return stateful.StatefulDataLoader(
            AezDataset(path, labels=range(COUNT)),
            batch_size=8,
            shuffle=shuffle,
            num_workers=num_workers,
        )

    def numbers(batches: Any) -> list[list[int]]:
        """The images of each batch, by number."""
        found = []
        for images, labels in batches:
            assert torch.equal(images[:, 0], pixels[labels])
            found.append(labels.tolist())
        return found

    first = loader()
    batches = iter(first)
    begun = numbers(next(batches) for _ in range(3))
    state = pickle.loads(pickle.dumps(first.state_dict()))
    rest = numbers(batches)
    assert sorted(chain(*begun, *rest)) == list(range(COUNT))
    assert (begun[0] == list(range(8))) == (not shuffle)
    again = loader()
    torch.rand(5)  # what is drawn meanwhile changes nothing
    again.load_state_dict(state)
    assert numbers(again) == rest
    epoch = numbers(again)
    assert sorted(chain(*epoch)) == list(range(COUNT))
    assert (epoch[:3] == begun) == (not shuffle)
