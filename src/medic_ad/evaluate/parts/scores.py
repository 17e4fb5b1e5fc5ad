"""Evaluation: figures of image scores, for the card and for any table alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medic_ad.calibrate import ERROR_RATE
from medic_ad.evaluate.figures import metrics
from medic_ad.evaluate.figures.bootstrap import Figure, Resampling
from medic_ad.evaluate.predictions.table import Predictions

SPECIFICITY = 0.9


@dataclass(frozen=True)
class Scores:
    """One score per slice, its truth, and what the decision made of it.

    Attributes:
        scores: calibrated probabilities.
        labels: 1 abnormal, 0 normal.
        threshold, low, high: of the decision, per slice.
        prevalence: share of abnormal that the probability refers to.
    """

    scores: np.ndarray
    labels: np.ndarray
    threshold: np.ndarray
    low: np.ndarray
    high: np.ndarray
    prevalence: float


def scores_of(p: Predictions, labels: np.ndarray) -> Scores:
    """Scores of a model, with the thresholds of each image's scope entry."""
    return Scores(
        scores=p.score,
        labels=labels,
        threshold=p.fitted("threshold"),
        low=p.fitted("band_low"),
        high=p.fitted("band_high"),
        prevalence=float(p.fitted("prevalence").mean()),
    )


def overall(s: Scores, sampling: Resampling, of: str) -> list[Figure]:
    """AP, F1 at the stored threshold and sensitivity at a fixed specificity."""
    return [
        sampling.figure("AP", metrics.average_precision(s.scores, s.labels), of),
        sampling.figure(
            "F1 at the stored threshold", metrics.f1(s.scores >= s.threshold, s.labels), of
        ),
        sampling.figure(
            f"sensitivity at {SPECIFICITY:.0%} specificity",
            metrics.sensitivity_at(s.scores, s.labels, SPECIFICITY),
            of,
        ),
    ]


def constant(s: Scores, sampling: Resampling) -> list[Figure]:
    """What can be had without a look at any image."""
    return [
        sampling.figure(
            "AP", metrics.average_precision(np.zeros(len(s.labels)), s.labels), "image-free"
        ),
        sampling.figure(
            "F1", metrics.f1(np.ones(len(s.labels)), s.labels), "majority (all abnormal)"
        ),
    ]


def calibration_figures(
    s: Scores, sampling: Resampling, seed: int, of: str
) -> tuple[list[Figure], str, float]:
    """ECE, Brier and the uncertain band, weighted to the prevalence that the score refers to.

    Returns:
        The figures, a note, and the ECE that 95 % of perfectly calibrated models stay below.
    """
    weight = metrics.to_prevalence(s.labels, s.prevalence)
    uncertain = (s.scores >= s.low) & (s.scores < s.high)
    abnormal = s.labels == 1

    def share(values: np.ndarray):
        def statistic(counts: np.ndarray) -> float:
            return float(np.average(values, weights=counts * weight))

        return statistic

    null, ceiling = metrics.ece_null(s.scores, s.labels, s.prevalence, seed)
    figures = [
        sampling.figure(
            f"ECE, {metrics.ECE_BINS} bins of equal mass",
            metrics.ece(s.scores, s.labels, s.prevalence),
            of,
        ),
        sampling.figure("Brier score", metrics.brier(s.scores, s.labels, s.prevalence), of),
        sampling.figure("share read as uncertain", share(uncertain.astype(float)), of),
        sampling.mean(
            "abnormal read as normal",
            np.where(abnormal, s.scores < s.low, np.nan),
            of,
            aim=f"<= {ERROR_RATE:.2f}",
        ),
        sampling.mean(
            "normal read as abnormal",
            np.where(abnormal, np.nan, s.scores >= s.high),
            of,
            aim=f"<= {ERROR_RATE:.2f}",
        ),
    ]
    note = (
        f"ECE, Brier and the uncertain band are weighted to the prevalence {s.prevalence:.2f} that "
        f"the probability refers to; a perfectly calibrated model with these scores has an ECE of "
        f"{null:.3f} on average and {ceiling:.3f} at its 95th percentile. The band was fitted so "
        f"that at most {ERROR_RATE:.0%} of either class are decided wrongly."
    )
    return figures, note, ceiling
