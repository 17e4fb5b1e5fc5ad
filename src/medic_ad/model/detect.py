"""Step 4, model, stage 1 (detect): the anomaly processor and the `<Ano>` embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import nn
from torch.linalg import vector_norm
from torch.nn.functional import adaptive_avg_pool2d, linear
from transformers.utils import ModelOutput

from medic_ad.model.configuration import MedicADConfig
from medic_ad.model.qformer import QFormer

TOP_FRACTION = 0.02  # share of the patches that the multiple-instance score is pooled from


@dataclass
class DetectOutput(ModelOutput):
    """What stage 1 says of B images of one patch grid `(h, w)`.

    Attributes:
        logit: `(B,)` uncalibrated image logit, > 0 leans abnormal.
        abnormal: `(B, L, h, w)` logits a_l of the *abnormal* system token.
        normal: `(B, L, h, w)` logits n_l of the *normal* system token.
        map: `(B, h, w)` anomaly attention map M in [-1, 1].
        modulated: `(B, Dv, h, w)` mean over taps of F * (1 + g * M).
        embeds: `(B, P * P, D)` the `<Ano>` embeddings.
    """

    logit: torch.Tensor = None
    abnormal: torch.Tensor = None
    normal: torch.Tensor = None
    map: torch.Tensor = None
    modulated: torch.Tensor = None
    embeds: torch.Tensor = None

    @property
    def map_logits(self) -> torch.Tensor:
        """`(B, h, w)` mean over taps of a - n."""
        return (self.abnormal - self.normal).mean(-3)


class AnomalyProcessor(nn.Module):
    """Two system tokens attend to the patches of each tap; sigmoids, not a softmax.

    Several lesions may all be high, so abnormal and normal do not compete over the patches
    (Medic-AD, arXiv 2603.27176, stage 1).
    """

    def __init__(self, config: MedicADConfig) -> None:
        super().__init__()
        vision, taps = config.vision_config, len(config.taps)
        width, dim = vision.hidden_size, config.qformer_hidden_size
        self.norms = nn.ModuleList(nn.RMSNorm(width, eps=1e-6) for _ in range(taps))
        self.system_tokens = nn.Parameter(torch.randn(2, width) * width**-0.5)
        self.query = nn.ModuleList(
            nn.Linear(width, config.system_dim, bias=False) for _ in range(taps)
        )
        self.key = nn.ModuleList(
            nn.Linear(width, config.system_dim, bias=False) for _ in range(taps)
        )
        # lesions are rare: start from a prior of 12 % abnormal so that nothing saturates
        self.bias = nn.Parameter(torch.tensor([[-2.0, 2.0]]).repeat(taps, 1))
        self.gain = nn.Parameter(torch.tensor(0.5))
        self.pooled_size = config.pooled_size
        self.query_embedding = nn.Parameter(torch.randn(config.pooled_size**2, dim) * 0.02)
        self.pooled_query = nn.Linear(width, dim)
        self.map_query = nn.Linear(1, dim, bias=False)
        self.qformer = QFormer(
            dim, config.qformer_layers, config.qformer_heads, config.text_config.hidden_size
        )
        self.score = nn.Linear(dim, 1)
        self.score_top = nn.Parameter(torch.tensor(1.0))

    def scales(self, taps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Of L taps `(B, h, w, Dv)` what RMSNorm divides each patch by, inverted: `(B, h, w, 1)`.

        The norm itself is never written out: a factor a patch and a weight a channel go into the
        products that read the tap.
        """
        lengths = (vector_norm(tap, dim=-1, keepdim=True, dtype=torch.float32) for tap in taps)
        return [
            (length.square() / tap.shape[-1] + norm.eps).rsqrt().to(tap.dtype)
            for norm, tap, length in zip(self.norms, taps, lengths, strict=True)
        ]

    def system_logits(
        self, taps: Sequence[torch.Tensor], scales: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Logits of both system tokens: L taps `(B, h, w, Dv)`, `scales` -> `(B, L, 2, h, w)`.

        The query is folded into the key projection: one vector per token and tap.
        """
        out = []
        for level, (tap, scale) in enumerate(zip(taps, scales, strict=True)):
            query, key = self.query[level], self.key[level]
            folded = query(self.system_tokens) @ key.weight * query.out_features**-0.5  # (2, Dv)
            out.append(linear(tap, folded * self.norms[level].weight) * scale + self.bias[level])
        return torch.stack(out, 1).movedim(-1, 2)

    def forward(self, taps: torch.Tensor, merged: torch.Tensor) -> DetectOutput:
        """Taps `(B, L, Dv, h, w)` in raster order and merged tokens `(B, D, h/2, w/2)`.

        Level by level with channels last, as the taps lie in memory: this is where the time goes.
        """
        levels = taps.movedim(2, -1).unbind(1)  # (B, h, w, Dv) each
        scales = self.scales(levels)
        abnormal, normal = self.system_logits(levels, scales).unbind(2)  # (B, L, h, w) each
        maps = abnormal.sigmoid() - normal.sigmoid()
        gains = ((1 + self.gain * maps) / len(levels)).unbind(1)
        parts = (
            level * (scale * gain[..., None]) * norm.weight
            for level, scale, gain, norm in zip(levels, scales, gains, self.norms, strict=True)
        )
        modulated = reduce(torch.add, parts).movedim(-1, 1)  # (B, Dv, h, w)
        attention = maps.mean(1)

        pooled = adaptive_avg_pool2d(modulated, self.pooled_size).flatten(2).transpose(1, 2)
        pooled_map = adaptive_avg_pool2d(attention[:, None], self.pooled_size).flatten(1)
        queries = (
            self.query_embedding + self.pooled_query(pooled) + self.map_query(pooled_map[..., None])
        )
        tokens = self.qformer(queries, self.qformer.memory(merged))  # (B, P*P, dim)

        difference = (abnormal - normal).mean(1).flatten(1)
        k = max(1, round(TOP_FRACTION * difference.shape[1]))
        top = difference.topk(k, dim=1).values.mean(1)
        logit = self.score(tokens.mean(1)).squeeze(1) + self.score_top * top
        return DetectOutput(
            logit=logit,
            abnormal=abnormal,
            normal=normal,
            map=attention,
            modulated=modulated,
            embeds=self.qformer.project_out(tokens),
        )
