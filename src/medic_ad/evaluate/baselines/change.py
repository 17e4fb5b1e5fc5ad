"""Evaluation: what can be said of a pair of dates without a model: constants, mean grey, maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.tree import DecisionTreeClassifier

from medic_ad.data.sample import read_samples
from medic_ad.evaluate.baselines.grey import intensity
from medic_ad.evaluate.predictions.bars import bar
from medic_ad.evaluate.predictions.pairs import Pair, pairs_of, state_of
from medic_ad.evaluate.predictions.store import Store, digest
from medic_ad.evaluate.predictions.table import TableArguments
from medic_ad.words import CHANGE_LABELS

LEAST_TRAIN = 10  # labelled pairs of the train split, below which nothing is fitted to it
STABLE, MAJORITY, GREY = "always stable", "majority", "difference of mean grey (tree)"
SUBTRACTION, FOLLOW_UP = "normalised subtraction", "follow-up intensity"
PRODUCT = "subtraction x intensity"


@dataclass(frozen=True)
class ChangeBaselines:
    """Labels and probabilities that need no model.

    Attributes:
        labels: name -> `(n,)`.
        shares: `(3,)` of worse, stable and better: the image-free probabilities.
        note: what was fitted on which pairs.
    """

    labels: dict[str, np.ndarray]
    shares: np.ndarray
    note: str


def labelled(pairs: Sequence[Pair]) -> list[Pair]:
    return [p for p in pairs if p.sample.change]


def train_pairs(arguments: TableArguments) -> list[Pair]:
    """Labelled pairs of the train split; none where it is measured, or has too few."""
    rows = [s for s in read_samples(arguments.data) if s.split == "train" and s.change]
    if arguments.split == "train" or not rows:
        return []
    known = labelled(pairs_of(arguments.data, "train")[0])
    return known if len(known) >= LEAST_TRAIN else []


def mean_grey(pair: Pair) -> float:
    """Mean grey of the follow-up minus that of the baseline, each in its own window."""
    now, before = (pair.image(p).pixels for p in (pair.sample.image, pair.sample.prior))
    return float(np.nanmean(intensity(now)) - np.nanmean(intensity(before)))


def grey_differences(pairs: Sequence[Pair], store: Store, name: str) -> np.ndarray:
    """`(n, 1)` of `mean_grey`, made once."""
    key = digest([state_of(p) for p in pairs])

    def make() -> dict[str, np.ndarray]:
        return {"grey": np.array([mean_grey(p) for p in bar(pairs, "mean grey of pairs")])}

    return store.material(f"change-{name}", key, make)["grey"][:, None]


def baselines_of(
    pairs: Sequence[Pair], train: Sequence[Pair], store: Store, name: str, seed: int
) -> ChangeBaselines:
    """Constants, and a tree of three leaves on the difference of mean grey.

    Args:
        pairs: the measured ones, labels known.
        train: of the train split; where there are none, all is fitted to `pairs`, in its favour.
    """
    fitted = train or pairs
    truth = np.array([p.sample.change for p in fitted])
    shares = np.array([(truth == label).mean() for label in CHANGE_LABELS])
    here = grey_differences(pairs, store, name)
    there = grey_differences(train, store, f"{name}-fitted") if train else here
    tree = DecisionTreeClassifier(max_leaf_nodes=3, random_state=seed).fit(there, truth)
    most = CHANGE_LABELS[int(shares.argmax())]
    source = f"the {len(train)} labelled pairs of train" if train else "these very pairs"
    return ChangeBaselines(
        labels={
            STABLE: np.full(len(pairs), "stable"),
            f"{MAJORITY} ({most})": np.full(len(pairs), most),
            GREY: tree.predict(here),
        },
        shares=shares,
        note=(
            f"Majority, image-free shares and the tree are fitted to {source}"
            f"{'' if train else ', in their favour'}."
        ),
    )


def maps_of(prior: np.ndarray, current: np.ndarray, inside: np.ndarray) -> dict[str, np.ndarray]:
    """Maps of change that need no model: what differs, what is bright now, and both at once.

    Args:
        prior, current: on one grid, the prior NaN outside its view.
        inside: bool, the pixels whose mean and spread both dates are normalised to.
    """
    seen = inside & np.isfinite(prior)
    first, second = (
        (x - x[seen].mean()) / max(float(x[seen].std()), 1e-6) for x in (prior, current)
    )
    difference = np.abs(np.nan_to_num(second - first))
    return {
        SUBTRACTION: difference,
        FOLLOW_UP: second,
        PRODUCT: difference * (second - second[seen].min()),
    }
