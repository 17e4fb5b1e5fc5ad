"""`medic-ad evaluate paper`: the paper's detection tables, its published rows beside ours.

Cross-data-set, with nothing of the measured sets in training and near twins left out, and
in-domain, from the rounds of `medic-ad evaluate folds`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markdown import Markdown

from medic_ad.data.sample import Sample, read_info, write_samples
from medic_ad.errors import DataError
from medic_ad.evaluate.baselines import published
from medic_ad.evaluate.baselines.features import SIZE, features_of
from medic_ad.evaluate.figures import metrics
from medic_ad.evaluate.figures.bootstrap import Figure
from medic_ad.evaluate.folds import folds
from medic_ad.evaluate.folds.refit import FoldsArguments, draw_folds
from medic_ad.evaluate.material.copies import (
    everything,
    one_of_each,
    seen_in_training,
    shared_sources,
)
from medic_ad.evaluate.output.markdown import number
from medic_ad.evaluate.output.record import as_json, figure_of, provenance, write_texts
from medic_ad.evaluate.predictions.run import Run, load_calibrated, start
from medic_ad.evaluate.predictions.table import TableArguments
from medic_ad.option import check_positive, check_seed, entries
from medic_ad.report.schema import NOTICE

CROSS, INSIDE, SIZES = "cross-data-set", "in-domain", "image size alone"
ALL, FIRST = "all", "without copies"


@dataclass
class PaperArguments:
    """Arguments of `medic-ad evaluate paper`."""

    data: str = field(metadata={"help": "comma-separated tables, one a published set"})
    model: str = field(metadata={"help": "name of a model, or its folder"})
    training: str = field(metadata={"help": "table that the model was trained on"})
    folds: str = field(
        default="", metadata={"help": "folder that `evaluate folds` wrote NAME/ of each set into"}
    )
    out: str = field(
        default="out/paper", metadata={"help": "folder of tables, figures and predictions"}
    )
    seed: int = field(default=0, metadata={"help": "of resampling and of the fitted baseline"})
    resamples: int = field(default=1000, metadata={"help": "of the bootstrap"})

    def __post_init__(self) -> None:
        check_positive(self, "resamples")
        check_seed(self)


@dataclass(frozen=True)
class Cell:
    """One figure of a table.

    Attributes:
        row: whose, how it came about, and which images.
        column: name of the set.
        figure: its `name` is the table that it stands in.
    """

    row: tuple[str, str, str]
    column: str
    figure: Figure


def cross(
    name: str, samples: list[Sample], twin: np.ndarray, first: np.ndarray, data: str,
    arguments: PaperArguments,
) -> tuple[list[Cell], Run]:  # fmt: skip
    """The model as it is on all images of a set that it has no twin of in training."""
    kept = [
        dataclasses.replace(s, split="test") for s, t in zip(samples, twin, strict=True) if not t
    ]
    table = Path(arguments.out) / "tables" / f"{name}.parquet"
    write_samples(kept, table, read_info(data))
    asked = TableArguments(
        data=str(table), model=arguments.model, out=arguments.out, seed=arguments.seed,
        resamples=arguments.resamples,
    )  # fmt: skip
    run = start("paper", asked, kept, [True] * len(kept), [])
    labels = np.array([s.label for s in kept])
    fold = draw_folds(kept, FoldsArguments.folds, arguments.seed)
    here = features_of(kept, run.context.store, name)
    size = folds.trivial_scores(here, labels, fold, arguments.seed)[SIZE]
    own, column = run.own, published.SETS.get(name, name)
    decided = own.score >= own.fitted("threshold")
    cells = []
    for images, keep in ((ALL, np.ones(len(kept), bool)), (FIRST, first[~twin])):
        sampling, truth = run.sampling(keep), labels[keep]
        found = {
            (own.of, CROSS): [("F1", metrics.f1(decided[keep], truth)),
                              ("AUROC", metrics.auroc(own.score[keep], truth))],
            (SIZES, INSIDE): [("AUROC", metrics.auroc(size[keep], truth))],
        }  # fmt: skip
        cells += [
            Cell((*row, images), column, sampling.figure(figure, statistic, row[0]))
            for row, rows in found.items()
            for figure, statistic in rows
        ]
    return cells, run


def inside(data: str, folder: Path, weights: str) -> list[Cell]:
    """What `medic-ad evaluate folds` measured of one set, starting from these weights.

    Raises:
        DataError: its figures are not there, or of other weights or another table.
    """
    name = Path(data).stem
    path = folder / name / "folds" / "figures.json"
    try:
        found = json.loads(path.read_text())
        parts = {p["title"]: p["figures"] for p in found["parts"]}
        made = found["provenance"]["weights_sha256"], found["provenance"]["data"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"expected the figures of `medic-ad evaluate folds` in {path}, found none; run it with "
            f"--out {folder / name}, or leave --folds out"
        ) from error
    if made != (weights, hashlib.sha256(Path(data).read_bytes()).hexdigest()):
        raise DataError(
            f"expected figures of weights {weights[:16]} and of {data} in {path}, but they are of "
            f"weights {made[0][:16]} and a table {made[1][:16]}; run `medic-ad evaluate folds` "
            "again, or leave --folds out"
        )
    cells = []
    for images, title in ((ALL, "In-domain"), (FIRST, "Without copies")):
        for found in parts.get(title, parts["In-domain"]):
            if found["of"] in (folds.OWN, folds.PEER) and found["name"] in ("F1", "AUROC"):
                figure = figure_of(found)
                cells.append(
                    Cell((figure.of, INSIDE, images), published.SETS.get(name, name), figure)
                )
    return cells


def cell_text(figure: Figure | None, percent: bool) -> str:
    """Value, interval and n."""
    if figure is None:
        return "-"
    scale = (lambda x: f"{100 * x:.1f}") if percent else number
    spread = ""
    if figure.interval:
        spread = f" [{scale(figure.interval[0])}, {scale(figure.interval[1])}]"
    return f"{scale(figure.value)}{spread}, n = {figure.n}"


def layout(name: str, cells: Sequence[Cell], columns: Sequence[str]) -> list[str]:
    """One table as the paper lays it out: models down, sets across, published rows first."""
    percent, theirs = name == "F1", published.F1 if name == "F1" else published.AUROC
    scale = "{:.1f}" if percent else "{:.3f}"
    head = ["model", "setting", "images", *columns, "average of these", "average of five"]
    rows = []
    for model, found in theirs.items():
        row = [scale.format(found[c]) if c in found else "-" for c in columns]
        there = [found[c] for c in columns if c in found]
        mean = scale.format(np.mean(there)) if there and len(there) == len(columns) else "-"
        five = scale.format(found["five"]) if "five" in found else "-"
        rows.append([model, "published", "-", *row, mean, five])
    mine = [c for c in cells if c.figure.name == name]
    for key in dict.fromkeys(c.row for c in mine):
        by_set = {c.column: c.figure for c in mine if c.row == key}
        values = [by_set[c].value for c in columns if c in by_set]
        mean = "-"
        if len(values) == len(columns):
            mean = scale.format((100 if percent else 1) * float(np.mean(values)))
        own = [cell_text(by_set.get(c), percent) for c in columns]
        rows.append([*key, *own, mean, mean if set(columns) == set(published.FIVE) else "-"])
    title = "F1 in percent, at a threshold from validation" if percent else "AUROC"
    lines = [f"### {title}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def write(out: Path, notes: list[str], cells: list[Cell], columns: list[str], record: dict) -> Path:
    """`figures.md` and `figures.json`, both or none."""
    tables = [line for name in ("F1", "AUROC") for line in layout(name, cells, columns)]
    head = [
        f"## The paper's tables: {record['model']}",
        "",
        NOTICE,
        "",
        f"Weights {record['weights_sha256'][:16]}, medic_ad {record['medic_ad']}, "
        f"{record['date'][:10]}. Published rows are as their authors gave them, on the whole sets; "
        "ours are on the parts at hand. In brackets the 95 % interval, by bootstrap over groups.",
        "",
    ]
    text = "\n".join([*head, *(f"- {note}" for note in notes), "", *tables])
    found = {
        "schema": "medic-ad/paper/1",
        "research_use": NOTICE,
        "provenance": record,
        "notes": notes,
        "published": {"F1": published.F1, "AUROC": published.AUROC},
        "cells": [dataclasses.asdict(c) for c in cells],
    }
    write_texts(out, {"figures.md": text, "figures.json": as_json(found)})
    Console().print(Markdown(text))
    return out / "figures.md"


def main(arguments: PaperArguments) -> Path:
    """Measure every set across, gather its folds, and lay the tables out."""
    tables = entries(arguments.data)
    columns = [published.SETS.get(Path(t).stem, Path(t).stem) for t in tables]
    if len(set(columns)) < len(columns):
        raise DataError(
            f"expected one table of each set in --data, got {', '.join(columns)}; leave one out"
        )
    training = seen_in_training(arguments.training)
    sources = sorted({s.source for s in training})
    pictures = sorted({s.source for s in training if s.slice is None})  # volumes are not compared
    cells: list[Cell] = []
    notes: list[str] = []
    run = None
    if arguments.folds:
        weights = load_calibrated(arguments.model).weights_sha256
        for data in tables:
            cells += inside(data, Path(arguments.folds), weights)
    for data in tables:
        name = Path(data).stem
        samples, more = everything(data)
        notes += [f"{name}: {note}" for note in more]
        shared = shared_sources(samples[0].source, sources)
        if shared:
            notes.append(
                f"{name}: no cross-data-set figure, the model was trained on {', '.join(shared)}."
            )
            continue
        first, twin = one_of_each(samples, training, Path(arguments.out) / "fingerprints")
        found, run = cross(name, samples, twin, first, data, arguments)
        cells += found
        inside_scope = float(run.own.in_scope.mean())
        notes.append(
            f"{name}: {len(samples)} images, {(~first).sum()} of them copies of another; "
            f"{twin.sum()} near twins of the training images ({', '.join(pictures)}) left out of "
            f"the cross-data-set figures; {inside_scope:.0%} in scope, scores are taken without "
            "the gate."
        )
    if run is None:
        raise DataError(
            f"expected a set that shares nothing with {arguments.training}, got {arguments.data}; "
            "name another table"
        )
    notes += [
        f"COVID-19: ours is {Path(t).stem}; that the paper's is the same is not verified."
        for t, column in zip(tables, columns, strict=True)
        if column == "COVID-19"
    ]
    record = provenance(run.context.model, arguments) | {"model": run.own.of}
    return write(Path(arguments.out) / "paper", notes, cells, columns, record)
