"""A whole decoder for aez streams in two short files, written from codec/FORMAT.md alone.

    python examples/minimal_decoder.py IN.aez OUT.npy [WEIGHTS_DIR]

This file has the streams (FORMAT.md 1 to 4), minimal_models.py what is in their messages (5 to 8).
They share no code with the package and compute in plain int64. Numbers such as (3.5) are sections
of FORMAT.md.
"""

import struct
import sys
from collections.abc import Iterator
from hashlib import blake2b, sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from minimal_models import Group, find_model, require, unstored, unzstd

# FORMAT.md 7.1: Model_ID -> Model_Hash as 16 hexadecimal digits.
MODEL_IDS: dict[int, str] = {
    1: "1940d17a82af6b24",
    2: "2fabebbc125b511c",
    3: "15d5d40193bf7674",
    4: "e4cffbb1f98c6038",
    5: "75a966aef2d7a19a",
    6: "564723ba0a3b9eaf",
}
Part = tuple[bytes, int, list[int]]  # Model_Hash, quality, images


# Bytes


class Cursor:
    """Bytes that are read from `at` on."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def take(self, size: int) -> bytes:
        require(self.at + size <= len(self.data), "the stream is cut off")
        self.at += size
        return self.data[self.at - size : self.at]

    def varint(self, limit: int = 5) -> int:
        """(1.1): seven bits a byte, the least significant ones first."""
        value = 0
        for i in range(limit):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << (7 * i)
            if byte < 0x80:
                return value
        raise ValueError("a varint is too long")

    def rice(self, count: int, left: int) -> list[int]:
        """(3.6): the gaps between `count` positions below `left`."""
        require(count <= left, "there are more positions than room for them")
        r = (left // count).bit_length() - 1
        size = (3 * count + count * r) // 8 + 1
        bits = "".join(f"{byte:08b}" for byte in self.data[self.at : self.at + size])
        end, quotients, gaps = 0, [], []
        for _ in range(count):  # zeros, then a one
            one = bits.find("1", end)
            require(one >= 0, "a Rice code is cut off")
            quotients.append(one - end)
            end = one + 1
        for quotient in quotients:
            require(end + r <= len(bits), "a Rice code is cut off")
            gaps.append((quotient << r) + int("0" + bits[end : end + r], 2) + 1)
            end += r
        padding = bits[end : -(-end // 8) * 8]
        require(sum(gaps) <= left and "1" not in padding, "a Rice code is out of range")
        self.at += -(-end // 8)
        return gaps


def crc8(data: bytes) -> int:
    """(1.3)"""
    crc = 0
    for bit in np.unpackbits(np.frombuffer(data, np.uint8)).tolist():  # most significant bit first
        crc = (crc << 1) & 0xFF ^ (0x2F if crc >> 7 != bit else 0)
    return crc


def checked(data: bytes, check: bytes, what: str) -> None:
    found = blake2b(data, digest_size=len(check)).digest()  # (1.3)
    require(found == check, f"the check of {what} differs")


# Headers, blocks, parts


def is_collection(stream: bytes) -> bool:
    """Check the first bytes of both kinds of stream (2.1, 3.1)."""
    require(len(stream) >= 4 and stream[:2] == b"\xae\x5a", "not an aez stream")
    require(stream[2] >> 4 == 1, "another version of the format")
    require(stream[2] & 0x03 == 0, "a header uses reserved flags")
    return bool(stream[2] & 0x08)  # FLAG_COLLECTION


def extension(stream: bytes, at: int) -> tuple[dict[int, bytes], int]:
    """Fields of the extension area (2.2) at `at` by type, and the offset behind the area."""
    fields: dict[int, bytes] = {}
    if not stream[2] & 0x04:  # FLAG_EXTENDED
        return fields, at
    area = Cursor(stream, at)
    size = area.varint()
    end = area.at + size
    require(size <= 1 << 24 and end <= len(stream), "the extension area is too long")
    area.data = stream[:end]
    while area.at < end:
        kind = area.take(1)[0]
        value = area.take(area.varint())
        require(kind != 0x01 or len(value) == 8, "a Model_Hash has a wrong length")
        require(kind == 0x01 or kind >= 0x80, f"critical extension field {kind:#04x} is unknown")
        fields[kind] = value  # of several of a type the last one counts
    return fields, end


def embedded_models(stream: bytes) -> dict[bytes, bytes]:
    """Model_Hash -> model file, for the models that a collection carries with it (2.2)."""
    area, models = Cursor(extension(stream, 4)[0].get(0x80, b"")), {}
    while area.at < len(area.data):
        size = area.varint()
        require(size <= 1 << 24, "an embedded model is too long")
        file = area.take(size)
        models.setdefault(sha256(file).digest()[:8], file)
    return models


def entries_of(stream: bytes, at: int) -> list[tuple[int, int]]:
    """Bytes and images of each block, from the footer (4); the first block is at `at`."""
    enough = len(stream) >= at + 40 and stream[-4:] == b"aezE"
    require(enough, "the end of the collection is missing")
    # little-endian, without padding (1.1)
    checksum, size = struct.unpack_from("<16sI", stream, len(stream) - 24)
    require(40 <= size <= len(stream) - 4, "Footer_Bytes is out of range")
    footer = stream[-size:-24]
    magic, total, count = struct.unpack_from("<4sQI", footer)
    require(magic == b"aezF" and size == 16 + 6 * count + 24, "the footer is damaged")
    checked(footer, checksum, "the footer")
    entries = list(struct.iter_unpack("<IH", footer[16:]))
    require(sum(images for _, images in entries) == total, "Total_Images is wrong")
    num_bytes = sum(num_bytes for num_bytes, _ in entries)
    require(num_bytes == len(stream) - size - at, "the blocks do not reach the footer")
    return entries


def group_images(quality: int) -> int:
    """Images of a full group (3.2)."""
    return 5 if 50 <= quality <= 99 else 16


def lengths_of(index: Cursor, quality: int, groups: int) -> list[int]:
    """The lengths of the messages of a part (3.4)."""
    if quality >= 100:
        return [index.varint(3) for _ in range(groups)]
    mean, limit = index.varint(3), index.varint()
    gaps = index.rice(groups, limit)
    lengths = [mean + (-(gap // 2) if gap % 2 == 0 else gap // 2) for gap in gaps]
    require(min(lengths) >= 0, "a message has a negative length")
    return lengths


def parts_of(index: Cursor, model_hash: bytes, quality: int, count: int) -> list[Part]:
    """The parts of a block, from its parts area (3.5)."""
    start = index.at
    more = index.varint(3)
    require(more <= 255, "a block has too many models")
    hashes = [model_hash, *(index.take(8) for _ in range(more))]
    more = index.varint(3)
    require(1 <= more <= 1023, "a block has one part, or too many")
    left, parts = list(range(count)), []
    for _ in range(more):
        model, quality_of_part = index.take(2)
        known = quality_of_part <= 100 or 129 <= quality_of_part <= 192
        require(model < len(hashes) and known, "a part is out of range")
        num_images = index.varint(3)
        require(1 <= num_images < len(left), "a part has no images, or all that are left")
        chosen = set(np.cumsum(index.rice(num_images, len(left))) - 1)
        parts.append((hashes[model], quality_of_part, [left[i] for i in sorted(chosen)]))
        left = [image for i, image in enumerate(left) if i not in chosen]
    checked(index.data[start : index.at], index.take(4), "the parts")
    return [(hashes[0], quality, left), *parts]


class Block(NamedTuple):
    """Number of images, the frames of labels and names or None, and parts with their messages."""

    count: int
    labels: bytes | None
    names: bytes | None
    parts: list[tuple[Part, list[bytes]]]


def blocks_of(stream: bytes) -> Iterator[Block]:
    """The blocks of a collection (3)."""
    at = extension(stream, 4)[1]  # a Model_Hash means nothing here (2.2)
    header = stream[:3] + stream[4:at]
    require(stream[3] == crc8(header), "the check of the collection header differs")
    for size, images in entries_of(stream, at):
        block, at = stream[at : at + size], at + size
        require(len(block) >= 46 and block[:4] == b"aezB", "a block has no header")
        checked(block[:26], block[26:30], "a block header")
        _, model_hash, quality, flags, count, *areas, _, checksum = struct.unpack_from(
            "<4s8sBBHIHI4s16s", block
        )
        known = flags <= 7 and (quality <= 100 or 129 <= quality <= 192)
        require(known, "a block uses reserved flags or qualities")
        require(1 <= count <= 4096 and count == images, "a block has a wrong number of images")
        limited = areas[0] <= 1 << 24 and areas[2] <= -(-count // 16) << 20
        require(limited and 46 + sum(areas) == len(block), "a block has a wrong length")
        checked(block[:30] + block[46:], checksum, "a block")
        index_at = 46 + areas[0]
        payload_at = index_at + areas[1]
        index, payload = Cursor(block[:payload_at], index_at), Cursor(block, payload_at)
        parts: list[Part] = [(model_hash, quality, list(range(count)))]
        if flags & 2:  # BLOCK_FLAG_PARTS
            parts = parts_of(index, model_hash, quality, count)
        coded = []
        for part in parts:
            groups = -(-len(part[2]) // group_images(part[1]))
            coded.append((part, list(map(payload.take, lengths_of(index, part[1], groups)))))
        ends = index.at == payload_at and payload.at == len(block)
        require(ends, "the index does not fit the block")
        labels, area = None, Cursor(block[:index_at], 46)
        if flags & 4:  # BLOCK_FLAG_LABELS
            labels = area.take(area.varint())
            require(flags & 1 or area.at == index_at, "bytes follow the labels")
        names = block[area.at : index_at] if flags & 1 else None  # BLOCK_FLAG_NAMES
        yield Block(count, labels, names, coded)


def names(stream: bytes) -> list[str | None]:
    """The name of each image, None for those without (3.3); bytes that are not UTF-8 become
    surrogates, as in os.fsdecode.
    """
    if not is_collection(stream):
        return [None]
    found: list[str | None] = []
    for count, _, frame, _ in blocks_of(stream):
        if frame is None:
            found += [None] * count
            continue
        text = unzstd(frame, 1, 1 << 24, alone=False)
        fits = text.count(b"\0") == count and text[-1:] == b"\0"
        require(fits, "the number of names is not the number of images")
        found += [name.decode("utf-8", "surrogateescape") for name in text[:-1].split(b"\0")]
    return found


def labels(stream: bytes) -> list[int | str | None]:
    """The label of each image, None for those without (3.7)."""
    if not is_collection(stream):
        return [None]
    found: list[int | str | None] = []
    for count, frame, _, _ in blocks_of(stream):
        found += [None] * count if frame is None else labels_of(frame, count)
    return found


def labels_of(frame: bytes, count: int) -> list[int] | list[str]:
    """The labels of a block."""
    content = Cursor(unzstd(frame, 1, 1 << 21))
    require(len(frame) <= 1 << 21 and bool(frame[4] & 4), "labels are too long or have no checksum")
    kind = content.take(1)[0]
    width, texts = kind & 0x07, []
    require(kind & 0x78 == 0 and width in (1, 2, 4), "labels are of an unknown kind")
    if kind & 0x80:
        number = content.varint(3)
        require(1 <= number <= count, "labels have no texts, or too many")
        for _ in range(number):
            size = content.data.find(b"\0", content.at) - content.at
            require(1 <= size <= 255, "the text of a label is empty, too long or cut off")
            texts.append(content.take(size).decode())
            content.take(1)
    planes = np.frombuffer(content.take(count * width), np.uint8).reshape(width, count)
    require(content.at == len(content.data), "bytes follow the labels")
    numbers = [int.from_bytes(bytes(column), "little") for column in planes.T]
    if not kind & 0x80:
        return numbers
    require(max(numbers) < len(texts), "a label has no text")
    return [texts[number] for number in numbers]


def decode(stream: bytes, weights: Path) -> np.ndarray:
    """uint8, (28, 28) for a single image, (N, 28, 28) for a collection; `weights` is a directory of
    model files.
    """
    if not is_collection(stream):
        return decode_image(stream, weights)
    pixels, embedded = [np.zeros((0, 28, 28), np.uint8)], embedded_models(stream)
    for count, _, _, parts in blocks_of(stream):
        block = np.zeros((count, 28, 28), np.uint8)
        for (model_hash, quality, images), messages in parts:
            model = find_model(model_hash, weights, embedded.get(model_hash, b""))[1]
            size = group_images(quality)
            for g, message in enumerate(messages):  # `size` images each, the rest in the last one
                mine = images[size * g : size * g + size]
                block[mine] = Group(model, quality, len(mine), message).decode()
        pixels.append(block)
    return np.concatenate(pixels)


def decode_image(stream: bytes, weights: Path) -> np.ndarray:
    """A single image (2)."""
    require(6 <= len(stream) <= 65536, "the length of the stream is out of range")
    require(stream[4] <= 101 or 129 <= stream[4] <= 192, "the quality is out of range")
    fields, at = extension(stream, 6)
    model_hash = fields.get(0x01)
    if stream[4] == 101:  # no model (2.3)
        require(stream[3] == 0 and model_hash is None, "a stored image names a model")
        require(stream[5] == crc8(stream[:5] + stream[6:]), "the check of the image differs")
        return unstored(stream[at:])
    one = (stream[3] == 0) == (model_hash is not None)
    require(one, "either a Model_ID or a Model_Hash must name the model")
    require(stream[3] in {0, *MODEL_IDS}, f"the model with Model_ID {stream[3]} is unknown")
    digest, model = find_model(model_hash or bytes.fromhex(MODEL_IDS[stream[3]]), weights)
    covered = digest + stream[:5] + stream[6:]  # the check covers the model, too (2.1)
    require(stream[5] == crc8(covered), "the check of the image differs")
    return Group(model, stream[4], 1, stream[at:]).decode()[0]


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    shipped = Path(__file__).resolve().parents[1] / "weights"
    directory = Path(sys.argv[3]) if len(sys.argv) == 4 else shipped
    np.save(sys.argv[2], decode(Path(sys.argv[1]).read_bytes(), directory))
