"""Evaluation: one fold: stage 1 fitted anew from labels alone, a ResNet beside it, both judged."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from medic_ad.data.sample import Sample, read_info, write_samples
from medic_ad.errors import DataError
from medic_ad.evaluate import resnet
from medic_ad.evaluate.bars import bar
from medic_ad.evaluate.decision import Decision
from medic_ad.evaluate.store import Arrays
from medic_ad.evaluate.table import file_of, slice_of
from medic_ad.load import find_checkpoint, load_model
from medic_ad.look import sweep
from medic_ad.train import detect
from medic_ad.train.run import StageArguments


@dataclass
class FoldsArguments:
    """Arguments of `medic-ad evaluate folds`."""

    data: str = field(metadata={"help": "Parquet file of samples, all of whose splits are pooled"})
    model: str = field(metadata={"help": "name or folder of the weights that stage 1 starts from"})
    out: str = field(metadata={"help": "folder of figures, weights and predictions"})
    folds: int = field(default=5, metadata={"help": "parts that take turns as test images"})
    steps: int = field(default=400, metadata={"help": "steps of stage 1 a fold"})
    learning_rate: float = field(
        default=detect.DetectArguments.learning_rate, metadata={"help": "of stage 1, peak"}
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


def fold_table(samples: Sequence[Sample], fold: np.ndarray, k: int, n: int, path: Path) -> Path:
    """The table of fold k: itself in test, the next one in val, the others in train; no masks."""
    home = np.where(fold == k, "test", np.where(fold == (k + 1) % n, "val", "train"))
    rows = [
        dataclasses.replace(s, mask=None, split=str(name))
        for s, name in zip(samples, home, strict=True)
    ]
    info = read_info_of(samples, path)
    return write_samples(rows, path, info)


def logits_of(folder: Path, samples: Sequence[Sample], what: str) -> np.ndarray:
    """Stage 1's logits `(n,)`, through the road's `sweep`."""
    model = load_model(str(folder))
    windows = [file_of(s)[1] for s in samples]
    seen = sweep(model, [slice_of(s) for s in samples], windows, lambda parts: bar(parts, what))
    return seen.logits.cpu().numpy().astype(float)
