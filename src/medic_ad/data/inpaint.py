"""Training data, generator: lesions removed from a slice, and the same repair made elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage
from skimage.restoration import inpaint_biharmonic

from medic_ad.data.blend import border_of, box_of, dilate, disc, laplace, robust_range, texture
from medic_ad.data.head import brain_mask, draw_in, parenchyma

TRAIN_INPAINTERS = ("clone", "harmonic")
TEST_INPAINTERS = ("biharmonic",)


@dataclass(frozen=True)
class _Site:
    """One place to repair: bool masks (H, W) of the image's own grid.

    Attributes:
        image: float32 (H, W).
        region: what is to be replaced.
        taken: lesions and all else that must not serve as a source.
        tissue: the ring around the region that the repair must fit.
        body: where sources are taken from: the brain for a lesion in it, else the head.
    """

    image: np.ndarray
    region: np.ndarray
    taken: np.ndarray
    tissue: np.ndarray
    body: np.ndarray


_RING = 6  # pixels of healthy surroundings a repair is fitted to
_CANDIDATES = 5


def repair_zone(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The dilated mask: all pixels a repair of `mask` may change, bool (H, W).

    Each component grows by 2 to 5 pixels with its size, so that rims and partial-volume edges go
    too; growth stops at bone, air and fluid, which are no part of the lesion.
    """
    zone = mask.astype(bool)
    if not zone.any():
        return zone
    box = box_of(zone, 14)
    inner, grey = zone[box], image[box]
    near = dilate(inner, 12) & ~inner
    soft = near & (grey > 0.02)
    dark = 0.4 * float(np.median(grey[soft])) if soft.any() else 0.0
    allowed = inner | (ndimage.gaussian_filter(grey, 0.6) > dark)
    labels, n = ndimage.label(inner, np.ones((3, 3)))
    areas = np.bincount(labels.ravel(), minlength=n + 1)
    scale = max(image.shape) / 224
    radii = np.clip(np.round(0.25 * np.sqrt(areas) * scale**0.5), 2, 5 * max(scale, 0.5))
    radii[0] = 0
    grown = inner.copy()
    for radius in np.unique(radii[1:]):
        part = (radii == radius)[labels]
        ball = ndimage.binary_dilation(part, disc(1), iterations=int(radius), mask=allowed)
        grown |= ball & dilate(part, float(radius))
    zone[box] = ndimage.binary_fill_holes(grown)
    return zone


def inpaint(
    image: np.ndarray,
    mask: np.ndarray,
    rng: np.random.Generator,
    method: str,
    avoid: np.ndarray | None = None,
) -> np.ndarray:
    """Replace a lesion by tissue that fits its surroundings.

    Args:
        image: float32 (H, W) in [0, 1].
        mask: bool (H, W), all lesions of the slice at once.
        rng: source of every choice made.
        method: one of TRAIN_INPAINTERS or TEST_INPAINTERS.
        avoid: bool (H, W), further pixels that must not serve as healthy tissue.

    Returns: float32 (H, W) in [0, 1], equal to `image` outside `repair_zone(image, mask)`.
    """
    zone = repair_zone(image, mask)
    if not zone.any():
        return image.copy()
    taken = zone if avoid is None else zone | avoid.astype(bool)
    out = image.astype(np.float32, copy=True)
    head = brain_mask(image)
    brain = parenchyma(image, head)
    labels, n = ndimage.label(dilate(zone, 3))  # near lesions are one repair
    for part in range(1, n + 1):
        region = zone & (labels == part)
        ring = dilate(region, _RING) & ~taken
        tissue = ring & head
        if tissue.sum() < 8:
            tissue = ring
        if not tissue.any():
            continue
        inside = tissue & brain
        site = _Site(image, region, taken, tissue, head)
        if inside.sum() > 0.3 * tissue.sum():  # beside the skull the brain sets the grey value
            site = _Site(image, region, taken, inside, brain)
        fill = _FILLS[method](site, rng)
        out[region] = np.clip(fill[region], 0.0, 1.0)
    return out


def _tissue_range(values: np.ndarray, width: float) -> tuple[float, float]:
    """Range of the commonest tissue among the surroundings: bone and fat are clipped away."""
    for _ in range(3):
        low, high = robust_range(values, 2.0, 0.015)
        kept = values[(values >= low) & (values <= high)]
        if len(kept) == len(values):
            break
        values = kept
    return robust_range(values, width, 0.015)


def _grain(site: _Site, rng: np.random.Generator) -> np.ndarray:
    """Noise like the grain of the surrounding tissue, float32 (H, W), 0 outside the region."""
    image, region = site.image, site.region
    box = box_of(region, 10)
    grey, seen = image[box], site.tissue[box]
    low, high = _tissue_range(grey[seen], 2.5)
    seen = seen & (grey > low) & (grey < high)
    weight = ndimage.gaussian_filter(seen.astype(np.float32), 1.5)
    smooth = ndimage.gaussian_filter(np.where(seen, grey, 0.0), 1.5) / np.maximum(weight, 1e-3)
    out = np.zeros(image.shape, np.float32)
    noise = 0.8 * texture(np.where(seen, grey - smooth, 0.0), seen, grey.shape, rng)
    out[box] = np.where(region[box], noise, 0.0)
    return out


def _harmonic(site: _Site, rng: np.random.Generator) -> np.ndarray:
    image, region = site.image, site.region
    low, high = _tissue_range(image[site.tissue], 2.5)
    box = box_of(region, 8)
    good = ((image > low) & (image < high) & ~site.taken)[box]
    weight = ndimage.gaussian_filter(good.astype(np.float32), 1.0)
    values = np.where(good, image[box], 0.0)
    values = ndimage.gaussian_filter(values, 1.0) / np.maximum(weight, 1e-3)
    out = image.copy()
    out[box] = laplace(values, region[box], good)
    return out + _grain(site, rng)


def _biharmonic(site: _Site, rng: np.random.Generator) -> np.ndarray:
    """Solved on a grid coarse enough to be quick; bone and air are first filled from the ring."""
    image, region = site.image, site.region
    low, high = _tissue_range(image[site.tissue], 2.0)
    box = box_of(region, 8)
    inside = region[box]
    step = max(1, int(np.ceil(np.sqrt(inside.sum() / 900))))
    good = ((image > low) & (image < high) & ~site.taken)[box]
    nearest = ndimage.distance_transform_edt(~good, return_distances=False, return_indices=True)
    values = ndimage.gaussian_filter(image[box][tuple(nearest)], 1.0 + 0.5 * (step - 1))
    coarse = inpaint_biharmonic(values[::step, ::step], inside[::step, ::step])
    fine = ndimage.affine_transform(
        coarse, [1 / step] * 2, output_shape=inside.shape, order=1, mode="nearest"
    )
    out = image.copy()
    out[box] = np.clip(fine, low, high)
    return out + _grain(site, rng)


def _clone(site: _Site, rng: np.random.Generator) -> np.ndarray:
    image, region, taken, body = site.image, site.region, site.taken, site.body
    box = box_of(region, _RING + 2)
    inside, ring, grey = region[box], (dilate(region, _RING) & ~taken)[box], image[box]
    low, high = _tissue_range(image[site.tissue], 4.0)
    reach = 24 + int(1.5 * max(inside.shape))
    centre = [(s.start + min(s.stop, n)) // 2 for s, n in zip(box, image.shape, strict=True)]
    width = image.shape[1]
    columns = np.flatnonzero(body.any(0))
    axis = (int(columns[0]) + int(columns[-1])) if len(columns) else width - 1
    mirrored = min(max(width - 1 - (axis - centre[1]), 0), width - 1)  # in the flipped picture
    found: list[tuple[float, np.ndarray, np.ndarray]] = []
    least, most = _tissue_range(image[site.tissue], 8.0)
    n = int(inside.sum())
    for (picture, occupied, ours), middle in (
        ((image, taken, body), centre[1]),
        ((image[:, ::-1], taken[:, ::-1], body[:, ::-1]), mirrored),
    ):
        window = _window(picture.shape, (centre[0], middle), reach, grey.shape)
        source = picture[window]
        bad = occupied[window] * 8.0 + ~ours[window] * 3.0
        bad = np.maximum(bad, ((source < low) | (source > high)) * 3.0)
        cost = _match(grey, ring, inside, source, bad.astype(np.float32))
        for value, (y, x) in _minima(cost):
            part = slice(y, y + grey.shape[0]), slice(x, x + grey.shape[1])
            candidate, lesion = source[part], occupied[window][part]
            strange = (candidate > most) | ~ours[window][part]
            shares = (
                (strange & inside).sum() / 0.15,
                ((candidate < least) & inside).sum() / 0.2,
                (lesion & inside).sum() / 0.1,
            )
            if max(shares) <= n:
                found.append((value, candidate, lesion))
    if not found:  # face, skull, fluid or lesion everywhere
        return _harmonic(site, rng)
    limit = 1.25 * min(value for value, _, _ in found) + 0.1
    fits = [one for one in found if one[0] <= limit]
    _, donor, occupied = fits[int(rng.integers(len(fits)))]
    donor = donor.copy()
    if (occupied & inside).any():
        hole = dilate(occupied & inside, 1.5)
        donor[hole] = laplace(donor, hole, (donor > low) & (donor < high) & ~occupied)[hole]
        donor += _grain(site, rng)[box] * hole
    difference = grey - donor
    edge = border_of(inside) & ring
    if edge.any():
        low, high = robust_range(difference[edge], 2.5, 0.04)
        fixed = edge & (difference > low) & (difference < high) & (grey < most)
        donor = donor + laplace(difference, inside, fixed)
    out = image.copy()
    out[box] = donor
    return out


def _window(
    shape: tuple[int, ...], centre: tuple[int, int], reach: int, least: tuple[int, ...]
) -> tuple[slice, slice]:
    spans = []
    for n, middle, size in zip(shape, centre, least, strict=True):
        start = max(0, min(middle - reach - size // 2, n - size))
        spans.append(slice(start, min(n, max(middle + reach + size // 2, start + size))))
    return spans[0], spans[1]


def _match(
    grey: np.ndarray, ring: np.ndarray, inside: np.ndarray, source: np.ndarray, bad: np.ndarray
) -> np.ndarray:
    """Cost of each place of the template in the source: ring mismatch plus unfit tissue inside.

    The ring is compared after removal of its mean difference, which the Poisson fit removes too.
    """
    weight = ring.astype(np.float32)
    n = max(float(weight.sum()), 1.0)
    size = [fft.next_fast_len(s, real=True) for s in source.shape]
    seen = fft.rfft2(source, size)
    squared = fft.rfft2(source * source, size)
    unfit = fft.rfft2(bad, size)

    def slide(template: np.ndarray, field: np.ndarray) -> np.ndarray:
        whole = fft.irfft2(np.conj(fft.rfft2(template, size)) * field, size)
        rows, columns = (s - t + 1 for s, t in zip(source.shape, template.shape, strict=True))
        return np.asarray(whole[:rows, :columns])

    mean = float((grey * weight).sum()) / n
    variance = float(((grey - mean) ** 2 * weight).sum()) / n + 4e-4
    across = slide((grey - mean) * weight, seen) / n
    sums = slide(weight, seen) / n
    spread = slide(weight, squared) / n - sums**2
    mismatch = (variance + spread - 2 * across) / variance
    shift = (sums - mean) ** 2 / variance
    penalty = slide(inside.astype(np.float32), unfit) / max(float(inside.sum()), 1.0)
    return np.asarray(mismatch + 0.2 * shift + penalty)


def _minima(cost: np.ndarray) -> list[tuple[float, tuple[int, int]]]:
    """The lowest places of a cost map, no two nearer than 4 pixels."""
    left = cost.copy()
    found = []
    for _ in range(_CANDIDATES):
        y, x = (int(i) for i in np.unravel_index(int(np.argmin(left)), left.shape))
        if not np.isfinite(left[y, x]):
            break
        found.append((float(left[y, x]), (y, x)))
        left[max(y - 4, 0) : y + 5, max(x - 4, 0) : x + 5] = np.inf
    return found


_FILLS = {"clone": _clone, "harmonic": _harmonic, "biharmonic": _biharmonic}


def sham_inpaint(
    image: np.ndarray, lesion_mask: np.ndarray, rng: np.random.Generator, method: str
) -> np.ndarray:
    """The control of `inpaint`: a lesion-shaped place elsewhere is repaired, the lesion stays.

    The shape is turned, mirrored and, where nothing else fits, made smaller. A slice without a
    lesion (empty mask) gets a round one. The image comes back unchanged only where no healthy
    place is left.
    """
    own = repair_zone(image, lesion_mask)
    brain = parenchyma(image, brain_mask(image)) | own
    if lesion_mask.any():
        labels, _ = ndimage.label(lesion_mask, np.ones((3, 3)))
        boxes = ndimage.find_objects(labels)
        parts = [labels[box] == i for i, box in enumerate(boxes, start=1)]
        parts.sort(key=lambda part: -int(part.sum()))
    else:
        parts = [disc(float(rng.uniform(4, 16)) * max(image.shape) / 224)]
    place = np.zeros(image.shape, bool)
    avoid = dilate(own, 2)
    for part in parts[:12]:
        form = np.rot90(part, int(rng.integers(4)))
        form = form[:, ::-1] if rng.random() < 0.5 else form
        for step in (1, 2, 3):
            small = form[::step, ::step]
            centre = draw_in(brain, small, rng, avoid)
            if centre is not None:
                top, left = centre[0] - small.shape[0] // 2, centre[1] - small.shape[1] // 2
                area = slice(top, top + small.shape[0]), slice(left, left + small.shape[1])
                place[area] |= small
                avoid = avoid | dilate(place, 6)
                break
    if not place.any():
        return image.copy()
    out = inpaint(image, place, rng, method, avoid=own)
    return np.where(own, image, out).astype(np.float32)
