"""Which models are installed, and how a name, a file or a hash from a stream leads to one.

Models lie in `codec/weights` (inside a wheel), in `weights` beside the package (a checkout), and in the directories of
$AEZ_WEIGHTS. Names of shipped files end in the first 8 hexadecimal digits of the file's SHA-256, so a model is found by
its hash without opening any other; files of other names are hashed. `MODEL_IDS` is the registry of FORMAT.md 7.1: append
only, once released.
"""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path

from codec.errors import ModelNotFound
from codec.model import Model, load

_HASHED = re.compile("-[0-9a-f]{8}$")

# Model_ID -> Model_Hash, hexadecimal.
MODEL_IDS: dict[int, str] = {
    1: "62fbbdc583571c97",  # mnist
    2: "e718dc841d837eba",  # fashion
}


def directories() -> list[Path]:
    """Where models are looked for, in order."""
    here = Path(__file__).resolve().parent
    extra = os.environ.get("AEZ_WEIGHTS", "")
    return [here / "weights", here.parent / "weights", *(Path(d) for d in extra.split(os.pathsep) if d)]


def files() -> list[Path]:
    """Model files that are installed, by directory, then name."""
    return [path for d in directories() if d.is_dir() for path in sorted(d.glob("*.safetensors"))]


@lru_cache(maxsize=8)
def _load(path: Path, size: int, mtime_ns: int) -> Model:
    return load(path)


def load_cached(path: Path) -> Model:
    """The model in a file; loaded once as long as the file does not change.  Raises BadModel."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        raise ModelNotFound(f"{path}: {getattr(error, 'strerror', error)}", str(path)) from error
    return _load(path, status.st_size, status.st_mtime_ns)


def by_hash(model_hash: bytes, extra: Model | None = None) -> Model:
    """The model whose SHA-256 starts with `model_hash` (MODEL_HASH_BYTES bytes); `extra` is tried first.

    Raises ModelNotFound, BadModel.
    """
    if extra is not None and extra.hash == model_hash:
        return extra
    if path := path_of(model_hash):
        return load_cached(path)
    raise ModelNotFound(
        f"model {model_hash.hex()} is not installed: give its file with -m FILE, or put it into a directory named in "
        "$AEZ_WEIGHTS; a model that was shipped comes with every later release of aez",
        model_hash.hex(),
    )


def path_of(model_hash: bytes) -> Path | None:
    """The file whose SHA-256 starts with `model_hash`; no file is parsed, and none of a shipped one's name is read in vain."""
    found = files()
    named = [path for path in found if path.stem.endswith("-" + model_hash.hex()[:8])]
    others = [path for path in found if not _HASHED.search(path.stem)]
    for path in named + others:
        try:
            if hashlib.sha256(path.read_bytes()).digest().startswith(model_hash):
                return path
        except OSError:
            continue  # not readable is as good as not installed
    return None


def name_of(path: Path) -> str:
    """`mnist-0123abcd.safetensors` -> `mnist`."""
    return _HASHED.sub("", path.stem)


def by_id(model_id: int) -> Model:
    """The model that a single-image stream names by number.  Raises ModelNotFound."""
    if model_id not in MODEL_IDS:
        raise ModelNotFound(f"model number {model_id} is unknown to this version of aez; a later one may have it", str(model_id))
    return by_hash(bytes.fromhex(MODEL_IDS[model_id]))


def id_of(model: Model) -> int:
    """Model_ID of a model, 0 if it is not in the registry."""
    return next((i for i, h in MODEL_IDS.items() if h == model.hash.hex()), 0)


def by_name(name: str) -> Model:
    """A model by its name (`mnist`) or file.  Raises ModelNotFound, BadModel."""
    if name.endswith(".safetensors") or os.sep in name:
        return load_cached(Path(name))
    for path in reversed(files()):  # the latest of one name
        if name_of(path) == name:
            return load_cached(path)
    known = sorted({name_of(path) for path in files()})
    raise ModelNotFound(f"no model is called {name!r}; installed: {', '.join(known) or 'none'}; a file is given as a path", name)


def shipped() -> list[Model]:
    """The models of the registry, by number."""
    return [by_id(model_id) for model_id in MODEL_IDS]


