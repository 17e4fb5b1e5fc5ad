"""Readers of the published layouts: tiny faithful copies, and the real folders where present."""

from __future__ import annotations

import math
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image as Picture

from medic_ad.data.prepare import describe, prepare
from medic_ad.data.sample import check_splits, read_info, read_samples
from medic_ad.data.sets import (
    brain_mri_253,
    brain_no_tumour,
    brain_tumour_cheng,
    mni152,
    ms_cross_sectional,
    ms_longitudinal,
)
from medic_ad.errors import DataError
from medic_ad.readers import read_image

GRID = (24, 28, 20)  # x, y, z as NIfTI stores them


def picture(path: Path, value: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(np.full((32, 32), value, np.uint8)).save(path)


def nifti(path: Path, voxels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.0, 1.0, 1.0, 1.0])), path)


def head() -> np.ndarray:
    """A ball of brain: slices 2 to 17 along z, the outermost too small to count."""
    x, y, z = np.mgrid[: GRID[0], : GRID[1], : GRID[2]]
    ball = (x - 12) ** 2 / 100 + (y - 14) ** 2 / 144 + (z - 9.5) ** 2 / 64 <= 1
    return np.asarray(ball * 100, np.float32)


def cheng(root: Path) -> Path:
    lines = ["image,mask,number,label,split"]
    numbers = [(n, "glioma", "train") for n in range(1, 26)]
    numbers += [(n, "glioma", "val") for n in range(36, 42)]
    numbers += [(n, "meningioma", "train") for n in (26, 27, 60, 62)]
    numbers += [(n, "pituitary", "test") for n in (80, 81)]
    for n, kind, split in numbers:
        picture(root / f"images/{n:04d}.jpg")
        picture(root / f"masks/{n:04d}.png")
        lines.append(f"images/{n:04d}.jpg,masks/{n:04d}.png,{n},{kind},{split}")
    (root / "index.csv").write_text("\n".join(lines) + "\n")
    return root


def ms(root: Path, *patients: str) -> Path:
    for name in patients:
        lesions = np.zeros(GRID, np.uint8)
        lesions[11:13, 6:9, 8] = 1
        nifti(root / name / "FLAIR_MNI.nii.gz", head())
        nifti(root / name / "lesions_MNI.nii.gz", lesions)
    return root


def test_cheng_clusters_neighbours_within_one_class_and_split(tmp_path: Path) -> None:
    found = brain_tumour_cheng.samples(cheng(tmp_path))
    assert len(found) == 37
    assert check_splits(found) == {"train": 29, "val": 6, "test": 2}
    members: dict[str, int] = {}
    for one in found:
        members[one.group.split(":", 1)[1]] = members.get(one.group.split(":", 1)[1], 0) + 1
    assert members == {
        "glioma:0001": 10,
        "glioma:0011": 10,
        "glioma:0021": 5,
        "glioma:0036": 6,
        "meningioma:0026": 2,
        "meningioma:0060": 2,
        "pituitary:0080": 2,
    }
    assert all(s.label == 1.0 and s.mask and s.sequence == "T1-CE" for s in found)


def test_cheng_names_the_first_missing_thing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="index.csv"):
        brain_tumour_cheng.samples(tmp_path)
    root = cheng(tmp_path)
    (root / "masks/0011.png").unlink()
    with pytest.raises(DataError, match="mask of slice 11 .*0011.png"):
        brain_tumour_cheng.samples(root)
    (root / "index.csv").write_text("image,mask,number,label\n")
    with pytest.raises(DataError, match="'split'"):
        brain_tumour_cheng.samples(root)
    (root / "index.csv").write_text("image,mask,number,label,split\na,b,x,glioma,train\n")
    with pytest.raises(DataError, match="row 2"):
        brain_tumour_cheng.samples(root)


def test_ms_lists_slices_with_brain_and_labels_them_by_the_mask(tmp_path: Path) -> None:
    root = ms(tmp_path, "patient07", "patient26")
    found = ms_cross_sectional.samples(root)
    assert {(s.patient, s.split) for s in found} == {("patient07", "train"), ("patient26", "val")}
    mine = [s for s in found if s.patient == "patient07"]
    brain = read_image(root / mine[0].image, modality="MR").pixels > 50
    areas = brain.sum((1, 2))
    assert [s.slice for s in mine] == np.flatnonzero(areas > 0.15 * areas.max()).tolist()
    assert 0 < len(mine) < GRID[2] - 2
    lesions = read_image(root / str(mine[0].mask), modality="MR").pixels
    assert [s.slice for s in mine if s.label == 1.0] == [8]
    assert lesions[8].sum() == 6 and lesions.sum() == 6
    assert len({s.group for s in found}) == 2


def test_ms_refuses_partial_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folder of ms_cross_sectional"):
        ms_cross_sectional.samples(tmp_path / "absent")
    with pytest.raises(DataError, match="patientNN"):
        ms_cross_sectional.samples(tmp_path)
    root = ms(tmp_path, "patient07")
    nifti(root / "patient07/lesions_MNI.nii.gz", np.zeros((24, 28, 21), np.uint8))
    with pytest.raises(DataError, match="grid"):
        ms_cross_sectional.samples(root)
    (root / "patient07/lesions_MNI.nii.gz").unlink()
    with pytest.raises(DataError, match="mask of patient07.*lesions_MNI"):
        ms_cross_sectional.samples(root)


def test_ms_validation_patient_can_be_chosen(tmp_path: Path) -> None:
    root = ms(tmp_path / "ms_cross_sectional", "patient07", "patient26", "patient30")
    split = {s.patient: s.split for s in ms_cross_sectional.samples(root, "patient07")}
    assert split == {"patient07": "val", "patient26": "train", "patient30": "train"}
    with pytest.raises(DataError, match="no patient 'patient7'.*patient07, patient26"):
        ms_cross_sectional.samples(root, "patient7")
    path = prepare("ms_cross_sectional", tmp_path, tmp_path / "out", validation="patient30")
    assert {s.patient for s in read_samples(path) if s.split == "val"} == {"patient30"}
    assert "3 files compared" in read_info(path).notes[0]  # a slice of each of three volumes
    with pytest.raises(DataError, match="leave --validation out"):
        prepare("mni152", tmp_path, tmp_path, validation="patient07")


@pytest.mark.parametrize("prefix", ["{}_", ""])
def test_ms_layouts_of_the_publisher(tmp_path: Path, prefix: str) -> None:
    """README of the two archives: names with the patient in front; open copies without it."""
    lesions = np.zeros(GRID, np.uint8)
    lesions[11:13, 6:9, 8] = 1
    one, two = tmp_path / "one/patient03", tmp_path / "two/patient3"
    reg = "reg" if prefix else ""
    head_with_neck = head() + 30  # not skull-stripped: the brain mask says where the brain is
    for folder, names in (
        (one, {"FLAIR": head_with_neck, "consensus_gt": lesions}),
        (two, {f"study{n}_FLAIR{reg}": head_with_neck for n in (1, 2)} | {"gt": lesions}),
    ):
        for name, voxels in {**names, "brainmask": (head() > 0).astype(np.uint8)}.items():
            nifti(folder / f"{prefix.format(folder.name)}{name}.nii.gz", voxels)
    cross, pairs = ms_cross_sectional.samples(one.parent), ms_longitudinal.samples(two.parent)
    assert len(cross) == len(pairs) == 14 and sum(s.label for s in cross) == 1
    assert "study1" in str(pairs[0].prior) and "study2" in pairs[0].image
    (one / f"{prefix.format('patient03')}brainmask.nii.gz").unlink()
    with pytest.raises(DataError, match="brain mask of patient03 is missing"):
        ms_cross_sectional.samples(one.parent)


def test_longitudinal_pairs_know_no_direction(tmp_path: Path) -> None:
    for name in ("study1_FLAIR_common", "study2_FLAIR_common", "gt", "brainmask"):
        nifti(tmp_path / f"patient01/{name}.nii.gz", (head() > 0).astype(np.int16))
    found = ms_longitudinal.samples(tmp_path)
    assert len(found) == 14
    for one in found:
        assert math.isnan(one.label) and one.change is None and one.split == "test"
        assert one.prior and "study1" in one.prior and "study2" in one.image
    (tmp_path / "patient01/gt.nii.gz").unlink()
    with pytest.raises(DataError, match="gt.nii.gz"):
        ms_longitudinal.samples(tmp_path)


def test_evaluation_sets_never_train(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.jpg")
    index = tmp_path / "index.csv"
    index.write_text("image,group,split\nimages/a.jpg,5,val\n")
    (found,) = brain_no_tumour.samples(tmp_path)
    assert (found.label, found.split, found.group) == (0.0, "val", "brain_no_tumour:5")
    index.write_text("image,group,split\nimages/a.jpg,5,train\n")
    with pytest.raises(DataError, match="evaluation"):
        brain_no_tumour.samples(tmp_path)
    index.write_text(
        "image,label,mask,duplicate_group\nimages/a.jpg,0,,3\nimages/a.jpg,1,images/a.jpg,3\n"
    )
    one, two = brain_mri_253.samples(tmp_path)
    assert one.mask is None and one.group == two.group and two.label == 1.0
    assert {one.split, two.split} == {"test"}
    index.write_text("image,label,mask,duplicate_group\nimages/a.jpg,yes,,3\n")
    with pytest.raises(DataError, match="row 2.*'yes'"):
        brain_mri_253.samples(tmp_path)


def test_a_mask_of_another_size_than_its_image_is_left_out(tmp_path: Path) -> None:
    for name, side in (("a", 32), ("b", 32), ("small", 24)):
        Picture.new("L", (side, 32)).save(tmp_path / f"{name}.png")
    (tmp_path / "index.csv").write_text(
        "image,label,mask,duplicate_group\na.png,1,b.png,1\nb.png,1,small.png,2\n"
    )
    found = brain_mri_253.reading(tmp_path)
    assert [s.mask for s in found.samples] == ["b.png", None]
    assert found.notes == ("1 masks of another size than their image left out: small.png.",)


def test_mni152_is_one_patient_in_train() -> None:
    pytest.importorskip("nilearn", reason="nilearn is not installed (extra `demo`)")
    found = mni152.samples()
    assert len(found) == 132
    assert {(s.split, s.label, s.group) for s in found} == {("train", 0.0, "mni152")}
    pixels = read_image(found[0].image, modality="MR").pixels
    assert all(s.slice is not None and s.slice < len(pixels) for s in found)


def test_prepare_writes_one_table_with_paths_from_the_root(tmp_path: Path) -> None:
    cheng(tmp_path / "data/brain_tumour_cheng")
    above = prepare("brain_tumour_cheng", tmp_path / "data", tmp_path / "out")
    inside = prepare("brain_tumour_cheng", tmp_path / "data/brain_tumour_cheng", tmp_path / "b")
    assert above == tmp_path / "out/brain_tumour_cheng.parquet"
    for path in (above, inside):
        info, found = read_info(path), read_samples(path)
        assert info.name == "brain_tumour_cheng" and info.ship and "CC BY" in info.licence
        assert len(found) == 37
        assert all((Path(info.root) / s.image).is_file() for s in found)
        assert all((Path(info.root) / str(s.mask)).is_file() for s in found)
    assert read_samples(above)[0].image.startswith("brain_tumour_cheng/images/")


def test_prepare_nano_joins_what_may_be_shipped(tmp_path: Path) -> None:
    pytest.importorskip("nilearn", reason="nilearn is not installed (extra `demo`)")
    cheng(tmp_path / "brain_tumour_cheng")
    ms(tmp_path / "ms_cross_sectional", "patient07", "patient26")
    path = prepare("nano", tmp_path, tmp_path / "nano.parquet")
    rows = {(source, split): n for source, split, n, _, _ in describe(read_samples(path))}
    assert set(rows) == {
        ("brain_tumour_cheng", "train"),
        ("brain_tumour_cheng", "val"),
        ("brain_tumour_cheng", "test"),
        ("ms_cross_sectional", "train"),
        ("ms_cross_sectional", "val"),
        ("mni152", "train"),
    }
    info = read_info(path)
    assert info.ship and info.licence.count(";") == 2
    assert all((Path(info.root) / s.image).is_file() for s in read_samples(path))


def test_prepare_refuses(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data set 'brats'.*brain_tumour_cheng.*nano"):
        prepare("brats", tmp_path, tmp_path)
    with pytest.raises(DataError, match="folder .*absent"):
        prepare("nano", tmp_path / "absent", tmp_path)
    with pytest.raises(DataError, match="CSV"):
        prepare("table", tmp_path, tmp_path)
    with pytest.raises(DataError, match="--csv with the data set `table` only"):
        prepare("nano", tmp_path, tmp_path, csv=tmp_path / "t.csv")
    with pytest.raises(DataError, match="index of brain_tumour_cheng"):
        prepare("nano", tmp_path, tmp_path)
    assert not list(tmp_path.iterdir())
