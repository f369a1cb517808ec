"""The page of `aez view` in a real browser: Chromium without a window, driven by Selenium.

READ ME FIRST
- Selenium and not Playwright: it drives the browser and driver that Debian installs, and downloads
  neither.
- `window.aez` is the page's own surface for scripts: what it shows, exact pixels.
- Times and memory are printed (`pytest -s`), never asserted: the machine may be busy.
- `$AEZ_SHOTS` names a directory for screenshots, for people to look at.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import drawn
from PIL import Image
from test_view_memory import CLAIMED, claiming, kernels_of
from typer.testing import CliRunner

import codec
import codec.view.page
from codec.cli.app import app

webdriver = pytest.importorskip(
    "selenium.webdriver", reason="no selenium: pip install selenium", exc_type=ImportError
)
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="no browser: apt-get install chromium chromium-driver"
    ),
]
TESTS = Path(__file__).parent
GOLDEN = json.loads((TESTS / "golden/golden.json").read_text())
GOLDENS = sorted((TESTS / "golden").glob("*.aez"))
ERRORS = sorted((TESTS / "golden/errors").glob("*.aez"))
WEB = Path(codec.__file__).parent / "view/web"
MNIST = TESTS.parent.parent / "shared/data/mnist"
PATIENCE_S = 60
FLAGS = [
    "--headless=new",
    "--no-sandbox",  # of a container, where tests run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-precise-memory-info",
]


class Page:
    """A browser with one page in it."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, ready: bool = True) -> Page:
        self.driver.get(path.as_uri())
        if ready:
            self.wait("await aez.ready; return true")
        return self

    def run(self, script: str, *values: Any) -> Any:
        """What a script returns; it may await."""
        body = f"return (async (...args) => {{ {script} }})(...arguments)"
        return self.driver.execute_script(body, *values)

    def wait(self, script: str) -> Any:
        """Until a script returns something true."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            if value := self.run(script):
                return value
            time.sleep(0.02)
        raise AssertionError(f"never true: {script}; {self.state}")

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.run("return aez.state")
        return found

    def complete(self) -> dict[str, Any]:
        """The state once every image in sight is drawn, and names, labels and sizes are known."""
        self.wait("const s = aez.state; return s.problem || s.complete && s.known === s.length")
        return self.state

    def pixels(self, start: int, stop: int) -> tuple[np.ndarray, list[Any]]:
        """Images, uint8 (N, 28, 28), and the error of each or None."""
        script = """
            const { pixels, errors } = await aez.images(...args);
            const reader = new FileReader();
            const done = new Promise((resolve) => { reader.onload = resolve; });
            reader.readAsDataURL(new Blob([pixels]));
            await done;
            return [reader.result.split(",")[1] || "", errors];
        """
        text, errors = self.run(script, start, stop)
        return np.frombuffer(base64.b64decode(text), np.uint8).reshape(-1, 28, 28), errors

    def find(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        found: str = self.run("return document.querySelector(args[0]).textContent", selector)
        return found

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def click_first(self) -> None:
        """Click the first image.  By its place: elements of the grid come and go."""
        grid = self.find("#grid")
        x, y = 30 - grid.size["width"] // 2, 30 - grid.size["height"] // 2
        ActionChains(self.driver).move_to_element_with_offset(grid, x, y).click().perform()

    def choose(self, selector: str, value: str) -> None:
        self.run(
            "const s = document.querySelector(args[0]); s.value = args[1];"
            "s.dispatchEvent(new Event('change'))",
            selector,
            value,
        )

    def give(self, *paths: Path) -> None:
        """Choose files by the button's input."""
        self.find("#files").send_keys("\n".join(str(path) for path in paths))

    def shoot(self, name: str) -> None:
        if directory := os.environ.get("AEZ_SHOTS"):
            Path(directory).mkdir(parents=True, exist_ok=True)
            self.driver.save_screenshot(str(Path(directory) / f"{name}.png"))

    def size(self, width: int, height: int, ratio: float = 1, dark: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": ratio, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def complaints(self) -> list[str]:
        """What the browser's console says: errors, and breaches of the security policy."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    home = tmp_path_factory.mktemp("browser")
    for flag in [*FLAGS, f"--user-data-dir={home}/profile"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(home)})
    driver = webdriver.Chrome(options=options, service=webdriver.chrome.service.Service(DRIVER))
    driver.set_script_timeout(PATIENCE_S)
    yield driver
    driver.quit()


@pytest.fixture
def page(driver: Any) -> Iterator[Page]:
    """A browser whose console must be silent in the end."""
    page = Page(driver)
    page.size(1280, 800)
    driver.get_log("browser")
    yield page
    assert page.complaints() == []


Make = Callable[..., Path]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes a page of streams, with the command."""

    def make(*paths: Path, options: tuple[str, ...] = ()) -> Path:
        output = tmp_path_factory.mktemp("page") / "page.html"
        arguments = ["view", *map(str, paths), "-o", str(output), "--no-open", *options]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        return output

    return make


@pytest.fixture(scope="module")
def plain(make: Make) -> Path:
    """A page with a small stream, onto which others are dropped."""
    return make(TESTS / "golden/mnist-1940d17a-labels40-q60.aez")


def written(path: Path, stream: bytes) -> Path:
    path.write_bytes(stream)
    return path


def sha256(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


# The files


def test_nothing_of_the_page_interprets_text() -> None:
    """Text of strangers becomes text nodes: no way to make markup or code of it is used."""
    ways = "innerHTML|outerHTML|insertAdjacentHTML|document.write|DOMParser|srcdoc|createContextual"
    ways += r"|\beval\b|new Function|setTimeout\(\s*[\"'`]|javascript:|import\("
    for path in [*WEB.glob("page*.js"), WEB / "worker.js"]:
        assert not re.search(ways, path.read_text()), path.name
    html = (WEB / "page.html").read_text()
    assert not re.search(r"\son\w+=|\sstyle=|(src|href)=", html)


def test_the_page_is_ascii_and_small() -> None:
    files = [*WEB.glob("page*"), WEB / "worker.js"]
    assert all(path.read_text().isascii() for path in files)
    assert sum(path.stat().st_size for path in files) < 100_000


# Pixels


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_a_page_shows_the_pixels_of_the_golden(path: Path, page: Page, make: Make) -> None:
    golden = GOLDEN[path.name]
    state = page.open(make(path)).complete()
    shape = golden["shape"]
    assert state["problem"] is None
    assert state["length"] == (shape[0] if len(shape) == 3 else 1)
    pixels, errors = page.pixels(0, state["length"])
    assert errors == [None] * len(pixels)
    assert sha256(pixels) == golden["pixels_sha256"]


def test_what_is_drawn_and_saved_is_exact(page: Page, plain: Path, driver: Any) -> None:
    """The canvas of the grid, that of the dialog, and the PNG file have the same values."""
    page.open(plain).complete()
    expected = page.pixels(0, 1)[0][0]
    read = """
        const canvas = document.querySelector(args[0]);
        const { data } = canvas.getContext("2d").getImageData(0, 0, 28, 28);
        return [...data];
    """
    page.click_first()
    page.run("document.getElementById('one').close(); document.getElementById('grid').focus()")
    page.press(Keys.HOME, Keys.ENTER)
    for selector in (".row canvas", "#pictures canvas"):
        rgba = np.array(page.run(read, selector), np.uint8).reshape(28, 28, 4)
        assert (rgba[..., :3] == expected[..., None]).all()
        assert (rgba[..., 3] == 255).all()
    catch = """
        const make = URL.createObjectURL;
        const caught = new Promise((resolve) => {
            URL.createObjectURL = (blob) => { resolve(blob); return make.call(URL, blob); };
        });
        document.getElementById("save").click();
        const blob = await caught;
        URL.createObjectURL = make;
        return [...new Uint8Array(await blob.arrayBuffer())];
    """
    with Image.open(io.BytesIO(bytes(page.run(catch)))) as image:
        assert image.mode == "L"
        assert (np.asarray(image) == expected).all()


# Damage


@pytest.mark.parametrize("path", ERRORS, ids=lambda path: path.stem)
def test_a_damaged_stream_is_told_and_the_page_goes_on(path: Path, page: Page, plain: Path) -> None:
    """Dropped onto a page: its error is shown by its kind, and other streams still work."""
    page.open(plain).complete()
    page.give(path)
    page.wait(f"return aez.state.name === {path.name!r} || aez.state.problem")
    state = page.complete()
    kind = path.stem.split("-")[0]
    if state["problem"]:
        assert state["problem"]["kind"] == kind
        assert kind in page.text("#notes")
    else:
        pixels, errors = page.pixels(0, state["length"])
        kinds = {error["kind"] for error in errors if error}
        assert kind in kinds or kind in page.text("#notes")
        assert not pixels[[error is not None for error in errors]].any()
        page.shoot(f"damaged-{path.stem}")
    page.run("await aez.choose(0)")
    assert page.complete()["problem"] is None


def test_damage_in_the_middle_costs_only_its_images(
    page: Page, plain: Path, tmp_path: Path
) -> None:
    images = drawn(40)
    stream = bytearray(codec.compress(images, quality=60, effort=1, model="mnist", guard=False))
    stream[len(stream) // 2] ^= 0x55
    page.open(plain).complete()
    page.give(written(tmp_path / "hurt.aez", bytes(stream)))
    page.wait("return aez.state.name === 'hurt.aez'")
    state = page.complete()
    damaged = [error is not None for error in page.pixels(0, 40)[1]]
    assert 0 < sum(damaged) < 40
    assert state["damaged"] == sum(damaged)
    page.choose("#quality", "damaged")
    page.wait(f"return aez.state.shown === {sum(damaged)}")
    assert page.text("#status").count(f"{sum(damaged)} shown") == 1
    page.choose("#quality", "")
    page.shoot("damaged")


def test_random_bytes_leave_the_page_alive(page: Page, plain: Path, tmp_path: Path) -> None:
    page.open(plain).complete()
    rng = np.random.default_rng(18)
    start = bytes((TESTS / "golden/mnist-1940d17a-named40-q60.aez").read_bytes()[:4])
    for k in range(12):
        noise = rng.bytes(int(rng.integers(0, 3000)))
        path = written(tmp_path / f"noise{k}.aez", start[: k % 5] + noise)
        page.give(path)
        page.wait(f"return aez.state.name === {path.name!r} || aez.state.problem")
        page.complete()
        page.run("await aez.choose(0)")
        assert page.complete()["problem"] is None


def test_damage_that_is_not_in_sight_is_found_by_the_filter(
    page: Page, plain: Path, tmp_path: Path
) -> None:
    """One group of thousands of images: those of the rest of its block are not listed."""
    images = np.tile(drawn(500), (6, 1, 1))
    stream = bytearray(codec.compress(images, quality=60, effort=1, model="mnist", guard=False))
    stream[-100] ^= 0x55  # before the footer: a message
    page.open(plain).complete()
    page.give(written(tmp_path / "hurt.aez", bytes(stream)))
    page.wait("return aez.state.name === 'hurt.aez'")
    page.complete()
    damaged = [error is not None for error in page.pixels(0, 3000)[1]]
    assert 0 < sum(damaged) <= 16
    page.wait("return document.querySelector('#quality option[value=damaged]')")
    page.choose("#quality", "damaged")
    page.wait(f"return aez.state.shown === {sum(damaged)}")


# Too little memory, too many images


def test_too_little_memory_is_told(
    page: Page, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = shutil.copytree(WEB, tmp_path / "web")
    kernels_of(8, web)
    monkeypatch.setattr(codec.view.page, "WEB", web)
    page.open(make(TESTS / "golden/mnist-1940d17a-named40-q60.aez")).complete()
    page.wait("return document.querySelector('#notes').textContent")
    assert "OutOfMemory: this browser gives too little memory" in page.text("#notes")
    assert "damage" not in page.text("#notes") + page.text("#status")
    assert "40 not shown for lack of memory" in page.text("#status")
    page.shoot("no-memory")


def test_a_small_stream_that_claims_millions_of_images_is_small(
    page: Page, plain: Path, tmp_path: Path
) -> None:
    page.open(plain).complete()
    before = resident_bytes()
    page.give(written(tmp_path / "many.aez", claiming()))
    page.wait("return aez.state.name === 'many.aez' || aez.state.problem")
    page.wait("return aez.state.problem || aez.state.complete")
    state = page.state
    assert state["problem"] is None
    assert state["length"] == CLAIMED
    page.run("const g = document.getElementById('grid'); g.scrollTop = g.scrollHeight / 2")
    page.wait("return aez.state.complete")
    page.find("#query").send_keys("#655,349,999")
    page.wait("return aez.state.shown === 1")
    assert resident_bytes() - before < 200e6
    page.run("await aez.choose(0)")
    assert page.complete()["problem"] is None


# Words of strangers


NAMES = [
    "<script>window.hacked = 1</script>",
    "<img src=x onerror=window.hacked=1>",
    "\"' onmouseover='window.hacked=1'",
    "{{config}} ${window.hacked=1} `${window.hacked=1}`",
    "</script><script>window.hacked=1</script>",
    "evil\u202egnp.exe",
    "tab\tline\nbell\a\x7f\x85",
    "\u2066\u2067\u200f\u05d0\u05d1\u05d2\u200b",
    "javascript:window.hacked=1",
    "a" * 250,
]


def test_names_that_are_scripts_are_shown_as_text(page: Page, make: Make, tmp_path: Path) -> None:
    labels = [name[:80] for name in NAMES]
    stream = codec.compress(drawn(len(NAMES)), names=NAMES, labels=labels, effort=1)
    path = written(tmp_path / "<b>names<script>.aez", stream)
    page.open(make(path)).complete()
    page.click_first()
    for k, name in enumerate(NAMES):
        page.run("document.getElementById('one').close(); document.getElementById('grid').focus()")
        page.press(Keys.HOME, *[Keys.ARROW_RIGHT] * k, Keys.ENTER)
        shown = page.text("#one-title")
        seen = re.sub("[\0-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", "", name)
        assert re.sub("‹U\\+[0-9A-F]+›", "", shown) == seen
        assert not re.search("[\0-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", shown)
        page.shoot(f"names-{k}")
    page.press(Keys.ESCAPE)
    page.shoot("names")
    assert page.run("return window.hacked") is None
    assert page.run("return document.querySelectorAll('script').length") <= 5
    assert page.run("return document.querySelectorAll('img, iframe, b b').length") == 0


# Use


def test_filters_search_and_order(page: Page, make: Make, tmp_path: Path) -> None:
    images = drawn(60)
    labels = [k % 3 for k in range(60)]
    names = [f"some/{'even' if k % 2 == 0 else 'odd'}-{k}.png" for k in range(60)]
    stream = codec.compress(images, names=names, labels=labels, effort=1)
    page.open(make(written(tmp_path / "x.aez", stream))).complete()
    assert [option.text for option in page.find("#label").find_elements(By.TAG_NAME, "option")] == [
        "Every label",
        "0 (20)",
        "1 (20)",
        "2 (20)",
    ]
    page.choose("#label", "2")  # the second of them
    assert page.complete()["shown"] == 20
    page.find("#query").send_keys("ODD-")
    page.wait("return aez.state.shown === 10")
    page.find("#query").clear()
    page.find("#query").send_keys("#17")
    page.wait("return aez.state.shown === 0")  # 17 has label 2, the third
    page.choose("#label", "")
    assert page.state["shown"] == 1
    page.find("#query").clear()
    page.find("#query").send_keys(Keys.SPACE, Keys.BACKSPACE)
    page.wait("return aez.state.shown === 60")
    page.choose("#sort", "bytes")
    page.click_first()
    page.press(Keys.ESCAPE)
    sizes = []
    page.press(Keys.HOME)
    for _ in range(60):
        page.press(Keys.ENTER)
        sizes.append(float(re.findall(r"Size([\d.]+) bytes", page.text("#facts"))[0]))
        page.press(Keys.ESCAPE, Keys.ARROW_RIGHT)
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) > 1


def test_keys_move_and_open(page: Page, plain: Path) -> None:
    page.open(plain).complete()
    page.run("document.getElementById('grid').focus()")
    active = "return document.getElementById('grid').getAttribute('aria-activedescendant')"
    columns = page.run("return Number(document.getElementById('grid').ariaColCount)")
    page.press(Keys.ARROW_RIGHT)
    assert page.run(active) == "cell-0"
    for keys, cell in [
        ([Keys.ARROW_RIGHT], 1),
        ([Keys.ARROW_DOWN], 1 + columns),
        ([Keys.END], 39),
        ([Keys.ARROW_DOWN], 39),
        ([Keys.ARROW_UP], 39 - columns),
        ([Keys.HOME], 0),
        ([Keys.PAGE_DOWN], 39),
        ([Keys.PAGE_UP], 0),
        ([Keys.ARROW_LEFT], 0),
    ]:
        page.press(*keys)
        assert page.run(active) == f"cell-{cell}"
    label = page.run("return document.getElementById('cell-0').getAttribute('aria-label')")
    assert re.fullmatch(r"image 0, digits/0-bold.png, label 0, [\d.]+ bytes, quality 60", label)
    page.press(Keys.ENTER)
    assert page.run("return document.getElementById('one').open")
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert "Number1" in page.text("#facts")
    page.wait("return !document.getElementById('save').disabled")
    shift = ActionChains(page.driver).key_down(Keys.SHIFT)
    shift.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_DOWN).key_up(Keys.SHIFT).perform()
    value, place = re.fullmatch(r"(\d+) (row \d+, column \d+)", page.text("#value")).groups()
    row, column = map(int, re.findall(r"\d+", place))
    assert (row, column) == (16, 14)
    assert int(value) == page.pixels(1, 2)[0][0, row, column]
    page.press(Keys.ESCAPE)
    assert page.run("return document.activeElement.id") == "grid"
    assert page.run(active) == "cell-1"


def test_the_value_under_the_pointer_is_exact(page: Page, plain: Path) -> None:
    page.open(plain).complete()
    page.click_first()
    canvas = page.find("#pictures canvas")
    page.wait("return !document.getElementById('save').disabled")
    size = canvas.size["width"] / 28
    number = int(re.findall(r"Number([\d,]+)", page.text("#facts"))[0])
    pixels = page.pixels(number, number + 1)[0][0]
    for x, y in [(0, 0), (27, 27), (13, 9), (20, 14)]:
        offset = [int((at + 0.5) * size - 14 * size) for at in (x, y)]
        ActionChains(page.driver).move_to_element_with_offset(canvas, *offset).perform()
        assert page.text("#value") == f"{pixels[y, x]} row {y}, column {x}"


def test_zoom_is_by_whole_device_pixels(page: Page, plain: Path) -> None:
    script = """
        const canvas = document.querySelector(".row canvas");
        const box = canvas.getBoundingClientRect();
        return box.width / canvas.width * devicePixelRatio;
    """
    for ratio in (1, 1.25, 1.5, 2, 3):
        page.size(1000, 700, ratio)
        page.open(plain).complete()
        for _ in range(4):
            factor = page.run(script)
            assert abs(factor - round(factor)) < 0.01
            page.find("#larger").click()
    rendering = "return getComputedStyle(document.querySelector('.row canvas')).imageRendering"
    assert page.run(rendering) == "pixelated"


def test_a_dropped_file_joins_the_page(page: Page, plain: Path) -> None:
    """A real drop event, and the list of files that then can be chosen from."""
    path = TESTS / "golden/mnist-1940d17a-texts17-q30.aez"
    page.open(plain).complete()
    drop = """
        const bytes = Uint8Array.from(atob(args[0]), (c) => c.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], "texts.aez"));
        for (const kind of ["dragenter", "dragover", "drop"]) {
            const options = { dataTransfer: transfer, bubbles: true, cancelable: true };
            document.body.dispatchEvent(new DragEvent(kind, options));
        }
    """
    page.run(drop, base64.b64encode(path.read_bytes()).decode())
    page.wait("return aez.state.name === 'texts.aez'")
    assert page.complete()["length"] == 17
    assert sha256(page.pixels(0, 17)[0]) == GOLDEN[path.name]["pixels_sha256"]
    options = page.run("return [...document.getElementById('label').options].map((o) => o.text)")
    assert options == ["Every label", "digit (6)", "letter (11)"]
    page.choose("#stream", "0")
    page.wait("return aez.state.length === 40")


def test_a_missing_model_is_named_and_taken_by_drop(page: Page, make: Make) -> None:
    page.open(make(TESTS / "golden/empty-collection.aez")).complete()
    assert "empty" in page.text("#notes")
    golden = TESTS / "golden/fashion-2fabebbc-named40-q60.aez"
    page.give(golden)
    page.wait("return aez.state.missing.length || (aez.state.problem || {}).modelHash")
    # the notes follow the state by a frame
    page.wait("return document.querySelector('#notes').textContent.includes('2fabebbc125b511c')")
    page.wait("return aez.state.problem || aez.state.complete")
    page.shoot("no-model")
    page.give(next((TESTS.parent / "weights").glob("mnist-lossless-*.safetensors")))  # another one
    time.sleep(0.2)
    assert "2fabebbc125b511c" in page.text("#notes")
    # the images come although nothing changes its height, which would draw all of them again
    page.run("document.getElementById('notes').style.height = '60px'")
    page.wait("return document.getElementById('grid').textContent.includes('no model')")
    decoded = page.state["decoded"]
    page.give(TESTS.parent / "weights/fashion-2fabebbc.safetensors")
    page.wait("return aez.state.length === 40 && !aez.state.missing.length && !aez.state.damaged")
    page.complete()
    page.wait("return !document.getElementById('grid').textContent.includes('no model')")
    page.wait(f"return aez.state.decoded === {decoded} + 40")
    assert sha256(page.pixels(0, 40)[0]) == GOLDEN[golden.name]["pixels_sha256"]
    page.wait("return document.querySelector('#notes').textContent === ''")


def test_a_broken_model_is_refused(page: Page, plain: Path, tmp_path: Path) -> None:
    model = bytearray((TESTS.parent / "weights/mnist-1940d17a.safetensors").read_bytes())
    page.open(plain).complete()
    page.give(written(tmp_path / "cut.safetensors", bytes(model[: len(model) // 2])))
    page.wait("return document.getElementById('notes').textContent")
    assert "cut.safetensors is not a model" in page.text("#notes")
    assert "BadModel" in page.text("#notes")


def test_an_old_browser_gets_a_sentence(page: Page, plain: Path) -> None:
    for script, word in [
        ("delete window.WebAssembly", "WebAssembly"),
        ("WebAssembly.compile = () => Promise.reject(new Error())", "SIMD"),
    ]:
        added = page.driver.execute_cdp_cmd(
            "Page.addScriptToEvaluateOnNewDocument", {"source": script}
        )
        page.open(plain)
        page.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
        assert word in page.text("#notes")


def test_several_streams_and_colours(page: Page, make: Make) -> None:
    names = ["mnist-1940d17a-named40-q60.aez", "fashion-lossless-e4cffbb1-named40.aez"]
    page.open(make(*[TESTS / "golden" / name for name in names])).complete()
    for k, name in enumerate(names):
        page.choose("#stream", str(k))
        page.wait(f"return aez.state.name === {name!r}")
        page.complete()
        assert sha256(page.pixels(0, 40)[0]) == GOLDEN[name]["pixels_sha256"]
    colour = "return getComputedStyle(document.body).backgroundColor"
    light = page.run(colour)
    page.size(1280, 800, dark=True)
    dark = page.run(colour)
    assert light != dark
    page.find("#theme").click()  # dark, whatever the system says
    page.size(1280, 800)
    assert page.run(colour) == dark
    page.find("#theme").click()
    assert page.run(colour) == light
    page.find("#theme").click()


def test_a_served_stream_is_read_from_the_server(page: Page) -> None:
    path = TESTS / "golden/mnist-1940d17a-parts40.aez"
    command = [sys.executable, "-m", "codec", "view", str(path), "--serve", "--no-open"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=TESTS.parent)
    try:
        line = server.stdout.readline() if server.stdout else ""
        page.driver.get(re.findall(r"http://\S+/", line)[0])
        page.wait("await aez.ready; return true")
        assert page.complete()["problem"] is None
        assert sha256(page.pixels(0, 40)[0]) == GOLDEN[path.name]["pixels_sha256"]
    finally:
        server.terminate()
        server.communicate()


@pytest.mark.parametrize("width", [320, 700, 1280])
def test_nothing_sticks_out_at_any_width(width: int, page: Page, plain: Path) -> None:
    page.size(width, 640, 2)
    page.open(plain).complete()
    wide = "return document.documentElement.scrollWidth"
    assert page.run(wide) <= width
    page.click_first()
    page.wait("return document.getElementById('one').open")
    assert page.run(wide) <= width
    box = page.run("return document.getElementById('one').getBoundingClientRect().toJSON()")
    assert box["left"] >= 0
    assert box["right"] <= width
    page.shoot(f"one-{width}")


def test_compare_shows_the_worst_first(page: Page, make: Make, tmp_path: Path) -> None:
    images = drawn(50)
    stream = codec.compress(images, quality=20, effort=1, guard=False)
    decoded = codec.decompress(stream)
    np.save(tmp_path / "originals.npy", images)
    path = written(tmp_path / "x.aez", stream)
    made = make(tmp_path / "originals.npy", options=("--against", str(path)))
    page.open(made).complete()
    page.wait("return !/compared/.test(document.getElementById('status').textContent)")
    mse = ((images.astype(float) - decoded) ** 2).mean(axis=(1, 2))
    worst = 10 * np.log10(255**2 / mse.max())
    overall = 10 * np.log10(255**2 / mse.mean())
    largest = np.abs(images.astype(int) - decoded).max()
    status = page.text("#status")
    assert f"PSNR {overall:.1f} dB" in status
    assert f"worst {worst:.1f} dB (image {mse.argmax()})" in status
    assert f"largest error {largest}" in status
    page.choose("#sort", "psnr")
    page.run("document.getElementById('grid').focus()")
    page.press(Keys.HOME, Keys.ENTER)
    assert f"Number{mse.argmax()}" in page.text("#facts")
    assert page.run("return document.querySelectorAll('#pictures canvas').length") == 3
    page.shoot("compare-one")
    page.press(Keys.ESCAPE)
    page.shoot("compare")


# Many images


@pytest.fixture(scope="module")
def sixty_thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNIST, where its files are, or drawings, as a collection of 60,000."""
    if (MNIST / "train-images-idx3-ubyte.gz").exists():
        raw = gzip.decompress((MNIST / "train-images-idx3-ubyte.gz").read_bytes())
        images = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)
        raw = gzip.decompress((MNIST / "train-labels-idx1-ubyte.gz").read_bytes())
        labels = np.frombuffer(raw, np.uint8, offset=8)
    else:
        images = np.tile(drawn(600), (100, 1, 1))
        labels = np.arange(60_000) % 10
    names = [f"train/{k:05d}.png" for k in range(60_000)]
    stream = codec.compress(images, names=names, labels=labels, effort=1)
    return written(tmp_path_factory.mktemp("many") / "many.aez", stream)


def test_sixty_thousand_images_scroll(page: Page, make: Make, sixty_thousand: Path) -> None:
    """By jumps, then from top to bottom: what is in sight is always drawn in the end."""
    made = make(sixty_thousand)
    page.open(made)
    page.wait("return aez.state.complete")
    report = {"page bytes": made.stat().st_size, "stream bytes": sixty_thousand.stat().st_size}
    report["first images visible, ms"] = page.state["visibleMs"]
    page.complete()
    waits = []
    scroll = """
        const grid = document.getElementById("grid");
        const began = performance.now();
        grid.scrollTop = args[0] * (grid.scrollHeight - grid.clientHeight);
        await new Promise(requestAnimationFrame);
        while (!aez.state.complete) await new Promise(requestAnimationFrame);
        return performance.now() - began;
    """
    for k in range(60):
        waits.append(page.run(scroll, (k * 37 % 61) / 60))
    report["grey after a jump, ms"] = [round(float(np.percentile(waits, p))) for p in (50, 95, 100)]
    through = """
        const grid = document.getElementById("grid");
        const high = grid.scrollHeight - grid.clientHeight;
        for (let y = 0; y < high; y += grid.clientHeight) {
            grid.scrollTop = y;
            await new Promise(requestAnimationFrame);
            while (!aez.state.complete) await new Promise(requestAnimationFrame);
        }
        return aez.state.decoded;
    """
    page.driver.set_script_timeout(600)
    began = time.monotonic()
    report["decoded"] = page.run(through)
    report["scrolling through all, s"] = round(time.monotonic() - began, 1)
    page.driver.set_script_timeout(PATIENCE_S)
    report["memory of the page's process, MB"] = round(resident_bytes() / 1e6)
    heap = page.run("return performance.memory.usedJSHeapSize")
    report["heap of the page, MB"] = round(heap / 1e6)
    page.choose("#label", "8")
    assert page.complete()["shown"] > 0
    page.choose("#label", "")
    page.choose("#sort", "bytes")
    page.complete()
    page.shoot("many-by-bytes")
    print(json.dumps(report, indent=1))
    expected = codec.open(sixty_thousand)[[59_999]]
    assert (page.pixels(59_999, 60_000)[0] == expected).all()


def test_a_grid_higher_than_browsers_allow_scrolls(
    page: Page, make: Make, sixty_thousand: Path
) -> None:
    """60,000 rows of more than 300 pixels: every one is reached, and a wheel moves by its steps."""
    page.size(320, 640)
    page.open(make(sixty_thousand)).complete()
    for _ in range(6):
        page.find("#larger").click()
    page.complete()
    place = """
        const grid = document.getElementById("grid").getBoundingClientRect();
        const rows = [...document.querySelectorAll(".row")];
        const row = rows.find((row) => row.ariaRowIndex === String(args[0]));
        const box = row && row.getBoundingClientRect();
        return box && [box.top - grid.top, grid.bottom - box.bottom];
    """
    assert page.run("return document.getElementById('grid').ariaRowCount") == "60000"
    assert page.run("return document.getElementById('grid').scrollHeight") < 5e6
    top = page.run(place, 1)[0]
    wheel = ScrollOrigin.from_element(page.find("#grid"))
    ActionChains(page.driver).scroll_from_origin(wheel, 0, 100).perform()
    time.sleep(0.2)
    assert page.run(place, 1)[0] == pytest.approx(top - 100, abs=1)
    page.run("document.getElementById('grid').focus()")
    page.press(Keys.END)
    page.complete()
    assert min(page.run(place, 60_000)) >= 0
    page.press(Keys.ARROW_UP, Keys.ARROW_UP)
    page.complete()
    assert min(page.run(place, 59_998)) >= -1
    page.run("const g = document.getElementById('grid'); g.scrollTop = g.scrollHeight / 2")
    page.complete()
    middle = page.run("return [...document.querySelectorAll('.row')].map((r) => r.ariaRowIndex)")
    assert all(abs(int(row) - 30_000) < 100 for row in middle)


def resident_bytes() -> int:
    """Of the largest process that draws a page, which has its workers, too."""
    largest = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"--type=renderer" in path.read_bytes():
                status = (path.parent / "status").read_text()
                largest = max(largest, int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) * 1024)
        except (OSError, IndexError):
            continue
    return largest
