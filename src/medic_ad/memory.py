"""`medic-ad info --memory`: what each stage of training takes, from tensors without storage."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AutoConfig

from medic_ad.load import check_config
from medic_ad.model.compare import Date
from medic_ad.model.configuration import MedicADConfig
from medic_ad.model.modeling import MedicADForConditionalGeneration
from medic_ad.model.presets import PRESETS, preset_config
from medic_ad.models import find_checkpoint, one_sentence
from medic_ad.train.frozen import TRAINED, freeze_for

WORDS = 64  # tokens of chat, question and answer beside the image's and the stages'
ASSUMPTIONS = (
    "Weights: frozen ones in the checkpoint's precision, trained ones in float32, and a bfloat16 "
    "copy of these where it trains in bfloat16.",
    "Gradients: 4 bytes for each trained parameter. Optimiser: AdamW, 8 bytes.",
    "Activations: what autograd keeps of the heads and the language model until the backward pass, "
    f"with {WORDS} tokens of text a scan and an attention that keeps no matrix of scores. With "
    "--checkpointing each layer of the language model keeps its input, and one layer is whole.",
    "Not counted: the frozen vision pass, which keeps nothing; work space of kernels; the "
    "gradients of activations, of which the logits' are the largest; fragmentation.",
    "Per process. Copied weights (DDP) take this on every GPU; divided ones (--fsdp) divide the "
    "first three columns.",
)


@dataclass(frozen=True)
class StageMemory:
    """What one stage of training takes; parameters as counts, the rest in bytes."""

    stage: str
    trained: int
    frozen: int
    weights: int
    gradients: int
    optimiser: int
    activations: int
    checkpointed: int  # activations with --checkpointing

    @property
    def total(self) -> int:
        """All bytes, without --checkpointing."""
        return self.weights + self.gradients + self.optimiser + self.activations


class _Attention(torch.autograd.Function):
    """An attention that keeps what fused kernels keep: its inputs, its output, the rows' sums."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor):
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1]).float())
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor):
        # autograd asks for one; what the forward pass keeps is all that is counted here
        raise NotImplementedError("counts only")


def _attention(module: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any):
    return _Attention.apply(query, key, value).transpose(1, 2), None


AttentionInterface.register("counted", _attention)


class Kept:
    """Bytes that autograd keeps for the backward pass; a storage counts once, weights never."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.seen = {p.untyped_storage()._cdata for p in model.parameters()}
        self.alive: list[torch.Tensor] = []  # an address is taken again once its tensor is gone
        self.bytes = 0

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.seen:
            self.seen.add(storage._cdata)
            self.alive.append(tensor)
            self.bytes += storage.nbytes()
        return tensor

    @contextmanager
    def counting(self) -> Iterator[Kept]:
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield self


def find_config(name: str) -> MedicADConfig:
    """The configuration of a size of `PRESETS`, of a model's name, of a folder or on the Hub.

    Raises:
        ModelError: there is no such model, or it is of another architecture.
    """
    if name in PRESETS:
        return preset_config(name)
    path = find_checkpoint(name)
    with one_sentence(path):
        if check_config(path) == MedicADConfig.model_type:
            return MedicADConfig.from_pretrained(path)
        return MedicADConfig.from_base(AutoConfig.from_pretrained(path))


def activations(model: MedicADForConditionalGeneration, stage: str, batch: int) -> tuple[int, int]:
    """Bytes that one batch keeps in a stage, without and with --checkpointing.

    Args:
        model: on the device meta, frozen for the stage.
        stage: of `TRAINED`.
        batch: scans, or pairs in `compare`.
    """
    config, vision = model.config, model.config.vision_config
    side = config.image_size // vision.patch_size
    merged_side = side // vision.spatial_merge_size
    dtype, width = model.dtype, config.text_config.hidden_size

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(batch, *shape, dtype=dtype, device="meta")

    taps, merged = (
        empty(len(config.taps), vision.hidden_size, side, side),
        empty(width, merged_side, merged_side),
    )
    image = empty(1, config.image_size, config.image_size)
    pooled, images = config.pooled_size**2, 2 if stage == "compare" else 1
    with Kept(model).counting() as heads:
        if stage == "explain":
            logits = model.explainer(taps, empty(pooled, width), image).float()
            torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.empty_like(logits))
            return heads.bytes, heads.bytes
        if stage == "detect":
            embeds = model.detector(taps, merged).embeds
        else:
            modulated, map_logits = empty(vision.hidden_size, side, side), empty(side, side)
            date = Date(modulated, map_logits, merged, image)
            embeds = model.comparer(
                date, Date(*(torch.empty_like(x) for x in date.to_tuple()))
            ).embeds
    tokens = images * (merged_side**2 + pooled) + pooled + WORDS
    with Kept(model).counting() as language:
        rest = empty(tokens - pooled, width)
        hidden = model.model.language_model(
            inputs_embeds=torch.cat([embeds, rest], 1),
            position_ids=torch.empty(3, batch, tokens, dtype=torch.long, device="meta"),
            use_cache=False,
        ).last_hidden_state
        layers = language.bytes
        logits = model.lm_head(hidden)
        labels = torch.empty(batch, tokens, dtype=torch.long, device="meta")
        model.loss_function(logits, labels, config.text_config.vocab_size)
    depth = config.text_config.num_hidden_layers
    inputs = depth * batch * tokens * width * dtype.itemsize
    loss = language.bytes - layers
    return (
        heads.bytes + language.bytes,
        heads.bytes + inputs + math.ceil(layers / depth) + loss,
    )


def stage_memory(config: MedicADConfig, batch: int = 8) -> list[StageMemory]:
    """What every stage takes at a batch, in the order of training."""
    config._attn_implementation = "counted"
    own = getattr(torch, str(config.dtype or "float32").removeprefix("torch."))
    with torch.device("meta"):
        model = MedicADForConditionalGeneration(config).to(own).train()
    rows = []
    for stage in TRAINED:
        freeze_for(model, stage)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        frozen = sum(p.numel() for p in model.parameters()) - trained
        model.to(own)  # what is trained computes in the precision of the rest
        kept, checkpointed = activations(model, stage, batch)
        copied = 0 if own == torch.float32 else own.itemsize
        rows.append(
            StageMemory(
                stage=stage,
                trained=trained,
                frozen=frozen,
                weights=frozen * own.itemsize + trained * (4 + copied),
                gradients=4 * trained,
                optimiser=8 * trained,
                activations=kept,
                checkpointed=checkpointed,
            )
        )
    return rows


def collect_memory(name: str, batch: int) -> dict[str, Any]:
    """`stage_memory` of a model's name as plain values, with what it assumes."""
    config = find_config(name)
    stages = [{**asdict(row), "total": row.total} for row in stage_memory(config, batch)]
    return {
        "model": name,
        "batch": batch,
        "image_size": config.image_size,
        "stages": stages,
        "assumptions": list(ASSUMPTIONS),
    }
