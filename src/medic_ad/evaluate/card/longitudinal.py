"""Evaluation: the change map on real pairs of dates against the published change mask."""

from __future__ import annotations

import numpy as np
from rich.console import Console

from medic_ad.data.sample import Sample
from medic_ad.evaluate.bootstrap import Figure
from medic_ad.evaluate.card.material import samples_of
from medic_ad.evaluate.metrics import PixelCounts
from medic_ad.evaluate.pairs import compare_images
from medic_ad.evaluate.store import Context, Part, digest
from medic_ad.readers import read_image

NAME = "ms_longitudinal"
BRAIN = "brainmask.nii.gz"
OURS, SUBTRACTION, GREY, PRODUCT = (
    "nano",
    "normalised subtraction",
    "follow-up intensity",
    "subtraction x intensity",
)


def normalised(pixels: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Zero mean and unit spread within the brain."""
    inside = pixels[brain]
    return (pixels - inside.mean()) / max(float(inside.std()), 1e-6)


def baselines(prior: np.ndarray, current: np.ndarray, brain: np.ndarray) -> dict[str, np.ndarray]:
    """Maps that need no model, on the common grid that the data set publishes."""
    first, second = normalised(prior, brain), normalised(current, brain)
    difference = np.abs(second - first)
    low = second[brain].min()
    return {SUBTRACTION: difference, GREY: second, PRODUCT: difference * (second - low)}


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


def measure(context: Context) -> Part:
    """Voxel AUROC and AP of |change map| inside the brain, patient by patient."""
    samples = samples_of(context.root, NAME)
    patients = sorted({str(s.patient) for s in samples})
    maps: dict[str, list[np.ndarray]] = {k: [] for k in (OURS, SUBTRACTION, GREY, PRODUCT)}
    masks, said = [], []
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
        inside = brain > 0.5
        masks.append((mask > 0.5)[inside])
        for name, values in baselines(prior, current, inside).items():
            maps[name].append(values[inside])
        maps[OURS].append(np.abs(np.nan_to_num(seen["map"][inside])))
        gate = "in scope" if bool(seen["in_scope"]) else "out of scope for `read`"
        changed = int(masks[-1].sum())
        said.append(f"{patient}: {changed} changed voxels, label {seen['label']}, {gate}")
    sampling = context.resampling(patients, "patient", NAME)
    counted = {name: PixelCounts(values, masks) for name, values in maps.items()}
    figures: list[Figure] = []
    for curve in ("auroc", "average_precision"):
        for name, counts in counted.items():
            words = {"auroc": "voxel AUROC", "average_precision": "voxel AP"}[curve]
            each = [getattr(counts, curve)(one) for one in np.eye(len(patients))]
            figures.append(sampling.mean(f"{words}, mean over patients", np.array(each), name))
    notes = [
        "; ".join(said) + ".",
        "|Change map| against the published, unsigned change mask inside the published brain mask, "
        "on the common grid of the data set; the model has seen none of this set. Both dates go "
        "through registration as in `read`. The map is measured whether or not the gate lets the "
        "scan pass. Two patients: each one's figure, no interval.",
    ]
    return Part("Compare, real pairs of dates (MS)", notes, figures)
