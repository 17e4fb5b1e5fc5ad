"""Evaluation: `medic-ad evaluate chest`, chest radiographs over time: laboratory, case notes.

Meant for weights that know the chest, as `runs/chest.sh` makes them; those of `nano` do not, and
the share of images in scope says so.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from medic_ad.data.sets import cxr_series
from medic_ad.data.sets.common import rows_of
from medic_ad.evaluate.figures.bootstrap import Figure, Resampling, Statistic
from medic_ad.evaluate.material.seen import seen_patients, steps_made
from medic_ad.evaluate.output.markdown import table
from medic_ad.evaluate.output.record import write_figures
from medic_ad.evaluate.predictions.bars import bar
from medic_ad.evaluate.predictions.pairs import compare_images
from medic_ad.evaluate.predictions.sweep import Prediction, predict, threshold_of, undeclared
from medic_ad.image import Image
from medic_ad.load import Model, load_model
from medic_ad.option import check_positive, check_seed
from medic_ad.processor import grey_window
from medic_ad.readers import read_image

SERIES, PAIRS = "cxr_hannover", "cxr_followup_ieee8023"
LABS = {"po2": "pO2", "crp": "CRP"}
NEAR_DAYS = 2.0  # between a radiograph and the value that it is held against
LEAST_IMAGES = 3  # with a value, of a patient whose course counts
GREY = "mean grey"


@dataclass
class ChestArguments:
    """Arguments of `medic-ad evaluate chest`."""

    model: str = field(metadata={"help": "name of a model, or its folder"})
    data_root: str = field(metadata={"help": f"folder that holds {SERIES} and {PAIRS}"})
    out: str = field(metadata={"help": "folder of chest.json and chest.md"})
    seed: int = field(default=0, metadata={"help": "of resampling"})
    resamples: int = field(default=1000, metadata={"help": "of the bootstrap"})

    def __post_init__(self) -> None:
        check_positive(self, "resamples")
        check_seed(self)


def mean_grey(image: Image) -> float:
    """Of the windowed image, in [0, 1]: what is denser is brighter."""
    low, high = grey_window(image.pixels)
    return float(np.clip((image.pixels - low) / max(high - low, 1e-6), 0, 1).mean())


def lab_values(root: Path) -> list[dict[str, float]]:
    """The value of each laboratory test near each radiograph of the series, NaN where none is."""
    out = []
    for row in rows_of(root / "data.csv", ("patient_id", "image_id"), f"The table of {SERIES}"):
        values = {}
        for name in LABS:
            value, away = (float(row[f"{name}_{k}"] or "nan") for k in ("val", "offset"))
            good = math.isfinite(value) and abs(away) <= NEAR_DAYS
            values[name] = value if good else math.nan
        out.append(values)
    return out


def within(x: np.ndarray, y: np.ndarray, patients: np.ndarray) -> Statistic:
    """Correlation of ranks around each patient's own mean (Bland and Altman 1995, on ranks).

    What differs between patients does not count, only how both run together over time.
    """
    x, y = rankdata(x), rankdata(y)
    for patient in np.unique(patients):
        own = patients == patient
        x[own] -= x[own].mean()
        y[own] -= y[own].mean()
    return _correlation(x, y)


def across(x: np.ndarray, y: np.ndarray, _: np.ndarray) -> Statistic:
    """Spearman's correlation over all images."""
    return _correlation(rankdata(x), rankdata(y))


def _correlation(x: np.ndarray, y: np.ndarray) -> Statistic:
    def statistic(counts: np.ndarray) -> float:
        weight = counts / counts.sum()
        a, b = x - weight @ x, y - weight @ y
        spread = math.sqrt(float(weight @ a**2) * float(weight @ b**2))
        return float(weight @ (a * b)) / spread if spread else math.nan

    return statistic


def series_figures(
    severity: dict[str, np.ndarray],
    labs: list[dict[str, float]],
    patients: np.ndarray,
    seed: int,
    resamples: int,
) -> list[Figure]:
    """Correlations of each severity `(n,)` with each laboratory value, by patient."""
    out = []
    for key, words in LABS.items():
        values = np.array([row[key] for row in labs])
        known = np.isfinite(values)
        names, counts = np.unique(patients[known], return_counts=True)
        followed = known & np.isin(patients, names[counts >= LEAST_IMAGES])
        kinds: tuple[tuple[str, np.ndarray, Callable[..., Statistic]], ...] = (
            (f"over time, patients with {LEAST_IMAGES} or more", followed, within),
            ("over all images", known, across),
        )
        for what, chosen, correlation in kinds:
            sampling = Resampling(patients[chosen], "patient", SERIES, seed, resamples)
            for of, scores in severity.items():
                statistic = correlation(scores[chosen], values[chosen], patients[chosen])
                name = f"rank correlation with {words}, {what}"
                out.append(sampling.figure(name, statistic, of))
    return out


def compare_pair(model: Model, prior: Image, current: Image) -> tuple[float, bool]:
    """How much more likely worse is than better, NaN where not comparable; whether in scope."""
    seen = compare_images(model, current, prior)
    worse, _, better = seen["scores"]
    return float(worse - better), bool(seen["in_scope"])


def pair_figures(
    leaning: dict[str, np.ndarray],
    change: np.ndarray,
    patients: np.ndarray,
    seed: int,
    resamples: int,
) -> list[Figure]:
    """Share of worse and better pairs told right by the sign; no sign, or NaN, is wrong."""
    known = np.isin(change, ("worse", "better"))
    sampling = Resampling(patients[known], "patient", PAIRS, seed, resamples)
    sign = np.where(change[known] == "worse", 1.0, -1.0)
    return [
        sampling.mean("worse or better", (np.sign(np.nan_to_num(v[known])) == sign), of)
        for of, v in leaning.items()
    ]


def main(arguments: ChestArguments) -> Path:
    """Measure both sets, and write chest.json and chest.md."""
    model, root = load_model(arguments.model), Path(arguments.data_root)
    options = arguments.seed, arguments.resamples

    samples = cxr_series.reading(root / SERIES, SERIES).samples
    labs_of = dict(zip(_images(root / SERIES), lab_values(root / SERIES), strict=True))
    series = [_radiograph(root / SERIES / s.image) for s in samples]
    seen = predict(model, series, "reading series")
    severity = {
        "score": np.array([p.logit for p in seen]),
        "share of the heatmap": np.array([_share(model, p) for p in seen]),
        GREY: np.array([mean_grey(i) for i in series]),
    }
    labs = [labs_of[Path(s.image).stem] for s in samples]
    patients = np.array([str(s.patient) for s in samples])
    found = series_figures(severity, labs, patients, *options)

    pairs = cxr_series.reading(root / PAIRS, PAIRS).samples
    dates = [
        (_radiograph(root / PAIRS / str(s.prior)), _radiograph(root / PAIRS / s.image))
        for s in pairs
    ]
    told = [compare_pair(model, *both) for both in bar(dates, "comparing pairs")]
    leaning = {
        "comparison": np.array([value for value, _ in told]),
        "always worse": np.ones(len(pairs)),
        GREY: np.array([mean_grey(now) - mean_grey(before) for before, now in dates]),
    }
    change = np.array([str(s.change) for s in pairs])
    owners = np.array([str(s.patient) for s in pairs])
    found += pair_figures(leaning, change, owners, *options)
    stable = [f"{value:+.2f}" for (value, _), c in zip(told, change, strict=True) if c == "stable"]
    inside, both = sum(p.in_scope for p in seen), sum(ok for _, ok in told)
    refused = sum(math.isnan(value) for value, _ in told)
    notes = [
        f"{model.name}: {inside} of {len(seen)} radiographs of {SERIES} and both dates of {both} "
        f"of {len(told)} pairs of {PAIRS} are in scope for `read`; all are measured. {refused} "
        "pairs cannot be compared and count as wrong.",
        f"Laboratory values within {NEAR_DAYS:g} days of the radiograph. The case notes label "
        f"{int(np.isin(change, ('worse', 'better')).sum())} pairs; worse less better of the "
        f"{len(stable)} stable ones: {', '.join(stable) or 'none'}.",
    ]
    known = seen_patients(arguments.model, [*samples, *pairs])
    notes.append(
        "Patients of both sets, by the records of the weights (identities alone are compared): "
        + "; ".join(f"{n} {words}" for words, n in Counter(known.values()).items())
        + "."
    )
    notes.append(f"Steps that these weights were trained for: {steps_made(arguments.model)}.")
    return write_figures(arguments, model, "chest", found, [*table(found), "", *notes], seen=known)


def _images(root: Path) -> list[str]:
    return [r["image_id"] for r in rows_of(root / "data.csv", ("image_id",), f"Table of {SERIES}")]


def _radiograph(path: Path) -> Image:
    return undeclared(read_image(path))


def _share(model: Model, seen: Prediction) -> float:
    return float((seen.heatmap >= threshold_of(model, seen)).mean())
