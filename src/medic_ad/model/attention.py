"""Step 4, model: the vision tower's attention without a Python loop over its windows.

transformers splits the packed sequence and calls SDPA once per window. Windows of equal length
are one batch: the arithmetic per window is the same, the number of calls is not.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VLVisionAttention,
    apply_rotary_pos_emb_vision,
)


class GroupedVisionAttention(Qwen2_5_VLVisionAttention):
    """`Qwen2_5_VLVisionAttention` with windows of equal length batched under SDPA.

    Other attention implementations, and packed batches whose windows differ in length, take the
    stock path.
    """

    def forward(
        self,
        hidden_states: torch.Tensor,
        cu_seqlens: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        max_seqlen: int | None = None,
        **kwargs,
    ) -> torch.Tensor:
        lengths = cu_seqlens.diff()
        equal = bool((lengths == lengths[0]).all())
        if self.config._attn_implementation != "sdpa" or not equal:
            return super().forward(
                hidden_states, cu_seqlens, position_embeddings, max_seqlen, **kwargs
            )
        total, windows = hidden_states.shape[0], len(lengths)
        qkv = self.qkv(hidden_states).reshape(total, 3, self.num_heads, -1)  # (N, 3, heads, d)
        query, key, value = qkv.unbind(1)
        cos, sin = position_embeddings
        query, key = apply_rotary_pos_emb_vision(query, key, cos, sin)
        query, key, value = (
            x.reshape(windows, -1, self.num_heads, self.head_dim).transpose(1, 2)
            for x in (query, key, value)
        )  # (windows, heads, length, d)
        out = scaled_dot_product_attention(query, key, value, scale=self.scaling)
        return self.proj(out.transpose(1, 2).reshape(total, -1))


def group_windows(tower: nn.Module) -> None:
    """Give every block of a Qwen2.5-VL vision tower the grouped attention; parameters stay."""
    for block in tower.blocks:
        block.attn.__class__ = GroupedVisionAttention
