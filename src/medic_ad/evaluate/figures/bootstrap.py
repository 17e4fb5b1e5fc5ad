"""Evaluation: a figure is a statistic with its n, split, seed and a cluster-bootstrap interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

LEAST_UNITS = 10  # below, every unit's figure is given and no interval
LEVEL = 0.95

# How often each item was drawn, `(n,)` float -> the statistic; NaN where it is not defined.
Statistic = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        name: what was measured.
        of: whose: a model or a baseline.
        value: on the items as they are.
        n: items.
        unit, units: what was resampled, and how many of them.
        split, seed: of the data, of resampling and synthesis.
        interval: 95 % by percentile of the cluster bootstrap; `None` below 10 units.
        per_unit: every unit's figure, below 10 units.
        p: of a paired difference, two-sided share of resamples on the other side of zero.
        aim: what it was meant to reach.
    """

    name: str
    of: str
    value: float
    n: int
    unit: str
    units: int
    split: str
    seed: int
    interval: tuple[float, float] | None = None
    per_unit: dict[str, float] | None = None
    p: float | None = None
    aim: str | None = None


class Resampling:
    """Clusters of items, and one set of draws that all figures over these items share.

    Because the draws are shared, the difference of two figures is paired.

    Args:
        groups: the cluster of each item.
        unit: what a cluster is, in words.
        split: of the data.
        seed: of the draws.
        resamples: how many.
    """

    def __init__(
        self,
        groups: Sequence[str] | np.ndarray,
        unit: str,
        split: str,
        seed: int = 0,
        resamples: int = 1000,
    ) -> None:
        self.names, self.index = np.unique(np.asarray(groups), return_inverse=True)
        self.unit, self.split, self.seed, self.resamples = unit, split, seed, resamples
        units = len(self.names)
        self.draws = np.zeros((0, units), int)
        if units >= LEAST_UNITS:
            rng = np.random.default_rng(seed)
            self.draws = rng.multinomial(units, np.full(units, 1 / units), size=resamples)

    def __len__(self) -> int:
        return len(self.index)

    def resampled(self, statistic: Statistic) -> np.ndarray:
        """The statistic on every resample in which it is defined."""
        values = [statistic(draw[self.index].astype(float)) for draw in self.draws]
        return np.array([v for v in values if np.isfinite(v)])

    def figure(self, name: str, statistic: Statistic, of: str, aim: str | None = None) -> Figure:
        """The statistic with its interval, or with every unit's figure where units are few."""
        interval, per_unit = None, None
        if len(self.names) < LEAST_UNITS:
            per_unit = {
                str(unit): float(statistic((self.index == i).astype(float)))
                for i, unit in enumerate(self.names)
            }
        else:
            interval = _interval(self.resampled(statistic))
        return self._figure(name, of, statistic, interval, per_unit, None, aim)

    def mean(self, name: str, values: np.ndarray, of: str, aim: str | None = None) -> Figure:
        """The mean of one number per item over the items where it is known (not NaN)."""
        numbers = np.asarray(values, float)
        known = np.isfinite(numbers)
        return self.subset(known).figure(name, mean_of(numbers[known]), of, aim)

    def subset(self, keep: np.ndarray) -> Resampling:
        """The kept items alone, with draws of their own."""
        groups = self.names[self.index][keep]
        return Resampling(groups, self.unit, self.split, self.seed, self.resamples)

    def difference(self, name: str, a: Statistic, b: Statistic, of: str) -> Figure:
        """`a - b` on the same draws, with a two-sided bootstrap p where units suffice."""

        def statistic(counts: np.ndarray) -> float:
            return a(counts) - b(counts)

        if len(self.names) < LEAST_UNITS:
            return self.figure(name, statistic, of)
        values = self.resampled(statistic)
        tail = min((values <= 0).mean(), (values >= 0).mean()) if len(values) else np.nan
        p = float(min(1.0, 2 * max(tail, 1 / (len(values) + 1))))
        return self._figure(name, of, statistic, _interval(values), None, p, None)

    def _figure(
        self,
        name: str,
        of: str,
        statistic: Statistic,
        interval: tuple[float, float] | None,
        per_unit: dict[str, float] | None,
        p: float | None,
        aim: str | None,
    ) -> Figure:
        return Figure(
            name=name,
            of=of,
            value=float(statistic(np.ones(len(self)))),
            n=len(self),
            unit=self.unit,
            units=len(self.names),
            split=self.split,
            seed=self.seed,
            interval=interval,
            per_unit=per_unit,
            p=p,
            aim=aim,
        )


def mean_of(values: np.ndarray) -> Statistic:
    """The mean of one number per item."""
    numbers = np.asarray(values, float)
    return lambda counts: float(counts @ numbers / counts.sum()) if counts.any() else float("nan")


def _interval(values: np.ndarray) -> tuple[float, float] | None:
    if not len(values):
        return None
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values, (tail, 1 - tail))
    return float(low), float(high)
