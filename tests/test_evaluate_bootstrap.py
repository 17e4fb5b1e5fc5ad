"""Intervals against planted truth."""

from __future__ import annotations

import numpy as np
import pytest

from medic_ad.evaluate.figures.bootstrap import LEAST_UNITS, Figure, Resampling, mean_of


def clustered(rng: np.random.Generator, clusters: int = 30, each: int = 6):
    """Values of mean 0 whose clusters share most of their spread."""
    values = np.repeat(rng.standard_normal(clusters), each)
    return values + 0.3 * rng.standard_normal(len(values)), np.repeat(np.arange(clusters), each)


def width(figure: Figure) -> float:
    """Of the interval, which must be there."""
    return figure.interval[1] - figure.interval[0] if figure.interval else float("nan")


def test_the_cluster_interval_covers_the_truth_and_the_item_interval_does_not():
    rng, trials, hits = np.random.default_rng(0), 120, {"cluster": 0, "item": 0}
    for seed in range(trials):
        values, clusters = clustered(rng)
        groups = {"cluster": clusters, "item": np.arange(len(values))}
        for name, group in groups.items():
            sampling = Resampling(group.astype(str), name, "made", seed, 200)
            interval = sampling.figure("mean", mean_of(values), "made").interval
            hits[name] += interval is not None and interval[0] <= 0 <= interval[1]
    assert 0.88 <= hits["cluster"] / trials <= 1.0
    assert hits["item"] / trials < 0.7


def test_below_ten_units_every_unit_is_given_and_no_interval():
    groups = [f"p{k}" for k in range(LEAST_UNITS - 1) for _ in range(3)]
    values = np.arange(len(groups), dtype=float)
    figure = Resampling(groups, "patient", "made").figure("mean", mean_of(values), "made")
    assert figure.interval is None and figure.units == LEAST_UNITS - 1 and figure.n == len(groups)
    assert figure.per_unit == {f"p{k}": 3.0 * k + 1 for k in range(LEAST_UNITS - 1)}
    enough = Resampling([str(k) for k in range(LEAST_UNITS)], "patient", "made")
    assert enough.figure("mean", mean_of(np.arange(10.0)), "made").per_unit is None


def test_a_paired_difference_is_narrower_than_what_it_is_made_of():
    rng = np.random.default_rng(1)
    shared = rng.standard_normal(60)
    a, b = mean_of(shared + 0.2), mean_of(shared + 0.01 * rng.standard_normal(60))
    sampling = Resampling([str(k) for k in range(60)], "item", "made", resamples=400)
    figure = sampling.difference("mean", a, b, "a - b")
    assert figure.value == pytest.approx(0.2, abs=0.01)
    assert width(figure) < 0.02 and figure.p is not None and figure.p < 0.01
    assert width(sampling.figure("mean", a, "made")) > 0.3


def test_no_difference_has_p_one():
    sampling = Resampling([str(k) for k in range(20)], "item", "made", resamples=100)
    same = mean_of(np.arange(20.0))
    figure = sampling.difference("mean", same, same, "a - a")
    assert figure.value == 0 and figure.interval == (0, 0) and figure.p == 1


def test_the_seed_decides_the_draws_and_is_kept():
    groups, values = [str(k) for k in range(15)], np.random.default_rng(0).random(15)
    first, again, other = (
        Resampling(groups, "item", "made", seed, 100).figure("mean", mean_of(values), "made")
        for seed in (3, 3, 4)
    )
    assert first == again and first.interval != other.interval and other.seed == 4


def test_unknown_items_are_left_out_of_n_and_units():
    values = np.arange(24.0)
    values[:12] = np.nan
    sampling = Resampling([str(k // 2) for k in range(24)], "pair", "made", resamples=50)
    figure = sampling.mean("mean", values, "made")
    assert (figure.n, figure.units, figure.value) == (12, 6, 17.5)
    nothing = sampling.mean("mean", np.full(24, np.nan), "made")
    assert nothing.n == 0 and np.isnan(nothing.value) and nothing.interval is None
