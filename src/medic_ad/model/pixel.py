"""Step 4, model: the branch from the pixels that stages 2 and 3 join at the upsampling.

A backbone trained from scratch on patches of 12 px has no feature finer than a patch, and learns
slowly; a few convolutions at strides 2, 4 and so on carry the edges.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def arrange(module: nn.Module, memory_format: torch.memory_format) -> None:
    """Lay out the weights of all 2-D convolutions; channels last is three times faster on a CPU."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.to(memory_format=memory_format)


def unpatchify(patches: torch.Tensor, grid: tuple[int, int], vision_config) -> torch.Tensor:
    """Put packed patches of one image back together.

    Args:
        patches: `(h * w, C * T * p * p)` in Qwen2.5-VL's merge-group order.
        grid: `(h, w)` patch grid.
        vision_config: the tower's configuration.

    Returns:
        `(1, h * p, w * p)` float, the mean of the channels of the first frame.
    """
    (h, w), m, p = grid, vision_config.spatial_merge_size, vision_config.patch_size
    frames = patches.reshape(
        h // m, w // m, m, m, vision_config.in_channels, vision_config.temporal_patch_size, p, p
    )
    grey = frames[:, :, :, :, :, 0].mean(4)  # (h/m, w/m, m, m, p, p)
    return grey.permute(0, 2, 4, 1, 3, 5).reshape(1, h * p, w * p)


class ConvNeXtBlock(nn.Module):
    """ConvNeXt block (arXiv 2201.03545): depthwise 7x7, norm, two pointwise layers, residual."""

    def __init__(self, channels: int, expansion: int = 2) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.GroupNorm(1, channels)
        self.expand = nn.Conv2d(channels, expansion * channels, 1)
        self.project = nn.Conv2d(expansion * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.depthwise(x))
        return x + self.project(nn.functional.gelu(self.expand(y)))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with norms beside the identity, which it starts as (arXiv 1512.03385).

    What comes from the taps is worth more at the start than random convolutions are.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.first_norm = nn.GroupNorm(4, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.second_norm = nn.GroupNorm(4, channels)
        nn.init.zeros_(self.second_norm.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.gelu(self.first_norm(self.first(x)))
        return x + self.second_norm(self.second(y))


class PixelBranch(nn.Module):
    """Image `(B, 1, H, W)` -> features at strides 2, 4, 8 ..., one level per width."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, stride=2, padding=1),
                nn.GroupNorm(4, after),
                nn.GELU(),
                ResidualBlock(after),
            )
            for before, after in zip((1, *channels), channels, strict=False)
        )

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        x = image.contiguous(memory_format=torch.channels_last)
        return [x := level(x) for level in self.levels]
