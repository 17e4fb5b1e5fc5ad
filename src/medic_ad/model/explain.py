"""Step 4, model, stage 3 (explain): the heatmap, one logit per pixel, conditioned on `<Ano>`."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import interpolate, pixel_shuffle

from medic_ad.model.configuration import MedicADConfig
from medic_ad.model.pixel import ConvNeXtBlock, PixelBranch, ResidualBlock


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


class Join(nn.Module):
    """One step of the upsampling: what came from below joins the pixels, as `<Ano>` allows."""

    def __init__(self, below: int, channels: int, token_dim: int, pooled_size: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(below, channels, 1)
        self.condition = AnoCondition(token_dim, pooled_size, channels)
        self.block = ResidualBlock(channels)

    def forward(self, x: torch.Tensor, pixels: torch.Tensor, ano: torch.Tensor) -> torch.Tensor:
        """x `(B, C', h, w)`, pixels `(B, C, H, W)` -> `(B, C, H, W)`."""
        x = interpolate(self.project(x), size=pixels.shape[-2:], mode="bilinear")
        return self.block(self.condition(x + pixels, ano))


class HeatmapDecoder(nn.Module):
    """Fusion of the taps, conditioned on `<Ano>`, then ConvNeXt blocks and upsampling."""

    def __init__(self, config: MedicADConfig) -> None:
        super().__init__()
        vision, channels, widths = (
            config.vision_config,
            config.heatmap_channels,
            tuple(config.pixel_channels),
        )
        tokens = (config.text_config.hidden_size, config.pooled_size)
        self.norms = nn.ModuleList(nn.GroupNorm(1, vision.hidden_size) for _ in config.taps)
        self.project = nn.ModuleList(
            nn.Conv2d(vision.hidden_size, channels, 1) for _ in config.taps
        )
        self.condition = AnoCondition(*tokens, channels)
        self.blocks = nn.Sequential(ConvNeXtBlock(channels), ConvNeXtBlock(channels))
        self.pixels = PixelBranch(widths)
        self.joins = nn.ModuleList(
            Join(below, width, *tokens)
            for below, width in zip((*widths[1:], channels), widths, strict=True)
        )
        self.logit = nn.Conv2d(widths[0], 4, 3, padding=1)
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
        # GroupNorm's gradient crashes where channels lie last and its input is frozen (torch 2.13)
        taps = taps.contiguous()
        x = sum(
            project(norm(taps[:, level]))
            for level, (norm, project) in enumerate(zip(self.norms, self.project, strict=True))
        )
        x = self.blocks(self.condition(x, ano))  # (B, C, h, w)
        levels = self.pixels(image)  # strides 2, 4, 8 ...
        for join, level in zip(reversed(self.joins), reversed(levels), strict=True):
            x = join(x, level, ano)
        return pixel_shuffle(self.logit(x), 2).squeeze(1)
