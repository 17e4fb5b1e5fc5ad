"""Training data: questions about one image: VQA-RAD, SLAKE, PathVQA; one sample a question.

VQA-RAD's own file (on OSF) tells the split by `phrase_type`; a public copy has it as two files,
which were at hand. SLAKE's page documents its JSON files; PathVQA's archive is used as its
repository's code reads it. SLAKE and PathVQA were not at hand: their readers saw made folders.
Whether an image is abnormal, and where, is not said by these sets: SLAKE's masks show organs too.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medic_ad.data.sample import SPLITS, Sample
from medic_ad.data.sets.common import first_of, inside, json_of, need, value_of
from medic_ad.data.splits import Reading
from medic_ad.errors import DataError

_ORGANS = {"HEAD": "HEAD", "CHEST": "CHEST", "ABD": "ABDOMEN"}
_MODALITIES = {"CT": "CT", "MRI": "MR", "X-RAY": "DX"}
_PLACES = {
    "brain": "BRAIN",
    "brain_tissue": "BRAIN",
    "brain_face": "HEAD",
    "neck": "NECK",
    "lung": "CHEST",
    "chest_lung": "CHEST",
    "chest_heart": "CHEST",
    "chest_mediastinal": "CHEST",
    "abdomen": "ABDOMEN",
    "pelvic cavity": "PELVIS",
}


@dataclass(frozen=True)
class _Row:
    image: Path
    split: str
    question: str
    answer: str
    modality: str | None = None
    body_part: str | None = None


def reading(root: str | Path, name: str, work: Path | None = None) -> Reading:
    """All questions with their image, grouped by image.

    Args:
        root: folder of the set.
        name: vqa_rad, slake or pathvqa.
        work: not used.

    Raises:
        DataError: naming the first missing file, key or value that does not fit.
    """
    root = Path(root)
    out, foreign, bare = [], 0, 0
    seen: set[Path] = set()
    for row in _READERS[name](root):
        if row is None:
            foreign += 1
            continue
        if row.image not in seen:
            need(row.image, f"An image of {name}")
            seen.add(row.image)
        if not (row.question and row.answer):
            bare += 1
            continue
        image = row.image.relative_to(root).as_posix()
        out.append(
            Sample(
                image=image,
                group=f"{name}:{image}",
                split=row.split,
                source=name,
                modality=row.modality,
                body_part=row.body_part,
                question=row.question,
                answer=row.answer,
            )
        )
    notes = []
    if foreign:
        notes.append(f"{foreign} questions in other languages than English were left out.")
    if bare:
        notes.append(f"{bare} questions without text or answer were left out.")
    by_question = name == "vqa_rad"  # its published split puts every test image into train too
    return Reading(out, drawn=by_question, published=by_question, notes=tuple(notes))


def _text(row: Any, key: str, where: str) -> str:
    """A value as text; some answers are numbers."""
    value = value_of(row, key, where)
    return "" if value is None else str(value).strip()


def _vqa_rad(root: Path) -> Iterator[_Row | None]:
    public = root / "VQA_RAD Dataset Public.json"
    parts: list[tuple[str, Path]] = [("train", root / "trainset.json")]
    parts.append(("test", root / "testset.json"))
    if public.is_file():
        parts = [("", public)]
    folder = inside(root, "images", "VQA_RAD Image Folder")
    for given, path in parts:
        for number, row in enumerate(json_of(path, f"The {given or 'public'} file of vqa_rad")):
            where = f"{path}, entry {number}"
            split = given
            if not split:
                phrase = _text(row, "phrase_type", where)
                split = "test" if phrase.startswith("test") else "train"
            yield _Row(
                folder / _text(row, "image_name", where),
                split,
                _text(row, "question", where),
                _text(row, "answer", where),
                body_part=_ORGANS.get(_text(row, "image_organ", where)),
            )


def _slake(root: Path) -> Iterator[_Row | None]:
    base = inside(root, "Slake1.0", "Slake")
    for split, names in zip(
        SPLITS, (("train.json",), ("validate.json", "validation.json"), ("test.json",)), strict=True
    ):
        path = first_of(base, names, f"The {split} questions of slake")
        for number, row in enumerate(json_of(path, "The questions of slake")):
            where = f"{path}, entry {number}"
            if _text(row, "q_lang", where) != "en":
                yield None
                continue
            yield _Row(
                base / "imgs" / _text(row, "img_name", where),
                split,
                _text(row, "question", where),
                _text(row, "answer", where),
                _MODALITIES.get(_text(row, "modality", where).upper()),
                _PLACES.get(_text(row, "location", where).lower()),
            )


def _pathvqa(root: Path) -> Iterator[_Row | None]:
    base = inside(root, "pvqa")
    for split in SPLITS:
        path = need(base / f"qas/{split}/{split}_qa.pkl", "The questions of pathvqa")
        for number, row in enumerate(_plain_pickle(path)):
            where = f"{path}, entry {number}"
            yield _Row(
                base / f"images/{split}/{_text(row, 'image', where)}.jpg",
                split,
                _text(row, "question", where),
                _text(row, "answer", where),
            )


_READERS = {"vqa_rad": _vqa_rad, "slake": _slake, "pathvqa": _pathvqa}


class _Plain(pickle.Unpickler):
    """Reads lists, dicts, texts and numbers; a pickle could otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it holds {module}.{name}")


def _plain_pickle(path: Path) -> list[Any]:
    try:
        with path.open("rb") as file:
            content = _Plain(file).load()
    except (pickle.UnpicklingError, EOFError, ValueError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} is no pickle of plain lists and texts ({error}): fetch it again."
        ) from error
    if not isinstance(content, list):
        raise DataError(f"{path}: expected a list, came {type(content).__name__}.")
    return content
