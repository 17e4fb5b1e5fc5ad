"""Findings and changes against planted regions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_cases import AXIAL, make_change, make_image

from medic_ad.errors import MedicADError
from medic_ad.finding import Change, Finding, change_label, decide, find, grows_and_shrinks
from medic_ad.words import cell_words


def planted(shape: tuple[int, ...], *places: tuple[tuple[slice, ...], float]) -> np.ndarray:
    heatmap = np.zeros(shape, dtype=np.float32)
    for where, value in places:
        heatmap[where] = value
    return heatmap


def test_a_planted_rectangle_is_measured_exactly() -> None:
    image = make_image((90, 120), spacing_mm=(2.0, 0.5))
    heatmap = planted((90, 120), (np.s_[10:16, 90:102], 0.8))
    (finding,) = find(heatmap, 0.5, image)
    assert finding.score == pytest.approx(0.8)
    assert finding.box == (10, 90, 16, 102)
    assert finding.centroid == (12.5, 95.5)
    assert finding.area_px == finding.voxels == 72
    assert finding.area_mm2 == pytest.approx(72.0)
    # Between outer edges of pixels: 6 mm across 6 mm high 12 mm, less the cut-off corners.
    assert finding.diameter_mm is not None
    assert 12.0 <= finding.diameter_mm <= np.hypot(12.0, 6.0)
    assert finding.volume_ml is None and finding.key_slice is None
    assert finding.cell == (0, 2)
    assert finding.location == "upper right of the image"


@pytest.mark.parametrize(("length", "mm"), [(8, 4.0), (20, 10.0)])
def test_the_diameter_of_a_line_is_its_length(length: int, mm: float) -> None:
    heatmap = planted((40, 40), (np.s_[20:21, 5 : 5 + length], 0.9))
    (finding,) = find(heatmap, 0.5, make_image((40, 40), spacing_mm=(0.1, 0.5)))
    assert finding.diameter_mm == pytest.approx(mm, abs=0.05)


def test_the_diameter_of_a_disc_is_its_own() -> None:
    y, x = np.indices((80, 80))
    disc = ((y - 40) ** 2 + (x - 38) ** 2 <= 20**2).astype(np.float32)
    (finding,) = find(disc, 0.5, make_image((80, 80), spacing_mm=(0.5, 0.5)))
    assert finding.diameter_mm == pytest.approx(20.5, abs=0.6)


def test_a_volume_has_millilitres_and_its_largest_slice_as_key() -> None:
    image = make_image((12, 60, 60), spacing_mm=(3.0, 1.0, 2.0), affine=AXIAL)
    heatmap = planted((12, 60, 60), (np.s_[3:6, 40:44, 5:10], 0.7), (np.s_[6:7, 40:46, 5:13], 0.9))
    (finding,) = find(heatmap, 0.5, image)
    assert finding.voxels == 3 * 20 + 48
    assert finding.volume_ml == pytest.approx(108 * 6.0 / 1000)
    assert finding.key_slice == 6
    assert finding.area_px == 48 and finding.area_mm2 == pytest.approx(96.0)
    assert finding.box == (3, 40, 5, 7, 46, 13)
    assert finding.location == "lower left of the image, patient right"


def test_sides_of_the_patient_follow_the_orientation() -> None:
    heatmap = planted((60, 60), (np.s_[25:35, 50:58], 0.9))
    words = {
        "none": (None, "middle right of the image"),
        "axial": (AXIAL, "middle right of the image, patient left"),
        "flipped": (AXIAL @ np.diag([1.0, 1, -1, 1]), "middle right of the image, patient right"),
    }
    for affine, expected in words.values():
        (finding,) = find(heatmap, 0.5, make_image((60, 60), affine=affine))
        assert finding.location == expected
    central = planted((60, 60), (np.s_[25:35, 25:35], 0.9))
    assert find(central, 0.5, make_image((60, 60), affine=AXIAL))[0].location == (
        "centre of the image"
    )


def test_without_spacing_there_are_only_pixels() -> None:
    (finding,) = find(planted((60, 60), (np.s_[0:5, 0:5], 0.9)), 0.5, make_image((60, 60)))
    assert (finding.area_px, finding.area_mm2, finding.diameter_mm) == (25, None, None)


def test_weightiest_first_and_specks_left_out() -> None:
    heatmap = planted(
        (60, 60),
        (np.s_[0:4, 0:4], 0.9),  # 16 px: 14.4
        (np.s_[20:30, 20:30], 0.6),  # 100 px: 60
        (np.s_[50:52, 50:52], 1.0),  # 4 px: a speck
    )
    findings = find(heatmap, 0.5, make_image((60, 60)))
    assert [f.area_px for f in findings] == [100, 16]
    assert len(find(heatmap, 0.5, make_image((60, 60)), minimum_area_px=4)) == 3


def test_the_threshold_belongs_to_the_region_and_nan_does_not() -> None:
    heatmap = planted((60, 60), (np.s_[10:20, 10:20], 0.5))
    assert find(heatmap, 0.5, make_image((60, 60)))[0].area_px == 100
    assert find(heatmap, 0.501, make_image((60, 60))) == ()
    heatmap[10:20, 10:15] = np.nan
    (finding,) = find(heatmap, 0.5, make_image((60, 60)))
    assert finding.area_px == 50 and finding.box == (10, 15, 20, 20)
    assert find(np.full((60, 60), np.nan, np.float32), 0.5, make_image((60, 60))) == ()


def test_a_map_on_another_grid_is_refused() -> None:
    with pytest.raises(MedicADError, match="grid"):
        find(np.zeros((60, 61), np.float32), 0.5, make_image((60, 60)))


def test_real_masks_come_back_with_their_own_area(shared_data: Path) -> None:
    from PIL import Image as PILImage

    masks = sorted((shared_data / "brain_tumour_cheng" / "masks").glob("*.png"))[::400]
    assert len(masks) >= 5
    for path in masks:
        mask = np.asarray(PILImage.open(path)) > 0
        findings = find(mask.astype(np.float32), 0.5, make_image(mask.shape), minimum_area_px=1)
        assert sum(f.area_px for f in findings) == mask.sum()
        ys, xs = np.nonzero(mask)
        assert min(f.box[0] for f in findings) == ys.min()
        assert max(f.box[3] for f in findings) == xs.max() + 1


GOOD: dict[str, Any] = {
    "score": 0.9,
    "box": (2, 3, 6, 8),
    "centroid": (3.5, 5.0),
    "area_px": 20,
    "voxels": 20,
    "area_mm2": None,
    "volume_ml": None,
    "diameter_mm": None,
    "longest_mm": None,
    "key_slice": None,
    "slice_range": None,
    "location": "upper left of the image",
    "cell": (0, 0),
}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"score": 0.0}, "score"),
        ({"score": 1.1}, "score"),
        ({"score": float("nan")}, "score"),
        ({"box": (2, 3, 6)}, "box"),
        ({"centroid": (7.0, 5.0)}, "centroid"),
        ({"box": (-1, 3, 6, 8)}, "centroid"),
        ({"key_slice": 3}, "key slice"),
        ({"slice_range": (0, 1)}, "slice range"),
        ({"area_px": 0}, "area"),
        ({"area_px": 21}, "area"),
        ({"cell": (3, 0)}, "cell"),
        ({"centroid": (1.0, 3.5, 5.0), "box": (0, 2, 3, 4, 6, 8)}, "key slice"),
        ({"centroid": (1.0, 3.5, 5.0), "box": (0, 2, 3, 4, 6, 8), "key_slice": 4}, "key slice"),
    ],
)
def test_a_finding_is_valid_from_birth(changes: dict[str, Any], match: str) -> None:
    Finding(**GOOD)
    with pytest.raises(MedicADError, match=match):
        Finding(**(GOOD | changes))


@pytest.mark.parametrize(
    ("score", "band", "decision"),
    [
        (0.39, (0.4, 0.6), "normal"),
        (0.4, (0.4, 0.6), "uncertain"),
        (0.59, (0.4, 0.6), "uncertain"),
        (0.6, (0.4, 0.6), "abnormal"),
        (0.5, (0.5, 0.5), "abnormal"),
        (0.499, (0.5, 0.5), "normal"),
        (float("nan"), (0.4, 0.6), "out_of_scope"),
    ],
)
def test_the_score_alone_decides(score: float, band: tuple[float, float], decision: str) -> None:
    assert decide(score, band) == decision


@pytest.mark.parametrize(
    ("worse", "stable", "better", "label"),
    [
        (0.5, 0.3, 0.2, "worse"),
        (0.2, 0.3, 0.5, "better"),
        (0.2, 0.6, 0.2, "stable"),
        (0.4, 0.2, 0.4, "stable"),
        (0.4, 0.4, 0.2, "stable"),
    ],
)
def test_a_tie_is_stable(worse: float, stable: float, better: float, label: str) -> None:
    assert change_label({"worse": worse, "stable": stable, "better": better}) == label
    inverse = {"worse": "better", "better": "worse", "stable": "stable"}[label]
    assert change_label({"worse": better, "stable": stable, "better": worse}) == inverse


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"label": "bigger"}, "one of"),
        ({"label": "better"}, "scores say 'worse'"),
        ({"scores": {"worse": 0.7, "stable": 0.2, "better": 0.2}}, "sum to 1"),
        ({"scores": {"worse": 1.2, "stable": 0.0, "better": -0.2}}, "sum to 1"),
        ({"scores": {"worse": 1.0}}, "named"),
        ({"scores": None}, "needs both"),
        ({"map": None}, "needs both"),
        ({"map": np.full((96, 120), 1.5)}, r"\[-1, 1\]"),
        ({"map": np.full((96, 120), -np.inf)}, r"\[-1, 1\]"),
        ({"prior_on_current": np.zeros((5, 5))}, "current grid"),
        ({"reason": "no overlap"}, "no reason"),
        ({"label": "not_comparable", "scores": None, "map": None}, "has a reason"),
        ({"label": "not_comparable", "scores": None, "reason": "no overlap"}, "no map"),
    ],
)
def test_a_change_is_valid_from_birth(changes: dict[str, Any], match: str) -> None:
    make_change()
    with pytest.raises(MedicADError, match=match):
        make_change(**changes)


def test_not_comparable_keeps_its_reason() -> None:
    change = Change("not_comparable", None, None, reason="The prior overlaps by 10 %.")
    assert change.map is None and change.reason == "The prior overlaps by 10 %."


def test_every_cell_is_found_where_its_words_say() -> None:
    seen = set()
    for row in range(3):
        for col in range(3):
            where = np.s_[row * 30 + 10 : row * 30 + 20, col * 40 + 10 : col * 40 + 30]
            (finding,) = find(planted((90, 120), (where, 0.9)), 0.5, make_image((90, 120)))
            assert finding.cell == (row, col)
            assert finding.location == f"{cell_words(row, col)} of the image"
            seen.add(finding.location)
    assert len(seen) == 9


@pytest.mark.parametrize(
    ("shrunk", "both"),
    [(np.s_[20:23, 20:23], True), (np.s_[20:22, 20:23], False), (np.s_[0:0, 0:0], False)],
)
def test_a_few_pixels_of_the_other_sign_are_not_mixed(shrunk: Any, both: bool) -> None:
    change_map = planted((40, 40), (np.s_[4:14, 4:14], 0.9), (shrunk, -0.9))
    change_map[30:] = np.nan  # was not looked at
    assert grows_and_shrinks(change_map) is both
    assert grows_and_shrinks(-change_map) is both
    deep = np.stack([change_map] * 3)
    assert grows_and_shrinks(deep) is both
    deep[1:] = np.where(deep[1:] < 0, 0, deep[1:])
    assert grows_and_shrinks(deep) is both  # the largest slice counts, as of findings
    faint = planted((40, 40), (np.s_[4:14, 4:14], 0.9), (np.s_[20:30, 20:30], -0.4))
    assert not grows_and_shrinks(faint)
