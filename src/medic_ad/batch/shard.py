"""Batch: read the studies of one shard by the one road; its two files are the mark of its end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers

from medic_ad.batch.attempts import Attempts
from medic_ad.batch.files import Folder
from medic_ad.batch.manifest import FAILED, HEATMAPS, READ, RESULTS, Run, Shard
from medic_ad.errors import BatchError, MedicADError, ModelError, causes, is_passing
from medic_ad.load import Model
from medic_ad.report.report import Report
from medic_ad.road import read
from medic_ad.study import Study, read_study

AHEAD = 2  # studies that are read from disk while the model is at work on one

RESULT = pa.schema(
    [
        pa.field("study", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        ("reason", pa.string()),  # why it failed
        ("decision", pa.string()),
        ("score", pa.float64()),  # null out of scope
        ("findings", pa.int32()),
        ("change", pa.string()),
        ("text", pa.string()),
        ("report", pa.string()),  # report.json
        ("seconds", pa.float64()),
        ("model", pa.string()),
        ("weights_sha256", pa.string()),
        ("medic_ad", pa.string()),
        ("device", pa.string()),
        ("torch", pa.string()),
        ("transformers", pa.string()),
    ]
)
# float16 is exact to 0.0005 of a probability, and a quarter of the bytes after compression
HEATMAP = pa.schema(
    [
        pa.field("study", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # heatmap, change_map
        ("grid", pa.list_(pa.int32())),
        ("values", pa.list_(pa.float16())),  # in the order of C, NaN where not looked
    ]
)
OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)
Item = TypeVar("Item")
Made = TypeVar("Made")


def read_shard(shard: Shard, run: Run, model: Model, folder: Folder) -> None:
    """Read all studies of a shard and write their results; one that cannot be read says why.

    Heatmaps go out study by study, so that memory stays flat. Results come last: a shard with
    results is whole, and one that is read twice is written twice under the same names.
    Where an earlier worker ended without a word, nothing is read ahead: the study at which the
    next one ends is then the one that ends it.

    Raises:
        BatchError: the machine failed, so that the shard has no results and is read again later.
        ModelError: the model cannot read anything, such as one that was never calibrated.
        OSError: results cannot be written.
    """
    if model.weights_sha256 != run.weights_sha256:
        raise ModelError(
            f"expected the weights {run.weights_sha256[:12]} of this run, came "
            f"{model.weights_sha256[:12]} in {run.model}; give each worker the same weights."
        )
    attempts, rows = Attempts(folder, shard.name), []

    def opened(item: tuple[int, dict[str, Any]]) -> Study:
        attempts.begin(item[0])
        return open_study(item[1])

    depth = 0 if attempts.before else AHEAD
    with (
        folder.new(f"{HEATMAPS}/{shard.name}") as file,
        pq.ParquetWriter(
            file,
            HEATMAP,
            compression="zstd",
            use_dictionary=False,
            use_byte_stream_split=["values.list.element"],
        ) as heatmaps,
        attempts,
        closing(ahead(enumerate(shard.rows), opened, depth)) as studies,
    ):
        for (number, row), study in studies:
            start = time.perf_counter()
            try:
                result, tables = _read(row["study"], study, model)
            except BatchError as error:
                if is_of_memory(error):
                    attempts.keep(number)
                raise
            seconds = time.perf_counter() - start
            for table in tables:
                heatmaps.write_table(table)
            versions = _versions(run, model)
            rows.append({"study": row["study"], **result, "seconds": seconds, **versions})
            attempts.end(number)
    with folder.new(f"{RESULTS}/{shard.name}") as file:
        pq.write_table(pa.Table.from_pylist(rows, RESULT), file, compression="zstd")
    attempts.forget()


def _read(name: str, study: Future[Study], model: Model) -> tuple[dict[str, Any], list[pa.Table]]:
    """What a study adds to its result, and its maps as tables; both are there, or it failed."""
    try:
        report = read(study.result(), model)
        tables = [_heatmap(name, kind, values) for kind, values in maps(report)]
        return {"status": READ, **summary(report)}, tables
    except ModelError:
        raise
    except Exception as error:
        if is_passing(error) or is_of_memory(error):
            raise BatchError(
                f"expected a machine that can read {name}, but it failed: {error}; put that "
                "right, and give the same command again."
            ) from error
        # a defect of ours must not stop the other studies either
        known = isinstance(error, MedicADError)
        reason = str(error) if known else f"unexpected {type(error).__name__}: {error}"
        return {"status": FAILED, "reason": reason}, []


def is_of_memory(error: BaseException) -> bool:
    """Whether memory ran out or the GPU failed, for which the study may be too large."""
    return any(isinstance(cause, OUT_OF_MEMORY) for cause in causes(error))


def open_study(row: dict[str, Any]) -> Study:
    """One row of the manifest, from disk."""
    return read_study(
        row["path"],
        row["priors"],
        row["modality"],
        row["body_part"],
        row["date"],
        row["prior_dates"],
    )


def ahead(
    items: Iterable[Item], make: Callable[[Item], Made], depth: int = AHEAD
) -> Generator[tuple[Item, Future[Made]], None, None]:
    """Items in order with what is made of them, `depth` of them made ahead in a thread."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    waiting: deque[tuple[Item, Future[Made]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(make, item)))
            if len(waiting) > depth:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(cancel_futures=True)


def summary(report: Report) -> dict[str, Any]:
    """The columns of a result that a report fills."""
    return {
        "decision": report.decision,
        "score": None if np.isnan(report.score) else report.score,
        "findings": len(report.findings),
        "change": None if report.change is None else report.change.label,
        "text": report.text,
        "report": report.to_json(),
    }


def maps(report: Report) -> Iterator[tuple[str, np.ndarray]]:
    """The maps of a report by kind; none where nothing was looked at."""
    if not np.isnan(report.heatmap).all():
        yield "heatmap", report.heatmap
    if report.change is not None and report.change.map is not None:
        yield "change_map", report.change.map


def _heatmap(study: str, kind: str, values: np.ndarray) -> pa.Table:
    flat = pa.array(values.astype(np.float16).ravel())
    column = pa.ListArray.from_arrays(pa.array([0, len(flat)], pa.int32()), flat)
    return pa.table([[study], [kind], [list(values.shape)], column], schema=HEATMAP)


def _versions(run: Run, model: Model) -> dict[str, str]:
    return {
        "model": run.model,
        "weights_sha256": run.weights_sha256,
        "medic_ad": run.medic_ad,
        "device": str(model.device),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
