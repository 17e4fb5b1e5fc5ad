"""A small made head, real enough for registration and for lesions to be drawn into it."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

SPACING = (2.0, 1.5, 1.5)
AFFINE = np.array([[0, 0, 1.5, -60], [0, 1.5, 0, -75], [2.0, 0, 0, -64], [0, 0, 0, 1]])


def head() -> np.ndarray:
    """An ellipsoid with ventricles, folds and texture, without symmetry, in scanner units."""
    grid = (64, 100, 84)
    rng = np.random.default_rng(0)
    d, h, w = np.meshgrid(*[np.linspace(-1.15, 1.15, n) for n in grid], indexing="ij")
    tissue = 300 + 60 * np.sign(ndimage.gaussian_filter(rng.normal(size=grid), 3.0))
    tissue[(d - 0.1) ** 2 / 0.1 + h**2 / 0.2 + (np.abs(w) - 0.2) ** 2 / 0.01 < 1] = 100
    return np.where(d * d + h * h + w * w < 1, tissue, 0).astype(np.float32)
