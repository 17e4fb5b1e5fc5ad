"""Files of the kinds that a reader meets, made from one planted study of real anatomy."""

from __future__ import annotations

import datetime
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image as Pillow
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)
from skimage.transform import resize

from medic_ad.data.sets import mni152
from medic_ad.demo import Planted, plant
from medic_ad.readers import read_image


@cache
def planted(seed: int = 7) -> Planted:
    return plant(seed)


@cache
def template() -> np.ndarray:
    """The T1 template (D, H, W), axial."""
    return read_image(mni152.samples()[0].image, modality="MR", body_part="BRAIN").pixels


def write_png(path: Path, grey: np.ndarray, shape: tuple[int, int] | None = None) -> Path:
    """A slice in [0, 1] as 8-bit PNG, resized to `shape` where given."""
    if shape is not None:
        grey = resize(grey, shape, order=1, anti_aliasing=True)
    Pillow.fromarray(np.rint(grey * 255).clip(0, 255).astype(np.uint8)).save(path)
    return path


def write_nifti(path: Path, pixels: np.ndarray, mm: float = 1.0) -> Path:
    """A slice or volume (D, H, W), axial, rows to the back, columns to the patient's left."""
    voxels = pixels if pixels.ndim == 3 else pixels[None]
    affine = np.array([[0, 0, -mm, 90], [0, -mm, 0, 90], [mm, 0, 0, -60], [0, 0, 0, 1.0]])
    image = nibabel.Nifti1Image(voxels.astype(np.float32), affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return path


def write_dicom(
    path: Path,
    grey: np.ndarray,
    patient: str = "P1",
    date: datetime.date = datetime.date(2024, 5, 31),
    modality: str = "MR",
    body_part: str = "BRAIN",
) -> Path:
    """A slice in [0, 1] as a DICOM file of 12 bits, 1 mm a pixel, axial."""
    meta = FileMetaDataset()
    classes = {
        "CT": CTImageStorage,
        "DX": DigitalXRayImageStorageForPresentation,
        "CR": ComputedRadiographyImageStorage,
    }
    meta.MediaStorageSOPClassUID = classes.get(modality, MRImageStorage)
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), Dataset(), file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID = meta.MediaStorageSOPClassUID
    file.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    file.StudyInstanceUID, file.SeriesInstanceUID = generate_uid(), generate_uid()
    file.FrameOfReferenceUID = generate_uid()
    file.PatientID, file.PatientName = patient, "Made^By^Test"
    file.StudyDate, file.Modality, file.BodyPartExamined = f"{date:%Y%m%d}", modality, body_part
    file.Rows, file.Columns = grey.shape
    file.PixelSpacing, file.SliceThickness = [1, 1], 1
    file.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    file.ImagePositionPatient = [-98, -98, 36]
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 12, 11, 0
    file.PixelData = np.rint(grey * 4000).clip(0, 4095).astype("<u2").tobytes()
    file.save_as(path, enforce_file_format=True)
    return path
