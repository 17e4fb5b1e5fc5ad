"""Evaluation: without stage tokens the model must be the stock class, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import init_empty_weights
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from medic_ad.data.sample import Sample
from medic_ad.evaluate.predictions.bars import bar
from medic_ad.evaluate.predictions.store import Arrays
from medic_ad.evaluate.predictions.table import file_of, slice_of
from medic_ad.load import Model
from medic_ad.model.adapters import IN_NAMES
from medic_ad.model.modeling import HEADS, MedicADForConditionalGeneration
from medic_ad.processor import fit_square


def stock_of(network: MedicADForConditionalGeneration) -> Qwen2_5_VLForConditionalGeneration:
    """The stock class with the very tensors of this network's backbone: no second copy of them.

    Adapters in the language model are none of the backbone's.
    """
    values = {k: v for k, v in network.config.to_dict().items() if k != "model_type"}
    with init_empty_weights(include_buffers=False):
        stock = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**values)).eval()
    backbone = {
        name.replace(".base_layer", ""): tensor
        for name, tensor in network.state_dict().items()
        if name.split(".")[0] not in HEADS and IN_NAMES not in name
    }
    stock.load_state_dict(backbone, assign=True)
    stock.set_attn_implementation(network.config._attn_implementation)
    return stock.to(network.device)


@torch.inference_mode()
def against_stock(model: Model, samples: Sequence[Sample]) -> Arrays:
    """Largest difference of the logits of the two classes, over one prompt a sample.

    Returns:
        `difference`: `(n,)` of questions without stage tokens; `moved`: `(n,)` of the same with
        stage tokens, at the last place of the prompt, against the stock class without.
    """
    network, stock, processor = model.network, stock_of(model.network), model.processor
    rows = []
    for s in bar(samples, "logits beside the stock class"):
        canvas, _ = fit_square(slice_of(s), file_of(s)[1], model.config.image_size)
        images = processor.images(canvas[None].to(model.device), model.config)
        merge = model.config.vision_config.spatial_merge_size
        merged = int(images["image_grid_thw"].prod()) // merge**2

        def logits(of, stages: bool, images=images, merged=merged, question=str(s.question)):
            prompt = processor.prompt(question, stages=stages)
            text = processor.text([prompt], model.config, merged).to(model.device)
            pairs = {"diff_pairs": torch.tensor([[-1, 0]])} if stages else {}
            return of(**text, **images, **pairs).logits[0].float()

        expected = logits(stock, False)
        bare, staged = logits(network, False), logits(network, True)
        difference = float((bare - expected).abs().max())
        rows.append((difference, float((staged[-1] - expected[-1]).abs().max())))
    columns = zip(*rows, strict=True)
    return {k: np.array(v) for k, v in zip(("difference", "moved"), columns, strict=True)}
