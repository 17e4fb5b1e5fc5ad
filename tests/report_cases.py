"""Reports with planted truth, for the tests of findings and reports."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np

from medic_ad.finding import Change, decide, find
from medic_ad.image import Image, Source
from medic_ad.report import NOTICE, Report, due_warnings
from medic_ad.study import Study

THRESHOLD = 0.42
QUALITY = {
    "overlap": 0.97,
    "displacement_mm": 12.22,
    "similarity_before": 0.39,
    "similarity": 0.93,
    "ncc_before": 0.95,
    "ncc_after": 0.996,
}
# Patient coordinates of axial slices as displayed: +w left, +h posterior, +d towards the head.
AXIAL = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=np.float64)


def make_image(shape: tuple[int, ...] = (96, 120), **options: Any) -> Image:
    pixels = np.random.default_rng(0).normal(400, 40, shape).astype(np.float32)
    source = Source(path="/somewhere/scan.png", sha256="1" * 64, format="PNG")
    return Image(pixels, **{"source": source, **options})


def make_prior(shape: tuple[int, ...] = (96, 120)) -> Study:
    source = Source(path="/somewhere/old.png", sha256="2" * 64, format="PNG")
    return Study(make_image(shape, source=source))


def blob(shape: tuple[int, ...], peak: float = 0.9) -> np.ndarray:
    """A smooth peak in the upper left of the last two axes, in the first third of the first."""
    centre = [size // 6 for size in shape]
    grid = np.indices(shape)
    squares = sum((axis - c) ** 2 / 40 for axis, c in zip(grid, centre, strict=True))
    return (peak * np.exp(-np.asarray(squares))).astype(np.float32)


def make_provenance(**changes: Any) -> dict[str, Any]:
    record: dict[str, Any] = {
        "medic_ad": "0.1.0",
        "model": "nano",
        "weights_sha256": "a" * 64,
        "base": None,
        "scope_entry": "brain MR",
        "score": {"slope": 0.7, "heatmap_slope": 0.4, "offset": 0.1},
        "change_temperature": 1.3,
        "threshold": 0.5,
        "uncertain_band": [0.4, 0.6],
        "heatmap_threshold": THRESHOLD,
        "prevalence": 0.5,
        "gate": {"distance": 3.0, "limit": 9.0, "reason": None},
        "device": "cpu",
        "dtype": "float32",
        "attention": "sdpa",
        "libraries": {"torch": "2", "transformers": "5"},
        "inputs": [
            {
                "role": "current",
                "path": "scan.png",
                "sha256": "1" * 64,
                "format": "PNG",
                "notes": [],
            }
        ],
        "licence": "Apache-2.0",
        "created": "2025-01-05T10:11:12+00:00",
        "research_use": NOTICE,
    }
    return record | changes


def make_change(shape: tuple[int, ...] = (96, 120), **changes: Any) -> Change:
    fields: dict[str, Any] = {
        "label": "worse",
        "scores": {"worse": 0.7, "stable": 0.2, "better": 0.1},
        "map": blob(shape, 0.8),
        "prior_on_current": make_image(shape).pixels,
        "prior_date": datetime.date(2020, 1, 2),
        "alignment": {**QUALITY, "transform": np.eye(3)},
    }
    return Change(**(fields | changes))


def make_report(**changes: Any) -> Report:
    """A consistent abnormal read with one region in the upper left, but for what is changed."""
    study = changes.get("study") or Study(changes.pop("image", None) or make_image())
    heatmap = changes.pop("heatmap", blob(study.image.grid))
    threshold = changes.get("heatmap_threshold", THRESHOLD)
    score = changes.get("score", 0.93)
    decision = changes.get("decision", decide(score, (0.4, 0.6)))
    findings = changes.pop("findings", None)
    if findings is None:
        findings = () if decision == "out_of_scope" else find(heatmap, threshold, study.image)
    fields: dict[str, Any] = {
        "score": score,
        "decision": decision,
        "heatmap": heatmap,
        "heatmap_threshold": threshold,
        "findings": findings,
        "change": None,
        "text": "There is an anomaly in the upper left of the image.",
        "answer": None,
        "provenance": make_provenance(),
        "study": study,
    }
    if study.image.is_volume:
        looked = ~np.isnan(heatmap).all((1, 2))
        fields["slice_scores"] = np.where(looked, score, np.nan)
    fields |= changes
    if "warnings" not in fields:
        names = ("decision", "findings", "change", "text", "study", "question", "answer", "course")
        due: dict[str, Any] = {name: fields.get(name) for name in names}
        fields["warnings"] = due_warnings(**due)
    return Report(**fields)


def normal_report(**changes: Any) -> Report:
    shape = (96, 120)
    quiet = np.full(shape, 0.04, dtype=np.float32)
    fields = {"score": 0.1, "heatmap": quiet, "text": "There is no anomaly."} | changes
    return make_report(**fields)


def out_of_scope_report(**changes: Any) -> Report:
    nowhere = np.full((96, 120), np.nan, dtype=np.float32)
    unfitted = make_provenance(threshold=None, uncertain_band=None, heatmap_threshold=None)
    fields: dict[str, Any] = {
        "score": float("nan"),
        "heatmap": nowhere,
        "heatmap_threshold": float("nan"),
        "text": "",
        "provenance": unfitted,
    }
    return make_report(**(fields | changes))


def pair_report(shape: tuple[int, ...] = (96, 120), **changes: Any) -> Report:
    study = Study(make_image(shape), priors=(make_prior(shape),))
    fields = {"study": study, "change": make_change(shape)} | changes
    return make_report(**fields)
