"""The fields of a stream <-> bytes: the twin of FORMAT.md 2 to 4.  Packs and unpacks, never decodes
a payload.

READ ME FIRST
- Everything is little-endian; there is no padding.
- Each structure is a table of (Field_Name, struct code) below, in file order; FORMAT.md has the
  same tables and a test compares the two.
- A reader rejects what it does not know (versions, reserved bits, critical extension fields) and
  skips ignorable extension fields; so a version 1 reader fails cleanly on whatever comes later.
- Order of checks: length present, magic, version, reserved bits, ranges, checks.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from codec.errors import (
    BadMagic,
    BitstreamError,
    ChecksumMismatch,
    LimitExceeded,
    ReservedBitsSet,
    TrailingData,
    Truncated,
    UnsupportedVersion,
)

VERSION = 1
# the first byte is no ASCII and no UTF-8 start byte: text is never taken for a stream
MAGIC = b"\xae\x5a"
BLOCK_MAGIC, FOOTER_MAGIC, END_MAGIC = b"aezB", b"aezF", b"aezE"

FLAG_COLLECTION, FLAG_EXTENDED = 0x08, 0x04
RESERVED_FLAGS = 0x03
BLOCK_FLAG_NAMES, BLOCK_FLAG_PARTS = 0x01, 0x02

MAX_QUALITY = 99  # of a lossy model
LOSSLESS_QUALITY = 100
STORED_QUALITY = 101  # a single image as it is, without a model
BLOCK_QUALITY_AT = 12  # of Quality in a block header
GROUP_IMAGES = 16  # neighbouring images that share one coder state, which costs 2 bytes
# From this quality on smaller groups cost about 1 % more bytes, and one image is had in a third of
# the time.
SMALL_GROUP_QUALITY, SMALL_GROUP_IMAGES = 50, 5
MAX_BLOCK_IMAGES = 4096
MAX_PART_MODELS, MAX_PARTS = 256, 1024  # of a block: room for ten models at each quality
MAX_IMAGE_STREAM_BYTES = 1 << 16
MAX_NAMES_BYTES = 1 << 24
MAX_EXTENSION_BYTES = 1 << 24
MAX_MODEL_BYTES = 1 << 24
MODEL_HASH_BYTES = 8  # the first 8 bytes of the SHA-256 of the model file
CHECKSUM_BYTES = 16
# a damaged list of images would give right pixels the wrong number, and no group would notice
PARTS_CHECK_BYTES = 4

EXTENSION_MODEL_HASH = 0x01  # critical: types below 0x80 are
EXTENSION_MODELS = 0x80  # ignorable: copies of models that the blocks name anyway

IMAGE_FIELDS = (
    ("Magic", "2s"),
    ("Version_And_Flags", "B"),
    ("Model_ID", "B"),
    ("Quality", "B"),
    ("Check", "B"),
)
COLLECTION_FIELDS = (("Magic", "2s"), ("Version_And_Flags", "B"), ("Check", "B"))
BLOCK_FIELDS = (
    ("Block_Magic", "4s"),
    ("Model_Hash", "8s"),
    ("Quality", "B"),
    ("Block_Flags", "B"),
    ("Image_Count", "H"),
    ("Names_Bytes", "I"),
    ("Index_Bytes", "H"),
    ("Payload_Bytes", "I"),
    ("Header_Check", "4s"),
    ("Checksum", "16s"),
)
FOOTER_FIELDS = (("Footer_Magic", "4s"), ("Total_Images", "Q"), ("Block_Count", "I"))
FOOTER_ENTRY_FIELDS = (("Block_Bytes", "I"), ("Block_Images", "H"))
FOOTER_END_FIELDS = (("Checksum", "16s"), ("Footer_Bytes", "I"), ("End_Magic", "4s"))


def _struct(fields: tuple[tuple[str, str], ...]) -> struct.Struct:
    return struct.Struct("<" + "".join(code for _, code in fields))


IMAGE, COLLECTION, BLOCK = _struct(IMAGE_FIELDS), _struct(COLLECTION_FIELDS), _struct(BLOCK_FIELDS)
FOOTER, FOOTER_ENTRY, FOOTER_END = (
    _struct(FOOTER_FIELDS),
    _struct(FOOTER_ENTRY_FIELDS),
    _struct(FOOTER_END_FIELDS),
)


SMALLEST_COLLECTION = COLLECTION.size + FOOTER.size + FOOTER_END.size


def _crc8_table(polynomial: int) -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value << 1 ^ polynomial if value & 0x80 else value << 1) & 0xFF
        table.append(value)
    return table


_CRC8 = _crc8_table(0x2F)
_CRC8_PERIOD = 127  # bits, and so bytes, after which powers of x repeat


def crc8(message: bytes) -> int:
    """CRC-8 with polynomial 0x2F, start 0: one flipped bit is always caught, two within 119 bits as
    well.
    """
    if len(message) > _CRC8_PERIOD:
        # The CRC is linear, leading zeros change nothing, and x**127 = 1: bytes 127 apart may be
        # added up beforehand. That is the difference between 2 ms and 200 ms for an embedded model.
        folded = 0
        for end in range(len(message), 0, -_CRC8_PERIOD):
            folded ^= int.from_bytes(message[max(0, end - _CRC8_PERIOD) : end])
        message = folded.to_bytes(_CRC8_PERIOD)
    crc = 0
    for byte in message:
        crc = _CRC8[crc ^ byte]
    return crc


def group_images(quality: int) -> int:
    """Images in a full group of a quality."""
    return SMALL_GROUP_IMAGES if SMALL_GROUP_QUALITY <= quality <= MAX_QUALITY else GROUP_IMAGES


def checksum(*parts: bytes, size: int = CHECKSUM_BYTES) -> bytes:
    """BLAKE2b of the parts joined, `size` bytes long."""
    digest = hashlib.blake2b(digest_size=size)
    for part in parts:
        digest.update(part)
    return digest.digest()


def pack_varint(value: int) -> bytes:
    """Unsigned LEB128: seven bits a byte, least significant first, the high bit set on all bytes
    but the last.
    """
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def unpack_varint(
    stream: bytes, offset: int, *, max_bytes: int = 5, base: int = 0
) -> tuple[int, int]:
    """-> (value, offset after it).  `base`: where `stream` lies in the file, for messages.

    Raises Truncated or LimitExceeded.
    """
    value = 0
    for i in range(max_bytes):
        if offset + i >= len(stream):
            raise Truncated("the stream ends inside a number", base + offset)
        byte = stream[offset + i]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, offset + i + 1
    raise LimitExceeded(f"a number of more than {max_bytes} bytes", base + offset)


def pack_extension(fields: dict[int, bytes]) -> bytes:
    """Extension area of FORMAT.md 2.2: its length, then type, length and value of each field in
    order of type.
    """
    body = b"".join(
        bytes([t]) + pack_varint(len(value)) + value for t, value in sorted(fields.items())
    )
    return pack_varint(len(body)) + body


def unpack_extension(stream: bytes, offset: int) -> tuple[dict[int, bytes], int]:
    """-> (known fields by type, offset after the area).

    Unknown ignorable fields are skipped, critical ones refused.
    """
    size, offset = unpack_varint(stream, offset)
    if size > MAX_EXTENSION_BYTES:
        raise LimitExceeded(
            f"an extension of {size} bytes, at most {MAX_EXTENSION_BYTES} are allowed", offset
        )
    end = offset + size
    if end > len(stream):
        raise Truncated(f"the extension ends at byte {end}, the stream has {len(stream)}", offset)
    known: dict[int, bytes] = {}
    area = stream[:end]
    while offset < end:
        at, kind = offset, stream[offset]
        length, offset = unpack_varint(area, offset + 1)
        if offset + length > end:
            raise Truncated(f"extension field 0x{kind:02x} runs past the extension", at)
        value, offset = stream[offset : offset + length], offset + length
        if kind == EXTENSION_MODEL_HASH:
            if length != MODEL_HASH_BYTES:
                raise LimitExceeded(
                    f"a model hash of {length} bytes, wanted {MODEL_HASH_BYTES}", at
                )
            known[kind] = value
        elif kind == EXTENSION_MODELS:
            known[kind] = value
        elif kind < 0x80:
            raise UnsupportedVersion(
                f"extension field 0x{kind:02x} is needed and unknown to this reader", at
            )
    return known, end


def _check_start(stream: bytes) -> int:
    """Check magic, version and reserved flags; return the flags."""
    if not MAGIC.startswith(stream[:2]):
        raise BadMagic(
            f"{stream[:2].hex(' ')} found, {MAGIC.hex(' ')} wanted: not an aez stream", 0
        )
    if len(stream) < 3:
        raise Truncated(
            f"the stream has {len(stream)} bytes and ends inside its header", len(stream)
        )
    version, flags = stream[2] >> 4, stream[2] & 15
    if version != VERSION:
        raise UnsupportedVersion(f"version {version}, this reader knows {VERSION}", 2)
    if flags & RESERVED_FLAGS:
        raise ReservedBitsSet(f"reserved flags 0x{flags & RESERVED_FLAGS:x} are set", 2)
    return flags


def is_collection(stream: bytes) -> bool:
    """Whether a stream (its first 3 bytes are enough) is a collection.

    Raises BitstreamError if it is no stream.
    """
    return bool(_check_start(stream[:3]) & FLAG_COLLECTION)


def _check_quality(quality: int, highest: int, offset: int) -> None:
    if quality > highest:
        raise ReservedBitsSet(f"quality {quality}, this reader knows 0 to {highest}", offset)


@dataclass(frozen=True)
class ImageHeader:
    """Header of a single-image stream.

    `model_hash` is empty unless model_id is 0 and the image is not stored.
    """

    model_id: int
    quality: int
    check: int = 0
    model_hash: bytes = b""

    def pack(self) -> bytes:
        """-> IMAGE.size bytes, or more with an extension."""
        flags = VERSION << 4 | (FLAG_EXTENDED if self.model_hash else 0)
        extension = (
            pack_extension({EXTENSION_MODEL_HASH: self.model_hash}) if self.model_hash else b""
        )
        return IMAGE.pack(MAGIC, flags, self.model_id, self.quality, self.check) + extension


def unpack_image_header(stream: bytes) -> tuple[ImageHeader, int]:
    """-> (header, offset of the payload).  The Check is left to the caller, who knows the model."""
    flags = _check_start(stream)
    if flags & FLAG_COLLECTION:
        raise BadMagic("a collection, a single image wanted", 2)
    if len(stream) < IMAGE.size:
        raise Truncated(
            f"the stream has {len(stream)} bytes and ends inside its header", len(stream)
        )
    if len(stream) > MAX_IMAGE_STREAM_BYTES:
        raise LimitExceeded(
            f"{len(stream)} bytes for one image, at most {MAX_IMAGE_STREAM_BYTES} are allowed", 0
        )
    _, _, model_id, quality, check = IMAGE.unpack_from(stream)
    _check_quality(quality, STORED_QUALITY, 4)
    extension, offset = (
        unpack_extension(stream, IMAGE.size) if flags & FLAG_EXTENDED else ({}, IMAGE.size)
    )
    model_hash = extension.get(EXTENSION_MODEL_HASH, b"")
    if quality == STORED_QUALITY:
        if model_id or model_hash:
            raise ReservedBitsSet(f"a stored image with model {model_hash.hex() or model_id}", 3)
    elif (model_id == 0) != bool(model_hash):
        raise ReservedBitsSet(
            f"model id {model_id} with{'' if model_hash else 'out'} a model hash", 3
        )
    return ImageHeader(model_id, quality, check, model_hash), offset


def image_check(model_sha256: bytes, stream: bytes) -> int:
    """Check of a single-image stream: CRC-8 of the model's SHA-256 (b"" if stored), then of the
    stream without its Check byte.
    """
    return crc8(model_sha256 + stream[: IMAGE.size - 1] + stream[IMAGE.size :])


def pack_image(header: ImageHeader, payload: bytes, model_sha256: bytes) -> bytes:
    """-> a whole single-image stream with its Check filled in."""
    stream = bytearray(header.pack() + payload)
    stream[IMAGE.size - 1] = image_check(model_sha256, bytes(stream))
    return bytes(stream)


def pack_collection_header(models: Sequence[bytes] = ()) -> bytes:
    """-> the COLLECTION.size bytes that a collection starts with, and the models to embed, if any,
    in an extension.
    """
    start = MAGIC + bytes([VERSION << 4 | FLAG_COLLECTION | (FLAG_EXTENDED if models else 0)])
    area = (
        pack_extension({EXTENSION_MODELS: b"".join(pack_varint(len(m)) + m for m in models)})
        if models
        else b""
    )
    return start + bytes([crc8(start + area)]) + area


def unpack_models(stream: bytes) -> list[bytes]:
    """The model files embedded in a collection header that has been unpacked; their content is not
    looked at.
    """
    if not stream[2] & FLAG_EXTENDED:
        return []
    value = unpack_extension(stream, COLLECTION.size)[0].get(EXTENSION_MODELS, b"")
    models, at = [], 0
    while at < len(value):
        size, at = unpack_varint(value, at)
        if size > MAX_MODEL_BYTES:
            raise LimitExceeded(
                f"an embedded model of {size} bytes, at most {MAX_MODEL_BYTES} are allowed"
            )
        if at + size > len(value):
            raise Truncated(
                f"an embedded model of {size} bytes, {len(value) - at} are left of its field"
            )
        models.append(value[at : at + size])
        at += size
    return models


def unpack_collection_header(stream: bytes) -> int:
    """-> offset of the first block.  `stream` holds at least the header."""
    flags = _check_start(stream)
    if not flags & FLAG_COLLECTION:
        raise BadMagic("a single image, a collection wanted", 2)
    if len(stream) < COLLECTION.size:
        raise Truncated(
            f"the stream has {len(stream)} bytes and ends inside its header", len(stream)
        )
    _, offset = (
        unpack_extension(stream, COLLECTION.size)
        if flags & FLAG_EXTENDED
        else ({}, COLLECTION.size)
    )
    if crc8(stream[:3] + stream[COLLECTION.size : offset]) != stream[3]:
        raise ChecksumMismatch("the collection header is damaged", 3)
    return offset


def is_intact(stream: bytes) -> bool:
    """Whether the Check of a collection header holds, whatever else the header says: of a later
    version, say.
    """
    end = COLLECTION.size
    if len(stream) < end:
        return False
    if stream[2] & FLAG_EXTENDED:
        try:
            size, at = unpack_varint(stream, end)
        except BitstreamError:
            return False
        end = at + size
    return end <= len(stream) and crc8(stream[:3] + stream[COLLECTION.size : end]) == stream[3]


@dataclass(frozen=True)
class BlockHeader:
    """Header of a block: what its body holds and in how many bytes."""

    model_hash: bytes
    quality: int
    has_names: bool
    image_count: int
    names_bytes: int
    index_bytes: int
    payload_bytes: int
    checksum: bytes = field(default=bytes(CHECKSUM_BYTES))
    has_parts: bool = False

    @property
    def body_bytes(self) -> int:
        """Bytes of names, index and payload."""
        return self.names_bytes + self.index_bytes + self.payload_bytes

    @property
    def block_bytes(self) -> int:
        """Bytes of the whole block, header included."""
        return BLOCK.size + self.body_bytes

    def pack(self) -> bytes:
        """-> BLOCK.size bytes."""
        flags = BLOCK_FLAG_NAMES * self.has_names | BLOCK_FLAG_PARTS * self.has_parts
        fields = (
            BLOCK_MAGIC,
            self.model_hash,
            self.quality,
            flags,
            self.image_count,
            self.names_bytes,
            self.index_bytes,
            self.payload_bytes,
        )
        start = BLOCK.pack(*fields, b"", b"")[:_BLOCK_START]
        return start + checksum(start, size=4) + self.checksum


_BLOCK_START = BLOCK.size - 4 - CHECKSUM_BYTES  # what Header_Check covers


def unpack_block_header(stream: bytes, offset: int = 0) -> BlockHeader:
    """Unpack the header at the start of `stream`; `offset` is where that lies in the file, for
    messages.

    Raises BadMagic, Truncated, ChecksumMismatch, ReservedBitsSet or LimitExceeded.
    """
    if len(stream) < BLOCK.size:
        raise Truncated(
            f"the stream ends inside a block header, {BLOCK.size - len(stream)} bytes early", offset
        )
    (
        magic,
        model_hash,
        quality,
        flags,
        count,
        names_bytes,
        index_bytes,
        payload_bytes,
        header_check,
        body_checksum,
    ) = BLOCK.unpack_from(stream)
    if magic != BLOCK_MAGIC:
        raise BadMagic(f"{magic.hex(' ')} found, a block ({BLOCK_MAGIC.hex(' ')}) wanted", offset)
    if checksum(stream[:_BLOCK_START], size=4) != header_check:
        raise ChecksumMismatch("a block header is damaged", offset)
    _check_quality(quality, LOSSLESS_QUALITY, offset + BLOCK_QUALITY_AT)
    if reserved := flags & ~(BLOCK_FLAG_NAMES | BLOCK_FLAG_PARTS):
        raise ReservedBitsSet(f"reserved block flags 0x{reserved:02x} are set", offset + 13)
    header = BlockHeader(
        model_hash,
        quality,
        bool(flags & BLOCK_FLAG_NAMES),
        count,
        names_bytes,
        index_bytes,
        payload_bytes,
        body_checksum,
        bool(flags & BLOCK_FLAG_PARTS),
    )
    if not 1 <= count <= MAX_BLOCK_IMAGES:
        raise LimitExceeded(
            f"{count} images in a block, 1 to {MAX_BLOCK_IMAGES} are allowed", offset + 14
        )
    if (
        names_bytes > MAX_NAMES_BYTES
        or payload_bytes > -(-count // GROUP_IMAGES) * GROUP_IMAGES * MAX_IMAGE_STREAM_BYTES
    ):
        raise LimitExceeded("a block claims more bytes than its images can need", offset + 16)
    return header


@dataclass(frozen=True)
class Footer:
    """The table of blocks at the end of a collection: (Block_Bytes, Block_Images) of each."""

    blocks: tuple[tuple[int, int], ...]

    @property
    def total_images(self) -> int:
        """Images in the collection."""
        return sum(images for _, images in self.blocks)

    def pack(self) -> bytes:
        """-> footer bytes, End_Magic last."""
        start = FOOTER.pack(FOOTER_MAGIC, self.total_images, len(self.blocks))
        start += b"".join(FOOTER_ENTRY.pack(*entry) for entry in self.blocks)
        return start + FOOTER_END.pack(checksum(start), len(start) + FOOTER_END.size, END_MAGIC)


def unpack_footer_end(tail: bytes, stream_bytes: int) -> int:
    """-> Footer_Bytes, from the last FOOTER_END.size bytes of a stream of `stream_bytes` bytes."""
    if len(tail) < FOOTER_END.size:
        raise Truncated("the collection ends before its footer", stream_bytes)
    _, footer_bytes, magic = FOOTER_END.unpack(tail[-FOOTER_END.size :])
    if magic != END_MAGIC:
        raise Truncated(
            f"{magic.hex(' ')} found at the end, {END_MAGIC.hex(' ')} wanted: cut short",
            stream_bytes - 4,
        )
    if not FOOTER.size + FOOTER_END.size <= footer_bytes <= stream_bytes - COLLECTION.size:
        raise LimitExceeded(
            f"a footer of {footer_bytes} bytes in a stream of {stream_bytes}", stream_bytes - 8
        )
    return int(footer_bytes)


def unpack_footer(footer: bytes, offset: int, blocks_bytes: int | None) -> Footer:
    """Unpack a whole footer.

    offset: where it lies in the file; blocks_bytes: bytes between file header and footer, None if
    the header is damaged.
    """
    magic, total, count = FOOTER.unpack_from(footer)
    if magic != FOOTER_MAGIC:
        raise BadMagic(f"{magic.hex(' ')} found, a footer ({FOOTER_MAGIC.hex(' ')}) wanted", offset)
    if FOOTER.size + count * FOOTER_ENTRY.size + FOOTER_END.size != len(footer):
        raise LimitExceeded(
            f"{count} blocks do not fit a footer of {len(footer)} bytes", offset + 12
        )
    if checksum(footer[: -FOOTER_END.size]) != footer[-FOOTER_END.size : -8]:
        raise ChecksumMismatch("the footer is damaged", offset)
    found = Footer(tuple(FOOTER_ENTRY.iter_unpack(footer[FOOTER.size : -FOOTER_END.size])))
    if found.total_images != total:
        raise LimitExceeded(
            f"{total} images claimed, the blocks hold {found.total_images}", offset + 4
        )
    claimed = sum(size for size, _ in found.blocks)
    if blocks_bytes is None:
        blocks_bytes = min(claimed, offset - COLLECTION.size)
    if claimed != blocks_bytes:
        error = TrailingData if claimed < blocks_bytes else Truncated
        raise error(f"blocks of {claimed} bytes listed, {blocks_bytes} present", offset)
    return found
