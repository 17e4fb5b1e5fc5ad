"""Ablations: what a trained row is judged by, on validation; the test split stays closed."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import cross_entropy, interpolate

from medic_ad import words
from medic_ad.calibrate import Validation, platt
from medic_ad.evaluate.figures import metrics
from medic_ad.load import Model
from medic_ad.look import BATCH, Look, look
from medic_ad.train.losses import IGNORED, answer_labels
from medic_ad.words import CHANGE_LABELS

Judged = dict[str, tuple[float, int]]  # figure -> value, and of how many images or pairs
FIXED = 0.5  # threshold of the heatmap, the same for all rows
QUESTION, ANSWERS = "Is there an anomaly?", ("No.", "Yes.")


def answer_losses(
    model: Model, looks: Look, images: int, question: str, answer: str, diff: torch.Tensor
) -> torch.Tensor:
    """How unlikely an answer is `(n,)`, summed over its tokens.

    Args:
        looks: at `n * images` canvases, baseline first.
        images: canvases of one prompt.
        diff: `(n, P * P, D)` the `<Diff>` embeddings.
    """
    network, processor = model.network, model.processor
    n, merged = len(diff), looks.vision.merged[0]
    prompts = [processor.prompt(question, images=images, answer=answer)] * n
    text = processor.text(prompts, model.config, merged[0].numel()).to(model.device)
    merge = model.config.vision_config.spatial_merge_size
    grid = [1, *(side * merge for side in merged.shape[1:])]
    logits = network(
        **text,
        image_grid_thw=torch.tensor([grid] * n * images, device=model.device),
        mm_encoder_outputs={"image": looks.vision.encoder},
        ano_embeds=torch.stack([d.embeds for d in looks.detected]),
        diff_embeds=diff,
    ).logits.float()
    labels = answer_labels(text["input_ids"], processor.tokenizer)[:, 1:]
    each = cross_entropy(
        logits[:, :-1].transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
    )
    return each.sum(1)


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    return metrics.auroc(scores, labels)(np.ones(len(labels)))


@torch.inference_mode()
def scans(model: Model, seen: Validation, heatmap: bool) -> Judged:
    """Figures of stage 1, or of stage 3 on it, of lesions against their inpainted twins and shams.

    Half of the images fit how score and heatmap are joined; the other half is judged.
    """
    columns: dict[str, list] = {"logit": [], "evidence": [], "answer": [], "map": [], "heat": []}
    size = seen.masks.shape[-2:]
    for start in range(0, len(seen.images), BATCH):
        looks = look(model, torch.from_numpy(seen.images[start : start + BATCH]))
        coarse = torch.stack([d.map_logits for d in looks.detected]).float()
        columns["map"].append(interpolate(coarse[:, None], size=size, mode="bilinear")[:, 0])
        columns["heat"].append(looks.heatmaps)
        columns["logit"].append(looks.logits)
        columns["evidence"].append(looks.evidence)
        if not heatmap:
            none = model.network.comparer.no_prior.expand(len(looks.logits), -1, -1)
            no, yes = (answer_losses(model, looks, 1, QUESTION, a, none) for a in ANSWERS)
            columns["answer"].append(no - yes)
    found = {k: torch.cat(v).cpu().numpy() for k, v in columns.items() if v}
    judged, lesion = seen.second, seen.masks.any((1, 2))
    shown = judged & lesion
    pixels = list(found["heat" if heatmap else "map"][shown])
    masks = list(seen.masks[shown])
    pixel = metrics.PixelCounts(pixels, masks).auroc(np.ones(len(masks)))
    labels, n, n_shown = seen.labels[judged], int(judged.sum()), int(shown.sum())
    if not heatmap:
        return {
            "image AUROC": (auroc(found["logit"][judged], labels), n),
            "pixel AUROC of the map": (pixel, n_shown),
            "AUROC of the text's yes or no": (auroc(found["answer"][judged], labels), n),
        }
    both = np.column_stack([found["logit"], found["evidence"]])
    one, two, _ = platt(both[~judged], seen.labels[~judged])
    dices = [metrics.dice(h >= FIXED, m) for h, m in zip(pixels, masks, strict=True)]
    return {
        "image AUROC, joined with the heatmap": (auroc(both[judged] @ [one, two], labels), n),
        "pixel AUROC of the heatmap": (pixel, n_shown),
        f"mean Dice at {FIXED}": (float(np.mean(dices)), n_shown),
        "heatmap that stays with a lesion-free <Ano>": kept_share(model, seen, judged),
    }


@torch.inference_mode()
def kept_share(model: Model, seen: Validation, judged: np.ndarray) -> tuple[float, int]:
    """Mean heatmap inside lesions with the `<Ano>` of the twin, over that with their own; and n.

    One batch tells. `validation` puts the lesions first, their shams and their twins after them.
    """
    lesions = np.flatnonzero(seen.masks.any((1, 2)))
    n = len(lesions) // 2  # as they are, and as shams
    chosen = [i for i in range(n) if judged[i]][:BATCH]
    own = look(model, torch.from_numpy(seen.images[chosen]))
    twin = look(model, torch.from_numpy(seen.images[[i + 2 * n for i in chosen]]))
    swapped = torch.stack(
        model.network.explain(
            own.vision,
            [
                type(d)(**{**d, "embeds": t.embeds})
                for d, t in zip(own.detected, twin.detected, strict=True)
            ],
        )
    ).sigmoid()
    inside = torch.from_numpy(seen.masks[chosen])
    share = swapped.cpu()[inside].mean() / own.heatmaps.cpu()[inside].mean()
    return float(share), len(chosen)


@torch.inference_mode()
def pairs(model: Model, batch: dict) -> Judged:
    """Figures of stage 2 in the order given and exchanged.

    Args:
        batch: `image` and `followup` `(n, S, S)`, and `change` of each.
    """
    said, exchanged, told = [], [], []
    for first, second in zip(
        batch["image"].split(BATCH // 2), batch["followup"].split(BATCH // 2), strict=True
    ):
        looks = look(model, torch.stack([first, second], 1).flatten(0, 1))
        order = [(2 * i, 2 * i + 1) for i in range(len(first))]
        out = model.network.compare(looks.vision, looks.detected, order)
        back = model.network.compare(looks.vision, looks.detected, [(b, a) for a, b in order])
        said += [int(o.logits.argmax()) for o in out]
        exchanged += [int(o.logits.argmax()) for o in back]
        diff = torch.stack([o.embeds for o in out])
        losses = [
            answer_losses(
                model, looks, 2, words.COMPARE_QUESTION, words.CHANGE_SENTENCES[label], diff
            )
            for label in CHANGE_LABELS
        ]
        told += torch.stack(losses, 1).argmin(1).tolist()
    truth = np.array([CHANGE_LABELS.index(c) for c in batch["change"]])
    inverse = len(CHANGE_LABELS) - 1 - np.array(exchanged)  # worse and better change places
    right = {
        "accuracy of the change": np.array(said) == truth,
        "swap consistency": np.array(said) == inverse,
        "accuracy of the text": np.array(told) == truth,
    }
    return {name: (float(hit.mean()), len(truth)) for name, hit in right.items()}
