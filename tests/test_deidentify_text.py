"""Text in the pixels: found by class, by tag and by OCR, blacked out, or the file is refused."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.pixels import convert_color_space
from pydicom.uid import SecondaryCaptureImageStorage, UltrasoundImageStorage

pytest.importorskip("dicomanonymizer", reason="the extra `deidentify` is not installed")
pytest.importorskip("pytesseract", reason="the extra `deidentify` is not installed")

from road_cases import planted, write_dicom

from medic_ad.deidentify import burned
from medic_ad.deidentify.burned import suspicion, worth_a_look
from medic_ad.deidentify.run import deidentify

DATE = datetime.date(2024, 5, 31)
needs_tesseract = pytest.mark.skipif(
    not burned.reading_possible(), reason="Debian's package tesseract-ocr is not installed"
)
LINES = ("MUSTERMANN ERIKA", "12.08.1964", "ID 40028922", "KLINIK NORD")


def with_text(path: Path, lines: tuple[str, ...], **tags: object) -> tuple[Path, np.ndarray]:
    """A slice with lines of text in a margin above it, as devices write them, and their pixels."""
    grey = np.pad(planted().current, ((130, 10), (60, 60)))
    picture = Pillow.new("L", grey.shape[::-1])
    import matplotlib

    font = ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", 18)
    for number, line in enumerate(lines):
        ImageDraw.Draw(picture).text((12, 8 + 28 * number), line, fill=255, font=font)
    letters = np.asarray(picture) > 127
    write_dicom(path, np.where(letters, 1.0, grey), "P", DATE)
    dataset = pydicom.dcmread(path)
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.save_as(path)
    return path, letters


@needs_tesseract
@pytest.mark.parametrize(
    "tags",
    [{"SOPClassUID": SecondaryCaptureImageStorage}, {"BurnedInAnnotation": "YES"}],
    ids=["class", "tag"],
)
def test_text_is_blacked_out_and_the_picture_is_not(tmp_path: Path, tags: dict) -> None:
    path, letters = with_text(tmp_path / "a.dcm", LINES, **tags)
    before = pydicom.dcmread(path).pixel_array
    outcome = deidentify(path, tmp_path / "out")
    [made] = (tmp_path / "out").rglob("*.dcm")
    dataset = pydicom.dcmread(made)
    after = dataset.pixel_array
    assert (after[letters] == before.min()).mean() > 0.999
    below = after[140:], before[140:]
    assert (below[0] == below[1]).mean() > 0.97
    assert outcome.cleaned[0].boxes and dataset.BurnedInAnnotation == "NO"
    assert "113101" in [c.CodeValue for c in dataset.DeidentificationMethodCodeSequence]


@needs_tesseract
@pytest.mark.parametrize("kind", ["RGB", "RGB by plane", "YBR_FULL"])
def test_colours_outside_the_text_stay_as_they_were(tmp_path: Path, kind: str) -> None:
    path, letters = with_text(tmp_path / "a.dcm", LINES, SOPClassUID=UltrasoundImageStorage)
    dataset = pydicom.dcmread(path)
    grey = dataset.pixel_array.astype(float)
    grey = grey / grey.max() * 255
    colour = np.stack([grey, grey * 0.7, grey * 0.4], -1).round().astype(np.uint8)
    dataset.set_pixel_data(colour, "RGB", 8, generate_instance_uid=False)
    if kind == "RGB by plane":
        dataset.PlanarConfiguration = 1
        dataset.PixelData = np.moveaxis(colour, -1, 0).tobytes()
    elif kind == "YBR_FULL":
        ybr = convert_color_space(colour, "RGB", "YBR_FULL")
        dataset.set_pixel_data(ybr, "YBR_FULL", 8, generate_instance_uid=False)
    dataset.save_as(path)
    before = pydicom.dcmread(path).pixel_array.astype(int)
    assert abs(before - colour).max() <= 2  # what the file shows is what was drawn
    outcome = deidentify(path, tmp_path / "out")
    [made] = (tmp_path / "out").rglob("*.dcm")
    after = pydicom.dcmread(made).pixel_array.astype(int)
    outside = np.ones(letters.shape, bool)
    for box in outcome.cleaned[0].boxes:
        outside[box.top : box.bottom, box.left : box.right] = False
    assert outcome.cleaned[0].boxes and np.array_equal(after[outside], before[outside])
    assert (after[letters] <= 2).mean() > 0.999


@needs_tesseract
def test_a_picture_said_to_bear_text_in_which_none_is_found_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, tag in (("a", "YES"), ("b", "NO")):
        path, letters = with_text(tmp_path / "in" / f"{name}.dcm", (), BurnedInAnnotation=tag)
        dataset = pydicom.dcmread(path)
        dataset.PixelData = bytes(2 * letters.size)
        dataset.save_as(path)
    outcome = deidentify(tmp_path / "in", tmp_path / "out")
    [refused] = outcome.refused
    assert refused.path.name == "a.dcm" and "came none that OCR could find" in refused.reason
    assert len(outcome.cleaned) == 1


def test_without_ocr_what_may_bear_text_is_refused_and_the_rest_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(burned, "reading_possible", lambda: False)
    (tmp_path / "in").mkdir()
    with_text(tmp_path / "in" / "a.dcm", LINES, SOPClassUID=UltrasoundImageStorage)
    with_text(tmp_path / "in" / "b.dcm", ())
    outcome = deidentify(tmp_path / "in", tmp_path / "out")
    [refused] = outcome.refused
    assert refused.path.name == "a.dcm" and "install tesseract" in refused.reason
    assert len(outcome.cleaned) == 1


def test_who_is_suspected_and_who_is_looked_at(tmp_path: Path) -> None:
    def like(**tags: object) -> Dataset:
        dataset = pydicom.dcmread(write_dicom(tmp_path / "x.dcm", planted().current))
        dataset.ImageType = ["ORIGINAL", "PRIMARY"]
        for keyword, value in tags.items():
            setattr(dataset, keyword, value)
        return dataset

    plain = like()
    assert suspicion(plain) is None and not worth_a_look(plain)
    for tags in (
        {"SOPClassUID": UltrasoundImageStorage},
        {"SOPClassUID": SecondaryCaptureImageStorage},
        {"BurnedInAnnotation": "YES"},
        {"ConversionType": "WSD"},
        {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]},
    ):
        assert suspicion(like(**tags)) is not None, tags
    for tags in ({"Modality": "DX"}, {"ImageType": ["DERIVED", "SECONDARY"]}):
        assert suspicion(like(**tags)) is None and worth_a_look(like(**tags)), tags
