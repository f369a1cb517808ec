"""Reading pages of `aez view` as a browser does, and small files in place of the page's own."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

# The bytes that windows-1252 does not define, which WHATWG's decoder takes as they are.
UNDEFINED = (0x81, 0x8D, 0x8F, 0x90, 0x9D)
CHARACTERS = [chr(b) if b in UNDEFINED else bytes([b]).decode("cp1252") for b in range(256)]
BYTES = {character: byte for byte, character in enumerate(CHARACTERS)}


def read_by_browser(content: bytes) -> str:
    """The characters of a file as an HTML parser takes them: newlines are normalized, and NUL, in
    a script, is U+FFFD.
    """
    text = "".join(CHARACTERS[byte] for byte in content)
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")


def scripts(content: bytes) -> dict[str, tuple[str, str]]:
    """id -> attributes and text of each script element; "" is that of the one without an id."""
    found = {}
    text = read_by_browser(content)
    while (start := re.search(r"<script([^>]*)>", text)) is not None:
        inside, end, text = text[start.end() :].partition("</script>")
        assert end
        name = re.search(r'id="([\w-]+)"', start[1])
        found[name[1] if name else ""] = start[1], inside
    return found


def blob_of(attributes: str, text: str) -> bytes:
    """The bytes of a blob, as page_text.js reads them."""
    offset = int(re.search(r'data-offset="(\d+)"', attributes)[1])  # type: ignore[index]
    found, codes = bytearray(), iter([BYTES[character] for character in text])
    for code in codes:
        found.append(((next(codes) - 64 if code == 0x3D else code) - offset) % 256)
    if "data-deflated" in attributes:
        return zlib.decompress(bytes(found), wbits=-zlib.MAX_WBITS)
    return bytes(found)


def config_of(content: bytes) -> dict[str, Any]:
    return json.loads(scripts(content)["config"][1])  # type: ignore[no-any-return]


def write_web(folder: Path) -> Path:
    """Small files in place of the page's."""
    folder.mkdir()
    (folder / "page.html").write_text(
        '<!DOCTYPE html><meta charset="windows-1252">'
        '<meta http-equiv="Content-Security-Policy" content="{{csp}}"><title>{{title}}</title>'
        '<style>{{style}}</style><script type="application/json" id="config">{{config}}</script>\n'
        '{{blobs}}<script type="text/plain" id="worker">{{worker}}</script>'
        "<p>\u2190</p><script>{{script}}</script>"
    )
    (folder / "page.css").write_text('/* \u2190 */ b::before { content: "\u2192"; }\n')
    (folder / "page.js").write_text(
        'import { two } from "./two.js";\nconsole.log(two, "\u00d7");\n'
    )
    (folder / "worker.js").write_text('import { two } from "./two.js";\npostMessage(two);\n')
    (folder / "two.js").write_text("export const two = 2;\n")
    (folder / "kernels.wasm").write_bytes(b"\0asm" + bytes(range(256)))
    return folder
