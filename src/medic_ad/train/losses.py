"""Training: losses and targets that several stages share."""

from __future__ import annotations

import torch

IGNORED = -100  # label that the language-model loss passes over


def soft_dice(probability: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Dice loss over the whole batch, so that images without lesion count too.

    Args:
        probability, target: `(B, H, W)` in [0, 1].
    """
    overlap = 2 * (probability * target).sum()
    return 1 - (overlap + 1) / (probability.sum() + target.sum() + 1)


def answer_labels(input_ids: torch.Tensor, tokenizer) -> torch.Tensor:
    """Labels that hold the assistant's answer only, up to its end token: `(B, T)`."""
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    role = len(tokenizer("assistant\n", add_special_tokens=False)["input_ids"])
    labels = torch.full_like(input_ids, IGNORED)
    for row, ids in enumerate(input_ids):
        first = int((ids == start).nonzero()[-1]) + 1 + role
        last = int((ids == end).nonzero()[-1]) + 1
        labels[row, first:last] = ids[first:last]
    return labels
