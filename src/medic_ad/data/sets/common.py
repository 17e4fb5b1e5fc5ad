"""Training data: what the readers of published layouts share."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Picture

from medic_ad.errors import DataError
from medic_ad.readers import read_image

_PICTURES = {".png", ".jpg", ".jpeg", ".tif", ".tiff"}
MINIMUM_BRAIN = 0.15  # of the largest slice's brain area; less shows too little to be judged


def need(path: Path, what: str) -> Path:
    """The path, or a DataError that says which part of the data set is missing."""
    if not path.exists():
        raise DataError(f"{what} is missing: expected {path}; check --root or fetch the data set.")
    return path


def inside(root: Path, *names: str) -> Path:
    """The first of these folders below `root` that is there, as archives add them; else root."""
    return next((root / name for name in names if (root / name).is_dir()), root)


def first_of(folder: Path, names: tuple[str, ...], what: str) -> Path:
    """The first of these files in `folder`, or a DataError that names them all."""
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        choice = " or ".join(names)
        raise DataError(
            f"{what} is missing: expected {folder / choice}; check --root or fetch the data set."
        )
    return found


def pictures(folder: Path, what: str) -> list[Path]:
    """The PNG, JPEG and TIFF files of a folder in order; there must be one."""
    need(folder, what)
    found = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in _PICTURES and not path.name.startswith(".")
    )
    if not found:
        raise DataError(f"{what}: {folder} holds no PNG, JPEG or TIFF file; fetch the set again.")
    return found


def json_of(path: Path, what: str) -> Any:
    """Content of a JSON file, or of a file with one JSON object a line (.jsonl)."""
    try:
        text = need(path, what).read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{path} cannot be read as JSON ({error}): fetch it again.") from error


def value_of(row: Any, key: str, where: str) -> Any:
    """A value of one row of JSON, or a DataError that says which key is missing where."""
    if not isinstance(row, dict) or key not in row:
        raise DataError(f"{where}: expected the key {key!r}, which is missing; fetch it again.")
    return row[key]


def save_picture(pixels: np.ndarray, path: Path) -> None:
    """Write a PNG whole or not at all; uint8 or uint16 (H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    Picture.fromarray(pixels).save(part, format="PNG")
    os.replace(part, path)


def rows_of(path: Path, columns: tuple[str, ...], what: str) -> list[dict[str, str]]:
    """Rows of an index file with at least these columns, every value stripped."""
    try:
        with need(path, what).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
            missing = [column for column in columns if column not in (reader.fieldnames or [])]
            if missing:
                raise DataError(
                    f"{path} lacks the column {missing[0]!r}: expected {', '.join(columns)}."
                )
            names = reader.fieldnames or []
            twice = [name for name in names if names.count(name) > 1]
            if twice:
                raise DataError(f"{path} has the column {twice[0]!r} twice: keep one.")
            rows = [
                {k: (v or "").strip() for k, v in row.items() if isinstance(k, str)}
                for row in reader
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV file in UTF-8 ({error}): save it as one.") from error
    if not rows:
        raise DataError(f"{path} has a header but no rows: add at least one.")
    return rows


def patients_of(root: Path, what: str) -> list[Path]:
    """The folders `patientNN` of a data set, in order."""
    need(root, f"The folder of {what}")
    found = sorted(p for p in root.glob("patient*") if p.is_dir())
    if not found:
        raise DataError(f"{root} holds no folder patientNN of {what}: check --root.")
    return found


def volume(path: Path, what: str, like: np.ndarray | None = None) -> np.ndarray:
    """Pixels (D, H, W) of a brain MR volume, axial; of the same grid as `like` where given."""
    pixels = read_image(need(path, what), modality="MR", body_part="BRAIN").pixels
    if pixels.ndim != 3:
        raise DataError(f"{path} must be a volume, but has the grid {pixels.shape}.")
    if like is not None and pixels.shape != like.shape:
        raise DataError(f"{path} has the grid {pixels.shape}, its scan {like.shape}.")
    return pixels


def brain_slices(brain: np.ndarray) -> list[int]:
    """Slices of a bool volume (D, H, W) with more than MINIMUM_BRAIN of the largest area."""
    areas = brain.sum((1, 2))
    return [int(i) for i in np.flatnonzero(areas > MINIMUM_BRAIN * areas.max())]


def foreground(pixels: np.ndarray) -> np.ndarray:
    """Brain of a skull-stripped volume: clearly above its zero background."""
    return np.asarray(pixels > 0.15 * np.percentile(pixels, 99))
