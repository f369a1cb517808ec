"""Streams written once and kept: they decode to the same pixels, and the same input gives the same
bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import golden_tool
import helpers
import numpy as np
import pytest

from codec import api, errors

GOLDEN = json.loads(golden_tool.LIST.read_text())
ERRORS = sorted(path.name for path in golden_tool.ERRORS.iterdir())
CPU_FLAGS = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
CORE_TYPES = {"Prescott": "pni", "Haswell": "avx2", "Zen": "avx2", "SkylakeX": "avx512vl"}


def sha256(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def raise_faults(stream: bytes) -> None:
    for block in helpers.salvage(stream):
        if block.fault:
            raise block.fault


def test_golden_files_and_their_list_agree():
    assert (
        {path.name for path in golden_tool.GOLDEN.glob("*.aez")}
        == set(GOLDEN)
        == set(golden_tool.recipes())
    )


def test_manifest_says_what_the_list_and_the_streams_say():
    """What writes it is in `golden_tool`; a decoder can rely on every entry of it."""
    manifest = json.loads(golden_tool.MANIFEST.read_text("utf-8"))
    assert manifest == golden_tool.manifest()
    streams = {entry["path"]: entry for entry in manifest["streams"]}
    assert set(streams) == set(GOLDEN)
    for name, golden in GOLDEN.items():
        assert all(streams[name][key] == golden[key] for key in ("shape", "pixels_sha256"))
        assert (streams[name]["names"] is not None) == golden.get("names", False)
        assert streams[name]["labels"] == golden_tool.labels(golden)
    errors_of = {entry["path"]: entry["error"] for entry in manifest["errors"]}
    assert errors_of == {f"errors/{name}": name.split("-")[0] for name in ERRORS}


def test_models_of_the_manifest_are_there_under_their_names():
    manifest = json.loads(golden_tool.MANIFEST.read_text("utf-8"))
    weights = golden_tool.HERE.parent / "weights"
    for entry in manifest["streams"]:
        for model in entry["models"]:
            if model["model_hash"] in entry["embedded"]:
                continue
            path = weights / f"{model['name']}-{model['model_hash'][:8]}.safetensors"
            found = hashlib.sha256(path.read_bytes()).hexdigest()
            assert found.startswith(model["model_hash"]), entry["path"]


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_stream_decodes_to_the_listed_pixels(name):
    pixels = api.decompress((golden_tool.GOLDEN / name).read_bytes())
    assert list(pixels.shape) == GOLDEN[name]["shape"]
    assert sha256(pixels) == GOLDEN[name]["pixels_sha256"]


@pytest.mark.parametrize("name", GOLDEN)
def test_compress_gives_the_golden_bytes_again(name):
    stream = golden_tool.make(GOLDEN[name])
    assert hashlib.sha256(stream).hexdigest() == GOLDEN[name]["stream_sha256"]


@pytest.mark.parametrize("name", GOLDEN)
def test_minimal_decoder_agrees_with_codec_in_plain_int64(name):
    stream = (golden_tool.GOLDEN / name).read_bytes()
    pixels = helpers.minimal_decode(stream, golden_tool.HERE.parent / "weights")
    assert pixels.dtype == np.uint8
    assert sha256(pixels) == GOLDEN[name]["pixels_sha256"]


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_stream_has_the_labels_of_its_recipe_for_both_decoders(name):
    stream, wanted = (golden_tool.GOLDEN / name).read_bytes(), golden_tool.labels(GOLDEN[name])
    count = 1 if isinstance(GOLDEN[name]["images"], int) else GOLDEN[name]["shape"][0]
    assert helpers.minimal_decoder().labels(stream) == (wanted or [None] * count)
    if GOLDEN[name].get("labels"):
        found = api.open(stream).labels
        assert (found if isinstance(found, list) else found.tolist()) == wanted


@pytest.mark.slow
@pytest.mark.parametrize(("threads", "chunk"), [(1, 1), (1, 256), (2, 7)])
@pytest.mark.parametrize("core_type", CORE_TYPES)
def test_decoding_is_exact_on_every_kernel(core_type, threads, chunk):
    """With numpy as engine, whose products are OpenBLAS's."""
    if CORE_TYPES[core_type] not in CPU_FLAGS:
        pytest.skip(f"this processor cannot run OpenBLAS kernels for {core_type}")
    env = {**os.environ, "OPENBLAS_CORETYPE": core_type, "OPENBLAS_NUM_THREADS": str(threads)}
    env["AEZ_ENGINE"] = "numpy"
    command = [sys.executable, str(golden_tool.HERE / "decode_golden.py"), str(chunk)]
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert dict(line.split() for line in run.stdout.splitlines()) == {
        n: g["pixels_sha256"] for n, g in GOLDEN.items()
    }


def test_openblas_core_type_really_switches_the_kernel():
    # Without this, the test above could pass while the variable is ignored.
    pytest.importorskip("threadpoolctl")
    code = (
        "import numpy, threadpoolctl; print([i.get('architecture') for i in "
        "threadpoolctl.threadpool_info()])"
    )
    seen = set()
    for core_type in ("Prescott", "Haswell"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "OPENBLAS_CORETYPE": core_type},
            capture_output=True,
            text=True,
            check=True,
        )
        seen.add(run.stdout)
    if (
        "Prescott" not in "".join(seen)
        and "openblas" not in np.show_config("dicts")["Build Dependencies"]["blas"]["name"]
    ):
        pytest.skip("this numpy is not built on OpenBLAS")
    assert len(seen) == 2


@pytest.mark.parametrize("name", ERRORS)
def test_error_stream_raises_the_error_it_is_named_for(name):
    stream = (golden_tool.ERRORS / name).read_bytes()
    with pytest.raises(getattr(errors, name.split("-")[0])):
        api.decompress(stream)
    if not name.startswith(("CorruptPayload", "ChecksumMismatch")):
        with pytest.raises(errors.BitstreamError):
            api.info(stream)
    with pytest.raises(errors.BitstreamError):
        raise_faults(stream)


@pytest.mark.parametrize("name", ERRORS)
def test_minimal_decoder_rejects_error_streams(name):
    """It looks at labels only when it is asked for them."""
    stream, decoder = (golden_tool.ERRORS / name).read_bytes(), helpers.minimal_decoder()

    def read_all() -> None:
        decoder.decode(stream, golden_tool.HERE.parent / "weights")
        decoder.labels(stream)

    with pytest.raises(ValueError, match=r".+"):
        read_all()


def test_every_bitstream_error_has_a_golden_stream():
    leaves = {leaf.__name__ for leaf in errors.BitstreamError.__subclasses__()}
    assert leaves == {name.split("-")[0] for name in ERRORS}
