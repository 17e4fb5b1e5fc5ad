"""Training data: a CSV table of one's own images, split by patient and by duplicates."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from medic_ad.data.duplicates import Fingerprint, FingerprintStore, Groups, duplicate_pairs
from medic_ad.data.sample import CHANGE_LABELS, SPLITS, Sample
from medic_ad.data.sets.common import rows_of
from medic_ad.data.splits import draw_splits
from medic_ad.errors import DataError

NAME = "table"
COLUMNS = (
    "image",
    "slice",
    "prior",
    "patient",
    "date",
    "label",
    "mask",
    "change",
    "question",
    "answer",
    "split",
    "modality",
    "body_part",
    "sequence",
)

Track = Callable[[Iterable[Any]], Iterable[Any]]


def samples(
    root: str | Path,
    csv: str | Path,
    seed: int = 0,
    store: Path | None = None,
    track: Track = iter,
) -> list[Sample]:
    """All rows of the table.

    Args:
        root: folder that the paths of the table start from.
        csv: UTF-8, a header of COLUMNS, of which only `image` must be there; empty means unknown.
        seed: of the split, where the table has no column `split`.
        store: file that keeps the fingerprints read so far, see FingerprintStore.
        track: wraps the loop over the rows, for a progress bar.

    Raises:
        DataError: naming the row (as a spreadsheet counts: the header is row 1) and the column.
    """
    root, csv = Path(root), Path(csv)
    rows = rows_of(csv, ("image",), "The table")
    unknown = [column for column in rows[0] if column not in COLUMNS]
    if unknown:
        raise DataError(f"{csv} has the column {unknown[0]!r}: expected some of {COLUMNS}.")
    parsed = [_parse(row, root, f"{csv}, row {line}") for line, row in enumerate(rows, start=2)]
    given = [row.get("split", "") for row in rows]
    if any(given) and not all(given):
        line = given.index("") + 2
        raise DataError(f"{csv}, row {line}, column split: empty, but other rows have a split.")
    found, position = _fingerprints(parsed, root, FingerprintStore(store), str(csv), track)
    groups = Groups(len(parsed))
    duplicates = [(position[i], position[j]) for i, j in duplicate_pairs(found)]
    for i, j in duplicates:
        groups.join(i, j)
    by_patient: dict[str, int] = {}
    for i, row in enumerate(parsed):
        if row["patient"] is not None:
            groups.join(by_patient.setdefault(row["patient"], i), i)
    members = [groups.find(i) for i in range(len(parsed))]
    if any(given):
        _check_given(given, parsed, duplicates, str(csv))
        splits = given
    else:
        splits = draw_splits(members, [row["label"] for row in parsed], seed, str(csv))
    return [
        Sample(**row, group=f"{NAME}:{member + 2}", split=split, source=NAME)
        for row, member, split in zip(parsed, members, splits, strict=True)
    ]


def _fingerprints(
    parsed: list[dict[str, Any]], root: Path, store: FingerprintStore, where: str, track: Track
) -> tuple[list[Fingerprint], list[int]]:
    """Fingerprints of all images and priors, and the row each belongs to; masks are checked."""
    found: list[Fingerprint] = []
    position: list[int] = []
    for i, row in enumerate(track(parsed)):
        for column in ("image", "prior", "mask"):
            if row[column] is None:
                continue
            at = f"{where}, row {i + 2}, column {column}"
            try:
                one = store.get(root / row[column], row["slice"], row["modality"])
            except DataError as error:
                raise DataError(f"{at}: {error}") from error
            if column == "image":
                grid = one.grid
            if column == "mask" and one.grid != grid:
                raise DataError(f"{at}: expected the grid {grid} of its image, came {one.grid}.")
            if column != "mask":
                found.append(one)
                position.append(i)
    return found, position


def _parse(row: dict[str, str], root: Path, where: str) -> dict[str, Any]:
    """The values of one row for Sample; every error names row and column."""

    def refuse(column: str, expected: str) -> DataError:
        return DataError(f"{where}, column {column}: expected {expected}, came {row[column]!r}.")

    out: dict[str, Any] = {c: row.get(c) or None for c in COLUMNS if c != "split"}
    for column in ("modality", "body_part"):
        out[column] = out[column].upper() if out[column] else None
    if out["image"] is None:
        raise refuse("image", "the path of an image")
    for column in ("image", "prior", "mask"):
        if out[column] is not None and not (root / out[column]).exists():
            raise refuse(column, f"a file below {root}")
    if out["slice"] is not None:
        if not out["slice"].isdigit():
            raise refuse("slice", "a whole number from 0")
        out["slice"] = int(out["slice"])
    labels = {None: math.nan, "0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0}
    if out["label"] not in labels:
        raise refuse("label", "1 (abnormal), 0 (normal) or nothing")
    out["label"] = labels[out["label"]]
    if out["change"] is not None:
        if out["change"] not in CHANGE_LABELS:
            raise refuse("change", f"one of {CHANGE_LABELS} or nothing")
        if out["prior"] is None:
            raise refuse("change", "nothing where the column prior is empty")
    for column, other in (("question", "answer"), ("answer", "question")):
        if out[column] is not None and out[other] is None:
            raise refuse(column, f"nothing where the column {other} is empty")
    if out["date"] is not None:
        try:
            out["date"] = datetime.date.fromisoformat(out["date"])
        except ValueError as error:
            raise refuse("date", "a date as YYYY-MM-DD") from error
    if row.get("split", "") not in ("", *SPLITS):
        raise refuse("split", f"one of {SPLITS}")
    return out


def _check_given(
    given: list[str], parsed: list[dict[str, Any]], pairs: list[tuple[int, int]], where: str
) -> None:
    """Refuse splits of the table that tear a patient or duplicates apart."""
    for i, j in pairs:
        if given[i] != given[j]:
            raise DataError(
                f"{where}, row {j + 2}, column split: {given[j]}, but row {i + 2} ({given[i]}) "
                "holds the same or nearly the same image; put both into one split."
            )
    homes: dict[str, int] = {}
    for j, row in enumerate(parsed):
        i = homes.setdefault(row["patient"], j) if row["patient"] is not None else j
        if given[i] != given[j]:
            raise DataError(
                f"{where}, row {j + 2}, column split: {given[j]}, but row {i + 2} of the same "
                f"patient is in {given[i]}; put all of a patient into one split."
            )
