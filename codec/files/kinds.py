"""What a file is by its name: images, many images in one file, litter, or something else."""

from __future__ import annotations

import re
from collections.abc import Sequence

from codec.errors import counted
from codec.files.batch import listing

ARRAY_ENDINGS = tuple(".npy .npz .npy.gz .idx .idx3 -ubyte .idx.gz .idx3.gz -ubyte.gz".split())
ARCHIVE_ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")
SOURCE_ENDINGS = (*ARRAY_ENDINGS, ".csv", ".csv.gz", ".parquet", *ARCHIVE_ENDINGS)
SOURCES = ".npy, .npz, IDX, .csv, .parquet, .zip, .tar, and .gz of most"

# What macOS and Windows leave beside files.
_LITTER = re.compile(
    r"(.*/)?(\._[^/]*|\.DS_Store|Thumbs\.db|desktop\.ini)|(.*/)?__MACOSX/.*", re.IGNORECASE
)


def is_source_file(name: str) -> bool:
    """Whether a file has many images: an array, a table or an archive."""
    return name.lower().endswith(SOURCE_ENDINGS)


def is_litter(name: str) -> bool:
    """Whether a system left this file beside others, of which it says nothing that aez keeps."""
    return bool(_LITTER.fullmatch(name))


def others_of(found: Sequence[str], *, packed: bool = False, seen: bool = False) -> list[str]:
    """What to say of the files of a directory or, `packed`, of an archive that are no images.

    seen: images were looked for in all of them.
    """
    sources = [name for name in found if is_source_file(name)]
    said = []
    if sources:
        are, them = ("is", "it") if len(sources) == 1 else ("are", "them")
        said.append(
            f"{counted(len(sources), 'file')} of many images ({listing(sources, 3)}), which {are} "
            + (f"taken if you unpack {them}" if packed else "taken if given by name")
        )
    if number := len(found) - len(sources):
        rest = [name for name in found if not is_source_file(name)]
        may_be = not seen and not all("." in name.rpartition("/")[2] for name in rest)
        remedy = "; --all-files looks for images in files without a suffix" * may_be
        said.append(f"{counted(number, 'file')} of other kinds ({listing(rest, 3)}){remedy}")
    return said
