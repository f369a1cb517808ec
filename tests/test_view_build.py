"""The page that `aez view` builds: bytes as text, modules as one script, and what it lets in."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import subprocess
from pathlib import Path
from shutil import which

import numpy as np
import pytest
import view_pages
from hypothesis import given
from hypothesis import strategies as st
from view_pages import blob_of, config_of, scripts

from codec.view import page
from codec.view.page import Model, Originals, Stream, build


@pytest.fixture
def web(tmp_path: Path) -> Path:
    return view_pages.write_web(tmp_path / "web")


# Bytes in text


@given(st.binary(max_size=3000))
def test_any_bytes_survive_as_text(content: bytes) -> None:
    offset, text = page.blob(content)
    element = b'<script id="blob-0" data-offset="%d">%b</script>' % (offset, text)
    assert blob_of(*scripts(element)["blob-0"]) == content


@given(
    st.sampled_from([b"\r\n", b"\n\r", b"\0", b"<!--<script>", b"</script>", b"=", b"\xef\xbb\xbf"])
)
def test_what_parsers_change_survives_at_any_offset(content: bytes) -> None:
    """Shifted by each of 256 offsets, so that the one that is chosen meets every byte."""
    for shift in range(256):
        moved = bytes((byte + shift) % 256 for byte in content) * 3
        offset, text = page.blob(moved)
        assert not set(text) & set(b"\0\r<")
        element = b'<script id="blob-0" data-offset="%d">%b</script>' % (offset, text)
        assert blob_of(*scripts(element)["blob-0"]) == moved


def test_bytes_are_written_as_by_hand() -> None:
    """Offset 0 needs no escape for "abc". Of all 256 bytes four are escaped at every offset, so it
    is 0, too: 0 -> "=@", 13 -> "=M", 60 -> "=|", 61 -> "=}".
    """
    assert page.blob(b"abc") == (0, b"abc")
    assert page.blob(b"") == (0, b"")
    offset, text = page.blob(bytes(range(256)))
    assert offset == 0
    assert text[:2] == b"=@"
    assert text[14:16] == b"=M"
    assert text[62:66] == b"=|=}"
    assert len(text) == 260


def test_the_best_offset_is_taken() -> None:
    offset, text = page.blob(bytes(1000) + b"=" * 500)
    assert len(text) == 1500
    assert offset


def test_random_bytes_grow_by_about_one_in_a_hundred() -> None:
    content = np.random.default_rng(0).bytes(100_000)
    assert len(page.blob(content)[1]) < 101_700


# Modules as one script


def joined(folder: Path, **modules: str) -> str:
    for name, text in modules.items():
        (folder / f"{name}.js").write_text(text)
    return page.joined(folder / "a.js")


def output_of(script: str) -> str:
    node = which("node")
    if node is None:
        pytest.skip("no node: apt-get install nodejs")
    return subprocess.run([node, "-e", script], capture_output=True, text=True, check=True).stdout


def test_modules_become_one_script(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/d.js").write_text(
        "var far = 7;\nexport default far;\nexport { far, far as away };\n"
        "export function* each() { yield far; }\n"
    )
    script = joined(
        tmp_path,
        a="""// A comment
            import { one, Two as Second, three,
                many } from "./b.js";
            import * as d from './deep/d.js';
            /** A text over
             *  two lines. import { x } from "./y.js" */
            console.log(one(), new Second().x, three, many, d.far, d.away, [...d.each()]);
            """.replace("\n            ", "\n"),
        b="""import { away } from "./deep/d.js";
            export async function many() {}
            export const three = 3;
            function one() { return away; }
            export class Two { x = 2; }
            export { one };
            """.replace("\n            ", "\n"),
    )
    assert "comment" not in script
    assert script.count("var far = 7") == 1
    assert output_of(script) == "7 2 3 [AsyncFunction: many] 7 7 [ 7 ]\n"


def test_one_statement_can_export_several_names(tmp_path: Path) -> None:
    script = joined(
        tmp_path,
        a='import { one, two, three, f } from "./b.js";\nconsole.log(one, two, three, f(1));\n',
        b='export const one = [1, 2].length, two = ", four = (4",\n    three = { x: 3, y: 4 }.x;\n'
        "export const f = (a, b = 2, [c] = [3]) => {\n    const d = 1, e = 2;\n"
        "    return a + b + c + d + e;\n};\n",
    )
    assert output_of(script) == "2 , four = (4 3 9\n"


def test_texts_over_lines_are_not_touched(tmp_path: Path) -> None:
    text = "const text = `first\n    // no comment\n  /* none */\n\nlast`;\n"
    script = joined(tmp_path, a=f"// One.\n{text}// Two.\nconsole.log(JSON.stringify(text));\n")
    assert not re.search("One|Two", script)
    other = joined(tmp_path, a=f'const mark = "`";\n{text}console.log(JSON.stringify(text));\n')
    assert output_of(other) == output_of(script)
    expected = "first\n    // no comment\n  /* none */\n\nlast"
    assert json.loads(output_of(script)) == expected


def test_other_characters_become_escapes(tmp_path: Path) -> None:
    script = joined(
        tmp_path, a='console.log("\u00d7\u2192\U0001f600", /[\u2190]/.test("\u2190"));\n'
    )
    assert script.isascii()
    assert output_of(script) == "\u00d7\u2192\U0001f600 true\n"


def test_a_script_does_not_end_the_element_it_stands_in(tmp_path: Path) -> None:
    script = joined(tmp_path, a='console.log("</script></SCRIPT>", "</b>");\n')
    assert "</script" not in script.lower()
    assert output_of(script) == "</script></SCRIPT> </b>\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('const x = await import("./b.js");', r"import\("),
        ("const here = import.meta.url;", "import.meta"),
        ('import b from "./b.js";', "import b"),
        ('import "./b.js";', "import"),
        ('import { b } from "fzstd";', "fzstd"),
        ('import { b, c } from "./b.js";', "b.js does not export c"),
        ("export default function () {}", "export default"),
        ('export * from "./b.js";', r"export \*"),
        ('import { a } from "./a.js";', "circle"),
        ("const x = 1; // <!-- a mark", "<!--"),
    ],
)
def test_what_cannot_be_joined_is_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        joined(tmp_path, a=text + "\n", b="export const b = 1;\n")


# The page


def test_a_page_holds_streams_models_and_code(web: Path) -> None:
    stream, model = bytes(range(256)) * 3, b"model" * 99
    pixels = bytes(784 * 2)
    content = build(
        "two.aez",
        [Stream("two.aez", stream), Stream("far.aez", None, "1.aez", 12345)],
        [Model("mnist", "1940d17a82af6b24", model)],
        Originals(pixels, ["a", "</script>"], [3, 5]),
        note="A note.",
        web=web,
    )
    found, config = scripts(content), config_of(content)
    assert config["title"] == "two.aez"
    assert config["note"] == "A note."
    assert config["streams"][1] == {"name": "far.aez", "url": "1.aez", "bytes": 12345}
    assert config["models"][0]["name"] == "mnist"
    assert config["models"][0]["hash"] == "1940d17a82af6b24"
    compare = config["compare"]
    assert (compare["count"], compare["names"], compare["numbers"]) == (
        2,
        ["a", "</script>"],
        [3, 5],
    )

    def blob(number: int) -> bytes:
        return blob_of(*found[f"blob-{number}"])

    assert blob(config["streams"][0]["blob"]) == stream
    assert blob(config["models"][0]["blob"]) == model
    assert blob(compare["blob"]) == pixels
    assert blob(config["wasm"]) == (web / "kernels.wasm").read_bytes()
    assert blob(config["worker"]).decode() == page.joined(web / "worker.js")
    assert output_of(found[""][1]) == "2 \u00d7\n"


def test_only_the_blobs_are_not_ascii_and_the_charset_comes_first(web: Path) -> None:
    content = build("caf\u00e9 \u2190", [Stream("caf\u00e9.aez", b"")], web=web)
    assert re.sub(b'(data-offset="[^>]*>).*?</script>', b"", content, flags=re.DOTALL).isascii()
    assert content.index(b'charset="windows-1252"') < 1024
    assert b"&#8592;" in content
    assert config_of(content)["streams"][0]["name"] == "caf\u00e9.aez"


def test_the_policy_names_script_and_style_and_nothing_else(web: Path) -> None:
    content = build("x", [Stream("x", b"x")], web=web).decode("latin-1")
    policy = html.unescape(re.search(r'Policy" content="([^"]*)"', content)[1])  # type: ignore[index]
    style = re.search("<style>(.*?)</style>", content, re.DOTALL)[1]  # type: ignore[index]

    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    assert "\u2192" not in style
    assert r"\2192 " in style
    script = scripts(content.encode("latin-1"))[""][1]
    assert policy.split("; ") == [
        "default-src 'none'",
        f"script-src 'sha256-{digest(script)}' 'wasm-unsafe-eval'",
        f"style-src 'sha256-{digest(style)}'",
        "img-src blob: data:",
        "worker-src blob:",
        "connect-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    served = build("x", [Stream("x", url="0.aez", num_bytes=1)], web=web)
    assert b"connect-src 'self'" in served


@pytest.mark.parametrize(
    "title",
    [
        "</title><script>alert(1)</script>",
        "{{script}} {{config}}",
        "\"'><img src=x onerror=alert(1)>",
        "evil\u202egnp.exe",
        "bell\a\0\r\n",
        "\udcff",
    ],
)
def test_titles_and_names_are_only_text(title: str, web: Path) -> None:
    plain = build("x", [Stream("x", b"x")], web=web)
    content = build(title, [Stream(title, b"x")], web=web)
    assert content.count(b"<") == plain.count(b"<")
    assert config_of(content)["streams"][0]["name"] == title
    assert config_of(content)["title"] == title
    said = html.unescape(re.search(b"<title>(.*?)</title>", content)[1].decode())  # type: ignore[index]
    assert said.isprintable()
    assert title == said or not title.isprintable()


def test_the_page_bears_the_licences_of_code_that_is_not_ours(web: Path) -> None:
    (web / "vendor/deep").mkdir(parents=True)
    (web / "vendor/a.LICENSE").write_text("Copyright A <a@example.org>\n</script>")
    (web / "vendor/deep/LICENSE").write_text("Copyright B\n")
    text = html.unescape(scripts(build("x", [Stream("x", b"x")], web=web))["licences"][1])
    assert "vendor/a.LICENSE\n\nCopyright A <a@example.org>\n</script>" in text
    assert "vendor/deep/LICENSE\n\nCopyright B\n" in text


def test_the_page_itself_is_small_and_complete() -> None:
    """Without stream and models; what is in `web/` can be joined."""
    content = build("x", [Stream("x", b"x")])
    assert len(content) < 150_000
    found = scripts(content)
    licences = found["licences"][1]
    assert licences.count("MIT License") == len(list(page.WEB.glob("vendor/**/*LICENSE"))) == 2
    worker = blob_of(*found[f"blob-{config_of(content)['worker']}"]).decode()
    node = which("node")
    if node is not None:
        for script in (worker, found[""][1]):
            subprocess.run([node, "--check", "-"], input=script, text=True, check=True)


def test_a_template_with_other_marks_is_refused(web: Path) -> None:
    (web / "page.html").write_text("{{title}} {{tittle}}")
    with pytest.raises(ValueError, match="tittle"):
        build("x", [], web=web)
