"""`medic-ad evaluate all`: every measurement that the data sets under a folder allow, one page."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from medic_ad.data.prepare import prepare
from medic_ad.data.registry import SETS
from medic_ad.data.sample import Sample, read_info, read_samples
from medic_ad.errors import DataError, MedicADError
from medic_ad.evaluate import calibration, compare, detect, language, localise, sanity
from medic_ad.evaluate.material.unseen import without_seen
from medic_ad.evaluate.output.page import read_page
from medic_ad.evaluate.output.summary import Row, Summary, write
from medic_ad.evaluate.predictions.bars import bar
from medic_ad.evaluate.predictions.run import load_calibrated
from medic_ad.evaluate.predictions.store import READ_WITH
from medic_ad.evaluate.predictions.table import files_of
from medic_ad.image import same_body_part, same_modality
from medic_ad.load import Model
from medic_ad.option import check_positive, check_seed, entries

PREFERRED = ("test", "val", "train")  # the first of these that a table has is measured
NOTHING = "No label, mask, change or question that could be measured."


@dataclass
class AllArguments:
    """Arguments of `medic-ad evaluate all`."""

    data: str = field(metadata={"help": "folder that holds data sets under their names"})
    model: str = field(metadata={"help": "name of a model, or its folder"})
    training: str = field(
        default="",
        metadata={
            "help": "table that the model was trained on: its images, and near twins, are left out"
        },
    )
    out: str = field(
        default="out/evaluate-all", metadata={"help": "folder of tables, figures and the summary"}
    )
    seed: int = field(default=0, metadata={"help": "of resampling and of the fitted baselines"})
    resamples: int = field(default=1000, metadata={"help": "of the bootstrap"})
    others: str = field(
        default="",
        metadata={
            "help": "comma-separated folders of figures by other commands (folds, networks from "
            "scratch), which are listed too where they are of the same weights"
        },
    )

    def __post_init__(self) -> None:
        check_positive(self, "resamples")
        check_seed(self)


@dataclass(frozen=True)
class Job:
    """One measurement of one table.

    Attributes:
        name: of the set.
        stage: of the command.
        arguments: of the command.
        main: of the command.
    """

    name: str
    stage: str
    arguments: Any
    main: Callable[[Any], Path]

    @property
    def page(self) -> Path:
        return Path(self.arguments.out) / self.stage / "figures.html"


COMMANDS: dict[str, tuple[type, Callable[[Any], Path]]] = {
    "detect": (detect.DetectArguments, detect.main),
    "localise": (localise.LocaliseArguments, localise.main),
    "compare": (compare.CompareArguments, compare.main),
    "language": (language.LanguageArguments, language.main),
    "calibration": (calibration.CalibrationArguments, calibration.main),
    "sanity": (sanity.SanityArguments, sanity.main),
}


def tables_of(arguments: AllArguments) -> tuple[dict[str, Path], list[Row]]:
    """The tables of all sets in the folder, made anew, and what could not be made.

    Raises:
        DataError: no set of the registry lies there.
    """
    root, folder = Path(arguments.data), Path(arguments.out) / "tables"
    present = [name for name in SETS if (root / name).is_dir()]
    if not present:
        raise DataError(
            f"expected folders of data sets such as {', '.join(list(SETS)[:3])} in {root}, found "
            "none; `medic-ad data list` has their names"
        )
    tables, refused = {}, []
    for name in bar(present, "preparing tables"):
        path = folder / f"{name}.parquet"
        try:
            tables[name] = prepare(name, root / name, path)  # what changed since is seen
        except MedicADError as error:
            refused.append(Row(name, "", "prepare", reason=str(error)))
    return tables, refused


def in_scope(model: Model, samples: list[Sample]) -> bool:
    """Whether a table says of its images what the model was calibrated for."""
    config = model.config

    def fits(s: Sample) -> bool:
        kinds, parts = config.scope_modalities, config.scope_body_parts
        said = s.modality and s.body_part
        return bool(
            said
            and any(same_modality(str(s.modality), m) for m in kinds)
            and any(same_body_part(str(s.body_part), p) for p in parts)
        )

    return any(fits(s) for s in samples)


def stages_of(samples: list[Sample], scoped: bool) -> list[str]:
    """What can be measured on the rows of one split."""
    alone = [s for s in samples if s.prior is None or not math.isnan(s.label)]
    labels = {s.label for s in alone}
    masked = any(s.mask for s in alone)
    changed = any(s.prior and (s.change or (s.mask and math.isnan(s.label))) for s in samples)
    asked = any(s.question for s in samples)
    wanted = {
        "detect": {0.0, 1.0} <= labels,
        "localise": masked,
        "compare": changed,
        "language": asked or (scoped and (masked or bool({0.0, 1.0} & labels))),
        "calibration": masked and scoped,
        "sanity": masked and scoped,
    }
    return [stage for stage, can in wanted.items() if can]


def jobs_of(
    arguments: AllArguments, model: Model, tables: dict[str, Path]
) -> tuple[list[Job], list[Row]]:
    """All measurements, set by set, and the sets that allow none."""
    jobs: list[Job] = []
    refused: list[Row] = []
    for name, path in bar(list(tables.items()), "looking for images seen in training"):
        rows = read_samples(path)
        split = next(s for s in PREFERRED if any(row.split == s for row in rows))
        if arguments.training:
            try:
                path = without_seen(path, split, arguments.training, path.parent / "unseen")
            except DataError as error:
                refused.append(Row(name, split, "evaluate", reason=str(error)))
                continue
        measured = [s for s in read_samples(path) if s.split == split]
        before = len(jobs)
        for stage in stages_of(measured, in_scope(model, rows)):
            kind, main = COMMANDS[stage]
            values = dict(
                data=str(path), model=arguments.model, split=split,
                out=str(Path(arguments.out) / name), seed=arguments.seed,
                resamples=arguments.resamples,
            )  # fmt: skip
            if stage == "sanity":
                values["outside"] = ",".join(str(p) for n, p in tables.items() if n != name)
            jobs.append(Job(name, stage, kind(**values), main))
        if len(jobs) == before:
            refused.append(Row(name, "", "evaluate", reason=NOTHING))
    return jobs, refused


def others_of(folders: str, out: Path, weights: str) -> list[Row]:
    """The figures of some weights that other commands left below folders; none is made anew.

    Raises:
        DataError: a folder holds none, or one that cannot be read.
    """
    rows: list[Row] = []
    for folder in entries(folders):
        before = len(rows)
        for page in sorted(Path(folder).resolve().rglob("figures.html")):
            found = read_page(page)
            made = found["provenance"]
            if made["weights_sha256"] == weights:
                at = made["data"]["table"], made["data"]["split"], found["stage"]
                rows.append(Row.of_page(page, out, *at, listed=True))
        if len(rows) == before:
            raise DataError(
                f"expected figures of weights {weights[:16]} below {folder!r}, found none; measure "
                "with these weights, or leave it out of --others"
            )
    return rows


def measured_before(job: Job, weights: str) -> bool:
    """Whether the page is there, of the same weights, tables with their files, code, arguments."""
    if not job.page.is_file():
        return False
    try:
        record = read_page(job.page)["provenance"]
    except DataError:
        return False
    found = (record["weights_sha256"], record["read_with"], record["data"].get("files"))
    same = {k: v for k, v in record["arguments"].items() if k != "out"}
    asked = {k: v for k, v in dataclasses.asdict(job.arguments).items() if k != "out"}
    return found == (weights, READ_WITH, files_of(job.arguments.tables)) and same == asked


def say(console: Console, row: Row) -> None:
    """Why a set, or a measurement of it, was refused, as one line."""
    why = " ".join(f"{row.stage} of {row.name} refused: {row.reason}".split())
    console.print(why, markup=False, highlight=False, soft_wrap=True)


def main(arguments: AllArguments) -> Path:
    """Measure everything; what was measured before stands, an interrupted run goes on.

    Raises:
        DataError: nothing could be measured.
    """
    console, out = Console(stderr=True), Path(arguments.out)
    model = load_calibrated(arguments.model)
    if arguments.training:
        read_info(arguments.training)  # what cannot be read is refused before tables are made
    listed = []
    if arguments.others:
        listed = others_of(arguments.others, out, model.weights_sha256)
    tables, rows = tables_of(arguments)
    jobs, refused = jobs_of(arguments, model, tables)
    for row in rows + refused:
        say(console, row)
    summary = Summary(
        arguments.model, model.weights_sha256, arguments.training, rows + refused + listed
    )
    for number, job in enumerate(bar(jobs, "evaluating"), start=1):
        start = time.monotonic()
        if not measured_before(job, model.weights_sha256):
            console.print(f"[{number}/{len(jobs)}] {job.stage} on {job.name}", markup=False)
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    job.main(job.arguments)
            except MedicADError as error:
                row = Row(job.name, job.arguments.split, job.stage, reason=str(error))
                say(console, row)
                summary.rows.append(row)
                continue
        at = job.name, job.arguments.split, job.stage
        row = Row.of_page(job.page, out, *at, seconds=time.monotonic() - start)
        summary.rows.append(row)
        write(out, summary)
    own = [row for row in summary.rows if not row.listed]
    if not any(row.page for row in own):
        raise DataError(f"Nothing could be measured. {own[0].name}: {own[0].reason}")
    return write(out, summary)
