"""`medic-ad evaluate language`: answers to the questions of any table, and text against map."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medic_ad.data.sample import Sample, read_samples
from medic_ad.errors import DataError, ModelError
from medic_ad.evaluate.figures import questions, texts
from medic_ad.evaluate.figures.bootstrap import Figure, Resampling, mean_of
from medic_ad.evaluate.output import curves
from medic_ad.evaluate.output.finish import finish, where_of
from medic_ad.evaluate.output.page import Picture, verdict
from medic_ad.evaluate.parts.agreement import TITLE, agreement_part, pictured
from medic_ad.evaluate.parts.forgetting import against_stock
from medic_ad.evaluate.predictions.answers import Answers, answers_of, questions_of
from medic_ad.evaluate.predictions.run import Run, begin
from medic_ad.evaluate.predictions.store import Part, Store, digest
from medic_ad.evaluate.predictions.table import TableArguments, file_of, slice_of, state_of
from medic_ad.load import Model
from medic_ad.train.run import split

WORST = 8
STOCK_QUESTIONS = 16  # whose logits are held against the stock class's
LEAST_TRAIN = 10  # questions of the train split, below which the baseline is fitted to the split
ACCURACY, USUAL = "accuracy", "most frequent answer per question type"
MOVED = "largest difference of a logit, mean over questions"
WITH, WITHOUT = "with stage tokens", "without stage tokens"


@dataclass
class LanguageArguments(TableArguments):
    """Arguments of `medic-ad evaluate language`."""

    texts: int = field(
        default=200, metadata={"help": "images that are also read in words, evenly spaced"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.texts < 1:
            raise DataError(f"expected --texts of 1 or more, got {self.texts}; give another number")


def variants(run: Run[Answers]) -> dict[str, np.ndarray]:
    """Whose answers -> texts: each model with stage tokens and without."""
    out: dict[str, np.ndarray] = {}
    for p in run.seen:
        out |= {f"{p.of}, {WITH}": p.staged, f"{p.of}, {WITHOUT}": p.bare}
    return out


def accuracy_part(run: Run[Answers], said: dict[str, np.ndarray], truths: list[str]) -> Part:
    """Accuracy over all, closed and open questions, and what cannot be parsed."""
    sampling, closed, figures = run.sampling(), questions.closed(truths), []
    hit = {of: questions.right(answers, truths) for of, answers in said.items()}
    for of, answers in said.items():
        figures += [
            sampling.mean(ACCURACY, hit[of], of),
            sampling.mean("accuracy, closed (yes or no)", np.where(closed, hit[of], np.nan), of),
            sampling.mean("accuracy, open (the very words)", np.where(closed, np.nan, hit[of]), of),
            sampling.mean("unparsable answers", questions.unparsable(answers, truths), of),
        ]
    first, second, *more = hit
    figures.append(paired(sampling, hit[first], hit[second], f"{run.own.of}, with - without"))
    if more:
        figures.append(paired(sampling, hit[first], hit[more[0]], f"{first} - {more[0]}"))
    note = (
        f"{closed.sum()} closed and {(~closed).sum()} open questions. Text is generated greedily; "
        "case, punctuation and articles do not count. What cannot be parsed is wrong. The "
        "out-of-scope gate is set aside."
    )
    return Part("Answers", [note, *run.notes], figures)


def paired(sampling: Resampling, a: np.ndarray, b: np.ndarray, of: str) -> Figure:
    return sampling.difference(ACCURACY, mean_of(a), mean_of(b), of)


def baseline(run: Run[Answers], truths: list[str]) -> tuple[np.ndarray, str]:
    """The usual answer of each question's type, and what it was taken from."""
    rows = read_samples(run.arguments.data)
    train = [(str(s.question), str(s.answer)) for s in rows if s.question and s.split == "train"]
    asked = [str(s.question) for s in run.samples]
    source = f"the {len(train)} questions of the train split"
    if run.arguments.split == "train" or len(train) < LEAST_TRAIN:
        train = list(zip(asked, truths, strict=True))
        source = "these very questions, in its favour"
    return np.array(questions.most_frequent(asked, train)), source


def type_part(run: Run[Answers], hit: np.ndarray, usual: np.ndarray) -> Part:
    """Accuracy by type, the baseline beside it."""
    kinds, sampling, figures = questions.kinds([str(s.question) for s in run.samples]), None, []
    sampling = run.sampling()
    for kind in sorted(set(kinds.tolist())):
        for of, right in ((f"{run.own.of}, {WITH}", hit), (USUAL, usual)):
            figures.append(
                sampling.mean(f'accuracy, "{kind}"', np.where(kinds == kind, right, np.nan), of)
            )
    note = (
        f"Types are the first two words of a question, the first alone where fewer than "
        f"{questions.LEAST} questions begin so, else {questions.OTHER!r}."
    )
    return Part("By type of question", [note], figures)


def text_part(run: Run[Answers], said: dict[str, np.ndarray], truths: list[str]) -> Part | None:
    """Text metrics of the answers to open questions."""
    keep = ~questions.closed(truths)
    if keep.sum() < 2:
        return None
    part, expected = run.sampling(keep), np.array(truths)[keep].tolist()
    figures = [
        part.figure(name, statistic, of)
        for of, answers in said.items()
        for name, statistic in texts.statistics(answers[keep].tolist(), expected).items()
    ]
    note = (
        "Open questions, one true answer each. BLEU by sacreBLEU, ROUGE-L by rouge-score, CIDEr by "
        "pycocoevalcap (0 to 10), METEOR by nltk without synonyms, which would need WordNet."
    )
    return Part("Wording of the answers", [note], figures)


def forgetting_part(run: Run[Answers]) -> Part:
    """Logits beside those of the stock class with the same backbone, on evenly spaced questions."""
    count = min(STOCK_QUESTIONS, len(run.samples))
    index = np.unique(np.linspace(0, len(run.samples) - 1, count).astype(int))
    keep = np.zeros(len(run.samples), bool)
    keep[index] = True
    asked = [s for s, kept in zip(run.samples, keep, strict=True) if kept]
    key = digest([(state_of(s), s.question) for s in asked])
    sampling, figures = run.sampling(keep), []
    for p in run.seen:
        seen = run.context.store.predictions(
            p.model.weights_sha256, f"stock-{run.name}", key,
            partial(against_stock, p.model, asked), run.arguments.opens_test,
        )  # fmt: skip
        figures += [
            sampling.mean(
                "logits equal the stock class's, bit for bit", seen["difference"] == 0,
                f"{p.of}, {WITHOUT}", "= 100 %",
            ),
            sampling.mean(MOVED, seen["difference"], f"{p.of}, {WITHOUT}"),
            sampling.mean(MOVED, seen["moved"], f"{p.of}, {WITH}"),
        ]  # fmt: skip
    note = (
        f"{len(asked)} evenly spaced questions, asked about their current image. The stock "
        "Qwen2.5-VL class gets the same backbone tensors and the same prompt without stage tokens."
    )
    return Part("No forgetting", [note], figures)


def worst(run: Run[Answers], hit: np.ndarray, truths: list[str]) -> list[Picture]:
    """Wrong answers, evenly spaced over the wrong ones."""
    wrong = np.flatnonzero(~hit)
    chosen = wrong[np.unique(np.linspace(0, len(wrong) - 1, min(WORST, len(wrong))).astype(int))]
    out = []
    for i in chosen:
        sample = run.samples[i]
        words = f'{sample.question} said "{run.own.staged[i]}", true "{truths[i]}"'
        drawn = curves.plain(slice_of(sample), file_of(sample)[1])
        out.append(Picture(f"{where_of(sample)}: {words}", drawn))
    return out


def case_row(run: Run[Answers], i: int) -> dict[str, Any]:
    """A question in `cases.csv`."""
    s = run.samples[i]
    return {
        "image": s.image,
        "prior": s.prior or "",
        "group": s.group,
        "question": s.question,
        "answer": s.answer,
        "said_with_tokens": run.own.staged[i],
        "said_without_tokens": run.own.bare[i],
    }


def main(arguments: LanguageArguments) -> Path:
    """Measure answers and texts on one split of a table; what exists is used again."""
    asked = questions_of(arguments.data, arguments.split)
    images = pictured(arguments.data, arguments.split, arguments.texts)
    if not asked and not images:
        raise DataError(
            f"expected questions, or images with a label or mask, in split {arguments.split!r} of "
            f"{arguments.data}, got {len(split(arguments.data, arguments.split))} rows without; "
            "fill the columns question and answer, or label"
        )

    def see(model: Model, of: str, store: Store) -> Answers:
        return answers_of(model, of, asked, store, arguments.measured, arguments.opens_test)

    run = begin("language", arguments, asked, [], see, calibrated=False)
    truths = [str(s.answer) for s in asked]
    parts: list[Part | None] = []
    pictures, sentence, beats = [], "No questions in this split.", None
    if asked:
        said = variants(run)
        hit = questions.right(run.own.staged, truths)
        usual, source = baseline(run, truths)
        guessed = questions.right(usual, truths)
        difference = paired(run.sampling(), hit, guessed, f"{run.own.of} - {USUAL}")
        sentence, beats = verdict(difference, run.own.of, USUAL)
        trivial = [difference, run.sampling().mean(ACCURACY, guessed, USUAL)]
        parts += [
            accuracy_part(run, said, truths),
            Part("Trivial baseline", [f"Taken from {source}; no image is seen."], trivial),
            type_part(run, hit, guessed),
            text_part(run, said, truths),
            forgetting_part(run),
        ]
        pictures = worst(run, hit, truths)
    parts += agreement(run, images)
    return finish(
        run,
        verdict=sentence,
        beats_baseline=beats,
        parts=parts,
        worst=pictures,
        worst_words="Wrong answers, evenly spaced over all wrong ones." if asked else "",
        cases=[case_row(run, i) for i in range(len(asked))],
        extra={"best_baseline": USUAL},
        scale="",
    )


def agreement(run: Run[Answers], images: list[Sample]) -> list[Part]:
    """Text against map and decision, of models that were calibrated."""
    if not images:
        note = (
            f"Not measured: no image of split {run.arguments.split!r} has a known label or mask. "
            "Fill the column label or mask to have the texts held against them."
        )
        return [Part(TITLE, [note], [])]
    out = []
    for p in run.seen:
        try:
            p.model.network.calibration.refuse_unfitted("threshold", "gate_mean")
        except ModelError:  # a stock checkpoint has a text and no decision
            continue
        out.append(agreement_part(run.context, p.model, p.of, images, run.arguments))
    return out
