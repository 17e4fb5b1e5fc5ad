"""Training data: T1-CE brain slices with glioma, meningioma or pituitary tumour (Cheng 2015)."""

from __future__ import annotations

from pathlib import Path

from medic_ad.data.sample import SPLITS, Sample
from medic_ad.data.sets import cheng_original
from medic_ad.data.sets.common import need, rows_of
from medic_ad.data.splits import Reading
from medic_ad.errors import DataError

NAME = "brain_tumour_cheng"
_CLUSTER = 10  # neighbouring numbers are neighbouring slices of one patient; ids are not published
_GAP = 3


def reading(root: str | Path, name: str, work: Path) -> Reading:
    """The layout that is there: an index, else MATLAB files, else numbered PNG files."""
    root = Path(root)
    if not (root / "index.csv").is_file():
        found = {int(p.stem): p for p in sorted(root.rglob("*.mat")) if p.stem.isdigit()}
        if found:  # cvind.mat holds folds by slice and patient and is not needed
            return cheng_original.from_mat(root, found, work)
        if any((root / "images").glob("*.png")):
            return cheng_original.from_png(root)
    return Reading(samples(root), grouped=True)


def samples(root: str | Path) -> list[Sample]:
    """All slices with the split as given, which is by blocks with the border slices dropped.

    The group is a cluster of 10 neighbouring numbers of one class within a block of one split.
    """
    root = Path(root)
    index = root / "index.csv"
    rows = rows_of(index, ("image", "mask", "number", "label", "split"), f"The index of {NAME}")
    numbered = []
    for line, row in enumerate(rows, start=2):
        if not row["number"].isdigit() or row["split"] not in SPLITS:
            raise DataError(
                f"{index}, row {line}: expected a number and a split of {SPLITS}, "
                f"came {row['number']!r} and {row['split']!r}."
            )
        numbered.append((row["label"], int(row["number"]), row))
    out: list[Sample] = []
    last: tuple[str, str, int] | None = None
    first = size = 0
    for label, number, row in sorted(numbered, key=lambda item: item[:2]):
        split = row["split"]
        same = last is not None and last[:2] == (label, split) and number - last[2] <= _GAP
        if not same or size == _CLUSTER:
            first, size = number, 0
        last, size = (label, split, number), size + 1
        for column in ("image", "mask"):
            need(root / row[column], f"The {column} of slice {number} of {NAME}")
        out.append(
            Sample(
                image=row["image"],
                mask=row["mask"],
                group=f"{NAME}:{label}:{first:04d}",
                split=split,
                source=NAME,
                modality="MR",
                body_part="BRAIN",
                sequence="T1-CE",
                label=1.0,
            )
        )
    return out
