"""Zip files and DICOMDIR: one series read from them, and everything hostile refused."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import dicom_cases
import numpy as np
import pydicom
import pytest
from pydicom.fileset import FileSet
from sentence import said

from medic_ad.dicom.sources import sources_of
from medic_ad.errors import ReadError, StudyError
from medic_ad.readers import archive, read_image


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return dicom_cases.write(tmp_path / "series", dicom_cases.AXES[0], "MONOCHROME2", "series")


def pack(path: Path, folder: Path, where: str = "CD/IM") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for number, file in enumerate(sorted(folder.iterdir())):
            out.write(file, f"{where}/{number}/{file.name}")
        out.writestr("CD/README.TXT", "read me")
    return path


def refused(path: Path) -> tuple[str, str, str]:
    with pytest.raises(ReadError) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    return said(caught)


def test_a_zipped_series_is_read_as_its_folder(tmp_path: Path, series: Path) -> None:
    plain, packed = read_image(series), read_image(pack(tmp_path / "a.zip", series))
    np.testing.assert_array_equal(packed.pixels, plain.pixels)
    np.testing.assert_array_equal(packed.affine, plain.affine)
    assert packed.source.sha256 == plain.source.sha256
    assert "1 file(s) that are not DICOM left out" in packed.source.notes
    found = [h.SOPInstanceUID for h in sources_of(packed).headers]
    assert tuple(found) == plain.source.sop_instance_uids


def test_a_dicomdir_is_read_as_the_files_that_it_names(tmp_path: Path, series: Path) -> None:
    made = FileSet()
    for number, file in enumerate(sorted(series.iterdir()), start=1):
        one = pydicom.dcmread(file)
        one.InstanceNumber, one.SeriesNumber = number, 1
        made.add(one)
    made.write(tmp_path / "cd")
    read = read_image(tmp_path / "cd" / "DICOMDIR")
    np.testing.assert_array_equal(read.pixels, read_image(series).pixels)
    next(p for p in (tmp_path / "cd").rglob("*") if p.is_file() and p.name != "DICOMDIR").unlink()
    assert refused(tmp_path / "cd" / "DICOMDIR")[1] == "one with 1 of 4 missing"


def test_a_dicomdir_cannot_point_outside_its_folder(tmp_path: Path, series: Path) -> None:
    made = FileSet()
    made.add(pydicom.dcmread(next(series.iterdir())))
    made.write(tmp_path / "cd")
    path = tmp_path / "cd" / "DICOMDIR"
    directory = pydicom.dcmread(path)
    for record in directory.DirectoryRecordSequence:
        if "ReferencedFileID" in record:
            record.ReferencedFileID = ["..", "..", "SECRET"]
    directory.save_as(path)
    assert refused(path)[0] == "a DICOMDIR that names files beside or below it"


def test_errors_name_the_file_within_the_zip(tmp_path: Path, series: Path) -> None:
    file = sorted(series.iterdir())[2]
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ReadError) as caught:
        read_image(pack(tmp_path / "a.zip", series))
    assert str(caught.value).startswith(f"{tmp_path}/a.zip/CD/IM/2/2.dcm: expected complete pixel")
    assert "/tmp/medic-ad-" not in str(caught.value)


def test_a_zip_of_two_series_is_refused(tmp_path: Path, series: Path) -> None:
    dicom_cases.write(series, dicom_cases.AXES[0], "MONOCHROME2", "frames")
    with pytest.raises(StudyError, match="expected one study"):
        read_image(pack(tmp_path / "a.zip", series))


@pytest.mark.parametrize("name", ["/etc/passwd", "../../up.dcm", "a/../../up.dcm", "C:/up.dcm"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        out.writestr(name, "x")
    assert refused(tmp_path / "a.zip")[:2] == (
        "a zip file with names of files within it",
        f"the name {name!r}",
    )
    assert not (tmp_path.parent / "up.dcm").exists()


def test_links_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        out.writestr(link, "/etc/passwd")
    assert "'link'" in refused(tmp_path / "a.zip")[1]


def test_too_many_entries_and_too_deep_folders_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as out:
        for number in range(archive.MAX_ENTRIES + 1):
            out.writestr(f"{number}", b"")
    assert refused(tmp_path / "many.zip")[1] == str(archive.MAX_ENTRIES + 1)
    with zipfile.ZipFile(tmp_path / "deep.zip", "w") as out:
        out.writestr("a/" * archive.MAX_DEPTH + "b", b"")
    assert refused(tmp_path / "deep.zip")[1] == str(archive.MAX_DEPTH + 1)


def test_a_bomb_is_refused_whether_or_not_its_directory_lies(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a", bytes(2 * archive.SMALL_BYTES))
    assert refused(path)[0].startswith("a zip file of at most 200 times its own size")
    whole = path.read_bytes()
    true, small = (n.to_bytes(4, "little") for n in (2 * archive.SMALL_BYTES, 1000))
    path.write_bytes(whole.replace(true, small))
    refused(path)
    assert not list(tmp_path.glob("medic-ad-*"))


def test_a_zip_within_a_zip_stays_packed(tmp_path: Path, series: Path) -> None:
    inner = pack(tmp_path / "inner.zip", series)
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as out:
        out.write(inner, "inner.zip")
    expected, came, _ = refused(tmp_path / "outer.zip")
    assert expected == "the files of one DICOM series"
    assert came == "1 file(s) (1 file(s) that are not DICOM left out)"


def test_damaged_and_encrypted_zips_are_refused(tmp_path: Path, series: Path) -> None:
    path = pack(tmp_path / "a.zip", series)
    whole = path.read_bytes()
    for part in (0.3, 0.7, 0.95):
        path.write_bytes(whole[: int(part * len(whole))])
        assert "complete zip file" in refused(path)[0]
    spoilt = bytearray(whole)
    spoilt[200:260] = bytes(60)
    path.write_bytes(spoilt)
    assert "complete zip file" in refused(path)[0]
    locked = bytearray(whole)
    for at in range(len(locked) - 4):  # the flag of encryption in both of an entry's headers
        if locked[at : at + 4] in (b"PK\x03\x04", b"PK\x01\x02"):
            locked[at + (6 if locked[at + 2] == 3 else 8)] |= 1
    path.write_bytes(locked)
    assert "without a password" in refused(path)[0]
