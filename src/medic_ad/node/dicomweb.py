"""Node: an archive that speaks DICOMweb (QIDO, WADO, STOW-RS), through dicomweb-client.

A user name and password are taken from `~/.netrc`, as every tool on `requests` does.
"""

from __future__ import annotations

import datetime
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pydicom
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom.dataset import Dataset

from medic_ad.node.archive import PeerError, Series, series_of, study_of
from medic_ad.node.queue import key_of
from medic_ad.node.store import put

TIMEOUT_SECONDS = 60
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class WebPeer:
    """An archive by the address of its DICOMweb service."""

    address: str
    authorities: Path | None = None

    def series_before(self, patient: str, date: datetime.date) -> list[Series]:
        client, last = self._client(), date - datetime.timedelta(days=1)
        wanted = {"PatientID": patient, "StudyDate": f"-{last:%Y%m%d}"}
        found = []
        for answer in self._ask(client.search_for_studies, search_filters=wanted):
            if (study := study_of(Dataset.from_json(answer), patient, date)) is not None:
                inner = self._ask(
                    client.search_for_series, study[0], fields=["Modality", "SeriesDescription"]
                )
                found += [series_of(Dataset.from_json(a), *study) for a in inner]
        return [series for series in found if series is not None]

    def fetch(self, series: Series, folder: Path, message: int) -> None:
        target = folder / key_of(series.series_uid)
        as_stored = (("application/dicom", "*"),)
        images = self._ask(
            self._client().retrieve_series, series.study_uid, series.series_uid, as_stored
        )
        for image in images:
            buffer = io.BytesIO()
            pydicom.dcmwrite(buffer, image)
            put(target / f"{key_of(str(image.SOPInstanceUID))}.dcm", buffer.getvalue())

    def send(self, files: Sequence[Path]) -> None:
        answer = self._ask(self._client().store_instances, [pydicom.dcmread(f) for f in files])
        if failed := answer.get("FailedSOPSequence"):
            code = int(failed[0].get("FailureReason") or 0)
            raise PeerError(f"the archive did not store {len(failed)} result(s): 0x{code:04X}")

    def _client(self) -> DICOMwebClient:
        session = requests.Session()
        if self.authorities is not None:
            session.verify = str(self.authorities)
        return DICOMwebClient(self.address, session=session, timeout=TIMEOUT_SECONDS)

    def _ask(self, call: Callable[..., _Answer], *words: Any, **named: Any) -> _Answer:
        try:
            return call(*words, **named)
        except (requests.RequestException, ValueError) as error:
            raise PeerError(f"{self.address} cannot answer ({error})") from error
