"""Training data: the paper's "Brain MRI" set in its published layout, for evaluation only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from PIL import Image as Picture

from medic_ad.data.sample import Sample
from medic_ad.data.sets import classes
from medic_ad.data.sets.common import need, rows_of
from medic_ad.data.splits import Reading
from medic_ad.errors import DataError

NAME = "brain_mri_253"


def reading(root: str | Path, name: str = NAME, work: Path | None = None) -> Reading:
    """All images in test, from the index where there is one, else from Kaggle's yes/ and no/."""
    root = Path(root)
    if not (root / "index.csv").is_file():
        return classes.reading(root, name)
    found, notes = samples(root), list[str]()
    misfits = [s for s in found if s.mask and size_of(root / s.image) != size_of(root / s.mask)]
    if misfits:
        found = [replace(s, mask=None) if s in misfits else s for s in found]
        names = ", ".join(str(s.mask) for s in misfits)
        notes.append(f"{len(misfits)} masks of another size than their image left out: {names}.")
    return Reading(found, notes=tuple(notes))


def size_of(path: Path) -> tuple[int, int]:
    """Width and height, from the head of the file."""
    with Picture.open(path) as picture:
        return picture.size


def samples(root: str | Path) -> list[Sample]:
    """All images in test, grouped by duplicates; labels are noisy, masks are drawn by students."""
    root = Path(root)
    index = root / "index.csv"
    out = []
    columns = ("image", "label", "mask", "duplicate_group")
    for line, row in enumerate(rows_of(index, columns, f"The index of {NAME}"), start=2):
        if row["label"] not in ("0", "1"):
            raise DataError(f"{index}, row {line}: label must be 0 or 1, not {row['label']!r}.")
        need(root / row["image"], f"An image of {NAME}")
        if row["mask"]:
            need(root / row["mask"], f"A mask of {NAME}")
        out.append(
            Sample(
                image=row["image"],
                mask=row["mask"] or None,
                group=f"{NAME}:{row['duplicate_group']}",
                split="test",
                source=NAME,
                modality="MR",
                body_part="BRAIN",
                label=float(row["label"]),
            )
        )
    return out
