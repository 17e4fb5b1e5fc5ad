"""Ablations: a base that no mask and no label has taught.

The tower learns to draw hidden patches again; the language model learns to answer from facts in
words that are drawn at random and have nothing to do with the image beside them.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import interpolate, pixel_shuffle

from medic_ad.load import load_checkpoint
from medic_ad.model.modeling import MedicADForConditionalGeneration
from medic_ad.models import checkpoint_folder
from medic_ad.processor import MedicADProcessor
from medic_ad.train.base import LanguagePretraining, make_processor, template
from medic_ad.train.draw import scan_batch
from medic_ad.train.frozen import freeze
from medic_ad.train.render import Rendered, render
from medic_ad.train.run import Draws, Stage, copy_records, finish, fit, split
from medic_ad.train.settings import StageArguments

HIDDEN = 0.6  # share of the patches that are to be drawn again
PARTS = ("vision", "language")  # are trained one after the other


class Reconstruction(Stage):
    """Hidden patches from the others, by the last tap (as in masked autoencoders, 2111.06377)."""

    def __init__(self, model: MedicADForConditionalGeneration, processor: MedicADProcessor) -> None:
        super().__init__()
        self.model, self.processor = model, processor
        vision = model.config.vision_config
        self.norm = nn.GroupNorm(1, vision.hidden_size)
        self.draw = nn.Conv2d(vision.hidden_size, vision.patch_size**2, 1)

    def forward(self, image: torch.Tensor, hidden: torch.Tensor, **_) -> dict:
        """Images `(B, S, S)`, hidden `(B, h, w)` in {0, 1} on the patch grid."""
        cover = interpolate(hidden[:, None], size=image.shape[-2:])[:, 0]
        seen = self.processor.images(image * (1 - cover), self.model.config)
        taps = torch.stack(self.model.encode(**seen).taps)[:, -1]  # (B, Dv, h, w)
        patch = self.model.config.vision_config.patch_size
        drawn = pixel_shuffle(self.draw(self.norm(taps)), patch).squeeze(1).float()
        return {"loss": ((drawn - image) ** 2 * cover).sum() / cover.sum().clamp(min=1)}


def batch_of(
    rendered: Rendered, n: int, rng: np.random.Generator, generator: torch.Generator
) -> torch.Tensor:
    """Augmented images `(n, S, S)`, drawn evenly; what their masks and labels say is not read."""
    rows = []
    for i in rng.integers(len(rendered), size=n):
        image = rendered.image[i].astype(np.float32) / 255
        rows.append(
            {
                "image": image,
                "clean": image,
                "mask": np.zeros(image.shape, bool),
                "known": False,
                "label": float("nan"),
                "dialogue": None,
                "sequence": None,
            }
        )
    return scan_batch(rows, generator)["image"]


def make(arguments: StageArguments) -> Path:
    """Train the base into `arguments.out`: a fresh network of `arguments.model`'s size.

    The tower and then the language model have the steps of `arguments` each.
    """
    torch.manual_seed(arguments.seed)
    sized, _ = load_checkpoint(checkpoint_folder(arguments.model))
    config = type(sized.config)(**{**sized.config.to_dict(), "scope": []})
    processor = make_processor(config.image_size, arguments.seed)
    model = MedicADForConditionalGeneration(config)
    samples = split(arguments.data, "train", arguments.exclude)
    rendered = render(samples, config.image_size, Path(arguments.cache))
    grid = config.image_size // config.vision_config.patch_size
    size = arguments.batch

    def images(rng, generator):
        hidden = (torch.rand(size, grid, grid, generator=generator) < HIDDEN).float()
        return {"image": batch_of(rendered, size, rng, generator), "hidden": hidden}

    def texts(rng, generator):
        shown = batch_of(rendered, max(1, size // 4), rng, generator)
        out: dict = {"image": shown, "shown": [], "prompts": [], "facts": []}
        for _ in range(size):
            seen = [int(rng.integers(len(shown))) for _ in range(1 + int(rng.random() < 0.4))]
            cells = [None if rng.random() < 0.5 else tuple(rng.integers(3, size=2)) for _ in seen]
            told = [(cell, None) for cell in cells]
            prompt, facts = template(processor, told, rng, config.pooled_size**2)
            out["prompts"].append(prompt)
            out["facts"] += facts
            out["shown"] += seen
        merged = (grid // config.vision_config.spatial_merge_size) ** 2
        return {**out, "merged": merged, "seed": int(rng.integers(2**62))}

    def part(name: str) -> StageArguments:
        return dataclasses.replace(arguments, out=f"{arguments.out}/{name}")

    freeze(model, ("model.visual",))
    vision, language = map(part, PARTS)
    fit(Reconstruction(model, processor), model, Draws(images, arguments.seed), vision, "vision")
    freeze(model, ("model.language_model", "model.visual.merger", "lm_head"))
    draws = Draws(texts, arguments.seed + 1)
    fit(LanguagePretraining(model, processor), model, draws, language, "language")
    for name in PARTS:
        shutil.rmtree(f"{arguments.out}/{name}/checkpoints", ignore_errors=True)  # large
    out = finish(model, processor, dataclasses.replace(arguments, model=""), "base")
    copy_records(out / "language", out, but="base")
    return out


def cpu_seconds(base: Path) -> float:
    """What its trainings took since they were last started."""
    records = [json.loads((base / name / f"{name}.run.json").read_text()) for name in PARTS]
    return float(sum(record["cpu_seconds"] for record in records))
