"""Claims of generated text against the computed result."""

from __future__ import annotations

import pytest
from report_cases import blob, make_image

from medic_ad.finding import Finding, find
from medic_ad.report.text import answer_contradictions, contradictions, located_cell, told_change
from medic_ad.words import CHANGE_SENTENCES, NO_ANOMALY, NO_PRIOR, anomaly_sentence

CELLS = [(row, col) for row in range(3) for col in range(3)]
SOME = "There is an anomaly."


@pytest.fixture(scope="module")
def upper_left() -> tuple[Finding, ...]:
    return find(blob((96, 120)), 0.42, make_image())


@pytest.mark.parametrize("cell", CELLS)
def test_every_sentence_of_the_model_is_located(cell: tuple[int, int]) -> None:
    assert located_cell(anomaly_sentence(cell)) == cell


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        (NO_ANOMALY, None),
        ("In the Upper-Left of the image.", (0, 0)),
        ("a lesion in the lower center", (2, 1)),
        ("Near the center of the image.", (1, 1)),
        ("upper left and lower right", (0, 0)),
        ("The left ventricle is upper.", None),
    ],
)
def test_places_in_other_words(text: str, cell: tuple[int, int] | None) -> None:
    assert located_cell(text) == cell


@pytest.mark.parametrize("cell", CELLS)
def test_only_the_computed_place_is_undisputed(
    cell: tuple[int, int], upper_left: tuple[Finding, ...]
) -> None:
    said = contradictions(anomaly_sentence(cell), "abnormal", upper_left, None)
    assert len(said) == (0 if cell == (0, 0) else 1)
    if said:
        assert "but the map shows: upper left" in said[0]


@pytest.mark.parametrize(
    ("text", "decision", "count"),
    [
        (SOME, "abnormal", 0),
        (SOME, "normal", 1),
        (SOME, "uncertain", 0),
        (SOME, "out_of_scope", 1),
        (NO_ANOMALY, "abnormal", 1),
        (NO_ANOMALY, "normal", 0),
        (NO_ANOMALY, "uncertain", 0),
        (NO_ANOMALY, "out_of_scope", 1),
        ("No evidence of a lesion.", "abnormal", 1),
        ("The scan is normal.", "abnormal", 1),
        ("This scan is abnormal.", "normal", 1),
        ("The ventricles are normal.", "abnormal", 0),
        ("Brain MR, FLAIR.", "normal", 0),
        ("", "abnormal", 0),
    ],
)
def test_against_the_decision(text: str, decision: str, count: int) -> None:
    assert len(contradictions(text, decision, (), None)) == count


def test_a_place_without_any_region_is_said() -> None:
    (said,) = contradictions(anomaly_sentence((2, 2)), "abnormal", (), None)
    assert said == "The text names the lower right, but the map shows no region; the map leads."


@pytest.mark.parametrize("label", ["worse", "stable", "better", "not_comparable", None])
@pytest.mark.parametrize("said", ["worse", "stable", "better"])
def test_against_the_change(label: str | None, said: str) -> None:
    found = contradictions(CHANGE_SENTENCES[said], "abnormal", (), label)
    assert len(found) == (label != said)


def test_the_change_sentence_claims_nothing_about_the_present() -> None:
    assert contradictions(CHANGE_SENTENCES["stable"], "normal", (), "stable") == ()


@pytest.mark.parametrize(
    ("text", "label", "count"),
    [
        (NO_PRIOR, None, 0),
        (NO_PRIOR, "worse", 1),
        ("It is not worse than before.", "worse", 1),
        ("It is not worse than before.", "better", 0),
        ("Compared with the prior there is no change.", "stable", 0),
        ("A reduced signal.", None, 0),
    ],
)
def test_other_words_of_change(text: str, label: str | None, count: int) -> None:
    assert len(contradictions(text, "abnormal", (), label)) == count


def test_what_was_said_is_not_said_again() -> None:
    first = contradictions(SOME, "normal", (), None)
    assert contradictions(SOME, "normal", (), None, first) == ()


@pytest.mark.parametrize(
    ("question", "answer", "decision", "label", "count"),
    [
        ("Is there an anomaly?", "Yes.", "abnormal", None, 0),
        ("Is there an anomaly?", "No.", "abnormal", None, 1),
        ("Is there an anomaly?", "Yes.", "normal", None, 1),
        ("Is the scan normal?", "Yes.", "abnormal", None, 1),
        ("Is the scan normal?", "No.", "normal", None, 1),
        ("Is the scan normal?", "No.", "abnormal", None, 0),
        ("Where is the anomaly?", "In the upper left of the image.", "abnormal", None, 0),
        ("Where is the anomaly?", "In the lower left of the image.", "abnormal", None, 1),
        ("Is there an anomaly?", "Yes, in the lower left.", "abnormal", None, 1),
        ("Is there an anomaly in the lower left?", "No.", "abnormal", None, 0),
        ("Is it worse than before?", "Yes.", "abnormal", "better", 1),
        ("Is it worse than before?", "Yes.", "abnormal", "worse", 0),
        ("Is it worse than before?", "No.", "abnormal", "worse", 1),
        ("Is it worse than before?", NO_PRIOR, "abnormal", None, 0),
        ("Has the anomaly changed?", "No.", "abnormal", "stable", 0),
        ("Has the anomaly changed?", "No.", "abnormal", "worse", 1),
        ("Has the anomaly changed?", "Yes.", "abnormal", "stable", 1),
        ("Is it treatable?", "There is an anomaly is unchanged: worse.", "abnormal", None, 2),
        ("Is it treatable?", "It has grown.", "abnormal", None, 1),
        ("Is it treatable?", "It has grown.", "abnormal", "worse", 0),
        ("Is it treatable?", "It has grown.", "abnormal", "better", 1),
        ("Is it treatable?", "A reduced signal.", "abnormal", None, 0),
        ("What kind of scan is this?", "Brain MR, FLAIR.", "abnormal", None, 0),
        ("Is there a fracture?", "No.", "abnormal", None, 0),
    ],
)
def test_answers_are_held_against_the_result_too(
    question: str,
    answer: str,
    decision: str,
    label: str | None,
    count: int,
    upper_left: tuple[Finding, ...],
) -> None:
    found = answer_contradictions(question, answer, decision, upper_left, label)
    assert len(found) == count, found
    assert all(sentence.startswith("The answer ") for sentence in found)


@pytest.mark.parametrize("label", CHANGE_SENTENCES)
def test_the_change_that_a_text_tells_is_found(label: str) -> None:
    assert told_change(f"{SOME} {CHANGE_SENTENCES[label]}") == label


@pytest.mark.parametrize(
    "text", [SOME, "", "A smaller field of view.", "Compared with the prior, it is not worse."]
)
def test_a_text_that_tells_no_change_tells_none(text: str) -> None:
    assert told_change(text) is None
