"""Lesions over time against planted blobs whose fate is known."""

from __future__ import annotations

import datetime
import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest

from medic_ad.course import follow_lesions
from medic_ad.errors import MedicADError
from medic_ad.lesions import (
    EXCHANGED,
    KINDS,
    LesionChange,
    Tolerance,
    load_change,
    match_lesions,
    measure_lesions,
)

SPACING = (2.0, 1.0, 1.0)  # a voxel is 0.002 ml
GRID = (24, 64, 64)
EXACT = Tolerance(change_ml=0.0, voxels=0.0)


def planted(*places: tuple[slice, ...]) -> np.ndarray:
    mask = np.zeros(GRID, bool)
    for where in places:
        mask[where] = True
    return mask


def ball(centre: tuple[float, ...], radius_mm: float, spacing=SPACING, grid=GRID) -> np.ndarray:
    axes = np.indices(grid) - np.reshape(centre, (3, 1, 1, 1))
    return np.linalg.norm(axes * np.reshape(spacing, (3, 1, 1, 1)), axis=0) <= radius_mm


A, B = np.s_[4:8, 4:14, 4:14], np.s_[4:8, 20:30, 4:14]
BRIDGE = np.s_[4:8, 14:20, 4:14]
FATES = {  # kind -> baseline, follow-up
    "new": (planted(), planted(A)),
    "enlarged": (planted(A), planted(np.s_[4:8, 4:14, 4:19])),
    "stable": (planted(A), planted(np.s_[4:8, 4:14, 5:15])),
    "reduced": (planted(A), planted(np.s_[5:7, 4:14, 4:14])),
    "resolved": (planted(A), planted()),
    "merged": (planted(A, B), planted(A, BRIDGE, B)),
    "split": (planted(A, BRIDGE, B), planted(A, B)),
}


def kinds(changes: tuple[LesionChange, ...]) -> list[str]:
    return sorted(change.kind for change in changes)


def check_exchange(before, after, **options) -> tuple[LesionChange, ...]:
    """Both orders; everything must be exchanged exactly."""
    frames = options.pop("frames", None)
    one = match_lesions(before, after, frames=frames, **options)
    other = match_lesions(after, before, frames=frames and frames[::-1], **options)
    turned = {(c.before, c.after): c for c in other}
    assert len(one) == len(other)
    for c in one:
        back = turned[c.after, c.before]
        assert back.kind == EXCHANGED[c.kind] and back.grown == -c.grown
        assert back.volumes_ml == c.volumes_ml[::-1]
        assert back.log_ratio == -c.log_ratio and back.change_ml == -c.change_ml
    label, mixed = load_change(one)
    swap = {"worse": "better", "better": "worse"}
    assert load_change(other) == (swap.get(label, label), mixed)
    return one


def count_kinds(changes: Sequence[LesionChange]) -> dict[str, int]:
    """How many changes are of each kind, all kinds named."""
    return {kind: sum(c.kind == kind for c in changes) for kind in KINDS}


@pytest.mark.parametrize("kind", FATES)
def test_one_lesion_of_each_fate(kind: str) -> None:
    before, after = FATES[kind]
    (change,) = check_exchange(before, after, spacing_mm=SPACING, years=0.5)
    assert change.kind == kind
    volumes = tuple(mask.sum() * 0.002 for mask in (before, after))
    assert change.volumes_ml == pytest.approx(volumes)
    assert change.change_ml == pytest.approx(volumes[1] - volumes[0])
    assert change.ml_per_year == pytest.approx(2 * (volumes[1] - volumes[0]))
    if kind == "enlarged":
        assert change.percent == pytest.approx(50.0)
        assert change.percent_per_year == pytest.approx(125.0)  # 1.5 twice
        assert change.log_ratio == pytest.approx(math.log(1.5))
    if kind == "new":
        assert math.isnan(change.percent) and math.isnan(change.percent_per_year)
    if kind == "resolved":
        assert change.percent == -100.0


def test_all_fates_at_once_and_their_counts() -> None:
    shifts = {kind: 8 * i for i, kind in enumerate(FATES)}
    grid = (64, 64, 64)
    before, after = np.zeros(grid, bool), np.zeros(grid, bool)
    for kind, masks in FATES.items():
        for whole, mask in zip((before, after), masks, strict=True):
            whole[shifts[kind] : shifts[kind] + 6] |= mask[3:9]
    changes = check_exchange(before, after, spacing_mm=SPACING)
    assert count_kinds(changes) == {k: int(k != "not_comparable") for k in KINDS}
    assert [c.before for c in changes][-1] == ()
    assert load_change(changes) == ("stable", True)


def test_the_tolerance_is_where_it_says() -> None:
    before = planted(np.s_[4:8, 4:14, 4:14])  # 400 voxels
    for voxels, kind in ((500, "stable"), (501, "enlarged"), (320, "stable"), (319, "reduced")):
        after = np.zeros(GRID, bool)
        after[4:10, 4:14, 4:14].reshape(-1)[:1] = False
        flat = np.flatnonzero(planted(np.s_[4:10, 4:14, 4:14]))[:voxels]
        after.flat[flat] = True
        (change,) = check_exchange(before, after, spacing_mm=SPACING, tolerance=EXACT)
        assert change.kind == kind, voxels
    # A lesion of 4 voxels that gains 3 doubles nearly, and stays within 3 voxels.
    small, larger = (
        planted(np.s_[4:5, 4:6, 4:6]),
        planted(np.s_[4:5, 4:6, 4:6], np.s_[5:6, 4:5, 4:7]),
    )
    assert kinds(match_lesions(small, larger, SPACING)) == ["stable"]
    assert kinds(match_lesions(small, larger, SPACING, EXACT)) == ["enlarged"]


def test_touching_lesions_are_one_in_a_mask_and_two_in_labels() -> None:
    halves = np.zeros(GRID, np.int32)
    halves[4:8, 4:14, 4:9], halves[4:8, 4:14, 9:14] = 7, 3
    assert len(measure_lesions(halves > 0, SPACING).items) == 1
    assert len(measure_lesions(halves, SPACING).items) == 2
    corner = planted(np.s_[4:6, 4:6, 4:6], np.s_[6:8, 6:8, 6:8])
    assert len(measure_lesions(corner, SPACING).items) == 1
    grown = halves.copy()
    grown[4:8, 14:20, 4:9] = 7
    changes = check_exchange(halves, grown, spacing_mm=SPACING)
    assert kinds(changes) == ["enlarged", "stable"]


def test_names_of_labels_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros(GRID, np.int64)
    for i, (d, h) in enumerate(itertools.product((2, 9, 16), (4, 24, 44)), start=1):
        labels[d : d + 3, h : h + 4 + i % 3, 4 : 6 + i] = i
    after = np.roll(labels, 1, axis=2)
    after[after == 5] = 0
    known = match_lesions(labels, after, SPACING)
    for _ in range(5):
        names = np.concatenate([[0], rng.permutation(np.arange(1, 10)) * 1000 - 7])
        others = np.concatenate([[0], rng.permutation(np.arange(1, 10)) + 50])
        assert match_lesions(names[labels], others[after], SPACING) == known
    assert count_kinds(known)["resolved"] == 1 and count_kinds(known)["stable"] == 8


def test_empty_dates() -> None:
    nothing = planted()
    assert match_lesions(nothing, nothing, SPACING) == ()
    assert load_change(()) == ("stable", False)
    assert measure_lesions(nothing, SPACING).items == ()
    course = follow_lesions([measure_lesions(nothing, SPACING)] * 3)
    assert course.counts == (0, 0, 0) and course.history() == {}
    assert kinds(check_exchange(nothing, planted(A, B), spacing_mm=SPACING)) == ["new", "new"]


def test_tiny_lesions_are_found_again_beside_their_place() -> None:
    """One voxel that moves by one: registration is not better than that."""
    before, after = planted(np.s_[4:5, 4:5, 4:5]), planted(np.s_[4:5, 4:5, 5:6])
    assert kinds(check_exchange(before, after, spacing_mm=SPACING)) == ["stable"]
    far = planted(np.s_[4:5, 4:5, 12:13])
    assert kinds(check_exchange(before, far, spacing_mm=SPACING)) == ["new", "resolved"]
    # The nearest gets the match, the other is new.
    two = planted(np.s_[4:5, 4:5, 5:6], np.s_[4:5, 7:8, 4:5])
    assert kinds(check_exchange(before, two, spacing_mm=SPACING)) == ["new", "stable"]
    # A large lesion near a tiny one is not that one.
    large = planted(np.s_[4:10, 6:16, 6:16])
    assert kinds(check_exchange(before, large, spacing_mm=SPACING)) == ["new", "resolved"]


def test_several_to_several_are_cut_at_the_weakest_link() -> None:
    """A1-B1-A2-B2: B1 covers a corner of A2, but each has a partner of its own."""
    before = planted(np.s_[4:8, 4:14, 4:14], np.s_[4:8, 18:28, 4:14])
    after = np.zeros(GRID, np.int32)
    after[4:8, 4:20, 4:14] = 1
    after[4:8, 20:30, 4:14] = 2
    changes = check_exchange(before, after, spacing_mm=SPACING)
    assert kinds(changes) == ["enlarged", "stable"]
    three = planted(A, B, np.s_[4:8, 36:46, 4:14])
    whole = planted(np.s_[4:8, 4:46, 4:14])
    (change,) = check_exchange(three, whole, spacing_mm=SPACING)
    assert change.kind == "merged" and change.before == (1, 2, 3) and change.grown == 1


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.4, 0.4), (0.7, 3.0, 0.7)])
def test_balls_are_measured_in_mm(spacing: tuple[float, float, float]) -> None:
    grid = tuple(int(30 / s) + 3 for s in spacing)
    centre = tuple((n - 1) / 2 for n in grid)
    (lesion,) = measure_lesions(ball(centre, 11.0, spacing, grid), spacing).items
    assert lesion.volume_ml == pytest.approx(4 / 3 * math.pi * 1.1**3, rel=0.04)
    assert 21.5 < lesion.longest_mm <= 22 + max(spacing)
    assert lesion.centroid == pytest.approx(centre)
    first, last = lesion.slice_range
    assert abs(lesion.key_slice - centre[0]) <= 1
    assert (last - first + 1) * spacing[0] == pytest.approx(22, abs=2 * spacing[0])


def test_dates_on_grids_of_their_own() -> None:
    """The follow-up has other voxels, other axes and another pose; only the frames tell."""
    turn = np.eye(4)
    turn[:3, :3] = [[0.0, 0.96, -0.28], [0.0, 0.28, 0.96], [1.0, 0.0, 0.0]]
    first, second = np.diag([1.0, 1.0, 1.0, 1.0]), turn @ np.diag([1.3, 0.9, 2.0, 1.0])
    second[:3, 3] = (6.0, -7.0, 2.0)
    grids = (48, 48, 48), (40, 60, 40)
    spacings = (1.0, 1.0, 1.0), (1.3, 0.9, 2.0)
    balls = [((14, 20, 14), 7.0, 7.0), ((14, 20, 34), 5.0, 6.5), ((32, 34, 14), 6.0, 0.0)]
    masks = []
    for date, (frame, grid) in enumerate(zip((first, second), grids, strict=True)):
        index = np.indices(grid).reshape(3, -1)
        points = (frame[:3, :3] @ index).T + frame[:3, 3]
        inside = [
            np.linalg.norm(points - b[0], axis=1) <= b[1 + date] for b in balls if b[1 + date]
        ]
        masks.append(np.any(inside, axis=0).reshape(grid))
    before, after = (measure_lesions(m, s) for m, s in zip(masks, spacings, strict=True))
    assert (len(before.items), len(after.items)) == (3, 2)
    changes = check_exchange(before, after, frames=(first, second))
    assert kinds(changes) == ["enlarged", "resolved", "stable"]
    with pytest.raises(MedicADError, match="frames"):
        match_lesions(before, after)


def test_what_the_other_date_does_not_show_is_not_comparable() -> None:
    whole = measure_lesions(planted(A, np.s_[12:16, 40:50, 40:50]), SPACING)
    narrow = measure_lesions(planted(A)[:10], SPACING)
    frames = (np.diag([*SPACING, 1.0]), np.diag([*SPACING, 1.0]))
    changes = check_exchange(whole, narrow, frames=frames)
    assert kinds(changes) == ["not_comparable", "stable"]
    assert load_change(changes) == ("stable", False)
    lost = [c for c in changes if c.kind == "not_comparable"]
    assert load_change(lost) == ("not_comparable", False)


def test_ids_last_through_a_series_of_dates() -> None:
    big, small = np.s_[4:8, 4:16, 4:14], np.s_[4:8, 22:30, 4:14]
    neck, late = np.s_[4:8, 16:22, 4:14], np.s_[14:18, 40:50, 40:50]
    masks = [
        planted(big, small),
        planted(big, small, late),
        planted(big, neck, small, late),  # merged: 1 and 2 -> 1
        planted(big, small, late),  # split: 1 -> 1 and 4
        planted(big, small),  # 3 resolved
    ]
    days = [datetime.date(2020 + i, 1, 1) for i in range(5)]
    course = follow_lesions([measure_lesions(m, SPACING) for m in masks], when=days)
    assert [count_kinds(c) | {"stable": 0} for c in course.changes] == [
        dict.fromkeys(KINDS, 0) | {kind: 1} for kind in ("new", "merged", "split", "resolved")
    ]
    merged = next(c for c in course.changes[1] if c.kind == "merged")
    split = next(c for c in course.changes[2] if c.kind == "split")
    assert merged.before == (1, 2) and merged.after == (1,)
    assert split.before == (1,) and split.after == (1, 4)
    seen = {n: [i is not None for i in row] for n, row in course.history().items()}
    assert seen == {
        1: [True] * 5,
        2: [True, True, False, False, False],
        3: [False, True, True, True, False],
        4: [False, False, False, True, True],
    }
    assert course.counts == (2, 3, 2, 3, 2)
    assert course.loads_ml == pytest.approx([m.sum() * 0.002 for m in masks])
    assert merged.years == pytest.approx(1.0, abs=0.01)
    back = follow_lesions([measure_lesions(m, SPACING) for m in masks[::-1]])
    assert back.loads_ml == course.loads_ml[::-1]
    for there, other in zip(course.changes, back.changes[::-1], strict=True):
        assert kinds(other) == sorted(EXCHANGED[c.kind] for c in there)
        assert sorted(c.change_ml for c in other) == sorted(-c.change_ml for c in there)


def test_ids_do_not_depend_on_when_a_lesion_is_largest() -> None:
    sizes = [(4, 12), (8, 8), (12, 4)]
    masks = [planted(np.s_[2:6, 2:12, 2 : 2 + a], np.s_[2:6, 30:40, 2 : 2 + b]) for a, b in sizes]
    course = follow_lesions([measure_lesions(m, SPACING) for m in masks])
    assert course.counts == (2, 2, 2)
    rows = course.history()
    assert [i.voxels for i in rows[1] if i] == [480, 320, 160]
    assert [i.voxels for i in rows[2] if i] == [160, 320, 480]
    assert [load_change(c) for c in course.changes] == [("stable", True)] * 2
    assert all(math.isnan(c.ml_per_year) for pair in course.changes for c in pair)


@pytest.mark.parametrize("seed", range(6))
def test_random_dates_are_exchanged_exactly(seed: int) -> None:
    """Many blobs that drift, touch, come and go, on two grids of any pose."""
    from scipy import ndimage
    from scipy.spatial.transform import Rotation

    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=(20, 48, 48)), 2.5)
    later = field + 0.7 * ndimage.gaussian_filter(rng.normal(size=field.shape), 2.5)
    masks = [np.pad(f > np.quantile(f, 0.9), ((6, 6), (8, 8), (8, 8))) for f in (field, later)]
    frames = []
    for spacing in ((2.0, 1.0, 1.0), (2.1, 1.02, 0.98)):
        frame = np.diag([*spacing, 1.0])
        turn = Rotation.from_rotvec(rng.normal(size=3) * 0.02).as_matrix()
        frame[:3, :3] = turn @ frame[:3, :3]
        frame[:3, 3] = rng.normal(size=3)
        frames.append(frame)
    dates = [
        measure_lesions(m, np.linalg.norm(f[:3, :3], axis=0))
        for m, f in zip(masks, frames, strict=True)
    ]
    changes = check_exchange(dates[0], dates[1], frames=tuple(frames))
    assert len(changes) > 5 and len(set(kinds(changes))) >= 4


def test_what_cannot_be_is_refused() -> None:
    good = measure_lesions(planted(A), SPACING)
    with pytest.raises(MedicADError, match="bool or integers"):
        measure_lesions(np.zeros(GRID), SPACING)
    with pytest.raises(MedicADError, match="1, H, W"):
        measure_lesions(np.zeros((9, 9), bool), SPACING)
    with pytest.raises(MedicADError, match="spacing"):
        match_lesions(planted(A), planted(A))
    with pytest.raises(MedicADError, match="tolerance"):
        Tolerance(growth=-0.1)
    with pytest.raises(MedicADError, match="2 to 20"):
        follow_lesions([good])
    with pytest.raises(MedicADError, match="oldest date first"):
        follow_lesions([good, good], when=[datetime.date(year, 1, 1) for year in (2021, 2020)])
    with pytest.raises(MedicADError, match="one of"):
        LesionChange("worse", (1,), (1,), (1.0, 1.0), 0)
    with pytest.raises(MedicADError, match="volume"):
        LesionChange("new", (), (1,), (0.0, 0.0), 1)
