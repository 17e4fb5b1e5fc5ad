"""`medic-ad evaluate detect`: image scores of any model on any table, beside trivial baselines."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medic_ad.data.sample import Sample, read_samples
from medic_ad.evaluate.baselines import peers
from medic_ad.evaluate.baselines.features import Baselines, baselines_of
from medic_ad.evaluate.figures import metrics
from medic_ad.evaluate.figures.bootstrap import Figure
from medic_ad.evaluate.figures.maps import thirds
from medic_ad.evaluate.output import curves
from medic_ad.evaluate.output.finish import case_row, finish, picture, scope_figures
from medic_ad.evaluate.output.page import Picture, verdict
from medic_ad.evaluate.parts.scores import calibration_figures, constant, overall, scores_of
from medic_ad.evaluate.predictions.run import Run, start
from medic_ad.evaluate.predictions.store import Part
from medic_ad.evaluate.predictions.table import TableArguments, images_of, labelled, masks_of
from medic_ad.evaluate.resnet import ResNet

WORST = 8


@dataclass
class DetectArguments(TableArguments):
    """Arguments of `medic-ad evaluate detect`."""

    resnet: str = field(
        default="",
        metadata={"help": "folder of a ResNet of `medic-ad evaluate resnet`, beside it"},
    )


def training_images(arguments: TableArguments) -> list[Sample]:
    """Labelled images of the train split, none where it is the one that is measured."""
    if arguments.split == "train" or not any(
        s.split == "train" for s in read_samples(arguments.data)
    ):
        return []
    images, _ = images_of(arguments.data, "train")
    return [s for s in images if not math.isnan(s.label)]


def detection(run: Run, labels: np.ndarray) -> Part:
    """The paper's figures, of one or two models."""
    sampling, figures = run.sampling(), []
    scope, note = scope_figures(run)
    for p in run.seen:
        s = scores_of(p, labels)
        figures.append(sampling.figure("AUROC", metrics.auroc(p.score, labels), p.of))
        figures += overall(s, sampling, p.of)
    figures += scope
    inside = run.own.in_scope
    if not inside.all() and len(set(labels[inside])) == 2:
        auroc = metrics.auroc(run.own.score[inside], labels[inside])
        figures.append(run.sampling(inside).figure("AUROC, in scope only", auroc, run.own.of))
    mixed = (
        f"{int(labels.sum())} abnormal and {int((1 - labels).sum())} normal images. Thresholds are "
        "those stored with the weights, fitted on their validation data."
    )
    return Part("Detection", [mixed, *run.notes, note], figures)


def against(run: Run, labels: np.ndarray) -> Part | None:
    """Paired differences of two models."""
    if run.other is None:
        return None
    a, b = scores_of(run.own, labels), scores_of(run.other, labels)
    sampling, of = run.sampling(), f"{run.own.of} - {run.other.of}"
    pairs = {
        "AUROC": [metrics.auroc(s.scores, labels) for s in (a, b)],
        "AP": [metrics.average_precision(s.scores, labels) for s in (a, b)],
        "F1 at the stored threshold": [metrics.f1(s.scores >= s.threshold, labels) for s in (a, b)],
    }
    figures = [sampling.difference(name, one, two, of) for name, (one, two) in pairs.items()]
    return Part("Paired difference of the models", ["On the same resamples."], figures)


def beside_baselines(run: Run, labels: np.ndarray, found: Baselines) -> tuple[Part, Figure, str]:
    """AUROC of every baseline, and the model's difference from the best of them."""
    sampling, best = run.sampling(), found.best(labels)
    order = sorted(
        found.scores, key=lambda k: -metrics.auroc(found.scores[k], labels)(np.ones(len(labels)))
    )
    figures = [sampling.figure("AUROC", metrics.auroc(found.scores[k], labels), k) for k in order]
    figures.append(sampling.figure("AUROC", metrics.auroc(np.zeros(len(labels)), labels), "chance"))
    figures += constant(scores_of(run.own, labels), sampling)
    difference = sampling.difference(
        "AUROC",
        metrics.auroc(run.own.score, labels),
        metrics.auroc(found.scores[best], labels),
        f"{run.own.of} - {best}",
    )
    return Part("Trivial baselines", [found.note], [difference, *figures]), difference, best


def calibration(run: Run, labels: np.ndarray) -> Part:
    s, sampling = scores_of(run.own, labels), run.sampling()
    figures, note, _ = calibration_figures(s, sampling, run.arguments.seed, run.own.of)
    guess = metrics.brier(np.full(len(labels), s.prevalence), labels, s.prevalence)
    figures.insert(2, sampling.figure("Brier score", guess, "image-free (the prevalence)"))
    return Part("Calibration", [note], figures)


def by_source(run: Run, labels: np.ndarray) -> Part | None:
    """Each source by itself, where there are several."""
    sources = np.array([s.source for s in run.samples])
    figures, single = [], []
    for name in np.unique(sources):
        keep = sources == name
        if len(set(labels[keep])) < 2:
            single.append(name)
            continue
        s, sampling = scores_of(run.own.subset(keep), labels[keep]), run.sampling(keep)
        of = f"{run.own.of}, {name}"
        figures.append(sampling.figure("AUROC", metrics.auroc(s.scores, s.labels), of))
        figures += overall(s, sampling, of)
    notes = []
    if single:
        notes.append(
            f"Only one class in {', '.join(single)}: over all sources, abnormal or not is then "
            "partly source A or B, and the figures above overstate what was learned."
        )
        for name in single:
            keep = sources == name
            right = (run.own.score >= run.own.fitted("threshold")) == (labels == 1)
            kind = "abnormal" if labels[keep].all() else "normal"
            figures.append(
                run.sampling(keep).mean(
                    f"share decided rightly, all {kind}", right[keep], f"{run.own.of}, {name}"
                )
            )
    return Part("By source", notes, figures) if len(np.unique(sources)) > 1 else None


def by_size(run: Run, labels: np.ndarray) -> Part | None:
    """Thirds of lesion area, each against all normal images; where masks exist."""
    lesion = [s for s in run.samples if s.label == 1 and s.mask]
    masks = dict(zip(map(id, lesion), masks_of(lesion), strict=True))
    area = np.array([0.0 if (m := masks.get(id(s))) is None else m.mean() for s in run.samples])
    with_mask = (area > 0) & (labels == 1)
    if with_mask.sum() < 3:
        return None
    figures = []
    index = np.flatnonzero(with_mask)
    for words, third in thirds(area[with_mask]):
        keep = labels == 0
        keep[index[third]] = True
        if not third.any():
            continue
        p, sampling = run.own.subset(keep), run.sampling(keep)
        auroc = metrics.auroc(p.score, labels[keep])
        figures.append(sampling.figure(f"AUROC, lesion {words}", auroc, p.of))
        found = (p.score >= p.fitted("threshold"))[labels[keep] == 1]
        abnormal = run.sampling(keep & (labels == 1))
        figures.append(abnormal.mean(f"sensitivity, lesion {words}", found, p.of))
    note = f"{with_mask.sum()} abnormal images with a mask, in thirds, against all normal images."
    return Part("By lesion size", [note], figures)


def without_duplicates(run: Run, labels: np.ndarray) -> Part | None:
    """One image of each group, where groups hold several."""
    keep = run.one_per_group()
    if keep.all():
        return None
    note = (
        f"{len(keep)} images in {keep.sum()} groups; one of each is drawn by the seed. The figures "
        "above count every image and resample whole groups."
    )
    if len(set(labels[keep])) < 2:
        return None
    one, y = run.pick(keep), labels[keep]
    sampling, s = one.sampling(), scores_of(one.own, y)
    auroc = sampling.figure("AUROC", metrics.auroc(s.scores, y), one.own.of)
    return Part("One image of each group", [note], [auroc, *overall(s, sampling, one.own.of)])


def worst(run: Run, labels: np.ndarray) -> list[Picture]:
    """The wrong decisions that lie farthest from the threshold."""
    threshold = run.own.fitted("threshold")
    distance = np.abs(run.own.score - threshold)
    wrong = np.flatnonzero((run.own.score >= threshold) != (labels == 1))
    chosen = wrong[np.argsort(-distance[wrong], kind="stable")][:WORST]
    words = ("normal", "abnormal")
    return [
        picture(
            run, i, f"score {run.own.score[i]:.3f} at threshold {threshold[i]:.2f}, label "
            f"{words[int(labels[i])]}{'' if run.own.in_scope[i] else ', out of scope'}",
        )
        for i in chosen
    ]  # fmt: skip


def main(arguments: DetectArguments) -> Path:
    """Measure detection on one split of a table; predictions that exist are used again."""
    images, keep, notes = labelled(arguments.data, arguments.split)
    resnet = ResNet.load(Path(arguments.resnet)) if arguments.resnet else None
    if resnet is not None:
        peers.refuse_other(resnet.record, arguments.data, arguments.split, "resnet")
    run = start("detect", arguments, images, keep, notes)
    samples, labels = run.samples, np.array([s.label for s in run.samples])
    baselines = baselines_of(
        samples, training_images(arguments), run.context.store, run.name, arguments.seed
    )
    trivial, difference, best = beside_baselines(run, labels, baselines)
    sentence, beats = verdict(difference, run.own.of, best)
    scratch = None if resnet is None else resnet.beside(run, labels)
    parts = [
        detection(run, labels), against(run, labels), scratch, trivial, calibration(run, labels),
        by_source(run, labels), by_size(run, labels), without_duplicates(run, labels),
    ]  # fmt: skip
    models = {p.of: p.score for p in run.seen}
    shown = models | {best: baselines.scores[best]}
    prevalence = scores_of(run.own, labels).prevalence
    drawn = [
        Picture("ROC", curves.roc(shown, labels)),
        Picture("Precision and recall", curves.precision_recall(shown, labels)),
        Picture(
            "Reliability, bins of equal mass",
            curves.reliability(
                {of: (score, labels) for of, score in models.items()},
                prevalence,
                f"share abnormal, at prevalence {prevalence:.2f}",
            ),
        ),
    ]
    threshold = run.own.fitted("threshold")
    return finish(
        run,
        verdict=sentence,
        beats_baseline=beats,
        parts=parts,
        curves=drawn,
        worst=worst(run, labels),
        worst_words="Wrong decisions whose score lies farthest from the threshold.",
        cases=[
            case_row(run, i) | {"decided": int(run.own.score[i] >= threshold[i])}
            for i in range(len(samples))
        ],
        extra={"best_baseline": best},
    )
