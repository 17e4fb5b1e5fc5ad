"""Evaluation: AUPRO, in which a small lesion counts as much as a large one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from medic_ad.evaluate.figures.bootstrap import Statistic
from medic_ad.evaluate.figures.metrics import PixelCounts

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


class FreeResponse:
    """Lesions found and false marks, per image and threshold.

    Every region that is drawn, corners touching, makes one mark, its highest pixel: a map that
    covers the whole image makes a single mark and finds at most one lesion.

    Args:
        maps, masks: `(H, W)` per image, as in `RegionOverlap`, or `(D, H, W)` per volume.
        thresholds: `(n, T)`, those of each image.
    """

    def __init__(
        self, maps: Sequence[np.ndarray], masks: Sequence[np.ndarray], thresholds: np.ndarray
    ) -> None:
        self.found = np.zeros(thresholds.shape)
        self.false = np.zeros(thresholds.shape)
        self.lesions = np.zeros(len(thresholds))
        for i, (scores, mask) in enumerate(zip(maps, masks, strict=True)):
            touching = np.ones((3,) * mask.ndim)
            lesions, self.lesions[i] = ndimage.label(mask, touching)
            for t, threshold in enumerate(thresholds[i]):
                regions, n = ndimage.label(scores >= threshold, touching)
                marks = ndimage.maximum_position(scores, regions, np.arange(1, n + 1))
                hit = [lesions[mark] for mark in marks]
                self.found[i, t] = len(set(hit) - {0})
                self.false[i, t] = hit.count(0)

    def sensitivity(self, t: int) -> Statistic:
        """Share of the lesions that a mark lies in."""

        def statistic(counts: np.ndarray) -> float:
            total = counts @ self.lesions
            return float(counts @ self.found[:, t] / total) if total else float("nan")

        return statistic

    def f1(self) -> np.ndarray:
        """`(n, T)` of each image: lesions found, against those missed and false marks."""
        missed = self.lesions[:, None] - self.found
        return 2 * self.found / np.maximum(2 * self.found + missed + self.false, 1)

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """False marks per image and share of lesions found, at every threshold."""
        return self.false.mean(0), self.found.sum(0) / max(self.lesions.sum(), 1)
