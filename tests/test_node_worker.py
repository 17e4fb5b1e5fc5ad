"""A worker of the node: what it tries again, whose it is, and who may read what it writes."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("pynetdicom", reason="the extra `node` is not installed")

from node_cases import Archive, RunningNode, ended, running, send, until
from road_cases import planted, write_dicom
from safetensors.torch import load_file, save_file

from medic_ad.errors import MedicADError, ReadError
from medic_ad.models import MODELS
from medic_ad.node import worker as module
from medic_ad.node.lock import WORKERS, alone
from medic_ad.node.queue import Queue
from medic_ad.node.settings import NodeArguments
from medic_ad.node.store import put
from medic_ad.node.worker import Worker
from medic_ad.sums import RECORD


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
        with alone(tmp_path, threading.Event()):
            entered.set()

    node = threading.Thread(target=start, daemon=True)
    with (tmp_path / WORKERS).open("w") as orphan:
        fcntl.flock(orphan, fcntl.LOCK_SH)
        node.start()
        assert not entered.wait(0.5)
    assert entered.wait(10)
    node.join()


ORPHAN = """
import sys, time
from pathlib import Path
from medic_ad.node.lock import worker_of
with worker_of(Path(sys.argv[1])):
    print("working", flush=True)
    time.sleep(600)
"""


def test_a_node_that_waits_says_for_whom_and_answers_sigterm(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    folder.mkdir()
    (folder / WORKERS).write_text("999999999\n")  # one that was killed long ago
    words = [sys.executable, "-c", ORPHAN, str(folder)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as orphan:
        try:
            assert orphan.stdout is not None and orphan.stdout.readline() == b"working\n"
            node = RunningNode(folder, "dicom://A@127.0.0.1:9")
            until(lambda: node.said("waiting for the workers of the last node"), "the wait")
            start = time.monotonic()
            assert node.stop() == 0
            assert time.monotonic() - start < 3  # its own second, and a machine with other work
            [waiting] = node.log()
            assert waiting["workers"] == str(orphan.pid)
            assert orphan.poll() is None and not (folder / "node.db").exists()
        finally:
            orphan.kill()


def last_words(node: RunningNode) -> str:
    """The one sentence on the screen of a node that ended."""
    lines = node.log_file.read_text().splitlines()
    [sentence] = [line for line in lines if line.startswith("medic-ad: ")]
    return sentence


@pytest.mark.parametrize("change", ["other", "gone"])
def test_weights_that_change_under_a_node_end_it_once_and_keep_its_jobs(
    tmp_path: Path, change: str
) -> None:
    folder, weights = tmp_path / "node", tmp_path / "weights" / "model.safetensors"
    shutil.copytree(MODELS["nano"].path, weights.parent, ignore=lambda *_: {RECORD})
    options: dict[str, Any] = {"model": weights.parent, "settle": 600}
    with Archive() as archive, running(folder, archive.address, **options) as node:
        assert send(node.port, [write_dicom(tmp_path / "a.dcm", planted().current)]) == [0]
        if change == "other":
            tensors = load_file(weights)
            save_file({k: v + 1 for k, v in tensors.items()}, weights, {"format": "pt"})
        else:
            weights.unlink()
        [worker] = node.workers()
        os.kill(worker, signal.SIGKILL)
        assert node.process.wait(60) == 2
    assert [line["event"] for line in node.log()][-4:] == [
        "worker ended", "model not loaded", "worker ended", "node stopped"
    ]  # fmt: skip
    said = {"other": "expected the weights of .* start the node again", "gone": "that loads in"}
    assert re.search(said[change], last_words(node))
    kept = Queue(folder / "node.db", "other weights")
    kept.recover()  # as the next start does
    assert kept.counts()["waiting"] == 1


def test_a_node_without_its_device_ends_with_the_workers_own_sentence(tmp_path: Path) -> None:
    node = RunningNode(tmp_path / "node", "dicom://A@127.0.0.1:9", device="cuda:99")
    try:
        assert node.process.wait(120) == 2
    finally:
        node.process.kill()
    assert "expected a device that this machine has, got 'cuda:99'" in last_words(node)
    assert not node.said("worker ready")


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
