"""What a release froze: models and test streams, which no later commit may change or lose.

    python tests/released.py 1.0.0      # with a release: adds all files of now to released.json

`released.json` gives the SHA-256 of each file by the version that brought it. The encoder of a
lossy model is not in it, as no stream depends on it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "tests" / "golden" / "released.json"
Releases = dict[str, dict[str, str]]  # version -> path below the project -> SHA-256


def frozen(root: Path) -> dict[str, str]:
    """The files that a release freezes, and their SHA-256."""
    models = (root / "weights").glob("*.safetensors")
    streams = (root / "tests" / "golden").rglob("*.aez")
    paths = [path for path in models if not path.name.endswith(".encoder.safetensors")]
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted([*paths, *streams])
    }


def faults(releases: Releases, root: Path) -> list[str]:
    """Released files that are not what they were."""
    found = []
    for version, files in releases.items():
        for name, sha256 in files.items():
            path = root / name
            if not path.is_file():
                found.append(f"{name}, released with {version}, is gone")
            elif hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
                found.append(f"{name}, released with {version}, was changed")
    return found


def added(releases: Releases, version: str, root: Path) -> Releases:
    """The list with a release more, which brings the files that no other one brought."""
    before = {name for files in releases.values() for name in files}
    new = {name: sha256 for name, sha256 in frozen(root).items() if name not in before}
    return {**releases, version: new}


def main(version: str) -> None:
    releases = json.loads(LIST.read_text("utf-8"))
    if version in releases:
        sys.exit(f"{version} is released already: it stays as it is")
    if found := faults(releases, ROOT):
        sys.exit("\n".join(found))
    releases = added(releases, version, ROOT)
    LIST.write_text(json.dumps(releases, indent=1) + "\n", "utf-8")
    print(f"{version}: {len(releases[version])} files")


if __name__ == "__main__":
    main(*sys.argv[1:])
