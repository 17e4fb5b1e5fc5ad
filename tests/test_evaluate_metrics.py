"""Metrics against scikit-learn and against brute force on small arrays."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as reference
from scipy import ndimage

from medic_ad.evaluate.figures import metrics
from medic_ad.evaluate.figures.metrics import PixelCounts
from medic_ad.evaluate.figures.regions import FreeResponse, RegionOverlap

CURVES = ("auroc", "average_precision", "f1", "macro_f1", "sensitivity", "brier")


def drawn(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with ties, labels that lean on them, and counts of a resample."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    scores = np.clip(np.round(0.3 * labels + rng.random(n), 1) / 1.3, 0, 1)
    return scores, labels, rng.multinomial(n, np.full(n, 1 / n)).astype(float)


def by_pairs(scores: np.ndarray, labels: np.ndarray) -> float:
    """AUROC as the share of pairs in the right order, ties half."""
    a, b = scores[labels == 1][:, None], scores[labels == 0][None]
    return float(((a > b) + 0.5 * (a == b)).mean())


def by_thresholds(scores: np.ndarray, labels: np.ndarray, specificity: float) -> float:
    """Sensitivity by trying every threshold."""
    best = 0.0
    for t in [*np.unique(scores), np.inf]:
        if ((scores < t) & (labels == 0)).sum() >= (specificity - 1e-9) * (labels == 0).sum():
            best = max(best, float((scores >= t)[labels == 1].mean()))
    return best


@pytest.mark.parametrize("seed", range(5))
def test_weighted_figures_equal_two_references(seed: int):
    scores, labels, counts = drawn(seed)
    repeated = np.repeat(np.arange(len(scores)), counts.astype(int))  # brute force: copy the items
    s, y = scores[repeated], labels[repeated]
    weight = {"sample_weight": counts}
    expected = {
        "auroc": (reference.roc_auc_score(labels, scores, **weight), by_pairs(s, y)),
        "average_precision": (
            reference.average_precision_score(labels, scores, **weight),
            reference.average_precision_score(y, s),
        ),
        "f1": (reference.f1_score(labels, scores > 0.5, **weight), reference.f1_score(y, s > 0.5)),
        "macro_f1": (
            reference.f1_score(labels, scores > 0.5, average="macro", **weight),
            reference.f1_score(y, s > 0.5, average="macro"),
        ),
        "sensitivity": (by_thresholds(s, y, 0.9),) * 2,
        "brier": (reference.brier_score_loss(labels, scores, **weight), np.mean((s - y) ** 2)),
    }
    ours = {
        "auroc": metrics.auroc(scores, labels)(counts),
        "average_precision": metrics.average_precision(scores, labels)(counts),
        "f1": metrics.f1(scores > 0.5, labels)(counts),
        "macro_f1": metrics.macro_f1(
            (scores > 0.5).astype(int).astype(str), labels.astype(str), "01"
        )(counts),
        "sensitivity": metrics.sensitivity_at(scores, labels, 0.9)(counts),
        "brier": metrics.brier(scores, labels, float(labels.mean()))(counts),
    }
    assert set(ours) == set(expected) == set(CURVES)
    for name, pair in expected.items():
        assert ours[name] == pytest.approx(pair[0], abs=1e-9), name
        assert ours[name] == pytest.approx(pair[1], abs=1e-9), name


def test_perfect_and_chance_scores_give_the_known_figures():
    rng = np.random.default_rng(0)
    labels, ones = np.repeat([0, 1], 2000), np.ones(4000)
    chance = rng.random(4000)
    assert metrics.auroc(labels + 0.0, labels)(ones) == 1
    assert metrics.average_precision(labels + 0.0, labels)(ones) == 1
    assert metrics.sensitivity_at(labels + 0.0, labels, 0.9)(ones) == 1
    assert metrics.auroc(chance, labels)(ones) == pytest.approx(0.5, abs=0.03)
    assert metrics.average_precision(chance, labels)(ones) == pytest.approx(0.5, abs=0.03)
    assert metrics.sensitivity_at(chance, labels, 0.9)(ones) == pytest.approx(0.1, abs=0.03)
    assert metrics.auroc(np.zeros(4000), labels)(ones) == 0.5
    only = (labels == 1).astype(float)
    assert np.isnan(metrics.auroc(chance, labels)(only))


def test_pooled_pixels_equal_scikit_learn_on_all_pixels():
    rng = np.random.default_rng(0)
    masks = [rng.random((20, 30)) < share for share in (0.1, 0.02, 0.3, 0.0)]
    maps = [0.4 * m + rng.random(m.shape) ** 3 for m in masks]
    maps[1][0, :5] = np.nan  # not looked at
    counts = np.array([2.0, 1.0, 0.0, 3.0])
    pixels = metrics.PixelCounts(maps, masks)
    weight = np.concatenate([np.full(m.size, c) for m, c in zip(masks, counts, strict=True)])
    values, truth = (np.concatenate([a.ravel() for a in arrays]) for arrays in (maps, masks))
    seen = np.isfinite(values)
    for ours, theirs in (
        (pixels.auroc, reference.roc_auc_score),
        (pixels.average_precision, reference.average_precision_score),
    ):
        expected = theirs(truth[seen], values[seen], sample_weight=weight[seen])
        assert ours(counts) == pytest.approx(expected, abs=1e-3)


def test_calibration_error_by_hand_and_its_null():
    scores = np.array([0.1, 0.1, 0.9, 0.9])
    labels = np.array([0, 1, 1, 1])
    # two bins of half the mass: |0.5 - 0.1| and |1 - 0.9|, each weighing a half
    assert metrics.calibration_error(scores, labels, np.ones(4), 2) == pytest.approx(0.25)
    rng = np.random.default_rng(0)
    honest = rng.random(3000)
    truth = (rng.random(3000) < honest).astype(int)
    error = metrics.ece(honest, truth, float(truth.mean()))(np.ones(3000))
    mean, ceiling = metrics.ece_null(honest, truth, float(truth.mean()), 0, 60)
    assert error < 1.2 * ceiling and 0 < mean < ceiling < 0.06
    loud = np.clip(2 * honest - 0.5, 0, 1)
    assert metrics.ece(loud, truth, float(truth.mean()))(np.ones(3000)) > 2 * ceiling


def test_prevalence_weights_undo_the_mixture():
    labels = np.array([1, 1, 0])
    weight = metrics.to_prevalence(labels, 0.5)
    assert weight.sum() == pytest.approx(3) and weight[labels == 1].sum() == pytest.approx(1.5)


def test_dice_and_pointing():
    mask = np.zeros((4, 4), bool)
    mask[1:3, 1:3] = True
    assert metrics.dice(mask, mask) == 1 and metrics.dice(~mask, mask) == 0
    assert metrics.dice(np.ones((4, 4), bool), mask) == pytest.approx(2 * 4 / 20)
    assert np.isnan(metrics.dice(~np.ones((4, 4), bool), np.zeros((4, 4), bool)))
    assert metrics.pointing(mask * 0.4, mask) == 1 and metrics.pointing(0.4 - mask, mask) == 0


def brute_aupro(maps: np.ndarray, masks: np.ndarray, limit: float) -> float:
    """One threshold after the other, one region after the other."""
    points = [(0.0, 0.0)]
    regions = []
    for i, mask in enumerate(masks):
        labels, n = ndimage.label(mask, np.ones((3, 3)))
        regions += [(i, labels == k) for k in range(1, n + 1)]
    for threshold in sorted(set(maps.ravel()), reverse=True):
        found = maps >= threshold
        rate = (found & ~masks).sum() / (~masks).sum()
        points.append((rate, np.mean([found[i][region].mean() for i, region in regions])))
    x, y = (np.array(column) for column in zip(*points, strict=True))
    grid = np.unique(np.concatenate([np.linspace(0, limit, 20001), x[x <= limit]]))
    return float(np.trapezoid(np.interp(grid, x, y), grid) / limit)


def test_aupro_equals_brute_force_and_counts_a_small_region_as_a_large_one():
    rng = np.random.default_rng(0)
    masks = np.zeros((6, 20, 20), bool)
    for k, mask in enumerate(masks):
        mask[2 : 4 + k, 3:9] = True
        mask[15:17, 15:17] = k % 2 == 0
    maps = rng.integers(0, 40, masks.shape) + 12.0 * masks
    pixels = PixelCounts(list(maps), list(masks))
    ours = RegionOverlap(list(maps), list(masks), pixels)
    ones = np.ones(6)
    assert len(ours.overlap) == 9
    # a bin of tied scores is one step of the curve in both, so only the drawing of it differs
    assert ours.aupro(ones) == pytest.approx(brute_aupro(maps, masks, 0.3), abs=0.002)
    twice = np.array([2.0, 0, 1, 1, 1, 1])
    drawn = [0, 0, 2, 3, 4, 5]
    assert ours.aupro(twice) == pytest.approx(
        brute_aupro(maps[drawn], masks[drawn], 0.3), abs=0.002
    )
    perfect = RegionOverlap(
        list(masks * 1.0), list(masks), PixelCounts(list(masks * 1.0), list(masks))
    )
    assert perfect.aupro(ones) == 1.0
    large = masks * 1.0
    large[:, 15:17, 15:17] = 0.0  # misses every small region: 3 of 9
    seen = RegionOverlap(list(large), list(masks), PixelCounts(list(large), list(masks))).aupro(
        ones
    )
    assert 6 / 9 <= seen < 0.75


def test_free_response_counts_marks_and_a_map_over_everything_finds_little():
    mask = np.zeros((20, 20), bool)
    mask[2:5, 2:5] = mask[2:5, 12:15] = mask[15:18, 2:5] = True
    scores = np.zeros(mask.shape)
    scores[2:5, 2:5], scores[3, 13], scores[15:18, 12:15] = 0.9, 0.6, 0.8
    flat, none = np.full(mask.shape, 0.7), np.zeros(mask.shape, bool)
    thresholds = np.broadcast_to([0.5, 0.7, 0.85], (3, 3))
    found = FreeResponse([scores, flat, scores], [mask, mask, none], thresholds)
    assert found.lesions.tolist() == [3, 3, 0]
    assert found.found.tolist() == [[2, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert found.false.tolist() == [[1, 1, 0], [1, 1, 0], [3, 2, 1]]
    false, share = found.curve()
    assert share.tolist() == [2 / 6, 1 / 6, 1 / 6] and false[0] == pytest.approx(5 / 3)
    assert found.sensitivity(0)(np.array([2.0, 0, 1])) == pytest.approx(2 / 3)
    assert np.isnan(found.sensitivity(0)(np.array([0.0, 0, 1])))


def test_pixels_that_are_only_sampled_give_the_figures_of_all(monkeypatch):
    rng = np.random.default_rng(3)
    masks = [rng.random((s, s)) < 0.3 for s in (40, 55, 61)]
    maps = [rng.random(m.shape) + 0.4 * m for m in masks]
    whole = PixelCounts(maps, masks)
    monkeypatch.setattr(metrics, "EDGE_SAMPLE", 500)
    sampled = PixelCounts(maps, masks)
    pooled = [np.concatenate([x.ravel() for x in xs]) for xs in (masks, maps)]
    assert not np.array_equal(sampled.cut, whole.cut)
    assert sampled.auroc(np.ones(3)) == pytest.approx(whole.auroc(np.ones(3)), abs=0.002)
    assert whole.auroc(np.ones(3)) == pytest.approx(reference.roc_auc_score(*pooled), abs=0.001)


def test_reliability_bins_add_up_to_the_calibration_error():
    scores, labels, counts = drawn(1)
    mass, score, share = metrics.reliability(scores, labels, counts)
    assert mass.sum() == pytest.approx(1)
    error = metrics.calibration_error(scores, labels, counts)
    assert (mass * np.abs(score - share)).sum() == pytest.approx(error)
