"""The headers of streams and blocks <-> bytes.  FORMAT.md 2, 3.1, 3.2.  No payload is decoded here.

READ ME FIRST
- Everything is little-endian; there is no padding.
- Each structure is a table of (Field_Name, struct code) below, in file order; FORMAT.md has the
  same tables and a test compares the two.
- A reader rejects what it does not know (versions, reserved bits, critical extension fields) and
  skips ignorable extension fields; so a version 1 reader fails cleanly on later formats.
- Order of checks: length present, magic, version, reserved bits, ranges, checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from codec.errors import (
    BadMagic,
    BitstreamError,
    ChecksumMismatch,
    LimitExceeded,
    ReservedBitsSet,
    Truncated,
    UnsupportedVersion,
)
from codec.format.constants import (
    BLOCK_FLAG_LABELS,
    BLOCK_FLAG_NAMES,
    BLOCK_FLAG_PARTS,
    BLOCK_MAGIC,
    BLOCK_QUALITY_AT,
    CHECKSUM_BYTES,
    EXTENSION_MODEL_HASH,
    EXTENSION_MODELS,
    FLAG_COLLECTION,
    FLAG_EXTENDED,
    GROUP_IMAGES,
    LOSSLESS_QUALITY,
    MAGIC,
    MAX_BLOCK_IMAGES,
    MAX_ERROR,
    MAX_EXTENSION_BYTES,
    MAX_IMAGE_STREAM_BYTES,
    MAX_MODEL_BYTES,
    MAX_NAMES_BYTES,
    MODEL_HASH_BYTES,
    NEAR_LOSSLESS,
    RESERVED_FLAGS,
    STORED_QUALITY,
    VERSION,
)
from codec.format.primitives import checksum, crc8, layout_of, pack_varint, unpack_varint

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
IMAGE = layout_of(IMAGE_FIELDS)
COLLECTION = layout_of(COLLECTION_FIELDS)
BLOCK = layout_of(BLOCK_FIELDS)


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
            f"the extension has {size} bytes, at most {MAX_EXTENSION_BYTES} are allowed", offset
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
        if kind == EXTENSION_MODEL_HASH and length != MODEL_HASH_BYTES:
            raise LimitExceeded(f"a model hash has {length} bytes, not {MODEL_HASH_BYTES}", at)
        if kind in (EXTENSION_MODEL_HASH, EXTENSION_MODELS):
            known[kind] = value
        elif kind < 0x80:
            raise UnsupportedVersion(
                f"extension field 0x{kind:02x} is needed, but this reader does not know it", at
            )
    return known, end


def _check_start(stream: bytes) -> int:
    """Check magic, version and reserved flags; return the flags."""
    if not MAGIC.startswith(stream[:2]):
        found = f"it begins with {stream[:2].hex(' ')}, not {MAGIC.hex(' ')}"
        raise BadMagic(f"not an .aez file: {found}", 0)
    if len(stream) < 3:
        raise _cut_short(stream)
    version, flags = stream[2] >> 4, stream[2] & 15
    if version != VERSION:
        raise UnsupportedVersion(f"version {version}, this reader knows {VERSION}", 2)
    if flags & RESERVED_FLAGS:
        raise ReservedBitsSet(f"reserved flags 0x{flags & RESERVED_FLAGS:x} are set", 2)
    return flags


def _cut_short(stream: bytes) -> Truncated:
    size = len(stream)
    if not size:
        return Truncated("the stream is empty", 0)
    return Truncated("the stream ends inside its header", size)


def is_collection(stream: bytes) -> bool:
    """Whether a stream (its first 3 bytes are enough) is a collection.

    Raises BitstreamError if it is not a stream.
    """
    return bool(_check_start(stream[:3]) & FLAG_COLLECTION)


def check_quality(quality: int, offset: int, *, highest: int = LOSSLESS_QUALITY) -> None:
    """Raise ReservedBitsSet unless the quality is 0 .. highest or near-lossless.

    offset: where it lies in the file, for the message.
    """
    if quality > highest and not 1 <= quality - NEAR_LOSSLESS <= MAX_ERROR:
        near = f"{NEAR_LOSSLESS + 1} to {NEAR_LOSSLESS + MAX_ERROR}"
        known = f"0 to {highest} and {near}"
        raise ReservedBitsSet(f"quality {quality}, this reader knows {known}", offset)


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
        flags, extension = VERSION << 4, b""
        if self.model_hash:
            flags |= FLAG_EXTENDED
            extension = pack_extension({EXTENSION_MODEL_HASH: self.model_hash})
        return IMAGE.pack(MAGIC, flags, self.model_id, self.quality, self.check) + extension


def unpack_image_header(stream: bytes) -> tuple[ImageHeader, int]:
    """-> (header, offset of the payload).  Raises BitstreamError.

    The Check is left to the caller, who knows the model.
    """
    flags = _check_start(stream)
    if flags & FLAG_COLLECTION:
        raise BadMagic("this is a collection, not a single image")
    if len(stream) < IMAGE.size:
        raise _cut_short(stream)
    if len(stream) > MAX_IMAGE_STREAM_BYTES:
        raise LimitExceeded(
            f"one image has {len(stream)} bytes, at most {MAX_IMAGE_STREAM_BYTES} are allowed", 0
        )
    _, _, model_id, quality, check = IMAGE.unpack_from(stream)
    check_quality(quality, 4, highest=STORED_QUALITY)
    model_hash, offset = b"", IMAGE.size
    if flags & FLAG_EXTENDED:
        extension, offset = unpack_extension(stream, offset)
        model_hash = extension.get(EXTENSION_MODEL_HASH, b"")
    if quality == STORED_QUALITY:
        if model_id or model_hash:
            raise ReservedBitsSet(f"a stored image has model {model_hash.hex() or model_id}", 3)
    elif (model_id == 0) != bool(model_hash):
        has = "with" if model_hash else "without"
        raise ReservedBitsSet(f"model id {model_id} {has} a model hash", 3)
    return ImageHeader(model_id, quality, check, model_hash), offset


def image_check(model_sha256: bytes, stream: bytes) -> int:
    """Check of a single-image stream: CRC-8 of the model's SHA-256 (b"" if stored) and the stream
    without its Check byte.
    """
    return crc8(model_sha256 + stream[: IMAGE.size - 1] + stream[IMAGE.size :])


def pack_image(header: ImageHeader, payload: bytes, model_sha256: bytes) -> bytes:
    """-> a whole single-image stream with its Check filled in."""
    stream = bytearray(header.pack() + payload)
    stream[IMAGE.size - 1] = image_check(model_sha256, bytes(stream))
    return bytes(stream)


def pack_collection_header(models: Sequence[bytes] = ()) -> bytes:
    """-> the COLLECTION.size bytes that a collection starts with, then the models, if any, in an
    extension.
    """
    start = MAGIC + bytes([VERSION << 4 | FLAG_COLLECTION | (FLAG_EXTENDED if models else 0)])
    packed = b"".join(pack_varint(len(m)) + m for m in models)
    area = pack_extension({EXTENSION_MODELS: packed}) if models else b""
    return start + bytes([crc8(start + area)]) + area


def unpack_models(stream: bytes) -> list[bytes]:
    """The model files embedded in a collection header that has been checked; they are not parsed.

    Raises LimitExceeded, Truncated.
    """
    if not stream[2] & FLAG_EXTENDED:
        return []
    value = unpack_extension(stream, COLLECTION.size)[0].get(EXTENSION_MODELS, b"")
    models, at = [], 0
    while at < len(value):
        size, at = unpack_varint(value, at)
        if size > MAX_MODEL_BYTES:
            raise LimitExceeded(
                f"an embedded model has {size} bytes, at most {MAX_MODEL_BYTES} are allowed"
            )
        if at + size > len(value):
            left = len(value) - at
            raise Truncated(f"an embedded model has {size} bytes, but only {left} are left for it")
        models.append(value[at : at + size])
        at += size
    return models


def unpack_collection_header(stream: bytes) -> int:
    """-> offset of the first block.  stream: at least the header.  Raises BitstreamError."""
    flags = _check_start(stream)
    if not flags & FLAG_COLLECTION:
        raise BadMagic("this is a single image, not a collection")
    if len(stream) < COLLECTION.size:
        raise _cut_short(stream)
    offset = COLLECTION.size
    if flags & FLAG_EXTENDED:
        _, offset = unpack_extension(stream, offset)
    if crc8(stream[:3] + stream[COLLECTION.size : offset]) != stream[3]:
        raise ChecksumMismatch("the collection header is damaged", 3)
    return offset


def is_intact(stream: bytes) -> bool:
    """Whether the Check of a collection header holds, even if the header is of a later version."""
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
    """Header of a block: what its body holds and in how many bytes.

    names_bytes: of labels and names together.
    """

    model_hash: bytes
    quality: int
    has_names: bool
    image_count: int
    names_bytes: int
    index_bytes: int
    payload_bytes: int
    checksum: bytes = bytes(CHECKSUM_BYTES)
    has_parts: bool = False
    has_labels: bool = False

    @property
    def body_bytes(self) -> int:
        """Bytes of labels, names, index and payload."""
        return self.names_bytes + self.index_bytes + self.payload_bytes

    @property
    def block_bytes(self) -> int:
        """Bytes of the whole block, header included."""
        return BLOCK.size + self.body_bytes

    def pack(self) -> bytes:
        """-> BLOCK.size bytes."""
        flags = BLOCK_FLAG_NAMES * self.has_names | BLOCK_FLAG_PARTS * self.has_parts
        flags |= BLOCK_FLAG_LABELS * self.has_labels
        sizes = self.names_bytes, self.index_bytes, self.payload_bytes
        fields = BLOCK_MAGIC, self.model_hash, self.quality, flags, self.image_count, *sizes
        start = BLOCK.pack(*fields, b"", b"")[:_BLOCK_START]
        return start + checksum(start, size=4) + self.checksum


_BLOCK_START = BLOCK.size - 4 - CHECKSUM_BYTES  # what Header_Check covers


def unpack_block_header(stream: bytes, offset: int = 0) -> BlockHeader:
    """Unpack the header at the start of `stream`.  offset: where it lies in the file, for messages.

    Raises BadMagic, Truncated, ChecksumMismatch, ReservedBitsSet or LimitExceeded.
    """
    if len(stream) < BLOCK.size:
        raise Truncated(
            f"the stream ends inside a block header, which lacks {BLOCK.size - len(stream)} bytes",
            offset,
        )
    magic, model_hash, quality, flags, count, *sizes, header_check, body_checksum = (
        BLOCK.unpack_from(stream)
    )
    names_bytes, index_bytes, payload_bytes = sizes
    if magic != BLOCK_MAGIC:
        found = f"it begins with {magic.hex(' ')}, not {BLOCK_MAGIC.hex(' ')}"
        raise BadMagic(f"there is no block here: {found}", offset)
    if checksum(stream[:_BLOCK_START], size=4) != header_check:
        raise ChecksumMismatch("this block header is damaged", offset)
    check_quality(quality, offset + BLOCK_QUALITY_AT)
    if reserved := flags & ~(BLOCK_FLAG_NAMES | BLOCK_FLAG_PARTS | BLOCK_FLAG_LABELS):
        raise ReservedBitsSet(f"reserved block flags 0x{reserved:02x} are set", offset + 13)
    header = BlockHeader(
        model_hash,
        quality,
        bool(flags & BLOCK_FLAG_NAMES),
        count,
        *(names_bytes, index_bytes, payload_bytes),
        body_checksum,
        bool(flags & BLOCK_FLAG_PARTS),
        bool(flags & BLOCK_FLAG_LABELS),
    )
    if not 1 <= count <= MAX_BLOCK_IMAGES:
        raise LimitExceeded(
            f"a block has {count} images, 1 to {MAX_BLOCK_IMAGES} are allowed", offset + 14
        )
    most = -(-count // GROUP_IMAGES) * GROUP_IMAGES * MAX_IMAGE_STREAM_BYTES
    if names_bytes > MAX_NAMES_BYTES or payload_bytes > most:
        raise LimitExceeded("a block claims more bytes than its images can need", offset + 16)
    return header
