"""Step 4: a name or folder -> a model on a device, its processor and its weights' hash."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import is_flash_attn_2_available

from medic_ad.errors import ModelError
from medic_ad.model.bars import without_bars
from medic_ad.model.configuration import MedicADConfig
from medic_ad.model.modeling import MedicADForConditionalGeneration, refuse_unfit_keys
from medic_ad.model.pixel import arrange
from medic_ad.models import (
    ATTENTION,
    MODELS,
    checkpoint_folder,
    one_sentence,
    weights_sha256,
)
from medic_ad.processor import ANO, DIFF, IMAGE, MedicADProcessor
from medic_ad.sums import record_sums, refuse_damaged

DEVICES = ("cpu", "cuda", "mps")


@dataclass(frozen=True)
class Model:
    """A network with what `read` needs around it.

    Attributes:
        name: as it was asked for.
        network: the model, in eval mode on its device.
        processor: its processor.
        weights_sha256: hash over the safetensors files.
        licence, base: for the provenance; "unknown" where the registry says nothing.
    """

    name: str
    network: MedicADForConditionalGeneration
    processor: MedicADProcessor
    weights_sha256: str
    licence: str = "unknown"
    base: str = "unknown"

    @property
    def config(self):
        return self.network.config

    @property
    def device(self) -> torch.device:
        return self.network.device


def check_config(path: str | Path) -> str:
    """The model type of a checkpoint that these classes can build.

    Raises:
        ModelError: another architecture, or a configuration without its parts.
    """
    config = AutoConfig.from_pretrained(path)
    stated, _ = PreTrainedConfig.get_config_dict(path)
    if config.model_type not in ("qwen2_5_vl", MedicADConfig.model_type):
        raise ModelError(
            f"expected a Qwen2.5-VL or Medic-AD checkpoint, but {path} is {config.model_type!r}; "
            "name another checkpoint"
        )
    if config.model_type == MedicADConfig.model_type:
        lacking = [part for part in ("text_config", "vision_config") if not stated.get(part)]
        if lacking:
            raise ModelError(
                f"expected {lacking[0]} in the config.json of {path}, found none; use the "
                "configuration that belongs to the weights"
            )
        vision, side = config.vision_config, config.image_size
        step = vision.patch_size * vision.spatial_merge_size
        if not isinstance(side, int) or side < step or side % step:
            raise ModelError(
                f"expected image_size as a multiple of {step} in the config.json of {path}, got "
                f"{side!r}; use the configuration that belongs to the weights"
            )
    return config.model_type


@contextmanager
def unreported() -> Iterator[None]:
    """Without transformers' report of unfit keys, which are refused here, and its bars."""
    logger = logging.getLogger("transformers.modeling_utils")

    def other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(other)
    try:
        with without_bars():
            yield
    finally:
        logger.removeFilter(other)


def check_attention(name: str) -> None:
    """Refuse an implementation of attention that would have to be exchanged for another.

    Raises:
        ModelError: it is unknown, or its package or its GPU is not there.
    """
    if name not in ATTENTION:
        raise ModelError(
            f"expected an attention of {', '.join(ATTENTION)}, got {name!r}; name one of these"
        )
    if name == "flash_attention_2" and not is_flash_attn_2_available():
        raise ModelError(
            "expected the package flash-attn and a GPU for flash_attention_2, found not both; "
            "install it, or use sdpa"
        )


def check_precision(path: str | Path, attention: str, dtype: str | torch.dtype) -> None:
    """Refuse flash-attention's kernels for weights in float32, which they do not compute in.

    Raises:
        ModelError: they would be in float32; `dtype` "auto" is what the configuration says.
    """
    asked = AutoConfig.from_pretrained(path).dtype if dtype == "auto" else dtype
    if attention == "flash_attention_2" and asked == torch.float32:
        raise ModelError(
            f"expected weights in bfloat16 or float16 for flash_attention_2, got {path} in "
            "float32; use sdpa, or weights in bfloat16"
        )


@unreported()
def load_checkpoint(
    folder: Path, attention: str = "sdpa", dtype: str | torch.dtype = "auto"
) -> tuple[MedicADForConditionalGeneration, MedicADProcessor]:
    """Network and processor from a folder in the Hub's layout, as `checkpoint_folder` gives it.

    Args:
        folder: with weights, their record of hashes if there is one, and processor.
        attention: one of `ATTENTION`; it is never exchanged for another.
        dtype: of the weights; "auto" is the checkpoint's own.

    Raises:
        ModelError: it is no checkpoint, its weights are damaged or do not fit its configuration,
            or there is no such attention here or in this precision.
    """
    check_attention(attention)
    refuse_damaged(folder)
    options: dict = {"attn_implementation": attention, "dtype": dtype}
    with one_sentence(folder):
        kind = check_config(folder)
        check_precision(folder, attention, dtype)
        if kind == "qwen2_5_vl":
            processor = processor_from_base(folder)
            ano, diff = processor.tokenizer.convert_tokens_to_ids([ANO, DIFF])
            network = MedicADForConditionalGeneration.from_base(
                folder, ano_token_id=ano, diff_token_id=diff, **options
            )
            check_template(processor)
            return network, processor
        network, info = MedicADForConditionalGeneration.from_pretrained(
            folder, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
        processor = MedicADProcessor.from_pretrained(folder)
        if not processor.chat_template:
            raise ValueError("the processor has no chat template")
        check_template(processor)
    refuse_unfit_keys(info, folder)
    refuse_broken_weights(network, folder)
    return network, processor


def check_template(processor: MedicADProcessor) -> None:
    """Refuse a chat template that loses the image or the question, before anything is asked.

    Raises:
        ValueError: naming what is not there once.
    """
    question = "What is seen?"
    written = processor.prompt(question)
    for part in (IMAGE, ANO, DIFF, question):
        if (times := written.count(part)) != 1:
            raise ValueError(
                f"the chat template writes {part!r} {times} times for one image and one question"
            )


def save_checkpoint(
    network: MedicADForConditionalGeneration,
    processor: MedicADProcessor,
    folder: str | Path,
    **options: Any,
) -> None:
    """Write what `load_checkpoint` loads, and the hashes of all of it in `SHA256SUMS`.

    Args:
        folder: made if it is not there.
        options: of `save_pretrained`, such as `state_dict`.
    """
    network.save_pretrained(folder, **options)
    processor.save_pretrained(folder)
    record_sums(Path(folder))


def refuse_broken_weights(network: MedicADForConditionalGeneration, path: str | Path) -> None:
    """Refuse weights that are no numbers; only buffers may be NaN, until they are fitted.

    Raises:
        ModelError: naming the first such tensor.
    """
    for name, parameter in network.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise ModelError(
                f"expected finite weights in {path}, got NaN or infinity in {name}; the file is "
                "damaged or its training failed, fetch or train it again"
            )


def processor_from_base(path: str | Path) -> MedicADProcessor:
    """The backbone's tokenizer and image processor, with `<|ano|>` and `<|diff|>` on spare rows."""
    from transformers import AutoTokenizer, Qwen2VLImageProcessorPil

    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [ANO, DIFF]}, replace_extra_special_tokens=False
    )
    images = Qwen2VLImageProcessorPil.from_pretrained(path)
    return MedicADProcessor(images, tokenizer, chat_template=tokenizer.chat_template)


def pick_device(device: str | None) -> torch.device:
    """The asked device; without one the GPU when there is one, else the CPU (recorded in reports).

    Raises:
        ModelError: the device is not there.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
        if picked.type not in DEVICES:
            raise RuntimeError(f"{picked.type} is none of {', '.join(DEVICES)}")
        torch.empty(1, device=picked)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"expected a device that this machine has, got {device!r}; use cpu, or cuda where "
            "torch sees a GPU"
        ) from error
    return picked


def load_model(
    name_or_path: str = "nano", device: str | None = None, attention: str = "sdpa"
) -> Model:
    """Load a model by name, from a folder in the Hub's layout, or from the Hub.

    A Qwen2.5-VL checkpoint gets untrained heads, as in training; `read` refuses to read with them.

    Args:
        name_or_path: a name of `medic_ad.models.MODELS`, a folder, or `owner/model` on the Hub.
        device: "cpu", "cuda", "cuda:1" ...; without one a GPU when there is one.
        attention: one of `ATTENTION`.

    Raises:
        ModelError: unknown name (with the near ones), no such device or attention, or weights that
            do not fit.
    """
    picked = pick_device(device)
    info = MODELS.get(name_or_path)
    folder = checkpoint_folder(name_or_path)
    network, processor = load_checkpoint(folder, attention)
    network.eval().to(picked)
    arrange(network, torch.channels_last)
    network.requires_grad_(False)
    return Model(
        name=str(name_or_path),
        network=network,
        processor=processor,
        weights_sha256=weights_sha256(folder),
        licence=info.licence if info else "unknown",
        base=info.base
        if info
        else json.loads((folder / "config.json").read_text()).get("_name_or_path", "unknown"),
    )
