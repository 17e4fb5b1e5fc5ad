"""`medic-ad evaluate sanity`: what must be at chance is, and what must matter does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from medic_ad.data.sample import Sample, read_info
from medic_ad.errors import DataError
from medic_ad.evaluate.baselines.grey import intensity
from medic_ad.evaluate.figures import metrics
from medic_ad.evaluate.figures.bootstrap import Figure, mean_of
from medic_ad.evaluate.material.twins import MADE_WITH, repaired
from medic_ad.evaluate.output.finish import case_row, finish
from medic_ad.evaluate.parts.gate import gate_part
from medic_ad.evaluate.parts.outside import blank_figures
from medic_ad.evaluate.parts.randomise import ALL, exchanged, randomised
from medic_ad.evaluate.predictions.run import Run, start
from medic_ad.evaluate.predictions.store import Part, digest
from medic_ad.evaluate.predictions.sweep import as_image, columns, predict
from medic_ad.evaluate.predictions.table import (
    Predictions,
    TableArguments,
    file_of,
    images_of,
    mask_of,
    slice_of,
    state_of,
)
from medic_ad.image import Image
from medic_ad.option import entries

SLICES = 40  # evenly spaced, for what takes a pass through several models
DRAWS = 3  # of random weights
MOST_ALIKE = 0.2  # rank correlation of a map with that of random weights
ALIKE = "|rank correlation| with the trained map"
NOISE = 120  # images of each class that are replaced by noise


@dataclass
class SanityArguments(TableArguments):
    """Arguments of `medic-ad evaluate sanity`."""

    outside: str = field(
        default="", metadata={"help": "other tables for the out-of-scope gate, comma-separated"}
    )

    @property
    def tables(self) -> list[str]:
        return [self.data, *entries(self.outside)]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.against:
            raise DataError("expected one model for sanity, got --against too; leave it out")


def evenly(index: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the indexes, evenly spaced."""
    return index[np.unique(np.linspace(0, len(index) - 1, min(most, len(index))).astype(int))]


def noise_part(run: Run[Predictions]) -> Part:
    """Blank and noise images through `read`, and every image of the table replaced by noise."""
    figures = blank_figures(run.context, run.own.of)
    labels = np.array([s.label for s in run.samples])
    index = np.concatenate([evenly(np.flatnonzero(labels == y), NOISE) for y in (0, 1)
                            if (labels == y).any()] or [np.zeros(0, int)])  # fmt: skip
    if len(set(labels[index])) == 2:
        keep = np.zeros(len(labels), bool)
        keep[index] = True
        chosen, truth = run.pick(keep), labels[keep]

        def make() -> dict[str, np.ndarray]:
            images = []
            for i, s in enumerate(chosen.samples):
                rng = np.random.default_rng((run.arguments.seed, i))
                images.append(as_image(rng.uniform(0, 255, slice_of(s).shape), "noise.png"))
            return columns(predict(run.own.model, images, "reading noise"), ("score",))

        key = digest(run.arguments.seed, [state_of(s) for s in chosen.samples])
        seen = run.context.store.predictions(
            run.own.model.weights_sha256, f"noise-{run.name}", key, make, test=False
        )
        name = "AUROC, every image replaced by noise of its size"
        auroc = metrics.auroc(seen["score"], truth)
        figures.append(chosen.sampling().figure(name, auroc, run.own.of, "= 0.5"))
    note = (
        "Blank and noise images are made and go through `read`. Noise of an image's own size can "
        "tell the classes apart only by the size."
    )
    return Part("Blank and noise", [note], figures)


def planes_of(samples: list[Sample]) -> tuple[list[Image], list[tuple[float, float]]]:
    """Slices as images, and the grey windows of the files that they lie in."""
    return [as_image(slice_of(s), s.image) for s in samples], [file_of(s)[1] for s in samples]


def alike(map_a: np.ndarray, map_b: np.ndarray) -> float:
    """Spearman's rank correlation of a map with a second; 0 where the second is constant.

    It is 1 where the first is constant: before its weights are drawn anew it has nothing to lose.
    """
    if not (np.ptp(map_a) and np.ptp(map_b)):
        return 0.0 if np.ptp(map_a) else 1.0
    return float(spearmanr(map_a.ravel(), map_b.ravel()).statistic)


def weights_part(run: Run[Predictions]) -> Part:
    """Rank correlation of each map with that of weights drawn anew, layer after layer."""
    abnormal = np.array([s.label != 0 for s in run.samples])
    index = evenly(np.flatnonzero(abnormal if abnormal.any() else ~abnormal), SLICES)
    keep = np.zeros(len(run.samples), bool)
    keep[index] = True
    chosen = run.pick(keep)

    def make() -> dict[str, np.ndarray]:
        images, windows = planes_of(chosen.samples)
        out: dict[str, list] = {}
        for draw in range(DRAWS):
            for words, model in randomised(run.own.model, run.arguments.seed + draw):
                seen = predict(model, images, f"heatmaps, {words}", windows)
                row = [alike(a, b.heatmap) for a, b in zip(chosen.own.heatmaps, seen, strict=True)]
                out.setdefault(words, []).append(row)
        return {words: np.array(rows) for words, rows in out.items()}

    key = digest(run.arguments.seed, DRAWS, [state_of(s) for s in chosen.samples])
    seen = run.context.store.predictions(
        run.own.model.weights_sha256, f"randomised-{run.name}", key, make,
        run.arguments.opens_test,
    )  # fmt: skip
    sampling, figures = chosen.sampling(), []
    for words, rows in seen.items():
        aim = f"< {MOST_ALIKE:g}" if words == ALL else None
        figures.append(sampling.mean(ALIKE, np.abs(rows).mean(0), words, aim))
    each = ", ".join(f"{rows.mean():.2f}" for rows in seen[ALL])
    note = (
        f"{len(index)} evenly spaced images; weights are drawn {DRAWS} times, from the heatmap "
        "back to the pixels, each step keeping what the one before drew (Adebayo et al. 2018). "
        f"Mean over images, with its sign, of each draw of all weights: {each}."
    )
    return Part("Randomised weights", [note], figures)


def exchange_part(run: Run[Predictions]) -> Part | None:
    """The heatmap with an image's own `<Ano>` and with that of its lesion-free twin."""
    lesion = [i for i, s in enumerate(run.samples) if s.mask and (m := mask_of(s)) is not None
              and m.any()]  # fmt: skip
    if not lesion:
        return None
    keep = np.zeros(len(run.samples), bool)
    keep[evenly(np.array(lesion), SLICES)] = True
    chosen = run.pick(keep)

    def make() -> dict[str, np.ndarray]:
        greys, twins, masks = [], [], []
        for i, s in enumerate(chosen.samples):
            mask = np.asarray(mask_of(s))
            greys.append(intensity(slice_of(s), file_of(s)[1]))
            rng = np.random.default_rng((run.arguments.seed, i))
            twins.append(repaired(greys[-1], mask, rng))
            masks.append(mask)
        return exchanged(run.own.model, greys, twins, masks, [(0.0, 1.0)] * len(greys))

    key = digest(MADE_WITH, run.arguments.seed, [(state_of(s), s.mask) for s in chosen.samples])
    seen = run.context.store.predictions(
        run.own.model.weights_sha256, f"exchanged-{run.name}", key, make,
        run.arguments.opens_test,
    )  # fmt: skip
    sampling, name = chosen.sampling(), "mean heatmap inside the mask"
    own, other = mean_of(seen["own"]), mean_of(seen["other"])
    figures = [
        sampling.difference(name, own, other, "own - twin's"),
        sampling.figure(name, own, "its own `<Ano>`"),
        sampling.figure(name, other, "`<Ano>` of the same image with the lesion repaired"),
    ]
    note = f"{keep.sum()} evenly spaced images with a lesion; vision features stay the image's own."
    return Part("`<Ano>` exchanged", [note], figures)


def holds(figure: Figure) -> bool | None:
    """Whether a check passed; `None` where the figure is no check."""
    if figure.name.endswith("not read as abnormal"):
        return figure.value == 1
    if figure.name.startswith("AUROC, every image"):
        low, high = figure.interval or (figure.value, figure.value)
        return low <= 0.5 <= high
    if figure.of == ALL:
        return figure.value < MOST_ALIKE
    if figure.of == "own - twin's":
        return (figure.interval or (figure.value,))[0] > 0
    return None


def main(arguments: SanityArguments) -> Path:
    """Check one model on one split of a table; predictions that exist are used again."""
    images, notes = images_of(arguments.data, arguments.split)
    if not images:
        raise DataError(
            f"expected images with a label or mask in split {arguments.split!r} of "
            f"{arguments.data}, got none; fill the column label"
        )
    for table in arguments.tables:
        read_info(table)  # one that is not there is refused before the work
    run = start("sanity", arguments, images, [True] * len(images), notes)
    found = [
        noise_part(run), weights_part(run), exchange_part(run),
        gate_part(run, entries(arguments.outside)),
    ]  # fmt: skip
    parts = [part for part in found if part is not None]
    parts[0].notes.extend(run.notes)
    checks = [(f, ok) for part in parts for f in part.figures if (ok := holds(f)) is not None]
    failed = [f"{f.name} ({f.of})" for f, ok in checks if not ok]
    sentence = f"{len(checks) - len(failed)} of {len(checks)} checks hold" + (
        f"; these do not: {'; '.join(failed)}." if failed else "."
    )
    return finish(
        run,
        verdict=sentence,
        beats_baseline=None,
        parts=parts,
        cases=[case_row(run, i) for i in range(len(run.samples))],
        extra={"checks": len(checks), "failed": failed},
    )
