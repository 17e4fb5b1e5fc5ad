"""`medic-ad train explain`: stage 3, the heatmap; everything before is frozen."""

from __future__ import annotations

from pathlib import Path

import torch
from monai.losses import DiceFocalLoss

from medic_ad.train.draw import scan_batch
from medic_ad.train.frozen import freeze_for
from medic_ad.train.losses import soft_dice
from medic_ad.train.run import Draws, Stage, finish, fit, load_stage, training_slices
from medic_ad.train.settings import ExplainArguments

SWAPPED = 0.125  # share of the scans also shown with the <Ano> of their lesion-free twin


class ExplainStage(Stage):
    """Dice + focal loss on the pixels; a lesion that `<Ano>` denies is to be drawn fainter.

    The twin's `<Ano>` teaches the map to fall where stage 1 sees nothing: without it the pixel
    branch could learn to draw lesions on its own.
    """

    def __init__(self, model, arguments: ExplainArguments) -> None:
        super().__init__()
        self.model, self.arguments = model, arguments
        self.loss = DiceFocalLoss(sigmoid=True, gamma=1.0, batch=True, lambda_focal=10.0)

    def forward(self, pixels: dict, mask: torch.Tensor, twin: torch.Tensor, **_) -> dict:
        with torch.no_grad():
            vision = self.model.encode(**pixels)
            taps, merged = torch.stack(vision.taps), torch.stack(vision.merged)
            ano = self.model.detector(taps, merged).embeds
            scans = len(mask)
            # the first len(twin) scans are also explained with their twin's <Ano>; twins come last
            index = torch.cat([torch.arange(scans), torch.arange(len(twin))])
            condition = torch.cat([ano[:scans], ano[scans:]])
        images = torch.stack(vision.images)
        logits = self.model.explainer(taps[index], condition, images[index])
        logits = logits.float()
        loss = self.loss(logits[:scans, None], mask[:, None])
        lesion = mask[: len(twin)]
        told_normal = (logits[scans:].sigmoid() * lesion).sum() / lesion.sum().clamp(min=1)
        dice = soft_dice(logits[:scans].sigmoid(), mask)
        return {
            "loss": loss + self.arguments.swap_weight * told_normal,
            "dice": dice.detach(),
            "told_normal": told_normal.detach(),
        }


def main(arguments: ExplainArguments) -> Path:
    """Train stage 3 on the weights in `arguments.model`; write it to `arguments.out`."""
    model, processor = load_stage(arguments)
    train(model, processor, arguments)
    return finish(model, processor, arguments, "explain")


def train(model, processor, arguments: ExplainArguments) -> None:
    """Train stage 3 of a loaded model, in memory."""
    config = model.config
    slices = training_slices(arguments, config.image_size)
    twins = max(1, round(SWAPPED * arguments.batch))

    def scans(rng, generator):
        batch = scan_batch([slices.scan(rng) for _ in range(arguments.batch)], generator)
        twin = batch["clean"][:twins]
        pixels = processor.images(torch.cat([batch["image"], twin]), config)
        return {"pixels": pixels, "mask": batch["mask"], "twin": twin}

    freeze_for(model, "explain")
    fit(ExplainStage(model, arguments), model, Draws(scans, arguments.seed), arguments, "explain")
