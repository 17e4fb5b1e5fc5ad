"""What a report of three dates says of each pair: a poor fit, and a load that is known in part."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from report_cases import QUALITY, make_image
from test_report_course import DAYS, SCORES, SHAPE, SPACING, Days, heat, report

from medic_ad.course import Step, StudyCourse, follow_studies, measure_date
from medic_ad.report.rules import due_warnings
from medic_ad.report.timeline import course_table


def whole() -> StudyCourse:
    course = report().course
    assert course is not None
    return course


def test_every_pair_that_fits_poorly_is_warned_of_by_its_dates() -> None:
    def warned(first: Step, days: Days = DAYS) -> list[str]:
        visits = tuple(
            dataclasses.replace(v, date=d) for v, d in zip(whole().visits, days, strict=True)
        )
        course = dataclasses.replace(whole(), visits=visits, steps=(first, whole().steps[1]))
        change = report().change
        due = due_warnings("normal", (), change, "", report().study, course=course)
        return [line for line in due if "agree poorly" in line]

    poor = dataclasses.replace(whole().steps[0], alignment={**QUALITY, "similarity": 0.41})
    rest = " agree poorly after alignment (similarity 0.41, below 0.6): the change may be of "
    rest += "position, not of disease."
    assert warned(poor) == [f"{DAYS[0]} and {DAYS[1]}{rest}"]
    assert warned(poor, (None, None, None)) == [f"Date 1 and date 2{rest}"]
    assert warned(whole().steps[0]) == []
    assert warned(dataclasses.replace(poor, label="not_comparable", scores=None)) == []


def seen_from_the_left(columns: int) -> StudyCourse:
    """On the first date the model did not look further than some columns."""
    image = make_image(SHAPE, spacing_mm=SPACING)
    first = heat(1, 4)
    first[:, :, columns:] = np.nan
    steps = [Step("stable", SCORES, None, False), Step("worse", SCORES, None, False)]
    return follow_studies(
        whole().visits,
        [measure_date(m, 0.42, image) for m in (first, heat(2, 6), heat(3, 4))],
        steps,
        [(np.diag([*SPACING, 1.0]),) * 2] * 2,
        volumes=True,
    )


def test_a_load_that_counts_for_a_part_only_is_said_to() -> None:
    course = seen_from_the_left(14)  # one cube of 4 x 4 x 4 voxels of 2 mm3; the other is behind
    assert course.loads[:2] == pytest.approx((0.128, 0.128 + 0.432))
    assert course.steps[0].load_label == "stable"
    assert course.steps[0].loads == pytest.approx((0.128, 0.128))
    warnings = due_warnings("abnormal", (), None, "", report().study, course=course)
    shown = dataclasses.replace(report(), course=course, warnings=(*report().warnings, *warnings))
    table = course_table(shown)
    assert table is not None and table.loads[:2] == ["0.128", "0.560"]
    assert table.notes == [
        f"{DAYS[0]} to {DAYS[1]}: the load is judged by the lesions whose place both dates show, "
        "0.128 before and 0.128 ml after."
    ]
    assert table.notes[0] in shown.to_html()


def test_a_load_of_which_nothing_is_known_on_both_dates_is_no_zero() -> None:
    step = seen_from_the_left(3).steps[0]
    assert step.load_label == "not_comparable" and all(map(math.isnan, step.loads))
