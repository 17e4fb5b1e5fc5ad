"""Step 3: images and questions -> tensors, and maps back onto the image's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import interpolate, pad
from transformers import AutoProcessor, BatchFeature
from transformers.processing_utils import ProcessorMixin

from medic_ad.errors import ModelError
from medic_ad.model.configuration import MedicADConfig

IMAGE, ANO, DIFF = "<|image_pad|>", "<|ano|>", "<|diff|>"
WINDOW_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True)
class Geometry:
    """Where an image of `shape` (H, W) lies on the square canvas."""

    shape: tuple[int, int]
    top: int
    left: int
    height: int
    width: int


def grey_window(pixels: np.ndarray) -> tuple[float, float]:
    """Low and high grey value that the model's [0, 1] stands for.

    The 0.5th and 99.5th percentile of the whole image or volume, so that all slices of a volume
    share one window. This windows the input; scores and heatmaps are never scaled per image.
    """
    low, high = np.nanpercentile(pixels, WINDOW_PERCENTILES)
    return float(low), float(high)


def fit_square(
    pixels: np.ndarray, window: tuple[float, float], side: int
) -> tuple[torch.Tensor, Geometry]:
    """Window a slice to [0, 1] and fit it into a square, aspect kept, dark borders.

    Args:
        pixels: `(H, W)` float; NaN (outside the field of view) becomes the window's low end.
        window: `grey_window` of the image.
        side: side of the square in pixels.

    Returns:
        `(side, side)` float32 in [0, 1], and the geometry that `restore` needs. A constant image
        has no window and becomes all zeros.
    """
    low, high = window
    grey = np.nan_to_num((pixels - low) / (high - low) if high > low else pixels * 0.0)
    image = torch.from_numpy(np.clip(grey, 0, 1).astype(np.float32))[None, None]
    h, w = pixels.shape
    scale = side / max(h, w)
    height, width = max(1, round(h * scale)), max(1, round(w * scale))
    if (height, width) != (h, w):
        image = interpolate(image, (height, width), mode="bilinear", antialias=True)
    top, left = (side - height) // 2, (side - width) // 2
    canvas = pad(image, (left, side - width - left, top, side - height - top))
    return canvas[0, 0], Geometry((h, w), top, left, height, width)


def restore(canvas_map: torch.Tensor, geometry: Geometry) -> np.ndarray:
    """A map on the square canvas -> float32 on the image's own `(H, W)` grid."""
    g = geometry
    part = canvas_map[g.top : g.top + g.height, g.left : g.left + g.width].float()
    if part.shape != g.shape:
        part = interpolate(part[None, None], g.shape, mode="bilinear", antialias=True)[0, 0]
    return part.cpu().numpy()


def patchify(
    canvases: torch.Tensor, config: MedicADConfig, mean: Sequence[float], std: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Square images -> the packed patches of Qwen2.5-VL, in its merge-group order.

    Args:
        canvases: `(B, S, S)` float in [0, 1], grey; repeated over the tower's channels and frames.
        config: sizes of patches and merge groups.
        mean, std: normalisation per channel; their averages for a tower of one channel.

    Returns:
        `(B * h * w, C * T * p * p)` patches and `(B, 3)` grids `(1, h, w)`.
    """
    vision = config.vision_config
    p, m, c = vision.patch_size, vision.spatial_merge_size, vision.in_channels
    b, h, w = canvases.shape[0], canvases.shape[1] // p, canvases.shape[2] // p
    centre, spread = (
        canvases.new_tensor(v if len(v) == c else [sum(v) / len(v)] * c)[:, None, None]
        for v in (mean, std)
    )
    x = ((canvases[:, None] - centre) / spread).reshape(b, c, h // m, m, p, w // m, m, p)
    x = x.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(b * h * w, c, 1, p * p)
    x = x.expand(-1, -1, vision.temporal_patch_size, -1).reshape(b * h * w, -1)
    return x, torch.tensor([[1, h, w]]).repeat(b, 1)


class MedicADProcessor(ProcessorMixin):
    """Chat text, stage tokens and square images -> tensors of `MedicADForConditionalGeneration`.

    Args:
        image_processor: the backbone's; its mean, standard deviation and patch sizes are used.
        tokenizer: the backbone's, with `<|ano|>` and `<|diff|>` added on spare rows.
        chat_template: the backbone's.
    """

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template, **kwargs)

    def images(self, canvases: torch.Tensor, config: MedicADConfig) -> dict[str, torch.Tensor]:
        """`(B, S, S)` canvases -> `pixel_values` and `image_grid_thw`."""
        own = self.image_processor
        patches, grids = patchify(canvases, config, own.image_mean, own.image_std)
        return {"pixel_values": patches, "image_grid_thw": grids}

    def check_question(self, question: str) -> None:
        """Refuse a question that holds one of the tokenizer's special tokens.

        Raises:
            ModelError: it does.
        """
        for token in self.tokenizer.all_special_tokens:
            if token in question:
                raise ModelError(
                    f"expected a question in words, but it holds the model's own token {token}; "
                    "leave it out"
                )

    def prompt(
        self, question: str, images: int = 1, stages: bool = True, answer: str | None = None
    ) -> str:
        """The backbone's chat text of one question about one scan or a pair (baseline first).

        With `stages`, `<|ano|>` follows every image and `<|diff|>` the last one; a single scan's
        `<|diff|>` is the learned no-prior state.

        Raises:
            ModelError: the question holds one of the tokenizer's special tokens.
        """
        self.check_question(question)
        content = [{"type": "image"}] * images + [{"type": "text", "text": question}]
        messages: list[dict] = [{"role": "user", "content": content}]
        if answer is not None:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        text = self.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=answer is None
        )
        if stages:
            head, *rest = text.split("<|vision_end|>")
            for i, part in enumerate(rest):
                head += "<|vision_end|>" + ANO + (DIFF if i == len(rest) - 1 else "") + part
            text = head
        return text

    def text(self, prompts: Sequence[str], config: MedicADConfig, merged: int) -> BatchFeature:
        """Tokenise prompts, expanding images and stage tokens in place.

        Args:
            prompts: texts of `prompt`.
            config: ids and P.
            merged: merged visual tokens per image.

        Returns:
            `input_ids`, `attention_mask`, `mm_token_type_ids`, each `(B, T)`, padded on the left.

        Raises:
            ModelError: a prompt is longer than the model's context; nothing is truncated.
        """
        pooled = config.pooled_size**2
        expanded = [
            p.replace(IMAGE, IMAGE * merged).replace(ANO, ANO * pooled).replace(DIFF, DIFF * pooled)
            for p in prompts
        ]
        out = self.tokenizer(expanded, padding=True, padding_side="left", return_tensors="pt")
        limit = config.text_config.max_position_embeddings
        if out["input_ids"].shape[1] > limit:
            raise ModelError(
                f"expected a prompt of at most {limit} tokens, got {out['input_ids'].shape[1]}; "
                "ask a shorter question or give fewer images (image and stage tokens are never cut)"
            )
        kinds = (out["input_ids"] == config.image_token_id).long()
        return BatchFeature(
            {
                "input_ids": out["input_ids"],
                "attention_mask": out["attention_mask"],
                "mm_token_type_ids": kinds,
            }
        )


AutoProcessor.register(MedicADConfig, MedicADProcessor, exist_ok=True)
