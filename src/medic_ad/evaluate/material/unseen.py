"""Evaluation: a table without the images that the measured weights have seen, and near twins."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medic_ad.data.sample import Sample, read_info, read_samples, write_samples
from medic_ad.errors import DataError
from medic_ad.evaluate.material.copies import one_of_each, seen_in_training, shared_sources
from medic_ad.train.run import split


def seen_among(samples: Sequence[Sample], training: Sequence[Sample], store: Path) -> np.ndarray:
    """Which samples `(n,)` show a file, a patient or a near twin of what was trained on.

    Args:
        samples: rows of a table, their paths made whole.
        training: what the weights were fitted to, validation included.
        store: file of fingerprints, so that no image is read twice.
    """
    files = {Path(p).resolve() for s in training for p in (s.image, s.prior) if p}
    patients = {(s.source, s.patient) for s in training if s.patient}
    seen = np.array(
        [
            (s.source, s.patient) in patients
            or any(Path(p).resolve() in files for p in (s.image, s.prior) if p)
            for s in samples
        ]
    )
    flat = [i for i, s in enumerate(samples) if s.slice is None]
    for path in ("image", "prior"):
        rows = [i for i in flat if getattr(samples[i], path)]
        if rows:
            alike = [dataclasses.replace(samples[i], image=getattr(samples[i], path)) for i in rows]
            _, twin = one_of_each(alike, training, store)
            seen[rows] |= twin
    return seen


def without_seen(data: Path, name: str, training: str, out: Path) -> Path:
    """Write the table anew without those rows of one split that the weights have seen.

    Args:
        data: the table.
        name: of the split that is to be measured; the others stay, baselines are fitted to them.
        training: the table that the weights were trained on.
        out: folder of the new table, which has the name of the old one.

    Returns: the new table; `TableInfo.seen` says what was left out.

    Raises:
        DataError: nothing is left, or the table's source shares images with a source trained on in
            a way that pixels do not show.
    """
    trained = seen_in_training(training)
    if not trained:
        raise DataError(
            f"expected rows of train or val in {training}, the table of --training, found none; "
            "name the table that the model was trained on"
        )
    rows, measured = read_samples(data), split(str(data), name)
    sources = {s.source for s in trained}
    shared = {x for s in measured for x in shared_sources(s.source, sorted(sources - {s.source}))}
    shared -= {s.source for s in measured}
    if shared:
        raise DataError(
            f"expected a set that shares no images with those trained on, but "
            f"{', '.join(sorted(shared))} and this one hold copies that pixels do not always show; "
            "measure it with weights that were trained on neither"
        )
    out.mkdir(parents=True, exist_ok=True)
    seen = seen_among(measured, trained, out / "fingerprints")
    if seen.all():
        raise DataError(
            f"expected images that the model has not seen, but all {len(seen)} rows of split "
            f"{name!r} are, or are near twins of, what {Path(training).stem} gives to training and "
            "validation; measure another set"
        )
    kept = iter(~seen)
    words = (
        f"{seen.sum()} of {len(seen)} rows were left out: their images, patients or near twins are "
        f"in train or val of {Path(training).stem} ({', '.join(sorted(sources))}). Near twins were "
        "looked for among pictures, not among slices of volumes."
    )
    info = dataclasses.replace(read_info(data), seen=words)
    return write_samples([s for s in rows if s.split != name or next(kept)], out / data.name, info)
