"""Training data: rows of a CSV table that contradict each other are refused, naming both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medic_ad.errors import DataError

OF_A_FILE = ("patient", "date", "modality", "body_part")  # each file has one of these
CLOSED = {"yes", "no"}  # an open question may have two good answers


def check_rows(parsed: list[dict[str, Any]], root: Path, where: str) -> None:
    """Refuse what cannot be true together, from the rows alone; no image is read.

    Args:
        parsed: values of `table.COLUMNS`, a row each.
        root: folder that their paths start from.
        where: the table, for the sentence.

    Raises:
        DataError: naming the first row, its column, and the row that says otherwise.
    """
    files = [(root / row["image"]).resolve() for row in parsed]
    priors = [row["prior"] and (root / row["prior"]).resolve() for row in parsed]
    slices = [(file, row["slice"]) for file, row in zip(files, parsed, strict=True)]
    for column in OF_A_FILE:
        check_same(files, parsed, column, where)
    check_same(slices, parsed, "label", where)
    pairs = [prior and (*image, prior) for image, prior in zip(slices, priors, strict=True)]
    check_same(pairs, parsed, "change", where)
    asked = [
        (*image, prior, row["question"]) if (row["answer"] or "").casefold() in CLOSED else None
        for image, prior, row in zip(slices, priors, parsed, strict=True)
    ]
    check_same(asked, parsed, "answer", where)
    _check_priors(files, priors, parsed, where)


def check_same(keys: Sequence[Any], parsed: list[dict[str, Any]], column: str, where: str) -> None:
    """Refuse two values of a column for one key; `keys` has each row's, None for none."""
    first: dict[Any, int] = {}
    for j, (key, row) in enumerate(zip(keys, parsed, strict=True)):
        if key is None or _unknown(row[column]):
            continue
        i = first.setdefault(key, j)
        if row[column] != parsed[i][column]:
            raise DataError(
                f"{where}, row {j + 2}, column {column}: expected {_said(parsed[i][column])} as in "
                f"row {i + 2} of the same image {row['image']}, got {_said(row[column])}; correct "
                "one of them."
            )


def _check_priors(
    files: list[Path], priors: list[Path | None], parsed: list[dict[str, Any]], where: str
) -> None:
    """Refuse an image as its own prior, and a prior of a later date or another patient."""
    said: dict[Path, dict[str, Any]] = {}  # of each file, by column; its rows agree by now
    for file, row in zip(files, parsed, strict=True):
        known = {column: row[column] for column in OF_A_FILE if row[column] is not None}
        said.setdefault(file, {}).update(known)
    for j, (file, prior, row) in enumerate(zip(files, priors, parsed, strict=True)):
        if prior is None:
            continue
        at = f"{where}, row {j + 2}, column prior: expected"
        if prior == file:
            raise DataError(f"{at} another file than the image, got {row['prior']}; correct it.")
        own = said.get(prior, {})
        patient, date = row["patient"], row["date"]
        if patient is not None and own.get("patient", patient) != patient:
            raise DataError(
                f"{at} an image of patient {patient}, got {row['prior']}, which another row gives "
                f"to {own['patient']}; correct one of them."
            )
        if date is not None and own.get("date", date) > date:
            raise DataError(
                f"{at} an image from before {date}, got {row['prior']}, which another row dates "
                f"{own['date']}; correct one of them."
            )


def _unknown(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _said(value: Any) -> str:
    return f"{value:.0f}" if isinstance(value, float) else str(value)
