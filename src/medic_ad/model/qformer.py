"""Step 4, model: the Q-Former that both stages use (BLIP-2, arXiv 2301.12597)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import linear, scaled_dot_product_attention


def sincos_positions(h: int, w: int, dim: int, device, dtype) -> torch.Tensor:
    """Fixed 2-D sine-cosine positions in [0, 1] of an `(h, w)` grid.

    The vision tower's rotary positions are relative; a location word needs absolute ones.

    Returns:
        `(h * w, dim)`, raster order.
    """
    quarter = dim // 4
    freq = torch.pi * 2 ** torch.linspace(0, 5, quarter, device=device)
    y = (torch.arange(h, device=device) + 0.5) / h
    x = (torch.arange(w, device=device) + 0.5) / w
    ya, xa = y[:, None] * freq, x[:, None] * freq
    yy = torch.cat([ya.sin(), ya.cos()], -1)[:, None].expand(h, w, -1)
    xx = torch.cat([xa.sin(), xa.cos()], -1)[None].expand(h, w, -1)
    out = torch.cat([yy, xx], -1).reshape(h * w, 4 * quarter)
    return nn.functional.pad(out, (0, dim - 4 * quarter)).to(dtype)


class Attention(nn.MultiheadAttention):
    """torch's layer with the same parameters, without its copies for another order of the axes.

    Those count where queries are few (docs/decisions-speed.md).
    """

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """Queries from `x` `(B, q, dim)`, keys and values from `memory` `(B, n, dim)`."""
        weight, bias, dim = self.in_proj_weight, self.in_proj_bias, self.embed_dim
        query = linear(x, weight[:dim], bias[:dim])
        key, value = linear(memory, weight[dim:], bias[dim:]).chunk(2, -1)
        heads = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (query, key, value))
        return self.out_proj(scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


class QFormerLayer(nn.Module):
    """Pre-norm self-attention, cross-attention and feed-forward."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(dim)
        self.self_attention = Attention(dim, heads)
        self.norm_cross = nn.LayerNorm(dim)
        self.cross_attention = Attention(dim, heads)
        self.norm_mlp = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        y = self.norm_self(x)
        x = x + self.self_attention(y, y)
        x = x + self.cross_attention(self.norm_cross(x), memory)
        return x + self.mlp(self.norm_mlp(x))


class QFormer(nn.Module):
    """Queries that read the merged visual tokens.

    Args:
        dim: inner width.
        layers: number of layers.
        heads: attention heads.
        token_dim: width of the merged tokens and of the embeddings given back (language width).
    """

    def __init__(self, dim: int, layers: int, heads: int, token_dim: int) -> None:
        super().__init__()
        self.project_in = nn.Sequential(nn.LayerNorm(token_dim), nn.Linear(token_dim, dim))
        self.layers = nn.ModuleList(QFormerLayer(dim, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.project_out = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, token_dim))

    def memory(self, merged: torch.Tensor) -> torch.Tensor:
        """Keys and values from merged tokens `(B, D, h/2, w/2)` -> `(B, n, dim)`."""
        b, _, h, w = merged.shape
        tokens = self.project_in(merged.flatten(2).transpose(1, 2))
        return tokens + sincos_positions(h, w, tokens.shape[-1], tokens.device, tokens.dtype)

    def forward(self, queries: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """Queries `(B, q, dim)` over `memory` `(B, n, dim)` -> `(B, q, dim)`, normalised."""
        for layer in self.layers:
            queries = layer(queries, memory)
        return self.norm(queries)
