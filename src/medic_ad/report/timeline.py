"""Step 6 of the road: the course of a report over its dates, as a table in words and as a plot."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medic_ad.course import LesionRow, StudyCourse
from medic_ad.report.labels import date_words, number

if TYPE_CHECKING:
    from medic_ad.report.report import Report

MAX_LESIONS = 24  # shown in tables and plot; report.json has all
NONE = "–"
NO_GROWTH = "No growth per year: not every date is known."
_UNITS = {"ml": "ml", "mm2": "mm²"}
_BACKGROUND, _TEXT, _MUTED, _LINE, _LOAD = "#13171b", "#d6dde4", "#8b97a3", "#3a444e", "#7fe3f5"
BAND_WIDTH = 14.0  # points
_LABELS = {"worse": "#f0a35e", "better": "#6fb4f5", "stable": "#d6dde4"}


@dataclass(frozen=True)
class CourseTable:
    """The course in words: a column for each date, a row for each lesion shown.

    Attributes:
        unit: of all sizes; None where none is known.
        dates, scores, decisions, counts, loads: a word for each date.
        labels: what the comparison says between each two dates.
        load_labels: what the measured load says there.
        rows: tracking id, index of the finding (None where the lesion is gone), classes and their
            percent, a size for each date, change and growth per year.
        more: lesions that are not shown.
        notes: sentences on where the course is cut, and on growth that cannot be given.
    """

    unit: str | None
    dates: list[str]
    scores: list[str]
    decisions: list[str]
    counts: list[str]
    loads: list[str]
    labels: list[str]
    load_labels: list[str]
    rows: list[dict[str, Any]]
    more: int
    notes: list[str]


def course_table(report: Report) -> CourseTable | None:
    """The course of a report in words, None without one."""
    course = report.course
    if course is None:
        return None
    dates = date_words([v.date for v in course.visits])
    rows, more = shown_rows(course)
    return CourseTable(
        unit=_UNITS.get(course.unit or ""),
        dates=dates,
        scores=[NONE if math.isnan(v.score) else f"{v.score:.2f}" for v in course.visits],
        decisions=[v.decision.replace("_", " ") for v in course.visits],
        counts=[NONE if n is None else f"{n} lesion{'' if n == 1 else 's'}" for n in course.counts],
        loads=[_size(None if math.isnan(load) else load) for load in course.loads],
        labels=[step.label.replace("_", " ") for step in course.steps],
        load_labels=[step.load_label.replace("_", " ") for step in course.steps],
        rows=[_row(row, report, course) for row in rows],
        more=more,
        notes=[
            *(
                f"{dates[i]} to {dates[i + 1]} cannot be compared: {step.reason}"
                for i, step in enumerate(course.steps)
                if step.reason
            ),
            *([NO_GROWTH] if rows and any(v.date is None for v in course.visits) else []),
        ],
    )


def shown_rows(course: StudyCourse) -> tuple[list[LesionRow], int]:
    """The largest lesions in the order of their ids, and how many are left out."""
    rows = course.rows()
    largest = sorted(rows, key=lambda r: -max(s or 0.0 for s in r.sizes))[:MAX_LESIONS]
    return sorted(largest, key=lambda r: r.number), max(0, len(rows) - MAX_LESIONS)


def lesion_numbers(report: Report) -> list[int]:
    """The number of each finding wherever it is shown: its tracking id where there is a course."""
    numbers = list(range(1, len(report.findings) + 1))
    if report.course is not None:
        for row in report.course.rows():
            index = _finding_index(row, report, report.course)
            if index is not None:
                numbers[index] = row.number
    return numbers


def _row(row: LesionRow, report: Report, course: StudyCourse) -> dict[str, Any]:
    return {
        "id": row.number,
        "finding": _finding_index(row, report, course),
        "kinds": [
            _class(kind, percent) for kind, percent in zip(row.kinds, row.percents, strict=True)
        ],
        "sizes": [_size(size) for size in row.sizes],
        "longest": [_size(mm) for mm in row.longest_mm],
        "change": _signed(row.change),
        "percent": _signed(row.percent, " %"),
        "per_year": _signed(row.per_year),
        "percent_per_year": _signed(row.percent_per_year, " %"),
    }


def _finding_index(row: LesionRow, report: Report, course: StudyCourse) -> int | None:
    """Which finding a lesion is, None where it is gone."""
    last = () if course.lesions is None else course.lesions.lesions[-1]
    now = [i for i in last if i.number == row.number]
    for lesion in now:
        for index, finding in enumerate(report.findings):
            middle = lesion.centroid[-len(finding.centroid) :]
            if finding.voxels == lesion.voxels and np.allclose(finding.centroid, middle):
                return index
    return None


def _class(kind: str | None, percent: float) -> str:
    words = (kind or NONE).replace("_", " ")
    return words if math.isnan(percent) else f"{words} {_signed(percent, ' %')}"


def _size(value: float | None) -> str:
    return NONE if value is None else number(value) if value else "0"


def _signed(value: float, unit: str = "") -> str:
    if math.isnan(value):
        return NONE
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{_size(abs(value))}{unit}"


def timeline_png(report: Report) -> bytes | None:
    """Score and, where sizes are known, load over the dates as PNG; None without a course."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    course = report.course
    if course is None:
        return None
    known = [v.date for v in course.visits if v.date is not None]
    to_scale = len(set(known)) == len(course.visits)
    x: list[Any] = known if to_scale else list(range(len(course.visits)))
    unit = _UNITS.get(course.unit or "")
    size = (8.0, 4.2 if unit else 2.2)
    figure = Figure(figsize=size, dpi=150, facecolor=_BACKGROUND, layout="constrained")
    FigureCanvasAgg(figure)
    if unit:
        top, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        _plot_loads(top, x, course)
        top.set_ylabel(f"load, {unit}", color=_TEXT, fontsize=9)
    else:
        top = below = figure.subplots()
    below.plot(x, [v.score for v in course.visits], color=_TEXT, linewidth=2, marker="o")
    below.set_ylabel("score", color=_TEXT, fontsize=9)
    below.set_ylim(-0.05, 1.05 if unit else 1.3)  # room for what the pairs say
    below.set_yticks([0.0, 0.5, 1.0])
    for place, visit in zip(x, course.visits, strict=True):  # of its own kind of scan
        if visit.uncertain_band is not None:
            below.vlines(place, *visit.uncertain_band, color=_LINE, linewidth=BAND_WIDTH, zorder=0)
    for i, step in enumerate(course.steps):
        middle = x[i] + (x[i + 1] - x[i]) / 2
        top.annotate(
            step.label.replace("_", " "), (middle, 0.97), xycoords=("data", "axes fraction"),
            color=_LABELS.get(step.label, _MUTED), fontsize=8, ha="center", va="top",
        )  # fmt: skip
        if step.label == "not_comparable":
            for axes in {top, below}:
                axes.axvline(middle, color=_MUTED, linestyle=":", linewidth=1)
    below.set_xticks(x, date_words([v.date for v in course.visits]))
    for axes in {top, below}:
        axes.set_facecolor(_BACKGROUND)
        axes.tick_params(colors=_MUTED, labelsize=8)
        axes.margins(x=0.06)
        for spine in axes.spines.values():
            spine.set_color(_LINE)
    if len(x) > 5:
        below.tick_params(axis="x", rotation=40)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=_BACKGROUND)
    return buffer.getvalue()


def _plot_loads(top: Any, x: Sequence[Any], course: StudyCourse) -> None:
    """Size of each lesion shown, and of all."""
    for row in shown_rows(course)[0]:
        sizes = [math.nan if s is None else s for s in row.sizes]
        top.plot(x, sizes, color=_MUTED, linewidth=0.8, marker=".", markersize=3, alpha=0.7)
        last = max(i for i, s in enumerate(row.sizes) if s is not None)
        top.annotate(
            str(row.number), (x[last], sizes[last]), (4, 0), textcoords="offset points",
            color=_MUTED, fontsize=7, va="center",
        )  # fmt: skip
    top.plot(x, course.loads, color=_LOAD, linewidth=2, marker="o", markersize=5)
    highest = max((s for s in course.loads if not math.isnan(s)), default=0.0)
    top.set_ylim(bottom=0, top=1.3 * highest or 1.0)  # nothing to scale by: one unit
