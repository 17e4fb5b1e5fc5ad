"""Evaluation: tumour slices and shams against the same slices with the tumour inpainted."""

from __future__ import annotations

import numpy as np

from medic_ad.evaluate.baselines.grey import oriented, trivial
from medic_ad.evaluate.card.localise import heatmaps_of
from medic_ad.evaluate.figures import metrics
from medic_ad.evaluate.material.sets import CHENG, CLUSTER, cheng_twins
from medic_ad.evaluate.material.twins import METHOD
from medic_ad.evaluate.parts.scores import Scores, calibration_figures, constant, overall
from medic_ad.evaluate.predictions.store import Context, Part

KINDS = ("image", "sham", "clean")  # the first two are abnormal


def measure(context: Context) -> Part:
    """Source-matched detection on the tumour test slices."""
    twins, seen = cheng_twins(context), heatmaps_of(context)
    n, calibration = len(twins.groups), context.model.network.calibration
    entry = np.concatenate([seen[f"{k}_entry"] for k in KINDS])
    s = Scores(
        scores=np.concatenate([seen[f"{k}_score"] for k in KINDS]),
        labels=np.repeat([1, 1, 0], n),
        threshold=calibration.threshold.cpu().numpy()[entry],
        low=calibration.band_low.cpu().numpy()[entry],
        high=calibration.band_high.cpu().numpy()[entry],
        prevalence=float(calibration.prevalence[0]),
    )
    sampling = context.resampling(twins.groups * 3, CLUSTER, f"{CHENG} test")
    slices = np.concatenate([twins.image, twins.sham, twins.clean])
    baselines = {k: oriented(v, s.labels) for k, v in trivial(slices).items()}
    own, of = metrics.auroc(s.scores, s.labels), context.of
    figures = [sampling.figure("AUROC", own, of, ">= 0.92")]
    figures += [
        sampling.figure("AUROC", metrics.auroc(v, s.labels), k) for k, v in baselines.items()
    ]
    best = max(baselines, key=lambda k: metrics.auroc(baselines[k], s.labels)(np.ones(3 * n)))
    figures.append(
        sampling.difference(
            "AUROC", own, metrics.auroc(baselines[best], s.labels), f"{of} - {best}"
        )
    )
    for kind, words in (("image", "published slices only"), ("sham", "shams only")):
        keep = np.repeat([kind == "image", kind == "sham", True], n)
        part = sampling.subset(keep)
        figures.append(
            part.figure(f"AUROC, {words}", metrics.auroc(s.scores[keep], s.labels[keep]), of)
        )
    figures += overall(s, sampling, of) + constant(s, sampling)
    calibrated, note, _ = calibration_figures(s, sampling, context.seed, of)
    inside = np.mean([seen[f"{k}_in_scope"].mean() for k in KINDS])
    notes = [
        f"Abnormal: {n} test slices as published and the same {n} with a sham repair elsewhere; "
        f"normal: the same {n} with the tumour inpainted ({METHOD}, a method that training never "
        "used). Source, patient and slice are therefore the same in both classes. What the mask "
        "leaves out, such as oedema, stays in the inpainted slice. An image-free score has AUROC "
        "0.5; baselines are turned in their favour.",
        f"{inside:.1%} of these images pass the out-of-scope gate; scores are taken without it.",
        note,
    ]
    return Part("Detect, source-matched", notes, figures + calibrated)
