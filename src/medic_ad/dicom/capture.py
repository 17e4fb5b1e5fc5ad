"""Step 6 of the road, DICOM out: the picture of the report, for viewers without segmentations."""

from __future__ import annotations

import io

import numpy as np
from highdicom.sc import SCImage
from PIL import Image as Pillow
from pydicom.dataset import Dataset

from medic_ad.dicom.identity import instance
from medic_ad.dicom.sources import Sources
from medic_ad.report import Report
from medic_ad.report.figure import overlay_png


def secondary_capture(report: Report, sources: Sources) -> SCImage:
    """overlay.png as a Secondary Capture image in RGB that names its source instances."""
    with Pillow.open(io.BytesIO(overlay_png(report))) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    first = sources.first
    made = SCImage(
        pixel_array=pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        study_instance_uid=first.StudyInstanceUID,
        patient_id=first.PatientID,
        patient_name=first.PatientName,
        patient_birth_date=first.PatientBirthDate,
        patient_sex=first.PatientSex,
        accession_number=first.AccessionNumber,
        study_id=first.StudyID,
        study_date=first.StudyDate,
        study_time=first.StudyTime,
        referring_physician_name=first.ReferringPhysicianName,
        **instance(report, "SC", "overlay", 1),
    )
    made["PatientOrientation"].value = None  # several panels: the letters are drawn into each
    made.BurnedInAnnotation = "YES"  # dates and words; names never
    made.Laterality = first.get("Laterality")
    made.SourceImageSequence = [_reference(header) for header in sources.headers]
    return made


def _reference(header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    return item
