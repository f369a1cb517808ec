"""One HTML page that holds streams, models, and all that decodes and shows them.

    build("digits.aez", [Stream("digits.aez", content)], [Model("mnist", "1940d17a82af6b24", file)])

READ ME FIRST
- The page is text in windows-1252, in which every byte but a few is a character by itself. So bytes
  lie in it almost as they are (`blob`), and not a third larger as in base64.
- `web/` is written as modules. `joined` makes one classic script of those that a script needs, as a
  page from a file cannot load modules. It knows the few forms of import and export used there, and
  refuses all others.
- The Content-Security-Policy names the one script and the one style by their hashes: whatever else
  gets into the page is not run. Texts from outside (titles, names) stand in `title`, escaped, and
  in `config`, JSON without "<".
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from codec import __version__
from codec.errors import shown

WEB = Path(__file__).resolve().parent / "web"
CHARSET = "windows-1252"
MAX_PAGE_BYTES = 64_000_000  # of streams, models and originals: more makes browsers slow
# The mark of an escape; what an HTML parser changes in such a text (NUL, CR), what could end it.
_ESCAPED = b"=\x00\r<"
_MARK, _MOVED = b"=", 64  # before an escaped byte, and what is added to it
_IDENTITY = bytes(range(256))


class Stream(NamedTuple):
    """A stream to show: its bytes, or where a server has them, and how many they are."""

    name: str
    content: bytes | None = None
    url: str | None = None
    num_bytes: int | None = None


class Model(NamedTuple):
    """A model file.  hash: 16 hexadecimal digits."""

    name: str
    hash: str
    content: bytes


class Originals(NamedTuple):
    """Pixels to compare with what the first streams decode to: 784 bytes each.

    numbers: of their images in a stream, rising; None: 0, 1, ...; names: one each, if those of the
    stream are others. num_streams: so many streams are of these images.
    """

    pixels: bytes
    names: list[str] | None = None
    numbers: list[int] | None = None
    num_streams: int = 1

    @property
    def num_images(self) -> int:
        return len(self.pixels) // 784


# Bytes in text


def blob(content: bytes) -> tuple[int, bytes]:
    """Bytes as characters of windows-1252: what is added to each, and the text.

    The offset is the one of 256 that needs the fewest escapes.
    """
    counts = np.bincount(np.frombuffer(content, np.uint8), minlength=256)
    offsets = np.arange(256)
    escapes = sum(counts[(byte - offsets) % 256] for byte in _ESCAPED)
    offset = int(np.argmin(escapes))
    text = content.translate(_IDENTITY[offset:] + _IDENTITY[:offset])
    for byte in _ESCAPED:  # the mark itself is the first
        text = text.replace(bytes([byte]), _MARK + bytes([byte + _MOVED]))
    return offset, text


def _deflated(content: bytes) -> bytes:
    deflate = zlib.compressobj(6, wbits=-zlib.MAX_WBITS)
    return deflate.compress(content) + deflate.flush()


class _Blobs:
    """The blobs of a page.  `add` returns the number of one."""

    def __init__(self) -> None:
        self.elements: list[bytes] = []

    def add(self, content: bytes, pack: bool = True) -> int:
        """pack: deflate it, if that makes it smaller."""
        packed = _deflated(content) if pack else content
        is_packed = len(packed) < len(content)
        offset, text = blob(packed if is_packed else content)
        number, deflated = len(self.elements), " data-deflated" * is_packed
        start = (
            f'<script type="application/x-aez" id="blob-{number}" data-offset="{offset}"{deflated}>'
        )
        self.elements.append(start.encode() + text + b"</script>")
        return number


# Modules as one script

_IMPORT = re.compile(
    r"^import\s+(?:\{([^}]*)\}|\*\s+as\s+([\w$]+))\s+from\s*([\"'])(\./|\.\./)([^\"']+)\3;?$",
    re.MULTILINE,
)
_EXPORT = re.compile(
    r"^export (?=(?:(?:async )?function\*?|class|(const|let|var)) +([\w$]+))", re.MULTILINE
)
_EXPORT_LIST = re.compile(r"^export\s*\{([^}]*)\};?$", re.MULTILINE)
_DEFAULT = re.compile(r"^export default [\w$]+;?$", re.MULTILINE)  # nobody imports one
_OTHER_FORM = re.compile(r"^\s*(?:import|export)\b.*|\bimport\s*[(.].*", re.MULTILINE)


def joined(entry: Path) -> str:
    """A module and all that it imports as one classic script, in ASCII.

    Raises ValueError for a circle, or a form of import or export that it does not know.
    """
    modules: dict[Path, _Module] = {}
    _join(entry.resolve(), modules, ())
    script = '"use strict";\n' + "".join(module.script for module in modules.values())
    for word in ("<!--", "<script"):
        if word in script.lower():
            raise ValueError(f"{entry.name}: {word} would be markup in a page")
    return re.sub("</(?=script)", r"<\\/", _ascii_script(script), flags=re.IGNORECASE)


class _Module(NamedTuple):
    """What becomes of a module, and the names that it exports."""

    script: str
    exported: set[str]


def _join(path: Path, modules: dict[Path, _Module], above: tuple[Path, ...]) -> None:
    """Add a module to `modules`, after those that it imports."""
    if path in modules:
        return
    if path in above:
        raise ValueError(f"{path.name} is imported in a circle")
    text = _stripped(path.read_text(encoding="utf-8"))

    def imported(found: re.Match[str]) -> str:
        names, whole, _, upwards, name = found.groups()
        other = (path.parent / upwards / name).resolve()
        _join(other, modules, (*above, path))
        if whole:
            return f"const {whole} = {_variable(other)};"
        pairs = _pairs(names)
        if missing := {name for name, _ in pairs} - modules[other].exported:
            raise ValueError(f"{path.name}: {other.name} does not export {min(missing)}")
        return f"const {{ {_listed(pairs)} }} = {_variable(other)};"

    text = _IMPORT.sub(imported, text)
    pairs = [(name, name) for found in _EXPORT.finditer(text) for name in _declared(text, found)]
    for names in _EXPORT_LIST.findall(text):
        pairs += [(outside, inside) for inside, outside in _pairs(names)]
    text = _DEFAULT.sub("", _EXPORT_LIST.sub("", _EXPORT.sub("", text)))
    if other_form := _OTHER_FORM.search(text):
        raise ValueError(f"{path.name}: cannot join {other_form[0].strip()!r}")
    script = (
        f"const {_variable(path)} = (() => {{\n{text}\nreturn {{ {_listed(pairs)} }};\n}})();\n"
    )
    modules[path] = _Module(script, {outside for outside, _ in pairs})


def _declared(text: str, export: re.Match[str]) -> list[str]:
    """The names that one statement exports: `export const a = f(x, y = 1), b = 2;` -> a, b."""
    if export[1] is None:  # a function or a class
        return [export[2]]
    bare = re.sub(r"""(["'`])(?:\\.|(?!\1).)*\1""", "0", text[export.end(2) :], flags=re.DOTALL)
    names, depth = [export[2]], 0
    for found in re.finditer(r"[(\[{]|[)\]}]|;|,\s*([\w$]+)", bare):
        depth += (found[0] in "([{") - (found[0] in ")]}")
        if depth == 0 and found[1]:
            names.append(found[1])
        if depth < 0 or (depth == 0 and found[0] == ";"):
            break
    return names


def _listed(pairs: Sequence[tuple[str, str]]) -> str:
    """Names outside and inside, as an object has them: `a, b: c`."""
    return ", ".join(a if a == b else f"{a}: {b}" for a, b in pairs)


def _pairs(names: str) -> list[tuple[str, str]]:
    """`a, b as c` -> (a, a), (b, c)."""
    each = [name.split() for name in names.split(",") if name.strip()]
    return [(name[0], name[-1]) for name in each]


def _variable(path: Path) -> str:
    """What holds the exports of a module; the folder is there as names can repeat."""
    return "m_" + re.sub(r"\W", "_", f"{path.parent.name}_{path.name}")


def _stripped(script: str) -> str:
    """Without the comments that have lines of their own, indentation, and empty lines.

    A line with an odd number of backticks begins or ends a text over several lines, in which all is
    kept. Where they do not pair up, a backtick means something else, and everything is kept.
    """
    kept: list[str] = []
    in_comment = in_text = False
    for whole in script.splitlines():
        line = whole.strip()
        if not in_text and (in_comment or line.startswith("/*")):
            _, end, line = line[0 if in_comment else 2 :].partition("*/")
            in_comment, line = not end, line.strip()
        if not in_text and (not line or line.startswith("//")):
            continue
        kept.append(whole if in_text else line)
        in_text ^= line.count("`") % 2 == 1
    return script if in_text or in_comment else "\n".join(kept)


def _ascii_script(script: str) -> str:
    """Other characters as escapes, which mean the same in texts and regular expressions."""

    def escaped(found: re.Match[str]) -> str:
        units = found[0].encode("utf-16-be")
        return "".join(f"\\u{units[k]:02x}{units[k + 1]:02x}" for k in range(0, len(units), 2))

    return re.sub("[^\0-\x7f]", escaped, script)


# The page


def build(
    title: str,
    streams: Sequence[Stream],
    models: Sequence[Model] = (),
    originals: Originals | None = None,
    note: str = "",
    web: Path | None = None,
) -> bytes:
    """The page, in CHARSET.  Streams without content are fetched from their URLs, relative to it.

    note: a sentence that the page shows; web: the folder of the page's files, by default WEB.
    """
    web = web or WEB
    blobs = _Blobs()
    config = {
        "version": __version__,
        "title": title,
        "streams": [_config_of(stream, blobs) for stream in streams],
        "models": [
            {"name": model.name, "hash": model.hash, "blob": blobs.add(model.content)}
            for model in models
        ],
        "wasm": blobs.add((web / "kernels.wasm").read_bytes()),
        "worker": blobs.add(joined(web / "worker.js").encode()),
        "compare": originals
        and {
            "blob": blobs.add(originals.pixels),
            "count": originals.num_images,
            "names": originals.names,
            "numbers": originals.numbers,
            "streams": originals.num_streams,
        },
        "note": note or None,
    }
    script = joined(web / "page.js")
    style = _ascii_style((web / "page.css").read_text(encoding="utf-8"))
    is_served = any(stream.content is None for stream in streams)
    return b"".join(
        _filled(
            (web / "page.html").read_text(encoding="utf-8"),
            {
                "title": _escaped(shown(title)),
                "csp": policy(script, style, is_served).encode(),
                "style": style.encode(),
                "config": json.dumps(config).replace("<", "\\u003c").encode(),
                "blobs": b"\n".join([*blobs.elements, _licences(web)]),
                "worker": b"",  # it is a blob
                "script": script.encode(),
            },
        )
    )


def _licences(web: Path) -> bytes:
    """The licences of the code of others, which every copy has to bear."""
    paths = sorted(web.glob("vendor/**/*LICENSE"))
    text = "\n".join(
        f"{path.relative_to(web)}\n\n{path.read_text(encoding='utf-8')}" for path in paths
    )
    return b'<script type="text/plain" id="licences">\n' + _escaped(text) + b"</script>"


def _config_of(stream: Stream, blobs: _Blobs) -> dict[str, object]:
    if stream.content is not None:
        return {"name": stream.name, "blob": blobs.add(stream.content, pack=False)}
    return {"name": stream.name, "url": stream.url, "bytes": stream.num_bytes}


def policy(script: str, style: str, is_served: bool = False) -> str:
    """The Content-Security-Policy of a page with this script and style, both in ASCII."""
    connect = "'self'" if is_served else "'none'"
    return (
        f"default-src 'none'; script-src {_source_of(script)} 'wasm-unsafe-eval'; "
        f"style-src {_source_of(style)}; img-src blob: data:; worker-src blob:; "
        f"connect-src {connect}; base-uri 'none'; form-action 'none'"
    )


def _source_of(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _filled(template: str, parts: dict[str, bytes]) -> Iterator[bytes]:
    """The template with each `{{name}}` replaced, once.  Raises ValueError for other marks."""
    before, *pieces = re.split(r"\{\{(\w+)\}\}", template)
    names = pieces[::2]
    if sorted(names) != sorted(parts):
        raise ValueError(f"page.html has the marks {names}, and should have {list(parts)}")
    yield _ascii_html(before)
    for name, after in zip(names, pieces[1::2], strict=True):
        yield parts[name]
        yield _ascii_html(after)


def _escaped(text: str) -> bytes:
    return _ascii_html(html.escape(text))


def _ascii_html(text: str) -> bytes:
    return text.encode("ascii", "xmlcharrefreplace")


def _ascii_style(style: str) -> str:
    """Other characters as escapes; without comments, which hold most of them."""
    style = re.sub(r"/\*.*?\*/", "", style, flags=re.DOTALL)
    return re.sub("[^\0-\x7f]", lambda found: f"\\{ord(found[0]):x} ", style)
