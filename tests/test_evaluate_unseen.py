"""What some weights have seen of a table: by file, by patient, by near twin, by shared source."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from table_cases import table, volumes

from medic_ad.data.sample import read_info, read_samples, write_samples
from medic_ad.errors import DataError
from medic_ad.evaluate.material.unseen import without_seen


def kept(data: Path, training: Path, out: Path, split: str = "test") -> list[tuple]:
    made = without_seen(data, split, str(training), out)
    assert made == out / data.name
    return [(s.image, s.slice) for s in read_samples(made) if s.split == split]


def rewritten(data: Path, name: str, **changed: object) -> Path:
    """The same table with other values in all rows."""
    rows = [dataclasses.replace(s, **changed) for s in read_samples(data)]  # type: ignore[arg-type]
    return write_samples(rows, data.with_name(f"{name}.parquet"), read_info(data))


def test_a_slice_of_a_volume_is_seen_with_its_file_or_its_patient(tmp_path: Path) -> None:
    data = volumes(tmp_path)
    rows = read_samples(data)
    for name, file in (("file", rows[0].image), ("patient", "v0-mask.nii.gz")):
        one = dataclasses.replace(
            rows[0], image=file, split="train", slice=4, patient="p0" if name == "patient" else None
        )
        training = write_samples([one], tmp_path / f"{name}.parquet", read_info(data))
        assert {image for image, _ in kept(data, training, tmp_path / "out")} == {"v1.nii.gz"}
    assert "5 of 10 rows were left out" in read_info(tmp_path / "out" / data.name).seen


def test_other_splits_stay_and_the_prior_counts(tmp_path: Path) -> None:
    data = table(tmp_path / "a", {"train": 4, "test": 4})
    rows = read_samples(data)
    rows = [
        dataclasses.replace(s, prior="0008.png") if s.image == "0006.png" else s for s in rows
    ]  # fmt: skip
    data = write_samples(rows, data, read_info(data))
    training = rewritten(data, "training", split="val")
    only = [s for s in read_samples(training) if s.image == "0008.png"]
    write_samples(only, training, read_info(data))
    assert [image for image, _ in kept(data, training, tmp_path / "out")] == [
        "0005.png", "0007.png"
    ]  # fmt: skip
    there = read_samples(tmp_path / "out" / data.name)
    assert [s.split for s in there].count("train") == 4


def test_what_cannot_be_measured_is_refused_in_one_sentence(tmp_path: Path) -> None:
    data = table(tmp_path / "a", {"test": 4})
    for changed, words in (
        ({"split": "test"}, "expected rows of train or val"),
        ({"split": "train"}, "all 4 rows of split 'test'"),
    ):
        training = rewritten(data, "training", **changed)
        with pytest.raises(DataError, match=words):
            without_seen(data, "test", str(training), tmp_path / "out")
    brain = rewritten(data, "brain", source="brain_mri_253")
    other = table(tmp_path / "b", {"train": 2}, seed=9)
    with pytest.raises(DataError, match="brain_no_tumour and this one hold copies"):
        without_seen(
            brain, "test", str(rewritten(other, "t", source="brain_no_tumour")), tmp_path / "out"
        )
    assert not list((tmp_path / "out").glob("*.parquet"))
