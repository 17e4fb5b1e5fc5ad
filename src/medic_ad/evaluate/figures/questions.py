"""Evaluation: kinds of questions, and whether an answer is right."""

from __future__ import annotations

import re
import string
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

Texts = Sequence[str] | np.ndarray  # one text an item

LEAST = 10  # questions of a kind, below which they are joined with others
OTHER = "other"
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_ALTERNATIVES = re.compile(r"/\w+")  # "is/are there" begins with "is there"
_WORDS = re.compile(r"\w+")
_STRIP = str.maketrans(string.punctuation, " " * len(string.punctuation))


def plain(text: str) -> str:
    """Lower case, without punctuation and articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_STRIP)).split())


def yes_or_no(text: str) -> str | None:
    """What a text answers to a closed question: its first word, where that is yes or no."""
    first = plain(text).split(" ")[0]
    return first if first in ("yes", "no") else None


def closed(truths: Sequence[str]) -> np.ndarray:
    """`(n,)` bool, whether the true answer is yes or no and nothing else."""
    return np.array([plain(truth) in ("yes", "no") for truth in truths], bool)


def unparsable(said: Texts, truths: Sequence[str]) -> np.ndarray:
    """`(n,)` bool: neither yes nor no to a closed question, or no word to an open one."""
    pairs = zip(said, closed(truths), strict=True)
    return np.array([yes_or_no(s) is None if c else not plain(s) for s, c in pairs], bool)


def right(said: Texts, truths: Sequence[str]) -> np.ndarray:
    """`(n,)` bool: the same yes or no, or the very words of the true answer.

    What cannot be parsed is wrong.
    """
    rows = zip(said, truths, closed(truths), strict=True)
    return np.array([(yes_or_no(s) if c else plain(s)) == plain(t) for s, t, c in rows], bool)


def kinds(questions: Sequence[str]) -> np.ndarray:
    """`(n,)` kind of each question: its first two words, where that many begin so.

    Sets with templates (MIMIC-Diff-VQA) fall into their types by this: "what has" is difference,
    "where in" location, "what level" level. Rarer ones count by their first word, else as other.
    """
    words = [_WORDS.findall(_ALTERNATIVES.sub("", q.lower())) or [OTHER] for q in questions]
    out = [" ".join(w[:2]) for w in words]
    for shorter in ([w[0] for w in words], [OTHER] * len(words)):
        rare = {kind for kind, n in Counter(out).items() if n < LEAST}
        out = [short if kind in rare else kind for kind, short in zip(out, shorter, strict=True)]
    return np.array(out)


def most_frequent(questions: Sequence[str], train: Sequence[tuple[str, str]]) -> list[str]:
    """The baseline that sees no image: the usual answer of each question's kind.

    Args:
        questions: to be answered.
        train: (question, answer) that the usual answers are taken from.
    """
    together = kinds([*questions, *(q for q, _ in train)])
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for kind, (_, answer) in zip(together[len(questions) :], train, strict=True):
        counts[kind][plain(answer)] += 1
    overall = sum(counts.values(), Counter())
    best = {kind: max(sorted(c), key=c.__getitem__) for kind, c in counts.items()}
    usual = max(sorted(overall), key=overall.__getitem__)
    return [best.get(kind, usual) for kind in together[: len(questions)]]
