"""Evaluation: trivial baselines for any table: sizes, bytes, grey values, raw neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from sklearn.ensemble import RandomForestClassifier
from sklearn.neighbors import KNeighborsClassifier

from medic_ad.data.sample import Sample
from medic_ad.evaluate.baselines.grey import grey_numbers, intensity, oriented
from medic_ad.evaluate.figures import metrics
from medic_ad.evaluate.predictions.bars import bar
from medic_ad.evaluate.predictions.store import Arrays, Store, digest
from medic_ad.evaluate.predictions.table import file_of, slice_of, state_of

TINY = 32  # side of the raw pixels that neighbours are sought in
NEIGHBOURS = 5
TREES = 200
LEAST_TRAIN = 10  # images of each class, below which nothing is fitted
SINGLES = (
    "image height",
    "image width",
    "file bytes",
    "mean grey",
    "spread of grey",
    "99th percentile of grey",
)
SIZE = "image size (forest)"
FITTED = {
    SIZE: ("image height", "image width"),
    "image size and file bytes (forest)": ("image height", "image width", "file bytes"),
    "mean and spread of grey (forest)": ("mean grey", "spread of grey"),
}


def bytes_of(path: str) -> int:
    """Size of a file, or of a series' files together."""
    place = Path(path)
    files = place.iterdir() if place.is_dir() else [place]
    return sum(f.stat().st_size for f in files if f.is_file())


def numbers_of(sample: Sample) -> tuple[dict[str, float], np.ndarray]:
    """Numbers that need no model, and `(TINY * TINY,)` raw pixels."""
    pixels, (_, window) = slice_of(sample), file_of(sample)
    height, width = pixels.shape
    size = {"image height": height, "image width": width, "file bytes": bytes_of(sample.image)}
    small = Pillow.fromarray(intensity(pixels, window)).resize((TINY, TINY), Pillow.Resampling.BOX)
    return size | grey_numbers(pixels, window), np.asarray(small).ravel()


def features_of(samples: Sequence[Sample], store: Store, name: str) -> Arrays:
    """Columns of `SINGLES` and `tiny`, made once."""

    def make() -> Arrays:
        rows = [numbers_of(s) for s in bar(samples, f"trivial baselines, {name}")]
        out = {key: np.array([numbers[key] for numbers, _ in rows], float) for key in SINGLES}
        return out | {"tiny": np.stack([tiny for _, tiny in rows])}

    return store.material(f"features-{name}", digest([state_of(s) for s in samples]), make)


@dataclass(frozen=True)
class Baselines:
    """Scores that need no model.

    Attributes:
        scores: name -> `(n,)`, higher is more abnormal.
        note: what was turned, and what was fitted on which images.
    """

    scores: dict[str, np.ndarray]
    note: str

    def best(self, labels: np.ndarray) -> str:
        """The one of highest AUROC on these images."""
        ones = np.ones(len(labels))
        return max(self.scores, key=lambda k: metrics.auroc(self.scores[k], labels)(ones))


def singles(here: Arrays, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Every single number as a score, turned in its favour on these very images."""
    return {key: oriented(here[key], labels) for key in SINGLES}


def fitted(there: Arrays, truth: np.ndarray, here: Arrays, seed: int) -> dict[str, np.ndarray]:
    """Forests and nearest neighbours fitted on some images, as scores of others.

    Args:
        there: columns of `features_of` of the images that are fitted to.
        truth: their labels.
        here: the same columns of the images that are scored.
    """
    scores = {}
    for key, names in FITTED.items():
        forest = RandomForestClassifier(TREES, min_samples_leaf=3, random_state=seed)
        forest.fit(np.stack([there[n] for n in names], 1), truth)
        scores[key] = forest.predict_proba(np.stack([here[n] for n in names], 1))[:, 1]
    near = KNeighborsClassifier(NEIGHBOURS, weights="distance").fit(there["tiny"], truth)
    return scores | {
        f"nearest neighbours, raw {TINY} x {TINY}": near.predict_proba(here["tiny"])[:, 1]
    }


def baselines_of(
    samples: Sequence[Sample], train: Sequence[Sample], store: Store, name: str, seed: int
) -> Baselines:
    """Every single number turned in its favour, and what the train split lets fit.

    Args:
        samples: the measured images, labels known.
        train: those of the table's train split with labels; may be empty, or be `samples`.
    """
    here = features_of(samples, store, name)
    labels = np.array([s.label for s in samples])
    scores = singles(here, labels)
    note = "Single numbers are turned in their favour on these very images."
    truth = np.array([s.label for s in train])
    if min((truth == 1).sum(), (truth == 0).sum()) < LEAST_TRAIN:
        return Baselines(
            scores,
            f"{note} The table's train split has fewer than {LEAST_TRAIN} other images of each "
            "class: forests and nearest neighbours, which need it, are left out.",
        )
    there = features_of(train, store, f"{name}-fitted")
    scores |= fitted(there, truth, here, seed)
    return Baselines(
        scores,
        f"{note} Forests and nearest neighbours are fitted on the {len(train)} images of the "
        "table's train split.",
    )
