"""Node, in which the decoder for browsers is tested without a browser."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NODE = shutil.which("node")
HERE = Path(__file__).parent / "view"  # where the scripts are
needs_node = pytest.mark.skipif(NODE is None, reason="there is no Node (Debian: package nodejs)")


def ask(script: str, tmp_path: Path, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a script of tests/view answers to requests, one for each."""
    assert NODE is not None
    file = tmp_path / "requests.json"
    file.write_text(json.dumps(requests))
    command = [NODE, str(HERE / script), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    assert len(answers) == len(requests)
    return answers
