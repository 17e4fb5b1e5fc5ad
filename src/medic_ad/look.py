"""Step 4 as the road uses it: slices -> one vision pass -> score logits, heatmaps, gate, text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from medic_ad import words
from medic_ad.load import Model
from medic_ad.model.calibration import heatmap_evidence
from medic_ad.model.compare import CompareOutput
from medic_ad.model.detect import DetectOutput
from medic_ad.model.linear import packed
from medic_ad.model.modeling import Vision
from medic_ad.processor import fit_square, restore

BATCH = 16  # canvases a vision pass; memory above the arrays stays flat
NEW_TOKENS = 32


@dataclass(frozen=True)
class Look:
    """One vision pass over B canvases and what stages 1 and 3 say of it.

    Attributes:
        canvases: `(B, S, S)` in [0, 1], what was looked at.
        vision, detected: as the network gives them, one entry per canvas.
        logits: `(B,)` uncalibrated image logits of stage 1.
        evidence: `(B,)` `heatmap_evidence` of stage 3, uncalibrated too.
        heatmaps: `(B, S, S)` probabilities.
        gate: `(B, F)` features of the out-of-scope gate.
    """

    canvases: torch.Tensor
    vision: Vision
    detected: list[DetectOutput]
    logits: torch.Tensor
    evidence: torch.Tensor
    heatmaps: torch.Tensor
    gate: torch.Tensor


@torch.inference_mode()
@packed()
def look(model: Model, canvases: torch.Tensor) -> Look:
    """Detect and explain B canvases `(B, S, S)` in [0, 1]; no text is generated."""
    network = model.network
    images = model.processor.images(canvases.to(model.device), model.config)
    vision = network.encode(**images)
    detected = network.detect(vision)
    explained = torch.stack(network.explain(vision, detected)).float()
    return Look(
        canvases=canvases,
        vision=vision,
        detected=detected,
        logits=torch.stack([d.logit for d in detected]).float(),
        evidence=heatmap_evidence(explained),
        heatmaps=explained.sigmoid(),
        gate=vision.gate_features().float(),
    )


@dataclass(frozen=True)
class Sweep:
    """What detect and explain say of n slices, one by one.

    Attributes:
        logits, evidence: `(n,)`, uncalibrated, as in `Look`.
        gate: `(n, F)`.
        heatmaps: float32 `(H, W)` each, on the slice's own grid, in [0, 1].
        highest: of each scope entry, its highest calibrated logit, the look at that batch and the
            place in it.
    """

    logits: torch.Tensor
    evidence: torch.Tensor
    gate: torch.Tensor
    heatmaps: list[np.ndarray]
    highest: dict[int, tuple[float, Look, int]]

    def strongest(self, entry: int) -> Look:
        """The look at the slice of a scope entry's highest calibrated logit; no pass is made."""
        _, seen, place = self.highest[entry]
        return parted(seen)[place]


def sweep(
    model: Model,
    slices: Sequence[np.ndarray],
    windows: Sequence[tuple[float, float]],
    track: Callable[[range], Iterable[int]] = iter,
) -> Sweep:
    """Look at slices `(H, W)`, `BATCH` a vision pass; memory above the arrays stays flat.

    Args:
        windows: the grey values that become black and white, one pair a slice.
        track: wraps the batches, for a progress bar.
    """
    calibration = model.network.calibration
    looks, heatmaps = [], []
    highest: dict[int, tuple[float, Look, int]] = {}
    for start in track(range(0, len(slices), BATCH)):
        stop = start + BATCH
        fitted = [
            fit_square(pixels, window, model.config.image_size)
            for pixels, window in zip(slices[start:stop], windows[start:stop], strict=True)
        ]
        seen = look(model, torch.stack([canvas for canvas, _ in fitted]))
        looks.append((seen.logits, seen.evidence, seen.gate))
        heatmaps += [
            restore(heatmap, geometry).clip(0, 1)
            for heatmap, (_, geometry) in zip(seen.heatmaps, fitted, strict=True)
        ]
        for entry in range(len(calibration.slope)):
            value, place = calibration.logit(entry, seen.logits, seen.evidence).max(0)
            if entry not in highest or float(value) > highest[entry][0]:
                highest[entry] = float(value), seen, int(place)
    logits, evidence, gate = (torch.cat(column) for column in zip(*looks, strict=True))
    return Sweep(logits, evidence, gate, heatmaps, highest)


@torch.inference_mode()
def compare(model: Model, baseline: Look, followup: Look) -> CompareOutput:
    """Stage 2 for one pair of single-canvas looks; each order is its own call of the same shape."""
    vision = joined(baseline, followup)
    [out] = model.network.compare(vision, [*baseline.detected, *followup.detected], [(0, 1)])
    return out


def joined(*looks: Look) -> Vision:
    """Looks made one by one -> the vision output of one prompt with all their images."""
    return Vision(
        taps=[t for x in looks for t in x.vision.taps],
        merged=[t for x in looks for t in x.vision.merged],
        images=[t for x in looks for t in x.vision.images],
        encoder=BaseModelOutputWithPooling(
            last_hidden_state=torch.cat([x.vision.encoder.last_hidden_state for x in looks]),
            pooler_output=tuple(t for x in looks for t in x.vision.encoder.pooler_output),
        ),
    )


def parted(seen: Look) -> list[Look]:
    """A look at B canvases -> B looks at one, as views of the same memory."""
    vision, tokens = seen.vision, [t.shape[0] for t in seen.vision.encoder.pooler_output]
    merge = vision.encoder.last_hidden_state.shape[0] // sum(tokens)
    states = vision.encoder.last_hidden_state.split([n * merge for n in tokens])
    return [
        Look(
            canvases=seen.canvases[i : i + 1],
            vision=Vision(
                taps=vision.taps[i : i + 1],
                merged=vision.merged[i : i + 1],
                images=vision.images[i : i + 1],
                encoder=BaseModelOutputWithPooling(
                    last_hidden_state=states[i],
                    pooler_output=vision.encoder.pooler_output[i : i + 1],
                ),
            ),
            detected=seen.detected[i : i + 1],
            logits=seen.logits[i : i + 1],
            evidence=seen.evidence[i : i + 1],
            heatmaps=seen.heatmaps[i : i + 1],
            gate=seen.gate[i : i + 1],
        )
        for i in range(len(tokens))
    ]


@torch.inference_mode()
def say(
    model: Model,
    question: str,
    looks: Sequence[Look],
    change: CompareOutput | None = None,
    stages: bool = True,
) -> str:
    """The language model's answer about one scan, or about a pair (baseline first).

    Args:
        looks: single-canvas looks; their vision pass is used again, none is made.
        change: stage 2's output for a pair; without it `<|diff|>` is the learned no-prior state.
        stages: whether the prompt holds stage tokens; without them the stock class answers.
    """
    network, processor, config = model.network, model.processor, model.config
    vision = joined(*looks)
    prompt = processor.prompt(question, images=len(looks), stages=stages)
    text = processor.text([prompt], config, vision.merged[0][0].numel()).to(model.device)
    grids = [
        [1, *(side * config.vision_config.spatial_merge_size for side in m.shape[1:])]
        for m in vision.merged
    ]
    embeds = {}
    if stages:
        embeds = {
            "ano_embeds": torch.stack([d.embeds for x in looks for d in x.detected]),
            "diff_embeds": (network.comparer.no_prior if change is None else change.embeds)[None],
        }
    out = network.generate(
        **text,
        **embeds,
        image_grid_thw=torch.tensor(grids, device=model.device),
        mm_encoder_outputs={"image": vision.encoder},
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        eos_token_id=processor.tokenizer.eos_token_id,
        pad_token_id=processor.tokenizer.pad_token_id,
    )
    new = out[0, text["input_ids"].shape[1] :]
    return processor.tokenizer.decode(new, skip_special_tokens=True).strip()


def describe(model: Model, scan: Look) -> str:
    """The sentence about one scan."""
    return say(model, words.DETECT_QUESTION, [scan])


def describe_change(model: Model, baseline: Look, followup: Look, change: CompareOutput) -> str:
    """The sentence about a pair."""
    return say(model, words.COMPARE_QUESTION, [baseline, followup], change)
