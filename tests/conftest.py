from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import helpers
import pytest
from hypothesis import HealthCheck, settings

from codec.model import registry
from codec.model.bundle import Model
from codec.model.ladder import Ladder
from codec.model.pixels import Pixels

_fixtures = [
    HealthCheck.function_scoped_fixture
]  # our fixtures stay the same from one example to the next
settings.register_profile(
    "default",
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=_fixtures,
)
settings.register_profile(
    "expensive",
    max_examples=10_000,
    deadline=None,
    database=None,
    suppress_health_check=[*_fixtures, HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the files of tiny models 0 and 1 and of tiny lossless model 0,
    written once.
    """
    directory = tmp_path_factory.mktemp("weights")
    for seed in (0, 1):
        helpers.install(directory, seed)
    helpers.install(directory, lossless=True)
    return directory


Ship = Callable[[dict[int, Model]], None]


@pytest.fixture
def ship(monkeypatch: pytest.MonkeyPatch) -> Ship:
    """Makes models, by number, the registry of this test.

    The one place where the registry is replaced. It is not a parameter: the number of a model means
    the same to every function and process, and only a test has another registry.
    """

    def ship(models: dict[int, Model]) -> None:
        numbers = {number: model.hash.hex() for number, model in models.items()}
        monkeypatch.setattr(registry, "MODEL_IDS", numbers)

    return ship


@pytest.fixture
def foreign(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch, ship: Ship) -> Ladder:
    """Tiny model 0, installed by $AEZ_WEIGHTS but in no registry: streams name it by its hash."""
    monkeypatch.setenv("AEZ_WEIGHTS", str(tiny_weights))
    ship({})
    return helpers.tiny_model(0)


@pytest.fixture
def shipped(foreign: Ladder, ship: Ship) -> Ladder:
    """Tiny model 0, as if it were the one shipped model: number 1 of the registry."""
    ship({1: foreign})
    return foreign


@pytest.fixture
def shipped_lossless(shipped: Ladder, ship: Ship) -> Pixels:
    """Tiny lossless model 0 as number 3 of the registry, beside tiny model 0 as number 1."""
    model = helpers.tiny_pixel_model()
    ship({1: shipped, 3: model})
    return model


@pytest.fixture
def two_shipped(shipped: Ladder, ship: Ship) -> list[Ladder]:
    """Tiny models 0 and 1 as numbers 1 and 2 of the registry."""
    models = [shipped, helpers.tiny_model(1)]
    ship(dict(enumerate(models, 1)))
    return models


@pytest.fixture
def one_seed() -> Iterator[None]:
    """Start a test of training from the same random state, on one thread."""
    import torch

    threads = torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
