"""Step 6 of the road, DICOM out: the instances that an image was read from, to refer to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom import config, uid
from pydicom.dataset import Dataset
from pydicom.valuerep import validate_value

from medic_ad.errors import MedicADError
from medic_ad.image import Image
from medic_ad.readers.dicom_files import source_headers

# What an object written for a study must say, empty where the source says nothing (type 2).
_OWNER = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "StudyID", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
# What it is identified and laid out by; of a patient's file nothing else is copied.
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
_KEPT = (
    "IssuerOfPatientID", "StudyDescription", "PatientAge", "Modality",
    "Laterality", "InstanceNumber", "NumberOfFrames", "Rows", "Columns", "PixelSpacing",
    "SliceThickness", "PatientOrientation",
)  # fmt: skip
_PLACES = (
    "FrameOfReferenceUID", "PositionReferenceIndicator", "ImagePositionPatient",
    "ImageOrientationPatient", "SpacingBetweenSlices", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
# Classes whose objects must lie in a frame of reference (PS3.3 A); one without it is not marked.
_PLACED_CLASSES = {
    uid.CTImageStorage, uid.MRImageStorage, uid.PositronEmissionTomographyImageStorage,
    uid.EnhancedCTImageStorage, uid.EnhancedMRImageStorage, uid.EnhancedPETImageStorage,
    uid.EnhancedMRColorImageStorage, uid.LegacyConvertedEnhancedCTImageStorage,
    uid.LegacyConvertedEnhancedMRImageStorage, uid.LegacyConvertedEnhancedPETImageStorage,
    uid.RTImageStorage,
}  # fmt: skip
# Classes of one frame; files that hold several all the same must not be referred to by frame.
_ONE_FRAME = {
    uid.SecondaryCaptureImageStorage, uid.CTImageStorage, uid.MRImageStorage,
    uid.ComputedRadiographyImageStorage, uid.UltrasoundImageStorage,
}  # fmt: skip


@dataclass(frozen=True)
class Sources:
    """Instances in slice order, or the one instance whose frames the slices are.

    Attributes:
        headers: without pixel data, reduced to what may be copied or referred to.
        frames: frame number (from 1) of each slice, empty for instances of one frame.
        placed: whether every slice lies in a frame of reference.
    """

    headers: tuple[Dataset, ...]
    frames: tuple[int, ...]
    placed: bool

    @property
    def first(self) -> Dataset:
        return self.headers[0]

    @property
    def can_be_marked(self) -> bool:
        """Whether segmentations can refer to the pixels: placed, or one that needs no place."""
        kind = self.first.SOPClassUID
        if kind.is_retired or kind.is_private:
            return False
        alone = len(self.headers) == 1 and not self.frames
        return self.placed or (alone and kind not in _PLACED_CLASSES)

    def arrange(self, values: np.ndarray) -> np.ndarray:
        """Slices `(D, H, W, ...)` in the order of the instance's frames."""
        if not self.frames:
            return values
        out = np.empty_like(values)
        out[np.array(self.frames) - 1] = values
        return out

    def place(self, index: int) -> tuple[Dataset, int | None]:
        """The instance that slice `index` comes from, and its frame where its class has frames."""
        if self.frames:
            if self.first.SOPClassUID in _ONE_FRAME:
                return self.first, None
            return self.first, self.frames[index]
        return self.headers[index], None


def sources_of(image: Image) -> Sources:
    """The source instances of an image, read again from where it was read.

    Raises:
        MedicADError: if the image is not from DICOM, or its instances are not identified.
    """
    source = image.source
    if source.format != "DICOM":
        raise MedicADError(
            f"{source.path}: expected a study read from DICOM files, came {source.format}, which "
            "belongs to no DICOM study; save the report as HTML and JSON with --out."
        )
    headers = source_headers(source)
    for header in headers:
        missing = [keyword for keyword in _UIDS if not _is_uid(header.get(keyword))]
        if missing:
            raise MedicADError(
                f"{source.path}: expected DICOM instances with all their UIDs, came one without a "
                f"valid {', '.join(missing)}; results cannot refer to it, so save them with --out."
            )
    if len(headers) > 1 and any(int(h.get("NumberOfFrames") or 1) > 1 for h in headers):
        raise MedicADError(
            f"{source.path}: expected slices of one frame each or one file of several frames, came "
            f"{len(headers)} files of several frames; give one of them."
        )
    space = source.frame_of_reference_uid
    # Some files name their study and their space by one UID, which is then neither's.
    own = _is_uid(space) and space not in (source.study_instance_uid, source.series_instance_uid)
    placed = image.affine is not None and own
    return Sources(tuple(_reduced(h, placed) for h in headers), source.frames, placed)


def evidence_of(image: Image) -> list[Dataset]:
    """What identifies the instances of an earlier date, for reference; empty without valid UIDs."""
    source, out = image.source, []
    for instance in source.sop_instance_uids:
        uids = source.study_instance_uid, source.series_instance_uid, instance, source.sop_class_uid
        if all(_is_uid(text) for text in uids):
            made = Dataset()
            for keyword, text in zip(_UIDS, uids, strict=True):
                setattr(made, keyword, text)
            out.append(made)
    return out


def _reduced(header: Dataset, placed: bool) -> Dataset:
    """What may be copied, valid or left out: a new object must not inherit a source's faults."""
    out = Dataset()
    for keyword in (*_UIDS, *_KEPT, *_PLACES):
        if keyword in header and _valid(header[keyword]):
            out[keyword] = header[keyword]
    for keyword in _OWNER:
        good = keyword in header and _valid(header[keyword])
        setattr(out, keyword, header[keyword].value if good else None)
    if out.get("Laterality") not in ("L", "R"):
        out.pop("Laterality", None)
    if out.PatientSex not in ("M", "F", "O"):
        out.PatientSex = None
    if not placed:
        for keyword in _PLACES:
            out.pop(keyword, None)
    if min(out.get("PixelSpacing") or [1]) <= 0:
        del out.PixelSpacing
    return out


def _is_uid(text: str | None) -> bool:
    """Whether a text is a UID of a root that exists (PS3.5 9.1)."""
    return bool(text) and uid.UID(str(text)).is_valid and str(text)[0] in "012"


def _valid(element: Any) -> bool:
    """Whether every value of an element is one of its VR."""
    if element.VR == "SQ":
        return True
    values = element.value if element.VM > 1 else [element.value]
    try:
        for value in values:
            if value is not None:
                text = str(value) if element.VR in ("DS", "IS", "UI", "PN") else value
                validate_value(element.VR, text, config.RAISE)
    except (ValueError, TypeError):
        return False
    return True
