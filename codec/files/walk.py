"""Walking a directory: which of its files are wanted."""

from __future__ import annotations

import os
from collections.abc import Callable


def walk(
    top: str, wanted: Callable[[str], bool], failed: Callable[[str, OSError], None]
) -> tuple[list[str], int]:
    """Names, below `top`, of the files of a tree that are wanted by their last part, in order; and
    the number of other files.

    failed: is called with each directory that cannot be read. Links to files are followed, links to
    directories are not. Each name is in memory once, as one string.
    """
    found: list[str] = []
    num_others, folders = 0, [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(os.path.join(top or ".", folder)) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(f"{folder}{entry.name}/")
                    elif entry.is_dir():
                        continue
                    # A pipe named x.png would block for ever. A dangling link fails when it is
                    # read.
                    elif wanted(entry.name) and (entry.is_file() or not os.path.exists(entry.path)):
                        found.append(folder + entry.name)
                    else:
                        num_others += 1
        except OSError as error:
            failed(os.path.join(top, folder).rstrip("/"), error)
    found.sort()
    return found, num_others
