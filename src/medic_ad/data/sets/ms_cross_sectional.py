"""Training data: FLAIR volumes of multiple sclerosis with lesion masks (Lesjak 2017).

Its README documents `patientXX/patientXX_{FLAIR,consensus_gt,brainmask}.nii.gz`; a public copy
drops the prefix, and the part in MNI space is skull-stripped, so that it needs no brain mask. Only
the last was at hand; that slices of the others are axial was not verified.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medic_ad.data.sample import Sample
from medic_ad.data.sets.common import brain_slices, first_of, foreground, patients_of, volume
from medic_ad.errors import DataError

NAME = "ms_cross_sectional"
VALIDATION = "patient26"
_SCANS = ("FLAIR_MNI.nii.gz", "{}_FLAIR.nii.gz", "FLAIR.nii.gz")
_MASKS = ("lesions_MNI.nii.gz", "{}_consensus_gt.nii.gz", "consensus_gt.nii.gz")
_BRAINS = ("{}_brainmask.nii.gz", "brainmask.nii.gz")


def samples(root: str | Path, validation: str | None = None) -> list[Sample]:
    """One sample per axial slice with enough brain; label 1 where the mask has a voxel.

    Args:
        root: folder with one folder a patient.
        validation: the patient in val, the others are in train; VALIDATION if None.

    Raises:
        DataError: a file is missing or on another grid, or there is no such patient.
    """
    root = Path(root)
    folders = patients_of(root, NAME)
    if validation is not None and validation not in [folder.name for folder in folders]:
        raise DataError(
            f"There is no patient {validation!r} in {root}: choose one of "
            f"{', '.join(folder.name for folder in folders)}."
        )
    out = []
    for folder in folders:
        image, mask = (
            first_of(folder, _named(names, folder), what)
            for names, what in (
                (_SCANS, f"The FLAIR of {folder.name}"),
                (_MASKS, f"The mask of {folder.name}"),
            )
        )
        scan = volume(image, f"The FLAIR of {folder.name}")
        lesions = volume(mask, f"The mask of {folder.name}", scan) > 0.5
        for i in brain_slices(_brain(folder, image, scan)):
            out.append(
                Sample(
                    image=image.relative_to(root).as_posix(),
                    mask=mask.relative_to(root).as_posix(),
                    slice=i,
                    patient=folder.name,
                    group=f"{NAME}:{folder.name}",
                    split="val" if folder.name == (validation or VALIDATION) else "train",
                    source=NAME,
                    modality="MR",
                    body_part="BRAIN",
                    sequence="FLAIR",
                    label=float(lesions[i].any()),
                )
            )
    return out


def _named(names: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    return tuple(name.format(folder.name) for name in names)


def _brain(folder: Path, image: Path, scan: np.ndarray) -> np.ndarray:
    """Brain bool (D, H, W): what is left of a skull-stripped scan, else the mask of the set."""
    if image.name == _SCANS[0]:
        return foreground(scan)
    what = f"The brain mask of {folder.name}"
    return volume(first_of(folder, _named(_BRAINS, folder), what), what, scan) > 0.5
