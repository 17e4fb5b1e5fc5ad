"""Training data, lowest level: how one patch of grey values is joined to another without a seam."""

from __future__ import annotations

import numpy as np
from scipy import fft, ndimage, sparse
from scipy.sparse.linalg import cg

TRAIN_BLENDS = ("feather", "poisson")
TEST_BLENDS = ("pyramid",)

_NEIGHBOURS = ((-1, 0), (1, 0), (0, -1), (0, 1))
_SCREENING = 1e-4  # pulls regions without any fixed border towards the start value


def box_of(mask: np.ndarray, margin: int) -> tuple[slice, ...]:
    """Bounding box of a non-empty mask of any axes, widened by `margin` and clipped to the grid."""
    spans = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        seen = np.flatnonzero(mask.any(others))
        spans.append(slice(max(int(seen[0]) - margin, 0), int(seen[-1]) + 1 + margin))
    return tuple(spans)


def disc(radius: float) -> np.ndarray:
    """Filled disc as a structuring element, bool (2r+1, 2r+1)."""
    r = int(np.ceil(radius))
    y, x = np.mgrid[-r : r + 1, -r : r + 1]
    return np.asarray(y * y + x * x <= radius * radius + 0.5)


def dilate(mask: np.ndarray, radius: float) -> np.ndarray:
    """All pixels within `radius` pixels of the mask, of any axes."""
    if not mask.any():
        return mask.copy()
    out = np.zeros_like(mask)
    box = box_of(mask, int(np.ceil(radius)) + 1)
    out[box] = ndimage.distance_transform_edt(~mask[box]) <= radius
    return out


def robust_range(values: np.ndarray, width: float, floor: float) -> tuple[float, float]:
    """Median -+ width * MAD of some values; the MAD is at least `floor`."""
    middle = float(np.median(values))
    spread = max(1.4826 * float(np.median(np.abs(values - middle))), floor)
    return middle - width * spread, middle + width * spread


def border_of(region: np.ndarray) -> np.ndarray:
    """The pixels outside `region` (H, W) that touch it by an edge."""
    return np.asarray(ndimage.binary_dilation(region) & ~region)


def laplace(values: np.ndarray, region: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """Solve the Laplace equation inside `region`.

    Args:
        values: float (H, W); read only where `fixed`.
        region: bool (H, W), the unknown pixels.
        fixed: bool (H, W), border pixels outside `region` whose values hold (Dirichlet). All other
            neighbours are free (no flux), so an edge of the skull does not bleed into the fill.

    Returns: float32 (H, W), the solution inside `region`, 0 elsewhere.
    """
    out = np.zeros(values.shape, np.float32)
    if not region.any():
        return out
    held = border_of(region) & fixed
    start = float(np.median(values[held])) if held.any() else 0.0
    box = box_of(region | held, 1)
    inner, hold = np.pad(region[box], 1), np.pad(held[box], 1)
    known = np.pad(np.where(hold[1:-1, 1:-1], values[box], 0.0).astype(np.float64), 1)
    index = np.full(inner.shape, -1)
    n = int(inner.sum())
    index[inner] = np.arange(n)
    diagonal = np.full(n, _SCREENING)
    right = np.full(n, _SCREENING * start)
    rows, columns = [], []
    for shift in _NEIGHBOURS:
        near = np.roll(index, shift, (0, 1))[inner]
        near_hold = np.roll(hold, shift, (0, 1))[inner]
        linked = np.flatnonzero(near >= 0)
        rows.append(linked)
        columns.append(near[linked])
        diagonal[linked] += 1.0
        diagonal += near_hold
        right += np.where(near_hold, np.roll(known, shift, (0, 1))[inner], 0.0)
    off = np.concatenate(rows), np.concatenate(columns)
    matrix = sparse.diags_array(diagonal).tocsr() - sparse.csr_array(
        (np.ones(len(off[0])), off), shape=(n, n)
    )
    solution, _ = cg(matrix, right, x0=np.full(n, start), rtol=2e-4, maxiter=400)
    patch = out[box]
    patch[region[box]] = solution
    return out


def texture(
    residual: np.ndarray, where: np.ndarray, shape: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Noise with the (robust) spread and the spectrum of `residual` as seen only inside `where`.

    Args:
        residual: float (H, W), high-pass part of an image.
        where: bool (H, W), the pixels it is read from.
        shape: (h, w) of the noise.

    Returns: float32 (h, w), zero mean.
    """
    lag = 5
    if where.sum() < 16:
        return np.zeros(shape, np.float32)
    size = [fft.next_fast_len(n + 2 * lag, real=True) for n in residual.shape]
    values = np.where(where, residual - residual[where].mean(), 0.0)
    seen = fft.rfft2(where.astype(np.float32), size)
    spectrum = fft.rfft2(values.astype(np.float32), size)
    pairs = fft.irfft2(np.abs(seen) ** 2, size)
    products = fft.irfft2(np.abs(spectrum) ** 2, size)
    covariance = np.where(pairs > 8, products / np.maximum(pairs, 1), 0.0)
    offsets = np.arange(-lag, lag + 1)
    covariance = covariance[np.ix_(offsets, offsets)]
    covariance = (covariance + covariance.T + (covariance + covariance.T)[::-1]) / 4  # no stripes
    window = np.hanning(2 * lag + 3)[1:-1]
    kernel = covariance * np.outer(window, window)
    grid = [fft.next_fast_len(n + 2 * lag, real=True) for n in shape]
    padded = np.zeros(grid, np.float32)
    padded[np.ix_(offsets, offsets)] = kernel
    power = np.maximum(fft.rfft2(padded).real, 0.0)
    white = fft.rfft2(rng.standard_normal(grid).astype(np.float32))
    noise = fft.irfft2(white * np.sqrt(power), grid)[: shape[0], : shape[1]]
    spread = float(noise.std())
    target = 1.4826 * float(np.median(np.abs(residual[where])))
    return (noise * (target / spread if spread > 0 else 0.0)).astype(np.float32)


def join(
    host: np.ndarray, patch: np.ndarray, mask: np.ndarray, zone: np.ndarray, blend: str
) -> np.ndarray:
    """Put `patch` into `host` where `mask` says, with the seam hidden inside `zone`.

    Args:
        host, patch: float32 (H, W) on the same grid; (D, H, W) for all blends but "poisson".
        mask: bool, what must come from the patch.
        zone: bool, contains `mask`; nothing outside it changes.
        blend: one of TRAIN_BLENDS or TEST_BLENDS.

    Returns: float32 as `host`.
    """
    out = host.copy()
    if not zone.any():
        return out
    box = box_of(zone, 8)
    under, over, inside, area = host[box], patch[box], mask[box], zone[box]
    out[box] = np.where(area, _BLENDS[blend](under, over, inside, area), under)
    return out


def _ramp(mask: np.ndarray, zone: np.ndarray) -> np.ndarray:
    """1 inside the mask, falling to 0 at the border of the zone."""
    out_of_mask = ndimage.distance_transform_edt(~mask)
    to_border = ndimage.distance_transform_edt(zone)
    return np.where(mask, 1.0, to_border / (out_of_mask + to_border + 1e-6)).astype(np.float32)


def _feather(host: np.ndarray, patch: np.ndarray, mask: np.ndarray, zone: np.ndarray) -> np.ndarray:
    weight = _ramp(mask, zone)
    return weight * patch + (1 - weight) * host


def _poisson(host: np.ndarray, patch: np.ndarray, mask: np.ndarray, zone: np.ndarray) -> np.ndarray:
    difference = host - patch
    border = border_of(zone)
    if not border.any():
        return patch
    low, high = robust_range(difference[border], 3.0, 0.03)
    fixed = (difference > low) & (difference < high)
    return patch + laplace(difference, zone, fixed)


def _pyramid(host: np.ndarray, patch: np.ndarray, mask: np.ndarray, zone: np.ndarray) -> np.ndarray:
    """Laplacian stack: coarse bands are mixed over a wide seam, fine bands over a narrow one."""
    weight = _ramp(mask, zone)
    out = np.zeros_like(host)
    for sigma_fine, sigma_coarse in ((0.0, 1.0), (1.0, 2.0), (2.0, 4.0), (4.0, None)):
        soft = np.where(mask, 1.0, np.minimum(weight, ndimage.gaussian_filter(weight, sigma_fine)))
        for picture, share in ((host, 1.0 - soft), (patch, soft)):
            band = ndimage.gaussian_filter(picture, sigma_fine)
            if sigma_coarse is not None:
                band = band - ndimage.gaussian_filter(picture, sigma_coarse)
            out += share * band
    return out


_BLENDS = {"feather": _feather, "poisson": _poisson, "pyramid": _pyramid}
