"""FORMAT.md and codec/format say the same, byte for byte.

Tables, constants, registry and section numbers of the document are compared with the code. Then
hand-worked bytes of every structure, and every error of codec/format with its class and offset.
The examples of section 12 are checked by test_vectors.py.
"""

import hashlib
import importlib
import pkgutil
import re
import struct
from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import pytest

import codec
import codec.coding
import codec.format
import codec.labels
import codec.model
from codec.encoder import goal
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
from codec.format import constants, footer, headers
from codec.format.block import pack_block, unpack_block
from codec.format.footer import (
    Footer,
    unpack_footer,
    unpack_footer_end,
)
from codec.format.headers import (
    BlockHeader,
    ImageHeader,
    image_check,
    is_collection,
    pack_collection_header,
    pack_extension,
    pack_image,
    unpack_block_header,
    unpack_collection_header,
    unpack_extension,
    unpack_image_header,
    unpack_models,
)
from codec.format.index import Part, only_part, pack_index, unpack_index
from codec.format.primitives import _CRC8, checksum, crc8, pack_varint, unpack_varint
from codec.model import pixels as pixel_model
from codec.model import registry, stored

PACKAGE = Path(codec.__file__).parent
TEXT = (PACKAGE / "FORMAT.md").read_text("utf-8")
FIELD_TABLES = {
    "2.1": "IMAGE_FIELDS",
    "3.1": "COLLECTION_FIELDS",
    "3.2": "BLOCK_FIELDS",
    "4.1": "FOOTER_FIELDS",
    "4.2": "FOOTER_ENTRY_FIELDS",
    "4.3": "FOOTER_END_FIELDS",
}
HASH = bytes.fromhex("0123456789abcdef")


# The document


def section(number: str) -> str:
    """Text of a section, up to the next heading."""
    match = re.search(rf"^#+ {re.escape(number)} .*\n((?:(?!#).*\n)*)", TEXT, re.MULTILINE)
    assert match, f"FORMAT.md has no section {number}"
    return match[1]


def rows(number: str, first_column: str) -> list[list[str]]:
    """Cells of the table of a section that has this first column."""
    lines = section(number).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first_column} |"))
    found = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def fields_tables() -> dict[str, tuple[tuple[str, str], ...]]:
    """All tables of the code by name."""
    return {
        name: table
        for module in (headers, footer)
        for name, table in vars(module).items()
        if name.endswith("_FIELDS")
    }


@pytest.mark.parametrize(("number", "name"), FIELD_TABLES.items())
def test_field_tables_of_document_and_code_agree(number: str, name: str) -> None:
    documented = [(row[0], int(row[1]), int(row[2])) for row in rows(number, "Field")]
    offset, packed = 0, []
    for field, code in fields_tables()[name]:
        packed.append((field, offset, struct.calcsize("<" + code)))
        offset += struct.calcsize("<" + code)
    assert documented == packed


def test_every_fields_table_of_the_code_is_documented() -> None:
    assert set(fields_tables()) == set(FIELD_TABLES.values())
    assert TEXT.count("| Field | Offset | Bytes | Meaning | Valid values |") == len(FIELD_TABLES)


def test_constants_of_document_and_code_agree() -> None:
    modules = [
        importlib.import_module(f"{package.__name__}.{found.name}")
        for package in (codec.format, codec.coding, codec.model)
        for found in pkgutil.iter_modules(package.__path__)
    ] + [codec.labels]
    documented = rows("Appendix A", "Constant")
    assert len(documented) > 30
    for name, value, _ in documented:
        found = {repr(getattr(module, name)) for module in modules if hasattr(module, name)}
        is_bytes = re.fullmatch("`([0-9a-f]{2} )*[0-9a-f]{2}`", value)
        wanted = (
            bytes.fromhex(value[1:-1])
            if is_bytes
            else value[1:-1]
            if value[0] == "`"
            else int(value, 0)
        )
        assert found == {repr(wanted)}, name


def test_limits_flags_and_magics_of_the_code_are_documented() -> None:
    documented = {row[0] for row in rows("Appendix A", "Constant")}
    pattern = re.compile(
        "MAX_.*|.*MAGIC|FLAG_.*|BLOCK_FLAG_.*|RESERVED_.*|EXTENSION_.*|.*_BYTES|VERSION|.*GROUP_.*"
    )
    assert {name for name in vars(constants) if pattern.fullmatch(name)} <= documented


def test_registry_of_document_and_code_agree() -> None:
    documented = rows("7.1", "Model_ID")
    assert {int(number): model_hash for number, _, model_hash in documented} == registry.MODEL_IDS
    assert len(documented) == len(registry.MODEL_IDS)
    numbers = [int(row[0]) for row in documented]
    assert numbers == sorted(numbers)
    for number, name, model_hash in documented:
        assert 1 <= int(number) <= 255
        assert name
        assert re.fullmatch("[0-9a-f]{16}", model_hash)


def test_cited_sections_exist() -> None:
    headings = set(re.findall(r"^#+ ([0-9.]+) ", TEXT, re.MULTILINE))
    cited = set()
    for path in PACKAGE.rglob("*.py"):
        for citation in re.findall(
            r"FORMAT\.md (\d[\d.]*(?:(?:,| and| to) \d[\d.]*)*)", path.read_text("utf-8")
        ):
            cited |= {number.rstrip(".") for number in re.findall(r"\d[\d.]*", citation)}
    prose = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
    inner = set(re.findall(r"\((\d+\.\d)[),;]|\b(?:section|of|by|see) (\d+\.\d)\b", prose)) | set(
        re.findall(r"section (\d+)\b()", prose)
    )
    assert cited >= {"2", "2.2", "4", "5", "5.3", "6", "7", "7.1"}
    assert cited <= headings
    assert len(inner) > 10
    assert {a or b for a, b in inner} <= headings


def test_varints_of_the_document_are_right() -> None:
    examples = re.findall(r"(\d+) is `([0-9a-f ]+)`", section("1.1"))
    assert len(examples) == 4
    for value, packed in examples:
        assert pack_varint(int(value)) == bytes.fromhex(packed)


def test_fixed_collection_header_of_the_document_is_right() -> None:
    assert f"`{pack_collection_header().hex(' ')}`" in section("3.1")


def test_rounding_example_of_the_document_is_right() -> None:
    """867787 * 29 = 1.5 * 2**24 - 1: the float32 product is 1.5, which is rounded to the even 2;
    exact rounding gives 1.
    """
    assert "s = 867787, m = 29" in section("6.1")
    assert 867787 * 29 == 3 * 2**23 - 1
    assert np.rint(np.float32(867787) * np.float32(29 * 2.0**-24)) == 2


def test_tensors_of_the_document_are_those_of_a_lossless_model() -> None:
    """Names, types and shapes of 8.6, with the sizes of the tiny model."""
    sizes = {
        "ZF": helpers.Z,
        "ZS": helpers.Z,
        "ZL": 4,
        "E": 3,
        "H": helpers.Z,
        "P": helpers.PALETTES,
    }

    def number(text: str) -> int:
        text = re.sub(r"\b[A-Z]+\b", lambda name: str(sizes[name[0]]), text.removeprefix("any "))
        return sum(
            int(np.prod([int(factor) for factor in term.split("*")])) for term in text.split("+")
        )

    def expand(cell: str) -> list[str]:
        names = [name for part in cell.split(",") for name in re.findall(r"[\w.]+\w", part)[:1]]
        return [
            re.sub(r"\bJ\b", j, name)
            for name in names
            for j in ("01" if re.search(r"\bJ\b", name) else "0")
        ]

    documented = {}
    for cell, inputs, outputs in rows("8.6", "Layer"):
        for name in expand(re.split(", J from|, as many", cell)[0]):
            o, k = number(outputs), number(inputs)
            parts = {"weight": (o, k), "bias": (o,), "shift": (1, o), "multiplier": (1, o)}
            documented |= {
                f"{name}.{part}": ("int8" if part == "weight" else "int32", shape)
                for part, shape in parts.items()
            }
    for cell, kind, shape, _ in rows("8.6", "Other tensor"):
        shapes = tuple(number(size) for size in shape.strip("()").split(", "))
        documented |= {name: (kind.replace("I", "int"), shapes) for name in expand(cell)}
    assert documented == {
        name: (t.dtype.name, t.shape) for name, t in helpers.tiny_pixel_tensors().items()
    }


def test_neighbours_of_document_and_code_agree() -> None:
    (offsets,) = [text for name, text in rows("8.2", "Name") if name.startswith("near")]
    documented = re.findall(r"\((-?\d), (-?\d)\)", offsets)
    assert tuple((int(dy), int(dx)) for dy, dx in documented) == pixel_model.NEIGHBOURS


@pytest.fixture(scope="module")
def tiny_lossless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return helpers.install(tmp_path_factory.mktemp("weights"), lossless=True)


def test_minimal_decoder_reads_lossless_collections(tiny_lossless: Path) -> None:
    """A full group and a smaller one, stored images in both."""
    pixels = helpers.drawn(19)
    stream = codec.compress(
        pixels, model=str(tiny_lossless), lossless=True, names=[str(i) for i in range(19)]
    )
    np.testing.assert_array_equal(helpers.minimal_decode(stream, tiny_lossless.parent), pixels)


@pytest.mark.parametrize(("image", "quality"), [(0, 100), (2, 101), (3, 101), (4, 100)])
def test_minimal_decoder_reads_lossless_and_stored_images(
    tiny_lossless: Path, image: int, quality: int
) -> None:
    """Strokes; noise, stored raw; a gradient, stored as a zstd frame; blank."""
    pixels = helpers.drawn(8)[image]
    stream = codec.compress(pixels, model=str(tiny_lossless), lossless=True)
    assert stream[4] == quality
    np.testing.assert_array_equal(helpers.minimal_decode(stream, tiny_lossless.parent), pixels)


def test_minimal_decoder_reads_an_embedded_model(tiny_lossless: Path, tmp_path: Path) -> None:
    pixels = helpers.drawn(19)
    stream = codec.compress(pixels, model=str(tiny_lossless), lossless=True, embed_model=True)
    np.testing.assert_array_equal(helpers.minimal_decode(stream, tmp_path), pixels)
    with pytest.raises(ValueError, match="no file in"):
        helpers.minimal_decode(
            codec.compress(pixels, model=str(tiny_lossless), lossless=True), tmp_path
        )


def test_minimal_decoder_reads_blocks_of_several_parts(
    tiny_lossless: Path, shipped_lossless: pixel_model.Pixels
) -> None:
    """Images of many qualities, and lossless ones where no quality is good enough."""
    pixels = helpers.drawn(40)
    reached = goal.image_psnr_db(pixels, helpers.tiny_model().encode(pixels, 60).pixels)
    stream = codec.compress(pixels, model="tiny0", min_psnr=float(np.sort(reached)[20]))
    with codec.open(stream) as collection:
        qualities = {part.quality for part in collection.blocks[0].parts}
    assert len(qualities) > 3
    assert 100 in qualities
    weights = helpers.install(tiny_lossless.parent, 0).parent
    np.testing.assert_array_equal(helpers.minimal_decode(stream, weights), codec.decompress(stream))
    assert shipped_lossless.lossless


def test_collection_header_with_models_has_exact_bytes() -> None:
    """Flags: collection and extension, 1c; area of 9 bytes: type 80, 7 bytes: a model of 2, one of
    3 (a length of 1 each).
    """
    area = bytes.fromhex("09 80 07 02 61 62 03 63 64 65")
    start = bytes.fromhex("ae 5a 1c")
    header = pack_collection_header([b"ab", b"cde"])
    assert header == start + bytes([crc8(start + area)]) + area
    assert unpack_collection_header(header) == 14
    assert unpack_models(header) == [b"ab", b"cde"]
    assert unpack_models(pack_collection_header()) == []


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 253, 254, 255, 1000])
def test_crc8_of_long_messages_is_that_of_the_table(size: int) -> None:
    message = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8).tobytes()
    crc = 0
    for byte in message:
        crc = _CRC8[crc ^ byte]
    assert crc8(message) == crc
    assert crc8(bytes(300) + message) == crc


@pytest.mark.parametrize(
    "payload",
    [b"", bytes(783), bytes(785), stored.stored_bytes(np.zeros((28, 28), np.uint8)) + b"?"],
)
def test_minimal_decoder_refuses_bad_stored_bytes(payload: bytes, tmp_path: Path) -> None:
    stream = pack_image(ImageHeader(0, 101), payload, b"")
    with pytest.raises(ValueError, match=r"zstd|too long"):
        helpers.minimal_decode(stream, tmp_path)
    with pytest.raises(codec.CorruptPayload):
        codec.decompress(stream)


# Exact bytes


@pytest.mark.parametrize(
    ("value", "packed"),
    [
        (0, "00"),
        (1, "01"),
        (127, "7f"),
        (128, "80 01"),
        (300, "ac 02"),
        (16383, "ff 7f"),
        (16384, "80 80 01"),
        (2**32 - 1, "ff ff ff ff 0f"),
    ],
)
def test_varint_has_exact_bytes(value: int, packed: str) -> None:
    """300 = 2 * 128 + 44: first 44 | 0x80 = 0xac, then 2.

    2**32 - 1: four times seven ones, then four.
    """
    assert pack_varint(value) == bytes.fromhex(packed)
    assert unpack_varint(b"\xff" + pack_varint(value) + b"\xff", 1) == (
        value,
        1 + len(pack_varint(value)),
    )


def test_unpack_varint_takes_superfluous_zero_groups() -> None:
    assert unpack_varint(b"\x85\x80\x80\x80\x00", 0) == (5, 5)


def test_crc8_of_single_bits_is_a_shift_register() -> None:
    """CRC of 0x01: eight shifts bring x**8 = 0x2f.  Each further bit is one more shift: doubling,
    and xor 0x2f on overflow: 2f 5e bc, 178 -> 78 ^ 2f = 57, ae, 15c -> 5c ^ 2f = 73, e6, 1cc -> cc
    ^ 2f = e3.
    """
    assert [crc8(bytes([1 << i])) for i in range(8)] == [
        0x2F,
        0x5E,
        0xBC,
        0x57,
        0xAE,
        0x73,
        0xE6,
        0xE3,
    ]
    assert crc8(b"") == crc8(bytes(9)) == 0
    assert crc8(b"\x01\x2f") == 0  # a message with its CRC behind it has CRC 0
    # the published check value of polynomial 0x2f, start 0, no final xor
    assert crc8(b"123456789") == 0x3E


def test_collection_header_has_exact_bytes() -> None:
    """CRC-8, with the single bits of the test above: ae = 80+20+08+04+02 -> e3^73^57^bc^5e = 25; 25
    ^ 5a = 7f, all bits but the highest -> 2f^5e^bc^57^ae^73^e6 = a1; a1 ^ 18 = b9 = 80+20+10+08+01
    -> e3^73^ae^57^2f = 46.
    """
    assert pack_collection_header() == bytes.fromhex("ae 5a 18 46")
    assert unpack_collection_header(bytes.fromhex("ae 5a 18 46")) == 4


def test_image_header_has_exact_bytes() -> None:
    """Version 1 in the upper half: 10; with an extension 14.

    Quality 75 = 4b.  The area: 10 bytes, type 1, 8 bytes.
    """
    assert ImageHeader(1, 75).pack() == bytes.fromhex("ae 5a 10 01 4b 00")
    extended = ImageHeader(0, 99, 0xFE, HASH)
    assert extended.pack() == bytes.fromhex("ae 5a 14 00 63 fe 0a 01 08 01 23 45 67 89 ab cd ef")
    assert unpack_image_header(extended.pack() + b"payload") == (extended, 17)


def test_image_check_has_exact_value() -> None:
    """A model hash of zeros leaves CRC 0.  ae 5a -> a1 (see the collection header); a1 ^ 10 = b1 =
    80+20+10+01 -> e3^73^ae^2f = 11; 11 ^ 01 = 10 -> ae; ae ^ 32 = 9c = 80+10+08+04 -> e3^ae^57^bc =
    a6; the Check byte is left out; a6 ^ 07 = a1 = 80+20+01 -> e3^73^2f = bf.
    """
    stream = pack_image(ImageHeader(1, 50), b"\x07", bytes(32))
    assert stream == bytes.fromhex("ae 5a 10 01 32 bf 07")
    assert image_check(bytes(32), stream) == 0xBF
    assert image_check(b"\x80" + bytes(31), stream) != 0xBF


def test_extension_has_exact_bytes() -> None:
    """Fields in order of type: 0x81 with 200 bytes has a length of two bytes, c8 01; 10 + 203 = 213
    = d5 01.
    """
    packed = pack_extension({0x81: bytes(200), 0x01: HASH})
    assert packed == bytes.fromhex("d5 01  01 08 0123456789abcdef  81 c8 01") + bytes(200)
    assert unpack_extension(b"??" + packed + b"?", 2) == ({0x01: HASH}, 2 + len(packed))
    assert pack_extension({}) == b"\0"
    assert unpack_extension(b"\0", 0) == ({}, 1)


def test_unpack_extension_skips_ignorable_fields() -> None:
    fields = {0x81: b"", 0xFF: b"xyz"}
    assert unpack_extension(pack_extension(fields), 0) == ({}, 8)


def test_collection_header_with_extension_is_checked_with_it() -> None:
    """The Check covers bytes 0 to 2 and the area: here of one ignorable field."""
    start, area = b"\xae\x5a\x1c", pack_extension({0x80: b"hello"})
    header = start + bytes([crc8(start + area)]) + area
    assert unpack_collection_header(header + b"aezF") == len(header)


def test_block_header_has_exact_bytes() -> None:
    """26 bytes of fields; BLAKE2b of 4 bytes over them; Checksum as given."""
    header = BlockHeader(HASH, 75, True, 33, 0x010203, 5, 0x04030201, bytes(range(16)))
    start = bytes.fromhex(
        "61 65 7a 42  01 23 45 67 89 ab cd ef  4b 01  21 00  03 02 01 00  05 00  01 02 03 04"
    )
    header_check = hashlib.blake2b(start, digest_size=4).digest()
    assert len(start) == 26
    assert header.pack() == start + header_check + bytes(range(16))
    assert header.body_bytes == 0x010203 + 5 + 0x04030201
    assert header.block_bytes == 46 + header.body_bytes
    small = replace(header, payload_bytes=6, has_names=False, names_bytes=0)
    assert small.pack()[12:14] == b"\x4b\x00"
    assert unpack_block_header(small.pack() + b"more") == small


def test_header_check_has_pinned_value() -> None:
    """The 4 bytes are a BLAKE2b of that length, not the start of a longer one."""
    assert checksum(b"abc", size=4) == hashlib.blake2b(b"abc", digest_size=4).digest()
    assert checksum(b"abc", size=4) != hashlib.blake2b(b"abc").digest()[:4]
    assert checksum(b"a", b"", b"bc") == hashlib.blake2b(b"abc", digest_size=16).digest()


def test_footer_has_exact_bytes() -> None:
    """Two blocks, 0x1234 bytes with 4096 images and 99 bytes with 7: 4103 = 0x1007 images; 16 + 2 *
    6 + 24 = 52 bytes.
    """
    footer = Footer(((0x1234, 4096), (99, 7)))
    start = bytes.fromhex(
        "61 65 7a 46  07 10 00 00 00 00 00 00  02 00 00 00  34 12 00 00 00 10  63 00 00 00 07 00"
    )
    end = hashlib.blake2b(start, digest_size=16).digest() + bytes.fromhex(
        "34 00 00 00  61 65 7a 45"
    )
    assert footer.pack() == start + end
    assert unpack_footer_end(footer.pack()[-24:], 4 + 0x1234 + 99 + 52) == 52
    assert unpack_footer(footer.pack(), 4 + 0x1234 + 99, 0x1234 + 99) == footer


def test_empty_footer_has_forty_bytes() -> None:
    assert len(Footer(()).pack()) == 40
    assert unpack_footer_end(Footer(()).pack(), 44) == 40
    assert unpack_footer(Footer(()).pack(), 4, 0) == Footer(())


def of_quality(quality: int, image_count: int, index_bytes: int, payload_bytes: int) -> BlockHeader:
    return BlockHeader(HASH, quality, False, image_count, 0, index_bytes, payload_bytes)


def test_lossless_index_has_exact_bytes() -> None:
    """40 images are groups of 16, 16 and 8, a varint each."""
    header = of_quality(100, 40, 4, 305)
    part = only_part(header)
    assert pack_index([(part, [5, 0, 300])]) == bytes.fromhex("05 00 ac 02")
    assert unpack_index(bytes.fromhex("05 00 ac 02"), header, 100)[1] == [5, 0, 300]


def test_lossy_index_has_exact_bytes() -> None:
    """15 images of quality 75 are three groups of 5. Mean 100 (64): 0, -3 and 3 from it are the
    gaps 1, 6 and 7, the least limit is 14 (0e), and 2**r <= 14 / 3: r = 2. Less 1 the gaps are 0,
    5, 6: quotients 0, 1, 1 (1 01 01), remainders 00 01 10: 10101000 110, filled up with zeros.
    Below quality 50 the same images are one group."""
    header = of_quality(75, 15, 4, 300)
    assert pack_index([(only_part(header), [100, 97, 103])]) == bytes.fromhex("64 0e a8 c0")
    assert unpack_index(bytes.fromhex("64 0e a8 c0"), header, 100)[1] == [100, 97, 103]
    assert [
        only_part(of_quality(quality, 15, 0, 0)).num_groups for quality in (0, 49, 50, 99, 100)
    ] == [1, 1, 3, 3, 1]


# Errors: class and offset of each


def fault(error: type[BitstreamError], offset: int | None, function: object, *args: object) -> None:
    """Assert that the call raises exactly this class at this offset."""
    with pytest.raises(BitstreamError) as caught:
        function(*args)  # type: ignore[operator]
    assert type(caught.value) is error, repr(caught.value)
    assert caught.value.offset == offset, repr(caught.value)


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (b"", "the stream is empty"),
        (b"\x89PNG\r\n", "not an .aez file: it begins with 89 50, not ae 5a"),
        (bytes.fromhex("ae5a 10"), "this is a single image, not a collection"),
        (bytes.fromhex("ae5a 18"), "byte 3: the stream ends inside its header"),
        (bytes.fromhex("ae5a 70"), "byte 2: version 7, this reader knows 1"),
    ],
)
def test_messages_say_what_is_wrong_and_only_where_that_helps(stream: bytes, said: str) -> None:
    with pytest.raises(BitstreamError) as caught:
        unpack_collection_header(stream)
    assert str(caught.value) == said


def test_messages_about_the_end_of_a_collection_and_about_a_block() -> None:
    with pytest.raises(Truncated) as caught:
        unpack_footer_end(end(40, b"aezF"), 500)
    assert str(caught.value) == (
        "the file does not end as a collection does: it is cut short or its end is damaged"
    )
    block = bytearray(pack_block([(Part(bytes(8), 75, np.arange(2)), [b"abc"])], None))
    block[-1] ^= 1
    with pytest.raises(ChecksumMismatch) as damaged:
        unpack_block(bytes(block), 4)
    assert str(damaged.value) == "byte 4: this block is damaged"


def image(start: str, rest: bytes = b"") -> bytes:
    return bytes.fromhex(start) + rest


@pytest.mark.parametrize(
    ("stream", "max_bytes", "error"),
    [
        (b"?", 5, Truncated),
        (b"?\x80", 5, Truncated),
        (b"?\x80\x80\x80\x80\x80\x00", 5, LimitExceeded),
        (b"?\x80\x80\x80\x00", 3, LimitExceeded),
    ],
)
def test_unpack_varint_raises(stream: bytes, max_bytes: int, error: type[BitstreamError]) -> None:
    fault(error, 1, lambda: unpack_varint(stream, 1, max_bytes=max_bytes))


@pytest.mark.parametrize(
    ("area", "error", "offset"),
    [
        ("", Truncated, 2),  # no length
        ("80", Truncated, 2),  # half a length
        ("81 80 80 08", LimitExceeded, 6),  # 2**24 + 1 bytes
        ("03 80 00", Truncated, 3),  # the area runs past the stream
        ("03 80 02 00", Truncated, 3),  # the field runs past the area
        ("01 80", Truncated, 4),  # a field without a length
        ("02 80 80 00", Truncated, 4),  # the length of the field runs past the area
        ("04 80 00 02 00", UnsupportedVersion, 5),  # critical, in second place
        ("02 00 00", UnsupportedVersion, 3),
        ("02 7f 00", UnsupportedVersion, 3),
        ("09 01 07 00 00 00 00 00 00 00", LimitExceeded, 3),  # a hash of 7 bytes
    ],
)
def test_unpack_extension_raises(area: str, error: type[BitstreamError], offset: int) -> None:
    fault(error, offset, unpack_extension, b"??" + bytes.fromhex(area), 2)


@pytest.mark.parametrize("unpack", [is_collection, unpack_image_header, unpack_collection_header])
@pytest.mark.parametrize(
    ("stream", "error", "offset"),
    [
        ("", Truncated, 0),
        ("ae", Truncated, 1),
        ("ae 5a", Truncated, 2),
        ("af", BadMagic, 0),
        ("ae 5b", BadMagic, 0),
        ("00 5a 10 01 4b 00", BadMagic, 0),
        ("ae 5a 00 01 4b 00", UnsupportedVersion, 2),
        ("ae 5a 23", UnsupportedVersion, 2),  # version before reserved flags
        ("ae 5a f8 46", UnsupportedVersion, 2),
        ("ae 5a 11", ReservedBitsSet, 2),
        ("ae 5a 12 01 4b 00", ReservedBitsSet, 2),
        ("ae 5a 1b 46", ReservedBitsSet, 2),
    ],
)
def test_start_of_any_stream_raises(
    unpack: object, stream: str, error: type[BitstreamError], offset: int | None
) -> None:
    fault(error, offset, unpack, bytes.fromhex(stream))


@pytest.mark.parametrize(
    ("stream", "error", "offset"),
    [
        (image("ae 5a 18 46"), BadMagic, None),
        (image("ae 5a 10"), Truncated, 3),
        (image("ae 5a 10 01 4b"), Truncated, 5),
        (image("ae 5a 10 01 4b 00", bytes(65531)), LimitExceeded, 0),
        (image("ae 5a 10 01 66 00"), ReservedBitsSet, 4),  # quality 102
        (image("ae 5a 10 00 64 00"), ReservedBitsSet, 3),  # lossless, no hash
        (image("ae 5a 10 01 65 00"), ReservedBitsSet, 3),  # stored, yet with a model
        (image("ae 5a 14 00 65 00", pack_extension({1: HASH})), ReservedBitsSet, 3),
        (image("ae 5a 10 01 ff 00"), ReservedBitsSet, 4),
        (image("ae 5a 10 00 4b 00"), ReservedBitsSet, 3),  # no hash
        (image("ae 5a 14 00 4b 00 00"), ReservedBitsSet, 3),
        # number and hash
        (image("ae 5a 14 01 4b 00", pack_extension({1: HASH})), ReservedBitsSet, 3),
        (image("ae 5a 14 00 4b 00"), Truncated, 6),
        (image("ae 5a 14 01 4b 00", b"\x02\x02\x00"), UnsupportedVersion, 7),
    ],
)
def test_unpack_image_header_raises(
    stream: bytes, error: type[BitstreamError], offset: int
) -> None:
    fault(error, offset, unpack_image_header, stream)


def test_image_stream_may_be_as_long_as_the_limit() -> None:
    assert unpack_image_header(image("ae 5a 10 01 63 00", bytes(65530))) == (ImageHeader(1, 99), 6)


def test_image_header_of_a_lossless_and_of_a_stored_image() -> None:
    """Quality 100 = 64 with a model, 101 = 65 with none; other extension fields may stand there all
    the same.
    """
    assert unpack_image_header(image("ae 5a 10 03 64 00", b"?")) == (ImageHeader(3, 100), 6)
    assert unpack_image_header(image("ae 5a 14 00 64 00", pack_extension({1: HASH}))) == (
        ImageHeader(0, 100, 0, HASH),
        17,
    )
    assert ImageHeader(0, 101).pack() == bytes.fromhex("ae 5a 10 00 65 00")
    assert unpack_image_header(image("ae 5a 10 00 65 00", b"?")) == (ImageHeader(0, 101), 6)
    assert unpack_image_header(image("ae 5a 14 00 65 00", pack_extension({0x80: b"x"}))) == (
        ImageHeader(0, 101),
        10,
    )


def test_stored_image_has_exact_check() -> None:
    """No model, so nothing goes before the stream: a message with its CRC behind it has CRC 0."""
    stream = pack_image(ImageHeader(0, 101), b"\x07", b"")
    assert stream[:5] + stream[6:] == bytes.fromhex("ae 5a 10 00 65 07")
    assert crc8(stream[:5] + stream[6:] + stream[5:6]) == 0


def test_block_header_takes_the_quality_of_lossless_blocks() -> None:
    assert unpack_block_header(replace(GOOD, quality=100).pack(), 1000).quality == 100


@pytest.mark.parametrize(
    ("stream", "error", "offset"),
    [
        ("ae 5a 10 01 4b 00", BadMagic, None),
        ("ae 5a 18", Truncated, 3),
        ("ae 5a 18 47", ChecksumMismatch, 3),
        ("ae 5a 1c 46", Truncated, 4),
        ("ae 5a 1c 46 00", ChecksumMismatch, 3),
        ("ae 5a 1c 46 02 02 00", UnsupportedVersion, 5),
    ],
)
def test_unpack_collection_header_raises(
    stream: str, error: type[BitstreamError], offset: int | None
) -> None:
    fault(error, offset, unpack_collection_header, bytes.fromhex(stream))


GOOD = BlockHeader(HASH, 99, False, 4096, 0, 256, 256 << 20)


def flagged(flags: int) -> bytes:
    """A block header with these Block_Flags and a valid Header_Check."""
    start = GOOD.pack()[:13] + bytes([flags]) + GOOD.pack()[14:26]
    return start + checksum(start, size=4) + bytes(16)


@pytest.mark.parametrize(
    ("stream", "error", "offset"),
    [
        (b"", Truncated, 1000),
        (GOOD.pack()[:-1], Truncated, 1000),
        (b"aezF" + GOOD.pack()[4:], BadMagic, 1000),
        (replace(GOOD, quality=101).pack(), ReservedBitsSet, 1012),  # stored: single images only
        (flagged(0x08), ReservedBitsSet, 1013),
        (flagged(0x81), ReservedBitsSet, 1013),
        (replace(GOOD, image_count=0).pack(), LimitExceeded, 1014),
        (replace(GOOD, image_count=4097).pack(), LimitExceeded, 1014),
        (replace(GOOD, names_bytes=2**24 + 1).pack(), LimitExceeded, 1016),
        (replace(GOOD, payload_bytes=2**28 + 1).pack(), LimitExceeded, 1016),
        (replace(GOOD, image_count=16, payload_bytes=2**20 + 1).pack(), LimitExceeded, 1016),
    ],
)
def test_unpack_block_header_raises(
    stream: bytes, error: type[BitstreamError], offset: int
) -> None:
    fault(error, offset, unpack_block_header, stream, 1000)


def test_unpack_block_header_takes_what_is_just_within_the_limits() -> None:
    for header in (
        GOOD,
        replace(GOOD, image_count=1, payload_bytes=2**20),
        replace(GOOD, has_names=True, names_bytes=2**24),
    ):
        assert unpack_block_header(header.pack(), 1000) == header


@pytest.mark.parametrize("at", range(4, 30))
def test_block_header_check_covers_every_byte_before_it(at: int) -> None:
    stream = bytearray(GOOD.pack())
    stream[at] ^= 0x10
    fault(ChecksumMismatch, 1000, unpack_block_header, bytes(stream), 1000)


def end(footer_bytes: int, magic: bytes = b"aezE") -> bytes:
    return bytes(16) + struct.pack("<I", footer_bytes) + magic


@pytest.mark.parametrize(
    ("tail", "error", "offset"),
    [
        (end(40)[1:], Truncated, 500),
        (end(40, b"aezF"), Truncated, None),
        (end(39), LimitExceeded, 492),
        (end(497), LimitExceeded, 492),
        (end(2**32 - 1), LimitExceeded, 492),
    ],
)
def test_unpack_footer_end_raises(
    tail: bytes, error: type[BitstreamError], offset: int | None
) -> None:
    fault(error, offset, unpack_footer_end, tail, 500)


def test_unpack_footer_end_takes_what_is_just_within_the_limits() -> None:
    assert unpack_footer_end(end(496), 500) == 496


FOOTER_BYTES = Footer(((60, 3), (70, 4))).pack()


def claiming(total: int, count: int) -> bytes:
    """FOOTER_BYTES with other counts and a valid Checksum."""
    start = struct.pack("<4sQI", b"aezF", total, count) + FOOTER_BYTES[16:28]
    return start + checksum(start) + FOOTER_BYTES[-8:]


@pytest.mark.parametrize(
    ("footer", "blocks_bytes", "error", "offset"),
    [
        (b"aezB" + FOOTER_BYTES[4:], 130, BadMagic, 134),
        (claiming(7, 1), 130, LimitExceeded, 146),
        (claiming(7, 2**32 - 1), 130, LimitExceeded, 146),
        (FOOTER_BYTES[:20] + b"\xff" + FOOTER_BYTES[21:], 130, ChecksumMismatch, 134),
        (
            FOOTER_BYTES[:28] + bytes([FOOTER_BYTES[28] ^ 1]) + FOOTER_BYTES[29:],
            130,
            ChecksumMismatch,
            134,
        ),
        (claiming(8, 2), 130, LimitExceeded, 138),
        (FOOTER_BYTES, 131, TrailingData, 134),
        (FOOTER_BYTES, 129, Truncated, 134),
    ],
)
def test_unpack_footer_raises(
    footer: bytes, blocks_bytes: int, error: type[BitstreamError], offset: int
) -> None:
    fault(error, offset, unpack_footer, footer, 134, blocks_bytes)


@pytest.mark.parametrize(
    ("index", "error", "offset"),
    [
        ("05 06 00", TrailingData, 102),
        ("05 07", LimitExceeded, 100),
        ("05 05", LimitExceeded, 100),
        ("05", Truncated, 101),
        ("05 86", Truncated, 101),
        ("05 86 80 80 00", LimitExceeded, 101),
    ],
)
def test_unpack_lossless_index_raises(index: str, error: type[BitstreamError], offset: int) -> None:
    fault(error, offset, unpack_index, bytes.fromhex(index), of_quality(100, 32, 0, 11), 100)


@pytest.mark.parametrize(
    ("index", "error", "offset"),
    [
        ("64 0e a8 c0 00", TrailingData, 104),
        ("63 0e a8 c0", LimitExceeded, 100),  # lengths that add up to something else
        ("02 0e a8 c0", LimitExceeded, 100),  # 2 - 3 bytes
        ("64 02 a8 c0", LimitExceeded, 102),  # three positions below 2
        ("64 0d a8 c0", LimitExceeded, 102),  # a position of 13
        ("64 0e a8 c1", LimitExceeded, 102),  # bits behind the last position
        ("64 0e a8", Truncated, 102),
        ("64 0e 00 00", Truncated, 102),
        ("64", Truncated, 101),
        ("e4 80 80 00 0e a8 c0", LimitExceeded, 100),
        ("64 8e 80 80 80 80 00 a8 c0", LimitExceeded, 101),
    ],
)
def test_unpack_lossy_index_raises(index: str, error: type[BitstreamError], offset: int) -> None:
    fault(error, offset, unpack_index, bytes.fromhex(index), of_quality(75, 15, 0, 300), 100)
