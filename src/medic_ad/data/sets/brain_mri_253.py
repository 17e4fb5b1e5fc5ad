"""Training data: the paper's "Brain MRI" set in its published layout, for evaluation only."""

from __future__ import annotations

from pathlib import Path

from medic_ad.data.sample import Sample
from medic_ad.data.sets import classes
from medic_ad.data.sets.common import need, rows_of
from medic_ad.data.splits import Reading
from medic_ad.errors import DataError

NAME = "brain_mri_253"


def reading(root: str | Path, name: str = NAME, work: Path | None = None) -> Reading:
    """All images in test, from the index where there is one, else from Kaggle's yes/ and no/."""
    if (Path(root) / "index.csv").is_file():
        return Reading(samples(root))
    return classes.reading(root, name)


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
