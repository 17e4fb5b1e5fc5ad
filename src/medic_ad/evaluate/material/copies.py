"""Evaluation: exact and near copies within measured images, and twins of what a model has seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medic_ad.data.duplicates import FingerprintStore, Groups, alike_files
from medic_ad.data.sample import SPLITS, Sample, read_samples
from medic_ad.evaluate.predictions.bars import bar
from medic_ad.evaluate.predictions.table import images_of
from medic_ad.train.run import split

# Public collections that hold re-sharpened, turned or renamed slices of each other, which pixels
# alone do not always show (measured on `brain_no_tumour`, most of which was such copies).
SHARED = (frozenset({"brain_mri_253", "br35h", "brain_no_tumour"}),)


def everything(data: str) -> tuple[list[Sample], list[str]]:
    """Labelled images of all splits of a table, without masks, and notes."""
    there = {s.split for s in read_samples(data)}
    found, notes = [], []
    for name in (name for name in SPLITS if name in there):
        images, said = images_of(data, name)
        found += [dataclasses.replace(s, mask=None) for s in images if not np.isnan(s.label)]
        notes += [f"{name}: {note}" for note in said]
    return found, notes


def seen_in_training(data: str) -> list[Sample]:
    """Rows that a table gives to training and validation, one for each image or slice."""
    there = {s.split for s in read_samples(data)}
    rows = [s for name in ("train", "val") if name in there for s in split(data, name)]
    return list({(s.image, s.slice): s for s in rows}.values())


def shared_sources(source: str, training: Sequence[str]) -> list[str]:
    """Sources among those trained on that are the measured one, or share slices with it."""
    alike = {source}.union(*(group for group in SHARED if source in group))
    return sorted(alike.intersection(training))


def one_of_each(
    samples: Sequence[Sample], others: Sequence[Sample], store: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Which samples are the first of their copies, and which have a twin among `others`.

    Args:
        samples: the measured images.
        others: images that a model was trained on.
        store: file of fingerprints, so that no image is read twice.

    Returns: `(n,)` bool each. Copies are told as `medic-ad data prepare` tells them.
    """
    flat = [s for s in others if s.slice is None]  # a slice of a volume has no near copy here
    files = [(Path(s.image), s.slice, s.modality) for s in (*samples, *flat)]
    store.parent.mkdir(parents=True, exist_ok=True)
    pairs, _ = alike_files(
        files, FingerprintStore(store), lambda rows: bar(list(rows), "looking for copies")
    )
    n = len(samples)
    groups, twin = Groups(n), np.zeros(n, bool)
    for i, j in pairs:
        if j < n:
            groups.join(i, j)
        elif i < n:
            twin[i] = True
    roots = np.array([groups.find(i) for i in range(n)])
    return roots == np.arange(n), np.isin(roots, roots[twin])  # a copy of a twin is one, too
