"""`read` over dates without pixel spacing: scored and compared, never measured."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from course_cases import DAYS, Ball, calibrated, course_of, seer, study
from PIL import Image as Pillow

from medic_ad.errors import MedicADError
from medic_ad.load import Model
from medic_ad.report.html import render
from medic_ad.report.rules import NOT_MEASURED
from medic_ad.report.timeline import course_table, timeline_png
from medic_ad.road import read

FIRST: list[Ball] = [((22, 20), 3), ((32, 32), 4)]
SECOND: list[Ball] = [((22, 20), 5), ((32, 32), 4)]
THIRD: list[Ball] = [((22, 20), 6)]


@pytest.fixture(scope="module")
def model() -> Model:
    return calibrated()


@pytest.fixture(autouse=True)
def _sees(monkeypatch: pytest.MonkeyPatch) -> None:
    seer(monkeypatch)


@pytest.mark.parametrize("where", [0, 1])
def test_without_spacing_sizes_are_not_measured_and_a_warning_says_so(
    model: Model, where: int
) -> None:
    made = study([FIRST, SECOND])
    bare = dataclasses.replace((made.priors[0], made)[where].image, spacing_mm=None)
    if where:
        made = dataclasses.replace(made, image=bare)
    else:
        made = dataclasses.replace(made, priors=(dataclasses.replace(made.priors[0], image=bare),))
    report = read(made, model)
    course = course_of(report)
    assert course.lesions is None and course.unit is None and NOT_MEASURED in report.warnings
    assert course.rows() == [] and course.counts == (None, None) and np.isnan(course.loads).all()
    assert report.change is not None and report.change.scores is not None
    with pytest.raises(MedicADError, match="not measured"):
        kept = tuple(w for w in report.warnings if w != NOT_MEASURED)
        dataclasses.replace(report, warnings=kept)


def test_every_date_without_spacing_is_scored_compared_and_shown(model: Model) -> None:
    made = study([FIRST, SECOND, THIRD])
    bare = [dataclasses.replace(s.image, spacing_mm=None) for s in (*made.priors, made)]
    priors = (dataclasses.replace(p, image=i) for p, i in zip(made.priors, bare, strict=False))
    made = dataclasses.replace(made, image=bare[-1], priors=tuple(priors))
    report = read(made, model)
    course = course_of(report)
    assert [v.date for v in course.visits] == list(DAYS)
    assert all(0 <= v.score <= 1 for v in course.visits)
    assert [step.scores is not None for step in course.steps] == [True, True]
    alone = read(dataclasses.replace(made.priors[0], priors=()), model)
    assert course.visits[0].score == alone.score
    table = course_table(report)
    assert table is not None and table.unit is None and len(table.scores) == 3 and not table.rows
    shown = Pillow.open(io.BytesIO(timeline_png(report) or b""))
    assert shown.width > 2 * shown.height  # scores alone
    page = render(report)
    assert "sizes are not known" in page and "No lesion to follow" not in page
    for day in DAYS:
        assert str(day) in page
