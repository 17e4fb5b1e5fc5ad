"""Priors of the node: the latest that can be compared, and of the same view."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

pytest.importorskip("pynetdicom", reason="the extra `node` is not installed")

from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage
from road_cases import planted, write_dicom

from medic_ad.errors import ReadError
from medic_ad.node import priors
from medic_ad.node.archive import Series, study_of
from medic_ad.node.priors import MOST_SERIES, candidates, study_with_priors
from medic_ad.node.queue import key_of
from medic_ad.node.store import put
from medic_ad.study import read_study

DAY = datetime.date(2024, 5, 31)


def test_a_wildcard_in_a_patient_id_matches_no_other_patient() -> None:
    answer = Dataset()
    answer.StudyInstanceUID, answer.StudyDate, answer.PatientID = "1.2", "20240101", "ABC"
    assert study_of(answer, "ABC", DAY) == ("1.2", datetime.date(2024, 1, 1))
    assert study_of(answer, "A*", DAY) is None
    assert study_of(answer, "ABC", datetime.date(2024, 1, 1)) is None


class Shelf:
    """An archive whose series are files."""

    def __init__(self, series: dict[Series, Path | list[Path]]) -> None:
        self.series, self.fetched = series, []  # type: ignore[var-annotated]

    def series_before(self, patient: str, date: datetime.date) -> list[Series]:
        return list(self.series)

    def fetch(self, series: Series, folder: Path, message: int) -> None:
        self.fetched.append(series.series_uid)
        held = self.series[series]
        for file in held if isinstance(held, list) else [held]:
            put(folder / key_of(series.series_uid) / file.name, file.read_bytes())

    def send(self, files: object) -> None:
        raise AssertionError("nothing is sent here")


def test_the_latest_earlier_series_of_the_same_kind_and_name_is_the_prior(tmp_path: Path) -> None:
    (tmp_path / "now").mkdir()
    write_dicom(tmp_path / "now" / "a.dcm", planted().current, "P", DAY)
    study = read_study(tmp_path / "now")
    named = replace(study.image.source, series_description="T1")
    study = replace(study, image=replace(study.image, source=named))

    def series(uid: str, days: int, modality: str = "MR", name: str = "T1") -> Series:
        return Series(f"s{uid}", uid, DAY - datetime.timedelta(days), modality, name)

    found = [series("old", 400), series("t2", 30, name="T2"), series("ct", 5, "CT"),
             series("t1", 30), *(series(f"m{n}", 90) for n in range(9))]  # fmt: skip
    order = [s.series_uid for s in candidates(study, found)]
    assert order[:2] == ["t1", "t2"] and order[-1] == "old" and "ct" not in order
    assert len(order) == 2 + MOST_SERIES + 1


def test_a_prior_that_does_not_fit_is_named_and_the_next_one_taken(tmp_path: Path) -> None:
    (tmp_path / "now").mkdir()
    write_dicom(tmp_path / "now" / "a.dcm", planted().current, "P", DAY)
    near, far = DAY - datetime.timedelta(3), DAY - datetime.timedelta(300)
    of_another_part = write_dicom(
        tmp_path / "1.dcm", planted().prior, "P", near, body_part="ABDOMEN"
    )
    fitting = write_dicom(tmp_path / "2.dcm", planted().prior, "P", far)
    shelf = Shelf(
        {
            Series("1", "1.1", near, "MR", ""): of_another_part,
            Series("2", "2.1", far, "MR", ""): fitting,
        }
    )
    study = study_with_priors(tmp_path / "now", shelf, 1, tmp_path / "fetched", 1)
    assert [prior.date for prior in study.priors] == [far]
    assert any("2024-05-28" in note and "could not be compared" in note for note in study.notes)
    assert shelf.fetched == ["1.1", "2.1"]
    assert study_with_priors(tmp_path / "now", None, 1, tmp_path / "none", 1).priors == ()


def radiograph(path: Path, view: str | None, date: datetime.date = DAY, side: str = "") -> Path:
    """A chest radiograph, which has no place in space."""
    path.parent.mkdir(exist_ok=True)
    dataset = pydicom.dcmread(write_dicom(path, planted().current, "P", date, "CR", "CHEST"))
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID"):
        delattr(dataset, keyword)
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID = f"1.{date:%d}.1", f"1.{date:%d}"
    dataset.ViewPosition, dataset.Laterality = view, side
    dataset.save_as(path)
    return path


@pytest.mark.parametrize(
    ("own", "views", "chosen"),
    [
        ("PA", ["LL", "PA"], 1),
        ("LL", ["LL", "PA"], 0),
        ("PA", ["AP", "LL"], 0),  # both are frontal
        ("PA", ["AP", "PA"], 1),
        ("PA", [""], 0),  # the only one
        ("", ["PA"], 0),
        ("PA", ["LL"], None),
        ("PA", ["LL", "RL"], None),
        ("", ["PA", "LL"], None),
        ("PA", ["", ""], None),
    ],
)
def test_of_two_radiographs_of_a_date_that_of_the_same_view_is_the_prior(
    tmp_path: Path, own: str, views: list[str], chosen: int | None
) -> None:
    before = DAY - datetime.timedelta(3)
    radiograph(tmp_path / "now" / "a.dcm", own)
    files = [
        radiograph(tmp_path / "before" / f"{n}.dcm", view, before) for n, view in enumerate(views)
    ]
    shelf = Shelf({Series("1", "1.1", before, "CR", ""): files})
    study = study_with_priors(tmp_path / "now", shelf, 1, tmp_path / "fetched", 1)
    if chosen is None:
        assert study.priors == ()
        assert any(
            "2024-05-28" in n and "no image known to be of this view" in n for n in study.notes
        )
        return
    [prior] = study.priors
    wanted = pydicom.dcmread(files[chosen]).SOPInstanceUID
    assert prior.image.source.sop_instance_uids == (wanted,)


def test_a_radiograph_of_the_other_side_is_passed_over(tmp_path: Path) -> None:
    before = DAY - datetime.timedelta(3)
    radiograph(tmp_path / "now" / "a.dcm", "PA", side="R")
    files = [
        radiograph(tmp_path / "before" / f"{side}.dcm", "PA", before, side) for side in ("L", "R")
    ]
    shelf = Shelf({Series("1", "1.1", before, "CR", ""): files})
    study = study_with_priors(tmp_path / "now", shelf, 1, tmp_path / "fetched", 1)
    assert [prior.image.source.laterality for prior in study.priors] == ["R"]


def test_a_disk_that_fails_while_a_prior_is_read_is_no_prior_that_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "now").mkdir()
    write_dicom(tmp_path / "now" / "a.dcm", planted().current, "P", DAY)
    before = DAY - datetime.timedelta(3)
    fitting = write_dicom(tmp_path / "1.dcm", planted().prior, "P", before)
    shelf = Shelf({Series("1", "1.1", before, "MR", ""): fitting})
    real = priors.read_study

    def failing(images: Path, earlier: list[Path] | None = None) -> object:
        if not earlier:
            return real(images)
        try:
            raise OSError(5, "Input/output error")
        except OSError as error:
            raise ReadError("expected, came; do") from error

    monkeypatch.setattr(priors, "read_study", failing)
    with pytest.raises(ReadError):
        study_with_priors(tmp_path / "now", shelf, 1, tmp_path / "fetched", 1)
