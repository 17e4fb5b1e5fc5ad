"""Training data: FLAIR volumes of multiple sclerosis with lesion masks (Lesjak 2017)."""

from __future__ import annotations

from pathlib import Path

from medic_ad.data.sample import Sample
from medic_ad.data.sets.common import brain_slices, foreground, patients_of, volume

NAME = "ms_cross_sectional"
_VAL = ("patient26",)


def samples(root: str | Path) -> list[Sample]:
    """One sample per axial slice with enough brain; label 1 where the mask has a voxel."""
    root = Path(root)
    out = []
    for folder in patients_of(root, NAME):
        scan = volume(folder / "FLAIR_MNI.nii.gz", f"The FLAIR of {folder.name}")
        lesions = volume(folder / "lesions_MNI.nii.gz", f"The mask of {folder.name}", scan) > 0.5
        for i in brain_slices(foreground(scan)):
            out.append(
                Sample(
                    image=f"{folder.name}/FLAIR_MNI.nii.gz",
                    mask=f"{folder.name}/lesions_MNI.nii.gz",
                    slice=i,
                    patient=folder.name,
                    group=f"{NAME}:{folder.name}",
                    split="val" if folder.name in _VAL else "train",
                    source=NAME,
                    modality="MR",
                    body_part="BRAIN",
                    sequence="FLAIR",
                    label=float(lesions[i].any()),
                )
            )
    return out
