"""Evaluation: the data sets of the card, and the tumour slices beside their repaired twins."""

from __future__ import annotations

import importlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from medic_ad.data.registry import SETS
from medic_ad.data.sample import Sample
from medic_ad.errors import DataError
from medic_ad.evaluate.material.made_pairs import Pairs, draw
from medic_ad.evaluate.material.twins import MADE_WITH, Twins, make_twins
from medic_ad.evaluate.predictions.store import Context, digest
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


def cheng_twins(context: Context, split: str = "test") -> Twins:
    """The tumour slices of a split with their twins."""
    samples = samples_of(context.root, CHENG, split)

    def make() -> dict[str, np.ndarray]:
        read = [(read_image(s.image).pixels, read_image(str(s.mask)).pixels > 0) for s in samples]
        return make_twins(read, context.seed, f"inpainting {split} slices")

    key = digest(MADE_WITH, context.seed, [s.image for s in samples])
    arrays = context.store.material(f"twins-{split}", key, make)
    return Twins([s.group for s in samples], **arrays)


def held_out_pairs(context: Context) -> Pairs:
    """The pairs of the card."""
    twins = cheng_twins(context)
    key = digest(MADE_WITH, context.seed, context.pairs, int(twins.clean.sum(dtype=np.int64)))
    make = partial(draw, twins, context.pairs, context.seed)
    return Pairs(**context.store.material("pairs", key, make))
