"""Batch: `medic-ad batch`: divide, leave out what is done, read, count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from medic_ad.batch.files import Folder
from medic_ad.batch.manifest import (
    FAILED,
    HEATMAPS,
    RESULTS,
    Run,
    shards,
    studies_at,
    write_manifest,
)
from medic_ad.errors import BatchError
from medic_ad.models import MODELS, checkpoint_folder, find_checkpoint, weights_sha256
from medic_ad.option import option

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Outcome:
    """Of one output folder: studies with a result, how many of them failed, and its address."""

    studies: int
    failed: int
    out: str


@dataclass(frozen=True)
class BatchArguments:
    """What is to be read, with what, by whom; the command line is made of these fields.

    Raises:
        BatchError: a number below 1, or an unknown engine.
    """

    inputs: str = field(
        metadata={
            "argument": True,
            "help": "Parquet manifest (study, path, priors, modality, body_part, date, "
            "prior_dates), or a folder or glob whose entries are one study each",
        }
    )
    out: str = field(metadata={"help": "folder of the results; s3://... where s3fs is installed"})
    engine: str = option("local", "local: this process; ray: actors of a Ray cluster")
    model: str = option("nano", "a model's name, a folder of one, or owner/model on the Hub")
    device: str | None = option(None, "cpu, cuda ...; the GPU where there is one if not given")
    modality: str | None = option(None, "DICOM code such as MR, where nothing else says it")
    body_part: str | None = option(None, "DICOM term such as BRAIN, where nothing else says it")
    shard: int = option(64, "studies a file of results; as many are read again after a kill")
    actors: int = option(1, "of Ray, each with the model on a CPU or GPU of its own")

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise BatchError(
                f"expected --engine {' or '.join(ENGINES)}, came {self.engine!r}; choose one."
            )
        for name in ("shard", "actors"):
            if getattr(self, name) < 1:
                raise BatchError(
                    f"expected at least 1 for --{name}, came {getattr(self, name)}; give a larger "
                    "number."
                )


def run_batch(
    batch: BatchArguments, begin: Callable[[int, int], Callable[[int], object]] | None = None
) -> Outcome:
    """Read every study that has no result yet; each has exactly one when this returns.

    Shards are fixed by the manifest, which is kept in the output folder. Their files have names
    made of what is in them, and appear whole: whoever is killed, whatever is read twice, a study
    stands in one file.

    Args:
        begin: given the number of studies and of those done before, returns what is called with
            each number of studies done since, for a progress bar.

    Raises:
        BatchError: inputs or output folder do not fit.
        ModelError: there is no such model, or it cannot read.
    """
    folder = Folder.at(batch.out)
    found = find_checkpoint(batch.model)
    named = batch.model in MODELS or not isinstance(found, Path)
    model = batch.model if named else str(Path(found).absolute())
    run = Run(model, weights_sha256(checkpoint_folder(batch.model)), batch.shard)
    table = studies_at(batch.inputs, batch.modality, batch.body_part)
    write_manifest(table, folder, run)
    done, left, before = folder.names(RESULTS), [], 0
    for shard in shards(folder, run):
        if shard.name in done:
            before += len(shard.rows)
        else:
            left.append(shard.number)
    advance = begin(len(table), before) if begin else None
    if left:
        # heavy, and needed only when all that a user can get wrong was looked at
        from medic_ad.batch.engines import Job, local, on_ray

        engine = local if batch.engine == "local" else on_ray(batch.actors)
        for studies in engine(Job(folder.address, run, batch.device), left):
            if advance:
                advance(studies)
    for name in (RESULTS, HEATMAPS):
        folder.sweep(name)
    return count(folder)


def count(folder: Folder) -> Outcome:
    """Results of an output folder."""
    studies = failed = 0
    for name in folder.names(RESULTS):
        with folder.files.open(folder.of(f"{RESULTS}/{name}"), "rb") as file:
            status = pq.read_table(file, columns=["status"])["status"].to_pylist()
        studies += len(status)
        failed += status.count(FAILED)
    return Outcome(studies, failed, folder.url)


def main(arguments: BatchArguments) -> None:
    """The command: a bar on stderr, the number of results and where they are."""
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def begin(studies: int, before: int) -> Callable[[int], object]:
            task = progress.add_task("studies", total=studies, completed=before)
            return lambda done: progress.advance(task, done)

        outcome = run_batch(arguments, begin)
    said = f"Studies: {outcome.studies - outcome.failed} read, {outcome.failed} failed"
    if outcome.failed:
        said += f"; see status and reason in {RESULTS}/"
    Console(highlight=False).print(f"{said}\nWritten: {outcome.out}", soft_wrap=True, markup=False)
