"""Evaluation: AUPRO, in which a small lesion counts as much as a large one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from medic_ad.evaluate.metrics import PixelCounts

FALSE_POSITIVES = 0.3  # the curve is integrated up to this rate, as MVTec AD does
EIGHT = np.ones((3, 3))


class RegionOverlap:
    """Per-region overlap against the pooled false-positive rate (Bergmann et al., IJCV 2021).

    Args:
        maps: `(H, W)` scores per image.
        masks: `(H, W)` bool per image; a region is 8-connected.
        pixels: the same maps' histograms, whose bins serve as thresholds.
    """

    def __init__(
        self, maps: Sequence[np.ndarray], masks: Sequence[np.ndarray], pixels: PixelCounts
    ) -> None:
        self.pixels = pixels
        curves, images = [], []
        for i, (scores, mask) in enumerate(zip(maps, masks, strict=True)):
            labels, n = ndimage.label(mask, EIGHT)
            for region in range(1, n + 1):
                inside = scores[labels == region]
                bins = np.searchsorted(pixels.cut, inside)
                share = np.bincount(bins, minlength=len(pixels.cut) + 1) / len(inside)
                curves.append(share[::-1].cumsum())
                images.append(i)
        self.overlap = np.stack(curves)  # (regions, bins), the highest threshold first
        self.image = np.array(images)

    def aupro(self, counts: np.ndarray) -> float:
        """Mean overlap of the regions, over false-positive rates from 0 to `FALSE_POSITIVES`."""
        weight = counts[self.image]
        negative = (counts @ self.pixels.negative)[::-1].cumsum()
        if not weight.any() or not negative[-1]:
            return float("nan")
        rate = np.concatenate([[0.0], negative / negative[-1]])
        overlap = np.concatenate([[0.0], weight @ self.overlap / weight.sum()])
        inside = rate < FALSE_POSITIVES
        x = np.append(rate[inside], FALSE_POSITIVES)
        y = np.append(overlap[inside], np.interp(FALSE_POSITIVES, rate, overlap))
        return float(np.trapezoid(y, x) / FALSE_POSITIVES)
