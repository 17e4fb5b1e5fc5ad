"""What training draws: splits, rendered slices, scans and pairs, reproducible from the seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image as Picture
from torch.utils.data import DataLoader

from medic_ad.data.sample import read_samples
from medic_ad.errors import DataError
from medic_ad.train.draw import PAIR_KINDS, Slices, mask_cell, pair_batch, scan_batch
from medic_ad.train.render import Rendered, render
from medic_ad.train.run import Draws, source_weights, split
from medic_ad.train.settings import StageArguments


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_draws_are_a_function_of_seed_and_position(workers: int) -> None:
    def make(rng: np.random.Generator, generator: torch.Generator) -> dict:
        return {"a": float(rng.random()), "b": float(torch.rand(1, generator=generator))}

    def stream(seed: int, start: int, n: int) -> list[dict]:
        draws = Draws(make, seed)
        draws.start = start
        loader = DataLoader(draws, batch_size=1, collate_fn=lambda r: r[0], num_workers=workers)
        return [row for row, _ in zip(loader, range(n), strict=False)]

    first = stream(0, 0, 8)
    plain = Draws(make, 0)
    assert first == [row for row, _ in zip(plain, range(8), strict=False)]
    assert stream(0, 5, 3) == first[5:]
    assert stream(1, 0, 8) != first and len({row["a"] for row in first}) == 8


def test_splits_patients_and_weights_are_named(data: Path) -> None:
    train = split(str(data), "train")
    assert len(train) == 16 and all(Path(s.image).is_file() for s in train)
    left = split(str(data), "train", exclude="P0,P3")
    assert {s.patient for s in train} - {s.patient for s in left} == {"P0", "P3"}
    patients = ",".join(str(s.patient) for s in read_samples(data))
    with pytest.raises(DataError, match="expected samples of split 'train'"):
        split(str(data), "train", exclude=patients)

    def given(text: str) -> dict[str, float]:
        return source_weights(StageArguments(data="", out="", weights=text))

    assert given("a=0.25,b=0.5") == {"a": 0.25, "b": 0.5} and given("") == {}
    for wrong in ("a", "a=x", "a=1=2"):
        with pytest.raises(DataError, match="expected --weights as name=share"):
            given(wrong)


def test_rendering_is_kept_and_made_once(data: Path, rendered: Rendered, tmp_path: Path) -> None:
    train = split(str(data), "train")
    one = render(train[:4], tiny.SIDE, tmp_path, workers=1)
    [file] = tmp_path.glob("*.npz")
    stamp = file.stat().st_mtime_ns
    again = render(train[:4], tiny.SIDE, tmp_path, workers=1)
    assert file.stat().st_mtime_ns == stamp and np.array_equal(one.clean, again.clean)
    render(train[:4], tiny.SIDE, tmp_path, seed=1, workers=1)
    assert len(list(tmp_path.glob("*.npz"))) == 2
    mended = tmp_path.parent / "mended.png"  # the same path, other pixels
    for side in (96, 80):
        Picture.fromarray(tiny.head(1, False, side)[0]).save(mended)
        render([replace(train[0], image=str(mended), mask=None)], tiny.SIDE, tmp_path, workers=1)
    assert len(list(tmp_path.glob("*.npz"))) == 4
    with pytest.raises(DataError, match="at least one sample"):
        render([], tiny.SIDE, tmp_path)


def test_twins_without_lesion_and_shams_with_it(rendered: Rendered) -> None:
    assert len(rendered) == 16 and rendered.labelled.all()
    assert np.array_equal(rendered.label, [1, 1, 0] * 5 + [1])
    lesions = np.flatnonzero(rendered.mask.any((1, 2)))
    assert len(lesions) == 11 and np.array_equal(rendered.label == 1, rendered.mask.any((1, 2)))
    for i in range(16):
        image, clean, sham = (
            x[i].astype(float) for x in (rendered.image, rendered.clean, rendered.sham)
        )
        mask = rendered.mask[i]
        if i not in lesions:
            assert np.array_equal(image, clean) and np.array_equal(image, sham)
            continue
        assert image[mask].mean() > 220 and clean[mask].mean() < 180  # the blob is gone
        assert abs(sham[mask] - image[mask]).mean() < 12  # and stays in the sham
        assert abs(clean - image)[~mask].mean() < 0.05 * abs(clean - image)[mask].mean()
        assert abs(sham - image).sum() > 0  # which was repaired elsewhere


def test_scans_carry_their_mask_with_them(rendered: Rendered) -> None:
    slices, rng = Slices(rendered), np.random.default_rng(0)
    rows = [slices.scan(rng) for _ in range(160)]
    batch = scan_batch(rows, torch.Generator().manual_seed(0))
    marked = 0
    for image, mask, cell in zip(batch["image"], batch["mask"].bool(), batch["cell"], strict=True):
        assert image.shape == (tiny.SIDE, tiny.SIDE) and image.min() >= 0 and image.max() <= 1
        assert (cell is None) == (not mask.any())
        if mask.sum() > 30:
            around = torch.nn.functional.max_pool2d(mask[None].float(), 9, 1, 4)[0].bool()
            assert (
                image[mask].mean() > image[around & ~mask].mean() + 0.05
            )  # a bright draw saturates
            marked += 1
    assert 45 <= marked <= 110  # real 0.34 and sham 0.14 of two thirds, transplants 0.18 of all
    own = [r for r in rows if r["mask"].any() and not np.array_equal(r["image"], r["clean"])]
    assert len(own) > 45
    brighter = [(r["image"] - r["clean"])[r["mask"]].mean() for r in own]
    assert np.mean(np.array(brighter) > 0.15) > 0.95


def test_pairs_carry_the_change_that_their_masks_show(rendered: Rendered) -> None:
    slices, rng = Slices(rendered), np.random.default_rng(0)
    rows = [slices.pair(rng) for _ in range(200)]
    counts = {"worse": 0, "stable": 0, "better": 0}
    factors = []
    for row in rows:
        first, second = int(row["mask"].sum()), int(row["mask_followup"].sum())
        counts[row["change"]] += 1
        if row["change"] == "stable":
            # pasted twice with sub-pixel jitter of its own: the same area, nearly the same place
            assert first == second
            both = int((row["mask"] & row["mask_followup"]).sum())
            assert both >= 0.75 * first
            continue
        assert (second > first) == (row["change"] == "worse") and second != first
        if min(first, second):
            factors.append(max(first, second) / min(first, second))
    share = PAIR_KINDS["sham"] + PAIR_KINDS["absent"]
    assert counts["stable"] == pytest.approx(200 * share, abs=25)
    assert abs(counts["worse"] - counts["better"]) < 30
    assert len(factors) > 40 and min(factors) > 1.1 and max(factors) < 3.4  # committed: 1.25 to 3
    batch = pair_batch(rows[:40], torch.Generator().manual_seed(0))
    for k, change in enumerate(batch["change"]):
        growth = float(batch["mask_followup"][k].sum() - batch["mask"][k].sum())
        if change == "stable":
            assert abs(growth) <= 0.2 * float(batch["mask"][k].sum()) + 4
        else:
            assert (growth > 0) == (change == "worse") or abs(growth) < 6


def test_sources_are_drawn_by_their_shares(rendered: Rendered) -> None:
    sources = ["rare"] * 2 + ["common"] * 14
    named = [replace(s, source=x) for s, x in zip(rendered.samples, sources, strict=True)]
    slices = Slices(replace(rendered, samples=named), {"rare": 0.4})
    rng = np.random.default_rng(0)
    drawn = np.array([slices._index(rng) for _ in range(1000)])
    assert (drawn < 2).mean() == pytest.approx(0.4, abs=0.05)
    assert set(drawn) == set(range(16))


def test_the_cell_is_that_of_the_largest_region() -> None:
    mask = torch.zeros(60, 60)
    assert mask_cell(mask) is None
    mask[2:6, 50:55] = 1
    assert mask_cell(mask) == (0, 2)
    mask[25:35, 25:35] = 1
    assert mask_cell(mask) == (1, 1)
