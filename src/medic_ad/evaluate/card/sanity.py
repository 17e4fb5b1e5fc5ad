"""Evaluation: images that nothing should be found in, and images of other things."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

from medic_ad.evaluate.parts.outside import blank_figures, photograph_figure, refused
from medic_ad.evaluate.predictions.store import Context, Part
from medic_ad.evaluate.predictions.sweep import undeclared
from medic_ad.readers import read_image


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def indexed(root: Path, name: str, group: str) -> list[tuple[Path, str]]:
    """Image and group of each row of a set's index."""
    return [(root / name / r["image"], r[group]) for r in rows(root / name / "index.csv")]


def vqa_rad(root: Path) -> list[tuple[Path, str]]:
    """Images of chest and abdomen; the organ is stated beside each question."""
    folder = root / "vqa_rad"
    asked = [
        r for f in ("trainset.json", "testset.json") for r in json.loads((folder / f).read_text())
    ]
    names = {r["image_name"] for r in asked if r["image_organ"].strip().upper() != "HEAD"}
    return [(folder / "images" / n, n) for n in sorted(names) if (folder / "images" / n).is_file()]


FOREIGN: dict[str, tuple[str, Callable[[Path], list[tuple[Path, str]]]]] = {
    "chest radiographs of children (cxr_kermany)": (
        "patient",
        lambda r: indexed(r, "cxr_kermany", "patient"),
    ),
    "chest CT (covid_ct)": ("source paper", lambda r: indexed(r, "covid_ct", "group")),
    "head CT (head_ct)": ("duplicate group", lambda r: indexed(r, "head_ct", "duplicate_group")),
    "chest and abdomen, CT, MR and X-ray (vqa_rad)": ("image", vqa_rad),
}


def measure(context: Context) -> Part:
    """Blank and noise images, and how often the gate keeps other things out."""
    figures = blank_figures(context, context.of)
    for name, (unit, files) in FOREIGN.items():
        found = files(context.root)
        images = [undeclared(read_image(path)) for path, _ in found]
        sampling = context.resampling([g for _, g in found], unit, "all")
        figures.append(sampling.mean("out of scope", refused(context, name, images), name))
    figures.append(photograph_figure(context))
    notes = [
        "The files state no modality, so the gate alone decides; a file that states another "
        "modality or body part is out of scope whatever it shows. The gate was fitted on none of "
        "them.",
    ]
    return Part("Sanity and scope", notes, figures)
