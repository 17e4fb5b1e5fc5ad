"""A real node in processes of its own, an archive that keeps what it gets, and senders."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt

WAIT_SECONDS = 120.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(true: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
    """Wait for something; fails with what was waited for."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen within {seconds:g} s")


class Archive:
    """A storage SCP that keeps every data set it gets, by SOP Instance UID, in memory."""

    def __init__(self) -> None:
        self.port = free_port()
        self.kept: dict[str, pydicom.Dataset] = {}
        self.answered: Counter[str] = Counter()
        self.refusals = 0  # as many stores are answered with "out of resources"
        self._lock = threading.Lock()
        self._entity = AE("ARCHIVE")
        for context in AllStoragePresentationContexts:
            self._entity.add_supported_context(context.abstract_syntax or "", ALL_TRANSFER_SYNTAXES)

    def __enter__(self) -> Archive:
        self._entity.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._entity.shutdown()

    def _store(self, event: evt.Event) -> int:
        with self._lock:
            if self.refusals:
                self.refusals -= 1
                return 0xA700
            dataset = event.dataset
            self.kept[dataset.SOPInstanceUID] = dataset
            self.answered[dataset.SOPInstanceUID] += 1
            return 0

    @property
    def address(self) -> str:
        return f"dicom://ARCHIVE@127.0.0.1:{self.port}"

    def reports(self) -> list[pydicom.Dataset]:
        return [d for d in list(self.kept.values()) if d.Modality == "SR"]


class RunningNode:
    """`medic-ad node` as a user starts it, with its log."""

    def __init__(self, folder: Path, results: str, port: int = 0, **options: object) -> None:
        self.folder, self.port, self.http = folder, port or free_port(), free_port()
        self.log_file = folder.parent / f"{folder.name}-{self.http}.log"
        values = {"folder": folder, "results": results, "port": self.port, "http-port": self.http,
                  "settle": 0.3, "backoff": 0.2, **options}  # fmt: skip
        words = [f"--{name}={value}" for name, value in values.items()]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "medic_ad.cli", "node", *words], stderr=log
            )

    def ready(self) -> RunningNode:
        def looked() -> bool:
            assert self.process.poll() is None, self.log_file.read_text()
            return self.said("node ready") and self.said("worker ready")

        until(looked, "the node's start")
        return self

    def log(self) -> list[dict[str, Any]]:
        lines = self.log_file.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def said(self, event: str) -> bool:
        return any(line["event"] == event for line in self.log())

    def health(self) -> dict[str, Any]:
        return json.loads(self.get("health"))

    def get(self, page: str) -> bytes:
        try:
            address = f"http://127.0.0.1:{self.http}/{page}"
            with urllib.request.urlopen(address, timeout=WAIT_SECONDS) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:  # 503 while a worker is missing
            return error.read()

    def workers(self) -> list[int]:
        """Process ids of the workers: grandchildren, below the fork server."""
        lines = [line["worker"] for line in self.log() if line["event"] == "worker ready"]
        return [pid for pid in lines if Path(f"/proc/{pid}").exists()]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(WAIT_SECONDS)


@contextmanager
def running(folder: Path, results: str, port: int = 0, **options: object) -> Iterator[RunningNode]:
    node = RunningNode(folder, results, port, **options)
    try:
        yield node.ready()
    finally:
        if node.process.poll() is None:
            node.stop(signal.SIGKILL)


def send(
    port: int,
    files: list[Path],
    title: str = "SENDER",
    called: str = "MEDIC_AD",
    timeout: float = WAIT_SECONDS,
) -> list[int]:
    """C-STORE statuses of MR files sent over one association; -1 where there was no answer.

    Fewer than files where the association was refused or ended.
    """
    entity = AE(title)
    entity.dimse_timeout = entity.network_timeout = timeout
    entity.add_requested_context(MRImageStorage, ExplicitVRLittleEndian)
    link = entity.associate("127.0.0.1", port, ae_title=called)
    statuses = []
    for file in files:
        if not link.is_established:
            break
        statuses.append(int(link.send_c_store(file).get("Status", -1)))
    link.release()
    return statuses


def sources(report: pydicom.Dataset) -> set[str]:
    """SOP Instance UIDs of the images that a structured report is of."""
    return {
        instance.ReferencedSOPInstanceUID
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }


def ended(pid: int) -> bool:
    """Whether there is no such process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
