"""Evaluation: figures of heatmaps against masks, for the card and for any table alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medic_ad.evaluate.figures.bootstrap import Figure, Resampling, Statistic, mean_of
from medic_ad.evaluate.figures.metrics import PixelCounts, dice, pointing
from medic_ad.evaluate.figures.regions import RegionOverlap

PIXEL_FIGURES = ("pixel AUROC", "AUPRO up to 30 % false positives", "pixel AP")


class Maps:
    """Maps of one method against the masks, as statistics over the images.

    Args:
        maps: `(H, W)` scores per image, which may differ in size; they are gone through several
            times and may be read anew each time.
        masks: `(H, W)` bool per image; an image without lesion has no Dice and no pointing.
        thresholds: of each map.
    """

    def __init__(
        self,
        maps: Sequence[np.ndarray],
        masks: Sequence[np.ndarray],
        thresholds: np.ndarray,
    ) -> None:
        self.pixels = pixels = PixelCounts(maps, masks)
        rows = [
            (
                dice(scores >= threshold, mask) if mask.any() else np.nan,
                pointing(scores, mask) if mask.any() else np.nan,
                (scores >= threshold).mean(),
            )
            for scores, mask, threshold in zip(maps, masks, thresholds, strict=True)
        ]
        self.dice, self.pointing, self.area = np.array(rows, float).T
        self.statistics: dict[str, Statistic] = {
            "pixel AUROC": pixels.auroc,
            "pixel AP": pixels.average_precision,
            "AUPRO up to 30 % false positives": RegionOverlap(maps, masks, pixels).aupro,
            "mean Dice": mean_known(self.dice),
            "pointing game": mean_known(self.pointing),
        }


def mean_known(values: np.ndarray) -> Statistic:
    """The mean over the images in which a number is defined."""
    known = np.isfinite(values)
    mean = mean_of(values[known])
    return lambda counts: mean(counts[known])


def within(statistic: Statistic, keep: np.ndarray) -> Statistic:
    """A statistic over all images as one over some of them."""

    def narrowed(counts: np.ndarray) -> float:
        full = np.zeros(len(keep))
        full[keep] = counts
        return statistic(full)

    return narrowed


def thirds(area: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Thirds of lesion area (shares of the image): words and the items of each."""
    low, high = np.quantile(area, (1 / 3, 2 / 3))
    third = np.digitize(area, (low, high))
    words = (f"up to {low:.2%} of the image", f"{low:.2%} to {high:.2%}", f"above {high:.2%}")
    return [(text, third == k) for k, text in enumerate(words)]


def by_size(sampling: Resampling, dices: np.ndarray, area: np.ndarray, of: str) -> list[Figure]:
    """Dice in thirds of lesion area."""
    return [
        sampling.mean(f"mean Dice, lesion {text}", np.where(keep, dices, np.nan), of)
        for text, keep in thirds(area)
    ]


def false_areas(
    sampling: Resampling,
    area: np.ndarray,
    inside: np.ndarray,
    of: str,
    aim: str | None = None,
) -> list[Figure]:
    """Share of lesion-free images above the heatmap's threshold, and of those out of scope."""
    return [
        sampling.mean("false-positive area, without the gate", area, of, aim),
        sampling.mean(
            "false-positive area, with the gate (out of scope draws nothing)",
            np.where(inside, area, 0.0),
            of,
        ),
        sampling.mean("share out of scope", 1.0 - inside, of),
    ]
