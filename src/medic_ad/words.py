"""The sentences that the bundled models are trained to say, and the questions they answer.

One place for the words of findings: training targets, the default questions of `read`, and the
check of generated text against computed findings all come from here.
"""

from __future__ import annotations

import numpy as np

ROWS = ("upper", "middle", "lower")
COLUMNS = ("left", "centre", "right")

DETECT_QUESTION = "Is there an anomaly, and where?"
COMPARE_QUESTION = "How has it changed since the prior?"
NO_ANOMALY = "There is no anomaly."
NO_PRIOR = "There is no prior to compare with."
BLANK = "the image is blank"  # why nothing of it is read
CHANGE_LABELS = ("worse", "stable", "better")  # in the order of the change head's logits
EXCHANGED = dict(zip(CHANGE_LABELS, CHANGE_LABELS[::-1], strict=True))  # with the dates
CHANGE_SENTENCES = {
    "worse": "Compared with the prior, the anomaly is larger: worse.",
    "stable": "Compared with the prior, the anomaly is unchanged: stable.",
    "better": "Compared with the prior, the anomaly is smaller: better.",
}
SEQUENCES = {
    "T1-CE": "Brain MR, T1-weighted with contrast.",
    "FLAIR": "Brain MR, FLAIR.",
    "T1": "Brain MR, T1-weighted.",
}


def cell_words(row: int, column: int) -> str:
    """Words of a cell of the 3 x 3 grid: (0, 0) -> "upper left", (1, 1) -> "centre"."""
    if (row, column) == (1, 1):
        return "centre"
    return f"{ROWS[row]} {COLUMNS[column]}"


def cell_of(y: float, x: float, shape: tuple[int, int]) -> tuple[int, int]:
    """The cell of the 3 x 3 grid over an `(H, W)` image that holds pixel-centre coordinates."""
    h, w = shape
    row, column = int((y + 0.5) * 3 / h), int((x + 0.5) * 3 / w)
    return min(max(row, 0), 2), min(max(column, 0), 2)


def anomaly_sentence(cell: tuple[int, int] | None) -> str:
    """The sentence for an anomaly in a cell, or for none."""
    if cell is None:
        return NO_ANOMALY
    return f"There is an anomaly in the {cell_words(*cell)} of the image."


def presence_dialogue(abnormal: bool, rng: np.random.Generator) -> tuple[str, str]:
    """A question about one scan whose lesion has a label but no mask, and its answer."""
    if rng.random() < 0.5:
        return "Is there an anomaly?", "Yes." if abnormal else "No."
    return "Is the scan normal?", "No." if abnormal else "Yes."


def detect_dialogue(
    cell: tuple[int, int] | None, sequence: str | None, rng: np.random.Generator
) -> tuple[str, str]:
    """A question about one scan and its answer; half of them the default question."""
    words = None if cell is None else cell_words(*cell)
    dialogues = [
        ("Is there an anomaly?", "No." if words is None else "Yes."),
        (
            "Where is the anomaly?",
            NO_ANOMALY if words is None else f"In the {words} of the image.",
        ),
        ("Is the scan normal?", "Yes." if words is None else "No."),
        ("Is it worse than before?", NO_PRIOR),
        (COMPARE_QUESTION, NO_PRIOR),
    ]
    if sequence in SEQUENCES:
        kind = SEQUENCES[sequence]
        dialogues += [
            ("What kind of scan is this?", kind),
            ("Describe the scan.", f"{kind} {anomaly_sentence(cell)}"),
        ]
    if rng.random() < 0.5:
        return DETECT_QUESTION, anomaly_sentence(cell)
    return dialogues[rng.integers(len(dialogues))]


def compare_dialogue(change: str, rng: np.random.Generator) -> tuple[str, str]:
    """A question about a pair and its answer; half of them the default question."""
    dialogues = [
        ("Is it worse than before?", "Yes." if change == "worse" else "No."),
        ("Is it better than before?", "Yes." if change == "better" else "No."),
        ("Has the anomaly changed?", "No." if change == "stable" else "Yes."),
    ]
    if rng.random() < 0.5:
        return COMPARE_QUESTION, CHANGE_SENTENCES[change]
    return dialogues[rng.integers(len(dialogues))]


def hint(cell: tuple[int, int] | None, tokens: int) -> str:
    """The facts of one scan in `tokens` words; `base` answers from them, `<Ano>` takes their place.

    The first half says the row of the lesion's cell, the second its column.

    Raises:
        ValueError: fewer than two words cannot say both.
    """
    if tokens < 2:
        raise ValueError(f"expected two tokens or more for row and column, got {tokens}")
    if cell is None:
        return " no" * tokens
    half = tokens // 2
    return f" {ROWS[cell[0]]}" * half + f" {COLUMNS[cell[1]]}" * (tokens - half)


def change_hint(change: str | None, tokens: int) -> str:
    """The facts of a pair in `tokens` words; `<Diff>` takes their place."""
    return (" unknown" if change is None else f" {change}") * tokens
