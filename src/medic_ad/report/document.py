"""Step 6 of the road: a report as the plain document that report.json holds."""

from __future__ import annotations

import datetime
import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from medic_ad.course import StudyCourse
from medic_ad.finding import Change
from medic_ad.lesions import LesionChange
from medic_ad.report.schema import FINDINGS_ARE, NOTICE, SCHEMA_NAME
from medic_ad.study import Study

if TYPE_CHECKING:
    from medic_ad.report.report import Report


def plain(value: Any) -> Any:
    """The value in JSON's own types: NaN and infinities become null, dates ISO text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime.date):
        return value.isoformat()
    return value


def identity(study: Study) -> str:
    """Hash of the content of a study's image: names the study without naming the patient."""
    return hashlib.sha256(f"medic-ad {study.image.source.sha256}".encode()).hexdigest()


def document(report: Report) -> dict[str, Any]:
    """All of a report but its arrays, ready for JSON, following `schema.SCHEMA`."""
    heatmap = report.heatmap
    looked = ~np.isnan(heatmap)
    change = report.change
    return plain(
        {
            "schema": SCHEMA_NAME,
            "notice": NOTICE,
            "study": _study(report.study),
            "score": float(report.score),
            "slice_scores": report.slice_scores,
            "decision": report.decision,
            "heatmap": {
                "threshold": float(report.heatmap_threshold),
                "maximum": float(heatmap[looked].max()) if looked.any() else None,
                "mean": float(heatmap[looked].mean(dtype=np.float64)) if looked.any() else None,
                "pixels_above": int((heatmap >= report.heatmap_threshold).sum()),
                "looked": float(looked.mean()),
            },
            "findings_are": FINDINGS_ARE[report.decision],
            "findings": [asdict(finding) for finding in report.findings],
            "change": None if change is None else _change(change),
            "course": None if report.course is None else _course(report.course),
            "question": report.question,
            "answer": report.answer,
            "text": report.text,
            "warnings": report.warnings,
            "provenance": report.provenance,
        }
    )


def _study(study: Study) -> dict[str, Any]:
    image = study.image
    return {
        "identity_sha256": identity(study),
        "identity_verified": study.identity_verified,
        "modality": image.modality,
        "body_part": image.body_part,
        "date": study.date,
        "grid": image.grid,
        "spacing_mm": image.spacing_mm,
        "orientation_known": image.orientation_known,
        "priors": [{"identity_sha256": identity(p), "date": p.date} for p in study.priors],
    }


def _change(change: Change) -> dict[str, Any]:
    statistics = None
    if change.map is not None:
        looked = ~np.isnan(change.map)
        statistics = {
            "minimum": float(change.map[looked].min()) if looked.any() else None,
            "maximum": float(change.map[looked].max()) if looked.any() else None,
            "looked": float(looked.mean()),
        }
    return {
        "label": change.label,
        "scores": change.scores,
        "reason": change.reason,
        "mixed": change.mixed,
        "prior_date": change.prior_date,
        "current_date": change.current_date,
        "alignment": change.alignment,
        "map": statistics,
    }


def _course(course: StudyCourse) -> dict[str, Any]:
    visits = zip(course.visits, course.counts, course.loads, strict=True)
    pairs = zip(course.steps, course.changes, strict=True)
    return {
        "unit": course.unit,
        "tolerance": None if course.lesions is None else asdict(course.lesions.tolerance),
        "dates": [{**asdict(v), "lesions": count, "load": load} for v, count, load in visits],
        "pairs": [
            {**asdict(step), "changes": [_lesion_change(c, course.scale) for c in changes]}
            for step, changes in pairs
        ],
        "lesions": [
            {name if name != "number" else "id": value for name, value in asdict(row).items()}
            for row in course.rows()
        ],
    }


def _lesion_change(change: LesionChange, scale: float) -> dict[str, Any]:
    return {
        "kind": change.kind,
        "before": change.before,
        "after": change.after,
        "sizes": [ml * scale for ml in change.volumes_ml],
        "change": change.change_ml * scale,
        "percent": change.percent,
        "per_year": change.ml_per_year * scale,
        "percent_per_year": change.percent_per_year,
    }
