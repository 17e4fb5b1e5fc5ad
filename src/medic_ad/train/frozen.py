"""Training: what is frozen and the proof that it stayed so, on one process or on many."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import chain

import torch
from torch import nn

from medic_ad.model.adapters import IN_NAMES
from medic_ad.train.shards import whole

TRAINED = {  # stage -> what it trains
    "detect": ("detector.", "comparer.no_prior"),  # what `<|diff|>` says of a single scan
    "compare": ("comparer.",),
    "explain": ("explainer.",),
}
TOWER = ("model.visual.",)
LEARNED_BEFORE = {"compare": ("comparer.no_prior",)}  # in spite of the name


def freeze_for(model: nn.Module, stage: str, adapters: bool = False, tower: bool = False) -> None:
    """Train what a stage trains; also the language model's adapters, or the vision tower."""
    freeze(model, TRAINED[stage] + TOWER * tower, adapters)
    for name in LEARNED_BEFORE.get(stage, ()):
        model.get_parameter(name).requires_grad = False


def freeze(model: nn.Module, trained: tuple[str, ...], adapters: bool = False) -> None:
    """Train only the parameters whose names start with one of `trained`, in float32.

    A backbone in bfloat16 stays so; an optimiser step is smaller than bfloat16 can add.
    """
    for name, parameter in model.named_parameters():
        adapter = adapters and IN_NAMES in name
        parameter.requires_grad = adapter or name.startswith(trained)
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def hash_tensors(tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, str]:
    """Name -> sha256 of the bytes of every tensor, the same however it is divided."""
    return {
        name: hashlib.sha256(
            whole(t).contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        ).hexdigest()
        for name, t in tensors
    }


def frozen_buffers(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Buffers that are saved, as the calibration is, but for those of layers that are trained.

    The latter may follow the batches, as a batch norm's do.
    """
    saved = model.state_dict().keys()
    for place, module in model.named_modules():
        if not any(p.requires_grad for p in module.parameters(recurse=False)):
            named = module.named_buffers(prefix=place, recurse=False)
            yield from ((name, buffer) for name, buffer in named if name in saved)


def hash_frozen(model: nn.Module) -> dict[str, str]:
    """`hash_tensors` of the parameters that are not trained, and of `frozen_buffers`."""
    frozen = ((n, p) for n, p in model.named_parameters() if not p.requires_grad)
    return hash_tensors(chain(frozen, frozen_buffers(model)))


def digest(hashes: dict[str, str]) -> str:
    """One sha256 over names and hashes."""
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
