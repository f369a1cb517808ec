"""What a file is that aez does not take, by its first bytes: a web page, a pointer of Git LFS, ...

    raise ImageError(f"{name}: {instead_of('TAR archive', head)}")

A download that went wrong often leaves a page under the name of the data.
"""

from __future__ import annotations

import re

HEAD_BYTES = 512  # of a file, as many as tell
SHOWN = 24  # bytes or characters of what a file starts with

_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body|script)\b", re.IGNORECASE)
_LFS = b"version https://git-lfs.github.com/"
_STARTS = (
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\0", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"\x1f\x8b", "a gzip file"),
    (b"PK", "a ZIP archive"),
    (b"PAR1", "a Parquet file"),
    (b"\x93NUMPY", "an NPY file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"MATLAB 5.0", "a MATLAB file"),
    (b"\x80\x02", "a pickle of Python"),
    (b"\x80\x03", "a pickle of Python"),
    (b"\x80\x04", "a pickle of Python"),
    (b"\x80\x05", "a pickle of Python"),
    (b"SQLite format 3", "an SQLite database"),
    (b"%PDF", "a PDF file"),
    (b"\xaeZ", "an .aez file"),
)


def is_placeholder(head: bytes) -> bool:
    """Whether a file is a web page or a pointer, which came in place of what was wanted."""
    return bool(_PAGE.match(head)) or head.startswith(_LFS)


def named(head: bytes) -> str | None:
    """What a file is, and what to do about it; None: it is nothing that is known here."""
    if _PAGE.match(head):
        return "a web page: download the file again"
    if head.startswith(_LFS):
        return "a pointer of Git LFS: git lfs pull fetches the file"
    found = next((called for start, called in _STARTS if head.startswith(start)), None)
    return "a TAR archive" if found is None and head[257:262] == b"ustar" else found


def started(head: bytes) -> str:
    """What a file starts with, as text if it is text."""
    try:
        # a character may be cut at the end
        text = head.decode("utf-8-sig", "ignore" if len(head) > SHOWN else "strict")
    except UnicodeDecodeError:
        text = ""
    if text and all(c.isprintable() or c in "\t\r\n" for c in text[:SHOWN]):
        return repr(text[:SHOWN])
    return f"the bytes {head[: SHOWN // 3].hex(' ')}"


def instead_of(wanted: str, head: bytes) -> str:
    """A file is none of what it should be: `is a web page: ...`, `is no ZIP archive: ...`."""
    if found := named(head):
        what, colon, remedy = found.partition(": ")
        return f"is {what}, not {wanted}{colon}{remedy}"
    return f"is not {wanted}: it starts with {started(head)}"
