"""Training data: chest radiographs of one patient over days.

`data.csv` of the Hannover set and `metadata.csv` of covid-chestxray-dataset are documented in their
repositories (the latter in SCHEMA.md; its folder was not at hand). `pairs.csv` is a selection of
the latter with the change that its case notes tell. Days count from an event, so no date is known.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from medic_ad.data.sample import Sample
from medic_ad.data.sets.common import first_of, need, rows_of
from medic_ad.data.splits import Reading
from medic_ad.errors import DataError
from medic_ad.words import CHANGE_LABELS

_UNKNOWN = ("", "todo", "unknown")


def reading(root: str | Path, name: str, work: Path | None = None) -> Reading:
    """Images in the order of their days, each with the last image of an earlier day as prior.

    Args:
        root: folder of the set.
        name: cxr_hannover, covid_chestxray or cxr_followup_ieee8023.
        work: not used.

    Raises:
        DataError: naming the first missing file or the value that does not fit.
    """
    return _READERS[name](Path(root), name)


def _hannover(root: Path, name: str) -> Reading:
    """AP and PA mix within a series; what the images show is not labelled."""
    columns = ("patient_id", "image_id", "admission_offset", "modality")
    table = root / "data.csv"
    shots = []
    for line, row in enumerate(rows_of(table, columns, f"The table of {name}"), start=2):
        # admission relative to the exam: -26 is 26 days after admission
        day = _day(row["admission_offset"], f"{table}, row {line}, column admission_offset")
        file = row["image_id"]
        path = first_of(root, (f"png/{file}.png", f"jpg/{file}.jpg"), f"Image {file} of {name}")
        image = path.relative_to(root).as_posix()
        sample = _sample(name, image, row["patient_id"], modality=row["modality"])
        shots.append((-day, sample))
    return Reading(_with_priors(shots), drawn=True)


def _chestxray(root: Path, name: str) -> Reading:
    """Frontal radiographs; an empty day has no prior and is none."""
    columns = ("patientid", "offset", "finding", "view", "modality", "filename")
    table = root / "metadata.csv"
    shots, alone, left = [], [], 0
    for line, row in enumerate(rows_of(table, columns, f"The table of {name}"), start=2):
        if row["modality"] != "X-ray" or not row["view"].upper().startswith(("PA", "AP")):
            left += 1
            continue
        image = f"images/{row['filename']}"
        need(root / image, f"An image of {name}")
        finding = row["finding"].lower()
        label = math.nan if finding in _UNKNOWN else float(finding != "no finding")
        sample = _sample(name, image, row["patientid"], label=label)
        if row["offset"]:
            shots.append((_day(row["offset"], f"{table}, row {line}, column offset"), sample))
        else:
            alone.append(sample)
    notes = (f"{left} images that are no frontal radiographs were left out.",) if left else ()
    return Reading([*_with_priors(shots), *alone], drawn=True, notes=notes)


def _followup(root: Path, name: str) -> Reading:
    """Pairs, all in test; `unclear` is no label of change."""
    columns = ("patientid", "baseline_file", "followup_file", "change")
    table = root / "pairs.csv"
    out = []
    for line, row in enumerate(rows_of(table, columns, f"The pairs of {name}"), start=2):
        if row["change"] not in (*CHANGE_LABELS, "unclear"):
            raise DataError(
                f"{table}, row {line}, column change: expected one of {CHANGE_LABELS} or unclear, "
                f"came {row['change']!r}."
            )
        for column in ("baseline_file", "followup_file"):
            need(root / row[column], f"An image of {name}")
        sample = _sample(name, row["followup_file"], row["patientid"])
        change = None if row["change"] == "unclear" else row["change"]
        out.append(replace(sample, prior=row["baseline_file"], change=change, split="test"))
    return Reading(out)


_READERS = {
    "cxr_hannover": _hannover,
    "covid_chestxray": _chestxray,
    "cxr_followup_ieee8023": _followup,
}


def _sample(
    name: str, image: str, patient: str, label: float = math.nan, modality: str = "DX"
) -> Sample:
    return Sample(
        image=image,
        group=f"{name}:{patient}",
        patient=patient,
        split="train",
        source=name,
        modality=modality,
        body_part="CHEST",
        label=label,
    )


def _day(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise DataError(f"{where}: expected a number of days, came {text!r}.") from error


def _with_priors(shots: list[tuple[float, Sample]]) -> list[Sample]:
    """The samples by patient and day; images of one day share the prior of an earlier day."""
    out: list[Sample] = []
    by_patient: dict[str, list[tuple[float, Sample]]] = {}
    for day, sample in shots:
        by_patient.setdefault(sample.patient or "", []).append((day, sample))
    for series in by_patient.values():
        series.sort(key=lambda shot: shot[0])
        for day, sample in series:
            earlier = [other.image for past, other in series if past < day]
            out.append(replace(sample, prior=earlier[-1] if earlier else None))
    return out
