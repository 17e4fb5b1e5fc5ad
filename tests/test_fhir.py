"""FHIR: both releases hold the report, and their references meet."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import dicom_cases
import numpy as np
import pytest
import report_cases

from medic_ad.dicom.identity import trackings
from medic_ad.dicom.write import dicom_objects
from medic_ad.readers import read_image
from medic_ad.report import NOTICE, Report
from medic_ad.study import Study

if importlib.util.find_spec("fhir") is None:
    pytest.skip("fhir.resources is not installed (extra fhir)", allow_module_level=True)

from medic_ad.fhir import bundle, write_fhir


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("fhir")
    path = dicom_cases.write(folder, dicom_cases.AXES[0], "MONOCHROME2", "frames")
    return dicom_cases.marked_report(read_image(path))


def resources(text: str) -> dict[str, list[dict[str, Any]]]:
    out: dict[str, list[dict[str, Any]]] = {}
    for entry in json.loads(text)["entry"]:
        out.setdefault(entry["resource"]["resourceType"], []).append(entry["resource"])
    return out


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["reference"]] if "reference" in value else []
        return own + [r for item in value.values() for r in references(item)]
    return [r for item in value for r in references(item)] if isinstance(value, list) else []


@pytest.mark.parametrize("release", ["R5", "R4B"])
def test_a_bundle_holds_the_report(report: Report, release: str) -> None:
    text = bundle(report, release)
    content = json.loads(text)
    found = resources(text)
    targets = {entry["fullUrl"] for entry in content["entry"]}
    assert set(references(content)) <= targets and len(references(content)) >= 10
    (diagnosis,) = found["DiagnosticReport"]
    assert diagnosis["status"] == "preliminary" and NOTICE in diagnosis["conclusion"]
    assert diagnosis["effectiveDateTime"] == "2024-05-31"
    study, lesion = found["Observation"]
    assert study["valueCodeableConcept"]["coding"][0]["display"] == "Abnormal"
    values = {c["code"]["coding"][0]["display"]: c for c in lesion["component"]}
    volume = values["Volume"]["valueQuantity"]
    assert volume["value"] == pytest.approx(18 * 2.5 * 0.7 * 0.9 / 1000) and volume["code"] == "cm3"
    assert lesion["identifier"][0]["value"] == f"urn:oid:{trackings(report)[0][1]}"
    (series,) = found["ImagingStudy"][0]["series"]
    assert series["instance"][0]["uid"] == report.study.image.source.sop_instance_uids[0]


def test_r5_selects_the_box_of_the_finding_on_its_frame(report: Report) -> None:
    (selection,) = resources(bundle(report, "R5"))["ImagingSelection"]
    (instance,) = selection["instance"]
    rows, columns = dicom_cases.MARKED[1:]
    left, top, right, bottom = columns.start, rows.start, columns.stop, rows.stop
    corners = [left, top, right, top, right, bottom, left, bottom, left, top]
    assert instance["imageRegion2D"][0]["coordinate"] == corners
    finding, source = report.findings[0], report.study.image.source
    assert finding.key_slice is not None
    assert instance["subset"] == [str(source.frames[finding.key_slice])]
    assert instance["subset"][0] in ("3", "4")  # frames of the file that hold the block
    assert selection["studyUid"] == source.study_instance_uid


def test_r4b_points_at_the_study_instead(report: Report) -> None:
    found = resources(bundle(report, "R4B"))
    assert "ImagingSelection" not in found
    assert found["Observation"][1]["derivedFrom"][0]["type"] == "ImagingStudy"
    assert found["DiagnosticReport"][0]["imagingStudy"]


CODES = {  # typed from SNOMED CT; the last is this project's own
    "abnormal": ("SCT", "263654008", "Abnormal"),
    "normal": ("SCT", "17621005", "Normal"),
    "uncertain": ("SCT", "82334004", "Indeterminate"),
    "out_of_scope": ("99MEDICAD", "OUT_OF_SCOPE", "out of scope"),
}


@pytest.mark.parametrize("decision", CODES)
def test_fhir_and_the_structured_report_give_a_decision_one_code(
    report: Report, decision: str
) -> None:
    alone = Study(report.study.image)
    nowhere = np.full(alone.image.grid, np.nan, np.float32)
    score = {"abnormal": 0.93, "normal": 0.1, "uncertain": 0.5}.get(decision)
    if score is None:
        told = report_cases.out_of_scope_report(study=alone, heatmap=nowhere)
    else:
        told = report_cases.make_report(study=alone, score=score)
    assert told.decision == decision
    scheme, code, meaning = CODES[decision]
    system = {"SCT": "http://snomed.info/sct", "99MEDICAD": "urn:medic-ad"}[scheme]
    for release in ("R5", "R4B"):
        found = resources(bundle(told, release))
        [diagnosis], [study, *_] = found["DiagnosticReport"], found["Observation"]
        assert study["valueCodeableConcept"]["coding"] == [
            {"system": system, "code": code, "display": meaning}
        ]
        assert diagnosis["conclusionCode"] == [study["valueCodeableConcept"]]
    answers = [
        item.ConceptCodeSequence[0]
        for element in dicom_objects(told)["report-sr.dcm"].iterall()
        for item in (element.value if element.VR == "SQ" else ())
        if item.get("ValueType") == "CODE"
        and item.ConceptNameCodeSequence[0].CodeValue == "DECISION"
    ]
    assert [(a.CodingSchemeDesignator, a.CodeValue) for a in answers] == [(scheme, code)]


def test_both_are_written_together(report: Report, tmp_path: Path) -> None:
    files = write_fhir(report, tmp_path / "out")
    assert [file.name for file in files] == ["report.r5.json", "report.r4b.json"]
    assert files[0].read_text() == bundle(report, "R5")
