"""Step 1 of the road: a DICOM file or series folder -> Image, through pydicom."""

from __future__ import annotations

import datetime
import hashlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    MRImageStorage,
)

from medic_ad.errors import MedicADError, ReadError, StudyError
from medic_ad.image import Image, Source, check_grid, same_modality
from medic_ad.readers.common import cause, sha256_of
from medic_ad.readers.dicom_files import (
    DicomFile,
    files_among,
    is_directory,
    open_file,
    read_dataset,
    series_paths,
)
from medic_ad.readers.dicom_geometry import lone_affine, planes_of, projection_spacing, stack
from medic_ad.readers.dicom_pixels import check_samples, decode, kind_of
from medic_ad.readers.dicom_window import choose_window

MAX_WARNINGS = 3  # of the library, kept in the notes of an image
DATES_APART = datetime.timedelta(days=3)  # of a study and its series; a longer way is a doubt
# What may tell two images at one place apart, for messages.
_TELL_APART = (
    "EchoTime",
    "RepetitionTime",
    "InversionTime",
    "FlipAngle",
    "TriggerTime",
    "TemporalPositionIdentifier",
    "AcquisitionNumber",
    "AcquisitionTime",
    "ConvolutionKernel",
    "ImageType",
    "InstanceNumber",
    "SOPInstanceUID",
)
# The one modality of a SOP class (PS3.3 A.2, A.3, A.4, A.26, A.36, A.38).
_MODALITY_OF: dict[str | None, str] = {
    CTImageStorage: "CT",
    EnhancedCTImageStorage: "CT",
    MRImageStorage: "MR",
    EnhancedMRImageStorage: "MR",
    ComputedRadiographyImageStorage: "CR",
    DigitalXRayImageStorageForPresentation: "DX",
    DigitalXRayImageStorageForProcessing: "DX",
}
_NOT_PICTURES = {"SEG": "a segmentation", "RTDOSE": "a dose grid"}


def read_file(path: Path) -> Image:
    """Read one DICOM file: an image, a volume of several frames, or a DICOMDIR of one series.

    Raises:
        ReadError: if it holds no picture of a patient that can be decoded.
    """

    def read() -> Image:
        file = open_file(path)
        return _read_series(path) if is_directory(file.header) else _assemble(path, [file], [])

    return _guarded(path, read)


def read_series(folder: Path) -> Image:
    """Read the one DICOM series that lies in a folder or a zip file, in the order of its positions.

    Raises:
        ReadError: if there is no series, or its slices do not make one volume.
        StudyError: if files of several patients or series are mixed.
    """
    return _guarded(folder, lambda: _read_series(folder))


def _guarded(path: Path, read: Callable[[], Image]) -> Image:
    """Put what pydicom warns of into the notes, and what it raises into one error."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            image = read()
    except MedicADError:
        raise
    except Exception as error:  # damaged files make pydicom raise many kinds
        raise ReadError(
            f"{path}: expected a complete DICOM image, came one that cannot be read "
            f"({cause(error)}); copy or export it again."
        ) from error
    said = list(dict.fromkeys(" ".join(str(w.message).split())[:160] for w in caught))
    notes = [f"pydicom: {text}" for text in said[:MAX_WARNINGS]]
    if more := len(said) - len(notes):
        notes.append(f"pydicom: {more} more warning(s)")
    source = image.source
    return replace(image, source=replace(source, notes=(*source.notes, *notes)))


def _read_series(folder: Path) -> Image:
    with series_paths(folder) as paths:
        return _read_files(folder, paths)


def _read_files(folder: Path, paths: list[Path]) -> Image:
    notes: list[str] = []
    files = files_among(paths)
    if other := len(paths) - len(files):
        notes.append(f"{other} file(s) that are not DICOM left out")
    pictures = [
        f for f in files if "Rows" in f.header and f.header.get("Modality") not in _NOT_PICTURES
    ]
    if without := len(files) - len(pictures):
        notes.append(f"{without} DICOM object(s) without a picture left out")
    slices = [f for f in pictures if "LOCALIZER" not in (f.header.get("ImageType") or ())]
    if localisers := len(pictures) - len(slices):
        notes.append(f"{localisers} localiser(s) left out")
    if not slices:
        came = f"{len(paths)} file(s)" + (f" ({'; '.join(notes)})" if notes else "")
        raise ReadError(
            f"{folder}: expected the files of one DICOM series, came {came}; give "
            "the folder in which the slices lie, or one file."
        )
    _check_one_series(folder, [f.header for f in slices])
    return _assemble(folder, slices, notes)


def _check_one_series(folder: Path, headers: list[Dataset]) -> None:
    patients = {str(header.get("PatientID") or "") for header in headers}
    if len(patients) > 1:
        raise StudyError(
            f"{folder}: expected one patient in a folder, came {len(patients)} patient ids; put "
            "each patient's series into a folder of its own."
        )
    dates = sorted({text for header in headers if (text := _text(header, "StudyDate"))})
    studies = {text for header in headers if (text := _text(header, "StudyInstanceUID"))}
    if len(dates) > 1 or len(studies) > 1:
        what = "study date" if len(dates) > 1 else "study"
        came = f"{len(dates)} ({', '.join(dates[:4])})" if len(dates) > 1 else f"{len(studies)}"
        raise StudyError(
            f"{folder}: expected one {what} in a folder, came {came}; put each study into a folder "
            "of its own and give the earlier one as --prior."
        )
    series = {
        str(header.get("SeriesInstanceUID")): str(header.get("SeriesDescription") or "unnamed")
        for header in headers
    }
    if len(series) > 1:
        raise StudyError(
            f"{folder}: expected one series in a folder, came {len(series)} "
            f"({', '.join(sorted(series.values())[:4])}); put each series into a folder of its "
            "own."
        )


def _check_picture(file: DicomFile, first: Dataset) -> None:
    """Refuse what is no picture by its header, before any pixel is decoded."""
    header = file.header
    if (what := _NOT_PICTURES.get(str(header.get("Modality")))) is not None:
        raise ReadError(
            f"{file.path}: expected a picture of a patient, came {what} ({kind_of(header)}); "
            "give the images that it belongs to."
        )
    if not header.get("Rows") or not header.get("Columns"):
        raise ReadError(
            f"{file.path}: expected a DICOM image, came {kind_of(header)} without pixel data; "
            "give a file that holds an image, or copy it again if it was cut off."
        )
    if "TotalPixelMatrixColumns" in header and file.frames > 1:
        raise ReadError(
            f"{file.path}: expected an image or a volume, came a tiled image ({kind_of(header)});"
            " export the region to read as one frame."
        )
    said, due = _text(header, "Modality"), _MODALITY_OF.get(_text(header, "SOPClassUID"))
    if said is not None and due is not None and not same_modality(said, due):
        raise ReadError(
            f"{file.path}: expected the modality {due} of its SOP class ({kind_of(header)}), came "
            f"{said}; correct whichever of the two is wrong."
        )
    check_samples(header, str(file.path))
    if (header.Rows, header.Columns) != (first.Rows, first.Columns):
        raise ReadError(
            f"{file.path}: expected {first.Rows} x {first.Columns} pixels like the other slices, "
            f"came {header.Rows} x {header.Columns}; leave only the slices of one stack."
        )


def _assemble(path: Path, files: list[DicomFile], notes: list[str]) -> Image:
    """Files of one series -> Image: geometry from the headers first, then pixel data."""
    first = files[0].header
    for file in files:
        _check_picture(file, first)
    size, count = (int(first.Rows), int(first.Columns)), sum(f.frames for f in files)
    check_grid((count, *size) if count > 1 else size, str(path))
    owner = [(number, frame) for number, f in enumerate(files) for frame in range(f.frames)]
    layout = _lay_out(path, files)
    notes += layout.notes
    for number, place in enumerate(layout.places, start=1):
        if len(place) > 1:
            (a, first_frame), (b, second_frame) = (owner[index] for index in place[:2])
            raise _two_at_one_place(path, number, (files[a], first_frame), (files[b], second_frame))
    place_of = {index: n for n, (index,) in enumerate(layout.places)}

    pixels = np.empty((len(layout.places), *size), dtype=np.float32)
    rescales: set[tuple[float, float]] = set()
    mirror: float | None = None
    index = 0
    for number, file in enumerate(files):
        decoded = decode(read_dataset(file.path), str(file.path))
        notes += decoded.notes
        rescales.update(decoded.rescales)
        mirror = decoded.mirror if number == 0 else mirror
        for values in decoded.pixels:
            pixels[place_of[index]] = values
            index += 1
    if len(rescales) == 1:
        notes.append("rescale applied (slope {:g}, intercept {:g})".format(*rescales.pop()))
    elif rescales:
        notes.append("rescale applied (slope and intercept of each slice)")
    window, note = choose_window(first, mirror)
    notes += [note] if note else []
    shown = [owner[index] for (index,) in layout.places]  # file and frame of each slice
    ordered = dict.fromkeys(number for number, _ in shown)
    source = _source(path, [files[number] for number in ordered], notes)
    if len(files) == 1 and len(shown) > 1:
        source = replace(source, frames=tuple(frame + 1 for _, frame in shown))
    return Image(
        pixels=pixels[0] if len(layout.places) == 1 else pixels,
        affine=layout.affine,
        spacing_mm=layout.spacing,
        modality=_text(first, "Modality"),
        body_part=(_text(first, "BodyPartExamined") or "").upper() or None,
        window=window,
        directions=None if layout.affine is not None else _directions(first),
        source=source,
    )


def _two_at_one_place(
    path: Path, number: int, one: tuple[DicomFile, int], other: tuple[DicomFile, int]
) -> ReadError:
    """Which two images lie at one place, and what tells them apart."""
    (a, first), (b, second) = one, other
    if a is b:
        came = f"frames {first + 1} and {second + 1} of one file"
    else:
        came = f"{a.path.name} and {b.path.name}"
        differ = [k for k in _TELL_APART if a.header.get(k) != b.header.get(k)]
        came += (
            f", which differ in {', '.join(differ)}," if differ else ", two copies of one image,"
        )
    return ReadError(
        f"{path}: expected one image at each place, came {came} at slice {number}; leave only "
        "one of them (one echo, time or reconstruction)."
    )


@dataclass(frozen=True)
class _Layout:
    """Frame indices at each slice place, and the geometry as far as the files give it."""

    places: tuple[tuple[int, ...], ...]
    affine: NDArray[np.float64] | None
    spacing: tuple[float, ...] | None
    notes: tuple[str, ...]


def _lay_out(path: Path, files: list[DicomFile]) -> _Layout:
    planes = [plane for file in files for plane in planes_of(file.header)]
    known = [plane for plane in planes if plane is not None]
    in_order = tuple((index,) for index in range(len(planes)))
    if len(planes) == 1:
        if known:
            return _Layout(in_order, lone_affine(known[0]), known[0].spacing, ())
        spacing, note = projection_spacing(files[0].header)
        return _Layout(in_order, None, spacing, (note,) if note else ())
    if len(known) == len(planes):
        stacked = stack(known, str(path))
        lone = len(stacked.places) == 1
        return _Layout(
            stacked.places,
            stacked.affine,
            stacked.spacing[1:] if lone else stacked.spacing,
            stacked.notes,
        )
    if len(files) > 1:
        raise ReadError(
            f"{path}: expected slices with position, orientation and pixel spacing, came "
            f"{len(planes) - len(known)} of {len(planes)} without; give one file at a time."
        )
    note = f"{len(planes)} frames without positions, stacked in the order of the file"
    return _Layout(in_order, None, None, (note,))


def _source(path: Path, files: list[DicomFile], notes: list[str]) -> Source:
    header = files[0].header
    hashes = [sha256_of(file.path) for file in files]
    joined = hashlib.sha256("".join(hashes).encode()).hexdigest()
    sex = _text(header, "PatientSex")
    return Source(
        path=str(path),
        sha256=hashes[0] if len(hashes) == 1 else joined,
        format="DICOM",
        patient_id=_text(header, "PatientID"),
        patient_name=_text(header, "PatientName"),
        sex=sex if sex in ("M", "F") else None,
        birth_date=_date(header, "PatientBirthDate"),
        study_date=_date(header, "StudyDate"),
        sop_instance_uids=tuple(
            uid for file in files if (uid := _text(file.header, "SOPInstanceUID"))
        ),
        series_instance_uid=_text(header, "SeriesInstanceUID"),
        study_instance_uid=_text(header, "StudyInstanceUID"),
        frame_of_reference_uid=_text(header, "FrameOfReferenceUID"),
        sop_class_uid=_text(header, "SOPClassUID"),
        series_description=_text(header, "SeriesDescription"),
        laterality=_text(header, "ImageLaterality") or _text(header, "Laterality"),
        view=_text(header, "ViewPosition"),
        notes=tuple(dict.fromkeys(notes)),
        doubts=tuple(_doubts_on_dates(header)),
    )


def _date(header: Dataset, keyword: str) -> datetime.date | None:
    try:
        text = _text(header, keyword) or ""
        return datetime.datetime.strptime(text.replace(".", ""), "%Y%m%d").date()
    except ValueError:
        return None


def _doubts_on_dates(header: Dataset) -> Iterator[str]:
    """A study date that is none, or that other dates of the same header contradict."""
    text, date = _text(header, "StudyDate"), _date(header, "StudyDate")
    if date is None and text is not None:
        yield f"the study date in the file, {text!r}, is no date: taken as unknown"
    others = {k: _date(header, k) for k in ("SeriesDate", "AcquisitionDate")}
    apart = [
        f"{keyword} {other}"
        for keyword, other in others.items()
        if date is not None and other is not None and abs(other - date) > DATES_APART
    ]
    if apart:
        came = " and ".join(apart)
        yield f"the file contradicts its study date {date} by {came}: the former holds"


def _directions(header: Dataset) -> tuple[str, str] | None:
    """Patient Orientation: towards which side rows (+w) and columns (+h) run."""
    values = header.get("PatientOrientation")
    if values is None or isinstance(values, str) or len(values) != 2:
        return None
    right, down = str(values[0])[:1], str(values[1])[:1]
    return (right, down) if set(right + down) <= set("LRAPHF") and right and down else None


def _text(header: Dataset, keyword: str) -> str | None:
    value = header.get(keyword)
    text = "" if value is None else str(value).strip()
    return text or None
