"""Evaluation: a run of a command on a table: one or two models, and what they say of samples."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from medic_ad.data.sample import Sample, read_info
from medic_ad.errors import DataError
from medic_ad.evaluate.figures.bootstrap import Resampling
from medic_ad.evaluate.predictions.store import Context, Store
from medic_ad.evaluate.predictions.table import (
    Predictions,
    TableArguments,
    predictions_of,
    unit_of,
)
from medic_ad.load import Model, load_model
from medic_ad.model.calibration import FITTED


class Seen(Protocol):
    """What one model says of n samples, in their order."""

    @property
    def of(self) -> str:
        """The model's name in tables."""

    @property
    def model(self) -> Model:
        """The model."""

    def subset(self, keep: np.ndarray) -> Any:
        """The same of some samples."""


P = TypeVar("P", bound=Seen)


@dataclass(frozen=True)
class Run(Generic[P]):
    """One model, and perhaps a second one, on the samples of a split.

    Attributes:
        stage: name of the command: "detect", "compare" ...
        arguments: of the command.
        context: the first model with the store.
        samples: the measured samples: images, pairs or questions.
        notes: on which samples these are.
        own: what the model says of them.
        other: what the second model says, `None` without one.
    """

    stage: str
    arguments: TableArguments
    context: Context
    samples: list[Sample]
    notes: list[str]
    own: P
    other: P | None

    @property
    def seen(self) -> list[P]:
        """What the one or two models say."""
        return [self.own] if self.other is None else [self.own, self.other]

    @property
    def name(self) -> str:
        """Of the table and split, in files and figures."""
        return self.arguments.measured

    def sampling(self, keep: np.ndarray | None = None) -> Resampling:
        kept = [s for i, s in enumerate(self.samples) if keep is None or keep[i]]
        split = f"{Path(self.arguments.data).stem} {self.arguments.split}"
        return self.context.resampling([s.group for s in kept], unit_of(kept), split)

    def pick(self, keep: np.ndarray) -> Run[P]:
        """The run on some of its samples."""
        return Run(
            self.stage, self.arguments, self.context,
            [s for s, kept in zip(self.samples, keep, strict=True) if kept], self.notes,
            self.own.subset(keep), None if self.other is None else self.other.subset(keep),
        )  # fmt: skip

    def one_per_group(self) -> np.ndarray:
        """One sample of each group, drawn by the seed."""
        rng, keep = np.random.default_rng(self.arguments.seed), np.zeros(len(self.samples), bool)
        groups = np.array([s.group for s in self.samples])
        for group in np.unique(groups):
            keep[rng.choice(np.flatnonzero(groups == group))] = True
        return keep


def load_calibrated(name: str) -> Model:
    """A model whose thresholds are fitted.

    Raises:
        ModelError: there is no such model, or it was never calibrated.
    """
    model = load_model(name)
    model.network.calibration.refuse_unfitted(*FITTED, "gate_mean", "gate_precision")
    return model


def labels_of(models: Sequence[str]) -> list[str]:
    """Short names of models for tables; the whole names where short ones are the same."""
    short = [Path(name).name for name in models]
    return short if len(set(short)) == len(short) else list(models)


def begin(
    stage: str,
    arguments: TableArguments,
    samples: list[Sample],
    notes: list[str],
    see: Callable[[Model, str, Store], P],
    calibrated: bool = True,
) -> Run[P]:
    """Load one or two models and let each see the samples.

    Args:
        see: (model, its name in tables, where predictions are kept) -> what it says of the
            samples.
        calibrated: whether a model that was never calibrated is refused.

    Raises:
        DataError: both models are the same.
    """
    names = [n for n in (arguments.model, arguments.against) if n]
    models = [load_calibrated(name) if calibrated else load_model(name) for name in names]
    if len({m.weights_sha256 for m in models}) < len(models):
        raise DataError(
            f"expected other weights in --against than in {names[0]}, got the same in {names[1]}; "
            "name another model"
        )
    words = ["medic-ad", "evaluate", stage, "--data", arguments.data, "--split", arguments.split]
    for flag, name in zip(("--model", "--against"), names, strict=False):
        words += [flag, name]
    context = Context(
        model=models[0],
        root=Path(read_info(arguments.data).root),
        store=Store(Path(arguments.out), shlex.join(words)),
        seed=arguments.seed,
        resamples=arguments.resamples,
    )
    seen = [see(m, of, context.store) for m, of in zip(models, labels_of(names), strict=True)]
    other = seen[1] if len(seen) > 1 else None
    return Run(stage, arguments, context, samples, notes, seen[0], other)


def start(
    stage: str,
    arguments: TableArguments,
    images: list[Sample],
    keep: list[bool],
    notes: list[str],
) -> Run[Predictions]:
    """Load what is measured and make the predictions of images that lack.

    Args:
        images: all of the split whose truth is known in any way: they are predicted together, so
            that every command opens the split once.
        keep: which of them this command measures.
    """

    def see(model: Model, of: str, store: Store) -> Predictions:
        name, test = arguments.measured, arguments.opens_test
        return predictions_of(model, of, images, store, name, test).subset(np.array(keep))

    samples = [s for s, kept in zip(images, keep, strict=True) if kept]
    return begin(stage, arguments, samples, notes, see)
