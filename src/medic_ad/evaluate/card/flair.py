"""Evaluation: MS lesions on FLAIR slices against slices of the same scan, patient by patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from medic_ad.data.sample import Sample
from medic_ad.data.sets.common import foreground
from medic_ad.evaluate.baselines.grey import oriented
from medic_ad.evaluate.figures import metrics
from medic_ad.evaluate.figures.bootstrap import Figure
from medic_ad.evaluate.material.sets import samples_of
from medic_ad.evaluate.material.twins import MADE_WITH, METHOD, repaired, sham_repaired
from medic_ad.evaluate.predictions.bars import bar
from medic_ad.evaluate.predictions.store import Context, Part, digest
from medic_ad.evaluate.predictions.sweep import as_image, columns, predict
from medic_ad.processor import grey_window
from medic_ad.readers import read_image

NAME = "ms_cross_sectional"
AREA_CALIPER = 0.10  # of the brain's area on the lesion slice
PLACE_CALIPER = 5  # slices of distance from the middle of the brain
UNIT = "patient"


@dataclass(frozen=True)
class Scan:
    """All judged slices of one patient, grey in [0, 1] by the volume's own window.

    Attributes:
        grey: `(n, H, W)` float32; `clean` and `sham` differ from it where there are lesions.
        lesion: `(n,)` voxels of lesion.
        area: `(n,)` voxels of brain.
        place: `(n,)` distance from the middle slice.
    """

    grey: np.ndarray
    clean: np.ndarray
    sham: np.ndarray
    lesion: np.ndarray
    area: np.ndarray
    place: np.ndarray


def scan_of(context: Context, patient: str, samples: list[Sample]) -> Scan:
    """Read one patient's volume and make the twins of its lesion slices."""

    def make() -> dict[str, np.ndarray]:
        image = read_image(samples[0].image, modality="MR", body_part="BRAIN")
        mask = read_image(str(samples[0].mask), modality="MR", body_part="BRAIN").pixels > 0.5
        index = np.array([s.slice for s in samples])
        low, high = grey_window(image.pixels)
        grey = np.clip((image.pixels[index] - low) / (high - low), 0, 1).astype(np.float32)
        lesions, clean, sham = mask[index], grey.copy(), grey.copy()
        for k in bar(np.flatnonzero(lesions.any((1, 2))), f"inpainting {patient}"):
            rng = np.random.default_rng((context.seed, int(k)))
            clean[k] = repaired(grey[k], lesions[k], rng)
            sham[k] = sham_repaired(grey[k], lesions[k], rng)
        area = foreground(image.pixels)[index].sum((1, 2))
        middle = (index.min() + index.max()) / 2
        return {
            "grey": grey.astype(np.float16),
            "clean": clean.astype(np.float16),
            "sham": sham.astype(np.float16),
            "lesion": lesions.sum((1, 2)),
            "area": area,
            "place": np.abs(index - middle),
        }

    key = digest(MADE_WITH, context.seed, [(s.image, s.slice) for s in samples])
    arrays = context.store.material(f"flair-{patient}", key, make)
    return Scan(**{k: v.astype(np.float32) for k, v in arrays.items()})


def matched(scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """Lesion slices and lesion-free slices, one to one, alike in brain area and position.

    As many pairs as the calipers allow, and among those the closest (linear assignment).
    """
    with_lesion, free = np.flatnonzero(scan.lesion > 0), np.flatnonzero(scan.lesion == 0)
    area = np.abs(scan.area[with_lesion, None] - scan.area[free]) / scan.area[with_lesion, None]
    place = np.abs(scan.place[with_lesion, None] - scan.place[free])
    far = (area > AREA_CALIPER) | (place > PLACE_CALIPER)
    cost = area / AREA_CALIPER + place / PLACE_CALIPER
    rows, columns_ = linear_sum_assignment(np.where(far, 1e3, cost))
    near = ~far[rows, columns_]
    return with_lesion[rows[near]], free[columns_[near]]


def logits_of(context: Context, patient: str, scan: Scan) -> dict[str, np.ndarray]:
    """Calibrated logits of all slices and of the twins of lesion slices."""
    with_lesion = np.flatnonzero(scan.lesion > 0)

    def make() -> dict[str, np.ndarray]:
        stacks = {
            "grey": scan.grey,
            "clean": scan.clean[with_lesion],
            "sham": scan.sham[with_lesion],
        }
        out: dict[str, np.ndarray] = {}
        for name, slices in stacks.items():
            images = [as_image(p, f"{patient}-{k}.png") for k, p in enumerate(slices)]
            windows = [(0.0, 1.0)] * len(images)
            seen = predict(context.model, images, f"reading {patient} ({name})", windows, True)
            out |= {f"{name}_{k}": v for k, v in columns(seen, ("logit", "in_scope")).items()}
        return out

    key = digest(MADE_WITH, context.seed, float(scan.clean.sum()))
    return context.store.predictions(context.weights, f"flair-{patient}", key, make)


def measure(context: Context) -> Part:
    """AUROC per patient on matched slices and on inpainted twins, with area and position beside."""
    samples = samples_of(context.root, NAME)
    rows: dict[str, dict[str, list]] = {"matched": {}, "inpainted": {}}
    sizes = []
    for patient in sorted({str(s.patient) for s in samples}):
        scan = scan_of(context, patient, [s for s in samples if s.patient == patient])
        seen = logits_of(context, patient, scan)
        lesion, free = matched(scan)
        own = np.flatnonzero(scan.lesion > 0)
        label = f"{patient} ({context.seen.get(patient, 'not seen')})"
        sizes.append(
            f"{label}: {len(own)} lesion slices, {len(lesion)} of them with a matched slice"
        )
        index = np.concatenate([lesion, free])
        labels = np.repeat([1, 0], len(lesion))
        _add(
            rows["matched"],
            label,
            labels,
            model=seen["grey_logit"][index],
            area=scan.area[index],
            place=scan.place[index],
        )
        logits = np.concatenate([seen["grey_logit"][own], seen["sham_logit"], seen["clean_logit"]])
        labels = np.repeat([1, 1, 0], len(own))
        _add(
            rows["inpainted"],
            label,
            labels,
            model=logits,
            area=np.tile(scan.area[own], 3),
            place=np.tile(scan.place[own], 3),
        )
    figures = [f for name, part in rows.items() for f in _figures(context, name, part)]
    notes = [
        "; ".join(sizes) + ".",
        f"Matched: lesion-free slices of the same scan, one to one, at most {AREA_CALIPER:.0%} "
        f"apart in brain area and {PLACE_CALIPER} slices in distance from the middle. "
        f"Inpainted: lesion slices and shams against the same slices with all lesions inpainted "
        f"({METHOD}). The two MS sets come from one hospital. Two patients: each one's figure, no "
        "interval.",
        "Figures of a patient that was seen are no held-out figures; leave-one-patient-out figures "
        "come from weights that were trained with --exclude.",
    ]
    return Part("Detect, MS lesions on FLAIR", notes, figures)


def _add(rows: dict[str, list], patient: str, labels: np.ndarray, **scores: np.ndarray) -> None:
    rows.setdefault("patient", []).append(np.repeat(patient, len(labels)))
    rows.setdefault("label", []).append(labels)
    for name, values in scores.items():
        rows.setdefault(name, []).append(values)


def _figures(context: Context, name: str, rows: dict[str, list]) -> list[Figure]:
    """One figure per method; its value is the mean over patients."""
    labels, patients = np.concatenate(rows["label"]), np.concatenate(rows["patient"])
    out = []
    for of, words in (
        ("model", context.of),
        ("area", "brain area"),
        ("place", "distance from the middle"),
    ):
        # a baseline is turned in its favour within each patient
        values = np.concatenate(
            [
                v if of == "model" else oriented(v, y)
                for v, y in zip(rows[of], rows["label"], strict=True)
            ]
        )

        def within(counts: np.ndarray, values=values) -> float:
            parts = [
                metrics.auroc(values[patients == p], labels[patients == p])(counts[patients == p])
                for p in np.unique(patients)
            ]
            return float(np.nanmean(parts)) if np.isfinite(parts).any() else float("nan")

        sampling = context.resampling(patients, UNIT, NAME)
        aim = "> area and position" if of == "model" else None
        out.append(sampling.figure(f"AUROC, {name}, mean over patients", within, words, aim))
    return out
