"""The rules that keep a report's fields from contradicting each other, one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from report_cases import (
    blob,
    make_change,
    make_image,
    make_prior,
    make_provenance,
    make_report,
    normal_report,
    out_of_scope_report,
    pair_report,
)

from medic_ad.cli_show import show_report
from medic_ad.errors import MedicADError
from medic_ad.finding import Change, find
from medic_ad.image import SMALL_SIDE_PX
from medic_ad.report import Report
from medic_ad.report.document import document
from medic_ad.report.labels import change_word
from medic_ad.report.rules import NO_ANSWER, NO_PLACE, NOT_OF_VOLUMES, due_warnings
from medic_ad.study import Study

NOT_COMPARABLE = Change("not_comparable", None, None, reason="The prior overlaps by 10 %.")


@pytest.mark.parametrize(
    "make", [make_report, normal_report, out_of_scope_report, pair_report], ids=lambda f: f.__name__
)
def test_consistent_reports_are_accepted(make: Callable[..., Report]) -> None:
    assert make().decision in ("abnormal", "normal", "out_of_scope")


def elsewhere() -> tuple[Any, ...]:
    return find(blob((96, 120))[::-1, ::-1].copy(), 0.42, make_image())


def on_another_grid() -> tuple[Any, ...]:
    return find(blob((12, 96, 120)), 0.42, make_image((12, 96, 120)))


@pytest.mark.parametrize(
    ("make", "changes", "match"),
    [
        # the score alone makes the decision
        (make_report, {"decision": "sick"}, "A decision is one of"),
        (make_report, {"decision": "normal"}, "score alone"),
        (make_report, {"score": 0.5, "decision": "abnormal"}, "score alone"),
        (make_report, {"score": 0.3, "decision": "uncertain"}, "score alone"),
        (make_report, {"score": 1.2}, "probability"),
        (make_report, {"provenance": make_provenance(threshold=None)}, "fitted threshold"),
        (make_report, {"provenance": make_provenance(uncertain_band=None)}, "fitted threshold"),
        (make_report, {"provenance": make_provenance(threshold=0.7)}, "within its uncertain band"),
        # out of scope: no score, no map, no findings, nothing compared
        (make_report, {"score": float("nan"), "decision": "abnormal"}, "Out of scope"),
        (make_report, {"decision": "out_of_scope"}, "Out of scope"),
        (out_of_scope_report, {"heatmap": blob((96, 120)), "findings": ()}, "must be NaN"),
        (out_of_scope_report, {"findings": elsewhere()}, "no findings"),
        (
            out_of_scope_report,
            {"study": Study(make_image(), priors=(make_prior(),)), "change": make_change()},
            "nothing is compared",
        ),
        # the heatmap is one probability map on the image's grid, with one recorded threshold
        (make_report, {"heatmap": blob((96, 120)).astype(np.float64)}, "float32"),
        (make_report, {"heatmap": blob((96, 121)), "findings": ()}, "grid"),
        (make_report, {"heatmap": blob((96, 120)) * 2, "findings": ()}, "probabilities"),
        (make_report, {"heatmap": blob((96, 120)) - 0.1, "findings": ()}, "probabilities"),
        (make_report, {"heatmap": np.full((96, 120), np.nan, np.float32)}, "NaN throughout"),
        (make_report, {"heatmap_threshold": float("nan"), "findings": ()}, "threshold lies"),
        (make_report, {"heatmap_threshold": 0.5}, "records the heatmap threshold"),
        # findings come from the map
        (make_report, {"findings": elsewhere()}, "score 0.9000 must lie"),
        (make_report, {"findings": on_another_grid()}, "leaves the map's grid"),
        (
            make_report,
            {"findings": find(blob((96, 120), 0.3), 0.2, make_image())},
            "score 0.3000 must lie",
        ),
        # a change exactly when there is a prior, on the current grid
        (make_report, {"change": make_change()}, "only then"),
        (pair_report, {"change": None}, "only then"),
        (pair_report, {"change": make_change((60, 60))}, "current image's grid"),
        # what must be said
        (normal_report, {"score": 0.9, "text": "", "warnings": ()}, "No place found"),
        (pair_report, {"warnings": ()}, "[Ii]dentity and dates not verified"),
        (make_report, {"text": "There is no anomaly.", "warnings": ()}, "says that there is no"),
        (make_report, {"text": "In the lower left of the image.", "warnings": ()}, "names the"),
        (
            make_report,
            {"question": "Is there an anomaly?", "answer": "No.", "warnings": ()},
            "The answer says",
        ),
        # provenance is whole
        (make_report, {"provenance": {}}, "required property"),
        (make_report, {"provenance": make_provenance(research_use="For clinics.")}, "research_use"),
        (make_report, {"provenance": make_provenance(weights_sha256="abc")}, "weights_sha256"),
        (make_report, {"provenance": make_provenance(inputs=[])}, "inputs"),
    ],
)
def test_a_contradiction_is_refused(
    make: Callable[..., Report], changes: dict[str, Any], match: str
) -> None:
    with pytest.raises(MedicADError, match=match):
        make(**changes)


def test_abnormal_without_a_region_says_no_place_found() -> None:
    report = normal_report(score=0.9, text="There is an anomaly.")
    assert report.decision == "abnormal" and report.findings == ()
    assert report.warnings == (NO_PLACE,)


def test_regions_of_a_normal_read_are_evidence_below_the_decision() -> None:
    report = make_report(score=0.1, text="There is no anomaly.")
    assert report.decision == "normal" and len(report.findings) == 1
    assert document(report)["findings_are"] == "evidence below the decision"
    assert document(make_report())["findings_are"] == "findings"


def test_out_of_scope_is_null_throughout() -> None:
    content = document(out_of_scope_report())
    assert content["score"] is None
    assert content["heatmap"]["maximum"] is None and content["heatmap"]["looked"] == 0
    assert content["findings"] == []


def test_out_of_scope_with_a_prior_is_not_comparable() -> None:
    study = Study(make_image(), priors=(make_prior(),))
    report = out_of_scope_report(study=study, change=NOT_COMPARABLE)
    assert report.change is NOT_COMPARABLE


def test_a_volume_says_that_its_score_is_that_of_slices() -> None:
    shape = (12, 96, 120)
    volume = make_report(image=make_image(shape), heatmap=blob(shape))
    assert NOT_OF_VOLUMES in volume.warnings and NOT_OF_VOLUMES not in make_report().warnings
    with pytest.raises(MedicADError, match="not on whole volumes"):
        dataclasses.replace(volume, warnings=())


def test_dates_that_agree_poorly_are_said_to() -> None:
    line = (
        "The dates agree poorly after alignment (similarity 0.27, below 0.6): the change may be "
        "of position, not of disease."
    )
    poor = pair_report(change=make_change(alignment={"similarity": 0.27}))
    assert line in poor.warnings
    with pytest.raises(MedicADError, match="must carry the warning: The dates agree"):
        dataclasses.replace(poor, warnings=tuple(w for w in poor.warnings if w != line))
    fine = pair_report(change=make_change(alignment={"similarity": 0.61}))
    refused = pair_report(change=dataclasses.replace(NOT_COMPARABLE, alignment={"similarity": 0.1}))
    assert not any("agree poorly" in w for w in fine.warnings + refused.warnings)


def test_notes_of_the_study_become_warnings() -> None:
    study = Study(make_image(), notes=("a prior is the same file as the current study",))
    assert make_report(study=study).warnings == ("A prior is the same file as the current study.",)


@pytest.mark.parametrize(("shape", "due"), [((31, 64), True), ((32, 64), False), ((64, 20), True)])
def test_a_very_small_image_is_said_to_be_enlarged(shape: tuple[int, int], due: bool) -> None:
    study = Study(make_image(shape), priors=(make_prior(shape),))
    found = [w for w in due_warnings("normal", (), None, "", study) if "enlarged" in w]
    assert SMALL_SIDE_PX == 32 and len(found) == (2 if due else 0)
    if due:
        size = f"{shape[0]} x {shape[1]} pixels"
        assert found[0].startswith(f"The image has only {size}")
        assert found[1].startswith(f"The prior has only {size}")


def test_the_heatmap_of_a_report_cannot_be_changed_and_the_callers_can() -> None:
    heatmap = blob((96, 120))
    report = make_report(heatmap=heatmap)
    with pytest.raises(ValueError, match="read-only"):
        report.heatmap[0, 0] = 1.0
    heatmap[0, 0] = 0.1


def test_a_question_out_of_scope_is_told_that_it_gets_no_answer() -> None:
    report = out_of_scope_report(question="Where is the anomaly?")
    assert NO_ANSWER in report.warnings
    page = report.to_html()
    assert page.count(NO_ANSWER) == 1 and "<h2>Answer</h2><p>None.</p>" in page
    assert NO_ANSWER not in out_of_scope_report().warnings
    with pytest.raises(MedicADError, match="must carry the warning: No answer"):
        out_of_scope_report(question="Where is the anomaly?", warnings=())


def test_a_change_that_lies_in_no_finding_is_said() -> None:
    far = blob((96, 120), 0.8)[::-1, ::-1].copy()
    line = "The comparison says worse, but nothing that the change map marks"
    told = [
        any(w.startswith(line) for w in pair_report(change=make_change(**fields)).warnings)
        for fields in (
            {},
            {"map": far},
            {"map": far, "prior_heatmap": far, "prior_threshold": 0.4},
            {"map": far * 0.5},
            {"map": -blob((96, 120), 0.8)},  # what shrinks is marked too
        )
    ]
    assert told == [False, True, False, True, False]


def test_mixed_stands_wherever_the_change_does(capsys: pytest.CaptureFixture[str]) -> None:
    for mixed, word in ((True, "Worse, mixed"), (False, "Worse")):
        report = pair_report(change=make_change(mixed=mixed))
        assert change_word(report) == word
        show_report(report)
        assert capsys.readouterr().out.splitlines()[0] == f"Abnormal   {word}"
        assert f'<p class="trend worse">{word}</p>' in report.to_html()
