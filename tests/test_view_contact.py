"""Contact sheets: what a notebook shows of a collection and of a data set."""

from __future__ import annotations

import ast
import base64
import html
import io
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import drawn
from PIL import Image

import codec
from codec.collection.reader import Collection
from codec.dataset import AezDataset
from codec.model.ladder import Ladder
from codec.view import contact

GOLDEN = Path(__file__).parent / "golden"
NAMED = GOLDEN / "mnist-1940d17a-named40-q60.aez"
LABELLED = GOLDEN / "mnist-1940d17a-labels40-q60.aez"


def picture_in(sheet: str) -> np.ndarray:
    """Grey and opacity of the picture, uint8 (H, W, 2)."""
    found = re.search(r'src="data:image/png;base64,([^"]*)"', sheet)
    assert found
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as image:
        assert image.mode == "LA"
        width, height = re.findall(r'(?:width|height)="(\d+)"', sheet)
        assert image.size == (int(width), int(height))
        return np.asarray(image)


def image_in(picture: np.ndarray, number: int) -> np.ndarray:
    """The pixels of one image, if each is twice as high and wide: uint8 (28, 28)."""
    row, column = divmod(number, contact.COLUMNS)
    cell = picture[58 * row : 58 * row + 56, 58 * column : 58 * column + 56]
    assert (cell[..., 1] == 255).all()
    pixels: np.ndarray = cell[::2, ::2, 0]
    assert (cell[..., 0] == pixels.repeat(2, 0).repeat(2, 1)).all()
    return pixels


def caption_of(sheet: str) -> str:
    """The text of the caption."""
    found = re.search("<figcaption[^>]*>(.*)</figcaption>", sheet, re.DOTALL)
    assert found
    text = found[1].replace("<bdi>", "").replace("</bdi>", "")
    assert "<" not in text
    return html.unescape(text)


def sheet_of(shown: Any) -> str:
    sheet: str | None = shown._repr_html_()
    assert sheet is not None
    return sheet


def test_a_collection_shows_its_images_names_and_labels() -> None:
    with codec.open(NAMED) as collection:
        sheet = sheet_of(collection)
        picture = picture_in(sheet)
        assert picture.shape == (3 * 58 - 2, 16 * 58 - 2, 2)
        for number in (0, 15, 16, 39):
            assert (image_in(picture, number) == collection[number]).all()
        assert not picture[-56:, 8 * 58 :, 1].any()  # there are no more images
        assert not picture[56:58, :, 1].any()  # between rows
        names = ", ".join(collection.names[:8])
        expected = f"40 images, {NAMED.stat().st_size:,} bytes \u00b7 names: {names}, ..."
        assert caption_of(sheet) == expected
    with codec.open(LABELLED) as collection:
        labels = ", ".join(map(str, collection.labels[:8].tolist()))
        assert f"labels: {labels}, ..." in caption_of(sheet_of(collection))


def test_only_the_first_images_of_many_are_shown(shipped: Ladder) -> None:
    with codec.open(codec.compress(drawn(100), model="tiny0", effort=1)) as collection:
        sheet = sheet_of(collection)
        assert picture_in(sheet).shape == (4 * 58 - 2, 16 * 58 - 2, 2)
        assert caption_of(sheet).startswith("64 of 100 images, ")
    assert len(sheet) < 100_000


def test_few_images_and_none() -> None:
    with codec.open(codec.compress(drawn(2)[:1], names=["one"])) as collection:
        sheet = sheet_of(collection)
        assert picture_in(sheet).shape == (56, 56, 2)
        assert "1 image, " in caption_of(sheet)
        assert caption_of(sheet).endswith("names: one")
    with codec.open(GOLDEN / "empty-collection.aez") as collection:
        assert caption_of(sheet_of(collection)).startswith("0 images, ")
        assert "<img" not in sheet_of(collection)


def test_a_data_set_shows_its_images_and_classes() -> None:
    pixels, labels = drawn(4), ["b", "<i>", "b", "a"]
    stream = codec.compress(pixels, labels=labels, lossless=True)
    dataset = AezDataset(stream, transform=lambda image: 1 / 0)
    sheet = sheet_of(dataset)
    assert (image_in(picture_in(sheet), 3) == pixels[3]).all()
    assert caption_of(sheet).endswith("labels: b, <i>, b, a")
    others = AezDataset(codec.compress(pixels, lossless=True), labels=[7, 5, 7, -1])
    assert caption_of(sheet_of(others)).endswith("labels: 7, 5, 7, -1")
    plain = AezDataset(codec.compress(pixels, lossless=True))
    assert "labels" not in caption_of(sheet_of(plain))


def test_a_data_set_whose_file_is_gone_shows_as_text(tmp_path: Path) -> None:
    path = tmp_path / "x.aez"
    path.write_bytes(NAMED.read_bytes())
    dataset = AezDataset(path)
    dataset._opened = None
    path.unlink()
    assert dataset._repr_html_() is None


def test_damaged_images_are_hatched_and_the_others_are_there(shipped: Ladder) -> None:
    stream = bytearray(codec.compress(drawn(40), model="tiny0", effort=1, guard=False))
    stream[len(stream) // 2] ^= 0x55
    with codec.open(bytes(stream)) as collection:
        sheet = sheet_of(collection)
        picture, lost = picture_in(sheet), []
        for number in range(40):
            try:
                expected = collection[number]
            except codec.BitstreamError:
                row, column = divmod(number, 16)
                cell = picture[58 * row : 58 * row + 56, 58 * column : 58 * column + 56]
                assert set(np.unique(cell[..., 0]).tolist()) == set(contact.HATCH)
                lost.append(number)
            else:
                assert (image_in(picture, number) == expected).all()
    assert 0 < len(lost) < 40
    assert f"{len(lost)} images cannot be shown: " in caption_of(sheet)


def test_a_missing_model_is_named(foreign: Ladder, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = codec.compress(drawn(40), model="tiny0", effort=1, guard=False)
    monkeypatch.delenv("AEZ_WEIGHTS")
    with codec.open(stream) as collection:
        sheet = sheet_of(collection)
    assert f"40 images cannot be shown: model {foreign.hash.hex()} is not" in caption_of(sheet)


@pytest.mark.parametrize("path", sorted((GOLDEN / "errors").glob("*.aez")), ids=lambda p: p.stem)
def test_no_damage_raises(path: Path) -> None:
    try:
        collection = codec.open(path, recover=True)
    except codec.AezError:
        return
    with collection:
        assert collection._repr_html_() is not None


def test_names_that_are_markup_are_text(shipped: Ladder) -> None:
    names = ["<script>alert(1)</script>", '"onload="x', "evil\u202egnp", "a\nb\a", "x" * 200]
    stream = codec.compress(
        drawn(5), names=names, labels=[n[:99] for n in names], model="tiny0", effort=1
    )
    with codec.open(stream) as collection:
        sheet = sheet_of(collection)
    assert "<script" not in sheet
    assert '"onload' not in sheet
    caption = caption_of(sheet)
    assert caption.isprintable()
    assert "<script>alert(1)</scr..." in caption
    assert len(caption) < 400


def test_the_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Collection.__getitem__

    def slow(self: Collection, index: Any) -> Any:
        time.sleep(0.02)
        return real(self, index)

    monkeypatch.setattr(Collection, "__getitem__", slow)
    monkeypatch.setattr(contact, "MAX_S", 0.01)
    with codec.open(NAMED) as collection:
        sheet = sheet_of(collection)
    assert caption_of(sheet).startswith("16 of 40 images, ")
    assert picture_in(sheet).shape == (56, 16 * 58 - 2, 2)


def test_whatever_goes_wrong_shows_as_text() -> None:
    class Wrong:
        num_bytes = 1

        def __len__(self) -> int:
            raise ZeroDivisionError

    assert contact.sheet(Wrong()) is None  # type: ignore[arg-type]


def test_the_notebook_has_the_outputs_of_its_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cell is run again, in order; pictures are compared by their pixels."""
    examples = Path(__file__).resolve().parent.parent / "examples"
    monkeypatch.chdir(examples)
    notebook = json.loads((examples / "notebook.ipynb").read_text())
    names: dict[str, Any] = {}
    kinds = []
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        *body, last = ast.parse("".join(cell["source"])).body
        exec(compile(ast.Module(body, []), "cell", "exec"), names)
        assert isinstance(last, ast.Expr)
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        (output,) = cell["outputs"]
        data = {kind: "".join(text) for kind, text in output["data"].items()}
        kinds.append(sorted(data))
        if "text/html" in data:
            sheet = sheet_of(value)
            assert (picture_in(sheet) == picture_in(data["text/html"])).all()
            assert caption_of(sheet) == caption_of(data["text/html"])
        elif "image/png" in data:
            with Image.open(io.BytesIO(base64.b64decode(data["image/png"]))) as image:
                assert (np.asarray(image) == np.asarray(value)).all()
        else:
            assert repr(value) == data["text/plain"]
    shows = [["text/plain"], ["text/html", "text/plain"], ["image/png", "text/plain"]]
    assert kinds == [*shows, ["text/html", "text/plain"]]
    with Image.open(examples / "pictures/notebook.png") as image:
        assert (np.asarray(image) == picture_in(sheet_of(names["collection"]))).all()
