"""Step 4, model: numbers fitted on validation, stored with the weights; NaN until fitted."""

from __future__ import annotations

import torch
from torch import nn

from medic_ad.errors import ModelError

FITTED = (
    "slope",
    "heatmap_slope",
    "offset",
    "threshold",
    "band_low",
    "band_high",
    "heatmap_threshold",
    "prevalence",
    "gate_limit",
)


EVIDENCE_SHARE = 0.001  # of the canvas; the smallest lesion the heatmap's evidence is made for


def heatmap_evidence(heatmap_logits: torch.Tensor) -> torch.Tensor:
    """Mean of the strongest 0.1 % of the heatmap's logits: `(B, H, W)` -> `(B,)`."""
    flat = heatmap_logits.flatten(1)
    return flat.topk(max(1, round(EVIDENCE_SHARE * flat.shape[1])), dim=1).values.mean(1)


class Calibration(nn.Module):
    """Buffers per scope entry; fitted by `medic_ad.calibrate`, refused while NaN.

    Buffers, each `(S,)` for S scope entries unless said otherwise:
        slope, heatmap_slope, offset: Platt scaling of stage 1's logit and stage 3's evidence,
            `sigmoid(slope * logit + heatmap_slope * evidence + offset)`.
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

    def logit(self, entry: int, logits: torch.Tensor, evidence: torch.Tensor) -> torch.Tensor:
        """Calibrated logits `(B,)`; their sigmoid is the score.

        Args:
            entry: index of the scope entry.
            logits: `(B,)` image logits of stage 1.
            evidence: `(B,)` of `heatmap_evidence`.
        """
        return (
            self.slope[entry] * logits + self.heatmap_slope[entry] * evidence + self.offset[entry]
        )

    def entry(self, features: torch.Tensor) -> tuple[int, float, float]:
        """The nearest scope entry of one scan, in units of each entry's own limit.

        Args:
            features: `(n, F)` gate features of its n slices; the slice in the middle decides.

        Returns:
            Index of the entry, distance to it, its limit.

        Raises:
            ModelError: when the weights were never calibrated.
        """
        self.refuse_unfitted(*FITTED, "gate_mean", "gate_precision")
        offset = features.double()[:, None] - self.gate_mean.double()  # (n, S, F)
        squared = torch.einsum("nsf,sfg,nsg->ns", offset, self.gate_precision.double(), offset)
        distance = squared.clamp_min(0).sqrt().median(0).values
        index = int((distance / self.gate_limit).argmin())
        return index, float(distance[index]), float(self.gate_limit[index])

    def temperature(self) -> float:
        """The temperature of the change logits.

        Raises:
            ModelError: when it was never fitted.
        """
        self.refuse_unfitted("change_temperature")
        return float(self.change_temperature)

    def refuse_unfitted(self, *names: str) -> None:
        """Raise when one of these buffers is empty or still NaN."""
        for name in names:
            values = getattr(self, name)
            if not values.numel() or not bool(torch.isfinite(values).all()):
                raise ModelError(
                    f"expected calibrated weights, but this model's {name} was never fitted; run "
                    "`medic-ad calibrate` on a validation split first"
                )
