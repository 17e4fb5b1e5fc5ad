"""Step 4: without transformers' bars over the shards of a checkpoint, which say nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils.logging import set_tqdm_hook


@contextmanager
def without_bars() -> Iterator[None]:
    """Loading and saving without bars; downloads keep theirs, which are huggingface_hub's."""
    before = set_tqdm_hook(lambda bar, args, kwargs: bar(*args, **{**kwargs, "disable": True}))
    try:
        yield
    finally:
        set_tqdm_hook(before)
