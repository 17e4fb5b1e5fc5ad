"""Batch: which studies are to be read, as a Parquet table divided into shards once and for all."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.core import url_to_fs

from medic_ad import __version__
from medic_ad.batch.files import Folder
from medic_ad.errors import BatchError

NAME = "manifest.parquet"
SCHEMA = pa.schema(
    [
        pa.field("study", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        ("priors", pa.list_(pa.string())),
        ("modality", pa.string()),
        ("body_part", pa.string()),
        ("date", pa.date32()),
        ("prior_dates", pa.list_(pa.date32())),
    ]
)
NEEDED = ("study", "path")
PARQUET = ".parquet"
RESULTS, HEATMAPS = "results", "heatmaps"  # folders beside it
READ, FAILED = "read", "failed"  # what becomes of a study
HASHES = {"weights_sha256": "weights", "studies_sha256": "studies"}  # of what, in words
RUN = b"medic_ad_run"  # key of the run's settings in the manifest's own metadata


@dataclass(frozen=True)
class Run:
    """What all results of one output folder have in common; it is written into its manifest.

    Attributes:
        model: a name, here or on the Hub, or a folder.
        weights_sha256: of the model.
        medic_ad: version of this package.
        shard: studies a shard.
    """

    model: str
    weights_sha256: str
    shard: int
    medic_ad: str = __version__


@dataclass(frozen=True)
class Shard:
    """Some studies whose results are one file.

    Attributes:
        number: of the manifest's row group.
        rows: of the manifest.
        name: of its files; holds a hash of the studies, the weights and the version, so that only
            the same work writes to the same name.
    """

    number: int
    rows: list[dict[str, Any]]
    name: str


def studies_at(inputs: str, modality: str | None, body_part: str | None) -> pa.Table:
    """The studies of a manifest, a folder or a glob, following `SCHEMA`.

    Args:
        inputs: a Parquet file with the columns study and path, and where known priors (oldest
            first), modality, body_part, date, prior_dates, or a folder of such files; or a
            folder or glob, each entry of which is one study: an image, or a folder or zip of one
            series. Relative paths start at the folder of the Parquet files.
        modality, body_part: where the manifest does not say it.

    Raises:
        BatchError: no such input, or a table that does not fit.
    """
    entries = _entries(inputs)
    if not entries and "://" not in inputs:
        raise BatchError(
            f"expected a Parquet manifest, a folder or a glob of studies at {inputs}, found "
            "nothing there; check the path."
        )
    tables = [str(entry) for entry in entries if entry.suffix == PARQUET]
    if any(entry.suffix.lower() == ".csv" for entry in entries):
        raise BatchError(
            f"expected a Parquet manifest, or images, at {inputs}, came a CSV file; write it "
            "as Parquet (pandas: to_parquet)."
        )
    other = [e.name for e in entries if e.suffix != PARQUET and not e.name.startswith("_")]
    if tables and other:
        raise BatchError(
            f"expected a manifest or studies in {inputs}, came {Path(tables[0]).name} and "
            f"{other[0]}; give one path for each of the two."
        )
    if tables or inputs.endswith(PARQUET):
        table = _manifest(inputs, tables or [inputs])
    else:
        table = _listed(entries)
    if not len(table):
        raise BatchError(f"expected studies in {inputs}, found no row; fill the manifest.")
    for name, value in (("modality", modality), ("body_part", body_part)):
        if value is not None:
            index = table.schema.get_field_index(name)
            table = table.set_column(index, SCHEMA.field(name), table[name].fill_null(value))
    twice = [study for study, n in Counter(table["study"].to_pylist()).items() if n > 1]
    if twice:
        raise BatchError(
            f"expected each study once in {inputs}, came {twice[0]!r} more than once "
            f"({len(twice)} such studies); give each row a study id of its own."
        )
    return table


def _manifest(inputs: str, addresses: list[str]) -> pa.Table:
    """One table of Parquet files of one folder."""
    parts = []
    try:
        for address in addresses:
            files, path = url_to_fs(address)
            with files.open(path, "rb") as file:
                parts.append(pq.read_table(file))
        table = pa.concat_tables(parts, promote_options="permissive")
    except (OSError, ImportError, ValueError, pa.ArrowException) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BatchError(
            f"expected a Parquet manifest that can be read at {inputs}, but: {first}; give "
            "another file."
        ) from error
    for name in NEEDED:
        if name not in table.column_names:
            raise BatchError(
                f"expected the columns study and path in {inputs}, came "
                f"{', '.join(table.column_names)}; add {name}, or rename the column that is it."
            )
    unknown = sorted(set(table.column_names) - set(SCHEMA.names))
    if unknown:
        raise BatchError(
            f"expected the columns {', '.join(SCHEMA.names)} in {inputs}, came {unknown[0]!r} too; "
            "rename or drop it."
        )
    base = Path(path).parent if "file" in files.protocol else None
    rows = [_row(row, base, inputs) for row in table.to_pylist()]
    try:
        return pa.Table.from_pylist(rows, SCHEMA)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise BatchError(
            f"expected text in the columns of {inputs} and ISO dates in date, but: {error}; "
            "correct the table."
        ) from error


def _row(row: dict[str, Any], base: Path | None, inputs: str) -> dict[str, Any]:
    def placed(path: str) -> str:
        return str(path if base is None else base / path)

    for name in NEEDED:
        if row[name] is not None and not isinstance(row[name], str):
            raise BatchError(
                f"expected text in the column {name} of {inputs}, came the "
                f"{type(row[name]).__name__} {row[name]!r}; write it as text (pandas: astype(str))."
            )
        if not (row[name] or "").strip():
            raise BatchError(
                f"expected a {name} in each row of {inputs}, came an empty one; fill it."
            )

    def dated(date: Any) -> Any:
        try:
            return datetime.date.fromisoformat(date) if isinstance(date, str) else date
        except ValueError as error:
            raise BatchError(
                f"expected dates such as 2024-05-31 in {inputs}, came {date!r}; correct it."
            ) from error

    priors, dates = (
        given if given is None or isinstance(given, list) else [given]
        for given in (row.get("priors"), row.get("prior_dates"))
    )
    return {
        **row,
        "path": placed(row["path"]),
        "priors": priors and [placed(p) for p in priors],
        "date": dated(row.get("date")),
        "prior_dates": dates and [dated(date) for date in dates],
    }


def _entries(inputs: str) -> list[Path]:
    """What a folder or glob of this machine holds, but hidden files."""
    pattern = Path(inputs).absolute()
    found = pattern.iterdir() if pattern.is_dir() else Path("/").glob(str(pattern).lstrip("/"))
    return sorted(entry for entry in found if not entry.name.startswith("."))


def _listed(entries: list[Path]) -> pa.Table:
    rows = [{"study": entry.name, "path": str(entry)} for entry in entries]
    return pa.Table.from_pylist(rows, SCHEMA)


def write_manifest(table: pa.Table, folder: Folder, run: Run) -> None:
    """Keep the studies beside their results, a row group a shard; or go on with those kept.

    Raises:
        BatchError: the folder holds the results of other studies, weights or versions.
    """
    said = json.dumps({**run.__dict__, "studies_sha256": _digest(table.to_pylist())}).encode()
    if folder.has(NAME):
        with folder.files.open(folder.of(NAME), "rb") as file:
            kept = pq.read_schema(file).metadata[RUN]
        if kept != said:
            old, new = json.loads(kept), json.loads(said)
            name = next(key for key in new if old.get(key) != new[key])
            were, came = f" ({old.get(name)})", new[name]
            if name in HASHES:
                were, came = "", "others"
            raise BatchError(
                f"expected the {HASHES.get(name, name)} that the results in {folder.url} were "
                f"begun with{were}, came {came}; give the same, or another --out."
            )
        return
    with folder.new(NAME) as file:
        marked = table.replace_schema_metadata({RUN: said})
        pq.write_table(marked, file, row_group_size=run.shard)


def shards(folder: Folder, run: Run) -> Iterator[Shard]:
    """All shards of a kept manifest, in order; one at a time in memory."""
    with folder.files.open(folder.of(NAME), "rb") as file:
        table = pq.ParquetFile(file)
        for number in range(table.num_row_groups):
            yield _shard(table, number, run)


def shard_at(folder: Folder, run: Run, number: int) -> Shard:
    """One shard of a kept manifest."""
    with folder.files.open(folder.of(NAME), "rb") as file:
        return _shard(pq.ParquetFile(file), number, run)


def _shard(table: pq.ParquetFile, number: int, run: Run) -> Shard:
    rows = table.read_row_group(number).to_pylist()
    name = f"{number:07d}-{_digest([run.__dict__, rows])[:16]}.parquet"
    return Shard(number, rows, name)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
