"""Evaluation: BLEU, METEOR, ROUGE-L and CIDEr of answers, from their libraries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from nltk.translate.meteor_score import single_meteor_score
from pycocoevalcap.cider.cider import Cider
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

from medic_ad.evaluate.figures.bootstrap import Statistic, mean_of
from medic_ad.evaluate.figures.questions import plain

ORDERS = (1, 4)
METEOR = "METEOR (exact and stem)"


class NoSynonyms:
    """Stands in for WordNet, which would have to be downloaded."""

    def synsets(self, word: str) -> list[str]:
        return []


def bleu(said: Sequence[str], truths: Sequence[str], order: int) -> Statistic:
    """Corpus BLEU in [0, 1] up to n-grams of this order, without smoothing (Papineni 2002)."""
    scorer = BLEU(smooth_method="none", max_ngram_order=order, tokenize="none")
    each = [scorer.sentence_score(s, [t]) for s, t in zip(said, truths, strict=True)]
    counts = np.array([[*e.counts, *e.totals, e.sys_len, e.ref_len] for e in each], float)

    def statistic(drawn: np.ndarray) -> float:
        total = (drawn @ counts).astype(int).tolist()
        found = BLEU.compute_bleu(
            total[:order], total[order : 2 * order], total[-2], total[-1], smooth_method="none",
            max_ngram_order=order,
        )  # fmt: skip
        return found.score / 100

    return statistic


def statistics(said: Sequence[str], truths: Sequence[str]) -> dict[str, Statistic]:
    """Name -> statistic over the answers; one reference each.

    Answers are put in lower case without punctuation and articles first. CIDEr's word weights come
    from all of these true answers and stay the same in every resample.
    """
    ours, theirs = [plain(s) for s in said], [plain(t) for t in truths]
    rows = list(zip(ours, theirs, strict=True))
    scorer, none = RougeScorer(["rougeL"]), NoSynonyms()
    rouge = [scorer.score(t, s)["rougeL"].fmeasure for s, t in rows]
    meteor = [single_meteor_score(t.split(), s.split(), wordnet=none) for s, t in rows]
    _, cider = Cider().compute_score(
        {i: [t] for i, t in enumerate(theirs)}, {i: [s] for i, s in enumerate(ours)}
    )
    return {
        **{f"BLEU-{order}": bleu(ours, theirs, order) for order in ORDERS},
        METEOR: mean_of(np.array(meteor)),
        "ROUGE-L (F1)": mean_of(np.array(rouge)),
        "CIDEr": mean_of(np.array(cider)),
    }
