"""Training: losses and targets that several stages share."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medic_ad.errors import DataError

IGNORED = -100  # label that the language-model loss passes over


def mean(values: torch.Tensor) -> torch.Tensor:
    """Mean of a loss's terms, 0 where there are none.

    Even then it reaches every parameter before it: processes that train together wait for each
    other's gradient of each parameter, also where a batch says nothing of it.
    """
    return values.sum() / max(1, values.numel())


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


def hint_ids(hints: Sequence[str], tokenizer) -> torch.Tensor:
    """Ids `(B, T)` of hints of T words, one token each.

    Raises:
        DataError: the tokenizer cuts the words otherwise, so they cannot stand for stage tokens.
    """
    ids = tokenizer(list(hints), add_special_tokens=False)["input_ids"]
    for hint, row in zip(hints, ids, strict=True):
        if len(row) != len(hint.split()):
            raise DataError(
                f"expected one token a word of {hint!r}, got {len(row)} of {len(hint.split())}; "
                "leave --hint-weight at 0 with this tokenizer"
            )
    return torch.tensor(ids)


def hint_loss(
    embeds: torch.Tensor, ids: torch.Tensor, known: torch.Tensor, embedding: torch.nn.Embedding
) -> torch.Tensor:
    """How far stage tokens lie from the words that stood in their place in `base`.

    A frozen language model that learned to read those words can hardly be steered by its own loss
    alone; once the tokens lie near the words, it can.

    Args:
        embeds: `(B, T, D)` stage embeddings.
        ids: `(B, T)` of `hint_ids`.
        known: `(B,)` bool, whose facts are the truth.

    Returns: squared distance over the variance of the words' embeddings.
    """
    words = embedding(ids.to(embeds.device)).detach()
    spread = words.var().clamp(min=1e-9)
    return mean((embeds[known].float() - words[known]).pow(2)) / spread
