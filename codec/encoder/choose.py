"""Which model codes an image, and at which quality.

READ ME FIRST
- Of several models the one with the lower cost lambda * SSE + bits is taken: for each image if it
  is a file of its own; for a block as a whole if by a sample that costs hardly more, else for each
  of its images, among the models that some of the sample prefer. Where a target chooses the
  quality, costs are those at the quality that the search tries first.
- **The guard.** What a quality gives on images like those that a model was trained on is in the
  model's card. An image that comes out GUARD_DB worse than that *falls back*: to the quality at
  which it does not, or to a lossless model if nothing lossy gets there or would take more bytes. A
  generic model, chosen for what the others do not know, is measured by the others. A model whose
  card does not say what it gives has no guard.
- A target (`goal`) chooses the quality of each image, and takes the guard's place.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt

from codec.coding.lanes import U8, Encoded, by
from codec.encoder import goal
from codec.encoder.goal import Coded, Target, card_curve
from codec.format.bitstream import LOSSLESS_QUALITY, STORED_QUALITY, group_images
from codec.model.bundle import BaseModel
from codec.model.ladder import Model, Symbols, log2_lmbda
from codec.model.registry import GENERIC

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

# Images of a block that say whether it is of one kind: one of 64, so that asking all models costs
# little, in these bounds; all of a small block.
AUTO_SAMPLE, LEAST_SAMPLE, MOST_SAMPLE, SMALL_BLOCK = 64, 16, 32, 64
# at most, without loss: there models differ by half of the bytes, and more than 16 take twice as
# long
LOSSLESS_SAMPLE = 16
# One model takes the whole block if choosing for each image of the sample would lower the cost by
# no more than this share. In blocks of one kind it is worth 0.1 to 0.5 %, and to find it all images
# would have to be encoded by two models.
AGREED = 0.01
GUARD_DB = 3.0
# Between the qualities to which images fall back: fewer tries, and fewer parts of more images each
# (at 1 and effort 1, quality 25 of Fashion-MNIST takes a quarter longer; at 3 it takes 1 % more
# bytes and has 0.03 dB more).
FALLBACK_STEP = 3
# Trying without loss takes a block half as long as all else. What fits fewer bytes, or this share
# of what zlib makes of its pixels, a lossless model hardly ever makes smaller (measured: of
# Fashion-MNIST, MNIST and `generic`'s mixture it makes 0.54 of them in the median; with 0.35 here
# not a byte less came out, of 2,048 images each at qualities 30, 50, 75 and 90).
LOSSLESS_BYTES, LOSSLESS_SHARE = 64, 0.45


@dataclass
class Planned:
    """Images, by number, that one model codes at one quality; no model: they are stored.

    symbols: what a lossy model found; messages: what a lossless one made of each image by itself,
    if that is known.
    """

    model: BaseModel | None
    quality: int
    images: I64
    symbols: Symbols | None = None
    messages: list[bytes] | None = None


@dataclass
class Plan:
    """What is to be made of N images: `parts`, the largest first, share out those that can be what
    is asked.

    fell_back: bool (N,); missed: image -> why it cannot be what is asked.
    """

    fell_back: npt.NDArray[np.bool_]
    parts: list[Planned] = field(default_factory=list)
    missed: dict[int, str] = field(default_factory=dict)

    def encode(self, pixels: U8, group: int | None = None) -> list[Encoded | None]:
        """What comes of each part of `pixels`, uint8 (N, 28, 28), in groups of the part's own; None
        of one without a model.

        group: images in a group, None: as many as in a collection.
        """
        encoded: dict[int, Encoded] = {}
        together: dict[tuple[Model, int], list[int]] = {}
        for at, part in enumerate(self.parts):
            if part.symbols is not None:
                together.setdefault(
                    (cast(Model, part.model), group or group_images(part.quality)), []
                ).append(at)
            elif part.messages is not None and group == 1:
                encoded[at] = Encoded(part.messages, pixels[part.images], 0.0)
            elif part.model is not None:
                encoded[at] = part.model.encode(pixels[part.images], part.quality, group=group)
        for (model, size), mine in together.items():
            packed = model.pack_parts(
                [symbols for at in mine if (symbols := self.parts[at].symbols) is not None], size
            )
            encoded.update(zip(mine, packed, strict=True))
        return [encoded.get(at) for at in range(len(self.parts))]


def costs(pixels: U8, encoded: Encoded, quality: int) -> F64:
    """lambda * SSE + bits of each image, the SSE of pixels in 0..1; lossless: bits.

    `encoded` has one image a group.
    """
    sse = np.square((pixels.astype(np.float64) - encoded.pixels) / 255).sum(axis=(1, 2))
    found: F64 = 2.0 ** log2_lmbda(quality) * sse + 8.0 * np.array(
        [len(m) for m in encoded.messages]
    )
    return found


def domain_psnr_db(model: BaseModel, quality: int) -> float | None:
    """PSNR that a quality gives in the domain of a model, by the curve in its card; None if there
    is none.
    """
    qualities, values = card_curve(model, "psnr_db")
    return float(np.interp(quality, qualities, values)) if qualities else None


def floor_db(models: Sequence[BaseModel], model: BaseModel, quality: int) -> float | None:
    """PSNR below which an image falls back, if `model` was chosen among `models`; None: it never
    does.
    """
    others = [other for other in models if other is not model] if model.name == GENERIC else []
    known = [
        psnr_db
        for one in others or [model]
        if (psnr_db := domain_psnr_db(one, quality)) is not None
    ]
    return max(min(known) - GUARD_DB, 0.0) if known else None


class _Share(NamedTuple):
    """Images, by number, that model k codes, and what it makes of them."""

    k: int
    images: I64
    coded: Coded


class _Seen(NamedTuple):
    """What a model made of images, one a group, at effort 1; symbols: of a lossy one."""

    encoded: Encoded
    symbols: Symbols | None


class Planner:
    """Plans images for some models of one kind.

    exact: gives the lossless models that step in for lossy ones; guard: whether images that come
    out badly fall back.
    """

    def __init__(
        self,
        models: list[BaseModel],
        exact: Callable[[], list[BaseModel]],
        *,
        effort: int = 1,
        guard: bool = True,
    ) -> None:
        self._models, self._exact, self._effort, self._guard = models, exact, effort, guard

    def plan(self, pixels: U8, quality: int, target: Target | None, *, as_block: bool) -> Plan:
        """Share out uint8 (N, 28, 28), N >= 1.  as_block: they are coded together, so a sample may
        decide for all.
        """
        if target is not None:
            quality = goal.first_quality(self._models, target)
        chosen, seen = self._choose(pixels, quality, as_block)
        plan = Plan(np.zeros(len(pixels), np.bool_))
        if target is not None:
            everything, targets = (
                np.arange(len(pixels)),
                dict.fromkeys(range(len(self._models)), target),
            )
            tried = {
                k: symbols
                for k, images in by(chosen)
                if (symbols := _known(seen, k, images)) is not None
            }
            self._aim(
                plan,
                pixels,
                self._search(pixels, chosen, everything, targets, quality, tried),
                targets,
            )
        elif quality == LOSSLESS_QUALITY:
            for k, images in by(chosen):
                messages = [seen[k].encoded.messages[i] for i in images] if seen else None
                plan.parts.append(Planned(self._models[k], quality, images, messages=messages))
        else:
            self._code(plan, pixels, chosen, quality, seen)
        # stable: of equal ones the order is that of their making
        plan.parts.sort(key=lambda part: -len(part.images))
        return plan

    def _choose(self, pixels: U8, quality: int, as_block: bool) -> tuple[I64, dict[int, _Seen]]:
        """The model of each image, by number, and what models made of all images, if that had to be
        seen.
        """
        n = len(pixels)
        if len(self._models) == 1:
            return np.zeros(n, np.int64), {}
        most = LOSSLESS_SAMPLE if quality == LOSSLESS_QUALITY else MOST_SAMPLE
        size = n if n <= SMALL_BLOCK else min(max(n // AUTO_SAMPLE, LEAST_SAMPLE), most)
        sample = pixels[np.linspace(0, n - 1, size).astype(int)] if as_block else pixels
        seen = {k: self._see(k, sample, quality) for k in range(len(self._models))}
        found = np.array([costs(sample, one.encoded, quality) for one in seen.values()])
        preferred, best = found.argmin(axis=0), int(found.sum(axis=1).argmin())
        agreed = as_block and found[best].sum() <= (1 + AGREED) * found.min(axis=0).sum()
        if len(sample) < n:  # a model that none of the sample prefers is left out
            seen = (
                {}
                if agreed
                else {k: self._see(k, pixels, quality) for k in np.unique(preferred).tolist()}
            )
        if agreed:
            return np.full(n, best), seen
        return np.array([*seen])[
            np.argmin([costs(pixels, one.encoded, quality) for one in seen.values()], axis=0)
        ], seen

    def _see(self, k: int, pixels: U8, quality: int) -> _Seen:
        model = self._models[k]
        if not isinstance(model, Model):
            return _Seen(model.encode(pixels, quality, group=1), None)
        symbols = model.symbols(pixels, quality)
        return _Seen(model.pack(symbols, 1), symbols)

    def _code(
        self, plan: Plan, pixels: U8, chosen: I64, quality: int, seen: dict[int, _Seen]
    ) -> None:
        """Images at the quality asked for, but for those that the guard does not let pass."""
        stopped, targets, tried = [], {}, {}
        for k, images in by(chosen):
            model = cast(Model, self._models[k])
            known = _known(seen, k, images) if self._effort == 1 else None
            symbols = known or model.symbols(pixels[images], quality, self._effort)
            floor = floor_db(self._models, model, quality) if self._guard else None
            passed = np.ones(len(images), np.bool_)
            if floor is not None:
                targets[k] = Target(min_psnr=floor)
                passed = goal.image_psnr_db(pixels[images], symbols.pixels) >= floor
            stopped.append(images[~passed])
            if self._effort == 1:
                tried[k] = symbols.of(np.flatnonzero(~passed))
            if passed.any():
                plan.parts.append(
                    Planned(model, quality, images[passed], symbols.of(np.flatnonzero(passed)))
                )
        images = np.sort(np.concatenate(stopped))
        if len(images):
            plan.fell_back[images] = True
            for k, other in enumerate(self._models):
                if (
                    k not in targets
                    and (floor := floor_db(self._models, other, quality)) is not None
                ):
                    targets[k] = Target(min_psnr=floor)
            shares = self._search(pixels, chosen, images, targets, quality, tried, FALLBACK_STEP)
            self._aim(plan, pixels, shares, targets, compare=True)

    def _search(
        self,
        pixels: U8,
        chosen: I64,
        images: I64,
        targets: dict[int, Target],
        first: int,
        tried: dict[int, Symbols],
        step: int = 1,
    ) -> list[_Share]:
        """Give each of some images a model and a quality that suit its target: its own model, or
        another where that one fails.

        images: increasing; first: the quality to try first; tried: what models made there of all
        those that chose them. step: as in `goal.search`.
        """

        def search(k: int, some: I64, known: Symbols | None = None) -> Coded:
            return goal.search(self._models[k], pixels[some], targets[k], first, known, step)

        shares = [
            _Share(k, images[at], search(k, images[at], tried.get(k)))
            for k, at in by(chosen[images])
        ]
        for k, target in targets.items():
            for at, share in enumerate([*shares]):
                failed = np.flatnonzero(~share.coded.kept & (chosen[share.images] != k))
                if len(failed):
                    other = search(k, share.images[failed])
                    better = goal.better(target, share.coded.of(failed), other)
                    shares.append(
                        _Share(k, share.images[failed[better]], other.of(np.flatnonzero(better)))
                    )
                    stays = np.delete(np.arange(len(share.images)), failed[better])
                    shares[at] = _Share(share.k, share.images[stays], share.coded.of(stays))
        return [share for share in sorted(shares, key=lambda share: share.k) if len(share.images)]

    def _aim(
        self,
        plan: Plan,
        pixels: U8,
        shares: list[_Share],
        targets: dict[int, Target],
        *,
        compare: bool = False,
    ) -> None:
        """Put into the plan what the search gave.

        compare: take a lossless model not only where the target cannot be kept, but also where it
        takes fewer bytes.
        """
        exact: dict[int, tuple[BaseModel, bytes]] = {}
        if all(target.max_bytes is None for target in targets.values()):
            wanted = [share.images[~share.coded.kept] for share in shares]
            if compare:
                wanted += [
                    share.images[share.coded.kept & _large(pixels[share.images], share.coded)]
                    for share in shares
                ]
            exact = self._losslessly(pixels, np.sort(np.concatenate(wanted)))
        lossless: dict[int, list[int]] = {}
        models: dict[int, BaseModel] = {}
        stored = []
        for k, images, coded in shares:
            sizes, target = coded.num_bytes, targets[k]
            most = [len(exact[i][1]) if i in exact else math.inf for i in images.tolist()]
            stays = coded.kept & (sizes <= most)
            for at in np.flatnonzero(~stays).tolist():
                i = int(images[at])
                if target.max_bytes is not None:
                    plan.missed[i] = (
                        f"{sizes[at]} bytes at quality {coded.qualities[at]}, {target} wanted"
                    )
                elif i in exact:
                    lossless.setdefault(id(exact[i][0]), []).append(i)
                    models[id(exact[i][0])] = exact[i][0]
                else:
                    stored.append(i)
            if stays.any():
                self._add(plan, pixels, k, images[stays], coded.of(np.flatnonzero(stays)), target)
        for key, unsorted in lossless.items():
            numbers = sorted(unsorted)
            messages = [exact[i][1] for i in numbers]
            plan.parts.append(
                Planned(models[key], LOSSLESS_QUALITY, np.array(numbers), messages=messages)
            )
            plan.fell_back[numbers] = True
        if stored:
            plan.parts.append(Planned(None, STORED_QUALITY, np.array(sorted(stored))))
            plan.fell_back[stored] = True

    def _losslessly(self, pixels: U8, images: I64) -> dict[int, tuple[BaseModel, bytes]]:
        """Of each image the lossless model that takes the fewest bytes, and its message."""
        found: dict[int, tuple[BaseModel, bytes]] = {}
        for model in self._exact() if len(images) else ():
            messages = model.encode(pixels[images], LOSSLESS_QUALITY, group=1).messages
            for i, message in zip(images.tolist(), messages, strict=True):
                if i not in found or len(message) < len(found[i][1]):
                    found[i] = model, message
        return found

    def _add(
        self, plan: Plan, pixels: U8, k: int, images: I64, coded: Coded, target: Target
    ) -> None:
        """Put images into the parts of their model and qualities, at the effort asked for."""
        model = self._models[k]
        if self._effort > 1:
            coded = goal.refine(model, pixels[images], coded, target, self._effort)
        for quality, at in by(coded.qualities):
            numbers, symbols = images[at], coded.symbols.of(at)
            for part in plan.parts:
                if part.model is model and part.quality == quality and part.symbols is not None:
                    order = np.argsort(np.concatenate([part.images, numbers]))
                    part.symbols = Symbols.join([part.symbols, symbols]).of(order)
                    part.images = np.concatenate([part.images, numbers])[order]
                    plan.fell_back[numbers] = False  # less effort was enough
                    break
            else:
                plan.parts.append(Planned(model, quality, numbers, symbols))


def _large(pixels: U8, coded: Coded) -> npt.NDArray[np.bool_]:
    """For each image of uint8 (N, 28, 28), whether it takes so many bytes that without loss it
    might take fewer.
    """
    packed = np.array([len(zlib.compress(image, 1)) for image in pixels])
    return np.asarray(coded.num_bytes > np.maximum(LOSSLESS_BYTES, LOSSLESS_SHARE * packed))


def _known(seen: dict[int, _Seen], k: int, images: I64) -> Symbols | None:
    """What lossy model k was seen to make of some images, None if that is not known."""
    symbols = seen[k].symbols if k in seen else None
    return None if symbols is None else symbols.of(images)
