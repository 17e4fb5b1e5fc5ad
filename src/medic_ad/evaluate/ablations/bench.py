"""Ablations: one run after another is trained within its budget, judged, and kept.

Judged on lesions of validation, so that the test split stays closed, and on repairs, blends and
donors that training never used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medic_ad.align import align
from medic_ad.calibrate import Validation, validation
from medic_ad.errors import DataError
from medic_ad.evaluate.ablations import bare, measure
from medic_ad.evaluate.material.made_pairs import Pairs, draw
from medic_ad.evaluate.material.twins import Twins, make_twins
from medic_ad.evaluate.predictions.bars import bar
from medic_ad.evaluate.predictions.store import Arrays, Store, code, digest
from medic_ad.evaluate.predictions.sweep import as_image
from medic_ad.load import Model, load_checkpoint
from medic_ad.models import checkpoint_folder
from medic_ad.option import check_positive
from medic_ad.processor import fit_square, grey_window
from medic_ad.train import compare, detect, explain
from medic_ad.train.draw import Slices
from medic_ad.train.render import Rendered, render
from medic_ad.train.run import finish, split
from medic_ad.train.settings import StageArguments

if TYPE_CHECKING:  # the list of rows may change without a run being made anew
    from medic_ad.evaluate.ablations.rows import Row

TRAIN: dict[str, tuple[Any, Any]] = {
    "detect": (detect.DetectArguments, detect.train),
    "compare": (compare.CompareArguments, compare.train),
    "explain": (explain.ExplainArguments, explain.train),
}
ORDER = list(TRAIN)
MOST_SECONDS = 180.0  # three CPU minutes
NEVER = 1_000_000  # steps; the budget ends a run long before
MADE_WITH = code("medic_ad.evaluate.ablations.bench", "medic_ad.evaluate.ablations.variations")


@dataclass
class AblationsArguments:
    """Arguments of `medic-ad evaluate ablations`."""

    data: str = field(metadata={"help": "Parquet file of samples with lesion masks"})
    model: str = field(default="nano", metadata={"help": "whose backbone the rows stand on"})
    out: str = field(default="out/ablations", metadata={"help": "folder of runs and the table"})
    seeds: int = field(default=3, metadata={"help": "runs a row"})
    cpu_seconds: float = field(
        default=90.0, metadata={"help": "processor seconds of every run of the table"}
    )
    base_steps: int = field(
        default=1000,
        metadata={"help": "of the base without masks and labels: its tower, its language model"},
    )
    batch: int = field(default=12, metadata={"help": "scans or pairs a step"})
    images: int = field(default=80, metadata={"help": "lesion slices of val, each with its twins"})
    pairs: int = field(default=120, metadata={"help": "pairs that are judged"})
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
        if not 0 < self.cpu_seconds <= MOST_SECONDS:
            raise DataError(
                f"expected --cpu-seconds above 0 and at most {MOST_SECONDS:.0f}, got "
                f"{self.cpu_seconds:g}; leave it out for 90"
            )
        check_positive(self, "base_steps", "batch", "images", "pairs")


@dataclass(frozen=True)
class Bench:
    """Where runs are made, judged and kept."""

    arguments: AblationsArguments
    model: Model

    @cached_property
    def start(self) -> str:
        """The checkpoint whose backbone the rows stand on."""
        return str(checkpoint_folder(self.arguments.model))

    @cached_property
    def key(self) -> str:
        """Of everything that a run depends on beside its row and seed."""
        a = self.arguments
        table = hashlib.sha256(Path(a.data).read_bytes()).hexdigest()
        budget = (a.cpu_seconds, a.batch, a.images, a.pairs, a.bf16, a.weights)
        return digest(budget, table, self.model.weights_sha256, MADE_WITH)

    @cached_property
    def store(self) -> Store:
        return Store(Path(self.arguments.out), "medic-ad evaluate ablations")

    @cached_property
    def rendered(self) -> Rendered:
        """Lesion slices of validation, evenly chosen; twins and shams by test methods."""
        lesions = [s for s in split(self.arguments.data, "val") if s.mask and s.label != 0]
        chosen = np.linspace(0, len(lesions) - 1, min(self.arguments.images, len(lesions)))
        if not lesions:
            raise DataError(
                f"expected lesion masks in split 'val' of {self.arguments.data}, got none; fill "
                "the column mask"
            )
        some = [lesions[int(i)] for i in chosen]
        drawn = render(some, self.model.config.image_size, Path(self.arguments.cache))

        def make() -> Arrays:
            slices = zip(drawn.image.astype(np.float32), drawn.mask, strict=True)
            return make_twins(list(slices), 0, "inpainting slices of val")

        twins = self.store.material("twins", self.key, make)
        return dataclasses.replace(drawn, clean=twins["clean"], sham=twins["sham"])

    @cached_property
    def seen(self) -> Validation:
        slices = Slices(self.rendered)
        return validation(slices, slices, 0)

    @cached_property
    def pairs(self) -> dict:
        """`image`, `followup` `(n, S, S)` in [0, 1] and `change`, registered as `read` does it."""
        r, side = self.rendered, self.model.config.image_size

        def make() -> Arrays:
            groups = [s.group for s in r.samples]
            twins = Twins(groups, r.image, r.clean, r.sham, r.mask)
            drawn = Pairs(**draw(twins, self.arguments.pairs, 0))
            rows = []
            for first, second, change in bar(
                list(zip(drawn.first, drawn.second, drawn.change, strict=True)), "aligning pairs"
            ):
                found = align(as_image(second, "second.png"), as_image(first, "first.png"))
                if found.ok:
                    halves = (found.prior_half, found.current_half)
                    both = (fit_square(x, grey_window(x), side)[0].numpy() for x in halves)
                    rows.append((*both, change))
            if not rows:
                raise DataError(
                    f"expected pairs that can be registered, but all {len(drawn)} were refused; "
                    "give a table of other slices"
                )
            names = ("image", "followup", "change")
            return {k: np.array(v) for k, v in zip(names, zip(*rows, strict=True), strict=True)}

        found = self.store.material("pairs", self.key, make)
        canvases = {name: torch.from_numpy(found[name]).float() for name in ("image", "followup")}
        return canvases | {"change": found["change"].tolist()}

    def folder(self, row: Row, seed: int, on: str) -> Path:
        """Of a run; `on` is the name of the folder that it is trained on, empty for the model's."""
        said = dataclasses.asdict(row) | {"vary": row.vary.__name__}
        name = re.sub(r"\W+", "-", row.name).strip("-").lower()
        return self.runs / f"{name}-{seed}-{digest(self.key, sorted(said.items()), seed, on)}"

    @property
    def runs(self) -> Path:
        return Path(self.arguments.out) / "runs"

    def shared(self, seed: int, out: Path, model: str) -> dict:
        """What all trainings are given; batches are drawn in this process, whose time counts."""
        a = self.arguments
        return {
            "data": a.data, "model": model, "out": str(out), "steps": NEVER, "save_steps": NEVER,
            "cpu_seconds": a.cpu_seconds, "batch": a.batch, "seed": seed, "workers": 0,
            "bf16": a.bf16, "cache": a.cache, "weights": a.weights,
        }  # fmt: skip

    def bare(self) -> Path:
        """Folder of the base made without masks and labels, made once for all seeds.

        It is no run of the table: its steps are counted, and an interrupted one resumes.
        """
        steps = self.arguments.base_steps
        out = self.runs / f"bare-{digest(self.key, steps)}"
        if not (out / "config.json").is_file():
            counted = {"steps": steps, "cpu_seconds": 0.0, "save_steps": StageArguments.save_steps}
            bare.make(StageArguments(**self.shared(0, out, self.start) | counted))
        return out

    def run(self, row: Row, seed: int, before: Path | None, reference: bool) -> Path:
        """Folder of one run with its `figures.json`; made unless it was before.

        Args:
            before: folder of the run that it is trained on; `None` for the model's backbone, or
                for the bare base where the row says so.
            reference: its `weights` are kept, for others to stand on, and the stages before its own
                are judged, too.
        """
        base = self.bare() if row.bare else None
        on = before or base
        folder = self.folder(row, seed, "" if on is None else on.name)
        if (folder / "figures.json").is_file():
            return folder
        shutil.rmtree(folder, ignore_errors=True)  # an interrupted run starts over
        start = str(before / "weights" if before else base or self.start)
        network, processor = load_checkpoint(checkpoint_folder(start))
        torch.manual_seed(seed)
        if row.stage == ORDER[0]:  # the backbone alone is kept
            for name, value in row.config.items():
                setattr(network.config, name, value)
            network.add_heads()
        row.vary(network)
        kind, train = TRAIN[row.stage]
        asked = kind(**self.shared(seed, folder / "training", start) | row.arguments)
        train(network, processor, asked)
        record = json.loads((folder / "training" / f"{row.stage}.run.json").read_text())
        network.eval()
        stages = ORDER[: ORDER.index(row.stage) + 1] if reference else [row.stage]
        trained = Model(row.name, network, processor, "")
        made = {
            "row": row.name,
            "seed": seed,
            **{name: record[name] for name in ("steps", "cpu_seconds")},
            "figures": {stage: self.judge(trained, stage) for stage in stages},
        }
        if reference:
            kept = dataclasses.replace(asked, out=str(folder / "weights"))
            finish(network, processor, kept, row.stage)
        shutil.rmtree(folder / "training")
        part = folder / "figures.json.part"
        part.write_text(json.dumps(made))
        os.replace(part, folder / "figures.json")
        return folder

    def judge(self, trained: Model, stage: str) -> measure.Judged:
        """Figures of one stage of a trained model."""
        if stage == "compare":
            return measure.pairs(trained, self.pairs)
        return measure.scans(trained, self.seen, stage == "explain")
