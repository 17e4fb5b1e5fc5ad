"""Step 4, model: per-image tensors of mixed shapes -> batches of one shape, and back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from transformers.utils import ModelOutput


def by_grid(function: Callable, *lists: Sequence[torch.Tensor]) -> list:
    """Apply a batched function to per-image tensors, one batch per shape, order kept.

    Returns one result per image: a tensor without batch axis, or a `ModelOutput` of such.
    """
    groups = defaultdict(list)
    for index, tensors in enumerate(zip(*lists, strict=True)):
        groups[tuple(t.shape for t in tensors)].append(index)
    results: list = [None] * len(lists[0])
    for indexes in groups.values():
        out = function(*(torch.stack([column[i] for i in indexes]) for column in lists))
        if isinstance(out, ModelOutput):
            rows = zip(*(value.unbind(0) for value in out.values()), strict=True)
            split = [type(out)(**dict(zip(out.keys(), row, strict=True))) for row in rows]
        else:
            split = out.unbind(0)
        for index, row in zip(indexes, split, strict=True):
            results[index] = row
    return results
