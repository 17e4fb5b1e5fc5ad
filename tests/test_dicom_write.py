"""DICOM out: every object is valid, refers to its sources, and says what the report says."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import course_cases
import dicom_cases
import highdicom
import numpy as np
import pydicom
import pytest
import report_cases
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from sentence import said

from medic_ad.dicom import maps, write_dicom
from medic_ad.dicom.identity import trackings
from medic_ad.dicom.sources import sources_of
from medic_ad.errors import MedicADError
from medic_ad.readers import read_image
from medic_ad.report import Report
from medic_ad.road import read
from medic_ad.study import Study

ALWAYS = {"regions-seg", "heatmap-seg", "overlay-sc", "report-sr"}
PLACED = ALWAYS | {"heatmap-map", "change-map"}
FLAT = ALWAYS | {"change-seg"}
UNMARKED = {"overlay-sc", "report-sr"}
SAMPLES = {
    "CT_small.dcm": PLACED,
    "MR_small.dcm": PLACED,
    "examples_rgb_color.dcm": FLAT,
    "examples_ybr_color.dcm": UNMARKED,
    "examples_palette.dcm": FLAT,
}
SHARED = {"eCT_Supplemental.dcm": PLACED, "emri_small.dcm": UNMARKED, "RG1_J2KI.dcm": FLAT}


def report_of(path: str | Path, **changes: Any) -> Report:
    """A report with one finding and a change map of whatever a file holds."""
    image = read_image(path)
    change = report_cases.make_change(image.grid, map=report_cases.blob(image.grid) - 0.5)
    study = Study(image, priors=(Study(image),))
    return report_cases.make_report(study=study, **{"change": change, **changes})


def case(tmp_path: Path, layout: str) -> Report:
    path = dicom_cases.write(tmp_path / layout, dicom_cases.AXES[5], "MONOCHROME2", layout)
    return dicom_cases.marked_report(read_image(path))


def referred(made: Dataset) -> set[str]:
    """SOP Instance UIDs that an object refers to, at any depth."""
    return {
        str(element.value)
        for element in made.iterall()
        if element.keyword == "ReferencedSOPInstanceUID"
    }


def by_slice(made: Any, report: Report) -> dict[int, np.ndarray]:
    """Each frame of an object, by the slice whose instance the frame itself refers to."""
    uids = report.study.image.source.sop_instance_uids
    out = {}
    for frame, item in zip(made.pixel_array, made.PerFrameFunctionalGroupsSequence, strict=True):
        source = item.DerivationImageSequence[0].SourceImageSequence[0]
        out[uids.index(source.ReferencedSOPInstanceUID)] = frame
    return out


def check_valid(files: list[Path]) -> None:
    """No error by dciodvfy of dicom3tools."""
    command = shutil.which("dciodvfy")
    if command is None:
        pytest.skip("dciodvfy is not installed (Debian package dicom3tools)")
    for file in files:
        done = subprocess.run([command, str(file)], capture_output=True, text=True, timeout=60)
        errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
        assert errors == [], file.name


def check_objects(report: Report, folder: Path, expected: set[str]) -> None:
    files = write_dicom(report, folder)
    assert {file.stem for file in files} == expected == {p.stem for p in folder.iterdir()}
    source = report.study.image.source
    for file in files:
        made = pydicom.dcmread(file)
        assert made.StudyInstanceUID == source.study_instance_uid
        assert made.SeriesInstanceUID != source.series_instance_uid
        assert referred(made) & set(source.sop_instance_uids), file.name
    check_valid(files)


@pytest.mark.parametrize("layout", dicom_cases.LAYOUTS)
def test_objects_of_series_frames_and_slices_are_valid(tmp_path: Path, layout: str) -> None:
    check_objects(case(tmp_path, layout), tmp_path / "out", PLACED)


@pytest.mark.parametrize("name", SAMPLES)
def test_objects_of_sample_files_are_valid(tmp_path: Path, name: str) -> None:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    check_objects(report_of(path), tmp_path / "out", SAMPLES[name])


@pytest.mark.parametrize("name", SHARED)
def test_objects_of_public_files_are_valid(shared_data: Path, tmp_path: Path, name: str) -> None:
    report = report_of(shared_data / "dicom/pydicom-data" / name)
    check_objects(report, tmp_path / "out", SHARED[name])


def test_without_findings_and_out_of_scope_there_are_fewer_objects(tmp_path: Path) -> None:
    path = str(get_testdata_file("CT_small.dcm"))
    grid = read_image(path).grid
    quiet = report_of(path, score=0.1, heatmap=np.full(grid, 0.04, np.float32), text="None.")
    check_objects(quiet, tmp_path / "out", PLACED - {"regions-seg"})
    outside = report_of(
        path,
        score=float("nan"),
        heatmap=np.full(grid, np.nan, np.float32),
        heatmap_threshold=float("nan"),
        text="",
        provenance=report_cases.make_provenance(threshold=None, uncertain_band=None),
        change=replace(
            report_cases.make_change(), label="not_comparable", scores=None, map=None, reason="x"
        ),
    )
    check_objects(outside, tmp_path / "out", UNMARKED)  # those of the earlier report are gone


def test_maps_hold_the_numbers_of_the_report(tmp_path: Path) -> None:
    report = case(tmp_path, "series")
    heatmap = report.heatmap.copy()
    heatmap[0] = np.nan
    report = replace(report, heatmap=heatmap, slice_scores=np.array([np.nan, 0.9, 0.9, 0.9]))
    sources = sources_of(report.study.image)
    made = maps.heatmap_map(report, sources)
    assert made is not None
    stored = by_slice(made, report)
    assert made.FloatPixelPaddingValue == maps.NOT_LOOKED and set(stored) == {0, 1, 2, 3}
    for number, values in stored.items():
        expected = np.nan_to_num(heatmap[number], nan=maps.NOT_LOOKED)
        np.testing.assert_array_equal(values, expected)
    fraction = maps.heatmap_segmentation(report, sources)
    assert fraction is not None
    shares = by_slice(fraction, report)
    assert set(shares) == {1, 2, 3}  # not looked at: no frame
    for number, values in shares.items():
        np.testing.assert_allclose(values / 255, heatmap[number], atol=0.5 / 255 + 1e-6)


def test_the_structured_report_says_what_the_report_says(tmp_path: Path) -> None:
    report = case(tmp_path, "series")
    write_dicom(report, tmp_path / "out")
    made = highdicom.sr.srread(tmp_path / "out" / "report-sr.dcm")
    assert made.CompletionFlag == "COMPLETE" and made.VerificationFlag == "UNVERIFIED"
    content: Any = made.content
    (group,) = content.get_volumetric_roi_measurement_groups()
    finding, (name, uid) = report.findings[0], trackings(report)[0]
    assert (group.tracking_identifier, group.tracking_uid) == (name, uid)
    values = {m.name.meaning: (m.value, m.unit.value) for m in group.get_measurements()}
    assert finding.volume_ml is not None and finding.area_mm2 is not None
    assert values["Volume"] == (pytest.approx(finding.volume_ml, rel=1e-5), "cm3")
    assert values["Volume"][0] == pytest.approx(18 * 2.5 * 0.7 * 0.9 / 1000, rel=1e-5)
    assert values["Area"] == (pytest.approx(9 * 0.7 * 0.9, rel=1e-5), "mm2")
    assert values["Probability"] == (pytest.approx(0.9), "1")
    segment = pydicom.dcmread(tmp_path / "out" / "regions-seg.dcm")
    assert group.reference_type.meaning == "Referenced Segment"
    assert segment.SOPInstanceUID in referred(made)
    assert segment.SegmentSequence[0].TrackingUID == uid
    whole = content.get_image_measurement_groups()[0]
    answers = {q.name.meaning: q.value.meaning for q in whole.get_qualitative_evaluations()}
    assert answers.pop("Algorithm Family") == "Artificial Intelligence"
    assert answers == {"decision": "Abnormal", "change since the prior": "worse"}
    names = {m.name.meaning: m.value for m in whole.get_measurements()}
    assert names["Probability"] == pytest.approx(report.score)
    assert names["worse probability"] == 0.7
    texts = dicom_cases.texts(made)
    notice = "Research use only. Not a medical device."
    assert {report.text, notice, finding.location, f"weights_sha256: {'a' * 64}"} <= texts
    own = {
        (item.CodeValue, item.CodeMeaning)
        for item in (e for s in made.iterall() if s.VR == "SQ" for e in s.value)
        if "CodeValue" in item and item.CodingSchemeDesignator == "99MEDICAD"
    }
    assert len(own) == len({code for code, _ in own}) >= 6  # each code has one meaning


def test_the_structured_report_names_the_instances_of_the_prior(tmp_path: Path) -> None:
    report = case(tmp_path, "slice")
    path = dicom_cases.write(tmp_path / "before", dicom_cases.AXES[5], "MONOCHROME2", "slice")
    before = read_image(path)
    dates = replace(report.study, priors=(Study(before),))
    made = pydicom.dcmread(write_dicom(replace(report, study=dates), tmp_path / "out")[-1])
    (other,) = made.PertinentOtherEvidenceSequence
    assert other.StudyInstanceUID == before.source.study_instance_uid
    assert set(before.source.sop_instance_uids) == referred(other)


def test_names_and_text_keep_their_letters(tmp_path: Path) -> None:
    path = dicom_cases.write(tmp_path / "in", dicom_cases.AXES[0], "MONOCHROME2", "slice")
    source = pydicom.dcmread(path)
    source.SpecificCharacterSet, source.PatientName = "ISO_IR 100", "Müller^Käthe"
    source.save_as(path)
    report = replace(dicom_cases.marked_report(read_image(path)), text="A lesion of 5 mm² – 日本.")
    files = write_dicom(report, tmp_path / "out")
    for file in files:
        assert pydicom.dcmread(file).PatientName == "Müller^Käthe"
    assert report.text in dicom_cases.texts(pydicom.dcmread(files[-1]))
    check_valid(files)


def test_the_same_read_has_the_same_uids_and_other_weights_have_others(tmp_path: Path) -> None:
    def uids(report: Report, name: str) -> set[str]:
        made = [pydicom.dcmread(f) for f in write_dicom(report, tmp_path / name)]
        found = {str(ds.SOPInstanceUID) for ds in made}
        assert len(found) == len(made) == 6
        assert {len({ds.Modality for ds in made if ds.SeriesInstanceUID == s}) for s in
                {ds.SeriesInstanceUID for ds in made}} == {1}  # fmt: skip
        return found

    report = case(tmp_path, "slice")
    later = replace(report, provenance=report.provenance | {"created": "2026-01-05T10:11:12+00:00"})
    other = replace(report, provenance=report.provenance | {"weights_sha256": "b" * 64})
    assert uids(report, "one") == uids(later, "two")
    assert not uids(report, "one") & uids(other, "three")


def test_tracking_uids_persist_over_dates(monkeypatch: pytest.MonkeyPatch) -> None:
    course_cases.seer(monkeypatch)
    model = course_cases.calibrated()
    left, right = (20, 20), (42, 44)
    dates = [[(left, 4)], [(left, 5), (right, 4)], [(left, 6), (right, 5)]]
    read_on = []
    for count in (1, 2, 3):
        report = read(course_cases.study(dates[:count]), model)
        places = [(round(f.centroid[0]), round(f.centroid[1])) for f in report.findings]
        read_on.append(dict(zip(places, (uid for _, uid in trackings(report)), strict=True)))
    assert [len(found) for found in read_on] == [1, 2, 2]
    assert len({found[20, 20] for found in read_on}) == 1
    assert read_on[1][42, 44] == read_on[2][42, 44] != read_on[1][20, 20]


def test_what_is_not_of_a_dicom_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MedicADError) as caught:
        write_dicom(report_cases.make_report(), tmp_path / "out")
    assert said(caught)[:2] == (
        "a study read from DICOM files",
        "PNG, which belongs to no DICOM study",
    )
    assert not (tmp_path / "out").exists()
    report = case(tmp_path, "slice")
    Path(report.study.image.source.path).write_bytes(b"")
    with pytest.raises(MedicADError):
        write_dicom(report, tmp_path / "out")
    assert not (tmp_path / "out").exists()
