"""Evaluation: the change map on real pairs of dates against the published change mask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from scipy import ndimage

from medic_ad.data.sample import Sample
from medic_ad.evaluate.baselines.change import maps_of
from medic_ad.evaluate.figures.bootstrap import Figure
from medic_ad.evaluate.figures.metrics import PixelCounts
from medic_ad.evaluate.figures.regions import FreeResponse
from medic_ad.evaluate.material.sets import samples_of
from medic_ad.evaluate.predictions.pairs import compare_images
from medic_ad.evaluate.predictions.store import Context, Part, digest
from medic_ad.finding import CHANGED
from medic_ad.readers import read_image

NAME = "ms_longitudinal"
BRAIN = "brainmask.nii.gz"
SHARES = (0.02, 0.01, 0.005, 0.002, 0.001, 0.0005, 0.0002, 0.0001)  # of the brain, drawn


def compare_patient(context: Context, sample: Sample) -> dict[str, np.ndarray]:
    """The model's change map of one patient, on the current grid, and what `read` would say."""
    current, prior = (
        read_image(str(path), modality="MR", body_part="BRAIN")
        for path in (sample.image, sample.prior)
    )
    Console(stderr=True).print(
        f"comparing both dates of {sample.patient} ({current.grid[0]} slices)"
    )
    return compare_images(context.model, current, prior)


def lesion_f1(
    maps: Sequence[np.ndarray], masks: Sequence[np.ndarray], brains: Sequence[np.ndarray]
) -> np.ndarray:
    """`(n,)` F1 of changed lesions found in each patient's map `(D, H, W)`.

    Each patient's threshold is the one of highest mean F1 over the other patients; a map is tried
    at those that draw the `SHARES` of all brains.
    """
    inside = np.concatenate([values[brain] for values, brain in zip(maps, brains, strict=True)])
    thresholds = np.quantile(inside, 1 - np.array(SHARES))
    f1 = FreeResponse(
        [np.where(brain, values, -np.inf) for values, brain in zip(maps, brains, strict=True)],
        masks,
        np.tile(thresholds, (len(maps), 1)),
    ).f1()
    others = [np.delete(f1, i, 0).mean(0).argmax() for i in range(len(f1))]
    return f1[np.arange(len(f1)), others]


def measure(context: Context) -> Part:
    """Voxel AUROC and AP of |change map| inside the brain and F1 of its lesions, by patient."""
    samples = samples_of(context.root, NAME)
    patients = sorted({str(s.patient) for s in samples})
    maps: dict[str, list[np.ndarray]] = {context.of: []}
    masks, brains, said = [], [], []
    for patient in patients:
        sample = next(s for s in samples if s.patient == patient)
        seen = context.store.predictions(
            context.weights,
            f"longitudinal-{patient}",
            digest(sample.image, sample.prior),
            lambda s=sample: compare_patient(context, s),  # type: ignore[misc]
        )
        files = (
            sample.prior,
            sample.image,
            sample.mask,
            sample.image.rsplit("/", 1)[0] + "/" + BRAIN,
        )
        prior, current, mask, brain = (
            read_image(str(f), modality="MR", body_part="BRAIN").pixels for f in files
        )
        box = ndimage.find_objects((brain > 0.5).astype(int))[0]
        inside = brain[box] > 0.5
        brains.append(inside)
        masks.append((mask[box] > 0.5) & inside)
        for name, values in maps_of(prior[box], current[box], inside).items():
            maps.setdefault(name, []).append(values)
        maps[context.of].append(np.abs(np.nan_to_num(seen["map"][box])))
        gate = "in scope" if bool(seen["in_scope"]) else "out of scope for `read`"
        changed = int(masks[-1].sum())
        lesions = ndimage.label(masks[-1], np.ones((3, 3, 3)))[1]
        said.append(
            f"{patient}: {changed} changed voxels in {lesions} lesions, "
            f"label {seen['label']}, {gate}"
        )
    sampling = context.resampling(patients, "patient", NAME)
    truth = [mask[brain] for mask, brain in zip(masks, brains, strict=True)]
    counted = {
        name: PixelCounts([v[b] for v, b in zip(values, brains, strict=True)], truth)
        for name, values in maps.items()
    }
    figures: list[Figure] = []
    for curve in ("auroc", "average_precision"):
        for name, counts in counted.items():
            words = {"auroc": "voxel AUROC", "average_precision": "voxel AP"}[curve]
            each = [getattr(counts, curve)(one) for one in np.eye(len(patients))]
            figures.append(sampling.mean(f"{words}, mean over patients", np.array(each), name))
    for name, drawn in maps.items():
        f1 = lesion_f1(drawn, masks, brains)
        figures.append(sampling.mean("F1 of changed lesions, mean over patients", f1, name))
    fixed = FreeResponse(maps[context.of], masks, np.full((len(patients), 1), CHANGED)).f1()[:, 0]
    figures.append(sampling.mean(f"F1 of changed lesions at |map| {CHANGED:g}", fixed, context.of))
    notes = [
        "; ".join(said) + ".",
        "|Change map| against the published, unsigned change mask inside the published brain mask, "
        "on the common grid of the data set; the model has seen none of this set. Both dates go "
        "through registration as in `read`. The map is measured whether or not the gate lets the "
        "scan pass. Two patients: each one's figure, no interval.",
        "Changed lesions are connected voxels of the mask; every connected region that a map draws "
        "makes one mark, its highest voxel. The threshold of every map, baselines included, is the "
        "best one for the other patient; the model's own fixed threshold stands beside it.",
    ]
    return Part("Compare, real pairs of dates (MS)", notes, figures)
