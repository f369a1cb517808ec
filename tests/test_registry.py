"""Which models are found, by hash, number, name, or file."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest

from codec.errors import BadModel, EncoderNotFound, ModelNotFound, UsageError
from codec.model import ladder_encoder, registry
from codec.model.ladder import Ladder
from codec.model.pixels import Pixels


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory that $AEZ_WEIGHTS names."""
    directory = tmp_path / "weights"
    directory.mkdir()
    monkeypatch.setenv("AEZ_WEIGHTS", str(directory))
    return directory


def test_models_are_looked_for_in_the_package_beside_it_and_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Path(registry.__file__).parents[1]
    monkeypatch.delenv("AEZ_WEIGHTS", raising=False)
    assert registry.directories() == [package / "weights", package.parent / "weights"]
    monkeypatch.setenv(
        "AEZ_WEIGHTS", os.pathsep.join([str(tmp_path / "a"), "", str(tmp_path / "b")])
    )
    assert registry.directories()[2:] == [tmp_path / "a", tmp_path / "b"]


def test_files_are_those_of_directories_that_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = helpers.install(tmp_path / "a", 0), helpers.install(tmp_path / "b", 1)
    (tmp_path / "b" / "notes.txt").write_text("no model")
    monkeypatch.setenv(
        "AEZ_WEIGHTS", os.pathsep.join(str(tmp_path / d) for d in ("b", "none", "a"))
    )
    assert registry.files()[-2:] == [second, first]


def test_a_model_is_found_by_its_hash(weights: Path) -> None:
    wanted = helpers.tiny_model(1)
    helpers.install(weights, 0)
    helpers.install(weights, 1)
    assert registry.by_hash(wanted.hash).sha256 == wanted.sha256


def test_a_file_under_a_name_of_the_users_is_found_by_its_hash(weights: Path) -> None:
    (weights / "mine.safetensors").write_bytes(helpers.tiny_bundle(0))
    assert registry.by_hash(helpers.tiny_model(0).hash).sha256 == helpers.tiny_model(0).sha256


def test_a_file_whose_name_promises_another_hash_is_not_taken(weights: Path) -> None:
    wanted = helpers.tiny_model(0).hash
    (weights / f"tiny0-{wanted.hex()[:8]}.safetensors").write_bytes(helpers.tiny_bundle(1))
    with pytest.raises(ModelNotFound):
        registry.by_hash(wanted)


def test_a_damaged_file_is_never_taken_for_the_model_it_was(weights: Path) -> None:
    path = helpers.install(weights)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises((BadModel, ModelNotFound)):
        registry.by_hash(helpers.tiny_model(0).hash)


def test_an_extra_model_is_tried_first_and_only_if_it_is_the_one(weights: Path) -> None:
    extra = helpers.tiny_model(0)
    assert registry.by_hash(extra.hash, extra) is extra
    with pytest.raises(ModelNotFound, match=helpers.tiny_model(1).hash.hex()):
        registry.by_hash(helpers.tiny_model(1).hash, extra)


def test_a_missing_model_error_says_which_and_what_to_do(weights: Path) -> None:
    with pytest.raises(
        ModelNotFound, match=r"model 0011223344556677 is not installed: .*-m FILE.*\$AEZ_WEIGHTS"
    ) as caught:
        registry.by_hash(bytes.fromhex("0011223344556677"))
    assert caught.value.model_hash == "0011223344556677"


def test_numbers_lead_to_models_and_back(two_shipped: list[Ladder]) -> None:
    assert [m.hash for m in registry.shipped()] == [m.hash for m in two_shipped]
    assert [registry.by_id(i).hash for i in (1, 2)] == [m.hash for m in two_shipped]
    assert [registry.id_of(m) for m in two_shipped] == [1, 2]
    assert registry.id_of(helpers.tiny_model(2)) == 0
    for number in (0, 3, 255):
        with pytest.raises(ModelNotFound, match=f"model number {number} is unknown"):
            registry.by_id(number)


def test_load_picks_the_class_by_the_architecture_and_names_a_damaged_file(tmp_path: Path) -> None:
    path, lossless = helpers.install(tmp_path), helpers.install(tmp_path, lossless=True)
    model = registry.load(path)
    assert (type(model), model.hash) == (Ladder, helpers.tiny_model().hash)
    assert type(registry.load(lossless)) is Pixels
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadModel, match=f"^{path}: not a model file"):
        registry.load(path)
    with pytest.raises(BadModel, match=f"^{tmp_path / 'none'}: No such file"):
        registry.load(tmp_path / "none")
    with pytest.raises(BadModel, match=f"^{tmp_path}: Is a directory"):
        registry.load(tmp_path)


def test_an_architecture_from_the_future_is_named_with_those_known(tmp_path: Path) -> None:
    path = tmp_path / "new.safetensors"
    path.write_bytes(helpers.pack(helpers.tiny_tensors(), architecture="ladder-2"))
    with pytest.raises(
        BadModel, match="architecture 'ladder-2', this version knows 'ladder-1' and 'pixels-3'"
    ):
        registry.load(path)


def test_shipped_models_are_of_one_kind_and_the_other_is_not_loaded(
    shipped_lossless: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [m.name for m in registry.shipped()] == ["tiny0"]
    assert [m.name for m in registry.shipped(lossless=True)] == ["tiny0-lossless"]
    assert [registry.id_of(registry.by_id(i)) for i in (1, 3)] == [1, 3]
    # of the kind not asked for there is but a file that cannot be loaded
    for lossless in (False, True):
        broken = tmp_path / f"broken{lossless}"
        helpers.install(broken, lossless=lossless)
        helpers.install(broken, lossless=not lossless).write_bytes(b"no model")
        monkeypatch.setenv("AEZ_WEIGHTS", str(broken))
        assert [m.lossless for m in registry.shipped(lossless)] == [lossless]


def test_shipped_models_under_a_name_of_the_users_are_told_apart_by_what_they_are(
    shipped_lossless: Pixels, weights: Path
) -> None:
    (weights / "a.safetensors").write_bytes(helpers.tiny_bundle())
    (weights / "b.safetensors").write_bytes(helpers.tiny_pixel_bundle())
    assert [m.name for m in registry.shipped(lossless=True)] == ["tiny0-lossless"]
    assert [m.name for m in registry.shipped()] == ["tiny0"]


@pytest.mark.usefixtures("shipped")
def test_a_kind_of_which_no_model_is_shipped_is_named(ship: Callable[..., None]) -> None:
    with pytest.raises(ModelNotFound, match="no lossless model is shipped"):
        registry.shipped(lossless=True)
    ship({3: helpers.tiny_pixel_model()})
    with pytest.raises(ModelNotFound, match="no model is shipped"):
        registry.shipped()


def test_a_name_leads_to_the_kind_wanted(weights: Path) -> None:
    lossy, lossless = helpers.install(weights), helpers.install(weights, lossless=True)
    assert registry.by_name("tiny0").name == registry.by_name("tiny0", None).name == "tiny0"
    for name in ("tiny0", "tiny0-lossless", str(lossless)):
        assert registry.by_name(name, lossless=True).name == "tiny0-lossless"
    assert (
        registry.by_name("tiny0-lossless", None).name
        == registry.by_name(str(lossless), None).name
        == "tiny0-lossless"
    )
    for name in ("tiny0-lossless", str(lossless)):
        with pytest.raises(UsageError, match=f"model {name} is lossless; give a lossy one"):
            registry.by_name(name)
    with pytest.raises(UsageError, match=f"model {lossy} is lossy; give a lossless one"):
        registry.by_name(str(lossy), lossless=True)
    lossy.unlink()
    assert registry.by_name("tiny0", None).name == "tiny0-lossless"
    with pytest.raises(ModelNotFound, match="no model is called 'tiny0'"):
        registry.by_name("tiny0")


def test_a_lossless_model_of_any_name_is_found_by_it(weights: Path) -> None:
    (weights / "mine.safetensors").write_bytes(helpers.tiny_pixel_bundle())
    assert registry.by_name("mine", lossless=True).name == "tiny0-lossless"
    with pytest.raises(UsageError, match="model mine is lossless"):
        registry.by_name("mine")


def test_a_name_leads_to_its_latest_file(weights: Path) -> None:
    for seed, digits in ((0, "00000000"), (1, "11111111")):
        (weights / f"letters-{digits}.safetensors").write_bytes(helpers.tiny_bundle(seed))
    (weights / "letters-big-22222222.safetensors").write_bytes(helpers.tiny_bundle(0))
    assert registry.by_name("letters").name == "tiny1"
    assert registry.by_name("letters-big").name == "tiny0"
    with pytest.raises(
        ModelNotFound, match=r"no model is called 'big' \(installed: .*letters, letters-big"
    ):
        registry.by_name("big")


def test_a_path_leads_to_its_file(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = helpers.install(tmp_path)
    assert registry.by_name(str(path)).hash == helpers.tiny_model().hash
    monkeypatch.chdir(tmp_path)
    assert registry.by_name(path.name).hash == helpers.tiny_model().hash
    with pytest.raises(ModelNotFound, match="No such file"):
        registry.by_name("./none")
    with pytest.raises((ModelNotFound, BadModel)):
        registry.by_name("a\0/b")
    with pytest.raises(BadModel, match="Is a directory"):
        registry.by_name(f"{tmp_path}/")


def test_a_file_is_loaded_once_until_it_changes(tmp_path: Path) -> None:
    path = helpers.install(tmp_path)
    first = registry.load_cached(path)
    assert registry.load_cached(path) is first
    path.write_bytes(helpers.tiny_bundle(1))
    os.utime(path, ns=(1, 1))
    assert registry.load_cached(path).name == "tiny1"


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[Any]:
    """The first argument of each call of a function from now on."""
    calls: list[Any] = []
    real: Callable[..., Any] = getattr(owner, name)

    def wrapper(*args: Any, **options: Any) -> Any:
        calls.append(args[0])
        return real(*args, **options)

    monkeypatch.setattr(owner, name, wrapper)
    return calls


def test_a_file_is_hashed_once_until_it_changes(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, wanted = helpers.install(weights), helpers.tiny_model().hash
    mine = weights / "mine.safetensors"
    mine.write_bytes(helpers.tiny_bundle(1))
    read = counted(monkeypatch, Path, "read_bytes")
    for _ in range(5):
        assert registry.path_of(wanted) == path
        assert registry.path_of(helpers.tiny_model(1).hash) == mine
    assert (read.count(path), read.count(mine)) == (1, 1)
    os.utime(path, ns=(1, 1))
    assert registry.path_of(wanted) == path
    assert read.count(path) == 2
    path.write_bytes(helpers.tiny_bundle(1))
    assert registry.path_of(wanted) is None


# ---- encoders


def test_the_encoder_lies_beside_the_model_and_is_no_model(weights: Path) -> None:
    path = helpers.install(weights)
    beside = registry.encoder_path(path)
    assert beside == weights / f"{path.stem}.encoder.safetensors"
    assert beside.exists()
    assert path in registry.files()
    assert beside not in registry.files()
    assert registry.by_name("tiny0").encoder_hash == helpers.tiny_model().encoder_hash
    with pytest.raises(ModelNotFound):
        registry.by_name(beside.stem)
    with pytest.raises(BadModel, match="this is the encoder of a model"):
        registry.by_name(str(beside))
    with pytest.raises(ModelNotFound):
        registry.by_hash(helpers.tiny_model().encoder.hash)


def test_an_encoder_is_read_when_something_is_encoded_and_once(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = helpers.drawn(100)
    wanted = helpers.tiny_model().encode(pixels, 50)
    path = helpers.install(weights)
    read = counted(monkeypatch, ladder_encoder, "read_file")
    model = registry.by_name("tiny0")
    np.testing.assert_array_equal(model.decode(wanted.messages, 100, 50)[0], wanted.pixels)
    assert read == []
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: model.encode(pixels, 50).messages, range(8)))
    assert found == [wanted.messages] * 8
    assert read == [registry.encoder_path(path)]


def test_a_model_without_its_encoder_decodes_and_says_what_is_missing(weights: Path) -> None:
    pixels = helpers.drawn(5)
    wanted = helpers.tiny_model().encode(pixels, 50)
    beside = registry.encoder_path(helpers.install(weights))
    stream = beside.read_bytes()
    beside.unlink()
    model = registry.by_name("tiny0")
    np.testing.assert_array_equal(model.decode(wanted.messages, 5, 50)[0], wanted.pixels)
    said = f"tiny0 can only decode: its encoder file, {beside.name}, is not in {weights}$"
    for _ in range(2):
        with pytest.raises(EncoderNotFound, match=said):
            model.encode(pixels, 50)
    assert model.encoder_hash is None
    beside.write_bytes(stream)
    assert registry.by_name("tiny0").encode(pixels, 50).messages == wanted.messages


def test_the_encoder_is_found_from_another_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = helpers.install(tmp_path)
    monkeypatch.chdir(tmp_path)
    model = registry.by_name(path.name)
    monkeypatch.chdir("/")
    assert model.encoder_hash == helpers.tiny_model().encoder_hash


def test_a_better_encoder_takes_the_place_of_the_old_one(weights: Path) -> None:
    """Under the same model and hash; what the old one made decodes to what it did."""
    pixels, tensors = helpers.drawn(20), helpers.tiny_tensors()
    path = helpers.install(weights)
    before = registry.by_name("tiny0")
    old = before.encode(pixels, 50)
    tensors["posterior1.bias"] += 30_000
    other = helpers.pack_encoder(tensors, helpers.tiny_bundle())
    registry.encoder_path(path).write_bytes(other)
    os.utime(registry.encoder_path(path), ns=(1, 1))
    after = registry.by_name("tiny0")
    assert after.hash == before.hash
    assert after.encoder_hash != before.encoder_hash
    new = after.encode(pixels, 50)
    assert new.messages != old.messages
    np.testing.assert_array_equal(after.decode(old.messages, 20, 50)[0], old.pixels)
    np.testing.assert_array_equal(before.decode(new.messages, 20, 50)[0], new.pixels)


def test_an_encoder_of_another_model_is_refused_by_name(weights: Path) -> None:
    beside = registry.encoder_path(helpers.install(weights))
    beside.write_bytes(helpers.tiny_encoder(1))
    hashes = [helpers.tiny_model(seed).hash.hex() for seed in (1, 0)]
    said = f"^{beside}: the encoder of model {hashes[0]}, not of tiny0, {hashes[1]}$"
    with pytest.raises(BadModel, match=said):
        registry.by_name("tiny0").encode(helpers.drawn(1), 50)
    beside.write_bytes(helpers.tiny_encoder()[:-1])
    with pytest.raises(BadModel, match=f"^{beside}: not a model file"):
        registry.by_name("tiny0").encode(helpers.drawn(1), 50)
    beside.unlink()
    beside.mkdir()
    with pytest.raises(BadModel, match=f"^{beside}: Is a directory"):
        registry.by_name("tiny0").encode(helpers.drawn(1), 50)


def test_the_registry_has_numbers_of_a_byte_and_each_model_once() -> None:
    assert all(1 <= number <= 255 for number in registry.MODEL_IDS)
    assert all(
        re.fullmatch("[0-9a-f]{16}", model_hash) for model_hash in registry.MODEL_IDS.values()
    )
    assert len(set(registry.MODEL_IDS.values())) == len(registry.MODEL_IDS)


def test_every_shipped_model_is_there_under_its_own_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AEZ_WEIGHTS", raising=False)
    models = [registry.by_id(number) for number in registry.MODEL_IDS]
    assert [registry.id_of(model) for model in models] == list(registry.MODEL_IDS)
    assert {model.hash for model in models if not model.lossless} == {
        model.hash for model in registry.shipped()
    }
    assert all(model.name.endswith("-lossless") == model.lossless for model in models)
    for model in models:
        assert model.num_bytes <= 3_000_000
        assert (model.encoder_hash is None) == model.lossless
