"""`medic-ad evaluate ablations`: small trainings with one part changed, over several seeds.

Every run has the same stated budget and is kept when it is done. Judged on validation, so that the
test split stays closed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

from medic_ad.calibrate import Validation, validation
from medic_ad.data.sample import read_info
from medic_ad.errors import DataError
from medic_ad.evaluate.ablations import bare, measure
from medic_ad.evaluate.ablations.rows import COMPARE, DETECT, EXPLAIN, PARTS, ROWS, Row
from medic_ad.evaluate.bars import bar
from medic_ad.evaluate.bootstrap import LEVEL, Figure
from medic_ad.evaluate.page import Measured, show, write
from medic_ad.evaluate.record import provenance
from medic_ad.evaluate.run import record_of_table
from medic_ad.evaluate.store import READ_WITH, Context, Part, Store, digest
from medic_ad.load import Model, find_checkpoint, load_checkpoint, load_model
from medic_ad.train import compare, detect, explain
from medic_ad.train.draw import Slices, pair_batch
from medic_ad.train.render import render
from medic_ad.train.run import StageArguments, finish, split

TRAIN: dict[str, tuple[Any, Any]] = {
    "detect": (detect.DetectArguments, detect.train),
    "compare": (compare.CompareArguments, compare.train),
    "explain": (explain.ExplainArguments, explain.train),
}


@dataclass
class AblationsArguments:
    """Arguments of `medic-ad evaluate ablations`."""

    data: str = field(metadata={"help": "Parquet file of samples with lesion masks"})
    model: str = field(default="nano", metadata={"help": "whose backbone the rows stand on"})
    out: str = field(default="out/ablations", metadata={"help": "folder of runs and the table"})
    seeds: int = field(default=3, metadata={"help": "runs a row"})
    steps: int = field(default=100, metadata={"help": "of every run, about a minute on 2 cores"})
    batch: int = field(default=12, metadata={"help": "scans or pairs a step"})
    base_steps: int = field(
        default=250, metadata={"help": "of the base without masks and labels: its tower"}
    )
    language_steps: int = field(default=150, metadata={"help": "the same: its language model"})
    images: int = field(default=80, metadata={"help": "lesion slices of val, each with its twins"})
    pairs: int = field(default=120, metadata={"help": "pairs that are judged"})
    workers: int = field(default=1, metadata={"help": "processes that draw and augment"})
    bf16: bool = field(default=True, metadata={"help": "bfloat16 autocast in training"})
    cache: str = field(default=StageArguments.cache, metadata={"help": "folder of rendered slices"})
    weights: str = field(
        default=StageArguments.weights, metadata={"help": "share of the draws per source"}
    )

    def __post_init__(self) -> None:
        if self.seeds < 2:
            raise DataError(
                f"expected --seeds of 2 or more for an interval, got {self.seeds}; leave it out "
                "for 3"
            )


@dataclass(frozen=True)
class Bench:
    """Where runs are made, judged and kept."""

    arguments: AblationsArguments
    model: Model

    @cached_property
    def start(self) -> str:
        """The checkpoint whose backbone the rows stand on."""
        return str(find_checkpoint(self.arguments.model))

    @cached_property
    def key(self) -> str:
        """Of everything that a run depends on beside its row and seed."""
        a = self.arguments
        budget = (a.steps, a.batch, a.base_steps, a.language_steps, a.images, a.pairs)
        table = hashlib.sha256(Path(a.data).read_bytes()).hexdigest()
        return digest(budget, a.bf16, a.weights, table, self.model.weights_sha256, READ_WITH)

    @cached_property
    def held_out(self) -> Slices:
        """Lesion slices of validation, evenly chosen."""
        lesions = [s for s in split(self.arguments.data, "val") if s.mask and s.label != 0]
        chosen = np.linspace(0, len(lesions) - 1, min(self.arguments.images, len(lesions)))
        if not lesions:
            raise DataError(
                f"expected lesion masks in split 'val' of {self.arguments.data}, got none; fill "
                "the column mask"
            )
        some = [lesions[int(i)] for i in chosen]
        return Slices(render(some, self.model.config.image_size, Path(self.arguments.cache)))

    @cached_property
    def seen(self) -> Validation:
        return validation(self.held_out, self.held_out, 0)

    @cached_property
    def pairs(self) -> dict:
        rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
        drawn = [self.held_out.pair(rng) for _ in range(self.arguments.pairs)]
        return pair_batch(drawn, generator)

    def folder(self, name: str, seed: int) -> Path:
        number = [row.name for row in ROWS].index(name)
        return Path(self.arguments.out) / "runs" / f"{number:02d}-{seed}-{self.key}"

    def shared(self, seed: int, out: Path, model: str, steps: int) -> dict:
        """What the trainings of all rows are given."""
        a = self.arguments
        return {
            "data": a.data, "model": model, "out": str(out), "steps": steps, "batch": a.batch,
            "seed": seed, "workers": a.workers, "bf16": a.bf16, "cache": a.cache,
            "weights": a.weights,
        }  # fmt: skip

    def bare(self) -> str:
        """Folder of the base made without masks and labels, made once for all seeds."""
        out = Path(self.arguments.out) / "runs" / f"bare-{self.key}"
        if not (out / "config.json").is_file():
            a = self.arguments
            made = StageArguments(**self.shared(0, out, self.start, a.base_steps))
            bare.make(made, a.language_steps)
        return str(out)

    def run(self, row: Row, seed: int) -> dict[str, Any]:
        """`figures` of one run and the `seconds` it was trained; made unless it was before."""
        folder = self.folder(row.name, seed)
        record = folder / "figures.json"
        if record.is_file():
            return json.loads(record.read_text())
        first = row.stage == "detect"
        model = self.start if first else str(self.folder(DETECT, seed) / "weights")
        if row.bare:
            model = self.bare()
        network, processor = load_checkpoint(find_checkpoint(model))
        torch.manual_seed(seed)
        if first:  # the backbone alone is kept
            for name, value in row.config.items():
                setattr(network.config, name, value)
            network.add_heads()
        row.vary(network)
        kind, train = TRAIN[row.stage]
        shared = self.shared(seed, folder / "training", model, self.arguments.steps)
        asked = kind(**shared | row.arguments)
        before = time.monotonic()
        train(network, processor, asked)
        seconds = time.monotonic() - before
        network.eval()
        trained = Model(row.name, network, processor, "")
        if row.stage == "compare":
            figures = measure.pairs(trained, self.pairs)
        else:
            figures = measure.scans(trained, self.seen, row.stage == "explain")
        if row.name == DETECT:  # what the other stages stand on
            finish(network, processor, dataclasses.replace(asked, out=str(folder / "weights")))
        shutil.rmtree(folder / "training")
        part = folder / "figures.json.part"
        made = {"row": row.name, "seconds": seconds, "figures": figures}
        part.write_text(json.dumps(made))
        os.replace(part, record)
        return made


def over_seeds(name: str, of: str, values: Sequence[float], n: int, split: str) -> Figure:
    """Mean over the seeds, Student's interval of it, and every seed's value."""
    numbers = np.array(values, float)
    half = (
        student.ppf((1 + LEVEL) / 2, len(numbers) - 1) * numbers.std(ddof=1) / len(numbers) ** 0.5
    )
    return Figure(
        name=name,
        of=of,
        value=float(numbers.mean()),
        n=n,
        unit="seed",
        units=len(numbers),
        split=split,
        seed=0,
        interval=(float(numbers.mean() - half), float(numbers.mean() + half)),
        per_unit={str(k): float(v) for k, v in enumerate(numbers)},
    )


def figures_of(
    found: dict[str, list[dict]], rows: Sequence[Row], n: int, words: str
) -> list[Figure]:
    """Each row's figures and, beside another row, the paired difference over the seeds."""
    out = []
    for name in found[rows[0].name][0]:
        for row in rows:
            values = [figures[name] for figures in found[row.name]]
            out.append(over_seeds(name, row.name, values, n, words))
            if row.against != row.name:
                other = [figures[name] for figures in found[row.against]]
                gap = [a - b for a, b in zip(values, other, strict=True)]
                out.append(over_seeds(name, f"{row.name} - {row.against}", gap, n, words))
    return out


def stages(found: dict[str, list[dict]], n: dict[str, int], words: str) -> Part:
    """What each stage adds, as in the paper's table: stages 1, 1+2, 1+2+3."""
    figures = []
    for title, row in (("stages 1", DETECT), ("stages 1+2", COMPARE), ("stages 1+2+3", EXPLAIN)):
        for name in found[row][0]:
            values = [figures[name] for figures in found[row]]
            figures.append(over_seeds(name, title, values, n[row], words))
    note = (
        "The references again. A stage leaves those before it frozen, so what they measured stays; "
        "each line gives what its stage adds."
    )
    return Part("Stages", [note], figures)


def main(arguments: AblationsArguments) -> Path:
    """Train and judge what lacks, then write the table."""
    model = load_model(arguments.model)
    bench = Bench(arguments, model)
    seen, out = bench.seen, Path(arguments.out)
    todo = [(row, seed) for seed in range(arguments.seeds) for row in ROWS]
    found: dict[str, list[dict]] = {row.name: [] for row in ROWS}
    seconds = []
    for row, seed in bar(todo, "ablations"):
        made = bench.run(row, seed)
        found[row.name].append(made["figures"])
        seconds.append(made["seconds"])
    words = f"{Path(arguments.data).stem} val"
    judged = int(seen.second.sum())
    n = {row.name: arguments.pairs if row.stage == "compare" else judged for row in ROWS}
    parts = []
    for title, (firsts, note) in PARTS.items():
        rows = [row for row in ROWS if row.name in firsts or row.against in firsts]
        parts.append(Part(title, [note], figures_of(found, rows, n[rows[0].name], words)))
    parts.append(stages(found, n, words))
    context = Context(model=model, root=Path(read_info(arguments.data).root), store=Store(out, ""))
    record = provenance(context, arguments) | {
        "data": record_of_table(arguments.data, "val", bench.held_out.rendered.samples)
    }
    measured = Measured(
        stage="ablations",
        provenance=record,
        verdict=(
            f"{len(ROWS)} rows of {arguments.seeds} seeds, {arguments.steps} steps of "
            f"{arguments.batch} scans or pairs a run; the base without masks and labels had "
            f"{arguments.base_steps} and {arguments.language_steps} steps. Training took "
            f"{np.median(seconds):.0f} seconds a run, at most {max(seconds):.0f}. Intervals are "
            "Student's, over the seeds; n counts the judged images or pairs, pixel figures are of "
            "the images with a lesion."
        ),
        beats_baseline=None,
        parts=parts,
        curves=[],
        worst=[],
        worst_words="",
        cases=[
            {"row": name, "seed": seed, "figure": figure, "value": f"{value:.6f}"}
            for name, runs in found.items()
            for seed, figures in enumerate(runs)
            for figure, value in figures.items()
        ],
        extra={},
    )
    done = write(out / "ablations", measured)
    show(measured)
    return done
