"""Which model codes an image, and at which quality.

READ ME FIRST
- Of several models the one with the lower cost lambda * SSE + bits is taken: for each image if it is a file of its own; for
  a block as a whole if nearly all of a sample agree, else for each of its images.
- **The guard.** What a quality gives on images like those that a model was trained on is in the model's card. An image that
  comes out GUARD_DB worse than that *falls back*: to the quality at which it does not, or to a lossless model if nothing
  lossy gets there or would take more bytes. A generic model, chosen for what the others do not know, is measured by the
  others. A model whose card does not say what it gives has no guard.
- A target (`rate`) chooses the quality of each image, and takes the guard's place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import numpy.typing as npt

from codec import rate
from codec.bitstream import LOSSLESS_QUALITY, STORED_QUALITY
from codec.bundle import BaseModel
from codec.groups import U8, Encoded
from codec.model import Model, Symbols, log2_lmbda
from codec.rate import Coded, Target
from codec.registry import GENERIC

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

AUTO_SAMPLE = 64  # images of a block that say whether it is of one kind
AGREED = 0.95  # of the sample must prefer one model, and the block is not looked at any closer
GUARD_DB = 3.0
LOSSLESS_BYTES = 64  # what fits fewer a lossless model hardly ever makes smaller, and trying takes as long as all else


@dataclass
class Planned:
    """Images, by number, that one model codes at one quality; no model: they are stored.

    symbols: what a lossy model found; messages: what a lossless one made of each image by itself, if that is known.
    """

    model: BaseModel | None
    quality: int
    images: I64
    symbols: Symbols | None = None
    messages: list[bytes] | None = None

    def encode(self, pixels: U8, group: int) -> Encoded:
        """The images among `pixels`, uint8 (N, 28, 28), in groups of the part's own."""
        if self.symbols is not None:
            return cast(Model, self.model).pack(self.symbols, group)
        assert self.model is not None
        if group == 1 and self.messages is not None:
            return Encoded(self.messages, pixels[self.images], 0.0)
        return self.model.encode(pixels[self.images], self.quality, group=group)


@dataclass
class Plan:
    """What is to be made of N images: `parts`, the largest first, share out those that can be what is asked.

    fell_back: bool (N,); missed: image -> why it cannot be what is asked.
    """

    fell_back: npt.NDArray[np.bool_]
    parts: list[Planned] = field(default_factory=list)
    missed: dict[int, str] = field(default_factory=dict)


def costs(pixels: U8, encoded: Encoded, quality: int) -> F64:
    """lambda * SSE + bits of each image, the SSE of pixels in 0..1; lossless: bits.  `encoded` has one image a group."""
    sse = np.square((pixels.astype(np.float64) - encoded.pixels) / 255).sum(axis=(1, 2))
    found: F64 = 2.0 ** log2_lmbda(quality) * sse + 8.0 * np.array([len(m) for m in encoded.messages])
    return found


def domain_psnr_db(model: BaseModel, quality: int) -> float | None:
    """PSNR that a quality gives in the domain of a model, by the curve in its card; None if there is none."""
    figures = model.card.get("figures")
    rows = figures.get("curve") if isinstance(figures, dict) else None
    points = {}
    for row in rows if isinstance(rows, list) else ():
        at, psnr_db = (row.get("quality"), row.get("psnr_db")) if isinstance(row, dict) else (None, None)
        if isinstance(at, int | float) and isinstance(psnr_db, int | float) and math.isfinite(at) and math.isfinite(psnr_db):
            points[float(at)] = float(psnr_db)  # a card is a stranger's text
    return float(np.interp(quality, sorted(points), [points[at] for at in sorted(points)])) if len(points) > 1 else None


def floor_db(models: Sequence[BaseModel], model: BaseModel, quality: int) -> float | None:
    """PSNR below which an image falls back, if `model` was chosen among `models`; None: it never does."""
    others = [other for other in models if other is not model] if model.name == GENERIC else []
    known = [psnr_db for one in others or [model] if (psnr_db := domain_psnr_db(one, quality)) is not None]
    return max(min(known) - GUARD_DB, 0.0) if known else None


class Planner:
    """Plans images for some models of one kind.

    exact: gives the lossless models that step in for lossy ones; guard: whether images that come out badly fall back.
    """

    def __init__(
        self, models: list[BaseModel], exact: Callable[[], list[BaseModel]], *, effort: int = 1, guard: bool = True
    ) -> None:
        self._models, self._exact, self._effort, self._guard = models, exact, effort, guard

    def plan(self, pixels: U8, quality: int, target: Target | None, *, as_block: bool) -> Plan:
        """Share out uint8 (N, 28, 28), N >= 1.  as_block: they are coded together, so a sample may decide for all."""
        chosen, encodings = self._choose(pixels, rate.FIRST_QUALITY if target is not None else quality, as_block)
        plan = Plan(np.zeros(len(pixels), np.bool_))
        if target is not None:
            self._aim(plan, pixels, chosen, np.arange(len(pixels)), {k: target for k in range(len(self._models))})
        elif quality == LOSSLESS_QUALITY:
            for k, images in _by(chosen):
                messages = [encodings[k].messages[i] for i in images] if encodings else None
                plan.parts.append(Planned(self._models[k], quality, images, messages=messages))
        else:
            self._code(plan, pixels, chosen, quality)
        plan.parts.sort(key=lambda part: -len(part.images))  # stable: of equal ones the order is that of their making
        return plan

    def _choose(self, pixels: U8, quality: int, as_block: bool) -> tuple[I64, list[Encoded]]:
        """The model of each image, by number, and what each model made of all images, if that had to be seen."""
        n = len(pixels)
        if len(self._models) == 1:
            return np.zeros(n, np.int64), []
        if as_block:
            sample = pixels[np.linspace(0, n - 1, min(AUTO_SAMPLE, n)).astype(int)]
            found = np.array([costs(sample, model.encode(sample, quality, group=1), quality) for model in self._models])
            best = int(found.sum(axis=1).argmin())
            if (found.argmin(axis=0) == best).mean() >= AGREED:
                return np.full(n, best), []
        encodings = [model.encode(pixels, quality, group=1) for model in self._models]
        return np.argmin([costs(pixels, encoded, quality) for encoded in encodings], axis=0), encodings

    def _code(self, plan: Plan, pixels: U8, chosen: I64, quality: int) -> None:
        """Images at the quality asked for, but for those that the guard does not let pass."""
        stopped, targets = [], {}
        for k, images in _by(chosen):
            model = cast(Model, self._models[k])
            symbols = model.symbols(pixels[images], quality, self._effort)
            floor = floor_db(self._models, model, quality) if self._guard else None
            passed = np.ones(len(images), np.bool_)
            if floor is not None:
                targets[k] = Target(min_psnr=floor)
                passed = rate.image_psnr_db(pixels[images], symbols.pixels) >= floor
            stopped.append(images[~passed])
            if passed.any():
                plan.parts.append(Planned(model, quality, images[passed], symbols.of(np.flatnonzero(passed))))
        images = np.sort(np.concatenate(stopped))
        if len(images):
            plan.fell_back[images] = True
            for k, other in enumerate(self._models):
                if k not in targets and (floor := floor_db(self._models, other, quality)) is not None:
                    targets[k] = Target(min_psnr=floor)
            self._aim(plan, pixels, chosen, images, targets, compare=True)

    def _aim(
        self, plan: Plan, pixels: U8, chosen: I64, images: I64, targets: dict[int, Target], *, compare: bool = False
    ) -> None:
        """Give each of some images a quality of its own, so that it suits the target of its model.

        compare: take a lossless model not only where the target cannot be kept, but also where it takes fewer bytes.
        """
        found = self._search(pixels, chosen, images, targets)
        exact: dict[int, tuple[BaseModel, bytes]] = {}
        if all(target.max_bytes is None for target in targets.values()):
            wanted = [i for i, (_, one) in found.items() if not one.kept or (compare and len(one.message) > LOSSLESS_BYTES)]
            exact = self._losslessly(pixels, np.array(sorted(wanted), np.int64))
        else:
            for i, (k, one) in list(found.items()):
                if not one.kept:
                    plan.missed[i] = f"{len(one.message)} bytes at quality {one.quality}, {targets[k]} wanted"
                    del found[i]
        lossy: dict[tuple[int, int], list[int]] = {}
        lossless: dict[int, list[int]] = {}
        models: dict[int, BaseModel] = {}
        stored = []
        for i, (k, one) in sorted(found.items()):
            model, message = exact.get(i, (None, b""))
            if one.kept and (model is None or len(one.message) <= len(message)):
                lossy.setdefault((k, one.quality), []).append(i)
            elif model is not None:
                lossless.setdefault(id(model), []).append(i)
                models[id(model)] = model
            else:
                stored.append(i)
        for (k, quality), numbers in sorted(lossy.items()):
            part = np.array(numbers)
            self._add(plan, k, quality, part, self._refine(k, pixels[part], quality, targets[k]))
        for key, numbers in lossless.items():
            messages = [exact[i][1] for i in numbers]
            plan.parts.append(Planned(models[key], LOSSLESS_QUALITY, np.array(numbers), messages=messages))
            plan.fell_back[numbers] = True
        if stored:
            plan.parts.append(Planned(None, STORED_QUALITY, np.array(stored)))
            plan.fell_back[stored] = True

    def _search(self, pixels: U8, chosen: I64, images: I64, targets: dict[int, Target]) -> dict[int, tuple[int, Coded]]:
        """Of each image the model and the quality that suit the target: its own model, or another where that one fails."""
        found: dict[int, tuple[int, Coded]] = {}
        for k, mine in _by(chosen[images]):
            own = images[mine]
            for i, coded in zip(own.tolist(), rate.search(self._models[k], pixels[own], targets[k], 1), strict=True):
                found[i] = k, coded
        for k, target in targets.items():
            others = [i for i in images.tolist() if not found[i][1].kept and chosen[i] != k]
            for i, coded in zip(others, rate.search(self._models[k], pixels[others], target, 1) if others else [], strict=True):
                if rate.better(target, found[i][1], coded) is coded:
                    found[i] = k, coded
        return found

    def _refine(self, k: int, pixels: U8, quality: int, target: Target) -> Symbols:
        """Symbols at the effort asked for, where they suit the target better than those of effort 1."""
        model = cast(Model, self._models[k])
        symbols = model.symbols(pixels, quality)
        if self._effort > 1:
            more = model.symbols(pixels, quality, self._effort)
            ones, others = (rate.coded(pixels, model.pack(each, 1), quality, target) for each in (symbols, more))
            better = [i for i, (a, b) in enumerate(zip(ones, others, strict=True)) if rate.better(target, a, b) is b]
            symbols.put(np.array(better, np.int64), more.of(np.array(better, np.int64)))
        return symbols

    def _losslessly(self, pixels: U8, images: I64) -> dict[int, tuple[BaseModel, bytes]]:
        """Of each image the lossless model that takes the fewest bytes, and its message."""
        found: dict[int, tuple[BaseModel, bytes]] = {}
        for model in self._exact() if len(images) else ():
            messages = model.encode(pixels[images], LOSSLESS_QUALITY, group=1).messages
            for i, message in zip(images.tolist(), messages, strict=True):
                if i not in found or len(message) < len(found[i][1]):
                    found[i] = model, message
        return found

    def _add(self, plan: Plan, k: int, quality: int, images: I64, symbols: Symbols) -> None:
        """Put images into the part of their model and quality."""
        model = self._models[k]
        for part in plan.parts:
            if part.model is model and part.quality == quality and part.symbols is not None:
                order = np.argsort(np.concatenate([part.images, images]))
                part.symbols = Symbols.join([part.symbols, symbols]).of(order)
                part.images = np.concatenate([part.images, images])[order]
                plan.fell_back[images] = False  # less effort was enough
                return
        plan.parts.append(Planned(model, quality, images, symbols))


def _by(values: I64) -> Iterator[tuple[int, I64]]:
    """Each value, in order, and where it stands."""
    for value in np.unique(values).tolist():
        yield value, np.flatnonzero(values == value)
