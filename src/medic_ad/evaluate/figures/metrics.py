"""Evaluation: numbers from scores, labels and weights; arrays only, nothing of the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from medic_ad.evaluate.figures.bootstrap import Statistic

ECE_BINS = 10
EDGES = 2048  # quantiles of each class that pixel histograms are cut at
EDGE_SAMPLE = 400_000  # pixels of each class that the quantiles are taken from


def area_under_roc(negative: np.ndarray, positive: np.ndarray) -> float:
    """AUROC of weights per score bin, bins in ascending order; a bin is a tie.

    scikit-learn's figure, which is too slow to be taken a thousand times over.
    """
    if not negative.any() or not positive.any():
        return float("nan")
    below = np.cumsum(negative) - negative / 2
    return float((positive * below).sum() / (positive.sum() * negative.sum()))


def area_under_precision(negative: np.ndarray, positive: np.ndarray) -> float:
    """Average precision of weights per score bin, bins in ascending order."""
    if not positive.any():
        return float("nan")
    true, false = np.cumsum(positive[::-1]), np.cumsum(negative[::-1])
    precision = true / np.maximum(true + false, 1e-12)
    return float((precision * positive[::-1]).sum() / positive.sum())


def sensitivity(negative: np.ndarray, positive: np.ndarray, specificity: float) -> float:
    """The highest sensitivity among thresholds of at least this specificity."""
    if not negative.any() or not positive.any():
        return float("nan")
    true, false = np.cumsum(positive[::-1]), np.cumsum(negative[::-1])
    allowed = false <= (1 - specificity + 1e-9) * negative.sum()
    return float(true[allowed].max() / positive.sum()) if allowed.any() else 0.0


def _ranked(curve: Callable, scores: np.ndarray, labels: np.ndarray, **options) -> Statistic:
    """A curve's figure over items, one bin per distinct score."""
    values, index = np.unique(scores, return_inverse=True)
    positive = labels == 1

    def statistic(counts: np.ndarray) -> float:
        sides = (
            np.bincount(index, counts * side, minlength=len(values))
            for side in (~positive, positive)
        )
        return curve(*sides, **options)

    return statistic


def auroc(scores: np.ndarray, labels: np.ndarray) -> Statistic:
    return _ranked(area_under_roc, scores, labels)


def average_precision(scores: np.ndarray, labels: np.ndarray) -> Statistic:
    return _ranked(area_under_precision, scores, labels)


def sensitivity_at(scores: np.ndarray, labels: np.ndarray, specificity: float) -> Statistic:
    return _ranked(sensitivity, scores, labels, specificity=specificity)


def f1(decided: np.ndarray, labels: np.ndarray) -> Statistic:
    """F1 of the class 1; 0 where it was neither decided nor true."""
    found, true = np.asarray(decided) == 1, np.asarray(labels) == 1
    hits, wrong = (found & true).astype(float), (found != true).astype(float)

    def statistic(counts: np.ndarray) -> float:
        twice = 2 * (counts @ hits)
        return float(twice / max(twice + counts @ wrong, 1e-12))

    return statistic


def macro_f1(decided: np.ndarray, truth: np.ndarray, classes: Sequence[str]) -> Statistic:
    """Mean of the classes' F1."""
    each = [f1(decided == name, truth == name) for name in classes]
    return lambda counts: float(np.mean([one(counts) for one in each]))


def to_prevalence(labels: np.ndarray, prevalence: float | None) -> np.ndarray:
    """Weights `(n,)` under which this share of the items is abnormal; they sum to n.

    Without a prevalence the items count as they are.
    """
    if prevalence is None:
        return np.ones(len(labels))
    share = labels.mean()
    return np.where(labels == 1, prevalence / share, (1 - prevalence) / (1 - share))


def brier(scores: np.ndarray, labels: np.ndarray, prevalence: float) -> Statistic:
    weight, squares = to_prevalence(labels, prevalence), (scores - labels) ** 2

    def statistic(counts: np.ndarray) -> float:
        return float(np.average(squares, weights=counts * weight))

    return statistic


def calibration_error(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, bins: int = ECE_BINS
) -> float:
    """Expected calibration error in bins of equal mass."""
    index, p, y, w = _equal_mass(scores, labels, weights, bins)
    gaps = np.bincount(index, w * (y - p), minlength=bins)
    return float(np.abs(gaps).sum())


def reliability(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, bins: int = ECE_BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mass, mean score and share of abnormal of the error's bins that hold anything."""
    index, p, y, w = _equal_mass(scores, labels, weights, bins)
    mass, score, share = (np.bincount(index, w * v, minlength=bins) for v in (1.0, p, y))
    held = mass > 0
    return mass[held], score[held] / mass[held], share[held] / mass[held]


def _equal_mass(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Bin, score, label and weight (which sum to 1) in the order of the scores."""
    order = np.argsort(scores, kind="stable")
    p, y, w = scores[order], labels[order], weights[order] / weights.sum()
    index = np.minimum((np.cumsum(w) - w / 2) * bins, bins - 1).astype(int)
    return index, p, y, w


def ece(scores: np.ndarray, labels: np.ndarray, prevalence: float | None) -> Statistic:
    weight = to_prevalence(labels, prevalence)

    def statistic(counts: np.ndarray) -> float:
        drawn = counts > 0
        return calibration_error(scores[drawn], labels[drawn], (counts * weight)[drawn])

    return statistic


def ece_null(
    scores: np.ndarray, labels: np.ndarray, prevalence: float | None, seed: int, draws: int = 200
) -> tuple[float, float]:
    """Mean and 95th percentile of the error of a perfectly calibrated model with these scores."""
    rng, weight = np.random.default_rng(seed), to_prevalence(labels, prevalence)
    errors = [
        calibration_error(scores, (rng.random(len(scores)) < scores).astype(float), weight)
        for _ in range(draws)
    ]
    return float(np.mean(errors)), float(np.quantile(errors, 0.95))


def dice(found: np.ndarray, mask: np.ndarray) -> float:
    """Overlap of two masks; NaN where both are empty."""
    total = int(found.sum()) + int(mask.sum())
    return 2 * int((found & mask).sum()) / total if total else float("nan")


def pointing(heatmap: np.ndarray, mask: np.ndarray) -> float:
    """1 when the highest pixel lies in the mask, without tolerance."""
    return float(mask.ravel()[int(np.nanargmax(heatmap))])


class PixelCounts:
    """Histograms of pixel scores per image, so that pooled curves can be resampled by image.

    The images are gone through twice, so that `maps` may read them from a disk one by one.
    The bins are quantiles of both classes: ranks inside a bin count as ties, which moves AUROC by
    less than 1 / (2 * EDGES).

    Args:
        maps: per image, scores of any shape; NaN is not looked at.
        masks: per image, bool of the same shape.
    """

    def __init__(self, maps: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> None:
        rng = np.random.default_rng(0)
        lesion = sum(int(m.sum()) for m in masks)
        totals = (sum(m.size for m in masks) - lesion, lesion)
        steps = [max(1, math.ceil(total / EDGE_SAMPLE)) for total in totals]
        samples: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for sides in self._sides(maps, masks):
            for sample, side, step in zip(samples, sides, steps, strict=True):
                sample.append(side[rng.integers(step) :: step])
        edges = []
        for sample in samples:
            pooled = np.concatenate(sample) if sample else np.zeros(0)
            if len(pooled):
                edges.append(np.quantile(pooled, np.linspace(0, 1, EDGES + 1)))
        self.cut = cut = np.unique(np.concatenate(edges)) if edges else np.zeros(1)
        rows = [
            [np.bincount(np.searchsorted(cut, v), minlength=len(cut) + 1) for v in sides]
            for sides in self._sides(maps, masks)
        ]
        self.negative, self.positive = (
            np.stack(side).astype(float) for side in zip(*rows, strict=True)
        )

    @staticmethod
    def _sides(
        maps: Sequence[np.ndarray], masks: Sequence[np.ndarray]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Scores outside and inside the mask, image by image."""
        for values, mask in zip(maps, masks, strict=True):
            seen = np.isfinite(values)
            yield values[seen & ~mask], values[seen & mask]

    def auroc(self, counts: np.ndarray) -> float:
        return area_under_roc(counts @ self.negative, counts @ self.positive)

    def average_precision(self, counts: np.ndarray) -> float:
        return area_under_precision(counts @ self.negative, counts @ self.positive)
