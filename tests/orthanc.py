"""Debian's Orthanc with its DICOMweb plugin, started on free ports in a folder of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dicomweb_client.api import DICOMwebClient
from node_cases import free_port, until
from pydicom.dataset import Dataset

PROGRAM = shutil.which("Orthanc")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
needs_orthanc = pytest.mark.skipif(
    PROGRAM is None or not PLUGIN.exists(),
    reason="Debian's packages orthanc and orthanc-dicomweb are not installed",
)


@dataclass(frozen=True)
class Orthanc:
    """A running archive; `node_port` is where it believes the node to listen."""

    http_port: int
    dicom_port: int
    node_port: int

    @property
    def web_address(self) -> str:
        return f"http://127.0.0.1:{self.http_port}/dicom-web"

    @property
    def dicom_address(self) -> str:
        return f"dicom://ORTHANC@127.0.0.1:{self.dicom_port}"

    @property
    def client(self) -> DICOMwebClient:
        return DICOMwebClient(self.web_address)

    def call(self, page: str, body: object | None = None) -> Any:
        """Orthanc's own REST API."""
        content = None if body is None else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.http_port}/{page}"
        with urllib.request.urlopen(urllib.request.Request(url, content), timeout=60) as answer:
            return json.loads(answer.read())

    def forward(self, sop_instance_uid: str) -> None:
        """Send an image to the node by C-STORE, as a routing rule would."""
        lookup = urllib.request.Request(
            f"http://127.0.0.1:{self.http_port}/tools/lookup", sop_instance_uid.encode()
        )
        with urllib.request.urlopen(lookup, timeout=60) as answer:
            [found] = json.loads(answer.read())
        self.call("modalities/node/store", {"Resources": [found["ID"]], "Synchronous": True})

    def series(self, study_uid: str) -> dict[str, list[Dataset]]:
        """Series of a study by modality, as QIDO-RS lists them."""
        found: dict[str, list[Dataset]] = {}
        for answer in self.client.search_for_series(study_uid):
            dataset = Dataset.from_json(answer)
            found.setdefault(dataset.Modality, []).append(dataset)
        return found

    def fetch(self, study_uid: str, modality: str) -> list[Dataset]:
        """All instances of a study's series of one modality, by WADO-RS."""
        as_stored = (("application/dicom", "*"),)
        return [
            instance
            for series in self.series(study_uid).get(modality, [])
            for instance in self.client.retrieve_series(
                study_uid, series.SeriesInstanceUID, as_stored
            )
        ]


@contextmanager
def orthanc(folder: Path) -> Iterator[Orthanc]:
    archive = Orthanc(free_port(), free_port(), free_port())
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": archive.http_port,
        "DicomPort": archive.dicom_port,
        "DicomAet": "ORTHANC",
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(PLUGIN)],
        "DicomModalities": {"node": ["MEDIC_AD", "127.0.0.1", archive.node_port]},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen(
            [str(PROGRAM), str(folder / "orthanc.json")], stdout=log, stderr=log
        )
    try:

        def up() -> bool:
            assert process.poll() is None, (folder / "orthanc.log").read_text()
            try:
                return bool(archive.call("system"))
            except urllib.error.URLError:
                return False

        until(up, "the start of Orthanc")
        yield archive
    finally:
        process.terminate()
        process.wait(30)
