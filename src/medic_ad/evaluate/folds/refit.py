"""Evaluation: one fold: stage 1 fitted anew from labels alone, a ResNet beside it, both judged."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from medic_ad.data.sample import Sample, read_info, write_samples
from medic_ad.errors import DataError
from medic_ad.evaluate import resnet
from medic_ad.evaluate.baselines.decision import Decision
from medic_ad.evaluate.predictions.bars import bar
from medic_ad.evaluate.predictions.store import Arrays
from medic_ad.evaluate.predictions.table import file_of, slice_of
from medic_ad.evaluate.resnet import ResNet
from medic_ad.load import Model, load_model
from medic_ad.look import sweep
from medic_ad.models import checkpoint_folder
from medic_ad.option import check_positive, check_seed, check_workers
from medic_ad.train import detect
from medic_ad.train.settings import StageArguments


@dataclass
class FoldsArguments:
    """Arguments of `medic-ad evaluate folds`."""

    data: str = field(metadata={"help": "Parquet file of samples, all of whose splits are pooled"})
    model: str = field(metadata={"help": "name or folder of the weights that stage 1 starts from"})
    out: str = field(metadata={"help": "folder of figures, weights and predictions"})
    folds: int = field(default=5, metadata={"help": "parts that take turns as test images"})
    epochs: int = field(default=60, metadata={"help": "of stage 1 over a fold's training images"})
    learning_rate: float = field(
        default=detect.DetectArguments.learning_rate, metadata={"help": "of stage 1, peak"}
    )
    tower: bool = field(
        default=False, metadata={"help": "stage 1 also trains the vision tower, in every fold"}
    )
    resnet_steps: int = field(
        default=resnet.ResnetArguments.steps, metadata={"help": "steps of the ResNet a fold"}
    )
    seed: int = field(default=0, metadata={"help": "of folds, weights, draws and resampling"})
    resamples: int = field(default=1000, metadata={"help": "of the bootstrap"})
    workers: int = field(default=1, metadata={"help": "processes that draw and augment"})
    cache: str = field(default=StageArguments.cache, metadata={"help": "folder of rendered slices"})
    bf16: bool = field(default=True, metadata={"help": "bfloat16 autocast in training"})

    def __post_init__(self) -> None:
        if self.folds < 3:
            raise DataError(
                f"expected --folds of 3 or more (train, val and test), got {self.folds}; leave it "
                "out for 5"
            )
        check_positive(self, "epochs", "learning_rate", "resnet_steps", "resamples")
        check_seed(self)
        check_workers(self)


def draw_folds(samples: Sequence[Sample], n: int, seed: int) -> np.ndarray:
    """The fold `(len(samples),)` of each image: whole groups, labels spread alike.

    Raises:
        DataError: too few groups of a class for the folds.
    """
    labels, groups = np.array([s.label for s in samples]), np.array([s.group for s in samples])
    for label, word in ((1, "abnormal"), (0, "normal")):
        there = len(set(groups[labels == label]))
        if there < n:
            raise DataError(
                f"expected at least {n} groups with {word} images for {n} folds, got {there}; give "
                "more images, or fewer --folds"
            )
    fold = np.zeros(len(samples), int)
    cuts = StratifiedGroupKFold(n, shuffle=True, random_state=seed).split(labels, labels, groups)
    for k, (_, test) in enumerate(cuts):
        fold[test] = k
    return fold


def homes(fold: np.ndarray, k: int) -> np.ndarray:
    """Splits of round k: fold k is the test part, the next one validation, the others train."""
    after = (k + 1) % (fold.max() + 1)
    return np.where(fold == k, "test", np.where(fold == after, "val", "train"))


def logits_of(model: Model, samples: Sequence[Sample], what: str) -> np.ndarray:
    """Stage 1's logits `(n,)`, through the road's `sweep`; no gate."""
    windows = [file_of(s)[1] for s in samples]
    seen = sweep(model, [slice_of(s) for s in samples], windows, lambda parts: bar(parts, what))
    return seen.logits.cpu().numpy().astype(float)


def steps_of(epochs: int, images: int) -> int:
    """Of stage 1, so that small and large sets are seen as often."""
    return math.ceil(epochs * images / detect.DetectArguments.batch)


def refit(
    samples: Sequence[Sample], home: np.ndarray, arguments: FoldsArguments, work: Path
) -> Arrays:
    """Train on one round's table and score its test part.

    Only stage 1 is fine-tuned, on labels alone: language and image loss. An interrupted training
    resumes.

    Args:
        samples: all images of the set, without masks.
        home: `(n,)` the split of each.
        work: folder of the table, the weights and the checkpoints.

    Returns: `score`, `decided` and `resnet`, `resnet_decided` of the test part, in its order.
    """
    rows = [dataclasses.replace(s, split=str(name)) for s, name in zip(samples, home, strict=True)]
    data = str(write_samples(rows, work / "fold.parquet", read_info(arguments.data)))
    shared = {name: getattr(arguments, name) for name in ("seed", "workers", "cache", "bf16")}
    own = detect.main(
        detect.DetectArguments(
            data=data,
            model=str(checkpoint_folder(arguments.model)),
            out=str(work / "detect"),
            steps=steps_of(arguments.epochs, int((home == "train").sum())),
            learning_rate=arguments.learning_rate,
            tower=arguments.tower,
            pixel_weight=0.0,  # no lesion is known; empty masks alone teach an empty map
            **shared,
        )
    )
    peer = ResNet.load(
        resnet.main(
            resnet.ResnetArguments(
                data=data, out=str(work / "resnet"), steps=arguments.resnet_steps, **shared
            )
        )
    )
    test, val = ([s for s in rows if s.split == name] for name in ("test", "val"))
    model = load_model(str(own))
    decision = Decision.fit(logits_of(model, val, "validation"), np.array([s.label for s in val]))
    score, peers = decision.scores(logits_of(model, test, "test part")), peer.scores(test)
    for folder in ("detect", "resnet"):  # to resume from, and large
        shutil.rmtree(work / folder / "checkpoints", ignore_errors=True)
    return {
        "score": score,
        "decided": score >= decision.threshold,
        "resnet": peers,
        "resnet_decided": peers >= peer.decision.threshold,
    }
