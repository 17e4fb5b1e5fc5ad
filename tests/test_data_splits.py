"""Splits: published ones are mended, missing ones drawn, and nothing that belongs together torn."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medic_ad.data.duplicates import FingerprintStore, alike_files
from medic_ad.data.sample import Sample, check_splits
from medic_ad.data.splits import File, Reading, settle
from medic_ad.errors import DataError


def sample(image: str, split: str, patient: str | None = None, prior: str | None = None) -> Sample:
    return Sample(image, f"s:{image}", split, "s", prior=prior, patient=patient)


def pair(a: str, b: str) -> tuple[File, File]:
    return (a, None), (b, None)


def test_what_belongs_to_train_leaves_the_published_val_and_test() -> None:
    rows = [
        sample("a", "train", "P"),
        sample("b", "test", "P"),  # the same patient
        sample("c", "test"),  # alike a
        sample("d", "test"),  # alike c, but not a: stays
        sample("e", "val", prior="a"),  # a file of train as prior
        sample("f", "val"),  # alike d, which stays in test
        sample("g", "val"),
    ]
    alike = [pair("a", "c"), pair("c", "d"), pair("d", "f")]
    found, notes = settle(Reading(rows), alike, 0, "s")
    assert {s.image: s.split for s in found} == {"a": "train", "d": "test", "g": "val"}
    assert check_splits(found) == {"train": 1, "val": 1, "test": 1}
    assert notes == [
        "s: 2 of test and 2 of val dropped: their patient, group or (nearly) the same image lies "
        "in train or test as published."
    ]


def test_a_published_split_that_tears_nothing_stays_as_it_is() -> None:
    rows = [sample("a", "train"), sample("b", "train"), sample("c", "test"), sample("d", "test")]
    found, notes = settle(Reading(rows), [pair("a", "b")], 0, "s")
    assert [s.split for s in found] == ["train", "train", "test", "test"] and notes == []
    assert [s.group for s in found] == ["s:a", "s:a", "s:c", "s:d"]


def test_groups_are_joined_through_duplicates_patients_and_files_before_drawing() -> None:
    rows = [sample(f"{i:02d}", "test", f"P{i // 2}") for i in range(40)]
    rows.append(sample("40", "test", prior="41"))
    rows.append(sample("41", "test"))
    found, notes = settle(Reading(rows, drawn=True), [pair("00", "39"), pair("40", "10")], 5, "s")
    assert len(found) == 42 and all(check_splits(found).values())
    group = {s.image: s.group for s in found}
    assert len({group[i] for i in ("00", "01", "38", "39")}) == 1
    assert len({group[i] for i in ("10", "11", "40", "41")}) == 1
    assert len(set(group.values())) == 19 and "seed 5" in notes[0]
    assert (
        found == settle(Reading(rows, drawn=True), [pair("00", "39"), pair("40", "10")], 5, "s")[0]
    )


def test_moves_against_the_published_split_are_counted() -> None:
    rows = [sample(f"{i}", split) for i in range(30) for split in ("train", "test")]
    found, notes = settle(Reading(rows, drawn=True, published=True), [], 0, "s")
    moved = sum(a.split != b.split for a, b in zip(rows, found, strict=True))
    said = [int(n) for n in re.findall(r"(\d+) from", notes[1])]
    assert sum(said) == moved >= 30
    assert all(check_splits(found).values())


def test_complete_groups_are_kept_and_torn_pairs_counted() -> None:
    rows = [sample("a", "train"), sample("b", "test"), sample("c", "test")]
    found, notes = settle(Reading(rows, grouped=True), [pair("a", "b"), pair("b", "c")], 0, "s")
    assert found == rows
    assert notes == ["s: 1 pairs lie across splits; groups and splits are as the set gives."]


def test_too_few_groups_are_refused() -> None:
    rows = [sample("a", "test", "P"), sample("b", "test", "P"), sample("c", "test", "Q")]
    with pytest.raises(DataError, match="s has 2 independent group"):
        settle(Reading(rows, drawn=True), [], 0, "s")


def test_of_volumes_only_exact_copies_are_duplicates(tmp_path: Path) -> None:
    """Two brains in a common space are alike without being one."""
    voxels = np.zeros((24, 24, 20), np.float32)
    voxels[4:20, 4:20] = 50
    files = []
    for name, noise in (("a", 0.0), ("b", 1.0), ("copy", 0.0)):
        path = tmp_path / f"{name}.nii"
        nibabel.save(nibabel.Nifti1Image(voxels + noise * np.eye(24)[..., None], np.eye(4)), path)
        files.append((path, 10, "MR"))
    assert alike_files(files, FingerprintStore(None)) == ([(0, 2)], 1)
