"""Evaluation: the heatmap must depend on `<Ano>` and on what was learned (Adebayo et al. 2018)."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import torch

from medic_ad.evaluate.bars import bar
from medic_ad.evaluate.bootstrap import mean_of
from medic_ad.evaluate.card.material import CHENG, CLUSTER, Twins, cheng_twins
from medic_ad.evaluate.metrics import PixelCounts
from medic_ad.evaluate.predict import as_image, predict
from medic_ad.evaluate.store import Context, Part, digest
from medic_ad.load import Model
from medic_ad.look import look
from medic_ad.model.modeling import MedicADForConditionalGeneration
from medic_ad.processor import fit_square, grey_window, restore

SLICES = 60


def randomised(model: Model, seed: int) -> dict[str, Model]:
    """The model with the heatmap decoder, or with everything but the calibration, as at birth."""
    torch.manual_seed(seed)
    fresh = MedicADForConditionalGeneration(model.config).eval().to(model.device)
    decoder = copy.deepcopy(model.network)
    decoder.explainer.load_state_dict(fresh.explainer.state_dict())
    fresh.calibration = model.network.calibration
    return {
        "decoder randomised": dataclasses.replace(model, network=decoder),
        "all weights randomised": dataclasses.replace(model, network=fresh),
    }


@torch.inference_mode()
def exchanged(model: Model, twins: Twins, index: np.ndarray) -> dict[str, np.ndarray]:
    """Mean heatmap inside the mask with the slice's own `<Ano>` and with its inpainted twin's."""
    own: list[float] = []
    twin: list[float] = []
    for i in bar(index.tolist(), "exchanging <Ano>"):
        fitted = [
            fit_square(p, grey_window(p), model.config.image_size)
            for p in (stack[i].astype(np.float32) for stack in (twins.image, twins.clean))
        ]
        geometry = fitted[0][1]
        seen, other = (look(model, canvas[None]) for canvas, _ in fitted)
        [logits] = model.network.explain(seen.vision, other.detected)
        maps = seen.heatmaps[0], logits.float().sigmoid()
        for values, heatmap in zip((own, twin), maps, strict=True):
            values.append(float(restore(heatmap, geometry)[twins.mask[i]].mean()))
    return {"own": np.array(own), "twin": np.array(twin)}


def measure(context: Context) -> Part:
    """Both checks on evenly spaced test slices."""
    twins = cheng_twins(context)
    index = np.unique(np.linspace(0, len(twins.samples) - 1, SLICES).astype(int))
    masks = list(twins.mask[index])

    def make() -> dict[str, np.ndarray]:
        out = exchanged(context.model, twins, index)
        models = {"as trained": context.model, **randomised(context.model, context.seed)}
        images = [as_image(p, "slice.png") for p in twins.image[index]]
        for name, model in models.items():
            seen = predict(model, images, f"heatmap, {name}")
            out[name] = np.stack([p.heatmap for p in seen])
        return out

    key = digest(context.seed, index.tolist(), int(twins.clean.sum(dtype=np.int64)))
    seen = context.store.predictions(context.weights, "ablate", key, make)
    sampling = context.resampling(np.array(twins.groups)[index].tolist(), CLUSTER, f"{CHENG} test")
    own, twin = mean_of(seen.pop("own")), mean_of(seen.pop("twin"))
    name = "mean heatmap inside the mask"
    figures = [
        sampling.figure(name, own, "nano, its own `<Ano>`"),
        sampling.figure(name, twin, "nano, `<Ano>` of the inpainted twin"),
        sampling.difference(name, own, twin, "own - twin's"),
    ]
    figures += [
        sampling.figure("pixel AUROC", PixelCounts(list(maps), masks).auroc, f"nano, {of}")
        for of, maps in seen.items()
    ]
    notes = [f"{len(index)} evenly spaced test slices."]
    return Part("What the heatmap depends on", notes, figures)
