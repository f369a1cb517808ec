"""What is wrong with an image file that Pillow takes for whole: the checks that formats have.

Pillow reads no more than it needs for the pixels. It ignores the checks of PNG's pixels and of
compressed TIFF, whether a file goes on to its end, and what follows that.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from PIL import Image, ImageFile

MAX_RAW_BYTES = 1 << 14  # of the pixels of a PNG of 28x28, 64 bits each, interlaced
DEFLATE = (8, 32946)  # what TIFF calls it


def fault_of(content: bytes, image: Image.Image) -> str | None:
    """Why a file is not whole; None: no check says so.  image: as Pillow has opened it."""
    match image.format:
        case "PNG":
            return _png_fault(content)
        case "TIFF":
            return _tiff_fault(content, image)
        case "PPM":
            return _ppm_fault(content, image)
        case "WEBP":
            size = 8 + int.from_bytes(content[4:8], "little")
            return _end_fault(len(content) == size + size % 2)
        case "GIF":
            return _end_fault(content.endswith(b"\0;"))
        case "QOI":
            return _end_fault(content.endswith(b"\0\0\0\0\0\0\0\1"))
        case "JPEG":
            return _end_fault(content.rstrip(b"\0").endswith(b"\xff\xd9"))
        case "JPEG2000":  # in a file, other things than pixels may follow
            return _end_fault(b"\xff\xd9" in content)
    return None


def _end_fault(is_whole: bool) -> str | None:
    return None if is_whole else "it ends too early, or something follows its end"


def _png_fault(content: bytes) -> str | None:
    at, kind, pixels = 8, b"", []
    while kind != b"IEND":
        if at + 12 > len(content):
            return "its last chunk is missing"
        size, kind = struct.unpack(">I4s", content[at : at + 8])
        body = content[at + 4 : at + 8 + size]  # with its kind
        at += 12 + size
        if content[at - 4 : at] != struct.pack(">I", zlib.crc32(body)):
            return f"the check of its chunk {kind.decode('latin-1')} differs"
        if kind == b"IDAT":
            pixels.append(body[4:])
    if at < len(content):
        return f"{len(content) - at} bytes follow its end"
    return _deflate_fault(b"".join(pixels))


def _deflate_fault(packed: bytes) -> str | None:
    unpacker = zlib.decompressobj()
    unpacker.decompress(packed, MAX_RAW_BYTES)
    return None if unpacker.eof else "its compressed pixels do not end as they should"


def _tiff_fault(content: bytes, image: Image.Image) -> str | None:
    tags = getattr(image, "tag_v2", {})
    if tags.get(259) not in DEFLATE:
        return None
    for offsets, sizes in ((273, 279), (324, 325)):  # of strips, of tiles
        for at, size in zip(tags.get(offsets, ()), tags.get(sizes, ()), strict=True):
            if fault := _deflate_fault(content[at : at + size]):
                return fault
    return None


def _ppm_fault(content: bytes, image: Image.Image) -> str | None:
    if content[1:2] not in b"456":  # as text
        return None
    ((_, _, start, _),) = cast("ImageFile.ImageFile", image).tile
    size = image.width * image.height * len(image.getbands())
    if image.mode == "1":
        size = (image.width + 7) // 8 * image.height
    rest = content[start + size :].strip()
    return f"{len(rest)} bytes follow its pixels" if rest else None
