"""Training data, generator: lesions put into slices, grown, shrunk or taken away between two dates.

All functions are pure: float32 slices (H, W) in [0, 1], bool masks (H, W), a numpy Generator.
Every change has a sham: `sham_inpaint` for `inpaint`, factor 1 for `rescale_lesion`.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from medic_ad.data.blend import (
    TEST_BLENDS,
    TRAIN_BLENDS,
    box_of,
    dilate,
    join,
    robust_range,
)
from medic_ad.data.head import brain_mask, draw_place
from medic_ad.data.inpaint import (
    TEST_INPAINTERS,
    TRAIN_INPAINTERS,
    inpaint,
    repair_zone,
    sham_inpaint,
)

__all__ = [
    "GROWTH_RANGE",
    "TEST_BLENDS",
    "TEST_INPAINTERS",
    "TRAIN_BLENDS",
    "TRAIN_INPAINTERS",
    "brain_mask",
    "draw_growth",
    "draw_place",
    "inpaint",
    "nuisance",
    "paste_zone",
    "repair_zone",
    "rescale_lesion",
    "sham_inpaint",
    "transplant",
]

GROWTH_RANGE = (1.25, 3.0)
_SEAM = 3  # pixels around a pasted lesion over which it is blended
_EIGHT = np.ones((3, 3))


def draw_growth(rng: np.random.Generator) -> float:
    """Draw an area factor, log-uniform in GROWTH_RANGE; its inverse is the same loss."""
    return float(np.exp(rng.uniform(*np.log(GROWTH_RANGE))))


def paste_zone(mask: np.ndarray) -> np.ndarray:
    """All pixels that pasting a lesion of this mask (H, W) may change."""
    return dilate(mask, _SEAM)


def transplant(
    image: np.ndarray,
    donor: np.ndarray,
    donor_mask: np.ndarray,
    centre_yx: tuple[float, float],
    factor: float,
    rng: np.random.Generator,
    blend: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Put the lesion of another slice into a healthy place of this one.

    Args:
        image: float32 (H, W), the host.
        donor, donor_mask: float32 and bool (h, w), not empty; its grid may differ from the host's.
        centre_yx: where the centroid of the lesion goes, host pixels.
        factor: area of the new lesion over that of the donor's; each axis is scaled by its root.
        rng: sub-pixel jitter.
        blend: one of TRAIN_BLENDS or TEST_BLENDS.

    Returns: the new slice and its mask; pixels outside `paste_zone(mask)` are the host's own.
    Grey values are scaled so that the donor's surroundings equal the host's.
    """
    field = np.full(image.shape, -np.inf, np.float32)
    patch = image.copy()
    centre = ndimage.center_of_mass(donor_mask)
    move = np.asarray(centre_yx, float) - centre
    _paste(donor, donor_mask, np.asarray(centre), move, factor, rng, patch, field)
    body = brain_mask(image)
    mask = _highest(field, round(factor * int(donor_mask.sum())), body if body.any() else None)
    if not mask.any():
        return image.copy(), mask
    around_donor = dilate(donor_mask, 10) & ~dilate(donor_mask, 3) & brain_mask(donor)
    around_host = dilate(mask, 8) & body
    if around_donor.any() and around_host.any():
        gain = _level(image[around_host]) / max(_level(donor[around_donor]), 0.05)
        patch = np.clip(patch * np.clip(gain, 0.4, 2.5), 0.0, 1.0)
    out = join(image, patch, mask, paste_zone(mask) & (np.isfinite(field) | mask), blend)
    return np.clip(out, 0.0, 1.0).astype(np.float32), mask


def rescale_lesion(
    clean: np.ndarray,
    image: np.ndarray,
    mask: np.ndarray,
    factor: float,
    rng: np.random.Generator,
    blend: str,
) -> tuple[np.ndarray, np.ndarray]:
    """The same slice with its lesion area times `factor`.

    Args:
        clean: float32 (H, W), `inpaint(image, mask, ...)`.
        image: float32 (H, W) with the lesion.
        mask: bool (H, W), one or many lesions; each grows about a point of its own, chosen so that
            it does not grow into the skull or out of the head.
        factor: area factor of the whole mask; 1 is the sham (cut out, resampled and pasted back),
            0 is resolved (`clean` comes back).
        rng: sub-pixel jitter.
        blend: one of TRAIN_BLENDS or TEST_BLENDS.

    Returns: the new slice and its mask, which has `round(factor * mask.sum())` pixels wherever
    the head has room. Equal to `clean` outside `paste_zone` of the new mask.
    """
    if factor <= 0 or not mask.any():
        return clean.copy(), np.zeros(mask.shape, bool)
    body = brain_mask(image) | mask
    wall = _wall(clean, mask, body) if factor > 1 else None
    labels, n = ndimage.label(mask, _EIGHT)
    field = np.full(image.shape, -np.inf, np.float32)
    patch = clean.copy()
    scale = float(np.sqrt(factor))
    for part in range(1, n + 1):
        lesion = labels == part
        centre = np.asarray(ndimage.center_of_mass(lesion))
        move = np.zeros(2)
        if wall is not None:
            move = _way_in(lesion, centre, scale, wall)
        _paste(image, lesion, centre, move, factor, rng, patch, field)
    new = _highest(field, round(factor * int(mask.sum())), body)
    zone = paste_zone(new) & (np.isfinite(field) | new)
    out = join(clean, patch, new, zone, blend)
    return np.clip(out, 0.0, 1.0).astype(np.float32), new


def _level(values: np.ndarray) -> float:
    low, high = robust_range(values, 2.0, 0.02)
    return float(np.median(values[(values >= low) & (values <= high)]))


def _paste(
    donor: np.ndarray,
    lesion: np.ndarray,
    centre: np.ndarray,
    move: np.ndarray,
    factor: float,
    rng: np.random.Generator,
    patch: np.ndarray,
    field: np.ndarray,
) -> None:
    """Draw one scaled lesion into `patch`, its signed distance (pixels, inside > 0) into `field`.

    `field` keeps the larger of what it holds and what comes, `patch` the grey value of the winner.
    """
    scale = float(np.sqrt(factor))
    target = centre + move + rng.uniform(-0.4, 0.4, 2)
    margin = _SEAM + 3
    box = box_of(lesion, int(np.ceil(margin / min(scale, 1.0))) + 2)
    inside = np.pad(lesion[box], 1)  # a lesion at the border of the slice ends there
    distance = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    distance = np.clip(distance, -2 * margin / min(scale, 1.0), None)[1:-1, 1:-1]
    start = np.array([s.start for s in box])
    stop = start + distance.shape
    first = np.maximum(np.floor(target + (start - centre) * scale).astype(int), 0)
    last = np.minimum(np.ceil(target + (stop - centre) * scale).astype(int), field.shape)
    if (last <= first).any():
        return
    offset = centre + (first - target) / scale - start
    grey = donor[box]
    if scale < 1:
        grey = ndimage.gaussian_filter(grey, 0.5 * (1 / scale - 1))
    shape = tuple(int(n) for n in last - first)
    warp = {"matrix": [1 / scale] * 2, "offset": offset, "output_shape": shape, "order": 1}
    near = ndimage.affine_transform(distance, **warp, mode="nearest") * scale
    drawn = ndimage.affine_transform(grey, **warp, mode="nearest")
    area = slice(first[0], last[0]), slice(first[1], last[1])
    wins = (near > field[area]) & (near > -margin)
    field[area][wins] = near[wins]
    patch[area][wins] = drawn[wins]


def _highest(field: np.ndarray, n: int, within: np.ndarray | None) -> np.ndarray:
    """The n highest pixels of a signed-distance field, so that the area is exact."""
    fits = np.isfinite(field) if within is None else np.isfinite(field) & within
    places = np.flatnonzero(fits)
    n = min(max(n, 1), len(places))
    out = np.zeros(field.shape, bool)
    if n:
        highest = np.argpartition(field.ravel()[places], len(places) - n)[len(places) - n :]
        out.ravel()[places[highest]] = True
    return out


def _wall(clean: np.ndarray, mask: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Where a lesion should not grow: air, bone, fat, anything far from its surroundings' grey."""
    near = dilate(mask, 8) & body & ~mask
    if not near.any():
        return ~body
    smooth = ndimage.gaussian_filter(clean, 1.0)
    level = _level(smooth[near])
    return ~body | (np.abs(smooth - level) > 0.5 * level)


def _way_in(lesion: np.ndarray, centre: np.ndarray, scale: float, wall: np.ndarray) -> np.ndarray:
    """The shift (y, x) of a lesion grown about its centre that meets least wall."""
    points = np.argwhere(lesion)
    grown = centre + (points - centre) * scale
    reach = (scale - 1) * np.ptp(points, axis=0) / 2
    steps = [(y, x) for y in (0, -1, 1) for x in (0, -1, 1)]
    limit = np.asarray(wall.shape) - 1
    best, least = np.zeros(2), np.inf
    for step in steps:
        move = reach * step
        at = np.clip(np.rint(grown + move).astype(int), 0, limit)
        hit = float(wall[at[:, 0], at[:, 1]].mean()) + 0.02 * (step != (0, 0))
        if hit < least:
            best, least = move, hit
    return best


def nuisance(
    image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, small: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """What differs between two dates without disease: position, scale, contrast, bias, noise, blur.

    Args:
        image: float32 (H, W) in [0, 1].
        mask: bool (H, W), or (K, H, W) for several masks moved alike.
        rng: every draw.
        small: within a follow-up pair (about 2 pixels, 2 degrees); otherwise as between scanners.

    Returns: the changed slice and the moved mask.
    """
    extent = max(image.shape) / 224
    shift, angle, stretch = (2.5 * extent, 2.0, 0.015) if small else (8.0 * extent, 8.0, 0.06)
    turn = np.deg2rad(rng.uniform(-angle, angle))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = rotation / np.exp(rng.uniform(-stretch, stretch))
    middle = (np.asarray(image.shape) - 1) / 2
    offset = middle - matrix @ (middle + rng.uniform(-shift, shift, 2))
    out = ndimage.affine_transform(image, matrix, offset, order=1, mode="nearest")
    moved = [
        ndimage.affine_transform(m.astype(np.float32), matrix, offset, order=1) > 0.5
        for m in mask.reshape(-1, *image.shape)
    ]
    sigma = rng.uniform(0.0, 0.7)
    if sigma > 0.2:
        out = ndimage.gaussian_filter(out, sigma)
    strength = 0.15 if small else 0.3
    out = np.clip(out, 0.0, 1.0) ** np.exp(rng.uniform(-strength, strength))
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in image.shape), indexing="ij", sparse=True)
    a, b, c, d, e = rng.uniform(-1, 1, 5) * strength / 2
    out = out * np.exp(a * y + b * x + c * y * x + d * (y * y - 0.5) + e * (x * x - 0.5))
    out = out * np.exp(rng.uniform(-strength, strength) / 2)
    noise = rng.uniform(0.0, 0.012 if small else 0.025)
    out = out + noise * rng.standard_normal(image.shape, dtype=np.float32) * np.sqrt(out + 0.02)
    return np.clip(out, 0.0, 1.0).astype(np.float32), np.stack(moved).reshape(mask.shape)
