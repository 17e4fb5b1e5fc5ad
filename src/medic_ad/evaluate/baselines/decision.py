"""Evaluation: one logit -> a probability and a decision, fitted on validation alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medic_ad.calibrate import best_threshold, platt


@dataclass(frozen=True)
class Decision:
    """Platt scaling of a logit, and the threshold of highest F1 on what it was fitted to."""

    slope: float
    offset: float
    threshold: float

    @classmethod
    def fit(cls, logits: np.ndarray, labels: np.ndarray) -> Decision:
        """From `(n,)` logits and labels 1 / 0 of validation images."""
        alone = np.column_stack([logits, np.zeros(len(logits))])  # no heatmap stands beside it
        slope, _, offset = platt(alone, labels)
        scores = cls(slope, offset, 0.5).scores(logits)
        return cls(slope, offset, best_threshold(scores, labels))

    def scores(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities `(n,)`, at the prevalence of `medic_ad.calibrate`."""
        return 1 / (1 + np.exp(-(self.slope * np.asarray(logits, float) + self.offset)))
