"""Golden streams: what they are, and the one command that makes them.

    python tests/golden_tool.py

writes the streams that `tests/golden/` lacks and lists them in `golden.json`; a name that exists is
never written again. Names hold the model's hash: new weights get new goldens beside the old ones,
and old ones go only with models that no release ever shipped. `manifest.json`, for who writes
another decoder (FORMAT.md 12.8), is written anew each time: it says what the streams say.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from codec import api, zstd
from codec.collection.writer import Writer
from codec.encoder.scale import LAST_ROW
from codec.errors import BitstreamError
from codec.files.images import read_image
from codec.format.block import pack_block
from codec.format.constants import LOSSLESS_QUALITY, NEAR_LOSSLESS, STORED_QUALITY
from codec.format.footer import Footer
from codec.format.headers import (
    BLOCK,
    ImageHeader,
    is_collection,
    pack_collection_header,
    pack_image,
    unpack_block_header,
    unpack_image_header,
)
from codec.format.index import Part
from codec.format.primitives import checksum, pack_varint
from codec.model import registry

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "golden"
LIST = GOLDEN / "golden.json"
MANIFEST = GOLDEN / "manifest.json"
ERRORS = GOLDEN / "errors"
EXAMPLES = HERE.parent / "examples" / "images"


def sources() -> tuple[np.ndarray, list[str]]:
    """-> the example images uint8 (N, 28, 28), and their names."""
    paths = sorted(EXAMPLES.rglob("*.png"))
    return np.stack([read_image(p) for p in paths]), [
        p.relative_to(EXAMPLES).as_posix() for p in paths
    ]


def recipes() -> dict[str, dict[str, Any]]:
    """Name -> how to make it: which images (slice bounds, or one number), quality, model, whether
    with names, with which labels.
    """
    wanted: dict[str, dict[str, Any]] = {}
    for model_hash in registry.MODEL_IDS.values():
        model = registry.by_hash(bytes.fromhex(model_hash))
        tag = f"{model.name}-{model_hash[:8]}"
        if model.lossless:
            wanted[f"{tag}-image3.aez"] = {"images": 3, "quality": 100, "model": model.name}
            wanted[f"{tag}-named40.aez"] = {
                "images": [0, 40],
                "quality": 100,
                "model": model.name,
                "names": True,
            }
            wanted[f"{tag}-image3-error4.aez"] = {"images": 3, "max_error": 4, "model": model.name}
            wanted[f"{tag}-plain40-error8.aez"] = {
                "images": [0, 40],
                "max_error": 8,
                "model": model.name,
            }
            continue
        for number, quality in ((3, 0), (17, 30), (40, 75), (25, 99)):
            wanted[f"{tag}-image{number}-q{quality}.aez"] = {
                "images": number,
                "quality": quality,
                "model": model.name,
            }
        wanted[f"{tag}-named40-q60.aez"] = {
            "images": [0, 40],
            "quality": 60,
            "model": model.name,
            "names": True,
        }
        wanted[f"{tag}-plain17-q85.aez"] = {"images": [20, 37], "quality": 85, "model": model.name}
        wanted[f"{tag}-parts40.aez"] = {"images": [0, 40], "max_bytes": 64, "model": model.name}
        if model.name == "mnist":
            wanted[f"{tag}-labels40-q60.aez"] = {
                "images": [0, 40],
                "quality": 60,
                "model": model.name,
                "names": True,
                "labels": "integers",
            }
            wanted[f"{tag}-texts17-q30.aez"] = {
                "images": [20, 37],
                "quality": 30,
                "model": model.name,
                "labels": "texts",
            }
    wanted["empty-collection.aez"] = {"images": [0, 0], "quality": 50, "model": "auto"}
    return wanted


def make(recipe: dict[str, Any]) -> bytes:
    """The stream of a recipe.

    Without the guard: what the models do to images that they do not know is to be seen.
    """
    pixels, names = sources()
    if LAST_ROW < recipe.get("quality", 0) < 100:
        return of_row(pixels, recipe)
    options = {
        "quality": recipe.get("quality"),
        "max_bytes": recipe.get("max_bytes"),
        "max_error": recipe.get("max_error"),
        "model": recipe["model"],
        "effort": 1,
        "guard": False,
    }
    if isinstance(recipe["images"], int):
        return api.compress(pixels[recipe["images"]], **options)
    part = slice(*recipe["images"])
    named = names[part] if recipe.get("names") else None
    return api.compress(pixels[part], names=named, labels=labels(recipe), **options)


def labels(recipe: dict[str, Any]) -> list[int] | list[str] | None:
    """The labels of a recipe: integers of two bytes, or texts that repeat; None without any."""
    kind, bounds = recipe.get("labels"), recipe["images"]
    if kind is None:
        return None
    if kind == "integers":
        return [i * i for i in range(*bounds)]
    return [("digit", "letter", "Zahlzeichen 数字")[i * i % 3] for i in range(*bounds)]


def of_row(pixels: np.ndarray, recipe: dict[str, Any]) -> bytes:
    """A lossy stream of a row of the tables for which `api.compress` may take something better."""
    model, quality = registry.by_name(recipe["model"]), recipe["quality"]
    if isinstance(recipe["images"], int):
        (message,) = model.encode(pixels[recipe["images"]][None], quality, group=1).messages
        return pack_image(ImageHeader(registry.id_of(model), quality), message, model.sha256)
    some = pixels[slice(*recipe["images"])]
    part, file = Part(model.hash, quality, np.arange(len(some))), io.BytesIO()
    writer = Writer(file)
    writer.write(pack_block([(part, model.encode(some, quality).messages)], None), len(some))
    writer.finish()
    return file.getvalue()


def error_streams() -> dict[str, bytes]:
    """One stream for each leaf of BitstreamError: the name says class and fault."""
    pixels, names = sources()
    single = api.compress(pixels[5], quality=50, model="mnist", effort=1)
    collection = api.compress(pixels, quality=50, names=names, effort=1)

    def patched(stream: bytes, at: int, value: int) -> bytes:
        return stream[:at] + bytes([value]) + stream[at + 1 :]

    cut = bytearray(collection)
    header = unpack_block_header(collection[4:], 4)
    cut[4 + BLOCK.size + header.names_bytes + header.index_bytes + 3] ^= 0x10
    return {
        "BadMagic-png.aez": (EXAMPLES / names[0]).read_bytes(),
        "BadMagic-text.aez": b"not an aez stream\n",
        "UnsupportedVersion-2.aez": patched(single, 2, 0x20),
        "UnsupportedVersion-critical-field.aez": patched(single, 2, 0x14)[:6]
        + b"\x02\x02\x00"
        + single[6:],
        "ReservedBitsSet-flags.aez": patched(single, 2, 0x11),
        "ReservedBitsSet-quality-102.aez": patched(single, 4, 102),
        "ReservedBitsSet-stored-with-model.aez": patched(single, 4, 101),
        "Truncated-empty.aez": b"",
        "Truncated-header.aez": single[:4],
        "Truncated-collection.aez": collection[: len(collection) // 2],
        "TrailingData-after-block.aez": collection[: 4 + header.block_bytes]
        + b"\0"
        + collection[4 + header.block_bytes :],
        "LimitExceeded-image-of-64-KiB.aez": single + bytes(1 << 16),
        "LimitExceeded-footer.aez": collection[:-8] + b"\xff\xff\xff\x7f" + collection[-4:],
        "ChecksumMismatch-image.aez": patched(single, len(single) - 1, single[-1] ^ 1),
        "ChecksumMismatch-block.aez": bytes(cut),
        "CorruptPayload-image.aez": corrupt_payload(single),
        "CorruptPayload-lossless-of-a-lossy-model.aez": other_quality(single, 100),
        "CorruptPayload-stored.aez": pack_image(ImageHeader(0, 101), bytes(783), b""),
        "ReservedBitsSet-width-of-labels.aez": labelled("03 07 00 00 00 00 00"),
        "CorruptPayload-label-without-a-text.aez": labelled("81 02 61 00 62 00 00 02"),
        "TrailingData-after-labels.aez": labelled("01 07 00", after=b"\0"),
        "LimitExceeded-labels.aez": labelled("01 07 00", claimed=1 << 22),
    }


def labelled(content: str, *, after: bytes = b"", claimed: int | None = None) -> bytes:
    """A collection of two images with these bytes as labels."""
    pixels = sources()[0][:2]
    plain = api.compress(pixels, quality=50, model="mnist", effort=1)
    header = unpack_block_header(plain[4:], 4)
    frame = zstd.pack(bytes.fromhex(content), checksum=True)
    area = pack_varint(len(frame) if claimed is None else claimed) + frame + after
    body = area + plain[4 + BLOCK.size : 4 + header.block_bytes]
    changed = replace(header, has_labels=True, names_bytes=len(area))
    changed = replace(changed, checksum=checksum(changed.pack()[:30], body))
    footer = Footer(((changed.block_bytes, 2),))
    return pack_collection_header() + changed.pack() + body + footer.pack()


def corrupt_payload(single: bytes) -> bytes:
    """A payload changed together with its Check: only the coder's final state can tell."""
    header, offset = unpack_image_header(single)
    model = registry.by_id(header.model_id)
    return pack_image(header, bytes(b ^ 0x55 for b in single[offset:]), model.sha256)


def other_quality(single: bytes, quality: int) -> bytes:
    """The stream with another Quality and the Check that fits."""
    header, offset = unpack_image_header(single)
    model = registry.by_id(header.model_id)
    return pack_image(replace(header, quality=quality), single[offset:], model.sha256)


def coding_of(quality: int) -> str:
    """What a quality is called in the manifest."""
    if quality > NEAR_LOSSLESS:
        return "near-lossless"
    return {STORED_QUALITY: "stored", LOSSLESS_QUALITY: "lossless"}.get(quality, "lossy")


def described(stream: bytes) -> dict[str, Any]:
    """What the manifest says of a stream: its kind, models, pixels, names and labels."""
    info, pixels = api.info(stream), api.decompress(stream)
    entry = {
        "container": "single",
        "coding": sorted({coding_of(quality) for quality in info.qualities}),
        "qualities": sorted(info.qualities),
        "parts": 1,
        "embedded": [],
        "models": [{"name": m.name, "model_hash": m.hash} for m in info.models if m.hash],
        "shape": list(pixels.shape),
        "pixels_sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
        "names": None,
        "labels": None,
    }
    if is_collection(stream):
        with api.open(stream) as opened:
            names, labels = opened.names, opened.labels
            embedded = [hashlib.sha256(model).hexdigest()[:16] for model in opened.model.embedded]
            entry |= {
                "container": "collection",
                "parts": max((len(block.parts) for block in opened.blocks), default=0),
                "embedded": embedded,
                "names": names or None,
                "labels": labels if labels is None or isinstance(labels, list) else labels.tolist(),
            }
    return entry


def error_of(stream: bytes) -> str:
    """The name of the error that a stream gives."""
    try:
        api.decompress(stream)
    except BitstreamError as error:
        return type(error).__name__
    raise ValueError("this stream decodes")


def manifest() -> dict[str, Any]:
    """For who writes another decoder: what each stream is, and what it must give."""
    return {
        "streams": [
            {"path": path.name, **described(path.read_bytes())}
            for path in sorted(GOLDEN.glob("*.aez"))
        ],
        "errors": [
            {"path": f"errors/{path.name}", "error": error_of(path.read_bytes())}
            for path in sorted(ERRORS.glob("*.aez"))
        ],
    }


def write_manifest() -> None:
    """Write it with one line for each stream."""
    lists = []
    for title, entries in manifest().items():
        rows = ",\n".join("  " + json.dumps(entry, ensure_ascii=False) for entry in entries)
        lists.append(f' "{title}": [\n{rows}\n ]')
    MANIFEST.write_text("{\n" + ",\n".join(lists) + "\n}\n", encoding="utf-8")


def main() -> None:
    """Write what is missing, and the manifest."""
    ERRORS.mkdir(parents=True, exist_ok=True)
    listed: dict[str, Any] = json.loads(LIST.read_text()) if LIST.exists() else {}
    for name, recipe in recipes().items():
        path = GOLDEN / name
        if path.exists() or name in listed:
            print(f"{name} exists, left alone", file=sys.stderr)
            continue
        stream = make(recipe)
        path.write_bytes(stream)
        pixels = api.decompress(stream)
        listed[name] = {
            **recipe,
            "stream_sha256": hashlib.sha256(stream).hexdigest(),
            "pixels_sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
            "shape": pixels.shape,
        }
    LIST.write_text(json.dumps(listed, indent=1, sort_keys=True) + "\n")
    for name, stream in error_streams().items():
        path = ERRORS / name
        if path.exists():
            print(f"errors/{name} exists, left alone", file=sys.stderr)
        else:
            path.write_bytes(stream)
    write_manifest()


if __name__ == "__main__":
    main()
