"""Evaluation: the change map against the published, unsigned mask of what changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medic_ad.evaluate.baselines.change import maps_of
from medic_ad.evaluate.figures.bootstrap import Figure
from medic_ad.evaluate.figures.maps import mean_known
from medic_ad.evaluate.figures.metrics import PixelCounts, dice
from medic_ad.evaluate.output import curves
from medic_ad.evaluate.output.page import Picture
from medic_ad.evaluate.predictions.bars import bar
from medic_ad.evaluate.predictions.pairs import Pair, PairPredictions, foreground
from medic_ad.evaluate.predictions.run import Run
from medic_ad.evaluate.predictions.store import Part
from medic_ad.finding import CHANGED
from medic_ad.processor import grey_window

WORST = 8


@dataclass(frozen=True)
class ChangeMaps:
    """Figures of change maps, over the pairs that have a mask.

    Attributes:
        keep: `(n,)` which of the run's pairs these are.
        pixels: whose map -> its histograms.
        dice: whose map -> `(m,)` at the fixed threshold; models only.
    """

    keep: np.ndarray
    pixels: dict[str, PixelCounts]
    dice: dict[str, np.ndarray]

    def dice_of(self, i: int) -> str:
        """The first model's, of one of the run's pairs; empty where it has no mask."""
        first = next(iter(self.dice.values()))
        return f"{first[self.keep[:i].sum()]:.6f}" if self.keep[i] else ""


def mask_of(pair: Pair) -> np.ndarray:
    """Bool on the listed slices of the current grid."""
    return pair.listed(pair.image(pair.change_mask).pixels) > 0


def change_maps(run: Run[PairPredictions], pairs: Sequence[Pair]) -> ChangeMaps | None:
    """Figures of every map on the foreground of the listed slices; `None` without any mask."""
    keep = np.array([p.change_mask is not None for p in pairs])
    if not keep.any():
        return None
    values: dict[str, list[np.ndarray]] = {}
    dices: dict[str, list[float]] = {p.of: [] for p in run.seen}
    truth = []
    for i in bar(np.flatnonzero(keep).tolist(), "change maps against masks"):
        pair = pairs[i]
        current = pair.image(pair.sample.image)
        inside = pair.listed(foreground(current))
        mask = mask_of(pair)
        truth.append(mask[inside])
        for p in run.seen:
            change = np.abs(np.nan_to_num(pair.listed(p.maps[i])))
            values.setdefault(p.of, []).append(change[inside])
            dices[p.of].append(dice(change > CHANGED, mask))
        prior = pair.listed(run.own.priors[i])
        for name, plain in maps_of(prior, pair.listed(current.pixels), inside).items():
            values.setdefault(name, []).append(plain[inside])
    return ChangeMaps(
        keep=keep,
        pixels={of: PixelCounts(maps, truth) for of, maps in values.items()},
        dice={of: np.array(found) for of, found in dices.items()},
    )


def map_part(run: Run[PairPredictions], maps: ChangeMaps) -> tuple[Part, Figure, str]:
    """AUROC, AP and Dice, and the model's difference from the best baseline."""
    sampling, own = run.sampling(maps.keep), run.own.of
    plain = [of for of in maps.pixels if of not in maps.dice]
    ones = np.ones(int(maps.keep.sum()))
    best = max(plain, key=lambda of: maps.pixels[of].auroc(ones))
    name = "change map, pixel AUROC"
    difference = sampling.difference(
        name, maps.pixels[own].auroc, maps.pixels[best].auroc, f"{own} - {best}"
    )
    figures = [sampling.figure(name, m.auroc, of) for of, m in maps.pixels.items()]
    figures.append(difference)
    figures += [
        sampling.figure("change map, pixel AP", m.average_precision, of)
        for of, m in maps.pixels.items()
    ]
    figures += [
        sampling.figure(f"change map, mean Dice at {CHANGED:g}", mean_known(found), of)
        for of, found in maps.dice.items()
    ]
    note = (
        "|Change map| against the unsigned change mask, on the current image's own grid, in its "
        "foreground; of a volume on the slices that the table lists. Both dates are registered as "
        "`read` does it, baselines included. AUROC and AP are pooled over pixels."
    )
    return Part("Change map", [note], figures), difference, best


def picture(run: Run[PairPredictions], pairs: Sequence[Pair], i: int, words: str) -> Picture:
    """Both dates and the map of one pair, of a volume on the slice where the map is strongest."""
    pair = pairs[i]
    current = pair.image(pair.sample.image).pixels
    prior, change = run.own.priors[i], run.own.maps[i]
    mask = None if pair.change_mask is None else pair.image(pair.change_mask).pixels > 0
    windows = grey_window(prior), grey_window(current)
    if current.ndim == 3:
        listed = pair.slices or range(len(current))
        weight = change if mask is None or not mask.any() else mask
        k = max(listed, key=lambda d: float(np.abs(np.nan_to_num(weight[d].astype(float))).sum()))
        words = f"slice {k}: {words}"
        current, prior, change = current[k], prior[k], change[k]
        mask = None if mask is None else mask[k]
    name = f"{pair.sample.group}: {words}"
    return Picture(name, curves.pair_case(prior, current, windows, change, CHANGED, mask))


def worst_maps(run: Run[PairPredictions], pairs: Sequence[Pair], maps: ChangeMaps) -> list[Picture]:
    """Pairs of lowest Dice; of a volume the slice with most change."""
    dices = maps.dice[run.own.of]
    index = np.flatnonzero(maps.keep)
    order = np.argsort(dices, kind="stable")[:WORST]
    return [picture(run, pairs, int(index[k]), f"Dice {dices[k]:.3f}") for k in order]
