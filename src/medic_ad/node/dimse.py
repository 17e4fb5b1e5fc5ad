"""Node: an archive that speaks DICOM, through pynetdicom's C-FIND, C-MOVE and C-STORE."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
)

from medic_ad.node.archive import PeerError, Series, series_of, study_of
from medic_ad.node.queue import key_of

FIND = StudyRootQueryRetrieveInformationModelFind
MOVE = StudyRootQueryRetrieveInformationModelMove
TIMEOUT_SECONDS = 60
_PENDING, _WARNING = (0xFF00, 0xFF01), 0xB000  # PS3.7 annex C


@dataclass(frozen=True)
class DicomPeer:
    """An archive by AE title and address; it must know our title to send us what we ask for."""

    title: str
    host: str
    port: int
    own_title: str
    tls: ssl.SSLContext | None = None

    def series_before(self, patient: str, date: datetime.date) -> list[Series]:
        last = date - datetime.timedelta(days=1)
        found = []
        with self._associated([build_context(FIND)]) as link:
            wanted = _query("STUDY", PatientID=patient, StudyDate=f"-{last:%Y%m%d}")
            wanted.StudyInstanceUID = ""
            for answer in _answers(link, wanted):
                if (study := study_of(answer, patient, date)) is None:
                    continue
                inner = _query("SERIES", StudyInstanceUID=study[0])
                inner.SeriesInstanceUID = inner.Modality = inner.SeriesDescription = ""
                found += [series_of(a, *study) for a in _answers(link, inner)]
        return [series for series in found if series is not None]

    def fetch(self, series: Series, folder: Path, message: int) -> None:
        wanted = _query(
            "SERIES", StudyInstanceUID=series.study_uid, SeriesInstanceUID=series.series_uid
        )
        target = folder / key_of(series.series_uid)
        target.mkdir(parents=True, exist_ok=True)  # the door takes what there is a folder for
        completed = 0
        with self._associated([build_context(MOVE)]) as link:
            for status, _ in link.send_c_move(wanted, self.own_title, MOVE, msg_id=message):
                code = _code(status, "C-MOVE")
                completed = int(status.get("NumberOfCompletedSuboperations") or completed)
                if code not in (0, *_PENDING):
                    raise PeerError(f"{self.title} answered C-MOVE with the status 0x{code:04X}")
        came = len(list(target.glob("*.dcm")))
        if came == 0 or came < completed:
            raise PeerError(
                f"{self.title} says that it sent {completed} image(s) of a prior, {came} came; it "
                f"must know {self.own_title} as this node and name itself as move originator"
            )

    def send(self, files: Sequence[Path]) -> None:
        headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
        kinds = {(h.SOPClassUID, h.file_meta.TransferSyntaxUID) for h in headers}
        with self._associated([build_context(*kind) for kind in sorted(kinds)]) as link:
            for file in files:
                try:
                    status = link.send_c_store(file)
                except ValueError as error:  # no context for this class was accepted
                    raise PeerError(f"{self.title} does not take {file.name}: {error}") from error
                code = _code(status, "C-STORE")
                if code != 0 and code & 0xF000 != _WARNING:
                    raise PeerError(f"{self.title} answered C-STORE with the status 0x{code:04X}")

    @contextmanager
    def _associated(self, contexts: list[PresentationContext]) -> Iterator[Association]:
        entity = AE(self.own_title)
        entity.acse_timeout = entity.connection_timeout = TIMEOUT_SECONDS
        entity.dimse_timeout = entity.network_timeout = TIMEOUT_SECONDS
        tls = None if self.tls is None else (self.tls, self.host)
        link = entity.associate(
            self.host, self.port, contexts=contexts, ae_title=self.title, tls_args=tls
        )
        if not link.is_established:
            refused = "refused the association" if link.is_rejected else "cannot be reached"
            raise PeerError(f"{self.title} at {self.host}:{self.port} {refused}")
        try:
            yield link
        finally:
            link.release()


def _query(level: str, **fields: str) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in fields.items():
        setattr(query, keyword, value)
    return query


def _answers(link: Association, query: Dataset) -> list[Dataset]:
    found = []
    for status, answer in link.send_c_find(query, FIND):
        code = _code(status, "C-FIND")
        if code in _PENDING and answer is not None:
            found.append(answer)
        elif code != 0:
            raise PeerError(f"the archive answered C-FIND with the status 0x{code:04X}")
    return found


def _code(status: Dataset, what: str) -> int:
    if "Status" not in status:
        raise PeerError(f"the connection broke during {what}")
    return int(status.Status)
