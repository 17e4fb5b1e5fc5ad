"""The node beside a real PACS: it finds the prior there, reads both and writes its results back."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

pytest.importorskip("pynetdicom", reason="the extra `node` is not installed")
pytest.importorskip("dicomweb_client", reason="the extra `node` is not installed")

from node_cases import running, until
from orthanc import Orthanc, needs_orthanc, orthanc
from pydicom.dataset import Dataset
from road_cases import planted, write_dicom

pytestmark = needs_orthanc
TODAY = datetime.date(2024, 5, 31)


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("orthanc")) as archive:
        yield archive


def stored(pacs: Orthanc, folder: Path, patient: str) -> dict[str, Dataset]:
    """A patient's studies in the archive, and two that are no priors of the current one."""
    day, now = datetime.timedelta(days=1), planted()
    made = {
        "current": write_dicom(folder / "current.dcm", now.current, patient, TODAY),
        "prior": write_dicom(folder / "prior.dcm", now.prior, patient, TODAY - 90 * day),
        "older": write_dicom(folder / "older.dcm", now.healthy, patient, TODAY - 900 * day),
        "later": write_dicom(folder / "later.dcm", now.healthy, patient, TODAY + 9 * day),
        "other": write_dicom(folder / "other.dcm", now.prior, f"{patient}*", TODAY - 5 * day),
        "ct": write_dicom(folder / "ct.dcm", now.prior, patient, TODAY - 3 * day, modality="CT"),
    }
    read: dict[str, Dataset] = {name: pydicom.dcmread(path) for name, path in made.items()}
    pacs.client.store_instances(list(read.values()))
    return read


def referred(report: Dataset) -> set[str]:
    """SOP Instance UIDs in the evidence of a structured report."""
    evidence = (
        *report.CurrentRequestedProcedureEvidenceSequence,
        *report.get("PertinentOtherEvidenceSequence", ()),
    )
    return {
        instance.ReferencedSOPInstanceUID
        for study in evidence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }


@pytest.mark.parametrize("speech", ["dicom", "web"])
def test_a_study_is_compared_with_its_prior_of_the_pacs(
    pacs: Orthanc, tmp_path: Path, speech: str
) -> None:
    files = stored(pacs, tmp_path, f"PACS-{speech}")
    current, prior = files["current"], files["prior"]
    address = pacs.dicom_address if speech == "dicom" else pacs.web_address
    folder = tmp_path / "node"
    with running(folder, address, pacs.node_port, priors=address, callers="ORTHANC") as node:
        pacs.forward(current.SOPInstanceUID)
        until(lambda: node.health()["done"] or node.health()["dead"], "the job")
        assert node.health()["dead"] == 0, next(folder.glob("dead/*/reason.json")).read_text()
        assert node.health()["instances"] == 1  # the prior that came by C-MOVE is no new study

    [report] = pacs.fetch(current.StudyInstanceUID, "SR")
    segmentations = pacs.fetch(current.StudyInstanceUID, "SEG")
    assert segmentations and report.PatientID == current.PatientID
    uids = referred(report)
    assert {current.SOPInstanceUID, prior.SOPInstanceUID} <= uids
    assert not uids & {files[name].SOPInstanceUID for name in ("older", "later", "other", "ct")}
    for segmentation in segmentations:
        assert segmentation.SOPInstanceUID in uids
        [series] = segmentation.ReferencedSeriesSequence
        assert series.SeriesInstanceUID == current.SeriesInstanceUID
        [instance] = series.ReferencedInstanceSequence
        assert instance.ReferencedSOPInstanceUID == current.SOPInstanceUID
        assert (segmentation.Rows, segmentation.Columns) == (current.Rows, current.Columns)
    written = {pydicom.dcmread(p).SOPInstanceUID: p for p in folder.glob("results/*/*.dcm")}
    for made in (report, *segmentations):
        own = pydicom.dcmread(written[made.SOPInstanceUID])
        assert own.get("PixelData") == made.get("PixelData")
        assert own.get("ContentSequence") == made.get("ContentSequence")
    assert "SR" not in pacs.series(prior.StudyInstanceUID)
