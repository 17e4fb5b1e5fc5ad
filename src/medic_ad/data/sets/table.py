"""Training data: a CSV table of one's own images, split by patient and by duplicates."""

from __future__ import annotations

import csv as csv_file
import datetime
import difflib
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from medic_ad.data.duplicates import Fingerprint, FingerprintStore, Groups, duplicate_pairs
from medic_ad.data.sample import SPLITS, Sample
from medic_ad.data.sets.common import rows_of
from medic_ad.data.sets.contradictions import check_rows, check_same
from medic_ad.data.splits import draw_splits
from medic_ad.errors import DataError
from medic_ad.words import CHANGE_LABELS, SEQUENCES

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
# Other spellings of the sequences that nano speaks of; their own letters in any case are known too.
SPELLINGS = {
    "t1w": "T1",
    "t1weighted": "T1",
    "t1c": "T1-CE",
    "t1gd": "T1-CE",
    "t1post": "T1-CE",
    "t1contrast": "T1-CE",
    "t2flair": "FLAIR",
}
ALIKE = 0.8  # of difflib: one letter wrong, or two exchanged, in a name of five

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
    if not csv.is_file():
        raise DataError(f"expected a CSV file at {csv}, found none; give its path as --csv.")
    rows = rows_of(csv, ("image",), "The table")
    unknown = [column for column in rows[0] if column not in COLUMNS]
    if unknown:
        raise DataError(
            f"{csv}: expected columns of {', '.join(COLUMNS)}, came the column "
            f"{unknown[0]!r}; correct it or leave it out."
        )
    _check_cells(csv)
    parsed = [_parse(row, root, f"{csv}, row {line}") for line, row in enumerate(rows, start=2)]
    given = [row.get("split", "") for row in rows]
    if any(given) and not all(given):
        line = given.index("") + 2
        raise DataError(f"{csv}, row {line}, column split: empty, but other rows have a split.")
    check_rows(parsed, root, str(csv))
    if any(given):
        _check_patients(given, parsed, str(csv))
    found, position = _fingerprints(parsed, root, FingerprintStore(store), str(csv), track)
    digests = {i: one.digest for one, i in zip(reversed(found), reversed(position), strict=True)}
    check_same([digests[i] for i in range(len(parsed))], parsed, "label", str(csv))
    groups = Groups(len(parsed))
    duplicates = [
        (position[i], position[j])
        for i, j in duplicate_pairs(found)
        if found[i].digest == found[j].digest
        or not _apart(parsed[position[i]], parsed[position[j]])
    ]
    for i, j in duplicates:
        groups.join(i, j)
    by_patient: dict[str, int] = {}
    for i, row in enumerate(parsed):
        if row["patient"] is not None:
            groups.join(by_patient.setdefault(row["patient"], i), i)
    members = [groups.find(i) for i in range(len(parsed))]
    if any(given):
        _check_duplicates(given, duplicates, str(csv))
        splits = given
    else:
        splits = draw_splits(members, [row["label"] for row in parsed], seed, str(csv))
    return [
        Sample(**row, group=f"{NAME}:{member + 2}", split=split, source=NAME)
        for row, member, split in zip(parsed, members, splits, strict=True)
    ]


def _apart(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two rows are slices of volumes of two patients, as by `alike_files`.

    Slices of a volume without a patient are alike as ever: nothing else binds them together.
    """
    patients = a["patient"], b["patient"]
    return None not in (*patients, a["slice"], b["slice"]) and patients[0] != patients[1]


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
            if column == "mask" and row["label"] == 0 and one.thumbnail.any():
                raise DataError(
                    f"{at}: expected no lesion in the mask of a normal image (label 0), came "
                    f"{row['mask']} with pixels; correct the label or leave the mask out."
                )
            if column == "mask" and row["label"] == 1 and not one.thumbnail.any():
                raise DataError(
                    f"{at}: expected a lesion in the mask of an abnormal image (label 1), came "
                    f"{row['mask']} with one value throughout; correct the label or the mask."
                )
            if column != "mask":
                found.append(one)
                position.append(i)
    return found, position


def _check_cells(csv: Path) -> None:
    """Refuse rows with more cells than the header has columns: a comma in a text, not quoted."""
    with csv.open(newline="", encoding="utf-8-sig") as file:
        reader = csv_file.reader(file)
        columns = len(next(reader))
        for line, cells in enumerate(reader, start=2):
            if any(cell.strip() for cell in cells[columns:]):
                raise DataError(
                    f"{csv}, row {line}: expected {columns} cells as in the header, got "
                    f"{len(cells)}; put a text with a comma into double quotes."
                )


def near_sequence(name: str) -> str | None:
    """The known sequence that a name is another spelling of; None for it and for other names."""
    if name in SEQUENCES:
        return None
    bare = "".join(c for c in name.casefold() if c.isalnum())
    known = {"".join(c for c in s.casefold() if c.isalnum()): s for s in SEQUENCES}
    if bare in SPELLINGS or bare in known:
        return SPELLINGS.get(bare) or known[bare]
    # short names differ by a letter and mean something else (T2, or a qT1 map)
    long = [k for k in known if len(k) >= 4 and abs(len(k) - len(bare)) <= 1]
    return next((known[k] for k in difflib.get_close_matches(bare, long, 1, ALIKE)), None)


def _parse(row: dict[str, str], root: Path, where: str) -> dict[str, Any]:
    """The values of one row for Sample; every error names row and column."""

    def refuse(column: str, expected: str) -> DataError:
        return DataError(
            f"{where}, column {column}: expected {expected}, came {row[column]!r}; correct it."
        )

    out: dict[str, Any] = {c: row.get(c) or None for c in COLUMNS if c != "split"}
    for column in ("modality", "body_part"):
        out[column] = out[column].upper() if out[column] else None
    if out["image"] is None:
        raise refuse("image", "the path of an image")
    for column in ("image", "prior", "mask"):
        if out[column] is not None and not (root / out[column]).exists():
            raise refuse(column, f"a file below {root} (--root)")
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
            raise refuse("change", f"{', '.join(CHANGE_LABELS)} or nothing")
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
    if out["sequence"] is not None and (near := near_sequence(out["sequence"])) is not None:
        raise DataError(
            f"{where}, column sequence: expected {near}, got {out['sequence']!r}; write {near}, or "
            "a name of its own for another sequence."
        )
    if row.get("split", "") not in ("", *SPLITS):
        raise refuse("split", f"{', '.join(SPLITS)} or nothing")
    return out


def _check_duplicates(given: list[str], pairs: list[tuple[int, int]], where: str) -> None:
    """Refuse splits of the table that tear duplicates apart."""
    for i, j in pairs:
        if given[i] != given[j]:
            raise DataError(
                f"{where}, row {j + 2}, column split: {given[j]}, but row {i + 2} ({given[i]}) "
                "holds the same or nearly the same image; put both into one split."
            )


def _check_patients(given: list[str], parsed: list[dict[str, Any]], where: str) -> None:
    """Refuse splits of the table that tear a patient apart."""
    homes: dict[str, int] = {}
    for j, row in enumerate(parsed):
        i = homes.setdefault(row["patient"], j) if row["patient"] is not None else j
        if given[i] != given[j]:
            raise DataError(
                f"{where}, row {j + 2}, column split: {given[j]}, but row {i + 2} of the same "
                f"patient is in {given[i]}; put all of a patient into one split."
            )
