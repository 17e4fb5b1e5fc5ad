"""Tiny models, prompts and checkpoints in which every rule of the real ones still holds."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Picture
from safetensors.torch import save_file
from scipy import ndimage
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from medic_ad.data.prepare import prepare
from medic_ad.load import Model
from medic_ad.model.configuration import MedicADConfig
from medic_ad.model.modeling import MedicADForConditionalGeneration
from medic_ad.model.presets import nano_config
from medic_ad.processor import MedicADProcessor, fit_square
from medic_ad.train import base, compare, detect, explain

SIDE = 64
ROWS = 512  # of the vocabulary; the tokenizer has fewer tokens
BASE_TOKENS = (  # of a published tokenizer, before `<|ano|>` and `<|diff|>` are added
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


def config(vision: dict[str, Any] | None = None, **overrides: Any) -> MedicADConfig:
    """`nano` made tiny: 64 px, 8 x 8 patches, windows of 4 x 4 patches, blocks 1 and 3 tapped."""
    preset = nano_config()
    tower = dict(
        depth=4,
        hidden_size=32,
        intermediate_size=64,
        num_heads=2,
        in_channels=1,
        patch_size=8,
        temporal_patch_size=1,
        window_size=32,
        out_hidden_size=48,
        fullatt_block_indexes=[1, 3],
    )
    text = dict(
        vocab_size=ROWS,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=0,
    )
    values = dict(
        vision_config={**tower, **(vision or {})},
        text_config=text,
        tie_word_embeddings=True,
        **{
            name: getattr(preset, name)
            for name in (
                "vision_start_token_id",
                "vision_end_token_id",
                "image_token_id",
                "video_token_id",
                "ano_token_id",
                "diff_token_id",
            )
        },
        system_dim=24,
        qformer_hidden_size=32,
        qformer_heads=2,
        heatmap_channels=16,
        pixel_channels=[8, 16, 16],
        image_size=SIDE,
    )
    return MedicADConfig(**{**values, **overrides})


def shake(module: torch.nn.Module, seed: int = 1, strength: float = 0.2) -> None:
    """Random values on top of every parameter, so that no symmetry of an initialisation is left."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += strength * torch.randn(parameter.shape, generator=generator)


@cache
def processor() -> MedicADProcessor:
    """The processor of `medic-ad train base` at the tiny size."""
    return base.make_processor(SIDE)


def network(
    seed: int = 0, shaken: bool = True, **overrides: Any
) -> MedicADForConditionalGeneration:
    """An untrained tiny network in eval mode; `overrides` are those of `config`."""
    torch.manual_seed(seed)
    out = MedicADForConditionalGeneration(config(**overrides)).eval()
    if shaken:
        for head in (out.detector, out.comparer, out.explainer):
            shake(head, seed + 1)
    return out


@cache
def model() -> Model:
    """A tiny model as `load_model` gives it; never calibrated. Shared: change nothing of it."""
    return Model("tiny", network().requires_grad_(False), processor(), "0" * 64)


def recorded(function: Callable[..., Any], made: list) -> Callable[..., Any]:
    """The function, with everything that it returns appended to `made`."""

    def inner(*args: Any, **kwargs: Any) -> Any:
        made.append(function(*args, **kwargs))
        return made[-1]

    return inner


def canvases(n: int, seed: int = 0, side: int = SIDE) -> torch.Tensor:
    """`(n, side, side)` smooth random pictures in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 1, 8, 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")[:, 0].clamp(0, 1)


def packed(grids: list[tuple[int, int]], tower: Any, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random patches of packed images with patch grids `(h, w)`."""
    generator = torch.Generator().manual_seed(seed)
    width = tower.in_channels * tower.temporal_patch_size * tower.patch_size**2
    n = sum(h * w for h, w in grids)
    return {
        "pixel_values": torch.randn(n, width, generator=generator),
        "image_grid_thw": torch.tensor([[1, h, w] for h, w in grids]),
    }


def prompt(
    settings: Any, grids: list[tuple[int, int]], tail: int = 6, seed: int = 0
) -> dict[str, torch.Tensor]:
    """One stage-free prompt over images of patch grids `(h, w)`: ids, mask and token types."""
    rng = np.random.default_rng(seed)
    ids: list[int] = []
    for h, w in grids:
        ids += [settings.vision_start_token_id, *[settings.image_token_id] * (h * w // 4)]
        ids += [settings.vision_end_token_id, int(rng.integers(20, ROWS))]
    ids += rng.integers(20, ROWS, tail).tolist()
    input_ids = torch.tensor([ids])
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "mm_token_type_ids": (input_ids == settings.image_token_id).long(),
    }


# ---------------------------------------------------------------- a checkpoint as the Hub has it
PUBLISHED_CONFIG: dict[str, Any] = {  # the keys of Qwen2.5-VL-7B-Instruct's config.json, made tiny
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "vision_start_token_id": 3,
    "vision_end_token_id": 4,
    "vision_token_id": 6,
    "image_token_id": 5,
    "video_token_id": 6,
    "hidden_act": "silu",
    "hidden_size": 48,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
    "max_window_layers": 2,
    "model_type": "qwen2_5_vl",
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.41.2",
    "use_cache": True,
    "use_sliding_window": False,
    "vision_config": {
        "depth": 4,
        "hidden_act": "silu",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "in_chans": 3,
        "out_hidden_size": 48,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "window_size": 56,
        "fullatt_block_indexes": [1, 3],
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
    },
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    "vocab_size": ROWS,
}
PUBLISHED_MEAN = [0.48145466, 0.4578275, 0.40821073]
PUBLISHED_STD = [0.26862954, 0.26130258, 0.27577711]
PUBLISHED_PREPROCESSOR = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": PUBLISHED_MEAN,
    "image_std": PUBLISHED_STD,
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
}
TINY_HEADS = dict(
    system_dim=24,
    qformer_hidden_size=32,
    qformer_heads=2,
    heatmap_channels=16,
    pixel_channels=[8, 16, 16],
    image_size=112,
)


def published_name(key: str) -> str:
    """The name under which the Hub's Qwen2.5-VL-7B files hold a module of today's transformers."""
    for today, then in (("model.visual.", "visual."), ("model.language_model.", "model.")):
        if key.startswith(today):
            return then + key.removeprefix(today)
    return key


def published_checkpoint(folder: Path, shards: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    """Write a tiny checkpoint in the Hub's layout; returns its tensors by the published names."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    stock = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**copy.deepcopy(PUBLISHED_CONFIG)))
    shake(stock, seed, 0.02)
    tensors = {published_name(k): v.detach().clone() for k, v in stock.state_dict().items()}
    write_shards(folder, tensors, shards)
    (folder / "config.json").write_text(json.dumps(PUBLISHED_CONFIG))
    (folder / "preprocessor_config.json").write_text(json.dumps(PUBLISHED_PREPROCESSOR))
    published_tokenizer().save_pretrained(folder)
    return tensors


def write_shards(folder: Path, tensors: dict[str, torch.Tensor], shards: int) -> None:
    """Sharded safetensors with `model.safetensors.index.json`, numbered from 1 as on the Hub."""
    names, where = sorted(tensors), {}
    for part in range(shards):
        file = f"model-{part + 1:05d}-of-{shards:05d}.safetensors"
        own = names[part::shards]
        save_file({k: tensors[k].contiguous() for k in own}, folder / file, {"format": "pt"})
        where.update(dict.fromkeys(own, file))
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def published_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with Qwen's special tokens and chat, and fewer tokens than rows."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(BASE_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = ["Is there an anomaly in the image?", "user\nassistant\n"]
    tokenizer.train_from_iterator(lines * 5, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(BASE_TOKENS[3:]),
    )
    fast.chat_template = base.CHAT_TEMPLATE
    return fast


# ------------------------------------------------------------ training data with a planted truth
def head(seed: int, lesion: bool, side: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """A grey "head" with smooth texture, uint8, and the mask of a bright blob in it."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((side, side))
    middle = (side - 1) / 2 + rng.uniform(-3, 3, 2)
    axes = side * rng.uniform((0.40, 0.34), (0.45, 0.39))
    inside = ((y - middle[0]) / axes[0]) ** 2 + ((x - middle[1]) / axes[1]) ** 2
    texture = ndimage.gaussian_filter(rng.standard_normal((side, side)), 5)
    grey = np.where(inside < 1, 0.45 + 0.12 * texture / texture.std() * (inside < 0.9), 0.0)
    mask = np.zeros((side, side), bool)
    if lesion:
        angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.5)
        centre = middle + radius * axes * (np.sin(angle), np.cos(angle))
        size = rng.uniform(5, 9, 2)
        mask = ((y - centre[0]) / size[0]) ** 2 + ((x - centre[1]) / size[1]) ** 2 < 1
        grey = np.where(mask, 0.95 + 0.02 * texture, grey)
    noisy = grey + 0.01 * rng.standard_normal(grey.shape) * (inside < 1)
    return (255 * ndimage.gaussian_filter(noisy, 0.5).clip(0, 1)).astype(np.uint8), mask


def table(folder: Path, held_out: int = 6) -> Path:
    """Slices as PNG, split 16 / `held_out` / 2, two thirds with a blob and its mask, as a table."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["image,patient,label,mask,split,modality,body_part,sequence"]
    for i in range(18 + held_out):
        split = "train" if i < 16 else "val" if i < 16 + held_out else "test"
        lesion = i % 3 != 2
        image, mask = head(i, lesion)
        Picture.fromarray(image).save(folder / f"{i:02d}.png")
        Picture.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{i:02d}_mask.png")
        name = f"{i:02d}_mask.png" if lesion else ""
        sequence = "FLAIR" if i % 2 else "T1"
        rows.append(f"{i:02d}.png,P{i},{int(lesion)},{name},{split},MR,BRAIN,{sequence}")
    (folder / "table.csv").write_text("\n".join(rows))
    return prepare("table", folder, folder / "tiny.parquet", csv=folder / "table.csv")


@dataclass(frozen=True)
class Trained:
    """All four stages trained one after another on `table`; a folder of weights each."""

    data: Path
    cache: Path
    base: Path
    detect: Path
    compare: Path
    explain: Path


def arguments(data: Path, cache: Path, **own: Any) -> dict[str, Any]:
    """What the tiny runs have in common: this process only, float32, no checkpoint on the way."""
    common = dict(workers=0, bf16=False, weights="", batch=8, save_steps=1000, learning_rate=3e-3)
    return {"data": str(data), "cache": str(cache), **common, **own}


@cache
def trained(root: Path) -> Trained:
    """Made once a session below pytest's own folder, in about half a minute of one core."""
    data = table(root / "data")
    names = ("cache", "base", "detect", "compare", "explain")
    out = Trained(data, *(root / name for name in names))

    def own(**values: Any) -> dict[str, Any]:
        return arguments(out.data, out.cache, **values)

    base.main(base.BaseArguments(**own(out=str(out.base), steps=150, language_steps=50)), config())
    # half the weight for the frozen language model, whose loss hardly falls in so few steps
    stage = own(model=str(out.base), out=str(out.detect), steps=100, language_weight=0.5)
    detect.main(detect.DetectArguments(**stage))
    compare.main(
        compare.CompareArguments(**own(model=str(out.detect), out=str(out.compare), steps=75))
    )
    explain.main(
        explain.ExplainArguments(
            **own(model=str(out.compare), out=str(out.explain), steps=125, learning_rate=5e-3)
        )
    )
    return out


def fitted(image: np.ndarray) -> torch.Tensor:
    """A picture of `head` on the canvas, `(1, S, S)`."""
    return fit_square(image.astype(np.float32), (0.0, 255.0), SIDE)[0][None]


def fresh(n: int, first: int = 100) -> tuple[torch.Tensor, torch.Tensor]:
    """Canvases and masks `(n, S, S)` of heads that no run has seen; every other one has a blob."""
    pairs = [head(seed, seed % 2 == 0) for seed in range(first, first + n)]
    images = torch.cat([fitted(image) for image, _ in pairs])
    return images, torch.cat([fitted(mask * 255.0) for _, mask in pairs]) > 0.5
