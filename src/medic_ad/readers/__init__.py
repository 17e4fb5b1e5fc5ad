"""Step 1 of the road: any file or series folder -> Image, chosen by content."""

from __future__ import annotations

import difflib
import os
from dataclasses import replace
from pathlib import Path

from medic_ad.errors import ReadError, StudyError
from medic_ad.image import Image, same_body_part, same_modality

# Codes of DICOM PS3.3 C.7.3.1.1.1 whose files hold pictures of patients.
# fmt: off
MODALITIES = (
    "BI", "CR", "CT", "DM", "DX", "ECG", "ES", "GM", "IO", "IVOCT", "IVUS", "MG", "MR", "NM",
    "OAM", "OCT", "OP", "OPT", "OT", "PA", "PT", "PX", "RF", "RG", "SM", "TG", "US", "XA", "XC",
)
# fmt: on
_MEANT = {"MRI": "MR", "XRAY": "DX", "X-RAY": "DX", "CXR": "DX", "PET": "PT", "FLAIR": "MR"}
_KINDS = "a DICOM, NIfTI, PNG, JPEG or TIFF file"


def read_image(
    path: str | os.PathLike[str], modality: str | None = None, body_part: str | None = None
) -> Image:
    """Read one file, or one DICOM series in a folder, a zip file or a DICOMDIR.

    Args:
        path: a DICOM, NIfTI (`.nii`, `.nii.gz`), PNG, JPEG or TIFF file, told by its content,
            or a folder, zip file or DICOMDIR with one DICOM series.
        modality: DICOM code, for what the file does not say; NIfTI needs it.
        body_part: DICOM term, for what the file does not say.

    Raises:
        ReadError: if the file is not an image that can be read.
        StudyError: if `modality` or `body_part` contradicts the file.
    """
    modality = _modality_code(modality)
    if body_part is not None:
        body_part = body_part.strip().upper()
        if not body_part:
            raise StudyError(
                "expected a body part such as BRAIN or CHEST, came an empty text; give one, or "
                "leave it out."
            )
    image = _read(Path(path), modality)
    name = image.source.path
    if modality is not None and image.modality is not None:
        if not same_modality(modality, image.modality):
            raise StudyError(
                f"{name}: expected modality {modality} as given, came {image.modality} in the "
                "file; leave --modality out or give the right file."
            )
        modality = image.modality
    said = image.body_part
    if body_part is not None and said is not None and not same_body_part(body_part, said):
        raise StudyError(
            f"{name}: expected body part {body_part} as given, came {said} in the file; leave "
            "--body-part out or give the right file."
        )
    return replace(
        image, modality=modality or image.modality, body_part=body_part or image.body_part
    )


def _read(path: Path, modality: str | None) -> Image:
    """Dispatch on the first bytes; the libraries are imported when their format comes."""
    try:
        if path.is_dir():
            from medic_ad.readers.dicom import read_series

            return read_series(path)
        if not path.exists():
            raise ReadError(
                f"{path}: expected {_KINDS} or a series folder, came a path that does not "
                "exist; check the spelling."
            )
        if not path.is_file():
            raise ReadError(f"{path}: expected {_KINDS}, came no regular file; give a file.")
        with path.open("rb") as file:
            head = file.read(560)
    except OSError as error:
        raise ReadError(
            f"{path}: expected {_KINDS} that can be opened, came {error.strerror}; check the "
            "path and its permissions."
        ) from error
    if not head:
        raise ReadError(f"{path}: expected {_KINDS}, came an empty file; copy it again.")
    from medic_ad.readers import archive, dicom, dicom_files, nifti, raster

    if archive.is_zip(head):
        return dicom.read_series(path)
    if dicom_files.is_dicom(head):
        return dicom.read_file(path)
    if (kind := raster.kind_of(head)) is not None:
        return raster.read_raster(path, kind)
    if nifti.is_nifti(path, head):
        return nifti.read_nifti(path, modality)
    came = f"a file that starts with the bytes {head[:8].hex(' ')}"
    if head.isascii() and not set(head) & set(b"\0\x1f\x7f"):
        came = "a text file"
    raise ReadError(f"{path}: expected {_KINDS}, came {came}; convert it to one of these formats.")


def _modality_code(modality: str | None) -> str | None:
    if modality is None:
        return None
    code = modality.strip().upper()
    if code in MODALITIES:
        return code
    near = _MEANT.get(code) or next(iter(difflib.get_close_matches(code, MODALITIES, 1)), None)
    hint = f"give {near}" if near else "give one of them"
    raise StudyError(
        f"expected a DICOM modality code such as MR, CT, CR or DX, came {modality!r}; {hint}."
    )
