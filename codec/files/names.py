"""Untrusted names of images: which ones are safe, what file each becomes, which ones collide.

READ ME FIRST
- A name in a stream is a relative POSIX path. Whatever could lead out of a directory, on this
  system or another, is refused: absolute, with a drive letter, `..`, a backslash, NUL, a component
  that no file system takes.
- Names that only Windows does not allow (`aux`, `a:b`, a trailing dot) are refused only there, so
  that a tree can be restored where it came from.
- A collection keeps names with their suffix; `decompress` writes `.png` in its place. So `a.png`
  and `a.jpg` collide, and `A.png` and `a.png` do where the file system says that they are one file.
"""

from __future__ import annotations

import os
import re
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from codec.errors import UsageError
from codec.files import images

MAX_COMPONENT_BYTES = 255
ON_WINDOWS = os.name == "nt"
_RESERVED = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])( *\..*)?", re.IGNORECASE
)


def safe_parts(name: str) -> tuple[str, ...]:
    """Split the name of an image into components that stay below any directory on any system.

    Raises UsageError for a name that is empty, absolute, leads upwards, or differs in meaning
    between systems.
    """
    parts = tuple(name.split("/"))
    if not name:
        fault = "is empty"
    elif "\0" in name or "\\" in name:
        fault = "holds a NUL or a backslash"
    elif name.startswith("/"):
        fault = "is absolute: it starts with '/'"
    elif re.match(r"[A-Za-z]:", name):
        fault = f"starts with {name[:2]!r}, which Windows takes for a drive"
    elif any(part in ("", ".", "..") for part in parts):
        fault = "has an empty, '.' or '..' component"
    elif ON_WINDOWS and any(map(_refused_by_windows, parts)):
        fault = "has a component that Windows does not take"
    else:
        try:
            written = (*parts[:-1], restored(parts[-1]))
            if all(len(part.encode()) <= MAX_COMPONENT_BYTES for part in written):
                return parts
            fault = f"has a component over {MAX_COMPONENT_BYTES} bytes"
        except UnicodeEncodeError:
            fault = "is not UTF-8"
    raise UsageError(f"unsafe name: it {fault}")


def _refused_by_windows(part: str) -> bool:
    return bool(re.search(r'[\x00-\x1f<>:"|?*]|[ .]$', part) or _RESERVED.fullmatch(part))


def bare(name: str) -> str:
    """Strip an image suffix, and only that: `1.5` and `1.6` are two names."""
    return name[: name.rfind(".")] if images.is_image_file(name) else name


def restored(name: str) -> str:
    """The name under which `decompress` writes an image: `0/1.jpg` -> `0/1.png`."""
    dot = name.rfind(".")
    if name[dot:] == ".png" and name[dot - 1 : dot] not in ("", "/"):
        return name  # most names are, and pathlib takes microseconds
    return bare(name) + ".png"


def bare_source(name: str) -> str:
    """`x.npy` -> `x`, `x.tar.gz` -> `x`, `t10k-idx3-ubyte.gz` -> `t10k-idx3-ubyte`."""
    endings = r"\.npy|\.npz|\.idx3?|\.idx3-ubyte|\.csv|\.parquet|\.zip|\.tar|\.tgz"
    return re.sub(rf"(?<=.)({endings})?(\.gz)?$", "", name, count=1, flags=re.IGNORECASE)


def ranges(numbers: Sequence[int]) -> str:
    """`[4, 5, 6, 9]` -> `4-6, 9`."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def collisions(keys: Callable[[], Iterable[str]]) -> Iterator[tuple[int, int]]:
    """(position, position of its first occurrence) of each key that is repeated, in order.

    keys: gives the same keys at each call. Only their hashes are kept, 8 bytes each.
    """
    hashes = np.fromiter(map(hash, keys()), np.int64)
    ordered = np.sort(hashes)
    repeated = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if repeated:
        first: dict[str, int] = {}
        for at, key in enumerate(keys()):
            if hash(key) in repeated and first.setdefault(key, at) != at:
                yield at, first[key]


def clash(called: Callable[[], Iterable[str]]) -> tuple[int, int, str] | None:
    """Positions of two names that cannot both be restored, and what the two would be.

    called: gives the same names at each call.
    """
    for later, earlier in collisions(lambda: map(restored, called())):
        path = restored(next(islice(called(), later, None)))
        return earlier, later, f"would both be restored as {path}"
    folders: dict[str, int] = {}  # those with the name of a restored file, and who is in them
    for at, name in enumerate(called()):
        if ".png/" in name:
            parts = name.split("/")
            for depth in range(1, len(parts)):
                folders.setdefault("/".join(parts[:depth]), at)
    for at, name in enumerate(called() if folders else ()):
        path = restored(name)
        if path in folders:
            return at, folders[path], f"would be restored as {path} and as a file below it"
    return None


class Claims:
    """The files that images will be restored as: two must not be one, nor one the other's folder.

    Only hashes are kept.
    """

    def __init__(self) -> None:
        self._files: set[int] = set()
        self._folders: set[int] = set()

    def add(self, names: Sequence[str]) -> None:
        """Add the names of more images, all or, if one is at fault, none of them.

        Raises UsageError for a name that is not safe, or that cannot be restored beside the others.
        """
        files, folders = set[int](), set[int]()
        for at, name in enumerate(names):
            try:
                self._claim(name, files, folders)
            except UsageError as error:
                number = f" {at}," if len(names) > 1 else ""
                raise UsageError(f"name{number} {name[:80]!r}: {error}") from None
        self._files |= files
        self._folders |= folders

    def _claim(self, name: str, files: set[int], folders: set[int]) -> None:
        *above, _ = safe_parts(name)
        path = restored(name)
        key = hash(path)
        if key in self._files or key in files:
            raise UsageError(f"another image would also be restored as {path}")
        if key in self._folders or key in folders:
            raise UsageError(f"{path} is the folder of another image")
        for depth, part in enumerate(above, 1):
            if part.endswith(".png"):  # as all files are called
                folder = "/".join(above[:depth])
                if hash(folder) in self._files or hash(folder) in files:
                    raise UsageError(f"its folder {folder} is the file of another image")
                folders.add(hash(folder))
        files.add(key)


def folds_case(directory: Path) -> bool:
    """Whether names that differ only in case are one file in a directory, which need not exist."""
    folders = (directory.absolute(), *directory.absolute().parents)
    there = next((folder for folder in folders if folder.is_dir()), directory)
    try:
        with tempfile.NamedTemporaryFile(prefix=".aez-case-", dir=there) as probe:
            return os.path.exists(Path(probe.name).with_name(os.path.basename(probe.name).upper()))
    except OSError:  # it cannot be written to, which later fails with a message
        return False


def folded(name: str) -> str:
    """What such a file system compares at most: letters without case, accents composed."""
    return unicodedata.normalize("NFC", name).casefold()
