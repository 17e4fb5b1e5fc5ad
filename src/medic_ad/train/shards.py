"""Training: weights that are divided among several processes (FSDP2), and put together again."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from medic_ad.model.modeling import MedicADForConditionalGeneration

FSDP = {
    "version": 2,
    # what is gathered and let go together; the heads and embeddings are a unit of their own
    "transformer_layer_cls_to_wrap": ["Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock"],
    "state_dict_type": "FULL_STATE_DICT",  # checkpoints that any number of processes can resume
}


def make_divisible(module: nn.Module) -> None:
    """Turn scalar parameters into vectors of one value, which FSDP2 can divide."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if not parameter.ndim:
                vector = nn.Parameter(parameter.data.reshape(1), parameter.requires_grad)
                setattr(part, name, vector)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor on the CPU; of one that lies in parts on several processes, all of it.

    Every process has to ask for the same tensors in the same order.
    """
    found = tensor.detach()
    return (found.full_tensor() if isinstance(found, DTensor) else found).cpu()


def state_to_save(model: MedicADForConditionalGeneration, keep: bool) -> dict[str, torch.Tensor]:
    """Weights by name, whole, in the backbone's precision and in a checkpoint's shapes.

    Tied weights are one tensor; a calibration keeps its own precision.

    Args:
        model: on every process.
        keep: whether this process wants them; the others get nothing.
    """
    with torch.device("meta"):
        whole_model = MedicADForConditionalGeneration(model.config)
    shapes = {name: tensor.shape for name, tensor in whole_model.state_dict().items()}
    parameters = {n: id(p) for n, p in model.named_parameters(remove_duplicate=False)}
    once: dict[int | str, torch.Tensor] = {}
    state = {}
    for name, tensor in model.state_dict().items():
        key = parameters.get(name, name)
        if key not in once:
            found = whole(tensor)  # by every process, even where it is not kept
            dtype = found.dtype if name.startswith("calibration.") else model.dtype
            once[key] = found.to(dtype).reshape(shapes[name]) if keep else found.new_empty(0)
        state[name] = once[key]
    return state if keep else {}
