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
        "software_versions": (record["medic_ad"],),
        "device_serial_number": record["weights_sha256"],
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

    The UID follows from the image on which the lesion was first seen and its place there, so it
    stays while the same first date is given; without a course that is the date itself.
    """
    own = identity(report.study)
    if report.course is None:
        places = [finding.centroid for finding in report.findings]
        return [(f"lesion {n}", _tracking(own, at)) for n, at in enumerate(places, start=1)]
    dates = [identity(study) for study in (*report.study.priors, report.study)]
    history = report.course.lesions.history()
    number_at = {_place(i.centroid): i.number for i in report.course.lesions.lesions[-1]}
    out = []
    for finding in report.findings:
        number = number_at[_place(finding.centroid)]
        first = next(i for i, lesion in enumerate(history[number]) if lesion is not None)
        lesion = history[number][first]
        at = finding.centroid if lesion is None else lesion.centroid
        out.append((f"lesion {number}", _tracking(dates[first], at)))
    return out


def _tracking(image: str, centroid: tuple[float, ...]) -> str:
    return uid_of("lesion", image, _place(centroid))


def _place(centroid: tuple[float, ...]) -> str:
    """A place to a tenth of a voxel; a slice by itself is slice 0."""
    middle = (0.0,) * (3 - len(centroid)) + tuple(centroid)
    return " ".join(f"{value:.1f}" for value in middle)
