"""The real folders beside a checkout: what their readers find is what DATA.md and papers say."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from medic_ad.data.prepare import prepare
from medic_ad.data.registry import SETS
from medic_ad.data.sample import Sample, check_splits, read_info, read_samples
from medic_ad.data.sets import read_set
from medic_ad.data.splits import settle
from medic_ad.readers import read_image


def real(name: str, root: Path) -> list[Sample]:
    if not (root / name).is_dir():
        pytest.skip(f"{root / name} is absent; `medic-ad data list` says who publishes {name}")
    reading = read_set(name, root / name, root / "never written")
    found = settle(reading, [], 0, name)[0]
    check_splits(found)
    for one in found:
        for path in (one.image, one.prior, one.mask):
            assert path is None or (root / name / path).is_file()
    return found


def test_every_folder_of_a_known_set_can_be_read(shared_data: Path) -> None:
    known = [name for name in SETS if (shared_data / name).is_dir()]
    assert len(known) >= 12
    for name in known:
        assert real(name, shared_data)


def test_brain_tumours_and_slices_without(shared_data: Path) -> None:
    found = real("brain_tumour_cheng", shared_data)
    assert check_splits(found) == {"train": 1673, "val": 279, "test": 238}
    assert len({s.group for s in found}) > 200
    none = real("brain_no_tumour", shared_data)
    assert check_splits(none) == {"train": 0, "val": 54, "test": 82}
    paper = real("brain_mri_253", shared_data)
    assert check_splits(paper)["test"] == 159 and len({s.group for s in paper}) < 140


def test_ms(shared_data: Path) -> None:
    cross = real("ms_cross_sectional", shared_data)
    assert 0.3 < np.mean([s.label for s in cross]) < 0.8 and len(cross) > 150
    assert {(s.patient, s.split) for s in cross} == {("patient07", "train"), ("patient26", "val")}
    pairs = real("ms_longitudinal", shared_data)
    assert {s.patient for s in pairs} == {"patient01", "patient03"}


def test_hannover_series_run_forward_in_time(shared_data: Path) -> None:
    found = real("cxr_hannover", shared_data)
    assert len(found) == 200 and len({s.patient for s in found}) == 50
    assert all(check_splits(found).values()) and {s.modality for s in found} == {"CR", "DX"}
    prior = {Path(s.image).stem: s.prior and Path(s.prior).stem for s in found}
    # offsets 10, -2, -3, -11, -21 of patient 09ec853d: ten days before admission to 21 after
    series = ["a4318ac9", "bd3ceeb6", "9f3f2d91", "b6e58409", "2168a917"]
    assert [prior[name] for name in series] == [None, *series[:-1]]
    # two images of one day, and a later one
    assert prior["61bc50d1"] is None and prior["bd85e252"] is None
    assert prior["87d50e40"] in ("61bc50d1", "bd85e252")


def test_followup_pairs_carry_the_change_of_the_notes(shared_data: Path) -> None:
    found = real("cxr_followup_ieee8023", shared_data)
    counts = Counter(s.change for s in found)
    assert counts == {"worse": 16, "better": 12, "stable": 2, None: 9}
    assert check_splits(found)["test"] == 39 and len({s.patient for s in found}) == 20
    assert all(s.prior and s.prior != s.image for s in found)


def test_kermany_and_covid_ct_are_drawn_whole(shared_data: Path) -> None:
    children = real("cxr_kermany", shared_data)
    assert Counter(s.label for s in children) == {1.0: 100, 0.0: 40}
    lungs = real("covid_ct", shared_data)
    assert Counter(s.label for s in lungs) == {1.0: 179, 0.0: 199}
    assert len({s.group for s in lungs}) == 165
    for found in (children, lungs):
        counts = check_splits(found)
        assert all(0.1 < counts[split] / len(found) < 0.2 for split in ("val", "test"))
        assert {s.label for s in found if s.split == "test"} == {0.0, 1.0}


def test_names_give_the_papers_that_the_index_of_covid_ct_gives(shared_data: Path) -> None:
    """The reader of the published folders finds the groups that somebody set down by hand."""
    from medic_ad.data.sets.classes import KINDS, _part

    kind = KINDS["covid_ct"]
    for one in real("covid_ct", shared_data):
        assert _part(kind.group, Path(one.image).name) == one.group.removeprefix("covid_ct:")


def test_infection_masks_lie_on_their_slices(shared_data: Path) -> None:
    found = real("covid_ct_seg", shared_data)
    assert len(found) == 50 and {(s.split, s.label) for s in found} == {("test", 1.0)}
    for one in found[:5]:
        folder = shared_data / "covid_ct_seg"
        image, mask = (read_image(folder / str(p)).pixels for p in (one.image, one.mask))
        assert image.shape == mask.shape and (mask > 0).any()


def test_vqa_rad_is_split_by_image(shared_data: Path) -> None:
    found = real("vqa_rad", shared_data)
    assert len(found) == 3515 and len({s.image for s in found}) == 314
    homes: dict[str, set[str]] = {}
    for one in found:
        homes.setdefault(one.image, set()).add(one.split)
    assert all(len(splits) == 1 for splits in homes.values())
    assert all(0.1 < n / 3515 < 0.8 for n in check_splits(found).values())
    assert all(s.question and s.answer and math.isnan(s.label) for s in found)
    assert Counter(s.body_part for s in found) == {"CHEST": 1262, "ABDOMEN": 1157, "HEAD": 1096}


def test_head_ct_holds_two_slices_that_are_alike(shared_data: Path, tmp_path: Path) -> None:
    assert Counter(s.label for s in real("head_ct", shared_data)).total() == 119
    path = prepare("head_ct", shared_data / "head_ct", tmp_path / "head_ct.parquet")
    info, found = read_info(path), {Path(s.image).stem: s for s in read_samples(path)}
    assert info.notes[0].startswith("head_ct: 119 files compared, ")
    assert found["188"].group == found["189"].group and found["001"].group != found["003"].group
    assert not info.ship and check_splits(found.values())["test"] == 119
    assert [p.name for p in tmp_path.iterdir()] == ["head_ct.parquet"]
