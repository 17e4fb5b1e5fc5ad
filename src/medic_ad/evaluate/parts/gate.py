"""Evaluation: what the out-of-scope gate lets in and keeps out, table by table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medic_ad.data.sample import SPLITS, Sample, read_samples
from medic_ad.evaluate.figures.bootstrap import Figure
from medic_ad.evaluate.parts.outside import photograph_figure, refused
from medic_ad.evaluate.predictions.run import Run
from medic_ad.evaluate.predictions.store import Part
from medic_ad.evaluate.predictions.sweep import as_image
from medic_ad.evaluate.predictions.table import Predictions, file_of, slice_of, unit_of
from medic_ad.road import declared_out_of_scope
from medic_ad.train.run import split

MOST = 100  # images of a table, evenly spaced


def images_of_table(table: str) -> list[Sample]:
    """Different images of all splits, evenly spaced; of a volume its middle listed slice."""
    there = {s.split for s in read_samples(table)}
    rows = [s for name in SPLITS if name in there for s in split(table, name)]
    files: dict[str, list[Sample]] = {}
    for s in rows:
        files.setdefault(s.image, []).append(s)
    found = [same[len(same) // 2] for same in files.values()]
    index = np.linspace(0, len(found) - 1, min(MOST, len(found))).astype(int)
    return [found[i] for i in np.unique(index)]


def table_figures(run: Run[Predictions], table: str) -> list[Figure]:
    """Share that the gate alone keeps out, of what lies outside the scope and of what does not."""
    samples, config = images_of_table(table), run.own.model.config
    outside = np.array([declared_out_of_scope(file_of(s)[0], config) is not None for s in samples])
    images = [as_image(slice_of(s), s.image) for s in samples]
    name = Path(table).stem
    kept_out = refused(run.context, name, images)
    groups = np.array([s.group for s in samples])
    sampling = run.context.resampling(groups, unit_of(samples), f"{name}, all splits")
    figures = []
    for keep, words in ((outside, "another kind of image"), (~outside, "kind in scope or unsaid")):
        if keep.any():
            values = np.where(keep, kept_out, np.nan)
            figures.append(sampling.mean(f"out of scope, {words}", values, name))
    return figures


def gate_part(run: Run[Predictions], tables: Sequence[str]) -> Part:
    """The gate on photographs and on other tables."""
    figures = [photograph_figure(run.context)]
    for table in tables:
        figures += table_figures(run, table)
    inside = np.where(run.own.in_scope, 0.0, 1.0)
    figures.append(run.sampling().mean("out of scope, this table", inside, run.own.of))
    note = (
        "By the gate alone, without what a file or table says of its modality and body part; what "
        f"says another one is out of scope whatever it shows. At most {MOST} images a table, of a "
        "volume the middle slice."
    )
    return Part("Out-of-scope gate", [note], figures)
