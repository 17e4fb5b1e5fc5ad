"""Training data: brain slices without tumour from another source, for false positives only."""

from __future__ import annotations

from pathlib import Path

from medic_ad.data.sample import Sample
from medic_ad.data.sets.common import need, rows_of
from medic_ad.errors import DataError

NAME = "brain_no_tumour"


def samples(root: str | Path) -> list[Sample]:
    """All slices, label 0, in val and test as the index says; never in train.

    The labels say "no tumour", not "healthy".
    """
    root = Path(root)
    out = []
    for row in rows_of(root / "index.csv", ("image", "group", "split"), f"The index of {NAME}"):
        if row["split"] == "train":
            raise DataError(
                f"{root / 'index.csv'}: {row['image']} is in train, but {NAME} is for evaluation "
                "only (its source would give the class away): move it to val or test."
            )
        need(root / row["image"], f"An image of {NAME}")
        out.append(
            Sample(
                image=row["image"],
                group=f"{NAME}:{row['group']}",
                split=row["split"],
                source=NAME,
                modality="MR",
                body_part="BRAIN",
                label=0.0,
            )
        )
    return out
