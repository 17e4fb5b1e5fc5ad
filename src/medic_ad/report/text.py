"""Step 6 of the road: what a generated text claims, held against what was computed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from medic_ad.finding import Finding
from medic_ad.words import COLUMNS, NO_ANOMALY, ROWS, cell_words

_ANY = r"(?:anomal(?:y|ies)|abnormalit(?:y|ies))"
_THING = rf"(?:{_ANY}|lesions?|mass(?:es)?|tumou?rs?)"
_WHOLE = r"(?:scan|image|study|examination|brain|chest)"
_NONE = re.compile(
    rf"\b(?:no|without) (?:(?!change)\w+ ){{0,3}}{_THING}\b"
    rf"|\b{_WHOLE} is normal\b|\bnormal {_WHOLE}\b|\blesion-free\b"
)
_SOME = re.compile(rf"\b{_THING}\b|\babnormal\b")
_CELL = re.compile(
    r"\b(upper|middle|lower)[ -](left|cent(?:re|er)|right)\b"
    r"|\b(?:in|at|of|near) the cent(?:re|er)\b"
)
# Of two dates, or said of a course in time only, which "larger" and "reduced" need not be.
_ABOUT_CHANGE = re.compile(
    r"\b(?:prior|previous|compared|before|since|worse|better|stable|unchanged|no change|grown|grew"
    r"|progressed|shrunk|shrank|improved)\b"
)
_NO_PRIOR = re.compile(r"\bno (?:prior|previous)\b")
_NEGATED = re.compile(r"\b(?:no|not|neither|nor) (?:\w+ )?$")
_CHANGE_WORDS = {
    "worse": re.compile(r"\b(?:worse|larger|bigger|grown|grew|enlarged|progressed)\b"),
    "stable": re.compile(r"\b(?:stable|unchanged|no change|the same size)\b"),
    "better": re.compile(r"\b(?:better|smaller|shrunk|shrank|reduced|resolved|improved)\b"),
}


def located_cell(text: str) -> tuple[int, int] | None:
    """The first cell of the 3 x 3 grid that a text names, as (row, column)."""
    cells = _cells(text.lower())
    return cells[0] if cells else None


def told_change(text: str) -> str | None:
    """The first change since the prior that a text states and does not deny."""
    for sentence in _about_change(text.lower()):
        for label, negated in _changes(sentence):
            if not negated:
                return label
    return None


def contradictions(
    text: str,
    decision: str,
    findings: Sequence[Finding],
    change_label: str | None,
    warnings: Sequence[str] = (),
) -> tuple[str, ...]:
    """One sentence for each claim of a generated text that the computed result denies.

    Args:
        text: Generated text.
        decision: The computed decision.
        findings: The computed findings; the text may place the anomaly in the cell of any.
        change_label: The computed change, None without a prior.
        warnings: Sentences that were said before and are not said again.
    """
    found = _contradictions("text", text, decision, findings, change_label)
    return tuple(sentence for sentence in found if sentence not in warnings)


def answer_contradictions(
    question: str,
    answer: str,
    decision: str,
    findings: Sequence[Finding],
    change_label: str | None,
) -> tuple[str, ...]:
    """The same for an answer; "yes" and "no" are taken together with their question."""
    claim = _statement(question.lower(), answer.lower())
    return tuple(_contradictions("answer", claim, decision, findings, change_label))


def _contradictions(
    subject: str,
    text: str,
    decision: str,
    findings: Sequence[Finding],
    change_label: str | None,
) -> list[str]:
    change = _about_change(text.lower())
    state = [sentence for sentence in _sentences(text.lower()) if sentence not in change]
    found = _against_decision(state, decision)
    if decision != "out_of_scope":  # there the whole is disregarded
        found += _against_place(text.lower(), findings)
    found += _against_change(change, change_label)
    return [f"The {subject} {sentence}" for sentence in found]


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.;!?])\s+|\n+", text)


def _about_change(text: str) -> list[str]:
    return [sentence for sentence in _sentences(text) if _ABOUT_CHANGE.search(sentence)]


def _changes(sentence: str) -> Iterator[tuple[str, bool]]:
    """Each change that a sentence names, and whether it denies it."""
    for label, words in _CHANGE_WORDS.items():
        for match in words.finditer(sentence):
            yield label, _NEGATED.search(sentence[: match.start()]) is not None


def _cells(text: str) -> list[tuple[int, int]]:
    cells = []
    for row, col in (match.groups() for match in _CELL.finditer(text)):
        if row is None:
            cells.append((1, 1))
        else:
            cells.append((ROWS.index(row), COLUMNS.index(col.replace("center", "centre"))))
    return list(dict.fromkeys(cells))


def _against_decision(sentences: Sequence[str], decision: str) -> list[str]:
    denied = []
    for sentence in sentences:
        if _NONE.search(sentence):
            said, contrary = "that there is no anomaly", "abnormal"
        elif _SOME.search(sentence):
            said, contrary = "that there is an anomaly", "normal"
        else:
            continue
        if decision == "out_of_scope":
            denied.append(f"says {said}, but the image is out of scope: disregard it.")
        elif decision == contrary:
            denied.append(f"says {said}, but the score says {decision}; the score leads.")
    return list(dict.fromkeys(denied))


def _against_place(text: str, findings: Sequence[Finding]) -> list[str]:
    computed = {finding.cell for finding in findings}
    where = ", ".join(dict.fromkeys(cell_words(*finding.cell) for finding in findings))
    shown = f"the map shows: {where}" if findings else "the map shows no region"
    return [
        f"names the {cell_words(*cell)}, but {shown}; the map leads."
        for cell in _cells(text)
        if cell not in computed
    ]


def _against_change(sentences: Sequence[str], change_label: str | None) -> list[str]:
    computed = "there is no prior; disregard it."
    if change_label is not None:
        said = change_label.replace("_", " ")
        computed = f"the comparison says {said}; the comparison leads."
    denied = []
    for sentence in sentences:
        if _NO_PRIOR.search(sentence) and change_label is not None:
            denied.append(f"says that there is no prior, but {computed}")
        for label, negated in _changes(sentence):
            if negated == (label == change_label):
                said = f"not {label}" if negated else label
                denied.append(f"says {said}, but {computed}")
    return list(dict.fromkeys(denied))


def _statement(question: str, answer: str) -> str:
    """The claim that an answer makes; only a bare yes or no needs its question for that."""
    match = re.match(r"\W*(yes|no)\b\W*", answer)
    if match is None:
        return answer
    yes, rest = match.group(1) == "yes", answer[match.end() :]
    asked = [label for label, words in _CHANGE_WORDS.items() if words.search(question)]
    if "changed" in question:
        asked, yes = ["stable"], not yes
    if asked:
        return f"compared with the prior: {'' if yes else 'not '}{asked[0]}. {rest}"
    if re.search(r"\bnormal\b", question):
        return f"{NO_ANOMALY if yes else 'there is an anomaly.'} {rest}"
    if re.search(rf"\b{_ANY}\b|\babnormal\b", question) and not _cells(question):
        return f"{'there is an anomaly.' if yes else NO_ANOMALY} {rest}"
    return rest
