"""Evaluation: the same model with parts of it as at birth, and with another image's `<Ano>`."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from medic_ad.evaluate.predictions.bars import bar
from medic_ad.load import Model
from medic_ad.look import look
from medic_ad.model.modeling import MedicADForConditionalGeneration
from medic_ad.processor import fit_square, grey_window, restore

ALL = "all weights randomised"


def randomised(model: Model, seed: int) -> Iterator[tuple[str, Model]]:
    """Weights drawn anew from the heatmap back to the pixels (cascade of Adebayo et al. 2018).

    Each step keeps what the one before has drawn, in one copy of the network: use a step before
    asking for the next. The calibration stays.

    Yields:
        Which weights are as at birth by now, and the model with them.
    """
    torch.manual_seed(seed)
    fresh = MedicADForConditionalGeneration(model.config).eval().to(model.device)
    network = copy.deepcopy(model.network)
    blocks = len(fresh.model.visual.blocks)
    steps = {
        "decoder randomised": ["explainer"],
        "and the anomaly processor": ["detector"],
        "and the upper half of the vision tower": [
            f"model.visual.blocks.{k}" for k in range(blocks // 2, blocks)
        ],
        ALL: ["model", "comparer"],
    }
    for words, parts in steps.items():
        for part in parts:
            network.get_submodule(part).load_state_dict(fresh.get_submodule(part).state_dict())
        yield words, dataclasses.replace(model, network=network)


@torch.inference_mode()
def exchanged(
    model: Model,
    images: Sequence[np.ndarray],
    others: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    windows: Sequence[tuple[float, float]] | None = None,
) -> dict[str, np.ndarray]:
    """Mean heatmap inside the mask with an image's own `<Ano>` and with that of another image.

    Args:
        images, others: `(H, W)` grey values each.
        masks: `(H, W)` bool each, not empty.
        windows: grey windows of images and others, where they are not each one's own.
    """
    own: list[float] = []
    other: list[float] = []
    own_windows: list[None] = [None] * len(images)
    rows = zip(images, others, masks, windows or own_windows, strict=True)
    for image, twin, mask, window in bar(rows, "exchanging <Ano>", total=len(images)):
        fitted = [
            fit_square(p, window or grey_window(p), model.config.image_size)
            for p in (x.astype(np.float32) for x in (image, twin))
        ]
        geometry = fitted[0][1]
        seen, foreign = (look(model, canvas[None]) for canvas, _ in fitted)
        [logits] = model.network.explain(seen.vision, foreign.detected)
        maps = seen.heatmaps[0], logits.float().sigmoid()
        for values, heatmap in zip((own, other), maps, strict=True):
            values.append(float(restore(heatmap, geometry)[mask].mean()))
    return {"own": np.array(own), "other": np.array(other)}
