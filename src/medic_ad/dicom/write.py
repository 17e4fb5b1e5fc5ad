"""Step 6 of the road, DICOM out: all objects of a report, written together or not at all."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from pydicom.dataset import Dataset

from medic_ad.dicom.capture import secondary_capture
from medic_ad.dicom.maps import (
    change_map,
    change_segmentation,
    heatmap_map,
    heatmap_segmentation,
    region_segmentation,
)
from medic_ad.dicom.sources import evidence_of, sources_of
from medic_ad.dicom.structured import structured_report
from medic_ad.report import Report
from medic_ad.report.files import put_files

FILES = (
    "regions-seg.dcm",
    "heatmap-seg.dcm",
    "heatmap-map.dcm",
    "change-seg.dcm",
    "change-map.dcm",
    "overlay-sc.dcm",
    "report-sr.dcm",
)


def write_dicom(report: Report, folder: str | Path) -> list[Path]:
    """Write a report as DICOM objects in new series of the study that was read.

    | file | object | when |
    |---|---|---|
    | regions-seg.dcm | binary Segmentation, a segment for each finding | findings, can be marked |
    | heatmap-seg.dcm | fractional Segmentation | in scope, can be marked |
    | heatmap-map.dcm | Parametric Map | in scope, in a frame of reference |
    | change-map.dcm | Parametric Map | compared, in a frame of reference |
    | change-seg.dcm | fractional Segmentation: worse, better | compared, without one |
    | overlay-sc.dcm | Secondary Capture of overlay.png | always |
    | report-sr.dcm | Comprehensive SR, TID 1500 (PS3.16 A) | always |

    A file of several frames without places, and a CT or MR slice without one, cannot be marked: the
    standard knows no segmentation of them. All are put in place together, the SR last; those of an
    earlier report in the folder go. The same studies read with the same weights give the same UIDs.

    Args:
        report: of a study read from DICOM files, which must still lie where they were read.
        folder: made where it is not there.

    Returns:
        The files, the SR last.

    Raises:
        MedicADError: if the study is not from DICOM, is not identified, or nothing can be written.
    """
    objects = dicom_objects(report)
    contents = {}
    for name, made in objects.items():
        buffer = io.BytesIO()
        made.save_as(buffer, enforce_file_format=True)
        contents[name] = buffer.getvalue()
    target = put_files(contents, folder, stale=FILES)
    return [target / name for name in contents]


def dicom_objects(report: Report) -> dict[str, Dataset]:
    """The objects of `write_dicom` by the names of their files."""
    sources = sources_of(report.study.image)
    earlier = [made for prior in report.study.priors for made in evidence_of(prior.image)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sources that break the standard in ways we tolerate
        made: dict[str, Dataset | None] = {}
        if sources.can_be_marked:
            made["regions-seg.dcm"] = region_segmentation(report, sources)
            made["heatmap-seg.dcm"] = heatmap_segmentation(report, sources)
        if sources.can_be_marked and sources.placed:
            made["heatmap-map.dcm"] = heatmap_map(report, sources)
            made["change-map.dcm"] = change_map(report, sources)
        elif sources.can_be_marked:
            made["change-seg.dcm"] = change_segmentation(report, sources)
        made["overlay-sc.dcm"] = secondary_capture(report, sources)
        objects: dict[str, Dataset] = {k: v for k, v in made.items() if v is not None}
        objects["report-sr.dcm"] = structured_report(report, sources, earlier, objects)
    return objects
