"""The generator of lesions: planted truth on a phantom head, and real slices."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from scipy import ndimage

from medic_ad.data.blend import dilate, laplace
from medic_ad.data.synthetic import (
    GROWTH_RANGE,
    TEST_BLENDS,
    TEST_INPAINTERS,
    TRAIN_BLENDS,
    TRAIN_INPAINTERS,
    brain_mask,
    draw_growth,
    draw_place,
    inpaint,
    nuisance,
    paste_zone,
    repair_zone,
    rescale_lesion,
    sham_inpaint,
    transplant,
)

METHODS = TRAIN_INPAINTERS + TEST_INPAINTERS
BLENDS = TRAIN_BLENDS + TEST_BLENDS
SIZE = 160
BRAIN, LESION = 0.45, 0.85


def ellipse(cy: float, cx: float, ry: float, rx: float) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE]
    return np.asarray(((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1)


def phantom(seed: int = 0) -> np.ndarray:
    """A head: scalp 0.8, bone 0.05, brain 0.45 with two ventricles and grain; air 0."""
    rng = np.random.default_rng(seed)
    image = np.zeros((SIZE, SIZE), np.float32)
    image[ellipse(80, 80, 72, 60)] = 0.8
    image[ellipse(80, 80, 67, 55)] = 0.05
    image[ellipse(80, 80, 62, 50)] = BRAIN
    for side in (70, 90):
        image[ellipse(75, side, 14, 5)] = 0.2
    image = ndimage.gaussian_filter(image, 0.7)
    image += 0.012 * rng.standard_normal(image.shape).astype(np.float32) * (image > 0.02)
    return np.clip(image, 0, 1).astype(np.float32)


def with_lesion(
    healthy: np.ndarray, cy: float = 100, cx: float = 55, r: float = 11
) -> tuple[np.ndarray, np.ndarray]:
    mask = ellipse(cy, cx, r, r)
    soft = ndimage.gaussian_filter(mask.astype(np.float32), 0.7)
    return (healthy * (1 - soft) + LESION * soft).astype(np.float32), mask


def bright(image: np.ndarray) -> np.ndarray:
    """Lesion pixels of the phantom by sight, at half contrast, without the scalp."""
    return np.asarray((image > (BRAIN + LESION) / 2) & ellipse(80, 80, 60, 48))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_names_of_training_and_test_never_overlap() -> None:
    assert not set(TRAIN_BLENDS) & set(TEST_BLENDS)
    assert not set(TRAIN_INPAINTERS) & set(TEST_INPAINTERS)


def test_brain_mask_covers_the_head_and_nothing_else() -> None:
    found, head = brain_mask(phantom()), ellipse(80, 80, 72, 60)
    assert found.dtype == bool
    assert 2 * (found & head).sum() / (found.sum() + head.sum()) > 0.98
    assert not brain_mask(np.zeros((64, 64), np.float32)).any()
    assert not brain_mask(np.full((64, 64), 0.5, np.float32)).any()


def test_laplace_reproduces_a_harmonic_field_and_ignores_free_borders() -> None:
    y, x = np.mgrid[:40, :40].astype(np.float64)
    field = 0.3 + 0.01 * x - 0.02 * y + 0.001 * (x * x - y * y)
    region = (y - 20) ** 2 + (x - 20) ** 2 < 144
    solved = laplace(field, region, np.ones_like(region))
    assert np.abs(solved - field)[region].max() < 5e-3
    one_side = laplace(np.where(x < 20, 0.4, 9.0), region, x < 20)
    assert np.abs(one_side[region] - 0.4).max() < 5e-3
    assert not laplace(field, np.zeros_like(region), region).any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("place", [(100, 55), (30, 62), (80, 36)], ids=["deep", "top", "skull"])
def test_inpaint_removes_the_lesion_and_nothing_else(
    method: str, place: tuple[float, float]
) -> None:
    healthy = phantom()
    image, mask = with_lesion(healthy, *place, r=9)
    mask &= ellipse(80, 80, 62, 50)
    image = np.where(ellipse(80, 80, 62, 50), image, healthy)
    zone = repair_zone(image, mask)
    out = inpaint(image, mask, rng(), method)
    assert out.dtype == np.float32 and out.min() >= 0 and out.max() <= 1
    assert mask[zone].sum() == mask.sum()
    assert zone.sum() < 3 * mask.sum()
    assert np.array_equal(out[~zone], image[~zone])
    inner = mask & ellipse(80, 80, 59, 47)
    assert np.abs(out - healthy)[inner].mean() < 0.06  # the contrast of the lesion is 0.4
    assert (out[inner] > (BRAIN + LESION) / 2).mean() < 0.01
    grain = (out - ndimage.gaussian_filter(out, 2))[inner].std()
    assert 0.003 < grain < 0.04  # neither a smooth blot nor noise


@pytest.mark.parametrize("method", METHODS)
def test_inpaint_fits_the_level_of_its_place(method: str) -> None:
    x = np.linspace(0.6, 1.4, SIZE, dtype=np.float32)[None]
    flat = phantom()
    healthy = np.where(ellipse(80, 80, 62, 50), flat * x, flat).astype(np.float32)
    for cx in (50, 108):  # dim and bright side: a copy from anywhere else would be off by far
        image, mask = with_lesion(healthy, 100, cx, 9)
        zone = repair_zone(image, mask)
        for seed in range(4):
            error = (inpaint(image, mask, rng(seed), method) - healthy)[zone]
            assert abs(float(np.median(error))) < 0.02
            assert (np.abs(error) > 0.08).mean() < 0.05


@pytest.mark.parametrize("method", METHODS)
def test_inpaint_takes_many_lesions_at_once_and_is_repeatable(method: str) -> None:
    image, mask = phantom(), np.zeros((SIZE, SIZE), bool)
    for cy, cx, r in ((50, 60, 3), (52, 100, 4), (110, 70, 2), (112, 98, 5)):
        image, one = with_lesion(image, cy, cx, r)
        mask |= one
    before = image.copy(), mask.copy()
    out = inpaint(image, mask, rng(3), method)
    assert bright(image).sum() > 0.7 * mask.sum()
    assert bright(out).sum() == 0
    assert np.array_equal(out, inpaint(image, mask, rng(3), method))
    assert np.array_equal(image, before[0]) and np.array_equal(mask, before[1])


@pytest.mark.parametrize("method", METHODS)
def test_healthy_stays_healthy(method: str) -> None:
    healthy, nothing = phantom(), np.zeros((SIZE, SIZE), bool)
    assert np.array_equal(inpaint(healthy, nothing, rng(), method), healthy)
    sham = sham_inpaint(healthy, nothing, rng(2), method)
    assert not np.array_equal(sham, healthy)
    assert np.abs(sham - healthy).max() < 0.35  # a ventricle may come or go, no lesion
    assert bright(sham).sum() == 0


@pytest.mark.parametrize("method", METHODS)
def test_sham_repairs_elsewhere_and_leaves_the_lesion(method: str) -> None:
    image, mask = with_lesion(phantom())
    places = []
    for seed in range(4):
        out = sham_inpaint(image, mask, rng(seed), method)
        own, changed = repair_zone(image, mask), out != image
        assert not (changed & own).any()
        assert 0.5 * mask.sum() < changed.sum() < 4 * mask.sum()
        assert changed[brain_mask(image)].sum() == changed.sum()
        assert bright(out).sum() == bright(image).sum()
        places.append(np.argwhere(changed).mean(0))
    assert np.ptp(places, axis=0).max() > 5


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("factor", [0.4, 0.8, 1.25, 2.0, 3.0])
def test_rescaled_area_is_the_factor_in_mask_and_in_sight(blend: str, factor: float) -> None:
    clean = phantom()
    image, mask = with_lesion(clean, 100, 80, 13)
    out, new = rescale_lesion(clean, image, mask, factor, rng(), blend)
    assert abs(new.sum() / mask.sum() / factor - 1) < 0.05
    assert abs(bright(out).sum() / bright(image).sum() / factor - 1) < 0.05
    assert np.array_equal(out[~paste_zone(new)], clean[~paste_zone(new)])
    assert ndimage.label(new)[1] == 1


@pytest.mark.parametrize("blend", BLENDS)
def test_factor_one_is_a_sham(blend: str) -> None:
    healthy = phantom()
    image, mask = with_lesion(healthy)
    clean = inpaint(image, mask, rng(), "clone")
    out, new = rescale_lesion(clean, image, mask, 1.0, rng(5), blend)
    assert new.sum() == mask.sum()
    assert 2 * (new & mask).sum() / (new.sum() + mask.sum()) > 0.93
    zone = paste_zone(new) | repair_zone(image, mask)
    assert np.array_equal(out[~zone], image[~zone])
    assert np.abs(out - image)[mask].mean() < 0.03
    assert not np.array_equal(out, image)  # it did go through the operation


def test_factor_zero_is_resolved() -> None:
    clean = phantom()
    image, mask = with_lesion(clean)
    out, new = rescale_lesion(clean, image, mask, 0.0, rng(), "feather")
    assert np.array_equal(out, clean) and not new.any()


def test_many_lesions_grow_each_about_itself() -> None:
    clean, mask = phantom(), np.zeros((SIZE, SIZE), bool)
    image = clean
    centres = [(45, 60), (50, 104), (112, 66), (108, 100)]
    for cy, cx in centres:
        image, one = with_lesion(image, cy, cx, 5)
        mask |= one
    _, new = rescale_lesion(clean, image, mask, 2.0, rng(), "feather")
    labels, n = ndimage.label(new)
    assert n == 4
    assert abs(new.sum() / mask.sum() / 2.0 - 1) < 0.01
    found = np.asarray(ndimage.center_of_mass(new, labels, range(1, n + 1)))
    assert np.abs(np.sort(found, 0) - np.sort(np.asarray(centres, float), 0)).max() < 1.2


def test_growth_turns_away_from_the_skull() -> None:
    clean = phantom()
    image, mask = with_lesion(clean, 80, 41, 9)  # touches the bone on the left
    _, new = rescale_lesion(clean, image, mask, 3.0, rng(), "feather")
    brain = ellipse(80, 80, 63, 51)
    assert abs(new.sum() / mask.sum() / 3.0 - 1) < 0.05
    assert (new & ~brain).sum() < 0.06 * new.sum()


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_transplant_lands_where_told_in_the_size_told(blend: str, factor: float) -> None:
    donor, donor_mask = with_lesion(phantom(1), 60, 90, 10)
    dim_host = 0.6 * phantom(2)
    out, mask = transplant(dim_host, donor, donor_mask, (105.0, 62.0), factor, rng(), blend)
    assert abs(mask.sum() / donor_mask.sum() / factor - 1) < 0.05
    assert np.abs(np.asarray(ndimage.center_of_mass(mask)) - (105, 62)).max() < 1
    assert np.array_equal(out[~paste_zone(mask)], dim_host[~paste_zone(mask)])
    inside = ndimage.binary_erosion(mask, iterations=2)
    assert abs(float(np.median(out[inside])) - 0.6 * LESION) < 0.06  # the host's own grey scale
    assert np.array_equal(donor_mask, ellipse(60, 90, 10, 10))


def test_transplant_between_grids_and_places_in_the_brain() -> None:
    donor, donor_mask = with_lesion(phantom(1), 60, 90, 6)
    donor, donor_mask = donor[30:, 20:], donor_mask[30:, 20:]
    host = phantom(2)
    for seed in range(5):
        place = draw_place(host, np.ones((13, 13), bool), rng(seed), ellipse(40, 80, 30, 60))
        assert place is not None
        assert place[0] > 62 and ellipse(80, 80, 60, 48)[place]
        _, mask = transplant(host, donor, donor_mask, place, 1.0, rng(seed), "feather")
        assert mask.sum() == donor_mask.sum()
    assert draw_place(host, np.ones((150, 150), bool), rng()) is None
    assert draw_place(np.zeros((64, 64), np.float32), np.ones((3, 3), bool), rng()) is None


def test_growth_is_log_uniform_in_its_range() -> None:
    source = rng(1)
    drawn = np.log([draw_growth(source) for _ in range(4000)])
    low, high = np.log(GROWTH_RANGE)
    assert GROWTH_RANGE == (1.25, 3.0)
    assert drawn.min() >= low and drawn.max() <= high
    shares = np.histogram(drawn, 4, (low, high))[0] / 4000
    assert np.abs(shares - 0.25).max() < 0.03


@pytest.mark.parametrize("small", [True, False])
def test_nuisance_moves_image_and_mask_alike_and_keeps_the_area(small: bool) -> None:
    image, mask = with_lesion(phantom(), r=12)
    moved = 0.0
    for seed in range(12):
        out, new = nuisance(image, np.stack([mask, ~mask]), rng(seed), small=small)
        assert out.dtype == np.float32 and out.min() >= 0 and out.max() <= 1
        assert new.dtype == bool and new.shape == (2, SIZE, SIZE)
        assert abs(new[0].sum() / mask.sum() - 1) < (0.07 if small else 0.18)
        ring = dilate(new[0], 5) & ~dilate(new[0], 2)
        core = ndimage.binary_erosion(new[0], iterations=2)
        assert out[core].mean() > out[ring].mean() + 0.2  # the lesion is where the mask says
        moved = max(moved, float(np.abs(np.argwhere(new[0]).mean(0) - (100, 55)).max()))
    assert 0.5 < moved < (5 if small else 22)


def load_real(folder: Path, n: int) -> list[tuple[np.ndarray, np.ndarray]]:
    with (folder / "index.csv").open() as file:
        rows = list(csv.DictReader(file))
    out = []
    for row in rows[:: len(rows) // n][:n]:
        grey = np.asarray(Picture.open(folder / row["image"]).convert("L"), np.float32)
        low, high = np.percentile(grey, [0.5, 99.5])
        mask = np.asarray(Picture.open(folder / row["mask"])).astype(bool)
        out.append((np.clip((grey - low) / (high - low), 0, 1).astype(np.float32), mask))
    return out


def test_real_tumours_vanish_and_come_back(shared_data: Path) -> None:
    slices = load_real(shared_data / "brain_tumour_cheng", 24)
    kept, times = [], []
    for k, (image, mask) in enumerate(slices):
        zone = repair_zone(image, mask)
        start = time.perf_counter()
        clean = inpaint(image, mask, rng(k), TRAIN_INPAINTERS[k % 2])
        times.append(time.perf_counter() - start)
        assert np.array_equal(clean[~zone], image[~zone])
        ring = dilate(zone, 5) & ~zone & (image > 0.05)
        step_before = abs(float(image[mask].mean() - np.median(image[ring])))
        step_after = abs(float(clean[mask].mean() - np.median(image[ring])))
        kept.append((step_before, step_after))
        grown, new = rescale_lesion(clean, image, mask, 1.5, rng(k), BLENDS[k % 3])
        assert abs(new.sum() / mask.sum() / 1.5 - 1) < 0.05
        assert np.array_equal(grown[~paste_zone(new)], clean[~paste_zone(new)])
        sham = sham_inpaint(image, mask, rng(k), TRAIN_INPAINTERS[k % 2])
        assert np.array_equal(sham[mask], image[mask])
    before, after = np.asarray(kept).T
    assert len(kept) == 24
    assert after.mean() < 0.5 * before.mean()
    assert (after < 0.12).mean() > 0.85
    assert np.median(times) < 0.25  # 15 to 30 ms on a quiet core
