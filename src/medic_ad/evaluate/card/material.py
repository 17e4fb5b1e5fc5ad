"""Evaluation: the data sets of the card, and the tumour slices beside their repaired twins."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from medic_ad.data.registry import SETS
from medic_ad.data.sample import Sample
from medic_ad.errors import DataError
from medic_ad.evaluate.bars import bar
from medic_ad.evaluate.store import Context, digest
from medic_ad.evaluate.twins import MADE_WITH, edited, repaired, sham_repaired
from medic_ad.readers import read_image

CHENG = "brain_tumour_cheng"
CLUSTER = "cluster of up to 10 neighbouring slices"


def samples_of(root: Path, name: str, split: str | None = None) -> list[Sample]:
    """Samples of one data set with absolute paths.

    Raises:
        DataError: the set is not there, or has no sample of this split.
    """
    folder = root / name
    rows = importlib.import_module(SETS[name].module).samples(folder)
    found = [
        replace(
            s,
            image=str(folder / s.image),
            prior=s.prior and str(folder / s.prior),
            mask=s.mask and str(folder / s.mask),
        )
        for s in rows
        if split in (None, s.split)
    ]
    if not found:
        raise DataError(f"expected samples of split {split!r} in {folder}, found none")
    return found


@dataclass(frozen=True)
class Twins:
    """Lesion slices of one size, each beside its inpainted twin and its sham.

    Attributes:
        samples: the `n` samples.
        image, clean, sham: `(n, H, W)` uint8, grey values of the file.
        mask: `(n, H, W)` bool.
    """

    samples: list[Sample]
    image: np.ndarray
    clean: np.ndarray
    sham: np.ndarray
    mask: np.ndarray

    @property
    def groups(self) -> list[str]:
        return [s.group for s in self.samples]


def cheng_twins(context: Context, split: str = "test") -> Twins:
    """The tumour slices of a split with their twins."""
    samples = samples_of(context.root, CHENG, split)

    def make() -> dict[str, np.ndarray]:
        rows = []
        for k, sample in enumerate(bar(samples, f"inpainting {split} slices")):
            pixels = read_image(sample.image).pixels
            mask = read_image(str(sample.mask)).pixels > 0
            rng = np.random.default_rng((context.seed, k))
            edits = (partial(f, lesion_mask=mask, rng=rng) for f in (repaired, sham_repaired))
            rows.append((pixels.astype(np.uint8), *(edited(pixels, edit) for edit in edits), mask))
        stacked = (np.stack(column) for column in zip(*rows, strict=True))
        return dict(zip(("image", "clean", "sham", "mask"), stacked, strict=True))

    key = digest(MADE_WITH, context.seed, [s.image for s in samples])
    return Twins(samples, **context.store.material(f"twins-{split}", key, make))
