"""`medic-ad evaluate calibration`: scores of lesion slices beside repaired twins and shams.

Every slice gives both classes, so that source, patient and slice are the same in both, and the same
repair is made in both: a probability is right here only if it is about the lesion.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from medic_ad.data.sample import Sample
from medic_ad.errors import DataError
from medic_ad.evaluate.baselines.grey import intensity
from medic_ad.evaluate.figures import metrics
from medic_ad.evaluate.material.twins import MADE_WITH, METHOD, repaired, sham_repaired
from medic_ad.evaluate.output import curves
from medic_ad.evaluate.output.finish import case_row, finish
from medic_ad.evaluate.output.markdown import number, spread
from medic_ad.evaluate.output.page import Picture
from medic_ad.evaluate.parts.scores import calibration_figures, overall, scores_of
from medic_ad.evaluate.predictions.run import Run, begin
from medic_ad.evaluate.predictions.store import Arrays, Part, Store, digest, opened
from medic_ad.evaluate.predictions.sweep import as_image, columns, predict
from medic_ad.evaluate.predictions.table import (
    Predictions,
    TableArguments,
    file_of,
    images_of,
    mask_of,
    slice_of,
    state_of,
)
from medic_ad.load import Model

WRONG = {"abnormal read as normal": "abnormal", "normal read as abnormal": "normal"}
BATCH = 8  # slices whose versions are kept in one file
LEAST = 1000  # images, below which the page says that they are few


@dataclass
class CalibrationArguments(TableArguments):
    """Arguments of `medic-ad evaluate calibration`."""

    shams: int = field(
        default=2, metadata={"help": "repairs elsewhere, of each slice and of its twin"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shams < 1:
            raise DataError(f"expected --shams of 1 or more, got {self.shams}; give another number")


def lesion_slices(data: str, name: str) -> tuple[list[Sample], list[str]]:
    """Images of one split with a lesion mask that is not empty, and notes.

    Raises:
        DataError: there is none.
    """
    images, notes = images_of(data, name)
    found = [s for s in images if s.mask and (m := mask_of(s)) is not None and m.any()]
    if not found:
        raise DataError(
            f"expected lesion masks in split {name!r} of {data}, got none; fill the column mask"
        )
    return found, notes


def kinds(shams: int) -> list[tuple[str, float]]:
    """Versions of a slice and their labels."""
    return [
        ("as published", 1.0), *((f"sham {k + 1}", 1.0) for k in range(shams)),
        ("lesion repaired", 0.0), *((f"lesion repaired, sham {k + 1}", 0.0) for k in range(shams)),
    ]  # fmt: skip


def versions(sample: Sample, shams: int, seed: int) -> list[np.ndarray]:
    """Grey values `(H, W)` in [0, 1] of every kind, in their order."""
    grey, mask = intensity(slice_of(sample), file_of(sample)[1]), mask_of(sample)
    if mask is None:
        raise ValueError("a lesion slice has a mask")
    rng = np.random.default_rng((seed, int(mask.sum())))
    clean = repaired(grey, mask, rng)
    out = []
    for base in (grey, clean):
        out += [base, *(sham_repaired(base, mask, rng) for _ in range(shams))]
    return out


def read_versions(model: Model, samples: Sequence[Sample], shams: int, seed: int) -> Arrays:
    """Predictions of all versions of a few slices, slice by slice."""
    images = [
        as_image(grey, sample.image) for sample in samples for grey in versions(sample, shams, seed)
    ]
    return columns(predict(model, images, "reading versions", [(0.0, 1.0)] * len(images)))


def version_predictions(
    model: Model,
    of: str,
    samples: Sequence[Sample],
    shams: int,
    seed: int,
    store: Store,
    name: str,
    test: bool,
) -> Predictions:
    """Predictions of n slices' versions, made once per weights and kept part by part."""
    parts = [samples[k : k + BATCH] for k in range(0, len(samples), BATCH)]
    makes: dict[str, Callable[[], Arrays]] = {
        digest(MADE_WITH, seed, shams, [(state_of(s), s.mask) for s in part]): partial(
            read_versions, model, part, shams, seed
        )
        for part in parts
    }
    rows: list[Arrays] = []
    for path in store.parts(model.weights_sha256, f"versions-{name}", makes, test):
        with opened(path) as arrays:
            rows.append(dict(arrays.items()))
    score, entry, inside = (
        np.concatenate([row[key] for row in rows]) for key in ("score", "entry", "in_scope")
    )
    return Predictions(of, model, score, entry, inside, heatmaps=())


def by_kind(run: Run[Predictions], kind: np.ndarray, labels: np.ndarray) -> Part:
    """Score and decision of each version."""
    sampling, own, figures = run.sampling(), run.own, []
    too_low, too_high = own.score < own.fitted("band_low"), own.score >= own.fitted("band_high")
    wrong = np.where(labels == 1, too_low, too_high)
    for name in dict.fromkeys(kind.tolist()):
        for words, values in (("mean score", own.score), ("decided wrongly", wrong)):
            figures.append(sampling.mean(words, np.where(kind == name, values, np.nan), name))
    return Part(f"Version by version, {own.of}", [], figures)


def calibrated_part(run: Run[Predictions], p: Predictions, labels: np.ndarray) -> tuple[Part, str]:
    """Calibration of one model, and a sentence that says whether it is within the null."""
    s, sampling = scores_of(p, labels), run.sampling()
    figures, note, ceiling = calibration_figures(s, sampling, run.arguments.seed, p.of)
    error, within = figures[0], figures[0].value <= ceiling
    sentence = (
        f"ECE of {p.of} is {number(error.value)} ({spread(error)}), "
        f"{'within' if within else 'above'} what 95 % of perfectly calibrated models with these "
        f"{error.n} scores stay below ({number(ceiling)}), at prevalence {s.prevalence:.2f}."
    )
    figures.append(sampling.figure("AUROC", metrics.auroc(p.score, labels), p.of))
    figures += [*overall(s, sampling, p.of), sampling.mean("share in scope", p.in_scope, p.of)]
    missed = {f.name: f.value for f in figures if f.name in WRONG}
    covered = " and ".join(f"{1 - missed[name]:.1%} of {kind}" for name, kind in WRONG.items())
    note += f" Measured coverage: {covered} images are not decided wrongly."
    return Part(f"Calibration, {p.of}", [note], figures), sentence


def main(arguments: CalibrationArguments) -> Path:
    """Measure calibration on one split of a table; predictions that exist are used again."""
    slices, notes = lesion_slices(arguments.data, arguments.split)
    shams = arguments.shams
    made = [
        (dataclasses.replace(s, label=label), kind)
        for s in slices
        for kind, label in kinds(shams)
    ]  # fmt: skip
    kind = np.array([k for _, k in made])

    def see(model: Model, of: str, store: Store) -> Predictions:
        name, test = arguments.measured, arguments.opens_test
        return version_predictions(model, of, slices, shams, arguments.seed, store, name, test)

    run = begin("calibration", arguments, [s for s, _ in made], notes, see)
    labels = np.array([s.label for s in run.samples])
    few = "" if len(made) >= LEAST else f" That is fewer than {LEAST}: mind the interval."
    about = (
        f"{len(slices)} slices with a lesion in {len(kinds(shams))} versions each, {len(made)} "
        f"images: as published and with {shams} shams (a repair elsewhere), abnormal; the lesion "
        f"repaired ({METHOD}, which training never used) without and with {shams} shams, normal. "
        f"Resampled with all versions of a slice together.{few}"
    )
    found = [calibrated_part(run, p, labels) for p in run.seen]
    parts = [part for part, _ in found] + [by_kind(run, kind, labels)]
    parts[0].notes[:0] = [about, *run.notes]
    prevalence = scores_of(run.own, labels).prevalence
    drawn = curves.reliability(
        {p.of: (p.score, labels) for p in run.seen}, prevalence,
        f"share abnormal, at prevalence {prevalence:.2f}",
    )  # fmt: skip
    return finish(
        run,
        verdict=found[0][1],
        beats_baseline=None,
        parts=parts,
        curves=[Picture("Reliability, bins of equal mass", drawn)],
        cases=[case_row(run, i) | {"version": kind[i]} for i in range(len(made))],
    )
