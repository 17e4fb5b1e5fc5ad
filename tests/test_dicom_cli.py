"""`medic-ad read --dicom` and `--fhir`: what they write, and what they refuse before reading."""

from __future__ import annotations

import json
from pathlib import Path

import pydicom
import pytest
from cli_cases import read, refused
from dicom_cases import texts
from road_cases import planted, write_dicom, write_png


def test_read_writes_dicom_and_fhir_of_one_read(tmp_path: Path) -> None:
    pytest.importorskip("fhir", reason="fhir.resources is not installed (extra fhir)")
    scan = write_dicom(tmp_path / "x.dcm", planted().current)
    out = tmp_path / "dicom", tmp_path / "fhir"
    done = read(scan, "--dicom", out[0], "--fhir", out[1], "--json")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    made = pydicom.dcmread(out[0] / "report-sr.dcm")
    assert made.PatientID == "P1" and made.Modality == "SR"
    weights = f"weights_sha256: {report['provenance']['weights_sha256']}"
    assert {report["text"], weights} <= texts(made)
    bundles = [json.loads(path.read_text()) for path in sorted(out[1].iterdir())]
    assert len(bundles) == 2
    for bundle in bundles:
        assert report["text"] in bundle["entry"][0]["resource"]["conclusion"]
    assert done.stderr.count("Written: ") == len(list(out[0].iterdir())) + 2


@pytest.mark.parametrize("option", ["--dicom", "--fhir"])
def test_a_png_is_refused_and_nothing_is_written(tmp_path: Path, option: str) -> None:
    scan = write_png(tmp_path / "x.png", planted().current)
    done = read(scan, "--out", tmp_path / "report", option, tmp_path / "out")
    refused(done, "expected a study read from DICOM files, came PNG")
    assert not (tmp_path / "report").exists() and not (tmp_path / "out").exists()
