"""Training data: FLAIR volumes of multiple sclerosis at two dates (Lesjak 2016), for evaluation.

Its README documents `patientX/patientX_{study1_FLAIRreg,study2_FLAIRreg,gt,brainmask}.nii.gz`,
all in one common space; a public copy has the names without the prefix and without `reg`. A part
with the names `studyN_FLAIR_common` was at hand, the other two layouts were not.
"""

from __future__ import annotations

from pathlib import Path

from medic_ad.data.sample import Sample
from medic_ad.data.sets.common import brain_slices, first_of, patients_of, volume

NAME = "ms_longitudinal"
_FILES = {
    "brain mask": ("brainmask", "{}_brainmask"),
    "image": ("study2_FLAIR_common", "{}_study2_FLAIRreg", "study2_FLAIR"),
    "prior": ("study1_FLAIR_common", "{}_study1_FLAIRreg", "study1_FLAIR"),
    "mask": ("gt", "{}_gt"),
}


def samples(root: str | Path) -> list[Sample]:
    """One pair per axial slice of the common space with enough brain, all in test.

    The mask is the unsigned change mask: it holds new, growing and shrinking lesions alike, so
    neither the label nor the direction of change is known.
    """
    root = Path(root)
    out = []
    for folder in patients_of(root, NAME):
        path = {}
        for role, names in _FILES.items():
            files = tuple(f"{name.format(folder.name)}.nii.gz" for name in names)
            found = first_of(folder, files, f"The {role} of {folder.name}")
            path[role] = found.relative_to(root).as_posix()
        brain = volume(root / path.pop("brain mask"), f"The brain mask of {folder.name}")
        for role, name in path.items():
            volume(root / name, f"The {role} of {folder.name}", brain)
        for i in brain_slices(brain > 0.5):
            out.append(
                Sample(
                    image=path["image"],
                    prior=path["prior"],
                    mask=path["mask"],
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
