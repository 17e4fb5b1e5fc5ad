"""`medic-ad train compare`: stage 2, the Diff Q-Former, change head and map; stage 1 is frozen."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from medic_ad import words
from medic_ad.errors import DataError
from medic_ad.model.compare import CompareOutput, Date
from medic_ad.train.draw import pair_batch
from medic_ad.train.frozen import freeze_for
from medic_ad.train.losses import answer_labels, hint_ids, hint_loss, mean, soft_dice
from medic_ad.train.real_pairs import render_pairs
from medic_ad.train.run import Draws, Stage, adapt, finish, fit, load_stage, split, training_slices
from medic_ad.train.settings import CompareArguments
from medic_ad.train.volume_pairs import render_volume_pairs


class CompareStage(Stage):
    """Change label + signed change map + language, on pairs drawn in either order."""

    def __init__(self, model, processor, arguments: CompareArguments) -> None:
        super().__init__()
        self.model, self.processor, self.arguments = model, processor, arguments

    def forward(
        self,
        image: torch.Tensor,
        followup: torch.Tensor,
        mask: torch.Tensor,
        mask_followup: torch.Tensor,
        known: list[bool],
        change: list[str | None],
        dialogues: list[tuple[str, str]],
        **_,
    ) -> dict:
        config, weights = self.model.config, self.arguments
        # packed pair by pair: the prompt holds the baseline's image, then the follow-up's
        both = torch.stack([image, followup], 1).flatten(0, 1)
        images = self.processor.images(both, config)
        with torch.no_grad():
            vision = self.model.encode(**images)
            detected = self.model.detector(torch.stack(vision.taps), torch.stack(vision.merged))
        columns = (
            detected.modulated,
            detected.map_logits,
            torch.stack(vision.merged),
            torch.stack(vision.images),
        )
        out = self.model.comparer(
            Date(*(c[0::2] for c in columns)), Date(*(c[1::2] for c in columns))
        )
        told = torch.tensor([c is not None for c in change], device=image.device)
        target = torch.tensor(
            [words.CHANGE_LABELS.index(c) for c in change if c],
            dtype=torch.long,
            device=image.device,
        )
        right = out.logits[told].argmax(1) == target
        label_loss = mean(cross_entropy(out.logits[told], target, reduction="none"))
        drawn = torch.tensor(known, device=image.device)
        map_loss = change_map_loss(out, mask, mask_followup, drawn)
        prompts = [self.processor.prompt(q, images=2, answer=a) for q, a in dialogues]
        text = self.processor.text(prompts, config, vision.merged[0][0].numel()).to(image.device)
        language_loss = self.model(
            **text,
            image_grid_thw=images["image_grid_thw"],
            mm_encoder_outputs={"image": vision.encoder},
            ano_embeds=detected.embeds,
            diff_embeds=out.embeds,
            labels=answer_labels(text["input_ids"], self.processor.tokenizer),
            use_cache=False,
        ).loss
        hint = out.logits.new_zeros(())
        if weights.hint_weight:
            hints = [words.change_hint(c, out.embeds.shape[1]) for c in change]
            ids = hint_ids(hints, self.processor.tokenizer)
            hint = hint_loss(out.embeds, ids, told, self.model.get_input_embeddings())
        loss = (
            weights.hint_weight * hint
            + weights.label_weight * label_loss
            + weights.map_weight * map_loss
            + weights.language_weight * language_loss
        )
        return {
            "loss": loss,
            "label": label_loss,
            "map": map_loss,
            "language": language_loss,
            "hint": hint,
            "accuracy": mean(right.float()),
        }


def change_map_loss(
    out: CompareOutput, mask: torch.Tensor, mask_followup: torch.Tensor, known: torch.Tensor
) -> torch.Tensor:
    """Growth against pixels that only the follow-up's mask holds, decline against the others.

    Args:
        out: of a batch, logits `(B, H, W)`.
        mask, mask_followup: `(B, H, W)` in {0, 1}; both empty of change for a stable pair.
        known: `(B,)` bool, whose masks are the truth; the others do not count.
    """
    grown = (mask_followup - mask).clamp(min=0)[known]
    gone = (mask - mask_followup).clamp(min=0)[known]
    loss = out.growth.new_zeros(())
    for logits, target in ((out.growth[known], grown), (out.decline[known], gone)):
        pixels = binary_cross_entropy_with_logits(logits, target, reduction="none")
        loss = loss + 5 * mean(pixels)
        loss = loss + 0.5 * soft_dice(logits.sigmoid(), target)
    return loss


def main(arguments: CompareArguments) -> Path:
    """Train stage 2 on the weights in `arguments.model`; write it to `arguments.out`."""
    model, processor = load_stage(arguments)
    train(model, processor, arguments)
    return finish(model, processor, arguments, "compare")


def train(model, processor, arguments: CompareArguments) -> None:
    """Train stage 2 of a loaded model, in memory."""
    config = model.config
    samples = split(arguments.data, "train", arguments.exclude)
    real = render_pairs(samples, config.image_size, Path(arguments.cache))
    masked = any(sample.mask for sample in samples)
    if not (masked or real or arguments.volumes):
        raise DataError(
            "expected lesions with masks to make pairs from, or priors with a change, found "
            "neither; fill the columns mask, or prior and change"
        )
    slices = training_slices(arguments, config.image_size) if masked else None
    made = None
    if arguments.volumes:
        made = render_volume_pairs(
            samples, config.image_size, arguments.volumes, Path(arguments.cache), arguments.seed
        )
    pools = [pool for pool in (slices, real, made) if pool is not None]  # each as often

    def pairs(rng, generator):
        drawn = [pools[rng.integers(len(pools))].pair(rng) for _ in range(arguments.batch)]
        batch = pair_batch(drawn, generator)
        given = batch.pop("dialogue")
        batch["dialogues"] = [
            asked or words.compare_dialogue(change, rng)
            for asked, change in zip(given, batch["change"], strict=True)
        ]
        return batch

    adapt(model, arguments)
    freeze_for(model, "compare", adapters=arguments.lora > 0)
    fit(
        CompareStage(model, processor, arguments),
        model,
        Draws(pairs, arguments.seed),
        arguments,
        "compare",
        pairs_left_out=real.refused if real else {},
    )
