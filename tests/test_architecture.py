"""The house: which package may import which, and what is not loaded."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import helpers
import numpy as np
import pytest

import codec
from codec.encoder.options import DEFAULT_EFFORT

PACKAGE = Path(codec.__file__).parent
# The floor of each package and of each file beside them: an import goes down, or stays in its
# package.
FLOORS = {
    "errors": 0,
    "arrays": 0,
    "zstd": 0,
    "labels": 1,
    "metrics": 1,
    "kernels": 1,
    "files": 2,
    "view": 2,  # it takes bytes and pixels, so that a collection can show itself
    "parallel": 2,
    "coding": 2,
    "format": 3,
    "model": 4,
    "collection": 5,
    "encoder": 6,
    "api": 7,
    "commands": 8,
    "pillow_plugin": 8,
    "dataset": 8,
    "measure": 9,
    "train": 10,  # above measure: the card of a model has its figures
    "cli": 11,
    "codec": 12,  # the roof: __init__.py and __main__.py
}
TOP_FILES = {
    "errors",
    "arrays",
    "zstd",
    "labels",
    "metrics",
    "parallel",
    "api",
    "pillow_plugin",
    "dataset",
    "__init__",
    "__main__",
}
# Packages that are imported in one module or package, if at all, and only where they are needed.
OPTIONAL = {
    "fsspec": "codec.files.urls",
    "distributed": "codec.commands.cluster",
    "dask": None,
    "imagecodecs": "codec.measure.codecs",
    "bjontegaard": "codec.measure.points",
    "pyarrow": "codec.files.parquet",
    "platformdirs": "codec.files.place",
    "rich": "codec.cli",
    "backports": "codec.zstd",
    "compression": "codec.zstd",
}
MODULES = {
    ".".join(("codec", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def room(module: str) -> str:
    """The entry of FLOORS that a module belongs to: its package, or the file itself."""
    parts = module.split(".")
    return "codec" if len(parts) == 1 or parts[1] == "__main__" else parts[1]


@cache
def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, whether it is imported as the file is) for each import, wherever it stands."""
    tree = ast.parse(path.read_text())
    inner = {
        id(node)
        for outer in ast.walk(tree)
        for node in ast.walk(outer)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        or (isinstance(outer, ast.If) and ast.unparse(outer.test) == "TYPE_CHECKING")
    }
    every = []
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
        every += [(name, id(node) not in inner) for name in found]
    return every


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; none if there is no circle."""
    done: set[str] = set()

    def search(module: str, above: list[str]) -> list[str]:
        if module in above:
            return [*above[above.index(module) :], module]
        if module not in done:
            for other in sorted(arrows.get(module, ())):
                if found := search(other, [*above, module]):
                    return found
            done.add(module)
        return []

    return next((found for module in sorted(arrows) if (found := search(module, []))), [])


def test_every_file_is_on_the_map() -> None:
    assert {room(module) for module in MODULES} == set(FLOORS)
    assert {path.stem for path in PACKAGE.glob("*.py")} == TOP_FILES
    for folder in {path.parent for path in MODULES.values()}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    for name, _ in imports(MODULES[module]):
        if name.split(".")[0] == "codec" and room(name) != room(module):
            assert FLOORS[room(name)] < FLOORS[room(module)], f"{module} imports {name}"


@pytest.mark.parametrize("package", [name for name in FLOORS if (PACKAGE / name).is_dir()])
def test_files_of_a_package_do_not_import_in_a_circle(package: str) -> None:
    inside = {module for module in MODULES if room(module) == package}
    arrows = {
        module: {name for name, _ in imports(MODULES[module]) if name in inside} - {module}
        for module in inside
    }
    assert circle(arrows) == []


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b", "d"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("module", [f"codec.{name}" for name in FLOORS if name != "kernels"])
def test_importing_a_package_imports_nothing_else(module: str) -> None:
    path = MODULES.get(module)
    if path is not None and path.name == "__init__.py":
        assert [name for name, at_import in imports(path) if at_import] == []


@pytest.mark.parametrize("module", MODULES)
def test_torch_lives_in_train_alone(module: str) -> None:
    for name, at_import in imports(MODULES[module]):
        package = name.split(".")[0]
        assert package not in ("click", "pickle"), f"{module} imports {name}"
        if package in ("torch", "matplotlib"):
            lazy = module == "codec.dataset" and not at_import
            assert lazy or module.startswith("codec.train."), f"{module} imports {name}"
        for optional, home in OPTIONAL.items():
            where = f"{module}.".startswith(f"{home}.") and not at_import
            assert package != optional or where, f"{module} imports {name}"
        if name.startswith("codec.train") and room(module) != "train":
            assert not at_import, f"{module} imports {name} as it is imported"


def run(code: str, weights: Path) -> str:
    environment = {
        **os.environ,
        "AEZ_WEIGHTS": str(weights),
        "PYTHONPATH": str(PACKAGE.parent),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_compress_and_decompress_load_no_torch_and_importing_loads_nothing(
    tiny_weights: Path,
) -> None:
    """One process for all, as starting one is what takes the time."""
    code = """
import sys
heavy = {"numpy", "torch", "PIL", "typer", "backports.zstd", "safetensors"}
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
import codec.cli.app
from codec.commands import compress, decompress
heavy = {"torch", "matplotlib", "PIL", "backports.zstd", "fsspec", "distributed", "multiprocessing"}
print(sorted(heavy & set(sys.modules)))
"""
    assert run(code, tiny_weights) == "[]\n"


def test_names_of_the_public_interface_are_not_hidden_by_packages() -> None:
    """Importing `codec.x` sets the attribute x of the package: no package has the name of one."""
    assert not set(codec.__all__) & {module.split(".")[1] for module in MODULES if "." in module}
