"""codec.files.images: what is taken is taken exactly; everything else is an ImageError that begins
with the file's name.
"""

from __future__ import annotations

import importlib.util
import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from codec.errors import ImageError
from codec.files.arrays import is_array_file, read_array
from codec.files.images import (
    HEAD_BYTES,
    ORIENTATION,
    examine,
    is_image_content,
    is_image_file,
    pack_idx,
    pack_npy,
    pack_png,
    read_image,
)

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("AEZ_DATA", ROOT.parent / "shared" / "data"))
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
GREY = PIXELS[0]
ALPHA = np.full((28, 28), 255, np.uint8)


def saved(image: Image.Image, image_format: str, **options: object) -> io.BytesIO:
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def palette_image(palette_entry: tuple[int, int, int] | None = None) -> Image.Image:
    """GREY as indexes into a reversed grey palette, with perhaps one entry of another colour."""
    palette = [(255 - i,) * 3 for i in range(256)]
    if palette_entry:
        palette[255 - GREY[3, 3]] = palette_entry
    image = Image.fromarray(255 - GREY).convert("P")  # L -> P keeps the indexes
    image.putpalette([channel for entry in palette for channel in entry])
    return image


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, raw: bytes, more: bytes = b"") -> bytes:
    header = struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0)
    chunks = (
        png_chunk(b"IHDR", header)
        + more
        + png_chunk(b"IDAT", zlib.compress(raw))
        + png_chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


# Images, taken exactly


@pytest.mark.parametrize(
    "image_format", ["PNG", "BMP", "GIF", "PPM", "TIFF", "TGA", "JPEG2000", "PCX", "SGI"]
)
def test_read_image_takes_grey_exactly_in_every_lossless_format(image_format: str) -> None:
    pixels = read_image(saved(Image.fromarray(GREY), image_format))
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    np.testing.assert_array_equal(pixels, GREY)


def test_read_image_takes_lossless_webp_of_equal_channels() -> None:
    image = Image.fromarray(np.dstack([GREY] * 3))
    np.testing.assert_array_equal(read_image(saved(image, "WEBP", lossless=True)), GREY)


def test_read_image_takes_a_grey_jpeg_as_pillow_decodes_it() -> None:
    stream = saved(Image.fromarray(GREY), "JPEG")
    np.testing.assert_array_equal(read_image(stream), np.array(Image.open(stream)))


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(np.dstack([GREY] * 3)),
        Image.fromarray(np.dstack([GREY, ALPHA])),
        Image.fromarray(np.dstack([GREY] * 3 + [ALPHA])),
        palette_image(),
    ],
    ids=lambda image: image.mode,
)
def test_read_image_takes_grey_in_other_modes(image: Image.Image) -> None:
    np.testing.assert_array_equal(read_image(saved(image, "PNG")), GREY)


def test_read_image_takes_one_bit_as_black_and_white() -> None:
    image = Image.fromarray(GREY > 127)
    assert image.mode == "1"
    np.testing.assert_array_equal(read_image(saved(image, "PNG")), np.where(GREY > 127, 255, 0))


@pytest.mark.parametrize(("depth", "values"), [(2, [0, 85, 170, 255]), (4, [0, 17, 238, 255])])
def test_read_image_spreads_png_of_few_bits_over_the_whole_range(
    depth: int, values: list[int]
) -> None:
    samples = [value * (2**depth - 1) // 255 for value in values] * 7
    row = int("".join(f"{sample:0{depth}b}" for sample in samples), 2).to_bytes(
        28 * depth // 8, "big"
    )
    pixels = read_image(io.BytesIO(png(28, 28, depth, 0, (b"\0" + row) * 28)))
    np.testing.assert_array_equal(pixels, [values * 7] * 28)


@pytest.mark.parametrize(
    "image", [Image.fromarray(GREY), Image.fromarray(np.dstack([GREY] * 3)), palette_image()]
)
def test_read_image_takes_a_transparent_colour_that_no_pixel_has(image: Image.Image) -> None:
    unused = next(value for value in range(256) if value not in GREY)
    key = {"L": unused, "RGB": (unused,) * 3, "P": 255 - unused}[image.mode]
    np.testing.assert_array_equal(read_image(saved(image, "PNG", transparency=key)), GREY)


def test_read_image_takes_a_path_and_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(pack_png(GREY))
    np.testing.assert_array_equal(read_image(path), GREY)
    with subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        np.testing.assert_array_equal(read_image(process.stdout, "-"), GREY)


# Images, refused

SIXTEEN = np.full((28, 28), 0x1234, np.uint16)
FRAMES = [Image.fromarray(pixels) for pixels in PIXELS[:3]]
COLOUR = np.dstack([GREY, GREY, 255 - GREY])
SEE_THROUGH = np.dstack(
    [GREY, np.where(ALPHA.cumsum().reshape(28, 28) == 255, 254, 255).astype(np.uint8)]
)

REFUSED = {
    "640x480 pixels, aez takes 28x28": saved(Image.new("L", (640, 480)), "PNG").getvalue(),
    "28x27 pixels, aez takes 28x28": saved(Image.new("L", (28, 27)), "BMP").getvalue(),
    "in colour, aez takes grey": saved(Image.fromarray(COLOUR), "PNG").getvalue(),
    "in colour, aez takes": saved(palette_image((1, 2, 3)), "PNG").getvalue(),
    "in colour (CMYK), aez takes grey": saved(Image.new("CMYK", (28, 28)), "TIFF").getvalue(),
    "has transparency": saved(Image.fromarray(SEE_THROUGH), "PNG").getvalue(),
    "has transparenc": saved(Image.fromarray(GREY), "PNG", transparency=int(GREY[9, 9])).getvalue(),
    "has transparen": saved(palette_image(), "PNG", transparency=255 - int(GREY[9, 9])).getvalue(),
    "has transpare": png(28, 28, 4, 0, (b"\0" + b"\xff" * 14) * 28, png_chunk(b"tRNS", b"\0\x0f")),
    "16 bits a pixel, aez takes 8": saved(Image.fromarray(SIXTEEN), "PNG").getvalue(),
    # Pillow opens it as 8-bit RGB
    "16 bits a pixel, aez takes": png(28, 28, 16, 2, bytes(28 * (1 + 6 * 28))),
    "16 bits a pixel, aez": png(28, 28, 16, 4, bytes(28 * (1 + 4 * 28))),  # and this as 8-bit LA
    "16 bits a pixel,": b"P6 28 28 65535\n" + bytes(28 * 28 * 6),
    "16 bits a pixel": b"P5 28 28 65535\n" + bytes(28 * 28 * 2),
    "32 bits a pixel, aez takes 8": saved(
        Image.fromarray(GREY.astype(np.float32)), "TIFF"
    ).getvalue(),
    "is animated (3 frames)": saved(
        FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]
    ).getvalue(),
    "is animated (3 frames": saved(
        FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]
    ).getvalue(),
    "has 3 pages": saved(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]).getvalue(),
    "is truncated or damaged: ": pack_png(GREY)[:400],
    "is not an image that Pillow can read": b"aez" * 99,
    "is empty": b"",
    "is not an image that Pillow": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n%%EndComments\n"
    ),
}


@pytest.mark.parametrize(("said", "stream"), REFUSED.items(), ids=REFUSED)
def test_read_image_says_what_it_refuses(said: str, stream: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(stream)
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: {said}")
    with pytest.raises(ImageError) as caught:
        read_image(io.BytesIO(stream), "zoo/cat.png")
    assert str(caught.value).startswith(f"zoo/cat.png: {said}")


@pytest.mark.parametrize("side", [5_000, 12_000, 60_000])
@pytest.mark.parametrize("action", ["error", "ignore"])
@pytest.mark.filterwarnings("default")
def test_read_image_never_decodes_a_bomb(
    side: int, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import warnings

    warnings.simplefilter(action)  # type: ignore[arg-type]
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageError, match=r"^bomb\.png: .*pixels"):
        read_image(io.BytesIO(png(side, side, 8, 0, bytes(1000))), "bomb.png")


@pytest.mark.parametrize("read", [read_image, read_array])
def test_read_says_when_there_is_no_readable_file(read, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ImageError, match=r"gone\.png: No such file or directory$"):
        read(tmp_path / "gone.png")
    with pytest.raises(ImageError, match=r"Is a directory$"):
        read(tmp_path)
    locked = tmp_path / "locked.png"
    locked.write_bytes(pack_png(GREY))
    locked.chmod(0)
    if not os.access(locked, os.R_OK):  # root reads everything
        with pytest.raises(ImageError, match=r"locked\.png: Permission denied$"):
            read(locked)


def test_read_image_ends_in_pixels_or_image_error_at_every_truncation() -> None:
    for image_format in ("PNG", "GIF", "BMP", "TIFF", "JPEG"):
        stream = saved(Image.fromarray(GREY), image_format).getvalue()
        for length in range(0, len(stream), 17):
            try:
                assert read_image(io.BytesIO(stream[:length])).shape == (28, 28)
            except ImageError:
                pass


@given(st.sampled_from(["PNG", "GIF", "TIFF", "BMP"]), st.integers(0), st.integers(0, 7))
@settings(deadline=None, max_examples=200)
def test_read_image_ends_in_pixels_or_image_error_after_a_bit_flip(
    image_format: str, place: int, bit: int
) -> None:
    stream = bytearray(saved(Image.fromarray(GREY), image_format).getvalue())
    stream[place % len(stream)] ^= 1 << bit
    try:
        assert read_image(io.BytesIO(stream)).shape == (28, 28)
    except ImageError:
        pass


def test_importing_images_leaves_pillow_alone() -> None:
    script = (
        "import sys, codec.files.images; sys.exit(any(m == 'PIL' or m.startswith('PIL.') for m in "
        "sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


# What else a file says


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("PNG", {}),
        ("JPEG", {"quality": 100}),
        ("WEBP", {"lossless": True}),
        ("AVIF", {"quality": 100}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_pixels_are_taken_as_they_are_stored_in_every_format(
    image_format: str, options: dict[str, Any], orientation: int
) -> None:
    """A tag that turns the image is reported and not followed: Pillow alone follows it in TIFF."""
    image = Image.fromarray(np.dstack([GREY] * 3) if image_format in ("WEBP", "AVIF") else GREY)
    plain = read_image(saved(image, image_format, **options))
    more = {"tiffinfo": {ORIENTATION: orientation}} if image_format == "TIFF" else {}
    tagged = saved(image, image_format, **options, **(more or {"exif": exif(orientation)}))
    examined = examine(tagged)
    np.testing.assert_array_equal(examined.pixels, plain)
    assert "orientation" in examined.dropped
    assert "orientation" not in examine(saved(image, image_format, **options)).dropped


def test_what_is_not_pixels_is_reported() -> None:
    info = PngInfo()
    info.add(b"gAMA", struct.pack(">I", 45455))
    info.add_text("Author", "nobody")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    stream = saved(Image.fromarray(GREY), "PNG", pnginfo=info, icc_profile=profile, exif=exif(1))
    examined = examine(stream)
    assert examined.dropped == ("gamma", "ICC profile", "EXIF", "texts")
    assert examined.num_bytes == len(stream.getvalue())
    np.testing.assert_array_equal(examined.pixels, GREY)
    assert examine(io.BytesIO(pack_png(GREY))).dropped == ()
    gif = saved(Image.fromarray(GREY), "GIF", comment=b"Created with a program")
    assert examine(gif).dropped == ("texts",)


def test_nearly_grey_is_refused_by_how_much_and_taken_if_asked_for() -> None:
    """What lossy WebP makes of grey: no more than one step between channels."""
    stream = saved(Image.fromarray(np.dstack([GREY] * 3)), "WEBP", quality=80)
    with pytest.raises(ImageError, match=r"differ by up to 1 step; --grey takes the luma\)$"):
        read_image(stream)
    rgb = np.array(Image.open(stream)).astype(int)
    found = read_image(stream, grey=True)
    assert (rgb.min(axis=2) <= found).all()
    assert (found <= rgb.max(axis=2)).all()
    three = np.dstack([GREY, GREY, GREY]) // 2
    three[9, 9, 1] += 3
    for grey in (False, True):
        with pytest.raises(ImageError, match=r"in colour.*\(channels differ by up to 3 steps\)$"):
            read_image(saved(Image.fromarray(three), "PNG"), grey=grey)


# Damage


def recomputed(stream: bytes, chunk: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A PNG with one chunk changed, its check made to fit."""
    at = stream.index(chunk)
    size = int.from_bytes(stream[at - 4 : at], "big")
    return (
        stream[: at - 4]
        + png_chunk(chunk, change(stream[at + 4 : at + 4 + size]))
        + (stream[at + 8 + size :])
    )


def test_every_bit_of_a_png_is_under_a_check() -> None:
    """Pillow alone takes 203 of 2,728 changed files, 24 of them with other pixels."""
    stream = saved(Image.fromarray(GREY), "PNG").getvalue()
    for damaged in helpers.flips(stream):
        with pytest.raises(ImageError):
            read_image(io.BytesIO(damaged))


@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("PNG", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("SGI", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG2000", {}),
        ("WEBP", {"lossless": True}),
        ("QOI", {}),
    ],
    ids=str,
)
def test_every_truncation_is_damage(image_format: str, options: dict[str, Any]) -> None:
    image = Image.fromarray(np.dstack([GREY] * 3) if image_format in ("WEBP", "QOI") else GREY)
    stream = saved(image, image_format, **options).getvalue()
    assert read_image(io.BytesIO(stream)).shape == (28, 28)
    for length in range(len(stream)):
        with pytest.raises(ImageError):
            read_image(io.BytesIO(stream[:length]))


@pytest.mark.parametrize("image_format", ["PNG", "GIF", "PPM", "JPEG", "WEBP", "QOI"])
def test_what_follows_the_end_is_not_ignored(image_format: str) -> None:
    image = Image.fromarray(np.dstack([GREY] * 3) if image_format in ("WEBP", "QOI") else GREY)
    stream = saved(image, image_format).getvalue()
    with pytest.raises(ImageError, match=r"is truncated or damaged: .* follow"):
        read_image(io.BytesIO(stream + b"more"), grey=True)


def test_pixels_of_a_png_that_do_not_end_are_damage() -> None:
    stream = saved(Image.fromarray(GREY), "PNG").getvalue()
    for change in (lambda body: body[:-4], lambda body: body[:-1] + b"?"):  # of the check of zlib
        with pytest.raises(ImageError, match="is truncated or damaged: "):
            read_image(io.BytesIO(recomputed(stream, b"IDAT", change)))
    whole = recomputed(stream, b"IDAT", lambda body: body)
    np.testing.assert_array_equal(read_image(io.BytesIO(whole)), GREY)


@pytest.mark.parametrize("compression", ["tiff_adobe_deflate", "tiff_deflate"])
def test_the_check_of_compressed_pixels_in_tiff_counts(compression: str) -> None:
    stream = saved(Image.fromarray(GREY), "TIFF", compression=compression).getvalue()
    np.testing.assert_array_equal(read_image(io.BytesIO(stream)), GREY)
    image = Image.open(io.BytesIO(stream))
    (at,), (size,) = image.tag_v2[273], image.tag_v2[279]
    found = 0
    for bit in range(8 * at, 8 * (at + size)):
        damaged = bytearray(stream)
        damaged[bit // 8] ^= 1 << bit % 8
        try:  # the last bits before the check mean nothing
            np.testing.assert_array_equal(read_image(io.BytesIO(damaged)), GREY)
        except ImageError:
            found += 1
    assert found >= 8 * size - 7


def test_a_file_of_far_more_bytes_than_its_pixels_need_is_refused() -> None:
    stream = saved(Image.fromarray(GREY), "PNG").getvalue()
    padded = stream[:33] + png_chunk(b"teXt", bytes(1 << 20)) + stream[33:]
    with pytest.raises(ImageError, match="has over 1048576 bytes for 28x28 pixels"):
        read_image(io.BytesIO(padded))


# Bytes and names


@pytest.mark.parametrize(
    "image_format", ["PNG", "BMP", "GIF", "PPM", "TIFF", "JPEG2000", "SGI", "WEBP", "AVIF", "QOI"]
)
def test_images_are_known_by_their_first_bytes(image_format: str) -> None:
    image = Image.fromarray(np.dstack([GREY] * 3) if image_format == "QOI" else GREY)
    assert is_image_content(saved(image, image_format).getvalue()[:HEAD_BYTES])


@pytest.mark.parametrize(
    "head", [b"", b"BMW is a car, no picture", b"P5.js", b"RIFF....WAVE", b"\0\0\0\x20ftypisom"]
)
def test_other_files_are_not_taken_for_images(head: bytes) -> None:
    assert not is_image_content(head[:HEAD_BYTES])


def test_pack_png_gives_exactly_these_bytes_around_the_pixels() -> None:
    """Signature; IHDR of 13 bytes: 28, 28, depth 8, colour type 0; IDAT; IEND.

    Each row: filter 0, then 28 pixels.
    """
    stream = pack_png(GREY)
    head = bytes.fromhex(
        "89504e470d0a1a0a 0000000d 49484452 0000001c 0000001c 08 00 00 00 00 57668048"
    )
    tail = bytes.fromhex("0000000049454e44ae426082")
    assert stream.startswith(head)
    assert stream.endswith(tail)
    assert stream[len(head) + 4 : len(head) + 8] == b"IDAT"
    rows = np.frombuffer(zlib.decompress(stream[len(head) + 8 : -len(tail) - 4]), np.uint8).reshape(
        28, 29
    )
    assert not rows[:, 0].any()
    np.testing.assert_array_equal(rows[:, 1:], GREY)
    assert pack_png(GREY[::-1][::-1]) == stream  # a view, not C order


def test_pack_png_is_what_pillow_reads() -> None:
    image = Image.open(io.BytesIO(pack_png(GREY)))
    assert (image.format, image.mode, image.size) == ("PNG", "L", (28, 28))
    image.verify()
    np.testing.assert_array_equal(read_image(io.BytesIO(pack_png(GREY))), GREY)


def test_pack_idx_gives_exactly_these_bytes() -> None:
    """00 00, type 08 (uint8), 3 dimensions; then 2, 28, 28, each in 4 bytes, big-endian; then the
    pixels.
    """
    stream = pack_idx(np.full((2, 28, 28), 7, np.uint8))
    assert stream == bytes.fromhex("00000803 00000002 0000001c 0000001c") + b"\7" * 1568


def test_pack_npy_gives_the_bytes_of_numpy() -> None:
    for array in (PIXELS, GREY, PIXELS[::2]):
        assert pack_npy(array) == npy(np.ascontiguousarray(array))
    assert pack_npy(np.asfortranarray(GREY)) == pack_npy(GREY)


@pytest.mark.parametrize(
    ("name", "is_array", "is_image"),
    [
        ("x.npy", True, False),
        ("x.NPZ", True, False),
        ("x.idx", True, False),
        ("x.idx.gz", True, False),
        ("train-images-idx3-ubyte", True, False),
        ("train-images-idx3-ubyte.gz", True, False),
        ("t10k-images.idx3-ubyte", True, False),
        ("x.idx3", True, False),
        ("x.gz", False, False),
        ("x.png", False, True),
        ("X.JPeG", False, True),
        ("x.pgm", False, True),
        ("x.tif", False, True),
        ("x.npy.png", False, True),
        ("x.aez", False, False),
        ("x.eps", False, False),
        ("png", False, False),
        (".png", False, False),
    ],
)
def test_kind_of_file_follows_its_name(name: str, is_array: bool, is_image: bool) -> None:
    assert (is_array_file(Path("a.png") / name), is_image_file(Path("a.npy") / name)) == (
        is_array,
        is_image,
    )


# The images of examples/


def test_draw_gives_the_committed_images_again(tmp_path: Path) -> None:
    """Letters are drawn with a font, and FreeType's pixels are its version's own: only their
    presence is compared.
    """
    spec = importlib.util.spec_from_file_location("draw", ROOT / "examples" / "draw.py")
    assert spec is not None
    assert spec.loader is not None
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    draw.main(tmp_path)
    committed = ROOT / "examples" / "images"
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert names == sorted(
        path.relative_to(committed).as_posix() for path in committed.rglob("*.png")
    )
    assert 36 <= len(names) <= 48
    for name in names:
        drawn, kept = read_image(tmp_path / name), read_image(committed / name)
        if not name.startswith("letters/"):
            np.testing.assert_array_equal(drawn, kept, err_msg=name)
