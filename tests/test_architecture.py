"""The house: who may import whom, and what is not loaded."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import helpers
import numpy as np
import pytest

import codec
from codec.search import DEFAULT_EFFORT

PACKAGE = Path(codec.__file__).parent
FLOORS = {
    "codec.errors": 0,
    "codec.kernels.build": 0,
    "codec.kernels.hook": 0,  # loads build.py by its path, while there is no package yet
    "codec.rans": 1,
    "codec.integer_net": 1,
    "codec.images": 1,
    "codec.metrics": 1,
    "codec.remote": 1,
    "codec.kernels": 1,
    "codec.kernels.__main__": 1,
    "codec.parallel": 2,
    "codec.bitstream": 2,
    "codec.groups": 2,
    "codec.names": 2,
    "codec.parts": 3,
    "codec.search": 3,
    "codec.bundle": 3,
    "codec.native": 2,
    "codec.native_pixels": 3,
    "codec.native_rans": 3,
    "codec.model": 4,
    "codec.pixel_model": 4,
    "codec.registry": 5,
    "codec.rate": 5,
    "codec.choice": 6,
    "codec.collection": 6,
    "codec.api": 7,
    "codec.outputs": 7,
    "codec.pipeline": 8,
    "codec.plan": 8,
    "codec.cluster": 9,
    "codec.batch": 10,
    "codec.restore": 10,
    "codec.evaluate_collections": 11,
    "codec.evaluate": 12,
    "codec.pillow_plugin": 12,
    "codec.dataset": 12,
    "codec.report": 12,
    "codec.bench": 13,
    "codec.evaluate_speed": 14,
    "codec.train": 13,  # above evaluate: the card of a model has its figures
    "codec.cli": 14,
    "codec": 15,
    "codec.__main__": 15,
}
# Packages that are imported in one module, if at all, and only where they are needed.
OPTIONAL = {"fsspec": "codec.remote", "distributed": "codec.cluster", "dask": None, "imagecodecs": "codec.bench",
            "bjontegaard": "codec.bench", "rich": "codec.cli"}  # fmt: skip
MODULES = {
    ".".join(("codec", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def room(module: str) -> str:
    """The entry of FLOORS that a module belongs to: `codec.train` is one room."""
    return "codec.train" if module.startswith("codec.train") else module


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(module, whether it is imported as the file is) for every import statement, wherever it stands."""
    tree = ast.parse(path.read_text())
    inner = {id(node) for outer in ast.walk(tree) for node in ast.walk(outer)
             if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)}  # fmt: skip
    for node in ast.walk(tree):
        found = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            base = str(node.module)
            for alias in node.names:
                inside = f"{base}.{alias.name}"
                # `__version__` lies in the roof but needs nothing of it.
                if base != "codec" or inside in MODULES or alias.name != "__version__":
                    found.append(inside if inside in MODULES else base)
        for name in found:
            yield name, id(node) not in inner


def test_every_file_has_a_floor() -> None:
    assert {room(module) for module in MODULES} <= set(FLOORS)
    assert len(MODULES) > 15


@pytest.mark.parametrize("module", MODULES)
def test_a_file_imports_only_from_floors_below_its_own(module: str) -> None:
    for name, _ in imports(MODULES[module]):
        if name.split(".")[0] == "codec" and room(name) != room(module):
            assert FLOORS[room(name)] < FLOORS[room(module)], f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_torch_lives_in_train_alone(module: str) -> None:
    for name, at_import in imports(MODULES[module]):
        package = name.split(".")[0]
        assert package not in ("click", "pickle"), f"{module} imports {name}"
        if package in ("torch", "matplotlib"):
            allowed = module.startswith("codec.train.") or (module in ("codec.dataset", "codec.evaluate") and not at_import)
            assert allowed, f"{module} imports {name}"
        for optional, home in OPTIONAL.items():
            assert package != optional or (module == home and not at_import), f"{module} imports {name}"
        if name.startswith("codec.train") and room(module) != "codec.train":
            assert not at_import, f"{module} imports {name} as it is imported"


def run(code: str, weights: Path) -> str:
    environment = {**os.environ, "AEZ_WEIGHTS": str(weights), "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_compress_and_decompress_load_no_torch_and_importing_loads_nothing(tiny_weights: Path) -> None:
    """One process for all, as starting one is what takes the time."""
    code = """
import sys
heavy = {"numpy", "torch", "PIL", "typer", "zstandard", "safetensors"}
import codec
print(sorted(heavy & set(sys.modules)))
import codec.errors
print(sorted(heavy & set(sys.modules)))
import numpy as np
image = np.arange(784, dtype=np.uint8).reshape(28, 28)
one = codec.compress(image, model="tiny0")
print(codec.decompress(one).sum())
print(codec.info(one).model, len(codec.models()) > 0)
print(sorted((heavy - {"numpy", "safetensors"}) & set(sys.modules)))
many = codec.compress(np.stack([image] * 40), model="tiny0", names=[str(i) for i in range(40)])
print(codec.decompress(many).sum(), codec.open(many)[3].sum())
print(sorted({"torch", "PIL", "typer"} & set(sys.modules)))
"""
    lines = run(code, tiny_weights).splitlines()
    image = np.arange(784).astype(np.uint8).reshape(1, 28, 28)
    total = int(helpers.tiny_model().encode(image, 75, effort=DEFAULT_EFFORT).pixels.sum())
    assert lines == ["[]", "[]", str(total), "tiny0 True", "[]", f"{40 * total} {total}", "[]"]


def test_the_command_line_starts_without_torch(tiny_weights: Path) -> None:
    code = """
import sys
import codec.cli
from codec import batch, restore
print(sorted({"torch", "matplotlib", "PIL", "zstandard", "fsspec", "distributed", "multiprocessing"} & set(sys.modules)))
"""
    assert run(code, tiny_weights) == "[]\n"
