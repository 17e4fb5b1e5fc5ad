"""Step 4, model: low-rank adapters in the language model (LoRA, arXiv 2106.09685), if asked for."""

from __future__ import annotations

from torch import nn

from medic_ad.errors import ModelError

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IN_NAMES = ".lora_"  # of every parameter of an adapter


def add_adapters(language_model: nn.Module, rank: int) -> None:
    """Put an adapter beside every linear layer of the decoder; at first it changes nothing.

    The layers keep their weights, under the name `base_layer`.

    Raises:
        ModelError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise ModelError(
            "expected the package peft for a language model with adapters, which is not installed; "
            "run pip install '.[train]' in a checkout of this project"
        ) from error
    settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LINEAR)
    inject_adapter_in_model(settings, language_model)
