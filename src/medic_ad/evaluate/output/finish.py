"""Evaluation: what the pages of all tables share: record, scope, pictures, cases, files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medic_ad.data.sample import Sample, read_info
from medic_ad.evaluate.figures.bootstrap import Figure
from medic_ad.evaluate.output.curves import case
from medic_ad.evaluate.output.page import Measured, Picture, show, write
from medic_ad.evaluate.output.record import provenance
from medic_ad.evaluate.predictions.run import Run
from medic_ad.evaluate.predictions.store import Part
from medic_ad.evaluate.predictions.table import (
    Predictions,
    file_of,
    files_of,
    mask_of,
    slice_of,
)


def scope_figures(run: Run[Predictions]) -> tuple[list[Figure], str]:
    """Share of the images that the model would read at all, and what was done with the others."""
    figures = [
        run.sampling().mean("share in scope", p.in_scope.astype(float), p.of) for p in run.seen
    ]
    outside = int((~run.own.in_scope).sum())
    note = (
        f"{outside} of {len(run.samples)} images are out of scope for {run.own.of} and would not "
        "be read by `medic-ad read`; scores and heatmaps here are taken without the gate, all "
        "images included, unless a row says otherwise. Each slice of a volume counts for itself."
    )
    return figures, note


def record_of_table(path: str, split: str, samples: Sequence[Sample]) -> dict[str, Any]:
    """What the figures say of the table that they are of."""
    info, data = read_info(path), Path(path)
    return {
        "table": data.stem,
        "sha256": hashlib.sha256(data.read_bytes()).hexdigest(),
        "split": split,
        "name": info.name,
        "licence": info.licence,
        "notes": list(info.notes),
        "seen": info.seen,
        "samples": len(samples),
        "groups": len({s.group for s in samples}),
    }


def record_of(run: Run) -> dict[str, Any]:
    """Provenance of the figures."""
    found = provenance(run.context.model, run.arguments)
    found["model"] = run.own.of
    found["data"] = record_of_table(run.arguments.data, run.arguments.split, run.samples)
    found["data"]["files"] = files_of(run.arguments.tables)
    if run.other is not None:
        found["against"] = {
            "model": run.other.of, "weights_sha256": run.other.model.weights_sha256
        }  # fmt: skip
    return found


def where_of(sample: Sample) -> str:
    """Image and slice in words."""
    at = "" if sample.slice is None else f", slice {sample.slice}"
    return f"{Path(sample.image).name}{at}"


def picture(run: Run[Predictions], i: int, words: str) -> Picture:
    """Image, mask outline and heatmap of one case."""
    sample = run.samples[i]
    threshold = float(run.own.fitted("heatmap_threshold")[i])
    _, window = file_of(sample)
    drawn = case(slice_of(sample), window, run.own.heatmaps[i], threshold, mask_of(sample))
    return Picture(f"{where_of(sample)}: {words}", drawn)


def case_row(run: Run[Predictions], i: int) -> dict[str, Any]:
    """What every row of `cases.csv` says of an image."""
    sample, own = run.samples[i], run.own
    return {
        "image": sample.image,
        "slice": "" if sample.slice is None else sample.slice,
        "group": sample.group,
        "source": sample.source,
        "label": "" if np.isnan(sample.label) else int(sample.label),
        "score": f"{own.score[i]:.6f}",
        "in_scope": int(own.in_scope[i]),
        "scope_entry": own.model.config.scope[own.entry[i]],
    }


def finish(run: Run, parts: Sequence[Part | None], **found: Any) -> Path:
    """Show the table and write the files.

    Args:
        parts: sections of the table; `None` where there was nothing to measure.
        found: the other values of `Measured`.
    """
    measured = Measured(
        stage=run.stage,
        provenance=record_of(run),
        parts=[part for part in parts if part is not None],
        **found,
    )
    done = write(Path(run.arguments.out) / run.stage, measured)
    show(measured)
    return done
