"""Training data: ChestX-Det, chest radiographs with polygons of 13 findings (Lian et al. 2021).

The layout of the two JSON files is documented in the repository Deepwise-AILab/ChestX-Det-Dataset;
where the two archives unpack their images was not verified. A `Sample` names a mask by its path,
which readers, training and evaluation all open as an image on the grid of its image: the polygons
are therefore drawn once, as small PNG files beside the table, and not anew at every use.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image as Picture
from PIL import ImageDraw

from medic_ad.data.sample import Sample
from medic_ad.data.sets.common import inside, json_of, need, save_picture, value_of
from medic_ad.data.splits import Reading
from medic_ad.errors import DataError

NAME = "chestx_det"
_NIH = re.compile(r"(\d{8})_\d{3}")  # patient and image, where names are those of ChestX-ray14


def reading(root: str | Path, name: str, work: Path) -> Reading:
    """All images with the published split; label 1 where there is a finding.

    Args:
        root: the folder with the two JSON files.
        name: not used.
        work: gets one mask uint8 (H, W) of 0 and 255 an image with polygons, the union of them.
    """
    root = Path(root)
    out = []
    for split in ("train", "test"):
        path = root / f"ChestX_Det_{split}.json"
        rows = json_of(path, f"The {split} annotation of {NAME}")
        folder = inside(root, f"{split}_data/{split}", f"{split}_data", split)
        for number, row in enumerate(rows):
            where = f"{path}, entry {number}"
            file, findings = value_of(row, "file_name", where), value_of(row, "syms", where)
            image = need(folder / file, f"An image of {NAME} ({split})")
            polygons = value_of(row, "polygons", where)
            mask = None
            if polygons:
                mask = work / "masks" / split / f"{Path(file).stem}.png"
                if not mask.is_file():
                    save_picture(_drawn(polygons, image, where), mask)
            patient = _NIH.match(file)
            out.append(
                Sample(
                    image=image.relative_to(root).as_posix(),
                    mask=mask.as_posix() if mask else None,
                    group=f"{NAME}:{patient[1] if patient else file}",
                    patient=patient[1] if patient else None,
                    split=split,
                    source=NAME,
                    modality="DX",
                    body_part="CHEST",
                    label=float(bool(findings)),
                )
            )
    return Reading(out)


def _drawn(polygons: list[list[list[float]]], image: Path, where: str) -> np.ndarray:
    """The union of polygons, each a list of (x, y) in pixels, uint8 (H, W)."""
    try:
        with Picture.open(image) as picture:  # reads the header alone
            canvas = Picture.new("L", picture.size)
    except OSError as error:
        raise DataError(f"{image} cannot be read as an image ({error}): copy it again.") from error
    draw = ImageDraw.Draw(canvas)
    for polygon in polygons:
        try:
            points = [(float(x), float(y)) for x, y in polygon]
        except (TypeError, ValueError) as error:
            raise DataError(f"{where}: a polygon is no list of (x, y); fetch it again.") from error
        if len(points) >= 3:
            draw.polygon(points, fill=255, outline=255)
    return np.asarray(canvas)
