"""Training data: Kaggle's Head CT (haemorrhage), one slice a patient, for evaluation only.

Kaggle's page documents `labels.csv` with the columns `id` and ` hemorrhage` (with the blank) and
the images as `head_ct/head_ct/NNN.png`; that archive was not at hand, a part of it with an
`index.csv` was.
"""

from __future__ import annotations

from pathlib import Path

from medic_ad.data.sample import Sample
from medic_ad.data.sets.common import inside, need, rows_of
from medic_ad.data.splits import Reading
from medic_ad.errors import DataError

NAME = "head_ct"


def reading(root: str | Path, name: str = NAME, work: Path | None = None) -> Reading:
    """All images in test, grouped by the index's duplicate groups where it has them."""
    root = Path(root)
    indexed = (root / "index.csv").is_file()
    index = root / ("index.csv" if indexed else "labels.csv")
    columns = ("image", "id", "hemorrhage", "duplicate_group") if indexed else ("id", "hemorrhage")
    folder = inside(root, "head_ct/head_ct", "head_ct")
    out = []
    for line, row in enumerate(rows_of(index, columns, f"The labels of {NAME}"), start=2):
        if row["hemorrhage"] not in ("0", "1") or not row["id"].isdigit():
            raise DataError(
                f"{index}, row {line}: expected a number and the hemorrhage 0 or 1, came "
                f"{row['id']!r} and {row['hemorrhage']!r}."
            )
        path = root / row["image"] if indexed else folder / f"{int(row['id']):03d}.png"
        need(path, f"Image {row['id']} of {NAME}")
        out.append(
            Sample(
                image=path.relative_to(root).as_posix(),
                group=f"{NAME}:{row['duplicate_group'] if indexed else row['id']}",
                split="test",
                source=NAME,
                modality="CT",
                body_part="HEAD",
                label=float(row["hemorrhage"]),
            )
        )
    return Reading(out)
