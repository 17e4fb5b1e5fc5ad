"""Published layouts that are not on this machine: read from small made copies."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import published_cases as cases
import pytest
from PIL import Image as Picture

from medic_ad.data.prepare import prepare
from medic_ad.data.sample import Sample, check_splits, read_info, read_samples
from medic_ad.data.sets import read_set
from medic_ad.data.splits import settle
from medic_ad.errors import DataError
from medic_ad.readers import read_image


def read(name: str, root: Path) -> list[Sample]:
    """Samples as a set gives them, without looking for duplicates."""
    found = settle(read_set(name, root, root.parent / "work"), [], 0, name)[0]
    for one in found:
        assert one.source == name and (root / one.image).is_file()
        assert one.mask is None or (root / one.mask).is_file()
        assert one.prior is None or (root / one.prior).is_file()
    check_splits(found)
    return found


@pytest.mark.parametrize(
    ("name", "masks", "folder", "way", "val"),
    [
        ("bmad_brats2021", True, "Brain", "{split}/{label}/{role}", "valid"),
        ("bmad_liver", True, "Liver/Train/hist_DIY", "{split}/{role}/{label}", "valid"),
        ("bmad_resc", True, "RESC", "{split}/{label}/{role}", "Val/val"),
        ("bmad_oct2017", False, "OCT2017", "", "val"),
        ("bmad_rsna", False, ".", "", "valid"),
        ("bmad_camelyon16", False, "camelyon16_256", "", "valid"),
    ],
)
def test_bmad(tmp_path: Path, name: str, masks: bool, folder: str, way: str, val: str) -> None:
    cases.bmad(tmp_path / folder, masks, way, val)
    found = read(name, tmp_path)
    assert check_splits(found) == {"train": 6, "val": 4, "test": 4}
    assert Counter((s.split, s.label) for s in found)["val", 1.0] == 2
    assert all(s.label == 0.0 for s in found if s.split == "train")
    assert all((s.mask is not None) == (masks and s.label == 1.0) for s in found)
    if name == "bmad_brats2021":
        assert found[0].patient == "00000"
        (tmp_path / str(found[-1].mask)).unlink()
        with pytest.raises(DataError, match=rf"mask of {Path(found[-1].image).name}"):
            read(name, tmp_path)


def test_bmad_names_the_first_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"folder train of bmad_rsna.*train"):
        read("bmad_rsna", tmp_path)
    root = cases.bmad(tmp_path / "RSNA", False)
    for path in (root / "valid/Ungood").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="valid/Ungood of bmad_rsna.*no PNG"):
        read("bmad_rsna", tmp_path)
    (root / "valid/Ungood").rmdir()
    with pytest.raises(DataError, match="valid/Ungood of bmad_rsna is missing"):
        read("bmad_rsna", tmp_path)


def test_chestx_det_draws_its_polygons_once(tmp_path: Path) -> None:
    root = cases.chestx_det(tmp_path / "set")
    found = read("chestx_det", root)
    assert [(s.split, s.label, s.patient) for s in found] == [
        ("train", 1.0, "00000042"),
        ("train", 0.0, "00000042"),
        ("test", 1.0, None),
    ]
    assert found[1].mask is None
    mask = read_image(str(found[0].mask)).pixels
    truth = np.zeros((32, 32), bool)
    truth[6:14, 4:12] = True
    assert np.array_equal(mask > 0, truth)
    written = Path(str(found[0].mask)).stat().st_mtime_ns
    read("chestx_det", root)
    assert Path(str(found[0].mask)).stat().st_mtime_ns == written
    (root / "test_data/36199.png").unlink()
    with pytest.raises(DataError, match=r"image of chestx_det \(test\).*36199.png"):
        read("chestx_det", root)
    (root / "ChestX_Det_test.json").write_text('[{"file_name": "a.png"}]')
    with pytest.raises(DataError, match="entry 0.*'syms'"):
        read("chestx_det", root)


@pytest.mark.parametrize(
    ("name", "folders", "abnormal", "n"),
    [
        ("brain_mri_253", ("yes", "no"), "yes", 8),
        ("br35h", ("yes", "no", "pred"), "yes", 8),
        (
            "covid19_radiography",
            tuple(
                f"COVID-19_Radiography_Dataset/{kind}/{part}"
                for kind in ("COVID", "Lung_Opacity", "Viral Pneumonia", "Normal")
                for part in ("images", "masks")
            ),
            "OVID/|Opacity|Viral",
            16,
        ),
    ],
)
def test_one_folder_a_class(
    tmp_path: Path, name: str, folders: tuple[str, ...], abnormal: str, n: int
) -> None:
    found = read(name, cases.classes(tmp_path / "set", *folders))
    assert check_splits(found) == {"train": 0, "val": 0, "test": n}
    for one in found:
        words = abnormal.split("|")
        assert one.label == float(any(word in one.image for word in words)), one.image
        assert "masks" not in one.image and "pred" not in one.image
    with pytest.raises(
        DataError, match=f"folder {Path(folders[0]).parts[-1] if n == 8 else 'COVID'} of"
    ):
        read(name, cases.classes(tmp_path / "half", *folders[1:2]))


def test_kermany_drops_the_person_that_lies_in_both_splits(tmp_path: Path) -> None:
    found = read("cxr_kermany", cases.kermany(tmp_path))
    assert check_splits(found) == {"train": 4, "val": 0, "test": 2}
    assert {s.patient for s in found} == {
        "IM-0115",
        "NORMAL2-IM-0927",
        "person7",
        "IM-0001",
        "person8",
    }
    assert {s.label for s in found if s.split == "test"} == {0.0, 1.0}


def test_covid_ct_keeps_papers_and_published_lists(tmp_path: Path) -> None:
    found = read("covid_ct", cases.covid_ct(tmp_path))
    assert check_splits(found) == {"train": 3, "val": 2, "test": 2}  # one figure of train's paper
    groups = {s.group.split(":")[1] for s in found}
    assert groups == {
        "2020.02.11.20022053",
        "PIIS0140673620301549",
        "kjr-21-e24-g001-l-a",
        "25",
        "63",
        "1502",
    }
    (tmp_path / "Data-split/COVID/valCT_COVID.txt").unlink()
    with pytest.raises(DataError, match="valCT_COVID.txt"):
        read("covid_ct", tmp_path)


def test_head_ct_takes_labels_with_the_blank_in_the_header(tmp_path: Path) -> None:
    make = cases.Maker(tmp_path)
    for i in range(4):
        make.picture(f"head_ct/head_ct/{i:03d}.png")
    make.text("labels.csv", "id, hemorrhage\n0,1\n1,1\n2,0\n3,0\n")
    found = read("head_ct", tmp_path)
    assert [(s.image, s.label) for s in found][1:3] == [
        ("head_ct/head_ct/001.png", 1.0),
        ("head_ct/head_ct/002.png", 0.0),
    ]
    make.text("labels.csv", "id, hemorrhage\n0,1\n9,0\n")
    with pytest.raises(DataError, match="Image 9 of head_ct.*009.png"):
        read("head_ct", tmp_path)
    make.text("labels.csv", "id, hemorrhage\n0,yes\n")
    with pytest.raises(DataError, match="row 2.*'yes'"):
        read("head_ct", tmp_path)


def test_cheng_mat_files_are_turned_upright_and_split_by_patient(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed (extra `train`)")
    root, work = tmp_path / "set", tmp_path / "work"
    image = np.arange(32 * 24).reshape(32, 24).astype(np.int16) + 400
    mask = np.zeros((32, 24), np.uint8)
    mask[5:9, 3:6] = 1
    for n in range(1, 9):
        path = root / f"brainTumorDataPublic_1766/{n}.mat"
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            data = file.create_group("cjdata")
            data["label"] = np.array([[1.0 + n % 3]])
            data["PID"] = np.array([[ord(c)] for c in f"1002{n // 2}"], np.uint16)
            data["image"], data["tumorMask"] = (image + n).T, mask.T  # MATLAB stores columns first
    (root / "cvind.mat").write_bytes(b"folds")
    reading = read_set("brain_tumour_cheng", root, work)
    assert "8 of the 3064" in reading.notes[0] and reading.drawn
    found = settle(reading, [], 0, "cheng")[0]
    assert len(found) == 8 and len({s.patient for s in found}) == 5
    assert check_splits(found)["train"] >= 3
    assert np.array_equal(read_image(found[0].image).pixels, image + 1)
    assert np.array_equal(read_image(str(found[0].mask)).pixels > 0, mask > 0)
    (root / "brainTumorDataPublic_1766/4.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(DataError, match="4.mat is no MATLAB 7.3"):
        read_set("brain_tumour_cheng", root, work)
    (root / "brainTumorDataPublic_1766/3.mat").unlink()
    with pytest.raises(DataError, match="Slice 3 .*3.mat"):
        read_set("brain_tumour_cheng", root, work)


def test_cheng_png_copies_stay_together_by_blocks(tmp_path: Path) -> None:
    make = cases.Maker(tmp_path)
    for n in (1, 60, 61, 130):
        make.picture(f"images/{n}.png")
        make.picture(f"masks/{n}.png")
    found = read("brain_tumour_cheng", tmp_path)
    assert [len({s.group for s in found}), len(found)] == [3, 4]
    (tmp_path / "masks/61.png").unlink()
    with pytest.raises(DataError, match="mask of slice 61"):
        read("brain_tumour_cheng", tmp_path)


def test_covid_chestxray_orders_days_and_leaves_side_views_out(tmp_path: Path) -> None:
    root = cases.chestxray(tmp_path)
    found = {Path(s.image).name: s for s in read("covid_chestxray", root)}
    assert set(found) == {"a.jpg", "b.jpg", "c.jpg", "d.jpg"}
    assert found["b.jpg"].prior == "images/a.jpg" and found["a.jpg"].prior is None
    assert (found["a.jpg"].label, found["c.jpg"].label) == (1.0, 0.0)
    assert math.isnan(found["d.jpg"].label)
    assert "2 images" in read_set("covid_chestxray", root, tmp_path).notes[0]


def test_prepare_reports_duplicates_and_resumes(tmp_path: Path) -> None:
    root = cases.classes(tmp_path / "br35h", "yes", "no", n=6)
    (root / "yes/again.png").write_bytes((root / "no/2.png").read_bytes())
    Picture.open(root / "no/3.png").transpose(Picture.Transpose.FLIP_LEFT_RIGHT).save(
        root / "no/mirror.jpg", quality=95
    )
    kept = root / "yes/5.png"
    good = kept.read_bytes()
    kept.write_bytes(b"torn")
    out = tmp_path / "out/br35h.parquet"
    with pytest.raises(DataError, match="5.png"):
        prepare("br35h", tmp_path, out)
    store = out.with_name("br35h.parquet.fingerprints")
    assert not out.exists() and len(store.read_text().splitlines()) == 5
    kept.write_bytes(good)
    assert prepare("br35h", tmp_path, out) == out and not store.exists()
    assert read_info(out).notes == (
        "br35h: 14 files compared, 1 exact and 1 near pairs.",
        "br35h: 14 samples in 12 groups.",
    )
    found = {Path(s.image).name: s.group for s in read_samples(out) if "/no/" in s.image}
    assert found["mirror.jpg"] == found["3.png"] != found["2.png"]
    prepare("br35h", tmp_path, out, duplicates=False)
    assert "not looked for" in read_info(out).notes[0]


QUESTIONS: dict[str, Callable[[Path], Path]] = {
    "slake": cases.slake,
    "pathvqa": cases.pathvqa,
    "mimic_diff_vqa": cases.mimic,
    "mmxu": cases.mmxu,
    "temmed_bench": cases.temmed,
    "medsg_bench": cases.medsg,
}
EXPECTED: dict[str, tuple[tuple[int, int, int], str, str, str | None]] = {
    # train, val and test; question, answer and patient of the first sample
    "slake": ((1, 1, 1), "Which modality?", "MRI", None),
    "pathvqa": ((2, 2, 2), "What?", "neutrophils", None),
    "mimic_diff_vqa": ((2, 0, 1), "what has changed?", "more edema", "10000032"),
    "mmxu": (
        (1, 0, 1),
        "How did the left lung change? A: Improved B: Worse",
        "Worse",
        "10000032",
    ),
    "temmed_bench": ((0, 0, 2), "Worse 0?", "Yes", "patient00005"),
    "medsg_bench": ((0, 0, 1), "Where do they differ?", "(3,4),(9,8)", None),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_questions(tmp_path: Path, name: str) -> None:
    root = QUESTIONS[name](tmp_path / "set")
    found = read(name, root)
    counts, question, answer, patient = EXPECTED[name]
    first = found[0]
    assert tuple(check_splits(found).values()) == counts
    assert (first.question, first.answer, first.patient) == (question, answer, patient)
    assert all(math.isnan(s.label) and s.change is None for s in found)
    assert (first.prior is not None) == (name not in ("slake", "pathvqa"))
    (root / first.image).unlink()
    with pytest.raises(DataError, match=f"image of {name}.*{Path(first.image).name}"):
        read(name, root)
    with pytest.raises(DataError, match="missing"):
        read(name, tmp_path)


def test_questions_say_what_they_hold(tmp_path: Path) -> None:
    found = read("slake", cases.slake(tmp_path / "slake"))
    assert (found[0].modality, found[0].body_part) == ("MR", "BRAIN")
    found = read("mimic_diff_vqa", cases.mimic(tmp_path / "mimic"))
    assert found[0].prior == "files/p10/p10000032/s50414267/aa.jpg"
    assert found[1].prior is None and found[1].answer == "PA"  # asked about one image
    notes = read_set("mimic_diff_vqa", tmp_path / "mimic", tmp_path).notes
    assert notes == ("1 questions with a later reference were left out.",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pickle of plain lists.*Path"):
        read("pathvqa", cases.pathvqa(tmp_path, content=[tmp_path]))
