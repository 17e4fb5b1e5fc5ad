"""`medic-ad evaluate compare`: worse, stable or better on the pairs of any table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medic_ad.evaluate.baselines.change import ChangeBaselines, baselines_of, labelled, train_pairs
from medic_ad.evaluate.figures import metrics
from medic_ad.evaluate.figures.bootstrap import Figure, mean_of
from medic_ad.evaluate.output import curves
from medic_ad.evaluate.output.finish import finish
from medic_ad.evaluate.output.page import Picture, verdict
from medic_ad.evaluate.parts.change_maps import (
    ChangeMaps,
    change_maps,
    map_part,
    picture,
    worst_maps,
)
from medic_ad.evaluate.predictions.pairs import (
    Pair,
    PairPredictions,
    inverse_of,
    pair_predictions,
    pairs_of,
)
from medic_ad.evaluate.predictions.run import Run, begin
from medic_ad.evaluate.predictions.store import Part, Store
from medic_ad.evaluate.predictions.table import TableArguments
from medic_ad.load import Model
from medic_ad.words import CHANGE_LABELS

WORST = 8
ACCURACY, NOT_COMPARABLE = "3-class accuracy", "not_comparable"


@dataclass
class CompareArguments(TableArguments):
    """Arguments of `medic-ad evaluate compare`."""


def right(label: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return (label == truth).astype(float)


def label_figures(run: Run[PairPredictions], truth: np.ndarray) -> Part:
    """Accuracy and F1 of one or two models."""
    sampling, figures = run.sampling(), []
    for p in run.seen:
        figures += [
            sampling.mean(ACCURACY, right(p.label, truth), p.of),
            sampling.figure("macro F1", metrics.macro_f1(p.label, truth, CHANGE_LABELS), p.of),
            sampling.figure(
                "direction F1 (worse, better)",
                metrics.macro_f1(p.label, truth, ("worse", "better")), p.of,
            ),
        ]  # fmt: skip
        figures += [
            sampling.mean(
                f"share found, {name}", np.where(truth == name, p.label == name, np.nan), p.of
            )
            for name in CHANGE_LABELS if (truth == name).any()
        ]  # fmt: skip
    if run.other is not None:
        figures.append(
            sampling.difference(
                ACCURACY, mean_of(right(run.own.label, truth)),
                mean_of(right(run.other.label, truth)), f"{run.own.of} - {run.other.of}",
            )
        )  # fmt: skip
    counts = ", ".join(f"{(truth == name).sum()} {name}" for name in CHANGE_LABELS)
    note = f"{len(truth)} pairs with a label: {counts}. Not comparable counts as wrong."
    return Part("Compare", [note, *run.notes], figures)


def beside_baselines(
    run: Run[PairPredictions], truth: np.ndarray, found: ChangeBaselines
) -> tuple[Part, Figure, str]:
    """Every baseline, and the model's difference from the best of them."""
    sampling, own = run.sampling(), run.own
    best = max(found.labels, key=lambda k: right(found.labels[k], truth).mean())
    difference = sampling.difference(
        ACCURACY, mean_of(right(own.label, truth)), mean_of(right(found.labels[best], truth)),
        f"{own.of} - {best}",
    )  # fmt: skip
    figures = [difference]
    for of, label in found.labels.items():
        figures.append(sampling.mean(ACCURACY, right(label, truth), of))
        figures.append(
            sampling.figure("macro F1", metrics.macro_f1(label, truth, CHANGE_LABELS), of)
        )
    return Part("Trivial baselines", [found.note], figures), difference, best


def exchange(run: Run[PairPredictions]) -> Part:
    """The same files with their dates exchanged, each order a call of its own."""
    sampling, figures, left_out = run.sampling(), [], []
    for p in run.seen:
        # what neither order compares says nothing of exchange; what one of them does has failed
        neither = (p.label == NOT_COMPARABLE) & (p.back == NOT_COMPARABLE)
        inverted = inverse_of(p.label) == p.back
        exact = (p.scores == p.back_scores[:, ::-1]).all(1)
        left_out.append(f"{int(neither.sum())} for {p.of}")
        figures += [
            sampling.mean("label inverted", np.where(neither, np.nan, inverted), p.of, "= 100 %"),
            sampling.mean(
                "scores exchanged to the last bit", np.where(neither, np.nan, exact), p.of
            ),
            sampling.mean("share comparable", p.label != NOT_COMPARABLE, p.of),
            sampling.mean("share in scope, both dates", p.in_scope, p.of),
        ]
    note = (
        f"{int((~run.own.in_scope).sum())} of {len(run.samples)} pairs are out of scope for "
        f"{run.own.of} and would not be compared by `medic-ad read`; they are measured here all "
        "the same. Pairs that neither order can compare are left out of the exchange: "
        f"{', '.join(left_out)}."
    )
    return Part("Dates exchanged, and scope", [note], figures)


def calibration(run: Run[PairPredictions], truth: np.ndarray, shares: np.ndarray) -> Part | None:
    """Brier score and calibration error of the three probabilities, where there are any."""
    one = np.stack([truth == name for name in CHANGE_LABELS], 1).astype(float)
    known = np.isfinite(run.own.scores).all(1)
    if not known.any():
        return None
    sampling, figures = run.sampling(known), []
    for p in run.seen:
        brier = ((p.scores - one) ** 2).sum(1)[known]
        figures.append(sampling.figure("Brier score, three classes", mean_of(brier), p.of))
    guess = ((shares - one) ** 2).sum(1)[known]
    figures.append(
        sampling.figure("Brier score, three classes", mean_of(guess), "image-free (the shares)")
    )
    sure, hit = run.own.scores[known].max(1), (run.own.scores.argmax(1) == one.argmax(1))[known]
    null, ceiling = metrics.ece_null(sure, hit, None, run.arguments.seed)
    name = f"ECE of the likeliest class, {metrics.ECE_BINS} bins of equal mass"
    figures.append(sampling.figure(name, metrics.ece(sure, hit, None), run.own.of))
    note = (
        "At the shares of worse, stable and better of these pairs. A perfectly calibrated model "
        f"with these probabilities has an ECE of {null:.3f} on average and {ceiling:.3f} at its "
        "95th percentile."
    )
    return Part("Calibration", [note], figures)


def worst(run: Run[PairPredictions], pairs: list[Pair], truth: np.ndarray) -> list[Picture]:
    """Wrong labels of the highest probability."""
    sure = np.nan_to_num(run.own.scores.max(1))
    wrong = np.flatnonzero(run.own.label != truth)
    chosen = wrong[np.argsort(-sure[wrong], kind="stable")][:WORST]
    return [
        picture(
            run, pairs, i, f"said {run.own.label[i].replace('_', ' ')} "
            f"(probability {sure[i]:.2f}), true {truth[i]}",
        )
        for i in chosen
    ]  # fmt: skip


def drawn(run: Run[PairPredictions], truth: np.ndarray) -> list[Picture]:
    """Confusion matrix of each model, and reliability."""
    out = []
    for p in run.seen:
        said = (*CHANGE_LABELS, *([NOT_COMPARABLE] if NOT_COMPARABLE in p.label else []))
        counts = np.array(
            [[((truth == t) & (p.label == x)).sum() for x in said] for t in CHANGE_LABELS]
        )
        picture = curves.confusion(counts, CHANGE_LABELS, said)
        out.append(Picture(f"Confusion matrix, {p.of}", picture))
    known = np.isfinite(run.own.scores).all(1)
    if known.any():
        scored = {
            name: (run.own.scores[known, k], (truth[known] == name).astype(float))
            for k, name in enumerate(CHANGE_LABELS)
        }
        words = f"Reliability, {run.own.of}, bins of equal mass"
        out.append(Picture(words, curves.reliability(scored, None, "share with this change")))
    return out


def case_row(run: Run[PairPredictions], maps: ChangeMaps | None, i: int) -> dict[str, Any]:
    """A pair in `cases.csv`."""
    sample, own = run.samples[i], run.own
    return {
        "image": sample.image,
        "prior": sample.prior,
        "group": sample.group,
        "change": sample.change or "",
        "said": own.label[i],
        "said_exchanged": own.back[i],
        **{name: f"{own.scores[i, k]:.6f}" for k, name in enumerate(CHANGE_LABELS)},
        "in_scope": int(own.in_scope[i]),
        "map_dice": "" if maps is None else maps.dice_of(i),
    }


def main(arguments: CompareArguments) -> Path:
    """Measure comparison on one split of a table; predictions that exist are used again."""
    pairs, notes = pairs_of(arguments.data, arguments.split)

    def see(model: Model, of: str, store: Store) -> PairPredictions:
        name, test = arguments.measured, arguments.opens_test
        return pair_predictions(model, of, pairs, store, name, test)

    run = begin("compare", arguments, [p.sample for p in pairs], notes, see)
    named = np.array([p.sample.change is not None for p in pairs])
    maps = change_maps(run, pairs)
    parts: list[Part | None] = []
    shown: list[Picture] = []
    cases_of_worst: list[Picture] = []
    if named.any():
        part, known = run.pick(named), labelled(pairs)
        truth = np.array([p.sample.change for p in known])
        found = baselines_of(
            known, train_pairs(arguments), run.context.store, run.name, arguments.seed
        )
        trivial, difference, best = beside_baselines(part, truth, found)
        parts += [
            label_figures(part, truth), trivial, calibration(part, truth, found.shares)
        ]  # fmt: skip
        shown, cases_of_worst = drawn(part, truth), worst(part, known, truth)
        words = "Wrong labels of the highest probability: prior, current image, change map."
    if maps is not None:
        overlap, map_difference, best_map = map_part(run, maps)
        parts.append(overlap)
        if not named.any():
            overlap.notes.extend(run.notes)
            difference, best = map_difference, best_map
            cases_of_worst = worst_maps(run, pairs, maps)
            words = "Change maps of lowest Dice: prior, current image, change map."
    parts.append(exchange(run))
    sentence, beats = verdict(difference, run.own.of, best)
    return finish(
        run,
        verdict=sentence,
        beats_baseline=beats,
        parts=parts,
        curves=shown,
        worst=cases_of_worst,
        worst_words=words,
        cases=[case_row(run, maps, i) for i in range(len(pairs))],
        extra={"best_baseline": best},
        scale="change",
    )
