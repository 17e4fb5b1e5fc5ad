"""`medic-ad train detect`: stage 1, the anomaly processor and `<|ano|>`.

The backbone is frozen, unless `--tower` is given.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn.functional import adaptive_avg_pool2d, binary_cross_entropy_with_logits

from medic_ad import words
from medic_ad.model.detect import DetectOutput
from medic_ad.train.draw import scan_batch
from medic_ad.train.frozen import freeze_for
from medic_ad.train.losses import answer_labels, hint_ids, hint_loss, mean, soft_dice
from medic_ad.train.run import Draws, Stage, adapt, finish, fit, load_stage, training_slices
from medic_ad.train.settings import DetectArguments


class DetectStage(Stage):
    """Language-model loss + image loss (multiple instance) + pixel loss on both system tokens."""

    def __init__(self, model, processor, arguments: DetectArguments) -> None:
        super().__init__()
        self.model, self.processor, self.arguments = model, processor, arguments

    def forward(
        self,
        image: torch.Tensor,
        mask: torch.Tensor,
        label: torch.Tensor,
        known: torch.Tensor,
        dialogues: list[tuple[str, str]],
        hints: list[str],
        **_,
    ) -> dict:
        config, weights = self.model.config, self.arguments
        images = self.processor.images(image, config)
        with torch.set_grad_enabled(weights.tower):
            vision = self.model.encode(**images)
        out = self.model.detector(torch.stack(vision.taps), torch.stack(vision.merged))
        told = label.isfinite()
        image_loss = mean(
            binary_cross_entropy_with_logits(out.logit[told], label[told], reduction="none")
        )
        pixel_loss = system_token_loss(out, mask, known)
        prompts = [self.processor.prompt(q, answer=a) for q, a in dialogues]
        merged = vision.merged[0][0].numel()
        text = self.processor.text(prompts, config, merged).to(image.device)
        language_loss = self.model(
            **text,
            image_grid_thw=images["image_grid_thw"],
            mm_encoder_outputs={"image": vision.encoder},
            ano_embeds=out.embeds,
            diff_embeds=self.model.comparer.no_prior.expand(len(image), -1, -1),
            labels=answer_labels(text["input_ids"], self.processor.tokenizer),
            use_cache=False,
        ).loss
        hint = out.logit.new_zeros(())
        if weights.hint_weight:
            hint = self.hint_loss(out.embeds, hints, known)
        loss = (
            weights.hint_weight * hint
            + weights.image_weight * image_loss
            + weights.pixel_weight * pixel_loss
            + weights.language_weight * language_loss
        )
        support = (out.map.detach() > 0).float().mean()  # share of the patches that lean abnormal
        return {
            "loss": loss,
            "image": image_loss,
            "pixel": pixel_loss,
            "language": language_loss,
            "hint": hint,
            "support": support,
        }

    def hint_loss(self, ano: torch.Tensor, hints: list[str], known: torch.Tensor) -> torch.Tensor:
        """Of `<Ano>` and of the learned no-prior state."""
        tokenizer, embedding = self.processor.tokenizer, self.model.get_input_embeddings()
        none = hint_ids([words.change_hint(None, ano.shape[1])], tokenizer)
        no_prior, told = self.model.comparer.no_prior[None], known.new_ones(1)
        return hint_loss(ano, hint_ids(hints, tokenizer), known, embedding) + hint_loss(
            no_prior, none, told, embedding
        )


def system_token_loss(out: DetectOutput, mask: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Pixel loss of stage 1: every tap's abnormal and normal logits against the share of lesion.

    Args:
        out: of a batch, logits `(B, L, h, w)`.
        mask: `(B, H, W)` in {0, 1}.
        known: `(B,)` bool, whose mask is the truth; the others do not count.
    """
    out, mask = DetectOutput(**{name: value[known] for name, value in out.items()}), mask[known]
    share = adaptive_avg_pool2d(mask[:, None], out.abnormal.shape[-2:]).expand_as(out.abnormal)
    # a patch that is a tenth lesion is abnormal to that tenth; rare, so it weighs more
    weight = 1 + 4 * (share > 0)
    abnormal = binary_cross_entropy_with_logits(out.abnormal, share, weight, reduction="none")
    normal = binary_cross_entropy_with_logits(out.normal, 1 - share, weight, reduction="none")
    return mean(abnormal) + mean(normal) + 0.5 * soft_dice(out.map_logits.sigmoid(), share[:, 0])


def main(arguments: DetectArguments) -> Path:
    """Train stage 1 on the backbone in `arguments.model`; write it to `arguments.out`."""
    model, processor = load_stage(arguments)
    train(model, processor, arguments)
    return finish(model, processor, arguments, "detect")


def train(model, processor, arguments: DetectArguments) -> None:
    """Train stage 1 of a loaded model, in memory."""
    config = model.config
    slices = training_slices(arguments, config.image_size, masked=False)

    def scans(rng, generator):
        batch = scan_batch([slices.scan(rng) for _ in range(arguments.batch)], generator)
        batch["dialogues"] = [
            given
            or (
                words.detect_dialogue(cell, sequence, rng)
                if known
                else words.presence_dialogue(bool(label), rng)
            )
            for given, cell, sequence, known, label in zip(
                *(batch[name] for name in ("dialogue", "cell", "sequence", "known", "label")),
                strict=True,
            )
        ]
        # one word a stage token: a single token has no room for row and column
        cells = batch["cell"] if arguments.hint_weight else []
        batch["hints"] = [words.hint(cell, config.pooled_size**2) for cell in cells]
        return batch

    adapt(model, arguments)
    freeze_for(model, "detect", adapters=arguments.lora > 0, tower=arguments.tower)
    stage = DetectStage(model, processor, arguments)
    fit(stage, model, Draws(scans, arguments.seed), arguments, "detect")
