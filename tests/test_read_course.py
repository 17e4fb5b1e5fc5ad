"""`read` over several dates: planted lesions are followed, exchanged dates invert the answer."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from course_cases import (
    DAYS,
    SIDE,
    Ball,
    calibrated,
    course_of,
    fates,
    followed,
    mask,
    seer,
    study,
    turned,
)
from tiny import canvases

from medic_ad.align import align
from medic_ad.change import compare_slices, compare_studies
from medic_ad.course import StudyCourse
from medic_ad.errors import MedicADError, StudyError
from medic_ad.load import Model
from medic_ad.look import joined, look, parted
from medic_ad.model.calibration import Calibration
from medic_ad.road import read, scan

GROWS, SHRINKS, STAYS = (22, 20), (22, 44), (32, 32)
COMES, GOES = (46, 20), (46, 44)
FIRST: list[Ball] = [(GROWS, 3), (SHRINKS, 5), (STAYS, 4), (GOES, 3.2)]
SECOND: list[Ball] = [(GROWS, 5), (SHRINKS, 3), (STAYS, 4), (COMES, 3.2)]
THIRD: list[Ball] = [(GROWS, 6), (STAYS, 4), (COMES, 3.2)]
VOLUME = (14, SIDE, SIDE)


@pytest.fixture(scope="module")
def model() -> Model:
    return calibrated()


@pytest.fixture(autouse=True)
def _sees(monkeypatch: pytest.MonkeyPatch) -> None:
    seer(monkeypatch)


def deep(balls: list[Ball], z: int = 7) -> list[Ball]:
    return [((z, *centre), radius) for centre, radius in balls]


def number_at(course: StudyCourse, date: int, place: tuple[int, ...]) -> int:
    """Tracking id of the lesion around a place (h, w)."""
    [found] = [
        i.number for i in followed(course).lesions[date] if math.dist(i.centroid[1:], place) < 2
    ]
    return found


# ---------------------------------------------------------------- what was planted is followed
@pytest.mark.parametrize("volume", [False, True], ids=["slice", "volume"])
def test_planted_lesions_are_followed_over_three_dates(model: Model, volume: bool) -> None:
    dates = [FIRST, SECOND, THIRD]
    if volume:
        made = study([deep(d) for d in dates], VOLUME, (2.0, 1.5, 1.5))
    else:
        made = study(dates, spacing=(0.5, 2.0))
    report = read(made, model)
    course = course_of(report)
    assert [v.date for v in course.visits] == list(DAYS)
    assert course.unit == ("ml" if volume else "mm2")
    size = 2.0 * 1.5 * 1.5 / 1000 if volume else 0.5 * 2.0
    truth = [
        mask(VOLUME if volume else (SIDE, SIDE), deep(d) if volume else d).sum() * size
        for d in dates
    ]
    np.testing.assert_allclose(course.loads, truth, rtol=1e-6)
    assert followed(course).counts == (4, 4, 3)
    ids = {p: number_at(course, 1, p) for p in (GROWS, SHRINKS, STAYS, COMES)}
    ids[GOES] = number_at(course, 0, GOES)
    for place, dates_on in ((GROWS, (0, 2)), (STAYS, (0, 2)), (SHRINKS, (0,)), (COMES, (2,))):
        assert {number_at(course, d, place) for d in dates_on} == {ids[place]}
    rows = {row.number: row for row in course.rows()}
    assert {place: rows[ids[place]].kinds for place in ids} == {
        GROWS: ("enlarged", "enlarged"),
        SHRINKS: ("reduced", "resolved"),
        STAYS: ("stable", "stable"),
        COMES: ("new", "stable"),
        GOES: ("resolved", None),
    }
    grown = rows[ids[GROWS]]
    first, _, last = (s or 0.0 for s in grown.sizes)
    years = (DAYS[2] - DAYS[0]).days / 365.25
    assert grown.change == pytest.approx(last - first)
    assert grown.percent == pytest.approx(100 * (last / first - 1))
    assert grown.per_year == pytest.approx((last - first) / years)
    assert grown.percent_per_year == pytest.approx(100 * ((last / first) ** (1 / years) - 1))
    gone, come = rows[ids[GOES]], rows[ids[COMES]]
    assert gone.percent == pytest.approx(-100) and gone.sizes[1:] == (None, None)
    assert come.change == come.sizes[1] and math.isnan(come.percent)
    assert math.isnan(come.percents[0]) and come.percents[1] == 0
    middle = grown.sizes[1] or 0.0
    steps = 100 * (middle / first - 1), 100 * (last / middle - 1)
    assert grown.percents == pytest.approx(steps)
    assert all(math.isnan(percent) for percent in gone.percents)
    assert all(step.load_mixed for step in course.steps)
    assert all(step.alignment["similarity"] > 0.5 for step in course.steps)
    assert report.change is not None and report.change.alignment is course.steps[1].alignment


def test_the_longest_side_of_a_slice_lies_in_the_slice(model: Model) -> None:
    course = course_of(read(study([FIRST, SECOND], spacing=(0.5, 0.5)), model))
    [row] = [r for r in course.rows() if r.number == number_at(course, 0, GROWS)]
    # a disc of radius 3 is 7 pixels across, 1 pixel wide at its tips: between the outer faces
    assert row.longest_mm[0] == pytest.approx(0.5 * 7, abs=0.15)


def test_the_current_lesions_are_the_findings(model: Model) -> None:
    report = read(study([FIRST, SECOND, [*THIRD, ((12, 32), 1)]]), model)  # a speck of 5 px
    course = course_of(report)
    assert len(report.findings) == followed(course).counts[-1] == 3
    assert (report.heatmap >= 0.5).sum() > sum(f.voxels for f in report.findings)
    with pytest.raises(MedicADError, match="findings"):
        dataclasses.replace(report, findings=report.findings[:1])


# ---------------------------------------------------------------- exchange
PAIRS: dict[str, tuple[list[Ball], list[Ball]]] = {
    "fates": (FIRST, SECOND),
    "merges": (
        [((30, 24), 3.0), ((30, 36), 3.0)],
        [((30, 24), 3.0), ((30, 36), 3.0), ((30, 30), 4)],
    ),
    "nothing before": ([], THIRD),
}


@pytest.mark.parametrize("volume", [False, True], ids=["slice", "volume"])
@pytest.mark.parametrize("name", PAIRS)
def test_exchanging_the_dates_inverts_everything(model: Model, name: str, volume: bool) -> None:
    pair = list(PAIRS[name])
    shape, spacing = (VOLUME, (2.0, 1.0, 1.0)) if volume else ((SIDE, SIDE), (1.0, 1.0))
    if volume:
        pair = [deep(balls) for balls in pair]
    reports = [read(study(order, shape, spacing), model) for order in (pair, pair[::-1])]
    forth, back = (course_of(r) for r in reports)
    assert forth.loads == back.loads[::-1]
    seen = fates(reports[0])
    assert seen == turned(fates(reports[1])) and seen
    if name == "merges":
        assert [kind for kind, *_ in seen] == ["merged"]
    opposite = {"worse": "better", "better": "worse", "stable": "stable"}
    one, other = forth.steps[0], back.steps[0]
    assert one.label == opposite[other.label] and one.load_label == opposite[other.load_label]
    assert one.scores is not None and other.scores is not None
    assert one.scores == {opposite[k]: v for k, v in other.scores.items()}
    assert [v.score for v in forth.visits] == [v.score for v in back.visits][::-1]


def test_looks_in_batches_exchange_bit_for_bit(model: Model) -> None:
    made = study([deep(FIRST), deep(SECOND)], (20, SIDE, SIDE), (2.0, 1.0, 1.0))  # two batches
    now, then = made.image, made.priors[0].image
    forth, back = (compare_slices(align(a, b), model) for a, b in ((now, then), (then, now)))
    np.testing.assert_array_equal(forth.map, -back.map)
    assert len(forth.outputs) == 20 and forth.gates[0].shape[0] == 20
    for one, other in zip(forth.outputs, back.outputs, strict=True):
        assert torch.equal(one.logits[[2, 1, 0]], other.logits)


def test_a_pair_is_judged_by_all_its_slices(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    made = study([deep(FIRST), deep(SECOND)], (20, SIDE, SIDE), (2.0, 1.0, 1.0))
    judged: list[int] = []
    entry = Calibration.entry

    def recorded(calibration: Calibration, features: torch.Tensor) -> tuple[int, float, float]:
        judged.append(len(features))
        return entry(calibration, features)

    monkeypatch.setattr(Calibration, "entry", recorded)
    compare_studies(made.priors[0], made, model)
    assert judged == [20, 20]


@pytest.mark.parametrize(
    ("dates", "shape", "passes"),
    [
        ([FIRST, SECOND], (SIDE, SIDE), 2),
        ([FIRST, SECOND, THIRD], (SIDE, SIDE), 3),
        ([deep(FIRST), deep(SECOND)], VOLUME, 4),
        ([deep(FIRST), deep(SECOND), deep(THIRD)], VOLUME, 7),
    ],
    ids=["pair of slices", "three slices", "pair of volumes", "three volumes"],
)
def test_nothing_is_looked_at_twice(
    model: Model, monkeypatch: pytest.MonkeyPatch, dates: Any, shape: Any, passes: int
) -> None:
    """Slices that fit as they lie are known; volumes are looked at once by date, once by pair."""
    looked: list[int] = []
    encode = type(model.network).encode

    def counted(network: Any, **images: Any) -> Any:
        looked.append(1)
        return encode(network, **images)

    monkeypatch.setattr(type(model.network), "encode", counted)
    made = study(dates, shape, (2.0, 1.0, 1.0)[-len(shape) :])
    report = read(made, model, question="Is it worse than before?")
    assert len(looked) == passes and report.text is not None and report.change is not None


def test_a_look_in_parts_is_the_look(model: Model) -> None:
    whole = look(model, canvases(3))
    parts = parted(whole)
    assert len(parts) == 3
    again = joined(*parts)
    assert torch.equal(again.encoder.last_hidden_state, whole.vision.encoder.last_hidden_state)
    for i, part in enumerate(parts):
        alone = look(model, canvases(3)[i : i + 1])
        for mine, theirs in (
            (part.vision.encoder.last_hidden_state, alone.vision.encoder.last_hidden_state),
            (part.vision.merged[0], alone.vision.merged[0]),
            (part.vision.taps[0], alone.vision.taps[0]),
            (part.logits, alone.logits),
        ):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", [1, -1], ids=["narrow first", "narrow last"])
def test_what_one_date_did_not_look_at_is_not_comparable(model: Model, order: int) -> None:
    """Slices that are nearly empty on one date are not looked at: no lesion comes or goes there."""
    balls = [((4, *STAYS), 2.5), ((10, *GROWS), 2.5)]
    both = study([balls, balls], VOLUME, (2.0, 1.5, 1.5))
    narrow = both.priors[0].image
    pixels = np.where(np.arange(VOLUME[0])[:, None, None] < 7, narrow.pixels, 0)
    narrow = dataclasses.replace(narrow, pixels=pixels.astype(np.float32))
    images = [narrow, both.image][::order]
    made = dataclasses.replace(
        both,
        image=images[1],
        priors=(dataclasses.replace(both.priors[0], image=images[0]),),
    )
    report = read(made, model)
    course = course_of(report)
    found = sorted(c.kind for c in followed(course).changes[0])
    assert found == ["not_comparable", "stable"]
    assert course.steps[0].load_label == "stable"


# ---------------------------------------------------------------- where there is no course
def test_no_prior_no_course(model: Model) -> None:
    report = read(study([FIRST]), model)
    assert report.course is None and report.change is None
    assert json.loads(report.to_json())["course"] is None


def test_a_date_out_of_scope_cuts_the_course(model: Model) -> None:
    made = study([FIRST, SECOND, THIRD])
    blank = made.priors[1].image
    blank = dataclasses.replace(blank, pixels=np.full_like(blank.pixels, 7.0))
    priors = (made.priors[0], dataclasses.replace(made.priors[1], image=blank))
    report = read(dataclasses.replace(made, priors=priors), model)
    course = course_of(report)
    assert [s.label for s in course.steps] == ["not_comparable"] * 2
    said = "The {} date is out of scope: the image is blank."
    assert [s.reason for s in course.steps] == [said.format("later"), said.format("earlier")]
    assert report.change is not None and report.change.reason == course.steps[1].reason
    assert math.isnan(course.visits[1].score) and math.isnan(course.loads[1])
    assert followed(course).changes == ((), ())
    assert (
        len({i.number for d in followed(course).lesions for i in d}) == 4 + 0 + 3
    )  # no id returns
    content = json.loads(report.to_json())["course"]
    assert content["dates"][1]["load"] is None and content["dates"][1]["lesions"] is None


@pytest.mark.parametrize("gated", [False, True], ids=["blank dates", "gate of the pair"])
def test_two_dates_out_of_scope_are_both_named(
    model: Model, gated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = study([FIRST, SECOND])
    if gated:
        monkeypatch.setattr(Calibration, "entry", lambda *_: (0, 9.0, 4.0))
        reason, why = compare_studies(made.priors[0], made, model).change.reason, "distance 9.0"
    else:
        grey = [
            dataclasses.replace(s.image, pixels=np.full((SIDE, SIDE), 7.0, np.float32))
            for s in (made, *made.priors)
        ]
        old = dataclasses.replace(made.priors[0], image=grey[1])
        report = read(dataclasses.replace(made, image=grey[0], priors=(old,)), model)
        reason, why = course_of(report).steps[0].reason, "the image is blank"
    assert reason is not None and reason.count(f"date is out of scope: {why}") == 2
    assert reason.startswith("The earlier date") and " The later date" in reason


def test_two_courses_lie_beside_a_failed_alignment(model: Model) -> None:
    made = study([FIRST, FIRST, SECOND])
    planes = np.eye(4), np.eye(4)[[1, 0, 2, 3]]  # the two priors are cut across each other
    priors = tuple(
        dataclasses.replace(p, image=dataclasses.replace(p.image, affine=plane))
        for p, plane in zip(made.priors, planes, strict=True)
    )
    course = course_of(read(dataclasses.replace(made, priors=priors), model))
    assert course.steps[0].label == "not_comparable"
    assert "different planes" in str(course.steps[0].reason)
    assert course.steps[1].label != "not_comparable" and followed(course).changes[1]
    before, after = ({i.number for i in d} for d in followed(course).lesions[:2])
    assert not before & after


# ---------------------------------------------------------------- label and load, dates
def test_where_load_and_label_disagree_a_warning_says_who_leads(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def better(*_: Any) -> dict[str, float]:
        return {"worse": 0.1, "stable": 0.2, "better": 0.7}

    monkeypatch.setattr("medic_ad.change.change_scores", better)
    report = read(study([FIRST, [*FIRST, (COMES, 6)]]), model)
    course = course_of(report)
    assert (course.steps[0].label, course.steps[0].load_label) == ("better", "worse")
    [said] = [w for w in report.warnings if "the comparison leads for the label" in w]
    assert said.startswith("From 2021-01-01 to 2022-01-01 the comparison says better, but")
    assert "load rose (" in said
    with pytest.raises(MedicADError, match="load rose"):
        dataclasses.replace(report, warnings=tuple(w for w in report.warnings if w != said))
    agreeing = read(study([[*FIRST, (COMES, 6)], FIRST]), model)
    assert not any("leads for the label" in w for w in agreeing.warnings)


def test_growth_per_year_needs_dates(model: Model) -> None:
    course = course_of(read(study([FIRST, SECOND], days=(None, None)), model))
    rows = course.rows()
    assert all(math.isnan(r.per_year) and math.isnan(r.percent_per_year) for r in rows)
    assert any(r.change > 0 for r in rows)


def test_two_dates_of_one_day_take_growth_per_year_from_no_other_pair(model: Model) -> None:
    made = study([FIRST, SECOND, THIRD])
    first, second = (dataclasses.replace(prior, patient_id=None) for prior in made.priors)
    made = dataclasses.replace(made, patient_id=None, date=second.date, priors=(first, second))
    course = course_of(read(made, model))
    apart, one_day = followed(course).changes
    assert any(c.ml_per_year > 0 for c in apart)
    assert one_day and all(math.isnan(c.ml_per_year) for c in one_day)


def test_the_course_must_fit_its_report(model: Model) -> None:
    report = read(study([FIRST, SECOND]), model)
    course = course_of(report)
    with pytest.raises(MedicADError, match="ends with"):
        visits = (course.visits[0], dataclasses.replace(course.visits[1], score=0.123))
        dataclasses.replace(report, course=dataclasses.replace(course, visits=visits))
    with pytest.raises(MedicADError, match="as many visits"):
        dataclasses.replace(course, visits=course.visits[:1])


def test_more_dates_than_a_course_takes_are_refused() -> None:
    days = [datetime.date(2000 + i, 1, 1) for i in range(21)]
    assert len(study([[]] * 20, days=days).priors) == 19
    with pytest.raises(StudyError, match="at most 19 priors, came 20"):
        study([[]] * 21, days=days)


def test_progress_is_tracked_once_a_batch_of_every_volume(model: Model) -> None:
    steps: list[int] = []

    def track(batches: range) -> Any:
        steps.append(len(batches))
        return batches

    read(study([deep(FIRST), deep(SECOND)], VOLUME, (2.0, 1.0, 1.0)), model, track=track)
    assert steps == [1, 1, 1]  # both dates by themselves, and the pair
    assert scan(study([deep(FIRST)], VOLUME, (2.0, 1.0, 1.0)).image, model).entry == 0
