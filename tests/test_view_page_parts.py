"""Parts of the page that need no browser, in Node: files, words, orders, errors."""

from __future__ import annotations

import base64
import io
import json
import math
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import drawn
from node import NODE, needs_node
from PIL import Image
from test_view_kernels import as_text

from codec import metrics

WEB = Path(__file__).parents[1] / "codec/view/web"
pytestmark = needs_node


def run(module: str, wanted: str, script: str, /, **given: Any) -> Any:
    """What a script returns that uses wanted names of a module of the page, and `given`."""
    assert NODE is not None
    path = (WEB / module).as_uri()
    code = f"""
        const {{ {wanted} }} = await import({path!r});
        const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));
        const given = JSON.parse((await import("node:fs")).readFileSync(0, "utf8"));
        const answer = await (async () => {{ {script} }})();
        console.log(JSON.stringify(answer));
    """
    done = subprocess.run(
        [NODE, "--input-type=module", "-e", code],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_png_is_grey_and_exact() -> None:
    for pixels in drawn(8):
        script = "return Buffer.from(greyPng(bytes(given.pixels))).toString('base64')"
        stream = base64.b64decode(run("page_png.js", "greyPng", script, pixels=as_text(pixels)))
        with Image.open(io.BytesIO(stream)) as image:
            image.verify()
        with Image.open(io.BytesIO(stream)) as image:
            assert image.mode == "L"
            assert (np.asarray(image) == pixels).all()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("7", "7"),
        ("été 漢字 🙂", "été 漢字 🙂"),
        ("a\u202eb", "a‹U+202E›b"),
        ("\0\n\x7f\x85", "‹U+0000›‹U+000A›‹U+007F›‹U+0085›"),
        ("\u2028\u200b\ufeff\U000e0041", "‹U+2028›‹U+200B›‹U+FEFF›‹U+E0041›"),
        ("<b>&amp;", "<b>&amp;"),
    ],
)
def test_what_cannot_be_seen_is_written_out(text: str, shown: str) -> None:
    assert run("page_text.js", "visible", "return visible(given.text)", text=text) == shown


def test_a_lone_surrogate_is_written_out() -> None:
    assert run("page_text.js", "visible", "return visible('a\\ud800b')") == "a‹U+D800›b"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("", "image-00017.png"),
        ("a/b/seven.png", "seven.png"),
        ("../../etc/passwd", "passwd.png"),
        ("a\u202egnp.exe", "a_gnp.png"),
        ("...", "image-00017.png"),
        ("C:\\x<y>|z?.jpeg", "C_x_y_z_.png"),
        ("é" * 300, "é" * 80 + ".png"),
    ],
)
def test_a_saved_file_has_a_harmless_name(name: str, file: str) -> None:
    script = "return pngName({ name: given.name, number: 17 })"
    assert run("page_one.js", "pngName", script, name=name) == file


FACTS = """
    const facts = new Facts(given.bytes.length);
    const half = given.bytes.length >> 1;
    for (const [from, to] of [[0, half], [half, given.bytes.length]]) {
        const part = (list) => list.slice(from, to);
        facts.add(from, {
            names: part(given.names), labels: part(given.labels),
            bytes: Float32Array.from(part(given.bytes)), coding: part(given.coding),
            codings: given.codings,
        });
    }
    facts.psnr = Float32Array.from(given.psnr, (db) => (db === null ? NaN : db));
    const wish = { query: "", label: "", model: "", quality: "", sort: "number" };
"""


@pytest.mark.parametrize("labels", ["numbers", "texts"])
def test_orders_are_those_of_a_stable_sort(labels: str) -> None:
    rng = np.random.default_rng(3)
    count = 2000
    near = {"quality": 131, "model": "b2", "modelName": "x", "kind": "near-lossless", "maxError": 3}
    psnr = rng.uniform(5, 60, count).tolist()
    numbers = rng.choice([0, 7, 10, 9, 2**32 - 1], count).tolist()
    given = {
        "bytes": (rng.integers(0, 65536 * 4, count) / 4).tolist(),
        "labels": numbers if labels == "numbers" else [f"no {n}" for n in numbers],
        "names": [f"Im/{k:04d}.PNG" for k in range(count)],
        "coding": rng.integers(0, 3, count).tolist(),
        "codings": [
            {"quality": 75, "model": "a1", "modelName": "mnist", "kind": "lossy"},
            near,
            {"quality": 101, "model": "", "modelName": None, "kind": "stored"},
        ],
        "psnr": [None if k % 7 == 0 else db for k, db in enumerate(psnr)],
    }
    script = """
        const orders = {};
        for (const change of given.wishes) {
            const order = facts.order({ ...wish, ...change }, new Map([[5, {}], [17, {}]]));
            orders[JSON.stringify(change)] = [...order];
        }
        return Object.values(orders);
    """
    place = str(list(dict.fromkeys(given["labels"])).index(given["labels"][3]) + 1)
    wishes = [
        {"sort": "bytes"},
        {"sort": "label"},
        {"sort": "psnr"},
        {"label": place},
        {"model": "x"},
        {"quality": "stored"},
        {"quality": "near-lossless, ±3", "model": "x"},
        {"quality": "damaged"},
        {"query": "im/000"},
        {"query": "#1,234"},
        {"query": "1234"},
        {"query": "nowhere"},
        {"model": "stored", "sort": "bytes", "query": "7.png"},
    ]
    found = run("page_facts.js", "Facts", FACTS + script, **given, wishes=wishes)
    every = range(count)
    size = np.round(np.float32(given["bytes"]) * 16)
    rank = {label: k for k, label in enumerate(sorted(set(given["labels"])))}
    psnr = [math.inf if db is None else round(float(np.float32(db)) * 1000) for db in given["psnr"]]
    coding = given["coding"]
    expected = [
        sorted(every, key=lambda k: -size[k]),
        sorted(every, key=lambda k: rank[given["labels"][k]]),
        sorted(every, key=lambda k: psnr[k]),
        [k for k in every if given["labels"][k] == given["labels"][3]],
        [k for k in every if coding[k] == 1],
        [k for k in every if coding[k] == 2],
        [k for k in every if coding[k] == 1],
        [5, 17],
        [*range(10)],
        [1234],
        [1234],
        [],
        sorted((k for k in every if coding[k] == 2 and k % 10 == 7), key=lambda k: -size[k]),
    ]
    for wish, order, wanted in zip(wishes, found, expected, strict=True):
        assert order == wanted, wish


def test_a_size_that_is_not_known_is_not_told_as_nothing() -> None:
    script = """
        const facts = new Facts(3);
        const codings = [{ kind: "unknown" }, { quality: 5, model: "a", kind: "lossy" }];
        const coding = [1, 0, 1];
        const bytes = Float32Array.of(3, NaN, 5);
        facts.add(0, { names: null, labels: null, bytes, coding, codings });
        const wish = { query: "", label: "", model: "", quality: "", sort: "bytes" };
        return [facts.of(0).bytes, facts.of(1).bytes, [...facts.order(wish, new Map())]];
    """
    assert run("page_facts.js", "Facts", script) == [3, None, [2, 0, 1]]


def test_labels_that_are_not_listed_are_searched_for() -> None:
    script = """
        const facts = new Facts(10000);
        const labels = Array.from({ length: 10000 }, (_, k) => `Kind ${(k * 7) % 10000}`);
        const bytes = new Float32Array(10000), coding = new Uint16Array(10000);
        const codings = [{ quality: 75, model: "a", modelName: "a", kind: "lossy" }];
        facts.add(0, { names: null, labels, bytes, coding, codings });
        const wish = { label: "", model: "", quality: "", sort: "number" };
        const found = (query) => [...facts.order({ ...wish, query }, new Map())];
        const { label } = facts.options(0);
        return [label.length, label[0][1], found("kind 9996"), found("kind"), found("17")];
    """
    first = "Every label (search for the other 9,500)"
    assert run("page_facts.js", "Facts", script) == [501, first, [1428], [], [17]]


@pytest.mark.parametrize(
    ("kind", "said"), [("ModelNotFound", "not shown"), ("CorruptPayload", "damaged")]
)
def test_an_image_without_its_model_is_not_called_damaged(kind: str, said: str) -> None:
    script = """
        const fact = { number: 1, name: "", label: "", bytes: null, coding: null };
        return described(fact, { kind: given.kind, message: "why" });
    """
    assert run("page_facts.js", "described", script, kind=kind) == f"image 1, {said}, {kind}: why"


def test_a_million_images_are_sorted_in_memory() -> None:
    """Labels and sizes of a million: an order of all of them, no image twice."""
    script = """
        const facts = new Facts(1e6);
        const bytes = Float32Array.from({ length: 1e6 }, (_, k) => (k * 7919) % 700);
        const labels = Array.from({ length: 1e6 }, (_, k) => k % 10);
        const codings = [{ quality: 75, model: "a", modelName: "a", kind: "lossy" }];
        facts.add(0, { names: null, labels, bytes, coding: new Uint16Array(1e6), codings });
        const wish = { query: "", label: "", model: "", quality: "", sort: "bytes" };
        const order = facts.order(wish, new Map());
        return [order.length, new Set(order).size, bytes[order[0]], bytes[order[999999]]];
    """
    assert run("page_facts.js", "Facts", script) == [1_000_000, 1_000_000, 699, 0]


def test_errors_are_those_of_the_metrics() -> None:
    originals, pixels = drawn(6), drawn(12)[6:]
    numbers = [0, 2, 3, 5, 8, 9]
    script = """
        const comparison = new Comparison(bytes(given.originals), 9, { numbers: given.numbers });
        const pixels = bytes(given.pixels);
        const known = [];
        for (let number; (number = comparison.another()) !== null;) {
            const k = given.numbers.indexOf(number);
            comparison.measure(number, pixels.subarray(k * 784, (k + 1) * 784));
            known.push([number, comparison.psnr[number], comparison.largest[number]]);
        }
        return [known, comparison.summary(), comparison.has(1), comparison.isKnown(1)];
    """
    known, summary, has, is_known = run(
        "page_compare.js",
        "Comparison",
        script,
        originals=as_text(originals),
        pixels=as_text(pixels),
        numbers=numbers,
    )
    assert (has, is_known) == (False, False)
    errors = originals.astype(int)[:5] - pixels[:5]  # the stream has no image 9
    for (number, psnr, largest), error in zip(known, errors, strict=True):
        mse = (error**2).mean()
        assert number in numbers
        assert largest == np.abs(error).max()
        wanted = None if mse == 0 else 10 * math.log10(255**2 / mse)  # JSON has no infinity
        assert psnr == pytest.approx(wanted, abs=1e-4)
    overall = metrics.psnr_db(int((errors**2).sum()), errors.size)
    assert summary.startswith(f"PSNR {overall:.1f} dB")
    assert summary.endswith(f"largest error {np.abs(errors).max()}")
