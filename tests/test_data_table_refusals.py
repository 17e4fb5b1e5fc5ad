"""A CSV table that contradicts itself is refused before images are read, and leaves nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from test_data_table import folder, write
from typer.testing import CliRunner

from medic_ad import cli
from medic_ad.data.prepare import prepare
from medic_ad.data.sets import table
from medic_ad.errors import DataError


def test_a_row_with_too_many_cells_is_refused(tmp_path: Path) -> None:
    root = folder(tmp_path, 3)
    head = "image,question,answer\n00.png,,\n"
    with pytest.raises(DataError, match=r"row 3: expected 3 cells as in the header, got 4; put a"):
        table.samples(root, write(root, head + "01.png,Where?,Left, and below.\n"))
    found = table.samples(root, write(root, head + '01.png,Where?,"Left, below."\n02.png,,,,\n'))
    assert found[1].answer == "Left, below."  # empty cells at the end are a spreadsheet's habit


def test_two_labels_of_one_image_are_refused(tmp_path: Path) -> None:
    root = folder(tmp_path, 4)
    (root / "copy.png").write_bytes((root / "00.png").read_bytes())
    head = "image,slice,label\n00.png,,1\n01.png,,0\n02.png,,0\n"
    for again in ("00.png,,0", "copy.png,,0"):
        message = "row 5, column label: expected 1 as in row 2 of the same image .*, got 0; correct"
        with pytest.raises(DataError, match=message):
            table.samples(root, write(root, head + again))
    for again in ("00.png,,1", "copy.png,,", "03.png,,0"):
        assert len(table.samples(root, write(root, head + again))) == 4


def test_what_the_rows_say_is_checked_before_images_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(tmp_path, 3)
    monkeypatch.setattr("medic_ad.data.duplicates.fingerprint", None)
    for text, message in (
        ("image,label\n00.png,1\n00.png,0\n", "column label"),
        ("image,patient,split\n00.png,A,train\n01.png,A,val\n", "same patient"),
        ("image,sequence\n00.png,flair\n", "column sequence"),
        ("image\n00.png,x\n", "expected 1 cells"),
    ):
        with pytest.raises(DataError, match=message):
            table.samples(root, write(root, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "image,patient\n00.png,A\n./00.png,B",
            "row 3, column patient: expected A .*00.png, got B",
        ),
        ("image,date\n00.png,2020-01-01\n00.png,2021-01-01", "column date: expected 2020-01-01"),
        ("image,modality\n00.png,MR\n00.png,CT", "column modality: expected MR"),
        (
            "image,prior,change\n00.png,01.png,worse\n00.png,01.png,better",
            "row 3, column change: expected worse as in row 2 .*00.png, got better",
        ),
        (
            "image,question,answer\n00.png,Normal?,yes\n00.png,Normal?,no",
            "row 3, column answer: expected yes",
        ),
        ("image,prior\n00.png,./00.png", "another file than the image, got ./00.png"),
        (
            "image,prior,patient\n00.png,01.png,A\n01.png,,B",
            "row 2, column prior: expected an image of patient A, got 01.png",
        ),
        (
            "image,prior,date\n00.png,01.png,2019-01-01\n01.png,,2020-01-01",
            "expected an image from before 2019-01-01, got 01.png",
        ),
    ],
)
def test_rows_that_cannot_be_true_together_are_refused_before_images_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    root = folder(tmp_path, 3)
    monkeypatch.setattr("medic_ad.data.duplicates.fingerprint", None)
    with pytest.raises(DataError, match=message):
        table.samples(root, write(root, text + "\n"))


def test_rows_that_only_repeat_or_add_are_taken(tmp_path: Path) -> None:
    text = (
        "image,prior,patient,date,change,question,answer,split\n"
        "00.png,01.png,A,2020-02-01,worse,Normal?,no,test\n"
        "00.png,01.png,A,,worse,What is seen?,A mass.,test\n"
        "00.png,02.png,A,,better,What is seen?,A large mass.,test\n"
        "01.png,,A,2020-01-01,,Normal?,yes,test\n"
    )
    root = folder(tmp_path, 3)
    assert len(table.samples(root, write(root, text))) == 4


def test_a_mask_that_contradicts_its_label_is_refused(tmp_path: Path) -> None:
    root = folder(tmp_path, 2)
    shape = np.asarray(Picture.open(root / "00.png")).shape[:2]
    mask = np.zeros(shape, np.uint8)
    Picture.fromarray(mask).save(root / "empty.png")
    mask[3, 4] = 255  # one pixel is a lesion
    Picture.fromarray(mask).save(root / "lesion.png")
    csv = "image,label,mask,split\n00.png,{},{}.png,test\n01.png,1,,test\n"
    for label, name in ((0, "empty"), (1, "lesion")):
        assert len(table.samples(root, write(root, csv.format(label, name)))) == 2
    with pytest.raises(DataError, match="row 2, column mask: .*label 0.*lesion.png"):
        table.samples(root, write(root, csv.format(0, "lesion")))
    with pytest.raises(DataError, match="row 2, column mask: .*label 1.*empty.png with one value"):
        table.samples(root, write(root, csv.format(1, "empty")))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("flair", "FLAIR"),
        ("FLAIRE", "FLAIR"),
        ("Fliar", "FLAIR"),
        ("T2-FLAIR", "FLAIR"),
        ("T1CE", "T1-CE"),
        ("t1 ce", "T1-CE"),
        ("T1c", "T1-CE"),
        ("T1+C", "T1-CE"),
        ("t1", "T1"),
        ("T1w", "T1"),
    ],
)
def test_other_spellings_of_a_known_sequence_are_refused(
    tmp_path: Path, given: str, meant: str
) -> None:
    root = folder(tmp_path, 2)
    csv = write(root, f"image,split,sequence\n00.png,train,{meant}\n01.png,train,{given}\n")
    with pytest.raises(DataError) as caught:
        table.samples(root, csv)
    message = f"row 3, column sequence: expected {meant}, got {given!r}; write {meant}"
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["T2", "T2-CE", "DWI", "SWI", "T1-FLAIR", "qT1", "T1rho", "PD"])
def test_other_sequences_keep_the_name_that_they_are_given(tmp_path: Path, name: str) -> None:
    root = folder(tmp_path, 1)
    (one,) = table.samples(root, write(root, f"image,split,sequence\n00.png,train,{name}\n"))
    assert one.sequence == name


@pytest.mark.parametrize("below", [".", "new/folder"])
def test_a_refused_table_leaves_nothing(tmp_path: Path, below: str) -> None:
    root = folder(tmp_path, 4)
    (root / "02.png").write_bytes(b"no picture")
    csv = write(root, "image\n00.png\n01.png\n02.png\n03.png\n")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="row 4"):
        prepare("table", root, tmp_path / below / "mine.parquet", csv=csv)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_wrong_header_or_option_is_told_what_to_do(tmp_path: Path) -> None:
    root = folder(tmp_path, 1)
    with pytest.raises(
        DataError, match="expected columns of image, slice, .* came the column 'patint'; c"
    ):
        table.samples(root, write(root, "image,patint\n00.png,A\n"))
    with pytest.raises(DataError, match="expected a CSV file at .*gone.csv, found none; .* --csv"):
        table.samples(root, root / "gone.csv")
    with pytest.raises(DataError, match="expected --csv with the data set `table`, got none"):
        prepare("table", root, tmp_path / "x.parquet")
    with pytest.raises(DataError, match="only, got it with vqa_rad; leave it out"):
        prepare("vqa_rad", root, tmp_path / "x.parquet", csv=root / "mine.csv")


def test_dates_in_the_future_are_noted(tmp_path: Path) -> None:
    root = folder(tmp_path, 4)
    rows = [f"{i:02d}.png,{date}" for i, date in enumerate(("2024-01-05", "2180-05-06", "", ""))]
    csv = write(root, "image,date\n" + "\n".join(rows))
    words = ["data", "prepare", "table", "--csv", str(csv), "--out", str(tmp_path / "a.parquet")]
    done = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(cli.app, words)
    assert done.exit_code == 0
    assert "Note: 1 date(s) lie in the future, the first 2180-05-06 (01.png)" in done.stdout
