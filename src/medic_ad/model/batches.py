"""Step 4, model: per-image tensors of mixed shapes -> batches of one shape, and back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.utils import ModelOutput


def by_grid(function: Callable, *lists: Sequence[torch.Tensor]) -> list:
    """Apply a batched function to per-image tensors, one batch per shape, order kept.

    An entry may be a tuple of tensors. Returns one result per image: a tensor without batch axis,
    or a `ModelOutput` of such.
    """
    groups = defaultdict(list)
    for index, entries in enumerate(zip(*lists, strict=True)):
        shapes = tuple(
            tuple(t.shape for t in (entry if isinstance(entry, tuple) else (entry,)))
            for entry in entries
        )
        groups[shapes].append(index)
    results: list = [None] * len(lists[0])
    for indexes in groups.values():
        out = function(*(batched([column[i] for i in indexes]) for column in lists))
        if isinstance(out, ModelOutput):
            rows = zip(*(unbatched(value) for value in out.values()), strict=True)
            split = [type(out)(**dict(zip(out.keys(), row, strict=True))) for row in rows]
        else:
            split = unbatched(out)
        for index, row in zip(indexes, split, strict=True):
            results[index] = row
    return results


def batched(entries: Sequence) -> Any:
    """Tensors, or tuples of tensors, of n images -> the same with a batch axis."""
    if isinstance(entries[0], tuple):
        return tuple(torch.stack(column) for column in zip(*entries, strict=True))
    return torch.stack(list(entries))


def unbatched(value: Any) -> list:
    """The inverse of `batched`."""
    if isinstance(value, tuple):
        return list(zip(*(tensor.unbind(0) for tensor in value), strict=True))
    return list(value.unbind(0))
