"""Bad files, priors, facts and weights: one sentence on stderr, exit status 2."""

from __future__ import annotations

import datetime
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from cli_cases import FOLDER, MODEL, invoke, read, refused, run
from PIL import Image as Pillow
from pydicom.uid import ExplicitVRLittleEndian
from road_cases import planted, write_dicom, write_nifti, write_png
from safetensors.numpy import load_file, save_file

from medic_ad.cli_usage import out_file, out_folder
from medic_ad.sums import RECORD


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_png(tmp_path_factory.mktemp("cli") / "scan.png", planted().current)


def text_renamed(folder: Path) -> Path:
    file = folder / "scan.png"
    file.write_text("this is a letter, not a scan\n")
    return file


def truncated(make: Callable[[Path], Path], name: str) -> Callable[[Path], Path]:
    def cut(folder: Path) -> Path:
        file = make(folder / name)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        return file

    return cut


def dicom_with(**changes: Any) -> Callable[[Path], Path]:
    """A DICOM file with elements set, or taken out where the value is None."""

    def make(folder: Path) -> Path:
        file = write_dicom(folder / "x.dcm", planted().current)
        data = pydicom.dcmread(file)
        for name, value in changes.items():
            if value is None:
                delattr(data, name)
            elif name == "TransferSyntaxUID":
                data.file_meta.TransferSyntaxUID = value
            else:
                setattr(data, name, value)
        if data.file_meta.TransferSyntaxUID != ExplicitVRLittleEndian:
            data["PixelData"].is_undefined_length = True
            frame = pydicom.encaps.encapsulate([b"\0" * 64])
            data["PixelData"].value = frame
        data.save_as(file)
        return file

    return make


def sized(shape: tuple[int, int]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        Pillow.MAX_IMAGE_PIXELS = None
        file = folder / "scan.png"
        Pillow.new("L", shape[::-1]).save(file)
        return file

    return make


def empty(folder: Path) -> Path:
    file = folder / "scan.png"
    file.touch()
    return file


def not_finite(value: float) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        pixels = planted().current.copy()
        pixels[100, 100] = value
        return write_nifti(folder / "x.nii", pixels)

    return make


MPEG4 = "1.2.840.10008.1.2.4.102"
BAD_FILES: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "missing": (lambda f: f / "nothing.png", ("does not exist",)),
    "text": (text_renamed, ("a text file",)),
    "empty": (empty, ("an empty file",)),
    "empty folder": (lambda f: f, ("expected",)),
    "cut DICOM": (truncated(lambda p: write_dicom(p, planted().current), "x.dcm"), ("x.dcm",)),
    "cut NIfTI": (truncated(lambda p: write_nifti(p, planted().current), "x.nii.gz"), ("nifti",)),
    "cut PNG": (truncated(lambda p: write_png(p, planted().current), "x.png"), ("png",)),
    "no pixels": (dicom_with(PixelData=None), ("pixel",)),
    "MPEG-4": (dicom_with(TransferSyntaxUID=MPEG4), ("MPEG-4",)),
    "one pixel": (sized((1, 1)), ("at least 16 x 16", "1 x 1")),
    "huge": (sized((20_000, 20_000)), ("20000 x 20000",)),
    "NaN": (not_finite(math.nan), ("finite", "NaN")),
    "infinite": (not_finite(math.inf), ("finite", "infinite")),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_one_sentence(kind: str, tmp_path: Path) -> None:
    assert len(BAD_FILES) == 13
    make, expected = BAD_FILES[kind]
    refused(read(make(tmp_path), "--modality", "MR"), *expected)


@pytest.mark.parametrize("kind", ["missing", "text", "cut DICOM", "huge"])
def test_the_real_command_says_the_same_sentence(kind: str, tmp_path: Path) -> None:
    make, expected = BAD_FILES[kind]
    refused(run("read", make(tmp_path), "--modality", "MR", "--model", MODEL), *expected)


def test_a_size_of_zero_is_refused(tmp_path: Path) -> None:
    file = dicom_with(Rows=0)(tmp_path)
    refused(read(file), "x.dcm")


def test_an_unsupported_transfer_syntax_names_a_package_that_helps(tmp_path: Path) -> None:
    file = dicom_with(TransferSyntaxUID="1.2.840.10008.1.2.4.201")(tmp_path)  # HTJ2K, damaged
    refused(read(file), "x.dcm")


DAY = datetime.date(2024, 5, 31)
BAD_PRIORS: dict[str, tuple[dict[str, Any], str]] = {
    "patient": ({"patient": "P2"}, "same patient"),
    "modality": ({"modality": "CT"}, "same modality"),
    "body part": ({"body_part": "KNEE"}, "same body part"),
    "date": ({"date": DAY + datetime.timedelta(days=1)}, "dated on or before"),
}


@pytest.mark.parametrize("kind", BAD_PRIORS)
def test_a_prior_that_does_not_fit_is_one_sentence(kind: str, tmp_path: Path) -> None:
    assert len(BAD_PRIORS) == 4
    changes, expected = BAD_PRIORS[kind]
    case = planted()
    current = write_dicom(tmp_path / "now.dcm", case.current, date=DAY)
    old = {"date": DAY - datetime.timedelta(days=90), **changes}
    prior = write_dicom(tmp_path / "old.dcm", case.prior, **old)
    refused(read(current, "--prior", prior), expected)


def test_facts_that_cannot_be_are_one_sentence(scan: Path, tmp_path: Path) -> None:
    nifti = write_nifti(tmp_path / "x.nii.gz", planted().current)
    refused(read(nifti), "give --modality")
    refused(read(scan, "--modality", "MRI"), "give MR")
    refused(read(scan, "--date", "31.05.2024"), "year-month-day")
    refused(read(scan, "--prior", scan, "--prior-date", "31.05.2024"), "year-month-day")
    refused(read(scan, "--prior-date", "2024-05-31"), "one date for each prior", "1 for 0")
    volume = write_nifti(tmp_path / "v.nii.gz", np.stack([planted().current] * 3))
    refused(read(volume, "--prior", nifti, "--modality", "MR"), "3-D")
    refused(read(scan, "--prior", tmp_path / "gone.png"), "does not exist")
    contradicted = write_dicom(tmp_path / "x.dcm", planted().current)
    refused(read(contradicted, "--modality", "CT"), "leave --modality out")


OUTPUTS = (
    "read {scan} --out {out}",
    "read {scan} --out {good} --dicom {out}",
    "read {scan} --out {good} --fhir {out}",
    "demo --out {out}",
    "deidentify {scan} {out}",
    "data prepare mni152 --out {out}/table.parquet",
    "train detect --data x.parquet --model nano --out {out}",
    "calibrate --data x.parquet --model nano --out {out}",
    "evaluate detect --data x.parquet --model nano --out {out}",
    "batch {scan} --out {out}",
)


@pytest.mark.parametrize("place", ["/proc/x", "{file}", "{file}/report"])
@pytest.mark.parametrize("words", OUTPUTS)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    words: str, place: str, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medic_ad.study.read_study", None)  # nothing is read
    file = tmp_path / "file"
    file.touch()
    good, out = tmp_path / "good", place.format(file=file)
    said = [word.format(scan=scan, good=good, out=out) for word in words.split()]
    refused(invoke(*said), "expected a folder that can be written to", f"got '{out}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    for good in (tmp_path, tmp_path / "deep" / "new"):
        assert out_folder(str(good)) == good and out_file(str(good / "x")) == good / "x"
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- bad weights
@pytest.fixture()
def weights(tmp_path: Path) -> Path:
    """A copy of the model without the record of its hashes, which would be the first to object."""
    return Path(shutil.copytree(FOLDER, tmp_path / "weights", ignore=lambda *_: {RECORD}))


def test_an_unknown_model_names_the_near_ones(scan: Path) -> None:
    done = run("read", scan, "--model", "nanno")
    refused(done, "did you mean nano?")
    refused(invoke("read", scan, "--model", "zzz"), "known names: nano")


def test_a_device_that_is_not_there_is_refused(scan: Path) -> None:
    refused(read(scan, "--device", "cuda:99"), "cuda:99")
    refused(read(scan, "--device", "abacus"), "abacus")


def test_weights_that_do_not_fit_their_configuration_are_refused(scan: Path, weights: Path) -> None:
    config = json.loads((weights / "config.json").read_text())
    config["vision_config"]["intermediate_size"] += 8
    (weights / "config.json").write_text(json.dumps(config))
    refused(invoke("read", scan, "--model", weights), "expected weights that fit")


def test_a_missing_backbone_key_is_refused(scan: Path, weights: Path) -> None:
    [file] = weights.glob("*.safetensors")
    tensors = load_file(file)
    gone = next(name for name in sorted(tensors) if "visual" in name and "blocks" in name)
    del tensors[gone]
    save_file(tensors, file, metadata={"format": "pt"})
    refused(invoke("read", scan, "--model", weights), "is missing")


def test_damaged_weights_are_refused(scan: Path, weights: Path) -> None:
    [file] = weights.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:1000])
    refused(invoke("read", scan, "--model", weights), "expected a checkpoint")
