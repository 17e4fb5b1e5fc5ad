"""Step 4, model, stage 3 (explain): the heatmap, one logit per pixel, conditioned on `<Ano>`."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import interpolate, pixel_shuffle

from medic_ad.model.configuration import MedicADConfig
from medic_ad.model.pixel import ConvNeXtBlock, PixelBranch


class AnoCondition(nn.Module):
    """Scale and shift of a feature map from the `P x P` grid of `<Ano>` embeddings (FiLM).

    Where `<Ano>` says nothing is abnormal, the scale can close the features of that region.
    """

    def __init__(self, token_dim: int, pooled_size: int, channels: int) -> None:
        super().__init__()
        self.pooled_size = pooled_size
        self.norm = nn.LayerNorm(token_dim)
        self.film = nn.Linear(token_dim, 2 * channels)

    def forward(self, x: torch.Tensor, ano: torch.Tensor) -> torch.Tensor:
        """x `(B, C, H, W)`, ano `(B, P * P, D)` -> `(B, C, H, W)`."""
        film = self.film(self.norm(ano)).transpose(1, 2)  # (B, 2C, P*P)
        film = film.unflatten(2, (self.pooled_size, self.pooled_size))
        film = interpolate(film, size=x.shape[-2:], mode="bilinear", align_corners=False)
        scale, shift = film.chunk(2, 1)
        return x * (1 + scale.tanh()) + shift


class HeatmapDecoder(nn.Module):
    """Fusion of the taps, conditioned on `<Ano>`, then ConvNeXt blocks and upsampling."""

    def __init__(self, config: MedicADConfig) -> None:
        super().__init__()
        vision, channels = config.vision_config, config.heatmap_channels
        fine, coarse = config.pixel_channels
        tokens = (config.text_config.hidden_size, config.pooled_size)
        self.norms = nn.ModuleList(nn.GroupNorm(1, vision.hidden_size) for _ in config.taps)
        self.project = nn.ModuleList(
            nn.Conv2d(vision.hidden_size, channels, 1) for _ in config.taps
        )
        self.condition = AnoCondition(*tokens, channels)
        self.blocks = nn.Sequential(ConvNeXtBlock(channels), ConvNeXtBlock(channels))
        self.pixels = PixelBranch((fine, coarse))
        self.to_coarse = nn.Conv2d(channels, coarse, 1)
        self.condition_coarse = AnoCondition(*tokens, coarse)
        self.coarse_blocks = nn.Sequential(*(ConvNeXtBlock(coarse) for _ in range(3)))
        self.to_fine = nn.Conv2d(coarse, fine, 1)
        self.condition_fine = AnoCondition(*tokens, fine)
        self.fine_block = nn.Sequential(nn.Conv2d(fine, fine, 3, padding=1), nn.GELU())
        self.logit = nn.Conv2d(fine, 4, 3, padding=1)
        nn.init.constant_(self.logit.bias, -4.0)  # a lesion covers about 2 % of an image

    def forward(self, taps: torch.Tensor, ano: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Heatmap logits.

        Args:
            taps: `(B, L, Dv, h, w)` tapped features in raster order.
            ano: `(B, P * P, D)` the `<Ano>` embeddings.
            image: `(B, 1, H, W)` the pixels that the tower saw.

        Returns:
            `(B, H, W)` logits; their sigmoid is a probability with one global meaning.
        """
        x = sum(
            project(norm(taps[:, level]))
            for level, (norm, project) in enumerate(zip(self.norms, self.project, strict=True))
        )
        x = self.blocks(self.condition(x, ano))  # (B, C, h, w)
        fine, coarse = self.pixels(image)  # strides 2 and 4
        x = interpolate(self.to_coarse(x), size=coarse.shape[-2:], mode="bilinear")
        x = self.coarse_blocks(self.condition_coarse(x + coarse, ano))
        x = interpolate(self.to_fine(x), size=fine.shape[-2:], mode="bilinear")
        x = self.fine_block(self.condition_fine(x + fine, ano))
        return pixel_shuffle(self.logit(x), 2).squeeze(1)
