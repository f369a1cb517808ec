"""The decoder for browsers and its page where memory is short, or a stream claims too much."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import node
import numpy as np
import pytest
from node import needs_node
from test_view_page_parts import run
from test_view_reader import WEB, ask, pixels_of

import codec
from codec.format.footer import Footer
from codec.format.headers import pack_collection_header
from codec.model import registry

GOLDEN = Path(__file__).parent / "golden"
MODELS = [str(registry.path_of(bytes.fromhex(each))) for each in registry.MODEL_IDS.values()]
STREAMS = ["mnist-1940d17a-named40-q60.aez", "mnist-lossless-15d5d401-named40.aez"]
pytestmark = needs_node


def number(value: int) -> bytes:
    """LEB128, as WebAssembly has it."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def kernels_of(pages: int, folder: Path) -> Path:
    """kernels.wasm whose memory cannot grow beyond so many pages, which are at least 2."""
    module = (WEB / "kernels.wasm").read_bytes()
    start = re.search(rb"\x05(.)\x01\x01(.)", module[: module.index(b"memory")], re.DOTALL)
    assert start is not None, "the section of the memory is not where it was"
    section = b"\x01\x01" + start[2] + number(pages)
    end = start.start() + 2 + start[1][0]
    path = folder / "kernels.wasm"
    before, after = module[: start.start()], module[end:]
    path.write_bytes(before + b"\x05" + bytes([len(section)]) + section + after)
    return path


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("pages", [2, 8, 20])
def test_too_little_memory_is_an_error_of_each_image(name: str, pages: int, tmp_path: Path) -> None:
    """Neither a RangeError nor damage: of the model, or of the scratch for its images."""
    wasm = kernels_of(pages, tmp_path)
    request = {"stream": str(GOLDEN / name), "models": MODELS, "wasm": str(wasm)}
    (found,) = node.ask("memory_run.mjs", tmp_path, [request])
    assert "error" not in found, found
    assert found["damage"] == 0
    for kind in found["errors"]:
        assert kind[:2] == ["AezError", "OutOfMemory"]
        assert "too little memory" in kind[2]


@pytest.mark.parametrize("name", STREAMS)
def test_enough_memory_is_enough(name: str, tmp_path: Path) -> None:
    wasm = kernels_of(2000, tmp_path)
    request = {"stream": str(GOLDEN / name), "models": MODELS, "wasm": str(wasm)}
    (found,) = node.ask("memory_run.mjs", tmp_path, [request])
    assert found == {"errors": [None] * 40, "damage": 0}


@pytest.mark.parametrize("name", ["mnist-1940d17a-parts40.aez", STREAMS[1]])
def test_some_images_and_their_groups(name: str, tmp_path: Path) -> None:
    """`imagesAt` gives what `images` gives; `groups` gives the first image of each one's group."""
    at = [0, 7, 8, 20, 39]
    (found,) = ask(tmp_path, {"stream": str(GOLDEN / name), "models": MODELS, "at": at})
    whole, some = found["ranges"]
    assert some["errors"] == [None] * len(at)
    np.testing.assert_array_equal(pixels_of(some), pixels_of(whole)[at])
    with codec.open(GOLDEN / name) as stream:
        (block,) = stream.blocks
        group_of = block.index.groups_of(np.arange(40))
    _, first, group = np.unique(group_of, return_index=True, return_inverse=True)
    assert found["groups"] == first[group].tolist()


def test_the_example_for_node_runs(tmp_path: Path) -> None:
    """What `readFile` gives is a Buffer, whose `slice` is not that of other arrays of bytes."""
    root = Path(codec.__file__).parents[1]
    readme = (root / "codec/view/README.md").read_text()
    (example,) = re.findall(r"```js\n(import .*?)```", readme, re.DOTALL)
    (tmp_path / "digits.aez").write_bytes((GOLDEN / "mnist-1940d17a-labels40-q60.aez").read_bytes())
    (tmp_path / "codec").symlink_to(root / "codec")
    (tmp_path / "weights").symlink_to(root / "weights")
    more = "console.log((await stream.images(0, 40)).errors.every((error) => error === null));"
    (tmp_path / "x.mjs").write_text(example + more)
    command = [str(node.NODE), "--preserve-symlinks", "x.mjs"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("40 ")
    assert done.stdout.endswith("true\n")


def test_a_model_that_is_fetched_is_loaded_once_and_its_file_not_kept() -> None:
    script = """
        const { readFile } = await import("node:fs/promises");
        let fetched = 0;
        const model = async () => (fetched++, new Uint8Array(await readFile(given.model)));
        const files = new ModelFiles(model, new Uint8Array(await readFile(given.wasm)));
        const both = [files.get(given.hash), files.get(given.hash)];
        await Promise.all(both);
        files.add(await model()); // as if it was dropped onto the page
        const all = await Promise.all([...both, files.get(given.hash)]);
        return [fetched, new Set(all).size, files.has(given.hash)];
    """
    path = MODELS[0]
    model_hash = next(iter(registry.MODEL_IDS.values()))
    given = {"model": path, "wasm": str(WEB / "kernels.wasm"), "hash": model_hash}
    assert run("model_files.js", "ModelFiles", script, **given) == [2, 1, True]


@pytest.mark.parametrize("answer", ["model", "null"])
def test_a_model_may_be_given_while_it_is_fetched_or_loaded(answer: str) -> None:
    """Whichever comes first is loaded, and nobody is left without."""
    script = f"""
        const {{ readFile }} = await import("node:fs/promises");
        const model = new Uint8Array(await readFile(given.model));
        const wasm = new Uint8Array(await readFile(given.wasm));
        const loaded = [];
        for (let k = 0; k < 12; k++) {{ // while it is loaded: after k steps
            const files = new ModelFiles([model], wasm);
            const first = files.get(given.hash);
            for (let step = 0; step < 2 * k; step++) await null;
            files.add(model);
            loaded.push(...await Promise.all([first, files.get(given.hash)]));
        }}
        let answer; // while it is fetched
        const asked = new Promise((ask) => {{
            const fetched = () => new Promise((go) => {{ answer = go; ask(); }});
            const files = new ModelFiles(fetched, wasm);
            const first = files.get(given.hash);
            loaded.push(async () => {{
                files.add(model);
                const second = await files.get(given.hash);
                answer({answer});
                return [await first, second, await files.get(given.hash)];
            }});
        }});
        await asked;
        loaded.push(...await loaded.pop()());
        return loaded.map(({{ model }}) => model.name);
    """
    given = {"model": MODELS[0], "wasm": str(WEB / "kernels.wasm")}
    given["hash"] = next(iter(registry.MODEL_IDS.values()))
    found = run("model_files.js", "ModelFiles", script, **given)
    assert found == ["mnist"] * 27


# Streams that claim more images than there can be

CLAIMED = 655_350_000
HELD = "process.memoryUsage().arrayBuffers"


def claiming() -> bytes:
    """60 KB: a footer lists 10,000 blocks, which are not there, of 65,535 images."""
    return pack_collection_header() + Footer(((0, 65_535),) * 10_000).pack()


def test_facts_take_the_memory_of_what_is_known() -> None:
    script = f"""
        const facts = new Facts({CLAIMED});
        const bytes = new Float32Array(4096), coding = new Uint16Array(4096);
        const codings = [{{ quality: 75, model: "a", modelName: "a", kind: "lossy" }}];
        facts.add(0, {{ names: null, labels: null, bytes, coding, codings }});
        const wish = {{ query: "", label: "", model: "", quality: "", sort: "number" }};
        const found = (change) => [...facts.order({{ ...wish, ...change }}, errors)];
        const errors = new Map([[17, {{}}], [{CLAIMED - 1}, {{}}], [5_000_000, {{}}]]);
        return [
            {HELD}, found({{ query: "#655,349,999" }}), found({{ query: "655350000" }}),
            found({{ quality: "damaged" }}), facts.of({CLAIMED - 1}).coding,
        ];
    """
    held, *found = run("page_facts.js", "Facts", script)
    assert held < 10e6
    last = CLAIMED - 1
    assert found == [[last], [], [17, 5_000_000, last], None]


def test_a_comparison_takes_the_memory_of_its_originals() -> None:
    script = f"""
        const one = new Comparison(new Uint8Array(3 * 784), {CLAIMED}, {{ numbers: [2, 5, 9] }});
        return [{HELD}, one.has(9), one.has(10), one.isKnown(10), one.isKnown(9)];
    """
    held, *found = run("page_compare.js", "Comparison", script)
    assert held < 10e6
    assert found == [True, False, False, False]


# The pool, with workers that answer when they are told to

POOL = """
    const asked = [];
    globalThis.Worker = class {
        postMessage(data) { asked.push({ worker: this, ...data }); }
        terminate() {}
    };
    const groupSize = given.group;
    const answers = {
        open: () => ({ length: given.length }),
        groups: ({ from, to }) => ({
            starts: Uint16Array.from({ length: to - from }, (_, k) => k - k % groupSize),
        }),
        images: ({ numbers }) => (
            { numbers, pixels: new Uint8Array(784 * numbers.length), failed: [] }),
        facts: () => ({}),
    };
    const settled = () => new Promise((resolve) => setTimeout(resolve));
    /** Answer the first question that waits; returns it. */
    const step = async () => {
        const { worker, id, task, ...data } = asked.shift();
        const answer = { damage: [], models: [], ...answers[task](data) };
        worker.onmessage({ data: { id, answer } });
        await settled();
        return { task, ...data };
    };
    const pool = new Pool("", () => {}, async () => null);
    // jobs of few images, or of one group, however fast these answers are
    Object.defineProperty(pool, "perMs", { get: () => 0.05, set() {} });
    const opening = pool.open({}, 2);
    await step();
    await opening;
    await step(); // the other one
    const range = (from, to) => Array.from({ length: to - from }, (_, k) => from + k);
"""


def pool_run(script: str, **given: Any) -> Any:
    return run("page_pool.js", "Pool", POOL + script, **given)


def test_a_pool_takes_the_memory_of_what_it_has() -> None:
    script = f"""
        pool.want([{CLAIMED - 1}]);
        while (asked.length) await step();
        return [{HELD}, pool.pixels({CLAIMED - 1}).length, pool.pixels(0)];
    """
    held, *found = pool_run(script, length=CLAIMED, group=16)
    assert held < 10e6
    assert found == [784, None]


@pytest.mark.parametrize("group", [1, 5, 16])
def test_groups_are_decoded_once_and_whole_and_what_is_in_sight_first(group: int) -> None:
    """Two workers at once, jobs of few images, and a screen that begins within a group."""
    script = """
        const inSight = range(1003, 1333);
        pool.want(inSight, range(1333, 1500));
        const jobs = [];
        const left = new Set(inSight);
        let seen = 0;
        while (asked.length) {
            const job = await step();
            if (job.task !== "images") continue;
            jobs.push(job.numbers);
            for (const number of job.numbers) left.delete(number);
            if (!left.size) seen ||= jobs.length;
        }
        return [jobs, seen];
    """
    jobs, seen = pool_run(script, length=60_000, group=group)
    numbers = [number for job in jobs for number in job]
    assert len(numbers) == len(set(numbers))
    first, last = 1003 - 1003 % group, 1499 - 1499 % group + group
    assert sorted(numbers) == list(range(first, last))
    assert max(map(len, jobs)) <= 4 + group
    in_sight = [job for job in jobs if job[0] < 1333]
    assert seen <= len(in_sight) + 2  # two jobs are under way


def test_what_is_no_longer_in_sight_is_not_decoded() -> None:
    """Scrolling while both workers are busy: their next jobs are of the new place."""
    script = """
        pool.want(range(0, 300), range(300, 900));
        await step(); // groups
        pool.want(range(2000, 2300), range(2300, 2600));
        pool.want(range(3000, 3300), range(3300, 3600));
        const jobs = [];
        for (let k = 0; k < 8; k++) jobs.push((await step()).numbers);
        return jobs;
    """
    jobs = pool_run(script, length=60_000, group=16)
    assert all(number < 300 for job in jobs[:2] for number in job)
    assert all(2992 <= number < 3312 for job in jobs[2:] for number in job)


def test_facts_wait_for_what_is_in_sight() -> None:
    script = """
        pool.want(range(0, 200), range(200, 600));
        pool.call("facts", { from: 0, to: 4096 });
        const tasks = [];
        while (asked.length) {
            const { task, numbers } = await step();
            tasks.push(task === "images" ? (numbers[0] < 200 ? "sight" : "ahead") : task);
        }
        return tasks;
    """
    tasks = pool_run(script, length=60_000, group=16)
    assert tasks.index("facts") > max(k for k, task in enumerate(tasks) if task == "sight") - 2
    assert tasks.index("facts") < len(tasks) - tasks[::-1].index("ahead") - 1
    assert tasks.count("facts") == tasks.count("groups") == 1


def test_room_for_pixels_comes_back_with_the_next_question() -> None:
    script = """
        pool.want(range(0, 64));
        while (asked.length) await step();
        pool.want(range(3000, 3064));
        const rooms = [];
        while (asked.length) rooms.push((await step()).room?.length);
        return [rooms.slice(0, 2), [0, 63, 3063].every((number) => pool.pixels(number))];
    """
    rooms, there = pool_run(script, length=4000, group=16)
    assert all(room >= 16 * 784 for room in rooms)
    assert there


def test_images_are_put_where_there_is_room(tmp_path: Path) -> None:
    script = """
        const { readFile } = await import("node:fs/promises");
        const read = async (path) => new Uint8Array(await readFile(path));
        const models = await Promise.all(given.models.map(read));
        const wasm = await read(given.wasm);
        const stream = await open(await read(given.stream), { models, wasm });
        const at = [3, 20], whole = (await stream.images(0, 40)).pixels;
        const hex = (bytes) => Buffer.from(bytes).toString("hex");
        const wanted = at.map((k) => hex(whole.subarray(784 * k, 784 * (k + 1)))).join("");
        return Promise.all([3000, 100, 0].map(async (size) => {
            const room = new Uint8Array(size).fill(7);
            const { pixels } = await stream.imagesAt(at, room);
            return [hex(pixels) === wanted, pixels.buffer === room.buffer];
        }));
    """
    given = {
        "models": MODELS,
        "stream": str(GOLDEN / STREAMS[0]),
        "wasm": str(WEB / "kernels.wasm"),
    }
    assert run("aez.js", "open", script, **given) == [[True, True], [True, False], [True, False]]


def test_what_is_in_sight_stays_however_many_others_come() -> None:
    """Also on a screen that shows more images than are kept otherwise."""
    script = """
        const kept = [];
        for (const inSight of [range(100, 400), range(100, 9_300)]) {
            pool.want(inSight, range(9_300, 27_000));
            while (asked.length) await step();
            kept.push(inSight.every((k) => pool.pixels(k)), pool.slots.size);
        }
        return [...kept, pool.slabs.length];
    """
    few, fewer, many, more, slabs = pool_run(script, length=27_000, group=16)
    assert few
    assert many
    assert (fewer, more, slabs) == (16_384, 18_400, 5)
