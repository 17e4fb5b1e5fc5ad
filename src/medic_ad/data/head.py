"""Training data, generator: head and brain of a slice, and where a lesion fits in."""

from __future__ import annotations

import numpy as np
from scipy import fft, ndimage
from skimage.filters import threshold_otsu

from medic_ad.data.blend import dilate


def brain_mask(image: np.ndarray) -> np.ndarray:
    """The largest bright component of a slice (H, W) in [0, 1], holes filled: head or brain."""
    smooth = ndimage.gaussian_filter(image, 1.0, truncate=2.0)
    if float(smooth.max()) - float(smooth.min()) < 1e-6:
        return np.zeros(image.shape, bool)
    foreground = np.pad(smooth > 0.4 * threshold_otsu(smooth[::2, ::2]), 4)
    foreground = ndimage.binary_closing(foreground, iterations=3)[4:-4, 4:-4]
    largest = _largest(foreground)
    return np.asarray(ndimage.binary_fill_holes(largest)) if largest.any() else largest


def _largest(mask: np.ndarray) -> np.ndarray:
    labels, n = ndimage.label(mask)
    return np.asarray(labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))) if n else mask


def parenchyma(image: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Roughly the brain within a head: the largest deep region of one grey value, holes filled."""
    if not head.any():
        return head.copy()
    extent = min(np.ptp(np.flatnonzero(head.any(1))), np.ptp(np.flatnonzero(head.any(0))))
    depth = ndimage.distance_transform_edt(np.pad(head, 1))[1:-1, 1:-1]
    smooth = ndimage.gaussian_filter(image, 1.5)
    core = head & (depth > 0.12 * extent)
    counts, edges = np.histogram(smooth[core if core.any() else head], 24, (0.02, 1.0))
    counts = np.convolve(counts, (1, 2, 1), "same")
    level = edges[int(np.argmax(counts))] + 0.5 * (edges[1] - edges[0])
    alike = (depth > 0.05 * extent) & (np.abs(smooth - level) < 0.3 * level + 0.02)
    alike = ndimage.binary_closing(np.pad(alike, 2), iterations=2)
    inner = ndimage.distance_transform_edt(alike)[2:-2, 2:-2]
    seed = _largest(inner > 0.05 * extent)  # parts the brain from face and neck
    return np.asarray(ndimage.binary_fill_holes(dilate(seed, 0.05 * extent)) & head)


def draw_place(
    image: np.ndarray,
    shape: np.ndarray,
    rng: np.random.Generator,
    avoid: np.ndarray | None = None,
) -> tuple[int, int] | None:
    """Draw a place in the brain for a small mask.

    Args:
        image: float32 (H, W) in [0, 1].
        shape: bool (h, w), a lesion's mask cut out.
        rng: the draw, uniform over all places that fit.
        avoid: bool (H, W), never touched.

    Returns: (y, x) where the pixel (h // 2, w // 2) of the shape goes, or None where none fits.
    """
    return draw_in(parenchyma(image, brain_mask(image)), shape, rng, avoid)


def draw_in(
    brain: np.ndarray, shape: np.ndarray, rng: np.random.Generator, avoid: np.ndarray | None
) -> tuple[int, int] | None:
    """`draw_place` within a brain bool (H, W) that is known already."""
    h, w = shape.shape
    if not brain.any() or h > brain.shape[0] or w > brain.shape[1] or not shape.any():
        return None
    bad = (~brain).astype(np.float32)
    if avoid is not None:
        bad += 20.0 * avoid
    size = [fft.next_fast_len(s, real=True) for s in brain.shape]
    field = np.conj(fft.rfft2(shape.astype(np.float32), size)) * fft.rfft2(bad, size)
    share = fft.irfft2(field, size)[: brain.shape[0] - h + 1, : brain.shape[1] - w + 1]
    share = share / int(shape.sum())
    limit = max(0.05, float(share.min()) + 0.03)
    if limit > 0.4:
        return None
    fits = np.flatnonzero(share <= limit)
    y, x = np.unravel_index(int(fits[int(rng.integers(len(fits)))]), share.shape)
    return int(y) + h // 2, int(x) + w // 2
