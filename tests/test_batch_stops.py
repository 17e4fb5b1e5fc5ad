"""A batch on machines that fail: what is lost is read again, and what ends workers is given up."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from batch_cases import arguments, heatmaps, pictures, results
from fsspec.implementations.memory import MemoryFileSystem

from medic_ad.batch import shard
from medic_ad.batch.attempts import ATTEMPTS, MOST
from medic_ad.batch.engines import gpus_each
from medic_ad.batch.files import Folder
from medic_ad.batch.run import run_batch
from medic_ad.errors import BatchError, ReadError, is_passing
from medic_ad.road import read

DEADLY = """
import os
from pathlib import Path
from batch_cases import arguments
from medic_ad.batch import run, shard
real = shard.read
def read(study, model):
    if study.image.source.path.endswith("s001.png"):
        os._exit(9)
    return real(study, model)
shard.read = read
print(run.run_batch(arguments("in", "out", shard=5)))
"""


def marks(out: Path) -> list[str]:
    return sorted(path.name for path in (out / ATTEMPTS).iterdir())


def caused(cause: Exception) -> ReadError:
    """What a reader says of another's error."""
    error = ReadError("cannot be read")
    error.__cause__ = cause
    return error


def test_a_map_that_cannot_be_written_fails_its_study_alone(tmp_path: Path, monkeypatch) -> None:
    pictures(tmp_path / "in", 3)
    made, real = [], shard.maps

    def broken(report):
        made.append(report)
        if len(made) == 2:
            raise ZeroDivisionError("by zero")
        return real(report)

    monkeypatch.setattr(shard, "maps", broken)
    assert run_batch(arguments(tmp_path / "in", tmp_path / "out", shard=3)).failed == 1
    rows = results(tmp_path / "out")
    assert [row["status"] for row in rows] == ["read", "failed", "read"]
    assert rows[1]["reason"] == "unexpected ZeroDivisionError: by zero"
    assert rows[1]["decision"] is None and rows[0]["decision"] is not None
    assert {row["device"] for row in rows} == {"cpu"}
    assert rows[1]["study"] not in {row["study"] for row in heatmaps(tmp_path / "out")}


def test_a_full_disk_leaves_no_result_behind(tmp_path: Path, monkeypatch) -> None:
    pictures(tmp_path / "in", 2)
    real = pq.ParquetWriter.write_table

    def full(writer, table, *more, **own) -> None:
        if table.schema == shard.HEATMAP:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(writer, table, *more, **own)

    with monkeypatch.context() as broken:
        broken.setattr(pq.ParquetWriter, "write_table", full)
        with pytest.raises(OSError, match="No space left"):
            run_batch(arguments(tmp_path / "in", tmp_path / "out"))
    assert not results(tmp_path / "out") and not marks(tmp_path / "out")
    assert run_batch(arguments(tmp_path / "in", tmp_path / "out")).failed == 0


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (OSError(errno.EIO, "Input/output error"), False),
        (MemoryError("1 TB"), True),
        (caused(MemoryError("1 TB")), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (torch.AcceleratorError("CUDA error"), True),
    ],
    ids=["disk", "memory", "memory of a decoder", "memory of the GPU", "GPU"],
)
def test_what_the_machine_failed_at_is_read_again(
    tmp_path: Path, monkeypatch, error: Exception, counts: bool
) -> None:
    pictures(tmp_path / "in", 3)

    def failing(study, model):
        if study.image.source.path.endswith("s001.png"):
            raise error
        return read(study, model)

    with monkeypatch.context() as broken:
        broken.setattr(shard, "read", failing)
        with pytest.raises(BatchError, match="a machine that can read s001.png, but it failed"):
            run_batch(arguments(tmp_path / "in", tmp_path / "out"))
    assert not results(tmp_path / "out")
    assert [mark.split(".")[-2:] for mark in marks(tmp_path / "out")] == [["1", "0"]] * counts
    outcome = run_batch(arguments(tmp_path / "in", tmp_path / "out"))
    assert (outcome.studies, outcome.failed) == (3, 0)
    assert not marks(tmp_path / "out")


def test_a_file_that_may_not_be_opened_is_no_failure_of_the_machine() -> None:
    for number, passing in ((errno.EACCES, False), (errno.ENOENT, False), (errno.EIO, True)):
        assert is_passing(caused(OSError(number, os.strerror(number)))) is passing


def test_a_study_that_ends_its_worker_each_time_is_given_up(tmp_path: Path) -> None:
    pictures(tmp_path / "in", 5)
    codes = []
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    for _ in range(MOST + 1):
        done = subprocess.run(
            [sys.executable, "-c", DEADLY],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=120,
        )
        codes.append(done.returncode)
        if done.returncode:
            assert {mark.split(".")[-2] for mark in marks(tmp_path / "out")} >= {"1"}
    assert codes == [9] * MOST + [0], done.stderr
    rows = results(tmp_path / "out")
    assert [row["study"] for row in rows] == [f"s00{i}.png" for i in range(5)]
    assert [row["status"] for row in rows] == ["read", "failed", "read", "read", "read"]
    assert f"the worker ended {MOST} times while reading it" in rows[1]["reason"]
    assert not marks(tmp_path / "out")


@pytest.mark.parametrize("url", ["{}/a [b]*", "memory://a"], ids=["local", "memory"])
def test_a_run_that_ends_spares_the_files_that_another_one_writes(tmp_path: Path, url: str) -> None:
    MemoryFileSystem.store.clear()
    folder = Folder.at(url.format(tmp_path))
    with folder.new("results/two") as file:
        file.write(b"2")
        with folder.new("results/one") as mine:
            mine.write(b"1")
        folder.sweep("results")
        if "memory" not in url:  # whose files are there when they are closed
            assert any(name.startswith(".two") for name in os.listdir(folder.of("results")))
    assert folder.names("results") == {"one", "two"}
    with folder.new("results/two") as slow:  # both runs write a file, and the other is first
        slow.write(b"2")
        slow.flush()
        folder.sweep("results")
    assert folder.files.cat_file(folder.of("results/two")) == b"2"
    folder.files.pipe_file(folder.of("results/.one.0123.part"), b"of a killed writer")
    folder.sweep("results")
    assert not [p for p in folder.files.ls(folder.of("results"), detail=False) if ".part" in p]
    MemoryFileSystem.store.clear()


def test_the_cluster_says_whether_workers_get_gpus() -> None:
    assert gpus_each(None, {"CPU": 4.0, "GPU": 2.0}) == 1
    assert gpus_each(None, {"CPU": 4.0}) == 0
    assert gpus_each("cpu", {"CPU": 4.0, "GPU": 2.0}) == 0
    assert gpus_each("cuda:0", {"CPU": 4.0, "GPU": 2.0}) == 1
    with pytest.raises(BatchError, match="a Ray cluster with GPUs for --device cuda, came one"):
        gpus_each("cuda", {"CPU": 4.0})
