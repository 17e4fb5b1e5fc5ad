"""Step 6 of the road, DICOM out: the report as a TID 1500 measurement report (PS3.16 A)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from medic_ad.dicom.codes import DECISIONS, SCHEME, own, sizes
from medic_ad.dicom.identity import MANUFACTURER, instance, parameters, trackings, uid_of
from medic_ad.dicom.sources import Sources
from medic_ad.finding import Finding
from medic_ad.readers.dicom_pixels import frame_item
from medic_ad.report import NOTICE, Report
from medic_ad.report.document import identity
from medic_ad.report.schema import FINDINGS_ARE


def structured_report(
    report: Report,
    sources: Sources,
    earlier: Sequence[Dataset],
    others: Mapping[str, Dataset],
) -> sr.ComprehensiveSR:
    """Decision, change and a measurement group for each finding.

    Args:
        earlier: instances of the earlier dates, named as other evidence.
        others: objects made beside this one by name, evidence too; the findings are the segments
            of the first.
    """
    regions = others.get("regions-seg.dcm")
    groups: list[Any] = [_study_group(report, sources)]
    found = zip(report.findings, trackings(report), strict=True)
    for number, (finding, tracking) in enumerate(found, start=1):
        groups.append(_finding_group(report, sources, regions, number, finding, tracking))
    record = report.provenance
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=uid_of("device", record["weights_sha256"]),
        name=f"{record['model']}: {NOTICE}",
        manufacturer_name=MANUFACTURER,
        model_name=record["model"],
        serial_number=record["weights_sha256"],
    )
    context = sr.ObserverContext(
        observer_type=codes.DCM.Device, observer_identifying_attributes=device
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=context),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    evidence = [*others.values(), *sources.headers, *earlier]
    made = sr.ComprehensiveSR(
        evidence=evidence,
        content=content[0],
        is_complete=True,
        **instance(report, "SR", "report", 1),
    )
    scheme = Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = SCHEME, MANUFACTURER
    made.CodingSchemeIdentificationSequence = [scheme]
    return made


def _study_group(report: Report, sources: Sources) -> sr.MeasurementsAndQualitativeEvaluations:
    """What is said of the study as a whole."""
    evaluations = [_answer("decision", DECISIONS[report.decision])]
    measurements = []
    if report.decision != "out_of_scope":
        measurements.append(_measure(codes.DCM.Probability, report.score, codes.UCUM.NoUnits))
    change = report.change
    if change is not None:
        evaluations.append(_answer("change since the prior", own(change.label)))
        for label, probability in (change.scores or {}).items():
            name = own(f"{label} probability")
            measurements.append(_measure(name, probability, codes.UCUM.NoUnits))
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=uid_of("study", identity(report.study)), identifier="study"
        ),
        algorithm_id=_algorithm(report),
        finding_type=codes.SCT.Finding,
        measurements=measurements or None,
        qualitative_evaluations=evaluations,
        source_images=[
            sr.SourceImageForMeasurementGroup(h.SOPClassUID, h.SOPInstanceUID)
            for h in sources.headers
        ],
    )
    for text in (report.text, *report.warnings, NOTICE):
        if text:
            _comment(group, text)
    return group


def _finding_group(
    report: Report,
    sources: Sources,
    regions: Dataset | None,
    number: int,
    finding: Finding,
    tracking: tuple[str, str],
) -> Any:
    """One finding: its segment where there is one, its sizes and where it lies."""
    header, frame = sources.place(finding.key_slice or 0)
    at = header.SOPClassUID, header.SOPInstanceUID, None if frame is None else [frame]
    source = sr.SourceImageForSegmentation(*at)
    common: dict[str, Any] = {
        "tracking_identifier": sr.TrackingIdentifier(uid=tracking[1], identifier=tracking[0]),
        "finding_type": codes.SCT.Lesion,
        "algorithm_id": _algorithm(report),
        "measurements": _sizes(finding),
        "qualitative_evaluations": [
            _answer("finding is", own(FINDINGS_ARE[report.decision])),
            *_kinds(report, tracking[0]),
        ],
    }
    if regions is None:
        group: Any = sr.MeasurementsAndQualitativeEvaluations(
            source_images=[sr.SourceImageForMeasurementGroup(*at)], **common
        )
        _comment(group, finding.location)
        return group
    segment = regions.SOPClassUID, regions.SOPInstanceUID
    if report.study.image.is_volume:
        group = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            referenced_segment=sr.ReferencedSegment(*segment, number, source_images=[source]),
            **common,
        )
    else:
        lies = sr.ReferencedSegmentationFrame(
            *segment,
            frame_number=_frames_of(regions, number),
            segment_number=number,
            source_image=source,
        )
        # The frame says which segment it is; PS3.3 10.3 forbids to say it again.
        del lies[0].ReferencedSOPSequence[0].ReferencedSegmentNumber
        group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_segment=lies, **common)
    _comment(group, finding.location)
    return group


def _frames_of(regions: Dataset, number: int) -> list[int]:
    """The frames (from 1) that show a segment."""
    items = (
        frame_item(regions, frame, "SegmentIdentificationSequence")
        for frame in range(regions.NumberOfFrames)
    )
    return [
        n
        for n, item in enumerate(items, start=1)
        if item and item.ReferencedSegmentNumber == number
    ]


def _sizes(finding: Finding) -> list[sr.Measurement]:
    out = [_measure(codes.DCM.Probability, finding.score, codes.UCUM.NoUnits)]
    out += [_measure(*size) for size in sizes(finding)]
    if finding.area_mm2 is None:
        out.append(_measure(codes.SCT.Area, finding.area_px, Code("{pixels}", "UCUM", "pixels")))
    return out


def _kinds(report: Report, identifier: str) -> list[sr.QualitativeEvaluation]:
    """What became of a lesion since the prior, where it was followed."""
    if report.course is None or report.course.lesions is None:
        return []
    number = int(identifier.split()[-1])
    row = next(row for row in report.course.rows() if row.number == number)
    kind = row.kinds[-1]
    return [] if kind is None else [_answer("lesion since the prior", own(kind))]


def _measure(name: Any, value: float, unit: Any) -> sr.Measurement:
    return sr.Measurement(name=name, value=float(f"{value:.6g}"), unit=unit)


def _answer(question: str, value: Any) -> sr.QualitativeEvaluation:
    return sr.QualitativeEvaluation(name=own(question), value=value)


def _comment(group: Any, text: str) -> None:
    group[0].ContentSequence.append(
        sr.TextContentItem(name=codes.DCM.Comment, value=text, relationship_type="CONTAINS")
    )


def _algorithm(report: Report) -> sr.AlgorithmIdentification:
    return sr.AlgorithmIdentification(
        name=report.provenance["model"],
        version=report.provenance["medic_ad"],
        parameters=[f"{name}: {value}" for name, value in parameters(report).items()],
        family=codes.DCM.ArtificialIntelligence,
        manufacturer=MANUFACTURER,
    )
