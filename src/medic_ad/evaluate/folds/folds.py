"""`medic-ad evaluate folds`: what stage 1 learns from the labels of a set, beside a small ResNet.

Grouped folds take turns as test images, and every image is scored by weights that never saw its
group. The figures are of all these scores together.
"""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from medic_ad.data.sample import Sample, read_info
from medic_ad.evaluate import resnet
from medic_ad.evaluate.baselines import peers
from medic_ad.evaluate.baselines.features import SIZE, features_of, fitted, singles
from medic_ad.evaluate.figures import metrics
from medic_ad.evaluate.figures.bootstrap import Figure, Resampling, Statistic
from medic_ad.evaluate.folds.refit import FoldsArguments, draw_folds, homes, refit
from medic_ad.evaluate.material.copies import everything, one_of_each
from medic_ad.evaluate.output import curves
from medic_ad.evaluate.output.finish import record_of_table
from medic_ad.evaluate.output.page import Measured, Picture, show, verdict, write
from medic_ad.evaluate.output.record import provenance
from medic_ad.evaluate.predictions.bars import bar
from medic_ad.evaluate.predictions.store import Arrays, Context, Part, Store, code, digest
from medic_ad.evaluate.predictions.table import state_of, unit_of
from medic_ad.load import load_model

TRAINED_WITH = digest(
    code("medic_ad.train.detect"), inspect.getsource(resnet), inspect.getsource(peers)
)
OWN, PEER, FREE = "stage 1, fine-tuned", "ResNet from scratch", "image-free"


@dataclass(frozen=True)
class Rounds:
    """Scores of every image by weights that did not see its group.

    Attributes:
        samples: the images.
        labels: `(n,)` 1 abnormal, 0 normal.
        fold: `(n,)` in which round an image was tested.
        scores: whose -> `(n,)`; the model, the ResNet and every trivial baseline.
        decided: whose -> `(n,)` bool at the threshold of each round's validation part.
        sampling: of some of the images (all when `None`).
    """

    samples: Sequence[Sample]
    labels: np.ndarray
    fold: np.ndarray
    scores: dict[str, np.ndarray]
    decided: dict[str, np.ndarray]
    sampling: Callable[[np.ndarray | None], Resampling]

    def best(self) -> str:
        """The trivial baseline of highest AUROC."""
        ones = np.ones(len(self.labels))
        trivial = [name for name in self.scores if name not in (OWN, PEER)]
        return max(trivial, key=lambda k: metrics.auroc(self.scores[k], self.labels)(ones))

    def auroc(self, of: str, keep: np.ndarray) -> Statistic:
        return metrics.auroc(self.scores[of][keep], self.labels[keep])

    def figures(self, keep: np.ndarray, names: Sequence[str]) -> list[Figure]:
        """AUROC of some, and F1 where there is a decision, on the kept images."""
        sampling, labels = self.sampling(keep), self.labels[keep]
        out = [sampling.figure("AUROC", self.auroc(of, keep), of) for of in names]
        out += [
            sampling.figure("F1", metrics.f1(decided[keep], labels), of)
            for of, decided in self.decided.items()
            if of in names
        ]
        everyone = metrics.f1(np.ones(len(labels)), labels)
        return [*out, sampling.figure("F1", everyone, "majority (all abnormal)")]

    def differences(self, keep: np.ndarray) -> list[Figure]:
        """AUROC of the model minus that of the ResNet, and of the best trivial baseline."""
        sampling = self.sampling(keep)
        return [
            sampling.difference(
                "AUROC", self.auroc(OWN, keep), self.auroc(of, keep), f"{OWN} - {of}"
            )
            for of in (PEER, self.best())
        ]


def trivial_scores(here: Arrays, labels: np.ndarray, fold: np.ndarray, seed: int) -> dict:
    """Single numbers turned in their favour; forests fitted on all that a round does not test."""
    scores = singles(here, labels) | {FREE: np.zeros(len(labels))}
    for k in range(fold.max() + 1):
        test = fold == k
        rest, part = ({name: v[keep] for name, v in here.items()} for keep in (~test, test))
        for name, found in fitted(rest, labels[~test], part, seed).items():
            scores.setdefault(name, np.zeros(len(labels)))[test] = found
    return scores


def rounds_of(arguments: FoldsArguments, samples: list[Sample], context: Context) -> Rounds:
    """Train what lacks and gather all scores; predictions of finished rounds are used again."""
    labels = np.array([s.label for s in samples])
    fold = draw_folds(samples, arguments.folds, arguments.seed)
    budget = ("folds", "epochs", "learning_rate", "tower", "resnet_steps", "seed", "bf16")
    key = digest(
        [getattr(arguments, name) for name in budget],
        context.weights,
        TRAINED_WITH,
        [state_of(s) for s in samples],
        fold.tolist(),
    )
    out, name = Path(arguments.out), Path(arguments.data).stem
    columns: dict[str, np.ndarray] = {}
    for k in bar(range(arguments.folds), "rounds"):
        make = partial(refit, samples, homes(fold, k), arguments, out / "rounds" / f"{k}-{key}")
        found = context.store.predictions(context.weights, f"{name}-round-{k}", key, make)
        for column, values in found.items():
            columns.setdefault(column, np.zeros(len(samples), values.dtype))[fold == k] = values
    here = features_of(samples, context.store, name)

    def sampling(keep: np.ndarray | None = None) -> Resampling:
        kept = [s for i, s in enumerate(samples) if keep is None or keep[i]]
        words = f"{name}, {arguments.folds} folds"
        return context.resampling([s.group for s in kept], unit_of(kept), words)

    return Rounds(
        samples=samples,
        labels=labels,
        fold=fold,
        scores={
            OWN: columns["score"],
            PEER: columns["resnet"],
            **trivial_scores(here, labels, fold, arguments.seed),
        },
        decided={OWN: columns["decided"], PEER: columns["resnet_decided"]},
        sampling=sampling,
    )


def parts_of(
    r: Rounds, arguments: FoldsArguments, first: np.ndarray, notes: list[str]
) -> list[Part]:
    """The sections of the table."""
    everyone, trivial = np.ones(len(r.labels), bool), sorted(set(r.scores) - {OWN, PEER})
    how = (
        f"{int(r.labels.sum())} abnormal and {int((1 - r.labels).sum())} normal images in "
        f"{arguments.folds} folds of whole groups. Each fold is scored by stage 1 of "
        f"{Path(arguments.model).name}, fine-tuned on the labels of {arguments.folds - 2} other "
        f"folds ({arguments.epochs} epochs{', the vision tower too' * arguments.tower}), and by a "
        f"ResNet fitted on the same ({arguments.resnet_steps} steps); scaling and threshold come "
        "from the one left. Stages 2 and 3 are not fitted, and the gate is not applied."
    )
    ones = np.ones(len(r.labels))
    trivial.sort(key=lambda k: -metrics.auroc(r.scores[k], r.labels)(ones))
    parts = [
        Part(
            "In-domain", [how, *notes], r.differences(everyone) + r.figures(everyone, [OWN, PEER])
        ),
        Part(
            "Trivial baselines",
            [
                "Single numbers are turned in their favour on these very images; forests and "
                "nearest neighbours are fitted on all images outside the fold."
            ],
            [r.sampling(None).figure("AUROC", r.auroc(k, everyone), k) for k in trivial],
        ),
    ]
    if not first.all():
        note = f"{(~first).sum()} exact or near copies of another image are left out."
        named = list(dict.fromkeys([OWN, PEER, SIZE, r.best()]))
        figures = r.differences(first) + r.figures(first, named)
        parts.append(Part("Without copies", [note], figures))
    return parts


def main(arguments: FoldsArguments) -> Path:
    """Train and score all folds, then measure; what is done is not done again."""
    samples, notes = everything(arguments.data)
    words = ["medic-ad", "evaluate", "folds", "--data", arguments.data, "--model", arguments.model]
    out = Path(arguments.out)
    context = Context(
        model=load_model(arguments.model),
        root=Path(read_info(arguments.data).root),
        store=Store(out, shlex.join(words)),
        seed=arguments.seed,
        resamples=arguments.resamples,
    )
    r = rounds_of(arguments, samples, context)
    first, _ = one_of_each(samples, [], out / "fingerprints")
    best = r.best()
    peer, trivial = r.differences(np.ones(len(samples), bool))
    sentence, beats = verdict(trivial, OWN, best)
    record = provenance(context.model, arguments) | {
        "data": record_of_table(arguments.data, f"{arguments.folds} folds", samples)
    }
    shown = {of: r.scores[of] for of in (OWN, PEER, best)}
    measured = Measured(
        stage="folds",
        provenance=record,
        verdict=f"{verdict(peer, OWN, PEER, trivial=False)[0]} {sentence}",
        beats_baseline=beats,
        parts=parts_of(r, arguments, first, notes),
        curves=[Picture("ROC", curves.roc(shown, r.labels))],
        cases=[
            {
                "image": s.image,
                "group": s.group,
                "fold": int(r.fold[i]),
                "label": int(s.label),
                "copy": int(not first[i]),
                **{of: f"{r.scores[of][i]:.6f}" for of in shown},
                **{f"{of}, decided": int(r.decided[of][i]) for of in r.decided},
            }
            for i, s in enumerate(samples)
        ],
        extra={"best_baseline": best},
    )
    done = write(out / "folds", measured)
    show(measured)
    return done
