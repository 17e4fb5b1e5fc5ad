"""A worker of the node: what it tries again, whose it is, and who may read what it writes."""

from __future__ import annotations

import fcntl
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("pynetdicom", reason="the extra `node` is not installed")

from node_cases import Archive, ended, running, send, until
from road_cases import planted, write_dicom

from medic_ad.errors import MedicADError, ReadError
from medic_ad.node import worker as module
from medic_ad.node.lock import WORKERS, alone
from medic_ad.node.queue import Queue
from medic_ad.node.settings import NodeArguments
from medic_ad.node.store import put
from medic_ad.node.worker import Worker


def made_of(*chain: BaseException) -> BaseException:
    """The first error, raised from the second, raised from the third."""
    for error, cause in zip(chain, chain[1:], strict=False):
        error.__cause__ = cause
    return chain[0]


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (made_of(ReadError("x"), OSError(28, "No space left on device")), "waiting"),
        (made_of(ReadError("a.zip: x"), ReadError("x"), OSError(5, "I/O error")), "waiting"),
        (made_of(MedicADError("x"), MemoryError()), "waiting"),
        (PermissionError(13, "Permission denied"), "waiting"),
        (made_of(ReadError("x"), OSError("image file is truncated")), "dead"),  # Pillow's
        (made_of(ReadError("x"), ValueError("no pixels")), "dead"),
        (ReadError("x"), "dead"),
    ],
)
def test_what_the_machine_failed_in_is_tried_again_and_bad_input_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, state: str
) -> None:
    monkeypatch.setattr(module, "load_model", lambda *_: SimpleNamespace(weights_sha256="w"))

    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr(module, "study_with_priors", failing)
    worker = Worker(NodeArguments(folder=tmp_path, results="dicom://A@127.0.0.1:9"), "w")
    put(worker.store.image("unit", "a"), b"x")
    worker.queue.accept("a", "unit", 0)
    job = worker.queue.claim(1)
    assert job is not None
    worker.do(job)
    assert worker.queue.counts()[state] == 1
    assert (tmp_path / "dead" / str(job.id) / "reason.json").is_file() == (state == "dead")


def test_a_node_waits_until_the_workers_of_the_last_one_ended(tmp_path: Path) -> None:
    entered = threading.Event()

    def start() -> None:
        with alone(tmp_path):
            entered.set()

    node = threading.Thread(target=start, daemon=True)
    with (tmp_path / WORKERS).open("w") as orphan:
        fcntl.flock(orphan, fcntl.LOCK_SH)
        node.start()
        assert not entered.wait(0.5)
    assert entered.wait(10)
    node.join()


def test_a_worker_ends_with_its_node_in_the_middle_of_a_job_and_files_are_the_owners_alone(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "node"
    files = [write_dicom(tmp_path / f"{n}.dcm", planted().current, f"P{n}") for n in range(5)]
    with Archive() as archive, running(folder, archive.address, workers=2) as node:
        assert send(node.port, files[:1]) == [0]
        until(lambda: node.health()["done"], "the first job")
        found = [folder, *folder.rglob("*")]
        assert {"incoming", "results", "node.db"} <= {path.name for path in found}
        assert [path for path in found if path.stat().st_mode & 0o077] == []

        assert send(node.port, files[1:]) == [0] * 4
        until(lambda: node.health()["running"] == 2, "two jobs under way")
        workers = node.workers()
        node.process.kill()
        for worker in workers:
            until(partial(ended, worker), "the end of a worker without a node", 20)
    assert len(workers) == 2
    left = Queue(folder / "node.db", "w").counts()
    assert left["running"] >= 1 and left["running"] + left["waiting"] >= 3, left
