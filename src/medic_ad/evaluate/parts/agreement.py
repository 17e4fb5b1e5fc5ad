"""Evaluation: what the generated text says against what was computed of the same read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from medic_ad.data.sample import Sample
from medic_ad.evaluate.figures.bootstrap import Figure, Resampling, Statistic
from medic_ad.evaluate.predictions.bars import bar
from medic_ad.evaluate.predictions.store import Context, Part, digest
from medic_ad.evaluate.predictions.sweep import as_image
from medic_ad.evaluate.predictions.table import (
    TableArguments,
    images_of,
    mask_of,
    slice_of,
    state_of,
    unit_of,
)
from medic_ad.image import Image
from medic_ad.load import Model
from medic_ad.report.text import contradictions, located_cell
from medic_ad.road import read
from medic_ad.study import Study
from medic_ad.train.draw import mask_cell

TITLE = "Text beside map and decision"
NOWHERE = -1  # no cell named, or no finding


def code(cell: tuple[int, int] | None) -> int:
    """A cell of the 3 x 3 grid as 0 to 8."""
    return NOWHERE if cell is None else 3 * cell[0] + cell[1]


def claims(text: str) -> str:
    """Whether a text says that there is an anomaly: "abnormal", "normal", or "nothing"."""
    for decision, claim in (("normal", "abnormal"), ("abnormal", "normal")):
        denied = contradictions(text, decision, (), None)
        if any("the score leads" in sentence for sentence in denied):
            return claim
    return "nothing"


def read_texts(model: Model, images: Sequence[Image], what: str) -> dict[str, np.ndarray]:
    """Decision, score, cells and claim of full reads."""
    rows = []
    for image in bar(images, what):
        report = read(Study(image), model)
        top = report.findings[0].cell if report.findings else None
        cells = code(top), code(located_cell(report.text))
        rows.append((report.decision, report.score, *cells, claims(report.text), report.text))
    names = ("decision", "score", "computed", "said", "claim", "text")
    return {k: np.array(v) for k, v in zip(names, zip(*rows, strict=True), strict=True)}


def chance(computed: np.ndarray, said: np.ndarray) -> Statistic:
    """Agreement of the cells when texts are dealt to images at random."""

    def statistic(counts: np.ndarray) -> float:
        total = max(counts.sum(), 1e-12)
        return float(
            sum(counts[computed == c].sum() * counts[said == c].sum() / total**2 for c in range(9))
        )

    return statistic


def place_figures(
    seen: dict[str, np.ndarray], truth: np.ndarray, whole: Resampling, of: str
) -> list[Figure]:
    """Cells of the text against the computed cells, on slices where the map shows a region.

    Args:
        seen: of `read_texts`.
        truth: `(n,)` cell of each mask, `NOWHERE` where there is none.
        whole: of the n images.
    """
    shown = seen["computed"] != NOWHERE
    computed, said = seen["computed"][shown], seen["said"][shown]
    part = whole.subset(shown)
    return [
        part.mean(
            "text names the cell of the top finding (slices with a finding)",
            (computed == said),
            of,
            aim=">= 0.90",
        ),
        part.figure("the same", chance(computed, said), "chance"),
        whole.mean(
            "text and map agree on the place (all slices; neither naming one agrees)",
            (seen["computed"] == seen["said"]),
            of,
        ),
        whole.mean("text names the cell of the mask", (truth == seen["said"]), of),
        whole.figure("the same", chance(truth, seen["said"]), "chance"),
    ]


def decision_figures(
    name: str,
    seen: dict[str, np.ndarray],
    sampling: Resampling,
    aim: str | None,
    of: str,
) -> list[Figure]:
    """The text's claim against the decision; a text without a claim is wrong."""
    decided = np.isin(seen["decision"], ("normal", "abnormal"))
    agrees = np.where(decided, seen["claim"] == seen["decision"], np.nan)
    return [
        sampling.mean(f"text agrees with the decision, {name}", agrees, of, aim),
        sampling.mean(f"decided (not uncertain, in scope), {name}", decided, of),
    ]


def pictured(data: str, name: str, most: int) -> list[Sample]:
    """Images of one split whose label or mask is known, at most so many, evenly spaced."""
    images, _ = images_of(data, name)
    if not images:
        return []
    index = np.linspace(0, len(images) - 1, min(most, len(images))).astype(int)
    return [images[i] for i in np.unique(index)]


def agreement_part(
    context: Context, model: Model, of: str, samples: Sequence[Sample], arguments: TableArguments
) -> Part:
    """Text, map and decision of full reads; a note alone where none of the images is in scope."""
    planes = [as_image(slice_of(s), s.image) for s in samples]
    table = arguments.measured
    seen = context.store.predictions(
        model.weights_sha256, f"texts-{table}", digest([state_of(s) for s in samples]),
        lambda: read_texts(model, planes, f"reading {table} in words"),
        arguments.opens_test,
    )  # fmt: skip
    read = seen["decision"] != "out_of_scope"
    if not read.any():
        note = (
            f"Not measured: all {len(samples)} images are out of the scope of {of}, which says "
            "nothing about them."
        )
        return Part(f"{TITLE}, {of}", [note], [])
    masks = [mask_of(s) for s in samples]
    cells = [None if m is None or not m.any() else mask_cell(torch.from_numpy(m)) for m in masks]
    truth = np.array([code(cell) for cell in cells])
    inside = {name: values[read] for name, values in seen.items()}
    groups = np.array([s.group for s in samples])[read]
    split = f"{Path(arguments.data).stem} {arguments.split}"
    sampling = context.resampling(groups, unit_of(samples), split)
    figures = [
        *decision_figures("in scope", inside, sampling, None, of),
        *place_figures(inside, truth[read], sampling, of),
    ]
    kinds, times = np.unique(inside["text"], return_counts=True)
    note = (
        f"{len(samples)} images read in words by `read`, {read.sum()} of them in scope. Places are "
        "cells of a 3 x 3 grid over the image. Texts without a place or claim are wrong. Most "
        f'frequent text: "{kinds[times.argmax()]}" ({times.max()} of {times.sum()}).'
    )
    return Part(f"{TITLE}, {of}", [note], figures)
