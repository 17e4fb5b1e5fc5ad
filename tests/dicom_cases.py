"""DICOM files of every axis order with one bright planted voxel, and what is written of them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import report_cases
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from medic_ad.image import Image
from medic_ad.report import Report
from medic_ad.study import Study

SHAPE = (4, 20, 17)  # slices, rows, columns of a file
MARKER = (3, 2, 14)  # of them
MARKED = (slice(2, 4), slice(1, 4), slice(13, 16))  # a block around it, of 18 voxels
SPACING = (2.5, 0.7, 0.9)  # mm
ORIGIN = np.array([-31.25, 12.5, 77.75])
PHOTOMETRIC = ("MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "PALETTE COLOR")
LAYOUTS = ("series", "frames", "slice")
AXES = [  # columns: patient directions of a step by a slice, a row, a column
    np.array([np.eye(3)[axis] * sign for axis, sign in zip(order, signs, strict=True)]).T
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def planted_mm(axes: np.ndarray) -> np.ndarray:
    """LPS position of the marker by PS3.3 C.7.6.2.1.1, from the numbers of the file."""
    return ORIGIN + axes @ (np.array(MARKER) * SPACING)


def write(folder: Path, axes: np.ndarray, photometric: str, layout: str) -> Path:
    """The files of one case; of a `slice` only the one with the marker."""
    grey = np.full(SHAPE, 60, np.uint8)
    grey[MARKED] = 240
    series = _header(photometric)
    series.ImageOrientationPatient = [*axes[:, 2], *axes[:, 1]]
    series.PixelSpacing, series.SliceThickness = list(SPACING[1:]), SPACING[0]
    places = [list(ORIGIN + axes[:, 0] * SPACING[0] * number) for number in range(SHAPE[0])]
    if layout == "frames":
        return _save(folder / "frames.dcm", _enhanced(series, places), _stored(grey, photometric))
    for number, place in enumerate(places):
        if layout == "series" or number == MARKER[0]:
            one = Dataset()
            one.update(series)
            one.ImagePositionPatient, one.SOPInstanceUID = place, generate_uid()
            _save(folder / f"{number}.dcm", one, _stored(grey[number], photometric))
    return folder if layout == "series" else folder / f"{MARKER[0]}.dcm"


def marked_report(image: Image) -> Report:
    """A report whose heatmap is where the image is bright."""
    high = image.pixels > (image.pixels.min() + image.pixels.max()) / 2
    heatmap = np.where(high, 0.9, 0.1).astype(np.float32)
    signed = np.where(high, 0.8, -0.2).astype(np.float32)
    change = report_cases.make_change(image.grid, map=signed)
    source = image.source
    study = Study(image, source.patient_id, source.study_date, priors=(Study(image),))
    return report_cases.make_report(study=study, heatmap=heatmap, change=change)


def texts(made: Dataset) -> set[str]:
    """All text values of a structured report."""
    return {str(element.value) for element in made.iterall() if element.keyword == "TextValue"}


def _header(photometric: str) -> Dataset:
    made = Dataset()
    made.PatientName, made.PatientID = "Made^By^Test", "P1"
    made.PatientBirthDate, made.PatientSex = "19700101", "O"
    made.StudyDate, made.StudyTime, made.StudyID, made.AccessionNumber = "20240531", "1200", "1", ""
    made.ReferringPhysicianName = ""
    made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
    made.FrameOfReferenceUID, made.PositionReferenceIndicator = generate_uid(), ""
    made.Modality, made.BodyPartExamined, made.SOPInstanceUID = "MR", "BRAIN", generate_uid()
    made.SOPClassUID, made.SeriesNumber, made.InstanceNumber = MRImageStorage, 1, 1
    made.Rows, made.Columns = SHAPE[1:]
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    made.PhotometricInterpretation = photometric
    made.SamplesPerPixel = 3 if photometric in ("RGB", "YBR_FULL") else 1
    if made.SamplesPerPixel == 3:
        made.PlanarConfiguration = 0
    if photometric == "PALETTE COLOR":
        ramp = (np.arange(256, dtype="<u2") * 257).tobytes()
        for colour in ("Red", "Green", "Blue"):
            setattr(made, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
            setattr(made, f"{colour}PaletteColorLookupTableData", ramp)
    return made


def _enhanced(series: Dataset, places: list[list[float]]) -> Dataset:
    def group(**items: Any) -> Dataset:
        made = Dataset()
        for name, (keyword, value) in items.items():
            inner = Dataset()
            setattr(inner, keyword, value)
            setattr(made, name, [inner])
        return made

    made = Dataset()
    made.update(series)
    shared = group(
        PlaneOrientationSequence=("ImageOrientationPatient", made.ImageOrientationPatient),
        PixelMeasuresSequence=("PixelSpacing", made.PixelSpacing),
    )
    shared.PixelMeasuresSequence[0].SliceThickness = made.SliceThickness
    for keyword in ("ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(made, keyword)
    made.SOPClassUID, made.NumberOfFrames = EnhancedMRImageStorage, len(places)
    made.SharedFunctionalGroupsSequence = [shared]
    made.PerFrameFunctionalGroupsSequence = [
        group(PlanePositionSequence=("ImagePositionPatient", place)) for place in places
    ]
    return made


def _stored(grey: np.ndarray, photometric: str) -> np.ndarray:
    """The bytes of a grey picture in a photometric interpretation."""
    if photometric == "MONOCHROME1":
        return 255 - grey
    if photometric == "RGB":
        return np.stack([grey] * 3, axis=-1)
    if photometric == "YBR_FULL":
        neutral = np.full_like(grey, 128)
        return np.stack([grey, neutral, neutral], axis=-1)
    return grey


def _save(path: Path, header: Dataset, pixels: np.ndarray) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = header.SOPClassUID
    meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), header, file_meta=meta, preamble=b"\0" * 128)
    file.PixelData = pixels.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)
    return path
