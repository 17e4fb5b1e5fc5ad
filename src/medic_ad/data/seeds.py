"""Test data, generator in 3-D, below: one lesion that can be drawn at any size, and parted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

SIZE_ML = (0.12, 5.0)  # of a whole drawn lesion, log-uniform
LEAST_ML = 0.08  # no lesion is smaller on any date
PARTS_MM = 8.0  # between the parts of a lesion that merges or has split
SEAM = 2  # voxels around a lesion over which it is blended


@dataclass(frozen=True, eq=False)
class Seed:
    """A lesion that can be drawn at any size.

    Attributes:
        depth: float32 (d, h, w), voxels from its surface, above 0 inside, at scale 1.
        grey: float32 (d, h, w).
        centre: of the patch, the point about which it grows, voxels.
        at: where that point goes in the volume, voxels.
        axis: unit vector along which it is long enough to be parted; None where it is not.
        voxels: at scale 1.
    """

    depth: np.ndarray
    grey: np.ndarray
    centre: np.ndarray
    at: np.ndarray
    axis: np.ndarray | None
    voxels: int


def at_size(
    seed: Seed, voxels: int, grid: tuple[int, ...]
) -> tuple[tuple[slice, ...], np.ndarray | None, np.ndarray]:
    """A seed scaled about its centre to a number of voxels: box, mask and grey; None if outside."""
    scale = (voxels / seed.voxels) ** (1 / 3)
    low = np.floor(seed.at - (seed.centre + 1) * scale).astype(int) - SEAM - 1
    high = np.ceil(seed.at + (np.array(seed.depth.shape) - seed.centre) * scale).astype(int)
    high += SEAM + 2
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    if (low < 0).any() or (high > grid).any():
        return box, None, seed.grey
    warp = {
        "matrix": [1 / scale] * 3,
        "offset": seed.centre + (low - seed.at) / scale,
        "output_shape": tuple(int(n) for n in high - low),
        "order": 1,
        "mode": "nearest",
    }
    depth = ndimage.affine_transform(seed.depth, **warp)
    mask = np.zeros(depth.shape, bool)
    mask.ravel()[np.argpartition(depth.ravel(), -voxels)[-voxels:]] = True
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if count > 1:
        mask = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return box, mask, ndimage.affine_transform(seed.grey, **warp)


def parts_of(
    mask: np.ndarray, seed: Seed, box: tuple[slice, ...], spacing_mm: Sequence[float]
) -> np.ndarray | None:
    """The mask without a slab across its long axis: int32, 0 outside, 1 and 2 the two ends."""
    if seed.axis is None:
        return None
    start = np.array([s.start for s in box])
    index = np.argwhere(mask)
    along = (index + start - seed.at) * np.asarray(spacing_mm) @ seed.axis
    out = np.zeros(mask.shape, np.int32)
    out[tuple(index[along > PARTS_MM / 2].T)] = 1
    out[tuple(index[along < -PARTS_MM / 2].T)] = 2
    least = LEAST_ML * 1000 / float(np.prod(spacing_mm))
    for part in (1, 2):
        labels, count = ndimage.label(out == part, np.ones((3, 3, 3)))
        if not count or (out == part).sum() < least:
            return None
        out[(out == part) & (labels != 1 + np.argmax(np.bincount(labels.ravel())[1:]))] = 0
    return out


def own_seed(grey: np.ndarray, labels: np.ndarray, i: int, box: tuple[slice, ...]) -> Seed:
    """A lesion of the scan itself, cut out with its surroundings."""
    wide = tuple(
        slice(max(s.start - 4, 0), min(s.stop + 4, n))
        for s, n in zip(box, labels.shape, strict=True)
    )
    inside = labels[wide] == i
    depth = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    centre = np.asarray(ndimage.center_of_mass(inside))
    start = np.array([s.start for s in wide])
    return Seed(
        depth.astype(np.float32), grey[wide], centre, centre + start, None, int(inside.sum())
    )


def drawn_seed(
    clean: np.ndarray,
    depth_mm: np.ndarray,
    spacing_mm: Sequence[float],
    rng: np.random.Generator,
    long: bool,
    contrast: tuple[float, float],
) -> Seed | None:
    """Draw an ellipsoid (or, to be parted, a rod) with a wavy surface and grain, deep in a brain.

    Args:
        clean, depth_mm, spacing_mm: of a `Host`.
        rng: every draw.
        long: whether it must be long enough to be parted.
        contrast: its grey over that of the tissue around, uniform in this range.
    """
    steps = np.asarray(spacing_mm)
    low = 1.5 if long else SIZE_ML[0]
    ml = float(np.exp(rng.uniform(np.log(low), np.log(SIZE_ML[1]))))
    radius = (ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)  # mm, of a ball of that volume
    half = 0.0
    if long:
        radius = 0.6 * radius + 0.8
        half = (ml * 1000 - 4 / 3 * np.pi * radius**3) / (2 * np.pi * radius**2)
        half = max(half, PARTS_MM / 2 + 0.5 * radius)
    places = np.flatnonzero(depth_mm > min(radius + 5.0, 0.6 * depth_mm.max()))
    if not len(places):
        return None
    at = np.array(np.unravel_index(int(rng.choice(places)), clean.shape), float)
    axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    reach = 1.6 * radius + half + 3
    size = np.ceil(reach / steps).astype(int)
    index = np.indices(2 * size + 1).reshape(3, -1).T - size
    points = (index * steps) @ axes
    points[:, 0] -= np.clip(points[:, 0], -half, half)
    stretch = np.ones(3) if long else np.exp(rng.uniform(-0.25, 0.25, 3))
    shape = tuple(int(n) for n in 2 * size + 1)
    distance = np.linalg.norm(points / stretch, axis=1).reshape(shape)
    waves = ndimage.gaussian_filter(rng.normal(size=shape), 0.35 * radius / steps)
    depth = radius - distance + 0.12 * radius * waves / max(float(waves.std()), 1e-6)
    grain = ndimage.gaussian_filter(rng.normal(size=shape), 1.0)
    near = tuple(slice(max(int(a - s), 0), int(a + s) + 1) for a, s in zip(at, size, strict=True))
    tissue = clean[near][depth_mm[near] > 2.0]
    level = float(np.median(tissue)) * rng.uniform(*contrast)
    grey = level * (1 + 0.08 * np.tanh(depth / radius) + 0.05 * grain / grain.std())
    return Seed(
        (depth / steps.mean()).astype(np.float32),
        grey.clip(0, 1).astype(np.float32),
        size.astype(float),
        at,
        axes[:, 0] if long else None,
        int((depth > 0).sum()),
    )
