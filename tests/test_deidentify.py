"""De-identification: planted identifiers are gone, everywhere, and dates can still be compared."""

from __future__ import annotations

import copy
import datetime
import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless

pytest.importorskip("dicomanonymizer", reason="the extra `deidentify` is not installed")

from cli_cases import invoke, refused
from deidentify_cases import DATE, PATIENT, PLANTED_WORD, held, plant, plantable
from road_cases import planted, write_dicom
from sentence import said

from medic_ad.deidentify.person import Person
from medic_ad.deidentify.profile import DUMMY, EMPTY, MAP, REMOVE, action_of
from medic_ad.deidentify.run import REPORT, deidentify
from medic_ad.errors import DeidentifyError
from medic_ad.study import read_study

KEY = b"k" * 32


def cleaned(folder: Path) -> dict[str, Dataset]:
    return {str(p.relative_to(folder)): pydicom.dcmread(p) for p in folder.rglob("*.dcm")}


def test_at_least_999_of_1000_planted_identifiers_are_gone(tmp_path: Path) -> None:
    """One in every attribute that may name someone, at the top and in sequences."""
    total, left, files = 0, [], 0
    source = tmp_path / "in"
    source.mkdir()
    words: dict[str, str] = {}
    for level in (0, 1, 2):
        for part in range(4):
            file = write_dicom(source / f"{level}{part}.dcm", planted().current, PATIENT, DATE)
            words |= plant(file, [t for n, t in enumerate(plantable()) if n % 4 == part], level)
            files += 1
    outcome = deidentify(source, tmp_path / "out")
    assert len(outcome.cleaned) == files and outcome.refused == ()
    everything = b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file())
    for word, where in words.items():
        total += 1
        if word.encode() in everything:
            left.append(where)
    assert total > 1500
    assert 1 - len(left) / total >= 0.999, sorted(set(left))[:20]


def test_what_is_no_attribute_is_gone_too(tmp_path: Path) -> None:
    file = write_dicom(tmp_path / "a.dcm", planted().current, PATIENT, DATE)
    dataset = pydicom.dcmread(file)
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]  # OCR leaves it alone
    dataset.preamble = f"{PLANTED_WORD}PREAMBLE".encode().ljust(128, b"\0")
    dataset.file_meta.SourceApplicationEntityTitle = f"{PLANTED_WORD}AE"
    block = dataset.private_block(0x0029, f"{PLANTED_WORD}VENDOR", create=True)
    block.add_new(0x01, "LO", f"{PLANTED_WORD}PRIVATE")
    dataset.add_new(0x60000010, "US", 16)
    dataset.add_new(0x60000022, "LO", f"{PLANTED_WORD}OVERLAY")
    dataset.add_new(0x60003000, "OW", f"{PLANTED_WORD}OVERLAYBITS".encode().ljust(32))
    dataset.add_new(0xFFFCFFFC, "OB", f"{PLANTED_WORD}PADDING!".encode())
    dataset.save_as(file)
    compressed = write_dicom(tmp_path / "b.dcm", planted().current, PATIENT, DATE)
    stream = pydicom.dcmread(compressed)
    stream.ImageType = ["ORIGINAL", "PRIMARY"]
    stream.compress(JPEG2000Lossless)
    comment = f"{PLANTED_WORD}COMMENT!".encode()
    marker = b"\xff\x64" + (len(comment) + 4).to_bytes(2, "big") + b"\0\1" + comment
    [frame] = generate_frames(stream.PixelData, number_of_frames=1)
    at = frame.index(b"\xff\x52")  # the coding style, before which a comment may stand
    stream.PixelData = encapsulate([frame[:at] + marker + frame[at:]])
    stream.save_as(compressed)
    for original in (file, compressed):
        assert PLANTED_WORD.encode() in original.read_bytes()
        deidentify(original, tmp_path / f"out-{original.stem}")
        [made] = (tmp_path / f"out-{original.stem}").rglob("*.dcm")
        assert PLANTED_WORD.encode() not in made.read_bytes()
        assert made.read_bytes()[:128] == b"\0" * 128
        was = pydicom.dcmread(original).pixel_array
        assert np.array_equal(pydicom.dcmread(made).pixel_array, was)


@pytest.mark.parametrize(("columns", "signed"), [(181, 0), (180, 0), (181, 1)])
def test_what_stands_beside_the_pixels_is_gone(tmp_path: Path, columns: int, signed: int) -> None:
    """Bytes behind the last pixel, and an overlay in bits that the pixels do not use."""
    grey = planted().current[:181, :columns]
    dataset = pydicom.dcmread(write_dicom(tmp_path / "a.dcm", grey, PATIENT, DATE))
    dataset.ImageType, dataset.PixelRepresentation = ["ORIGINAL", "PRIMARY"], signed
    words = np.frombuffer(dataset.PixelData, "<u2").copy()
    letters = np.zeros(words.size, bool)
    letters[1000:5000:3] = True
    pixels = words & 0x0FFF
    spoilt = np.where(letters, words | 0x1000, words).astype("<u2").tobytes()
    dataset.PixelData = spoilt + f"{PLANTED_WORD}BEHIND!!".encode().ljust(64)
    dataset.save_as(tmp_path / "a.dcm")
    shown = dataset.pixel_array
    outcome = deidentify(tmp_path / "a.dcm", tmp_path / "out")
    [made] = cleaned(tmp_path / "out").values()
    assert PLANTED_WORD.encode() not in made.PixelData and len(made.PixelData) == len(spoilt)
    found = np.frombuffer(made.PixelData, "<i2" if signed else "<u2")
    assert np.array_equal(found & 0x0FFF, pixels) and np.array_equal(found, shown.ravel())
    assert np.array_equal(
        found, np.where(pixels > 2047, pixels - 4096.0, pixels) if signed else pixels
    )
    assert any("beside the pixels" in action.done for action in outcome.cleaned[0].actions)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"HighBit": 15}, "highest bit is 11"),
        (
            {"BitsAllocated": 12, "BitsStored": 12},
            "pixels of 1, 8, 16, 32 or 64 bits, came pixels of 12",
        ),
        ({"NumberOfFrames": 2}, "bytes of pixels"),
        ({"NumberOfFrames": 2**20}, "values in all frames"),
    ],
)
def test_pixels_that_cannot_be_told_from_what_stands_beside_them_are_refused(
    tmp_path: Path, tags: dict[str, int], words: str
) -> None:
    dataset = pydicom.dcmread(write_dicom(tmp_path / "a.dcm", planted().current, PATIENT, DATE))
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.save_as(tmp_path / "a.dcm")
    with pytest.raises(DeidentifyError, match=f"expected .*{words}"):
        deidentify(tmp_path / "a.dcm", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_identifier_repeated_where_nobody_looks_is_emptied(tmp_path: Path) -> None:
    file = write_dicom(tmp_path / "a.dcm", planted().current, "4711-08", DATE)
    dataset = pydicom.dcmread(file)
    dataset.PatientName = "Quarzig^Else"
    dataset.ConvolutionKernel = "QUARZIG, soft"  # the table of the standard leaves it alone
    dataset.PositionReferenceIndicator = "case 4711-08"
    dataset.ScanOptions = "ELSEWHERE"
    dataset.save_as(file)
    deidentify(file, tmp_path / "out")
    [made] = cleaned(tmp_path / "out").values()
    assert not made.get("ConvolutionKernel") and not made.PositionReferenceIndicator
    assert made.ScanOptions == "ELSEWHERE"


def test_dates_stay_comparable_and_uids_consistent(tmp_path: Path) -> None:
    day, source = datetime.timedelta(days=1), tmp_path / "in"
    source.mkdir()
    now = planted()
    current = write_dicom(source / "now.dcm", now.current, "A", DATE)
    prior = write_dicom(source / "before.dcm", now.prior, "A", DATE - 97 * day)
    write_dicom(source / "other.dcm", now.prior, "B", DATE)
    dataset = pydicom.dcmread(current)
    before = pydicom.dcmread(prior)
    reference = Dataset()
    reference.ReferencedSOPClassUID = before.SOPClassUID
    reference.ReferencedSOPInstanceUID = before.SOPInstanceUID
    dataset.ReferencedImageSequence = Sequence([reference])
    dataset.AcquisitionDateTime = f"{DATE:%Y%m%d}131415.25+0100"
    dataset.save_as(current)
    deidentify(source, tmp_path / "out", tmp_path / "key")
    made = sorted(cleaned(tmp_path / "out").items(), key=lambda item: item[1].StudyDate)
    of_patient: dict[str, list] = {}
    for name, image in made:
        of_patient.setdefault(image.PatientID, []).append((tmp_path / "out" / name, image))
    [(old, first), (new, second)] = next(v for v in of_patient.values() if len(v) == 2)
    study = read_study(new, old)
    assert study.identity_verified and study.date is not None
    assert study.date - study.priors[0].date == 97 * day  # type: ignore[operator]
    assert study.date != DATE and second.AcquisitionDateTime == second.StudyDate
    [kept] = second.ReferencedImageSequence
    assert kept.ReferencedSOPInstanceUID == first.SOPInstanceUID != before.SOPInstanceUID
    assert kept.ReferencedSOPClassUID == before.SOPClassUID
    shifts = {Person(KEY, patient).shift for patient in map(str, range(200))}
    assert len(shifts) > 150 and datetime.timedelta() not in shifts

    deidentify(current, tmp_path / "again", tmp_path / "key")
    [again] = cleaned(tmp_path / "again").values()
    assert (again.PatientID, again.StudyDate) == (second.PatientID, second.StudyDate)
    assert again.SOPInstanceUID == second.SOPInstanceUID
    deidentify(current, tmp_path / "without")
    [without] = cleaned(tmp_path / "without").values()
    assert without.SOPInstanceUID != second.SOPInstanceUID
    assert without.PatientID != second.PatientID
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0


def test_an_instance_uid_below_the_root_of_the_standard_is_replaced_and_is_no_path(
    tmp_path: Path,
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    file = write_dicom(source / "now.dcm", planted().current, "A", DATE)
    dataset = pydicom.dcmread(file)
    with pydicom.config.disable_value_validation():
        dataset.StudyInstanceUID = "1.2.840.10008./../../../escaped"
        dataset.SeriesInstanceUID = "1.2.840.10008.77.1.2.3"
    dataset.save_as(file)
    deidentify(source, tmp_path / "out")
    [(name, image)] = cleaned(tmp_path / "out").items()
    assert (tmp_path / "out" / name).resolve().is_relative_to((tmp_path / "out").resolve())
    assert "10008" not in image.StudyInstanceUID + image.SeriesInstanceUID
    assert not [path for path in tmp_path.rglob("*escaped*")]


@pytest.mark.parametrize(
    ("keyword", "action"),  # typed from the standard's table, not from the library's
    [
        ("PatientName", EMPTY),
        ("PatientBirthDate", EMPTY),
        ("PatientSex", EMPTY),
        ("AccessionNumber", EMPTY),
        ("ReferringPhysicianName", EMPTY),
        ("StudyID", EMPTY),
        ("PatientAddress", REMOVE),
        ("OtherPatientIDsSequence", REMOVE),
        ("PatientComments", REMOVE),
        ("PatientAge", REMOVE),
        ("ImageComments", REMOVE),
        ("RequestAttributesSequence", REMOVE),
        ("IconImageSequence", REMOVE),
        ("StudyDescription", REMOVE),
        ("InstitutionName", DUMMY),
        ("OperatorsName", DUMMY),
        ("DeviceSerialNumber", DUMMY),
        ("SOPInstanceUID", MAP),
        ("FrameOfReferenceUID", MAP),
        ("ReferencedImageSequence", MAP),
        ("Modality", ""),
        ("BodyPartExamined", ""),
        ("PixelSpacing", ""),
        ("ImageOrientationPatient", ""),
        ("RescaleSlope", ""),
    ],
)
def test_the_table_is_that_of_the_standard(keyword: str, action: str) -> None:
    element = held(keyword)
    assert action_of(element) == action


def test_every_date_name_and_free_text_of_the_dictionary_is_dealt_with() -> None:
    checked = 0
    for vr, _, _, retired, keyword in DicomDictionary.values():
        if vr in ("DA", "DT", "PN", "LT", "ST", "UT", "UC") and not retired and keyword:
            assert action_of(held(keyword)) != "", keyword
            checked += 1
    assert checked > 300


def test_the_report_lists_actions_and_holds_nothing_of_the_originals(tmp_path: Path) -> None:
    file = write_dicom(tmp_path / "Erika Mustermann.dcm", planted().current, PATIENT, DATE)
    original = pydicom.dcmread(file)
    deidentify(file, tmp_path / "out")
    text = (tmp_path / "out" / REPORT).read_text()
    for word in ("Erika", "Made", PATIENT, original.SOPInstanceUID, f"{DATE:%Y%m%d}"):
        assert word not in text
    [entry] = json.loads(text)["files"]
    done = {action["keyword"]: action["done"] for action in entry["actions"]}
    assert done["PatientName"] == "emptied" and done["StudyDate"] == "shifted"
    made = pydicom.dcmread(tmp_path / "out" / entry["file"])
    assert made.PatientIdentityRemoved == "YES"
    assert made.LongitudinalTemporalInformationModified == "MODIFIED"
    said_codes = [c.CodeValue for c in made.DeidentificationMethodCodeSequence]
    assert said_codes[:2] == ["113100", "113107"]


def test_objects_without_pixels_and_torn_files_are_refused_and_the_others_written(
    tmp_path: Path,
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    whole = write_dicom(source / "a.dcm", planted().current, PATIENT, DATE)
    dataset = pydicom.dcmread(whole)
    bare = copy.deepcopy(dataset)
    del bare.PixelData
    bare.save_as(source / "b.dcm")
    (source / "c.dcm").write_bytes(whole.read_bytes()[:300])
    (source / "notes.txt").write_text("Erika Mustermann")
    outcome = deidentify(source, tmp_path / "out")
    assert len(outcome.cleaned) == 1
    assert {r.path.name for r in outcome.refused} == {"b.dcm", "c.dcm", "notes.txt"}
    assert len([p for p in (tmp_path / "out").rglob("*") if p.is_file()]) == 2


def test_nothing_is_left_behind_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("x")
    for source, out in ((tmp_path / "in", tmp_path / "out"), (tmp_path / "no", tmp_path / "out")):
        with pytest.raises(DeidentifyError, match="expected .+, came .+"):
            deidentify(source, out)
    with pytest.raises(DeidentifyError) as caught:
        deidentify(tmp_path / "in", tmp_path / "in")
    assert "empty folder" in said(caught)[0]
    (tmp_path / "key").write_text("no key")
    with pytest.raises(DeidentifyError, match="a key of 32 bytes"):
        deidentify(tmp_path / "in", tmp_path / "out", tmp_path / "key")
    assert {p.name for p in tmp_path.iterdir()} == {"in", "key"}


@pytest.mark.parametrize("there", [False, True])
def test_a_disk_that_fills_up_ends_the_run_and_nothing_is_left(tmp_path: Path, there: bool) -> None:
    (tmp_path / "in").mkdir()
    for name, source in (("1", "MR_small.dcm"), ("2", "CT_small.dcm")):  # 10 and 39 kB
        shutil.copy(str(get_testdata_file(source)), tmp_path / "in" / name)
    out = tmp_path / "out"
    if there:
        out.mkdir()
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, usual[1]))
    try:
        with pytest.raises(DeidentifyError) as caught:
            deidentify(tmp_path / "in", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    expected, came, _ = said(caught)
    assert expected == "a folder that takes all cleaned images" and "File too large" in came
    assert {p.name for p in tmp_path.iterdir()} == ({"in", "out"} if there else {"in"})
    assert not there or not list(out.iterdir())


def test_a_folder_within_the_originals_is_refused_and_makes_no_key(tmp_path: Path) -> None:
    (tmp_path / "in" / "out").mkdir(parents=True)
    write_dicom(tmp_path / "in" / "a.dcm", planted().current, PATIENT, DATE)
    for out in ("out", "new", "../in/new"):
        done = invoke("deidentify", tmp_path / "in", tmp_path / "in" / out, "--key", tmp_path / "k")
        refused(done, "expected a folder apart from the originals")
    assert not (tmp_path / "k").exists()


def test_an_empty_folder_is_filled_from_within(tmp_path: Path) -> None:
    """It may be a mount: it stays itself, and nothing is made beside it."""
    out = tmp_path / "closed" / "out"
    out.mkdir(parents=True)
    file = write_dicom(tmp_path / "a.dcm", planted().current, PATIENT, DATE)
    mount = out.stat().st_ino
    seen: list[str] = []

    def track(files: list[Path]) -> list[Path]:
        seen.extend(p.name for p in out.parent.iterdir())
        return files

    outcome = deidentify(file, out, track=track)
    assert seen == ["out"] and out.stat().st_ino == mount
    assert {p.name for p in out.iterdir()} == {REPORT, Path(outcome.cleaned[0].file).parts[0]}


def test_sigterm_leaves_nothing_behind(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from medic_ad.cli import app\n"
        "from medic_ad.deidentify import run\n"
        "run.clean = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
        "app(sys.argv[1:])\n"
    )
    file = write_dicom(tmp_path / "a.dcm", planted().current, PATIENT, DATE)
    words = [sys.executable, "-c", code, "deidentify", str(file), str(tmp_path / "out")]
    assert subprocess.run(words, timeout=120, capture_output=True).returncode == 143
    assert [p.name for p in tmp_path.iterdir()] == ["a.dcm"]


def test_the_command_line_says_what_was_done_and_what_was_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_dicom(tmp_path / "in" / "a.dcm", planted().current, PATIENT, DATE)
    (tmp_path / "in" / "b.txt").write_text("Erika Mustermann")
    done = invoke("deidentify", tmp_path / "in", tmp_path / "out")
    assert done.exit_code == 0
    assert "1 written, 1 refused" in done.output and "b.txt" in done.output
    assert (tmp_path / "out" / REPORT).is_file()
    refused(invoke("deidentify", tmp_path / "in", tmp_path / "out"), "new or empty folder")
    text = invoke("deidentify", tmp_path / "in" / "b.txt", tmp_path / "new")
    refused(text, "expected a DICOM file, came one of another kind")
    refused(invoke("deidentify", tmp_path / "none", tmp_path / "new"), "does not exist")
