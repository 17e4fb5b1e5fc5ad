"""A Study refuses what does not belong together, and says what it could not verify."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image as Pillow
from pydicom.data import get_testdata_file
from pydicom.uid import CTImageStorage
from sentence import said

from medic_ad.errors import StudyError
from medic_ad.readers import read_image
from medic_ad.study import CLOCK_SLACK, Study, read_study


def scan(folder: Path, date: str | None, **change: Any) -> Path:
    """A real MR slice of a given date, with some of its header changed."""
    path = get_testdata_file("MR_small.dcm")
    assert isinstance(path, str)
    ds = pydicom.dcmread(path)
    ds.PatientID, ds.StudyDate, ds.BodyPartExamined = "P1", date or "", "HEAD"
    for keyword, value in change.items():
        setattr(ds, keyword, value)
    name = "_".join(["scan", str(date), *map(str, change.values())])
    ds.save_as(folder / f"{name}.dcm")
    return folder / f"{name}.dcm"


def picture(folder: Path, name: str, seed: int = 0) -> Path:
    grey = np.random.default_rng(seed).integers(0, 256, (32, 32), dtype=np.uint8)
    Pillow.fromarray(grey).save(folder / name)
    return folder / name


def test_single_study_says_what_its_file_says(tmp_path: Path) -> None:
    study = read_study(scan(tmp_path, "20240105"))
    assert study.patient_id == "P1" and study.date == datetime.date(2024, 1, 5)
    assert study.identity_verified and study.priors == () and study.notes == ()


def test_priors_are_sorted_by_date_and_verified(tmp_path: Path) -> None:
    late, early, now = (scan(tmp_path, d) for d in ("20230501", "20220501", "20240105"))
    study = read_study(now, prior=[late, early])
    assert [str(p.date) for p in study.priors] == ["2022-05-01", "2023-05-01"]
    assert study.identity_verified and study.notes == ()
    assert all(prior.priors == () for prior in study.priors)


def test_unknown_identity_keeps_the_order_given_and_says_so(tmp_path: Path) -> None:
    paths = [picture(tmp_path, f"{n}.png", n) for n in range(3)]
    study = read_study(
        paths[0], prior=paths[1:], modality="MR", body_part="brain", date="2024-03-01"
    )
    assert [p.image.source.path for p in study.priors] == [str(p) for p in paths[1:]]
    assert not study.identity_verified and study.patient_id is None
    assert study.date == datetime.date(2024, 3, 1)
    assert study.notes == ("identity and dates not verified: the order given holds",)
    assert {p.image.body_part for p in (study, *study.priors)} == {"BRAIN"}


def test_dates_given_for_the_priors_order_them(tmp_path: Path) -> None:
    paths = [picture(tmp_path, f"{n}.png", n) for n in range(3)]
    study = read_study(
        paths[0], paths[1:], "MR", date="2024-03-01", prior_dates=["2023-05-01", "2022-05-01"]
    )
    assert [Path(p.image.source.path).name for p in study.priors] == ["2.png", "1.png"]
    assert [str(p.date) for p in study.priors] == ["2022-05-01", "2023-05-01"]
    assert study.notes == ("identity and dates not verified: the order of the dates holds",)
    one = read_study(paths[0], paths[1], "MR", prior_dates=datetime.date(2020, 2, 2))
    assert one.date is None and one.priors[0].date == datetime.date(2020, 2, 2)
    some = read_study(paths[0], paths[1:], "MR", prior_dates=[None, "2022-05-01"])
    assert [p.date for p in some.priors] == [None, datetime.date(2022, 5, 1)]


def test_dates_of_priors_that_cannot_be(tmp_path: Path) -> None:
    now, old = scan(tmp_path, "20240105"), scan(tmp_path, "20230101")
    assert read_study(now, old, prior_dates="2023-01-01").identity_verified
    wrongs: list[tuple[Path, Any, str, str]] = [
        (old, ["2023-01-02"], "the study date 2023-01-02 as given", "leave --prior-date out or"),
        (old, ["2023-01-01"] * 2, "one date for each prior", "give --prior-date once for each"),
        (scan(tmp_path, None), ["2024-02-01"], "dated on or before the current", "exchange"),
        (scan(tmp_path, None), ["2999-01-01"], "not in the future", "or leave --prior-date out"),
        (scan(tmp_path, None), ["May"], "a date such as", "write year-month-day"),
    ]
    for prior, days, expected, remedy in wrongs:
        with pytest.raises(StudyError) as caught:
            read_study(now, prior, prior_dates=days)
        parts = said(caught)
        assert expected in parts[0] and remedy in parts[2]
    with pytest.raises(StudyError, match="came 1 for 0"):
        read_study(now, prior_dates="2023-01-01")


def test_too_many_priors_are_refused_before_any_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        read_study(tmp_path / "gone.png", [tmp_path / "gone.png"] * 20)
    assert said(caught) == ("at most 19 priors", "20", "leave some out")


def test_one_unknown_date_is_enough_to_be_unverified(tmp_path: Path) -> None:
    study = read_study(scan(tmp_path, "20240105"), prior=scan(tmp_path, None))
    assert not study.identity_verified and study.patient_id == "P1"
    assert read_study(scan(tmp_path, "20240105")).identity_verified


def test_a_date_that_was_typed_verifies_nothing(tmp_path: Path) -> None:
    typed = read_study(scan(tmp_path, None), date="2024-01-05")
    assert typed.date == datetime.date(2024, 1, 5) and not typed.identity_verified
    pair = read_study(
        scan(tmp_path, "20240105"), prior=scan(tmp_path, None), prior_dates="2023-01-01"
    )
    assert not pair.identity_verified
    assert "identity and dates not verified: the order of the dates holds" in pair.notes


def test_a_date_before_the_birth_that_the_file_states_is_refused(tmp_path: Path) -> None:
    path = scan(tmp_path, None, PatientBirthDate="19550102")
    assert read_study(path, date="1955-01-02").date == datetime.date(1955, 1, 2)
    wrongs: dict[str, dict[str, Any]] = {
        "--date": {"date": "1955-01-01"},
        "--prior-date": {"prior": path, "prior_dates": "1955-01-01"},
    }
    for option, wrong in wrongs.items():
        with pytest.raises(StudyError) as caught:
            read_study(path, **wrong)
        assert said(caught) == (
            "a study date on or after the birth date in the file",
            "1955-01-01",
            f"correct {option} or give the right file",
        )


@pytest.mark.parametrize("days", [None, ["2020-01-01", "2021-01-01"]])
def test_one_file_as_two_priors_is_refused(tmp_path: Path, days: list[str] | None) -> None:
    now, first = picture(tmp_path, "now.png"), picture(tmp_path, "first.png", 1)
    copy = tmp_path / "copy.png"
    copy.write_bytes(first.read_bytes())
    for again in (first, copy):
        with pytest.raises(StudyError) as caught:
            read_study(now, prior=[first, again], prior_dates=days, date="2022-01-01")
        assert said(caught) == (
            "priors of different dates",
            f"the same file as {first}",
            "give each prior once",
        )


def test_priors_may_come_from_a_glob_or_an_array(tmp_path: Path) -> None:
    now = picture(tmp_path, "now.png")
    paths = [picture(tmp_path, f"prior{n}.png", 1 + n) for n in range(2)]
    for priors in (tmp_path.glob("prior*.png"), np.array([str(p) for p in paths])):
        study = read_study(now, prior=priors, prior_dates=(f"202{n}-01-01" for n in range(2)))
        assert sorted(p.image.source.path for p in study.priors) == [str(p) for p in paths]
        assert [p.date and p.date.year for p in study.priors] == [2020, 2021]
    alone = read_study(now, prior=paths[0], prior_dates=datetime.date(2020, 1, 1))
    assert len(alone.priors) == 1


def test_same_day_and_same_file_are_noted_where_the_patient_is_unknown(tmp_path: Path) -> None:
    path = scan(tmp_path, "20240105", PatientID="")
    study = read_study(path, prior=path)
    assert study.patient_id is None and not study.identity_verified
    assert any("same file" in note for note in study.notes)
    assert any("carries the date of the current study" in note for note in study.notes)


def test_two_studies_of_one_patient_and_date_are_refused(tmp_path: Path) -> None:
    files = [scan(tmp_path, d) for d in ("20240105", "20230101", "20240105", "20230101")]
    for current, priors in ((files[0], [files[2]]), (files[0], [files[1], files[3]])):
        with pytest.raises(StudyError, match="date"):
            read_study(current, prior=priors)


def test_what_one_date_does_not_say_is_noted(tmp_path: Path) -> None:
    study = read_study(scan(tmp_path, "20240105"), prior=picture(tmp_path, "a.png"))
    assert "modality known for one date only: taken as the same" in study.notes


@pytest.mark.parametrize(
    ("change", "expected", "came"),
    [
        ({"PatientID": "P2"}, "the same patient", "another patient id"),
        (
            {"Modality": "CT", "SOPClassUID": CTImageStorage},
            "the same modality as the current study (MR)",
            "CT",
        ),
        ({"BodyPartExamined": "CHEST"}, "the same body part as the current study (HEAD)", "CHEST"),
        (
            {"StudyDate": "20240106"},
            "dated on or before the current study (2024-01-05)",
            "2024-01-06",
        ),
    ],
)
def test_prior_that_does_not_fit(
    tmp_path: Path, change: dict[str, str], expected: str, came: str
) -> None:
    prior = scan(tmp_path, "20230101", **change)
    with pytest.raises(StudyError) as caught:
        read_study(scan(tmp_path, "20240105"), prior=prior)
    parts = said(caught)
    assert str(caught.value).startswith(f"{prior}: ")
    assert parts[0].startswith("a prior ") and expected in parts[0]
    assert parts[1] == came
    assert parts[2].startswith(("give a prior of", "exchange the two files"))


def test_message_on_another_patient_names_no_patient(tmp_path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        read_study(scan(tmp_path, "20240105"), prior=scan(tmp_path, "20230101", PatientID="ZZ9"))
    assert "P1" not in said(caught)[0] + said(caught)[1] and "ZZ9" not in said(caught)[1]


@pytest.mark.parametrize(
    ("now", "before", "word"),
    [
        ({"PatientBirthDate": "19700101"}, {"PatientBirthDate": "19550101"}, "birth date"),
        ({"PatientSex": "F"}, {"PatientSex": "M"}, "sex"),
    ],
)
@pytest.mark.parametrize("patient", ["P1", ""])
def test_a_prior_of_another_birth_date_or_sex_is_another_patients(
    tmp_path: Path, now: dict[str, str], before: dict[str, str], word: str, patient: str
) -> None:
    current = scan(tmp_path, "20240105", **now)
    with pytest.raises(StudyError) as caught:
        read_study(current, prior=scan(tmp_path, "20230101", PatientID=patient, **before))
    assert said(caught)[:2] == (
        "a prior of the same patient as the current study",
        f"another {word}",
    )
    assert "1955" not in said(caught)[1]
    unsaid = dict.fromkeys(before, "")
    assert read_study(current, prior=scan(tmp_path, "20230101", **unsaid)).identity_verified


def test_another_name_is_a_note_and_another_way_to_write_it_is_none(tmp_path: Path) -> None:
    current = scan(tmp_path, "20240105", PatientName="Doe^Jane^^Dr")
    for name, count in (("JANE DOE, Dr", 0), ("", 0), ("Roe^Jane", 1)):
        study = read_study(current, prior=scan(tmp_path, "20230101", PatientName=name))
        notes = [note for note in study.notes if "another patient name" in note]
        assert study.identity_verified and len(notes) == count
        assert not any("Roe" in note for note in study.notes)


@pytest.mark.parametrize(("shape", "count"), [((64, 64), 0), ((33, 32), 0), ((32, 48), 1)])
def test_a_picture_of_other_proportions_may_be_stretched(
    tmp_path: Path, shape: tuple[int, int], count: int
) -> None:
    old = tmp_path / "old.png"
    with Pillow.open(picture(tmp_path, "a.png")) as grey:
        grey.resize(shape[::-1]).save(old)
    notes = read_study(tmp_path / "a.png", prior=old, modality="MR").notes
    assert sum("stretched" in note for note in notes) == count
    if count:
        assert "(48 x 32 pixels) than the current (32 x 32)" in " ".join(notes)


def test_dates_that_contradict_each_other_in_one_file_are_noted(tmp_path: Path) -> None:
    near = {"SeriesDate": "20240103", "AcquisitionDate": "20240108"}
    assert read_study(scan(tmp_path, "20240105", **near)).notes == ()
    far = scan(tmp_path, "20240105", SeriesDate="20190101", AcquisitionDate="20240105")
    (note,) = read_study(far).notes
    assert "study date 2024-01-05 by SeriesDate 2019-01-01: the former holds" in note
    assert [n for n in read_study(scan(tmp_path, "20250105"), prior=far).notes if n == note]


def test_a_study_date_that_is_none_is_noted(tmp_path: Path) -> None:
    study = read_study(scan(tmp_path, "20221399"))
    assert study.date is None
    assert study.notes == ("the study date in the file, '20221399', is no date: taken as unknown",)


@pytest.mark.parametrize("option", ["modality", "body_part"])
def test_an_empty_option_is_refused(tmp_path: Path, option: str) -> None:
    with pytest.raises(StudyError, match="expected a .* such as .* came "):
        read_study(picture(tmp_path, "a.png"), **{option: " "})


def test_other_side_and_synonyms(tmp_path: Path) -> None:
    left = scan(tmp_path, "20240105", Laterality="L")
    with pytest.raises(StudyError) as caught:
        read_study(left, prior=scan(tmp_path, "20230101", Laterality="R"))
    assert said(caught)[:2] == ("a prior of the same side as the current study (L)", "R")
    brain = scan(tmp_path, "20230101", BodyPartExamined="BRAIN")
    assert read_study(scan(tmp_path, "20240105"), prior=brain).identity_verified


def test_image_with_volume_is_refused(tmp_path: Path) -> None:
    volume = tmp_path / "v.nii"
    nibabel.save(nibabel.Nifti1Image(np.ones((20, 20, 20), np.int16), np.eye(4)), volume)
    with pytest.raises(StudyError) as caught:
        read_study(picture(tmp_path, "a.png"), prior=volume, modality="MR")
    assert said(caught)[:2] == ("a 2-D prior for a 2-D current study", "a 3-D one")


def test_date_that_contradicts_the_file_or_is_none(tmp_path: Path) -> None:
    path = scan(tmp_path, "20240105")
    assert read_study(path, date=datetime.date(2024, 1, 5)).date == datetime.date(2024, 1, 5)
    with pytest.raises(StudyError) as caught:
        read_study(path, date="2024-01-06")
    assert said(caught)[:2] == ("the study date 2024-01-06 as given", "2024-01-05 in the file")
    with pytest.raises(StudyError) as caught:
        read_study(path, date="5 January")
    assert said(caught)[1:] == ("'5 January'", "write year-month-day")


def test_a_future_date_is_refused_when_given_and_noted_when_a_file_says_it(tmp_path: Path) -> None:
    today = datetime.date.today()
    path = picture(tmp_path, "a.png")
    assert read_study(path, date=today.isoformat()).date == today
    for date in ("2999-01-01", today + 2 * CLOCK_SLACK):
        with pytest.raises(StudyError) as caught:
            read_study(path, date=date)
        assert said(caught) == (
            "a date that is not in the future",
            str(date),
            "correct the date, or leave --date out",
        )
    # de-identified sets shift dates ahead; their order still holds
    shifted = read_study(scan(tmp_path, "21800506"), scan(tmp_path, "21790101"))
    assert shifted.identity_verified
    assert [note[:45] for note in shifted.notes] == [
        "the study date 2179-01-01 lies in the future:",
        "the study date 2180-05-06 lies in the future:",
    ]


def test_study_is_valid_from_birth(tmp_path: Path) -> None:
    image = read_image(picture(tmp_path, "a.png"))
    old, new = (Study(image, date=datetime.date(year, 1, 1)) for year in (2020, 2021))
    now = datetime.date(2022, 1, 1)
    assert Study(image, date=now, priors=(old, new)).priors == (old, new)
    wrongs: list[dict[str, Any]] = [
        {"priors": (new, old), "date": now},
        {"priors": (Study(image, date=now, priors=(old,)),)},
        {"identity_verified": True},
    ]
    for wrong in wrongs:
        with pytest.raises(StudyError) as caught:
            Study(image, **wrong)
        said(caught)
