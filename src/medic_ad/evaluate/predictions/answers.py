"""Evaluation: what a model answers to the questions of a table, with and without stage tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from medic_ad.align import align
from medic_ad.change import compare_slices
from medic_ad.data.sample import Sample
from medic_ad.evaluate.predictions.store import Arrays, Store, digest, opened
from medic_ad.evaluate.predictions.sweep import as_image
from medic_ad.evaluate.predictions.table import file_of, refuse_missing, slice_of, state_of
from medic_ad.load import Model
from medic_ad.look import Look, look, say
from medic_ad.model.compare import CompareOutput
from medic_ad.processor import fit_square
from medic_ad.train.run import split

BATCH = 16  # questions that are kept in one file


def questions_of(data: str, name: str) -> list[Sample]:
    """Rows of one split with a question, those of one image one after the other.

    Raises:
        DataError: a file is gone.
    """
    rows = [s for s in split(data, name) if s.question]
    refuse_missing((p for s in rows for p in (s.image, s.prior)), data)
    return sorted(rows, key=lambda s: (s.image, s.prior or "", s.slice or 0))


@dataclass(frozen=True)
class Answers:
    """What one model answers to n questions, in their order.

    Attributes:
        of, model: the model.
        staged, bare: `(n,)` texts with stage tokens in the prompt, and without.
    """

    of: str
    model: Model
    staged: np.ndarray
    bare: np.ndarray

    def subset(self, keep: np.ndarray) -> Answers:
        """Those to some questions."""
        return dataclasses.replace(self, staged=self.staged[keep], bare=self.bare[keep])


def look_at(model: Model, sample: Sample) -> tuple[list[Look], CompareOutput | None]:
    """What a question about a sample is asked with, as `read` does it.

    One look, or those of both dates and stage 2's output; where the dates cannot be compared, the
    current one alone.
    """
    current = slice_of(sample)
    if sample.prior is not None:
        prior = slice_of(dataclasses.replace(sample, image=sample.prior))
        found = align(as_image(current, sample.image), as_image(prior, sample.prior))
        if found.ok:
            first, second, output = compare_slices(found, model).strongest
            return [first, second], output
    canvas, _ = fit_square(current, file_of(sample)[1], model.config.image_size)
    return [look(model, canvas[None])], None


def answer_part(model: Model, samples: Sequence[Sample]) -> Arrays:
    """Answers to a few questions; an image that several are asked about is looked at once."""
    rows, at, seen = [], None, None
    for s in samples:
        if (s.image, s.prior, s.slice) != at or seen is None:
            at, seen = (s.image, s.prior, s.slice), look_at(model, s)
        looks, change = seen
        said = [say(model, str(s.question), looks, change, stages) for stages in (True, False)]
        rows.append(said)
    staged, bare = zip(*rows, strict=True)
    return {"staged": np.array(staged, str), "bare": np.array(bare, str)}


def answers_of(
    model: Model, of: str, samples: Sequence[Sample], store: Store, name: str, test: bool
) -> Answers:
    """Answers of a model, made once per weights and kept part by part."""
    parts = [samples[k : k + BATCH] for k in range(0, len(samples), BATCH)]
    makes: dict[str, Callable[[], Arrays]] = {
        digest([(state_of(s), s.prior, s.question) for s in part]): partial(
            answer_part, model, part
        )
        for part in parts
    }
    columns: dict[str, list[str]] = {"staged": [], "bare": []}
    for path in store.parts(model.weights_sha256, f"answers-{name}", makes, test):
        with opened(path) as arrays:
            for key, values in columns.items():
                values += arrays[key].tolist()
    return Answers(of, model, np.array(columns["staged"]), np.array(columns["bare"]))
