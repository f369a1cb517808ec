"""The installed models, by name, by file, or by the hash in a stream.

Models are in `codec/weights` (in a wheel), in `weights` next to the package (in a checkout), and in
the directories of $AEZ_WEIGHTS. Names of shipped files end in the first 8 hexadecimal digits of the
file's SHA-256, so a model is found by its hash without opening other files; files with other names
are hashed. Names of lossless models end in "-lossless", so that only models of the wanted kind are
loaded. `MODEL_IDS` is the registry of FORMAT.md 7.1: append only, once released.

The encoder of a lossy model is in the same directory: `mnist-0123abcd.encoder.safetensors` for
`mnist-0123abcd.safetensors`. It is not a model, and is read when something is encoded.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from functools import lru_cache
from pathlib import Path

from codec.errors import BadModel, ModelNotFound, UsageError
from codec.model.base import Coder
from codec.model.bundle import Model, architecture_of, read_file
from codec.model.ladder import Ladder
from codec.model.ladder_encoder import LadderEncoder
from codec.model.pixels import Pixels

_HASHED = re.compile("-[0-9a-f]{8}$")
_Version = tuple[int, int]  # size and st_mtime_ns of a file
_CLASSES: dict[str, type[Model]] = {c.ARCHITECTURE: c for c in (Ladder, Pixels)}
_HERE = Path(__file__).resolve().parents[1]
SETTLED_NS = 2_000_000_000
LOSSLESS = "-lossless"  # how the name of a lossless model ends
ENCODER = ".encoder.safetensors"  # how the file name of an encoder ends
AUTO = "auto"  # the name that stands for all shipped models
GENERIC = "generic"  # the name of the model for images that the others do not know

# Model_ID -> Model_Hash, hexadecimal.
MODEL_IDS: dict[int, str] = {
    1: "1940d17a82af6b24",  # mnist
    2: "2fabebbc125b511c",  # fashion
    3: "15d5d40193bf7674",  # mnist-lossless
    4: "e4cffbb1f98c6038",  # fashion-lossless
    5: "75a966aef2d7a19a",  # generic
    6: "564723ba0a3b9eaf",  # generic-lossless
}


def directories() -> list[Path]:
    """Where models are searched for, in order."""
    extra = os.environ.get("AEZ_WEIGHTS", "")
    return [
        _HERE / "weights",
        _HERE.parent / "weights",
        *(Path(d) for d in extra.split(os.pathsep) if d),
    ]


def files() -> list[Path]:
    """The installed model files, without encoders, by directory, then name."""
    found: list[Path] = []
    for directory in directories():
        try:
            changed = directory.stat().st_mtime_ns
        except OSError:
            continue
        # A directory's time is coarse: one that has just changed can change again at the same time.
        settled = time.time_ns() - changed > SETTLED_NS
        found += _listed(directory, changed) if settled else _listed.__wrapped__(directory, changed)
    return found


@lru_cache(maxsize=16)
def _listed(directory: Path, changed: int) -> list[Path]:
    """The model files of a directory that was last changed at this time."""
    found = sorted(directory.glob("*.safetensors"))
    return [path for path in found if not path.name.endswith(ENCODER)]


def encoder_path(path: Path) -> Path:
    """The encoder file of a model file.  Raises ValueError for a path without a name."""
    return path.with_name(path.stem + ENCODER)


def load(path: Path) -> Model:
    """Load a model file of any architecture, without its encoder.  Raises BadModel naming it."""
    try:
        return unpack_model(read_file(path), encoder_path(path.absolute()))
    except BadModel as error:
        raise BadModel(f"{path}: {error}") from error
    except OSError as error:
        raise BadModel(f"{path}: {error.strerror}") from error


def unpack_model(stream: bytes, encoder: bytes | Path | None = None) -> Model:
    """The model in the bytes of a model file; encoder: as for Model.  Raises BadModel."""
    architecture = architecture_of(stream)
    if architecture == LadderEncoder.ARCHITECTURE:
        raise BadModel("this is the encoder of a model: give the file of the model")
    if architecture not in _CLASSES:
        raise BadModel(
            f"architecture {architecture!r}, this version knows {' and '.join(map(repr, _CLASSES))}"
        )
    return _CLASSES[architecture](stream, encoder)


@lru_cache(maxsize=8)
def _load(path: Path, version: _Version, encoder: _Version | None) -> Model:
    return load(path)


def load_cached(path: Path) -> Model:
    """The model in a file; loaded again only if the file or its encoder file changes.

    Raises ModelNotFound, BadModel.
    """
    try:
        version = _version(path)
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        raise ModelNotFound(f"{path}: {getattr(error, 'strerror', error)}", str(path)) from error
    try:
        encoder = _version(encoder_path(path))
    except (OSError, ValueError):  # ValueError: a path without a name, as "/"
        encoder = None
    return _load(path, version, encoder)


def _version(path: Path) -> _Version:
    """Size and time of a file, which change when it does.  Raises OSError, ValueError."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=256)
def _sha256(path: Path, version: _Version) -> bytes:
    """SHA-256 of a file; hashing it takes a third as long as decoding an image.  Raises OSError."""
    return hashlib.sha256(path.read_bytes()).digest()


def by_hash(model_hash: bytes, extra: Model | None = None) -> Model:
    """The model whose SHA-256 starts with `model_hash` (MODEL_HASH_BYTES bytes); `extra` is tried
    first.

    Raises ModelNotFound, BadModel.
    """
    if extra is not None and extra.hash == model_hash:
        return extra
    if path := path_of(model_hash):
        return load_cached(path)
    raise ModelNotFound(
        f"model {model_hash.hex()} is not installed: give its file with -m FILE, or put it into a "
        "directory named in $AEZ_WEIGHTS; shipped models come with every later release of aez",
        model_hash.hex(),
    )


def path_of(model_hash: bytes) -> Path | None:
    """The file whose SHA-256 starts with `model_hash`, None if there is none; nothing is parsed."""
    found = files()
    named = [path for path in found if path.stem.endswith("-" + model_hash.hex()[:8])]
    others = [path for path in found if not _HASHED.search(path.stem)]
    for path in named + others:
        try:
            if _sha256(path, _version(path)).startswith(model_hash):
                return path
        except OSError:
            continue  # a file that cannot be read counts as not installed
    return None


def name_of(path: Path) -> str:
    """`mnist-0123abcd.safetensors` -> `mnist`."""
    return _HASHED.sub("", path.stem)


def by_id(model_id: int) -> Model:
    """The model that a single-image stream names by number.  Raises ModelNotFound."""
    if model_id not in MODEL_IDS:
        raise ModelNotFound(
            f"model number {model_id} is unknown to this version of aez; a later one may have it",
            str(model_id),
        )
    return by_hash(bytes.fromhex(MODEL_IDS[model_id]))


def id_of(model: Coder) -> int:
    """Model_ID of a model, 0 if it is not in the registry."""
    return next((i for i, h in MODEL_IDS.items() if h == model.hash.hex()), 0)


def name_or_file(model: str | Path | None) -> str:
    """What a caller calls a model, as `by_name` takes it; None is AUTO.  Raises UsageError."""
    if model is None:
        return AUTO
    if isinstance(model, Path):  # a file, whatever it is called
        return str(model) if os.sep in str(model) else os.path.join(".", model)
    if not isinstance(model, str):
        raise UsageError(f"model is {model!r}: give the name of a model or the path of its file")
    return model


def by_name(name: str, lossless: bool | None = False) -> Model:
    """A model by its name (`mnist`) or file, lossy or lossless as wanted; None: either.

    The "-lossless" in a name can be left out. Raises ModelNotFound, BadModel; UsageError for a
    model of the other kind.
    """
    if name.endswith(".safetensors") or os.sep in name:
        return _of_kind(load_cached(Path(name)), name, lossless)
    if lossless is None:
        candidates = [name, name + LOSSLESS]
    else:
        candidates = [name + LOSSLESS, name] if lossless else [name]
    found = {name_of(path): path for path in files()}  # the latest of one name
    for candidate in candidates:
        if candidate in found:
            return _of_kind(load_cached(found[candidate]), name, lossless)
    what = f"no model is called {name!r}" if name else "the name of the model is empty"
    installed = f"installed: {', '.join(sorted(found)) or 'none'}"
    raise ModelNotFound(f"{what} ({installed}). For a model file, give its path", name)


def _of_kind(model: Model, name: str, lossless: bool | None) -> Model:
    if lossless not in (None, model.lossless):
        raise UsageError(
            f"model {name} is {model.kind}; give a {'lossless' if lossless else 'lossy'} one"
        )
    return model


def shipped(lossless: bool = False) -> list[Model]:
    """The lossy or the lossless models of the registry, by number; no others are loaded.

    Raises ModelNotFound if there is none, or one is not installed; BadModel.
    """
    names = {path.stem[-8:]: name_of(path) for path in files() if _HASHED.search(path.stem)}
    models = []
    for model_id, model_hash in MODEL_IDS.items():
        name = names.get(model_hash[:8])
        # None: only the file itself can tell
        if name is None or name.endswith(LOSSLESS) == lossless:
            models.append(by_id(model_id))
    models = [model for model in models if model.lossless == lossless]
    if not models:
        kind = "lossless model" if lossless else "model"
        raise ModelNotFound(
            f"no {kind} is shipped with this build: give one with -m FILE or model=", "auto"
        )
    return models
