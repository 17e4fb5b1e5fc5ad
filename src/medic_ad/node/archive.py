"""Node: what an archive is asked for and answers, whether DICOM or DICOMweb."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydicom.dataset import Dataset


@dataclass(frozen=True)
class Series:
    """A series that an archive says it has."""

    study_uid: str
    series_uid: str
    date: datetime.date
    modality: str
    description: str


class Peer(Protocol):
    """An archive. A call that fails raises `PeerError`; the job is tried again later."""

    def series_before(self, patient: str, date: datetime.date) -> list[Series]:
        """All series of a patient's studies that are older than a date."""

    def fetch(self, series: Series, folder: Path, message: int) -> None:
        """Bring the images of a series into `folder/KEY OF ITS UID/`."""

    def send(self, files: Sequence[Path]) -> None:
        """Store files; one that is there already counts as stored."""


class PeerError(Exception):
    """An archive cannot be reached, refuses or answers with a failure; trying again may help."""


def series_of(answer: Dataset, study_uid: str, date: datetime.date) -> Series | None:
    """A series from what an archive answers; None where a UID is lacking."""
    uid = str(answer.get("SeriesInstanceUID") or "")
    if not uid:
        return None
    modality, description = answer.get("Modality"), answer.get("SeriesDescription")
    return Series(study_uid, uid, date, str(modality or ""), str(description or ""))


def study_of(
    answer: Dataset, patient: str, before: datetime.date
) -> tuple[str, datetime.date] | None:
    """UID and date of a study, where it is truly the patient's and older.

    Archives take `*` and `?` in an id as wildcards and compare as they like, so this is checked.
    """
    uid, text = str(answer.get("StudyInstanceUID") or ""), str(answer.get("StudyDate") or "")
    try:
        date = datetime.datetime.strptime(text, "%Y%m%d").date()
    except ValueError:
        return None
    if not uid or str(answer.get("PatientID") or "") != patient or date >= before:
        return None
    return uid, date
