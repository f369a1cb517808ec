"""The soak is too long for a suite; a minute of it shows that the script still runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_three_hundred_hostile_streams_are_pixels_or_an_error_with_all_decoders(
    tmp_path: Path,
) -> None:
    script = Path(__file__).with_name("soak.py")
    command = [sys.executable, str(script), "hostile", "--count", "300", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["failures"] == []
    figures = said["figures"]
    assert figures["streams"] == 300
    assert figures["both_engines"] > 200
    assert figures["decoded"] > 30
    assert figures["minimal"] == 3
