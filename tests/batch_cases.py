"""Studies to read in a batch, the results as they lie there, and the command in a process."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tiny
from cli_cases import COMMAND
from PIL import Image as Picture

from medic_ad.batch.run import BatchArguments

SIDE = 120


def pictures(folder: Path, count: int) -> list[Path]:
    """Grey heads as PNG, every other one with a bright blob."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"s{i:03d}.png" for i in range(count)]
    for i, path in enumerate(paths):
        Picture.fromarray(tiny.head(i, i % 2 == 0, SIDE)[0]).save(path)
    return paths


def arguments(inputs: object, out: object, **own: Any) -> BatchArguments:
    common = dict(device="cpu", modality="MR", body_part="BRAIN", shard=2)
    return BatchArguments(inputs=str(inputs), out=str(out), **{**common, **own})


def manifest(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def results(out: Path) -> list[dict[str, Any]]:
    """Rows of all files of results, in the order of the manifest."""
    return [row for f in sorted((out / "results").glob("*.parquet")) for row in _rows(f)]


def heatmaps(out: Path) -> list[dict[str, Any]]:
    return [row for f in sorted((out / "heatmaps").glob("*.parquet")) for row in _rows(f)]


def _rows(file: Path) -> list[dict[str, Any]]:
    return pq.read_table(file).to_pylist()


def command(inputs: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    """`medic-ad batch` with one study a shard."""
    words = ["batch", str(inputs), "--out", str(out), "--modality", "MR", "--body-part", "BRAIN"]
    return subprocess.Popen(
        [*COMMAND, *words, "--shard", "1", "--device", "cpu", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
