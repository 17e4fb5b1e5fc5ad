"""Step 4, model, stage 2 (compare): the Diff Q-Former, the change head and the change map.

Both heads are antisymmetric by construction: exchanging baseline and follow-up exchanges
*worse* and *better*, negates the map, and leaves *stable* as it is, to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, pixel_shuffle
from transformers.utils import ModelOutput

from medic_ad.model.configuration import MedicADConfig
from medic_ad.model.pixel import ConvNeXtBlock, PixelBranch
from medic_ad.model.qformer import QFormer


@dataclass
class Date(ModelOutput):
    """One date of B pairs, as stage 1 and the vision tower give it.

    Attributes:
        modulated: `(B, Dv, h, w)` modulated features F~.
        map_logits: `(B, h, w)` mean over taps of a - n.
        merged: `(B, D, h/2, w/2)` merged visual tokens.
        image: `(B, 1, H, W)` pixels on the grid common to both dates.
    """

    modulated: torch.Tensor = None
    map_logits: torch.Tensor = None
    merged: torch.Tensor = None
    image: torch.Tensor = None


@dataclass
class CompareOutput(ModelOutput):
    """What stage 2 says of B pairs.

    Attributes:
        logits: `(B, 3)` of worse, stable and better.
        growth: `(B, H, W)` logits of pixels where the follow-up shows more lesion.
        decline: `(B, H, W)` logits of pixels where the follow-up shows less.
        embeds: `(B, P * P, D)` the `<Diff>` embeddings.
    """

    logits: torch.Tensor = None
    growth: torch.Tensor = None
    decline: torch.Tensor = None
    embeds: torch.Tensor = None

    @property
    def map(self) -> torch.Tensor:
        """`(B, H, W)` signed change map in [-1, 1], > 0 where it got worse, < 0 where better.

        Its size is the probability of the likelier direction: lesions that may have changed stand
        above tissue that did not; where both are equal, to the last bit, it is 0.
        """
        growth, decline = self.growth.sigmoid(), self.decline.sigmoid()
        return torch.sign(growth - decline) * torch.maximum(growth, decline)


class ChangeMap(nn.Module):
    """One-sided change: how much more lesion the second date shows than the first."""

    def __init__(self, config: MedicADConfig) -> None:
        super().__init__()
        fine, coarse = config.pixel_channels[:2]
        self.project = nn.Conv2d(config.vision_config.hidden_size + 1, coarse, 1)
        self.pixels = PixelBranch((fine, coarse))
        self.mix = nn.Conv2d(2 * coarse, coarse, 1)
        self.blocks = nn.Sequential(ConvNeXtBlock(coarse), ConvNeXtBlock(coarse))
        self.to_fine = nn.Conv2d(coarse, fine, 1)
        self.mix_fine = nn.Sequential(nn.Conv2d(2 * fine, fine, 3, padding=1), nn.GELU())
        self.logit = nn.Conv2d(fine, 4, 3, padding=1)
        nn.init.constant_(self.logit.bias, -4.0)

    def features(self, date: Date) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of one date at strides 2 and 4; computed once, used in both directions."""
        fine, coarse = self.pixels(date.image)
        context = torch.cat([date.modulated, date.map_logits[:, None]], 1)
        context = interpolate(self.project(context), size=coarse.shape[-2:], mode="bilinear")
        return fine, coarse + context

    def forward(self, first: tuple, second: tuple) -> torch.Tensor:
        """Logits `(B, H, W)` that `second` shows more lesion than `first`."""
        (fine1, coarse1), (fine2, coarse2) = first, second
        x = self.blocks(self.mix(torch.cat([coarse2 - coarse1, coarse2], 1)))
        x = interpolate(self.to_fine(x), size=fine1.shape[-2:], mode="bilinear")
        x = x + self.mix_fine(torch.cat([fine2 - fine1, x], 1))
        return pixel_shuffle(self.logit(x), 2).squeeze(1)


class DiffProcessor(nn.Module):
    """Diff Q-Former over both dates, `<Diff>` embeddings, change head and change map."""

    def __init__(self, config: MedicADConfig) -> None:
        super().__init__()
        dim, tokens = config.qformer_hidden_size, config.text_config.hidden_size
        self.pooled_size = config.pooled_size
        self.query_embedding = nn.Parameter(torch.randn(config.pooled_size**2, dim) * 0.02)
        self.pooled_query = nn.Linear(config.vision_config.hidden_size, dim)
        self.time_embedding = nn.Parameter(torch.randn(2, dim) * 0.02)  # baseline, follow-up
        self.qformer = QFormer(dim, config.qformer_layers, config.qformer_heads, tokens)
        self.no_prior = nn.Parameter(torch.randn(config.pooled_size**2, tokens) * 0.02)
        self.head = nn.Linear(dim, 2)  # one-sided evidence of change, and of no change
        self.change_map = ChangeMap(config)
        self.map_weight = nn.Parameter(torch.tensor(1.0))
        self.map_stable = nn.Parameter(torch.tensor(0.5))

    def pooled(self, date: Date) -> torch.Tensor:
        pooled = adaptive_avg_pool2d(date.modulated, self.pooled_size)
        return self.pooled_query(pooled.flatten(2).transpose(1, 2))

    def tokens(self, baseline: Date, followup: Date) -> torch.Tensor:
        """Q-Former output `(B, P * P, dim)` for the pair in this order."""
        queries = self.query_embedding + self.pooled(followup) - self.pooled(baseline)
        memory = torch.cat(
            [
                self.qformer.memory(baseline.merged) + self.time_embedding[0],
                self.qformer.memory(followup.merged) + self.time_embedding[1],
            ],
            1,
        )
        return self.qformer(queries, memory)

    @staticmethod
    def _pool(logits: torch.Tensor) -> torch.Tensor:
        """Mean of the strongest 0.5 % of the pixels: `(B, H, W)` -> `(B,)`."""
        flat = logits.flatten(1)
        return flat.topk(max(1, flat.shape[1] // 200), dim=1).values.mean(1)

    def forward(self, baseline: Date, followup: Date) -> CompareOutput:
        """Compare B pairs of one patch grid; the dates lie on one common pixel grid."""
        first, second = self.change_map.features(baseline), self.change_map.features(followup)
        growth, decline = self.change_map(first, second), self.change_map(second, first)
        forward_tokens = self.tokens(baseline, followup)
        backward_tokens = self.tokens(followup, baseline)
        forward, backward = (
            self.head(tokens.mean(1)) for tokens in (forward_tokens, backward_tokens)
        )  # (B, 2) each
        up, down = self._pool(growth), self._pool(decline)
        # x - y is odd under exchange and x + y is even, exactly, in floating point
        odd = (forward[:, 0] - backward[:, 0]) + self.map_weight * (up - down)
        even = (forward[:, 1] + backward[:, 1]) - self.map_stable * (up + down)
        return CompareOutput(
            logits=torch.stack([odd, even, -odd], 1),
            growth=growth,
            decline=decline,
            embeds=self.qformer.project_out(forward_tokens),
        )
