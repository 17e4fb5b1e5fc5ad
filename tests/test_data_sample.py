"""Samples and their tables: valid from birth, whole round trips, splits that hold."""

from __future__ import annotations

import datetime
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from medic_ad.data.registry import COMBINATIONS, SETS
from medic_ad.data.sample import (
    Sample,
    TableInfo,
    check_splits,
    read_info,
    read_samples,
    write_samples,
)
from medic_ad.errors import DataError

INFO = TableInfo(name="tiny", licence="CC0", ship=True, root="/data")


def sample(**values: Any) -> Sample:
    given: dict[str, Any] = {"image": "a.png", "group": "g", "split": "train", "source": "tiny"}
    return Sample(**(given | values))


def test_round_trip_keeps_every_field_and_nan(tmp_path: Path) -> None:
    full = sample(
        slice=7,
        prior="p.nii.gz",
        patient="P1",
        modality="MR",
        body_part="BRAIN",
        sequence="FLAIR",
        date=datetime.date(2020, 2, 29),
        label=1.0,
        mask="m.png",
        change="worse",
        question="Is there change?",
        answer="Wörse.",
    )
    bare = sample(image="b.png", group="h", split="test")
    path = write_samples([full, bare], tmp_path / "deep" / "t.parquet", INFO)
    first, second = read_samples(path)
    assert first == full
    assert math.isnan(second.label) and second.slice is None and second.date is None
    assert read_info(path) == INFO
    assert [p.name for p in path.parent.iterdir()] == ["t.parquet"]
    assert pyarrow.parquet.read_schema(path).field("date").type == pyarrow.date32()


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"image": ""}, "image"),
        ({"group": ""}, "group"),
        ({"split": "valid"}, "split"),
        ({"label": 0.5}, "label"),
        ({"slice": -1}, "slice"),
        ({"change": "bigger", "prior": "p"}, "change"),
        ({"change": "worse"}, "prior"),
        ({"question": "Why?"}, "answer"),
        ({"mask": ""}, "mask"),
        ({"date": datetime.datetime(2020, 1, 1)}, "date"),
    ],
)
def test_a_sample_refuses_what_does_not_fit(values: dict[str, Any], word: str) -> None:
    with pytest.raises(DataError, match=word):
        sample(**values)


def test_groups_and_patients_may_not_cross_splits(tmp_path: Path) -> None:
    a, b = sample(group="g1"), sample(image="b.png", group="g1", split="val")
    with pytest.raises(DataError, match="group g1.*a.png.*b.png"):
        write_samples([a, b], tmp_path / "t.parquet", INFO)
    assert not list(tmp_path.iterdir())
    one = sample(group="g1", patient="P")
    two = sample(group="g2", patient="P", split="test")
    with pytest.raises(DataError, match="patient P"):
        check_splits([one, two])
    other_source = sample(group="g2", patient="P", split="test", source="elsewhere")
    assert check_splits([one, other_source]) == {"train": 1, "val": 0, "test": 1}


def test_tables_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no samples"):
        write_samples([], tmp_path / "t.parquet", INFO)
    with pytest.raises(DataError, match="expected a Parquet table.*found no file"):
        read_samples(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("image\n")
    with pytest.raises(DataError, match="cannot be read"):
        read_info(tmp_path / "text.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"image": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="no table of samples"):
        read_samples(tmp_path / "other.parquet")


def test_the_registry_imports_nothing_heavy_and_names_real_modules() -> None:
    assert len(SETS) == 30
    code = (
        "import sys, importlib.util; from medic_ad.data.registry import SETS;"
        "print(sorted({'numpy','torch','pyarrow','skimage','nibabel'} & set(sys.modules)))"
    )
    heavy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert heavy.stdout.strip() == "[]"
    for info in SETS.values():
        __import__(info.module)
        module = sys.modules[info.module]
        assert callable(getattr(module, "reading", None) or module.samples)
    assert all(part in SETS for parts in COMBINATIONS.values() for part in parts)
    assert all(SETS[part].ship for part in COMBINATIONS["nano"])  # its weights are bundled
