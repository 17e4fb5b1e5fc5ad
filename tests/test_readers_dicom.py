"""DICOM: pixels in real units, slices in their places, every test file read or refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import MRImageStorage, generate_uid
from sentence import said

from medic_ad.errors import MedicADError, ReadError, StudyError
from medic_ad.image import Image
from medic_ad.readers import read_image

ORIENTATION = [0.96, 0.28, 0.0, -0.28, 0.96, 0.0]  # axial, turned in its plane
NORMAL = np.array([0.0, 0.0, 1.0])
FIRST, STEP = np.array([-30.0, -42.0, 55.0]), 2.5
BRIGHT = {2: (5, 40), 9: (60, 3)}  # slice -> planted (row, column)


def dataset(name: str) -> pydicom.Dataset:
    path = get_testdata_file(name)
    assert isinstance(path, str)
    return pydicom.dcmread(path)


def slices(count: int = 12, step: Any = STEP * NORMAL) -> list[pydicom.Dataset]:
    """A series of real MR headers with noise, and two planted bright pixels."""
    series, made = generate_uid(), []
    for number in range(count):
        ds = dataset("MR_small.dcm")
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.SeriesInstanceUID = series
        ds.SeriesDescription = "T1"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.ImageOrientationPatient = ORIENTATION
        ds.ImagePositionPatient = [round(float(v), 6) for v in FIRST + number * np.asarray(step)]
        pixels = np.random.default_rng(number).integers(0, 200, (64, 64)).astype(np.int16)
        if number in BRIGHT:
            pixels[BRIGHT[number]] = 1000 + number
        ds.PixelData = pixels.tobytes()
        made.append(ds)
    return made


def save(folder: Path, datasets: list[pydicom.Dataset]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, ds in enumerate(datasets):
        ds.save_as(folder / f"{number:03}.dcm")
    return folder


def positions(image: Image) -> dict[int, np.ndarray]:
    """LPS position of each planted pixel as the image's matrix says."""
    assert image.affine is not None
    return {
        number: (image.affine @ [*np.argwhere(image.pixels == 1000 + number)[0], 1])[:3]
        for number in BRIGHT
    }


def planted(step: Any = STEP * NORMAL) -> dict[int, np.ndarray]:
    """LPS position of each planted pixel by DICOM's own formula (PS3.3 C.7.6.2.1.1)."""
    rows, columns = dataset("MR_small.dcm").PixelSpacing
    along_w, along_h = np.array(ORIENTATION[:3]), np.array(ORIENTATION[3:])
    return {
        n: FIRST + n * np.asarray(step) + along_w * columns * column + along_h * rows * row
        for n, (row, column) in BRIGHT.items()
    }


@pytest.mark.parametrize("order", ["sorted", "reversed", "shuffled"])
def test_series_in_any_file_order(tmp_path: Path, order: str) -> None:
    made = slices()
    files = {
        "sorted": made,
        "reversed": made[::-1],
        "shuffled": [made[i] for i in np.random.default_rng(0).permutation(12)],
    }[order]
    image = read_image(save(tmp_path / "s", files))
    assert image.grid == (12, 64, 64)
    found, truth = positions(image), planted()
    for number in BRIGHT:
        np.testing.assert_allclose(found[number], truth[number], atol=1e-4)
    np.testing.assert_array_equal(image.pixels, [ds.pixel_array for ds in made])
    assert image.source.sop_instance_uids == tuple(ds.SOPInstanceUID for ds in made)
    assert image.spacing_mm == pytest.approx((STEP, 0.3125, 0.3125))


def test_series_agrees_with_highdicom(tmp_path: Path) -> None:
    made = slices()
    image = read_image(save(tmp_path / "s", made))
    volume = highdicom.get_volume_from_series(made, apply_real_world_transform=False)
    for number in BRIGHT:
        at = np.argwhere(volume.array == 1000 + number)[0]
        reference = (volume.affine @ [*at, 1])[:3]
        np.testing.assert_allclose(positions(image)[number], reference, atol=1e-4)


def test_hash_of_a_series_follows_slices_not_files(tmp_path: Path) -> None:
    made = slices(4)
    one = read_image(save(tmp_path / "a", made)).source.sha256
    assert read_image(save(tmp_path / "b", made[::-1])).source.sha256 == one
    assert read_image(save(tmp_path / "c", made[:3])).source.sha256 != one


def test_tilted_gantry_is_a_sheared_matrix(tmp_path: Path) -> None:
    step = np.array([0.0, 0.9, 2.4])
    image = read_image(save(tmp_path / "s", slices(step=step)))
    found, truth = positions(image), planted(step)
    for number in BRIGHT:
        np.testing.assert_allclose(found[number], truth[number], atol=1e-4)
    assert image.spacing_mm is not None and image.spacing_mm[0] == pytest.approx(2.4)
    assert any("sheared" in note for note in image.source.notes)


def test_gap_is_refused_and_located(tmp_path: Path) -> None:
    made = slices()
    with pytest.raises(ReadError) as caught:
        read_image(save(tmp_path / "s", made[:5] + made[7:]))
    expected, came, remedy = said(caught)
    assert expected == "a series without gaps"
    assert "2 slice(s) missing, the first between slices 5 and 6 of 10" in came
    assert "7.50 mm apart, usually 2.50 mm" in came and remedy == "give the complete series"


def test_irregular_places_are_refused(tmp_path: Path) -> None:
    made = slices()
    made[6].ImagePositionPatient[2] += 0.9
    with pytest.raises(ReadError, match="regular places"):
        read_image(save(tmp_path / "s", made))


def test_a_copy_of_a_slice_is_refused(tmp_path: Path) -> None:
    made = slices()
    with pytest.raises(ReadError) as caught:
        read_image(save(tmp_path / "s", [*made, made[4]]))
    expected, came, remedy = said(caught)
    assert expected == "one image at each place" and remedy.startswith("leave only one")
    assert came == "004.dcm and 012.dcm, two copies of one image, at slice 5"


def test_two_images_at_one_place_are_refused_and_told_apart(tmp_path: Path) -> None:
    for number, empty in enumerate((True, False)):  # whether the pixels differ does not matter
        made = slices()
        echo = slices()[4]
        echo.SeriesInstanceUID, echo.EchoTime = made[0].SeriesInstanceUID, 80
        if empty:
            echo.PixelData = bytes(len(echo.PixelData))
        with pytest.raises(ReadError) as caught:
            read_image(save(tmp_path / str(number), [*made, echo]))
        expected, came, _ = said(caught)
        assert expected == "one image at each place"
        assert "differ in EchoTime, SOPInstanceUID, at slice 5" in came


def test_a_series_of_several_dates_or_studies_is_refused(tmp_path: Path) -> None:
    made = slices()
    for ds in made[7:]:
        ds.StudyDate = "20250704"
    made[0].StudyDate = ""  # a date that is not said contradicts none
    with pytest.raises(StudyError) as caught:
        read_image(save(tmp_path / "dates", made))
    assert said(caught)[:2] == ("one study date in a folder", "2 (20040826, 20250704)")
    made = slices()
    for ds in made[:3]:
        ds.StudyInstanceUID = generate_uid()
    with pytest.raises(StudyError) as caught:
        read_image(save(tmp_path / "studies", made))
    assert said(caught)[:2] == ("one study in a folder", "4")


@pytest.mark.parametrize("own_series", [True, False])
def test_localiser_is_left_out_and_noted(tmp_path: Path, own_series: bool) -> None:
    made = slices()
    scout = slices(1)[0]
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    if not own_series:
        scout.SeriesInstanceUID = made[0].SeriesInstanceUID
    image = read_image(save(tmp_path / "s", [scout, *made]))
    assert image.grid == (12, 64, 64)
    assert "1 localiser(s) left out" in image.source.notes


def test_other_orientation_size_series_and_patient_are_refused(tmp_path: Path) -> None:
    def other(**change: Any) -> pydicom.Dataset:
        ds = slices(1)[0]
        ds.SeriesInstanceUID = made[0].SeriesInstanceUID
        for keyword, value in change.items():
            setattr(ds, keyword, value)
        return ds

    made = slices(5)
    turned = other(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    small = other(Rows=32, PixelData=made[0].PixelData[: 64 * 64])
    series = other(SeriesInstanceUID=generate_uid(), SeriesDescription="T2")
    patient = other(PatientID="another")
    nowhere = other()
    del nowhere.ImagePositionPatient
    cases: list[tuple[pydicom.Dataset, type[MedicADError], str]] = [
        (turned, ReadError, "slices of one direction and pixel size"),
        (small, ReadError, "64 x 64 pixels like the other slices"),
        (series, StudyError, "one series in a folder"),
        (patient, StudyError, "one patient in a folder"),
        (nowhere, ReadError, "slices with position, orientation and pixel spacing"),
    ]
    for number, (ds, kind, expectation) in enumerate(cases):
        with pytest.raises(kind) as caught:
            read_image(save(tmp_path / str(number), [*made, ds]))
        assert said(caught)[0] == expectation


def test_folder_without_dicom_and_with_other_files(tmp_path: Path) -> None:
    folder = save(tmp_path / "s", slices(3))
    (folder / "notes.txt").write_text("read me")
    assert "1 file(s) that are not DICOM left out" in read_image(folder).source.notes
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReadError) as caught:
        read_image(tmp_path / "empty")
    assert said(caught)[:2] == ("the files of one DICOM series", "0 file(s)")


def test_single_slice_has_hounsfield_units_place_and_identity() -> None:
    ds = dataset("CT_small.dcm")
    image = read_image(str(get_testdata_file("CT_small.dcm")))
    np.testing.assert_array_equal(image.pixels, ds.pixel_array + float(ds.RescaleIntercept))
    assert image.affine is not None and image.modality == "CT"
    np.testing.assert_allclose(image.affine[:3, 3], ds.ImagePositionPatient)
    assert image.source.patient_id == ds.PatientID and str(image.source.study_date) == "2004-01-19"
    assert image.source.sop_instance_uids == (ds.SOPInstanceUID,)
    assert image.side_letters() == {"left": "R", "right": "L", "top": "A", "bottom": "P"}


def test_monochrome1_is_inverted_with_its_window(tmp_path: Path) -> None:
    ds = dataset("MR_small.dcm")
    plain = read_image(str(get_testdata_file("MR_small.dcm")))
    assert plain.window == (600, 1600)
    ds.PhotometricInterpretation = "MONOCHROME1"
    ds.RescaleSlope, ds.RescaleIntercept = 2, 10
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, 0
    ds.save_as(tmp_path / "m1.dcm")
    image = read_image(tmp_path / "m1.dcm")
    np.testing.assert_array_equal(image.pixels, 2 * (4095 - ds.pixel_array) + 10)
    assert image.window == (10 + 2 * 4095 + 10 - 600, 1600)
    assert "MONOCHROME1 inverted" in image.source.notes


def test_the_window_of_several_fits_the_body_part_of_a_ct_and_is_recorded(tmp_path: Path) -> None:
    def shown(**change: Any) -> tuple[Any, str]:
        ds = dataset("CT_small.dcm")
        for keyword, value in change.items():
            setattr(ds, keyword, value)
        ds.save_as(tmp_path / "ct.dcm")
        image = read_image(tmp_path / "ct.dcm")
        return image.window, next(note for note in image.source.notes if "window" in note)

    several = {
        "WindowCenter": [500, -600, 40],
        "WindowWidth": [3000, 1500, 80],
        "WindowCenterWidthExplanation": ["BONE", "LUNG", "BRAIN"],
    }
    window, note = shown(BodyPartExamined="HEAD", **several)
    assert window == (40, 80)
    assert note == "declares 3 windows, shown with number 3 (BRAIN), centre 40, width 80"
    assert shown(BodyPartExamined="CHEST", **several)[0] == (-600, 1500)
    assert shown(Modality="MR", SOPClassUID=MRImageStorage, **several)[0] == (500, 3000)
    assert shown(WindowCenter=None, WindowWidth=None, BodyPartExamined="HEAD") == (
        (40, 80),
        "declares no window: shown as CT of HEAD, centre 40, width 80",
    )
    assert shown(WindowCenter=10, WindowWidth=20, BodyPartExamined="HEAD")[0] == (10, 20)


def test_hounsfield_units_are_not_inverted(tmp_path: Path) -> None:
    ds = dataset("CT_small.dcm")
    ds.PhotometricInterpretation = "MONOCHROME1"
    ds.save_as(tmp_path / "ct.dcm")
    plain = read_image(str(get_testdata_file("CT_small.dcm")))
    image = read_image(tmp_path / "ct.dcm")
    np.testing.assert_array_equal(image.pixels, plain.pixels)
    assert "MONOCHROME1 with values in HU: not inverted" in image.source.notes


def test_enhanced_multi_frame_agrees_with_highdicom(shared_data: Path) -> None:
    path = shared_data / "dicom/pydicom-data/eCT_Supplemental.dcm"
    image = read_image(path)
    volume = highdicom.imread(path).get_volume(
        apply_real_world_transform=False, apply_palette_color_lut=False, apply_icc_profile=False
    )
    assert image.affine is not None and image.window == (49, 102)
    for index in ((0, 0, 0), (0, 100, 30), (1, 511, 17)):
        place = image.affine @ [*index, 1]
        there = np.rint(np.linalg.inv(volume.affine) @ place).astype(int)[:3]
        np.testing.assert_allclose(volume.affine @ [*there, 1], place, atol=1e-3)
        assert volume.array[tuple(there)] == image.pixels[index]


def test_frames_without_places_and_colour(shared_data: Path) -> None:
    mr = read_image(shared_data / "dicom/pydicom-data/emri_small.dcm")
    assert mr.grid == (10, 64, 64) and mr.affine is None and mr.spacing_mm is None
    assert any("frames without positions" in note for note in mr.source.notes)
    us = read_image(str(get_testdata_file("examples_rgb_color.dcm")))
    rgb = dataset("examples_rgb_color.dcm").pixel_array
    np.testing.assert_allclose(us.pixels, rgb @ [0.299, 0.587, 0.114], atol=1e-3)


def test_radiograph_has_sides_but_no_place(shared_data: Path) -> None:
    image = read_image(shared_data / "dicom/pydicom-data/RG1_J2KI.dcm")
    assert image.affine is None and image.body_part == "CHEST"
    assert image.side_letters() == {"left": "R", "right": "L", "top": "H", "bottom": "F"}


def test_file_without_transfer_syntax_is_read_as_it_was_parsed(shared_data: Path) -> None:
    image = read_image(shared_data / "dicom/pydicom-data/OT-PAL-8-face.dcm")
    assert image.grid == (480, 640)
    assert any("no transfer syntax given" in note for note in image.source.notes)


def test_every_file_gives_an_image_or_one_clear_error(shared_data: Path) -> None:
    counts: Counter[str] = Counter()
    for path in sorted((shared_data / "dicom").rglob("*")):
        if not path.is_file():
            continue
        try:
            image = read_image(path)
        except MedicADError as error:
            counts["refused"] += 1
            text = str(error)
            assert text.startswith(f"{path}: expected ") and "\n" not in text
            assert ", came " in text and "; " in text and text.endswith(".")
        else:
            counts["read"] += 1
            assert isinstance(image, Image)
            assert len(image.source.sha256) == 64
    assert counts.total() == 284
    assert counts["read"] == 155  # all that pydicom decodes, but segmentations, doses, < 16 px
