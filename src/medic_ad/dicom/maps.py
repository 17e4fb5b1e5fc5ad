"""Step 6 of the road, DICOM out: regions and maps as segmentations and parametric maps."""

from __future__ import annotations

from typing import Any

import numpy as np
from highdicom import VOILUTTransformation
from highdicom.pm import ParametricMap, RealWorldValueMapping
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.sr.codedict import codes

from medic_ad.dicom.identity import algorithm, instance, trackings
from medic_ad.dicom.sources import Sources
from medic_ad.finding import label_findings
from medic_ad.report import NOTICE, Report
from medic_ad.report.schema import FINDINGS_ARE

NOT_LOOKED = -2.0  # in float maps, below anything that a probability or a change can be


def region_segmentation(report: Report, sources: Sources) -> Segmentation | None:
    """One binary segment for each finding, None without findings."""
    if not report.findings:
        return None
    labels = label_findings(report.heatmap, report.heatmap_threshold, report.findings)
    kind = FINDINGS_ARE[report.decision].capitalize()
    described = [
        _segment(report, number, f"{kind}, {name}", (name, uid))
        for number, (name, uid) in enumerate(trackings(report), start=1)
    ]
    return _segmentation(report, sources, labels, "BINARY", described, "regions", 1)


def heatmap_segmentation(report: Report, sources: Sources) -> Segmentation | None:
    """The heatmap as a fractional segment of probabilities; slices not looked at have no frame."""
    if np.isnan(report.heatmap).all():
        return None
    described = [_segment(report, 1, "Probability of an anomaly")]
    values = np.nan_to_num(report.heatmap, nan=0.0)
    return _segmentation(report, sources, values, "FRACTIONAL", described, "heatmap", 2)


def change_segmentation(report: Report, sources: Sources) -> Segmentation | None:
    """The change map as two fractional segments, worse and better; None without a map."""
    if report.change is None or report.change.map is None:
        return None
    change = np.nan_to_num(report.change.map, nan=0.0)
    values = np.stack([change.clip(0, 1), (-change).clip(0, 1)], axis=-1)
    described = [
        _segment(report, number, f"Change since the prior: {word}")
        for number, word in enumerate(("worse", "better"), start=1)
    ]
    return _segmentation(report, sources, values, "FRACTIONAL", described, "change", 3)


def heatmap_map(report: Report, sources: Sources) -> ParametricMap | None:
    """The heatmap as 32-bit probabilities, `NOT_LOOKED` where the model did not look."""
    if np.isnan(report.heatmap).all():
        return None
    meaning = ("HEATMAP", "Probability of an anomaly", (0.0, 1.0), codes.DCM.Probability)
    return _parametric_map(report, sources, report.heatmap, meaning, 1)


def change_map(report: Report, sources: Sources) -> ParametricMap | None:
    """The signed change as 32-bit numbers in [-1, 1], above 0 worse; None without a map."""
    if report.change is None or report.change.map is None:
        return None
    meaning = ("CHANGE", "Change since the prior, above 0 worse", (-1.0, 1.0), None)
    return _parametric_map(report, sources, report.change.map, meaning, 2)


def _segment(
    report: Report, number: int, label: str, tracking: tuple[str | None, str | None] = (None, None)
) -> SegmentDescription:
    return SegmentDescription(
        segment_number=number,
        segment_label=label[:64],
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm(report),
        tracking_id=tracking[0],
        tracking_uid=tracking[1],
    )


def _segmentation(
    report: Report,
    sources: Sources,
    values: np.ndarray,
    kind: str,
    described: list[SegmentDescription],
    label: str,
    number: int,
) -> Segmentation:
    stacked = values if report.study.image.is_volume else values[None]
    made = Segmentation(
        source_images=sources.headers,
        pixel_array=sources.arrange(stacked),
        segmentation_type=kind,
        segment_descriptions=described,
        content_label=label.upper(),
        content_description=NOTICE,
        **instance(report, "SEG", label, number),
    )
    if not sources.placed:
        made.PatientOrientation = sources.first.get("PatientOrientation")
    return made


def _parametric_map(
    report: Report, sources: Sources, values: np.ndarray, meaning: tuple, number: int
) -> ParametricMap:
    label, words, (low, high), quantity = meaning
    stacked = values if report.study.image.is_volume else values[None]
    stored = np.nan_to_num(stacked, nan=NOT_LOOKED).astype(np.float32)
    mapping: dict[str, Any] = {"slope": 1, "intercept": 0, "quantity_definition": quantity}
    made = ParametricMap(
        source_images=sources.headers,
        pixel_array=sources.arrange(stored),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            RealWorldValueMapping(label, words, codes.UCUM.NoUnits, (low, high), **mapping)
        ],
        voi_lut_transformations=[
            VOILUTTransformation(window_center=(low + high) / 2, window_width=high - low)
        ],
        content_label=label,
        content_description=NOTICE,
        **instance(report, "MAP", label.lower(), number),
    )
    made.FloatPixelPaddingValue = made.FloatPixelPaddingRangeLimit = NOT_LOOKED
    made.Laterality = sources.first.get("Laterality")
    return made
