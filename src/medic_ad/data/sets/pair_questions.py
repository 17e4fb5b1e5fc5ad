"""Training data: questions about two images: MIMIC-Diff-VQA, MMXU, TemMed-Bench, MedSG-Bench.

Where the layouts are documented: the page of Medical-Diff-VQA on PhysioNet and the folder `files/`
of MIMIC-CXR-JPG; the README of LinjieMu/MMXU, first version; the README and evaluation code of
Levi-ZJY/TemMed-Bench; the evaluation code of MedSG-Bench. None of the four was at hand: images need
credentials or an agreement. Not verified: the columns of mimic_all.csv other than study_id and
dicom_id, and the names and image paths of the files of MedSG-Bench.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from medic_ad.data.sample import Sample
from medic_ad.data.sets.common import first_of, inside, json_of, need, rows_of, value_of
from medic_ad.data.splits import Reading
from medic_ad.errors import DataError

_MIMIC_PATIENT = re.compile(r"(?:^|/)p(\d{8})/")
_CHEXPERT_PATIENT = re.compile(r"(?:^|/)(patient\d+)/")
_SPLITS = {"train": "train", "val": "val", "validate": "val", "test": "test"}
_DIFFERENCE = ("Registered_Diff", "Non_Registered_Diff")


def reading(root: str | Path, name: str, work: Path | None = None) -> Reading:
    """All questions about two images, one sample a question; the direction of change is not said.

    Args:
        root: folder of the set, with the images below it.
        name: mimic_diff_vqa, mmxu, temmed_bench or medsg_bench.
        work: not used.

    Raises:
        DataError: naming the first missing file, key or value that does not fit.
    """
    samples, notes = _READERS[name](Path(root), name)
    if not samples:
        raise DataError(f"{root} holds no question of {name} that can be used: check --root.")
    return Reading(samples, notes=tuple(notes))


def _sample(
    name: str,
    image: str,
    prior: str | None,
    patient: str | None,
    split: str,
    question: str,
    answer: str,
) -> Sample:
    return Sample(
        image=image,
        prior=prior,
        patient=patient,
        group=f"{name}:{patient or image}",
        split=split,
        source=name,
        modality="DX" if name != "medsg_bench" else None,
        body_part="CHEST" if name != "medsg_bench" else None,
        question=question,
        answer=answer,
    )


def _needer(root: Path, name: str) -> Callable[[str], str]:
    """A check that looks for every image once."""
    seen: set[str] = set()

    def check(image: str) -> str:
        if image not in seen:
            need(root / image, f"An image of {name}")
            seen.add(image)
        return image

    return check


def _mimic(root: Path, name: str) -> tuple[list[Sample], list[str]]:
    """The reference is the prior of questions on the difference, other questions have one image.

    A reference that `study_order` puts after the main study is no prior: left out.
    """
    studies = rows_of(root / "mimic_all.csv", ("study_id", "dicom_id"), f"The studies of {name}")
    dicom = {row["study_id"]: row["dicom_id"] for row in studies}
    order = {row["study_id"]: row.get("study_order", "") for row in studies}
    columns = ("study_id", "subject_id", "ref_id", "question_type", "question", "answer", "split")
    table = root / "mimic_pair_questions.csv"
    check = _needer(root, name)
    out, late = [], 0
    for line, row in enumerate(rows_of(table, columns, f"The questions of {name}"), start=2):
        if row["split"] not in _SPLITS:
            raise DataError(f"{table}, row {line}: split must be train, val or test.")
        for column in ("study_id", "ref_id"):
            if row[column] not in dicom:
                raise DataError(
                    f"{table}, row {line}: {column} {row[column]!r} is not in mimic_all.csv."
                )
        subject = row["subject_id"]
        paths = [
            f"files/p{subject[:2]}/p{subject}/s{row[column]}/{dicom[row[column]]}.jpg"
            for column in ("study_id", "ref_id")
        ]
        about_two = row["question_type"] == "difference"
        now, before = order[row["study_id"]], order[row["ref_id"]]
        if about_two and now and before and float(before) > float(now):
            late += 1
            continue
        prior = check(paths[1]) if about_two else None
        split = _SPLITS[row["split"]]
        text = (row["question"], row["answer"])
        if all(text):
            out.append(_sample(name, check(paths[0]), prior, subject, split, *text))
    notes = [f"{late} questions with a later reference were left out."] if late else []
    return out, notes


def _mmxu(root: Path, name: str) -> tuple[list[Sample], list[str]]:
    """The options follow the question; the answer is the text of the right one."""
    check = _needer(root, name)
    out = []
    need(root / "MMXU-test.jsonl", f"The test questions of {name}")
    for file, split in (("MMXU-dev.jsonl", "train"), ("MMXU-test.jsonl", "test")):
        if not (root / file).is_file():
            continue
        for number, row in enumerate(json_of(root / file, f"The questions of {name}")):
            where = f"{root / file}, entry {number}"
            options, key = value_of(row, "options", where), value_of(row, "answer", where)
            if not isinstance(options, dict) or key not in options:
                raise DataError(f"{where}: the answer {key!r} is none of the options.")
            image = str(value_of(row, "cur_image_path", where))
            priors = value_of(row, "prior_image_path", where)
            priors = [priors] if isinstance(priors, str) else list(priors)
            if not priors:
                raise DataError(f"{where}: prior_image_path is empty; fetch the file again.")
            asked = " ".join(f"{letter}: {text}" for letter, text in options.items())
            question = f"{value_of(row, 'question', where)} {asked}"
            found = _MIMIC_PATIENT.search(image)
            patient = found[1] if found else None
            prior = check(str(priors[-1]))
            out.append(
                _sample(name, check(image), prior, patient, split, question, str(options[key]))
            )
    return out, []


def _temmed(root: Path, name: str) -> tuple[list[Sample], list[str]]:
    """Questions answered with yes or no, all in test; images are CheXpert Plus as PNG."""
    stem = "TestSet_VQA_ReportGeneration"
    folder = inside(root, "Get_Data")
    path = first_of(folder, (f"{stem}_Final.json", f"{stem}.json"), f"The questions of {name}")
    check = _needer(root, name)
    images = inside(root, "CheXpertPlus/PNG", "PNG").relative_to(root).as_posix()
    out = []
    for number, row in enumerate(json_of(path, f"The questions of {name}")):
        where = f"{path}, entry {number}"
        image, prior = (
            f"{images}/{str(value_of(row, key, where)).replace('.jpg', '.png')}"
            for key in ("image_path", "historical_image_path")
        )
        found = _CHEXPERT_PATIENT.search(image)
        patient = found[1] if found else None
        for one in value_of(row, "VQA_Final", where):
            text = (str(value_of(one, f"VQA_{key}", where)) for key in ("question", "answer"))
            out.append(_sample(name, check(image), check(prior), patient, "test", *text))
    return out, []


def _medsg(root: Path, name: str) -> tuple[list[Sample], list[str]]:
    """The two difference tasks, all in test: first image as prior, last one as current.

    The two images are not two dates of a patient; the box is kept as the answer's text
    "(x1,y1),(x2,y2)" in pixels and is no lesion mask.
    """
    check = _needer(root, name)
    files = sorted(path for path in root.rglob("*.json"))
    if not files:
        raise DataError(f"The task files of {name} are missing: expected JSON files below {root}.")
    out, others = [], 0
    for path in files:
        for number, row in enumerate(json_of(path, f"A task of {name}")):
            where = f"{path}, entry {number}"
            if value_of(row, "task", where) not in _DIFFERENCE:
                others += 1
                continue
            box, images = value_of(row, "answer", where), value_of(row, "images", where)
            if len(box) != 4 or len(images) < 2:
                raise DataError(f"{where}: expected two images and a box of four numbers.")
            prior, image = (check(_placed(root, path, str(i))) for i in (images[0], images[-1]))
            question = str(value_of(row, "question", where)).replace("<image>", "").strip()
            answer = "({},{}),({},{})".format(*box)
            out.append(_sample(name, image, prior, None, "test", question, answer))
    notes = [f"{others} questions of the other six tasks were left out."] if others else []
    return out, notes


def _placed(root: Path, table: Path, image: str) -> str:
    """Path from the root, for paths that start at the root, at the table, or are of one machine."""
    places = [root / image.lstrip("/"), table.parent / image.lstrip("/")]
    parts = Path(image).parts
    places += [base / Path(*parts[-2:]) for base in (root, table.parent)]
    places += [table.with_suffix("") / parts[-1]]
    found = next((place for place in places if place.is_file()), places[0])
    return found.relative_to(root).as_posix()


_READERS = {
    "mimic_diff_vqa": _mimic,
    "mmxu": _mmxu,
    "temmed_bench": _temmed,
    "medsg_bench": _medsg,
}
