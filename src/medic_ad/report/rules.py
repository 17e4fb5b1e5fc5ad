"""Step 6 of the road: the rules that keep the fields of a report from contradicting each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from medic_ad.course import Step, StudyCourse
from medic_ad.errors import MedicADError
from medic_ad.finding import CHANGED, DECISIONS, Change, Finding, decide
from medic_ad.image import SMALL_SIDE_PX
from medic_ad.report.document import plain
from medic_ad.report.labels import date_words, number
from medic_ad.report.schema import PROVENANCE, validate
from medic_ad.report.text import answer_contradictions, contradictions
from medic_ad.study import NOT_VERIFIED, Study

if TYPE_CHECKING:
    from medic_ad.report.report import Report

# Right fits of slices and volumes lie above, also with large lesions; slices of another place or
# person below. Radiographs are projections: their right fits lie below as well.
POOR_SIMILARITY = 0.6
NOT_MEASURED = (
    "Sizes over time were not measured: not every date says its pixel spacing, so lesions are "
    "not followed."
)
NO_ANSWER = "No answer to the question is given: the image is out of scope."
NO_PLACE = (
    "No place found: the score says abnormal, but no region of the map reaches its threshold."
)
NOT_OF_VOLUMES = (
    "The score was calibrated on single slices, not on whole volumes: of a volume it is the mean "
    "of its highest slices, which leans towards abnormal."
)


def due_warnings(
    decision: str,
    findings: Sequence[Finding],
    change: Change | None,
    text: str,
    study: Study,
    question: str | None = None,
    answer: str | None = None,
    course: StudyCourse | None = None,
) -> tuple[str, ...]:
    """The warnings that a report with these fields must carry, and so refuses to go without."""
    due = []
    if decision == "abnormal" and not findings:
        due.append(NO_PLACE)
    if study.image.is_volume and decision != "out_of_scope":
        due.append(NOT_OF_VOLUMES)
    notes = list(study.notes)
    if study.priors and not study.identity_verified and not any(NOT_VERIFIED in n for n in notes):
        notes.append(f"{NOT_VERIFIED}: the order given holds")
    for what, image in (("image", study.image), *(("prior", p.image) for p in study.priors[-1:])):
        if min(image.grid[-2:]) < SMALL_SIDE_PX:
            size = " x ".join(str(n) for n in image.grid[-2:])
            due.append(
                f"The {what} has only {size} pixels (fewer than {SMALL_SIDE_PX} a side) and is "
                "enlarged for the model: little can be judged on it."
            )
    due += [f"{note[:1].upper()}{note[1:].rstrip('.')}." for note in notes]
    if study.priors and not study.measurable:
        due.append(NOT_MEASURED)
    if change is not None:
        due += _poor_fits(change, course)
        due += _outside_findings(change, findings)
    if course is not None:
        due += _against_load(course)
    label = None if change is None else change.label
    due += contradictions(text, decision, findings, label, due)
    if question is not None and answer is None:
        due.append(NO_ANSWER)
    if answer is not None:
        due += answer_contradictions(question or "", answer, decision, findings, label)
    return tuple(due)


def check(report: Report) -> None:
    """Raise MedicADError at the first rule that a report breaks."""
    validate(plain(report.provenance), PROVENANCE)
    _check_decision(report)
    _check_map(report)
    _check_slices(report)
    _check_findings(report)
    _check_change(report)
    _check_course(report)
    due = due_warnings(
        report.decision,
        report.findings,
        report.change,
        report.text,
        report.study,
        report.question,
        report.answer,
        report.course,
    )
    missing = [sentence for sentence in due if sentence not in report.warnings]
    if missing:
        raise MedicADError(f"The report must carry the warning: {missing[0]}")


def _check_decision(report: Report) -> None:
    score, decision = report.score, report.decision
    if decision not in DECISIONS:
        raise MedicADError(f"A decision is one of {', '.join(DECISIONS)}, not '{decision}'.")
    if not (math.isnan(score) or 0.0 <= score <= 1.0):
        raise MedicADError(f"A score is a probability in [0, 1], or NaN out of scope, not {score}.")
    if math.isnan(score) != (decision == "out_of_scope"):
        raise MedicADError(
            f"Out of scope means no score, and no score out of scope: '{decision}' came with "
            f"{score}."
        )
    if decision == "out_of_scope":
        return
    threshold, band = report.provenance["threshold"], report.provenance["uncertain_band"]
    if threshold is None or band is None or not band[0] <= threshold <= band[1]:
        raise MedicADError(
            f"A decision needs a fitted threshold within its uncertain band: threshold "
            f"{threshold}, band {band}; fit the model's calibration first."
        )
    due = decide(score, (band[0], band[1]))
    if decision != due:
        raise MedicADError(
            f"The score alone makes the decision: {score:.4f} with the uncertain band {band} is "
            f"'{due}', not '{decision}'."
        )


def _check_map(report: Report) -> None:
    heatmap, grid = report.heatmap, report.study.image.grid
    if heatmap.dtype != np.float32 or heatmap.shape != grid:
        raise MedicADError(
            f"The heatmap is float32 on the current image's grid {grid}, not {heatmap.dtype} "
            f"{heatmap.shape}."
        )
    looked = heatmap[~np.isnan(heatmap)]
    if report.decision == "out_of_scope":
        if looked.size:
            raise MedicADError("Out of scope there is no map: all of the heatmap must be NaN.")
        return
    if not looked.size:
        raise MedicADError("A read in scope has a map: the heatmap must not be NaN throughout.")
    if looked.min() < 0.0 or looked.max() > 1.0:
        raise MedicADError(
            f"The heatmap holds probabilities in [0, 1], not {looked.min()} to {looked.max()}."
        )
    if not 0.0 < report.heatmap_threshold < 1.0:
        raise MedicADError(
            f"The heatmap's threshold lies between 0 and 1, not at {report.heatmap_threshold}; "
            f"fit the model's calibration first."
        )
    recorded = report.provenance["heatmap_threshold"]
    if recorded is None or not math.isclose(recorded, report.heatmap_threshold, rel_tol=1e-6):
        raise MedicADError(
            f"The provenance records the heatmap threshold {recorded}, the report uses "
            f"{report.heatmap_threshold}."
        )


def _check_slices(report: Report) -> None:
    scores, image = report.slice_scores, report.study.image
    if not image.is_volume:
        if scores is not None:
            raise MedicADError("Scores of slices are those of a volume; a single image has none.")
        return
    looked = ~np.isnan(report.heatmap).all((1, 2))
    if scores is None or not np.array_equal(~np.isnan(scores), looked):
        raise MedicADError(
            f"A volume of {len(looked)} slices has a score of each slice that was looked at, "
            f"{looked.sum()}, and NaN elsewhere."
        )


def _check_findings(report: Report) -> None:
    if report.decision == "out_of_scope" and report.findings:
        raise MedicADError("Out of scope there are no findings.")
    for finding in report.findings:
        ndim = report.heatmap.ndim
        low, high = finding.box[:ndim], finding.box[ndim:]
        if len(finding.box) != 2 * ndim or any(
            end > size for end, size in zip(high, report.heatmap.shape, strict=True)
        ):
            raise MedicADError(
                f"The finding's box {finding.box} leaves the map's grid {report.heatmap.shape}."
            )
        window = report.heatmap[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        peak = float(np.nan_to_num(window).max())
        if not report.heatmap_threshold <= finding.score <= peak + 1e-6:
            raise MedicADError(
                f"The finding's score {finding.score:.4f} must lie between the map's threshold "
                f"{report.heatmap_threshold:.4f} and the map's peak in its box, {peak:.4f}."
            )


def _check_change(report: Report) -> None:
    change, priors = report.change, report.study.priors
    if (change is None) != (not priors):
        raise MedicADError(
            f"A change is reported when there is a prior, and only then: {len(priors)} priors, "
            f"change {None if change is None else change.label}."
        )
    if change is None:
        return
    if report.decision == "out_of_scope" and change.label != "not_comparable":
        raise MedicADError(f"Out of scope nothing is compared, so not '{change.label}'.")
    if change.map is not None and change.map.shape != report.study.image.grid:
        raise MedicADError(
            f"The change map is on the current image's grid {report.study.image.grid}, not "
            f"{change.map.shape}."
        )


def _check_course(report: Report) -> None:
    course, change, dates = report.course, report.change, 1 + len(report.study.priors)
    if course is None:
        return
    if change is None or len(course.visits) != dates:
        raise MedicADError(
            f"A course has a prior and all {dates} dates of a study, not {len(course.visits)}."
        )
    if (course.lesions is not None) != report.study.measurable:
        raise MedicADError(
            "A course has sizes where all dates have a pixel spacing, and only there."
        )
    now, label = course.visits[-1], course.steps[-1].label
    ends = [
        (None if math.isnan(score) else score, decision, tuple(band or ()), what)
        for score, decision, band, what in (
            (report.score, report.decision, report.provenance["uncertain_band"], change.label),
            (now.score, now.decision, now.uncertain_band, label),
        )
    ]
    if ends[0] != ends[1]:
        raise MedicADError(
            f"The course ends with the report's score, decision, band and change {ends[0]}, not "
            f"{ends[1]}."
        )
    now_there = None if course.lesions is None else course.lesions.counts[-1]
    if now_there not in (None, len(report.findings)):
        raise MedicADError(
            f"The lesions of the current date are the {len(report.findings)} findings, not "
            f"{now_there}."
        )


def _against_load(course: StudyCourse) -> list[str]:
    """One sentence for each two dates of which the comparison and the measured load disagree."""
    unit, said = {"ml": "ml", "mm2": "mm²"}.get(course.unit or ""), []
    for i, step in enumerate(course.steps):
        if not step.contradicts:
            continue
        ends = date_words([visit.date for visit in course.visits])[i : i + 2]
        before, after = step.loads
        verb = "rose" if after > before else "fell" if after < before else "stayed"
        within = ", within tolerance" if step.load_label == "stable" else ""
        said.append(
            f"From {' to '.join(ends)} the comparison says {step.label}, but the measured lesion "
            f"load {verb} ({number(before)} to {number(after)} {unit}{within}); the comparison "
            "leads for the label, the measured sizes for each lesion."
        )
    return said


def _poor_fits(change: Change, course: StudyCourse | None) -> list[str]:
    """One sentence for each two dates that were compared although they hardly fit."""
    steps: list[tuple[str, Change | Step]] = [("The dates", change)]
    if course is not None and len(course.steps) > 1:
        pairs = pairwise(date_words([visit.date for visit in course.visits]))
        steps = [
            (" and ".join(p).capitalize(), s) for p, s in zip(pairs, course.steps, strict=True)
        ]
    return [
        f"{dates} agree poorly after alignment (similarity {step.alignment['similarity']:.2f}, "
        f"below {POOR_SIMILARITY:g}): the change may be of position, not of disease."
        for dates, step in steps
        if step.label != "not_comparable"
        and step.alignment.get("similarity", 1.0) < POOR_SIMILARITY
    ]


def _outside_findings(change: Change, findings: Sequence[Finding]) -> list[str]:
    """One sentence where a change is said that the change map shows in no finding's box.

    A lesion of the prior's own heatmap counts as well: it may be gone.
    """
    if change.map is None or change.label == "stable":
        return []
    changed = np.abs(change.map) > CHANGED
    inside = np.zeros(changed.shape, bool)
    for finding in findings:
        ndim = len(finding.box) // 2
        inside[tuple(map(slice, finding.box[:ndim], finding.box[ndim:]))] = True
    if change.prior_heatmap is not None and change.prior_threshold is not None:
        inside |= change.prior_heatmap >= change.prior_threshold
    if (changed & inside).any():
        return []
    return [
        f"The comparison says {change.label}, but nothing that the change map marks (beyond "
        f"±{CHANGED:g}) lies in a finding of either date."
    ]
