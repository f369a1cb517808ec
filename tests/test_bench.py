"""`aez bench`: what is measured, and what is shown of it."""

from __future__ import annotations

import base64
import functools
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner
from view_pages import blob_of, config_of, scripts

from codec import api, kernels, metrics
from codec.cli.app import app
from codec.commands import sample
from codec.encoder.options import DEFAULT_EFFORT
from codec.errors import AezError, ModelNotFound, UsageError
from codec.files.images import pack_png, read_image
from codec.measure import bench, codecs, page, plot, points, timing
from codec.model import registry
from codec.model.pixels import Pixels


def png_and_webp(pixels: np.ndarray, missing: list[str]) -> list[codecs.Codec]:
    return [codecs.png(), *map(codecs.webp, (0, 50, 90))]


# With few other codecs, and each of them timed once: speeds are not looked at here.
quick = functools.partial(bench.bench, others=png_and_webp, enough_s=0)


# SSIM


def test_ssim_of_two_flat_images_is_that_of_their_means():
    """No variance: (2 * 100 * 110 + C1) / (100**2 + 110**2 + C1) with C1 = 2.55**2."""
    flat = np.full((1, 28, 28), 100, np.uint8)
    assert metrics.ssim(flat, flat + 10) == pytest.approx(
        (22000 + 2.55**2) / (22100 + 2.55**2), abs=1e-12
    )


def test_ssim_is_that_of_scikit_image():
    # skimage.metrics.structural_similarity(a, b, win_size=7, data_range=255), scikit-image 0.25
    i = np.arange(784).reshape(1, 28, 28)
    a = (i * 7 % 256).astype(np.uint8)
    b = np.clip(a.astype(int) + i * i % 41 - 20, 0, 255).astype(np.uint8)
    assert metrics.ssim(a, b) == pytest.approx(0.984963750321788, abs=1e-9)


def test_ssim_is_one_for_equal_images_and_taken_of_each_alone():
    pixels = helpers.drawn(3)
    changed = pixels.copy()
    changed[1] = 255 - changed[1]
    first, second, third = metrics.ssim(pixels, changed)
    assert first == third == 1
    assert second == metrics.ssim(pixels[1:2], changed[1:2])[0] < 0.5


# Sheets, found


@pytest.mark.parametrize("num_images", [1, 2, 4, 5, 7])
def test_cut_inverts_sheet(num_images):
    pixels = helpers.drawn(num_images)
    picture = codecs.sheet(pixels)
    assert (picture[:28, :28] == pixels[0]).all()
    assert (codecs.cut(picture, num_images) == pixels).all()


def test_every_other_codec_gives_images_back_and_the_lossless_ones_every_pixel():
    pixels, missing = helpers.drawn(6), []
    found = list(codecs.others(pixels, missing))
    assert {codec.name for codec in found} >= {"png", "webp", "jpeg", "zstd", "jxl", "jpeg-ls"}
    for codec in found:
        files = codec.encode(pixels)
        decoded = [codec.decode(files), codec.decode_all(codec.encode_all(pixels), 6)]
        for back in decoded:
            assert (back.dtype, back.shape) == (np.uint8, (6, 28, 28))
            off = np.abs(pixels.astype(int) - back).max()
            if codec.setting.startswith("near "):
                assert 0 < off <= int(codec.setting.removeprefix("near ")), codec.name
            elif codec.name in ("png", "zstd") or "lossless" in codec.setting:
                assert off == 0, codec.setting
            else:
                assert metrics.psnr_db(metrics.squared_error(pixels, back), pixels.size) > 12, (
                    codec.setting
                )
        assert 0 < codec.payload_bytes(files) < sum(map(len, files))


def test_only_aez_has_a_collection_the_others_have_sheets_without_random_access(shipped_lossless):
    rows = quick(helpers.drawn(3), qualities=(50,), efforts=(1,)).results["rows"]
    assert {(row["codec"], row["one_file"]) for row in rows} == {
        ("aez", "collection"),
        ("png", "sheet"),
        ("webp", "sheet"),
    }
    assert codecs.with_dictionary(helpers.drawn(3)).one_file == "frame"
    heads, cells = page.table(rows)
    collection, sheet = heads.index("\ncollection"), heads.index("\nsheet (dB)")
    for row, shown in zip(cells, (row["codec"] for row in rows[-2:] + rows[:-2]), strict=True):
        assert (row[collection] == page.NONE) == (shown != "aez")
        assert (row[sheet] == page.NONE) == (shown == "aez")
    plotted = page.rate_distortion(rows, "collection")
    assert ">WebP, sheet</text>" in plotted
    assert ">WebP</text>" in page.rate_distortion(rows, "file")


def test_a_sheet_has_its_own_psnr_in_the_table():
    """At equal settings a sheet and single files need not come out equally well."""
    codec = codecs.avif(40)
    row = bench.measure(codec, helpers.drawn(9), 0)[0]
    row |= {"lossless": False}
    bench._add_ratios([row], row["file"])
    shown = page.table([row])[1][0]
    assert shown[page.HEADINGS.index("PSNR\ndB")] == f"{row['file']['psnr_db']:.1f}"
    of_sheet = f"{row['collection']['bytes']:.1f} ({row['collection']['psnr_db']:.1f})"
    assert shown[page.HEADINGS.index("\nsheet (dB)")] == of_sheet


def test_of_many_images_some_become_single_files_and_are_shown(shipped_lossless):
    pixels = helpers.drawn(9)
    done = quick(pixels, qualities=(50,), efforts=(1,), max_files=3)
    assert done.files.tolist() == [0, 4, 8]
    assert (done.results["images"], done.results["images_as_files"]) == (9, 3)
    row = next(row for row in done.results["rows"] if row["quality"] == 50)
    some, stream = pixels[done.files], api.compress(pixels, quality=50, effort=1)
    files = api.compress_images(some, quality=50, effort=1)[0]
    assert row["file"]["bytes"] == pytest.approx(sum(map(len, files)) / 3, abs=1e-3)
    assert row["collection"]["bytes"] == pytest.approx(len(stream) / 9, abs=1e-3)
    assert done.decoded[50].pixels.shape == (3, 28, 28)
    html = page.html(done.results, some, ["a", "b", "c"], done.decoded)
    assert "Single files: 3 images, evenly spread." in html
    assert page.sampled({"images": 3, "images_as_files": 3}) == ""


def test_some_settings_are_measured_on_sheets_alone():
    row, outcome = bench.measure(codecs.jxl(1, files=False), helpers.drawn(4), 0)
    assert (row["file"], outcome) == (None, None)
    assert row["collection"]["bytes"] > 0


def test_near_lossless_is_measured_where_the_model_has_learned_it(shipped_lossless, monkeypatch):
    assert list(bench.near_lossless(bench.Models("tiny0", "tiny0-lossless"), (1, 2))) == []
    assert list(bench.near_lossless(bench.Models("tiny0", None), (1, 2))) == []
    monkeypatch.setattr(Pixels, "grid_steps", [3, 9])
    found = bench.near_lossless(bench.Models("tiny0", "tiny0-lossless"), (0, 1, 2, 4))
    assert [(codec.setting, codec.files) for codec in found] == [
        ("near 1", False),
        ("near 4", False),
    ]


def test_near_lossless_of_aez_keeps_its_bound_and_has_a_series_of_its_own():
    pixels = helpers.drawn(3)
    row = bench.measure(codecs.aez("mnist", 128 + 4, 1, files=False), pixels, 0)[0]
    assert (row["setting"], row["effort"], row["quality"]) == ("near 4", None, 132)
    assert row["collection"]["psnr_db"] > 36
    assert ">aez, near-lossless</text>" in page.rate_distortion([row], "collection")
    assert list(bench._bd_rates([row], DEFAULT_EFFORT)) == []


@pytest.mark.parametrize(
    "pixels", [np.zeros((2, 28, 28), np.uint8), helpers.drawn(3)], ids=["blank", "few"]
)
def test_zstd_goes_without_a_trained_dictionary_where_there_is_too_little_to_train_on(pixels):
    codec = codecs.with_dictionary(pixels)
    assert (codec.decode(codec.encode(pixels)) == pixels).all()


def test_one_image_has_no_other_to_make_a_dictionary_of():
    missing: list[str] = []
    assert "zstd" not in {codec.name for codec in codecs.others(helpers.drawn(1), missing)}
    assert any("zstd" in text for text in missing)


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    missing: list[str] = []
    assert "jxl" not in {codec.name for codec in codecs.others(helpers.drawn(2), missing)}
    assert missing == ["JPEG XL and JPEG-LS: pip install 'aez[bench]'"]


def test_a_pillow_without_avif_and_webp_leaves_a_line_for_each(monkeypatch):
    monkeypatch.setattr(codecs.features, "check", lambda what: False)
    missing: list[str] = []
    assert {codec.name for codec in codecs.of_pillow(missing)} == {"png", "jpeg"}
    assert missing == [f"{name}: this Pillow was built without it" for name in ("WebP", "AVIF")]


# Figures


def test_rows_hold_the_bytes_of_files_and_collections(shipped_lossless):
    pixels = helpers.drawn(5)
    results = quick(pixels, qualities=(20, 90), efforts=(1, DEFAULT_EFFORT)).results
    rows = {(row["codec"], row["setting"]): row for row in results["rows"]}
    for quality in (20, 90):
        row = rows["aez", f"q{quality} e{DEFAULT_EFFORT}"]
        files = [api.compress(image, quality=quality) for image in pixels]
        decoded = np.stack([api.decompress(file) for file in files])
        stream = api.compress(pixels, quality=quality)
        psnr_db = metrics.psnr_db(metrics.squared_error(pixels, decoded), pixels.size)
        assert row["file"]["bytes"] == pytest.approx(np.mean([len(file) for file in files]))
        assert row["file"]["payload_bytes"] == pytest.approx(
            np.mean([len(file) - 6 for file in files])
        )
        assert row["file"]["psnr_db"] == pytest.approx(psnr_db, abs=1e-3)
        assert row["collection"]["bytes"] == pytest.approx(len(stream) / 5)
        assert rows["aez", f"q{quality} e1"]["file"] is None
    assert rows["aez", "lossless"]["lossless"]
    assert rows["aez", "lossless"]["file"]["ssim"] == 1
    file = io.BytesIO()
    Image.fromarray(codecs.sheet(pixels)).save(file, "PNG")
    assert rows["png", "default"]["collection"]["bytes"] == pytest.approx(len(file.getvalue()) / 5)
    assert rows["png", "default"]["file"]["encode_per_png_write"] == 1
    assert results["models"] == {"lossy": "tiny0", "lossless": "tiny0-lossless"}
    assert json.loads(json.dumps(results)) == results


@pytest.mark.slow
def test_engine_and_its_yardstick_are_told_and_speeds_follow_from_efficiency(shipped_lossless):
    pixels = helpers.drawn(5)
    counts = {
        False: helpers.tiny_model().multiply_adds(pixels),
        True: shipped_lossless.multiply_adds(pixels),
    }
    for engine in kernels.engines()[:2]:
        with kernels.use(engine):
            results = quick(pixels, qualities=(50,), efforts=(1, DEFAULT_EFFORT)).results
            assert results["engine"] == kernels.description() == engine.replace("-", " ")
        assert results["products_per_s"] > 1e8
        for row in results["rows"]:
            if row["codec"] != "aez":
                assert "multiply_adds" not in row
                continue
            known = dict(zip(("encode", "decode"), counts[row["lossless"]], strict=True))
            if not row["lossless"] and row["effort"] != 1:
                del known["encode"]
            assert row["multiply_adds"] == known
            for way, count in known.items():
                shown = row["collection"]
                speed = shown[f"{way}_efficiency"] * results["products_per_s"] / count
                assert speed == pytest.approx(shown[f"{way}_images_per_s"], rel=1e-3)


def test_a_layer_is_counted_at_each_position_and_the_encodec_only_where_it_encodes():
    """Of mnist: widen 49 * 96 * 16, a block 49 * (2 * 96 * 48 + 9 * 48 * 48), dense layers once,
    and so on.
    """
    block = 49 * (2 * 96 * 48 + 9 * 48 * 48)
    levels = sum(49 * (96 * 64 + 2 * 64 * k + 96 * k) for k in (4, 6, 8))
    decode = 32 * 256 + 256 * 784 + 49 * 2 * 96 * 16 + 7 * block + levels
    posteriors = (
        49 * 16 * 96 + 784 * 256 + 256 * 32 + sum(49 * (192 * 64 + 64 * k) for k in (4, 6, 8))
    )
    model = registry.by_name("mnist")
    assert (
        model.multiply_adds(np.zeros((1, 28, 28), np.uint8))
        == (decode + posteriors + 49 * 96 * 16 + 3 * block, decode)
        == (18_358_848, 11_733_696)
    )


def test_a_lossless_image_is_counted_by_the_pixels_that_each_network_is_asked_about(
    shipped_lossless,
):
    pixels = helpers.drawn(3)
    network = shipped_lossless.steps(np.ones(3, np.bool_), np.zeros(3, np.int64))
    asked = {2: 0, 256: 0}  # by the number of symbols to choose from
    step = next(network)
    try:
        while True:
            values = pixels.reshape(3, -1)[step.images, step.pixel].astype(np.int64)
            asked[step.freq.shape[1]] += len(values)
            step = network.send(np.minimum(values, step.freq.shape[1] - 1))
    except StopIteration:
        pass
    tensors = helpers.tiny_pixel_tensors()
    flag, value = (
        sum(
            tensors[name].size
            for name in tensors
            if name.endswith(".weight") and name.startswith(of)
        )
        for of in (("flag.",), ("value.", "hidden.", "head."))
    )
    count = (asked[2] * flag + asked[256] * value) / 3
    assert shipped_lossless.multiply_adds(pixels) == (count, count)


def test_two_products_side_by_side_are_counted_as_two():
    """By a clock that says one second for whatever is timed."""
    ticks = iter(range(1000))
    one, two = (
        timing.products_per_s(cores, side_by_side=True, repeat=1, clock=lambda: next(ticks))
        for cores in (1, 2)
    )
    assert one == timing.PRODUCTS * 1024 * 784 * 512
    assert two == 2 * one


def test_auto_is_settled_as_compress_would_for_most_images(two_shipped):
    pixels = helpers.drawn(20)
    _, stats = api.compress_images(pixels, effort=1, guard=False)
    assert sorted(stats.models) == ["tiny0", "tiny1"]
    assert bench.choose_model("auto", pixels, lossless=False) == max(
        stats.models, key=stats.models.__getitem__
    )


def test_a_lossless_model_alone_is_measured_alone(shipped_lossless):
    results = quick(helpers.drawn(2), model="tiny0-lossless").results
    assert [row["setting"] for row in results["rows"] if row["codec"] == "aez"] == ["lossless"]
    assert results["models"]["lossy"] is None
    assert results["not_measured"] == [
        "aez, lossy: model tiny0-lossless is lossless; give a lossy one"
    ]


def test_a_model_that_is_not_there_is_an_error(shipped):
    with pytest.raises(ModelNotFound, match="nosuch"):
        quick(helpers.drawn(2), model="nosuch")


@pytest.mark.parametrize(
    ("qualities", "efforts"),
    [((), (1,)), ((100,), (1,)), ((-1,), (1,)), ((50,), ()), ((50,), (10,))],
)
def test_qualities_and_efforts_that_do_not_exist_are_refused(shipped, qualities, efforts):
    with pytest.raises(UsageError):
        quick(helpers.drawn(2), qualities=qualities, efforts=efforts)


def test_steps_are_told_from_the_first_to_the_last(shipped):
    heard: list[tuple[str, int, int]] = []
    quick(helpers.drawn(2), qualities=(50,), efforts=(1,), step=lambda *step: heard.append(step))
    assert [done for _, done, _ in heard] == list(range(heard[0][2] + 1))
    assert heard[0][0] == "png default"


# BD-rate

CURVE = [(10.0, 20.0), (20.0, 25.0), (40.0, 30.0), (80.0, 36.0)]


def test_half_the_bytes_at_every_psnr_are_minus_fifty_percent():
    assert points.bd_rate_percent(CURVE, [(b / 2, db) for b, db in CURVE]) == (
        pytest.approx(-50),
        "20.0 .. 36.0 dB",
    )


def test_twice_the_bytes_at_every_psnr_are_plus_a_hundred_percent():
    assert points.bd_rate_percent(CURVE, [(2 * b, db) for b, db in CURVE])[0] == pytest.approx(100)
    assert points.bd_rate_percent(CURVE, CURVE)[0] == 0


def test_curves_need_not_have_as_many_points():
    value, where = points.bd_rate_percent(CURVE, [(b / 2, db) for b, db in CURVE[1:]])
    assert value == pytest.approx(-50, abs=1)
    assert where == "25.0 .. 36.0 dB"


def test_curves_that_do_not_overlap_are_not_compared():
    value, where = points.bd_rate_percent(CURVE, [(b, db + 20) for b, db in CURVE])
    assert value is None
    assert where == "no overlap: 20.0 .. 36.0 dB and 40.0 .. 56.0 dB"


def test_a_point_that_costs_more_and_shows_less_is_left_out():
    assert points.bd_rate_percent([*CURVE, (60.0, 29.0)], CURVE)[0] == pytest.approx(0)
    assert points.bd_rate_percent(CURVE[:1], CURVE) == (None, "too few points")


def test_only_the_psnrs_asked_for_are_compared():
    """Twice the bytes up to 26 dB, as many from 30 dB on."""
    anchor = [(4.0 * 2**k, 20.0 + 2 * k) for k in range(10)]
    test = [(2 * b if db <= 26 else b, db) for b, db in anchor if not 26 < db < 30]
    percent, where = points.bd_rate_percent(anchor, test, (20, 24))
    assert (percent, where) == (pytest.approx(100), "20.0 .. 24.0 dB")
    percent, where = points.bd_rate_percent(anchor, test, (32, 99))
    assert (percent, where) == (pytest.approx(0), "32.0 .. 38.0 dB")
    assert points.bd_rate_percent(anchor, test, (40, 50))[0] is None


def test_without_bjontegaard_there_is_no_bd_rate(monkeypatch):
    monkeypatch.setitem(sys.modules, "bjontegaard", None)
    assert points.bd_rate_percent(CURVE, CURVE) == (None, "pip install 'aez[bench]' (bjontegaard)")


# Many single images side by side


def test_decompress_images_inverts_compress_images_of_any_model_and_quality(two_shipped):
    pixels = helpers.drawn(6)
    noise = np.random.default_rng(0).integers(0, 256, (1, 28, 28)).astype(np.uint8)
    streams = [
        stream
        for q, name in ((20, "tiny0"), (80, "tiny1"), (80, "tiny0"))
        for stream in api.compress_images(pixels, quality=q, model=name, effort=1)[0]
    ]
    streams += api.compress_images(noise, lossless=True, model="tiny0-lossless")[0]
    assert (api.decompress_images(streams) == [api.decompress(stream) for stream in streams]).all()
    assert (api.decompress_images(streams)[-1] == noise[0]).all()
    assert api.decompress_images([]).shape == (0, 28, 28)


def test_decompress_images_refuses_a_damaged_one(shipped):
    streams = api.compress_images(helpers.drawn(3), effort=1)[0]
    streams[1] = streams[1][:-1] + bytes([streams[1][-1] ^ 1])
    with pytest.raises(AezError):
        api.decompress_images(streams)


# The page


@pytest.mark.parametrize(
    ("low", "high", "log", "expected"),
    [
        (0.7, 30, True, [1, 2, 5, 10, 20]),
        (5, 20000, True, [10, 100, 1000, 10000]),
        (18, 41, False, [20, 25, 30, 35, 40]),
    ],
)
def test_ticks_are_round(low, high, log, expected):
    assert plot.ticks(low, high, log) == pytest.approx(expected)


def test_plot_places_dots_by_value_and_says_what_they_are():
    svg = plot.plot(
        [plot.Series("a<b", "#123456", [(1, 0, "x&y"), (10, 5, ""), (100, 10, "")])],
        "x",
        "y",
        log_x=True,
    )
    at = [
        float(x)
        for x in re.findall(
            r'<circle cx="([\d.]+)" cy="[\d.]+" r="3" stroke="#123456" fill="#123456"><title>', svg
        )
    ]
    assert at[1] - at[0] == pytest.approx(at[2] - at[1], abs=0.2)
    assert "x&amp;y" in svg
    assert "a&lt;b" in svg


def test_errors_are_shown_about_mid_grey():
    before, after = np.array([[10, 10, 10, 200]], np.uint8), np.array([[10, 15, 0, 0]], np.uint8)
    assert page.error_picture(before, after).tolist() == [[128, 138, 108, 0]]


def test_worst_images_come_first():
    pixels = helpers.drawn(3)
    decoded = pixels.copy()
    decoded[1] ^= 64
    decoded[2, 0, 0] ^= 1
    assert page.worst_first(pixels, [decoded]) == [1, 2, 0]


def test_the_page_needs_no_other_file_runs_no_script_and_trusts_no_name(shipped_lossless):
    pixels, names = helpers.drawn(3), ["<script>alert(1)</script>", 'a"onerror="x', "ü"]
    done = quick(pixels, qualities=(10, 50, 90), efforts=(1,))
    html = page.html(done.results, pixels, names, done.decoded)
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "a&quot;onerror=&quot;x" in html
    assert 'onerror="' not in html
    assert set(re.findall(r'(?:href|src)="([a-z]+:)', html)) == {"data:"}
    assert set(re.findall(r"https?://[^\"' ]+", html)) == {"http://www.w3.org/2000/svg"}
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert len(pictures) == 3 * (1 + 2 * 3)
    first = page.worst_first(pixels, [done.decoded[q].pixels for q in (10, 50, 90)])[0]
    assert (read_image(io.BytesIO(base64.b64decode(pictures[0]))) == pixels[first]).all()
    assert (
        read_image(io.BytesIO(base64.b64decode(pictures[1]))) == done.decoded[10].pixels[first]
    ).all()
    assert f"{done.decoded[10].file_bytes[first]} B" in html
    assert html.count("<svg") == 3
    assert (
        f"engine {kernels.description()}; G, numpy&#x27;s own product: "
        f"{done.results['products_per_s'] / 1e9:.1f}"
    ) in html
    shown = re.findall(r"<tr><td>aez<td>q50 e1(?:<td>[^<]*)*", html)
    told = next(row for row in done.results["rows"] if row["setting"] == "q50 e1")["file"]
    assert [row.split("<td>")[-2:] for row in shown] == [
        [f"{told[f'{way}_efficiency']:.2f}" for way in ("encode", "decode")]
    ]


def test_aez_is_among_the_others_in_the_plot_of_speeds(shipped_lossless):
    rows = quick(helpers.drawn(3), qualities=(10, 50), efforts=(1, DEFAULT_EFFORT)).results["rows"]
    plotted = page.speeds(rows)
    for row in rows:
        figures = row["collection"] if row["codec"] == "aez" else row["file"]
        said = (
            f"{plot.label(row['codec'])} {row['setting']}: {figures['encode_images_per_s']:.0f} "
            "images/s to encode"
        )
        assert said in plotted
    for name in (f"aez, effort {DEFAULT_EFFORT}", "aez, effort 1", "aez, lossless", "PNG", "WebP"):
        assert f">{name}</text>" in plotted


# Inputs


def write_folder(folder: Path, pixels: np.ndarray) -> Path:
    folder.mkdir()
    for i, image in enumerate(pixels):
        (folder / f"{i}.png").write_bytes(pack_png(image))
    return folder


def test_read_takes_what_compress_takes_in_order(tmp_path):
    pixels = helpers.drawn(5)
    folder = write_folder(tmp_path / "digits", pixels[:3])
    np.save(tmp_path / "x.npy", pixels[3:])
    events = sample.read([str(folder), str(tmp_path / "x.npy")], 10)
    told, (found, names, total) = helpers.drained(events)
    assert told == []
    assert (found == pixels).all()
    assert names == ["0.png", "1.png", "2.png", "x.npy[0]", "x.npy[1]"]
    assert total == 5


def test_of_many_images_some_are_taken_evenly_spread(tmp_path):
    pixels = helpers.drawn(9)
    np.save(tmp_path / "x.npy", pixels)
    _, (found, names, total) = helpers.drained(sample.read([str(tmp_path / "x.npy")], 3))
    assert (found == pixels[[0, 4, 8]]).all()
    assert names == ["x.npy[0]", "x.npy[4]", "x.npy[8]"]
    assert total == 9


# The command


def aez(*args: str | Path) -> Any:
    return CliRunner().invoke(app, ["bench", *map(str, args)])


@pytest.fixture
def folder(tmp_path: Path, shipped_lossless: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of four images, and a command that measures few codecs."""
    monkeypatch.setattr(bench, "bench", quick)
    return write_folder(tmp_path / "digits", helpers.drawn(4))


def test_bench_writes_json_and_page_and_prints_the_table(folder, tmp_path):
    result = aez(folder, "-o", tmp_path / "report", "-q", "20,60,90", "-e", "1")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        "compare.html",
        "report.html",
        "results.json",
    ]
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert (results["images"], results["images_in_all"], results["data"]) == (4, 4, [str(folder)])
    assert {row["quality"] for row in results["rows"] if row["codec"] == "aez"} == {20, 60, 90, 100}
    assert "BD-rate" in result.stdout
    assert "q60 e1" in result.stdout
    assert f"engine {kernels.description()}; G, numpy's own product: " in result.stdout
    assert re.search(r"q60 e1 .* \d\.\d\d +\d\.\d\d\s*$", result.stdout, re.MULTILINE)
    report = (tmp_path / "report" / "report.html").read_text()
    assert report.endswith("</html>\n")
    assert '<a href="compare.html">' in report


def test_bench_links_to_a_page_with_all_images_beside_their_originals(folder, tmp_path):
    result = aez(folder, "-o", tmp_path / "report", "-q", "20,60", "-e", "1")
    assert result.exit_code == 0, result.output
    content = (tmp_path / "report" / "compare.html").read_bytes()
    config, elements = config_of(content), scripts(content)
    assert [stream["name"] for stream in config["streams"]] == ["quality 20", "quality 60"]
    compare = config["compare"]
    assert (compare["count"], compare["streams"]) == (4, 2)
    assert compare["names"] == [f"{k}.png" for k in range(4)]
    pixels = blob_of(*elements[f"blob-{compare['blob']}"])
    assert pixels == helpers.drawn(4).tobytes()
    stream = blob_of(*elements[f"blob-{config['streams'][1]['blob']}"])
    expected = api.compress(helpers.drawn(4), quality=60, effort=1, model="tiny0")
    assert stream == expected
    assert [model["name"] for model in config["models"]] == ["tiny0"]


def test_bench_without_an_output_prints_one_json_object(folder):
    result = aez(folder, "--json", "-q", "20,60,99", "-e", f"1,{DEFAULT_EFFORT}")
    assert result.exit_code == 0
    results = json.loads(result.stdout)
    assert results["failed"] == []
    efforts = [
        row["effort"] for row in results["rows"] if row["codec"] == "aez" and not row["lossless"]
    ]
    assert efforts == [1, 1, 1, *[DEFAULT_EFFORT] * 3]
    rates = {(entry["against"], entry["counted"]): entry for entry in results["bd_rates"]}
    assert list(rates) == [
        (against, counted)
        for counted, codecs in (("file", ["webp"]), ("collection", ["webp", "aez e1"]))
        for against in codecs
    ]
    assert -50 < rates["aez e1", "collection"]["bd_rate_percent"] < 50
    webp = rates["webp", "file"]  # the tiny model draws far worse than WebP at its worst
    assert (webp["bd_rate_percent"], webp["at"][:10]) == (None, "no overlap")


def test_bench_keeps_an_output_that_exists_unless_forced(folder, tmp_path):
    out = tmp_path / "report"
    out.mkdir()
    (out / "results.json").write_text("mine")
    result = aez(folder, "-o", out, "-q", "50", "-e", "1")
    assert result.exit_code == 2
    assert "exists (-f overwrites it)" in result.stderr
    assert (out / "results.json").read_text() == "mine"
    assert aez(folder, "-o", out, "-q", "50", "-e", "1", "-f", "--quiet").stdout == ""
    assert json.loads((out / "results.json").read_text())["images"] == 4


def test_bench_wants_a_directory(folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    result = aez(folder, "-o", tmp_path / "file")
    assert result.exit_code == 2
    assert "is a file: give a directory" in result.stderr


def test_bench_goes_on_without_what_it_cannot_read(folder, tmp_path):
    Image.new("RGB", (28, 28), (9, 8, 7)).save(folder / "colour.png")
    (folder / "broken.png").write_bytes(b"no png")
    result = aez(folder, "--json", "-q", "50", "-e", "1")
    assert result.exit_code == 3
    assert "colour.png: in colour, aez takes grey" in result.stderr
    assert "evenly spread" not in result.stderr
    assert [Path(entry["name"]).name for entry in json.loads(result.stdout)["failed"]] == [
        "broken.png",
        "colour.png",
    ]


def test_bench_without_images_says_so(tmp_path, shipped):
    result = aez(tmp_path / "missing")
    assert result.exit_code == 1
    assert "missing: No such file or directory" in result.stderr
    assert "no image could be read" in result.stderr
    np.save(tmp_path / "x.npy", np.zeros((3, 32, 32), np.uint8))
    result = aez(tmp_path / "x.npy", "-o", tmp_path / "report")
    assert result.exit_code == 1
    assert "shape (3, 32, 32), aez takes (N, 28, 28)" in result.stderr
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-q", "50,100"], "'100' is not a whole number from 0 to 99"),
        (["--max-errors", "65"], "'65' is not a whole number from 0 to 64"),
        (["--files", "0"], "--files 0: give a whole number from 1 to 100000"),
        (["-n", "0"], "-n 0: give a whole number from 1 to 100000"),
        (["-e", "x"], "'x' is not a whole number from 1 to 9"),
        (["--quiet"], "would show nothing"),
    ],
)
def test_bench_refuses_what_makes_no_sense(folder, options, said):
    result = aez(folder, *options)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())


def test_bench_reads_no_stdin(shipped):
    result = aez("-")
    assert result.exit_code == 2
    assert "not stdin" in result.stderr


def test_bench_says_that_it_takes_a_sample(folder):
    result = aez(folder, "-n", "2", "--files", "1", "--json", "-q", "50", "-e", "1")
    assert "measuring 2 of 4 images" in result.stderr
    assert json.loads(result.stdout)["images_as_files"] == 1
    assert json.loads(result.stdout)["images"] == 2
