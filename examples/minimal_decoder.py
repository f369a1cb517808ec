"""A whole decoder for aez streams in one short file, written from codec/FORMAT.md alone.

    python examples/minimal_decoder.py IN.aez OUT.npy [WEIGHTS_DIR]

It shares no code with the package and computes in plain int64. Numbers like (5.1) are sections of
FORMAT.md.
"""

import json
import struct
import sys
import zlib
from bisect import bisect_right
from functools import cache
from hashlib import blake2b, sha256
from math import prod
from pathlib import Path

import numpy as np

# The registry of FORMAT.md 7.1: Model_ID -> Model_Hash as 16 hexadecimal digits. To be kept in step
# with it.
MODEL_IDS: dict[int, str] = {
    1: "1940d17a82af6b24",
    2: "2fabebbc125b511c",
    3: "93024f3c3a77c05c",
    4: "1420351967b8bd45",
    5: "763bd9cd2687bda3",
    6: "51410133ba726b32",
}
# Neighbours of a pixel, as (row, column) offsets (8.2).
NEAR = [
    (0, -1),
    (-1, 0),
    (-1, -1),
    (-1, 1),
    (0, -2),
    (-2, 0),
    (-1, 2),
    (-2, 1),
    (-2, -1),
    (-1, -2),
    (0, -3),
    (-3, 0),
]
Tensors = dict[str, np.ndarray]
Part = tuple[bytes, int, list[int]]  # Model_Hash, quality, images


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def varint(data: bytes, at: int, limit: int = 5) -> tuple[int, int]:
    """The varint that starts at `at`, and the offset behind it (1.1)."""
    value = 0
    for i, byte in enumerate(data[at : at + limit]):
        value |= (byte & 0x7F) << (7 * i)  # least significant seven bits first
        if byte < 0x80:
            return value, at + i + 1
    raise ValueError("a varint is cut off or too long")


def crc8(data: bytes) -> int:
    crc = 0  # (1.3)
    for bit in np.unpackbits(np.frombuffer(data, np.uint8)).tolist():  # most significant bit first
        crc = (crc << 1) & 0xFF ^ (0x2F if crc >> 7 != bit else 0)
    return crc


def is_collection(stream: bytes) -> bool:
    """Check what both stream headers begin with (2.1, 3.1)."""
    require(len(stream) >= 4 and stream[:2] == b"\xae\x5a", "not an aez stream")
    require(
        stream[2] >> 4 == 1 and stream[2] & 0x03 == 0, "another format version, or reserved flags"
    )
    return bool(stream[2] & 0x08)  # FLAG_COLLECTION


def extension(stream: bytes, at: int) -> tuple[dict[int, bytes], int]:
    """Fields of the extension area (2.2) at `at` by type, and the offset behind the area."""
    fields: dict[int, bytes] = {}
    if not stream[2] & 0x04:  # FLAG_EXTENDED
        return fields, at
    size, at = varint(stream, at)
    end = at + size
    require(size <= 1 << 24 and end <= len(stream), "the extension area is too long")
    while at < end:
        kind = stream[at]
        size, at = varint(stream, at + 1)
        require(
            at + size <= end and (kind != 0x01 or size == 8),
            "an extension field has a wrong length",
        )
        require(kind == 0x01 or kind >= 0x80, f"critical extension field {kind:#04x} is unknown")
        fields[kind] = stream[at : at + size]  # of several of a type the last one counts
        at += size
    return fields, end


def embedded_models(stream: bytes) -> dict[bytes, bytes]:
    """Model_Hash -> model file, of those that a collection carries with it (2.2)."""
    value, at, models = extension(stream, 4)[0].get(0x80, b""), 0, {}
    while at < len(value):
        size, at = varint(value, at)
        require(size <= 1 << 24 and at + size <= len(value), "an embedded model is too long")
        models.setdefault(sha256(value[at : at + size]).digest()[:8], value[at : at + size])
        at += size
    return models


def rice(block: bytes, at: int, count: int, left: int) -> tuple[list[int], int]:
    """The gaps between `count` positions below `left`, whose Rice code starts at `at`, and the
    offset behind it (3.5).
    """
    require(count <= left, "there are more positions than room for them")
    r = (left // count).bit_length() - 1
    bits = "".join(f"{byte:08b}" for byte in block[at : at + (3 * count + count * r) // 8 + 1])
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
    require(
        sum(gaps) <= left and "1" not in bits[end : -(-end // 8) * 8], "a Rice code is out of range"
    )
    return gaps, at + -(-end // 8)


def lengths_of(block: bytes, at: int, quality: int, groups: int) -> tuple[list[int], int]:
    """The lengths of the messages of a part, from its place in the index at `at`, and the offset
    behind it (3.4).
    """
    lengths = []
    if quality == 100:
        for _ in range(groups):
            length, at = varint(block, at, 3)
            lengths.append(length)
        return lengths, at
    mean, at = varint(block, at, 3)
    limit, at = varint(block, at)
    gaps, at = rice(block, at, groups, limit)
    lengths = [mean + (-(gap // 2) if gap % 2 == 0 else gap // 2) for gap in gaps]
    require(min(lengths) >= 0, "a message has a negative length")
    return lengths, at


def group_images(quality: int) -> int:
    """Images of a full group (3.2)."""
    return 5 if 50 <= quality <= 99 else 16


def parts_of(
    block: bytes, at: int, model_hash: bytes, quality: int, count: int
) -> tuple[list[Part], int]:
    """The parts of a block whose parts area starts at `at`, and the offset behind it (3.5)."""
    start = at
    more, at = varint(block, at, 3)
    require(more <= 255, "a block has too many models")
    hashes = [model_hash, *(block[at + 8 * i : at + 8 * i + 8] for i in range(more))]
    more, at = varint(block, at + 8 * more, 3)
    require(1 <= more <= 1023, "a block has one part, or too many")
    left, parts = list(range(count)), []
    for _ in range(more):
        require(
            at + 2 <= len(block) and block[at] < len(hashes) and block[at + 1] <= 100,
            "a part is out of range",
        )
        model_hash, quality_of_part = hashes[block[at]], block[at + 1]
        images, at = varint(block, at + 2, 3)
        require(1 <= images < len(left), "a part has no images, or all that are left")
        gaps, at = rice(block, at, images, len(left))
        chosen = set(np.cumsum(gaps) - 1)
        parts.append((model_hash, quality_of_part, [left[i] for i in sorted(chosen)]))
        left = [image for i, image in enumerate(left) if i not in chosen]
    require(
        blake2b(block[start:at], digest_size=4).digest() == block[at : at + 4],
        "the check of the parts differs",
    )
    at += 4
    return [(hashes[0], quality, left), *parts], at


def blocks_of(stream: bytes):
    """Images, names area or None, and parts of each block, after all checks of 3 and 4; a part with
    its messages.
    """
    at = extension(stream, 4)[1]  # a Model_Hash means nothing here (2.2)
    require(
        stream[3] == crc8(stream[:3] + stream[4:at]), "the check of the collection header differs"
    )
    require(
        len(stream) >= at + 40 and stream[-4:] == b"aezE", "the end of the collection is missing"
    )
    # little-endian, without padding (1.1)
    checksum, size = struct.unpack_from("<16sI", stream, len(stream) - 24)
    require(40 <= size <= len(stream) - 4, "Footer_Bytes is out of range")
    footer = stream[-size:-24]
    magic, total, block_count = struct.unpack_from("<4sQI", footer)
    require(magic == b"aezF" and size == 16 + 6 * block_count + 24, "the footer is damaged")
    require(
        blake2b(footer, digest_size=16).digest() == checksum, "the checksum of the footer differs"
    )
    entries = list(struct.iter_unpack("<IH", footer[16:]))
    require(
        sum(images for _, images in entries) == total,
        "the images of the blocks are not Total_Images",
    )
    require(
        sum(size for size, _ in entries) == len(stream) - size - at,
        "the blocks do not fill the place before the footer",
    )
    for size, images in entries:
        block, at = stream[at : at + size], at + size
        require(
            len(block) >= 46 and block[:4] == b"aezB",
            "a block does not start where the footer says",
        )
        require(
            blake2b(block[:26], digest_size=4).digest() == block[26:30],
            "the check of a block header differs",
        )
        _, model_hash, quality, flags, count, *areas, _, checksum = struct.unpack_from(
            "<4s8sBBHIHI4s16s", block
        )
        require(flags <= 3 and quality <= 100, "a block uses reserved flags or qualities")
        require(
            1 <= count <= 4096 and areas[0] <= 1 << 24 and areas[2] <= -(-count // 16) << 20,
            "a block is out of range",
        )
        require(
            count == images and 46 + sum(areas) == len(block),
            "block header and footer entry disagree",
        )
        require(
            blake2b(block[:30] + block[46:], digest_size=16).digest() == checksum,
            "the checksum of a block differs",
        )
        index = 46 + areas[0]
        payload = start = index + areas[1]
        names, parts, coded = block[46:index], [(model_hash, quality, list(range(count)))], []
        if flags & 2:  # BLOCK_FLAG_PARTS
            parts, index = parts_of(block[:payload], index, model_hash, quality, count)
        for model_hash, quality, images in parts:
            messages = []
            lengths, index = lengths_of(
                block[:payload], index, quality, -(-len(images) // group_images(quality))
            )
            for length in lengths:
                messages.append(block[start : start + length])
                start += length
            coded.append((model_hash, quality, images, messages))
        require(index == payload and start == len(block), "the index does not fit the block")
        yield count, names if flags & 1 else None, coded


def unzstd(frame: bytes, least: int, most: int, **options: bool) -> bytes:
    """The content of a zstd frame that states a size of least .. most."""
    import zstandard  # only names and stored images need it

    try:
        require(
            least <= zstandard.frame_content_size(frame) <= most,
            "a zstd frame does not state a size within the limits",
        )
        return zstandard.ZstdDecompressor().decompress(frame, **options)
    except zstandard.ZstdError as error:
        raise ValueError(f"a zstd frame does not decompress: {error}") from error


def unstored(data: bytes) -> np.ndarray:
    """Stored bytes -> the image (2.3)."""
    require(len(data) <= 784, "a stored image is too long")
    data = data if len(data) == 784 else unzstd(data, 784, 784, allow_extra_data=False)
    return np.frombuffer(data, np.uint8).reshape(28, 28)


def names(stream: bytes) -> list[str | None]:
    """The name of each image, None for those without (3.3); bytes that are not UTF-8 become
    surrogates, as in os.fsdecode.
    """
    if not is_collection(stream):
        return [None]
    found: list[str | None] = []
    for count, area, _ in blocks_of(stream):
        if area is None:
            found += [None] * count
            continue
        text = unzstd(area, 1, 1 << 24)
        require(
            text.count(b"\0") == count and text[-1:] == b"\0",
            "the number of names is not the number of images",
        )
        found += [name.decode("utf-8", "surrogateescape") for name in text[:-1].split(b"\0")]
    return found


def decode(stream: bytes, weights: Path) -> np.ndarray:
    """uint8, (28, 28) for a single image, (N, 28, 28) for a collection; `weights` is a directory of
    model files.
    """
    if not is_collection(stream):
        require(
            6 <= len(stream) <= 65536 and stream[4] <= 101,
            "length or quality of the stream is out of range",
        )
        fields, at = extension(stream, 6)
        model_hash = fields.get(0x01)
        if stream[4] == 101:  # no model (2.3)
            require(stream[3] == 0 and model_hash is None, "a stored image names a model")
            require(stream[5] == crc8(stream[:5] + stream[6:]), "the check of the image differs")
            return unstored(stream[at:])
        require(
            (stream[3] == 0) == (model_hash is not None),
            "either a Model_ID or a Model_Hash must name the model",
        )
        require(stream[3] in {0, *MODEL_IDS}, f"the model with Model_ID {stream[3]} is unknown")
        # its check covers the model (2.1)
        digest, model = find_model(model_hash or bytes.fromhex(MODEL_IDS[stream[3]]), weights)
        require(
            stream[5] == crc8(digest + stream[:5] + stream[6:]), "the check of the image differs"
        )
        return Group(model, stream[4], 1, stream[at:]).decode()[0]
    pixels, embedded = [np.zeros((0, 28, 28), np.uint8)], embedded_models(stream)
    for count, _, parts in blocks_of(stream):
        block = np.zeros((count, 28, 28), np.uint8)
        for model_hash, quality, images, messages in parts:
            model = find_model(model_hash, weights, embedded.get(model_hash, b""))[1]
            size = group_images(quality)
            for g, message in enumerate(messages):  # `size` images each, what is left in the last
                mine = images[size * g : size * g + size]
                block[mine] = Group(model, quality, len(mine), message).decode()
        pixels.append(block)
    return np.concatenate(pixels)


def scale(s: np.ndarray, m: np.ndarray, bits: int) -> np.ndarray:
    """s * m / 2**bits, rounded to float32, then to a whole number (6.1); both factors are exact in
    float32.
    """
    return np.rint(np.float32(s) * np.float32(m * 2.0**-bits)).astype(np.int64)


class Group:
    """`count` images that share a message (5) and go through a network (6, 8), as int64 (images,
    channels, positions).
    """

    def __init__(self, model: Tensors, quality: int, count: int, message: bytes):
        self.model, self.quality, self.count, self.message = model, quality, count, message
        self.at = self.state = 0  # of the coder

    def refill(self) -> None:
        """Take bytes into the state, also the first ones; a message that has run out still decodes
        to something (5.1).
        """
        while self.state < 1 << 23 and self.at < len(self.message):
            self.state = self.state << 8 | self.message[self.at]
            self.at += 1

    def choose(self, table: list[int]) -> int:
        """decode(t) of 5.1."""
        self.refill()
        slot = self.state & 0xFFFF
        c = bisect_right(table, slot) - 1  # table[c] <= slot < table[c + 1]
        self.state = (table[c + 1] - table[c]) * (self.state >> 16) + slot - table[c]
        return c

    def decode(self) -> np.ndarray:
        """The images, uint8 (count, 28, 28), once the final state has shown that they are right
        (5.2).
        """
        lossless = "head.weight" in self.model
        require(lossless == (self.quality == 100), "the quality is none of the model's")
        pixels = self.lossless() if lossless else self.lossy()
        self.refill()
        check = zlib.crc32(pixels.tobytes()) & 0xFF
        require(
            self.at == len(self.message) and self.state == check,
            "the final state of a message differs",
        )
        return pixels

    def symbols(self, level: int, rows: np.ndarray) -> np.ndarray:
        tables, by_image = self.model["cdf"][level].tolist(), rows.reshape(self.count, -1)
        codes = np.zeros_like(by_image)
        # The images alternate: symbol 0 of all images, then symbol 1 ... (5.3). Row 0 takes no
        # step, its code is 0.
        for s, i in np.argwhere(by_image.T).tolist():
            codes[i, s] = self.choose(tables[by_image[i, s]])
        # 0, -1, 1, -2, 2, ...
        return np.where(codes % 2, -(codes + 1) // 2, codes // 2).reshape(rows.shape)

    def table(self, name: str) -> np.ndarray:
        """The row of a table for this quality, on the line between its neighbours (6.2), as
        (channels, 1).
        """
        table, (r, rest) = self.model[name], divmod(self.quality, 3)
        if len(table) > 1:
            table = (2 * (table[r] * (3 - rest) + table[min(r + 1, 33)] * rest) + 3) // 6
        return table.reshape(-1, 1)

    def layer(self, name: str, x: np.ndarray, low: int = -1023, high: int = 1023) -> np.ndarray:
        """Any layer of 6.3; the weight's shape tells its kind.

        A dense layer is a point layer with a single position.
        """
        weight, bias = self.model[name + ".weight"], self.model[name + ".bias"]
        if weight.ndim == 2:
            total = weight @ x
        else:  # conv: nine point layers, each on the grid moved by a step, with zeros around it
            grid = np.pad(x.reshape(*x.shape[:2], 7, 7), ((0, 0), (0, 0), (1, 1), (1, 1)))
            moved = {
                (v, u): grid[:, :, v : v + 7, u : u + 7].reshape(x.shape)
                for v in range(3)
                for u in range(3)
            }
            total = sum(weight[:, :, v, u] @ moved[v, u] for v, u in moved)
        total = total + bias.reshape(len(bias), -1) + self.table(name + ".shift")
        return np.clip(scale(total, self.table(name + ".multiplier"), 24), low, high)

    def latents(self, level: int, name: str, rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
        y = 256 * self.symbols(level, rows) + mean  # in 256ths of a step
        return np.clip(scale(y, self.table(name + "dequantizer"), 18), -4095, 4095)

    def lossy(self) -> np.ndarray:
        """The synthesis of 6.4: message and network take turns, level by level."""
        # the same for all images
        rows = np.repeat(self.table("prior_sigma")[None], self.count, axis=0)
        x = self.latents(0, "", rows, self.table("prior_mean"))
        h = self.layer("start1", self.layer("start0", x, low=0), low=0)
        t = self.layer("widen", h.reshape(self.count, -1, 49))
        for i in range(len(self.model["cdf"])):
            # 3 layers of 4 tensors
            for j in range(sum(name.startswith(f"synthesis.{i}.") for name in self.model) // 12):
                h = self.layer(
                    f"synthesis.{i}.{j}.spatial",
                    self.layer(f"synthesis.{i}.{j}.reduce", t, low=0),
                    low=0,
                )
                t = np.clip(t + self.layer(f"synthesis.{i}.{j}.restore", h), -1023, 1023)
            if f"levels.{i}.dequantizer" in self.model:  # not behind the last part
                h = self.layer(f"levels.{i}.prior0", t, low=0)
                mean = self.layer(f"levels.{i}.prior_mean", h, -131072, 131072)
                rows = self.layer(f"levels.{i}.prior_sigma", h, 0, 63)
                x = self.latents(i + 1, f"levels.{i}.", rows, mean)
                t = np.clip(t + self.layer(f"levels.{i}.merge", x), -1023, 1023)
        # image, v, u, Y, X
        z = self.layer("output", t, 0, 255).astype(np.uint8).reshape(self.count, 4, 4, 7, 7)
        return z.transpose(0, 3, 1, 4, 2).reshape(self.count, 28, 28)  # row 4 Y + v, column 4 X + u

    def lossless(self) -> np.ndarray:
        """Stored images, palettes, then pixel by pixel the flags of all images and their values
        (8.1).
        """
        n, model = self.count, self.model
        stored = np.array([self.choose([0, 65520, 65536]) for _ in range(n)], bool)
        pixels = np.zeros((n, 28, 28), np.uint8)
        for i in np.flatnonzero(stored):
            length = 256 * self.byte() + self.byte()
            require(length <= 784, "a stored image is too long")
            pixels[i] = unstored(bytes(self.byte() for _ in range(length)))
        self.palette = np.zeros(n, np.int64)
        for i in np.flatnonzero(~stored):
            self.palette[i] = self.choose([0, *np.cumsum(model["palette.freq"]).tolist()])
        # The state of all images (8.2); `seen` are their pixels so far, with 6 rows of 0 above and
        # 6 columns to either side.
        self.seen = np.zeros((n, 34, 40), np.int64)
        self.sums = {
            name: np.zeros((n, model[f"{name}.sums.ink.table"].shape[1]), np.int64)
            for name in ("flag", "value")
        }
        depth = sum(name.startswith("links.") for name in model) // 4
        # padded, too
        self.links = [
            np.zeros((n, 29, 30, len(model[f"links.{j}.bias"])), np.int64) for j in range(depth)
        ]
        for p in range(784):
            y, x = divmod(p, 28)
            live = self.near(p)[:, :4].any(axis=1)
            asked = np.flatnonzero(~stored & ~live)
            zero = model["flag.zero_freq"][self.flag_logits(p, asked) + 511]  # (8.4)
            flagged = [
                i
                for i, z in zip(asked, zero.ravel().tolist(), strict=True)
                if self.choose([0, z, 65536])
            ]
            coded = np.array(sorted([*flagged, *np.flatnonzero(~stored & live)]), int)
            freq = (
                self.frequencies(p, coded, live[coded])
                if len(coded)
                else np.empty((0, 256), np.int64)
            )
            for i, table in zip(coded, np.cumsum(freq, axis=1).tolist(), strict=True):
                if v := self.choose([0, *table]):
                    pixels[i, y, x] = self.seen[i, y + 6, x + 6] = v
                    for name, s in self.sums.items():
                        shade, ink, count = (
                            model[f"{name}.sums.{part}.table"] for part in ("shade", "ink", "count")
                        )
                        s[i] += ((v * shade[p] + 64) >> 7) + ink[p] + count[v]
        return pixels

    def near(self, p: int) -> np.ndarray:
        """The twelve neighbours of pixel p (8.2), (count, 12)."""
        rows, columns = np.array(NEAR).T
        return self.seen[:, p // 28 + 6 + rows, p % 28 + 6 + columns]

    def window(self, p: int, images: np.ndarray) -> np.ndarray:
        y, x = divmod(p, 28)
        return self.seen[images, y : y + 7, x : x + 13].reshape(-1, 91)[:, :84]

    def first(self, name: str, x: np.ndarray, added: np.ndarray, low: int = 0) -> np.ndarray:
        """(8.3), (images, Z, 1)."""
        a = self.layer(name, x[..., None], -(1 << 22), 1 << 22)[..., 0] + added
        # exact: a is below 2**24
        return np.clip(np.rint(a / 8).astype(np.int64), low, 1023)[..., None]

    def flag_logits(self, p: int, images: np.ndarray) -> np.ndarray:
        (y, x), window, inked = (
            divmod(p, 28),
            self.window(p, images),
            self.seen[images, 6:, 6:-6] > 0,
        )
        some = inked.any(axis=(1, 2))
        # argmax: the first that is True
        top = np.where(some, y - inked.any(axis=2).argmax(axis=1), 28)
        left = np.where(some, x - inked.any(axis=1).argmax(axis=1) + 27, 55)
        position, tops, lefts = (
            self.model[f"flag.{part}.table"] for part in ("position", "top", "left")
        )
        added = (
            np.clip(self.sums["flag"][images], -(1 << 22), 1 << 22)
            + position[p]
            + tops[top]
            + lefts[left]
        )
        h = self.first("flag.window", np.concatenate([window, 128 * (window > 0)], axis=1), added)
        return self.layer("flag.logit", h, -511, 511)

    def byte(self) -> int:
        return self.choose(list(range(0, 65537, 256)))

    def frequencies(self, p: int, images: np.ndarray, live: np.ndarray) -> np.ndarray:
        """Frequencies of the values (images, 256), as in 8.5."""
        model, palette, (y, x) = self.model, self.palette[images], divmod(p, 28)
        sums = np.clip((self.sums["value"][images] + 16) >> 5, -1023, 1023)
        embedded = model["value.near.table"][np.arange(12), self.near(p)[images]].reshape(
            len(images), -1
        )
        added = model["value.position.table"][p] + model["value.palette.table"][palette]
        added += ~live[:, None] * model["value.flagged.table"]
        h = self.first(
            "value.input",
            np.concatenate([self.window(p, images), sums, embedded], axis=1),
            added,
            -1023,
        )
        for j, links in enumerate(self.links):
            r = np.maximum(h, 0)
            links[images, y + 1, x + 1] = self.layer(f"links.{j}", r)[..., 0]
            passed = [links[images, y + 1 + v, x + 1 + u, :, None] for v, u in NEAR[:4]]
            h = np.clip(
                h + self.layer(f"hidden.{j}", np.concatenate([r, *passed], axis=1), -2046, 2046),
                -1023,
                1023,
            )
        logits = (
            self.layer("head", np.maximum(h, 0), -32768, 32768)[..., 0]
            + model["palette.logits.table"][palette]
        )
        best, every = logits.argmax(axis=1), np.arange(len(logits))  # the first of the largest
        weights = model["exp"][np.minimum(logits[every, best][:, None] - logits, 511)]
        freq = 1 + (weights * (65280 * 65536 // weights.sum(axis=1, keepdims=True)) >> 16)
        freq[every, best] += 65536 - freq.sum(axis=1)
        return freq


@cache
def find_model(model_hash: bytes, weights: Path, embedded: bytes = b"") -> tuple[bytes, Tensors]:
    """SHA-256 and tensors of a model (7), from `weights` or from the stream itself.

    Of the many checks there this has those on which the arithmetic rests.
    """
    paths = sorted(
        path
        for path in Path(weights).iterdir()
        if path.is_file() and path.stat().st_size <= 1 << 24
    )
    file = next(
        (
            file
            for file in (*map(Path.read_bytes, paths), embedded)
            if sha256(file).digest()[:8] == model_hash
        ),
        None,
    )
    require(file is not None, f"no file in {weights} has the Model_Hash {model_hash.hex()}")
    data = 8 + int.from_bytes(file[:8], "little")
    header, model = json.loads(file[8:data]), {}
    architecture = header.pop("__metadata__")["architecture"]
    require(architecture in ("ladder-1", "pixels-3"), "the model's architecture is unknown")
    require(
        (architecture == "pixels-3") == ("head.weight" in header),
        "the model has tensors of another architecture",
    )
    for name, entry in header.items():
        kinds = {"weight": ("I8", "I16"), "table": ("I16",)}.get(name.split(".")[-1], ("I32",))
        size = int(entry["dtype"][1:]) // 8 if entry["dtype"] in kinds else 0
        begin, end = (data + offset for offset in entry["data_offsets"])
        fits = data <= begin <= end <= len(file) and end - begin == size * prod(entry["shape"])
        require(size and fits, f"{name} has another type or size")
        model[name] = (
            np.frombuffer(file[begin:end], f"<i{size}").reshape(entry["shape"]).astype(np.int64)
        )
    for name in (name.removesuffix(".weight") for name in model if name.endswith(".weight")):
        weight, bias, shift, multiplier = (
            model[f"{name}.{part}"] for part in ("weight", "bias", "shift", "multiplier")
        )
        # The bound of 6.3: with it every sum is exact in float32, too.
        input_max = (
            4095
            if name == "start0" or name.endswith(".merge")
            else 255
            if name.endswith(".window")
            else 1023
        )
        largest = input_max * abs(weight).reshape(len(weight), -1).sum(1) + abs(bias).reshape(
            len(bias), -1
        ).max(1)
        bounded = (largest + abs(shift).max(0)).max() < 1 << 24
        require(
            bounded and 1 <= multiplier.min() and multiplier.max() <= 1 << 24,
            f"{name} is out of bounds",
        )
    if architecture == "ladder-1":
        cdf = model["cdf"]  # from 0 to 65536, rising until it gets there (7.3)
        rises = (np.diff(cdf) >= (cdf[..., :-1] < 65536)).all()
        require(
            rises and (cdf[..., 0] == 0).all() and (cdf[..., -1] == 65536).all(),
            "the cdf is not sound",
        )
    else:  # (8.6)
        zero, exp, freq, near = (
            model[name] for name in ("flag.zero_freq", "exp", "palette.freq", "value.near.table")
        )
        require(
            len(zero) == 1023 and 1 <= zero.min() and zero.max() < 65536,
            "flag.zero_freq is out of range",
        )
        require(
            len(exp) == 512 and exp[0] == 65536 == exp.max() and exp.min() >= 0,
            "exp is out of range",
        )
        require(
            len(freq) <= 256 and freq.min() >= 1 and freq.sum() == 65536,
            "palette.freq is out of range",
        )
        require(abs(near).max() <= 1023, "value.near.table is out of range")
    return sha256(file).digest(), model


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    directory = (
        Path(sys.argv[3]) if len(sys.argv) == 4 else Path(__file__).resolve().parents[1] / "weights"
    )
    np.save(sys.argv[2], decode(Path(sys.argv[1]).read_bytes(), directory))
