"""Training data: FLAIR volumes of multiple sclerosis at two dates (Lesjak 2016), for evaluation."""

from __future__ import annotations

from pathlib import Path

from medic_ad.data.sample import Sample
from medic_ad.data.sets.common import brain_slices, patients_of, volume

NAME = "ms_longitudinal"


def samples(root: str | Path) -> list[Sample]:
    """One pair per axial slice of the common space with enough brain, all in test.

    The mask is the unsigned change mask: it holds new, growing and shrinking lesions alike, so
    neither the label nor the direction of change is known.
    """
    root = Path(root)
    out = []
    for folder in patients_of(root, NAME):
        names = {
            "image": "study2_FLAIR_common.nii.gz",
            "prior": "study1_FLAIR_common.nii.gz",
            "mask": "gt.nii.gz",
        }
        brain = volume(folder / "brainmask.nii.gz", f"The brain mask of {folder.name}")
        for role, name in names.items():
            volume(folder / name, f"The {role} of {folder.name}", brain)
        for i in brain_slices(brain > 0.5):
            out.append(
                Sample(
                    image=f"{folder.name}/{names['image']}",
                    prior=f"{folder.name}/{names['prior']}",
                    mask=f"{folder.name}/{names['mask']}",
                    slice=i,
                    patient=folder.name,
                    group=f"{NAME}:{folder.name}",
                    split="test",
                    source=NAME,
                    modality="MR",
                    body_part="BRAIN",
                    sequence="FLAIR",
                )
            )
    return out
