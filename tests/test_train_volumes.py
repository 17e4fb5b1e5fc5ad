"""Pairs of slices made of whole volumes: what is said of their change is what their pixels show."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import tiny
import torch
from head_cases import AFFINE, head

from medic_ad.data.longitudinal import Fate, Longitudinal
from medic_ad.data.sample import Sample, TableInfo, write_samples
from medic_ad.errors import DataError
from medic_ad.train import compare, volume_pairs
from medic_ad.train.draw import pair_batch
from medic_ad.train.run import split
from medic_ad.train.volume_pairs import VolumePairs, render_volume_pairs, signs

SIDE = 96


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slices of one head without lesion, as FLAIR."""
    folder = tmp_path_factory.mktemp("volumes")
    file = nibabel.Nifti1Image(head(), np.diag([-1.0, -1.0, 1.0, 1.0]) @ AFFINE)
    file.header.set_xyzt_units("mm")
    nibabel.save(file, folder / "head.nii")
    samples = [
        Sample(image="head.nii", group="h", split="train", source="mine", slice=i, label=0.0,
               modality="MR", body_part="BRAIN", sequence="FLAIR")
        for i in (20, 30)
    ]  # fmt: skip
    info = TableInfo(name="table", licence="yours", ship=False, root=folder.as_posix())
    return write_samples(samples, folder / "table.parquet", info)


@pytest.fixture(scope="module")
def made(table: Path) -> VolumePairs:
    return render_volume_pairs(split(str(table), "train"), SIDE, 4, table.parent / "cache")


def test_a_volume_is_prepared_once_and_kept(table: Path, made: VolumePairs) -> None:
    [kept] = (table.parent / "cache").glob("*[!k]")  # but the lock beside it
    before = kept.stat().st_mtime_ns
    again = render_volume_pairs(split(str(table), "train"), SIDE, 4, table.parent / "cache")
    assert kept.stat().st_mtime_ns == before and len(again) == len(made) > 40
    np.testing.assert_array_equal(again.image, made.image)


def test_where_the_masks_differ_the_pixels_do(made: VolumePairs) -> None:
    """A drawn lesion is brighter than its surroundings: what came is brighter, what went darker."""
    rng = np.random.default_rng(0)
    seen: Counter[str] = Counter()
    brighter: dict[str, list[float]] = {"worse": [], "better": []}
    for _ in range(400):
        row = made.pair(rng)
        came = row["mask_followup"] & ~row["mask"]
        went = row["mask"] & ~row["mask_followup"]
        seen[row["change"]] += 1
        if row["change"] == "stable":
            assert not came.any() and not went.any()
            continue
        changed, other = (came, went) if row["change"] == "worse" else (went, came)
        assert not other.any()
        if changed.sum() >= 12:
            rest = (row["image"] > 0.2) & ~changed
            way = row["followup"] - row["image"]
            brighter[row["change"]].append(float(way[changed].mean() - way[rest].mean()))
    assert set(seen) == {"worse", "stable", "better"} and min(seen.values()) > 80
    for change, sign in (("worse", 1), ("better", -1)):
        ways = sign * np.array(brighter[change])
        assert len(ways) > 20 and (ways > 0).mean() > 0.9 and np.median(ways) > 0.05


def test_stable_pairs_hold_lesions_too(made: VolumePairs) -> None:
    stable = made.change == "stable"
    with_lesion = made.mask[stable].any((1, 2))
    assert with_lesion.any() and not with_lesion.all()


def test_the_sign_of_a_lesion_is_that_of_its_volume() -> None:
    labels = [np.zeros((4, 8, 8), np.int32) for _ in range(2)]
    for number, sizes in {1: (4, 8), 2: (8, 4), 3: (8, 8), 4: (0, 4), 5: (4, 0)}.items():
        for label, size in zip(labels, sizes, strict=True):
            label[:, number, :size] = number
    fates = tuple(
        Fate(kind, before, after)
        for kind, before, after in (
            ("enlarged", (1,), (1,)),
            ("reduced", (2,), (2,)),
            ("stable", (3,), (3,)),
            ("new", (), (4,)),
            ("resolved", (5,), ()),
        )
    )
    empty = np.zeros((4, 8, 8), np.float32)
    study = Longitudinal((empty, empty), (labels[0], labels[1]), (fates,), (1.0, 1.0, 1.0))
    assert signs(study) == {1: 1, 2: -1, 3: 0, 4: 1, 5: -1}


def test_compare_draws_from_them(table: Path, made: VolumePairs, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    batch = pair_batch([made.pair(rng) for _ in range(3)], torch.Generator().manual_seed(0))
    assert batch["known"] == [True] * 3 and batch["sequence"] == ["FLAIR"] * 3
    tiny.network().save_pretrained(tmp_path / "detect")
    tiny.processor().save_pretrained(tmp_path / "detect")
    out = compare.main(
        compare.CompareArguments(
            data=str(table), model=str(tmp_path / "detect"), out=str(tmp_path / "out"), volumes=1,
            cache=str(tmp_path / "cache"), steps=2, batch=4, workers=0, bf16=False,
        )
    )  # fmt: skip
    assert (out / "compare.run.json").is_file()


def test_a_table_of_pictures_makes_no_studies(tmp_path: Path) -> None:
    picture = Sample(image="a.png", group="g", split="train", source="mine", label=0.0)
    with pytest.raises(DataError, match="slices of volumes"):
        render_volume_pairs([picture], SIDE, 1, tmp_path)


def test_studies_that_registration_refuses_altogether_are_one_sentence(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = SimpleNamespace(ok=False)
    monkeypatch.setattr(volume_pairs, "align", lambda *images: refused)  # workers are forks
    samples = split(str(table), "train")
    with pytest.raises(DataError, match="registration refused all 2 of 1 volumes; leave --volumes"):
        volume_pairs.render_volume_pairs(samples, 64, 2, tmp_path)
    assert not list(tmp_path.glob("*[!k]"))  # nothing but the lock
