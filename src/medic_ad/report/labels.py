"""Step 6 of the road: numbers of a report as words with units, for the page and the picture."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from medic_ad.course import Step
from medic_ad.finding import Change, Finding
from medic_ad.report.document import identity, plain
from medic_ad.words import BLANK

if TYPE_CHECKING:
    from medic_ad.report.report import Report

_DECISIONS = {
    "abnormal": "Abnormal",
    "normal": "Normal",
    "uncertain": "Uncertain",
    "out_of_scope": "Out of scope",
}
_CHANGES = {
    "worse": "Worse",
    "stable": "Stable",
    "better": "Better",
    "not_comparable": "Prior not comparable",
}


def decision_word(report: Report) -> str:
    """The decision as it stands at the head of the page."""
    return "Nothing to read" if _is_blank(report) else _DECISIONS[report.decision]


def _is_blank(report: Report) -> bool:
    return bool(report.provenance["gate"]["reason"] == BLANK)


def change_word(report: Report) -> str | None:
    """The change as it stands at the head of page, picture and screen, None without a prior."""
    if report.change is None:
        return None
    return _CHANGES[report.change.label] + (", mixed" if is_mixed(report) else "")


def is_mixed(report: Report) -> bool:
    """Whether regions of the change map, or measured lesions, grow and shrink at once."""
    steps = [] if report.course is None else report.course.steps[-1:]
    mapped = report.change is not None and report.change.mixed
    return mapped or any(step.load_mixed for step in steps)


def tolerance_words(report: Report) -> str:
    """What counts as a stable lesion."""
    if report.course is None or report.course.lesions is None:
        return ""
    tolerance = report.course.lesions.tolerance
    unit = "ml" if report.course.unit == "ml" else "mm²"
    least = number(report.course.scale * tolerance.change_ml)
    return f"stable within {tolerance.growth:.0%}, {least} {unit} or {tolerance.voxels:.0f} pixels"


def score_words(report: Report) -> str:
    """The score with the threshold and band that turned it into the decision."""
    provenance = report.provenance
    if _is_blank(report):
        return "No score: one grey value fills the image."
    if report.decision == "out_of_scope":
        gate = provenance["gate"]
        if gate["distance"] is None or gate["limit"] is None:
            return "No score: the model was not fitted for this modality and body part."
        return (
            f"No score: distance {gate['distance']:.3g} from what the model was fitted on "
            f"(limit {gate['limit']:.3g})."
        )
    low, high = provenance["uncertain_band"]
    return (
        f"Score {report.score:.3f}, threshold {provenance['threshold']:.3f}, uncertain from "
        f"{low:.3f} to {high:.3f}."
    )


def number(value: float) -> str:
    """Three significant digits, thousands set apart by a narrow space."""
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:#.3g}".rstrip(".")


def sizes(finding: Finding) -> list[str]:
    """The sizes of a finding, each with its unit; pixels where the spacing is not known."""
    out = []
    if finding.volume_ml is not None:
        out.append(f"{number(finding.volume_ml)} ml")
    if finding.area_mm2 is not None:
        out.append(f"{number(finding.area_mm2)} mm²")
    if finding.diameter_mm is not None:
        out.append(f"{number(finding.diameter_mm)} mm across")
    if finding.longest_mm is not None and finding.slice_range is not None:
        out.append(f"{number(finding.longest_mm)} mm longest")
    out = out or [f"{number(finding.area_px)} px"]
    if finding.slice_range is not None:
        first, last = (z + 1 for z in finding.slice_range)
        out.append(f"slice {first}" if first == last else f"slices {first} to {last}")
    return out


def study_words(report: Report) -> list[str]:
    """What was read, in a few short pieces; what the file does not say is named last."""
    study = report.study
    image = study.image
    spacing = image.spacing_mm and " × ".join(f"{mm:.3g}" for mm in reversed(image.spacing_mm))
    pieces = {
        "modality": image.modality,
        "body part": image.body_part,
        "patient": study.patient_id and "",  # known, and not to be shown
        "date": study.date and study.date.isoformat(),
        "grid": " × ".join(str(n) for n in reversed(image.grid)) + " px",
        "pixel size": spacing and f"{spacing} mm",
    }
    unknown = [name for name, value in pieces.items() if value is None]
    known = [value for value in pieces.values() if value]
    return [*known, f"{', '.join(unknown)} unknown"] if unknown else known


def panel_date(kind: str, report: Report) -> str | None:
    """The date of the study that a panel shows, or which of how many; None where no matter."""
    change = report.change
    if change is None or kind == "change":
        return None
    date = change.prior_date if kind == "prior" else change.current_date
    if date is not None:
        return date.isoformat()
    last = len(report.study.priors) + 1
    return f"date {last - (kind == 'prior')} of {last}"


def date_words(dates: Sequence[datetime.date | None]) -> list[str]:
    """A word for each date, oldest first."""
    return [f"date {i}" if d is None else str(d) for i, d in enumerate(dates, start=1)]


def _dates(report: Report) -> list[str]:
    return date_words([s.date for s in (*report.study.priors, report.study)])


def last_pair(report: Report) -> str | None:
    """The two dates that pictures and comparison are of; None where there are no others."""
    dates = _dates(report)
    return None if len(dates) < 3 else " to ".join(dates[-2:])


def text_dates(report: Report) -> str | None:
    """The dates that the generated text speaks of: of two only where these were compared."""
    compared = report.change is not None and report.change.scores is not None
    pair = last_pair(report)
    return pair if pair is None or compared else _dates(report)[-1]


def alignment_words(report: Report) -> list[str]:
    """How well each two dates lie on each other, a line for each pair that was compared."""
    if report.change is None:
        return []
    course = report.course
    steps: Sequence[Change | Step] = [report.change] if course is None else course.steps
    dates = _dates(report)[-len(steps) - 1 :]
    return [
        f"From {before} to {after}: {_quality(step.alignment)}"
        for (before, after), step in zip(pairwise(dates), steps, strict=True)
        if step.alignment and step.label != "not_comparable"
    ]


def _quality(alignment: dict[str, Any]) -> str:
    unit = "mm" if "displacement_mm" in alignment else "px"
    return (
        f"aligned by {alignment[f'displacement_{unit}']:.3g} {unit} on average: "
        f"{alignment['overlap']:.0%} of the smaller view in both, local correlation "
        f"{alignment['similarity_before']:.2f} before and {alignment['similarity']:.2f} after, of "
        f"grey values {alignment['ncc_before']:.2f} and {alignment['ncc_after']:.2f}."
    )


def provenance_rows(report: Report) -> list[tuple[str, list[str]]]:
    """Provenance as rows of a name and lines."""
    record = plain(report.provenance)
    gate, libraries = record["gate"], record["libraries"]
    rows = [
        ("medic_ad", [record["medic_ad"]]),
        ("model", [record["model"], f"weights sha256 {record['weights_sha256']}"]),
        ("base", [record["base"]]),
        ("licence", [record["licence"]]),
        ("scope", [record["scope_entry"]]),
        (
            "out-of-scope gate",
            [f"distance {_short(gate['distance'])}, limit {_short(gate['limit'])}"],
        ),
        ("score threshold", [_short(record["threshold"])]),
        ("uncertain band", [" to ".join(_short(v) for v in record["uncertain_band"] or [None])]),
        ("map threshold", [_short(record["heatmap_threshold"])]),
        ("calibration", [f"{name} {_short(value)}" for name, value in record["score"].items()]),
        ("change temperature", [_short(record["change_temperature"])]),
        ("prevalence", [_short(record["prevalence"])]),
        ("device", [f"{record['device']}, {record['dtype']}"]),
        ("libraries", [f"{name} {version}" for name, version in libraries.items()]),
        ("created", [record["created"]]),
        ("study", [f"identity {identity(report.study)}"]),
    ]
    for entry in record["inputs"]:
        lines = [f"{entry['path']} ({entry['format']})", f"sha256 {entry['sha256']}"]
        rows.append((f"input, {entry['role']}", lines + entry["notes"]))
    if report.change is not None and "transform" in report.change.alignment:
        rows.append(("transform of the prior", _lines(plain(report.change.alignment["transform"]))))
    return [(name, [line or "none" for line in lines]) for name, lines in rows]


def _short(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _lines(matrix: list[list[float]]) -> list[str]:
    return ["  ".join(_short(value) for value in row) for row in matrix]
