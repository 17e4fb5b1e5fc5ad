"""Step 4, model: numbers fitted on validation, stored with the weights; NaN until fitted."""

from __future__ import annotations

import torch
from torch import nn

from medic_ad.errors import ModelError

FITTED = ("slope", "offset", "threshold", "band_low", "band_high", "heatmap_threshold",
          "prevalence", "gate_limit")


class Calibration(nn.Module):
    """Buffers per scope entry; fitted by `medic_ad.calibrate`, refused while NaN.

    Buffers, each `(S,)` for S scope entries unless said otherwise:
        slope, offset: Platt scaling of the image logit, `sigmoid(slope * logit + offset)`.
        threshold: decision threshold on the calibrated score.
        band_low, band_high: scores between them are *uncertain* (conformal, stated coverage).
        heatmap_threshold: the one threshold on the heatmap.
        prevalence: share of abnormal images that the probability refers to.
        gate_limit: largest distance in feature space that is in scope.
        gate_mean: `(S, F)` and gate_precision: `(S, F, F)`, the Mahalanobis gate.
        change_temperature: `()` temperature of the change logits; no class bias.
    """

    def __init__(self, entries: int, features: int) -> None:
        super().__init__()
        for name in FITTED:
            self.register_buffer(name, torch.full((entries,), torch.nan))
        self.register_buffer("gate_mean", torch.full((entries, features), torch.nan))
        self.register_buffer("gate_precision", torch.full((entries, features, features), torch.nan))
        self.register_buffer("change_temperature", torch.tensor(torch.nan))

    def entry(self, features: torch.Tensor) -> tuple[int, float, float]:
        """The nearest scope entry of one image.

        Args:
            features: `(F,)` gate features.

        Returns:
            Index of the entry, distance to it, its limit.

        Raises:
            ModelError: when the weights were never calibrated.
        """
        if not len(self.gate_limit) or not bool(torch.isfinite(self.gate_limit).all()):
            raise ModelError(
                "expected calibrated weights, but this model's scope, thresholds and temperature "
                "were never fitted; run `medic-ad calibrate` on a validation split first"
            )
        offset = features.double() - self.gate_mean.double()  # (S, F)
        squared = torch.einsum("sf,sfg,sg->s", offset, self.gate_precision.double(), offset)
        distance = squared.clamp_min(0).sqrt()
        index = int((distance / self.gate_limit).argmin())
        return index, float(distance[index]), float(self.gate_limit[index])
