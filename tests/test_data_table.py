"""A CSV table of one's own: splits by patient and duplicates, and errors with row and column."""

from __future__ import annotations

import datetime
import math
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image as Picture
from scipy import ndimage

from medic_ad.data.duplicates import Fingerprint, FingerprintStore, duplicate_pairs, fingerprint
from medic_ad.data.prepare import prepare
from medic_ad.data.sample import check_splits, read_info, read_samples
from medic_ad.data.sets import table
from medic_ad.errors import DataError


def scene(seed: int) -> np.ndarray:
    """A smooth random picture; two seeds never look alike."""
    noise = np.random.default_rng(seed).standard_normal((64, 64))
    smooth = ndimage.gaussian_filter(noise, 3)
    return np.asarray(255 * (smooth - smooth.min()) / np.ptp(smooth), np.uint8)


def folder(root: Path, n: int) -> Path:
    for i in range(n):
        Picture.fromarray(scene(i)).save(root / f"{i:02d}.png")
    return root


def write(root: Path, text: str) -> Path:
    path = root / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_splits_keep_patients_and_duplicates_together(tmp_path: Path) -> None:
    root = folder(tmp_path, 30)
    (root / "copy.png").write_bytes((root / "03.png").read_bytes())
    Picture.fromarray(scene(7)).save(root / "again.jpg", quality=60)
    Picture.fromarray(scene(9)[:, ::-1]).resize((50, 50)).save(root / "mirror.png")
    lines = ["image,patient,label"]
    lines += [f"{i:02d}.png,{f'P{i // 2}' if i < 20 else ''},{i % 2}" for i in range(30)]
    lines += ["copy.png,P20,1", "again.jpg,,1", "mirror.png,,0"]
    csv = write(root, "\n".join(lines))
    found = table.samples(root, csv, seed=1)
    assert len(found) == 33
    by_name = {s.image: s for s in found}
    for a, b in (("03.png", "copy.png"), ("07.png", "again.jpg"), ("09.png", "mirror.png")):
        assert by_name[a].group == by_name[b].group
    assert by_name["02.png"].group == by_name["copy.png"].group  # by way of the patient of 03
    assert len({s.group for s in found}) == 20  # 10 patients, 10 images without one
    counts = check_splits(found)
    assert all(counts.values()) and 20 <= counts["train"] <= 26
    for split in ("train", "val", "test"):
        labels = Counter(s.label for s in found if s.split == split)
        assert labels[0.0] and labels[1.0]
    assert found == table.samples(root, csv, seed=1)
    drawn = {tuple(s.split for s in table.samples(root, csv, seed=k)) for k in range(4)}
    assert len(drawn) == 4


def test_given_splits_hold_or_are_refused(tmp_path: Path) -> None:
    root = folder(tmp_path, 4)
    (root / "copy.png").write_bytes((root / "00.png").read_bytes())
    head = "image,patient,split\n"
    found = table.samples(root, write(root, head + "00.png,A,val\n01.png,B,train\ncopy.png,,val"))
    assert [s.split for s in found] == ["val", "train", "val"]
    with pytest.raises(DataError, match=r"row 3, column split.*row 2.*nearly the same image"):
        table.samples(root, write(root, head + "00.png,A,val\ncopy.png,B,train"))
    with pytest.raises(DataError, match=r"row 3, column split.*row 2 of the same patient"):
        table.samples(root, write(root, head + "00.png,A,val\n01.png,A,train"))
    with pytest.raises(DataError, match=r"row 3, column split: empty"):
        table.samples(root, write(root, head + "00.png,A,val\n01.png,B,"))


def registered(root: Path) -> None:
    """Volumes of three people in one space: each the same head, with little of its own."""
    noise = np.random.default_rng(0).normal(size=(3, 32, 32, 4)).astype(np.float32)
    head = np.dstack([scene(n)[::2, ::2] for n in range(4)]).astype(np.float32)
    for i in range(3):
        nibabel.save(nibabel.Nifti1Image(head + noise[i], np.eye(4)), root / f"{i}.nii")


def test_registered_volumes_of_different_patients_are_no_duplicates(tmp_path: Path) -> None:
    registered(tmp_path)
    (tmp_path / "copy.nii").write_bytes((tmp_path / "0.nii").read_bytes())
    head = "image,slice,patient,modality,split\n"

    def splits(*lines: str) -> list[str]:
        csv = write(tmp_path, head + "\n".join(lines))
        return [sample.split for sample in table.samples(tmp_path, csv)]

    lines = ["0.nii,1,A,MR,train", "1.nii,1,B,MR,val", "2.nii,1,C,MR,test"]
    assert splits(*lines) == ["train", "val", "test"]
    for last in ("copy.nii,1,D,MR,val", "1.nii,1,,MR,val", "0.nii,1,,MR,val"):
        with pytest.raises(DataError, match=r"row 3, column split.*nearly the same image"):
            splits(lines[0], last)


def test_all_columns_arrive(tmp_path: Path) -> None:
    root = folder(tmp_path, 3)
    csv = write(
        root,
        "image,prior,patient,date,label,mask,change,question,answer,split,modality,body_part,"
        "sequence\n"
        '00.png,01.png,P,2021-03-04,1,02.png,better,"Smaller, or not?",Smaller.,train,mr,'
        "brain,T1\n",
    )
    (one,) = table.samples(root, csv)
    assert (one.prior, one.mask, one.change, one.patient) == ("01.png", "02.png", "better", "P")
    assert one.date == datetime.date(2021, 3, 4) and one.label == 1.0
    assert (one.modality, one.body_part, one.sequence) == ("MR", "BRAIN", "T1")
    assert (one.question, one.answer) == ("Smaller, or not?", "Smaller.")
    (bare,) = table.samples(root, write(root, "\ufeffimage,split\n00.png,test\n"))
    assert math.isnan(bare.label) and bare.patient is None and bare.source == "table"


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("image,label", ",1", r"row 3, column image.*path"),
        ("image,label", "99.png,1", r"row 3, column image.*99.png"),
        ("image,label", "02.png,yes", r"row 3, column label.*'yes'"),
        ("image,date", "02.png,04.03.2021", r"row 3, column date.*YYYY-MM-DD"),
        ("image,prior,change", "02.png,,worse", r"row 3, column change.*prior"),
        ("image,prior,change", "02.png,03.png,growing", r"row 3, column change.*stable"),
        ("image,prior", "02.png,98.png", r"row 3, column prior.*98.png"),
        ("image,mask", "02.png,small.png", r"row 3, column mask.*\(64, 64\).*\(20, 20\)"),
        ("image,question", "02.png,Why?", r"row 3, column question.*answer"),
        ("image,split", "02.png,holdout", r"row 3, column split.*holdout"),
        ("image,slice", "02.png,x", r"row 3, column slice"),
        ("image,slice", "02.png,4", r"row 3, column image.*no slice 4"),
        ("image,label", "broken.png,1", r"row 3, column image"),
        ("image,slice,modality", "v.nii,,MR", r"row 3, column image.*volume.*slice"),
        ("image,slice", "v.nii,3", r"row 3, column image.*modality"),
        ("image,diagnosis", "02.png,x", r"column 'diagnosis'"),
        ("picture,label", "02.png,1", r"lacks the column 'image'"),
    ],
)
def test_every_error_names_row_and_column(
    tmp_path: Path, header: str, row: str, message: str
) -> None:
    root = folder(tmp_path, 4)
    Picture.fromarray(scene(0)[:20, :20]).save(root / "small.png")
    (root / "broken.png").write_bytes((root / "00.png").read_bytes()[:200])
    nibabel.save(nibabel.Nifti1Image(np.ones((20, 20, 18), np.float32), np.eye(4)), root / "v.nii")
    first = "00.png" + "," * (header.count(","))
    if header == "image,split":
        first = "00.png,train"
    with pytest.raises(DataError, match=message):
        table.samples(root, write(root, f"{header}\n{first}\n{row}\n"))


def test_tables_that_cannot_be_split_are_refused(tmp_path: Path) -> None:
    root = folder(tmp_path, 4)
    with pytest.raises(DataError, match="no rows"):
        table.samples(root, write(root, "image\n"))
    with pytest.raises(DataError, match="expected a CSV file at .*absent.csv"):
        table.samples(root, root / "absent.csv")
    with pytest.raises(DataError, match="2 independent group"):
        table.samples(root, write(root, "image,patient\n00.png,A\n01.png,A\n02.png,B\n"))
    (root / "table.csv").write_bytes(b"image\n\xff\xfe\xfa.png\n")
    with pytest.raises(DataError, match="UTF-8"):
        table.samples(root, root / "table.csv")


def test_prepare_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(tmp_path, 8)
    csv = write(root, "image\n" + "\n".join(f"{i:02d}.png" for i in range(8)))
    out = tmp_path / "mine.parquet"
    kept = tmp_path / "mine.parquet.fingerprints"

    def interrupt(path: Path, *rest: object) -> Fingerprint:
        if path.name == "07.png":
            raise KeyboardInterrupt
        return fingerprint(path, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as stopped:
        stopped.setattr("medic_ad.data.duplicates.fingerprint", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare("table", root, out, csv=csv)
    assert not out.exists() and len(kept.read_text().splitlines()) == 7
    kept.write_text(kept.read_text() + '["torn')
    assert prepare("table", root, out, csv=csv, seed=3) == out
    assert len(read_samples(out)) == 8 and not read_info(out).ship
    assert not kept.exists()


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = folder(tmp_path, 1) / "00.png"
    store = FingerprintStore(tmp_path / "store")
    first = store.get(path, None, None)
    again = FingerprintStore(tmp_path / "store").get(path, None, None)
    assert again.digest == first.digest and np.array_equal(again.thumbnail, first.thumbnail)
    Picture.fromarray(scene(50)).resize((70, 70)).save(path)
    assert store.get(path, None, None).digest != first.digest


def test_duplicates_of_a_real_set_are_found(shared_data: Path) -> None:
    """The duplicate groups that the folder's index gives, found again from the pixels."""
    from medic_ad.data.sets import brain_mri_253

    samples = brain_mri_253.samples(shared_data / "brain_mri_253")
    prints = [fingerprint(shared_data / "brain_mri_253" / s.image, None, None) for s in samples]
    found = set(duplicate_pairs(prints))
    true = {
        (i, j)
        for j, b in enumerate(samples)
        for i, a in enumerate(samples[:j])
        if a.group == b.group
    }
    assert len(true) >= 40
    assert len(found & true) >= 0.97 * len(true)
    assert len(found - true) <= 2
