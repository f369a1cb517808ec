"""The numbers of the format: versions, qualities, groups, limits.  FORMAT.md's constants."""

from __future__ import annotations

VERSION = 1
# the first byte is neither ASCII nor a start byte of UTF-8: text is never mistaken for a stream
MAGIC = b"\xae\x5a"
BLOCK_MAGIC, FOOTER_MAGIC, END_MAGIC = b"aezB", b"aezF", b"aezE"

FLAG_COLLECTION, FLAG_EXTENDED = 0x08, 0x04
RESERVED_FLAGS = 0x03
BLOCK_FLAG_NAMES, BLOCK_FLAG_PARTS, BLOCK_FLAG_LABELS = 0x01, 0x02, 0x04

MAX_QUALITY = 99  # of a lossy model
LOSSLESS_QUALITY = 100
STORED_QUALITY = 101  # a single image as it is, without a model
BLOCK_QUALITY_AT = 12  # of Quality in a block header
GROUP_IMAGES = 16  # neighbouring images that share one coder state, which costs 2 bytes
# From this quality on, groups are smaller: for about 1 % more bytes one image is read in a third of
# the time.
SMALL_GROUP_QUALITY, SMALL_GROUP_IMAGES = 50, 5
MAX_BLOCK_IMAGES = 4096
MAX_PART_MODELS, MAX_PARTS = 256, 1024  # of a block: room for ten models at each quality
MAX_IMAGE_STREAM_BYTES = 1 << 16
MAX_NAMES_BYTES = 1 << 24
MAX_LABELS_BYTES = 1 << 21  # 4096 texts of 255 bytes take half of it
MAX_EXTENSION_BYTES = 1 << 24
MAX_MODEL_BYTES = 1 << 24
MODEL_HASH_BYTES = 8  # the first 8 bytes of the SHA-256 of the model file
CHECKSUM_BYTES = 16
# the checks of groups do not cover which image is which: a damaged list would go unnoticed
PARTS_CHECK_BYTES = 4

# of the first byte of labels: whether they are texts, and the bytes of a number
LABELS_TEXTS, LABELS_WIDTH = 0x80, 0x07

EXTENSION_MODEL_HASH = 0x01  # critical: types below 0x80 are
EXTENSION_MODELS = 0x80  # ignorable: copies of models that the blocks name anyway


def group_images(quality: int) -> int:
    """Images in a full group of a quality."""
    return SMALL_GROUP_IMAGES if SMALL_GROUP_QUALITY <= quality <= MAX_QUALITY else GROUP_IMAGES
