"""Step 6 of the road, DICOM out: UIDs, lesion tracking, and who made an object."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from highdicom import AlgorithmIdentificationSequence
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from medic_ad.report import Report
from medic_ad.report.document import identity, plain
from medic_ad.report.timeline import lesion_numbers

MANUFACTURER = "medic_ad (open)"
SERIES_NUMBERS = {"SEG": 9901, "MAP": 9902, "SR": 9903, "SC": 9904}


def uid_of(*parts: str) -> str:
    """The UID that belongs to these words: the same words, the same UID."""
    return str(generate_uid(entropy_srcs=["medic_ad", *parts]))


def read_key(report: Report) -> str:
    """Hash of all that the content of a report follows from.

    Reading the same studies again with the same weights gives the same key, so what is sent twice
    is stored once.
    """
    record = {k: v for k, v in report.provenance.items() if k not in ("created", "inputs")}
    studies = (report.study, *report.study.priors)
    read = [identity(study) for study in studies], report.question, plain(record)
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()


def instance(report: Report, series: str, kind: str, number: int) -> dict[str, Any]:
    """Series, instance and equipment of one object, as highdicom's constructors take them."""
    key, record = read_key(report), report.provenance
    return {
        "series_instance_uid": uid_of(key, series),
        "series_number": SERIES_NUMBERS[series],
        "series_description": f"medic_ad {series}: research use only",
        "sop_instance_uid": uid_of(key, series, kind),
        "instance_number": number,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": record["model"][:64],
        "software_versions": record["medic_ad"],
        "device_serial_number": record["weights_sha256"],
        "specific_character_set": "ISO_IR 192",  # generated text is Unicode, whatever the source is
    }


def algorithm(report: Report) -> AlgorithmIdentificationSequence:
    """Name, version and parameters of what found the regions."""
    return AlgorithmIdentificationSequence(
        name=report.provenance["model"][:64],
        family=codes.DCM.ArtificialIntelligence,
        version=report.provenance["medic_ad"],
        source=MANUFACTURER,
        parameters=parameters(report),
    )


def parameters(report: Report) -> dict[str, str]:
    """What besides its version decides on the algorithm's answer."""
    record = report.provenance
    return {
        "weights_sha256": record["weights_sha256"],
        "scope_entry": str(record["scope_entry"]),
        "threshold": str(record["threshold"]),
        "heatmap_threshold": str(record["heatmap_threshold"]),
    }


def trackings(report: Report) -> list[tuple[str, str]]:
    """Tracking identifier and UID of each finding, the same for one lesion on all its dates.

    The UID follows from the image on which the lesion was first seen and its place and size there,
    so it stays while that date is among those given; without a course that is the date itself.
    """
    own = identity(report.study)
    if report.course is None or report.course.lesions is None:
        found = enumerate(report.findings, start=1)
        return [(f"lesion {n}", uid_of("lesion", own, _mark(item))) for n, item in found]
    dates = [identity(study) for study in (*report.study.priors, report.study)]
    history = report.course.lesions.history()
    out = []
    for number in lesion_numbers(report):
        date, first = next(item for item in zip(dates, history[number], strict=True) if item[1])
        out.append((f"lesion {number}", uid_of("lesion", date, _mark(first))))
    return out


def _mark(seen: Any) -> str:
    """Place and size of a finding or a lesion; a slice by itself is slice 0."""
    middle = (0.0,) * (3 - len(seen.centroid)) + tuple(seen.centroid)
    return " ".join(f"{value:.1f}" for value in (*middle, seen.voxels))
