"""The page of `aez bench` that shows all images beside their originals, at each quality: it is
that of `aez view --against`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from codec.arrays import U8
from codec.commands.view import page_of
from codec.errors import counted
from codec.format.constants import LOSSLESS_QUALITY
from codec.measure.page import Outcome
from codec.view.page import MAX_PAGE_BYTES, Originals


def compare(
    results: Mapping[str, Any], pixels: U8, names: Sequence[str], decoded: Mapping[int, Outcome]
) -> bytes | None:
    """The page; None if nothing is lossy, or it is too much for a page.

    results, decoded: of `bench`, of the pixels, uint8 (N, 28, 28), with their names.
    """
    streams = {
        f"quality {quality}": one.collection
        for quality, one in sorted(decoded.items())
        if quality < LOSSLESS_QUALITY
    }
    if not streams or pixels.nbytes + sum(map(len, streams.values())) > MAX_PAGE_BYTES:
        return None
    title = f"{counted(len(pixels), 'image')} beside their originals"
    models = [name for name in results["models"].values() if name]
    originals = Originals(pixels.tobytes(), list(names), num_streams=len(streams))
    return page_of(title, streams, models, originals)
