"""Batch: read the studies of one shard by the one road; its two files are the mark of its end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers

from medic_ad.batch.files import Folder
from medic_ad.batch.manifest import Run, Shard
from medic_ad.errors import MedicADError, ModelError
from medic_ad.load import Model
from medic_ad.report.report import Report
from medic_ad.road import read
from medic_ad.study import Study, read_study

RESULTS, HEATMAPS = "results", "heatmaps"
READ, FAILED = "read", "failed"
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
Item = TypeVar("Item")
Made = TypeVar("Made")


def read_shard(shard: Shard, run: Run, model: Model, folder: Folder) -> None:
    """Read all studies of a shard and write their results; one that cannot be read says why.

    Heatmaps go out study by study, so that memory stays flat. Results come last: a shard with
    results is whole, and one that is read twice is written twice under the same names.

    Raises:
        ModelError: the model cannot read anything, such as one that was never calibrated.
    """
    if model.weights_sha256 != run.weights_sha256:
        raise ModelError(
            f"expected the weights {run.weights_sha256[:12]} of this run, came "
            f"{model.weights_sha256[:12]} in {run.model}; give each worker the same weights."
        )
    rows = []
    with (
        folder.new(f"{HEATMAPS}/{shard.name}") as file,
        pq.ParquetWriter(
            file,
            HEATMAP,
            compression="zstd",
            use_dictionary=False,
            use_byte_stream_split=["values.list.element"],
        ) as heatmaps,
    ):
        for row, study in ahead(shard.rows, open_study):
            start = time.perf_counter()
            result: dict[str, Any] = {"status": FAILED}
            try:
                report = read(study.result(), model)
                result = {"status": READ, **summary(report)}
                for kind, values in maps(report):
                    heatmaps.write_table(_heatmap(row["study"], kind, values))
            except ModelError:
                raise
            except MedicADError as error:
                result["reason"] = str(error)
            except Exception as error:  # a defect of ours must not stop the other studies either
                result["reason"] = f"unexpected {type(error).__name__}: {error}"
            seconds = time.perf_counter() - start
            rows.append({"study": row["study"], **result, "seconds": seconds, **_versions(run)})
    with folder.new(f"{RESULTS}/{shard.name}") as file:
        pq.write_table(pa.Table.from_pylist(rows, RESULT), file, compression="zstd")


def open_study(row: dict[str, Any]) -> Study:
    """One row of the manifest, from disk."""
    return read_study(
        row["path"], row["priors"] or None, row["modality"], row["body_part"], row["date"]
    )


def ahead(
    items: Iterable[Item], make: Callable[[Item], Made], depth: int = AHEAD
) -> Iterator[tuple[Item, Future[Made]]]:
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


def _versions(run: Run) -> dict[str, str]:
    return {
        "model": run.model,
        "weights_sha256": run.weights_sha256,
        "medic_ad": run.medic_ad,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
