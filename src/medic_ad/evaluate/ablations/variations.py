"""Ablations: the model with one part changed. Each takes a loaded network and changes it in place.

None of them is an option of the product: modules are given another class, or are replaced, here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from medic_ad.model.compare import CompareOutput, Date, DiffProcessor
from medic_ad.model.detect import AnomalyProcessor
from medic_ad.model.explain import AnoCondition
from medic_ad.model.modeling import MedicADForConditionalGeneration
from medic_ad.model.taps import raster_order

LEAST = 1e-6  # a share of attention is kept this far from 0 and 1, so that its logit is finite


class CompetingTokens(AnomalyProcessor):
    """A softmax over the patches in place of the sigmoids: lesions compete for one unit."""

    def system_logits(
        self, taps: Sequence[torch.Tensor], scales: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Logits whose sigmoid is the softmax, so that everything after stays as it is."""
        logits = super().system_logits(taps, scales).float()
        share = logits.flatten(-2).softmax(-1).view_as(logits)
        return share.clamp(LEAST, 1 - LEAST).logit()


class Constant(nn.Module):
    """Learned vectors `(T, D)` that no image changes."""

    def __init__(self, tokens: int, dim: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.randn(tokens, dim) * 0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.value.expand(len(x), -1, -1)


class Unsubtracted(DiffProcessor):
    """`<Diff>` queries from the second date's features alone; the keys still hold both dates."""

    def tokens(self, baseline: Date, followup: Date) -> torch.Tensor:
        bare = Date(**{**baseline, "modulated": torch.zeros_like(baseline.modulated)})
        return super().tokens(bare, followup)


class OneWay(DiffProcessor):
    """The three classes from the pair in its given order; exchanging it may say anything."""

    def widen(self) -> None:
        """Add the head; a changed class does not run the constructor."""
        self.three = nn.Linear(self.head.in_features + 2, 3)
        # what the map shows counts from the start, as in the antisymmetric head
        with torch.no_grad():
            self.three.weight[:, -2:] = torch.tensor([[1.0, -1.0], [-0.5, -0.5], [-1.0, 1.0]])

    def forward(self, baseline: Date, followup: Date) -> CompareOutput:
        out = super().forward(baseline, followup)
        maps = torch.stack([self._pool(out.growth), self._pool(out.decline)], 1)
        tokens = self.tokens(baseline, followup).mean(1)
        logits = self.three(torch.cat([tokens, maps], 1))
        return CompareOutput(**{**out, "logits": logits})


class Unconditioned(AnoCondition):
    """The heatmap without `<Ano>`."""

    def forward(self, x: torch.Tensor, ano: torch.Tensor) -> torch.Tensor:
        return x


def nothing(network: MedicADForConditionalGeneration) -> None:
    """The model as it is."""


def softmax(network: MedicADForConditionalGeneration) -> None:
    network.detector.__class__ = CompetingTokens


def without_modulation(network: MedicADForConditionalGeneration) -> None:
    """The gain of the map on the features stays at zero."""
    gain = network.detector.gain
    with torch.no_grad():
        gain.zero_()
    gain.register_hook(torch.zeros_like)


def without_ano(network: MedicADForConditionalGeneration) -> None:
    """Language model and heatmap get the same vectors for every image."""
    config = network.config
    network.detector.qformer.project_out = Constant(
        config.pooled_size**2, config.text_config.hidden_size
    )


def scrambled(network: MedicADForConditionalGeneration) -> None:
    """Taps in the tower's own window order, reshaped to the grid as if that were its rows."""
    encode = network.encode

    def unsorted(pixel_values: torch.Tensor, image_grid_thw: torch.Tensor):
        vision = encode(pixel_values, image_grid_thw)
        for i, taps in enumerate(vision.taps):
            order = raster_order(image_grid_thw[i : i + 1], network.config.vision_config)
            back = torch.argsort(order).to(taps.device)
            vision.taps[i] = taps.flatten(-2)[..., back].view_as(taps)
        return vision

    network.encode = unsorted  # type: ignore[method-assign]  # of this one network


def without_subtraction(network: MedicADForConditionalGeneration) -> None:
    network.comparer.__class__ = Unsubtracted


def one_way(network: MedicADForConditionalGeneration) -> None:
    network.comparer.__class__ = OneWay
    network.comparer.widen()


def heatmap_without_ano(network: MedicADForConditionalGeneration) -> None:
    for module in network.explainer.modules():
        if isinstance(module, AnoCondition):
            module.__class__ = Unconditioned
