"""Test data, generator in 3-D: lesions that come, grow, shrink, merge, split and go over dates.

All functions are pure: float32 volumes (D, H, W) in [0, 1], masks on the same grid, a numpy
Generator. Every lesion of every date is drawn by the same operation, stable ones too, so that
drawing itself says nothing. `data/acquire.py` then scans each date in its own way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from medic_ad.data.blend import dilate, join
from medic_ad.data.inpaint import inpaint
from medic_ad.data.seeds import (
    LEAST_ML,
    SEAM,
    SIZE_ML,
    Seed,
    at_size,
    drawn_seed,
    own_seed,
    parts_of,
)

BLENDS = {"train": "feather", "test": "pyramid"}
FATES = ("new", "enlarged", "stable", "reduced", "resolved", "merged", "split")
GROWTH = (1.6, 3.5)  # in volume, log-uniform; its inverse is the same loss
APART_MM = 6.0  # between any two lesions at their largest
DARK, BRIGHT = (0.5, 0.75), (1.3, 1.7)  # grey of lesions over that around, on T1, on FLAIR
HEADROOM = 0.6  # grey of the brightest tissue, so that a lesion can be brighter
_NEXT = {  # what may follow, once a lesion is in this state
    "whole": ("enlarged", "stable", "reduced", "resolved"),
    "long": ("enlarged", "stable", "reduced", "resolved", "split"),
    "apart": ("stable", "merged"),
    "gone": ("gone",),
    "awaited": ("gone", "new"),
}


@dataclass(frozen=True, eq=False)
class Host:
    """Anatomy without lesions, and the lesions it had.

    Attributes:
        clean: float32 (D, H, W) in [0, 1].
        depth_mm: float32 (D, H, W), how deep in the brain, 0 outside.
        spacing_mm: of (d, h, w).
        seeds: its own lesions, largest first.
    """

    clean: np.ndarray
    depth_mm: np.ndarray
    spacing_mm: tuple[float, float, float]
    seeds: tuple[Seed, ...] = ()

    @property
    def voxel_ml(self) -> float:
        return float(np.prod(self.spacing_mm)) / 1000.0


@dataclass(frozen=True)
class Fate:
    """What became of one lesion between two dates: labels at either, as `LesionChange` has them."""

    kind: str
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Longitudinal:
    """A series of dates whose truth is known, all on the host's grid.

    Attributes:
        volumes: float32 (D, H, W) in [0, 1] of each date.
        labels: int32 (D, H, W) of each date; a label is one lesion, or one part of it, throughout.
        fates: of each consecutive pair of dates.
        spacing_mm: of (d, h, w).
    """

    volumes: tuple[np.ndarray, ...]
    labels: tuple[np.ndarray, ...]
    fates: tuple[tuple[Fate, ...], ...]
    spacing_mm: tuple[float, float, float]

    def volumes_ml(self) -> dict[int, tuple[float, ...]]:
        """Exact volume of each label on each date, 0 where it is not."""
        most = max(int(one.max()) for one in self.labels)
        ml = float(np.prod(self.spacing_mm)) / 1000.0
        counts = np.stack([np.bincount(one.ravel(), minlength=most + 1) for one in self.labels])
        return {n: tuple(float(c) * ml for c in counts[:, n]) for n in range(1, most + 1)
                if counts[:, n].any()}  # fmt: skip


def prepare_host(
    volume: np.ndarray,
    spacing_mm: Sequence[float],
    rng: np.random.Generator,
    mask: np.ndarray | None = None,
    method: str = "harmonic",
) -> Host:
    """Scale a scan, take its lesions out and keep them as seeds.

    Args:
        volume: (D, H, W), any units; background near its lowest value.
        spacing_mm: of (d, h, w).
        rng: of the inpainting.
        mask: bool (D, H, W), its lesions; None for a template without.
        method: one of TRAIN_INPAINTERS or TEST_INPAINTERS, used slice by slice.
    """
    low, high = np.percentile(volume, (0.5, 99.5))
    grey = np.clip(HEADROOM * (volume - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)
    steps = tuple(float(s) for s in spacing_mm)
    host = Host(grey, brain_depth(grey, steps), (steps[0], steps[1], steps[2]))
    if mask is None or not mask.any():
        return host
    clean = grey.copy()
    for d in np.flatnonzero(mask.any((1, 2))):
        clean[d] = inpaint(grey[d], mask[d], rng, method)
    labels, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    seeds = [
        own_seed(grey, labels, i, box)
        for i, box in enumerate(ndimage.find_objects(labels), start=1)
    ]
    return Host(
        clean, host.depth_mm, host.spacing_mm, tuple(sorted(seeds, key=lambda s: -s.voxels))
    )


def brain_depth(grey: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Distance in mm of each voxel of the head from its outside, float32 (D, H, W)."""
    smooth = ndimage.gaussian_filter(grey, 1.0)
    body = smooth > 0.5 * threshold_otsu(smooth[::2, ::2, ::2])
    labels, count = ndimage.label(body)
    if not count:
        return np.zeros(grey.shape, np.float32)
    body = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    body = np.stack([ndimage.binary_fill_holes(plane) for plane in body])
    return np.asarray(ndimage.distance_transform_edt(body, spacing_mm), dtype=np.float32)


def draw_longitudinal(
    host: Host,
    rng: np.random.Generator,
    dates: int = 2,
    lesions: int = 10,
    contrast: tuple[float, float] = BRIGHT,
    blend: str = BLENDS["train"],
) -> Longitudinal:
    """Draw lesions and their fates, and paint every date.

    The fates of the first interval go round all of FATES; later ones are drawn from what may
    follow. Own lesions of the host are used where none is long enough to be parted or where room
    is, drawn ones elsewhere. A lesion for which there is no room is left out.

    Args:
        host: from `prepare_host`.
        rng: every draw.
        dates: 2 to 20.
        lesions: how many to try.
        contrast: grey of drawn lesions over that of the tissue around, uniform in this range.
        blend: one of BLENDS' values.
    """
    fates = [FATES[i % len(FATES)] for i in rng.permutation(lesions)]
    taken = np.zeros(host.clean.shape, bool)
    own = list(host.seeds)
    volumes = [host.clean.copy() for _ in range(dates)]
    labels = [np.zeros(host.clean.shape, np.int32) for _ in range(dates)]
    told: list[list[Fate]] = [[] for _ in range(dates - 1)]
    for number, fate in enumerate(fates):
        long = fate in ("merged", "split")
        for _ in range(12):
            seed = own.pop(0) if own and not long else None
            if seed is None or seed.voxels * host.voxel_ml < LEAST_ML:
                seed = drawn_seed(host.clean, host.depth_mm, host.spacing_mm, rng, long, contrast)
            if seed is None:
                continue
            sizes, states, kinds = _plan(seed, fate, dates, rng, host.voxel_ml)
            if _paint(host, seed, sizes, states, number, volumes, labels, taken, blend):
                for i, kind in enumerate(kinds):
                    told[i] += _tell(kind, states[i], states[i + 1], number)
                break
    return Longitudinal(
        tuple(volumes), tuple(labels), tuple(tuple(t) for t in told), host.spacing_mm
    )


def _plan(
    seed: Seed, fate: str, dates: int, rng: np.random.Generator, voxel_ml: float
) -> tuple[list[int], list[str], list[str]]:
    """Voxels, state and fates of one lesion over the dates, starting with a given fate."""
    least = int(np.ceil(LEAST_ML / voxel_ml))
    size, kinds = seed.voxels, []
    state = {"new": "awaited", "merged": "apart", "split": "long"}.get(fate, "whole")
    grown = float(np.exp(rng.uniform(*np.log(GROWTH))))
    if fate == "reduced":
        size = max(size, int(np.ceil(grown * least)))
    sizes, states = [size], [state]
    for i in range(dates - 1):
        kind = fate if i == 0 else str(rng.choice(_NEXT[state]))
        factor = float(np.exp(rng.uniform(*np.log(GROWTH)))) if i else grown
        if kind == "reduced" and size / factor < least:
            kind = "stable"
        if kind == "enlarged" and size * factor * voxel_ml > 3 * SIZE_ML[1]:
            kind = "stable"
        size = {"enlarged": round(size * factor), "reduced": round(size / factor)}.get(kind, size)
        state = {
            "new": "whole",
            "resolved": "gone",
            "merged": "long",
            "split": "apart",
            "gone": state,
        }.get(kind, state)
        sizes.append(size)
        states.append(state)
        kinds.append(kind)
    return sizes, states, kinds


def _tell(kind: str, before: str, after: str, number: int) -> list[Fate]:
    """The fates as labels: a lesion has the label 2n + 1, its part while apart 2n + 2."""
    here = {"awaited": (), "gone": (), "apart": (2 * number + 1, 2 * number + 2)}
    old, new = (here.get(state, (2 * number + 1,)) for state in (before, after))
    if kind == "gone":
        return []
    if kind == "stable" and len(old) == 2:
        return [Fate("stable", (n,), (n,)) for n in old]
    return [Fate(kind, old, new)]


def _paint(
    host: Host,
    seed: Seed,
    sizes: list[int],
    states: list[str],
    number: int,
    volumes: list[np.ndarray],
    labels: list[np.ndarray],
    taken: np.ndarray,
    blend: str,
) -> bool:
    """Draw one lesion into all dates in place; False, and nothing drawn, where it does not fit."""
    drawn = {}
    for size in sorted(set(sizes), reverse=True):
        box, mask, grey = at_size(seed, size, host.clean.shape)
        room = host.depth_mm[box]
        if mask is None or (taken[box] & mask).any() or (room[mask] < 2.0).mean() > 0.02:
            return False
        parts = parts_of(mask, seed, box, host.spacing_mm) if "apart" in states else None
        if "apart" in states and parts is None:
            return False
        drawn[size] = box, mask, grey, parts
    for size, state, volume, label in zip(sizes, states, volumes, labels, strict=True):
        if state in ("awaited", "gone"):
            continue
        box, mask, grey, parts = drawn[size]
        values = mask.astype(np.int32) * (2 * number + 1)
        if state == "apart" and parts is not None:
            values = parts + (parts > 0) * (2 * number)
        here = values > 0
        volume[box] = join(volume[box], grey, here, dilate(here, SEAM), blend).clip(0, 1)
        label[box][here] = values[here]
    box, mask, _, _ = drawn[max(sizes)]
    margin = np.ceil(APART_MM / np.asarray(host.spacing_mm)).astype(int)
    wide = tuple(
        slice(max(s.start - m, 0), min(s.stop + m, n))
        for s, m, n in zip(box, margin, taken.shape, strict=True)
    )
    whole = np.zeros([s.stop - s.start for s in wide], bool)
    whole[
        tuple(slice(b.start - w.start, b.stop - w.start) for b, w in zip(box, wide, strict=True))
    ][mask] = True
    taken[wide] |= ndimage.distance_transform_edt(~whole, host.spacing_mm) <= APART_MM
    return True
