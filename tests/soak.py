"""Long runs against chance: hostile streams, kills, and a collection of millions of images.

    python tests/soak.py hostile [--seed 0] [--count 10000000] [--minutes M]
    python tests/soak.py kills   [--seed 0] [--count 1000] [--minutes M]
    python tests/soak.py large   [--seed 0] [--count 5000000]

Each prints one line of JSON with its figures, and ends with exit code 1 if anything failed. Every
stream follows from the seed and a number, so a failure can be repeated with `--number N`; so does
every kill but for its moment, a share of the time that the command takes. What was done is kept in
--out, by default `aez-soak` among the temporary files: the same command goes on after it, up to
--count in all; `large` begins anew. Several seeds can run side by side, each on one core.

How long they take, measured at `nice -n 12` on two cores that had three times as much to do:

- hostile: 45 to 140 streams a second, so 10 million take 20 to 60 hours divided by the seeds that
  run side by side; up to 600 MB of memory each.
- kills: 3.5 seconds a kill, so 1,000 take an hour.
- large: 500,000 images take 18 minutes (9 to write, 3.5 for each of two salvages), so 5 million
  take 3 hours; 0.8 KB of disk for each image while it is written.

READ ME FIRST
- hostile: a stream is decoded in a process of its own, so that a crash costs one stream. Times are
  of the processor, as the machine may be busy; only a stream that hangs is told by the clock.
- numpy takes seconds for what is lossless: it decodes one in NUMPY_SLOW of those streams, unless
  the native engine refused them at once, and all others. The minimal decoder decodes one in
  MINIMAL of all.
- kills: blocks are of KILL_BLOCK images, so that there is something to resume.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gzip
import hashlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]  # for processes that are spawned

import helpers  # noqa: E402

from codec import api, kernels, zstd  # noqa: E402
from codec.arrays import U8  # noqa: E402
from codec.collection.block import Block, Decoded  # noqa: E402
from codec.collection.open import open_stream  # noqa: E402
from codec.collection.reader import Collection  # noqa: E402
from codec.errors import AezError, BitstreamError  # noqa: E402
from codec.files import images  # noqa: E402
from codec.format.constants import (  # noqa: E402
    BLOCK_FLAG_LABELS,
    BLOCK_FLAG_NAMES,
    BLOCK_FLAG_PARTS,
    CHECKSUM_BYTES,
    FLAG_COLLECTION,
    FLAG_EXTENDED,
    LOSSLESS_QUALITY,
    PARTS_CHECK_BYTES,
    STORED_QUALITY,
)
from codec.format.footer import FOOTER, FOOTER_END, FOOTER_ENTRY  # noqa: E402
from codec.format.headers import (  # noqa: E402
    BLOCK,
    COLLECTION,
    ImageHeader,
    image_check,
    is_collection,
    pack_extension,
    pack_image,
    unpack_block_header,
    unpack_extension,
    unpack_image_header,
)
from codec.format.index import Part, pack_index, pack_parts, unpack_index  # noqa: E402
from codec.format.labels import labels_span  # noqa: E402
from codec.format.primitives import checksum, crc8, pack_varint  # noqa: E402
from codec.model import registry  # noqa: E402
from codec.model.ladder import Ladder  # noqa: E402
from codec.model.pixels import Pixels  # noqa: E402

GOLDEN = HERE / "golden"
WEIGHTS = ROOT / "weights"
DATA = Path(os.environ.get("AEZ_DATA", ROOT.parent / "shared" / "data")) / "mnist"

# Of the processor, for one stream, which can hold some collections of 40 lossless images: each
# takes numpy more than a second.
LIMITS_S = {"native": 5, "numpy": 20}
HANG_S = 300  # of the clock, for one stream with all engines, on a busy machine
MEMORY_BYTES = 2 << 30  # that decoding may add
NUMPY_SLOW, MINIMAL, ALL_READERS = 32, 100, 8
SAVED = 500  # streams after which the figures are saved
EARLY_S = 0.002  # what is refused sooner was never decoded

# ---- hostile: the streams


class Maker:
    """Hostile streams from the goldens: number -> stream, always the same one for a seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        paths = [*sorted(GOLDEN.glob("*.aez")), *sorted((GOLDEN / "errors").glob("*.aez"))]
        self.sources = [path.read_bytes() for path in paths]
        self.names = [path.name for path in paths]
        self.sources += [_with_models(lossless) for lossless in (False, True)]
        self.names += ["embedded", "embedded-lossless"]
        self.is_slow = [_is_slow(stream) for stream in self.sources]
        # a lossless collection takes as long as a hundred others
        heavy = [slow and len(s) > 1000 for slow, s in zip(self.is_slow, self.sources, strict=True)]
        self.weights = [0.1 if each else 1.0 for each in heavy]
        self.models = [bytes.fromhex(digits) for digits in registry.MODEL_IDS.values()]
        self.parsed = [_parsed(stream) for stream in self.sources]
        self.collections = [parsed for parsed in self.parsed if parsed is not None]

    def stream(self, number: int) -> tuple[bytes, str, bool]:
        """-> the stream, how it was made, and whether numpy would be slow."""
        rng = random.Random(f"{self.seed}/{number}")
        at = rng.choices(range(len(self.sources)), self.weights)[0]
        kind = rng.choice(["raw", "raw", "repaired", "built"])
        slow = self.is_slow[at]
        if kind == "built":
            stream, other_slow = self._built(at, rng)
            slow = slow or other_slow
        else:
            stream = self.sources[at]
            for _ in range(rng.choice([1, 1, 1, 2, 3])):
                stream, other = self._mutated(stream, rng)
                slow = slow or (other is not None and self.is_slow[other])
            if kind == "repaired":
                stream = repaired(stream)
        return stream, f"{kind} {self.names[at]}", slow

    def _mutated(self, stream: bytes, rng: random.Random) -> tuple[bytes, int | None]:
        """A mutation of bytes, and the other source of a splice."""
        if rng.random() < 0.1:
            other = rng.choices(range(len(self.sources)), self.weights)[0]
            end, start = _cut(stream, rng), _cut(self.sources[other], rng)
            return stream[:end] + self.sources[other][start:], other
        return mutated(stream, rng), None

    def _built(self, at: int, rng: random.Random) -> tuple[bytes, bool]:
        """A stream whose structure was changed, all checks right; and whether it became slow."""
        parsed = self.parsed[at]
        if parsed is None:
            return self._built_single(self.sources[at], rng)
        changed = parsed.copied()
        for _ in range(rng.choice([1, 1, 2, 3])):
            change = rng.choice(CHANGES)
            change(changed, rng, self)
        return changed.pack(rng), changed.is_slow

    def _built_single(self, stream: bytes, rng: random.Random) -> tuple[bytes, bool]:
        try:
            header, payload_at = unpack_image_header(stream)
        except BitstreamError:
            return repaired(mutated(stream, rng)), True
        model_id, quality, payload = header.model_id, header.quality, stream[payload_at:]
        if rng.random() < 0.3:
            quality = rng.choice([*range(0, 102, 7), 99, 100, 101, 129, 132, 192])
        if rng.random() < 0.3:
            model_id = rng.randrange(0, 8)
        if rng.random() < 0.8:
            payload = mutated(payload, rng)
        model_hash, sha256 = b"", b""
        if model_id in registry.MODEL_IDS:
            sha256 = registry.by_id(model_id).sha256
        if model_id == 0 and quality != 101:
            model_hash = rng.choice([*self.models, rng.randbytes(8)])
            with contextlib.suppress(AezError):
                sha256 = registry.by_hash(model_hash).sha256
        return pack_image(
            ImageHeader(model_id, quality, model_hash=model_hash), payload, sha256
        ), quality >= LOSSLESS_QUALITY


def _with_models(lossless: bool) -> bytes:
    """A collection that has the tiny model in it, which is installed nowhere."""
    with tempfile.TemporaryDirectory() as folder:
        model = helpers.install(Path(folder), lossless=lossless)
        quality = 100 if lossless else 60
        pixels = helpers.drawn(8)
        return api.compress(pixels, quality=quality, model=str(model), embed_model=True, effort=1)


def _is_slow(stream: bytes) -> bool:
    """Whether numpy takes long for a stream, as anything in it is lossless."""
    with contextlib.suppress(AezError):
        qualities = api.info(stream).qualities
        return any(
            quality >= LOSSLESS_QUALITY and quality != STORED_QUALITY for quality in qualities
        )
    return False


def _cut(stream: bytes, rng: random.Random) -> int:
    return rng.randint(0, len(stream))


EXTREMES = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0xFFF, 0x1000, 0x1001, 0xFFFF]
EXTREMES += [1 << 24, (1 << 24) + 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]


def mutated(stream: bytes, rng: random.Random) -> bytes:
    """Flips of bits, other bytes, cuts, repeats, insertions, and fields set to extremes."""
    if not stream:
        return rng.randbytes(rng.randint(0, 9))
    changed, kind = bytearray(stream), rng.randrange(6)
    if kind == 0:
        for _ in range(rng.choice([1, 1, 2, 3, 8])):
            bit = rng.randrange(8 * len(changed))
            changed[bit // 8] ^= 1 << bit % 8
    elif kind == 1:
        for _ in range(rng.choice([1, 1, 2, 4])):
            value = rng.choice([rng.randrange(256), 0, 1, 0x7F, 0x80, 0xFF])
            changed[rng.randrange(len(changed))] = value
    elif kind == 2:  # of the end, or of a piece
        at = _cut(stream, rng)
        size = len(stream) if rng.random() < 0.5 else rng.choice([1, 1, 2, 4, 8, 46, 200])
        del changed[at : at + size]
    elif kind == 3:
        at, size = _cut(stream, rng), rng.choice([1, 2, 4, 8, 46, 100, 400])
        changed[at:at] = changed[at : at + size] * rng.choice([1, 1, 2, 20])
    elif kind == 4:
        at = _cut(stream, rng)
        changed[at:at] = rng.randbytes(rng.choice([1, 1, 2, 4, 20]))
    else:  # where the headers and the footer lie
        size, near = rng.choice([1, 2, 4, 8]), min(len(changed), 80)
        at = rng.randrange(near)
        at = at if rng.random() < 0.6 else len(changed) - near + at
        value = rng.choice(EXTREMES) & ((1 << 8 * size) - 1)
        changed[at : at + size] = value.to_bytes(size, "little")
    return bytes(changed)


def repaired(stream: bytes) -> bytes:
    """The stream with all checks put right, as far as its structure can still be followed."""
    if len(stream) < COLLECTION.size or not stream[2] & FLAG_COLLECTION:
        return _repaired_image(stream)
    changed, at = bytearray(stream), COLLECTION.size
    with contextlib.suppress(BitstreamError):
        if stream[2] & FLAG_EXTENDED:
            at = unpack_extension(stream, at)[1]
        changed[3] = crc8(stream[:3] + stream[COLLECTION.size : at])
    sizes = []
    while at + BLOCK.size <= len(changed) and changed[at : at + 4] == b"aezB":
        _, count, *areas = BLOCK.unpack_from(changed, at)[3:8]
        end = min(at + BLOCK.size + sum(areas), len(changed))
        changed[at + 26 : at + 30] = checksum(bytes(changed[at : at + 26]), size=4)
        digest = checksum(
            bytes(changed[at : at + BLOCK.size - CHECKSUM_BYTES]),
            bytes(changed[at + BLOCK.size : end]),
        )
        changed[at + BLOCK.size - CHECKSUM_BYTES : at + BLOCK.size] = digest
        sizes.append((end - at, count))
        at = end
    if len(changed) - at == FOOTER.size + len(sizes) * FOOTER_ENTRY.size + FOOTER_END.size:
        changed[at:] = packed_footer(sizes)
    return bytes(changed)


def _repaired_image(stream: bytes) -> bytes:
    try:
        header, _ = unpack_image_header(stream)
        if header.model_hash:
            sha256 = registry.by_hash(header.model_hash).sha256
        else:
            sha256 = registry.by_id(header.model_id).sha256 if header.model_id else b""
    except AezError:
        return stream
    return stream[:5] + bytes([image_check(sha256, stream)]) + stream[6:]


def packed_footer(entries: list[tuple[int, int]], **override: int) -> bytes:
    """A footer with a right Checksum, whatever it claims."""
    total = override.get("total", sum(images for _, images in entries))
    start = FOOTER.pack(b"aezF", total, override.get("count", len(entries)))
    start += b"".join(FOOTER_ENTRY.pack(*entry) for entry in entries)
    size = override.get("size", len(start) + FOOTER_END.size)
    return start + FOOTER_END.pack(checksum(start), size, b"aezE")


@dataclasses.dataclass
class LooseBlock:
    """A block whose areas can be anything; index: None, made from parts and messages."""

    fields: dict[str, int]  # that are not what the areas say
    labels: bytes | None
    names: bytes | None
    parts: list[Part]
    messages: list[list[bytes]]
    index: bytes | None = None

    def copied(self) -> LooseBlock:
        """To be changed."""
        messages = [list(of_part) for of_part in self.messages]
        return dataclasses.replace(
            self, fields=dict(self.fields), parts=list(self.parts), messages=messages
        )

    def pack(self, rng: random.Random) -> bytes:
        """-> a block with right checks."""
        count = sum(len(part.images) for part in self.parts)
        index = self.index
        if index is None:
            pairs = zip(self.parts, self.messages, strict=True)
            index = pack_index([(part, list(map(len, of_part))) for part, of_part in pairs])
        elif self.fields.get("fit", 1):
            index = _with_parts_check(index, self.parts)
        payload = b"".join(message for of_part in self.messages for message in of_part)
        texts = b"" if self.labels is None else pack_varint(len(self.labels)) + self.labels
        texts += self.names or b""
        flags = BLOCK_FLAG_NAMES * (self.names is not None)
        flags |= BLOCK_FLAG_PARTS * (len(self.parts) > 1)
        flags |= BLOCK_FLAG_LABELS * (self.labels is not None)
        start = BLOCK.pack(
            b"aezB",
            self.parts[0].model_hash,
            self.fields.get("quality", self.parts[0].quality),
            self.fields.get("flags", flags),
            self.fields.get("count", count) & 0xFFFF,
            self.fields.get("names_bytes", len(texts)),
            self.fields.get("index_bytes", len(index)) & 0xFFFF,
            self.fields.get("payload_bytes", len(payload)),
            b"",
            b"",
        )[: BLOCK.size - CHECKSUM_BYTES - 4]
        start += checksum(start, size=4)
        body = texts + index + payload
        return start + checksum(start, body) + body


def _with_parts_check(index: bytes, parts: list[Part]) -> bytes:
    """Mend the check of the parts at the start of an index, if it is still as long."""
    if len(parts) < 2:
        return index
    end = len(pack_parts(parts))
    area = index[: end - PARTS_CHECK_BYTES]
    return area + checksum(area, size=PARTS_CHECK_BYTES) + index[end:]


@dataclasses.dataclass
class Loose:
    """A collection whose structure can be changed."""

    extension: dict[int, bytes]
    blocks: list[LooseBlock]
    footer: dict[str, int]
    is_slow: bool = False

    def copied(self) -> Loose:
        """To be changed."""
        blocks = [block.copied() for block in self.blocks]
        return Loose(dict(self.extension), blocks, {}, False)

    def pack(self, rng: random.Random) -> bytes:
        """-> a collection with right checks."""
        extended = FLAG_EXTENDED if self.extension else 0
        start = b"\xae\x5a" + bytes([0x10 | FLAG_COLLECTION | extended])
        area = pack_extension(self.extension) if self.extension else b""
        packed = [block.pack(rng) for block in self.blocks]
        counts = [sum(len(part.images) for part in block.parts) for block in self.blocks]
        counts = [
            b.fields.get("count", n) & 0xFFFF for b, n in zip(self.blocks, counts, strict=True)
        ]
        footer = packed_footer(
            [(len(block), count) for block, count in zip(packed, counts, strict=True)],
            **self.footer,
        )
        return start + bytes([crc8(start + area)]) + area + b"".join(packed) + footer


def _parsed(stream: bytes) -> Loose | None:
    """A whole collection, or None."""
    try:
        if not is_collection(stream):
            return None
        api.decompress(stream)
    except AezError:
        return None
    with open_stream(stream) as opened:
        assert isinstance(opened, Collection)
        at, blocks = opened._start, []
        for block in opened.blocks:
            blocks.append(_parsed_block(stream[at : at + block.size]))
            at += block.size
    extension = {}
    if stream[2] & FLAG_EXTENDED:
        extension = unpack_extension(stream, COLLECTION.size)[0]
    return Loose(extension, blocks, {}) if blocks else None


def _parsed_block(block: bytes) -> LooseBlock:
    header = unpack_block_header(block)
    at, labels = BLOCK.size, None
    index_at = BLOCK.size + header.names_bytes
    if header.has_labels:
        begin, size = labels_span(block[at : at + 5], header, 0)
        labels, at = block[at + begin : at + begin + size], at + begin + size
    names = block[at:index_at] if header.has_names else None
    payload_at = index_at + header.index_bytes
    parts, lengths = unpack_index(block[index_at:payload_at], header, 0)
    found, left = [], iter(lengths)
    for part in parts:
        of_part = []
        for _ in range(part.num_groups):
            size = next(left)
            of_part.append(block[payload_at : payload_at + size])
            payload_at += size
        found.append(of_part)
    return LooseBlock({}, labels, names, parts, found)


# ---- hostile: changes of structure


def _change_message(loose: Loose, rng: random.Random, maker: Maker) -> None:
    of_part = rng.choice(rng.choice(loose.blocks).messages)
    at = rng.randrange(len(of_part))
    kind = rng.randrange(8)
    if kind == 0:
        of_part[at] = b""
    elif kind == 1:
        of_part[at] = rng.choice(of_part)
    elif kind == 2:
        of_part[at] = rng.randbytes(rng.choice([1, 3, 30, 300]))
    elif kind == 3:
        of_part[at] = bytes(rng.choice([1, 3, 300])) + of_part[at]
    else:
        of_part[at] = mutated(of_part[at], rng)


def _change_texts(loose: Loose, rng: random.Random, maker: Maker) -> None:
    """Names or labels: the frame, or what is in it."""
    block = rng.choice(loose.blocks)
    which = rng.choice(["names", "labels"])
    frame = getattr(block, which)
    if frame is None:
        content = b"a\0b\0" if which == "names" else b"\x01\0\1"
    elif rng.random() < 0.3:
        setattr(block, which, mutated(frame, rng))
        return
    else:
        content = zstd.library().ZstdDecompressor().decompress(frame, 1 << 20)
    content = mutated(content, rng) if rng.random() < 0.9 else content * rng.choice([2, 10_000])
    flags = {"checksum_flag": rng.random() < 0.9, "content_size_flag": rng.random() < 0.9}
    frame = helpers.zstd_frame(content, 3, **flags)
    setattr(block, which, frame if rng.random() < 0.9 else frame + frame)


def _change_part(loose: Loose, rng: random.Random, maker: Maker) -> None:
    """Another quality or model for a part; its groups may then be others."""
    block = rng.choice(loose.blocks)
    at = rng.randrange(len(block.parts))
    part = block.parts[at]
    if rng.random() < 0.5:
        quality = rng.choice([*range(0, 101, 5), 99, 101, 128, 129, 136, 192, 193])
        part = dataclasses.replace(part, quality=quality)
    else:
        model_hash = rng.choice([*maker.models, rng.randbytes(8)])
        part = dataclasses.replace(part, model_hash=model_hash)
    loose.is_slow |= part.quality >= LOSSLESS_QUALITY
    block.parts[at] = part
    _fit(block, at)


def _fit(block: LooseBlock, at: int) -> None:
    """As many messages as a part has groups."""
    wanted, of_part = block.parts[at].num_groups, block.messages[at]
    block.messages[at] = [of_part[i % len(of_part)] for i in range(wanted)]


def _change_count(loose: Loose, rng: random.Random, maker: Maker) -> None:
    """Another number of images in a block of one part, with an index that fits."""
    block = rng.choice(loose.blocks)
    part = block.parts[0]
    counts = [1, 2, 4, 5, 6, 15, 16, 17, 33, 64]
    if part.quality < LOSSLESS_QUALITY and rng.random() < 0.03:
        counts = [4096]  # a lossless one takes numpy minutes, as FORMAT.md 11 warns
    count = rng.choice(counts)
    block.parts, block.messages = block.parts[:1], block.messages[:1]
    block.parts[0] = dataclasses.replace(part, images=np.arange(count))
    _fit(block, 0)
    if rng.random() < 0.7:
        block.names = block.labels = None
    if rng.random() < 0.2:
        block.messages[0] = [b""] * len(block.messages[0])


def _change_index(loose: Loose, rng: random.Random, maker: Maker) -> None:
    block = rng.choice(loose.blocks)
    pairs = zip(block.parts, block.messages, strict=True)
    index = pack_index([(part, list(map(len, of_part))) for part, of_part in pairs])
    block.index = mutated(index, rng)
    block.fields["fit"] = int(rng.random() < 0.8)


FIELD_BITS = {
    "quality": 8,
    "flags": 8,
    "count": 16,
    "names_bytes": 32,
    "index_bytes": 16,
    "payload_bytes": 32,
}


def _change_field(loose: Loose, rng: random.Random, maker: Maker) -> None:
    block, name = rng.choice(loose.blocks), rng.choice(list(FIELD_BITS))
    limit = (1 << FIELD_BITS[name]) - 1
    block.fields[name] = rng.choice([*(value & limit for value in EXTREMES), rng.randint(0, 40)])


def _change_footer(loose: Loose, rng: random.Random, maker: Maker) -> None:
    name = rng.choice(["total", "count", "size"])
    loose.footer[name] = rng.choice([*EXTREMES, rng.randint(0, 80)])


def _change_blocks(loose: Loose, rng: random.Random, maker: Maker) -> None:
    """A block twice, none, or one of another collection."""
    kind = rng.randrange(3)
    if kind == 0 and len(loose.blocks) > 1:
        loose.blocks.pop(rng.randrange(len(loose.blocks)))
    elif kind == 1:
        loose.blocks.insert(0, rng.choice(loose.blocks).copied())
    else:
        block = rng.choice(rng.choice(maker.collections).blocks).copied()
        loose.is_slow |= any(part.quality >= LOSSLESS_QUALITY for part in block.parts)
        loose.blocks.append(block)


def _change_extension(loose: Loose, rng: random.Random, maker: Maker) -> None:
    """An extension field, or a model file that was changed together with its hash."""
    kind = rng.randrange(4)
    if kind == 0:
        loose.extension[rng.randrange(256)] = rng.randbytes(rng.choice([0, 1, 8, 40]))
    elif kind == 1:
        loose.extension[0x80] = mutated(loose.extension.get(0x80, b"\x01x"), rng)
    else:
        lossless = rng.random() < 0.5
        file = helpers.tiny_pixel_bundle() if lossless else helpers.tiny_bundle()
        file = mutated(file, rng) if rng.random() < 0.5 else _other_tensor(file, rng)
        loose.extension[0x80] = pack_varint(len(file)) + file
        model_hash = hashlib.sha256(file).digest()[:8]
        for block in loose.blocks:
            for i, part in enumerate(block.parts):
                block.parts[i] = dataclasses.replace(part, model_hash=model_hash)
        loose.is_slow |= lossless


def _other_tensor(file: bytes, rng: random.Random) -> bytes:
    """A change in the tensors of a model file, not in its header."""
    at = 8 + int.from_bytes(file[:8], "little")
    changed = bytearray(file)
    for _ in range(rng.choice([1, 3, 30])):
        changed[rng.randrange(at, len(file))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
    return bytes(changed)


Change = Callable[[Loose, random.Random, Maker], None]
CHANGES: list[Change] = [_change_message] * 5
CHANGES += [_change_texts, _change_part, _change_count, _change_index, _change_field]
CHANGES += [_change_footer, _change_blocks, _change_extension]

# ---- hostile: the readers


class Failed(Exception):
    """What must not happen has happened."""


_decoded: list[str] = []  # digests of what the models decoded, damaged groups included


def _recorded(decode: Callable[..., Any]) -> Callable[..., Any]:
    """A model's `decode` that writes down what it returns."""

    def call(*args: Any, **options: Any) -> Any:
        pixels, damaged = decode(*args, **options)
        _decoded.append(hashlib.blake2b(pixels.tobytes() + damaged.tobytes()).hexdigest()[:16])
        return pixels, damaged

    return call


def outcome(stream: bytes, engine: str, *, every_reader: bool) -> dict[str, Any]:
    """What a stream gives with an engine.  Raises what is no AezError, and Failed."""
    with kernels.use(engine):
        _decoded.clear()
        started = time.process_time()
        found: dict[str, Any] = {"refused": None}
        try:
            pixels = api.decompress(stream)
            found["pixels"] = hashlib.sha256(pixels.tobytes()).hexdigest()
            found["shape"] = pixels.shape
        except AezError as error:
            found["refused"] = type(error).__name__
        found["seconds"] = time.process_time() - started
        if found["seconds"] > LIMITS_S[engine]:
            raise Failed(f"decoding with {engine} took {found['seconds']:.1f} s")
        found["decoded"] = list(_decoded)
        if every_reader:
            found["others"] = _others(stream, found)
        return found


def _others(stream: bytes, found: dict[str, Any]) -> list[Any]:
    """What the other readers make of a stream."""
    made: list[Any] = []
    for reader in (_info, _texts, _first, _salvaged):
        try:
            made.append(reader(stream))
        except AezError as error:
            made.append(type(error).__name__)
    salvaged = made[-1]
    if found["refused"] is None and not isinstance(salvaged, str):
        if salvaged[0] or salvaged[1] != found["pixels"]:
            raise Failed("what is salvaged of an intact stream differs")
    elif not isinstance(salvaged, str) and not salvaged[0]:
        raise Failed(f"the stream is refused ({found['refused']}), but salvaged without a fault")
    return made


def _info(stream: bytes) -> str:
    return repr(api.info(stream))


def _texts(stream: bytes) -> list[Any]:
    with api.open(stream) as opened:
        return [opened.names, opened.label_kinds, len(opened.distinct_labels())]


def _first(stream: bytes) -> str:
    with api.open(stream) as opened:
        return hashlib.sha256(opened[len(opened) - 1].tobytes()).hexdigest() if opened else ""


def _salvaged(stream: bytes) -> tuple[int, str, int]:
    """-> faults, digest of all pixels, images lost."""
    digest, faults, lost = hashlib.sha256(), 0, 0
    for decoded in helpers.salvage(stream):
        faults += decoded.fault is not None
        lost += int(decoded.lost.sum())
        if decoded.pixels[decoded.lost].any():
            raise Failed("there are pixels in the place of lost ones")
        digest.update(decoded.pixels.tobytes())
    return faults, digest.hexdigest(), lost


def minimal_outcome(stream: bytes) -> tuple[str | None, str | None]:
    """What the minimal decoder makes of a stream: pixels, or the error that refuses it."""
    decoder = helpers.minimal_decoder()
    try:
        pixels = decoder.decode(stream, WEIGHTS)
        decoder.names(stream)
        decoder.labels(stream)
    except Exception as error:  # an example that has no errors of its own
        kind = ValueError if isinstance(error, ValueError) else type(error)
        return None, f"{kind.__name__}: {error}"
    return hashlib.sha256(pixels.tobytes()).hexdigest(), None


def check_stream(maker: Maker, number: int, figures: Counter[str], everything: bool) -> None:
    """Decode one stream with all that is to decode it.  Raises what is a failure."""
    stream, kind, slow = maker.stream(number)
    figures["streams"] += 1
    figures[kind.split()[0]] += 1
    every_reader = everything or number % ALL_READERS == 0
    native = outcome(stream, "native", every_reader=every_reader)
    figures["accepted"] += native["refused"] is None
    figures["decoded"] += bool(native["decoded"])
    figures["every_reader"] += every_reader
    early = native["seconds"] < EARLY_S and not native["decoded"]
    if everything or not slow or early or number % NUMPY_SLOW == 0:
        other = outcome(stream, "numpy", every_reader=every_reader)
        figures["both_engines"] += 1
        for key in native.keys() - {"seconds"}:
            if native[key] != other[key]:
                raise Failed(f"engines differ: {key} {native[key]!r} and {other[key]!r}")
        figures["slowest_numpy_ms"] = max(figures["slowest_numpy_ms"], int(1000 * other["seconds"]))
    figures["slowest_native_ms"] = max(figures["slowest_native_ms"], int(1000 * native["seconds"]))
    if everything or number % MINIMAL == 1:
        digest, reason = minimal_outcome(stream)
        figures["minimal"] += 1
        if reason is not None and not reason.startswith("ValueError"):
            figures["minimal_other_errors"] += 1
        if digest != native.get("pixels"):
            said = native["refused"] or native["pixels"]
            raise Failed(f"the minimal decoder differs: {digest or reason}, the package: {said}")


def work_hostile(out: Path, seed: int, end: int, seconds: float, at: Any) -> None:
    """The process that decodes: goes on after what `out` says, until `end` or out of time."""
    warnings.simplefilter("error")
    kept, maker = State(out, "hostile", seed), Maker(seed)
    for kind in (Ladder, Pixels):
        kind.decode = _recorded(kind.decode)  # type: ignore[method-assign]
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES, -1))
    crashed = {failure["number"] for failure in kept.failures}
    started = saved_at = time.monotonic()
    parent = os.getppid()
    for number in range(kept.next, end):
        if time.monotonic() - started > seconds or os.getppid() != parent:
            break
        if number not in crashed:
            at.value = number
            try:
                check_stream(maker, number, kept.figures, False)
            except Exception as error:
                stream, made, _ = maker.stream(number)
                kept.fail(number, f"{made}: {type(error).__name__}: {error}", stream)
                traceback.print_exc()
        kept.next = number + 1
        if kept.next % SAVED == 0:
            kept.seconds += time.monotonic() - saved_at
            saved_at = time.monotonic()
            kept.save()
    kept.seconds += time.monotonic() - saved_at
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    kept.figures["peak_mib"] = max(kept.figures["peak_mib"], peak)
    kept.save()


def hostile(options: argparse.Namespace) -> int:
    """Decode hostile streams, in a process that is begun again after a crash."""
    if options.number is not None:
        figures: Counter[str] = Counter()
        maker = Maker(options.seed)
        print(maker.stream(options.number)[1], file=sys.stderr)
        check_stream(maker, options.number, figures, True)
        print(json.dumps(figures))
        return 0
    ends = time.monotonic() + 60 * options.minutes
    context = multiprocessing.get_context("spawn")
    while True:
        at = context.Value("q", -1, lock=False)
        left = max(0.0, ends - time.monotonic())
        process = context.Process(
            target=work_hostile, args=(options.out, options.seed, options.count, left, at)
        )
        process.start()
        hung = _watched(process, at)
        kept = State(options.out, "hostile", options.seed)
        if process.exitcode == 0:
            break
        if at.value < 0:
            sys.exit(f"the process that decodes ended with {process.exitcode} before any stream")
        why = f"no answer in {HANG_S} s" if hung else f"exit code {process.exitcode}"
        kept.fail(at.value, why, Maker(options.seed).stream(at.value)[0])
        kept.save()
    return kept.tell()


def _watched(process: Any, at: Any) -> bool:
    """Wait for a process; -> whether it had to be killed, as it hung."""
    last, since = at.value, time.monotonic()
    while process.is_alive():
        process.join(0.5)
        if at.value != last or last < 0:
            last, since = at.value, time.monotonic()
        elif time.monotonic() - since > HANG_S:
            process.kill()
            process.join()
            return True
    return False


# ---- what a part has done so far


class State:
    """Figures and failures of a part and a seed, in a file, so that the next run goes on."""

    def __init__(self, out: Path, part: str, seed: int) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.part, self.seed = out, part, seed
        self.path = out / f"{part}-{seed}.json"
        kept = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.next: int = kept.get("next", 0)
        self.seconds: float = kept.get("seconds", 0.0)
        self.failures: list[dict[str, Any]] = kept.get("failures", [])
        self.figures: Counter[str] = Counter(kept.get("figures", {}))

    def fail(self, number: int, reason: str, stream: bytes = b"") -> None:
        """Keep a failure, and the stream that it came of."""
        self.failures.append({"number": number, "reason": reason[:2000]})
        if stream:
            (self.out / f"{self.part}-{self.seed}-{number}.aez").write_bytes(stream)
        print(f"{self.part} --seed {self.seed} --number {number}: {reason}", file=sys.stderr)

    def save(self) -> None:
        """Write the file."""
        content = {
            "part": self.part,
            "seed": self.seed,
            "next": self.next,
            "seconds": round(self.seconds, 1),
            "figures": dict(self.figures),
            "failures": self.failures,
        }
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(content))
        temporary.replace(self.path)

    def tell(self) -> int:
        """Print the line of JSON; -> the exit code."""
        self.save()
        print(self.path.read_text())
        return int(bool(self.failures))


# ---- kills

KILL_IMAGES, KILL_BLOCK = 600, 32
WORKERS_S = 60  # within which the workers of a killed command must end
AEZ = (
    "from functools import partial; from codec import cli; from codec.commands import compress; "
    f"compress.CompressOptions = partial(compress.CompressOptions, block_images={KILL_BLOCK}); "
    "cli.main()"
)
ENCODING = ["-m", "mnist", "-e", "1", "-q", "60"]


class Command(NamedTuple):
    """A command that is killed; before: a given file that it finds as x.aez."""

    arguments: list[str]
    before: str = ""


COMMANDS: dict[str, Command] = {
    "compress folder": Command(["compress", "../given/one", "-o", "x.aez", *ENCODING]),
    "compress lossless": Command(
        ["compress", "../given/few", "-o", "x.aez", "-m", "mnist-lossless", "--lossless"]
    ),
    "compress array": Command(["compress", "../given/x.npy", "-o", "x.aez", *ENCODING]),
    "compress tree": Command(["compress", "../given/one", "-o", "out", "--separate", *ENCODING]),
    "compress tree -f": Command(
        ["compress", "../given/one", "-o", "out", "--separate", "-f", *ENCODING]
    ),
    "append": Command(
        ["compress", "../given/two", "-o", "x.aez", "--append", *ENCODING], "one.aez"
    ),
    "append array": Command(
        ["compress", "../given/x.npy", "-o", "x.aez", "--append", *ENCODING], "x.aez"
    ),
    "merge": Command(["merge", "../given/one.aez", "../given/two.aez", "-o", "x.aez"]),
    "merge -f": Command(
        ["merge", "../given/one.aez", "../given/two.aez", "-o", "x.aez", "-f"], "two.aez"
    ),
    "decompress tree": Command(["decompress", "../given/one.aez", "-o", "out"]),
    "decompress array": Command(["decompress", "../given/one.aez", "-o", "x.npy"]),
}


def images_of(count: int, first: int = 0) -> U8:
    """uint8 (count, 28, 28): those of MNIST, then the same ones shifted, one shift after another;
    drawings where there is no MNIST.
    """
    train = _train()
    numbers = np.arange(first, first + count)
    pixels = np.empty((count, 28, 28), np.uint8)
    rounds, within = np.divmod(numbers, len(train))
    for each in np.unique(rounds).tolist():
        down, right = divmod(each % 121, 11)
        mine = rounds == each
        shifts = (down if down < 6 else 5 - down, right if right < 6 else 5 - right)
        pixels[mine] = np.roll(train[within[mine]], shifts, axis=(1, 2))
    return pixels


@cache
def _train() -> U8:
    path = DATA / "train-images-idx3-ubyte.gz"
    if not path.exists():
        return helpers.drawn(4000)
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=16).reshape(
        -1, 28, 28
    )


def aez(arguments: list[str], folder: Path, jobs: int = 1) -> subprocess.Popen[bytes]:
    """Start a command in a directory, in a session of its own."""
    options = ["-j", str(jobs)] if arguments[0] != "merge" else []
    return subprocess.Popen(
        [sys.executable, "-c", AEZ, *arguments, *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Path -> bytes of all files below a directory."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Killing:
    """The inputs of all commands, and what each makes of them if nobody kills it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.work = folder, folder / "work"
        given = folder / "given"
        for name, first, count in (
            ("one", 0, KILL_IMAGES),
            ("two", KILL_IMAGES, KILL_IMAGES),
            ("few", 0, 4 * KILL_BLOCK),
        ):
            for i, pixels in enumerate(images_of(count, first)):
                path = given / name / str(i % 3) / f"{first + i:05}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(images.pack_png(pixels))
        np.save(given / "x.npy", images_of(KILL_IMAGES))
        for source, output in (("one", "one.aez"), ("two", "two.aez"), ("x.npy", "x.aez")):
            made = aez(["compress", source, "-o", output, *ENCODING], given)
            if made.wait():
                sys.exit(f"{source} cannot be compressed")
        self.wanted: dict[str, dict[str, bytes]] = {}
        self.seconds: dict[str, float] = {}
        for name, command in COMMANDS.items():
            self.begin(command)
            started = time.monotonic()
            said = aez(command.arguments, self.work).communicate()[1]
            self.seconds[name] = time.monotonic() - started
            self.wanted[name] = contents(self.work)
            if not self.wanted[name]:
                sys.exit(f"{name}: {said.decode()}")
            for path, content in self.wanted[name].items():
                if path.endswith(".aez"):
                    api.decompress(content)  # raises if it is damaged
        exact = api.decompress(self.wanted["compress lossless"]["x.aez"])
        # in order of their names, which begin with the folder
        order = [i for folder in range(3) for i in range(folder, 4 * KILL_BLOCK, 3)]
        np.testing.assert_array_equal(exact, images_of(4 * KILL_BLOCK)[order])

    def begin(self, command: Command) -> None:
        """An empty working directory, but for what the command finds."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        if command.before:
            shutil.copy(self.folder / "given" / command.before, self.work / "x.aez")

    def kill(self, number: int, rng: random.Random, figures: Counter[str]) -> str:
        """Kill one command, once or several times, and let it finish; -> which.  Raises Failed."""
        name = rng.choice(list(COMMANDS))
        command, jobs = COMMANDS[name], rng.choice([1, 2])
        self.begin(command)
        before = contents(self.work)
        for _ in range(rng.choice([1, 1, 2, 3])):
            share = rng.uniform(0, 1.1) if rng.random() < 0.3 else rng.uniform(0.35, 1.05)
            process = aez(command.arguments, self.work, jobs)
            time.sleep(share * self.seconds[name])
            with_workers = rng.random() < 0.5
            if process.poll() is not None:
                figures["too late"] += 1
            elif with_workers:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            process.communicate()
            figures["kills"] += process.returncode == -signal.SIGKILL
            _no_workers(process.pid)
            self._check_outputs(name, before)
            if contents(self.work) == self.wanted[name]:
                break  # all is done: the same command would rightly refuse, or add once more
        else:
            self._finish(name, jobs, figures)
        return name

    def _check_outputs(self, name: str, before: dict[str, bytes]) -> None:
        """Outputs that exist after a kill are whole; what was there before may still be."""
        for path, content in contents(self.work).items():
            if Path(path).name.startswith("."):
                continue
            if content not in (self.wanted[name].get(path), before.get(path)):
                raise Failed(f"{path} has {len(content)} bytes after the kill, and is not whole")

    def _finish(self, name: str, jobs: int, figures: Counter[str]) -> None:
        process = aez(COMMANDS[name].arguments, self.work, jobs)
        said = process.communicate()[1].decode()
        figures["resumed"] += "resuming" in said
        if process.returncode and "exist" not in said:
            raise Failed(f"the same command ends with {process.returncode}: {said}")
        found, wanted = contents(self.work), self.wanted[name]
        if found != wanted:
            more, less = sorted(found.keys() - wanted.keys()), sorted(wanted.keys() - found.keys())
            other = [path for path in found.keys() & wanted.keys() if found[path] != wanted[path]]
            raise Failed(f"more: {more[:5]}, missing: {less[:5]}, other: {other[:5]}; {said}")


def _no_workers(group: int) -> None:
    """Wait until no process of a session is alive.  Raises Failed."""
    ends = time.monotonic() + WORKERS_S
    while time.monotonic() < ends:
        if not _alive(group):
            return
        time.sleep(0.01)
    raise Failed("worker processes outlive the command that was killed")


def _alive(group: int) -> bool:
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, of = path.read_text().rpartition(")")[2].split()[:3]
            if int(of) == group and state != "Z":
                return True
    return False


def kills(options: argparse.Namespace) -> int:
    """Kill commands until there were `count` kills."""
    kept, ends = State(options.out, "kills", options.seed), time.monotonic() + 60 * options.minutes
    if options.number is not None:
        kept.failures, options.count = [], sys.maxsize
    with tempfile.TemporaryDirectory(prefix="aez-kills-") as folder:
        killing = Killing(Path(folder))
        while kept.figures["kills"] < options.count and time.monotonic() < ends:
            number = kept.next if options.number is None else options.number
            started, rng = time.monotonic(), random.Random(f"{options.seed}/{number}")
            try:
                kept.figures[killing.kill(number, rng, kept.figures)] += 1
            except Failed as error:
                name = random.Random(f"{options.seed}/{number}").choice(list(COMMANDS))
                kept.fail(number, f"{name}: {error}")
                shutil.copytree(
                    killing.work, options.out / f"kills-{options.seed}-{number}", dirs_exist_ok=True
                )
            if options.number is not None:
                return int(bool(kept.failures))
            kept.next = number + 1
            kept.seconds += time.monotonic() - started
            kept.save()
    return kept.tell()


# ---- large

READS, ROUNDS, FLIPPED = 1000, 2, 20
CHUNK = 60_000  # images that are made at a time


def large(options: argparse.Namespace) -> int:
    """Write, read at random, damage and salvage a collection."""
    kept, rng = State(options.out, "large", options.seed), random.Random(options.seed)
    kept.figures, kept.failures, started = Counter(), [], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="aez-large-") as name:
        folder = Path(name)
        array, stream = folder / "x.npy", folder / "x.aez"
        _make_array(array, options.count)
        arguments = ["compress", str(array), "-o", str(stream), "-e", "1", "-q", "30"]
        code, _, figures = _measured([*arguments, "-m", "mnist", "--no-guard"])
        kept.figures.update({f"write_{key}": value for key, value in figures.items()})
        if code:
            kept.fail(0, f"compress ended with {code}")
            return kept.tell()
        kept.figures["images"] = options.count
        kept.figures["bytes"] = stream.stat().st_size
        _read(array, stream, rng, kept)
        array.unlink()
        for number in range(ROUNDS):
            # the second one without a footer: blocks must then be searched for
            damaged = Damaged(stream, folder / "damaged.aez", rng, with_footer=number > 0)
            try:
                found = damaged.check()
                kept.figures.update({f"round{number}_{key}": v for key, v in found.items()})
            except Failed as error:
                kept.fail(number, str(error))
    kept.next, kept.seconds = 1, time.monotonic() - started
    return kept.tell()


def _make_array(path: Path, count: int) -> None:
    array = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 28, 28))
    for first in range(0, count, CHUNK):
        size = min(CHUNK, count - first)
        array[first : first + size] = images_of(size, first)
    array.flush()


def _measured(arguments: list[str]) -> tuple[int, str, dict[str, int]]:
    """Run aez -> exit code, stdout, seconds and the largest memory of all its processes; PSS
    shares what processes have in common, and counts pages of the input file that are mapped.
    """
    started, peak, private = time.monotonic(), 0, 0
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "codec", *arguments],
            stdout=said,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        while process.poll() is None:
            pss, anonymous = _memory(process.pid)
            peak, private = max(peak, pss), max(private, anonymous)
            time.sleep(0.5)
        said.seek(0)
        text = said.read().decode()
    seconds = round(time.monotonic() - started)
    memory = {"peak_pss_mib": peak >> 10, "peak_pss_anonymous_mib": private >> 10}
    return process.returncode, text, {"seconds": seconds, **memory}


def _memory(session: int) -> tuple[int, int]:
    """KiB of all processes of a session: PSS, and the part of it that is no file."""
    total = anonymous = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            if int(path.read_text().rpartition(")")[2].split()[3]) != session:
                continue
            for line in path.with_name("smaps_rollup").read_text().splitlines():
                name, value, *_ = line.split()
                total += int(value) if name == "Pss:" else 0
                anonymous += int(value) if name == "Pss_Anon:" else 0
    return total, anonymous


def _read(array: Path, stream: Path, rng: random.Random, kept: State) -> None:
    """Images at random: how long each takes, and whether it is the right one."""
    pixels = np.load(array, mmap_mode="r")
    started = time.perf_counter()
    with api.open(stream) as opened:
        count = len(opened)
        kept.figures["open_us"] = int(1e6 * (time.perf_counter() - started))
        if count != len(pixels):
            kept.fail(0, f"{count} images of {len(pixels)}")
            return
        seconds, worst = 0.0, 0.0
        for _ in range(READS):
            at = rng.randrange(count)
            started = time.perf_counter()
            image = opened[at]
            seconds += time.perf_counter() - started
            error = float(np.square(image.astype(float) - pixels[at]).mean())
            worst = max(worst, error)
            # its neighbours are other digits, which differ by some thousands
            if error > 3000:
                kept.fail(at, f"image {at} has a mean squared error of {error:.0f}")
    kept.figures["read_us_per_image"] = int(1e6 * seconds / READS)
    kept.figures["read_worst_mse"] = int(worst)


class Damaged:
    """A copy of a collection in which some bytes were changed at random places."""

    def __init__(self, stream: Path, path: Path, rng: random.Random, *, with_footer: bool) -> None:
        self.stream, self.path, self.with_footer = stream, path, with_footer
        shutil.copyfile(stream, path)
        size = stream.stat().st_size
        with api.open(stream) as opened:
            blocks = opened.blocks
            end = blocks[-1].offset + blocks[-1].size
            at = {rng.randrange(blocks[0].offset, end) for _ in range(FLIPPED - 4)}
            # most bytes are of messages: some of a header and an index
            at |= {rng.choice(blocks).offset + rng.randrange(BLOCK.size) for _ in range(2)}
            at |= {
                block.offset + BLOCK.size + rng.randrange(block.header.index_bytes)
                for block in rng.sample(blocks, min(2, len(blocks)))
            }
            if with_footer:
                at.add(rng.randrange(end, size))
            with path.open("r+b") as file:
                for place in sorted(at):
                    file.seek(place)
                    byte = file.read(1)[0] ^ rng.randrange(1, 256)
                    file.seek(place)
                    file.write(bytes([byte]))
            self.at = sorted(at)
            self.hit = self._hit(opened)

    def _hit(self, opened: Collection) -> dict[int, set[int]]:
        """Block -> the images that its changed bytes belong to."""
        hit: dict[int, set[int]] = {}
        for number, block in enumerate(opened.blocks):
            for place in self.at:
                if not block.offset <= place < block.offset + block.size:
                    continue
                touched, at = hit.setdefault(number, set()), place - block.offset
                payload_at = BLOCK.size + block.header.names_bytes + block.header.index_bytes
                if at < BLOCK.size - CHECKSUM_BYTES or BLOCK.size <= at < payload_at:
                    touched.update(block.images.tolist())
                elif at >= payload_at:
                    touched.update(_images_at(block, at - payload_at))
        return hit

    def check(self) -> dict[str, int]:
        """Salvage it, by the API and the command -> figures.  Raises Failed."""
        code, said, figures = _measured(["test", str(self.path), "--json"])
        told = json.loads(said)
        if code != 4:
            raise Failed(f"aez test ended with {code}")
        faults = lost = intact = wrong = 0
        salvaged: dict[int, Decoded] = {}  # by offset
        with api.open(self.stream) as whole, api.open(self.path, recover=True) as damaged:
            numbers = {block.offset: i for i, block in enumerate(whole.blocks)}
            missing = dict(numbers)
            for block in damaged.intact_blocks():
                if block.offset not in numbers:
                    raise Failed(f"a block at {block.offset}, where none was")
                number = missing.pop(block.offset)
                if number not in self.hit and number % 50:
                    intact += block.count  # aez test has decoded it
                    continue
                original = whole.blocks[number].salvage()
                decoded = block.salvage()
                salvaged[number] = decoded
                faults += decoded.fault is not None
                lost += int(decoded.lost.sum())
                intact += int((~decoded.lost).sum())
                wrong += self._compare(number, decoded, original)
            hidden = [number for number in missing.values() if number not in self.hit]
            if hidden:
                raise Failed(f"intact blocks were not found: {hidden[:5]}")
            not_found = sum(whole.blocks[number].count for number in missing.values())
            total = len(whole)
        if told["images"] != intact:
            raise Failed(f"aez test says {told['images']} intact images, the API {intact}")
        if intact + lost + not_found != total:
            raise Failed(f"{intact} intact, {lost} lost, {not_found} not found of {total}")
        if len(told["failed"]) != faults + (damaged.fault is not None):
            raise Failed(f"aez test names {len(told['failed'])} faults, the API {faults}")
        return {
            "flipped": len(self.at),
            "blocks_hit": len(self.hit),
            "blocks_named": faults,
            "images_hit": sum(map(len, self.hit.values())),
            "images_lost": lost,
            "images_in_blocks_not_found": not_found,
            "images_back": intact,
            "wrong_in_named_blocks": wrong,
            **{f"test_{key}": value for key, value in figures.items()},
        }

    def _compare(self, number: int, decoded: Decoded, original: Decoded) -> int:
        """-> images that are neither lost nor right, all in groups that were hit, in a block that
        is named: the check of a group has 8 bits.
        """
        hit = {image - int(original.images[0]) for image in self.hit.get(number, ())}
        differ = (decoded.pixels != original.pixels).any(axis=(1, 2)) & ~decoded.lost
        touched = set(np.flatnonzero(differ | decoded.lost).tolist())
        if not touched <= hit:
            raise Failed(f"block {number}: images {sorted(touched - hit)[:5]} were not damaged")
        if number in self.hit and decoded.fault is None:
            raise Failed(f"block {number} is damaged, and no fault is told")
        return int(differ.sum())


def _images_at(block: Block, at: int) -> list[int]:
    """The images of the group whose message has this byte of the payload."""
    for _, groups, numbers in block.index.by_part():
        for group in groups:
            start, size = block.index.span(group)
            if start <= at < start + size:
                mine = block.index.groups_of(numbers) == group
                found: list[int] = (numbers[mine] + block.first).tolist()
                return found
    return []


def main() -> int:
    """Run a part."""
    parser = argparse.ArgumentParser(description="Long runs against chance.")
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, help="streams, kills or images")
    parser.add_argument("--minutes", type=float, default=1e9, help="end earlier")
    parser.add_argument("--number", type=int, help="only this stream or kill, to repeat a failure")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "aez-soak")
    options = parser.parse_args()
    run, count = PARTS[options.part]
    options.count = count if options.count is None else options.count
    return run(options)


PARTS: dict[str, tuple[Callable[[argparse.Namespace], int], int]] = {
    "hostile": (hostile, 10_000_000),
    "kills": (kills, 1000),
    "large": (large, 5_000_000),
}

if __name__ == "__main__":
    sys.exit(main())
