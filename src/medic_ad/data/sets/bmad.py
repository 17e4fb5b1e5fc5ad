"""Training data: the six sets of BMAD (Bao et al. 2024), one layout with small variants.

The repository DorisBao/BMAD documents `SPLIT/{good,Ungood}/` for the sets with labels alone and
`SPLIT/{good,Ungood}/{img,label}/` for those with masks; its scripts have `img/` and `label/` first
for the liver, and `val` or `Val/val` for `valid`. The released archives were not at hand. The names
of slices give the patient for BraTS2021 (documented) and OCT2017 (the names of its source); for the
others no patient is known, so that only the publisher's split and duplicates hold them apart. That
the BraTS2021 slices are FLAIR is from memory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from medic_ad.data.sample import Sample
from medic_ad.data.sets.common import inside, need, pictures
from medic_ad.data.splits import Reading


@dataclass(frozen=True)
class Kind:
    """One of the six: its folders in the archive, whether it has masks, how a patient is named."""

    modality: str
    body_part: str
    archive: tuple[str, ...]
    masks: bool = False
    patient: str | None = None
    sequence: str | None = None


KINDS: dict[str, Kind] = {
    "bmad_brats2021": Kind(
        "MR",
        "BRAIN",
        ("Brain", "Brain_AD", "BraTS2021_slice"),
        masks=True,
        patient=r"(\d{5})_\d+",
        sequence="FLAIR",
    ),
    "bmad_liver": Kind(
        "CT", "LIVER", ("Liver/Train/hist_DIY", "hist_DIY", "Liver", "Liver_AD"), masks=True
    ),
    "bmad_resc": Kind("OPT", "EYE", ("RESC", "Retina_RESC_AD", "Retina_RESC"), masks=True),
    "bmad_oct2017": Kind(
        "OPT",
        "EYE",
        ("OCT2017", "Retina_OCT2017_AD", "Retina_OCT2017"),
        patient=r"([A-Z]+-\d+)-\d+",
    ),
    "bmad_rsna": Kind("DX", "CHEST", ("RSNA", "Chest-AD", "Chest", "chest")),
    "bmad_camelyon16": Kind(
        "SM", "LYMPH NODE", ("camelyon16_256", "camelyon16", "Histopathology_AD")
    ),
}
_SPLITS = {
    "train": ("train", "Train/train"),
    "val": ("valid", "val", "Val/val"),
    "test": ("test", "Test/test"),
}
_LABELS = {"good": 0.0, "Ungood": 1.0}


def reading(root: str | Path, name: str, work: Path | None = None) -> Reading:
    """All images with the publisher's split; train holds normal ones alone.

    Raises:
        DataError: naming the first missing folder or mask.
    """
    root, kind = Path(root), KINDS[name]
    base = inside(root, *kind.archive)
    out = []
    for split, folders in _SPLITS.items():
        folder = inside(base, *folders)
        if folder == base:
            need(base / folders[0], f"The folder {folders[0]} of {name}")
        for label in ("good",) if split == "train" else _LABELS:
            what = f"The folder {folders[0]}/{label} of {name}"
            images = _first(folder, f"{label}/img", f"img/{label}", label)
            masks = _first(folder, f"{label}/label", f"{label}/anomaly_mask", f"label/{label}")
            for path in pictures(images, what):
                mask = None
                if kind.masks and label == "Ungood":
                    mask = need(masks / path.name, f"The mask of {path.name} of {name}")
                found = re.match(kind.patient, path.name) if kind.patient else None
                image = path.relative_to(root).as_posix()
                out.append(
                    Sample(
                        image=image,
                        mask=mask.relative_to(root).as_posix() if mask else None,
                        group=f"{name}:{found[1] if found else image}",
                        patient=found[1] if found else None,
                        split=split,
                        source=name,
                        modality=kind.modality,
                        body_part=kind.body_part,
                        sequence=kind.sequence,
                        label=_LABELS[label],
                    )
                )
    return Reading(out)


def _first(folder: Path, *names: str) -> Path:
    """The first of these folders that is there, else the last for an error to name."""
    return next((folder / name for name in names if (folder / name).is_dir()), folder / names[-1])
