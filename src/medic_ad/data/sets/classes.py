"""Training data: sets with one folder a class, or with an `index.csv` that says the class.

The layouts are documented on the pages that the registry names: Kaggle's `yes/`, `no/` (Brain MRI
and Br35H), `CLASS/images/` (COVID-19 radiography), `SPLIT/CLASS/` (Kermany) and the repository of
COVID-CT. Br35H and COVID-19 radiography were not at hand: their readers saw made folders only.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from medic_ad.data.sample import Sample
from medic_ad.data.sets.common import inside, need, pictures, rows_of
from medic_ad.data.splits import Reading
from medic_ad.errors import DataError


@dataclass(frozen=True)
class Kind:
    """How one set is laid out.

    Attributes:
        modality, body_part: of all its images.
        abnormal, normal: folders of the two labels.
        archive: folders that the archive may add above them.
        images: folder below a class that holds the images, if any.
        patient: expression whose groups give the patient in a file's name.
        group: the same for what else belongs together, such as a paper.
        test: all in test, for evaluation.
        index: columns of `index.csv` that give label, group, patient and mask.
    """

    modality: str
    body_part: str
    abnormal: tuple[str, ...] = ()
    normal: tuple[str, ...] = ()
    archive: tuple[str, ...] = ()
    images: str = ""
    patient: str | None = None
    group: str | None = None
    test: bool = False
    index: dict[str, str] | None = None


KINDS: dict[str, Kind] = {
    "brain_mri_253": Kind("MR", "BRAIN", ("yes",), ("no",), ("brain_tumor_dataset",), test=True),
    "br35h": Kind("MR", "BRAIN", ("yes",), ("no",), ("Br35H",), test=True),
    "covid19_radiography": Kind(
        "DX",
        "CHEST",
        ("COVID", "Lung_Opacity", "Viral Pneumonia"),
        ("Normal",),
        ("COVID-19_Radiography_Dataset",),
        images="images",
        test=True,
    ),
    # Kaggle numbers persons anew in each of its classes of agents, so one number may be two
    # persons: taken as one. The Mendeley names are CLASS-patient-n.
    "cxr_kermany": Kind(
        "DX",
        "CHEST",
        ("PNEUMONIA",),
        ("NORMAL",),
        ("chest_xray",),
        patient=r"(person\d+)_|((?:NORMAL2-)?IM-\d+)-|((?:NORMAL|BACTERIA|VIRUS)-\d+)-",
        index={"label": "pneumonia", "patient": "patient"},
    ),
    # Slices of a paper carry its name, then -pPAGE-FIGURE or %n or _n.
    "covid_ct": Kind(
        "CT",
        "CHEST",
        ("CT_COVID",),
        ("CT_NonCOVID",),
        ("Images-processed",),
        group=r"(.+?)(?:-p\d+.*|%.*|(?:_\d+)+)?\.[A-Za-z]+$",
        index={"label": "covid", "group": "group"},
    ),
    "covid_ct_seg": Kind("CT", "CHEST", test=True, index={"mask": "mask"}),
}


def reading(root: str | Path, name: str, work: Path | None = None) -> Reading:
    """All labelled images of one set.

    Args:
        root: its folder.
        name: a key of KINDS.
        work: not used.

    Raises:
        DataError: naming the first missing folder, file or value.
    """
    root, kind = Path(root), KINDS[name]
    if kind.index is not None and ((root / "index.csv").is_file() or not kind.normal):
        samples = _indexed(root, name, kind)
        return Reading(samples, drawn=not kind.test)
    base = inside(root, *kind.archive)
    if (base / "train").is_dir():
        samples = []
        for split in ("train", "val", "test"):
            if split != "val" or (base / split).is_dir():
                samples += _folders(root, base / split, name, kind, split)
        return Reading(samples)
    samples = _folders(root, base, name, kind, "test")
    lists = _lists(root, name)
    if not lists:
        return Reading(samples, drawn=not kind.test)
    listed = [(s, lists.get(Path(s.image).name)) for s in samples]
    out = [_sample(s.image, name, kind, s.label, split) for s, split in listed if split]
    left = len(samples) - len(out)
    notes = (f"{left} images that no list of Data-split names were left out.",) if left else ()
    return Reading(out, notes=notes)


def _sample(image: str, name: str, kind: Kind, label: float, split: str) -> Sample:
    file = Path(image).name
    patient, group = _part(kind.patient, file), _part(kind.group, file)
    return Sample(
        image=image,
        group=f"{name}:{patient or group or image}",
        patient=patient,
        split=split,
        source=name,
        modality=kind.modality,
        body_part=kind.body_part,
        label=label,
    )


def _part(expression: str | None, file: str) -> str | None:
    found = re.match(expression, file) if expression else None
    return next((part for part in found.groups() if part), None) if found else None


def _folders(root: Path, base: Path, name: str, kind: Kind, split: str) -> list[Sample]:
    out = []
    for label, folders in ((1.0, kind.abnormal), (0.0, kind.normal)):
        for folder in folders:
            for path in pictures(base / folder / kind.images, f"The folder {folder} of {name}"):
                image = path.relative_to(root).as_posix()
                out.append(_sample(image, name, kind, label, split))
    return out


def _lists(root: Path, name: str) -> dict[str, str]:
    """File name -> split, from the text files of COVID-CT's folder Data-split."""
    out: dict[str, str] = {}
    if not (root / "Data-split").is_dir():
        return out
    for kind in ("COVID", "NonCOVID"):
        for split in ("train", "val", "test"):
            path = root / f"Data-split/{kind}/{split}CT_{kind}.txt"
            lines = need(path, f"A list of {name}").read_text(encoding="utf-8").splitlines()
            for line in filter(None, map(str.strip, lines)):
                if out.setdefault(line, split) != split:
                    raise DataError(f"{path}: {line} is in {out[line]} too; fetch the lists again.")
    return out


def _indexed(root: Path, name: str, kind: Kind) -> list[Sample]:
    columns = kind.index or {}
    index = root / "index.csv"
    rows = rows_of(index, ("image", *columns.values()), f"The index of {name}")
    out = []
    for line, row in enumerate(rows, start=2):
        value = {key: row[column] or None for key, column in columns.items()}
        label = math.nan
        if "label" in columns:
            if value["label"] not in ("0", "1"):
                raise DataError(
                    f"{index}, row {line}: {columns['label']} must be 0 or 1, "
                    f"not {row[columns['label']]!r}."
                )
            label = float(value["label"])
        need(root / row["image"], f"An image of {name}")
        mask = value.get("mask")
        if mask is not None:
            need(root / mask, f"A mask of {name}")
            label = 1.0
        patient = value.get("patient")
        out.append(
            Sample(
                image=row["image"],
                group=f"{name}:{value.get('group') or patient or row['image']}",
                patient=patient,
                split="test",
                source=name,
                modality=kind.modality,
                body_part=kind.body_part,
                label=label,
                mask=mask,
            )
        )
    return out
