"""Step 4, model: the vision tower's attention without a Python loop over its windows.

transformers splits the packed sequence and calls SDPA once per window. Windows of equal length
are one batch: the arithmetic per window is the same, the number of calls is not.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.weak import WeakTensorKeyDictionary
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VLVisionAttention,
    apply_rotary_pos_emb_vision,
)


class Plan(NamedTuple):
    """How a packed sequence is put together by the length of its windows.

    Attributes:
        groups: (windows, length) of each length.
        order: `(N,)` positions in the sequence, group after group; None where that is 0 to N - 1.
        back: `(N,)`, of every position its place in `order`; None with it.
    """

    groups: list[tuple[int, int]]
    order: torch.Tensor | None
    back: torch.Tensor | None


# By the tensor of bounds, which all blocks of a pass are given: a GPU is waited for once.
_plans = WeakTensorKeyDictionary()


def plan_of(cu_seqlens: torch.Tensor) -> Plan:
    """The plan for windows with these bounds, `(windows + 1,)` from 0 to N."""
    if cu_seqlens not in _plans:
        bounds = cu_seqlens.tolist()
        of_length: dict[int, list[torch.Tensor]] = {}
        for start, end in zip(bounds, bounds[1:], strict=False):
            of_length.setdefault(end - start, []).append(torch.arange(start, end))
        groups = [(len(windows), length) for length, windows in of_length.items()]
        order = back = None
        if len(groups) > 1:
            order = torch.cat([window for windows in of_length.values() for window in windows])
            order, back = (x.to(cu_seqlens.device) for x in (order, order.argsort()))
        _plans[cu_seqlens] = Plan(groups, order, back)
    return _plans[cu_seqlens]


class GroupedVisionAttention(Qwen2_5_VLVisionAttention):
    """`Qwen2_5_VLVisionAttention` with windows of equal length batched under SDPA.

    Other attention implementations take the stock path.
    """

    def forward(
        self,
        hidden_states: torch.Tensor,
        cu_seqlens: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        max_seqlen: int | None = None,
        **kwargs,
    ) -> torch.Tensor:
        if self.config._attn_implementation != "sdpa":
            return super().forward(
                hidden_states, cu_seqlens, position_embeddings, max_seqlen, **kwargs
            )
        total, plan = hidden_states.shape[0], plan_of(cu_seqlens)
        qkv = self.qkv(hidden_states).reshape(total, 3, self.num_heads, -1)  # (N, 3, heads, d)
        query, key, value = qkv.unbind(1)
        cos, sin = position_embeddings
        query, key = apply_rotary_pos_emb_vision(query, key, cos, sin)
        if plan.order is not None:
            query, key, value = (x[plan.order] for x in (query, key, value))
        sizes = [windows * length for windows, length in plan.groups]
        parts = zip(plan.groups, *(x.split(sizes) for x in (query, key, value)), strict=True)
        outs = []
        for (windows, length), *packed in parts:
            q, k, v = (
                x.reshape(windows, length, self.num_heads, self.head_dim).transpose(1, 2)
                for x in packed
            )  # (windows, heads, length, d)
            out = scaled_dot_product_attention(q, k, v, scale=self.scaling)
            outs.append(out.transpose(1, 2).reshape(windows * length, -1))
        out = torch.cat(outs) if plan.back is None else torch.cat(outs)[plan.back]
        return self.proj(out)


def group_windows(tower: nn.Module) -> None:
    """Give every block of a Qwen2.5-VL vision tower the grouped attention; parameters stay."""
    for block in tower.blocks:
        block.attn.__class__ = GroupedVisionAttention
