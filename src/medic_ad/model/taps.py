"""Step 4, model: tapped features of the vision tower, in raster order.

Qwen2.5-VL permutes patches into windows and 2x2 merge groups inside its vision tower and undoes
that for the merged output only. `raster` undoes it for features tapped inside.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index


def window_order(grid_thw: torch.Tensor, vision_config) -> torch.Tensor:
    """Permutation of merge groups that the vision tower applies to its packed input.

    Args:
        grid_thw: `(images, 3)` patch grids, t = 1.
        vision_config: the tower's configuration.

    Returns:
        `(N / merge**2,)` int64: position in window order -> merge group in packed order.
    """
    index, _ = get_vision_window_index(
        grid_thw,
        spatial_merge_size=vision_config.spatial_merge_size,
        window_size=vision_config.window_size,
        patch_size=vision_config.patch_size,
    )
    return index


def raster_order(grid_thw: torch.Tensor, vision_config) -> torch.Tensor:
    """Position of every patch of a packed batch: raster order -> the tower's window order.

    Args:
        grid_thw: `(images, 3)` patch grids `(1, h, w)`; sizes may differ.
        vision_config: the tower's configuration.

    Returns:
        `(N,)` int64; `hidden[order]` has the patches of each image row by row.
    """
    merge = vision_config.spatial_merge_size
    unit = merge**2
    places = torch.argsort(window_order(grid_thw, vision_config))  # merge group -> its place
    packed = (places[:, None] * unit + torch.arange(unit, device=places.device)).flatten()
    yx = get_vision_position_ids(grid_thw, merge)  # (N, 2) of the merge-group order
    starts = torch.cumsum(grid_thw.prod(1), 0) - grid_thw.prod(1)
    image = torch.repeat_interleave(torch.arange(len(grid_thw)), grid_thw.prod(1).cpu())
    width = grid_thw[:, 2].to(yx.device)[image]
    flat = starts.to(yx.device)[image] + yx[:, 0] * width + yx[:, 1]
    return packed[torch.argsort(flat)]


def raster(
    levels: Sequence[torch.Tensor], grid_thw: torch.Tensor, order: torch.Tensor
) -> list[torch.Tensor]:
    """Bring features tapped inside the tower back to raster order, one map per image.

    Args:
        levels: L tensors `(N, Dv)` in the tower's window order, images packed.
        grid_thw: `(images, 3)` patch grids `(1, h, w)`; sizes may differ.
        order: `raster_order(grid_thw, vision_config)`.

    Returns:
        One `(L, Dv, h, w)` tensor per image: `[..., y, x]` is the patch in row y, column x.
        Channels lie last in memory, as the tower leaves them.
    """
    # whole rows are copied fast along the first axis alone: sorted first, then stacked
    hidden = torch.stack([level.index_select(0, order) for level in levels])
    parts = hidden.split(grid_thw.prod(1).tolist(), dim=1)
    return [
        part.movedim(-1, -2).unflatten(-1, (h, w))
        for part, (_, h, w) in zip(parts, grid_thw.tolist(), strict=True)
    ]
