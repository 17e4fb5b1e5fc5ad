"""Step 6 of the road: a report as FHIR bundles, R5 and R4B, beside the DICOM objects."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from fhir.resources.bundle import Bundle
from fhir.resources.R4B.bundle import Bundle as BundleR4B
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from medic_ad.dicom.codes import DECISIONS, SCHEME, own, sizes
from medic_ad.dicom.identity import MANUFACTURER, read_key, trackings
from medic_ad.dicom.sources import Sources, sources_of
from medic_ad.finding import Finding
from medic_ad.report import NOTICE, Report
from medic_ad.report.files import put_files

FILES = {"R5": "report.r5.json", "R4B": "report.r4b.json"}
OWN = "urn:medic-ad"  # of codes that no standard system has
_LOINC = "http://loinc.org"
_SYSTEMS = {
    "SCT": "http://snomed.info/sct",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "UCUM": "http://unitsofmeasure.org",
    SCHEME: OWN,
}


def write_fhir(report: Report, folder: str | Path) -> list[Path]:
    """Write report.r5.json and report.r4b.json into a folder.

    R5 points at each finding by an ImagingSelection; R4B, which has none, at the ImagingStudy with
    its instances. The check is structural: names, types and cardinalities of the release, by
    fhir.resources; terminology and profiles are not checked.

    Raises:
        MedicADError: if the study is not from DICOM, is not identified, or nothing can be written.
    """
    contents = {FILES[release]: bundle(report, release).encode() for release in FILES}
    target = put_files(contents, folder)
    return [target / name for name in contents]


def bundle(report: Report, release: str) -> str:
    """The bundle of one release ("R5" or "R4B") as JSON."""
    sources = sources_of(report.study.image)
    resources = _Resources(report, sources, release).all()
    content = {
        "resourceType": "Bundle",
        "type": "collection",
        "timestamp": report.provenance["created"],
        "meta": {"tag": [{"system": OWN, "code": "research-use-only", "display": NOTICE}]},
        "entry": [{"fullUrl": f"urn:uuid:{r['id']}", "resource": r} for r in resources],
    }
    checked = (Bundle if release == "R5" else BundleR4B).model_validate(content)
    return json.dumps(json.loads(checked.model_dump_json()), indent=2, ensure_ascii=False) + "\n"


class _Resources:
    """The resources of one report; ids follow from what was read, so they last."""

    def __init__(self, report: Report, sources: Sources, release: str) -> None:
        self.report, self.sources, self.r5 = report, sources, release == "R5"
        self.key = read_key(report)

    def all(self) -> list[dict[str, Any]]:
        found = list(zip(self.report.findings, trackings(self.report), strict=True))
        observations = [self.study_observation()]
        selections = []
        for number, (finding, tracking) in enumerate(found, start=1):
            selection = self.selection(finding, number)
            seen = selection if self.r5 else self.imaging_study()
            observations.append(self.observation(finding, tracking, number, seen))
            selections += [selection] if self.r5 else []
        made = [self.patient(), self.device(), self.imaging_study(), *selections, *observations]
        return [self.diagnostic_report(observations), *made]

    def named(self, kind: str, part: str = "") -> dict[str, Any]:
        name = uuid.uuid5(uuid.NAMESPACE_OID, f"{self.key} {kind} {part}")
        return {"resourceType": kind, "id": str(name)}

    def patient(self) -> dict[str, Any]:
        out = self.named("Patient")
        if self.report.study.patient_id:
            out["identifier"] = [{"value": self.report.study.patient_id}]
        return out

    def device(self) -> dict[str, Any]:
        record = self.report.provenance
        names: dict[str, Any] = {"deviceName": [{"name": record["model"], "type": "model-name"}]}
        if self.r5:
            names = {"name": [{"value": record["model"], "type": "registered-name"}]}
        return {
            **self.named("Device"),
            **names,
            "identifier": [{"system": "urn:sha256", "value": record["weights_sha256"]}],
            "manufacturer": MANUFACTURER,
            "version": [{"value": record["medic_ad"]}],
            "note": [{"text": NOTICE}],
        }

    def imaging_study(self) -> dict[str, Any]:
        first = self.sources.first
        modality = {"system": _SYSTEMS["DCM"], "code": first.get("Modality") or "OT"}
        instances = [
            {"uid": h.SOPInstanceUID, "sopClass": _sop_class(h.SOPClassUID)}
            for h in self.sources.headers
        ]
        out = {
            **self.named("ImagingStudy"),
            "identifier": [{"system": "urn:dicom:uid", "value": _oid(first.StudyInstanceUID)}],
            "status": "available",
            "subject": _reference(self.patient()),
            "series": [
                {
                    "uid": first.SeriesInstanceUID,
                    "modality": {"coding": [modality]} if self.r5 else modality,
                    "numberOfInstances": len(instances),
                    "instance": instances,
                }
            ],
        }
        if self.report.study.date is not None:
            out["started"] = self.report.study.date.isoformat()
        return out

    def selection(self, finding: Finding, number: int) -> dict[str, Any]:
        """The finding's box on its key slice, as a closed line of (column, row)."""
        header, frame = self.sources.place(finding.key_slice or 0)
        ndim = len(finding.centroid)
        (top, left), (bottom, right) = finding.box[ndim - 2 : ndim], finding.box[-2:]
        corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
        instance: dict[str, Any] = {
            "uid": header.SOPInstanceUID,
            "sopClass": _sop_class(header.SOPClassUID),
            "imageRegion2D": [
                {"regionType": "polyline", "coordinate": [float(v) for p in corners for v in p]}
            ],
        }
        if frame is not None:
            instance["subset"] = [str(frame)]
        return {
            **self.named("ImagingSelection", str(number)),
            "status": "available",
            "subject": _reference(self.patient()),
            "code": _concept(codes.SCT.Lesion),
            "derivedFrom": [_reference(self.imaging_study())],
            "studyUid": header.StudyInstanceUID,
            "seriesUid": header.SeriesInstanceUID,
            "instance": [instance],
        }

    def study_observation(self) -> dict[str, Any]:
        report = self.report
        components = []
        if report.decision != "out_of_scope":
            components.append(_number(codes.DCM.Probability, report.score, codes.UCUM.NoUnits))
        if report.change is not None:
            change, label = (own(text) for text in ("change since the prior", report.change.label))
            components.append({"code": _concept(change), "valueCodeableConcept": _concept(label)})
        return {
            **self._observed("study", [self.imaging_study()], components),
            "code": _concept(codes.SCT.Finding),
            "valueCodeableConcept": _concept(DECISIONS[report.decision]),
        }

    def observation(
        self, finding: Finding, tracking: tuple[str, str], number: int, seen: dict[str, Any]
    ) -> dict[str, Any]:
        components = [_number(codes.DCM.Probability, finding.score, codes.UCUM.NoUnits)]
        components += [_number(*size) for size in sizes(finding)]
        name, uid = tracking
        return {
            **self._observed(str(number), [seen], components),
            "identifier": [{"system": "urn:dicom:uid", "value": _oid(uid)}],
            "code": _concept(codes.SCT.Lesion),
            "valueString": f"{name}, {finding.location}",
        }

    def _observed(
        self, part: str, seen: list[dict[str, Any]], components: list[dict[str, Any]]
    ) -> dict[str, Any]:
        out = {
            **self.named("Observation", part),
            "status": "preliminary",  # no person has looked at it
            "subject": _reference(self.patient()),
            "device": _reference(self.device()),
            "derivedFrom": [_reference(resource) for resource in seen],
        }
        return {**out, "component": components} if components else out

    def diagnostic_report(self, observations: list[dict[str, Any]]) -> dict[str, Any]:
        report = self.report
        said = " ".join(text for text in (report.text, *report.warnings, NOTICE) if text)
        out = {
            **self.named("DiagnosticReport"),
            "identifier": [{"system": OWN, "value": self.key}],
            "status": "preliminary",
            "code": _coded(_LOINC, "18748-4", "Diagnostic imaging study"),
            "subject": _reference(self.patient()),
            "issued": report.provenance["created"],
            "result": [_reference(observation) for observation in observations],
            "study" if self.r5 else "imagingStudy": [_reference(self.imaging_study())],
            "conclusion": said,
            "conclusionCode": [_concept(DECISIONS[report.decision])],
        }
        if report.study.date is not None:
            out["effectiveDateTime"] = report.study.date.isoformat()
        return out


def _reference(resource: dict[str, Any]) -> dict[str, str]:
    return {"reference": f"urn:uuid:{resource['id']}", "type": resource["resourceType"]}


def _concept(code: Code) -> dict[str, Any]:
    return _coded(_SYSTEMS[code.scheme_designator], code.value, code.meaning)


def _coded(system: str, code: str, display: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code, "display": display}]}


def _number(name: Code, value: float, unit: Code) -> dict[str, Any]:
    amount = {"value": float(f"{value:.6g}"), "system": _SYSTEMS["UCUM"], "code": unit.value}
    return {"code": _concept(name), "valueQuantity": amount}


def _sop_class(uid: str) -> dict[str, str]:
    return {"system": "urn:ietf:rfc:3986", "code": _oid(uid)}


def _oid(uid: str) -> str:
    return f"urn:oid:{uid}"
