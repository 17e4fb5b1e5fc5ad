"""De-identification: one data set cleaned by the profile, every action written down."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from pydicom.uid import UID
from pydicom.valuerep import PersonName

from medic_ad import __version__
from medic_ad.deidentify.person import Person
from medic_ad.deidentify.profile import DUMMY, EMPTY, KEEP, MAP, REMOVE, SHIFT, action_of

REPEATS = "emptied, as it repeated an identifier"
_IDENTIFIERS = ("PatientID", "OtherPatientIDs", "AccessionNumber", "InstitutionName",
                "InstitutionAddress", "PatientAddress", "PatientTelephoneNumbers")  # fmt: skip
_DUMMIES = {"AS": "000Y", "TM": "000000", "DS": "0", "IS": "0", "UR": "http://removed.invalid"}
_NUMBERS = ("FD", "FL", "SL", "SS", "SV", "UL", "US", "UV")
_BYTES = ("OB", "OD", "OF", "OL", "OV", "OW")
_WORDS = ("AE", "CS", "LO", "PN", "SH")


@dataclass(frozen=True)
class Action:
    """What was done to one attribute; never what it held.

    Attributes:
        tag: such as `(0010,0010)`, within sequences with those above it before a `/`.
        keyword: of the dictionary, empty where there is none.
        done: `removed`, `emptied`, `replaced`, `mapped`, `shifted` or a sentence.
    """

    tag: str
    keyword: str
    done: str


def scrub(dataset: Dataset, person: Person, codes_of: tuple = ()) -> list[Action]:
    """Clean a data set in place, its file meta information and preamble too.

    Args:
        dataset: of a file, pixel data included.
        person: who its patient becomes.
        codes_of: codes of further options that were carried out (PS3.16 CID 7050).
    """
    identifiers = set(_identifiers(dataset))
    actions = list(_scrub(dataset, person, ""))
    actions += _repeats(dataset, identifiers, "")
    dataset.PatientName = dataset.PatientID = person.name
    _declare(dataset, codes_of)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    dataset.file_meta, dataset.preamble = meta, b"\0" * 128
    return [*actions, Action("(0002,xxxx)", "", "file meta information and preamble made anew")]


def _scrub(
    dataset: Dataset, person: Person, above: str, all_text: bool = False
) -> Iterator[Action]:
    for element in list(dataset):
        action, name = action_of(element), f"{above}{element.tag}"
        if all_text and action == KEEP and element.VR not in ("SQ", "UI"):
            action = DUMMY
        if element.VR == "SQ" and action in (KEEP, DUMMY, MAP):
            for number, item in enumerate(element.value):
                yield from _scrub(item, person, f"{name}[{number}]/", all_text or action == DUMMY)
            continue
        done = _apply(dataset, element, action, person)
        if done:
            yield Action(name, element.keyword, done)


def _apply(dataset: Dataset, element: DataElement, action: str, person: Person) -> str:
    if action == SHIFT:
        shifted = [person.date(str(value)) for value in _values(element)]
        if None in shifted:
            action = EMPTY
        else:
            element.value = shifted[0] if len(shifted) == 1 else shifted
            return SHIFT if shifted else ""
    if action == MAP:
        olds = [str(value) for value in _values(element)]
        news = [old if UID(old).name != old else person.uid(old) for old in olds]  # registered ones
        element.value = news[0] if len(news) == 1 else news
        return MAP if olds != news else ""
    if action == REMOVE:
        del dataset[element.tag]
    elif action == EMPTY and not element.is_empty:
        element.value = Sequence() if element.VR == "SQ" else None
    elif action == DUMMY and not element.is_empty:
        element.value = _dummy(element)
    else:
        return ""
    return action


def _values(element: DataElement) -> list:
    if element.is_empty:
        return []
    return list(element.value) if isinstance(element.value, MultiValue) else [element.value]


def _dummy(element: DataElement) -> object:
    if element.VR in _NUMBERS:
        return 0
    if element.VR in _BYTES:
        return b"\0\0"
    return _DUMMIES.get(element.VR, "REMOVED")


def _identifiers(dataset: Dataset) -> Iterator[str]:
    """Names, ids and addresses of a data set, to be found where they do not belong."""
    for element in dataset.iterall():
        if element.VR == "PN":
            for name in _values(element):
                parts = str(PersonName(name)).replace("=", "^").split("^")
                yield from (w for part in parts for w in re.split(r"\W+", part) if len(w) >= 3)
        elif element.keyword in _IDENTIFIERS:
            yield from (str(v).strip() for v in _values(element) if len(str(v).strip()) >= 4)


def _repeats(dataset: Dataset, identifiers: set[str], above: str) -> Iterator[Action]:
    if not identifiers:
        return
    pattern = re.compile(
        rf"(?<![^\W_])(?:{'|'.join(map(re.escape, sorted(identifiers, key=len, reverse=True)))})"
        r"(?![^\W_])",
        re.IGNORECASE,
    )
    for element in list(dataset):
        if element.VR == "SQ":
            for number, item in enumerate(element.value):
                yield from _repeats(item, identifiers, f"{above}{element.tag}[{number}]/")
            continue
        words = _values(element) if element.VR in _WORDS and element.keyword != "Modality" else []
        if any(pattern.search(str(word)) for word in words):
            element.value = None
            yield Action(f"{above}{element.tag}", element.keyword, REPEATS)


def _declare(dataset: Dataset, further: tuple) -> None:
    """Say what was done, as PS3.15 E.1.1 asks."""
    dataset.PatientIdentityRemoved = "YES"
    dataset.LongitudinalTemporalInformationModified = "MODIFIED"
    dataset.DeidentificationMethod = f"medic-ad {__version__}, PS3.15 2026c"
    items = []
    for code in (
        codes.DCM.BasicApplicationConfidentialityProfile,
        codes.DCM.RetainLongitudinalTemporalInformationModifiedDatesOption,
        *further,
    ):
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator = code.value, code.scheme_designator
        item.CodeMeaning = code.meaning
        items.append(item)
    dataset.DeidentificationMethodCodeSequence = items
