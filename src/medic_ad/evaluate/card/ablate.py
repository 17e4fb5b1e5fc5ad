"""Evaluation: the heatmap must depend on `<Ano>` and on what was learned (Adebayo et al. 2018)."""

from __future__ import annotations

from itertools import chain

import numpy as np

from medic_ad.evaluate.figures.bootstrap import mean_of
from medic_ad.evaluate.figures.metrics import PixelCounts
from medic_ad.evaluate.material.sets import CHENG, CLUSTER, cheng_twins
from medic_ad.evaluate.parts.randomise import exchanged, randomised
from medic_ad.evaluate.predictions.store import Context, Part, digest
from medic_ad.evaluate.predictions.sweep import as_image, predict

SLICES = 60


def measure(context: Context) -> Part:
    """Both checks on evenly spaced test slices."""
    twins = cheng_twins(context)
    index = np.unique(np.linspace(0, len(twins.groups) - 1, SLICES).astype(int))
    masks = list(twins.mask[index])

    def make() -> dict[str, np.ndarray]:
        out = exchanged(context.model, twins.image[index], twins.clean[index], masks)
        images = [as_image(p, "slice.png") for p in twins.image[index]]
        models = [("as trained", context.model)]
        for name, model in chain(models, randomised(context.model, context.seed)):
            seen = predict(model, images, f"heatmap, {name}")
            out[name] = np.stack([p.heatmap for p in seen])
        return out

    key = digest(context.seed, index.tolist(), int(twins.clean.sum(dtype=np.int64)))
    seen = context.store.predictions(context.weights, "ablate", key, make)
    sampling = context.resampling(np.array(twins.groups)[index].tolist(), CLUSTER, f"{CHENG} test")
    own, twin = mean_of(seen.pop("own")), mean_of(seen.pop("other"))
    name, of = "mean heatmap inside the mask", context.of
    figures = [
        sampling.figure(name, own, f"{of}, its own `<Ano>`"),
        sampling.figure(name, twin, f"{of}, `<Ano>` of the inpainted twin"),
        sampling.difference(name, own, twin, "own - twin's"),
    ]
    figures += [
        sampling.figure("pixel AUROC", PixelCounts(list(maps), masks).auroc, f"{of}, {kind}")
        for kind, maps in seen.items()
    ]
    notes = [f"{len(index)} evenly spaced test slices."]
    return Part("What the heatmap depends on", notes, figures)
