"""The 3-D generator: what it says happened is what its masks show, on every date and grid."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medic_ad.data.acquire import (
    Acquisition,
    acquire,
    acquire_labels,
    draw_acquisition,
    draw_motion,
)
from medic_ad.data.longitudinal import (
    APART_MM,
    BLENDS,
    FATES,
    Host,
    Longitudinal,
    draw_longitudinal,
    prepare_host,
)
from medic_ad.data.seeds import LEAST_ML
from medic_ad.lesions import match_lesions, measure_lesions

SPACING = (2.0, 1.5, 1.5)
EIGHT = np.ones((3, 3, 3))


def head(seed: int = 0) -> np.ndarray:
    """An ellipsoid of textured tissue, 160 mm long, in scanner units."""
    grid = (64, 100, 84)
    rng = np.random.default_rng(seed)
    axes = [np.linspace(-1.15, 1.15, n) for n in grid]
    d, h, w = np.meshgrid(*axes, indexing="ij")
    tissue = 300 + 40 * ndimage.gaussian_filter(rng.normal(size=grid), 4.0) / 0.02
    return np.where(d * d + h * h + w * w < 1, np.clip(tissue, 200, 400), 0).astype(np.float32)


@pytest.fixture(scope="module")
def host() -> Host:
    return prepare_host(head(), SPACING, np.random.default_rng(0))


@pytest.fixture(scope="module")
def made(host: Host) -> Longitudinal:
    return draw_longitudinal(host, np.random.default_rng(1), dates=4, lesions=14)


def test_fates_are_what_the_masks_show(made: Longitudinal) -> None:
    """The matcher knows nothing of the plan, and must agree with all of it."""
    seen = set()
    for i, fates in enumerate(made.fates):
        dates = [measure_lesions(made.labels[k] > 0, SPACING) for k in (i, i + 1)]
        names = []
        for date, labels in zip(dates, made.labels[i : i + 2], strict=True):
            names.append({n.number: int(labels[date.labels == n.number][0]) for n in date.items})
        changes = match_lesions(dates[0], dates[1])
        got = {
            (
                c.kind,
                tuple(sorted(names[0][n] for n in c.before)),
                tuple(sorted(names[1][n] for n in c.after)),
            )
            for c in changes
        }
        assert got == {(f.kind, f.before, f.after) for f in fates}
        seen |= {f.kind for f in fates}
    assert seen == set(FATES)
    assert sum(map(len, made.fates)) > 20


def test_volumes_are_those_of_the_masks_and_never_tiny(made: Longitudinal) -> None:
    known = made.volumes_ml()
    checked = 0
    for date, labels in enumerate(made.labels):
        for label in np.unique(labels[labels > 0]):
            ml = known[int(label)][date]
            assert ml == pytest.approx((labels == label).sum() * 0.0045)
            assert ml > 0.8 * LEAST_ML
            checked += 1
    assert checked > 25


def test_lesions_keep_apart_and_connected(made: Longitudinal) -> None:
    for labels in made.labels:
        numbers = [int(n) for n in np.unique(labels) if n]
        for n in numbers:
            assert ndimage.label(labels == n, EIGHT)[1] == 1
            partner = n + 1 if n % 2 else n - 1
            others = (labels > 0) & (labels != n) & (labels != partner)
            if others.any():
                gap = ndimage.distance_transform_edt(~others, SPACING)[labels == n].min()
                assert gap > APART_MM


def test_only_lesions_are_painted(host: Host, made: Longitudinal) -> None:
    for volume, labels in zip(made.volumes, made.labels, strict=True):
        assert volume.dtype == np.float32 and volume.min() >= 0 and volume.max() <= 1
        far = ndimage.distance_transform_edt(labels == 0) > 3
        assert np.array_equal(volume[far], host.clean[far])
        inside = ndimage.binary_erosion(labels > 0)
        assert np.median(volume[inside] / host.clean[inside]) > 1.15


def test_the_same_seed_makes_the_same_study(host: Host) -> None:
    a, b = (draw_longitudinal(host, np.random.default_rng(5), lesions=4) for _ in range(2))
    assert a.fates == b.fates and len(a.fates[0]) >= 3
    for x, y in zip((*a.volumes, *a.labels), (*b.volumes, *b.labels), strict=True):
        assert np.array_equal(x, y)
    other = draw_longitudinal(host, np.random.default_rng(5), lesions=4, blend=BLENDS["test"])
    assert np.array_equal(other.labels[0], a.labels[0])
    assert not np.array_equal(other.volumes[0], a.volumes[0])


def test_own_lesions_are_taken_out_and_put_back() -> None:
    volume = head()
    mask = np.zeros(volume.shape, bool)
    mask[30:36, 46:54, 36:46] = True
    mask[20:24, 60:66, 50:56] = True
    volume[mask] = 700
    host = prepare_host(volume, SPACING, np.random.default_rng(0), mask)
    assert [seed.voxels for seed in host.seeds] == [480, 144]
    tissue = float(np.median(host.clean[host.depth_mm > 5]))
    assert abs(np.median(host.clean[mask]) / tissue - 1) < 0.15
    made = draw_longitudinal(host, np.random.default_rng(2), dates=3, lesions=7)
    middle = made.labels[0][32, 50, 40], made.labels[1][32, 50, 40]
    assert any(middle)
    date = int(middle[1] > 0)
    assert made.volumes[date][32, 50, 40] > 1.3 * tissue


def test_a_scan_shows_a_point_where_its_motion_takes_it() -> None:
    rng = np.random.default_rng(0)
    affine = np.diag([2.0, 1.5, 1.5, 1.0])
    affine[:3, 3] = (-60, -70, -50)
    grid = (64, 100, 84)
    checked = 0
    for _ in range(8):
        how = draw_acquisition(rng, affine, grid)
        volume = np.zeros(grid, np.float32)
        labels = np.zeros(grid, np.int32)
        at = np.array([rng.integers(n // 3, 2 * n // 3) for n in grid])
        box = tuple(slice(a - 3, a + 4) for a in at)
        volume[box], labels[box] = 1000.0, 7
        quiet = Acquisition(how.motion, how.affine, how.grid)
        seen = acquire(volume, affine, quiet, rng)
        there = np.linalg.inv(how.affine) @ how.motion @ affine @ np.append(at, 1)
        assert seen.shape == how.grid and seen.dtype == np.float32
        assert np.allclose(ndimage.center_of_mass(seen), there[:3], atol=0.15)
        mask = acquire_labels(labels, affine, how)
        assert set(np.unique(mask)) == {0, 7}
        assert np.allclose(ndimage.center_of_mass(mask == 7), there[:3], atol=0.5)
        truth = 343 * 4.5
        assert (mask == 7).sum() * np.prod(how.spacing_mm) == pytest.approx(truth, rel=0.15)
        checked += 1
    assert checked == 8


def test_the_plain_scan_is_the_volume_itself() -> None:
    volume = head()
    affine = np.diag([*SPACING, 1.0])
    plain = Acquisition(np.eye(4), affine, (64, 100, 84))
    seen = acquire(volume, affine, plain, np.random.default_rng(0))
    assert np.allclose(seen, volume, atol=1e-2)
    labels = (volume > 320).astype(np.int32)
    assert np.array_equal(acquire_labels(labels, affine, plain), labels)


def test_motion_is_rigid_and_within_its_limits() -> None:
    rng = np.random.default_rng(0)
    turns, ways = [], []
    for _ in range(200):
        motion = draw_motion(rng, (10.0, -5.0, 30.0), 20.0, 15.0)
        turn = motion[:3, :3]
        assert np.allclose(turn @ turn.T, np.eye(3)) and np.linalg.det(turn) > 0
        turns.append(np.degrees(np.arccos(min(1.0, (np.trace(turn) - 1) / 2))))
        centre = np.array([10.0, -5.0, 30.0, 1.0])
        ways.append(np.linalg.norm((motion @ centre - centre)[:3]))
    assert 14 < max(turns) <= 15.0001 and 19 < max(ways) <= 20.0001
